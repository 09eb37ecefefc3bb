/* SPDX-License-Identifier: Apache-2.0 */
/*
 * E8 and E4 keep |x - x'| <= step/2 and half a unit in the last place for every value, pass exactly
 * what they can't keep so, write the same bytes at every level, and refuse damage or decode it
 * alike.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../../compress/compress.h"
#include "../../compress/kernels.h"
#include "../../kvwire/wire/le.h"
#include "../kvwire/kv.h"

#define VALUES_MAX (1024u * 192)

#ifdef __SANITIZE_ADDRESS__ /* some thirty times slower */
#define CHUNKS 5000u
#else
#define CHUNKS 100000u
#endif

enum fill { NORMAL, BIASED, SPIKES, CONSTANT, TIES, BITS, TINY, STEADY, FILLS };

static const struct kvw_codec_ops *const codecs[] = {&kvc_codec_e8, &kvc_codec_e4};
static const char *const levels[] = {"scalar", "avx2", "avx512"};

static uint16_t values[VALUES_MAX], decoded[2][VALUES_MAX + 64];
static unsigned char stream[2][2 * VALUES_MAX + 64];
static const uint32_t block = 0;

static double to_double(kvw_dtype dtype, uint16_t bits)
{
    const double sign = bits >> 15 ? -1 : 1;
    const int man_bits = dtype == KVW_DTYPE_F16 ? 10 : 7, bias = dtype == KVW_DTYPE_F16 ? 15 : 127;
    const int exp = (bits & 0x7fff) >> man_bits, man = bits & ((1 << man_bits) - 1);

    if (exp == 2 * bias + 1)
        return man != 0 ? NAN : sign * INFINITY;
    return sign * (exp == 0 ? ldexp(man, 1 - bias - man_bits)
                            : ldexp(man + (1 << man_bits), exp - bias - man_bits));
}

/* Half the distance from x' to its neighbours. */
static double half_unit(kvw_dtype dtype, double x)
{
    const int man_bits = dtype == KVW_DTYPE_F16 ? 10 : 7,
              least = dtype == KVW_DTYPE_F16 ? -14 : -126;
    int exp;

    frexp(x, &exp);
    return ldexp(0.5, (exp - 1 < least ? least : exp - 1) - man_bits);
}

/* Towards zero: any value does for a test. */
static uint16_t from_float(kvw_dtype dtype, float f)
{
    uint32_t u;

    memcpy(&u, &f, sizeof(u));
    if (dtype == KVW_DTYPE_BF16)
        return (uint16_t)(u >> 16);

    const int exp = (int)(u >> 23 & 255) - 112;

    if (exp <= 0)
        return (uint16_t)(u >> 16 & 0x8000);
    if (exp > 30)
        return (uint16_t)((u >> 16 & 0x8000) | 0x7bff);
    return (uint16_t)((u >> 16 & 0x8000) | (uint32_t)exp << 10 | (u >> 13 & 0x3ff));
}

static float normal(uint64_t *random)
{
    float sum = -6;

    for (int i = 0; i < 12; ++i)
        sum += (float)(t_random(random) >> 40) * 0x1p-24f;
    return sum;
}

static void fill(uint64_t *random, enum fill kind, kvw_dtype dtype, uint32_t tokens,
                 uint32_t channels)
{
    for (uint32_t i = 0; i < tokens * channels; ++i) {
        const uint32_t c = i % channels;
        float f = normal(random) * (float)(1 + c % 7);

        switch (kind) {
        case BIASED:
            f = f * 0.1f + (float)(c % 23) - 11;
            break;
        case SPIKES:
            f = t_below(random, 50) == 0 ? f * 3e4f : f;
            break;
        case CONSTANT:
            f = 1.5f;
            break;
        case TIES:
            f = ((float)t_below(random, 64) + 0.5f) * 0x1p-6f;
            break;
        case TINY:
            f *= 1e-6f;
            break;
        case STEADY:
            f = i >= channels && t_below(random, 4) != 0 ? NAN : f;
            break;
        default:
            break;
        }
        values[i] = from_float(dtype, f);
        if (kind == BITS || (kind == NORMAL && t_below(random, 500) == 0))
            values[i] = (uint16_t)t_random(random);
        if (kind == STEADY && f != f)
            values[i] = values[i - channels];
    }
}

