#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""port_cost.py SLICE [PAIRS]: what the packet protocol keeps of a device's goodput.

Both ends of a vhost/virtio-user link on one CPU. A: the bare ports, each packet a 40-byte head and a
body lent from a cold pool, placed into another pool by the receiver. B: the same ports with the
protocol over them, puts from the same pool into the same. Each is the best of three short runs, since what else runs on
the machine (it is the memory that they share) only takes away; all interleaved. The median of the pairs' B / A.
"""
import os
import re
import statistics
import subprocess
import sys

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
BENCH = os.path.join(ROOT, "build", "tests", "net", "dpdk_bench")


def goodput(mode, slice_bytes):
    out = subprocess.run(
        [BENCH, mode, "one_cpu=1", "seconds=0.2", f"slice={slice_bytes}", f"max={slice_bytes + 192}", "ring=128"],
        capture_output=True, text=True, timeout=60, check=True).stdout
    return float(re.search(r"([0-9.]+) Gb/s", out).group(1))


def main():
    slice_bytes = int(sys.argv[1])
    pairs = int(sys.argv[2]) if len(sys.argv) > 2 else 7
    ratios, bare, whole = [], [], []
    for _ in range(pairs):
        runs = [(goodput("goodput", slice_bytes), goodput("protocol", slice_bytes)) for _ in range(3)]
        bare.append(max(a for a, _ in runs))
        whole.append(max(b for _, b in runs))
        ratios.append(whole[-1] / bare[-1])
    print(f"{slice_bytes} B slices: bare {statistics.median(bare):.1f} Gb/s ({min(bare):.1f} - {max(bare):.1f}), "
          f"with the protocol {statistics.median(whole):.1f} ({min(whole):.1f} - {max(whole):.1f}); "
          f"ratios {' '.join(f'{r:.3f}' for r in sorted(ratios))}")
    print(f"RESULT {statistics.median(ratios):.3f} 1")


main()
