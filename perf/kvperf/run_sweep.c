/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_sweep.c - mode sweep: prompts of several lengths, several at once, with contiguous blocks and
 * in random order. Each cell has its own connection and its own ceiling; it is four rows:
 *
 *     bulk, after (as in kv, random order), streamed random, streamed contiguous
 */
#include <stdlib.h>
#include <string.h>

#include "run_kv.h"
#include "stop.h"

#define ROWS 4u

static void make_cell(struct kvp_result *r, const struct kvp_options *o)
{
    struct kvp_round_plan plan = kvp_plan_of(o, 0, false, false);

    (void)kvp_result_row(r, "bulk", "raw", &plan);
    plan = kvp_plan_of(o, 0, true, false);
    (void)kvp_result_row(r, "after", "raw", &plan);
    plan = kvp_plan_of(o, 1, true, true);
    (void)kvp_result_row(r, "streamed", o->codecs[0].name, &plan);
    plan = kvp_plan_of(o, 1, false, true);
    (void)kvp_result_row(r, "streamed", o->codecs[0].name, &plan);
}

/* Cell by cell, as long as nothing fails. Returns how many were left out for their memory. */
static uint32_t run_cells(struct kvp_result *r, struct kvp_client *c, struct kvp_options *cell)
{
    const struct kvp_options *o = r->o;
    uint32_t left_out = 0;

    for (uint32_t p = 0; p < o->parallel_count; ++p)
        for (uint32_t t = 0; t < o->token_count && r->status == KVP_EXIT_OK; ++t) {
            const uint32_t first = r->row_count;

            cell->tokens = o->token_list[t];
            cell->parallel = o->parallel_list[p];
            if ((double)kvp_geometry_bytes(&o->geometry, cell->tokens) * cell->parallel >
                o->memory_max) {
                ++left_out;
                continue;
            }
            kvp_client_close(c);
            make_cell(r, cell);
            kvp_measure(c, cell, r, first);
        }
    return left_out;
}

static void print_cell(FILE *f, const struct kvp_row *rows, const struct kvp_geometry *g)
{
    const struct kvp_round_plan *p = &rows[0].plan;
    const struct kvp_row *after = &rows[1], *random = &rows[2], *contiguous = &rows[3];
    const double mb = (double)kvp_geometry_bytes(g, p->tokens) * p->requests / 1e6;

    if (contiguous->count == 0)
        return;
    fprintf(f, "%7u %4u %9.2f %9.2f %9.3f %9.3f %8.1f %6.1f %10.3f %9.1f %7.3f  %s\n", p->tokens,
            p->requests, mb, p->prefill_ms, after->exposed.p50, random->exposed.p50,
            after->exposed.p50 > 0 ? 100 * random->exposed.p50 / after->exposed.p50 : 0,
            random->percent_of_floor, contiguous->exposed.p50,
            after->total.p50 > 0 ? 100 * rows[0].total.p50 / after->total.p50 : 0,
            after->bytes_per_s / 1e9,
            random->data_wrong || contiguous->data_wrong || after->data_wrong ? "WRONG" : "equal");
}

static void print_sweep(FILE *f, const struct kvp_result *r)
{
    const struct kvp_options *o = r->o;
    uint32_t measured = 0;

    for (uint32_t i = 0; i < r->row_count; ++i)
        measured += r->rows[i].count;
    if (measured == 0)
        return;
    fprintf(
        f, "%skvperf %s: %s, prefill %g tokens/s (%s), blocks of %u tokens, codec %s, net %s\n\n",
        o->title != NULL ? o->title : "", kvw_version(), o->geometry.name,
        o->geometry.prefill_tok_s, o->geometry.clock, o->block_tokens, o->codecs[0].name, o->net);
    fprintf(f, "%7s %4s %9s %9s %9s %26s %10s %9s %7s\n", "tokens", "at", "KV", "prefill",
            "exposed", "streamed, random order", "contig.", "random /", "after");
    fprintf(f, "%7s %4s %9s %9s %9s %9s %8s %6s %10s %9s %7s  %s\n", "", "once", "MB", "ms",
            "after, ms", "ms", "% after", "% flr", "ms", "contig. %", "GB/s", "data");
    for (uint32_t i = 0; i + ROWS <= r->row_count; i += ROWS)
        print_cell(f, &r->rows[i], &o->geometry);
}

int kvp_run_sweep(const struct kvp_options *o)
{
    struct kvp_options cell = *o;
    struct kvp_result *r = calloc(1, sizeof(*r));
    struct kvp_client *c = calloc(1, sizeof(*c));
    int status = KVP_EXIT_FAILED;

    if (r == NULL || c == NULL) {
        fprintf(stderr, "kvperf: no memory\n");
    } else {
        c->line.fd = -1;
        r->o = o;
        r->mode = "sweep";
        r->print = print_sweep;
        r->client = c;
        cell.shuffled = true;
        const uint32_t left_out = run_cells(r, c, &cell);

        status = kvp_result_out(r);
        if (left_out > 0)
            fprintf(stderr,
                    "kvperf: %u cells need more than --max-memory %g GB and were left out\n",
                    left_out, o->memory_max / 1e9);
        kvp_client_close(c);
        kvp_result_free(r);
    }
    free(r);
    free(c);
    return status;
}
