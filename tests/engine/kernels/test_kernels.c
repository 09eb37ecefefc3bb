/* SPDX-License-Identifier: Apache-2.0 */
/* Each kernel of each level that this CPU has does what its sentence in kernels.h says, measured
 * against sums in double; a row's product doesn't depend on the rows beside it. */
#include <criterion/criterion.h>

#include "../../../engine/kernels/half.h"
#include "../../../engine/kernels/kernels.h"
#include "block_values.h"

static const char *const levels[] = {"scalar", "avx2", "avx512"};
#define LEVELS (sizeof(levels) / sizeof(levels[0]))

static float random_float(uint32_t *state)
{
    return (float)(bv_random(state) % 20001) / 10000 - 1;
}

static void check_matvec(const struct kve_kernels *k, kve_type type, uint32_t cols, uint32_t *state)
{
    enum { ROWS = 7, FIRST = 2 };
    const struct kve_type_info *t = kve_type_info(type);
    const uint64_t row_bytes = (uint64_t)cols / t->block_values * t->block_bytes;
    uint8_t *at = malloc((ROWS + FIRST) * row_bytes + 1);
    const struct kve_matrix w = {at + 1, row_bytes, ROWS + FIRST, cols, type};
    float *x = malloc(cols * sizeof(*x)), y[ROWS], alone;

    bv_fill(type, at + 1, (size_t)(ROWS + FIRST) * cols, state);
    for (uint32_t i = 0; i < cols; ++i)
        x[i] = random_float(state);
    k->matvec(&w, FIRST, ROWS, x, y);
    for (uint32_t r = 0; r < ROWS; ++r) {
        double sum = 0, size = 0;

        for (uint32_t i = 0; i < cols; ++i) {
            const double p = bv_value(type, kve_matrix_row(&w, FIRST + r), i) * (double)x[i];
            sum += p;
            size += fabs(p);
        }
        cr_assert_leq(fabs((double)y[r] - sum), 1e-6 * size, "%s %s %u columns, row %u: %g, %g",
                      k->name, t->name, cols, r, (double)y[r], sum);
        k->matvec(&w, FIRST + r, 1, x, &alone);
        cr_assert_eq(memcmp(&alone, &y[r], sizeof(alone)), 0, "%s %s: row %u alone", k->name,
                     t->name, r);
    }
    free(x);
    free(at);
}

Test(kernels, matvec)
{
    static const uint32_t blocks[] = {1, 2, 3, 18, 48};
    uint32_t state = 3;

    for (size_t l = 0; l < LEVELS; ++l) {
        const struct kve_kernels *k = kve_kernels_named(levels[l]);

        for (size_t t = 0; k != NULL && t < BV_TYPES; ++t) {
            const uint32_t values = kve_type_info(bv_types[t])->block_values;

            for (size_t b = 0; b < sizeof(blocks) / sizeof(blocks[0]); ++b)
                check_matvec(k, bv_types[t], blocks[b] * (values == 1 ? 37 : values), &state);
        }
    }
}

/* Every number of vectors that is cut differently has the bits of one alone; y's rows lie apart. */
static void check_matvecs(const struct kve_kernels *k, kve_type type, uint32_t cols,
                          uint32_t *state)
{
    enum { ROWS = 7, FIRST = 2, VECTORS = 17, STRIDE = 11 };
    const struct kve_type_info *t = kve_type_info(type);
    const uint64_t row_bytes = (uint64_t)cols / t->block_values * t->block_bytes;
    uint8_t *at = malloc((ROWS + FIRST) * row_bytes + 1);
    const struct kve_matrix w = {at + 1, row_bytes, ROWS + FIRST, cols, type};
    float *x = malloc((size_t)VECTORS * cols * sizeof(*x)), alone[ROWS];

    bv_fill(type, at + 1, (size_t)(ROWS + FIRST) * cols, state);
    for (uint32_t i = 0; i < VECTORS * cols; ++i)
        x[i] = random_float(state);
    for (uint32_t n = 1; n <= VECTORS; ++n) {
        float y[VECTORS * STRIDE + 1];

        for (uint32_t i = 0; i <= n * STRIDE; ++i)
            y[i] = 77;
        k->matvecs(&(struct kve_product){&w, FIRST, ROWS, x, n, y, STRIDE});
        for (uint32_t v = 0; v < n; ++v) {
            k->matvec(&w, FIRST, ROWS, x + (size_t)v * cols, alone);
            cr_assert_eq(memcmp(alone, y + v * STRIDE, sizeof(alone)), 0, "%s %s: %u of %u",
                         k->name, t->name, v, n);
            for (uint32_t i = ROWS; i < STRIDE; ++i)
                cr_assert_eq(y[v * STRIDE + i], 77, "%s %s: past its rows", k->name, t->name);
        }
        cr_assert_eq(y[n * STRIDE], 77, "%s %s: past its vectors", k->name, t->name);
        if (n > 1) /* control: another vector's product is another one */
            cr_assert_neq(memcmp(alone, y, sizeof(alone)), 0, "%s %s: all the same", k->name,
                          t->name);
    }
    free(x);
    free(at);
}

