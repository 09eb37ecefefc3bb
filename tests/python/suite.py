#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""suite.py LIBRARY: the Python package against that libkvwire.so, in a few seconds. Prints TAP. Python is this one, with
cffi and mypy; neither NumPy nor PyTorch is needed (a case says so by hiding them)."""
import asyncio
import os
import re
import socket
import subprocess
import sys
import threading
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
PACKAGE = os.path.join(ROOT, "kvwire", "python")
os.environ["KVWIRE_LIBRARY"] = os.path.abspath(sys.argv[1])
os.environ["KVWIRE_PLUGINS"] = os.path.dirname(os.path.abspath(sys.argv[1]))
os.environ["PYTHONPATH"] = PACKAGE
sys.path[:0] = [PACKAGE, HERE]

import abi  # noqa: E402
import kvwire  # noqa: E402
import proxied  # noqa: E402
from kvwire import _abi  # noqa: E402

SHAPE = dict(shape=(2, 3, 8, 4, 2, 8), dtype="bf16")
BYTES = 2 * 3 * 8 * 4 * 2 * 8 * 2


def port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run(*args, timeout=120):
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, timeout=timeout)


class Pair:
    """A sender and a receiver of this process, joined."""

    def __init__(self):
        where = "127.0.0.1:%d" % port()
        self.d = kvwire.Node("decode", local=where, listen=True)
        self.p = kvwire.Node("prefill")
        self.to, self.of = bytearray(BYTES), bytearray(os.urandom(BYTES))
        self.d_pool = self.d.add_pool(kvwire.paged_kv(self.to, "KLBTHD", **SHAPE))
        self.p_pool = self.p.add_pool(kvwire.paged_kv(self.of, "KLBTHD", **SHAPE))
        self.p.add_peer(self.d.blob()).wait_up(20)
        self.peer = next(kvwire.Peer(self.d, e.peer) for e in self.d.events(20) if e.kind == kvwire.EventKind.PEER_UP)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.p.close()
        self.d.close()

    def both(self, key, tokens=32):
        ids = list(range((tokens + 3) // 4))
        return (self.d.offer(self.d_pool, key, tokens, ids, self.peer), self.p.stream(self.p_pool, key, tokens, ids))


def staged_and_pulled():
    with Pair() as x:
        ids = list(range(8))
        with kvwire.Node("serial", local="127.0.0.1:%d" % port(), listen=True, stage_bytes=2 * BYTES) as n:
            pool = n.add_pool(kvwire.paged_kv(x.of, "KLBTHD", **SHAPE))
            peer = x.d.add_peer(n.blob())
            peer.wait_up(20)
            s = n.stage(pool, "later", 32, ids, until=20)
            for layer in range(3):
                s.push(layer, 32)
            s.commit(b"first")
            s.wait(20)
            expected, x.of[:] = bytes(x.of), bytes(BYTES)  # its blocks are others' at once
            e = x.d.offer(x.d_pool, None, 32, ids, peer, staged=s.reference).wait(20)
            assert e.note == b"first" and bytes(x.to) == expected and bytes(x.to) != bytes(x.of)
            assert n.stage(pool, "dropped", 32, ids).drop() is None
            again = x.d.offer(x.d_pool, None, 32, ids, peer, staged=[s.reference])
            for refused, word in ((lambda: again.wait(20), "has been pulled"), (s.drop, "gone"),
                                  (lambda: x.d.offer(x.d_pool, None, 32, ids, peer, staged=b"x" * 32), "no reference")):
                try:
                    refused()
                except kvwire.Error as err:
                    assert word in str(err), err
                else:
                    raise AssertionError("it was not refused: " + word)
        try:
            x.p.stage(x.p_pool, "nowhere", 32, ids)
        except kvwire.UnsupportedError as err:
            assert "stage_bytes" in str(err)
        else:
            raise AssertionError("staged without memory")


def offsets():
    assert abi.differences(_abi.ffi) == []
    wider = _abi.cffi.FFI()
    wider.cdef(_abi.CDEF.replace("uint32_t chunks; uint64_t at_ns;", "uint64_t chunks; uint64_t at_ns;"))
    assert len(abi.differences(wider)) > 5, "a struct with another field isn't noticed"


def two_processes():
    got = run(os.path.join(HERE, "two.py"), str(port()), "udp")
    assert got.returncode == 0 and "0 blocks differ" in got.stdout, got


def two_processes_control():
    got = run(os.path.join(HERE, "two.py"), str(port()), "udp", "damage")
    assert got.returncode == 3 and "1 blocks differ" in got.stdout, got


def wrong_arguments():
    got = run(os.path.join(HERE, "wrong.py"), "10000")
    assert got.returncode == 0, got


def without_numpy():
    """Import, and a pool of a bytearray, where numpy and torch can't be imported."""
    code = ("import sys; sys.modules['numpy'] = sys.modules['torch'] = None; import kvwire;"
            "n = kvwire.Node(transport='loop', local='alone');"
            "n.add_pool(kvwire.paged_kv(bytearray(%d), 'KLBTHD', shape=%r, dtype='bf16')); n.close(); print('fine')"
            % (BYTES, SHAPE["shape"]))
    got = run("-c", code)
    assert got.stdout == "fine\n", got


