/* SPDX-License-Identifier: Apache-2.0 */
/* SPEC.md 3.3 and 3.5: the messages about one transfer. All but OFFER and ALIVE begin alike. */
#include "xfers.h"

#include <assert.h>

#include "fields.h"

/* --- what most of them begin with: type, 3 Reserved, epoch, key ------------------------------ */

#define ABOUT_LEN 24u

static kvw_err about_decode(struct kvw_wire_about *out, uint8_t type, uint32_t fixed,
                            const uint8_t *msg, uint32_t bytes)
{
    const kvw_err err = kvw_field_front(msg, bytes, type, fixed);

    if (err != KVW_OK)
        return err;
    if (!kvw_field_zero(msg + 1, 3))
        return KVW_E_PROTOCOL;
    out->epoch = kvw_load_le32(msg + 4);
    memcpy(out->key.bytes, msg + 8, sizeof(out->key.bytes));
    return out->epoch != 0 || type == KVW_WIRE_REFUSE ? KVW_OK : KVW_E_PROTOCOL;
}

static void about_encode(uint8_t *to, uint8_t type, uint32_t fixed,
                         const struct kvw_wire_about *about)
{
    assert(about->epoch != 0 || type == KVW_WIRE_REFUSE);
    memset(to, 0, fixed);
    to[0] = type;
    kvw_store_le32(to + 4, about->epoch);
    memcpy(to + 8, about->key.bytes, sizeof(about->key.bytes));
}

/* --- OFFER ------------------------------------------------------------------------------------ */

static bool offer_in_range(const struct kvw_wire_offer *o)
{
    return o->about.epoch != 0 && o->lease_ns >= KVW_LEASE_NS_MIN &&
           o->lease_ns <= KVW_LEASE_NS_MAX && o->take_by_ns >= 1 &&
           o->take_by_ns <= KVW_WIRE_TAKE_BY_NS_MAX && o->tokens >= 1 &&
           o->tokens <= KVW_XFER_TOKENS_MAX && o->budget <= KVW_BUDGET_E4 &&
           o->span_count <= KVW_WIRE_SPANS_MAX;
}

static bool span_in_range(const struct kvw_wire_span *s, uint32_t tokens)
{
    if (s->layers < 1 || s->layer_first > KVW_LAYERS_MAX ||
        s->layers > KVW_LAYERS_MAX - s->layer_first || s->token_first >= s->token_end ||
        s->token_end > tokens)
        return false;
    return s->rows >= 1 && s->row_first <= UINT32_MAX - s->rows;
}

struct kvw_wire_span kvw_wire_offer_span(const struct kvw_wire_offer *o, uint32_t i)
{
    const uint8_t *p = o->spans + (size_t)i * KVW_WIRE_SPAN_LEN;

    return (struct kvw_wire_span){
        .group = p[0],
        .part = p[1],
        .layer_first = kvw_load_le16(p + 2),
        .layers = kvw_load_le16(p + 4),
        .token_first = kvw_load_le32(p + 8),
        .token_end = kvw_load_le32(p + 12),
        .row_first = kvw_load_le32(p + 16),
        .rows = kvw_load_le32(p + 20),
    };
}

kvw_err kvw_wire_offer_decode(struct kvw_wire_offer *out, const uint8_t *msg, uint32_t bytes)
{
    kvw_err err = kvw_field_front(msg, bytes, KVW_WIRE_OFFER, KVW_WIRE_OFFER_LEN);
    struct kvw_wire_offer o;

    if (err != KVW_OK)
        return err;
    o = (struct kvw_wire_offer){
        .budget = msg[1],
        .pool = kvw_load_le16(msg + 2),
        .about.epoch = kvw_load_le32(msg + 4),
        .lease_ns = kvw_load_le64(msg + 24),
        .take_by_ns = kvw_load_le64(msg + 32),
        .tokens = kvw_load_le32(msg + 40),
        .exact_first = msg[44],
        .span_count = msg[45],
        .exact_last = kvw_load_le16(msg + 46),
        .stage = kvw_load_le32(msg + 52),
        .spans = msg + KVW_WIRE_OFFER_LEN,
    };
    memcpy(o.about.key.bytes, msg + 8, sizeof(o.about.key.bytes));
    if (!offer_in_range(&o) || msg[48] != (o.stage != 0) || !kvw_field_zero(msg + 49, 3))
        return KVW_E_PROTOCOL;
    err = kvw_field_exact(bytes, KVW_WIRE_OFFER_LEN + (uint64_t)o.span_count * KVW_WIRE_SPAN_LEN);
    if (err != KVW_OK)
        return err;
    for (uint32_t i = 0; i < o.span_count; ++i) {
        const uint8_t *p = o.spans + (size_t)i * KVW_WIRE_SPAN_LEN;
        const struct kvw_wire_span s = kvw_wire_offer_span(&o, i);

        if (!span_in_range(&s, o.tokens) || !kvw_field_zero(p + 6, 2) || !kvw_field_zero(p + 24, 8))
            return KVW_E_PROTOCOL;
    }
    *out = o;
    return KVW_OK;
}

