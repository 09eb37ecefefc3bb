#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Exposed hand-over of a 2,000-token prompt: layers streamed during prefill against all sent after it, both
in one run, five pairs; prints the median ratio."""
import json
import os
import statistics
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "tests", "e2e"))
import kvs  # noqa: E402

PAIRS = 5


def main():
    net = sys.argv[1] if len(sys.argv) > 1 else "dpdk"
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as f:
        for _ in range(PAIRS):
            f.write(json.dumps({"tokens": kvs.text_tokens(2000)}) + "\n")
        f.flush()
        out = kvs.run(["run", "--model", kvs.MODEL, "--batch", f.name, "--net", net, "--json", "--compare", "--max-tokens", "2"])
    if out.returncode != 0:
        sys.exit(out.stderr)
    rows = [json.loads(line) for line in out.stdout.splitlines()]
    ratios = [r["exposed_ms"] / r["exposed_after_prefill_ms"] for r in rows]
    for r, ratio in zip(rows, ratios):
        print("streamed %.2f ms, after prefill %.2f ms (%.1f MB: %.2f GB/s), ratio %.4f" % (
            r["exposed_ms"], r["exposed_after_prefill_ms"], r["kv_bytes"] / 1e6, r["kv_bytes"] / r["exposed_after_prefill_ms"] / 1e6, ratio))
    print("RESULT %.4f" % statistics.median(ratios))


main()
