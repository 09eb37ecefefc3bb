# SPDX-License-Identifier: Apache-2.0
"""Node, Peer, Pool, Offer, Stream and their events: kvwire/node.h for Python.

Every call may come from any thread. The GIL isn't held while C works or waits. No C thread ever calls into Python:
what happens is told by events, which one of these takes:

    node.events(timeout)            a generator that waits
    async for event in node         an asyncio loop that waits on the node's descriptor
    node.next_event()               beside an event loop of yours that waits on node.fileno()
    offer.wait(timeout)             for one transfer; events of others stay for the three above
"""

from __future__ import annotations

import asyncio
import collections
import enum
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, AsyncIterator, Callable, Iterator, Mapping, Sequence, cast

from ._abi import ffi, lib
from .args import name_of, note_of, seconds_of, sentence_of, until_ns_of
from .batch import Batch, Region
from .errors import AgainError, ClosedError, DeadlineError, Error, InvalidError, error_of
from .memory import shown, uint
from .pool import PoolDesc, _Keeper, c_desc, sequence

__all__ = ["EventKind", "Event", "Node", "Peer", "PeerInfo", "Pool", "Transfer", "Offer", "Stream", "Blocks", "key_of"]

BUDGETS = {"exact": 0, "e8": 1, "e4": 2}
CODECS = {"choose": 0, "raw": 1, "lz4": 2, "zstd": 3, "l0": 4, "l8": 5, "e8": 6, "e4": 7, "lz4_x": 8, "zstd_x": 9}
CODEC_NAMES = {number: name for name, number in CODECS.items()}
EVENTS_KEPT = 65536  # events that wait() passes over; beyond that they stay in the library, which then stands still
ASYNC_SECONDS = 0.5
SLICE_NS = 100_000_000  # how long one wait in C lasts at most, so that close() isn't held up


class EventKind(enum.IntEnum):
    """What an event tells."""

    PEER_UP = 1
    PEER_LOST = 2
    OFFERED = 3  #: a peer offers blocks for a key, and no stream is open for it here
    LAYER_SENT = 4
    LAYER_READY = 5
    XFER_DONE = 6  #: exactly one for each offer and stream
    REGIONS = 7  #: a peer has told of regions that came or went
    BATCH_DONE = 8  #: exactly one for each post that isn't quiet
    NOTIFY = 9  #: a peer's notification; what it came with is in place
    PEER_POOL = 10  #: a peer has told a pool
    LAYER_CAME = 11  #: of a pool in a GPU's memory: all of a layer has come, and is being decoded
    STAGE_GONE = 12  #: exactly one for each Stage that was complete: its staging memory is free
    COMMITTED = 13  #: of a pool in a GPU's memory: what the sender gave to commit is here, layers may still be on their way


KINDS = frozenset(int(k) for k in EventKind)


@dataclass(frozen=True)
class Event:
    """One event. Times are CLOCK_MONOTONIC nanoseconds (time.monotonic_ns()), sizes bytes.

    error       None, or the Error: of XFER_DONE why it failed, of PEER_LOST why
    transfer    the Offer or Stream it is about, None for peers and for OFFERED
    layer       the model's number, for LAYER_SENT and LAYER_READY
    note        of an offer's XFER_DONE: what the sender gave to commit(); of NOTIFY: what the peer gave
    batch       of BATCH_DONE: Batch.id
    bad_blocks  of an offer's failed XFER_DONE: {group: ids of the blocks that aren't whole}
    """

    kind: EventKind
    error: Error | None
    peer: int
    transfer: "Transfer | None"
    key: bytes
    layer: int
    at_ns: int
    chunks: int = 0
    raw_bytes: int = 0
    wire_bytes: int = 0
    first_ns: int = 0
    last_ns: int = 0
    codec: str = ""
    note: bytes = b""
    text: str = ""
    bad_blocks: Mapping[int, tuple[int, ...]] | None = None
    batch: int = 0


@dataclass(frozen=True)
class PeerInfo:
    """What is known of a peer. state: "down", "connecting" or "up". Rates in bytes a second, rtt in ns, 0: not known.
    why: a sentence, why this codec, or why it is down."""

    state: str
    instance: int
    name: str
    path: str
    address: str
    pools: int
    transfers: int
    raw_bytes_sent: int
    raw_bytes_landed: int
    rate: int
    rtt_ns: int
    codec: str
    why: str


@dataclass
class Blocks:
    """Where a sequence lies in one group of a pool.

    ids          block ids in the order of the tokens
    group        the group's number
    token_first  the first token of ids[0]; a multiple of a block's tokens
    want         (first, end) tokens that a receiver lacks; None: all of them
    """

    ids: Sequence[int]
    group: int = 0
    token_first: int = 0
    want: tuple[int, int] | None = None


