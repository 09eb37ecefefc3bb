/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena.h - the core's one allocation. The same function lays the core out twice: first on an
 * arena without memory, which only counts, then on one of exactly that size. Whoever adds a table
 * adds one line, and can't forget to size it.
 *
 * threads  one      memory  base is the caller's; take() never fails, it counts      time  none
 */
#ifndef KVW_ARENA_H
#define KVW_ARENA_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define KVW_ARENA_ALIGN 4096u /* of base; a landing region begins on a page of its own */

struct kvw_arena {
    unsigned char *base; /* NULL: counting */
    size_t used;
    size_t bytes; /* of base */
};

/* count things of size bytes each, aligned to align (a power of two, <= KVW_ARENA_ALIGN). NULL
 * while counting. Not cleared. */
static inline void *kvw_arena_take(struct kvw_arena *a, size_t count, size_t size, size_t align)
{
    const size_t at = (a->used + align - 1) & ~(align - 1);

    a->used = at + count * size;
    if (a->base == NULL)
        return NULL;
    assert(a->used <= a->bytes);
    return a->base + at;
}

#endif
