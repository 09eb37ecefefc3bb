/* SPDX-License-Identifier: Apache-2.0 */
/*
 * exact.c - L0 (bf16, fp16) and L8 (fp8 e4m3, e5m2): lossless, SPEC.md 3.
 *
 * A chunk is coded in blocks of 8192 values. Each is gathered into a tile that stays in the
 * first-level cache, digested there, split into exponents and the rest, and its planes written; one
 * that would not get smaller is stored as it is. If the whole doesn't, the chunk is.
 */
#include "compress.h"

#include <assert.h>
#include <string.h>

#include "../kvwire/cpu.h"
#include "../kvwire/le.h"
#include "columns.h"
#include "gather.h"

enum mode {
    MODE_STORED = 0,  /* header and raw bytes */
    MODE_ONE = 1,     /* one window for all columns, in the header */
    MODE_COLUMNS = 2, /* a byte for each column follows the header */
    MODE_BOOK = 3,    /* the book's id does */
};

#define HEAD_BYTES   8u
#define BOOK_BYTES   8u
#define LENGTH_BYTES 2u
#define ROW_BYTES    128u /* 64 values of two bytes */
#define WIDEST       2u   /* bytes of the widest value */
#define TILE_BYTES   (KVC_BLOCK_VALUES * WIDEST)
/* A block's parts before it is known whether they are shorter than the raw block: the rest of the
 * value, seven planes, every exponent escaped. */
#define BLOCK_WORST   (KVC_BLOCK_VALUES * 3 + 2 * KVC_SLACK_BYTES)
#define ONE_CLASS     1
#define HEAD_DIM_MOST 1024u /* KVW_HEAD_DIM_MAX: what kvc_columns_sample_one wants */

struct scratch {
    uint8_t tile[TILE_BYTES + KVC_SLACK_BYTES];
    uint8_t spill[BLOCK_WORST + KVC_SLACK_BYTES]; /* a block that must not be written in place */
    uint8_t codes[KVC_BLOCK_VALUES];              /* or ranks */
    uint8_t high[KVC_BLOCK_VALUES], escaped[KVC_BLOCK_VALUES + KVC_SLACK_BYTES];
    uint8_t *row[KVC_BLOCK_WORDS]; /* of 64 values, where they lie */
    uint32_t lanes[KVW_DIGEST_LANE_COUNT];
    uint64_t narrow[KVC_COLUMNS_MAX / 64 + KVC_BLOCK_WORDS], escapes[KVC_BLOCK_WORDS];
    uint64_t kept[KVC_KEPT_MAX][KVC_BLOCK_WORDS];
    bool narrow_repeats, mapped;
    struct kvc_row_map map; /* of rows of 64 values, if mapped */
    struct kvc_columns columns;
    struct kvc_column_bytes column_bytes;
    uint8_t rows[]; /* of the sample, KVC_SAMPLE_TOKENS tokens */
};

/* One chunk on its way, either way. */
struct chunk {
    const struct kvw_view *view;
    const struct kvc_kernels *k;
    struct scratch *s;
    uint64_t values;
    uint32_t columns;     /* of the view */
    uint32_t value_bytes; /* 1 or 2 */
    uint32_t blocks;
};

static uint32_t block_count(uint64_t values)
{
    return (uint32_t)((values + KVC_BLOCK_VALUES - 1) / KVC_BLOCK_VALUES);
}

static uint64_t exact_bound(uint64_t raw_bytes)
{
    return raw_bytes + HEAD_BYTES + BOOK_BYTES + (uint64_t)LENGTH_BYTES * block_count(raw_bytes);
}

/* A view of raw_bytes that is sampled has 32 tokens or more, so that 32 of them are raw_bytes at
 * most; or it has one window, and then one head's exponents. */
static uint64_t exact_scratch_bytes(uint64_t raw_bytes)
{
    return sizeof(struct scratch) + raw_bytes + HEAD_DIM_MOST;
}

static struct chunk chunk_of(const struct kvw_view *v, void *scratch)
{
    const uint32_t value_bytes = kvw_dtype_bytes(v->dtype);
    const uint64_t values = kvw_view_bytes(v) / value_bytes;

    return (struct chunk){
        v,           kvc_kernels(),      scratch, values, v->heads * (v->head_bytes / value_bytes),
        value_bytes, block_count(values)};
}

