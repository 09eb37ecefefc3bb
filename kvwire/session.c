/* SPDX-License-Identifier: Apache-2.0 */
/* session.c - open, close, and the order of work in a poll. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "digest.h"
#include "session.h"

/* --- open and close --------------------------------------------------------------------------- */

static bool check_codecs(const struct kvw_session_config *cfg, struct kvw_session *s)
{
    /* Where nothing leaves the host there is no choice (transport.h), nor what making it takes. */
    const uint8_t name = cfg->codec == 0 && cfg->transport->one_host ? KVW_CODEC_RAW : cfg->codec;
    bool raw = false;

    if (cfg->codecs == NULL)
        return false;
    s->fixed_codec = KVW_CODECS_MAX;
    for (uint32_t i = 0; cfg->codecs[i] != NULL; ++i) {
        const struct kvw_codec_ops *c = cfg->codecs[i];

        if (i == KVW_CODECS_MAX || c->id == 0 || c->id > 63 || (s->hello.codecs >> c->id & 1) != 0)
            return false;
        if ((c->mem_kinds & (1u << cfg->pool.mem.kind)) == 0)
            continue; /* can't read this pool: the peer doesn't hear of it */
        if (c->id == name)
            s->fixed_codec = s->codec_count;
        s->codecs[s->codec_count++] = c;
        s->hello.codecs |= 1ull << c->id;
        raw = raw || c->id == KVW_CODEC_RAW;
    }
    if (name == 0)
        s->fixed_codec = s->codec_count;
    return raw;
}

static uint64_t most(const struct kvw_session *s, bool scratch, uint64_t raw_bytes)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < s->codec_count; ++i) {
        const uint64_t b =
            scratch ? s->codecs[i]->scratch_bytes(raw_bytes) : s->codecs[i]->bound(raw_bytes);

        bytes = b > bytes ? b : bytes;
    }
    return bytes;
}

static uint32_t tokens_max(const struct kvw_pool *pool)
{
    uint64_t blocks = pool->blocks < KVW_XFER_BLOCKS_MAX ? pool->blocks : KVW_XFER_BLOCKS_MAX;

    blocks *= pool->block_tokens;
    return blocks < KVW_XFER_TOKENS_MAX ? (uint32_t)blocks : KVW_XFER_TOKENS_MAX;
}

/* Printable ASCII only: it ends up in the peer's sentences. */
static void copy_name(char to[KVW_MODEL_NAME_MAX + 1], const char *from)
{
    uint32_t n = 0;

    for (; from != NULL && n < KVW_MODEL_NAME_MAX && from[n] != '\0'; ++n)
        to[n] = from[n] >= 0x20 && from[n] < 0x7f ? from[n] : '?';
    to[n] = '\0';
}

