#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Peak resident memory of the prefill and of the decode process after a 2,000-token request, as a share of
weights + that request's KV + 200 MiB. Prints the larger of the two."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "tests", "e2e"))
import kvs  # noqa: E402

TOKENS, KV_BYTES_PER_TOKEN = 2000, 23040


def peak(pid):
    for line in open("/proc/%d/status" % pid):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def main():
    net = sys.argv[1] if len(sys.argv) > 1 else "dpdk"
    base = os.path.getsize(kvs.MODEL) + TOKENS * KV_BYTES_PER_TOKEN + 200 * 2**20
    with kvs.Folder() as folder:
        d, p, peer = kvs.link_addresses(net, folder)
        decode = kvs.Worker("decode", net, d, folder).connect()
        prefill = kvs.Worker("prefill", net, p, folder, peer=peer).connect()
        decode.wait_up(), prefill.wait_up()
        q = kvs.request(kvs.text_tokens(TOKENS), max_tokens=16)
        decode.send(q), prefill.send(q)
        done, _ = decode.wait_ev(lambda e: e["ev"] == "finished", 120)
        prefill.wait_ev(lambda e: e["ev"] == "prefilled", 10)
        assert done["err"] == 0, done
        shares = {}
        for w in (prefill, decode):
            shares[w.role] = peak(w.proc.pid) / base
            print("%s over %s: %.0f MB resident at most, %.2f x (weights + KV + 200 MiB = %.0f MB)" % (w.role, net, peak(w.proc.pid) / 1e6, shares[w.role], base / 1e6))
            w.kill()
    print("RESULT %.3f" % max(shares.values()))


main()
