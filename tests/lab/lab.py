#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Two hosts on one machine: network namespaces a and b, joined by a veth pair.

    lab.py check                          exit 0 if this machine can do it; else 77, and a sentence why
    lab.py run [OPTION...] -- COMMAND     run COMMAND beside a lab; its environment says where the ends are
      --mtu N           9000
      --no-offloads     neither end may be given more than one packet at a time (TSO, GSO, GRO off)
      --rate RATE       shape a to b by tbf, as 1gbit
      --loss SHARE      lose this share of a's packets, as 0.001 (eBPF, see drop.bpf.c)
      --longest BYTES   lose what is longer: a path with a smaller MTU that tells nobody

    KVW_LAB_A=name of a's namespace   KVW_LAB_DEV_A=its interface   KVW_LAB_IP_A, KVW_LAB_IP6_A=its addresses
    and the same for B.

A lab is gone when its process ends. If that is killed, the next lab removes what it left, and the processes in it.
"""
import argparse
import ctypes
import os
import signal
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
PREFIX = "kvwlab-"
DEV = {"a": "kvwa", "b": "kvwb"}
IP = {"a": "10.77.0.1", "b": "10.77.0.2"}
IP_DPDK = {"a": "10.77.0.11", "b": "10.77.0.12"}  # of DPDK's ports, beside the kernel's
IP6 = {"a": "fd77::1", "b": "fd77::2"}


class NoLab(Exception):
    """This machine can't make a lab; the text says why."""


def sh(*words, check=True):
    r = subprocess.run(words, capture_output=True, text=True)
    if check and r.returncode != 0:
        raise NoLab("%s: %s" % (" ".join(words), (r.stderr or r.stdout).strip().splitlines()[-1:] or r.returncode))
    return r.stdout


def start_time(pid):
    """Of a process, in clock ticks; None: it is over. With the pid it names a process for ever."""
    try:
        with open("/proc/%d/stat" % pid) as f:
            fields = f.read().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def remove(name):
    for pid in sh("ip", "netns", "pids", name, check=False).split():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except (OSError, ValueError):
            pass
    sh("ip", "netns", "del", name, check=False)


def reap():
    """Remove the labs of processes that are gone."""
    for line in sh("ip", "netns", "list", check=False).splitlines():
        name = line.split()[0] if line.split() else ""
        parts = name.split("-")
        if name.startswith(PREFIX) and len(parts) == 4 and start_time(int(parts[1])) != parts[2]:
            remove(name)


def check():
    if os.geteuid() != 0:
        raise NoLab("network namespaces need root (CAP_SYS_ADMIN and CAP_NET_ADMIN)")
    for tool in ("ip", "tc"):
        if not any(os.access(os.path.join(d, tool), os.X_OK) for d in os.environ["PATH"].split(":") + ["/usr/sbin", "/sbin"]):
            raise NoLab("there is no %s (Debian: iproute2)" % tool)
    name = "%s%d-%s-x" % (PREFIX, os.getpid(), start_time(os.getpid()))
    sh("ip", "netns", "add", name)
    try:
        sh("ip", "-n", name, "link", "add", "kvwx", "type", "veth", "peer", "name", "kvwy")
    finally:
        sh("ip", "netns", "del", name, check=False)


