/* SPDX-License-Identifier: Apache-2.0 */
/*
 * L0 and L8 give back every bit: all patterns in every lane, adversarial and random chunks of any
 * shape; scalar C, AVX2 and AVX-512 write the same stream of each; damaged streams are an error or
 * give other values, which the digest tells; and a stream is no longer than its bound.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../../compress/compress.h"
#include "../../compress/kernels.h"
#include "../../kvwire/wire/le.h"
#include "../kvwire/kv.h"

#if defined(__SANITIZE_ADDRESS__)
#define CHUNKS 2000u /* slow there, and run beside the whole number without it */
#else
#define CHUNKS 100000u
#endif
#define RAW_MAX (320u * 1024)

static const char *const names[] = {"scalar", "avx2", "avx512"};
#define LEVELS 3u

static unsigned char values[RAW_MAX], back[RAW_MAX], stream[LEVELS][RAW_MAX + 4096];
static uint32_t blocks[1] = {0};

/* A view of contiguous values, token after token. */
static struct kvw_view flat(unsigned char *at, kvw_dtype dtype, uint32_t tokens, uint32_t heads,
                            uint32_t dim)
{
    const uint32_t head_bytes = dim * kvw_dtype_bytes(dtype);

    return (struct kvw_view){.base = at,
                             .blocks = blocks,
                             .block_tokens = tokens,
                             .tokens = tokens,
                             .heads = heads,
                             .head_bytes = head_bytes,
                             .dtype = dtype,
                             .token_stride = (uint64_t)heads * head_bytes,
                             .head_stride = head_bytes};
}

static const struct kvw_codec_ops *codec_of(kvw_dtype dtype)
{
    return kvw_dtype_bytes(dtype) == 2 ? &kvc_codec_l0 : &kvc_codec_l8;
}

static void *scratch_for(const struct kvw_codec_ops *codec, uint64_t raw)
{
    static void *scratch;
    static uint64_t room;

    if (room < codec->scratch_bytes(raw)) {
        free(scratch);
        room = codec->scratch_bytes(raw);
        scratch = aligned_alloc(64, (room + 63) / 64 * 64);
    }
    return scratch;
}

/* Encode values on every level, compare the streams, decode each on another level. Returns the
 * stream's bytes. */
static uint64_t round_trip(kvw_dtype dtype, uint32_t tokens, uint32_t heads, uint32_t dim,
                           const struct kvw_codec_book *book, const char *what)
{
    const struct kvw_codec_ops *codec = codec_of(dtype);
    const struct kvw_view from = flat(values, dtype, tokens, heads, dim);
    const struct kvw_view to = flat(back, dtype, tokens, heads, dim);
    const struct kvw_codec_args args = {.book = book};
    const uint64_t raw = kvw_view_bytes(&from), bound = codec->bound(raw);
    uint64_t bytes[LEVELS] = {0};
    const kvw_digest_id digest_id = tokens % 2 == 0 ? KVW_DIGEST_LANES : KVW_DIGEST_XXH3_64;
    struct kvw_digest plain;
    uint32_t first = LEVELS;

    cr_assert_eq(kvw_digest_begin_chunk(&plain, digest_id, &from), KVW_OK);
    kvw_digest_update(&plain, values, raw);
    cr_assert_leq(raw, RAW_MAX);
    cr_assert_leq(bound, raw + raw / 500 + 64);
    for (uint32_t l = 0; l < LEVELS; ++l) {
        const struct kvc_kernels *k = kvc_kernels_named(names[l]);
        struct kvw_digest d;

        if (k == NULL)
            continue;
        kvc_kernels_force(k);
        cr_assert_eq(kvw_digest_begin_chunk(&d, digest_id, &from), KVW_OK);
        cr_assert_eq(
            codec->encode(&from, &args, stream[l], bound, &bytes[l], &d, scratch_for(codec, raw)),
            KVW_OK);
        cr_assert_leq(bytes[l], bound, "%s", what);
        cr_assert_eq(kvw_digest_value(&d), kvw_digest_value(&plain), "%s: %s", what, names[l]);
        if (first == LEVELS)
            first = l;
        cr_assert(bytes[l] == bytes[first] && memcmp(stream[l], stream[first], bytes[l]) == 0,
                  "%s: %s and %s write different streams (%u x %u x %u)", what, names[first],
                  names[l], tokens, heads, dim);
    }
    for (uint32_t l = 0; l < LEVELS; ++l) {
        const struct kvc_kernels *k = kvc_kernels_named(names[l]);
        struct kvw_digest d;

        if (k == NULL)
            continue;
        kvc_kernels_force(k);
        memset(back, 0x55, raw);
        cr_assert_eq(kvw_digest_begin_chunk(&d, digest_id, &from), KVW_OK);
        cr_assert_eq(
            codec->decode(stream[first], bytes[first], book, &to, &d, scratch_for(codec, raw)),
            KVW_OK, "%s: %s", what, names[l]);
        cr_assert_eq(kvw_digest_value(&d), kvw_digest_value(&plain), "%s: %s", what, names[l]);
        cr_assert_eq(memcmp(values, back, raw), 0, "%s: %s gives other values (%u x %u x %u)", what,
                     names[l], tokens, heads, dim);
    }
    return bytes[first];
}

