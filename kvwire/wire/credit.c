/* SPDX-License-Identifier: Apache-2.0 */
/* SPEC.md 3.4: credit in landing slots, given and taken back. */
#include "credit.h"

#include <assert.h>

#include "../codec.h"
#include "fields.h"

static bool grant_in_range(const struct kvw_wire_grant *g)
{
    return g->count >= 1 && g->count <= KVW_WIRE_GRANT_MAX && g->codec < KVW_CODEC_IDS &&
           (g->codec == 0) == (g->decode_ps == 0) && g->from <= UINT64_MAX - g->count;
}

kvw_err kvw_wire_grant_decode(struct kvw_wire_grant *out, const uint8_t *msg, uint32_t bytes)
{
    kvw_err err = kvw_field_front(msg, bytes, KVW_WIRE_GRANT, KVW_WIRE_GRANT_LEN);
    struct kvw_wire_grant g;

    if (err != KVW_OK)
        return err;
    g = (struct kvw_wire_grant){
        .codec = msg[1],
        .count = kvw_load_le16(msg + 2),
        .decode_ps = kvw_load_le32(msg + 4),
        .from = kvw_load_le64(msg + 8),
        .slots = msg + KVW_WIRE_GRANT_LEN,
    };
    if (!grant_in_range(&g))
        return KVW_E_PROTOCOL;
    if ((err = kvw_field_exact(bytes, KVW_WIRE_GRANT_LEN + 2ull * g.count)) != KVW_OK)
        return err;
    for (uint32_t i = 0; i < g.count; ++i)
        if (kvw_wire_grant_slot(&g, i) >= KVW_WIRE_LANDING_SLOTS_MAX)
            return KVW_E_PROTOCOL;
    *out = g;
    return KVW_OK;
}

uint32_t kvw_wire_grant_encode(uint8_t *to, const struct kvw_wire_grant *in)
{
    assert(grant_in_range(in));
    to[0] = KVW_WIRE_GRANT;
    to[1] = in->codec;
    kvw_store_le16(to + 2, (uint16_t)in->count);
    kvw_store_le32(to + 4, in->decode_ps);
    kvw_store_le64(to + 8, in->from);
    return KVW_WIRE_GRANT_LEN + 2 * in->count;
}

kvw_err kvw_wire_recall_decode(const uint8_t *msg, uint32_t bytes)
{
    const kvw_err err = kvw_field_front(msg, bytes, KVW_WIRE_RECALL, KVW_WIRE_RECALL_LEN);

    if (err != KVW_OK)
        return err;
    if (!kvw_field_zero(msg + 1, KVW_WIRE_RECALL_LEN - 1))
        return KVW_E_PROTOCOL;
    return kvw_field_exact(bytes, KVW_WIRE_RECALL_LEN);
}

uint32_t kvw_wire_recall_encode(uint8_t *to)
{
    memset(to, 0, KVW_WIRE_RECALL_LEN);
    to[0] = KVW_WIRE_RECALL;
    return KVW_WIRE_RECALL_LEN;
}

kvw_err kvw_wire_return_decode(uint64_t *next, const uint8_t *msg, uint32_t bytes)
{
    kvw_err err = kvw_field_front(msg, bytes, KVW_WIRE_RETURN, KVW_WIRE_RETURN_LEN);

    if (err != KVW_OK)
        return err;
    if (!kvw_field_zero(msg + 1, 7))
        return KVW_E_PROTOCOL;
    if ((err = kvw_field_exact(bytes, KVW_WIRE_RETURN_LEN)) != KVW_OK)
        return err;
    *next = kvw_load_le64(msg + 8);
    return KVW_OK;
}

uint32_t kvw_wire_return_encode(uint8_t *to, uint64_t next)
{
    memset(to, 0, KVW_WIRE_RETURN_LEN);
    to[0] = KVW_WIRE_RETURN;
    kvw_store_le64(to + 8, next);
    return KVW_WIRE_RETURN_LEN;
}
