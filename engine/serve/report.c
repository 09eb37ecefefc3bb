/* SPDX-License-Identifier: Apache-2.0 */
/* report.c - what a request did, as JSON and as lines for a terminal. */
#include "report.h"

#include <stdlib.h>
#include <string.h>

void kve_report_free(struct kve_report *r)
{
    free(r->ids);
    free(r->text);
    free(r->logprobs);
    r->logprobs = NULL;
    r->ids = NULL;
    r->text = NULL;
    r->text_bytes = r->text_room = 0;
}

kvw_err kve_report_id(struct kve_report *r, uint32_t id)
{
    const uint32_t each = r->logprobs_each;

    if (r->id_count == r->id_room) {
        const uint32_t room = r->id_room != 0 ? 2 * r->id_room : 256;
        uint32_t *ids = realloc(r->ids, room * sizeof(*ids));

        if (ids == NULL)
            return KVW_E_NOMEM;
        r->ids = ids;
        if (each > 0) {
            void *logprobs = realloc(r->logprobs, (size_t)room * each * sizeof(*r->logprobs));

            if (logprobs == NULL)
                return KVW_E_NOMEM;
            r->logprobs = logprobs;
        }
        r->id_room = room;
    }
    for (uint32_t i = 0; i < each; ++i)
        r->logprobs[(size_t)r->id_count * each + i] =
            (struct kve_logprob){KVE_LOGPROB_NO_ID, KVE_LOGPROB_LEAST};
    r->ids[r->id_count++] = id;
    return KVW_OK;
}

kvw_err kve_report_text(struct kve_report *r, const char *at, size_t n)
{
    if (n + 1 > r->text_room - r->text_bytes) {
        const size_t room = 2 * r->text_room + n + 256;
        char *text = realloc(r->text, room);

        if (text == NULL)
            return KVW_E_NOMEM;
        r->text = text;
        r->text_room = room;
    }
    memcpy(r->text + r->text_bytes, at, n);
    r->text_bytes += n;
    r->text[r->text_bytes] = '\0';
    return KVW_OK;
}

static uint64_t max_of(const uint64_t *v, uint32_t n)
{
    uint64_t max = 0;

    for (uint32_t i = 0; i < n; ++i)
        if (v[i] > max)
            max = v[i];
    return max;
}

static double ms_between(uint64_t from_us, uint64_t to_us)
{
    return ((double)to_us - (double)from_us) / 1000;
}

double kve_report_exposed_ms(const struct kve_report *r)
{
    const double ms =
        ms_between(max_of(r->computed_us, r->layers), max_of(r->landed_us, r->layers));

    return r->transferred && ms > 0 ? ms : 0;
}

double kve_report_prefill_tok_s(const struct kve_report *r)
{
    const double ms = ms_between(r->start_us, r->prefill_end_us);

    return ms > 0 ? (r->prompt_tokens - r->cached_tokens) * 1000.0 / ms : 0;
}

double kve_report_decode_tok_s(const struct kve_report *r)
{
    const double ms = ms_between(r->first_us, r->end_us);

    return ms > 0 && r->id_count > 1 ? (r->id_count - 1) * 1000.0 / ms : 0;
}

/* The answer. cJSON's strings end at a NUL, which a token may spell: such a text is put together of
 * pieces. */
static void add_text(cJSON *obj, const struct kve_report *r)
{
    static const char escape[] = "\\u0000";
    struct kve_report raw = {0}; /* its text: the JSON string */
    kvw_err err = kve_report_text(&raw, "\"", 1);

    if (r->text == NULL || strlen(r->text) == r->text_bytes) {
        cJSON_AddStringToObject(obj, "text", r->text != NULL ? r->text : "");
        kve_report_free(&raw);
        return;
    }
    for (size_t at = 0; err == KVW_OK && at <= r->text_bytes; at += strlen(r->text + at) + 1) {
        cJSON *part = cJSON_CreateString(r->text + at);
        char *json = part != NULL ? cJSON_PrintUnformatted(part) : NULL;

        err = json == NULL ? KVW_E_NOMEM : KVW_OK;
        if (err == KVW_OK && at > 0)
            err = kve_report_text(&raw, escape, sizeof(escape) - 1);
        if (err == KVW_OK)
            err = kve_report_text(&raw, json + 1, strlen(json) - 2);
        cJSON_free(json);
        cJSON_Delete(part);
    }
    if (err == KVW_OK && kve_report_text(&raw, "\"", 1) == KVW_OK)
        cJSON_AddRawToObject(obj, "text", raw.text);
    kve_report_free(&raw);
}

/* A list a token: [id, logprob], its own first. */
static void add_logprobs(cJSON *obj, const struct kve_report *r)
{
    cJSON *list = cJSON_AddArrayToObject(obj, "logprobs");

    for (uint32_t i = 0; i < r->id_count; ++i) {
        cJSON *of = cJSON_CreateArray();

        for (uint32_t k = 0; k < r->logprobs_each; ++k) {
            const struct kve_logprob *p = &r->logprobs[(size_t)i * r->logprobs_each + k];
            cJSON *pair = p->id != KVE_LOGPROB_NO_ID ? cJSON_CreateArray() : NULL;

            cJSON_AddItemToArray(pair, cJSON_CreateNumber(p->id));
            cJSON_AddItemToArray(pair, cJSON_CreateNumber((double)p->logprob));
            cJSON_AddItemToArray(of, pair);
        }
        cJSON_AddItemToArray(list, of);
    }
}

