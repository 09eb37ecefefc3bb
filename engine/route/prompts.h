/* SPDX-License-Identifier: Apache-2.0 */
/*
 * prompts.h - which blocks of prompts a worker holds, as the router believes: hashes, of which
 * those that were used longest ago are forgotten first. A block's hash stands for all blocks before
 * it, too.
 *
 * threads  one at a time
 * memory   grows with what it holds, up to 28 bytes for each block of its limit; without memory for
 *          more it holds less
 * time     O(1) a block, expected
 */
#ifndef KVE_ROUTE_PROMPTS_H
#define KVE_ROUTE_PROMPTS_H

#include <stdint.h>

struct kve_prompts_held {
    struct kve_held {
        uint64_t hash;
        uint32_t newer, older; /* in the order of use */
    } * held;
    uint32_t *table; /* open addressing: index in held + 1, 0 empty */
    uint32_t count, room, limit;
    uint32_t buckets; /* a power of two */
    uint32_t newest, oldest;
};

/* Zeroed is empty, with a limit of none. Lowering the limit forgets at once. */
void kve_prompts_held_limit(struct kve_prompts_held *p, uint32_t blocks);
void kve_prompts_held_free(struct kve_prompts_held *p);
/* How many blocks of the prompt's beginning it holds. */
uint32_t kve_prompts_held_match(const struct kve_prompts_held *p, const uint64_t *hashes,
                                uint32_t n);
/* They are used now; the first of the prompt counts as the newest, since the others need it. */
void kve_prompts_held_add(struct kve_prompts_held *p, const uint64_t *hashes, uint32_t n);

#endif
