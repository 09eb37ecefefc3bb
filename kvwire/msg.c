/* SPDX-License-Identifier: Apache-2.0 */
/* SPEC.md 3, one pair of functions a message, in the order of the tables there. */
#include "msg.h"

#include <assert.h>
#include <string.h>

#include "le.h"

/* Reserved bytes: zero, so that a later version can tell that nobody uses them. */
static bool all_zero(const uint8_t *p, uint32_t n)
{
    uint8_t any = 0;

    for (uint32_t i = 0; i < n; ++i)
        any |= p[i];
    return any == 0;
}

/* Text of a peer ends on terminals and in logs: printable ASCII only. */
static void copy_text(char *to, const uint8_t *from, uint32_t n)
{
    for (uint32_t i = 0; i < n; ++i)
        to[i] = from[i] >= 0x20 && from[i] < 0x7f ? (char)from[i] : '?';
    to[n] = '\0';
}

static uint32_t put_text(uint8_t *to, const char *text, uint32_t max)
{
    const uint32_t n = (uint32_t)strnlen(text, max);

    memcpy(to, text, n);
    return n;
}

/* The checks that every message begins with. */
static kvw_err front(const uint8_t *msg, uint32_t bytes, enum kvw_msg_type type, uint32_t fixed)
{
    if (bytes < 1)
        return KVW_E_TRUNCATED;
    if (msg[0] != type)
        return KVW_E_PROTOCOL;
    return bytes < fixed ? KVW_E_TRUNCATED : KVW_OK;
}

static kvw_err exact(uint32_t bytes, uint32_t want)
{
    if (bytes == want)
        return KVW_OK;
    return bytes < want ? KVW_E_TRUNCATED : KVW_E_PROTOCOL;
}

/* --- HELLO ----------------------------------------------------------------------------------- */

kvw_err kvw_hello_front(const uint8_t *msg, uint32_t bytes, uint32_t *version)
{
    const kvw_err err = front(msg, bytes, KVW_MSG_HELLO, KVW_HELLO_FRONT);

    if (err != KVW_OK)
        return err;
    if (kvw_load_le32(msg + 4) != KVW_WIRE_MAGIC)
        return KVW_E_PROTOCOL;
    *version = kvw_load_le32(msg + 8);
    return KVW_OK;
}

static bool hello_in_range(const struct kvw_hello *h)
{
    const struct kvw_shape *s = &h->shape;

    return (h->role == KVW_ROLE_SENDER || h->role == KVW_ROLE_RECEIVER) && s->layers >= 1 &&
           s->layers <= KVW_LAYERS_MAX && s->kv_heads >= 1 && s->kv_heads <= KVW_HEADS_MAX &&
           s->head_dim >= 1 && s->head_dim <= KVW_HEAD_DIM_MAX && s->block_tokens >= 1 &&
           s->block_tokens <= KVW_BLOCK_TOKENS_MAX && kvw_dtype_bytes(s->dtype) != 0 &&
           h->slots >= 1 && h->slots <= KVW_SLOTS_MAX && h->slot_bytes > KVW_CHUNK_HDR_BYTES &&
           h->slot_bytes <= KVW_PUT_BYTES_MAX && h->slot_bytes % 64 == 0 && h->xfers_max >= 1 &&
           h->xfers_max <= KVW_XFERS_MAX;
}

kvw_err kvw_hello_decode(struct kvw_hello *out, const uint8_t *msg, uint32_t bytes)
{
    struct kvw_hello h;
    uint32_t version, name_bytes;
    kvw_err err = kvw_hello_front(msg, bytes, &version);

    if (err != KVW_OK)
        return err;
    if (version != KVW_WIRE_VERSION)
        return KVW_E_VERSION;
    if (bytes < KVW_HELLO_BYTES)
        return KVW_E_TRUNCATED;
    memset(&h, 0, sizeof(h));
    h.role = (kvw_role)msg[12];
    h.shape.dtype = (kvw_dtype)msg[13];
    h.shape.layers = kvw_load_le16(msg + 14);
    h.shape.kv_heads = kvw_load_le16(msg + 16);
    h.shape.head_dim = kvw_load_le16(msg + 18);
    h.shape.block_tokens = kvw_load_le32(msg + 20);
    h.codecs = kvw_load_le64(msg + 24);
    h.digests = kvw_load_le64(msg + 32);
    h.slots = kvw_load_le32(msg + 40);
    h.slot_bytes = kvw_load_le32(msg + 44);
    h.xfers_max = kvw_load_le32(msg + 48);
    if (!all_zero(msg + 52, 4) || !all_zero(msg + 105, 3))
        return KVW_E_PROTOCOL;
    memcpy(h.fingerprint, msg + 56, sizeof(h.fingerprint));
    memcpy(h.region.bytes, msg + 72, sizeof(h.region.bytes));
    name_bytes = msg[104];
    if (name_bytes > KVW_MODEL_NAME_MAX || !hello_in_range(&h))
        return KVW_E_PROTOCOL;
    if (bytes - KVW_HELLO_BYTES < name_bytes)
        return KVW_E_TRUNCATED;
    copy_text(h.name, msg + KVW_HELLO_BYTES, name_bytes);
    *out = h; /* bytes after the name are Unused: later minor additions stand there */
    return KVW_OK;
}