static uint32_t exponent_bits(kvw_dtype dtype)
{
    return dtype == KVW_DTYPE_F8_E4M3 ? 4 : 5;
}

/* Bit planes that hold what an exponent leaves of a byte: sign and mantissa. */
static uint32_t kept_planes(kvw_dtype dtype)
{
    return dtype == KVW_DTYPE_BF16 ? 0 : 8 - exponent_bits(dtype);
}

static struct kvc_block block_of(const struct chunk *c, uint32_t index)
{
    const uint64_t at = (uint64_t)index * KVC_BLOCK_VALUES, left = c->values - at;
    const struct kvc_columns *columns = &c->s->columns;

    return (struct kvc_block){columns->start, columns->class_row, columns->count,
                              (uint32_t)(at % columns->count),
                              left < KVC_BLOCK_VALUES ? (uint32_t)left : KVC_BLOCK_VALUES};
}

/* What is the same for all blocks: where rows lie, and which lanes are narrow, for all columns. If
 * words of 64 lanes begin at the same columns again after some, as they do but for odd heads, no
 * block needs its own words. */
static void prepare(const struct chunk *c)
{
    struct scratch *s = c->s;
    const struct kvc_columns *columns = &s->columns;
    const uint32_t words = (columns->count + 63) / 64;

    /* For whole blocks; not where they lie in one piece for the most part: a map may be long. */
    s->mapped = c->value_bytes == 2 && c->values >= KVC_BLOCK_VALUES &&
                kvc_contiguous(c->view, 0, TILE_BYTES) == NULL &&
                kvc_row_map(c->view, ROW_BYTES, &s->map);
    s->narrow_repeats = columns->count % 64 == 0 || 64 % columns->count == 0;
    if (!s->narrow_repeats)
        return;
    for (uint32_t w = 0; w < words; w += KVC_BLOCK_WORDS) {
        const uint32_t left = (words - w) * 64;
        const struct kvc_block b = {columns->start, columns->class_row, columns->count, w * 64,
                                    left < KVC_BLOCK_VALUES ? left : KVC_BLOCK_VALUES};

        c->k->lanes->narrow(&b, s->narrow + w);
    }
    for (uint32_t w = 0; w < KVC_BLOCK_WORDS; ++w)
        s->narrow[words + w] = s->narrow[w];
}

static const uint64_t *narrow_of(const struct chunk *c, const struct kvc_block *b)
{
    if (c->s->narrow_repeats)
        return c->s->narrow + b->phase / 64;
    c->k->lanes->narrow(b, c->s->narrow);
    return c->s->narrow;
}

/* The parts of a block before its planes, what isn't exponent, for all but bf16. Returns their
 * bytes. */
static uint32_t write_rest(const struct chunk *c, const struct kvc_block *b, const uint8_t *values,
                           uint8_t *to)
{
    struct scratch *s = c->s;
    const kvw_dtype dtype = c->view->dtype;
    const uint8_t *bytes = values;
    uint32_t at = 0;

    if (dtype == KVW_DTYPE_F16) {
        c->k->lanes->unzip(values, b->n, to, s->high);
        bytes = s->high;
        at = b->n;
    }
    c->k->lanes->split_bytes(b, exponent_bits(dtype), bytes, s->kept, s->codes);
    for (uint32_t p = 0; p < kept_planes(dtype); ++p) {
        uint8_t *plane = (uint8_t *)s->kept[p];

        if (b->n % 8 != 0) /* padding is zero */
            plane[b->n / 8] &= (uint8_t)((1u << b->n % 8) - 1);
        memcpy(to + at, plane, (b->n + 7) / 8);
        at += (b->n + 7) / 8;
    }
    return at;
}

static uint8_t exponent_at(kvw_dtype dtype, const uint8_t *values, uint32_t i)
{
    switch (dtype) {
    case KVW_DTYPE_F16:
        return values[2 * i + 1] >> 2 & 0x1f;
    case KVW_DTYPE_F8_E4M3:
        return values[i] >> 3 & 0x0f;
    default:
        return values[i] >> 2 & 0x1f;
    }
}

