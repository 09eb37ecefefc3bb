#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compare our logits with llama.cpp's, greedy token by greedy token.

  logits.py PROGRAM MODEL.gguf NEAR_TIE [KV_TYPE] [--markdown]

KV_TYPE is that of llama.cpp's cache: bf16 as ours, f16 (its default), or f32: then ours holds floats
too, and what is left to differ is the order of additions.

llama.cpp continues each prompt of prompts.json greedily; our engine (PROGRAM, build/tests/oracle/
logits) gets the same tokens, forced, and its logits are compared step by step. Our best token must
be llama.cpp's at every step that isn't a near-tie, one where llama.cpp's best two logits are closer
than NEAR_TIE. (Free greedy runs of both are then equal until the first near-tie; as the tokens are
forced, the steps after it count too.) Exits 1 where that doesn't hold. Needs llama-cpp-python and numpy.
"""
import json
import os
import struct
import subprocess
import sys

import numpy as np

from llama import Context, Model

TOKENS = 32
THREADS = 2
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
    def __init__(self, program, model, vocab):
        self.vocab = vocab
        self.process = subprocess.Popen([program, model, str(THREADS)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)

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


def main():
    markdown = "--markdown" in sys.argv
    args = [a for a in sys.argv[1:] if not a.startswith("--")]
    if len(args) not in (3, 4):
        raise SystemExit(__doc__)
    program, path, near_tie = args[0], args[1], float(args[2])
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "prompts.json"), encoding="utf-8") as f:
        prompts = json.load(f)
    model = Model(path)
    context = Context(model, THREADS, 1024, args[3] if len(args) == 4 else "f16")
    os.environ["LOGITS_KV"] = args[3] if len(args) == 4 else "bf16"
    ours = Ours(program, path, model.vocab)
    bad = 0
    worst = 0.0
    diffs = []
    if markdown:
        print("| prompt | tokens | until near-tie | first gap | clear steps | of them equal |"
              " equal of all 32 | mean abs diff | max abs diff |\n|" + "---|" * 9)
    for i, prompt in enumerate(prompts):
        tokens = prompt_tokens(model, prompt)
        theirs = reference(context, tokens)
        mine = ours.run(tokens, [int(t) for t in theirs.argmax(axis=1)])
        until, gaps, equal = compare(theirs, mine, near_tie)
        clear = gaps >= near_tie
        diff = np.abs(theirs - mine)
        diffs.append(float(diff.mean()))
        wrong = int((clear & ~equal).sum())
        bad += wrong > 0
        worst = max(worst, float(gaps[~equal].max(initial=0)))
        first = gaps[until] if until < len(gaps) else float("nan")
        row = (f"{i} {prompt['kind']}", len(tokens), until, f"{first:.4f}", int(clear.sum()),
               int((clear & equal).sum()), int(equal.sum()), f"{diff.mean():.6f}",
               f"{diff.max():.5f}")
        if markdown:
            print("| " + " | ".join(map(str, row)) + " |")
        else:
            print("{:8} {:4} tokens: near-tie at {:2} (gap {}), clear steps {} of them equal {}, of"
                  " all {}; |d| mean {} max {}".format(*row) + ("  WRONG" if wrong else ""))
    context.close()
    if ours.close() != 0:
        raise SystemExit("logits: the program failed")
    print(f"\n{len(prompts) - bad} of {len(prompts)} prompts agree at every step whose gap is >="
          f" {near_tie}; largest gap at a step that differs {worst:.4f}; mean abs logit difference"
          f" {np.mean(diffs):.6f}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
