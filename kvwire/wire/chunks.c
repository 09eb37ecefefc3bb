/* SPDX-License-Identifier: Apache-2.0 */
#include "chunk.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

#include "digest.h"
#include "le.h"

#define CHECK_AT 56u /* the header's own check; it covers what stands before it */

/*
 * The transport's checks end where its memory begins; a header that went bad in between could place
 * a sound stream in the wrong tokens. So the header carries a check of its own.
 */
static uint32_t header_check(const uint8_t *hdr)
{
    struct kvw_digest d;

    if (kvw_digest_begin(&d, KVW_DIGEST_XXH3_64) != KVW_OK)
        return 0; /* can't be: the id is built in */
    kvw_digest_update(&d, hdr, CHECK_AT);
    return (uint32_t)kvw_digest_value(&d);
}

static bool in_range(const struct kvw_chunk_hdr *h)
{
    return h->epoch != 0 && h->layer < KVW_LAYERS_MAX && h->kv <= 1 && h->codec != 0 &&
           h->digest != 0 && h->head_count >= 1 && h->head_first + h->head_count <= KVW_HEADS_MAX &&
           h->token_count >= 1 && h->token_count <= KVW_XFER_TOKENS_MAX &&
           h->token_first <= KVW_XFER_TOKENS_MAX - h->token_count && h->raw_bytes >= 1 &&
           h->raw_bytes <= KVW_CHUNK_RAW_MAX && h->stream_bytes >= 1 &&
           h->stream_bytes <= KVW_PUT_BYTES_MAX - KVW_CHUNK_HDR_BYTES;
}

void kvw_chunk_hdr_encode(uint8_t to[KVW_CHUNK_HDR_BYTES], const struct kvw_chunk_hdr *in)
{
    assert(in_range(in));
    kvw_store_le32(to, KVW_CHUNK_MAGIC);
    kvw_store_le32(to + 4, in->epoch);
    kvw_store_le64(to + 8, in->xfer);
    kvw_store_le32(to + 16, in->seq);
    kvw_store_le16(to + 20, (uint16_t)in->layer);
    to[22] = (uint8_t)in->kv;
    to[23] = in->codec;
    to[24] = in->digest;
    memset(to + 25, 0, 3);
    kvw_store_le16(to + 28, (uint16_t)in->head_first);
    kvw_store_le16(to + 30, (uint16_t)in->head_count);
    kvw_store_le32(to + 32, in->token_first);
    kvw_store_le32(to + 36, in->token_count);
    kvw_store_le32(to + 40, in->raw_bytes);
    kvw_store_le32(to + 44, in->stream_bytes);
    kvw_store_le64(to + 48, in->digest_value);
    kvw_store_le32(to + CHECK_AT, header_check(to));
    kvw_store_le32(to + 60, 0);
}

kvw_err kvw_chunk_hdr_decode(struct kvw_chunk_hdr *out, const uint8_t *from, uint32_t bytes)
{
    struct kvw_chunk_hdr h;

    if (bytes < KVW_CHUNK_HDR_BYTES)
        return KVW_E_TRUNCATED;
    if (kvw_load_le32(from + CHECK_AT) != header_check(from))
        return KVW_E_CHECKSUM;
    if (kvw_load_le32(from) != KVW_CHUNK_MAGIC || from[25] != 0 || from[26] != 0 || from[27] != 0 ||
        kvw_load_le32(from + 60) != 0)
        return KVW_E_PROTOCOL;
    h = (struct kvw_chunk_hdr){
        .epoch = kvw_load_le32(from + 4),
        .xfer = kvw_load_le64(from + 8),
        .seq = kvw_load_le32(from + 16),
        .layer = kvw_load_le16(from + 20),
        .kv = from[22],
        .codec = from[23],
        .digest = from[24],
        .head_first = kvw_load_le16(from + 28),
        .head_count = kvw_load_le16(from + 30),
        .token_first = kvw_load_le32(from + 32),
        .token_count = kvw_load_le32(from + 36),
        .raw_bytes = kvw_load_le32(from + 40),
        .stream_bytes = kvw_load_le32(from + 44),
        .digest_value = kvw_load_le64(from + 48),
    };
    if (!in_range(&h) || h.stream_bytes != bytes - KVW_CHUNK_HDR_BYTES)
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
