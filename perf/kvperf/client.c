/* SPDX-License-Identifier: Apache-2.0 */
/* client.c - joining a server: hello, whose clock is when, nodes, a full cache. */
#include "client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host.h"
#include "stop.h"

#define CONNECT_NS  5000000000ull
#define REPLY_NS    30000000000ull
#define CLOCK_ASKED 16

void kvp_command_text(const struct kvp_options *o, char *to, size_t bytes)
{
    size_t at = 0;

    to[0] = '\0';
    for (int i = 0; i < o->argc && at < bytes; ++i)
        at += (size_t)snprintf(to + at, bytes - at, "%s%s", i > 0 ? " " : "",
                               i > 0 ? o->argv[i] : "kvperf");
}

/* --- hello ------------------------------------------------------------------------------------ */

static bool hear_hello(struct kvp_client *c, char *why)
{
    cJSON *msg = kvp_line_expect(&c->line, "hello", kvw_now_ns() + CONNECT_NS, why);
    const double protocol = msg != NULL ? kvp_msg_number(msg, "protocol", 0, 1e9, 0) : 0;

    c->server = msg;
    if (msg == NULL)
        return false;
    if (protocol == KVP_PROTOCOL)
        return true;
    snprintf(why, KVP_WHY,
             "the server speaks version %.0f of kvperf's protocol (kvwire %.20s), this is %d "
             "(kvwire %s): use the same kvperf on both hosts",
             protocol, kvp_msg_text(msg, "version", "?"), KVP_PROTOCOL, kvw_version());
    return false;
}

static bool say_hello(struct kvp_client *c, char *why)
{
    cJSON *msg = kvp_msg("hello");
    char command[512];

    kvp_command_text(c->o, command, sizeof(command));
    cJSON_AddNumberToObject(msg, "protocol", KVP_PROTOCOL);
    cJSON_AddStringToObject(msg, "version", kvw_version());
    cJSON_AddStringToObject(msg, "command", command);
    return kvp_line_send(&c->line, msg, why);
}

/* The server's clock against this one: of some questions the one that took least tells most. */
static bool compare_clocks(struct kvp_client *c, char *why)
{
    const cJSON *host = cJSON_GetObjectItemCaseSensitive(c->server, "host");
    uint64_t least_ns = UINT64_MAX;
    char boot_id[40];

    kvp_host_boot_id(boot_id);
    c->offset_ns = 0;
    c->offset_error_ns = 0;
    if (boot_id[0] != '\0' && strcmp(boot_id, kvp_msg_text(host, "boot_id", "")) == 0)
        return true;
    for (int i = 0; i < CLOCK_ASKED; ++i) {
        const uint64_t asked_ns = kvw_now_ns();
        cJSON *msg = kvp_line_send(&c->line, kvp_msg("clock"), why)
                         ? kvp_line_expect(&c->line, "clock", asked_ns + CONNECT_NS, why)
                         : NULL;
        const uint64_t took_ns = kvw_now_ns() - asked_ns;

        if (msg == NULL)
            return false;
        if (took_ns < least_ns) {
            least_ns = took_ns;
            c->offset_ns = (int64_t)(asked_ns + took_ns / 2 - kvp_msg_ns(msg, "ns"));
            c->offset_error_ns = took_ns / 2;
        }
        cJSON_Delete(msg);
    }
    return true;
}

/* --- opening ---------------------------------------------------------------------------------- */

static bool make_cache(struct kvp_client *c, char *why)
{
    const struct kvp_options *o = c->o;
    struct kvp_cache_config cfg = {.geometry = &o->geometry,
                                   .tokens = c->tokens,
                                   .requests = o->parallel,
                                   .block_tokens = o->block_tokens,
                                   .layout = o->layout,
                                   .seed = o->seed,
                                   .shards = o->tp};
    bool ok =
        kvp_payload_make(&c->payload, &o->geometry, o->payload, o->seed, o->payload_path, why);

    for (; ok && cfg.shard < o->tp; ++cfg.shard)
        ok = kvp_cache_make(&c->cache[cfg.shard], &cfg, why);
    return ok;
}

void kvp_client_fill(struct kvp_client *c, uint32_t request, uint32_t tokens, bool shuffled)
{
    for (uint32_t i = 0; i < c->o->tp; ++i)
        kvp_cache_fill(&c->cache[i], &c->payload, request, tokens, shuffled);
}

/* What a node on the other side is made of. */
static void add_way(const struct kvp_client *c, cJSON *msg)
{
    const struct kvp_options *o = c->o;
    char link[96];

    snprintf(link, sizeof(link), "%s/link", c->local.folder);
    cJSON_AddStringToObject(msg, "net", o->net);
    if (c->local.pid > 0)
        cJSON_AddStringToObject(msg, "link", link);
    if (o->fault != NULL)
        cJSON_AddStringToObject(msg, "fault", o->fault);
    cJSON_AddNumberToObject(msg, "port", c->local.pid > 0 ? c->local.port : o->port);
    cJSON_AddNumberToObject(msg, "busy_poll", o->busy_poll);
}