static double uniform(uint64_t *random)
{
    return ((double)(t_random(random) >> 11) + 1) / 9007199254740994.0;
}

static float normal(uint64_t *random)
{
    return (float)(sqrt(-2 * log(uniform(random))) * cos(6.283185307179586 * uniform(random)));
}

static void put(kvw_dtype dtype, uint32_t i, float f)
{
    uint32_t bits;
    int e;

    memcpy(&bits, &f, 4);
    if (dtype == KVW_DTYPE_BF16) {
        values[2 * i] = (unsigned char)(bits >> 16);
        values[2 * i + 1] = (unsigned char)(bits >> 24);
        return;
    }
    /* Truncated, flushed to zero below and clamped above: good enough for a distribution. */
    e = (int)(bits >> 23 & 0xff) - 127 + (dtype == KVW_DTYPE_F8_E4M3 ? 7 : 15);
    e = e < 0 ? 0 : e > (dtype == KVW_DTYPE_F8_E4M3 ? 14 : 30) ? 14 : e;
    if (dtype == KVW_DTYPE_F16) {
        values[2 * i] = (unsigned char)(bits >> 13);
        values[2 * i + 1] = (unsigned char)(bits >> 31 << 7 | (uint32_t)e << 2 | (bits >> 21 & 3));
    } else if (dtype == KVW_DTYPE_F8_E4M3) {
        values[i] = (unsigned char)(bits >> 31 << 7 | (uint32_t)e << 3 | (bits >> 20 & 7));
    } else {
        values[i] = (unsigned char)(bits >> 31 << 7 | (uint32_t)e << 2 | (bits >> 21 & 3));
    }
}

static const kvw_dtype dtypes[] = {KVW_DTYPE_BF16, KVW_DTYPE_F16, KVW_DTYPE_F8_E4M3,
                                   KVW_DTYPE_F8_E5M2};

/* Channels of their own scale and bias, as K and V have, with now and then a value of any bits. */
static void fill(uint64_t *random, kvw_dtype dtype, uint32_t tokens, uint32_t channels)
{
    float scale[512], bias[512];
    const uint32_t wild = t_below(random, 3) == 0 ? 1 + t_below(random, 200) : 0;

    for (uint32_t c = 0; c < channels; ++c) {
        scale[c] = ldexpf(1, (int)t_below(random, 12) - 6) * (1 + t_below(random, 3));
        bias[c] = t_below(random, 4) == 0 ? scale[c] * (float)t_below(random, 20) : 0;
    }
    for (uint32_t i = 0; i < tokens * channels; ++i) {
        if (wild > 0 && t_below(random, wild) == 0)
            for (uint32_t b = 0; b < kvw_dtype_bytes(dtype); ++b)
                values[i * kvw_dtype_bytes(dtype) + b] = (unsigned char)t_random(random);
        else
            put(dtype, i, scale[i % channels] * normal(random) + bias[i % channels]);
    }
}

