#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""vllm_shapes.py PYTHON MODEL FOLDER [CASE...]: prefill and decode that lay KV out differently, in real vLLM servers on this
CPU: tokens a block, tensor-parallel ranks, and groups of layers with a sliding window; and both with prefix caching. Prints TAP, and
writes FOLDER/table.md.

For each case prefill, decode and a control whose data lands elsewhere, as in vllm_pair.py, whose words on an honest
comparison hold here. MODEL, SmolLM2-135M, has 3 KV heads and no window; for the other cases small models with random weights,
which are large enough that what follows depends on the whole prompt, and MODEL's tokenizer. KVW_VLLM_DTYPE=bfloat16: digests count
there, as a last token that is computed alone may come out otherwise."""
import http.client
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request

CASES = sys.argv[4:]
del sys.argv[4:]
import vllm_pair as v  # noqa: E402: it reads sys.argv

LENGTHS = (0, 1, 4, 11, 31, 75)  # sentences of about 13 tokens; 0: one token
WINDOW = 160  # tokens: 5 blocks of 32
# The CPU backend takes multiples of 32 tokens a block. name: (what differs, model, options and ranks of prefill, of decode)
KNOWN = {
    "blocks": ("32 tokens a block, and 96", None, (["--block-size", "32"], 1), (["--block-size", "96"], 1)),
    "window": ("full attention and windows of %d, 32 tokens a block, and 64" % WINDOW, "gemma", (["--block-size", "32"], 1),
               (["--block-size", "64"], 1)),
    "prefix": ("prefix caching, 128 tokens a block, and 32", None, (["--enable-prefix-caching"], 1),
               (["--enable-prefix-caching", "--block-size", "32"], 1)),
    "ranks2to1": ("two tensor-parallel ranks, and one", "llama", ([], 2), (["--block-size", "32"], 1)),
    "ranks1to2": ("one tensor-parallel rank, and two", "llama", ([], 1), (["--block-size", "32"], 2)),
}

MAKE = """
import sys, torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM
kind, folder, window = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.manual_seed(11)
same = dict(vocab_size=49152, hidden_size=256, intermediate_size=512, num_attention_heads=4, head_dim=64, initializer_range=0.1,
            max_position_embeddings=2048, bos_token_id=1, eos_token_id=2, pad_token_id=2, torch_dtype="float32")
if kind == "gemma":
    model = Gemma3ForCausalLM(Gemma3TextConfig(num_hidden_layers=6, num_key_value_heads=2, sliding_window=window, query_pre_attn_scalar=64,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2, **same))
else:
    model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=5, num_key_value_heads=4, tie_word_embeddings=True, **same))
