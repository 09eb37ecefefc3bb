#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""verbs.py all|64k|1m|lat|gather|requests [ROUNDS]: the verbs transport beside perftest, in turns, in one guest with two soft-RoCE
devices (tests/guest/ratio.py says what is compared). Prints each pair and each ratio with its spread, and RESULT, the median of the
pairs' ratios; for "requests" how many times fewer work requests gathering took. The guest's CPU is emulated: the ratios
say what the transport adds, the figures say nothing of cards.

All is measured in one boot, whatever was asked for. $KVW_PERF_RUN names a folder that lives as long as one call of perf/run.sh: the
first row leaves there what was printed, and the other rows read it. Without it nothing is kept."""
import os
import re
import shutil
import signal
import sys

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
GUEST = os.path.join(ROOT, "tests", "guest")
sys.path.insert(0, GUEST)

import guest  # noqa: E402
import image  # noqa: E402

WHAT = ("64k", "1m", "lat", "gather", "requests")
ROUNDS = 19  # single pairs swing from 0.74 to 1.03: over 11 the median of 64k lay between 0.947 and 0.982
SECONDS = 900  # 260 on an idle machine


def measure(rounds):
    """What ratio.py printed in a guest of its own. Raises image.Unavailable."""
    g = guest.Guest(name="verbs", seconds=SECONDS, setup=["rxe"],
                    env={"KVW_BUILD": os.environ.get("KVW_BUILD", os.path.join(ROOT, "build"))})
    try:
        g.start([os.path.join(GUEST, "ratio.py"), "all", str(rounds)])
        status = None
        while status is None:
            guest.nap()
            status = g.poll()
        out, err = g.text("stdout"), g.text("stderr")
    except guest.Failed as e:
        sys.exit("verbs.py: %s" % e)
    finally:
        g.close()
    if status != 0:
        sys.exit("%sverbs.py: status %d: %s" % (out, status, err.strip()))
    return out


def measured(rounds):
    """The same, or what this call of perf/run.sh has measured already."""
    folder = os.environ.get("KVW_PERF_RUN")
    if not folder:
        return measure(rounds)
    kept = os.path.join(folder, "verbs-%d" % rounds)
    if os.path.exists(kept):
        print("(of the boot that an earlier row of this run made)")
        with open(kept, encoding="utf-8") as f:
            return f.read()
    out = measure(rounds)
    with open(kept + ".part", "w", encoding="utf-8") as f:
        f.write(out)
    os.rename(kept + ".part", kept)
    return out


def main():
    signal.signal(signal.SIGTERM, guest.on_signal)  # so that the guest ends too
    if len(sys.argv) not in (2, 3) or sys.argv[1] not in ("all",) + WHAT:
        sys.exit(__doc__)
    what, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else ROUNDS
    os.chdir(ROOT)
    if not shutil.which("ib_write_bw"):
        print("SKIP perftest is not installed (apt-get install perftest)")
        return
    try:
        out = measured(rounds)
    except image.Unavailable as e:
        print("SKIP %s" % e)
        return
    print(out, end="")
    if what != "all":
        pattern = r"fewer=([0-9.]+)" if what == "requests" else r"^%s: ratio=([0-9.]+)" % what
        print("RESULT %s" % re.search(pattern, out, re.M)[1])


main()
