/* SPDX-License-Identifier: Apache-2.0 */
#include <immintrin.h>

#include "../kernels_impl.h"
#include "lanes_avx2.h"

static inline uint64_t test_bit(const uint8_t *codes, uint32_t bit)
{
    const __m128i up = _mm_cvtsi32_si128((int)(7 - bit));
    const __m256i a = _mm256_loadu_si256((const __m256i *)codes);
    const __m256i b = _mm256_loadu_si256((const __m256i *)(codes + 32));

    /* What a shift of words moves into a byte from its neighbour stays below the top bit. */
    return (uint32_t)_mm256_movemask_epi8(_mm256_sll_epi16(a, up)) |
           (uint64_t)(uint32_t)_mm256_movemask_epi8(_mm256_sll_epi16(b, up)) << 32;
}

static inline __attribute__((always_inline)) void add_planes(const uint64_t *planes,
                                                             uint32_t stride,
                                                             const uint8_t *weights, uint32_t count,
                                                             uint32_t words, uint8_t *ranks)
{
    for (uint32_t w = 0; w < words; ++w) {
        __m256i a = _mm256_setzero_si256(), b = a;

        for (uint32_t p = 0; p < count; ++p) {
            const __m256i weight = _mm256_set1_epi8((char)weights[p]);

            a = _mm256_add_epi8(a, spread((uint32_t)planes[p * stride + w], weight));
            b = _mm256_add_epi8(b, spread((uint32_t)(planes[p * stride + w] >> 32), weight));
        }
        _mm256_storeu_si256((__m256i *)(ranks + 64 * w), a);
        _mm256_storeu_si256((__m256i *)(ranks + 64 * w + 32), b);
    }
}

#include "planes_body.h"

const struct kvc_planes kvc_planes_avx2 = {encode, decode};
