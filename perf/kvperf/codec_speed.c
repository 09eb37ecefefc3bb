/* SPDX-License-Identifier: Apache-2.0 */
/* codec_speed.c - one codec over chunks of a cache, by the table that the library has. */
#include "codec_speed.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHUNKS 48u /* of 256 KiB: more than a core's own caches hold */

/* What one measurement holds. */
struct bench {
    const struct kvw_codec_ops *ops;
    struct kvp_cache from, to;
    struct kvp_payload payload;
    struct kvw_view views[2][CHUNKS];
    uint32_t chunks;
    unsigned char *streams;
    uint64_t stream_bytes[CHUNKS], bound, raw_bytes;
    void *scratch;
};

static const struct kvw_codec_ops *ops_of(uint32_t id)
{
    for (uint32_t i = 0; kvw_parts.codecs[i] != NULL; ++i)
        if (kvw_parts.codecs[i]->id == id)
            return kvw_parts.codecs[i];
    return NULL;
}

static struct kvw_view view_of(const struct kvp_cache *c, uint32_t first, uint32_t tokens)
{
    const struct kvp_part *part = &c->cfg.geometry->groups[0].parts[0];
    const struct kvw_plane *plane = &c->groups[0].planes[0][0];

    return (struct kvw_view){.base = plane->base,
                             .blocks = c->groups[0].shuffled,
                             .block_tokens = c->groups[0].block_entries,
                             .first_token = first,
                             .tokens = tokens,
                             .heads = part->rows,
                             .head_bytes = part->row_bytes,
                             .dtype = (kvw_dtype)part->dtype,
                             .block_stride = plane->block_stride,
                             .token_stride = plane->entry_stride,
                             .head_stride = plane->row_stride};
}

/* A model of one layer with one part, and caches for some chunks of it. */
static bool open_bench(struct bench *b, struct kvp_geometry *g, const struct kvp_options *o,
                       char *why)
{
    struct kvp_cache_config cfg = {.geometry = g,
                                   .requests = 1,
                                   .block_tokens = o->block_tokens,
                                   .layout = o->layout,
                                   .seed = o->seed};
    const uint64_t entry = kvp_part_entry_bytes(&g->groups[0].parts[0]);
    const uint32_t each = (uint32_t)(KVW_CHUNK_RAW_AIM / entry > 0 ? KVW_CHUNK_RAW_AIM / entry : 1);

    cfg.tokens = each * CHUNKS;
    b->chunks = CHUNKS;
    if (!kvp_cache_make(&b->from, &cfg, why) || !kvp_cache_make(&b->to, &cfg, why) ||
        !kvp_payload_make(&b->payload, g, o->payload, o->seed, o->payload_path, why))
        return false;
    kvp_cache_fill(&b->from, &b->payload, 0, cfg.tokens, true);
    for (uint32_t i = 0; i < b->chunks; ++i) {
        b->views[0][i] = view_of(&b->from, i * each, each);
        b->views[1][i] = view_of(&b->to, i * each, each);
    }
    b->raw_bytes = kvw_view_bytes(&b->views[0][0]);
    b->bound = (b->ops->bound(b->raw_bytes) + 63) / 64 * 64;
    b->streams = aligned_alloc(64, b->bound * b->chunks);
    b->scratch = aligned_alloc(64, (b->ops->scratch_bytes(b->raw_bytes) + 127) / 64 * 64);
    if (b->streams != NULL && b->scratch != NULL)
        return true;
    snprintf(why, KVP_WHY, "no memory for a codec's streams");
    return false;
}

static bool encode(struct bench *b, uint32_t i)
{
    const struct kvw_codec_args args = {0};
    struct kvw_digest digest;

    return kvw_digest_begin_chunk(&digest, KVW_DIGEST_LANES, &b->views[0][i]) == KVW_OK &&
           b->ops->encode(&b->views[0][i], &args, b->streams + i * b->bound, b->bound,
                          &b->stream_bytes[i], &digest, b->scratch) == KVW_OK;
}

static bool decode(struct bench *b, uint32_t i)
{
    struct kvw_digest digest;

    return kvw_digest_begin_chunk(&digest, KVW_DIGEST_LANES, &b->views[1][i]) == KVW_OK &&
           b->ops->decode(b->streams + i * b->bound, b->stream_bytes[i], NULL, &b->views[1][i],
                          &digest, b->scratch) == KVW_OK;
}

/* Raw bytes a second of the fastest round over all chunks; the first, which warms up, is one of
 * several. 0: the codec failed. */
