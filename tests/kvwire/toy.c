/* SPDX-License-Identifier: Apache-2.0 */
#include "toy.h"

#include <string.h>
#include <unistd.h>

_Atomic uint64_t toy_now_ns;
uint64_t toy_encode_ps, toy_decode_ps;
atomic_bool toy_hold;
_Atomic uint32_t toy_inside, toy_encodes;

uint64_t toy_clock(void *arg)
{
    (void)arg;
    return toy_now_ns;
}

static uint64_t bound(uint64_t raw_bytes)
{
    return raw_bytes;
}

static uint64_t no_scratch(uint64_t raw_bytes)
{
    (void)raw_bytes;
    return 0;
}

static bool is_exact(const struct kvw_codec_args *args, uint32_t tokens, uint32_t i)
{
    return args != NULL && (i < args->exact_first || i + args->exact_last >= tokens);
}

/* Byte by byte through the view; half keeps odd bytes only, and all of an exact token. Each token
 * begins with a byte that says which. */
static kvw_err walk(const struct kvw_view *v, const struct kvw_codec_args *args, bool half,
                    uint8_t mask, uint8_t *stream, uint64_t stream_bytes, bool encode,
                    uint64_t *used, struct kvw_digest *digest)
{
    uint64_t at = 0;

    for (uint32_t i = 0; i < v->tokens; ++i) {
        bool exact = !half;

        if (half) {
            if (at == stream_bytes)
                return KVW_E_CODEC;
            if (encode)
                stream[at] = is_exact(args, v->tokens, i);
            exact = stream[at++] != 0;
        }
        for (uint32_t h = 0; h < v->heads; ++h) {
            uint8_t *p = kvw_view_at(v, i, h);

            for (uint32_t b = 0; b < v->head_bytes; ++b) {
                uint8_t value = p[b];

                if (exact || b % 2 == 1) {
                    if (at == stream_bytes)
                        return KVW_E_CODEC;
                    if (encode)
                        stream[at] = (uint8_t)(value ^ mask);
                    else
                        value = (uint8_t)(stream[at] ^ mask);
                    ++at;
                } else {
                    value = 0;
                }
                if (!encode)
                    p[b] = value;
                kvw_digest_update(digest, &value, 1);
            }
        }
    }
    *used = at;
    return KVW_OK;
}

static void cost(uint64_t ps, uint64_t bytes)
{
    ++toy_inside;
    while (toy_hold)
        usleep(200);
    toy_now_ns += ps * bytes / 1000;
    --toy_inside;
}

#define TOY(name, half, mask, encode_ps, decode_ps)                                                \
    static kvw_err name##_encode(const struct kvw_view *src, const struct kvw_codec_args *args,    \
                                 void *dst, uint64_t dst_bytes, uint64_t *bytes,                   \
                                 struct kvw_digest *digest, void *scratch)                         \
    {                                                                                              \
        (void)scratch;                                                                             \
        ++toy_encodes;                                                                             \
        cost(encode_ps, kvw_view_bytes(src));                                                      \
        return walk(src, args, half, mask, dst, dst_bytes, true, bytes, digest);                   \
    }                                                                                              \
    static kvw_err name##_decode(const void *src, uint64_t src_bytes,                              \
                                 const struct kvw_codec_book *book, const struct kvw_view *dst,    \
                                 struct kvw_digest *digest, void *scratch)                         \
    {                                                                                              \
        uint64_t used = 0;                                                                         \
        (void)book;                                                                                \
        (void)scratch;                                                                             \
        cost(decode_ps, kvw_view_bytes(dst));                                                      \
        const kvw_err err = walk(dst, NULL, half, mask, (uint8_t *)(uintptr_t)src, src_bytes,      \
                                 false, &used, digest);                                            \
        return err != KVW_OK || used == src_bytes ? err : KVW_E_CODEC;                             \
    }

TOY(raw, false, 0, 0, 0)
TOY(whole, false, 0x5a, toy_encode_ps, toy_decode_ps)
TOY(half, true, 0, toy_encode_ps, toy_decode_ps)

#define OPS(called, number, least)                                                                 \
    const struct kvw_codec_ops toy_##called = {                                                    \
        .name = #called,                                                                           \
        .id = number,                                                                              \
        .budget = least,                                                                           \
        .mem_kinds = 1u << KVW_MEM_HOST,                                                           \
        .dtypes = ~0u,                                                                             \
        .bound = bound,                                                                            \
        .scratch_bytes = no_scratch,                                                               \
        .encode = called##_encode,                                                                 \
        .decode = called##_decode,                                                                 \
    }

OPS(raw, KVW_CODEC_RAW, KVW_BUDGET_EXACT);
OPS(whole, TOY_WHOLE_ID, KVW_BUDGET_EXACT);
OPS(half, TOY_HALF_ID, KVW_BUDGET_E8);

const struct kvw_codec_ops *const toy_codecs[] = {&toy_whole, &toy_half, &toy_raw, NULL};
