/* SPDX-License-Identifier: Apache-2.0 */
/* metrics.c - counts of a server, and Prometheus' text of them. */
#include "metrics.h"

#include <stdio.h>
#include <stdlib.h>

static const double seconds[] = {0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5,
                                 1,     2.5,   5,    10,   20,   40,  80};
static const double short_seconds[] = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01,
                                       0.025,  0.05,    0.1,    0.25,  0.5,    1,     2.5};
static const double ratios[] = {0.1, 0.25, 0.5, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 1};

#define OPEN(h, b)                                                                                 \
    (h) = (struct kve_histogram)                                                                   \
    {                                                                                              \
        .bounds = (b), .count = sizeof(b) / sizeof((b)[0])                                         \
    }

void kve_metrics_open(struct kve_metrics *m)
{
    *m = (struct kve_metrics){0};
    OPEN(m->first, seconds);
    OPEN(m->between, short_seconds);
    OPEN(m->whole, seconds);
    OPEN(m->queue, seconds);
    OPEN(m->prefill, seconds);
    OPEN(m->decode, seconds);
    OPEN(m->exposed, short_seconds);
    OPEN(m->overlap, ratios);
}

void kve_histogram_add(struct kve_histogram *h, double v)
{
    uint32_t at = 0;

    while (at < h->count && v > h->bounds[at])
        ++at;
    h->in[at]++;
    h->sum += v;
}

/* b - a in seconds, 0 if one of them isn't known. */
static double span(uint64_t a_us, uint64_t b_us)
{
    return a_us != 0 && b_us > a_us ? (double)(b_us - a_us) * 1e-6 : 0;
}

/* How much of the way of the KV lay behind the prefill: from the first layer that was ready to the
 * last that landed. */
static void take_hand_over(struct kve_metrics *m, const struct kve_report *r)
{
    const double exposed = kve_report_exposed_ms(r) * 1e-3;
    uint64_t last = 0;

    for (uint32_t l = 0; l < r->layers; ++l)
        last = r->landed_us[l] > last ? r->landed_us[l] : last;
    const double way = r->layers > 0 ? span(r->computed_us[0], last) : 0;
    m->kv_bytes += r->kv_bytes;
    m->wire_bytes += r->wire_bytes;
    m->chunks += r->chunks;
    kve_histogram_add(&m->exposed, exposed);
    if (way > 0)
        kve_histogram_add(&m->overlap, exposed < way ? 1 - exposed / way : 0);
}

void kve_metrics_take(struct kve_metrics *m, const struct kve_report *r, enum kve_outcome outcome,
                      uint64_t queued_us, uint64_t now_us)
{
    m->outcomes[outcome]++;
    m->answer_tokens += r->id_count;
    if (r->sent_at_us != 0) {
        m->prompt_tokens += r->prompt_tokens;
        m->cached_tokens += r->cached_tokens;
        kve_histogram_add(&m->queue, span(queued_us, r->sent_at_us));
    }
    if (outcome != KVE_STOPPED && outcome != KVE_LENGTH)
        return;
    kve_histogram_add(&m->whole, span(queued_us, now_us));
    if (r->prefill_end_us != 0)
        kve_histogram_add(&m->prefill, span(r->start_us, r->prefill_end_us));
    if (r->first_us != 0) { /* not where a stop string called the answer off */
        kve_histogram_add(&m->first, span(queued_us, r->first_us));
        kve_histogram_add(&m->decode, span(r->first_us, r->end_us));
        if (r->id_count > 1)
            kve_histogram_add(&m->between, span(r->first_us, r->end_us) / (r->id_count - 1));
    }
    if (r->transferred && r->first_us != 0)
        take_hand_over(m, r);
}