static void fill_calmly(uint64_t *random, kvw_dtype dtype, uint32_t n)
{
    for (uint32_t i = 0; i < n; ++i)
        put(dtype, i, normal(random));
}

Test(exact, levels_agree_on_random_chunks, .timeout = 600)
{
    uint64_t random = 20261123;
    uint64_t raw = 0, coded = 0;

    for (uint32_t i = 0; i < CHUNKS; ++i) {
        const kvw_dtype dtype = dtypes[t_below(&random, 4)];
        const bool large = i % 500 == 0; /* several blocks */
        const uint32_t dim = large ? 64 : 1 + t_below(&random, 40), heads = 1 + t_below(&random, 3);
        const uint32_t tokens = large ? 100 + t_below(&random, 200) : 1 + t_below(&random, 50);

        if (i % 7 == 0)
            for (uint32_t b = 0; b < tokens * heads * dim * kvw_dtype_bytes(dtype); ++b)
                values[b] = (unsigned char)t_random(&random);
        else
            fill(&random, dtype, tokens, heads * dim);
        raw += (uint64_t)tokens * heads * dim * kvw_dtype_bytes(dtype);
        coded += round_trip(dtype, tokens, heads, dim, NULL, "random");
    }
    cr_expect_lt(coded, raw, "nothing was compressed: the coded path wasn't taken");
}

/* Every pattern of 16 and of 8 bits in each of the 64 lanes of a vector, on every level, among
 * values that make its block worth coding: one token in eight holds patterns only. */
Test(exact, all_patterns_in_every_lane, .timeout = 600)
{
    enum { TOKENS = 2048, LANES = 64, AT_ONCE = TOKENS / 8 * LANES };

    for (uint32_t d = 0; d < 4; ++d) {
        const kvw_dtype dtype = dtypes[d];
        const uint32_t bytes = kvw_dtype_bytes(dtype), n = bytes == 2 ? 65536 : 256;

        for (uint32_t lane = 0; lane < LANES; ++lane)
            for (uint32_t at = 0; at < n; at += AT_ONCE) {
                const uint8_t *end = stream[0] + 16 + LANES;
                uint32_t begin = 0;

                for (uint32_t i = 0; i < TOKENS * LANES; ++i)
                    put(dtype, i, 0.5f + (float)(i % 61) / 64);
                for (uint32_t p = 0; p < AT_ONCE && p < n; ++p) {
                    /* Not in the tokens that the columns are fitted to, which are each 64th. */
                    const uint32_t token = p / LANES * 8 + 3;
                    const uint32_t i = token * LANES + (lane + p) % LANES, v = at + p;

                    memcpy(values + i * bytes, &v, bytes);
                }
                round_trip(dtype, TOKENS, 1, LANES, NULL, "patterns");
                cr_assert_eq(stream[0][0], 2, "columns");
                for (uint32_t block = 0; block < TOKENS * LANES / 8192; ++block, end += 4) {
                    cr_assert_lt(kvw_load_le32(end) - begin, 8192 * bytes, "none is stored");
                    begin = kvw_load_le32(end);
                    begin += -begin % 16;
                }
            }
    }
}

Test(exact, adversarial_chunks, .timeout = 600)
{
    uint64_t random = 3;

    for (uint32_t d = 0; d < 4; ++d) {
        const kvw_dtype dtype = dtypes[d];
        const uint32_t bytes = kvw_dtype_bytes(dtype), n = 3 * 8192 + 77;

        for (uint32_t c = 0; c < 256; c += 5) { /* constants */
            if ((c & 0x7c) == 0x7c)             /* NaN, in most types */
                continue;
            memset(values, (int)c, n * bytes);
            cr_expect_lt(round_trip(dtype, 1, 1, n, NULL, "constant"), n * bytes);
            cr_expect_lt(round_trip(dtype, n / 64, 1, 64, NULL, "constant"), n / 64 * 64 * bytes);
        }
        for (uint32_t i = 0; i < n; ++i) /* every value escapes but the sampled ones */
            put(dtype, i, i / 64 % 16 == 0 ? 1e-4f : ldexpf(1, 4 + (int)t_below(&random, 3)));
        round_trip(dtype, n / 64, 1, 64, NULL, "escapes");
        for (uint32_t i = 0; i < n; ++i) /* one in each block */
            put(dtype, i, i % 8192 == 4000 ? 1e-30f : 1.0f + (float)(i % 7));
        round_trip(dtype, n / 64, 1, 64, NULL, "one escape");
        for (uint32_t i = 0; i < n * bytes; ++i)
            values[i] = (unsigned char)t_random(&random);
        cr_expect_eq(round_trip(dtype, n / 64, 1, 64, NULL, "random bits"),
                     n / 64 * 64 * bytes + 16, "random bits are stored, sixteen bytes before them");
    }
}

