#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Ask llama.cpp whether engine/gguf/keys.c is right about the keys of a GGUF file.

    oracle/bin/python tests/oracle/keys.py [--programs build/tests/oracle] [--model MODEL.gguf]

A small llama with random F32 weights, and the model's vocabulary without weights, are written again and again with one
thing different:

    read       the values in READ: our logits (or ids) are llama.cpp's, and they differ from those without the key
               where the row says so
    only       the value that changes nothing: llama.cpp's logits and ids are the same bits as without the key
    no_effect  an odd value: the same bits from llama.cpp

Each rule of the table is met, or the script says which isn't. Exits 1 if anything differs. Needs llama-cpp-python and
numpy.
"""
import argparse
import ctypes
import os
import struct
import subprocess
import sys
import tempfile

import llama_cpp as L
import numpy as np

from llama import Context, Model
from widen import Reader

U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
CODES = {U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}
VOCAB, HIDDEN, HEADS, DIM, FFN, LAYERS, CONTEXT = 300, 96, 4, 24, 160, 3, 256
TOKENS = [(i * 37 + i * i) % VOCAB for i in range(120)]
CLOSE = 1e-3  # of the largest logit: only the order of additions differs

# An odd value, of the type that llama.cpp insists on, for each key without effect or with one value.
ODD = {
    "general.type": (STRING, "model"), "general.quantization_version": (U32, 77), "general.file_type": (U32, 1),
    "general.alignment": (U32, 32), "llama.rope.scaling.finetuned": (BOOL, True),
    "llama.tensor_data_layout": (STRING, "odd"), "llama.use_parallel_residual": (BOOL, False),
    "llama.attention.causal": (BOOL, True), "llama.classifier.output_labels": (ARRAY, (STRING, ["a", "b"])),
    "llama.attention.sliding_window_pattern": (U32, 2), "llama.pooling_type": (U32, 1),
    "llama.classifier.pooling_type": (U32, 1), "general.tensor_extra.name": (ARRAY, (STRING, [])),
    "general.tensor_extra.prec_a4": (ARRAY, (BOOL, [])),
    "tokenizer.ggml.add_sep_token": (BOOL, True), "tokenizer.ggml.add_space_prefix": (BOOL, True),
    "tokenizer.ggml.remove_extra_whitespaces": (BOOL, True),
    "tokenizer.ggml.normalizer.lowercase": (BOOL, True), "tokenizer.ggml.normalizer.strip_accents": (BOOL, True),
    "tokenizer.ggml.precompiled_charsmap": (ARRAY, (0, [1, 2, 3, 4])), "tokenizer.huggingface.json": (STRING, "{}"),
    "tokenizer.rwkv.world": (STRING, "x"), "tokenizer.ggml.scores": (ARRAY, (F32, [-float(i % 97) for i in range(49152)])),
    "tokenizer.ggml.suppress_tokens": (ARRAY, (I32, [])),
}
PAIR = ("general.tensor_extra.name", "general.tensor_extra.prec_a4")  # one isn't read without the other
WHOLE = ("_count", "_length", "_swa", "_id", "top_k", "last_n", "mirostat", "layers", "split.no", "_out")
TEXTS = ["Hello  world, it's 2026.\n", " leading", "<|im_start|>user\nÄ é<|im_end|>  \n", "", "a  b\t\tc", "NAÏVE Café"]


def value(kind, v):
    if kind == STRING:
        raw = v.encode()
        return struct.pack("<Q", len(raw)) + raw
    if kind == ARRAY:
        of, items = v
        if of == 0:
            return struct.pack("<IQ", of, len(items)) + bytes(items)
        return struct.pack("<IQ", of, len(items)) + b"".join(value(of, i) for i in items)
    return struct.pack(CODES[kind], v)


def write(path, keys, tensors):
    """keys: name to (type, raw value); tensors: name to array, rows first."""
    def string(s):
        return struct.pack("<Q", len(s)) + s.encode()

    tensors = {name: t.astype("<f4") for name, t in tensors.items()}
    out = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(keys))]
    out += [string(k) + struct.pack("<I", kind) + raw for k, (kind, raw) in keys.items()]
    offset = 0
    for name, t in tensors.items():
        out.append(string(name) + struct.pack(f"<I{t.ndim}Q", t.ndim, *reversed(t.shape)) + struct.pack("<IQ", 0, offset))
        offset += (t.nbytes + 31) // 32 * 32
    head = b"".join(out)
    with open(path, "wb") as f:
        f.write(head + b"\0" * (-len(head) % 32))
        for t in tensors.values():
            f.write(t.tobytes() + b"\0" * (-t.nbytes % 32))


def small_model():
    rng = np.random.default_rng(7)

    def matrix(rows, cols):
        return rng.normal(0, 1.5 / np.sqrt(cols), (rows, cols)).astype(np.float32)

    t = {"token_embd.weight": matrix(VOCAB, HIDDEN) * 5}
    for layer in range(LAYERS):
        b = f"blk.{layer}."
        t[b + "attn_norm.weight"] = 1 + rng.normal(0, 0.1, HIDDEN)
        for n in "qkv":
            t[b + f"attn_{n}.weight"] = matrix(HEADS * DIM, HIDDEN)
        t[b + "attn_output.weight"] = matrix(HIDDEN, HEADS * DIM)
        t[b + "ffn_norm.weight"] = 1 + rng.normal(0, 0.1, HIDDEN)
        t[b + "ffn_gate.weight"], t[b + "ffn_up.weight"] = matrix(FFN, HIDDEN), matrix(FFN, HIDDEN)
        t[b + "ffn_down.weight"] = matrix(HIDDEN, FFN)
    t["output_norm.weight"] = 1 + rng.normal(0, 0.1, HIDDEN)
    t["output.weight"] = matrix(VOCAB, HIDDEN)
    keys = {"general.architecture": (STRING, "llama"), "llama.block_count": (U32, LAYERS),
            "llama.context_length": (U32, CONTEXT), "llama.embedding_length": (U32, HIDDEN),
            "llama.feed_forward_length": (U32, FFN), "llama.attention.head_count": (U32, HEADS),
            "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5), "llama.vocab_size": (U32, VOCAB),
            "tokenizer.ggml.model": (STRING, "none")}
    return keys, t


def narrowed(tensors):
    """Two K/V heads for four of Q."""
    return {k: v[:2 * DIM] if k.endswith(("attn_k.weight", "attn_v.weight")) else v for k, v in tensors.items()}


FACTORS = np.linspace(1, 9, DIM // 2)
# name, keys, tensors (None: as they are), whether it differs from the plain model
READ = [
    ("rope.scale_linear = 4", {"llama.rope.scale_linear": (F32, 4)}, None, True),
    ("rope.scaling.factor = 4", {"llama.rope.scaling.factor": (F32, 4)}, None, True),
    ("both, 2 and 8", {"llama.rope.scaling.factor": (F32, 2), "llama.rope.scale_linear": (F32, 8)}, None, True),
    ("scale_linear, type linear", {"llama.rope.scale_linear": (F32, 3), "llama.rope.scaling.type": (STRING, "linear")},
     None, True),
    ("factor, type none", {"llama.rope.scaling.factor": (F32, 4), "llama.rope.scaling.type": (STRING, "none")}, None, False),
    ("scale_linear, type none", {"llama.rope.scale_linear": (F32, 4), "llama.rope.scaling.type": (STRING, "none")},
     None, False),
    ("rope.freq_base = 500", {"llama.rope.freq_base": (F32, 500)}, None, True),
    ("rope.dimension_count = head_dim", {"llama.rope.dimension_count": (U32, DIM)}, None, False),
    ("rope_freqs", {}, lambda t: {**t, "rope_freqs.weight": FACTORS}, True),
    ("rope_freqs and factor", {"llama.rope.scaling.factor": (F32, 2)},
     lambda t: {**t, "rope_freqs.weight": FACTORS}, True),
    ("head_count_kv = 2", {"llama.attention.head_count_kv": (U32, 2)}, narrowed, True),
    ("2 heads, key_length and value_length = 48", {"llama.attention.head_count": (U32, 2),
     "llama.attention.key_length": (U32, 48), "llama.attention.value_length": (U32, 48)}, None, True),
    ("layer_norm_rms_epsilon = 0.5", {"llama.attention.layer_norm_rms_epsilon": (F32, 0.5)}, None, True),
    ("sliding_window = context_length", {"llama.attention.sliding_window": (U32, CONTEXT)}, None, False),
]


class Check:
    def __init__(self):
        self.bad = 0

    def __call__(self, ok, name, more=""):
        self.bad += not ok
        print(f"{'ok' if ok else 'not ok'} - {name}{': ' + more if more else ''}", flush=True)


def theirs(path):
    model = Model(path)
    context = Context(model, 1, CONTEXT, "f32")
    context.run(TOKENS)
    logits = context.logits()
    context.close()
    L.llama_model_free(model.at)
    return logits


def ours(program, path):
    words = struct.pack(f"<{len(TOKENS) + 3}I", len(TOKENS), 1, *TOKENS, 0)
    out = subprocess.run([program, path, "1"], input=words, stdout=subprocess.PIPE, check=True,
                         env={**os.environ, "LOGITS_KV": "f32"}).stdout
    return np.frombuffer(out, "<f4")


def odd(key, use, only):
    if key in ODD:
        return ODD[key]
    if use == "only":
        whole = "expert" in key or "nextn" in key
        return (U32, int(only)) if whole else (F32, only)
    if key.startswith(("general.", "llama.")) and not any(w in key for w in WHOLE):
        return (F32, 3.5) if "yarn" in key or "sampling" in key or "base" in key or "epsilon" in key else (STRING, "odd")
    return (U32, 3)


def check_model(check, programs, rules, folder):
    keys, tensors = small_model()
    path = os.path.join(folder, "small.gguf")

    def save(more, change=None):
        all_keys = {**keys, **more}
        write(path, {k: (kind, value(kind, v)) for k, (kind, v) in all_keys.items()}, change(tensors) if change else tensors)

    save({})
    plain, mine = theirs(path), ours(os.path.join(programs, "logits"), path)
    size = np.abs(plain).max()
    check(np.abs(plain - mine).max() < CLOSE * size, "the plain model",
          f"largest difference {np.abs(plain - mine).max() / size:.1e} of the largest logit")
    for name, more, change, differs in READ:
        save(more, change)
        a, b = theirs(path), ours(os.path.join(programs, "logits"), path)
        diff, moved = np.abs(a - b).max() / size, np.abs(a - plain).max() / size
        check(diff < CLOSE and (moved > 30 * CLOSE) == differs, name, f"ours {diff:.1e}, from the plain model {moved:.1e}")
    for key, use, only in rules:
        if use not in ("only", "no_effect") or key.startswith("tokenizer."):
            continue
        both = {k: odd(k, use, only) for k in PAIR} if key in PAIR else {key: odd(key, use, only)}
        save(both)
        check((theirs(path) == plain).all(), f"{key} = {odd(key, use, only)[1]}: the same bits")


class Vocabulary:
    """The model's keys, one by one, and what both make of them."""

    def __init__(self, path, programs, folder):
        r = Reader(path)
        r.pos = 16
        count, self.keys = r.number("Q"), {}
        for _ in range(count):
            name, kind = r.string().decode(), r.number("I")
            start = r.pos
            r.value(kind)
            self.keys[name] = (kind, r.at[start:r.pos])
        self.program = os.path.join(programs, "tokenize_lines")
        self.path = os.path.join(folder, "vocabulary.gguf")

    def save(self, more):
        write(self.path, {**self.keys, **{k: (kind, value(kind, v)) for k, (kind, v) in more.items()}}, {})

    def theirs(self):
        """None: refused."""
        params = L.llama_model_default_params()
        params.vocab_only = True
        model = L.llama_model_load_from_file(self.path.encode(), params)
        if not model:
            return None
        vocab, out = L.llama_model_get_vocab(model), []
        for text in TEXTS:
            raw = text.encode()
            room = (ctypes.c_int32 * (len(raw) + 8))()
            out.append(list(room[:L.llama_tokenize(vocab, raw, len(raw), room, len(room), True, True)]))
        L.llama_model_free(model)
        return out

    def ours(self):
        """None: refused."""
        asked = b"".join(b"a" + struct.pack("<I", len(t.encode())) + t.encode() for t in TEXTS)
        done = subprocess.run([self.program, self.path], input=asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              check=False)
        if done.returncode != 0:
            print("#  " + done.stderr.decode().strip())
            return None
        out, raw = [], done.stdout
        while raw:
            n = struct.unpack_from("<I", raw)[0]
            out.append(list(struct.unpack_from(f"<{n // 4}I", raw, 4)))
            raw = raw[4 + n:]
        return out


