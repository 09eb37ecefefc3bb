/* SPDX-License-Identifier: Apache-2.0 */
/*
 * metadata share|encode [LAYERS BLOCKS] - what it costs to say where 100,000 scattered pieces of
 * 4 KiB go. Two sessions move one transfer over the packet transport and a clean simulated link,
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

#include "../compress/compress.h"
#include "../kvwire/chunk.h"
#include "../kvwire/kvwire.h"
#include "../kvwire/msg.h"
#include "../net/packet/endpoint.h"
#include "../net/packet/frame.h"
#include "../net/packet/wire.h"
#include "../net/port/sim.h"

#define PIECE_BYTES 4096u
#define TOKENS      16u /* of a block: 2 heads x 64 x bf16 each */
#define FRAMES_MAX  400000u
#define ROUNDS      9
#define MS          1000000ull
#define ID          ((kvw_xfer_id){1})

struct kind {
    uint64_t packets, bytes; /* bytes: without put bytes */
};

struct side {
    struct kvw_transport *net;
    struct kvw_session *session;
    struct kvw_pool pool;
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
    struct kvw_session_config cfg = {.size = sizeof(cfg),
                                     .role = receiver ? KVW_ROLE_RECEIVER : KVW_ROLE_SENDER,
                                     .model_name = "metadata",
                                     .pool = s->pool,
                                     .codecs = raw};
    char why[KVN_WHY_BYTES] = "";
    const char *field = "";
    struct kvn_port *port;

    if (kvn_sim_port_open(&port, sim, !receiver) != KVW_OK ||
        kvn_packet_open(&s->net, port, &net, why) != KVW_OK)
        die(why);
    cfg.transport = s->net;
    if (kvw_session_open(&s->session, &cfg, kvn_sim_now(sim), &field) != KVW_OK)
        die(field);
}

static void events(struct side *s)
{
    struct kvw_event ev;

    while (kvw_session_next_event(s->session, &ev)) {
        if (ev.kind == KVW_EV_PEER_LOST)
            die(ev.text);
        if (ev.kind != KVW_EV_XFER_DONE)
            continue;
        s->done = true;
        s->err = ev.err;
        raw_bytes = ev.raw_bytes;
        chunk_head_bytes = (uint64_t)ev.chunks * KVW_CHUNK_HDR_BYTES;
        chunks = ev.chunks;
    }
}

/* Both poll, then time moves to the next thing that is due. */
static void step(void)
{
    struct side *const sides[] = {&rx, &tx};
    uint64_t next = UINT64_MAX;

    for (int i = 0; i < 2; ++i) {
        while (kvw_session_poll(sides[i]->session, kvn_sim_now(sim)))
            events(sides[i]);
        events(sides[i]);
    }
    for (int i = 0; i < 2; ++i) {
        const uint64_t at = kvw_session_deadline_ns(sides[i]->session);

        next = at < next ? at : next;
    }
    kvn_sim_advance(sim, next);
}

/* Offer and take back, before anybody could hear of it. */
static double offer_ms(const struct kvw_blocks *blocks)
{
    double best = 1e9;

    for (int i = 0; i < ROUNDS; ++i) {
        const uint64_t begin = clock_ns();
        double ms;

        if (kvw_offer(rx.session, (kvw_xfer_id){2}, blocks, NULL, kvn_sim_now(sim)) != KVW_OK)
            die("an offer of so many blocks is refused");
        ms = (double)(clock_ns() - begin) / 1e6;
        best = ms < best ? ms : best;
        if (kvw_abort(rx.session, (kvw_xfer_id){2}, NULL) != KVW_OK)
            die("abort");
        events(&rx);
    }
    rx.done = false;
    return best;
}

static void move(const struct kvw_blocks *to, const struct kvw_blocks *from)
{
    if (kvw_offer(rx.session, ID, to, NULL, kvn_sim_now(sim)) != KVW_OK ||
        kvw_stream_open(tx.session, ID, from, 0, 0, kvn_sim_now(sim)) != KVW_OK)
        die("offer or stream");
    for (uint32_t l = 0; l < tx.pool.layers; ++l)
        if (kvw_push_layer(tx.session, ID, l, from->tokens, NULL) != KVW_OK)
            die("push");
    if (kvw_commit(tx.session, ID, NULL, 0) != KVW_OK)
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
    static uint8_t head[KVN_HEAD_BYTES_MAX], msg[KVW_MSG_SHORT_MAX];
    double best = 1e9;

    for (int round = 0; round < ROUNDS; ++round) {
        const uint64_t begin = clock_ns();
        double ms;

        for (uint32_t i = 0; i < frame_count; ++i)
            kvn_frame_seal(head, kvn_frame_encode(head, &frames[i]), NULL, 0, &(struct kvw_iov){0});
        for (uint32_t i = 0; i < chunks; ++i) {
            const struct kvw_chunk_hdr h = {
                .xfer = 1, .epoch = 1, .seq = i, .head_count = 2, .token_count = 1, .raw_bytes = 1};

            kvw_chunk_hdr_encode(msg, &h);
            kvw_grant_encode(msg, &(const struct kvw_grant){.limit = i});
        }
        kvw_offer_encode(msg, &(const struct kvw_offer_msg){.xfer = 1, .epoch = 1});
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
    struct kvw_blocks to, from;
    double share, offer, encode;
    uint64_t word = 1;

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
    to = (struct kvw_blocks){rx.blocks, blocks, blocks * TOKENS};
    from = (struct kvw_blocks){tx.blocks, blocks, blocks * TOKENS};
    offer = offer_ms(&to);
    move(&to, &from);
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
    kvw_session_close(tx.session, kvn_sim_now(sim));
    kvw_session_close(rx.session, kvn_sim_now(sim));
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