model.model.embed_tokens.weight.data *= 0.05  # or each token would be followed by itself, whatever was before
model.float().save_pretrained(folder)
"""


def made(kind):
    """A folder with such a model."""
    folder = os.path.join(v.FOLDER, kind)
    if not os.path.exists(folder + "/model.safetensors"):
        subprocess.run([v.PYTHON, "-c", MAKE, kind, folder, str(WINDOW)], check=True, stdout=sys.stderr)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(os.path.join(v.MODEL, name), folder)
    return folder


def two_ports():
    while True:
        first = v.free_port()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as a, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as b:
            try:
                a.bind(("127.0.0.1", first))
                b.bind(("127.0.0.1", first + 1))
                return first
            except (OSError, OverflowError):
                pass


def texts_of(name):
    """Twelve; with prefix caching four times three that begin alike, and go on differently."""
    if name == "prefix":
        return [v.story(4000 + i // 3, 40) + " " + v.story(4100 + i, 5) for i in range(2 * len(LENGTHS))]
    return ["Hello" if n == 0 else v.story(3000 + i, n) for i, n in enumerate(2 * LENGTHS)]


def forget(server):
    """Its prefix cache, so that it computes each reference by itself (VLLM_SERVER_DEV_MODE)."""
    with urllib.request.urlopen(urllib.request.Request(v.at(server, "/reset_prefix_cache"), b""), timeout=20):
        pass


def spans(tap, what, again):
    """Two of three prompts were cached in part on both sides: decode asks for what it lacks and gets no byte more. again: prompts that
    prefill had a second time, for the control."""
    asked = {r["request"]: r for r in v.journal("decode") if r["what"] == "offer"}
    came = {r["request"]: r["raw"] for r in v.journal("decode") if r["what"] == "done" and not r["error"]}
    hits = sum(r["before"] > 0 for r in v.journal("prefill") if r["what"] == "scheduled")
    cached = [r["want"] for r in asked.values() if r["want"] > 0]
    whole = {name: -(-r["tokens"] // 16) * 16 for name, r in asked.items()}
    one = max((came[name] / whole[name] for name, r in asked.items() if r["want"] == 0 and name in came), default=0)
    exact = sum(came.get(name) == one * (whole[name] - r["want"]) for name, r in asked.items())
    tap.ok(len(cached) == hits - again == 8 and exact == len(asked) == 12, "%s: decode asks for what it hasn't cached alone" % what,
           "%d of %d asked for a part, from token %d on at most; %d cached on prefill, too; bytes as asked for in %d" % (
               len(cached), len(asked), max(cached, default=0), hits - again, exact))


def case(tap, servers, name):
    what, kind, prefill, decode = KNOWN[name]
    more = ["--model", made(kind)] if kind else []
    for key in v.PORTS:
        v.PORTS[key] = v.free_port()
    v.PORTS["node"] = two_ports()
    for server in ("prefill", "decode", "control"):
        if os.path.exists("%s/%s.jsonl" % (v.FOLDER, server)):
            os.remove("%s/%s.jsonl" % (v.FOLDER, server))
    servers.vllm("prefill", "kv_producer", {"kvwire_port": v.PORTS["node"], "kvwire_decode_tp": decode[1]}, more=more + prefill[0], ranks=prefill[1])
    servers.vllm("decode", "kv_consumer", {}, more=more + decode[0], ranks=decode[1])
    servers.vllm("control", "kv_consumer", {"kvwire_scratch": True}, policy="recompute", more=more + decode[0], ranks=decode[1])
    begun = time.monotonic()
    servers.healthy(["prefill", "decode", "control"])
    print("# %s: healthy after %.0f s" % (name, time.monotonic() - begun), flush=True)
    for proxy, mode, to in (("concurrent", "concurrent", "decode"), ("serial", "serial", "decode"), ("to_control", "serial", "control")):
        servers.start(proxy, [v.PYTHON, "-m", "kvwire.proxy", "--prefill", "http://127.0.0.1:%d" % v.PORTS["prefill"], "--decode",
                              "http://127.0.0.1:%d" % v.PORTS[to], "--mode", mode, "--port", str(v.PORTS[proxy])])
    time.sleep(2)
    for where in ("decode", "control"):  # other KV in the blocks that will be used
        for seed in (77, 78):
            v.ask(where, v.story(seed, 90), 1)
    texts = texts_of(name)
    half = len(LENGTHS)
    got = [v.ask("concurrent" if i < half else "serial", text) for i, text in enumerate(texts)]
    crossed = [i for i in range(len(texts)) if not (kind == "gemma" and i % half == 0)]  # beside a window decode computes the last token
    control = {i: v.ask("to_control", texts[i])[1] for i in range(half + 2, len(texts))}
    if name == "prefix":
        spans(tap, what, len(control))
        forget("decode")
    refs = [v.ask("decode", text)[1] for text in texts]
    right = sum(g[0] == 200 and g[1] == r for g, r in zip(got, refs))
    tap.ok(right >= (1 if v.DTYPE == "float32" else 0.8) * len(texts), "%s: tokens equal to one vLLM alone, concurrent and serial, %s" % (
        what, v.DTYPE), "%d of %d" % (right, len(texts)))
    same = sum(control[i] == refs[i] for i in control)
    tap.ok(same == 0 and len(v.digests("control", "decode")) == len(control), "%s: control: with the copy off, tokens that are equal all the same" % what,
           "%d of %d, %d transfers ended well" % (same, len(control), len(v.digests("control", "decode"))))
    p, d, c = v.digests("prefill", "prefill"), v.digests("decode", "decode"), v.digests("control", "decode")
    equal = sum(p.get(key) == d[key] for key in d)
    tap.ok(equal == len(d) == len(crossed), "%s: digests of every head's K and V, prefill and decode" % what, "%d of %d equal, %d heads" % (
        equal, len(d), max((len(x) for x in d.values()), default=0)))
    tap.ok(c and not any(c[key] == p.get(key) for key in c), "%s: control: digests that are equal all the same" % what,
           "%d of %d" % (sum(c[key] == p.get(key) for key in c), len(c)))
    names = {r["request"] for r in v.journal("decode") if r["what"] == "offer"}
    most = max((r["tokens"] for r in v.journal("decode") if r["what"] == "scheduled" and r["request"] in names), default=-1)
    tap.ok(most == 1, "%s: prompt tokens that decode computed of a request, at most" % what, most)
    unknown = v.ask("decode", texts[2], kv_transfer_params=dict(remote_host="127.0.0.1", remote_port=v.PORTS["node"], do_remote_prefill=True,
                                                                transfer_id="nobody", tp_size=prefill[1]))
    tap.ok(unknown[0] >= 400, "%s: an unknown transfer id" % what, "HTTP %d after %.0f s" % (unknown[0], unknown[2]))
    free = [v.emptied(server, v.WAIT + 10) for server in ("prefill", "decode")]
    tap.ok(None not in free, "%s: at the end every block is free" % what, "yes" if None not in free else "no")


CACHE, PROMPT = 49, 1100  # prefill's blocks of 32 tokens, one of which vLLM keeps for itself; a prompt that takes 35


def ids(seed, count):
    r = random.Random(seed)
    return [r.randint(100, 49000) for _ in range(count)]


def squeezed(prompt, seed, params):
    """Prefill's answer to a prompt that just fits beside three requests that grow; and how often it was begun."""
    before = {r["request"] for r in v.journal("prefill") if r["what"] == "stream"}
    growing = [threading.Thread(target=v.ask, args=("prefill", ids(seed + n, 60), 300)) for n in range(3)]
    for t in growing:
        t.start()
    until = time.monotonic() + 60
    while v.usage("prefill") < (CACHE - 1 - 35 - 2) / (CACHE - 1) and time.monotonic() < until:
        time.sleep(0.01)
    got = v.ask("prefill", prompt, 1, kv_transfer_params=params)
    for t in growing:
        t.join()
    begun = [r["request"] for r in v.journal("prefill") if r["what"] == "stream" and r["request"] not in before]
    return got, len(begun)


