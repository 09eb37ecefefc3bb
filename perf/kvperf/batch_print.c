/* SPDX-License-Identifier: Apache-2.0 */
/* batch_print.c - what batches took, for people and for programs. */
#include "run_batch.h"

#define GIB 1073741824.0

static const char *verdict(const struct kvp_batch_row *row)
{
    return row->check.bytes == 0 ? "not compared" : row->check.wrong > 0 ? "wrong" : "equal";
}

static double per_gib(double s, const struct kvp_batch_row *row)
{
    return s / ((double)row->bytes / GIB);
}

void kvp_batch_print(FILE *f, const void *of)
{
    const struct kvp_batch_result *r = of;
    const struct kvp_options *o = r->o;
    uint32_t rounds = 0;

    for (uint32_t i = 0; i < r->row_count; ++i)
        rounds += r->rows[i].rounds;
    if (rounds == 0)
        return; /* why not is said elsewhere */
    if (o->title != NULL)
        fprintf(f, "%s\n", o->title);
    fprintf(f,
            "kvperf %s: batches of %u pieces, %u in flight, %u posts a round\n"
            "path:     %s, %s to %s%s; %s\n\n",
            kvw_version(), o->pieces, o->depth, o->posts, o->net, r->c.here, r->c.there,
            o->host == NULL ? ", both ends here" : "", r->c.lanes[0].path);
    fprintf(f, "%-5s %-10s %9s %8s %8s %8s %27s %8s %8s %13s %7s\n", "", "", "piece", "", "",
            "% of", "a post, ms", "call", "make", "CPU-s per GiB", "talk");
    fprintf(f, "%-5s %-10s %9s %8s %8s %8s %9s %8s %8s %8s %8s %6s %6s %7s  %s\n", "op", "order",
            "bytes", "GB/s", "GiB/s", "contig.", "p50", "p99", "max", "us p50", "us max", "here",
            "there", "%", "data");
    for (uint32_t i = 0; i < r->row_count; ++i) {
        const struct kvp_batch_row *x = &r->rows[i];

        if (x->rounds == 0)
            continue;
        fprintf(f, "%-5s %-10s %9llu %8.3f %8.3f %8.1f %9.3f %8.3f %8.3f %8.1f %8.1f",
                x->read ? "READ" : "WRITE", x->scattered ? "scattered" : "contiguous",
                (unsigned long long)x->piece_bytes, x->rate / 1e9, x->rate / GIB,
                x->percent_of_contiguous, x->took.p50, x->took.p99, x->took.max, x->post.p50,
                x->make_us);
        fprintf(f, " %6.2f %6.2f %7.3f  %s\n", per_gib(x->send_cpu_s, x), per_gib(x->recv_cpu_s, x),
                100.0 * (double)x->message_bytes / (double)x->bytes,
                x->check.wrong > 0 ? "WRONG" : verdict(x));
    }
}

static cJSON *row_json(const struct kvp_batch_result *r, const struct kvp_batch_row *x)
{
    cJSON *o = cJSON_CreateObject(), *data;

    cJSON_AddStringToObject(o, "op", x->read ? "read" : "write");
    cJSON_AddStringToObject(o, "order", x->scattered ? "scattered" : "contiguous");
    cJSON_AddNumberToObject(o, "piece_bytes", (double)x->piece_bytes);
    cJSON_AddNumberToObject(o, "pieces", r->o->pieces);
    cJSON_AddNumberToObject(o, "rounds", x->rounds);
    if (x->rounds == 0)
        return o;
    cJSON_AddNumberToObject(o, "posts", x->posts);
    cJSON_AddNumberToObject(o, "runs", x->runs);
    cJSON_AddNumberToObject(o, "bytes", (double)x->bytes);
    cJSON_AddItemToObject(o, "post_ms", kvp_json_spread(&x->took));
    cJSON_AddItemToObject(o, "call_us", kvp_json_spread(&x->post));
    cJSON_AddNumberToObject(o, "make_us_max", x->make_us);
    cJSON_AddNumberToObject(o, "gb_per_s", x->rate / 1e9);
    cJSON_AddNumberToObject(o, "gib_per_s", x->rate / GIB);
    cJSON_AddNumberToObject(o, "percent_of_contiguous", x->percent_of_contiguous);
    cJSON_AddNumberToObject(o, "cpu_s_per_gib_here", per_gib(x->send_cpu_s, x));
    cJSON_AddNumberToObject(o, "cpu_s_per_gib_there", per_gib(x->recv_cpu_s, x));
    cJSON_AddNumberToObject(o, "message_bytes_there", (double)x->message_bytes);
    data = cJSON_AddObjectToObject(o, "data");
    cJSON_AddStringToObject(data, "verdict", verdict(x));
    cJSON_AddNumberToObject(data, "bytes_compared", (double)x->check.bytes);
    cJSON_AddNumberToObject(data, "bytes_different", (double)x->check.wrong);
    cJSON_AddNumberToObject(data, "digests_failed", (double)x->chunks_rejected);
    return o;
}

cJSON *kvp_batch_json(const void *of)
{
    const struct kvp_batch_result *r = of;
    cJSON *o = kvp_json_head("batch", r->o, &r->c), *config, *rows;

    config = cJSON_AddObjectToObject(o, "config");
    cJSON_AddNumberToObject(config, "pieces", r->o->pieces);
    cJSON_AddNumberToObject(config, "depth", r->o->depth);
    cJSON_AddNumberToObject(config, "posts", r->o->posts);
    cJSON_AddNumberToObject(config, "reps", r->o->reps);
    cJSON_AddNumberToObject(config, "omit", r->o->omit);
    cJSON_AddNumberToObject(config, "seed", (double)r->o->seed);
    cJSON_AddStringToObject(config, "fault", r->o->fault != NULL ? r->o->fault : "");
    rows = cJSON_AddArrayToObject(o, "rows");
    for (uint32_t i = 0; i < r->row_count; ++i)
        cJSON_AddItemToArray(rows, row_json(r, &r->rows[i]));
    kvp_json_end(o, r->status, r->why);
    return o;
}

void kvp_batch_csv(FILE *f, const void *of)
{
    const struct kvp_batch_result *r = of;

    fprintf(f, "op,order,piece_bytes,pieces,depth,posts,gb_per_s,gib_per_s,percent_of_contiguous,"
               "post_ms_p50,post_ms_p99,post_ms_max,call_us_p50,cpu_s_per_gib_here,"
               "cpu_s_per_gib_there,data\n");
    for (uint32_t i = 0; i < r->row_count; ++i) {
        const struct kvp_batch_row *x = &r->rows[i];

        if (x->rounds > 0)
            fprintf(f, "%s,%s,%llu,%u,%u,%u,%.6f,%.6f,%.3f,%.6f,%.6f,%.6f,%.3f,%.4f,%.4f,%s\n",
                    x->read ? "read" : "write", x->scattered ? "scattered" : "contiguous",
                    (unsigned long long)x->piece_bytes, r->o->pieces, r->o->depth, x->posts,
                    x->rate / 1e9, x->rate / GIB, x->percent_of_contiguous, x->took.p50,
                    x->took.p99, x->took.max, x->post.p50, per_gib(x->send_cpu_s, x),
                    per_gib(x->recv_cpu_s, x), verdict(x));
    }
}
