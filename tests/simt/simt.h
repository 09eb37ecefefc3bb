/* SPDX-License-Identifier: Apache-2.0 */
/*
 * simt.h - the part of CUDA C++ that our kernels use, for a C++ compiler. A kernel's own source is
 * compiled with this in front of it; each thread of a block is a fiber (fiber.h), and launch.h
 * starts a grid. A fiber gives way only where CUDA lets a thread wait or meet others: barriers,
 * *_sync functions, atomics, and the acquire loads of gpu/dev.h. What isn't here isn't CUDA that we
 * use: it fails to compile, and is then added with a test.
 *
 * threads  one host thread launches at a time
 * time     none
 */
#ifndef SIMT_H
#define SIMT_H

#include <algorithm>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "atomic.h"
#include "vector.h"

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};

/* The fiber that runs. NULL in simt_now: host code runs. */
struct simt_here {
    dim3 thread, block, block_dim, grid_dim;
    unsigned index;        /* of the thread in its block */
    unsigned block_index;  /* of the block in the grid */
    unsigned slot;         /* of the block among those resident */
    unsigned char *shared; /* shared_bytes, and not one more */
    size_t shared_bytes;
    unsigned char *stack, *stack_end;
};
extern thread_local simt_here *simt_now;

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__    __attribute__((noinline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(n)   alignas(n)
#define __constant__   const
#define threadIdx      (simt_now->thread)
#define blockIdx       (simt_now->block)
#define blockDim       (simt_now->block_dim)
#define gridDim        (simt_now->grid_dim)
#define __trap()       simt_trap(SIMT_PLACE, "the kernel says __trap()")
#define SIMT_FULL_WARP 0xffffffffu

/*
 * All threads of the block that haven't returned meet here. Traps where they are at different
 * lines.
 */
void simt_barrier(simt_place at);
#define __syncthreads() simt_barrier(SIMT_PLACE)

/*
 * The lanes of mask meet. Each brings 64 bits and takes those of lane `from`; *vote gets the lowest
 * bit of each. orders_memory: __syncwarp; shuffles and votes order nothing. Traps where a lane
 * isn't in the mask, reads from one that isn't, or where lanes of one mask are at different lines.
 */
struct simt_gift {
    uint64_t value;
    uint32_t vote;
};
simt_gift simt_meet(simt_place at, uint32_t mask, uint64_t value, int from, bool orders_memory);

static inline int simt_lane(void)
{
    return (int)(simt_now->index % 32);
}

static inline void simt_syncwarp(simt_place at, uint32_t mask = SIMT_FULL_WARP)
{
    (void)simt_meet(at, mask, 0, simt_lane(), true);
}
#define __syncwarp(...) simt_syncwarp(SIMT_PLACE __VA_OPT__(, ) __VA_ARGS__)

static inline uint32_t simt_vote(simt_place at, uint32_t mask, bool p)
{
    return simt_meet(at, mask, p, simt_lane(), false).vote;
}
#define __ballot_sync(mask, p) simt_vote(SIMT_PLACE, mask, (p) != 0)
#define __any_sync(mask, p)    (simt_vote(SIMT_PLACE, mask, (p) != 0) != 0)
#define __all_sync(mask, p)    (simt_vote(SIMT_PLACE, mask, (p) == 0) == 0)

template <typename T> static inline T simt_shuffle(simt_place at, uint32_t mask, T v, int from)
{
    uint64_t bits = 0;

    static_assert(sizeof(T) <= sizeof(bits), "a shuffle takes 8 bytes at most");
    memcpy(&bits, &v, sizeof(T));
    bits = simt_meet(at, mask, bits, from < 0 || from > 31 ? simt_lane() : from, false).value;
    memcpy(&v, &bits, sizeof(T));
    return v;
}
#define __shfl_sync(mask, v, from)   simt_shuffle(SIMT_PLACE, mask, v, (int)(from)&31)
#define __shfl_up_sync(mask, v, d)   simt_shuffle(SIMT_PLACE, mask, v, simt_lane() - (int)(d))
#define __shfl_down_sync(mask, v, d) simt_shuffle(SIMT_PLACE, mask, v, simt_lane() + (int)(d))
#define __shfl_xor_sync(mask, v, d)  simt_shuffle(SIMT_PLACE, mask, v, simt_lane() ^ (int)(d))

static inline int __popc(uint32_t v)
{
    return __builtin_popcount(v);
}
static inline int __popcll(uint64_t v)
{
    return __builtin_popcountll(v);
}
static inline int __clz(int v)
{
    return v == 0 ? 32 : __builtin_clz((uint32_t)v);
}
static inline int __ffs(int v)
{
    return __builtin_ffs(v);
}
static inline uint32_t __umulhi(uint32_t a, uint32_t b)
{
    return (uint32_t)((uint64_t)a * b >> 32);
}
static inline uint32_t __funnelshift_r(uint32_t lo, uint32_t hi, uint32_t n)
{
    return (uint32_t)(((uint64_t)hi << 32 | lo) >> (n & 31));
}
static inline uint32_t __funnelshift_l(uint32_t lo, uint32_t hi, uint32_t n)
{
    return (uint32_t)(((uint64_t)hi << 32 | lo) << (n & 31) >> 32);
}
/* Byte i of the result is byte (nibble i of s) of b:a; sign replication (bit 3) isn't used
 * by us. */
static inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t s)
{
    const uint64_t both = (uint64_t)b << 32 | a;
    uint32_t r = 0;

    for (int i = 0; i < 4; ++i)
        r |= (uint32_t)(both >> (8 * (s >> (4 * i) & 7)) & 0xff) << (8 * i);
    return r;
}
static inline uint32_t __vminu2(uint32_t a, uint32_t b)
{
    return std::min(a & 0xffff, b & 0xffff) | std::min(a >> 16, b >> 16) << 16;
}

/* Rounded to nearest, ties to even, one operation at a time: nothing here is contracted. */
static inline float __fadd_rn(float a, float b)
{
    return a + b;
}
static inline float __fsub_rn(float a, float b)
{
    return a - b;
}
static inline float __fmul_rn(float a, float b)
{
    return a * b;
}
static inline float __fdiv_rn(float a, float b)
{
    return a / b;
}
static inline float __fsqrt_rn(float a)
{
    return sqrtf(a);
}
static inline int __float2int_rn(float f)
{
    return (int)lrintf(f);
}
static inline float __int2float_rn(int i)
{
    return (float)i;
}
static inline uint32_t __float_as_uint(float f)
{
    uint32_t u;

    memcpy(&u, &f, 4);
    return u;
}
static inline float __uint_as_float(uint32_t u)
{
    float f;

    memcpy(&f, &u, 4);
    return f;
}
template <typename T> static inline T __ldg(const T *p)
{
    return *p;
}
using std::max;
using std::min;
#endif