def no_library():
    got = subprocess.run([sys.executable, "-c", "import kvwire"], capture_output=True, text=True,
                         env=dict(os.environ, KVWIRE_LIBRARY="/nonexistent/lib.so"))
    assert got.returncode != 0 and "ImportError: kvwire: its library can't be loaded" in got.stderr, got


def types():
    got = run("-m", "mypy", "--strict", "--allow-subclassing-any", "--ignore-missing-imports", "--cache-dir", os.path.join(ROOT, "build", "mypy"),
              "-p", "kvwire", timeout=300)
    assert got.returncode == 0, got.stdout


def module():
    got = run("-m", "kvwire")
    assert got.returncode == 0 and kvwire.__version__ in got.stdout, got
    rows = dict(re.findall(r"^(udp|loop|dpdk|verbs) +(yes|no) ", got.stdout, re.M))
    assert rows["udp"] == rows["loop"] == "yes" and len(rows) == 4, got.stdout


def sentences():
    """Each says which field, and its value or what was expected."""
    def fails(kind, pattern, call):
        try:
            call()
        except kind as e:
            assert e.code < 0 and e.name.startswith("E_") and re.search(pattern, e.sentence), e
            return
        raise AssertionError("no %s: %s" % (kind.__name__, pattern))

    def wrong_push(stream):
        """At once, or, if the node's thread was at work, as the end of the transfer."""
        stream.push(9, 4)
        stream.wait(10)

    fails(kvwire.UnsupportedError, "no transport 'smoke'", lambda: kvwire.Node(transport="smoke"))
    fails(kvwire.InvalidError, "codec is 'gzip'; there are choose raw", lambda: kvwire.Node(codec="gzip"))
    fails(kvwire.Error, "", lambda: kvwire.Node(local="nowhere"))
    fails(kvwire.InvalidError, "read-only", lambda: kvwire.memory_of(b"text"))
    with Pair() as x:
        fails(kvwire.InvalidError, r"blocks\[0\]\.ids is -1", lambda: x.p.stream(x.p_pool, "k", 4, [-1]))
        fails(kvwire.InvalidError, r"blocks\[0\] is 99, the pool has 8", lambda: x.p.stream(x.p_pool, "k", 4, [99]))
        fails(kvwire.InvalidError, "Pool of this node", lambda: x.p.stream(x.d_pool, "k", 4, [0]))
        fails(kvwire.InvalidError, "key is 5", lambda: x.p.stream(x.p_pool, 5, 4, [0]))
        offer, stream = x.both("sentences")
        fails(kvwire.Error, "layer 9", lambda: wrong_push(x.both("a wrong push")[1]))
        fails(kvwire.InvalidError, "isn't pushed in full", stream.commit)
        fails(kvwire.DeadlineError, "still open", lambda: offer.wait(0.01))
        stream.push(0, 32)
        time.sleep(0.1)
        stream.abort("the model was out of sorts")
        fails(kvwire.CanceledError, "out of sorts", lambda: offer.wait(10))
        assert offer.done is not None and set(offer.done.bad_blocks[0]) == set(range(8)), offer.done
        fails(kvwire.NotFoundError, "has ended", stream.abort)
        pool = x.p_pool
        pool.remove()
        fails(kvwire.NotFoundError, "pool", pool.remove)
        x.p.close()
        fails(kvwire.ClosedError, "closed", lambda: x.p.stats())


