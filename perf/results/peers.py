#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kvperf beside iperf3, UCX, Mooncake's transfer_engine_bench and NIXL, in turns, on one link between two namespaces.

    peers.py RATE [--rounds N] [--python PYTHON]    RATE for tbf, as 4gbit; 0: not shaped. Needs root

PYTHON is one that has nixl and mooncake-transfer-engine-non-cuda (PyPI); what isn't there is left out, and said. Each row: what
its own program reports as moved, and the CPU seconds of both of its ends a GiB, start and end of the processes included where
they can't be told apart. Ours compares every byte outside the measured time. Writes kvperf-peers-RATE.md (kvperf-peers-veth.md) beside this file.
"""
import argparse
import base64
import datetime
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tests", "lab"))
import lab as labs  # noqa: E402

KVPERF = os.path.join(os.environ.get("KVW_BUILD", os.path.join(ROOT, "build")), "perf", "kvperf", "kvperf")
GIB = float(1 << 30)
PIECE, PIECES = 65536, 1024
SECONDS = 3


class Away(Exception):
    """This peer isn't installed, or doesn't work here; the text says why."""


def used():
    t = os.times()
    return t.children_user + t.children_system


def last_line(text):
    return (text.strip().splitlines() or ["it says nothing"])[-1][:200]


def kvperf(lab, words, pick):
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "r.json")
        server = lab.popen("b", [KVPERF, "server", "-1", "-B", labs.IP["b"]], stdout=subprocess.PIPE, text=True)
        server.stdout.readline()
        client = lab.popen("a", [KVPERF, words[0], labs.IP["b"], "-o", out] + words[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        said = client.communicate(timeout=120)[1]
        if client.returncode != 0:
            raise Away("kvperf: " + last_line(said))
        server.wait(20)
        with open(out) as f:
            rows = [x for x in json.load(f)["rows"] if pick(x)]
    cpu = ("cpu_s_per_gib_here", "cpu_s_per_gib_there") if words[0] == "batch" else ("cpu_s_per_gib_sender", "cpu_s_per_gib_receiver")
    return [(x["gb_per_s"], x[cpu[0]] + x[cpu[1]]) for x in rows]


def ours_bw(lab):
    return kvperf(lab, ["bw", "--codec", "raw", "--tokens", "1024", "-n", "3", "--no-gantt"], lambda x: x["name"] == "all")[0]


def ours_batch(lab):
    words = ["batch", "--piece", str(PIECE), "--pieces", str(PIECES), "--op", "write", "-n", "3", "--posts", "8"]
    return kvperf(lab, words, lambda x: x["op"] == "write" and x["order"] == "scattered")[0]


def iperf3(lab):
    before = used()
    server = lab.popen("b", ["iperf3", "-s", "-1", "-p", "5301"], stdout=subprocess.DEVNULL)
    time.sleep(0.3)
    client = lab.popen("a", ["iperf3", "-c", labs.IP["b"], "-p", "5301", "-t", str(SECONDS), "-J"], stdout=subprocess.PIPE, text=True)
    j = json.loads(client.communicate(timeout=60)[0])
    server.wait(20)
    if "error" in j:
        raise Away("iperf3: " + j["error"])
    got = j["end"]["sum_received"]
    return got["bits_per_second"] / 8e9, (used() - before) / (got["bytes"] / GIB)


def ucx(lab):
    puts, before = 300, used()

    def start(end, words):
        env = dict(os.environ, UCX_TLS="tcp", UCX_NET_DEVICES=labs.DEV[end], UCX_WARN_UNUSED_ENV_VARS="n")
        return lab.popen(end, ["ucx_perftest", "-p", "13401"] + words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    server = start("b", [])
    time.sleep(0.7)
    out = start("a", [labs.IP["b"], "-t", "ucp_put_bw", "-s", "1048576", "-n", str(puts), "-w", "20", "-f"]).communicate(timeout=100)[0]
    server.communicate(timeout=20)
    rows = [line.split() for line in out.splitlines() if line.split()[:1] == [str(puts)]]
    if not rows:
        raise Away("ucx_perftest: " + last_line(out))
    return float(rows[-1][-3]) * (1 << 20) / 1e9, (used() - before) / ((puts + 20) * (1 << 20) / GIB)


def mooncake(lab, python):
    bench = os.path.join(os.path.dirname(os.path.abspath(python)), "transfer_engine_bench")
    if not os.path.exists(bench):
        raise Away("no transfer_engine_bench beside %s" % python)
    before = used()
    common = ["-metadata_server=P2PHANDSHAKE", "-protocol=tcp", "-buffer_size=%d" % (1 << 28)]
    with tempfile.NamedTemporaryFile("w+") as log:
        target = lab.popen("b", [bench, "-mode=target", "-local_server_name=%s:12345" % labs.IP["b"]] + common, stdout=log, stderr=subprocess.STDOUT)
        at, until = None, time.time() + 20
        while at is None and time.time() < until and target.poll() is None:
            time.sleep(0.2)
            with open(log.name) as f:
                at = re.search(r"listening on (%s:\d+)" % re.escape(labs.IP["b"]), f.read())
        out = ""
        if at is not None:
            client = lab.popen("a", [bench, "-mode=initiator", "-local_server_name=%s:12346" % labs.IP["a"], "-segment_id=" + at.group(1),
                                     "-operation=write", "-duration=%d" % SECONDS, "-block_size=%d" % PIECE, "-batch_size=128", "-threads=2", "-report_precision=4"] + common,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            try:
                out = client.communicate(timeout=40)[0]
            except subprocess.TimeoutExpired:
                client.kill()
                out = "no end after 40 s"
        target.kill()
        target.wait()
        m = re.search(r"throughput ([\d.]+) GB/s", out)
        if m is None:
            with open(log.name) as f:
                raise Away("transfer_engine_bench: " + last_line(out if at is not None else f.read()))
    rate = float(m.group(1))
    return rate, (used() - before) / (rate * 1e9 * SECONDS / GIB)


NIXL = r"""
import base64, json, os, sys, time
import numpy as np
from nixl._api import nixl_agent, nixl_agent_config
size, each, side = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
a = nixl_agent(side, nixl_agent_config(backends=["UCX"]))
b = np.zeros(size, np.uint8) if side == "b" else np.random.default_rng(1).integers(0, 255, size, np.uint8)
a.register_memory(a.get_reg_descs([(b.ctypes.data, b.nbytes, 0, "")], "DRAM"))
say = lambda **m: print(json.dumps(m), flush=True)
say(md=base64.b64encode(a.get_agent_metadata()).decode(), addr=b.ctypes.data)
their = json.loads(sys.stdin.readline())
who = a.add_remote_agent(base64.b64decode(their["md"]))
if side == "b":
    sys.stdin.readline()
    say(sum=int(b.view(np.uint64).sum(dtype=np.uint64)))
    os._exit(0)
