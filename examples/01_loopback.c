/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 01_loopback.c - one process, two cores, one transfer: core.h with a transport and a loop of one's
 * own, which is what node.h (02_two_nodes.c) does for you.
 *
 * The "model" is four layers with two KV heads of 64 f16 values. The sender keeps its KV in blocks
 * of 16 tokens with a token's heads side by side, the receiver in blocks of 32 with a head's tokens
 * side by side; the transfer maps one onto the other. Run it; it prints each event as it comes.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compress/compress.h"
#include "kvwire/core.h"
#include "kvwire/kv/dense.h"
#include "net/net.h"

enum { LAYERS = 4, HEADS = 2, HEAD_DIM = 64, TOKENS = 100, BLOCKS = 8 };

static void die(const char *what, kvw_err err)
{
    fprintf(stderr, "01_loopback: %s: %s\n", what, kvw_strerror(err));
    exit(1);
}

/* Strides are all there is to a layout. Here: layer, K|V, block, then tokens and heads as asked. */
static struct kvw_pool make_pool(uint32_t block_tokens, bool heads_first)
{
    const uint64_t head_bytes = HEAD_DIM * 2;
    const uint64_t block_bytes = block_tokens * HEADS * head_bytes;
    struct kvw_pool p = {
        .layers = LAYERS,
        .blocks = BLOCKS,
        .block_tokens = block_tokens,
        .kv_heads = HEADS,
        .head_dim = HEAD_DIM,
        .dtype = KVW_DTYPE_F16,
        .token_stride = heads_first ? head_bytes : HEADS * head_bytes,
        .head_stride = heads_first ? block_tokens * head_bytes : head_bytes,
        .block_stride = block_bytes,
        .kv_stride = BLOCKS * block_bytes,
        .layer_stride = 2 * BLOCKS * block_bytes,
    };

    p.mem =
        (struct kvw_mem){.bytes = LAYERS * p.layer_stride, .kind = KVW_MEM_HOST, .dmabuf_fd = -1};
    if ((p.mem.base = calloc(1, p.mem.bytes)) == NULL)
        die("pool", KVW_E_NOMEM);
    return p;
}

struct side {
    const char *name;
    struct kvw_pool memory;
    struct kvw_core *core;
    kvw_pool_id pool;
    kvw_peer_id peer; /* the other one; 0: not up */
    bool done;
};

static void open_side(struct side *s, bool listen)
{
    const struct kvn_config net = {.local = "example", .listener = listen};
    struct kvw_core_path path = {.name = "loop", .listen = listen};
    const struct kvw_core_config cfg = {.size = sizeof(cfg),
                                        .path_count = 1,
                                        .paths = &path,
                                        .instance = 1 + listen, /* a random number, in earnest */
                                        .name = s->name,
                                        .codecs = kvc_codecs};
    static struct kvw_dense dense;
    char why[KVN_WHY_BYTES] = "";
    const char *field = "";
    kvw_err err = kvn_open(&path.transport, "loop", &net, why);

    if (err != KVW_OK)
        die(why, err);
    if ((err = kvw_core_open(&s->core, &cfg, 0, &field)) != KVW_OK)
        die(field, err);
    kvw_dense_make(&dense, &s->memory, "four small layers");
    if ((err = kvw_core_pool_add(s->core, &dense.desc, &s->pool, why, sizeof(why))) != KVW_OK)
        die(why, err);
    /* The transports live as long as the process; a server would keep and close them. */
}

/* Print what happened on one side. */
static void print_events(struct side *s)
{
    struct kvw_core_event ev = {.size = sizeof(ev)};

    while (kvw_core_next_event(s->core, &ev)) {
        switch (ev.kind) {
        case KVW_CEV_PEER_UP:
            printf("%-8s peer up: %s\n", s->name, ev.text);
            break;
        case KVW_CEV_PEER_LOST:
            printf("%-8s peer lost: %s\n", s->name, ev.text);
            break;
        case KVW_CEV_PEER_POOL:
            printf("%-8s the peer has a pool of %s\n", s->name, ev.text);
            s->peer = ev.peer;
            break;
        case KVW_CEV_OFFERED:
            printf("%-8s blocks are waiting\n", s->name);
            break;
        case KVW_CEV_LAYER_SENT:
            printf("%-8s layer %u is in the peer's memory\n", s->name, ev.layer);
            break;
        case KVW_CEV_LAYER_READY:
            printf("%-8s layer %u is in place\n", s->name, ev.layer);
            break;
        case KVW_CEV_XFER_DONE:
            printf("%-8s %s, %" PRIu64 " KV bytes in %u chunks, note '%.*s'\n", s->name, ev.text,
                   ev.raw_bytes, ev.chunks, (int)ev.note_bytes, (const char *)ev.note);
            if (ev.err != KVW_OK)
                die(ev.text, (kvw_err)ev.err);
            s->done = true;
            break;
        }
    }
}

