/* SPDX-License-Identifier: Apache-2.0 */
/*
 * peer_state.h - the state of connections, peers and landing slots. link.c, peer.c, owed.c and
 * slots.c change it.
 *
 * Not installed. threads, memory, time: as ../core.h.
 */
#ifndef KVW_PEER_STATE_H
#define KVW_PEER_STATE_H

#include <stdatomic.h>

#include "../base/heap.h"
#include "../base/index.h"
#include "../base/list.h"
#include "../choice/choose.h"
#include "../core.h"
#include "../wire/hello.h"
#include "../wire/layout.h"
#include "window.h"

/* Connections that haven't said who they are, of a node that knows so many peers. */
#define KVW_NEWCOMERS(peers_max) ((peers_max) / 4 > 64u ? (peers_max) / 4 : 64u)

#define KVW_POOLS_MAX      8u  /* of a node, and of a peer */
#define KVW_BATCH_EVENTS   16u /* transport events taken at a time */
#define KVW_BATCHES_A_TURN 4u
#define KVW_CHUNKS_A_TURN  4u /* encoded or decoded; bounds a poll to a fraction of a millisecond */
#define KVW_RECENT         256u /* ended keys that are remembered, each role */
#define KVW_REFUSALS_MAX   64u  /* owed at once */
#define KVW_ADDRESS_MAX    255u
#define KVW_CREDIT_FIRST   KVW_WIRE_GRANT_MAX /* slots that a peer may grant; it grows to */
#define KVW_CREDIT_MAX     KVW_WIRE_LANDING_SLOTS_MAX
#define KVW_CHOICE_LAYERS  128u /* of which a ratio is kept; beyond, layers share */
#define KVW_AHEAD          2u   /* chunks waiting an encoder, from which on raw goes out */
#define KVW_BLIND          4u   /* chunks under way at most, all raw, before the first PUT_DONE */
#define KVW_PUSH_MARKS     4u   /* ready marks of a layer that may be pending */

#define KVW_DIAL_MIN_NS   (10ull * 1000 * 1000)
#define KVW_DIAL_CAP_NS   (250ull * 1000 * 1000)
#define KVW_REJECTED_NS   (1000ull * 1000 * 1000) /* a rejected connection lingers; next dial */
#define KVW_STEADY_NS     (1000ull * 1000 * 1000) /* up that long: the next dial is at once */
#define KVW_IDLE_SLOTS_NS (1000ull * 1000 * 1000) /* unused slots are called back */
#define KVW_FAR_NS        (10ull * 1000 * 1000)   /* a round trip of the network, not of a host */
#define KVW_TAKE_BY_NS    (10ull * 1000 * 1000 * 1000) /* default: an offer or stream waits */
#define KVW_MARKS_NS      (100ull * 1000)              /* pending ready marks are asked again */
#define KVW_DEVICE_NS     (20ull * 1000)               /* a GPU's jobs are asked for again */
#define KVW_MSG_RETRY_NS  (1000ull * 1000)             /* a transport that was full */
#define KVW_PUT_RETRY_NS  (50ull * 1000)               /* the same, for puts */

struct kvw_peer;
struct kvw_flow;
struct kvw_batch_peer; /* ../batch/ */

/* --- connections ------------------------------------------------------------------------------ */

/* link.c moves it; every arrow ends in FREE when the connection is gone. */
enum kvw_link_state {
    KVW_LINK_FREE = 0,
    KVW_LINK_DIALING,  /* connect() called; CONN_UP -> HELLO */
    KVW_LINK_HELLO,    /* up; both HELLOs through -> READY, a bad one -> REJECTED */
    KVW_LINK_READY,    /* its peer's */
    KVW_LINK_REJECTED, /* told so, or about to be; the peer hangs up, or the deadline does */
};

struct kvw_link {
    struct kvw_indexed by_conn;
    struct kvw_list in;  /* core.newcomers, core.free_links, or none: its peer has it */
    struct kvw_list due; /* core.links_due: a HELLO or REJECT is to be sent */
    struct kvw_timer timer;
    struct kvw_peer *peer; /* NULL: not known yet */
    enum kvw_link_state state;
    uint32_t path;
    kvw_conn_id conn;
    bool dialled; /* by this side */
    bool hello_due, reject_due, hello_got;
    kvw_err reject_err;
    struct kvw_wire_hello hello; /* the peer's, when hello_got */
    char text[KVW_TEXT_BYTES_MAX + 1];
};

/* A pool of a peer's, as it told. */
struct kvw_peer_pool {
    struct kvw_layout *layout; /* NULL: none */
    uint16_t number;
};

/* Slots that a peer granted us, next <= limit. The slot of put seq is ring[seq % KVW_CREDIT_FIRST],
 * and once a peer has granted more than these more[seq % KVW_CREDIT_MAX]. */
struct kvw_credit {
    uint16_t ring[KVW_CREDIT_FIRST];
    uint16_t *more; /* NULL: never needed yet; kept until the peer is freed */
    uint64_t next, limit;
    bool return_due; /* it asked for what is not used */
};

/* Where the next put goes. */
static inline uint16_t kvw_credit_slot(const struct kvw_credit *credit)
{
    return credit->more != NULL ? credit->more[credit->next % KVW_CREDIT_MAX]
                                : credit->ring[credit->next % KVW_CREDIT_FIRST];
}

/* Slots of ours that a peer may use or has used. */
struct kvw_lent {
    uint64_t limit;   /* seqs granted so far */
    uint32_t granted; /* not landed yet */
    uint32_t landed;  /* not taken yet */
    uint32_t gaps;    /* spans of core.span_pool that its flows hold: <= granted + landed */
    bool recall_due, recalled;
    bool open; /* the transport lets it put (region_open) */
    struct kvw_window window;
};

