/* SPDX-License-Identifier: Apache-2.0 */
#include "digest.h"

#define XXH_STATIC_LINKING_ONLY /* the state's size, so that it can live in the caller's memory */
#include <xxhash.h>
#ifdef KVW_XXH_X86_DISPATCH
#include <xxh_x86dispatch.h> /* renames what is called below; same values, several times faster */
#endif

_Static_assert(sizeof(XXH3_state_t) <= sizeof(((struct kvw_digest *)0)->state),
               "kvw_digest.state holds XXH3's state");

kvw_err kvw_digest_begin(struct kvw_digest *d, kvw_digest_id id)
{
    if (id != KVW_DIGEST_XXH3_64)
        return KVW_E_UNSUPPORTED;
    d->id = id;
    XXH3_64bits_reset((XXH3_state_t *)(void *)d->state);
    return KVW_OK;
}

void kvw_digest_update(struct kvw_digest *d, const void *bytes, size_t n)
{
    XXH3_64bits_update((XXH3_state_t *)(void *)d->state, bytes, n);
}

uint64_t kvw_digest_value(const struct kvw_digest *d)
{
    return XXH3_64bits_digest((const XXH3_state_t *)(const void *)d->state);
}