Test(exact, lengths_and_odd_heads, .timeout = 600)
{
    uint64_t random = 9;

    for (uint32_t tokens = 1; tokens <= 300; ++tokens) {
        const uint32_t heads = 1 + tokens % 5, dim = tokens % 3 == 0 ? 64 : 1 + tokens * 7 % 96;

        for (uint32_t d = 0; d < 4; ++d) {
            fill(&random, dtypes[d], tokens, heads * dim);
            round_trip(dtypes[d], tokens, heads, dim, NULL, "lengths");
        }
    }
}

/* A book is heeded, named in the stream, and the stream can't be read without it or
 * with another. */
Test(exact, books)
{
    static unsigned char columns[1 + 192], other[1 + 192];
    struct kvw_codec_book book = {.id = 42, .bytes = columns, .byte_count = sizeof(columns)};
    struct kvw_codec_book wrong = book;
    const struct kvw_view view = flat(values, KVW_DTYPE_BF16, 40, 3, 64);
    const uint64_t raw = kvw_view_bytes(&view);
    uint64_t random = 4, bytes;
    struct kvw_digest d;

    columns[0] = 70;
    for (uint32_t i = 1; i < sizeof(columns); ++i)
        columns[i] = (unsigned char)(i % 2 << 6 | (45 + i % 3));
    fill_calmly(&random, KVW_DTYPE_BF16, 40 * 192);
    bytes = round_trip(KVW_DTYPE_BF16, 40, 3, 64, &book, "book");
    cr_expect_eq(stream[0][0], 3, "the stream names a book");
    cr_assert_eq(kvw_digest_begin(&d, KVW_DIGEST_XXH3_64), KVW_OK);
    cr_expect_eq(
        kvc_codec_l0.decode(stream[0], bytes, NULL, &view, &d, scratch_for(&kvc_codec_l0, raw)),
        KVW_E_CODEC, "without it");
    wrong.id = 43;
    cr_expect_eq(
        kvc_codec_l0.decode(stream[0], bytes, &wrong, &view, &d, scratch_for(&kvc_codec_l0, raw)),
        KVW_E_CODEC, "another id");
    wrong = book;
    wrong.byte_count = 100;
    cr_expect_eq(
        kvc_codec_l0.decode(stream[0], bytes, &wrong, &view, &d, scratch_for(&kvc_codec_l0, raw)),
        KVW_E_CODEC, "another length");
    memset(other, 0xff, sizeof(other)); /* a class that there isn't */
    wrong = (struct kvw_codec_book){.id = 42, .bytes = other, .byte_count = sizeof(other)};
    cr_expect_eq(
        kvc_codec_l0.decode(stream[0], bytes, &wrong, &view, &d, scratch_for(&kvc_codec_l0, raw)),
        KVW_E_CODEC, "not a book of ours");
    round_trip(KVW_DTYPE_BF16, 40, 3, 64, &wrong, "useless book");
    cr_expect_eq(stream[0][0], 2, "then the chunk's own columns are used");
}

