/* SPDX-License-Identifier: Apache-2.0 */
/* The transport's operations: opening and closing, poll() and wait(). */
#include "../open.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "impl.h"

#define EVENTS    32
#define RAIL_BASE 1u /* epoll data: 0 the listener, then rails, then connections */
#define CM_EVENTS 999u
#define CONN_BASE 1000u /* side.c's watch() */
#define POLLS_MAX 8u    /* batches of completions in one poll() */
#define HOUR_NS   3600000000000ull
#define DIED      "the device is gone"

/* --- operations ------------------------------------------------------------------------------- */

static kvw_err verbs_listen(struct kvw_transport *t)
{
    struct end *e = kvn_verbs_end(t);
    struct epoll_event ev = {.events = EPOLLIN, .data = {.u32 = 0}};

    if (!e->may_listen || e->listening)
        return KVW_E_INVALID;
    if (epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, e->listen_fd, &ev) != 0)
        return KVW_E_IO;
    e->listening = true;
    return KVW_OK;
}

static kvw_err verbs_connect(struct kvw_transport *t, const char *peer, uint64_t now_ns,
                             kvw_conn_id *conn)
{
    struct end *e = kvn_verbs_end(t);
    struct kvn_addr to;
    struct conn *c;

    if (peer == NULL && e->peer[0] != '\0')
        peer = e->peer;
    if (peer == NULL || kvn_addr_parse(&to, peer) != KVW_OK)
        return KVW_E_ADDRESS;
    e->now_ns = now_ns;
    if ((c = kvn_verbs_conn_take(e)) == NULL)
        return KVW_E_AGAIN;
    if (!kvn_verbs_side_dial(e, c, &to)) {
        c->state = CONN_FREE;
        return KVW_E_IO;
    }
    *conn = c->id;
    kvn_verbs_act(e);
    return KVW_OK;
}

static void verbs_disconnect(struct kvw_transport *t, kvw_conn_id id, uint64_t now_ns)
{
    struct end *e = kvn_verbs_end(t);

    if (e->pid != getpid())
        return;
    e->now_ns = now_ns;
    kvn_verbs_act(e);
    for (uint32_t i = 0; i < VERBS_CONNS; ++i)
        if (e->conns[i].state != CONN_FREE && e->conns[i].id.value == id.value)
            kvn_verbs_conn_leave(e, &e->conns[i]);
    kvn_verbs_act(e);
}

/* What a side channel brings; after each frame, what it showed. */
static void look_at_side(struct end *e, struct conn *c, uint32_t events)
{
    struct side_frame f;

    if ((events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) != 0 && c->fd >= 0) {
        if (!c->connecting)
            kvn_verbs_side_write(e, c);
        else if (kvn_verbs_side_connected(e, c))
            kvn_verbs_handshake_begin(e, c);
    }
    if ((events & (EPOLLIN | EPOLLERR | EPOLLHUP)) == 0)
        return;
    while (kvn_verbs_side_next(e, c, &f)) {
        kvn_verbs_handshake_frame(e, c, f.type, f.body, f.bytes);
        kvn_verbs_act(e);
    }
}

/* The descriptors: side channels, events of devices. Calls of the system, so not at every poll. */
static void look(struct end *e)
{
    struct epoll_event ev[EVENTS];
    const int n = epoll_wait(e->epoll_fd, ev, EVENTS, 0);

    e->looked_ns = e->now_ns;
    e->look = n == EVENTS;
    for (int i = 0; i < n; ++i) {
        const uint32_t who = ev[i].data.u32;

        if (who == 0) {
            kvn_verbs_side_accept(e);
        } else if (who == CM_EVENTS) {
            kvn_verbs_cm_events(e);
        } else if (who < CONN_BASE) {
            kvn_verbs_rail_events(e, &e->rails[who - RAIL_BASE]);
        } else {
            look_at_side(e, &e->conns[who - CONN_BASE], ev[i].events);
        }
        kvn_verbs_act(e);
    }
}

/* A driver that can't take a device away from its users (rxe) says nothing when it is removed, and
 * waits for them to go: so its directory is watched. */
static void presence(struct end *e)
{
    e->present_ns = e->now_ns;
    for (uint32_t i = 0; i < e->rail_count; ++i)
        if (e->rails[i].alive && e->rails[i].path[0] != '\0' && access(e->rails[i].path, F_OK) != 0)
            kvn_verbs_rail_dead(e, &e->rails[i], DIED);
    kvn_verbs_act(e);
}