static void head(FILE *f, const char *name, const char *type, const char *help)
{
    fprintf(f, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void one(FILE *f, const char *name, const char *type, const char *help, double v,
                const char *model)
{
    head(f, name, type, help);
    fprintf(f, "%s{model_name=\"%s\"} %.17g\n", name, model, v);
}

static void histogram(FILE *f, const char *name, const char *help, const struct kve_histogram *h,
                      const char *model)
{
    uint64_t all = 0;

    head(f, name, "histogram", help);
    for (uint32_t i = 0; i <= h->count; ++i) {
        all += h->in[i];
        fprintf(f, "%s_bucket{model_name=\"%s\",le=\"", name, model);
        if (i < h->count)
            fprintf(f, "%g\"} %llu\n", h->bounds[i], (unsigned long long)all);
        else
            fprintf(f, "+Inf\"} %llu\n", (unsigned long long)all);
    }
    fprintf(f, "%s_sum{model_name=\"%s\"} %.9g\n%s_count{model_name=\"%s\"} %llu\n", name, model,
            h->sum, name, model, (unsigned long long)all);
}

static void worker_gauge(FILE *f, const char *name, const char *help,
                         const struct kve_metrics_now *now,
                         uint64_t (*of)(const struct kve_metrics_worker *))
{
    head(f, name, "gauge", help);
    for (uint32_t i = 0; i < now->count; ++i)
        fprintf(f, "%s{role=\"%s\",worker=\"%s\"} %llu\n", name, now->workers[i].role,
                now->workers[i].name, (unsigned long long)of(&now->workers[i]));
}

static uint64_t up_of(const struct kve_metrics_worker *w)
{
    return w->up;
}

static uint64_t lent_of(const struct kve_metrics_worker *w)
{
    return w->lent;
}

static uint64_t running_of(const struct kve_metrics_worker *w)
{
    return w->running;
}

static uint64_t waiting_of(const struct kve_metrics_worker *w)
{
    return w->waiting;
}

static uint64_t lost_of(const struct kve_metrics_worker *w)
{
    return w->lost;
}

/* A prefill and a decode as they were started, and who was picked beside that. */
static bool is_pair(const struct kve_metrics_now *now, uint32_t p, uint32_t d)
{
    return (p < now->prefills && d >= now->prefills) || now->prefills == 0 ||
           now->pairs[p * now->pairs_each + d] > 0;
}

/* Each worker, and each pair. */
static void worker_gauges(FILE *f, const struct kve_metrics_now *now)
{
    head(f, "kvserve_kv_blocks", "gauge", "KV blocks of a worker, as it said last.");
    for (uint32_t i = 0; i < now->count; ++i) {
        const struct kve_metrics_worker *w = &now->workers[i];

        fprintf(f,
                "kvserve_kv_blocks{role=\"%s\",worker=\"%s\",state=\"all\"} %llu\n"
                "kvserve_kv_blocks{role=\"%s\",worker=\"%s\",state=\"free\"} %llu\n",
                w->role, w->name, (unsigned long long)w->kv_blocks, w->role, w->name,
                (unsigned long long)w->kv_free);
    }
    worker_gauge(f, "kvserve_worker_up", "1: it takes requests.", now, up_of);
    worker_gauge(f, "kvserve_worker_lent", "1: it does the other side's work.", now, lent_of);
    worker_gauge(f, "kvserve_worker_running", "Requests on it.", now, running_of);
    worker_gauge(f, "kvserve_worker_waiting", "Requests that wait for it.", now, waiting_of);
    worker_gauge(f, "kvserve_worker_lost", "How often it was lost.", now, lost_of);
    head(f, "kvserve_pair_requests_total", "counter",
         "Requests that a pair was picked for; one worker twice: it did both parts.");
    for (uint32_t p = 0; p < now->count; ++p)
        for (uint32_t d = 0; d < now->count; ++d)
            if (is_pair(now, p, d))
                fprintf(f, "kvserve_pair_requests_total{prefill=\"%s\",decode=\"%s\"} %llu\n",
                        now->workers[p].name, now->workers[d].name,
                        (unsigned long long)now->pairs[p * now->pairs_each + d]);
}

static void gauges(FILE *f, const struct kve_metrics_now *now, const char *model)
{
    uint64_t all = 0, unused = 0;

    for (uint32_t i = now->prefills; i < now->count; ++i) {
        all += now->workers[i].kv_blocks;
        unused += now->workers[i].kv_free;
    }
    one(f, "vllm:num_requests_running", "gauge", "Requests on the workers.", now->running, model);
    one(f, "vllm:num_requests_waiting", "gauge", "Requests in the queue.", now->waiting, model);
    one(f, "vllm:kv_cache_usage_perc", "gauge", "Share of the decodes' KV blocks in use, 0 to 1.",
        all > unused ? (double)(all - unused) / (double)all : 0, model);
    one(f, "kvserve_up", "gauge", "1: a prefill and a decode are there and linked.", now->up,
        model);
    worker_gauges(f, now);
}

static void counters(FILE *f, const struct kve_metrics *m, const struct kve_metrics_now *now,
                     const char *model)
{
    static const char *const outcomes[] = {"stop", "length", "abort", "error"};

    one(f, "vllm:prompt_tokens_total", "counter", "Tokens of prompts that went to the workers.",
        (double)m->prompt_tokens, model);
    one(f, "vllm:prefix_cache_queries_total", "counter", "Tokens of prompts that were looked up.",
        (double)m->prompt_tokens, model);
    one(f, "vllm:prefix_cache_hits_total", "counter", "Those of them that prefill had already.",
        (double)m->cached_tokens, model);
    one(f, "vllm:generation_tokens_total", "counter", "Tokens of answers.",
        (double)m->answer_tokens, model);
    head(f, "vllm:request_success_total", "counter", "Requests by how they ended.");
    for (int i = 0; i < KVE_OUTCOMES; ++i)
        fprintf(f, "vllm:request_success_total{model_name=\"%s\",finished_reason=\"%s\"} %llu\n",
                model, outcomes[i], (unsigned long long)m->outcomes[i]);
    head(f, "kvserve_kv_bytes_total", "counter", "KV handed over: raw, and as it went.");
    fprintf(f,
            "kvserve_kv_bytes_total{form=\"raw\"} %llu\n"
            "kvserve_kv_bytes_total{form=\"wire\"} %llu\n",
            (unsigned long long)m->kv_bytes, (unsigned long long)m->wire_bytes);
    one(f, "kvserve_kv_chunks_total", "counter", "Chunks of KV handed over.", (double)m->chunks,
        model);
    one(f, "kvserve_queue_full_total", "counter", "Requests refused with 429: a full queue.",
        (double)m->refused_full, model);
    one(f, "kvserve_late_total", "counter", "Requests refused with 429: late by what is promised.",
        (double)now->refused_late, model);
    one(f, "kvserve_requests_restarted_total", "counter", "Requests that a lost worker had.",
        (double)now->restarted, model);
    one(f, "kvserve_worker_turns_total", "counter", "How often a worker changed sides.",
        (double)now->turns, model);
    one(f, "kvserve_worker_restarts_total", "counter", "How often the workers were started again.",
        (double)m->restarts, model);
    head(f, "kvserve_http_replies_total", "counter", "Replies by status.");
    for (int i = 2; i < 6; ++i)
        fprintf(f, "kvserve_http_replies_total{code=\"%dxx\"} %llu\n", i,
                (unsigned long long)m->replies[i]);
}

char *kve_metrics_text(const struct kve_metrics *m, const struct kve_metrics_now *now, size_t *n)
{
    const struct {
        const char *name, *help;
        const struct kve_histogram *h;
    } histograms[] = {
        {"vllm:time_to_first_token_seconds", "From the request's arrival.", &m->first},
        {"vllm:inter_token_latency_seconds", "Between tokens, an answer's mean.", &m->between},
        {"vllm:e2e_request_latency_seconds", "From arrival to the end.", &m->whole},
        {"vllm:request_queue_time_seconds", "In the queue.", &m->queue},
        {"vllm:request_prefill_time_seconds", "Prefill's work.", &m->prefill},
        {"vllm:request_decode_time_seconds", "Decode's work.", &m->decode},
        {"kvserve_kv_exposed_seconds", "Hand-over that the prefill didn't hide.", &m->exposed},
        {"kvserve_kv_overlap_ratio", "Share of the hand-over that the prefill hid.", &m->overlap},
    };
    char model[128], *text = NULL;
    size_t used = 0;
    FILE *f = open_memstream(&text, n);

    if (f == NULL)
        return NULL;
    for (const char *c = now->model; *c != '\0' && used < sizeof(model) - 1; ++c)
        model[used++] = *c == '"' || *c == '\\' || *c == '\n' ? '_' : *c;
    model[used] = '\0';
    gauges(f, now, model);
    counters(f, m, now, model);
    for (size_t i = 0; i < sizeof(histograms) / sizeof(histograms[0]); ++i)
        histogram(f, histograms[i].name, histograms[i].help, histograms[i].h, model);
    if (fclose(f) == 0)
        return text;
    free(text);
    return NULL;
}
