/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop.c - the reference transport: ends in one process that meet under a name. Read it to see what
 * transport.h means; nothing here is hidden by a network.
 *
 * One end listens under a name (kvn_config.listener), any others connect to it, each from its own
 * thread if they like. A name is a `hub`; its one mutex covers every end of it. That is the price
 * of being readable: a put is copied by the end that receives it, in its poll(), with the lock
 * held.
 *
 * What is queued for an end lies in that end's own memory, taken at open: per connection a ring of
 * messages, a table of puts that wait to be placed, and a ring of its own puts' outcomes. A fault
 * of reorder=P holds each put back with probability P for one to eight polls of its receiver, so
 * that later puts and messages overtake it.
 */
#include "../open.h"
#include "../put.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "loop.h"

/* Names that are open now. Lock order: hubs_lock, then a hub's own. */
static pthread_mutex_t hubs_lock = PTHREAD_MUTEX_INITIALIZER;
static struct loop_hub *hubs;

static struct loop_end *end_of(struct kvw_transport *t)
{
    return (struct loop_end *)(void *)t;
}

/* --- the operations -------------------------------------------------------------------------- */

static kvw_err loop_listen(struct kvw_transport *t)
{
    struct loop_end *e = end_of(t);
    kvw_err err = KVW_OK;

    pthread_mutex_lock(&e->hub->lock);
    if (!e->may_listen || e->listening)
        err = KVW_E_INVALID;
    else
        e->listening = true;
    pthread_mutex_unlock(&e->hub->lock);
    return err;
}

static kvw_err loop_connect(struct kvw_transport *t, const char *peer, uint64_t now_ns,
                            kvw_conn_id *conn)
{
    struct loop_end *e = end_of(t);
    struct loop_conn *mine, *theirs = NULL;
    struct loop_end *far;

    (void)peer; /* the hub's listener is the only one there is */
    (void)now_ns;
    pthread_mutex_lock(&e->hub->lock);
    mine = kvn_loop_conn_take(e);
    if (mine == NULL) {
        pthread_mutex_unlock(&e->hub->lock);
        return KVW_E_AGAIN;
    }
    far = e->hub->listener;
    if (far != NULL && far != e && far->listening)
        theirs = kvn_loop_conn_take(far);
    if (theirs == NULL) {
        mine->state = CONN_REFUSED;
        mine->down_err = KVW_E_PEER_LOST;
        mine->down_text = far != NULL && far->listening ? "the listener's connection table is full"
                                                        : "nobody listens under this name";
    } else {
        mine->state = theirs->state = CONN_LIVE;
        mine->up_due = theirs->up_due = true;
        theirs->incoming = true;
        mine->peer = far;
        mine->other = theirs;
        theirs->peer = e;
        theirs->other = mine;
        kvn_loop_end_wake(far);
    }
    *conn = mine->id;
    pthread_mutex_unlock(&e->hub->lock);
    return KVW_OK;
}

static void loop_disconnect(struct kvw_transport *t, kvw_conn_id id, uint64_t now_ns)
{
    struct loop_end *e = end_of(t);
    struct loop_conn *c;

    (void)now_ns;
    if (e->pid != getpid())
        return;
    pthread_mutex_lock(&e->hub->lock);
    if ((c = kvn_loop_conn_find(e, id)) != NULL) {
        if (c->state == CONN_LIVE)
            kvn_loop_conn_part(c, KVW_E_PEER_LOST, "the peer disconnected");
        c->state = CONN_LEFT;
    }
    pthread_mutex_unlock(&e->hub->lock);
}

