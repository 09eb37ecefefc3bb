/* SPDX-License-Identifier: Apache-2.0 */
#include "exact.h"

#include <stdlib.h>
#include <string.h>

#include "../../compress/compress.h"
#include "../../compress/kernels.h"

#define BLOCK_TOKENS 4u
#define TOKENS_MAX   256u
#define BOOK_MAX     (1 + 8 * 32)

static const char *const levels[] = {"scalar", "avx2", "avx512"};

struct made {
    struct kvw_view view;
    uint32_t blocks[TOKENS_MAX / BLOCK_TOKENS];
    unsigned char *pool;
    uint64_t pool_bytes;
};

static void make(struct made *m, const kvw_dtype dtypes[2], const uint8_t *head)
{
    const uint32_t tokens = 1 + head[1], heads = 1 + head[2] % 8, dim = 1 + head[3] % 32;
    const uint32_t count = (tokens + BLOCK_TOKENS - 1) / BLOCK_TOKENS;

    m->view = (struct kvw_view){.blocks = m->blocks,
                                .block_tokens = BLOCK_TOKENS,
                                .tokens = tokens,
                                .heads = heads,
                                .dtype = dtypes[head[0] % 2]};
    m->view.head_bytes = dim * kvw_dtype_bytes(m->view.dtype);
    m->view.head_stride = m->view.head_bytes;
    m->view.token_stride = (uint64_t)heads * m->view.head_bytes;
    if (head[0] & 16) { /* heads outside */
        m->view.token_stride = m->view.head_bytes;
        m->view.head_stride = (uint64_t)BLOCK_TOKENS * m->view.head_bytes;
    }
    m->view.block_stride = (uint64_t)BLOCK_TOKENS * heads * m->view.head_bytes;
    for (uint32_t i = 0; i < count; ++i)
        m->blocks[i] = count - 1 - i;
    m->pool_bytes = count * m->view.block_stride;
    m->pool = calloc(1, m->pool_bytes);
    m->view.base = m->pool;
}

static void as_stream(struct made *m, const struct kvw_codec_ops *codec, const uint8_t *stream,
                      size_t n, const struct kvw_codec_book *book)
{
    const uint64_t raw = kvw_view_bytes(&m->view);
    void *scratch = aligned_alloc(64, (codec->scratch_bytes(raw) + 63) / 64 * 64);
    unsigned char *first = NULL;
    kvw_err first_err = KVW_OK;

    for (uint32_t l = 0; l < sizeof(levels) / sizeof(levels[0]); ++l) {
        const struct kvc_kernels *k = kvc_kernels_named(levels[l]);
        struct kvw_digest d;
        kvw_err err;

        if (k == NULL)
            continue;
        kvc_kernels_force(k);
        memset(m->pool, 0, m->pool_bytes);
        if (kvw_digest_begin_chunk(&d,
                                   m->view.tokens % 2 == 0 ? KVW_DIGEST_LANES : KVW_DIGEST_XXH3_64,
                                   &m->view) != KVW_OK)
            abort();
        err = codec->decode(stream, n, book, &m->view, &d, scratch);
        if (err != KVW_OK && err != KVW_E_CODEC)
            abort();
        if (first == NULL) {
            first = malloc(m->pool_bytes);
            memcpy(first, m->pool, m->pool_bytes);
            first_err = err;
        } else if (err != first_err ||
                   (err == KVW_OK && memcmp(first, m->pool, m->pool_bytes) != 0)) {
            abort(); /* levels differ */
        }
    }
    free(first);
    free(scratch);
}

static void as_values(struct made *m, const struct kvw_codec_ops *codec, const uint8_t *values,
                      size_t n, const struct kvw_codec_book *book)
{
    const uint64_t raw = kvw_view_bytes(&m->view), room = codec->bound(raw);
    const struct kvw_codec_args args = {.book = book};
    void *scratch = aligned_alloc(64, (codec->scratch_bytes(raw) + 63) / 64 * 64);
    unsigned char *want = malloc(m->pool_bytes), *first = malloc(room), *stream = malloc(room);
    uint64_t first_bytes = 0;

    for (uint64_t i = 0; n > 0 && i < m->pool_bytes; ++i)
        m->pool[i] = values[i % n];
    memcpy(want, m->pool, m->pool_bytes);
    for (uint32_t l = 0; l < sizeof(levels) / sizeof(levels[0]); ++l) {
        const struct kvc_kernels *k = kvc_kernels_named(levels[l]);
        struct kvw_digest d, back;
        uint64_t bytes;

        if (k == NULL)
            continue;
        kvc_kernels_force(k);
        memcpy(m->pool, want, m->pool_bytes);
        if (kvw_digest_begin_chunk(&d,
                                   m->view.tokens % 2 == 0 ? KVW_DIGEST_LANES : KVW_DIGEST_XXH3_64,
                                   &m->view) != KVW_OK)
            abort();
        back = d;
        if (codec->encode(&m->view, &args, stream, room, &bytes, &d, scratch) != KVW_OK ||
            bytes > room)
            abort();
        if (first_bytes == 0) {
            first_bytes = bytes;
            memcpy(first, stream, bytes);
        } else if (bytes != first_bytes || memcmp(first, stream, bytes) != 0) {
            abort(); /* levels differ */
        }
        for (uint32_t t = 0; t < m->view.tokens; ++t)
            for (uint32_t h = 0; h < m->view.heads; ++h)
                memset(kvw_view_at(&m->view, t, h), 0, m->view.head_bytes);
        if (codec->decode(stream, bytes, book, &m->view, &back, scratch) != KVW_OK ||
            kvw_digest_value(&back) != kvw_digest_value(&d) ||
            memcmp(want, m->pool, m->pool_bytes) != 0)
            abort();
    }
    free(stream);
    free(first);
    free(want);
    free(scratch);
}

void exact_input(const struct kvw_codec_ops *codec, const kvw_dtype dtypes[2], const uint8_t *bytes,
                 size_t n)
{
    static uint8_t book_bytes[BOOK_MAX];
    struct kvw_codec_book book = {.id = 7, .bytes = book_bytes};
    const struct kvw_codec_book *given = NULL;
    uint32_t bias; /* of the dtype's exponents: books place windows around ordinary values */
    struct made m;

    if (n < 5)
        return;
    make(&m, dtypes, bytes);
    bias = m.view.dtype == KVW_DTYPE_BF16 ? 127 : m.view.dtype == KVW_DTYPE_F8_E4M3 ? 7 : 15;
    if (bytes[4] & 1) {
        book.byte_count = 1 + m.view.heads * (m.view.head_bytes / kvw_dtype_bytes(m.view.dtype));
        for (uint32_t i = 0; i < book.byte_count; ++i)
            book_bytes[i] =
                (uint8_t)(i == 0 ? bias - 74 : 61 + i % 3 + (bytes[4] & 0x60) + i % 2 * 64);
        given = &book;
    }
    if (bytes[4] & 2)
        as_values(&m, codec, bytes + 5, n - 5, given);
    else
        as_stream(&m, codec, bytes + 5, n - 5, given);
    free(m.pool);
}
