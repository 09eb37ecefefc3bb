/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whatever peers send and whenever: a live core survives it, keeps to transport.h, writes nothing
 * outside the blocks that are lent, and ends each of its own transfers exactly once.
 *
 * The input is a program: each byte is an action with its arguments after it. Messages come as raw
 * bytes, and as well-formed ones with small numbers, so that transfers get somewhere.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../compress/compress.h"
#include "../../kvwire/core.h"
#include "../../kvwire/wire/batches.h"
#include "../../kvwire/wire/chunks.h"
#include "../../kvwire/wire/credit.h"
#include "../../kvwire/wire/hello.h"
#include "../../kvwire/wire/layout.h"
#include "../../kvwire/wire/le.h"
#include "../../kvwire/wire/xfers.h"
#include "../kvwire/core/state.h"
#include "../kvwire/fake.h"

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);                             \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#define KEYS    4u
#define TOKENS  12u
#define LAYERS  2u
#define CONNS   4u
#define SLOTS   3u
#define OPEN    16u
#define MS      1000000ull
#define ACTIONS 300u
#define REGION  16384u /* bytes; as many before and after it nobody may touch */
#define BATCHES 4u

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

struct line { /* a connection, as the peer knows it */
    kvw_conn_id conn;
    uint16_t slot[64];
    uint64_t limit, next; /* slots granted and used */
    uint32_t epoch;       /* of the last OFFER that came over it */
    uint8_t key;
    uint64_t batch; /* epoch of its last BATCH */
};

struct own {
    uint64_t ref;
    bool receiver;
    uint32_t key;
};

struct bench {
    const uint8_t *at, *end;
    struct fake fake;
    struct kvw_core *core;
    struct t_state state;
    struct kvw_layout *layout;
    kvw_pool_id pool;
    kvw_peer_id peers[8];
    uint32_t peer_count;
    struct line lines[CONNS];
    struct own own[OPEN];
    uint32_t own_count;
    kvw_conn_id answered; /* the last connect() that came up */
    uint64_t now;
    uint32_t slot_bytes; /* of the core's HELLO */
    kvw_region_id region;
    kvw_batch_id batch[BATCHES];
    uint8_t mem[3 * REGION];
    uint8_t msg[KVW_MSG_BYTES_MAX];
};

static struct bench b;

static uint8_t next(void)
{
    return b.at < b.end ? *b.at++ : 0;
}

static kvw_key key_of(uint32_t k)
{
    kvw_key key = {{(uint8_t)(k % KEYS), 1, 2, 3}}; /* 0x03020100 + k */

    return key;
}

/* Each key has its own blocks for a receiver (id below KEYS) and for a sender, so that a stray
 * write shows. */
static void zero_blocks(uint32_t id)
{
    for (uint32_t l = 0; l < LAYERS; ++l)
        for (uint32_t i = 0; i < 3; ++i)
            for (uint32_t p = 0; p < 2; ++p) {
                const struct kvw_plane *k = &b.state.planes[0][p][l];

                memset((unsigned char *)k->base + (id * 3 + i) * k->block_stride, 0,
                       k->block_stride);
            }
    memset((unsigned char *)b.state.planes[1][0][0].base +
               id * b.state.planes[1][0][0].block_stride,
           0, b.state.planes[1][0][0].block_stride);
}

static void take_done(const struct kvw_core_event *ev)
{
    uint32_t ids[3];

    for (uint32_t i = 0; i < b.own_count; ++i) {
        if (b.own[i].ref != ev->xfer.value)
            continue;
        if (ev->err == KVW_OK)
            CHECK(kvw_core_bad_blocks(b.core, ev->xfer, 0, ids, 3) == 0);
        CHECK(kvw_core_bad_blocks(b.core, ev->xfer, 0, ids, 3) <= 3);
        (void)kvw_core_layer_ready(b.core, ev->xfer, 1);
        if (b.own[i].receiver)
            zero_blocks(b.own[i].key);
        b.own[i] = b.own[--b.own_count];
        return;
    }
    CHECK(!"an end of what is not open");
}

