/* SPDX-License-Identifier: Apache-2.0 */
/*
 * e.c - the error-bounded codecs: E8 with the noise of fp8 e4m3, E4 with less than that of a good
 * int4. A uniform quantiser with one step a chunk, so that |x - x'| <= step/2 (and the rounding of
 * x' to its type) holds for every value; what can't keep it is stored as it is. The stream:
 * SPEC.md.
 */
#include <string.h>

#include "../kvwire/wire/le.h"
#include "compress.h"
#include "e.h"
#include "gather.h"
#include "kernels.h"

#define HEADER_BYTES 32u
#define FORMAT_AT    24u
#define FORMAT       2u /* of the streams */
#define ENTRY_BYTES  8u /* of a block: its end, W, X */
#define SAMPLES_MAX  64u
#define SPARE        64u /* that loops may read or write past the end of a section */
#define MODE_STORED  0u
#define MODE_CODED   1u
#define HUGE_BF16    0x5880u /* 2^50 */
#define HUGE_HALF    0x7800u /* 2^15 */
#define FOLLOW_MOST  4       /* quarters */
#define WIDE_MAX     (KVC_E_U_EXACT - KVC_E_RANKS)

/* The step in parts of the RMS value: noise is step^2 / 12. */
#define NOISE_E8 0.0890f /* 31.8 dB below; e4m3 leaves 31.4 to 31.5 */
#define NOISE_E4 0.2750f /* 22.0 dB below; Hadamard and int4 leave 19.2 to 20.8 on real K and V */

/* One call's memory, all of it in the caller's scratch. */
struct work {
    const struct kvw_view *view;
    uint32_t channels, row_bytes;
    uint32_t first, coded, last; /* tokens: exact, coded, exact */
    uint32_t block_tokens;       /* of a whole unit */
    uint32_t first_unit, blocks;
    struct kvc_e_plan plan;
    struct kvc_e_sums sums;
    int16_t *distance;     /* [groups * 64], kvc_e_block.last */
    uint16_t *row, *row_b; /* [groups * 64] a token and its predecessor */
    uint16_t *tile;        /* a block's tokens, if they don't lie side by side */
    uint16_t *decoded;     /* a block, canonical, and spare */
    unsigned char *lows, *exact, *stream;
    uint8_t *codes, *wide; /* codes, or ranks */
};

/* The symbols' planes: two bits four times (kvc_e_codes). */
static const struct kvc_shape shape = {{2, 2, 2, 2}};

static uint32_t pack(const struct kvc_kernels *k, const uint8_t *codes, uint32_t n, uint8_t *to)
{
    uint64_t escapes[KVC_BLOCK_WORDS];

    return k->e->pack != NULL ? k->e->pack(codes, n, to)
                              : k->planes->encode(&shape, codes, n, to, escapes);
}

static uint32_t unpack(const struct kvc_kernels *k, const uint8_t *from, uint32_t bytes, uint32_t n,
                       uint8_t *ranks)
{
    uint64_t escapes[KVC_BLOCK_WORDS];

    return k->e->unpack != NULL ? k->e->unpack(from, bytes, n, ranks)
                                : k->planes->decode(&shape, from, bytes, n, ranks, escapes);
}

static size_t round64(size_t n)
{
    return (n + 63) / 64 * 64;
}

static uint32_t block_tokens_of(uint32_t channels)
{
    return kvw_unit_values(channels) / channels;
}

static uint64_t aligned(uint64_t n)
{
    return (n + KVC_ALIGN - 1) / KVC_ALIGN * KVC_ALIGN;
}

/* Zeros behind a part of the stream that ends at `end`, `bytes` behind a multiple of KVC_ALIGN.
 * Returns the next part's beginning. */
static unsigned char *pad(unsigned char *end, uint64_t bytes)
{
    const size_t n = (size_t)(aligned(bytes) - bytes);

    memset(end, 0, n);
    return end + n;
}

static bool is_padded(const unsigned char *end, uint64_t bytes)
{
    return kvc_is_zero(end, (uint32_t)(aligned(bytes) - bytes));
}