Test(kernels, matvecs_have_the_bits_of_each_alone)
{
    static const uint32_t blocks[] = {1, 3, 18};
    uint32_t state = 8;

    for (size_t l = 0; l < LEVELS; ++l) {
        const struct kve_kernels *k = kve_kernels_named(levels[l]);

        for (size_t t = 0; k != NULL && t < BV_TYPES; ++t) {
            const uint32_t values = kve_type_info(bv_types[t])->block_values;

            for (size_t b = 0; b < sizeof(blocks) / sizeof(blocks[0]); ++b)
                check_matvecs(k, bv_types[t], blocks[b] * (values == 1 ? 37 : values), &state);
        }
    }
}

Test(kernels, rmsnorm_and_silu)
{
    float x[101], w[101], y[101], gate[101];
    uint32_t state = 4;

    for (size_t l = 0; l < LEVELS; ++l) {
        const struct kve_kernels *k = kve_kernels_named(levels[l]);

        for (uint32_t n = 1; k != NULL && n <= 101; n += 5) {
            double square = 0;

            for (uint32_t i = 0; i < n; ++i) {
                x[i] = random_float(&state) * 20;
                w[i] = random_float(&state);
                gate[i] = x[i];
                square += (double)x[i] * (double)x[i];
            }
            gate[0] = n % 2 != 0 ? 200 : -200; /* both ends of the exponential */
            const float gate0 = gate[0];
            k->rmsnorm(y, x, w, n, 1e-5f);
            k->silu_mul(gate, w, n);
            for (uint32_t i = 0; i < n; ++i) {
                const double norm = (double)x[i] / sqrt(square / n + 1e-5) * (double)w[i];
                const double g = (double)(i == 0 ? gate0 : x[i]);
                const double silu = g / (1 + exp(-g)) * (double)w[i];

                cr_assert_float_eq((double)y[i], norm, 1e-6 * (1 + fabs(norm)), "%s %u", k->name,
                                   n);
                cr_assert_float_eq((double)gate[i], silu, 1e-6 * (1 + fabs(silu)), "%s %u %u",
                                   k->name, n, i);
            }
        }
    }
}

Test(kernels, gelu)
{
    float up[101], gate[101], before[101];
    uint32_t state = 6;

    for (size_t l = 0; l < LEVELS; ++l) {
        const struct kve_kernels *k = kve_kernels_named(levels[l]);

        for (uint32_t n = 1; k != NULL && n <= 101; n += 5) {
            for (uint32_t i = 0; i < n; ++i) {
                gate[i] = before[i] = i == 0 ? (n % 2 != 0 ? 200 : -200) : random_float(&state) * 6;
                up[i] = random_float(&state);
            }
            k->gelu_mul(gate, up, n);
            for (uint32_t i = 0; i < n; ++i) {
                const double g = (double)before[i];
                const double u = sqrt(2 / M_PI) * (g + 0.044715 * g * g * g);
                const double want = g / 2 * (1 + tanh(u)) * (double)up[i];

                cr_assert_float_eq((double)gate[i], want, 1e-6 * (1 + fabs(want)), "%s %u %u",
                                   k->name, n, i);
            }
        }
    }
}

/* To nearest even, from the definition: of the two neighbours the nearer, on a tie the even one. */
static uint16_t nearest_bf16(float f)
{
    const uint16_t below = (uint16_t)(kve_bits_of_float(f) >> 16), above = (uint16_t)(below + 1);
    const double low = fabs((double)kve_bf16_to_f32(below));
    const double high = (above & 0x7fff) == 0x7f80 ? 0x1p128 : fabs((double)kve_bf16_to_f32(above));
    const double v = fabs((double)f);

    if (v - low == high - v)
        return below % 2 == 0 ? below : above;
    return v - low < high - v ? below : above;
}

