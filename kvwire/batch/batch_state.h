/* SPDX-License-Identifier: Apache-2.0 */
/*
 * batch_state.h - the state of regions, batches and their flights. The files of this folder change
 * it; the rest of kvwire/ sees pointers only.
 *
 *   batch    what a caller made: pieces as runs, and how its latest post stands
 *   flight   one post at one end of a connection: ours (this side posted it) or theirs
 *
 * Not installed. threads, memory, time: as ../core.h.
 */
#ifndef KVW_BATCH_STATE_H
#define KVW_BATCH_STATE_H

#include "../peer/core_state.h"
#include "../wire/batches.h"
#include "runs.h"

enum kvw_flight_state {
    KVW_FLIGHT_TELLING = 1, /* its BATCH isn't all sent, or hasn't all come -> OPEN */
    KVW_FLIGHT_OPEN,        /* chunks may move -> OVER, or gone */
    KVW_FLIGHT_OVER,        /* kept until BATCH_DONE has been sent */
};

struct kvw_flight {
    struct kvw_list in;     /* kvw_batch_peer.ours or .theirs, in the order of their epochs */
    struct kvw_list moving; /* kvw_batch_peer.moving: has chunks to send */
    struct kvw_peer *peer;
    struct kvw_batch *batch; /* ours: whose post it is; NULL: it was released, or has been told */
    uint64_t epoch;          /* 0: none of its BATCH has been sent */
    enum kvw_flight_state state;
    bool ours, needs_slots;
    uint8_t op;           /* enum kvw_batch_op */
    struct kvw_runs runs; /* here; ours: the batch's local ones, borrowed */
    uint64_t bytes;
    uint32_t wire_runs; /* of the owner's side */
    uint32_t told;      /* of these, sent or come */
    uint32_t chunk_bytes, chunks;
    uint32_t moved; /* chunks sent or in place */
    uint8_t *got;   /* receiving side: a bit a chunk */
    uint8_t *note;  /* theirs: event NOTIFY at the end; NULL: none */
    uint32_t note_bytes;
    kvw_err err; /* OVER: what is told */
    char text[160];
};

struct kvw_batch_note { /* a NOTIFY that is owed */
    struct kvw_list in;
    uint32_t bytes;
    uint8_t note[KVW_WIRE_NOTE_MAX];
};

struct kvw_batch {
    uint64_t id;
    uint32_t peer; /* kvw_peer_id */
    uint32_t chunk_bytes;
    uint8_t op;
    bool quiet;
    struct kvw_runs local, remote;
    uint64_t checked; /* core's count of changes to regions at which the runs were looked at */
    struct kvw_flight *flight;    /* while POSTED */
    struct kvw_batch_note *after; /* READ: its note, until it has ended */
    uint8_t *note;                /* WRITE: its note, until it is told */
    uint32_t note_bytes;
    enum kvw_batch_state state;
    kvw_err err;
    uint64_t moved, posts, post_ns, first_ns, end_ns, deadline_ns;
    struct kvw_core_rec rec; /* of BATCH_DONE: its place in the queue of events */
    char text[KVW_TEXT_BYTES_MAX + 1];
};

/* What is open, on one side of the limits of SPEC.md 4.5. */
struct kvw_batch_open {
    uint32_t batches, runs, chunks;
};

struct kvw_batch_peer {      /* a peer that is up and knows batches */
    struct kvw_list sending; /* kvw_batch_core.sending: moving isn't empty */
    struct kvw_list ours, theirs, moving;
    struct kvw_regions regions; /* the peer's */
    bool told;                  /* it has told all it had when it came up */
    bool news;                  /* regions have come or gone since its last "that is all" */
    bool end_due;               /* "that is all" is owed to it */
    uint32_t regions_told;      /* ours with ids up to it */
    uint64_t gone_told;         /* of the core's log */
    uint64_t epoch_out, epoch_in;
    struct kvw_batch_open out, in;
    struct kvw_flight *coming; /* theirs: TELLING */
    struct kvw_list notes;
    uint32_t note_count;
    struct kvw_staged *pending; /* a chunk that is gathered and not put */
    struct kvw_flight *pending_of;
    struct kvw_slot_line parked; /* chunks that came before their BATCH */
};

struct kvw_batch_core {
    struct kvw_regions regions; /* of this side */
    uint32_t next_region;
    uint64_t changes; /* regions that went, here or at any peer, and peers that did */
    uint32_t *gone;   /* log of ids, for peers that were told them */
    uint32_t gone_count, gone_room;
    uint64_t gone_base;       /* number of the log's first */
    struct kvw_batch **table; /* by the low bits of their ids */
    uint32_t room, count;
    uint64_t next_life;
    struct kvw_list sending; /* kvw_batch_peer.sending */
    uint64_t deadline_ns;    /* the earliest of posts that are open */
    uint64_t ended;          /* posts, so far */
    uint8_t *msg;            /* KVW_MSG_BYTES_MAX */
};

#endif