/* Hand out n bytes of memory; NULL only counts. */
static void *take(unsigned char *memory, size_t *used, size_t n)
{
    unsigned char *at = memory == NULL ? NULL : memory + *used;

    *used += round64(n);
    return at;
}

/* The longest that one block's sections can be. */
static size_t block_bound(size_t values)
{
    return aligned(values) + kvc_planes_bound(&shape, (uint32_t)values) + values + 2 * values +
           KVC_ALIGN;
}

static size_t lay_out(struct work *w, uint32_t channels, unsigned char *memory)
{
    const size_t lanes = round64(channels);
    const size_t values = (size_t)block_tokens_of(channels) * channels;
    size_t used = 0;
    void *plan = take(memory, &used, kvc_e_plan_bytes(channels));

    if (memory != NULL)
        kvc_e_plan_place(&w->plan, channels, plan);
    w->sums.sum = take(memory, &used, lanes * sizeof(float));
    w->sums.square = take(memory, &used, lanes * sizeof(float));
    w->sums.cross = take(memory, &used, lanes * sizeof(float));
    w->distance = take(memory, &used, lanes * sizeof(int16_t));
    w->row = take(memory, &used, lanes * sizeof(uint16_t));
    w->row_b = take(memory, &used, lanes * sizeof(uint16_t));
    w->tile = take(memory, &used, (values + lanes) * sizeof(uint16_t));
    w->decoded = take(memory, &used, (values + lanes) * sizeof(uint16_t));
    w->lows = take(memory, &used, values + SPARE);
    w->codes = take(memory, &used, values + 2 * SPARE);
    w->wide = take(memory, &used, values + SPARE);
    w->exact = take(memory, &used, 2 * values + SPARE);
    w->stream = take(memory, &used, block_bound(values) + SPARE);
    return used;
}

static bool takes(kvw_dtype dtype)
{
    return dtype == KVW_DTYPE_BF16 || dtype == KVW_DTYPE_F16;
}

/* Whether a chunk of this shape can be coded at all; else it is stored. */
static bool prepare(struct work *w, const struct kvw_view *v, void *scratch)
{
    const uint64_t channels = (uint64_t)v->heads * v->head_bytes / 2;

    if (channels == 0 || channels > KVC_E_CHANNELS_MAX || v->tokens == 0)
        return false;
    w->view = v;
    w->channels = (uint32_t)channels;
    w->row_bytes = w->channels * 2;
    lay_out(w, w->channels, scratch);
    w->plan.half_floats = v->dtype == KVW_DTYPE_F16;
    w->plan.huge = w->plan.half_floats ? HUGE_HALF : HUGE_BF16;
    return true;
}

static void cut_tokens(struct work *w, uint32_t first, uint32_t last)
{
    const uint32_t tokens = w->view->tokens;

    w->first = first < tokens ? first : tokens;
    w->last = last < tokens - w->first ? last : tokens - w->first;
    w->coded = tokens - w->first - w->last;
    w->block_tokens = block_tokens_of(w->channels);
    w->first_unit = w->first / w->block_tokens;
    w->blocks = w->coded == 0
                    ? 0
                    : (tokens - w->last + w->block_tokens - 1) / w->block_tokens - w->first_unit;
}

/* A block's tokens: those of its unit that aren't exact. */
struct range {
    uint32_t at, tokens;
};

static struct range tokens_of(const struct work *w, uint32_t block)
{
    const uint32_t unit = (w->first_unit + block) * w->block_tokens;
    const uint32_t at = unit > w->first ? unit : w->first, end = w->first + w->coded;
    const uint32_t most = unit + w->block_tokens;

    return (struct range){at, (most < end ? most : end) - at};
}

static uint64_t offset_of(const struct work *w, uint32_t token)
{
    return (uint64_t)token * w->row_bytes;
}

/* One of the view's tokens, padded to whole groups with the zeros that stand behind row. */
static const uint16_t *token_at(const struct work *w, uint32_t token, uint16_t *row)
{
    kvc_gather(w->view, offset_of(w, token), w->row_bytes, row);
    return row;
}

