/* SPDX-License-Identifier: Apache-2.0 */
/*
 * core_types.h - what the calls of core.h and node.h take and give: keys and ids, events, offers,
 * streams, regions, batches, figures.
 *
 * Structs begin with their size, set by the caller: a program may know a shorter or a longer struct
 * than the library. What the caller's lacks counts as 0; what the library doesn't know must be 0.
 *
 * threads  plain data      memory  pointers are borrowed during the call      time  none
 */
#ifndef KVW_CORE_TYPES_H
#define KVW_CORE_TYPES_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Names what is moved, the same on both sides: a UUID, or kvw_key_of() a string. */
typedef struct kvw_key {
    uint8_t bytes[16];
} kvw_key;

/* Never 0 for a live one; never reused in a core's life. */
typedef struct kvw_peer_id {
    uint32_t value;
} kvw_peer_id;
typedef struct kvw_pool_id {
    uint32_t value;
} kvw_pool_id;
typedef struct kvw_xfer_ref {
    uint64_t value;
} kvw_xfer_ref;
typedef struct kvw_region_id {
    uint32_t value;
} kvw_region_id;
typedef struct kvw_batch_id {
    uint64_t value;
} kvw_batch_id;

enum kvw_core_event_kind {
    KVW_CEV_PEER_UP = 1, /* handshake done; text names the peer and the path */
    KVW_CEV_PEER_LOST,   /* err, text. A peer that was added is dialled again */
    KVW_CEV_OFFERED,     /* sender: peer offers blocks for key, and no stream is open for it */
    KVW_CEV_LAYER_SENT,  /* sender: all of a layer is in the memory of all receivers */
    KVW_CEV_LAYER_READY, /* receiver: a layer is in the offered blocks */
    KVW_CEV_XFER_DONE,   /* exactly one for each offer and stream that returned KVW_OK; err, text;
                            after it the blocks are the caller's own again */
    KVW_CEV_REGIONS,     /* peer has told of regions that came or went */
    KVW_CEV_BATCH_DONE,  /* exactly one for each post that returned KVW_OK, unless it was quiet or
                            the batch was released: batch, err, text, raw_bytes in place */
    KVW_CEV_NOTIFY,      /* peer's notification: note. What it came with is in place */
    KVW_CEV_PEER_POOL,   /* the peer has told a pool: kvw_core_peer_fits() knows it */
    KVW_CEV_LAYER_CAME,  /* receiver, a pool in a GPU's memory: all of a layer has come and is being
                            decoded; kvw_core_layer_wait() lets a stream wait for it. LAYER_READY
                            follows, or the transfer's end */
    KVW_CEV_STAGE_GONE,  /* exactly one for each stage that was complete: its staging memory is
                            free; xfer, key. KVW_OK: all its pulls ended well */
    KVW_CEV_COMMITTED,   /* receiver, a pool in a GPU's memory: what the sender gave to commit is
                            here, while layers may still be on their way: note. XFER_DONE has it
                            again */
};

struct kvw_core_event {
    uint32_t size; /* in: sizeof(struct kvw_core_event); no more than that is written */
    uint32_t kind; /* enum kvw_core_event_kind */
    int32_t err;   /* kvw_err */
    kvw_peer_id peer;
    kvw_xfer_ref xfer; /* 0 for OFFERED without a stream */
    kvw_key key;
    uint32_t layer; /* the model's number */
    uint32_t chunks;
    uint64_t at_ns; /* when the poll that saw it began; of a node: when what it tells was done */
    uint64_t raw_bytes, wire_bytes; /* XFER_DONE */
    uint64_t first_ns, last_ns;     /* XFER_DONE: first and last chunk sent or landed; 0: none */
    uint32_t codec;                 /* XFER_DONE: the codec of most bytes */
    uint32_t note_bytes;            /* XFER_DONE of a receiver, COMMITTED: what the sender gave to
                                       commit; NOTIFY: what the peer gave */
    uint8_t note[512];
    char text[257];     /* a sentence, ended by 0; may be empty, never needed to decide anything */
    kvw_batch_id batch; /* BATCH_DONE */
    uint32_t codec_chunks[64]; /* XFER_DONE: chunks by kvw_codec_id */
};

enum kvw_peer_state {
    KVW_PEER_DOWN = 1, /* not connected; text says why, if it is known */
    KVW_PEER_CONNECTING,
    KVW_PEER_UP,
};

struct kvw_peer_info {
    uint32_t size;     /* in: sizeof(struct kvw_peer_info) */
    uint32_t state;    /* enum kvw_peer_state */
    uint64_t instance; /* 0: not known yet */
    char name[64];
    char path[16];
    char address[256]; /* as added; empty: it came by itself */
    uint32_t pools;    /* told by it */
    uint32_t xfers;    /* open with it */
    uint64_t chunks_sent, chunks_landed, raw_bytes_sent, raw_bytes_landed;
    uint64_t rate_bytes_per_s; /* what the wire is taken for; 0: not known */
    uint64_t rtt_ns;           /* 0: not known */
    uint32_t codec;            /* kvw_codec_id of the latest chunk sent; 0: none */
    uint32_t reserved;
    char why[160];   /* a sentence: why this codec, or why it is down */
    char twins[160]; /* a sentence: whether kernels write what lies in a GPU's memory straight
                            into the peer's, or why not. Empty: it was never up */
};

