#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The UDP transport between two hosts keeps its contract, and every way of losing the network or the peer ends in
recovery or in one sentence, never in a crash or a hang. veth.py [NAME...]: TAP; skips where no lab can be made."""
import json
import os
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import lab as labs  # noqa: E402
from lab import DEV, IP, IP6, IP_DPDK, Lab, NoLab  # noqa: E402

BUILD = os.path.join(labs.HERE, "..", "..", os.environ.get("KVW_BUILD", "build"))
BENCH = os.path.join(BUILD, "tests", "net", "transport_bench")
DEAD_S = 1.0  # KVW_PEER_DEAD_NS
BAD_ENDS = ("AddressSanitizer", "runtime error:", "LeakSanitizer", "Segmentation")


class Wrong(Exception):
    pass


def expect(holds, text):
    if not holds:
        raise Wrong(text)


class End:
    """One end of a transfer, in its own process and namespace."""

    def __init__(self, lab, end, seconds=3, family=4, port=9100, net="udp", more=()):
        ip, form = (IP, "%s:%d") if family == 4 else (IP6, "[%s]:%d")
        at = [net, form % (ip["b"], port), form % (ip["a"], 0)]
        if net == "af_packet":
            at = ["dpdk", lab.af_packet("b"), lab.af_packet("a"), "--peer", IP_DPDK["b"] + ":7400"]
        words = [BENCH] + at + ["--only", "listener" if end == "b" else "sender", "--seconds", str(seconds), "--json"]
        self.p = lab.popen(end, words + list(more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.began = time.monotonic()

    def wait(self, by):
        try:
            out, err = self.p.communicate(timeout=by)
        except subprocess.TimeoutExpired:
            raise Wrong("an end hangs: not over after %.1f s" % by)
        expect(self.p.returncode >= 0 and not any(b in err for b in BAD_ENDS), "an end crashed (%d): %s" % (self.p.returncode, err[-600:]))
        self.result = json.loads(out) if self.p.returncode == 0 and out.strip() else None
        self.said = err.strip()
        return self.p.returncode

    def kill(self):
        self.p.kill()
        self.p.communicate()


def pair(lab, seconds=3, **how):
    """The sender begins when the listener has its sockets: it asks for 2 s, and a busy machine may take longer to start that."""
    b = End(lab, "b", seconds, **how)
    until = time.monotonic() + 10
    while len(lab.exec("b", "cat", "/proc/net/udp", "/proc/net/udp6", "/proc/net/packet").splitlines()) <= 3:  # headings
        expect(time.monotonic() < until and b.p.poll() is None, "no listener within 10 s")
        time.sleep(0.05)
    return End(lab, "a", seconds, **how), b


def under_way(lab, seconds, **how):
    """A pair whose transfer runs: a busy machine may take long to start two processes."""
    a, b = pair(lab, seconds, **how)
    until = time.monotonic() + 10
    while json.loads(lab.ip("b", "-s", "-j", "link", "show", DEV["b"]))[0]["stats64"]["rx"]["bytes"] < 4 << 20:
        expect(time.monotonic() < until and a.p.poll() is None, "no transfer within 10 s")
        time.sleep(0.02)
    time.sleep(0.3)
    return a, b


def all_arrived(a, b, by=8):
    """Both ends finish by themselves, and what was sent is what landed, once each."""
    expect(a.wait(by) == 0, "the sender failed: %s" % a.said)
    expect(b.wait(by) == 0, "the listener failed: %s" % b.said)
    expect(a.result["puts"] == b.result["landed"] > 0 and b.result["wrong"] == 0, "sent %s, landed %s" % (a.result, b.result))


def ends_with_a_sentence(end, by):
    expect(end.wait(by) == 1 and "transport_bench: " in end.said, "exit %s, said '%s'" % (end.p.returncode, end.said))
    return end.said


def conformance(family):
    with Lab() as lab:
        env = dict(lab.env(), KVW_LAB_FAMILY=family)
        r = subprocess.run([os.path.join(BUILD, "tests", "conformance", "conformance_veth"), "--tap"], env=env, capture_output=True, text=True, timeout=170)
        lines = r.stdout.splitlines()
        ran = [x for x in lines if x.startswith("ok") and "SKIP" not in x]
        expect(r.returncode == 0 and len(ran) >= 20, "\n".join([x for x in lines if not x.startswith("ok")] + [r.stderr[-2000:]]))


def conformance_ipv4():
    conformance("4")


def conformance_ipv6():
    conformance("6")


def every_size_of_mtu():
    """From the smallest that IPv6 has to jumbo frames, both families."""
    for mtu, family in ((1280, 6), (1500, 4), (1500, 6), (4000, 4), (9000, 6)):
        with Lab(mtu=mtu) as lab:
            all_arrived(*pair(lab, 0.5, family=family))


def several_paths():
    with Lab() as lab:
        all_arrived(*pair(lab, 1, more=("--paths", "4")))


def loss_of_one_per_cent():
    with Lab(loss=0.01, offloads=False) as lab:
        a, b = pair(lab, 1.5)
        all_arrived(a, b)
        expect(a.result["lost"] > 0.003 * a.result["packets"], "nothing was lost: %s" % a.result)


def short_interruption():
    """The peer's interface goes down for 300 ms, less than a peer may be silent: nobody notices but the clock."""
    with Lab() as lab:
        a, b = under_way(lab, 2)
        lab.ip("b", "link", "set", DEV["b"], "down")
        time.sleep(0.3)
        lab.ip("b", "link", "set", DEV["b"], "up")
        all_arrived(a, b)


