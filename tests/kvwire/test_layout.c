/* SPDX-License-Identifier: Apache-2.0 */
/* A pool whose strides leave its memory is refused by name, and of two peers that differ the
 * sentence names the field and both values. */
#include <criterion/criterion.h>
#include <string.h>

#include "../../kvwire/layout.h"
#include "kv.h"

static struct t_kv_shape small = {3, 10, 16, 2, 64, KVW_DTYPE_BF16, T_KV_NHD_SPLIT};

Test(layout, every_layout_fits_exactly)
{
    for (int layout = 0; layout < T_KV_LAYOUTS; ++layout) {
        struct t_kv_shape q = small;
        struct kvw_pool pool;
        const char *field = "";

        q.layout = (enum t_kv_layout)layout;
        pool = t_kv_pool(&q);
        cr_expect_eq(kvw_pool_check(&pool, &field), KVW_OK, "layout %d: %s", layout, field);
        --pool.mem.bytes;
        cr_expect_eq(kvw_pool_check(&pool, &field), KVW_E_INVALID);
        cr_expect_str_eq(field, "pool.mem.bytes");
        ++pool.mem.bytes;
        t_kv_free(&pool);
    }
}

#define EXPECT_BAD(member, value, name)                                                            \
    do {                                                                                           \
        struct kvw_pool bad = pool;                                                                \
        const char *field = "";                                                                    \
        bad.member = (value);                                                                      \
        cr_expect_eq(kvw_pool_check(&bad, &field), KVW_E_INVALID, #member " = " #value);           \
        cr_expect_str_eq(field, name);                                                             \
    } while (0)

Test(layout, pool_fields_out_of_range)
{
    struct kvw_pool pool = t_kv_pool(&small);

    EXPECT_BAD(layers, 0, "pool.layers");
    EXPECT_BAD(layers, KVW_LAYERS_MAX + 1, "pool.layers");
    EXPECT_BAD(blocks, 0, "pool.blocks");
    EXPECT_BAD(block_tokens, 0, "pool.block_tokens");
    EXPECT_BAD(block_tokens, KVW_BLOCK_TOKENS_MAX + 1, "pool.block_tokens");
    EXPECT_BAD(kv_heads, 0, "pool.kv_heads");
    EXPECT_BAD(head_dim, KVW_HEAD_DIM_MAX + 1, "pool.head_dim");
    EXPECT_BAD(dtype, (kvw_dtype)9, "pool.dtype");
    EXPECT_BAD(mem.base, NULL, "pool.mem.base");
    EXPECT_BAD(mem.kind, (kvw_mem_kind)0, "pool.mem.kind");
    EXPECT_BAD(blocks, 11, "pool.mem.bytes");
    EXPECT_BAD(layer_stride, UINT64_MAX / 2, "pool.mem.bytes");
    EXPECT_BAD(kv_stride, UINT64_MAX, "pool.mem.bytes");
    EXPECT_BAD(block_stride, UINT64_MAX / 8, "pool.mem.bytes");
    t_kv_free(&pool);
}

static struct kvw_hello hello(kvw_role role)
{
    struct kvw_hello h = {.role = role,
                          .shape = {32, 8, 128, 16, KVW_DTYPE_BF16},
                          .codecs = 1u << KVW_CODEC_RAW,
                          .digests = 1u << KVW_DIGEST_XXH3_64,
                          .slots = 32,
                          .slot_bytes = 262208,
                          .xfers_max = 16};

    memset(h.fingerprint, role == KVW_ROLE_SENDER ? 0x1a : 0x1a, sizeof(h.fingerprint));
    strcpy(h.name, role == KVW_ROLE_SENDER ? "left" : "right");
    return h;
}

#define EXPECT_MISMATCH(change, sentence)                                                          \
    do {                                                                                           \
        struct kvw_hello here = hello(KVW_ROLE_SENDER), peer = hello(KVW_ROLE_RECEIVER);           \
        char text[KVW_TEXT_BYTES_MAX + 1] = "";                                                    \
        change;                                                                                    \
        cr_expect_eq(kvw_hello_match(&here, &peer, text), KVW_E_MISMATCH);                         \
        cr_expect_str_eq(text, sentence);                                                          \
        cr_expect_eq(kvw_hello_match(&peer, &here, text), KVW_E_MISMATCH, "not symmetric");        \
    } while (0)

Test(layout, mismatches_in_words)
{
    struct kvw_hello a = hello(KVW_ROLE_SENDER), b = hello(KVW_ROLE_RECEIVER);
    char why[KVW_TEXT_BYTES_MAX + 1] = "";

    b.shape.block_tokens = 256; /* the one thing that may differ */
    cr_expect_eq(kvw_hello_match(&a, &b, why), KVW_OK, "%s", why);
    EXPECT_MISMATCH(peer.role = KVW_ROLE_SENDER, "both sides are senders (prefill)");
    EXPECT_MISMATCH(peer.shape.layers = 30, "number of layers differs: here 32, peer 30");
    EXPECT_MISMATCH(peer.shape.kv_heads = 1, "number of KV heads differs: here 8, peer 1");
    EXPECT_MISMATCH(peer.shape.head_dim = 64, "head dimension differs: here 128, peer 64");
    EXPECT_MISMATCH(peer.shape.dtype = KVW_DTYPE_F16, "KV dtype differs: here bf16, peer f16");
    EXPECT_MISMATCH(peer.fingerprint[1] = 0x3c,
                    "model fingerprint differs: here 1a1a1a1a1a1a1a1a.. (left), peer "
                    "1a3c1a1a1a1a1a1a.. (right)");
    EXPECT_MISMATCH(peer.fingerprint[15] = 0, /* beyond what is printed */
                    "model fingerprint differs: here 1a1a1a1a1a1a1a1a.. (left), peer "
                    "1a1a1a1a1a1a1a1a.. (right)");
    EXPECT_MISMATCH(peer.codecs = 4, "no common codec: here 0x2, peer 0x4");
    EXPECT_MISMATCH(peer.digests = 4, "no common digest: here 0x2, peer 0x4");
    EXPECT_MISMATCH(peer.slot_bytes = 1984,
                    "the receiver's landing slot of 1984 bytes is too small for a token of 2048");
}