def key_of(text: Any) -> bytes:
    """The 16-byte key of a text. bytes of length 16 (a UUID's) are a key themselves."""
    if isinstance(text, (bytes, bytearray)) and len(text) == 16:
        return bytes(text)
    if not isinstance(text, str) or "\0" in text:
        raise InvalidError(-2, "key is %s, neither a text nor 16 bytes" % shown(text))
    try:
        return bytes(lib.kvw_key_of(text.encode()).bytes)
    except UnicodeEncodeError as e:
        raise InvalidError(-2, "key: %s" % e) from None


class Node:
    """A process's end of all its transfers.

    name       for its peers' messages, at most 63 bytes
    transport  "udp", "loop", "dpdk", "verbs": `python -m kvwire` says which work here and why others don't
    local      where this side is, in the transport's syntax: "ADDR:PORT" for udp
    listen     whether peers may come
    advertise  how peers reach it, for blob(); None: local
    codec      "choose", or the one to use wherever peer, element type and budget allow it
    encoders   threads that encode; 0: the node's own
    fault      faults to inject, for tests: "loss=0.05,seed=7"
    stage_bytes  staging memory for stage(), 0: none
    slots, stages, peers_max, xfers_max, dead_ms, chunk_raw_bytes   limits of kvwire/core.h, 0: its defaults

    Raises InvalidError that names the field, UnsupportedError that lists the transports there are, Error with
    E_ADDRESS or E_DEVICE with the reason. Close it, or use it in `with`. A forked child can't use its copy.
    """

    def __init__(self, name: str = "node", *, transport: str = "udp", local: str = "127.0.0.1:0",
                 listen: bool = False, advertise: str | None = None, codec: str = "choose", encoders: int = 0,
                 fault: str | None = None, trace: str | None = None, busy_poll: bool = False, open_timeout: float = 10,
                 instance: int = 0, slots: int = 0, stages: int = 0, peers_max: int = 0, xfers_max: int = 0,
                 dead_ms: int = 0, chunk_raw_bytes: int = 0, stage_bytes: int = 0) -> None:
        self._ptr: Any = None
        self._cond = threading.Condition(threading.RLock())
        self._calls = 0  # under way in C
        self._leads = False  # one thread waits in C for all
        self._queue: collections.deque[Event] = collections.deque()
        self._transfers: dict[int, Transfer] = {}
        self._pools: dict[int, Pool] = {}
        self._regions: dict[int, Region] = {}
        self._closing = False
        k = _Keeper()
        cfg = k.new("struct kvw_node_config *")
        cfg.size = ffi.sizeof("struct kvw_node_config")
        cfg.name, cfg.transport = k.text(name, "name", 255), k.text(transport, "transport", 255)
        cfg.local = k.text(local, "local", 255)
        for field, text in (("advertise", advertise), ("fault", fault), ("trace", trace)):
            if text is not None:
                setattr(cfg, field, k.text(text, field, 4095))
        for field, flag in (("listen", listen), ("busy_poll", busy_poll)):
            if not isinstance(flag, (bool, int)) or flag not in (0, 1):
                raise InvalidError(-2, "%s is %s, not True or False" % (field, shown(flag)))
            setattr(cfg, field, int(flag))
        cfg.codec = name_of(CODECS, codec, "codec")
        cfg.instance = uint(instance, 64, "instance")
        cfg.stage_bytes = uint(stage_bytes, 64, "stage_bytes")
        until = until_ns_of(open_timeout, "open_timeout")
        cfg.open_by_ns = min(until, time.monotonic_ns() + 10**18)
        for field, value in (("encoders", encoders), ("slots", slots), ("stages", stages), ("peers_max", peers_max),
                             ("xfers_max", xfers_max), ("dead_ms", dead_ms), ("chunk_raw_bytes", chunk_raw_bytes)):
            setattr(cfg, field, uint(value, 32, field))
        out, why = ffi.new("struct kvw_node **"), ffi.new("char[]", 512)
        err = lib.kvw_node_open(out, cfg, why, 512)
        if err != 0:
            raise error_of(err, sentence_of(why))
        self.name, self.transport, self.local = name, transport, local
        #: what the transport said about itself when it was opened; may be empty
        self.remark = sentence_of(why)
        self._event = ffi.new("struct kvw_core_event *")
        self._ptr = out[0]

    # -- life -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _call(self) -> Iterator[Any]:
        with self._cond:
            if self._ptr is None or self._closing:
                raise ClosedError(-21, "the node is closed")
            self._calls += 1
        try:
            yield self._ptr
        finally:
            with self._cond:
                self._calls -= 1
                if self._closing:
                    self._cond.notify_all()

    def close(self) -> None:
        """End what is open, without events; say good-bye to peers; give memory back. A second call does nothing.
        Threads that wait get ClosedError within 0.1 s."""
        with self._cond:
            if self._ptr is None or self._closing:
                return
            self._closing = True
            self._cond.notify_all()
            while self._calls:
                self._cond.wait(1)
            ptr, self._ptr = self._ptr, None
        lib.kvw_node_close(ptr)
        self._pools.clear()
        self._regions.clear()
        self._transfers.clear()

    def __enter__(self) -> "Node":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        ptr, self._ptr = getattr(self, "_ptr", None), None
        if ptr is not None:
            lib.kvw_node_close(ptr)

    @property
    def closed(self) -> bool:
        return self._ptr is None or self._closing

    def __repr__(self) -> str:
        return "<kvwire.Node %s %s %s%s>" % (self.name, self.transport, self.local, " closed" if self.closed else "")

    # -- peers ----------------------------------------------------------------------------------------------------

    def blob(self) -> bytes:
        """How others reach this node, as bytes for a handshake of yours."""
        with self._call() as ptr:
            size = ffi.new("uint32_t *", 4096)
            to = ffi.new("uint8_t[]", 4096)
            self._check(lib.kvw_node_blob(ptr, to, size), "")
            return bytes(ffi.buffer(to, size[0]))

    def add_peer(self, where: str | bytes | None) -> "Peer":
        """Know and dial a node: by its blob (bytes), by an address (str) in the transport's syntax, or None for the
        link's only peer. Returns at once; PEER_UP follows, or PEER_LOST, and it is dialled again.

        Raises Error with E_FORMAT (not a blob), E_ADDRESS, AgainError (peers_max are known)."""
        out = ffi.new("kvw_peer_id *")
        k = _Keeper()
        with self._call() as ptr:
            if isinstance(where, (bytes, bytearray)):
                err = lib.kvw_node_peer_blob(ptr, ffi.new("char[]", bytes(where) + b"\0"), len(where), out)
            elif where is None or isinstance(where, str):
                err = lib.kvw_node_peer_add(ptr, ffi.NULL if where is None else k.text(where, "where", 255), out)
            else:
                raise InvalidError(-2, "where is %s, not an address, a blob or None" % shown(where))
        self._check(err, "peer %s can't be added" % shown(where))
        return Peer(self, out.value)

    # -- pools and transfers --------------------------------------------------------------------------------------

    def add_pool(self, desc: PoolDesc) -> "Pool":
        """Make memory known to the node and its shape to the peers. The memory is held, and may be written by offers,
        until Pool.remove() or close(). Raises InvalidError ("groups[0].parts[1].planes[3] leads outside of mems")."""
        d, memory, kept = c_desc(desc)
        out, why = ffi.new("kvw_pool_id *"), ffi.new("char[]", 512)
        with self._call() as ptr:
            err = lib.kvw_node_pool_add(ptr, d, out, why, 512)
        del kept
        self._check(err, sentence_of(why))
        pool = Pool(self, out.value, memory, len(desc.groups))
        with self._cond:
            self._pools[pool.id] = pool
        return pool

    def _groups(self, k: _Keeper, pool: "Pool", blocks: Any, tokens: int) -> Any:
        """struct kvw_group_blocks[] of ids, a Blocks, or several Blocks."""
        if not isinstance(pool, Pool) or pool._node is not self:
            raise InvalidError(-2, "pool is %s, not a Pool of this node" % shown(pool))
        if isinstance(blocks, Blocks):
            given = [blocks]
        else:
            several = sequence(blocks, "blocks", 0, 65536)
            given = several if several and isinstance(several[0], Blocks) else [Blocks(several)]
        array = k.new("struct kvw_group_blocks[]", len(given))
        for i, (to, b) in enumerate(zip(array, given)):
            where = "blocks[%d]" % i
            if not isinstance(b, Blocks):
                raise InvalidError(-2, "%s is %s, not a Blocks" % (where, shown(b)))
            ids = [uint(n, 32, where + ".ids") for n in sequence(b.ids, where + ".ids", 0, 65536)]
            want = sequence((0, tokens) if b.want is None else b.want, where + ".want", 2, 2)
            to.group, to.token_first = uint(b.group, 32, where + ".group"), uint(b.token_first, 32, where + ".token_first")
            if to.group >= pool.groups:
                raise InvalidError(-2, "%s.group is %d, the pool has %d" % (where, to.group, pool.groups))
            to.block_count, to.blocks = len(ids), k.new("uint32_t[]", ids)
            to.want_first, to.want_end = uint(want[0], 32, where + ".want"), uint(want[1], 32, where + ".want")
        return array

    def offer(self, pool: "Pool", key: Any, tokens: int, blocks: Any, sources: Any, *, budget: str = "exact",
              exact_first: int = 0, exact_last: int = 0, take_by: float = 10, lease: float = 2,
              deadline: float | None = None, staged: Any = None) -> "Offer":
        """Receiver: lend blocks to a transfer, until its XFER_DONE.

        key      a text, or 16 bytes; the sender's is equal
        tokens   of the whole sequence
        blocks   ids of group 0 in the order of the tokens, or Blocks for each group that is wanted
        sources  a Peer, or the Peers that hold the state together
        budget   what codecs may do to values: "exact", "e8", "e4"; exact_first, exact_last: tokens kept exact
        take_by  seconds that the offer may wait for the sender; lease: that the sender may be silent afterwards;
                 deadline: for all of it, from now; None: no end
        staged   None, or what is pulled: Stage.reference of each source (one, or a sequence in the order of sources). key
                 may then be None. A reference that can't be had ends the offer with NotFoundError (used, unknown, of
                 another life of that node), DeadlineError (its time is over) or CanceledError (dropped)

        Raises InvalidError, NotFoundError, MismatchError (names the field), AgainError (xfers_max).
        """
        k = _Keeper()
        terms = k.new("struct kvw_offer_terms *")
        terms.size = ffi.sizeof("struct kvw_offer_terms")
        terms.budget = name_of(BUDGETS, budget, "budget")
        terms.exact_first, terms.exact_last = uint(exact_first, 32, "exact_first"), uint(exact_last, 32, "exact_last")
        terms.take_by_ns = max(1, int((seconds_of(take_by, "take_by") or 0) * 1e9))
        terms.lease_ns = max(1, int((seconds_of(lease, "lease") or 0) * 1e9))
        terms.deadline_ns = 0 if deadline is None else until_ns_of(deadline, "deadline")
        args = k.new("struct kvw_offer_args *")
        args.size, args.terms = ffi.sizeof("struct kvw_offer_args"), terms
        args.tokens = uint(tokens, 32, "tokens")
        if key is not None or staged is None:
            args.key.bytes = key_of(key)
        groups = self._groups(k, pool, blocks, args.tokens)
        args.pool.value, args.groups, args.group_count = pool.id, groups, len(groups)
        args.group_bytes = ffi.sizeof("struct kvw_group_blocks")
        peers = sequence([sources] if isinstance(sources, Peer) else sources, "sources", 1, 64)
        for p in peers:
            if not isinstance(p, Peer) or p._node is not self:
                raise InvalidError(-2, "sources has %s, not a Peer of this node" % shown(p))
        args.sources = k.new("kvw_peer_id[]", [(p.id,) for p in peers])
        args.source_count = len(peers)
        key_bytes = bytes(args.key.bytes)
        if staged is not None:
            refs = [staged] if isinstance(staged, (bytes, bytearray)) else sequence(staged, "staged", 1, 64)
            if len(refs) != len(peers) or any(not isinstance(r, (bytes, bytearray)) or len(r) != 32 for r in refs):
                raise InvalidError(-2, "staged is %s, not 32 bytes of each source" % shown(staged))
            args.staged = k.new("struct kvw_stage_ref[]", [(bytes(r),) for r in refs])
            key_bytes = bytes(refs[0][16:])
        return cast(Offer, self._begin(Offer, lib.kvw_node_offer, args, pool, key_bytes))

    def stage(self, pool: "Pool", key: Any, tokens: int, blocks: Any, *, pulls: int = 1, until: float = 60) -> "Stage":
        """Sender, where decode is told later: what is pushed is copied into staging memory (stage_bytes). At XFER_DONE the
        blocks are the caller's own again; Stage.reference goes to the receiver, whose offer(staged=...) pulls it.

        pulls  how many offers will pull it; until: seconds after which it is freed all the same

        Raises AgainError when there is no room (STAGE_GONE says when some is free), Error (E_NOMEM) when there never will
        be, UnsupportedError without staging memory, InvalidError, NotFoundError (pool)."""
        k = _Keeper()
        args = k.new("struct kvw_stage_args *")
        args.size = ffi.sizeof("struct kvw_stage_args")
        args.tokens, args.pulls = uint(tokens, 32, "tokens"), uint(pulls, 32, "pulls")
        args.key.bytes = key_of(key)
        groups = self._groups(k, pool, blocks, 0)
        args.pool.value, args.groups, args.group_count = pool.id, groups, len(groups)
        args.group_bytes = ffi.sizeof("struct kvw_group_blocks")
        args.until_ns = min(until_ns_of(until, "until"), (1 << 63) - 1)
        args.ref = k.new("struct kvw_stage_ref *")
        staged = cast(Stage, self._begin(Stage, lib.kvw_node_stage, args, pool, bytes(args.key.bytes)))
        staged.reference = bytes(args.ref.bytes)
        return staged

    def stream(self, pool: "Pool", key: Any, tokens: int, blocks: Any, *, receivers: int = 1, offer_by: float = 10,
               deadline: float | None = None, codec: str | None = None) -> "Stream":
        """Sender: open the stream that fills the offers of that key. Its blocks are read until XFER_DONE.

        offer_by  seconds within which all receivers' offers must have come
        codec     the one to use wherever peer, element type and budget allow it; None: as the node's
        The rest as in offer(). Raises InvalidError, NotFoundError (pool), AgainError (xfers_max).
        """
        k = _Keeper()
        args = k.new("struct kvw_stream_args *")
        args.codec = 0 if codec is None else name_of(CODECS, codec, "codec")
        args.size = ffi.sizeof("struct kvw_stream_args")
        args.tokens, args.receivers = uint(tokens, 32, "tokens"), uint(receivers, 32, "receivers")
        args.key.bytes = key_of(key)
        groups = self._groups(k, pool, blocks, 0)
        args.pool.value, args.groups, args.group_count = pool.id, groups, len(groups)
        args.group_bytes = ffi.sizeof("struct kvw_group_blocks")
        args.offer_by_ns = min(until_ns_of(offer_by, "offer_by"), (1 << 63) - 1)
        args.deadline_ns = 0 if deadline is None else until_ns_of(deadline, "deadline")
        return cast(Stream, self._begin(Stream, lib.kvw_node_stream, args, pool, bytes(args.key.bytes)))

    def _begin(self, kind: Any, call: Callable[..., int], args: Any, pool: "Pool", key: bytes) -> Any:
        out, why = ffi.new("kvw_xfer_ref *"), ffi.new("char[]", 512)
        with self._call() as ptr, self._cond:  # so that its first event finds it
            err = call(ptr, args, out, why, 512)
            self._check(err, sentence_of(why))
            transfer = kind(self, out.value, pool, key)
            self._transfers[out.value] = transfer
        return transfer

    def refuse(self, peer: "Peer | int", key: Any, sentence: str = "refused", code: int = -4) -> None:
        """Nothing is or will be open here for this key: whoever waits for it at that peer learns so, with the sentence.
        Raises NotFoundError (peer), AgainError."""
        number = peer.id if isinstance(peer, Peer) else uint(peer, 32, "peer")
        k = _Keeper()
        if not isinstance(code, int) or not -(1 << 31) <= code < 0:
            raise InvalidError(-2, "code is %s, not a negative error" % shown(code))
        with self._call() as ptr:
            err = lib.kvw_node_refuse(ptr, (number,), ((list(key_of(key)),)), code, k.text(sentence, "sentence", 255))
        self._check(err, "peer %d" % number)

    # -- regions, batches, notifications --------------------------------------------------------------------------

    def add_region(self, memory: Any, *, read: bool = True, write: bool = True) -> "Region":
        """Let peers read or write this memory by its addresses; neither: it is for the local side of batches. The memory
        is held until Region.remove() or close(). Raises InvalidError, AgainError (4096 are known)."""
        return Region(self, memory, read, write)

    def batch(self, op: str, peer: "Peer", pieces: Any) -> "Batch":
        """A READ ("read": remote to local) or WRITE ("write") of up to 100,000 pieces, made once, posted as often as wanted.

        pieces  (locals, remotes, lengths): three sequences of ints of one length, addresses and bytes

        Raises InvalidError, NotFoundError (no region holds a piece), MismatchError (no right), PeerLostError, AgainError
        (the peer hasn't told its regions yet: event REGIONS)."""
        if not isinstance(peer, Peer) or peer._node is not self:
            raise InvalidError(-2, "peer is %s, not a Peer of this node" % shown(peer))
        return Batch(self, op, peer.id, pieces)

    def notify(self, peer: "Peer", note: bytes) -> None:
        """Send at most 512 bytes; the peer gets them as a NOTIFY event. Raises InvalidError, NotFoundError, AgainError."""
        if not isinstance(peer, Peer) or peer._node is not self:
            raise InvalidError(-2, "peer is %s, not a Peer of this node" % shown(peer))
        with self._call() as ptr:
            err = lib.kvw_node_notify(ptr, (peer.id,), note_of(note), len(note))
        self._check(err, "peer %d" % peer.id)

    # -- events ---------------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """A descriptor that is readable while events wait in the library: for epoll and the like. Don't read it. Drain
        next_event() before you sleep on it."""
        with self._call() as ptr:
            return int(lib.kvw_node_fd(ptr))

    def next_event(self) -> Event | None:
        """The next event, None: there is none now."""
        with self._call(), self._cond:
            self._take_all()
            return self._queue.popleft() if self._queue else None

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for an event; whether one waits for next_event()."""
        return self._pump(lambda: bool(self._queue), until_ns_of(timeout))

    def events(self, timeout: float | None = None) -> Iterator[Event]:
        """Events as they come; ends when none came for timeout seconds (None: never)."""
        while True:
            self.wait(timeout)
            event = self.next_event()
            if event is None:
                return
            yield event

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Events until the node is closed. One loop at a time; the loop's other tasks run meanwhile."""
        loop = asyncio.get_running_loop()
        while not self.closed:
            event = self.next_event()
            if event is not None:
                yield event
                continue
            readable = asyncio.Event()
            fd = self.fileno()
            loop.add_reader(fd, readable.set)
            try:
                await asyncio.wait_for(readable.wait(), ASYNC_SECONDS)
            except asyncio.TimeoutError:
                pass  # look whether it was closed: a descriptor that is gone wakes nobody
            finally:
                loop.remove_reader(fd)

    def _take_all(self) -> None:
        """Events from the library into the queue and into their transfers. Under _cond; inside a _call."""
        ev = self._event
        while len(self._queue) < EVENTS_KEPT:
            ev.size = ffi.sizeof("struct kvw_core_event")
            if not lib.kvw_node_next_event(self._ptr, ev):
                return
            if ev.kind not in KINDS:
                continue  # a later library's, of something that nobody here can have asked for
            event = self._event_of(ev)
            if event.transfer is not None and event.kind == EventKind.XFER_DONE:
                event.transfer._done = event
                del self._transfers[ev.xfer.value]
            self._queue.append(event)
            self._cond.notify_all()

    def _event_of(self, ev: Any) -> Event:
        kind = EventKind(ev.kind)
        text = sentence_of(ev.text)
        transfer = self._transfers.get(ev.xfer.value)
        bad = None
        if kind == EventKind.XFER_DONE and ev.err != 0 and isinstance(transfer, Offer):
            bad = {g: self._bad_blocks(ev.xfer, g) for g in range(transfer.pool.groups)}
        return Event(kind, error_of(ev.err, text) if ev.err != 0 else None, ev.peer.value, transfer, bytes(ev.key.bytes),
                     ev.layer, ev.at_ns, ev.chunks, ev.raw_bytes, ev.wire_bytes, ev.first_ns, ev.last_ns,
                     CODEC_NAMES.get(ev.codec, str(ev.codec)) if ev.codec else "",
                     bytes(ffi.buffer(ev.note, ev.note_bytes)), text, bad, ev.batch.value)

    def _bad_blocks(self, xfer: Any, group: int) -> tuple[int, ...]:
        count = lib.kvw_node_bad_blocks(self._ptr, xfer, group, ffi.NULL, 0)
        ids = ffi.new("uint32_t[]", max(1, count))
        lib.kvw_node_bad_blocks(self._ptr, xfer, group, ids, count)
        return tuple(ids[i] for i in range(count))

    def _pump(self, done: Callable[[], bool], until_ns: int) -> bool:
        """Take events until done() or until_ns. One of the threads that are here waits in C, for all."""
        with self._call() as ptr, self._cond:
            while True:
                if self._closing:
                    raise ClosedError(-21, "the node was closed")
                self._take_all()
                if done():
                    return True
                now = time.monotonic_ns()
                if now >= until_ns:
                    return False
                if len(self._queue) >= EVENTS_KEPT:
                    raise AgainError(-1, "%d events wait to be taken: next_event() takes them" % EVENTS_KEPT)
                if self._leads:
                    self._cond.wait(min(until_ns - now, SLICE_NS) / 1e9)
                    continue
                self._leads = True
                self._cond.release()
                try:
                    lib.kvw_node_wait(ptr, min(until_ns, now + SLICE_NS))
                finally:
                    self._cond.acquire()
                    self._leads = False
                    self._cond.notify_all()

    # -- figures --------------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, int]:
        """Counters since open, and gauges, as kvw_core_stats of core_types.h has them."""
        s = ffi.new("struct kvw_core_stats *")
        s.size = ffi.sizeof("struct kvw_core_stats")
        with self._call() as ptr:
            lib.kvw_node_stats(ptr, s)
        return {f[0]: int(getattr(s, f[0])) for f in ffi.typeof("struct kvw_core_stats").fields if f[0] != "size"}

    def metrics(self) -> str:
        """All figures as Prometheus text, exposition format 0.0.4."""
        room = 16384
        while True:
            text = ffi.new("char[]", room)
            with self._call() as ptr:
                length = lib.kvw_node_metrics(ptr, text, room)
            if length < room:
                return bytes(ffi.buffer(text, length)).decode()
            room = length + 1

    @staticmethod
    def _check(err: int, sentence: str) -> None:
        if err != 0:
            phrase = ffi.string(lib.kvw_strerror(err)).decode()
            raise error_of(err, "%s: %s" % (phrase, sentence) if sentence else phrase)


