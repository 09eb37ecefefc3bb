/* SPDX-License-Identifier: Apache-2.0 */
/*
 * atomic.h - CUDA's atomic functions. They are relaxed, as on the device: they order nothing else.
 * Each may let other fibers run first, so that who comes first is drawn.
 */
#ifndef SIMT_ATOMIC_H
#define SIMT_ATOMIC_H

#include "trap.h"

template <typename T> static inline T atomicAdd(T *p, T v)
{
    simt_give_way(false);
    return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
template <typename T> static inline T atomicOr(T *p, T v)
{
    simt_give_way(false);
    return __atomic_fetch_or(p, v, __ATOMIC_RELAXED);
}
template <typename T> static inline T atomicExch(T *p, T v)
{
    simt_give_way(false);
    return __atomic_exchange_n(p, v, __ATOMIC_RELAXED);
}
template <typename T> static inline T atomicMax(T *p, T v)
{
    T seen = __atomic_load_n(p, __ATOMIC_RELAXED);

    simt_give_way(false);
    while (seen < v &&
           !__atomic_compare_exchange_n(p, &seen, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return seen;
}
#endif
