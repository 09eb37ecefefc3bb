/* SPDX-License-Identifier: Apache-2.0 */
/* result_json.c - a result for programs. schema.json describes every field; a change of their
 * meaning is another KVP_SCHEMA. */
#include "result.h"

#include "out.h"

static void put(cJSON *o, const char *field, double value)
{
    cJSON_AddNumberToObject(o, field, value);
}

static cJSON *config(const struct kvp_options *o)
{
    static const char *const layouts[] = {"layer", "head", "block"};
    static const char *const payloads[] = {"recorded", "random", "file"};
    cJSON *to = cJSON_CreateObject();

    cJSON_AddItemToObject(to, "geometry", kvp_geometry_to_json(&o->geometry));
    put(to, "tokens", o->tokens);
    put(to, "bytes", (double)kvp_geometry_bytes(&o->geometry, o->tokens));
    put(to, "parallel", o->parallel);
    put(to, "tp_sender", o->tp);
    put(to, "tp_receiver", o->tp_there);
    put(to, "block_tokens_sender", o->block_tokens);
    put(to, "block_tokens_receiver", o->block_tokens_there);
    cJSON_AddStringToObject(to, "order", o->shuffled ? "random" : "contiguous");
    cJSON_AddStringToObject(to, "layout", layouts[o->layout]);
    cJSON_AddStringToObject(to, "payload", payloads[o->payload]);
    put(to, "seed", (double)o->seed);
    put(to, "prefill_tok_s", o->geometry.prefill_tok_s);
    cJSON_AddStringToObject(to, "prefill_clock", o->geometry.clock);
    put(to, "prefill_ms", 1000.0 * o->tokens / o->geometry.prefill_tok_s);
    put(to, "prefill_chunk_tokens", o->chunk_tokens);
    put(to, "encoders", o->encoders);
    put(to, "reps", o->reps);
    put(to, "omit", o->omit);
    cJSON_AddStringToObject(to, "fault", o->fault != NULL ? o->fault : "");
    return to;
}

static void add_layers(cJSON *row, const struct kvp_row *from, uint32_t layers)
{
    const struct kvp_sample *s = &from->samples[from->typical];
    cJSON *list = cJSON_AddArrayToObject(row, "layers");

    for (uint32_t l = 0; l < layers; ++l) {
        cJSON *o = cJSON_CreateObject();

        put(o, "computed_ms", s->computed_ms[l]);
        put(o, "landed_ms", s->landed_ms[l]);
        cJSON_AddItemToArray(list, o);
    }
}

static void add_codecs(cJSON *row, const struct kvp_row *from)
{
    cJSON *o = cJSON_AddObjectToObject(row, "codecs_used");

    for (uint32_t c = 0; c < 64; ++c)
        if (from->by_codec[c] > 0)
            put(o, kvp_codec_name(c), (double)from->by_codec[c]);
    cJSON_AddStringToObject(row, "codec_why", from->why_codec);
}

static void add_check(cJSON *row, const struct kvp_row *from)
{
    cJSON *o = cJSON_AddObjectToObject(row, "data");

    cJSON_AddStringToObject(o, "verdict",
                            from->check.bytes == 0   ? "not compared"
                            : from->data_wrong       ? "wrong"
                            : from->check.wrong == 0 ? "equal"
                                                     : "within the codec's bound");
    put(o, "bytes_compared", (double)from->check.bytes);
    put(o, "bytes_different", (double)from->check.wrong);
    put(o, "noise", from->noise);
    put(o, "digests_failed", (double)from->chunks_rejected);
}

static void add_shards(cJSON *row, const struct kvp_row *from, uint32_t shards)
{
    cJSON *list = cJSON_AddArrayToObject(row, "shards");

    for (uint32_t i = 0; i < shards; ++i) {
        cJSON *o = cJSON_CreateObject();

        put(o, "bytes_raw", (double)from->shards[i].raw_bytes);
        put(o, "bytes_wire", (double)from->shards[i].wire_bytes);
        put(o, "exposed_ms_mean", from->shards[i].last_ms / from->count);
        cJSON_AddItemToArray(list, o);
    }
}

