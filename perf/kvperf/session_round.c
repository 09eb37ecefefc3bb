/* SPDX-License-Identifier: Apache-2.0 */
/* session_round.c - the receiver's part of a round: offer, wait, compare, report. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "server.h"
#include "stop.h"

/* One offer of the round: a shard's part of a request. */
struct landing {
    kvw_xfer_ref xfer;
    bool over;
    struct kvw_core_event done;
    uint64_t *ready_ns; /* by layer; 0: not */
};

struct landings {
    struct kvp_session *s;
    struct kvp_lane *lane; /* the first of a node for each shard */
    struct kvp_round_plan plan;
    uint32_t tp, count, left;
    struct landing each[64]; /* [request * tp + shard] */
    uint64_t begun_ns, cpu_ns;
    struct kvw_core_stats before[KVP_TP_MAX];
};

static bool take_plan(struct landings *r, const cJSON *msg, char *why)
{
    const struct kvp_cache_config *cfg = &r->s->cache[0].cfg;

    if (r->s->lane_count == 0) {
        snprintf(why, KVP_WHY, "a round before open");
        return false;
    }
    r->plan = (struct kvp_round_plan){
        .lane =
            (uint32_t)kvp_msg_number(msg, "lane", 0, r->s->lane_count / r->s->tp - 1, UINT32_MAX),
        .tokens = (uint32_t)kvp_msg_number(msg, "tokens", 1, cfg->tokens, 0),
        .requests = (uint32_t)kvp_msg_number(msg, "requests", 1, cfg->requests, 0),
        .shuffled = kvp_msg_number(msg, "shuffled", 0, 1, 0) > 0,
        .budget = (uint32_t)kvp_msg_number(msg, "budget", 0, 2, 0),
        .verify = kvp_msg_number(msg, "verify", 0, 1, 1) > 0,
        .flip = kvp_msg_number(msg, "flip", 0, 1, 0) > 0,
        .timeout_ns = (uint64_t)kvp_msg_number(msg, "timeout_s", 0.1, 86400, 120) * 1000000000u,
    };
    if (r->plan.lane == UINT32_MAX || r->plan.tokens == 0 || r->plan.requests == 0) {
        snprintf(why, KVP_WHY, "a round's lane, tokens or requests is missing or out of range");
        return false;
    }
    if (r->plan.requests * r->s->tp > sizeof(r->each) / sizeof(r->each[0])) {
        snprintf(why, KVP_WHY, "%u requests on %u shards: 64 of both at most", r->plan.requests,
                 r->s->tp);
        return false;
    }
    r->tp = r->s->tp;
    r->count = r->left = r->plan.requests * r->tp;
    r->lane = &r->s->lanes[r->plan.lane * r->tp];
    for (uint32_t i = 0; i < r->count; ++i)
        if ((r->each[i].ready_ns = calloc(r->s->geometry.layers, sizeof(uint64_t))) == NULL) {
            snprintf(why, KVP_WHY, "no memory for a round");
            return false;
        }
    return true;
}

kvw_err kvp_session_offer(struct kvp_session *s, const struct kvp_round_plan *plan,
                          uint32_t request, const char *name, kvw_xfer_ref *xfer,
                          char said[KVP_WHY])
{
    struct kvp_lane *lane = &s->lanes[plan->lane * s->tp + plan->shard];
    struct kvw_group_blocks rows[KVP_GROUPS_MAX];
    const struct kvw_offer_terms terms = {.size = sizeof(terms),
                                          .budget = plan->budget,
                                          .exact_first = plan->budget > 0 ? 4 : 0,
                                          .exact_last = plan->budget > 0 ? 128 : 0,
                                          .take_by_ns = 30000000000ull,
                                          .lease_ns = KVP_LEASE_NS,
                                          .deadline_ns = kvw_now_ns() + plan->timeout_ns};
    struct kvw_offer_args args = {.size = sizeof(args),
                                  .pool = lane->pool,
                                  .key = kvw_key_of(name),
                                  .tokens = plan->tokens,
                                  .groups = rows,
                                  .sources = lane->peers,
                                  .source_count = lane->peer_count,
                                  .group_bytes = sizeof(rows[0]),
                                  .terms = &terms};

    args.group_count =
        kvp_cache_blocks(&s->cache[plan->shard], request, plan->tokens, plan->shuffled, true, rows);
    return kvw_node_offer(lane->node, &args, xfer, said, KVP_WHY);
}

static bool offer_all(struct landings *r, const char *key, char *why)
{
    for (uint32_t i = 0; i < r->count; ++i) {
        char name[80], said[KVP_WHY] = "";

        snprintf(name, sizeof(name), "%.60s %u", key, i / r->tp);
        r->plan.shard = i % r->tp;
        const kvw_err err =
            kvp_session_offer(r->s, &r->plan, i / r->tp, name, &r->each[i].xfer, said);

        if (err != KVW_OK) {
            snprintf(why, KVP_WHY, "the server can't offer its blocks: %.200s",
                     said[0] != '\0' ? said : kvw_strerror(err));
            return false;
        }
    }
    return true;
}