n = size // each
L = a.prep_xfer_dlist("NIXL_INIT_AGENT", [(b.ctypes.data + i * each, each, 0) for i in range(n)], "DRAM")
R = a.prep_xfer_dlist(who, [(their["addr"] + i * each, each, 0) for i in range(n)], "DRAM")
h, took = a.make_prepped_xfer("WRITE", L, list(range(n)), R, list(range(n)), b"done"), []
until = time.time() + float(sys.argv[4])
while time.time() < until or len(took) < 4:
    t = time.perf_counter()
    s = a.transfer(h)
    while s == "PROC":
        s = a.check_xfer_state(h)
    took.append(time.perf_counter() - t)
took = sorted(took[1:])
say(median=took[len(took) // 2], posts=len(took) + 1, sum=int(b.view(np.uint64).sum(dtype=np.uint64)))
os._exit(0)
"""


def nixl(lab, python):
    size, before = PIECE * PIECES, used()
    ends = {}
    for end in "ba":
        env = dict(os.environ, UCX_TLS="tcp", UCX_NET_DEVICES=labs.DEV[end], UCX_WARN_UNUSED_ENV_VARS="n")
        ends[end] = lab.popen(end, [python, "-c", NIXL, str(size), str(PIECE), end, str(SECONDS)], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True)

    def hear(end):
        for line in ends[end].stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise Away("nixl: " + last_line(ends[end].stderr.read()))

    told = {end: hear(end) for end in "ba"}
    for end, other in ("ab", "ba"):
        ends[end].stdin.write(json.dumps(told[other]) + "\n")
        ends[end].stdin.flush()
    got = hear("a")
    ends["b"].stdin.write("\n")
    ends["b"].stdin.flush()
    if hear("b")["sum"] != got["sum"]:
        raise Away("nixl: other bytes arrived")
    for p in ends.values():
        p.wait(20)
    return size / got["median"] / 1e9, (used() - before) / (got["posts"] * size / GIB)


def main(argv):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("rate")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--python", default=sys.executable)
    a = p.parse_args(argv)
    sides = [("kvperf bw, raw, 16-token blocks in random order", ours_bw),
             ("kvperf batch, WRITE, %d x %d KiB in random order" % (PIECES, PIECE // 1024), ours_batch), ("iperf3, kernel TCP", iperf3),
             ("ucx_perftest ucp_put_bw, tcp, 1 MiB", ucx), ("Mooncake transfer_engine_bench, tcp, WRITE, 64 KiB", lambda lab: mooncake(lab, a.python)),
             ("NIXL WRITE, UCX over tcp, %d x %d KiB in order" % (PIECES, PIECE // 1024), lambda lab: nixl(lab, a.python))]
    got, away = {name: [] for name, _ in sides}, {}
    with labs.Lab(rate=None if a.rate == "0" else a.rate) as lab:
        for _ in range(a.rounds):
            for name, side in sides:
                try:
                    got[name].append(side(lab))
                    print("%-56s %.4f GB/s %.3f CPU-s/GiB" % ((name,) + got[name][-1]), flush=True)
                except (Away, OSError, subprocess.TimeoutExpired) as e:
                    away[name] = str(e)
                    print("%-56s %s" % (name, e), flush=True)
    first = statistics.median(g for g, _ in got[sides[0][0]])
    lines = ["# kvperf beside others on one link", "", "Date: %s UTC. One machine, %d CPUs, Linux %s; two namespaces, veth, MTU 9000, %s. Load when it ended: %.1f." % (
        datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M"), os.cpu_count(), os.uname().release,
        "not shaped" if a.rate == "0" else "shaped to " + a.rate, os.getloadavg()[0]), "",
        "    perf/results/peers.py %s --rounds %d" % (a.rate, a.rounds), "",
        "In turns; median (least .. most). CPU is that of both ends. Ours checks a digest of every packet and compares every byte.", "",
        "| | GB/s | ours (bw) over it | CPU-s a GiB |", "|---|---|---|---|"]
    for name, _ in sides:
        if not got[name]:
            lines.append("| %s | not measured: %s | | |" % (name, away[name]))
            continue
        g, c = [x[0] for x in got[name]], [x[1] for x in got[name]]
        lines.append("| %s | %.3f (%.3f .. %.3f) | %.2f | %.2f (%.2f .. %.2f) |" % (
            name, statistics.median(g), min(g), max(g), first / statistics.median(g), statistics.median(c), min(c), max(c)))
    with open(os.path.join(HERE, "kvperf-peers-%s.md" % ("veth" if a.rate == "0" else a.rate)), "w") as f:
        f.write("\n".join(lines) + "\n")
    print("\n".join(lines[9:]))


if __name__ == "__main__":
    main(sys.argv[1:])
