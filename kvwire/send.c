/* SPDX-License-Identifier: Apache-2.0 */
/*
 * send.c - the sender's chunks: cut from what was pushed, given a codec, encoded into a staging
 * slot by the session's encoders or here, and put in the order of cutting (SPEC.md 4.2, 5).
 *
 * Blocks are read by jobs only; when a stream ends its jobs are taken back first, so that none of
 * its blocks is read any more, while staging slots stay lent to the transport until their PUT_DONE.
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

static struct kvw_stage *line_first(const struct kvw_session *s)
{
    return s->line_count > 0 ? &s->stages[s->line[s->line_head]] : NULL;
}

static void line_pop(struct kvw_session *s)
{
    s->line_head = (s->line_head + 1) % s->hello.slots;
    --s->line_count;
}

/* Which of our codecs may be used with this peer, and how many tokens a chunk has so that any of
 * them fits its slots. raw always does: kvw_hello_match() has seen to it. */
static void agree(struct kvw_session *s)
{
    const struct kvw_hello *peer = &s->ready->hello;
    const uint32_t slot_bytes =
        peer->slot_bytes < s->hello.slot_bytes ? peer->slot_bytes : s->hello.slot_bytes;
    const uint32_t raw_tokens =
        kvw_chunk_tokens(s->codecs[s->chooser.raw], s->token_bytes, s->pool.block_tokens,
                         s->chunk_raw_bytes, slot_bytes);

    /* The handshake has found one in common; LANES costs a codec least. */
    s->digest =
        (peer->digests >> KVW_DIGEST_LANES & 1) != 0 ? KVW_DIGEST_LANES : KVW_DIGEST_XXH3_64;
    s->allowed = 0;
    s->chunk_tokens = raw_tokens;
    for (uint32_t i = 0; i < s->codec_count; ++i) {
        const struct kvw_codec_ops *c = s->codecs[i];
        const uint32_t tokens = kvw_chunk_tokens(c, s->token_bytes, s->pool.block_tokens,
                                                 s->chunk_raw_bytes, slot_bytes);

        if ((peer->codecs >> c->id & 1) == 0 || (c->dtypes >> s->pool.dtype & 1) == 0 ||
            tokens == 0)
            continue;
        s->allowed |= 1ull << i;
        if (tokens < s->chunk_tokens)
            s->chunk_tokens = tokens;
    }
}

void kvw_send_start(struct kvw_session *s)
{
    s->next_seq = s->limit = 0;
    s->stalled = false;
    agree(s);
}

/* Newest first, so that jobs which haven't begun never do while one that has is waited for. */
void kvw_send_take_back(struct kvw_session *s, const struct kvw_xfer *x)
{
    for (uint32_t i = s->encoders != NULL ? s->line_count : 0; i > 0; --i) {
        struct kvw_stage *g = &s->stages[s->line[(s->line_head + i - 1) % s->hello.slots]];
        const bool its =
            x == NULL || (g->xfer_at == (uint32_t)(x - s->xfers) && g->serial == x->serial);

        if (its && !kvw_job_done(&g->job))
            kvw_encoders_drop(s->encoders, &g->job);
    }
}

void kvw_send_stop(struct kvw_session *s)
{
    kvw_send_take_back(s, NULL);
    for (struct kvw_stage *g; (g = line_first(s)) != NULL; line_pop(s))
        stage_free(s, g);
    kvw_rate_stop(&s->rate);
    kvw_choose_stop(&s->chooser);
    for (uint32_t i = 0; i < s->xfers_max; ++i)
        s->offers[i].used = false; /* that peer's */
}

void kvw_send_grant(struct kvw_session *s, const struct kvw_grant *m)
{
    const uint32_t codec = kvw_choose_find(&s->chooser, m->codec);

    if (m->limit > s->next_seq + s->ready->hello.slots) {
        kvw_handshake_breach(s, "a GRANT of more landing slots than there are");
        return;
    }
    if (m->limit > s->limit)
        s->limit = m->limit;
    if (codec < s->codec_count)
        kvw_choose_told(&s->chooser, codec, m->decode_ps);
}

