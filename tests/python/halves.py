# SPDX-License-Identifier: Apache-2.0
"""halves.py: KvwireConnector's halves driven in the order in which vLLM calls them, with stand-ins for the few classes of vLLM that
they name; suite.py runs it. vllm_pair.py has vLLM itself."""
import dataclasses
import enum
import logging
import os
import socket
import sys
import time
import types

import kvwire

LAYERS, BLOCKS, TOKENS, HEADS, WIDTH = 4, 64, 16, 4, 64
BLOCK_BYTES = TOKENS * HEADS * WIDTH * 2
SECONDS = 120  # of every patience here; they only end hangs


def stand_ins():
    """Modules named vllm.*, as far as kvwire.vllm imports them."""
    made = {}
    for name in ("", ".logger", ".utils", ".utils.network_utils", ".v1", ".v1.request", ".distributed", ".distributed.kv_transfer",
                 ".distributed.kv_transfer.kv_connector", ".distributed.kv_transfer.kv_connector.v1",
                 ".distributed.kv_transfer.kv_connector.v1.base", ".distributed.kv_transfer.kv_connector.v1.metrics"):
        made[name] = sys.modules["vllm" + name] = types.ModuleType("vllm" + name)
        made[name].__path__ = []
    base, metrics = made[".distributed.kv_transfer.kv_connector.v1.base"], made[".distributed.kv_transfer.kv_connector.v1.metrics"]
    made[".distributed.kv_transfer.kv_connector.v1"].base = base
    made[".logger"].init_logger = logging.getLogger
    logging.getLogger("vllm.kvwire").setLevel(logging.CRITICAL)
    made[".utils.network_utils"].get_ip = lambda: "127.0.0.1"
    made[".v1.request"].RequestStatus = enum.Enum("RequestStatus", "FINISHED_LENGTH_CAPPED FINISHED_STOPPED FINISHED_ABORTED")

    class Base:
        def __init__(self, *args):
            pass

        def bind_connector_metadata(self, metadata):
            pass

    base.KVConnectorBase_V1, base.KVConnectorMetadata, base.KVConnectorWorkerMetadata = Base, type("M", (), {}), type("W", (), {})
    base.KVConnectorRole = enum.Enum("KVConnectorRole", "SCHEDULER WORKER")
    base.KVConnectorTransferResults = dataclasses.make_dataclass("Results", ["finished_sending", "finished_recving"])
    metrics.KVConnectorPromMetrics = object
    metrics.KVConnectorStats = dataclasses.make_dataclass("KVConnectorStats", [("data", dict, dataclasses.field(default_factory=dict))],
                                                          namespace={"__post_init__": lambda self: None})


class Request(types.SimpleNamespace):
    def __init__(self, name, prompt, **params):
        super().__init__(request_id=name, prompt_token_ids=prompt, num_prompt_tokens=len(prompt), kv_transfer_params=params)


