#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""ask.py [PROMPT]: ask the servers of up.sh, and show what happened to the KV of that request, layer by layer."""
import json
import os
import sys
import time
import urllib.request

LOG = os.environ.get("KVWIRE_DEMO", "/tmp/kvwire-demo")
PROMPT = " ".join(sys.argv[1:]) or "The history of the steam engine begins " + "with water, fire and iron. " * 60 + "Then"


def journal(name):
    with open("%s/%s.jsonl" % (LOG, name), encoding="utf8") as f:
        return [json.loads(line) for line in f]


def main():
    begun = time.monotonic_ns()
    body = json.dumps(dict(model="demo", prompt=PROMPT, max_tokens=24, temperature=0)).encode()
    request = urllib.request.Request("http://127.0.0.1:8000/v1/completions", body, {"Content-Type": "application/json"})
    answer = json.load(urllib.request.urlopen(request, timeout=300))
    print("%r\n" % answer["choices"][0]["text"])
    pushed, ready = {}, {}
    for line in journal("prefill"):
        if line["what"] == "push" and line["at"] > begun:
            pushed[line["layer"]] = line["at"]
    for line in journal("decode"):
        if line["what"] == "layer_ready" and line["event_at"] > begun:
            ready[line["layer"]] = line["event_at"]
        elif line["what"] == "done" and line["at"] > begun:
            print("%.1f MB of KV as %.1f MB, codec %s %s" % (line["raw"] / 1e6, line["wire"] / 1e6, line["codec"], line["error"]))
    print("layer   computed on prefill   in decode's blocks   (ms since the request)")
    for layer in sorted(pushed):
        print("%5d %21.1f %20s" % (layer, (pushed[layer] - begun) / 1e6,
                                   "%.1f" % ((ready[layer] - begun) / 1e6) if layer in ready else "-"))


if __name__ == "__main__":
    main()
