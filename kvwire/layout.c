/* SPDX-License-Identifier: Apache-2.0 */
#include "layout.h"

#include <stdio.h>
#include <string.h>

uint32_t kvw_dtype_bytes(kvw_dtype dtype)
{
    switch (dtype) {
    case KVW_DTYPE_F32:
        return 4;
    case KVW_DTYPE_F16:
    case KVW_DTYPE_BF16:
        return 2;
    case KVW_DTYPE_F8_E4M3:
    case KVW_DTYPE_F8_E5M2:
        return 1;
    }
    return 0;
}

static const char *dtype_name(kvw_dtype dtype)
{
    static const char *const names[] = {"?", "f32", "f16", "bf16", "f8_e4m3", "f8_e5m2"};

    return dtype >= KVW_DTYPE_F32 && dtype <= KVW_DTYPE_F8_E5M2 ? names[dtype] : names[0];
}

/* *end += (count - 1) * stride; false when that leaves 64 bits. */
static bool extend(uint64_t *end, uint32_t count, uint64_t stride)
{
    uint64_t span;

    return !__builtin_mul_overflow((uint64_t)(count - 1), stride, &span) &&
           !__builtin_add_overflow(*end, span, end);
}

kvw_err kvw_pool_check(const struct kvw_pool *p, const char **field)
{
    const struct {
        const char *name;
        uint64_t value, min, max;
    } ranges[] = {
        {"pool.layers", p->layers, 1, KVW_LAYERS_MAX},
        {"pool.blocks", p->blocks, 1, KVW_POOL_BLOCKS_MAX},
        {"pool.block_tokens", p->block_tokens, 1, KVW_BLOCK_TOKENS_MAX},
        {"pool.kv_heads", p->kv_heads, 1, KVW_HEADS_MAX},
        {"pool.head_dim", p->head_dim, 1, KVW_HEAD_DIM_MAX},
        {"pool.dtype", kvw_dtype_bytes(p->dtype), 1, 4},
        {"pool.mem.base", p->mem.base != NULL, 1, 1},
        {"pool.mem.kind", p->mem.kind, KVW_MEM_HOST, KVW_MEM_CUDA},
    };
    uint64_t end;

    for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); ++i) {
        if (ranges[i].value < ranges[i].min || ranges[i].value > ranges[i].max) {
            *field = ranges[i].name;
            return KVW_E_INVALID;
        }
    }
    end = (uint64_t)p->head_dim * kvw_dtype_bytes(p->dtype);
    if (p->kv_heads * end > KVW_CHUNK_RAW_MAX) {
        *field = "pool.kv_heads"; /* one token must fit one chunk */
        return KVW_E_INVALID;
    }
    if (!extend(&end, p->layers, p->layer_stride) || !extend(&end, 2, p->kv_stride) ||
        !extend(&end, p->blocks, p->block_stride) ||
        !extend(&end, p->block_tokens, p->token_stride) ||
        !extend(&end, p->kv_heads, p->head_stride) || end > p->mem.bytes) {
        *field = "pool.mem.bytes"; /* the strides lead outside of it */
        return KVW_E_INVALID;
    }
    return KVW_OK;
}

struct kvw_shape kvw_pool_shape(const struct kvw_pool *pool)
{
    return (struct kvw_shape){.layers = pool->layers,
                              .kv_heads = pool->kv_heads,
                              .head_dim = pool->head_dim,
                              .block_tokens = pool->block_tokens,
                              .dtype = pool->dtype};
}

uint32_t kvw_shape_token_bytes(const struct kvw_shape *shape)
{
    return shape->kv_heads * shape->head_dim * kvw_dtype_bytes(shape->dtype);
}

struct kvw_view kvw_pool_view(const struct kvw_pool *pool, const uint32_t *blocks, uint32_t layer,
                              uint32_t kv, uint32_t first, uint32_t tokens)
{
    return (struct kvw_view){
        .base = (unsigned char *)pool->mem.base + layer * pool->layer_stride + kv * pool->kv_stride,
        .blocks = blocks,
        .block_tokens = pool->block_tokens,
        .first_token = first,
        .tokens = tokens,
        .heads = pool->kv_heads,
        .head_bytes = pool->head_dim * kvw_dtype_bytes(pool->dtype),
        .dtype = pool->dtype,
        .block_stride = pool->block_stride,
        .token_stride = pool->token_stride,
        .head_stride = pool->head_stride,
    };
}

