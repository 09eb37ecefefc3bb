/* SPDX-License-Identifier: Apache-2.0 */
/* cluster_of.h - a router's state with some workers, of round numbers, for tests: a token takes 1
 * ms to prefill, a decode step 10 ms and 1 us a token in its caches, a token's K and V are 1 KB,
 * and a link carries 1 MB/s: a token a millisecond, too. */
#ifndef CLUSTER_OF_H
#define CLUSTER_OF_H

#include "../../../engine/route/route.h"

#define MS  1000000ull
#define SEC (1000 * MS)

enum {
    NODES = 8,
    BLOCK = 16,
    HASHES = 64,
};

static struct kve_route_node nodes[NODES];
static struct kve_route route;
static uint64_t hashes[HASHES];

/* prefills workers of prefill, the others decode; every one with 100 blocks. */
static inline void cluster_of(const char *policy, uint32_t prefills, uint32_t decodes)
{
    for (uint32_t i = 0; i < NODES; ++i)
        nodes[i] = (struct kve_route_node){0};
    for (uint32_t i = 0; i < HASHES; ++i)
        hashes[i] = 1000 + i;
    route = (struct kve_route){.nodes = nodes, .count = prefills + decodes};
    kve_route_config_of(&route.cfg, kve_route_policy_of(policy));
    route.cfg.cost = (struct kve_route_cost){.token_ns = 1e6,
                                             .step_ns = 10e6,
                                             .step_token_ns = 1e3,
                                             .token_bytes = 1000,
                                             .layers = 10,
                                             .block_tokens = BLOCK};
    route.cfg.ttft_ns = 10 * SEC;
    route.cfg.itl_ns = 50 * MS;
    route.cfg.link_mbps = 1;
    route.cfg.local_tokens = 32;
    for (uint32_t i = 0; i < route.count; ++i) {
        nodes[i].role = i < prefills ? KVE_ROUTE_PREFILL : KVE_ROUTE_DECODE;
        nodes[i].blocks = 100;
        kve_route_join(&route, i);
    }
}

/* A prompt of whole blocks, of which the first are those of every other such prompt. */
static inline struct kve_route_request prompt_of(uint32_t blocks)
{
    return (struct kve_route_request){
        .hashes = hashes, .hash_count = blocks, .tokens = blocks * BLOCK, .max_tokens = BLOCK};
}

/* Decide, expect to go, and give. */
static inline struct kve_route_decision give(const struct kve_route_request *q, uint64_t now_ns)
{
    const struct kve_route_decision d = kve_route_decide(&route, q, now_ns);

    if (d.verdict == KVE_ROUTE_GO)
        kve_route_given(&route, q, &d);
    return d;
}

static inline void drop_prompts(void)
{
    for (uint32_t i = 0; i < NODES; ++i)
        kve_prompts_held_free(&nodes[i].prompts);
}

#endif
