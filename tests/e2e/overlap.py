#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Overlap is real: on a 2,000-token prompt, layer k has landed before layer k+2 is computed for most k, and
the exposed hand-over is under a tenth of what sending after prefill exposes."""
import json
import sys
import tempfile

import kvs


def main():
    net = sys.argv[1] if len(sys.argv) > 1 else "dpdk"
    tries = 3  # the machine is shared: the median of three
    rows = []
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as f:
        for _ in range(tries):
            f.write(json.dumps({"tokens": kvs.text_tokens(2000)}) + "\n")
        f.flush()
        out = kvs.run(["run", "--model", kvs.MODEL, "--batch", f.name, "--net", net, "--json", "--compare", "--max-tokens", "2"])
    if not kvs.check(out.returncode == 0, "kvserve run over %s" % net, out.stderr.strip()):
        kvs.finish()
    for line in out.stdout.splitlines():
        r = json.loads(line)
        layers = r["layers"]
        early = sum(layers[k]["landed_ms"] < layers[k + 2]["computed_ms"] for k in range(len(layers) - 2))
        rows.append((early, len(layers) - 2, r["exposed_ms"], r["exposed_after_prefill_ms"], r["exposed_ms"] / r["exposed_after_prefill_ms"]))
        print("# landed before layer k+2: %d of %d; exposed %.2f ms, after prefill %.2f ms, ratio %.3f" % rows[-1])
    rows.sort(key=lambda r: r[4])
    early, of, exposed, after, ratio = rows[tries // 2]
    kvs.check(all(r[0] >= 0.8 * r[1] for r in rows), "layer k landed before layer k+2 was computed", "%s of %d" % ([r[0] for r in rows], of))
    kvs.check(ratio < 0.10, "exposed with streaming / after prefill, median", "%.2f ms / %.2f ms = %.3f < 0.10" % (exposed, after, ratio))
    kvs.finish()


main()
