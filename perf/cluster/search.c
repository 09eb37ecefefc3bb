/* SPDX-License-Identifier: Apache-2.0 */
/* search.c - the highest speed by halving, the best split by trying all. */
#include "search.h"

#include <math.h>

#define SLOWEST (1.0 / 64)
#define FASTEST 65536.0
#define WITHIN  1.03

static struct kcl_result run_at(const struct kcl_setup *s, const struct kcl_trace *trace,
                                const struct kcl_bend *b, double speed)
{
    struct kcl_bend bend = *b;
    struct kcl_setup setup = *s;
    struct kcl_result r = {0};

    bend.speed = speed;
    struct kcl_trace bent = kcl_trace_bend(trace, &bend);

    setup.trace = &bent;
    if (bent.count > 0)
        r = kcl_run(&setup);
    kcl_trace_free(&bent);
    return r;
}

static bool serves(const struct kcl_result *r)
{
    return r->ok && r->good >= KCL_GOOD * r->requests;
}

/* Long enough for queues to show. */
static bool lasts(const struct kcl_trace *t, const struct kcl_setup *s, double speed)
{
    return (double)t->each[t->count - 1].at_ns / speed > 10 * (double)s->route.ttft_ns;
}

double kcl_find_speed(const struct kcl_setup *s, const struct kcl_trace *trace,
                      const struct kcl_bend *b, struct kcl_result *at)
{
    double low = b->speed, high;
    struct kcl_result r = run_at(s, trace, b, low);

    *at = r;
    while (!serves(&r) && low > SLOWEST) {
        low /= 2;
        r = *at = run_at(s, trace, b, low);
    }
    if (!serves(&r))
        return 0;
    for (high = low * 2; high < FASTEST && lasts(trace, s, high); high *= 2) {
        r = run_at(s, trace, b, high);
        if (!serves(&r))
            break;
        low = high;
        *at = r;
    }
    while (high / low > WITHIN) {
        const double middle = sqrt(low * high);

        r = run_at(s, trace, b, middle);
        if (serves(&r)) {
            low = middle;
            *at = r;
        } else {
            high = middle;
        }
    }
    return low;
}

struct kcl_place kcl_find_place(const struct kcl_setup *s, const struct kcl_trace *trace,
                                const struct kcl_bend *b, uint32_t workers, double *each)
{
    struct kcl_place best = {0};
    struct kcl_result r;

    for (uint32_t p = 0; p < workers; ++p) {
        struct kcl_setup setup = *s;

        setup.prefills = p;
        setup.decodes = workers - p;
        setup.route.together = p == 0;
        each[p] = kcl_find_speed(&setup, trace, b, &r);
        for (setup.route.piece = 2048; p == 0 && setup.route.piece <= 8192; setup.route.piece *= 4)
            each[p] = fmax(each[p], kcl_find_speed(&setup, trace, b, &r));
        if (each[p] > best.speed)
            best = (struct kcl_place){p == 0 ? workers : p, each[p]};
    }
    return best;
}
