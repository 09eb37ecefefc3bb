#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""suite.py [PART...]: everything that is tested in guests, as TAP. Parts: ends verbs pci two ratio (default: all).

Parts run side by side, two at a time, and ratio alone at last; what a part's script prints as "ok - ..." is a test here."""
import concurrent.futures
import os
import re
import subprocess
import sys
import threading
import time

import cut_gguf
import guest
import image
import two

HERE = image.HERE
ROOT = os.path.abspath(os.path.join(HERE, "..", ".."))
BUILD = os.environ.get("KVW_BUILD", os.path.join(ROOT, "build"))
MODEL = os.environ.get("KVW_MODEL") or os.path.join(os.path.dirname(image.CACHE), "SmolLM2-135M-Instruct.Q4_1.gguf")
CUT_LAYERS = 4  # of 30
XFER = os.path.join(BUILD, "tests", "guest", "xfer")
LINE = re.compile(r"^(ok|not ok) - (.*)$")

_lock, _number, _bad = threading.Lock(), 0, 0


def tell(line):
    """Prints one line of a guest; a result gets its number."""
    global _number, _bad
    found = LINE.match(line)
    with _lock:
        if found:
            _number += 1
            _bad += found[1] != "ok"
            line = "%s %d - %s" % (found[1], _number, found[2])
        print(line if found else "# " + line, flush=True)


def result(ok, name, detail=""):
    tell("%s - %s%s" % ("ok" if ok else "not ok", name, ": " + detail if detail else ""))


def nets():
    """The transports of this build that reach another host, and TCP."""
    text = subprocess.run([XFER, "send", "net=?"], capture_output=True, text=True, timeout=30).stderr
    names = text.split("there are:", 1)[1].replace(" ", "").strip().split(",")
    return [n for n in names if n != "loop"] + ["tcp"]


def cli(*args, timeout=400):
    return subprocess.run([os.path.join(HERE, "guest.py")] + list(args), capture_output=True, text=True, timeout=timeout)


def part_ends():
    """guest.py itself: whatever way it ends, we are told."""
    out = cli("--", "sh", "-c", "echo out; echo err >&2; exit 7")
    result((out.returncode, out.stdout, out.stderr) == (7, "out\n", "err\n"), "a guest returns status and output",
           "" if out.returncode == 7 else repr(out))
    out = cli("--seconds", "2", "--", "sh", "-c", "echo begun; sleep 100")
    result((out.returncode, out.stdout) == (124, "begun\n"), "a command that hangs is ended", "" if out.returncode == 124 else repr(out))
    out = cli("--", "sh", "-c", "echo c >/proc/sysrq-trigger; sleep 100")
    result(out.returncode == guest.FAILED and "Kernel panic - not syncing: sysrq" in out.stderr,
           "a panic is told with the console's lines", "" if "Kernel panic" in out.stderr else repr(out))
    out = cli("--append", "rdinit=/nothing", "--", "true")
    result(out.returncode == guest.FAILED and "guest: " in out.stderr, "a guest that can't start is told",
           "" if out.returncode == guest.FAILED else repr(out))


def run_script(name, **kw):
    """One guest that runs in_NAME.sh."""
    g = guest.Guest(name=name, **kw)
    left = b""
    try:
        g.start(["bash", os.path.join(HERE, "in_%s.sh" % name)])
        status = None
        while status is None:
            guest.nap()
            status = g.poll()
            *lines, left = (left + g.fresh("stdout")).split(b"\n")
            for line in lines:
                tell(line.decode(errors="replace"))
        if status != 0:
            result(False, "the guest's script in_%s.sh ended with %d" % (name, status), g.text("stderr")[-500:].replace("\n", " "))
    finally:
        g.close()


def part_pci():
    run_script("pci", memory=1792, seconds=600, qemu=guest.hub_nics(), append="hugepages=256")


def part_verbs():
    run_script("verbs", memory=1536, setup=["rxe"], seconds=900)


def part_ratio():
    run_script("ratio", memory=2560, setup=["rxe"], seconds=900)  # batches of 1.2 GB


def part_two():
    env = {"KVW_NETS": " ".join(nets() + ["ib_write_bw"]), "KVW_BUILD": BUILD}
    script = "exec bash %s check" % os.path.join(HERE, "in_two.sh")
    got = two.Pair(env=env, seconds=420).run({"a": script, "b": script},
                                             lambda name, stream, text: tell(text if name == "b" else "a: " + text))
    bad = [n for n in "ab" if got[n][0] != 0]
    if bad:
        result(False, "two hosts: the script on %s ended with %d" % (bad[0], got[bad[0]][0]), got[bad[0]][2][-500:].replace("\n", " "))


PARTS = {"pci": part_pci, "two": part_two, "verbs": part_verbs, "ends": part_ends, "ratio": part_ratio}
ALONE = {"ratio"}  # it compares speeds


def run(name):
    begun = time.monotonic()
    try:
        PARTS[name]()
    except guest.Failed as e:
        result(False, name + ": the guest failed")
        for line in str(e).splitlines():
            tell(line)
    tell("part %s took %.0f s" % (name, time.monotonic() - begun))


def main():
    names = sys.argv[1:] or list(PARTS)
    if set(names) - set(PARTS):
        sys.exit("suite.py: there are " + " ".join(PARTS))
    os.chdir(ROOT)
    os.environ["KVW_BUILD"] = BUILD
    os.environ["KVW_CUT_MODEL"] = os.path.join(BUILD, "tests", "guest", "cut.gguf")
    cut_gguf.write(MODEL, os.environ["KVW_CUT_MODEL"], CUT_LAYERS)
    try:
        image.get()
    except image.Unavailable as e:
        print("ok 1 - guests # SKIP %s\n1..1" % e)
        return
    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
        for f in [pool.submit(run, n) for n in names if n not in ALONE]:
            f.result()
    for name in [n for n in names if n in ALONE]:
        run(name)
    print("1..%d" % _number)
    sys.exit(1 if _bad or _number == 0 else 0)


if __name__ == "__main__":
    main()
