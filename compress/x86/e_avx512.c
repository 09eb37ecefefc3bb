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

/* Bytes of a plane of group g that holds n bits (SPEC.md 2). */
static ALWAYS uint32_t plane_bytes(uint32_t g, uint32_t n)
{
    return g == 0 ? kvc_first_plane(n) : (n + 7) / 8;
}

/* A group's planes on their way into the stream, and what it passes on. */
struct packing {
    __m512i low, high; /* its bits in a code */
    uint8_t *planes[2], *next;
};

/* Up to 64 codes: their bits in both planes. */
static ALWAYS void pack_word(struct packing *p, const uint8_t *codes, uint64_t lanes,
                             uint64_t word[2])
{
    const __m512i c = _mm512_loadu_si512(codes);
    uint64_t on;

    word[0] = _mm512_test_epi8_mask(c, p->low) & lanes;
    word[1] = _mm512_test_epi8_mask(c, p->high) & lanes;
    on = word[0] & word[1];
    _mm512_storeu_si512(p->next, compress(on, c));
    p->next += __builtin_popcountll(on);
}

/* Those that a group passes on are moved together first, so that each group is one plain loop. */
static uint32_t pack(const uint8_t *codes, uint32_t n, uint8_t *to)
{
    uint8_t next[KVC_BLOCK_VALUES + 64];
    uint8_t *const begin = to;

    for (uint32_t g = 0; g < GROUPS && n > 0; ++g) {
        const uint32_t bytes = plane_bytes(g, n), last = (n - 1) / 64 * 64;
        struct packing p = {_mm512_set1_epi8((char)(1 << 2 * g)),
                            _mm512_set1_epi8((char)(2 << 2 * g)),
                            {to, to + bytes},
                            next};
        uint64_t low[2] = {0}, high[2] = {0}, word[2]; /* of group 0, words in pairs */

        for (uint32_t i = 0; i < last; i += 64) {
            pack_word(&p, codes + i, ~0ull, word);
            memcpy(p.planes[0] + i / 8, &word[0], 8);
            memcpy(p.planes[1] + i / 8, &word[1], 8);
        }
        pack_word(&p, codes + last, tail_of(n - last), word);
        low[0] = word[0];
        high[0] = word[1];
        memcpy(p.planes[0] + last / 8, low, bytes - last / 8);
        memcpy(p.planes[1] + last / 8, high, bytes - last / 8);
        to += 2 * bytes;
        codes = next;
        n = (uint32_t)(p.next - next);
    }
    return (uint32_t)(to - begin);
}

/* How many of n group g passes on; UINT32_MAX: a padding bit is set. */
static uint32_t passed_on(const uint8_t *planes, uint32_t g, uint32_t n)
{
    const uint32_t bytes = plane_bytes(g, n), used = (n + 7) / 8, odd = n % 8;
    uint32_t passed = 0;

    if ((odd != 0 && (planes[used - 1] | planes[bytes + used - 1]) >> odd != 0) ||
        !kvc_is_zero(planes + used, bytes - used) ||
        !kvc_is_zero(planes + bytes + used, bytes - used))
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
        at += 2 * plane_bytes(g, n);
        if (at > bytes)
            return 0;
        n = passed_on(planes[g], g, n);
        if (n == UINT32_MAX)
            return 0;
    }
    for (uint32_t g = GROUPS; g-- > 0;) {
        const uint8_t *next = deeper[(g + 1) % 2];
        uint8_t *to = g == 0 ? ranks : deeper[g % 2];
        const uint32_t plane = plane_bytes(g, count[g]);

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
