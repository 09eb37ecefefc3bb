#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write kv_v1.txt, the golden bytes of SPEC.md: a second, independent reading of its tables.

    python3 tests/golden/kv_v1.py > tests/golden/kv_v1.txt

Lines: NAME VERDICT HEX. VERDICT is ok, truncated, protocol, version or checksum: what a decoder says."""
import ctypes
import ctypes.util
import struct

xxh = ctypes.CDLL(ctypes.util.find_library("xxhash") or "libxxhash.so.0")
xxh.XXH3_64bits.restype = ctypes.c_uint64
xxh.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]


def xxh3(b):
    return xxh.XXH3_64bits(b, len(b))


def hello(version=1, role=2, layers=30, slot_bytes=262208, name=b"SmolLM2-135M-Instruct Q4_1"):
    return (struct.pack("<B3xIIBBHHHIQQIIII", 1, 0x4557564B, version, role, 3, layers, 3, 64, 16, 0x0E, 0x02,
                        32, slot_bytes, 16, 0)
            + bytes(range(0x10, 0x20)) + bytes(range(0x80, 0xA0)) + bytes([len(name), 0, 0, 0]) + name)


def text(fixed, t):
    return fixed + t


def offer(epoch=5, tokens=100, lease=2_000_000_000, budget=1, first=4, last=128, reserved=0):
    return struct.pack("<BHBIQQIBBH", 3, reserved, 0, epoch, 42, lease, tokens, budget, first, last)


def chunk(stream=b"0123456789abcdef", layer=31, kv=1, magic=0x4843564B, spare=0):
    h = struct.pack("<IIQIHBBB3xHHIIIIQ", magic, 5, 42, 17, layer, kv, 1, 1, 0, 1, 96, 4, 16, len(stream),
                    xxh3(stream))
    return h + struct.pack("<II", xxh3(h) & 0xFFFFFFFF, spare) + stream


reject_text = b"protocol version differs: here 1, peer 7"
abort_text = b"client went away"
rows = [
    ("hello", "ok", hello()),
    ("hello_sender", "ok", hello(role=1)),
    ("hello_no_name", "ok", hello(name=b"")),
    ("hello_with_more", "ok", hello() + b"later"),
    ("hello_front", "truncated", hello()[:12]),
    ("hello_version_2", "version", hello(version=2)),
    ("hello_version_9_short", "version", hello(version=9)[:12]),
    ("hello_role", "protocol", hello(role=3)),
    ("hello_layers", "protocol", hello(layers=0)),
    ("hello_slot_bytes", "protocol", hello(slot_bytes=262209)),
    ("hello_name_cut", "truncated", hello()[:-1]),
    ("reject", "ok", struct.pack("<B3xiII", 2, -43, 1, len(reject_text)) + reject_text),
    ("reject_ok", "protocol", struct.pack("<B3xiII", 2, 0, 1, 0)),
    ("reject_text_cut", "truncated", struct.pack("<B3xiII", 2, -44, 1, 9) + b"short"),
    ("offer", "ok", offer()),
    ("offer_epoch_0", "protocol", offer(epoch=0)),
    ("offer_tokens_0", "protocol", offer(tokens=0)),
    ("offer_tokens_many", "protocol", offer(tokens=(1 << 22) + 1)),
    ("offer_reserved", "protocol", offer(reserved=1)),
    ("offer_lease", "protocol", offer(lease=1)),
    ("offer_budget", "protocol", offer(budget=3)),
    ("offer_cut", "truncated", offer()[:-1]),
    ("offer_long", "protocol", offer() + b"\0"),
    ("grant", "ok", struct.pack("<BBHIQ", 4, 4, 0, 70, 1 << 33)),
    ("grant_reserved", "protocol", struct.pack("<B6xBQ", 4, 1, 32)),
    ("grant_codec_without_cost", "protocol", struct.pack("<BBHIQ", 4, 4, 0, 0, 32)),
    ("grant_codec_64", "protocol", struct.pack("<BBHIQ", 4, 64, 0, 70, 32)),
    ("grant_cut", "truncated", struct.pack("<B7xI", 4, 32)),
    ("renew", "ok", struct.pack("<B3xIQ", 5, 5, 42)),
    ("renew_epoch_0", "protocol", struct.pack("<B3xIQ", 5, 0, 42)),
    ("commit", "ok", struct.pack("<B3xIQIIQ", 6, 5, 42, 60, 4, 1 << 34) + b"note"),
    ("commit_note_cut", "truncated", struct.pack("<B3xIQIIQ", 6, 5, 42, 60, 4, 1 << 34) + b"not"),
    ("commit_note_long", "protocol", struct.pack("<B3xIQIIQ", 6, 5, 42, 60, 513, 1 << 34) + bytes(513)),
    ("done", "ok", struct.pack("<B3xIQIIQ", 7, 5, 42, 60, 0, 1 << 34)),
    ("done_reserved", "protocol", struct.pack("<B3xIQIIQ", 7, 5, 42, 60, 1, 1 << 34)),
    ("abort", "ok", struct.pack("<B3xIQiI", 8, 5, 42, -21, len(abort_text)) + abort_text),
    ("abort_epoch_0", "ok", struct.pack("<B3xIQiI", 8, 0, 42, -22, 0)),
    ("abort_ok", "protocol", struct.pack("<B3xIQiI", 8, 5, 42, 0, 0)),
    ("chunk", "ok", chunk()),
    ("chunk_layer_high", "protocol", chunk(layer=512)),
    ("chunk_kv_2", "protocol", chunk(kv=2)),
    ("chunk_magic", "protocol", chunk(magic=0x4843564C)),
    ("chunk_reserved", "protocol", chunk(spare=1)),
    ("chunk_stream_cut", "protocol", chunk()[:-1]),
    ("chunk_header_cut", "truncated", chunk()[:63]),
    ("chunk_header_flipped", "checksum", bytes([chunk()[0]]) + b"W" + chunk()[2:]),
]
print("# Golden bytes of the KV protocol, version 1: NAME VERDICT HEX. Written by kv_v1.py.")
for name, verdict, b in rows:
    print(name, verdict, b.hex())
