/* SPDX-License-Identifier: Apache-2.0 */
/*
 * quant_body.h - the block formats of GGUF, one function a type, in plain C that a compiler turns
 * into the vectors it was told to use. Included by quant.c and by each kernels_*.c; everything is
 * static so that code for one CPU never leaks into another's file. Scales are little-endian fp16.
 */
#ifndef KVE_QUANT_BODY_H
#define KVE_QUANT_BODY_H

#include "half.h"
#include "quant.h"

#if defined(__F16C__)
#include <immintrin.h>
#define F16(bits) _cvtsh_ss(bits)
#else
#define F16(bits) kve_f16_to_f32(bits)
#endif

static inline uint16_t quant_u16(const uint8_t *p)
{
    uint16_t v;

    memcpy(&v, p, sizeof(v)); /* the tree is little-endian only, as GGUF is */
    return v;
}

static inline void quant_f16(const uint8_t *p, float *y, size_t n)
{
    size_t i = 0;

#if defined(__F16C__)
    for (; i + 8 <= n; i += 8) {
        const __m128i h = _mm_loadu_si128((const __m128i *)(const void *)(p + 2 * i));

        _mm256_storeu_ps(y + i, _mm256_cvtph_ps(h));
    }
#endif
    for (; i < n; ++i)
        y[i] = F16(quant_u16(p + 2 * i));
}

static inline void quant_bf16(const uint8_t *p, float *y, size_t n)
{
    for (size_t i = 0; i < n; ++i)
        y[i] = kve_bf16_to_f32(quant_u16(p + 2 * i));
}

static inline void quant_q4_0(const uint8_t *b, float *y)
{
    const float d = F16(quant_u16(b));

    for (int j = 0; j < 16; ++j) {
        y[j] = d * (float)((b[2 + j] & 15) - 8);
        y[j + 16] = d * (float)((b[2 + j] >> 4) - 8);
    }
}

static inline void quant_q4_1(const uint8_t *b, float *y)
{
    const float d = F16(quant_u16(b)), m = F16(quant_u16(b + 2));

    for (int j = 0; j < 16; ++j) {
        y[j] = d * (float)(b[4 + j] & 15) + m;
        y[j + 16] = d * (float)(b[4 + j] >> 4) + m;
    }
}

/* The fifth bits: bit j belongs to value j of the block. */
static inline uint32_t quant_u32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

static inline void quant_q5_0(const uint8_t *b, float *y)
{
    const float d = F16(quant_u16(b));
    const uint32_t high = quant_u32(b + 2);

    for (int j = 0; j < 16; ++j) {
        const int lo = (b[6 + j] & 15) | (int)(high >> j & 1) << 4;
        const int hi = (b[6 + j] >> 4) | (int)(high >> (j + 16) & 1) << 4;
        y[j] = d * (float)(lo - 16);
        y[j + 16] = d * (float)(hi - 16);
    }
}

static inline void quant_q5_1(const uint8_t *b, float *y)
{
    const float d = F16(quant_u16(b)), m = F16(quant_u16(b + 2));
    const uint32_t high = quant_u32(b + 4);

    for (int j = 0; j < 16; ++j) {
        const int lo = (b[8 + j] & 15) | (int)(high >> j & 1) << 4;
        const int hi = (b[8 + j] >> 4) | (int)(high >> (j + 16) & 1) << 4;
        y[j] = d * (float)lo + m;
        y[j + 16] = d * (float)hi + m;
    }
}

static inline void quant_q8_0(const uint8_t *b, float *y)
{
    const float d = F16(quant_u16(b));

    for (int j = 0; j < 32; ++j)
        y[j] = d * (float)(int8_t)b[2 + j];
}

/* Q4_K and Q5_K: the 6-bit scale and minimum of sub-block j, packed in 12 bytes. */
static inline void quant_k_scale(const uint8_t *s, int j, float *scale, float *min)
{
    if (j < 4) {
        *scale = (float)(s[j] & 63);
        *min = (float)(s[j + 4] & 63);
    } else {
        *scale = (float)((s[j + 4] & 15) | (s[j - 4] >> 6) << 4);
        *min = (float)((s[j + 4] >> 4) | (s[j] >> 6) << 4);
    }
}

