/* SPDX-License-Identifier: Apache-2.0 */
/*
 * head.h - the beginning of a file of K and V: what it is of, its tokens and where its chunks lie.
 * README.md has the bytes. No I/O here.
 *
 * threads  pure functions
 * memory   the caller's
 * time     none
 */
#ifndef KVE_SESSION_HEAD_H
#define KVE_SESSION_HEAD_H

#include <stdbool.h>

#include "../../kvwire/mem.h"
#include "../gguf/gguf.h"

#define KVE_HEAD_VERSION     1u
#define KVE_HEAD_BYTES       128u /* of the fixed part */
#define KVE_HEAD_CHUNK_BYTES 16u  /* of a chunk's entry */
#define KVE_HEAD_ALIGN       16u  /* streams begin at multiples of it */
#define KVE_HEAD_TOKENS_MAX  (1u << 24)

/* Whose K and V: the bits depend on all of it. */
struct kve_owner {
    uint8_t fingerprint[16]; /* of the model's file */
    char model[40];          /* its name, for sentences; NUL-padded */
    char kernels[8];         /* "avx512": levels differ in the last bits of sums */
    uint32_t cut;            /* so many tokens at a time went through a product: kve_run_cut() */
};

struct kve_head {
    struct kve_owner owner;
    uint32_t layers, kv_heads, head_dim;
    uint32_t dtype;        /* kvw_dtype */
    uint32_t tokens;       /* ids in the file, from the prompt's first */
    uint32_t first;        /* K and V are of tokens first .. tokens - 1 */
    uint32_t chunk_tokens; /* of a chunk; the last of a layer may have fewer */
    uint32_t chunks;       /* layers * 2 * those of a layer's K */
    uint32_t budget;       /* kvw_budget: what codecs were allowed to do */
    uint64_t file_bytes;
};

struct kve_head_chunk {
    uint64_t digest; /* of the raw bytes; of a lossy codec's, as decoded */
    uint32_t bytes;  /* of its stream */
    uint8_t codec;   /* kvw_codec_id */
};

/* Of the fixed part, the ids and the entries, padded: where the first stream begins. */
uint64_t kve_head_bytes(const struct kve_head *h);
/* Chunks of one layer's K. */
uint32_t kve_head_layer_chunks(const struct kve_head *h);
/* Chunk i's layer, 0 for K or 1 for V, first token and how many. */
struct kve_head_place {
    uint32_t layer, kv, first, tokens;
};
struct kve_head_place kve_head_place(const struct kve_head *h, uint32_t i);

/* All of it to to[kve_head_bytes(h)]. */
void kve_head_put(const struct kve_head *h, const uint32_t *tokens,
                  const struct kve_head_chunk *chunks, uint8_t *to);

/*
 * The fixed part, from a file that is file_bytes long: each field is in its range, and all lies
 * inside of the file. After KVW_OK kve_head_bytes() is at most file_bytes.
 *   KVW_E_FORMAT   with a sentence in why that names field and value
 *   KVW_E_VERSION  of another version, likewise
 */
KVW_NODISCARD kvw_err kve_head_get(struct kve_head *h, const uint8_t from[KVE_HEAD_BYTES],
                                   uint64_t file_bytes, char why[KVE_WHY_BYTES]);
/* The whole of it, of which kve_head_get() made *h: its digest is right, and the streams fill the
 * rest of the file exactly. KVW_E_FORMAT. */
KVW_NODISCARD kvw_err kve_head_check(const struct kve_head *h, const uint8_t *all,
                                     char why[KVE_WHY_BYTES]);
/* Of what has been checked. */
uint32_t kve_head_token(const uint8_t *all, uint32_t i);
struct kve_head_chunk kve_head_chunk(const struct kve_head *h, const uint8_t *all, uint32_t i);

/* Is it this owner's, in blocks of this shape? KVW_E_MISMATCH with a sentence that names the field
 * and both values. */
KVW_NODISCARD kvw_err kve_head_fits(const struct kve_head *h, const struct kve_owner *owner,
                                    const struct kvw_pool *pool, char why[KVE_WHY_BYTES]);

/* bytes up to the next multiple of KVE_HEAD_ALIGN. */
static inline uint64_t kve_head_padded(uint64_t bytes)
{
    return (bytes + KVE_HEAD_ALIGN - 1) / KVE_HEAD_ALIGN * KVE_HEAD_ALIGN;
}

#endif
