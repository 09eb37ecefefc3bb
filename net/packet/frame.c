/* SPDX-License-Identifier: Apache-2.0 */
#include "frame.h"

#include <string.h>

#include "crc32c.h"
#include "../../kvwire/wire/le.h"
#include "versions.h"

/* Header and fields of each type, without what varies; 0: there is no such type. */
static const uint8_t fixed_bytes[16] = {
    [KVN_PACKET_HELLO] = KVN_HELLO_BYTES,     [KVN_PACKET_HELLO_ACK] = KVN_HELLO_BYTES,
    [KVN_PACKET_DATA] = KVN_DATA_BYTES,       [KVN_PACKET_MSG] = KVN_MSG_BYTES,
    [KVN_PACKET_ACK] = KVN_ACK_BYTES,         [KVN_PACKET_PING] = KVN_PING_BYTES,
    [KVN_PACKET_GOODBYE] = KVN_GOODBYE_BYTES, [KVN_PACKET_RESET] = KVN_RESET_BYTES,
    [KVN_PACKET_CHALLENGE] = KVN_TOKEN_BYTES, [KVN_PACKET_RESPONSE] = KVN_TOKEN_BYTES,
    [KVN_PACKET_NACK] = KVN_NACK_BYTES,
};

static uint32_t digest(const uint8_t *bytes, uint32_t len, uint32_t crc_at, const uint8_t *next,
                       uint32_t next_bytes)
{
    static const uint8_t zero[4];
    uint32_t crc = kvn_crc32c(0, bytes, crc_at);

    crc = kvn_crc32c(crc, zero, sizeof(zero));
    return kvn_crc32c_before(crc, bytes + crc_at + 4, len - crc_at - 4, next, next_bytes);
}

/* DATA whose digest ends where the slice begins. */
static bool head_only(const uint8_t *head)
{
    return (head[0] & 15) == KVN_PACKET_DATA && (head[1] & KVN_FLAG_HEAD_ONLY) != 0;
}

static kvw_err hello_decode(struct kvn_frame *f, bool spoken, const uint8_t *p, uint32_t len)
{
    f->hello = (struct kvn_hello){.source = kvw_load_le32(p + 24),
                                  .options = kvw_load_le16(p + KVN_OPTIONS_AT)};
    f->versions = kvw_load_le16(p + KVN_VERSIONS_AT);
    if (f->hello.source == 0 || !kvn_versions_have(f->versions, f->version))
        return KVW_E_PROTOCOL;
    if (!spoken)
        return KVW_OK; /* the rest is another version's business */
    f->hello.payload = kvw_load_le32(p + 28);
    f->hello.paths = kvw_load_le32(p + 32);
    f->hello.stream = kvw_load_le32(p + 36);
    f->hello.credit = kvw_load_le32(p + 40);
    f->hello.puts = kvw_load_le32(p + 44);
    if (len < KVN_PAYLOAD_MIN || f->hello.payload < len || f->hello.payload > KVN_PAYLOAD_MAX ||
        f->hello.paths == 0 || f->hello.paths > KVN_PATHS_MAX ||
        f->hello.stream < KVW_MSG_BYTES_MAX + KVN_STREAM_LEN_BYTES ||
        f->hello.credit < 2 * KVN_PAYLOAD_MIN || f->hello.puts == 0 ||
        (f->hello.puts & (f->hello.puts - 1)) != 0)
        return KVW_E_PROTOCOL;
    return KVW_OK;
}

