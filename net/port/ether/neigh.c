/* SPDX-License-Identifier: Apache-2.0 */
/* neigh.c - the table of neighbours: whom we asked for, who answered, and when that is old. */
#include <string.h>

#include "netif.h"

static struct kvn_neigh *neigh_find(struct kvn_netif *n, const struct kvn_addr *ip)
{
    for (uint32_t i = 0; i < KVN_NEIGHS_MAX; ++i)
        if (n->neighs[i].state != KVN_NEIGH_FREE && kvn_addr_equal(&n->neighs[i].ip, ip))
            return &n->neighs[i];
    return NULL;
}

/* A free entry, or the one whose state is oldest of those that nobody configured. */
static struct kvn_neigh *neigh_take(struct kvn_netif *n, const struct kvn_addr *ip)
{
    struct kvn_neigh *best = NULL;

    for (uint32_t i = 0; i < KVN_NEIGHS_MAX; ++i) {
        struct kvn_neigh *e = &n->neighs[i];

        if (e->state == KVN_NEIGH_STATIC)
            continue;
        if (e->state == KVN_NEIGH_FREE) {
            best = e;
            break;
        }
        if (best == NULL || e->since_ns < best->since_ns)
            best = e;
    }
    /* There are more entries than static neighbours, so there is one. */
    *best = (struct kvn_neigh){.ip = *ip, .next_ns = UINT64_MAX};
    return best;
}

static void forget_flows(struct kvn_netif *n)
{
    for (uint32_t i = 0; i < KVN_NETIF_FLOWS; ++i)
        n->flows[i].until_ns = 0;
}

static void schedule(struct kvn_netif *n)
{
    n->tick_ns = UINT64_MAX;
    for (uint32_t i = 0; i < KVN_NEIGHS_MAX; ++i) {
        const struct kvn_neigh *e = &n->neighs[i];

        if (e->state != KVN_NEIGH_FREE && e->state != KVN_NEIGH_STATIC && e->next_ns < n->tick_ns)
            n->tick_ns = e->next_ns;
    }
}

void kvn_netif_learn(struct kvn_netif *n, uint64_t now_ns, const struct kvn_addr *ip,
                     const uint8_t mac[6], bool asked)
{
    struct kvn_neigh *e = neigh_find(n, ip);

    if ((e == NULL && asked) || (e != NULL && e->state == KVN_NEIGH_STATIC))
        return;
    if (e == NULL)
        e = neigh_take(n, ip);
    if (e->state != KVN_NEIGH_KNOWN || memcmp(e->mac, mac, 6) != 0)
        forget_flows(n);
    e->state = KVN_NEIGH_KNOWN;
    e->used = false;
    memcpy(e->mac, mac, 6);
    e->since_ns = now_ns;
    e->next_ns = now_ns + KVN_NEIGH_FRESH_NS;
    schedule(n);
}

struct kvn_neigh *kvn_netif_neigh(struct kvn_netif *n, uint64_t now_ns, const struct kvn_addr *ip)
{
    struct kvn_neigh *e = neigh_find(n, ip);

    if (e != NULL)
        return e;
    e = neigh_take(n, ip);
    e->state = KVN_NEIGH_ASKING;
    e->since_ns = now_ns;
    e->next_ns = now_ns + KVN_NEIGH_EVERY_NS;
    kvn_netif_ask(n, ip, NULL);
    schedule(n);
    return e;
}

static void neigh_tick(struct kvn_netif *n, uint64_t now_ns, struct kvn_neigh *e)
{
    switch (e->state) {
    case KVN_NEIGH_ASKING:
        if (now_ns - e->since_ns >= KVN_NEIGH_ASK_NS) {
            e->state = KVN_NEIGH_SILENT;
            e->since_ns = now_ns;
            e->next_ns = now_ns + KVN_NEIGH_SILENT_NS;
            ++n->stats.unanswered;
        } else {
            e->next_ns = now_ns + KVN_NEIGH_EVERY_NS;
            kvn_netif_ask(n, &e->ip, NULL);
        }
        break;
    case KVN_NEIGH_KNOWN:
        if (now_ns - e->since_ns >= KVN_NEIGH_FRESH_NS + KVN_NEIGH_ASK_NS) {
            e->state = KVN_NEIGH_ASKING;
            e->since_ns = e->next_ns = now_ns;
            forget_flows(n);
        } else if (e->used) {
            e->next_ns = now_ns + KVN_NEIGH_EVERY_NS;
            kvn_netif_ask(n, &e->ip, e->mac);
        } else {
            e->state = KVN_NEIGH_FREE; /* nobody needs it */
        }
        break;
    case KVN_NEIGH_SILENT:
        e->state = KVN_NEIGH_FREE;
        break;
    default:
        break;
    }
}

void kvn_netif_tick(struct kvn_netif *n, uint64_t now_ns)
{
    for (uint32_t i = 0; i < KVN_NEIGHS_MAX; ++i)
        if (n->neighs[i].next_ns <= now_ns)
            neigh_tick(n, now_ns, &n->neighs[i]);
    schedule(n);
}
