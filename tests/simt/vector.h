/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vector.h - CUDA's vector types. The device loads and stores them in one access, which faults
 * where the address isn't a multiple of the type's size; a CPU wouldn't notice, so these types
 * look.
 */
#ifndef SIMT_VECTOR_H
#define SIMT_VECTOR_H

#include <stdint.h>

#include "trap.h"

/* noinline and out of line, so that no compiler may conclude from the type that it can't happen. */
bool simt_is_aligned(const void *p, unsigned bytes);

static inline void simt_want_aligned(const void *p, unsigned bytes)
{
    if (__builtin_expect(!simt_is_aligned(p, bytes), 0))
        simt_trap(SIMT_PLACE, "a vector of %u bytes at %p, which isn't aligned to it", bytes, p);
}

struct uint2 {
    uint32_t x, y;
    uint2() = default;
    uint2(uint32_t a, uint32_t b) : x(a), y(b)
    {
    }
    uint2(const uint2 &o)
    {
        *this = o;
    }
    uint2 &operator=(const uint2 &o)
    {
        simt_want_aligned(this, 8);
        simt_want_aligned(&o, 8);
        x = o.x;
        y = o.y;
        return *this;
    }
} __attribute__((aligned(8)));

struct uint4 {
    uint32_t x, y, z, w;
    uint4() = default;
    uint4(uint32_t a, uint32_t b, uint32_t c, uint32_t d) : x(a), y(b), z(c), w(d)
    {
    }
    uint4(const uint4 &o)
    {
        *this = o;
    }
    uint4 &operator=(const uint4 &o)
    {
        simt_want_aligned(this, 16);
        simt_want_aligned(&o, 16);
        x = o.x;
        y = o.y;
        z = o.z;
        w = o.w;
        return *this;
    }
} __attribute__((aligned(16)));

static inline uint2 make_uint2(uint32_t x, uint32_t y)
{
    return {x, y};
}
static inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w)
{
    return {x, y, z, w};
}
#endif
