#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""nixl_two.py: two real NIXL agents (wheel nixl 1.5.1) in two processes over libplugin_KVWIRE.so, in NIXL's folder of plugins:
10,000 descriptors each way, posted again and again, every byte compared (and one damaged, which must be seen), notifications in
number and order, wrong addresses, a dead peer. Then NIXL's own UCX over TCP beside it, by turns: goodput of the same pieces. Prints
TAP."""
import base64
import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time

import numpy as np
from nixl._api import nixl_agent, nixl_agent_config

COUNT, EACH = 10000, 4096
SIZE = COUNT * EACH
ROUNDS = 5
TURNS = 7


def agent(name, backend="KVWIRE"):
    a = nixl_agent(name, nixl_agent_config(backends=[backend]))
    b = np.zeros(SIZE, np.uint8)
    a.register_memory(a.get_reg_descs([(b.ctypes.data, b.nbytes, 0, "")], "DRAM"))
    return a, b


def target(backend):
    a, b = agent("target", backend)
    print(json.dumps(dict(md=base64.b64encode(a.get_agent_metadata()).decode(), at=b.ctypes.data)), flush=True)
    came = []
    for line in sys.stdin:
        what, *more = line.split()
        if what == "md":
            a.add_remote_agent(base64.b64decode(more[0]))
            answer = "added"
        elif what == "damage":
            b[int(more[0])] ^= 1
            answer = "damaged"
        elif what == "digest":
            answer = hashlib.blake2b(b, digest_size=16).hexdigest()
        elif what == "fill":
            b[:] = np.random.default_rng(int(more[0])).integers(0, 256, SIZE, np.uint8)
            answer = "filled"
        else:
            for who, notes in a.get_new_notifs().items():
                came += [(who if isinstance(who, str) else who.decode(), n.decode()) for n in notes]
            answer = json.dumps(came)
        print("= " + answer, flush=True)


class Other:
    def __init__(self, backend="KVWIRE"):
        self.p = subprocess.Popen([sys.executable, __file__, "target", backend], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.told = json.loads(self.read("{"))

    def read(self, begin):
        while line := self.p.stdout.readline():
            if line.startswith(begin):
                return line[len(begin) - (begin == "{"):].strip()
        raise RuntimeError("the other agent ended")

    def __call__(self, *words):
        self.p.stdin.write(" ".join(map(str, words)) + "\n")
        self.p.stdin.flush()
        return self.read("= ")


def finish(a, h, state, seconds=60):
    until = time.monotonic() + seconds
    while state == "PROC" and time.monotonic() < until:
        state = a.check_xfer_state(h)
    return state


def moves(a, b, other, who, op):
    """All pieces, in another order on the other side, ROUNDS times by one handle."""
    order = np.random.default_rng(3).permutation(COUNT)
    mine = a.prep_xfer_dlist("NIXL_INIT_AGENT", [(b.ctypes.data + i * EACH, EACH, 0) for i in range(COUNT)], "DRAM")
    theirs = a.prep_xfer_dlist(who, [(other.told["at"] + int(i) * EACH, EACH, 0) for i in order], "DRAM")
    h = a.make_prepped_xfer(op, mine, list(range(COUNT)), theirs, list(range(COUNT)), b"moved by " + op.encode())
    seconds = []
    for _ in range(ROUNDS):
        begun = time.monotonic()
        state = finish(a, h, a.transfer(h))
        seconds.append(time.monotonic() - begun)
        if state != "DONE":
            return False, "state %s" % state
    a.release_xfer_handle(h)
    shuffled = np.empty_like(b)
    shuffled.reshape(COUNT, EACH)[order] = b.reshape(COUNT, EACH)
    want = hashlib.blake2b(shuffled, digest_size=16).hexdigest()
    same = other("digest") == want
    other("damage", 12345)
    seen = other("digest") != want
    return same and seen, "%d x %d bytes, %d times, best %.2f Gb/s; digests equal: %s; a damaged byte is seen: %s" % (
        COUNT, EACH, ROUNDS, SIZE * 8 / min(seconds) / 1e9, same, seen)


def refused(call):
    """Whether a call fails, by exception or by state, and how."""
    try:
        state = call()
        return state == "ERR", str(state)
    except Exception as e:  # NIXL's own classes
        return True, type(e).__name__


class Pair:
    """One handle for all pieces over one backend, to be posted again and again."""

    def __init__(self, backend):
        self.other = Other(backend)
        self.a, self.b = agent("beside-" + backend, backend)
        who = self.a.add_remote_agent(base64.b64decode(self.other.told["md"]))
        self.other("md", base64.b64encode(self.a.get_agent_metadata()).decode())
        mine = self.a.prep_xfer_dlist("NIXL_INIT_AGENT", [(self.b.ctypes.data + i * EACH, EACH, 0) for i in range(COUNT)], "DRAM")
        theirs = self.a.prep_xfer_dlist(who, [(self.other.told["at"] + i * EACH, EACH, 0) for i in range(COUNT)], "DRAM")
        order = np.random.default_rng(5).permutation(COUNT)
        self.h = self.a.make_prepped_xfer("WRITE", mine, list(range(COUNT)), theirs, [int(i) for i in order])
        self.rates = []

    def turn(self, seed):
        self.b[:] = np.random.default_rng(seed).integers(0, 256, SIZE, np.uint8)
        begun = time.monotonic()
        state = finish(self.a, self.h, self.a.transfer(self.h))
        self.rates.append(SIZE * 8 / (time.monotonic() - begun) / 1e9)
        return state == "DONE"


def beside():
    """Goodput as the initiator sees it, of what both say is done."""
    pairs = {backend: Pair(backend) for backend in ("KVWIRE", "UCX")}
    done = [pair.turn(seed) for seed in range(TURNS + 1) for pair in pairs.values()]
    ours, theirs = (pair.rates[1:] for pair in pairs.values())  # the first turn makes connections
    said = ", ".join("%s median %.2f Gb/s (%.2f to %.2f)" % (k, statistics.median(v), min(v), max(v))
                     for k, v in (("kvwire", ours), ("UCX over TCP", theirs)))
    for pair in pairs.values():
        pair.other.p.kill()
    return all(done) and statistics.median(ours) >= statistics.median(theirs), said


def main():
    if sys.argv[1:2] == ["target"]:
        target(sys.argv[2])
        return 0
    os.environ["UCX_TLS"] = "tcp"
    results = []
    other = Other()
    a, b = agent("init")
    who = a.add_remote_agent(base64.b64decode(other.told["md"]))
    other("md", base64.b64encode(a.get_agent_metadata()).decode())
    b[:] = np.random.default_rng(1).integers(0, 256, SIZE, np.uint8)
    results.append(("WRITE", *moves(a, b, other, who, "WRITE")))
    other("fill", 2)
    results.append(("READ", *moves(a, b, other, who, "READ")))
    a.send_notif(who, b"alone")
    until = time.monotonic() + 10
    want = [["init", "moved by WRITE"]] * ROUNDS + [["init", "moved by READ"]] * ROUNDS + [["init", "alone"]]
    while (came := json.loads(other("notifs"))) != want and time.monotonic() < until:
        time.sleep(0.01)
    results.append(("notifications, in order", came == want, "%d of %d" % (len(came), len(want))))

    def one(address):
        local = a.prep_xfer_dlist("NIXL_INIT_AGENT", [(b.ctypes.data, 64, 0)], "DRAM")
        remote = a.prep_xfer_dlist(who, [(address, 64, 0)], "DRAM")
        h = a.make_prepped_xfer("WRITE", local, [0], remote, [0], b"")
        return finish(a, h, a.transfer(h), 20)

    bad, how = refused(lambda: one(other.told["at"] + SIZE))
    results.append(("an address past the end", bad, how))
    good = one(other.told["at"])
    results.append(("after it, a good one", good == "DONE", good))
    other.p.send_signal(signal.SIGKILL)
    other.p.wait()
    bad, how = refused(lambda: one(other.told["at"]))
    results.append(("a peer that was killed", bad, how))
    results.append(("goodput beside UCX's TCP, %d x %d bytes, %d turns each" % (COUNT, EACH, TURNS), *beside()))
    for n, (name, right, said) in enumerate(results, 1):
        print("%sok %d - nixl: %s: %s" % ("" if right else "not ", n, name, said))
    print("1..%d" % len(results), flush=True)
    os._exit(0 if all(r[1] for r in results) else 1)  # the agents' own ends aren't what is looked at


if __name__ == "__main__":
    sys.exit(main())
