# SPDX-License-Identifier: Apache-2.0
"""python -m kvwire: version, features, which transports work on this machine, and why others don't."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

import kvwire

WHERE = {"udp": "127.0.0.1:0", "loop": "kvwire-probe", "dpdk": "FOLDER/probe.sock", "verbs": "127.0.0.1:0"}
ENDS = {"dpdk": (True, False)}  # a link of two processes, so its probe is two; else one that listens
SECONDS = 20


def probe(transport: str, folder: str, listen: bool) -> None:
    """In a process of its own: a transport may print, wait or crash. Prints one line, ends with 0 where it works."""
    try:
        with kvwire.Node("probe", transport=transport, local=WHERE[transport].replace("FOLDER", folder), listen=listen,
                         open_timeout=10) as node:
            print("\n" + (node.remark or "opened"), flush=True)
            if transport in ENDS:
                time.sleep(1)  # the other end is still to see this one
    except kvwire.Error as e:
        print("\n%s" % e)
        sys.exit(1)


def ask(transport: str) -> tuple[bool, str]:
    """(whether it works here, a sentence)."""
    with tempfile.TemporaryDirectory() as folder:
        ends: list[subprocess.Popen[str]] = []
        for listen in ENDS.get(transport, (True,)):
            until = time.monotonic() + 5
            while ends and not os.listdir(folder) and time.monotonic() < until:
                time.sleep(0.02)  # the first end's socket is where the second one looks for it
            ends.append(subprocess.Popen([sys.executable, "-m", "kvwire", "--probe", transport, folder,
                                          str(int(listen))], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                         text=True))
        works, said = True, ""
        for end in ends:
            try:
                out = end.communicate(timeout=SECONDS)[0].strip().splitlines() or [""]
                works = works and end.returncode == 0
                said = said or out[-1] or "the probe ended with %d" % end.returncode
            except subprocess.TimeoutExpired:
                end.kill()
                end.communicate()
                works, said = False, said or "it wasn't open after %d s" % SECONDS
        return works, said


def main() -> None:
    if len(sys.argv) == 5 and sys.argv[1] == "--probe" and sys.argv[2] in WHERE:
        probe(sys.argv[2], sys.argv[3], sys.argv[4] == "1")
        return
    if len(sys.argv) > 1:
        sys.exit("usage: python -m kvwire")
    print("kvwire %s  %s" % (kvwire.__version__, kvwire.library_path()))
    print(kvwire.features())
    for transport in WHERE:
        works, said = ask(transport)
        print("%-6s %-4s %s" % (transport, "yes" if works else "no", said))


if __name__ == "__main__":
    main()
