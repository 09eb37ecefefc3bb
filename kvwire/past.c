/* SPDX-License-Identifier: Apache-2.0 */
/* Streaming stores, where the CPU has them: every x86-64 does. */
#include "past.h"

#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>

#define LINE 64u

/* Whole lines, to the beginning of one. */
static void stream(unsigned char *to, const unsigned char *from, size_t lines)
{
    for (; lines > 0; --lines, to += LINE, from += LINE) {
        const __m128i a = _mm_loadu_si128((const __m128i *)(const void *)from);
        const __m128i b = _mm_loadu_si128((const __m128i *)(const void *)(from + 16));
        const __m128i c = _mm_loadu_si128((const __m128i *)(const void *)(from + 32));
        const __m128i d = _mm_loadu_si128((const __m128i *)(const void *)(from + 48));

        _mm_stream_si128((__m128i *)(void *)to, a);
        _mm_stream_si128((__m128i *)(void *)(to + 16), b);
        _mm_stream_si128((__m128i *)(void *)(to + 32), c);
        _mm_stream_si128((__m128i *)(void *)(to + 48), d);
    }
}

void kvw_past_copy(void *to, const void *from, size_t bytes)
{
    unsigned char *t = to;
    const unsigned char *f = from;
    const size_t head = (LINE - (uintptr_t)t % LINE) % LINE;
    size_t lines;

    if (bytes < KVW_PAST_MIN) {
        memcpy(to, from, bytes);
        return;
    }
    memcpy(t, f, head);
    t += head;
    f += head;
    lines = (bytes - head) / LINE;
    stream(t, f, lines);
    memcpy(t + lines * LINE, f + lines * LINE, bytes - head - lines * LINE);
}

void kvw_past_done(void)
{
    _mm_sfence();
}

#else

void kvw_past_copy(void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
}

void kvw_past_done(void)
{
}

#endif
