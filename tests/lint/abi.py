#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""abi.py BUILD [--write]: what a program that was built against libkvwire relies on, beside abi.txt: the names that the
library exports, and where each field of each public struct lies (x86-64, by clang).

A difference fails. What is only new, a name or a field at a struct's end, is written down with --write; anything else needs a
new SONAME: kvwire.map and soversion in meson.build."""
import glob
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.abspath(os.path.join(HERE, "..", ".."))
LIST = os.path.join(HERE, "abi.txt")


def headers():
    """The installed headers, from kvwire/meson.build."""
    with open(os.path.join(ROOT, "kvwire", "meson.build"), encoding="utf-8") as f:
        found = re.search(r"^install_headers\((.*), subdir", f.read(), re.M)
    return re.findall(r"'([\w.]+)'", found[1])


def exported(build):
    library = os.path.join(build, "libkvwire.so")
    out = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    names = {line.split()[-1].split("@")[0] for line in out.splitlines()}
    return ["symbol " + n for n in sorted(n for n in names if n.startswith("kvw_"))]


def layouts():
    source = "".join('#include "kvwire/%s"\n' % h for h in headers())
    out = subprocess.run(["clang", "-I", ROOT, "-D_GNU_SOURCE", "-std=gnu11", "-fsyntax-only", "-Xclang",
                          "-fdump-record-layouts-complete", "-x", "c", "-"], input=source, capture_output=True, text=True)
    if out.returncode != 0:
        sys.exit("abi.py: " + out.stderr)
    found = {}
    for part in out.stdout.split("*** Dumping AST Record Layout")[1:]:
        lines = part.strip("\n").splitlines()
        name = re.match(r" +0 \| struct (kvw_\w+)$", lines[0])
        if name is None:
            continue
        fields = [re.sub(r" +", " ", m[1] + " " + m[2]) for m in (re.match(r" +(\d+) \|   (\S.*)$", x) for x in lines[1:]) if m]
        size = re.search(r"\[sizeof=(\d+)", part)[1]
        found[name[1]] = ["struct %s %s" % (name[1], f) for f in fields] + ["struct %s sizeof %s" % (name[1], size)]
    return [line for name in sorted(found) for line in found[name]]


def main():
    words = [a for a in sys.argv[1:] if a != "--write"]
    build = os.path.abspath(words[0] if words else "build")
    now = exported(build) + layouts()
    if len(now) < 100 or not glob.glob(os.path.join(build, "libkvwire.so")):
        sys.exit("abi.py: only %d lines: something can't be read" % len(now))
    if "--write" in sys.argv:
        with open(LIST, "w", encoding="utf-8") as f:
            f.write("\n".join(now) + "\n")
        return
    with open(LIST, encoding="utf-8") as f:
        before = f.read().splitlines()
    gone, new = [x for x in before if x not in set(now)], [x for x in now if x not in set(before)]
    for mark, lines in (("gone or moved", gone), ("new", new)):
        for line in lines:
            print("%s: %s" % (mark, line))
    if gone or new:
        sys.exit("the ABI is not that of tests/lint/abi.txt; the first lines of tests/lint/abi.py say what to do")


if __name__ == "__main__":
    main()
