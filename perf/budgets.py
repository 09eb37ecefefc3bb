#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Run rows of budgets.csv; called by run.sh, which says how."""
import csv
import datetime
import os
import platform
import subprocess
import sys
import tempfile

FILE = os.path.join(os.path.dirname(__file__), "budgets.csv")
HISTORY = os.path.join(os.path.dirname(__file__), "history.csv")
TREND = 5  # earlier values that --record shows beside a new one


def cpu():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return "%d x %s" % (os.cpu_count(), line.split(":", 1)[1].strip())
    return "%d x %s" % (os.cpu_count(), platform.machine())


def holds(value, target):
    op, bound = target.split()
    return {">=": value >= float(bound), "<=": value <= float(bound), "<": value < float(bound), ">": value > float(bound)}[op]


def history():
    if not os.path.exists(HISTORY):
        return []
    with open(HISTORY, newline="") as f:
        return list(csv.DictReader(f))


def trend(name, machine, past):
    """The values on this kind of machine, oldest first: another CPU's say nothing about a change of ours."""
    values = [h["value"] for h in past if h["name"] == name and h["machine"] == machine][-TREND:]
    return " -> ".join(values) if values else "none on this machine"


def commit():
    out = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=os.path.dirname(FILE) or ".")
    return out.stdout.strip() or "?"


def keep(row, value, info):
    """Append to the history; a line is never changed or taken away."""
    new = not os.path.exists(HISTORY)
    with open(HISTORY, "a", newline="") as f:
        w = csv.writer(f, lineterminator="\n")
        if new:
            w.writerow(["name", "value", "target", "date", "machine", "commit", "info"])
        w.writerow([row["name"], "%.4g" % value, row["target"], datetime.date.today().isoformat(), cpu(), commit(), info])


def measure(row):
    """The value (None: there was none; a text: SKIP), its limit, and what the command's line INFO said."""
    out = subprocess.run(["bash", "-c", row["command"]], capture_output=True, text=True, timeout=1800)
    info = " ".join(l[5:] for l in out.stdout.splitlines() if l.startswith("INFO "))
    for line in reversed(out.stdout.splitlines()):
        if line.startswith("RESULT "):
            words = line.split()
            return float(words[1]), words[2] if len(words) > 2 else row["limit"], info
        if line.startswith("SKIP "):
            return line, row["limit"], info
    print("%s: no RESULT line (exit %d): %s" % (row["name"], out.returncode, (out.stderr or out.stdout).strip()[-300:]))
    return None, row["limit"], info


def main(argv):
    record = "--record" in argv
    names = [a for a in argv if not a.startswith("--")]
    rows = list(csv.DictReader(open(FILE, newline="")))
    if "--list" in argv:
        for r in rows:
            print("%-34s %s %s" % (r["name"], r["target"], r["unit"]))
        return 0
    unknown = set(names) - {r["name"] for r in rows}
    if unknown:
        print("no such row: %s" % ", ".join(sorted(unknown)))
        return 2
    short = skipped = 0
    print("%-34s %12s %12s %12s  %s" % ("row", "measured", "target", "limit", "unit"))
    for r in rows:
        if names and r["name"] not in names:
            continue
        value, limit, info = measure(r)
        if isinstance(value, str):
            skipped += 1
            print("%-34s %12s %12s %12s  %s" % (r["name"], "SKIPPED", r["target"], limit or "-", value[5:]), flush=True)
            continue
        ok = value is not None and holds(value, r["target"])
        short += not ok
        print("%-34s %12s %12s %12s  %s%s" % (r["name"], "-" if value is None else "%.4g" % value, r["target"], limit or "-", r["unit"], "" if ok else "   FALLS SHORT"), flush=True)
        if info:
            print("%-34s %s, %s" % ("", info, cpu()))
        if record and value is not None:
            print("%-34s before: %s" % ("", trend(r["name"], cpu(), history())))
            keep(r, value, info)
            r.update(last="%.4g" % value, limit=limit, date=datetime.date.today().isoformat(), machine=cpu())
    if record:
        with open(FILE, "w", newline="") as f:
            w = csv.DictWriter(f, rows[0].keys(), lineterminator="\n")
            w.writeheader()
            w.writerows(rows)
    return 1 if short else 77 if skipped else 0


# What one row's command leaves there, another's of the same call may read; it ends with the call, so nothing in it is of an earlier one.
with tempfile.TemporaryDirectory(prefix="kvw-perf-") as folder:
    os.environ["KVW_PERF_RUN"] = folder
    sys.exit(main(sys.argv[1:]))