static void set_exponent(kvw_dtype dtype, uint8_t *values, uint32_t i, uint8_t e)
{
    switch (dtype) {
    case KVW_DTYPE_F16:
        values[2 * i + 1] = (uint8_t)((values[2 * i + 1] & 0x83) | (e << 2 & 0x7c));
        break;
    case KVW_DTYPE_F8_E4M3:
        values[i] = (uint8_t)((values[i] & 0x87) | (e << 3 & 0x78));
        break;
    default:
        values[i] = (uint8_t)((values[i] & 0x83) | (e << 2 & 0x7c));
    }
}

/* A block of anything but bf16 to to, which has BLOCK_WORST bytes. Returns its bytes, raw's if it
 * isn't smaller. */
static uint32_t encode_bytes(const struct chunk *c, const struct kvc_block *b,
                             const uint8_t *values, uint8_t *to)
{
    struct scratch *s = c->s;
    const uint32_t raw = b->n * c->value_bytes;
    uint32_t at = write_rest(c, b, values, to);

    at += c->k->planes->encode(&kvc_exponent_codes.shape, s->codes, narrow_of(c, b), b->n, to + at,
                               s->escapes);
    for (uint32_t w = 0; w < (b->n + 63) / 64; ++w)
        for (uint64_t m = s->escapes[w]; m != 0 && at < raw; m &= m - 1)
            to[at++] = exponent_at(c->view->dtype, values, w * 64 + (uint32_t)__builtin_ctzll(m));
    if (at < raw)
        return at;
    memcpy(to, values, raw);
    return raw;
}

/* The same for bf16, whose values are where the rows say. */
static uint32_t encode_bf16(const struct chunk *c, const struct kvc_block *b, uint32_t *digest,
                            uint8_t *to)
{
    struct scratch *s = c->s;
    const uint32_t raw = b->n * 2;
    const uint8_t *const *rows = (const uint8_t *const *)s->row;
    const uint64_t *narrow = narrow_of(c, b);
    uint32_t at = b->n, escapes;

    if (c->k->bf16 != NULL && c->k->bf16->encode != NULL) {
        at = c->k->bf16->encode(b, narrow, rows, to, s->escaped, &escapes, digest);
    } else {
        escapes = c->k->lanes->split_bf16(b, rows, to, s->codes, s->escaped, digest);
        at += c->k->planes->encode(&kvc_exponent_codes.shape, s->codes, narrow, b->n, to + at,
                                   s->escapes);
    }
    if (at + escapes < raw) {
        memcpy(to + at, s->escaped, escapes);
        return at + escapes;
    }
    for (uint32_t i = 0; i < b->n; i += 64)
        memcpy(to + 2 * i, s->row[i / 64], b->n - i < 64 ? 2 * (b->n - i) : 128);
    return raw;
}

/* Rows of 64 values in a row. */
static void rows_over(struct scratch *s, uint32_t n, uint8_t *values)
{
    for (uint32_t w = 0; w < (n + 63) / 64; ++w)
        s->row[w] = values + (size_t)w * 64 * 2;
}

/* The values of a block in canonical order: where they lie, or gathered into the tile. Lanes past
 * the last are read too, so that only a whole block can be read in place. */
static uint8_t *block_values(const struct chunk *c, const struct kvc_block *b, uint64_t at)
{
    uint8_t *values = NULL;

    if (b->n == KVC_BLOCK_VALUES)
        values = kvc_contiguous(c->view, at, (uint64_t)b->n * c->value_bytes);
    if (values == NULL) {
        kvc_gather(c->view, at, (uint64_t)b->n * c->value_bytes, c->s->tile);
        values = c->s->tile;
    }
    return values;
}

/* Whether this block's digest is run while its values are split or joined. */
static bool digest_on_the_way(const struct chunk *c, const struct kvc_block *b,
                              const struct kvw_digest *digest)
{
    return digest->id == KVW_DIGEST_LANES && c->view->dtype == KVW_DTYPE_BF16 &&
           b->n * 2 == KVW_DIGEST_PIECE_BYTES;
}

/* Block index to to, which has BLOCK_WORST bytes; its raw bytes to the digest. */
static uint32_t encode_block(const struct chunk *c, uint32_t index, uint8_t *to,
                             struct kvw_digest *digest)
{
    const struct kvc_block b = block_of(c, index);
    const uint64_t at = (uint64_t)index * KVC_BLOCK_VALUES * c->value_bytes;
    struct scratch *s = c->s;
    uint8_t *values;
    uint32_t n;

