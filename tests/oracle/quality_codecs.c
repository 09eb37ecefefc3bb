/* SPDX-License-Identifier: Apache-2.0 */
/*
 * quality_codecs.c - FP8 e4m3, int8, int4 in groups, Hadamard + int4 and KIVI's 4 bits, written
 * from their descriptions: the quality that our error-bounded codecs are held against.
 */
#include "quality_codecs.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#define KIVI_GROUP 32u
#define KIVI_EXACT 128u /* newest tokens that KIVI leaves in 16 bits */

uint16_t t_to_bf16(float v)
{
    uint32_t u;

    memcpy(&u, &v, sizeof(u));
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

float t_from_bf16(uint16_t b)
{
    const uint32_t u = (uint32_t)b << 16;
    float v;

    memcpy(&v, &u, sizeof(v));
    return v;
}

static size_t values(const struct t_tensor *t)
{
    return (size_t)t->tokens * t->heads * t->head_dim;
}

static float most_of(const float *x, size_t n)
{
    float most = 0;

    for (size_t i = 0; i < n; ++i)
        most = fmaxf(most, fabsf(x[i]));
    return most;
}

/* To e4m3 (3 bits of mantissa, exponent bias 7, largest 448) and back, to nearest even. */
static float through_e4m3(float v)
{
    int exp;

    if (v == 0)
        return v;
    frexpf(v, &exp); /* |v| in [2^(exp-1), 2^exp) */
    exp = exp - 1 < -6 ? -6 : exp - 1;
    v = ldexpf(nearbyintf(ldexpf(v, 3 - exp)), exp - 3);
    return v > 448 ? 448 : v < -448 ? -448 : v;
}

/* One scale for the tensor, so that its largest value becomes e4m3's largest. */
static double e4m3(const struct t_tensor *t)
{
    const size_t n = values(t);
    const float most = most_of(t->x, n), scale = most > 0 ? most / 448 : 1;

    for (size_t i = 0; i < n; ++i)
        t->x[i] = through_e4m3(t->x[i] / scale) * scale;
    return 8.0 * (double)n + 32;
}

/* Symmetric: values of a group to -limit .. limit steps of its largest; the scale kept in bf16. */
static void symmetric(float *x, size_t n, float limit)
{
    const float most = most_of(x, n), scale = t_from_bf16(t_to_bf16(most / limit));

    for (size_t i = 0; i < n && scale > 0; ++i)
        x[i] = fminf(fmaxf(nearbyintf(x[i] / scale), -limit), limit) * scale;
}

/* Asymmetric: the group's range in 2^bits - 1 steps; scale and least value kept in bf16. */
static void asymmetric(float *x, size_t n, size_t stride, float levels)
{
    float low = x[0], high = x[0], scale;

    for (size_t i = 1; i < n; ++i) {
        low = fminf(low, x[i * stride]);
        high = fmaxf(high, x[i * stride]);
    }
    low = t_from_bf16(t_to_bf16(low));
    scale = t_from_bf16(t_to_bf16((high - low) / levels));
    for (size_t i = 0; i < n; ++i) {
        const float q = scale > 0 ? nearbyintf((x[i * stride] - low) / scale) : 0;

        x[i * stride] = fminf(fmaxf(q, 0), levels) * scale + low;
    }
}

/* A scale for each token and head. */
static double int8(const struct t_tensor *t)
{
    for (size_t i = 0; i < (size_t)t->tokens * t->heads; ++i)
        symmetric(t->x + i * t->head_dim, t->head_dim, 127);
    return (double)values(t) * (8 + 16.0 / t->head_dim);
}

static double int4_g64(const struct t_tensor *t)
{
    const size_t n = values(t);

    for (size_t i = 0; i < n; i += 64)
        asymmetric(t->x + i, n - i < 64 ? n - i : 64, 1, 15);
    return (double)n * (4 + 32.0 / 64);
}

/* The orthonormal transform of n = 2^k values, its own inverse. */
static void hadamard(float *x, uint32_t n)
{
    for (uint32_t h = 1; h < n; h *= 2) {
        for (uint32_t i = 0; i < n; i += 2 * h) {
            for (uint32_t j = i; j < i + h; ++j) {
                const float a = x[j], b = x[j + h];

                x[j] = a + b;
                x[j + h] = a - b;
            }
        }
    }
    for (uint32_t i = 0; i < n; ++i)
        x[i] /= sqrtf((float)n);
}

/* Each head's vector turned, then 4 bits with one scale a head. */
static double hadamard_int4(const struct t_tensor *t)
{
    for (size_t i = 0; i < (size_t)t->tokens * t->heads; ++i) {
        float *x = t->x + i * t->head_dim;

        hadamard(x, t->head_dim);
        symmetric(x, t->head_dim, 7);
        hadamard(x, t->head_dim);
    }
    return (double)values(t) * (4 + 16.0 / t->head_dim);
}

/* K: each channel over 32 tokens; V: each token over 32 channels; the newest tokens stay. */
static double kivi4(const struct t_tensor *t)
{
    const uint32_t row = t->heads * t->head_dim;
    const uint32_t old = t->tokens > KIVI_EXACT ? t->tokens - KIVI_EXACT : 0;
    const uint32_t groups = old / KIVI_GROUP;

    for (uint32_t g = 0; g < groups; ++g) {
        float *x = t->x + (size_t)g * KIVI_GROUP * row;

        for (uint32_t i = 0; i < row; ++i) {
            if (!t->is_v)
                asymmetric(x + i, KIVI_GROUP, row, 15);
            else
                asymmetric(x + (size_t)i * KIVI_GROUP, KIVI_GROUP, 1, 15);
        }
    }
    return (double)row * (groups * KIVI_GROUP * (4 + 32.0 / KIVI_GROUP) +
                          (t->tokens - groups * KIVI_GROUP) * 16.0);
}

const struct t_peer t_peers[] = {
    {"fp8-e4m3", e4m3}, {"int8", int8}, {"int4-g64", int4_g64}, {"hadamard-int4", hadamard_int4},
    {"kivi-4", kivi4},  {NULL, NULL},
};
