# SPDX-License-Identifier: Apache-2.0
"""What a core is doing, in gdb: its peers, transfers, landing and staging slots, from a live process or a core file.

    gdb -p PID -x kvwire/gdb.py -batch -ex 'thread apply all kvw'
    gdb PROGRAM core -x kvwire/gdb.py
    (gdb) kvw                  the core of the innermost frame that has a kvw_core or kvw_node pointer
    (gdb) kvw EXPRESSION       of that pointer

Reads memory and calls nothing, so it changes nothing. It needs debug information (-g), and a frame or expression of that type.
"""
import gdb

LIST_MAX = 10000  # members of one list: a damaged one ends here
HOLDERS = ("kvw_core", "kvw_node")


def member(link, kind, field):
    """The struct `kind` whose list member `field` lies at link."""
    struct = gdb.lookup_type("struct " + kind)
    offset = next(f.bitpos // 8 for f in struct.fields() if f.name == field)
    return (link.cast(gdb.lookup_type("char").pointer()) - offset).cast(struct.pointer())


def each(head, kind, field):
    at, left = head["next"], LIST_MAX
    while at != head.address:
        yield member(at, kind, field)
        at, left = at["next"], left - 1
        if left == 0:
            print("  ... a list without an end")
            return


def word(value, prefix):
    """An enumerator in small letters, without its prefix."""
    return str(value)[len(prefix):].lower() if str(value).startswith(prefix) else str(value)


def named(value, enum, prefix):
    """The same of a number that is kept in fewer bits than its enum."""
    return word(value.cast(gdb.lookup_type("enum " + enum)), prefix)


def text(value):
    return value.string(errors="replace") if value.type.code == gdb.TYPE_CODE_ARRAY or value else ""


def key(value):
    return "".join("%02x" % int(value["bytes"][i]) for i in range(16))


def number(value):
    return int(value)


def show_links(core):
    for link in each(core["newcomers"], "kvw_link", "in"):
        print("  newcomer: connection %d of path %d, %s" % (link["conn"]["value"], link["path"], word(link["state"], "KVW_LINK_")))


def show_peer(peer):
    link, name = peer["link"], text(peer["hello"]["name"])
    if link:
        state = "up, connection %d" % link["conn"]["value"]
    elif peer["dialing"]:
        state = word(peer["dialing"]["state"], "KVW_LINK_")
    else:
        state = "down"
    print("  peer %d %s: %s; instance %#x%s" % (peer["id"], name or "?", state, number(peer["instance"]),
                                               ", at " + text(peer["address"]) if peer["has_address"] else ""))
    credit, lent = peer["credit"], peer["lent"]
    print("    may put %d more, %d queued, %d flying; holds %d slots of ours, %d landed; %d flows in, %d out" %
          (credit["limit"] - credit["next"], peer["queued"], peer["flying"], lent["granted"], lent["landed"],
           peer["receiver_flows"], peer["sender_flows"]))
    if text(peer["why"]):
        print("    last failure: " + text(peer["why"]))


def show_flow(flow):
    print("    flow %d with peer %d: %s, %d chunks, %d raw bytes left%s" %
          (flow["epoch"], flow["peer"]["id"], word(flow["state"], "KVW_FLOW_"), flow["chunks"], flow["left"],
           ", committed" if flow["committed"] else ""))


def show_transfer(transfer):
    print("  %s %s: %s, %d tokens, %d chunks, %d raw bytes as %d%s" %
          ("offer" if transfer["receiver"] else "stream", key(transfer["key"]), word(transfer["state"], "KVW_TRANSFER_"),
           transfer["tokens"], transfer["chunks"], transfer["raw_bytes"], transfer["wire_bytes"],
           ": " + text(transfer["text"]) if number(transfer["err"]) != 0 else ""))
    for flow in each(transfer["flows"], "kvw_flow", "of_transfer"):
        show_flow(flow)


def show_slots(slots):
    print("landing slots: %d of %d bytes, %d free, %d landed" % (slots["count"], slots["slot_bytes"], slots["free_count"],
                                                               slots["landed_count"]))
    for i in range(number(slots["count"])):
        slot = slots["slots"][i]
        if number(slot["state"]) != 0:
            print("  %d: %s, put %d of peer %s" % (i, named(slot["state"], "kvw_landing_state", "KVW_LANDING_"), slot["seq"],
                                                  slot["peer"]["id"] if slot["peer"] else "?"))


def show_stages(stages):
    print("staging slots: %d of %d bytes, %d free" % (stages["count"], stages["slot_bytes"], stages["free_count"]))
    for i in range(number(stages["count"])):
        stage = stages["stages"][i]
        if number(stage["state"]) == 0:
            continue
        line = "  %d: %s, %d raw bytes as %d" % (i, named(stage["state"], "kvw_staging_state", "KVW_STAGING_"), stage["raw_bytes"],
                                                stage["bytes"])
        if stage["batch"]:
            print(line + ", of a batch")
            continue
        print("%s, flow %s, layer %d, part %d, rows %d + %d, entries %d + %d" %
              (line, stage["flow"]["epoch"] if stage["flow"] else "that ended", stage["layer"], stage["part"], stage["row_first"],
               stage["rows"], stage["entry_first"], stage["entries"]))


def show(core):
    print("core %#x of instance %#x, at %.6f s%s" % (number(core.address), number(core["instance"]), number(core["now_ns"]) / 1e9,
                                                  ", held up: its events wait to be taken" if core["held_up"] else ""))
    print("peers: %d, %d up" % (core["peer_count"], core["peers_up"]))
    for peer in each(core["peers"], "kvw_peer", "all"):
        show_peer(peer)
    show_links(core)
    print("transfers: %d; %d offers wait for a stream" % (core["transfer_count"], core["waiting_count"]))
    for transfer in each(core["transfers"], "kvw_transfer", "all"):
        show_transfer(transfer)
    for flow in each(core["waiting"], "kvw_flow", "of_transfer"):
        print("  an offer of %s without a stream:" % key(flow["key"]))
        show_flow(flow)
    show_slots(core["slots"])
    show_stages(core["stages"])


def holder(value):
    """kvw_core or kvw_node, if value is a pointer to one."""
    kind = value.type.strip_typedefs()
    if kind.code != gdb.TYPE_CODE_PTR:
        return None
    name = kind.target().unqualified().strip_typedefs().name
    name = name[len("struct "):] if name and name.startswith("struct ") else name
    return name if name in HOLDERS else None


def in_frames():
    try:
        frame = gdb.selected_frame()
    except gdb.error:
        raise gdb.GdbError("no process and no core file: there is nothing to look at")
    while frame is not None and frame.is_valid():
        try:
            block = frame.block()
        except RuntimeError:  # no symbols
            block = None
        while block is not None and not block.is_global:
            for symbol in block:
                if symbol.is_variable or symbol.is_argument:
                    value = symbol.value(frame) if symbol.needs_frame else symbol.value()
                    if not value.is_optimized_out and holder(value) and number(value) != 0:
                        return value
            if block.function is not None:
                break
            block = block.superblock
        frame = frame.older()
    return None


class Kvw(gdb.Command):
    """kvw [EXPRESSION]: peers, transfers and slots of a struct kvw_core * or kvw_node *; without one, of the innermost frame that has it."""

    def __init__(self):
        super().__init__("kvw", gdb.COMMAND_DATA, gdb.COMPLETE_EXPRESSION)

    def invoke(self, argument, from_tty):
        value = gdb.parse_and_eval(argument) if argument else in_frames()
        if value is None:
            raise gdb.GdbError("no frame has a pointer to a kvw_core or kvw_node; name one: kvw EXPRESSION")
        kind = holder(value)
        if kind is None:
            raise gdb.GdbError("%s is %s, not a pointer to a kvw_core or kvw_node" % (argument, value.type))
        if number(value) == 0:
            raise gdb.GdbError("%s is NULL" % (argument or "the pointer"))
        show(value.dereference() if kind == "kvw_core" else value["core"].dereference())


Kvw()