static kvw_err differs(char text[KVW_TEXT_BYTES_MAX + 1], const char *what, uint32_t here,
                       uint32_t peer)
{
    snprintf(text, KVW_TEXT_BYTES_MAX + 1, "%s differs: here %u, peer %u", what, here, peer);
    return KVW_E_MISMATCH;
}

/* Enough of a fingerprint to tell two apart by eye. */
static void hex8(char text[20], const uint8_t fingerprint[KVW_FINGERPRINT_BYTES])
{
    for (int i = 0; i < 8; ++i)
        snprintf(text + 2 * i, 3, "%02x", fingerprint[i]);
    strcpy(text + 16, "..");
}

static kvw_err fingerprint_differs(const struct kvw_hello *here, const struct kvw_hello *peer,
                                   char text[KVW_TEXT_BYTES_MAX + 1])
{
    char a[20], b[20];

    hex8(a, here->fingerprint);
    hex8(b, peer->fingerprint);
    snprintf(text, KVW_TEXT_BYTES_MAX + 1, "model fingerprint differs: here %s (%s), peer %s (%s)",
             a, here->name, b, peer->name);
    return KVW_E_MISMATCH;
}

kvw_err kvw_hello_match(const struct kvw_hello *here, const struct kvw_hello *peer,
                        char text[KVW_TEXT_BYTES_MAX + 1])
{
    const struct kvw_shape *a = &here->shape, *b = &peer->shape;
    const struct kvw_hello *receiver = here->role == KVW_ROLE_RECEIVER ? here : peer;
    const uint32_t token_bytes = kvw_shape_token_bytes(a);

    if (here->role == peer->role) {
        snprintf(text, KVW_TEXT_BYTES_MAX + 1, "both sides are %s",
                 here->role == KVW_ROLE_SENDER ? "senders (prefill)" : "receivers (decode)");
        return KVW_E_MISMATCH;
    }
    if (a->layers != b->layers)
        return differs(text, "number of layers", a->layers, b->layers);
    if (a->kv_heads != b->kv_heads)
        return differs(text, "number of KV heads", a->kv_heads, b->kv_heads);
    if (a->head_dim != b->head_dim)
        return differs(text, "head dimension", a->head_dim, b->head_dim);
    if (a->dtype != b->dtype) {
        snprintf(text, KVW_TEXT_BYTES_MAX + 1, "KV dtype differs: here %s, peer %s",
                 dtype_name(a->dtype), dtype_name(b->dtype));
        return KVW_E_MISMATCH;
    }
    if (memcmp(here->fingerprint, peer->fingerprint, sizeof(here->fingerprint)) != 0)
        return fingerprint_differs(here, peer, text);
    /* Every codec set has raw in it, or the peer breaks SPEC.md 3.1. */
    if ((here->codecs & peer->codecs & (1ull << KVW_CODEC_RAW)) == 0) {
        snprintf(text, KVW_TEXT_BYTES_MAX + 1, "no common codec: here %#llx, peer %#llx",
                 (unsigned long long)here->codecs, (unsigned long long)peer->codecs);
        return KVW_E_MISMATCH;
    }
    if ((here->digests & peer->digests) == 0) {
        snprintf(text, KVW_TEXT_BYTES_MAX + 1, "no common digest: here %#llx, peer %#llx",
                 (unsigned long long)here->digests, (unsigned long long)peer->digests);
        return KVW_E_MISMATCH;
    }
    if (receiver->slot_bytes < KVW_CHUNK_HDR_BYTES + token_bytes) {
        snprintf(text, KVW_TEXT_BYTES_MAX + 1,
                 "the receiver's landing slot of %u bytes is too small for a token of %u",
                 receiver->slot_bytes, token_bytes);
        return KVW_E_MISMATCH;
    }
    return KVW_OK;
}