static cJSON *row_json(const struct kvp_row *from, uint32_t layers, uint32_t shards)
{
    cJSON *o = cJSON_CreateObject(), *list;

    cJSON_AddStringToObject(o, "name", from->name);
    cJSON_AddStringToObject(o, "codec", from->codec);
    cJSON_AddBoolToObject(o, "streamed", from->plan.streamed);
    cJSON_AddStringToObject(o, "order", from->plan.shuffled ? "random" : "contiguous");
    put(o, "tokens", from->plan.tokens);
    put(o, "requests", from->plan.requests);
    put(o, "rounds", from->rounds);
    if (from->count == 0)
        return o;
    cJSON_AddItemToObject(o, "exposed_ms", kvp_json_spread(&from->exposed));
    cJSON_AddItemToObject(o, "total_ms", kvp_json_spread(&from->total));
    put(o, "overlap_percent", 100 * from->overlap);
    put(o, "floor_ms", from->floor_ms);
    put(o, "percent_of_floor", from->percent_of_floor);
    put(o, "percent_of_bulk", from->percent_of_bulk);
    put(o, "ttft_share_percent",
        from->exposed.p50 + from->plan.prefill_ms > 0
            ? 100 * from->exposed.p50 / (from->exposed.p50 + from->plan.prefill_ms)
            : 0);
    put(o, "gb_per_s", from->bytes_per_s / 1e9);
    put(o, "gib_per_s", from->bytes_per_s / 1073741824.0);
    put(o, "bytes_raw", (double)from->raw_bytes);
    put(o, "bytes_wire", (double)from->wire_bytes);
    put(o, "ratio", from->ratio);
    put(o, "chunks", (double)from->chunks);
    put(o, "cpu_s_per_gib_sender", from->send_cpu_s_per_gib);
    put(o, "cpu_s_per_gib_receiver", from->recv_cpu_s_per_gib);
    put(o, "credit_stalls", (double)from->credit_stalls);
    put(o, "encoder_stalls", (double)from->encoder_stalls);
    put(o, "packets_sent", (double)from->packets);
    put(o, "packets_retransmitted", (double)from->packets_again);
    put(o, "clock_lag_ms_max", from->lag_ms);
    add_shards(o, from, shards);
    add_codecs(o, from);
    add_check(o, from);
    list = cJSON_AddArrayToObject(o, "samples_exposed_ms");
    for (uint32_t i = 0; i < from->count; ++i)
        cJSON_AddItemToArray(list, cJSON_CreateNumber(from->samples[i].exposed_ms));
    add_layers(o, from, layers);
    return o;
}

static void add_beside(cJSON *to, const struct kvp_result *r)
{
    cJSON *list = cJSON_AddArrayToObject(to, "beside");

    for (uint32_t i = 0; i < r->beside_count; ++i) {
        const struct kvp_beside *b = &r->beside[i];
        cJSON *o = cJSON_CreateObject(), *rates;

        cJSON_AddStringToObject(o, "name", b->name);
        put(o, "rounds", b->count);
        cJSON_AddStringToObject(o, "error", b->why);
        if (b->count > 0) {
            put(o, "gb_per_s", b->spread.p50 / 1e9);
            rates = cJSON_AddArrayToObject(o, "samples_gb_per_s");
            for (uint32_t k = 0; k < b->count; ++k)
                cJSON_AddItemToArray(rates, cJSON_CreateNumber(b->rates[k] / 1e9));
        }
        cJSON_AddItemToArray(list, o);
    }
}

static void add_found(cJSON *to, const struct kvp_found *f)
{
    cJSON *o = cJSON_AddObjectToObject(to, "found");

    put(o, "tokens", f->tokens);
    put(o, "p99_ms", f->p99_ms);
    put(o, "tail", f->tail);
    put(o, "rounds", f->rounds);
}

cJSON *kvp_result_json(const struct kvp_result *r)
{
    cJSON *o = kvp_json_head(r->mode, r->o, r->client), *rows;

    cJSON_AddItemToObject(o, "config", config(r->o));
    rows = cJSON_AddArrayToObject(o, "rows");
    for (uint32_t i = 0; i < r->row_count; ++i)
        cJSON_AddItemToArray(rows, row_json(&r->rows[i], r->o->geometry.layers, r->o->tp_there));
    if (r->beside_count > 0)
        add_beside(o, r);
    if (r->found.rounds > 0)
        add_found(o, &r->found);
    kvp_json_end(o, r->status, r->why);
    return o;
}
