/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening and closing an end of a link. Every driver call that talks to the peer's process may
 * block for ever if that process is stopped, or never comes: they all run as jobs (job.h).
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <rte_alarm.h>
#include <rte_dev.h>
#include <rte_errno.h>
#include <rte_ethdev.h>

#include "eal.h"
#include "link_impl.h"
#include "job.h"
#include "vhost_turn.h"

/* A driver that won't close in this time is helped; see job.h for what comes after. */
#define CLOSE_NS 500000000ull
/* How often the socket is looked for while the listener isn't there. */
#define LOOK_NS 5000000ull
/* Between two looks at whether virtio-user's driver is quiet. */
#define QUIET_US 1000u
/* There is no network between the two, only processes that look this late. */
#define SLACK_NS 5000000u
/* Starts in a row that a peer may break off by vanishing in the middle. */
#define TRIES 8
#define CACHE 64u
/* How long close waits for the thread of vhost's sockets. */
#define TURN_NS 300000000ull

static const struct kvn_port_ops ops;

/* The first error is the cause; those after it are callers giving up. One comes with
 * every start. */
static void reason(uint64_t mark, int rc, char *text, size_t bytes)
{
    if (!kvn_dpdk_log_error(mark, "No valid MAC", text, bytes))
        snprintf(text, bytes, "%s", rte_strerror(rc < 0 ? -rc : rte_errno));
}

bool kvn_dpdk_link_up(const struct kvn_dpdk_port *p)
{
    struct rte_eth_link link;

    return p->attached && rte_eth_link_get_nowait(p->id, &link) == 0 && link.link_status;
}

static void sleep_ns(uint64_t ns)
{
    nanosleep(&(struct timespec){.tv_nsec = (long)ns}, NULL);
}

/* In one of DPDK's threads: a peer came or went. */
static int link_changed(uint16_t id, enum rte_eth_event_type type, void *arg, void *unused)
{
    struct kvn_dpdk_port *p = arg;

    (void)id;
    (void)unused;
    /* See the field. A change of one queue's state comes with the queue's lock held, which arming
     * needs, and frees nothing. */
    if (type == RTE_ETH_EVENT_INTR_LSC) {
        pthread_mutex_lock(&p->arming);
        pthread_mutex_unlock(&p->arming);
    }
    atomic_fetch_add(&p->changes, 1);
    (void)eventfd_write(p->link_fd, 1);
    return 0;
}

struct bring_up {
    struct kvn_dpdk_port *p;
    uint32_t ring;
    uint64_t mark;    /* of the log */
    const char *step; /* that failed */
    int rc;           /* 0: it is up */
};

static int configure(struct bring_up *b)
{
    struct kvn_dpdk_port *p = b->p;
    const struct rte_eth_conf conf = {.intr_conf = {.rxq = 1, .lsc = 1}};
    /* Without this the driver frees sent mbufs only once the ring is nearly full of them. */
    const struct rte_eth_txconf tx = {.tx_free_thresh = (uint16_t)(b->ring - 4)};
    const uint16_t ring = (uint16_t)b->ring;
    int rc;

    b->step = "set up";
    if ((rc = rte_eth_dev_configure(p->id, 1, 1, &conf)) < 0 ||
        (rc = rte_eth_rx_queue_setup(p->id, 0, ring, SOCKET_ID_ANY, NULL, p->pool)) < 0 ||
        (rc = rte_eth_tx_queue_setup(p->id, 0, ring, SOCKET_ID_ANY, p->vhost ? NULL : &tx)) < 0)
        return rc;
    (void)rte_eth_dev_callback_register(p->id, RTE_ETH_EVENT_INTR_LSC, link_changed, p);
    (void)rte_eth_dev_callback_register(p->id, RTE_ETH_EVENT_QUEUE_STATE, link_changed, p);
    b->step = "start";
    if ((rc = rte_eth_dev_start(p->id)) < 0)
        return rc;
    p->started = true;
    /* virtio-user's start reports success even if its peer never got the memory it is to use. */
    if (kvn_dpdk_log_has(b->mark, "Failed to start device"))
        return -EIO;
    b->step = "give interrupts to";
    return kvn_dpdk_wait_setup(p) == KVW_OK ? 0 : -ENOTSUP;
}

