#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""shape.py [--shrink]: what clang-format doesn't hold: no line of C is wider than 100 columns, in comments either; no
function has more than 6 parameters, but those of parameters.txt; every .c begins with a comment that says what it is,
after its SPDX line, but those of openings.txt. Both lists may only shrink."""
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import known  # noqa: E402

COLUMNS, PARAMETERS = 100, 6
HERE = "tests/lint/"
# What looks like a function before a brace and isn't.
WORDS = {"if", "for", "while", "switch", "return", "sizeof", "__attribute__"}


def wide(path, text):
    return ["%s:%d: %d columns" % (path, n, len(line)) for n, line in enumerate(text.split("\n"), 1) if len(line) > COLUMNS]


def bare(text):
    """Without comments, strings, and preprocessor lines."""
    text = re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', " 0 ", text, flags=re.S)
    return re.sub(r"(?m)^[ \t]*#(?:[^\n\\]|\\.|\\\n)*", "", text)


def count(inside):
    """Parameters between two parentheses: commas that are in no parentheses of their own."""
    depth, commas = 0, 0
    for c in inside:
        depth += (c in "([{") - (c in ")]}")
        commas += c == "," and depth == 0
    return commas + 1 if inside.strip() not in ("", "void") else 0


def functions(text):
    """(name, parameters) of each function that is defined in text."""
    text = bare(text)
    found, pos = [], 0
    head = re.compile(r"\b([A-Za-z_]\w*)\s*\(")
    while True:
        m = head.search(text, pos)
        if m is None:
            return found
        depth, end = 1, m.end()
        while depth and end < len(text):
            depth += (text[end] == "(") - (text[end] == ")")
            end += 1
        body = re.match(r"\s*(?:__attribute__\s*\(\(.*?\)\)\s*)*\{", text[end:])
        pos = m.end()
        if body and m[1] not in WORDS:
            found.append((m[1], count(text[m.end():end - 1])))


def many(path, text):
    return ["%s %s %d" % (path, name, n) for name, n in functions(text) if n > PARAMETERS]


def opens(text):
    return re.match(r"/\* SPDX[^\n]*\*/\s*/\*(?!\s*-+\s)", text) is not None


def self_test():
    seven = "static int f(int a, int b, int (*c)(int, int), int d,\n             int e, int g, int h)\n{\n    return g2(1,2,3,4,5,6,7);\n}\n"
    assert many("x.c", seven) == ["x.c f 7"], many("x.c", seven)
    assert many("x.c", seven.replace(", int h", "")) == []
    assert many("x.c", seven.replace("{", ";", 1).replace("}", "")) == [], "a declaration isn't a definition"
    assert wide("x.h", "/* " + "a" * 98) and not wide("x.h", "a" * 100)
    assert opens("/* SPDX-License-Identifier: Apache-2.0 */\n/* What it is. */\n#include <a.h>\n")
    assert not opens("/* SPDX-License-Identifier: Apache-2.0 */\n#include <a.h>\n\n/* Later. */\n")


def main(argv):
    shrink = "--shrink" in argv
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
    self_test()
    lines, lists, closed = [], [], []
    for path in subprocess.check_output(["git", "ls-files", "*.c", "*.h", "*.cu"], text=True).splitlines():
        text = open(path, encoding="utf8").read()
        lines += wide(path, text)
        lists += many(path, text)
        closed += [path] if path.endswith(".c") and not opens(text) else []
    if lines:
        print("wider than %d columns:\n%s" % (COLUMNS, "\n".join(lines)))
    bad = known.hold("more than %d parameters" % PARAMETERS, HERE + "parameters.txt", lists, shrink)
    bad |= known.hold("no opening comment", HERE + "openings.txt", closed, shrink)
    return bad or bool(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