static void take_events(void)
{
    struct kvw_core_event ev = {.size = sizeof(ev)};

    while (kvw_core_next_event(b.core, &ev)) {
        CHECK(strlen(ev.text) <= KVW_TEXT_BYTES_MAX);
        if (ev.kind == KVW_CEV_XFER_DONE)
            take_done(&ev);
        if (ev.kind == KVW_CEV_PEER_UP && b.peer_count < 8)
            b.peers[b.peer_count++] = ev.peer;
    }
}

static struct line *line_of(kvw_conn_id conn)
{
    for (uint32_t i = 0; i < CONNS; ++i)
        if (b.lines[i].conn.value == conn.value)
            return &b.lines[i];
    return NULL;
}

/* What the core has sent is sound, and the peer learns from it. */
static void read_sent(void)
{
    for (uint32_t i = 0; i < b.fake.sent_count; ++i) {
        const struct fake_msg *m = &b.fake.sent[i];
        struct line *l = line_of(m->conn);
        struct kvw_wire_grant g;
        struct kvw_wire_offer o;
        struct kvw_wire_hello h;

        if (m->msg[0] == KVW_WIRE_HELLO) {
            CHECK(kvw_wire_hello_decode(&h, m->msg, m->bytes) == KVW_OK);
            b.slot_bytes = h.slot_bytes;
        } else if (m->msg[0] == KVW_WIRE_GRANT) {
            CHECK(kvw_wire_grant_decode(&g, m->msg, m->bytes) == KVW_OK);
            for (uint32_t k = 0; k < g.count && l != NULL; ++k) {
                CHECK(kvw_wire_grant_slot(&g, k) < SLOTS);
                l->slot[(g.from + k) % 64] = (uint16_t)kvw_wire_grant_slot(&g, k);
                l->limit = g.from + k + 1;
            }
        } else if (m->msg[0] == KVW_WIRE_OFFER) {
            CHECK(kvw_wire_offer_decode(&o, m->msg, m->bytes) == KVW_OK);
            if (l != NULL) {
                l->epoch = o.about.epoch;
                l->key = o.about.key.bytes[0];
            }
        }
    }
    fake_drop_sent(&b.fake);
}

static void poll_it(uint32_t times)
{
    while (times-- > 0)
        kvw_core_poll(b.core, b.now);
    read_sent();
}

/* --- what its user does ----------------------------------------------------------------------- */

static void own_transfer(void)
{
    const uint32_t k = next() % KEYS, tokens = 1 + next() % TOKENS, how = next();
    const bool receiver = how % 2 == 0;
    const uint32_t id = receiver ? k : KEYS + k;
    const uint32_t blocks[3] = {id * 3, id * 3 + 1, id * 3 + 2};
    const struct kvw_group_blocks groups[2] = {
        {0, 3, blocks, 0, receiver ? how / 2 % tokens : 0, receiver ? tokens : 0},
        {1, 1, &id, 0, 0, 0}};
    const struct kvw_offer_terms terms = {
        .size = sizeof(terms), .take_by_ns = 200 * MS, .lease_ns = 50 * MS};
    const struct kvw_offer_args offer = {.size = sizeof(offer),
                                         .pool = b.pool,
                                         .key = key_of(k),
                                         .tokens = tokens,
                                         .group_count = 1 + how / 32 % 2,
                                         .groups = groups,
                                         .sources = b.peers,
                                         .source_count = 1 + how / 64 % 2,
                                         .terms = &terms};
    const struct kvw_stream_args stream = {.size = sizeof(stream),
                                           .pool = b.pool,
                                           .key = key_of(k),
                                           .tokens = tokens,
                                           .group_count = 1 + how / 32 % 2,
                                           .groups = groups,
                                           .receivers = 1 + how / 64 % 2,
                                           .offer_by_ns = b.now + 200 * MS};
    struct kvw_stage_ref staged;
    const struct kvw_stage_args stage = {.size = sizeof(stage),
                                         .pool = b.pool,
                                         .key = key_of(k),
                                         .tokens = tokens,
                                         .group_count = 1 + how / 32 % 2,
                                         .groups = groups,
                                         .pulls = 1 + how / 64 % 2,
                                         .until_ns = b.now + 200 * MS,
                                         .ref = &staged};
    kvw_xfer_ref ref;
    char why[64] = "";
    kvw_err err;

    if (b.own_count == OPEN || (receiver && b.peer_count < 2))
        return;
    for (uint32_t i = 0; i < b.own_count; ++i) /* its blocks are still lent */
        if (b.own[i].receiver == receiver && b.own[i].key == k)
            return;
    if (receiver)
        err = kvw_core_offer(b.core, &offer, b.now, &ref, why, sizeof(why));
    else if (how < 128)
        err = kvw_core_stream(b.core, &stream, b.now, &ref, why, sizeof(why));
    else
        err = kvw_core_stage(b.core, &stage, b.now, &ref, why, sizeof(why));
    if (err == KVW_OK)
        b.own[b.own_count++] = (struct own){ref.value, receiver, k};
    else
        CHECK(why[0] != '\0');
}

