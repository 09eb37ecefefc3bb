/* SPDX-License-Identifier: Apache-2.0 */
/* meet.cpp - where threads wait for each other: a block's barrier, and lanes that shuffle or vote.
 */
#include "fiber.h"
#include "race.h"

static bool same(simt_place a, simt_place b)
{
    return a.line == b.line && strcmp(a.file, b.file) == 0;
}

void simt_release_barrier(simt_block *b, unsigned slot, unsigned threads)
{
    b->waiting = 0;
    for (unsigned i = 0; i < threads; ++i) {
        simt_fiber *f = simt_fiber_of(slot, i);

        if (f->in == b && f->waits)
            simt_wake(f);
    }
}

void simt_barrier(simt_place at)
{
    simt_fiber *f = simt_self();
    simt_block *b = f->in;

    ++simt_count.barriers;
    if (b->waiting > 0 && !same(b->at, at))
        simt_trap(at, "a barrier, while %u threads of the block wait at the one of %s:%d",
                  b->waiting, b->at.file, b->at.line);
    b->at = at;
    if (race_barrier_arrive)
        race_barrier_arrive();
    if (++b->waiting == b->alive)
        simt_release_barrier(b, f->here.slot,
                             f->here.block_dim.x * f->here.block_dim.y * f->here.block_dim.z);
    else
        simt_wait();
    if (race_barrier_leave)
        race_barrier_leave();
    simt_give_way(false);
}

/* The meeting of that mask, or a free one. A slot is free when all have left. */
static simt_meeting *meeting_of(simt_warp *w, simt_place at, uint32_t mask, unsigned lane)
{
    simt_meeting *unused = NULL;

    for (simt_meeting &m : w->of) {
        const bool busy = m.arrived != 0 || m.unread != 0;

        if (busy && m.mask == mask)
            return &m;
        if ((m.arrived & mask) != 0 && (m.mask >> lane & 1) != 0)
            simt_trap(at, "mask %08x, while lanes %08x wait at %s:%d for this one with mask %08x",
                      mask, m.arrived, m.at.file, m.at.line, m.mask);
        if (!busy && unused == NULL)
            unused = &m;
    }
    if (unused == NULL)
        simt_trap(at, "lanes of a warp are in more than %u groups", SIMT_MEETINGS);
    *unused = simt_meeting();
    unused->mask = mask;
    return unused;
}

/* The last one has come: the others of the mask may go on, and the next turn begins. */
static void close_meeting(simt_meeting *m, unsigned lane)
{
    simt_fiber *first = simt_self() - lane; /* fibers of a block lie side by side */

    m->unread = m->mask;
    m->arrived = 0;
    m->turn ^= 1;
    for (uint32_t left = m->mask & ~(1u << lane); left != 0; left &= left - 1)
        simt_wake(first + __builtin_ctz(left));
}

simt_gift simt_meet(simt_place at, uint32_t mask, uint64_t value, int from, bool orders_memory)
{
    const unsigned lane = simt_self()->here.index % 32;

    ++simt_count.meetings;
    if ((mask >> lane & 1) == 0)
        simt_trap(at, "lane %u isn't in its mask %08x", lane, mask);
    if ((mask >> from & 1) == 0)
        simt_trap(at, "lane %u reads from lane %d, which isn't in the mask %08x", lane, from, mask);

    simt_meeting *m =
        meeting_of(&simt_self()->in->warps[simt_self()->here.index / 32], at, mask, lane);
    const unsigned turn = m->turn;

    if (m->arrived != 0 && !same(m->at, at))
        simt_trap(at, "lanes %08x of mask %08x are at %s:%d", m->arrived, mask, m->at.file,
                  m->at.line);
    if (m->arrived == 0) {
        m->at = at;
        m->vote[turn] = 0;
        memset(m->clock[turn], 0, sizeof(m->clock[turn]));
    }
    m->arrived |= 1u << lane;
    m->value[turn][lane] = value;
    m->vote[turn] |= (uint32_t)(value & 1) << lane;
    if (orders_memory && race_warp_arrive)
        race_warp_arrive(m->clock[turn]);
    if (m->arrived == mask)
        close_meeting(m, lane);
    else
        simt_wait();
    if (orders_memory && race_warp_leave)
        race_warp_leave(m->clock[turn]);
    m->unread &= ~(1u << lane);
    return {m->value[turn][from], m->vote[turn]};
}
