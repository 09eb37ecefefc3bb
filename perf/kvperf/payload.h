/* SPDX-License-Identifier: Apache-2.0 */
/*
 * payload.h - what the KV bytes are: any entry of any layer can be made again from a seed, so the
 * receiver compares everything that arrives without having been told a byte of it.
 *
 * recorded  statistics as recorded KV has them (compress/RESULTS-entropy.md): each channel has a
 *           scale of its own, exponents are a bell's, mantissas are uniform
 * random    every bit is a coin
 * file      bytes of a file (a dump of perf/bench/kv_dump.sh, or anything); the receiver, who has
 *           no such file, doesn't compare
 *
 * threads  made once, then read by any      memory  make takes it, free gives it back
 */
#ifndef KVP_PAYLOAD_H
#define KVP_PAYLOAD_H

#include "geometry.h"

enum kvp_payload_kind { KVP_PAYLOAD_RECORDED, KVP_PAYLOAD_RANDOM, KVP_PAYLOAD_FILE };

struct kvp_payload {
    enum kvp_payload_kind kind;
    uint64_t seed;
    struct kvp_sheet { /* entries to begin with, for one part of one group */
        unsigned char *bytes;
        uint32_t entries;
        uint64_t entry_bytes, mask; /* mask: the bits that every entry has of its own */
    } sheets[KVP_GROUPS_MAX][KVP_PARTS_MAX];
    unsigned char *file; /* FILE: all of it */
    uint64_t file_bytes;
};

/* Names one entry of one part of one layer of one request. */
struct kvp_entry_id {
    uint32_t request, group, part, layer, entry;
};

/* false: no memory, or why says what is wrong with the file. path is for FILE only; NULL there: the
 * receiver, who makes nothing. */
bool kvp_payload_make(struct kvp_payload *p, const struct kvp_geometry *g,
                      enum kvp_payload_kind kind, uint64_t seed, const char *path,
                      char why[KVP_WHY]);
void kvp_payload_free(struct kvp_payload *p);

/* The bytes of an entry, in canonical order [row][value]. */
void kvp_payload_entry(const struct kvp_payload *p, struct kvp_entry_id id, unsigned char *to);

/* splitmix64's output function. */
uint64_t kvp_mix(uint64_t x);

#endif