static void pool_again(void)
{
    char why[64];

    if (b.pool.value != 0)
        CHECK(kvw_core_pool_remove(b.core, b.pool, b.now) == KVW_OK);
    b.pool.value = 0;
    take_events();
    CHECK(kvw_core_pool_add(b.core, &b.state.desc, &b.pool, why, sizeof(why)) == KVW_OK);
}

static void own_action(void)
{
    struct kvw_peer_info info = {.size = sizeof(info)};
    struct kvw_core_stats stats = {.size = sizeof(stats)};
    const uint32_t a = next(), c = next();
    const kvw_xfer_ref ref = {b.own_count > 0 ? b.own[c % b.own_count].ref : c};
    const kvw_peer_id peer = b.peers[c % 8];

    switch (a % 9) {
    case 0:
        (void)!kvw_core_push(b.core, ref, a / 9 % (LAYERS + 1), c % (TOKENS + 2), NULL);
        break;
    case 1:
    case 2:
        for (uint32_t l = 0; l < LAYERS; ++l)
            for (uint32_t t = TOKENS; t > 0; --t)
                if (kvw_core_push(b.core, ref, l, t, NULL) == KVW_OK)
                    break;
        (void)!kvw_core_commit(b.core, ref, "note", c % 5);
        break;
    case 3:
        (void)!kvw_core_abort(b.core, ref, c % 2 == 0 ? NULL : "fuzz");
        break;
    case 4:
        (void)!kvw_core_refuse(b.core, peer, key_of(c / 8), KVW_E_NOBLOCKS, "fuzz");
        break;
    case 5:
        if (a > 200)
            (void)!kvw_core_peer_drop(b.core, peer, b.now);
        break;
    case 6:
        if (a > 200)
            pool_again();
        break;
    case 7:
        (void)kvw_core_layer_ready(b.core, ref, c % 3);
        if (kvw_core_peer_info(b.core, peer, &info) == KVW_OK)
            CHECK(info.state >= KVW_PEER_DOWN && info.state <= KVW_PEER_UP);
        break;
    default:
        kvw_core_stats(b.core, &stats);
        CHECK(stats.slots_free <= SLOTS && stats.xfers_open <= b.own_count);
        break;
    }
}

/* --- batches ---------------------------------------------------------------------------------- */

static void add_region(void)
{
    const struct kvw_mem mem = {
        .base = b.mem + REGION, .bytes = REGION, .kind = KVW_MEM_HOST, .dmabuf_fd = -1};
    const struct kvw_region_args args = {
        .size = sizeof(args), .rights = 3, .mem = &mem, .mem_bytes = sizeof(mem)};
    char why[96];

    CHECK(kvw_core_region_add(b.core, &args, &b.region, why, sizeof(why)) == KVW_OK);
}

/* Its own posts, of pieces that the peer may or may not have told of. */
static void own_batch(void)
{
    const uint32_t how = next(), at = next();
    kvw_batch_id *batch = &b.batch[how / 8 % BATCHES];
    struct kvw_batch_piece pieces[2] = {
        {(uintptr_t)b.mem + REGION + at * 16, 0x10000 + at * 64, 1 + how * 64},
        {(uintptr_t)b.mem + REGION, 0x10000, 4096}};
    const struct kvw_batch_args args = {.size = sizeof(args),
                                        .op = 1 + (how & 1),
                                        .peer = b.peers[at % 8],
                                        .piece_count = 1 + (how >> 1 & 1),
                                        .pieces = pieces};
    const struct kvw_post_args post = {.size = sizeof(post),
                                       .quiet = at & 1,
                                       .note = "note",
                                       .note_bytes = at % 5,
                                       .deadline_ns = at % 3 == 0 ? b.now + at * MS : 0};
    struct kvw_batch_status s = {.size = sizeof(s)};
    char why[160] = "";

    if (how % 8 < 3 && kvw_core_batch_status(b.core, *batch, &s) != KVW_OK)
        (void)!kvw_core_batch_make(b.core, &args, batch, why, sizeof(why));
    else if (how % 8 < 5)
        (void)!kvw_core_batch_post(b.core, *batch, &post, b.now, why, sizeof(why));
    else if (how % 8 == 5)
        (void)!kvw_core_batch_release(b.core, *batch, b.now);
    else if (how % 8 == 6)
        (void)!kvw_core_notify(b.core, args.peer, "alone", 1 + at % 5);
    else if (at > 128) {
        CHECK(kvw_core_region_remove(b.core, b.region, b.now) == KVW_OK);
        add_region();
    }
}

