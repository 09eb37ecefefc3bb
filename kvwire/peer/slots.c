/* SPDX-License-Identifier: Apache-2.0 */
/* Landing slots: lent, landed, taken. */
#include "slots.h"

#include "../wire/batches.h"
#include "../wire/le.h"

void kvw_slots_init(struct kvw_slots *s)
{
    for (uint32_t i = 0; i < s->count; ++i)
        s->slots[i] =
            (struct kvw_landing){.next = i + 1 < s->count ? (uint16_t)(i + 1) : KVW_SLOT_NONE};
    s->free = 0;
    s->free_count = s->count;
    s->chunks = s->batches = KVW_SLOT_LINE_EMPTY;
    s->unseen = KVW_SLOT_NONE;
    s->landed_count = 0;
}

/* The peer's connection may put number seq into the slot. */
static void open_to(struct kvw_slots *s, const struct kvw_landing *l, const struct kvw_peer *p)
{
    atomic_store_explicit(&s->open[p->link->path * s->count + (uint32_t)(l - s->slots)],
                          (uint64_t)p->link->conn.value << 32 | (uint32_t)l->seq,
                          memory_order_release);
}

/* Nobody may. */
static void shut(struct kvw_slots *s, const struct kvw_landing *l)
{
    for (uint32_t path = 0; path < KVW_CORE_PATHS_MAX; ++path)
        atomic_store_explicit(&s->open[path * s->count + (uint32_t)(l - s->slots)], 0,
                              memory_order_release);
}

static void give_free(struct kvw_slots *s, struct kvw_landing *l)
{
    shut(s, l);
    l->state = KVW_LANDING_FREE;
    l->peer = NULL;
    l->next = s->free;
    s->free = (uint16_t)(l - s->slots);
    ++s->free_count;
}

uint32_t kvw_slots_lend(struct kvw_slots *s, struct kvw_peer *p, uint32_t count, uint8_t *to,
                        uint64_t now_ns)
{
    uint32_t n = 0;

    for (; n < count && s->free != KVW_SLOT_NONE; ++n) {
        struct kvw_landing *l = &s->slots[s->free];

        kvw_store_le16(to + 2 * n, s->free);
        s->free = l->next;
        --s->free_count;
        l->state = KVW_LANDING_GRANTED;
        l->peer = p;
        l->seq = p->lent.limit++;
        l->lent_ns = now_ns;
        open_to(s, l, p);
    }
    p->lent.granted += n;
    return n;
}

bool kvw_slots_allow(const struct kvw_slots *s, uint32_t path, kvw_conn_id conn, uint64_t offset,
                     uint32_t bytes, uint32_t imm)
{
    const uint64_t slot = offset / s->slot_bytes;

    /* Acquire: pairs with the release in open_to(), so that what the slot held has been read. */
    return slot < s->count && offset % s->slot_bytes == 0 && bytes <= s->slot_bytes &&
           conn.value != 0 &&
           atomic_load_explicit(&s->open[path * s->count + slot], memory_order_acquire) ==
               ((uint64_t)conn.value << 32 | imm);
}

static void append(struct kvw_slots *s, struct kvw_slot_line *line, struct kvw_landing *l)
{
    l->next = KVW_SLOT_NONE;
    if (line->head == KVW_SLOT_NONE)
        line->head = (uint16_t)(l - s->slots);
    else
        s->slots[line->tail].next = (uint16_t)(l - s->slots);
    line->tail = (uint16_t)(l - s->slots);
}

static struct kvw_landing *first(const struct kvw_slots *s, const struct kvw_slot_line *line)
{
    return line->head == KVW_SLOT_NONE ? NULL : &s->slots[line->head];
}

static struct kvw_landing *take_first(struct kvw_slots *s, struct kvw_slot_line *line)
{
    struct kvw_landing *l = &s->slots[line->head];

    line->head = l->next;
    if (line->head == KVW_SLOT_NONE)
        line->tail = KVW_SLOT_NONE;
    return l;
}

kvw_err kvw_slots_land(struct kvw_slots *s, struct kvw_peer *p, uint64_t offset, uint32_t bytes,
                       uint32_t imm, uint64_t now_ns)
{
    struct kvw_landing *l;

    if (!kvw_slots_allow(s, p->link->path, p->link->conn, offset, bytes, imm))
        return KVW_E_PROTOCOL;
    l = &s->slots[offset / s->slot_bytes];
    shut(s, l);
    l->state = KVW_LANDING_LANDED;
    l->bytes = bytes;
    if (kvw_wire_is_batch_chunk(kvw_slots_mem(s, l), bytes)) {
        append(s, &s->batches, l);
    } else {
        append(s, &s->chunks, l);
        if (s->unseen == KVW_SLOT_NONE)
            s->unseen = (uint16_t)(l - s->slots);
    }
    ++s->landed_count;
    --p->lent.granted;
    ++p->lent.landed;
    kvw_window_landed(&p->lent.window, bytes, now_ns - l->lent_ns, now_ns);
    return KVW_OK;
}

