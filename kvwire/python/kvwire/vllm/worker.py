# SPDX-License-Identifier: Apache-2.0
"""The half of the connector that lives in vLLM's worker process: a node, a stream for each prompt that is computed
here, an offer for each that is awaited.

vLLM calls everything from one thread. In a step: begin(plan) before the forward, layer() in each attention layer, after
the forward sweep() and results(). Nothing here waits for the wire, except for a moment in results() when vLLM has nothing
else to do, and in begin() when a preempted request's blocks are about to be overwritten."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import kvwire

from .memory import Pages
from .pages import heads_of, partners
from .plan import REFERENCE_BYTES, Plan, Receive, Send
from .settings import Journal, Settings
from .stats import Stats

PEERS_MAX = 512


@dataclass
class Rank:
    """Which of an engine's tensor-parallel ranks this is, and how many KV heads the model has."""

    number: int = 0
    ranks: int = 1
    heads: int = 1


@dataclass
class _Sending:
    stream: kvwire.Stream | None  # None: it couldn't be opened, or has ended
    blocks: list[list[int]]  # of each block table

    @property
    def over(self) -> bool:
        return self.stream is None or self.stream.done is not None


@dataclass
class _Receiving:
    offer: kvwire.Offer | None  # None: nobody could be asked
    what: Receive
    dropped: bool = False


@dataclass
class Results:
    sent: set[str] = field(default_factory=set)
    received: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)


