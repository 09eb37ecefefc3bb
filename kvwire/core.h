/* SPDX-License-Identifier: Apache-2.0 */
/*
 * core.h - many peers, any state: kvwire for those who bring their own transports and their own
 * loop. node.h is the same with threads, a descriptor and transports by name.
 *
 * A core is one process's end of all its transfers. Peers are other cores; either side dials,
 * either side may send. The receiver (decode) offers blocks under a key; the sender (prefill) opens
 * a stream under the same key and pushes each layer when it is computed; commit ends it.
 *
 *     receiver                                       sender
 *     kvw_core_pool_add(pool)                        kvw_core_pool_add(pool)
 *     kvw_core_offer(key, from peer, blocks)         kvw_core_stream(key, blocks)     in either
 *     order
 *                                                    kvw_core_push(x, layer 0, tokens) ...
 *     event LAYER_READY(layer 0) ...                 event LAYER_SENT(layer 0) ...
 *                                                    kvw_core_commit(x, note)
 *     event XFER_DONE(KVW_OK, note)                  event XFER_DONE(KVW_OK)
 *
 * The loop:
 *
 *     for (;;) {
 *         while (kvw_core_poll(core, now())) {}
 *         while (kvw_core_next_event(core, &ev)) handle(&ev);
 *         transport->ops->wait(transport, kvw_core_deadline_ns(core), wake_fd);
 *     }
 *
 * threads  a core is used by one thread at a time; two cores share nothing
 * memory   taken in open, pool_add, peer_add, offer and stream; nothing between them. What poll
 *          needs was taken before
 * time     monotonic nanoseconds handed in by the caller; no clock is read here
 * I/O      only through the transports; nothing is logged, reasons travel in events
 */
#ifndef KVW_CORE_H
#define KVW_CORE_H

#include <stdbool.h>

#include "codec.h"
#include "core_batch.h"
#include "core_stage.h"
#include "core_types.h"
#include "err.h"
#include "pool.h"
#include "trace.h"
#include "transport.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kvw_core; /* opaque */
struct kvw_gpu;
struct kvw_gpu_plugin; /* gpu.h */

/* XXH3-128 of text, little-endian. */
KVW_API kvw_key kvw_key_of(const char *text);

#define KVW_CORE_PATHS_MAX 4u

/* A transport that peers may be reached by. */
struct kvw_core_path {
    const char *name;                /* "udp", "dpdk" ...; for texts; copied */
    struct kvw_transport *transport; /* borrowed until close; the core alone calls it */
    uint32_t listen;                 /* 1: peers may come this way */
    uint32_t reserved;               /* 0 */
};

struct kvw_core_config {
    uint32_t size;       /* sizeof(struct kvw_core_config); a shorter one is filled with zeros */
    uint32_t path_count; /* 1 .. KVW_CORE_PATHS_MAX */
    const struct kvw_core_path *paths;
    uint64_t instance; /* random, not 0: tells a restart from another node */
    const char *name;  /* of this node, for the peers' messages; <= KVW_NAME_MAX bytes kept */

    const struct kvw_codec_ops *const *codecs; /* NULL-terminated, best first; must contain raw */
    uint32_t codec;    /* kvw_codec_id to use wherever peer, dtype and budget allow it; 0: choose */
    uint32_t encoders; /* threads that en- and decode, 0: inside poll; <= KVW_ENCODERS_MAX */
    uint64_t (*clock)(void *arg); /* durations of encoding and decoding only; NULL: not measured */
    void (*wake)(void *arg);      /* called from encoders' threads: poll again. NULL: poll often */
    void *arg;                    /* of clock and wake */

