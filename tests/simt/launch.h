/* SPDX-License-Identifier: Apache-2.0 */
/*
 * launch.h - a grid on the harness, as host code starts it.
 *
 * threads  one host thread at a time
 * memory   stacks are kept from launch to launch; shared memory is taken and given back per block
 * time     a launch runs to its end, or traps
 */
#ifndef SIMT_LAUNCH_H
#define SIMT_LAUNCH_H

#include <functional>

#include "simt.h"

#define SIMT_BLOCK_THREADS_MAX 1024u
#define SIMT_SHARED_BYTES_MAX  (227u << 10) /* of sm_90 and sm_100 */

struct simt_options {
    uint64_t seed;     /* 0: fibers in turns, blocks in order; else both are drawn from it */
    unsigned resident; /* blocks side by side; 0: 4 */
};

/* What all launches of the process did. */
struct simt_counts {
    uint64_t launches, blocks, switches, barriers, meetings;
};

void simt_launch(dim3 grid, dim3 block, size_t shared_bytes, simt_options options,
                 const std::function<void()> &kernel);
simt_counts simt_counted(void);

/* Races that the checker has found so far (race.h); 0 where it isn't linked. */
unsigned simt_races(void);
#endif
