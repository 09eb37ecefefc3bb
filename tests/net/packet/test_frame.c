/* SPDX-License-Identifier: Apache-2.0 */
/* Every packet has the bytes that SPEC.md shows, survives the wire, and no damaged, shortened or
 * senseless one is taken for good. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../../net/packet/crc32c.h"
#include "../../../net/packet/frame.h"
#include "../../../net/packet/seen.h"
#include "../../../kvwire/wire/le.h"

/* One of each type; payload is "kvwire" where there is one. The files are SPEC.md's examples. */
static const struct golden {
    const char *name;
    struct kvn_frame frame;
    uint32_t payload; /* bytes of payload; of padding, in a HELLO */
} golden[] = {
    {"hello",
     {.version = KVN_WIRE_VERSION,
      .type = KVN_PACKET_HELLO,
      .versions = 0x24,
      .hello = {0xa1b2c3d4, 8228, 4, 262144, 4194304, 512, 0}},
     1152},
    {"hello_ack",
     {.version = KVN_WIRE_VERSION,
      .type = KVN_PACKET_HELLO_ACK,
      .conn = 0xa1b2c3d4,
      .versions = 0x404,
      .hello = {0x55667788, 8972, 8, 262144, 4194304, 512, 0}},
     1152},
    {"data",
     {.version = KVN_WIRE_VERSION,
      .type = KVN_PACKET_DATA,
      .flags = KVN_FLAG_ACK_NOW,
      .path = 2,
      .slice = 3,
      .conn = 0x55667788,
      .pn = 0x1122334455,
      .data = {7, 0x41, 0x10000, 24582, 8192, 0xcafe}},
     6},
    {"msg",
     {.version = KVN_WIRE_VERSION,
      .type = KVN_PACKET_MSG,
      .flags = KVN_FLAG_AGAIN,
      .conn = 0x55667788,
      .pn = 9,
      .stream_at = 0x123456},
     6},
    {"ack",
     {.version = KVN_WIRE_VERSION,
      .type = KVN_PACKET_ACK,
      .conn = 0xa1b2c3d4,
      .pn = 12,
      .ack = {100, 50, 300000, 5000000, 7, 2, 3, {{91, 101}, {80, 90}, {1, 5}}}},
     0},
    {"ping",
     {.version = KVN_WIRE_VERSION, .type = KVN_PACKET_PING, .flags = 1, .conn = 1, .pn = 1},
     0},
    {"goodbye",
     {.version = KVN_WIRE_VERSION,
      .type = KVN_PACKET_GOODBYE,
      .conn = 2,
      .pn = 77,
      .goodbye = KVW_E_PROTOCOL},
     0},
    {"reset",
     {.version = KVN_WIRE_VERSION,
      .type = KVN_PACKET_RESET,
      .versions = 0x404,
      .reset = {0x55667788, KVN_RESET_UNKNOWN}},
     0},
    {"challenge",
     {.version = KVN_WIRE_VERSION,
      .type = KVN_PACKET_CHALLENGE,
      .path = 7,
      .conn = 0x55667788,
      .pn = 1,
      .token = 0x0123456789abcdef},
     0},
    {"response",
     {.version = KVN_WIRE_VERSION,
      .type = KVN_PACKET_RESPONSE,
      .path = 7,
      .conn = 0xa1b2c3d4,
      .pn = 1,
      .token = 0x0123456789abcdef},
     0},
    {"nack",
     {.version = KVN_WIRE_VERSION,
      .type = KVN_PACKET_NACK,
      .conn = 0xa1b2c3d4,
      .pn = 13,
      .nack = {2, {{7, 0, 2}, {9, 31, 1}}}},
     0},
};
#define GOLDEN (sizeof(golden) / sizeof(golden[0]))

static uint32_t build(uint8_t *out, const struct golden *g)
{
    static const uint8_t padding[2000];
    const bool hello = g->frame.type <= KVN_PACKET_HELLO_ACK;
    const struct kvw_iov body = {hello ? (const void *)padding : "kvwire", g->payload};
    const uint32_t head = kvn_frame_encode(out, &g->frame);

    kvn_frame_seal(out, head, &body, g->payload > 0, &(struct kvw_iov){0});
    memcpy(out + head, body.base, body.bytes);
    return head + body.bytes;
}

