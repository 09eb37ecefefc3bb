#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""cluster.py [--made | TRACE] [--check]: what the simulated cluster (perf/cluster) says of the router, as tables.

Without options: on made requests, into cluster-made.md. TRACE: on a file of Mooncake's (conversation_trace.jsonl), into
cluster.md. --check: run the first again and compare it with what is committed, number by number (within 3 %): exit 1
where they differ. Everything is on a virtual clock: no load of this machine changes a digit.
"""
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
TOOL = os.path.join(os.environ.get("KVW_BUILD", os.path.join(ROOT, "build")), "perf", "cluster", "kvcluster")
BY_HAND = "## Read together"  # from there on the file is written by hand, and kept
PLAIN = "--no-lend --no-local --no-admit"

# Each: a heading, a sentence, rows of (what the row is called, options; its table's rows as kvcluster names them).
MADE = [
    ("Policies, 4 prefill and 2 decode workers", "The requests' own rate, then half as fast again, then the kept policies with our early refusals, too.",
     [("", "--make 2000 --policy all"), ("1.5 x", "--make 2000 --policy all --speed 1.5"),
      ("1.5 x, all refuse early", "--make 2000 --policy all --speed 1.5 --admit")]),
    ("Changes of sides", "An hour of long prompts and short answers, one of short prompts and long answers.",
     [("prefill-heavy", "--make 3000 --input 2 --answer 0.3"), ("without", "--make 3000 --input 2 --answer 0.3 --no-lend"),
      ("decode-heavy", "--make 3000 --speed 4 --input 0.3 --answer 4"),
      ("without", "--make 3000 --speed 4 --input 0.3 --answer 4 --no-lend")]),
]
TRACED = [
    ("Policies at the trace's own rate", "4 prefill and 2 decode workers of 10,000 blocks; llama-3.1-70b on 4 H100 each; 30 s and 100 ms.",
     [("", "--policy all")]),
    ("2.5 times as fast", "The kept policies with our early refusals, then ours without its parts.",
     [("all refuse early", "--policy all --speed 2.5 --admit"), ("without lending", "--speed 2.5 --no-lend"),
      ("without prefill at home", "--speed 2.5 --no-local"), ("without refusals", "--speed 2.5 --no-admit"),
      ("without all three", "--speed 2.5 " + PLAIN)]),
    ("Changes of sides", "An hour of long prompts and short answers, one of short prompts and long answers.",
     [("prefill-heavy", "--input 2 --answer 0.3"), ("without", "--input 2 --answer 0.3 --no-lend"),
      ("decode-heavy", "--speed 4 --input 0.3 --answer 4"), ("without", "--speed 4 --input 0.3 --answer 4 --no-lend")]),
    ("Two racks", "Links between them have 2 % of the rate (0.5 of 25 GB/s).",
     [("", "--racks 2 --cross 0.02 --no-lend --policy " + p) for p in ("finish", "prefix", "least-loaded")]),
    ("64 workers", "43 prefill, 21 decode; every request eleven times, with prompts of its own.",
     [("", "--workers 43:21 --copies 11 --policy " + p) for p in ("finish", "prefix", "least-loaded")]),
    ("The highest speed with 90 % of all requests within both promises", "1 is the trace's own.", [("", "--policy all --find")]),
]
PLACES = [
    ("Four workers, split or together",
     "The highest speed with 90 % good, of made requests; no lending, refusals or prefill at home. Together: the best of three sizes of pieces.",
     [(name + ", " + link, "--make 1500 --place 4 %s %s%s" % (PLAIN, options, more))
      for name, options in (("70B, 50 ms", "--model llama-3.1-70b --machine 4xh100 --itl 50 --ttft 10"),
                            ("8B, 20 ms", "--model llama-3.1-8b --machine h100 --itl 20 --ttft 5"),
                            ("0.6B, prompts / 10, 20 ms", "--model qwen3-0.6b --machine h100 --itl 20 --ttft 0.3 --input 0.1"))
      for link, more in (("25 GB/s", ""), ("25 GB/s, all alike", " --even"), ("1 GB/s", " --link 1000"))]),
]


def run(options):
    return subprocess.run([TOOL, "--head"] + options.split(), check=True, capture_output=True, text=True).stdout.splitlines()


def section(title, sentence, rows, trace, out):
    out.append("\n## %s\n\n%s\n" % (title, sentence))
    for _, options in rows:
        out.append("    kvcluster %s%s" % ("--trace TRACE " if trace else "", options))
    out.append("")
    head = False
    for name, options in rows:
        lines = run(("--trace %s " % trace if trace else "") + options)
        if not head:
            out.extend(("| |" if i == 0 else "|---|") + line[1:].replace(" | |", " | |") if i < 2 else line for i, line in enumerate(lines[:2]))
            head = True
        out.extend("| %s %s" % (name, line) for line in lines[2:])
        print("\n".join(out[-len(lines) + 2:]), flush=True)


def numbers(text):
    return [float(x) for x in re.findall(r"\d+(?:\.\d+)?", text)]


def differs(a, b):
    return re.sub(r"[\d.]+", "", a) != re.sub(r"[\d.]+", "", b) or any(
        abs(x - y) > 0.03 * max(x, y) + 0.5 for x, y in zip(numbers(a), numbers(b)))


def main(argv):
    check = "--check" in argv
    names = [a for a in argv[1:] if not a.startswith("--")]
    trace = names[0] if names else None
    path = os.path.join(HERE, "cluster.md" if trace else "cluster-made.md")
    out = ["# The router on a simulated cluster, " + ("Mooncake's conversation trace" if trace else "made requests"), "",
           "On a virtual clock, by `perf/results/cluster.py%s`; ../cluster/README.md says what is modelled and what the columns mean."
           % (" TRACE" if trace else "")]
    for s in TRACED if trace else MADE + ([] if check else PLACES):
        section(*s, trace, out)
    if not check:
        kept = open(path, encoding="utf-8").read().partition("\n" + BY_HAND)[2] if os.path.exists(path) else ""
        open(path, "w", encoding="utf-8").write("\n".join(out) + "\n" + ("\n" + BY_HAND + kept if kept else ""))
        return 0
    out, was = "\n".join(out).split("\n"), open(path, encoding="utf-8").read().split("\n")
    bad = [(a, b) for a, b in zip(out, was) if differs(a, b)]
    for a, b in bad:
        print("now: %s\nwas: %s" % (a, b))
    return 1 if bad or len(was) < len(out) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