static void span_encode(uint8_t *p, const struct kvw_wire_span *s)
{
    memset(p, 0, KVW_WIRE_SPAN_LEN);
    p[0] = s->group;
    p[1] = s->part;
    kvw_store_le16(p + 2, (uint16_t)s->layer_first);
    kvw_store_le16(p + 4, (uint16_t)s->layers);
    kvw_store_le32(p + 8, s->token_first);
    kvw_store_le32(p + 12, s->token_end);
    kvw_store_le32(p + 16, s->row_first);
    kvw_store_le32(p + 20, s->rows);
}

uint32_t kvw_wire_offer_encode(uint8_t *to, const struct kvw_wire_offer *in,
                               const struct kvw_wire_span *spans)
{
    assert(offer_in_range(in));
    memset(to, 0, KVW_WIRE_OFFER_LEN);
    to[0] = KVW_WIRE_OFFER;
    to[1] = in->budget;
    kvw_store_le16(to + 2, in->pool);
    kvw_store_le32(to + 4, in->about.epoch);
    memcpy(to + 8, in->about.key.bytes, sizeof(in->about.key.bytes));
    kvw_store_le64(to + 24, in->lease_ns);
    kvw_store_le64(to + 32, in->take_by_ns);
    kvw_store_le32(to + 40, in->tokens);
    to[44] = in->exact_first;
    to[45] = (uint8_t)in->span_count;
    kvw_store_le16(to + 46, in->exact_last);
    to[48] = in->stage != 0;
    kvw_store_le32(to + 52, in->stage);
    for (uint32_t i = 0; i < in->span_count; ++i) {
        assert(span_in_range(&spans[i], in->tokens));
        span_encode(to + KVW_WIRE_OFFER_LEN + (size_t)i * KVW_WIRE_SPAN_LEN, &spans[i]);
    }
    return KVW_WIRE_OFFER_LEN + in->span_count * KVW_WIRE_SPAN_LEN;
}

/* --- COMMIT, DONE ----------------------------------------------------------------------------- */

kvw_err kvw_wire_commit_decode(struct kvw_wire_commit *out, const uint8_t *msg, uint32_t bytes)
{
    struct kvw_wire_commit m;
    kvw_err err = about_decode(&m.about, KVW_WIRE_COMMIT, KVW_WIRE_COMMIT_LEN, msg, bytes);

    if (err != KVW_OK)
        return err;
    m.chunks = kvw_load_le32(msg + 24);
    m.note_bytes = kvw_load_le32(msg + 28);
    m.raw_bytes = kvw_load_le64(msg + 32);
    m.note = msg + KVW_WIRE_COMMIT_LEN;
    if (m.note_bytes > KVW_COMMIT_NOTE_MAX)
        return KVW_E_PROTOCOL;
    if ((err = kvw_field_exact(bytes, KVW_WIRE_COMMIT_LEN + m.note_bytes)) != KVW_OK)
        return err;
    *out = m;
    return KVW_OK;
}

uint32_t kvw_wire_commit_encode(uint8_t *to, const struct kvw_wire_commit *in)
{
    assert(in->note_bytes <= KVW_COMMIT_NOTE_MAX);
    about_encode(to, KVW_WIRE_COMMIT, KVW_WIRE_COMMIT_LEN, &in->about);
    kvw_store_le32(to + 24, in->chunks);
    kvw_store_le32(to + 28, in->note_bytes);
    kvw_store_le64(to + 32, in->raw_bytes);
    if (in->note_bytes > 0)
        memcpy(to + KVW_WIRE_COMMIT_LEN, in->note, in->note_bytes);
    return KVW_WIRE_COMMIT_LEN + in->note_bytes;
}

