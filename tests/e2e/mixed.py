#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""1,000 requests of every kind at concurrency 32, one in ten of whose clients leaves somewhere in between: every answer that came
to its end equals that of one process, and when all is over every block is free.

    python3 tests/e2e/mixed.py [REQUESTS [CONCURRENCY [SEED]]]

The last line has the figures: time to the first byte of an answer and between two of its pieces, as a client sees them."""
import concurrent.futures
import json
import os
import random
import sys
import time

from kvs import check, finish
from served import TEXT, Server, alone, events

LEAVES = 0.1


def cases(rng):
    """(path, body, kind) of what is asked, and the text that one process answers."""
    words = TEXT.split()
    raw, talk = [], []
    for i in range(40):
        n, at = rng.choice([3, 8, 20, 60, 150, 300]), rng.randrange(0, 200)
        beginning = words[:200] if i % 4 == 0 else []  # a system prompt that many have in common
        line = {"prompt": " ".join(beginning + words[at:at + n]), "max_tokens": rng.randrange(1, 33)}
        (talk if i % 3 == 0 else raw).append(line)
    out = [("/v1/completions", {"prompt": r["prompt"], "max_tokens": r["max_tokens"]}, t) for r, t in zip(raw, alone(raw))]
    out += [("/v1/chat/completions", {"messages": [{"role": "user", "content": r["prompt"]}], "max_tokens": r["max_tokens"]}, t)
            for r, t in zip(talk, alone(talk, raw=False))]
    return out


class Seen:
    """What clients saw."""

    def __init__(self):
        self.first, self.between, self.wrong, self.left, self.ended, self.tokens = [], [], [], 0, 0, 0


def text_of(choice):
    return choice.get("text") or (choice.get("delta") or choice.get("message") or {}).get("content") or ""


def read_stream(sock, begun, leave_after, seen):
    """The body of a stream, or None: the client left."""
    data, last = b"", None
    while True:
        if leave_after is not None and len(data) >= leave_after:
            return None
        more = sock.recv(65536)
        if not more:
            return data
        now = time.monotonic()
        for _ in range(more.count(b"data: {")):
            if last is None:
                seen.first.append(now - begun)
            else:
                seen.between.append(now - last)
            last = now
        data += more


def one(s, case, seed, seen):
    rng = random.Random(seed)
    path, body, want = case
    body = dict(body, temperature=0, n=rng.choice([1, 1, 1, 2]))
    leaves = rng.random() < LEAVES
    begun = time.monotonic()
    if leaves or rng.random() < 0.6:
        sock = s.stream(path, dict(body, stream_options={"include_usage": True}))
        data = read_stream(sock, begun, rng.choice([0, 1, 600, 2000]) if leaves else None, seen)
        sock.close()
        if data is None:
            seen.left += 1
            return
        pieces, done = events(data)
        got = ["".join(text_of(c) for p in pieces for c in p.get("choices", []) if c["index"] == i) for i in range(body["n"])]
        usage = pieces[-1].get("usage") if pieces else None
        if not done:
            got.append(data[-300:].decode(errors="replace"))
    else:
        status, answer = s.post(path, body)
        got = [text_of(c) for c in answer.get("choices", [])] if status == 200 else [str((status, answer))]
        usage = answer.get("usage")
    seen.ended += 1
    seen.tokens += usage["completion_tokens"] if usage else 0
    if got != [want] * body["n"]:
        seen.wrong.append((body, want, got))


def quantile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, int(q * len(values)))] if values else float("nan")


def main():
    count, at_once, seed = (int(v) for v in (sys.argv[1:] + ["1000", "32", "7"][len(sys.argv) - 1:]))
    rng = random.Random(seed)
    asked = cases(rng)
    check(len({want for _, _, want in asked}) > len(asked) / 2, "control: other prompts have other answers")
    s, seen = Server("--kv-tokens", "16384", "--sequences", "32", "--queue", "256"), Seen()
    begun = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        todo = [pool.submit(one, s, rng.choice(asked), rng.randrange(1 << 30), seen) for _ in range(count)]
        failed = [repr(t.exception()) for t in todo if t.exception()]
    took = time.monotonic() - begun
    check(not failed, "no request failed", str(failed[:1]))
    check(not seen.wrong, "%d answers equal those of one process" % seen.ended, json.dumps(seen.wrong[:1])[:800])
    check(seen.left > count * LEAVES / 3 and seen.left + seen.ended == count, "%d clients left" % seen.left)
    check(s.idle() == {}, "every block is free, nothing runs or waits", str(s.idle()))
    m = s.metrics()
    hits, looked = (next(v for k, v in m.items() if k.startswith("vllm:prefix_cache_" + w)) for w in ("hits", "queries"))
    s.proc.terminate()
    check(s.proc.wait(60) == 0, "TERM: the exit status is 0", str(s.proc.returncode))
    row = ("mixed: %d requests, %d at once, seed %d: %d ended, %d left, %.1f s, %.1f tokens/s, TTFT p50 %.3f p99 %.3f s, "
           "ITL p50 %.1f p99 %.1f ms, %.2f of the prompts' tokens not computed again"
           % (count, at_once, seed, seen.ended, seen.left, took, seen.tokens / took, quantile(seen.first, 0.5), quantile(seen.first, 0.99),
              1e3 * quantile(seen.between, 0.5), 1e3 * quantile(seen.between, 0.99), hits / looked))
    try:
        finish()
    finally:
        print(row, flush=True)


main()
