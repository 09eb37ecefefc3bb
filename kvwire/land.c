/* SPDX-License-Identifier: Apache-2.0 */
/*
 * land.c - the receiver's chunks: from landing slot, checked, into the offered blocks (SPEC.md 5).
 *
 * A chunk is decoded inside kvw_session_poll() and only while its transfer is open; when XFER_DONE
 * is out nothing here holds a pointer into its blocks. That is why late data can't land in a block
 * that has a new owner.
 */
#include <stdio.h>
#include <string.h>

#include "chunk.h"
#include "session.h"

bool kvw_land_gate(void *arg, kvw_conn_id conn, uint64_t offset, uint32_t bytes, uint32_t imm)
{
    const struct kvw_session *s = arg;

    return s->ready != NULL && s->ready->id.value == conn.value &&
           kvw_window_allows(&s->window, offset, bytes, imm);
}

void kvw_land_event(struct kvw_session *s, const struct kvw_transport_event *ev)
{
    if (kvw_window_land(&s->window, ev->offset, ev->bytes, ev->imm) != KVW_OK)
        kvw_handshake_breach(s, "a put landed where none was granted");
}

/* What is wrong with a chunk for this transfer, or NULL. */
static const char *fault_of(const struct kvw_session *s, const struct kvw_xfer *x,
                            const struct kvw_chunk_hdr *h)
{
    const uint32_t end = h->token_first + h->token_count;
    uint32_t codec;

    if (h->layer >= s->pool.layers)
        return "its layer is beyond the last";
    if (h->head_first != 0 || h->head_count != s->pool.kv_heads)
        return "it has not all heads";
    if (end > x->tokens)
        return "its tokens are beyond the last";
    if (h->raw_bytes != (uint64_t)h->token_count * s->token_bytes)
        return "its raw bytes don't fit its tokens";
    if (h->raw_bytes > s->hello.slot_bytes - KVW_CHUNK_HDR_BYTES)
        return "its raw bytes are more than a landing slot holds"; /* nor would scratch do */
    codec = kvw_choose_find(&s->chooser, h->codec);
    if (codec == s->codec_count)
        return "its codec is not in this side's HELLO";
    if (s->codecs[codec]->budget > x->budget)
        return "its codec loses more than the offer allows";
    if ((s->codecs[codec]->dtypes >> s->pool.dtype & 1) == 0)
        return "its codec doesn't take this element type";
    if (h->digest > 63 || (s->hello.digests >> h->digest & 1) == 0)
        return "its digest is not in this side's HELLO";
    if (kvw_ranges_overlap(&x->cover[2 * h->layer + h->kv], &s->span_pool, h->token_first, end))
        return "its tokens have come before";
    return NULL;
}

static void refuse(struct kvw_session *s, struct kvw_xfer *x, const struct kvw_chunk_hdr *h,
                   kvw_err err, const char *why)
{
    ++s->stats.chunks_rejected;
    kvw_xfer_finishf(s, x, err, "chunk of layer %u %c tokens %u to %u: %s", h->layer,
                     h->kv == 0 ? 'K' : 'V', h->token_first, h->token_first + h->token_count - 1,
                     why);
}

/* Decode into the blocks; false: the transfer has ended. */
static bool decode(struct kvw_session *s, struct kvw_xfer *x, const struct kvw_chunk_hdr *h,
                   const unsigned char *stream)
{
    const uint32_t at = kvw_choose_find(&s->chooser, h->codec);
    const struct kvw_codec_ops *codec = s->codecs[at];
    const struct kvw_view view =
        kvw_pool_view(&s->pool, x->blocks, h->layer, h->kv, h->token_first, h->token_count);
    struct kvw_digest digest;
    char why[96];
    kvw_err err = kvw_digest_begin(&digest, (kvw_digest_id)h->digest);

    const uint64_t begin = s->clock.now_ns != NULL ? s->clock.now_ns(s->clock.arg) : 0;

    if (err == KVW_OK)
        err = codec->decode(stream, h->stream_bytes, NULL, &view, &digest, s->scratch);
    if (err != KVW_OK) {
        snprintf(why, sizeof(why), "codec %s: %s", codec->name, kvw_strerror(err));
        refuse(s, x, h, KVW_E_CODEC, why);
        return false;
    }
    if (kvw_digest_value(&digest) != h->digest_value) {
        snprintf(why, sizeof(why), "digest here %016llx, sender %016llx",
                 (unsigned long long)kvw_digest_value(&digest),
                 (unsigned long long)h->digest_value);
        refuse(s, x, h, KVW_E_CHECKSUM, why);
        return false;
    }
    kvw_choose_decoded(&s->chooser, at, h->raw_bytes, h->stream_bytes,
                       s->clock.now_ns != NULL ? s->clock.now_ns(s->clock.arg) - begin : 0);
    return true;
}

