#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""two.py [OPTION...] COMMAND_A COMMAND_B

Two hosts: two guests, a (10.77.0.1) and b (10.77.0.2), of one CPU and 1 GB each, joined by one Ethernet link (eth0, with
rxe0 on it). Each runs its command (a line for bash) at once; the output comes with "a| " and "b| " before each line.
Exit status: 0 if both ended with 0, else the first other one; 125 and 77 as guest.py's.

In the guests: $KVW_SELF and $KVW_PEER are the addresses; /run/both is a folder that both see. A command that must wait
for the other's: "until [ -e /run/both/ready ]; do sleep 0.1; done"."""
import argparse
import os
import shutil
import signal
import socket
import sys
import tempfile

import guest
import image

ADDRESSES = {"a": "10.77.0.1", "b": "10.77.0.2"}


class Pair:
    """Both guests. run() gives {name: (status, stdout, stderr)}; out(name, text) sees each line as it comes."""

    def __init__(self, netem="", mtu=9000, memory=1024, seconds=120, env=None):
        self.netem, self.mtu, self.memory, self.seconds, self.env = netem, mtu, memory, seconds, dict(env or {})

    def make(self, name, fd, both):
        env = dict(self.env, KVW_SELF=ADDRESSES[name], KVW_PEER=ADDRESSES["b" if name == "a" else "a"],
                   KVW_GUEST_MTU=str(self.mtu), KVW_NETEM=self.netem)
        qemu = ["-netdev", "socket,id=link,fd=%d" % fd, "-device", "virtio-net-pci,disable-legacy=on,netdev=link,addr=0xc,"
                "mac=52:54:00:6b:76:0%s,host_mtu=%d,romfile=" % (name, self.mtu),
                "-virtfs", "local,path=%s,mount_tag=both,security_model=none" % both]
        return guest.Guest(name=name, memory=self.memory, cpus=1, seconds=self.seconds, setup=["pair"], env=env, qemu=qemu)

    def run(self, commands, out=lambda name, stream, text: None):
        both = tempfile.mkdtemp(prefix="kvw-both-")
        ends = dict(zip("ab", socket.socketpair()))
        pair, status, texts = {}, {}, {n: {"stdout": b"", "stderr": b""} for n in "ab"}
        try:
            for name, end in ends.items():
                pair[name] = self.make(name, end.fileno(), both)
                pair[name].start(["bash", "-c", commands[name]], pass_fds=(end.fileno(),))
            while len(status) < 2:
                guest.nap()
                for name, g in pair.items():
                    now = status.get(name)
                    if name not in status and (now := g.poll()) is not None:
                        status[name] = now
                    for stream in ("stdout", "stderr"):
                        self.lines(texts[name], name, stream, g.fresh(stream), now is not None, out)
        finally:
            for g in pair.values():
                g.close()
            for end in ends.values():
                end.close()
            shutil.rmtree(both, ignore_errors=True)
        return {n: (status[n], texts[n]["stdout"].decode(errors="replace"), texts[n]["stderr"].decode(errors="replace"))
                for n in "ab"}

    @staticmethod
    def lines(texts, name, stream, data, last, out):
        """Adds DATA; whole lines go to OUT."""
        seen = texts[stream]
        start = seen.rfind(b"\n") + 1
        texts[stream] = seen + data
        *whole, rest = texts[stream][start:].split(b"\n")
        for line in whole:
            out(name, stream, line.decode(errors="replace"))
        if last and rest and data:
            out(name, stream, rest.decode(errors="replace"))


def show(name, stream, text):
    f = sys.stdout if stream == "stdout" else sys.stderr
    print("%s| %s" % (name, text), file=f, flush=True)


def main():
    signal.signal(signal.SIGTERM, guest.on_signal)
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--netem", default="", metavar="ARGS", help='tc netem on what leaves each guest: "delay 5ms loss 1%%"')
    p.add_argument("--mtu", type=int, default=9000)
    p.add_argument("--memory", type=int, default=1024, metavar="MB")
    p.add_argument("--seconds", type=int, default=120, help="each command's time (120)")
    p.add_argument("a", metavar="COMMAND_A")
    p.add_argument("b", metavar="COMMAND_B")
    o = p.parse_args()
    try:
        got = Pair(o.netem, o.mtu, o.memory, o.seconds).run({"a": o.a, "b": o.b}, show)
        bad = [got[n][0] for n in "ab" if got[n][0] != 0]
        sys.exit(bad[0] if bad else 0)
    except image.Unavailable as e:
        print("two: %s" % e, file=sys.stderr)
        sys.exit(guest.SKIPPED)
    except guest.Failed as e:
        print(e, file=sys.stderr)
        sys.exit(guest.FAILED)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
