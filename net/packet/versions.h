/* SPDX-License-Identifier: Apache-2.0 */
/*
 * versions.h - sets of protocol versions, as greetings carry them (SPEC.md 4.3): bit v is version
 * v.
 *
 * Two numbers are no version and never will be. Every greeting names one of them, so that an end
 * that stumbles over a version it doesn't know is found before there is one.
 */
#ifndef KVN_PACKET_VERSIONS_H
#define KVN_PACKET_VERSIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KVN_VERSIONS_GREASE ((uint16_t)(1u << 5 | 1u << 10))
/* What a set may hold: versions are 1 .. 15. */
#define KVN_VERSIONS_ALL ((uint16_t)(0xfffe & ~KVN_VERSIONS_GREASE))

static inline bool kvn_versions_have(uint16_t set, uint8_t version)
{
    return set >> version & 1;
}

/* What to send: the set, and one number that is no version. */
uint16_t kvn_versions_grease(uint16_t set, uint64_t random);

/*
 * The version that two ends use: the highest that both speak and that isn't in tried. 0: none.
 */
uint8_t kvn_versions_choose(uint16_t ours, uint16_t theirs, uint16_t tried);

/* "1, 2 and 7" without what is no version; "none" of an empty set. Cut off at bytes. */
void kvn_versions_format(uint16_t set, char *text, size_t bytes);

#endif