def interruption_of_the_own_interface():
    """The same at the sender, whose packets have no route meanwhile (ENETUNREACH)."""
    with Lab() as lab:
        a, b = under_way(lab, 2)
        lab.ip("a", "link", "set", DEV["a"], "down")
        time.sleep(0.3)
        lab.ip("a", "link", "set", DEV["a"], "up")
        all_arrived(a, b)


def down_for_good():
    with Lab() as lab:
        a, b = under_way(lab, 20)
        lab.ip("a", "link", "set", DEV["a"], "down")
        ends_with_a_sentence(a, DEAD_S + 2)
        expect(b.wait(DEAD_S + 2) == 0, "the listener failed: %s" % b.said)


def interface_deleted():
    with Lab() as lab:
        a, b = under_way(lab, 20)
        lab.ip("a", "link", "del", DEV["a"])  # takes its peer along
        ends_with_a_sentence(a, DEAD_S + 2)
        expect(b.wait(DEAD_S + 2) == 0, "the listener failed: %s" % b.said)


def path_smaller_than_the_interface():
    """Both interfaces say 9000, what is longer than 1500 is lost on the way, and nobody tells."""
    with Lab(longest=1500) as lab:
        all_arrived(*pair(lab, 1.5))


def path_shrinks_under_load(net="udp"):
    """A connection that used 9000 meets a hole for all that is longer than 1500."""
    with Lab() as lab:
        lab.lossy = True  # will be
        a, b = under_way(lab, 3, net=net)
        lab.drop("a", longest=1500)
        all_arrived(a, b, by=12)


def own_mtu_shrinks_under_load(net="udp"):
    """The sender's interface itself gets smaller: EMSGSIZE for packets of the size that was agreed on."""
    with Lab() as lab:
        a, b = under_way(lab, 3, net=net)
        lab.ip("a", "link", "set", DEV["a"], "mtu", "1500")
        all_arrived(a, b, by=12)


def path_shrinks_under_load_af_packet():
    path_shrinks_under_load("af_packet")


def own_mtu_shrinks_under_load_af_packet():
    """The driver drops what its interface has become too small for, and says nothing."""
    own_mtu_shrinks_under_load("af_packet")


