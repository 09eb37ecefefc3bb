/* SPDX-License-Identifier: Apache-2.0 */
/* clock.h - the engine's one clock: CLOCK_MONOTONIC in nanoseconds, the same in all processes of a
 * host. */
#ifndef KVE_CLOCK_H
#define KVE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define KVE_MS 1000000ull
#define KVE_S  1000000000ull

static inline uint64_t kve_now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * KVE_S + (uint64_t)t.tv_nsec;
}

#endif