struct kvw_landing *kvw_slots_first(const struct kvw_slots *s)
{
    return first(s, &s->chunks);
}

struct kvw_landing *kvw_slots_after(const struct kvw_slots *s, const struct kvw_landing *l)
{
    return l->next == KVW_SLOT_NONE ? NULL : &s->slots[l->next];
}

struct kvw_landing *kvw_slots_unseen(const struct kvw_slots *s)
{
    return s->unseen == KVW_SLOT_NONE ? NULL : &s->slots[s->unseen];
}

void kvw_slots_see(struct kvw_slots *s)
{
    s->unseen = s->slots[s->unseen].next;
}

struct kvw_landing *kvw_slots_batch_first(const struct kvw_slots *s)
{
    return first(s, &s->batches);
}

static void pop(struct kvw_slots *s, struct kvw_slot_line *line)
{
    struct kvw_landing *l = take_first(s, line);

    --s->landed_count;
    if (l->peer != NULL) /* NULL: it was lost meanwhile */
        --l->peer->lent.landed;
    give_free(s, l);
}

void kvw_slots_pop(struct kvw_slots *s)
{
    if (s->unseen == s->chunks.head)
        kvw_slots_see(s);
    pop(s, &s->chunks);
}

void kvw_slots_batch_pop(struct kvw_slots *s)
{
    pop(s, &s->batches);
}

void kvw_slots_park(struct kvw_slots *s, struct kvw_slot_line *line)
{
    append(s, line, take_first(s, &s->batches));
}

void kvw_slots_unpark(struct kvw_slots *s, struct kvw_slot_line *line)
{
    while (first(s, line) != NULL)
        append(s, &s->batches, take_first(s, line));
}

bool kvw_slots_take_back(struct kvw_slots *s, struct kvw_peer *p, uint64_t next)
{
    if (next > p->lent.limit)
        return false;
    for (uint32_t i = 0; i < s->count; ++i) {
        struct kvw_landing *l = &s->slots[i];

        if (l->peer != p || l->state == KVW_LANDING_FREE || l->seq < next)
            continue;
        if (l->state == KVW_LANDING_LANDED) {
            if (next != 0)
                return false; /* it says that it won't use what it has used */
            l->peer = NULL;   /* stays in the line of what landed, and is dropped there */
            continue;
        }
        give_free(s, l);
        --p->lent.granted;
    }
    p->lent.limit = next;
    if (next == 0)
        p->lent.landed = 0;
    return true;
}

uint32_t kvw_slots_share(const struct kvw_slots *s, const struct kvw_peer *p, uint32_t receiving)
{
    const uint32_t share = receiving > 0 ? s->count / receiving : 0;
    const uint32_t most =
        (p->hello.features & KVW_FEATURE_CREDIT) != 0 ? KVW_CREDIT_MAX : KVW_CREDIT_FIRST;

    return share < 1 ? 1 : share > most ? most : share;
}

/* --- who needs them --------------------------------------------------------------------------- */

void kvw_slots_wake(struct kvw_core *c)
{
    kvw_list_each(it, after, &c->receiving)
    {
        struct kvw_peer *p = kvw_list_of(it, struct kvw_peer, receiving);

        if (p->link != NULL && p->lent.granted == 0)
            kvw_peer_owes(c, p);
    }
}

void kvw_slots_needed(struct kvw_core *c, struct kvw_peer *p)
{
    kvw_list_want(&c->receiving, &p->receiving);
    p->idle_at_ns = UINT64_MAX;
    kvw_heap_set(&c->timers, &p->timer, p->dial_at_ns);
}

void kvw_slots_unneeded(struct kvw_core *c, struct kvw_peer *p)
{
    kvw_list_remove(&p->receiving);
    kvw_window_pause(&p->lent.window);
    p->idle_at_ns = c->now_ns + KVW_IDLE_SLOTS_NS;
    kvw_heap_set(&c->timers, &p->timer,
                 p->idle_at_ns < p->dial_at_ns ? p->idle_at_ns : p->dial_at_ns);
    kvw_slots_wake(c);
}

void kvw_slots_need(struct kvw_core *c, struct kvw_peer *p)
{
    ++p->batches_in;
    kvw_slots_needed(c, p);
    kvw_peer_owes(c, p);
}

void kvw_slots_need_no_more(struct kvw_core *c, struct kvw_peer *p)
{
    --p->batches_in;
    if (!kvw_peer_needs_slots(p))
        kvw_slots_unneeded(c, p);
}