    if (digest_on_the_way(c, &b, digest)) {
        if (s->mapped)
            kvc_rows(c->view, &s->map, at / ROW_BYTES, KVC_BLOCK_WORDS, s->row);
        else
            rows_over(s, b.n, block_values(c, &b, at));
        kvw_digest_lanes_begin(s->lanes);
        n = encode_bf16(c, &b, s->lanes, to);
        kvw_digest_piece(digest, s->lanes);
        return n;
    }
    values = block_values(c, &b, at);
    kvw_digest_update(digest, values, (size_t)b.n * c->value_bytes);
    if (c->view->dtype != KVW_DTYPE_BF16)
        return encode_bytes(c, &b, values, to);
    rows_over(s, b.n, values);
    return encode_bf16(c, &b, NULL, to);
}

/* The columns, from wherever they come; what the stream says of them, to to. Returns its bytes. */
static uint64_t write_head(const struct chunk *c, const struct kvw_codec_args *args, uint8_t *to)
{
    const struct kvw_codec_book *book = args != NULL ? args->book : NULL;
    struct scratch *s = c->s;
    uint64_t at = HEAD_BYTES;

    memset(to, 0, HEAD_BYTES);
    to[1] = (uint8_t)c->view->dtype;
    kvw_store_le32(to + 4, (uint32_t)c->values);
    if (book != NULL && book->byte_count == 1 + c->columns && c->columns <= KVC_COLUMNS_MAX) {
        const uint8_t *bytes = book->bytes;

        if (kvc_columns_read(&s->columns, bytes[0], bytes + 1, c->columns)) {
            to[0] = MODE_BOOK;
            kvw_store_le64(to + at, book->id);
            return at + BOOK_BYTES;
        }
    }
    if (c->view->tokens < KVC_SAMPLE_TOKENS || c->columns > KVC_COLUMNS_MAX) {
        to[0] = MODE_ONE;
        to[2] = kvc_columns_sample_one(c->view, c->k->lanes, s->rows);
        to[3] = ONE_CLASS;
        kvc_columns_one(&s->columns, to[2], to[3]);
        return at;
    }
    to[0] = MODE_COLUMNS;
    kvc_columns_sample(&s->column_bytes, c->view, c->columns, c->k->lanes, s->rows);
    to[2] = s->column_bytes.origin;
    memcpy(to + at, s->column_bytes.of, c->columns);
    if (!kvc_columns_read(&s->columns, to[2], s->column_bytes.of, c->columns))
        assert(false); /* just written */
    return at + c->columns;
}

static uint64_t encode_stored(const struct chunk *c, uint8_t *to)
{
    const uint64_t raw = kvw_view_bytes(c->view);

    memset(to, 0, HEAD_BYTES);
    to[0] = MODE_STORED;
    to[1] = (uint8_t)c->view->dtype;
    kvw_store_le32(to + 4, (uint32_t)c->values);
    kvc_gather(c->view, 0, raw, to + HEAD_BYTES);
    return HEAD_BYTES + raw;
}

/* Returns the stream's bytes; more than raw + HEAD_BYTES: it has to be stored instead. The head
 * always has room: columns that are in the stream have 32 values each, or more. */
static uint64_t encode_blocks(const struct chunk *c, const struct kvw_codec_args *args, uint8_t *to,
                              uint64_t to_bytes, struct kvw_digest *digest)
{
    uint8_t *lengths = to + write_head(c, args, to);
    uint64_t at = (uint64_t)(lengths - to) + LENGTH_BYTES * (uint64_t)c->blocks;
    bool fits = true;

    prepare(c);
    /* To the end even if it doesn't fit: the digest wants every byte. */
    for (uint32_t i = 0; i < c->blocks; ++i) {
        const bool in_place = fits && to_bytes - at >= BLOCK_WORST;
        const uint32_t n = encode_block(c, i, in_place ? to + at : c->s->spill, digest);

        fits = fits && n <= to_bytes - at;
        if (!fits)
            continue;
        if (!in_place)
            memcpy(to + at, c->s->spill, n);
        kvw_store_le16(lengths + LENGTH_BYTES * (uint64_t)i, (uint16_t)n);
        at += n;
    }
    return fits ? at : UINT64_MAX;
}

