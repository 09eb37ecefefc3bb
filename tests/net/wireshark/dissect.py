#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""dissect.py: net/wireshark/kvwire.lua run by tshark, as TAP.

The golden bytes of both protocols are put into a capture, control messages cut in pieces that come out of order, and every
byte of every one must lie under exactly one named field. The same holds for transfer.pcap, the capture of a real transfer:

    tshark -i lo -f 'udp port 7402' -w all.pcapng &  build/examples/02_two_nodes
    tshark -r all.pcapng -Y 'frame.len < 400 || frame.number in {1,2,14}' -F pcap -w transfer.pcap

The frames of slices but for the first, which has the first chunk's header, were left out."""
import glob
import os
import re
import struct
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.abspath(os.path.join(HERE, "..", "..", ".."))
LUA = os.path.join(ROOT, "net", "wireshark", "kvwire.lua")
CLIENT, SERVER = (bytes([10, 0, 0, 1]), 40000), (bytes([10, 0, 0, 2]), 7400)
count = bad = 0


def check(ok, name, detail=""):
    global count, bad
    count += 1
    bad += not ok
    print("%s %d - %s%s" % ("ok" if ok else "not ok", count, name, "" if ok else ": " + detail), flush=True)


def pcap(path, payloads):
    """A capture (raw IPv4, link type 101) of UDP payloads from CLIENT to SERVER."""
    with open(path, "wb") as f:
        f.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 101))
        for n, payload in enumerate(payloads):
            udp = struct.pack(">HHHH", CLIENT[1], SERVER[1], 8 + len(payload), 0) + payload
            ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), n, 0x4000, 64, 17, 0) + CLIENT[0] + SERVER[0]
            f.write(struct.pack("<IIII", 1, n * 1000, 20 + len(udp), 20 + len(udp)) + ip + udp)


def tshark(path, *options):
    """The packets of a capture, as PDML elements."""
    out = subprocess.run(["tshark", "-n", "-X", "lua_script:" + LUA, "-r", path, "-T", "pdml"] + list(options),
                         capture_output=True, timeout=120)
    if out.returncode != 0 or b"Lua" in out.stderr:
        sys.exit("dissect.py: tshark: " + out.stderr.decode(errors="replace"))
    return ET.fromstring(out.stdout).findall("packet")


def protos(frame, name):
    return [p for p in frame.findall("proto") if p.get("name") == name]


def leaves(element):
    """(at, bytes, name) of each named field below an element."""
    found = []
    for f in element.findall("field"):
        below = leaves(f)
        if below or f.get("name") == "":
            found += below
        elif f.get("name").startswith(("kvpacket.", "kvwire.")):
            found.append((int(f.get("pos")), int(f.get("size")), f.get("name")))
    for p in element.findall("proto"):
        found += leaves(p)
    return found


def uncovered(proto):
    """What is wrong with a tree whose fields should tile its bytes; None: nothing. Fields of one place are parts of a word."""
    begin, size = int(proto.get("pos")), int(proto.get("size"))
    at = begin
    for where, length, name in sorted(set((w, n, "") for w, n, _ in leaves(proto))):
        if where != at:
            return "bytes %d to %d have no field, or two" % (at - begin, where - begin)
        at += length
    return None if at == begin + size else "bytes from %d of %d on have no field" % (at - begin, size)


def malformed(frame):
    return any("_ws.expert" in (f.get("name") or "") for f in frame.iter("field"))


def value(proto, name):
    for f in proto.iter("field"):
        if f.get("name") == name:
            return f.get("show")
    return None


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def make_packet(kind, body, number, slice_number=0):
    head = struct.pack("<BBHII", 2 << 4 | kind, 0, slice_number, 0x55667788, number)
    return head + struct.pack("<I", crc32c(head + b"\0\0\0\0" + body)) + body


def golden_messages():
    """name -> bytes of each KV message and chunk that a decoder accepts."""
    found = {}
    with open(os.path.join(ROOT, "tests", "golden", "kv_v2.txt"), encoding="ascii") as f:
        for line in f:
            words = line.split()
            if len(words) == 3 and words[1] == "ok":
                found[words[0]] = bytes.fromhex(words[2])
    return found


def test_packets(folder):
    path = os.path.join(folder, "packets.pcap")
    names = sorted(glob.glob(os.path.join(ROOT, "tests", "golden", "packet", "*.bin")))
    payloads = [open(n, "rb").read() for n in names]
    pcap(path, payloads)
    frames = tshark(path, "-o", "kvpacket.check:TRUE")
    for name, frame in zip(names, frames):
        name = os.path.basename(name)[:-4]
        trees = protos(frame, "kvpacket")
        wrong = uncovered(trees[0]) if trees else "no kvwire packet"
        check(wrong is None and not malformed(frame), "packet %s: every byte has a field, and the sum fits" % name, str(wrong))
    of = {os.path.basename(n)[:-4]: f for n, f in zip(names, frames)}
    got = [value(protos(of["data"], "kvpacket")[0], "kvpacket." + n) for n in
           ("put", "region", "offset", "slice", "put_bytes", "slice_bytes", "path")]
    check(got == ["7", "65", "65536", "3", "24582", "8192", "2"], "data's values are SPEC.md 11's", str(got))
    got = [value(protos(of["ack"], "kvpacket")[0], "kvpacket." + n) for n in ("largest", "ce", "limit", "credit", "count")]
    check(got == ["100", "7", "300000", "5000000", "3"], "ack's values are SPEC.md 11's", str(got))
    broken = bytearray(payloads[0])
    broken[-1] ^= 1
    pcap(path, [bytes(broken)])
    check(malformed(tshark(path, "-o", "kvpacket.check:TRUE")[0]), "a flipped bit is told")


