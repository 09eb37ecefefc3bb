#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Whether kvperf's byte counts are those of the interface; needs root, and qemu for verbs.

    counters.py [NET,...]     udp,af_packet,memif; verbs too, if it is named; writes kvperf-counters.md beside this file
    counters.py --inside      what it runs in a guest with two RoCE devices: prints verbs' figures

Told: the bytes of all rows, chunks with their headers. Counted: what the sender's interface sent meanwhile (tx_bytes), so handshakes,
acknowledgements of what the receiver says, kvperf's own control connection and all headers, too. Expected: told, with the headers that
each slice has on that net. memif has no interface: the sender's driver's own counters (KVWIRE_DPDK_LOG=1 shows them when a port is
closed; the receiver's are gone with its peer).

    udp, af_packet  two namespaces joined by veth, MTU 9000      memif   two processes of one host
    verbs           tests/guest/guest.py --rxe: two soft-RoCE devices joined by veth, active MTU 4096

Exit 1: counted and expected differ by more than 1 %.
"""
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tests", "lab"))
import lab as labs  # noqa: E402

KVPERF = os.path.join(os.environ.get("KVW_BUILD", os.path.join(ROOT, "build")), "perf", "kvperf", "kvperf")
OPTIONS = ["--model", "llama-3.1-8b", "--tokens", "1024", "--codec", "raw,l0,e8", "-n", "3", "-O", "0", "--no-gantt"]
GUEST = ["--model", "smollm2-135m", "--tokens", "512", "--codec", "raw,l0,e8", "-n", "2", "-O", "0", "--no-gantt"]
OURS = 36 + 28 + 14  # DATA, UDP and IPv4, Ethernet
ROCE = 12 + 4 + 28 + 14  # BTH, ICRC, UDP and IPv4, Ethernet; RETH and the like are once a put
SLICE = {"udp": (8928, OURS), "af_packet": (8928, OURS), "memif": (8192, OURS), "verbs": (4096, ROCE)}
LIMIT = 0.01


def figures(told_rows, counted):
    """(told, tx_bytes, tx_packets, rx_bytes), verdict."""
    wrong = any(x["data"]["verdict"] == "WRONG" for x in told_rows)
    return [sum(x["bytes_wire"] for x in told_rows)] + list(counted), "WRONG" if wrong else "equal"


def run_pair(server, client, popen, count, out):
    """Both ends; count() is read before the client and after it. None, sentence: it failed."""
    s = popen("b", [KVPERF, "server", "-1"] + server)
    s.stdout.readline()
    before = count()
    c = popen("a", [KVPERF, "kv"] + client + ["-o", out])
    err = c.communicate(timeout=900)[1].strip()
    if c.returncode != 0:
        s.kill()
        return None, err.splitlines()[-1] if err else "exit %d" % c.returncode
    after = count()
    said = s.communicate(timeout=60)[1], err
    with open(out) as f:
        rows = json.load(f)["rows"]
    return (rows, [y - x for x, y in zip(before, after)]), said


def between_namespaces(net, folder):
    with labs.Lab() as lab:
        def popen(end, words):
            return lab.popen(end, words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

        def count():
            return [int(lab.exec(e, "cat", "/sys/class/net/%s/statistics/%s" % (labs.DEV[e], n)))
                    for e, n in (("a", "tx_bytes"), ("a", "tx_packets"), ("b", "rx_bytes"))]
        device = {"udp": ([], []), "af_packet": (["--net", "dpdk", "--link", lab.af_packet("b")],
                                                 ["--net", "dpdk", "--link", lab.af_packet("a"), "--peer", labs.IP_DPDK["b"] + ":7400"])}[net]
        got, said = run_pair(["-B", labs.IP["b"]] + device[0], [labs.IP["b"]] + device[1] + OPTIONS, popen, count, os.path.join(folder, "r.json"))
    return (None, said) if got is None else figures(*got)


def over_memif(folder):
    def popen(_, words):
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ, KVWIRE_DPDK_LOG="1"))
    way = ["--net", "dpdk", "--link", "memif:" + os.path.join(folder, "m")]
    got, said = run_pair(["-B", "127.0.0.1", "-p", "24471"] + way, ["127.0.0.1", "-p", "24471"] + way + OPTIONS, popen, lambda: [],
                         os.path.join(folder, "r.json"))
    if got is None:
        return None, said
    there, here = (re.search(r"received (\d+) frames, (\d+) bytes, sent (\d+), (\d+)", x) for x in said)
    return figures(got[0], [int(here.group(4)), int(here.group(3)), int(there.group(2))])


def inside():
    """In the guest: rxe0 is the server's, rxe1 the client's."""
    def popen(_, words):
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def count():
        return [int(open("/sys/class/net/%s/statistics/%s" % x).read()) for x in (("v1", "tx_bytes"), ("v1", "tx_packets"), ("v0", "rx_bytes"))]
    with tempfile.TemporaryDirectory() as folder:
        got, said = run_pair(["-B", "10.77.1.1", "--net", "verbs", "--link", "10.77.1.1:9313"],
                             ["10.77.1.1", "--net", "verbs", "--link", "10.77.1.2:0", "--peer", "10.77.1.1:9313"] + GUEST, popen, count,
                             os.path.join(folder, "r.json"))
        print("RESULT " + json.dumps((None, said) if got is None else figures(*got)))
    return 0


def in_guest():
    p = subprocess.run([os.path.join(ROOT, "tests", "guest", "guest.py"), "--rxe", "--seconds", "1200", "--", sys.executable, os.path.abspath(__file__),
                        "--inside"], capture_output=True, text=True)
    line = [x for x in p.stdout.splitlines() if x.startswith("RESULT ")]
    return json.loads(line[0][7:]) if line else (None, (p.stderr.strip() or "no guest").splitlines()[-1])


def measure(net):
    with tempfile.TemporaryDirectory() as folder:
        return over_memif(folder) if net == "memif" else in_guest() if net == "verbs" else between_namespaces(net, folder)


def main(argv):
    if argv[1:] == ["--inside"]:
        return inside()
    nets = argv[1].split(",") if len(argv) > 1 else ["udp", "af_packet", "memif"]
    holds, lines = True, [
        "# kvperf's byte counts beside the interface's", "", "Date: %s UTC. udp, af_packet: two namespaces, veth, MTU 9000. memif: two processes, the sender's driver's counters.\nLinux %s. Limit: counted and expected %g %% apart." % (
            datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M"), os.uname().release, 100 * LIMIT), "",
        "    perf/results/counters.py " + ",".join(nets), "    kvperf kv HOST " + " ".join(OPTIONS),
        *(["    kvperf kv HOST " + " ".join(GUEST) + "    verbs, in a guest"] if "verbs" in nets else []), "",
        "| net | told, bytes | expected with headers | sender's tx_bytes | receiver's rx_bytes | tx_packets | tx over told | tx over expected | data |",
        "|---|---|---|---|---|---|---|---|---|"]
    for net in nets:
        got, said = measure(net)
        if got is None:
            lines.append("| %s | not measured: %s | | | | | | | |" % (net, said))
            holds = False
            continue
        expected = got[0] * (1 + SLICE[net][1] / SLICE[net][0])
        holds &= abs(got[1] / expected - 1) <= LIMIT and said == "equal"
        lines.append("| %s | %d | %.0f | %d | %s | %d | %.5f | %.5f | %s |" % (net, got[0], expected, got[1], got[3] or "-", got[2], got[1] / got[0], got[1] / expected, said))
        print(lines[-1], flush=True)
    lines += ["", "Holds." if holds else "DOES NOT HOLD."]
    print(lines[-1])
    with open(os.path.join(HERE, "kvperf-counters.md"), "w") as f:
        f.write("\n".join(lines) + "\n")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
