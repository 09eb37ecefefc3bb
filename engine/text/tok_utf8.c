/* SPDX-License-Identifier: Apache-2.0 */
/* tok_utf8.c - UTF-8, by the book and as llama.cpp reads it. */
#include "tok_impl.h"

enum {
    REPLACEMENT = 0xfffd, /* for what is no character */
    STAND_IN = 0xe000,    /* for a surrogate: private use, so neither letter, digit nor space */
};

static bool continues(char c)
{
    return ((unsigned char)c & 0xc0) == 0x80;
}

size_t kve_utf8_get(const char *text, size_t bytes, uint32_t *cp)
{
    const unsigned char lead = (unsigned char)text[0];
    size_t n;

    if (lead < 0x80) {
        *cp = lead;
        return 1;
    }
    if (lead < 0xc0 || lead > 0xf7)
        return 0;
    n = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    if (bytes < n)
        return 0;
    uint32_t v = lead & (0x7fu >> n);
    for (size_t i = 1; i < n; ++i) {
        if (!continues(text[i]))
            return 0;
        v = v << 6 | ((unsigned char)text[i] & 0x3f);
    }
    if (v > 0x10ffff)
        return 0;
    *cp = v;
    return n;
}

size_t kve_utf8_put(uint32_t cp, char out[4])
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    const size_t n = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; --i) {
        out[i] = (char)(0x80 | (cp & 0x3f));
        cp >>= 6;
    }
    out[0] = (char)((0xf00u >> n & 0xf0) | cp);
    return n;
}

static bool surrogate(uint32_t cp)
{
    return cp >= 0xd800 && cp <= 0xdfff;
}

bool kve_utf8_sound(const char *text, size_t bytes)
{
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    size_t at = 0;

    while (at < bytes) {
        uint64_t eight;
        uint32_t cp;

        if (bytes - at >= sizeof(eight)) {
            memcpy(&eight, text + at, sizeof(eight));
            if ((eight & 0x8080808080808080u) == 0) {
                at += sizeof(eight);
                continue;
            }
        }
        const size_t n = kve_utf8_get(text + at, bytes - at, &cp);
        if (n == 0 || cp < least[n] || surrogate(cp))
            return false;
        at += n;
    }
    return true;
}

size_t kve_utf8_repair(const char *text, size_t bytes, char *out, char *safe)
{
    size_t at = 0, end = 0;

    while (at < bytes) {
        uint32_t cp = REPLACEMENT;
        const size_t n = kve_utf8_get(text + at, bytes - at, &cp);
        char c[4];
        const size_t put = kve_utf8_put(cp, c);

        memcpy(out + end, c, put);
        if (surrogate(cp))
            kve_utf8_put(STAND_IN, c);
        memcpy(safe + end, c, put);
        end += put;
        at += n == 0 ? 1 : n;
    }
    return end;
}