/* Any bit of a stream, cut anywhere: an error, or other values with another digest; or the same. */
Test(exact, damaged_streams, .timeout = 600)
{
    uint64_t random = 8;

    for (uint32_t d = 0; d < 4; ++d) {
        const struct kvw_codec_ops *codec = codec_of(dtypes[d]);
        const struct kvw_view to = flat(back, dtypes[d], 150, 1, 64);
        const uint64_t raw = kvw_view_bytes(&to);
        uint64_t bytes, was;
        struct kvw_digest digest;

        fill_calmly(&random, dtypes[d], 150 * 64);
        bytes = round_trip(dtypes[d], 150, 1, 64, NULL, "sound");
        cr_assert_lt(bytes, raw);
        cr_assert_eq(kvw_digest_begin(&digest, KVW_DIGEST_XXH3_64), KVW_OK);
        kvw_digest_update(&digest, values, raw);
        was = kvw_digest_value(&digest);
        for (uint32_t i = 0; i < 3000; ++i) {
            const uint64_t bit = t_random(&random) % (bytes * 8);
            kvw_err err;

            stream[0][bit / 8] ^= (unsigned char)(1u << bit % 8);
            cr_assert_eq(kvw_digest_begin(&digest, KVW_DIGEST_XXH3_64), KVW_OK);
            err = codec->decode(stream[0], bytes, NULL, &to, &digest, scratch_for(codec, raw));
            stream[0][bit / 8] ^= (unsigned char)(1u << bit % 8);
            cr_assert(err == KVW_OK || err == KVW_E_CODEC);
            if (err == KVW_OK && kvw_digest_value(&digest) == was)
                cr_assert_eq(memcmp(values, back, raw), 0);
        }
        for (uint64_t n = 0; n < bytes; n += 1 + n / 50)
            cr_expect_eq(codec->decode(stream[0], n, NULL, &to, &digest, scratch_for(codec, raw)),
                         KVW_E_CODEC, "cut to %lu", n);
    }
}

/* Every level says the same of a damaged stream of the chunk in values; and none takes it for that
 * chunk. */
static void judge(const struct kvw_codec_ops *codec, const struct kvw_view *to, uint64_t bytes,
                  const struct kvw_codec_book *book, uint64_t bit)
{
    static unsigned char first[RAW_MAX];
    const uint64_t raw = kvw_view_bytes(to);
    kvw_err want = KVW_OK;

    stream[0][bit / 8] ^= (unsigned char)(1u << bit % 8);
    for (uint32_t l = 0; l < LEVELS; ++l) { /* scalar, which every CPU has, first */
        struct kvw_digest digest;
        kvw_err err;

        if (kvc_kernels_named(names[l]) == NULL)
            continue;
        kvc_kernels_force(kvc_kernels_named(names[l]));
        cr_assert_eq(kvw_digest_begin_chunk(&digest, KVW_DIGEST_LANES, to), KVW_OK);
        err = codec->decode(stream[0], bytes, book, to, &digest, scratch_for(codec, raw));
        want = l == 0 ? err : want;
        cr_assert_eq(err, want, "%s, bit %lu: scalar says %d, %s %d", codec->name, bit, (int)want,
                     names[l], (int)err);
        if (l == 0)
            memcpy(first, back, raw);
        else if (err == KVW_OK)
            cr_assert_eq(memcmp(first, back, raw), 0, "%s, bit %lu: %s", codec->name, bit,
                         names[l]);
        cr_assert(err != KVW_OK || memcmp(values, back, raw) != 0,
                  "%s, dtype %d, mode %d: byte %lu, bit %lu: a second stream of the same chunk",
                  codec->name, (int)to->dtype, stream[0][0], bit / 8, bit % 8);
    }
    stream[0][bit / 8] ^= (unsigned char)(1u << bit % 8);
}

/* Every bit of a small stream in turn, in every mode: header, columns, ends, what pads them, planes
 * and escapes. No chunk of ordinary values has two streams a bit apart. */