class Peer:
    """A node that this one knows. Made by Node.add_peer(), or of an event's number: Peer(node, event.peer)."""

    __slots__ = ("_node", "id")

    def __init__(self, node: Node, number: int) -> None:
        if not isinstance(node, Node):
            raise InvalidError(-2, "node is %s, not a Node" % shown(node))
        self._node, self.id = node, uint(number, 32, "number")

    def info(self) -> PeerInfo:
        """What is known of it. Raises NotFoundError after drop()."""
        i = ffi.new("struct kvw_peer_info *")
        i.size = ffi.sizeof("struct kvw_peer_info")
        with self._node._call() as ptr:
            err = lib.kvw_node_peer_info(ptr, (self.id,), i)
        self._node._check(err, "peer %d" % self.id)

        def text(field: Any) -> str:
            return bytes(ffi.string(field)).decode("utf8", "replace")

        return PeerInfo({1: "down", 2: "connecting", 3: "up"}.get(i.state, "?"), i.instance, text(i.name), text(i.path),
                        text(i.address), i.pools, i.xfers, i.raw_bytes_sent, i.raw_bytes_landed, i.rate_bytes_per_s,
                        i.rtt_ns, CODEC_NAMES.get(i.codec, "") if i.codec else "", text(i.why))

    def wait_up(self, timeout: float | None = 10) -> PeerInfo:
        """Wait until it is connected. Raises DeadlineError with what is known of the reason."""
        info = self.info()

        def up() -> bool:
            nonlocal info
            info = self.info()
            return info.state == "up"

        if not self._node._pump(up, until_ns_of(timeout)):
            raise DeadlineError(-23, "peer %s isn't up: %s" % (info.name or info.address, info.why or info.state))
        return info

    def regions(self) -> list[tuple[int, int, bool, bool]]:
        """Of the peer's, in the order of its adding them: (address, bytes, may read, may write). Raises AgainError while it
        hasn't told them, NotFoundError after drop()."""
        info = ffi.new("struct kvw_region_info *")
        found: list[tuple[int, int, bool, bool]] = []
        with self._node._call() as ptr:
            while True:
                info.size = ffi.sizeof("struct kvw_region_info")
                err = lib.kvw_node_peer_region(ptr, (self.id,), len(found), info)
                if err == -4:
                    return found
                self._node._check(err, "peer %d" % self.id)
                found.append((int(info.base), int(info.bytes), bool(info.rights & 1), bool(info.rights & 2)))

    def drop(self) -> None:
        """Forget it: its transfers end with CanceledError. Raises NotFoundError."""
        with self._node._call() as ptr:
            err = lib.kvw_node_peer_drop(ptr, (self.id,))
        self._node._check(err, "peer %d" % self.id)

    def __repr__(self) -> str:
        return "<kvwire.Peer %d of %r>" % (self.id, self._node)


