/* SPDX-License-Identifier: Apache-2.0 */
/*
 * client_round.c - the sender's part of a round: a clock in the place of a prefill says when each
 * layer is ready; it is pushed then. Times count from when a layer was planned to be ready, so a
 * late push makes the result worse, never better.
 */
#include <stdio.h>
#include <string.h>

#include "client.h"
#include "stop.h"

#define LEAD_NS   2000000ull /* between opening the streams and the beginning of the prefill */
#define REPLY_NS  30000000000ull
#define VERIFY_NS 300000000000ull

struct sending {
    struct kvp_client *c;
    const struct kvp_round_plan *plan;
    struct kvp_round *r;
    struct kvp_lane *lane; /* the first of a node for each shard */
    uint32_t tp, streams;
    kvw_xfer_ref xfers[64]; /* [request * tp + shard] */
    bool over[64];
    uint32_t left;
    uint64_t begun_ns;
    struct kvw_core_stats before[KVP_TP_MAX];
};

/* --- announcing ------------------------------------------------------------------------------- */

static void key_of(const struct sending *s, char *to, size_t bytes)
{
    snprintf(to, bytes, "kvperf %llx %llu", (unsigned long long)s->c->session,
             (unsigned long long)s->c->rounds);
}

static bool announce(struct sending *s, char *why)
{
    const struct kvp_round_plan *p = s->plan;
    cJSON *msg = kvp_msg("round");
    char key[64];

    key_of(s, key, sizeof(key));
    cJSON_AddStringToObject(msg, "key", key);
    cJSON_AddNumberToObject(msg, "lane", (double)((s->lane - s->c->lanes) / s->tp));
    cJSON_AddNumberToObject(msg, "tokens", p->tokens);
    cJSON_AddNumberToObject(msg, "requests", p->requests);
    cJSON_AddNumberToObject(msg, "shuffled", p->shuffled);
    cJSON_AddNumberToObject(msg, "budget", p->budget);
    cJSON_AddNumberToObject(msg, "verify", p->verify);
    cJSON_AddNumberToObject(msg, "flip", p->flip);
    cJSON_AddNumberToObject(msg, "timeout_s", (double)p->timeout_ns / 1e9);
    if (!kvp_line_send(&s->c->line, msg, why))
        return false;
    msg = kvp_line_expect(&s->c->line, "offered", kvw_now_ns() + REPLY_NS, why);
    cJSON_Delete(msg);
    return msg != NULL;
}

static bool open_streams(struct sending *s, char *why)
{
    for (uint32_t i = 0; i < s->streams; ++i) {
        struct kvp_lane *lane = &s->lane[i % s->tp];
        struct kvw_group_blocks rows[KVP_GROUPS_MAX];
        char key[64], name[80], said[KVP_WHY] = "";
        struct kvw_stream_args args = {.size = sizeof(args),
                                       .pool = lane->pool,
                                       .receivers = lane->wanted,
                                       .tokens = s->plan->tokens,
                                       .groups = rows,
                                       .group_bytes = sizeof(rows[0]),
                                       .deadline_ns = kvw_now_ns() + s->plan->timeout_ns,
                                       .codec = kvp_client_codec(s->c->o, s->plan->lane)};

        args.group_count = kvp_cache_blocks(&s->c->cache[i % s->tp], i / s->tp, s->plan->tokens,
                                            s->plan->shuffled, false, rows);
        key_of(s, key, sizeof(key));
        snprintf(name, sizeof(name), "%s %u", key, i / s->tp);
        args.key = kvw_key_of(name);
        const kvw_err err = kvw_node_stream(lane->node, &args, &s->xfers[i], said, sizeof(said));

        if (err != KVW_OK) {
            snprintf(why, KVP_WHY, "a stream can't be opened: %.200s",
                     said[0] != '\0' ? said : kvw_strerror(err));
            return false;
        }
    }
    return true;
}

/* --- the clock -------------------------------------------------------------------------------- */

static void take_event(struct sending *s, uint32_t shard, const struct kvw_core_event *ev)
{
    for (uint32_t i = shard; ev->kind == KVW_CEV_XFER_DONE && i < s->streams; i += s->tp) {
        struct kvp_transfer *t = &s->r->transfers[i / s->tp];

        if (s->xfers[i].value != ev->xfer.value || s->over[i])
            continue;
        s->over[i] = true;
        --s->left;
        if (t->err != KVW_OK)
            continue; /* another shard's end came first */
        t->err = ev->err;
        snprintf(t->text, KVP_WHY, "%.255s", ev->text);
    }
}

