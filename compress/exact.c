/* SPDX-License-Identifier: Apache-2.0 */
/*
 * exact.c - L0 (bf16, fp16) and L8 (fp8 e4m3, e5m2): lossless, SPEC.md 3.
 *
 * A chunk is coded in blocks, a unit of whole tokens each. Each is gathered into a tile that stays
 * in the first-level cache, digested there, split into exponents and the rest, and its planes
 * written; one that would not get smaller is stored as it is. If the whole doesn't, the chunk is.
 */
#include "compress.h"

#include <assert.h>
#include <string.h>

#include "../kvwire/cpu.h"
#include "../kvwire/wire/le.h"
#include "columns.h"
#include "gather.h"

enum mode {
    MODE_STORED = 0,  /* header and raw bytes */
    MODE_ONE = 1,     /* one window for all columns, in the header */
    MODE_COLUMNS = 2, /* a byte for each column follows the header */
    MODE_BOOK = 3,    /* the book's id is in the header */
};

#define HEAD_BYTES 16u
#define FORMAT     2u   /* of the streams; those of another look quite different */
#define BOOK_AT    8u   /* the book's id in the header */
#define END_BYTES  4u   /* of the end of a block */
#define ROW_BYTES  128u /* 64 values of two bytes */
#define WIDEST     2u   /* bytes of the widest value */
#define TILE_BYTES (KVC_BLOCK_VALUES * WIDEST)
/* A block's parts before it is known whether they are shorter than the raw block: the rest of the
 * value, seven planes, every exponent escaped. */
#define BLOCK_WORST   (KVC_BLOCK_VALUES * 3 + 4 * KVC_SLACK_BYTES)
#define HEAD_DIM_MOST 1024u /* KVW_HEAD_DIM_MAX: what kvc_columns_sample_one wants */

struct scratch {
    uint8_t tile[TILE_BYTES + KVC_SLACK_BYTES];
    uint8_t spill[BLOCK_WORST + KVC_SLACK_BYTES]; /* a block that must not be written in place */
    uint8_t codes[KVC_BLOCK_VALUES];              /* or ranks */
    uint8_t high[KVC_BLOCK_VALUES], escaped[KVC_BLOCK_VALUES + KVC_SLACK_BYTES];
    uint8_t *row[KVC_BLOCK_WORDS]; /* of 64 values, where they lie */
    uint32_t lanes[KVW_DIGEST_LANE_COUNT];
    uint64_t escapes[KVC_BLOCK_WORDS];
    uint64_t kept[KVC_KEPT_MAX][KVC_BLOCK_WORDS];
    bool mapped;
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
    uint32_t unit;        /* values in a block but the last, which may have fewer */
    uint32_t blocks;
};

/* A stream is no longer than header and raw bytes; the rest is room for what comes before the
 * blocks in a chunk so small that it gets stored. */
static uint64_t exact_bound(uint64_t raw_bytes)
{
    return raw_bytes + HEAD_BYTES + 2 * KVC_ALIGN;
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
    const uint32_t columns = v->heads * (v->head_bytes / value_bytes);
    const uint32_t unit = kvw_unit_values(columns);

    return (struct chunk){.view = v,
                          .k = kvc_kernels(),
                          .s = scratch,
                          .values = values,
                          .columns = columns,
                          .value_bytes = value_bytes,
                          .unit = unit,
                          .blocks = (uint32_t)((values + unit - 1) / unit)};
}

/* Whether all columns share one window: they are too many, or their tokens too few to tell. */
static bool has_one_window(const struct chunk *c)
{
    return c->view->tokens < KVC_SAMPLE_TOKENS || c->columns > KVC_COLUMNS_MAX;
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
    const uint64_t left = c->values - (uint64_t)index * c->unit;
    const struct kvc_columns *columns = &c->s->columns;

    return (struct kvc_block){columns->start, columns->class_row, columns->count,
                              left < c->unit ? (uint32_t)left : c->unit};
}

/* Where block index begins in the chunk's raw bytes. */
static uint64_t offset_of(const struct chunk *c, uint32_t index)
{
    return (uint64_t)index * c->unit * c->value_bytes;
}

/* Where rows lie, which is the same for all blocks. Not where a block lies in one piece for the
 * most part: a map may be long. */
