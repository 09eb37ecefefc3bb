#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""shaped.py RATE[,RATE...] [kvperf's options]: kvperf kv between two network namespaces whose link is shaped by tbf, one run a
rate; prints a table and leaves the JSON in $KVP_OUT (default: the current folder) as shaped-RATE.json. Needs root. By hand.

    perf/results/shaped.py 1gbit,2gbit --model llama-3.1-8b --tokens 8k --codec raw,l0,e8,auto
"""
import json
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "lab"))
import lab as labs  # noqa: E402

KVPERF = os.path.join(os.environ.get("KVW_BUILD", os.path.join(ROOT, "build")), "perf", "kvperf", "kvperf")


def measure(rate, options, out):
    with labs.Lab(rate=rate) as lab:
        server = lab.popen("b", [KVPERF, "server", "-1", "-B", labs.IP["b"]], stdout=subprocess.PIPE, text=True)
        server.stdout.readline()
        r = lab.popen("a", [KVPERF, "kv", labs.IP["b"], "-T", "veth shaped to " + rate, "-o", out] + options)
        r.wait()
        server.kill()
        return json.load(open(out))


def main(argv):
    folder = os.environ.get("KVP_OUT", ".")
    print("| link | row | codec | exposed ms p50 (min .. max) | of after | floor ms | of floor | overlap | wire GB/s | raw/wire | CPU-s/GiB | data |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for rate in argv[1].split(","):
        result = measure(rate, ["--no-gantt"] + argv[2:], os.path.join(folder, "shaped-%s.json" % rate))
        after = [x for x in result["rows"] if x["name"] == "after"][0]
        for x in result["rows"]:
            if x["rounds"] == 0:
                continue
            e = x["exposed_ms"]
            print("| %s | %s | %s | %.1f (%.1f .. %.1f) | %.1f %% | %.1f | %.1f %% | %.1f %% | %.4f | %.3f | %.2f + %.2f | %s |" % (
                rate, x["name"], x["codec"], e["p50"], e["min"], e["max"], 100 * e["p50"] / after["exposed_ms"]["p50"], x["floor_ms"],
                x["percent_of_floor"], x["overlap_percent"], x["gb_per_s"] / x["ratio"], x["ratio"], x["cpu_s_per_gib_sender"],
                x["cpu_s_per_gib_receiver"], x["data"]["verdict"]), flush=True)


if __name__ == "__main__":
    main(sys.argv)
