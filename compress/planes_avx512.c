/* SPDX-License-Identifier: Apache-2.0 */
#include <immintrin.h>

#include "kernels_impl.h"

static inline uint64_t test_bit(const uint8_t *codes, uint32_t bit)
{
    return _mm512_test_epi8_mask(_mm512_loadu_si512(codes), _mm512_set1_epi8((char)(1u << bit)));
}

static inline __attribute__((always_inline)) void
add_planes(const uint64_t planes[][KVC_BLOCK_WORDS], const uint8_t *weights, uint32_t count,
           uint32_t words, uint8_t *ranks)
{
    for (uint32_t w = 0; w < words; ++w) {
        __m512i sum = _mm512_setzero_si512();

        for (uint32_t p = 0; p < count; ++p)
            sum = _mm512_mask_add_epi8(sum, planes[p][w], sum, _mm512_set1_epi8((char)weights[p]));
        _mm512_storeu_si512(ranks + 64 * w, sum);
    }
}

#include "planes_body.h"

const struct kvc_planes kvc_planes_avx512 = {encode, decode};
