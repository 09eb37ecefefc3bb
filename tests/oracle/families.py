#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Small models of every family beside llama.cpp: greedy tokens, logits, and what keys do.

    oracle/bin/python tests/oracle/families.py [--programs build/tests/oracle] [--model MODEL.gguf]

tests/engine/model/families.py writes a small file of each family. llama.cpp continues a prompt that is longer than the
windows by 32 tokens, our engine gets the same tokens and its logits are compared step by step, on floats for K and V (held
to) and on bf16 (shown). Our token must be llama.cpp's at each step whose gap between the best two is at least NEAR.

llama.cpp looks GELU up in a table of 16-bit floats, so gemma3's logits differ by more than sums would.

READ are keys of a family at values that matter: our logits follow llama.cpp's there, too, and differ from those without
the key where the row says so.

--model: a real model instead, the plain prompts of prompts.json and a text of more tokens than a window has, on the file as
it is (near-tie: 0.5, as llama.cpp quantises activations and we don't).

--golden writes tests/golden/families.txt: name, step, limit of a logit, llama.cpp's token, and eight of its logits, until
the first near-tie; --golden-texts writes tests/golden/tokenizer_spm.txt. Exits 1 if anything differs. Needs llama-cpp-python and numpy.
"""
import argparse
import json
import os
import sys
import tempfile

import llama_cpp as L
import numpy as np

from llama import Context, Model
from logits import Ours

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(here, "../engine/model"))
import families  # noqa: E402  pylint: disable=wrong-import-position
from families import F32, STRING, U32  # noqa: E402  pylint: disable=wrong-import-position

PROMPT, STEPS, CONTEXT = 90, 32, 512
NEAR = {"f32": 0.02, "bf16": 0.3}
WITHIN = {"gemma3": 0.03}  # of a logit on floats; others:
SUMS = 0.001


def within(name):
    return WITHIN.get(name.split("-", maxsplit=1)[0], SUMS)


def prompt(vocab):
    return [(i * 37 + i * i) % (vocab - 8) + 4 for i in range(PROMPT)]


def theirs(path, kv, steps=STEPS):
    model = Model(path)
    context = Context(model, 1, CONTEXT, kv)
    context.run(prompt(model.vocab))
    rows = [context.logits()]
    for _ in range(steps - 1):
        context.run([int(rows[-1].argmax())])
        rows.append(context.logits())
    context.close()
    return np.array(rows)


def ours(program, path, kv, tokens):
    vocab = Model(path).vocab
    run = Ours(program, path, vocab, kv)
    rows = run.run(prompt(vocab), tokens)
    if run.close() != 0:
        raise SystemExit("logits: the program failed")
    return rows


def gaps(rows):
    best = np.sort(rows, axis=1)[:, -2:]
    return best[:, 1] - best[:, 0]


class Check:
    def __init__(self):
        self.bad = 0

    def __call__(self, ok, name, more=""):
        self.bad += not ok
        print(f"{'ok' if ok else 'not ok'} - {name}{': ' + more if more else ''}", flush=True)


def compare(check, program, folder):
    for name in families.FILES:
        path = os.path.join(folder, name + ".gguf")
        for kv in ("f32", "bf16"):
            a = theirs(path, kv)
            b = ours(program, path, kv, [int(t) for t in a.argmax(axis=1)])
            clear = gaps(a) >= NEAR[kv]
            same = a.argmax(axis=1) == b.argmax(axis=1)
            diff = np.abs(a - b)
            ok = not (clear & ~same).any() and (kv != "f32" or diff.max() <= within(name))
            check(ok, f"{name}, K and V {kv}", f"{int((clear & same).sum())} of {int(clear.sum())} clear steps equal; "
                  f"largest logit {np.abs(a).max():.1f}, differences {diff.mean():.6f}, at most {diff.max():.5f}")


# family, key, its type and value, whether llama.cpp's answer differs from the one without it
READ = [
    ("qwen2", "rope.freq_base", F32, 100.0, True),
    ("qwen2", "rope.scaling.factor", F32, 4.0, True),
    ("qwen2", "rope.scale_linear", F32, 4.0, True),
    ("qwen2", "attention.layer_norm_rms_epsilon", F32, 0.5, True),
    ("qwen3", "rope.freq_base", F32, 100.0, True),
    ("qwen3", "rope.scaling.factor", F32, 4.0, True),
    ("qwen3", "attention.layer_norm_rms_epsilon", F32, 0.5, True),
    ("gemma3", "attention.sliding_window", U32, 1, True),
    ("gemma3", "attention.sliding_window", U32, 512, True),
    ("gemma3", "attention.sliding_window", U32, 0, True),
    ("gemma3", "attention.sliding_window_pattern", U32, 2, True),
    ("gemma3", "attention.sliding_window_pattern", U32, 3, True),
    ("gemma3", "attention.sliding_window_pattern", U32, 6, False),
    ("gemma3", "rope.freq_base_swa", F32, 50.0, True),
    ("gemma3", "rope.freq_base_swa", F32, 10000.0, False),
    ("gemma3-long", "rope.freq_base", F32, 100.0, True),
    ("gemma3-long", "rope.scaling.factor", F32, 1.0, True),
    ("gemma3-long", "rope.scaling.type", STRING, "none", True),
    ("gemma3", "final_logit_softcapping", F32, 3.0, True),
    ("gemma3", "final_logit_softcapping", F32, 0.0, False),
    ("gemma3", "attention.layer_norm_rms_epsilon", F32, 0.5, True),
]


def check_keys(check, program, folder):
    plain = {name: theirs(os.path.join(folder, name + ".gguf"), "f32", 1) for name in families.FILES}
    path = os.path.join(folder, "changed.gguf")
    for name, key, kind, v, differs in READ:
        keys, tensors = families.FILES[name]()
        arch = keys["general.architecture"][1]
        families.write(path, {**keys, f"{arch}.{key}": (kind, v)}, tensors)
        a = theirs(path, "f32", 1)
        b = ours(program, path, "f32", [0])
        diff, moved = np.abs(a - b).max(), np.abs(a - plain[name]).max()
        check(diff <= within(name) and (moved > 3 * within(name)) == differs, f"{name}, {key} = {v}",
              f"ours {diff:.5f}, from the plain model {moved:.5f}")


def real_prompts(model):
    with open(os.path.join(here, "prompts.json"), encoding="utf-8") as f:
        texts = [p["text"] for p in json.load(f) if p["kind"] == "plain"]
    folder = os.path.join(here, "texts")
    name = sorted(os.listdir(folder))[0]
    with open(os.path.join(folder, name), encoding="utf-8") as f:
        texts.append(f.read(6000))
    bos = [L.llama_vocab_bos(model.vocab_at)] if L.llama_vocab_get_add_bos(model.vocab_at) else []
    return [bos + model.tokenize(t, False) for t in texts]


def check_real(check, program, path, near=0.5):
    model = Model(path)
    prompts = real_prompts(model)
    context = Context(model, 1, 4096, "f16")
    run = Ours(program, path, model.vocab, "bf16")
    for i, tokens in enumerate(prompts):
        context.clear()
        context.run(tokens)
        rows = [context.logits()]
        for _ in range(STEPS - 1):
            context.run([int(rows[-1].argmax())])
            rows.append(context.logits())
        a = np.array(rows)
        b = run.run(tokens, [int(t) for t in a.argmax(axis=1)])
        clear, same = gaps(a) >= near, a.argmax(axis=1) == b.argmax(axis=1)
        check(not (clear & ~same).any(), f"prompt {i} of {len(tokens)} tokens",
              f"{int((clear & same).sum())} of {int(clear.sum())} clear steps equal, {int(same.sum())} of {STEPS} in all; "
              f"mean difference {np.abs(a - b).mean():.4f}, largest gap that differs {gaps(a)[~same].max(initial=0):.3f}")
    run.close()


def write_golden(path, folder):
    with open(path, "w", encoding="ascii") as f:
        f.write("# name step limit token id:logit...; written by tests/oracle/families.py --golden\n")
        for name in families.FILES:
            rows = theirs(os.path.join(folder, name + ".gguf"), "f32")
            for step, row in enumerate(rows):
                if gaps(rows)[step] < 2 * within(name):
                    break
                shown = [int(i) for i in np.argsort(-row)[:4]] + [(step * 97 + i * 131) % len(row) for i in range(4)]
                f.write(f"{name} {step} {within(name)} {int(row.argmax())} "
                        + " ".join(f"{i}:{row[i]:.5f}" for i in shown) + "\n")


def write_texts(path, folder):
    """The ids of short strings of every kind, in the small vocabularies of tokenizer model "llama"."""
    import tokenizer
    with open(path, "w", encoding="ascii") as f:
        f.write("# name special text-in-hex ids; written by tests/oracle/families.py --golden-texts\n")
        for name in ("gemma3", "gemma3-long"):
            model = L.Llama(os.path.join(folder, name + ".gguf"), vocab_only=True, verbose=False)
            per_kind = {}
            for kind, text in tokenizer.Strings(7, tokenizer.specials(model)[-8:]).all():
                if len(text) > 90 or per_kind.get(kind, 0) >= 5:
                    continue
                per_kind[kind] = per_kind.get(kind, 0) + 1
                for special in (0, 1):
                    ids = ",".join(str(i) for i in tokenizer.theirs(model, text, bool(special)))
                    f.write(f"{name} {special} {text.hex()} {ids}\n")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--programs", default=os.path.join(here, "../../build/tests/oracle"))
    p.add_argument("--model")
    p.add_argument("--golden")
    p.add_argument("--golden-texts")
    args = p.parse_args()
    check = Check()
    with tempfile.TemporaryDirectory() as folder:
        for name, make in families.FILES.items():
            families.write(os.path.join(folder, name + ".gguf"), *make())
        if args.golden:
            write_golden(args.golden, folder)
        if args.golden_texts:
            write_texts(args.golden_texts, folder)
        if args.golden or args.golden_texts:
            return 0
        program = os.path.join(args.programs, "logits")
        if args.model:
            check_real(check, program, args.model)
            return 1 if check.bad else 0
        compare(check, program, folder)
        check_keys(check, program, folder)
    print(f"{check.bad} wrong")
    return 1 if check.bad else 0


if __name__ == "__main__":
    sys.exit(main())
