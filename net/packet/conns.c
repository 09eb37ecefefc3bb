/* SPDX-License-Identifier: Apache-2.0 */
/* The table of an endpoint's connections: names, the active ones, and a heap of the others. */
#include "conns.h"

#include <string.h>
#include <sys/mman.h>

#include "../port/steer.h"

static uint32_t power_of_two(uint32_t n)
{
    uint32_t p = 1;

    while (p < n)
        p *= 2;
    return p;
}

size_t kvn_conns_bytes(uint32_t max)
{
    return (size_t)max * sizeof(struct kvn_conns_due) +
           ((size_t)max + 2 * (size_t)power_of_two(max)) * sizeof(struct kvn_entry *) +
           3 * (size_t)max * sizeof(uint32_t);
}

void kvn_conns_begin(struct kvn_conns *t, void *mem, uint32_t max, uint64_t seed)
{
    const uint32_t hashes = power_of_two(max);

    *t = (struct kvn_conns){.max = max, .seed = seed, .mask = hashes - 1};
    t->stride = hashes < KVN_CONNS_STRIDE ? KVN_CONNS_STRIDE : hashes;
    t->heap = mem;
    t->slot = (struct kvn_entry **)(void *)(t->heap + max);
    t->by_local = t->slot + max;
    t->by_peer = t->by_local + hashes;
    t->serial = (uint32_t *)(void *)(t->by_peer + hashes);
    t->free = t->serial + max;
    t->heap_at = t->free + max;
    for (uint32_t i = 0; i < max; ++i)
        t->free[i] = i;
    t->free_count = max;
}

void kvn_conns_end(struct kvn_conns *t)
{
    for (uint32_t i = 0; i < t->high; ++i)
        if (t->slot[i] != NULL) {
            kvn_conn_end_memory(&t->slot[i]->conn);
            munmap(t->slot[i], sizeof(*t->slot[i]));
        }
}

/* --- names ------------------------------------------------------------------------------------ */

static uint32_t hash_of(const struct kvn_conns *t, uint32_t id)
{
    uint64_t x = t->seed ^ id;

    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return (uint32_t)(x >> 32) & t->mask;
}

static void unlist_local(struct kvn_conns *t, struct kvn_entry *e)
{
    struct kvn_entry **at = &t->by_local[hash_of(t, e->local_id)];

    while (*at != e)
        at = &(*at)->local_after;
    *at = e->local_after;
}

static void unlist_peer(struct kvn_conns *t, struct kvn_entry *e)
{
    struct kvn_entry **at = &t->by_peer[hash_of(t, e->peer_id)];

    while (*at != e)
        at = &(*at)->peer_after;
    *at = e->peer_after;
}

void kvn_conns_renamed(struct kvn_conns *t, struct kvn_conn *c)
{
    struct kvn_entry *e = kvn_conns_entry(c), **at;
    const uint32_t peer_id = c->state == KVN_CONN_FREE ? 0 : c->peer_id;
    const bool half_open = c->state == KVN_CONN_ACCEPTING;

    if (e->local_id != c->local_id) {
        if (e->local_id != 0)
            unlist_local(t, e);
        if (c->local_id != 0) {
            at = &t->by_local[hash_of(t, c->local_id)];
            e->local_after = *at;
            *at = e;
        }
        e->local_id = c->local_id;
    }
    if (e->peer_id != peer_id) {
        if (e->peer_id != 0)
            unlist_peer(t, e);
        if (peer_id != 0) {
            at = &t->by_peer[hash_of(t, peer_id)];
            e->peer_after = *at;
            *at = e;
        }
        e->peer_id = peer_id;
    }
    t->half_open -= e->half_open;
    t->half_open += half_open;
    e->half_open = half_open;
}

struct kvn_conn *kvn_conns_by_api(const struct kvn_conns *t, uint32_t api_id)
{
    const uint32_t slot = api_id & (t->stride - 1); /* a power of two */

    return api_id != 0 && slot < t->high && t->slot[slot] != NULL &&
                   t->slot[slot]->conn.api_id == api_id
               ? &t->slot[slot]->conn
               : NULL;
}

struct kvn_conn *kvn_conns_by_local(struct kvn_conns *t, uint32_t id)
{
    if (id == 0)
        return NULL;
    if (t->last_hit != NULL && t->last_hit->local_id == id)
        return t->last_hit;
    for (struct kvn_entry *e = t->by_local[hash_of(t, id)]; e != NULL; e = e->local_after)
        if (e->conn.local_id == id)
            return t->last_hit = &e->conn;
    return NULL;
}

struct kvn_conn *kvn_conns_by_peer(const struct kvn_conns *t, uint32_t id,
                                   const struct kvn_addr *from)
{
    for (struct kvn_entry *e = t->by_peer[hash_of(t, id)]; e != NULL; e = e->peer_after)
        if (e->conn.state != KVN_CONN_FREE && e->conn.peer_id == id &&
            kvn_addr_equal(&e->conn.path[0].peer, from))
            return &e->conn;
    return NULL;
}

/* --- a connection comes and goes -------------------------------------------------------------- */

static bool take_slot(struct kvn_conns *t, uint32_t *slot)
{
    /* Ids aren't reused within a transport's life; queues.c makes room in them for the queue. A
     * slot that has had all of its ids is never free again. */
    const uint32_t serials = UINT32_MAX / KVN_QUEUES_MAX / t->stride;

    while (t->free_count > 0) {
        *slot = t->free[t->free_first];
        t->free_first = (t->free_first + 1) % t->max;
        --t->free_count;
        if (++t->serial[*slot] < serials)
            return true;
    }
    return false;
}

