/* SPDX-License-Identifier: Apache-2.0 */
/*
 * idle.h - how much a connection has to do: whether it moves bytes now, and whether nobody has used
 * it for so long that its peer is asked more seldom whether it lives.
 *
 * threads  one      memory  the connection's      time  as given
 */
#ifndef KVN_PACKET_IDLE_H
#define KVN_PACKET_IDLE_H

#include "conn.h"

static inline bool kvn_idle_is(const struct kvn_conn *c, uint64_t now_ns)
{
    return now_ns - c->last_use_ns > KVN_IDLE_DEADS * c->env->cfg.dead_ns;
}

/* Its user has something for the peer. */
static inline void kvn_idle_used(struct kvn_conn *c, uint64_t now_ns)
{
    if (kvn_idle_is(c, now_ns))
        kvn_timers_used(&c->timers, now_ns, c->env->cfg.dead_ns);
    c->last_use_ns = now_ns;
}

/* Of many idle ones the dialler asks at once; the listener asks if the dialler doesn't. */
static inline void kvn_idle_put_ping_off(struct kvn_conn *c, uint64_t now_ns)
{
    const uint64_t dead_ns = c->env->cfg.dead_ns;

    if (kvn_idle_is(c, now_ns))
        kvn_timers_idle(&c->timers, dead_ns, c->incoming ? dead_ns / 4 * 5 : dead_ns);
    if (!c->incoming)
        kvn_timers_ping_together(&c->timers, dead_ns);
}

static inline bool kvn_idle_brings_data(const struct kvn_conn *c, uint64_t now_ns)
{
    return c->state == KVN_CONN_UP && c->last_data_ns != 0 &&
           now_ns - c->last_data_ns < KVN_BUSY_NS;
}

/* More than a question is on its way: it will be looked at again soon, so when needn't be known. */
static inline bool kvn_idle_is_busy(const struct kvn_conn *c)
{
    return c->state == KVN_CONN_UP && c->path[0].out.bytes > KVN_PAYLOAD_MIN;
}

#endif
