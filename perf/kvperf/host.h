/* SPDX-License-Identifier: Apache-2.0 */
/*
 * host.h - what a result must say about the machine it was measured on.
 *
 * threads  any      memory  the caller deletes what it gets      time  none
 */
#ifndef KVP_HOST_H
#define KVP_HOST_H

#include <cjson/cJSON.h>
#include <stddef.h>

/* Kernel, CPU, cores, governor, load, the MTU of the interface that has this address (may be
 * NULL). NULL: no memory. */
cJSON *kvp_host_json(const char *address);
/* Of this boot of this kernel: two processes with the same id read the same clocks. */
void kvp_host_boot_id(char id[40]);
/* The interface that has a numeric address, and its MTU; 0: none. */
int kvp_host_mtu(const char *address, char *name, size_t name_bytes);
/* The first line of a file without its end, or "" when it can't be read. */
void kvp_host_line(const char *path, char *to, size_t bytes);

#endif
