/* SPDX-License-Identifier: Apache-2.0 */
/*
 * planes_shapes.h - encode() and decode() of struct kvc_planes out of encode_shape() and
 * decode_shape(), which the file that includes this has defined.
 *
 * threads  pure functions      memory  the caller's      time  none
 */
#include <string.h>

#include "planes.h"

/* L0's and L8's shape is known to the compiler, which then unrolls it. */
static const struct kvc_shape exponents = {{2, 1, 2, 2}};

static uint32_t encode(const struct kvc_shape *shape, const uint8_t *codes, uint32_t n, uint8_t *to,
                       uint64_t escapes[KVC_BLOCK_WORDS])
{
    if (memcmp(shape, &exponents, sizeof(exponents)) == 0)
        return encode_shape(exponents, codes, n, to, escapes);
    return encode_shape(*shape, codes, n, to, escapes);
}

static uint32_t decode(const struct kvc_shape *shape, const uint8_t *from, uint32_t bytes,
                       uint32_t n, uint8_t *ranks, uint64_t escapes[KVC_BLOCK_WORDS])
{
    if (memcmp(shape, &exponents, sizeof(exponents)) == 0)
        return decode_shape(exponents, from, bytes, n, ranks, escapes);
    return decode_shape(*shape, from, bytes, n, ranks, escapes);
}
