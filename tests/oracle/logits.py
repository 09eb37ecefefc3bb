#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compare our logits with llama.cpp's, greedy token by greedy token.

    python tests/oracle/logits.py [--program build/tests/oracle/logits] [--model MODEL.gguf] [--markdown]
    python tests/oracle/logits.py --record tests/oracle/expected.json

llama.cpp continues each prompt of prompts.json greedily by 32 tokens; our engine gets the same
tokens, forced, and its logits are compared step by step. Our best token must be llama.cpp's at every
step that isn't a near-tie, one where llama.cpp's best two logits are closer than a limit. (Free
greedy runs of both are then equal until the first near-tie; as the tokens are forced, the steps
after it count too.) Compared are, with the limit:

    floats   weights widened to F32, K and V kept as floats by both   0.02  only sums may differ
    bf16     weights widened to F32, K and V in bf16 by both          0.02  llama.cpp also rounds
                                                                            queries and weights of V
    f16      weights widened to F32, llama.cpp's K and V in f16       0.02  shown, not held to: two
                                                                            roundings of K and V
    file     the file as it is, llama.cpp's defaults                  0.3   it quantises activations,
                                                                            we don't

Exits 1 where a row that is held to it has a clear step that differs. --record writes llama.cpp's side
of the row "floats" for expected.py, which needs no llama.cpp, and stops. Needs llama-cpp-python, numpy
and 0.6 GB for the widened file.
"""
import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile

import numpy as np

from llama import Context, Model

TOKENS = 32
THREADS = 1  # llama.cpp spins: with more than are free it takes tens of times longer
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def prompt_tokens(model, prompt):
    if prompt["kind"] == "plain":
        return model.tokenize(prompt["text"], False)
    chat = (f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{prompt['text']}<|im_end|>\n"
            "<|im_start|>assistant\n")
    return model.tokenize(chat, True)


def reference(context, prompt):
    """llama.cpp's logits at each of TOKENS greedy steps."""
    context.clear()
    context.run(prompt)
    rows = [context.logits()]
    for _ in range(TOKENS - 1):
        context.run([int(rows[-1].argmax())])
        rows.append(context.logits())
    return np.array(rows)


class Ours:
    def __init__(self, program, model, vocab, kv):
        self.vocab = vocab
        self.process = subprocess.Popen([program, model, str(THREADS)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE,
                                        env={**os.environ, "LOGITS_KV": kv})

    def run(self, prompt, forced):
        words = [len(prompt), len(forced)] + prompt + forced
        self.process.stdin.write(struct.pack(f"<{len(words)}I", *words))
        self.process.stdin.flush()
        want = 4 * self.vocab * len(forced)
        raw = self.process.stdout.read(want)
        if len(raw) != want:
            raise SystemExit("logits: the program ended early")
        return np.frombuffer(raw, dtype="<f4").reshape(len(forced), self.vocab)

    def close(self):
        self.process.stdin.close()
        return self.process.wait()


def compare(theirs, ours, near_tie):
    """Steps to the first near-tie, llama.cpp's gap at each step, whether our token is its token."""
    best = np.sort(theirs, axis=1)[:, -2:]
    gaps = best[:, 1] - best[:, 0]
    near = np.nonzero(gaps < near_tie)[0]
    until = int(near[0]) if len(near) else len(gaps)
    return until, gaps, theirs.argmax(axis=1) == ours.argmax(axis=1)


COLUMNS = ("prompt", "tokens", "first near-tie", "its gap", "clear steps", "of them equal",
           "equal of all 32", "mean abs diff", "max abs diff")


def table(row, markdown):
    if markdown:
        print("| " + " | ".join(map(str, row)) + " |")
    else:
        print(" ".join(f"{str(cell):>15}" for cell in row))


def check(program, path, prompts, kv, near_tie, markdown):
    """One row of the docstring's table; returns how many prompts differ at a clear step."""
    model = Model(path)
    context = Context(model, THREADS, 1024, kv)
    ours = Ours(program, path, model.vocab, kv)
    bad, worst, diffs = 0, 0.0, []
    table(COLUMNS, markdown)
    if markdown:
        print("|" + "---|" * len(COLUMNS))
    for i, prompt in enumerate(prompts):
        tokens = prompt_tokens(model, prompt)
        theirs = reference(context, tokens)
        mine = ours.run(tokens, [int(t) for t in theirs.argmax(axis=1)])
        until, gaps, equal = compare(theirs, mine, near_tie)
        clear = gaps >= near_tie
        diff = np.abs(theirs - mine)
        diffs.append(float(diff.mean()))
        bad += bool((clear & ~equal).any())
        worst = max(worst, float(gaps[~equal].max(initial=0)))
        first = until < len(gaps)
        table((f"{i} {prompt['kind']}", len(tokens), until if first else "none",
               f"{gaps[until]:.4f}" if first else "", int(clear.sum()), int((clear & equal).sum()),
               int(equal.sum()), f"{diff.mean():.6f}", f"{diff.max():.5f}"), markdown)
    context.close()
    if ours.close() != 0:
        raise SystemExit("logits: the program failed")
    print(f"\n{len(prompts) - bad} of {len(prompts)} prompts agree at every step whose gap is >="
          f" {near_tie}; largest gap at a step that differs {worst:.4f}; mean abs logit difference"
          f" {np.mean(diffs):.6f}\n", flush=True)
    return bad


def record(path, prompts, out):
    """llama.cpp's greedy tokens with the logits of its best two, for expected.py."""
    model = Model(path)
    context = Context(model, THREADS, 1024, "f32")
    entries = []
    for prompt in prompts:
        tokens = prompt_tokens(model, prompt)
        steps = []
        for row in reference(context, tokens):
            second, best = (int(t) for t in np.argsort(row)[-2:])
            steps.append([best, second, round(float(row[best]), 4), round(float(row[second]), 4)])
        entries.append({"prompt": tokens, "steps": steps})
    context.close()
    with open(out, "w", encoding="utf-8") as f:
        f.write('{"vocab": %d, "prompts": [\n' % model.vocab + ",\n".join(json.dumps(e) for e in entries) + "\n]}\n")


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    cache = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program",
                        default=os.path.join(here, "../../build/tests/oracle/logits"))
    parser.add_argument("--model", default=os.path.join(
        cache, "kvwire/SmolLM2-135M-Instruct.Q4_1.gguf"))
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--record", metavar="FILE")
    args = parser.parse_args()
    with open(os.path.join(here, "prompts.json"), encoding="utf-8") as f:
        prompts = json.load(f)
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        wide = os.path.join(folder, "f32.gguf")
        subprocess.run([sys.executable, os.path.join(here, "widen.py"), args.model, wide],
                       check=True)
        if args.record:
            record(wide, prompts, args.record)
            return 0
        for name, path, kv, near_tie, held in (("floats", wide, "f32", 0.02, True),
                                               ("bf16", wide, "bf16", 0.02, True),
                                               ("f16", wide, "f16", 0.02, False),
                                               ("file", args.model, "f16", 0.3, True)):
            print(f"## {name}\n" if args.markdown else f"{name}:")
            differ = check(args.program, path, prompts, kv, near_tie, args.markdown)
            bad += differ if held else 0
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
