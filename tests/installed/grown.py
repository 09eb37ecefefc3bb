#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""grown.py BUILD TO: the library as it may be one day, built from a copy of the tree in which every public struct that may
grow has new fields at its end: TO/lib/libkvwire.so.0, and its headers, TO/include/kvwire. TO/middle/kvwire has headers with a
field in the middle of one struct instead, as they must never be. run.sh runs programs of today on it, and its on today's."""
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HEADERS = ("core.h", "core_batch.h", "core_stage.h", "core_types.h", "mem.h", "node.h", "pool.h")
# Elements of arrays whose size the caller tells beside them.
ELEMENTS = {"kvw_batch_piece", "kvw_group_blocks", "kvw_plane", "kvw_part_desc", "kvw_group_desc", "kvw_mem", "kvw_node_path"}
LATER = "    uint64_t later[3]; /* a field of one day */\n"


def grow(folder):
    """Each struct whose first field is its size, and each element: longer. Returns their names."""
    found = []

    def longer(m):
        if m[1] not in ELEMENTS and not re.match(r"\s*uint32_t size;", m[2]):
            return m[0]
        found.append(m[1])
        return "struct %s {%s%s};" % (m[1], m[2], LATER)

    for name in HEADERS:
        path = os.path.join(folder, name)
        with open(path, encoding="utf-8") as f:
            text = f.read()
        with open(path, "w", encoding="utf-8") as f:
            f.write(re.sub(r"struct (kvw_\w+) \{(.*?\n)\};", longer, text, flags=re.S))
    return found


def run(command, folder):
    done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit("grown.py: %s\n%s" % (command[:300], done.stderr[-2000:]))


def build_library(build, copy):
    """Ninja's own commands for the library, in the copy, without optimization."""
    listed = subprocess.run(["ninja", "-C", build, "-t", "targets", "all"], capture_output=True, text=True, check=True).stdout
    target = re.search(r"^(libkvwire\.so\.\d+\.\d+\.\d+): c_LINKER", listed, re.M)[1]
    listed = subprocess.run(["ninja", "-C", build, "-t", "commands", target], capture_output=True, text=True, check=True).stdout
    compile_, rest = [], []
    for line in listed.splitlines():
        if " -c " in line:
            line = re.sub(r" -O3 -g | -O2 -g | -g -O[23] ", " -O0 ", line)
            compile_.append(re.sub(r" -isystem(?=\S)| -isystem ", " -isystem ", line))
        elif re.match(r"(ccache )?(\S*cc|\S*clang|rm |\S*ar )", line):
            rest.append(line)
    for line in compile_ + rest:
        for name in re.findall(r" -o (\S+)", line):
            os.makedirs(os.path.dirname(os.path.join(copy, name)) or copy, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda line: run(line, copy), compile_))
    for line in rest:
        run(line, copy)
    return os.path.join(copy, target)


def main():
    build, to = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    tree, copy = os.path.join(to, "tree"), os.path.join(to, "tree", "build")
    os.makedirs(copy)
    for name in ("kvwire", "net", "compress"):
        shutil.copytree(os.path.join(ROOT, name), os.path.join(tree, name))
    for inside in ("", "kvwire", "net", "compress"):  # what the build has written
        for name in os.listdir(os.path.join(build, inside)):
            if name.endswith((".c", ".h")):
                os.makedirs(os.path.join(copy, inside), exist_ok=True)
                shutil.copy(os.path.join(build, inside, name), os.path.join(copy, inside))
    os.makedirs(os.path.join(to, "include"))
    shutil.copytree(os.path.join(tree, "kvwire"), os.path.join(to, "middle", "kvwire"), ignore=lambda d, n: [
        x for x in n if not x.endswith(".h")])
    path = os.path.join(to, "middle", "kvwire", "node.h")
    with open(path, encoding="utf-8") as f:
        text = f.read()
    with open(path, "w", encoding="utf-8") as f:
        f.write(text.replace("    const char *transport;", LATER + "    const char *transport;", 1))
    found = grow(os.path.join(tree, "kvwire"))
    if len(found) < 15 or not ELEMENTS <= set(found):
        sys.exit("grown.py: only %s have grown" % ", ".join(found))
    shutil.copytree(os.path.join(tree, "kvwire"), os.path.join(to, "include", "kvwire"), ignore=lambda d, n: [
        x for x in n if not x.endswith(".h")])
    os.makedirs(os.path.join(to, "lib"))
    shutil.copy(build_library(build, copy), os.path.join(to, "lib", "libkvwire.so.0"))
    os.symlink("libkvwire.so.0", os.path.join(to, "lib", "libkvwire.so"))
    print("%d structs have grown: %s" % (len(found), ", ".join(sorted(found))))


if __name__ == "__main__":
    main()
