/* SPDX-License-Identifier: Apache-2.0 */
/* A region is found by its own number while it is there, and no number is ever used again. */
#include <criterion/criterion.h>

#include "../../../net/packet/regions.h"

static struct kvn_regions r;
static uint8_t memory[64];
static const struct kvw_mem mem = {.base = memory, .bytes = 64, .kind = KVW_MEM_HOST};

Test(regions, found_until_removed)
{
    struct kvw_region_key a, b;
    uint32_t first;

    kvn_regions_begin(&r);
    for (uint32_t n = 0; n < 4 * KVW_REGIONS_MAX; ++n)
        cr_assert_null(kvn_regions_find(&r, n));
    cr_assert_eq(kvn_regions_add(&r, &mem, NULL, NULL, &a), KVW_OK);
    first = kvn_region_number(&a);
    cr_expect_eq(kvn_regions_find(&r, first)->mem.base, memory);
    cr_expect_null(kvn_regions_find(&r, first + KVW_REGIONS_MAX));
    cr_expect_null(kvn_regions_find(&r, first - KVW_REGIONS_MAX));
    cr_expect_eq(kvn_regions_remove(&r, &a), KVW_OK);
    cr_expect_eq(kvn_regions_remove(&r, &a), KVW_E_NOTFOUND);
    cr_expect_null(kvn_regions_find(&r, first));
    cr_assert_eq(kvn_regions_add(&r, &mem, NULL, NULL, &b), KVW_OK);
    cr_expect_neq(kvn_region_number(&b), first);
    cr_expect_eq(kvn_regions_remove(&r, &a), KVW_E_NOTFOUND, "the old key is another region's");
    cr_expect_not_null(kvn_regions_find(&r, kvn_region_number(&b)));
}

Test(regions, as_many_as_there_are_slots)
{
    struct kvw_region_key key;

    kvn_regions_begin(&r);
    for (uint32_t i = 0; i < KVW_REGIONS_MAX; ++i)
        cr_assert_eq(kvn_regions_add(&r, &mem, NULL, NULL, &key), KVW_OK);
    cr_expect_eq(kvn_regions_add(&r, &mem, NULL, NULL, &key), KVW_E_NOMEM);
}

/* The last number that fits DATA, and then the slot is retired. */
Test(regions, numbers_end)
{
    struct kvw_region_key key;

    kvn_regions_begin(&r);
    for (uint32_t i = 0; i < KVW_REGIONS_MAX; ++i)
        r.slot[i].number = KVN_REGION_MAX - KVW_REGIONS_MAX + 1 + i;
    cr_expect_eq(kvn_regions_add(&r, &mem, NULL, NULL, &key), KVW_E_NOMEM);
    r.slot[5].number = KVN_REGION_MAX - KVW_REGIONS_MAX;
    cr_assert_eq(kvn_regions_add(&r, &mem, NULL, NULL, &key), KVW_OK);
    cr_expect_eq(kvn_region_number(&key), KVN_REGION_MAX);
}

Test(regions, what_cannot_be_one)
{
    struct kvw_region_key key;
    struct kvw_mem m = mem;

    kvn_regions_begin(&r);
    m.base = NULL;
    cr_expect_eq(kvn_regions_add(&r, &m, NULL, NULL, &key), KVW_E_INVALID);
    m = mem;
    m.bytes = 0;
    cr_expect_eq(kvn_regions_add(&r, &m, NULL, NULL, &key), KVW_E_INVALID);
    m.bytes = KVN_OFFSET_MAX + 1;
    cr_expect_eq(kvn_regions_add(&r, &m, NULL, NULL, &key), KVW_E_UNSUPPORTED);
    m.bytes = KVN_OFFSET_MAX;
    cr_expect_eq(kvn_regions_add(&r, &m, NULL, NULL, &key), KVW_OK);
    m.kind = (enum kvw_mem_kind)(KVW_MEM_HOST + 1);
    cr_expect_eq(kvn_regions_add(&r, &m, NULL, NULL, &key), KVW_E_UNSUPPORTED);
}