Test(frame, golden_bytes)
{
    const char *const folder = getenv("KVN_GOLDEN");

    cr_assert_not_null(folder, "KVN_GOLDEN names the folder tests/golden/packet");
    for (uint32_t i = 0; i < GOLDEN; ++i) {
        uint8_t want[2000], got[2000];
        char path[512];
        size_t n;
        FILE *f;

        snprintf(path, sizeof(path), "%s/%s.bin", folder, golden[i].name);
        if (getenv("KVN_GOLDEN_WRITE") != NULL) { /* a new wire version, or a new packet */
            f = fopen(path, "wb");
            cr_assert_not_null(f);
            n = build(got, &golden[i]);
            cr_assert_eq(fwrite(got, 1, n, f), n);
            fclose(f);
        }
        f = fopen(path, "rb");
        cr_assert_not_null(f, "%s", path);
        n = fread(want, 1, sizeof(want), f);
        fclose(f);
        cr_assert_eq(build(got, &golden[i]), n, "%s", golden[i].name);
        cr_expect(memcmp(want, got, n) == 0, "%s changed", golden[i].name);
    }
}

Test(frame, round_trip)
{
    for (uint32_t i = 0; i < GOLDEN; ++i) {
        const struct kvn_frame *in = &golden[i].frame;
        uint8_t wire[2000];
        const uint32_t n = build(wire, &golden[i]);
        struct kvn_frame out;

        memset(&out, 0xff, sizeof(out));
        cr_assert_eq(kvn_frame_decode(&out, KVN_VERSIONS, wire, n), KVW_OK, "%s", golden[i].name);
        cr_expect(out.version == in->version && out.type == in->type && out.flags == in->flags &&
                      out.path == in->path && out.slice == in->slice && out.conn == in->conn &&
                      out.pn == (uint32_t)in->pn,
                  "%s", golden[i].name);
        switch (in->type) {
        case KVN_PACKET_HELLO:
        case KVN_PACKET_HELLO_ACK:
            cr_expect(memcmp(&out.hello, &in->hello, sizeof(in->hello)) == 0);
            cr_expect_eq(out.versions, in->versions);
            break;
        case KVN_PACKET_DATA:
            cr_expect(memcmp(&out.data, &in->data, offsetof(struct kvn_data, imm) + 4) == 0);
            cr_expect(out.payload_bytes == 6 && memcmp(out.payload, "kvwire", 6) == 0);
            break;
        case KVN_PACKET_MSG:
            cr_expect_eq(out.stream_at, in->stream_at);
            cr_expect(out.payload_bytes == 6 && memcmp(out.payload, "kvwire", 6) == 0);
            break;
        case KVN_PACKET_ACK:
            cr_expect(out.ack.largest == 100 && out.ack.delay == 50 && out.ack.count == 3 &&
                      out.ack.stream_ends == 300000 && out.ack.credit == 5000000 &&
                      out.ack.ce == 7 && out.ack.path == 2);
            cr_expect(memcmp(out.ack.range, in->ack.range, 3 * sizeof(struct kvn_range)) == 0);
            break;
        case KVN_PACKET_GOODBYE:
            cr_expect_eq(out.goodbye, KVW_E_PROTOCOL);
            break;
        case KVN_PACKET_RESET:
            cr_expect(out.reset.id == 0x55667788 && out.reset.reason == KVN_RESET_UNKNOWN);
            cr_expect_eq(out.versions, 0x404);
            break;
        case KVN_PACKET_CHALLENGE:
        case KVN_PACKET_RESPONSE:
            cr_expect_eq(out.token, in->token);
            break;
        case KVN_PACKET_NACK:
            cr_expect(out.nack.count == 2 && memcmp(out.nack.missing, in->nack.missing,
                                                    2 * sizeof(struct kvn_missing)) == 0);
            break;
        default:
            break;
        }
    }
}

