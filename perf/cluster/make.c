/* SPDX-License-Identifier: Apache-2.0 */
/* make.c - a trace from a seed. Its numbers were read off the published trace of conversations. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "trace_add.h"

#define A_SECOND       3.4  /* requests */
#define GOES_ON        0.41 /* of them; some find no prompt that hasn't been gone on with already */
#define BACK_MEDIAN    423.0  /* requests between a prompt and the one that goes on with it */
#define BACK_SIGMA     1.07   /* of its logarithm */
#define LONG_TOKENS    24000u /* those so long are gone on with less often */
#define LONG_GOES_ON   0.3
#define TOKENS_AT_MOST 126195.0

/* A distribution by its quantiles, straight lines between their logarithms. */
struct quantile {
    double p, value;
};
static const struct quantile new_tokens[] = {{0, 891},     {.1, 905},   {.25, 1336},  {.5, 5264},
                                             {.75, 13056}, {.9, 25561}, {.99, 89869}, {1, 126195}};
static const struct quantile more_blocks[] = {{0, .6},  {.25, 1.6}, {.5, 2}, {.75, 7},
                                              {.9, 20}, {.99, 53},  {1, 120}};
static const struct quantile answers[] = {{0, 1},     {.1, 24},  {.25, 156},  {.5, 350},
                                          {.75, 472}, {.9, 597}, {.99, 1120}, {1, 2000}};

static uint64_t next(uint64_t *state)
{
    uint64_t x = *state += 0x9e3779b97f4a7c15ull;

    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

/* In [0, 1). */
static double unit(uint64_t *state)
{
    return (double)(next(state) >> 11) / 9007199254740992.0;
}

static double draw(uint64_t *state, const struct quantile *q)
{
    const double p = unit(state);

    while (p >= q[1].p)
        ++q;
    return q[0].value * pow(q[1].value / q[0].value, (p - q[0].p) / (q[1].p - q[0].p));
}

/* The sum of twelve is as good as normal here. */
static double normal(uint64_t *state)
{
    double sum = -6;

    for (int i = 0; i < 12; ++i)
        sum += unit(state);
    return sum;
}

struct making {
    struct kcl_trace *t;
    uint64_t state, fresh; /* of the draws; the next hash that nobody has */
    unsigned char *over;   /* by request: another one has gone on with it */
    uint64_t hashes[256];
};

/* An earlier request that nobody went on with yet, about as far back as they are; count: none. */
static uint32_t earlier(struct making *m)
{
    const uint32_t n = m->t->count;
    const double back = BACK_MEDIAN * exp(BACK_SIGMA * normal(&m->state));

    if (unit(&m->state) >= GOES_ON || back >= n)
        return n;
    for (uint32_t i = n - 1 - (uint32_t)back, tries = 0; tries < 64; ++tries, --i) {
        if (!m->over[i] && (m->t->each[i].tokens < LONG_TOKENS || unit(&m->state) < LONG_GOES_ON))
            return i;
        if (i == 0)
            break;
    }
    return n;
}

/* The blocks of the next prompt, and its length in tokens. */
static uint32_t prompt(struct making *m, uint32_t *blocks)
{
    const uint32_t from = earlier(m);
    double tokens;
    uint32_t same = 1;

    if (from < m->t->count) {
        const struct kcl_arrival *a = &m->t->each[from];

        same = a->hashes > 1 ? a->hashes - 1 : 1;
        memcpy(m->hashes, m->t->hash + a->hash, same * sizeof(*m->hashes));
        tokens = a->tokens + draw(&m->state, more_blocks) * KCL_BLOCK_TOKENS;
        m->over[from] = 1;
    } else {
        m->hashes[0] = 0;
        tokens = draw(&m->state, new_tokens);
    }
    tokens = floor(fmin(tokens, TOKENS_AT_MOST));
    *blocks = ((uint32_t)tokens + KCL_BLOCK_TOKENS - 1) / KCL_BLOCK_TOKENS;
    for (uint32_t k = same; k < *blocks; ++k)
        m->hashes[k] = ++m->fresh;
    return (uint32_t)tokens;
}

bool kcl_trace_make(struct kcl_trace *t, uint32_t count, uint64_t seed)
{
    struct making m = {.t = t, .state = seed, .over = calloc((size_t)count + 1, 1)};
    double at_s = 0;
    bool ok = m.over != NULL;

    *t = (struct kcl_trace){0};
    for (uint32_t i = 0; i < count && ok; ++i) {
        struct kcl_arrival a = {.at_ns = (uint64_t)(at_s * 1e9)};

        at_s += -log(1 - unit(&m.state)) / A_SECOND;
        a.tokens = prompt(&m, &a.hashes);
        a.answer = (uint32_t)draw(&m.state, answers);
        ok = kcl_trace_add(t, &a, m.hashes);
    }
    free(m.over);
    if (!ok)
        kcl_trace_free(t);
    return ok;
}
