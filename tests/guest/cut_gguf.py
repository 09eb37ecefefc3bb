#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""cut_gguf.py IN OUT LAYERS: a model file (GGUF v3, llama architecture) with the first LAYERS of IN's layers, and all else of it:
the real embeddings, head, tokenizer and weights, fewer of them. What it says makes no sense; that two processes say the
same as one is no easier than with the whole. For CPUs so slow (an emulated one) that the whole takes minutes."""
import os
import re
import struct
import sys

SIZES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, form):
        value = struct.unpack_from("<" + form, self.data, self.at)[0]
        self.at += struct.calcsize("<" + form)
        return value

    def string(self):
        n = self.take("Q")
        self.at += n
        return bytes(self.data[self.at - n:self.at])

    def skip(self, kind):
        if kind == STRING:
            self.string()
        elif kind == ARRAY:
            of, n = self.take("I"), self.take("Q")
            for _ in range(n):
                self.skip(of)
        else:
            self.at += struct.calcsize("<" + SIZES[kind])


def cut(data, layers):
    """The new file's bytes."""
    r = Reader(data)
    magic, version, tensors, keys = r.take("I"), r.take("I"), r.take("Q"), r.take("Q")
    if magic != 0x46554747 or version != 3:
        sys.exit("cut_gguf.py: not a GGUF v3 file")
    meta, align = b"", 32
    for _ in range(keys):
        begin, key = r.at, r.string()
        kind = r.take("I")
        value = r.at
        r.skip(kind)
        if key == b"general.alignment":
            align = struct.unpack_from("<I", data, value)[0]
        if key.endswith(b".block_count"):
            meta += bytes(data[begin:value]) + struct.pack("<" + SIZES[kind], layers)
        else:
            meta += bytes(data[begin:r.at])
    found = []
    for _ in range(tensors):
        name, dims = r.string(), r.take("I")
        shape = [r.take("Q") for _ in range(dims)]
        found.append((name, shape, r.take("I"), r.take("Q")))
    start = (r.at + align - 1) // align * align
    order = sorted(t[3] for t in found) + [len(data) - start]
    end = dict(zip(order, order[1:]))  # each tensor with its padding
    infos, body = b"", []
    size = kept = 0
    for name, shape, kind, offset in found:
        layer = re.match(rb"blk\.(\d+)\.", name)
        if layer and int(layer[1]) >= layers:
            continue
        infos += struct.pack("<Q", len(name)) + name + struct.pack("<I%dQIQ" % len(shape), len(shape), *shape, kind, size)
        body.append(data[start + offset:start + end[offset]])
        size += -len(body[-1]) % align + len(body[-1])
        body.append(bytes(-len(body[-1]) % align))
        kept += 1
    head = struct.pack("<IIQQ", magic, version, kept, keys) + meta + infos
    return b"".join([head, bytes(-len(head) % align)] + body)


def write(source, target, layers):
    """Whoever has the target open keeps what he has."""
    with open(source, "rb") as f:
        out = cut(memoryview(f.read()), layers)
    part = "%s.%d" % (target, os.getpid())
    with open(part, "wb") as f:
        f.write(out)
    os.replace(part, target)


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    write(sys.argv[1], sys.argv[2], int(sys.argv[3]))


if __name__ == "__main__":
    main()
