/* SPDX-License-Identifier: Apache-2.0 */
/* result.c - from rounds to figures. */
#include "result.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "out.h"

#define GIB 1073741824.0

/* What a codec with a bound may do to 16-bit values, as a share of their root mean square. e8 has
 * the noise of fp8 e4m3, e4 of a rotated int4; half as much again for the payload's tails. */
static const double noise_max[] = {0, 0.04, 0.18}; /* by kvw_budget */

struct kvp_row *kvp_result_row(struct kvp_result *r, const char *name, const char *codec,
                               const struct kvp_round_plan *plan)
{
    struct kvp_row *row = &r->rows[r->row_count];

    if (r->row_count == KVP_ROWS_MAX)
        return NULL;
    memset(row, 0, sizeof(*row));
    snprintf(row->name, sizeof(row->name), "%s", name);
    snprintf(row->codec, sizeof(row->codec), "%s", codec);
    row->plan = *plan;
    ++r->row_count;
    return row;
}

static void add_transfer(struct kvp_row *row, struct kvp_transfer *t, uint32_t layers)
{
    struct kvp_sample *s = &row->samples[row->count++];
    const double end_ms = t->computed_ms[layers - 1];
    double last_ms = 0;

    for (uint32_t l = 0; l < layers; ++l)
        last_ms = fmax(last_ms, t->landed_ms[l]);
    *s = (struct kvp_sample){.computed_ms = t->computed_ms, .landed_ms = t->landed_ms};
    t->computed_ms = t->landed_ms = NULL;
    s->total_ms = last_ms;
    s->exposed_ms = fmax(0, last_ms - end_ms);
    s->hidden_ms = kvp_hidden_ms(s->computed_ms, s->landed_ms, layers, end_ms);
    row->raw_bytes += t->raw_bytes;
    row->wire_bytes += t->wire_bytes;
    row->chunks += t->chunks;
    ++row->by_codec[t->codec % 64];
    for (uint32_t i = 0; i < KVP_TP_MAX; ++i) {
        row->shards[i].raw_bytes += t->shards[i].raw_bytes;
        row->shards[i].wire_bytes += t->shards[i].wire_bytes;
        row->shards[i].last_ms += fmax(0, t->shards[i].last_ms - end_ms);
    }
    row->check.bytes += t->check.bytes;
    row->check.wrong += t->check.wrong;
    row->check.noise += t->check.noise;
    row->check.signal += t->check.signal;
    if (row->plan.budget == 0)
        row->data_wrong |= t->check.wrong > 0;
    else
        row->data_wrong |= t->check.noise > t->check.signal * noise_max[row->plan.budget] *
                                                noise_max[row->plan.budget];
}

bool kvp_row_add(struct kvp_row *row, struct kvp_round *round)
{
    const uint32_t needed = row->count + round->requests;

    if (needed > row->room) {
        struct kvp_sample *more = realloc(row->samples, 2 * (size_t)needed * sizeof(*more));

        if (more == NULL)
            return false;
        row->samples = more;
        row->room = 2 * needed;
    }
    for (uint32_t i = 0; i < round->requests; ++i)
        add_transfer(row, &round->transfers[i], round->layers);
    ++row->rounds;
    row->send_cpu_s += round->send_cpu_s;
    row->recv_cpu_s += round->recv_cpu_s;
    row->credit_stalls += round->credit_stalls;
    row->encoder_stalls += round->encoder_stalls;
    row->packets += round->packets;
    row->packets_again += round->packets_again;
    row->chunks_rejected += round->chunks_rejected;
    row->lag_ms = fmax(row->lag_ms, round->lag_ms);
    snprintf(row->why_codec, sizeof(row->why_codec), "%s", round->why_codec);
    return true;
}

/* --- figures ---------------------------------------------------------------------------------- */

