#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Whether kvperf's byte counts are those of the interface, between two namespaces; needs root.

    counters.py [NET,...]     udp, af_packet; writes kvperf-counters.md beside this file

Told: the bytes of all rows, chunks with their headers. Counted: what the sender's interface sent meanwhile (tx_bytes), so handshakes,
acknowledgements of what the receiver says, kvperf's own control connection and all headers, too. Expected: told with the headers of a
DATA, UDP, IP and Ethernet for each slice. Exit 1: they differ by more than 1 %.
"""
import datetime
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tests", "lab"))
import lab as labs  # noqa: E402

KVPERF = os.path.join(os.environ.get("KVW_BUILD", os.path.join(ROOT, "build")), "perf", "kvperf", "kvperf")
OPTIONS = ["--model", "llama-3.1-8b", "--tokens", "1024", "--codec", "raw,l0,e8", "-n", "3", "-O", "0", "--no-gantt"]
SLICE, HEADS = 8928, 36 + 28 + 14  # MTU 9000: a slice, and DATA, UDP and IPv4, Ethernet
LIMIT = 0.01


def counter(lab, end, name):
    return int(lab.exec(end, "cat", "/sys/class/net/%s/statistics/%s" % (labs.DEV[end], name)))


def measure(net):
    with labs.Lab() as lab, tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "r.json")
        ways = {"udp": ([], []), "af_packet": (["--net", "dpdk", "--link", lab.af_packet("b")],
                                               ["--net", "dpdk", "--link", lab.af_packet("a"), "--peer", labs.IP_DPDK["b"] + ":7400"])}[net]
        server = lab.popen("b", [KVPERF, "server", "-1", "-B", labs.IP["b"]] + ways[0], stdout=subprocess.PIPE, text=True)
        server.stdout.readline()
        before = [counter(lab, "a", "tx_bytes"), counter(lab, "a", "tx_packets"), counter(lab, "b", "rx_bytes")]
        client = lab.popen("a", [KVPERF, "kv", labs.IP["b"], "-o", out] + ways[1] + OPTIONS, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        said = client.communicate(timeout=170)[1].strip()
        if client.returncode != 0:
            return None, said
        after = [counter(lab, "a", "tx_bytes"), counter(lab, "a", "tx_packets"), counter(lab, "b", "rx_bytes")]
        with open(out) as f:
            rows = json.load(f)["rows"]
    told = sum(x["bytes_wire"] for x in rows)
    return [told] + [y - x for x, y in zip(before, after)], "equal" if all(x["data"]["verdict"] != "WRONG" for x in rows) else "WRONG"


def main(argv):
    nets = argv[1].split(",") if len(argv) > 1 else ["udp", "af_packet"]
    holds, lines = True, ["# kvperf's byte counts beside the interface's", "", "Date: %s UTC. Two namespaces, veth, MTU 9000, Linux %s. Limit: %g %% apart." % (
        datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M"), os.uname().release, 100 * LIMIT), "",
        "    perf/results/counters.py", "    kvperf kv HOST " + " ".join(OPTIONS), "",
        "| net | told, bytes | expected with headers | sender's tx_bytes | receiver's rx_bytes | tx_packets | tx over told | tx over expected | data |",
        "|---|---|---|---|---|---|---|---|---|"]
    for net in nets:
        got, said = measure(net)
        if got is None:
            lines.append("| %s | not measured: %s | | | | | | | |" % (net, said.splitlines()[-1] if said else "?"))
            holds = False
            continue
        expected = got[0] * (1 + HEADS / SLICE)
        holds &= abs(got[1] / got[0] - 1) <= LIMIT and said == "equal"
        lines.append("| %s | %d | %.0f | %d | %d | %d | %.5f | %.5f | %s |" % (net, got[0], expected, got[1], got[3], got[2], got[1] / got[0], got[1] / expected, said))
    lines += ["", "Holds." if holds else "DOES NOT HOLD."]
    print("\n".join(lines))
    with open(os.path.join(HERE, "kvperf-counters.md"), "w") as f:
        f.write("\n".join(lines) + "\n")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
