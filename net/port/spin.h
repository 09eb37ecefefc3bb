/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spin.h - whether a wait should look for a while before it sleeps, and for how long. Looking saves
 * the sleep and the wake (2 us to 50 us) when the answer comes at once, and is lost time when it
 * doesn't: on a core that the peer needs too, it never does. So it is tried only after sleeps that
 * turned out short, and each try in vain doubles the number of short sleeps the next one takes:
 *
 *   sleeps  --need short ones in a row-->  looks for up to KVN_SPIN_NS, then sleeps
 *   looks   --one in vain, need doubles (KVN_SPIN_NEED_MIN .. KVN_SPIN_NEED_MAX)-->  sleeps
 *   looks   --one not in vain, need halves-->  looks
 *
 * At worst, with KVN_SPIN_NEED_MAX, that is KVN_SPIN_NS of looking for 4096 sleeps.
 *
 * threads  one      memory  the caller's      time  the caller's clock, no I/O
 */
#ifndef KVN_SPIN_H
#define KVN_SPIN_H

#include <stdbool.h>
#include <stdint.h>

#define KVN_SPIN_NS       30000u /* about what a sleep and a wake cost, twice */
#define KVN_SPIN_NEED_MIN 8u
#define KVN_SPIN_NEED_MAX 4096u

struct kvn_spin {
    bool always;            /* a core of our own: look until something comes */
    bool looking;           /* the next wait starts by looking */
    uint32_t short_sleeps;  /* in a row, that looking would have spared */
    uint32_t need;          /* of them before looking is tried */
    uint64_t looks, caught; /* so far; for figures */
    uint64_t sleeps;
};

void kvn_spin_begin(struct kvn_spin *s, bool always);

/* Until when a wait that begins at now_ns and may last until until_ns looks; now_ns: not at all. */
uint64_t kvn_spin_until(struct kvn_spin *s, uint64_t now_ns, uint64_t until_ns);

/* How the looking ended: found, or in vain. Not for one that until_ns cut short. */
void kvn_spin_looked(struct kvn_spin *s, bool found);

/* A sleep of ns; woken: by input, not by its time. */
void kvn_spin_slept(struct kvn_spin *s, uint64_t ns, bool woken);

#endif