/* Whether somebody waits for what the side channel brings: to be joined, or for a key or
 * its end. */
static bool listens(const struct end *e)
{
    for (uint32_t i = 0; i < VERBS_CONNS; ++i) {
        const struct conn *c = &e->conns[i];

        if (c->state != CONN_FREE && c->state < CONN_OVER &&
            (c->state < CONN_LIVE || c->parked.count > 0 || c->shutting > 0))
            return true;
    }
    return false;
}

static void forgive(uint64_t *since_ns, uint64_t gap, uint64_t now_ns)
{
    *since_ns += gap < now_ns - *since_ns ? gap : now_ns - *since_ns;
}

/* Whoever wasn't polled for a while heard nothing meanwhile; that isn't the peers' silence. */
static void begin_poll(struct end *e)
{
    const uint64_t gap = e->now_ns > e->polled_ns ? e->now_ns - e->polled_ns : 0;

    e->polled_ns = e->now_ns;
    for (uint32_t i = 0; i < VERBS_CONNS && gap >= KVW_PEER_DEAD_NS / 2; ++i) {
        forgive(&e->conns[i].heard_ns, gap, e->now_ns);
        forgive(&e->conns[i].begun_ns, gap, e->now_ns);
    }
    kvn_verbs_act(e); /* what the operations between two polls reported */
    kvn_verbs_rx_forget(e);
    for (uint32_t i = 0; i < VERBS_CONNS; ++i) {
        e->conns[i].assembly_out = false;
        if (e->conns[i].state == CONN_SPENT)
            e->conns[i].state = CONN_FREE;
    }
}

/* What is in the completion queues; after each batch, what it showed. */
static void complete(struct end *e, struct rail *r)
{
    for (uint32_t k = 0; k < POLLS_MAX && r->alive; ++k) {
        const bool some = kvn_verbs_rx_poll(e, r);

        kvn_verbs_act(e);
        if (!some)
            break;
    }
}

static void tick(struct end *e)
{
    for (uint32_t i = 0; i < VERBS_CONNS; ++i) {
        kvn_verbs_conn_tick(e, &e->conns[i]);
        kvn_verbs_act(e);
    }
}

/* An event may show the end of its connection, which has events of its own. */
static bool next_event(struct end *e, struct conn *c, struct kvw_transport_event *ev)
{
    if (kvn_verbs_rx_event(e, c, ev))
        return true;
    if (!e->reported)
        return false;
    kvn_verbs_act(e);
    return kvn_verbs_rx_event(e, c, ev);
}

static uint32_t verbs_poll(struct kvw_transport *t, uint64_t now_ns,
                           struct kvw_transport_event *events, uint32_t max)
{
    struct end *e = kvn_verbs_end(t);
    uint32_t n = 0;

    e->now_ns = now_ns;
    begin_poll(e);
    for (uint32_t i = 0; i < e->rail_count; ++i)
        complete(e, &e->rails[i]);
    if (e->look || now_ns - e->looked_ns >= VERBS_LOOK_NS || listens(e))
        look(e);
    if (now_ns - e->present_ns >= VERBS_PRESENT_NS)
        presence(e);
    tick(e);
    for (uint32_t i = 0; i < VERBS_CONNS && n < max; ++i) {
        struct conn *c = &e->conns[(e->turn + i) % VERBS_CONNS];

        while (n < max && next_event(e, c, &events[n]))
            ++n;
    }
    e->turn = (e->turn + 1) % VERBS_CONNS;
    for (uint32_t i = 0; i < e->rail_count; ++i)
        kvn_verbs_rail_give(&e->rails[i]);
    for (uint32_t i = 0; i < VERBS_CONNS; ++i)
        kvn_verbs_tx_pump(e, &e->conns[i]);
    kvn_verbs_act(e);
    return n;
}

static uint64_t verbs_deadline_ns(const struct kvw_transport *t)
{
    const struct end *e = kvn_verbs_end(t);
    uint64_t at = UINT64_MAX;

    if (e->look)
        return 0;
    for (uint32_t i = 0; i < e->rail_count; ++i)
        if (e->rails[i].sent.at != e->rails[i].sent.count ||
            e->rails[i].received.at != e->rails[i].received.count)
            return 0;
    for (uint32_t i = 0; i < VERBS_CONNS; ++i) {
        const uint64_t one = kvn_verbs_conn_deadline(e, &e->conns[i]);

        if (one < at)
            at = one;
    }
    return at;
}

static int verbs_fd(struct kvw_transport *t)
{
    return kvn_verbs_end(t)->epoll_fd;
}

