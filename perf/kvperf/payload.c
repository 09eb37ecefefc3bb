/* SPDX-License-Identifier: Apache-2.0 */
/*
 * payload.c - KV bytes from a seed.
 *
 * A sheet of some hundred entries is drawn slowly, value by value. An entry is one of the sheet's,
 * picked by a hash of what names it, with its low mantissa bits replaced by hashes of the same. So
 * exponents are distributed as drawn, no two entries are alike, and filling a cache goes at the
 * speed of memory.
 */
#include "payload.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SHEET_BYTES       (1u << 20)
#define SHEET_ENTRIES_MIN 2u
#define SHEET_ENTRIES_MAX 1024u
#define GOLDEN            0x9e3779b97f4a7c15ull

uint64_t kvp_mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

/* --- drawing a sheet -------------------------------------------------------------------------- */

static double uniform(uint64_t *state)
{
    *state += GOLDEN;
    return ((double)(kvp_mix(*state) >> 11) + 0.5) / 9007199254740992.0;
}

static double normal(uint64_t *state)
{
    const double r = sqrt(-2 * log(uniform(state)));

    return r * cos(2 * 3.14159265358979323846 * uniform(state));
}

/* e4m3 of x, rounded to nearest: sign, 4 bits of exponent with bias 7, 3 of mantissa. */
static uint8_t to_e4m3(double x)
{
    const uint8_t sign = x < 0 ? 0x80 : 0;
    const double a = fmin(fabs(x), 448);
    int e;

    if (a < 0x1p-6)
        return sign | (uint8_t)lrint(a * 512);
    (void)frexp(a, &e);
    const int m = (int)lrint(ldexp(a, 4 - e)); /* 8 .. 16 */

    return sign | (uint8_t)((e + 6) * 8 + m - 8);
}

/* Nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives (e2m1), of x in units of 2. */
static uint8_t to_e2m1(double x)
{
    static const double steps[] = {0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5};
    const double a = fabs(2 * x);
    uint8_t code = 0;

    while (code < 7 && a >= steps[code])
        ++code;
    return (uint8_t)(code | (x < 0 ? 8 : 0));
}

static void put_value(uint32_t dtype, unsigned char *to, double x, double y)
{
    const float f = (float)x;
    uint32_t bits;

    memcpy(&bits, &f, sizeof(bits));
    switch (dtype) {
    case KVW_DTYPE_F32:
        memcpy(to, &bits, 4);
        break;
    case KVW_DTYPE_BF16:
        to[0] = (unsigned char)(bits >> 16);
        to[1] = (unsigned char)(bits >> 24);
        break;
    case KVW_DTYPE_F16: /* values here are far from its limits, but for the smallest */
        bits = fabs(x) < 0x1p-14 ? 0 : (bits >> 16 & 0x8000) | (((bits >> 13) - 0x1c000) & 0x7fff);
        to[0] = (unsigned char)bits;
        to[1] = (unsigned char)(bits >> 8);
        break;
    case KVW_DTYPE_U4X2:
        to[0] = (unsigned char)(to_e2m1(x) | to_e2m1(y) << 4);
        break;
    default:
        to[0] = to_e4m3(x);
    }
}

static uint32_t value_bytes(uint32_t dtype)
{
    return dtype == KVW_DTYPE_F32 ? 4 : dtype == KVW_DTYPE_F16 || dtype == KVW_DTYPE_BF16 ? 2 : 1;
}

/* The bits of 8 bytes that an entry has of its own: mantissas; of random bytes all. */
static uint64_t own_bits(enum kvp_payload_kind kind, uint32_t dtype)
{
    if (kind == KVP_PAYLOAD_RANDOM)
        return UINT64_MAX;
    switch (dtype) {
    case KVW_DTYPE_F32:
        return 0x007fffff007fffffull;
    case KVW_DTYPE_BF16:
        return 0x007f007f007f007full;
    case KVW_DTYPE_F16:
        return 0x03ff03ff03ff03ffull;
    case KVW_DTYPE_U4X2:
        return 0x1111111111111111ull;
    case KVW_DTYPE_F8_E5M2:
        return 0x0303030303030303ull;
    default:
        return 0x0707070707070707ull;
    }
}

/* K has channels that are far larger than the others, V hasn't: scales are spread more widely where
 * the part's number is even. */
static bool draw_sheet(struct kvp_sheet *s, const struct kvp_part *part, uint32_t at, uint64_t seed)
{
    const uint32_t each = value_bytes(part->dtype);
    const uint32_t channels = (uint32_t)(s->entry_bytes / each);
    double *scale = malloc(((size_t)channels + 1) * sizeof(*scale));
    uint64_t state = seed;

    if (scale == NULL || channels * each != s->entry_bytes) {
        free(scale);
        return channels * each != s->entry_bytes;
    }
    for (uint32_t c = 0; c <= channels; ++c)
        scale[c] = exp((at % 2 == 0 ? 0.9 : 0.35) * normal(&state));
    for (uint32_t e = 0; e < s->entries; ++e)
        for (uint32_t c = 0; c < channels; ++c)
            put_value(part->dtype, s->bytes + e * s->entry_bytes + (uint64_t)c * each,
                      scale[c] * normal(&state), scale[c + 1] * normal(&state));
    free(scale);
    return true;
}