    uint32_t chunk_raw_bytes; /* aim, 0: KVW_CHUNK_RAW_AIM */
    uint32_t slots;           /* landing slots, shared by all peers, 0: 64; 1 .. 4096 */
    uint32_t stages;          /* staging slots, shared by all peers, 0: 64; 1 .. 4096 */
    uint32_t peers_max;       /* 0: 1024; <= 65536 */
    uint32_t xfers_max;       /* open, or ended and their event not yet taken, 0: 256; <= 65536 */
    uint32_t dead_ms;  /* told to peers: silence after which this side gives one up; 0: 1000 */
    uint32_t reserved; /* 0 */
    /* Told what happens to each chunk (trace.h); borrows *ev until it returns, must not call the
     * core. NULL: nobody listens. */
    void (*trace)(void *arg, const struct kvw_trace_event *ev);
    void *trace_arg;
    /* A GPU that codes what lies in its memory: pools of KVW_MEM_CUDA may be added then, and only
     * codecs that it takes are used with any peer. Opened by the caller, and borrowed until close.
     * NULL, both: none. */
    const struct kvw_gpu_plugin *gpu_plugin;
    struct kvw_gpu *gpu;
    char *gpu_why; /* KVW_GPU_TEXT bytes, for a sentence where the GPU makes open fail; NULL */
    uint64_t stage_bytes; /* staging memory for kvw_core_stage(), 0: none. Taken in open, touched as
                             it is used */
    uint32_t no_twins;    /* 1: what lies in the GPU's memory goes through the transport to every
                              peer. 0: kernels write it into the memory of a peer's GPU, if that is
                              on this host and shares it (kvw_peer_info.twins) */
    uint32_t unused;      /* 0 */
};

/*
 * Open a core and begin to listen on the paths that say so.
 *   KVW_E_INVALID  a field of *cfg is out of range; *field names it if field isn't NULL
 *   KVW_E_NOMEM
 *   other          what a transport's listen or region_add said, or the GPU
 * On an error nothing is kept and *core is untouched.
 */
KVW_API KVW_NODISCARD kvw_err kvw_core_open(struct kvw_core **core,
                                            const struct kvw_core_config *cfg, uint64_t now_ns,
                                            const char **field);

/* Aborts what is open (no events come out any more), says good-bye, gives everything back. The
 * transports stay the caller's. Takes NULL. */
KVW_API void kvw_core_close(struct kvw_core *core, uint64_t now_ns);

/*
 * Make progress: receive, check, decode, scatter, gather, encode, transmit, expire. Bounded work
 * per call; true: more could be done at once, so call again before waiting. Take events in between:
 * with a full event queue it stands still and returns false. Costs nothing for idle peers.
 */
KVW_API bool kvw_core_poll(struct kvw_core *core, uint64_t now_ns);

/* When poll must run again even if nothing arrives; 0: now; UINT64_MAX: never. Known at once after
 * every other call: work that a call queued never waits for a timer. */
KVW_API uint64_t kvw_core_deadline_ns(const struct kvw_core *core);

/* --- events ----------------------------------------------------------------------------------- */

/* Take the next event. The queue can't overflow: poll does less while it is full. False: none. */
KVW_API bool kvw_core_next_event(struct kvw_core *core, struct kvw_core_event *ev);

/* --- peers ------------------------------------------------------------------------------------ */

/*
 * A peer that this side shall reach at address by paths[path], and keep reaching: it is dialled at
 * once and again when it is lost, until dropped. address NULL: the link's only peer. Returns at
 * once; PEER_UP follows, or PEER_LOST with the reason, and again whenever a try fails for another
 * reason than the last.
 *   KVW_E_INVALID  path, or an address longer than 255 bytes
 *   KVW_E_ADDRESS  the transport can't parse it
 *   KVW_E_AGAIN    peers_max are known
 */
KVW_API KVW_NODISCARD kvw_err kvw_core_peer_add(struct kvw_core *core, uint32_t path,
                                                const char *address, uint64_t now_ns,
                                                kvw_peer_id *peer);

/* Forget a peer: its transfers end (KVW_E_CANCELED), its connection too, and it isn't dialled any
 * more. KVW_E_NOTFOUND. */
KVW_API KVW_NODISCARD kvw_err kvw_core_peer_drop(struct kvw_core *core, kvw_peer_id peer,
                                                 uint64_t now_ns);

