/* SPDX-License-Identifier: Apache-2.0 */
/*
 * metadata share|encode [LAYERS BLOCKS] - what it costs to say where 100,000 scattered pieces of
 * 4 KiB go. Two cores move one transfer over the packet transport and a clean simulated link,
 * raw, in slices of 8 KiB; whatever the link carries beyond the pieces' own bytes is metadata,
 * both ways. The pieces are (layer, K|V, block): by default 24 layers of 2,084 blocks of 16 tokens
 * with 2 KV heads of 64 bf16, which is Qwen2.5-0.5B at 33,344 tokens, each side's blocks in a
 * random order of its own.
 *
 * share:  RESULT percent of the pieces' bytes, UDP payloads; IP and UDP headers are printed beside
 * encode: RESULT ms to make all of it once more: the offer with its check of every block, each
 *         message, chunk header and packet header with the headers' part of the digest. Best of 9,
 *         as other work shares the core
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../../compress/compress.h"
#include "../../kvwire/core.h"
#include "../../kvwire/kv/dense.h"
#include "../../kvwire/wire/chunks.h"
#include "../../kvwire/wire/credit.h"
#include "../../kvwire/wire/xfers.h"
#include "../../net/packet/endpoint.h"
#include "../../net/packet/frame.h"
#include "../../net/packet/wire.h"
#include "../../net/port/sim/sim.h"

#define PIECE_BYTES 4096u
#define TOKENS      16u /* of a block: 2 heads x 64 x bf16 each */
#define FRAMES_MAX  400000u
#define ROUNDS      9
#define MS          1000000ull

struct kind {
    uint64_t packets, bytes; /* bytes: without put bytes */
};

struct side {
    struct kvw_transport *net;
    struct kvw_core *core;
    struct kvw_pool pool;
    struct kvw_dense dense;
    kvw_pool_id pool_id;
    kvw_peer_id peer; /* the other one; 0: not up */
    struct kvw_group_blocks table;
    uint32_t *blocks;
    bool done;
    kvw_err err;
};

static struct side rx, tx;
static struct kvn_sim *sim;
static struct kind kinds[16];
static struct kvn_frame *frames; /* each packet that left, to be made again */
static uint32_t frame_count, chunks;
static uint64_t put_bytes; /* of slices, chunk headers among them */
static uint64_t raw_bytes, chunk_head_bytes;

static void die(const char *what)
{
    fprintf(stderr, "metadata: %s\n", what);
    exit(1);
}

static uint64_t clock_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint32_t below(uint32_t n)
{
    static uint64_t x;
    uint64_t z = x += 0x9e3779b97f4a7c15ull;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return (uint32_t)((z ^ z >> 31) % n);
}

/* Sees every packet as it leaves. */
static bool tap(void *arg, const struct kvn_sim_sight *sight)
{
    static uint8_t bytes[KVN_PAYLOAD_MAX];
    const struct kvn_tx_packet *p = sight->packet;
    uint32_t len = p->head_bytes;
    struct kvn_frame *f = &frames[frame_count++];
    struct kind *k;

    (void)arg;
    if (frame_count == FRAMES_MAX)
        die("more packets than there is room for");
    memcpy(bytes, p->head, p->head_bytes);
    for (uint32_t i = 0; i < p->body_count; ++i) {
        memcpy(bytes + len, p->body[i].base, p->body[i].bytes);
        len += p->body[i].bytes;
    }
    if (kvn_frame_decode(f, KVN_VERSIONS, bytes, len) != KVW_OK)
        die("a packet that can't be read");
    k = &kinds[f->type & 15];
    ++k->packets;
    k->bytes += len;
    if (f->type == KVN_PACKET_DATA) {
        k->bytes -= f->payload_bytes;
        put_bytes += f->payload_bytes;
    }
    return true;
}

