/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share.h - a pool that another process of this host may map: who knows its token gets the pool's
 * descriptor over a Unix socket (SCM_RIGHTS). The socket is abstract, so it is the network
 * namespace's, leaves no file, and ends with the process, however that ends. Its name is no secret
 * on the host: both sides ask the kernel for the other's user, who must be their own.
 *
 * threads  a share has one thread, which hands out descriptors and sleeps otherwise; open, close
 *          and reach are called by any one at a time
 * memory   the pool outlives the share; what was reached is a pool of its own, and its bytes live
 *          as long as one process maps them
 * time     reach waits for the other process, KVG_REACH_MS at most; where there is none, not at all
 */
#ifndef KVG_SHARE_H
#define KVG_SHARE_H

#include <pthread.h>

#include "mem.h"

#define KVG_TOKEN_BYTES 16u
#define KVG_REACH_MS    200

struct kvg_share {
    uint8_t token[KVG_TOKEN_BYTES]; /* random */
    /* private */
    pthread_t thread;
    int listener, stop, pool; /* descriptors; stop: an eventfd */
    bool on;                  /* false: it isn't open */
};

/*
 * On an error nothing is held, and text has the reason in one sentence.
 *   KVW_E_IO      the system gave no socket, no thread or no random bytes
 *   KVW_E_DEVICE  the driver doesn't export the pool
 */
KVW_NODISCARD kvw_err kvg_share_open(struct kvg_share *s, const struct kvg_pool *pool, char *text,
                                     size_t text_bytes);
void kvg_share_close(struct kvg_share *s);

/*
 * Map the pool of that token, of `bytes` at least, as kvg_pool_import() does.
 *   KVW_E_NOTFOUND     nobody on this host has it: the other is on another host, or has closed it
 *   KVW_E_UNSUPPORTED  it is another user's
 *   KVW_E_DEADLINE     the other process didn't answer
 *   others             as kvg_pool_import()
 */
KVW_NODISCARD kvw_err kvg_share_reach(struct kvg_pool *pool, const struct kvg_device *dev,
                                      const uint8_t token[KVG_TOKEN_BYTES], uint64_t bytes,
                                      char *text, size_t text_bytes);
#endif
