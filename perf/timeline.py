#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""timeline.py TRACE [TRACE...] [--key HEX] [--packets] [--width N] [--json]

Put the traces of both ends of a transfer together: files that kvw_node_config.kv_trace wrote (kvwire/trace.h), and packet
traces (kvw_node_config.trace) beside them for --packets. Prints, layer by layer, when it was computed at the sender, cut, on
the wire, decoded and ready at the receiver, and what was lost on the way.

    kvserve decode --kv-trace d.jsonl ...    kvserve prefill --kv-trace p.jsonl ...
    perf/timeline.py p.jsonl d.jsonl

Ends on two hosts are put on one clock by each file's wall_ns (NTP's accuracy); on one host the clock is the same."""
import argparse
import collections
import json
import sys




def die(text):
    sys.exit("timeline.py: " + text)


def read(path):
    """The node's header, its events, and the packets that a packet trace says were lost."""
    header, events, lost = None, [], []
    try:
        with open(path, encoding="utf-8") as f:
            for number, line in enumerate(f, 1):
                try:
                    row = json.loads(line)
                except ValueError as e:
                    if not line.endswith("\n"):
                        break  # it was cut when its writer died
                    die("%s line %d: %s" % (path, number, e))
                if "kvwire_trace" in row:
                    if row["kvwire_trace"] != 1:
                        die("%s: trace format %s; this reads 1" % (path, row["kvwire_trace"]))
                    header = row
                elif "ev" in row:
                    events.append(row)
                elif str(row.get("name", "")).endswith("packet_lost"):
                    lost.append(row)
    except OSError as e:
        die(str(e))
    return header, events, lost


def merge(paths):
    ends, packets_lost = [], 0
    for path in paths:
        header, events, lost = read(path)
        packets_lost += len(lost)
        if header is not None:
            ends.append((header, events))
        elif events:
            die("%s: no first line that says whose trace it is" % path)
    if not ends:
        die("none of the files is a trace of kv_trace")
    shift = {h["instance"]: h["wall_ns"] - ends[0][0]["wall_ns"] for h, _ in ends}
    if max(abs(s) for s in shift.values()) < 10_000_000:
        shift = dict.fromkeys(shift, 0)  # one host: its monotonic clock is exact
    merged = []
    for header, events in ends:
        for e in events:
            e["node"], e["t"] = header["node"], e["t"] + shift[header["instance"]]
            merged.append(e)
    merged.sort(key=lambda e: e["t"])
    return merged, packets_lost


def choose_key(events, wanted):
    keys = list(dict.fromkeys(e["key"] for e in events if "key" in e))
    if wanted is None:
        if not keys:
            die("no transfer is in the traces")
        return keys[-1]
    found = [k for k in keys if k.startswith(wanted.lower())]
    if len(found) != 1:
        die("%d transfers have a key that begins with '%s'; there are: %s" % (len(found), wanted, " ".join(keys)))
    return found[0]


def layers_of(events, key):
    """layer -> name of a time -> (first, last), ns. LANDED has no key: its chunk is the DECODED of that seq and peer."""
    times = collections.defaultdict(lambda: collections.defaultdict(list))
    landed = {}
    for e in events:
        if e["ev"] == "landed":
            landed[e["node"], e["peer"], e["seq"] & 0xFFFFFFFF] = e["t"]
        if e.get("key") != key or "layer" not in e:
            continue
        at, name = times[e["layer"]], e["ev"]
        if name == "pushed":
            at["computed"].append(e["t"])
        elif name in ("cut", "put", "ready", "sent", "done"):
            at[name].append(e["t"])
        elif name == "decoded":
            at["decoded"].append(e["t"])
            if (e["node"], e["peer"], e["seq"] & 0xFFFFFFFF) in landed:
                at["landed"].append(landed[e["node"], e["peer"], e["seq"] & 0xFFFFFFFF])
    return {layer: {n: (min(t), max(t)) for n, t in at.items()} for layer, at in sorted(times.items())}


def gantt(layers, begin, end, width):
    """A line a layer: '.' computed, waits to be cut; '=' encoding and wire; '#' landed, being decoded; '|' ready."""
    scale = width / max(end - begin, 1)

    def column(t):
        return min(width - 1, int((t - begin) * scale))

    for layer, at in layers.items():
        line = [" "] * width
        for first, last, mark in (("computed", "cut", "."), ("cut", "landed", "="), ("landed", "decoded", "#")):
            if first in at and last in at:
                for i in range(column(at[first][0]), column(at[last][1]) + 1):
                    line[i] = mark
        if "ready" in at:
            line[column(at["ready"][1])] = "|"
        yield layer, "".join(line)


def summary(events, key, layers):
    mine = [e for e in events if e.get("key") == key]
    chunks = [e for e in mine if e["ev"] == "decoded"]
    codecs = collections.Counter(e["codec"] for e in chunks)
    last_computed = max((at["computed"][1] for at in layers.values() if "computed" in at), default=None)
    last_ready = max((at["ready"][1] for at in layers.values() if "ready" in at), default=None)
    ends = [(e["node"], e["err"], e.get("text", "")) for e in mine if e["ev"] == "end"]
    return {
        "key": key, "begin_ns": mine[0]["t"], "end_ns": mine[-1]["t"], "chunks": len(chunks),
        "raw_bytes": sum(e["raw"] for e in chunks), "wire_bytes": sum(e["wire"] for e in chunks),
        "codecs": dict(codecs),
        "exposed_ms": None if None in (last_computed, last_ready) else (last_ready - last_computed) / 1e6,
        "ends": ends,
    }


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("traces", nargs="+", metavar="TRACE")
    p.add_argument("--key", help="the transfer: the first digits of its key; without, the last one")
    p.add_argument("--packets", action="store_true", help="count what packet traces among the files say was lost")
    p.add_argument("--width", type=int, default=80, help="columns of the picture (80)")
    p.add_argument("--json", action="store_true", help="the merged events, a line each, instead of the picture")
    args = p.parse_args()
    if not 10 <= args.width <= 1000:
        die("--width %d is not in 10 .. 1000" % args.width)
    events, packets_lost = merge(args.traces)
    key = choose_key(events, args.key)
    layers = layers_of(events, key)
    if args.json:
        for e in events:
            if e.get("key") in (None, key):
                print(json.dumps(e))
        return
    s = summary(events, key, layers)
    print("transfer %s: %d chunks, %.2f MB as %.2f MB, codecs %s, %.2f ms, exposed %s ms" % (
        key, s["chunks"], s["raw_bytes"] / 1e6, s["wire_bytes"] / 1e6, s["codecs"], (s["end_ns"] - s["begin_ns"]) / 1e6,
        "?" if s["exposed_ms"] is None else "%.3f" % s["exposed_ms"]))
    for node, err, text in s["ends"]:
        print("%s: %s" % (node, "ended well" if err == 0 else "error %d: %s" % (err, text)))
    if args.packets:
        print("packets lost and sent again: %d" % packets_lost)
    print("layer  computed  ready  ms from the first event; . computed  = encoded, on the wire  # decoded  | ready")
    for layer, line in gantt(layers, s["begin_ns"], s["end_ns"], args.width):
        def ms(name):
            return "%8.2f" % ((layers[layer][name][1] - s["begin_ns"]) / 1e6) if name in layers[layer] else "       -"
        print("%5d %s %s  %s" % (layer, ms("computed"), ms("ready"), line))


if __name__ == "__main__":
    main()