/* Everything that can be wrong with *cfg; fills what the session keeps of it. */
static kvw_err take_config(struct kvw_session *s, const struct kvw_session_config *cfg,
                           const char **field)
{
    uint64_t raw;

    *field = "size";
    if (cfg->size != sizeof(*cfg))
        return KVW_E_INVALID;
    *field = "role";
    if (cfg->role != KVW_ROLE_SENDER && cfg->role != KVW_ROLE_RECEIVER)
        return KVW_E_INVALID;
    *field = "transport";
    if (cfg->transport == NULL)
        return KVW_E_INVALID;
    *field = "peer";
    if (cfg->peer != NULL && strlen(cfg->peer) > KVW_PEER_ADDR_MAX)
        return KVW_E_INVALID;
    if (kvw_pool_check(&cfg->pool, field) != KVW_OK)
        return KVW_E_INVALID;
    *field = "codecs";
    if (!check_codecs(cfg, s))
        return KVW_E_INVALID;
    *field = "codec"; /* none of codecs */
    if (s->fixed_codec > s->codec_count)
        return KVW_E_INVALID;
    *field = "encoders";
    if (cfg->encoders > KVW_ENCODERS_MAX)
        return KVW_E_INVALID;
    s->encoder_count = cfg->encoders;
    s->clock = cfg->clock;
    *field = "chunk_raw_bytes";
    s->chunk_raw_bytes = cfg->chunk_raw_bytes != 0 ? cfg->chunk_raw_bytes : KVW_CHUNK_RAW_AIM;
    if (s->chunk_raw_bytes < KVW_CHUNK_RAW_MIN || s->chunk_raw_bytes > KVW_CHUNK_RAW_MAX)
        return KVW_E_INVALID;
    *field = "slots";
    s->hello.slots = cfg->slots != 0 ? cfg->slots : KVW_SLOTS_DEFAULT;
    if (s->hello.slots > KVW_SLOTS_MAX)
        return KVW_E_INVALID;
    *field = "xfers_max";
    s->xfers_max = cfg->xfers_max != 0 ? cfg->xfers_max : KVW_XFERS_DEFAULT;
    if (s->xfers_max > KVW_XFERS_MAX)
        return KVW_E_INVALID;
    *field = "xfer_tokens_max";
    s->xfer_tokens_max = cfg->xfer_tokens_max != 0 ? cfg->xfer_tokens_max : tokens_max(&cfg->pool);
    if (s->xfer_tokens_max > tokens_max(&cfg->pool))
        return KVW_E_INVALID;

    s->role = s->hello.role = cfg->role;
    s->transport = cfg->transport;
    s->has_peer_addr = cfg->peer != NULL;
    snprintf(s->peer_addr, sizeof(s->peer_addr), "%s", cfg->peer != NULL ? cfg->peer : "");
    s->pool = cfg->pool;
    s->hello.shape = kvw_pool_shape(&cfg->pool);
    s->hello.digests = KVW_DIGESTS;
    s->hello.xfers_max = s->xfers_max;
    memcpy(s->hello.fingerprint, cfg->fingerprint, sizeof(s->hello.fingerprint));
    copy_name(s->hello.name, cfg->model_name);
    s->token_bytes = kvw_shape_token_bytes(&s->hello.shape);
    raw = s->chunk_raw_bytes > s->token_bytes ? s->chunk_raw_bytes : s->token_bytes;
    s->hello.slot_bytes = (uint32_t)((KVW_CHUNK_HDR_BYTES + most(s, false, raw) + 63) / 64 * 64);
    *field = "codecs"; /* one whose bound is beyond what codec.h allows */
    return s->hello.slot_bytes <= KVW_PUT_BYTES_MAX ? KVW_OK : KVW_E_INVALID;
}

/* Hang the tables into *s: all NULL while the arena only counts (arena.h). */
static void lay_out(struct kvw_arena *a, struct kvw_session *s)
{
    const uint32_t blocks_max =
        (s->xfer_tokens_max + s->pool.block_tokens - 1) / s->pool.block_tokens;
    const uint32_t others = KVW_EVENTS_OTHER_MAX(s->pool.layers);
    const uint32_t n = s->xfers_max, slots = s->hello.slots, layers = s->pool.layers;
    const bool receiver = s->role == KVW_ROLE_RECEIVER;

    s->events.capacity = n + others;
    s->events.other_max = others;
    s->events.recs = kvw_arena_take(a, n + others, sizeof(s->events.recs[0]), 64);
    s->msg = kvw_arena_take(a, 1, KVW_MSG_SHORT_MAX, 64);
    s->xfers = kvw_arena_take(a, n, sizeof(s->xfers[0]), 64);
    for (uint32_t i = 0; i < n; ++i) {
        struct kvw_xfer x = {.state = KVW_XFER_FREE};

        x.blocks = kvw_arena_take(a, blocks_max, sizeof(x.blocks[0]), 64);
        x.note = kvw_arena_take(a, 1, KVW_COMMIT_NOTE_MAX, 1);
        if (receiver)
            x.cover = kvw_arena_take(a, 2 * (size_t)layers, sizeof(x.cover[0]), 8);
        else
            x.layers = kvw_arena_take(a, layers, sizeof(x.layers[0]), 8);
        if (s->xfers != NULL)
            s->xfers[i] = x;
    }
    if (receiver) {
        s->window.state = kvw_arena_take(a, slots, 1, 1);
        s->window.queue = kvw_arena_take(a, slots, sizeof(s->window.queue[0]), 8);
        s->window.bytes = kvw_arena_take(a, slots, sizeof(s->window.bytes[0]), 8);
        s->span_pool.spans = kvw_arena_take(a, slots, sizeof(s->span_pool.spans[0]), 8);
    } else {
        s->stages = kvw_arena_take(a, slots, sizeof(s->stages[0]), 64);
        s->stage_free = kvw_arena_take(a, slots, sizeof(s->stage_free[0]), 8);
        s->line = kvw_arena_take(a, slots, sizeof(s->line[0]), 8);
        s->offers = kvw_arena_take(a, n, sizeof(s->offers[0]), 8);
    }
    s->chooser.ratios = kvw_arena_take(a, kvw_chooser_ratios(s->codec_count, layers),
                                       sizeof(s->chooser.ratios[0]), 8);
    s->scratch = kvw_arena_take(a, 1, most(s, true, s->hello.slot_bytes), 64);
    s->slots_mem = kvw_arena_take(a, slots, s->hello.slot_bytes, KVW_ARENA_ALIGN);
}