/* A layer has landed when this program, as a decode would, has been told so: the event's own at_ns
 * is the beginning of the poll that found it, which may be before the layer was even sent. */
static void heed(struct landings *r, uint32_t shard, const struct kvw_core_event *ev)
{
    for (uint32_t i = shard; i < r->count; i += r->tp) {
        struct landing *l = &r->each[i];

        if (l->over || l->xfer.value != ev->xfer.value)
            continue;
        if (ev->kind == KVW_CEV_LAYER_READY && ev->layer < r->s->geometry.layers) {
            l->ready_ns[ev->layer] = kvw_now_ns();
        } else if (ev->kind == KVW_CEV_XFER_DONE) {
            l->done = *ev;
            l->over = true;
            --r->left;
        }
    }
}

/* Until all are over. False: the client went away, or has had enough. */
static bool await_all(struct landings *r)
{
    int fds[1 + KVP_TP_MAX] = {r->s->line.fd};
    const uint64_t until_ns = kvw_now_ns() + r->plan.timeout_ns + KVP_LEASE_NS;
    struct kvw_core_event ev;

    for (uint32_t i = 0; i < r->tp; ++i)
        fds[1 + i] = kvw_node_fd(r->lane[i].node);
    while (r->left > 0 && !kvp_stopped() && kvw_now_ns() < until_ns) {
        const uint32_t ready = kvp_wait_fds(fds, 1 + r->tp, until_ns);

        for (uint32_t i = 0; i < r->tp; ++i)
            while (r->left > 0 && kvp_lane_event(&r->lane[i], &ev))
                heed(r, i, &ev);
        if ((ready & 1) != 0 && r->left > 0)
            return false; /* it has nothing to say meanwhile: this is its end */
    }
    return r->left == 0;
}

/* When the last layer of a landing was there; 0: one never was. */
static uint64_t last_ready(const struct landing *l, uint32_t layers)
{
    uint64_t last = 0;

    for (uint32_t k = 0; k < layers; ++k) {
        if (l->ready_ns[k] == 0)
            return 0;
        last = l->ready_ns[k] > last ? l->ready_ns[k] : last;
    }
    return last;
}

/* What all shards of a request had of it, and each of them. */
static void add_shards(const struct landings *r, const struct landing *of, cJSON *to)
{
    double raw = 0, wire = 0, chunks = 0;
    cJSON *list = cJSON_AddArrayToObject(to, "shards");

    for (uint32_t i = 0; i < r->tp; ++i) {
        cJSON *o = cJSON_CreateObject();

        raw += (double)of[i].done.raw_bytes;
        wire += (double)of[i].done.wire_bytes;
        chunks += of[i].done.chunks;
        cJSON_AddNumberToObject(o, "raw_bytes", (double)of[i].done.raw_bytes);
        cJSON_AddNumberToObject(o, "wire_bytes", (double)of[i].done.wire_bytes);
        cJSON_AddNumberToObject(
            o, "last_ns",
            (double)(int64_t)(last_ready(&of[i], r->s->geometry.layers) - r->begun_ns));
        cJSON_AddItemToArray(list, o);
    }
    cJSON_AddNumberToObject(to, "raw_bytes", raw);
    cJSON_AddNumberToObject(to, "wire_bytes", wire);
    cJSON_AddNumberToObject(to, "chunks", chunks);
}

/* A layer is in place when every shard has its part. */
static void add_ready(const struct landings *r, const struct landing *of, cJSON *to)
{
    cJSON *ready = cJSON_AddArrayToObject(to, "ready_ns"); /* since it began; -1: not */

    for (uint32_t k = 0; k < r->s->geometry.layers; ++k) {
        uint64_t last = of[0].ready_ns[k];

        for (uint32_t i = 1; i < r->tp && last != 0; ++i)
            last = of[i].ready_ns[k] == 0 || of[i].ready_ns[k] > last ? of[i].ready_ns[k] : last;
        cJSON_AddItemToArray(
            ready, cJSON_CreateNumber(last == 0 ? -1 : (double)(int64_t)(last - r->begun_ns)));
    }
}

static struct kvp_check compare(const struct landings *r, uint32_t request)
{
    struct kvp_check all = {0};

    for (uint32_t i = 0; i < r->tp && r->plan.verify; ++i) {
        if (r->each[request * r->tp + i].done.err != KVW_OK)
            continue;
        const struct kvp_check c = kvp_cache_check(&r->s->cache[i], &r->s->payload, request,
                                                   r->plan.tokens, r->plan.shuffled);

        all.bytes += c.bytes;
        all.wrong += c.wrong;
        all.noise += c.noise;
        all.signal += c.signal;
    }
    return all;
}

