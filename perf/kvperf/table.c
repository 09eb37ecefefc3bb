/* SPDX-License-Identifier: Apache-2.0 */
/* table.c - a result for people. */
#include "result.h"

#include <string.h>

#define GIB 1073741824.0

static const char *grouped(double bytes, char *to, size_t size)
{
    snprintf(to, size,
             bytes < 1e6   ? "%.0f B"
             : bytes < 1e9 ? "%.1f MB"
                           : "%.2f GB",
             bytes < 1e6   ? bytes
             : bytes < 1e9 ? bytes / 1e6
                           : bytes / 1e9);
    return to;
}

static void print_head(FILE *f, const struct kvp_result *r)
{
    const struct kvp_options *o = r->o;
    const struct kvp_geometry *g = &o->geometry;
    const double bytes = (double)kvp_geometry_bytes(g, o->tokens);
    char text[32];

    if (o->title != NULL)
        fprintf(f, "%s\n", o->title);
    fprintf(f, "kvperf %s: %s, %u tokens, %s (%.3f GiB) of KV in %u layers%s\n", kvw_version(),
            g->name, o->tokens, grouped(bytes, text, sizeof(text)), bytes / GIB, g->layers,
            o->parallel > 1 ? ", each of" : "");
    if (o->parallel > 1)
        fprintf(f, "          %u prompts at once\n", o->parallel);
    fprintf(f, "prefill:  %g tokens/s (%s): %.1f ms%s", g->prefill_tok_s, g->clock,
            1000.0 * o->tokens / g->prefill_tok_s, o->chunk_tokens > 0 ? ", in chunks" : "");
    if (o->tp > 1 || o->tp_there > 1)
        fprintf(f, "; %u shards to %u", o->tp, o->tp_there);
    fprintf(f, "; blocks of %u tokens", o->block_tokens);
    if (o->block_tokens_there != o->block_tokens)
        fprintf(f, " here, %u there", o->block_tokens_there);
    fprintf(f, ", %s\n", o->shuffled ? "in random order" : "contiguous");
    if (r->client == NULL || r->client->lane_count == 0)
        return;
    fprintf(f, "path:     %s", o->net);
    if (strcmp(o->net, "udp") == 0)
        fprintf(f, ", %s to %s", r->client->here, r->client->there);
    else if (o->link != NULL)
        fprintf(f, ", %s to %s", o->link, r->client->there);
    fprintf(f, "%s", o->host == NULL ? ", both ends here" : "");
    if (r->client->lanes[0].path[0] != '\0')
        fprintf(f, "; %s", r->client->lanes[0].path);
    if (r->client->offset_error_ns > 0)
        fprintf(f, "\nclocks:   compared, +- %.3f ms", (double)r->client->offset_error_ns / 1e6);
    fprintf(f, "\n\n");
}

static void print_row(FILE *f, const struct kvp_row *row)
{
    fprintf(f, "%-9s %-6s %9.3f %9.3f %9.3f %9.3f %6.1f", row->name, row->codec, row->exposed.p50,
            row->exposed.p90, row->exposed.p99, row->exposed.max, 100 * row->overlap);
    if (row->floor_ms > 0)
        fprintf(f, " %9.3f %6.1f", row->floor_ms, row->percent_of_floor);
    else
        fprintf(f, " %9s %6s", "-", "-");
    fprintf(f, " %7.3f %7.3f %6.3f %6.2f %6.2f", row->bytes_per_s / 1e9, row->bytes_per_s / GIB,
            row->ratio, row->send_cpu_s_per_gib, row->recv_cpu_s_per_gib);
    if (row->check.bytes == 0)
        fprintf(f, "  not compared\n");
    else if (row->data_wrong)
        fprintf(f, "  WRONG: %llu B\n", (unsigned long long)row->check.wrong);
    else if (row->plan.budget > 0 && row->check.wrong > 0)
        fprintf(f, "  noise %.2f %%\n", 100 * row->noise);
    else
        fprintf(f, "  equal\n");
}

static void print_codecs(FILE *f, const struct kvp_row *row)
{
    if (!row->plan.streamed || row->why_codec[0] == '\0')
        return;
    fprintf(f, "codec %s:", row->codec);
    for (uint32_t c = 0; c < 64; ++c)
        if (row->by_codec[c] > 0)
            fprintf(f, " %s", kvp_codec_name(c));
    fprintf(f, "; %s\n", row->why_codec);
}

