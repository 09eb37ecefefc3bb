#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""test_gpu_serve.py BUILD FAKECUDA PLUGIN [FAMILY...]: kvserve --device cuda over the stand-ins for driver, cuBLASLt and plugin.

A small model of each family: prefill in one process and decode in another, both on a GPU, K and V from VRAM to VRAM, give the
tokens that one process on the CPU gives; decode's first step begins ahead of the transfer's end. The stand-in's work is late, and
the stream that must wait is always first (prefill: the one that encodes; decode: the model's), so a forgotten event shows. What is
absent is one sentence that names it, and the CPU computes. With K and V in fp8, which go by codec l8, two processes give the tokens of
one; where there can be no fp8, that is said. Prints TAP."""
import json
import os
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../e2e"))
BUILD, FAKECUDA, PLUGIN = sys.argv[1:4]
os.environ["KVW_BUILD"] = BUILD
import kvs  # noqa: E402

FAMILIES = sys.argv[4:] or ["llama", "qwen2", "qwen3", "gemma3", "gemma3-long"]
ANSWER = 5
LATE_MS = 60  # as long as decode's thread may take to see that all layers have come
MARGIN = 0.12  # of logprobs: twice what bf16 activations make of them here


def model(name):
    return os.path.join(BUILD, "tests/engine/families", name + ".gguf")


def prompt(at, count=45):
    """Ids that every vocabulary has; longer than each window."""
    return [4 + (i * 37 + i * i + at * 11) % 480 for i in range(count)]


def cpu(name, tokens):
    """The tokens of one process, and the least distance of the best to the second best logprob."""
    line = json.dumps({"tokens": tokens, "max_tokens": ANSWER, "ignore_end": True, "logprobs": 3})
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as f:
        f.write(line + "\n")
        f.flush()
        out = kvs.run(["run", "--model", model(name), "--batch", f.name, "--net", "none", "--json", "--threads", "1"])
    got = json.loads(out.stdout)
    return got["output_tokens"], min(best[1] - second[1] for _, best, second in got["logprobs"])


def telling(name):
    """A prompt whose answer the rounding of activations can't change, and which says something: (ids, tokens)."""
    for at in range(40):
        tokens, margin = cpu(name, prompt(at))
        if margin > MARGIN and len(set(tokens)) > 2:
            return prompt(at), tokens
    raise RuntimeError(name + ": each prompt's answer is a near tie")


def worker(role, order, folder, name, addresses, extra=()):
    link, peer = addresses
    via = ["env", "FAKECUDA_LATE=%d" % LATE_MS, "FAKECUDA_ORDER=" + order]
    return kvs.Worker(role, "udp", link, folder, peer, model(name), ("--device", "cuda", "--kv-tokens", "128") + extra, via)


def answer(prefill, decode, tokens):
    """(tokens, whether the first step was ahead of the transfer's end, what went wrong)"""
    req = kvs.request(tokens, ANSWER, ignore_end=True)
    decode.send(req)
    prefill.send(req)
    done, _ = prefill.wait_ev(lambda e: e["ev"] in ("prefilled", "fatal"), 60)
    end, events = decode.wait_ev(lambda e: e["ev"] in ("finished", "fatal"), 60)
    if not done or not end or done.get("err") or end.get("err"):
        return [], False, "%s %s %s %s" % (done, end, prefill.stderr(), decode.stderr())
    ahead = 0 < end.get("ahead_us", 0) < end["transfer_us"]
    return [e["token"] for e in events if e["ev"] == "token"], ahead, ""


def pair(name):
    """Tokens of two processes; whether both had a GPU; whether decode was ahead; what the control gave."""
    ids, want = telling(name)
    with kvs.Folder() as folder:
        listen, from_, to = kvs.link_addresses("udp", folder)
        decode = worker("decode", "oldest", folder, name, (listen, None))
        prefill = worker("prefill", "newest", folder, name, (from_, to))
        try:
            devices = [w.connect().wait_ev(lambda e: e["ev"] == "loaded", 60)[0]["device"] for w in (decode, prefill)]
            decode.wait_up()
            prefill.wait_up()
            got, ahead, why = answer(prefill, decode, ids)
            other, _, why_not = answer(prefill, decode, ids[:-1] + [ids[-1] ^ 1])
        finally:
            prefill.kill()
            decode.kill()
    kvs.check(got == want, name + ": the tokens of one process on the CPU", why or "%s, %s" % (got, want))
    kvs.check(all(d.startswith("GPU 0 (") for d in devices), name + ": both on a GPU", str(devices))
    kvs.check(other and other != want, name + ": control, another last token gives another answer", why_not or str(other))
    return ahead


def alone(name, tokens, *extra):
    """What one process on a GPU makes of it."""
    line = json.dumps({"tokens": tokens, "max_tokens": ANSWER, "ignore_end": True})
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as f:
        f.write(line + "\n")
        f.flush()
        out = kvs.run(["run", "--model", model(name), "--batch", f.name, "--net", "none", "--json", "--threads", "1", "--device", "cuda",
                       "--kv-tokens", "128"] + list(extra))
    return json.loads(out.stdout)["output_tokens"] if out.returncode == 0 else out.stderr


def fp8(name):
    """Two processes with K and V in fp8 give what one gives; all chunks go by l8; and bf16 is no peer of fp8."""
    with kvs.Folder() as folder:
        listen, from_, to = kvs.link_addresses("udp", folder)
        decode = worker("decode", "oldest", folder, name, (listen, None), ("--kv-dtype", "fp8"))
        prefill = worker("prefill", "newest", folder, name, (from_, to), ("--kv-dtype", "fp8", "--codec", "l8"))
        try:
            loaded = [w.connect().wait_ev(lambda e: e["ev"] == "loaded", 60)[0] for w in (decode, prefill)]
            decode.wait_up()
            prefill.wait_up()
            req = kvs.request(prompt(0, 24), ANSWER, ignore_end=True, timeout_ms=180000)
            decode.send(req)
            prefill.send(req)
            done, _ = prefill.wait_ev(lambda e: e["ev"] in ("prefilled", "fatal"), 180)
            end, events = decode.wait_ev(lambda e: e["ev"] in ("finished", "fatal"), 180)
            got = [e["token"] for e in events if e["ev"] == "token"]
        finally:
            prefill.kill()
            decode.kill()
    want = alone(name, prompt(0, 24), "--kv-dtype", "fp8")
    kvs.check(len(got) == ANSWER and got == want, name + ", fp8: the tokens of one process", "%s %s %s" % (got, want, end))
    kvs.check([e["kv_dtype"] for e in loaded] == ["fp8", "fp8"], name + ": both say fp8")
    kvs.check(done and done.get("codecs") == {"l8": done.get("chunks")}, name + ", fp8: by codec l8", str(done))
    other = any(alone(name, prompt(at, 24)) != alone(name, prompt(at, 24), "--kv-dtype", "fp8") for at in range(4))
    kvs.check(other, name + ": control, fp8 isn't bf16")


def no_fp8(name):
    """Where K and V can't be fp8, that is said; they aren't bf16 instead."""
    args = ["run", "--model", model(name), "--raw", "--prompt", "x", "--net", "none", "--kv-tokens", "128", "--kv-dtype"]
    for dtype, extra, env, code, says in (("fp8", [], {}, 2, "--kv-dtype fp8 needs --device cuda"),
                                          ("fp4", ["--device", "cuda"], {}, 2, "--kv-dtype fp4: it is bf16 or fp8"),
                                          ("fp8", ["--device", "cuda"], {"FAKECUDA_NONE": "1"}, 1, "needs the GPU: CUDA: the driver finds no GPU")):
        out = kvs.run(args + [dtype] + extra, env=dict(os.environ, **env))
        kvs.check(out.returncode == code and says in out.stderr and len(out.stderr.splitlines()) == 1, "refused: " + says, out.stderr.strip())
    with kvs.Folder() as folder:
        listen, from_, to = kvs.link_addresses("udp", folder)
        decode = worker("decode", "oldest", folder, name, (listen, None))
        prefill = worker("prefill", "newest", folder, name, (from_, to), ("--kv-dtype", "fp8"))
        try:
            decode.connect()
            prefill.proc.wait(20)  # there is no other peer to wait for
            said = prefill.stderr()
        finally:
            prefill.kill()
            decode.kill()
    kvs.check('dtype of part "k" of layer 0 differs' in said, "a peer with bf16 is refused by the field's name", said)


def absent():
    """Each thing that can be missing: a sentence that names it, exit 0, and the CPU's tokens."""
    rows = (("plugin", {"KVWIRE_PLUGINS": "/nowhere"}, "no plugin for GPUs"),
            ("driver", {"KVW_LIBCUDA": "/nowhere/libcuda.so.1"}, "CUDA: no driver here"),
            ("GPU", {"FAKECUDA_NONE": "1"}, "CUDA: the driver finds no GPU"),
            ("GPU of that number", {}, "CUDA: "),
            ("newer GPU", {"FAKECUDA_ARCH": "75"}, "is sm_75"),
            ("cuBLAS", {"KVW_LIBCUBLASLT": "/nowhere/libcublasLt.so"}, "cuBLAS: no cuBLASLt here"),
            ("cuBLAS that starts", {"FAKECUBLAS_STATUS": "1"}, "cuBLAS: cuBLASLt doesn't start"),
            ("room", {"FAKECUDA_BYTES": str(16 << 20)}, "CUDA_ERROR_OUT_OF_MEMORY"))
    args = ["run", "--model", model("llama"), "--raw", "--prompt", "the wire", "--net", "none", "--json", "--max-tokens", "3",
            "--ignore-end", "--threads", "1", "--kv-tokens", "128"]
    want = json.loads(kvs.run(args).stdout)["output_tokens"]
    for what, env, says in rows:
        device = "cuda:3" if what == "GPU of that number" else "cuda"
        out = kvs.run(args + ["--device", device], env=dict(os.environ, **env))
        lines = [line for line in out.stderr.splitlines() if line]
        ok = (out.returncode == 0 and len(lines) == 1 and says in lines[0] and lines[0].endswith("; the CPU computes") and
              json.loads(out.stdout)["output_tokens"] == want)
        kvs.check(ok, "no " + what + ": a sentence, and the CPU computes", out.stderr.strip())
    out = kvs.run(args + ["--device", "cuda"])
    kvs.check(out.returncode == 0 and out.stderr == "", "with all of them there is none", out.stderr.strip())
    out = kvs.run(args + ["--device", "tpu"])
    kvs.check(out.returncode == 2 and "--device tpu: it is cpu, cuda or cuda:N" in out.stderr, "another name is refused", out.stderr.strip())


def main():
    with tempfile.TemporaryDirectory() as plugins:
        os.symlink(PLUGIN, os.path.join(plugins, "libkvwire-cuda.so"))
        os.environ.update(KVWIRE_PLUGINS=plugins, KVW_LIBCUDA=FAKECUDA, KVW_LIBCUBLASLT=FAKECUDA)
        ahead = [pair(name) for name in FAMILIES]
        kvs.check(any(ahead), "decode's first step begins while the transfer goes on", str(ahead))
        fp8(FAMILIES[0])
        no_fp8(FAMILIES[0])
        absent()
    kvs.finish()


if __name__ == "__main__":
    main()
