/* SPDX-License-Identifier: Apache-2.0 */
/*
 * batches.h - REGION, GONE, BATCH, BATCH_DONE and NOTIFY of SPEC.md 3.7, and the header of a
 * batch's chunk (5.1), to and from bytes.
 *
 * threads  any, nothing is kept
 * memory   a decoded struct points into the message where it says "borrowed"
 * time     none
 * Return codes and lengths as in hello.h; messages are exact, so bytes left over are PROTOCOL.
 */
#ifndef KVW_WIRE_BATCHES_H
#define KVW_WIRE_BATCHES_H

#include <stdbool.h>

#include "../transport.h"
#include "types.h"

struct kvw_wire_region {
    uint64_t base, bytes;      /* bytes >= 1, the end fits 64 bits; both 0 if id is */
    uint32_t id;               /* 0: all regions that are there have been told */
    uint32_t rights;           /* bit 0 read, bit 1 write; not 0 unless id is */
    struct kvw_region_key key; /* the transport's; all 0: chunks go through landing slots */
};

/* `count` pieces of `bytes` bytes, the first at base, each `stride` further. All lie in the region,
 * whose owner checks it; here: no address wraps. */
struct kvw_wire_run {
    uint64_t base;
    int64_t stride;
    uint32_t bytes, count; /* >= 1 each */
    uint32_t region;       /* not 0 */
};

/* A part of a batch's list of runs; the first part says what is in all. */
struct kvw_wire_batch {
    uint64_t epoch;       /* not 0; one more than that of the writer's last batch */
    uint64_t bytes;       /* in all, 1 .. KVW_WIRE_BATCH_BYTES_MAX */
    uint32_t chunk_bytes; /* of each chunk but the last, KVW_CHUNK_RAW_MIN .. MAX */
    uint32_t runs;        /* in all, 1 .. KVW_WIRE_BATCH_RUNS_MAX */
    uint32_t first;       /* the first in this message */
    uint32_t count;       /* in this message, >= 1; first + count <= runs */
    uint32_t note_bytes;  /* 0 .. KVW_WIRE_NOTE_MAX; 0 unless it is a WRITE's and first is 0 */
    uint8_t op;           /* kvw_batch_op */
    const uint8_t *note;  /* borrowed */
    const uint8_t *list;  /* decoded: borrowed, read one with kvw_wire_batch_run() */
};

struct kvw_wire_batch_done {
    uint64_t epoch; /* not 0 */
    uint64_t bytes; /* in place */
    kvw_err err;    /* KVW_OK, or negative */
    bool of_reader; /* the batch is the reader's of this message, else its writer's */
    char text[KVW_TEXT_BYTES_MAX + 1];
};

struct kvw_wire_notify {
    uint32_t bytes;      /* 1 .. KVW_WIRE_NOTE_MAX */
    const uint8_t *note; /* borrowed */
};

struct kvw_wire_batch_chunk {
    uint64_t epoch;        /* not 0 */
    uint64_t offset;       /* of its first byte in the batch's bytes */
    uint64_t digest_value; /* of its bytes */
    uint32_t seq;          /* low 32 bits of the sender's number; equals the put's imm */
    uint32_t bytes;        /* what is left of the put, 1 .. KVW_CHUNK_RAW_MAX */
    uint8_t op;            /* kvw_batch_op: WRITE: a batch of the writer's, READ: the reader's */
    uint8_t digest;        /* kvw_digest_id, not 0 */
};

KVW_NODISCARD kvw_err kvw_wire_region_decode(struct kvw_wire_region *out, const uint8_t *msg,
                                             uint32_t bytes);
KVW_NODISCARD kvw_err kvw_wire_gone_decode(uint32_t *id, const uint8_t *msg, uint32_t bytes);
/* Every run has been checked. */
KVW_NODISCARD kvw_err kvw_wire_batch_decode(struct kvw_wire_batch *out, const uint8_t *msg,
                                            uint32_t bytes);
/* Run i, below count, of a decoded message. */
struct kvw_wire_run kvw_wire_batch_run(const struct kvw_wire_batch *b, uint32_t i);
KVW_NODISCARD kvw_err kvw_wire_batch_done_decode(struct kvw_wire_batch_done *out,
                                                 const uint8_t *msg, uint32_t bytes);
KVW_NODISCARD kvw_err kvw_wire_notify_decode(struct kvw_wire_notify *out, const uint8_t *msg,
                                             uint32_t bytes);

/* Lowest address and the one after the highest; false: one wraps, or a count is 0. */
bool kvw_wire_run_ends(const struct kvw_wire_run *r, uint64_t *low, uint64_t *end);

uint32_t kvw_wire_region_encode(uint8_t *to, const struct kvw_wire_region *in);
uint32_t kvw_wire_gone_encode(uint8_t *to, uint32_t id);
/* in->list isn't read: write run i at kvw_wire_batch_run_at(in, i), before or after. */
uint32_t kvw_wire_batch_encode(uint8_t *to, const struct kvw_wire_batch *in);
void kvw_wire_run_encode(uint8_t *to, const struct kvw_wire_run *in);
static inline uint32_t kvw_wire_batch_run_at(const struct kvw_wire_batch *in, uint32_t i)
{
    return KVW_WIRE_BATCH_LEN + in->note_bytes + i * KVW_WIRE_RUN_LEN;
}
uint32_t kvw_wire_batch_done_encode(uint8_t *to, const struct kvw_wire_batch_done *in);
uint32_t kvw_wire_notify_encode(uint8_t *to, const struct kvw_wire_notify *in);

/* Whether a put is a batch's chunk; nothing else is checked. */
bool kvw_wire_is_batch_chunk(const uint8_t *from, uint32_t bytes);
void kvw_wire_batch_chunk_encode(uint8_t to[KVW_WIRE_CHUNK_LEN],
                                 const struct kvw_wire_batch_chunk *in);
/* Errors as kvw_wire_chunk_decode()'s. */
KVW_NODISCARD kvw_err kvw_wire_batch_chunk_decode(struct kvw_wire_batch_chunk *out,
                                                  const uint8_t *from, uint32_t bytes);

#endif
