#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Apply committed mutations one by one to a copy of the tree and say which test kills each.

A mutation is an entry of tests/mutations/*.txt. Entries are separated by a blank line; lines that
begin with # between entries are comments; a field goes on in lines that begin with a blank:

    name: short-name              one name, once in all files
    file: engine/sample.c
    why: what the fault would mean, in a sentence
    test: engine test_sample, tests/e2e/kill.py udp
    build: engine/kvserve (what its scripts need; without the field all is built)
    equivalent: why no test can see it (only where that is so)
    --- old
        while (edge + 1 < BINS && in + bins[edge] < wanted)
    +++ new
        while (edge + 1 < BINS && in + bins[edge] <= wanted)
    ===

The lines under --- old are there exactly once in the file, else the entry is wrong: --list says so
of the tree as it is, and its exit status is 1. A name under test: is one that `meson test --list`
prints, with or without its suite, or a script of the tree with its arguments; without the field all
of unit, conformance and sim run. `test_exact --filter exact/@(books|wrong*)` runs those cases only,
for a test that takes long. The same tests run on the copy without a mutation first: one that fails
there says nothing about mutations.

A mutation is killed when a test fails or crashes, twice in a row, or doesn't end in time (five
times the time that the tests took without a mutation, at least 60 s) while it does without the
mutation: else it isn't judged, as a test may fail because the machine is busy. The exit
status is 0 when every mutation was killed but those marked equivalent, which must survive.
"""

import argparse
import datetime
import fcntl
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
HOME = os.path.join(ROOT, "tests", "mutations")
SUITES = ("unit", "conformance", "sim")
FIELDS = ("name", "file", "why", "test", "build", "equivalent")
ENDED = ("OK", "SKIP", "EXPECTEDFAIL")  # meson's results of a test that didn't fail
FILTER = " --filter "
LIMIT_FACTOR, LIMIT_LEAST_S = 5, 60
LATE = "not at its end after"


def die(text):
    sys.exit("mutate: " + text)


# ---- entries


def parse(path):
    """The entries of one file, as dictionaries with the fields, old and new."""
    entries, entry, part, field = [], None, None, None
    short = os.path.basename(path)
    with open(path, encoding="utf-8") as f:
        lines = f.read().split("\n")
    for number, line in enumerate(lines, 1):
        where = f"{short}:{number}"
        if part == "new" and line == "===":
            entries.append(entry)
            entry, part, field = None, None, None
        elif part == "old" and line == "+++ new":
            part = "new"
        elif part:
            entry[part].append(line)
        elif not line.strip() or (entry is None and line.startswith("#")):
            if entry is not None:
                die(f"{where}: a blank line inside of an entry, before its --- old")
        elif line == "--- old":
            part = "old"
        elif line[0] in " \t" and field:
            entry[field] += " " + line.strip()
        else:
            field, colon, value = line.partition(":")
            if not colon or field not in FIELDS:
                die(f"{where}: \"{line}\" is none of {', '.join(f + ':' for f in FIELDS)} --- old")
            entry = entry or {"old": [], "new": [], "at": where, "from": short}
            entry[field] = value.strip()
    if entry is not None:
        die(f"{short}: the last entry doesn't end in ===")
    for entry in entries:
        for need in ("name", "file", "why"):
            if not entry.get(need):
                die(f"{entry['at']}: no {need}:")
        if not entry["old"]:
            die(f"{entry['at']}: nothing under --- old")
        if entry["old"] == entry["new"]:
            die(f"{entry['at']}: old and new are the same")
    return entries


def read_all(only_files, only_names):
    files = sorted(f for f in os.listdir(HOME) if f.endswith(".txt"))
    only_files = [os.path.basename(f) for f in only_files]
    for f in only_files:
        if f not in files:
            die(f"no {f} in tests/mutations; there are: {', '.join(files)}")
    entries = [e for f in files for e in parse(os.path.join(HOME, f))]
    seen = {}
    for e in entries:
        if e["name"] in seen:
            die(f"{e['at']}: the name {e['name']} is taken by {seen[e['name']]}")
        seen[e["name"]] = e["at"]
    for name in only_names:
        if name not in seen:
            die(f"no mutation is named {name}")
    return [e for e in entries
            if (not only_files or e["from"] in only_files)
            and (not only_names or e["name"] in only_names)]


# ---- the copy


def write_if_other(path, data):
    try:
        with open(path, "rb") as f:
            if f.read() == data:
                return
    except OSError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(data)


def copy_tree(to):
    """What git tracks or would add, as it lies here; unchanged files keep their times."""
    names = subprocess.run(["git", "-C", ROOT, "ls-files", "-coz", "--exclude-standard"],
                           check=True, capture_output=True).stdout.decode().split("\0")
    for name in filter(None, names):
        source, target = os.path.join(ROOT, name), os.path.join(to, name)
        if os.path.islink(source) or not os.path.isfile(source):
            continue
        with open(source, "rb") as f:
            write_if_other(target, f.read())
        shutil.copymode(source, target)


class Tree:
    """The copy, its build folder build/, and the tests that can run in it."""

    def __init__(self, folder):
        self.dir = folder
        self.build = os.path.join(folder, "build")
        # The copy's folder isn't part of what the compiler's cache looks up.
        self.env = dict(os.environ, CCACHE_NOHASHDIR="1", CCACHE_BASEDIR=folder)
        copy_tree(folder)
        if not os.path.exists(os.path.join(self.build, "build.ninja")):
            self.must("meson", "setup", "build", "-Dtests=enabled")
        self.must("ninja", "-C", "build", "build.ninja")
        listed = json.loads(self.must("meson", "introspect", "--tests", "build"))
        self.tests = {t["name"]: t for t in listed}
        self.files = {t["id"]: [os.path.relpath(f, self.build) for f in t["filename"]]
                      for t in json.loads(self.must("meson", "introspect", "--targets", "build"))}

    def must(self, *command):
        done = subprocess.run(command, cwd=self.dir, env=self.env, text=True, capture_output=True)
        if done.returncode != 0:
            die(f"{' '.join(command)} fails on the copy without a mutation:\n"
                + (done.stdout + done.stderr)[-4000:])
        return done.stdout

    def resolve(self, entry):
        """The names of meson's tests, some with a filter behind, and the scripts that judge it."""
        wanted = []
        for t in (t.strip() for t in entry.get("test", "").split(",") if t.strip()):
            if wanted and wanted[-1] + ", " + t in self.tests:  # a name with a comma in it
                wanted[-1] += ", " + t
            else:
                wanted.append(t)
        meson, scripts = [], []
        for t in wanted:
            name = t.split(" / ", 1)[-1]
            if name.split(FILTER)[0] in self.tests:
                meson.append(name)
            elif os.path.isfile(os.path.join(self.dir, t.split()[0])):
                scripts.append(t)
            else:
                die(f"{entry['at']}: there is no test \"{t}\"")
        if not wanted:
            meson = [n for n, t in self.tests.items()
                     if any(s.split(":")[-1] in SUITES for s in t["suite"])]
        return meson, scripts

    def make(self, meson, scripts, wanted):
        """Build what these tests need; the compiler's words when it fails, else None."""
        targets = list(wanted)
        if wanted or not scripts:
            for name in meson:
                for target in self.tests[name.split(FILTER)[0]]["depends"]:
                    targets += self.files[target]
        done = subprocess.run(["ninja", "-C", self.build, *sorted(set(targets))], env=self.env,
                              text=True, capture_output=True)
        return None if done.returncode == 0 else done.stdout + done.stderr

    def call(self, command, limit):
        """Run it in its own process group; (exit status, seconds), status None: out of time."""
        start = time.monotonic()
        with open(os.path.join(self.dir, "build", "mutate.log"), "wb") as log:
            p = subprocess.Popen(command, cwd=self.dir, env=self.env, stdout=log,
                                 stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                 start_new_session=True)
            try:
                status = p.wait(limit)
            except subprocess.TimeoutExpired:
                status = None
                os.killpg(p.pid, signal.SIGTERM)  # meson ends its tests
                try:
                    p.wait(10)
                except subprocess.TimeoutExpired:
                    os.killpg(p.pid, signal.SIGKILL)
                    p.wait()
        return status, time.monotonic() - start

    def judge(self, meson, scripts, limit=None):
        """Run the tests; (what failed or None, seconds)."""
        spent = 0.0
        # All tests without a filter in one call, and one call for each of the others.
        calls = [[n] for n in meson if FILTER in n]
        if len(calls) < len(meson):
            calls.insert(0, [n for n in meson if FILTER not in n])
        for names in calls:
            logs = os.path.join(self.build, "meson-logs")
            for log in ("testlog.junit.xml", "testlog.json"):
                if os.path.exists(os.path.join(logs, log)):
                    os.unlink(os.path.join(logs, log))
            command = ["meson", "test", "-C", "build", "--no-rebuild", "--maxfail", "1"]
            name, _, cases = names[0].partition(FILTER)
            if cases:
                command += ["--test-args", shlex.join([FILTER.strip(), cases])]
                names = [name]
            status, seconds = self.call([*command, *names], limit and max(1, limit - spent))
            spent += seconds
            if status is None:
                return f"{self.unfinished(names)}: {LATE} {seconds:.0f} s", spent
            if status != 0:
                return self.failed(logs), spent
        for script in scripts:
            words = script.split()
            run = ["python3"] if words[0].endswith(".py") else []
            status, seconds = self.call([*run, os.path.join(self.dir, words[0]), *words[1:]],
                                        limit and max(1, limit - spent))
            spent += seconds
            if status is None:
                return f"{script}: {LATE} {seconds:.0f} s", spent
            if status != 0:
                return self.failed_script(script), spent
        return None, spent

    def unfinished(self, meson):
        ended = {r["name"].split(" / ", 1)[-1] for r in self.results() if r["result"] in ENDED}
        left = [n for n in meson if n not in ended]
        return ", ".join(left) if len(left) < 4 else f"{len(left)} tests"

    def results(self):
        try:
            with open(os.path.join(self.build, "meson-logs", "testlog.json"), encoding="utf-8") as f:
                return [json.loads(line) for line in f]
        except OSError:
            return []

    def failed(self, logs):
        """The first test that failed, and the cases in it."""
        test = next((f"{r['name'].split(' / ', 1)[-1]} ({r['result']})" for r in self.results()
                     if r["result"] not in ENDED), "meson test")
        cases = []
        try:
            for case in ElementTree.parse(os.path.join(logs, "testlog.junit.xml")).iter("testcase"):
                if {c.tag for c in case} & {"failure", "error"}:
                    cases.append(re.sub(r"^\d+ - |\s*\([\d.]+s\)$", "", case.get("name")))
        except (OSError, ElementTree.ParseError):
            pass
        test = test.replace(" (FAIL)", "")
        test = test.replace(" (ERROR)", "" if cases else ": a crash").replace(" (TIMEOUT)", ": meson's time-out")
        if cases and cases[0] not in test:
            more = f" and {len(cases) - 1} more" if len(cases) > 1 else ""
            test += f": {cases[0]}{more}"
        return test

    def failed_script(self, script):
        with open(os.path.join(self.dir, "build", "mutate.log"), errors="replace") as f:
            bad = [line.strip() for line in f if line.startswith("not ok")]
        return f"{script}: {bad[0][:80]}" if bad else script


# ---- one mutation


def apply(folder, entry):
    """(the file's text, its text with the mutation, None), or None, None and why not."""
    try:
        with open(os.path.join(folder, entry["file"]), encoding="utf-8") as f:
            text = f.read()
    except OSError:
        return None, None, f"there is no {entry['file']}"
    old, new = "\n".join(entry["old"]) + "\n", "\n".join(entry["new"] + [""])
    count = ("\n" + text).count("\n" + old)
    if count != 1:
        return None, None, f"the old lines are there {count} times"
    at = ("\n" + text).index("\n" + old)
    return text, text[:at] + new + text[at + len(old):], None


def mutate(tree, entry, meson, scripts, limit):
    """(verdict, what to say): killed, survived, doesn't apply, doesn't compile."""
    path = os.path.join(tree.dir, entry["file"])
    text, mutated, why = apply(tree.dir, entry)
    if why:
        return "does not apply", why
    try:
        with open(path, "w", encoding="utf-8") as f:
            f.write(mutated)
        words = tree.make(meson, scripts, entry.get("build", "").split())
        if words is not None:
            errors = [line for line in words.split("\n") if "error" in line]
            return "does not compile", (errors or [words[-200:]])[0].strip()[:160]
        failed, _ = tree.judge(meson, scripts, limit)
        if not failed:
            return "SURVIVED", ""
        if LATE not in failed and not tree.judge(meson, scripts, limit)[0]:
            return "not judged", f"it failed once of twice: {failed}"
        return "killed", failed
    finally:
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)


def good(entry, verdict):
    return verdict == ("SURVIVED" if entry.get("equivalent") else "killed")


def run(tree, entries, show, keep):
    plans, limits, broken = {}, {}, {}
    for e in entries:
        plans[e["name"]] = tree.resolve(e)
    rows = []
    for e in entries:
        meson, scripts = plans[e["name"]]
        key = (tuple(meson), tuple(scripts))
        if key not in limits:  # the same tests without a mutation
            words = tree.make(meson, scripts, e.get("build", "").split())
            if words is not None:
                die("the copy without a mutation doesn't compile:\n" + words[-4000:])
            broken[key], seconds = tree.judge(meson, scripts)
            limits[key] = max(LIMIT_LEAST_S, LIMIT_FACTOR * seconds)
        if broken[key]:
            verdict, text = "not judged", f"fails without a mutation: {broken[key]}"
        else:
            verdict, text = mutate(tree, e, meson, scripts, limits[key])
            if verdict == "killed" and LATE in text:  # or is it the machine that is busy?
                tree.make(meson, scripts, e.get("build", "").split())
                slow, _ = tree.judge(meson, scripts, limits[key])
                verdict, text = ("not judged", f"late without it, too: {slow}") if slow \
                    else (verdict, text)
        rows.append((e, verdict, text))
        show(e, verdict, text)
        keep(rows)
    return rows


# ---- what is said


def say(entry, verdict, text):
    if entry.get("equivalent"):
        verdict = "equivalent" if verdict == "SURVIVED" else f"{verdict}, but marked equivalent"
    mark = "ok    " if verdict in ("killed", "equivalent") else "not ok"
    print(f"{mark} {entry['name']}: {verdict}{', ' + text if text else ''}", flush=True)


def machine():
    """The CPU's name, for the table."""
    name = platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            names = [line.split(":", 1)[1].strip() for line in f if line.startswith("model name")]
        name = names[0] if names else name
    except OSError:
        pass
    return f"{len(os.sched_getaffinity(0))} cores of {name}"


def count(sections):
    """The lines of a table: of each folder how many were killed, equivalent, and so on."""
    counts = {}
    for section in sections:
        for line in section.split("\n"):
            cells = [c.strip() for c in re.split(r"(?<!\\)\|", line)]
            if len(cells) != 6 or not cells[2].startswith("`"):
                continue
            verdict = cells[4].split(":")[0]
            column = {"killed": 0, "equivalent": 1, "SURVIVED": 2}.get(verdict, 3)
            for folder in (os.path.dirname(cells[2].strip("`")), "all"):
                counts.setdefault(folder, [0, 0, 0, 0])[column] += 1
    return [f"| {'all' if f == 'all' else f'`{f}/`'} | {k} | {e} | {s} | {n} |"
            for f, (k, e, s, n) in sorted(counts.items(), key=lambda c: (c[0] == "all", c[0]))]


def read_table(path):
    """The lines of an earlier table, by the mutation's name, and each file's "Run on" line."""
    lines, runs, name = {}, {}, None
    if os.path.exists(path):
        with open(path, encoding="utf-8") as f:
            for line in f.read().split("\n"):
                if line.startswith("## "):
                    name = line[3:]
                elif line.startswith("Last run "):
                    runs[name] = line
                elif name and line.startswith("| "):
                    lines[line.split(" ")[1]] = line
    return lines, runs


def judged(path):
    """The names of the mutations that an earlier table calls killed or equivalent."""
    cells = {n: re.split(r"(?<!\\)\|", line) for n, line in read_table(path)[0].items()}
    return {n for n, c in cells.items()
            if len(c) == 6 and c[4].strip().split(":")[0] in ("killed", "equivalent")}


def table(path, rows):
    """Each .txt has a section. What was not run now stays as it was, and else says "not run"."""
    with open(__file__, encoding="utf-8") as lock:  # two runs may share a table
        fcntl.flock(lock, fcntl.LOCK_EX)
        write_table(path, rows)


def write_table(path, rows):
    lines, runs = read_table(path)
    entries = read_all([], [])
    for e, verdict, text in rows:
        if e.get("equivalent") and verdict == "SURVIVED":
            verdict, text = "equivalent", e["equivalent"]
        cells = (e["name"], f"`{e['file']}`", e["why"], f"{verdict}{': ' + text if text else ''}")
        lines[e["name"]] = "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"
        now = sum(r[0]["from"] == e["from"] for r in rows)
        all_there_are = sum(other["from"] == e["from"] for other in entries)
        runs[e["from"]] = (f"Last run on {datetime.date.today()}, {machine()}"
                           + (f": {now} of {all_there_are} lines, the others earlier."
                              if now < all_there_are else "."))
    sections = {}
    for e in entries:
        if e["from"] not in sections:
            sections[e["from"]] = [e["from"], "", runs.get(e["from"], "Not run yet."), "",
                                   "| mutation | file | what it would mean | verdict |",
                                   "|---|---|---|---|"]
        sections[e["from"]].append(
            lines.get(e["name"], f"| {e['name']} | `{e['file']}` | {e['why']} | not run |"))
    sections = ["\n".join(s) for s in sections.values()]
    with open(path, "w", encoding="utf-8") as f:
        f.write("# Mutations and what kills them\n\n"
                "Written by `tests/mutate.sh --table tests/mutations/RESULTS.md`; with `--file X.txt` or\n"
                "`--name N` only those lines are written anew. `tests/mutate.sh --help` has the format of\n"
                "an entry.\n\n"
                "| folder | killed | equivalent | survived | not judged or run |\n|---|---|---|---|---|\n"
                + "\n".join(count(sections)) + "\n")
        for section in sections:
            f.write(f"\n## {section}\n")


def main():
    p = argparse.ArgumentParser(prog="tests/mutate.sh", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--file", metavar="X.txt", action="append", default=[],
                   help="only the mutations of this file; repeat")
    p.add_argument("--name", action="append", default=[], metavar="N", help="only this one; repeat")
    p.add_argument("--missing", action="store_true",
                   help="only those that the table of --table doesn't call killed or equivalent")
    p.add_argument("--list", action="store_true", help="print them and end")
    p.add_argument("--table", metavar="OUT.md", help="write the results' table after each")
    p.add_argument("--dir", metavar="DIR", help="keep the copy and its build there, for next time")
    args = p.parse_args()
    entries = read_all(args.file, args.name)
    if args.missing:
        if not args.table:
            die("--missing needs --table, which says what was judged")
        there = judged(args.table)
        entries = [e for e in entries if e["name"] not in there]
    if args.list:
        wrong = [apply(ROOT, e)[2] for e in entries]
        for e, why in zip(entries, wrong):
            print(f"{e['from']}: {e['name']} ({e['file']}): {e['why']}"
                  + (f" - DOES NOT APPLY: {why}" if why else ""))
        return 1 if any(wrong) else 0
    if not entries:
        die("there is no mutation")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = os.path.abspath(args.dir) if args.dir else tempfile.mkdtemp(prefix="kvwire-mutate-")
    try:
        rows = run(Tree(folder), entries, say,
                   lambda rows: table(args.table, rows) if args.table else None)
    finally:
        if not args.dir:
            shutil.rmtree(folder, ignore_errors=True)
    killed = sum(v == "killed" and not e.get("equivalent") for e, v, _ in rows)
    equivalent = sum(v == "SURVIVED" and bool(e.get("equivalent")) for e, v, _ in rows)
    print(f"{killed} killed, {equivalent} equivalent, {len(rows) - killed - equivalent} not as they "
          f"should be, of {len(rows)}")
    return 0 if all(good(e, v) for e, v, _ in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
