/* SPDX-License-Identifier: Apache-2.0 */
/* SPEC.md 3.1 and 3.2: the first message of each side, and the answer to one that doesn't fit. */
#include "hello.h"

#include <assert.h>

#include "../codec.h"
#include "fields.h"

kvw_err kvw_wire_hello_front(const uint8_t *msg, uint32_t bytes, uint32_t *layout)
{
    const kvw_err err = kvw_field_front(msg, bytes, KVW_WIRE_HELLO, KVW_WIRE_HELLO_FRONT);

    if (err != KVW_OK)
        return err;
    if (kvw_load_le32(msg + 4) != KVW_WIRE_MAGIC)
        return KVW_E_PROTOCOL;
    *layout = kvw_load_le32(msg + 8);
    return KVW_OK;
}

static bool hello_in_range(const struct kvw_wire_hello *h)
{
    return (h->versions & KVW_WIRE_VERSION_BITS) != 0 && h->instance != 0 &&
           (h->codecs >> KVW_CODEC_RAW & 1) != 0 && h->digests != 0 &&
           h->slot_bytes > KVW_WIRE_CHUNK_LEN && h->slot_bytes <= KVW_PUT_BYTES_MAX &&
           h->slot_bytes % 64 == 0 && h->offers >= 1 && h->offers <= KVW_WIRE_OFFERS_MAX &&
           h->dead_ms >= 1 && h->dead_ms <= KVW_WIRE_DEAD_MS_MAX;
}

static bool shares(const struct kvw_wire_hello *h)
{
    return (h->features & KVW_FEATURE_SHARE) != 0;
}

/* What stands after the name. */
static kvw_err decode_share(struct kvw_wire_hello *h, const uint8_t *at, uint32_t bytes)
{
    if (!shares(h))
        return KVW_OK;
    if (bytes < KVW_WIRE_SHARE_LEN)
        return KVW_E_TRUNCATED;
    memcpy(h->share, at, sizeof(h->share));
    h->share_bytes = kvw_load_le64(at + sizeof(h->share));
    return h->share_bytes > 0 && h->share_bytes % h->slot_bytes == 0 &&
                   h->share_bytes / h->slot_bytes <= KVW_WIRE_LANDING_SLOTS_MAX
               ? KVW_OK
               : KVW_E_PROTOCOL;
}

kvw_err kvw_wire_hello_decode(struct kvw_wire_hello *out, const uint8_t *msg, uint32_t bytes)
{
    struct kvw_wire_hello h;
    uint32_t layout;
    kvw_err err = kvw_wire_hello_front(msg, bytes, &layout);

    if (err != KVW_OK)
        return err;
    if (layout != KVW_WIRE_LAYOUT)
        return KVW_E_VERSION;
    if (bytes < KVW_WIRE_HELLO_LEN)
        return KVW_E_TRUNCATED;
    memset(&h, 0, sizeof(h));
    h.versions = kvw_load_le64(msg + 16);
    h.instance = kvw_load_le64(msg + 24);
    h.codecs = kvw_load_le64(msg + 32);
    h.digests = kvw_load_le64(msg + 40);
    h.features = kvw_load_le64(msg + 48);
    h.slot_bytes = kvw_load_le32(msg + 56);
    h.offers = kvw_load_le32(msg + 60);
    h.dead_ms = kvw_load_le32(msg + 64);
    memcpy(h.region.bytes, msg + 72, sizeof(h.region.bytes));
    if (!hello_in_range(&h) || msg[104] > KVW_WIRE_NAME_MAX || !kvw_field_zero(msg + 105, 3))
        return KVW_E_PROTOCOL;
    if (bytes - KVW_WIRE_HELLO_LEN < msg[104])
        return KVW_E_TRUNCATED;
    kvw_field_text(h.name, msg + KVW_WIRE_HELLO_LEN, msg[104]);
    err = decode_share(&h, msg + KVW_WIRE_HELLO_LEN + msg[104],
                       bytes - KVW_WIRE_HELLO_LEN - msg[104]);
    if (err == KVW_OK)
        *out = h; /* what else comes after is Unused: later additions stand there */
    return err;
}

uint32_t kvw_wire_hello_encode(uint8_t *to, const struct kvw_wire_hello *in)
{
    assert(hello_in_range(in));
    memset(to, 0, KVW_WIRE_HELLO_LEN);
    to[0] = KVW_WIRE_HELLO;
    kvw_store_le32(to + 4, KVW_WIRE_MAGIC);
    kvw_store_le32(to + 8, KVW_WIRE_LAYOUT);
    kvw_store_le64(to + 16, in->versions);
    kvw_store_le64(to + 24, in->instance);
    kvw_store_le64(to + 32, in->codecs);
    kvw_store_le64(to + 40, in->digests);
    kvw_store_le64(to + 48, in->features);
    kvw_store_le32(to + 56, in->slot_bytes);
    kvw_store_le32(to + 60, in->offers);
    kvw_store_le32(to + 64, in->dead_ms);
    memcpy(to + 72, in->region.bytes, sizeof(in->region.bytes));
    to[104] = (uint8_t)kvw_field_put_text(to + KVW_WIRE_HELLO_LEN, in->name, KVW_WIRE_NAME_MAX);
    if (!shares(in))
        return KVW_WIRE_HELLO_LEN + to[104];
    memcpy(to + KVW_WIRE_HELLO_LEN + to[104], in->share, sizeof(in->share));
    kvw_store_le64(to + KVW_WIRE_HELLO_LEN + to[104] + sizeof(in->share), in->share_bytes);
    return KVW_WIRE_HELLO_LEN + to[104] + KVW_WIRE_SHARE_LEN;
}

kvw_err kvw_wire_reject_decode(struct kvw_wire_reject *out, const uint8_t *msg, uint32_t bytes)
{
    const kvw_err err = kvw_field_front(msg, bytes, KVW_WIRE_REJECT, KVW_WIRE_REJECT_LEN);
    struct kvw_wire_reject r;
    uint32_t text_bytes;

    if (err != KVW_OK)
        return err;
    memset(&r, 0, sizeof(r));
    r.err = (kvw_err)(int32_t)kvw_load_le32(msg + 4);
    r.layout = kvw_load_le32(msg + 8);
    text_bytes = kvw_load_le32(msg + 12);
    if (r.err >= 0 || text_bytes > KVW_TEXT_BYTES_MAX)
        return KVW_E_PROTOCOL;
    if (bytes - KVW_WIRE_REJECT_LEN < text_bytes)
        return KVW_E_TRUNCATED;
    kvw_field_text(r.text, msg + KVW_WIRE_REJECT_LEN, text_bytes);
    *out = r; /* bytes after the text are Unused */
    return KVW_OK;
}

uint32_t kvw_wire_reject_encode(uint8_t *to, const struct kvw_wire_reject *in)
{
    uint32_t n;

    assert(in->err < 0);
    memset(to, 0, KVW_WIRE_REJECT_LEN);
    to[0] = KVW_WIRE_REJECT;
    kvw_store_le32(to + 4, (uint32_t)in->err);
    kvw_store_le32(to + 8, in->layout);
    n = kvw_field_put_text(to + KVW_WIRE_REJECT_LEN, in->text, KVW_TEXT_BYTES_MAX);
    kvw_store_le32(to + 12, n);
    return KVW_WIRE_REJECT_LEN + n;
}

uint32_t kvw_wire_agree(uint64_t here, uint64_t peer)
{
    const uint64_t both = here & peer & KVW_WIRE_VERSION_BITS;

    return both == 0 ? 0 : 63u - (uint32_t)__builtin_clzll(both);
}
