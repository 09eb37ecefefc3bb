#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Seconds from typing the quickstart, everything being installed and built, to the first word of the answer.
Median of three."""
import os
import statistics
import subprocess
import sys
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))


def once():
    start = time.monotonic()
    with subprocess.Popen([os.path.join(ROOT, "examples", "quickstart.sh")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as p:
        p.stdout.read(1)
        took = time.monotonic() - start
        p.stdout.read()
    if p.returncode != 0:
        sys.exit("quickstart.sh ended with %d" % p.returncode)
    return took


once()  # builds, if it must
times = [once() for _ in range(3)]
print("first word after %s s" % ", ".join("%.2f" % t for t in times))
print("RESULT %.2f" % statistics.median(times))
