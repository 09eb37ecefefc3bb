#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""version1.py loop|udp|dpdk [TURNS]: KV from end to end on one CPU, beside the library of wire version 1.

That library's last tree is built from this repository's history, with the same bench/one_core.c. The two run in turns; each
run gives its goodput, and what memcpy does on the same CPU between its rounds. Prints the medians, and RESULT: goodput over
version 1's, by the medians. SKIP where the history is not there (a shallow clone)."""
import os
import re
import statistics
import subprocess
import sys
import tempfile

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
TREE = "137dff7"  # of 2026-11-24
ROUNDS = "31"


def build_old(folder):
    """Returns the program; None: there is no such commit here."""
    if subprocess.run(["git", "-C", ROOT, "cat-file", "-e", TREE + "^{commit}"], capture_output=True).returncode != 0:
        return None
    archive = subprocess.Popen(["git", "-C", ROOT, "archive", TREE], stdout=subprocess.PIPE)
    subprocess.run(["tar", "-x", "-C", folder], stdin=archive.stdout, check=True)
    if archive.wait() != 0:
        sys.exit("version1.py: git archive failed")
    with open(os.path.join(ROOT, "perf/bench/one_core.c")) as f:
        source = f.read()
    with open(os.path.join(folder, "perf/one_core.c"), "w") as f:
        f.write(source)
    with open(os.path.join(folder, "perf/meson.build"), "a") as f:
        f.write("executable('one_core', 'one_core.c', dependencies: [core_dep, dependency('threads')],\n"
                "  include_directories: '..', c_args: '-DVERSION_1')\n")
    for command in (["meson", "setup", "build"], ["ninja", "-C", "build", "perf/one_core"]):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"version1.py: {' '.join(command)}: {done.stdout[-2000:]}{done.stderr}")
    return os.path.join(folder, "build/perf/one_core")


def run(program, transport):
    """Returns GB/s moved and copied."""
    out = subprocess.run([program, transport, ROUNDS], capture_output=True, text=True, timeout=300, check=True).stdout
    moved, copied = re.findall(r"^\w+ +([0-9.]+) \(", out, re.M)
    return float(moved), float(copied)


def said(values):
    return f"{statistics.median(values):.3f} ({min(values):.3f} .. {max(values):.3f})"


def main():
    transport, turns = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5
    with tempfile.TemporaryDirectory(prefix="kvwire-version1-") as folder:
        old = build_old(folder)
        if old is None:
            print(f"SKIP the history has no {TREE}")
            return
        runs = {"now": [], "version 1": []}
        for _ in range(turns):
            runs["now"].append(run(os.path.join(ROOT, "build/perf/one_core"), transport))
            runs["version 1"].append(run(old, transport))
    for name, values in runs.items():
        print(f"{transport}, {name}: {said([m for m, _ in values])} GB/s, over memcpy {said([m / c for m, c in values])}")
    now, then = (statistics.median(m for m, _ in runs[name]) for name in ("now", "version 1"))
    print(f"RESULT {now / then:.4f} 1")


main()