Test(kernels, bf16)
{
    enum { N = 65536 };
    static float from[N], back[N];
    static uint16_t to[N];
    uint32_t state = 5;

    for (size_t l = 0; l < LEVELS; ++l) {
        const struct kve_kernels *k = kve_kernels_named(levels[l]);

        if (k == NULL)
            continue;
        for (uint32_t i = 0; i < N; ++i)
            to[i] = (uint16_t)i;
        k->from_bf16(from, to, N);
        k->to_bf16(to, from, N);
        for (uint32_t i = 0; i < N; ++i) { /* every pattern is its own nearest; NaNs stay NaNs */
            const bool nan = (i & 0x7fff) > 0x7f80;
            cr_assert_eq(to[i], nan ? (i | 0x40) : i, "%s 0x%04x: 0x%04x", k->name, i, to[i]);
        }
        for (uint32_t i = 0; i < N; ++i) {
            const uint32_t low = i % 3 == 0   ? 0x8000
                                 : i % 3 == 1 ? 0x7fff
                                              : bv_random(&state) & 0xffff;
            from[i] = kve_float_of_bits(((bv_random(&state) << 16) & 0xff7f0000u) | low);
        }
        k->to_bf16(to, from, N);
        k->from_bf16(back, to, 13); /* a length that is no multiple of a vector */
        for (uint32_t i = 0; i < N; ++i)
            cr_assert_eq(to[i], nearest_bf16(from[i]), "%s %a: 0x%04x", k->name, (double)from[i],
                         to[i]);
        for (uint32_t i = 0; i < 13; ++i)
            cr_assert_eq(back[i], kve_bf16_to_f32(to[i]));
        for (uint32_t n = 1; n < 200; ++n) { /* what is left over after whole vectors */
            memset(to, 0, sizeof(to));
            k->to_bf16(to, from + n, n);
            for (uint32_t i = 0; i < n; ++i)
                cr_assert_eq(to[i], nearest_bf16(from[n + i]), "%s, %u of %u", k->name, i, n);
            cr_assert_eq(to[n], 0, "%s wrote past %u", k->name, n);
        }
    }
}

Test(kernels, softmax_in_parts_is_softmax)
{
    enum { N = 150 };
    uint32_t state = 6;

    for (size_t l = 0; l < LEVELS; ++l) {
        const struct kve_kernels *k = kve_kernels_named(levels[l]);
        float s[N], max = -INFINITY, sum = 0, out = 0;
        double want = 0, whole = 0;

        if (k == NULL)
            continue;
        for (uint32_t i = 0; i < N; ++i) {
            s[i] = random_float(&state) * (i < 60 ? 3 : 30); /* the largest comes late */
            if (i < 140) {                                   /* the last ten are masked */
                want += exp((double)s[i]) * i;
                whole += exp((double)s[i]);
            }
        }
        for (uint32_t first = 0; first < N; first += 50) {
            const uint32_t valid = first == 100 ? 40 : 50;
            const float keep = k->softmax_part(s + first, 50, valid, &max, &sum);

            out *= keep;
            for (uint32_t i = first; i < first + 50; ++i)
                out += s[i] * (float)i;
        }
        cr_assert_float_eq((double)(out / sum), want / whole, 1e-4, "%s", k->name);
        for (uint32_t i = 140; i < N; ++i)
            cr_assert_eq(s[i], 0.0f);
        cr_assert_eq(k->softmax_part(s, 50, 0, &max, &sum), 1.0f, "%s: nothing to see", k->name);
    }
}

struct attend_case {
    uint32_t dim, group, first, last;
    bool f32;
};

/* Value d of the row of position p. */
static double row_value(const struct kve_attend *a, const unsigned char *base, uint32_t p,
                        uint32_t d)
{
    const unsigned char *at = base + a->blocks[p / a->block_tokens] * a->block_stride +
                              p % a->block_tokens * a->token_stride;

    return bv_value(a->f32 ? KVE_TYPE_F32 : KVE_TYPE_BF16, at, d);
}

