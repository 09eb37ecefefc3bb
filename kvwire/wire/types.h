/* SPDX-License-Identifier: Apache-2.0 */
/*
 * types.h - every message number and length of the KV protocol, on one page. SPEC.md is the text
 * that goes with it. Limits that others must know, too, stand in ../wire.h.
 */
#ifndef KVW_WIRE_TYPES_H
#define KVW_WIRE_TYPES_H

#include "../wire.h"

/* SPEC.md 2. The layout of HELLO and REJECT; what is spoken after them is agreed in HELLO. */
#define KVW_WIRE_LAYOUT 2u
#ifndef KVW_WIRE_VERSIONS             /* tests build the next version, to meet it */
#define KVW_WIRE_VERSIONS (1ull << 2) /* bit v: version v is spoken here */
#endif
#define KVW_WIRE_GREASE       (3ull << 62) /* bits that say nothing, so that readers ignore bits */
#define KVW_WIRE_VERSION_BITS (~KVW_WIRE_GREASE & ~3ull)

/* SPEC.md 3: the first byte of a message. 11 is kept for what comes next. */
enum kvw_wire_type {
    KVW_WIRE_HELLO = 1,   /* both ways, first */
    KVW_WIRE_REJECT = 2,  /* last: the HELLO can't be lived with */
    KVW_WIRE_OFFER = 3,   /* receiver -> sender: blocks are waiting */
    KVW_WIRE_GRANT = 4,   /* receiver -> sender: landing slots */
    KVW_WIRE_ALIVE = 5,   /* sender -> receiver: these transfers are still worked on */
    KVW_WIRE_COMMIT = 6,  /* sender -> receiver: this many chunks are all */
    KVW_WIRE_DONE = 7,    /* receiver -> sender: every byte is in place */
    KVW_WIRE_ABORT = 8,   /* both ways: the transfer ends */
    KVW_WIRE_POOL = 9,    /* both ways: a pool came, or went */
    KVW_WIRE_REFUSE = 10, /* both ways: nothing will be open here for this key */
    KVW_WIRE_STAGED = 11,
    KVW_WIRE_RECALL = 12,     /* receiver -> sender: give back the slots you haven't used */
    KVW_WIRE_RETURN = 13,     /* sender -> receiver: they are given back */
    KVW_WIRE_REGION = 14,     /* both ways: memory that the reader may use, or: that was all */
    KVW_WIRE_GONE = 15,       /* both ways: it may no longer */
    KVW_WIRE_BATCH = 16,      /* both ways: read or write these pieces of the reader's */
    KVW_WIRE_BATCH_DONE = 17, /* both ways: it is over for the writer */
    KVW_WIRE_NOTIFY = 18,     /* both ways: bytes for the application */
};

#define KVW_WIRE_SHORT_MAX   8448u /* the longest message but POOL */
#define KVW_WIRE_KEY_BYTES   16u
#define KVW_WIRE_SHARE_TOKEN 16u
#define KVW_WIRE_NAME_MAX    63u
#define KVW_WIRE_HELLO_LEN   108u /* before the name */
#define KVW_WIRE_SHARE_LEN   24u  /* after the name, by a feature */
#define KVW_WIRE_REJECT_LEN  16u  /* before the text */
#define KVW_WIRE_OFFER_LEN   56u  /* before the spans */
#define KVW_WIRE_SPAN_LEN    32u
#define KVW_WIRE_SPANS_MAX   255u
#define KVW_WIRE_GRANT_LEN   16u   /* before the slots */
#define KVW_WIRE_GRANT_MAX   1024u /* slots in one GRANT */
#define KVW_WIRE_ALIVE_LEN   4u    /* before the epochs */
#define KVW_WIRE_ALIVE_MAX   1024u /* epochs in one ALIVE */
#define KVW_WIRE_COMMIT_LEN  40u   /* before the note */
#define KVW_WIRE_DONE_LEN    40u
#define KVW_WIRE_ABORT_LEN   32u /* ABORT and REFUSE, before the text */
#define KVW_WIRE_RECALL_LEN  8u
#define KVW_WIRE_RETURN_LEN  16u
#define KVW_WIRE_POOL_LEN    28u /* before the name */
#define KVW_WIRE_GROUP_LEN   20u /* before the runs of layers */
#define KVW_WIRE_PART_LEN    20u /* before the name */

#define KVW_WIRE_REGION_LEN     56u
#define KVW_WIRE_GONE_LEN       8u
#define KVW_WIRE_BATCH_LEN      40u /* before the note and the runs */
#define KVW_WIRE_RUN_LEN        28u
#define KVW_WIRE_BATCH_DONE_LEN 24u /* before the text */
#define KVW_WIRE_NOTIFY_LEN     8u  /* before the bytes */
#define KVW_WIRE_NOTE_MAX       512u

/* SPEC.md 4.5: what a node may have open of one peer's batches. */
#define KVW_WIRE_REGIONS_MAX       4096u
#define KVW_WIRE_BATCH_RUNS_MAX    100000u      /* of one batch */
#define KVW_WIRE_BATCHES_MAX       64u          /* open at once */
#define KVW_WIRE_RUNS_OPEN_MAX     200000u      /* of all that are open */
#define KVW_WIRE_CHUNKS_OPEN_MAX   (1u << 22)   /* of all that are open */
#define KVW_WIRE_BATCH_BYTES_MAX   (1ull << 44) /* of one batch */
#define KVW_WIRE_BATCH_MAGIC       0x3242564bu  /* "KVB2", little-endian: of its chunks */
#define KVW_WIRE_LANDING_SLOTS_MAX 4096u
#define KVW_WIRE_OFFERS_MAX        65535u
#define KVW_WIRE_TAKE_BY_NS_MAX    (24ull * 3600 * 1000 * 1000 * 1000)
#define KVW_WIRE_DEAD_MS_MAX       600000u

#define KVW_WIRE_CHUNK_MAGIC 0x3243564bu /* "KVC2", little-endian */
#define KVW_WIRE_CHUNK_LEN   64u

#ifndef __cplusplus
_Static_assert(KVW_WIRE_OFFER_LEN + KVW_WIRE_SPANS_MAX * KVW_WIRE_SPAN_LEN <= KVW_WIRE_SHORT_MAX,
               "the longest OFFER is a short message");
_Static_assert(KVW_WIRE_ALIVE_LEN + 4 * KVW_WIRE_ALIVE_MAX <= KVW_WIRE_SHORT_MAX,
               "the longest ALIVE is a short message");
_Static_assert(KVW_WIRE_BATCH_LEN + KVW_WIRE_NOTE_MAX + KVW_WIRE_RUN_LEN <= KVW_WIRE_SHORT_MAX,
               "a run fits beside the longest note");
_Static_assert(KVW_WIRE_GRANT_LEN + 2 * KVW_WIRE_GRANT_MAX <= KVW_WIRE_SHORT_MAX,
               "the longest GRANT is a short message");
_Static_assert(KVW_WIRE_CHUNK_LEN == KVW_CHUNK_HDR_BYTES, "slots are sized by it");
#endif

#endif