/* Tables that don't begin at zero; the rest of the arena needs no beginning. */
static void start_tables(struct kvw_session *s)
{
    const uint32_t slots = s->hello.slots;

    kvw_chooser_init(&s->chooser, s->codecs, s->codec_count, s->pool.layers, s->chooser.ratios);
    if (s->role == KVW_ROLE_RECEIVER) {
        s->window.slots = slots;
        s->window.slot_bytes = s->hello.slot_bytes;
        kvw_window_reset(&s->window);
        kvw_span_pool_init(&s->span_pool, s->span_pool.spans, (uint16_t)slots);
        s->next_epoch = (uint32_t)(s->now_ns >> 10) | 1;
        s->dial_at_ns = UINT64_MAX;
        return;
    }
    memset(s->stages, 0, slots * sizeof(s->stages[0]));
    memset(s->offers, 0, s->xfers_max * sizeof(s->offers[0]));
    for (uint32_t i = 0; i < slots; ++i)
        s->stage_free[i] = (uint16_t)(slots - 1 - i);
    s->stage_free_count = slots;
}

/* The slots: landing (receiver) or staging (sender). */
static struct kvw_mem slots_region(const struct kvw_session *s)
{
    return (struct kvw_mem){.base = s->slots_mem,
                            .bytes = (uint64_t)s->hello.slots * s->hello.slot_bytes,
                            .kind = KVW_MEM_HOST,
                            .dmabuf_fd = -1};
}

/* Sender: the transport is told once where puts will come from; one that can't use it copies. */
static kvw_err begin_sender(struct kvw_session *s)
{
    const struct kvw_transport_ops *ops = s->transport->ops;
    const struct kvw_mem staging = slots_region(s);
    kvw_err err;

    s->source_added = ops->source_add != NULL && ops->source_add(s->transport, &staging) == KVW_OK;
    err = kvw_handshake_dial(s);
    if (err != KVW_OK && s->source_added)
        ops->source_remove(s->transport, &staging);
    return err;
}

/* Receiver: the landing slots are registered, and peers may come. Sender: the first dial. */
static kvw_err begin(struct kvw_session *s)
{
    const struct kvw_transport_ops *ops = s->transport->ops;
    const struct kvw_mem landing = slots_region(s);
    kvw_err err;

    if (s->role == KVW_ROLE_SENDER)
        return begin_sender(s);
    if ((err = ops->region_add(s->transport, &landing, kvw_land_gate, s, &s->hello.region)) !=
        KVW_OK)
        return err;
    if ((err = ops->listen(s->transport)) != KVW_OK)
        goto remove_region;
    return KVW_OK;

remove_region:
    if (ops->region_remove(s->transport, &s->hello.region) != KVW_OK)
        assert(!"a region that was added can be removed");
    return err;
}