Test(exact, every_bit_counts, .timeout = 600)
{
    static unsigned char columns[1 + 51];
    const struct kvw_codec_book book = {.id = 42, .bytes = columns, .byte_count = sizeof(columns)};
    static const struct {
        uint32_t tokens;
        int mode;
        bool book, noise;
    } shapes[] = {
        {31, 1, false, false}, {40, 2, false, false}, {40, 3, true, false}, {40, 0, false, true}};
    uint64_t random = 12;

    for (uint32_t d = 0; d < 4; ++d)
        for (uint32_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); ++i) {
            const struct kvw_codec_ops *codec = codec_of(dtypes[d]);
            const struct kvw_view to = flat(back, dtypes[d], shapes[i].tokens, 1, 51);
            const struct kvw_codec_book *given = shapes[i].book ? &book : NULL;
            const int bias = d == 0 ? 127 : d == 2 ? 7 : 15;
            uint64_t bytes;

            columns[0] = (unsigned char)(bias - 74);
            for (uint32_t c = 1; c < sizeof(columns); ++c)
                columns[c] = (unsigned char)(c % 2 << 6 | (63 - c % 3 / 2));
            fill_calmly(&random, dtypes[d], shapes[i].tokens * 51);
            for (uint32_t v = 4 * 51; v < 40 * 51; v += v % 51 == 45 ? 4 * 51 + 6 : 9)
                values[(v + 1) * kvw_dtype_bytes(dtypes[d]) - 1] |= 0x7c; /* escapes: not sampled */
            for (uint64_t b = 0; shapes[i].noise && b < kvw_view_bytes(&to); ++b)
                values[b] = (unsigned char)t_random(&random);
            bytes = round_trip(dtypes[d], shapes[i].tokens, 1, 51, given, "sound");
            cr_assert_eq(stream[0][0], shapes[i].mode, "dtype %d: %d", (int)dtypes[d],
                         stream[0][0]);
            cr_assert_eq(stream[0][3], 2, "the format");
            for (uint64_t bit = 0; bit < bytes * 8; ++bit)
                judge(codec, &to, bytes, given, bit);
        }
}

/* The same of what lies between the blocks of a longer stream. */
Test(exact, every_bit_between_blocks_counts, .timeout = 600)
{
    uint64_t random = 13;

    for (uint32_t d = 0; d < 4; ++d) {
        const struct kvw_codec_ops *codec = codec_of(dtypes[d]);
        const struct kvw_view to = flat(back, dtypes[d], 70, 3, 93);
        const uint32_t front = 16 + (279 + 15) / 16 * 16, unit = 29 * 279;
        uint32_t begin = front + 16;
        uint64_t bytes;

        fill_calmly(&random, dtypes[d], 70 * 279);
        bytes = round_trip(dtypes[d], 70, 3, 93, NULL, "sound");
        cr_assert_eq(stream[0][0], 2);
        for (uint64_t bit = 0; bit < (uint64_t)begin * 8; ++bit)
            judge(codec, &to, bytes, NULL, bit);
        for (uint32_t i = 0; i < 3; ++i) { /* blocks */
            const uint32_t end = front + 16 + kvw_load_le32(stream[0] + front + 4 * i);

            cr_assert_lt(end - begin, unit * kvw_dtype_bytes(dtypes[d]), "coded");
            for (uint64_t bit = end * 8ull; bit < (end + 15) / 16 * 16 * 8ull; ++bit)
                judge(codec, &to, bytes, NULL, bit);
            for (uint64_t bit = begin * 8ull; bit < end * 8ull; bit += 997)
                judge(codec, &to, bytes, NULL, bit);
            begin = (end + 15) / 16 * 16;
        }
        cr_assert_eq(begin, bytes, "the last block is padded too");
    }
}

/* Where no column has a place, nothing else may say where its window lies. */
Test(exact, zeros_have_one_stream)
{
    for (uint32_t d = 0; d < 4; ++d) {
        const struct kvw_view to = flat(back, dtypes[d], 40, 1, 27);
        uint64_t bytes;

        memset(values, 0, kvw_view_bytes(&to));
        bytes = round_trip(dtypes[d], 40, 1, 27, NULL, "zeros");
        cr_assert_eq(stream[0][0], 2);
        for (uint64_t bit = 0; bit < (16 + 32 + 16) * 8; ++bit)
            judge(codec_of(dtypes[d]), &to, bytes, NULL, bit);
    }
}

