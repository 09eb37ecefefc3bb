/* SPDX-License-Identifier: Apache-2.0 */
#include "stream.h"

#include <assert.h>
#include <string.h>

#include "../../kvwire/wire/le.h"

#define MASK (KVN_STREAM_BYTES - 1)

static void ring_write(uint8_t *ring, uint64_t at, const void *bytes, uint32_t n)
{
    const uint32_t from = (uint32_t)(at & MASK);
    const uint32_t first = n < KVN_STREAM_BYTES - from ? n : KVN_STREAM_BYTES - from;

    memcpy(ring + from, bytes, first);
    memcpy(ring, (const uint8_t *)bytes + first, n - first);
}

static void ring_read(void *out, const uint8_t *ring, uint64_t at, uint32_t n)
{
    const uint32_t from = (uint32_t)(at & MASK);
    const uint32_t first = n < KVN_STREAM_BYTES - from ? n : KVN_STREAM_BYTES - from;

    memcpy(out, ring + from, first);
    memcpy((uint8_t *)out + first, ring, n - first);
}

void kvn_stream_out_begin(struct kvn_stream_out *s, uint8_t *ring, uint64_t limit)
{
    *s = (struct kvn_stream_out){.ring = ring, .limit = limit};
}

kvw_err kvn_stream_out_push(struct kvn_stream_out *s, const void *msg, uint32_t bytes)
{
    uint8_t len[KVN_STREAM_LEN_BYTES];

    if (s->head - s->tail + KVN_STREAM_LEN_BYTES + bytes > KVN_STREAM_BYTES)
        return KVW_E_AGAIN;
    kvw_store_le32(len, bytes);
    ring_write(s->ring, s->head, len, sizeof(len));
    ring_write(s->ring, s->head + sizeof(len), msg, bytes);
    s->head += sizeof(len) + bytes;
    return KVW_OK;
}

void kvn_stream_out_take(struct kvn_stream_out *s, uint32_t max, struct kvn_stretch *out)
{
    const uint64_t fresh_end = s->head < s->limit ? s->head : s->limit;
    uint64_t end;
    uint32_t from, first;

    *out = (struct kvn_stretch){.bytes = 0};
    if (s->lost.count > 0) {
        out->at = s->lost.range[0].first;
        end = s->lost.range[0].end;
        out->again = true;
    } else if (s->next < fresh_end) {
        out->at = s->next;
        end = fresh_end;
    } else {
        return;
    }
    out->bytes = end - out->at < max ? (uint32_t)(end - out->at) : max;
    if (out->again)
        kvn_ranges_remove(&s->lost, out->at, out->at + out->bytes);
    else
        s->next += out->bytes;
    from = (uint32_t)(out->at & MASK);
    first = out->bytes < KVN_STREAM_BYTES - from ? out->bytes : KVN_STREAM_BYTES - from;
    out->piece[0] = (struct kvw_iov){.base = s->ring + from, .bytes = first};
    out->piece[1] = (struct kvw_iov){.base = s->ring, .bytes = out->bytes - first};
    out->pieces = first < out->bytes ? 2 : 1;
}

void kvn_stream_out_lost(struct kvn_stream_out *s, uint64_t at, uint32_t bytes)
{
    const uint64_t first = at > s->tail ? at : s->tail;

    if (first < at + bytes)
        kvn_ranges_add_cover(&s->lost, first, at + bytes);
}

void kvn_stream_out_arrived(struct kvn_stream_out *s, uint64_t at, uint32_t bytes)
{
    const uint64_t first = at > s->tail ? at : s->tail, end = at + bytes;

    if (first >= end)
        return;
    if (kvn_ranges_add(&s->arrived, first, end) == KVN_RANGES_FULL) {
        /* No room to remember it: it is sent again, and the peer drops it. */
        kvn_ranges_add_cover(&s->lost, first, end);
        return;
    }
    kvn_ranges_remove(&s->lost, first, end);
    if (s->arrived.range[0].first <= s->tail) {
        s->tail = kvn_ranges_shift(&s->arrived).end;
        /* A cover may reach below what has just been freed. */
        while (s->lost.count > 0 && s->lost.range[0].end <= s->tail)
            (void)kvn_ranges_shift(&s->lost);
        if (s->lost.count > 0 && s->lost.range[0].first < s->tail)
            s->lost.range[0].first = s->tail;
    }
}

bool kvn_stream_out_blocked(const struct kvn_stream_out *s)
{
    return s->next < s->head && s->next >= s->limit;
}

void kvn_stream_in_begin(struct kvn_stream_in *s, uint8_t *ring, uint8_t *wrap)
{
    *s = (struct kvn_stream_in){.ring = ring, .wrap = wrap, .told = KVN_STREAM_BYTES};
}

kvw_err kvn_stream_in_take(struct kvn_stream_in *s, uint64_t at, const uint8_t *bytes, uint32_t n)
{
    if (at + n > s->told)
        return KVW_E_PROTOCOL;
    if (at + n <= s->end)
        return KVW_OK;
    if (at < s->end) { /* never write below end: those bytes may be in someone's hands */
        bytes += s->end - at;
        n -= (uint32_t)(s->end - at);
        at = s->end;
    }
    if (kvn_ranges_add(&s->ahead, at, at + n) == KVN_RANGES_FULL)
        return KVW_E_AGAIN;
    ring_write(s->ring, at, bytes, n);
    if (s->ahead.range[0].first == s->end)
        s->end = kvn_ranges_shift(&s->ahead).end;
    return KVW_OK;
}

kvw_err kvn_stream_in_next(struct kvn_stream_in *s, const void **msg, uint32_t *bytes)
{
    uint8_t word[KVN_STREAM_LEN_BYTES];
    uint32_t len, from;

    if (s->end - s->delivered < sizeof(word))
        return KVW_E_AGAIN;
    ring_read(word, s->ring, s->delivered, sizeof(word));
    len = kvw_load_le32(word);
    if (len == 0 || len > KVW_MSG_BYTES_MAX)
        return KVW_E_PROTOCOL;
    if (s->end - s->delivered - sizeof(word) < len)
        return KVW_E_AGAIN;
    from = (uint32_t)((s->delivered + sizeof(word)) & MASK);
    if (from + len <= KVN_STREAM_BYTES) {
        *msg = s->ring + from;
    } else {
        ring_read(s->wrap, s->ring, from, len);
        *msg = s->wrap;
    }
    *bytes = len;
    s->delivered += sizeof(word) + len;
    return KVW_OK;
}

bool kvn_stream_in_ready(const struct kvn_stream_in *s)
{
    uint8_t word[KVN_STREAM_LEN_BYTES];
    uint32_t len;

    if (s->end - s->delivered < sizeof(word))
        return false;
    ring_read(word, s->ring, s->delivered, sizeof(word));
    len = kvw_load_le32(word);
    return len == 0 || len > KVW_MSG_BYTES_MAX || s->end - s->delivered - sizeof(word) >= len;
}

void kvn_stream_in_release(struct kvn_stream_in *s)
{
    s->released = s->delivered;
}

uint64_t kvn_stream_in_limit(struct kvn_stream_in *s)
{
    return s->told = s->released + KVN_STREAM_BYTES;
}

bool kvn_stream_in_reopened(const struct kvn_stream_in *s)
{
    return s->delivered + KVN_STREAM_BYTES - s->told >= KVN_STREAM_BYTES / 2;
}