kvw_err kvw_session_open(struct kvw_session **out, const struct kvw_session_config *cfg,
                         uint64_t now_ns, const char **field)
{
    struct kvw_session fixed = {.now_ns = now_ns};
    struct kvw_arena arena = {.base = NULL};
    struct kvw_session *s;
    const char *name;
    kvw_err err = take_config(&fixed, cfg, &name);

    if (err != KVW_OK) {
        if (field != NULL)
            *field = name;
        return err;
    }
    (void)kvw_arena_take(&arena, 1, sizeof(*s), 64);
    lay_out(&arena, &fixed);
    arena.bytes = (arena.used + KVW_ARENA_ALIGN - 1) / KVW_ARENA_ALIGN * KVW_ARENA_ALIGN;
    arena.used = 0;
    if ((arena.base = aligned_alloc(KVW_ARENA_ALIGN, arena.bytes)) == NULL)
        return KVW_E_NOMEM;
    s = kvw_arena_take(&arena, 1, sizeof(*s), 64);
    *s = fixed;
    lay_out(&arena, s);
    s->arena_base = arena.base;
    start_tables(s);
    if (cfg->encoders > 0 && s->role == KVW_ROLE_SENDER &&
        (err = kvw_encoders_open(&s->encoders, cfg->encoders, s->hello.slots,
                                 most(s, true, s->hello.slot_bytes), &s->clock, cfg->wake,
                                 cfg->wake_arg)) != KVW_OK)
        goto free_arena;
    if ((err = begin(s)) != KVW_OK)
        goto close_encoders;
    *out = s;
    return KVW_OK;

close_encoders:
    kvw_encoders_close(s->encoders);
free_arena:
    free(arena.base);
    return err;
}

void kvw_session_close(struct kvw_session *s, uint64_t now_ns)
{
    if (s == NULL)
        return;
    s->now_ns = now_ns;
    /* After disconnect() the transport reads nothing that our puts lent it, and after
     * region_remove() it writes nothing of ours. */
    kvw_handshake_close(s);
    if (s->role == KVW_ROLE_RECEIVER &&
        s->transport->ops->region_remove(s->transport, &s->hello.region) != KVW_OK)
        assert(!"a region that was added can be removed");
    if (s->source_added) {
        const struct kvw_mem staging = slots_region(s);

        s->transport->ops->source_remove(s->transport, &staging);
    }
    kvw_encoders_close(s->encoders);
    free(s->arena_base);
}

/* --- messages to and from the peer ------------------------------------------------------------ */

kvw_err kvw_session_send(struct kvw_session *s, uint32_t bytes)
{
    const kvw_err err = s->transport->ops->send(s->transport, s->ready->id, s->msg, bytes);

    if (err == KVW_OK)
        s->sent = true;
    return err;
}

void kvw_session_stray(struct kvw_session *s, uint64_t id, uint32_t epoch, kvw_err err)
{
    for (uint32_t i = 0; i < s->stray_count; ++i)
        if (s->strays[i].id == id && s->strays[i].epoch == epoch)
            return;
    if (s->stray_count < KVW_STRAYS)
        s->strays[s->stray_count++] = (struct kvw_stray){id, epoch, err};
}

static void take_abort(struct kvw_session *s, const struct kvw_abort_msg *m)
{
    struct kvw_xfer *x = kvw_xfer_find(s, m->x.xfer);
    struct kvw_offer_in *o;

    /* Epoch 0 is from a sender that had seen no offer when it gave up: whichever is open ends. Our
     * OFFER may have crossed it, so the answer names the epoch that is over. */
    const bool any = m->x.epoch == 0 && s->role == KVW_ROLE_RECEIVER;

    if (x != NULL && (x->epoch == m->x.epoch || any)) {
        kvw_xfer_finish(s, x, kvw_xfer_abort_err(m->err), any ? KVW_REPLY_ABORT : KVW_REPLY_NONE,
                        m->text[0] != '\0' ? m->text : "aborted by the peer");
        return;
    }
    if (s->role == KVW_ROLE_SENDER && (o = kvw_stream_offer_find(s, m->x.xfer)) != NULL &&
        o->epoch == m->x.epoch)
        o->used = false;
}