/* Lowest layer first, K before V, tokens ascending. */
static bool next_of(const struct kvw_session *s, struct kvw_xfer *x, struct piece *p)
{
    while (x->low_layer < s->pool.layers && x->layers[x->low_layer].cut[0] == x->tokens &&
           x->layers[x->low_layer].cut[1] == x->tokens)
        ++x->low_layer;
    for (uint32_t l = x->low_layer; l < s->pool.layers; ++l) {
        const struct kvw_layer_out *out = &x->layers[l];

        for (uint32_t kv = 0; kv < 2; ++kv) {
            uint32_t left = out->pushed - out->cut[kv];

            if (left == 0)
                continue;
            if (left > s->chunk_tokens)
                left = s->chunk_tokens;
            *p = (struct piece){x, l, kv, out->cut[kv], left};
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

void kvw_send_put_done(struct kvw_session *s, const struct kvw_transport_event *ev)
{
    struct kvw_stage *g;
    struct piece p;
    struct kvw_xfer *x;

    if (ev->cookie >= s->hello.slots)
        return; /* not one of ours: an earlier session's on this transport */
    g = &s->stages[ev->cookie];
    if (g->state != KVW_STAGE_FLIGHT || g->conn.value != ev->conn.value)
        return;
    x = &s->xfers[g->xfer_at];
    if (ev->err == KVW_OK) {
        kvw_rate_done(&s->rate, &g->mark, s->now_ns);
        s->chooser.codecs[g->codec].predicted_ns += g->predicted_ns;
        s->chooser.codecs[g->codec].actual_ns += s->now_ns - g->chosen_ns;
    }
    if (ev->err == KVW_OK && x->state == KVW_XFER_OPEN && x->serial == g->serial) {
        --x->layers[g->layer].in_flight;
        kvw_stream_layer_sent(s, x, g->layer);
    }
    stage_free(s, g); /* on an error CONN_DOWN follows, and ends what this was part of */
    if (ev->err == KVW_OK)
        kvw_choose_delivered(&s->chooser, g->codec, g->raw_bytes,
                             s->stage_free_count == s->hello.slots && !next_piece(s, &p),
                             s->now_ns);
}

/* What the choice goes by, for this chunk. */
static struct kvw_choose_ask situation(const struct kvw_session *s, const struct piece *p)
{
    const struct kvw_xfer *x = p->x;
    const uint64_t all = 2ull * s->pool.layers * x->tokens * s->token_bytes;
    const double took = (double)(s->now_ns - x->opened_ns);
    struct kvw_choose_ask ask = {
        .layer = p->layer,
        .kv = p->kv,
        .raw_bytes = p->tokens * s->token_bytes,
        .left = all - x->cut_bytes,
        .due_ns = took * (double)(all - x->pushed_bytes) / (double)x->pushed_bytes,
        .queued_wire = s->rate.in_flight,
        .encoders = s->encoder_count,
        .budget = x->budget,
        .now_ns = s->now_ns,
    };

    for (uint32_t i = 0; i < s->line_count; ++i) {
        const struct kvw_stage *g = &s->stages[s->line[(s->line_head + i) % s->hello.slots]];

        if (kvw_job_done(&g->job))
            ask.queued_wire += g->job.stream_bytes;
        else
            ask.queued_raw += g->raw_bytes;
    }
    return ask;
}

/* The codec for a chunk, and when it should be across. */
static uint32_t choose(struct kvw_session *s, const struct piece *p, uint64_t *predicted_ns)
{
    const struct kvw_choose_ask ask = situation(s, p);
    const uint32_t fixed = s->fixed_codec;
    uint32_t pick;

    if (fixed == s->codec_count)
        pick = kvw_choose(&s->chooser, &s->rate, s->allowed, &ask);
    else if ((s->allowed >> fixed & 1) != 0 && s->codecs[fixed]->budget <= p->x->budget)
        pick = fixed;
    else
        pick = s->chooser.raw;
    /* Encoders that are this far behind hold the wire up; raw costs them next to nothing. */
    if (s->encoders != NULL && ask.queued_wire == 0 && fixed == s->codec_count &&
        pick != s->chooser.raw && s->line_count >= s->encoder_count * KVW_ENCODE_AHEAD) {
        pick = s->chooser.raw;
        ++s->stats.encoder_stalls;
    }
    *predicted_ns = (uint64_t)kvw_choose_predict_ns(&s->chooser, &s->rate, pick, &ask);
    return pick;
}

/* How many of the view's tokens are among the transfer's first or last exact ones. */
static struct kvw_codec_args args_of(const struct piece *p)
{
    const uint32_t end = p->first + p->tokens;
    const uint32_t tail =
        p->x->exact_last < p->x->tokens ? p->x->tokens - p->x->exact_last : 0; /* first exact one */
    struct kvw_codec_args args = {.kv = (uint8_t)p->kv};

    if (p->first < p->x->exact_first)
        args.exact_first =
            p->x->exact_first - p->first < p->tokens ? p->x->exact_first - p->first : p->tokens;
    if (end > tail)
        args.exact_last = end - tail < p->tokens ? end - tail : p->tokens;
    return args;
}

/* Give a piece a staging slot and an encoder. Its place in the line is its place on the wire. */
static void cut(struct kvw_session *s, const struct piece *p)
{
    struct kvw_stage *g = &s->stages[s->stage_free[--s->stage_free_count]];
    uint64_t predicted_ns;
    const uint32_t codec = choose(s, p, &predicted_ns);

    *g = (struct kvw_stage){
        .state = KVW_STAGE_QUEUED,
        .xfer_at = (uint32_t)(p->x - s->xfers),
        .serial = p->x->serial,
        .layer = p->layer,
        .kv = p->kv,
        .first = p->first,
        .tokens = p->tokens,
        .raw_bytes = p->tokens * s->token_bytes,
        .codec = codec,
        .chosen_ns = s->now_ns,
        .predicted_ns = predicted_ns,
        .job = {.codec = s->codecs[codec],
                .args = args_of(p),
                .view = kvw_pool_view(&s->pool, p->x->blocks, p->layer, p->kv, p->first, p->tokens),
                .to = stage_mem(s, g) + KVW_CHUNK_HDR_BYTES,
                .to_bytes = s->hello.slot_bytes - KVW_CHUNK_HDR_BYTES,
                .digest = s->digest},
    };
    s->line[(s->line_head + s->line_count++) % s->hello.slots] = (uint16_t)(g - s->stages);
    p->x->layers[p->layer].cut[p->kv] += p->tokens;
    ++p->x->layers[p->layer].in_flight;
    ++p->x->queued;
    p->x->cut_bytes += g->raw_bytes;
    /* The queue is as long as the line, so it can't be full. */
    if (s->encoders == NULL || kvw_encoders_submit(s->encoders, &g->job) != KVW_OK)
        kvw_job_run(&g->job, s->scratch, &s->clock);
}

static void write_header(const struct kvw_session *s, const struct kvw_xfer *x, struct kvw_stage *g)
{
    const struct kvw_chunk_hdr h = {
        .xfer = x->id,
        .epoch = x->epoch,
        .seq = (uint32_t)s->next_seq,
        .layer = g->layer,
        .kv = g->kv,
        .head_count = s->pool.kv_heads,
        .token_first = g->first,
        .token_count = g->tokens,
        .raw_bytes = g->raw_bytes,
        .codec = g->job.codec->id,
        .digest = (uint8_t)g->job.digest,
        .stream_bytes = (uint32_t)g->job.stream_bytes,
        .digest_value = g->job.digest_value,
    };

    kvw_chunk_hdr_encode(stage_mem(s, g), &h);
    g->bytes = KVW_CHUNK_HDR_BYTES + h.stream_bytes;
}

/* The transport has it: count it. */
static void account(struct kvw_session *s, struct kvw_xfer *x, struct kvw_stage *g)
{
    struct kvw_transport_stats stats;

    s->transport->ops->stats(s->transport, &stats);
    s->rate.rtt_ns = stats.srtt_ns;
    g->state = KVW_STAGE_FLIGHT;
    g->conn = s->ready->id;
    kvw_rate_sent(&s->rate, &g->mark, g->bytes, s->now_ns);
    kvw_choose_encoded(&s->chooser, g->codec, g->layer, g->kv, g->raw_bytes,
                       (uint32_t)g->job.stream_bytes, g->job.ns);
    --x->queued;
    ++x->chunks;
    ++x->codec_chunks[g->job.codec->id];
    x->raw_bytes += g->raw_bytes;
    x->wire_bytes += g->bytes;
    ++s->next_seq;
    ++s->stats.chunks_sent;
    s->stats.raw_bytes += g->raw_bytes;
    s->stats.wire_bytes += g->bytes;
    s->sent = true;
}

/* The transport takes the first of the line; false: not now. */
static bool put(struct kvw_session *s, struct kvw_xfer *x, struct kvw_stage *g)
{
    const struct kvw_hello *peer = &s->ready->hello;
    struct kvw_put p = {
        .key = peer->region,
        .offset = s->next_seq % peer->slots * peer->slot_bytes,
        .iov_count = 1,
        .imm = (uint32_t)s->next_seq,
        .cookie = (uint64_t)(g - s->stages),
    };
    kvw_err err;

    write_header(s, x, g);
    p.iov[0] = (struct kvw_iov){stage_mem(s, g), g->bytes};
    err = s->transport->ops->put(s->transport, s->ready->id, &p);
    if (err == KVW_OK) {
        line_pop(s);
        account(s, x, g);
        return true;
    }
    if (err != KVW_E_AGAIN && err != KVW_E_NOTFOUND) /* gone: CONN_DOWN is on its way */
        kvw_handshake_breach(s, "the transport refused a put to the peer's landing slots");
    return false;
}

/* Put what is encoded, in order; false: the transport is full. */
static bool put_line(struct kvw_session *s)
{
    struct kvw_stage *g;

    while ((g = line_first(s)) != NULL) {
        struct kvw_xfer *x = &s->xfers[g->xfer_at];

        if (x->state != KVW_XFER_OPEN || x->serial != g->serial) {
            line_pop(s); /* ended while it waited; its number goes to the next chunk */
            stage_free(s, g);
            continue;
        }
        if (!kvw_job_done(&g->job))
            return true;
        if (g->job.err != KVW_OK) {
            kvw_xfer_finishf(s, x, g->job.err, "layer %u %c tokens %u to %u: codec %s: %s",
                             g->layer, g->kv == 0 ? 'K' : 'V', g->first, g->first + g->tokens - 1,
                             g->job.codec->name, kvw_strerror(g->job.err));
            continue; /* and now it has ended */
        }
        if (!put(s, x, g))
            return false;
    }
    return true;
}

/* A chunk's turn has come and nothing stands in its way. */
static bool can_cut(struct kvw_session *s)
{
    /* What would be cut now is chosen blindly if nothing is known of the wire. */
    if (s->fixed_codec == s->codec_count && s->rate.bytes_per_ns <= 0 &&
        s->hello.slots - s->stage_free_count >= KVW_BLIND_CHUNKS)
        return false;
    if (s->next_seq + s->line_count < s->limit && s->stage_free_count > 0) {
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

    if (s->ready == NULL || !put_line(s))
        return false;
    for (uint32_t n = 0; n < KVW_CHUNKS_A_POLL; ++n) {
        if (!next_piece(s, &p) || !can_cut(s))
            return false;
        cut(s, &p);
        if (!put_line(s))
            return false;
        s->turn = ((uint32_t)(p.x - s->xfers) + 1) % s->xfers_max;
    }
    return next_piece(s, &p) && can_cut(s);
}
