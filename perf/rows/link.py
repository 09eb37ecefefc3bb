#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The packet transport beside kernel TCP (iperf3) and UCX over TCP (ucx_perftest), between two network namespaces.

    link.py speed NET [tcp|ucx] [--mtu N] [--no-offloads] [--pairs N]     both ends on one core: ratio of goodputs
    link.py shaped NET [--mtu N] [--pairs N]                              share of a 1 Gb/s tbf that arrives as payload
    link.py loss NET [--pairs N]                                          0, 0.1 and 1 % lost (eBPF), beside TCP
    link.py local [--pairs N]                                             dpdk on this host, 8 KiB slices, over TCP

NET is udp or af_packet. Pairs are interleaved, ours and theirs in turns; the last line is "RESULT median-of-ratios".

What is compared with what: goodput in both cases, as seen by the receiver's application. With offloads (the default
of veth) TCP moves packets of up to 64 KiB across the link, and so does udp (GSO); af_packet moves frames of one MTU.
With --no-offloads each end sends and receives single frames. Targets are held against TCP as it is by default.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
sys.path.insert(0, os.path.join(ROOT, "tests", "lab"))
from lab import DEV, IP, IP_DPDK, Lab, NoLab  # noqa: E402

BENCH = os.path.join(ROOT, "build", "tests", "net", "transport_bench")
CPU = "0"
PUT = 1 << 20  # bytes of one, through a shaper
TBF_BURST = 256 << 10  # as lab.py sets it up
GIB = float(1 << 30)


class Side:
    """Gb/s of goodput, CPU seconds a GiB, and what else is worth a word."""

    def __init__(self, gbit, cpu, note=""):
        self.gbit, self.cpu, self.note = gbit, cpu, note


def bench(words, env=None):
    r = subprocess.run([BENCH] + words + ["--json"], capture_output=True, text=True, timeout=120, env=dict(os.environ, **(env or {})))
    if r.returncode != 0:
        sys.exit("transport_bench %s: %s" % (" ".join(words), r.stderr.strip()[-300:]))
    j = json.loads(r.stdout)
    if j["wrong"] or j["puts"] != j["landed"]:
        sys.exit("transport_bench %s: not every put arrived as it was: %s" % (" ".join(words), r.stdout))
    return Side(j["gbit_s"], j["cpu_s_per_gib"], "lost %d of %d" % (j["lost"], j["packets"]))


def ours(lab, net, seconds, one_core=True, plain=False, more=()):
    words, env = {
        "udp": (["udp", IP["b"] + ":9100", IP["a"] + ":0"], {"KVWIRE_UDP_PLAIN": "1"} if plain else {}),
        "af_packet": (["dpdk", lab.af_packet("b"), lab.af_packet("a"), "--peer", IP_DPDK["b"] + ":7400"], {}),
    }[net]
    words = words + ["--netns", "%s,%s" % (lab.ns["b"], lab.ns["a"]), "--seconds", str(seconds)]
    return bench(words + (["--cpu", CPU] if one_core else []) + list(more), env)


def used(before):
    r = os.times()
    return r.children_user + r.children_system - before


def tcp(lab, seconds, one_core=True):
    pin = ["taskset", "-c", CPU] if one_core else []
    before = used(0)
    server = lab.popen("b", pin + ["iperf3", "-s", "-1", "-p", "5300"], stdout=subprocess.DEVNULL)
    time.sleep(0.3)
    client = lab.popen("a", pin + ["iperf3", "-c", IP["b"], "-p", "5300", "-t", str(seconds), "-J"], stdout=subprocess.PIPE, text=True)
    out = client.communicate(timeout=60)[0]
    server.wait(10)
    j = json.loads(out)
    if "error" in j:
        sys.exit("iperf3: %s" % j["error"])
    got = j["end"]["sum_received"]
    return Side(got["bits_per_second"] / 1e9, used(before) / (got["bytes"] / GIB), "%d segments sent again" % j["end"]["sum_sent"]["retransmits"])