/* Where a sequence lies in one group of a pool. */
struct kvw_group_blocks {
    uint32_t group;
    uint32_t block_count;
    const uint32_t *blocks; /* ids, in the order of the tokens; copied */
    uint32_t token_first;   /* blocks[0] begins with this token; a multiple of a block's tokens */
    uint32_t want_first;    /* receiver: it lacks tokens want_first .. want_end-1; equal: nothing */
    uint32_t want_end;      /* of this group. Senders and ROW groups: 0, 0 is all */
};

struct kvw_offer_terms {
    uint32_t size;
    uint32_t budget;      /* kvw_budget: what codecs may do to the values */
    uint32_t exact_first; /* under a lossy codec the first (<= 255) and last (<= 65535) tokens */
    uint32_t exact_last;  /* stay exact */
    uint64_t take_by_ns;  /* from now: how long the offer may wait for a stream, 0: 10 s */
    uint64_t lease_ns;    /* how long a started transfer may be silent, 0: 2 s */
    uint64_t deadline_ns; /* absolute, 0: none */
};

struct kvw_offer_args {
    uint32_t size;
    kvw_pool_id pool;
    kvw_key key;
    uint32_t tokens; /* of the sequence, 1 .. KVW_XFER_TOKENS_MAX */
    uint32_t group_count;
    const struct kvw_group_blocks *groups; /* a group that isn't named isn't wanted */
    const kvw_peer_id *sources;            /* who sends: one, or the ranks that hold it together */
    uint32_t source_count;                 /* 1 .. KVW_SOURCES_MAX */
    uint32_t group_bytes; /* sizeof(struct kvw_group_blocks) as the caller knows it; 0: 32 */
    const struct kvw_offer_terms *terms; /* NULL: exact, default times */
    const struct kvw_stage_ref *staged;  /* NULL: streams fill it. Else a pull: what each source
                                            has staged, in the order of sources; all of one key,
                                            which `key` repeats or leaves 0 */
};

struct kvw_stream_args {
    uint32_t size;
    kvw_pool_id pool;
    kvw_key key;
    uint32_t tokens;
    uint32_t group_count;
    const struct kvw_group_blocks *groups;
    uint32_t receivers;   /* how many offers of this key there will be (decode ranks), 0: 1 */
    uint32_t group_bytes; /* sizeof(struct kvw_group_blocks) as the caller knows it; 0: 32 */
    uint64_t offer_by_ns; /* absolute: when they must all have come; 0: in 10 s */
    uint64_t deadline_ns; /* absolute, 0: none */
    uint32_t codec;       /* kvw_codec_id to use wherever peer, dtype and budget allow it; 0: as the
                             core's config says */
    uint32_t reserved;    /* 0 */
};

/*
 * What was staged, and where: made by kvw_core_stage(), carried to the receiver by the caller
 * (kv_transfer_params), named in its offer. The same bytes on every machine, to be copied, hexed
 * and compared, not to be looked into. No two are ever the same.
 */
#define KVW_STAGE_REF_BYTES 32u
struct kvw_stage_ref {
    uint8_t bytes[KVW_STAGE_REF_BYTES];
};

#define KVW_STAGES_MAX 1024u /* staged at once, of one node */

struct kvw_stage_args {
    uint32_t size;
    kvw_pool_id pool;
    kvw_key key;
    uint32_t tokens;
    uint32_t group_count;
    const struct kvw_group_blocks *groups; /* as for a stream; the blocks hold all of a group from
                                              token_first on, or from where its window begins */
    uint32_t pulls;                        /* how many offers will pull it (decode ranks), 0: 1 */
    uint32_t group_bytes;      /* sizeof(struct kvw_group_blocks) as the caller knows it; 0: 32 */
    uint64_t until_ns;         /* absolute: it is freed then, pulled or not; 0: in 60 s */
    struct kvw_stage_ref *ref; /* filled in on KVW_OK: how its receivers name it */
};

/* --- regions and batches: memory without a shape, read and written by address ----------------- */

struct kvw_mem; /* mem.h */

/* What peers may do with a region; 0: it is for the local side of batches only, and not told. */
#define KVW_REGION_READ  1u
#define KVW_REGION_WRITE 2u

#define KVW_NODE_REGIONS_MAX 4096u   /* of one node */
#define KVW_BATCHES_MAX      4096u   /* made and not released, of one node */
#define KVW_PIECES_MAX       100000u /* of one batch */
#define KVW_NOTE_MAX         512u    /* bytes of a notification */
#define KVW_NOTES_QUEUED_MAX 1024u   /* notifications to one peer that haven't left */