/* A layer's share of the wire is its share of the raw bytes; requests of a round share it all. */
static void make_floor(struct kvp_row *row, const struct kvp_geometry *g, double bytes_per_ms)
{
    double bytes[KVW_LAYERS_MAX];
    /* What several shards hold went to each of them. */
    const double shrunk =
        (double)row->wire_bytes / row->count / (double)kvp_geometry_bytes(g, row->plan.tokens);

    for (uint32_t l = 0; l < g->layers; ++l)
        bytes[l] =
            (double)kvp_geometry_layer_bytes(g, l, row->plan.tokens) * shrunk * row->plan.requests;
    for (uint32_t i = 0; i < row->count; ++i)
        row->samples[i].floor_ms =
            kvp_floor_ms(row->samples[i].computed_ms, bytes, g->layers, bytes_per_ms);
    row->floor_ms = row->samples[0].floor_ms; /* the clock is the same for all */
}

static void make_spreads(struct kvp_row *row)
{
    double *values = malloc(row->count * sizeof(*values));
    double hidden = 0, exposed = 0;

    if (values == NULL)
        return;
    for (uint32_t i = 0; i < row->count; ++i)
        values[i] = row->samples[i].total_ms;
    row->total = kvp_spread_of(values, row->count);
    for (uint32_t i = 0; i < row->count; ++i) {
        values[i] = row->samples[i].exposed_ms;
        hidden += row->samples[i].hidden_ms;
        exposed += row->samples[i].exposed_ms;
    }
    row->exposed = kvp_spread_of(values, row->count);
    row->overlap = hidden + exposed > 0 ? hidden / (hidden + exposed) : 0;
    free(values);
    for (uint32_t i = 0; i < row->count; ++i)
        if (row->samples[i].exposed_ms == row->exposed.p50)
            row->typical = i;
}

/* Bytes of a round over the time that its slowest request took: medians of both. */
static double rate_of(const struct kvp_row *row, uint64_t bytes)
{
    return row->total.p50 > 0 ? (double)bytes / row->rounds / row->total.p50 : 0;
}

static void make_figures(struct kvp_row *row)
{
    make_spreads(row);
    row->ratio = (double)row->raw_bytes / (double)row->wire_bytes;
    row->noise = row->check.signal > 0 ? sqrt(row->check.noise / row->check.signal) : 0;
    row->send_cpu_s_per_gib = row->send_cpu_s / ((double)row->raw_bytes / GIB);
    row->recv_cpu_s_per_gib = row->recv_cpu_s / ((double)row->raw_bytes / GIB);
    row->bytes_per_s = 1000 * rate_of(row, row->raw_bytes);
}

/* The bulk row before a row is its ceiling. */
void kvp_result_finish(struct kvp_result *r)
{
    double bulk = 0; /* wire bytes a ms */

    for (uint32_t i = 0; i < r->beside_count; ++i)
        kvp_beside_finish(&r->beside[i]);
    for (uint32_t i = 0; i < r->row_count; ++i) {
        struct kvp_row *row = &r->rows[i];

        if (row->count == 0 || row->raw_bytes == 0)
            continue;
        make_figures(row);
        if (strcmp(row->name, "bulk") == 0)
            bulk = rate_of(row, row->wire_bytes);
        if (!(bulk > 0))
            continue;
        make_floor(row, &r->o->geometry, bulk);
        row->percent_of_floor = row->exposed.p50 > 0 ? 100 * row->floor_ms / row->exposed.p50 : 100;
        row->percent_of_bulk = 100 * rate_of(row, row->wire_bytes) / bulk;
    }
}

void kvp_result_free(struct kvp_result *r)
{
    for (uint32_t i = 0; i < r->row_count; ++i) {
        for (uint32_t k = 0; k < r->rows[i].count; ++k)
            free(r->rows[i].samples[k].computed_ms);
        free(r->rows[i].samples);
    }
    r->row_count = 0;
    for (uint32_t i = 0; i < r->beside_count; ++i)
        kvp_beside_free(&r->beside[i]);
    r->beside_count = 0;
}

