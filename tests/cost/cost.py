#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""cost.py BINARY RECORD [--record]: instructions of one endpoint per 8 KB DATA packet, by callgrind.

Counted is all that a poll() of that side does, its share of ACKs, timers, events and put() included.
Not counted: the copy of the slice (memcpy and the like), the digest (kvn_crc32c, told apart) and the wire of
the test. TAP; fails above the limit of 700, and above 1.03 times what RECORD says (a faster build is to be
recorded anew).
"""
import json, os, re, subprocess, sys, tempfile

LIMIT, SLACK = 700, 1.03
DIGEST = {"kvn_crc32c", "kvn_crc32c_before", "by_instruction", "serial"}


def measure(binary, side, puts):
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out")
        packets = int(subprocess.run(
            ["valgrind", "-q", "--tool=callgrind", "--toggle-collect=measured", "--compress-strings=no",
             "--compress-pos=no", f"--callgrind-out-file={out}", binary, side, str(puts)],
            check=True, capture_output=True, text=True).stdout)
        costs = {}
        fn, skip = None, False
        for line in open(out):
            if line.startswith("fn="):
                fn = line[3:].strip().split("'")[0]
            elif line.startswith("calls="):
                skip = True
            elif line[:1].isdigit():
                if not skip:
                    costs[fn] = costs.get(fn, 0) + int(line.split()[1])
                skip = False
    return packets, costs


def main():
    binary, record = sys.argv[1:3]
    kept = json.load(open(record)) if os.path.exists(record) else {}
    bad = 0
    print("1..2")
    for i, side in enumerate(("tx", "rx"), 1):
        few, many = measure(binary, side, 20), measure(binary, side, 220)
        packets = many[0] - few[0]  # what opening and connecting cost cancels out
        total = crc = 0
        table = []
        for fn, cost in many[1].items():
            cost -= few[1].get(fn, 0)
            if fn in DIGEST:
                crc += cost
            elif re.search(r"mem(cpy|move|pcpy)|^wire_", fn):
                continue
            else:
                total += cost
                table.append((cost / packets, fn))
        each = total / packets
        for cost, fn in sorted(table, reverse=True)[:int(os.environ.get('COST_LINES', 0))]:
            print(f"# {side} {cost:7.1f} {fn}")
        was = kept.get(side)
        good = each <= LIMIT and was is not None and each <= SLACK * was
        print(f"# {side}: {each:.0f} instructions a DATA packet (recorded {was}, limit {LIMIT}), "
              f"and {crc / packets:.0f} of the digest; {packets} packets")
        print(f"{'ok' if good or '--record' in sys.argv else 'not ok'} {i} - cost of a DATA packet, {side}")
        bad += not good
        kept[side] = round(each)
    if "--record" in sys.argv:
        json.dump(kept, open(record, "w"), indent=1)
        open(record, "a").write("\n")
        return 0
    return bad > 0


sys.exit(main())
