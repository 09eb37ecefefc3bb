/* SPDX-License-Identifier: Apache-2.0 */
#include "putin.h"

#include <string.h>
#include <sys/mman.h>

static struct kvn_put_in *at(const struct kvn_puts_in *p, uint32_t put)
{
    return &p->slot[put & p->mask];
}

void kvn_puts_in_begin(struct kvn_puts_in *p, struct kvn_put_in *slots, uint64_t credit)
{
    *p = (struct kvn_puts_in){.slot = slots,
                              .own = slots,
                              .mask = KVN_PUTS_FIRST - 1,
                              .landed_head = UINT32_MAX,
                              .landed_tail = UINT32_MAX,
                              .credit = credit};
}

/* All of the caller's are AHEAD after this. */
void kvn_puts_in_end(struct kvn_puts_in *p)
{
    if (p->slot != p->own)
        munmap(p->slot, (p->mask + 1) * sizeof(p->slot[0]));
    p->slot = p->own;
    p->mask = KVN_PUTS_FIRST - 1;
    for (uint32_t i = 0; i < KVN_PUTS_FIRST; ++i)
        p->slot[i].state = KVN_PUT_IN_AHEAD;
}

/* The list's slots by their new numbers. */
static uint32_t moved(const struct kvn_puts_in *p, uint32_t slot, uint32_t mask)
{
    return slot == UINT32_MAX ? slot : (p->first + ((slot - p->first) & p->mask)) & mask;
}

static bool grow(struct kvn_puts_in *p)
{
    const uint32_t mask = 2 * p->mask + 1;
    struct kvn_put_in *slots;

    if (mask >= KVN_PUTS_MAX)
        return false;
    slots = mmap(NULL, (mask + 1) * sizeof(*slots), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (slots == MAP_FAILED)
        return false;
    for (uint32_t put = p->first; put != p->end; ++put) {
        slots[put & mask] = *at(p, put);
        slots[put & mask].after = moved(p, at(p, put)->after, mask);
    }
    p->landed_head = moved(p, p->landed_head, mask);
    p->landed_tail = moved(p, p->landed_tail, mask);
    kvn_puts_in_end(p);
    p->slot = slots;
    p->mask = mask;
    return true;
}

/* The sender is further ahead than there are slots, as far as it was told that it may be. */
__attribute__((cold, noinline)) static bool make_room(struct kvn_puts_in *p, uint32_t put)
{
    if (put - p->first >= KVN_PUTS_MAX)
        return false;
    while (put - p->first > p->mask)
        if (!grow(p))
            return false;
    return true;
}

static uint32_t slice_bytes(const struct kvn_put_in *in, uint32_t slice)
{
    const uint32_t left = in->data.bytes - slice * in->data.slice;

    return left < in->data.slice ? left : in->data.slice;
}

static void begin_again(struct kvn_put_in *in, const struct kvn_data *d)
{
    in->data = *d;
    in->slices = (d->bytes + d->slice - 1) / d->slice;
    in->got = 0;
    memset(in->map, 0, sizeof(in->map));
}

/* The whole put is checked and the gate asked on whichever slice comes first. */
static kvw_err open_put(struct kvn_puts_in *p, struct kvn_put_in *in, const struct kvn_data *d,
                        const struct kvn_region *r, kvw_conn_id conn)
{
    if (d->offset > r->mem.bytes || d->bytes > r->mem.bytes - d->offset)
        return KVW_E_PROTOCOL;
    if (r->gate != NULL && !r->gate(r->gate_arg, conn, d->offset, d->bytes, d->imm))
        return KVW_E_PROTOCOL;
    begin_again(in, d);
    in->state = KVN_PUT_IN_OPEN;
    ++p->open;
    if ((int32_t)(d->put - p->end) >= 0)
        p->end = d->put + 1;
    return KVW_OK;
}

/* The sender cuts the put smaller, as its slices no longer fit the path; they come anew. */
static void recut(struct kvn_puts_in *p, struct kvn_put_in *in, const struct kvn_data *d)
{
    for (uint32_t i = 0; i < in->slices; ++i)
        if (in->map[i / 64] >> (i % 64) & 1)
            p->taken -= slice_bytes(in, i);
    begin_again(in, d);
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
    --p->open;
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
    struct kvn_put_in *in;
    const uint64_t skip = (uint64_t)f->slice * f->data.slice;
    const struct kvn_region *r;
    uint64_t *word, mask;
    const uint32_t want = f->payload_bytes; /* frame.c knows that it is the slice's length */

    *fresh = 0;
    if ((int32_t)(f->data.put - p->first) < 0)
        return KVW_OK;
    if (f->data.put - p->first > p->mask && !make_room(p, f->data.put))
        return KVW_E_AGAIN;
    in = at(p, f->data.put);
    if (in->state == KVN_PUT_IN_LANDED || in->state == KVN_PUT_IN_TAKEN)
        return KVW_OK;

    /* Looked up for every slice: a region removed half way must not be written again. */
    r = kvn_regions_find(regions, f->data.region);
    if (r == NULL)
        return KVW_E_PROTOCOL;
    if (in->state == KVN_PUT_IN_AHEAD) {
        const kvw_err err = open_put(p, in, &f->data, r, conn);
        if (err != KVW_OK)
            return err;
    } else if (!same_put(&in->data, &f->data)) {
        return KVW_E_PROTOCOL;
    } else if (in->data.slice != f->data.slice) {
        if (in->data.slice < f->data.slice)
            return KVW_OK; /* an old copy, from before the put was cut again */
        recut(p, in, &f->data);
    }
    word = &in->map[f->slice / 64];
    mask = 1ull << (f->slice % 64);
    if (*word & mask)
        return KVW_OK;
    if (p->taken + want > p->credit)
        return KVW_E_AGAIN;
    memcpy((uint8_t *)r->mem.base + f->data.offset + skip, f->payload, want);
    *word |= mask;
    *fresh = want;
    p->taken += want;
    if (++in->got == in->slices)
        landed(p, in);
    return KVW_OK;
}

uint64_t kvn_puts_in_credit(struct kvn_puts_in *p, uint64_t window)
{
    if (p->taken + window > p->credit)
        p->credit = p->taken + window;
    return p->credit;
}

uint32_t kvn_puts_in_missing(const struct kvn_puts_in *p, struct kvn_missing *out, uint32_t max)
{
    uint32_t n = 0, seen = 0;

    for (uint32_t put = p->first; seen < p->open && put != p->end; ++put) {
        const struct kvn_put_in *in = at(p, put);

        if (in->state != KVN_PUT_IN_OPEN)
            continue;
        ++seen;
        for (uint32_t i = 0; i < in->slices; ++i) {
            if (in->map[i / 64] >> (i % 64) & 1)
                continue;
            if (n > 0 && out[n - 1].put == put && out[n - 1].first + out[n - 1].count == i) {
                ++out[n - 1].count;
                continue;
            }
            if (n == max)
                return n;
            out[n++] = (struct kvn_missing){.put = put, .first = (uint16_t)i, .count = 1};
        }
    }
    return n;
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