/*
 * Can this pool's state and the peer's be exchanged: are the weights the same, and all that both
 * have under one name the same thing? Sizes of blocks, strides and who holds what don't matter.
 *   KVW_E_AGAIN     it has told no pool yet (PEER_POOL says when); not up
 *   KVW_E_MISMATCH  no pool of its fits; why names a field and both values
 *   KVW_E_NOTFOUND  peer or pool
 */
KVW_API KVW_NODISCARD kvw_err kvw_core_peer_fits(const struct kvw_core *core, kvw_peer_id peer,
                                                 kvw_pool_id pool, char *why, size_t why_bytes);

/* Who the peer is and how it stands, into *info. KVW_E_NOTFOUND: no such peer. */
KVW_API KVW_NODISCARD kvw_err kvw_core_peer_info(const struct kvw_core *core, kvw_peer_id peer,
                                                 struct kvw_peer_info *info);

/* --- pools ------------------------------------------------------------------------------------ */

/*
 * Make a pool known: peers are told its shape, offers and streams name it. *desc is copied, with
 * everything it points to but the memory itself, which stays borrowed until remove.
 *   KVW_E_INVALID  *field names what is wrong ("groups[0].parts[1].planes[3]: ends beyond mems")
 *   KVW_E_NOMEM, KVW_E_AGAIN (KVW_POOLS_MAX are known)
 */
KVW_API KVW_NODISCARD kvw_err kvw_core_pool_add(struct kvw_core *core,
                                                const struct kvw_pool_desc *desc, kvw_pool_id *pool,
                                                char *why, size_t why_bytes);
/* Its transfers end (KVW_E_CANCELED). No byte of it is touched after remove returns.
 * KVW_E_NOTFOUND. */
KVW_API KVW_NODISCARD kvw_err kvw_core_pool_remove(struct kvw_core *core, kvw_pool_id pool,
                                                   uint64_t now_ns);

/* --- transfers -------------------------------------------------------------------------------- */

/*
 * Receiver: lend blocks to a transfer. They are the core's until XFER_DONE; nothing else may write
 * them. With several sources each is asked for the rows and layers that it alone holds; of what
 * several hold, each is asked for a share.
 *   KVW_E_INVALID   a field; the key is offered already
 *   KVW_E_NOTFOUND  pool or peer
 *   KVW_E_MISMATCH  the sources' pools can't fill what is wanted; why names the first field. (A
 *                   source that isn't up is checked when it comes)
 *   KVW_E_AGAIN     xfers_max
 * A pull also: KVW_E_FORMAT (staged[i] is no reference), KVW_E_NOTFOUND (of another life of that
 * node), KVW_E_UNSUPPORTED (the peer doesn't stage). A peer that isn't up is checked when it comes.
 */
KVW_API KVW_NODISCARD kvw_err kvw_core_offer(struct kvw_core *core,
                                             const struct kvw_offer_args *args, uint64_t now_ns,
                                             kvw_xfer_ref *xfer, char *why, size_t why_bytes);

/*
 * Sender: open the stream that fills the offers of that key. Blocks stay borrowed (read) until
 * XFER_DONE. A key that ended here or there a short while ago ends again at once, with the reason.
 *   KVW_E_INVALID (codec: none of the core's), KVW_E_NOTFOUND (pool), KVW_E_AGAIN (xfers_max)
 */
KVW_API KVW_NODISCARD kvw_err kvw_core_stream(struct kvw_core *core,
                                              const struct kvw_stream_args *args, uint64_t now_ns,
                                              kvw_xfer_ref *xfer, char *why, size_t why_bytes);

/*
 * Sender: tokens 0 .. tokens-1 of this layer (the model's number) are computed in every group it is
 * in; of a ROW group, its row is final once tokens is the whole sequence. ready may be NULL: now.
 * Repeating or lowering does nothing.
 *   KVW_E_INVALID (layer, tokens), KVW_E_NOTFOUND (ended), KVW_E_AGAIN (marks pending)
 */
KVW_API KVW_NODISCARD kvw_err kvw_core_push(struct kvw_core *core, kvw_xfer_ref xfer,
                                            uint32_t layer, uint32_t tokens,
                                            const struct kvw_ready *ready);

