/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 02_two_nodes.c - one process, two nodes, one request: the whole of node.h in one sitting.
 *
 * The decode node offers blocks for a request; the prefill node fills them layer by layer. Each
 * node has a thread of its own, this one only looks at events.
 */
#include "llama.h"

enum { TOKENS = 100 };

static struct kvw_node *open_node(const char *name, uint32_t listen, const char *local)
{
    const struct kvw_node_config cfg = {
        .size = sizeof(cfg), .listen = listen, .name = name, .transport = "udp", .local = local};
    struct kvw_node *node;
    char why[200] = "";

    if (kvw_node_open(&node, &cfg, why, sizeof(why)) != KVW_OK)
        die(name, why);
    return node;
}

/* Wait for an event of that kind; others are printed and passed over. */
static struct kvw_core_event await(struct kvw_node *node, const char *who, uint32_t kind)
{
    struct kvw_core_event ev = {.size = sizeof(ev)};

    while (kvw_node_wait(node, kvw_now_ns() + 5000000000ull))
        while (kvw_node_next_event(node, &ev)) {
            if (ev.kind == KVW_CEV_LAYER_READY || ev.kind == KVW_CEV_LAYER_SENT)
                printf("%-8s layer %u\n", who, ev.layer);
            if (ev.kind == kind)
                return ev;
        }
    die(who, "nothing happened for five seconds");
    return ev;
}

int main(void)
{
    struct kvw_node *decode = open_node("decode", 1, "127.0.0.1:7402");
    struct kvw_node *prefill = open_node("prefill", 0, "127.0.0.1:0");
    struct llama to, from;
    const kvw_pool_id to_pool = llama_pool(&to, 64, decode);
    const kvw_pool_id from_pool = llama_pool(&from, 64, prefill);
    const uint32_t to_ids[] = {6, 2, 3, 0, 9, 11, 5}, from_ids[] = {7, 0, 5, 1, 3, 2, 4};
    const struct kvw_group_blocks to_blocks = {
        .block_count = 7, .blocks = to_ids, .want_end = TOKENS}; /* decode has none of them */
    const struct kvw_group_blocks from_blocks = {.block_count = 7, .blocks = from_ids};
    kvw_peer_id peer, other;
    kvw_xfer_ref offer, stream;
    char why[200] = "";
    uint8_t blob[512];
    uint32_t blob_bytes = sizeof(blob);

    /* How prefill learns of decode: a blob, handed over by whatever the two have in common. */
    if (kvw_node_blob(decode, blob, &blob_bytes) != KVW_OK ||
        kvw_node_peer_blob(prefill, blob, blob_bytes, &peer) != KVW_OK)
        die("blob", "it can't be made or read");
    other = await(decode, "decode", KVW_CEV_PEER_UP).peer;

    const struct kvw_offer_args offer_args = {.size = sizeof(offer_args),
                                              .pool = to_pool,
                                              .key = kvw_key_of("request 1"),
                                              .tokens = TOKENS,
                                              .group_count = 1,
                                              .groups = &to_blocks,
                                              .sources = &other,
                                              .source_count = 1};
    const struct kvw_stream_args stream_args = {.size = sizeof(stream_args),
                                                .pool = from_pool,
                                                .key = kvw_key_of("request 1"),
                                                .tokens = TOKENS,
                                                .group_count = 1,
                                                .groups = &from_blocks};

    if (kvw_node_offer(decode, &offer_args, &offer, why, sizeof(why)) != KVW_OK)
        die("offer", why);
    if (kvw_node_stream(prefill, &stream_args, &stream, why, sizeof(why)) != KVW_OK)
        die("stream", why);
    for (uint32_t l = 0; l < LAYERS; ++l) {
        llama_layer(&from, from_ids, 1, l, TOKENS, 0); /* the model computes */
        if (kvw_node_push(prefill, stream, l, TOKENS, NULL) != KVW_OK)
            die("push", "refused");
    }
    if (kvw_node_commit(prefill, stream, "first token", 11) != KVW_OK)
        die("commit", "refused");

    const struct kvw_core_event done = await(decode, "decode", KVW_CEV_XFER_DONE);
    uint64_t wrong = 0;

    for (uint32_t l = 0; l < LAYERS; ++l)
        wrong += llama_layer(&to, to_ids, 1, l, TOKENS, 1);
    printf("%s: %llu KV bytes as %llu, %u chunks, note '%.*s', %llu words differ\n",
           done.err == KVW_OK ? "ok" : done.text, (unsigned long long)done.raw_bytes,
           (unsigned long long)done.wire_bytes, done.chunks, (int)done.note_bytes,
           (const char *)done.note, (unsigned long long)wrong);
    kvw_node_close(prefill);
    kvw_node_close(decode);
    return done.err == KVW_OK && wrong == 0 ? 0 : 1;
}
