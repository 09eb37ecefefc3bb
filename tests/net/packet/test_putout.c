/* SPDX-License-Identifier: Apache-2.0 */
/* Every slice is sent until it has arrived and not beyond what the peer granted; a put is over
 * once, in order of ending, with the right outcome. */
#include <criterion/criterion.h>
#include <string.h>

#include "../../../kvwire/wire/le.h"
#include "../../../net/packet/putout.h"

#define SLICE 1152u
#define CUT   (SLICE / KVN_SLICE_ALIGN)

static struct kvn_put_out slots[KVN_PUTS_FIRST];
static struct kvn_puts_out p;
static uint8_t memory[100000];

static void begin(uint32_t window, uint64_t credit)
{
    memset(slots, 0, sizeof(slots));
    kvn_puts_out_begin(&p, slots);
    kvn_puts_out_agreed(&p, SLICE, window, credit);
}

static kvw_err push(uint32_t bytes)
{
    struct kvw_put put = {.iov = {{memory, bytes}}, .iov_count = 1, .cookie = p.next};

    return kvn_puts_out_push(&p, &put, bytes);
}

static void expect_done(uint64_t cookie, kvw_err err)
{
    uint64_t got = 99999;
    kvw_err e = KVW_E_IO;

    cr_assert(kvn_puts_out_next_done(&p, &got, &e));
    cr_expect(got == cookie && e == err, "put %llu: %d", (unsigned long long)got, e);
}

static void expect_none_done(void)
{
    uint64_t cookie;
    kvw_err err;

    cr_expect_not(kvn_puts_out_next_done(&p, &cookie, &err));
}

Test(putout, slices_in_order_then_done)
{
    begin(512, 1 << 20);
    cr_expect_not(kvn_puts_out_ready(&p));
    cr_assert_eq(push(2 * SLICE + 1), KVW_OK);
    for (uint32_t i = 0; i < 3; ++i) {
        const struct kvn_slice s = kvn_puts_out_take(&p);

        cr_expect(s.put == 0 && s.number == i && s.bytes == (i < 2 ? SLICE : 1) && !s.again);
    }
    cr_expect_not(kvn_puts_out_ready(&p));
    cr_expect_eq(p.sent, 2 * SLICE + 1);
    kvn_puts_out_arrived(&p, 0, 2, CUT);
    kvn_puts_out_arrived(&p, 0, 2, CUT);
    kvn_puts_out_arrived(&p, 0, 0, CUT);
    expect_none_done();
    kvn_puts_out_arrived(&p, 0, 1, CUT);
    expect_done(0, KVW_OK);
    expect_none_done();
    cr_expect_eq(p.first, 1);
}

Test(putout, the_credit_is_exact)
{
    begin(512, 2 * SLICE - 1);
    cr_assert_eq(push(2 * SLICE), KVW_OK);
    cr_expect(kvn_puts_out_ready(&p) && !kvn_puts_out_blocked(&p));
    kvn_puts_out_take(&p);
    cr_expect(!kvn_puts_out_ready(&p) && kvn_puts_out_blocked(&p));
    ++p.credit;
    cr_expect(kvn_puts_out_ready(&p) && !kvn_puts_out_blocked(&p));
    kvn_puts_out_take(&p);
    cr_expect(!kvn_puts_out_ready(&p) && !kvn_puts_out_blocked(&p), "nothing is left");
    kvn_puts_out_lost(&p, 0, 0, CUT);
    cr_expect(kvn_puts_out_ready(&p), "what goes again was counted before");
}

Test(putout, no_more_puts_than_the_peer_tracks)
{
    begin(2, 1 << 20);
    for (uint32_t i = 0; i < 3; ++i)
        cr_assert_eq(push(10), KVW_OK);
    kvn_puts_out_take(&p);
    cr_expect_eq(kvn_puts_out_take(&p).put, 1);
    cr_expect(!kvn_puts_out_ready(&p) && !kvn_puts_out_blocked(&p));
    kvn_puts_out_arrived(&p, 1, 0, CUT);
    expect_done(1, KVW_OK);
    cr_expect_not(kvn_puts_out_ready(&p), "0 isn't over");
    kvn_puts_out_arrived(&p, 0, 0, CUT);
    expect_done(0, KVW_OK);
    cr_expect_eq(kvn_puts_out_take(&p).put, 2);
}

