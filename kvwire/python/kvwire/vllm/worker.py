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
from .plan import Plan, Receive, Send
from .settings import Journal, Settings
from .stats import Stats

IDLE_SECONDS = 0.002  # how long results() may wait when no forward ran and transfers are open
PEERS_MAX = 512


@dataclass
class _Sending:
    stream: kvwire.Stream | None  # None: it couldn't be opened, or has ended
    blocks: list[int]

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
    def __init__(self, settings: Settings, host: str, producer: bool, log: Any) -> None:
        self.settings, self.log = settings, log
        if producer and settings.port == 0:
            raise ValueError("kv_connector_extra_config: a producer needs kvwire_port")
        self.node = kvwire.Node("vllm %s:%d" % (host, settings.port), transport=settings.transport,
                                local="%s:%d" % (host, settings.port), listen=producer, codec=settings.codec,
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

    def register(self, vllm_config: Any, tensors: dict[str, Any]) -> None:
        self.pages = Pages(vllm_config, tensors, self.settings.scratch)
        self.pool = self.node.add_pool(self.pages.desc)

    # -- before the forward -----------------------------------------------------------------------------------------

    def begin(self, plan: Plan) -> None:
        self.step, self.pushed, self.forward = plan.sends, set(), False
        for send in plan.sends:
            self._send(send)
        for receive in plan.receives:
            self._receive(receive)
        for name, why in plan.dropped.items():
            self._drop(name, why)
        self.held.update(plan.held)

    def _send(self, s: Send) -> None:
        table = -(-s.tokens // self.pages.block_tokens)
        try:
            if s.begins:
                ids = (s.blocks + [0] * table)[:table]
                stream = self._open(s, ids)
                self.sending[s.request] = _Sending(stream, list(ids))
                self.names[stream.ref] = s.request
                self.note("stream", request=s.request, key=s.key, tokens=s.tokens, staged=isinstance(stream, kvwire.Stage))
                return
            sending = self.sending[s.request]
            new = s.blocks[:max(0, table - s.first)]
            sending.blocks[s.first:s.first + len(new)] = new
            if sending.stream is not None and new:
                sending.stream.set_blocks(s.first, new)
        except kvwire.Error as e:
            self.log.warning("kvwire: request %s isn't sent: %s", s.request, e)
            self.sending.setdefault(s.request, _Sending(None, [])).stream = None

    def _open(self, s: Send, ids: list[int]) -> kvwire.Stream:
        if s.staged:
            try:
                stage = self.node.stage(self.pool, s.key, s.tokens, ids, until=self.settings.keep)
                self.references[s.request] = stage.reference
                return stage
            except kvwire.Error as e:
                self.log.warning("kvwire: request %s can't be staged, so its blocks are held: %s", s.request, e)
        return self.node.stream(self.pool, s.key, s.tokens, ids, offer_by=self.settings.wait)

    def take_references(self) -> dict[str, bytes]:
        references, self.references = self.references, {}
        return references

    def _receive(self, r: Receive) -> None:
        offer = None
        try:
            if not r.address:
                raise kvwire.InvalidError(-2, r.why)
            groups = kvwire.Blocks(r.blocks, want=(r.want, r.tokens))
            offer = self.node.offer(self.pool, r.key, r.tokens, groups, self._peer(r.address), take_by=self.settings.wait,
                                    lease=self.settings.lease, budget=self.settings.budget, staged=r.reference or None)
            self.names[offer.ref] = r.request
            self.note("offer", request=r.request, key=r.key, tokens=r.tokens, want=r.want)
        except kvwire.Error as e:
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
                self.note("digest", side="prefill", key=s.key, digest=self.pages.digest(sending.blocks))
        self.step = []

    def results(self, finished: set[str]) -> Results:
        r = Results()
        for name in finished:
            if name in self.receiving:
                self._drop(name, "decode ended the request")
        if not self.forward and (self.receiving or self.held):
            self.node.wait(IDLE_SECONDS)
        while (event := self.node.next_event()) is not None:
            self._heed(event, r)
        for name in [n for n, x in self.receiving.items() if x.offer is None]:
            self.stats.failed("received")
            self._received(name, kvwire.InvalidError(-2, "nobody was asked"), (), r)
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
            self._received(name, event.error, (event.bad_blocks or {}).get(0, ()), r)
        elif event.error is not None:
            self.log.warning("kvwire: request %s wasn't sent: %s", name, event.error)

    def _received(self, name: str, error: kvwire.Error | None, bad: tuple[int, ...], r: Results) -> None:
        receiving = self.receiving.pop(name, None)
        if receiving is None:
            return
        r.received.add(name)
        if error is None:
            if self.journal.file is not None:
                self.note("digest", side="decode", key=receiving.what.key,
                          digest=self.pages.digest(receiving.what.blocks[:-(-receiving.what.tokens
                                                                            // self.pages.block_tokens)]))
            return
        if receiving.dropped:
            return  # vLLM has ended the request and only waits for its blocks
        self.log.error("kvwire: request %s wasn't received: %s", name, error)
        lacking = receiving.what.blocks[receiving.what.want // self.pages.block_tokens:]
        r.failed.add(name)
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