static bool missed(struct kvp_result *r, const struct kvp_row *row)
{
    const struct kvp_options *o = r->o;

    if (o->max_exposed_ms >= 0 && row->exposed.p50 > o->max_exposed_ms)
        snprintf(r->why, sizeof(r->why),
                 "row %s %s: the median of the exposed time is %.3f ms, --max-exposed-ms is %g",
                 row->name, row->codec, row->exposed.p50, o->max_exposed_ms);
    else if (o->min_percent_of_floor >= 0 && row->percent_of_floor < o->min_percent_of_floor)
        snprintf(r->why, sizeof(r->why),
                 "row %s %s: %.1f %% of the physical floor, --min-percent-of-floor is %g",
                 row->name, row->codec, row->percent_of_floor, o->min_percent_of_floor);
    else
        return false;
    return true;
}

void kvp_result_judge(struct kvp_result *r)
{
    for (uint32_t i = 0; i < r->row_count && r->status == KVP_EXIT_OK; ++i)
        if (r->rows[i].data_wrong) {
            r->status = KVP_EXIT_DATA;
            snprintf(r->why, sizeof(r->why),
                     "row %s %s: %llu of %llu bytes that arrived differ from those that were sent",
                     r->rows[i].name, r->rows[i].codec, (unsigned long long)r->rows[i].check.wrong,
                     (unsigned long long)r->rows[i].check.bytes);
        }
    for (uint32_t i = 0; i < r->row_count && r->status == KVP_EXIT_OK; ++i)
        if (r->rows[i].count > 0 && r->rows[i].plan.streamed && missed(r, &r->rows[i]))
            r->status = KVP_EXIT_THRESHOLD;
}

/* --- out -------------------------------------------------------------------------------------- */

static void print(FILE *f, const void *of)
{
    const struct kvp_result *r = of;

    if (r->print != NULL)
        r->print(f, r);
    else
        kvp_table_print(f, r);
}

static cJSON *to_json(const void *of)
{
    return kvp_result_json(of);
}

static void to_csv(FILE *f, const void *of)
{
    const struct kvp_result *r = of;

    fprintf(f,
            "row,codec,order,tokens,requests,rounds,exposed_ms_p50,exposed_ms_p90,"
            "exposed_ms_p99,exposed_ms_p999,exposed_ms_max,total_ms_p50,overlap_percent,floor_ms,"
            "percent_of_floor,percent_of_bulk,gb_per_s,gib_per_s,ratio,cpu_s_per_gib_sender,"
            "cpu_s_per_gib_receiver,data_equal\n");
    for (uint32_t i = 0; i < r->row_count; ++i) {
        const struct kvp_row *x = &r->rows[i];

        if (x->count == 0)
            continue;
        fprintf(f, "%s,%s,%s,%u,%u,%u,%.6f,%.6f,%.6f,%.6f,%.6f,%.6f,", x->name, x->codec,
                x->plan.shuffled ? "random" : "contiguous", x->plan.tokens, x->plan.requests,
                x->rounds, x->exposed.p50, x->exposed.p90, x->exposed.p99, x->exposed.p999,
                x->exposed.max, x->total.p50);
        fprintf(f, "%.3f,%.6f,%.3f,%.3f,%.6f,%.6f,%.4f,%.4f,%.4f,%d\n", 100 * x->overlap,
                x->floor_ms, x->percent_of_floor, x->percent_of_bulk, x->bytes_per_s / 1e9,
                x->bytes_per_s / GIB, x->ratio, x->send_cpu_s_per_gib, x->recv_cpu_s_per_gib,
                x->check.bytes == 0 ? -1 : !x->data_wrong);
    }
}

int kvp_result_out(struct kvp_result *r)
{
    kvp_intervals_end(&r->intervals);
    kvp_result_finish(r);
    kvp_result_judge(r);
    const struct kvp_out out = {.o = r->o,
                                .status = r->status,
                                .why = r->why,
                                .of = r,
                                .print = print,
                                .json = to_json,
                                .csv = to_csv};

    return r->status = kvp_out(&out);
}