static kvw_err data_decode(struct kvn_frame *f, const uint8_t *p, uint32_t len)
{
    const uint64_t place = kvw_load_le64(p + 20);
    const uint32_t sizes = kvw_load_le32(p + 28);
    uint64_t skip;
    uint32_t left;

    f->data = (struct kvn_data){
        .put = kvw_load_le32(p + 16),
        .region = (uint32_t)(place >> KVN_OFFSET_BITS),
        .offset = place & KVN_OFFSET_MAX,
        .bytes = (sizes & ((1u << KVN_PUT_BITS) - 1)) + 1,
        .slice = (sizes >> KVN_PUT_BITS) * KVN_SLICE_ALIGN,
        .imm = kvw_load_le32(p + 32),
    };
    f->payload = p + KVN_DATA_BYTES;
    f->payload_bytes = len - KVN_DATA_BYTES;
    skip = (uint64_t)f->slice * f->data.slice;
    if (f->data.slice < KVN_SLICE_MIN || f->data.slice > KVN_SLICE_MAX || skip >= f->data.bytes)
        return KVW_E_PROTOCOL;
    /* Whether offset is in its region is not one packet's business: such a put ends the connection
     * (SPEC.md 5), where a malformed packet is only dropped. */
    left = f->data.bytes - (uint32_t)skip;
    return f->payload_bytes == (left < f->data.slice ? left : f->data.slice) ? KVW_OK
                                                                             : KVW_E_PROTOCOL;
}

static kvw_err msg_decode(struct kvn_frame *f, const uint8_t *p, uint32_t len)
{
    f->stream_at = kvw_load_le64(p + 16);
    f->payload = p + KVN_MSG_BYTES;
    f->payload_bytes = len - KVN_MSG_BYTES;
    if (f->payload_bytes == 0 || f->stream_at > UINT64_MAX - f->payload_bytes)
        return KVW_E_PROTOCOL;
    return KVW_OK;
}

/* Ranges come as (gap, length) downwards from the largest; none may reach below zero. */
static kvw_err ack_decode(struct kvn_frame *f, const uint8_t *p, uint32_t len)
{
    struct kvn_ack *a = &f->ack;
    uint64_t end;

    a->largest = kvw_load_le64(p + 16);
    a->delay = kvw_load_le32(p + 24);
    a->ce = kvw_load_le32(p + 28);
    a->stream_ends = kvw_load_le64(p + 32);
    a->credit = kvw_load_le64(p + 40);
    a->count = kvw_load_le16(p + 48);
    a->path = p[50];
    if (a->count == 0 || a->count > KVN_ACK_RANGES_MAX || a->largest == UINT64_MAX ||
        a->path >= KVN_PATHS_MAX)
        return KVW_E_PROTOCOL;
    if (len != KVN_ACK_BYTES + a->count * KVN_ACK_RANGE_BYTES)
        return KVW_E_TRUNCATED;
    end = a->largest + 1;
    for (uint32_t i = 0; i < a->count; ++i) {
        const uint8_t *r = p + KVN_ACK_BYTES + i * KVN_ACK_RANGE_BYTES;
        const uint32_t gap = kvw_load_le32(r), length = kvw_load_le32(r + 4);

        if (length == 0 || (gap == 0) != (i == 0) || (uint64_t)gap + length > end)
            return KVW_E_PROTOCOL;
        end -= gap;
        a->range[i] = (struct kvn_range){.first = end - length, .end = end};
        end -= length;
    }
    return KVW_OK;
}

static kvw_err nack_decode(struct kvn_frame *f, const uint8_t *p, uint32_t len)
{
    struct kvn_nack *n = &f->nack;

    n->count = kvw_load_le16(p + 16);
    if (n->count == 0 || n->count > KVN_NACK_MAX)
        return KVW_E_PROTOCOL;
    if (len != KVN_NACK_BYTES + n->count * KVN_NACK_ENTRY_BYTES)
        return KVW_E_TRUNCATED;
    for (uint32_t i = 0; i < n->count; ++i) {
        const uint8_t *e = p + KVN_NACK_BYTES + i * KVN_NACK_ENTRY_BYTES;

        n->missing[i] = (struct kvn_missing){
            .put = kvw_load_le32(e), .first = kvw_load_le16(e + 4), .count = kvw_load_le16(e + 6)};
        if (n->missing[i].count == 0 || n->missing[i].first + n->missing[i].count > KVN_SLICES_MAX)
            return KVW_E_PROTOCOL;
    }
    return KVW_OK;
}