static void prepare(const struct chunk *c)
{
    struct scratch *s = c->s;

    s->mapped = c->value_bytes == 2 && c->values >= c->unit &&
                kvc_contiguous(c->view, 0, (uint64_t)c->unit * c->value_bytes) == NULL &&
                kvc_row_map(c->view, ROW_BYTES, &s->map);
}

/* Zeros behind the n bytes of a part. Returns its bytes with them. */
static uint32_t pad(uint8_t *part, uint32_t n)
{
    memset(part + n, 0, kvc_aligned(n) - n);
    return kvc_aligned(n);
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
        at = pad(to, b->n);
    }
    c->k->lanes->split_bytes(b, exponent_bits(dtype), bytes, s->kept, s->codes);
    for (uint32_t p = 0; p < kept_planes(dtype); ++p) {
        uint8_t *plane = (uint8_t *)s->kept[p];

        if (b->n % 8 != 0) /* padding is zero */
            plane[b->n / 8] &= (uint8_t)((1u << b->n % 8) - 1);
        memcpy(to + at, plane, (b->n + 7) / 8);
        at += pad(to + at, (b->n + 7) / 8);
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

    at += c->k->planes->encode(&kvc_exponent_codes.shape, s->codes, b->n, to + at, s->escapes);
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
    uint32_t at, escapes;

    if (c->k->bf16 != NULL && c->k->bf16->encode != NULL) {
        at = c->k->bf16->encode(b, rows, to, s->escaped, &escapes, digest);
    } else {
        escapes = c->k->lanes->split_bf16(b, rows, to, s->codes, s->escaped, digest);
        at = pad(to, b->n);
        at += c->k->planes->encode(&kvc_exponent_codes.shape, s->codes, b->n, to + at, s->escapes);
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

/* Whether no lane lies past a block's last, so that it can be read and written in place. */
static bool is_whole_words(const struct kvc_block *b)
{
    return b->n % 64 == 0;
}

/* The values of a block in canonical order: where they lie, or gathered into the tile. */
static uint8_t *block_values(const struct chunk *c, const struct kvc_block *b, uint64_t at)
{
    uint8_t *values = NULL;

    if (is_whole_words(b))
        values = kvc_contiguous(c->view, at, (uint64_t)b->n * c->value_bytes);
    if (values == NULL) {
        kvc_gather(c->view, at, (uint64_t)b->n * c->value_bytes, c->s->tile);
        values = c->s->tile;
    }
    return values;
}

/* Whether this block's digest, one piece of it, is run while its values are split or joined. */
static bool digest_on_the_way(const struct chunk *c, const struct kvc_block *b,
                              const struct kvw_digest *digest)
{
    return digest->id == KVW_DIGEST_LANES && digest->piece_bytes == c->unit * c->value_bytes &&
           c->view->dtype == KVW_DTYPE_BF16 && is_whole_words(b);
}

/* Block index to to, which has BLOCK_WORST bytes; its raw bytes to the digest. */
static uint32_t encode_block(const struct chunk *c, uint32_t index, uint8_t *to,
                             struct kvw_digest *digest)
{
    const struct kvc_block b = block_of(c, index);
    const uint64_t at = offset_of(c, index);
    struct scratch *s = c->s;
    uint8_t *values;
    uint32_t n;

    if (digest_on_the_way(c, &b, digest)) {
        if (s->mapped)
            kvc_rows(c->view, &s->map, at / ROW_BYTES, b.n / 64, s->row);
        else
            rows_over(s, b.n, block_values(c, &b, at));
        kvw_digest_lanes_begin(s->lanes);
        n = encode_bf16(c, &b, s->lanes, to);
        kvw_digest_piece(digest, s->lanes, b.n * c->value_bytes);
        return n;
    }
    values = block_values(c, &b, at);
    kvw_digest_update(digest, values, (size_t)b.n * c->value_bytes);
    if (c->view->dtype != KVW_DTYPE_BF16)
        return encode_bytes(c, &b, values, to);
    rows_over(s, b.n, values);
    return encode_bf16(c, &b, NULL, to);
}

static void write_header(const struct chunk *c, enum mode mode, uint8_t *to)
{
    memset(to, 0, HEAD_BYTES);
    to[0] = mode;
    to[1] = (uint8_t)c->view->dtype;
    to[3] = FORMAT;
    kvw_store_le32(to + 4, (uint32_t)c->values);
}

/* The columns, from wherever they come; what the stream says of them, to to. Returns its bytes. */
static uint64_t write_head(const struct chunk *c, const struct kvw_codec_args *args, uint8_t *to)
{
    const struct kvw_codec_book *book = args != NULL ? args->book : NULL;
    struct scratch *s = c->s;

    if (book != NULL && book->byte_count == 1 + c->columns && c->columns <= KVC_COLUMNS_MAX) {
        const uint8_t *bytes = book->bytes;

        if (kvc_columns_read(&s->columns, bytes[0], bytes + 1, c->columns)) {
            write_header(c, MODE_BOOK, to);
            kvw_store_le64(to + BOOK_AT, book->id);
            return HEAD_BYTES;
        }
    }
    if (has_one_window(c)) {
        write_header(c, MODE_ONE, to);
        to[2] = kvc_columns_sample_one(c->view, c->k->lanes, s->rows);
        kvc_columns_one(&s->columns, to[2]);
        return HEAD_BYTES;
    }
    write_header(c, MODE_COLUMNS, to);
    kvc_columns_sample(&s->column_bytes, c->view, c->columns, c->k->lanes, s->rows);
    to[2] = s->column_bytes.origin;
    memcpy(to + HEAD_BYTES, s->column_bytes.of, c->columns);
    if (!kvc_columns_read(&s->columns, to[2], s->column_bytes.of, c->columns))
        assert(false); /* just written */
    return HEAD_BYTES + pad(to + HEAD_BYTES, c->columns);
}

static uint64_t encode_stored(const struct chunk *c, uint8_t *to)
{
    const uint64_t raw = kvw_view_bytes(c->view);

    write_header(c, MODE_STORED, to);
    kvc_gather(c->view, 0, raw, to + HEAD_BYTES);
    return HEAD_BYTES + raw;
}

/* Returns the stream's bytes; more than raw + HEAD_BYTES: it has to be stored instead. What comes
 * before the blocks always has room: columns that are in the stream have 32 values each, or more.
 */
static uint64_t encode_blocks(const struct chunk *c, const struct kvw_codec_args *args, uint8_t *to,
                              uint64_t to_bytes, struct kvw_digest *digest)
{
    uint8_t *const ends = to + write_head(c, args, to);
    uint8_t *const first = ends + pad(ends, END_BYTES * c->blocks), *at = first;
    bool fits = true;

    prepare(c);
    /* To the end even if it doesn't fit: the digest wants every byte. */
    for (uint32_t i = 0; i < c->blocks; ++i) {
        const uint64_t left = to_bytes - (uint64_t)(at - to);
        const bool in_place = fits && left >= BLOCK_WORST;
        const uint32_t n = encode_block(c, i, in_place ? at : c->s->spill, digest);

        fits = fits && kvc_aligned(n) <= left;
        if (!fits)
            continue;
        if (!in_place)
            memcpy(at, c->s->spill, n);
        kvw_store_le32(ends + END_BYTES * (uint64_t)i, (uint32_t)(at - first) + n);
        at += pad(at, n);
    }
    return fits ? (uint64_t)(at - to) : UINT64_MAX;
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

    if (exact_bound(raw) > UINT32_MAX) /* ends are of 4 bytes */
        return KVW_E_INVALID;
    n = encode_blocks(&c, args, dst, exact_bound(raw), digest);
    *bytes = n < HEAD_BYTES + raw ? n : encode_stored(&c, dst);
    return KVW_OK;
}

/* What the stream says of its columns; *at moves past it. A chunk has one stream: where a field
 * says nothing it is zero, and the mode is the one that the encoder would choose. */
static bool read_head(const struct chunk *c, const uint8_t *src, uint64_t src_bytes,
                      const struct kvw_codec_book *book, uint64_t *at)
{
    struct kvc_columns *columns = &c->s->columns;
    const uint64_t id = kvw_load_le64(src + BOOK_AT);
    const uint8_t *of = src + HEAD_BYTES, *bytes = book != NULL ? book->bytes : NULL;

    *at = HEAD_BYTES;
    switch (src[0]) {
    case MODE_ONE:
        if (!has_one_window(c) || id != 0)
            return false;
        kvc_columns_one(columns, src[2]);
        return true;
    case MODE_COLUMNS:
        if (has_one_window(c) || id != 0 || src_bytes - *at < kvc_aligned(c->columns) ||
            !kvc_is_zero(of + c->columns, kvc_aligned(c->columns) - c->columns))
            return false;
        *at += kvc_aligned(c->columns);
        return kvc_columns_read(columns, src[2], of, c->columns);
    case MODE_BOOK:
        return src[2] == 0 && book != NULL && book->byte_count == 1 + c->columns &&
               c->columns <= KVC_COLUMNS_MAX && id == book->id &&
               kvc_columns_read(columns, bytes[0], bytes + 1, c->columns);
    default:
        return false;
    }
}

/* Whether what pads a part of n bytes, the last of which has `bits` bits, is zero. */
static bool is_padded(const uint8_t *part, uint32_t n, uint32_t bits)
{
    return (bits % 8 == 0 || part[n - 1] >> bits % 8 == 0) &&
           kvc_is_zero(part + n, kvc_aligned(n) - n);
}

/* Whether what pads the parts of a block before its planes is zero, whose bytes are `rest`. */
static bool rest_is_padded(const struct chunk *c, const struct kvc_block *b, const uint8_t *from,
                           uint32_t rest)
{
    const uint32_t plane = (b->n + 7) / 8, kept = kept_planes(c->view->dtype);

    if (c->value_bytes == 2 && !is_padded(from, b->n, 0))
        return false;
    for (uint32_t p = 0; p < kept; ++p)
        if (!is_padded(from + rest - (kept - p) * kvc_aligned(plane), plane, b->n))
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

    planes = c->k->planes->decode(&kvc_exponent_codes.shape, from + rest, bytes - rest, b->n,
                                  s->codes, s->escapes);
    if (planes == 0 || bytes - rest - planes != count_bits(s->escapes, b->n))
        return 0;
    return rest + planes;
}

/* from is readable for KVC_SLACK_BYTES past bytes; rows are writable to the last lane of 64. */
static bool decode_bf16(const struct chunk *c, const struct kvc_block *b, const uint8_t *from,
                        uint32_t bytes, uint32_t *digest)
{
    struct scratch *s = c->s;
    const uint32_t low = kvc_aligned(b->n);
    uint32_t escaped;

    if (bytes <= low || !rest_is_padded(c, b, from, low))
        return false;
    if (c->k->bf16 != NULL && c->k->bf16->decode != NULL)
        return c->k->bf16->decode(b, from, bytes, s->row, digest);
    escaped = decode_planes(c, b, from, bytes, low);
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
    const uint32_t low = dtype == KVW_DTYPE_F16 ? kvc_aligned(b->n) : 0;
    const uint32_t plane = kvc_first_plane(b->n), rest = low + kept_planes(dtype) * plane;
    uint8_t *bytes_to = low > 0 ? s->high : values;
    uint32_t at;

    if (bytes <= rest || !rest_is_padded(c, b, from, rest))
        return false;
    at = decode_planes(c, b, from, bytes, rest);
    if (at == 0)
        return false;
    for (uint32_t p = 0; p < kept_planes(dtype); ++p)
        memcpy(s->kept[p], from + low + p * plane, plane);
    if (!c->k->lanes->join_bytes(b, exponent_bits(dtype),
                                 (const uint64_t(*)[KVC_BLOCK_WORDS])s->kept, s->codes, s->escapes,
                                 bytes_to))
        return false;
    if (low > 0)
        c->k->lanes->zip(from, s->high, b->n, values);
    for (uint32_t w = 0; w < (b->n + 63) / 64; ++w)
        for (uint64_t m = s->escapes[w]; m != 0; m &= m - 1, ++at) {
            if (from[at] >> exponent_bits(dtype) != 0)
                return false;
            set_exponent(dtype, values, w * 64 + (uint32_t)__builtin_ctzll(m), from[at]);
        }
    return true;
}

/* decode_bf16 of a block whose digest is run on the way. */
static bool decode_digested(const struct chunk *c, const struct kvc_block *b, const uint8_t *from,
                            uint32_t bytes, struct kvw_digest *digest)
{
    kvw_digest_lanes_begin(c->s->lanes);
    if (!decode_bf16(c, b, from, bytes, c->s->lanes))
        return false;
    kvw_digest_piece(digest, c->s->lanes, b->n * c->value_bytes);
    return true;
}

/* A coded block into the view, in place where lanes past the last can't do harm. */
static bool land_coded(const struct chunk *c, uint32_t index, const uint8_t *from, uint32_t n,
                       struct kvw_digest *digest)
{
    const struct kvc_block b = block_of(c, index);
    const uint32_t raw = b.n * c->value_bytes;
    const uint64_t at = offset_of(c, index);
    const bool on_the_way = digest_on_the_way(c, &b, digest);
    struct scratch *s = c->s;
    uint8_t *values = NULL, *to;
    bool sound;

    if (on_the_way && s->mapped) {
        kvc_rows(c->view, &s->map, at / ROW_BYTES, b.n / 64, s->row);
        return decode_digested(c, &b, from, n, digest);
    }
    if (is_whole_words(&b))
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
        kvc_scatter(c->view, offset_of(c, index), raw, from);
        return true;
    }
    if (past < KVC_SLACK_BYTES) { /* the faster levels read words */
        memcpy(c->s->spill, from, n);
        from = c->s->spill;
    }
    return land_coded(c, index, from, n, digest);
}

/* The blocks, whose ends are at `ends`, in the `all` bytes at from. */
static bool land_blocks(const struct chunk *c, const uint8_t *ends, const uint8_t *from,
                        uint64_t all, struct kvw_digest *digest)
{
    uint64_t begin = 0;

    for (uint32_t i = 0; i < c->blocks; ++i) {
        const uint32_t end = kvw_load_le32(ends + END_BYTES * (uint64_t)i);

        if (end < begin || end > all || kvc_aligned(end) > all || /* may wrap */
            !kvc_is_zero(from + end, kvc_aligned(end) - end) ||
            !land_block(c, i, from + begin, end - (uint32_t)begin, all - end, digest))
            return false;
        begin = kvc_aligned(end);
    }
    return begin == all;
}

static bool land_stored(const struct chunk *c, const uint8_t *from, uint64_t bytes,
                        struct kvw_digest *digest)
{
    const uint64_t raw = kvw_view_bytes(c->view);

    if (from[2] != 0 || kvw_load_le64(from + BOOK_AT) != 0 || bytes != HEAD_BYTES + raw)
        return false;
    kvw_digest_update(digest, from + HEAD_BYTES, raw);
    kvc_scatter(c->view, 0, raw, from + HEAD_BYTES);
    return true;
}

static bool land(const struct chunk *c, const uint8_t *from, uint64_t bytes,
                 const struct kvw_codec_book *book, struct kvw_digest *digest)
{
    uint32_t table = END_BYTES * c->blocks;
    uint64_t at;

    if (bytes < HEAD_BYTES || from[1] != c->view->dtype || from[3] != FORMAT ||
        kvw_load_le32(from + 4) != c->values)
        return false;
    if (from[0] == MODE_STORED)
        return land_stored(c, from, bytes, digest);
    if (bytes >= HEAD_BYTES + kvw_view_bytes(c->view) || /* it would have been stored */
        !read_head(c, from, bytes, book, &at) || bytes - at < kvc_aligned(table) ||
        !is_padded(from + at, table, 0))
        return false;
    prepare(c);
    table = kvc_aligned(table);
    return land_blocks(c, from + at, from + at + table, bytes - at - table, digest);
}

static kvw_err exact_decode(uint32_t dtypes, const void *src, uint64_t src_bytes,
                            const struct kvw_codec_book *book, const struct kvw_view *dst,
                            struct kvw_digest *digest, void *scratch)
{
    if (!takes(dtypes, dst->dtype) || exact_bound(kvw_view_bytes(dst)) > UINT32_MAX)
        return KVW_E_CODEC;

    const struct chunk c = chunk_of(dst, scratch);

    return land(&c, src, src_bytes, book, digest) ? KVW_OK : KVW_E_CODEC;
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
