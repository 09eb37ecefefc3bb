/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvfile.h - K and V of the beginning of a prompt, to a file and back: one file is a session, or a
 * piece of the prefix cache on disk (store.h). README.md has the bytes.
 *
 * A file is trusted in nothing: each field is checked before it is used, each chunk by its digest.
 * All errors have a sentence in why that begins with the path.
 *
 * threads  any, one file each
 * memory   a chunk's stream and its codec's scratch while a call runs; the head while it is open
 * time     of the disk
 */
#ifndef KVE_SESSION_KVFILE_H
#define KVE_SESSION_KVFILE_H

#include "../../kvwire/codec.h"
#include "head.h"

/* What is saved: K and V of tokens first .. count - 1. */
struct kve_kvpart {
    const struct kve_owner *owner;
    const struct kvw_pool *pool;
    const uint32_t *blocks; /* of the sequence, from token 0 on */
    const uint32_t *tokens; /* [count], from the prompt's first */
    uint32_t count, first;
    kvw_budget budget;                /* what codecs may do to the values */
    uint32_t exact_first, exact_last; /* tokens that a lossy one leaves exact */
    bool durable;                     /* it is on the disk when the call returns */
};

struct kve_kvsaved {
    uint64_t raw_bytes, file_bytes;
};

/*
 * The file appears at path when it is whole, in place of what was there; on an error that stays.
 *   KVW_E_IO  KVW_E_NOMEM  KVW_E_UNSUPPORTED (K and V are no CPU's to read)
 */
KVW_NODISCARD kvw_err kve_kvfile_save(const char *path, const struct kve_kvpart *part,
                                      struct kve_kvsaved *saved, char why[KVE_WHY_BYTES]);

struct kve_kvfile; /* opaque: an open file whose head has been checked */

/* KVW_E_NOTFOUND (no such file), KVW_E_IO, KVW_E_NOMEM, and those of kve_head_get() and
 * kve_head_check(). */
KVW_NODISCARD kvw_err kve_kvfile_open(struct kve_kvfile **f, const char *path,
                                      char why[KVE_WHY_BYTES]);
void kve_kvfile_close(struct kve_kvfile *f); /* takes NULL */
const struct kve_head *kve_kvfile_head(const struct kve_kvfile *f);
/* How many of the count tokens are those that the file begins with. */
uint32_t kve_kvfile_common(const struct kve_kvfile *f, const uint32_t *tokens, uint32_t count);
/* All ids to to[tokens]. */
void kve_kvfile_tokens(const struct kve_kvfile *f, uint32_t *to);

/*
 * All K and V to the blocks, a table from token 0 on of which those of tokens before head->first
 * aren't touched. It has to fit: kve_head_fits() is asked first.
 *   KVW_E_MISMATCH     it is another owner's, or of another shape
 *   KVW_E_CODEC        a stream is damaged     KVW_E_CHECKSUM  or its values are
 *   KVW_E_UNSUPPORTED  a GPU's pool            and KVW_E_IO, KVW_E_NOMEM
 * On an error the blocks hold rubbish.
 */
KVW_NODISCARD kvw_err kve_kvfile_read(struct kve_kvfile *f, const struct kve_owner *owner,
                                      const struct kvw_pool *pool, const uint32_t *blocks,
                                      char why[KVE_WHY_BYTES]);

#endif