static void pool_open(struct side *s, uint32_t layers, uint32_t blocks)
{
    struct kvw_pool *p = &s->pool;

    *p = (struct kvw_pool){.layers = layers,
                           .blocks = blocks,
                           .block_tokens = TOKENS,
                           .kv_heads = 2,
                           .head_dim = 64,
                           .dtype = KVW_DTYPE_BF16,
                           .head_stride = 128,
                           .token_stride = 256,
                           .block_stride = PIECE_BYTES,
                           .kv_stride = (uint64_t)blocks * PIECE_BYTES,
                           .layer_stride = 2ull * blocks * PIECE_BYTES};
    p->mem =
        (struct kvw_mem){.bytes = layers * p->layer_stride, .kind = KVW_MEM_HOST, .dmabuf_fd = -1};
    p->mem.base = calloc(1, p->mem.bytes);
    s->blocks = calloc(blocks, sizeof(*s->blocks));
    if (p->mem.base == NULL || s->blocks == NULL)
        die("no memory");
    for (uint32_t i = 0; i < blocks; ++i) { /* inside out: Fisher and Yates */
        const uint32_t at = below(i + 1);

        s->blocks[i] = s->blocks[at];
        s->blocks[at] = i;
    }
}

static void side_open(struct side *s, bool receiver)
{
    static const struct kvw_codec_ops *const raw[] = {&kvc_codec_raw, NULL};
    const struct kvn_packet_config net = {.seed = 1 + receiver, .slice_bytes = 8192};
    struct kvw_core_path path = {.name = "sim", .listen = receiver};
    struct kvw_core_config cfg = {.size = sizeof(cfg),
                                  .path_count = 1,
                                  .paths = &path,
                                  .instance = 1 + receiver,
                                  .codecs = raw};
    char why[KVN_WHY_BYTES] = "";
    const char *field = "";
    struct kvn_port *port;

    if (kvn_sim_port_open(&port, sim, !receiver) != KVW_OK ||
        kvn_packet_open(&s->net, port, &net, why) != KVW_OK)
        die(why);
    path.transport = s->net;
    if (kvw_core_open(&s->core, &cfg, kvn_sim_now(sim), &field) != KVW_OK)
        die(field);
    kvw_dense_make(&s->dense, &s->pool, "metadata");
    if (kvw_core_pool_add(s->core, &s->dense.desc, &s->pool_id, why, sizeof(why)) != KVW_OK)
        die(why);
}

static void events(struct side *s)
{
    struct kvw_core_event ev = {.size = sizeof(ev)};

    while (kvw_core_next_event(s->core, &ev)) {
        if (ev.kind == KVW_CEV_PEER_LOST)
            die(ev.text);
        if (ev.kind == KVW_CEV_PEER_POOL)
            s->peer = ev.peer;
        if (ev.kind != KVW_CEV_XFER_DONE)
            continue;
        s->done = true;
        s->err = (kvw_err)ev.err;
        raw_bytes = ev.raw_bytes;
        chunk_head_bytes = (uint64_t)ev.chunks * KVW_WIRE_CHUNK_LEN;
        chunks = ev.chunks;
    }
}

/* Both poll, then time moves to the next thing that is due. */
static void step(void)
{
    struct side *const sides[] = {&rx, &tx};
    uint64_t next = UINT64_MAX;

    for (int i = 0; i < 2; ++i) {
        while (kvw_core_poll(sides[i]->core, kvn_sim_now(sim)))
            events(sides[i]);
        events(sides[i]);
    }
    for (int i = 0; i < 2; ++i) {
        const uint64_t at = kvw_core_deadline_ns(sides[i]->core);

        next = at < next ? at : next;
    }
    kvn_sim_advance(sim, next);
}

static bool make_offer(const char *key, kvw_xfer_ref *x)
{
    const struct kvw_offer_args args = {.size = sizeof(args),
                                        .pool = rx.pool_id,
                                        .key = kvw_key_of(key),
                                        .tokens = rx.table.want_end,
                                        .group_count = 1,
                                        .groups = &rx.table,
                                        .sources = &rx.peer,
                                        .source_count = 1,
                                        .group_bytes = sizeof(rx.table)};

    return kvw_core_offer(rx.core, &args, kvn_sim_now(sim), x, NULL, 0) == KVW_OK;
}

/* Offer and take back, before anybody could hear of it. */
static double offer_ms(void)
{
    double best = 1e9;

    for (int i = 0; i < ROUNDS; ++i) {
        const uint64_t begin = clock_ns();
        kvw_xfer_ref x;
        double ms;

        if (!make_offer("taken back", &x))
            die("an offer of so many blocks is refused");
        ms = (double)(clock_ns() - begin) / 1e6;
        best = ms < best ? ms : best;
        if (kvw_core_abort(rx.core, x, NULL) != KVW_OK)
            die("abort");
        events(&rx);
    }
    while (kvw_core_deadline_ns(rx.core) <= kvn_sim_now(sim)) /* what it is owed for that */
        step();
    rx.done = false;
    return best;
}