def test_messages(folder):
    path = os.path.join(folder, "messages.pcap")
    golden = golden_messages()
    messages = {n: m for n, m in golden.items() if not n.startswith("chunk")}
    stream = b"".join(struct.pack("<I", len(m)) + m for m in messages.values())
    cuts = list(range(0, len(stream), 97))
    order = sorted(range(len(cuts)), key=lambda i: i ^ 1)  # neighbours change places
    packets = [make_packet(4, struct.pack("<Q", cuts[i]) + stream[cuts[i]:cuts[i] + 97], n + 1) for n, i in enumerate(order)]
    pcap(path, packets + packets[:3])  # and some come twice
    frames = tshark(path)
    trees = [t for f in frames for t in protos(f, "kvwire")]
    check(len(trees) == len(messages), "as many messages as were sent", "%d of %d" % (len(trees), len(messages)))
    for (name, message), tree in zip(messages.items(), trees):
        wrong = uncovered(tree)
        if int(tree.get("size")) != len(message):
            wrong = "%s bytes of %d" % (tree.get("size"), len(message))
        check(wrong is None, "message %s: every byte has a field" % name, str(wrong))
    check(not any(malformed(f) for f in frames), "none of them is malformed")
    offer = dict(zip(messages, trees)).get("offer")
    got = offer is not None and [value(offer, "kvwire." + n) for n in ("epoch", "tokens", "exact_first", "exact_last", "first_token")]
    check(got == ["5", "320", "4", "128", "256"], "offer's values are SPEC.md 3.3's", str(got))
    short = messages["offer"][:-3]
    pcap(path, [make_packet(4, struct.pack("<QI", 0, len(short)) + short, 1)])
    check(malformed(tshark(path)[0]), "an offer that breaks off is told")
    chunks = {n: m for n, m in golden.items() if n.startswith("chunk")}
    sizes = [len(m) - 1 | 8192 // 16 << 20 for m in chunks.values()]
    pcap(path, [make_packet(3, struct.pack("<IQII", n, 0, s, 0) + m, n + 1)
                for n, (m, s) in enumerate(zip(chunks.values(), sizes))])
    for name, frame in zip(chunks, tshark(path)):
        trees = protos(frame, "kvwire")
        wrong = uncovered(trees[0]) if trees else "no chunk"
        check(wrong is None, "%s: every byte of its header has a field" % name, str(wrong))


def test_capture():
    frames = tshark(os.path.join(HERE, "transfer.pcap"), "-d", "udp.port==7402,kvpacket", "-o", "kvpacket.check:TRUE")
    kinds, wrong = set(), []
    for frame in frames:
        for tree in protos(frame, "kvpacket") + protos(frame, "kvwire"):
            kinds.add(re.sub("^kvwire ", "", tree.get("showname")))
            wrong += [w for w in [uncovered(tree)] if w]
        wrong += ["malformed"] if malformed(frame) else []
    check(not wrong, "a real transfer: every byte of its packets and messages has a field", "; ".join(wrong[:3]))
    wanted = {"packet, HELLO", "packet, HELLO_ACK", "packet, ACK", "packet, DATA", "packet, MSG", "KV protocol, HELLO",
              "KV protocol, POOL", "KV protocol, OFFER", "KV protocol, GRANT", "KV protocol, chunk", "KV protocol, ALIVE",
              "KV protocol, COMMIT", "KV protocol, DONE"}
    check(wanted <= kinds, "it has handshake, offer, chunk, ACK and the end", "not " + ", ".join(sorted(wanted - kinds)))
    plain = tshark(os.path.join(HERE, "transfer.pcap"))  # no port named: the greeting tells
    found = sum(1 for f in plain if protos(f, "kvpacket"))
    check(found == len(frames), "without a port the greeting tells", "%d of %d" % (found, len(frames)))


def test_names():
    with open(LUA, encoding="utf-8") as f:
        lua = f.read()

    def ours(table):
        text = re.search(r"local %s = \{(.*?)\n?\}" % table, lua, re.S)[1]
        return {int(n): name for n, name in re.findall(r"\[(-?\d+)\] = \"(\w+)\"", text)}

    def theirs(path, prefix):
        with open(os.path.join(ROOT, path), encoding="utf-8") as f:
            return {int(n): name for name, n in re.findall(r"^\s+%s(\w+) = (-?\d+)," % prefix, f.read(), re.M)}

    for table, path, prefix in (("TYPES", "net/packet/wire.h", "KVN_PACKET_"), ("RESETS", "net/packet/wire.h", "KVN_RESET_"),
                                ("MESSAGES", "kvwire/wire/types.h", "KVW_WIRE_")):
        check(ours(table) == theirs(path, prefix), "%s are %s's" % (table, path), str((ours(table), theirs(path, prefix))))
    errors = theirs("kvwire/err.h", "KVW_E_")
    check(ours("ERRORS") == {**errors, 0: "OK"}, "ERRORS are kvwire/err.h's", str(set(ours("ERRORS").items()) ^ set(errors.items())))


def main():
    with tempfile.TemporaryDirectory() as folder:
        test_names()
        test_packets(folder)
        test_messages(folder)
        test_capture()
    print("1..%d" % count)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
