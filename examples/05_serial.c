/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 05_serial.c - serial mode: decode is told of a request only when prefill has finished.
 *
 * Prefill stages two requests in the same blocks, one after the other: a request's blocks are free
 * as soon as its last layer is staged. There is room for two; the third is told so, and waits. Then
 * decode pulls the first by its reference, a few bytes as hex, as they would lie in vLLM's
 * kv_transfer_params. A reference that was used is refused by name.
 */
#include "llama.h"

enum { TOKENS = 100, PER_REQUEST = 7 };

static const uint32_t ids[PER_REQUEST] = {6, 2, 3, 0, 5, 1, 4};

static struct kvw_node *open_node(const char *name, uint32_t listen, const char *local,
                                  uint64_t stage_bytes)
{
    const struct kvw_node_config cfg = {.size = sizeof(cfg),
                                        .listen = listen,
                                        .name = name,
                                        .transport = "udp",
                                        .local = local,
                                        .stage_bytes = stage_bytes};
    struct kvw_node *node;
    char why[200] = "";

    if (kvw_node_open(&node, &cfg, why, sizeof(why)) != KVW_OK)
        die(name, why);
    return node;
}

static struct kvw_core_event await(struct kvw_node *node, const char *who, uint32_t kind)
{
    struct kvw_core_event ev = {.size = sizeof(ev)};

    while (kvw_node_wait(node, kvw_now_ns() + 5000000000ull))
        while (kvw_node_next_event(node, &ev))
            if (ev.kind == kind)
                return ev;
    die(who, "nothing happened for five seconds");
    return ev;
}

/* Prefill, into staging memory: returns when the request's blocks are free again. */
static kvw_err prefill(struct kvw_node *node, struct llama *model, kvw_pool_id pool,
                       uint32_t request, char *hex)
{
    const struct kvw_group_blocks blocks = {.block_count = PER_REQUEST, .blocks = ids};
    struct kvw_stage_ref ref;
    struct kvw_stage_args args = {.size = sizeof(args),
                                  .pool = pool,
                                  .tokens = TOKENS,
                                  .group_count = 1,
                                  .groups = &blocks,
                                  .until_ns = kvw_now_ns() + 30000000000ull,
                                  .ref = &ref};
    kvw_xfer_ref xfer;
    char why[300] = "", key[32];
    kvw_err err;

    snprintf(key, sizeof(key), "request %u", request);
    args.key = kvw_key_of(key);
    if ((err = kvw_node_stage(node, &args, &xfer, why, sizeof(why))) != KVW_OK) {
        printf("prefill  request %u waits: %s\n", request, why);
        return err;
    }
    for (uint32_t l = 0; l < LAYERS; ++l) {
        llama_layer(model, ids, request, l, TOKENS, 0); /* the model computes */
        if (kvw_node_push(node, xfer, l, TOKENS, NULL) != KVW_OK)
            die("push", "refused");
    }
    if (kvw_node_commit(node, xfer, &request, sizeof(request)) != KVW_OK)
        die("commit", "refused");
    if (await(node, "prefill", KVW_CEV_XFER_DONE).err != KVW_OK)
        die("prefill", "it was not staged");
    for (uint32_t i = 0; i < KVW_STAGE_REF_BYTES; ++i)
        sprintf(hex + 2 * i, "%02x", ref.bytes[i]);
    printf("prefill  request %u is staged, its blocks are free: %s\n", request, hex);
    return KVW_OK;
}

/* Decode, told of a request by prefill's answer. */
static kvw_err pull(struct kvw_node *node, kvw_pool_id pool, kvw_peer_id from, const char *hex)
{
    const struct kvw_group_blocks blocks = {
        .block_count = PER_REQUEST, .blocks = ids, .want_end = TOKENS};
    struct kvw_stage_ref ref;
    const struct kvw_offer_args args = {.size = sizeof(args),
                                        .pool = pool,
                                        .tokens = TOKENS,
                                        .group_count = 1,
                                        .groups = &blocks,
                                        .sources = &from,
                                        .source_count = 1,
                                        .staged = &ref};
    struct kvw_core_event done;
    kvw_xfer_ref xfer;
    char why[200] = "";

    for (uint32_t i = 0; i < KVW_STAGE_REF_BYTES; ++i) {
        unsigned byte;

        if (sscanf(hex + (size_t)2 * i, "%2x", &byte) != 1)
            die("reference", hex);
        ref.bytes[i] = (uint8_t)byte;
    }
    if (kvw_node_offer(node, &args, &xfer, why, sizeof(why)) != KVW_OK)
        die("offer", why);
    done = await(node, "decode", KVW_CEV_XFER_DONE);
    if (done.err == KVW_OK)
        printf("decode   got %llu KV bytes\n", (unsigned long long)done.raw_bytes);
    else
        printf("decode   is refused: %s (%s)\n", done.text, kvw_strerror((kvw_err)done.err));
    return (kvw_err)done.err;
}

static uint64_t differ(const struct llama *m, uint32_t request)
{
    uint64_t wrong = 0;

    for (uint32_t l = 0; l < LAYERS; ++l)
        wrong += llama_layer(m, ids, request, l, TOKENS, 1);
    return wrong;
}

int main(void)
{
    const uint64_t request_bytes = 2ull * LAYERS * TOKENS * TOKEN_BYTES;
    struct kvw_node *decode = open_node("decode", 0, "127.0.0.1:0", 0);
    struct kvw_node *node = open_node("prefill", 1, "127.0.0.1:7405", 2 * request_bytes);
    struct llama to, from;
    const kvw_pool_id to_pool = llama_pool(&to, 7, decode), from_pool = llama_pool(&from, 7, node);
    char first[65], second[65], third[65];
    kvw_peer_id peer;

    if (kvw_node_peer_add(decode, "127.0.0.1:7405", &peer) != KVW_OK)
        die("peer", "it can't be added");
    if (prefill(node, &from, from_pool, 1, first) != KVW_OK ||
        prefill(node, &from, from_pool, 2, second) != KVW_OK)
        return 1;
    if (prefill(node, &from, from_pool, 3, third) != KVW_E_AGAIN)
        die("prefill", "there was room for a third");
    if (pull(decode, to_pool, peer, first) != KVW_OK || differ(&to, 1) != 0)
        return 1;
    (void)await(node, "prefill", KVW_CEV_STAGE_GONE); /* there is room again */
    if (prefill(node, &from, from_pool, 3, third) != KVW_OK)
        return 1;
    if (pull(decode, to_pool, peer, first) != KVW_E_NOTFOUND || differ(&to, 1) != 0)
        return 1; /* refused, and not a byte of what is there has changed */
    if (pull(decode, to_pool, peer, second) != KVW_OK || differ(&to, 2) != 0)
        return 1;
    if (pull(decode, to_pool, peer, third) != KVW_OK || differ(&to, 3) != 0)
        return 1;
    printf("ok: three requests, in blocks for one\n");
    kvw_node_close(node);
    kvw_node_close(decode);
    return 0;
}