static kvw_err loop_region_add(struct kvw_transport *t, const struct kvw_mem *mem,
                               kvw_put_gate gate, void *gate_arg, struct kvw_region_key *key)
{
    struct loop_end *e = end_of(t);
    kvw_err err = KVW_E_NOMEM;

    if (mem->kind != KVW_MEM_HOST)
        return KVW_E_UNSUPPORTED;
    pthread_mutex_lock(&e->hub->lock);
    for (uint32_t i = 0; i < KVW_REGIONS_MAX; ++i) {
        struct loop_region *r = &e->regions[i];
        uint32_t name[2];

        if (r->used)
            continue;
        *r = (struct loop_region){.used = true,
                                  .serial = ++e->next_serial,
                                  .mem = *mem,
                                  .gate = gate,
                                  .gate_arg = gate_arg};
        name[0] = i;
        name[1] = r->serial;
        memset(key, 0, sizeof(*key));
        memcpy(key->bytes, name, sizeof(name));
        err = KVW_OK;
        break;
    }
    pthread_mutex_unlock(&e->hub->lock);
    return err;
}

static struct loop_region *region_find(struct loop_end *e, const struct kvw_region_key *key)
{
    uint32_t name[2];

    memcpy(name, key->bytes, sizeof(name));
    if (name[0] >= KVW_REGIONS_MAX || !e->regions[name[0]].used ||
        e->regions[name[0]].serial != name[1])
        return NULL;
    return &e->regions[name[0]];
}

static kvw_err loop_region_remove(struct kvw_transport *t, const struct kvw_region_key *key)
{
    struct loop_end *e = end_of(t);
    struct loop_region *r;

    if (e->pid != getpid())
        return KVW_OK;
    pthread_mutex_lock(&e->hub->lock);
    if ((r = region_find(e, key)) != NULL)
        r->used = false;
    pthread_mutex_unlock(&e->hub->lock);
    return r != NULL ? KVW_OK : KVW_E_NOTFOUND;
}

static kvw_err loop_send(struct kvw_transport *t, kvw_conn_id id, const void *msg, uint32_t bytes)
{
    struct loop_end *e = end_of(t);
    struct loop_conn *c;
    kvw_err err = KVW_OK;

    if (bytes == 0 || bytes > KVW_MSG_BYTES_MAX)
        return KVW_E_INVALID;
    pthread_mutex_lock(&e->hub->lock);
    c = kvn_loop_conn_find(e, id);
    if (c == NULL) {
        err = KVW_E_NOTFOUND;
    } else if (c->state != CONN_LIVE) {
        err = KVW_E_NOTFOUND; /* its CONN_DOWN is on the way */
    } else if (!kvn_loop_ring_push(c->other, msg, bytes)) {
        c->other->ring_refused = true;
        kvn_loop_end_wake(c->peer); /* what it has reported it gives back in its next poll alone */
        err = KVW_E_AGAIN;
    } else {
        ++e->stats.packets_sent;
        e->stats.bytes_sent += bytes;
        kvn_loop_end_wake(c->peer);
    }
    pthread_mutex_unlock(&e->hub->lock);
    return err;
}

/* Copy a put into the memory of the end e that receives it by c; false: it may not be there. */
static bool place(struct loop_end *e, const struct loop_conn *c, const struct kvw_put *put,
                  uint32_t bytes)
{
    const struct loop_region *r = region_find(e, &put->key);
    unsigned char *to;

    if (r == NULL || put->offset > r->mem.bytes || bytes > r->mem.bytes - put->offset ||
        (r->gate != NULL && !r->gate(r->gate_arg, c->id, put->offset, bytes, put->imm)))
        return false;
    to = (unsigned char *)r->mem.base + put->offset;
    for (uint32_t i = 0; i < put->iov_count; ++i) {
        memcpy(to, put->iov[i].base, put->iov[i].bytes);
        to += put->iov[i].bytes;
    }
    return true;
}

