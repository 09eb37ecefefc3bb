/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fields.h - what the decoders and encoders of messages share: reserved bytes, lengths, texts.
 *
 * threads  any      memory  the caller's, bounds checked by the caller      time  none
 */
#ifndef KVW_WIRE_FIELDS_H
#define KVW_WIRE_FIELDS_H

#include <stdbool.h>
#include <string.h>

#include "../err.h"
#include "le.h"

/* Reserved bytes are zero, so that a later version can tell that nobody uses them. */
static inline bool kvw_field_zero(const uint8_t *p, uint32_t n)
{
    uint8_t any = 0;

    for (uint32_t i = 0; i < n; ++i)
        any |= p[i];
    return any == 0;
}

/* A peer's text ends on terminals and in logs: anything but printable ASCII becomes '?'. to has
 * n + 1 bytes. */
static inline void kvw_field_text(char *to, const uint8_t *from, uint32_t n)
{
    for (uint32_t i = 0; i < n; ++i)
        to[i] = from[i] >= 0x20 && from[i] < 0x7f ? (char)from[i] : '?';
    to[n] = '\0';
}

/* Copy at most max bytes of text to to; returns how many. */
static inline uint32_t kvw_field_put_text(uint8_t *to, const char *text, uint32_t max)
{
    const uint32_t n = (uint32_t)strnlen(text, max);

    memcpy(to, text, n);
    return n;
}

/* The checks that every decoder begins with: the type, and that the fixed part is there. */
static inline kvw_err kvw_field_front(const uint8_t *msg, uint32_t bytes, uint8_t type,
                                      uint32_t fixed)
{
    if (bytes < 1)
        return KVW_E_TRUNCATED;
    if (msg[0] != type)
        return KVW_E_PROTOCOL;
    return bytes < fixed ? KVW_E_TRUNCATED : KVW_OK;
}

/* A message is exactly as long as its fields say. */
static inline kvw_err kvw_field_exact(uint32_t bytes, uint64_t want)
{
    if (bytes == want)
        return KVW_OK;
    return bytes < want ? KVW_E_TRUNCATED : KVW_E_PROTOCOL;
}

#endif