static uint32_t make_batch(struct line *l, uint32_t v)
{
    const uint32_t how = next(), n = 1 + next() * 16;
    struct kvw_wire_batch m = {.epoch = l->batch + (how < 240),
                               .bytes = (uint64_t)n * (1 + v % 4),
                               .chunk_bytes = 4096,
                               .runs = 1 + (how >> 5 & 1),
                               .first = how >= 250,
                               .count = 1,
                               .op = 1 + (how & 1),
                               .note = (const uint8_t *)"note"};
    const struct kvw_wire_run r = {.base = (uintptr_t)b.mem + REGION + v * 64,
                                   .stride = (how & 2) != 0 ? -(int64_t)n : (int64_t)n,
                                   .bytes = n,
                                   .count = 1 + v % 4,
                                   .region = b.region.value + (how >> 2 & 7) / 7};

    if (m.first >= m.runs)
        m.first = 0;
    m.note_bytes = m.op == KVW_BATCH_WRITE && m.first == 0 ? how % 5 : 0;
    l->batch = m.epoch;
    if (m.epoch == 0)
        m.epoch = 1;
    kvw_wire_run_encode(b.msg + kvw_wire_batch_run_at(&m, 0), &r);
    return kvw_wire_batch_encode(b.msg, &m);
}

static void batch_message(struct line *l)
{
    const uint32_t kind = next(), v = next();
    const struct kvw_wire_region region = {
        .base = 0x10000, .bytes = 1 + v * 256, .id = 1 + v / 8, .rights = 1 + v % 3};
    const struct kvw_wire_region all = {.id = 0};
    const struct kvw_wire_batch_done done = {.epoch = 1 + v % 8,
                                             .err = v % 16 < 8 ? KVW_OK : KVW_E_CANCELED,
                                             .bytes = v % 16 < 8 ? 1 + v * 64ull : 0,
                                             .of_reader = v > 128};
    const struct kvw_wire_notify note = {1 + v % 5, (const uint8_t *)"notes"};
    uint32_t n;

    if (kind < 60)
        n = kvw_wire_region_encode(b.msg, kind < 40 ? &region : &all);
    else if (kind < 70)
        n = kvw_wire_gone_encode(b.msg, 1 + v / 8);
    else if (kind < 180)
        n = make_batch(l, v);
    else if (kind < 220)
        n = kvw_wire_batch_done_encode(b.msg, &done);
    else
        n = kvw_wire_notify_encode(b.msg, &note);
    fake_message(&b.fake, l->conn, b.msg, n);
}

/* A batch's chunk into the slot whose turn it is. */
static void land_batch(struct line *l)
{
    const uint32_t what = next(), size = next();
    static uint8_t put[KVW_WIRE_CHUNK_LEN + 4096];
    struct kvw_wire_batch_chunk h = {.epoch = l->batch + (what >= 240),
                                     .offset = (uint64_t)(what >> 1 & 3) * 4096,
                                     .seq = (uint32_t)l->next,
                                     .bytes = size < 128 ? 1 + size * 16 : 4096,
                                     .op = 1 + (what & 1),
                                     .digest = KVW_DIGEST_XXH3_64};
    struct kvw_digest d;

    if (h.epoch == 0)
        h.epoch = 1;
    memset(put, 0x55, sizeof(put));
    CHECK(kvw_digest_begin(&d, KVW_DIGEST_XXH3_64) == KVW_OK);
    kvw_digest_update(&d, put + KVW_WIRE_CHUNK_LEN, h.bytes);
    h.digest_value = kvw_digest_value(&d) + (what % 32 == 31);
    kvw_wire_batch_chunk_encode(put, &h);
    if (fake_land(&b.fake, l->conn, (uint64_t)l->slot[l->next % 64] * b.slot_bytes, put,
                  KVW_WIRE_CHUNK_LEN + h.bytes, (uint32_t)l->next))
        ++l->next;
}

