#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""man.py FOLDER HEADERS - manual pages of the public headers in the folder HEADERS, made of their comments:
FOLDER/man7/kvwire.7 and a FOLDER/man3/NAME.3 for every function that is KVW_API. meson install calls it with --install before
the two, which lie below the prefix then.

A function's text is the comment before it. Without one it is that of its twin, kvw_core_X for kvw_node_X, or of the function
before it in the same paragraph. A function that has none at all is an error."""
import glob
import os
import re
import sys

FUNCTION = re.compile(r"^KVW_API\s+(.*?\b(kvw_\w+)\s*\(.*?\));", re.S | re.M)
COMMENT = re.compile(r"/\*.*?\*/", re.S)


def plain(comment):
    """A comment's lines without stars; the first and last empty ones go."""
    lines = [re.sub(r"^\s*\* ?", "", line) for line in comment[2:-2].split("\n")]
    lines[0] = lines[0].lstrip(" *-")
    while lines and not lines[0].strip():
        lines.pop(0)
    while lines and not lines[-1].strip():
        lines.pop()
    return [line.rstrip() for line in lines]


def escape(text):
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text[:1] in (".", "'") else text


def body(lines):
    """Prose is filled; what is indented (codes, examples) or a table (word, spaces, text) stays as it is."""
    out, kept = [], False
    for line in lines:
        indented = re.match(r"(\w+)? {2,}", line) is not None
        if not line.strip():
            out += [".fi"] * kept + [".PP"]
            kept = False
            continue
        if indented != kept:
            out.append(".nf" if indented else ".fi")
            kept = indented
        out.append(escape(line))
    return out + [".fi"] * kept


class Call:
    def __init__(self, header, prototype, name, comment, above):
        self.header, self.name, self.text, self.above = header, name, comment, above
        self.prototype = re.sub(r"\s+", " ", prototype.replace("KVW_NODISCARD ", ""))


def calls(header, source):
    """Every function in the order of the header; text: None where no comment is its own."""
    found, end, above = [], 0, None
    for m in FUNCTION.finditer(source):
        between = source[end:m.start()]
        comments = COMMENT.findall(between)
        own = plain(comments[-1]) if comments and not between[between.rfind("*/") + 2:].strip() \
            and not re.match(r"/\* -{3}", comments[-1]) else None
        above = own if own is not None else above if "\n\n" not in between else None
        end = m.end()
        found.append(Call(header, m[1], m[2], own, above))
    return found


def all_calls(headers):
    found = {}
    for path in headers:
        with open(path, encoding="utf-8") as f:
            for call in calls(os.path.basename(path), f.read()):
                found[call.name] = call
    for call in found.values():
        twin = found.get(call.name.replace("kvw_node_", "kvw_core_", 1))
        if twin is None or twin is call:
            continue
        if call.text is None:
            call.text = twin.text
        elif twin.text is not None:
            call.text = call.text + ["", "The call of a bare core: " + twin.name + "(3)."]
    for call in found.values():
        call.text = call.text or call.above
    return found


def title(name, section):
    return ['.TH "%s" "%d" "" "kvwire" "kvwire"' % (name, section), ".SH NAME"]


def page(call):
    first = re.split(r"(?<=\.)\s", " ".join(line.strip() for line in call.text))[0].rstrip(".")
    return title(call.name, 3) + [
        "%s \\- %s" % (call.name, escape(first)), ".SH SYNOPSIS", ".nf", "#include <kvwire/%s>" % call.header, ".fi", ".HP",
        escape(call.prototype + ";"), ".SH DESCRIPTION", *body(call.text), ".SH SEE ALSO",
        "kvwire(7); threads, memory and time: the opening of <kvwire/%s>" % call.header]


def overview(path, found):
    with open(path, encoding="utf-8") as f:
        opening = plain(COMMENT.findall(f.read())[1])
    return title("kvwire", 7) + ["kvwire \\- KV cache of language models from prefill to decode", ".SH DESCRIPTION",
                                 *body(opening), ".SH CALLS", ", ".join(sorted(n + "(3)" for n in found))]


def write(path, lines):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        f.write("\n".join(lines) + "\n")


def main():
    words = sys.argv[1:]
    if words[:1] == ["--install"]:
        words = [os.path.join(os.environ["MESON_INSTALL_DESTDIR_PREFIX"], w) for w in words[1:]]
    folder, headers = words[0], sorted(glob.glob(os.path.join(words[1], "*.h")))
    found = all_calls(headers)
    bare = [name for name in found if not found[name].text]
    if bare or not found:
        sys.exit("man.py: no comment says what these do: " + ", ".join(bare))
    for call in found.values():
        write(os.path.join(folder, "man3", call.name + ".3"), page(call))
    node = next(h for h in headers if os.path.basename(h) == "node.h")
    write(os.path.join(folder, "man7", "kvwire.7"), overview(node, found))


if __name__ == "__main__":
    main()
