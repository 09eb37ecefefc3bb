/* SPDX-License-Identifier: Apache-2.0 */
/*
 * core_state.h - a core's state, by owner: links and peers, landing slots and credit, transfers and
 * their flows, staging. Which file changes what:
 *
 *   ../core.c          open, close, the order of work in a poll; the only one that hangs up
 *   ../core_api.c      what a caller may ask and add: peers, pools, stats
 *   link.c             connections: dial, HELLO, REJECT, which connection is the peer's
 *   slots.c            landing slots: granted, landed, free; the gate
 *   window.c           how many of them a peer is to hold
 *   owed.c             what is owed to a peer, as messages
 *   ../kv/flow.c       one transfer's part with one peer: made, found, given back
 *   ../kv/transfer.c   transfers, and how each ends
 *   ../kv/lend.c       receiver: offers, leases, COMMIT      ../kv/arrive.c  chunks into blocks
 *   ../kv/supply.c     sender: streams, pushes, OFFER        ../kv/depart.c  blocks into chunks
 *   ../kv/staging.c    sender: staging slots and their order ../kv/decode.c  landed, being decoded
 *   ../kv/device.c     a GPU's queue and memory         ../kv/stage.c   staged, and pulled later
 *   ../kv/hold.c       sender: staging memory
 *   ../batch/          regions, batches, notifications
 *
 * A lower file never calls one above it: it changes state, and what a peer has done wrong is left
 * in core.breach for core.c.
 *
 * Not installed. threads, memory, time: as core.h.
 */
#ifndef KVW_PEER_CORE_STATE_H
#define KVW_PEER_CORE_STATE_H

#include <string.h>

#include "../kv/flow_state.h"
#include "../gpu.h"
#include "../kv/place.h"
#include "peer_state.h"

struct kvw_local_pool {
    struct kvw_place *place; /* NULL: none */
    uint32_t id;             /* kvw_pool_id; its low 16 bits are its number on the wire */
    uint8_t *message;        /* POOL, ready to send */
    uint32_t message_bytes;
};

/* The GPU (../kv/device.c). */
struct kvw_device {
    const struct kvw_gpu_plugin *plugin; /* NULL: none */
    struct kvw_gpu *gpu;
    struct kvw_jobs *jobs;     /* who codes what lies in its memory */
    const struct kvw_mem *mem; /* host memory that it reaches, with all slots in it */
    /* The landing slots' twins in its memory, which peers of this host may map: a chunk's stream
     * can lie in the slot's twin, its header alone in the slot. NULL: none. */
    const struct kvw_mem *twins;
    bool no_twins;
    char share_why[KVW_GPU_TEXT]; /* why there are none */
};

/* Whose end a key's was. */
enum kvw_recent_kind {
    KVW_RECENT_STREAM = 0, /* of a stream of ours: offers of it are refused with its reason */
    KVW_RECENT_OFFER,      /* of a peer's offer before a stream: such a stream ends at once */
    KVW_RECENT_KINDS,
};

struct kvw_recent {
    kvw_key key;
    kvw_err err;
    bool used;
    char text[80];
};

struct kvw_refusal {
    struct kvw_peer *peer; /* NULL: free */
    kvw_key key;
    uint32_t epoch;
    kvw_err err;
    char text[120];
};

struct kvw_batch;
struct kvw_batch_core; /* ../batch/ */

/* A stage that has ended, and how. */
struct kvw_hold_ended {
    uint32_t number; /* 0: none */
    kvw_err err;
    char text[100];
};

/* What is staged (../kv/hold.c). */
struct kvw_holds {
    struct kvw_list all;     /* by address, not GONE */
    struct kvw_list filling; /* something pushed may be copied, or the end may be there */
    struct kvw_list gone;    /* their event waits to be taken */
    unsigned char *mem;      /* NULL: none */
    uint64_t bytes, used;
    uint32_t count, last_number; /* of all; given last */
    bool pulls_due;              /* waiting pulls are to be looked at */
    struct kvw_hold_ended ended[KVW_RECENT];
    uint32_t ended_at;
};

struct kvw_core_rec { /* an event in the queue */
    struct kvw_list in;
    uint32_t kind, peer, layer;
    int32_t err;
    uint64_t xfer, at_ns;
    kvw_key key;
    struct kvw_transfer *done; /* XFER_DONE: the rest lies there */
    struct kvw_batch *batch;   /* BATCH_DONE: the rest lies there, and this, too */
    struct kvw_hold *hold;     /* STAGE_GONE: the same */
    uint8_t *note;             /* NOTIFY: its own memory */
    uint32_t note_bytes;
    char text[192];
};

struct kvw_core_way { /* a path */
    struct kvw_core *core;
    struct kvw_transport *transport;
    char name[16];
    bool listen, source_added, sent, region_added;
    struct kvw_wire_hello hello; /* ours, with this path's region */
    struct kvw_transport_event batch[KVW_BATCH_EVENTS];
    uint32_t batch_at, batch_count;
    struct kvw_transport_stats stats; /* as of the last poll */
    uint64_t rtt_ns;
};

struct kvw_core {
    /* fixed at open */
    struct kvw_core_way ways[KVW_CORE_PATHS_MAX];
    uint32_t way_count;
    uint64_t instance;
    const struct kvw_codec_ops *codecs[KVW_CODECS_MAX];
    uint32_t codec_count, raw, fixed_codec;
    struct kvw_clock clock;
    uint32_t chunk_raw_bytes, peers_max, xfers_max;
    struct kvw_jobs *jobs; /* who encodes and decodes meanwhile; NULL: poll does */
    struct kvw_device device;
    struct kvw_decode *decodes; /* of each landing slot */
    uint32_t encoder_count;
    unsigned char *arena_base;
    void *scratch;
    uint8_t *msg;                                               /* KVW_WIRE_SHORT_MAX */
    void (*trace)(void *arg, const struct kvw_trace_event *ev); /* NULL: nobody listens */
    void *trace_arg;

