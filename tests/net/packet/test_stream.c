/* SPDX-License-Identifier: Apache-2.0 */
/* Messages come out whole, once, in order; no byte beyond what the peer was told is taken, and
 * nothing that isn't read yet is overwritten. */
#include <criterion/criterion.h>
#include <string.h>

#include "../../../kvwire/wire/le.h"
#include "../../../net/packet/stream.h"

static uint8_t ring[KVN_STREAM_BYTES], wrap[KVW_MSG_BYTES_MAX], out_ring[KVN_STREAM_BYTES];
static uint8_t bytes[KVN_STREAM_BYTES + 8];
static struct kvn_stream_in in;
static struct kvn_stream_out out;

/* The next message of n bytes, all of them `fill`, at its place of the stream. */
static uint64_t feed(uint64_t at, uint32_t n, uint8_t fill)
{
    kvw_store_le32(bytes, n);
    memset(bytes + 4, fill, n);
    cr_assert_eq(kvn_stream_in_take(&in, at, bytes, n + 4), KVW_OK);
    return at + n + 4;
}

static void expect(uint32_t n, uint8_t fill)
{
    const void *msg = NULL;
    uint32_t got = 0;

    cr_assert(kvn_stream_in_ready(&in));
    cr_assert_eq(kvn_stream_in_next(&in, &msg, &got), KVW_OK);
    cr_assert_eq(got, n);
    for (uint32_t i = 0; i < n; ++i)
        cr_assert_eq(((const uint8_t *)msg)[i], fill, "byte %u of %u", i, n);
}

static void expect_none(void)
{
    const void *msg;
    uint32_t got;

    cr_expect_not(kvn_stream_in_ready(&in));
    cr_expect_eq(kvn_stream_in_next(&in, &msg, &got), KVW_E_AGAIN);
}

/* Exactly to the limit and not one byte further, wherever that byte lies. */
Test(stream, the_told_limit)
{
    kvn_stream_in_begin(&in, ring, wrap);
    cr_expect_eq(kvn_stream_in_take(&in, KVN_STREAM_BYTES, bytes, 1), KVW_E_PROTOCOL);
    cr_expect_eq(kvn_stream_in_take(&in, KVN_STREAM_BYTES - 1, bytes, 2), KVW_E_PROTOCOL);
    cr_expect_eq(kvn_stream_in_take(&in, 0, bytes, KVN_STREAM_BYTES + 1), KVW_E_PROTOCOL);
    cr_expect_eq(kvn_stream_in_take(&in, KVN_STREAM_BYTES - 1, bytes, 1), KVW_OK);
}

/* Room that was made counts for the peer only once it is told. */
Test(stream, nothing_unread_is_overwritten)
{
    const uint32_t n = KVW_MSG_BYTES_MAX;
    uint64_t at = 0;

    kvn_stream_in_begin(&in, ring, wrap);
    for (uint8_t i = 0; i < 3; ++i)
        at = feed(at, n, i);
    expect(n, 0);
    kvn_stream_in_release(&in);
    memset(bytes, 0xee, sizeof(bytes));
    cr_expect_eq(kvn_stream_in_take(&in, KVN_STREAM_BYTES, bytes, 4), KVW_E_PROTOCOL,
                 "nobody was told");
    cr_expect_eq(kvn_stream_in_limit(&in), KVN_STREAM_BYTES + n + 4);
    cr_expect_eq(kvn_stream_in_take(&in, at, bytes, KVN_STREAM_BYTES - 2 * (n + 4)), KVW_OK);
    cr_expect_eq(kvn_stream_in_take(&in, at + KVN_STREAM_BYTES - 2 * (n + 4), bytes, 1),
                 KVW_E_PROTOCOL, "over the second message's length");
    expect(n, 1);
    expect(n, 2);
}

/* A delivered message stays as it is until it is released, whatever comes. */
Test(stream, what_was_handed_out_stays)
{
    const void *msg;
    uint32_t n;

    kvn_stream_in_begin(&in, ring, wrap);
    feed(0, 100, 7);
    cr_assert_eq(kvn_stream_in_next(&in, &msg, &n), KVW_OK);
    memset(bytes, 0xee, 200);
    cr_expect_eq(kvn_stream_in_take(&in, 4, bytes, 100), KVW_OK); /* again, with other bytes */
    cr_expect_eq(kvn_stream_in_take(&in, 50, bytes, 58), KVW_OK); /* and beyond */
    for (uint32_t i = 0; i < 100; ++i)
        cr_assert_eq(((const uint8_t *)msg)[i], 7);
    cr_expect_eq(in.end, 108);
    cr_expect_eq(kvn_stream_in_limit(&in), KVN_STREAM_BYTES, "not released: no more room");
}

Test(stream, in_order_whatever_the_order)
{
    uint8_t wire[64];

    kvn_stream_in_begin(&in, ring, wrap);
    for (uint32_t i = 0; i < 3; ++i) {
        kvw_store_le32(wire + 14 * i, 10);
        memset(wire + 14 * i + 4, (int)i, 10);
    }
    cr_assert_eq(kvn_stream_in_take(&in, 14, wire + 14, 28), KVW_OK);
    expect_none();
    cr_assert_eq(kvn_stream_in_take(&in, 3, wire + 3, 11), KVW_OK);
    expect_none();
    cr_assert_eq(kvn_stream_in_take(&in, 0, wire, 3), KVW_OK);
    for (uint8_t i = 0; i < 3; ++i)
        expect(10, i);
    expect_none();
}