/* Up to 64 of the coded tokens, evenly spaced, and for K each one's predecessor. */
static void sample(struct work *w, const struct kvc_kernels *k, bool follow)
{
    const size_t lanes = round64(w->channels);
    const uint32_t n = w->coded < SAMPLES_MAX ? w->coded : SAMPLES_MAX;

    memset(w->sums.sum, 0, lanes * sizeof(float));
    memset(w->sums.square, 0, lanes * sizeof(float));
    memset(w->sums.cross, 0, lanes * sizeof(float));
    memset(w->row, 0, lanes * sizeof(uint16_t));
    memset(w->row_b, 0, lanes * sizeof(uint16_t));
    w->sums.tokens = n;
    w->sums.follow = follow;
    for (uint32_t i = 0; i < n; ++i) {
        const uint32_t t = (uint32_t)((uint64_t)i * w->coded / n);
        const uint16_t *before = NULL;

        if (follow && t > 0)
            before = token_at(w, w->first + t - 1, w->row_b);
        k->e->sums(&w->plan, token_at(w, w->first + t, w->row), before, w->sums.sum, w->sums.square,
                   w->sums.cross);
    }
}

/* The block's sections one after the other, and their counts to its entry; returns their end. */
static unsigned char *assemble(struct work *w, const struct kvc_kernels *k,
                               const struct kvc_e_block *b, unsigned char *to, unsigned char *entry)
{
    const uint32_t lows = (uint32_t)(b->lows.at - w->lows) + (b->lows.count + 7) / 8;
    const uint32_t wide = (uint32_t)(b->wide - w->wide), exact = (uint32_t)(b->exact - w->exact);

    kvw_store_le64(b->lows.at, b->lows.held);
    kvw_store_le16(entry + 4, (uint16_t)wide);
    kvw_store_le16(entry + 6, (uint16_t)(exact / 2));
    memcpy(to, w->lows, lows);
    to = pad(to + lows, lows);
    to += pack(k, w->codes, (uint32_t)(b->codes - w->codes), to);
    memcpy(to, w->wide, wide);
    memcpy(to + wide, w->exact, exact);
    return to + wide + exact;
}

/* Tokens [at, at + tokens) of the view, side by side: where they lie, or gathered. */
static const uint16_t *tile_of(const struct work *w, uint32_t at, uint32_t tokens)
{
    const uint64_t bytes = offset_of(w, tokens);
    const unsigned char *there = kvc_contiguous(w->view, offset_of(w, at), bytes);

    if (there != NULL && (uintptr_t)there % sizeof(uint16_t) == 0)
        return (const uint16_t *)(const void *)there;
    kvc_gather(w->view, offset_of(w, at), bytes, w->tile);
    return w->tile;
}

/* One token at a time, with the zeros that stand behind w->row. */
static void encode_padded(struct work *w, const struct kvc_kernels *k, struct kvc_e_block *b,
                          const uint16_t *tile, uint32_t tokens)
{
    for (uint32_t i = 0; i < tokens; ++i) {
        const size_t at = (size_t)i * w->channels;

        memcpy(w->row, tile + at, w->row_bytes);
        k->e->encode(&w->plan, b, w->row, w->decoded + at, 1);
    }
}

/* Tokens of the view as a block, into to. */
static unsigned char *encode_block(struct work *w, const struct kvc_kernels *k, struct range r,
                                   unsigned char *to, unsigned char *entry)
{
    struct kvc_e_block b = {.lows.at = w->lows,
                            .last = w->distance,
                            .codes = w->codes,
                            .wide = w->wide,
                            .exact = w->exact};
    const uint16_t *tile = tile_of(w, r.at, r.tokens);

    memset(w->distance, 0, round64(w->channels) * sizeof(*w->distance));
    if (w->channels % KVC_E_LANES == 0)
        k->e->encode(&w->plan, &b, tile, w->decoded, r.tokens);
    else
        encode_padded(w, k, &b, tile, r.tokens);
    return assemble(w, k, &b, to, entry);
}

static unsigned char *put_exact_tokens(const struct work *w, unsigned char *to, uint32_t at,
                                       uint32_t tokens)
{
    kvc_gather(w->view, offset_of(w, at), offset_of(w, tokens), to);
    return to + offset_of(w, tokens);
}