static void batch_action(struct line *l)
{
    switch (next() % 4) {
    case 0:
        own_batch();
        break;
    case 1:
        land_batch(l);
        break;
    default:
        batch_message(l);
    }
}

static void check_region(void)
{
    for (uint32_t i = 0; i < REGION; ++i)
        CHECK(b.mem[i] == 0 && b.mem[2 * REGION + i] == 0);
}

/* --- what peers do ---------------------------------------------------------------------------- */

static void connect_it(struct line *l)
{
    const uint8_t how = next();
    struct kvw_wire_hello h = {.versions = 4,
                               .instance = 1 + how / 4 % 3 * 100, /* below, equal or above ours */
                               .codecs = 2,
                               .digests = 2,
                               .features = how >> 6 & 1,
                               .slot_bytes = 4096 + KVW_WIRE_CHUNK_LEN,
                               .offers = 1 + how % 3,
                               .dead_ms = 1000,
                               .name = "peer"};

    if (b.fake.conns + 40 >= FAKE_CONNS)
        return;
    memset(l, 0, sizeof(*l));
    if (how % 4 == 0 && b.fake.dialled.value != b.answered.value &&
        b.fake.live[b.fake.dialled.value]) {
        l->conn = b.answered = b.fake.dialled;
        fake_dialled_up(&b.fake);
    } else {
        l->conn = fake_incoming(&b.fake);
    }
    if (how >= 250)
        return; /* says nothing */
    fake_message(&b.fake, l->conn, b.msg, kvw_wire_hello_encode(b.msg, &h));
    if (how < 200)
        fake_message(&b.fake, l->conn, b.msg, kvw_layout_encode(b.msg, 9, b.layout));
}

static void raw_message(const struct line *l)
{
    uint8_t msg[256];
    const uint32_t n = next();

    for (uint32_t i = 0; i < n; ++i)
        msg[i] = next();
    fake_message(&b.fake, l->conn, msg, n);
}

static struct kvw_wire_about about(const struct line *l, uint32_t v)
{
    struct kvw_wire_about a = {.epoch = v < 64 ? 1 + v % 4 : l->epoch};
    const kvw_key key = key_of(v < 128 ? v / 4 : l->key);

    if (a.epoch == 0)
        a.epoch = 1;
    memcpy(a.key.bytes, key.bytes, sizeof(key.bytes));
    return a;
}

static uint32_t make_offer(const struct line *l, uint32_t v)
{
    const uint32_t tokens = 1 + next() % TOKENS, how = next();
    const struct kvw_wire_span spans[3] = {
        {0, (uint8_t)(how & 1), 0, 1 + (how >> 1 & 1), 0, tokens, how >> 2 & 1, 1},
        {(uint8_t)(how >> 3 & 1), 0, how >> 4 & 1, 1, 0, 1, 0, 1 + (how >> 5 & 1)},
        {0, 1, 1, 1, tokens / 2, tokens, 0, 2}};
    const struct kvw_wire_offer offer = {.about = about(l, v % 64),
                                         .lease_ns = 50 * MS,
                                         .take_by_ns = 100 * MS,
                                         .tokens = tokens,
                                         .pool = 9,
                                         .stage = v / 64 == 3 ? 1 + tokens % 4 : 0,
                                         .span_count = how >> 6};

    return kvw_wire_offer_encode(b.msg, &offer, spans);
}

static uint32_t make_slots(uint32_t kind, uint32_t v)
{
    struct kvw_wire_grant grant = {.from = v % 16, .count = 1 + v / 64};

    if (kind == 0) {
        for (uint32_t i = 0; i < grant.count; ++i)
            kvw_store_le16(b.msg + KVW_WIRE_GRANT_LEN + 2 * i, (uint16_t)(v % 8 + i));
        return kvw_wire_grant_encode(b.msg, &grant);
    }
    return kind == 1 ? kvw_wire_recall_encode(b.msg) : kvw_wire_return_encode(b.msg, v % 8);
}