/* A NaN or an infinity among the sampled values costs its own bits, not the chunk's. */
Test(exact, not_numbers_do_not_move_windows)
{
    static const uint16_t what[] = {0x7fc0, 0xff80, 0x7f80, 0xffff}; /* NaN, infinities, NaN */
    const uint32_t tokens = 1024, channels = 128;
    const double raw = tokens * channels * 2;
    uint64_t random = 14;

    for (uint32_t i = 0; i < tokens * channels; ++i)
        put(KVW_DTYPE_BF16, i, ldexpf(normal(&random), (int)(i % channels % 9) - 4));
    cr_assert_gt(raw / (double)round_trip(KVW_DTYPE_BF16, tokens, 1, channels, NULL, "plain"),
                 1.49);
    for (uint32_t w = 0; w < sizeof(what) / sizeof(what[0]); ++w)
        for (uint32_t wide = 1; wide <= channels; wide *= channels) { /* a value; all of token 0 */
            unsigned char was[2 * 128];

            memcpy(was, values, sizeof(was));
            for (uint32_t c = 0; c < wide; ++c)
                memcpy(values + 2 * c, &what[w], 2);
            cr_expect_gt(raw / (double)round_trip(KVW_DTYPE_BF16, tokens, 1, channels, NULL, "NaN"),
                         1.45, "%04x in %u channels", what[w], wide);
            memcpy(values, was, sizeof(was));
        }
    /* And in a chunk too short for columns, which has one window around the mean. */
    const double plain = (double)round_trip(KVW_DTYPE_BF16, 31, 1, channels, NULL, "short");

    for (uint32_t c = 0; c < channels; ++c)
        memcpy(values + 2 * c, &what[0], 2);
    cr_expect_lt((double)round_trip(KVW_DTYPE_BF16, 31, 1, channels, NULL, "short, NaN"),
                 plain + 1.5 * channels);
}

/* Values of integers alone, the same with every compiler and library: exponents fall off below the
 * channel's own, and now and then one is special or tiny. */
static void fill_by_bits(uint64_t *random, kvw_dtype dtype, uint32_t tokens, uint32_t channels,
                         int more)
{
    const int bias = more + (dtype == KVW_DTYPE_BF16 ? 127 : dtype == KVW_DTYPE_F8_E4M3 ? 7 : 15);
    const uint32_t mantissa = dtype == KVW_DTYPE_BF16  ? 7
                              : dtype == KVW_DTYPE_F16 ? 10
                                                       : (dtype == KVW_DTYPE_F8_E4M3 ? 3 : 2);

    const uint32_t all = kvw_dtype_bytes(dtype) == 2 ? 0x7fff : 0x7f;
    const uint32_t exponent = all >> mantissa << mantissa;

    for (uint32_t i = 0; i < tokens * channels; ++i) {
        const uint32_t c = i % channels, spread = c % 5 == 4 ? 4 : 1;
        const uint64_t r = t_random(random);
        const int below = __builtin_ctzll(r | 1ull << 40) * (int)spread;
        const int e = bias + (int)(c % (tokens < 32 ? 2 : 9)) - 4 - below;
        uint32_t v = (uint32_t)(r >> 63)
                     << (dtype == KVW_DTYPE_BF16 || dtype == KVW_DTYPE_F16 ? 15 : 7);

        v |= (uint32_t)(e < 0 ? 0 : e) << mantissa | ((uint32_t)(r >> 41) & ((1u << mantissa) - 1));
        if (t_below(random, 300) == 0) /* NaN or infinity; or nearly zero */
            v = r >> 50 & 1 ? v | exponent : v & ((1u << mantissa) - 1);
        memcpy(values + (uint64_t)i * kvw_dtype_bytes(dtype), &v, kvw_dtype_bytes(dtype));
    }
}