class Pool:
    """Memory with a shape, known to a node. Made by Node.add_pool(); holds the memory until remove() or close()."""

    __slots__ = ("_node", "id", "memory", "groups")

    def __init__(self, node: Node, number: int, memory: list[Any], groups: int) -> None:
        self._node, self.id, self.memory, self.groups = node, number, memory, groups

    def remove(self) -> None:
        """Its transfers end with CanceledError; no byte of it is touched once this returns. Raises NotFoundError."""
        with self._node._call() as ptr:
            err = lib.kvw_node_pool_remove(ptr, (self.id,))
        self._node._check(err, "pool %d" % self.id)
        with self._node._cond:
            self._node._pools.pop(self.id, None)
        self.memory = []

    def __repr__(self) -> str:
        return "<kvwire.Pool %d of %r>" % (self.id, self._node)


class Transfer:
    """An Offer or a Stream."""

    __slots__ = ("_node", "ref", "pool", "key", "_done", "__weakref__")

    def __init__(self, node: Node, ref: int, pool: Pool, key: bytes) -> None:
        self._node, self.ref, self.pool, self.key = node, ref, pool, key
        self._done: Event | None = None

    @property
    def done(self) -> Event | None:
        """Its XFER_DONE once that was taken from the library (by whichever call), None before."""
        return self._done

    def wait(self, timeout: float | None = 30) -> Event:
        """Wait for its end and return XFER_DONE; the blocks are the caller's own again.

        Raises the transfer's Error if it failed (`transfer.done` has the event with the bad blocks), DeadlineError if
        it is still open after timeout seconds."""
        if not self._node._pump(lambda: self._done is not None, until_ns_of(timeout)):
            raise DeadlineError(-23, "the transfer is still open after %s s" % timeout)
        assert self._done is not None
        if self._done.error is not None:
            raise self._done.error
        return self._done

    def abort(self, reason: str = "aborted") -> None:
        """End it here and there (CanceledError). Raises NotFoundError when it has ended."""
        k = _Keeper()
        with self._node._call() as ptr:
            err = lib.kvw_node_abort(ptr, (self.ref,), k.text(reason, "reason", 255))
        self._node._check(err, "the transfer has ended")

    def __repr__(self) -> str:
        state = "open" if self._done is None else str(self._done.error or "ok")
        return "<kvwire.%s %s %s>" % (type(self).__name__, self.key.hex(), state)