static bool takes(uint32_t dtypes, kvw_dtype dtype)
{
    return (uint32_t)dtype < 32 && (dtypes >> dtype & 1) != 0;
}

static kvw_err exact_encode(uint32_t dtypes, const struct kvw_view *src,
                            const struct kvw_codec_args *args, void *dst, uint64_t dst_bytes,
                            uint64_t *bytes, struct kvw_digest *digest, void *scratch)
{
    const uint64_t raw = kvw_view_bytes(src);
    uint64_t n;

    if (!takes(dtypes, src->dtype) || dst_bytes < exact_bound(raw))
        return KVW_E_INVALID;

    const struct chunk c = chunk_of(src, scratch);

    if (c.values > UINT32_MAX)
        return KVW_E_INVALID;
    n = encode_blocks(&c, args, dst, exact_bound(raw), digest);
    *bytes = n < HEAD_BYTES + raw ? n : encode_stored(&c, dst);
    return KVW_OK;
}

/* What the stream says of its columns; *at moves past it. */
static bool read_head(const struct chunk *c, const uint8_t *src, uint64_t src_bytes,
                      const struct kvw_codec_book *book, uint64_t *at)
{
    struct kvc_columns *columns = &c->s->columns;
    const uint8_t mode = src[0];

    switch (mode) {
    case MODE_ONE:
        if (src[3] >= KVC_CLASSES)
            return false;
        kvc_columns_one(columns, src[2], src[3]);
        return true;
    case MODE_COLUMNS:
        if (src[3] != 0 || c->columns > KVC_COLUMNS_MAX || src_bytes - *at < c->columns)
            return false;
        *at += c->columns;
        return kvc_columns_read(columns, src[2], src + HEAD_BYTES, c->columns);
    case MODE_BOOK: {
        const uint8_t *bytes = book != NULL ? book->bytes : NULL;

        if (src[2] != 0 || src[3] != 0 || book == NULL || book->byte_count != 1 + c->columns ||
            c->columns > KVC_COLUMNS_MAX || src_bytes - *at < BOOK_BYTES ||
            kvw_load_le64(src + *at) != book->id)
            return false;
        *at += BOOK_BYTES;
        return kvc_columns_read(columns, bytes[0], bytes + 1, c->columns);
    }
    default:
        return false;
    }
}

/* Whether what pads the last byte of each kept plane is zero: a chunk has one stream only. */
static bool kept_padding_is_zero(const struct chunk *c, const struct kvc_block *b,
                                 const uint8_t *kept)
{
    const uint32_t plane = (b->n + 7) / 8;

    for (uint32_t p = 0; p < kept_planes(c->view->dtype) && b->n % 8 != 0; ++p)
        if (kept[(p + 1) * plane - 1] >> b->n % 8 != 0)
            return false;
    return true;
}

static KVW_FOR_EACH_CPU uint32_t count_bits(const uint64_t *words, uint32_t n)
{
    uint32_t count = 0;

    for (uint32_t w = 0; w < (n + 63) / 64; ++w)
        count += (uint32_t)__builtin_popcountll(words[w]);
    return count;
}

/* The planes at from into ranks and escapes. Returns where the escapes' exponents begin if they are
 * what remains, else 0. */
static uint32_t decode_planes(const struct chunk *c, const struct kvc_block *b, const uint8_t *from,
                              uint32_t bytes, uint32_t rest)
{
    struct scratch *s = c->s;
    uint32_t planes;

    if (bytes <= rest)
        return 0;
    planes = c->k->planes->decode(&kvc_exponent_codes.shape, from + rest, bytes - rest,
                                  narrow_of(c, b), b->n, s->codes, s->escapes);
    if (planes == 0 || bytes - rest - planes != count_bits(s->escapes, b->n))
        return 0;
    return rest + planes;
}

/* from is readable for KVC_SLACK_BYTES past bytes; rows are writable to the last lane of 64. */
static bool decode_bf16(const struct chunk *c, const struct kvc_block *b, const uint8_t *from,
                        uint32_t bytes, uint32_t *digest)
{
    struct scratch *s = c->s;
    uint32_t escaped;

    if (c->k->bf16 != NULL && c->k->bf16->decode != NULL)
        return c->k->bf16->decode(b, narrow_of(c, b), from, bytes, s->row, digest);
    escaped = decode_planes(c, b, from, bytes, b->n);
    if (escaped == 0)
        return false;
    c->k->lanes->join_bf16(b, from, s->codes, s->escapes, from + escaped, s->row, digest);
    return true;
}

