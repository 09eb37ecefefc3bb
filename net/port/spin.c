/* SPDX-License-Identifier: Apache-2.0 */
#include "spin.h"

void kvn_spin_begin(struct kvn_spin *s, bool always)
{
    *s = (struct kvn_spin){.always = always, .need = KVN_SPIN_NEED_MIN};
}

uint64_t kvn_spin_until(struct kvn_spin *s, uint64_t now_ns, uint64_t until_ns)
{
    if (s->always)
        return until_ns;
    if (!s->looking)
        return now_ns;
    ++s->looks;
    return until_ns - now_ns < KVN_SPIN_NS ? until_ns : now_ns + KVN_SPIN_NS;
}

void kvn_spin_looked(struct kvn_spin *s, bool found)
{
    if (s->always)
        return;
    if (found) {
        ++s->caught;
        if (s->need > KVN_SPIN_NEED_MIN)
            s->need /= 2;
        return;
    }
    s->looking = false;
    s->short_sleeps = 0;
    if (s->need < KVN_SPIN_NEED_MAX)
        s->need *= 2;
}

void kvn_spin_slept(struct kvn_spin *s, uint64_t ns, bool woken)
{
    ++s->sleeps;
    if (!woken || ns > KVN_SPIN_NS) {
        s->short_sleeps = 0;
        return;
    }
    if (++s->short_sleeps >= s->need)
        s->looking = true;
}
