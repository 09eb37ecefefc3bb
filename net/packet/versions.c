/* SPDX-License-Identifier: Apache-2.0 */
#include "versions.h"

#include <stdio.h>

uint16_t kvn_versions_grease(uint16_t set, uint64_t random)
{
    return (uint16_t)(set | (random & 1 ? 1u << 5 : 1u << 10));
}

uint8_t kvn_versions_choose(uint16_t ours, uint16_t theirs, uint16_t tried)
{
    const unsigned both = ours & theirs & KVN_VERSIONS_ALL & ~tried;

    return both == 0 ? 0 : (uint8_t)(31 - __builtin_clz(both));
}

void kvn_versions_format(uint16_t set, char *text, size_t bytes)
{
    const char *before = "";
    size_t at = 0;

    set &= KVN_VERSIONS_ALL;
    snprintf(text, bytes, "none");
    for (uint8_t v = 1; v < 16 && at < bytes; ++v) {
        const unsigned above = set >> (v + 1);

        if (!kvn_versions_have(set, v))
            continue;
        at += (size_t)snprintf(text + at, bytes - at, "%s%u", before, v);
        before = (above & (above - 1)) != 0 ? ", " : " and ";
    }
}
