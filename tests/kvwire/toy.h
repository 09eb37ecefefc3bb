/* SPDX-License-Identifier: Apache-2.0 */
/*
 * toy.h - codecs for tests whose cost is known: they move a clock of the test's by so many
 * picoseconds a raw byte, and can be told to hold still inside encode.
 */
#ifndef T_TOY_H
#define T_TOY_H

#include <stdatomic.h>

#include "../../kvwire/codec.h"

#define TOY_WHOLE_ID 40u /* lossless: each byte xor 0x5a */
#define TOY_HALF_ID  41u /* lossy (E8): the upper byte of each 16-bit value; exact tokens whole */

extern const struct kvw_codec_ops toy_raw; /* raw, at the toy clock's cost */
extern const struct kvw_codec_ops toy_whole;
extern const struct kvw_codec_ops toy_half;

/* Ended by NULL: whole, half, raw. */
extern const struct kvw_codec_ops *const toy_codecs[];

extern _Atomic uint64_t toy_now_ns;
extern uint64_t toy_encode_ps, toy_decode_ps; /* of whole and half, a raw byte */
extern atomic_bool toy_hold;                  /* encode waits while it is set */
extern _Atomic uint32_t toy_inside;           /* encodes running now */
extern _Atomic uint32_t toy_encodes;          /* begun */

uint64_t toy_clock(void *arg);

#endif
