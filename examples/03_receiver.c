/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 03_receiver.c - the decode side of two processes, asleep in epoll between events.
 *
 *     03_receiver TRANSPORT LOCAL [REQUESTS [TOKENS [AT_ONCE]]]      03_receiver udp 127.0.0.1:7403
 *
 * Offers blocks for REQUESTS requests, AT_ONCE at a time, to the first peer that comes, and checks
 * every word that arrives. 03_sender is the other side.
 */
#include "llama.h"

#include <sys/epoll.h>

struct request {
    kvw_xfer_ref xfer;
    uint32_t number;
    uint32_t *blocks;
};

static struct llama model;
static uint32_t tokens, per_request;

/* Blocks of slot s, in an order that jumps about. */
static void scatter(struct request *r, uint32_t slot)
{
    r->blocks = malloc(per_request * sizeof(r->blocks[0]));
    for (uint32_t i = 0; i < per_request; ++i)
        r->blocks[i] = slot * per_request + (i * 7 + 3) % per_request;
    for (uint32_t i = per_request; i > 1; --i) { /* and shuffled */
        const uint32_t k = (i * 2654435761u >> 7) % i, b = r->blocks[k];

        r->blocks[k] = r->blocks[i - 1];
        r->blocks[i - 1] = b;
    }
}

static void offer(struct kvw_node *node, kvw_pool_id pool, kvw_peer_id peer, struct request *r)
{
    const struct kvw_group_blocks blocks = {
        .block_count = per_request, .blocks = r->blocks, .want_end = tokens};
    char key[32], why[200] = "";

    /* Prefill is given a minute to get round to it. */
    const struct kvw_offer_terms terms = {.size = sizeof(terms), .take_by_ns = 60000000000ull};

    snprintf(key, sizeof(key), "request %u", r->number);
    const struct kvw_offer_args args = {.size = sizeof(args),
                                        .pool = pool,
                                        .key = kvw_key_of(key),
                                        .tokens = tokens,
                                        .group_count = 1,
                                        .groups = &blocks,
                                        .sources = &peer,
                                        .source_count = 1,
                                        .terms = &terms};

    if (kvw_node_offer(node, &args, &r->xfer, why, sizeof(why)) != KVW_OK)
        die("offer", why);
}

static void check(const struct request *r, const struct kvw_core_event *ev)
{
    uint64_t wrong = 0;

    if (ev->err != KVW_OK)
        die("transfer", ev->text);
    for (uint32_t l = 0; l < LAYERS; ++l)
        wrong += llama_layer(&model, r->blocks, r->number, l, tokens, 1);
    printf("request %u: %.1f MB in %.1f ms, %llu words differ\n", r->number,
           (double)ev->raw_bytes / 1e6, (double)(ev->last_ns - ev->first_ns) / 1e6,
           (unsigned long long)wrong);
    if (wrong > 0)
        die("transfer", "other bytes than were sent");
}

int main(int argc, char **argv)
{
    const uint32_t requests = argc > 3 ? (uint32_t)atoi(argv[3]) : 5;
    const uint32_t at_once = argc > 5 ? (uint32_t)atoi(argv[5]) : 5;
    struct kvw_node_config cfg = {.size = sizeof(cfg), .listen = 1, .name = "decode"};
    struct kvw_core_event ev = {.size = sizeof(ev)};
    struct request slots[64] = {{{0}, 0, NULL}};
    uint32_t next = 1, done = 0;
    struct epoll_event wait = {.events = EPOLLIN};
    struct kvw_node *node;
    char why[200] = "";
    kvw_pool_id pool;

    if (argc < 3 || requests < 1 || at_once < 1 || at_once > 64)
        die("usage", "03_receiver TRANSPORT LOCAL [REQUESTS [TOKENS [AT_ONCE, at most 64]]]");
    tokens = argc > 4 ? (uint32_t)atoi(argv[4]) : 2048;
    per_request = (tokens + BLOCK - 1) / BLOCK;
    cfg.transport = argv[1];
    cfg.local = argv[2];
    if (kvw_node_open(&node, &cfg, why, sizeof(why)) != KVW_OK)
        die("node", why);
    pool = llama_pool(&model, at_once * per_request, node);
    const int loop = epoll_create1(0);

    if (epoll_ctl(loop, EPOLL_CTL_ADD, kvw_node_fd(node), &wait) != 0)
        die("epoll", "refused");
    while (done < requests) {
        if (epoll_wait(loop, &wait, 1, 30000) != 1)
            die("epoll", "nothing happened for thirty seconds");
        while (kvw_node_next_event(node, &ev)) {
            if (ev.kind == KVW_CEV_PEER_LOST && done < requests)
                die("peer", ev.text);
            for (uint32_t s = 0; s < at_once; ++s) {
                const bool first = ev.kind == KVW_CEV_PEER_UP && next <= requests;
                const bool its = ev.kind == KVW_CEV_XFER_DONE && slots[s].number != 0 &&
                                 slots[s].xfer.value == ev.xfer.value;
                static kvw_peer_id peer;

                if (!first && !its)
                    continue;
                if (first)
                    peer = ev.peer;
                if (its) {
                    check(&slots[s], &ev);
                    free(slots[s].blocks);
                    slots[s].number = 0;
                    ++done;
                }
                if (next > requests)
                    continue;
                slots[s].number = next++;
                scatter(&slots[s], s);
                offer(node, pool, peer, &slots[s]);
            }
        }
    }
    kvw_node_close(node);
    printf("%u requests, every word right\n", done);
    return 0;
}
