/* SPDX-License-Identifier: Apache-2.0 */
/*
 * put.h - the range of a put that transport.h promises, which every transport checks first.
 *
 * threads  any      memory  none      time  none
 */
#ifndef KVN_PUT_H
#define KVN_PUT_H

#include "../kvwire/transport.h"
#include "../kvwire/wire.h"

/* Bytes of all its pieces; 0: too many pieces or bytes, or none. */
static inline uint32_t kvn_put_bytes(const struct kvw_put *put)
{
    uint64_t sum = 0;

    if (put->iov_count > KVW_PUT_IOV_MAX)
        return 0;
    for (uint32_t i = 0; i < put->iov_count; ++i)
        sum += put->iov[i].bytes;
    return sum <= KVW_PUT_BYTES_MAX ? (uint32_t)sum : 0;
}

#endif
