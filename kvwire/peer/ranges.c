/* SPDX-License-Identifier: Apache-2.0 */
#include "ranges.h"

#include <assert.h>
#include <stddef.h>

void kvw_span_pool_init(struct kvw_span_pool *pool, struct kvw_span *spans, uint16_t count)
{
    pool->spans = spans;
    pool->count = pool->free_count = count;
    pool->free = count > 0 ? 0 : KVW_SPAN_NONE;
    for (uint16_t i = 0; i < count; ++i)
        spans[i].next = i + 1 < count ? (uint16_t)(i + 1) : KVW_SPAN_NONE;
}

static void give_back(struct kvw_span_pool *pool, uint16_t i)
{
    pool->spans[i].next = pool->free;
    pool->free = i;
    ++pool->free_count;
}

void kvw_ranges_free(struct kvw_ranges *r, struct kvw_span_pool *pool)
{
    while (r->spans != KVW_SPAN_NONE) {
        const uint16_t i = r->spans;

        r->spans = pool->spans[i].next;
        give_back(pool, i);
    }
}

bool kvw_ranges_overlap(const struct kvw_ranges *r, const struct kvw_span_pool *pool,
                        uint32_t first, uint32_t end)
{
    if (first < r->prefix)
        return true;
    for (uint16_t i = r->spans; i != KVW_SPAN_NONE; i = pool->spans[i].next)
        if (first < pool->spans[i].end && pool->spans[i].first < end)
            return true;
    return false;
}

kvw_err kvw_ranges_add(struct kvw_ranges *r, struct kvw_span_pool *pool, uint32_t first,
                       uint32_t end)
{
    uint16_t *link = &r->spans; /* where a span that follows [first, end) hangs */
    struct kvw_span *before = NULL;

    assert(first < end && !kvw_ranges_overlap(r, pool, first, end));
    while (*link != KVW_SPAN_NONE && pool->spans[*link].end <= first) {
        before = &pool->spans[*link];
        link = &before->next;
    }
    if (before != NULL && before->end == first) {
        before->end = end;
    } else if (r->prefix == first) {
        r->prefix = end;
    } else if (*link != KVW_SPAN_NONE && pool->spans[*link].first == end) {
        pool->spans[*link].first = first;
        return KVW_OK;
    } else {
        const uint16_t i = pool->free;

        if (i == KVW_SPAN_NONE)
            return KVW_E_NOMEM;
        pool->free = pool->spans[i].next;
        --pool->free_count;
        pool->spans[i] = (struct kvw_span){first, end, *link};
        *link = i;
        return KVW_OK;
    }
    /* What grew upwards may now touch the span above it. */
    if (*link != KVW_SPAN_NONE && pool->spans[*link].first == end) {
        const uint16_t i = *link;

        if (before != NULL && before->end == end)
            before->end = pool->spans[i].end;
        else
            r->prefix = pool->spans[i].end;
        *link = pool->spans[i].next;
        give_back(pool, i);
    }
    return KVW_OK;
}
