/* SPDX-License-Identifier: Apache-2.0 */
/* prompts.c - a set of hashes in the order of use: a table with open addresses over a list. */
#include "prompts.h"

#include <stdlib.h>

#define NONE UINT32_MAX

static uint64_t mix(uint64_t x)
{
    x ^= x >> 31;
    x *= 0x9e3779b97f4a7c15ull;
    return x ^ x >> 29;
}

/* The bucket that has it, or the empty one where it belongs. There is always an empty one. */
static uint32_t bucket_of(const struct kve_prompts_held *p, uint64_t hash)
{
    uint32_t b = (uint32_t)mix(hash) & (p->buckets - 1);

    while (p->table[b] != 0 && p->held[p->table[b] - 1].hash != hash)
        b = (b + 1) & (p->buckets - 1);
    return b;
}

static void unlink_held(struct kve_prompts_held *p, uint32_t i)
{
    const struct kve_held *h = &p->held[i];

    if (h->newer != NONE)
        p->held[h->newer].older = h->older;
    else
        p->newest = h->older;
    if (h->older != NONE)
        p->held[h->older].newer = h->newer;
    else
        p->oldest = h->newer;
}

static void link_newest(struct kve_prompts_held *p, uint32_t i)
{
    p->held[i].newer = NONE;
    p->held[i].older = p->newest;
    if (p->newest != NONE)
        p->held[p->newest].newer = i;
    else
        p->oldest = i;
    p->newest = i;
}

/* Those behind it that aren't where they belong move up, so that no search ends too early. */
static void empty_bucket(struct kve_prompts_held *p, uint32_t hole)
{
    const uint32_t mask = p->buckets - 1;

    for (uint32_t b = (hole + 1) & mask; p->table[b] != 0; b = (b + 1) & mask) {
        const uint32_t home = (uint32_t)mix(p->held[p->table[b] - 1].hash) & mask;

        if (((b - home) & mask) >= ((b - hole) & mask)) {
            p->table[hole] = p->table[b];
            hole = b;
        }
    }
    p->table[hole] = 0;
}

/* The oldest goes; the last one of the array takes its place there. */
static void forget_oldest(struct kve_prompts_held *p)
{
    const uint32_t i = p->oldest, last = p->count - 1;

    empty_bucket(p, bucket_of(p, p->held[i].hash));
    unlink_held(p, i);
    --p->count;
    if (i == last)
        return;
    p->table[bucket_of(p, p->held[last].hash)] = i + 1;
    p->held[i] = p->held[last];
    if (p->held[i].newer != NONE)
        p->held[p->held[i].newer].older = i;
    else
        p->newest = i;
    if (p->held[i].older != NONE)
        p->held[p->held[i].older].newer = i;
    else
        p->oldest = i;
}

/* Twice the room; the table is half empty at least. */
static int grow(struct kve_prompts_held *p)
{
    const uint32_t room = p->room == 0 ? 64 : p->room * 2;
    struct kve_held *held = realloc(p->held, room * sizeof(*held));
    uint32_t *table;

    if (held == NULL)
        return 0;
    p->held = held;
    table = calloc((size_t)room * 2, sizeof(*table));
    if (table == NULL)
        return 0;
    free(p->table);
    p->table = table;
    p->room = room;
    p->buckets = room * 2;
    for (uint32_t i = 0; i < p->count; ++i)
        p->table[bucket_of(p, p->held[i].hash)] = i + 1;
    if (p->count == 0)
        p->newest = p->oldest = NONE;
    return 1;
}

static void use(struct kve_prompts_held *p, uint64_t hash)
{
    uint32_t b = p->buckets > 0 ? bucket_of(p, hash) : 0;

    if (p->buckets > 0 && p->table[b] != 0) {
        const uint32_t i = p->table[b] - 1;

        unlink_held(p, i);
        link_newest(p, i);
        return;
    }
    if (p->count > 0 && p->count >= p->limit)
        forget_oldest(p);
    if (p->count == p->room && !grow(p))
        return;
    p->held[p->count].hash = hash;
    p->table[bucket_of(p, hash)] = p->count + 1;
    link_newest(p, p->count++);
}

void kve_prompts_held_limit(struct kve_prompts_held *p, uint32_t blocks)
{
    p->limit = blocks;
    while (p->count > blocks)
        forget_oldest(p);
}

void kve_prompts_held_free(struct kve_prompts_held *p)
{
    free(p->held);
    free(p->table);
    *p = (struct kve_prompts_held){.limit = p->limit};
}

uint32_t kve_prompts_held_match(const struct kve_prompts_held *p, const uint64_t *hashes,
                                uint32_t n)
{
    uint32_t i = 0;

    if (p->count == 0)
        return 0;
    while (i < n && p->table[bucket_of(p, hashes[i])] != 0)
        ++i;
    return i;
}

void kve_prompts_held_add(struct kve_prompts_held *p, const uint64_t *hashes, uint32_t n)
{
    if (p->limit == 0)
        return;
    if (n > p->limit)
        n = p->limit;
    while (n > 0)
        use(p, hashes[--n]);
}
