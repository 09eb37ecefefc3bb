/* SPDX-License-Identifier: Apache-2.0 */
/*
 * impl.h - the object behind queues.h, shared by queues.c (the application's side),
 * open.c (opening and closing) and thread.c (a queue's thread). Not for anyone else.
 *
 * threads  each field says whose it is: the application's thread, or the queue's
 * memory   one allocation a transport
 * time     none
 */
#ifndef KVN_QUEUES_IMPL_H
#define KVN_QUEUES_IMPL_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "queues.h"

#define KVN_LANE_PUTS      128u            /* put()s of a connection that its queue hasn't seen */
#define KVN_LANE_BYTES     (256u * 1024u)  /* the same of messages; two of the longest fit */
#define KVN_EVENTS         256u            /* that poll() hasn't handed out, of a queue */
#define KVN_EVENT_BYTES    (1024u * 1024u) /* their messages and texts */
#define KVN_EVENTS_AT_ONCE 16u
#define KVN_QUEUE_LINE     64
#define KVN_LANE_SKIP      UINT32_MAX /* in place of a length: go on at the ring's start */
#define KVN_ORPHANS        (KVN_QUEUES_MAX * KVN_CONNS_STRIDE * KVN_LANE_PUTS)
#define KVN_CONN_BYTES(n)  (((n) + 3u + 4u) & ~3u) /* of a message of n bytes in a lane */

/*
 * What one connection's user wants sent. The application writes, the queue's thread reads: while
 * owner is its connection's id. It is set by the application when it learns of the connection, with
 * nothing in the lane, and is 0 from the connection's end on.
 */
struct kvn_lane {
    _Alignas(KVN_QUEUE_LINE) _Atomic uint32_t owner;
    _Atomic uint32_t put_tail, msg_tail;
    _Alignas(KVN_QUEUE_LINE) _Atomic uint32_t put_head, msg_head;
    _Alignas(KVN_QUEUE_LINE) struct kvw_put put[KVN_LANE_PUTS];
    _Alignas(KVN_QUEUE_LINE) uint8_t msg[KVN_LANE_BYTES];
};

/* An event; its msg or text are bytes in the queue's event_bytes. */
struct kvn_queued_event {
    struct kvw_transport_event ev;
    uint32_t at, bytes; /* bytes 0: none */
    uint32_t end;       /* event_head once this one is done with */
};

enum kvn_call_kind {
    KVN_CALL_LISTEN = 1,
    KVN_CALL_CONNECT,
    KVN_CALL_DISCONNECT,
    KVN_CALL_REGION_ADD,
    KVN_CALL_REGION_REMOVE,
    KVN_CALL_STATS,
    KVN_CALL_CLOSE,
};

/* Asked of a queue's thread, which answers in place. */
struct kvn_call {
    enum kvn_call_kind kind;
    const char *peer;
    uint64_t now_ns;
    kvw_conn_id conn; /* the transport's */
    const struct kvw_mem *mem;
    kvw_put_gate gate;
    void *gate_arg;
    struct kvw_region_key key;
    struct kvn_queue_stats *stats;
    kvw_err err;
};

struct kvn_queues;

/* Whom a queue's region asks, by the transport's id of the connection. */
struct kvn_queue_gate {
    uint32_t queue;
    kvw_put_gate gate;
    void *arg;
};

struct kvn_queue {
    struct kvn_queues *g;
    uint32_t index;
    pthread_t thread;
    bool running;                                 /* the application's: there is a thread to join */
    struct kvw_transport *endpoint;               /* the thread's, once it runs */
    int fd;                                       /* wakes the thread */
    _Alignas(KVN_QUEUE_LINE) _Atomic bool asleep; /* or about to: who clears it writes to fd */
    _Atomic(struct kvn_call *) call;
    sem_t answered;

