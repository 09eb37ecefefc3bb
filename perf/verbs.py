#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""verbs.py 64k|1m|lat|gather|requests [PAIRS]: the verbs transport beside perftest, in turns, in one guest with two soft-RoCE
devices (tests/guest/ratio.py says what is compared). Prints RESULT, the median of the pairs' ratios; for "requests"
how many times fewer work requests gathering took. The guest's CPU is emulated: the ratios say what the transport adds,
the figures say nothing of cards."""
import os
import re
import shutil
import signal
import sys

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), ".."))
GUEST = os.path.join(ROOT, "tests", "guest")
sys.path.insert(0, GUEST)

import guest  # noqa: E402
import image  # noqa: E402

BLOCKS = 100000


def main():
    signal.signal(signal.SIGTERM, guest.on_signal)  # so that the guest ends too
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    what, pairs = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "5"
    os.chdir(ROOT)
    if not shutil.which("ib_write_bw"):
        print("SKIP perftest is not installed (apt-get install perftest)")
        return
    g = guest.Guest(name="verbs", seconds=230, setup=["rxe"], env={"KVW_BUILD": os.environ.get("KVW_BUILD", os.path.join(ROOT, "build"))})
    try:
        g.start([os.path.join(GUEST, "ratio.py"), "gather" if what == "requests" else what, pairs, str(BLOCKS)])
        status = None
        while status is None:
            guest.nap()
            status = g.poll()
        out, err = g.text("stdout"), g.text("stderr")
    except image.Unavailable as e:
        print("SKIP %s" % e)
        return
    except guest.Failed as e:
        sys.exit("verbs.py: %s" % e)
    finally:
        g.close()
    print(out, end="")
    if status != 0:
        sys.exit("verbs.py: %s" % err.strip())
    print("RESULT %s" % re.search(r"fewer=([0-9.]+)" if what == "requests" else r"\bratio=([0-9.]+)", out)[1])


main()
