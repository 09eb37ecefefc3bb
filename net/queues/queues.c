/* SPDX-License-Identifier: Apache-2.0 */
/* The application's side of a transport of several queues; all of it runs in its thread. */
#include "queues.h"

#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../put.h"
#include "impl.h"

static struct kvn_queues *self(const struct kvw_transport *t)
{
    return (struct kvn_queues *)(uintptr_t)t; /* base is its first member */
}

static uint64_t clock_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* --- connections --- */

/* The queue of a connection that its user may name; NULL: there is none. */
static struct kvn_queue *find(const struct kvn_queues *g, kvw_conn_id conn)
{
    const uint32_t queue = conn.value % KVN_QUEUES_MAX;

    if (conn.value == 0 || queue >= g->queues ||
        g->queue[queue].user[kvn_queues_slot(conn.value)] != conn.value)
        return NULL;
    return &g->queue[queue];
}

/* A connection begins for its user. The lane is empty: the one before it left it so. */
static void adopt(struct kvn_queue *q, uint32_t id)
{
    const uint32_t slot = kvn_queues_slot(id);

    q->user[slot] = id;
    if (slot >= q->user_high)
        q->user_high = slot + 1;
    ++q->conns;
    atomic_store_explicit(&q->lane[slot].owner, id, memory_order_release);
}

/* It is over in its queue, whose thread reads the lane no more: puts that are left there fail. */
static void empty_lane(struct kvn_queue *q, uint32_t id)
{
    struct kvn_queues *g = q->g;
    const uint32_t slot = kvn_queues_slot(id);
    struct kvn_lane *l = &q->lane[slot];
    const uint32_t tail = atomic_load_explicit(&l->put_tail, memory_order_relaxed);

    for (uint32_t head = atomic_load(&l->put_head); head != tail; ++head) {
        const struct kvn_orphan o = {id, l->put[head % KVN_LANE_PUTS].cookie};

        g->orphan[(g->orphan_first + g->orphans++) % KVN_ORPHANS] = o;
    }
    q->put_head[slot] = tail;
    q->msg_head[slot] = atomic_load_explicit(&l->msg_tail, memory_order_relaxed);
    atomic_store(&l->put_head, tail);
    atomic_store(&l->msg_head, q->msg_head[slot]);
    atomic_store(&l->owner, 0);
}

static void forget(struct kvn_queue *q, uint32_t id)
{
    q->user[kvn_queues_slot(id)] = 0;
    --q->conns;
}

static kvw_err mq_listen(struct kvw_transport *t)
{
    struct kvn_queues *g = self(t);

    if (g->listening)
        return KVW_E_INVALID;
    for (uint32_t i = 0; i < g->queues; ++i) {
        struct kvn_call c = {.kind = KVN_CALL_LISTEN};
        const kvw_err err = kvn_queues_call(&g->queue[i], &c);

        if (err != KVW_OK)
            return err;
    }
    g->listening = true;
    return KVW_OK;
}

/* On the queue with the fewest connections; of several, the next in turn. */
static kvw_err mq_connect(struct kvw_transport *t, const char *peer, uint64_t now_ns,
                          kvw_conn_id *conn)
{
    struct kvn_queues *g = self(t);
    struct kvn_call c = {.kind = KVN_CALL_CONNECT, .peer = peer, .now_ns = now_ns};
    struct kvn_queue *q = &g->queue[g->turn % g->queues];

    for (uint32_t i = 1; i < g->queues; ++i) {
        struct kvn_queue *other = &g->queue[(g->turn + i) % g->queues];

        if (other->conns < q->conns)
            q = other;
    }
    if (kvn_queues_call(q, &c) != KVW_OK)
        return c.err;
    g->turn = q->index + 1;
    adopt(q, c.conn.value);
    *conn = c.conn;
    return KVW_OK;
}

static void mq_disconnect(struct kvw_transport *t, kvw_conn_id conn, uint64_t now_ns)
{
    struct kvn_queues *g = self(t);
    struct kvn_queue *q = find(g, conn);
    struct kvn_call c = {.kind = KVN_CALL_DISCONNECT, .conn = conn, .now_ns = now_ns};

    if (q == NULL)
        return;
    (void)kvn_queues_call(q, &c);
    empty_lane(q, conn.value);
    forget(q, conn.value);
}

/* --- regions: the same slot and so the same number in every queue --- */

static kvw_err mq_region_remove(struct kvw_transport *t, const struct kvw_region_key *key)
{
    struct kvn_queues *g = self(t);
    kvw_err err = KVW_E_NOTFOUND;

    for (uint32_t i = 0; i < g->queues; ++i) {
        struct kvn_call c = {.kind = KVN_CALL_REGION_REMOVE, .key = *key};

        err = kvn_queues_call(&g->queue[i], &c);
    }
    for (uint32_t i = 0; i < KVW_REGIONS_MAX && err == KVW_OK; ++i)
        if (g->region_used[i] && memcmp(&g->region[i], key, sizeof(*key)) == 0)
            g->region_used[i] = false;
    return err;
}

