/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libs.c - lz4 and zstd, on the whole chunk and on its exponents only: yardsticks, used where they
 * are asked for by name and never chosen (SPEC.md 4).
 *
 * A chunk is gathered, and compressed from there; it is a pass over memory more than our own codecs
 * take, and what anybody would do who calls a library.
 */
#include "compress.h"

#include <lz4.h>
#include <stdbool.h>
#include <string.h>

#define ZSTD_STATIC_LINKING_ONLY /* contexts in the caller's memory */
#include <zstd.h>

#include "../kvwire/cpu.h"
#include "../kvwire/wire/le.h"
#include "gather.h"

#define ZSTD_LEVEL 1
#define ALIGN      64u
#define STORED     0
#define CODED      1

static uint64_t aligned(uint64_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

/* What one library does: both return 0 for "no". Output goes to at most room bytes. */
struct library {
    uint64_t (*state_bytes)(void);
    uint64_t (*pack)(void *state, const void *from, uint64_t n, void *to, uint64_t room);
    uint64_t (*unpack)(void *state, const void *from, uint64_t n, void *to, uint64_t room);
};

static uint64_t lz4_state(void)
{
    return (uint64_t)LZ4_sizeofState();
}

static uint64_t lz4_pack(void *state, const void *from, uint64_t n, void *to, uint64_t room)
{
    if (n > LZ4_MAX_INPUT_SIZE || room > LZ4_MAX_INPUT_SIZE)
        return 0;
    return (uint64_t)LZ4_compress_fast_extState(state, from, to, (int)n, (int)room, 1);
}

static uint64_t lz4_unpack(void *state, const void *from, uint64_t n, void *to, uint64_t room)
{
    int got;

    (void)state;
    if (n > LZ4_MAX_INPUT_SIZE || room > LZ4_MAX_INPUT_SIZE)
        return 0;
    got = LZ4_decompress_safe(from, to, (int)n, (int)room);
    return got > 0 ? (uint64_t)got : 0;
}

static uint64_t zstd_state(void)
{
    const size_t c = ZSTD_estimateCCtxSize(ZSTD_LEVEL), d = ZSTD_estimateDCtxSize();

    return c > d ? c : d;
}

static uint64_t zstd_pack(void *state, const void *from, uint64_t n, void *to, uint64_t room)
{
    ZSTD_CCtx *c = ZSTD_initStaticCCtx(state, zstd_state());
    const size_t got = c != NULL ? ZSTD_compressCCtx(c, to, room, from, n, ZSTD_LEVEL) : 0;

    return ZSTD_isError(got) ? 0 : got;
}

static uint64_t zstd_unpack(void *state, const void *from, uint64_t n, void *to, uint64_t room)
{
    ZSTD_DCtx *d = ZSTD_initStaticDCtx(state, zstd_state());
    const size_t got = d != NULL ? ZSTD_decompressDCtx(d, to, room, from, n) : 0;

    return ZSTD_isError(got) ? 0 : got;
}

static const struct library lz4 = {lz4_state, lz4_pack, lz4_unpack};
static const struct library zstd = {zstd_state, zstd_pack, zstd_unpack};

static KVW_FOR_EACH_CPU void split(bool bf16, const uint8_t *restrict values, uint64_t n,
                                   uint8_t *restrict low, uint8_t *restrict high)
{
    const unsigned turn = bf16 ? 1 : 0;

    for (uint64_t i = 0; i < n; ++i) {
        uint16_t v = kvw_load_le16(values + 2 * i);

        v = (uint16_t)(v << turn | v >> (16 - turn));
        low[i] = (uint8_t)v;
        high[i] = (uint8_t)(v >> 8);
    }
}

static KVW_FOR_EACH_CPU void join(bool bf16, const uint8_t *restrict low,
                                  const uint8_t *restrict high, uint64_t n,
                                  uint8_t *restrict values)
{
    const unsigned turn = bf16 ? 1 : 0;

    for (uint64_t i = 0; i < n; ++i) {
        const uint16_t v = (uint16_t)(low[i] | high[i] << 8);

        kvw_store_le16(values + 2 * i, (uint16_t)(v >> turn | (uint32_t)v << (16 - turn)));
    }
}

static uint64_t libs_bound(uint64_t raw_bytes)
{
    return raw_bytes + 1;
}

/* The state, the chunk, its exponents. */
static uint64_t scratch_bytes(const struct library *l, uint64_t raw_bytes)
{
    return aligned(l->state_bytes()) + 2 * aligned(raw_bytes);
}

static kvw_err encode(const struct library *l, bool exponents, const struct kvw_view *src,
                      uint8_t *dst, uint64_t dst_bytes, uint64_t *bytes, struct kvw_digest *digest,
                      uint8_t *scratch)
{
    const uint64_t raw = kvw_view_bytes(src), n = raw / 2;
    uint8_t *chunk = scratch + aligned(l->state_bytes()), *high = chunk + aligned(raw);
    uint64_t got;

    if (dst_bytes < libs_bound(raw) ||
        (exponents && src->dtype != KVW_DTYPE_BF16 && src->dtype != KVW_DTYPE_F16))
        return KVW_E_INVALID;
    kvc_gather(src, 0, raw, chunk);
    kvw_digest_update(digest, chunk, raw);
    if (exponents) {
        split(src->dtype == KVW_DTYPE_BF16, chunk, n, dst + 1, high);
        got = l->pack(scratch, high, n, dst + 1 + n, n);
        got += got > 0 ? n : 0;
    } else {
        got = l->pack(scratch, chunk, raw, dst + 1, raw);
    }
    dst[0] = got > 0 && got < raw ? CODED : STORED;
    if (dst[0] == STORED) {
        memcpy(dst + 1, chunk, raw);
        got = raw;
    }
    *bytes = 1 + got;
    return KVW_OK;
}

static kvw_err decode(const struct library *l, bool exponents, const uint8_t *src,
                      uint64_t src_bytes, const struct kvw_view *dst, struct kvw_digest *digest,
                      uint8_t *scratch)
{
    const uint64_t raw = kvw_view_bytes(dst), n = raw / 2;
    uint8_t *chunk = scratch + aligned(l->state_bytes()), *high = chunk + aligned(raw);
    const uint8_t *from = chunk;

    if (src_bytes == 0 || src[0] > CODED || src_bytes > 1 + raw ||
        (exponents && dst->dtype != KVW_DTYPE_BF16 && dst->dtype != KVW_DTYPE_F16))
        return KVW_E_CODEC;
    if (src[0] == STORED) {
        if (src_bytes != 1 + raw)
            return KVW_E_CODEC;
        from = src + 1;
    } else if (exponents) {
        if (src_bytes <= 1 + n || l->unpack(scratch, src + 1 + n, src_bytes - 1 - n, high, n) != n)
            return KVW_E_CODEC;
        join(dst->dtype == KVW_DTYPE_BF16, src + 1, high, n, chunk);
    } else if (l->unpack(scratch, src + 1, src_bytes - 1, chunk, raw) != raw) {
        return KVW_E_CODEC;
    }
    kvw_digest_update(digest, from, raw);
    kvc_scatter(dst, 0, raw, from);
    return KVW_OK;
}

/* A codec's functions have nothing to tell it which it is: a set for each. */
#define CODEC(symbol, text, number, library, only, types)                                          \
    static uint64_t symbol##_scratch(uint64_t raw_bytes)                                           \
    {                                                                                              \
        return scratch_bytes(&library, raw_bytes);                                                 \
    }                                                                                              \
    static kvw_err symbol##_encode(const struct kvw_view *src, const struct kvw_codec_args *args,  \
                                   void *dst, uint64_t dst_bytes, uint64_t *bytes,                 \
                                   struct kvw_digest *digest, void *scratch)                       \
    {                                                                                              \
        (void)args;                                                                                \
        return encode(&library, only, src, dst, dst_bytes, bytes, digest, scratch);                \
    }                                                                                              \
    static kvw_err symbol##_decode(const void *src, uint64_t src_bytes,                            \
                                   const struct kvw_codec_book *book, const struct kvw_view *dst,  \
                                   struct kvw_digest *digest, void *scratch)                       \
    {                                                                                              \
        (void)book;                                                                                \
        return decode(&library, only, src, src_bytes, dst, digest, scratch);                       \
    }                                                                                              \
    const struct kvw_codec_ops kvc_codec_##symbol = {.name = text,                                 \
                                                     .id = number,                                 \
                                                     .budget = KVW_BUDGET_EXACT,                   \
                                                     .by_name_only = true,                         \
                                                     .mem_kinds = 1u << KVW_MEM_HOST,              \
                                                     .dtypes = types,                              \
                                                     .bound = libs_bound,                          \
                                                     .scratch_bytes = symbol##_scratch,            \
                                                     .encode = symbol##_encode,                    \
                                                     .decode = symbol##_decode};

#define TWO_BYTES (1u << KVW_DTYPE_BF16 | 1u << KVW_DTYPE_F16)

CODEC(lz4, "lz4", KVW_CODEC_LZ4, lz4, false, ~0u)
CODEC(zstd, "zstd", KVW_CODEC_ZSTD, zstd, false, ~0u)
CODEC(lz4_x, "lz4_x", KVW_CODEC_LZ4_X, lz4, true, TWO_BYTES)
CODEC(zstd_x, "zstd_x", KVW_CODEC_ZSTD_X, zstd, true, TWO_BYTES)