/* Between hosts the options name one device on either side. Two ports on it would be two hosts with
 * one address, and take each other's packets. */
static uint32_t lanes_of(const struct kvp_options *o)
{
    return o->host != NULL && strcmp(o->net, "udp") != 0 ? 1 : o->codec_count + 1;
}

struct kvp_lane *kvp_client_lane(struct kvp_client *c, uint32_t lane)
{
    return &c->lanes[c->lane_count > c->o->tp ? lane * c->o->tp : 0];
}

uint32_t kvp_client_codec(const struct kvp_options *o, uint32_t lane)
{
    return lane == 0 ? KVW_CODEC_RAW : o->codecs[lane - 1].id;
}

static bool ask_open(struct kvp_client *c, char *why)
{
    const struct kvp_options *o = c->o;
    cJSON *msg = kvp_msg("open");

    add_way(c, msg);
    cJSON_AddNumberToObject(msg, "lanes", lanes_of(o));
    cJSON_AddItemToObject(msg, "geometry", kvp_geometry_to_json(&o->geometry));
    cJSON_AddNumberToObject(msg, "tokens", c->tokens);
    cJSON_AddNumberToObject(msg, "requests", o->parallel);
    cJSON_AddNumberToObject(msg, "tp", o->tp);
    cJSON_AddNumberToObject(msg, "tp_there", o->tp_there);
    cJSON_AddNumberToObject(msg, "block_tokens", o->block_tokens_there);
    cJSON_AddNumberToObject(msg, "layout", o->layout);
    cJSON_AddNumberToObject(msg, "payload", o->payload);
    cJSON_AddNumberToObject(msg, "seed", (double)o->seed);
    return kvp_line_send(&c->line, msg, why);
}

static bool hear_opened(struct kvp_client *c, uint32_t *port, char *why)
{
    cJSON *msg = kvp_line_expect(&c->line, "opened", kvw_now_ns() + REPLY_NS, why);

    if (msg == NULL)
        return false;
    c->region = kvp_msg_ns(msg, "region");
    *port = (uint32_t)kvp_msg_number(msg, "port", 1, 65535, 0);
    snprintf(c->server_path, sizeof(c->server_path), "%s", kvp_msg_text(msg, "path", ""));
    const uint32_t shards = (uint32_t)kvp_msg_number(msg, "shards", 1, KVP_TP_MAX, 1);

    cJSON_Delete(msg);
    if (shards != c->o->tp_there)
        snprintf(why, KVP_WHY, "the server has %u shards, not %u: an older kvperf knows no --tp",
                 shards, c->o->tp_there);
    return shards == c->o->tp_there;
}

/* This side's address of a lane, and the server's; "": the link's only peer. */
static void addresses(const struct kvp_client *c, uint32_t lane, uint32_t port, char local[256],
                      char peer[256])
{
    const struct kvp_options *o = c->o;
    const char *form = strchr(c->there, ':') != NULL ? "[%s]:%u" : "%s:%u";

    peer[0] = '\0';
    if (strcmp(o->net, "udp") == 0) {
        snprintf(local, 256, form, c->here, 0);
        snprintf(peer, 256, form, c->there, port + lane);
    } else if (c->local.pid > 0) {
        snprintf(local, 256, "%s/link.%u", c->local.folder, lane);
    } else {
        snprintf(local, 256, "%s", o->link);
        snprintf(peer, 256, "%s", o->peer != NULL ? o->peer : "");
    }
}

/* Shards of the other side that have rows of this one's. */
static uint32_t peers_of(const struct kvp_options *o, uint32_t shard)
{
    uint32_t n = 0;

    for (uint32_t d = 0; d < o->tp_there; ++d)
        n += kvp_geometry_meet(&o->geometry, shard, o->tp, d, o->tp_there);
    return n;
}

/* The node of one shard. */
static bool open_node(struct kvp_client *c, uint32_t node, char *why)
{
    const struct kvp_options *o = c->o;
    const uint32_t lane = node / o->tp, shard = node % o->tp;
    char local[256], peer[256], name[48];
    const struct kvp_lane_config cfg = {
        .net = o->net,
        .local = local,
        .name = name,
        .fault = o->fault,
        .codec = lanes_of(o) > 1 ? kvp_client_codec(o, lane) : 0,
        .encoders = o->encoders,
        .peers = o->tp_there > 1 ? peers_of(o, shard) : 1,
        .busy_poll = o->busy_poll,
    };

    addresses(c, lane, 0, local, peer);
    snprintf(name, sizeof(name), "kvperf%s%s", lane == 0 ? "" : " ",
             lane == 0 ? "" : o->codecs[lane - 1].name);
    if (!kvp_lane_open(&c->lanes[node], &cfg, c->cache[0].memory != NULL ? &c->cache[shard] : NULL,
                       why))
        return false;
    c->lane_count = node + 1;
    return true;
}