/* Head g of what a kernel left against sums in double. */
static void check_head(const char *level, const struct kve_attend *a, uint32_t g)
{
    const uint32_t n = a->last - a->first;
    double score[96], best = -INFINITY, whole = 0;

    for (uint32_t i = 0; i < n; ++i) {
        score[i] = 0;
        for (uint32_t d = 0; d < a->head_dim; ++d)
            score[i] += (double)a->q[g * a->head_dim + d] * row_value(a, a->k, a->first + i, d);
        best = fmax(best, score[i]);
    }
    for (uint32_t i = 0; i < n; ++i)
        whole += exp(score[i] - best);
    cr_assert_float_eq((double)a->max[g], best, 1e-4, "%s max", level);
    cr_assert_float_eq((double)a->sum[g], whole, 1e-4 * whole, "%s sum", level);
    for (uint32_t d = 0; d < a->head_dim; ++d) {
        const double got = (double)a->out[g * a->head_dim + d];
        double want = 0;

        for (uint32_t i = 0; i < n; ++i)
            want += exp(score[i] - best) * row_value(a, a->v, a->first + i, d);
        cr_assert_float_eq(got, want, 1e-4 * whole, "%s dim %u group %u head %u [%u]: %g, %g",
                           level, a->head_dim, a->group, g, d, got, want);
    }
}

static void check_attend(const struct kve_kernels *k, const struct attend_case *c)
{
    enum { BLOCK = 4, BLOCKS = 24, HEADS = 2 };
    const uint32_t width = c->f32 ? 4 : 2;
    const uint64_t token = (uint64_t)HEADS * c->dim * width, block = 2 * BLOCK * token;
    unsigned char *pool = calloc(BLOCKS, block);
    uint32_t table[BLOCKS], state = c->dim + c->group;
    float q[8 * 128], scores[8 * 96], row[128], max[8], sum[8], out[8 * 128];

    for (uint32_t i = 0; i < BLOCKS; ++i)
        table[i] = (i * 7 + 3) % BLOCKS;
    for (uint64_t i = 0; i < BLOCKS * block / width; ++i) {
        const float f = random_float(&state) * 4;
        const uint16_t h = kve_f32_to_bf16(f);
        memcpy(pool + i * width, c->f32 ? (const void *)&f : (const void *)&h, width);
    }
    for (uint32_t i = 0; i < c->group * c->dim; ++i)
        q[i] = random_float(&state);

    const struct kve_attend a = {.k = pool + c->dim * width, /* the second head */
                                 .v = pool + BLOCK * token + c->dim * width,
                                 .blocks = table,
                                 .block_stride = block,
                                 .token_stride = token,
                                 .block_tokens = BLOCK,
                                 .first = c->first,
                                 .last = c->last,
                                 .f32 = c->f32,
                                 .fetch_bytes = (uint32_t)token,
                                 .fetch_ahead = 8 * (uint32_t)token,
                                 .head_dim = c->dim,
                                 .group = c->group,
                                 .q = q,
                                 .scores = scores,
                                 .row = row,
                                 .max = max,
                                 .sum = sum,
                                 .out = out};
    k->attend(&a);
    for (uint32_t g = 0; g < c->group; ++g)
        check_head(k->name, &a, g);
    free(pool);
}

Test(kernels, attend)
{
    static const struct attend_case cases[] = {
        {64, 3, 0, 64, false},  {64, 1, 5, 6, false}, {64, 4, 64, 90, false}, {64, 8, 1, 66, false},
        {128, 5, 3, 60, false}, {8, 2, 0, 33, false}, {80, 3, 7, 50, false},  {20, 1, 0, 1, false},
        {64, 3, 10, 74, true},  {24, 2, 2, 31, true},
    };

    for (size_t l = 0; l < LEVELS; ++l) {
        const struct kve_kernels *k = kve_kernels_named(levels[l]);

        for (size_t i = 0; k != NULL && i < sizeof(cases) / sizeof(cases[0]); ++i)
            check_attend(k, &cases[i]);
    }
}

Test(kernels, a_level_can_be_forced)
{
    setenv("KVE_CPU", "scalar", 1);
    cr_assert_eq(kve_kernels(), &kve_kernels_scalar);
    setenv("KVE_CPU", "avx512", 1);
    cr_assert_eq(kve_kernels(), &kve_kernels_scalar, "chosen once");
    cr_assert_null(kve_kernels_named("sse9"));
}

Test(kernels, an_unknown_level_means_the_best)
{
    setenv("KVE_CPU", "abacus", 1);
    cr_assert_not_null(kve_kernels());
}
