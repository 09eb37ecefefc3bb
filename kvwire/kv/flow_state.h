/* SPDX-License-Identifier: Apache-2.0 */
/*
 * flow_state.h - the state of transfers, of their flows with each peer, and of staging slots. The
 * files of this folder change it.
 *
 * Not installed. threads, memory, time: as ../core.h.
 */
#ifndef KVW_KV_FLOW_STATE_H
#define KVW_KV_FLOW_STATE_H

#include "../peer/peer_state.h"
#include "../peer/ranges.h"
#include "../wire/chunks.h"
#include "encode.h"
#include "map.h"

struct kvw_transfer;
struct kvw_place;
struct kvw_hold; /* hold.h */

/* --- staging (staging.c) ---------------------------------------------------------------------- */

#define KVW_STAGE_NONE UINT32_MAX

enum kvw_staging_state {
    KVW_STAGING_FREE = 0,
    KVW_STAGING_QUEUED, /* in its peer's line: being encoded, or waiting for its turn */
    KVW_STAGING_FLIGHT, /* the transport's until PUT_DONE */
};

struct kvw_staged {
    struct kvw_job job;
    struct kvw_jobs *jobs; /* who encodes it; NULL: poll did */
    struct kvw_peer *peer; /* QUEUED */
    struct kvw_flow *flow; /* NULL: it ended meanwhile */
    uint64_t chosen_ns, predicted_ns;
    struct kvw_rate_mark mark;
    kvw_conn_id conn; /* FLIGHT */
    uint32_t path;
    uint32_t next; /* in the line, or free */
    uint32_t bytes, raw_bytes;
    uint32_t span, layer_at; /* of the flow: which cut it is part of */
    uint32_t layer, part;
    uint32_t row_first, rows, entry_first, entries;
    uint32_t codec; /* index */
    uint64_t seq;   /* numbered: the put's */
    uint32_t slot;  /* numbered: the peer's landing slot */
    uint8_t state;
    bool numbered; /* it has its slot already (kvw_peer.twins) */
    bool shared;   /* its stream goes into the slot's twin, and the header alone is put */
    bool batch;    /* a batch's chunk: no job, no flow, no line */
};

struct kvw_stages {
    struct kvw_staged *stages;
    unsigned char *mem;
    uint32_t count, slot_bytes;
    uint32_t free, free_count;
};

/* --- decoding (decode.c, arrive.c) ------------------------------------------------------------ */

/* Of a landing slot, while somebody else decodes its chunk. */
struct kvw_decode {
    struct kvw_job job;
    struct kvw_jobs *jobs; /* who; NULL: nobody, it is decoded when its turn comes */
    struct kvw_flow *flow; /* NULL: it ended meanwhile */
    kvw_err refused;       /* why its queue didn't take it; KVW_OK: it wasn't asked */
    struct kvw_wire_chunk header;
    struct kvw_flow_span *span; /* where in the flow it belongs: */
    uint32_t layer_at;          /* of the span */
    uint32_t first, end;        /* units */
    uint32_t codec;             /* index */
};

/* --- transfers and flows ---------------------------------------------------------------------- */

enum kvw_flow_state {
    KVW_FLOW_WAITING = 1, /* receiver: OFFER not sent; sender: no stream for it yet */
    KVW_FLOW_OPEN,        /* receiver: OFFER sent; sender: stream and offer have met */
    KVW_FLOW_COMPLETE,    /* receiver: everything in place, DONE sent or owed; sender: DONE came */
    KVW_FLOW_ENDED,       /* as it had to; kept while the peer must be told */
};

enum kvw_flow_reply { KVW_TELL_NONE = 0, KVW_TELL_DONE, KVW_TELL_ABORT, KVW_TELL_REFUSE };

/* Sender: how far one layer of one span is. */
struct kvw_cut {
    struct kvw_place_at at; /* in this side's pool */
    uint32_t row_at;        /* first row, from this side's first */
    uint32_t units;         /* cut; of span.units */
    uint32_t flying;        /* chunks cut whose PUT_DONE hasn't come */
};

/* One span of a flow: entries x rows of one part, for some layers of one group. */
struct kvw_flow_span {
    uint32_t group, part;         /* of the receiver's pool */
    uint32_t layer_first, layers; /* the model's numbers */
    uint32_t row_first, rows;     /* the model's */
    uint32_t token_first, token_end;
    uint32_t entry_first, entry_end;
    uint32_t row_bytes;
    uint32_t units;         /* (entry_end - entry_first) * rows: what one layer has to move */
    uint32_t chunk_entries; /* sender: entries in a full chunk; 0: an entry takes several chunks */
    uint32_t chunk_rows;    /* of which this many rows each */
    uint32_t layer_count;   /* of the group, in the range */
    uint16_t *layer;        /* their numbers */
    struct kvw_cut *cuts;   /* sender */
    struct kvw_ranges *covers; /* receiver: units in place */
    uint32_t *begun;           /* receiver: units given to a queue of jobs, or in place by one */
};