static struct kvw_view view_of(uint16_t *at, kvw_dtype dtype, uint32_t tokens, uint32_t channels)
{
    return (struct kvw_view){.base = (unsigned char *)at,
                             .blocks = &block,
                             .block_tokens = tokens,
                             .tokens = tokens,
                             .heads = 1,
                             .head_bytes = 2 * channels,
                             .dtype = dtype,
                             .token_stride = 2ull * channels,
                             .head_stride = 2ull * channels};
}

static void *scratch_for(const struct kvw_view *v)
{
    return aligned_alloc(64, (kvc_codec_e4.scratch_bytes(kvw_view_bytes(v)) + 63) / 64 * 64);
}

static uint64_t encode(const struct kvw_codec_ops *codec, const struct kvw_view *v,
                       const struct kvw_codec_args *args, unsigned char *to, uint64_t *digest)
{
    void *scratch = scratch_for(v);
    struct kvw_digest d;
    uint64_t bytes = 0;

    cr_assert_eq(kvw_digest_begin(&d, KVW_DIGEST_XXH3_64), KVW_OK);
    cr_assert_eq(codec->encode(v, args, to, codec->bound(kvw_view_bytes(v)), &bytes, &d, scratch),
                 KVW_OK);
    cr_assert_leq(bytes, kvw_view_bytes(v) + kvw_view_bytes(v) / 500 + 64);
    *digest = kvw_digest_value(&d);
    free(scratch);
    return bytes;
}

static kvw_err decode(const struct kvw_view *v, const unsigned char *from, uint64_t bytes,
                      uint64_t *digest)
{
    void *scratch = scratch_for(v);
    struct kvw_digest d;
    kvw_err err;

    cr_assert_eq(kvw_digest_begin(&d, KVW_DIGEST_XXH3_64), KVW_OK);
    err = kvc_codec_e4.decode(from, bytes, NULL, v, &d, scratch);
    *digest = err == KVW_OK ? kvw_digest_value(&d) : 0;
    free(scratch);
    return err;
}

/* One chunk of values[] there and back, every promise checked. Returns its bytes. */
static uint64_t check(const struct kvw_codec_ops *codec, kvw_dtype dtype, uint32_t tokens,
                      uint32_t channels, const struct kvw_codec_args *args)
{
    const struct kvw_view from = view_of(values, dtype, tokens, channels);
    const struct kvw_view to = view_of(decoded[0], dtype, tokens, channels);
    const uint32_t first = args->exact_first, last = args->exact_last;
    uint64_t sent, got, bytes = encode(codec, &from, args, stream[0], &sent);
    const double step = to_double(KVW_DTYPE_BF16, (uint16_t)(stream[0][2] | stream[0][3] << 8));

    memset(decoded[0], 0xa5, sizeof(decoded[0]));
    cr_assert_eq(decode(&to, stream[0], bytes, &got), KVW_OK);
    cr_assert_eq(sent, got);
    for (uint32_t i = 0; i < 64; ++i)
        cr_assert_eq(decoded[0][tokens * channels + i], 0xa5a5);
    for (uint32_t i = 0; i < tokens * channels; ++i) {
        const double x = to_double(dtype, values[i]), y = to_double(dtype, decoded[0][i]);
        const uint32_t t = i / channels;

        if (values[i] == decoded[0][i])
            continue;
        cr_assert(stream[0][0] == 1 && t >= first && t + last < tokens,
                  "an exact value has changed");
        cr_assert(fabs(x - y) <= step / 2 + half_unit(dtype, y), "%s: %04x became %04x, step %g",
                  codec->name, values[i], decoded[0][i], step);
    }
    return bytes;
}

Test(e, bound_holds_on_adversarial_tensors)
{
    uint64_t random = 1;

    for (uint32_t i = 0; i < 400; ++i) {
        const kvw_dtype dtype = i % 2 == 0 ? KVW_DTYPE_BF16 : KVW_DTYPE_F16;
        const uint32_t channels = i % 5 == 0 ? 192 : 1 + t_below(&random, 300);
        const uint32_t tokens = 1 + t_below(&random, 100);
        const struct kvw_codec_args args = {.kv = i / 2 % 2,
                                            .exact_first = t_below(&random, 3) * 2,
                                            .exact_last = t_below(&random, 3) * 5};

        fill(&random, i / 4 % FILLS, dtype, tokens, channels);
        for (uint32_t c = 0; c < 2; ++c)
            check(codecs[c], dtype, tokens, channels, &args);
    }
}