static double pace(struct bench *b, bool (*step)(struct bench *, uint32_t), double spend_ms)
{
    const uint64_t until_ns = kvw_now_ns() + (uint64_t)(spend_ms * 1e6);
    uint64_t best_ns = UINT64_MAX;

    for (uint32_t round = 0; round < 3 || kvw_now_ns() < until_ns; ++round) {
        const uint64_t from_ns = kvw_now_ns();

        for (uint32_t i = 0; i < b->chunks; ++i)
            if (!step(b, i))
                return 0;
        const uint64_t took_ns = kvw_now_ns() - from_ns;

        best_ns = took_ns < best_ns ? took_ns : best_ns;
    }
    return (double)b->raw_bytes * b->chunks * 1e9 / (double)best_ns;
}

static bool measure(struct kvp_codec_speed *s, struct bench *b, double spend_ms, char *why)
{
    uint64_t wire = 0;

    s->encode_bytes_per_s = pace(b, encode, spend_ms);
    s->decode_bytes_per_s = s->encode_bytes_per_s > 0 ? pace(b, decode, spend_ms) : 0;
    if (!(s->decode_bytes_per_s > 0)) {
        snprintf(why, KVP_WHY, "codec %s failed on this payload", b->ops->name);
        return false;
    }
    for (uint32_t i = 0; i < b->chunks; ++i)
        wire += b->stream_bytes[i];
    s->ratio = (double)b->raw_bytes * b->chunks / (double)wire;
    const struct kvp_check check = kvp_cache_check(&b->to, &b->payload, 0, b->to.cfg.tokens, true);

    s->noise = check.signal > 0 ? sqrt(check.noise / check.signal) : 0;
    if (b->ops->budget == KVW_BUDGET_EXACT && check.wrong > 0) {
        snprintf(why, KVP_WHY, "codec %s gave back %llu other bytes", b->ops->name,
                 (unsigned long long)check.wrong);
        return false;
    }
    return true;
}

bool kvp_codec_speed(struct kvp_codec_speed *s, const struct kvp_options *o,
                     const struct kvp_codec *codec, double spend_ms, char why[KVP_WHY])
{
    struct kvp_geometry one = {.layers = 1, .prefill_tok_s = 1, .group_count = 1};
    struct bench *b = calloc(1, sizeof(*b));
    uint32_t paged = 0;
    bool ok = b != NULL;

    memset(s, 0, sizeof(*s));
    while (paged + 1 < o->geometry.group_count && o->geometry.groups[paged].kind != KVW_GROUP_PAGED)
        ++paged;
    one.groups[0] = (struct kvp_group){.kind = KVW_GROUP_PAGED,
                                       .pattern = "1",
                                       .entry_tokens = 1,
                                       .part_count = 1,
                                       .parts = {o->geometry.groups[paged].parts[0]}};
    if (ok)
        b->ops = ops_of(codec->id);
    if (ok && b->ops != NULL && (b->ops->dtypes >> one.groups[0].parts[0].dtype & 1) != 0) {
        s->fits = true;
        ok = open_bench(b, &one, o, why) && measure(s, b, spend_ms, why);
        kvp_cache_free(&b->from);
        kvp_cache_free(&b->to);
        kvp_payload_free(&b->payload);
        free(b->streams);
        free(b->scratch);
    }
    free(b);
    return ok;
}

double kvp_memcpy_bytes_per_s(void)
{
    const size_t bytes = 64u << 20;
    unsigned char *from = malloc(bytes), *to = malloc(bytes);
    uint64_t best_ns = UINT64_MAX;

    for (int i = 0; from != NULL && to != NULL && i < 5; ++i) {
        memset(from, i + 1, bytes);
        const uint64_t from_ns = kvw_now_ns();

        memcpy(to, from, bytes);
        const uint64_t took_ns = kvw_now_ns() - from_ns;

        if (i > 0 && to[bytes / 2] == i + 1 && took_ns < best_ns) /* the first makes the pages */
            best_ns = took_ns;
    }
    free(from);
    free(to);
    return (double)bytes * 1e9 / (double)best_ns;
}

double kvp_break_even(const struct kvp_codec_speed *s, bool piped)
{
    if (!s->fits || s->ratio <= 1.005)
        return 0;
    if (piped)
        return fmin(s->encode_bytes_per_s, s->decode_bytes_per_s);
    return (1 - 1 / s->ratio) / (1 / s->encode_bytes_per_s + 1 / s->decode_bytes_per_s);
}
