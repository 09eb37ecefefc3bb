/* SPDX-License-Identifier: Apache-2.0 */
/* measure.c - percentiles: exact ones of first tokens, within 1 % those of the gaps. */
#include "measure.h"

#include <math.h>
#include <stdlib.h>

#define LEAST_NS 1e4 /* the first bucket */
#define WIDTH    1.01

bool kcl_measure_open(struct kcl_measure *m, uint32_t requests)
{
    *m = (struct kcl_measure){.ttft = calloc((size_t)requests + 1, sizeof(*m->ttft))};
    return m->ttft != NULL;
}

void kcl_measure_close(struct kcl_measure *m)
{
    free(m->ttft);
    m->ttft = NULL;
}

void kcl_measure_gap(struct kcl_measure *m, uint64_t ns)
{
    const double at = ns > LEAST_NS ? log((double)ns / LEAST_NS) / log(WIDTH) : 0;

    ++m->itl[at < KCL_BUCKETS - 1 ? (uint32_t)at : KCL_BUCKETS - 1];
    ++m->itl_count;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double gap_ms(const struct kcl_measure *m, double part)
{
    uint64_t below = 0;
    uint32_t i = 0;

    if (m->itl_count == 0)
        return 0;
    while (i < KCL_BUCKETS - 1 && (double)(below += m->itl[i]) <= part * (double)m->itl_count)
        ++i;
    return LEAST_NS * pow(WIDTH, i + 0.5) / 1e6;
}

void kcl_measure_sum(struct kcl_measure *m, struct kcl_result *r)
{
    static const double parts[3] = {0.5, 0.9, 0.99};

    qsort(m->ttft, m->count, sizeof(*m->ttft), compare);
    for (int i = 0; i < 3; ++i) {
        if (m->count > 0)
            r->ttft_ms[i] = m->ttft[(uint32_t)(parts[i] * (m->count - 1) + 0.5)] / 1e6;
        r->itl_ms[i] = gap_ms(m, parts[i]);
    }
    r->hit = m->blocks > 0 ? (double)m->hits / (double)m->blocks : 0;
}
