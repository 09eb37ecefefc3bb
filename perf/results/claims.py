#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What kvperf's README claims, measured, each as a table with its command, machine and date. By hand.

    claims.py lengths              64 .. 131,072 tokens: layers streamed against sent after the prefill        (~15 min, 2 x 3.1 GB)
    claims.py pages                16-token pages in random order against contiguous ones                      (~5 min)
    claims.py short                20 MB on a link shaped to 1 Gb/s: the share of it; needs root               (~1 min)
    claims.py requests             5,400 requests, open loop, over udp: how many time out                      (9 min)
    claims.py replay TRACE         ten minutes of a Mooncake trace, its lengths scaled to this machine         (10 min)
    claims.py find                 find, five times, on a link of 1 Gb/s: does it repeat; needs root           (~3 min)

  --small      the same in seconds, to see that it works: no table is kept
  --to FOLDER  where tables go; beside this file
  --server H   not here, but to kvperf server on host H
  --per-second N   requests: so many begin in a second, 10
  --rest S     between two runs: others work on a shared machine, too; 0

Exit 1: a claim doesn't hold. The table is written in any case.
"""
import argparse
import datetime
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tests", "lab"))
KVPERF = os.path.join(os.environ.get("KVW_BUILD", os.path.join(ROOT, "build")), "perf", "kvperf", "kvperf")
DONE = (0, 3, 4)  # statuses of kvperf with a whole result


class Table:
    """A claim's page: what was typed, where, and what came out."""

    def __init__(self, args, name, claim, limit):
        self.args, self.name, self.claim, self.limit = args, name, claim, limit
        self.lines, self.commands, self.result, self.holds = [], [], None, True

    def measure(self, mode, *words, lab=None):
        if self.commands and not self.args.small:
            time.sleep(self.args.rest)
        words = [mode] + ([self.args.server] if self.args.server and lab is None else []) + list(words)
        self.commands.append("kvperf " + " ".join(os.path.basename(w) if os.path.isabs(w) else w for w in words))
        with tempfile.TemporaryDirectory() as folder:
            out = os.path.join(folder, "result.json")
            line = [KVPERF] + words + ["-o", out]
            p = (lab.popen("a", line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) if lab else
                 subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
            said = p.communicate()[1].strip()
            if p.returncode not in DONE and not os.path.exists(out):
                sys.exit("claims.py: %s: exit %d: %s" % (self.commands[-1], p.returncode, said))
            if said:
                print("# " + said, file=sys.stderr)
            with open(out) as f:
                self.result = json.load(f)
        return self.result

    def row(self, *cells):
        self.lines.append("| " + " | ".join(str(x) for x in cells) + " |")
        print(self.lines[-1], flush=True)

    def head(self, *cells):
        self.row(*cells)
        self.row(*("---" for _ in cells))

    def check(self, ok, what):
        self.holds &= bool(ok)
        self.lines += ["", "%s: %s" % ("Holds" if ok else "DOES NOT HOLD", what)]
        print(self.lines[-1], flush=True)

    def write(self):
        def host(h):
            return "%s, %d CPUs, %s" % (h["cpu"], h["cpus"], h["kernel"])

        start = self.result["start"]
        text = ["# " + self.claim, "", "Date: %s UTC. Sender: %s. Receiver: %s%s. Load when it ended: %.1f." % (
            datetime.datetime.utcnow().strftime("%Y-%m-%d %H:%M"), host(start["client"]), host(start.get("server", start["client"])),
            ", the same host" if self.result["path"]["both_ends_here"] else "", start["client"].get("load", 0)), "", "Limit: %s" % self.limit, ""]
        text += ["    %s" % c for c in self.commands] + [""] + self.lines + [""]
        if not self.args.small:
            path = os.path.join(self.args.to, "kvperf-%s.md" % self.name)
            with open(path, "w") as f:
                f.write("\n".join(text))
            print("# written: " + path)
        return 0 if self.holds else 1


def by_name(result, name):
    return [x for x in result["rows"] if x["name"] == name and x["rounds"] > 0]


def lengths(args):
    """A run a length, so that none is long; fewer rounds where each moves gigabytes."""
    t = Table(args, "lengths", "Streaming layers is never slower than sending after the prefill",
              "the median exposed time of streamed rows over that of `after`, 1.00 at any length; both in one run, in turns")
    t.head("tokens", "KV MB", "rounds", "after, ms p50 (min .. max)", "streamed, random pages", "streamed / after", "contiguous / after", "of floor", "data",
           "load")
    worst = 0
    for tokens in [64 << i for i in range(4 if args.small else 12)]:
        r = t.measure("sweep", "--model", "smollm2-135m", "--prefill-rate", "20000", "--tokens", str(tokens), "-P", "1", "--codec", "auto",
                      "-n", "1" if args.small else "9" if tokens < 32768 else "3", "--max-memory", "4")
        bulk, after, rand, cont = r["rows"]
        if cont["rounds"] == 0:
            continue
        share = [x["exposed_ms"]["p50"] / after["exposed_ms"]["p50"] for x in (rand, cont)]
        worst = max([worst] + share)
        e, s = after["exposed_ms"], rand["exposed_ms"]
        t.row(after["tokens"], "%.1f" % (after["bytes_raw"] / after["rounds"] / 1e6), after["rounds"],
              "%.3f (%.3f .. %.3f)" % (e["p50"], e["min"], e["max"]), "%.3f (%.3f .. %.3f)" % (s["p50"], s["min"], s["max"]), "%.3f" % share[0],
              "%.3f" % share[1], "%.0f %%" % rand["percent_of_floor"], rand["data"]["verdict"], "%.1f" % os.getloadavg()[0])
    t.check(worst <= 1 and worst > 0, "the worst is %.3f of sending after the prefill" % worst)
    return t.write()


def pages(args):
    t = Table(args, "pages", "16-token pages in random order take no longer than contiguous ones",
              ">= 95 % of the contiguous row's rate; rows of one run, in turns")
    t.head("tokens", "KV MB", "contiguous GB/s", "random GB/s", "random / contiguous", "data")
    worst = 1e9
    for tokens in (512, 1024) if args.small else (1024, 2048, 8192, 32768):
        r = t.measure("bw", "--model", "smollm2-135m", "--tokens", str(tokens), "--codec", "raw", "-n", "3" if args.small else "41")
        bulk, rand = by_name(r, "bulk")[0], by_name(r, "all")[0]
        share = rand["gb_per_s"] / bulk["gb_per_s"]
        worst = min(worst, share)
        t.row(tokens, "%.1f" % (rand["bytes_raw"] / rand["rounds"] / 1e6), "%.3f" % bulk["gb_per_s"], "%.3f" % rand["gb_per_s"], "%.3f" % share,
              rand["data"]["verdict"])
    t.check(worst >= 0.95, "the worst is %.1f %%" % (100 * worst))
    return t.write()


def short(args):
    import lab as labs
    t = Table(args, "short", "A short prompt gets its share of the line", ">= 50 % of the line at 20 MB (best published: 12 to 18 %)")
    t.head("link", "KV MB", "row", "ms p50 (min .. max)", "GB/s", "of the line", "data")
    best = 0
    with labs.Lab(rate="1gbit") as lab:
        server = lab.popen("b", [KVPERF, "server", "-1", "-B", labs.IP["b"]], stdout=subprocess.PIPE, text=True)
        server.stdout.readline()
        r = t.measure("bw", labs.IP["b"], "--model", "smollm2-135m", "--tokens", "870", "--codec", "raw", "-n", "3" if args.small else "15", lab=lab)
        for x in by_name(r, "bulk") + by_name(r, "all"):
            e, share = x["total_ms"], x["gb_per_s"] / 0.125
            best = share if x["name"] == "all" else best
            t.row("1 Gb/s (tbf)", "%.1f" % (x["bytes_raw"] / x["rounds"] / 1e6), x["name"], "%.1f (%.1f .. %.1f)" % (e["p50"], e["min"], e["max"]),
                  "%.4f" % x["gb_per_s"], "%.1f %%" % (100 * share), x["data"]["verdict"])
        server.kill()
    t.check(best >= 0.5, "%.1f %% of the line, pages in random order" % (100 * best))
    return t.write()


def replayed(t, r):
    t.head("requests", "done", "failed", "timed out", "offered /s", "achieved /s", "achieved GB/s", "data")
    t.row(r["config"]["requests"], r["done"], r["failed"], r["timed_out"], "%.2f" % r["offered"]["requests_per_s"],
          "%.2f" % r["achieved"]["requests_per_s"], "%.4f" % r["achieved"]["gb_per_s"], r["data"]["verdict"])
    t.lines.append("")
    t.head("ms", "p50", "p90", "p99", "p99.9", "max")
    for name in ("latency_ms", "exposed_ms", "wait_ms", "lag_ms"):
        s = r.get(name)
        t.row(name[:-3], *(["%.3f" % s[k] for k in ("p50", "p90", "p99", "p999", "max")] if s else ["-"] * 5))


def requests(args):
    """Arrivals at random (seed 1), lengths as skewed as the published trace's, cut at 1,024."""
    t = Table(args, "requests", "5,400 requests under load, over UDP: none times out",
              "0 time-outs (a published TCP baseline: 436); 10 s each; %g requests begin in a second" % args.per_second)
    draw, at = random.Random(1), 0.0
    count = 60 if args.small else 5400
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", prefix="requests-") as f:
        for _ in range(count):
            at += draw.expovariate(args.per_second)
            f.write(json.dumps({"timestamp": round(1000 * at), "input_length": min(1024, int(draw.lognormvariate(5, 0.9)) + 1)}) + "\n")
        f.flush()
        r = t.measure("replay", "--trace", f.name, "--model", "smollm2-135m", "--prefill-rate", "20000", "--codec", "auto", "-P", "32", "--timeout", "10",
                      "--max-lag-ms", "0")
    replayed(t, r)
    t.check(r["timed_out"] == 0 and r["done"] == count, "%d of %d timed out, %d done" % (r["timed_out"], count, r["done"]))
    return t.write()


def replay(args):
    t = Table(args, "replay", "Ten minutes of Mooncake's conversation trace, open loop",
              "lag p99 <= 20 ms, or the figures are the client's own; every request done; lengths x 0.02")
    r = t.measure("replay", "--trace", args.trace, "--model", "smollm2-135m", "--prefill-rate", "20000", "--scale", "0.02", "--spread",
                  "--duration", "5" if args.small else "600", "--codec", "auto", "-P", "16", "--max-lag-ms", "20")
    replayed(t, r)
    t.check(r["done"] == r["config"]["requests"], "%d of %d done" % (r["done"], r["config"]["requests"]))
    t.check(r["lag_ms"]["p99"] <= 20, "lag p99 %.3f ms" % r["lag_ms"]["p99"])
    return t.write()


def find(args):
    """On a shaped link: where the wire is a copy, what 99 of 100 show is how late a busy machine's threads are."""
    import lab as labs
    t = Table(args, "find", "find repeats, on a link of 1 Gb/s", "five answers within 10 % of their median")
    t.head("run", "longest prompt of which 99 of 100 show at most 100 ms", "p99 over p50, of all rounds", "rounds", "load")
    found = []
    with labs.Lab(rate="1gbit") as lab:
        server = lab.popen("b", [KVPERF, "server", "-B", labs.IP["b"]], stdout=subprocess.PIPE, text=True)
        server.stdout.readline()
        for i in range(2 if args.small else 5):
            r = t.measure("find", labs.IP["b"], "--model", "smollm2-135m", "--prefill-rate", "20000", "--codec", "raw", "--tokens", "256",
                          "--max-exposed-ms", "100", "-n", "5" if args.small else "100", lab=lab)
            f = r.get("found", {"tokens": 0, "tail": 0, "rounds": 0})
            found.append(f["tokens"])
            t.row(i + 1, found[-1], "%.3f" % f["tail"], f["rounds"], "%.1f" % os.getloadavg()[0])
        server.kill()
    middle = statistics.median(found)
    t.check(middle > 0 and all(abs(x - middle) <= 0.1 * middle for x in found), "%s" % found)
    return t.write()


CLAIMS = {"lengths": lengths, "pages": pages, "short": short, "requests": requests, "replay": replay, "find": find}


def main(argv):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("claim", choices=sorted(CLAIMS))
    p.add_argument("trace", nargs="?")
    p.add_argument("--small", action="store_true")
    p.add_argument("--to", default=HERE)
    p.add_argument("--server")
    p.add_argument("--per-second", type=float, default=10)
    p.add_argument("--rest", type=float, default=0)
    args = p.parse_args(argv)
    if args.claim == "replay" and args.trace is None:
        p.error("replay needs the trace's file")
    return CLAIMS[args.claim](args)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
