/* SPDX-License-Identifier: Apache-2.0 */
/*
 * foreign.h - pools in VRAM that somebody else has allocated: cudaMalloc's and torch's in this
 * process, and an engine's in another by a CUDA IPC handle. The driver is asked what the range is;
 * what can't be a pool is refused by name. A foreign pool takes its rung on the ladder as any
 * other.
 *
 * threads  as mem.h
 * memory   the range stays its owner's, and outlives the pool; kvg_pool_close() gives back what was
 *          opened here: descriptors, a stream, a mapping by handle
 * time     opening another process's memory maps it: up to milliseconds
 */
#ifndef KVG_FOREIGN_H
#define KVG_FOREIGN_H

#include "mem.h"

/* What names cudaMalloc's memory in other processes of this host, for who sends it there. */
struct kvg_ipc {
    struct kvg_ipc_handle handle; /* of the whole allocation */
    uint64_t offset;              /* of the pool inside */
};

/*
 * A pool of [base, base + bytes), which are in this process's address space. On an error nothing is
 * held, *pool is zero, and text has the reason in one sentence.
 *
 *   KVW_E_INVALID      bytes is 0; it isn't CUDA memory; it isn't all in one allocation
 *   KVW_E_UNSUPPORTED  it is host memory, managed memory, or another GPU's
 *   KVW_E_NOMEM, KVW_E_DEVICE  the driver said so
 */
KVW_NODISCARD kvw_err kvg_pool_adopt(struct kvg_pool *pool, const struct kvg_device *dev,
                                     void *base, uint64_t bytes, char *text, size_t text_bytes);

/* KVW_E_UNSUPPORTED: not cudaMalloc's (cuMemCreate's is exported by kvg_pool_export()). */
KVW_NODISCARD kvw_err kvg_pool_ipc(const struct kvg_pool *pool, struct kvg_ipc *ipc, char *text,
                                   size_t text_bytes);

/* Map what another process of this host names so. Errors as kvg_pool_adopt(). */
KVW_NODISCARD kvw_err kvg_pool_ipc_open(struct kvg_pool *pool, const struct kvg_device *dev,
                                        const struct kvg_ipc *ipc, uint64_t bytes, char *text,
                                        size_t text_bytes);
#endif
