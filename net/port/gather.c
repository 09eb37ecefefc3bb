/* SPDX-License-Identifier: Apache-2.0 */
#include "gather.h"

void kvn_gather_begin(struct kvn_gather *g)
{
    *g = (struct kvn_gather){.need = KVN_GATHER_NEED_MIN};
}

void kvn_gather_slept(struct kvn_gather *g, uint64_t ns, bool woken, uint32_t packets)
{
    if (!woken || ns > KVN_GATHER_NS || packets == 0 || packets > KVN_GATHER_THIN) {
        g->thin = 0;
        return;
    }
    if (++g->thin >= g->need)
        g->on = true;
}

void kvn_gather_napped(struct kvn_gather *g, uint32_t packets)
{
    ++g->naps;
    if (packets >= KVN_GATHER_MIN) {
        if (g->need > KVN_GATHER_NEED_MIN)
            g->need /= 2;
        return;
    }
    g->on = false;
    g->thin = 0;
    if (g->need < KVN_GATHER_NEED_MAX)
        g->need *= 2;
}