/* In a server each side has its own loop: poll, take events, the transport's wait(). */
static void turn(struct side *a, struct side *b, uint64_t now_ns)
{
    kvw_core_poll(a->core, now_ns);
    kvw_core_poll(b->core, now_ns);
    print_events(a);
    print_events(b);
    if (now_ns > 10000000000ull)
        die("nothing happened for ten seconds", KVW_E_DEADLINE);
}

/* Both sides, in either order: the receiver lends blocks, the sender opens a stream for them.
 * Blocks are those of one sequence, in token order, anywhere in the pool. */
static kvw_xfer_ref begin(struct side *decode, struct side *prefill, uint64_t now_ns)
{
    static const uint32_t from_ids[] = {7, 0, 5, 1, 3, 2, 4}, to_ids[] = {6, 2, 3, 0};
    const struct kvw_group_blocks from = {.block_count = 7, .blocks = from_ids};
    const struct kvw_group_blocks to = {.block_count = 4, .blocks = to_ids, .want_end = TOKENS};
    const kvw_key key = kvw_key_of("request 42"); /* whoever routes the request chooses it */
    const struct kvw_offer_args offer = {.size = sizeof(offer),
                                         .pool = decode->pool,
                                         .key = key,
                                         .tokens = TOKENS,
                                         .group_count = 1,
                                         .groups = &to,
                                         .sources = &decode->peer,
                                         .source_count = 1};
    const struct kvw_stream_args stream = {.size = sizeof(stream),
                                           .pool = prefill->pool,
                                           .key = key,
                                           .tokens = TOKENS,
                                           .group_count = 1,
                                           .groups = &from};
    kvw_xfer_ref lent, x = {0};
    char why[257] = "";
    kvw_err err = kvw_core_offer(decode->core, &offer, now_ns, &lent, why, sizeof(why));

    if (err == KVW_OK)
        err = kvw_core_stream(prefill->core, &stream, now_ns, &x, why, sizeof(why));
    if (err != KVW_OK)
        die(why, err);
    return x;
}

int main(void)
{
    struct side decode = {.name = "decode", .memory = make_pool(32, true)};
    struct side prefill = {.name = "prefill", .memory = make_pool(16, false)};
    uint64_t now_ns = 0, layer = 0;
    kvw_peer_id id;
    kvw_err err;

    open_side(&decode, true);
    open_side(&prefill, false);
    if ((err = kvw_core_peer_add(prefill.core, 0, NULL, now_ns, &id)) != KVW_OK)
        die("peer", err);
    for (; decode.peer.value == 0 || prefill.peer.value == 0; now_ns += 1000000)
        turn(&prefill, &decode, now_ns);

    const kvw_xfer_ref x = begin(&decode, &prefill, now_ns);

    for (; !decode.done || !prefill.done; now_ns += 1000000) {
        /* "Prefill": compute a layer, push it, go on. Nothing here waits for the network. */
        if (layer < LAYERS) {
            memset((unsigned char *)prefill.memory.mem.base + layer * prefill.memory.layer_stride,
                   (int)layer + 1, prefill.memory.layer_stride);
            if ((err = kvw_core_push(prefill.core, x, (uint32_t)layer++, TOKENS, NULL)) != KVW_OK)
                die("push", err);
            if (layer == LAYERS &&
                (err = kvw_core_commit(prefill.core, x, "first token: 7", 14)) != KVW_OK)
                die("commit", err);
        }
        turn(&prefill, &decode, now_ns);
    }
    kvw_core_close(prefill.core, now_ns);
    kvw_core_close(decode.core, now_ns);
    free(prefill.memory.mem.base);
    free(decode.memory.mem.base);
    return 0;
}
