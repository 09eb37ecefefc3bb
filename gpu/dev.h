/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dev.h - the little in which a GPU and the host harness (tests/simt) differ. All PTX of gpu/ is in
 * here, and each helper has its host twin beside it: the kernels' own source is the same for both.
 *
 * Orderings are at the scope of the GPU, those named _sys at that of the machine (pinned host
 * memory, another GPU).
 */
#ifndef KVG_DEV_H
#define KVG_DEV_H

#ifdef __CUDACC__

#include <stdint.h>

/* `name` is the block's shared memory, as long as the launch says. */
#define KVG_SHARED(type, name)                                                                     \
    extern __shared__ __align__(128) unsigned char kvg_shared_bytes[];                             \
    type &name = *reinterpret_cast<type *>(kvg_shared_bytes)
#define KVG_KERNEL extern "C" __global__

static __device__ __forceinline__ uint32_t kvg_load_acquire(const uint32_t *p)
{
    uint32_t v;

    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}

/* Of a word that others change at the same time. */
static __device__ __forceinline__ uint32_t kvg_load_relaxed(const uint32_t *p)
{
    uint32_t v;

    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}

static __device__ __forceinline__ void kvg_store_release(uint32_t *p, uint32_t v)
{
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}

static __device__ __forceinline__ void kvg_store_release_sys(uint32_t *p, uint32_t v)
{
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}

static __device__ __forceinline__ uint32_t kvg_add_acq_rel(uint32_t *p, uint32_t v)
{
    uint32_t was;

    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;"
                 : "=r"(was)
                 : "l"(p), "r"(v)
                 : "memory");
    return was;
}

/* Floats and their short kinds, to nearest, ties to even. */
static __device__ __forceinline__ float kvg_from_half(uint16_t bits)
{
    float f;

    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(bits));
    return f;
}

static __device__ __forceinline__ uint16_t kvg_to_half(float f)
{
    uint16_t bits;

    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(f));
    return bits;
}

static __device__ __forceinline__ uint16_t kvg_to_bf16(float f)
{
    uint16_t bits;

    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(f));
    return bits;
}

/* Of a warp: sums += a b, a 16 x 16 and b 16 x 8 in bf16; who has what: step_tile.cu. */
static __device__ __forceinline__ void kvg_mma(float (&sums)[4], const uint32_t (&a)[4],
                                               const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Of a warp: v and that of the lane d below, where there is one. A shuffle says if there is. */
static __device__ __forceinline__ uint32_t kvg_add_from_below(uint32_t v, int d)
{
    asm volatile("{\n\t.reg .pred there;\n\t.reg .u32 other;\n\t"
                 "shfl.sync.up.b32 other|there, %0, %1, 0, 0xffffffff;\n\t"
                 "@there add.u32 %0, %0, other;\n\t}"
                 : "+r"(v)
                 : "r"(d));
    return v;
}

/* The sum over a warp's lanes. */
static __device__ __forceinline__ uint32_t kvg_add_lanes(uint32_t v)
{
    return __reduce_add_sync(0xffffffffu, v);
}

/* Bits of a where mask has ones, of b elsewhere: one instruction, where the compiler makes two. */
static __device__ __forceinline__ uint32_t kvg_choose(uint32_t mask, uint32_t a, uint32_t b)
{
    uint32_t v;

    asm("lop3.b32 %0, %1, %2, %3, 0xca;" : "=r"(v) : "r"(mask), "r"(a), "r"(b));
    return v;
}

#else

#include "simt.h"

#define KVG_SHARED(type, name)                                                                     \
    if (simt_now->shared_bytes < sizeof(type))                                                     \
        simt_trap(SIMT_PLACE, "%zu bytes of shared memory where %zu are needed",                   \
                  simt_now->shared_bytes, sizeof(type));                                           \
    type &name = *reinterpret_cast<type *>(simt_now->shared)
#define KVG_KERNEL extern "C"

static inline uint32_t kvg_load_acquire(const uint32_t *p)
{
    const uint32_t v = __atomic_load_n(p, __ATOMIC_ACQUIRE);

    simt_give_way(v == 0); /* who waits for it to change must let others run */
    return v;
}

static inline uint32_t kvg_load_relaxed(const uint32_t *p)
{
    simt_give_way(false);
    return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static inline void kvg_store_release(uint32_t *p, uint32_t v)
{
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
    simt_give_way(false);
}

static inline void kvg_store_release_sys(uint32_t *p, uint32_t v)
{
    kvg_store_release(p, v);
}

static inline uint32_t kvg_add_acq_rel(uint32_t *p, uint32_t v)
{
    simt_give_way(false);
    return __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL);
}

static inline uint32_t kvg_add_from_below(uint32_t v, int d)
{
    const uint32_t other = __shfl_up_sync(0xffffffffu, v, d);

    return v + (threadIdx.x % 32 >= (uint32_t)d ? other : 0);
}

static inline uint32_t kvg_add_lanes(uint32_t v)
{
    for (int d = 16; d > 0; d /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
}

static inline uint32_t kvg_choose(uint32_t mask, uint32_t a, uint32_t b)
{
    return (mask & a) | (~mask & b);
}

/* Of what isn't an infinity or NaN. */
static inline float kvg_from_half(uint16_t bits)
{
    const uint32_t sign = (uint32_t)(bits & 0x8000u) << 16, exponent = bits >> 10 & 31,
                   mantissa = bits & 0x3ffu;

    if (exponent == 0)
        return __uint_as_float(__float_as_uint((float)mantissa * 0x1p-24f) | sign);
    return __uint_as_float(sign | (exponent + 112) << 23 | mantissa << 13);
}

static inline uint16_t kvg_to_half(float f)
{
    const uint32_t all = __float_as_uint(f), sign = all >> 16 & 0x8000u, u = all & 0x7fffffffu;

    if (u >= 0x477ff000u)
        return (uint16_t)(sign | 0x7c00u);
    if (u < 0x38800000u) /* below 2^-14: 0.5's unit in the last place is 2^-24 */
        return (uint16_t)(sign | (__float_as_uint(__uint_as_float(u) + 0.5f) - 0x3f000000u));
    return (uint16_t)(sign | (u - 0x38000000u + 0xfffu + (u >> 13 & 1)) >> 13);
}

static inline uint16_t kvg_to_bf16(float f)
{
    const uint32_t u = __float_as_uint(f);

    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

/* Both halves' products. */
static inline float kvg_mma_pair(uint32_t a, uint32_t b)
{
    return __uint_as_float(a << 16) * __uint_as_float(b << 16) +
           __uint_as_float(a & 0xffff0000u) * __uint_as_float(b & 0xffff0000u);
}

static inline void kvg_mma(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    const uint32_t g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;

    for (uint32_t k = 0; k < 4; ++k) {
        uint32_t row[4];

        for (uint32_t i = 0; i < 4; ++i)
            row[i] = __shfl_sync(0xffffffffu, a[i], 4 * g + k);
        for (uint32_t n = 0; n < 2; ++n) {
            const uint32_t low = __shfl_sync(0xffffffffu, b[0], 4 * (2 * t + n) + k);
            const uint32_t high = __shfl_sync(0xffffffffu, b[1], 4 * (2 * t + n) + k);

            sums[n] += kvg_mma_pair(row[0], low) + kvg_mma_pair(row[2], high);
            sums[n + 2] += kvg_mma_pair(row[1], low) + kvg_mma_pair(row[3], high);
        }
    }
}

#endif
#endif
