#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A second request that shares 1,500 tokens with the first: its first token comes in a fifth of the time, a seventh of the bytes
move, and both answers are those of one process. Several rounds, each with another beginning; the medians count.

    python3 tests/e2e/prefix.py [ROUNDS [SHARED]]"""
import random
import statistics
import sys
import time

from kvs import check, finish
from served import Server, TEXT, alone, completion, events


def first_token(s, ids):
    """(seconds to the first piece, text) of a streamed answer."""
    begun = time.monotonic()
    sock, data, first = s.stream("/v1/completions", completion(ids)), b"", None
    while True:
        more = sock.recv(65536)
        if not more:
            break
        data += more
        if first is None and b"data: {" in data:
            first = time.monotonic() - begun
    sock.close()
    return first, "".join(p["choices"][0]["text"] for p in events(data)[0])


def main():
    rounds, shared = (int(v) for v in (sys.argv[1:] + ["5", "1500"][len(sys.argv) - 1:]))
    rng, words = random.Random(3), TEXT.split()
    s = Server("--kv-tokens", "8192")
    moved = lambda: s.metrics()['kvserve_kv_bytes_total{form="raw"}']
    tails = [s.post("/tokenize", {"prompt": t})[1]["tokens"] for t in (" In short: it is", " To sum up, they are")]
    times, parts, said, asked = [], [], [], []
    for _ in range(rounds):
        beginning = s.post("/tokenize", {"prompt": " ".join(rng.choices(words, k=2 * shared))})[1]["tokens"][:shared]
        before, took = [moved()], []
        for tail in tails:
            asked.append(beginning + tail)
            first, text = first_token(s, asked[-1])
            took.append(first)
            said.append(text)
            before.append(moved())
        times.append(took[1] / took[0])
        parts.append((before[2] - before[1]) / (before[1] - before[0]))
        print("# first token after %.3f s, then %.3f s; %.3f of the bytes" % (took[0], took[1], parts[-1]), flush=True)
    want = alone([{"tokens": ids, "max_tokens": 12} for ids in asked])
    check(said == want, "%d answers equal those of one process" % len(want))
    check(len(set(want)) > len(want) / 2, "control: other prompts have other answers")
    row = "prefix: %d tokens shared, %d rounds: TTFT x %.3f (%.3f to %.3f), bytes x %.3f" % (
        shared, rounds, statistics.median(times), min(times), max(times), statistics.median(parts))
    check(statistics.median(times) <= 0.2, "the first token comes in a fifth of the time", row)
    check(max(parts) <= 0.15, "few bytes move", row)
    try:
        finish()
    finally:
        print(row, flush=True)


main()