static bool make_sheet(struct kvp_payload *p, const struct kvp_geometry *g, uint32_t group,
                       uint32_t part)
{
    const struct kvp_part *of = &g->groups[group].parts[part];
    struct kvp_sheet *s = &p->sheets[group][part];
    uint64_t entries;

    s->entry_bytes = kvp_part_entry_bytes(of);
    s->mask = own_bits(p->kind, of->dtype);
    entries = SHEET_BYTES / s->entry_bytes;
    s->entries = (uint32_t)(entries < SHEET_ENTRIES_MIN   ? SHEET_ENTRIES_MIN
                            : entries > SHEET_ENTRIES_MAX ? SHEET_ENTRIES_MAX
                                                          : entries);
    if (p->kind == KVP_PAYLOAD_FILE)
        return true;
    s->bytes = calloc(s->entries, s->entry_bytes);
    return s->bytes != NULL && (p->kind == KVP_PAYLOAD_RANDOM ||
                                draw_sheet(s, of, part, kvp_mix(p->seed + 64 * group + part + 1)));
}

/* --- a file ----------------------------------------------------------------------------------- */

static bool map_file(struct kvp_payload *p, const char *path, char *why)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) != 0) {
        snprintf(why, KVP_WHY, "--payload file:%s: %s", path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return false;
    }
    if (st.st_size < 4096) {
        close(fd);
        snprintf(why, KVP_WHY, "--payload file:%s: %lld bytes, at least 4096", path,
                 (long long)st.st_size);
        return false;
    }
    p->file_bytes = (uint64_t)st.st_size;
    p->file = mmap(NULL, p->file_bytes, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    close(fd);
    if (p->file == MAP_FAILED) {
        p->file = NULL;
        snprintf(why, KVP_WHY, "--payload file:%s: %s", path, strerror(errno));
    }
    return p->file != NULL;
}

/* The file over and over, a layer after the other; an odd prime shifts each so that none is as the
 * one before. */
static void from_file(const struct kvp_payload *p, struct kvp_entry_id id, unsigned char *to)
{
    const uint64_t n = p->sheets[id.group][id.part].entry_bytes;
    const uint64_t row = (uint64_t)id.entry + 8191ull * (id.layer * KVP_PARTS_MAX + id.part) +
                         131071ull * id.request;
    uint64_t at = row * n % (p->file_bytes & ~7ull), done = 0;

    while (done < n) {
        const uint64_t left = p->file_bytes - at, some = n - done < left ? n - done : left;

        memcpy(to + done, p->file + at, some);
        done += some;
        at = 0;
    }
}

/* --- the whole -------------------------------------------------------------------------------- */

bool kvp_payload_make(struct kvp_payload *p, const struct kvp_geometry *g,
                      enum kvp_payload_kind kind, uint64_t seed, const char *path,
                      char why[KVP_WHY])
{
    memset(p, 0, sizeof(*p));
    p->kind = kind;
    p->seed = seed;
    if (kind == KVP_PAYLOAD_FILE && path != NULL && !map_file(p, path, why))
        return false;
    for (uint32_t i = 0; i < g->group_count; ++i)
        for (uint32_t k = 0; k < g->groups[i].part_count; ++k)
            if (!make_sheet(p, g, i, k)) {
                snprintf(why, KVP_WHY, "no memory for the payload's sheets");
                kvp_payload_free(p);
                return false;
            }
    return true;
}

void kvp_payload_free(struct kvp_payload *p)
{
    for (uint32_t i = 0; i < KVP_GROUPS_MAX; ++i)
        for (uint32_t k = 0; k < KVP_PARTS_MAX; ++k)
            free(p->sheets[i][k].bytes);
    if (p->file != NULL)
        munmap(p->file, p->file_bytes);
    memset(p, 0, sizeof(*p));
}

void kvp_payload_entry(const struct kvp_payload *p, struct kvp_entry_id id, unsigned char *to)
{
    const struct kvp_sheet *s = &p->sheets[id.group][id.part];
    uint64_t base = kvp_mix(p->seed + GOLDEN * (1 + id.request));

    if (p->kind == KVP_PAYLOAD_FILE) {
        from_file(p, id, to);
        return;
    }
    base = kvp_mix(base ^ ((uint64_t)id.layer << 40 | (uint64_t)id.group << 36 |
                           (uint64_t)id.part << 32 | id.entry));
    const unsigned char *from = s->bytes + base % s->entries * s->entry_bytes;
    uint64_t i = 0;

    for (; i + 8 <= s->entry_bytes; i += 8) {
        uint64_t word, x = base + i * GOLDEN;

        x = (x ^ x >> 32) * 0xd6e8feb86659fd93ull;
        memcpy(&word, from + i, 8);
        word ^= (x ^ x >> 32) & s->mask;
        memcpy(to + i, &word, 8);
    }
    for (uint64_t x = kvp_mix(base ^ i); i < s->entry_bytes; ++i, x >>= 8)
        to[i] = (unsigned char)(from[i] ^ (x & s->mask & 0xff));
}
