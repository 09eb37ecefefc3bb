/* SPDX-License-Identifier: Apache-2.0 */
/*
 * regions.h - memory that peers may put into. A region's number is never used again, so that a
 * packet that was on its way when its region went can't reach the next one.
 *
 * threads  one
 * memory   the caller's struct; the regions' memory is borrowed until removed
 * time     none
 */
#ifndef KVN_PACKET_REGIONS_H
#define KVN_PACKET_REGIONS_H

#include "../../kvwire/transport.h"
#include "wire.h"

struct kvn_region {
    struct kvw_mem mem; /* base NULL: free */
    kvw_put_gate gate;
    void *gate_arg;
    uint32_t number; /* low bits: the slot; high bits: how often it was used */
};

struct kvn_regions {
    struct kvn_region slot[KVW_REGIONS_MAX];
};

void kvn_regions_begin(struct kvn_regions *r);
/* As kvw_transport_ops.region_add. */
KVW_NODISCARD kvw_err kvn_regions_add(struct kvn_regions *r, const struct kvw_mem *mem,
                                      kvw_put_gate gate, void *gate_arg,
                                      struct kvw_region_key *key);
KVW_NODISCARD kvw_err kvn_regions_remove(struct kvn_regions *r, const struct kvw_region_key *key);

/* NULL: there is no such region (any more). */
const struct kvn_region *kvn_regions_find(const struct kvn_regions *r, uint32_t number);

/* The number in a key. */
uint32_t kvn_region_number(const struct kvw_region_key *key);

#endif
