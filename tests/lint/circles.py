#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""circles.py BUILD [--shrink]: no circles of calls between the files of one folder.

A file uses another one of its folder if its object needs a symbol that the other's defines (nm). Files that use each
other in a circle must be one of those in circles.txt, which may only shrink. First the lint is tried on a planted circle
and on two files without one."""
import json
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import known  # noqa: E402

FOLDERS = ["kvwire", "compress", "engine", "net/loop", "net/packet", "net/port", "net/queues", "net/verbs", "perf/kvperf", "perf/cluster"]
OPTIONAL = {"net/verbs", "compress"}  # not in every build, or with objects that only one CPU has


def objects(root, build):
    """{source, from the root: its object}, of the library's and the engine's objects."""
    found = {}
    for entry in json.load(open(os.path.join(build, "compile_commands.json"))):
        source = os.path.relpath(os.path.join(entry["directory"], entry["file"]), root)
        if entry["output"].startswith("tests/") or source.startswith(".."):
            continue
        found[source] = os.path.join(entry["directory"], entry["output"])
    return found


def symbols(path):
    """The global symbols that an object defines, and those that it needs."""
    defined, needed = set(), set()
    for line in subprocess.check_output(["nm", "-g", path], text=True).splitlines():
        kind, name = line.split()[-2:]
        (needed if kind in "Uwv" else defined).add(name)
    return defined, needed


def arrows(files):
    """{file: the files whose symbols it needs}"""
    table = {source: symbols(path) for source, path in files.items()}
    owner = {name: source for source, (defined, _) in table.items() for name in defined}
    return {s: {owner[n] for n in needed if n in owner} - {s} for s, (_, needed) in table.items()}


def reach(graph, start):
    seen, todo = set(), [start]
    while todo:
        for nxt in graph[todo.pop()] - seen:
            seen.add(nxt)
            todo.append(nxt)
    return seen


def circles(graph):
    """Sets of two or more files each of which leads to every other one."""
    far = {source: reach(graph, source) for source in graph}
    found = {frozenset(t for t in far[s] if s in far[t]) for s in graph}
    return sorted((sorted(c) for c in found if c), key=lambda c: (-len(c), c))


def of_folder(files, folder):
    inside = {s: path for s, path in files.items() if s.startswith(folder + "/")}
    missing = [s for s, path in inside.items() if not os.path.exists(path)]
    if missing or not (inside or folder in OPTIONAL):
        sys.exit("%s: no objects of %s" % (folder, ", ".join(missing) or "it"))
    return inside


def lines(root, build, folders):
    files = objects(root, build)
    out = []
    for folder in folders:
        for circle in circles(arrows(of_folder(files, folder))):
            out.append("%s: %s" % (folder, " ".join(s[len(folder) + 1:] for s in circle)))
    return out


def part_of(new, old):
    """Lines of lines(): the same folder, and fewer of the same files."""
    return set(new.split()) < set(old.split()) and new.split()[0] == old.split()[0]


def self_test():
    """A planted circle is found, over two folders deep; a planted arrow isn't one."""
    with tempfile.TemporaryDirectory() as root:
        texts = {"kvwire/kv/a.c": "int b(void); int a(void); int a(void) { return b(); }",
                 "kvwire/peer/b.c": "int c(void); int b(void); int b(void) { return c(); }",
                 "kvwire/c.c": "int a(void); int c(void); int c(void) { return a(); }",
                 "kvwire/d.c": "int a(void); int d(void); int d(void) { return a(); }"}
        entries = []
        for source, text in texts.items():
            os.makedirs(os.path.join(root, os.path.dirname(source)), exist_ok=True)
            open(os.path.join(root, source), "w").write(text)
            output = source.replace("/", "_") + ".o"
            subprocess.check_call([os.environ.get("CC", "cc"), "-c", source, "-o", output], cwd=root)
            entries.append({"directory": root, "file": source, "output": output})
        path = os.path.join(root, "compile_commands.json")
        json.dump(entries, open(path, "w"))
        all_of_them = lines(root, root, ["kvwire"])
        json.dump([e for e in entries if e["file"] != "kvwire/c.c"], open(path, "w"))
        without = lines(root, root, ["kvwire"])
    assert all_of_them == ["kvwire: c.c kv/a.c peer/b.c"], all_of_them
    assert without == [], without


def main(argv):
    shrink = "--shrink" in argv
    build = os.path.abspath(([a for a in argv[1:] if not a.startswith("-")] or ["build"])[0])
    root = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
    os.chdir(root)
    self_test()
    listed = os.path.relpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "circles.txt"), root)
    return known.hold("a circle of calls", listed, lines(root, build, FOLDERS), shrink, part_of)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
