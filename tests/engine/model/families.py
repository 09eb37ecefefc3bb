#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Small GGUF files of every family that is run, with random weights and small vocabularies.

    python3 tests/engine/model/families.py FOLDER [NAME...]

Writes FOLDER/NAME.gguf for each name of FILES (or of those given), and qwen3 in three parts, too. The same bytes everywhere: weights come from Python's
own generator with a seed for each tensor. Nothing beyond Python's library is needed. What the numbers are for: head_dim
isn't hidden / heads (but for qwen2, where llama.cpp insists), windows are shorter than the tests' prompts, and no width
is a multiple of another.
"""
import array
import os
import random
import struct
import sys

U16, U32, I32, F32, BOOL, STRING, ARRAY = 2, 4, 5, 6, 7, 8, 9
CODES = {U16: "<H", U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}
WORDS = ("the of and to in is that for it was on are with his they at be this from have or by one had not but what all "
         "were when we there can an your which their said if do will each about how up out them then she many some so "
         "these would other into has more two like him see time could no make than first been its who now people my "
         "made over did down only way find use may water long little very after words called just where most know "
         "wire cache layer token prefill decode").split()
CHATML = ("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
          "{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + "
          "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


def value(kind, v):
    if kind == STRING:
        raw = v.encode()
        return struct.pack("<Q", len(raw)) + raw
    if kind == ARRAY:
        of, items = v
        return struct.pack("<IQ", of, len(items)) + b"".join(value(of, i) for i in items)
    return struct.pack(CODES[kind], v)


def string(s):
    return value(STRING, s)


def write(path, keys, tensors):
    """keys: name to (type, value); tensors: name to (dims with the row's length first, array of floats)."""
    out = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(keys))]
    out += [string(k) + struct.pack("<I", kind) + value(kind, v) for k, (kind, v) in keys.items()]
    offset = 0
    for name, (dims, data) in tensors.items():
        out.append(string(name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims) + struct.pack("<IQ", 0, offset))
        offset += (4 * len(data) + 31) // 32 * 32
    head = b"".join(out)
    with open(path, "wb") as f:
        f.write(head + b"\0" * (-len(head) % 32))
        for _, data in tensors.values():
            f.write(data.tobytes() + b"\0" * (-4 * len(data) % 32))


# ---- vocabularies ----

def byte_char(b):
    """How byte-level BPE spells a byte."""
    plain = [*range(0x21, 0x7f), *range(0xa1, 0xad), *range(0xae, 0x100)]
    return chr(b) if b in plain else chr(0x100 + [c for c in range(256) if c not in plain].index(b))