static kvw_err fields_decode(struct kvn_frame *f, bool spoken, const uint8_t *p, uint32_t len)
{
    switch (f->type) {
    case KVN_PACKET_HELLO:
    case KVN_PACKET_HELLO_ACK:
        return hello_decode(f, spoken, p, len);
    case KVN_PACKET_DATA:
        return data_decode(f, p, len);
    case KVN_PACKET_MSG:
        return msg_decode(f, p, len);
    case KVN_PACKET_ACK:
        return ack_decode(f, p, len);
    case KVN_PACKET_GOODBYE:
        f->goodbye = (kvw_err)(int32_t)kvw_load_le32(p + 16);
        return KVW_OK;
    case KVN_PACKET_RESET:
        f->versions = kvw_load_le16(p + KVN_VERSIONS_AT);
        f->reset = (struct kvn_reset){.id = kvw_load_le32(p + 24), .reason = p[28]};
        return KVW_OK;
    case KVN_PACKET_CHALLENGE:
    case KVN_PACKET_RESPONSE:
        f->token = kvw_load_le64(p + 16);
        return KVW_OK;
    case KVN_PACKET_NACK:
        return nack_decode(f, p, len);
    default:
        return KVW_OK;
    }
}

kvw_err kvn_frame_decode(struct kvn_frame *f, uint16_t speaks, const uint8_t *bytes, uint32_t len)
{
    return kvn_frame_decode_before(f, speaks, bytes, len, NULL, 0);
}

kvw_err kvn_frame_decode_before(struct kvn_frame *f, uint16_t speaks, const uint8_t *bytes,
                                uint32_t len, const uint8_t *next, uint32_t next_bytes)
{
    uint32_t crc_at;
    bool spoken;

    if (len < KVN_HEADER_BYTES)
        return KVW_E_TRUNCATED;
    f->version = bytes[0] >> 4;
    f->type = bytes[0] & 15;
    f->flags = bytes[1] & ((1u << KVN_FLAG_PATH_SHIFT) - 1);
    f->path = bytes[1] >> KVN_FLAG_PATH_SHIFT;
    f->slice = kvw_load_le16(bytes + 2);
    f->conn = kvw_load_le32(bytes + 4);
    f->pn = kvw_load_le32(bytes + 8); /* of a greeting: unused */
    f->payload = NULL;
    f->payload_bytes = 0;
    if (fixed_bytes[f->type] == 0)
        return KVW_E_PROTOCOL;
    spoken = kvn_versions_have(speaks, f->version);
    if (!spoken && f->type != KVN_PACKET_HELLO && f->type != KVN_PACKET_RESET)
        return KVW_E_VERSION;
    /* A HELLO of another version is only promised to reach its source id. */
    if (len < (spoken ? fixed_bytes[f->type] : KVN_GREETING_BYTES + 8))
        return KVW_E_TRUNCATED;
    crc_at = kvn_frame_crc_at(bytes[0]);
    if (digest(bytes, head_only(bytes) ? KVN_DATA_BYTES : len, crc_at, next, next_bytes) !=
        kvw_load_le32(bytes + crc_at))
        return KVW_E_CHECKSUM;
    return fields_decode(f, spoken, bytes, len);
}

static uint32_t ack_encode(uint8_t *p, const struct kvn_ack *a)
{
    uint64_t below = a->largest + 1;

    kvw_store_le64(p + 16, a->largest);
    kvw_store_le32(p + 24, a->delay);
    kvw_store_le32(p + 28, a->ce);
    kvw_store_le64(p + 32, a->stream_ends);
    kvw_store_le64(p + 40, a->credit);
    kvw_store_le16(p + 48, (uint16_t)a->count);
    p[50] = a->path;
    p[51] = 0;
    for (uint32_t i = 0; i < a->count; ++i) {
        uint8_t *r = p + KVN_ACK_BYTES + i * KVN_ACK_RANGE_BYTES;

        kvw_store_le32(r, (uint32_t)(below - a->range[i].end));
        kvw_store_le32(r + 4, (uint32_t)(a->range[i].end - a->range[i].first));
        below = a->range[i].first;
    }
    return KVN_ACK_BYTES + a->count * KVN_ACK_RANGE_BYTES;
}

