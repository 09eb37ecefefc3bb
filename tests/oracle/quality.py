#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""quality.py - what codecs do to the model's answers, over texts that every Debian 12 has.

    quality.py --program build/tests/oracle/quality --model MODEL.gguf [--windows 64] [--check] [--markdown]

Runs quality.c over windows of six kinds of text and prints its table. --check: fail unless raw and l0 leave every
logit as it was, byte by byte, while one flipped bit ("l0!") doesn't, and E8 and E4 keep what they promise beside
fp8-e4m3 and Hadamard-int4."""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
TEXTS = {
    "prose": HERE / "texts/prose.txt",
    "licences": "/usr/share/common-licenses/GPL-3",
    "manual": "/usr/lib/python3.11/pydoc_data/topics.py",
    "python": "/usr/lib/python3.11/argparse.py",
    "c": "/usr/include/elf.h",
}
ALL = ("raw,l0,fp8-e4m3,int8,int4-g64,hadamard-int4,kivi-4,e8/4/0,e4/4/0,e8/4/128,e4/4/128,e8,e4")
SHORT = "raw,l0,l0!,fp8-e4m3,hadamard-int4,e8/4/0,e4/4/0"
FIELDS = ("name", "ratio", "snr_k", "snr_v", "ppl", "ppl_low", "ppl_high", "kl", "kl_low", "kl_high", "kl_999", "top1",
          "unequal", "ppl_rival_low", "ppl_rival_high", "kl_rival_low", "kl_rival_high")


def records():
    """A log as machines write it: the same 700 lines each time."""
    state, time, lines = 1, 1_700_000_000, []

    def draw(n):
        nonlocal state
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (state >> 33) % n

    items = ["ferry", "harbour", "lamp", "orchard", "kettle", "signal", "meadow", "ladder"]
    for i in range(700):
        time += draw(90)
        lines.append(json.dumps({"time": time, "id": i, "item": items[draw(8)], "count": draw(40),
                                 "price": round(draw(10000) / 100, 2), "ok": draw(10) > 0}))
    return "\n".join(lines) + "\n"


def run(args):
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as log:
        log.write(records())
        log.flush()
        texts = [f"{name}={path}" for name, path in TEXTS.items()] + [f"records={log.name}"]
        out = subprocess.run([args.program, args.model, str(args.threads), str(args.windows), args.codecs, *texts],
                             stdout=subprocess.PIPE, stderr=None if args.progress else subprocess.DEVNULL, text=True)
    if out.returncode != 0:
        sys.exit(f"quality: {args.program} failed with status {out.returncode}")
    head, *lines = out.stdout.splitlines()
    rows = {}
    for line in lines:
        cells = line.split("\t")
        rows[cells[0]] = dict(zip(FIELDS, [cells[0], *map(float, cells[1:])]))
    return head.replace("\t", " "), rows


def markdown(rows):
    print("| codec | ratio | SNR K / V, dB | perplexity, % (95 %) | mean KL, 1e-3 (95 %) | 99.9 % KL | top-1, % "
          "| KL less its rival's, 1e-3 (95 %) |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for r in rows.values():
        snr = "exact" if r["snr_k"] >= 200 else f"{r['snr_k']:.1f} / {r['snr_v']:.1f}"
        rival = f"{1e3 * r['kl_rival_low']:+.2f} .. {1e3 * r['kl_rival_high']:+.2f}" if "kl_rival_low" in r else ""
        print(f"| {r['name']} | {r['ratio']:.2f} | {snr} | {r['ppl']:+.2f} ({r['ppl_low']:+.2f} .. {r['ppl_high']:+.2f}) "
              f"| {1e3 * r['kl']:.2f} ({1e3 * r['kl_low']:.2f} .. {1e3 * r['kl_high']:.2f}) | {r['kl_999']:.3f} "
              f"| {r['top1']:.2f} | {rival} |")


def check(rows):
    e8, e4, fp8, int4 = rows["e8/4/0"], rows["e4/4/0"], rows["fp8-e4m3"], rows["hadamard-int4"]
    bad = 0
    for ok, text in [
        *((rows[n]["unequal"] == 0, f"{n} leaves every byte of every logit as it was") for n in ("raw", "l0")),
        *((rows[n]["unequal"] > 0, "one flipped bit in the decoded cache would be seen") for n in ("l0!",) if n in rows),
        (e8["ratio"] >= 2.7, f"e8's ratio {e8['ratio']:.2f} is at least 2.7"),
        (e4["ratio"] >= 4.2, f"e4's ratio {e4['ratio']:.2f} is at least 4.2"),
        (min(e8["snr_k"] - fp8["snr_k"], e8["snr_v"] - fp8["snr_v"]) >= 0, "e8 adds no more noise than fp8-e4m3"),
        (min(e4["snr_k"] - int4["snr_k"], e4["snr_v"] - int4["snr_v"]) >= 0, "e4 adds no more noise than hadamard-int4"),
        (e8["kl_rival_low"] <= 0, "e8's KL is no worse than fp8-e4m3's within the interval"),
        (e4["kl_rival_low"] <= 0, "e4's KL is no worse than hadamard-int4's within the interval"),
        (e8["ppl_low"] <= 0.1, "e8's perplexity is within 0.1 %, or can't be told from that"),
        (e4["ppl_low"] <= 2, "e4's perplexity is within 2 %, or can't be told from that"),
    ]:
        print(("ok" if ok else "not ok") + " - " + text)
        bad += not ok
    return bad


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--codecs", help="comma-separated; default: all, or with --check the few that it needs")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--progress", action="store_true")
    args = parser.parse_args()
    args.codecs = args.codecs or (SHORT if args.check else ALL)
    head, rows = run(args)
    print(head)
    if args.markdown:
        markdown(rows)
    else:
        for r in rows.values():
            print(" ".join(f"{k}={v}" for k, v in r.items()))
    return 1 if args.check and check(rows) else 0


if __name__ == "__main__":
    sys.exit(main())
