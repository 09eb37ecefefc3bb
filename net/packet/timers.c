/* SPDX-License-Identifier: Apache-2.0 */
#include "timers.h"

#include "wire.h"

void kvn_timers_stop(struct kvn_timers *t)
{
    for (int i = 0; i < KVN_TIMERS; ++i)
        t->at_ns[i] = UINT64_MAX;
    t->excused = false;
}

void kvn_timers_began(struct kvn_timers *t, uint64_t now_ns, uint64_t patience_ns)
{
    kvn_timers_stop(t);
    t->at_ns[KVN_TIMER_CONNECT] = now_ns + patience_ns;
}

void kvn_timers_hello_sent(struct kvn_timers *t, uint64_t now_ns, uint32_t tries)
{
    uint64_t wait = KVN_HELLO_FIRST_NS << (tries < 8 ? tries - 1 : 7);

    t->at_ns[KVN_TIMER_HELLO] = now_ns + (wait < KVN_HELLO_MAX_NS ? wait : KVN_HELLO_MAX_NS);
}

void kvn_timers_up(struct kvn_timers *t)
{
    t->at_ns[KVN_TIMER_HELLO] = UINT64_MAX;
    t->at_ns[KVN_TIMER_CONNECT] = UINT64_MAX;
}

void kvn_timers_heard(struct kvn_timers *t, uint64_t now_ns, uint64_t dead_ns)
{
    t->at_ns[KVN_TIMER_PING] = now_ns + dead_ns / 4;
    t->at_ns[KVN_TIMER_DEAD] = now_ns + dead_ns;
    t->excused = false;
}

void kvn_timers_was_away(struct kvn_timers *t, uint64_t now_ns, uint64_t grace_ns)
{
    if (t->excused)
        return;
    t->excused = true;
    if (t->at_ns[KVN_TIMER_DEAD] < now_ns + grace_ns)
        t->at_ns[KVN_TIMER_DEAD] = now_ns + grace_ns;
}

void kvn_timers_ack_owed(struct kvn_timers *t, uint64_t now_ns)
{
    if (t->at_ns[KVN_TIMER_ACK] == UINT64_MAX)
        t->at_ns[KVN_TIMER_ACK] = now_ns + KVN_ACK_DELAY_NS;
}

void kvn_timers_ack_sent(struct kvn_timers *t)
{
    t->at_ns[KVN_TIMER_ACK] = UINT64_MAX;
}

void kvn_timers_pinged(struct kvn_timers *t, uint64_t now_ns, uint64_t dead_ns)
{
    t->at_ns[KVN_TIMER_PING] = now_ns + dead_ns / 4;
}

void kvn_timers_flight(struct kvn_timers *t, uint64_t loss_at_ns, uint64_t probe_at_ns,
                       uint64_t challenge_at_ns)
{
    t->at_ns[KVN_TIMER_LOSS] = loss_at_ns;
    t->at_ns[KVN_TIMER_PROBE] = probe_at_ns;
    t->at_ns[KVN_TIMER_CHALLENGE] = challenge_at_ns;
}

void kvn_timers_search(struct kvn_timers *t, uint64_t at_ns)
{
    t->at_ns[KVN_TIMER_SEARCH] = at_ns;
}

void kvn_timers_ended(struct kvn_timers *t, uint64_t now_ns, bool linger)
{
    kvn_timers_stop(t);
    t->at_ns[KVN_TIMER_LINGER] = linger ? now_ns + KVN_LINGER_NS : now_ns;
}

uint64_t kvn_timers_next(const struct kvn_timers *t)
{
    uint64_t next = UINT64_MAX;

    for (int i = 0; i < KVN_TIMERS; ++i)
        if (t->at_ns[i] < next)
            next = t->at_ns[i];
    return next;
}