class Engine:
    """Both halves, and the part of vLLM that calls them."""

    def __init__(self, port, producer, **extra):
        from kvwire.vllm import KvwireConnector

        role = sys.modules["vllm.distributed.kv_transfer.kv_connector.v1.base"].KVConnectorRole
        config = types.SimpleNamespace(
            parallel_config=types.SimpleNamespace(tensor_parallel_size=1, pipeline_parallel_size=1),
            kv_transfer_config=types.SimpleNamespace(
                is_kv_producer=producer, is_kv_consumer=not producer, engine_id="e",
                kv_connector_extra_config=dict(extra, kvwire_host="127.0.0.1", kvwire_port=port if producer else 0)))
        self.scheduler, self.worker = (KvwireConnector(config, r) for r in (role.SCHEDULER, role.WORKER))
        self.kv = bytearray(os.urandom(2 * LAYERS * BLOCKS * BLOCK_BYTES))
        inner = self.worker._worker
        inner.pages = types.SimpleNamespace(block_tokens=TOKENS, layers={"l%d" % n: n for n in range(LAYERS)}, tensors=dict.fromkeys(range(LAYERS)))
        inner.pool = inner.node.add_pool(kvwire.paged_kv(self.kv, "KLBTHD", shape=(2, LAYERS, BLOCKS, TOKENS, HEADS, WIDTH), dtype="bf16"))
        self.sent, self.received, self.bad = set(), set(), set()

    def close(self):
        self.worker.shutdown()

    def content(self, ids):
        """{(kv and layer, place in the table): bytes}"""
        return {(plane, i): bytes(self.kv[(plane * BLOCKS + b) * BLOCK_BYTES:(plane * BLOCKS + b + 1) * BLOCK_BYTES])
                for plane in range(2 * LAYERS) for i, b in enumerate(ids)}

    def step(self, scheduled=None, finish=None):
        """One step: (request, ids that are new, tokens computed before, now) and the request that ends with it; its answer."""
        new, cached, tokens = [], types.SimpleNamespace(req_ids=[], new_block_ids=[], num_computed_tokens=[]), {}
        if scheduled is not None:
            request, ids, before, now = scheduled
            tokens[request.request_id] = now
            if before == 0:
                new.append(types.SimpleNamespace(req_id=request.request_id, block_ids=[ids], num_computed_tokens=0))
            else:
                cached.req_ids, cached.new_block_ids, cached.num_computed_tokens = [request.request_id], [[ids]], [before]
        output = types.SimpleNamespace(preempted_req_ids=None, scheduled_new_reqs=new, scheduled_cached_reqs=cached, num_scheduled_tokens=tokens)
        self.worker.bind_connector_metadata(self.scheduler.build_connector_meta(output))
        for n in range(LAYERS if scheduled is not None else 0):
            self.worker.save_kv_layer("l%d" % n, None, None)
        self.worker.wait_for_save()
        results = self.worker.get_transfer_results(set())
        self.sent |= results.finished_sending
        self.received |= results.finished_recving
        self.bad |= self.worker.get_block_ids_with_load_errors()
        told = types.SimpleNamespace(kv_connector_worker_meta=self.worker.build_connector_worker_meta())
        answer = None
        if finish is not None:  # in this order: vLLM sends the answer after both
            status = sys.modules["vllm.v1.request"].RequestStatus.FINISHED_LENGTH_CAPPED
            finish.status = status
            held, answer = self.scheduler.request_finished(finish, [])
            assert held
        self.scheduler.update_connector_output(told)
        return answer

    def prefill(self, request, ids, chunk=1 << 20):
        assert self.scheduler.get_num_new_matched_tokens(request, 0) == (0, False)
        blocks = types.SimpleNamespace(get_block_ids=lambda: [ids])
        self.scheduler.update_state_after_alloc(request, blocks, 0)
        tokens, at, answer = request.num_prompt_tokens, 0, None
        while at < tokens:
            now = min(chunk, tokens - at)
            first, end = -(-at // TOKENS), -(-(at + now) // TOKENS)
            answer = self.step((request, ids[first:end], at, now), request if at + now == tokens else None)
            at += now
        return answer

    def until(self, what, seconds=SECONDS):
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, "not within %d s" % seconds
            self.step()

    def load(self, request, ids):
        """Decode asks and gets all, or the blocks that it hasn't got."""
        self.bad.clear()
        assert self.scheduler.get_num_new_matched_tokens(request, 0) == (request.num_prompt_tokens, True)
        self.scheduler.update_state_after_alloc(request, types.SimpleNamespace(get_block_ids=lambda: [ids]), request.num_prompt_tokens)
        self.until(lambda: request.request_id in self.received)
        return set(self.bad)


def check():
    stand_ins()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    patient = dict(kvwire_wait=SECONDS, kvwire_lease=SECONDS, kvwire_keep=5 * SECONDS)
    p, d = Engine(port, True, kvwire_stage_mb=2, **patient), Engine(0, False, **patient)
    try:
        ways(p, d)
    finally:
        p.close()
        d.close()


def ways(p, d):
    tokens, count = 208, 13
    prompt = list(range(tokens))
    for n, chunk in enumerate((1 << 20, 64)):  # one chunk: the reference comes after vLLM asked for the answer
        ids, to = list(range(3, 3 + count)), list(range(40, 40 + count))
        answer = p.prefill(Request("p%d" % n, prompt, do_remote_decode=True), ids, chunk)
        assert len(bytes.fromhex(answer["kvwire_staged"])) == 32, answer
        p.until(lambda name="p%d" % n: name in p.sent)  # its blocks are free, and decode knows nothing yet
        wanted = p.content(ids)
        p.kv[:] = os.urandom(len(p.kv))
        assert d.load(Request("d%d" % n, prompt, **answer), to) == set()
        assert d.content(to) == wanted and p.content(ids) != wanted
        assert d.load(Request("again%d" % n, prompt, **answer), to) == set(to)  # consumed
    answer = p.prefill(Request("other", prompt, do_remote_decode=True), ids)
    assert d.load(Request("d other", prompt[1:] + [7], **answer), to) == set(to)
    for value in ("ab" * 32, "abc", [1]):
        assert d.load(Request("made up %s" % value, prompt, **dict(answer, kvwire_staged=value)), to) == set(to)
    answers = [p.prefill(Request("full %d" % n, prompt, do_remote_decode=True), ids) for n in range(4)]
    assert ["kvwire_staged" in a for a in answers] == [True, False, False, False], answers  # "other" is still there
    for _ in range(3):
        p.step()
    assert "full 3" not in p.sent
    wanted = p.content(ids)
    assert d.load(Request("held", prompt, **answers[3]), to) == set() and d.content(to) == wanted
    p.until(lambda: "full 3" in p.sent)
    figures = d.worker.get_kv_connector_stats()
    assert len(figures.data["received"]) == 3 and figures.data["failed received"] == 6, figures
    assert d.worker.get_kv_connector_stats() is None and len(p.worker.get_kv_connector_stats().data["staged"]) == 4


if __name__ == "__main__":
    check()
