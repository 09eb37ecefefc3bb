/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stop.h - Ctrl-C: a flag that every wait looks at, so that a summary of what is there is printed.
 *
 * threads  any      memory  none      time  a wait looks at least every KVP_SLICE_NS
 */
#ifndef KVP_STOP_H
#define KVP_STOP_H

#include <stdbool.h>
#include <stdint.h>

#define KVP_SLICE_NS 50000000ull
#define KVP_WAKE_NS  100000u

/* SIGINT and SIGTERM set the flag, a second one ends the process; SIGPIPE is ignored. */
void kvp_stop_catch(void);
bool kvp_stopped(void);

/* Readable descriptors among fds (-1: not one), as bits; 0 at until_ns (CLOCK_MONOTONIC, exact to
 * the kernel's timer), or when stopped. count <= 16. */
uint32_t kvp_wait_fds(const int *fds, uint32_t count, uint64_t until_ns);

/* The calling thread wakes soon on a CPU that others use, too, as a node's does (Linux 6.12 on): it
 * stands for a GPU, which needs no CPU to be ready. */
void kvp_wake_soon(void);

/* CPU time of this process so far, all threads. */
uint64_t kvp_cpu_ns(void);

#endif