def preemption(tap, servers):
    """A prompt that prefill preempts in the middle, as others grow into its room."""
    more = ["--model", made("llama"), "--max-model-len", "1280"]
    v.PORTS["node"] = two_ports()
    servers.vllm("prefill", "kv_producer", {"kvwire_port": v.PORTS["node"]},
                 more=more + ["--block-size", "32", "--num-gpu-blocks-override", str(CACHE), "--max-num-batched-tokens", "32"])
    servers.vllm("decode", "kv_consumer", {}, more=more)
    servers.healthy(["prefill", "decode"])
    hello = v.ask("prefill", [100], 1, kv_transfer_params=dict(do_remote_decode=True, kvwire_hello=True))[3]["kv_transfer_params"]
    for how in ("serial", "concurrent"):
        seen = []  # (how often begun, what decode answered, prompt)
        for n in range(6):
            prompt, asked = ids(1000 * n + len(how), PROMPT), dict(do_remote_decode=True, do_remote_prefill=False)
            if how == "serial":
                got, begun = squeezed(prompt, 50 * n, asked)
                answer = v.ask("decode", prompt, kv_transfer_params=got[3]["kv_transfer_params"])
            else:
                theirs, answers = dict(hello, do_remote_prefill=True, transfer_id="t %d" % n), []
                t = threading.Thread(target=lambda p=prompt, q=theirs, a=answers: a.append(v.ask("decode", p, kv_transfer_params=q)))
                t.start()
                got, begun = squeezed(prompt, 50 * n, dict(asked, transfer_id="t %d" % n))
                t.join()
                answer = answers[0]
            seen.append((begun, answer, prompt))
            if begun > 1:
                break
        right = [answer[0] == 200 and answer[1] == v.ask("decode", prompt)[1] for _, answer, prompt in seen]
        wrong = sum(answer[0] == 200 and not good for (_, answer, _), good in zip(seen, right))
        tap.ok(seen[-1][0] > 1 and wrong == 0 and (how == "concurrent" or all(right)),
               "a prompt that prefill preempts in the middle, %s" % how, "begun %d times, HTTP %d%s; %d of %d others right, %d wrong" % (
                   seen[-1][0], seen[-1][1][0], ", tokens right" if right[-1] else "", sum(right[:-1]), len(right) - 1, wrong))


def main():
    os.makedirs(v.FOLDER, exist_ok=True)
    os.environ["VLLM_SERVER_DEV_MODE"] = "1"  # forget()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.path.join(v.ROOT, "kvwire", "python"), os.environ.get("PYTHONPATH")]))
    tap, begun = v.Tap(), time.monotonic()
    for name in CASES or [*KNOWN, "preemption"]:
        servers = v.Servers()
        try:
            if name == "preemption":
                preemption(tap, servers)
            else:
                case(tap, servers, name)
        except (RuntimeError, OSError, KeyError, http.client.HTTPException, subprocess.CalledProcessError) as e:
            tap.ok(False, name, "%s: %s" % (type(e).__name__, e))
        finally:
            servers.close()
    print("# %.0f s" % (time.monotonic() - begun))
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