/* No more calls of link_changed, and none under way. */
static void forget_changes(struct kvn_dpdk_port *p)
{
    static const enum rte_eth_event_type types[] = {RTE_ETH_EVENT_INTR_LSC,
                                                    RTE_ETH_EVENT_QUEUE_STATE};

    for (size_t i = 0; i < 2; ++i)
        while (rte_eth_dev_callback_unregister(p->id, types[i], link_changed, p) == -EAGAIN)
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/*
 * An alarm: runs in DPDK's interrupt thread, which also runs the driver's handler for a peer that
 * comes or goes, and the alarm by which that handler does the rest of its work later. Stopping
 * takes the handler off its descriptor, which is silently refused while the handler runs, and
 * undone by that rest; a handler left on a closed descriptor ends the process at the next occasion.
 * Here it can't be running; and if it hasn't run since our last alarm, its own alarm is behind us
 * too.
 */
static void stop_when_quiet(void *arg)
{
    struct kvn_dpdk_port *p = arg;
    const uint32_t changes = atomic_load(&p->changes);

    if (changes != p->changes_seen) {
        p->changes_seen = changes;
        if (rte_eal_alarm_set(QUIET_US, stop_when_quiet, p) == 0)
            return;
    }
    (void)rte_eth_dev_stop(p->id);
    sem_post(&p->stopped);
}

/*
 * When vhost's peer goes, DPDK's thread for its sockets puts the device among those to be connected
 * anew, and takes its connection away. Closing a device looks among those first and at connections
 * after: if the thread does both in between, the device is freed and stays among them, and the next
 * listener on its path is then connected to freed memory. So the thread finishes what it has begun.
 */
static void await_thread(const struct kvn_dpdk_port *p)
{
    if (atomic_load(&p->changes) != 0)
        (void)kvn_dpdk_vhost_turn(kvn_dpdk_now_ns() + TURN_NS);
}

static void stop(struct kvn_dpdk_port *p)
{
    if (!p->vhost) {
        p->changes_seen = atomic_load(&p->changes) - 1; /* so that there are two alarms at least */
        if (rte_eal_alarm_set(QUIET_US, stop_when_quiet, p) == 0) {
            while (sem_wait(&p->stopped) != 0)
                ;
            return;
        }
    }
    if (p->vhost)
        await_thread(p);
    (void)rte_eth_dev_stop(p->id);
}

static void detach(struct kvn_dpdk_port *p)
{
    if (!p->attached)
        return;
    if (p->started)
        stop(p);
    p->attached = false;
    forget_changes(p);
    /* One that was set up and never started has its handler in place, and no way to take it off: it
     * stays, idle, until the process ends. That takes a peer that vanishes within microseconds. */
    if (!p->started && !p->vhost)
        return;
    (void)rte_eth_dev_close(p->id);
    (void)rte_eal_hotplug_remove("vdev", p->device);
}

static void detach_job(void *arg)
{
    detach(arg);
}

static void bring_up_job(void *arg)
{
    static _Atomic unsigned devices;
    struct bring_up *b = arg;
    struct kvn_dpdk_port *p = b->p;
    char options[KVN_DPDK_PATH_BYTES + 64];

    /* A new name each time: EAL remembers a device whose start failed. */
    snprintf(p->device, sizeof(p->device), "net_%s%u", p->vhost ? "vhost" : "virtio_user",
             atomic_fetch_add(&devices, 1));
    if (p->vhost)
        snprintf(options, sizeof(options), "iface=%s,client=1", p->path);
    else
        snprintf(options, sizeof(options), "path=%s,server=1,queue_size=%u", p->path, b->ring);
    if (!p->vhost)
        (void)unlink(p->path); /* of an earlier try; the lock says that it is ours */
    p->started = false;
    b->step = "make";
    b->mark = kvn_dpdk_log_mark();
    if ((b->rc = rte_eal_hotplug_add("vdev", p->device, options)) < 0)
        return;
    if ((b->rc = rte_eth_dev_get_port_by_name(p->device, &p->id)) < 0)
        return;
    p->attached = true;
    if ((b->rc = configure(b)) < 0)
        detach(p);
}

/*
 * Buffers: what the rings can hold, a mempool's cache (it keeps up to 1.5 times its size), and what
 * the port holds: lent, early, late and a burst being built. vhost's rings hold none.
 */
static kvw_err make_pools(struct kvn_dpdk_port *p, uint32_t ring, char why[KVN_WHY_BYTES])
{
    const uint32_t count = (p->vhost ? 0 : 2 * ring) + 2 * CACHE + 4 * KVN_BURST;
    const uint32_t room = RTE_PKTMBUF_HEADROOM + KVN_ETHER_HDR_BYTES + p->port.payload_max;
    char name[RTE_MEMPOOL_NAMESIZE];

    snprintf(name, sizeof(name), "kvn%p", (void *)p);
    p->pool = rte_pktmbuf_pool_create(name, count, CACHE, 0, (uint16_t)room, SOCKET_ID_ANY);
    if (p->pool != NULL && p->vhost) {
        snprintf(name, sizeof(name), "kvs%p", (void *)p);
        p->shell =
            rte_pktmbuf_pool_create(name, 2 * CACHE + 2 * KVN_BURST, CACHE, 0, 0, SOCKET_ID_ANY);
    }
    if (p->pool != NULL && (!p->vhost || p->shell != NULL))
        return KVW_OK;
    if (rte_errno == EINVAL) { /* an operation that mempools don't know */
        snprintf(why, KVN_WHY_BYTES,
                 "dpdk: no driver for buffer pools is here (Debian's librte-mempool-ring23)");
        return KVW_E_DEVICE;
    }
    kvn_dpdk_eal_short(count, room, rte_errno, why);
    return KVW_E_NOMEM;
}

static void port_free(struct kvn_dpdk_port *p)
{
    rte_mempool_free(p->pool);
    rte_mempool_free(p->shell);
    if (p->epoll_fd >= 0)
        close(p->epoll_fd);
    if (p->link_fd >= 0)
        close(p->link_fd);
    if (p->lock_fd >= 0)
        kvn_dpdk_sock_release(p->path, p->lock_fd);
    if (p->vhost)
        kvn_dpdk_vhost_turn_close();
    if (p->entered)
        kvn_dpdk_thread_leave();
    sem_destroy(&p->stopped);
    pthread_mutex_destroy(&p->arming);
    free(p);
}

static void to_addr(struct kvn_addr *addr, const struct kvn_ether_end *end)
{
    *addr = (struct kvn_addr){.family = 4, .port = end->port};
    memcpy(addr->ip, end->ip, sizeof(end->ip));
}

/* All but the device. */
static kvw_err port_new(struct kvn_dpdk_port **port, const struct kvn_dpdk_config *cfg,
                        char why[KVN_WHY_BYTES])
{
    struct kvn_dpdk_port *p = calloc(1, sizeof(*p));
    kvw_err err;

    if (p == NULL) {
        snprintf(why, KVN_WHY_BYTES, "dpdk: no memory");
        return KVW_E_NOMEM;
    }
    pthread_mutex_init(&p->arming, NULL);
    kvn_spin_begin(&p->spin, cfg->busy_poll);
    sem_init(&p->stopped, 0, 0);
    p->port.ops = &ops;
    p->port.slack_ns = SLACK_NS;
    p->port.one_host = true;
    p->port.payload_max = cfg->payload_max != 0 ? cfg->payload_max : KVN_DPDK_PAYLOAD_MAX;
    p->vhost = !cfg->listener;
    if (p->vhost)
        kvn_dpdk_vhost_turn_open(); /* before the device: its connection brings that thread to it */
    p->self = cfg->listener ? kvn_ether_listener : kvn_ether_sender;
    p->peer = cfg->listener ? kvn_ether_sender : kvn_ether_listener;
    to_addr(&p->port.local, &p->self);
    to_addr(&p->port.default_peer, &p->peer);
    snprintf(p->path, sizeof(p->path), "%s", cfg->path);
    rte_mbuf_ext_refcnt_set(&p->loan, 1);
    p->lock_fd = -1;
    p->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    p->link_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    p->entered = kvn_dpdk_thread_enter();
    if (p->epoll_fd < 0 || p->link_fd < 0) {
        snprintf(why, KVN_WHY_BYTES, "dpdk: no file descriptor: %s", strerror(errno));
        err = KVW_E_DEVICE;
        goto free_port;
    }
    if ((err = make_pools(p, cfg->ring != 0 ? cfg->ring : KVN_DPDK_RING, why)) != KVW_OK)
        goto free_port;
    if (cfg->listener && (err = kvn_dpdk_sock_claim(p->path, &p->lock_fd, why)) != KVW_OK)
        goto free_port;
    *port = p;
    return KVW_OK;

free_port:
    port_free(p);
    return err;
}

static kvw_err no_peer(const char *path, const char *what, uint64_t began_ns,
                       char why[KVN_WHY_BYTES])
{
    snprintf(why, KVN_WHY_BYTES, "dpdk: %s %s within %.1f s", what, path,
             (double)(kvn_dpdk_now_ns() - began_ns) * 1e-9);
    return KVW_E_DEADLINE;
}

/* What of a failed start is said, and as what. */
static kvw_err bring_up_failed(const struct bring_up *b, kvn_dpdk_job_end end, uint64_t began_ns,
                               char why[KVN_WHY_BYTES])
{
    const struct kvn_dpdk_port *p = b->p;
    const char *kind = p->vhost ? "net_vhost" : "net_virtio_user";
    char text[112]; /* with the path it fits why */

    if (end == KVN_DPDK_JOB_NO_THREAD) {
        snprintf(why, KVN_WHY_BYTES, "dpdk: no thread to start %s in", kind);
        return KVW_E_NOMEM;
    }
    if (end != KVN_DPDK_JOB_DONE)
        return no_peer(p->path, "no peer connected to", began_ns, why);
    reason(b->mark, b->rc, text, sizeof(text));
    if (strstr(text, "cannot attach the device") != NULL ||
        strstr(text, "failed to parse device") != NULL)
        snprintf(text, sizeof(text), "there is no such driver here (Debian's librte-net-%s23)",
                 p->vhost ? "vhost" : "virtio");
    snprintf(why, KVN_WHY_BYTES, "dpdk: can't %s %s on %s: %s", b->step, kind, p->path, text);
    return KVW_E_DEVICE;
}

/* Start the device. On an error the port is freed, unless a driver call is stuck in it for good. */
static kvw_err bring_up(struct kvn_dpdk_port *p, const struct kvn_dpdk_config *cfg,
                        uint64_t began_ns, char why[KVN_WHY_BYTES])
{
    struct bring_up *b = calloc(1, sizeof(*b));
    kvn_dpdk_job_end end = KVN_DPDK_JOB_NO_THREAD;
    kvw_err err = KVW_OK;

    if (b != NULL) {
        b->p = p;
        b->ring = cfg->ring != 0 ? cfg->ring : KVN_DPDK_RING;
        for (int i = 0; i < TRIES && (i == 0 || (end == KVN_DPDK_JOB_DONE && b->rc < 0)); ++i) {
            /* A peer that vanished during the hand-shake isn't the end; a bad path is. */
            if (i > 0 && (p->vhost || kvn_dpdk_log_has(b->mark, "failed to bind") ||
                          !kvn_dpdk_log_has(b->mark, "recv msg")))
                break;
            end = kvn_dpdk_job_run(bring_up_job, b, cfg->open_by_ns, p->path);
        }
    }
    if (b == NULL || end != KVN_DPDK_JOB_DONE || b->rc < 0) {
        struct bring_up none = {.p = p};

        err = bring_up_failed(b != NULL ? b : &none, end, began_ns, why);
        if (end == KVN_DPDK_JOB_ABANDONED)
            return err; /* p and b are that thread's now */
        if (end == KVN_DPDK_JOB_BROKEN)
            detach(p); /* it may just have come up */
        port_free(p);
    }
    free(b);
    return err;
}

/*
 * vhost's driver tries to connect once, and then once a second. So it is started when the socket is
 * there, and not a second too late. False: it isn't there in time.
 */
static bool await_socket(const struct kvn_dpdk_config *cfg)
{
    while (!kvn_dpdk_sock_exists(cfg->path)) {
        if (kvn_dpdk_now_ns() >= cfg->open_by_ns)
            return false;
        sleep_ns(LOOK_NS);
    }
    sleep_ns(LOOK_NS / 5); /* from bind() to listen() */
    return true;
}

static kvw_err await_link(struct kvn_dpdk_port *p, const struct kvn_dpdk_config *cfg,
                          uint64_t began_ns, char why[KVN_WHY_BYTES])
{
    while (!kvn_dpdk_link_up(p)) {
        if (kvn_dpdk_now_ns() >= cfg->open_by_ns)
            return no_peer(cfg->path, "nobody answered on", began_ns, why);
        kvn_dpdk_wait(&p->port, cfg->open_by_ns, -1);
    }
    return KVW_OK;
}

kvw_err kvn_dpdk_port_open(struct kvn_port **port, const struct kvn_dpdk_config *cfg,
                           char why[KVN_WHY_BYTES])
{
    const uint64_t began_ns = kvn_dpdk_now_ns();
    struct kvn_dpdk_port *p;
    kvw_err err;

    if ((err = kvn_dpdk_sock_check(cfg->path, cfg->listener, why)) != KVW_OK ||
        (err = kvn_dpdk_eal_start(NULL, why)) != KVW_OK || (err = port_new(&p, cfg, why)) != KVW_OK)
        return err;
    if (p->vhost && cfg->wait_peer && !await_socket(cfg)) {
        port_free(p);
        return no_peer(cfg->path, "nobody listened on", began_ns, why);
    }
    if ((err = bring_up(p, cfg, began_ns, why)) != KVW_OK)
        return err;
    if (p->vhost && cfg->wait_peer && (err = await_link(p, cfg, began_ns, why)) != KVW_OK) {
        p->port.ops->close(&p->port);
        return err;
    }
    *port = &p->port;
    return KVW_OK;
}

static void dpdk_close(struct kvn_port *port)
{
    struct kvn_dpdk_port *p = (struct kvn_dpdk_port *)port;
    kvn_dpdk_job_end end;

    if (p == NULL)
        return;
    if (kvn_dpdk_eal_forked()) {
        if (p->lock_fd >= 0)
            close(p->lock_fd); /* else the parent's lock would outlive it here */
        return;
    }
    kvn_dpdk_drop_mbufs(p);
    end = kvn_dpdk_job_run(detach_job, p, kvn_dpdk_now_ns() + CLOSE_NS, p->path);
    if (end == KVN_DPDK_JOB_ABANDONED)
        return; /* the driver still uses all of it */
    if (end == KVN_DPDK_JOB_NO_THREAD)
        detach(p);
    port_free(p);
}

static const struct kvn_port_ops ops = {
    .name = "dpdk",
    .rx = kvn_dpdk_rx,
    .tx = kvn_dpdk_tx,
    .wait = kvn_dpdk_wait,
    .fd = kvn_dpdk_fd,
    .arm = kvn_dpdk_arm,
    .disarm = kvn_dpdk_disarm,
    .deadline_ns = kvn_dpdk_deadline_ns,
    .close = dpdk_close,
};

void kvn_dpdk_port_stats(const struct kvn_port *port, struct kvn_dpdk_port_stats *stats)
{
    const struct kvn_dpdk_port *p = (const struct kvn_dpdk_port *)port;

    *stats = (struct kvn_dpdk_port_stats){
        .rx_rejected = p->rx_rejected,
        .tx_deferred = p->tx_deferred,
        .sleeps = p->sleeps,
        .mbufs_in_use = rte_mempool_in_use_count(p->pool) +
                        (p->shell != NULL ? rte_mempool_in_use_count(p->shell) : 0),
        .link_up = kvn_dpdk_link_up(p),
    };
}
