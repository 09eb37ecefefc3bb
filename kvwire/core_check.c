/* SPDX-License-Identifier: Apache-2.0 */
/* core_check.c - debug builds: the relations between a core's tables hold. */
#include <assert.h>

#include "peer/core_state.h"

void kvw_core_assert_consistent(const struct kvw_core *c)
{
#ifndef NDEBUG
    uint32_t free_slots = 0, landed = 0, free_stages = 0, up = 0;

    for (uint32_t i = 0; i < c->slots.count; ++i) {
        free_slots += c->slots.slots[i].state == KVW_LANDING_FREE;
        landed += c->slots.slots[i].state == KVW_LANDING_LANDED;
    }
    assert(free_slots == c->slots.free_count && landed == c->slots.landed_count);
    for (uint32_t i = 0; i < c->stages.count; ++i)
        free_stages += c->stages.stages[i].state == KVW_STAGING_FREE;
    assert(free_stages == c->stages.free_count);
    kvw_list_each(it, after, &c->peers)
    {
        const struct kvw_peer *p = kvw_list_of(it, struct kvw_peer, all);
        uint32_t receiving = 0, sending = 0;

        up += p->link != NULL;
        kvw_list_each(at, next, &p->flows)
        {
            const struct kvw_flow *f = kvw_list_of(at, struct kvw_flow, of_peer);

            receiving += f->receiver && f->state < KVW_FLOW_COMPLETE;
            sending += !f->receiver && f->state == KVW_FLOW_OPEN;
            assert(f->peer == p);
        }
        assert(receiving == p->receiver_flows && sending == p->sender_flows);
        assert(kvw_peer_needs_slots(p) == !kvw_list_empty(&p->receiving));
        assert(p->credit.next + kvw_peer_unnumbered(p) <= p->credit.limit || p->link == NULL);
    }
    assert(up == c->peers_up);
#else
    (void)c;
#endif
}
