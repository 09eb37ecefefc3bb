/* SPDX-License-Identifier: Apache-2.0 */
/*
 * e.h - inside of the error-bounded codecs E8 and E4. The stream and every rounding: SPEC.md.
 *
 *   e.c         the codecs: header, blocks, exact tokens, the stored fallback
 *   e_plan.c    from a chunk's values to step, bases, shapes: plain C, one version
 *   e_scalar.c  the three loops over values, as the specification has them
 *   e_avx2.c, e_avx512.c  the same loops with the same results
 *
 * threads  plain functions on the caller's memory    memory  none of its own    time  none
 */
#ifndef KVC_E_H
#define KVC_E_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "planes.h"

#define KVC_E_LANES        64u              /* channels in one group */
#define KVC_E_CHANNELS_MAX KVC_BLOCK_VALUES /* a block is a unit of whole tokens */
#define KVC_E_LOW_MAX      7u               /* raw low bits of a channel */
#define KVC_E_Q_MAX        2047             /* steps from zero; beyond: an exact value */
#define KVC_E_U_EXACT      255u             /* the symbol of an exact value */
#define KVC_E_RANKS        12u              /* symbols below this one have a code in the planes */

/* What a channel needs in the loops; every array is padded to whole groups with zeros. */
struct kvc_e_plan {
    uint32_t channels, groups;
    bool half_floats;    /* fp16, else bf16 */
    bool follows;        /* follow isn't 0 everywhere */
    uint16_t huge;       /* bits of |x| from here on make an exact value */
    float step, inverse; /* inverse = 1 / step, rounded */
    int16_t *base;       /* [groups * 64] in steps */
    int16_t *follow;     /* quarters of the last token's distance from base that are foretold */
    int16_t *low;        /* raw low bits */
    int16_t *lift;       /* half of 2^low, or 0 */
    int16_t *shrink;     /* 2^(16 - low), 0 where low is 0: a right shift for CPUs without one */
    uint64_t *valid;     /* [groups] lanes that are channels */
    uint64_t *low_lanes; /* [groups][KVC_E_LOW_MAX]: lanes with more than p low bits */
    uint8_t *low_count;  /* [groups] most low bits in the group */
};

/* Bits, least significant first, into memory that has 8 bytes to spare. */
struct kvc_e_bits {
    unsigned char *at;
    uint64_t held;
    uint32_t count; /* bits in held, < 64 */
};

/* One block on its way to or from its sections. */
struct kvc_e_block {
    struct kvc_e_bits lows;
    int16_t *last;           /* [groups * 64] distance from base of the token before */
    uint8_t *codes;          /* encode: next value's code; 64 bytes to spare behind the last */
    const uint8_t *ranks;    /* decode: next value's rank; the same */
    uint8_t *wide;           /* next symbol that has no code, less KVC_E_RANKS; 64 to spare */
    const uint8_t *wide_end; /* decode: none from here on */
    unsigned char *exact;    /* next exact value, two bytes */
    const unsigned char *exact_end; /* decode */
};

struct kvc_e_kernels {
    /* sum[c] += v, square[c] += v*v, and, unless before is NULL, cross[c] += v*before; a value that
     * is huge counts as 0. Rows and arrays are padded to whole groups. */
    void (*sums)(const struct kvc_e_plan *p, const uint16_t *row, const uint16_t *before,
                 float *sum, float *square, float *cross);
    /* Tokens side by side and what they will decode to. A row whose channels aren't whole groups
     * is padded with zeros; then tokens is 1. */
    void (*encode)(const struct kvc_e_plan *p, struct kvc_e_block *b, const uint16_t *row,
                   uint16_t *decoded, uint32_t tokens);
    /* Up to 63 values behind the last may be overwritten, unless channels are whole groups. false:
     * more symbols are wide or exact than the block has, or an exact one has low bits. */
    bool (*decode)(const struct kvc_e_plan *p, struct kvc_e_block *b, uint16_t *decoded,
                   uint32_t tokens);
    /* Planes of four groups of two bits as kvc_planes has them, where this level knows a quicker
     * way; NULL: it doesn't. Both return bytes; unpack 0 where planes.h's decode would. */
    uint32_t (*pack)(const uint8_t *codes, uint32_t n, uint8_t *to);
    uint32_t (*unpack)(const uint8_t *from, uint32_t bytes, uint32_t n, uint8_t *ranks);
};

/* The code byte (planes.h) of each symbol with a rank, and of all others. */
extern const uint8_t kvc_e_codes[16] __attribute__((aligned(16)));

extern const struct kvc_e_kernels kvc_e_scalar, kvc_e_avx2, kvc_e_avx512;
/* Only for CPUs with AVX512_BF16; kvc_e_avx512 asks. */
extern const struct kvc_e_kernels kvc_e_avx512bf16;

static inline float kvc_e_bf16(uint16_t bits)
{
    const union {
        uint32_t u;
        float f;
    } v = {.u = (uint32_t)bits << 16};

    return v.f;
}

/* What a chunk's plan is made of: sums over sampled tokens. e_plan.c */
struct kvc_e_sums {
    float *sum, *square, *cross; /* [groups * 64] */
    uint32_t tokens;             /* sampled */
    bool follow;                 /* cross has been summed */
};

/*
 * Fill step, base, follow, low from sums; noise is step / RMS of the profile. false: the values
 * have no scale to speak of (all zero, or tiny): the chunk is stored.
 */
bool kvc_e_calibrate(struct kvc_e_plan *p, const struct kvc_e_sums *s, float noise);
/* What follows from channels, low and step, the same in encoder and decoder. */
void kvc_e_derive(struct kvc_e_plan *p);
/* Bytes of memory that a plan's arrays want, and their places in it (64-byte aligned). */
size_t kvc_e_plan_bytes(uint32_t channels);
void kvc_e_plan_place(struct kvc_e_plan *p, uint32_t channels, void *memory);

#endif
