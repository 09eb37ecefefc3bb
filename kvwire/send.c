/* SPDX-License-Identifier: Apache-2.0 */
/*
 * send.c - the sender's chunks: from blocks through the codec into a staging slot, and out (SPEC.md
 * 4.2, 5).
 *
 * Gathering and encoding happen inside kvw_session_poll(): when a stream has ended, none of its
 * blocks is read any more, while its staging slots stay lent to the transport until their PUT_DONE.
 */
#include <assert.h>
#include <string.h>

#include "chunk.h"
#include "session.h"

/* What goes out next. */
struct piece {
    struct kvw_xfer *x;
    uint32_t layer, kv, first, tokens;
};

static unsigned char *stage_mem(const struct kvw_session *s, const struct kvw_stage *g)
{
    return s->slots_mem + (size_t)(g - s->stages) * s->hello.slot_bytes;
}

static void stage_free(struct kvw_session *s, struct kvw_stage *g)
{
    assert(s->stage_free_count < s->hello.slots);
    g->state = KVW_STAGE_FREE;
    s->stage_free[s->stage_free_count++] = (uint16_t)(g - s->stages);
}

/* The first of our codecs, which stand best first, that the peer has too, that loses nothing, and
 * whose chunks fit its slots. raw always does: kvw_hello_match() has seen to it. */
static void choose_codec(struct kvw_session *s)
{
    const struct kvw_hello *peer = &s->ready->hello;
    const uint32_t slot_bytes =
        peer->slot_bytes < s->hello.slot_bytes ? peer->slot_bytes : s->hello.slot_bytes;

    for (uint32_t i = 0; i < s->codec_count; ++i) {
        const struct kvw_codec_ops *c = s->codecs[i];

        if ((s->hello.codecs & peer->codecs & (1ull << c->id)) == 0 ||
            c->budget != KVW_BUDGET_EXACT)
            continue;
        s->chunk_tokens = kvw_chunk_tokens(c, s->token_bytes, s->pool.block_tokens,
                                           s->chunk_raw_bytes, slot_bytes);
        s->codec = c;
        if (s->chunk_tokens > 0)
            return;
    }
}

void kvw_send_start(struct kvw_session *s)
{
    s->next_seq = s->limit = 0;
    s->stalled = false;
    choose_codec(s);
}

void kvw_send_stop(struct kvw_session *s)
{
    if (s->filled != NULL)
        stage_free(s, s->filled);
    s->filled = NULL;
    for (uint32_t i = 0; i < s->xfers_max; ++i)
        s->offers[i].used = false; /* that peer's */
}

void kvw_send_grant(struct kvw_session *s, const struct kvw_grant *m)
{
    if (m->limit > s->next_seq + s->ready->hello.slots)
        kvw_handshake_breach(s, "a GRANT of more landing slots than there are");
    else if (m->limit > s->limit)
        s->limit = m->limit;
}

void kvw_send_put_done(struct kvw_session *s, const struct kvw_transport_event *ev)
{
    struct kvw_stage *g;
    struct kvw_xfer *x;

    if (ev->cookie >= s->hello.slots)
        return; /* not one of ours: an earlier session's on this transport */
    g = &s->stages[ev->cookie];
    if (g->state != KVW_STAGE_FLIGHT || g->conn.value != ev->conn.value)
        return;
    x = &s->xfers[g->xfer_at];
    if (ev->err == KVW_OK && x->state == KVW_XFER_OPEN && x->serial == g->serial) {
        --x->layers[g->layer].in_flight;
        kvw_stream_layer_sent(s, x, g->layer);
    }
    stage_free(s, g); /* on an error CONN_DOWN follows, and ends what this was part of */
}

/* Lowest layer first, K before V, tokens ascending. */
static bool next_of(const struct kvw_session *s, struct kvw_xfer *x, struct piece *p)
{
    while (x->low_layer < s->pool.layers && x->layers[x->low_layer].sent[0] == x->tokens &&
           x->layers[x->low_layer].sent[1] == x->tokens)
        ++x->low_layer;
    for (uint32_t l = x->low_layer; l < s->pool.layers; ++l) {
        const struct kvw_layer_out *out = &x->layers[l];

        for (uint32_t kv = 0; kv < 2; ++kv) {
            uint32_t left = out->pushed - out->sent[kv];

            if (left == 0)
                continue;
            if (left > s->chunk_tokens)
                left = s->chunk_tokens;
            *p = (struct piece){x, l, kv, out->sent[kv], left};
            return true;
        }
    }
    return false;
}

/* Round robin over the streams, a chunk each. */
static bool next_piece(struct kvw_session *s, struct piece *p)
{
    for (uint32_t i = 0; i < s->xfers_max; ++i) {
        struct kvw_xfer *x = &s->xfers[(s->turn + i) % s->xfers_max];

        if (x->state == KVW_XFER_OPEN && x->epoch != 0 && next_of(s, x, p))
            return true;
    }
    return false;
}