/* Messages that only a receiver gets; false: not one of them, or malformed. */
static bool receiver_message(struct kvw_session *s, const uint8_t *msg, uint32_t bytes)
{
    struct kvw_commit_msg commit;
    struct kvw_xfer_msg renew;

    switch (kvw_msg_type(msg)) {
    case KVW_MSG_RENEW:
        if (kvw_renew_decode(&renew, msg, bytes) != KVW_OK)
            return false;
        kvw_offer_renew(s, &renew);
        return true;
    case KVW_MSG_COMMIT:
        if (kvw_commit_decode(&commit, msg, bytes) != KVW_OK)
            return false;
        kvw_offer_commit(s, &commit);
        return true;
    default:
        return false;
    }
}

static bool sender_message(struct kvw_session *s, const uint8_t *msg, uint32_t bytes)
{
    struct kvw_offer_msg offer;
    struct kvw_done_msg done;
    struct kvw_grant grant;

    switch (kvw_msg_type(msg)) {
    case KVW_MSG_OFFER:
        if (kvw_offer_decode(&offer, msg, bytes) != KVW_OK)
            return false;
        kvw_stream_offer(s, &offer);
        return true;
    case KVW_MSG_GRANT:
        if (kvw_grant_decode(&grant, msg, bytes) != KVW_OK)
            return false;
        kvw_send_grant(s, &grant);
        return true;
    case KVW_MSG_DONE:
        if (kvw_done_decode(&done, msg, bytes) != KVW_OK)
            return false;
        kvw_stream_done(s, &done);
        return true;
    default:
        return false;
    }
}

static void take_message(struct kvw_session *s, const struct kvw_transport_event *ev)
{
    struct kvw_conn *c = kvw_handshake_find(s, ev->conn);
    struct kvw_abort_msg abort_msg;
    char text[64];
    bool fine;

    if (c == NULL)
        return; /* hung up on already */
    if (ev->bytes == 0 || c != s->ready || kvw_msg_type(ev->msg) == KVW_MSG_HELLO ||
        kvw_msg_type(ev->msg) == KVW_MSG_REJECT) {
        kvw_handshake_message(s, c, ev->msg, ev->bytes);
        return;
    }
    if (kvw_msg_type(ev->msg) == KVW_MSG_ABORT) {
        fine = kvw_abort_decode(&abort_msg, ev->msg, ev->bytes) == KVW_OK;
        if (fine)
            take_abort(s, &abort_msg);
    } else {
        fine = s->role == KVW_ROLE_RECEIVER ? receiver_message(s, ev->msg, ev->bytes)
                                            : sender_message(s, ev->msg, ev->bytes);
    }
    if (!fine) {
        snprintf(text, sizeof(text), "a malformed or misplaced message of type %u, %u bytes",
                 kvw_msg_type(ev->msg), ev->bytes);
        kvw_handshake_breach(s, text);
    }
}

static void take_event(struct kvw_session *s, const struct kvw_transport_event *ev)
{
    switch (ev->kind) {
    case KVW_TEV_CONN_UP:
        kvw_handshake_conn_up(s, ev);
        break;
    case KVW_TEV_CONN_DOWN:
        kvw_handshake_conn_down(s, ev);
        break;
    case KVW_TEV_MESSAGE:
        take_message(s, ev);
        break;
    case KVW_TEV_PUT_DONE:
        if (s->role == KVW_ROLE_SENDER)
            kvw_send_put_done(s, ev);
        break;
    case KVW_TEV_PUT_LANDED:
        if (s->role == KVW_ROLE_RECEIVER && s->ready != NULL &&
            s->ready->id.value == ev->conn.value)
            kvw_land_event(s, ev);
        break;
    }
}

/* --- poll ------------------------------------------------------------------------------------- */

static void refill(struct kvw_session *s)
{
    s->batch_at = 0;
    s->batch_count = s->transport->ops->poll(s->transport, s->now_ns, s->batch, KVW_BATCH);
    s->sent = false;
}

