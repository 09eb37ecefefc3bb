# SPDX-License-Identifier: Apache-2.0
"""halves.py: KvwireConnector's halves driven in the order in which vLLM calls them, with stand-ins for the few classes of vLLM that
they name; suite.py runs it. vllm_pair.py has vLLM itself."""
import contextlib
import dataclasses
import enum
import logging
import os
import socket
import sys
import time
import types

import kvwire

LAYERS, HEADS, DIMS, MEMORY_TOKENS = 4, 4, 32, 1024  # four KV heads in the whole model; f32
SECONDS = 120  # of every patience here; they only end hangs


def stand_ins():
    """Modules named vllm.*, as far as kvwire.vllm imports them."""
    made = {}
    for name in ("", ".logger", ".utils", ".utils.network_utils", ".v1", ".v1.request", ".distributed", ".distributed.kv_transfer",
                 ".distributed.kv_transfer.kv_connector", ".distributed.kv_transfer.kv_connector.v1",
                 ".distributed.kv_transfer.kv_connector.v1.base", ".distributed.kv_transfer.kv_connector.v1.metrics",
                 ".distributed.parallel_state", ".v1.attention", ".v1.attention.backends", ".v1.attention.backends.cpu_attn"):
        made[name] = sys.modules["vllm" + name] = types.ModuleType("vllm" + name)
        made[name].__path__ = []
    base, metrics = made[".distributed.kv_transfer.kv_connector.v1.base"], made[".distributed.kv_transfer.kv_connector.v1.metrics"]
    made[".distributed.kv_transfer.kv_connector.v1"].base = base
    made[".logger"].init_logger = logging.getLogger
    logging.getLogger("vllm.kvwire").setLevel(logging.CRITICAL)
    made[".distributed.parallel_state"].get_tensor_model_parallel_rank = lambda: Engine.rank
    made[".v1.attention.backends.cpu_attn"]._get_attn_isa = lambda *shape: "amx"
    made[".utils.network_utils"].get_ip = lambda: "127.0.0.1"
    made[".v1.request"].RequestStatus = enum.Enum("RequestStatus", "FINISHED_LENGTH_CAPPED FINISHED_STOPPED FINISHED_ABORTED")

    class Base:
        def __init__(self, *args):
            pass

        def bind_connector_metadata(self, metadata):
            pass

    base.KVConnectorBase_V1, base.KVConnectorMetadata, base.KVConnectorWorkerMetadata = Base, type("M", (), {}), type("W", (), {})
    base.KVConnectorRole = enum.Enum("KVConnectorRole", "SCHEDULER WORKER")
    base.KVConnectorTransferResults = dataclasses.make_dataclass("Results", ["finished_sending", "finished_recving", "failed_recving"])
    base.SupportsHMA = type("SupportsHMA", (), {})
    metrics.KVConnectorPromMetrics = object
    metrics.KVConnectorStats = dataclasses.make_dataclass("KVConnectorStats", [("data", dict, dataclasses.field(default_factory=dict))],
                                                          namespace={"__post_init__": lambda self: None})


class Request(types.SimpleNamespace):
    def __init__(self, name, prompt, **params):
        super().__init__(request_id=name, prompt_token_ids=prompt, num_prompt_tokens=len(prompt), kv_transfer_params=params)


