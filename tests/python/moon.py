#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""moon.py [BATCHES [SEED]]: kvwire.mooncake's TransferEngine against mooncake-transfer-engine's over TCP, if that is
installed, else against what it was seen to do: random batches below its limit of 2,000 entries, the same for both, must
leave the same bytes and return the same codes; then wrong addresses, a dead peer (one that comes back: sglang_calls.py). Exit status 1: they
differ. One process holds both ends of an engine, as peers of each other."""
import ctypes
import random
import subprocess
import sys
import time

SIZE = 1 << 20


def engines(kind):
    if kind == "kvwire":
        from kvwire import mooncake as m
    else:
        from mooncake import engine as m
    return m


class Ends:
    """Two engines of one kind, a buffer each."""

    def __init__(self, kind):
        self.m = engines(kind)
        self.kind = kind
        self.a, self.b = self.m.TransferEngine(), self.m.TransferEngine()
        for e in (self.a, self.b):
            assert e.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", "") == 0
        self.session = "127.0.0.1:%d" % self.b.get_rpc_port()
        self.mine, self.theirs = ctypes.create_string_buffer(SIZE), ctypes.create_string_buffer(SIZE)
        self.at, self.there = ctypes.addressof(self.mine), ctypes.addressof(self.theirs)
        assert self.a.register_memory(self.at, SIZE) == 0 and self.b.register_memory(self.there, SIZE) == 0


def batch(r, most):
    """(op, [(local offset, remote offset, length)]): pieces that don't overlap where they are written."""
    n = r.choice([1, 1, 2, 5, 16, 100, r.randint(1, most)])
    step = SIZE // n
    places = list(range(n))
    r.shuffle(places)
    return r.choice(("write", "read")), [(i * step, p * step, r.randint(1, min(step, 65536))) for i, p in enumerate(places)]


def apply(ends, op, pieces, shift=0):
    call = ends.a.batch_transfer_sync_write if op == "write" else ends.a.batch_transfer_sync_read
    return call(ends.session, [ends.at + p[0] for p in pieces], [ends.there + p[1] + shift for p in pieces], [p[2] for p in pieces])


def expected(mine, theirs, op, pieces):
    for local, remote, length in pieces:
        if op == "write":
            theirs[remote:remote + length] = mine[local:local + length]
        else:
            mine[local:local + length] = theirs[remote:remote + length]