/* Take what the transport has; true: it may have more. */
static bool take_input(struct kvw_session *s)
{
    for (uint32_t n = 0; n < KVW_BATCHES_A_POLL; ++n) {
        bool full;

        if (s->batch_at == s->batch_count)
            refill(s);
        full = s->batch_count == KVW_BATCH;
        while (s->batch_at < s->batch_count) {
            if (!kvw_events_room(&s->events, KVW_EVENTS_STEP(s->pool.layers))) {
                s->held_up = true;
                return false;
            }
            take_event(s, &s->batch[s->batch_at++]);
        }
        if (!full)
            return false;
    }
    return true;
}

/* What is owed to the peer, in an order in which nothing overtakes the end of an earlier use of the
 * same id. */
static void flush(struct kvw_session *s)
{
    kvw_handshake_flush(s);
    if (s->ready == NULL)
        return;
    if (s->role == KVW_ROLE_RECEIVER)
        kvw_offer_lend(s);
    if (!kvw_xfer_flush_replies(s))
        return;
    if (s->role == KVW_ROLE_RECEIVER)
        kvw_offer_flush(s);
    else if (kvw_stream_flush_declined(s))
        kvw_stream_flush(s);
}

bool kvw_session_poll(struct kvw_session *s, uint64_t now_ns)
{
    bool more;

    kvw_session_assert_consistent(s);
    s->gap_ns = s->polled_ns != 0 ? now_ns - s->polled_ns : 0; /* 0: the first */
    s->polled_ns = s->now_ns = now_ns;
    s->held_up = false;
    more = take_input(s);
    kvw_handshake_timers(s);
    if (s->role == KVW_ROLE_RECEIVER) {
        more = kvw_land_poll(s) || more;
        kvw_offer_timers(s);
    } else {
        kvw_stream_marks(s);
        more = kvw_send_poll(s) || more;
        kvw_stream_timers(s);
    }
    flush(s);
    /* Let the transport transmit; what it reports meanwhile waits for the next poll. */
    if (s->sent && s->batch_at == s->batch_count)
        refill(s);
    kvw_session_assert_consistent(s);
    return (more || s->batch_at < s->batch_count) && !s->held_up;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t xfer_deadline_ns(const struct kvw_session *s, const struct kvw_xfer *x)
{
    uint64_t at = earlier(x->deadline_ns, x->lease_until_ns);

    if (s->role == KVW_ROLE_RECEIVER)
        return at;
    at = x->deadline_ns;
    if (x->epoch == 0)
        at = earlier(at, x->offer_by_ns);
    else if (s->ready != NULL)
        at = earlier(at, x->renew_at_ns);
    if (x->marks_pending > 0)
        at = earlier(at, s->now_ns + KVW_READY_POLL_NS);
    return at;
}

uint64_t kvw_session_deadline_ns(const struct kvw_session *s)
{
    uint64_t at =
        earlier(s->transport->ops->deadline_ns(s->transport), kvw_handshake_deadline_ns(s));

    if (s->held_up || s->batch_at < s->batch_count)
        return 0;
    for (uint32_t i = 0; i < s->xfers_max; ++i) {
        if (s->xfers[i].state == KVW_XFER_OPEN)
            at = earlier(at, xfer_deadline_ns(s, &s->xfers[i]));
        if (s->role == KVW_ROLE_SENDER && s->offers[i].used)
            at = earlier(at, s->offers[i].until_ns);
    }
    return at;
}

/* --- what else a caller may do ---------------------------------------------------------------- */

bool kvw_session_next_event(struct kvw_session *s, struct kvw_event *ev)
{
    const struct kvw_event_rec *rec = kvw_events_pop(&s->events);
    struct kvw_xfer *x;

    if (rec == NULL)
        return false;
    *ev = (struct kvw_event){.kind = rec->kind,
                             .err = rec->err,
                             .xfer = {rec->xfer},
                             .layer = rec->layer,
                             .at_ns = rec->at_ns,
                             .text = s->text_out};
    if (rec->kind != KVW_EV_XFER_DONE) {
        memcpy(s->text_out, rec->text, sizeof(s->text_out));
        return true;
    }
    x = &s->xfers[rec->xfer_at];
    memcpy(s->text_out, x->text, sizeof(s->text_out));
    if (s->role == KVW_ROLE_RECEIVER && x->committed) {
        memcpy(s->note_out, x->note, x->note_bytes);
        ev->note = s->note_out;
        ev->note_bytes = x->note_bytes;
    }
    ev->raw_bytes = x->raw_bytes;
    ev->wire_bytes = x->wire_bytes;
    ev->chunks = x->chunks;
    memcpy(s->codec_chunks_out, x->codec_chunks, sizeof(s->codec_chunks_out));
    ev->codec_chunks = s->codec_chunks_out;
    x->event_due = false;
    kvw_xfer_release(x);
    return true;
}

kvw_err kvw_abort(struct kvw_session *s, kvw_xfer_id id, const char *reason)
{
    struct kvw_xfer *x = kvw_xfer_find(s, id.value);
    struct kvw_offer_in *o;

    if (x != NULL) {
        kvw_xfer_finish(s, x, KVW_E_CANCELED, KVW_REPLY_ABORT, reason != NULL ? reason : "");
        return KVW_OK;
    }
    if (s->role != KVW_ROLE_SENDER || (o = kvw_stream_offer_find(s, id.value)) == NULL)
        return KVW_E_NOTFOUND;
    o->declined = true;
    snprintf(o->text, sizeof(o->text), "%s", reason != NULL ? reason : "");
    return KVW_OK;
}

bool kvw_session_peer_up(const struct kvw_session *s)
{
    return s->ready != NULL;
}

void kvw_session_stats(const struct kvw_session *s, struct kvw_session_stats *stats)
{
    *stats = s->stats;
    stats->wire_bytes_per_s = (uint64_t)(s->rate.bytes_per_ns * 1e9);
}

kvw_err kvw_session_codec_stats(const struct kvw_session *s, uint8_t codec_id,
                                struct kvw_codec_stats *stats)
{
    const uint32_t i = kvw_choose_find(&s->chooser, codec_id);
    const struct kvw_choice *c = &s->chooser.codecs[i];

    if (i == s->codec_count)
        return KVW_E_NOTFOUND;
    *stats = (struct kvw_codec_stats){
        .name = c->ops->name,
        .chunks = c->chunks,
        .raw_bytes = c->raw_bytes,
        .stream_bytes = c->stream_bytes,
        .encode_ps = (uint32_t)c->encode_ps,
        .decode_ps = (uint32_t)c->decode_ps,
        .predicted_ns = c->predicted_ns,
        .actual_ns = c->actual_ns,
    };
    return KVW_OK;
}

void kvw_session_assert_consistent(const struct kvw_session *s)
{
#ifndef NDEBUG
    uint32_t due = 0, spans = 0, in_use = 0;

    for (uint32_t i = 0; i < s->xfers_max; ++i) {
        const struct kvw_xfer *x = &s->xfers[i];

        due += x->state == KVW_XFER_ENDED && x->event_due;
        assert(x->state != KVW_XFER_ENDED || x->event_due || x->reply != KVW_REPLY_NONE);
        if (x->state == KVW_XFER_OPEN && s->role == KVW_ROLE_RECEIVER)
            for (uint32_t k = 0; k < 2 * s->pool.layers; ++k)
                for (uint16_t j = x->cover[k].spans; j != KVW_SPAN_NONE;
                     j = s->span_pool.spans[j].next)
                    ++spans;
    }
    assert(s->events.count - s->events.others == due);
    if (s->role == KVW_ROLE_RECEIVER) {
        assert(spans + s->span_pool.free_count == s->span_pool.count);
        assert(s->window.told <= kvw_window_limit(&s->window));
        for (uint32_t i = 0; i < s->hello.slots; ++i)
            in_use += s->window.state[i] == KVW_SLOT_LANDED;
        assert(in_use == s->window.queue_count);
    } else {
        for (uint32_t i = 0; i < s->hello.slots; ++i)
            in_use += s->stages[i].state != KVW_STAGE_FREE;
        assert(in_use + s->stage_free_count == s->hello.slots);
        assert(s->ready != NULL || s->line_count == 0);
        assert(s->ready == NULL || s->next_seq + s->line_count <= s->limit);
    }
    assert(s->ready == NULL || s->ready->state == KVW_CONN_READY);
#else
    (void)s;
#endif
}
