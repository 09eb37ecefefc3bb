/* SPDX-License-Identifier: Apache-2.0 */
/* replay_print.c - what became of a trace, for people and for programs. */
#include "run_replay.h"

#define GIB 1073741824.0

static double per_gib(const struct kvp_replay_result *r, double s)
{
    return r->raw_bytes > 0 ? s / ((double)r->raw_bytes / GIB) : 0;
}

static const char *verdict(const struct kvp_replay_result *r)
{
    return r->check.bytes == 0   ? "not compared"
           : r->data_wrong       ? "wrong"
           : r->check.wrong == 0 ? "equal"
                                 : "within the codec's bound";
}

static void print_spread(FILE *f, const char *name, const struct kvp_spread *s, const char *what)
{
    fprintf(f, "%-8s %10.3f %10.3f %10.3f %10.3f %10.3f  %s\n", name, s->p50, s->p90, s->p99,
            s->p999, s->max, what);
}

void kvp_replay_print(FILE *f, const void *of)
{
    const struct kvp_replay_result *r = of;
    const struct kvp_options *o = &r->o;

    if (r->begun == 0)
        return; /* why not is said elsewhere */
    if (o->title != NULL)
        fprintf(f, "%s\n", o->title);
    fprintf(f,
            "kvperf %s: %s, %u requests of %s\n"
            "          times / %g, lengths x %g, %u to %u tokens cut to; blocks for %u at once\n",
            kvw_version(), o->geometry.name, r->trace.count, o->trace, o->speed, o->scale,
            r->trace.cut, r->trace.longest, o->parallel);
    fprintf(f, "prefill:  %g tokens/s (%s)\npath:     %s, %s to %s%s; codec %s\n\n",
            o->geometry.prefill_tok_s, o->geometry.clock, o->net, r->c.here, r->c.there,
            o->host == NULL ? ", both ends here" : "", o->codecs[0].name);
    fprintf(f, "offered  %10.3f requests/s, %8.4f GB/s (%.4f GiB/s)\n", r->offered_per_s,
            r->offered_bytes_per_s / 1e9, r->offered_bytes_per_s / GIB);
    fprintf(f, "achieved %10.3f requests/s, %8.4f GB/s (%.4f GiB/s); %.1f s in all\n",
            r->achieved_per_s, r->achieved_bytes_per_s / 1e9, r->achieved_bytes_per_s / GIB,
            r->took_ms / 1e3);
    fprintf(f, "         %u done, %u failed (%u timed out), %u not over, %u not begun\n\n", r->done,
            r->failed, r->timed_out, r->begun - r->done - r->failed, r->trace.count - r->begun);
    fprintf(f, "%-8s %10s %10s %10s %10s %10s\n", "ms", "p50", "p90", "p99", "p99.9", "max");
    print_spread(f, "latency", &r->latency, "from when a request was to begin until all landed");
    print_spread(f, "exposed", &r->exposed, "of that, after the end of its prefill");
    print_spread(f, "waited", &r->wait, "of that, for blocks that others had");
    print_spread(f, "lag", &r->lag, "this program's own, in beginning a request; part of latency");
    fprintf(f,
            "\nlatest push of a layer %.3f ms behind its time, waits included; raw / wire %.3f; "
            "CPU-s per GiB "
            "%.2f + %.2f (comparing included); data: %s\n",
            r->push_lag_ms, r->wire_bytes > 0 ? (double)r->raw_bytes / (double)r->wire_bytes : 0,
            per_gib(r, r->send_cpu_s), per_gib(r, r->recv_cpu_s),
            r->data_wrong ? "WRONG" : verdict(r));
}

static void put(cJSON *o, const char *field, double value)
{
    cJSON_AddNumberToObject(o, field, value);
}

