/* SPDX-License-Identifier: Apache-2.0 */
/* SPEC.md 5: the header of a chunk, with a check of its own. */
#include "chunks.h"

#include <assert.h>

#include "../digest.h"
#include "fields.h"

#define CHECK_AT 60u /* covers what stands before it */

/*
 * The transport's checks end where its memory begins. A header that went bad in between could place
 * a sound stream in the wrong entries, so the header carries a check of its own.
 */
uint32_t kvw_wire_chunk_check(const uint8_t *hdr)
{
    struct kvw_digest d;

    if (kvw_digest_begin(&d, KVW_DIGEST_XXH3_64) != KVW_OK)
        return 0; /* can't be: the id is built in */
    kvw_digest_update(&d, hdr, CHECK_AT);
    return (uint32_t)kvw_digest_value(&d);
}

static bool in_range(const struct kvw_wire_chunk *h)
{
    return h->epoch != 0 && h->layer < KVW_LAYERS_MAX && h->codec != 0 && h->codec < 64 &&
           h->digest != 0 && h->digest < 64 && h->rows >= 1 &&
           h->row_first <= UINT32_MAX - h->rows && h->entries >= 1 &&
           h->entries <= KVW_XFER_TOKENS_MAX &&
           h->entry_first <= KVW_XFER_TOKENS_MAX - h->entries && h->raw_bytes >= 1 &&
           h->raw_bytes <= KVW_CHUNK_RAW_MAX && h->stream_bytes >= 1 &&
           h->stream_bytes <= KVW_PUT_BYTES_MAX - KVW_WIRE_CHUNK_LEN &&
           h->where <= KVW_CHUNK_NOWHERE;
}

void kvw_wire_chunk_encode(uint8_t to[KVW_WIRE_CHUNK_LEN], const struct kvw_wire_chunk *in)
{
    assert(in_range(in));
    kvw_store_le32(to, KVW_WIRE_CHUNK_MAGIC);
    kvw_store_le32(to + 4, in->epoch);
    kvw_store_le64(to + 8, in->key_front);
    kvw_store_le32(to + 16, in->seq);
    kvw_store_le16(to + 20, (uint16_t)in->layer);
    to[22] = in->group;
    to[23] = in->part;
    to[24] = in->codec;
    to[25] = in->digest;
    to[26] = in->where;
    to[27] = 0;
    kvw_store_le32(to + 28, in->row_first);
    kvw_store_le32(to + 32, in->rows);
    kvw_store_le32(to + 36, in->entry_first);
    kvw_store_le32(to + 40, in->entries);
    kvw_store_le32(to + 44, in->raw_bytes);
    kvw_store_le64(to + 48, in->digest_value);
    kvw_store_le32(to + 56, in->stream_bytes);
    kvw_store_le32(to + CHECK_AT, kvw_wire_chunk_check(to));
}

kvw_err kvw_wire_chunk_decode(struct kvw_wire_chunk *out, const uint8_t *from, uint32_t bytes)
{
    struct kvw_wire_chunk h;

    if (bytes < KVW_WIRE_CHUNK_LEN)
        return KVW_E_TRUNCATED;
    if (kvw_load_le32(from + CHECK_AT) != kvw_wire_chunk_check(from))
        return KVW_E_CHECKSUM;
    if (kvw_load_le32(from) != KVW_WIRE_CHUNK_MAGIC || !kvw_field_zero(from + 27, 1))
        return KVW_E_PROTOCOL;
    h = (struct kvw_wire_chunk){
        .epoch = kvw_load_le32(from + 4),
        .key_front = kvw_load_le64(from + 8),
        .seq = kvw_load_le32(from + 16),
        .layer = kvw_load_le16(from + 20),
        .group = from[22],
        .part = from[23],
        .codec = from[24],
        .digest = from[25],
        .where = from[26],
        .row_first = kvw_load_le32(from + 28),
        .rows = kvw_load_le32(from + 32),
        .entry_first = kvw_load_le32(from + 36),
        .entries = kvw_load_le32(from + 40),
        .raw_bytes = kvw_load_le32(from + 44),
        .digest_value = kvw_load_le64(from + 48),
        .stream_bytes = kvw_load_le32(from + 56),
    };
    if (!in_range(&h) ||
        bytes - KVW_WIRE_CHUNK_LEN != (h.where == KVW_CHUNK_HERE ? h.stream_bytes : 0))
        return KVW_E_PROTOCOL;
    *out = h;
    return KVW_OK;
}

uint32_t kvw_chunk_tokens(const struct kvw_codec_ops *codec, uint32_t token_bytes,
                          uint32_t block_tokens, uint32_t raw_bytes, uint32_t slot_bytes)
{
    uint32_t tokens = raw_bytes > token_bytes ? raw_bytes / token_bytes : 1;

    /* The bound grows by at most 0.2 % and 64 bytes over raw, so jumping to what raw would allow
     * leaves few steps. */
    if (slot_bytes <= KVW_CHUNK_HDR_BYTES)
        return 0;
    if (tokens > (slot_bytes - KVW_CHUNK_HDR_BYTES) / token_bytes)
        tokens = (slot_bytes - KVW_CHUNK_HDR_BYTES) / token_bytes;
    while (tokens > 0 &&
           codec->bound((uint64_t)tokens * token_bytes) + KVW_CHUNK_HDR_BYTES > slot_bytes)
        --tokens;
    if (tokens > block_tokens)
        tokens -= tokens % block_tokens;
    return tokens;
}
