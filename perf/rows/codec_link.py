#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""First token and exposed hand-over of a 2,000-token prompt, codec by codec, over links of known rate.

    codec_link.py [--link 200mbit|1gbit|dpdk] [--rounds N] [--budget exact|e8] [--after]

Prefill and decode stand in two network namespaces joined by a veth pair that tbf shapes, and talk udp; with dpdk
they share a host. A pair of workers per codec is started once; rounds go through the codecs in turn, and the
first round, in which the choice meets a link that it knows nothing of, isn't counted. TTFT is from the request
to the first token at the decode side. RESULT: TTFT of the choice over that of the codec with the least median (with dpdk: over
raw's), median over rounds; with --after the exposed time, as the prefill's own time, which the codec doesn't change,
would only blur it."""
import argparse
import contextlib
import os
import statistics
import sys
import time

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path[:0] = [os.path.join(ROOT, "tests", "e2e"), os.path.join(ROOT, "tests", "lab")]
import kvs  # noqa: E402
import lab as lab_  # noqa: E402

BUDGETS = {"exact": 0, "e8": 1}


class Pair:
    """A prefill and a decode worker with one --codec."""

    def __init__(self, codec, folder, lab, at):
        os.mkdir(folder)
        extra = ["--codec", codec]
        if lab:
            decode, prefill = "%s:%d" % (lab_.IP["b"], 9100 + at), "%s:%d" % (lab_.IP["a"], 9100 + at)
            via = {end: ["ip", "netns", "exec", lab.ns[end]] for end in "ab"}
            self.decode = kvs.Worker("decode", "udp", decode, folder, via=via["b"])
            self.prefill = kvs.Worker("prefill", "udp", prefill, folder, peer=decode, via=via["a"], extra=extra)
        else:
            path = os.path.join(folder, "link.sock")
            self.decode = kvs.Worker("decode", "dpdk", path, folder)
            self.prefill = kvs.Worker("prefill", "dpdk", path, folder, extra=extra)
        self.codec = codec

    def up(self):
        self.decode.connect()
        self.prefill.connect().wait_up(60)
        return self

    def request(self, tokens, budget, after):
        """{"ttft": ms, "exposed": ms, "wire": bytes, "codecs": {...}}"""
        r = kvs.request(tokens, max_tokens=1, budget=BUDGETS[budget], exact_first=4, exact_last=128, after_prefill=after)
        begin = time.monotonic()
        self.decode.send(r)
        self.prefill.send(r)
        token, _ = self.decode.wait_ev(lambda e: e["ev"] in ("token", "finished"), 60)
        ttft = time.monotonic() - begin
        if token is None or token["ev"] != "token":
            raise RuntimeError("%s: no token: %s" % (self.codec, token))
        finished, _ = self.decode.wait_ev(lambda e: e["ev"] == "finished", 60)
        prefilled, _ = self.prefill.wait_ev(lambda e: e["ev"] == "prefilled", 60)
        exposed = (max(finished["landed_us"]) - max(prefilled["computed_us"])) / 1000
        return {"ttft": ttft * 1000, "exposed": max(exposed, 0), "wire": prefilled["wire_bytes"],
                "codecs": prefilled["codecs"], "kv": prefilled["kv_bytes"],
                "prefill": (prefilled["end_us"] - prefilled["start_us"]) / 1000}

    def kill(self):
        for w in (self.prefill, self.decode):
            w.kill()


def measure(link, codecs, rounds, budget, after):
    tokens = kvs.text_tokens(2000)
    got = {c: [] for c in codecs}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(kvs.Folder())
        lab = stack.enter_context(lab_.Lab(mtu=9000, rate=link)) if link != "dpdk" else None
        pairs = []
        for at, c in enumerate(codecs):
            pairs.append(Pair(c, os.path.join(folder, c), lab, at))
            stack.callback(pairs[-1].kill)
        for p in pairs:
            p.up()
        for n in range(rounds + 1):
            for p in pairs[n % len(pairs):] + pairs[:n % len(pairs)]:
                r = p.request(tokens, budget, after)
                if n > 0:
                    got[p.codec].append(r)
    return got


def median(rows, key):
    return statistics.median(r[key] for r in rows)


def show(link, budget, got):
    print("link %s, budget %s: medians of %d" % (link, budget, len(next(iter(got.values())))))
    print("%-8s %10s %17s %10s %10s %8s  %s" % ("codec", "TTFT ms", "(min..max)", "exposed ms", "prefill ms", "ratio", "chunks of the last"))
    for c, rows in got.items():
        t = [r["ttft"] for r in rows]
        print("%-8s %10.1f %8.1f..%7.1f %10.2f %10.1f %8.3f  %s" % (
            c, median(rows, "ttft"), min(t), max(t), median(rows, "exposed"), median(rows, "prefill"),
            median(rows, "kv") / median(rows, "wire"), rows[-1]["codecs"]))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--link", default="1gbit")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--budget", default="exact", choices=BUDGETS)
    p.add_argument("--codecs", default=None, help="beside auto; default: raw,zstd,l0 and with --budget e8 e8")
    p.add_argument("--after", action="store_true", help="send after prefill, as for a prompt whose KV is there already: nothing hides the link")
    a = p.parse_args()
    codecs = (a.codecs or "raw,zstd,l0" + (",e8" if a.budget == "e8" else "")).split(",") + ["auto"]
    try:
        got = measure(a.link, codecs, a.rounds, a.budget, a.after)
    except lab_.NoLab as e:
        sys.exit("no lab: %s" % e)
    show(a.link, a.budget, got)
    key = "exposed" if a.after else "ttft"
    named = {c: median(r, key) for c, r in got.items() if c != "auto"}
    best = "raw" if a.link == "dpdk" else min(named, key=named.get)
    over = [ours[key] / theirs[key] for ours, theirs in zip(got["auto"], got[best])]
    print("auto over %s, %s, round by round: %s" % (best, key, " ".join("%.3f" % x for x in over)))
    print("RESULT %.4f" % statistics.median(over))


main()
