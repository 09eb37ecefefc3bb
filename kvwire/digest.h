/* SPDX-License-Identifier: Apache-2.0 */
/*
 * digest.h - the digest of a chunk's raw bytes, named by id on the wire so that it can change.
 *
 * threads  one kvw_digest belongs to one thread at a time
 * memory   the state is the caller's (under 1 KiB, on a stack); nothing is allocated
 * time     none
 */
#ifndef KVW_DIGEST_H
#define KVW_DIGEST_H

#include <stddef.h>
#include <stdint.h>

#include "err.h"

#ifdef __cplusplus
extern "C" {
#endif

/* On the wire in HELLO (as a set) and in every chunk. Pinned in SPEC.md. */
typedef enum kvw_digest_id {
    KVW_DIGEST_XXH3_64 = 1, /* XXH3, 64 bits, seed 0 */
} kvw_digest_id;

/* Streaming state; treat as opaque. Sized and aligned for XXH3's own. */
struct kvw_digest {
    kvw_digest_id id;
    unsigned char state[640] __attribute__((aligned(64)));
};

/* KVW_E_UNSUPPORTED: no such id; *d is untouched. */
KVW_API KVW_NODISCARD kvw_err kvw_digest_begin(struct kvw_digest *d, kvw_digest_id id);
KVW_API void kvw_digest_update(struct kvw_digest *d, const void *bytes, size_t n);
/* The value of all bytes so far. May be called again after more updates. */
KVW_API uint64_t kvw_digest_value(const struct kvw_digest *d);

#ifdef __cplusplus
}
#endif
#endif