Test(putout, lost_slices_first_and_once)
{
    struct kvn_slice s;

    begin(512, 1 << 20);
    cr_assert_eq(push(70 * SLICE), KVW_OK);
    for (uint32_t i = 0; i < 69; ++i)
        kvn_puts_out_take(&p);
    kvn_puts_out_lost(&p, 0, 69, CUT);
    cr_expect_eq(p.lost_count, 0, "it was never sent");
    kvn_puts_out_lost(&p, 0, 65, CUT);
    kvn_puts_out_lost(&p, 0, 65, CUT);
    kvn_puts_out_lost(&p, 0, 3, CUT);
    kvn_puts_out_lost(&p, 0, 4, CUT + 1); /* of another cut */
    cr_expect_eq(p.lost_count, 2);
    s = kvn_puts_out_take(&p);
    cr_expect(s.number == 3 && s.again);
    kvn_puts_out_arrived(&p, 0, 65, CUT); /* late */
    cr_expect_eq(p.lost_count, 0);
    s = kvn_puts_out_take(&p);
    cr_expect(s.number == 69 && !s.again);
    cr_expect_not(kvn_puts_out_ready(&p));
    kvn_puts_out_lost(&p, 0, 65, CUT);
    cr_expect_eq(p.lost_count, 0, "it has arrived");
}

/* Cut anew: from the first byte, its count given back, never longer again. */
Test(putout, cut_anew)
{
    struct kvn_slice s;

    begin(512, 1 << 20);
    kvn_puts_out_agreed(&p, 2 * SLICE, 512, 1 << 20);
    cr_assert_eq(push(3 * SLICE), KVW_OK);
    cr_assert_eq(push(10), KVW_OK);
    kvn_puts_out_take(&p);
    kvn_puts_out_take(&p);
    kvn_puts_out_take(&p);
    kvn_puts_out_arrived(&p, 0, 0, 2 * CUT);
    kvn_puts_out_lost(&p, 0, 1, 2 * CUT);
    kvn_puts_out_recut(&p, SLICE);
    cr_expect(p.sent == 0 && p.lost_count == 0, "%llu", (unsigned long long)p.sent);
    for (uint32_t i = 0; i < 3; ++i) {
        s = kvn_puts_out_take(&p);
        cr_expect(s.put == 0 && s.number == i && s.bytes == SLICE);
    }
    s = kvn_puts_out_take(&p);
    cr_expect(s.put == 1 && s.bytes == 10);
    kvn_puts_out_recut(&p, 2 * SLICE);
    cr_expect_eq(p.sent, 3 * SLICE + 10, "longer ones change nothing that has begun");
    for (uint32_t i = 0; i < 3; ++i)
        kvn_puts_out_arrived(&p, 0, i, 2 * CUT); /* of before */
    kvn_puts_out_lost(&p, 0, 1, 2 * CUT);
    cr_expect_eq(p.lost_count, 0);
    expect_none_done();
    for (uint32_t i = 0; i < 3; ++i)
        kvn_puts_out_arrived(&p, 0, i, CUT);
    expect_done(0, KVW_OK);
}

/* One that has been cut into the shorter ones already, and one that waits, keep what they have. */
Test(putout, puts_that_did_not_begin_take_what_fits_then)
{
    begin(512, 1 << 20);
    cr_assert_eq(push(3 * SLICE), KVW_OK);
    kvn_puts_out_recut(&p, 2 * SLICE);
    cr_expect_eq(kvn_puts_out_take(&p).bytes, 2 * SLICE);
}

Test(putout, slots_run_out_at_their_number)
{
    begin(512, 1 << 20);
    for (uint32_t i = 0; i < KVN_PUTS_FIRST; ++i)
        cr_assert_eq(push(10), KVW_OK);
    cr_expect_eq(push(10), KVW_E_AGAIN);
    kvn_puts_out_take(&p);
    kvn_puts_out_arrived(&p, 0, 0, CUT);
    cr_expect_eq(push(10), KVW_E_AGAIN, "not taken yet");
    expect_done(0, KVW_OK);
    cr_expect_eq(push(10), KVW_OK);
    cr_expect_null(kvn_puts_out_find(&p, 0));
    cr_expect_not_null(kvn_puts_out_find(&p, KVN_PUTS_FIRST));
    cr_expect_null(kvn_puts_out_find(&p, KVN_PUTS_FIRST + 1));
}

