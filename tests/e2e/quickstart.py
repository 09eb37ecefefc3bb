#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The quickstart ends with an English answer, the report and exit 0; run again, it answers within 20 s."""
import os
import subprocess
import time

import kvs


def once(name, seconds):
    t0 = time.monotonic()
    out = subprocess.run([os.path.join(kvs.ROOT, "examples", "quickstart.sh")], capture_output=True, text=True, timeout=1200)
    took = time.monotonic() - t0
    answer = out.stdout.split("\n\n", 1)[0]
    words = answer.lower().split()
    sensible = len(words) >= 20 and "light" in answer.lower() and len(set(words)) > len(words) // 3
    report = all(w in out.stdout for w in ("prefill", "decode", "KV ", "exposed hand-over", "layer  29"))
    kvs.check(out.returncode == 0 and sensible and report and took < seconds, name,
              "%.1f s, exit %d: %s ... %s" % (took, out.returncode, " ".join(answer.split())[:160], out.stderr.strip()[-100:] if out.returncode else ""))


def main():
    once("quickstart", 1200)
    once("quickstart again, within 20 s", 20)
    kvs.finish()


main()