class Worker:
    def __init__(self, settings: Settings, host: str, producer: bool, log: Any, rank: Rank = Rank()) -> None:
        self.settings, self.log, self.rank = settings, log, rank
        if producer and not 0 < settings.port <= 65536 - rank.ranks:
            raise ValueError("kv_connector_extra_config: a producer needs kvwire_port, and one more for each rank")
        address = "%s:%d" % (host, settings.port + rank.number if settings.port else 0)
        self.receivers = len(partners(rank.heads, rank.ranks, rank.number, settings.decode_tp or rank.ranks))
        self.node = kvwire.Node("vllm " + address, transport=settings.transport,
                                local=address, listen=producer, codec=settings.codec,
                                dead_ms=max(1, int(settings.lease * 1000)),  # its thread shares a core with the model's
                                stage_bytes=settings.stage_mb << 20 if producer else 0)
        self.pages: Any = None  # Pages and a Pool, once vLLM has allocated its cache
        self.pool: Any = None
        self.peers: dict[str, kvwire.Peer] = {}
        self.sending: dict[str, _Sending] = {}
        self.receiving: dict[str, _Receiving] = {}
        self.names: dict[int, str] = {}  # transfer's ref -> request
        self.held: set[str] = set()
        self.bad: set[int] = set()
        self.stats = Stats()
        self.references: dict[str, bytes] = {}  # of what this step has begun to stage
        self.step: list[Send] = []
        self.pushed: set[int] = set()  # layers of this step
        self.forward = False
        self.journal = Journal(settings.log)
        self.note = self.journal.note

    def register(self, vllm_config: Any, kv_cache_config: Any, tensors: dict[str, Any]) -> None:
        heads = heads_of(self.rank.heads, self.rank.ranks, self.rank.number) if self.rank.ranks > 1 else None
        self.pages = Pages(vllm_config, kv_cache_config, tensors, self.settings.scratch, heads)
        self.pool = self.node.add_pool(self.pages.desc)

    # -- before the forward -----------------------------------------------------------------------------------------

    def begin(self, plan: Plan) -> None:
        self.step, self.pushed, self.forward = plan.sends, set(), False
        for name, why in plan.dropped.items():  # first: its blocks may be another's in this very step
            self._drop(name, why)
        for send in plan.sends:
            self._send(send)
        for receive in plan.receives:
            self._receive(receive)
        self.held.update(plan.held)

    def _send(self, s: Send) -> None:
        entries = [-(-s.tokens // size) for size in self.pages.tokens]
        try:
            if s.begins:
                ids = [(b + [0] * n)[:n] for b, n in zip(s.blocks, entries)]
                stream = self._open(s, ids)
                self.sending[s.request] = _Sending(stream, ids)
                self.names[stream.ref] = s.request
                self.note("stream", request=s.request, key=s.key, tokens=s.tokens, staged=isinstance(stream, kvwire.Stage))
                return
            sending = self.sending[s.request]
            for table, (n, first, blocks) in enumerate(zip(entries, s.first, s.blocks)):
                new = blocks[:max(0, n - first)]
                sending.blocks[table][first:first + len(new)] = new
                for group in self._groups(table):
                    if sending.stream is not None and new:
                        sending.stream.set_blocks(first, new, group)
        except kvwire.Error as e:
            self.log.warning("kvwire: request %s isn't sent: %s", s.request, e)
            self.sending.setdefault(s.request, _Sending(None, [])).stream = None

    def _groups(self, table: int) -> list[int]:
        return [g for g, of in enumerate(self.pages.tables) if of == table]

    def _open(self, s: Send, ids: list[list[int]]) -> kvwire.Stream:
        blocks = [kvwire.Blocks(ids[table], group) for group, table in enumerate(self.pages.tables)]
        if s.staged:
            try:
                stage = self.node.stage(self.pool, s.key, s.tokens, blocks, pulls=self.receivers, until=self.settings.keep)
                self.references[s.request] = stage.reference
                return stage
            except kvwire.Error as e:
                self.log.warning("kvwire: request %s can't be staged, so its blocks are held: %s", s.request, e)
        return self.node.stream(self.pool, s.key, s.tokens, blocks, receivers=self.receivers, offer_by=self.settings.wait)

    def take_references(self) -> dict[str, dict[int, bytes]]:
        references, self.references = self.references, {}
        return {name: {self.rank.number: reference} for name, reference in references.items()}

    def _receive(self, r: Receive) -> None:
        offer = None
        try:
            if r.source.why:
                raise kvwire.InvalidError(-2, r.source.why)
            ranks = partners(self.rank.heads, self.rank.ranks, self.rank.number, r.source.ranks)
            peers = [self._peer("%s:%d" % (r.source.host, r.source.port + rank)) for rank in ranks]
            staged = [r.source.reference[rank * REFERENCE_BYTES:(rank + 1) * REFERENCE_BYTES] for rank in ranks]
            blocks = [kvwire.Blocks(r.blocks[table], group, want=(r.want, r.end)) for group, table in enumerate(self.pages.tables)]
            offer = self.node.offer(self.pool, r.key, r.tokens, blocks, peers, take_by=self.settings.wait, lease=self.settings.lease,
                                    budget=self.settings.budget, staged=staged if r.source.reference else None)
            self.names[offer.ref] = r.request
            self.note("offer", request=r.request, key=r.key, tokens=r.tokens, want=r.want)
        except (kvwire.Error, ValueError) as e:
            self.log.error("kvwire: request %s can't be received: %s", r.request, e)
            self.note("refused", request=r.request, why=str(e))
        self.receiving[r.request] = _Receiving(offer, r)

    def _peer(self, address: str) -> kvwire.Peer:
        if address not in self.peers:
            if len(self.peers) >= PEERS_MAX:
                self.peers.pop(next(iter(self.peers))).drop()
            self.peers[address] = self.node.add_peer(address)
        return self.peers[address]

    def _drop(self, name: str, why: str) -> None:
        """Nothing reads or writes the request's blocks once this returns."""
        for held in (self.sending.get(name), self.receiving.get(name)):
            transfer = getattr(held, "stream", None) or getattr(held, "offer", None)
            if isinstance(held, _Receiving):
                held.dropped = True
            if transfer is None or transfer.done is not None:
                continue
            try:
                transfer.abort(why)
                transfer.wait(1)
            except kvwire.Error:
                pass

    # -- the forward and after it -----------------------------------------------------------------------------------

    def layer(self, name: str) -> None:
        """A layer's K and V are in their blocks."""
        self.forward = True
        if self.step and name in self.pages.layers:  # a layer that shares another's cache has none of its own
            self._push(self.pages.layers[name])

    def _push(self, layer: int) -> None:
        self.pushed.add(layer)
        for s in self.step:
            stream = self.sending[s.request].stream
            if stream is None or stream.done is not None:
                continue
            try:
                stream.push(layer, s.computed)
                self.note("push", request=s.request, layer=layer, tokens=s.computed)
            except kvwire.NotFoundError:
                pass  # it has ended; its event says why

    def sweep(self) -> None:
        """Layers whose hook didn't fire; then the end of those prompts that are computed."""
        if not self.step:
            return
        for layer in self.pages.tensors:
            if layer not in self.pushed:
                self._push(layer)
        for s in self.step:
            sending = self.sending[s.request]
            if s.computed < s.tokens or sending.stream is None:
                continue
            try:
                sending.stream.commit()
                self.note("commit", request=s.request)
            except kvwire.NotFoundError:
                pass
            if self.journal.file is not None:
                end = s.tokens - (1 if any(self.pages.windows) else 0)  # as decode asks for
                self.note("digest", side="prefill", key=s.key, digest=self.pages.digest(sending.blocks, end))
        self.step = []

    def results(self, finished: set[str]) -> Results:
        r = Results()
        for name in finished:
            if name in self.receiving:
                self._drop(name, "decode ended the request")
        if not self.forward and (self.receiving or self.held):
            self.node.wait(self.settings.idle)
        while (event := self.node.next_event()) is not None:
            self._heed(event, r)
        for name in [n for n, x in self.receiving.items() if x.offer is None]:
            self.stats.failed("received")
            self._received(name, kvwire.InvalidError(-2, "nobody was asked"), set(), r)
        for name in list(self.held):
            sending = self.sending.get(name)
            if sending is None or sending.over:
                self.held.discard(name)
                self.sending.pop(name, None)
                r.sent.add(name)
        for name in [n for n in finished if n in self.sending and n not in self.held]:
            if self.sending[name].over:
                del self.sending[name]
        self.forward = False
        return r

    def _heed(self, event: kvwire.Event, r: Results) -> None:
        if event.kind == kvwire.EventKind.PEER_LOST:
            self.log.warning("kvwire: %s", event.text or event.error)
        if event.kind == kvwire.EventKind.STAGE_GONE:
            self.note("stage_gone", error=str(event.error or ""), event_at=event.at_ns)
            if isinstance(event.error, kvwire.DeadlineError):
                self.stats.expired()
        if event.transfer is None:
            return
        name = self.names.get(event.transfer.ref, "")
        if event.kind != kvwire.EventKind.XFER_DONE:
            self.note(event.kind.name.lower(), request=name, layer=event.layer, event_at=event.at_ns)
            return
        self.names.pop(event.transfer.ref, None)
        way = {kvwire.Offer: "received", kvwire.Stage: "staged"}.get(type(event.transfer), "sent")
        if event.error is None:
            self.stats.well(way, (event.last_ns - event.first_ns) / 1e9, event.raw_bytes, event.wire_bytes)
        else:
            self.stats.failed(way)
        self.note("done", request=name, error=str(event.error or ""), raw=event.raw_bytes, wire=event.wire_bytes,
                  first=event.first_ns, last=event.last_ns, codec=event.codec)
        if isinstance(event.transfer, kvwire.Offer):
            bad = {b for blocks in (event.bad_blocks or {}).values() for b in blocks}
            self._received(name, event.error, bad, r)
        elif event.error is not None:
            self.log.warning("kvwire: request %s wasn't sent: %s", name, event.error)

    def _received(self, name: str, error: kvwire.Error | None, bad: set[int], r: Results) -> None:
        receiving = self.receiving.pop(name, None)
        if receiving is None:
            return
        r.received.add(name)
        if error is None:
            if self.journal.file is not None:
                self.note("digest", side="decode", key=receiving.what.key,
                          digest=self.pages.digest(receiving.what.blocks, receiving.what.end))
            return
        if receiving.dropped:
            return  # vLLM has ended the request and only waits for its blocks
        self.log.error("kvwire: request %s wasn't received: %s", name, error)
        if len(self.pages.windows) > 1:  # the same id may stand in several block tables, so the request is named
            r.failed.add(name)
            return
        lacking = receiving.what.blocks[0][receiving.what.want // self.pages.tokens[0]:]
        self.bad.update(bad or lacking)

    def take_stats(self) -> Stats | None:
        if self.stats.is_empty():
            return None
        stats, self.stats = self.stats, Stats()
        return stats

    def take_bad(self) -> set[int]:
        bad, self.bad = self.bad, set()
        return bad

    def close(self) -> None:
        self.node.close()
        self.journal.close()