def bpe(size, pre, template, specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>")):
    tokens, merges = [byte_char(b) for b in range(256)], []

    def merge(left, right):
        if left + right not in tokens:
            tokens.append(left + right)
            merges.append(left + " " + right)

    for word in WORDS:
        if len(tokens) + 10 > size - len(specials):
            break
        for spelled in (word, "\u0120" + word):
            have = spelled[0]
            for c in spelled[1:]:
                merge(have, c)
                have += c
    tokens += [f"<unused{i}>" for i in range(size - len(specials) - len(tokens))]
    types = [1] * 256 + [1] * len(merges) + [5] * (size - 256 - len(merges) - len(specials)) + [3] * len(specials)
    tokens += specials
    return {"tokenizer.ggml.model": (STRING, "gpt2"), "tokenizer.ggml.pre": (STRING, pre),
            "tokenizer.ggml.tokens": (ARRAY, (STRING, tokens)), "tokenizer.ggml.token_type": (ARRAY, (I32, types)),
            "tokenizer.ggml.merges": (ARRAY, (STRING, merges)),
            "tokenizer.ggml.bos_token_id": (U32, size - 3), "tokenizer.ggml.eos_token_id": (U32, size - 1),
            "tokenizer.ggml.add_bos_token": (BOOL, False), "tokenizer.chat_template": (STRING, template)}


def spm(size, template, space_prefix):
    """Bytes, characters and words' beginnings; the longer, the better their scores."""
    tokens = [("<pad>", -1000, 3), ("<eos>", -1000, 3), ("<bos>", -1000, 3), ("<unk>", -1000, 2)]
    tokens += [(f"<0x{b:02X}>", -1000, 6) for b in range(256)]
    have = {t for t, _, _ in tokens}

    def add(text, score, kind=1):
        if text not in have and len(tokens) < size - 4:
            have.add(text)
            tokens.append((text, score, kind))

    for c in "\u2581\n.,!?'-0123456789" + "".join(sorted(set("".join(WORDS)))) + "\u00e9\u00fc\u4f60\u597d":
        add(c, -900)
    add("\u2581\u2581", -5)
    for i, word in enumerate(WORDS):
        for spelled in (word, "\u2581" + word):
            for n in range(2, len(spelled) + 1):
                add(spelled[:n], -float(i * 7 % 50) - 40.0 / n)
    while len(tokens) < size - 4:
        add(f"<unused{len(tokens)}>", -1000, 5)
    tokens += [("<start_of_turn>", -1000, 3), ("<end_of_turn>", -1000, 3), ("\n\n", -3, 4), ("<tool>", -3, 4)]
    return {"tokenizer.ggml.model": (STRING, "llama"), "tokenizer.ggml.pre": (STRING, "default"),
            "tokenizer.ggml.tokens": (ARRAY, (STRING, [t for t, _, _ in tokens])),
            "tokenizer.ggml.scores": (ARRAY, (F32, [s for _, s, _ in tokens])),
            "tokenizer.ggml.token_type": (ARRAY, (I32, [k for _, _, k in tokens])),
            "tokenizer.ggml.bos_token_id": (U32, 2), "tokenizer.ggml.eos_token_id": (U32, 1),
            "tokenizer.ggml.unknown_token_id": (U32, 3), "tokenizer.ggml.add_bos_token": (BOOL, True),
            "tokenizer.ggml.add_space_prefix": (BOOL, space_prefix), "tokenizer.chat_template": (STRING, template)}


# ---- models ----

class Weights:
    def __init__(self, seed):
        self.seed, self.tensors = seed, {}

    def uniform(self, name, dims, middle, spread):
        """Reached by random() alone, whose sequence Python promises to keep."""
        r = random.Random(f"{self.seed}/{name}").random
        n = dims[0] * (dims[1] if len(dims) > 1 else 1)
        self.tensors[name] = dims, array.array("f", [middle + spread * (2 * r() - 1) for _ in range(n)])

    def matrix(self, name, rows, cols, gain=1.0):
        self.uniform(name, (cols, rows), 0, 2.6 * gain / cols ** 0.5)

    def vector(self, name, n, middle=1.0, spread=0.3):
        self.uniform(name, (n,), middle, spread)


def model(arch, shape, vocabulary, more, parts, seed):
    """shape: layers, hidden, heads, kv_heads, head_dim, ffn; parts: of 'bias', 'qk_norm', 'post_norm'."""
    layers, hidden, heads, kv_heads, dim, ffn = shape
    vocab = len(vocabulary["tokenizer.ggml.tokens"][1][1])
    w = Weights(seed)
    w.matrix("token_embd.weight", vocab, hidden, 0.5 if arch == "gemma3" else 4.0)
    for layer in range(layers):
        b = f"blk.{layer}."
        w.vector(b + "attn_norm.weight", hidden)
        w.matrix(b + "attn_q.weight", heads * dim, hidden)
        w.matrix(b + "attn_k.weight", kv_heads * dim, hidden)
        w.matrix(b + "attn_v.weight", kv_heads * dim, hidden)
        w.matrix(b + "attn_output.weight", hidden, heads * dim)
        w.vector(b + "ffn_norm.weight", hidden)
        for name, rows, cols in (("gate", ffn, hidden), ("up", ffn, hidden), ("down", hidden, ffn)):
            w.matrix(f"{b}ffn_{name}.weight", rows, cols)
        if "bias" in parts:
            for name, n in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
                w.vector(f"{b}attn_{name}.bias", n * dim, 0, 1.5)
        if "qk_norm" in parts:
            w.vector(b + "attn_q_norm.weight", dim, 1.2, 0.6)
            w.vector(b + "attn_k_norm.weight", dim, 1.2, 0.6)
        if "post_norm" in parts:
            w.vector(b + "post_attention_norm.weight", hidden)
            w.vector(b + "post_ffw_norm.weight", hidden)
    w.vector("output_norm.weight", hidden)
    if "untied" in parts:
        w.matrix("output.weight", vocab, hidden, 4.0)
    keys = {"general.architecture": (STRING, arch), "general.name": (STRING, f"tiny {arch}")}
    for key, kind, v in (("block_count", U32, layers), ("context_length", U32, 512), ("embedding_length", U32, hidden),
                         ("feed_forward_length", U32, ffn), ("attention.head_count", U32, heads),
                         ("attention.head_count_kv", U32, kv_heads), ("attention.key_length", U32, dim),
                         ("attention.value_length", U32, dim),
                         ("attention.layer_norm_rms_epsilon", F32, 1e-6), ("rope.freq_base", F32, 3000.0)):
        keys[f"{arch}.{key}"] = kind, v
    keys.update({f"{arch}.{key}": pair for key, pair in more.items()})
    return {**keys, **vocabulary}, w.tensors


GEMMA = (5, 60, 4, 1, 24, 100)
FILES = {
    "llama": lambda: model("llama", (3, 72, 6, 2, 16, 100), bpe(512, "llama-bpe", CHATML), {}, ("untied",), 11),
    "qwen2": lambda: model("qwen2", (3, 96, 6, 2, 16, 100), bpe(512, "qwen2", CHATML), {}, ("bias", "untied"), 12),
    "qwen3": lambda: model("qwen3", (3, 72, 4, 2, 28, 100), bpe(512, "qwen2", CHATML), {}, ("qk_norm",), 13),
    "gemma3": lambda: model("gemma3", GEMMA, spm(512, CHATML, False),
                            {"attention.sliding_window": (U32, 20)}, ("qk_norm", "post_norm"), 14),
    # As the larger ones: rotations of the layers that see all are slowed down; another pattern, speed and end.
    "gemma3-long": lambda: model("gemma3", GEMMA, spm(512, CHATML, True),
                                 {"attention.sliding_window": (U32, 33), "attention.sliding_window_pattern": (U32, 2),
                                  "rope.freq_base_swa": (F32, 700.0), "rope.scaling.type": (STRING, "linear"),
                                  "rope.scaling.factor": (F32, 8.0)}, ("qk_norm", "post_norm", "untied"), 15),
}


def split(folder, name, keys, tensors, parts=3):
    """NAME-00001-of-00003.gguf and so on: all keys in the first, the tensors dealt out in order."""
    names = list(tensors)
    for i in range(parts):
        mine = names[len(names) * i // parts:len(names) * (i + 1) // parts]
        marks = {"split.no": (U16, i), "split.count": (U16, parts), "split.tensors.count": (I32, len(names))}
        write(os.path.join(folder, f"{name}-{i + 1:05}-of-{parts:05}.gguf"), {**(keys if i == 0 else {}), **marks},
              {n: tensors[n] for n in mine})


def main():
    folder, names = sys.argv[1], sys.argv[2:] or list(FILES)
    os.makedirs(folder, exist_ok=True)
    for name in names:
        write(os.path.join(folder, name + ".gguf"), *FILES[name]())
    if "qwen3" in names:
        split(folder, "qwen3", *FILES["qwen3"]())


if __name__ == "__main__":
    main()