def waits():
    """Several threads wait on one node for different transfers; close() ends those that still wait; no GIL is held."""
    with Pair() as x:
        pairs = [x.both("wait %d" % i, 4) for i in range(6)]
        ended, ticks = {}, [0]

        def one(i):
            try:
                ended[i] = pairs[i][0].wait(20).note
            except kvwire.Error as e:
                ended[i] = e.name

        threads = [threading.Thread(target=one, args=(i,)) for i in range(6)]
        for t in threads:
            t.start()
        until = time.monotonic() + 0.2
        while time.monotonic() < until:
            ticks[0] += 1
        for i, (_, stream) in list(enumerate(pairs))[:5]:
            for layer in range(3):
                stream.push(layer, 4)
            stream.commit(b"%d" % i)
        for t in threads[:5]:
            t.join(20)
        assert ended == {i: b"%d" % i for i in range(5)}, ended
        x.d.close()
        threads[5].join(5)
        assert ended[5] == "E_CANCELED" and ticks[0] > 1000, (ended, ticks)


def async_events():
    async def go():
        with Pair() as x:
            offer, stream = x.both("async")
            for layer in range(3):
                stream.push(layer, 32)
            stream.commit(b"note")
            seen = []
            async for event in x.d:
                seen.append(event.kind.name)
                if event.kind == kvwire.EventKind.XFER_DONE:
                    assert event.transfer is offer and event.note == b"note"
                    break
            assert seen.count("LAYER_READY") == 3, seen
            assert x.to[:1000] == x.of[:1000] and any(x.to[:1000])
            assert "kvwire_transfers_ok_total 1" in x.d.metrics() and x.d.stats()["xfers_ok"] == 1

    async def closed():
        x = Pair()
        asyncio.get_running_loop().call_later(0.2, x.d.close)
        async for event in x.d:
            pass
        x.p.close()

    asyncio.run(asyncio.wait_for(go(), 30))
    asyncio.run(asyncio.wait_for(closed(), 5))


def blocks_later():
    """A stream whose blocks become known while it is pushed, as with chunked prefill."""
    with Pair() as x:
        ids = [5, 2, 7, 1]
        offer = x.d.offer(x.d_pool, "later", 14, ids, x.peer)
        stream = x.p.stream(x.p_pool, "later", 14, [5, 0, 0, 0])
        for layer in range(3):
            stream.push(layer, 4)
        stream.set_blocks(1, [2, 7])
        for layer in range(3):
            stream.push(layer, 10)
        for first, wrong in ((2, [3]), (3, [1, 4]), (3, [8]), (9, [1])):
            try:
                stream.set_blocks(first, wrong)
                raise AssertionError("blocks %d: %r were taken" % (first, wrong))
            except kvwire.InvalidError:
                pass
        stream.set_blocks(3, [1])
        for layer in range(3):
            stream.push(layer, 14)
        stream.commit()
        offer.wait(10)
        block = 4 * 2 * 8 * 2
        for kv in range(2):
            for layer in range(3):
                for i, b in enumerate(ids):
                    at = ((kv * 3 + layer) * 8 + b) * block
                    length = block if i < 3 else block // 2
                    assert x.to[at:at + length] == x.of[at:at + length], (kv, layer, i)
        try:
            offer_as_stream = kvwire.Stream(x.d, offer.ref, x.d_pool, offer.key)
            offer_as_stream.set_blocks(0, [1])
            raise AssertionError("an offer's blocks were changed")
        except (kvwire.InvalidError, kvwire.NotFoundError):
            pass