/* All 65,536 patterns in each of 64 lanes, among values that give the chunk its step. */
Test(e, every_pattern_in_every_lane)
{
    const struct kvw_codec_args args = {.kv = 1};

    for (uint32_t turn = 0; turn < 64; ++turn) {
        const kvw_dtype dtype = turn % 2 == 0 ? KVW_DTYPE_BF16 : KVW_DTYPE_F16;

        for (uint32_t both = 0; both < 2; ++both) {
            for (uint32_t i = 0; i < 65536; ++i) {
                const uint32_t lane = (i + turn) % 64, t = i / 64;

                values[t * 2 * 64 + lane] = (uint16_t)i;
                values[(t * 2 + 1) * 64 + lane] = from_float(dtype, (float)(lane + 1) * 0.25f);
            }
            for (uint32_t t = 0; t < 64; ++t) /* what the encoder samples */
                for (uint32_t c = 0; both == 1 && c < 64; ++c)
                    values[2048 / 64 * t * 64 + c] = from_float(dtype, 1.25f);
            check(codecs[turn / 2 % 2], dtype, 2048, 64, &args);
        }
    }
}

Test(e, every_length_and_odd_heads)
{
    uint64_t random = 3;

    for (uint32_t tokens = 1; tokens <= 300; ++tokens) {
        const struct kvw_codec_args args = {.kv = tokens % 2, .exact_first = 4};
        const uint32_t channels = tokens % 3 == 0 ? 64 : 5 * (1 + tokens % 23);

        fill(&random, NORMAL, KVW_DTYPE_BF16, tokens, channels);
        check(codecs[tokens % 2], KVW_DTYPE_BF16, tokens, channels, &args);
    }
}

/* Sizes and noise of normal values; channels that stay the same are cheaper in K. */
Test(e, ratio_and_noise)
{
    static const double most_bits[] = {6.0, 4.3}, least_db[] = {31.5, 20.8};
    const uint32_t tokens = 1024, channels = 192;
    uint64_t random = 5;

    for (uint32_t c = 0; c < 2; ++c) {
        const struct kvw_codec_args v = {.kv = 1}, k = {.kv = 0};
        double signal = 0, noise = 0;
        uint64_t bytes;

        for (uint32_t i = 0; i < tokens * channels; ++i)
            values[i] = from_float(KVW_DTYPE_BF16, normal(&random));
        bytes = check(codecs[c], KVW_DTYPE_BF16, tokens, channels, &v);
        cr_expect_lt(8.0 * (double)bytes / (tokens * channels), most_bits[c]);
        for (uint32_t i = 0; i < tokens * channels; ++i) {
            const double x = to_double(KVW_DTYPE_BF16, values[i]);

            signal += x * x;
            noise += pow(x - to_double(KVW_DTYPE_BF16, decoded[0][i]), 2);
        }
        cr_expect_gt(10 * log10(signal / noise), least_db[c]);
        fill(&random, STEADY, KVW_DTYPE_BF16, tokens, channels);
        bytes = check(codecs[c], KVW_DTYPE_BF16, tokens, channels, &v);
        cr_expect_lt((double)check(codecs[c], KVW_DTYPE_BF16, tokens, channels, &k),
                     0.9 * (double)bytes);
    }
}