static cJSON *config(const struct kvp_replay_result *r)
{
    const struct kvp_options *o = &r->o;
    cJSON *to = cJSON_CreateObject();

    cJSON_AddStringToObject(to, "trace", o->trace);
    put(to, "requests", r->trace.count);
    put(to, "tokens", (double)r->trace.tokens);
    put(to, "tokens_longest", r->trace.longest);
    put(to, "requests_cut", r->trace.cut);
    put(to, "speed", o->speed);
    put(to, "scale", o->scale);
    put(to, "duration_s", o->duration_s);
    cJSON_AddBoolToObject(to, "spread", o->spread);
    put(to, "slots", o->parallel);
    put(to, "max_lag_ms", o->max_lag_ms);
    put(to, "timeout_s", (double)o->timeout_ns / 1e9);
    cJSON_AddItemToObject(to, "geometry", kvp_geometry_to_json(&o->geometry));
    put(to, "prefill_tok_s", o->geometry.prefill_tok_s);
    cJSON_AddStringToObject(to, "codec", o->codecs[0].name);
    cJSON_AddStringToObject(to, "order", o->shuffled ? "random" : "contiguous");
    cJSON_AddStringToObject(to, "fault", o->fault != NULL ? o->fault : "");
    return to;
}

static cJSON *rates(double requests, double bytes)
{
    cJSON *to = cJSON_CreateObject();

    put(to, "requests_per_s", requests);
    put(to, "gb_per_s", bytes / 1e9);
    put(to, "gib_per_s", bytes / GIB);
    return to;
}

cJSON *kvp_replay_json(const void *of)
{
    const struct kvp_replay_result *r = of;
    cJSON *o = kvp_json_head("replay", &r->o, &r->c), *data;
    const struct {
        const char *name;
        const struct kvp_spread *s;
    } spreads[] = {{"latency_ms", &r->latency},
                   {"exposed_ms", &r->exposed},
                   {"wait_ms", &r->wait},
                   {"lag_ms", &r->lag}};

    cJSON_AddItemToObject(o, "config", config(r));
    cJSON_AddItemToObject(o, "offered", rates(r->offered_per_s, r->offered_bytes_per_s));
    cJSON_AddItemToObject(o, "achieved", rates(r->achieved_per_s, r->achieved_bytes_per_s));
    put(o, "begun", r->begun);
    put(o, "done", r->done);
    put(o, "failed", r->failed);
    put(o, "timed_out", r->timed_out);
    cJSON_AddStringToObject(o, "first_failure", r->first_failure);
    for (size_t i = 0; i < sizeof(spreads) / sizeof(spreads[0]); ++i)
        if (spreads[i].s->n > 0)
            cJSON_AddItemToObject(o, spreads[i].name, kvp_json_spread(spreads[i].s));
    put(o, "took_s", r->took_ms / 1e3);
    put(o, "push_lag_ms_max", r->push_lag_ms);
    put(o, "bytes_raw", (double)r->raw_bytes);
    put(o, "bytes_wire", (double)r->wire_bytes);
    put(o, "cpu_s_per_gib_sender", per_gib(r, r->send_cpu_s));
    put(o, "cpu_s_per_gib_receiver", per_gib(r, r->recv_cpu_s));
    data = cJSON_AddObjectToObject(o, "data");
    cJSON_AddStringToObject(data, "verdict", verdict(r));
    put(data, "bytes_compared", (double)r->check.bytes);
    put(data, "bytes_different", (double)r->check.wrong);
    kvp_json_end(o, r->status, r->why);
    return o;
}

void kvp_replay_csv(FILE *f, const void *of)
{
    const struct kvp_replay_result *r = of;

    fprintf(f, "request,at_ms,tokens,begun,err,lag_ms,wait_ms,landed_ms,exposed_ms\n");
    for (uint32_t i = 0; i < r->trace.count && r->each != NULL; ++i) {
        const struct kvp_replayed *e = &r->each[i];
        const struct kvp_arrival *a = &r->trace.each[i];
        const double exposed = e->landed_ms - a->at_ms - kvp_replay_prefill_ms(r, i);

        fprintf(f, "%u,%.6f,%u,%d,%d,%.6f,%.6f,", i, a->at_ms, a->tokens, e->begun, e->err,
                e->lag_ms, e->wait_ms);
        if (e->over && e->err == KVW_OK)
            fprintf(f, "%.6f,%.6f\n", e->landed_ms, exposed > 0 ? exposed : 0);
        else
            fprintf(f, ",\n");
    }
}
