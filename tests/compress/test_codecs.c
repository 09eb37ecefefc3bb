/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every codec that was built keeps to codec.h: what it encodes from one layout it decodes into any
 * other, the digest sees the canonical bytes on both ways, bounds hold, and no damaged stream makes
 * it write outside its view.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "../../compress/compress.h"
#include "../../kvwire/kv/dense.h"
#include "../kvwire/kv.h"

#define TOKENS_MAX 70u
#define RAW_MAX    (TOKENS_MAX * 5u * 96u * 4u)

static unsigned char raw[RAW_MAX], stream[RAW_MAX + RAW_MAX / 500 + 64 + 64];

/* The canonical bytes, one head at a time: slow, and plainly what mem.h says. */
static uint64_t canonical(const struct kvw_view *v)
{
    unsigned char *to = raw;

    for (uint32_t i = 0; i < v->tokens; ++i)
        for (uint32_t h = 0; h < v->heads; ++h, to += v->head_bytes)
            memcpy(to, kvw_view_at(v, i, h), v->head_bytes);
    return (uint64_t)(to - raw);
}

static uint64_t digest_of(const void *bytes, uint64_t n)
{
    struct kvw_digest d;

    cr_assert_eq(kvw_digest_begin(&d, KVW_DIGEST_XXH3_64), KVW_OK);
    kvw_digest_update(&d, bytes, n);
    return kvw_digest_value(&d);
}

/* Distinct blocks in random order. */
static void shuffle(uint64_t *random, uint32_t *blocks, uint32_t count)
{
    for (uint32_t i = 0; i < count; ++i)
        blocks[i] = i;
    for (uint32_t i = count - 1; i > 0; --i) {
        const uint32_t j = t_below(random, i + 1), b = blocks[i];

        blocks[i] = blocks[j];
        blocks[j] = b;
    }
}

static struct kvw_pool random_pool(uint64_t *random, struct t_kv_shape *shape)
{
    shape->block_tokens = 1 + t_below(random, 20);
    shape->blocks = TOKENS_MAX / shape->block_tokens + 2;
    shape->layout = (enum t_kv_layout)t_below(random, T_KV_LAYOUTS);
    return t_kv_pool(shape);
}

static void round_trip(const struct kvw_codec_ops *codec, uint64_t seed)
{
    static const kvw_dtype dtypes[] = {KVW_DTYPE_F32, KVW_DTYPE_F16, KVW_DTYPE_BF16,
                                       KVW_DTYPE_F8_E4M3, KVW_DTYPE_F8_E5M2};
    uint64_t random = seed, bytes = 0;
    uint32_t from_blocks[TOKENS_MAX + 2], to_blocks[TOKENS_MAX + 2];
    struct t_kv_shape shape = {.layers = 2,
                               .heads = 1 + t_below(&random, 5),
                               .head_dim = seed % 3 == 0 ? 64 : 1 + t_below(&random, 96),
                               .dtype = dtypes[t_below(&random, 5)]};
    struct kvw_pool from = random_pool(&random, &shape), to = random_pool(&random, &shape);
    const uint32_t first = t_below(&random, TOKENS_MAX);
    const uint32_t tokens = 1 + t_below(&random, TOKENS_MAX - first);
    const uint32_t layer = t_below(&random, 2), kv = t_below(&random, 2);
    struct kvw_view src, dst;
    struct kvw_digest d;
    void *scratch;
    uint64_t n, sent;

    shuffle(&random, from_blocks, from.blocks);
    shuffle(&random, to_blocks, to.blocks);
    t_kv_fill(&from, from_blocks, TOKENS_MAX, seed);
    src = kvw_pool_view(&from, from_blocks, layer, kv, first, tokens);
    dst = kvw_pool_view(&to, to_blocks, layer, kv, first, tokens);
    n = canonical(&src);
    cr_assert_eq(n, kvw_view_bytes(&src));
    scratch = aligned_alloc(64, (codec->scratch_bytes(n) + 127) / 64 * 64);

    cr_assert_leq(codec->bound(n), n + n / 500 + 64);
    cr_assert_eq(kvw_digest_begin(&d, KVW_DIGEST_XXH3_64), KVW_OK);
    if ((codec->dtypes >> shape.dtype & 1) == 0) {
        cr_assert_eq(codec->encode(&src, NULL, stream, codec->bound(n), &bytes, &d, scratch),
                     KVW_E_INVALID, "%s takes dtype %d", codec->name, shape.dtype);
        cr_assert_eq(codec->decode(stream, n, NULL, &dst, &d, scratch), KVW_E_CODEC);
        free(scratch);
        t_kv_free(&from);
        t_kv_free(&to);
        return;
    }
    cr_assert_eq(codec->encode(&src, NULL, stream, codec->bound(n) - 1, &bytes, &d, scratch),
                 KVW_E_INVALID, "%s takes a buffer shorter than its bound", codec->name);
    cr_assert_eq(bytes, 0, "written on failure");
    memset(stream + codec->bound(n), 0xee, 64);
    cr_assert_eq(kvw_digest_begin(&d, KVW_DIGEST_XXH3_64), KVW_OK);
    cr_assert_eq(codec->encode(&src, NULL, stream, codec->bound(n), &bytes, &d, scratch), KVW_OK);
    cr_assert_leq(bytes, codec->bound(n));
    for (uint32_t i = 0; i < 64; ++i)
        cr_assert_eq(stream[codec->bound(n) + i], 0xee, "%s wrote beyond its bound", codec->name);
    sent = kvw_digest_value(&d);
    if (codec->budget == KVW_BUDGET_EXACT)
        cr_assert_eq(sent, digest_of(raw, n), "%s seed %lu", codec->name, seed);

    cr_assert_eq(kvw_digest_begin(&d, KVW_DIGEST_XXH3_64), KVW_OK);
    cr_assert_eq(codec->decode(stream, bytes, NULL, &dst, &d, scratch), KVW_OK);
    cr_assert_eq(kvw_digest_value(&d), sent);
    if (codec->budget == KVW_BUDGET_EXACT) {
        unsigned char *want = malloc(n);

        memcpy(want, raw, n);
        canonical(&dst);
        cr_assert_eq(memcmp(want, raw, n), 0, "%s seed %lu", codec->name, seed);
        free(want);
    } else {
        canonical(&dst);
        cr_assert_eq(sent, digest_of(raw, n), "%s seed %lu: not of what came out", codec->name,
                     seed);
    }
    /* Nothing but the view was written: with it zeroed, every block is. */
    for (uint32_t i = 0; i < tokens; ++i)
        for (uint32_t h = 0; h < dst.heads; ++h)
            memset(kvw_view_at(&dst, i, h), 0, dst.head_bytes);
    for (uint32_t b = 0; b < to.blocks; ++b)
        cr_assert(t_kv_block_is_zero(&to, b), "%s seed %lu: block %u", codec->name, seed, b);
    free(scratch);
    t_kv_free(&from);
    t_kv_free(&to);
}

