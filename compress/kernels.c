/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") &&
           __builtin_cpu_supports("avx512vpopcntdq");
}
#endif

static bool always(void)
{
    return true;
}

/* Best first. */
static const struct {
    const struct kvc_kernels *kernels;
    bool (*works)(void);
} levels[] = {
#if defined(__x86_64__)
    {&kvc_kernels_avx512, has_avx512},
    {&kvc_kernels_avx2, has_avx2},
#endif
    {&kvc_kernels_scalar, always},
};

#define LEVELS (sizeof(levels) / sizeof(levels[0]))

static _Atomic(const struct kvc_kernels *) chosen;

const struct kvc_kernels *kvc_kernels_named(const char *name)
{
    for (size_t i = 0; i < LEVELS; ++i) {
        if (strcmp(levels[i].kernels->name, name) == 0 && levels[i].works())
            return levels[i].kernels;
    }
    return NULL;
}

static const struct kvc_kernels *choose(void)
{
    const char *forced = getenv("KVC_CPU");
    const struct kvc_kernels *k = forced != NULL ? kvc_kernels_named(forced) : NULL;

    for (size_t i = 0; k == NULL && i < LEVELS; ++i)
        k = levels[i].works() ? levels[i].kernels : NULL;
    return k;
}

const struct kvc_kernels *kvc_kernels(void)
{
    /* Two threads may both choose; they choose alike. */
    const struct kvc_kernels *k = atomic_load_explicit(&chosen, memory_order_relaxed);

    if (k == NULL) {
        k = choose();
        atomic_store_explicit(&chosen, k, memory_order_relaxed);
    }
    return k;
}

void kvc_kernels_force(const struct kvc_kernels *k)
{
    atomic_store_explicit(&chosen, k, memory_order_relaxed);
}
