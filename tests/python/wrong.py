#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""wrong.py [COUNT [SEED]]: COUNT calls with random wrong arguments (10,000; by hand 100,000). Each must either do
what it says or raise kvwire.Error with a sentence; anything else fails, a crash first of all. At the end memory must
have grown by little, and the node must still move a request."""
import random
import resource
import sys

import kvwire

JUNK = [None, True, -1, 0, 1, 2, 7, 31, 32, 63, 64, 255, 1 << 31, 1 << 32, 1 << 63, 1 << 64, -(1 << 70), 1.5,
        float("nan"), float("inf"), "", "x", "request", "a\0b", "\udcff", "ü" * 300, "127.0.0.1:1", "not an address", b"",
        b"x" * 16, b"\0" * 64, [], [0], [1, 2, 3], [-1], [1 << 40], ["a"], [None], (), (1,), (0, 0), {}, {"a": 1}, set(),
        object(), bytearray(4096), memoryview(b"ro"), memoryview(bytearray(64))[::2], print, kvwire.Blocks([1]),
        kvwire.Blocks(None), kvwire.Blocks([0, 1], group=9), kvwire.Blocks([0], token_first=3),
        kvwire.Blocks([0], want=(5, 1)), kvwire.Blocks([0], want=7), "exact", "e8", "raw", "udp", "dpdk/../x"]


class Caller:
    def __init__(self, seed):
        self.r = random.Random(seed)
        self.memory = bytearray(2 * 2 * 8 * 16 * 2 * 8 * 2)
        self.desc = kvwire.paged_kv(self.memory, "KLBTHD", shape=(2, 2, 8, 16, 2, 8), dtype="bf16")
        self.node = kvwire.Node("wrong", transport="loop", local="wrong-a", listen=True, xfers_max=64)
        self.pool = self.node.add_pool(self.desc)
        self.other = kvwire.Node("other", transport="loop", local="wrong-a")
        self.peer = self.other.add_peer(None)
        self.came = kvwire.Peer(self.node, next(e for e in self.node.events(5) if e.kind == 1).peer)
        self.other_pool = self.other.add_pool(self.desc)
        self.transfers = []

    def any(self, right):
        """A right argument four times of five, so that calls get past their first check."""
        return right if self.r.random() < 0.8 else self.r.choice(JUNK)

    def call(self):
        r, a, n = self.r, self.any, self.node
        x = r.choice(self.transfers) if self.transfers and r.random() < 0.9 else None
        kind = r.randrange(16)
        if kind == 0:
            self.transfers.append(n.offer(a(self.pool), a("k%d" % r.randrange(99)), a(20), a([1, 2]), a(self.came),
                                          budget=a("exact"), exact_first=a(0), take_by=a(1), lease=a(1),
                                          deadline=a(None)))
        elif kind == 1:
            self.transfers.append(n.stream(a(self.pool), a("k%d" % r.randrange(99)), a(20), a([1, 2]), receivers=a(1),
                                           offer_by=a(1), deadline=a(None)))
        elif kind == 2 and isinstance(x, kvwire.Stream):
            x.push(a(1), a(20))
        elif kind == 3 and isinstance(x, kvwire.Stream):
            x.commit(a(b"note"))
        elif kind == 4 and x is not None:
            x.abort(a("why"))
        elif kind == 5 and isinstance(x, kvwire.Offer):
            x.layer_ready(a(1))
        elif kind == 6 and x is not None:
            x.wait(r.choice([0, 0, 0, "x", -1, None if x.done else 0]))
        elif kind == 7:
            n.refuse(a(self.came), a("k1"), a("no"), a(-4))
        elif kind == 8:
            desc = kvwire.paged_kv(a(self.memory), a("KLBTHD"), shape=a((2, 2, 8, 16, 2, 8)), dtype=a("bf16"),
                                   layers=a(None), name=a("m"), fingerprint=a(None), heads_model=a(None),
                                   head_first=a(0), model_layers=a(None))
            n.add_pool(desc).remove()
        elif kind == 9:
            self.described()
        elif kind == 10:
            kvwire.memory_of(r.choice(JUNK))
        elif kind == 11:
            kvwire.Node(a("n"), transport=a("loop"), local=a("wrong-%d" % r.randrange(9)), listen=a(False),
                        codec=a("choose"), encoders=r.choice([0, 1 << 31, -1, "x", None]), fault=a(None),
                        slots=r.choice([0, 1 << 31, "x"]), instance=a(0), dead_ms=a(0),
                        open_timeout=r.choice([1, "x", -1])).close()
        elif kind == 12:
            peer = n.add_peer(r.choice([b"", b"KVB2", b"KVB2" + b"\0" * 40, 5, [], "x" * 300, "a\0b"]))
            peer.drop()
        elif kind == 13:
            kvwire.key_of(a("x"))
        elif kind == 14:
            kvwire.Peer(a(n), a(3)).info()
        else:
            for node in (n, self.other):  # a full queue holds a node up
                while node.next_event() is not None:
                    pass
            self.transfers = [t for t in self.transfers if t.done is None or self.r.random() < 0.2][-80:]

    def described(self):
        """A pool of Group, Part and Plane with one thing wrong, or two."""
        a = self.any
        base = kvwire.memory_of(self.memory).address
        planes = [kvwire.Plane(a(base), a(512), a(32), a(16), a(0)) for _ in range(2)]
        part = kvwire.Part(a("k"), a("bf16"), a(16), a(2), a(planes), a(0), a(2))
        group = kvwire.Group(a([0, 1]), a(8), a(16), a([part]), a(1), a("paged"), a(0))
        desc = kvwire.PoolDesc(a([self.memory]), a([group]), a("m"), a(b"f" * 16), a(2))
        self.node.add_pool(desc).remove()

    def still_works(self):
        """After all that a request goes through, and its bytes are those that were sent."""
        for t in self.transfers:
            try:
                t.abort()
            except kvwire.NotFoundError:
                pass
        for node in (self.node, self.other):
            while node.next_event() is not None:
                pass
        to = bytearray(len(self.memory))
        self.memory[:] = bytes(i * 7 & 255 for i in range(len(self.memory)))
        fresh = dict(shape=(2, 2, 8, 16, 2, 8), dtype="bf16", name="after")
        here = self.node.add_pool(kvwire.paged_kv(to, "KLBTHD", **fresh))
        there = self.other.add_pool(kvwire.paged_kv(self.memory, "KLBTHD", **fresh))
        offer = self.node.offer(here, "at the end", 128, range(8), self.came)
        stream = self.other.stream(there, "at the end", 128, range(8))
        for layer in range(2):
            stream.push(layer, 128)
        stream.commit()
        offer.wait(10)
        return to == self.memory


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 32)
    print("seed %d" % seed, flush=True)
    c, raised, speechless = Caller(seed), {}, []
    settled = 0
    for i in range(count):
        if i == count // 4:
            settled = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            c.call()
        except kvwire.Error as e:
            raised[e.name] = raised.get(e.name, 0) + 1
            if not e.sentence:
                speechless.append(repr(e))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - settled
    ok = c.still_works()
    print("%d calls; raised %s; %d without a sentence %s; %d KiB grown after the first quarter; then a request %s" % (
        count, raised, len(speechless), speechless[:3], grown, "went through" if ok else "came wrong"))
    return 0 if ok and not speechless and grown < 16384 and sum(raised.values()) > count // 4 else 1


if __name__ == "__main__":
    sys.exit(main())
