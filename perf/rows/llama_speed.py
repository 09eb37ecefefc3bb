#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prefill and decode tokens per second of our engine and of llama.cpp, in turns.

  llama_speed.py ENGINE_BENCH MODEL.gguf [PAIRS [THREADS [PROMPT_TOKENS]]] [--json] [--prefill | --decode]

For each number of threads (1,2) and prompt length (512,2000) runs PAIRS (3) pairs, ours and theirs
one after the other on the same file, and prints the medians, their spread and the ratios of the
pairs. llama.cpp runs through its C API, a fresh process a run, defaults but for the threads: prefill
in one llama_decode of the prompt (ubatch 512), decode token by token. Both touch the weights before
the clock starts. Needs llama-cpp-python and numpy (only where llama.cpp runs).
"""
import json
import os
import statistics
import subprocess
import sys
import time

DECODE = 64


def llama_once(path, threads, prompt):
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../tests/oracle"))
    from llama import Context, Model  # noqa: E402, needs llama-cpp-python
    model = Model(path)
    context = Context(model, threads, prompt + DECODE)
    tokens = [(i * 2654435761 >> 8) % model.vocab for i in range(prompt)]
    context.run(tokens[:1])
    context.logits()
    context.clear()
    start = time.perf_counter()
    context.run(tokens)
    context.logits()
    middle = time.perf_counter()
    for i in range(DECODE):
        context.run([(1000 + i) % model.vocab])
        context.logits()
    end = time.perf_counter()
    context.close()
    print(json.dumps({"prefill_tok_s": prompt / (middle - start),
                      "decode_tok_s": DECODE / (end - middle)}))


def run(command):
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def pair(bench, path, threads, prompt):
    ours = run([bench, path, str(threads), str(prompt), str(DECODE)])
    theirs = run([sys.executable, __file__, "--llama", path, str(threads), str(prompt)])
    return ours, theirs


def row(pairs, key):
    ours = [o[key] for o, _ in pairs]
    theirs = [t[key] for _, t in pairs]
    ratios = [o[key] / t[key] for o, t in pairs]
    return {"ours": statistics.median(ours), "llama.cpp": statistics.median(theirs),
            "ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}


def main():
    if sys.argv[1:2] == ["--llama"]:
        return llama_once(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    args = [a for a in sys.argv[1:] if not a.startswith("--")]
    wanted = [k for k in ("prefill", "decode") if "--" + k in sys.argv] or ["prefill", "decode"]
    if len(args) < 2:
        raise SystemExit(__doc__)
    count = int(args[2]) if len(args) > 2 else 3
    threads = [int(x) for x in args[3].split(",")] if len(args) > 3 else [1, 2]
    prompts = [int(x) for x in args[4].split(",")] if len(args) > 4 else [512, 2000]
    rows = []
    for t in threads:
        for p in prompts:
            pairs = [pair(args[0], args[1], t, p) for _ in range(count)]
            for what in wanted:
                rows.append({"threads": t, "prompt": p, "what": what, **row(pairs, what + "_tok_s")})
    if "--json" in sys.argv:
        print(json.dumps(rows))
        return None
    print("| threads | prompt | tokens/s of | ours | llama.cpp | ratio (lowest..highest of "
          f"{count} pairs) |\n|---|---|---|---|---|---|")
    for r in rows:
        print(f"| {r['threads']} | {r['prompt']} | {r['what']} | {r['ours']:.1f} |"
              f" {r['llama.cpp']:.1f} | {r['ratio']:.2f} ({r['lowest']:.2f}..{r['highest']:.2f}) |")
    print(f"RESULT {min(r['ratio'] for r in rows):.3f} 1.0")
    return None


if __name__ == "__main__":
    main()
