/* SPDX-License-Identifier: Apache-2.0 */
/*
 * expand_avx512.h - bytes apart and together (VBMI2).
 *
 * threads  pure functions      memory  none      time  none
 */
#ifndef KVC_EXPAND_AVX512_H
#define KVC_EXPAND_AVX512_H

#include <immintrin.h>
#include <stdint.h>

/*
 * On Zen 5 vpexpandb and vpcompressb wait for what their destination held before, even where zeros
 * take its place: in a loop, for all that the last round did with that register, 22 cycles a word.
 * So each gets a register that was just cleared, which costs nothing; the empty statement keeps the
 * compiler from seeing through it.
 */
static inline __m512i cleared(void)
{
    __m512i v = _mm512_setzero_si512();

    __asm__("" : "+v"(v));
    return v;
}

/* The lowest bytes of v in the lanes of on, in order; zeros in the others. */
static inline __m512i expand(uint64_t on, __m512i v)
{
    return _mm512_mask_expand_epi8(cleared(), on, v);
}

/* The way back: the lanes of on side by side, then zeros. */
static inline __m512i compress(uint64_t on, __m512i v)
{
    return _mm512_mask_compress_epi8(cleared(), on, v);
}

#endif
