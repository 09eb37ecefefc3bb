/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xfer.h - one transfer as the session keeps it: what both roles need, then each role's own part.
 *
 * threads  the session's      memory  the session's arena      time  the session's now_ns
 */
#ifndef KVW_XFER_H
#define KVW_XFER_H

#include <stdbool.h>

#include "kvwire.h"
#include "ranges.h"
#include "wire.h"

struct kvw_session;

#define KVW_MARKS_MAX 4u /* ready marks of a layer that may be pending */

/* kvw_xfer_finish() alone moves an entry from OPEN to ENDED, kvw_xfer_release() back to FREE. */
enum kvw_xfer_state {
    KVW_XFER_FREE = 0,
    KVW_XFER_OPEN,  /* offered or streaming; ends once, for whatever reason */
    KVW_XFER_ENDED, /* XFER_DONE is queued, or the peer must still be told; free when neither */
};

/* What the peer must still be told about a transfer that has ended. */
enum kvw_reply {
    KVW_REPLY_NONE = 0,
    KVW_REPLY_DONE,
    KVW_REPLY_ABORT,
};

/* Sender: one layer of a stream. pushed >= cut[k]; all are counts of tokens from token 0. */
struct kvw_layer_out {
    uint32_t pushed;    /* computed */
    uint32_t promised;  /* pushed, or will be when the marks are ready */
    uint32_t cut[2];    /* K, V: cut into chunks, which are encoded and put in that order */
    uint32_t in_flight; /* of those chunks, PUT_DONE not yet seen */
    bool reported;      /* LAYER_SENT queued */
    uint8_t mark_count;
    struct {
        uint32_t tokens;
        struct kvw_ready ready;
    } marks[KVW_MARKS_MAX]; /* oldest first */
};

struct kvw_xfer {
    enum kvw_xfer_state state;
    uint64_t serial; /* never reused: tells this use of the entry from the next */
    uint64_t id;
    uint32_t epoch; /* receiver: from the start; sender: from the offer, 0 before */
    uint32_t tokens;
    uint32_t block_count;
    uint32_t *blocks;     /* block_count pool block ids */
    uint64_t deadline_ns; /* UINT64_MAX: none */
    uint64_t lease_ns;
    kvw_budget budget; /* and the exact tokens: of the offer */
    uint8_t exact_first;
    uint16_t exact_last;
    uint32_t chunks;
    uint64_t raw_bytes, wire_bytes;
    uint32_t codec_chunks[KVW_CODEC_IDS];
    uint8_t *note; /* KVW_COMMIT_NOTE_MAX: to be sent, or as received */
    uint32_t note_bytes;

    /* ENDED */
    kvw_err err;
    char text[KVW_TEXT_BYTES_MAX + 1];
    bool event_due;
    enum kvw_reply reply;

    /* receiver */
    bool offer_sent;
    bool graced; /* one extra quarter lease was given because nobody polled (SPEC.md 4.4) */
    uint64_t lease_until_ns;
    bool committed;
    uint32_t commit_chunks;
    uint64_t commit_raw_bytes;
    uint32_t layers_ready;
    struct kvw_ranges *cover; /* [layer * 2 + kv] */

    /* sender */
    uint64_t offer_by_ns;
    uint64_t renew_at_ns;
    bool commit_due, commit_sent;
    uint64_t opened_ns;
    uint64_t pushed_bytes, cut_bytes; /* raw, over all layers */
    uint32_t queued;                  /* chunks cut and not yet put */
    uint32_t low_layer;               /* every layer below it is cut in full */
    uint32_t marks_pending;           /* over all layers */
    struct kvw_layer_out *layers;
};

/* An open transfer of that id, or NULL. */
struct kvw_xfer *kvw_xfer_find(const struct kvw_session *s, uint64_t id);

/* The open transfer that a message or chunk of (id, epoch) is about, or NULL. */
struct kvw_xfer *kvw_xfer_match(const struct kvw_session *s, uint64_t id, uint32_t epoch);

/*
 * A free entry, OPEN now, with the caller's blocks in it and everything else at its start.
 *   KVW_E_AGAIN    all are in use
 *   KVW_E_INVALID  the id is in use, or blocks are out of range
 */
KVW_NODISCARD kvw_err kvw_xfer_take(struct kvw_session *s, uint64_t id,
                                    const struct kvw_blocks *blocks, struct kvw_xfer **x);

/* The one place where a transfer ends: queues its XFER_DONE, and a reply if a peer is there to get
 * it. text is copied. After this no byte of its blocks is read or written. */
void kvw_xfer_finish(struct kvw_session *s, struct kvw_xfer *x, kvw_err err, enum kvw_reply reply,
                     const char *text);
void kvw_xfer_finishf(struct kvw_session *s, struct kvw_xfer *x, kvw_err err, const char *format,
                      ...) KVW_PRINTF(4, 5); /* the same with KVW_REPLY_ABORT */

/* Free an ended entry once nobody waits for anything of it. */
void kvw_xfer_release(struct kvw_xfer *x);

/* What an ABORT's code becomes here: peers may only name what a transfer can die of. */
kvw_err kvw_xfer_abort_err(kvw_err from_peer);

/* Send pending DONE and ABORT. False: the transport is full, nothing may overtake them. */
bool kvw_xfer_flush_replies(struct kvw_session *s);

/* End what the peer knew of; what it never heard of waits for the next peer. */
void kvw_xfer_peer_lost(struct kvw_session *s, kvw_err err, const char *text);

#endif
