/* SPDX-License-Identifier: Apache-2.0 */
/* lane.c - a node, its pool, and whether its peer is there. */
#include "lane.h"

#include <stdio.h>
#include <string.h>

#include "stop.h"

bool kvp_lane_open(struct kvp_lane *l, const struct kvp_lane_config *cfg,
                   const struct kvp_cache *cache, char why[KVP_WHY])
{
    const struct kvw_node_config node = {.size = sizeof(node),
                                         .listen = cfg->listen,
                                         .name = cfg->name,
                                         .transport = cfg->net,
                                         .local = cfg->local,
                                         .fault = cfg->fault,
                                         .busy_poll = cfg->busy_poll,
                                         .codec = cfg->codec,
                                         .encoders = cfg->encoders};
    char said[KVP_WHY] = "";
    kvw_err err;

    memset(l, 0, sizeof(*l));
    l->wanted = cfg->peers > 0 ? cfg->peers : 1;
    err = kvw_node_open(&l->node, &node, said, sizeof(said));
    if (err != KVW_OK) {
        snprintf(why, KVP_WHY, "%s %.60s can't be opened: %.150s", cfg->net, cfg->local,
                 said[0] != '\0' ? said : kvw_strerror(err));
        l->node = NULL;
        return false;
    }
    snprintf(l->path, sizeof(l->path), "%s", said);
    if (cache == NULL)
        return true;
    said[0] = '\0';
    err = kvp_cache_add(cache, l->node, &l->pool, said);
    if (err != KVW_OK) {
        snprintf(why, KVP_WHY, "the library refuses this geometry: %.200s",
                 said[0] != '\0' ? said : kvw_strerror(err));
        kvp_lane_close(l);
        return false;
    }
    return true;
}

bool kvp_lane_dial(struct kvp_lane *l, const char *address, char why[KVP_WHY])
{
    const kvw_err err = kvw_node_peer_add(l->node, address, &l->peer);

    if (err != KVW_OK)
        snprintf(why, KVP_WHY, "the address %.100s can't be dialled: %s",
                 address != NULL ? address : "of the link", kvw_strerror(err));
    return err == KVW_OK;
}

/* Peers in the order in which they came; who comes again is the last. */
static void note_peer(struct kvp_lane *l, kvw_peer_id peer, bool up)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < l->peer_count; ++i)
        if (l->peers[i].value != peer.value)
            l->peers[kept++] = l->peers[i];
    if (up && kept < KVP_TP_MAX)
        l->peers[kept++] = peer;
    l->peer_count = kept;
    l->up = kept >= l->wanted;
}

bool kvp_lane_event(struct kvp_lane *l, struct kvw_core_event *ev)
{
    memset(ev, 0, sizeof(*ev));
    ev->size = sizeof(*ev);
    if (!kvw_node_next_event(l->node, ev))
        return false;
    if (ev->kind == KVW_CEV_PEER_UP) {
        note_peer(l, ev->peer, true);
        l->peer = ev->peer;
    } else if (ev->kind == KVW_CEV_PEER_LOST) {
        note_peer(l, ev->peer, false);
        snprintf(l->why_down, sizeof(l->why_down), "%.255s",
                 ev->text[0] != '\0' ? ev->text : kvw_strerror((kvw_err)ev->err));
    }
    return true;
}

bool kvp_lane_wait_up(struct kvp_lane *l, char why[KVP_WHY])
{
    const uint64_t until_ns = kvw_now_ns() + KVP_UP_NS;
    const int fd = kvw_node_fd(l->node);
    struct kvw_core_event ev;

    while (!l->up && !kvp_stopped() && kvw_now_ns() < until_ns) {
        (void)kvp_wait_fds(&fd, 1, until_ns);
        while (!l->up && kvp_lane_event(l, &ev))
            ;
    }
    if (!l->up)
        snprintf(why, KVP_WHY, "no data connection%s%.200s",
                 l->why_down[0] != '\0' ? ": " : " came up", l->why_down);
    return l->up;
}

void kvp_lane_close(struct kvp_lane *l)
{
    kvw_node_close(l->node);
    memset(l, 0, sizeof(*l));
}
