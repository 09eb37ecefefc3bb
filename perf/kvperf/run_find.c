/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_find.c - mode find: the longest prompt of which at most --max-exposed-ms shows in 99 of 100
 * rounds. search.h says which lengths are measured and what is made of them. The bracket's lengths
 * are a run each, bulk and streamed with one codec; the grid's are one, all in turns.
 */
#include <stdlib.h>
#include <string.h>

#include "run_kv.h"
#include "search.h"
#include "stop.h"

#define PROBES_MAX 40u

struct finding {
    struct kvp_result *r;
    struct kvp_client *c;
    struct kvp_options probe;
    struct kvp_search s;
    struct kvp_found found;
};

/* Tokens that fit the memory that may be used. */
static uint32_t longest(const struct kvp_options *o)
{
    uint32_t fits = 0;

    for (uint32_t bit = KVW_XFER_TOKENS_MAX; bit > 0; bit /= 2)
        if (fits + bit <= KVW_XFER_TOKENS_MAX &&
            (double)kvp_geometry_bytes(&o->geometry, fits + bit) * o->parallel <= o->memory_max)
            fits += bit;
    return fits;
}

static void add_row(struct finding *f, const char *name, uint32_t lane, uint32_t tokens)
{
    const struct kvp_options *o = f->r->o;
    struct kvp_round_plan plan;

    f->probe.tokens = tokens;
    plan = kvp_plan_of(&f->probe, lane, lane > 0 && o->shuffled, lane > 0);
    (void)kvp_result_row(f->r, name, lane == 0 ? "raw" : o->codecs[0].name, &plan);
}

/* Exposed times of a row; the caller frees them. */
static double *exposed_of(const struct kvp_row *row)
{
    double *ms = calloc(row->count + 1, sizeof(*ms));

    for (uint32_t i = 0; i < row->count && ms != NULL; ++i)
        ms[i] = row->samples[i].exposed_ms;
    return ms;
}

static void try_length(struct finding *f, uint32_t tokens)
{
    struct kvp_result *r = f->r;
    const uint32_t first = r->row_count;
    double *ms;

    kvp_client_close(f->c);
    add_row(f, "bulk", 0, tokens);
    add_row(f, "streamed", 1, tokens);
    kvp_measure(f->c, &f->probe, r, first);
    kvp_result_finish(r);
    if (r->status != KVP_EXIT_OK || (ms = exposed_of(&r->rows[first + 1])) == NULL)
        return;
    kvp_search_add(&f->s, tokens, ms, r->rows[first + 1].count);
    free(ms);
}

/* The longest first: it is the room that the connection has. */
static void measure_grid(struct finding *f)
{
    struct kvp_result *r = f->r;
    struct kvp_grid_point grid[KVP_GRID] = {0};
    uint32_t tokens[KVP_GRID];
    const uint32_t points = kvp_search_grid(&f->s, tokens), first = r->row_count;
    bool ok = points > 0;

    if (!ok)
        return;
    kvp_client_close(f->c);
    add_row(f, "bulk", 0, tokens[points - 1]);
    for (uint32_t i = 0; i < points; ++i)
        add_row(f, "streamed", 1, tokens[i]);
    kvp_measure(f->c, &f->probe, r, first); /* probe.tokens is the last row's */
    kvp_result_finish(r);
    for (uint32_t i = 0; i < points && r->status == KVP_EXIT_OK; ++i) {
        grid[i] = (struct kvp_grid_point){tokens[i], exposed_of(&r->rows[first + 1 + i]),
                                          r->rows[first + 1 + i].count};
        ok = ok && grid[i].exposed_ms != NULL;
    }
    if (ok && r->status == KVP_EXIT_OK)
        f->found = kvp_search_answer(&f->s, grid, points);
    for (uint32_t i = 0; i < points; ++i)
        free(grid[i].exposed_ms);
}

static void print_find(FILE *f, const struct kvp_result *r)
{
    const struct kvp_options *o = r->o;
    double bulk = 0;

    fprintf(f, "%7s %9s %9s %9s %9s %6s %9s\n", "tokens", "KV MB", "prefill", "p50", "p99", "% flr",
            "bulk GB/s");
    for (uint32_t i = 0; i < r->row_count; ++i) {
        const struct kvp_row *row = &r->rows[i];

        if (strcmp(row->name, "bulk") == 0)
            bulk = row->bytes_per_s;
        else if (row->count > 0)
            fprintf(f, "%7u %9.2f %9.2f %9.3f %9.3f %6.1f %9.3f\n", row->plan.tokens,
                    (double)kvp_geometry_bytes(&o->geometry, row->plan.tokens) / 1e6,
                    row->plan.prefill_ms, row->exposed.p50, row->exposed.p99, row->percent_of_floor,
                    bulk / 1e9);
    }
    if (r->found.tokens > 0)
        fprintf(f,
                "\n%u tokens: the longest prompt of which 99 of 100 show at most %g ms (p99 %.3f: "
                "the median there times %.2f, which is what 99 of 100 of %u rounds stay below)\n",
                r->found.tokens, o->find_ms, r->found.p99_ms, r->found.tail, r->found.rounds);
    else
        fprintf(f, "\nNo length tried shows at most %g ms\n", o->find_ms);
}

static void search(struct finding *f)
{
    struct kvp_result *r = f->r;
    uint32_t next, probes = 0;

    f->s = (struct kvp_search){
        .bound_ms = r->o->find_ms, .first = r->o->tokens, .most = longest(r->o)};
    while (r->status == KVP_EXIT_OK && probes++ < PROBES_MAX && (next = kvp_search_next(&f->s)) > 0)
        try_length(f, next);
    if (r->status == KVP_EXIT_OK)
        measure_grid(f);
    r->found = f->found;
    if (r->status == KVP_EXIT_OK && f->found.tokens == 0) {
        r->status = KVP_EXIT_THRESHOLD;
        snprintf(r->why, sizeof(r->why), "no prompt shows at most %g ms here", r->o->find_ms);
    }
}

int kvp_run_find(const struct kvp_options *o)
{
    struct finding f = {.probe = *o,
                        .r = calloc(1, sizeof(struct kvp_result)),
                        .c = calloc(1, sizeof(struct kvp_client))};
    int status = KVP_EXIT_FAILED;

    if (f.r == NULL || f.c == NULL) {
        fprintf(stderr, "kvperf: no memory\n");
    } else {
        f.c->line.fd = -1;
        f.r->o = o;
        f.r->mode = "find";
        f.r->print = print_find;
        f.r->client = f.c;
        search(&f);
        status = kvp_result_out(f.r);
        kvp_client_close(f.c);
        kvp_result_free(f.r);
    }
    free(f.r);
    free(f.c);
    return status;
}