/* Any bit of the first hundred bytes and of the last ten; any length that is too short. */
Test(frame, damage_is_noticed)
{
    for (uint32_t i = 0; i < GOLDEN; ++i) {
        uint8_t wire[2000];
        const uint32_t n = build(wire, &golden[i]);
        struct kvn_frame out;

        for (uint32_t bit = 0; bit < n * 8; ++bit) {
            if (bit >= 800 && bit < (n - 10) * 8)
                continue;
            wire[bit / 8] ^= (uint8_t)(1u << bit % 8);
            cr_assert_neq(kvn_frame_decode(&out, KVN_VERSIONS, wire, n), KVW_OK, "%s, bit %u",
                          golden[i].name, bit);
            wire[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        for (uint32_t len = 0; len < n; ++len)
            cr_assert_neq(kvn_frame_decode(&out, KVN_VERSIONS, wire, len), KVW_OK, "%s, %u bytes",
                          golden[i].name, len);
    }
}

/* Well sealed nonsense: field at, bytes, value. */
static const struct nonsense {
    const char *what;
    uint32_t golden, at, bytes;
    uint64_t value;
    kvw_err err;
} nonsense[] = {
    {"type 0", 5, 0, 1, 0x20, KVW_E_PROTOCOL},
    {"type 12", 5, 0, 1, 0x2c, KVW_E_PROTOCOL},
    {"version 1", 5, 0, 1, 0x16, KVW_E_VERSION},
    {"version 3", 5, 0, 1, 0x36, KVW_E_VERSION},
    {"HELLO without a source", 0, 24, 4, 0, KVW_E_PROTOCOL},
    {"HELLO whose version its sender doesn't speak", 0, 20, 2, 0x20, KVW_E_PROTOCOL},
    {"HELLO longer than its sender takes", 0, 28, 4, 1199, KVW_E_PROTOCOL},
    {"HELLO as long as its sender takes", 0, 28, 4, 1200, KVW_OK},
    {"HELLO of a sender that takes all", 0, 28, 4, 65507, KVW_OK},
    {"HELLO that takes what UDP doesn't carry", 0, 28, 4, 65508, KVW_E_PROTOCOL},
    {"HELLO without a path", 0, 32, 4, 0, KVW_E_PROTOCOL},
    {"HELLO with nine", 0, 32, 4, 9, KVW_E_PROTOCOL},
    {"HELLO with a small stream", 0, 36, 4, 1000, KVW_E_PROTOCOL},
    {"HELLO that takes nothing", 0, 40, 4, 100, KVW_E_PROTOCOL},
    {"HELLO with 500 puts", 0, 44, 4, 500, KVW_E_PROTOCOL},
    {"slice beyond the put", 2, 2, 2, 4, KVW_E_PROTOCOL},
    {"slice of another length", 2, 2, 2, 2, KVW_E_PROTOCOL},
    {"last slice of another length", 2, 28, 4, 24582 | 128 << 20, KVW_E_PROTOCOL},
    {"tiny slices", 2, 28, 4, 24581 | 17 << 20, KVW_E_PROTOCOL},
    {"slices that no packet holds", 2, 28, 4, 24581 | 1023u << 20, KVW_E_PROTOCOL},
    {"slices of nothing", 2, 28, 4, 24581, KVW_E_PROTOCOL},
    {"stream that wraps", 3, 16, 8, UINT64_MAX - 3, KVW_E_PROTOCOL},
    {"ACK without ranges", 4, 48, 2, 0, KVW_E_PROTOCOL},
    {"ACK with too many", 4, 48, 2, 33, KVW_E_PROTOCOL},
    {"ACK with more than it holds", 4, 48, 2, 4, KVW_E_TRUNCATED},
    {"ACK of the number after which there is none", 4, 16, 8, UINT64_MAX, KVW_E_PROTOCOL},
    {"ACK whose first range has a gap", 4, 52, 4, 1, KVW_E_PROTOCOL},
    {"ACK whose second has none", 4, 60, 4, 0, KVW_E_PROTOCOL},
    {"ACK with an empty range", 4, 56, 4, 0, KVW_E_PROTOCOL},
    {"ACK below zero", 4, 56, 4, 102, KVW_E_PROTOCOL},
    {"ACK far below zero", 4, 72, 4, UINT32_MAX, KVW_E_PROTOCOL},
    {"ACK of a ninth path", 4, 50, 1, 8, KVW_E_PROTOCOL},
    {"NACK of nothing", 10, 16, 2, 0, KVW_E_PROTOCOL},
    {"NACK of too much", 10, 16, 2, 17, KVW_E_PROTOCOL},
    {"NACK with more than it holds", 10, 16, 2, 3, KVW_E_TRUNCATED},
    {"NACK of no slice", 10, 26, 2, 0, KVW_E_PROTOCOL},
    {"NACK beyond any put", 10, 24, 2, 1023, KVW_E_PROTOCOL},
};

Test(frame, nonsense_is_refused)
{
    for (uint32_t i = 0; i < sizeof(nonsense) / sizeof(nonsense[0]); ++i) {
        const struct nonsense *x = &nonsense[i];
        uint8_t wire[2000];
        const uint32_t n = build(wire, &golden[x->golden]);
        struct kvn_frame out;
        uint32_t crc_at;

        for (uint32_t b = 0; b < x->bytes; ++b)
            wire[x->at + b] = (uint8_t)(x->value >> 8 * b);
        crc_at = kvn_frame_crc_at(wire[0]);
        kvw_store_le32(wire + crc_at, 0);
        kvw_store_le32(wire + crc_at, kvn_crc32c(0, wire, n));
        cr_expect_eq(kvn_frame_decode(&out, KVN_VERSIONS, wire, n), x->err, "%s", x->what);
    }
}

/* A HELLO of another version is understood as far as its source id, whatever follows. */
Test(frame, hello_of_another_version)
{
    uint8_t wire[64] = {[0] = 0xe0 | KVN_PACKET_HELLO, [21] = 0x40, [24] = 0x78, [25] = 0x56};
    struct kvn_frame out;

    kvw_store_le32(wire + KVN_GREETING_CRC_AT, kvn_crc32c(0, wire, 40));
    cr_assert_eq(kvn_frame_decode(&out, KVN_VERSIONS, wire, 40), KVW_OK);
    cr_expect(out.version == 14 && out.versions == 0x4000 && out.hello.source == 0x5678);
}

/* DATA's digest may end where the slice begins; no other packet's may. */
Test(frame, head_only)
{
    uint8_t wire[KVN_DATA_BYTES + 64] = {0};
    struct kvn_frame out, data = {.version = KVN_WIRE_VERSION,
                                  .type = KVN_PACKET_DATA,
                                  .flags = KVN_FLAG_HEAD_ONLY,
                                  .data = {1, 2, 3, 64, 1152, 0}};
    const struct kvn_frame msg = {
        .version = KVN_WIRE_VERSION, .type = KVN_PACKET_MSG, .flags = KVN_FLAG_HEAD_ONLY};
    struct kvw_iov body = {wire + KVN_DATA_BYTES, 64};

    kvn_frame_seal(wire, kvn_frame_encode(wire, &data), &body, 1, &(struct kvw_iov){0});
    cr_assert_eq(kvn_frame_decode(&out, KVN_VERSIONS, wire, sizeof(wire)), KVW_OK);
    cr_expect(out.payload_bytes == 64 && out.flags == KVN_FLAG_HEAD_ONLY);
    wire[KVN_DATA_BYTES] ^= 1;
    cr_expect_eq(kvn_frame_decode(&out, KVN_VERSIONS, wire, sizeof(wire)), KVW_OK);
    for (uint32_t bit = 0; bit < 8 * KVN_DATA_BYTES; ++bit) {
        wire[bit / 8] ^= (uint8_t)(1 << bit % 8);
        cr_expect_neq(kvn_frame_decode(&out, KVN_VERSIONS, wire, sizeof(wire)), KVW_OK, "%u", bit);
        wire[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    body.base = wire + KVN_MSG_BYTES;
    memset(wire, 0, sizeof(wire));
    kvn_frame_seal(wire, kvn_frame_encode(wire, &msg), &body, 1, &(struct kvw_iov){0});
    cr_assert_eq(kvn_frame_decode(&out, KVN_VERSIONS, wire, KVN_MSG_BYTES + 64), KVW_OK);
    wire[KVN_MSG_BYTES] ^= 1;
    cr_expect_eq(kvn_frame_decode(&out, KVN_VERSIONS, wire, KVN_MSG_BYTES + 64), KVW_E_CHECKSUM);
}

/* The widest place that DATA can name. */
Test(frame, region_and_offset_share_a_word)
{
    uint8_t wire[KVN_DATA_BYTES + 1] = {0};
    struct kvn_frame out, in = {.version = KVN_WIRE_VERSION,
                                .type = KVN_PACKET_DATA,
                                .data = {1, KVN_REGION_MAX, KVN_OFFSET_MAX - 1, 1, 1152, 0}};
    const struct kvw_iov body = {"x", 1};

    for (uint32_t i = 0; i < 2; ++i) {
        kvn_frame_seal(wire, kvn_frame_encode(wire, &in), &body, 1, &(struct kvw_iov){0});
        wire[KVN_DATA_BYTES] = 'x';
        cr_assert_eq(kvn_frame_decode(&out, KVN_VERSIONS, wire, sizeof(wire)), KVW_OK);
        cr_expect(out.data.region == in.data.region && out.data.offset == in.data.offset);
        in.data.region = 1;
    }
}

/* The low half of a number tells the whole, up to 2^31 away from what is expected. */
Test(seen, whole_numbers_from_their_low_half)
{
    static const struct {
        uint64_t largest, number;
    } cases[] = {
        {0, 1},
        {0, 0x80000000},
        {0, 0x90000000}, /* none below 0 is meant */
        {5, 0},
        {100, 3},
        {0xfffffffe, 0xffffffff},
        {0xffffffff, 0x100000000},
        {0xffffffff, 0xfffffff0},
        {0x100000000, 0xffffffff},
        {0x100000005, 0x180000005},
        {0x100000005, 0x80000006},
        {0x1122334455, 0x1122334456},
        {UINT64_MAX - 1, UINT64_MAX},
        {UINT64_MAX - 1, UINT64_MAX - 0x7fffffff},
    };

    for (uint32_t i = 0; i < sizeof(cases) / sizeof(cases[0]); ++i)
        cr_expect_eq(kvn_seen_number(cases[i].largest, (uint32_t)cases[i].number), cases[i].number,
                     "%llx after %llx", (unsigned long long)cases[i].number,
                     (unsigned long long)cases[i].largest);
}

/* Vectors, the CPU's instruction and the table agree on any length and any cut, and on the known
 * value. */
Test(crc32c, reference)
{
    static uint8_t bytes[20000];

    for (uint32_t i = 0; i < sizeof(bytes); ++i)
        bytes[i] = (uint8_t)(i * 2654435761u >> 21);
    cr_expect_eq(kvn_crc32c(0, "123456789", 9), 0xe3069283u);
    cr_expect_eq(kvn_crc32c_table(0, "123456789", 9), 0xe3069283u);
    for (uint32_t n = 0; n < 20000; n = n < 2000 ? n + 1 : n + 397) {
        const uint32_t want = kvn_crc32c_table(0, bytes, n), cut = n * 7 / 11;
        cr_assert_eq(kvn_crc32c(0, bytes, n), want, "%u bytes", n);
        cr_assert_eq(kvn_crc32c_scalar(0, bytes, n), want, "%u bytes", n);
        /* What comes next may be anywhere, and isn't read. */
        cr_assert_eq(kvn_crc32c_before(0, bytes, n, (const void *)(uintptr_t)4096, 1u << 20), want);
        cr_assert_eq(kvn_crc32c(kvn_crc32c(0, bytes, cut), bytes + cut, n - cut), want);
    }
}
