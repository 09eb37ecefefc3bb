/* SPDX-License-Identifier: Apache-2.0 */
/*
 * index.h - a hash table of things that carry their own links: found by a 64-bit hash, then told
 * apart by whoever looks.
 *
 * threads  one      memory  the buckets are the caller's, a power of two of them      time  O(1)
 */
#ifndef KVW_BASE_INDEX_H
#define KVW_BASE_INDEX_H

#include <stddef.h>
#include <stdint.h>

struct kvw_indexed {
    struct kvw_indexed *next;
    uint64_t hash;
};

struct kvw_index {
    struct kvw_indexed **buckets; /* all NULL at first */
    uint32_t mask;                /* buckets - 1 */
};

/* splitmix64's output function: spreads ids that count up. */
static inline uint64_t kvw_index_mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

static inline void kvw_index_add(struct kvw_index *x, struct kvw_indexed *member, uint64_t hash)
{
    struct kvw_indexed **bucket = &x->buckets[hash & x->mask];

    member->hash = hash;
    member->next = *bucket;
    *bucket = member;
}

/* It is in the index. */
static inline void kvw_index_remove(struct kvw_index *x, struct kvw_indexed *member)
{
    struct kvw_indexed **at = &x->buckets[member->hash & x->mask];

    while (*at != member)
        at = &(*at)->next;
    *at = member->next;
}

/* The first member with that hash, NULL: none. */
static inline struct kvw_indexed *kvw_index_first(const struct kvw_index *x, uint64_t hash)
{
    struct kvw_indexed *m = x->buckets[hash & x->mask];

    while (m != NULL && m->hash != hash)
        m = m->next;
    return m;
}

/* The next one with the same hash. */
static inline struct kvw_indexed *kvw_index_next(const struct kvw_indexed *m)
{
    const uint64_t hash = m->hash;

    for (m = m->next; m != NULL && m->hash != hash;)
        m = m->next;
    return (struct kvw_indexed *)(uintptr_t)m;
}

#endif
