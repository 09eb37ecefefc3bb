/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 06_own_loop.c - many peers, two transports, one thread: an application with an epoll loop of its
 * own drives nine nodes, which have no threads.
 *
 * The decode node listens by udp and by loop; four prefill nodes reach it by each. It asks every
 * peer that comes for one request. In a real program only one of these nodes would be yours, and
 * the epoll has your sockets beside it.
 */
#include <sys/epoll.h>
#include <unistd.h>

#include "llama.h"

enum { PREFILLS = 8, TOKENS = 40, EACH = (TOKENS + BLOCK - 1) / BLOCK };

struct side {
    struct kvw_node *node;
    struct llama memory;
    kvw_pool_id pool;
    kvw_xfer_ref xfer; /* decode: the latest */
};

static struct side decode, prefill[PREFILLS];
static uint32_t ended, wrong;

static void open_side(struct side *s, struct kvw_node_config *cfg, uint32_t blocks, int loop)
{
    struct epoll_event want = {.events = EPOLLIN, .data = {.ptr = s}};
    char why[257] = "";

    cfg->size = sizeof(*cfg);
    cfg->app_driven = 1;
    if (kvw_node_open(&s->node, cfg, why, sizeof(why)) != KVW_OK)
        die(cfg->name, why);
    s->pool = llama_pool(&s->memory, blocks, s->node);
    if (epoll_ctl(loop, EPOLL_CTL_ADD, kvw_node_fd(s->node), &want) != 0)
        die("epoll", "refused");
}

static kvw_key key_of(uint32_t request)
{
    char text[32];

    snprintf(text, sizeof(text), "request %u", request);
    return kvw_key_of(text);
}

/* Request i lies in blocks i*EACH .. of decode, and in the first ones of prefill i. */
static void ids_of(uint32_t request, uint32_t ids[EACH])
{
    for (uint32_t i = 0; i < EACH; ++i)
        ids[i] = request * EACH + i;
}

/* A prefill is up: it computes its request, and decode asks for it. */
static void begin(uint32_t i, kvw_peer_id peer)
{
    struct side *s = &prefill[i];
    uint32_t to[EACH], from[EACH];
    const struct kvw_group_blocks want = {.block_count = EACH, .blocks = to, .want_end = TOKENS};
    const struct kvw_group_blocks have = {.block_count = EACH, .blocks = from};
    const struct kvw_offer_args offer = {.size = sizeof(offer),
                                         .pool = decode.pool,
                                         .key = key_of(i),
                                         .tokens = TOKENS,
                                         .group_count = 1,
                                         .groups = &want,
                                         .sources = &peer,
                                         .source_count = 1};
    const struct kvw_stream_args stream = {.size = sizeof(stream),
                                           .pool = s->pool,
                                           .key = key_of(i),
                                           .tokens = TOKENS,
                                           .group_count = 1,
                                           .groups = &have};
    char why[257] = "";

    ids_of(i, to);
    ids_of(0, from);
    if (kvw_node_offer(decode.node, &offer, &decode.xfer, why, sizeof(why)) != KVW_OK ||
        kvw_node_stream(s->node, &stream, &s->xfer, why, sizeof(why)) != KVW_OK)
        die("request", why);
    for (uint32_t l = 0; l < LAYERS; ++l) {
        llama_layer(&s->memory, from, i, l, TOKENS, 0); /* the model computes */
        if (kvw_node_push(s->node, s->xfer, l, TOKENS, NULL) != KVW_OK)
            die("push", "refused");
    }
    if (kvw_node_commit(s->node, s->xfer, &i, sizeof(i)) != KVW_OK)
        die("commit", "refused");
}

/* Decode's event. */
static void handle(const struct kvw_core_event *ev)
{
    struct kvw_peer_info info = {.size = sizeof(info)};
    uint32_t i = 0, ids[EACH];

    if (ev->kind == KVW_CEV_PEER_UP && kvw_node_peer_info(decode.node, ev->peer, &info) == KVW_OK) {
        printf("%s by %s\n", info.name, info.path);
        begin((uint32_t)atoi(info.name + strlen("prefill ")), ev->peer);
    }
    if (ev->kind != KVW_CEV_XFER_DONE)
        return;
    if (ev->err != KVW_OK || ev->note_bytes != sizeof(i))
        die("transfer", ev->text);
    memcpy(&i, ev->note, sizeof(i));
    ids_of(i, ids);
    for (uint32_t l = 0; l < LAYERS; ++l)
        wrong += llama_layer(&decode.memory, ids, i, l, TOKENS, 1) != 0;
    ++ended;
}

int main(void)
{
    const struct kvw_node_path by_loop = {.transport = "loop", .local = "06", .listen = 1};
    struct kvw_node_config cfg = {.name = "decode",
                                  .listen = 1,
                                  .transport = "udp",
                                  .local = "127.0.0.1:0",
                                  .more = &by_loop,
                                  .more_count = 1,
                                  .more_bytes = sizeof(by_loop)};
    const int loop = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event ready[PREFILLS + 1];
    uint8_t blob[512];
    uint32_t bytes = sizeof(blob), wakes = 0;
    kvw_peer_id peer;

    open_side(&decode, &cfg, PREFILLS * EACH, loop);
    if (kvw_node_blob(decode.node, blob, &bytes) != KVW_OK) /* it names both transports */
        die("blob", "too long");
    for (uint32_t i = 0; i < PREFILLS; ++i) {
        char name[32];

        snprintf(name, sizeof(name), "prefill %u", i);
        cfg = (struct kvw_node_config){.name = name,
                                       .transport = i % 2 == 0 ? "udp" : "loop",
                                       .local = i % 2 == 0 ? "127.0.0.1:0" : "06"};
        open_side(&prefill[i], &cfg, EACH, loop);
        if (kvw_node_peer_blob(prefill[i].node, blob, bytes, &peer) != KVW_OK)
            die("blob", "it can't be read");
    }
    while (ended < PREFILLS) {
        const int n = epoll_wait(loop, ready, PREFILLS + 1, 30000);

        if (n <= 0)
            die("epoll", "nothing happened for thirty seconds");
        for (int i = 0; i < n; ++i, ++wakes) {
            struct kvw_core_event ev = {.size = sizeof(ev)};
            const struct side *s = ready[i].data.ptr;

            (void)kvw_node_poll(s->node);
            while (kvw_node_next_event(s->node, &ev))
                if (s == &decode)
                    handle(&ev);
        }
    }
    printf("%u requests of %u tokens from %u peers, %u layers wrong; %u wake-ups\n", ended, TOKENS,
           PREFILLS, wrong, wakes);
    for (uint32_t i = 0; i < PREFILLS; ++i)
        kvw_node_close(prefill[i].node);
    kvw_node_close(decode.node);
    close(loop);
    return wrong == 0 ? 0 : 1;
}