/*
 * The same for a pool in a GPU's memory: the layer is computed when what is on the stream (a
 * CUstream of its context) now has ended. Nobody waits for that but the GPU: the chunks are cut and
 * their jobs launched behind it.
 *   as kvw_core_push(); KVW_E_UNSUPPORTED (the pool isn't a GPU's), KVW_E_DEVICE (the driver
 *   failed)
 */
KVW_API KVW_NODISCARD kvw_err kvw_core_push_after(struct kvw_core *core, kvw_xfer_ref xfer,
                                                  uint32_t layer, uint32_t tokens, void *stream);

/*
 * Sender: entries first .. first+count-1 of the table of one group are these blocks, as an engine
 * learns them while it computes: give any ids to kvw_core_stream() for blocks that aren't
 * allocated yet, and the right ones here before a token in them is pushed.
 *   KVW_E_INVALID  group, range or ids; a token in them has been pushed; the transfer is an offer
 *   KVW_E_NOTFOUND (ended)
 */
KVW_API KVW_NODISCARD kvw_err kvw_core_stream_blocks(struct kvw_core *core, kvw_xfer_ref xfer,
                                                     uint32_t group, uint32_t first,
                                                     const uint32_t *ids, uint32_t count);

/* Sender: everything has been pushed. note (<= KVW_COMMIT_NOTE_MAX bytes, copied; may be NULL)
 * rides
 * along. KVW_E_INVALID (a layer isn't pushed in full, note, committed before), KVW_E_NOTFOUND. */
KVW_API KVW_NODISCARD kvw_err kvw_core_commit(struct kvw_core *core, kvw_xfer_ref xfer,
                                              const void *note, uint32_t note_bytes);

/* Either side: end a transfer (KVW_E_CANCELED), here and there, with the same reason (a sentence;
 * NULL: none). KVW_E_NOTFOUND. */
KVW_API KVW_NODISCARD kvw_err kvw_core_abort(struct kvw_core *core, kvw_xfer_ref xfer,
                                             const char *reason);

/* Either side: nothing is or will be open here for this key; whoever waits for it at that peer
 * learns so within a round trip. KVW_E_NOTFOUND (peer), KVW_E_AGAIN (too many at once). */
KVW_API KVW_NODISCARD kvw_err kvw_core_refuse(struct kvw_core *core, kvw_peer_id peer, kvw_key key,
                                              kvw_err err, const char *reason);

/* Receiver: is this layer in place? False for an unknown transfer. */
KVW_API bool kvw_core_layer_ready(const struct kvw_core *core, kvw_xfer_ref xfer, uint32_t layer);

/*
 * Receiver, a pool in a GPU's memory: what is put on the stream (a CUstream of its context) from
 * now on begins when this layer is in the offered blocks, if its bytes are right; whether they are,
 * LAYER_READY says, or XFER_DONE. From LAYER_CAME on; nobody waits but the GPU.
 *   KVW_E_AGAIN        not all of it has come
 *   KVW_E_NOTFOUND     ended, and its XFER_DONE was taken; or a stream
 *   KVW_E_INVALID      layer
 *   KVW_E_UNSUPPORTED  the pool isn't a GPU's
 *   KVW_E_DEVICE       the driver failed
 */
KVW_API KVW_NODISCARD kvw_err kvw_core_layer_wait(struct kvw_core *core, kvw_xfer_ref xfer,
                                                  uint32_t layer, void *stream);

/*
 * Receiver, after XFER_DONE with an error was taken and until the next event is: the blocks of one
 * group that aren't whole, into ids (room for max). Returns how many there are.
 */
KVW_API uint32_t kvw_core_bad_blocks(const struct kvw_core *core, kvw_xfer_ref xfer, uint32_t group,
                                     uint32_t *ids, uint32_t max);

/* The figures of now; stats->size is set by the caller, and no more than that is written. */
KVW_API void kvw_core_stats(const struct kvw_core *core, struct kvw_core_stats *stats);

#ifdef __cplusplus
}
#endif
#endif
