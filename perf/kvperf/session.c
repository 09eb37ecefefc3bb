/* SPDX-License-Identifier: Apache-2.0 */
/*
 * session.c - one client at the server: hello, clock, open, rounds. Everything that it says is
 * checked before it is used; README.md lists the messages.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "host.h"
#include "server.h"
#include "stop.h"

#define HELLO_NS 5000000000ull
#define IDLE_NS  600000000000ull
#define TRIES    16u /* of UDP port ranges, if one is taken */

void kvp_say_error(struct kvp_line *line, const char *why)
{
    cJSON *msg = kvp_msg("error");
    char unused[KVP_WHY];

    cJSON_AddStringToObject(msg, "text", why);
    (void)kvp_line_send(line, msg, unused);
}

/* --- hello ------------------------------------------------------------------------------------ */

static bool say_hello(struct kvp_session *s, char *why)
{
    cJSON *msg = kvp_msg("hello");

    cJSON_AddNumberToObject(msg, "protocol", KVP_PROTOCOL);
    cJSON_AddStringToObject(msg, "version", kvw_version());
    cJSON_AddStringToObject(msg, "features", kvw_features());
    cJSON_AddItemToObject(msg, "host", kvp_host_json(s->here));
    return kvp_line_send(&s->line, msg, why);
}

static bool hear_hello(struct kvp_session *s, char *why)
{
    cJSON *msg = kvp_line_expect(&s->line, "hello", kvw_now_ns() + HELLO_NS, why);
    bool ok = msg != NULL;

    if (!ok)
        return false;
    const double protocol = kvp_msg_number(msg, "protocol", 0, 1e9, 0);

    if (protocol != KVP_PROTOCOL) {
        snprintf(why, KVP_WHY,
                 "the server speaks version %d of kvperf's protocol (kvwire %s), the client %.0f "
                 "(kvwire %.20s)",
                 KVP_PROTOCOL, kvw_version(), protocol, kvp_msg_text(msg, "version", "?"));
        ok = false;
    } else if (!s->server->quiet) {
        time_t now = time(NULL);
        char at[32] = "";

        strftime(at, sizeof(at), "%H:%M:%S", localtime(&now));
        printf("%s %s: %.400s\n", at, s->there, kvp_msg_text(msg, "command", "?"));
        fflush(stdout);
    }
    cJSON_Delete(msg);
    return ok;
}

/* --- open ------------------------------------------------------------------------------------- */

/* This side's address of lane i. */
static void local_of(const struct kvp_session *s, const cJSON *msg, uint32_t lane, uint32_t port,
                     char *to, size_t bytes)
{
    const char *link = s->server->link != NULL ? s->server->link : kvp_msg_text(msg, "link", "");

    if (strcmp(kvp_msg_text(msg, "net", "udp"), "udp") == 0)
        snprintf(to, bytes, strchr(s->here, ':') != NULL ? "[%s]:%u" : "%s:%u", s->here,
                 port + lane);
    else if (s->server->net == NULL)
        snprintf(to, bytes, "%.180s.%u", link, lane);
    else
        snprintf(to, bytes, "%.200s", link);
}

static void close_lanes(struct kvp_session *s)
{
    for (uint32_t i = 0; i < s->lane_count; ++i)
        kvp_lane_close(&s->lanes[i]);
    s->lane_count = 0;
}

/* Shards of the client that have rows of this one's. */
static uint32_t peers_of(const struct kvp_session *s, uint32_t shard)
{
    uint32_t n = 0;

    for (uint32_t p = 0; s->tp_there > 1 && p < s->tp_there; ++p)
        n += kvp_geometry_meet(&s->geometry, shard, s->tp, p, s->tp_there);
    return n > 0 ? n : 1;
}

static bool open_lanes(struct kvp_session *s, const cJSON *msg, uint32_t port, char *why)
{
    const uint32_t lanes = (uint32_t)kvp_msg_number(msg, "lanes", 1, KVP_LANES_MAX, 1);
    const uint32_t nodes = lanes * s->tp;
    const char *fault = kvp_msg_text(msg, "fault", NULL);

    for (uint32_t i = 0; i < nodes; ++i) {
        char local[256];
        const struct kvp_lane_config cfg = {
            .net = kvp_msg_text(msg, "net", "udp"),
            .local = local,
            .name = "kvperf server",
            .fault = fault,
            .codec = KVW_CODEC_RAW, /* of what it would send */
            .listen = true,
            .peers = peers_of(s, i % s->tp),
            .busy_poll = kvp_msg_number(msg, "busy_poll", 0, 1, 0) > 0,
        };

        local_of(s, msg, i, port, local, sizeof(local));
        if (!kvp_lane_open(&s->lanes[i], &cfg, s->region == NULL ? &s->cache[i % s->tp] : NULL,
                           why)) {
            close_lanes(s);
            return false;
        }
        s->lane_count = i + 1;
    }
    return true;
}