/* CHUNKS random chunks, half of them damaged too: all levels make and take the same. */
Test(e, all_levels_agree)
{
    uint64_t random = 7;

    for (uint32_t i = 0; i < CHUNKS; ++i) {
        const kvw_dtype dtype = i % 3 != 0 ? KVW_DTYPE_BF16 : KVW_DTYPE_F16;
        const uint32_t channels = 1 + t_below(&random, i % 100 == 0 ? 400 : 80);
        const uint32_t tokens = 1 + t_below(&random, i % 100 == 0 ? 90 : 8);
        const struct kvw_codec_args args = {.kv = i & 1};
        const struct kvw_view from = view_of(values, dtype, tokens, channels);
        uint64_t bytes[2], sent[2], got[2], at;
        kvw_err err[2];
        unsigned char flip;

        fill(&random, i % FILLS, dtype, tokens, channels);
        at = t_random(&random);
        flip = i % 2 == 0 ? 0 : (unsigned char)(1u << t_below(&random, 8));
        for (uint32_t l = 0; l < 3; ++l) {
            const struct kvc_kernels *k = kvc_kernels_named(levels[l]);
            const uint32_t me = l > 0;
            const struct kvw_view to = view_of(decoded[me], dtype, tokens, channels);

            if (k == NULL)
                continue;
            kvc_kernels_force(k);
            bytes[me] = encode(codecs[i / 2 % 2], &from, &args, stream[me], &sent[me]);
            if (l > 0)
                cr_assert(bytes[1] == bytes[0] && sent[1] == sent[0] &&
                              memcmp(stream[0], stream[1], bytes[0]) == 0,
                          "%s writes other bytes, chunk %u", levels[l], i);
            stream[me][at % bytes[me]] ^= flip;
            err[me] = decode(&to, stream[me], bytes[me], &got[me]);
            cr_assert(flip != 0 || (err[me] == KVW_OK && got[me] == sent[me]));
            cr_assert(l == 0 || (err[1] == err[0] && got[1] == got[0]), "%s, chunk %u", levels[l],
                      i);
            stream[me][at % bytes[me]] ^= flip;
        }
    }
    kvc_kernels_force(NULL);
}

/* Streams are pinned: what one release has written, the next one reads. Values are made of integers
 * alone, the same with every compiler and library. */
Test(e, streams_are_pinned)
{
    static const struct {
        kvw_dtype dtype;
        uint32_t tokens, channels, first, last;
        uint64_t digest[2]; /* e8, e4 */
    } shapes[] = {
        {KVW_DTYPE_BF16, 100, 192, 4, 1, {0x51b57ee537a49fb0, 0xde844737b7982470}},
        {KVW_DTYPE_BF16, 300, 64, 0, 0, {0x12cbd8905bcd818d, 0xa12f2e5f2091b94c}},
        {KVW_DTYPE_F16, 50, 330, 26, 3, {0xef42b5e9aa8c77fe, 0x07eec1313dddc2c4}},
        {KVW_DTYPE_F16, 40, 77, 1, 0, {0x525f01eb195a8500, 0xc03fb3210da79e7c}},
    };
    uint64_t random = 16;

    for (uint32_t i = 0; i < 2 * sizeof(shapes) / sizeof(shapes[0]); ++i) {
        const uint32_t tokens = shapes[i / 2].tokens, channels = shapes[i / 2].channels;
        const kvw_dtype dtype = shapes[i / 2].dtype;
        const struct kvw_codec_args args = {
            .kv = i / 2 % 2, .exact_first = shapes[i / 2].first, .exact_last = shapes[i / 2].last};
        struct kvw_digest d;
        uint64_t bytes;

        for (uint32_t v = 0; v < tokens * channels && i % 2 == 0; ++v) {
            const uint64_t r = t_random(&random);
            const uint32_t e = (dtype == KVW_DTYPE_F16 ? 15u : 127u) + v % channels % 3 -
                               (uint32_t)__builtin_ctzll(r | 1ull << 12);

            values[v] =
                (uint16_t)(r >> 63 << 15 | (dtype == KVW_DTYPE_F16 ? e << 10 | (r >> 41 & 0x3ff)
                                                                   : e << 7 | (r >> 41 & 0x7f)));
            if (v >= channels && v % channels % 4 == 1 && (r >> 20) % 4 != 0)
                values[v] = values[v - channels]; /* so that K is foretold */
            if (t_below(&random, 300) == 0)
                values[v] = (uint16_t)t_random(&random);
        }
        bytes = check(codecs[i % 2], dtype, tokens, channels, &args);
        cr_expect_eq(stream[0][0], 1);
        cr_assert_eq(kvw_digest_begin(&d, KVW_DIGEST_XXH3_64), KVW_OK);
        kvw_digest_update(&d, stream[0], bytes);
        cr_expect_eq(kvw_digest_value(&d), shapes[i / 2].digest[i % 2], "shape %u: 0x%016lx", i,
                     kvw_digest_value(&d));
    }
}

/* Every level says the same of a stream of the chunk that decodes to `want`, with one bit flipped;
 * and none takes it for that chunk. */
