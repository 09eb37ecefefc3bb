/* SPDX-License-Identifier: Apache-2.0 */
/* A put lands once, where it may, when all its slices came; the first put, byte, slice and credit
 * outside each bound is refused, and nothing is written then. */
#include <criterion/criterion.h>
#include <string.h>

#include "../../../net/packet/putin.h"

#define REGION 10000u
#define SLICE  1152u

static struct kvn_put_in slots[KVN_PUTS_FIRST];
static struct kvn_puts_in p;
static struct kvn_regions regions;
static struct kvw_region_key key;
static uint32_t number, asked;
static bool allows;
static uint8_t memory[REGION + 64], body[KVN_SLICE_MAX], untouched[REGION + 64];

static bool gate(void *arg, kvw_conn_id conn, uint64_t offset, uint32_t bytes, uint32_t imm)
{
    (void)arg, (void)conn, (void)offset, (void)bytes, (void)imm;
    ++asked;
    return allows;
}

static void begin(uint64_t credit)
{
    const struct kvw_mem mem = {.base = memory, .bytes = REGION, .kind = KVW_MEM_HOST};

    memset(memory, 0xee, sizeof(memory));
    memset(untouched, 0xee, sizeof(untouched));
    memset(body, 0x11, sizeof(body));
    asked = 0;
    allows = true;
    kvn_regions_begin(&regions);
    cr_assert_eq(kvn_regions_add(&regions, &mem, gate, NULL, &key), KVW_OK);
    number = kvn_region_number(&key);
    kvn_puts_in_end(&(struct kvn_puts_in){.slot = slots, .own = slots});
    kvn_puts_in_begin(&p, slots, credit);
}

static struct kvn_frame slice(uint32_t put, uint32_t n, uint64_t offset, uint32_t bytes)
{
    const uint32_t left = bytes - n * SLICE;

    return (struct kvn_frame){.slice = (uint16_t)n,
                              .data = {.put = put,
                                       .region = number,
                                       .offset = offset,
                                       .bytes = bytes,
                                       .slice = SLICE,
                                       .imm = put},
                              .payload = body,
                              .payload_bytes = left < SLICE ? left : SLICE};
}

static uint32_t fresh;

static kvw_err take(struct kvn_frame f)
{
    return kvn_puts_in_take(&p, &f, &regions, (kvw_conn_id){1}, &fresh);
}

static bool clean(void)
{
    return memcmp(memory, untouched, sizeof(memory)) == 0;
}

Test(putin, lands_once_when_whole)
{
    const struct kvn_data *d;

    begin(1 << 20);
    cr_expect_eq(take(slice(0, 2, 100, 3000)), KVW_OK);
    cr_expect_eq(fresh, 3000 - 2 * SLICE);
    cr_expect_eq(take(slice(0, 0, 100, 3000)), KVW_OK);
    cr_expect_eq(take(slice(0, 0, 100, 3000)), KVW_OK);
    cr_expect_eq(fresh, 0, "it had come before");
    cr_expect_null(kvn_puts_in_next_landed(&p));
    cr_expect_eq(take(slice(0, 1, 100, 3000)), KVW_OK);
    cr_expect_eq(take(slice(0, 1, 100, 3000)), KVW_OK);
    cr_expect(fresh == 0 && p.taken == 3000 && p.open == 0);
    d = kvn_puts_in_next_landed(&p);
    cr_assert_not_null(d);
    cr_expect(d->offset == 100 && d->bytes == 3000 && d->imm == 0);
    cr_expect_null(kvn_puts_in_next_landed(&p));
    cr_expect_eq(asked, 1);
    cr_expect_eq(p.first, 1);
    cr_expect_eq(take(slice(0, 1, 100, 3000)), KVW_OK);
    cr_expect_eq(fresh, 0, "its number is over");
    for (uint32_t i = 0; i < sizeof(memory); ++i)
        cr_assert_eq(memory[i], i >= 100 && i < 3100 ? 0x11 : 0xee, "byte %u", i);
}

