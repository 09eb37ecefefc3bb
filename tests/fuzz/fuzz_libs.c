/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The decoders of raw, lz4, zstd, lz4_x and zstd_x on any bytes: each takes or rejects them and
 * writes nothing outside its view, and what wasn't damaged comes back.
 *
 * Input: which codec (low bits; bit 7: values that are encoded and then damaged by pairs of place
 * and difference), tokens - 1, heads - 1 (low bits) and dtype (high bits), head_dim - 1; then the
 * stream, or the damage.
 */
#include <stdlib.h>
#include <string.h>

#include "../../compress/compress.h"

#define HEAD_BYTES  4u
#define GUARD_BYTES 64u
#define VALUES_MAX  (32u * 4 * 64)
#define CODECS_MAX  32u

static const struct kvw_codec_ops *codec_of(uint8_t number)
{
    const struct kvw_codec_ops *libs[CODECS_MAX];
    uint32_t n = 0;

    for (uint32_t i = 0; kvc_codecs[i] != NULL && n < CODECS_MAX; ++i)
        if (kvc_codecs[i]->by_name_only || kvc_codecs[i] == &kvc_codec_raw)
            libs[n++] = kvc_codecs[i];
    return libs[number % n];
}

static void *scratch_of(const struct kvw_codec_ops *c, const struct kvw_view *v)
{
    void *scratch = aligned_alloc(64, (c->scratch_bytes(kvw_view_bytes(v)) + 64) / 64 * 64);

    if (scratch == NULL)
        abort();
    return scratch;
}

static struct kvw_digest digest_begin(void)
{
    struct kvw_digest d;

    if (kvw_digest_begin(&d, KVW_DIGEST_LANES) != KVW_OK)
        abort();
    return d;
}

/* A stream of values that repeat after a while, damaged; *sound: not damaged at all. */
static unsigned char *encoded(const struct kvw_codec_ops *c, const struct kvw_view *v,
                              const uint8_t *bytes, size_t n, uint64_t *made, uint64_t *digest,
                              bool *sound)
{
    const uint64_t raw = kvw_view_bytes(v), room = c->bound(raw);
    unsigned char *stream = malloc(room);
    void *scratch = scratch_of(c, v);
    struct kvw_digest d = digest_begin();

    if (stream == NULL)
        abort();
    for (uint64_t i = 0; i < raw; ++i)
        v->base[i] = (unsigned char)(i % 97 * (i % 5) + i / 300);
    if (c->encode(v, NULL, stream, room, made, &d, scratch) != KVW_OK || *made > room)
        abort();
    *digest = kvw_digest_value(&d);
    *sound = true;
    for (size_t i = 0; i + 2 < n; i += 3) { /* place, place, difference */
        stream[(bytes[i] | (size_t)bytes[i + 1] << 8) % *made] ^= bytes[i + 2];
        *sound = false; /* or so, if one undoes another */
    }
    free(scratch);
    return stream;
}

static void decode(const struct kvw_codec_ops *c, const struct kvw_view *v, unsigned char *memory,
                   const unsigned char *stream, uint64_t n, const uint64_t *want)
{
    const uint64_t raw = kvw_view_bytes(v);
    unsigned char *exactly = malloc(n > 0 ? n : 1); /* so that a sanitizer sees one byte too far */
    void *scratch = scratch_of(c, v);
    struct kvw_digest d = digest_begin();
    kvw_err err;

    if (exactly == NULL)
        abort();
    if (n > 0)
        memcpy(exactly, stream, n);
    memset(memory, 0xa5, 2 * GUARD_BYTES + raw);
    err = c->decode(exactly, n, NULL, v, &d, scratch);
    if (err != KVW_OK && err != KVW_E_CODEC)
        abort();
    if (want != NULL && (err != KVW_OK || kvw_digest_value(&d) != *want))
        abort();
    for (size_t g = 0; g < GUARD_BYTES; ++g)
        if (memory[g] != 0xa5 || memory[GUARD_BYTES + raw + g] != 0xa5)
            abort();
    free(scratch);
    free(exactly);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static const kvw_dtype dtypes[] = {KVW_DTYPE_BF16, KVW_DTYPE_F16, KVW_DTYPE_F8_E4M3,
                                       KVW_DTYPE_F8_E5M2};
    static unsigned char memory[2 * GUARD_BYTES + 2 * VALUES_MAX];
    const uint32_t block = 0;

    if (n < HEAD_BYTES)
        return 0;

    const struct kvw_codec_ops *c = codec_of(bytes[0] & 127);
    const kvw_dtype dtype = dtypes[bytes[2] >> 6];
    const uint32_t heads = bytes[2] % 4 + 1;
    const uint32_t row = (bytes[3] % 64 + 1) * kvw_dtype_bytes(dtype);
    const struct kvw_view v = {.base = memory + GUARD_BYTES,
                               .blocks = &block,
                               .block_tokens = 32,
                               .tokens = bytes[1] % 32 + 1,
                               .heads = heads,
                               .head_bytes = row,
                               .dtype = dtype,
                               .token_stride = (uint64_t)heads * row,
                               .head_stride = row};

    if ((c->dtypes >> dtype & 1) == 0)
        return 0;
    if (bytes[0] & 128) {
        uint64_t made, digest;
        bool sound;
        unsigned char *stream =
            encoded(c, &v, bytes + HEAD_BYTES, n - HEAD_BYTES, &made, &digest, &sound);

        decode(c, &v, memory, stream, made, sound ? &digest : NULL);
        free(stream);
    } else {
        decode(c, &v, memory, bytes + HEAD_BYTES, n - HEAD_BYTES, NULL);
    }
    return 0;
}