static kvw_err encode_with(struct kvw_session *s, const struct kvw_codec_ops *codec,
                           const struct kvw_view *view, unsigned char *to, struct kvw_chunk_hdr *h)
{
    struct kvw_digest digest;
    uint64_t bytes;
    kvw_err err = kvw_digest_begin(&digest, KVW_DIGEST_XXH3_64);

    if (err == KVW_OK)
        err = codec->encode(view, NULL, to + KVW_CHUNK_HDR_BYTES,
                            s->hello.slot_bytes - KVW_CHUNK_HDR_BYTES, &bytes, &digest, s->scratch);
    if (err != KVW_OK)
        return err;
    h->codec = codec->id;
    h->digest = KVW_DIGEST_XXH3_64;
    h->stream_bytes = (uint32_t)bytes;
    h->digest_value = kvw_digest_value(&digest);
    return KVW_OK;
}

/* Fill a staging slot; NULL: the stream has ended over it. */
static struct kvw_stage *encode(struct kvw_session *s, const struct piece *p)
{
    struct kvw_stage *g = &s->stages[s->stage_free[s->stage_free_count - 1]];
    unsigned char *mem = stage_mem(s, g);
    const struct kvw_view view =
        kvw_pool_view(&s->pool, p->x->blocks, p->layer, p->kv, p->first, p->tokens);
    struct kvw_chunk_hdr h = {
        .xfer = p->x->id,
        .epoch = p->x->epoch,
        .seq = (uint32_t)s->next_seq,
        .layer = p->layer,
        .kv = p->kv,
        .head_count = s->pool.kv_heads,
        .token_first = p->first,
        .token_count = p->tokens,
        .raw_bytes = p->tokens * s->token_bytes,
    };
    const kvw_err err = encode_with(s, s->codec, &view, mem, &h);

    if (err != KVW_OK) {
        kvw_xfer_finishf(s, p->x, err, "layer %u %c tokens %u to %u: codec %s: %s", p->layer,
                         p->kv == 0 ? 'K' : 'V', p->first, p->first + p->tokens - 1, s->codec->name,
                         kvw_strerror(err));
        return NULL;
    }
    kvw_chunk_hdr_encode(mem, &h);
    --s->stage_free_count;
    *g = (struct kvw_stage){
        .state = KVW_STAGE_FILLED,
        .bytes = KVW_CHUNK_HDR_BYTES + h.stream_bytes,
        .xfer_at = (uint32_t)(p->x - s->xfers),
        .serial = p->x->serial,
        .layer = p->layer,
        .kv = p->kv,
        .tokens = p->tokens,
        .raw_bytes = h.raw_bytes,
    };
    return g;
}

/* The transport has it: count it. */
static void account(struct kvw_session *s, struct kvw_xfer *x, struct kvw_stage *g)
{
    g->state = KVW_STAGE_FLIGHT;
    g->conn = s->ready->id;
    x->layers[g->layer].sent[g->kv] += g->tokens;
    ++x->layers[g->layer].in_flight;
    ++x->chunks;
    x->raw_bytes += g->raw_bytes;
    x->wire_bytes += g->bytes;
    ++s->next_seq;
    ++s->stats.chunks_sent;
    s->stats.raw_bytes += g->raw_bytes;
    s->stats.wire_bytes += g->bytes;
    s->sent = true;
}

/* False: the transport takes nothing now. */
static bool put(struct kvw_session *s, struct kvw_stage *g)
{
    const struct kvw_hello *peer = &s->ready->hello;
    struct kvw_xfer *x = &s->xfers[g->xfer_at];
    const struct kvw_put p = {
        .key = peer->region,
        .offset = s->next_seq % peer->slots * peer->slot_bytes,
        .iov = {{stage_mem(s, g), g->bytes}},
        .iov_count = 1,
        .imm = (uint32_t)s->next_seq,
        .cookie = (uint64_t)(g - s->stages),
    };
    kvw_err err;

    s->filled = NULL;
    if (x->state != KVW_XFER_OPEN || x->serial != g->serial) {
        stage_free(s, g); /* ended while it waited; its number goes to the next chunk */
        return true;
    }
    err = s->transport->ops->put(s->transport, s->ready->id, &p);
    if (err == KVW_OK) {
        account(s, x, g);
        return true;
    }
    if (err == KVW_E_AGAIN) {
        s->filled = g;
        return false;
    }
    stage_free(s, g);
    if (err != KVW_E_NOTFOUND) /* gone: CONN_DOWN is on its way */
        kvw_handshake_breach(s, "the transport refused a put to the peer's landing slots");
    return false;
}

/* A chunk's turn has come and nothing stands in its way. */
static bool can_send(struct kvw_session *s)
{
    if (s->next_seq < s->limit && s->stage_free_count > 0) {
        s->stalled = false;
        return true;
    }
    if (!s->stalled)
        ++s->stats.credit_stalls;
    s->stalled = true;
    return false;
}

bool kvw_send_poll(struct kvw_session *s)
{
    struct piece p;

    if (s->ready == NULL || (s->filled != NULL && !put(s, s->filled)))
        return false;
    for (uint32_t n = 0; n < KVW_CHUNKS_A_POLL; ++n) {
        struct kvw_stage *g;

        if (!next_piece(s, &p) || !can_send(s))
            return false;
        g = encode(s, &p);
        if (g != NULL && !put(s, g))
            return false;
        s->turn = ((uint32_t)(p.x - s->xfers) + 1) % s->xfers_max;
    }
    return next_piece(s, &p) && can_send(s);
}
