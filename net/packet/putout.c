/* SPDX-License-Identifier: Apache-2.0 */
#include "putout.h"

#include <assert.h>
#include <string.h>
#include <sys/mman.h>

#include "regions.h"

static struct kvn_put_out *at(const struct kvn_puts_out *p, uint32_t put)
{
    return &p->slot[put & p->mask];
}

static bool bit(const uint64_t *map, uint32_t n)
{
    return map[n / 64] >> (n % 64) & 1;
}

void kvn_puts_out_begin(struct kvn_puts_out *p, struct kvn_put_out *slots)
{
    *p = (struct kvn_puts_out){.slot = slots,
                               .own = slots,
                               .mask = KVN_PUTS_FIRST - 1,
                               .done_head = UINT32_MAX,
                               .done_tail = UINT32_MAX};
}

void kvn_puts_out_end(struct kvn_puts_out *p)
{
    if (p->slot != p->own)
        munmap(p->slot, (p->mask + 1) * sizeof(p->slot[0]));
    p->slot = p->own;
    p->mask = KVN_PUTS_FIRST - 1;
}

/* The list's slots by their new numbers. */
static uint32_t moved(const struct kvn_puts_out *p, uint32_t slot, uint32_t mask)
{
    return slot == UINT32_MAX ? slot : (p->first + ((slot - p->first) & p->mask)) & mask;
}

