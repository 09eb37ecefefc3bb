/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cache.h - one side's KV cache: memory for some requests, laid out and described as a pool, with
 * block tables in order or shuffled, filled and checked from a payload.
 *
 * threads  one      memory  make takes it, free gives it back; a cache outlives the nodes that know
 *          its pool      time  none
 */
#ifndef KVP_CACHE_H
#define KVP_CACHE_H

#include "payload.h"

enum kvp_layout {
    KVP_LAYOUT_LAYER, /* a tensor for each layer's part: [block][entry][row] */
    KVP_LAYOUT_HEAD,  /* the same, [block][row][entry]: a head's tokens side by side */
    KVP_LAYOUT_BLOCK, /* all layers of a block side by side: [block][layer][part][entry][row] */
};

struct kvp_cache_config {
    const struct kvp_geometry *geometry; /* borrowed until free */
    uint32_t tokens;                     /* of a request, at most */
    uint32_t requests;
    uint32_t block_tokens;
    enum kvp_layout layout;
    uint64_t seed;          /* of the shuffled block tables */
    uint32_t shard, shards; /* rows that it has of each part; shards 0: all */
};

struct kvp_cache {
    struct kvp_cache_config cfg;
    unsigned char *memory;
    uint64_t bytes;
    struct kvp_cache_group {
        uint32_t block_entries, per_request;     /* blocks */
        uint32_t *in_order, *shuffled;           /* requests * per_request ids */
        uint32_t *layers, layer_count;           /* of the model that are in this group */
        struct kvw_plane *planes[KVP_PARTS_MAX]; /* by layer */
    } groups[KVP_GROUPS_MAX];
};

/* What was found at the receiver. */
struct kvp_check {
    uint64_t bytes, wrong; /* compared, and different */
    double noise, signal;  /* sums of squares of 16-bit values: errors, and what was sent */
};

/* false: why says what is wrong, and nothing is kept. */
bool kvp_cache_make(struct kvp_cache *c, const struct kvp_cache_config *cfg, char why[KVP_WHY]);
void kvp_cache_free(struct kvp_cache *c);

/* Tell a node of the pool. */
kvw_err kvp_cache_add(const struct kvp_cache *c, struct kvw_node *node, kvw_pool_id *pool,
                      char why[KVP_WHY]);

/* The blocks of a request of so many tokens, a row for each group (KVP_GROUPS_MAX). They point into
 * the cache. wants: fill in what a receiver wants. Returns how many rows. */
uint32_t kvp_cache_blocks(const struct kvp_cache *c, uint32_t request, uint32_t tokens,
                          bool shuffled, bool wants, struct kvw_group_blocks *rows);

/* Write a request's bytes where its blocks lie. */
void kvp_cache_fill(struct kvp_cache *c, const struct kvp_payload *p, uint32_t request,
                    uint32_t tokens, bool shuffled);
/* Overwrite a request's blocks, so that nothing right is left over from before. */
void kvp_cache_spoil(struct kvp_cache *c, uint32_t request, uint32_t tokens, bool shuffled);
/* Compare a request's bytes with what was sent. */
struct kvp_check kvp_cache_check(const struct kvp_cache *c, const struct kvp_payload *p,
                                 uint32_t request, uint32_t tokens, bool shuffled);
/* Flip a bit of one byte of a request, for the check of the check. */
void kvp_cache_flip(struct kvp_cache *c, uint32_t request, uint32_t tokens, bool shuffled);

#endif