/* The same for all others, to values, which has room for n rounded up to 64. */
static bool decode_bytes(const struct chunk *c, const struct kvc_block *b, const uint8_t *from,
                         uint32_t bytes, uint8_t *values)
{
    struct scratch *s = c->s;
    const kvw_dtype dtype = c->view->dtype;
    const uint32_t low = dtype == KVW_DTYPE_F16 ? b->n : 0, plane = (b->n + 7) / 8;
    const uint32_t rest = low + kept_planes(dtype) * plane;
    uint32_t at = decode_planes(c, b, from, bytes, rest);

    if (at == 0 || !kept_padding_is_zero(c, b, from + low))
        return false;
    for (uint32_t p = 0; p < kept_planes(dtype); ++p)
        memcpy(s->kept[p], from + low + p * plane, plane);
    c->k->lanes->join_bytes(b, exponent_bits(dtype), (const uint64_t(*)[KVC_BLOCK_WORDS])s->kept,
                            s->codes, low > 0 ? s->high : values);
    if (low > 0)
        c->k->lanes->zip(from, s->high, b->n, values);
    for (uint32_t w = 0; w < (b->n + 63) / 64; ++w)
        for (uint64_t m = s->escapes[w]; m != 0; m &= m - 1)
            set_exponent(dtype, values, w * 64 + (uint32_t)__builtin_ctzll(m), from[at++]);
    return true;
}

/* The same for a whole block whose digest is run on the way. */
static bool decode_digested(const struct chunk *c, const struct kvc_block *b, const uint8_t *from,
                            uint32_t bytes, struct kvw_digest *digest)
{
    kvw_digest_lanes_begin(c->s->lanes);
    if (!decode_bf16(c, b, from, bytes, c->s->lanes))
        return false;
    kvw_digest_piece(digest, c->s->lanes);
    return true;
}

/* A coded block into the view, in place where lanes past the last can't do harm. */
static bool land_coded(const struct chunk *c, uint32_t index, const uint8_t *from, uint32_t n,
                       struct kvw_digest *digest)
{
    const struct kvc_block b = block_of(c, index);
    const uint32_t raw = b.n * c->value_bytes;
    const uint64_t at = (uint64_t)index * KVC_BLOCK_VALUES * c->value_bytes;
    const bool on_the_way = digest_on_the_way(c, &b, digest);
    struct scratch *s = c->s;
    uint8_t *values = NULL, *to;
    bool sound;

    if (on_the_way && s->mapped) {
        kvc_rows(c->view, &s->map, at / ROW_BYTES, KVC_BLOCK_WORDS, s->row);
        return decode_digested(c, &b, from, n, digest);
    }
    if (b.n == KVC_BLOCK_VALUES)
        values = kvc_contiguous(c->view, at, raw);
    to = values != NULL ? values : s->tile;
    if (c->view->dtype == KVW_DTYPE_BF16)
        rows_over(s, b.n, to);
    if (on_the_way)
        sound = decode_digested(c, &b, from, n, digest);
    else if (c->view->dtype == KVW_DTYPE_BF16)
        sound = decode_bf16(c, &b, from, n, NULL);
    else
        sound = decode_bytes(c, &b, from, n, to);
    if (!sound)
        return false;
    if (!on_the_way)
        kvw_digest_update(digest, to, raw);
    if (values == NULL)
        kvc_scatter(c->view, at, raw, s->tile);
    return true;
}

/* Block index, raw or coded, n bytes at from with `past` more readable, into the view. */
static bool land_block(const struct chunk *c, uint32_t index, const uint8_t *from, uint32_t n,
                       uint64_t past, struct kvw_digest *digest)
{
    const uint32_t raw = block_of(c, index).n * c->value_bytes;

    if (n > raw)
        return false;
    if (n == raw) {
        kvw_digest_update(digest, from, raw);
        kvc_scatter(c->view, (uint64_t)index * KVC_BLOCK_VALUES * c->value_bytes, raw, from);
        return true;
    }
    if (past < KVC_SLACK_BYTES) { /* the faster levels read words */
        memcpy(c->s->spill, from, n);
        from = c->s->spill;
    }
    return land_coded(c, index, from, n, digest);
}