uint32_t kvw_hello_encode(uint8_t *to, const struct kvw_hello *in)
{
    assert(hello_in_range(in));
    memset(to, 0, KVW_HELLO_BYTES);
    to[0] = KVW_MSG_HELLO;
    kvw_store_le32(to + 4, KVW_WIRE_MAGIC);
    kvw_store_le32(to + 8, KVW_WIRE_VERSION);
    to[12] = (uint8_t)in->role;
    to[13] = (uint8_t)in->shape.dtype;
    kvw_store_le16(to + 14, (uint16_t)in->shape.layers);
    kvw_store_le16(to + 16, (uint16_t)in->shape.kv_heads);
    kvw_store_le16(to + 18, (uint16_t)in->shape.head_dim);
    kvw_store_le32(to + 20, in->shape.block_tokens);
    kvw_store_le64(to + 24, in->codecs);
    kvw_store_le64(to + 32, in->digests);
    kvw_store_le32(to + 40, in->slots);
    kvw_store_le32(to + 44, in->slot_bytes);
    kvw_store_le32(to + 48, in->xfers_max);
    memcpy(to + 56, in->fingerprint, sizeof(in->fingerprint));
    memcpy(to + 72, in->region.bytes, sizeof(in->region.bytes));
    to[104] = (uint8_t)put_text(to + KVW_HELLO_BYTES, in->name, KVW_MODEL_NAME_MAX);
    return KVW_HELLO_BYTES + to[104];
}

/* --- REJECT ---------------------------------------------------------------------------------- */

kvw_err kvw_reject_decode(struct kvw_reject *out, const uint8_t *msg, uint32_t bytes)
{
    const kvw_err err = front(msg, bytes, KVW_MSG_REJECT, KVW_REJECT_BYTES);
    uint32_t text_bytes;
    int32_t code;

    if (err != KVW_OK)
        return err;
    code = (int32_t)kvw_load_le32(msg + 4);
    text_bytes = kvw_load_le32(msg + 12);
    if (code >= 0 || text_bytes > KVW_TEXT_BYTES_MAX)
        return KVW_E_PROTOCOL;
    if (bytes - KVW_REJECT_BYTES < text_bytes) /* longer is fine: it may be a later version's */
        return KVW_E_TRUNCATED;
    out->err = (kvw_err)code;
    out->version = kvw_load_le32(msg + 8);
    copy_text(out->text, msg + KVW_REJECT_BYTES, text_bytes);
    return KVW_OK;
}

uint32_t kvw_reject_encode(uint8_t *to, const struct kvw_reject *in)
{
    const uint32_t text_bytes = put_text(to + KVW_REJECT_BYTES, in->text, KVW_TEXT_BYTES_MAX);

    assert(in->err < 0);
    memset(to, 0, KVW_REJECT_BYTES);
    to[0] = KVW_MSG_REJECT;
    kvw_store_le32(to + 4, (uint32_t)in->err);
    kvw_store_le32(to + 8, in->version);
    kvw_store_le32(to + 12, text_bytes);
    return KVW_REJECT_BYTES + text_bytes;
}

/* --- OFFER ----------------------------------------------------------------------------------- */

