/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two ends in one process and one thread, over two of DPDK's rings: a DPDK device without a wire,
 * for tests and for counting what the protocol itself costs. The end that opens a name first makes
 * both rings; the second one takes them the other way round.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_errno.h>
#include <rte_eth_ring.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <rte_ring.h>

#include "eal.h"
#include "kind.h"
#include "nic.h"
#include "pair.h"

#define RING 256u
#define MTU  (8192u + 128u + 28u)

/* A name in use. */
struct pair {
    struct pair *next;
    char name[16];
    unsigned ends;
    bool has[2];              /* sender, listener */
    struct rte_ring *ring[2]; /* to the sender, to the listener */
    struct rte_mempool *pool; /* both ends', since each frees what the other has sent */
};

static pthread_mutex_t pairs_lock = PTHREAD_MUTEX_INITIALIZER;
static struct pair *pairs;

struct end {
    struct pair *pair;
    bool listener;
};

static void pair_free(struct pair *pair)
{
    struct pair **at = &pairs;

    while (*at != pair)
        at = &(*at)->next;
    *at = pair->next;
    for (int i = 0; i < 2; ++i) {
        void *m;

        /* What nobody took any more is somebody's mbuf. */
        while (pair->ring[i] != NULL && rte_ring_dequeue(pair->ring[i], &m) == 0)
            rte_pktmbuf_free(m);
        rte_ring_free(pair->ring[i]);
    }
    rte_mempool_free(pair->pool);
    free(pair);
}

static void release(void *arg)
{
    struct end *e = arg;

    pthread_mutex_lock(&pairs_lock);
    e->pair->has[e->listener] = false;
    if (--e->pair->ends == 0)
        pair_free(e->pair);
    pthread_mutex_unlock(&pairs_lock);
    free(e);
}

/* With the lock held: the pair of that name, made if need be. NULL: no memory. */
static struct pair *pair_get(const char *name, const struct kvn_dpdk_nic_config *nic,
                             char why[KVN_WHY_BYTES])
{
    struct pair *p;
    char text[32];

    for (p = pairs; p != NULL; p = p->next)
        if (strcmp(p->name, name) == 0)
            return p;
    if ((p = calloc(1, sizeof(*p))) == NULL) {
        snprintf(why, KVN_WHY_BYTES, "dpdk: no memory");
        return NULL;
    }
    snprintf(p->name, sizeof(p->name), "%.15s", name);
    p->next = pairs;
    pairs = p;
    if ((p->pool = kvn_dpdk_nic_pool(nic, 2, why)) == NULL) {
        pair_free(p);
        return NULL;
    }
    for (int i = 0; i < 2; ++i) {
        snprintf(text, sizeof(text), "kvn-%.15s-%d", name, i);
        p->ring[i] = rte_ring_create(text, nic->ring, SOCKET_ID_ANY, RING_F_SP_ENQ | RING_F_SC_DEQ);
        if (p->ring[i] == NULL) {
            snprintf(why, KVN_WHY_BYTES, "dpdk: ring %s: no memory for rings of %u: %s", name,
                     nic->ring, rte_strerror(rte_errno));
            pair_free(p);
            return NULL;
        }
    }
    return p;
}

/* An end of the pair and its device. */
static kvw_err join(struct end *e, char *device, const struct kvn_dpdk_open *o,
                    struct kvn_dpdk_nic_config *nic, char why[KVN_WHY_BYTES])
{
    const char *name = o->spec->what;
    struct pair *p = pair_get(name, nic, why);
    int id;

    if (p == NULL)
        return KVW_E_NOMEM;
    if (p->has[o->listener]) {
        snprintf(why, KVN_WHY_BYTES, "dpdk: ring %s has a %s already", name,
                 o->listener ? "listener" : "sender");
        return KVW_E_ADDRESS;
    }
    snprintf(device, RTE_ETH_NAME_MAX_LEN, "kvn%c%.15s", o->listener ? 'l' : 's', name);
    id = rte_eth_from_rings(device, &p->ring[o->listener], 1, &p->ring[!o->listener], 1, 0);
    if (id < 0) {
        snprintf(why, KVN_WHY_BYTES, "dpdk: ring %s: no device: %s", name, rte_strerror(rte_errno));
        if (p->ends == 0)
            pair_free(p);
        return KVW_E_DEVICE;
    }
    /* The driver's own name of it. */
    if (rte_eth_dev_get_name_by_port((uint16_t)id, device) != 0)
        snprintf(device, RTE_ETH_NAME_MAX_LEN, "net_ring_kvn%c%.15s", o->listener ? 'l' : 's',
                 name);
    p->has[o->listener] = true;
    ++p->ends;
    nic->pool = p->pool;
    *e = (struct end){.pair = p, .listener = o->listener};
    return KVW_OK;
}

kvw_err kvn_dpdk_open_ring(struct kvn_port **port, const struct kvn_dpdk_open *o,
                           struct kvn_packet_config *packet, char why[KVN_WHY_BYTES])
{
    const uint32_t ring = o->spec->ring != 0 ? o->spec->ring : RING;
    struct kvn_dpdk_nic_config nic = {
        .kind = "ring",
        .body = KVN_DPDK_BODY_COPY,
        .mtu = MTU,
        .ring = ring,
        .queues = 1,
        .wake_fd = -1,
        .open_by_ns = o->open_by_ns,
        .release = release,
    };
    char device[RTE_ETH_NAME_MAX_LEN];
    struct end *e;
    kvw_err err;

    if (strlen(o->spec->what) >= sizeof(((struct pair *)0)->name)) {
        snprintf(why, KVN_WHY_BYTES, "dpdk: ring name %.40s has more than %zu bytes", o->spec->what,
                 sizeof(((struct pair *)0)->name) - 1);
        return KVW_E_ADDRESS;
    }
    if ((err = kvn_dpdk_eal_start(NULL, why)) != KVW_OK)
        return err;
    if ((e = calloc(1, sizeof(*e))) == NULL) {
        snprintf(why, KVN_WHY_BYTES, "dpdk: no memory");
        return KVW_E_NOMEM;
    }
    pthread_mutex_lock(&pairs_lock);
    err = join(e, device, o, &nic, why);
    pthread_mutex_unlock(&pairs_lock);
    if (err != KVW_OK) {
        free(e);
        return err;
    }
    nic.device = device;
    nic.release_arg = e;
    kvn_dpdk_pair(&nic.net, &nic.peer, o->listener);
    if ((err = kvn_dpdk_nic_open(port, &nic, why)) != KVW_OK)
        return err;
    (*port)->one_host = true;
    kvn_dpdk_fit_packet(packet, *port, ring);
    return KVW_OK;
}