static uint32_t nack_encode(uint8_t *p, const struct kvn_nack *n)
{
    kvw_store_le16(p + 16, (uint16_t)n->count);
    kvw_store_le16(p + 18, 0);
    for (uint32_t i = 0; i < n->count; ++i) {
        uint8_t *e = p + KVN_NACK_BYTES + i * KVN_NACK_ENTRY_BYTES;

        kvw_store_le32(e, n->missing[i].put);
        kvw_store_le16(e + 4, n->missing[i].first);
        kvw_store_le16(e + 6, n->missing[i].count);
    }
    return KVN_NACK_BYTES + n->count * KVN_NACK_ENTRY_BYTES;
}

/* HELLO, HELLO_ACK and RESET: what stands where others have their number is unused. */
static uint32_t greeting_encode(uint8_t *p, const struct kvn_frame *f)
{
    kvw_store_le64(p + 8, f->pn);
    kvw_store_le32(p + KVN_GREETING_CRC_AT, 0);
    kvw_store_le16(p + KVN_VERSIONS_AT, f->versions);
    kvw_store_le16(p + KVN_OPTIONS_AT, 0);
    if (f->type == KVN_PACKET_RESET) {
        kvw_store_le32(p + 24, f->reset.id);
        kvw_store_le32(p + 28, f->reset.reason);
        return KVN_RESET_BYTES;
    }
    kvw_store_le16(p + KVN_OPTIONS_AT, f->hello.options);
    kvw_store_le32(p + 24, f->hello.source);
    kvw_store_le32(p + 28, f->hello.payload);
    kvw_store_le32(p + 32, f->hello.paths);
    kvw_store_le32(p + 36, f->hello.stream);
    kvw_store_le32(p + 40, f->hello.credit);
    kvw_store_le32(p + 44, f->hello.puts);
    return KVN_HELLO_BYTES;
}

uint32_t kvn_frame_encode(uint8_t *head, const struct kvn_frame *f)
{
    head[0] = (uint8_t)(f->version << 4 | f->type);
    head[1] = (uint8_t)(f->flags | f->path << KVN_FLAG_PATH_SHIFT);
    kvw_store_le16(head + 2, f->slice);
    kvw_store_le32(head + 4, f->conn);
    kvw_store_le32(head + 8, (uint32_t)f->pn);
    kvw_store_le32(head + KVN_CRC_AT, 0);
    switch (f->type) {
    case KVN_PACKET_HELLO:
    case KVN_PACKET_HELLO_ACK:
    case KVN_PACKET_RESET:
        return greeting_encode(head, f);
    case KVN_PACKET_DATA:
        kvw_store_le32(head + 16, f->data.put);
        kvw_store_le64(head + 20, (uint64_t)f->data.region << KVN_OFFSET_BITS | f->data.offset);
        kvw_store_le32(head + 28,
                       (f->data.bytes - 1) | f->data.slice / KVN_SLICE_ALIGN << KVN_PUT_BITS);
        kvw_store_le32(head + 32, f->data.imm);
        return KVN_DATA_BYTES;
    case KVN_PACKET_MSG:
        kvw_store_le64(head + 16, f->stream_at);
        return KVN_MSG_BYTES;
    case KVN_PACKET_ACK:
        return ack_encode(head, &f->ack);
    case KVN_PACKET_GOODBYE:
        kvw_store_le32(head + 16, (uint32_t)f->goodbye);
        return KVN_GOODBYE_BYTES;
    case KVN_PACKET_CHALLENGE:
    case KVN_PACKET_RESPONSE:
        kvw_store_le64(head + 16, f->token);
        return KVN_TOKEN_BYTES;
    case KVN_PACKET_NACK:
        return nack_encode(head, &f->nack);
    default:
        return fixed_bytes[f->type];
    }
}

void kvn_frame_seal(uint8_t *head, uint32_t head_bytes, const struct kvw_iov *body,
                    uint32_t body_count, const struct kvw_iov *next)
{
    const uint32_t count = head_only(head) ? 0 : body_count;
    uint32_t crc = kvn_crc32c(0, head, head_bytes); /* in which the digest itself is still 0 */

    for (uint32_t i = 0; i < count; ++i)
        crc = kvn_crc32c_before(crc, body[i].base, body[i].bytes, next->base, next->bytes);
    kvw_store_le32(head + kvn_frame_crc_at(head[0]), crc);
}
