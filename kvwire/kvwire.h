/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvwire.h - move a sequence's KV cache from the node that prefilled it to the one that decodes it,
 * layer by layer, while the prefill still runs.
 *
 * A session joins two nodes. The receiver (decode) offers blocks; the sender (prefill) opens a
 * stream under the same transfer id and pushes each layer when it is computed; commit ends it.
 *
 *     receiver                                   sender
 *     kvw_offer(id, blocks, lease)               kvw_stream_open(id, blocks)      in either order
 *                                                kvw_push_layer(id, 0, tokens) ...
 *     event LAYER_READY(0) ...                   event LAYER_SENT(0) ...
 *                                                kvw_commit(id, note)
 *     event XFER_DONE(id, KVW_OK, note)          event XFER_DONE(id, KVW_OK)
 *
 * threads  a session is used by one thread at a time; two sessions share nothing
 * memory   taken in kvw_session_open(), given back in kvw_session_close(), none in between
 * time     monotonic nanoseconds handed in by the caller; no clock is read here
 * I/O      only through the transport; nothing is logged, reasons travel in events
 */
#ifndef KVWIRE_H
#define KVWIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "codec.h"
#include "err.h"
#include "mem.h"
#include "transport.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kvw_session; /* opaque */

/* Chosen by whoever routes the request; the same on both sides. Unique among a session's open ones.
 */
typedef struct kvw_xfer_id {
    uint64_t value;
} kvw_xfer_id;

typedef enum kvw_role {
    KVW_ROLE_SENDER = 1,   /* prefill: connects */
    KVW_ROLE_RECEIVER = 2, /* decode: listens */
} kvw_role;

#define KVW_FINGERPRINT_BYTES 16

/* Monotonic nanoseconds. Called from the session's thread and from its encoders'. */
struct kvw_clock {
    uint64_t (*now_ns)(void *arg); /* NULL: durations can't be measured, codecs count as free */
    void *arg;
};

struct kvw_session_config {
    uint32_t size; /* sizeof(struct kvw_session_config), so that it can grow */
    kvw_role role;
    struct kvw_transport *transport; /* borrowed until close; the session alone calls it */
    const char *peer;                /* sender: whom to connect to; NULL: the link's only peer */

    uint8_t fingerprint[KVW_FINGERPRINT_BYTES]; /* of the weights; both sides must agree */
    const char *model_name;                     /* for messages only; <= 63 bytes kept */
    struct kvw_pool
        pool; /* this side's KV blocks; borrowed until close. block_tokens and the strides
                 may differ from the peer's; layers, kv_heads, head_dim, dtype may not */

    const struct kvw_codec_ops *const *codecs; /* NULL-terminated, best first; must contain raw */
    /* How codecs are chosen, and what for: choose.h. */
    uint8_t codec; /* sender: kvw_codec_id to use wherever peer, dtype and budget allow it, and raw
                      where not; 0: choose by what makes the request's last chunk land soonest
                      (raw where the transport is one host's) */
    struct kvw_clock clock;  /* durations of encoding and decoding only */
    uint32_t encoders;       /* sender: threads that encode, 0: inside poll; <= KVW_ENCODERS_MAX */
    void (*wake)(void *arg); /* called from encoders' threads: poll again. NULL: poll often */
    void *wake_arg;
    uint32_t chunk_raw_bytes; /* sender's aim, 0: KVW_CHUNK_RAW_AIM */
    uint32_t slots;     /* landing (receiver) or staging (sender) slots, 0: 32; <= KVW_SLOTS_MAX */
    uint32_t xfers_max; /* transfers open, or ended and their XFER_DONE not yet taken, 0: 16; <=
                           KVW_XFERS_MAX */
    uint32_t xfer_tokens_max; /* longest transfer, 0: pool's whole size */
};

/*
 * Open a session and begin to listen (receiver) or to connect (sender; retried until close). Peers
 * come and go with PEER_UP and PEER_LOST; the session outlives them.
 *
 *   KVW_E_INVALID  a field of *cfg is out of range; *field names it if field isn't NULL
 *   KVW_E_NOMEM
 *   other          what the transport's listen/region_add said
 * On an error nothing is kept and *s is untouched.
 */
KVW_API KVW_NODISCARD kvw_err kvw_session_open(struct kvw_session **s,
                                               const struct kvw_session_config *cfg,
                                               uint64_t now_ns, const char **field);