Test(putin, ends_with_the_region)
{
    begin(1 << 20);
    cr_expect_eq(take(slice(0, 0, REGION - 100, 101)), KVW_E_PROTOCOL);
    cr_expect_eq(take(slice(0, 0, REGION, 1)), KVW_E_PROTOCOL);
    cr_expect_eq(take(slice(0, 0, REGION + 1, 1)), KVW_E_PROTOCOL);
    cr_expect_eq(take(slice(0, 0, KVN_OFFSET_MAX, 100)), KVW_E_PROTOCOL);
    cr_expect_eq(take(slice(0, 0, 0, REGION + 1)), KVW_E_PROTOCOL);
    cr_expect(clean() && asked == 0 && p.taken == 0 && p.open == 0);
    cr_expect_eq(take(slice(0, 0, REGION - 100, 100)), KVW_OK);
    cr_expect_eq(memory[REGION], 0xee);
}

Test(putin, the_gate_refuses)
{
    begin(1 << 20);
    allows = false;
    cr_expect_eq(take(slice(0, 0, 0, 100)), KVW_E_PROTOCOL);
    cr_expect(clean() && asked == 1 && p.open == 0);
}

Test(putin, a_region_that_goes_half_way)
{
    begin(1 << 20);
    cr_expect_eq(take(slice(0, 0, 0, 3000)), KVW_OK);
    memcpy(untouched, memory, sizeof(memory));
    cr_assert_eq(kvn_regions_remove(&regions, &key), KVW_OK);
    cr_expect_eq(take(slice(0, 1, 0, 3000)), KVW_E_PROTOCOL);
    cr_expect(clean());
}

Test(putin, the_credit_is_exact)
{
    begin(SLICE + 100);
    cr_expect_eq(take(slice(0, 0, 0, SLICE)), KVW_OK);
    cr_expect_eq(take(slice(1, 0, 2000, 101)), KVW_E_AGAIN);
    cr_expect_eq(memory[2000], 0xee);
    cr_expect_eq(p.taken, SLICE);
    cr_expect_eq(take(slice(2, 0, 3000, 100)), KVW_OK);
    cr_expect_eq(take(slice(3, 0, 4000, 1)), KVW_E_AGAIN);
    cr_expect_eq(kvn_puts_in_credit(&p, 50), SLICE + 150);
    cr_expect_eq(kvn_puts_in_credit(&p, 10), SLICE + 150, "never falls");
    cr_expect_eq(take(slice(4, 0, 5000, 51)), KVW_E_AGAIN);
    cr_expect_eq(take(slice(5, 0, 5000, 50)), KVW_OK);
}

/* Puts are tracked up to the window's end, also where numbers start again from 0. */
Test(putin, the_window_of_numbers)
{
    static const uint32_t first[] = {0, UINT32_MAX - 3, 1u << 31};

    for (uint32_t i = 0; i < 3; ++i) {
        begin(1 << 20);
        p.first = p.end = first[i];
        cr_expect_eq(take(slice(first[i] + KVN_PUTS_MAX, 0, 0, 1)), KVW_E_AGAIN);
        cr_expect_eq(take(slice(first[i] + (1u << 31) - 1, 0, 0, 1)), KVW_E_AGAIN);
        cr_expect(clean());
        cr_expect_eq(take(slice(first[i] - 1, 0, 0, 1)), KVW_OK);
        cr_expect(clean() && fresh == 0, "that one is over");
        cr_expect_eq(take(slice(first[i] + KVN_PUTS_MAX - 1, 0, 0, 1)), KVW_OK);
        cr_expect_eq(fresh, 1);
    }
}

/* The first number that the slots at first don't reach: it has a slot of its own, in more of them,
 * and what was open goes on. */
Test(putin, one_more_than_there_are_slots)
{
    static const uint32_t first[] = {0, 700, UINT32_MAX - 3};

    for (uint32_t i = 0; i < 3; ++i) {
        begin(1 << 20);
        p.first = p.end = first[i];
        cr_assert_eq(take(slice(first[i], 0, 0, SLICE + 1)), KVW_OK);
        cr_expect_eq(take(slice(first[i] + KVN_PUTS_FIRST - 1, 0, 4000, 1)), KVW_OK);
        cr_expect_eq(p.mask + 1, KVN_PUTS_FIRST);
        cr_expect_eq(take(slice(first[i] + KVN_PUTS_FIRST, 0, 5000, 1)), KVW_OK);
        cr_expect_eq(fresh, 1);
        cr_expect_eq(p.mask + 1, 2 * KVN_PUTS_FIRST);
        cr_expect_eq(take(slice(first[i], 1, 0, SLICE + 1)), KVW_OK);
        cr_expect_eq(fresh, 1, "the open one is whole now");
    }
}

