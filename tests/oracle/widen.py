#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write a GGUF file's weights widened to F32, keys unchanged: widen.py FROM.gguf TO.gguf

With such a file llama.cpp quantises no activations, so that its logits can be compared closely.
Reads F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 tensors. Needs numpy.
"""
import mmap
import struct
import sys

import numpy as np

FIXED = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY, U32 = 8, 9, 4
# type: values and bytes of a block
BLOCKS = {0: (1, 4), 1: (1, 2), 30: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24),
          8: (32, 34)}


def half(raw):
    return raw.copy().view("<f2").astype(np.float32)


def nibbles(raw):
    return np.concatenate([raw & 15, raw >> 4], axis=1).astype(np.float32)


def fifth(raw):
    bits = raw.copy().view("<u4")
    return ((bits >> np.arange(32, dtype=np.uint32)) & 1).astype(np.float32) * 16


def widen(kind, raw):
    if kind == 0:
        return np.frombuffer(raw, "<f4")
    if kind == 1:
        return np.frombuffer(raw, "<f2").astype(np.float32)
    if kind == 30:
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    b = np.frombuffer(raw, np.uint8).reshape(-1, BLOCKS[kind][1])
    d = half(b[:, 0:2])
    if kind == 2:
        return d * (nibbles(b[:, 2:]) - 8)
    if kind == 3:
        return d * nibbles(b[:, 4:]) + half(b[:, 2:4])
    if kind == 6:
        return d * (nibbles(b[:, 6:]) + fifth(b[:, 2:6]) - 16)
    if kind == 7:
        return d * (nibbles(b[:, 8:]) + fifth(b[:, 4:8])) + half(b[:, 2:4])
    return d * b[:, 2:].view(np.int8).astype(np.float32)


class Reader:
    def __init__(self, path):
        with open(path, "rb") as f:
            self.at = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
        self.pos = 0

    def number(self, code):
        v = struct.unpack_from("<" + code, self.at, self.pos)[0]
        self.pos += struct.calcsize("<" + code)
        return v

    def string(self):
        n = self.number("Q")
        self.pos += n
        return self.at[self.pos - n:self.pos]

    def value(self, kind):
        """Skip one; the number, if it is a u32."""
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            of, n = self.number("I"), self.number("Q")
            for _ in range(n):
                self.value(of)
            return None
        v = struct.unpack_from("<I", self.at, self.pos)[0] if kind == U32 else None
        self.pos += FIXED[kind]
        return v


def read_index(r):
    """Returns the keys' raw bytes and count, the alignment and the tensors."""
    if r.at[:4] != b"GGUF":
        raise SystemExit("not a GGUF file")
    r.pos = 8
    tensors, keys = r.number("Q"), r.number("Q")
    start, alignment = r.pos, 32
    for _ in range(keys):
        name = r.string()
        value = r.value(r.number("I"))
        if name == b"general.alignment":
            alignment = value
    raw = r.at[start:r.pos]
    index = []
    for _ in range(tensors):
        name = r.string()
        dims = [r.number("Q") for _ in range(r.number("I"))]
        kind, offset = r.number("I"), r.number("Q")
        if kind not in BLOCKS:
            raise SystemExit(f"tensor {name.decode()} has type {kind}, which widen.py doesn't read")
        index.append((name, dims, kind, offset))
    return raw, keys, alignment, index


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    r = Reader(sys.argv[1])
    raw, keys, alignment, index = read_index(r)
    blob = (r.pos + alignment - 1) // alignment * alignment
    with open(sys.argv[2], "wb") as f:
        f.write(b"GGUF" + struct.pack("<IQQ", 3, len(index), keys) + raw)
        offset = 0
        for name, dims, _, _ in index:
            f.write(struct.pack("<Q", len(name)) + name + struct.pack("<I", len(dims)))
            f.write(struct.pack(f"<{len(dims)}Q", *dims) + struct.pack("<IQ", 0, offset))
            offset += (int(np.prod(dims)) * 4 + alignment - 1) // alignment * alignment
        for _, dims, kind, at in index:
            f.write(b"\0" * (-f.tell() % alignment))
            values, size = BLOCKS[kind]
            n = int(np.prod(dims)) // values * size
            f.write(widen(kind, r.at[blob + at:blob + at + n]).astype("<f4").tobytes())
        f.write(b"\0" * (-f.tell() % alignment))


if __name__ == "__main__":
    main()