/* Well-formed, with numbers that may fit. */
static void good_message(const struct line *l)
{
    const uint32_t kind = next() % 11, v = next();
    const struct kvw_wire_commit commit = {about(l, v), v % 13 * 32u, v % 7, 0, b.msg};
    const struct kvw_wire_done done = {about(l, v), v % 13 * 32u, v % 7};
    struct kvw_wire_abort end = {.about = about(l, v), .err = KVW_E_CANCELED, .text = "peer"};
    uint32_t n;

    switch (kind) {
    case 0:
    case 1:
    case 2:
        n = make_slots(kind, v);
        break;
    case 3:
    case 4:
        n = make_offer(l, v);
        break;
    case 5:
        kvw_store_le32(b.msg + KVW_WIRE_ALIVE_LEN, end.about.epoch);
        kvw_store_le32(b.msg + KVW_WIRE_ALIVE_LEN + 4, v);
        n = kvw_wire_alive_encode(b.msg, 1 + v % 2);
        break;
    case 6:
        n = kvw_wire_commit_encode(b.msg, &commit);
        break;
    case 7:
        n = kvw_wire_done_encode(b.msg, &done);
        break;
    case 8:
        n = kvw_wire_abort_encode(b.msg, KVW_WIRE_ABORT, &end);
        break;
    case 9:
        end.about.epoch = v % 3 == 0 ? 0 : end.about.epoch;
        n = kvw_wire_abort_encode(b.msg, KVW_WIRE_REFUSE, &end);
        break;
    default:
        n = v % 2 == 0 ? kvw_pool_gone_encode(b.msg, 9 + v / 2 % 2)
                       : kvw_layout_encode(b.msg, 9 + v / 2 % 4, b.layout);
    }
    fake_message(&b.fake, l->conn, b.msg, n);
}

/* A put into the slot that is its turn, or into another. */
static void land(struct line *l)
{
    const uint32_t what = next(), where = next(), group = what >> 7;
    const uint32_t entries = group == 0 ? 1 + where % 4 : 1;
    const uint32_t rows = group == 0 && (what >> 6 & 1) == 0 ? 2 : 1;
    const uint32_t raw = entries * rows * 16;
    static uint8_t put[KVW_WIRE_CHUNK_LEN + 4096];
    struct kvw_wire_chunk h = {.key_front = 0x03020100u + l->key,
                               .epoch = l->epoch != 0 ? l->epoch : 1,
                               .seq = (uint32_t)l->next,
                               .layer = what & 1,
                               .group = (uint8_t)group,
                               .part = what >> 1 & 1,
                               .codec = KVW_CODEC_RAW,
                               .digest = KVW_DIGEST_XXH3_64,
                               .row_first = what >> 2 & 1,
                               .rows = rows,
                               .entry_first = where / 4 % TOKENS,
                               .entries = entries,
                               .raw_bytes = raw,
                               .stream_bytes = raw};
    struct kvw_digest d;

    if (group == 1)
        h.layer = h.part = h.row_first = h.entry_first = 0;
    if (rows == 2)
        h.row_first = 0;
    memset(put, (int)(l->key + 1), sizeof(put));
    CHECK(kvw_digest_begin(&d, KVW_DIGEST_XXH3_64) == KVW_OK);
    kvw_digest_update(&d, put + KVW_WIRE_CHUNK_LEN, raw);
    h.digest_value = kvw_digest_value(&d) + (where == 255);
    kvw_wire_chunk_encode(put, &h);
    if (where == 254)
        put[what % 64] ^= 1;
    if (fake_land(&b.fake, l->conn,
                  (uint64_t)(l->slot[l->next % 64] + (where == 253)) * b.slot_bytes, put,
                  KVW_WIRE_CHUNK_LEN + raw, (uint32_t)l->next))
        ++l->next;
}

