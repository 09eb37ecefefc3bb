#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""equal.py [--all]: greedy tokens of two processes equal those of one, for prompts of 1 to 511 tokens, over every
transport, also with 5 % of the packets lost and 5 % out of order, and with every codec that loses nothing. With
one that does, the answers may differ, the budget must be asked for, and the exact tokens are named. One run goes up to
2,000 tokens; with --all, which tests/nightly.sh says, every one does."""
import json
import sys
import tempfile

import kvs

ALL = [1, 2, 3, 5, 8, 15, 16, 17, 31, 32, 33, 64, 100, 127, 128, 256, 511, 777, 1024, 2000]
LENGTHS = ALL if "--all" in sys.argv else [1, 2, 15, 16, 17, 33, 64, 128, 511]
LONG = [1024, 2000]
ANSWER = 12


def prompts(path, ids, lengths):
    """A line a prompt, each from another place of the text."""
    at = 0
    with open(path, "w", encoding="utf-8") as f:
        for n in lengths:
            f.write(json.dumps({"tokens": ids[at:at + n]}) + "\n")
            at += n


def batch(path, net, fault=None, extra=()):
    args = ["run", "--model", kvs.MODEL, "--batch", path, "--net", net, "--json", "--max-tokens", str(ANSWER), "--ignore-end", "--no-compare"]
    out = kvs.run(args + (["--fault", fault] if fault else []) + list(extra))
    if out.returncode != 0:
        return None, out.stderr.strip()
    return [json.loads(line) for line in out.stdout.splitlines()], ""


def main():
    ids = kvs.text_tokens(sum(ALL))
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as f:
        if "--all" not in sys.argv:
            prompts(f.name, ids, LONG)
            want, why = batch(f.name, "none")
            got, said = batch(f.name, "dpdk" if "dpdk" in kvs.nets() else "udp", "loss=0.05,reorder=0.05,seed=9")
            kvs.check(want and got and [r["output_tokens"] for r in want] == [r["output_tokens"] for r in got],
                      "prompts of %s tokens, with loss" % LONG, why or said)
        prompts(f.name, ids, LENGTHS)
        want, why = batch(f.name, "none")
        if not kvs.check(want is not None and len(want) == len(LENGTHS), "one process answers %d prompts" % len(LENGTHS), why):
            kvs.finish()
        kvs.check(len({tuple(r["output_tokens"]) for r in want}) > len(LENGTHS) // 2, "the answers differ among prompts")
        cases = [(net, None) for net in kvs.nets()]
        cases += [(net, "loss=0.05,reorder=0.05,seed=%d" % (i + 1)) for i, net in enumerate(kvs.nets()) if net != "loop"]
        cases += [("loop", "reorder=0.2,seed=5")]  # loop has no packets to lose; its puts may overtake
        for net, fault in cases:
            got, why = batch(f.name, net, fault)
            name = "two workers over %s%s" % (net, " with " + fault if fault else "")
            if got is None or len(got) != len(want):
                kvs.check(False, name, why or "answers missing")
                continue
            bad = [i for i in range(len(want)) if got[i]["output_tokens"] != want[i]["output_tokens"]]
            size = [i for i in range(len(want)) if got[i]["kv_bytes"] != 23040 * LENGTHS[i]]
            kvs.check(not bad and not size, name, "%d of %d equal, %.1f MB of KV" % (len(want) - len(bad), len(want), sum(r["kv_bytes"] for r in got) / 1e6))
        for codec in kvs.codecs():
            lossy = {"e8": "e8", "e4": "e4"}.get(codec)
            got, why = batch(f.name, "udp", extra=["--codec", codec])
            if lossy:
                kvs.check(got is None and "--budget " + lossy in why, "codec %s without its budget is refused" % codec, why)
                got, why = batch(f.name, "udp", extra=["--codec", codec, "--budget", lossy])
            if got is None or len(got) != len(want):
                kvs.check(False, "codec " + codec, why or "answers missing")
                continue
            same = sum(g["output_tokens"] == w["output_tokens"] for g, w in zip(got, want))
            raw, wire = sum(r["kv_bytes"] for r in got), sum(r["wire_bytes"] for r in got)
            used = sum(codec + " " in r["codecs"] for r in got)
            kvs.check((lossy or same == len(want)) and (used > 0) == fits(codec), "codec " + codec, "%d of %d equal, %.3f x smaller, %s" % (
                same, len(want), raw / wire, got[-1]["codecs"]))
    kvs.finish()


def fits(codec):
    """The engine's cache is bf16: a codec for 8-bit floats stands aside for raw."""
    return codec != "l8"


main()
