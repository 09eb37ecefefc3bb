/* SPDX-License-Identifier: Apache-2.0 */
/*
 * timers.h - all timers of a connection, and the events that move them. Callers report what
 * happened; this file decides when something is due.
 *
 *   timer      what is due                                  when
 *   HELLO      the next HELLO leaves                        10 ms after the last one, then 20 ms,
 *                                                           ... KVN_HELLO_MAX_NS
 *   CONNECT    connecting is given up                       cfg.connect_ns after it began
 *              being accepted is given up                   KVN_HALF_OPEN_NS after it began
 *   LOSS       packets that are out count as lost           loss.h, kvn_loss.loss_at_ns
 *   PROBE      nothing comes back: send again               loss.h, kvn_loss_probe_at()
 *   CHALLENGE  a path is asked again whether it works       10 ms after the last CHALLENGE, then
 *                                                           20 ms, ... KVN_CHALLENGE_MAX_NS
 *   SEARCH     longer packets are tried                     fit.h, kvn_fit.search_at_ns
 *   STALL      a put has begun and doesn't go on: NACK      two round trips, KVN_STALL_NS at least,
 *                                                           after the last slice; then doubling
 *   ACK        what has arrived is acknowledged             KVN_ACK_DELAY_NS after the first
 *   PING       nothing was heard: ask                       dead_ns / 4 after the last packet; of
 *                                                           an idle peer dead_ns, then each
 *                                                           dead_ns / 4; by a dialler up to
 *                                                           dead_ns / 32 earlier
 *   DEAD       nothing was heard: the peer is lost          dead_ns after the last packet; an idle
 *                                                           one twice dead_ns
 *   LINGER     an ended connection is forgotten             KVN_LINGER_NS after its end
 *
 * threads  one      memory  the caller's struct      time  as given
 */
#ifndef KVN_PACKET_TIMERS_H
#define KVN_PACKET_TIMERS_H

#include <stdbool.h>
#include <stdint.h>

enum kvn_timer {
    KVN_TIMER_HELLO,
    KVN_TIMER_CONNECT,
    KVN_TIMER_LOSS,
    KVN_TIMER_PROBE,
    KVN_TIMER_CHALLENGE,
    KVN_TIMER_SEARCH,
    KVN_TIMER_STALL,
    KVN_TIMER_ACK,
    KVN_TIMER_PING,
    KVN_TIMER_DEAD,
    KVN_TIMER_LINGER,
    KVN_TIMERS,
};

struct kvn_timers {
    uint64_t at_ns[KVN_TIMERS]; /* UINT64_MAX: not running */
    bool excused;               /* was_away has moved DEAD since the peer was last heard */
};

/* Nothing runs. Also: the connection is freed. */
void kvn_timers_stop(struct kvn_timers *t);

/* connect() or a HELLO began a connection, which must be up in patience_ns. */
void kvn_timers_began(struct kvn_timers *t, uint64_t now_ns, uint64_t patience_ns);

/* HELLO number tries (from 1) left. */
void kvn_timers_hello_sent(struct kvn_timers *t, uint64_t now_ns, uint32_t tries);

/* The handshake is over. */
void kvn_timers_up(struct kvn_timers *t);

/* A valid packet came from the peer. */
void kvn_timers_heard(struct kvn_timers *t, uint64_t now_ns, uint64_t dead_ns);

/* This side didn't look for a while: give the peer's packets until now + grace to show. Once per
 * silence, or a caller that always polls late would never see a peer die. */
void kvn_timers_was_away(struct kvn_timers *t, uint64_t now_ns, uint64_t grace_ns);

/* A packet that asks for an ACK came, and none is due at once. */
void kvn_timers_ack_owed(struct kvn_timers *t, uint64_t now_ns);
void kvn_timers_ack_sent(struct kvn_timers *t);

/* A PING was queued; the next one is another interval away. */
void kvn_timers_pinged(struct kvn_timers *t, uint64_t now_ns, uint64_t dead_ns);

/* The next PING leaves together with those of other connections, a little early: then one poll asks
 * many idle peers, and reads many answers. */
static inline void kvn_timers_ping_together(struct kvn_timers *t, uint64_t dead_ns)
{
    if (t->at_ns[KVN_TIMER_PING] != UINT64_MAX && dead_ns >= 32)
        t->at_ns[KVN_TIMER_PING] -= t->at_ns[KVN_TIMER_PING] % (dead_ns / 32);
}

/* Nothing has been moved for long: the peer may be silent for twice as long, and is asked for the
 * first time after `ask_ns`. Does nothing once it has been put off, or a PING has left. */
static inline void kvn_timers_idle(struct kvn_timers *t, uint64_t dead_ns, uint64_t ask_ns)
{
    const uint64_t heard_ns = t->at_ns[KVN_TIMER_DEAD] - dead_ns;

    if (t->at_ns[KVN_TIMER_PING] != heard_ns + dead_ns / 4)
        return;
    t->at_ns[KVN_TIMER_PING] = heard_ns + ask_ns;
    t->at_ns[KVN_TIMER_DEAD] = heard_ns + 2 * dead_ns;
}

/* What was idle is used again: whether the peer lives is to be known soon. */
static inline void kvn_timers_used(struct kvn_timers *t, uint64_t now_ns, uint64_t dead_ns)
{
    if (t->at_ns[KVN_TIMER_DEAD] != UINT64_MAX && t->at_ns[KVN_TIMER_DEAD] > now_ns + dead_ns)
        t->at_ns[KVN_TIMER_DEAD] = now_ns + dead_ns;
    if (t->at_ns[KVN_TIMER_PING] != UINT64_MAX && t->at_ns[KVN_TIMER_PING] > now_ns + dead_ns / 4)
        t->at_ns[KVN_TIMER_PING] = now_ns + dead_ns / 4;
}

/* What is in flight changed: UINT64_MAX where nothing is to be waited for. */
void kvn_timers_flight(struct kvn_timers *t, uint64_t loss_at_ns, uint64_t probe_at_ns,
                       uint64_t challenge_at_ns);

/* When longer packets are tried; UINT64_MAX: not. */
void kvn_timers_search(struct kvn_timers *t, uint64_t at_ns);

/* When the peer is told what is missing; UINT64_MAX: not. */
static inline void kvn_timers_stall(struct kvn_timers *t, uint64_t at_ns)
{
    t->at_ns[KVN_TIMER_STALL] = at_ns;
}

/* The connection ended; linger: it still answers. */
void kvn_timers_ended(struct kvn_timers *t, uint64_t now_ns, bool linger);

/* Earliest; UINT64_MAX: none. */
uint64_t kvn_timers_next(const struct kvn_timers *t);

static inline bool kvn_timers_due(const struct kvn_timers *t, enum kvn_timer which, uint64_t now_ns)
{
    return t->at_ns[which] <= now_ns;
}

#endif