static bool verbs_arm(struct kvw_transport *t, uint64_t *until_ns)
{
    struct end *e = kvn_verbs_end(t);

    (void)until_ns;
    for (uint32_t i = 0; i < e->rail_count; ++i)
        if (kvn_verbs_rail_arm(&e->rails[i]))
            return false;
    return true;
}

static void verbs_disarm(struct kvw_transport *t)
{
    kvn_verbs_end(t)->look = true; /* poll() empties the descriptor */
}

static void verbs_wait(struct kvw_transport *t, uint64_t until_ns, int wake_fd)
{
    struct end *e = kvn_verbs_end(t);
    struct pollfd fds[2] = {{.fd = e->epoll_fd, .events = POLLIN},
                            {.fd = wake_fd, .events = POLLIN}};
    struct timespec now, left;
    uint64_t now_ns, left_ns;

    for (uint32_t i = 0; i < e->rail_count; ++i)
        if (kvn_verbs_rail_arm(&e->rails[i]))
            return;
    clock_gettime(CLOCK_MONOTONIC, &now);
    now_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    if (until_ns <= now_ns)
        return;
    left_ns = until_ns - now_ns < HOUR_NS ? until_ns - now_ns : HOUR_NS;
    left = (struct timespec){(time_t)(left_ns / 1000000000u), (long)(left_ns % 1000000000u)};
    if (ppoll(fds, wake_fd >= 0 ? 2 : 1, &left, NULL) > 0 && (fds[0].revents & POLLIN) != 0)
        e->look = true;
}

static void verbs_stats(const struct kvw_transport *t, struct kvw_transport_stats *stats)
{
    *stats = kvn_verbs_end(t)->stats;
}

const char *kvn_verbs_about(const struct kvw_transport *t)
{
    return kvn_verbs_end(t)->about;
}

uint16_t kvn_verbs_port(const struct kvw_transport *t)
{
    return kvn_verbs_end(t)->port;
}

void kvn_verbs_counters(const struct kvw_transport *t, struct kvn_verbs_counters *c)
{
    *c = kvn_verbs_end(t)->counters;
}

/* --- opening and closing ---------------------------------------------------------------------- */

/* In a child of fork(): descriptors and memory of its own. A call of the device would destroy what
 * the parent uses; its objects' memory goes with the process. */
static void close_copy(struct end *e)
{
    for (uint32_t i = 0; i < VERBS_CONNS; ++i)
        if (e->conns[i].fd >= 0)
            close(e->conns[i].fd);
    if (e->listen_fd >= 0)
        close(e->listen_fd);
    close(e->epoll_fd);
    if (e->map != NULL)
        munmap(e->map, e->map_bytes);
    free(e->held);
    free(e);
}

static void verbs_close(struct kvw_transport *t)
{
    struct end *e;

    if (t == NULL)
        return;
    e = kvn_verbs_end(t);
    if (e->pid != getpid()) {
        close_copy(e);
        return;
    }
    for (uint32_t i = 0; i < VERBS_CONNS; ++i) {
        kvn_verbs_act(e);
        kvn_verbs_conn_leave(e, &e->conns[i]);
    }
    kvn_verbs_cm_close(e);
    kvn_verbs_mem_close(e);
    for (uint32_t i = 0; i < e->rail_count; ++i)
        kvn_verbs_rail_close(&e->rails[i]);
    if (e->listen_fd >= 0)
        close(e->listen_fd);
    if (e->epoll_fd >= 0)
        close(e->epoll_fd);
    if (e->map != NULL)
        munmap(e->map, e->map_bytes);
    free(e->held);
    free(e);
}

static const struct kvw_transport_ops verbs_ops = {
    .name = "verbs",
    .listen = verbs_listen,
    .connect = verbs_connect,
    .disconnect = verbs_disconnect,
    .region_add = kvn_verbs_region_add,
    .region_remove = kvn_verbs_region_remove,
    .region_open = kvn_verbs_region_open,
    .region_shut = kvn_verbs_region_shut,
    .source_add = kvn_verbs_source_add,
    .source_remove = kvn_verbs_source_remove,
    .send = kvn_verbs_send,
    .put = kvn_verbs_put,
    .poll = verbs_poll,
    .deadline_ns = verbs_deadline_ns,
    .wait = verbs_wait,
    .fd = verbs_fd,
    .arm = verbs_arm,
    .disarm = verbs_disarm,
    .stats = verbs_stats,
    .close = verbs_close,
};

