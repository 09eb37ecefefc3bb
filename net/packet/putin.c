/* SPDX-License-Identifier: Apache-2.0 */
#include "putin.h"

#include <string.h>

static struct kvn_put_in *at(const struct kvn_puts_in *p, uint32_t put)
{
    return &p->slot[put & (KVN_PUTS_MAX - 1)];
}

void kvn_puts_in_begin(struct kvn_puts_in *p, struct kvn_put_in *slots, uint32_t slice)
{
    *p = (struct kvn_puts_in){
        .slot = slots, .landed_head = UINT32_MAX, .landed_tail = UINT32_MAX, .slice = slice};
}

void kvn_puts_in_end(struct kvn_puts_in *p)
{
    for (uint32_t i = 0; i < KVN_PUTS_MAX; ++i)
        p->slot[i].state = KVN_PUT_IN_AHEAD;
}

/* The whole put is checked and the gate asked on whichever slice comes first. */
static kvw_err open_put(struct kvn_puts_in *p, struct kvn_put_in *in, const struct kvn_data *d,
                        const struct kvn_region *r, kvw_conn_id conn)
{
    if (d->offset > r->mem.bytes || d->bytes > r->mem.bytes - d->offset)
        return KVW_E_PROTOCOL;
    if (r->gate != NULL && !r->gate(r->gate_arg, conn, d->offset, d->bytes, d->imm))
        return KVW_E_PROTOCOL;
    in->data = *d;
    in->slices = (d->bytes + p->slice - 1) / p->slice;
    in->got = 0;
    memset(in->map, 0, sizeof(in->map));
    in->state = KVN_PUT_IN_OPEN;
    return KVW_OK;
}

static bool same_put(const struct kvn_data *a, const struct kvn_data *b)
{
    return a->region == b->region && a->offset == b->offset && a->bytes == b->bytes &&
           a->imm == b->imm;
}

static void landed(struct kvn_puts_in *p, struct kvn_put_in *in)
{
    const uint32_t slot = (uint32_t)(in - p->slot);

    in->state = KVN_PUT_IN_LANDED;
    in->after = UINT32_MAX;
    if (p->landed_tail == UINT32_MAX)
        p->landed_head = slot;
    else
        p->slot[p->landed_tail].after = slot;
    p->landed_tail = slot;
}

kvw_err kvn_puts_in_take(struct kvn_puts_in *p, const struct kvn_frame *f,
                         const struct kvn_regions *regions, kvw_conn_id conn, uint32_t *fresh)
{
    struct kvn_put_in *in = at(p, f->data.put);
    const uint64_t skip = (uint64_t)f->slice * p->slice;
    const struct kvn_region *r;
    uint64_t *word, mask;
    uint32_t want;

    *fresh = 0;
    if ((int32_t)(f->data.put - p->first) < 0)
        return KVW_OK;
    if (f->data.put - p->first >= KVN_PUTS_MAX)
        return KVW_E_AGAIN;
    if (in->state == KVN_PUT_IN_LANDED || in->state == KVN_PUT_IN_TAKEN)
        return KVW_OK;

    /* Looked up for every slice: a region removed half way must not be written again. */
    r = kvn_regions_find(regions, f->data.region);
    if (r == NULL || skip >= f->data.bytes)
        return KVW_E_PROTOCOL;
    want = f->data.bytes - skip < p->slice ? f->data.bytes - (uint32_t)skip : p->slice;
    if (f->payload_bytes != want)
        return KVW_E_PROTOCOL;
    if (in->state == KVN_PUT_IN_AHEAD) {
        const kvw_err err = open_put(p, in, &f->data, r, conn);
        if (err != KVW_OK)
            return err;
    } else if (!same_put(&in->data, &f->data)) {
        return KVW_E_PROTOCOL;
    }
    word = &in->map[f->slice / 64];
    mask = 1ull << (f->slice % 64);
    if (*word & mask)
        return KVW_OK;
    memcpy((uint8_t *)r->mem.base + f->data.offset + skip, f->payload, want);
    *word |= mask;
    *fresh = want;
    if (++in->got == in->slices)
        landed(p, in);
    return KVW_OK;
}

const struct kvn_data *kvn_puts_in_next_landed(struct kvn_puts_in *p)
{
    struct kvn_put_in *in;

    if (p->landed_head == UINT32_MAX)
        return NULL;
    in = &p->slot[p->landed_head];
    in->state = KVN_PUT_IN_TAKEN;
    p->landed_head = in->after;
    if (p->landed_head == UINT32_MAX)
        p->landed_tail = UINT32_MAX;
    while (at(p, p->first)->state == KVN_PUT_IN_TAKEN) {
        at(p, p->first)->state = KVN_PUT_IN_AHEAD;
        ++p->first;
    }
    return &in->data;
}