static unsigned char *put_header(const struct work *w, unsigned char *to)
{
    union {
        float f;
        uint32_t u;
    } step = {.f = w->plan.step};

    memset(to, 0, HEADER_BYTES);
    to[0] = MODE_CODED;
    to[1] = (unsigned char)w->view->dtype;
    kvw_store_le16(to + 2, (uint16_t)(step.u >> 16));
    kvw_store_le32(to + 4, w->channels);
    kvw_store_le32(to + 8, w->view->tokens);
    kvw_store_le32(to + 12, w->first);
    kvw_store_le32(to + 16, w->last);
    kvw_store_le32(to + 20, w->blocks);
    to[FORMAT_AT] = FORMAT;
    to += HEADER_BYTES;
    for (uint32_t c = 0; c < w->channels; ++c, to += 2)
        kvw_store_le16(to, (uint16_t)w->plan.base[c]);
    to = pad(to, 2ull * w->channels);
    for (uint32_t c = 0; c < w->channels; ++c)
        *to++ = (unsigned char)(w->plan.low[c] | w->plan.follow[c] << 4);
    return pad(to, w->channels);
}

/* Of the blocks' entries. */
static uint64_t table_bytes(const struct work *w)
{
    return (uint64_t)ENTRY_BYTES * w->blocks;
}

static uint64_t exact_bytes(const struct work *w)
{
    return (uint64_t)(w->first + w->last) * w->row_bytes;
}

/* Where the blocks' entries begin. */
static uint64_t table_at(const struct work *w)
{
    return HEADER_BYTES + aligned(2ull * w->channels) + aligned(w->channels);
}

/* What comes before the blocks. */
static uint64_t front_bytes(const struct work *w)
{
    return table_at(w) + aligned(table_bytes(w)) + aligned(exact_bytes(w));
}

/* The blocks from to on, their ends counted from there. Returns the end of the stream; NULL: it
 * would be no shorter than the values. */
static unsigned char *put_blocks(struct work *w, const struct kvc_kernels *k, unsigned char *dst,
                                 struct kvw_digest *digest)
{
    const uint64_t limit = kvw_view_bytes(w->view);
    const size_t most = block_bound((size_t)w->block_tokens * w->channels);
    unsigned char *const blocks = dst + front_bytes(w), *entry = dst + table_at(w), *to = blocks;

    for (uint32_t i = 0; i < w->blocks; ++i, entry += ENTRY_BYTES) {
        const struct range r = tokens_of(w, i);
        const uint64_t room = limit - (uint64_t)(to - dst);
        /* Straight into dst while even the worst block has room there. */
        unsigned char *out = room >= most ? to : w->stream;
        const uint64_t n = (uint64_t)(encode_block(w, k, r, out, entry) - out);

        if (aligned(n) >= room)
            return NULL;
        if (out != to)
            memcpy(to, out, n);
        kvw_store_le32(entry, (uint32_t)(to - blocks) + (uint32_t)n);
        to = pad(to + n, n);
        kvw_digest_update(digest, w->decoded, (size_t)r.tokens * w->row_bytes);
    }
    return to;
}

/* 0: the stream would be no shorter than the values, or they can't be coded; else its bytes. */
static uint64_t encode_coded(struct work *w, const struct kvc_kernels *k,
                             const struct kvw_codec_args *args, float noise, unsigned char *dst,
                             struct kvw_digest *digest)
{
    const uint64_t first_bytes = (uint64_t)w->first * w->row_bytes;
    unsigned char *table, *exact, *to;

    if (w->coded == 0 || front_bytes(w) >= kvw_view_bytes(w->view))
        return 0;
    sample(w, k, args == NULL || args->kv == 0);
    if (!kvc_e_calibrate(&w->plan, &w->sums, noise))
        return 0;
    kvc_e_derive(&w->plan);
    table = put_header(w, dst);
    exact = pad(table + table_bytes(w), table_bytes(w));
    to = put_exact_tokens(w, exact, 0, w->first);
    to = put_exact_tokens(w, to, w->view->tokens - w->last, w->last);
    pad(to, exact_bytes(w));
    kvw_digest_update(digest, exact, first_bytes);
    to = put_blocks(w, k, dst, digest);
    if (to == NULL)
        return 0;
    kvw_digest_update(digest, exact + first_bytes, (size_t)w->last * w->row_bytes);
    return (uint64_t)(to - dst);
}

