/* SPDX-License-Identifier: Apache-2.0 */
/* A block has one owner at a time, allocation is all or nothing, and the strides that kvwire gets
 * lay every element in a place of its own inside the pool. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "../../../engine/model/kvcache.h"
#include "../../../engine/model/ops.h"

enum {
    LAYERS = 3,
    HEADS = 2,
    DIM = 5,
    TOKENS = 4,
    BLOCKS = 7,
};

static struct kve_kvcache cache(void)
{
    struct kve_kvcache kv;

    cr_assert_eq(kve_kvcache_open(&kv, LAYERS, HEADS, DIM, TOKENS, BLOCKS), KVW_OK);
    return kv;
}

Test(kvcache, elements_do_not_overlap)
{
    struct kve_kvcache kv = cache();
    const struct kvw_pool *p = &kv.pool;
    uint8_t *seen = calloc(1, p->mem.bytes);

    cr_assert_eq(p->mem.bytes, 2ull * LAYERS * 2 * HEADS * DIM * TOKENS * BLOCKS);
    cr_assert_eq((uintptr_t)p->mem.base % 4096, 0);
    for (uint32_t l = 0; l < LAYERS; ++l)
        for (uint32_t k = 0; k < 2; ++k)
            for (uint32_t b = 0; b < BLOCKS; ++b)
                for (uint32_t t = 0; t < TOKENS; ++t)
                    for (uint32_t h = 0; h < HEADS; ++h)
                        for (uint32_t d = 0; d < 2 * DIM; ++d) {
                            const uint64_t at = (uint64_t)(kve_pool_at(p, l, k, b, t) -
                                                           (unsigned char *)p->mem.base) +
                                                h * p->head_stride + d;
                            cr_assert_lt(at, p->mem.bytes);
                            cr_assert_eq(seen[at]++, 0);
                        }
    cr_assert_eq(p->mem.kind, KVW_MEM_HOST);
    cr_assert_eq(p->mem.dmabuf_fd, -1);
    cr_assert_eq(p->dtype, KVW_DTYPE_BF16);
    free(seen);
    kve_kvcache_close(&kv);
}

/* One block's K (or V) of a layer is one run of bytes in the canonical order [token][head][dim]. */
Test(kvcache, a_block_is_gathered_in_one_copy)
{
    struct kve_kvcache kv = cache();

    cr_assert_eq(kv.pool.head_stride, 2 * DIM);
    cr_assert_eq(kv.pool.token_stride, 2 * DIM * HEADS);
    kve_kvcache_close(&kv);
}

Test(kvcache, all_or_nothing)
{
    struct kve_kvcache kv = cache();
    uint32_t ids[BLOCKS + 1], more[BLOCKS];

    cr_assert_eq(kve_kvcache_alloc(&kv, BLOCKS + 1, ids), KVW_E_NOBLOCKS);
    cr_assert_eq(kv.free_count, BLOCKS);
    cr_assert_eq(kve_kvcache_alloc(&kv, 0, ids), KVW_OK);
    cr_assert_eq(kve_kvcache_alloc(&kv, 5, ids), KVW_OK);
    cr_assert_eq(kve_kvcache_alloc(&kv, 3, more), KVW_E_NOBLOCKS);
    cr_assert_eq(kv.free_count, 2);
    kve_kvcache_free(&kv, ids, 5);
    cr_assert_eq(kv.free_count, BLOCKS);
    cr_assert_eq(kve_kvcache_alloc(&kv, 5, more), KVW_OK);
    cr_assert_eq(memcmp(ids, more, 5 * sizeof(*ids)), 0, "the same blocks again");
    kve_kvcache_close(&kv);
}

Test(kvcache, one_owner_at_a_time)
{
    struct kve_kvcache kv = cache();
    uint32_t held[BLOCKS], count = 0, state = 1;
    bool mine[BLOCKS] = {false};

    for (int round = 0; round < 5000; ++round) {
        state = state * 1664525u + 1013904223u;
        if (state >> 31 != 0 && count < BLOCKS) {
            const uint32_t want = 1 + (state >> 20) % (BLOCKS - count);

            cr_assert_eq(kve_kvcache_alloc(&kv, want, held + count), KVW_OK);
            for (uint32_t i = count; i < count + want; ++i) {
                cr_assert_lt(held[i], BLOCKS);
                cr_assert_not(mine[held[i]], "block %u was given out twice", held[i]);
                mine[held[i]] = true;
            }
            count += want;
        } else if (count > 0) {
            const uint32_t back = 1 + (state >> 20) % count;

            count -= back;
            for (uint32_t i = count; i < count + back; ++i)
                mine[held[i]] = false;
            kve_kvcache_free(&kv, held + count, back);
        }
        cr_assert_eq(kv.free_count, BLOCKS - count);
    }
    kve_kvcache_close(&kv);
}