static inline void quant_q4_k(const uint8_t *b, float *y)
{
    const float d = F16(quant_u16(b)), dmin = F16(quant_u16(b + 2));
    const uint8_t *q = b + 16;

    for (int pair = 0; pair < 4; ++pair, q += 32, y += 64) {
        float s0, m0, s1, m1;

        quant_k_scale(b + 4, 2 * pair, &s0, &m0);
        quant_k_scale(b + 4, 2 * pair + 1, &s1, &m1);
        s0 *= d, m0 *= dmin, s1 *= d, m1 *= dmin;
        for (int l = 0; l < 32; ++l) {
            y[l] = s0 * (float)(q[l] & 15) - m0;
            y[l + 32] = s1 * (float)(q[l] >> 4) - m1;
        }
    }
}

static inline void quant_q5_k(const uint8_t *b, float *y)
{
    const float d = F16(quant_u16(b)), dmin = F16(quant_u16(b + 2));
    const uint8_t *high = b + 16, *q = b + 48;

    for (int pair = 0; pair < 4; ++pair, q += 32, y += 64) {
        float s0, m0, s1, m1;

        quant_k_scale(b + 4, 2 * pair, &s0, &m0);
        quant_k_scale(b + 4, 2 * pair + 1, &s1, &m1);
        s0 *= d, m0 *= dmin, s1 *= d, m1 *= dmin;
        for (int l = 0; l < 32; ++l) {
            const int lo = (q[l] & 15) | (high[l] >> (2 * pair) & 1) << 4;
            const int hi = (q[l] >> 4) | (high[l] >> (2 * pair + 1) & 1) << 4;
            y[l] = s0 * (float)lo - m0;
            y[l + 32] = s1 * (float)hi - m1;
        }
    }
}

static inline void quant_q6_k(const uint8_t *b, float *y)
{
    const uint8_t *ql = b, *qh = b + 128, *sc = b + 192;
    const float d = F16(quant_u16(b + 208));

    for (int half = 0; half < 2; ++half, ql += 64, qh += 32, sc += 8, y += 128) {
        for (int is = 0; is < 2; ++is) { /* sixteen values share a scale */
            const float s0 = d * (float)(int8_t)sc[is], s1 = d * (float)(int8_t)sc[is + 2];
            const float s2 = d * (float)(int8_t)sc[is + 4], s3 = d * (float)(int8_t)sc[is + 6];

            for (int l = 16 * is; l < 16 * is + 16; ++l) {
                y[l] = s0 * (float)(((ql[l] & 15) | (qh[l] & 3) << 4) - 32);
                y[l + 32] = s1 * (float)(((ql[l + 32] & 15) | (qh[l] >> 2 & 3) << 4) - 32);
                y[l + 64] = s2 * (float)(((ql[l] >> 4) | (qh[l] >> 4 & 3) << 4) - 32);
                y[l + 96] = s3 * (float)(((ql[l + 32] >> 4) | (qh[l] >> 6) << 4) - 32);
            }
        }
    }
}

#define QUANT_BLOCKS(fn, bytes, values)                                                            \
    for (size_t i = 0; i < n / (values); ++i)                                                      \
    fn(p + i * (bytes), y + i * (values))

static inline void quant_values(kve_type type, const uint8_t *p, float *y, size_t n)
{
    switch (type) {
    case KVE_TYPE_F32:
        memcpy(y, p, n * sizeof(*y));
        break;
    case KVE_TYPE_F16:
        quant_f16(p, y, n);
        break;
    case KVE_TYPE_BF16:
        quant_bf16(p, y, n);
        break;
    case KVE_TYPE_Q4_0:
        QUANT_BLOCKS(quant_q4_0, 18, 32);
        break;
    case KVE_TYPE_Q4_1:
        QUANT_BLOCKS(quant_q4_1, 20, 32);
        break;
    case KVE_TYPE_Q5_0:
        QUANT_BLOCKS(quant_q5_0, 22, 32);
        break;
    case KVE_TYPE_Q5_1:
        QUANT_BLOCKS(quant_q5_1, 24, 32);
        break;
    case KVE_TYPE_Q8_0:
        QUANT_BLOCKS(quant_q8_0, 34, 32);
        break;
    case KVE_TYPE_Q4_K:
        QUANT_BLOCKS(quant_q4_k, 144, 256);
        break;
    case KVE_TYPE_Q5_K:
        QUANT_BLOCKS(quant_q5_k, 176, 256);
        break;
    case KVE_TYPE_Q6_K:
        QUANT_BLOCKS(quant_q6_k, 210, 256);
        break;
    }
}

#endif