/* Aborts what is open (no events come out any more), disconnects. The transport stays the caller's.
 * Takes NULL. */
KVW_API void kvw_session_close(struct kvw_session *s, uint64_t now_ns);

/*
 * Make progress: receive, check, decode, scatter, gather, encode, transmit, expire. Bounded work
 * per call (a few chunks); returns true when more could be done at once, so call again before
 * waiting. Take events in between: with a full event queue it stands still and returns false.
 */
KVW_API bool kvw_session_poll(struct kvw_session *s, uint64_t now_ns);

/* When poll must run again even if nothing arrives; UINT64_MAX: never. */
KVW_API uint64_t kvw_session_deadline_ns(const struct kvw_session *s);

typedef enum kvw_event_kind {
    KVW_EV_PEER_UP = 1, /* handshake done; text names the peer's model */
    KVW_EV_PEER_LOST,   /* err and text; the session goes on listening or reconnecting. With
                           KVW_E_VERSION or KVW_E_MISMATCH there is no point in waiting */
    KVW_EV_OFFERED,     /* sender: the receiver offered blocks for xfer (also before stream_open) */
    KVW_EV_LAYER_SENT,  /* sender: all of a layer's chunks are in the peer's memory */
    KVW_EV_LAYER_READY, /* receiver: a layer's K and V of all tokens are in the offered blocks */
    KVW_EV_XFER_DONE,   /* exactly one for each kvw_offer and kvw_stream_open that returned KVW_OK;
                           err, text; after it the blocks are the caller's own again */
} kvw_event_kind;

struct kvw_event {
    kvw_event_kind kind;
    kvw_err err;
    kvw_xfer_id xfer;
    uint32_t layer;
    uint64_t at_ns;   /* now_ns of the poll that saw it */
    const char *text; /* a sentence; valid until the next call on the session; never NULL */
    const void *note; /* receiver's XFER_DONE: what the sender gave to kvw_commit */
    uint32_t note_bytes;
    uint64_t raw_bytes;           /* XFER_DONE: KV bytes moved */
    uint64_t wire_bytes;          /* XFER_DONE: the same as encoded streams and chunk headers */
    uint32_t chunks;              /* XFER_DONE */
    const uint32_t *codec_chunks; /* XFER_DONE: chunks by codec id, KVW_CODEC_IDS of them; valid
                                     until the next call on the session */
};

/* Take the next event. The queue can't overflow: poll does less while it is full. */
KVW_API bool kvw_session_next_event(struct kvw_session *s, struct kvw_event *ev);

/* Blocks of one sequence, in token order. */
struct kvw_blocks {
    const uint32_t *ids; /* pool block ids, each < pool.blocks; copied */
    uint32_t count;      /* 1 .. KVW_XFER_BLOCKS_MAX; count * block_tokens >= tokens */
    uint32_t tokens;     /* tokens to move, 1 .. xfer_tokens_max */
};

/* What the receiver asks for beside the bytes. All zero, or NULL: exact values, the default lease,
 * no deadline. */
struct kvw_terms {
    uint64_t lease_ns;    /* KVW_LEASE_NS_MIN..MAX, 0: default */
    uint64_t deadline_ns; /* absolute, 0: none */
    kvw_budget budget;    /* what codecs may do to the values */
    uint8_t exact_first;  /* under a lossy codec the first (sinks) and the last (newest) tokens */
    uint16_t exact_last;  /* stay exact, so many at either end of the whole transfer */
};

/*
 * Receiver: lend blocks to a transfer. They are the session's until XFER_DONE; nothing else may
 * write them. terms may be NULL. The lease is how long the sender may be silent about this transfer
 * before it ends with KVW_E_LEASE; it starts at once. May be called before the peer is up: it is
 * sent when the peer comes, if the lease still lives.
 *
 *   KVW_E_AGAIN    xfers_max are in use
 *   KVW_E_INVALID  wrong role, id in use, a block id or count or a term out of range
 */
KVW_API KVW_NODISCARD kvw_err kvw_offer(struct kvw_session *s, kvw_xfer_id id,
                                        const struct kvw_blocks *blocks,
                                        const struct kvw_terms *terms, uint64_t now_ns);