def same_batches(kinds, count, seed):
    r = random.Random(seed)
    all_ends = [Ends(k) for k in kinds]
    first = r.randbytes(SIZE), r.randbytes(SIZE)
    mine, theirs = bytearray(first[0]), bytearray(first[1])
    seconds, wrong = {k: 0.0 for k in kinds}, 0
    for e in all_ends:
        e.mine.raw, e.theirs.raw = first
    for i in range(count):
        op, pieces = batch(r, 1500)
        expected(mine, theirs, op, pieces)
        for e in all_ends:
            begun = time.monotonic()
            code = apply(e, op, pieces)
            seconds[e.kind] += time.monotonic() - begun
            if code != 0 or e.mine.raw != mine or e.theirs.raw != theirs:
                wrong += 1
                print("%s: batch %d of seed %d: code %d %s" % (e.kind, i, seed, code, getattr(e.a, "last_error", str)()))
                e.mine.raw, e.theirs.raw = bytes(mine), bytes(theirs)
    print("%d batches: %d wrong; seconds %s" % (count, wrong, {k: round(s, 2) for k, s in seconds.items()}))
    control = bytearray(theirs)
    control[SIZE // 2] ^= 1
    assert all_ends[0].theirs.raw != control, "the comparison can't see a byte"
    return wrong, all_ends


def codes(e):
    """What calls return, by name."""
    a, at, there = e.a, e.at, e.there
    seen = {"beyond the end": apply(e, "write", [(0, SIZE - 8, 16)]), "not registered": apply(e, "write", [(0, 0, 8)], 1 << 40)}
    seen["read, not registered"] = apply(e, "read", [(0, 0, 8)], 1 << 40)
    seen["after that, a good one"] = a.transfer_sync_write(e.session, at, there, 8)
    number = a.batch_transfer_async_write(e.session, [at], [there], [64])
    seen["async id"], seen["its status"] = number > 0, a.get_batch_transfer_status([number])
    number = a.transfer_submit_write(e.session, at, there, 8)
    until = time.monotonic() + 5
    while (status := a.transfer_check_status(number)) == 0 and time.monotonic() < until:
        time.sleep(0.001)
    seen["check of a submitted one"] = status
    seen["probe"] = a.send_probe(e.session)
    seen["register twice, unregister"] = (e.b.unregister_memory(there), e.b.register_memory(there, SIZE))
    seen["after it"] = a.transfer_sync_write(e.session, at, there, 8)
    return seen


def dead(e):
    """The peer is another process that is killed."""
    child = subprocess.Popen([sys.executable, __file__, "--peer", e.kind], stdout=subprocess.PIPE, text=True)
    session, address = child.stdout.readline().split()
    before = e.a.transfer_sync_write(session, e.at, int(address), 8), e.a.send_probe(session)
    child.kill()
    child.wait()
    time.sleep(1.5)
    after = e.a.transfer_sync_write(session, e.at, int(address), 8), e.a.send_probe(session)
    return {"alive": before, "dead": after}


def peer(kind):
    m = engines(kind)
    e, held = m.TransferEngine(), ctypes.create_string_buffer(4096)
    e.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", "")
    e.register_memory(ctypes.addressof(held), 4096)
    print("127.0.0.1:%d" % e.get_rpc_port(), ctypes.addressof(held), flush=True)
    time.sleep(60)


#: of mooncake-transfer-engine-non-cuda 0.3.13.post1, tcp, as this script printed it
SEEN = {"beyond the end": -1, "not registered": -1, "read, not registered": -1, "after that, a good one": 0, "async id": True,
        "its status": 0, "check of a submitted one": 1, "probe": 0, "register twice, unregister": (0, 0), "after it": 0,
        "alive": (0, 0), "dead": (-1, -102)}


def main():
    if sys.argv[1:2] == ["--peer"]:
        peer(sys.argv[2])
        return 0
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 32)
    kinds = ["kvwire"]
    try:
        import mooncake.engine  # noqa: F401
        kinds.append("mooncake")
    except ImportError:
        print("mooncake-transfer-engine isn't installed: compared with what it was seen to do")
    print("seed %d" % seed)
    wrong, all_ends = same_batches(kinds, count, seed)
    for e in all_ends:
        seen = dict(codes(e), **dead(e))
        for name, code in SEEN.items():
            if seen[name] != code:
                print("%s: %s: %r, not %r %s" % (e.kind, name, seen[name], code, getattr(e.a, "last_error", str)()))
                wrong += 1
    ours = all_ends[0]
    n = 10000
    big = [(i * 100, (n - 1 - i) * 100, 64) for i in range(n)]
    ours.mine.raw = random.Random(seed).randbytes(SIZE)
    ours.theirs.raw = bytes(SIZE)
    code, want = apply(ours, "write", big), bytearray(SIZE)
    expected(bytearray(ours.mine.raw), want, "write", big)
    if code != 0 or ours.theirs.raw != want:
        print("10,000 pieces at once: %d %s" % (code, ours.a.last_error()))
        wrong += 1
    ours.a.transfer_sync(ours.session, ours.at, ours.there, 8, 1, ours.m.TransferNotify("name", "message"))
    until = time.monotonic() + 5
    while not (came := ours.b.get_notifies()) and time.monotonic() < until:
        time.sleep(0.001)
    if [(n.name, n.msg) for n in came] != [("name", "message")]:
        print("notifications: %r" % came)
        wrong += 1
    print("%d differences" % wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