/* Take what has happened; until_ns 0: don't wait. */
static void heed(struct sending *s, uint64_t until_ns)
{
    struct kvw_core_event ev;
    int fds[KVP_TP_MAX];

    for (uint32_t i = 0; i < s->tp; ++i)
        fds[i] = kvw_node_fd(s->lane[i].node);
    do {
        if (until_ns != 0)
            (void)kvp_wait_fds(fds, s->tp, until_ns);
        for (uint32_t i = 0; i < s->tp; ++i)
            while (kvp_lane_event(&s->lane[i], &ev))
                take_event(s, i, &ev);
    } while (until_ns != 0 && s->left > 0 && !kvp_stopped() && kvw_now_ns() < until_ns);
}

/* A transfer that has ended already isn't pushed to any more; its end says why. */
static void push_layer(struct sending *s, uint32_t layer, uint32_t tokens)
{
    for (uint32_t i = 0; i < s->streams; ++i)
        while (!s->over[i] && !kvp_stopped() &&
               kvw_node_push(s->lane[i % s->tp].node, s->xfers[i], layer, tokens, NULL) ==
                   KVW_E_AGAIN)
            heed(s, kvw_now_ns() + 100000);
}

static void run_clock(struct sending *s)
{
    const uint32_t layers = s->r->layers, chunks = kvp_clock_chunks(s->plan);

    for (uint32_t c = 0; c < chunks; ++c)
        for (uint32_t l = 0; l < layers && s->left > 0 && !kvp_stopped(); ++l) {
            uint32_t tokens;
            const double at_ms = kvp_clock_ms(s->plan, layers, c, l, &tokens);
            const uint64_t at_ns = s->begun_ns + (uint64_t)(at_ms * 1e6);

            if (kvw_now_ns() < at_ns)
                heed(s, at_ns);
            push_layer(s, l, tokens);
            const double lag_ms = (double)(int64_t)(kvw_now_ns() - at_ns) / 1e6;

            if (lag_ms > s->r->lag_ms)
                s->r->lag_ms = lag_ms;
            for (uint32_t i = 0; i < s->plan->requests; ++i)
                s->r->transfers[i].computed_ms[l] = at_ms;
        }
    for (uint32_t i = 0; i < s->streams; ++i)
        if (!s->over[i] && !kvp_stopped())
            (void)!kvw_node_commit(s->lane[i % s->tp].node, s->xfers[i], "kvperf", 6);
}

/* --- what came of it -------------------------------------------------------------------------- */

static void take_shards(struct kvp_transfer *t, const cJSON *list, double base_ms)
{
    const cJSON *of;
    uint32_t i = 0;

    cJSON_ArrayForEach(of, list)
    {
        if (i == KVP_TP_MAX)
            return;
        t->shards[i++] = (struct kvp_shard){
            .raw_bytes = (uint64_t)kvp_msg_number(of, "raw_bytes", 0, 1e15, 0),
            .wire_bytes = (uint64_t)kvp_msg_number(of, "wire_bytes", 0, 1e15, 0),
            .last_ms = base_ms + kvp_msg_number(of, "last_ns", -1e18, 1e18, 0) / 1e6};
    }
}

static void take_landing(struct sending *s, uint32_t i, const cJSON *from, double base_ms)
{
    const cJSON *ready = cJSON_GetObjectItemCaseSensitive(from, "ready_ns"), *at;
    struct kvp_transfer *t = &s->r->transfers[i];
    const double none = -1e18;
    uint32_t l = 0;

    if (t->err == KVW_OK) {
        t->err = (int32_t)kvp_msg_number(from, "err", -1000, 0, KVW_E_PROTOCOL);
        if (t->err != KVW_OK)
            snprintf(t->text, KVP_WHY, "%s", kvp_msg_text(from, "text", ""));
    }
    t->raw_bytes = (uint64_t)kvp_msg_number(from, "raw_bytes", 0, 1e15, 0);
    t->wire_bytes = (uint64_t)kvp_msg_number(from, "wire_bytes", 0, 1e15, 0);
    t->chunks = (uint32_t)kvp_msg_number(from, "chunks", 0, 4e9, 0);
    t->codec = (uint32_t)kvp_msg_number(from, "codec", 0, 63, 0);
    t->first_ms = base_ms + kvp_msg_number(from, "first_ns", none, 1e18, none) / 1e6;
    t->last_ms = base_ms + kvp_msg_number(from, "last_ns", none, 1e18, none) / 1e6;
    t->check.bytes = (uint64_t)kvp_msg_number(from, "compared", 0, 1e15, 0);
    t->check.wrong = (uint64_t)kvp_msg_number(from, "wrong", 0, 1e15, 0);
    t->check.noise = kvp_msg_number(from, "noise", 0, 1e300, 1e300);
    t->check.signal = kvp_msg_number(from, "signal", 0, 1e300, 0);
    take_shards(t, cJSON_GetObjectItemCaseSensitive(from, "shards"), base_ms);
    cJSON_ArrayForEach(at, ready)
    {
        if (l < s->r->layers && cJSON_IsNumber(at) && at->valuedouble >= 0)
            t->landed_ms[l] = base_ms + at->valuedouble / 1e6;
        ++l;
    }
}