Test(putout, all_fail_once)
{
    begin(512, 1 << 20);
    for (uint32_t i = 0; i < 3; ++i)
        cr_assert_eq(push(10), KVW_OK);
    kvn_puts_out_take(&p);
    kvn_puts_out_take(&p);
    kvn_puts_out_arrived(&p, 1, 0, CUT);
    kvn_puts_out_lost(&p, 0, 0, CUT);
    kvn_puts_out_fail(&p, KVW_E_PEER_LOST);
    cr_expect_not(kvn_puts_out_ready(&p));
    kvn_puts_out_arrived(&p, 0, 0, CUT);
    expect_done(1, KVW_OK);
    expect_done(0, KVW_E_PEER_LOST);
    expect_done(2, KVW_E_PEER_LOST);
    expect_none_done();
}

/* A slice's bytes lie where its pieces say, empty ones left out. */
Test(putout, pieces)
{
    struct kvw_put put = {.iov = {{memory, 0}, {memory + 10, 1000}, {memory + 2000, 500}},
                          .iov_count = 3};
    struct kvw_iov piece[KVW_PUT_IOV_MAX];
    struct kvn_slice s;

    begin(512, 1 << 20);
    cr_assert_eq(kvn_puts_out_push(&p, &put, 1500), KVW_OK);
    s = kvn_puts_out_take(&p);
    cr_assert_eq(kvn_puts_out_pieces(&s, piece), 2);
    cr_expect(piece[0].base == memory + 10 && piece[0].bytes == 1000);
    cr_expect(piece[1].base == memory + 2000 && piece[1].bytes == 152);
    s = kvn_puts_out_take(&p);
    cr_assert_eq(kvn_puts_out_pieces(&s, piece), 1);
    cr_expect(piece[0].base == memory + 2152 && piece[0].bytes == 348);
}

/* What DATA can't name is still out of every region. */
Test(putout, places_beyond_what_data_can_name)
{
    struct kvw_put put = {.iov = {{memory, 10}}, .iov_count = 1, .offset = KVN_OFFSET_MAX + 1};

    begin(512, 1 << 20);
    cr_assert_eq(kvn_puts_out_push(&p, &put, 10), KVW_OK);
    cr_expect_eq(slots[0].offset, KVN_OFFSET_MAX);
    put.offset = 5;
    kvw_store_le32(put.key.bytes, KVN_REGION_MAX + 1);
    cr_assert_eq(kvn_puts_out_push(&p, &put, 10), KVW_OK);
    cr_expect(slots[1].offset == KVN_OFFSET_MAX && slots[1].region <= KVN_REGION_MAX);
    kvw_store_le32(put.key.bytes, KVN_REGION_MAX);
    cr_assert_eq(kvn_puts_out_push(&p, &put, 10), KVW_OK);
    cr_expect(slots[2].offset == 5 && slots[2].region == KVN_REGION_MAX);
}

/* Twice the slots, with puts in every state: all that was known of them still is. */
Test(putout, more_slots_hold_the_same_puts)
{
    begin(KVN_PUTS_MAX, 1 << 20);
    for (uint32_t i = 0; i < 300; ++i) {
        cr_assert_eq(push(10), KVW_OK);
        kvn_puts_out_take(&p);
        kvn_puts_out_arrived(&p, i, 0, CUT);
        expect_done(i, KVW_OK);
    }
    for (uint32_t i = 0; i < KVN_PUTS_FIRST; ++i)
        cr_assert_eq(push(10), KVW_OK);
    for (uint32_t i = 0; i < 400; ++i)
        kvn_puts_out_take(&p);
    kvn_puts_out_lost(&p, 310, 0, CUT);
    kvn_puts_out_arrived(&p, 620, 0, CUT); /* done, in this order */
    kvn_puts_out_arrived(&p, 600, 0, CUT);
    cr_expect_eq(push(10), KVW_E_AGAIN);
    cr_assert(kvn_puts_out_grow(&p) && kvn_puts_out_grow(&p));
    for (uint32_t i = 0; i < 3 * KVN_PUTS_FIRST; ++i)
        cr_assert_eq(push(10), KVW_OK);
    cr_expect_eq(push(10), KVW_E_AGAIN);
    cr_expect_eq(kvn_puts_out_take(&p).put, 310, "the lost one first");
    cr_expect_eq(kvn_puts_out_take(&p).put, 700);
    expect_done(620, KVW_OK);
    expect_done(600, KVW_OK);
    cr_expect_null(kvn_puts_out_find(&p, 600));
    cr_expect_eq(kvn_puts_out_find(&p, 300)->bytes, 10);
    while (kvn_puts_out_grow(&p))
        ;
    cr_expect_eq(p.mask + 1, KVN_PUTS_MAX);
    kvn_puts_out_end(&p);
}