def second_process_on_the_port():
    with Lab() as lab:
        a, b = under_way(lab, 2)
        second = End(lab, "b", 1)
        said = ends_with_a_sentence(second, 3)
        expect("10.77.0.2:9100: Address already in use" in said, "said '%s'" % said)
        all_arrived(a, b)


def nobody_there():
    with Lab() as lab:
        ends_with_a_sentence(End(lab, "a", 1), 5)


def no_such_address():
    with Lab() as lab:
        lab.ip("b", "addr", "flush", "dev", DEV["b"])
        said = ends_with_a_sentence(End(lab, "b", 1), 3)
        expect("10.77.0.2:9100: Cannot assign requested address" in said, "said '%s'" % said)


def listener_killed():
    """The sender says so in time, and the port serves the next listener at once."""
    with Lab() as lab:
        a, b = under_way(lab, 20)
        b.kill()
        ends_with_a_sentence(a, DEAD_S + 1.5)
        all_arrived(*pair(lab, 0.5))


def sender_killed():
    with Lab() as lab:
        a, b = under_way(lab, 20)
        a.kill()
        expect(b.wait(DEAD_S + 1.5) == 0 and b.result["wrong"] == 0, "the listener failed: %s" % b.said)


def peer_stopped_for_a_while():
    """SIGSTOP for less than a peer may be silent: the transfer goes on."""
    with Lab() as lab:
        a, b = under_way(lab, 2)
        b.p.send_signal(signal.SIGSTOP)
        time.sleep(0.4)
        b.p.send_signal(signal.SIGCONT)
        all_arrived(a, b)


def a_killed_lab_leaves_nothing():
    """SIGKILL for a lab: the next one removes its namespaces and the processes in them."""
    lab = os.path.join(labs.HERE, "lab.py")
    p = subprocess.Popen([sys.executable, lab, "run", "--", "sh", "-c", "echo $KVW_LAB_A; ip netns exec $KVW_LAB_A setsid sleep 1000 & wait"], stdout=subprocess.PIPE, text=True)
    name = p.stdout.readline().strip()
    inside, until = [], time.monotonic() + 10
    while not inside and time.monotonic() < until:
        time.sleep(0.05)
        inside = labs.sh("ip", "netns", "pids", name).split()
    p.kill()
    p.wait()
    expect(inside and name in labs.sh("ip", "netns", "list"), "the lab wasn't there: %s, %s" % (name, inside))
    labs.reap()
    time.sleep(0.1)
    expect(name not in labs.sh("ip", "netns", "list"), "%s is still there" % name)
    expect(not any(labs.start_time(int(pid)) for pid in inside), "processes survived")


TESTS = [conformance_ipv4, conformance_ipv6, every_size_of_mtu, several_paths, loss_of_one_per_cent, short_interruption,
         interruption_of_the_own_interface, down_for_good, interface_deleted, path_smaller_than_the_interface,
         path_shrinks_under_load, own_mtu_shrinks_under_load,
         path_shrinks_under_load_af_packet, own_mtu_shrinks_under_load_af_packet, second_process_on_the_port, nobody_there, no_such_address,
         listener_killed, sender_killed, peer_stopped_for_a_while, a_killed_lab_leaves_nothing]


def main(argv):
    tests = [t for t in TESTS if t.__name__ in argv] if argv else TESTS
    print("1..%d" % len(tests))
    try:
        labs.check()
        cannot = None
    except NoLab as e:
        cannot = str(e)
    bad = 0
    for i, t in enumerate(tests, 1):
        name = t.__name__.replace("_", " ")
        if cannot:
            print("ok %d - %s # SKIP %s" % (i, name, cannot), flush=True)
            continue
        began = time.monotonic()
        try:
            t()
            print("ok %d - %s (%.1f s)" % (i, name, time.monotonic() - began), flush=True)
        except (Wrong, NoLab, OSError, ValueError, subprocess.SubprocessError) as e:
            bad += 1
            print("not ok %d - %s\n# %s" % (i, name, str(e).replace("\n", "\n# ")), flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
