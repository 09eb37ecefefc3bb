/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vec.h - vectors of KVE_VL floats, in the compilers' own vector types, so that one text serves
 * every CPU. KVE_VL is set by the file that includes it (kernels_*.c).
 */
#ifndef KVE_VEC_H
#define KVE_VEC_H

#include <stdint.h>
#include <string.h>

#if KVE_VL > 4
#include <immintrin.h>
#endif

typedef float vf __attribute__((vector_size(4 * KVE_VL)));
typedef int32_t vi __attribute__((vector_size(4 * KVE_VL)));
typedef uint32_t vu __attribute__((vector_size(4 * KVE_VL)));
typedef uint16_t vh __attribute__((vector_size(2 * KVE_VL)));

static inline vf vf_load(const float *p)
{
    vf v;

    memcpy(&v, p, sizeof(v));
    return v;
}

static inline void vf_store(float *p, vf v)
{
    memcpy(p, &v, sizeof(v));
}

static inline vf vf_all(float f)
{
    return (vf){0} + f;
}

/* a where mask is all ones, b where it is 0 */
static inline vf vf_select(vi mask, vf a, vf b)
{
    return (vf)(((vi)a & mask) | ((vi)b & ~mask));
}

static inline vf vf_max(vf a, vf b)
{
    return vf_select(a > b, a, b);
}

static inline vf vf_min(vf a, vf b)
{
    return vf_select(a < b, a, b);
}

/* Halves onto halves. */
static inline float vf_sum(vf v)
{
#if KVE_VL == 16
    const __m512 whole = (__m512)v;
    const __m256 eight =
        _mm256_add_ps(_mm512_castps512_ps256(whole), _mm512_extractf32x8_ps(whole, 1));
#elif KVE_VL == 8
    const __m256 eight = (__m256)v;
#endif
#if KVE_VL > 4
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));

    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
    return (v[0] + v[2]) + (v[1] + v[3]);
#endif
}

static inline vf vf_load_bf16(const uint16_t *p)
{
    vh h;

    memcpy(&h, p, sizeof(h));
    return (vf)(__builtin_convertvector(h, vu) << 16);
}

/* As kve_f32_to_bf16(). */
static inline void vf_store_bf16(uint16_t *p, vf v)
{
    const vu bits = (vu)v;
    const vu near = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const vu nan = (vu)((bits & 0x7fffffffu) > 0x7f800000u);
    const vh h = __builtin_convertvector((near & ~nan) | (((bits >> 16) | 0x40u) & nan), vh);

    memcpy(p, &h, sizeof(h));
}

/*
 * e^x within 2 ulp for x <= 88; below -87 it is 0, so that masked scores weigh nothing.
 * x = n ln 2 + r with |r| <= ln 2 / 2; e^r by its Taylor series to r^7; 2^n by the exponent bits.
 */
static inline vf vf_exp(vf x)
{
    const vf round = vf_all(12582912.0f); /* 1.5 * 2^23: adding it leaves a whole number */
    const vf clamped = vf_min(vf_max(x, vf_all(-87.0f)), vf_all(88.0f));
    const vf n = (clamped * 1.44269504088896341f + round) - round;
    const vf r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
    vf p = r * (1.0f / 5040) + 1.0f / 720;

    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const vf scale = (vf)((__builtin_convertvector(n, vi) + 127) << 23);

    return vf_select(x < -87.0f, vf_all(0.0f), p * scale);
}

#endif