static void act(void)
{
    const uint8_t a = next();
    struct line *l = &b.lines[a / 16 % CONNS];

    switch (a % 16) {
    case 0:
        connect_it(l);
        break;
    case 1:
        fake_down(&b.fake, l->conn, KVW_E_PEER_LOST);
        break;
    case 2:
        raw_message(l);
        break;
    case 3:
    case 4:
    case 5:
        good_message(l);
        break;
    case 6:
    case 7:
        land(l);
        break;
    case 8:
        if (b.fake.put_count > 0)
            fake_put_done(&b.fake, next() % b.fake.put_count, KVW_OK);
        break;
    case 9:
        own_transfer();
        break;
    case 10:
        own_action();
        break;
    case 11:
        b.now += next() * MS / 4;
        break;
    case 12:
        b.fake.send_full = next() % 2;
        b.fake.put_full = next() % 2;
        break;
    case 13:
        take_events();
        break;
    case 14:
        batch_action(l);
        break;
    default:
        poll_it(1 + a / 64);
        break;
    }
    /* A core whose events nobody takes stands still on purpose, and the fake's queue fills up. */
    for (uint32_t n = 0; b.fake.event_count > FAKE_EVENTS / 2; ++n) {
        CHECK(n < FAKE_EVENTS);
        take_events();
        poll_it(1);
    }
}

static void make_state(void)
{
    struct t_state *s = &b.state;

    t_state_dense(s, LAYERS, 2, 16, KVW_DTYPE_BF16, 4, 2 * KEYS * 3);
    s->group_count = 2;
    s->groups[1] = (struct t_group){.kind = KVW_GROUP_ROW,
                                    .block_entries = 1,
                                    .blocks = 2 * KEYS,
                                    .layer_count = 1,
                                    .part_count = 1,
                                    .parts = {{"s", KVW_DTYPE_BYTES, 16, 1, 0, 0}}};
    t_state_make(s);
}

static void start(void)
{
    struct kvw_core_path path = {.name = "fake", .transport = &b.fake.transport, .listen = 1};
    const struct kvw_core_config cfg = {.size = sizeof(cfg),
                                        .path_count = 1,
                                        .paths = &path,
                                        .instance = 101,
                                        .name = "fuzzed",
                                        .codecs = kvc_codecs,
                                        .chunk_raw_bytes = 4096,
                                        .slots = SLOTS,
                                        .stages = 3,
                                        .peers_max = 4,
                                        .xfers_max = 4,
                                        .stage_bytes = 2048};
    char why[96];
    kvw_peer_id id;

    fake_init(&b.fake);
    make_state();
    CHECK(kvw_layout_of(&b.layout, &b.state.desc, why, sizeof(why)) == KVW_OK);
    b.now = 77 * MS;
    CHECK(kvw_core_open(&b.core, &cfg, b.now, NULL) == KVW_OK);
    CHECK(kvw_core_pool_add(b.core, &b.state.desc, &b.pool, why, sizeof(why)) == KVW_OK);
    add_region();
    CHECK(kvw_core_peer_add(b.core, 0, NULL, b.now, &id) == KVW_OK);
    b.peers[b.peer_count++] = id;
    poll_it(1);
}

/* Time passes, nothing more comes: everything ends. */
static void finish(void)
{
    struct kvw_core_stats stats = {.size = sizeof(stats)};

    b.fake.send_full = b.fake.put_full = false;
    for (uint32_t i = 0; i < 40; ++i) {
        take_events();
        b.now += 50 * MS;
        poll_it(2);
        for (uint32_t k = 0; k < b.own_count && i == 20; ++k) /* a stream whose offers all came */
            (void)!kvw_core_abort(b.core, (kvw_xfer_ref){b.own[k].ref}, NULL);
    }
    take_events();
    CHECK(b.own_count == 0);
    kvw_core_stats(b.core, &stats);
    CHECK(stats.staged == 0 && stats.staged_bytes == 0); /* their time is over */
    CHECK(t_state_is_zero(&b.state));
    check_region();
    kvw_core_close(b.core, b.now);
    CHECK(b.fake.put_count == 0 && b.fake.regions == 0 && b.fake.sources == 0);
    for (uint32_t i = 1; i <= b.fake.conns; ++i)
        CHECK(!b.fake.live[i]); /* nothing that was up is left up */
    fake_free(&b.fake);
    kvw_layout_free(b.layout);
    t_state_free(&b.state);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    memset(&b, 0, sizeof(b));
    b.at = bytes;
    b.end = bytes + n;
    start();
    for (uint32_t i = 0; i < ACTIONS && b.at < b.end; ++i)
        act();
    finish();
    return 0;
}
