/* SPDX-License-Identifier: Apache-2.0 */
/* kernels.c - picks the table of inner loops that the CPU can run. */
#include "kernels.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
static bool has_avx2(void)
{
    /* F16C came before AVX2 in every CPU that has it; clang 14's builtin doesn't know its name. */
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

static bool always(void)
{
    return true;
}

/* Best first. */
static const struct {
    const struct kve_kernels *kernels;
    bool (*works)(void);
} levels[] = {
#if defined(__x86_64__)
    {&kve_kernels_avx512, has_avx512},
    {&kve_kernels_avx2, has_avx2},
#endif
    {&kve_kernels_scalar, always},
};

#define LEVELS (sizeof(levels) / sizeof(levels[0]))

const struct kve_kernels *kve_kernels_named(const char *name)
{
    for (size_t i = 0; i < LEVELS; ++i) {
        if (strcmp(levels[i].kernels->name, name) == 0 && levels[i].works())
            return levels[i].kernels;
    }
    return NULL;
}

static const struct kve_kernels *choose(void)
{
    const char *forced = getenv("KVE_CPU");
    const struct kve_kernels *k = forced != NULL ? kve_kernels_named(forced) : NULL;

    for (size_t i = 0; k == NULL && i < LEVELS; ++i)
        k = levels[i].works() ? levels[i].kernels : NULL;
    return k;
}

const struct kve_kernels *kve_kernels(void)
{
    /* Two threads may both choose; they choose alike. */
    static _Atomic(const struct kve_kernels *) chosen;
    const struct kve_kernels *k = atomic_load_explicit(&chosen, memory_order_relaxed);

    if (k == NULL) {
        k = choose();
        atomic_store_explicit(&chosen, k, memory_order_relaxed);
    }
    return k;
}
