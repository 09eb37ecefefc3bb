/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transport.h - what kvwire/ asks of a network: connections that carry small ordered messages, and
 * one-sided puts that place bytes in memory the peer has registered. net/ implements it (loop, the
 * packet protocol over its ports, verbs). Every implementation passes tests/conformance unchanged.
 *
 * A user's loop, without the errors:
 *
 *     struct kvw_transport_event ev[16];
 *     for (;;) {
 *         uint32_t n = t->ops->poll(t, now_ns(), ev, 16);
 *         for (uint32_t i = 0; i < n; ++i)
 *             handle(&ev[i]); // may call send() and put()
 *         if (n < 16)
 *             t->ops->wait(t, t->ops->deadline_ns(t), wake_fd);
 *     }
 *
 * threads  a transport belongs to one thread, the one that opened it; every call comes from there.
 *          Two transports share nothing (the two ends of `loop` excepted, which lock). After fork()
 *          it is the parent's: in the child disconnect(), region_remove(), source_remove() and
 *          close() are silent and change nothing for the parent, and no other call may be made
 * memory   taken when it is opened, given back in close(); nothing in between
 * time     now_ns is the caller's monotonic clock; a transport reads no clock outside wait()
 *
 * The contract, by number; the conformance suite cites it:
 *  1. Messages of a connection arrive once, whole, in order. Puts arrive once, whole, in any order,
 *     also relative to messages.
 *  2. send() and put() never block. When the transport is full they return KVW_E_AGAIN and have
 *     taken nothing.
 *  3. The memory that a put's iov names stays borrowed until the put's PUT_DONE. send() copies the
 *     message.
 *  4. Every accepted put ends in exactly one PUT_DONE. KVW_OK says that the peer's memory holds all
 *     of the put, and that PUT_LANDED is due there. An error says that it never will. Puts in
 *     flight when a connection goes down end with KVW_E_PEER_LOST before CONN_DOWN is seen.
 *  5. A put outside a registered region, or outside the range that the receiver's gate allows,
 *     never touches memory. The connection ends with KVW_E_PROTOCOL on both sides.
 *  6. After region_remove() has returned, no byte of that region is written any more.
 *  7. Each connection ends in exactly one CONN_DOWN, unless this side called disconnect(). After
 *     CONN_DOWN the id is dead. Ids aren't reused within a transport's life.
 *  8. A peer that vanishes is noticed after dead_ns (KVW_PEER_DEAD_NS) of poll() calls. One that
 *     neither side has sent anything for some seconds may be noticed after twice that, or dead_ns
 *     after something is sent to it.
 *  9. wait() sleeps without burning a core. It returns early for input, for wake_fd and at the
 *     deadline. So does who arms the transport and sleeps on its fd().
 */
#ifndef KVW_TRANSPORT_H
#define KVW_TRANSPORT_H

#include <stdbool.h>

#include "mem.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kvw_transport_ops;

/* Every implementation's object starts with this. */
struct kvw_transport {
    const struct kvw_transport_ops *ops;
    bool one_host; /* Puts never leave this host: the "wire" is a copy by the very cores that
                      codecs would need, so raw is sent. Set by open, never changed. */
};

/* Never 0 for a live connection. */
typedef struct kvw_conn_id {
    uint32_t value;
} kvw_conn_id;

/*
 * How a peer names this side's region; travels in HELLO as opaque bytes (SPEC.md 3.1). For
 * packets a region number, for verbs address + rkey.
 */
#define KVW_REGION_KEY_BYTES 32
struct kvw_region_key {
    uint8_t bytes[KVW_REGION_KEY_BYTES];
};

struct kvw_iov {
    const void *base;
    uint32_t bytes;
};

#define KVW_PUT_IOV_MAX 4

/* One chunk on its way. Everything but the iov memory is copied by put(). */
struct kvw_put {
    struct kvw_region_key key; /* the peer's, from its HELLO */
    uint64_t offset;           /* in that region */
    struct kvw_iov
        iov[KVW_PUT_IOV_MAX]; /* gathered in order; 1 .. KVW_PUT_BYTES_MAX bytes in all */
    uint32_t iov_count;
    uint32_t imm;    /* delivered with PUT_LANDED; the chunk reference */
    uint64_t cookie; /* given back with PUT_DONE */
};

