/* SPDX-License-Identifier: Apache-2.0 */
/* A chunk's header survives the wire, no damaged one is believed, and a full chunk is as long as
 * aim, slot and codec allow. */
#include <criterion/criterion.h>
#include <string.h>

#include "../../compress/compress.h"
#include "../../kvwire/chunk.h"
#include "kv.h"

static const struct kvw_chunk_hdr in = {.xfer = 0x1122334455667788,
                                        .epoch = 9,
                                        .seq = 0xfffffff0,
                                        .layer = 31,
                                        .kv = 1,
                                        .codec = KVW_CODEC_RAW,
                                        .digest = KVW_DIGEST_XXH3_64,
                                        .head_count = 8,
                                        .token_first = 4096,
                                        .token_count = 64,
                                        .raw_bytes = 131072,
                                        .stream_bytes = 1000,
                                        .digest_value = 0xa1b2c3d4e5f60718};

Test(chunk, header_round_trip)
{
    uint8_t wire[KVW_CHUNK_HDR_BYTES];
    struct kvw_chunk_hdr out;

    kvw_chunk_hdr_encode(wire, &in);
    for (uint32_t n = 0; n < sizeof(wire); ++n)
        cr_expect_eq(kvw_chunk_hdr_decode(&out, wire, n), KVW_E_TRUNCATED);
    cr_assert_eq(kvw_chunk_hdr_decode(&out, wire, sizeof(wire) + 1000), KVW_OK);
    cr_expect_eq(memcmp(&in, &out, sizeof(in)), 0);
    cr_expect_eq(kvw_chunk_hdr_decode(&out, wire, sizeof(wire) + 999), KVW_E_PROTOCOL);
    cr_expect_eq(kvw_chunk_hdr_decode(&out, wire, sizeof(wire) + 1001), KVW_E_PROTOCOL);
}

Test(chunk, every_flipped_bit_of_a_header_is_seen)
{
    uint8_t wire[KVW_CHUNK_HDR_BYTES];
    struct kvw_chunk_hdr out;

    kvw_chunk_hdr_encode(wire, &in);
    for (uint32_t bit = 0; bit < 8 * sizeof(wire); ++bit) {
        wire[bit / 8] ^= (uint8_t)(1 << bit % 8);
        cr_expect_neq(kvw_chunk_hdr_decode(&out, wire, sizeof(wire) + 1000), KVW_OK, "bit %u", bit);
        wire[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    cr_expect_eq(kvw_chunk_hdr_decode(&out, wire, sizeof(wire) + 1000), KVW_OK);
}

/* A codec with the worst bound that codec.h allows. */
static uint64_t worst_bound(uint64_t raw)
{
    return raw + raw / 500 + 64;
}

Test(chunk, tokens_fit_and_are_the_most)
{
    const struct kvw_codec_ops worst = {.bound = worst_bound};
    uint64_t random = 3;

    for (uint32_t i = 0; i < 20000; ++i) {
        const struct kvw_codec_ops *codec = i % 2 == 0 ? &worst : &kvc_codec_raw;
        const uint32_t token = 1 + t_below(&random, 20000);
        const uint32_t block = 1 + t_below(&random, 64);
        const uint32_t aim = KVW_CHUNK_RAW_MIN + t_below(&random, KVW_CHUNK_RAW_MAX - 4096);
        const uint32_t slot = t_below(&random, KVW_PUT_BYTES_MAX);
        const uint32_t n = kvw_chunk_tokens(codec, token, block, aim, slot);

        if (n == 0) {
            cr_assert_gt(codec->bound(token) + KVW_CHUNK_HDR_BYTES, slot);
            continue;
        }
        cr_assert_leq(codec->bound((uint64_t)n * token) + KVW_CHUNK_HDR_BYTES, slot);
        cr_assert(n == 1 || (uint64_t)n * token <= aim);
        cr_assert(n <= block || n % block == 0);
        /* One step more, token or block, would be over aim or slot. */
        const uint32_t more = n >= block ? n + block : n + 1;
        cr_assert((uint64_t)more * token > aim ||
                  codec->bound((uint64_t)more * token) + KVW_CHUNK_HDR_BYTES > slot);
    }
}
