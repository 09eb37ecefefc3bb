#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""trace.py: kvserve --trace over udp with loss, and perf/timeline.py over both ends' traces, as TAP."""
import glob
import json
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
BUILD = os.environ.get("KVW_BUILD", os.path.join(ROOT, "build"))
MODEL = os.environ.get("KVW_MODEL") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "kvwire", "SmolLM2-135M-Instruct.Q4_1.gguf")
PROMPT = "The wire carries layers. " * 40
count = bad = 0


def check(ok, name, detail=""):
    global count, bad
    count += 1
    bad += not ok
    print("%s %d - %s%s" % ("ok" if ok else "not ok", count, name, "" if ok else ": " + str(detail)), flush=True)


def serve(folder, net, *options):
    return subprocess.run([os.path.join(BUILD, "engine", "kvserve"), "run", "--model", MODEL, "--net", net, "--trace", folder,
                           "--prompt", PROMPT, "--max-tokens", "3", "--json", "--no-compare"] + list(options),
                          capture_output=True, text=True, timeout=120)


def timeline(*args):
    return subprocess.run([sys.executable, os.path.join(ROOT, "perf", "timeline.py")] + list(args), capture_output=True,
                          text=True, timeout=60)


def events(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f][1:]


def test_lossy(folder):
    got = serve(folder, "udp", "--fault", "loss=0.03,seed=7")
    check(got.returncode == 0, "kvserve answers over a network that loses packets", got.stderr)
    answer = json.loads(got.stdout)
    files = sorted(glob.glob(os.path.join(folder, "*.jsonl")))
    check([os.path.basename(f) for f in files] == ["decode.jsonl", "decode.packets.jsonl", "prefill.jsonl", "prefill.packets.jsonl"],
          "each end wrote what its chunks and its packets did", files)
    shown = timeline("--packets", *files)
    print("\n".join("# " + line for line in shown.stdout.splitlines()))
    layers = re.findall(r"^ +(\d+) +([\d.]+) +([\d.]+) ", shown.stdout, re.M)
    check(len(layers) == len(answer["layers"]), "the timeline has a line a layer", shown.stdout + shown.stderr)
    check(all(float(computed) <= float(ready) for _, computed, ready in layers), "no layer is ready before it is computed", layers)
    lost = re.search(r"^packets lost and sent again: (\d+)$", shown.stdout, re.M)
    check(lost is not None and int(lost[1]) > 0, "packets were lost, and it says how many", shown.stdout)
    check([float(c) for _, c, _ in layers] == sorted(float(c) for _, c, _ in layers), "layers are computed in their order", layers)
    ready = [float(r) for _, _, r in layers]
    late = sum(r > min(ready[i:]) for i, r in enumerate(ready))
    check(late <= len(layers) // 6, "and get ready in it, but for a few that lost a packet", layers)
    check(shown.stdout.startswith("transfer ") and "%d chunks" % answer["chunks"] in shown.stdout.splitlines()[0],
          "it counts the chunks that kvserve counted", (answer["chunks"], shown.stdout.splitlines()[:1]))
    merged = [json.loads(line) for line in timeline("--json", *files).stdout.splitlines()]
    check([e["t"] for e in merged] == sorted(e["t"] for e in merged) and {e["node"] for e in merged} == {"prefill", "decode"},
          "--json has both ends' events in the order of time")
    puts = {(e["layer"], e["part"], e["entry"], e["row"]) for e in events(files[2]) if e["ev"] == "put"}
    decoded = {(e["layer"], e["part"], e["entry"], e["row"]) for e in events(files[0]) if e["ev"] == "decoded"}
    check(puts == decoded and len(puts) == answer["chunks"], "what was put is what was decoded", (len(puts), len(decoded)))
    with open(files[0], encoding="utf-8") as f:
        lines = [line for line in f if '"ev":"decoded"' not in line]
    with open(files[0], "w", encoding="utf-8") as f:
        f.writelines(lines)
    check("transfer" in timeline(*files).stdout and " 0 chunks" in timeline(*files).stdout, "a trace without decoding shows none")


def test_wrong(folder):
    got = timeline(os.path.join(folder, "nothing.jsonl"))
    check(got.returncode == 1 and "nothing.jsonl" in got.stderr, "a trace that isn't there is said", got.stderr)
    path = os.path.join(folder, "broken.jsonl")
    with open(path, "w", encoding="utf-8") as f:
        f.write('{"kvwire_trace":1,"node":"x","instance":"1","wall_ns":0}\nnot json\n')
    got = timeline(path)
    check(got.returncode == 1 and "line 2" in got.stderr, "a line that isn't JSON is said with its number", got.stderr)
    got = serve(os.path.join(folder, "no such folder"), "udp")
    check(got.returncode == 1 and "no such folder" in got.stderr, "a folder that isn't there is said", got.stderr)


def main():
    with tempfile.TemporaryDirectory() as folder:
        test_lossy(folder)
        test_wrong(folder)
    print("1..%d" % count)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