/*
 * Asked before the first byte of a put is placed (packet transports; verbs can't ask and relies on
 * rkeys): may the peer write [offset, offset + bytes) now? It is asked from any thread of the
 * transport's, several at once, beside the owner's own code: it reads what it shares by atomics,
 * takes no lock, and calls nothing of the transport. What it allows is allowed before the peer is
 * told of it.
 */
typedef bool (*kvw_put_gate)(void *arg, kvw_conn_id conn, uint64_t offset, uint32_t bytes,
                             uint32_t imm);

typedef enum kvw_transport_event_kind {
    KVW_TEV_CONN_UP = 1, /* either side; incoming tells which */
    KVW_TEV_CONN_DOWN,   /* err says why, text in a sentence */
    KVW_TEV_MESSAGE,     /* msg/bytes, valid until the next poll() */
    KVW_TEV_PUT_DONE,    /* cookie, err */
    KVW_TEV_PUT_LANDED,  /* offset, bytes, imm: the bytes are visible to this CPU */
} kvw_transport_event_kind;

struct kvw_transport_event {
    kvw_transport_event_kind kind;
    kvw_conn_id conn;
    kvw_err err;
    bool incoming;
    const void *msg;
    uint32_t bytes;
    uint32_t imm;
    uint64_t offset;
    uint64_t cookie;
    const char *text; /* static or valid until the next poll(); never NULL for CONN_DOWN */
};

/* All counters only grow; rates are the reader's. Zero where a transport has no such thing. */
struct kvw_transport_stats {
    uint64_t packets_sent, packets_received;
    uint64_t bytes_sent, bytes_received;         /* on the wire, UDP payload */
    uint64_t put_bytes_sent, put_bytes_received; /* payload, first copies only */
    uint64_t packets_retransmitted;
    uint64_t packets_lost;      /* declared lost by the sender */
    uint64_t packets_spurious;  /* of those, found to have arrived after all */
    uint64_t credit_stalls;     /* times that puts waited for the peer's credit alone */
    uint64_t packets_duplicate; /* received again */
    uint64_t packets_rejected;  /* bad digest, unknown connection, malformed */
    uint64_t tx_full;           /* the port took fewer packets than offered */
    uint64_t srtt_ns;           /* a gauge */
};

struct kvw_transport_ops {
    const char *name;

    /*
     * Accept connections from now on. KVW_OK; KVW_E_INVALID if already listening.
     */
    KVW_NODISCARD kvw_err (*listen)(struct kvw_transport *t);

    /*
     * Begin a connection. peer: address as the transport's config wants it; NULL: the link's only
     * peer. On KVW_OK *conn is set and exactly one of CONN_UP, CONN_DOWN follows; on an error there
     * is no other side effect. A peer that the system knows no way to (its family, its route, its
     * MTU) is down at the next poll(): KVW_E_ADDRESS, and the system's reason in text.
     *
     *   KVW_E_AGAIN    the connection table is full
     *   KVW_E_ADDRESS  peer can't be parsed
     */
    KVW_NODISCARD kvw_err (*connect)(struct kvw_transport *t, const char *peer, uint64_t now_ns,
                                     kvw_conn_id *conn);

    /*
     * Tell the peer (best effort) and forget; no CONN_DOWN here. When it returns, nothing that
     * puts of this connection borrowed is read any more; the next poll() hands out their PUT_DONE
     * (KVW_E_PEER_LOST), and nothing else of this connection.
     */
    void (*disconnect)(struct kvw_transport *t, kvw_conn_id conn, uint64_t now_ns);

    /*
     * Let peers put into mem. gate may be NULL (all of mem is open). *key is what a peer puts to.
     *   KVW_E_NOMEM        KVW_REGIONS_MAX are registered
     *   KVW_E_UNSUPPORTED  this kind of memory can't be reached
     */
    KVW_NODISCARD kvw_err (*region_add)(struct kvw_transport *t, const struct kvw_mem *mem,
                                        kvw_put_gate gate, void *gate_arg,
                                        struct kvw_region_key *key);
    /* KVW_E_NOTFOUND: no such region. */
    KVW_NODISCARD kvw_err (*region_remove)(struct kvw_transport *t,
                                           const struct kvw_region_key *key);

