/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A queue's thread. It takes what lanes hold into the endpoint, polls it, hands its events up, and
 * sleeps in the port's wait() when there is nothing of all that.
 */
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "impl.h"

/* How long it sleeps at most while the application leaves no room for events. */
#define BLOCKED_NS 1000000u

static uint64_t clock_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void signal_fd(int fd)
{
    const uint64_t one = 1;
    const ssize_t n = write(fd, &one, sizeof(one));

    (void)n; /* EAGAIN: it is readable already */
}

void kvn_queue_awake(_Atomic bool *asleep, int fd, uint64_t *owed)
{
    uint64_t n;

    if (!atomic_exchange(asleep, false))
        ++*owed;
    if (*owed > 0 && read(fd, &n, sizeof(n)) == (ssize_t)sizeof(n))
        *owed -= n < *owed ? n : *owed;
}

void kvn_queue_wake(struct kvn_queue *q)
{
    if (atomic_load(&q->asleep) && atomic_exchange(&q->asleep, false))
        signal_fd(q->fd);
}

static void wake_application(struct kvn_queues *g)
{
    if (atomic_load(&g->asleep) && atomic_exchange(&g->asleep, false))
        signal_fd(g->fd);
}

bool kvn_queue_gate_ask(void *arg, kvw_conn_id conn, uint64_t offset, uint32_t bytes, uint32_t imm)
{
    const struct kvn_queue_gate *gate = arg;

    return gate->gate(gate->arg, (kvw_conn_id){kvn_queues_id(gate->queue, conn)}, offset, bytes,
                      imm);
}

/* --- from the lanes --- */

/* Puts of a lane into the endpoint. False: the connection is over there. */
static bool take_puts(struct kvn_queue *q, struct kvn_lane *l, uint32_t id, bool *moved)
{
    const uint32_t tail = atomic_load_explicit(&l->put_tail, memory_order_acquire);
    uint32_t head = atomic_load_explicit(&l->put_head, memory_order_relaxed);
    kvw_err err = KVW_OK;

    while (head != tail && err == KVW_OK) {
        err =
            q->endpoint->ops->put(q->endpoint, kvn_queues_inner(id), &l->put[head % KVN_LANE_PUTS]);
        if (err == KVW_OK) {
            atomic_store(&l->put_head, ++head);
            *moved = true;
        }
    }
    q->seen_put[kvn_queues_slot(id)] = tail;
    return err != KVW_E_NOTFOUND;
}

/* The same of messages. */
static bool take_messages(struct kvn_queue *q, struct kvn_lane *l, uint32_t id, bool *moved)
{
    const uint32_t tail = atomic_load_explicit(&l->msg_tail, memory_order_acquire);
    uint32_t head = atomic_load_explicit(&l->msg_head, memory_order_relaxed);
    kvw_err err = KVW_OK;

    while (head != tail && err == KVW_OK) {
        const uint32_t at = head % KVN_LANE_BYTES;
        uint32_t bytes;

        memcpy(&bytes, l->msg + at, 4);
        if (bytes == KVN_LANE_SKIP) {
            head += KVN_LANE_BYTES - at;
        } else {
            err = q->endpoint->ops->send(q->endpoint, kvn_queues_inner(id), l->msg + at + 4, bytes);
            if (err != KVW_OK)
                break;
            head += KVN_CONN_BYTES(bytes);
        }
        atomic_store(&l->msg_head, head);
        *moved = true;
    }
    q->seen_msg[kvn_queues_slot(id)] = tail;
    return err != KVW_E_NOTFOUND;
}

static bool take_lanes(struct kvn_queue *q)
{
    bool moved = false;

    for (uint32_t slot = 0; slot < q->high; ++slot) {
        struct kvn_lane *l = &q->lane[slot];
        const uint32_t id = q->current[slot];

        if (id == 0 || atomic_load_explicit(&l->owner, memory_order_acquire) != id)
            continue;
        /* What a connection that is over doesn't take stays for poll(), with its CONN_DOWN. */
        if (!take_messages(q, l, id, &moved) || !take_puts(q, l, id, &moved))
            q->current[slot] = 0;
    }
    /* Only poll() ends the hunger: an application that is about to sleep sees it in ready(). */
    if (moved && atomic_load(&q->g->hungry))
        wake_application(q->g);
    return moved;
}

/* Whether a lane holds what take_lanes() hasn't looked at. */
static bool lanes_have_more(const struct kvn_queue *q)
{
    for (uint32_t slot = 0; slot < q->high; ++slot) {
        const struct kvn_lane *l = &q->lane[slot];
        const uint32_t id = q->current[slot];

        if (id != 0 && atomic_load(&l->owner) == id &&
            (atomic_load(&l->put_tail) != q->seen_put[slot] ||
             atomic_load(&l->msg_tail) != q->seen_msg[slot]))
            return true;
    }
    return false;
}

/* --- events --- */

/* A connection that the endpoint has made: its lane is read from now on. */
static void has_conn(struct kvn_queue *q, uint32_t id)
{
    const uint32_t slot = kvn_queues_slot(id);

    q->current[slot] = id;
    if (slot >= q->high)
        q->high = slot + 1;
}

/* How many events may be asked for: each may be a message of the longest. One of them may have to
 * leave the ring's end alone. */
static uint32_t room(const struct kvn_queue *q)
{
    const uint32_t events =
        KVN_EVENTS - (atomic_load_explicit(&q->event_tail, memory_order_relaxed) -
                      atomic_load_explicit(&q->event_head, memory_order_acquire));
    const uint32_t bytes =
        (KVN_EVENT_BYTES -
         (q->bytes_tail - atomic_load_explicit(&q->bytes_head, memory_order_acquire))) /
        KVW_MSG_BYTES_MAX;
    uint32_t n = bytes > 0 ? bytes - 1 : 0;

    n = events < n ? events : n;
    return n < KVN_EVENTS_AT_ONCE ? n : KVN_EVENTS_AT_ONCE;
}

