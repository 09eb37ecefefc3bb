/* SPDX-License-Identifier: Apache-2.0 */
/*
 * utf8.h - tokens end in the middle of characters; hold bytes back until a character is whole,
 * and show U+FFFD for what can't become one.
 *
 * Well-formed is what Unicode's table 3-7 has; of the rest each maximal subpart is one U+FFFD, as
 * in Python's and WHATWG's decoders. So what is shown is always UTF-8, whatever the tokens spell.
 *
 * threads  one per hold    memory  the caller's    time  none
 */
#ifndef KVE_UTF8_H
#define KVE_UTF8_H

#include <stdbool.h>
#include <stddef.h>

#define KVE_UTF8_HOLD_BYTES 8

struct kve_utf8_hold {
    unsigned char bytes[4];
    unsigned have, want;       /* of the character that has begun; have is 0 between two */
    unsigned char least, most; /* what its next byte may be */
};

static inline void kve_utf8_reset(struct kve_utf8_hold *h)
{
    *h = (struct kve_utf8_hold){0};
}

static inline size_t kve_utf8_replacement(char *out)
{
    out[0] = (char)0xef;
    out[1] = (char)0xbf;
    out[2] = (char)0xbd;
    return 3;
}

/* A row of table 3-7: the second byte's range keeps overlong forms, surrogates and what is past
 * U+10FFFF out. False: no character begins so. */
static inline bool kve_utf8_begin(struct kve_utf8_hold *h, unsigned char first)
{
    if (first >= 0x80 && (first < 0xc2 || first > 0xf4))
        return false;
    h->want = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    h->least = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    h->most = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    return true;
}

/*
 * Add a byte. Returns how many bytes of out (KVE_UTF8_HOLD_BYTES) are ready to be shown: a whole
 * character, or U+FFFD in place of bytes that are none, or 0.
 */
static inline size_t kve_utf8_push(struct kve_utf8_hold *h, unsigned char b, char *out)
{
    size_t n = 0;

    if (h->have > 0 && (b < h->least || b > h->most)) { /* the character before was cut off */
        n = kve_utf8_replacement(out);
        h->have = 0;
    }
    if (h->have == 0) {
        if (!kve_utf8_begin(h, b))
            return n + kve_utf8_replacement(out + n);
    } else {
        h->least = 0x80;
        h->most = 0xbf;
    }
    h->bytes[h->have++] = b;
    if (h->have < h->want)
        return n;
    for (unsigned i = 0; i < h->want; ++i)
        out[n++] = (char)h->bytes[i];
    h->have = 0;
    return n;
}

/* No more bytes come: U+FFFD for a character that was cut off, or 0 bytes. */
static inline size_t kve_utf8_flush(struct kve_utf8_hold *h, char *out)
{
    const size_t n = h->have > 0 ? kve_utf8_replacement(out) : 0;

    h->have = 0;
    return n;
}

#endif
