#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""abi.py: the structs of kvwire/python/kvwire/_abi.py are those of the headers: sizes, and every field's offset and
size, by a C program that is made of the declarations. Its exit status says so; the control, a struct with a field
moved, is run by suite.py."""
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def program(ffi):
    lines = ["#include <stdio.h>", "#include <stddef.h>", '#include "kvwire/node.h"', "int main(void) {"]
    for name in sorted(ffi.list_types()[1]):
        kind = ffi.typeof("struct " + name)
        if kind.fields is None:  # opaque
            continue
        lines.append('printf("%s %%zu\\n", sizeof(struct %s));' % (name, name))
        for field, _ in kind.fields:
            lines.append('printf("%s.%s %%zu %%zu\\n", offsetof(struct %s, %s), sizeof(((struct %s *)0)->%s));'
                         % (name, field, name, field, name, field))
    return "\n".join(lines + ["return 0;", "}", ""])


def here(ffi):
    said = []
    for name in sorted(ffi.list_types()[1]):
        kind = ffi.typeof("struct " + name)
        if kind.fields is None:
            continue
        said.append("%s %d" % (name, ffi.sizeof(kind)))
        for field, f in kind.fields:
            said.append("%s.%s %d %d" % (name, field, f.offset, ffi.sizeof(f.type)))
    return said


def differences(ffi):
    with tempfile.TemporaryDirectory() as folder:
        source, binary = os.path.join(folder, "abi.c"), os.path.join(folder, "abi")
        with open(source, "w", encoding="utf8") as f:
            f.write(program(ffi))
        subprocess.run([os.environ.get("CC", "cc"), "-std=gnu11", "-I", ROOT, source, "-o", binary], check=True)
        theirs = subprocess.run([binary], check=True, capture_output=True, text=True).stdout.split("\n")[:-1]
    mine = here(ffi)
    return ["the package: %s; the headers: %s" % pair for pair in zip(mine, theirs) if pair[0] != pair[1]]


if __name__ == "__main__":
    from kvwire._abi import ffi as the_package

    found = differences(the_package)
    print("\n".join(found) or "every offset as in the headers")
    sys.exit(bool(found))