    uint64_t now_ns, polled_ns, gap_ns;
    uint64_t retry_ns;     /* a transport was full: messages are tried again then; UINT64_MAX: no */
    uint64_t put_retry_ns; /* the same for puts of a peer that has none in flight */
    bool held_up;          /* the event queue was too full to go on */
    bool more;             /* a call queued work: poll now */
    uint32_t next_peer, next_pool, next_epoch;
    uint64_t next_ref;

    struct kvw_heap timers;
    struct kvw_list peers, busy, due, receiving, starved;
    uint32_t peer_count, peers_up;
    struct kvw_index instances, conns, keys, epochs, offers, refs, peer_ids;
    struct kvw_list newcomers, links_due, free_links; /* free_links: of the newcomers and peers */
    uint32_t newcomer_count;
    struct kvw_local_pool pools[KVW_POOLS_MAX];
    struct kvw_list transfers, marked, pending;
    struct kvw_list waiting; /* flows of offers without a stream, by of_transfer */
    uint32_t transfer_count, waiting_count;
    struct kvw_slots slots;
    struct kvw_stages stages;
    struct kvw_batch_core *batches;
    struct kvw_holds holds;
    bool batches_first; /* whose turn it is to use credit and staging first: batches, transfers */
    struct kvw_span_pool span_pool;
    struct kvw_recent recent[KVW_RECENT_KINDS][KVW_RECENT]; /* keys that ended; a ring a kind */
    uint32_t recent_at[KVW_RECENT_KINDS];
    struct kvw_refusal refusals[KVW_REFUSALS_MAX];

    struct kvw_transfer *last_done; /* whose event was taken last; goes at the next call */
    struct kvw_list events, free_recs;
    struct kvw_core_rec *recs;
    uint32_t other_room; /* events, XFER_DONE aside, that still fit */
    struct kvw_core_stats stats;

    /* what a lower file found: core.c hangs up after the step */
    struct kvw_peer *breach;
    char breach_text[KVW_TEXT_BYTES_MAX + 1];
};

/* Kinds of timers: what struct each lies in. */
enum kvw_timer_kind {
    KVW_TIMER_LINK = 1,
    KVW_TIMER_PEER,
    KVW_TIMER_ALIVE,
    KVW_TIMER_FLOW,
    KVW_TIMER_TRANSFER,
    KVW_TIMER_HOLD,
};

static inline uint64_t kvw_key_hash(const kvw_key *key, bool receiver)
{
    uint64_t a, b;

    memcpy(&a, key->bytes, 8);
    memcpy(&b, key->bytes + 8, 8);
    return kvw_index_mix(a + 2 * kvw_index_mix(b + receiver));
}

static inline bool kvw_key_equal(const kvw_key *a, const kvw_key *b)
{
    return memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}

/* A step that can make up to `events` events, XFER_DONE aside, may begin. Else the core stands
 * still until some are taken. */
static inline bool kvw_core_room(struct kvw_core *c, uint32_t events)
{
    if (c->other_room >= events)
        return true;
    c->held_up = true;
    return false;
}

/* The peer has messages owed to it. */
static inline void kvw_peer_owes(struct kvw_core *c, struct kvw_peer *p)
{
    kvw_list_want(&c->due, &p->due);
    c->more = true;
}

/* The peer may be sent something. */
static inline void kvw_peer_busy(struct kvw_core *c, struct kvw_peer *p)
{
    kvw_list_want(&c->busy, &p->busy);
    c->more = true;
}

/* Debug builds: the relations between the tables hold. */
void kvw_core_assert_consistent(const struct kvw_core *c);
/* The transfer whose event was taken last may go. */
void kvw_core_forget_last(struct kvw_core *c);
/* Hang up on a peer that is up; what was open with it ends. */
void kvw_core_hang_up(struct kvw_core *c, struct kvw_peer *p, kvw_err err, const char *text);
/* End all that is with a peer, its connections, and it. */
void kvw_core_end_peer(struct kvw_core *c, struct kvw_peer *p);
/* The transport's gate; arg is a path. */
bool kvw_core_gate(void *arg, kvw_conn_id conn, uint64_t offset, uint32_t bytes, uint32_t imm);

/* The peer of that id, NULL: none. */
struct kvw_peer *kvw_core_peer(const struct kvw_core *c, kvw_peer_id id);

/*
 * A caller's struct that may be shorter or longer than ours: zeros stand for what it doesn't know,
 * and what we don't know must be zeros. False: it isn't, or the size can't be one.
 */
static inline bool kvw_core_copy_in(void *to, size_t known, const void *from, uint32_t bytes)
{
    const unsigned char *p = (const unsigned char *)from;

    if (bytes < 8 || bytes > 65536)
        return false;
    memset(to, 0, known);
    memcpy(to, p, bytes < known ? bytes : known);
    for (size_t i = known; i < bytes; ++i)
        if (p[i] != 0)
            return false;
    return true;
}

/* Fill a caller's struct, as much of it as the caller knows; its size stays. False: no size. */
static inline bool kvw_core_copy_out(void *to, uint32_t bytes, const void *from, size_t known)
{
    if (bytes < 8)
        return false;
    memset((unsigned char *)to + 4, 0, bytes - 4);
    memcpy((unsigned char *)to + 4, (const unsigned char *)from + 4,
           (bytes < known ? bytes : known) - 4);
    return true;
}

#endif
