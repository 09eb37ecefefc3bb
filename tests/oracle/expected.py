#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compare our logits with those that llama.cpp gave once, without llama.cpp.

    tests/oracle/expected.py [--program build/tests/oracle/logits] [--model MODEL.gguf]

expected.json holds, for each prompt of prompts.json: its tokens, the 32 tokens by which llama.cpp
continues it greedily, and llama.cpp's logits of the best two tokens at each step (weights widened to
F32, K and V kept as floats; `logits.py --record` writes it). Our engine gets the same tokens, forced.
At every step that isn't a near-tie our best token must be llama.cpp's, and the logits of the best
two must be near. Prints TAP. The last test swaps two tokens of a prompt and must see a difference.
"""
import argparse
import array
import json
import os
import struct
import subprocess
import sys

NEAR_TIE = 0.02  # of llama.cpp's best two logits; as in logits.py, only sums may differ
NEAR = 0.01      # between our logit and llama.cpp's; 0.0005 on a CPU with AVX-512
HERE = os.path.dirname(os.path.abspath(__file__))


class Ours:
    """The program of logits.c: a prompt and forced tokens in, logits out."""

    def __init__(self, program, model):
        self.process = subprocess.Popen([program, model, "2"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        env={**os.environ, "LOGITS_KV": "f32"})

    def run(self, prompt, forced, vocab):
        words = [len(prompt), len(forced)] + prompt + forced
        self.process.stdin.write(struct.pack("<%dI" % len(words), *words))
        self.process.stdin.flush()
        raw = self.process.stdout.read(4 * vocab * len(forced))
        if len(raw) != 4 * vocab * len(forced):
            raise SystemExit("logits: the program ended early")
        logits = array.array("f", raw)
        return [logits[i * vocab:(i + 1) * vocab] for i in range(len(forced))]

    def close(self):
        self.process.stdin.close()
        return self.process.wait()


def differences(rows, steps):
    """What differs at a step that isn't a near-tie; each step is llama.cpp's best, second and their logits."""
    bad, worst = [], 0.0
    for i, (row, (best, second, best_logit, second_logit)) in enumerate(zip(rows, steps)):
        off = max(abs(row[best] - best_logit), abs(row[second] - second_logit))
        worst = max(worst, off)
        if best_logit - second_logit >= NEAR_TIE and row[best] != max(row):
            bad.append("step %d: not token %d" % (i, best))
        if off > NEAR:
            bad.append("step %d: a logit is off by %.3f" % (i, off))
    return bad, worst


def tell(number, ok, name):
    print("%s %d - %s" % ("ok" if ok else "not ok", number, name), flush=True)
    return ok


def main():
    cache = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=os.path.join(HERE, "../../build/tests/oracle/logits"))
    parser.add_argument("--model", default=os.path.join(cache, "kvwire/SmolLM2-135M-Instruct.Q4_1.gguf"))
    args = parser.parse_args()
    with open(os.path.join(HERE, "expected.json"), encoding="utf-8") as f:
        expected = json.load(f)
    ours, good, number = Ours(args.program, args.model), True, 0
    for entry in expected["prompts"]:
        number += 1
        rows = ours.run(entry["prompt"], [step[0] for step in entry["steps"]], expected["vocab"])
        bad, worst = differences(rows, entry["steps"])
        good &= tell(number, not bad, "prompt %d of %d tokens: greedy tokens are llama.cpp's, logits within %.3f%s" % (
            number - 1, len(entry["prompt"]), worst, "".join("; " + b for b in bad[:3])))
    entry = max(expected["prompts"], key=lambda e: len(e["prompt"]) if len(e["prompt"]) < 50 else 0)
    wrong = entry["prompt"][:]
    wrong[-4], wrong[-9] = wrong[-9], wrong[-4]
    bad, _ = differences(ours.run(wrong, [step[0] for step in entry["steps"]], expected["vocab"]), entry["steps"])
    good &= tell(number + 1, bool(bad), "two tokens swapped are seen (control)")
    good &= tell(number + 2, ours.close() == 0, "the program ended well")
    print("1..%d" % (number + 2))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