class Cache:
    """One rank's KV as vLLM's CPU backend lays it out: [layer][block][head][K transposed, then V]."""

    def __init__(self, tokens, heads):
        self.tokens, self.heads, self.blocks = tokens, heads, MEMORY_TOKENS // tokens
        self.half = tokens * DIMS
        self.page = 2 * self.half
        self.bytes = bytearray(os.urandom(4 * LAYERS * self.blocks * (heads.end - heads.first) * self.page))
        self.words = memoryview(self.bytes).cast("I")

    def scribble(self, blocks=None):
        """Other KV, everywhere or in all layers of these blocks."""
        block = len(self.bytes) // LAYERS // self.blocks
        for layer in range(LAYERS):
            for b in range(self.blocks) if blocks is None else blocks:
                at = (layer * self.blocks + b) * block
                self.bytes[at:at + block] = os.urandom(block)

    def tensors(self):
        from kvwire.vllm.pages import Tensor

        here = self.heads.end - self.heads.first
        base, block = kvwire.memory_of(self.bytes).address, here * self.page * 4
        return [Tensor(n, base + n * self.blocks * block, self.blocks, here, self.tokens, DIMS, block, self.page * 4, "f32", 4)
                for n in range(LAYERS)]

    def token(self, layer, head, block, slot):
        at = ((layer * self.blocks + block) * (self.heads.end - self.heads.first) + head - self.heads.first) * self.page
        return (bytes(self.words[at + slot:at + self.half:self.tokens]), bytes(self.words[at + self.half + slot * DIMS:][:DIMS]))