static void judge(const struct kvw_view *to, uint64_t bytes, const uint16_t *want, uint64_t bit)
{
    const uint64_t raw = kvw_view_bytes(to);
    uint64_t first_digest = 0;
    kvw_err first = KVW_OK;

    stream[0][bit / 8] ^= (unsigned char)(1u << bit % 8);
    for (uint32_t l = 0; l < 3; ++l) { /* scalar, which every CPU has, first */
        uint64_t digest;
        kvw_err err;

        if (kvc_kernels_named(levels[l]) == NULL)
            continue;
        kvc_kernels_force(kvc_kernels_named(levels[l]));
        err = decode(to, stream[0], bytes, &digest);
        first = l == 0 ? err : first;
        first_digest = l == 0 ? digest : first_digest;
        cr_assert(err == first && digest == first_digest, "%s: byte %lu", levels[l], bit / 8);
        cr_assert(err != KVW_OK || memcmp(want, to->base, raw) != 0,
                  "%s: byte %lu, bit %lu: a second stream of the same values", levels[l], bit / 8,
                  bit % 8);
    }
    kvc_kernels_force(NULL);
    stream[0][bit / 8] ^= (unsigned char)(1u << bit % 8);
}

/* Header, tables, what pads them, low bits, planes, counts: no chunk has two streams a
 * bit apart. */
Test(e, every_bit_counts, .timeout = 600)
{
    static uint16_t want[VALUES_MAX];
    uint64_t random = 11, digest;

    for (uint32_t i = 0; i < 8; ++i) {
        const kvw_dtype dtype = i % 2 == 0 ? KVW_DTYPE_BF16 : KVW_DTYPE_F16;
        const struct kvw_codec_args args = {.kv = i / 2 % 2, .exact_first = 1, .exact_last = 2};
        const struct kvw_codec_args all = {.exact_first = 40};
        const struct kvw_view from = view_of(values, dtype, 40, 27);
        const struct kvw_view to = view_of(decoded[0], dtype, 40, 27);
        uint64_t bytes;

        for (uint32_t v = 0; v < 40 * 27; ++v)
            values[v] = from_float(dtype, normal(&random) * (float)(2 + v % 27 % 2));
        for (uint32_t c = 0; c < 40; c += 7)
            values[c * 27 + 5] = dtype == KVW_DTYPE_BF16 ? 0x7f80 : 0x7c00; /* exact, by bits */
        bytes = encode(codecs[i / 4], &from, &args, stream[0], &digest);
        cr_assert_eq(stream[0][0], 1, "coded");
        cr_assert_eq(stream[0][24], 2, "the format");
        cr_assert_eq(bytes % 16, 0, "the last block is padded too");
        cr_assert_eq(decode(&to, stream[0], bytes, &digest), KVW_OK);
        memcpy(want, decoded[0], kvw_view_bytes(&to));
        for (uint64_t bit = 0; bit < bytes * 8; ++bit)
            judge(&to, bytes, want, bit);
        bytes = encode(codecs[i / 4], &from, &all, stream[0], &digest);
        cr_assert_eq(stream[0][0], 0, "stored");
        cr_assert_eq(decode(&to, stream[0], bytes, &digest), KVW_OK);
        memcpy(want, decoded[0], kvw_view_bytes(&to));
        for (uint64_t bit = 0; bit < 34 * 8; ++bit)
            judge(&to, bytes, want, bit);
    }
}

/* Blocks are the chunk's units, counted from its token 0, whatever is exact at either end. */
Test(e, blocks_are_units)
{
    static const struct {
        uint32_t tokens, first, last, blocks;
    } shapes[] = {{258, 4, 0, 3},   {258, 4, 2, 2},   {258, 4, 1, 3},   {258, 127, 0, 3},
                  {258, 128, 0, 2}, {258, 130, 0, 2}, {258, 130, 3, 1}, {128, 0, 0, 1}};
    uint64_t random = 12, digest;

    for (uint32_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); ++i) {
        const struct kvw_codec_args args = {.exact_first = shapes[i].first,
                                            .exact_last = shapes[i].last};
        const struct kvw_view from = view_of(values, KVW_DTYPE_BF16, shapes[i].tokens, 64);
        uint32_t begin = 32 + 128 + 64 + (8 * shapes[i].blocks + 15) / 16 * 16;

        fill(&random, NORMAL, KVW_DTYPE_BF16, shapes[i].tokens, 64);
        check(&kvc_codec_e8, KVW_DTYPE_BF16, shapes[i].tokens, 64, &args);
        encode(&kvc_codec_e8, &from, &args, stream[0], &digest);
        cr_assert_eq(stream[0][0], 1);
        cr_expect_eq(kvw_load_le32(stream[0] + 20), shapes[i].blocks, "shape %u", i);
        begin += (shapes[i].first + shapes[i].last) * 128;
        cr_expect_eq(begin % 16, 0);
    }
}