static size_t take(size_t *at, size_t bytes)
{
    const size_t here = *at;

    *at += (bytes + 4095) & ~(size_t)4095;
    return here;
}

/* Where everything lies in the mapping. */
static kvw_err lay_out(struct end *e, char why[KVN_WHY_BYTES])
{
    const uint32_t receives = VERBS_CONNS * e->cfg.qps * VERBS_CREDIT;
    size_t recv[VERBS_RAILS], cells, ctl, copy, assembly, at = 0;
    void *map;

    for (uint32_t i = 0; i < e->rail_count; ++i)
        recv[i] = take(&at, (size_t)receives * VERBS_RECV_BYTES);
    cells = take(&at, (size_t)VERBS_CONNS * VERBS_MSG_CELLS * VERBS_RECV_BYTES);
    ctl = take(&at, (size_t)VERBS_CONNS * VERBS_PATHS * VERBS_SQ * VERBS_CTL_BYTES);
    copy = take(&at, (size_t)VERBS_COPY_COUNT * VERBS_COPY_BLOCK);
    assembly = take(&at, (size_t)VERBS_CONNS * KVW_MSG_BYTES_MAX);
    e->map_bytes = at;
    map = mmap(NULL, at, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    e->held_max = receives * e->rail_count;
    e->held = calloc(e->held_max, sizeof(e->held[0]));
    if (map == MAP_FAILED || e->held == NULL) {
        if (map != MAP_FAILED)
            munmap(map, at);
        snprintf(why, KVN_WHY_BYTES, "verbs: no memory for %zu MiB of buffers", at >> 20);
        return KVW_E_NOMEM;
    }
    e->map = map;
    for (uint32_t i = 0; i < e->rail_count; ++i) {
        e->rails[i].recv = e->map + recv[i];
        e->rails[i].recv_count = receives;
    }
    e->cells = e->map + cells;
    e->ctl = e->map + ctl;
    e->copy = e->map + copy;
    for (uint32_t i = 0; i < VERBS_CONNS; ++i)
        e->conns[i].assembly = e->map + assembly + (size_t)i * KVW_MSG_BYTES_MAX;
    return KVW_OK;
}

/* Whether keys can be scoped to an offer, and the sentence about it. */
static void keys_about(struct end *e)
{
    const size_t n = strlen(e->about);
    const char *without = NULL;

    for (uint32_t i = 0; i < e->rail_count; ++i)
        if ((e->rails[i].attr.device_cap_flags & IBV_DEVICE_MEM_WINDOW) == 0)
            without = e->rails[i].ctx->device->name;
    e->windows = without == NULL && !e->cfg.no_mw;
    if (e->windows)
        snprintf(e->about + n, sizeof(e->about) - n, ". Keys live with the offer (memory windows)");
    else if (e->cfg.no_mw)
        snprintf(e->about + n, sizeof(e->about) - n, ". Keys live with the region: mw=0");
    else
        snprintf(e->about + n, sizeof(e->about) - n,
                 ". Keys live with the region: %s has no memory windows", without);
}

static kvw_err open_rails(struct end *e, char why[KVN_WHY_BYTES])
{
    kvw_err err;

    for (uint32_t i = 0; i < e->cfg.rail_count; ++i) {
        struct rail *r = &e->rails[i];

        e->rail_count = i + 1;
        err = kvn_verbs_device_open(r, &e->cfg.rails[i], e->about, sizeof(e->about), why);
        if (err != KVW_OK)
            return err;
        if (e->cfg.mtu != 0 && 128u << r->mtu < e->cfg.mtu) {
            snprintf(why, KVN_WHY_BYTES,
                     "verbs: mtu=%u is more than %.40s has now (%u); raise its interface's MTU (ip "
                     "link set ... mtu) on both sides, or ask for less",
                     e->cfg.mtu, r->ctx->device->name, 128u << r->mtu);
            return KVW_E_DEVICE;
        }
        while (e->cfg.mtu != 0 && 128u << r->mtu > e->cfg.mtu)
            --r->mtu;
    }
    keys_about(e);
    e->about_fixed = strlen(e->about);
    if ((err = lay_out(e, why)) != KVW_OK)
        return err;
    for (uint32_t i = 0; i < e->rail_count; ++i)
        if ((err = kvn_verbs_rail_open(e, &e->rails[i], why)) != KVW_OK)
            return err;
    return KVW_OK;
}

static kvw_err watch_rails(struct end *e, char why[KVN_WHY_BYTES])
{
    for (uint32_t i = 0; i < e->rail_count; ++i) {
        struct epoll_event ev = {.events = EPOLLIN, .data = {.u32 = RAIL_BASE + i}};

        if (epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, e->rails[i].channel->fd, &ev) != 0 ||
            epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, e->rails[i].ctx->async_fd, &ev) != 0) {
            snprintf(why, KVN_WHY_BYTES, "verbs: epoll: %s", strerror(errno));
            return KVW_E_IO;
        }
    }
    return KVW_OK;
}

