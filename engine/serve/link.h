/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link.h - one kvwire session and the thread that drives it, so that the compute thread only drops
 * marks
 * ("layer 7 is computed up to token 512") and goes on.
 *
 * threads  kve_link_open starts the link's own thread, the only one that touches transport and
 * session. All other calls come from the engine's thread (one at a time); they hand over under a
 * mutex memory   a struct kve_xfer is the caller's and must live until its done is set, or
 * kve_link_close time     calls that wait take a deadline; the thread sleeps in the transport's
 * wait()
 */
#ifndef KVE_LINK_H
#define KVE_LINK_H

#include "../kvwire/kvwire.h"
#include "../kvwire/wire.h"
#include "../net/net.h"

struct kve_link; /* opaque */

typedef enum kve_link_state {
    KVE_LINK_STARTING = 1, /* the transport opens -> WAITING or FAILED */
    KVE_LINK_WAITING,      /* open, no peer now -> UP or FAILED */
    KVE_LINK_UP,           /* handshake done -> WAITING when the peer is lost */
    KVE_LINK_FAILED,       /* the transport can't be opened, or the peer will never fit; for good */
} kve_link_state;

struct kve_link_config {
    const char *net; /* see kvn_config; strings are copied */
    const char *local;
    const char *peer;  /* may be NULL */
    const char *fault; /* may be NULL */
    const char *cpus;  /* where the link's thread may run (cpus.h); NULL: anywhere */
    bool busy_poll;    /* as kvn_config.busy_poll */
    uint64_t open_timeout_ns;
    struct kvw_session_config session; /* role, fingerprint, pool, codec ...; transport, peer, clock
                                          and wake are the link's */
};

/* What the link knows of one transfer. Written by the link's thread under its mutex; read it
 * through kve_link_wait*, or freely after done was seen by one of them. */
struct kve_xfer {
    kvw_xfer_id id;
    bool done;
    kvw_err err;
    char text[KVW_TEXT_BYTES_MAX + 1];
    uint8_t note[KVW_COMMIT_NOTE_MAX];
    uint32_t note_bytes;
    uint64_t raw_bytes, wire_bytes;
    uint32_t chunks;
    uint32_t codec_chunks[KVW_CODEC_IDS]; /* by codec id */
    uint64_t done_ns;
    uint64_t layer_ns[KVW_LAYERS_MAX]; /* sender: sent; receiver: landed; 0: not yet */
};

/* KVW_E_NOMEM, KVW_E_IO. The transport opens in the thread: ask kve_link_state. */
KVW_NODISCARD kvw_err kve_link_open(struct kve_link **link, const struct kve_link_config *cfg);
/* Ends what is open, joins the thread. Takes NULL. A device that won't close in 3 s is left behind
 * and false is returned: the process should then _exit. */
bool kve_link_close(struct kve_link *link);

/* text (KVW_TEXT_BYTES_MAX + 1 bytes, may be NULL): the reason of FAILED, or of the last loss. */
kve_link_state kve_link_state_now(struct kve_link *link, char *text);
/* How many peers have come up so far: tells a new one from the old when nobody looked in between.
 */
uint32_t kve_link_peers(struct kve_link *link);
/* The error that led to FAILED or to the last loss of the peer. */
kvw_err kve_link_error(struct kve_link *link);
/* Readable (an eventfd; read it to clear) after each change of state or of a transfer. */
int kve_link_notify_fd(const struct kve_link *link);

/* As kvw_offer and kvw_stream_open; wait for the link's thread (at most 2 s). KVW_E_PEER_LOST: the
 * link isn't running. On KVW_OK *x is the link's until x->done. */
KVW_NODISCARD kvw_err kve_link_offer(struct kve_link *link, struct kve_xfer *x,
                                     const struct kvw_blocks *blocks,
                                     const struct kvw_terms *terms);
KVW_NODISCARD kvw_err kve_link_stream(struct kve_link *link, struct kve_xfer *x,
                                      const struct kvw_blocks *blocks, uint64_t offer_by_ns,
                                      uint64_t deadline_ns);
/* Drop a mark and go on. A transfer that has ended swallows it. */
void kve_link_push(struct kve_link *link, struct kve_xfer *x, uint32_t layer, uint32_t tokens);
void kve_link_commit(struct kve_link *link, struct kve_xfer *x, const void *note,
                     uint32_t note_bytes);
void kve_link_abort(struct kve_link *link, struct kve_xfer *x, const char *reason);

/* Has it ended? A cheap look. */
bool kve_link_done(struct kve_link *link, const struct kve_xfer *x);
/* Wait until x->done or until_ns; true if done. */
bool kve_link_wait(struct kve_link *link, const struct kve_xfer *x, uint64_t until_ns);

#endif