/* Where assertions are compiled out, a block given back twice is still handed out once. */
Test(kvcache, a_block_given_back_twice)
{
#ifdef NDEBUG
    struct kve_kvcache kv = cache();
    uint32_t ids[BLOCKS];
    bool mine[BLOCKS] = {false};

    cr_assert_eq(kve_kvcache_alloc(&kv, BLOCKS, ids), KVW_OK);
    kve_kvcache_free(&kv, ids, 3);
    kve_kvcache_free(&kv, ids, 3);
    kve_kvcache_free(&kv, &(uint32_t){BLOCKS}, 1);
    cr_assert_eq(kv.free_count, 3);
    kve_kvcache_free(&kv, ids + 3, BLOCKS - 3);
    cr_assert_eq(kve_kvcache_alloc(&kv, BLOCKS, ids), KVW_OK);
    for (uint32_t i = 0; i < BLOCKS; ++i) {
        cr_assert_not(mine[ids[i]], "block %u was given out twice", ids[i]);
        mine[ids[i]] = true;
    }
    kve_kvcache_close(&kv);
#else
    cr_skip_test("assertions are compiled in");
#endif
}

/* ---- what prompts share ---- */

static uint32_t taken(const struct kve_kvcache *kv)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < BLOCKS; ++i)
        n += kv->taken[i] > 0;
    return n;
}

Test(kvcache, kept_blocks_are_found_by_all_the_tokens_before_them)
{
    struct kve_kvcache kv = cache();
    const uint32_t text[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 9}; /* three blocks */
    const uint32_t other[] = {1, 2, 3, 5, 5, 6, 7, 8, 9, 9, 9, 9};
    uint32_t ids[3], got[3];

    cr_assert_eq(kve_kvcache_alloc(&kv, 3, ids), KVW_OK);
    cr_expect_eq(kve_kvcache_share(&kv, text, 3, got), 0, "nothing is kept yet");
    kve_kvcache_keep(&kv, text, 3, ids);
    cr_assert_eq(kve_kvcache_share(&kv, text, 3, got), 3);
    cr_expect_arr_eq(got, ids, sizeof(ids));
    cr_expect_eq(kv.taken[ids[0]], 2);
    cr_expect_eq(kve_kvcache_share(&kv, text, 2, got), 2, "as many as are asked for");
    cr_expect_eq(kve_kvcache_share(&kv, other, 3, got), 0, "another token in the first block");
    cr_expect_eq(kve_kvcache_share(&kv, text + TOKENS, 2, got), 0, "not where it begins");
    kve_kvcache_close(&kv);
}

/* Nobody has them any more: they are free, and still found, until all others are used up; the
 * oldest goes first, and of one prompt its end. */
Test(kvcache, what_is_kept_lasts_until_its_memory_is_needed)
{
    struct kve_kvcache kv = cache();
    const uint32_t a[] = {1, 1, 1, 1, 2, 2, 2, 2}, b[] = {3, 3, 3, 3, 4, 4, 4, 4};
    uint32_t ids[2], more[BLOCKS], got[2];

    cr_assert_eq(kve_kvcache_alloc(&kv, 2, ids), KVW_OK);
    kve_kvcache_keep(&kv, a, 2, ids);
    kve_kvcache_free(&kv, ids, 2);
    cr_assert_eq(kve_kvcache_alloc(&kv, 2, ids), KVW_OK);
    kve_kvcache_keep(&kv, b, 2, ids);
    kve_kvcache_free(&kv, ids, 2);
    cr_expect_eq(kv.free_count, BLOCKS);
    cr_assert_eq(kve_kvcache_alloc(&kv, BLOCKS - 4, more), KVW_OK);
    cr_expect_eq(kve_kvcache_share(&kv, a, 2, got), 2);
    kve_kvcache_free(&kv, got, 2); /* now b is the one that was used longest ago */
    cr_assert_eq(kve_kvcache_alloc(&kv, 1, more + BLOCKS - 4), KVW_OK);
    cr_assert_eq(kve_kvcache_share(&kv, b, 2, got), 1, "its end is gone");
    kve_kvcache_free(&kv, got, 1);
    cr_assert_eq(kve_kvcache_share(&kv, a, 2, got), 2);
    kve_kvcache_free(&kv, got, 2);
    cr_assert_eq(kve_kvcache_alloc(&kv, 1, more + BLOCKS - 3), KVW_OK);
    cr_expect_eq(kve_kvcache_share(&kv, b, 2, got), 0);
    cr_assert_eq(kve_kvcache_share(&kv, a, 2, got), 2, "one that somebody has stays");
    cr_expect_eq(kve_kvcache_alloc(&kv, 1, more), KVW_E_NOBLOCKS);
    cr_expect_eq(kv.free_count, 0);
    kve_kvcache_close(&kv);
}