/* SPEC.md 5.3: squares are added in 64 lanes, then by halves. Sums that round otherwise in any
 * other order give another step: noise is chosen so that it lies just below 1 then. */
Test(e, energy_is_a_tree)
{
    static float sum[8192], square[8192];
    struct kvc_e_plan p = {0};
    void *memory = aligned_alloc(64, kvc_e_plan_bytes(8192));
    const struct {
        uint32_t channels, every;
        double energy;
    } shapes[] = {
        {64, 1, 0x1p24 + 62},         /* 1 is lost beside 2^24, 2 isn't */
        {8192, 1, 0x1p24 + 63 * 128}, /* lane 0 loses its own 127 */
        {8192, 64, 0x1p24},           /* which is all that there is */
    };

    for (uint32_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); ++i) {
        const struct kvc_e_sums s = {.sum = sum, .square = square, .cross = sum, .tokens = 1};
        const double rms = sqrt(shapes[i].energy / shapes[i].channels);

        memset(square, 0, sizeof(square));
        for (uint32_t c = 0; c < shapes[i].channels; c += shapes[i].every)
            square[c] = 1;
        square[0] = 0x1p24f;
        kvc_e_plan_place(&p, shapes[i].channels, memory);
        cr_assert(kvc_e_calibrate(&p, &s, (float)(1 / rms * (1 + 4e-7))));
        cr_expect_eq(p.step, 1.0f, "shape %u: %a", i, (double)p.step);
        kvc_e_plan_place(&p, shapes[i].channels, memory);
        cr_assert(kvc_e_calibrate(&p, &s, (float)(1 / rms * (1 - 4e-7))));
        cr_expect_lt(p.step, 1.0f, "shape %u: %a", i, (double)p.step);
    }
    free(memory);
}

Test(e, refuses_what_is_not_its_chunk)
{
    const struct kvw_codec_book book = {.id = 1};
    const struct kvw_codec_args args = {.exact_first = 2, .exact_last = 3};
    const struct kvw_view v = view_of(values, KVW_DTYPE_BF16, 60, 64);
    struct kvw_view other;
    uint64_t random = 9, digest, bytes;
    void *scratch = scratch_for(&v);
    struct kvw_digest d;

    fill(&random, BIASED, KVW_DTYPE_BF16, 60, 64);
    bytes = encode(&kvc_codec_e4, &v, &args, stream[0], &digest);
    cr_assert_eq(stream[0][0], 1, "coded");
    for (uint64_t cut = 0; cut < bytes; cut += cut < 300 ? 1 : 53)
        cr_assert_eq(decode(&v, stream[0], cut, &digest), KVW_E_CODEC, "cut at %lu", cut);
    cr_expect_eq(decode(&v, stream[0], bytes + 1, &digest), KVW_E_CODEC);
    other = view_of(decoded[0], KVW_DTYPE_F16, 60, 64);
    cr_expect_eq(decode(&other, stream[0], bytes, &digest), KVW_E_CODEC);
    other = view_of(decoded[0], KVW_DTYPE_BF16, 61, 64);
    cr_expect_eq(decode(&other, stream[0], bytes, &digest), KVW_E_CODEC);
    other = view_of(decoded[0], KVW_DTYPE_BF16, 120, 32);
    cr_expect_eq(decode(&other, stream[0], bytes, &digest), KVW_E_CODEC);
    for (int base = -2049; base <= 2049; ++base) { /* of channel 0 */
        const uint16_t was = kvw_load_le16(stream[0] + 32);

        kvw_store_le16(stream[0] + 32, (uint16_t)base);
        cr_expect_eq(decode(&v, stream[0], bytes, &digest),
                     base < -2047 || base > 2047 ? KVW_E_CODEC : KVW_OK, "base %d", base);
        kvw_store_le16(stream[0] + 32, was);
        base += base > -2040 && base < 2040 ? 99 : 0;
    }
    cr_assert_eq(kvw_digest_begin(&d, KVW_DIGEST_XXH3_64), KVW_OK);
    cr_expect_eq(kvc_codec_e8.decode(stream[0], bytes, &book, &v, &d, scratch), KVW_E_CODEC);
    free(scratch);
}