def check_vocabulary(check, programs, rules, model, folder):
    v = Vocabulary(model, programs, folder)
    v.save({})
    plain = v.theirs()
    check(plain == v.ours(), "the vocabulary as it is")
    for bos in (False, True):
        for eos in (False, True):
            v.save({"tokenizer.ggml.add_bos_token": (BOOL, bos), "tokenizer.ggml.add_eos_token": (BOOL, eos)})
            a = v.theirs()
            check(a == v.ours() and (a == plain) == (not bos and not eos), f"add_bos_token {bos}, add_eos_token {eos}")
    v.save({"general.name": (STRING, "My Phi-3")})
    check(v.theirs() != plain and v.ours() is None, "general.name My Phi-3 is refused: llama.cpp strips blanks, or fails")
    for key, use, only in rules:
        if use not in ("only", "empty", "no_effect") or not key.startswith("tokenizer."):
            continue
        v.save({key: odd(key, use, only)})
        shown = str(odd(key, use, only)[1])[:20]
        a = v.theirs()
        check(a == plain and a == v.ours(), f"{key} = {shown}: the same ids")


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    cache = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--programs", default=os.path.join(here, "../../build/tests/oracle"))
    p.add_argument("--model", default=os.path.join(cache, "kvwire/SmolLM2-135M-Instruct.Q4_1.gguf"))
    args = p.parse_args()
    listed = subprocess.run([os.path.join(args.programs, "key_rules")], stdout=subprocess.PIPE, check=True, text=True)
    rules = [(k, use, float(only)) for k, use, only in (line.split() for line in listed.stdout.splitlines())]
    check = Check()
    with tempfile.TemporaryDirectory() as folder:
        check_model(check, args.programs, rules, folder)
        check_vocabulary(check, args.programs, rules, args.model, folder)
    print(f"{check.bad} wrong")
    return 1 if check.bad else 0


if __name__ == "__main__":
    sys.exit(main())
