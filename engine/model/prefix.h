/* SPDX-License-Identifier: Apache-2.0 */
/*
 * prefix.h - which blocks of the cache hold the beginnings of prompts; for kvcache.c.
 *
 * Kept blocks form a tree: a block is found by the serial of the block before it and its own
 * tokens, all of them compared; a hash only picks the bucket. When a block is forgotten, those
 * behind it can't be found any more, and go when their memory is needed.
 *
 * threads  one at a time    memory  the cache's    time  O(1) but for equal hashes
 */
#ifndef KVE_PREFIX_H
#define KVE_PREFIX_H

#include "kvcache.h"

#define KVE_PREFIX_NONE UINT32_MAX

/* The kept block behind the one with this serial (0: the first of a prompt) that has these
 * block_tokens tokens, or KVE_PREFIX_NONE. */
uint32_t kve_prefix_find(const struct kve_kvcache *kv, uint64_t parent, const uint32_t *tokens);
/* id, which isn't kept, is such a block from now on. */
void kve_prefix_add(struct kve_kvcache *kv, uint32_t id, uint64_t parent, const uint32_t *tokens);
/* It isn't any more, if it was. */
void kve_prefix_forget(struct kve_kvcache *kv, uint32_t id);

#endif
