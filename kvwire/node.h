/* SPDX-License-Identifier: Apache-2.0 */
/*
 * node.h - a process's end of all its KV transfers: a core (core.h) with a thread of its own, a
 * transport opened by name, and one descriptor for an event loop.
 *
 *     struct kvw_node_config cfg = {.size = sizeof(cfg), .name = "decode 3",
 *                                   .transport = "udp", .local = "0.0.0.0:7400", .listen = 1};
 *     kvw_node_open(&node, &cfg, why, sizeof(why));
 *     kvw_node_pool_add(node, &desc, &pool, why, sizeof(why));
 *     ... kvw_node_offer() or kvw_node_stream(), kvw_node_push(), kvw_node_commit() ...
 *     epoll waits for kvw_node_fd(node), then:
 *     while (kvw_node_next_event(node, &ev)) handle(&ev);
 *
 * An application with a loop of its own and no thread to spare opens the node app-driven, and calls
 * kvw_node_poll() before it takes events. It may be away for half of dead_ms: later its peers take
 * it for dead. All else is the same.
 *
 * threads  every call may come from any thread, at the same time; the node's own thread does the
 *          work, or who calls kvw_node_poll(). A call waits at most for what that thread does
 *          between two looks at its mutex, a few chunks' copying; kvw_node_push() and
 *          kvw_node_try_event() don't wait
 * memory   taken by the calls that say so; struct arguments are read during the call only
 * time     CLOCK_MONOTONIC nanoseconds. The node's thread sleeps while nothing is to be done
 * fork     a child must not use its copy of a node, but may close it: that does nothing
 *
 * All kvw_core_* calls' words on arguments, return codes and ownership hold here.
 */
#ifndef KVW_NODE_H
#define KVW_NODE_H

#include "core.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kvw_node; /* opaque */

/* A further transport, by which other peers may be reached; its fields are kvw_node_config's. */
struct kvw_node_path {
    const char *transport, *local, *advertise, *peer;
    uint32_t listen;
    uint32_t reserved; /* 0 */
};

struct kvw_node_config {
    uint32_t size;         /* sizeof(struct kvw_node_config); a shorter one is filled with zeros */
    uint32_t listen;       /* 1: peers may come */
    const char *name;      /* of this node, for its peers' messages; <= KVW_NAME_MAX bytes kept */
    const char *transport; /* "udp", "dpdk", "verbs", "loop": kvw_features() has those built in */
    const char *local;     /* where this side is, in the transport's syntax: "ADDR:PORT" for udp;
                              port 0: any, kvw_node_address() says which */
    const char *advertise; /* how peers reach it, for the blob; NULL: local */
    const char *fault;     /* NULL, or faults to inject, for tests: "loss=0.05,seed=7" */
    const char *trace;     /* NULL, or a file for what every packet does */
    uint64_t open_by_ns;   /* when the transport must be open, absolute; 0: in 10 s */
    uint64_t instance;     /* 0: random */
    uint32_t busy_poll;    /* 1: the thread never sleeps, for a core that has nothing else to do */
    uint32_t codec;        /* as in kvw_core_config, and so are those below */
    uint32_t encoders;
    uint32_t chunk_raw_bytes;
    uint32_t slots;
    uint32_t stages;
    uint32_t peers_max;
    uint32_t xfers_max;
    uint32_t dead_ms;
    uint32_t cpus_bytes; /* sizeof *cpus; 0 if it is NULL */
    const void *cpus; /* a cpu_set_t: where the node's thread may run; NULL: where the caller may.
                            What the node starts beside it, encoders and a transport's own threads,
                            runs where the caller may */
    const char *peer; /* NULL, or whom this side will add first: a transport that must ask the
                            way (dpdk on a NIC: ARP) asks in open, and says if nobody answers */
    const char *kv_trace; /* NULL, or a file for what happens to every chunk (trace.h) */
    const struct kvw_gpu_plugin *gpu_plugin; /* as in kvw_core_config */
    struct kvw_gpu *gpu;
    uint64_t stage_bytes;             /* staging memory for kvw_node_stage(), 0: none */
    const struct kvw_node_path *more; /* further transports; path 0 is the one above */
    uint32_t more_count;              /* 0 .. KVW_CORE_PATHS_MAX - 1 */
    uint32_t more_bytes;              /* sizeof(struct kvw_node_path); 0 if there is none */
    uint32_t
        app_driven;    /* 1: no thread; work is done in kvw_node_poll() alone. Not with busy_poll */
    uint32_t reserved; /* 0 */
    uint32_t no_twins; /* as in kvw_core_config */
    uint32_t unused;   /* 0 */
};