struct kvw_region_args {
    uint32_t size;
    uint32_t rights;           /* KVW_REGION_READ | KVW_REGION_WRITE, or 0 */
    const struct kvw_mem *mem; /* base, bytes, kind; copied. What it names stays borrowed until
                                  the region is removed */
    uint32_t mem_bytes;        /* sizeof(struct kvw_mem) as the caller knows it */
    uint32_t reserved;         /* 0 */
};

/* A region of a peer's, as told by it. */
struct kvw_region_info {
    uint32_t size; /* in: sizeof(struct kvw_region_info) */
    uint32_t rights;
    uint64_t base, bytes; /* the peer's addresses */
    uint32_t id;          /* the peer's number of it, never used twice */
    uint32_t reserved;
};

enum kvw_batch_op {
    KVW_BATCH_READ = 1,  /* remote -> local */
    KVW_BATCH_WRITE = 2, /* local -> remote */
};

/* Bytes at one address here and at one of the peer's. Each side's lies in one region. */
struct kvw_batch_piece {
    uint64_t local, remote; /* addresses */
    uint64_t bytes;         /* >= 1 */
};

struct kvw_batch_args {
    uint32_t size;
    uint32_t op; /* enum kvw_batch_op */
    kvw_peer_id peer;
    uint32_t piece_count;                 /* 1 .. KVW_PIECES_MAX */
    const struct kvw_batch_piece *pieces; /* copied. Pieces that overlap where they are written
                                             leave either's bytes there */
    uint32_t piece_bytes; /* sizeof(struct kvw_batch_piece) as the caller knows it; 0: 24 */
    uint32_t reserved;    /* 0 */
};

struct kvw_post_args {
    uint32_t size;
    uint32_t quiet;       /* 1: no KVW_CEV_BATCH_DONE; the caller asks for the status, or waits */
    const void *note;     /* copied; the peer gets it as KVW_CEV_NOTIFY once all of the batch is in
                             place, and never if it isn't. NULL: none */
    uint32_t note_bytes;  /* 0 .. KVW_NOTE_MAX */
    uint32_t reserved;    /* 0 */
    uint64_t deadline_ns; /* absolute: it ends with KVW_E_DEADLINE then. 0: none */
};

enum kvw_batch_state {
    KVW_BATCH_IDLE = 1, /* never posted */
    KVW_BATCH_POSTED,   /* queued, or under way */
    KVW_BATCH_DONE,     /* the latest post has ended: err, text */
};

struct kvw_batch_status {
    uint32_t size;     /* in: sizeof(struct kvw_batch_status) */
    uint32_t state;    /* enum kvw_batch_state */
    int32_t err;       /* DONE: kvw_err */
    uint32_t runs;     /* that the peer is told for its side of the pieces */
    uint64_t bytes;    /* of all pieces */
    uint64_t moved;    /* of these, of the latest post: READ in place, WRITE sent; DONE well: all */
    uint64_t posts;    /* so far */
    uint64_t post_ns;  /* the latest post was made, */
    uint64_t first_ns; /* its first chunk moved, */
    uint64_t end_ns;   /* and it ended; 0: not yet */
    char text[257];    /* a sentence why it failed */
};

struct kvw_core_stats {
    uint32_t size; /* in: sizeof(struct kvw_core_stats) */
    uint32_t peers_up, peers_known, xfers_open;
    uint64_t xfers_ok, xfers_failed;
    uint64_t chunks_sent, chunks_landed, chunks_rejected, chunks_stale;
    uint64_t raw_bytes_sent, wire_bytes_sent, raw_bytes_landed, wire_bytes_landed;
    uint64_t credit_stalls, encoder_stalls, slots_recalled;
    uint32_t slots_free, stages_free;              /* gauges */
    uint64_t batches_ok, batches_failed;           /* posts of this side's */
    uint64_t batch_bytes_sent, batch_bytes_landed; /* of pieces, both sides' batches */
    uint64_t batch_message_bytes;                  /* what batches' messages and headers took */
    uint64_t notes_sent, notes_received;
    uint32_t regions, batches; /* gauges: of this side's */
    uint32_t staged, reserved; /* gauge: in staging memory, complete or not */
    uint64_t staged_bytes;     /* gauge: that they take of stage_bytes */
    uint64_t stages_pulled, stages_expired, stages_full; /* gone as they should; at `until`; calls
                                                            that were refused for want of room */
    /* Of all transports, as of the last poll; 0 where one counts no packets (loop, verbs). */
    uint64_t packets_sent, packets_received, packets_retransmitted;
    uint64_t packets_lost, packets_spurious; /* taken for lost; and of those, came after all */
};

#ifdef __cplusplus
}
#endif
#endif
