/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sample.c - from logits to a token.
 *
 * top-p without sorting the vocabulary: the weights are summed in bins of nearly equal logits, from
 * the largest down; the bins before the one in which the sum reaches top_p are in, those after it
 * are out, and only that one is sorted.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sample.h"

enum {
    BINS = 1024,    /* the last one takes all that is smaller */
    BIN_SHIFT = 47, /* 5 bits of the mantissa stay: 32 bins for each factor 2 in weight */
};

struct candidate {
    double weight; /* exp((logit - largest) / temperature): 0 .. 1 */
    uint32_t id;
};

struct kve_sampler {
    struct kve_sample_config config;
    uint32_t vocab;
    double *weight;         /* [vocab] */
    struct candidate *edge; /* [vocab] the bin that top_p cuts through */
};

kvw_err kve_sampler_open(struct kve_sampler **out, const struct kve_sample_config *config,
                         uint32_t vocab)
{
    if (vocab == 0 || !isfinite(config->temperature) || config->temperature < 0 ||
        !(config->top_p > 0 && config->top_p <= 1))
        return KVW_E_INVALID;
    struct kve_sampler *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return KVW_E_NOMEM;
    *s = (struct kve_sampler){.config = *config, .vocab = vocab};
    if (config->temperature > 0) {
        s->weight = malloc(vocab * sizeof(*s->weight));
        s->edge = malloc(vocab * sizeof(*s->edge));
        if (s->weight == NULL || s->edge == NULL) {
            kve_sampler_close(s);
            return KVW_E_NOMEM;
        }
    }
    *out = s;
    return KVW_OK;
}

void kve_sampler_close(struct kve_sampler *s)
{
    if (s == NULL)
        return;
    free(s->weight);
    free(s->edge);
    free(s);
}

static float value(float logit)
{
    return isnan(logit) ? -INFINITY : logit;
}

/* The largest, the first of equals. */
static uint32_t largest(const float *logits, uint32_t vocab)
{
    uint32_t best = 0;

    for (uint32_t i = 1; i < vocab; ++i)
        if (value(logits[i]) > value(logits[best]))
            best = i;
    return best;
}

/* splitmix64's finaliser: every bit of the result depends on every bit of x. */
static uint64_t mix(uint64_t x)
{
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* 0 <= u < 1, the same for the same seed and position. */
static double draw(uint64_t seed, uint64_t pos)
{
    return (double)(mix(mix(seed) ^ pos) >> 11) * 0x1p-53;
}

/*
 * Which bin a weight of 0 .. 1 belongs to; larger weights, lower bins. The first bits of a positive
 * double, exponent before mantissa, are in the order of its value.
 */
static unsigned bin_of(double weight)
{
    const double one = 1;
    uint64_t w, w1;

    memcpy(&w, &weight, sizeof(w));
    memcpy(&w1, &one, sizeof(w1));
    const uint64_t below = (w1 >> BIN_SHIFT) - (w >> BIN_SHIFT);
    return below < BINS - 1 ? (unsigned)below : BINS - 1;
}

static int heaviest_first(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;

    if (x->weight != y->weight)
        return x->weight > y->weight ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/*
 * The first token, in order of id, at which the running sum of the weights that are in passes
 * target; the last that is in if rounding keeps the sum below it.
 */
static uint32_t pick(const struct kve_sampler *s, double target)
{
    double sum = 0;
    uint32_t last = 0;

    for (uint32_t i = 0; i < s->vocab; ++i) {
        if (s->weight[i] <= 0)
            continue;
        sum += s->weight[i];
        last = i;
        if (sum > target)
            break;
    }
    return last;
}

/* Zero the weights outside of the smallest set that holds top_p of the sum; returns that set's. */
static double cut_top_p(struct kve_sampler *s, double total)
{
    const double wanted = total * (double)s->config.top_p;
    double bins[BINS] = {0}, in = 0;
    unsigned edge = 0;
    uint32_t count = 0;

    for (uint32_t i = 0; i < s->vocab; ++i)
        if (s->weight[i] > 0)
            bins[bin_of(s->weight[i])] += s->weight[i];
    while (edge + 1 < BINS && in + bins[edge] < wanted)
        in += bins[edge++];
    for (uint32_t i = 0; i < s->vocab; ++i) {
        const unsigned bin = s->weight[i] > 0 ? bin_of(s->weight[i]) : BINS;

        if (bin == edge)
            s->edge[count++] = (struct candidate){s->weight[i], i};
        if (bin >= edge)
            s->weight[i] = 0;
    }
    qsort(s->edge, count, sizeof(*s->edge), heaviest_first);
    for (uint32_t i = 0; i < count && (in < wanted || in == 0); ++i) {
        s->weight[s->edge[i].id] = s->edge[i].weight;
        in += s->edge[i].weight;
    }
    return in;
}

uint32_t kve_sample(struct kve_sampler *s, const float *logits, uint64_t pos)
{
    const uint32_t best = largest(logits, s->vocab);
    const double top = (double)value(logits[best]);
    double total = 0;

    if (s->config.temperature <= 0 || !isfinite(top))
        return best; /* an infinite logit leaves the others no chance, or there are none */
    for (uint32_t i = 0; i < s->vocab; ++i) {
        const double below = ((double)logits[i] - top) / (double)s->config.temperature;

        s->weight[i] = isnan(below) ? 0 : exp(below);
        total += s->weight[i];
    }
    if (s->config.top_p < 1)
        total = cut_top_p(s, total);
    return pick(s, total * draw(s->config.seed, pos));
}