bool kvn_puts_out_grow(struct kvn_puts_out *p)
{
    const uint32_t mask = 2 * p->mask + 1;
    struct kvn_put_out *slots;

    if (mask >= KVN_PUTS_MAX)
        return false;
    slots = mmap(NULL, (mask + 1) * sizeof(*slots), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (slots == MAP_FAILED)
        return false;
    for (uint32_t put = p->first; put != p->next; ++put) {
        slots[put & mask] = *at(p, put);
        slots[put & mask].after = moved(p, at(p, put)->after, mask);
        at(p, put)->state = KVN_PUT_OUT_FREE;
    }
    p->done_head = moved(p, p->done_head, mask);
    p->done_tail = moved(p, p->done_tail, mask);
    kvn_puts_out_end(p);
    p->slot = slots;
    p->mask = mask;
    return true;
}

void kvn_puts_out_agreed(struct kvn_puts_out *p, uint32_t slice, uint32_t window, uint64_t credit)
{
    p->credit = credit;
    p->slice = slice;
    p->window = window < KVN_PUTS_MAX ? window : KVN_PUTS_MAX;
}

kvw_err kvn_puts_out_push(struct kvn_puts_out *p, const struct kvw_put *put, uint32_t bytes)
{
    struct kvn_put_out *o = at(p, p->next);

    if (p->next - p->first > p->mask)
        return KVW_E_AGAIN;
    assert(o->state == KVN_PUT_OUT_FREE);
    memset(o, 0, sizeof(*o));
    memcpy(o->iov, put->iov, put->iov_count * sizeof(put->iov[0]));
    o->iov_count = put->iov_count;
    o->cookie = put->cookie;
    o->region = kvn_region_number(&put->key);
    o->offset = put->offset;
    if (o->offset > KVN_OFFSET_MAX || o->region > KVN_REGION_MAX) {
        o->offset = KVN_OFFSET_MAX; /* as far out of any region as what was asked for */
        o->region &= KVN_REGION_MAX;
    }
    o->bytes = bytes;
    o->imm = put->imm;
    o->state = KVN_PUT_OUT_ACTIVE;
    ++p->next;
    return KVW_OK;
}

static uint32_t slice_bytes(const struct kvn_put_out *o, uint32_t number)
{
    const uint32_t left = o->bytes - number * o->slice;

    return left < o->slice ? left : o->slice;
}

/* fresh stands at a put with slices that were never sent, or at the end. */
static void find_fresh(struct kvn_puts_out *p)
{
    while (p->fresh != p->next) {
        const struct kvn_put_out *o = at(p, p->fresh);

        if (o->state == KVN_PUT_OUT_ACTIVE && (o->slices == 0 || o->fresh < o->slices))
            return;
        ++p->fresh;
    }
}

/* What of a put was sent and counted: its first `fresh` slices. */
static uint32_t sent_bytes(const struct kvn_put_out *o)
{
    return o->fresh == o->slices ? o->bytes : o->fresh * o->slice;
}

void kvn_puts_out_recut(struct kvn_puts_out *p, uint32_t slice)
{
    p->slice = slice;
    for (uint32_t put = p->next; put-- != p->first;) {
        struct kvn_put_out *o = at(p, put);

        if (o->state != KVN_PUT_OUT_ACTIVE || o->slices == 0 || o->slice <= slice)
            continue;
        p->sent -= sent_bytes(o);
        o->slice = slice; /* never longer again: the peer takes longer ones for old copies */
        p->lost_count -= o->lost_count;
        o->slices = o->fresh = o->lost_count = o->arrived_count = 0;
        memset(o->lost, 0, sizeof(o->lost));
        memset(o->arrived, 0, sizeof(o->arrived));
        if (p->fresh - p->first > put - p->first)
            p->fresh = put;
    }
    find_fresh(p);
}

static struct kvn_slice take_lost(struct kvn_puts_out *p)
{
    uint32_t put = p->first, word = 0, number;
    struct kvn_put_out *o;

    while (at(p, put)->lost_count == 0)
        ++put;
    o = at(p, put);
    while (o->lost[word] == 0)
        ++word;
    number = word * 64 + (uint32_t)__builtin_ctzll(o->lost[word]);
    o->lost[word] &= o->lost[word] - 1;
    --o->lost_count;
    --p->lost_count;
    return (struct kvn_slice){
        .of = o, .put = put, .number = number, .bytes = slice_bytes(o, number), .again = true};
}

struct kvn_slice kvn_puts_out_take(struct kvn_puts_out *p)
{
    struct kvn_put_out *o;
    struct kvn_slice s;

    assert(kvn_puts_out_ready(p));
    if (p->lost_count > 0)
        return take_lost(p);
    o = at(p, p->fresh);
    if (o->slices == 0) {
        if (o->slice == 0 || o->slice > p->slice)
            o->slice = p->slice;
        o->slices = (o->bytes + o->slice - 1) / o->slice;
    }
    s = (struct kvn_slice){
        .of = o, .put = p->fresh, .number = o->fresh, .bytes = slice_bytes(o, o->fresh)};
    p->sent += s.bytes;
    if (++o->fresh == o->slices)
        find_fresh(p);
    return s;
}

uint32_t kvn_puts_out_pieces(const struct kvn_slice *s, struct kvw_iov piece[KVW_PUT_IOV_MAX])
{
    const struct kvn_put_out *o = s->of;
    uint32_t skip = s->number * o->slice, left = s->bytes, count = 0;

    for (uint32_t i = 0; i < o->iov_count && left > 0; ++i) {
        const struct kvw_iov *v = &o->iov[i];
        uint32_t n;

        if (skip >= v->bytes) {
            skip -= v->bytes;
            continue;
        }
        n = v->bytes - skip < left ? v->bytes - skip : left;
        piece[count++] = (struct kvw_iov){.base = (const uint8_t *)v->base + skip, .bytes = n};
        left -= n;
        skip = 0;
    }
    return count;
}

struct kvn_put_out *kvn_puts_out_find(const struct kvn_puts_out *p, uint32_t put)
{
    struct kvn_put_out *o = at(p, put);

    return put - p->first < p->next - p->first && o->state == KVN_PUT_OUT_ACTIVE ? o : NULL;
}

static void done(struct kvn_puts_out *p, struct kvn_put_out *o, kvw_err err)
{
    const uint32_t slot = (uint32_t)(o - p->slot);

    p->lost_count -= o->lost_count;
    o->lost_count = 0;
    o->state = KVN_PUT_OUT_DONE;
    o->err = err;
    o->after = UINT32_MAX;
    if (p->done_tail == UINT32_MAX)
        p->done_head = slot;
    else
        p->slot[p->done_tail].after = slot;
    p->done_tail = slot;
}

void kvn_puts_out_arrived(struct kvn_puts_out *p, uint32_t put, uint32_t slice, uint32_t cut)
{
    struct kvn_put_out *o = kvn_puts_out_find(p, put);
    const uint64_t mask = 1ull << (slice % 64);

    if (o == NULL || cut != o->slice / KVN_SLICE_ALIGN || slice >= o->fresh ||
        bit(o->arrived, slice))
        return;
    o->arrived[slice / 64] |= mask;
    if (bit(o->lost, slice)) {
        o->lost[slice / 64] &= ~mask;
        --o->lost_count;
        --p->lost_count;
    }
    if (++o->arrived_count == o->slices)
        done(p, o, KVW_OK);
}

void kvn_puts_out_lost(struct kvn_puts_out *p, uint32_t put, uint32_t slice, uint32_t cut)
{
    struct kvn_put_out *o = kvn_puts_out_find(p, put);

    if (o == NULL || cut != o->slice / KVN_SLICE_ALIGN || slice >= o->fresh ||
        bit(o->arrived, slice) || bit(o->lost, slice))
        return;
    o->lost[slice / 64] |= 1ull << (slice % 64);
    ++o->lost_count;
    ++p->lost_count;
}

void kvn_puts_out_fail(struct kvn_puts_out *p, kvw_err err)
{
    for (uint32_t put = p->first; put != p->next; ++put)
        if (at(p, put)->state == KVN_PUT_OUT_ACTIVE)
            done(p, at(p, put), err);
    p->fresh = p->next;
}

bool kvn_puts_out_next_done(struct kvn_puts_out *p, uint64_t *cookie, kvw_err *err)
{
    struct kvn_put_out *o;

    if (p->done_head == UINT32_MAX)
        return false;
    o = &p->slot[p->done_head];
    *cookie = o->cookie;
    *err = o->err;
    o->state = KVN_PUT_OUT_FREE;
    p->done_head = o->after;
    if (p->done_head == UINT32_MAX)
        p->done_tail = UINT32_MAX;
    while (p->first != p->next && at(p, p->first)->state == KVN_PUT_OUT_FREE)
        ++p->first;
    return true;
}
