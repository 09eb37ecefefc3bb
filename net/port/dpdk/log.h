/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log.h - the streams that catch what DPDK writes; internal to eal.c and log.c.
 *
 * threads  any      memory  static      time  none
 */
#ifndef KVN_DPDK_LOG_H
#define KVN_DPDK_LOG_H

#include <stdbool.h>
#include <stdio.h>

/* From now on rte_log() goes to our ring. False: no memory for the stream. */
bool kvn_dpdk_log_open(void);

/*
 * A stream to stand in for stderr while EAL starts: its few direct "EAL: ..." lines go to the ring,
 * all else goes on to file descriptor 2. NULL: no memory.
 */
FILE *kvn_dpdk_log_stderr(void);

/* Hear every line first, in the thread that writes it, whose stream is locked meanwhile. */
void kvn_dpdk_log_hook(void (*fn)(const char *line));

#endif
