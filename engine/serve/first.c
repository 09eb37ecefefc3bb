/* SPDX-License-Identifier: Apache-2.0 */
/* first.c - an answer's first token as bytes, and back. */
#include "first.h"

#include <math.h>
#include <string.h>

#include "../../kvwire/wire/le.h"

size_t kve_first_put(uint8_t *note, const struct kve_first *f)
{
    kvw_store_le32(note, f->token);
    for (uint32_t i = 0; i < f->count; ++i) {
        uint32_t bits;

        memcpy(&bits, &f->logprobs[i].logprob, sizeof(bits));
        kvw_store_le32(note + 4 + 8 * i, f->logprobs[i].id);
        kvw_store_le32(note + 8 + 8 * i, bits);
    }
    return 4 + 8 * (size_t)f->count;
}

kvw_err kve_first_get(struct kve_first *f, const uint8_t *note, size_t bytes, uint32_t count,
                      uint32_t vocab)
{
    if (count > 1 + KVE_LOGPROBS_MAX || bytes != 4 + 8 * (size_t)count)
        return KVW_E_PROTOCOL;
    f->token = kvw_load_le32(note);
    f->count = count;
    for (uint32_t i = 0; i < count; ++i) {
        const uint32_t bits = kvw_load_le32(note + 8 + 8 * i);

        f->logprobs[i].id = kvw_load_le32(note + 4 + 8 * i);
        memcpy(&f->logprobs[i].logprob, &bits, sizeof(bits));
        if ((f->logprobs[i].id >= vocab && f->logprobs[i].id != KVE_LOGPROB_NO_ID) ||
            !isfinite(f->logprobs[i].logprob))
            return KVW_E_PROTOCOL;
    }
    return f->token < vocab ? KVW_OK : KVW_E_PROTOCOL;
}
