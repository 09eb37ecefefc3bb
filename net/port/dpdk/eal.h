/* SPDX-License-Identifier: Apache-2.0 */
/*
 * eal.h - DPDK's environment (EAL) in this process: started once, without hugepages, root, PCI
 * or files left behind (with hugepages and PCI if a NIC is asked for), and what it logs.
 *
 * threads  any; the first kvn_dpdk_eal_start() starts EAL, others wait for it. A thread that will
 *          own a port calls kvn_dpdk_thread_enter() so that mempools have a cache for it
 * memory   KVWIRE_DPDK_MEMORY MiB of shared memory, reserved at the start and touched as ports use
 *          it; kept until the process ends, since EAL can't be started twice
 * time     about 0.13 s, of which 0.1 s is EAL's measuring the clock
 */
#ifndef KVN_DPDK_EAL_H
#define KVN_DPDK_EAL_H

#include <signal.h>

#include "../../net.h"

/*
 * Start EAL unless it runs. pci: NULL, or the address of a PCI device that must be reachable: then
 * EAL takes hugepages, as few as it needs, without a mount or a file, and looks at that device
 * alone. The calling thread's CPU affinity, signal mask and stdio are afterwards
 * as before. A start that failed is not tried again: the same sentence comes back.
 *   KVW_E_DEVICE   EAL can't start; its own reason is in why
 *   KVW_E_INVALID  it was started before a fork(), by the parent: its threads aren't here; or it
 *                  runs without PCI, and pci asks for it
 */
KVW_NODISCARD kvw_err kvn_dpdk_eal_start(const char *pci, char why[KVN_WHY_BYTES]);

/* The sentence for a pool of so many buffers that couldn't be made: error is rte_errno. */
void kvn_dpdk_eal_short(uint32_t count, uint32_t bytes, int error, char why[KVN_WHY_BYTES]);

/* In a child of fork() that EAL was started before: none of its calls may be made, not even to
 * close a port. */
bool kvn_dpdk_eal_forked(void);

/* Make the calling thread known to EAL. True if kvn_dpdk_thread_leave() must be called by it. */
bool kvn_dpdk_thread_enter(void);
void kvn_dpdk_thread_leave(void);

/*
 * Block every signal but those a fault of its own raises. DPDK's threads, and ours that call its
 * control functions, run so: no signal handler of the application runs there, and a write to a
 * socket whose peer is gone (virtio-user's driver) is an error and not the end of the process.
 */
void kvn_dpdk_signals_block(sigset_t *before);
void kvn_dpdk_signals_restore(const sigset_t *before);

/*
 * The log. Nothing of it reaches the terminal unless the variable KVWIRE_DPDK_LOG is set; the last
 * lines are kept, so that an error can be told with DPDK's own reason.
 */
uint64_t kvn_dpdk_log_mark(void);
/* A line of our own in it. */
void kvn_dpdk_log_note(const char *line);
/*
 * The first line of level error or worse since mark, without its "PREFIX: " and line end.
 * skip: NULL, or lines containing this text are passed over. False: none.
 */
bool kvn_dpdk_log_error(uint64_t mark, const char *skip, char *text, size_t bytes);
bool kvn_dpdk_log_has(uint64_t mark, const char *needle);

#endif
