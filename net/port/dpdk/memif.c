/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two processes of one host over shared rings (memif), for a peer that must not see our memory: it
 * sees the rings and nothing else, at the price of one copy more than the vhost link.
 *
 * A buffer holds a whole frame, always: the driver corrupts frames that span several. It has no
 * receive interrupt either, so a port of this kind naps.
 *
 * When a peer leaves, DPDK's interrupt thread unmaps the rings, whoever is in a burst on them. The
 * driver says a line to its log before that, in that thread; we catch it there (on_log), and by
 * taking the lock that every burst holds, the line waits for the burst to end. From then on bursts
 * find p->away set, and do nothing, until an alarm has run in the same thread: after it, what the
 * driver was at is done, and it knows itself that the peer is gone.
 *
 * A client's driver asks its listener once, when it starts. A listener whose socket is there
 * refuses until it listens, and turns clients away until it has started: the client starts again.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <rte_alarm.h>
#include <rte_ethdev.h>
#include <rte_log.h>

#include "eal.h"
#include "job.h"
#include "kind.h"
#include "log.h"
#include "nic.h"
#include "pair.h"
#include "sock.h"

#define RING 256u
/* A slice of 8 KiB with the packet's own header and IP's; larger slices fall out of the cache that
 * both copies live on. */
#define MTU     (8192u + 128u + 28u)
#define BUFFER  9216u
#define LOOK_NS 5000000ull
#define AWAY_US 1000u
#define LOCK_NS 50000000l

static struct kvn_dpdk_gate gate = {.lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP};
static _Atomic unsigned given_up; /* times that a driver's connection ended, whichever port's */

struct claim {
    char path[KVN_DPDK_PATH_BYTES];
    int lock_fd;
};

static void back(void *unused)
{
    (void)unused;
    atomic_store(&gate.shut, false);
}

static void on_log(const char *line)
{
    struct timespec until;

    if (strncmp(line, "memif_", 6) != 0)
        return;
    atomic_store(&gate.shut, true);
    /* A burst of this very thread may be the one that speaks, so the lock is recursive; another
     * thread's that wants to speak too waits for us, so we don't wait for ever. */
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += LOCK_NS;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    if (pthread_mutex_timedlock(&gate.lock, &until) == 0)
        pthread_mutex_unlock(&gate.lock);
    (void)rte_eal_alarm_cancel(back, NULL);
    if (rte_eal_alarm_set(AWAY_US, back, NULL) != 0)
        atomic_store(&gate.shut, false);
    if (strstr(line, "Disconnected, id:") != NULL) /* the last that the driver does about it */
        atomic_fetch_add(&given_up, 1);
}

static void release(void *arg)
{
    struct claim *c = arg;

    if (c->lock_fd >= 0)
        kvn_dpdk_sock_release(c->path, c->lock_fd);
    free(c);
}

static void sleep_ns(uint64_t ns)
{
    nanosleep(&(struct timespec){.tv_nsec = (long)ns}, NULL);
}

static kvw_err no_peer(const struct kvn_dpdk_open *o, const char *what, char why[KVN_WHY_BYTES])
{
    snprintf(why, KVN_WHY_BYTES, "dpdk: memif: %s %s in time", what, o->spec->what);
    return KVW_E_DEADLINE;
}

static kvw_err attach(const struct kvn_dpdk_open *o, const char *device, char why[KVN_WHY_BYTES])
{
    char args[256];

    (void)rte_log_set_level_pattern("pmd.net.memif", RTE_LOG_DEBUG);
    kvn_dpdk_log_hook(on_log);
    snprintf(args, sizeof(args), "role=%s,id=0,socket=%s,socket-abstract=no,bsize=%u,rsize=%u",
             o->listener ? "server" : "client", o->spec->what, BUFFER,
             (unsigned)__builtin_ctz(o->spec->ring != 0 ? o->spec->ring : RING));
    return kvn_dpdk_nic_attach("memif", "vdev", device, args, why);
}

kvw_err kvn_dpdk_open_memif(struct kvn_port **port, const struct kvn_dpdk_open *o,
                            struct kvn_packet_config *packet, char why[KVN_WHY_BYTES])
{
    static _Atomic unsigned devices;
    const uint32_t ring = o->spec->ring != 0 ? o->spec->ring : RING;
    struct claim *c;
    struct kvn_dpdk_nic_config nic = {
        .kind = "memif",
        .body = KVN_DPDK_BODY_BORROW,
        .mtu = MTU,
        .ring = ring,
        .queues = 1,
        .wake_fd = -1,
        .gate = &gate,
        .await_link = o->wait,
        .open_by_ns = o->open_by_ns,
        .release = release,
    };
    char device[32];
    kvw_err err;

    if ((err = kvn_dpdk_sock_check(o->spec->what, o->listener, why)) != KVW_OK ||
        (err = kvn_dpdk_eal_start(NULL, why)) != KVW_OK)
        return err;
    if ((c = calloc(1, sizeof(*c))) == NULL) {
        snprintf(why, KVN_WHY_BYTES, "dpdk: no memory");
        return KVW_E_NOMEM;
    }
    snprintf(c->path, sizeof(c->path), "%s", o->spec->what);
    c->lock_fd = -1;
    while (!o->listener && !kvn_dpdk_sock_exists(c->path)) {
        if (kvn_dpdk_now_ns() >= o->open_by_ns) {
            free(c);
            return no_peer(o, "nobody listened on", why);
        }
        sleep_ns(LOOK_NS);
    }
    if (!o->listener)
        nic.given_up = &given_up;
    snprintf(device, sizeof(device), "net_memif%u", atomic_fetch_add(&devices, 1));
    if ((o->listener && (err = kvn_dpdk_sock_claim(c->path, &c->lock_fd, why)) != KVW_OK) ||
        (err = attach(o, device, why)) != KVW_OK) {
        release(c);
        return err;
    }
    nic.device = device;
    nic.release_arg = c;
    kvn_dpdk_pair(&nic.net, &nic.peer, o->listener);
    if ((err = kvn_dpdk_nic_open(port, &nic, why)) != KVW_OK)
        return err;
    (*port)->one_host = true;
    kvn_dpdk_fit_packet(packet, *port, ring);
    return KVW_OK;
}