static void move(void)
{
    const struct kvw_group_blocks have = {.block_count = tx.table.block_count,
                                          .blocks = tx.table.blocks};
    const struct kvw_stream_args args = {.size = sizeof(args),
                                         .pool = tx.pool_id,
                                         .key = kvw_key_of("move"),
                                         .tokens = tx.table.want_end,
                                         .group_count = 1,
                                         .groups = &have,
                                         .group_bytes = sizeof(have)};
    kvw_xfer_ref in, out;

    if (!make_offer("move", &in) ||
        kvw_core_stream(tx.core, &args, kvn_sim_now(sim), &out, NULL, 0) != KVW_OK)
        die("offer or stream");
    for (uint32_t l = 0; l < tx.pool.layers; ++l)
        if (kvw_core_push(tx.core, out, l, args.tokens, NULL) != KVW_OK)
            die("push");
    if (kvw_core_commit(tx.core, out, NULL, 0) != KVW_OK)
        die("commit");
    while (!rx.done || !tx.done)
        step();
    if (rx.err != KVW_OK || tx.err != KVW_OK)
        die("the transfer failed");
}

/* Piece i of every layer's K and V is the same on both sides. */
static bool same(void)
{
    for (uint32_t lk = 0; lk < 2 * rx.pool.layers; ++lk) {
        const uint64_t at = lk * rx.pool.kv_stride;

        for (uint32_t i = 0; i < rx.pool.blocks; ++i)
            if (memcmp((uint8_t *)rx.pool.mem.base + at + (uint64_t)rx.blocks[i] * PIECE_BYTES,
                       (uint8_t *)tx.pool.mem.base + at + (uint64_t)tx.blocks[i] * PIECE_BYTES,
                       PIECE_BYTES) != 0)
                return false;
    }
    return true;
}

/* All that was said, once more. */
static double encode_ms(void)
{
    static uint8_t head[KVN_HEAD_BYTES_MAX], msg[KVW_WIRE_SHORT_MAX];
    static const struct kvw_wire_span spans[2] = {{.layers = 1, .token_end = 1, .rows = 1},
                                                  {.layers = 1, .token_end = 1, .rows = 1}};
    double best = 1e9;

    for (int round = 0; round < ROUNDS; ++round) {
        const uint64_t begin = clock_ns();
        double ms;

        for (uint32_t i = 0; i < frame_count; ++i)
            kvn_frame_seal(head, kvn_frame_encode(head, &frames[i]), NULL, 0, &(struct kvw_iov){0});
        for (uint32_t i = 0; i < chunks; ++i) {
            const struct kvw_wire_chunk h = {.epoch = 1,
                                             .seq = i,
                                             .rows = 2,
                                             .entries = 1,
                                             .raw_bytes = 1,
                                             .stream_bytes = 1,
                                             .codec = KVW_CODEC_RAW,
                                             .digest = KVW_DIGEST_XXH3_64};

            kvw_wire_chunk_encode(msg, &h);
            kvw_wire_grant_encode(msg, &(const struct kvw_wire_grant){.from = i, .count = 1});
        }
        kvw_wire_offer_encode(msg,
                              &(const struct kvw_wire_offer){.about.epoch = 1,
                                                             .lease_ns = KVW_LEASE_NS_MIN,
                                                             .take_by_ns = 1,
                                                             .tokens = 1,
                                                             .span_count = 2},
                              spans);
        ms = (double)(clock_ns() - begin) / 1e6;
        best = ms < best ? ms : best;
    }
    return best;
}

