# SPDX-License-Identifier: Apache-2.0
"""Region and Batch: memory without a shape, read and written by address (kvwire/core_batch.h)."""

from __future__ import annotations

import array
import time
from dataclasses import dataclass
from typing import Any

from ._abi import ffi, lib
from .args import name_of, note_of, sentence_of, until_ns_of
from .errors import DeadlineError, Error, InvalidError, error_of
from .memory import memory_of
from .pool import _Keeper, sequence

__all__ = ["Region", "Batch", "BatchStatus"]

SLICE_NS = 100_000_000  # how long one wait in C lasts at most, so that Node.close() isn't held up


class Region:
    """Memory without a shape. Made by Node.add_region()."""

    __slots__ = ("_node", "id", "memory")

    def __init__(self, node: Any, memory: Any, read: bool, write: bool) -> None:
        self._node, self.memory = node, memory_of(memory)
        k = _Keeper()
        mem, args = k.new("struct kvw_mem *"), k.new("struct kvw_region_args *")
        mem.base, mem.bytes = ffi.cast("void *", self.memory.address), self.memory.nbytes
        mem.kind, mem.dmabuf_fd = 1, -1
        args.size, args.mem, args.mem_bytes = ffi.sizeof("struct kvw_region_args"), mem, ffi.sizeof("struct kvw_mem")
        args.rights = (1 if read else 0) | (2 if write else 0)
        out, why = ffi.new("kvw_region_id *"), ffi.new("char[]", 512)
        with node._call() as ptr:
            err = lib.kvw_node_region_add(ptr, args, out, why, 512)
        node._check(err, sentence_of(why))
        self.id = int(out.value)
        with node._cond:
            node._regions[self.id] = self

    def remove(self) -> None:
        """Posts that use it end with CanceledError; no byte of it is touched once this returns. Raises NotFoundError."""
        with self._node._call() as ptr:
            err = lib.kvw_node_region_remove(ptr, (self.id,))
        self._node._check(err, "region %d" % self.id)
        with self._node._cond:
            self._node._regions.pop(self.id, None)


@dataclass(frozen=True)
class BatchStatus:
    """state: "idle", "posted" or "done"; error: of the latest post, None while it isn't done and when it went well; sizes in
    bytes, moved of the latest post; times in ns."""

    state: str
    error: Error | None
    bytes: int
    moved: int
    posts: int
    runs: int
    post_ns: int
    first_ns: int
    end_ns: int


class Batch:
    """Pieces between this node's regions and a peer's. Made by Node.batch(); release() it, or use it in `with`."""

    __slots__ = ("_node", "id", "_released")

    def __init__(self, node: Any, op: str, peer: int, pieces: Any) -> None:
        self._released = True
        number = name_of({"read": 1, "write": 2}, op, "op")
        three = sequence(pieces, "pieces", 3, 3)
        columns = [sequence(c, "pieces[%d]" % i, 1, 100000) for i, c in enumerate(three)]
        if not len(columns[0]) == len(columns[1]) == len(columns[2]):
            raise InvalidError(-2, "pieces: %d locals, %d remotes, %d lengths" % tuple(len(c) for c in columns))
        try:
            flat = array.array("Q", [n for piece in zip(*columns) for n in piece])
        except (TypeError, OverflowError) as e:
            raise InvalidError(-2, "pieces: %s" % e) from None
        k = _Keeper()
        args = k.new("struct kvw_batch_args *")
        args.size, args.op, args.peer.value = ffi.sizeof("struct kvw_batch_args"), number, peer
        args.piece_count, args.piece_bytes = len(columns[0]), ffi.sizeof("struct kvw_batch_piece")
        args.pieces = ffi.cast("struct kvw_batch_piece *", flat.buffer_info()[0])
        out, why = ffi.new("kvw_batch_id *"), ffi.new("char[]", 512)
        with node._call() as ptr:
            err = lib.kvw_node_batch_make(ptr, args, out, why, 512)
        node._check(err, sentence_of(why))
        self._node, self.id, self._released = node, int(out.value), False

    def post(self, note: bytes | None = None, *, quiet: bool = True, deadline: float | None = None) -> None:
        """Move all pieces once; returns at once. note: the peer gets it as NOTIFY once all is in place. quiet: no
        BATCH_DONE event, ask with wait() or status(). deadline: seconds from now. Raises AgainError (the latest post hasn't
        ended), NotFoundError, PeerLostError, InvalidError."""
        k = _Keeper()
        args = k.new("struct kvw_post_args *")
        args.size, args.quiet = ffi.sizeof("struct kvw_post_args"), 1 if quiet else 0
        if note is not None:
            args.note, args.note_bytes = k.new("char[]", note_of(note) + b"\0"), len(note)
        args.deadline_ns = 0 if deadline is None else until_ns_of(deadline, "deadline")
        why = ffi.new("char[]", 512)
        with self._node._call() as ptr:
            err = lib.kvw_node_batch_post(ptr, (self.id,), args, why, 512)
        self._node._check(err, sentence_of(why))

    @staticmethod
    def _status(s: Any) -> BatchStatus:
        error = error_of(s.err, sentence_of(s.text)) if s.state == 3 and s.err != 0 else None
        return BatchStatus({1: "idle", 2: "posted", 3: "done"}.get(s.state, "?"), error, s.bytes, s.moved, s.posts, s.runs,
                           s.post_ns, s.first_ns, s.end_ns)

    def status(self) -> BatchStatus:
        """Raises NotFoundError after release()."""
        s = ffi.new("struct kvw_batch_status *")
        s.size = ffi.sizeof("struct kvw_batch_status")
        with self._node._call() as ptr:
            err = lib.kvw_node_batch_status(ptr, (self.id,), s)
        self._node._check(err, "batch %d" % self.id)
        return self._status(s)

    def wait(self, timeout: float | None = 30) -> BatchStatus:
        """Wait until the latest post has ended. Once it returns, a WRITE's bytes are in the peer's memory, a READ's in
        this side's. Raises the post's Error, DeadlineError after timeout seconds, NotFoundError after release()."""
        until = until_ns_of(timeout)
        s = ffi.new("struct kvw_batch_status *")
        while True:
            s.size = ffi.sizeof("struct kvw_batch_status")
            now = time.monotonic_ns()
            with self._node._call() as ptr:
                err = lib.kvw_node_batch_wait(ptr, (self.id,), min(until, now + SLICE_NS), s)
            if err != -1 or s.state == 3:
                break
            if now >= until:
                raise DeadlineError(-23, "the post goes on after %s s" % timeout)
        status = self._status(s)
        if status.error is not None:
            raise status.error
        self._node._check(err, "batch %d" % self.id)
        return status

    def release(self) -> None:
        """Forget it; a post that is under way ends, late bytes of it land nowhere. A second call does nothing."""
        if self._released:
            return
        self._released = True
        with self._node._call() as ptr:
            lib.kvw_node_batch_release(ptr, (self.id,))

    def __enter__(self) -> "Batch":
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()
