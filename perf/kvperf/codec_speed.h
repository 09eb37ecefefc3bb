/* SPDX-License-Identifier: Apache-2.0 */
/*
 * codec_speed.h - what a codec makes of a model's values on one core of this machine: ratio, pace
 * both ways, noise. Gather, digest and scatter are in it, as they are in a transfer.
 *
 * threads  one      memory  taken and given back inside      time  spends about what it is told to
 */
#ifndef KVP_CODEC_SPEED_H
#define KVP_CODEC_SPEED_H

#include "options.h"

struct kvp_codec_speed {
    bool fits; /* false: the codec can't take this model's element type */
    double ratio, noise;
    double encode_bytes_per_s, decode_bytes_per_s; /* of raw bytes */
};

/* Of the first part of the first paged group. spend_ms for each direction. False: why. */
bool kvp_codec_speed(struct kvp_codec_speed *s, const struct kvp_options *o,
                     const struct kvp_codec *codec, double spend_ms, char why[KVP_WHY]);
/* The pace of memcpy() over so many bytes that no cache holds them. */
double kvp_memcpy_bytes_per_s(void);

/*
 * Below this rate of the link the codec saves time, if encoding and decoding go on beside the wire
 * (piped) or before and after it. Raw bytes per second; 0: never.
 */
double kvp_break_even(const struct kvp_codec_speed *s, bool piped);

#endif
