/* SPDX-License-Identifier: Apache-2.0 */
/* A dense pool as a description: every layout is in its memory and not a byte beyond, a view and
 * the planes lead to the same bytes, and what is out of range is refused by name. */
#include <criterion/criterion.h>
#include <string.h>

#include "../../../kvwire/kv/dense.h"
#include "../../../kvwire/kv/place.h"
#include "../kv.h"

static struct t_kv_shape small = {3, 10, 16, 2, 64, KVW_DTYPE_BF16, T_KV_NHD_SPLIT};
static struct kvw_dense dense;

static kvw_err place(const struct kvw_pool *pool, char why[200])
{
    struct kvw_place *made;
    kvw_err err;

    why[0] = '\0';
    kvw_dense_make(&dense, pool, "toy");
    err = kvw_place_make(&made, &dense.desc, why, 200);
    if (err == KVW_OK)
        kvw_place_free(made);
    return err;
}

Test(dense, every_layout_fits_exactly)
{
    for (int layout = 0; layout < T_KV_LAYOUTS; ++layout) {
        struct t_kv_shape q = small;
        struct kvw_pool pool;
        char why[200];

        q.layout = (enum t_kv_layout)layout;
        pool = t_kv_pool(&q);
        cr_expect_eq(place(&pool, why), KVW_OK, "layout %d: %s", layout, why);
        --pool.mem.bytes;
        cr_expect_eq(place(&pool, why), KVW_E_INVALID);
        cr_expect_not_null(strstr(why, "planes"), "%s", why);
        ++pool.mem.bytes;
        t_kv_free(&pool);
    }
}

Test(dense, views_and_planes_are_the_same_places)
{
    static const uint32_t blocks[3] = {7, 2, 9};

    for (int layout = 0; layout < T_KV_LAYOUTS; ++layout) {
        struct t_kv_shape q = small;
        struct kvw_pool pool;

        q.layout = (enum t_kv_layout)layout;
        pool = t_kv_pool(&q);
        kvw_dense_make(&dense, &pool, "toy");
        for (uint32_t at = 0; at < q.layers * 2 * 40 * q.heads; ++at) {
            const uint32_t h = at % q.heads, t = at / q.heads % 40, k = at / q.heads / 40 % 2;
            const uint32_t l = at / q.heads / 80;
            const struct kvw_view v = kvw_pool_view(&pool, blocks, l, k, 0, 40);
            const struct kvw_plane *plane = &dense.group.parts[k].planes[l];
            const unsigned char *there = (const unsigned char *)plane->base +
                                         blocks[t / 16] * plane->block_stride +
                                         t % 16 * plane->entry_stride + h * plane->row_stride;

            cr_assert_eq(kvw_view_at(&v, t, h), there, "layout %d, %u", layout, at);
        }
        t_kv_free(&pool);
    }
}

#define EXPECT_BAD(member, value, name)                                                            \
    do {                                                                                           \
        struct kvw_pool bad = pool;                                                                \
        char why[200];                                                                             \
        bad.member = (value);                                                                      \
        cr_expect_neq(place(&bad, why), KVW_OK, #member " = " #value);                             \
        cr_expect_not_null(strstr(why, name), "%s: %s", #member, why);                             \
    } while (0)

Test(dense, fields_out_of_range)
{
    struct kvw_pool pool = t_kv_pool(&small);

    EXPECT_BAD(layers, 0, "layer_count");
    EXPECT_BAD(blocks, 0, "blocks");
    EXPECT_BAD(block_tokens, 0, "block_entries");
    EXPECT_BAD(block_tokens, KVW_BLOCK_TOKENS_MAX + 1, "block_entries");
    EXPECT_BAD(kv_heads, 0, "rows");
    EXPECT_BAD(head_dim, 0, "row_bytes");
    EXPECT_BAD(dtype, (kvw_dtype)9, "dtype");
    EXPECT_BAD(mem.base, NULL, "mems");
    EXPECT_BAD(mem.kind, (kvw_mem_kind)0, "mems");
    EXPECT_BAD(blocks, 11, "planes");
    EXPECT_BAD(layer_stride, UINT64_MAX / 2, "planes");
    EXPECT_BAD(kv_stride, UINT64_MAX / 2, "planes");
    EXPECT_BAD(block_stride, UINT64_MAX / 8, "planes");
    t_kv_free(&pool);
}
