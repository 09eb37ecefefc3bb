#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kve_utf8_push() shows every byte sequence as Python's decoder does with errors="replace": what Unicode's table
3-7 calls well-formed as it is, and one U+FFFD for each maximal subpart of the rest.

    utf8.py build/tests/engine/utf8_pipe

All sequences of one to three bytes, and those of four and five bytes at the edges of table 3-7. A zero byte, which no
sequence has in it, ends each.
"""
import itertools
import subprocess
import sys

# First and last byte of each row of table 3-7, and their neighbours.
EDGES = [0x01, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xec, 0xed, 0xee, 0xef,
         0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xf7, 0xf8, 0xff]
NONZERO = range(1, 256)


def blocks():
    yield "1 byte", b"".join(bytes((a, 0)) for a in NONZERO)
    yield "2 bytes", b"".join(bytes((*s, 0)) for s in itertools.product(NONZERO, repeat=2))
    block = bytearray(b"".join(bytes((1, *s, 0)) for s in itertools.product(NONZERO, repeat=2)))
    for a in NONZERO:
        block[0::4] = bytes([a]) * (len(block) // 4)
        yield f"3 bytes from {a:02x}", bytes(block)
    for a in EDGES:
        yield f"4 bytes from {a:02x}", b"".join(
            bytes((a, *s, 0)) for s in itertools.product(EDGES, repeat=3))
    for a in EDGES[-9:]:
        yield f"5 bytes from {a:02x}", b"".join(
            bytes((a, *s, 0)) for s in itertools.product(EDGES[1::2], repeat=4))


def main():
    seen = bad = 0
    for name, block in blocks():
        shown = subprocess.run([sys.argv[1]], input=block, stdout=subprocess.PIPE, check=True).stdout
        right = block.decode("utf-8", errors="replace").encode()
        seen += block.count(0)
        if shown == right:
            continue
        bad += 1
        for raw, a, b in zip(block.split(b"\0"), shown.split(b"\0"), right.split(b"\0")):
            if a != b:
                print(f"{name}: {raw.hex(' ')} is shown as {a.hex(' ')}, not as {b.hex(' ')}")
                break
    print(f"{seen} sequences, {bad} blocks of them wrong")
    # The comparison sees a surrogate that went through, and a replacement too many.
    control = b"\xed\xa0\x80".decode("utf-8", errors="replace").encode()
    if control in (b"\xed\xa0\x80", b"\xef\xbf\xbd") or seen < 16_000_000:
        return "the control fails: nothing was compared"
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