/*
 * Open a node. why (may be NULL): a sentence, on an error the reason, else what the transport says
 * about itself, or empty.
 *   KVW_E_INVALID      a field of *cfg; why names it
 *   KVW_E_UNSUPPORTED  no such transport in this build; why lists those there are
 *   KVW_E_ADDRESS, KVW_E_DEVICE, KVW_E_DEADLINE, KVW_E_NOMEM, KVW_E_IO
 */
KVW_API KVW_NODISCARD kvw_err kvw_node_open(struct kvw_node **node,
                                            const struct kvw_node_config *cfg, char *why,
                                            size_t why_bytes);
/* Ends what is open without events, says good-bye to peers, joins the thread. Takes NULL. No other
 * call may be under way. */
KVW_API void kvw_node_close(struct kvw_node *node);

/* A descriptor that is readable while events wait; app-driven, also while kvw_node_poll() is to be
 * called: for input of all transports, timers, and what calls have queued. It is the node's: don't
 * read, write or close it. */
KVW_API int kvw_node_fd(const struct kvw_node *node);
/* App-driven: do what is due, a bounded part of it if that is much (the descriptor stays readable
 * then). True: events wait. With a thread of its own a node has nothing to be done. */
KVW_API bool kvw_node_poll(struct kvw_node *node);
/* Take the next event; false: none waits. ev->size is set by the caller. */
KVW_API bool kvw_node_next_event(struct kvw_node *node, struct kvw_core_event *ev);
/* The same for a thread that has better to do than to wait: false, too, while the node works. */
KVW_API bool kvw_node_try_event(struct kvw_node *node, struct kvw_core_event *ev);
/* Wait for an event until until_ns (CLOCK_MONOTONIC; 0: don't wait, UINT64_MAX: for ever). True:
 * one waits. App-driven: polls meanwhile. */
KVW_API bool kvw_node_wait(struct kvw_node *node, uint64_t until_ns);
/* CLOCK_MONOTONIC now, as all absolute times here. */
KVW_API uint64_t kvw_now_ns(void);

/*
 * How others reach this node, as bytes for a handshake of yours (kv_transfer_params, etcd ...).
 * *bytes: in: room; out: length. KVW_E_TRUNCATED: not enough room, *bytes says how much is needed.
 */
KVW_API KVW_NODISCARD kvw_err kvw_node_blob(const struct kvw_node *node, void *blob,
                                            uint32_t *bytes);
/*
 * Where this node is, as text ended by 0: `advertise`, or `local` with the port that was bound in
 * place of port 0; of its first transport. *bytes as above. KVW_E_TRUNCATED: not enough room.
 */
KVW_API KVW_NODISCARD kvw_err kvw_node_address(const struct kvw_node *node, char *text,
                                               uint32_t *bytes);
/* The same of path `path`, 0: the first transport, 1: more[0] ... KVW_E_INVALID: it has none. */
KVW_API KVW_NODISCARD kvw_err kvw_node_path_address(const struct kvw_node *node, uint32_t path,
                                                    char *text, uint32_t *bytes);
/*
 * Know and dial the node that a blob is from, by the first of this node's transports that it has
 * too. Returns at once; PEER_UP follows, or PEER_LOST.
 *   KVW_E_FORMAT       not a blob, or one of a later format
 *   KVW_E_UNSUPPORTED  none of its transports is this node's
 *   and kvw_core_peer_add()'s
 */
KVW_API KVW_NODISCARD kvw_err kvw_node_peer_blob(struct kvw_node *node, const void *blob,
                                                 uint32_t bytes, kvw_peer_id *peer);
/* The same by an address in the first transport's syntax; NULL: the link's only peer. */
KVW_API KVW_NODISCARD kvw_err kvw_node_peer_add(struct kvw_node *node, const char *address,
                                                kvw_peer_id *peer);
/* The same by path `path`. */
KVW_API KVW_NODISCARD kvw_err kvw_node_peer_add_by(struct kvw_node *node, uint32_t path,
                                                   const char *address, kvw_peer_id *peer);
KVW_API KVW_NODISCARD kvw_err kvw_node_peer_drop(struct kvw_node *node, kvw_peer_id peer);
KVW_API KVW_NODISCARD kvw_err kvw_node_peer_info(struct kvw_node *node, kvw_peer_id peer,
                                                 struct kvw_peer_info *info);