def ucx(lab, seconds):
    del seconds
    puts, before = 300, used(0)

    def start(end, words):
        env = dict(os.environ, UCX_TLS="tcp", UCX_NET_DEVICES=DEV[end], UCX_WARN_UNUSED_ENV_VARS="n")
        return lab.popen(end, ["taskset", "-c", CPU, "ucx_perftest", "-p", "13400"] + words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    server = start("b", [])
    time.sleep(0.7)
    client = start("a", [IP["b"], "-t", "ucp_put_bw", "-s", "1048576", "-n", str(puts), "-w", "20", "-f"])
    out = client.communicate(timeout=100)[0]
    server.communicate(timeout=20)
    rows = [line.split() for line in out.splitlines() if line.split()[:1] == [str(puts)]]
    if not rows:
        sys.exit("ucx_perftest: %s" % out[-300:])
    mb_s = float(rows[-1][-3])  # MB/s over all iterations, where MB is 2^20
    return Side(mb_s * (1 << 20) * 8 / 1e9, used(before) / (puts * (1 << 20) / GIB))


def spread(values):
    return "%.3g (%.3g .. %.3g)" % (statistics.median(values), min(values), max(values))


def table(name, sides):
    notes = ", ".join(sorted({s.note for s in sides if s.note})[:2])
    print("%-34s %24s Gb/s %22s CPU s/GiB  %s" % (name, spread([s.gbit for s in sides]), spread([s.cpu for s in sides]), notes), flush=True)


def speed(a):
    with Lab(a.mtu, not a.no_offloads) as lab:
        theirs = {"tcp": tcp, "ucx": ucx}[a.peer]
        pairs = [(ours(lab, a.net, a.seconds, plain=a.no_offloads), theirs(lab, a.seconds)) for _ in range(a.pairs)]
    how = "MTU %d, %s" % (a.mtu, "no offloads" if a.no_offloads else "offloads as they are")
    table("%s, %s" % (a.net, how), [p[0] for p in pairs])
    table("%s, %s" % (a.peer, how), [p[1] for p in pairs])
    return [x.gbit / y.gbit for x, y in pairs], 1.0


def shaped(a):
    got, peer = [], []
    for _ in range(a.pairs):
        with Lab(a.mtu, not a.no_offloads, rate="1gbit") as lab:
            got.append(ours(lab, a.net, a.seconds, one_core=False, more=["--bytes", str(PUT)]))
            peer.append(tcp(lab, a.seconds, one_core=False))
    table("%s, 1 Gb/s, MTU %d" % (a.net, a.mtu), got)
    table("tcp, 1 Gb/s, MTU %d" % a.mtu, peer)
    # The bucket is full at first.
    return [s.gbit for s in got], carried(a.mtu, PUT) * (1 + TBF_BURST / (a.seconds * 1e9 / 8))


def carried(mtu, put):
    """What of the bytes that a shaper counts can be payload: a put's slices, and with each the headers of a DATA
    (KVN_DATA_BYTES), UDP, IPv4 and Ethernet. tbf counts all of those, also of what the kernel is still to cut."""
    data, udp_ip, ethernet, align = 36, 28, 14, 16
    slice_bytes = (mtu - udp_ip - data) // align * align
    packets = -(-put // slice_bytes)
    return put / (put + packets * (data + udp_ip + ethernet))


def loss(a):
    ratios = []
    for share in (0, 0.001, 0.01):
        with Lab(a.mtu, offloads=False, loss=share) as lab:
            lab.lossy = True  # also where nothing is lost
            pairs = [(ours(lab, a.net, a.seconds, plain=True), tcp(lab, a.seconds)) for _ in range(a.pairs)]
        table("%s, %.1f %% lost" % (a.net, share * 100), [p[0] for p in pairs])
        table("tcp, %.1f %% lost" % (share * 100), [p[1] for p in pairs])
        ratios = [x.gbit / y.gbit for x, y in pairs]
    return ratios, 1.0


def local(a):
    mine, peer = [], []
    with Lab(a.mtu) as lab, tempfile.TemporaryDirectory() as tmp:
        sock = os.path.join(tmp, "link")
        for _ in range(a.pairs):
            mine.append(bench(["dpdk", sock, sock, "--cpu", CPU, "--seconds", str(a.seconds), "--slice", "8192"]))
            peer.append(tcp(lab, a.seconds))
    table("dpdk vhost/virtio-user, 8 KiB", mine)
    table("tcp, veth, MTU %d" % a.mtu, peer)
    return [x.gbit / y.gbit for x, y in zip(mine, peer)], 1.0


def come_first():
    """On a shared machine: a session of our own, and before all others (best effort; nice only counts within one)."""
    try:
        os.setsid()
        with open("/proc/self/autogroup", "w") as f:
            f.write("-20")
    except OSError:
        pass


def main():
    come_first()
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["speed", "shaped", "loss", "local"])
    p.add_argument("net", nargs="?", default="udp", choices=["udp", "af_packet"])
    p.add_argument("peer", nargs="?", default="tcp", choices=["tcp", "ucx"])
    p.add_argument("--mtu", type=int, default=9000)
    p.add_argument("--no-offloads", action="store_true")
    p.add_argument("--pairs", type=int, default=5)
    p.add_argument("--seconds", type=float, default=2)
    a = p.parse_args()
    a.seconds = int(a.seconds) if a.seconds == int(a.seconds) else a.seconds
    try:
        values, limit = {"speed": speed, "shaped": shaped, "loss": loss, "local": local}[a.what](a)
    except NoLab as e:
        sys.exit("no lab here: %s" % e)
    print("%s of %d: %s" % (a.what, len(values), spread(values)))
    print("RESULT %.4f %.4f" % (statistics.median(values), limit))


main()
