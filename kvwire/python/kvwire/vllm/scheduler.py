# SPDX-License-Identifier: Apache-2.0
"""The half of the connector that lives in vLLM's scheduler process: which requests send, which receive, whose blocks
are held.

kv_transfer_params, as routers for NixlConnector send them, with one key more:

    to prefill   do_remote_decode true, transfer_id "..." (concurrent mode; without one it is made here: serial mode)
    its answer   do_remote_prefill true, transfer_id, remote_host, remote_port, tp_size, kvwire_staged ...: for decode, verbatim
    to decode    do_remote_prefill true, transfer_id, remote_host, remote_port, tp_size (1), kvwire_staged (serial mode)

Concurrent mode: a router that knows remote_host and remote_port (it asks once, with kvwire_hello true) sends to both at
once, and layers leave while they are computed. Serial mode: prefill first, then decode with the answer. What is computed
is staged meanwhile, so prefill's blocks are free when the answer leaves; kvwire_staged names it. Where there is no room to
stage, the key is missing, and prefill's blocks are held until decode has got them or kvwire_wait is over.

A prompt that prefill preempts in mid-transfer has lost its blocks: in concurrent mode its transfer ends, and decode's policy
says what follows; in serial mode nobody knows of it yet, so it is sent anew under another id when it is computed again.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Sequence

from ..pool import fingerprint_of
from .plan import CAN_STAGE, REFERENCE_BYTES, Plan, Receive, Send, Source
from .settings import Journal, Settings

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.request import Request


def _key(transfer_id: str, request: "Request") -> str:
    """The transfer's key: of the id and of all that the state depends on. So a reference that is stale, used twice or
    made up for another prompt meets no stream, whatever the ids of blocks and requests are by then."""
    state = (request.prompt_token_ids, getattr(request, "cache_salt", None),
             getattr(getattr(request, "lora_request", None), "lora_name", None),
             [f.identifier for f in getattr(request, "mm_features", None) or ()])
    return "%s %s" % (transfer_id, fingerprint_of(*state).hex())


class _Sending:
    """A request of which this side sends the prompt."""

    def __init__(self, transfer: str, key: str, tokens: int, staged: bool, tables: int) -> None:
        self.transfer, self.key, self.tokens, self.blocks, self.computed = transfer, key, tokens, [0] * tables, 0
        self.staged, self.references = staged, dict[int, bytes]()

    @property
    def begun(self) -> bool:
        return any(self.blocks)


class Scheduler:
    """windows: of each block table, the tokens of its sliding window, 0: all are kept; ranks: tensor-parallel."""

    def __init__(self, settings: Settings, host: str, roles: tuple[bool, bool], engine: str, windows: list[int], ranks: int) -> None:
        self.settings, self.host, self.engine = settings, host, engine
        self.producer, self.consumer = roles
        self.windows, self.ranks = windows, ranks
        self.sending: dict[str, _Sending] = {}
        self.receiving: set[str] = set()
        self.answers: dict[str, dict[str, Any]] = {}  # of this step's finished requests
        self.plan = Plan()
        self.journal = Journal(settings.log)

    # -- decode ---------------------------------------------------------------------------------------------------

    def matched_tokens(self, request: "Request", computed: int) -> tuple[int, bool]:
        params = request.kv_transfer_params or {}
        if not params.get("do_remote_prefill"):
            return 0, False
        # vLLM computes the last token here in any case. Beside a window its block of the window's first token is gone by
        # then if all tokens are counted as loaded, so it isn't loaded there.
        lacking = request.num_prompt_tokens - computed - (1 if any(self.windows) else 0)
        return (lacking, True) if lacking > 0 else (0, False)

    def allocated(self, request: "Request", ids: list[list[int]], external: int) -> None:
        """ids: of each block table, all of the request."""
        params = request.kv_transfer_params or {}
        if params.get("do_remote_prefill") and external > 0:
            params["do_remote_prefill"] = False  # once: after a failure vLLM computes it here, and mustn't ask again
            self.receiving.add(request.request_id)
            end = request.num_prompt_tokens - (1 if any(self.windows) else 0)
            self.plan.receives.append(Receive(request.request_id, _key(str(params.get("transfer_id")), request),
                                              request.num_prompt_tokens, end - external, end,
                                              [list(table) for table in ids], self._source(params)))
        elif params.get("do_remote_decode") and self.producer and not params.get("kvwire_hello"):
            if request.request_id not in self.sending and not self._lonely(request):
                serial = not params.get("transfer_id")
                transfer = params.get("transfer_id") or uuid.uuid4().hex
                self.sending[request.request_id] = _Sending(transfer, _key(transfer, request), request.num_prompt_tokens,
                                                            serial and CAN_STAGE and self.settings.stage_mb > 0, len(ids))

    def _lonely(self, request: "Request") -> bool:
        """Its only token is computed by decode: matched_tokens()."""
        return any(self.windows) and request.num_prompt_tokens < 2

    def _source(self, params: dict[str, Any]) -> Source:
        """Who has the prompt, or why there is nobody: the worker then reports the load as failed, so that
        kv_load_failure_policy decides, and no wrong token goes out."""
        if not self.consumer:
            return Source(why="kv_role of this engine is kv_producer: it asks nobody")
        for name, kind in (("transfer_id", str), ("remote_host", str), ("remote_port", int)):
            if not isinstance(params.get(name), kind) or not params[name]:
                return Source(why="kv_transfer_params: %s is %r" % (name, params.get(name)))
        ranks = params.get("tp_size") or 1
        if not isinstance(ranks, int) or not 1 <= ranks <= 64:
            return Source(why="kv_transfer_params: tp_size is %r" % (ranks,))
        try:
            reference = bytes.fromhex(params.get("kvwire_staged") or "")
        except (TypeError, ValueError):
            reference = b"?"
        if len(reference) not in (0, ranks * REFERENCE_BYTES):
            return Source(why="kv_transfer_params: kvwire_staged is %r, of %d ranks" % (params["kvwire_staged"], ranks))
        return Source(params["remote_host"], params["remote_port"], ranks, reference)

    # -- each step ------------------------------------------------------------------------------------------------

    def step(self, output: "SchedulerOutput") -> Plan:
        plan, self.plan = self.plan, Plan()
        for name in output.preempted_req_ids or ():
            if self.sending.pop(name, None) is not None:
                plan.dropped[name] = "prefill preempted the request"
        for new in output.scheduled_new_reqs:
            self.journal.note("scheduled", request=new.req_id, before=new.num_computed_tokens,
                              tokens=output.num_scheduled_tokens.get(new.req_id, 0))
            s = self.sending.get(new.req_id)
            if s is not None:
                self._advance(plan, new.req_id, s, new.block_ids, new.num_computed_tokens, output)
        cached = output.scheduled_cached_reqs
        for i, name in enumerate(cached.req_ids):
            s = self.sending.get(name)
            if s is None:
                continue
            if s.computed < s.tokens:
                self._advance(plan, name, s, cached.new_block_ids[i] or (), cached.num_computed_tokens[i], output)
            elif any(self.windows):  # it decodes here too, and blocks leave its window; nothing happens to what has ended
                plan.dropped[name] = "prefill went on past the prompt, whose blocks leave the sliding window"
        return plan

    @staticmethod
    def _advance(plan: Plan, name: str, s: _Sending, blocks: Sequence[list[int]], computed: int,
                 output: "SchedulerOutput") -> None:
        begins = not s.begun
        s.computed = min(s.tokens, computed + output.num_scheduled_tokens.get(name, 0))
        blocks = [list(b) for b in blocks] or [[] for _ in s.blocks]
        plan.sends.append(Send(name, s.key, s.tokens, s.blocks, blocks, s.computed, begins, s.staged))
        s.blocks = [n + len(b) for n, b in zip(s.blocks, blocks)]

    # -- ends -----------------------------------------------------------------------------------------------------

    def finished(self, request: "Request", complete: bool) -> tuple[bool, dict[str, Any] | None]:
        """Whether its blocks are held, and what goes back to the router."""
        name, params = request.request_id, request.kv_transfer_params or {}
        if name in self.receiving:
            self.receiving.discard(name)
            self.plan.dropped[name] = "decode ended the request"
        if params.get("kvwire_hello"):
            return False, {"remote_host": self.host, "remote_port": self.settings.port, "remote_engine_id": self.engine,
                           "tp_size": self.ranks}
        s = self.sending.pop(name, None)
        if s is None:
            alone = self.producer and params.get("do_remote_decode") and self._lonely(request)
            return False, self._answer(name, str(params.get("transfer_id") or uuid.uuid4().hex), 1) if alone else None
        if not complete or s.computed < s.tokens:
            self.plan.dropped[name] = "prefill ended the request"
            if not s.begun:  # never scheduled: the worker knows nothing of it
                return False, None
            self.plan.held.append(name)
            return True, None
        self.plan.held.append(name)
        answer = self._answer(name, s.transfer, s.tokens)
        if s.references:
            answer["kvwire_staged"] = self._joined(s.references)
        elif s.staged:
            self.answers[name] = answer
        return True, answer

    def _answer(self, name: str, transfer: str, tokens: int) -> dict[str, Any]:
        return {"do_remote_prefill": True, "do_remote_decode": False, "transfer_id": transfer, "remote_engine_id": self.engine,
                "remote_request_id": name, "remote_host": self.host, "remote_port": self.settings.port, "remote_num_tokens": tokens,
                "tp_size": self.ranks}

    def _joined(self, references: dict[int, bytes]) -> str:
        """What all ranks have staged. Where one had no room: no reference, which decode refuses at once."""
        if len(references) != self.ranks:
            return "staged by %d of %d ranks" % (len(references), self.ranks)
        return b"".join(references[rank] for rank in range(self.ranks)).hex()

    def staged(self, references: dict[str, dict[int, bytes]]) -> None:
        """After each step. vLLM asks finished() for the answer of a prompt of one chunk before it tells what the worker said
        of the same step, and sends that answer afterwards: so the reference is put into it here."""
        for name, of in references.items():
            if name in self.sending:
                self.sending[name].references = of
            elif name in self.answers:
                self.answers[name]["kvwire_staged"] = self._joined(of)
        self.answers.clear()