kvw_err kvw_offer_decode(struct kvw_offer_msg *out, const uint8_t *msg, uint32_t bytes)
{
    struct kvw_offer_msg o;
    kvw_err err = front(msg, bytes, KVW_MSG_OFFER, KVW_OFFER_BYTES);

    if (err != KVW_OK)
        return err;
    o.epoch = kvw_load_le32(msg + 4);
    o.xfer = kvw_load_le64(msg + 8);
    o.lease_ns = kvw_load_le64(msg + 16);
    o.tokens = kvw_load_le32(msg + 24);
    o.budget = (kvw_budget)msg[28];
    o.exact_first = msg[29];
    o.exact_last = kvw_load_le16(msg + 30);
    if (!all_zero(msg + 1, 3) || o.budget > KVW_BUDGET_E4 || o.epoch == 0 || o.tokens == 0 ||
        o.tokens > KVW_XFER_TOKENS_MAX || o.lease_ns < KVW_LEASE_NS_MIN ||
        o.lease_ns > KVW_LEASE_NS_MAX)
        return KVW_E_PROTOCOL;
    if ((err = exact(bytes, KVW_OFFER_BYTES)) != KVW_OK)
        return err;
    *out = o;
    return KVW_OK;
}

uint32_t kvw_offer_encode(uint8_t *to, const struct kvw_offer_msg *in)
{
    memset(to, 0, KVW_OFFER_BYTES);
    to[0] = KVW_MSG_OFFER;
    kvw_store_le32(to + 4, in->epoch);
    kvw_store_le64(to + 8, in->xfer);
    kvw_store_le64(to + 16, in->lease_ns);
    kvw_store_le32(to + 24, in->tokens);
    to[28] = (uint8_t)in->budget;
    to[29] = in->exact_first;
    kvw_store_le16(to + 30, in->exact_last);
    return KVW_OFFER_BYTES;
}

/* --- GRANT, RENEW ---------------------------------------------------------------------------- */

kvw_err kvw_grant_decode(struct kvw_grant *out, const uint8_t *msg, uint32_t bytes)
{
    struct kvw_grant g;
    kvw_err err = front(msg, bytes, KVW_MSG_GRANT, KVW_GRANT_BYTES);

    if (err != KVW_OK || (err = exact(bytes, KVW_GRANT_BYTES)) != KVW_OK)
        return err;
    g.codec = msg[1];
    g.decode_ps = kvw_load_le32(msg + 4);
    g.limit = kvw_load_le64(msg + 8);
    if (!all_zero(msg + 2, 2) || (g.codec == 0) != (g.decode_ps == 0) || g.codec > 63)
        return KVW_E_PROTOCOL;
    *out = g;
    return KVW_OK;
}

uint32_t kvw_grant_encode(uint8_t *to, const struct kvw_grant *in)
{
    assert((in->codec == 0) == (in->decode_ps == 0) && in->codec <= 63);
    memset(to, 0, KVW_GRANT_BYTES);
    to[0] = KVW_MSG_GRANT;
    to[1] = in->codec;
    kvw_store_le32(to + 4, in->decode_ps);
    kvw_store_le64(to + 8, in->limit);
    return KVW_GRANT_BYTES;
}

/* The 16 bytes that RENEW, COMMIT, DONE and ABORT share. */
static void put_xfer(uint8_t *to, enum kvw_msg_type type, const struct kvw_xfer_msg *x)
{
    memset(to, 0, 4);
    to[0] = (uint8_t)type;
    kvw_store_le32(to + 4, x->epoch);
    kvw_store_le64(to + 8, x->xfer);
}

static struct kvw_xfer_msg get_xfer(const uint8_t *msg)
{
    return (struct kvw_xfer_msg){.xfer = kvw_load_le64(msg + 8), .epoch = kvw_load_le32(msg + 4)};
}

kvw_err kvw_renew_decode(struct kvw_xfer_msg *out, const uint8_t *msg, uint32_t bytes)
{
    kvw_err err = front(msg, bytes, KVW_MSG_RENEW, KVW_RENEW_BYTES);

    if (err != KVW_OK || (err = exact(bytes, KVW_RENEW_BYTES)) != KVW_OK)
        return err;
    if (!all_zero(msg + 1, 3) || kvw_load_le32(msg + 4) == 0)
        return KVW_E_PROTOCOL;
    *out = get_xfer(msg);
    return KVW_OK;
}

uint32_t kvw_renew_encode(uint8_t *to, const struct kvw_xfer_msg *in)
{
    assert(in->epoch != 0);
    put_xfer(to, KVW_MSG_RENEW, in);
    return KVW_RENEW_BYTES;
}