Test(kvcache, of_two_equal_ones_the_first_stays)
{
    struct kve_kvcache kv = cache();
    const uint32_t text[] = {1, 1, 1, 1, 2, 2, 2, 2};
    uint32_t one[2], two[2], got[2];

    cr_assert_eq(kve_kvcache_alloc(&kv, 2, one), KVW_OK);
    cr_assert_eq(kve_kvcache_alloc(&kv, 2, two), KVW_OK);
    kve_kvcache_keep(&kv, text, 1, one);
    kve_kvcache_keep(&kv, text, 2, two); /* its second goes behind one's first */
    cr_assert_eq(kve_kvcache_share(&kv, text, 2, got), 2);
    cr_expect(got[0] == one[0] && got[1] == two[1], "%u %u", got[0], got[1]);
    kve_kvcache_free(&kv, two, 1);
    cr_expect_eq(kv.taken[two[0]], 0, "and the other one is as any");
    kve_kvcache_close(&kv);
}

/* Random lives beside a list of what was computed: a shared block always holds its very text. */
Test(kvcache, shared_blocks_hold_their_text_whatever_happens)
{
    enum { LIVES = 3, LONGEST = 3 };
    struct kve_kvcache kv = cache();
    uint32_t text[BLOCKS][LONGEST * TOKENS] = {0}, held[LIVES][LONGEST], count[LIVES] = {0};
    uint32_t length[BLOCKS] = {0}, state = 9, hits = 0;

    for (int round = 0; round < 20000; ++round) {
        state = state * 1664525u + 1013904223u;
        const uint32_t who = (state >> 24) % LIVES, blocks = 1 + (state >> 16) % LONGEST;
        uint32_t prompt[LONGEST * TOKENS];

        if (count[who] > 0) {
            kve_kvcache_free(&kv, held[who], count[who]);
            count[who] = 0;
            continue;
        }
        for (uint32_t i = 0; i < blocks * TOKENS; ++i)
            prompt[i] = i % TOKENS == 0 ? state >> (10 + i / TOKENS) & 1 : 0;
        const uint32_t shared = kve_kvcache_share(&kv, prompt, blocks, held[who]);
        for (uint32_t b = 0; b < shared; ++b) {
            cr_assert_eq(length[held[who][b]], b + 1);
            cr_assert_arr_eq(text[held[who][b]], prompt, (b + 1) * TOKENS * sizeof(*prompt));
        }
        hits += shared;
        if (kve_kvcache_alloc(&kv, blocks - shared, held[who] + shared) != KVW_OK) {
            kve_kvcache_free(&kv, held[who], shared);
            continue;
        }
        for (uint32_t b = shared; b < blocks; ++b) {
            length[held[who][b]] = b + 1;
            memcpy(text[held[who][b]], prompt, (b + 1) * TOKENS * sizeof(*prompt));
        }
        kve_kvcache_keep(&kv, prompt, blocks, held[who]);
        count[who] = blocks;
        cr_assert_eq(kv.free_count, BLOCKS - taken(&kv));
    }
    cr_expect_gt(hits, 1000, "%u", hits);
    for (uint32_t i = 0; i < LIVES; ++i)
        kve_kvcache_free(&kv, held[i], count[i]);
    cr_expect_eq(kv.free_count, BLOCKS);
    kve_kvcache_close(&kv);
}

Test(kvcache, arguments)
{
    static const uint32_t bad[][5] = {
        {0, 1, 1, 1, 1},    {1, 0, 1, 1, 1},        {1, 1, 0, 1, 1},    {1, 1, 1, 0, 1},
        {1, 1, 1, 1, 0},    {513, 1, 1, 1, 1},      {1, 1025, 1, 1, 1}, {1, 1, 1025, 1, 1},
        {1, 1, 1, 1025, 1}, {1, 1, 1, 1, 1u << 25},
    };
    struct kve_kvcache kv = {0};

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); ++i)
        cr_expect_eq(kve_kvcache_open(&kv, bad[i][0], bad[i][1], bad[i][2], bad[i][3], bad[i][4]),
                     KVW_E_INVALID, "row %zu", i);
    /* In range one by one, but more than an address space holds together. */
    cr_expect_eq(kve_kvcache_open(&kv, 512, 1024, 1024, 1024, 1u << 24), KVW_E_NOMEM);
    cr_expect_null(kv.taken);
    kve_kvcache_close(&kv);
}