class Offer(Transfer):
    """A receiver's transfer: blocks that are lent."""

    __slots__ = ()

    def layer_ready(self, layer: int) -> bool:
        """Whether this layer (the model's number) is in place. Once the transfer has ended: whether it ended well."""
        number = uint(layer, 32, "layer")
        if self._done is not None:
            return self._done.error is None
        with self._node._call() as ptr:
            return bool(lib.kvw_node_layer_ready(ptr, (self.ref,), number))


class Stream(Transfer):
    """A sender's transfer."""

    __slots__ = ()

    def push(self, layer: int, tokens: int) -> None:
        """Tokens 0 to tokens-1 of this layer (the model's number) are computed, now. (On a GPU: synchronise first.)
        Raises InvalidError (layer, tokens), NotFoundError when it has ended."""
        number, count = uint(layer, 32, "layer"), uint(tokens, 32, "tokens")
        with self._node._call() as ptr:
            err = lib.kvw_node_push(ptr, (self.ref,), number, count, ffi.NULL)
        self._node._check(err, "layer %d, %d tokens" % (number, count))

    def set_blocks(self, first: int, ids: Any, group: int = 0) -> None:
        """Entries first, first+1 ... of a group's table are these blocks: for engines that allocate while they compute.
        Give any ids to Node.stream() for blocks that aren't known yet, and the right ones here before a token in them
        is pushed. Raises InvalidError (group, range or ids; a token in them has been pushed), NotFoundError."""
        at, number = uint(first, 32, "first"), uint(group, 32, "group")
        blocks = [uint(n, 32, "ids") for n in sequence(ids, "ids", 0, 65536)]
        with self._node._call() as ptr:
            err = lib.kvw_node_stream_blocks(ptr, (self.ref,), number, at, ffi.new("uint32_t[]", blocks), len(blocks))
        self._node._check(err, "blocks %d to %d of group %d: out of range, or pushed already"
                          % (at, at + len(blocks) - 1, number) if err == -2 else "the transfer has ended")

    def commit(self, note: Any = b"") -> None:
        """Everything has been pushed. note: at most 512 bytes that the receiver gets with XFER_DONE.
        Raises InvalidError (a layer isn't pushed in full; note), NotFoundError when it has ended."""
        note = note_of(note)
        with self._node._call() as ptr:
            err = lib.kvw_node_commit(ptr, (self.ref,), note, len(note))
        self._node._check(err, "a layer isn't pushed in full, or it was committed before" if err == -2 else "")


class Stage(Stream):
    """A sender's transfer into staging memory. reference: 32 bytes that name it, for its receivers."""

    __slots__ = ("reference",)
    reference: bytes

    def drop(self) -> None:
        """Free it, complete or not; who pulls it is told. Raises NotFoundError when it is gone already."""
        ref = ffi.new("struct kvw_stage_ref *")
        ref.bytes = self.reference
        with self._node._call() as ptr:
            err = lib.kvw_node_stage_drop(ptr, ref)
        self._node._check(err, "it is gone already")
