/* SPDX-License-Identifier: Apache-2.0 */
/*
 * le.h - little-endian loads and stores at any address. Wire fields go through these and nothing
 * else.
 *
 * threads  any      memory  none      time  none
 */
#ifndef KVN_PACKET_LE_H
#define KVN_PACKET_LE_H

#include <stdint.h>

static inline uint16_t kvn_load16(const uint8_t *p)
{
    return (uint16_t)(p[0] | (unsigned)p[1] << 8);
}

static inline uint32_t kvn_load32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t kvn_load64(const uint8_t *p)
{
    return kvn_load32(p) | (uint64_t)kvn_load32(p + 4) << 32;
}

static inline void kvn_store16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static inline void kvn_store32(uint8_t *p, uint32_t v)
{
    kvn_store16(p, (uint16_t)v);
    kvn_store16(p + 2, (uint16_t)(v >> 16));
}

static inline void kvn_store64(uint8_t *p, uint64_t v)
{
    kvn_store32(p, (uint32_t)v);
    kvn_store32(p + 4, (uint32_t)(v >> 32));
}

#endif
