/* SPDX-License-Identifier: Apache-2.0 */
#include "window.h"

#include <assert.h>
#include <string.h>

#include "wire.h"

void kvw_window_reset(struct kvw_window *w)
{
    memset(w->state, KVW_SLOT_GRANTED, w->slots);
    w->lowest = w->told = 0;
    w->queue_head = w->queue_count = 0;
}

bool kvw_window_allows(const struct kvw_window *w, uint64_t offset, uint32_t bytes, uint32_t imm)
{
    const uint32_t ahead = imm - (uint32_t)w->lowest; /* modulo 2^32, as imm is */
    const uint64_t seq = w->lowest + ahead;
    const uint32_t slot = (uint32_t)(seq % w->slots);

    return seq < w->told && ahead < w->slots && w->state[slot] == KVW_SLOT_GRANTED &&
           offset == (uint64_t)slot * w->slot_bytes && bytes >= KVW_CHUNK_HDR_BYTES &&
           bytes <= w->slot_bytes;
}

kvw_err kvw_window_land(struct kvw_window *w, uint64_t offset, uint32_t bytes, uint32_t imm)
{
    uint32_t slot;

    if (!kvw_window_allows(w, offset, bytes, imm))
        return KVW_E_PROTOCOL;
    slot = (uint32_t)(offset / w->slot_bytes);
    w->state[slot] = KVW_SLOT_LANDED;
    w->bytes[slot] = bytes;
    w->queue[(w->queue_head + w->queue_count) % w->slots] = (uint16_t)slot;
    ++w->queue_count;
    return KVW_OK;
}

bool kvw_window_peek(const struct kvw_window *w, uint32_t *slot)
{
    if (w->queue_count == 0)
        return false;
    *slot = w->queue[w->queue_head];
    return true;
}

uint64_t kvw_window_seq(const struct kvw_window *w, uint32_t slot)
{
    const uint32_t first = (uint32_t)(w->lowest % w->slots);

    return w->lowest + (slot >= first ? slot - first : slot + w->slots - first);
}

void kvw_window_pop(struct kvw_window *w)
{
    const uint32_t slot = w->queue[w->queue_head];

    assert(w->queue_count > 0 && w->state[slot] == KVW_SLOT_LANDED);
    w->queue_head = (w->queue_head + 1) % w->slots;
    --w->queue_count;
    w->state[slot] = KVW_SLOT_PROCESSED;
    while (w->state[w->lowest % w->slots] == KVW_SLOT_PROCESSED) {
        w->state[w->lowest % w->slots] = KVW_SLOT_GRANTED;
        ++w->lowest;
    }
}