class Engine:
    """Both halves, the latter in each rank, and the part of vLLM that calls them.

    windows  of each block table; layer n is of table n % len(windows)"""

    rank = 0

    def __init__(self, port, producer, tokens=16, ranks=1, windows=(0,), **extra):
        from kvwire.vllm import KvwireConnector
        from kvwire.vllm.pages import groups_of, heads_of

        role = sys.modules["vllm.distributed.kv_transfer.kv_connector.v1.base"].KVConnectorRole
        config = types.SimpleNamespace(
            parallel_config=types.SimpleNamespace(tensor_parallel_size=ranks, pipeline_parallel_size=1),
            model_config=types.SimpleNamespace(get_total_num_kv_heads=lambda: HEADS),
            kv_transfer_config=types.SimpleNamespace(
                is_kv_producer=producer, is_kv_consumer=not producer, engine_id="e",
                kv_connector_extra_config=dict(extra, kvwire_host="127.0.0.1", kvwire_port=port if producer else 0)))
        self.tokens, self.windows, self.ranks, self.caches, self.workers = tokens, windows, ranks, [], []
        groups = types.SimpleNamespace(kv_cache_groups=[types.SimpleNamespace(kv_cache_spec=spec(w), layer_names=[]) for w in windows])
        self.scheduler = KvwireConnector(config, role.SCHEDULER, groups)
        for Engine.rank in range(ranks):
            self.caches.append(Cache(tokens, heads_of(HEADS, ranks, Engine.rank)))
            self.workers.append(KvwireConnector(config, role.WORKER, groups))
            tensors = self.caches[-1].tensors()
            made, of = groups_of([(w, tensors[i::len(windows)]) for i, w in enumerate(windows)], self.caches[-1].heads if ranks > 1 else None)
            inner = self.workers[-1]._worker
            inner.pages = types.SimpleNamespace(tokens=[tokens] * len(windows), windows=list(windows), tables=of,
                                                layers={"l%d" % n: n for n in range(LAYERS)}, tensors=dict.fromkeys(range(LAYERS)))
            inner.pool = inner.node.add_pool(kvwire.PoolDesc([self.caches[-1].bytes], made, fingerprint=b"0123456789abcdef"))
        self.worker = self.workers[0]
        self.sent, self.received, self.failed, self.bad, self.counts = set(), set(), set(), set(), {}
        self.hit = 0  # tokens of each prompt that the prefix cache has

    def close(self):
        for worker in self.workers:
            worker.shutdown()

    def content(self, tables, end):
        """{(layer, head, token): its K and V} of tokens 0 to end-1, or of the last ones of a window; tables: ids for each."""
        got = {}
        for cache in self.caches:
            for layer in range(LAYERS):
                table = layer % len(self.windows)
                window = self.windows[table]
                for t in range(max(0, end + 1 - window) if window else 0, end):
                    for head in range(cache.heads.first, cache.heads.end):
                        got[layer, head, t] = cache.token(layer, head, tables[table][t // self.tokens], t % self.tokens)
        return got

    def scribble(self, blocks=None):
        for cache in self.caches:
            cache.scribble(blocks)

    def whole(self, kind, names):
        """Of names that a rank tells: those that all ranks have told."""
        done = set()
        for name in names or ():
            self.counts[kind, name] = self.counts.get((kind, name), 0) + 1
            if self.counts[kind, name] == self.ranks:
                del self.counts[kind, name]
                done.add(name)
        return done

    def step(self, scheduled=None, finish=None, preempted=None, resumed=False):
        """One step: (request, ids that are new of each table, tokens computed before, now) and the request that ends with it;
        its answer."""
        new, cached, tokens = [], types.SimpleNamespace(req_ids=[], new_block_ids=[], num_computed_tokens=[]), {}
        if scheduled is not None:
            request, ids, before, now = scheduled
            tokens[request.request_id] = now
            if before == self.hit and not resumed:
                new.append(types.SimpleNamespace(req_id=request.request_id, block_ids=ids, num_computed_tokens=before))
            else:
                cached.req_ids, cached.new_block_ids, cached.num_computed_tokens = [request.request_id], [ids], [before]
        output = types.SimpleNamespace(preempted_req_ids=preempted, scheduled_new_reqs=new, scheduled_cached_reqs=cached, num_scheduled_tokens=tokens)
        plan, told = self.scheduler.build_connector_meta(output), None
        for worker in self.workers:
            worker.bind_connector_metadata(plan)
            for n in range(LAYERS if scheduled is not None else 0):
                worker.save_kv_layer("l%d" % n, None, None)
            worker.wait_for_save()
            results = worker.get_transfer_results(set())
            self.sent |= self.whole("sent", results.finished_sending)
            self.received |= self.whole("received", results.finished_recving)
            self.failed |= results.failed_recving
            self.bad |= worker.get_block_ids_with_load_errors()
            of = worker.build_connector_worker_meta()
            told = told.aggregate(of) if told is not None and of is not None else of if of is not None else told
        answer = None
        if finish is not None:  # in this order: vLLM sends the answer after both
            status = sys.modules["vllm.v1.request"].RequestStatus.FINISHED_LENGTH_CAPPED
            finish.status = status
            held, answer = self.scheduler.request_finished_all_groups(finish, ())
            assert held
        self.scheduler.update_connector_output(types.SimpleNamespace(kv_connector_worker_meta=told))
        return answer

    def admit(self, request, tables):
        assert self.scheduler.get_num_new_matched_tokens(request, 0) == (0, False)
        self.scheduler.update_state_after_alloc(request, types.SimpleNamespace(get_block_ids=lambda: tables), 0)

    def prefill(self, request, tables, chunk=1 << 20, resumed=False):
        """tables: ids for each block table. Between chunks the blocks that have left a window get other content."""
        self.admit(request, tables)
        tokens, at, answer = request.num_prompt_tokens, self.hit, None
        while at < tokens:
            now = min(chunk, tokens - at)
            first, end = -(-at // self.tokens) if at > self.hit else 0, -(-(at + now) // self.tokens)
            answer = self.step((request, [t[first:end] for t in tables], at, now), request if at + now == tokens else None, resumed=resumed)
            at += now
            for table, window in zip(tables, self.windows):
                if window:
                    self.scribble(table[:max(0, at - now - window + 1) // self.tokens])
        return answer

    def until(self, what, seconds=SECONDS):
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, "not within %d s" % seconds
            self.step()

    def load(self, request, tables):
        """Decode asks and gets all, or what it hasn't got: the blocks, or beside several block tables the request's name."""
        self.ask(request, tables)
        return self.got(request)

    def ask(self, request, tables):
        self.bad.clear()
        asked = request.num_prompt_tokens - (1 if any(self.windows) else 0) - self.hit
        assert self.scheduler.get_num_new_matched_tokens(request, self.hit) == (asked, True)
        self.scheduler.update_state_after_alloc(request, types.SimpleNamespace(get_block_ids=lambda: tables), asked)

    def got(self, request):
        self.until(lambda: request.request_id in self.received)
        return set(self.bad) | self.failed & {request.request_id}


def spec(window):
    """Of a KV cache group; the class's name is what counts."""
    return type("SlidingWindowSpec", (), {"sliding_window": window})() if window else type("FullAttentionSpec", (), {})()


def free_ports(count):
    """The first of so many free ports in a row."""
    while True:
        with contextlib.ExitStack() as open_ones:
            first = 0
            try:
                for n in range(count):
                    s = open_ones.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                    s.bind(("127.0.0.1", first + n if n else 0))
                    first = first or s.getsockname()[1]
                return first
            except (OSError, OverflowError):
                pass


def check():
    stand_ins()
    patient = dict(kvwire_wait=SECONDS, kvwire_lease=SECONDS, kvwire_keep=5 * SECONDS)
    with pair(dict(kvwire_stage_mb=2, **patient), patient) as (p, d):
        ways(p, d)
    for one, other in ((16, 64), (128, 32)):  # tokens a block
        with pair(dict(patient, tokens=one), dict(patient, tokens=other)) as (p, d):
            moved(p, d)
    for one, other in ((2, 1), (1, 2), (4, 2)):  # tensor-parallel ranks
        with pair(dict(patient, ranks=one, kvwire_decode_tp=other), dict(patient, ranks=other, tokens=32)) as (p, d):
            moved(p, d)
    with pair(dict(patient, windows=(0, 70)), dict(patient, windows=(0, 70), tokens=32)) as (p, d):
        moved(p, d)
        window_is_left(p, d)
    with pair(dict(patient, windows=(0, 70)), dict(patient, windows=(0, 71))) as (p, d):
        request = Request("other window", list(range(208)), do_remote_decode=True)
        tables = blocks_of(p, 208, 0)
        answer = p.prefill(request, tables)
        assert d.load(Request("d", request.prompt_token_ids, **answer), blocks_of(d, 208, 1)) == {"d"}
    with pair(patient, dict(patient, ranks=2)) as (p, d):  # prefill wasn't told: one rank gets its heads, and all is refused
        answer = p.prefill(Request("p", list(range(200)), do_remote_decode=True), blocks_of(p, 200, 0))
        assert d.load(Request("d", list(range(200)), **answer), blocks_of(d, 200, 1))
    with pair(patient, patient) as (p, d):
        preempted(p, d)
    with pair(patient, patient) as (p, d):
        spanned(p, d)
    refused()


@contextlib.contextmanager
def pair(p, d):
    engines = [Engine(free_ports(p.get("ranks", 1)), True, **p)]
    try:
        engines.append(Engine(0, False, **d))
        yield engines
    finally:
        for engine in engines:
            engine.close()


def blocks_of(engine, tokens, where):
    """Ids for each block table: in no order, not the same in two tables, the first ones or others (where 0 or 1)."""
    count, tables = -(-tokens // engine.tokens), len(engine.windows)
    blocks = MEMORY_TOKENS // engine.tokens
    ids = list(range(blocks))[::-1 if where else 1]
    return [[ids[i * tables + n] for i in range(count)] for n in range(tables)]


def moved(p, d, tokens=200):
    """Concurrent and serial, in one chunk and in several: what is in decode's pages is what is in prefill's, token by token."""
    prompt, end = list(range(tokens)), tokens - (1 if any(d.windows) else 0)
    for n, (chunk, serial) in enumerate(((1 << 20, True), (48, True), (64, False))):
        ids, to = blocks_of(p, tokens, 0), blocks_of(d, tokens, 1)
        d.scribble()
        name = "%d" % n
        if serial:
            answer = p.prefill(Request("p" + name, prompt, do_remote_decode=True), ids, chunk)
            assert len(bytes.fromhex(answer["kvwire_staged"])) == 32 * p.ranks, answer
            wanted = p.content(ids, end)
            p.until(lambda name=name: "p" + name in p.sent)
            p.scribble()
            assert d.content(to, end) != wanted
            assert d.load(Request("d" + name, prompt, **answer), to) == set()
        else:
            asked = Request("d" + name, prompt, do_remote_prefill=True, transfer_id="t", remote_host="127.0.0.1", tp_size=p.ranks,
                            remote_port=p.scheduler._scheduler.settings.port)
            d.ask(asked, to)
            d.step()
            p.prefill(Request("p" + name, prompt, do_remote_decode=True, transfer_id="t"), ids, chunk)
            assert d.got(asked) == set()
            wanted = p.content(ids, end)
            p.until(lambda name=name: "p" + name in p.sent)
        assert d.content(to, end) == wanted, "chunk %d" % chunk


def spanned(p, d, tokens=200):
    """Prefix caching: decode has the first tokens, and asks for the others alone; prefill has more of them, and sends what it didn't compute."""
    prompt, ids, to = list(range(tokens)), blocks_of(p, tokens, 0), blocks_of(d, tokens, 1)
    p.hit, d.hit = 128, 64
    own = d.content(to, d.hit)
    answer = p.prefill(Request("p span", prompt, do_remote_decode=True), ids, 48)
    assert d.load(Request("d span", prompt, **answer), to) == set()
    wanted = p.content(ids, tokens)
    got = d.content(to, tokens)
    assert all(got[key] == (wanted if key[2] >= d.hit else own)[key] for key in got), "the span, or what isn't in it"
    assert not any(own[key] == wanted[key] for key in own), "the comparison can't see a token"
    (_, raw, _), = d.worker.get_kv_connector_stats().data["received"]
    assert raw == (-(-tokens // 16) * 16 - d.hit) * LAYERS * HEADS * 2 * DIMS * 4, raw


def window_is_left(p, d):
    """Prefill decodes on: its transfer ends before blocks leave the window, and decode is told."""
    prompt = list(range(200))
    request, ids, to = Request("goes on", prompt, do_remote_decode=True, transfer_id="u"), blocks_of(p, 200, 0), blocks_of(d, 200, 1)
    p.admit(request, ids)
    p.step((request, ids, 0, 200))
    p.step((request, [[], []], 200, 1))
    asked = Request("late", prompt, do_remote_prefill=True, transfer_id="u", remote_host="127.0.0.1",
                    remote_port=p.scheduler._scheduler.settings.port)
    assert d.load(asked, to) == {"late"}
    lonely = Request("lonely", [7], do_remote_prefill=True, transfer_id="v", remote_host="127.0.0.1", remote_port=1)
    assert d.scheduler.get_num_new_matched_tokens(lonely, 0) == (0, False)  # its only token is computed there
    lonely = Request("lonely", [7], do_remote_decode=True)
    p.admit(lonely, [[1], [2]])
    p.step((lonely, [[1], [2]], 0, 1))
    lonely.status = None
    held, answer = p.scheduler.request_finished_all_groups(lonely, ())
    assert not held and answer["do_remote_prefill"] and answer["transfer_id"], answer  # for a serial router


def preempted(p, d):
    """In mid-prompt: nothing of it is read from blocks that are another's by then."""
    prompt, port = list(range(200)), p.scheduler._scheduler.settings.port
    ids, to = blocks_of(p, 200, 0), blocks_of(d, 200, 1)
    for transfer in (None, "w"):
        given = {"transfer_id": transfer} if transfer else {}
        request = Request("p %s" % transfer, prompt, do_remote_decode=True, **given)
        p.admit(request, ids)
        asked = Request("d %s" % transfer, prompt, do_remote_prefill=True, remote_host="127.0.0.1", remote_port=port, **given)
        if transfer:
            d.ask(asked, to)
            d.step()
        p.step((request, [ids[0][:4]], 0, 64))
        wanted = p.content(ids, 64)
        p.step(preempted={request.request_id})
        p.scribble()
        answer = p.prefill(request, ids, resumed=True)
        if transfer:
            bad = d.got(asked)
            whole = [n for n, block in enumerate(to[0]) if block not in bad]  # landed before
            assert bad <= set(to[0]) and not set(whole) - set(range(4)), bad
            seen = d.content(to, 64)
            assert all(seen[at] == wanted[at] for at in seen if at[2] // 16 in whole)
        else:
            assert d.load(Request("d", prompt, **answer), to) == set() and d.content(to, 200) == p.content(ids, 200)


def refused():
    """By a sentence that names it."""
    from kvwire.vllm.memory import packing, windows_of
    from kvwire.vllm.pages import Heads, Tensor, groups_of, heads_of, partners

    layer = Tensor(0, 4096, 8, 2, 32, 64, 1 << 16, 1 << 15, "f32", 4)
    for said, call in (("MambaSpec", lambda: windows_of(types.SimpleNamespace(kv_cache_groups=[types.SimpleNamespace(
                            kv_cache_spec=type("MambaSpec", (), {})(), layer_names=["a"])]))),
                       ("24 tokens", lambda: groups_of([(0, [dataclasses.replace(layer, tokens=24)])], None)),
                       ("not 4 of 8", lambda: groups_of([(0, [layer])], Heads(0, 4, 8))),
                       ("same group", lambda: groups_of([(0, [layer, dataclasses.replace(layer, layer=1, tokens=64)])], None)),
                       ("at most 16", lambda: groups_of([(0, [dataclasses.replace(layer, heads=256)])], None)),
                       ("'amx'", lambda: packing("torch.bfloat16", 32, 64)),
                       ("evenly", lambda: heads_of(3, 2, 0))):
        try:
            call()
        except (ValueError, RuntimeError) as e:
            assert said in str(e), e
        else:
            raise AssertionError(said)
    assert partners(4, 2, 1, 4) == [2, 3] and partners(4, 4, 2, 1) == [0] and partners(2, 4, 3, 2) == [1] and partners(2, 2, 0, 4) == [0, 1]
    assert len(groups_of([(0, [dataclasses.replace(layer, heads=32)])], None)[0]) == 3  # 33 parts


def ways(p, d):
    tokens, count = 208, 13
    prompt = list(range(tokens))
    ids, to = [list(range(3, 3 + count))], [list(range(40, 40 + count))]
    for n, chunk in enumerate((1 << 20, 64)):  # one chunk: the reference comes after vLLM asked for the answer
        answer = p.prefill(Request("p%d" % n, prompt, do_remote_decode=True), ids, chunk)
        assert len(bytes.fromhex(answer["kvwire_staged"])) == 32, answer
        p.until(lambda name="p%d" % n: name in p.sent)  # its blocks are free, and decode knows nothing yet
        wanted = p.content(ids, tokens)
        p.scribble()
        assert d.load(Request("d%d" % n, prompt, **answer), to) == set()
        assert d.content(to, tokens) == wanted and p.content(ids, tokens) != wanted
        assert d.load(Request("again%d" % n, prompt, **answer), to) == set(to[0])  # consumed
    answer = p.prefill(Request("other", prompt, do_remote_decode=True), ids)
    assert d.load(Request("d other", prompt[1:] + [7], **answer), to) == set(to[0])
    for value in ("ab" * 32, "abc", [1]):
        assert d.load(Request("made up %s" % value, prompt, **dict(answer, kvwire_staged=value)), to) == set(to[0])
    answers = [p.prefill(Request("full %d" % n, prompt, do_remote_decode=True), ids) for n in range(4)]
    assert ["kvwire_staged" in a for a in answers] == [True, False, False, False], answers  # "other" is still there
    for _ in range(3):
        p.step()
    assert "full 3" not in p.sent
    wanted = p.content(ids, tokens)
    assert d.load(Request("held", prompt, **answers[3]), to) == set() and d.content(to, tokens) == wanted
    p.until(lambda: "full 3" in p.sent)
    figures = d.worker.get_kv_connector_stats()
    assert len(figures.data["received"]) == 3 and figures.data["failed received"] == 6, figures
    assert d.worker.get_kv_connector_stats() is None and len(p.worker.get_kv_connector_stats().data["staged"]) == 4


if __name__ == "__main__":
    check()
