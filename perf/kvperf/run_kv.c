/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_kv.c - modes kv, bw and lat. Rows of a run take turns (A B C, A B C ...):
 *
 *     bulk      raw, contiguous blocks, all layers at once: the ceiling of this path
 *     after     raw, blocks as asked for, all layers at once when the prefill is over
 *     streamed  kv: a row a codec, each layer when it is computed
 *     all       bw, lat: a row a codec, all layers at once
 */
#include "run_kv.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "stop.h"

struct kvp_round_plan kvp_plan_of(const struct kvp_options *o, uint32_t lane, bool shuffled,
                                  bool streamed)
{
    return (struct kvp_round_plan){
        .lane = lane,
        .tokens = o->tokens,
        .requests = o->parallel,
        .shuffled = shuffled,
        .streamed = streamed,
        .prefill_ms = 1000.0 * o->tokens / o->geometry.prefill_tok_s,
        .chunk_tokens = o->chunk_tokens,
        .budget = lane == 0 ? 0 : o->codecs[lane - 1].budget,
        .verify = o->verify,
        .flip = o->flip,
        .timeout_ns = o->timeout_ns,
    };
}

static void make_rows(struct kvp_result *r)
{
    const struct kvp_options *o = r->o;
    const bool kv = o->command == KVP_KV;
    struct kvp_round_plan plan = kvp_plan_of(o, 0, false, false);

    (void)kvp_result_row(r, "bulk", "raw", &plan);
    plan = kvp_plan_of(o, 0, o->shuffled, false);
    if (kv)
        (void)kvp_result_row(r, "after", "raw", &plan);
    for (uint32_t i = 0; i < o->codec_count; ++i) {
        plan = kvp_plan_of(o, i + 1, o->shuffled, kv);
        (void)kvp_result_row(r, kv ? "streamed" : "all", o->codecs[i].name, &plan);
    }
}

static void progress(const struct kvp_options *o, uint32_t rep)
{
    if (isatty(STDERR_FILENO) && !o->json)
        fprintf(stderr, "\r%u of %u ", rep, o->reps + o->omit);
}

/* How the sender's blocks are filled. */
struct lies {
    bool shuffled;
    uint32_t tokens;
};

/* Fill them as the next row reads them, if they aren't. */
static void lay_values(struct kvp_client *c, const struct kvp_round_plan *plan, struct lies *lies)
{
    if (lies->shuffled == plan->shuffled && lies->tokens == plan->tokens)
        return;
    for (uint32_t i = 0; i < c->o->parallel; ++i)
        kvp_client_fill(c, i, plan->tokens, plan->shuffled);
    *lies = (struct lies){plan->shuffled, plan->tokens};
}

/* A request counts where it happened, warm-up included. */
static void tell_interval(struct kvp_result *r, const struct kvp_round *round, uint32_t request)
{
    const struct kvp_transfer *t = &round->transfers[request];
    double last_ms = -1;

    for (uint32_t l = 0; l < round->layers; ++l)
        if (t->landed_ms[l] > last_ms)
            last_ms = t->landed_ms[l];
    const double exposed_ms = last_ms - t->computed_ms[round->layers - 1];

    kvp_intervals_add(&r->intervals,
                      t->err != KVW_OK ? -1
                      : exposed_ms > 0 ? exposed_ms
                                       : 0,
                      (double)t->raw_bytes);
}

static enum kvp_exit measure(struct kvp_client *c, struct kvp_result *r, uint32_t first)
{
    struct lies lies = {c->o->shuffled, c->tokens};

    for (uint32_t rep = 0; rep < c->o->reps + c->o->omit; ++rep) {
        for (uint32_t i = 0; i < r->beside_count && rep >= c->o->omit; ++i)
            kvp_beside_measure(&r->beside[i], c,
                               kvp_geometry_bytes(&c->o->geometry, c->o->tokens) * c->o->parallel);
        for (uint32_t i = first; i < r->row_count; ++i) {
            struct kvp_round round = {0};
            enum kvp_exit status;

            progress(c->o, rep + 1);
            lay_values(c, &r->rows[i].plan, &lies);
            status = kvp_client_round(c, &r->rows[i].plan, &round, r->why);
            for (uint32_t k = 0; k < round.requests; ++k)
                tell_interval(r, &round, k);
            if (status == KVP_EXIT_OK && rep >= c->o->omit && !kvp_row_add(&r->rows[i], &round))
                status = KVP_EXIT_FAILED;
            kvp_round_free(&round);
            if (status != KVP_EXIT_OK)
                return status;
        }
    }
    return KVP_EXIT_OK;
}

void kvp_measure(struct kvp_client *c, const struct kvp_options *o, struct kvp_result *r,
                 uint32_t first)
{
    char why[KVP_WHY];

    r->status = kvp_client_open(c, o, o->tokens, r->why);
    kvp_intervals_begin(&r->intervals, r->o);
    if (r->status == KVP_EXIT_OK)
        r->status = measure(c, r, first);
    if (r->status == KVP_EXIT_SERVER && o->host != NULL) {
        snprintf(why, sizeof(why), "%s", r->why);
        snprintf(r->why, sizeof(r->why), "server %.60s: %.180s", o->host, why);
    }
    if (r->status == KVP_EXIT_INTERRUPTED)
        snprintf(r->why, sizeof(r->why), "stopped; the figures are those until then");
    if (isatty(STDERR_FILENO) && !o->json)
        fprintf(stderr, "\r           \r");
}

int kvp_run_kv(const struct kvp_options *o)
{
    struct kvp_result *r = calloc(1, sizeof(*r));
    struct kvp_client *c = calloc(1, sizeof(*c));
    int status = KVP_EXIT_FAILED;

    if (r == NULL || c == NULL) {
        fprintf(stderr, "kvperf: no memory\n");
    } else {
        r->o = o;
        r->mode = o->command == KVP_KV ? "kv" : o->command == KVP_BW ? "bw" : "lat";
        r->client = c;
        make_rows(r);
        for (; r->beside_count < o->beside_count; ++r->beside_count)
            (void)kvp_beside_named(&r->beside[r->beside_count], o->beside[r->beside_count]);
        kvp_measure(c, o, r, 0);
        status = kvp_result_out(r);
        kvp_client_close(c);
        kvp_result_free(r);
    }
    free(r);
    free(c);
    return status;
}