def batches():
    """READ and WRITE of pieces, a notification behind the data, sentences for what can't be."""
    with Pair() as x:
        here, there = bytearray(os.urandom(4096)), bytearray(4096)
        mine, theirs = x.p.add_region(here, read=False, write=False), x.d.add_region(there)
        at, to = kvwire.memory_of(here).address, theirs.memory.address
        peer = kvwire.Peer(x.p, 1)
        until = time.monotonic() + 10
        while True:
            try:
                if peer.regions():
                    break
            except kvwire.AgainError:
                pass
            assert time.monotonic() < until
            time.sleep(0.001)
        assert peer.regions() == [(to, 4096, True, True)], peer.regions()
        with x.p.batch("write", peer, ([at, at + 100], [to + 3000, to], [1000, 50])) as batch:
            batch.post(b"after it")
            assert batch.wait(10).moved == 1050
            assert there[3000:4000] == here[:1000] and there[:50] == here[100:150] and there[50] == 0
            batch.post()
            batch.wait(10)
            assert batch.status().posts == 2
        notes, until = [], time.monotonic() + 10
        while not notes and time.monotonic() < until:
            notes += [e.note for e in x.d.events(0.5) if e.kind == kvwire.EventKind.NOTIFY]
        assert notes == [b"after it"], notes
        with x.p.batch("read", peer, ([at], [to + 3000], [900])) as batch:
            here[:900] = bytes(900)
            batch.post()
            batch.wait(10)
            assert here[:900] == there[3000:3900] and any(here[:900])
        for wrong in (([at], [to], []), ([at], [to + 4090], [10]), ([1], [to], [8]), ([at], [1], [8]), "pieces", ([], [], []),
                      ([-1], [to], [8]), ([at], [to], [0]), ([at], ["x"], [8])):
            try:
                x.p.batch("write", peer, wrong)
                raise AssertionError("%r was taken" % (wrong,))
            except kvwire.Error as e:
                assert e.sentence, wrong
        mine.remove()
        theirs.remove()


def mooncake():
    """The class beside what the real one was seen to do; alone in its process, as an alias too."""
    got = run(os.path.join(HERE, "moon.py"), "60", "7")
    assert got.returncode == 0 and "60 batches: 0 wrong" in got.stdout, got
    got = subprocess.run([sys.executable, "-c", "import kvwire; from mooncake.engine import TransferEngine as t; print(t.__module__)"],
                         capture_output=True, text=True, env=dict(os.environ, KVWIRE_AS_MOONCAKE="1"))
    assert got.stdout == "kvwire.mooncake\n", got


def proxy():
    proxied.check(port)


def buffers():
    """A pool holds its memory; remove gives it back."""
    with kvwire.Node(transport="loop", local="buffers") as node:
        kv = bytearray(BYTES)
        pool = node.add_pool(kvwire.paged_kv(kv, "KLBTHD", **SHAPE))
        try:
            kv.append(1)
            raise AssertionError("a pool's memory was resized")
        except BufferError:
            pass
        pool.remove()
        del pool
        kv.append(1)


def vllm_halves():
    """In a process of its own: it has stand-ins for vLLM's modules."""
    got = run(os.path.join(HERE, "halves.py"), timeout=600)
    assert got.returncode == 0, got


CASES = [offsets, staged_and_pulled, two_processes, two_processes_control, wrong_arguments, without_numpy, no_library, types, module, sentences,
         waits, async_events, blocks_later, batches, mooncake, proxy, buffers, vllm_halves]


def main():
    bad = 0
    for n, case in enumerate(CASES, 1):
        begun = time.monotonic()
        try:
            case()
            print("ok %d - %s (%.1f s)" % (n, case.__name__.replace("_", " "), time.monotonic() - begun), flush=True)
        except Exception:
            bad += 1
            print("not ok %d - %s" % (n, case.__name__.replace("_", " ")))
            print("# " + traceback.format_exc().strip().replace("\n", "\n# "), flush=True)
    print("1..%d" % len(CASES))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
