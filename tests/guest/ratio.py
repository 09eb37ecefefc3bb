#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""ratio.py WHAT PAIRS: in a guest with rxe0 (10.77.1.1) and rxe1 (10.77.1.2), the verbs transport beside perftest, in turns.
Prints each pair, then "ratio=R least=R most=R best=R", ours / theirs: median, least and most of the pairs,
and the best of ours / the best of theirs, which asks less of a busy machine.

  64k 1m   goodput of puts of that size beside ib_write_bw: 2 queue pairs, half a MiB (at least one write) on its way in each
  lat      half the time of a put of 4 KiB that is answered by one, beside ib_write_lat, one queue pair
  gather   BLOCKS (a third argument) blocks of 4 KiB at random, 64 copied into a put, beside ib_write_bw's one write for
           each block, 64 deep; also a line "requests one=N gathered=N fewer=X" of work requests"""
import os
import re
import statistics
import subprocess
import sys
import time

BENCH = os.path.join(os.environ.get("KVW_BUILD", "build"), "tests", "verbs", "verbs_bench")
SENDER, LISTENER = "10.77.1.2", "10.77.1.1"
QPS, BLOCK = 2, 4096
MB = {"64k": (65536, 800, 8), "1m": (1 << 20, 50, 1)}  # bytes, puts, depth


def fail(text):
    sys.exit("ratio.py: " + text)


def perftest(program, *args):
    """The line of figures."""
    common = [program, "-x", "1", "-F"] + [str(a) for a in args]
    server = subprocess.Popen(common + ["-d", "rxe0"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 20
        while not subprocess.run(["ss", "-Hltn", "sport = :18515"], capture_output=True, text=True).stdout:
            if time.monotonic() > end or server.poll() is not None:
                fail(program + " does not listen")
            time.sleep(0.05)
        out = subprocess.run(common + ["-d", "rxe1", LISTENER], capture_output=True, text=True, timeout=60)
        if out.returncode != 0 or server.wait(20) != 0:
            fail("%s: %s" % (program, (out.stderr or out.stdout)[-300:]))
    finally:
        server.kill()
        server.wait()
    return [float(x) for x in re.findall(r"^ *\d+ +\d+ .*$", out.stdout, re.M)[-1].split()]


port = 9400


def bench(mode, *args, qps=QPS):
    """verbs_bench's figures by name."""
    global port
    port += 1
    out = subprocess.run([BENCH, mode, SENDER, "%s:%d,qps=%d" % (LISTENER, port, qps)] + [str(a) for a in args],
                         capture_output=True, text=True, timeout=120)
    if out.returncode != 0:
        fail("verbs_bench %s: %s" % (mode, out.stderr[-300:]))
    return {k: float(v) for k, v in re.findall(r"([A-Za-z/0-9]+)=([0-9.]+)", out.stdout)}


def bandwidth(what):
    size, puts, depth = MB[what]
    theirs = perftest("ib_write_bw", "-s", size, "-n", puts // QPS, "-q", QPS, "-t", depth, "--report_gbits")[3] * 125
    return bench("bw", size, puts)["MB/s"], theirs


def latency():
    write = perftest("ib_write_lat", "-s", 4096, "-n", 500)[4]
    return bench("lat", 4096, 500, qps=1)["us"], write


requests = []


def gather(blocks):
    """One write for each block, in order and without an immediate: as perftest does it, since ours would need a place for each."""
    one = perftest("ib_write_bw", "-s", BLOCK, "-n", blocks // QPS, "-q", QPS, "-t", 64, "-Q", 16, "--report_gbits")[3] * 125
    many = bench("gather", blocks)
    requests.append((blocks, many["writes"] + many["sends"]))
    return many["MB/s"], one


def main():
    what, pairs = sys.argv[1], int(sys.argv[2])
    blocks = int(sys.argv[3]) if len(sys.argv) > 3 else 100000
    got = []
    for i in range(pairs):
        ours, theirs = bandwidth(what) if what in MB else latency() if what == "lat" else gather(blocks)
        got.append((ours, theirs))
        print("pair %d: ours %.2f, theirs %.2f, %.3f" % (i + 1, ours, theirs, ours / theirs), flush=True)
    ratios = sorted(a / b for a, b in got)
    if requests:
        print("requests one=%d gathered=%d fewer=%.1f" % (*requests[0], requests[0][0] / requests[0][1]))
    best = min if what == "lat" else max
    print("ratio=%.3f least=%.3f most=%.3f best=%.3f" % (statistics.median(ratios), ratios[0], ratios[-1],
          best(a for a, _ in got) / best(b for _, b in got)))


main()