static void take_chunk(struct kvw_session *s, struct kvw_xfer *x, const struct kvw_chunk_hdr *h,
                       const unsigned char *stream)
{
    struct kvw_ranges *both = &x->cover[2 * h->layer];
    const char *fault = fault_of(s, x, h);

    kvw_offer_heard(s, x);
    if (fault != NULL) {
        refuse(s, x, h, KVW_E_PROTOCOL, fault);
        return;
    }
    if (!decode(s, x, h, stream))
        return;
    if (kvw_ranges_add(&both[h->kv], &s->span_pool, h->token_first,
                       h->token_first + h->token_count) != KVW_OK) {
        refuse(s, x, h, KVW_E_PROTOCOL, "more gaps than an ascending sender can leave");
        return;
    }
    ++x->chunks;
    ++x->codec_chunks[h->codec];
    x->raw_bytes += h->raw_bytes;
    x->wire_bytes += h->stream_bytes + KVW_CHUNK_HDR_BYTES;
    ++s->stats.chunks_landed;
    s->stats.raw_bytes += h->raw_bytes;
    s->stats.wire_bytes += h->stream_bytes + KVW_CHUNK_HDR_BYTES;
    if (both[0].prefix == x->tokens && both[1].prefix == x->tokens) {
        struct kvw_event_rec *rec = kvw_events_push(&s->events, KVW_EV_LAYER_READY, s->now_ns);

        rec->xfer = x->id;
        rec->layer = h->layer;
        ++x->layers_ready;
    }
    kvw_offer_settle(s, x);
}

/* One landed slot; false: the connection is over and the window with it. */
static bool take_slot(struct kvw_session *s, uint32_t slot)
{
    const unsigned char *at = s->slots_mem + (size_t)slot * s->hello.slot_bytes;
    struct kvw_chunk_hdr h;
    struct kvw_xfer *x;

    /* A header that can't be believed belongs to no transfer that could be ended for it. */
    if (kvw_chunk_hdr_decode(&h, at, s->window.bytes[slot]) != KVW_OK ||
        h.seq != (uint32_t)kvw_window_seq(&s->window, slot)) {
        ++s->stats.chunks_rejected;
        kvw_handshake_breach(s, "a chunk's header is damaged or malformed");
        return false;
    }
    x = kvw_xfer_match(s, h.xfer, h.epoch);
    if (x == NULL)
        ++s->stats.chunks_stale;
    else
        take_chunk(s, x, &h, at + KVW_CHUNK_HDR_BYTES);
    kvw_window_pop(&s->window);
    return true;
}

bool kvw_land_poll(struct kvw_session *s)
{
    uint32_t slot;

    for (uint32_t n = 0; n < KVW_CHUNKS_A_POLL; ++n) {
        if (s->ready == NULL || !kvw_window_peek(&s->window, &slot))
            return false;
        if (!kvw_events_room(&s->events, KVW_EVENTS_STEP(s->pool.layers))) {
            s->held_up = true;
            return false;
        }
        if (!take_slot(s, slot))
            return false;
    }
    return kvw_window_peek(&s->window, &slot);
}

bool kvw_layer_ready(const struct kvw_session *s, kvw_xfer_id id, uint32_t layer)
{
    const struct kvw_xfer *x = NULL;

    if (s->role != KVW_ROLE_RECEIVER || layer >= s->pool.layers)
        return false;
    if ((x = kvw_xfer_find(s, id.value)) != NULL)
        return x->cover[2 * layer].prefix == x->tokens &&
               x->cover[2 * layer + 1].prefix == x->tokens;
    for (uint32_t i = 0; i < s->xfers_max; ++i) /* ended well, and the caller doesn't know yet */
        if (s->xfers[i].state == KVW_XFER_ENDED && s->xfers[i].id == id.value &&
            s->xfers[i].event_due && s->xfers[i].err == KVW_OK)
            return true;
    return false;
}
