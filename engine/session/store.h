/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store.h - the prefix cache on disk: pieces of prompts, a file each (kvfile.h), found by a hash of
 * their owner and of all tokens up to their end; all of these are compared. Files of several
 * processes may lie in one folder. Past its size those go that were used longest ago.
 *
 * threads  one
 * memory   none between calls but its own
 * time     of the disk; nothing is synced: what a power cut leaves of a file is found damaged
 */
#ifndef KVE_SESSION_STORE_H
#define KVE_SESSION_STORE_H

#include "kvfile.h"

struct kve_store_config {
    const char *folder; /* made, 0700, if it isn't there */
    uint64_t bytes_max;
    struct kve_owner owner;
    const struct kvw_pool *pool;
    uint32_t piece_tokens;
};

struct kve_store; /* opaque */

/* KVW_E_IO, KVW_E_NOMEM, KVW_E_UNSUPPORTED (a GPU's pool), with a sentence in why. */
KVW_NODISCARD kvw_err kve_store_open(struct kve_store **s, const struct kve_store_config *cfg,
                                     char why[KVE_WHY_BYTES]);
void kve_store_close(struct kve_store *s); /* takes NULL */

/*
 * K and V of the piece tokens[from .. from + piece_tokens - 1] to the blocks, a table from token 0
 * on; from is a multiple of piece_tokens.
 *   KVW_E_NOTFOUND  it isn't there
 *   others          with a sentence: it is damaged, and has been removed; the blocks hold rubbish
 */
KVW_NODISCARD kvw_err kve_store_get(struct kve_store *s, const uint32_t *tokens, uint32_t from,
                                    const uint32_t *blocks, char why[KVE_WHY_BYTES]);
/* The other way; nothing if it is there already. An error (a full disk) with a sentence is the
 * last: nothing is written after it. */
KVW_NODISCARD kvw_err kve_store_put(struct kve_store *s, const uint32_t *tokens, uint32_t from,
                                    const uint32_t *blocks, char why[KVE_WHY_BYTES]);

#endif
