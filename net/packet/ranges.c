/* SPDX-License-Identifier: Apache-2.0 */
#include "ranges.h"

#include <assert.h>
#include <string.h>

/* Index of the first range whose end is >= number (touching counts). Most additions are at the
 * top, so the search starts there. */
static uint32_t find(const struct kvn_ranges *set, uint64_t number)
{
    uint32_t i = set->count;

    while (i > 0 && set->range[i - 1].end >= number)
        --i;
    return i;
}

static void cut(struct kvn_ranges *set, uint32_t at, uint32_t n)
{
    memmove(&set->range[at], &set->range[at + n], (set->count - at - n) * sizeof(set->range[0]));
    set->count -= n;
}

enum kvn_ranges_result kvn_ranges_add(struct kvn_ranges *set, uint64_t first, uint64_t end)
{
    const uint32_t i = find(set, first);
    uint32_t j = i; /* one past the last range that [first, end) touches */

    assert(first < end);
    while (j < set->count && set->range[j].first <= end)
        ++j;
    if (i == j) {
        if (set->count == KVN_RANGES_MAX)
            return KVN_RANGES_FULL;
        memmove(&set->range[i + 1], &set->range[i], (set->count - i) * sizeof(set->range[0]));
        set->range[i] = (struct kvn_range){.first = first, .end = end};
        ++set->count;
        return KVN_RANGES_ADDED;
    }
    if (set->range[i].first <= first && set->range[i].end >= end)
        return KVN_RANGES_THERE;
    if (first < set->range[i].first)
        set->range[i].first = first;
    if (end < set->range[j - 1].end)
        end = set->range[j - 1].end;
    set->range[i].end = end;
    cut(set, i + 1, j - i - 1);
    return KVN_RANGES_ADDED;
}

void kvn_ranges_add_cover(struct kvn_ranges *set, uint64_t first, uint64_t end)
{
    if (kvn_ranges_add(set, first, end) != KVN_RANGES_FULL)
        return;
    set->range[0].end = set->range[1].end;
    cut(set, 1, 1);
    (void)kvn_ranges_add(set, first, end);
}

bool kvn_ranges_has(const struct kvn_ranges *set, uint64_t number)
{
    const uint32_t i = find(set, number + 1);

    return i < set->count && set->range[i].first <= number;
}

void kvn_ranges_remove(struct kvn_ranges *set, uint64_t first, uint64_t end)
{
    uint32_t i = find(set, first);

    while (i < set->count && set->range[i].first < end) {
        struct kvn_range *r = &set->range[i];
        const bool low = r->first<first, high = r->end> end;

        if (low && high) {
            const uint64_t last = r->end;
            if (set->count == KVN_RANGES_MAX)
                return;
            r->end = first;
            (void)kvn_ranges_add(set, end, last);
            return;
        }
        if (low) {
            if (r->end > first)
                r->end = first;
            ++i;
        } else if (high) {
            r->first = end;
            return;
        } else {
            cut(set, i, 1);
        }
    }
}

struct kvn_range kvn_ranges_shift(struct kvn_ranges *set)
{
    const struct kvn_range lowest = set->range[0];

    assert(set->count > 0);
    cut(set, 0, 1);
    return lowest;
}