static bool dial_node(struct kvp_client *c, uint32_t node, uint32_t port, char *why)
{
    const struct kvp_options *o = c->o;
    const uint32_t lane = node / o->tp;
    char local[256], peer[256];

    for (uint32_t d = 0; d < o->tp_there; ++d) {
        if (o->tp_there > 1 &&
            !kvp_geometry_meet(&o->geometry, node % o->tp, o->tp, d, o->tp_there))
            continue;
        addresses(c, lane * o->tp_there + d, port, local, peer);
        if (!kvp_lane_dial(&c->lanes[node], peer[0] != '\0' ? peer : NULL, why))
            return false;
    }
    return true;
}

/* Both sides open their nodes at the same time: a DPDK link between two processes comes to be only
 * when both do. */
static enum kvp_exit open_lanes(struct kvp_client *c, char *why)
{
    uint32_t port = 0;

    if (!ask_open(c, why))
        return KVP_EXIT_SERVER;
    for (uint32_t i = 0; i < lanes_of(c->o) * c->o->tp; ++i)
        if (!open_node(c, i, why))
            return KVP_EXIT_FAILED;
    if (!hear_opened(c, &port, why))
        return KVP_EXIT_SERVER;
    for (uint32_t i = 0; i < c->lane_count; ++i)
        if (!dial_node(c, i, port, why) || !kvp_lane_wait_up(&c->lanes[i], why))
            return KVP_EXIT_FAILED;
    return KVP_EXIT_OK;
}

static enum kvp_exit failed(enum kvp_exit other)
{
    return kvp_stopped() ? KVP_EXIT_INTERRUPTED : other;
}

enum kvp_exit kvp_client_join(struct kvp_client *c, const struct kvp_options *o, char why[KVP_WHY])
{
    const bool here = o->host == NULL;

    memset(c, 0, sizeof(*c));
    c->o = o;
    c->line.fd = -1;
    c->session = kvw_now_ns() ^ (uint64_t)getpid() << 40;
    if (here && !kvp_local_start(&c->local, strcmp(o->net, "dpdk") == 0, why))
        return KVP_EXIT_FAILED;
    if (!kvp_line_connect(&c->line, here ? "127.0.0.1" : o->host, here ? c->local.port : o->port,
                          kvw_now_ns() + CONNECT_NS, why) ||
        !kvp_line_ends(&c->line, c->here, c->there) || !hear_hello(c, why) || !say_hello(c, why) ||
        !compare_clocks(c, why))
        return failed(KVP_EXIT_SERVER);
    return KVP_EXIT_OK;
}

enum kvp_exit kvp_client_open(struct kvp_client *c, const struct kvp_options *o, uint32_t tokens,
                              char why[KVP_WHY])
{
    enum kvp_exit status = kvp_client_join(c, o, why);

    if (status != KVP_EXIT_OK)
        return status;
    c->tokens = tokens;
    if (!make_cache(c, why))
        return KVP_EXIT_FAILED;
    for (uint32_t i = 0; i < o->parallel; ++i)
        kvp_client_fill(c, i, tokens, o->shuffled);
    status = open_lanes(c, why);
    kvp_wake_soon();
    return status == KVP_EXIT_OK ? status : failed(status);
}

enum kvp_exit kvp_client_region(struct kvp_client *c, uint64_t bytes, char why[KVP_WHY])
{
    cJSON *msg = kvp_msg("region");
    uint32_t port = 0;

    add_way(c, msg);
    cJSON_AddNumberToObject(msg, "bytes", (double)bytes);
    if (!kvp_line_send(&c->line, msg, why))
        return failed(KVP_EXIT_SERVER);
    if (!open_node(c, 0, why))
        return failed(KVP_EXIT_FAILED);
    if (!hear_opened(c, &port, why))
        return failed(KVP_EXIT_SERVER);
    return dial_node(c, 0, port, why) && kvp_lane_wait_up(&c->lanes[0], why)
               ? KVP_EXIT_OK
               : failed(KVP_EXIT_FAILED);
}

void kvp_client_close(struct kvp_client *c)
{
    char unused[KVP_WHY];

    for (uint32_t i = 0; i < c->lane_count; ++i)
        kvp_lane_close(&c->lanes[i]);
    if (c->line.fd >= 0)
        (void)kvp_line_send(&c->line, kvp_msg("bye"), unused);
    kvp_line_close(&c->line);
    kvp_local_stop(&c->local);
    cJSON_Delete(c->server);
    for (uint32_t i = 0; i < KVP_TP_MAX; ++i)
        kvp_cache_free(&c->cache[i]);
    kvp_payload_free(&c->payload);
    c->lane_count = 0;
    c->server = NULL;
}
