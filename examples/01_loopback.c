/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 01_loopback.c - one process, two sessions, one transfer: the whole of kvwire.h in one sitting.
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
#include "kvwire/kvwire.h"
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

static struct kvw_session *make_session(kvw_role role, const struct kvw_pool *pool)
{
    const struct kvn_config net = {.local = "example", .listener = role == KVW_ROLE_RECEIVER};
    struct kvw_session_config cfg = {.size = sizeof(cfg),
                                     .role = role,
                                     .model_name = "four small layers",
                                     .pool = *pool,
                                     .codecs = kvc_codecs};
    char why[KVN_WHY_BYTES];
    struct kvw_session *s;
    const char *field = "";
    kvw_err err = kvn_open(&cfg.transport, "loop", &net, why);

    if (err != KVW_OK)
        die(why, err);
    if ((err = kvw_session_open(&s, &cfg, 0, &field)) != KVW_OK)
        die(field, err);
    return s; /* the transports live as long as the process; a server would keep and close them */
}

/* Print what happened on one side; true when its transfer has ended. */
static bool print_events(const char *who, struct kvw_session *s)
{
    struct kvw_event ev;
    bool done = false;

    while (kvw_session_next_event(s, &ev)) {
        switch (ev.kind) {
        case KVW_EV_PEER_UP:
            printf("%-8s peer up: %s\n", who, ev.text);
            break;
        case KVW_EV_PEER_LOST:
            printf("%-8s peer lost: %s\n", who, ev.text);
            break;
        case KVW_EV_OFFERED:
            printf("%-8s blocks are waiting for transfer %" PRIu64 "\n", who, ev.xfer.value);
            break;
        case KVW_EV_LAYER_SENT:
            printf("%-8s layer %u is in the peer's memory\n", who, ev.layer);
            break;
        case KVW_EV_LAYER_READY:
            printf("%-8s layer %u is in place\n", who, ev.layer);
            break;
        case KVW_EV_XFER_DONE:
            printf("%-8s transfer %" PRIu64 ": %s, %" PRIu64
                   " KV bytes in %u chunks, note '%.*s'\n",
                   who, ev.xfer.value, ev.text, ev.raw_bytes, ev.chunks, (int)ev.note_bytes,
                   ev.note != NULL ? (const char *)ev.note : "");
            done = true;
            if (ev.err != KVW_OK)
                die(ev.text, ev.err);
            break;
        }
    }
    return done;
}

int main(void)
{
    struct kvw_pool from = make_pool(16, false), to = make_pool(32, true);
    struct kvw_session *decode = make_session(KVW_ROLE_RECEIVER, &to);
    struct kvw_session *prefill = make_session(KVW_ROLE_SENDER, &from);
    /* Blocks of one sequence, in token order; anywhere in the pool. */
    const uint32_t from_ids[] = {7, 0, 5, 1, 3, 2, 4}, to_ids[] = {6, 2, 3, 0};
    const struct kvw_blocks from_blocks = {from_ids, 7, TOKENS}, to_blocks = {to_ids, 4, TOKENS};
    const kvw_xfer_id id = {42}; /* whoever routes the request chooses it */
    bool sent = false, received = false;
    kvw_err err;

    /* Both sides, in either order: the receiver lends blocks, the sender opens a stream for them.
     */
    if ((err = kvw_offer(decode, id, &to_blocks, NULL, 0)) != KVW_OK)
        die("offer", err);
    if ((err = kvw_stream_open(prefill, id, &from_blocks, 0, 0, 0)) != KVW_OK)
        die("stream", err);

    for (uint64_t now_ns = 0, layer = 0; !sent || !received; now_ns += 1000000) {
        /* "Prefill": compute a layer, push it, go on. Nothing here waits for the network. */
        if (layer < LAYERS) {
            memset((unsigned char *)from.mem.base + layer * from.layer_stride, (int)layer + 1,
                   from.layer_stride);
            if ((err = kvw_push_layer(prefill, id, (uint32_t)layer++, TOKENS, NULL)) != KVW_OK)
                die("push", err);
            if (layer == LAYERS && (err = kvw_commit(prefill, id, "first token: 7", 14)) != KVW_OK)
                die("commit", err);
        }
        /* In a server each side has its own loop: poll, take events, transport wait. */
        kvw_session_poll(prefill, now_ns);
        kvw_session_poll(decode, now_ns);
        sent = print_events("prefill", prefill) || sent;
        received = print_events("decode", decode) || received;
        if (now_ns > 10000000000ull)
            die("nothing happened for ten seconds", KVW_E_DEADLINE);
    }
    kvw_session_close(prefill, 0);
    kvw_session_close(decode, 0);
    free(from.mem.base);
    free(to.mem.base);
    return 0;
}
