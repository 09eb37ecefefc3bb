#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""comments.py [--mend] [--shrink]: what a formatter that reflows comments once did to ours, and must not come again:
a closing */ alone below a comment of one line, and a row of a table or list whose rest lies outdented on the next line.
What is known is in comments.txt, which may only shrink. --mend puts the closing */ back; rows are for an editor: give
the rest of a row its row's indent, or a blank line before it where a new paragraph begins."""
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import known  # noqa: E402

COLUMNS = 100
LIST = "tests/lint/comments.txt"


def alone(above, line):
    """line is a */ that belongs at the end of above, the only line of its comment."""
    return line.strip() == "*/" and "/*" in above and "*/" not in above[above.rindex("/*"):] and above.strip() not in ("/*", "/**")


def outdented(above, line):
    """line goes on with the row above, which is indented in its comment and nearly full, at the comment's own indent."""
    row = re.match(r"( *)(?:/\*|\*)  +\S", above)
    rest = re.match(r"( *)\* (?!\S+  )[^\s*]", line)  # "word   text" is the next row
    return bool(row and rest and row[1] == rest[1] and len(above) > COLUMNS - 15)


def closed(above):
    """The comment with its end, in as few lines as it takes; None: for an editor."""
    if len(above) + 3 <= COLUMNS:
        return [above + " */"]
    if re.search(r"-{4,}$", above):
        return [above[:COLUMNS - 3].rstrip() + " */"]
    indent = re.match(r"( *)/\* ", above)
    if indent is None:
        return None
    head, tail, last = above.rsplit(" ", 2)
    return [head, "%s * %s %s */" % (indent[1], tail, last)]


def mend(lines):
    out = []
    for line in lines:
        made = closed(out[-1]) if out and alone(out[-1], line) else None
        if made is None:
            out.append(line)
        else:
            out[-1:] = made
    return out


def faults(path, lines):
    pairs = list(zip(lines, lines[1:]))
    return ["%s end %s" % (path, " ".join(above.split())[:60].strip()) for above, line in pairs if alone(above, line)] + \
        ["%s row %s" % (path, " ".join(above.split())[:60].strip()) for above, line in pairs if outdented(above, line)]


def self_test():
    section = "/* --- puts " + "-" * 86
    assert mend([section, " */", "x"]) == [section[:97] + " */", "x"] and len(section[:97] + " */") == COLUMNS
    long = "    /* " + "word " * 18 + "ends."
    assert mend([long, "     */"]) == ["    /* " + "word " * 16 + "word", "     * word ends. */"]
    assert faults("x.c", [section, " */"]) and not faults("x.c", mend([section, " */"]))
    row = " *  1. Messages of a connection arrive once, whole, in order. Puts arrive once, whole, in any"
    assert faults("x.c", [row, " * order, also relative to messages."]) == ["x.c row " + " ".join(row.split())[:60].strip()]
    assert not faults("x.c", [row, " *     order, also relative to messages."])
    assert not faults("x.c", [row, " *", " * A paragraph."]) and not faults("x.c", [row, " * memory   none"])
    assert not faults("x.c", ["/*", " * A comment.", " */"]) and not faults("x.c", ["/* One line.", " * Another. */"])


def main(argv):
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
    self_test()
    found = []
    for path in subprocess.check_output(["git", "ls-files", "*.c", "*.h", "*.cu"], text=True).splitlines():
        lines = open(path, encoding="utf8").read().split("\n")
        if "--mend" in argv and mend(lines) != lines:
            lines = mend(lines)
            open(path, "w", encoding="utf8").write("\n".join(lines))
        found += faults(path, lines)
    return known.hold("a comment that a formatter tore", LIST, found, "--shrink" in argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
