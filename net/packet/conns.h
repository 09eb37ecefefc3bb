/* SPDX-License-Identifier: Apache-2.0 */
/*
 * conns.h - an endpoint's connections: found by any of their names in O(1), and of those that exist
 * only the active ones are looked at in a poll. The others sleep until a time of their own.
 *
 *     ASLEEP --a packet, the user, its time--> ACTIVE --nothing is due now--> ASLEEP
 *
 * threads  one
 * memory   the tables are the caller's, kvn_conns_bytes() of them; a connection's own is mapped
 *          when it begins and unmapped when it is forgotten
 * time     as given
 */
#ifndef KVN_PACKET_CONNS_H
#define KVN_PACKET_CONNS_H

#include "conn.h"

#define KVN_CONNS_NONE UINT32_MAX

/* A connection, where the table has it. */
struct kvn_entry {
    uint32_t slot;
    bool active;
    struct kvn_entry *before, *after;           /* of the active ones */
    uint32_t local_id, peer_id;                 /* that it is listed by; 0: not */
    struct kvn_entry *local_after, *peer_after; /* of the same hash */
    bool half_open;                             /* counted as such */
    struct kvn_conn conn;
    struct kvn_conn_memory mem;
};

/* Of one that sleeps. Apart from the entries, each of which begins a page of its own: a heap of
 * those would have all that it compares in the same few lines of a cache. */
struct kvn_conns_due {
    uint64_t ns;
    uint32_t slot;
};

struct kvn_conns {
    uint32_t max, stride; /* an api_id is a multiple of stride, and the slot */
    uint32_t high;        /* slots at and above were never used */
    uint32_t live, half_open;
    uint64_t seed, visited; /* visited: active connections that polls have looked at */
    struct kvn_entry **slot, **by_local, **by_peer;
    struct kvn_conns_due *heap;
    uint32_t *heap_at;       /* by slot; KVN_CONNS_NONE: it is not in the heap */
    uint32_t *serial, *free; /* free: a ring, so that a slot rests as long as can be */
    uint32_t free_first, free_count, heap_count, mask;
    struct kvn_entry *first, *last; /* active */
    struct kvn_conn *last_hit;
};

/* What the tables of so many connections take. */
size_t kvn_conns_bytes(uint32_t max);
/* mem: so many zeros, aligned for pointers. seed: of the hashes, which a peer must not guess. */
void kvn_conns_begin(struct kvn_conns *t, void *mem, uint32_t max, uint64_t seed);
/* Unmaps all. */
void kvn_conns_end(struct kvn_conns *t);

static inline struct kvn_entry *kvn_conns_entry(struct kvn_conn *c)
{
    return (struct kvn_entry *)(void *)((unsigned char *)c - offsetof(struct kvn_entry, conn));
}

/* A connection that is FREE, active, and has an api_id. NULL: none is left, or no memory. */
struct kvn_conn *kvn_conns_new(struct kvn_conns *t, uint32_t *api_id);
/* Its memory is unmapped. */
void kvn_conns_forget(struct kvn_conns *t, struct kvn_conn *c);
/* One that has ended, only lingers and has no event. O(max). NULL: there is none. */
struct kvn_conn *kvn_conns_lingering(const struct kvn_conns *t);

/* Whatever its state. NULL: none has that name. */
struct kvn_conn *kvn_conns_by_api(const struct kvn_conns *t, uint32_t api_id);
struct kvn_conn *kvn_conns_by_local(struct kvn_conns *t, uint32_t id);
struct kvn_conn *kvn_conns_by_peer(const struct kvn_conns *t, uint32_t id,
                                   const struct kvn_addr *from);
/* Its names or its state may have changed. */
void kvn_conns_renamed(struct kvn_conns *t, struct kvn_conn *c);

/* It is to be looked at in the next poll, or in this one. */
void kvn_conns_wake(struct kvn_conns *t, struct kvn_conn *c);
static inline void kvn_conns_touched(struct kvn_conns *t, struct kvn_conn *c)
{
    if (!kvn_conns_entry(c)->active)
        kvn_conns_wake(t, c);
}
/* All whose time has come. */
void kvn_conns_wake_due(struct kvn_conns *t, uint64_t now_ns);
/* Nothing is to be done before due_ns. */
void kvn_conns_sleep(struct kvn_conns *t, struct kvn_conn *c, uint64_t due_ns);
/* It is the last of the active ones now. */
void kvn_conns_to_back(struct kvn_conns *t, struct kvn_conn *c);

/* Up to max events of the active ones; in turns, should there be more than fit. */
uint32_t kvn_conns_take_events(struct kvn_conns *t, struct kvn_env *env,
                               struct kvw_transport_event *events, uint32_t max);

/* When the first of those that sleep is due; UINT64_MAX: none ever. */
static inline uint64_t kvn_conns_next_ns(const struct kvn_conns *t)
{
    return t->heap_count > 0 ? t->heap[0].ns : UINT64_MAX;
}

/* for (struct kvn_entry *e = kvn_conns_first(t), *n; ...): over the active ones; the body may put e
 * to sleep or forget it. */
#define kvn_conns_each(t, e, n)                                                                    \
    for (struct kvn_entry *e = (t)->first, *n = e != NULL ? e->after : NULL; e != NULL;            \
         e = n, n = n != NULL ? n->after : NULL)

#endif