/* Where in event_bytes so many lie in one piece. */
static uint32_t reserve(struct kvn_queue *q, uint32_t bytes)
{
    const uint32_t at = q->bytes_tail % KVN_EVENT_BYTES;

    if (KVN_EVENT_BYTES - at < bytes)
        q->bytes_tail += KVN_EVENT_BYTES - at;
    q->bytes_tail += bytes;
    return (q->bytes_tail - bytes) % KVN_EVENT_BYTES;
}

static void push(struct kvn_queue *q, uint32_t tail, const struct kvw_transport_event *ev)
{
    struct kvn_queued_event *e = &q->event[tail % KVN_EVENTS];
    const void *bytes = NULL;

    *e = (struct kvn_queued_event){.ev = *ev};
    e->ev.conn.value = kvn_queues_id(q->index, ev->conn);
    if (ev->kind == KVW_TEV_CONN_UP)
        has_conn(q, e->ev.conn.value);
    if (ev->kind == KVW_TEV_CONN_DOWN) {
        q->current[kvn_queues_slot(e->ev.conn.value)] = 0;
        bytes = ev->text;
        e->bytes = (uint32_t)strlen(ev->text) + 1;
    }
    if (ev->kind == KVW_TEV_MESSAGE) {
        bytes = ev->msg;
        e->bytes = ev->bytes;
    }
    if (e->bytes > 0) {
        e->at = reserve(q, e->bytes);
        memcpy(q->event_bytes + e->at, bytes, e->bytes);
    }
    e->end = q->bytes_tail;
}

/* Polls the endpoint. True: it may have more, and there is room for it. */
static bool hand_up(struct kvn_queue *q, uint64_t now_ns)
{
    struct kvw_transport_event ev[KVN_EVENTS_AT_ONCE];
    const uint32_t max = room(q);
    const uint32_t n = q->endpoint->ops->poll(q->endpoint, now_ns, ev, max);
    uint32_t tail = atomic_load_explicit(&q->event_tail, memory_order_relaxed);

    for (uint32_t i = 0; i < n; ++i)
        push(q, tail++, &ev[i]);
    if (n > 0) {
        atomic_store(&q->event_tail, tail);
        wake_application(q->g);
    }
    return n > 0 && n == max;
}

/* --- calls --- */

static void describe(struct kvn_queue *q, struct kvn_queue_stats *stats)
{
    kvn_packet_stats(q->endpoint, &stats->packets);
    kvn_steer_stats(q->g->steer, q->index, &stats->steer);
    stats->sleeps = q->sleeps;
}

static void answer(struct kvn_queue *q)
{
    struct kvw_transport *e = q->endpoint;
    struct kvn_call *c = atomic_load_explicit(&q->call, memory_order_acquire);

    if (c == NULL)
        return;
    c->err = KVW_OK;
    switch (c->kind) {
    case KVN_CALL_LISTEN:
        c->err = e->ops->listen(e);
        break;
    case KVN_CALL_CONNECT:
        c->err = e->ops->connect(e, c->peer, c->now_ns, &c->conn);
        if (c->err == KVW_OK) {
            c->conn.value = kvn_queues_id(q->index, c->conn);
            has_conn(q, c->conn.value);
        }
        break;
    case KVN_CALL_DISCONNECT:
        if (q->current[kvn_queues_slot(c->conn.value)] == c->conn.value)
            q->current[kvn_queues_slot(c->conn.value)] = 0;
        e->ops->disconnect(e, kvn_queues_inner(c->conn.value), c->now_ns);
        (void)hand_up(q, clock_ns()); /* the PUT_DONEs that the next poll() is due */
        break;
    case KVN_CALL_REGION_ADD:
        c->err = e->ops->region_add(e, c->mem, c->gate, c->gate_arg, &c->key);
        break;
    case KVN_CALL_REGION_REMOVE:
        c->err = e->ops->region_remove(e, &c->key);
        break;
    case KVN_CALL_STATS:
        describe(q, c->stats);
        break;
    case KVN_CALL_CLOSE:
        e->ops->close(e);
        q->endpoint = NULL;
        q->stop = true;
        break;
    }
    atomic_store(&q->call, NULL);
    sem_post(&q->answered);
}

static void sleep_until(struct kvn_queue *q, uint64_t until_ns)
{
    atomic_store(&q->asleep, true);
    if (atomic_load(&q->call) == NULL && !lanes_have_more(q) &&
        !kvn_steer_waiting(q->g->steer, q->index) && !(atomic_load(&q->blocked) && room(q) > 0)) {
        ++q->sleeps;
        q->endpoint->ops->wait(q->endpoint, until_ns, q->fd);
    }
    kvn_queue_awake(&q->asleep, q->fd, &q->owed);
}

void *kvn_queue_main(void *arg)
{
    struct kvn_queue *q = arg;

    while (!q->stop) {
        uint64_t now_ns, until_ns;

        answer(q);
        if (q->stop)
            break;
        (void)take_lanes(q);
        now_ns = clock_ns();
        /* What the poll made room for is taken before it sleeps. */
        if (hand_up(q, now_ns) || take_lanes(q))
            continue;
        until_ns = q->endpoint->ops->deadline_ns(q->endpoint);
        atomic_store(&q->blocked, room(q) == 0);
        if (atomic_load(&q->blocked) && until_ns < now_ns + BLOCKED_NS)
            until_ns = now_ns + BLOCKED_NS;
        if (until_ns > now_ns)
            sleep_until(q, until_ns);
    }
    return NULL;
}