Test(putin, slices_must_agree)
{
    struct kvn_frame f;

    begin(1 << 20);
    cr_assert_eq(take(slice(0, 0, 0, 3000)), KVW_OK);
    memcpy(untouched, memory, sizeof(memory));
    cr_expect_eq(take(slice(0, 1, 1, 3000)), KVW_E_PROTOCOL);
    cr_expect_eq(take(slice(0, 1, 0, 3001)), KVW_E_PROTOCOL);
    f = slice(0, 1, 0, 3000);
    f.data.imm = 9;
    cr_expect_eq(take(f), KVW_E_PROTOCOL);
    cr_expect(clean());
}

/* Cut smaller: it comes anew, and what had been counted is given back. An old copy
 * changes nothing. */
Test(putin, cut_anew)
{
    struct kvn_frame f = slice(0, 0, 0, 3000);

    begin(1 << 20);
    f = slice(0, 0, 0, 3000);
    f.data.slice = 1600;
    f.payload_bytes = 1600;
    cr_assert_eq(take(f), KVW_OK);
    cr_expect_eq(p.taken, 1600);
    cr_assert_eq(take(slice(0, 0, 0, 3000)), KVW_OK);
    cr_expect_eq(p.taken, SLICE);
    f.slice = 1;
    f.payload_bytes = 1400;
    cr_expect_eq(take(f), KVW_OK);
    cr_expect(fresh == 0 && p.taken == SLICE, "an old copy");
    cr_assert_eq(take(slice(0, 1, 0, 3000)), KVW_OK);
    cr_expect_null(kvn_puts_in_next_landed(&p));
    cr_assert_eq(take(slice(0, 2, 0, 3000)), KVW_OK);
    cr_expect_not_null(kvn_puts_in_next_landed(&p));
    cr_expect_eq(p.taken, 3000);
}

Test(putin, landed_in_their_order)
{
    begin(1 << 20);
    cr_assert_eq(take(slice(2, 0, 0, 10)), KVW_OK);
    cr_assert_eq(take(slice(0, 0, 100, 10)), KVW_OK);
    cr_assert_eq(take(slice(1, 0, 200, 10)), KVW_OK);
    cr_expect_eq(kvn_puts_in_next_landed(&p)->imm, 2);
    cr_expect_eq(p.first, 0, "0 isn't taken yet");
    cr_expect_eq(kvn_puts_in_next_landed(&p)->imm, 0);
    cr_expect_eq(p.first, 1);
    cr_expect_eq(kvn_puts_in_next_landed(&p)->imm, 1);
    cr_expect_eq(p.first, 3);
    cr_expect_null(kvn_puts_in_next_landed(&p));
}

Test(putin, names_what_is_missing)
{
    struct kvn_missing m[4];

    begin(1 << 20);
    cr_assert_eq(take(slice(1, 0, 0, 5 * SLICE)), KVW_OK);
    cr_assert_eq(take(slice(1, 3, 0, 5 * SLICE)), KVW_OK);
    cr_assert_eq(take(slice(3, 1, 5 * SLICE, 2 * SLICE)), KVW_OK);
    cr_assert_eq(kvn_puts_in_missing(&p, m, 4), 3);
    cr_expect(m[0].put == 1 && m[0].first == 1 && m[0].count == 2);
    cr_expect(m[1].put == 1 && m[1].first == 4 && m[1].count == 1);
    cr_expect(m[2].put == 3 && m[2].first == 0 && m[2].count == 1);
    cr_expect_eq(kvn_puts_in_missing(&p, m, 2), 2);
    cr_expect_eq(kvn_puts_in_missing(&p, m, 1), 1);
    cr_expect_eq(m[0].count, 2);
}