static uint64_t e_bound(uint64_t raw_bytes)
{
    return raw_bytes + HEADER_BYTES;
}

static uint64_t e_scratch_bytes(uint64_t raw_bytes)
{
    const uint64_t most = raw_bytes / 2;
    struct work w;

    /* More channels in the same bytes never need less. */
    return lay_out(&w,
                   most < KVC_E_CHANNELS_MAX ? (uint32_t)(most > 0 ? most : 1) : KVC_E_CHANNELS_MAX,
                   NULL) +
           round64(2 * KVC_BLOCK_VALUES) * 10;
}

static kvw_err encode(const struct kvw_view *src, const struct kvw_codec_args *args, float noise,
                      unsigned char *dst, uint64_t dst_bytes, uint64_t *bytes,
                      struct kvw_digest *digest, void *scratch)
{
    const uint64_t raw = kvw_view_bytes(src);
    const struct kvw_digest before = *digest;
    struct work w;
    uint64_t n = 0;
    kvw_err err;

    if (dst_bytes < e_bound(raw) || !takes(src->dtype))
        return KVW_E_INVALID;
    if (prepare(&w, src, scratch)) {
        cut_tokens(&w, args != NULL ? args->exact_first : 0, args != NULL ? args->exact_last : 0);
        n = encode_coded(&w, kvc_kernels(), args, noise, dst, digest);
    }
    if (n == 0) {
        *digest = before;
        memset(dst, 0, HEADER_BYTES);
        dst[0] = MODE_STORED;
        dst[1] = (unsigned char)src->dtype;
        dst[FORMAT_AT] = FORMAT;
        err = kvc_codec_raw.encode(src, NULL, dst + HEADER_BYTES, raw, &n, digest, scratch);
        if (err != KVW_OK)
            return err;
        n += HEADER_BYTES;
    }
    *bytes = n;
    return KVW_OK;
}

/* A block of the stream: its bytes, values and counts, as its entry has them. */
struct found {
    const unsigned char *at;
    uint32_t bytes, values, low_bits, wide, exact;
};

/* The block's sections, found and checked against its length, and its ranks. */
static bool open_block(struct work *w, const struct kvc_kernels *k, struct kvc_e_block *b,
                       const struct found *f)
{
    const uint32_t lows = (f->low_bits + 7) / 8, padded = kvc_aligned(lows);
    const unsigned char *at = f->at + padded;
    uint32_t planes;
    uint8_t most = 0;

    if (f->bytes < padded || (f->low_bits % 8 != 0 && f->at[lows - 1] >> f->low_bits % 8 != 0) ||
        !is_padded(f->at + lows, lows))
        return false;
    planes = unpack(k, at, f->bytes - padded, f->values, w->codes);
    if (planes == 0 || f->bytes - padded - planes != f->wide + 2 * f->exact)
        return false;
    b->lows.at = (unsigned char *)(uintptr_t)f->at;
    b->last = w->distance;
    b->ranks = w->codes;
    b->wide = (uint8_t *)(uintptr_t)at + planes;
    b->wide_end = b->wide + f->wide;
    b->exact = (unsigned char *)(uintptr_t)b->wide_end;
    b->exact_end = b->exact + 2 * (size_t)f->exact;
    for (uint32_t i = 0; i < f->wide; ++i)
        most = b->wide[i] > most ? b->wide[i] : most;
    return most <= WIDE_MAX;
}

static bool decode_block(struct work *w, const struct kvc_kernels *k, const struct found *f,
                         uint16_t *to)
{
    struct kvc_e_block b = {0};

    memset(w->distance, 0, round64(w->channels) * sizeof(*w->distance));
    if (!open_block(w, k, &b, f) || !k->e->decode(&w->plan, &b, to, f->values / w->channels))
        return false;
    return b.wide == b.wide_end && b.exact == b.exact_end;
}

