/* SPDX-License-Identifier: Apache-2.0 */
/*
 * crc32c_fold.h - CRC32C of long inputs by carry-less multiplication of whole vectors. Only for
 * crc32c.c.
 *
 * threads  any, once kvn_crc32c_fold_begin() has returned      memory  none      time  none
 */
#ifndef KVN_PACKET_CRC32C_FOLD_H
#define KVN_PACKET_CRC32C_FOLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KVN_FOLD_MIN 256u /* bytes; below, folding can't be used */

/* Make the constants. False: this CPU can't (AVX-512 with VPCLMULQDQ is needed). */
bool kvn_crc32c_fold_begin(void);

/*
 * Fold the first n' = n - n % 64 bytes, n >= KVN_FOLD_MIN, into 16 whose CRC from 0 is theirs from
 * crc (not inverted). Returns n'. Meanwhile next goes into the cache, at most n bytes of it.
 */
size_t kvn_crc32c_fold(uint8_t out[16], uint32_t crc, const uint8_t *p, size_t n,
                       const uint8_t *next, size_t next_bytes);

#endif
