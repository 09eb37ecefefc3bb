/* SPDX-License-Identifier: Apache-2.0 */
/*
 * utf8.h - tokens end in the middle of characters; hold bytes back until a character is whole.
 *
 * threads  one per hold    memory  the caller's    time  none
 */
#ifndef KVE_UTF8_H
#define KVE_UTF8_H

#include <stddef.h>

#define KVE_UTF8_HOLD_BYTES 8

struct kve_utf8_hold {
    unsigned char bytes[4];
    unsigned have, want;
};

static inline void kve_utf8_reset(struct kve_utf8_hold *h)
{
    h->have = h->want = 0;
}

/* How many bytes a character has that begins so; 0: it can't begin so. */
static inline unsigned kve_utf8_length(unsigned char first)
{
    if (first < 0x80)
        return 1;
    if (first >= 0xc2 && first < 0xe0)
        return 2;
    if (first >= 0xe0 && first < 0xf0)
        return 3;
    return first >= 0xf0 && first < 0xf5 ? 4 : 0;
}

/*
 * Add a byte. Returns how many bytes of out (KVE_UTF8_HOLD_BYTES) are ready to be shown: a whole
 * character, or U+FFFD in place of bytes that are none, or 0.
 */
static inline size_t kve_utf8_push(struct kve_utf8_hold *h, unsigned char b, char *out)
{
    size_t n = 0;

    if (h->have > 0 && (b & 0xc0) != 0x80) { /* the character before was cut off */
        out[0] = (char)0xef;
        out[1] = (char)0xbf;
        out[2] = (char)0xbd;
        n = 3;
        h->have = 0;
    }
    if (h->have == 0) {
        h->want = kve_utf8_length(b);
        if (h->want == 0) {
            out[n] = (char)0xef;
            out[n + 1] = (char)0xbf;
            out[n + 2] = (char)0xbd;
            return n + 3;
        }
    }
    h->bytes[h->have++] = b;
    if (h->have < h->want)
        return n;
    for (unsigned i = 0; i < h->have; ++i)
        out[n++] = (char)h->bytes[i];
    h->have = 0;
    return n;
}

#endif
