/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_find.c - mode find: the longest prompt of which a share of at most --max-exposed-ms shows. It
 * doubles from --tokens on until a length fails, or halves until one passes, then halves the gap
 * until that is a sixteenth. Each length is a run of its own: bulk, and streamed with one codec.
 *
 * A length passes if the 99th percentile of its exposed times is within the bound. Lengths are
 * assumed to be ordered: what is longer shows longer.
 */
#include <stdlib.h>
#include <string.h>

#include "run_kv.h"
#include "stop.h"

#define PROBES_MAX 40u
#define GAP        16u /* the answer is known to 1 / GAP */

struct search {
    struct kvp_result *r;
    struct kvp_client *c;
    struct kvp_options probe;
    uint32_t passes, fails; /* longest that did, shortest that didn't; 0: none yet */
    uint32_t probes;
};

/* Too long for the memory that may be used counts as failed; the table says so. */
static bool too_big(const struct search *s, uint32_t tokens)
{
    return (double)kvp_geometry_bytes(&s->r->o->geometry, tokens) * s->r->o->parallel >
               s->r->o->memory_max ||
           tokens > KVW_XFER_TOKENS_MAX;
}

static void try_length(struct search *s, uint32_t tokens)
{
    struct kvp_result *r = s->r;
    const uint32_t first = r->row_count;
    struct kvp_round_plan plan;

    ++s->probes;
    s->probe.tokens = tokens;
    kvp_client_close(s->c);
    plan = kvp_plan_of(&s->probe, 0, false, false);
    (void)kvp_result_row(r, "bulk", "raw", &plan);
    plan = kvp_plan_of(&s->probe, 1, r->o->shuffled, true);
    (void)kvp_result_row(r, "streamed", r->o->codecs[0].name, &plan);
    kvp_measure(s->c, &s->probe, r, first);
    kvp_result_finish(r);
    if (r->status != KVP_EXIT_OK)
        return;
    if (r->rows[first + 1].exposed.p99 <= r->o->find_ms)
        s->passes = tokens;
    else
        s->fails = tokens;
}

/* 0: it is found, or there is nothing to find. */
static uint32_t next_length(const struct search *s)
{
    uint32_t next;

    if (s->fails == 0) {
        next = s->passes == 0 ? s->r->o->tokens : 2 * s->passes;
        return too_big(s, next) ? 0 : next;
    }
    if (s->passes == 0)
        return s->fails / 2;
    next = s->passes + (s->fails - s->passes) / 2;
    return s->fails - s->passes <= s->passes / GAP || next == s->passes ? 0 : next;
}

static void print_find(FILE *f, const struct kvp_result *r)
{
    const struct kvp_options *o = r->o;
    uint32_t longest = 0;
    const struct kvp_row *at = NULL;

    fprintf(f, "%7s %9s %9s %9s %9s %6s %9s  %s\n", "tokens", "KV MB", "prefill", "p50", "p99",
            "% flr", "bulk GB/s", "");
    for (uint32_t i = 0; i + 2 <= r->row_count; i += 2) {
        const struct kvp_row *bulk = &r->rows[i], *row = &r->rows[i + 1];

        if (row->count == 0)
            continue;
        const bool passes = row->exposed.p99 <= o->find_ms;

        fprintf(f, "%7u %9.2f %9.2f %9.3f %9.3f %6.1f %9.3f  %s\n", row->plan.tokens,
                (double)kvp_geometry_bytes(&o->geometry, row->plan.tokens) / 1e6,
                row->plan.prefill_ms, row->exposed.p50, row->exposed.p99, row->percent_of_floor,
                bulk->bytes_per_s / 1e9, passes ? "passes" : "");
        if (passes && row->plan.tokens > longest) {
            longest = row->plan.tokens;
            at = row;
        }
    }
    if (at != NULL)
        fprintf(f,
                "\n%u tokens: the longest prompt tried of which 99 of 100 show at most %g ms "
                "(p99 %.3f)\n",
                longest, o->find_ms, at->exposed.p99);
    else
        fprintf(f, "\nNo length tried shows at most %g ms\n", o->find_ms);
}

int kvp_run_find(const struct kvp_options *o)
{
    struct search s = {.probe = *o,
                       .r = calloc(1, sizeof(struct kvp_result)),
                       .c = calloc(1, sizeof(struct kvp_client))};
    int status = KVP_EXIT_FAILED;

    if (s.r == NULL || s.c == NULL) {
        fprintf(stderr, "kvperf: no memory\n");
    } else {
        s.c->line.fd = -1;
        s.r->o = o;
        s.r->mode = "find";
        s.r->print = print_find;
        s.r->client = s.c;
        for (uint32_t next = next_length(&s);
             next > 0 && s.r->status == KVP_EXIT_OK && s.probes < PROBES_MAX;
             next = next_length(&s))
            try_length(&s, next);
        if (s.r->status == KVP_EXIT_OK && s.passes == 0) {
            s.r->status = KVP_EXIT_THRESHOLD;
            snprintf(s.r->why, sizeof(s.r->why), "no prompt shows at most %g ms here", o->find_ms);
        }
        status = kvp_result_out(s.r);
        kvp_client_close(s.c);
        kvp_result_free(s.r);
    }
    free(s.r);
    free(s.c);
    return status;
}
