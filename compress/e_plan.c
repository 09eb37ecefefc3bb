/* SPDX-License-Identifier: Apache-2.0 */
/* e_plan.c - from sums over a chunk's sampled tokens to the numbers that its stream states. */
#include <math.h>
#include <string.h>

#include "e.h"

#define STEP_MIN 0x1p-60f

/* Of the standard deviation of what is left after foretelling, in steps times 2^low: above it one
 * more raw bit is cheaper. Where the costs of a normal distribution cross; squared. */
#define LOW_FROM 3.5f

static size_t padded(uint32_t channels)
{
    return (channels + KVC_E_LANES - 1) / KVC_E_LANES * KVC_E_LANES;
}

size_t kvc_e_plan_bytes(uint32_t channels)
{
    const size_t n = padded(channels), groups = n / KVC_E_LANES;

    return n * 5 * sizeof(int16_t) + groups * (1 + KVC_E_LOW_MAX) * sizeof(uint64_t) +
           (groups + 63) / 64 * 64;
}

void kvc_e_plan_place(struct kvc_e_plan *p, uint32_t channels, void *memory)
{
    const size_t n = padded(channels), groups = n / KVC_E_LANES;
    int16_t *words = memory;
    uint64_t *masks = (uint64_t *)(void *)(words + 5 * n);

    memset(memory, 0, kvc_e_plan_bytes(channels));
    p->channels = channels;
    p->groups = (uint32_t)groups;
    p->base = words;
    p->follow = words + n;
    p->low = words + 2 * n;
    p->lift = words + 3 * n;
    p->shrink = words + 4 * n;
    p->valid = masks;
    p->low_lanes = masks + groups;
    p->low_count = (uint8_t *)(masks + groups * (1 + KVC_E_LOW_MAX));
}

void kvc_e_derive(struct kvc_e_plan *p)
{
    p->inverse = 1.0f / p->step;
    p->follows = false;
    for (uint32_t c = 0; c < p->channels; ++c) {
        const uint32_t g = c / KVC_E_LANES;
        const uint64_t lane = 1ull << c % KVC_E_LANES;

        p->follows |= p->follow[c] != 0;
        p->lift[c] = (int16_t)((1 << p->low[c]) >> 1);
        p->shrink[c] = (int16_t)(uint16_t)(0x10000u >> p->low[c]);
        p->valid[g] |= lane;
        for (int16_t k = 0; k < p->low[c]; ++k)
            p->low_lanes[g * KVC_E_LOW_MAX + (uint32_t)k] |= lane;
        if (p->low[c] > p->low_count[g])
            p->low_count[g] = (uint8_t)p->low[c];
    }
}

/* The sum of all squares, channel c in lane c mod 64, then halves added until one is left. Fixed,
 * so that vectors and a GPU's warps round as plain C does. */
static float energy_of(const struct kvc_e_plan *p, const float *square)
{
    float lane[KVC_E_LANES] = {0};

    for (uint32_t c = 0; c < p->channels; ++c)
        lane[c % KVC_E_LANES] += square[c];
    for (uint32_t half = KVC_E_LANES / 2; half > 0; half /= 2)
        for (uint32_t j = 0; j < half; ++j)
            lane[j] += lane[j + half];
    return lane[0];
}

/* The step of a chunk: bf16, so that products with whole numbers are exact; cut, so that there is
 * rather less noise than more. */
static bool choose_step(struct kvc_e_plan *p, const struct kvc_e_sums *s, float noise)
{
    union {
        float f;
        uint32_t u;
    } step;

    step.f = sqrtf(energy_of(p, s->square) / (float)(s->tokens * p->channels)) * noise;
    step.u &= 0xffff0000u;
    p->step = step.f;
    return step.f >= STEP_MIN;
}

/* To nearest, ties to even, for |f| <= 2047: the lowest bits of a float whose unit is 1. */
static int16_t nearest(float f)
{
    const union {
        float f;
        uint32_t u;
    } v = {.f = f + 0x1.8p23f};

    return (int16_t)(v.u - 0x4b400000u);
}

bool kvc_e_calibrate(struct kvc_e_plan *p, const struct kvc_e_sums *s, float noise)
{
    const float part = 1.0f / (float)s->tokens, most = KVC_E_Q_MAX;
    float inverse, from;

    if (!choose_step(p, s, noise))
        return false;
    inverse = 1.0f / p->step;
    from = p->step * p->step * LOW_FROM;
    for (uint32_t c = 0; c < p->channels; ++c) {
        const float mean = s->sum[c] * part, square = mean * mean;
        const float var = s->square[c] * part - square, cov = s->cross[c] * part - square;
        int16_t follow = 0, low = 0;

        if (s->follow) /* the nearest quarter of cov / var */
            follow = (int16_t)((8 * cov > var) + (8 * cov > 3 * var) + (8 * cov > 5 * var) +
                               (8 * cov > 7 * var));

        const float a = (float)follow, rest = var + (a * a * 0.0625f) * var - (a * 0.5f) * cov;
        float limit = from;

        for (uint32_t i = 0; i < KVC_E_LOW_MAX; ++i, limit *= 4)
            low = (int16_t)(low + (rest > limit));

        /* With low bits, symbol 0 stands for as many values below 0 as from 0 on. */
        float centre = mean * inverse + (follow == 0 && low > 0 ? 0.5f : 0.0f);

        centre = centre > most ? most : centre < -most ? -most : centre;
        p->base[c] = nearest(centre);
        p->follow[c] = follow;
        p->low[c] = low;
    }
    return true;
}