    /*
     * region_open(): the peer of conn may put into a region of this side's from now on.
     * region_shut(): it may no longer, until the region is opened again. Both return at once.
     *
     * A transport that asks the gate before each put leaves both NULL: the gate gives the same
     * protection, put by put. A transport that has them starts each region shut for each new
     * connection, and forgets the state with the connection.
     *
     * A put into a shut region is no error. It waits where it was posted, as if its connection had
     * no credit, and goes on when the region is opened; nobody has to ask for it again.
     *
     * After region_shut() puts that are on their way may still land, for twice KVW_PEER_DEAD_NS at
     * most. A put that comes later breaks rule 5. Opening an open region, or shutting a shut one,
     * does nothing. Opening a region while its shut is in progress takes effect after the shut.
     * Leaving a region open is a lost protection, not an error.
     *   KVW_E_NOTFOUND  no such region, or no such connection
     *   KVW_E_AGAIN     too many regions are open to it
     */
    KVW_NODISCARD kvw_err (*region_open)(struct kvw_transport *t, kvw_conn_id conn,
                                         const struct kvw_region_key *key);
    void (*region_shut)(struct kvw_transport *t, kvw_conn_id conn,
                        const struct kvw_region_key *key);

    /*
     * Puts will come from mem until source_remove(), so a device that must know its memory learns
     * it now, once. A hint: puts from anywhere else work too, copied. NULL where nothing is gained.
     * Adding the same range again counts. When source_remove() is called no put from mem may be in
     * flight.
     *   KVW_E_NOMEM, KVW_E_UNSUPPORTED  puts from it will be copied
     */
    KVW_NODISCARD kvw_err (*source_add)(struct kvw_transport *t, const struct kvw_mem *mem);
    void (*source_remove)(struct kvw_transport *t, const struct kvw_mem *mem);

    /*
     * Queue a message of 1 .. KVW_MSG_BYTES_MAX bytes. Copied.
     *   KVW_E_AGAIN      the queue is full
     *   KVW_E_INVALID    length out of range
     *   KVW_E_NOTFOUND   no such connection
     */
    KVW_NODISCARD kvw_err (*send)(struct kvw_transport *t, kvw_conn_id conn, const void *msg,
                                  uint32_t bytes);

    /* Queue a put. Errors as send's. */
    KVW_NODISCARD kvw_err (*put)(struct kvw_transport *t, kvw_conn_id conn,
                                 const struct kvw_put *put);

    /*
     * Receive, run timers, transmit; fill up to max events and return how many (0 .. max). Call
     * again until it returns less than max. Pointers in events die at the next poll().
     */
    uint32_t (*poll)(struct kvw_transport *t, uint64_t now_ns, struct kvw_transport_event *events,
                     uint32_t max);

    /* When poll() must run again even if nothing arrives; UINT64_MAX: never. */
    uint64_t (*deadline_ns)(const struct kvw_transport *t);

    /*
     * Sleep until there may be work: input, wake_fd readable (-1: none; it isn't read), or until_ns
     * on CLOCK_MONOTONIC. May return early without cause. The only call that blocks.
     */
    void (*wait)(struct kvw_transport *t, uint64_t until_ns, int wake_fd);

    void (*stats)(const struct kvw_transport *t, struct kvw_transport_stats *stats);

    /* Tell every peer, complete nothing more, give everything back. Takes NULL. */
    void (*close)(struct kvw_transport *t);

    /* Where this side really is, as peers' connect() takes it: what was opened with port 0 knows
     * its port. False: it isn't known, or doesn't fit text. NULL: never known. */
    bool (*local)(const struct kvw_transport *t, char *text, size_t bytes);

    /*
     * For who sleeps on several descriptors at once, in place of wait(): arm(), sleep, disarm(),
     * poll(). NULL, all three: only wait() sleeps.
     *
     * fd(): readable while poll() may find something, from arm() to disarm(). It is the transport's
     * and the same for its life: the caller watches it, and doesn't read or close it. -1: none.
     *
     * arm(): the caller is about to sleep until *until_ns, which the transport may make earlier.
     * False: it must not, as poll() has work. Other calls but poll() may follow.
     * disarm(): it is awake. Once after each arm() that returned true.
     */
    int (*fd)(struct kvw_transport *t);
    bool (*arm)(struct kvw_transport *t, uint64_t *until_ns);
    void (*disarm)(struct kvw_transport *t);
};

#ifdef __cplusplus
}
#endif
#endif
