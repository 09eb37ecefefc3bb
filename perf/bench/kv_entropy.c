/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kv_entropy - what real K and V hold, and what L0 makes of them: the table that decides which
 * lossless codec is worth building.
 *
 *   kv_entropy FILE.kv [FILE.kv ..]
 *
 * Bits per value, means over the layers, as a Markdown table on stdout; then a line for
 * perf/run.sh, RESULT (L0's bits / the per-channel ceiling, worst file, %)
 *
 * exp           entropy of the exponent, one distribution for each layer's K or V; 8 bits of sign
 *               and mantissa come on top
 * exp|ch        one for each channel: with 8 bits the ceiling that L0 is held against
 * sign,exp|ch   the same with the sign, less its bit
 * ordered|ch    the value as an order-preserving integer less the channel's median: entropy of its
 *               bit width and the bits themselves, less 8
 * delta|ch      the same less the value of the token before
 * L0            what the codec takes, columns and all, in calls of all the tokens, less 8
 * L0 book       the same with a book made of all the other files
 * Entropies are of the sample itself, 1,024 tokens, so some hundredths of a bit too low.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../compress/columns.h"
#include "../../compress/compress.h"
#include "kv_file.h"

enum column { GLOBAL, CHANNEL, SIGN, ORDERED, DELTA, L0, BOOK, COLUMNS };

#define FILES_MAX    32
#define CHANNELS_MAX 4096
#define TOKENS_MAX   8192

static double entropy(const uint32_t *count, uint32_t symbols, double n)
{
    double h = 0;

    for (uint32_t i = 0; i < symbols; ++i)
        if (count[i] > 0)
            h -= count[i] / n * log2(count[i] / n);
    return h;
}

static int ordered(uint16_t v)
{
    return v & 0x8000 ? -(int)(v & 0x7fff) - 1 : v & 0x7fff;
}

static int by_value(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

static uint32_t width(int d)
{
    uint32_t w = 0;

    for (uint32_t m = (uint32_t)abs(d); m > 0; m >>= 1)
        ++w;
    return w; /* that many bits say sign and what is below the highest */
}

static void add_channel(const uint16_t *v, uint32_t tokens, uint32_t channels, double *sum)
{
    static int sorted[TOKENS_MAX];
    uint32_t e[256] = {0}, se[512] = {0}, wide[32] = {0}, step[32] = {0};
    double raw = 0, raw_step = 0;

    for (uint32_t t = 0; t < tokens; ++t) {
        const uint16_t x = v[(size_t)t * channels];

        ++e[x >> 7 & 255];
        ++se[x >> 7];
        sorted[t] = ordered(x);
    }
    qsort(sorted, tokens, sizeof(sorted[0]), by_value);
    for (uint32_t t = 0; t < tokens; ++t) {
        const int x = ordered(v[(size_t)t * channels]);
        const uint32_t w = width(x - sorted[tokens / 2]);
        const uint32_t s = width(t > 0 ? x - ordered(v[(size_t)(t - 1) * channels]) : x);

        ++wide[w];
        ++step[s];
        raw += w;
        raw_step += s;
    }
    sum[CHANNEL] += entropy(e, 256, tokens) / channels;
    sum[SIGN] += (entropy(se, 512, tokens) - 1) / channels;
    sum[ORDERED] += (entropy(wide, 32, tokens) + raw / tokens - 8) / channels;
    sum[DELTA] += (entropy(step, 32, tokens) + raw_step / tokens - 8) / channels;
}

static double coded(const uint16_t *values, const struct kvp_kv *kv,
                    const struct kvw_codec_book *book)
{
    static const uint32_t block = 0;
    const uint32_t row = kv->channels * 2;
    const struct kvw_view v = {.base = (unsigned char *)(uintptr_t)values, /* only read */
                               .blocks = &block,
                               .block_tokens = kv->head.tokens,
                               .tokens = kv->head.tokens,
                               .heads = kv->head.kv_heads,
                               .head_bytes = kv->head.head_dim * 2,
                               .dtype = KVW_DTYPE_BF16,
                               .token_stride = row,
                               .head_stride = kv->head.head_dim * 2};
    const struct kvw_codec_args args = {.book = book};
    const uint64_t raw = kvw_view_bytes(&v), room = kvc_codec_l0.bound(raw);
    void *scratch = aligned_alloc(64, (kvc_codec_l0.scratch_bytes(raw) + 63) / 64 * 64);
    unsigned char *stream = malloc(room);
    struct kvw_digest d;
    uint64_t bytes = 0;

    if (scratch == NULL || stream == NULL ||
        kvw_digest_begin_chunk(&d, KVW_DIGEST_LANES, &v) != KVW_OK ||
        kvc_codec_l0.encode(&v, &args, stream, room, &bytes, &d, scratch) != KVW_OK)
        exit(1);
    free(stream);
    free(scratch);
    return 16.0 * (double)bytes / (double)raw - 8;
}

/* The book of all files but one: for each channel what costs least over their exponents. */
static void make_book(const struct kvp_kv *files, int count, int but, uint32_t layer,
                      uint32_t which, unsigned char *book)
{
    const uint32_t channels = files[0].channels;
    const uint8_t *code = kvc_exponent_codes.code;

    book[0] = 80; /* starts 81 .. 143, exponents of 1e-14 to 1e9: what K and V have */
    for (uint32_t c = 0; c < channels; ++c) {
        uint32_t hist[256] = {0};
        double best = INFINITY;

        for (int f = 0; f < count; ++f)
            for (uint32_t t = 0; f != but && t < files[f].head.tokens; ++t)
                ++hist[kvp_kv_at(&files[f], layer, which)[(size_t)t * channels + c] >> 7 & 255];
        for (uint32_t class = 0; class < KVC_CLASSES; ++class)
            for (uint32_t place = 1; place < 64; ++place) {
                double cost = 0;

                for (uint32_t e = 0; e < 256; ++e) {
                    const uint8_t at = (uint8_t)(e - 80 - place);
                    const uint8_t x = at < 16 ? code[class * 16 + at] : 0xff;
                    const uint32_t first = 2, on = 3;

                    cost += hist[e] * (double)((x & on) != on      ? first
                                               : (x & 4) == 0      ? first + 1
                                               : (x >> 3 & 3) != 3 ? first + 3
                                               : (x >> 5 & 3) != 3 ? first + 5
                                                                   : first + 13);
                }
                if (cost < best) {
                    best = cost;
                    book[1 + c] = (unsigned char)(class << KVC_CLASS_SHIFT | place);
                }
            }
    }
}

static void add_layer(const struct kvp_kv *files, int count, int f, uint32_t layer, uint32_t which,
                      double *sum)
{
    static unsigned char bytes[1 + CHANNELS_MAX];
    const struct kvp_kv *kv = &files[f];
    const uint16_t *v = kvp_kv_at(kv, layer, which);
    const struct kvw_codec_book book = {7, bytes, 1 + kv->channels};
    uint32_t all[256] = {0};
    const uint32_t n = kv->head.tokens * kv->channels;

    for (uint32_t i = 0; i < n; ++i)
        ++all[v[i] >> 7 & 255];
    sum[GLOBAL] += entropy(all, 256, n);
    for (uint32_t c = 0; c < kv->channels; ++c)
        add_channel(v + c, kv->head.tokens, kv->channels, sum);
    sum[L0] += coded(v, kv, NULL);
    make_book(files, count, f, layer, which, bytes);
    sum[BOOK] += coded(v, kv, &book);
}

int main(int argc, char **argv)
{
    static struct kvp_kv files[FILES_MAX];
    double worst = 0, worst_book = 0;

    if (argc < 2 || argc > FILES_MAX + 1)
        return fprintf(stderr, "usage: kv_entropy FILE.kv ..\n"), 2;
    for (int f = 0; f + 1 < argc; ++f)
        if (!kvp_kv_open(&files[f], argv[f + 1]) || files[f].channels > CHANNELS_MAX ||
            files[f].head.tokens > TOKENS_MAX || files[f].channels != files[0].channels)
            return fprintf(stderr, "kv_entropy: %s: not a .kv file, or of another shape\n",
                           argv[f + 1]),
                   1;
    printf("| text | | exp | exp\\|ch | sign,exp\\|ch | ordered\\|ch | delta\\|ch | L0 | L0 book | "
           "ceiling ratio | "
           "L0 ratio | L0 over | book over "
           "|\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n");
    for (int f = 0; f + 1 < argc; ++f) {
        const char *name = strrchr(argv[f + 1], '/');
        double both[COLUMNS] = {0};

        name = name != NULL ? name + 1 : argv[f + 1];
        for (uint32_t which = 0; which < 3; ++which) {
            double sum[COLUMNS] = {0};

            for (uint32_t l = 0; which < 2 && l < files[f].head.layers; ++l)
                add_layer(files, argc - 1, f, l, which, sum);
            printf("| %.*s | %s |", (int)strcspn(name, "."), name,
                   which == 0   ? "K"
                   : which == 1 ? "V"
                                : "both");
            for (int i = 0; i < COLUMNS; ++i) {
                sum[i] /= files[f].head.layers;
                both[i] += sum[i] / 2;
                sum[i] = which == 2 ? both[i] : sum[i];
                printf(" %.3f |", sum[i]);
            }
            printf(" %.3f | %.3f | %.2f %% | %.2f %% |\n", 16 / (8 + sum[CHANNEL]),
                   16 / (8 + sum[L0]), 100 * ((8 + sum[L0]) / (8 + sum[CHANNEL]) - 1),
                   100 * ((8 + sum[BOOK]) / (8 + sum[CHANNEL]) - 1));
            if (which == 2) {
                const double over = 100 * ((8 + sum[L0]) / (8 + sum[CHANNEL]) - 1);
                const double book = 100 * ((8 + sum[BOOK]) / (8 + sum[CHANNEL]) - 1);

                worst = over > worst ? over : worst;
                worst_book += book / (argc - 1);
            }
        }
    }
    printf("\nWorst text, calibrated in call: %.2f %% over the ceiling. Mean over the texts, books "
           "of the others: "
           "%.2f %%.\n",
           worst, worst_book);
    printf("RESULT %.3f 0\n", worst);
    return 0;
}