static void give_slot(struct kvn_conns *t, uint32_t slot)
{
    t->free[(t->free_first + t->free_count++) % t->max] = slot;
}

struct kvn_conn *kvn_conns_new(struct kvn_conns *t, uint32_t *api_id)
{
    struct kvn_entry *e;
    uint32_t slot;

    if (!take_slot(t, &slot))
        return NULL;
    e = mmap(NULL, sizeof(*e), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
             -1, 0);
    if (e == MAP_FAILED) {
        give_slot(t, slot);
        return NULL;
    }
    e->slot = slot;
    t->heap_at[slot] = KVN_CONNS_NONE;
    e->conn.mem = &e->mem;
    kvn_timers_stop(&e->conn.timers);
    t->slot[slot] = e;
    if (slot >= t->high)
        t->high = slot + 1;
    ++t->live;
    *api_id = t->serial[slot] * t->stride + slot;
    kvn_conns_wake(t, &e->conn);
    return &e->conn;
}

struct kvn_conn *kvn_conns_lingering(const struct kvn_conns *t)
{
    for (uint32_t i = 0; i < t->high; ++i)
        if (t->slot[i] != NULL && t->slot[i]->conn.state == KVN_CONN_ENDED &&
            !kvn_conn_has_event(&t->slot[i]->conn))
            return &t->slot[i]->conn;
    return NULL;
}

/* --- who is looked at ------------------------------------------------------------------------- */

static void place(struct kvn_conns *t, uint32_t at, struct kvn_conns_due d)
{
    t->heap[at] = d;
    t->heap_at[d.slot] = at;
}

/* What is at `at` has another key. */
static void sift(struct kvn_conns *t, uint32_t at)
{
    const struct kvn_conns_due d = t->heap[at];

    for (; at > 0 && t->heap[(at - 1) / 2].ns > d.ns; at = (at - 1) / 2)
        place(t, at, t->heap[(at - 1) / 2]);
    for (;;) {
        uint32_t child = 2 * at + 1;

        if (child + 1 < t->heap_count && t->heap[child + 1].ns < t->heap[child].ns)
            ++child;
        if (child >= t->heap_count || t->heap[child].ns >= d.ns)
            break;
        place(t, at, t->heap[child]);
        at = child;
    }
    place(t, at, d);
}

static void leave_heap(struct kvn_conns *t, struct kvn_entry *e)
{
    const uint32_t at = t->heap_at[e->slot];

    if (at == KVN_CONNS_NONE)
        return;
    t->heap_at[e->slot] = KVN_CONNS_NONE;
    --t->heap_count;
    if (at == t->heap_count)
        return;
    place(t, at, t->heap[t->heap_count]);
    sift(t, at);
}

static void leave_active(struct kvn_conns *t, struct kvn_entry *e)
{
    if (!e->active)
        return;
    if (e->before != NULL)
        e->before->after = e->after;
    else
        t->first = e->after;
    if (e->after != NULL)
        e->after->before = e->before;
    else
        t->last = e->before;
    e->active = false;
    e->before = e->after = NULL;
}

void kvn_conns_wake(struct kvn_conns *t, struct kvn_conn *c)
{
    struct kvn_entry *e = kvn_conns_entry(c);

    if (e->active)
        return;
    leave_heap(t, e);
    e->active = true;
    e->before = t->last;
    e->after = NULL;
    if (t->last != NULL)
        t->last->after = e;
    else
        t->first = e;
    t->last = e;
}

void kvn_conns_wake_due(struct kvn_conns *t, uint64_t now_ns)
{
    while (t->heap_count > 0 && t->heap[0].ns <= now_ns)
        kvn_conns_wake(t, &t->slot[t->heap[0].slot]->conn);
}

void kvn_conns_sleep(struct kvn_conns *t, struct kvn_conn *c, uint64_t due_ns)
{
    struct kvn_entry *e = kvn_conns_entry(c);

    leave_active(t, e);
    leave_heap(t, e);
    if (due_ns == UINT64_MAX)
        return;
    place(t, t->heap_count++, (struct kvn_conns_due){due_ns, e->slot});
    sift(t, t->heap_at[e->slot]);
}

void kvn_conns_to_back(struct kvn_conns *t, struct kvn_conn *c)
{
    if (t->first == t->last)
        return;
    leave_active(t, kvn_conns_entry(c));
    kvn_conns_wake(t, c);
}

void kvn_conns_forget(struct kvn_conns *t, struct kvn_conn *c)
{
    struct kvn_entry *e = kvn_conns_entry(c);

    if (c->state != KVN_CONN_FREE)
        kvn_conn_free(c);
    kvn_conns_renamed(t, c);
    leave_active(t, e);
    leave_heap(t, e);
    if (t->last_hit == c)
        t->last_hit = NULL;
    t->slot[e->slot] = NULL;
    give_slot(t, e->slot);
    --t->live;
    munmap(e, sizeof(*e));
}

uint32_t kvn_conns_take_events(struct kvn_conns *t, struct kvn_env *env,
                               struct kvw_transport_event *events, uint32_t max)
{
    uint32_t n = 0;

    kvn_conns_each(t, e, next)
    {
        while (n < max && kvn_conn_next_event(&e->conn, env, &events[n]))
            ++n;
        if (n == max) {
            kvn_conns_to_back(t, &e->conn);
            break;
        }
    }
    return n;
}