/* Each shard's share, and when it had all of it. */
static void print_shards(FILE *f, const struct kvp_row *row, uint32_t shards)
{
    char text[32];

    if (!row->plan.streamed || shards < 2)
        return;
    fprintf(f, "shards, %s:", row->codec);
    for (uint32_t i = 0; i < shards; ++i)
        fprintf(f, " %s %.3f ms", grouped((double)row->shards[i].raw_bytes / row->rounds, text, 32),
                row->shards[i].last_ms / row->count);
    fprintf(f, " exposed (means); the last one counts\n");
}

/* What the sender's transport sent for a row, and how much of it again. */
static void print_packets(FILE *f, const struct kvp_row *row)
{
    if (row->packets == 0)
        return;
    fprintf(f, "%s %s: %.1f packets a round, %.2f %% of them again; %llu waits for landing slots\n",
            row->name, row->codec, (double)row->packets / row->rounds,
            100.0 * (double)row->packets_again / (double)row->packets,
            (unsigned long long)row->credit_stalls);
}

/* Streamed rows beside the row that sends after the prefill. */
static void print_gain(FILE *f, const struct kvp_result *r)
{
    const struct kvp_row *after = NULL;

    for (uint32_t i = 0; i < r->row_count; ++i)
        if (strcmp(r->rows[i].name, "after") == 0 && r->rows[i].count > 0)
            after = &r->rows[i];
    for (uint32_t i = 0; after != NULL && i < r->row_count; ++i) {
        const struct kvp_row *row = &r->rows[i];

        if (!row->plan.streamed || row->count == 0 || !(after->exposed.p50 > 0))
            continue;
        fprintf(f,
                "streamed %s: %.3f ms exposed are %.1f %% of raw sent after the prefill (%.3f ms), "
                "%.1f %% of the time to the first token\n",
                row->codec, row->exposed.p50, 100 * row->exposed.p50 / after->exposed.p50,
                after->exposed.p50,
                100 * row->exposed.p50 / (row->exposed.p50 + row->plan.prefill_ms));
    }
}

/* Yardsticks, and what the row bulk is of each. */
static void print_beside(FILE *f, const struct kvp_result *r)
{
    const double bulk = r->row_count > 0 ? r->rows[0].bytes_per_s : 0;

    for (uint32_t i = 0; i < r->beside_count; ++i) {
        const struct kvp_beside *b = &r->beside[i];

        if (b->count > 0)
            fprintf(f,
                    "beside %s: the same bytes at %.3f GB/s (%.3f GiB/s; %.3f .. %.3f GB/s); bulk "
                    "is %.1f %% of it\n",
                    b->name, b->spread.p50 / 1e9, b->spread.p50 / GIB, b->spread.min / 1e9,
                    b->spread.max / 1e9, 100 * bulk / b->spread.p50);
        if (b->why[0] != '\0')
            fprintf(f, "beside %s: %s\n", b->name, b->why);
    }
}

void kvp_table_print(FILE *f, const struct kvp_result *r)
{
    uint32_t measured = 0;

    for (uint32_t i = 0; i < r->row_count; ++i)
        measured += r->rows[i].count;
    if (measured == 0)
        return; /* why not is said elsewhere */
    print_head(f, r);
    fprintf(f, "%-16s %39s %6s %16s %15s %6s %13s\n", "", "exposed, ms", "over-", "physical floor",
            "KV moved", "raw /", "CPU-s per GiB");
    fprintf(f, "%-9s %-6s %9s %9s %9s %9s %6s %9s %6s %7s %7s %6s %6s %6s  %s\n", "row", "codec",
            "p50", "p90", "p99", "max", "lap %", "ms", "%", "GB/s", "GiB/s", "wire", "sends",
            "takes", "data");
    for (uint32_t i = 0; i < r->row_count; ++i)
        if (r->rows[i].count > 0)
            print_row(f, &r->rows[i]);
    fprintf(f, "\n");
    print_gain(f, r);
    print_beside(f, r);
    for (uint32_t i = 0; i < r->row_count; ++i)
        if (r->rows[i].count > 0)
            print_packets(f, &r->rows[i]);
    for (uint32_t i = 0; i < r->row_count; ++i)
        if (r->rows[i].count > 0)
            print_codecs(f, &r->rows[i]);
    for (uint32_t i = 0; i < r->row_count; ++i)
        if (r->rows[i].count > 0)
            print_shards(f, &r->rows[i], r->o->tp_there);
    for (uint32_t i = 0; i < r->row_count && r->o->gantt; ++i)
        if (r->rows[i].count > 0 && r->rows[i].plan.streamed)
            kvp_gantt_print(f, &r->rows[i], r->o->geometry.layers);
}