/* Where the side channel listens: told, or the first device's own address. */
static kvw_err open_side(struct end *e, char why[KVN_WHY_BYTES])
{
    const union ibv_gid *gid = &e->rails[0].gid.gid;
    struct kvn_addr at = e->cfg.side;

    if (at.family == 0 && e->cfg.rails[0].ip.family != 0)
        at = e->cfg.rails[0].ip;
    if (at.family == 0 && gid->raw[10] == 0xff && gid->raw[11] == 0xff) {
        at.family = 4;
        memcpy(at.ip, gid->raw + 12, 4);
    }
    if (at.family == 0) { /* a GID that is no IPv4 address: any */
        at.family = 6;
        memset(at.ip, 0, sizeof(at.ip));
    }
    at.port = e->cfg.side_port;
    return kvn_verbs_side_listen(e, &at, why);
}

static kvw_err open_cm(struct end *e, bool listener, char why[KVN_WHY_BYTES])
{
    struct epoll_event ev = {.events = EPOLLIN, .data = {.u32 = CM_EVENTS}};
    kvw_err err;

    if (!e->cfg.cm)
        return KVW_OK;
    if ((err = kvn_verbs_cm_open(e, listener, why)) != KVW_OK)
        return err;
    if (epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, kvn_verbs_cm_fd(e), &ev) == 0)
        return KVW_OK;
    snprintf(why, KVN_WHY_BYTES, "verbs: epoll: %s", strerror(errno));
    return KVW_E_IO;
}

KVN_OPEN_DECLARE(verbs);

kvw_err kvn_open_verbs(struct kvw_transport **t, const struct kvn_config *cfg,
                       char why[KVN_WHY_BYTES])
{
    struct verbs_config vc;
    struct kvn_addr peer;
    struct end *e;
    kvw_err err;

    if (cfg->fault != NULL) {
        snprintf(why, KVN_WHY_BYTES, "verbs: faults can't be injected below a device (udp can)");
        return KVW_E_INVALID;
    }
    if ((err = kvn_verbs_config(&vc, cfg->local, why)) != KVW_OK)
        return err;
    if (cfg->peer != NULL &&
        (kvn_addr_parse(&peer, cfg->peer) != KVW_OK || strlen(cfg->peer) >= KVN_ADDR_TEXT_BYTES)) {
        snprintf(why, KVN_WHY_BYTES, "verbs: peer '%.80s' is not ADDR:PORT of its side channel",
                 cfg->peer);
        return KVW_E_ADDRESS;
    }
    snprintf(why, KVN_WHY_BYTES, "verbs: out of memory");
    if ((e = calloc(1, sizeof(*e))) == NULL)
        return KVW_E_NOMEM;
    e->transport.ops = &verbs_ops;
    e->pid = getpid();
    e->cfg = vc;
    e->may_listen = cfg->listener;
    e->epoll_fd = e->listen_fd = -1;
    for (uint32_t i = 0; i < VERBS_CONNS; ++i)
        e->conns[i].fd = -1;
    if (cfg->peer != NULL)
        snprintf(e->peer, sizeof(e->peer), "%s", cfg->peer);
    if (getrandom(&e->random, sizeof(e->random), 0) != (ssize_t)sizeof(e->random)) {
        snprintf(why, KVN_WHY_BYTES, "verbs: getrandom: %s", strerror(errno));
        err = KVW_E_IO;
    } else if ((e->epoll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0) {
        snprintf(why, KVN_WHY_BYTES, "verbs: epoll: %s", strerror(errno));
        err = KVW_E_IO;
    } else if ((err = open_rails(e, why)) == KVW_OK && (err = watch_rails(e, why)) == KVW_OK &&
               (err = open_cm(e, cfg->listener, why)) == KVW_OK && cfg->listener) {
        err = open_side(e, why);
    }
    if (err != KVW_OK) {
        verbs_close(&e->transport);
        return err;
    }
    why[0] = '\0';
    *t = &e->transport;
    return KVW_OK;
}
