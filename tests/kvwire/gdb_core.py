#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kvwire/gdb.py shows what a core is doing: gdb stops examples/01_loopback while a chunk is under way and asks; a core file of that
moment says the same; and what is no core is refused. gdb_core.py PROGRAM; 77 where gdb can't run it."""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

HELPER = pathlib.Path(__file__).resolve().parents[2] / "kvwire" / "gdb.py"


def gdb(*arguments):
    env = dict(os.environ, ASAN_OPTIONS="detect_leaks=0", DEBUGINFOD_URLS="")
    run = subprocess.run(["gdb", "-nx", "-batch", "-x", str(HELPER), *arguments], text=True, env=env, timeout=100,
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return run.stdout


def expect(text, pattern):
    if not re.search(pattern, text, re.M):
        sys.exit("nothing like %r in:\n%s" % (pattern, text))


def main():
    program = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        core = os.path.join(folder, "core")
        sanitized = b"__asan_init" in pathlib.Path(program).read_bytes()  # its core file would hold terabytes of shadow
        keep = [] if sanitized else ["-ex", "generate-core-file " + core]
        live = gdb("-ex", "break kvw_depart_put_done", "-ex", "run", "-ex", "kvw", "-ex", "kvw 5", *keep, "-ex", "kill", program)
        if "Breakpoint 1," not in live:
            print("skipped: gdb could not run the program:\n" + live)
            sys.exit(77)
        for pattern in (r"^core 0x\w+ of instance 0x\w+, at \d+\.\d{6} s",
                        r"^peers: 1, 1 up$",
                        r"^  peer 1 \S+: up, connection \d+; instance 0x\w+",
                        r"^  stream [0-9a-f]{32}: open, 100 tokens, ",
                        r"^    flow \d+ with peer 1: open, \d+ chunks, \d+ raw bytes left",
                        r"^landing slots: \d+ of \d+ bytes, \d+ free, \d+ landed$",
                        r"^  \d+: flight, \d+ raw bytes as \d+, flow \d+, layer 0, part \d, rows 0 \+ 2, entries 0 \+ \d+$",
                        r"^5 is int, not a pointer to a kvw_core or kvw_node$"):
            expect(live, pattern)
        stream = re.search(r"^  stream .*$", live, re.M).group(0)
        if not sanitized:
            expect(gdb("-ex", "kvw", program, core), "^" + re.escape(stream) + "$")
        expect(gdb("-ex", "kvw", program), "^no process and no core file")
    print("ok")


if __name__ == "__main__":
    main()
