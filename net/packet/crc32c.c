/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The instruction takes eight bytes in three cycles but can start one every cycle, so long inputs
 * are cut into three strands that run side by side. Joining them needs the CRC of "strand, then
 * KVN_STRAND zero bytes": a linear map, kept as four tables of 256.
 */
#include "crc32c.h"

#include "crc32c_fold.h"

#include <string.h>

#define KVN_POLY   0x82f63b78u /* reflected */
#define KVN_STRAND 512u        /* bytes of one strand, a multiple of 8 */

static uint32_t table[256];
static uint32_t shift[4][256]; /* shift[k][b]: byte k of a CRC, moved past KVN_STRAND zeros */
/* Continue a CRC (not inverted), and call in what comes next meanwhile. */
typedef uint32_t way(uint32_t crc, const uint8_t *p, size_t n, const uint8_t *next,
                     size_t next_bytes);

static way *best, *scalar;

static uint32_t by_table(uint32_t crc, const uint8_t *p, size_t n, const uint8_t *next,
                         size_t next_bytes)
{
    (void)next, (void)next_bytes;
    while (n-- > 0)
        crc = table[(crc ^ *p++) & 0xff] ^ crc >> 8;
    return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t serial(uint32_t crc, const uint8_t *p, size_t n)
{
    uint64_t c = crc, word;

    for (; n >= 8; n -= 8, p += 8) {
        memcpy(&word, p, 8);
        c = __builtin_ia32_crc32di(c, word);
    }
    for (; n > 0; --n, ++p)
        c = __builtin_ia32_crc32qi((uint32_t)c, *p);
    return (uint32_t)c;
}

static uint32_t past_strand(uint32_t crc)
{
    return shift[0][crc & 0xff] ^ shift[1][crc >> 8 & 0xff] ^ shift[2][crc >> 16 & 0xff] ^
           shift[3][crc >> 24];
}

__attribute__((target("sse4.2"))) static uint32_t
by_instruction(uint32_t crc, const uint8_t *p, size_t n, const uint8_t *next, size_t next_bytes)
{
    const uint8_t *const next_end = next + next_bytes;

    while (n >= 3 * KVN_STRAND) {
        uint64_t a = crc, b = 0, c = 0, wa, wb, wc;

        for (size_t i = 0; i < 3 * KVN_STRAND && next < next_end; i += 64, next += 64)
            __builtin_prefetch(next);
        for (size_t i = 0; i < KVN_STRAND; i += 8) {
            memcpy(&wa, p + i, 8);
            memcpy(&wb, p + KVN_STRAND + i, 8);
            memcpy(&wc, p + 2 * KVN_STRAND + i, 8);
            a = __builtin_ia32_crc32di(a, wa);
            b = __builtin_ia32_crc32di(b, wb);
            c = __builtin_ia32_crc32di(c, wc);
        }
        crc = past_strand(past_strand((uint32_t)a) ^ (uint32_t)b) ^ (uint32_t)c;
        p += 3 * KVN_STRAND;
        n -= 3 * KVN_STRAND;
    }
    return serial(crc, p, n);
}

/* Where the CPU multiplies vectors, that is several times as quick as the instruction. */
__attribute__((target("sse4.2"))) static uint32_t
by_folding(uint32_t crc, const uint8_t *p, size_t n, const uint8_t *next, size_t next_bytes)
{
    uint8_t folded[16];
    size_t done;

    if (n < KVN_FOLD_MIN)
        return serial(crc, p, n);
    done = kvn_crc32c_fold(folded, crc, p, n, next, next_bytes);
    return serial(serial(0, folded, sizeof(folded)), p + done, n - done);
}
#endif

__attribute__((constructor)) static void make_tables(void)
{
    static const uint8_t zeros[KVN_STRAND];

    for (uint32_t b = 0; b < 256; ++b) {
        uint32_t c = b;
        for (int i = 0; i < 8; ++i)
            c = c & 1 ? c >> 1 ^ KVN_POLY : c >> 1;
        table[b] = c;
    }
    best = scalar = by_table;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("sse4.2")) {
        /* by_table of zeros is linear in crc: 32 basis vectors give all of the map. */
        uint32_t basis[32];
        for (int bit = 0; bit < 32; ++bit)
            basis[bit] = by_table(1u << bit, zeros, sizeof(zeros), NULL, 0);
        for (int k = 0; k < 4; ++k)
            for (uint32_t b = 0; b < 256; ++b)
                for (int bit = 0; bit < 8; ++bit)
                    if (b >> bit & 1)
                        shift[k][b] ^= basis[8 * k + bit];
        scalar = by_instruction;
        best = kvn_crc32c_fold_begin() ? by_folding : by_instruction;
    }
#endif
}

uint32_t kvn_crc32c(uint32_t crc, const void *bytes, size_t n)
{
    return ~best(~crc, bytes, n, bytes, 0);
}

uint32_t kvn_crc32c_before(uint32_t crc, const void *bytes, size_t n, const void *next,
                           size_t next_bytes)
{
    if (next_bytes == 0)
        next = bytes; /* it may have been NULL, to which nothing can be added */
    return ~best(~crc, bytes, n, next, next_bytes);
}

uint32_t kvn_crc32c_table(uint32_t crc, const void *bytes, size_t n)
{
    return ~by_table(~crc, bytes, n, NULL, 0);
}

uint32_t kvn_crc32c_scalar(uint32_t crc, const void *bytes, size_t n)
{
    return ~scalar(~crc, bytes, n, bytes, 0);
}
