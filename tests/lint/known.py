# SPDX-License-Identifier: Apache-2.0
"""Lists of what a lint already knows: they may only shrink.

A list is a text file of lines "KEY[  # why]". A finding that isn't in it is an error, and so is a line that is found
no more. --shrink takes such lines out, or puts what is left of them in their place; nothing adds a line but an editor,
with a reason."""
import sys


def read(path):
    """{key: its whole line}, without comments and blank lines."""
    lines = [line.rstrip("\n") for line in open(path, encoding="utf8")]
    return {line.split("  #")[0].strip(): line for line in lines if line.strip() and not line.startswith("#")}


def rewrite(path, gone, smaller):
    """Each line of a key in gone becomes those of smaller that came of it, or nothing."""
    listed, out = read(path), []
    for line in open(path, encoding="utf8").read().split("\n"):
        key = next((k for k in gone if listed[k] == line), None)
        out += [line] if key is None else [line.replace(key, k) for k, old in smaller.items() if old == key]
    open(path, "w", encoding="utf8").write("\n".join(out))


def hold(what, path, found, shrink, part_of=lambda new, old: False):
    """Compares what was found with the list; part_of(new, old): new is what is left of old. Prints what is wrong and
    returns whether something was."""
    listed = read(path)
    gone = [key for key in listed if key not in found]
    new = [key for key in found if key not in listed]
    smaller = {key: old for key in new for old in gone if part_of(key, old)}
    new = [key for key in new if key not in smaller]
    if new:
        print("%s, and not in %s:" % (what, path))
        print("\n".join("  " + key for key in new))
    if gone and shrink:
        rewrite(path, gone, smaller)
    elif gone:
        print("%s lists what is no more (%s --shrink mends that):" % (path, sys.argv[0]))
        print("\n".join("  " + key for key in gone))
    return bool(new or gone and not shrink)
