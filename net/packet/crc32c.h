/* SPDX-License-Identifier: Apache-2.0 */
/*
 * crc32c.h - CRC32C (Castagnoli), the digest of a packet.
 *
 * threads  any; the tables are made before main() and read only after
 * memory   none      time  none
 */
#ifndef KVN_PACKET_CRC32C_H
#define KVN_PACKET_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Continue crc (0 to begin) over n more bytes, in the quickest way this CPU has. */
uint32_t kvn_crc32c(uint32_t crc, const void *bytes, size_t n);

/* The same; meanwhile as much of next as is as long (a hint: it may lie anywhere) is called into
 * the cache. What is sent is mostly cold, and to be summed is what first happens to it. */
uint32_t kvn_crc32c_before(uint32_t crc, const void *bytes, size_t n, const void *next,
                           size_t next_bytes);

/* As kvn_crc32c() by table; the reference for the others. */
uint32_t kvn_crc32c_table(uint32_t crc, const void *bytes, size_t n);

/* The same without vectors, as on CPUs that can't multiply them; for tests. */
uint32_t kvn_crc32c_scalar(uint32_t crc, const void *bytes, size_t n);

#endif