static kvw_err mq_region_add(struct kvw_transport *t, const struct kvw_mem *mem, kvw_put_gate gate,
                             void *gate_arg, struct kvw_region_key *key)
{
    struct kvn_queues *g = self(t);
    struct kvn_call c;
    uint32_t at = 0;

    while (at < KVW_REGIONS_MAX && g->region_used[at])
        ++at;
    if (at == KVW_REGIONS_MAX)
        return KVW_E_NOMEM;
    for (uint32_t i = 0; i < g->queues; ++i) {
        struct kvn_queue_gate *ask = &g->queue[i].gate[at];

        *ask = (struct kvn_queue_gate){.queue = i, .gate = gate, .arg = gate_arg};
        c = (struct kvn_call){.kind = KVN_CALL_REGION_ADD,
                              .mem = mem,
                              .gate = gate != NULL ? kvn_queue_gate_ask : NULL,
                              .gate_arg = ask};
        /* Every queue has seen the same calls, so the first to refuse speaks for all. */
        if (kvn_queues_call(&g->queue[i], &c) != KVW_OK)
            return c.err;
    }
    g->region_used[at] = true;
    g->region[at] = c.key;
    *key = c.key;
    return KVW_OK;
}

/* --- data --- */

static kvw_err again(struct kvn_queues *g)
{
    atomic_store(&g->hungry, true);
    return KVW_E_AGAIN;
}

static kvw_err mq_send(struct kvw_transport *t, kvw_conn_id conn, const void *msg, uint32_t bytes)
{
    struct kvn_queues *g = self(t);
    struct kvn_queue *q = find(g, conn);
    const uint32_t slot = kvn_queues_slot(conn.value), skip = KVN_LANE_SKIP;
    struct kvn_lane *l;
    uint32_t tail, end, need;

    if (bytes == 0 || bytes > KVW_MSG_BYTES_MAX)
        return KVW_E_INVALID;
    if (q == NULL)
        return KVW_E_NOTFOUND;
    l = &q->lane[slot];
    tail = atomic_load_explicit(&l->msg_tail, memory_order_relaxed);
    end = KVN_LANE_BYTES - tail % KVN_LANE_BYTES;
    need = KVN_CONN_BYTES(bytes);
    if (tail - q->msg_head[slot] + need + (end < need ? end : 0) > KVN_LANE_BYTES)
        return again(g);
    if (end < need) {
        memcpy(l->msg + tail % KVN_LANE_BYTES, &skip, 4); /* lengths are multiples of 4 */
        tail += end;
    }
    memcpy(l->msg + tail % KVN_LANE_BYTES, &bytes, 4);
    memcpy(l->msg + tail % KVN_LANE_BYTES + 4, msg, bytes);
    atomic_store(&l->msg_tail, tail + need);
    kvn_queue_wake(q);
    return KVW_OK;
}

static kvw_err mq_put(struct kvw_transport *t, kvw_conn_id conn, const struct kvw_put *put)
{
    struct kvn_queues *g = self(t);
    struct kvn_queue *q = find(g, conn);
    const uint32_t slot = kvn_queues_slot(conn.value);
    struct kvn_lane *l;
    uint32_t tail;

    if (kvn_put_bytes(put) == 0)
        return KVW_E_INVALID;
    if (q == NULL)
        return KVW_E_NOTFOUND;
    l = &q->lane[slot];
    tail = atomic_load_explicit(&l->put_tail, memory_order_relaxed);
    /* With none taken while orphans wait, there are never more of them than lanes hold. */
    if (tail - q->put_head[slot] == KVN_LANE_PUTS || g->orphans > 0)
        return again(g);
    l->put[tail % KVN_LANE_PUTS] = *put;
    atomic_store(&l->put_tail, tail + 1);
    kvn_queue_wake(q);
    return KVW_OK;
}

/* --- events --- */

/* What poll() handed out last isn't looked at any more, and lanes have the room they have now. */
static void release(struct kvn_queue *q)
{
    if (q->taken != atomic_load_explicit(&q->event_head, memory_order_relaxed)) {
        atomic_store_explicit(&q->bytes_head, q->bytes_taken, memory_order_release);
        atomic_store(&q->event_head, q->taken);
        if (atomic_load(&q->blocked))
            kvn_queue_wake(q);
    }
    for (uint32_t slot = 0; slot < q->user_high; ++slot) {
        q->put_head[slot] = atomic_load_explicit(&q->lane[slot].put_head, memory_order_acquire);
        q->msg_head[slot] = atomic_load_explicit(&q->lane[slot].msg_head, memory_order_acquire);
    }
}