/* --- COMMIT, DONE, ABORT --------------------------------------------------------------------- */

kvw_err kvw_commit_decode(struct kvw_commit_msg *out, const uint8_t *msg, uint32_t bytes)
{
    kvw_err err = front(msg, bytes, KVW_MSG_COMMIT, KVW_COMMIT_BYTES);
    uint32_t note_bytes;

    if (err != KVW_OK)
        return err;
    note_bytes = kvw_load_le32(msg + 20);
    if (!all_zero(msg + 1, 3) || kvw_load_le32(msg + 4) == 0 || note_bytes > KVW_COMMIT_NOTE_MAX)
        return KVW_E_PROTOCOL;
    if ((err = exact(bytes, KVW_COMMIT_BYTES + note_bytes)) != KVW_OK)
        return err;
    out->x = get_xfer(msg);
    out->chunks = kvw_load_le32(msg + 16);
    out->raw_bytes = kvw_load_le64(msg + 24);
    out->note = msg + KVW_COMMIT_BYTES;
    out->note_bytes = note_bytes;
    return KVW_OK;
}

uint32_t kvw_commit_encode(uint8_t *to, const struct kvw_commit_msg *in)
{
    assert(in->x.epoch != 0 && in->note_bytes <= KVW_COMMIT_NOTE_MAX);
    put_xfer(to, KVW_MSG_COMMIT, &in->x);
    kvw_store_le32(to + 16, in->chunks);
    kvw_store_le32(to + 20, in->note_bytes);
    kvw_store_le64(to + 24, in->raw_bytes);
    if (in->note_bytes > 0)
        memcpy(to + KVW_COMMIT_BYTES, in->note, in->note_bytes);
    return KVW_COMMIT_BYTES + in->note_bytes;
}

kvw_err kvw_done_decode(struct kvw_done_msg *out, const uint8_t *msg, uint32_t bytes)
{
    kvw_err err = front(msg, bytes, KVW_MSG_DONE, KVW_DONE_BYTES);

    if (err != KVW_OK || (err = exact(bytes, KVW_DONE_BYTES)) != KVW_OK)
        return err;
    if (!all_zero(msg + 1, 3) || !all_zero(msg + 20, 4) || kvw_load_le32(msg + 4) == 0)
        return KVW_E_PROTOCOL;
    out->x = get_xfer(msg);
    out->chunks = kvw_load_le32(msg + 16);
    out->raw_bytes = kvw_load_le64(msg + 24);
    return KVW_OK;
}

uint32_t kvw_done_encode(uint8_t *to, const struct kvw_done_msg *in)
{
    assert(in->x.epoch != 0);
    put_xfer(to, KVW_MSG_DONE, &in->x);
    kvw_store_le32(to + 16, in->chunks);
    kvw_store_le32(to + 20, 0);
    kvw_store_le64(to + 24, in->raw_bytes);
    return KVW_DONE_BYTES;
}

kvw_err kvw_abort_decode(struct kvw_abort_msg *out, const uint8_t *msg, uint32_t bytes)
{
    kvw_err err = front(msg, bytes, KVW_MSG_ABORT, KVW_ABORT_BYTES);
    uint32_t text_bytes;
    int32_t code;

    if (err != KVW_OK)
        return err;
    code = (int32_t)kvw_load_le32(msg + 16);
    text_bytes = kvw_load_le32(msg + 20);
    if (!all_zero(msg + 1, 3) || code >= 0 || text_bytes > KVW_TEXT_BYTES_MAX)
        return KVW_E_PROTOCOL;
    if ((err = exact(bytes, KVW_ABORT_BYTES + text_bytes)) != KVW_OK)
        return err;
    out->x = get_xfer(msg);
    out->err = (kvw_err)code;
    copy_text(out->text, msg + KVW_ABORT_BYTES, text_bytes);
    return KVW_OK;
}

uint32_t kvw_abort_encode(uint8_t *to, const struct kvw_abort_msg *in)
{
    const uint32_t text_bytes = put_text(to + KVW_ABORT_BYTES, in->text, KVW_TEXT_BYTES_MAX);

    assert(in->err < 0);
    put_xfer(to, KVW_MSG_ABORT, &in->x);
    kvw_store_le32(to + 16, (uint32_t)in->err);
    kvw_store_le32(to + 20, text_bytes);
    return KVW_ABORT_BYTES + text_bytes;
}