class Lab:
    """with Lab(mtu=1500, rate="1gbit") as lab: lab.popen("a", ["iperf3", ...])"""

    def __init__(self, mtu=9000, offloads=True, rate=None, loss=None, longest=None):
        self.mtu, self.offloads, self.rate, self.loss, self.longest = mtu, offloads, rate, loss, longest
        base = "%s%d-%s-" % (PREFIX, os.getpid(), start_time(os.getpid()))
        self.ns = {"a": base + "a", "b": base + "b"}
        self.lossy = bool(loss or longest)
        self.children = []

    def __enter__(self):
        check()
        reap()
        try:
            self.build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def build(self):
        for end in "ab":
            sh("ip", "netns", "add", self.ns[end])
            self.ip(end, "link", "set", "lo", "up")
            # No duplicate address detection: addresses work at once.
            self.exec(end, "sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad")
        sh("ip", "link", "add", DEV["a"], "netns", self.ns["a"], "type", "veth", "peer", "name", DEV["b"], "netns", self.ns["b"])
        for end in "ab":
            self.ip(end, "link", "set", DEV[end], "mtu", str(self.mtu))
            self.ip(end, "addr", "add", IP[end] + "/24", "dev", DEV[end])
            self.ip(end, "addr", "add", IP6[end] + "/64", "dev", DEV[end], "nodad")
            if not self.offloads:
                # gso_max_segs 1 also keeps TCP from building what software would have to cut.
                self.ip(end, "link", "set", DEV[end], "gso_max_segs", "1")
                self.exec(end, "ethtool", "-K", DEV[end], "tso", "off", "gso", "off", "gro", "off", "tx-udp-segmentation", "off")
            self.ip(end, "link", "set", DEV[end], "up")
        if self.rate:
            self.tc("a", "qdisc", "add", "dev", DEV["a"], "root", "tbf", "rate", self.rate, "burst", "256kb", "latency", "20ms")
        if self.loss or self.longest:
            self.drop("a", self.loss or 0, self.longest)

    def drop(self, end, share=0, longest=None):
        """From now on, lose this share of what leaves an end, and what is longer."""
        with tempfile.TemporaryDirectory() as tmp:
            obj = os.path.join(tmp, "drop.o")
            words = ["clang", "-O2", "-g", "-target", "bpf", "-I/usr/include/%s-linux-gnu" % os.uname().machine,
                     "-DDROP_PPM=%d" % round(share * 1e6), "-c", os.path.join(HERE, "drop.bpf.c"), "-o", obj]
            sh(*(words + (["-DDROP_LONGER=%d" % longest] if longest else [])))
            self.tc(end, "qdisc", "replace", "dev", DEV[end], "clsact")
            self.tc(end, "filter", "replace", "dev", DEV[end], "egress", "prio", "1", "handle", "1", "bpf", "da", "obj", obj, "sec", "tc")

    def af_packet(self, end):
        """DPDK's port on this end's interface, as --link has it."""
        # Its sockets go around the qdisc and tc's egress, unless told not to; a shaper and a classifier must see them.
        more = ",args=qdisc_bypass=0" if self.rate or self.lossy else ""
        # A port lets its peer have as many packets in flight as its ring holds. Of short ones that takes the 512 of the
        # default: 128 are 1.5 ms at 1 Gb/s, less than processes that share cores pause for.
        ring = 128 if self.mtu > 4096 else 512
        # A MAC of its own: the kernel then drops these frames at once, rather than look for a route for each.
        return "af_packet:%s,ip=%s/24,mac=02:00:00:00:00:0%s,ring=%d%s" % (DEV[end], IP_DPDK[end], end, ring, more)

    def ip(self, end, *words, check=True):
        return sh("ip", "-n", self.ns[end], *words, check=check)

    def tc(self, end, *words):
        return sh("tc", "-n", self.ns[end], *words)

    def exec(self, end, *words):
        return sh("ip", "netns", "exec", self.ns[end], *words)

    def popen(self, end, words, **how):
        p = subprocess.Popen(["ip", "netns", "exec", self.ns[end]] + list(words), preexec_fn=die_with_parent, **how)
        self.children.append(p)
        return p

    def env(self):
        e = dict(os.environ)
        for end in "ab":
            up = end.upper()
            e.update({"KVW_LAB_" + up: self.ns[end], "KVW_LAB_DEV_" + up: DEV[end], "KVW_LAB_IP_" + up: IP[end], "KVW_LAB_IP6_" + up: IP6[end]})
        return e

    def __exit__(self, *_):
        for p in self.children:
            if p.poll() is None:
                p.kill()
                p.wait()
        for name in self.ns.values():
            remove(name)


def main(argv):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["check", "run"])
    p.add_argument("--mtu", type=int, default=9000)
    p.add_argument("--no-offloads", action="store_true")
    p.add_argument("--rate")
    p.add_argument("--loss", type=float)
    p.add_argument("--longest", type=int)
    at = argv.index("--") if "--" in argv else len(argv)
    a, words = p.parse_args(argv[:at]), argv[at + 1:]
    if a.what == "run" and not words:
        p.error("run needs -- COMMAND")
    try:
        if a.what == "check":
            check()
            return 0
        with Lab(a.mtu, not a.no_offloads, a.rate, a.loss, a.longest) as lab:
            return subprocess.run(words, env=lab.env(), preexec_fn=die_with_parent).returncode
    except NoLab as e:
        print("lab: %s" % e, file=sys.stderr)
        return 77


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