static uint32_t hand_out_orphans(struct kvn_queues *g, struct kvw_transport_event *events,
                                 uint32_t max)
{
    uint32_t n = 0;

    for (; n < max && g->orphans > 0; --g->orphans) {
        const struct kvn_orphan *o = &g->orphan[g->orphan_first++ % KVN_ORPHANS];

        events[n++] = (struct kvw_transport_event){.kind = KVW_TEV_PUT_DONE,
                                                   .conn = {o->conn},
                                                   .err = KVW_E_PEER_LOST,
                                                   .cookie = o->cookie};
    }
    g->orphan_first %= KVN_ORPHANS;
    return n;
}

/* Whether its user hears of e. A connection that ends leaves its lane's puts as orphans: *first is
 * set then, and e comes after them. */
static bool heard(struct kvn_queue *q, const struct kvn_queued_event *e, bool *first)
{
    const uint32_t id = e->ev.conn.value, slot = kvn_queues_slot(id);

    if (e->ev.kind == KVW_TEV_CONN_UP && e->ev.incoming) {
        adopt(q, id);
        return true;
    }
    if (e->ev.kind == KVW_TEV_PUT_DONE)
        return true;
    if (q->user[slot] != id)
        return false; /* disconnected since */
    if (e->ev.kind == KVW_TEV_CONN_DOWN) {
        if (atomic_load_explicit(&q->lane[slot].owner, memory_order_relaxed) == id)
            empty_lane(q, id);
        if (q->g->orphans > 0)
            *first = true;
        else
            forget(q, id);
    }
    return true;
}

static uint32_t hand_out(struct kvn_queue *q, struct kvw_transport_event *events, uint32_t max)
{
    const uint32_t tail = atomic_load_explicit(&q->event_tail, memory_order_acquire);
    uint32_t n = 0;

    while (n < max && q->taken != tail) {
        const struct kvn_queued_event *e = &q->event[q->taken % KVN_EVENTS];
        bool orphans_first = false;

        if (heard(q, e, &orphans_first)) {
            if (orphans_first) {
                n += hand_out_orphans(q->g, events + n, max - n);
                continue;
            }
            events[n] = e->ev;
            if (e->ev.kind == KVW_TEV_MESSAGE)
                events[n].msg = q->event_bytes + e->at;
            if (e->ev.kind == KVW_TEV_CONN_DOWN)
                events[n].text = (const char *)q->event_bytes + e->at;
            ++n;
        }
        ++q->taken;
        q->bytes_taken = e->end;
    }
    return n;
}

/* Somebody was told KVW_E_AGAIN, and there is room now that the next poll() will find. */
static bool has_room(const struct kvn_queues *g)
{
    for (uint32_t i = 0; i < g->queues; ++i) {
        const struct kvn_queue *q = &g->queue[i];

        for (uint32_t slot = 0; slot < q->user_high; ++slot)
            if (q->put_head[slot] != atomic_load(&q->lane[slot].put_head) ||
                q->msg_head[slot] != atomic_load(&q->lane[slot].msg_head))
                return true;
    }
    return false;
}

static uint32_t mq_poll(struct kvw_transport *t, uint64_t now_ns,
                        struct kvw_transport_event *events, uint32_t max)
{
    struct kvn_queues *g = self(t);
    uint32_t n;

    (void)now_ns;
    if (atomic_load(&g->hungry) && has_room(g))
        atomic_store(&g->hungry, false); /* whoever was refused finds the room from here on */
    for (uint32_t i = 0; i < g->queues; ++i)
        release(&g->queue[i]);
    n = hand_out_orphans(g, events, max);
    for (uint32_t i = 0; i < g->queues; ++i)
        n += hand_out(&g->queue[(g->turn + i) % g->queues], events + n, max - n);
    g->turn = g->turn + 1 < g->queues ? g->turn + 1 : 0;
    return n;
}

/* --- waiting --- */

static bool has_events(const struct kvn_queues *g)
{
    for (uint32_t i = 0; i < g->queues; ++i)
        if (atomic_load(&g->queue[i].event_tail) != g->queue[i].taken)
            return true;
    return g->orphans > 0;
}

static bool ready(const struct kvn_queues *g)
{
    return has_events(g) || (atomic_load(&g->hungry) && has_room(g));
}

static uint64_t mq_deadline_ns(const struct kvw_transport *t)
{
    return ready(self(t)) ? 0 : UINT64_MAX;
}

static void look(struct kvn_queues *g, uint64_t until_ns, int wake_fd)
{
    struct pollfd fd = {.fd = wake_fd, .events = POLLIN};

    while (!ready(g) && clock_ns() < until_ns && (wake_fd < 0 || poll(&fd, 1, 0) == 0))
        ;
}