static void add_layers(cJSON *obj, const struct kve_report *r)
{
    cJSON *list = cJSON_AddArrayToObject(obj, "layers");

    for (uint32_t l = 0; l < r->layers; ++l) {
        cJSON *layer = cJSON_CreateObject();

        cJSON_AddNumberToObject(layer, "computed_ms", ms_between(r->start_us, r->computed_us[l]));
        if (r->transferred) {
            cJSON_AddNumberToObject(layer, "sent_ms", ms_between(r->start_us, r->sent_us[l]));
            cJSON_AddNumberToObject(layer, "landed_ms", ms_between(r->start_us, r->landed_us[l]));
        }
        cJSON_AddItemToArray(list, layer);
    }
}

cJSON *kve_report_json(const struct kve_report *r)
{
    cJSON *obj = cJSON_CreateObject();

    cJSON_AddNumberToObject(obj, "schema", 1);
    if (r->line != 0)
        cJSON_AddNumberToObject(obj, "line", (double)r->line);
    cJSON_AddStringToObject(obj, "model", r->model);
    cJSON_AddStringToObject(obj, "net", r->net);
    cJSON_AddNumberToObject(obj, "prompt_tokens", r->prompt_tokens);
    cJSON_AddNumberToObject(obj, "cached_tokens", r->cached_tokens);
    cJSON *ids = cJSON_AddArrayToObject(obj, "output_tokens");
    for (uint32_t i = 0; i < r->id_count; ++i)
        cJSON_AddItemToArray(ids, cJSON_CreateNumber(r->ids[i]));
    if (r->logprobs_each > 0)
        add_logprobs(obj, r);
    add_text(obj, r);
    cJSON_AddStringToObject(obj, "finish_reason", r->finish_reason);
    cJSON_AddNumberToObject(obj, "prefill_tok_s", kve_report_prefill_tok_s(r));
    cJSON_AddNumberToObject(obj, "decode_tok_s", kve_report_decode_tok_s(r));
    cJSON_AddNumberToObject(obj, "ttft_ms", ms_between(r->sent_at_us, r->first_us));
    cJSON_AddNumberToObject(obj, "kv_bytes", (double)r->kv_bytes);
    cJSON_AddNumberToObject(obj, "wire_bytes", (double)r->wire_bytes);
    cJSON_AddNumberToObject(obj, "chunks", r->chunks);
    cJSON_AddStringToObject(obj, "codecs", r->codecs);
    if (r->transferred)
        cJSON_AddNumberToObject(obj, "exposed_ms", kve_report_exposed_ms(r));
    else
        cJSON_AddNullToObject(obj, "exposed_ms");
    if (r->exposed_after_ms >= 0)
        cJSON_AddNumberToObject(obj, "exposed_after_prefill_ms", r->exposed_after_ms);
    else
        cJSON_AddNullToObject(obj, "exposed_after_prefill_ms");
    add_layers(obj, r);
    return obj;
}

/* One line per layer: when its last token range was computed (c), and landed (L), from the first
 * layer's computed to the last layer's landed. Most of a long prefill lies before this window. */
static void print_timeline(FILE *out, const struct kve_report *r, int width)
{
    const uint64_t from = r->computed_us[0];
    const uint64_t to = max_of(r->landed_us, r->layers);
    const int room = width - 46 < 20 ? 20 : width - 46;
    const double scale = to > from ? (room - 1) / (double)(to - from) : 0;

    fprintf(out,
            "\nlast prefill chunk, %.1f ms across: '-' computing, 'c' computed, '=' in flight, "
            "'L' landed\n",
            ms_between(from, to));
    for (uint32_t l = 0; l < r->layers; ++l) {
        const int c = (int)((double)(r->computed_us[l] - from) * scale);
        int landed = (int)((double)(r->landed_us[l] - from) * scale);
        const int before = l > 0 ? (int)((double)(r->computed_us[l - 1] - from) * scale) : 0;

        if (landed <= c)
            landed = c + 1;
        fprintf(out, "layer %3u |", l);
        for (int i = 0; i <= room; ++i)
            fputc(i == landed            ? 'L'
                  : i == c               ? 'c'
                  : i > c && i < landed  ? '='
                  : i >= before && i < c ? '-'
                                         : ' ',
                  out);
        fprintf(out, "| %9.2f ms  landed +%.2f ms\n", ms_between(r->start_us, r->computed_us[l]),
                ms_between(r->computed_us[l], r->landed_us[l]));
    }
}

void kve_report_print(FILE *out, const struct kve_report *r, int width)
{
    fprintf(out, "prompt %u tokens, answer %u tokens (%s)\n", r->prompt_tokens, r->id_count,
            r->finish_reason);
    if (r->cached_tokens > 0)
        fprintf(out, "%u of the prompt's tokens were there, %u were computed\n", r->cached_tokens,
                r->prompt_tokens - r->cached_tokens);
    fprintf(out, "prefill %8.1f tokens/s   decode %8.1f tokens/s   first token after %.1f ms\n",
            kve_report_prefill_tok_s(r), kve_report_decode_tok_s(r),
            ms_between(r->sent_at_us, r->first_us));
    if (!r->transferred) {
        fprintf(out, "one process: nothing was transferred\n");
        return;
    }
    fprintf(
        out,
        "KV %.2f MB in %u chunks (%s) over %s, %.2f MB with headers, every byte's digest checked\n",
        (double)r->kv_bytes / 1e6, r->chunks, r->codecs, r->net, (double)r->wire_bytes / 1e6);
    print_timeline(out, r, width);
    fprintf(out, "\nexposed hand-over: %.2f ms with layers streamed during prefill",
            kve_report_exposed_ms(r));
    if (r->exposed_after_ms >= 0)
        fprintf(out, ", %.2f ms when sent after it", r->exposed_after_ms);
    fprintf(out, "\n");
}