static bool take_landed(struct sending *s, char *why)
{
    cJSON *msg =
        kvp_line_expect(&s->c->line, "landed", kvw_now_ns() + s->plan->timeout_ns + VERIFY_NS, why);
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(msg, "requests");

    if (msg == NULL)
        return false;
    const int64_t begun = (int64_t)kvp_msg_ns(msg, "begun_ns") + s->c->offset_ns;
    const double base_ms = (double)(begun - (int64_t)s->begun_ns) / 1e6;

    s->r->recv_cpu_s = kvp_msg_number(msg, "cpu_ns", 0, 1e18, 0) / 1e9;
    s->r->chunks_rejected = (uint64_t)kvp_msg_number(msg, "chunks_rejected", 0, 1e15, 0);
    for (uint32_t i = 0; i < s->plan->requests; ++i)
        take_landing(s, i, cJSON_GetArrayItem(list, (int)i), base_ms);
    cJSON_Delete(msg);
    return true;
}

static void take_figures(struct sending *s, uint64_t cpu_ns)
{
    struct kvw_peer_info peer = {.size = sizeof(peer)};

    s->r->send_cpu_s = (double)(kvp_cpu_ns() - cpu_ns) / 1e9;
    for (uint32_t i = 0; i < s->tp; ++i) {
        struct kvw_core_stats after = {.size = sizeof(after)};

        kvw_node_stats(s->lane[i].node, &after);
        s->r->credit_stalls += after.credit_stalls - s->before[i].credit_stalls;
        s->r->encoder_stalls += after.encoder_stalls - s->before[i].encoder_stalls;
        s->r->packets += after.packets_sent - s->before[i].packets_sent;
        s->r->packets_again += after.packets_retransmitted - s->before[i].packets_retransmitted;
    }
    if (kvw_node_peer_info(s->lane->node, s->lane->peer, &peer) == KVW_OK)
        snprintf(s->r->why_codec, sizeof(s->r->why_codec), "%s", peer.why);
}

static enum kvp_exit verdict(const struct kvp_round *r, char *why)
{
    for (uint32_t i = 0; i < r->requests; ++i)
        if (r->transfers[i].err != KVW_OK) {
            snprintf(why, KVP_WHY, "a transfer failed: %s%s%.180s",
                     kvw_strerror((kvw_err)r->transfers[i].err),
                     r->transfers[i].text[0] != '\0' ? ": " : "", r->transfers[i].text);
            return KVP_EXIT_FAILED;
        }
    return KVP_EXIT_OK;
}

enum kvp_exit kvp_client_round(struct kvp_client *c, const struct kvp_round_plan *plan,
                               struct kvp_round *r, char why[KVP_WHY])
{
    struct sending s = {.c = c,
                        .plan = plan,
                        .r = r,
                        .lane = kvp_client_lane(c, plan->lane),
                        .tp = c->o->tp,
                        .streams = plan->requests * c->o->tp,
                        .left = plan->requests * c->o->tp};
    uint64_t cpu_ns;

    if (!kvp_round_make(r, plan->requests, c->o->geometry.layers)) {
        snprintf(why, KVP_WHY, "no memory for a round's times");
        return KVP_EXIT_FAILED;
    }
    ++c->rounds;
    heed(&s, 0);
    if (!announce(&s, why))
        return kvp_stopped() ? KVP_EXIT_INTERRUPTED : KVP_EXIT_SERVER;
    for (uint32_t i = 0; i < s.tp; ++i) {
        s.before[i].size = sizeof(s.before[i]);
        kvw_node_stats(s.lane[i].node, &s.before[i]);
    }
    cpu_ns = kvp_cpu_ns();
    if (!open_streams(&s, why))
        return KVP_EXIT_FAILED;
    s.begun_ns = kvw_now_ns() + LEAD_NS;
    heed(&s, s.begun_ns);
    run_clock(&s);
    heed(&s, kvw_now_ns() + plan->timeout_ns);
    take_figures(&s, cpu_ns);
    if (kvp_stopped())
        return KVP_EXIT_INTERRUPTED;
    if (!take_landed(&s, why))
        return kvp_stopped() ? KVP_EXIT_INTERRUPTED : KVP_EXIT_SERVER;
    return verdict(r, why);
}