/* One transfer's part with one peer. */
struct kvw_flow {
    struct kvw_list of_peer, of_transfer;
    struct kvw_indexed by_epoch; /* receiver: core.epochs; sender: core.offers, by peer and epoch */
    struct kvw_timer timer;
    struct kvw_peer *peer;
    struct kvw_transfer *transfer; /* NULL: sender, no stream yet */
    kvw_key key;
    uint32_t epoch;
    enum kvw_flow_state state;
    bool receiver;
    bool heard;     /* receiver: the sender works on it: the lease counts, not take_by */
    bool graced;    /* receiver: a lease that ran out unread was given a quarter more */
    bool told;      /* sender: an ALIVE has said that it was taken up */
    bool committed; /* receiver: COMMIT came; sender: it was sent */
    bool quiet;     /* its peer ended it: it need not be told */
    enum kvw_flow_reply reply;
    kvw_err err;
    const char *text;            /* of the reply: the transfer's, or static */
    uint64_t lease_ns, until_ns; /* of lease, take_by */
    uint32_t tokens;
    uint32_t exact_first, exact_last, budget;
    uint32_t chunks, commit_chunks;
    uint32_t queued; /* sender: chunks cut and not yet put */
    uint64_t raw_bytes, wire_bytes, commit_raw;
    uint64_t left;  /* raw bytes not cut, or not in place */
    uint16_t pool;  /* the receiver's number */
    uint32_t stage; /* a pull: the sender's number of what it staged; 0: none */
    uint32_t low;   /* sender: every layer below it is cut in full */
    uint32_t span_count;
    struct kvw_flow_span *spans;
};

/* A layer of a stream; by the model's number. */
struct kvw_pushed {
    uint32_t tokens;      /* computed */
    uint32_t promised;    /* or will be when the marks are ready */
    uint32_t token_bytes; /* raw bytes of this layer a token, all groups and parts here */
    bool in_pool, reported;
    uint8_t mark_count;
    struct {
        uint32_t tokens;
        struct kvw_ready ready;
    } marks[KVW_PUSH_MARKS]; /* oldest first */
};

struct kvw_table { /* where a sequence lies in one group */
    uint32_t *blocks;
    uint32_t block_count;
    uint32_t entry_base;           /* entry of blocks[0]'s first */
    uint32_t want_first, want_end; /* receiver: tokens */
    uint8_t *bad; /* receiver: a bit a block, set at the end of a failed transfer */
    bool used;
};

enum kvw_transfer_state {
    KVW_TRANSFER_OPEN = 1, /* ends once, in kvw_transfer_finish() alone */
    KVW_TRANSFER_ENDED,    /* its event is queued, or was taken; gone when no flow is left, too */
};

struct kvw_transfer {
    struct kvw_indexed by_key; /* core.keys, while OPEN */
    struct kvw_indexed by_ref; /* core.refs */
    struct kvw_list all;       /* core.transfers */
    struct kvw_list marked;    /* core.marked: ready marks are pending */
    struct kvw_list pending;   /* core.pending: sources aren't all up yet */
    struct kvw_timer timer;    /* deadline; offer_by */
    uint64_t ref;
    kvw_key key;
    enum kvw_transfer_state state;
    bool receiver;
    bool event_due;
    bool ending;           /* its flows are being ended */
    bool commit_due;       /* sender */
    bool serves;           /* sender: a pull of what was staged; the caller has never heard of it */
    struct kvw_hold *hold; /* sender: that it is staged into, or serves; NULL: none */
    const struct kvw_place *place; /* where its blocks are */
    uint32_t pool;                 /* index in core.pools; once ENDED another may have its place */
    uint32_t group_count, model_layers; /* of that pool */
    uint32_t tokens;
    uint64_t deadline_ns, offer_by_ns;
    uint64_t opened_ns, first_ns, last_ns;
    struct kvw_table *tables; /* by group */
    struct kvw_list flows;    /* kvw_flow.of_transfer */
    uint32_t flows_wanted;    /* receiver: sources; sender: receivers that are awaited */
    uint32_t flow_count, flows_complete;
    struct kvw_peer *sources[KVW_SOURCES_MAX]; /* receiver */
    struct {
        uint64_t instance;
        uint32_t number;                      /* 0: no pull */
    } pulls[KVW_SOURCES_MAX];                 /* receiver: what each source has staged */
    uint64_t lease_ns, take_by_ns;            /* receiver; take_by absolute */
    uint32_t budget, exact_first, exact_last; /* receiver */
    kvw_err err;
    char text[KVW_TEXT_BYTES_MAX + 1];
    uint8_t note[KVW_COMMIT_NOTE_MAX];
    uint32_t note_bytes;
    uint64_t raw_bytes, wire_bytes;
    uint32_t chunks;
    uint32_t codec_chunks[KVW_CODEC_IDS];
    uint32_t marks_pending;
    uint32_t *layer_left;             /* receiver: (flow, span)s of a layer not in place */
    uint32_t *layer_coming;           /* receiver: those that a queue of jobs hasn't got whole */
    struct kvw_pushed *pushed;        /* sender */
    uint32_t codec;                   /* sender: index; core.codec_count: chosen by the chunk */
    uint64_t pushed_bytes, all_bytes; /* sender: computed, of all that is in the pool, raw */
};

#endif
