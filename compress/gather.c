/* SPDX-License-Identifier: Apache-2.0 */
#include "gather.h"

#include <string.h>

#include "../kvwire/past.h"

enum way { GATHER, SCATTER, SCATTER_PAST };

/* How a view's memory runs: tokens of one block may be contiguous, or a token's heads, or
 * a head. */
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
 * Copy whole tokens [at, at + tokens). Heads outside, tokens inside: where a head's tokens lie side
 * by side, memory is walked in order, and the jumps fall on the piece, which is in the cache.
 */
static void copy_tokens(const struct kvw_view *v, const struct run_shape *s, uint32_t at,
                        uint32_t tokens, unsigned char *piece, enum way way)
{
    const uint32_t run_bytes = s->head_step * v->head_bytes;

    while (tokens > 0) {
        const uint32_t slot = (v->first_token + at) % v->block_tokens;
        const uint32_t left = v->block_tokens - slot; /* in this block */
        const uint32_t part = left < tokens ? left : tokens;
        const uint32_t bytes = s->token_step > 1 ? part * run_bytes : run_bytes;
        unsigned char *block = kvw_view_at(v, at, 0);

        for (uint32_t h = 0; h < v->heads; h += s->head_step) {
            unsigned char *mem = block + h * v->head_stride, *p = piece + h * v->head_bytes;

            for (uint32_t t = 0; t < part; t += s->token_step) {
                if (way == GATHER)
                    copy_run(p, mem, bytes);
                else if (way == SCATTER || bytes < KVW_PAST_MIN)
                    copy_run(mem, p, bytes);
                else
                    kvw_past_copy(mem, p, bytes);
                mem += v->token_stride;
                p += s->token_bytes;
            }
        }
        piece += (uint64_t)part * s->token_bytes;
        at += part;
        tokens -= part;
    }
}

/* Part of one token: canonical bytes [in, in + bytes) of it. */
static void copy_part(const struct kvw_view *v, uint32_t token, uint32_t in, uint32_t bytes,
                      unsigned char *piece, enum way way)
{
    while (bytes > 0) {
        const uint32_t off = in % v->head_bytes, left = v->head_bytes - off;
        const uint32_t n = bytes < left ? bytes : left;
        unsigned char *mem = kvw_view_at(v, token, in / v->head_bytes) + off;

        if (way == GATHER)
            memcpy(piece, mem, n);
        else
            memcpy(mem, piece, n);
        piece += n;
        in += n;
        bytes -= n;
    }
}

static void copy(const struct kvw_view *v, uint64_t at, uint64_t bytes, unsigned char *piece,
                 enum way way)
{
    const struct run_shape s = shape_of(v);
    uint32_t token = (uint32_t)(at / s.token_bytes);
    const uint32_t in = (uint32_t)(at % s.token_bytes);

    if (in > 0) {
        const uint64_t left = s.token_bytes - in;
        const uint32_t n = (uint32_t)(bytes < left ? bytes : left);

        copy_part(v, token++, in, n, piece, way);
        piece += n;
        bytes -= n;
    }

    const uint32_t tokens = (uint32_t)(bytes / s.token_bytes);

    copy_tokens(v, &s, token, tokens, piece, way);
    piece += (uint64_t)tokens * s.token_bytes;
    bytes -= (uint64_t)tokens * s.token_bytes;
    if (bytes > 0)
        copy_part(v, token + tokens, 0, (uint32_t)bytes, piece, way);
}

void kvc_gather(const struct kvw_view *v, uint64_t at, uint64_t bytes, void *to)
{
    copy(v, at, bytes, to, GATHER);
}

void kvc_scatter(const struct kvw_view *v, uint64_t at, uint64_t bytes, const void *from)
{
    copy(v, at, bytes, (unsigned char *)(uintptr_t)from, SCATTER); /* only read */
}

void kvc_scatter_past(const struct kvw_view *v, uint64_t at, uint64_t bytes, const void *from)
{
    copy(v, at, bytes, (unsigned char *)(uintptr_t)from, SCATTER_PAST);
}

unsigned char *kvc_contiguous(const struct kvw_view *v, uint64_t at, uint64_t bytes)
{
    const struct run_shape s = shape_of(v);
    const uint32_t token = (uint32_t)(at / s.token_bytes);
    const uint32_t in = (uint32_t)(at % s.token_bytes);
    const uint32_t slot = (v->first_token + token) % v->block_tokens;
    uint64_t run;

    if (s.token_step > 1)
        run = (uint64_t)(v->block_tokens - slot) * s.token_bytes - in;
    else if (s.head_step == v->heads)
        run = s.token_bytes - in;
    else
        run = v->head_bytes - in % v->head_bytes;
    if (bytes > run)
        return NULL;
    if (s.head_step == v->heads)
        return kvw_view_at(v, token, 0) + in;
    return kvw_view_at(v, token, in / v->head_bytes) + in % v->head_bytes;
}

bool kvc_row_map(const struct kvw_view *v, uint32_t row_bytes, struct kvc_row_map *m)
{
    const uint32_t token_bytes = v->heads * v->head_bytes;
    const uint32_t run = shape_of(v).head_step * v->head_bytes; /* in one piece for certain */
    uint64_t *to = m->offset;

    if (run % row_bytes != 0)
        return false;
    m->token_rows = token_bytes / row_bytes;
    if (m->token_rows > KVC_ROW_MAP_MAX / v->block_tokens)
        return false;
    m->rows = m->token_rows * v->block_tokens;
    for (uint32_t slot = 0; slot < v->block_tokens; ++slot)
        for (uint64_t head = 0, done = 0; done < token_bytes; head += v->head_stride, done += run)
            for (uint32_t in = 0; in < run; in += row_bytes)
                *to++ = slot * v->token_stride + head + in;
    return true;
}

void kvc_rows(const struct kvw_view *v, const struct kvc_row_map *m, uint64_t first, uint32_t count,
              unsigned char **rows)
{
    const uint64_t at = (uint64_t)v->first_token * m->token_rows + first;
    const uint32_t *block = v->blocks + at / m->rows;
    uint32_t in = (uint32_t)(at % m->rows);

    while (count > 0) {
        unsigned char *const base = v->base + *block++ * v->block_stride;
        const uint32_t left = m->rows - in, part = left < count ? left : count;

        for (uint32_t i = 0; i < part; ++i)
            rows[i] = base + m->offset[in + i];
        rows += part;
        count -= part;
        in = 0;
    }
}