KVW_API KVW_NODISCARD kvw_err kvw_node_peer_fits(struct kvw_node *node, kvw_peer_id peer,
                                                 kvw_pool_id pool, char *why, size_t why_bytes);

KVW_API KVW_NODISCARD kvw_err kvw_node_pool_add(struct kvw_node *node,
                                                const struct kvw_pool_desc *desc, kvw_pool_id *pool,
                                                char *why, size_t why_bytes);
KVW_API KVW_NODISCARD kvw_err kvw_node_pool_remove(struct kvw_node *node, kvw_pool_id pool);

KVW_API KVW_NODISCARD kvw_err kvw_node_offer(struct kvw_node *node,
                                             const struct kvw_offer_args *args, kvw_xfer_ref *xfer,
                                             char *why, size_t why_bytes);
KVW_API KVW_NODISCARD kvw_err kvw_node_stream(struct kvw_node *node,
                                              const struct kvw_stream_args *args,
                                              kvw_xfer_ref *xfer, char *why, size_t why_bytes);
/*
 * Never waits for the node's thread, unless there is a ready->query (called from that thread) or a
 * few hundred pushes lie there unread. While that thread is at work a push is left for it, and
 * KVW_OK is returned: what is wrong with it then ends the transfer (KVW_E_CANCELED, a sentence).
 */
KVW_API KVW_NODISCARD kvw_err kvw_node_push(struct kvw_node *node, kvw_xfer_ref xfer,
                                            uint32_t layer, uint32_t tokens,
                                            const struct kvw_ready *ready);
/* Waits for the node's thread as other calls do: the stream's place is what counts. */
KVW_API KVW_NODISCARD kvw_err kvw_node_push_after(struct kvw_node *node, kvw_xfer_ref xfer,
                                                  uint32_t layer, uint32_t tokens, void *stream);
KVW_API KVW_NODISCARD kvw_err kvw_node_stream_blocks(struct kvw_node *node, kvw_xfer_ref xfer,
                                                     uint32_t group, uint32_t first,
                                                     const uint32_t *ids, uint32_t count);
KVW_API KVW_NODISCARD kvw_err kvw_node_commit(struct kvw_node *node, kvw_xfer_ref xfer,
                                              const void *note, uint32_t note_bytes);
KVW_API KVW_NODISCARD kvw_err kvw_node_abort(struct kvw_node *node, kvw_xfer_ref xfer,
                                             const char *reason);
KVW_API KVW_NODISCARD kvw_err kvw_node_refuse(struct kvw_node *node, kvw_peer_id peer, kvw_key key,
                                              kvw_err err, const char *reason);
/* Serial mode: prefill stages, decode pulls later by *args->ref. Pushes, commit as for a stream. */
KVW_API KVW_NODISCARD kvw_err kvw_node_stage(struct kvw_node *node,
                                             const struct kvw_stage_args *args, kvw_xfer_ref *xfer,
                                             char *why, size_t why_bytes);
KVW_API KVW_NODISCARD kvw_err kvw_node_stage_drop(struct kvw_node *node,
                                                  const struct kvw_stage_ref *ref);
KVW_API bool kvw_node_layer_ready(struct kvw_node *node, kvw_xfer_ref xfer, uint32_t layer);
KVW_API KVW_NODISCARD kvw_err kvw_node_layer_wait(struct kvw_node *node, kvw_xfer_ref xfer,
                                                  uint32_t layer, void *stream);
/* After its XFER_DONE was taken and until the next event is. */
KVW_API uint32_t kvw_node_bad_blocks(struct kvw_node *node, kvw_xfer_ref xfer, uint32_t group,
                                     uint32_t *ids, uint32_t max);

/* --- regions, batches, notifications ----------------------------------------------------------
 *
 *     struct kvw_mem mem = {.base = buffer, .bytes = bytes, .kind = KVW_MEM_HOST, .dmabuf_fd = -1};
 *     struct kvw_region_args r = {.size = sizeof(r), .rights = KVW_REGION_READ | KVW_REGION_WRITE,
 *                                 .mem = &mem, .mem_bytes = sizeof(mem)};
 *     kvw_node_region_add(node, &r, &region, why, sizeof(why));
 *
 *     struct kvw_batch_piece pieces[] = {{.local = mine, .remote = theirs, .bytes = 4096}, ...};
 *     struct kvw_batch_args b = {.size = sizeof(b), .op = KVW_BATCH_WRITE, .peer = peer,
 *                                .piece_count = n, .pieces = pieces,
 *                                .piece_bytes = sizeof(pieces[0])};
 *     kvw_node_batch_make(node, &b, &batch, why, sizeof(why));
 *     kvw_node_batch_post(node, batch, NULL, why, sizeof(why));
 *     ... event BATCH_DONE, or kvw_node_batch_wait() ...
 *     kvw_node_batch_release(node, batch);
 */

