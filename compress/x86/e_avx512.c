/* SPDX-License-Identifier: Apache-2.0 */
/* e_avx512.c - AVX-512 F/BW/VL/DQ/VBMI/VBMI2: the loops, and E's planes. */
#define NATIVE_BF16 0
#include "e_avx512_body.h"

static void encode_any(const struct kvc_e_plan *p, struct kvc_e_block *b, const uint16_t *row,
                       uint16_t *decoded, uint32_t tokens)
{
    if (__builtin_cpu_supports("avx512bf16"))
        kvc_e_avx512bf16.encode(p, b, row, decoded, tokens);
    else
        encode(p, b, row, decoded, tokens);
}

static bool decode_any(const struct kvc_e_plan *p, struct kvc_e_block *b, uint16_t *decoded,
                       uint32_t tokens)
{
    return __builtin_cpu_supports("avx512bf16") ? kvc_e_avx512bf16.decode(p, b, decoded, tokens)
                                                : decode(p, b, decoded, tokens);
}

#define GROUPS 4u

static ALWAYS uint64_t tail_of(uint32_t left)
{
    return left < 64 ? (1ull << left) - 1 : ~0ull;
}

static ALWAYS uint64_t plane_word(const uint8_t *at, uint32_t left)
{
    uint64_t word;

    memcpy(&word, at, 8);
    return word & tail_of(left);
}

/* Those that a group passes on are moved together first, so that each group is one plain loop. */
static uint32_t pack(const uint8_t *codes, uint32_t n, uint8_t *to)
{
    uint8_t next[KVC_BLOCK_VALUES + 64];
    uint8_t *const begin = to;

    for (uint32_t g = 0; g < GROUPS; ++g) {
        const __m512i low = _mm512_set1_epi8((char)(1 << 2 * g));
        const __m512i high = _mm512_set1_epi8((char)(2 << 2 * g));
        const uint32_t bytes = (n + 7) / 8;
        uint8_t last[16];
        uint32_t passed = 0;

        for (uint32_t i = 0; i < n; i += 64) {
            const __m512i c = _mm512_loadu_si512(codes + i);
            const uint64_t lanes = tail_of(n - i);
            const uint64_t word[2] = {_mm512_test_epi8_mask(c, low) & lanes,
                                      _mm512_test_epi8_mask(c, high) & lanes};

            _mm512_storeu_si512(next + passed, compress(word[0] & word[1], c));
            passed += (uint32_t)__builtin_popcountll(word[0] & word[1]);
            if (n - i < 64) {
                memcpy(last, word, sizeof(last));
                memcpy(to + i / 8, last, bytes - i / 8);
                memcpy(to + bytes + i / 8, last + 8, bytes - i / 8);
            } else {
                memcpy(to + i / 8, &word[0], 8);
                memcpy(to + bytes + i / 8, &word[1], 8);
            }
        }
        to += 2 * bytes;
        codes = next;
        n = passed;
    }
    return (uint32_t)(to - begin);
}

/* How many of n a group passes on; UINT32_MAX: a padding bit is set. */
static uint32_t passed_on(const uint8_t *planes, uint32_t n)
{
    const uint32_t bytes = (n + 7) / 8, odd = n % 8;
    uint32_t passed = 0;

    if (odd != 0 && (planes[bytes - 1] | planes[2 * bytes - 1]) >> odd != 0)
        return UINT32_MAX;
    for (uint32_t i = 0; i < n; i += 64)
        passed += (uint32_t)__builtin_popcountll(plane_word(planes + i / 8, n - i) &
                                                 plane_word(planes + bytes + i / 8, n - i));
    return passed;
}

static uint32_t unpack(const uint8_t *from, uint32_t bytes, uint32_t n, uint8_t *ranks)
{
    uint8_t deeper[2][KVC_BLOCK_VALUES + 64];
    const uint8_t *planes[GROUPS];
    uint32_t count[GROUPS], at = 0;

    for (uint32_t g = 0; g < GROUPS; ++g) {
        planes[g] = from + at;
        count[g] = n;
        at += 2 * ((n + 7) / 8);
        if (at > bytes)
            return 0;
        n = passed_on(planes[g], n);
        if (n == UINT32_MAX)
            return 0;
    }
    for (uint32_t g = GROUPS; g-- > 0;) {
        const uint8_t *next = deeper[(g + 1) % 2];
        uint8_t *to = g == 0 ? ranks : deeper[g % 2];
        const uint32_t plane = (count[g] + 7) / 8;

        for (uint32_t i = 0; i < count[g]; i += 64) {
            const uint64_t low = plane_word(planes[g] + i / 8, count[g] - i);
            const uint64_t high = plane_word(planes[g] + plane + i / 8, count[g] - i);
            __m512i r = _mm512_maskz_mov_epi8(low, _mm512_set1_epi8(1));

            r = _mm512_mask_add_epi8(r, high, r, _mm512_set1_epi8(2));
            if (g + 1 < GROUPS) {
                r = _mm512_add_epi8(r, expand(low & high, _mm512_loadu_si512(next)));
                next += __builtin_popcountll(low & high);
            }
            _mm512_storeu_si512(to + i, r);
        }
    }
    return at;
}

const struct kvc_e_kernels kvc_e_avx512 = {
    .sums = sums,
    .encode = encode_any,
    .decode = decode_any,
    .pack = pack,
    .unpack = unpack,
};
