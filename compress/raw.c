/* SPDX-License-Identifier: Apache-2.0 */
/*
 * raw.c - the codec that changes nothing: gather the view's runs into one stream, or scatter them.
 *
 * The digest sees the stream, not the runs. A head's run may be 128 bytes, and a digest call for
 * each would cost more than the copy; so a tile of the stream is copied first and digested while it
 * is still in the first-level cache. On the way back the runs are stored past the caches: a pool is
 * larger than they are.
 */
#include "../kvwire/past.h"
#include "compress.h"
#include "gather.h"

#define TILE_BYTES (16u * 1024)

/* Whole tokens, as many as a tile takes. */
static uint64_t tile_bytes(const struct kvw_view *v, uint64_t left)
{
    const uint64_t token = (uint64_t)v->heads * v->head_bytes;
    const uint64_t n = token < TILE_BYTES ? TILE_BYTES / token * token : token;

    return n < left ? n : left;
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
    const uint64_t all = kvw_view_bytes(src);
    unsigned char *to = dst;

    (void)args;
    (void)scratch;
    if (dst_bytes < all)
        return KVW_E_INVALID;
    for (uint64_t at = 0, n; at < all; at += n) {
        n = tile_bytes(src, all - at);
        kvc_gather(src, at, n, to + at);
        kvw_digest_update(digest, to + at, n);
    }
    *bytes = all;
    return KVW_OK;
}

static kvw_err raw_decode(const void *src, uint64_t src_bytes, const struct kvw_codec_book *book,
                          const struct kvw_view *dst, struct kvw_digest *digest, void *scratch)
{
    const unsigned char *from = src;

    (void)book;
    (void)scratch;
    if (src_bytes != kvw_view_bytes(dst))
        return KVW_E_CODEC;
    for (uint64_t at = 0, n; at < src_bytes; at += n) {
        n = tile_bytes(dst, src_bytes - at);
        kvw_digest_update(digest, from + at, n);
        kvc_scatter_past(dst, at, n, from + at);
    }
    kvw_past_done();
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
