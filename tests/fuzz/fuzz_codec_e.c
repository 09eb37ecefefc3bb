/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The error-bounded codecs' decoder on any bytes: it takes or rejects them, writes nothing outside
 * its view, and every level (scalar, AVX2, AVX-512) does the same.
 *
 * Input: tokens - 1, heads - 1 (low bits) and dtype (bit 7), head_dim - 1, then the stream; or,
 * with the first byte 255, values that are encoded first and then damaged by the bytes that follow.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../../compress/compress.h"
#include "../../compress/kernels.h"

#define HEAD_BYTES  3u
#define VALUES_MAX  (64u * 4 * 128)
#define GUARD_BYTES 64u

static const char *const levels[] = {"scalar", "avx2", "avx512"};

static kvw_err decode(const struct kvw_view *v, const uint8_t *stream, size_t n, uint64_t *digest)
{
    const struct kvw_codec_ops *c = &kvc_codec_e4;
    void *scratch = aligned_alloc(64, (c->scratch_bytes(kvw_view_bytes(v)) + 63) / 64 * 64);
    struct kvw_digest d;
    kvw_err err;

    if (scratch == NULL || kvw_digest_begin(&d, KVW_DIGEST_XXH3_64) != KVW_OK)
        abort();
    err = c->decode(stream, n, NULL, v, &d, scratch);
    *digest = err == KVW_OK ? kvw_digest_value(&d) : 0;
    free(scratch);
    return err;
}

/* A stream to damage: the fuzzer would have to find a header's numbers otherwise. */
static size_t encoded(const struct kvw_view *v, const uint8_t *bytes, size_t n, uint8_t *stream)
{
    const struct kvw_codec_ops *c = n % 2 == 0 ? &kvc_codec_e4 : &kvc_codec_e8;
    const struct kvw_codec_args args = {.kv = n > 0 && bytes[0] % 2 != 0, .exact_first = n % 3};
    void *scratch = aligned_alloc(64, (c->scratch_bytes(kvw_view_bytes(v)) + 63) / 64 * 64);
    struct kvw_digest d;
    uint64_t made = 0;

    if (scratch == NULL || kvw_digest_begin(&d, KVW_DIGEST_XXH3_64) != KVW_OK)
        abort();
    for (uint64_t i = 0; i < kvw_view_bytes(v) / 2; ++i) { /* about one, in either type */
        const uint16_t x = (uint16_t)(0x3c00 + (i * 2654435761u >> 7) % 1024 + (i % 3 << 15));

        memcpy(v->base + 2 * i, &x, 2);
    }
    if (c->encode(v, &args, stream, c->bound(kvw_view_bytes(v)), &made, &d, scratch) != KVW_OK)
        abort();
    for (size_t i = 0; i + 2 < n; i += 3) /* place, place, difference */
        stream[(bytes[i] | (size_t)bytes[i + 1] << 8) % made] ^= bytes[i + 2];
    free(scratch);
    return (size_t)made;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static unsigned char memory[2 * GUARD_BYTES + 2 * VALUES_MAX];
    const uint32_t block = 0;
    uint8_t *stream;
    uint64_t first_digest = 0;
    kvw_err first = KVW_OK;

    if (n < HEAD_BYTES)
        return 0;

    const bool damage = bytes[0] == 255;
    const uint32_t heads = bytes[1] % 4 + 1, dim = bytes[2] % 128 + 1;
    const struct kvw_view v = {.base = memory + GUARD_BYTES,
                               .blocks = &block,
                               .block_tokens = 64,
                               .tokens = bytes[0] % 64 + 1,
                               .heads = heads,
                               .head_bytes = 2 * dim,
                               .dtype = bytes[1] & 128 ? KVW_DTYPE_F16 : KVW_DTYPE_BF16,
                               .token_stride = 2ull * heads * dim,
                               .head_stride = 2ull * dim};
    const size_t raw = (size_t)kvw_view_bytes(&v), room = raw + raw / 500 + 64;

    stream = malloc(damage ? room : n - HEAD_BYTES + 1);
    if (stream == NULL)
        abort();
    if (!damage)
        memcpy(stream, bytes + HEAD_BYTES, n - HEAD_BYTES);
    n = damage ? encoded(&v, bytes + HEAD_BYTES, n - HEAD_BYTES, stream) : n - HEAD_BYTES;
    stream = realloc(stream, n > 0 ? n : 1); /* so that a sanitizer sees one byte too far */
    for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); ++i) {
        const struct kvc_kernels *k = kvc_kernels_named(levels[i]);
        uint64_t digest;
        kvw_err err;

        if (k == NULL)
            continue;
        kvc_kernels_force(k);
        memset(memory, 0xa5, sizeof(memory));
        err = decode(&v, stream, n, &digest);
        if (i == 0) {
            first = err;
            first_digest = digest;
        }
        if (err != first || digest != first_digest)
            abort();
        for (size_t g = 0; g < GUARD_BYTES; ++g) {
            if (memory[g] != 0xa5 || memory[GUARD_BYTES + raw + g] != 0xa5)
                abort();
        }
    }
    kvc_kernels_force(NULL);
    free(stream);
    return 0;
}
