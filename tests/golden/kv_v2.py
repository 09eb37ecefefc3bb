#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write kv_v2.txt, the golden bytes of SPEC.md: a second, independent reading of its tables.

    python3 tests/golden/kv_v2.py > tests/golden/kv_v2.txt

Lines: NAME VERDICT HEX. VERDICT is ok, truncated, protocol, version or checksum: what a decoder says."""
import ctypes
import ctypes.util
import struct

xxh = ctypes.CDLL(ctypes.util.find_library("xxhash") or "libxxhash.so.0")
xxh.XXH3_64bits.restype = ctypes.c_uint64
xxh.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
KEY = bytes(range(0xA0, 0xB0))
U32, U64 = 1 << 32, 1 << 64


def xxh3(b):
    return xxh.XXH3_64bits(b, len(b))


def hello(magic=0x4557564B, layout=2, versions=1 << 62 | 1 << 2, instance=0x1122334455667788, codecs=0x0E, digests=0x06,
          slot=262208, offers=256, dead=1000, reserved=b"\0\0\0", name=b"decode 3", length=None, unused=0, features=3):
    return (struct.pack("<B3sIIIQQQQQIIII", 1, bytes([unused] * 3), magic, layout, unused, versions, instance, codecs,
                        digests, features, slot, offers, dead, unused)
            + bytes(range(0x80, 0xA0)) + bytes([len(name) if length is None else length]) + reserved + name)


def shared(token=bytes(range(0x50, 0x60)), length=64 * 262208, **fields):
    return hello(features=11, **fields) + token + struct.pack("<Q", length)


def reject(err=-43, layout=2, text=b"protocol version differs: here 2, peer 7", length=None, unused=0):
    return struct.pack("<B3siII", 2, bytes([unused] * 3), err, layout, len(text) if length is None else length) + text


def span(group=1, part=2, layer=3, layers=4, r16=0, first=256, end=320, row=4, rows=2, r64=0):
    return struct.pack("<BBHHHIIIIQ", group, part, layer, layers, r16, first, end, row, rows, r64)


def offer(budget=1, pool=7, epoch=5, lease=2_000_000_000, take_by=10_000_000_000, tokens=320, exact_first=4, spans=None,
          exact_last=128, flags=0, reserved=b"\0" * 3, stage=0, count=None):
    spans = [span(), span(part=0)] if spans is None else spans
    return (struct.pack("<BBHI", 3, budget, pool, epoch) + KEY
            + struct.pack("<QQIBBHB", lease, take_by, tokens, exact_first, len(spans) if count is None else count,
                          exact_last, flags) + reserved + struct.pack("<I", stage) + b"".join(spans))


def with_span(**fields):
    return offer(spans=[span(**fields)])


def grant(codec=4, ps=70, start=1 << 33, slots=(9, 0, 4095), count=None):
    return (struct.pack("<BBHIQ", 4, codec, len(slots) if count is None else count, ps, start)
            + b"".join(struct.pack("<H", s) for s in slots))


def alive(epochs=(5, 6, 0), count=None, reserved=0):
    return (struct.pack("<BBH", 5, reserved, len(epochs) if count is None else count)
            + b"".join(struct.pack("<I", e) for e in epochs))


def about(kind, epoch=5, reserved=b"\0\0\0"):
    return bytes([kind]) + reserved + struct.pack("<I", epoch) + KEY


def commit(epoch=5, chunks=60, note=b"note", raw=1 << 34, length=None, reserved=b"\0\0\0"):
    return about(6, epoch, reserved) + struct.pack("<IIQ", chunks, len(note) if length is None else length, raw) + note


def done(epoch=5, word=0, reserved=b"\0\0\0"):
    return about(7, epoch, reserved) + struct.pack("<IIQ", 60, word, 1 << 34)


def end(kind=8, epoch=5, err=-21, text=b"client went away", length=None, reserved=b"\0\0\0"):
    return about(kind, epoch, reserved) + struct.pack("<iI", err, len(text) if length is None else length) + text


def part(name=b"k", dtype=2, reserved=0, row_bytes=256, rows=4, row_first=4, rows_model=8, length=None):
    return struct.pack("<BBHIIII", len(name) if length is None else length, dtype, reserved, row_bytes, rows, row_first,
                       rows_model) + name


def group(kind=1, block=16, entry=1, window=0, blocks=1000, runs=((0, 3), (8, 2)), parts=None, part_count=None):
    parts = [part(), part(b"v")] if parts is None else parts
    return (struct.pack("<BBHIIII", kind, len(parts) if part_count is None else part_count, len(runs), block, entry,
                        window, blocks) + b"".join(struct.pack("<HH", *r) for r in runs) + b"".join(parts))


def window(**fields):
    return group(**{**dict(kind=2, block=4, entry=4, window=1024, blocks=1 << 20, runs=((3, 1), (5, 1)),
                           parts=[part(b"latent", 3, 0, 576, 1, 0, 1)]), **fields})


def row(**fields):
    return group(**{**dict(kind=3, block=1, entry=0, window=0, blocks=256, runs=((4, 1), (6, 2)),
                           parts=[part(b"state", 1, 0, 4096, 32, 0, 32), part(b"conv", 6, 0, 1, 1, 0, 1)]), **fields})


def pool(gone=0, number=7, layers=10, name=b"a model", groups=None, reserved=0, length=None, count=None):
    groups = [group(), window(), row()] if groups is None else groups
    return (struct.pack("<BBHI", 9, gone, number, layers) + bytes(range(0x10, 0x20))
            + struct.pack("<BBH", len(name) if length is None else length, len(groups) if count is None else count,
                          reserved) + name + b"".join(groups))


def one(**fields):
    return pool(groups=[group(**fields)])


def parted(**fields):
    return one(parts=[part(**fields)])


def chunk(stream=b"0123456789abcdef", magic=0x3243564B, epoch=5, seq=17, layer=31, grp=1, prt=2, codec=1, digest=1,
          where=0, reserved=0, row_first=4, rows=2, entry=96, entries=4, raw=16, stream_bytes=None):
    h = struct.pack("<II8sIHBBBBHIIIIIQI", magic, epoch, KEY[:8], seq, layer, grp, prt, codec, digest, where | reserved << 8, row_first,
                    rows, entry, entries, raw, xxh3(stream), len(stream) if stream_bytes is None else stream_bytes)
    return h + struct.pack("<I", xxh3(h) & 0xFFFFFFFF) + stream


def region(number=3, rights=3, base=0x7F0012340000, length=1 << 20, key=bytes(range(0x40, 0x60)), reserved=0):
    return struct.pack("<BBHIQQ", 14, rights, reserved, number, base, length) + key


def gone(number=3, reserved=b"\0\0\0"):
    return bytes([15]) + reserved + struct.pack("<I", number)


def run(base=0x7F0012341000, stride=0x2000, length=0x1000, count=3, number=3):
    return struct.pack("<QqIII", base, stride, length, count, number)


def batch(op=2, chunk_bytes=262144, epoch=5, total=16384, runs=None, first=0, count=None, in_all=None, note=b"note",
          length=None, reserved=0):
    runs = [run(), run(0x7F0012380000, 0, 0x1000, 1)] if runs is None else runs
    n = len(runs) if count is None else count
    return (struct.pack("<BBHIQQIIII", 16, op, len(note) if length is None else length, chunk_bytes, epoch, total,
                        first + n if in_all is None else in_all, first, n, reserved) + note + b"".join(runs))


def ran(**fields):
    return batch(runs=[run(**fields)])


def batch_done(whose=1, err=-21, epoch=5, total=0, text=b"region 3 was removed", length=None):
    return struct.pack("<BBHiQQ", 17, whose, len(text) if length is None else length, err, epoch, total) + text


def notify(note=b"note", length=None, r8=0, r32=0):
    return struct.pack("<BBHI", 18, r8, len(note) if length is None else length, r32) + note


def batch_chunk(data=b"0123456789abcdef", magic=0x3242564B, epoch=5, seq=17, offset=262144, op=2, digest=1, length=None,
                r16=0, tail=b"\0" * 20):
    h = struct.pack("<IIQQIBBHQ", magic, seq, epoch, offset, len(data) if length is None else length, op, digest, r16,
                    xxh3(data)) + tail
    return h + struct.pack("<I", xxh3(h) & 0xFFFFFFFF) + data


TOKENS = 1 << 22
rows_ = [
    ("hello", "ok", hello()),
    ("hello_no_name", "ok", hello(name=b"")),
    ("hello_name_63", "ok", hello(name=b"n" * 63)),
    ("hello_with_more", "ok", hello() + b"later"),
    ("hello_unused", "ok", hello(unused=255)),
    ("hello_share", "ok", shared()),
    ("hello_share_with_more", "ok", shared() + b"later"),
    ("hello_share_cut", "truncated", shared()[:-1]),
    ("hello_share_none", "truncated", hello(features=11)),
    ("hello_share_0", "protocol", shared(length=0)),
    ("hello_share_odd", "protocol", shared(length=64 * 262208 + 64)),
    ("hello_share_most", "ok", shared(length=4096 * 262208)),
    ("hello_share_more", "protocol", shared(length=4097 * 262208)),
    ("hello_type", "protocol", b"\3" + hello()[1:]),
    ("hello_magic", "protocol", hello(magic=0x4557564C)),
    ("hello_empty", "truncated", b""),
    ("hello_front_cut", "truncated", hello()[:11]),
    ("hello_front", "truncated", hello()[:12]),
    ("hello_fixed_cut", "truncated", hello(name=b"")[:-1]),
    ("hello_name_cut", "truncated", hello()[:-1]),
    ("hello_layout_1", "version", hello(layout=1)),
    ("hello_layout_3_short", "version", hello(layout=3)[:12]),
    ("hello_versions_old", "protocol", hello(versions=3)),
    ("hello_versions_grease", "protocol", hello(versions=3 << 62)),
    ("hello_versions_61", "ok", hello(versions=1 << 61)),
    ("hello_instance_0", "protocol", hello(instance=0)),
    ("hello_codecs_no_raw", "protocol", hello(codecs=0x0C)),
    ("hello_digests_0", "protocol", hello(digests=0)),
    ("hello_slot_64", "protocol", hello(slot=64)),
    ("hello_slot_128", "ok", hello(slot=128)),
    ("hello_slot_odd", "protocol", hello(slot=262209)),
    ("hello_slot_most", "ok", hello(slot=1 << 20)),
    ("hello_slot_more", "protocol", hello(slot=(1 << 20) + 64)),
    ("hello_offers_0", "protocol", hello(offers=0)),
    ("hello_offers_65536", "protocol", hello(offers=65536)),
    ("hello_dead_0", "protocol", hello(dead=0)),
    ("hello_dead_more", "protocol", hello(dead=600001)),
    ("hello_name_64", "protocol", hello(name=b"n" * 64)),
    ("hello_reserved", "protocol", hello(reserved=b"\0\0\1")),
    ("reject", "ok", reject()),
    ("reject_unused", "ok", reject(unused=7)),
    ("reject_with_more", "ok", reject() + b"later"),
    ("reject_err_0", "protocol", reject(err=0)),
    ("reject_text_257", "protocol", reject(text=b"t" * 257)),
    ("reject_text_256", "ok", reject(text=b"t" * 256)),
    ("reject_text_cut", "truncated", reject()[:-1]),
    ("reject_cut", "truncated", reject()[:15]),
    ("offer", "ok", offer()),
    ("offer_no_span", "ok", offer(spans=[])),
    ("offer_255_spans", "ok", offer(spans=[span()] * 255)),
    ("offer_budget_3", "protocol", offer(budget=3)),
    ("offer_epoch_0", "protocol", offer(epoch=0)),
    ("offer_lease_short", "protocol", offer(lease=9_999_999)),
    ("offer_lease_least", "ok", offer(lease=10_000_000)),
    ("offer_lease_long", "protocol", offer(lease=600_000_000_001)),
    ("offer_take_by_0", "protocol", offer(take_by=0)),
    ("offer_take_by_long", "protocol", offer(take_by=24 * 3600 * 10**9 + 1)),
    ("offer_tokens_0", "protocol", offer(tokens=0, spans=[])),
    ("offer_tokens_many", "protocol", offer(tokens=TOKENS + 1)),
    ("offer_tokens_most", "ok", offer(tokens=TOKENS)),
    ("offer_pull", "ok", offer(flags=1, stage=77)),
    ("offer_pull_of_0", "protocol", offer(flags=1)),
    ("offer_stage_unasked", "protocol", offer(stage=77)),
    ("offer_flags_2", "protocol", offer(flags=2, stage=77)),
    ("offer_reserved", "protocol", offer(reserved=b"\0" * 2 + b"\1")),
    ("offer_cut", "truncated", offer()[:-1]),
    ("offer_fixed_cut", "truncated", offer()[:55]),
    ("offer_long", "protocol", offer() + b"\0"),
    ("offer_span_more_than_said", "protocol", offer(count=1)),
    ("offer_span_layers_0", "protocol", with_span(layers=0)),
    ("offer_span_layers_end", "protocol", with_span(layer=511, layers=2)),
    ("offer_span_layers_last", "ok", with_span(layer=511, layers=1)),
    ("offer_span_reserved_16", "protocol", with_span(r16=1)),
    ("offer_span_no_token", "protocol", with_span(first=256, end=256)),
    ("offer_span_beyond", "protocol", with_span(end=321)),
    ("offer_span_rows_0", "protocol", with_span(rows=0)),
    ("offer_span_rows_wrap", "protocol", with_span(row=U32 - 1, rows=2)),
    ("offer_span_reserved_64", "protocol", with_span(r64=1 << 63)),
    ("grant", "ok", grant()),
    ("grant_no_codec", "ok", grant(codec=0, ps=0)),
    ("grant_codec_without_cost", "protocol", grant(ps=0)),
    ("grant_cost_without_codec", "protocol", grant(codec=0)),
    ("grant_codec_64", "protocol", grant(codec=64)),
    ("grant_none", "protocol", grant(slots=())),
    ("grant_1024", "ok", grant(slots=tuple(range(1024)))),
    ("grant_1025", "protocol", grant(slots=tuple(range(1025)))),
    ("grant_slot_4096", "protocol", grant(slots=(4096,))),
    ("grant_from_wraps", "protocol", grant(start=U64 - 2)),
    ("grant_cut", "truncated", grant()[:-1]),
    ("grant_fixed_cut", "truncated", grant()[:15]),
    ("grant_long", "protocol", grant() + b"\0\0"),
    ("recall", "ok", bytes([12] + [0] * 7)),
    ("recall_reserved", "protocol", bytes([12] + [0] * 6 + [1])),
    ("recall_cut", "truncated", bytes([12] + [0] * 6)),
    ("recall_long", "protocol", bytes([12] + [0] * 8)),
    ("return", "ok", bytes([13] + [0] * 7) + struct.pack("<Q", 1 << 33)),
    ("return_reserved", "protocol", bytes([13, 1] + [0] * 6) + struct.pack("<Q", 1 << 33)),
    ("return_cut", "truncated", bytes([13] + [0] * 14)),
    ("return_long", "protocol", bytes([13] + [0] * 16)),
    ("alive", "ok", alive()),
    ("alive_none", "protocol", alive(epochs=())),
    ("alive_1024", "ok", alive(epochs=tuple(range(1, 1025)))),
    ("alive_1025", "protocol", alive(epochs=tuple(range(1, 1026)))),
    ("alive_reserved", "protocol", alive(reserved=1)),
    ("alive_cut", "truncated", alive()[:-1]),
    ("alive_long", "protocol", alive() + b"\0"),
    ("commit", "ok", commit()),
    ("commit_no_note", "ok", commit(note=b"")),
    ("commit_note_512", "ok", commit(note=b"n" * 512)),
    ("commit_note_513", "protocol", commit(note=b"n" * 513)),
    ("commit_epoch_0", "protocol", commit(epoch=0)),
    ("commit_reserved", "protocol", commit(reserved=b"\0\0\1")),
    ("commit_note_cut", "truncated", commit()[:-1]),
    ("commit_cut", "truncated", commit()[:39]),
    ("commit_long", "protocol", commit() + b"\0"),
    ("done", "ok", done()),
    ("done_epoch_0", "protocol", done(epoch=0)),
    ("done_reserved", "protocol", done(reserved=b"\1\0\0")),
    ("done_reserved_word", "protocol", done(word=1)),
    ("done_cut", "truncated", done()[:-1]),
    ("done_long", "protocol", done() + b"\0"),
    ("abort", "ok", end()),
    ("abort_no_text", "ok", end(text=b"")),
    ("abort_epoch_0", "protocol", end(epoch=0)),
    ("abort_err_0", "protocol", end(err=0)),
    ("abort_text_257", "protocol", end(text=b"t" * 257)),
    ("abort_reserved", "protocol", end(reserved=b"\0\1\0")),
    ("abort_cut", "truncated", end()[:-1]),
    ("abort_long", "protocol", end() + b"\0"),
    ("refuse", "ok", end(10)),
    ("refuse_epoch_0", "ok", end(10, epoch=0)),
    ("refuse_err_0", "protocol", end(10, err=0)),
    ("refuse_text_cut", "truncated", end(10)[:-1]),
    ("refuse_long", "protocol", end(10) + b"\0"),
    ("pool", "ok", pool()),
    ("pool_no_name", "ok", pool(name=b"")),
    ("pool_16_groups", "ok", pool(groups=[group()] * 16)),
    ("pool_last_layer", "ok", pool(layers=512, groups=[group(runs=((511, 1),))])),
    ("pool_gone", "ok", struct.pack("<BBH", 9, 1, 7)),
    ("pool_gone_2", "protocol", struct.pack("<BBH", 9, 2, 7)),
    ("pool_gone_cut", "truncated", struct.pack("<BBH", 9, 1, 7)[:3]),
    ("pool_gone_long", "protocol", struct.pack("<BBH", 9, 1, 7) + b"\0"),
    ("pool_layers_0", "protocol", pool(layers=0)),
    ("pool_layers_513", "protocol", pool(layers=513)),
    ("pool_reserved", "protocol", pool(reserved=1)),
    ("pool_name_64", "protocol", pool(name=b"n" * 64)),
    ("pool_groups_0", "protocol", pool(groups=[])),
    ("pool_groups_17", "protocol", pool(groups=[group()] * 17)),
    ("pool_fixed_cut", "truncated", pool()[:27]),
    ("pool_name_cut", "truncated", pool()[:34]),
    ("pool_cut", "protocol", pool()[:-1]),
    ("pool_long", "protocol", pool() + b"\0"),
    ("pool_kind_0", "protocol", one(kind=0)),
    ("pool_kind_4", "protocol", one(kind=4)),
    ("pool_parts_0", "protocol", one(parts=[])),
    ("pool_parts_17", "protocol", one(parts=[part(b"p%d" % i) for i in range(17)])),
    ("pool_parts_16", "ok", one(parts=[part(b"p%d" % i) for i in range(16)])),
    ("pool_runs_0", "protocol", one(runs=())),
    ("pool_run_empty", "protocol", one(runs=((0, 0),))),
    ("pool_runs_touch", "protocol", one(runs=((0, 3), (3, 2)))),
    ("pool_runs_back", "protocol", one(runs=((8, 2), (0, 3)))),
    ("pool_run_beyond", "protocol", one(runs=((8, 3),))),
    ("pool_block_0", "protocol", one(block=0)),
    ("pool_block_1024", "ok", one(block=1024)),
    ("pool_block_1025", "protocol", one(block=1025)),
    ("pool_row_block_2", "protocol", pool(groups=[row(block=2)])),
    ("pool_entry_0", "protocol", one(entry=0)),
    ("pool_row_entry_1", "protocol", pool(groups=[row(entry=1)])),
    ("pool_window_of_paged", "protocol", one(window=1)),
    ("pool_window_0", "protocol", pool(groups=[window(window=0)])),
    ("pool_window_of_row", "protocol", pool(groups=[row(window=1)])),
    ("pool_blocks_0", "protocol", one(blocks=0)),
    ("pool_part_no_name", "protocol", parted(name=b"")),
    ("pool_part_name_64", "protocol", parted(name=b"n" * 64)),
    ("pool_part_name_63", "ok", parted(name=b"n" * 63)),
    ("pool_part_twice", "protocol", one(parts=[part(), part()])),
    ("pool_part_dtype_0", "protocol", parted(dtype=0)),
    ("pool_part_dtype_7", "ok", parted(dtype=7)),
    ("pool_part_dtype_8", "protocol", parted(dtype=8)),
    ("pool_part_reserved", "protocol", parted(reserved=1)),
    ("pool_part_row_bytes_0", "protocol", parted(row_bytes=0)),
    ("pool_part_row_bytes_odd", "protocol", parted(row_bytes=255)),
    ("pool_part_rows_0", "protocol", parted(rows=0)),
    ("pool_part_rows_beyond", "protocol", parted(row_first=5)),
    ("chunk", "ok", chunk()),
    ("chunk_magic", "protocol", chunk(magic=0x4843564B)),
    ("chunk_epoch_0", "protocol", chunk(epoch=0)),
    ("chunk_layer_511", "ok", chunk(layer=511)),
    ("chunk_layer_512", "protocol", chunk(layer=512)),
    ("chunk_codec_0", "protocol", chunk(codec=0)),
    ("chunk_codec_64", "protocol", chunk(codec=64)),
    ("chunk_digest_0", "protocol", chunk(digest=0)),
    ("chunk_reserved", "protocol", chunk(reserved=1)),
    ("chunk_shared", "ok", chunk(where=1)[:64]),
    ("chunk_shared_with_stream", "protocol", chunk(where=1)),
    ("chunk_nowhere", "ok", chunk(where=2)[:64]),
    ("chunk_nowhere_with_stream", "protocol", chunk(where=2)),
    ("chunk_where_3", "protocol", chunk(where=3)[:64]),
    ("chunk_here_without_stream", "protocol", chunk()[:64]),
    ("chunk_rows_0", "protocol", chunk(rows=0)),
    ("chunk_rows_wrap", "protocol", chunk(row_first=U32 - 1)),
    ("chunk_entries_0", "protocol", chunk(entries=0)),
    ("chunk_entries_beyond", "protocol", chunk(entry=TOKENS - 3)),
    ("chunk_raw_0", "protocol", chunk(raw=0)),
    ("chunk_raw_more", "protocol", chunk(raw=(512 << 10) + 1)),
    ("chunk_raw_most", "ok", chunk(raw=512 << 10)),
    ("chunk_no_stream", "protocol", chunk(stream=b"")),
    ("chunk_stream_cut", "protocol", chunk()[:-1]),
    ("chunk_stream_long", "protocol", chunk() + b"\0"),
    ("chunk_header_cut", "truncated", chunk()[:63]),
    ("chunk_header_flipped", "checksum", bytes([chunk()[0]]) + b"W" + chunk()[2:]),
    ("region", "ok", region()),
    ("region_all", "ok", region(0, 0, 0, 0, bytes(32))),
    ("region_all_rights", "protocol", region(0, 1, 0, 0, bytes(32))),
    ("region_all_base", "protocol", region(0, 0, 1, 0, bytes(32))),
    ("region_all_key", "protocol", region(0, 0, 0, 0)),
    ("region_rights_0", "protocol", region(rights=0)),
    ("region_rights_4", "protocol", region(rights=4)),
    ("region_bytes_0", "protocol", region(length=0)),
    ("region_wraps", "protocol", region(base=U64 - 1, length=2)),
    ("region_end", "ok", region(base=U64 - 2, length=1)),
    ("region_reserved", "protocol", region(reserved=256)),
    ("region_cut", "truncated", region()[:-1]),
    ("region_long", "protocol", region() + b"\0"),
    ("gone", "ok", gone()),
    ("gone_0", "protocol", gone(0)),
    ("gone_reserved", "protocol", gone(reserved=b"\0\0\1")),
    ("gone_cut", "truncated", gone()[:-1]),
    ("gone_long", "protocol", gone() + b"\0"),
    ("batch", "ok", batch()),
    ("batch_read", "ok", batch(op=1, note=b"")),
    ("batch_read_note", "protocol", batch(op=1)),
    ("batch_op_0", "protocol", batch(op=0, note=b"")),
    ("batch_op_3", "protocol", batch(op=3)),
    ("batch_part", "ok", batch(first=2, in_all=9, note=b"")),
    ("batch_part_note", "protocol", batch(first=2, in_all=9)),
    ("batch_part_beyond", "protocol", batch(first=2, in_all=3, note=b"")),
    ("batch_note_512", "ok", batch(note=b"n" * 512)),
    ("batch_note_513", "protocol", batch(note=b"n" * 513)),
    ("batch_chunk_4095", "protocol", batch(chunk_bytes=4095)),
    ("batch_chunk_most", "ok", batch(chunk_bytes=512 << 10)),
    ("batch_chunk_more", "protocol", batch(chunk_bytes=(512 << 10) + 1)),
    ("batch_epoch_0", "protocol", batch(epoch=0)),
    ("batch_bytes_0", "protocol", batch(total=0)),
    ("batch_bytes_most", "ok", batch(total=1 << 44)),
    ("batch_bytes_more", "protocol", batch(total=(1 << 44) + 1)),
    ("batch_runs_0", "protocol", batch(runs=[])),
    ("batch_runs_most", "ok", batch(in_all=100000)),
    ("batch_runs_more", "protocol", batch(in_all=100001)),
    ("batch_reserved", "protocol", batch(reserved=1)),
    ("batch_run_bytes_0", "protocol", ran(length=0)),
    ("batch_run_count_0", "protocol", ran(count=0)),
    ("batch_run_region_0", "protocol", ran(number=0)),
    ("batch_run_down", "ok", ran(stride=-0x1000)),
    ("batch_run_down_wraps", "protocol", ran(base=0x1FFF, stride=-0x1000)),
    ("batch_run_down_to_0", "ok", ran(base=0x2000, stride=-0x1000)),
    ("batch_run_up_wraps", "protocol", ran(base=U64 - 0x3000, stride=0x1000)),
    ("batch_run_up_end", "ok", ran(base=U64 - 0x3001, stride=0x1000)),
    ("batch_run_reach_wraps", "protocol", ran(stride=(1 << 63) - 1, count=U32 - 1)),
    ("batch_cut", "truncated", batch()[:-1]),
    ("batch_fixed_cut", "truncated", batch()[:39]),
    ("batch_long", "protocol", batch() + b"\0"),
    ("batch_done", "ok", batch_done()),
    ("batch_done_well", "ok", batch_done(0, 0, 5, 16384, b"")),
    ("batch_done_whose_2", "protocol", batch_done(whose=2)),
    ("batch_done_err_1", "protocol", batch_done(err=1)),
    ("batch_done_epoch_0", "protocol", batch_done(epoch=0)),
    ("batch_done_bytes_more", "protocol", batch_done(total=(1 << 44) + 1)),
    ("batch_done_text_257", "protocol", batch_done(text=b"t" * 257)),
    ("batch_done_cut", "truncated", batch_done()[:-1]),
    ("batch_done_long", "protocol", batch_done() + b"\0"),
    ("notify", "ok", notify()),
    ("notify_512", "ok", notify(b"n" * 512)),
    ("notify_513", "protocol", notify(b"n" * 513)),
    ("notify_0", "protocol", notify(b"")),
    ("notify_reserved_8", "protocol", notify(r8=1)),
    ("notify_reserved_32", "protocol", notify(r32=1)),
    ("notify_cut", "truncated", notify()[:-1]),
    ("notify_long", "protocol", notify() + b"\0"),
    ("batchchunk", "ok", batch_chunk()),
    ("batchchunk_read", "ok", batch_chunk(op=1)),
    ("batchchunk_magic", "protocol", batch_chunk(magic=0x3243564B)),
    ("batchchunk_epoch_0", "protocol", batch_chunk(epoch=0)),
    ("batchchunk_op_3", "protocol", batch_chunk(op=3)),
    ("batchchunk_digest_0", "protocol", batch_chunk(digest=0)),
    ("batchchunk_offset_beyond", "protocol", batch_chunk(offset=(1 << 44) - 15)),
    ("batchchunk_reserved_16", "protocol", batch_chunk(r16=1)),
    ("batchchunk_reserved_tail", "protocol", batch_chunk(tail=b"\0" * 19 + b"\1")),
    ("batchchunk_no_bytes", "protocol", batch_chunk(data=b"")),
    ("batchchunk_bytes_cut", "protocol", batch_chunk()[:-1]),
    ("batchchunk_bytes_long", "protocol", batch_chunk() + b"\0"),
    ("batchchunk_header_cut", "truncated", batch_chunk()[:63]),
    ("batchchunk_header_flipped", "checksum", batch_chunk()[:20] + b"W" + batch_chunk()[21:]),
]
print("# Golden bytes of the KV protocol, version 2: NAME VERDICT HEX. Written by kv_v2.py.")
for name, verdict, b in rows_:
    print(name, verdict, b.hex() or "-")