/* Streams are pinned: what one release has written, the next one reads. */
Test(exact, streams_are_pinned)
{
    static const struct {
        kvw_dtype dtype;
        uint32_t tokens, heads, dim;
        int more; /* than ordinary exponents: to the largest that numbers have */
        uint64_t digest;
    } shapes[] = {
        {KVW_DTYPE_BF16, 100, 3, 64, 0, 0x4220d266b6d1d246},
        {KVW_DTYPE_BF16, 20, 2, 70, 0, 0x2288c7a414bdd8e8},
        {KVW_DTYPE_BF16, 33, 5, 64, 123, 0x8126b3619ee5b300},
        {KVW_DTYPE_BF16, 3, 10, 900, 0, 0xb5f80a97153da2e8},
        {KVW_DTYPE_F16, 100, 3, 64, 0, 0x251f07ff66d2b054},
        {KVW_DTYPE_F16, 20, 2, 70, 0, 0x35a8c738f77f3da1},
        {KVW_DTYPE_F8_E4M3, 100, 3, 99, 0, 0x9dc40b02abd114cf},
        {KVW_DTYPE_F8_E4M3, 20, 2, 200, 0, 0x20dde1a37d7fa40d},
        {KVW_DTYPE_F8_E5M2, 100, 3, 99, 0, 0x14580295b09d94eb},
        {KVW_DTYPE_F8_E5M2, 20, 2, 200, 0, 0xe3df866dff169c90},
    };
    uint64_t random = 15;

    for (uint32_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); ++i) {
        struct kvw_digest d;
        uint64_t bytes;

        fill_by_bits(&random, shapes[i].dtype, shapes[i].tokens, shapes[i].heads * shapes[i].dim,
                     shapes[i].more);
        bytes = round_trip(shapes[i].dtype, shapes[i].tokens, shapes[i].heads, shapes[i].dim, NULL,
                           "pinned");
        cr_assert_eq(kvw_digest_begin(&d, KVW_DIGEST_XXH3_64), KVW_OK);
        kvw_digest_update(&d, stream[0], bytes);
        cr_expect_neq(stream[0][0], 0, "coded");
        cr_expect_eq(kvw_digest_value(&d), shapes[i].digest, "shape %u: 0x%016lx", i,
                     kvw_digest_value(&d));
    }
}

/* What the header says and isn't so. */
Test(exact, wrong_headers)
{
    const struct kvw_view view = flat(values, KVW_DTYPE_BF16, 40, 1, 64);
    const struct kvw_view longer = flat(values, KVW_DTYPE_BF16, 41, 1, 64);
    const struct kvw_view half = flat(values, KVW_DTYPE_F16, 40, 1, 64);
    const struct kvw_view byte = flat(values, KVW_DTYPE_F8_E4M3, 40, 1, 64);
    const uint64_t raw = kvw_view_bytes(&longer);
    uint64_t random = 6, bytes;
    struct kvw_digest d;
    void *scratch;

    fill_calmly(&random, KVW_DTYPE_BF16, 41 * 64);
    bytes = round_trip(KVW_DTYPE_BF16, 40, 1, 64, NULL, "sound");
    scratch = scratch_for(&kvc_codec_l0, raw);
    cr_assert_eq(kvw_digest_begin(&d, KVW_DIGEST_XXH3_64), KVW_OK);
    cr_expect_eq(kvc_codec_l0.decode(stream[0], bytes, NULL, &longer, &d, scratch), KVW_E_CODEC);
    cr_expect_eq(kvc_codec_l0.decode(stream[0], bytes, NULL, &half, &d, scratch), KVW_E_CODEC);
    cr_expect_eq(kvc_codec_l0.decode(stream[0], bytes, NULL, &byte, &d, scratch), KVW_E_CODEC);
    cr_expect_eq(kvc_codec_l8.decode(stream[0], bytes, NULL, &view, &d, scratch), KVW_E_CODEC);
    cr_expect_eq(
        kvc_codec_l8.encode(&view, NULL, stream[1], sizeof(stream[1]), &bytes, &d, scratch),
        KVW_E_INVALID);
    cr_expect_eq(kvc_codec_l0.decode(stream[0], bytes, NULL, &view, &d, scratch), KVW_OK);
    for (uint32_t at = 0; at < 16; ++at) { /* every byte of it counts */
        stream[0][at] ^= 0x80;
        if (at != 2) /* the origin: other values, which the digest tells */
            cr_expect_eq(kvc_codec_l0.decode(stream[0], bytes, NULL, &view, &d, scratch),
                         KVW_E_CODEC, "byte %u", at);
        stream[0][at] ^= 0x80;
    }
}