kvw_err kvw_wire_done_decode(struct kvw_wire_done *out, const uint8_t *msg, uint32_t bytes)
{
    struct kvw_wire_done m;
    kvw_err err = about_decode(&m.about, KVW_WIRE_DONE, KVW_WIRE_DONE_LEN, msg, bytes);

    if (err != KVW_OK)
        return err;
    m.chunks = kvw_load_le32(msg + 24);
    m.raw_bytes = kvw_load_le64(msg + 32);
    if (!kvw_field_zero(msg + 28, 4))
        return KVW_E_PROTOCOL;
    if ((err = kvw_field_exact(bytes, KVW_WIRE_DONE_LEN)) != KVW_OK)
        return err;
    *out = m;
    return KVW_OK;
}

uint32_t kvw_wire_done_encode(uint8_t *to, const struct kvw_wire_done *in)
{
    about_encode(to, KVW_WIRE_DONE, KVW_WIRE_DONE_LEN, &in->about);
    kvw_store_le32(to + 24, in->chunks);
    kvw_store_le64(to + 32, in->raw_bytes);
    return KVW_WIRE_DONE_LEN;
}

/* --- ABORT, REFUSE ---------------------------------------------------------------------------- */

kvw_err kvw_wire_abort_decode(struct kvw_wire_abort *out, uint8_t type, const uint8_t *msg,
                              uint32_t bytes)
{
    struct kvw_wire_abort m;
    uint32_t text_bytes;
    kvw_err err;

    memset(&m, 0, sizeof(m));
    if ((err = about_decode(&m.about, type, KVW_WIRE_ABORT_LEN, msg, bytes)) != KVW_OK)
        return err;
    m.err = (kvw_err)(int32_t)kvw_load_le32(msg + 24);
    text_bytes = kvw_load_le32(msg + 28);
    if (m.err >= 0 || text_bytes > KVW_TEXT_BYTES_MAX)
        return KVW_E_PROTOCOL;
    if ((err = kvw_field_exact(bytes, KVW_WIRE_ABORT_LEN + text_bytes)) != KVW_OK)
        return err;
    kvw_field_text(m.text, msg + KVW_WIRE_ABORT_LEN, text_bytes);
    *out = m;
    return KVW_OK;
}

uint32_t kvw_wire_abort_encode(uint8_t *to, uint8_t type, const struct kvw_wire_abort *in)
{
    uint32_t n;

    assert(in->err < 0);
    about_encode(to, type, KVW_WIRE_ABORT_LEN, &in->about);
    kvw_store_le32(to + 24, (uint32_t)in->err);
    n = kvw_field_put_text(to + KVW_WIRE_ABORT_LEN, in->text, KVW_TEXT_BYTES_MAX);
    kvw_store_le32(to + 28, n);
    return KVW_WIRE_ABORT_LEN + n;
}

/* --- ALIVE ------------------------------------------------------------------------------------ */

kvw_err kvw_wire_alive_decode(const uint8_t **epochs, uint32_t *count, const uint8_t *msg,
                              uint32_t bytes)
{
    kvw_err err = kvw_field_front(msg, bytes, KVW_WIRE_ALIVE, KVW_WIRE_ALIVE_LEN);
    uint32_t n;

    if (err != KVW_OK)
        return err;
    n = kvw_load_le16(msg + 2);
    if (msg[1] != 0 || n < 1 || n > KVW_WIRE_ALIVE_MAX)
        return KVW_E_PROTOCOL;
    if ((err = kvw_field_exact(bytes, KVW_WIRE_ALIVE_LEN + 4ull * n)) != KVW_OK)
        return err;
    *epochs = msg + KVW_WIRE_ALIVE_LEN;
    *count = n;
    return KVW_OK;
}

uint32_t kvw_wire_alive_encode(uint8_t *to, uint32_t count)
{
    assert(count >= 1 && count <= KVW_WIRE_ALIVE_MAX);
    to[0] = KVW_WIRE_ALIVE;
    to[1] = 0;
    kvw_store_le16(to + 2, (uint16_t)count);
    return KVW_WIRE_ALIVE_LEN + 4 * count;
}
