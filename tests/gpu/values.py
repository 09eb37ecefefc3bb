#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""values.py NVDISASM CUBIN KERNEL: instructions a value of a kernel of l0, by what they are for.

CUBIN is made of a file of gpu/ with -lineinfo; nvdisasm isn't in every toolkit (PyPI: nvidia-cuda-nvdisasm). Each instruction is
taken with the lines that it was inlined through. A thread has 32 values, so straight code counts 1/32; TIMES has the loops that stay
loops and what one warp of eight does. COLD is left out: grains below 16 bytes, heads below 64 bytes, columns that aren't a multiple
of 8, raw blocks, escapes, a chunk's end; so is what a warp does that has come apart. An estimate to about 10 %: nothing is run."""
import os, re, subprocess, sys

# A function, and what the line of it says ("": all of it).
COLD = [("kvg_grain", ""), ("kvg_put_grain", ""), ("kvg_load", ""), ("store", ""), ("kvg_say_done", ""), ("put_escapes", ""), ("finish", ""),
        ("l0_encode_columns", r"c\.table\[at \+ 2"), ("l0_decode_columns", r"from\[4 \* i"), ("put_values", r"l0_value|i < past"), ("kvg_take", r"low|high|min\(n"), ("kvg_put", r"low|high|min\(n|kvg_put_grain"),
        ("kvg_gather", ""), ("kvg_scatter", ""), ("kvg_digest", r"r < rows|r % 2"), ("copy_out", r"kvg_slot"),
        ("put_planes", r"left|value"), ("kvg_chunk_of", ""), ("take_words", "i < low|kvg_byte_at"), ("land", r"f\.pad|f\.from\[")]
# The digest's loop has 8 rows of 64, in one warp of 8. What is done once by a CTA counts as if each block had a CTA.
TIMES = [("kvg_digest", r"r \+ 8|i % 2|i / 2|i < 8", 1), ("kvg_digest", "", 1 / 8), ("find_place", "", 1 / 8),
         ("encode_block", r"^for \(|^i \+= |s\.out\)\[i\] = ", 1.5),
         ("copy_out", r"for \(|to\[i\]", 2.7), ("decode", r"for \(|\[i\] = from", 2.7)]
PARTS = {"kvg_gather_rows": "gather", "kvg_scatter_rows": "scatter", "kvg_digest": "digest", "l0_encode_columns": "columns", "l0_decode_columns": "columns", "kvg_moves_of": "moves of bits",
         "kvg_close_bits": "moves of bits", "kvg_spread_bits": "moves of bits", "kvg_before": "sums", "kvg_turn": "turns", "l0_turn_planes": "turns", "exponents": "exponents",
         "values_of": "values", "put_values": "values", "split": "codes", "put_planes": "planes out", "put_words": "words out",
         "find_place": "look back", "put_fields": "table", "copy_out": "output", "find": "block", "take_planes": "planes in", "take_words": "planes in", "decode": "input"}


class Source:
    def __init__(self, folder):
        self.folder, self.files = folder, {}

    def frame(self, path, line):
        """(function, the line's text)"""
        name = os.path.basename(path)
        if name not in self.files:
            path = os.path.join(self.folder, name)
            self.files[name] = open(path).read().split("\n") if os.path.exists(path) else []
        lines = self.files[name]
        if not lines:
            return "", ""
        top = line - 1
        while top > 0 and lines[top] != "{":
            top -= 1
        head = top - 1
        while head > 0 and lines[head - 1].strip() and not lines[head - 1].startswith(("}", "#", " *", "/*")):
            head -= 1
        m = re.search(r"(\w+)\(", re.sub(r"__launch_bounds__\([^)]*\)", "", " ".join(lines[head:top])))
        return m.group(1) if m else "", lines[line - 1].strip()


def weight(frames):
    for f, text in frames:
        if any(f == name and re.search(what, text) for name, what in COLD):
            return 0
    for f, text in frames:
        for name, what, times in TIMES:
            if f == name and re.search(what, text):
                return times
    return 1


def main():
    nvdisasm, cubin, kernel = sys.argv[1:4]
    source = Source(sys.argv[4] if len(sys.argv) > 4 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../gpu"))
    said = subprocess.run([nvdisasm, "-gi", "-c", cubin], capture_output=True, text=True, check=True).stdout
    parts, total, chain, fresh, inside, apart = {}, 0, [], True, False, False
    for l in said.split("\n"):
        if l.startswith("\t.section"):
            inside, apart = l.startswith(f"\t.section\t.text.{kernel},"), False
        m = re.search(r'//## File "([^"]+)", line (\d+)', l)
        if not inside:
            continue
        if m:
            chain = ([] if fresh else chain) + [source.frame(m.group(1), int(m.group(2)))]
            fresh = False
        elif re.match(r"\s+/\*[0-9a-f]{4,}\*/", l):
            fresh = True
            apart = apart or "WARPSYNC.COLLECTIVE" in l
            if apart:  # behind all the rest
                continue
            w = weight(chain) / 32
            names = [f for f, _ in chain]
            part = next((PARTS[f] for f in PARTS if f in names), "the rest")
            parts[part] = parts.get(part, 0) + w
            total += w
    for part, n in sorted(parts.items(), key=lambda p: -p[1]):
        print(f"{n:6.1f} {part}")
    print(f"{total:6.1f} all, a value")


main()
