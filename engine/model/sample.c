/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sample.c - from logits to a token.
 *
 * top-p without sorting the vocabulary: the weights are summed in bins of nearly equal logits, from
 * the largest down; the bins before the one in which the sum reaches top_p are in, those after it
 * are out, and only that one is sorted.
 */
#include <math.h>
#include <stdbool.h>
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
    struct candidate *edge; /* [vocab] the bin that top_k or top_p cuts through */
    /* NULL where neither a bias nor a penalty is asked for */
    float *changed;        /* [vocab] logits after both */
    uint32_t *taken;       /* [vocab] how often the answer has the token */
    uint8_t *seen;         /* [vocab] the prompt or the answer has it */
    struct kve_bias *bias; /* [config.bias_count] */
};

static bool in_range(const struct kve_sample_config *c, uint32_t vocab)
{
    for (uint32_t i = 0; i < c->bias_count; ++i) {
        if (c->bias[i].id >= vocab || !isfinite(c->bias[i].add))
            return false;
    }
    return isfinite(c->temperature) && c->temperature >= 0 && c->top_p > 0 && c->top_p <= 1 &&
           c->min_p >= 0 && c->min_p <= 1 && isfinite(c->frequency) && isfinite(c->presence) &&
           isfinite(c->repetition) && c->repetition >= 0;
}

static bool looks_back(const struct kve_sample_config *c)
{
    return c->frequency != 0 || c->presence != 0 || (c->repetition != 0 && c->repetition != 1);
}

/* What bias and penalties need. False: out of memory. */
static bool open_changes(struct kve_sampler *s)
{
    const struct kve_sample_config *c = &s->config;

    if (c->bias_count == 0 && !looks_back(c))
        return true;
    s->changed = malloc(s->vocab * sizeof(*s->changed));
    s->taken = calloc(s->vocab, sizeof(*s->taken));
    s->seen = calloc(s->vocab, sizeof(*s->seen));
    s->bias = malloc((c->bias_count + 1) * sizeof(*s->bias));
    if (s->changed == NULL || s->taken == NULL || s->seen == NULL || s->bias == NULL)
        return false;
    if (c->bias_count > 0)
        memcpy(s->bias, c->bias, c->bias_count * sizeof(*s->bias));
    return true;
}

kvw_err kve_sampler_open(struct kve_sampler **out, const struct kve_sample_config *config,
                         uint32_t vocab)
{
    if (vocab == 0 || !in_range(config, vocab))
        return KVW_E_INVALID;
    struct kve_sampler *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return KVW_E_NOMEM;
    *s = (struct kve_sampler){.config = *config, .vocab = vocab};
    if (!open_changes(s)) {
        kve_sampler_close(s);
        return KVW_E_NOMEM;
    }
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
    free(s->changed);
    free(s->taken);
    free(s->seen);
    free(s->bias);
    free(s);
}

void kve_sampler_prompt(struct kve_sampler *s, const uint32_t *tokens, uint32_t count)
{
    for (uint32_t i = 0; s->seen != NULL && i < count; ++i) {
        if (tokens[i] < s->vocab)
            s->seen[tokens[i]] = 1;
    }
}

void kve_sampler_took(struct kve_sampler *s, uint32_t token)
{
    if (s->seen == NULL || token >= s->vocab)
        return;
    s->seen[token] = 1;
    ++s->taken[token];
}

/* The logits after bias and penalties. */
static const float *change(struct kve_sampler *s, const float *logits)
{
    const struct kve_sample_config *c = &s->config;
    float *to = s->changed;

    if (to == NULL)
        return logits;
    memcpy(to, logits, s->vocab * sizeof(*to));
    for (uint32_t i = 0; i < c->bias_count; ++i)
        to[s->bias[i].id] += s->bias[i].add;
    for (uint32_t i = 0; looks_back(c) && i < s->vocab; ++i) {
        if (s->seen[i] && c->repetition != 0)
            to[i] = to[i] > 0 ? to[i] / c->repetition : to[i] * c->repetition;
        if (s->taken[i] > 0)
            to[i] -= c->frequency * (float)s->taken[i] + c->presence;
    }
    return to;
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

/* Zero the weights of the bins from edge on; edge's own, heaviest first, go to s->edge. Returns how
 * many those are. */
static uint32_t cut_at(struct kve_sampler *s, unsigned edge)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < s->vocab; ++i) {
        const unsigned bin = s->weight[i] > 0 ? bin_of(s->weight[i]) : BINS;

        if (bin == edge)
            s->edge[count++] = (struct candidate){s->weight[i], i};
        if (bin >= edge)
            s->weight[i] = 0;
    }
    qsort(s->edge, count, sizeof(*s->edge), heaviest_first);
    return count;
}

static double sum_of(const struct kve_sampler *s)
{
    double sum = 0;

    for (uint32_t i = 0; i < s->vocab; ++i)
        sum += s->weight[i];
    return sum;
}

/* Weights are in proportion to the largest probability, whose weight is 1. Returns the sum left. */
static double cut_min_p(struct kve_sampler *s)
{
    for (uint32_t i = 0; i < s->vocab; ++i) {
        if (s->weight[i] < (double)s->config.min_p)
            s->weight[i] = 0;
    }
    return sum_of(s);
}

/* Zero all but the top_k largest weights; returns the sum of these. */
static double cut_top_k(struct kve_sampler *s)
{
    uint32_t bins[BINS] = {0}, in = 0;
    unsigned edge = 0;

    for (uint32_t i = 0; i < s->vocab; ++i)
        if (s->weight[i] > 0)
            ++bins[bin_of(s->weight[i])];
    while (edge + 1 < BINS && in + bins[edge] <= s->config.top_k)
        in += bins[edge++];
    const uint32_t count = cut_at(s, edge);
    for (uint32_t i = 0; i < count && in < s->config.top_k; ++i, ++in)
        s->weight[s->edge[i].id] = s->edge[i].weight;
    return sum_of(s);
}

/* Zero the weights outside of the smallest set that holds top_p of the sum; returns that set's. */
static double cut_top_p(struct kve_sampler *s, double total)
{
    const double wanted = total * (double)s->config.top_p;
    double bins[BINS] = {0}, in = 0;
    unsigned edge = 0;

    for (uint32_t i = 0; i < s->vocab; ++i)
        if (s->weight[i] > 0)
            bins[bin_of(s->weight[i])] += s->weight[i];
    while (edge + 1 < BINS && in + bins[edge] < wanted)
        in += bins[edge++];
    const uint32_t count = cut_at(s, edge);
    for (uint32_t i = 0; i < count && (in < wanted || in == 0); ++i) {
        s->weight[s->edge[i].id] = s->edge[i].weight;
        in += s->edge[i].weight;
    }
    return in;
}

uint32_t kve_sample(struct kve_sampler *s, const float *unchanged, uint64_t pos)
{
    const float *logits = change(s, unchanged);
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
    if (s->config.min_p > 0)
        total = cut_min_p(s);
    if (s->config.top_k > 0 && s->config.top_k < s->vocab)
        total = cut_top_k(s);
    if (s->config.top_p < 1)
        total = cut_top_p(s, total);
    return pick(s, total * draw(s->config.seed, pos));
}