/* The header and the channels' table; src is longer than HEADER_BYTES. */
static bool read_front(struct work *w, const unsigned char *src, uint64_t bytes)
{
    const union {
        uint32_t u;
        float f;
    } step = {.u = (uint32_t)kvw_load_le16(src + 2) << 16};
    const uint32_t first = kvw_load_le32(src + 12), last = kvw_load_le32(src + 16);
    const unsigned char *base = src + HEADER_BYTES, *bits = base + aligned(2ull * w->channels);

    if (src[1] != w->view->dtype || src[FORMAT_AT] != FORMAT ||
        !kvc_is_zero(src + FORMAT_AT + 1, HEADER_BYTES - FORMAT_AT - 1) ||
        kvw_load_le32(src + 4) != w->channels || kvw_load_le32(src + 8) != w->view->tokens ||
        first > w->view->tokens || last > w->view->tokens - first ||
        !(step.f >= 0x1p-60f && step.f <= 0x1p50f))
        return false;
    cut_tokens(w, first, last);
    if (w->coded == 0 || kvw_load_le32(src + 20) != w->blocks || front_bytes(w) > bytes ||
        bytes >= kvw_view_bytes(w->view) || /* it would have been stored */
        !is_padded(base + 2 * (size_t)w->channels, 2ull * w->channels) ||
        !is_padded(bits + w->channels, w->channels) ||
        !is_padded(src + table_at(w) + table_bytes(w), table_bytes(w)) ||
        !is_padded(src + table_at(w) + aligned(table_bytes(w)) + exact_bytes(w), exact_bytes(w)))
        return false;
    w->plan.step = step.f;
    for (uint32_t c = 0; c < w->channels; ++c) {
        w->plan.base[c] = (int16_t)kvw_load_le16(base + 2 * (size_t)c);
        w->plan.low[c] = bits[c] & 15;
        w->plan.follow[c] = bits[c] >> 4;
        if (w->plan.low[c] > (int16_t)KVC_E_LOW_MAX || w->plan.follow[c] > FOLLOW_MOST ||
            w->plan.base[c] > KVC_E_Q_MAX || w->plan.base[c] < -KVC_E_Q_MAX)
            return false;
    }
    kvc_e_derive(&w->plan);
    return true;
}

static const unsigned char *land_exact_tokens(const struct work *w, const unsigned char *from,
                                              uint32_t at, uint32_t tokens,
                                              struct kvw_digest *digest)
{
    kvw_digest_update(digest, from, offset_of(w, tokens));
    kvc_scatter(w->view, offset_of(w, at), offset_of(w, tokens), from);
    return from + offset_of(w, tokens);
}

/* Where to decode those tokens: into the pool, if they lie side by side there and whole groups
 * write nothing past them. */
static uint16_t *place_of(const struct work *w, uint32_t at, uint32_t tokens)
{
    unsigned char *there = kvc_contiguous(w->view, offset_of(w, at), offset_of(w, tokens));

    if (there == NULL || (uintptr_t)there % sizeof(uint16_t) != 0 || w->channels % KVC_E_LANES != 0)
        return w->decoded;
    return (uint16_t *)(void *)there;
}

/* A block into the view, where its tokens are r. */
static bool land_block(struct work *w, const struct kvc_kernels *k, struct range r,
                       const struct found *f, struct kvw_digest *digest)
{
    uint16_t *to = place_of(w, r.at, r.tokens);

    if (!decode_block(w, k, f, to))
        return false;
    kvw_digest_update(digest, to, (size_t)r.tokens * w->row_bytes);
    if (to == w->decoded)
        kvc_scatter(w->view, offset_of(w, r.at), offset_of(w, r.tokens), to);
    return true;
}