    /* The thread's. */
    uint32_t current[KVN_CONNS_STRIDE];  /* the connection in a slot; 0: none that may send */
    uint32_t seen_put[KVN_CONNS_STRIDE]; /* what the lanes held at the last look */
    uint32_t seen_msg[KVN_CONNS_STRIDE];
    uint32_t high;         /* slots at and above never had a connection */
    uint64_t sleeps, owed; /* owed: wakes that fd has yet to say */
    bool stop;

    /* Events: the thread writes at the tail, the application reads at the head. */
    _Alignas(KVN_QUEUE_LINE) _Atomic uint32_t event_tail;
    uint32_t bytes_tail; /* the thread's */
    _Alignas(KVN_QUEUE_LINE) _Atomic uint32_t event_head;
    _Atomic uint32_t bytes_head;
    _Atomic bool blocked; /* the thread found no room for events */

    /* The application's. */
    uint32_t taken; /* events that poll() has handed out */
    uint32_t bytes_taken;
    uint32_t conns; /* that live here */
    uint32_t user_high;
    uint32_t user[KVN_CONNS_STRIDE];     /* the id its user knows; 0: none */
    uint32_t put_head[KVN_CONNS_STRIDE]; /* of lanes, at the last poll() */
    uint32_t msg_head[KVN_CONNS_STRIDE];

    struct kvn_queue_gate gate[KVW_REGIONS_MAX];
    struct kvn_queued_event event[KVN_EVENTS];
    uint8_t event_bytes[KVN_EVENT_BYTES];
    struct kvn_lane lane[KVN_CONNS_STRIDE];
};

/* A put that never reached its queue, and whose PUT_DONE is due. */
struct kvn_orphan {
    uint32_t conn;
    uint64_t cookie;
};

struct kvn_queues {
    struct kvw_transport base; /* first */
    uint32_t queues;
    pid_t pid; /* that opened it; in a child of fork() there are no threads of queues */
    bool busy_poll, listening;
    struct kvn_steer *steer;
    int fd;                                       /* wakes the application */
    _Alignas(KVN_QUEUE_LINE) _Atomic bool asleep; /* the application, as a queue's */
    _Atomic bool hungry; /* send() or put() found no room, and no poll() found any since */
    uint64_t owed;       /* the application's: wakes that fd has yet to say */
    uint32_t turn;
    uint32_t orphans, orphan_first;
    struct kvn_orphan *orphan; /* KVN_ORPHANS */
    bool region_used[KVW_REGIONS_MAX];
    struct kvw_region_key region[KVW_REGIONS_MAX];

    struct kvn_queue *queue; /* queues of them */
};

/* The transport's ids are an endpoint's with the queue in them. */
static inline uint32_t kvn_queues_id(uint32_t queue, kvw_conn_id id)
{
    return id.value * KVN_QUEUES_MAX + queue;
}

static inline kvw_conn_id kvn_queues_inner(uint32_t id)
{
    return (kvw_conn_id){id / KVN_QUEUES_MAX};
}

static inline uint32_t kvn_queues_slot(uint32_t id)
{
    return id / KVN_QUEUES_MAX % KVN_CONNS_STRIDE;
}

/* thread.c */
void *kvn_queue_main(void *queue);
/* From any thread: the queue's looks again. */
void kvn_queue_wake(struct kvn_queue *q);
/* Who slept on fd is up again, and takes what was written to it. Who cleared asleep may not have
 * written yet: *owed counts those, and a later call takes it. Else fd stayed readable, and every
 * sleep ended at once. */
void kvn_queue_awake(_Atomic bool *asleep, int fd, uint64_t *owed);
bool kvn_queue_gate_ask(void *arg, kvw_conn_id conn, uint64_t offset, uint32_t bytes, uint32_t imm);

/* queues.c */
extern const struct kvw_transport_ops kvn_queues_ops;

/* close.c */
/* Asks a queue's thread and waits for the answer; the application's thread only. In a child of
 * fork() it does nothing: KVW_OK for what the child may call, else KVW_E_UNSUPPORTED. */
kvw_err kvn_queues_call(struct kvn_queue *q, struct kvn_call *c);
void kvn_queues_close(struct kvw_transport *t);

#endif