/* An id under which a peer is known. */
#define KVW_PEER_NAMES_MAX 4u
struct kvw_peer_name {
    struct kvw_indexed by_id;
    uint32_t id;
    struct kvw_peer *peer;
};

struct kvw_peer {
    struct kvw_indexed by_instance; /* while instance isn't 0 */
    struct kvw_list all;            /* core.peers */
    struct kvw_list busy;           /* core.busy: has something to send, or may have */
    struct kvw_list due;            /* core.due: messages are owed */
    struct kvw_list receiving;      /* core.receiving: flows of offers are open with it */
    struct kvw_list starved;        /* core.starved: could send, and no staging slot was free */
    struct kvw_timer timer;         /* next dial; slots idle */
    struct kvw_timer alive;         /* next ALIVE */
    struct kvw_peer_name names[KVW_PEER_NAMES_MAX]; /* its ids: of itself, and of what turned out to
                                                       be the same node; the first is its own */
    uint32_t id;                                    /* the first */
    uint32_t name_count;
    uint32_t path;
    bool added;       /* by the caller: dialled again when lost */
    bool alive_due;   /* ALIVE is owed */
    bool told_down;   /* its PEER_LOST is out and nothing new has been learnt since */
    bool has_address; /* else: the link's only peer */
    char address[KVW_ADDRESS_MAX + 1];
    uint64_t dial_at_ns, dial_delay_ns;
    uint64_t idle_at_ns;      /* slots are called back then; UINT64_MAX: in use, or none lent */
    struct kvw_link *link;    /* READY, or NULL */
    struct kvw_link *dialing; /* on its way, or NULL */
    uint64_t instance;        /* 0: not known yet */
    uint64_t ready_ns;
    uint32_t version;
    struct kvw_wire_hello hello;
    struct kvw_peer_pool pools[KVW_POOLS_MAX];
    uint32_t pools_told,
        pools_gone; /* bits: ours that it has heard of; whose end it must hear of */
    uint16_t pool_numbers[KVW_POOLS_MAX]; /* of those that it has heard of */
    char why[160];

    struct kvw_list flows;                 /* kvw_flow.of_peer */
    uint32_t receiver_flows, sender_flows; /* of these, not ended */
    struct kvw_lent lent;
    struct kvw_credit credit;

    /* sending to it */
    kvw_digest_id digest;
    uint64_t allowed; /* bit i: codec i of the core is in both HELLOs */
    struct kvw_rate rate;
    struct kvw_chooser chooser;
    uint16_t *ratios;
    uint32_t line_head, line_tail; /* stages in the order of their puts; KVW_STAGE_NONE: empty */
    uint32_t queued, flying;       /* its stages: in the line; given to the transport */
    /* The twins of its landing slots, mapped here; NULL: they aren't. While they are, chunks take
     * their slot when they are cut, so that jobs can write there. */
    const struct kvw_mem *twins;
    char twins_text[160];  /* a sentence: what goes by them, or why nothing does */
    struct kvw_list *turn; /* flow to look at first */
    bool stalled;          /* found something to send and no credit */
    uint32_t last_codec;   /* kvw_codec_id; 0: none sent */
    bool last_named;       /* and the caller named it */
    uint32_t told_codec;   /* whose decoding cost the last GRANT carried */
    uint64_t chunks_sent, chunks_landed, raw_sent, raw_landed;

    struct kvw_batch_peer *batches; /* NULL: down, or it doesn't know them */
    uint32_t batches_in;            /* batches whose chunks come here: they need slots */
};

/* Chunks in the peer's line that have no number yet. */
static inline uint32_t kvw_peer_unnumbered(const struct kvw_peer *p)
{
    return p->twins != NULL ? 0 : p->queued;
}

/* Whether the peer may put here now: something of its needs landing slots. */
static inline bool kvw_peer_needs_slots(const struct kvw_peer *p)
{
    return p->receiver_flows + p->batches_in > 0;
}

/* --- landing slots (slots.c) ------------------------------------------------------------------ */

enum kvw_landing_state {
    KVW_LANDING_FREE = 0,
    KVW_LANDING_GRANTED, /* a peer may put here -> LANDED; its connection ends, RETURN -> FREE */
    KVW_LANDING_LANDED,  /* waits to be taken -> FREE */
};

struct kvw_landing {
    struct kvw_peer *peer;
    uint64_t seq, lent_ns;
    uint32_t bytes;
    uint16_t next; /* free or landed after it */
    uint8_t state;
};

struct kvw_slot_line { /* of what landed, in that order; KVW_SLOT_NONE: empty */
    uint16_t head, tail;
};
#define KVW_SLOT_NONE       UINT16_MAX
#define KVW_SLOT_LINE_EMPTY ((struct kvw_slot_line){KVW_SLOT_NONE, KVW_SLOT_NONE})

struct kvw_slots {
    struct kvw_landing *slots;
    /* What a transport's threads are told: [path][slot], the connection << 32 | imm that may put
     * into it, 0: nobody. Written by the core's thread before a slot is granted. */
    _Atomic uint64_t *open;
    unsigned char *mem;
    uint32_t count, slot_bytes;
    uint16_t free;
    struct kvw_slot_line chunks, batches; /* landed: of transfers; of batches */
    uint16_t unseen; /* of chunks: the first that wasn't looked at; KVW_SLOT_NONE: all were */
    uint32_t free_count, landed_count;
};

#endif