/* Geometry, cache and payload as the client has them. */
static bool take_state(struct kvp_session *s, const cJSON *msg, char *why)
{
    struct kvp_cache_config cfg = {
        .geometry = &s->geometry,
        .tokens = (uint32_t)kvp_msg_number(msg, "tokens", 1, KVW_XFER_TOKENS_MAX, 0),
        .requests = (uint32_t)kvp_msg_number(msg, "requests", 1, 64, 0),
        .block_tokens = (uint32_t)kvp_msg_number(msg, "block_tokens", 1, KVW_BLOCK_TOKENS_MAX, 0),
        .layout = (enum kvp_layout)kvp_msg_number(msg, "layout", 0, 2, 0),
        /* Another order than the client's own. */
        .seed = ~(uint64_t)kvp_msg_number(msg, "seed", 0, 9007199254740992.0, 0),
        .shards = s->tp,
    };
    bool ok = true;

    if (!kvp_geometry_from_json(&s->geometry, cJSON_GetObjectItemCaseSensitive(msg, "geometry"),
                                why))
        return false;
    if (cfg.tokens == 0 || cfg.requests == 0 || cfg.block_tokens == 0) {
        snprintf(why, KVP_WHY, "tokens, requests or block_tokens is missing or out of range");
        return false;
    }
    if (!kvp_geometry_shares(&s->geometry, s->tp, why) ||
        !kvp_geometry_shares(&s->geometry, s->tp_there, why))
        return false;
    if (!kvp_payload_make(&s->payload, &s->geometry,
                          (enum kvp_payload_kind)kvp_msg_number(msg, "payload", 0, 2, 0),
                          (uint64_t)kvp_msg_number(msg, "seed", 0, 9007199254740992.0, 0), NULL,
                          why))
        return false;
    for (; ok && cfg.shard < s->tp; ++cfg.shard)
        ok = kvp_cache_make(&s->cache[cfg.shard], &cfg, why);
    return ok;
}

static void forget_state(struct kvp_session *s)
{
    close_lanes(s);
    for (uint32_t i = 0; i < KVP_TP_MAX; ++i)
        kvp_cache_free(&s->cache[i]);
    kvp_payload_free(&s->payload);
    free(s->region);
    s->region = NULL;
    kvp_session_end_iperf3(s);
}

static bool may_have(const struct kvp_session *s, const cJSON *msg, char *why)
{
    const char *net = kvp_msg_text(msg, "net", "udp");

    if (s->server->net == NULL || strcmp(s->server->net, net) == 0)
        return true;
    snprintf(why, KVP_WHY, "the server runs with --net %s, the client asks for %.20s",
             s->server->net, net);
    return false;
}

/* region: for batches, memory without a shape; else a cache. */
static bool open_state(struct kvp_session *s, const cJSON *msg, bool region, char *why)
{
    uint32_t port = (uint32_t)kvp_msg_number(msg, "port", 1, 65000, KVP_PORT);
    const uint64_t bytes = (uint64_t)kvp_msg_number(msg, "bytes", 1, 1e12, 0);
    cJSON *reply;
    bool ok;

    forget_state(s);
    s->tp = (uint32_t)kvp_msg_number(msg, "tp_there", 1, KVP_TP_MAX, 1);
    s->tp_there = (uint32_t)kvp_msg_number(msg, "tp", 1, KVP_TP_MAX, 1);
    if (!may_have(s, msg, why) ||
        (region ? !kvp_session_region(s, bytes, why) : !take_state(s, msg, why)))
        return false;
    ok = open_lanes(s, msg, port, why);
    /* The end of a run on this host has no port of its own: any will do. */
    for (uint32_t i = 1; !ok && s->server->quiet && i < TRIES; ++i) {
        port = 20000 + (uint32_t)(kvp_mix(kvw_now_ns() + i) % 40000);
        ok = open_lanes(s, msg, port, why);
    }
    if (!ok || (region && !kvp_session_add_region(s, why)))
        return false;
    kvp_wake_soon();
    reply = kvp_msg("opened");
    cJSON_AddNumberToObject(reply, "port", port);
    cJSON_AddNumberToObject(reply, "shards", s->tp);
    kvp_msg_put_ns(reply, "region", (uintptr_t)s->region);
    cJSON_AddStringToObject(reply, "path", s->lanes[0].path);
    return kvp_line_send(&s->line, reply, why);
}

/* --- the loop --------------------------------------------------------------------------------- */

static bool tell_clock(struct kvp_session *s, char *why)
{
    cJSON *msg = kvp_msg("clock");

    kvp_msg_put_ns(msg, "ns", kvw_now_ns());
    return kvp_line_send(&s->line, msg, why);
}

/* Answer one message; false: this client is over, and why says what was wrong or is empty. */
static bool answer(struct kvp_session *s, const cJSON *msg, char *why)
{
    const char *type = kvp_msg_type(msg);

    why[0] = '\0';
    if (strcmp(type, "clock") == 0)
        return tell_clock(s, why);
    if (strcmp(type, "open") == 0 || strcmp(type, "region") == 0)
        return open_state(s, msg, type[0] == 'r', why);
    if (strcmp(type, "replay") == 0)
        return kvp_session_replay(s, msg, why);
    if (strcmp(type, "iperf3") == 0)
        return kvp_session_iperf3(s, why);
    if (strcmp(type, "doctor") == 0)
        return kvp_session_doctor(s, why);
    if (strcmp(type, "fill") == 0)
        return kvp_session_fill(s, msg, why);
    if (strcmp(type, "compare") == 0)
        return kvp_session_compare(s, msg, why);
    if (strcmp(type, "round") == 0)
        return kvp_session_round(s, msg, why);
    if (strcmp(type, "bye") != 0)
        snprintf(why, KVP_WHY, "no message %.40s is known here", type);
    return false;
}

void kvp_session_run(struct kvp_session *s)
{
    char why[KVP_WHY] = "";
    bool more =
        kvp_line_ends(&s->line, s->here, s->there) && say_hello(s, why) && hear_hello(s, why);

    while (more && !kvp_stopped()) {
        cJSON *msg = kvp_line_recv(&s->line, kvw_now_ns() + IDLE_NS, why);

        more = msg != NULL && answer(s, msg, why);
        cJSON_Delete(msg);
    }
    if (why[0] != '\0') {
        kvp_say_error(&s->line, why);
        if (!s->server->quiet)
            fprintf(stderr, "kvperf: %s: %s\n", s->there, why);
    }
    forget_state(s);
}