static kvw_err loop_put(struct kvw_transport *t, kvw_conn_id id, const struct kvw_put *put)
{
    struct loop_end *e = end_of(t);
    struct loop_conn *c;
    const uint32_t bytes = kvn_put_bytes(put);
    kvw_err err = KVW_OK;

    if (bytes == 0)
        return KVW_E_INVALID;
    pthread_mutex_lock(&e->hub->lock);
    c = kvn_loop_conn_find(e, id);
    if (c == NULL || c->state != CONN_LIVE) {
        err = KVW_E_NOTFOUND;
    } else if (c->in_flight == LOOP_PUTS || c->other->put_count == LOOP_PUTS) {
        err = KVW_E_AGAIN; /* a PUT_DONE comes when there is room: see LOOP_EARLY */
    } else {
        struct loop_conn *to = c->other;
        struct loop_put_in *p = &to->puts[to->order[to->put_count]];

        p->put = *put;
        p->stamp = to->next_stamp++;
        p->hold = kvn_loop_end_random(e) < e->reorder_2_32
                      ? 1 + kvn_loop_end_random(e) % LOOP_HOLD_MAX
                      : 0;
        ++to->put_count;
        ++c->in_flight;
        p->placed = p->hold == 0 && to->put_count <= LOOP_EARLY && place(c->peer, to, put, bytes);
        if (p->placed) {
            kvn_loop_conn_push_done(c, put->cookie, KVW_OK);
            kvn_loop_end_wake(e);
        }
        ++e->stats.packets_sent;
        e->stats.bytes_sent += bytes;
        e->stats.put_bytes_sent += bytes;
        kvn_loop_end_wake(c->peer);
    }
    pthread_mutex_unlock(&e->hub->lock);
    return err;
}

/* A put's turn has come: it is in this end's memory now, or ends the connection (rule 5). */
static bool land(struct loop_end *e, struct loop_conn *c, const struct loop_put_in *p,
                 struct kvw_transport_event *ev)
{
    const struct kvw_put *put = &p->put;
    const uint32_t bytes = kvn_put_bytes(put);

    if (!p->placed && !place(e, c, put, bytes)) {
        kvn_loop_conn_push_done(c->other, put->cookie, KVW_E_PROTOCOL);
        kvn_loop_conn_part(c, KVW_E_PROTOCOL, "a put lay outside of what the receiver allows");
        ++e->stats.packets_rejected;
        return false;
    }
    if (!p->placed) {
        kvn_loop_conn_push_done(c->other, put->cookie, KVW_OK);
        kvn_loop_end_wake(c->peer);
    }
    ++e->stats.packets_received;
    e->stats.bytes_received += bytes;
    e->stats.put_bytes_received += bytes;
    *ev = (struct kvw_transport_event){.kind = KVW_TEV_PUT_LANDED,
                                       .conn = c->id,
                                       .incoming = c->incoming,
                                       .offset = put->offset,
                                       .bytes = bytes,
                                       .imm = put->imm};
    return true;
}

/* One event about c, or false when there is none now. */
static bool conn_next(struct loop_end *e, struct loop_conn *c, struct kvw_transport_event *ev)
{
    struct loop_msg_head h;
    const unsigned char *msg;
    uint32_t k = 0;

    *ev = (struct kvw_transport_event){.conn = c->id, .incoming = c->incoming};
    if (c->up_due && c->state != CONN_LEFT) {
        c->up_due = false;
        ev->kind = KVW_TEV_CONN_UP;
        return true;
    }
    if (c->done_count > 0) {
        ev->kind = KVW_TEV_PUT_DONE;
        ev->cookie = c->done[c->done_head].cookie;
        ev->err = c->done[c->done_head].err;
        c->done_head = (c->done_head + 1) % LOOP_PUTS;
        --c->done_count;
        --c->in_flight;
        return true;
    }
    if (c->state == CONN_LEFT || c->state == CONN_SPENT) {
        c->state = CONN_SPENT;
        return false;
    }
    msg = kvn_loop_ring_peek(c, &h);
    while (k < c->put_count && c->puts[c->order[k]].hold > 0)
        ++k;
    if (k < c->put_count && (msg == NULL || c->puts[c->order[k]].stamp < h.stamp)) {
        const struct loop_put_in *p = kvn_loop_conn_pop_put(c, k);

        if (land(e, c, p, ev))
            return true;
        return conn_next(e, c, ev); /* broken now: outcomes first, CONN_DOWN last */
    }
    if (msg != NULL) {
        kvn_loop_ring_pop(c, &h);
        ++e->stats.packets_received;
        e->stats.bytes_received += h.bytes;
        ev->kind = KVW_TEV_MESSAGE;
        ev->msg = msg;
        ev->bytes = h.bytes;
        return true;
    }
    if (c->state != CONN_REFUSED && c->state != CONN_BROKEN)
        return false;
    c->state = CONN_SPENT;
    ev->kind = KVW_TEV_CONN_DOWN;
    ev->err = c->down_err;
    ev->text = c->down_text;
    return true;
}

