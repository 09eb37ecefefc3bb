/* SPDX-License-Identifier: Apache-2.0 */
/*
 * beside.h - yardsticks in the same run, in turns with its rows: what a copy in memory and kernel
 * TCP make of the same number of bytes.
 *
 * threads  one      memory  free gives back what measure took
 * time     iperf3 is given a minute, then it counts as failed
 */
#ifndef KVP_BESIDE_H
#define KVP_BESIDE_H

#include "client.h"
#include "stats.h"

#define KVP_BESIDE_MAX 2u

struct kvp_beside {
    const char *name; /* memcpy, iperf3 */
    double *rates;    /* bytes a second, one a round */
    uint32_t count, room;
    char why[KVP_WHY];        /* it isn't installed, or it failed: not measured any more */
    struct kvp_spread spread; /* made by finish */
};

/* The yardstick of that name; false: there is none. */
bool kvp_beside_named(struct kvp_beside *b, const char *name);
/* One round of so many bytes. */
void kvp_beside_measure(struct kvp_beside *b, struct kvp_client *c, uint64_t bytes);
void kvp_beside_finish(struct kvp_beside *b);
void kvp_beside_free(struct kvp_beside *b);

#endif