/*
 * Sender: open the stream that fills an offer. blocks are read until XFER_DONE, a range only after
 * it was pushed. offer_by_ns: absolute time by which the offer must have come (0: as deadline_ns,
 * or KVW_LEASE_NS_MAX from now if that is 0 too); past it XFER_DONE says KVW_E_DEADLINE. May be
 * called before the peer is up. While the stream is open the session renews the receiver's lease;
 * a peer that is lost ends it, offer or not (KVW_E_PEER_LOST).
 *
 *   KVW_E_AGAIN, KVW_E_INVALID as above
 */
KVW_API KVW_NODISCARD kvw_err kvw_stream_open(struct kvw_session *s, kvw_xfer_id id,
                                              const struct kvw_blocks *blocks, uint64_t offer_by_ns,
                                              uint64_t deadline_ns, uint64_t now_ns);

/*
 * Sender: the layer's K and V of tokens [0, tokens) are computed, or will be when *ready says so
 * (NULL: now). Growing tokens as prefill chunks finish is the normal use; a repeat or a smaller
 * number does nothing. Returns at once; lower layers go first.
 *
 *   KVW_E_INVALID   no such layer, more tokens than the stream has, wrong role
 *   KVW_E_NOTFOUND  no such stream (it may just have ended: its XFER_DONE says why)
 *   KVW_E_AGAIN     four ready marks of this layer are still pending
 */
KVW_API KVW_NODISCARD kvw_err kvw_push_layer(struct kvw_session *s, kvw_xfer_id id, uint32_t layer,
                                             uint32_t tokens, const struct kvw_ready *ready);

/*
 * Sender: everything has been pushed. note (<= KVW_COMMIT_NOTE_MAX bytes, copied; may be NULL)
 * rides along. XFER_DONE with KVW_OK comes when the receiver has said that every byte is in place.
 *
 *   KVW_E_INVALID   a layer is not fully pushed, note too long, or committed before
 *   KVW_E_NOTFOUND
 */
KVW_API KVW_NODISCARD kvw_err kvw_commit(struct kvw_session *s, kvw_xfer_id id, const void *note,
                                         uint32_t note_bytes);

/*
 * Either side: end a transfer. Its XFER_DONE (KVW_E_CANCELED) comes here, and on the peer with the
 * same reason. A sender may also decline an offer that it has no stream for: nothing comes here
 * then, the peer's transfer ends. reason: a sentence, cut at KVW_TEXT_BYTES_MAX, copied; NULL:
 * none.
 *
 *   KVW_E_NOTFOUND
 */
KVW_API KVW_NODISCARD kvw_err kvw_abort(struct kvw_session *s, kvw_xfer_id id, const char *reason);

/* Receiver: are K and V of this layer all in place? False for an unknown transfer. */
KVW_API bool kvw_layer_ready(const struct kvw_session *s, kvw_xfer_id id, uint32_t layer);

/* A handshake is done and the peer is there. */
KVW_API bool kvw_session_peer_up(const struct kvw_session *s);

struct kvw_session_stats {
    uint64_t xfers_ok, xfers_failed;
    uint64_t chunks_sent, chunks_landed;
    uint64_t chunks_rejected; /* digest, codec, or a range that fits no offer */
    uint64_t chunks_stale;    /* an epoch that is over */
    uint64_t raw_bytes, wire_bytes;
    uint64_t credit_stalls;    /* something to send, no slot granted */
    uint64_t encoder_stalls;   /* chunks that went raw because the encoders were behind */
    uint64_t wire_bytes_per_s; /* gauge: what the sender takes the wire's rate for; 0: not known */
};
KVW_API void kvw_session_stats(const struct kvw_session *s, struct kvw_session_stats *stats);

/* What one codec has done in this session, and what the choice thinks of it. */
struct kvw_codec_stats {
    const char *name;
    uint64_t chunks, raw_bytes, stream_bytes;
    uint32_t encode_ps, decode_ps; /* a raw byte, smoothed; 0: not known */
    uint64_t predicted_ns; /* sender, sums over chunks: from the choice until the chunk is in */
    uint64_t actual_ns;    /* the peer's memory, as foretold and as it was */
};
/* KVW_E_NOTFOUND: the session has no such codec. */
KVW_API KVW_NODISCARD kvw_err kvw_session_codec_stats(const struct kvw_session *s, uint8_t codec_id,
                                                      struct kvw_codec_stats *stats);

#ifdef __cplusplus
}
#endif
#endif