/* A new poll: what the last one reported is the ring's again, and held puts come a poll nearer. */
static void conn_new_poll(struct loop_conn *c)
{
    if (c->state == CONN_SPENT)
        c->state = CONN_FREE;
    c->room_due = false;
    if (c->ring_refused && c->ring_reported > 0 && c->state == CONN_LIVE) {
        c->ring_refused = false;
        c->other->room_due = true;
        kvn_loop_end_wake(c->peer);
    }
    c->ring_used -= c->ring_reported;
    c->ring_reported = 0;
    for (uint32_t k = 0; k < c->put_count; ++k)
        if (c->puts[c->order[k]].hold > 0)
            --c->puts[c->order[k]].hold;
}

static uint32_t loop_poll(struct kvw_transport *t, uint64_t now_ns,
                          struct kvw_transport_event *events, uint32_t max)
{
    struct loop_end *e = end_of(t);
    uint32_t n = 0;

    (void)now_ns;
    pthread_mutex_lock(&e->hub->lock);
    for (uint32_t i = 0; i < LOOP_CONNS; ++i)
        if (e->conns[i].state != CONN_FREE)
            conn_new_poll(&e->conns[i]);
    for (uint32_t i = 0; i < LOOP_CONNS && n < max; ++i) {
        struct loop_conn *c = &e->conns[(e->turn + i) % LOOP_CONNS];

        while (n < max && c->state != CONN_FREE && conn_next(e, c, &events[n]))
            ++n;
    }
    e->turn = (e->turn + 1) % LOOP_CONNS;
    pthread_mutex_unlock(&e->hub->lock);
    return n;
}

/* Whether a poll now would report something, bring a held put nearer, or give or find room. */
static bool end_has_work(const struct loop_end *e)
{
    for (uint32_t i = 0; i < LOOP_CONNS; ++i) {
        const struct loop_conn *c = &e->conns[i];

        if (c->state != CONN_FREE &&
            (c->up_due || c->done_count > 0 || c->put_count > 0 ||
             c->ring_used > c->ring_reported || c->room_due ||
             (c->ring_refused && c->ring_reported > 0) || c->state != CONN_LIVE))
            return true;
    }
    return false;
}

static uint64_t loop_deadline_ns(const struct kvw_transport *t)
{
    struct loop_end *e = end_of((struct kvw_transport *)(uintptr_t)t);
    bool work;

    pthread_mutex_lock(&e->hub->lock);
    work = end_has_work(e);
    pthread_mutex_unlock(&e->hub->lock);
    return work ? 0 : UINT64_MAX;
}

static int loop_fd(struct kvw_transport *t)
{
    return end_of(t)->wake_fd;
}

static bool loop_arm(struct kvw_transport *t, uint64_t *until_ns)
{
    struct loop_end *e = end_of(t);
    bool work;

    (void)until_ns;
    pthread_mutex_lock(&e->hub->lock);
    work = end_has_work(e);
    e->asleep = !work;
    pthread_mutex_unlock(&e->hub->lock);
    return !work;
}

/* The descriptor is emptied under the lock, so that no wake written after this is lost. */
static void loop_disarm(struct kvw_transport *t)
{
    struct loop_end *e = end_of(t);
    uint64_t count;

    pthread_mutex_lock(&e->hub->lock);
    e->asleep = false;
    if (read(e->wake_fd, &count, sizeof(count)) < 0)
        count = 0; /* nobody had woken it */
    pthread_mutex_unlock(&e->hub->lock);
}