Test(stream, lengths_out_of_range)
{
    static const uint32_t wrong[] = {0, KVW_MSG_BYTES_MAX + 1, UINT32_MAX};
    const void *msg;
    uint32_t n;

    for (uint32_t i = 0; i < 3; ++i) {
        kvn_stream_in_begin(&in, ring, wrap);
        kvw_store_le32(bytes, wrong[i]);
        cr_assert_eq(kvn_stream_in_take(&in, 0, bytes, 4), KVW_OK);
        cr_expect(kvn_stream_in_ready(&in));
        cr_expect_eq(kvn_stream_in_next(&in, &msg, &n), KVW_E_PROTOCOL, "%u", wrong[i]);
    }
    kvn_stream_in_begin(&in, ring, wrap);
    feed(0, KVW_MSG_BYTES_MAX, 3);
    expect(KVW_MSG_BYTES_MAX, 3);
}

/* Across the ring's end: straight up to its last byte, through wrap beyond. */
Test(stream, over_the_end_of_the_ring)
{
    for (uint32_t beyond = 0; beyond < 3; ++beyond) {
        uint64_t at = 0;

        kvn_stream_in_begin(&in, ring, wrap);
        for (uint32_t left = KVN_STREAM_BYTES - 104; left > 0;) {
            const uint32_t n = left - 4 < KVW_MSG_BYTES_MAX ? left - 4 : KVW_MSG_BYTES_MAX - 100;

            at = feed(at, n, 1);
            expect(n, 1);
            left -= n + 4;
        }
        kvn_stream_in_release(&in);
        (void)kvn_stream_in_limit(&in);
        at = feed(at, 100 + beyond, 2);
        feed(at, 50, 3);
        expect(100 + beyond, 2);
        expect(50, 3);
    }
}

/* Half of what the peer knew is used up. */
Test(stream, more_room_is_worth_telling)
{
    kvn_stream_in_begin(&in, ring, wrap);
    feed(0, KVW_MSG_BYTES_MAX, 1);
    feed(KVW_MSG_BYTES_MAX + 4, KVW_MSG_BYTES_MAX - 9, 1);
    expect(KVW_MSG_BYTES_MAX, 1);
    expect(KVW_MSG_BYTES_MAX - 9, 1);
    cr_expect_not(kvn_stream_in_reopened(&in), "one byte less than half");
    feed(2 * KVW_MSG_BYTES_MAX - 1, 1, 1);
    expect(1, 1);
    cr_expect(kvn_stream_in_reopened(&in));
}

/* --- the sender's side --- */

static struct kvn_stretch take(uint32_t max)
{
    struct kvn_stretch s;

    kvn_stream_out_take(&out, max, &s);
    return s;
}

Test(stream, never_beyond_the_peers_limit)
{
    struct kvn_stretch s;

    kvn_stream_out_begin(&out, out_ring, 10);
    cr_expect_not(kvn_stream_out_ready(&out));
    cr_assert_eq(kvn_stream_out_push(&out, bytes, 20), KVW_OK);
    cr_expect(kvn_stream_out_ready(&out));
    cr_expect_not(kvn_stream_out_blocked(&out));
    s = take(6);
    cr_expect(s.at == 0 && s.bytes == 6 && !s.again);
    s = take(100);
    cr_expect(s.at == 6 && s.bytes == 4);
    cr_expect_eq(take(100).bytes, 0);
    cr_expect_not(kvn_stream_out_ready(&out));
    cr_expect(kvn_stream_out_blocked(&out));
    out.limit = 11;
    cr_expect_eq(take(100).bytes, 1);
    out.limit = 1000;
    cr_expect_eq(take(100).bytes, 13);
    cr_expect_not(kvn_stream_out_blocked(&out));
}

Test(stream, lost_bytes_go_first_and_only_once)
{
    struct kvn_stretch s;

    kvn_stream_out_begin(&out, out_ring, 1000);
    cr_assert_eq(kvn_stream_out_push(&out, bytes, 96), KVW_OK);
    take(10);
    take(10);
    take(10);
    kvn_stream_out_lost(&out, 10, 10);
    kvn_stream_out_arrived(&out, 0, 10);
    s = take(4);
    cr_expect(s.at == 10 && s.bytes == 4 && s.again);
    s = take(100);
    cr_expect(s.at == 14 && s.bytes == 6 && s.again);
    kvn_stream_out_lost(&out, 10, 10);
    kvn_stream_out_arrived(&out, 10, 10); /* late */
    s = take(100);
    cr_expect(s.at == 30 && !s.again, "%llu", (unsigned long long)s.at);
    kvn_stream_out_lost(&out, 0, 20);
    cr_expect_eq(take(100).bytes, 0, "it has arrived");
    cr_expect_eq(out.tail, 20);
}

Test(stream, the_ring_is_full_at_its_size)
{
    uint32_t n = 0;

    kvn_stream_out_begin(&out, out_ring, UINT64_MAX);
    while (kvn_stream_out_push(&out, bytes, 1020) == KVW_OK)
        ++n;
    cr_expect_eq(n, KVN_STREAM_BYTES / 1024);
    cr_expect_eq(kvn_stream_out_push(&out, bytes, 1), KVW_E_AGAIN);
    take(1024);
    kvn_stream_out_arrived(&out, 0, 1023);
    cr_expect_eq(kvn_stream_out_push(&out, bytes, 1020), KVW_E_AGAIN);
    kvn_stream_out_arrived(&out, 1023, 1);
    cr_expect_eq(kvn_stream_out_push(&out, bytes, 1020), KVW_OK);
}
