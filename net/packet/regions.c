/* SPDX-License-Identifier: Apache-2.0 */
#include "regions.h"

#include <string.h>

#include "../../kvwire/wire/le.h"

#define NUMBER_LAST (KVN_REGION_MAX - KVW_REGIONS_MAX) /* a slot that got this far is retired */

void kvn_regions_begin(struct kvn_regions *r)
{
    memset(r, 0, sizeof(*r));
    for (uint32_t i = 0; i < KVW_REGIONS_MAX; ++i)
        r->slot[i].number = i;
}

kvw_err kvn_regions_add(struct kvn_regions *r, const struct kvw_mem *mem, kvw_put_gate gate,
                        void *gate_arg, struct kvw_region_key *key)
{
    if (mem->base == NULL || mem->bytes == 0)
        return KVW_E_INVALID;
    if (mem->kind != KVW_MEM_HOST || mem->bytes > KVN_OFFSET_MAX)
        return KVW_E_UNSUPPORTED;
    for (uint32_t i = 0; i < KVW_REGIONS_MAX; ++i) {
        struct kvn_region *s = &r->slot[i];

        if (s->mem.base != NULL || s->number > NUMBER_LAST)
            continue;
        s->mem = *mem;
        s->gate = gate;
        s->gate_arg = gate_arg;
        s->number += KVW_REGIONS_MAX;
        memset(key, 0, sizeof(*key));
        kvw_store_le32(key->bytes, s->number);
        return KVW_OK;
    }
    return KVW_E_NOMEM;
}

uint32_t kvn_region_number(const struct kvw_region_key *key)
{
    return kvw_load_le32(key->bytes);
}

const struct kvn_region *kvn_regions_find(const struct kvn_regions *r, uint32_t number)
{
    const struct kvn_region *s = &r->slot[number % KVW_REGIONS_MAX];

    return s->mem.base != NULL && s->number == number ? s : NULL;
}

kvw_err kvn_regions_remove(struct kvn_regions *r, const struct kvw_region_key *key)
{
    struct kvn_region *s = &r->slot[kvn_region_number(key) % KVW_REGIONS_MAX];

    if (s->mem.base == NULL || s->number != kvn_region_number(key))
        return KVW_E_NOTFOUND;
    s->mem.base = NULL;
    return KVW_OK;
}
