#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""two_hosts.py [--seconds N] [--rounds N] [--ratio NET/NET] NETEM...: goodput between two guests (tests/guest/two.py), of
RDMA (perftest's ib_write_bw; our verbs transport), of our packets (udp; dpdk on af_packet) and of TCP (our checked
transfer; iperf3) under the same loss and delay. NETEM is what tc's netem does to all that leaves either guest
("loss 1% delay 5ms"; "none"). Prints a table of MB/s, median of the rounds; all but ib_write_bw and iperf3 check every
byte. With --ratio, "RESULT" is that quotient under the last NETEM, rounds being interleaved."""
import argparse
import os
import shlex
import signal
import statistics
import sys

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
sys.path.insert(0, os.path.join(ROOT, "tests", "guest"))

import guest  # noqa: E402
import image  # noqa: E402
import two  # noqa: E402

NETS = ["ib_write_bw", "verbs", "udp", "dpdk", "tcp", "iperf3"]


def main():
    signal.signal(signal.SIGTERM, guest.on_signal)  # so that the guests end too
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seconds", type=int, default=4)
    p.add_argument("--rounds", type=int, default=1)
    p.add_argument("--nets", default=" ".join(NETS))
    p.add_argument("--ratio", metavar="NET/NET")
    p.add_argument("netem", nargs="+")
    o = p.parse_args()
    os.chdir(ROOT)
    nets = o.ratio.split("/") if o.ratio else o.nets.split()
    env = {"KVW_NETS": " ".join(nets * o.rounds), "KVW_BUILD": os.environ.get("KVW_BUILD", os.path.join(ROOT, "build"))}
    script = "exec bash tests/guest/in_two.sh table %d %s" % (o.seconds, shlex.join(o.netem))
    got = {}

    def row(name, stream, text):
        if name == "b" and stream == "stdout" and text.startswith("row "):
            setting, net, rate = text[4:].split("|")
            got.setdefault((setting, net), []).append(float(rate) if rate != "failed" else 0.0)
        elif text.strip():
            print("%s: %s" % (name, text), file=sys.stderr)

    try:
        seconds = 60 + len(o.netem) * len(nets) * o.rounds * (o.seconds + 25)
        two.Pair(env=env, seconds=seconds).run({"a": script, "b": script}, row)
    except (image.Unavailable, guest.Failed) as e:
        sys.exit("two_hosts: %s" % e)
    print("| netem | " + " | ".join(nets) + " |\n|---|" + "---|" * len(nets))
    for setting in o.netem:
        rates = [got.get((setting, net), [0.0]) for net in nets]
        print("| %s | %s |" % (setting, " | ".join("%.1f" % statistics.median(r) if min(r) > 0 else "failed" for r in rates)))
    if any(min(got.get((s, n), [0.0])) == 0 for s in o.netem for n in nets):
        sys.exit("two_hosts: a transfer failed")
    if o.ratio:
        a, b = (got[(o.netem[-1], n)] for n in nets)
        print("RESULT %.2f" % statistics.median(x / y for x, y in zip(a, b)))


main()
