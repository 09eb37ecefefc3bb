/* SPDX-License-Identifier: Apache-2.0 */
/*
 * race.h - what the harness tells the race checker. race.cpp is linked where kernels are compiled
 * with -fsanitize=thread (and linked without it: race.cpp is then the runtime that this code
 * calls); elsewhere these are NULL.
 *
 * Two accesses to a byte race if one of them writes, not both are atomic, and nothing orders them.
 * What orders them, as CUDA has it: the same thread; a barrier of the block between them;
 * __syncwarp of both lanes; a release that the later one acquired, directly or through any of
 * these; another launch. Shuffles, votes and relaxed atomics order nothing.
 */
#ifndef SIMT_RACE_H
#define SIMT_RACE_H

#include <stddef.h>
#include <stdint.h>

__attribute__((weak)) void race_launch(void);
__attribute__((weak)) void race_block(unsigned slot, unsigned block, unsigned threads,
                                      const void *shared, size_t shared_bytes);
__attribute__((weak)) void race_barrier_arrive(void);
__attribute__((weak)) void race_barrier_leave(void);
/* clock: of the meeting, 32 words that were zero before the first lane came */
__attribute__((weak)) void race_warp_arrive(uint32_t *clock);
__attribute__((weak)) void race_warp_leave(const uint32_t *clock);
__attribute__((weak)) unsigned race_found(void);
#endif