/* The blocks, in the `all` bytes at from. */
static bool land_blocks(struct work *w, const struct kvc_kernels *k, const unsigned char *entry,
                        const unsigned char *from, uint64_t all, struct kvw_digest *digest)
{
    uint32_t row_low_bits = 0;
    uint64_t begin = 0;

    for (uint32_t c = 0; c < w->channels; ++c)
        row_low_bits += (uint32_t)w->plan.low[c];
    for (uint32_t i = 0; i < w->blocks; ++i, entry += ENTRY_BYTES) {
        const struct range r = tokens_of(w, i);
        const uint32_t end = kvw_load_le32(entry);
        struct found f = {.at = from + begin,
                          .bytes = end - (uint32_t)begin,
                          .values = r.tokens * w->channels,
                          .low_bits = r.tokens * row_low_bits,
                          .wide = kvw_load_le16(entry + 4),
                          .exact = kvw_load_le16(entry + 6)};

        if (end < begin || aligned(end) > all || f.bytes > block_bound(f.values) ||
            !is_padded(from + end, end))
            return false;
        if (all - end < SPARE) { /* the loops may read past its end */
            memcpy(w->stream, f.at, f.bytes);
            f.at = w->stream;
        }
        if (!land_block(w, k, r, &f, digest))
            return false;
        begin = aligned(end);
    }
    return begin == all;
}

static bool decode_coded(struct work *w, const struct kvc_kernels *k, const unsigned char *src,
                         uint64_t bytes, struct kvw_digest *digest)
{
    const unsigned char *table, *exact;
    uint64_t front;

    if (!read_front(w, src, bytes))
        return false;
    front = front_bytes(w);
    table = src + table_at(w);
    exact = table + aligned(table_bytes(w));
    exact = land_exact_tokens(w, exact, 0, w->first, digest);
    if (!land_blocks(w, k, table, src + front, bytes - front, digest))
        return false;
    land_exact_tokens(w, exact, w->view->tokens - w->last, w->last, digest);
    return true;
}

static kvw_err e_decode(const void *src, uint64_t src_bytes, const struct kvw_codec_book *book,
                        const struct kvw_view *dst, struct kvw_digest *digest, void *scratch)
{
    const unsigned char *from = src;
    struct work w;

    if (book != NULL || src_bytes < HEADER_BYTES || !takes(dst->dtype))
        return KVW_E_CODEC;
    if (from[0] == MODE_STORED) {
        if (from[1] != dst->dtype)
            return KVW_E_CODEC;
        for (uint32_t i = 2; i < HEADER_BYTES; ++i) {
            if (from[i] != (i == FORMAT_AT ? FORMAT : 0))
                return KVW_E_CODEC;
        }
        return kvc_codec_raw.decode(from + HEADER_BYTES, src_bytes - HEADER_BYTES, NULL, dst,
                                    digest, scratch);
    }
    if (from[0] != MODE_CODED || !prepare(&w, dst, scratch) ||
        !decode_coded(&w, kvc_kernels(), from, src_bytes, digest))
        return KVW_E_CODEC;
    return KVW_OK;
}

static kvw_err e8_encode(const struct kvw_view *src, const struct kvw_codec_args *args, void *dst,
                         uint64_t dst_bytes, uint64_t *bytes, struct kvw_digest *digest,
                         void *scratch)
{
    return encode(src, args, NOISE_E8, dst, dst_bytes, bytes, digest, scratch);
}

static kvw_err e4_encode(const struct kvw_view *src, const struct kvw_codec_args *args, void *dst,
                         uint64_t dst_bytes, uint64_t *bytes, struct kvw_digest *digest,
                         void *scratch)
{
    return encode(src, args, NOISE_E4, dst, dst_bytes, bytes, digest, scratch);
}

const struct kvw_codec_ops kvc_codec_e8 = {
    .name = "e8",
    .id = KVW_CODEC_E8,
    .budget = KVW_BUDGET_E8,
    .mem_kinds = 1u << KVW_MEM_HOST,
    .dtypes = 1u << KVW_DTYPE_BF16 | 1u << KVW_DTYPE_F16,
    .bound = e_bound,
    .scratch_bytes = e_scratch_bytes,
    .encode = e8_encode,
    .decode = e_decode,
};

const struct kvw_codec_ops kvc_codec_e4 = {
    .name = "e4",
    .id = KVW_CODEC_E4,
    .budget = KVW_BUDGET_E4,
    .mem_kinds = 1u << KVW_MEM_HOST,
    .dtypes = 1u << KVW_DTYPE_BF16 | 1u << KVW_DTYPE_F16,
    .bound = e_bound,
    .scratch_bytes = e_scratch_bytes,
    .encode = e4_encode,
    .decode = e_decode,
};