Test(codecs, round_trips_between_all_layouts)
{
    for (uint32_t c = 0; kvc_codecs[c] != NULL; ++c)
        for (uint64_t seed = 1; seed <= 300; ++seed)
            round_trip(kvc_codecs[c], seed);
}

/* Cut, lengthened and flipped streams: an error, or at worst other values inside the view. */
Test(codecs, damaged_streams)
{
    const struct t_kv_shape shape = {1, 4, 16, 2, 64, KVW_DTYPE_BF16, T_KV_HND_SPLIT};
    const uint32_t blocks[] = {2, 0};
    const uint64_t n = 20 * 2 * 64 * 2;
    uint64_t random = 11;

    for (uint32_t c = 0; kvc_codecs[c] != NULL; ++c) {
        const struct kvw_codec_ops *codec = kvc_codecs[c];
        struct kvw_pool pool = t_kv_pool(&shape);
        const struct kvw_view view = kvw_pool_view(&pool, blocks, 0, 1, 3, 20);
        void *scratch = aligned_alloc(64, (codec->scratch_bytes(n) + 127) / 64 * 64);
        struct kvw_digest d;
        uint64_t bytes;

        if ((codec->dtypes >> shape.dtype & 1) == 0) {
            free(scratch);
            t_kv_free(&pool);
            continue;
        }
        t_kv_fill(&pool, blocks, 32, 1);
        cr_assert_eq(kvw_digest_begin(&d, KVW_DIGEST_XXH3_64), KVW_OK);
        cr_assert_eq(codec->encode(&view, NULL, stream, sizeof(stream), &bytes, &d, scratch),
                     KVW_OK);
        for (uint64_t cut = 0; cut < bytes; cut += cut < 64 ? 1 : 97)
            cr_expect_eq(codec->decode(stream, cut, NULL, &view, &d, scratch), KVW_E_CODEC,
                         "%s cut %lu", codec->name, cut);
        cr_expect_eq(codec->decode(stream, bytes + 1, NULL, &view, &d, scratch), KVW_E_CODEC);
        t_kv_block_zero(&pool, 0);
        t_kv_block_zero(&pool, 2);
        for (uint32_t i = 0; i < 2000; ++i) {
            const uint64_t at = t_random(&random) % bytes;
            const unsigned char bit = (unsigned char)(1u << t_below(&random, 8));
            kvw_err err;

            stream[at] ^= bit;
            err = codec->decode(stream, bytes, NULL, &view, &d, scratch);
            cr_assert(err == KVW_OK || err == KVW_E_CODEC);
            stream[at] ^= bit;
        }
        for (uint32_t i = 0; i < 20; ++i)
            for (uint32_t h = 0; h < 2; ++h)
                memset(kvw_view_at(&view, i, h), 0, view.head_bytes);
        for (uint32_t b = 0; b < 4; ++b)
            cr_expect(t_kv_block_is_zero(&pool, b), "%s wrote outside its view", codec->name);
        free(scratch);
        t_kv_free(&pool); /* and checks the guards around the pool */
    }
}

Test(codecs, names_and_ids)
{
    uint64_t seen = 0;
    const struct kvw_codec_ops *last = NULL;

    for (uint32_t c = 0; kvc_codecs[c] != NULL; ++c) {
        last = kvc_codecs[c];
        cr_expect_eq(kvc_codec_by_name(last->name), last);
        cr_expect(last->id >= 1 && last->id <= 63 && (seen >> last->id & 1) == 0);
        seen |= 1ull << last->id;
    }
    cr_expect_eq(last, &kvc_codec_raw, "raw stands last");
    cr_expect_null(kvc_codec_by_name("no such codec"));
}
