/* SPDX-License-Identifier: Apache-2.0 */
/*
 * first.h - an answer's first token, which prefill draws, on its way to decode: the note that rides
 * on COMMIT. Little-endian: u32 token, then, where the request asks for logprobs, pairs of u32 id
 * and f32 logprob, the token's own first.
 *
 * threads  plain data    memory  none    time  none
 */
#ifndef KVE_FIRST_H
#define KVE_FIRST_H

#include <stddef.h>

#include "../../kvwire/err.h"
#include "../model/logprob.h"

#define KVE_FIRST_BYTES_MAX (4 + 8 * (1 + KVE_LOGPROBS_MAX))

struct kve_first {
    uint32_t token;
    uint32_t count; /* of logprobs */
    struct kve_logprob logprobs[1 + KVE_LOGPROBS_MAX];
};

/* Returns the bytes written, at most KVE_FIRST_BYTES_MAX. */
size_t kve_first_put(uint8_t *note, const struct kve_first *f);
/* count: how many logprobs there must be. KVW_E_PROTOCOL: another length, an id that is none of
 * vocab, a logprob that is no number. */
KVW_NODISCARD kvw_err kve_first_get(struct kve_first *f, const uint8_t *note, size_t bytes,
                                    uint32_t count, uint32_t vocab);

#endif
