#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""ratio.py WHAT ROUNDS [BLOCKS]: in a guest with rxe0 (10.77.1.1) and rxe1 (10.77.1.2), the verbs transport beside perftest, in
turns. Prints each pair, then "WHAT: ratio=R least=R most=R best=R", ours / theirs: median, least and most of the pairs, and the
best of ours / the best of theirs, which asks less of a busy machine.

  64k 1m   goodput of puts of that size beside ib_write_bw: 2 queue pairs, half a MiB (at least one write) on its way in each
  lat      half the time of a put of 4 KiB that is answered by one, beside ib_write_lat, one queue pair
  gather   BLOCKS (100000) blocks of 4 KiB at random, 64 copied into a put, beside ib_write_bw's one write for
           each block, 64 deep; also a line "requests one=N gathered=N fewer=X" of work requests
  all      each of them in turns: 64k in every round, 1m and lat in every second, gather in every fourth

Ours and theirs alike: the sender stays on CPU 0, the listener on CPU 1, and who is first changes from round to round. What perftest
gives as no number above zero ("inf", seen once) is measured again, at most twice for a figure, and told."""
import math
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
EVERY = {"64k": 1, "1m": 2, "lat": 2, "gather": 4}  # of all's rounds
TRIES = 3


def fail(text):
    sys.exit("ratio.py: " + text)


def perftest_once(program, args, column):
    common = [program, "-x", "1", "-F"] + [str(a) for a in args]
    server = subprocess.Popen(["taskset", "-c", "1"] + common + ["-d", "rxe0"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 20
        while not subprocess.run(["ss", "-Hltn", "sport = :18515"], capture_output=True, text=True).stdout:
            if time.monotonic() > end or server.poll() is not None:
                fail(program + " does not listen")
            time.sleep(0.05)
        out = subprocess.run(["taskset", "-c", "0"] + common + ["-d", "rxe1", LISTENER], capture_output=True, text=True, timeout=60)
        if out.returncode != 0 or server.wait(20) != 0:
            fail("%s: %s" % (program, (out.stderr or out.stdout)[-300:]))
    finally:
        server.kill()
        server.wait()
    return re.findall(r"^ *\d+ +\d+ .*$", out.stdout, re.M)[-1].split()[column]


def perftest(program, *args, column=3):
    """One figure of perftest's last line."""
    for _ in range(TRIES):
        text = perftest_once(program, args, column)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if math.isfinite(value) and value > 0:
            return value
        print("%s says '%s': measured again" % (program, text), flush=True)
    fail("%s says '%s', %d times" % (program, text, TRIES))


port = 9400


def bench(mode, *args, qps=QPS):
    """verbs_bench's figures by name."""
    global port
    port += 1
    out = subprocess.run([BENCH, mode, SENDER, "%s:%d,qps=%d" % (LISTENER, port, qps)] + [str(a) for a in args],
                         capture_output=True, text=True, timeout=120, env=dict(os.environ, KVW_BENCH_CPUS="0,1"))
    if out.returncode != 0:
        fail("verbs_bench %s: %s" % (mode, out.stderr[-300:]))
    return {k: float(v) for k, v in re.findall(r"([A-Za-z/0-9]+)=([0-9.]+)", out.stdout)}


def ib_write_bw(size, writes, depth, *more):
    """MB/s; perftest's MB are MiB."""
    return perftest("ib_write_bw", "-s", size, "-n", writes // QPS, "-q", QPS, "-t", depth, *more) * 1.048576


requests = None


def gathered(blocks):
    global requests
    many = bench("gather", blocks)
    requests = (blocks, many["writes"] + many["sends"])
    return many["MB/s"]


def sides(what, blocks):
    """Two functions: ours, theirs."""
    if what in MB:
        size, puts, depth = MB[what]
        return lambda: bench("bw", size, puts)["MB/s"], lambda: ib_write_bw(size, puts, depth)
    if what == "lat":
        return lambda: bench("lat", BLOCK, 500, qps=1)["us"], lambda: perftest("ib_write_lat", "-s", BLOCK, "-n", 500, column=4)
    # One write for each block, in order and without an immediate: as perftest does it, since ours would need a place for each.
    return lambda: gathered(blocks), lambda: ib_write_bw(BLOCK, blocks, 64, "-Q", 16)


def pair(what, number, blocks):
    ours, theirs = sides(what, blocks)
    if number % 2 == 0:
        a = ours()
        b = theirs()
    else:
        b = theirs()
        a = ours()
    print("%s pair %d: ours %.2f, theirs %.2f, %.3f" % (what, number + 1, a, b, a / b), flush=True)
    return a, b


def tell(what, got):
    ratios = sorted(a / b for a, b in got)
    best = min if what == "lat" else max
    if what == "gather":
        print("requests one=%d gathered=%d fewer=%.1f" % (*requests, requests[0] / requests[1]))
    print("%s: ratio=%.3f least=%.3f most=%.3f best=%.3f" % (what, statistics.median(ratios), ratios[0], ratios[-1],
          best(a for a, _ in got) / best(b for _, b in got)))


def main():
    if len(sys.argv) not in (3, 4) or sys.argv[1] not in [*EVERY, "all"]:
        sys.exit(__doc__)
    what, rounds = sys.argv[1], int(sys.argv[2])
    blocks = int(sys.argv[3]) if len(sys.argv) > 3 else 100000
    got = {w: [] for w in (EVERY if what == "all" else [what])}
    for i in range(rounds):
        for w in got:
            if what != "all" or i % EVERY[w] == 0:
                got[w].append(pair(w, len(got[w]), blocks))
    for w in got:
        tell(w, got[w])


main()
