/* SPDX-License-Identifier: Apache-2.0 */
#include "loop.h"

#include <string.h>
#include <unistd.h>

void kvn_loop_end_wake(struct loop_end *e)
{
    const uint64_t one = 1;

    /* A full eventfd is as good as a write: it is readable. */
    if (e->asleep && write(e->wake_fd, &one, sizeof(one)) < 0)
        return;
}

uint32_t kvn_loop_end_random(struct loop_end *e)
{
    /* splitmix64: enough to shuffle, and the same everywhere for a seed. */
    uint64_t z = (e->rng += 0x9e3779b97f4a7c15ull);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return (uint32_t)((z ^ (z >> 31)) >> 32);
}

struct loop_conn *kvn_loop_conn_find(struct loop_end *e, kvw_conn_id id)
{
    for (uint32_t i = 0; i < LOOP_CONNS; ++i) {
        struct loop_conn *c = &e->conns[i];

        if (c->state != CONN_FREE && c->state != CONN_LEFT && c->state != CONN_SPENT &&
            c->id.value == id.value)
            return c;
    }
    return NULL;
}

struct loop_conn *kvn_loop_conn_take(struct loop_end *e)
{
    for (uint32_t i = 0; i < LOOP_CONNS; ++i) {
        struct loop_conn *c = &e->conns[i];

        if (c->state != CONN_FREE)
            continue;
        c->id.value = ++e->next_id;
        c->up_due = c->incoming = c->ring_refused = c->room_due = false;
        c->peer = NULL;
        c->other = NULL;
        c->next_stamp = 0;
        c->ring_head = c->ring_tail = c->ring_used = c->ring_reported = 0;
        c->put_count = c->done_head = c->done_count = c->in_flight = 0;
        for (uint32_t k = 0; k < LOOP_PUTS; ++k)
            c->order[k] = (uint16_t)k;
        return c;
    }
    return NULL;
}

void kvn_loop_conn_push_done(struct loop_conn *c, uint64_t cookie, kvw_err err)
{
    c->done[(c->done_head + c->done_count) % LOOP_PUTS] = (struct loop_put_out){cookie, err};
    ++c->done_count;
}

struct loop_put_in *kvn_loop_conn_pop_put(struct loop_conn *c, uint32_t k)
{
    const uint16_t i = c->order[k];

    --c->put_count;
    memmove(&c->order[k], &c->order[k + 1], (c->put_count - k) * sizeof(c->order[0]));
    c->order[c->put_count] = i;
    return &c->puts[i];
}

/* Puts that wait at c never land any more; their owner learns it of those that weren't placed. */
static void conn_fail_puts(struct loop_conn *c)
{
    while (c->put_count > 0) {
        const struct loop_put_in *p = kvn_loop_conn_pop_put(c, 0);

        if (!p->placed)
            kvn_loop_conn_push_done(c->other, p->put.cookie, KVW_E_PEER_LOST);
    }
}

void kvn_loop_conn_part(struct loop_conn *c, kvw_err err, const char *text)
{
    struct loop_conn *both[2] = {c, c->other};
    struct loop_end *peer = c->peer;

    conn_fail_puts(both[0]);
    conn_fail_puts(both[1]);
    for (int i = 0; i < 2; ++i) {
        both[i]->state = CONN_BROKEN;
        both[i]->down_err = err;
        both[i]->down_text = text;
        both[i]->peer = NULL;
    }
    both[0]->other = both[1]->other = NULL;
    kvn_loop_end_wake(peer);
}

static uint32_t msg_room(uint32_t bytes)
{
    return (uint32_t)sizeof(struct loop_msg_head) + (bytes + 15u) / 16u * 16u;
}

bool kvn_loop_ring_push(struct loop_conn *c, const void *msg, uint32_t bytes)
{
    const uint32_t want = msg_room(bytes);
    const uint32_t to_end = LOOP_RING - c->ring_tail;
    const uint32_t skip = to_end < want ? to_end : 0;
    struct loop_msg_head h = {.stamp = c->next_stamp, .bytes = bytes};

    if (LOOP_RING - c->ring_used < want + skip)
        return false;
    if (skip > 0) { /* a multiple of 16, so a head always fits */
        const struct loop_msg_head gap = {.bytes = UINT32_MAX};

        memcpy(c->ring + c->ring_tail, &gap, sizeof(gap));
        c->ring_used += skip;
        c->ring_tail = 0;
    }
    memcpy(c->ring + c->ring_tail, &h, sizeof(h));
    memcpy(c->ring + c->ring_tail + sizeof(h), msg, bytes);
    c->ring_tail = (c->ring_tail + want) % LOOP_RING;
    c->ring_used += want;
    ++c->next_stamp;
    return true;
}

const unsigned char *kvn_loop_ring_peek(struct loop_conn *c, struct loop_msg_head *h)
{
    if (c->ring_used == c->ring_reported)
        return NULL;
    memcpy(h, c->ring + c->ring_head, sizeof(*h));
    if (h->bytes == UINT32_MAX) {
        c->ring_reported += LOOP_RING - c->ring_head;
        c->ring_head = 0;
        memcpy(h, c->ring, sizeof(*h));
    }
    return c->ring + c->ring_head + sizeof(*h);
}

void kvn_loop_ring_pop(struct loop_conn *c, const struct loop_msg_head *h)
{
    c->ring_head = (c->ring_head + msg_room(h->bytes)) % LOOP_RING;
    c->ring_reported += msg_room(h->bytes);
}