static void loop_wait(struct kvw_transport *t, uint64_t until_ns, int wake_fd)
{
    struct pollfd fds[2] = {{.fd = loop_fd(t), .events = POLLIN},
                            {.fd = wake_fd, .events = POLLIN}};
    struct timespec now, left;
    uint64_t now_ns, left_ns;

    clock_gettime(CLOCK_MONOTONIC, &now);
    now_ns = (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
    left_ns = until_ns > now_ns ? until_ns - now_ns : 0;
    if (left_ns > 3600ull * 1000000000ull) /* ppoll's time must not overflow; early is allowed */
        left_ns = 3600ull * 1000000000ull;
    left = (struct timespec){(time_t)(left_ns / 1000000000ull), (long)(left_ns % 1000000000ull)};

    if (!loop_arm(t, &until_ns))
        return;
    (void)ppoll(fds, wake_fd >= 0 ? 2 : 1, &left, NULL); /* early return is always allowed */
    loop_disarm(t);
}

static void loop_stats(const struct kvw_transport *t, struct kvw_transport_stats *stats)
{
    struct loop_end *e = end_of((struct kvw_transport *)(uintptr_t)t);

    pthread_mutex_lock(&e->hub->lock);
    *stats = e->stats;
    pthread_mutex_unlock(&e->hub->lock);
}

/* --- names: open and close ------------------------------------------------------------------- */

/* The hub of that name, made if need be, with one more end. NULL: no memory. */
static struct loop_hub *hub_get(const char *name)
{
    struct loop_hub *h;

    for (h = hubs; h != NULL; h = h->next)
        if (strcmp(h->name, name) == 0)
            break;
    if (h == NULL) {
        h = calloc(1, sizeof(*h));
        if (h == NULL)
            return NULL;
        snprintf(h->name, sizeof(h->name), "%s", name);
        pthread_mutex_init(&h->lock, NULL);
        h->next = hubs;
        hubs = h;
    }
    ++h->ends;
    return h;
}

static void hub_put(struct loop_hub *hub)
{
    if (--hub->ends > 0)
        return;
    for (struct loop_hub **h = &hubs; *h != NULL; h = &(*h)->next) {
        if (*h == hub) {
            *h = hub->next;
            break;
        }
    }
    pthread_mutex_destroy(&hub->lock);
    free(hub);
}

static void loop_close(struct kvw_transport *t)
{
    struct loop_end *e;

    if (t == NULL)
        return;
    e = end_of(t);
    if (e->pid != getpid()) /* another thread may have held the locks when it forked */
        goto free_end;
    pthread_mutex_lock(&hubs_lock);
    pthread_mutex_lock(&e->hub->lock);
    for (uint32_t i = 0; i < LOOP_CONNS; ++i)
        if (e->conns[i].state == CONN_LIVE)
            kvn_loop_conn_part(&e->conns[i], KVW_E_PEER_LOST, "the peer closed its end");
    if (e->hub->listener == e)
        e->hub->listener = NULL;
    pthread_mutex_unlock(&e->hub->lock);
    hub_put(e->hub);
    pthread_mutex_unlock(&hubs_lock);
free_end:
    close(e->wake_fd);
    free(e->rings);
    free(e);
}

static const struct kvw_transport_ops loop_ops = {
    .name = "loop",
    .listen = loop_listen,
    .connect = loop_connect,
    .disconnect = loop_disconnect,
    .region_add = loop_region_add,
    .region_remove = loop_region_remove,
    .send = loop_send,
    .put = loop_put,
    .poll = loop_poll,
    .deadline_ns = loop_deadline_ns,
    .wait = loop_wait,
    .fd = loop_fd,
    .arm = loop_arm,
    .disarm = loop_disarm,
    .stats = loop_stats,
    .close = loop_close,
};

/* "reorder=0.1,seed=7". Nothing else can go wrong in one process's memory, and none
 * is pretended. */
static kvw_err fault_parse(const char *fault, struct loop_end *e, char why[KVN_WHY_BYTES])
{
    const char *at = fault;

    while (at != NULL && *at != '\0') {
        const char *eq = strchr(at, '=');
        char *end = NULL;
        const double value = eq != NULL ? strtod(eq + 1, &end) : 0;

        if (eq == NULL || end == eq + 1 || (*end != '\0' && *end != ',') || !(value >= 0)) {
            snprintf(why, KVN_WHY_BYTES, "loop: fault '%.80s' is not KEY=NUMBER[,...]", at);
            return KVW_E_INVALID;
        }
        if (eq - at == 7 && strncmp(at, "reorder", 7) == 0 && value <= 1) {
            e->reorder_2_32 = (uint32_t)(value * 4294967295.0);
        } else if (eq - at == 4 && strncmp(at, "seed", 4) == 0 && value < 1.8e19) {
            e->rng = (uint64_t)value;
        } else {
            snprintf(why, KVN_WHY_BYTES,
                     "loop: fault '%.80s': only reorder=0..1 and seed=N exist here, memory neither "
                     "loses nor damages (udp and dpdk do)",
                     at);
            return KVW_E_INVALID;
        }
        at = *end == ',' ? end + 1 : end;
    }
    return KVW_OK;
}

static kvw_err end_new(struct loop_end **end, const struct kvn_config *cfg, char why[KVN_WHY_BYTES])
{
    struct loop_end *e = calloc(1, sizeof(*e));
    kvw_err err = KVW_E_NOMEM;

    snprintf(why, KVN_WHY_BYTES, "loop %s: out of memory", cfg->local);
    if (e == NULL)
        return KVW_E_NOMEM;
    e->transport.ops = &loop_ops;
    e->may_listen = cfg->listener;
    if ((err = fault_parse(cfg->fault, e, why)) != KVW_OK)
        goto free_end;
    err = KVW_E_NOMEM;
    e->pid = getpid();
    if ((e->rings = malloc((size_t)LOOP_CONNS * LOOP_RING)) == NULL)
        goto free_end;
    for (uint32_t i = 0; i < LOOP_CONNS; ++i)
        e->conns[i].ring = e->rings + (size_t)i * LOOP_RING;
    if ((e->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0) {
        snprintf(why, KVN_WHY_BYTES, "loop %s: eventfd: %s", cfg->local, strerror(errno));
        err = KVW_E_IO;
        goto free_rings;
    }
    *end = e;
    return KVW_OK;

free_rings:
    free(e->rings);
free_end:
    free(e);
    return err;
}

KVN_OPEN_DECLARE(loop);

kvw_err kvn_open_loop(struct kvw_transport **t, const struct kvn_config *cfg,
                      char why[KVN_WHY_BYTES])
{
    struct loop_end *e;
    kvw_err err;

    if (cfg->local == NULL || cfg->local[0] == '\0' || strlen(cfg->local) > LOOP_NAME_MAX) {
        snprintf(why, KVN_WHY_BYTES, "loop: the local address is a name of 1 to %u bytes",
                 LOOP_NAME_MAX);
        return KVW_E_ADDRESS;
    }
    if ((err = end_new(&e, cfg, why)) != KVW_OK)
        return err;

    pthread_mutex_lock(&hubs_lock);
    if ((e->hub = hub_get(cfg->local)) == NULL) {
        err = KVW_E_NOMEM;
        goto free_end;
    }
    if (cfg->listener && e->hub->listener != NULL) {
        snprintf(why, KVN_WHY_BYTES, "loop: the name '%s' already has a listener", cfg->local);
        err = KVW_E_ADDRESS;
        goto put_hub;
    }
    if (cfg->listener) {
        pthread_mutex_lock(&e->hub->lock);
        e->hub->listener = e;
        pthread_mutex_unlock(&e->hub->lock);
    }
    pthread_mutex_unlock(&hubs_lock);
    why[0] = '\0';
    *t = &e->transport;
    return KVW_OK;

put_hub:
    hub_put(e->hub);
free_end:
    pthread_mutex_unlock(&hubs_lock);
    close(e->wake_fd);
    free(e->rings);
    free(e);
    return err;
}