static kvw_err exact_decode(uint32_t dtypes, const void *src, uint64_t src_bytes,
                            const struct kvw_codec_book *book, const struct kvw_view *dst,
                            struct kvw_digest *digest, void *scratch)
{
    const uint64_t raw = kvw_view_bytes(dst);
    const uint8_t *from = src, *lengths;
    uint64_t at = HEAD_BYTES;

    if (!takes(dtypes, dst->dtype))
        return KVW_E_CODEC;

    const struct chunk c = chunk_of(dst, scratch);

    if (src_bytes < HEAD_BYTES || from[1] != dst->dtype || kvw_load_le32(from + 4) != c.values)
        return KVW_E_CODEC;
    if (from[0] == MODE_STORED) {
        if (from[2] != 0 || from[3] != 0 || src_bytes != HEAD_BYTES + raw)
            return KVW_E_CODEC;
        kvw_digest_update(digest, from + HEAD_BYTES, raw);
        kvc_scatter(dst, 0, raw, from + HEAD_BYTES);
        return KVW_OK;
    }
    if (!read_head(&c, from, src_bytes, book, &at) ||
        src_bytes - at < LENGTH_BYTES * (uint64_t)c.blocks)
        return KVW_E_CODEC;
    prepare(&c);
    lengths = from + at;
    at += LENGTH_BYTES * (uint64_t)c.blocks;
    for (uint32_t i = 0; i < c.blocks; ++i) {
        const uint32_t n = kvw_load_le16(lengths + LENGTH_BYTES * (uint64_t)i);

        if (n > src_bytes - at || !land_block(&c, i, from + at, n, src_bytes - at - n, digest))
            return KVW_E_CODEC;
        at += n;
    }
    return at == src_bytes ? KVW_OK : KVW_E_CODEC;
}

#define L0_DTYPES (1u << KVW_DTYPE_BF16 | 1u << KVW_DTYPE_F16)
#define L8_DTYPES (1u << KVW_DTYPE_F8_E4M3 | 1u << KVW_DTYPE_F8_E5M2)

static kvw_err l0_encode(const struct kvw_view *src, const struct kvw_codec_args *args, void *dst,
                         uint64_t dst_bytes, uint64_t *bytes, struct kvw_digest *digest,
                         void *scratch)
{
    return exact_encode(L0_DTYPES, src, args, dst, dst_bytes, bytes, digest, scratch);
}

static kvw_err l0_decode(const void *src, uint64_t src_bytes, const struct kvw_codec_book *book,
                         const struct kvw_view *dst, struct kvw_digest *digest, void *scratch)
{
    return exact_decode(L0_DTYPES, src, src_bytes, book, dst, digest, scratch);
}

static kvw_err l8_encode(const struct kvw_view *src, const struct kvw_codec_args *args, void *dst,
                         uint64_t dst_bytes, uint64_t *bytes, struct kvw_digest *digest,
                         void *scratch)
{
    return exact_encode(L8_DTYPES, src, args, dst, dst_bytes, bytes, digest, scratch);
}

static kvw_err l8_decode(const void *src, uint64_t src_bytes, const struct kvw_codec_book *book,
                         const struct kvw_view *dst, struct kvw_digest *digest, void *scratch)
{
    return exact_decode(L8_DTYPES, src, src_bytes, book, dst, digest, scratch);
}

const struct kvw_codec_ops kvc_codec_l0 = {
    .name = "l0",
    .id = KVW_CODEC_L0,
    .budget = KVW_BUDGET_EXACT,
    .mem_kinds = 1u << KVW_MEM_HOST,
    .dtypes = L0_DTYPES,
    .bound = exact_bound,
    .scratch_bytes = exact_scratch_bytes,
    .encode = l0_encode,
    .decode = l0_decode,
};

const struct kvw_codec_ops kvc_codec_l8 = {
    .name = "l8",
    .id = KVW_CODEC_L8,
    .budget = KVW_BUDGET_EXACT,
    .mem_kinds = 1u << KVW_MEM_HOST,
    .dtypes = L8_DTYPES,
    .bound = exact_bound,
    .scratch_bytes = exact_scratch_bytes,
    .encode = l8_encode,
    .decode = l8_decode,
};