static double report(void)
{
    static const char *const names[16] = {
        [KVN_PACKET_HELLO] = "HELLO", [KVN_PACKET_HELLO_ACK] = "HELLO_ACK",
        [KVN_PACKET_DATA] = "DATA",   [KVN_PACKET_MSG] = "MSG",
        [KVN_PACKET_ACK] = "ACK",     [KVN_PACKET_PING] = "PING"};
    uint64_t packets = 0, bytes = chunk_head_bytes;

    printf("%-22s %9s %12s %8s\n", "", "packets", "bytes", "% of KV");
    for (int i = 0; i < 16; ++i) {
        if (kinds[i].packets > 0)
            printf("%-22s %9llu %12llu %8.4f\n", names[i] != NULL ? names[i] : "other",
                   (unsigned long long)kinds[i].packets, (unsigned long long)kinds[i].bytes,
                   100.0 * (double)kinds[i].bytes / (double)raw_bytes);
        packets += kinds[i].packets;
        bytes += kinds[i].bytes;
    }
    bytes += put_bytes - chunk_head_bytes - raw_bytes; /* slices that were sent twice: none here */
    printf("%-22s %9u %12llu %8.4f\n", "chunk headers", chunks,
           (unsigned long long)chunk_head_bytes,
           100.0 * (double)chunk_head_bytes / (double)raw_bytes);
    printf("%-22s %9llu %12llu %8.4f\n", "in all", (unsigned long long)packets,
           (unsigned long long)bytes, 100.0 * (double)bytes / (double)raw_bytes);
    printf("%-22s %9s %12llu %8.4f\n", "with IPv4 and UDP", "",
           (unsigned long long)(bytes + 28 * packets),
           100.0 * (double)(bytes + 28 * packets) / (double)raw_bytes);
    return 100.0 * (double)bytes / (double)raw_bytes;
}

int main(int argc, char **argv)
{
    const struct kvn_sim_link link = {.delay_ns = 10000, .bytes_per_s = 12500000000};
    const uint32_t layers = argc > 3 ? (uint32_t)atoi(argv[2]) : 24;
    const uint32_t blocks = argc > 3 ? (uint32_t)atoi(argv[3]) : 2084;
    double share, offer, encode;
    uint64_t word = 1;
    kvw_peer_id peer;

    if (argc < 2 || (strcmp(argv[1], "share") != 0 && strcmp(argv[1], "encode") != 0))
        die("share|encode [LAYERS BLOCKS]");
    pool_open(&rx, layers, blocks);
    pool_open(&tx, layers, blocks);
    for (uint64_t i = 0; i < tx.pool.mem.bytes; i += 8) {
        word = word * 6364136223846793005ull + 1442695040888963407ull;
        memcpy((uint8_t *)tx.pool.mem.base + i, &word, 8);
    }
    frames = calloc(FRAMES_MAX, sizeof(*frames));
    if (frames == NULL)
        die("no memory");
    sim = kvn_sim_open(1, 8192 + KVN_HEAD_BYTES_MAX);
    kvn_sim_links(sim, &link);
    kvn_sim_tap(sim, tap, NULL);
    side_open(&rx, true);
    side_open(&tx, false);
    rx.table = (struct kvw_group_blocks){
        .block_count = blocks, .blocks = rx.blocks, .want_end = blocks * TOKENS};
    tx.table = (struct kvw_group_blocks){
        .block_count = blocks, .blocks = tx.blocks, .want_end = blocks * TOKENS};
    if (kvw_core_peer_add(tx.core, 0, NULL, kvn_sim_now(sim), &peer) != KVW_OK)
        die("peer");
    while (rx.peer.value == 0 || tx.peer.value == 0)
        step();
    offer = offer_ms();
    move();
    if (!same())
        die("a piece came to the wrong place");
    printf("%u pieces of %u bytes in random order, %.1f MB: %u layers, K and V, %u blocks\n",
           2 * layers * blocks, PIECE_BYTES, (double)raw_bytes / 1e6, layers, blocks);
    share = report();
    encode = encode_ms();
    printf("%.2f ms: the offer %.3f, %u packet headers and %u chunks %.2f\n", offer + encode, offer,
           frame_count, chunks, encode);
    if (strcmp(argv[1], "share") == 0)
        printf("RESULT %.4f 0\n", share);
    else
        printf("RESULT %.3f 0\n", offer + encode);
    kvw_core_close(tx.core, kvn_sim_now(sim));
    kvw_core_close(rx.core, kvn_sim_now(sim));
    tx.net->ops->close(tx.net);
    rx.net->ops->close(rx.net);
    kvn_sim_close(sim);
    free(rx.pool.mem.base);
    free(tx.pool.mem.base);
    free(rx.blocks);
    free(tx.blocks);
    free(frames);
    return 0;
}
