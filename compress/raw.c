/* SPDX-License-Identifier: Apache-2.0 */
/*
 * raw.c - the codec that changes nothing: gather the view's runs into one stream, or scatter them.
 *
 * The digest sees the stream, not the runs. A head's run may be 128 bytes, and a digest call for
 * each would cost more than the copy; so a tile of the stream is copied first and digested while it
 * is still in the first-level cache.
 */
#include "compress.h"

#include <string.h>

#define TILE_BYTES (16u * 1024)

/* How a view's memory runs: tokens of one block may be contiguous, or a token's heads, or a head.
 */
struct run_shape {
    uint32_t head_step;  /* heads in one run: all of them, or 1 */
    uint32_t token_step; /* tokens that one run may span inside a block: many, or 1 */
    uint32_t token_bytes;
};

static struct run_shape shape_of(const struct kvw_view *v)
{
    struct run_shape s = {1, 1, v->heads * v->head_bytes};

    if (v->heads == 1 || v->head_stride == v->head_bytes)
        s.head_step = v->heads;
    if (s.head_step == v->heads && v->token_stride == s.token_bytes)
        s.token_step = v->block_tokens;
    return s;
}

/* memcpy whose common short sizes the compiler can unroll; a call for 128 bytes costs as much again
 * as the copy. */
static inline void copy_run(unsigned char *to, const unsigned char *from, uint32_t bytes)
{
    switch (bytes) {
    case 64:
        memcpy(to, from, 64);
        break;
    case 128:
        memcpy(to, from, 128);
        break;
    case 256:
        memcpy(to, from, 256);
        break;
    default:
        memcpy(to, from, bytes);
    }
}

/*
 * Copy tokens [at, at + tokens) of the view to or from the stream. Heads outside, tokens inside:
 * where a head's tokens lie side by side, memory is walked in order, and the jumps fall on the
 * stream's tile, which is in the cache.
 */
static void copy_tokens(const struct kvw_view *v, const struct run_shape *s, uint32_t at,
                        uint32_t tokens, unsigned char *gather_to,
                        const unsigned char *scatter_from)
{
    const uint32_t run_bytes = s->head_step * v->head_bytes;

    for (uint64_t done = 0; tokens > 0;) {
        const uint32_t slot = (v->first_token + at) % v->block_tokens;
        const uint32_t left = v->block_tokens - slot; /* in this block */
        const uint32_t part = left < tokens ? left : tokens;
        const uint32_t bytes = s->token_step > 1 ? part * run_bytes : run_bytes;
        unsigned char *block = kvw_view_at(v, at, 0);

        for (uint32_t h = 0; h < v->heads; h += s->head_step) {
            unsigned char *mem = block + h * v->head_stride;
            uint64_t pos = done + h * v->head_bytes;

            for (uint32_t t = 0; t < part; t += s->token_step) {
                if (gather_to != NULL)
                    copy_run(gather_to + pos, mem, bytes);
                else
                    copy_run(mem, scatter_from + pos, bytes);
                mem += v->token_stride;
                pos += s->token_bytes;
            }
        }
        done += (uint64_t)part * s->token_bytes;
        at += part;
        tokens -= part;
    }
}

static uint32_t tile_tokens(const struct run_shape *s)
{
    return s->token_bytes < TILE_BYTES ? TILE_BYTES / s->token_bytes : 1;
}

static uint64_t raw_bound(uint64_t raw_bytes)
{
    return raw_bytes;
}

static uint64_t raw_scratch_bytes(uint64_t raw_bytes)
{
    (void)raw_bytes;
    return 0;
}

static kvw_err raw_encode(const struct kvw_view *src, const struct kvw_codec_args *args, void *dst,
                          uint64_t dst_bytes, uint64_t *bytes, struct kvw_digest *digest,
                          void *scratch)
{
    const struct run_shape s = shape_of(src);
    const uint32_t tile = tile_tokens(&s);
    unsigned char *to = dst;

    (void)args;
    (void)scratch;
    if (dst_bytes < kvw_view_bytes(src))
        return KVW_E_INVALID;
    for (uint32_t at = 0, n; at < src->tokens; at += n) {
        n = src->tokens - at < tile ? src->tokens - at : tile;
        copy_tokens(src, &s, at, n, to, NULL);
        kvw_digest_update(digest, to, (size_t)n * s.token_bytes);
        to += (size_t)n * s.token_bytes;
    }
    *bytes = kvw_view_bytes(src);
    return KVW_OK;
}

static kvw_err raw_decode(const void *src, uint64_t src_bytes, const struct kvw_codec_book *book,
                          const struct kvw_view *dst, struct kvw_digest *digest, void *scratch)
{
    const struct run_shape s = shape_of(dst);
    const uint32_t tile = tile_tokens(&s);
    const unsigned char *from = src;

    (void)book;
    (void)scratch;
    if (src_bytes != kvw_view_bytes(dst))
        return KVW_E_CODEC;
    for (uint32_t at = 0, n; at < dst->tokens; at += n) {
        n = dst->tokens - at < tile ? dst->tokens - at : tile;
        kvw_digest_update(digest, from, (size_t)n * s.token_bytes);
        copy_tokens(dst, &s, at, n, NULL, from);
        from += (size_t)n * s.token_bytes;
    }
    return KVW_OK;
}

const struct kvw_codec_ops kvc_codec_raw = {
    .name = "raw",
    .id = KVW_CODEC_RAW,
    .budget = KVW_BUDGET_EXACT,
    .mem_kinds = 1u << KVW_MEM_HOST,
    .dtypes = ~0u,
    .bound = raw_bound,
    .scratch_bytes = raw_scratch_bytes,
    .encode = raw_encode,
    .decode = raw_decode,
};