static void mq_disarm(struct kvw_transport *t)
{
    struct kvn_queues *g = self(t);

    kvn_queue_awake(&g->asleep, g->fd, &g->owed);
}

static int mq_fd(struct kvw_transport *t)
{
    return self(t)->fd;
}

static bool mq_arm(struct kvw_transport *t, uint64_t *until_ns)
{
    struct kvn_queues *g = self(t);

    (void)until_ns;
    atomic_store(&g->asleep, true);
    if (!ready(g))
        return true;
    mq_disarm(t);
    return false;
}

static void mq_wait(struct kvw_transport *t, uint64_t until_ns, int wake_fd)
{
    struct kvn_queues *g = self(t);
    struct pollfd fds[2] = {{.fd = g->fd, .events = POLLIN}, {.fd = wake_fd, .events = POLLIN}};
    const uint64_t now_ns = clock_ns();
    struct timespec left;

    if (until_ns <= now_ns || ready(g))
        return;
    left.tv_sec = (time_t)((until_ns - now_ns) / 1000000000u);
    left.tv_nsec = (long)((until_ns - now_ns) % 1000000000u);
    if (g->busy_poll) {
        look(g, until_ns, wake_fd);
        return;
    }
    if (!mq_arm(t, &until_ns))
        return;
    (void)ppoll(fds, wake_fd >= 0 ? 2 : 1, until_ns == UINT64_MAX ? NULL : &left, NULL);
    mq_disarm(t);
}

/* --- counters --- */

kvw_err kvn_queues_stats(const struct kvw_transport *t, struct kvn_queues_stats *stats)
{
    struct kvn_queues *g = self(t);

    if (t->ops != &kvn_queues_ops)
        return KVW_E_UNSUPPORTED;
    *stats = (struct kvn_queues_stats){.queues = g->queues};
    for (uint32_t i = 0; i < g->queues; ++i) {
        struct kvn_call c = {.kind = KVN_CALL_STATS, .stats = &stats->queue[i]};
        const kvw_err err = kvn_queues_call(&g->queue[i], &c);

        if (err != KVW_OK)
            return err;
        stats->queue[i].conns = g->queue[i].conns;
    }
    return KVW_OK;
}

uint32_t kvn_queues_of(const struct kvw_transport *t, kvw_conn_id conn)
{
    return t->ops == &kvn_queues_ops ? conn.value % KVN_QUEUES_MAX : 0;
}

static void mq_stats(const struct kvw_transport *t, struct kvw_transport_stats *sum)
{
    struct kvn_queues_stats s;

    *sum = (struct kvw_transport_stats){0};
    if (kvn_queues_stats(t, &s) != KVW_OK)
        return;
    for (uint32_t i = 0; i < s.queues; ++i) {
        const struct kvw_transport_stats *one = &s.queue[i].packets.all;

        sum->packets_sent += one->packets_sent;
        sum->packets_received += one->packets_received;
        sum->bytes_sent += one->bytes_sent;
        sum->bytes_received += one->bytes_received;
        sum->put_bytes_sent += one->put_bytes_sent;
        sum->put_bytes_received += one->put_bytes_received;
        sum->packets_retransmitted += one->packets_retransmitted;
        sum->packets_lost += one->packets_lost;
        sum->packets_spurious += one->packets_spurious;
        sum->credit_stalls += one->credit_stalls;
        sum->packets_duplicate += one->packets_duplicate;
        sum->packets_rejected += one->packets_rejected;
        sum->tx_full += one->tx_full;
        sum->srtt_ns = one->srtt_ns > sum->srtt_ns ? one->srtt_ns : sum->srtt_ns;
    }
}

/* What a listener's queues share; of others, where the first is. Fixed at open. */
static bool mq_local(const struct kvw_transport *t, char *text, size_t bytes)
{
    const struct kvw_transport *first =
        ((const struct kvn_queues *)(const void *)t)->queue[0].endpoint;

    return first->ops->local(first, text, bytes);
}

const struct kvw_transport_ops kvn_queues_ops = {
    .name = "queues",
    .listen = mq_listen,
    .connect = mq_connect,
    .disconnect = mq_disconnect,
    .region_add = mq_region_add,
    .region_remove = mq_region_remove,
    /* No region_open: the packet protocol's gate is asked before each put. */
    .send = mq_send,
    .put = mq_put,
    .poll = mq_poll,
    .deadline_ns = mq_deadline_ns,
    .wait = mq_wait,
    .fd = mq_fd,
    .arm = mq_arm,
    .disarm = mq_disarm,
    .stats = mq_stats,
    .close = kvn_queues_close,
    .local = mq_local,
};
