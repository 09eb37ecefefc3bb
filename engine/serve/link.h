/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link.h - a worker's end of its transfers: a node (kvwire/node.h), whose own thread moves the
 * bytes, so that the compute thread only drops marks ("layer 7 is computed up to token 512") and
 * goes on.
 *
 * threads  kve_link_open starts a thread that opens the node, sleeps, and closes it in the end. All
 *          other calls come from the engine's thread (one at a time)
 * memory   a struct kve_xfer is the caller's and must live until its done is set, or kve_link_close
 * time     calls that wait take a deadline. Events are taken by the calls here: whoever waits
 *          polls kve_link_notify_fd()
 */
#ifndef KVE_LINK_H
#define KVE_LINK_H

#include "../../kvwire/node.h"
#include "../../kvwire/wire.h"
#include "worker.h"

struct kve_link; /* opaque */

typedef enum kve_link_state {
    KVE_LINK_STARTING = 1, /* the transport opens -> WAITING or FAILED */
    KVE_LINK_WAITING,      /* open, no peer now -> UP or FAILED */
    KVE_LINK_UP,           /* a peer is there and has the same model -> WAITING when it is lost */
    KVE_LINK_FAILED,       /* the transport can't be opened, or the peer will never fit; for good */
} kve_link_state;

#define KVE_PEERS_MAX 64u /* that are up at once; further ones are not seen */

struct kve_link_config {
    const char *name; /* of this side, for its peers; NULL: the role's */
    const char *net;  /* see kvw_node_config.transport and local; strings are copied */
    const char *local;
    const char *peer;  /* whom to dial, several with commas between them (of "udp"), and one behind
                          them if this side listens, too. NULL: the link's only peer; who isn't the
                          sender dials nobody then */
    const char *fault; /* may be NULL */
    const char *trace; /* NULL, or a folder: prefill.jsonl or decode.jsonl there is the node's
                                 kv_trace, and ROLE.packets.jsonl its trace */
    const char *cpus;  /* where the node's thread may run (cpus.h); NULL: anywhere */
    bool busy_poll;    /* as kvw_node_config.busy_poll */
    uint64_t open_timeout_ns; /* for the transport to open, and then for the first peer to come up;
                                 past it the link is FAILED */
    bool sender;              /* prefill: dials, sends; else decode: listens, receives */
    uint8_t fingerprint[16];  /* of the weights */
    const char *model_name;
    struct kvw_pool pool;                    /* its memory is borrowed until close */
    const struct kvw_gpu_plugin *gpu_plugin; /* of a pool in a GPU's memory, else NULL: these are
                                                kvw_node_config's */
    struct kvw_gpu *gpu;
    void *stream;  /* on which the model runs there (kve_run_stream()) */
    uint8_t codec; /* as kvw_node_config's, and so is the next */
    uint32_t encoders;
};

/* Blocks of one sequence, in token order. */
struct kve_blocks {
    const uint32_t *ids; /* of the pool; copied */
    uint32_t count;
    uint32_t tokens; /* of the whole sequence */
    uint32_t there;  /* of an offer: so many whole blocks' tokens aren't lacking */
};

/* What the link knows of one transfer; written by the calls here. */
struct kve_xfer {
    uint64_t id;
    char with[KVE_WORKER_NAME]; /* the peer's name; "": who came last */
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
    /* receiver on a GPU: so many layers have come, and the GPU is at them; the note is here */
    uint32_t layers_came;
    bool committed;
    /* the link's own */
    kvw_xfer_ref ref;
    kvw_peer_id peer;
    bool lost; /* its peer has gone */
    struct kve_xfer *next;
};

/* KVW_E_NOMEM, KVW_E_IO, KVW_E_INVALID (cpus). The transport opens in a thread: ask
 * kve_link_state_now(). */
KVW_NODISCARD kvw_err kve_link_open(struct kve_link **link, const struct kve_link_config *cfg);
/* Ends what is open, closes the node. Takes NULL. A device that won't close in 3 s is left behind
 * and false is returned: the process should then _exit. */
bool kve_link_close(struct kve_link *link);

/* text (KVW_TEXT_BYTES_MAX + 1 bytes, may be NULL): the reason of FAILED, or of the last loss. */
kve_link_state kve_link_state_now(struct kve_link *link, char *text);
/* How many peers have come up so far: tells a new one from the old when nobody looked
 * in between. */
uint32_t kve_link_peers(struct kve_link *link);
/* The name of the i-th peer that is up now, oldest first; NULL: there are no more. */
const char *kve_link_peer(struct kve_link *link, uint32_t i);
/* How often a peer has come or gone so far. */
uint32_t kve_link_turns(struct kve_link *link);
/* What the wire to x's peer is taken for, in MB/s; 0: not known. */
uint32_t kve_link_mbps(struct kve_link *link, const struct kve_xfer *x);
/* The error that led to FAILED or to the last loss of the peer. */
kvw_err kve_link_error(struct kve_link *link);
/* Readable when kve_link_state_now() has something new to see, of the state or of a transfer; that
 * call makes it unreadable again. */
int kve_link_notify_fd(const struct kve_link *link);

/* As kvw_node_offer and kvw_node_stream, with the peer that x->with names. KVW_E_PEER_LOST: it
 * isn't up. On KVW_OK *x is the link's until x->done. x->id and x->with are set by the caller. */
KVW_NODISCARD kvw_err kve_link_offer(struct kve_link *link, struct kve_xfer *x,
                                     const struct kve_blocks *blocks,
                                     const struct kvw_offer_terms *terms);
KVW_NODISCARD kvw_err kve_link_stream(struct kve_link *link, struct kve_xfer *x,
                                      const struct kve_blocks *blocks, uint64_t offer_by_ns,
                                      uint64_t deadline_ns);
/* Drop a mark and go on. A transfer that has ended swallows it. On a GPU the layer is computed when
 * what is on the stream now has ended. */
void kve_link_push(struct kve_link *link, struct kve_xfer *x, uint32_t layer, uint32_t tokens);
void kve_link_commit(struct kve_link *link, struct kve_xfer *x, const void *note,
                     uint32_t note_bytes);
void kve_link_abort(struct kve_link *link, struct kve_xfer *x, const char *reason);

/* This side takes no part in a transfer that isn't open here: the other side's (with: as x->with)
 * part ends with the reason (KVW_E_NOBLOCKS, any other err as KVW_E_CANCELED). */
void kve_link_decline(struct kve_link *link, const char *with, uint64_t id, kvw_err err,
                      const char *reason);

/*
 * Receiver on a GPU: what is put on the stream from now on comes when this layer is in its blocks;
 * whether its bytes are right is known when the transfer has ended. Nobody waits but the GPU. A
 * transfer that has ended well has put all its layers there.
 *   KVW_E_AGAIN  the layer hasn't come yet (layers_came); KVW_E_PEER_LOST and others: why it ended
 */
KVW_NODISCARD kvw_err kve_link_layer_wait(struct kve_link *link, struct kve_xfer *x,
                                          uint32_t layer);

/* Has it ended? A cheap look that never waits for the node's thread. */
bool kve_link_done(struct kve_link *link, const struct kve_xfer *x);
/* Wait until x->done or until_ns; true if done. */
bool kve_link_wait(struct kve_link *link, const struct kve_xfer *x, uint64_t until_ns);

#endif