KVW_API KVW_NODISCARD kvw_err kvw_node_region_add(struct kvw_node *node,
                                                  const struct kvw_region_args *args,
                                                  kvw_region_id *region, char *why,
                                                  size_t why_bytes);
KVW_API KVW_NODISCARD kvw_err kvw_node_region_remove(struct kvw_node *node, kvw_region_id region);
KVW_API KVW_NODISCARD kvw_err kvw_node_peer_region(struct kvw_node *node, kvw_peer_id peer,
                                                   uint32_t at, struct kvw_region_info *info);
KVW_API KVW_NODISCARD kvw_err kvw_node_batch_make(struct kvw_node *node,
                                                  const struct kvw_batch_args *args,
                                                  kvw_batch_id *batch, char *why, size_t why_bytes);
KVW_API KVW_NODISCARD kvw_err kvw_node_batch_post(struct kvw_node *node, kvw_batch_id batch,
                                                  const struct kvw_post_args *args, char *why,
                                                  size_t why_bytes);
KVW_API KVW_NODISCARD kvw_err kvw_node_batch_status(struct kvw_node *node, kvw_batch_id batch,
                                                    struct kvw_batch_status *status);
/*
 * Wait until the latest post of a batch has ended, at most until until_ns (CLOCK_MONOTONIC;
 * UINT64_MAX: for ever), without taking events: for callers on many threads, with quiet posts.
 * Returns how the post ended (KVW_OK, or its error), or
 *   KVW_E_AGAIN     until_ns has come; the post goes on
 *   KVW_E_NOTFOUND  no such batch, or it was released meanwhile
 *   KVW_E_INVALID   it was never posted
 * status (may be NULL; its size is set by the caller) tells a post's own error from these.
 */
KVW_API KVW_NODISCARD kvw_err kvw_node_batch_wait(struct kvw_node *node, kvw_batch_id batch,
                                                  uint64_t until_ns,
                                                  struct kvw_batch_status *status);
KVW_API KVW_NODISCARD kvw_err kvw_node_batch_release(struct kvw_node *node, kvw_batch_id batch);
KVW_API KVW_NODISCARD kvw_err kvw_node_notify(struct kvw_node *node, kvw_peer_id peer,
                                              const void *note, uint32_t note_bytes);

KVW_API void kvw_node_stats(struct kvw_node *node, struct kvw_core_stats *stats);
/*
 * All figures as Prometheus text (exposition format 0.0.4), ended by 0. Returns its length without
 * the 0; if that is text_bytes or more, it was cut: come again with more room.
 */
KVW_API size_t kvw_node_metrics(struct kvw_node *node, char *text, size_t text_bytes);

/* The version of the library that runs, as in "0.1.0"; static. */
KVW_API const char *kvw_version(void);
/* What this library was built with: "transports: udp dpdk loop; codecs: l0 raw ..."; static. */
KVW_API const char *kvw_features(void);

/* --- what the library was built of
 * ----------------------------------------------------------------
 * The one place where transports and codecs come in; the build writes it (parts.c.in). A program
 * that links other parts, or its own, defines kvw_parts itself. */

struct kvw_open_args {
    const char *transport, *local, *peer, *fault, *trace;
    bool listen, busy_poll;
    uint64_t open_by_ns;
    uint32_t dead_ms;   /* silence after which a peer is given up; 0: KVW_PEER_DEAD_NS */
    uint32_t conns_max; /* connections at the same time; 0: what the transport takes */
};

struct kvw_parts {
    /* Errors and `why` (256 bytes) as kvw_node_open()'s. */
    kvw_err (*open)(struct kvw_transport **t, const struct kvw_open_args *args, char *why);
    const struct kvw_codec_ops *const *codecs; /* as in kvw_core_config */
    const char *features;
};

extern const struct kvw_parts kvw_parts;

#ifdef __cplusplus
}
#endif
#endif
