/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 03_sender.c - the prefill side of two processes, asleep in epoll between events.
 *
 *     03_sender TRANSPORT LOCAL PEER [REQUESTS [TOKENS]]      03_sender udp 127.0.0.1:0
 *     127.0.0.1:7403
 *
 * Computes (here: invents) the KV of each request that the receiver offers blocks for, a layer at a
 * time. PEER is "-" where the link has only one.
 */
#include "llama.h"

#include <sys/epoll.h>

static struct llama model;
static uint32_t tokens, per_request;

/* The request of that key; 0: none of ours. */
static uint32_t number_of(const kvw_key *key, uint32_t requests)
{
    char text[32];

    for (uint32_t i = 1; i <= requests; ++i) {
        snprintf(text, sizeof(text), "request %u", i);
        const kvw_key k = kvw_key_of(text);

        if (memcmp(k.bytes, key->bytes, sizeof(k.bytes)) == 0)
            return i;
    }
    return 0;
}

/* Prefill: after each layer a push, and the transfer goes on behind it. */
static void prefill(struct kvw_node *node, kvw_pool_id pool, const kvw_key *key, uint32_t number,
                    const uint32_t *ids)
{
    const struct kvw_group_blocks blocks = {.block_count = per_request, .blocks = ids};
    const struct kvw_stream_args args = {.size = sizeof(args),
                                         .pool = pool,
                                         .key = *key,
                                         .tokens = tokens,
                                         .group_count = 1,
                                         .groups = &blocks};
    kvw_xfer_ref xfer;
    char why[200] = "";

    if (kvw_node_stream(node, &args, &xfer, why, sizeof(why)) != KVW_OK)
        die("stream", why);
    for (uint32_t l = 0; l < LAYERS; ++l) {
        llama_layer(&model, ids, number, l, tokens, 0);
        if (kvw_node_push(node, xfer, l, tokens, NULL) != KVW_OK)
            die("push", "the transfer has ended");
    }
    if (kvw_node_commit(node, xfer, &number, sizeof(number)) != KVW_OK)
        die("commit", "the transfer has ended");
}

int main(int argc, char **argv)
{
    const uint32_t requests = argc > 4 ? (uint32_t)atoi(argv[4]) : 5;
    struct kvw_node_config cfg = {.size = sizeof(cfg), .name = "prefill"};
    struct kvw_core_event ev = {.size = sizeof(ev)};
    struct epoll_event wait = {.events = EPOLLIN};
    uint32_t done = 0, begun = 0, *ids;
    struct kvw_node *node;
    char why[200] = "";
    kvw_pool_id pool;
    kvw_peer_id peer;

    if (argc < 4 || requests < 1)
        die("usage", "03_sender TRANSPORT LOCAL PEER [REQUESTS [TOKENS]]");
    tokens = argc > 5 ? (uint32_t)atoi(argv[5]) : 2048;
    per_request = (tokens + BLOCK - 1) / BLOCK;
    cfg.transport = argv[1];
    cfg.local = argv[2];
    if (kvw_node_open(&node, &cfg, why, sizeof(why)) != KVW_OK)
        die("node", why);
    pool = llama_pool(&model, requests * per_request, node);
    ids = malloc(requests * per_request * sizeof(ids[0]));
    for (uint32_t i = 0; i < requests * per_request; ++i) /* every block once, out of order */
        ids[i] = (uint32_t)(((uint64_t)i * 1009 + 17) % (requests * per_request));
    if (kvw_node_peer_add(node, strcmp(argv[3], "-") == 0 ? NULL : argv[3], &peer) != KVW_OK)
        die("peer", "the address can't be read");
    const int loop = epoll_create1(0);

    if (epoll_ctl(loop, EPOLL_CTL_ADD, kvw_node_fd(node), &wait) != 0)
        die("epoll", "refused");
    while (done < requests) {
        if (epoll_wait(loop, &wait, 1, 30000) != 1)
            die("epoll", "nothing happened for thirty seconds");
        while (kvw_node_next_event(node, &ev)) {
            if (ev.kind == KVW_CEV_OFFERED) {
                const uint32_t number = number_of(&ev.key, requests);

                if (number > 0)
                    prefill(node, pool, &ev.key, number, ids + begun++ * per_request);
            } else if (ev.kind == KVW_CEV_XFER_DONE) {
                if (ev.err != KVW_OK)
                    die("transfer", ev.text);
                ++done;
            } else if (ev.kind == KVW_CEV_PEER_LOST) {
                printf("not connected yet: %s\n", ev.text);
            }
        }
    }
    kvw_node_close(node);
    printf("%u requests sent\n", done);
    return 0;
}
