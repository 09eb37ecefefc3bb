#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""browser.py [PICTURE.png]: a report in a headless browser (Debian: chromium), by hand: it renders, every layer has a bar that
is drawn, and the picture can be looked at. Exit 77: no browser here."""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
KVPERF = os.path.join(os.environ.get("KVW_BUILD", os.path.join(ROOT, "build")), "perf", "kvperf", "kvperf")


def browse(browser, folder, page, *words):
    line = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir=" + os.path.join(folder, "profile"),
            "--window-size=1100,2600", "--virtual-time-budget=2000"]
    return subprocess.run(line + list(words) + ["file://" + page], capture_output=True, text=True, timeout=240, check=True).stdout


def main(argv):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        print("no chromium here", file=sys.stderr)
        return 77
    with tempfile.TemporaryDirectory(prefix="kvperf-") as folder:
        a, b, page = (os.path.join(folder, x) for x in ("a.json", "b.json", "page.html"))
        words = [KVPERF, "kv", "--model", "smollm2-135m", "--tokens", "512", "--prefill-rate", "20000", "--codec", "raw,l0", "-n", "5", "--no-gantt"]
        for out in (a, b):
            subprocess.run(words + ["-o", out], check=True, stdout=subprocess.DEVNULL)
        subprocess.run([KVPERF, "report", a, b, "-o", page], check=True)
        # What a script in the page measures, so that a bar counts only if the browser gave it a size.
        text = open(page).read()
        probe = os.path.join(folder, "probe.html")
        with open(probe, "w") as f:
            f.write(text.replace("</body>", "<pre id=seen></pre><script>document.getElementById('seen').textContent=JSON.stringify("
                    "[...document.querySelectorAll('svg')].map(s=>[...s.querySelectorAll('rect.way')].filter(r=>r.getBoundingClientRect()"
                    ".width>0&&r.getBoundingClientRect().height>0).length))</script></body>"))
        seen = re.search(r'id="seen">(.*?)</pre>', browse(browser, folder, probe, "--dump-dom"), re.S)
        bars = [n for n in json.loads(seen.group(1)) if n > 0] if seen else []
        picture = argv[0] if argv else os.path.join(folder, "page.png")
        browse(browser, folder, page, "--screenshot=" + os.path.abspath(picture))
        size = os.path.getsize(picture)
        print("bars that are drawn, by picture: %s; screenshot of %d bytes%s" % (bars, size, ": " + picture if argv else ""))
        return 0 if bars == [30] * 4 and size > 20000 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