static cJSON *landing_to_json(const struct landings *r, uint32_t request)
{
    const struct landing *of = &r->each[request * r->tp], *worst = of;
    const struct kvp_check check = compare(r, request);
    uint64_t first = of->done.first_ns, last = of->done.last_ns;
    cJSON *o = cJSON_CreateObject();

    for (uint32_t i = 1; i < r->tp; ++i) {
        worst = worst->done.err != KVW_OK ? worst : &of[i];
        first = of[i].done.first_ns < first ? of[i].done.first_ns : first;
        last = of[i].done.last_ns > last ? of[i].done.last_ns : last;
    }
    cJSON_AddNumberToObject(o, "err", worst->done.err);
    cJSON_AddStringToObject(o, "text", worst->done.text);
    add_shards(r, of, o);
    cJSON_AddNumberToObject(o, "codec", of->done.codec);
    cJSON_AddNumberToObject(o, "first_ns", (double)(int64_t)(first - r->begun_ns));
    cJSON_AddNumberToObject(o, "last_ns", (double)(int64_t)(last - r->begun_ns));
    cJSON_AddNumberToObject(o, "compared", (double)check.bytes);
    cJSON_AddNumberToObject(o, "wrong", (double)check.wrong);
    cJSON_AddNumberToObject(o, "noise", check.noise);
    cJSON_AddNumberToObject(o, "signal", check.signal);
    add_ready(r, of, o);
    return o;
}

static bool report(struct landings *r, char *why)
{
    cJSON *msg = kvp_msg("landed"), *list;
    double rejected = 0;

    for (uint32_t i = 0; i < r->tp; ++i) {
        struct kvw_core_stats after = {.size = sizeof(after)};

        kvw_node_stats(r->lane[i].node, &after);
        rejected += (double)(after.chunks_rejected - r->before[i].chunks_rejected);
    }
    kvp_msg_put_ns(msg, "begun_ns", r->begun_ns);
    cJSON_AddNumberToObject(msg, "cpu_ns", (double)r->cpu_ns);
    cJSON_AddNumberToObject(msg, "chunks_rejected", rejected);
    list = cJSON_AddArrayToObject(msg, "requests");
    if (r->plan.flip)
        kvp_cache_flip(&r->s->cache[r->tp - 1], 0, r->plan.tokens, r->plan.shuffled);
    for (uint32_t i = 0; i < r->plan.requests; ++i)
        cJSON_AddItemToArray(list, landing_to_json(r, i));
    return kvp_line_send(&r->s->line, msg, why);
}

/* Offers of a client that is gone, or of a round that failed half-way. */
static void withdraw(struct landings *r)
{
    struct kvw_core_event ev;

    for (uint32_t i = 0; i < r->count; ++i)
        if (r->each[i].xfer.value != 0 && !r->each[i].over)
            (void)!kvw_node_abort(r->lane[i % r->tp].node, r->each[i].xfer, "the round is over");
    for (uint32_t i = 0; i < r->tp; ++i)
        while (kvp_lane_event(&r->lane[i], &ev))
            ;
}

static bool run_round(struct landings *r, const cJSON *msg, char *why)
{
    if (!take_plan(r, msg, why))
        return false;
    for (uint32_t i = 0; i < r->tp; ++i) {
        if (!kvp_lane_wait_up(&r->lane[i], why))
            return false;
        for (uint32_t k = 0; r->plan.verify && k < r->plan.requests; ++k)
            kvp_cache_spoil(&r->s->cache[i], k, r->plan.tokens, r->plan.shuffled);
        r->before[i].size = sizeof(r->before[i]);
        kvw_node_stats(r->lane[i].node, &r->before[i]);
    }
    r->begun_ns = kvw_now_ns();
    r->cpu_ns = kvp_cpu_ns();
    if (!offer_all(r, kvp_msg_text(msg, "key", "?"), why) ||
        !kvp_line_send(&r->s->line, kvp_msg("offered"), why))
        return false;
    if (!await_all(r)) {
        why[0] = '\0';
        return false;
    }
    r->cpu_ns = kvp_cpu_ns() - r->cpu_ns;
    return report(r, why);
}

bool kvp_session_round(struct kvp_session *s, const cJSON *msg, char why[KVP_WHY])
{
    struct landings *r = calloc(1, sizeof(*r));
    bool ok;

    if (r == NULL) {
        snprintf(why, KVP_WHY, "no memory for a round");
        return false;
    }
    r->s = s;
    ok = run_round(r, msg, why);
    if (!ok && r->lane != NULL)
        withdraw(r);
    for (uint32_t i = 0; i < 64; ++i)
        free(r->each[i].ready_ns);
    free(r);
    return ok;
}
