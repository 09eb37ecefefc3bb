/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whatever a peer sends and whenever: a live session survives it, keeps to transport.h, writes
 * nothing outside the lent blocks, and ends each of its own transfers exactly once.
 *
 * The input is a program: a byte says which side is under test, then each byte is an action with
 * its arguments after it. Messages come as raw bytes, and as well-formed ones with small numbers,
 * so that transfers get somewhere.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../compress/compress.h"
#include "../../kvwire/chunk.h"
#include "../../kvwire/kvwire.h"
#include "../../kvwire/msg.h"
#include "../kvwire/fake.h"
#include "../kvwire/kv.h"

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);                             \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#define IDS     6u
#define TOKENS  12u
#define LAYERS  2u
#define MS      1000000ull
#define ACTIONS 400u

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

struct input {
    const uint8_t *at, *end;
};

struct bench {
    struct input in;
    struct fake fake;
    struct kvw_session *s;
    struct kvw_pool pool;
    struct kvw_hello peer; /* a HELLO that fits */
    bool receiver;
    uint32_t open[IDS]; /* transfers of that id whose outcome hasn't been taken */
    kvw_conn_id conn;   /* the newest */
    uint64_t now;
    uint64_t seq;   /* of the next put on conn */
    uint32_t epoch; /* last one that the session offered */
};

static struct bench b;

static uint8_t next(void)
{
    return b.in.at < b.in.end ? *b.in.at++ : 0;
}

static uint32_t blocks_of(uint32_t id, uint32_t i)
{
    return id * 3 + i; /* every id has its own, so that a stray write shows */
}

static void take_events(void)
{
    struct kvw_event ev;

    while (kvw_session_next_event(b.s, &ev)) {
        CHECK(ev.text != NULL && strlen(ev.text) <= KVW_TEXT_BYTES_MAX);
        if (ev.kind != KVW_EV_XFER_DONE)
            continue;
        CHECK(ev.xfer.value < IDS && b.open[ev.xfer.value] > 0);
        --b.open[ev.xfer.value];
        for (uint32_t i = 0; b.receiver && i < 3; ++i)
            t_kv_block_zero(&b.pool, blocks_of((uint32_t)ev.xfer.value, i));
    }
}

static void learn_epoch(void)
{
    struct fake_msg m;

    while (fake_take(&b.fake, KVW_MSG_OFFER, &m)) {
        struct kvw_offer_msg o;

        CHECK(kvw_offer_decode(&o, m.msg, m.bytes) == KVW_OK);
        b.epoch = o.epoch;
        free(m.msg);
    }
}

static void poll_it(uint32_t times)
{
    while (times-- > 0)
        kvw_session_poll(b.s, b.now);
    learn_epoch();
    fake_drop_sent(&b.fake);
}

static void own_transfer(void)
{
    const uint32_t id = next() % IDS, tokens = 1 + next() % TOKENS;
    const uint32_t ids[3] = {blocks_of(id, 0), blocks_of(id, 1), blocks_of(id, 2)};
    const struct kvw_blocks blocks = {ids, 3, tokens};
    const uint64_t deadline = next() % 4 == 0 ? b.now + next() * MS : 0;
    struct kvw_terms terms = {.deadline_ns = deadline};
    kvw_err err;

    if (b.receiver) {
        terms.lease_ns = next() % 2 * 50 * MS;
        err = kvw_offer(b.s, (kvw_xfer_id){id}, &blocks, &terms, b.now);
    } else {
        err =
            kvw_stream_open(b.s, (kvw_xfer_id){id}, &blocks, b.now + next() * MS, deadline, b.now);
    }
    CHECK(err == KVW_OK || err == KVW_E_AGAIN || (err == KVW_E_INVALID && b.open[id]));
    b.open[id] += err == KVW_OK; /* an ended one whose event waits doesn't block its id */
}

static void own_action(void)
{
    const kvw_xfer_id id = {next() % IDS};
    const uint32_t a = next(), c = next();

    switch (a % 4) {
    case 0:
        if (kvw_push_layer(b.s, id, c % (LAYERS + 1), c / 8 % (TOKENS + 2), NULL) == KVW_OK)
            CHECK(b.open[id.value]);
        break;
    case 1:
        for (uint32_t l = 0; l < LAYERS && !b.receiver; ++l)
            for (uint32_t t = TOKENS; t > 0; --t)
                if (kvw_push_layer(b.s, id, l, t, NULL) == KVW_OK)
                    break;
        if (kvw_commit(b.s, id, "note", c % 5) == KVW_OK)
            CHECK(b.open[id.value]);
        break;
    case 2:
        if (kvw_abort(b.s, id, "fuzz") == KVW_OK && b.receiver)
            CHECK(b.open[id.value]);
        break;
    default:
        kvw_layer_ready(b.s, id, c);
        break;
    }
}

static void connect_it(bool hello)
{
    uint8_t msg[KVW_MSG_SHORT_MAX];

    if (b.fake.conns + 2 >= FAKE_CONNS)
        return;
    if (b.receiver) {
        b.conn = fake_incoming(&b.fake);
    } else {
        b.conn = b.fake.dialled;
        fake_dialled_up(&b.fake);
    }
    b.seq = 0;
    if (hello)
        fake_message(&b.fake, b.conn, msg, kvw_hello_encode(msg, &b.peer));
}

static void raw_message(void)
{
    uint8_t msg[256];
    const uint32_t n = next();

    for (uint32_t i = 0; i < n; ++i)
        msg[i] = next();
    fake_message(&b.fake, b.conn, msg, n);
}

/* Well-formed, with numbers that may fit. */
static void good_message(void)
{
    static uint8_t msg[KVW_MSG_SHORT_MAX];
    const uint32_t kind = next(), id = next() % IDS, v = next();
    const struct kvw_xfer_msg x = {id, b.receiver ? b.epoch - v / 64 % 2 : 1 + v / 64};
    const uint64_t raw = (uint64_t)(1 + v % TOKENS) * 2 * 16 * 2 * 2 * LAYERS;
    const struct kvw_offer_msg offer = {
        .xfer = id, .epoch = x.epoch, .tokens = 1 + v % TOKENS, .lease_ns = 50 * MS};
    const struct kvw_commit_msg commit = {x, next() % 16, raw, msg, 0};
    const struct kvw_done_msg done = {x, next() % 16, raw};
    struct kvw_abort_msg abort_msg = {.x = x, .err = KVW_E_CANCELED, .text = "peer"};
    uint32_t n = 0;

    if (x.epoch == 0 && kind % 6 != 5)
        return;
    switch (kind % 6) {
    case 0:
        n = kvw_offer_encode(msg, &offer);
        break;
    case 1:
        n = kvw_grant_encode(msg, &(struct kvw_grant){.limit = v % 40});
        break;
    case 2:
        n = kvw_renew_encode(msg, &x);
        break;
    case 3:
        n = kvw_commit_encode(msg, &commit);
        break;
    case 4:
        n = kvw_done_encode(msg, &done);
        break;
    default:
        abort_msg.x.epoch = v % 3 == 0 ? 0 : x.epoch;
        n = kvw_abort_encode(msg, &abort_msg);
        break;
    }
    fake_message(&b.fake, b.conn, msg, n);
}

static void land(void)
{
    const uint32_t id = next() % IDS, what = next(), first = next() % TOKENS;
    const uint32_t count = 1 + next() % 4, raw = count * 2 * 16 * 2;
    static uint8_t put[KVW_CHUNK_HDR_BYTES + 4 * 64];
    struct kvw_digest d;
    struct kvw_chunk_hdr h = {.xfer = id,
                              .epoch = b.epoch - (what & 1),
                              .seq = (uint32_t)b.seq,
                              .layer = what >> 1 & 1,
                              .kv = what >> 2 & 1,
                              .codec = KVW_CODEC_RAW,
                              .digest = KVW_DIGEST_XXH3_64,
                              .head_count = 2,
                              .token_first = first,
                              .token_count = count,
                              .raw_bytes = raw,
                              .stream_bytes = raw};
    const uint64_t slot = (b.seq + (what >> 3 & 1)) % 3;

    memset(put, (int)(id + 1), sizeof(put));
    CHECK(kvw_digest_begin(&d, KVW_DIGEST_XXH3_64) == KVW_OK);
    kvw_digest_update(&d, put + KVW_CHUNK_HDR_BYTES, raw);
    h.digest_value = kvw_digest_value(&d) + (what >> 4 == 0);
    if (h.epoch == 0)
        return;
    kvw_chunk_hdr_encode(put, &h);
    if (what >> 5 == 7)
        put[first] ^= 1;
    if (fake_land(&b.fake, b.conn, slot * (KVW_CHUNK_HDR_BYTES + 4096), put,
                  KVW_CHUNK_HDR_BYTES + raw, (uint32_t)b.seq))
        ++b.seq;
}

static void act(void)
{
    const uint8_t a = next();

    switch (a % 16) {
    case 0:
    case 1:
        connect_it(a % 16 == 0 || next() % 2 == 0);
        break;
    case 2:
        fake_down(&b.fake, b.conn, KVW_E_PEER_LOST);
        break;
    case 3:
        raw_message();
        break;
    case 4:
    case 5:
        good_message();
        break;
    case 6:
    case 7:
        if (b.receiver)
            land();
        else if (b.fake.put_count > 0)
            fake_put_done(&b.fake, next() % b.fake.put_count, KVW_OK);
        break;
    case 8:
        own_transfer();
        break;
    case 9:
        own_action();
        break;
    case 10:
        b.now += next() * MS;
        break;
    case 11:
        b.fake.send_full = next() % 2;
        b.fake.put_full = next() % 2;
        break;
    case 12:
        take_events();
        break;
    default:
        poll_it(1 + a / 64);
        break;
    }
    /* A session whose events nobody takes stands still on purpose, and the fake's queue fills up.
     */
    for (uint32_t n = 0; b.fake.event_count > FAKE_EVENTS / 2; ++n) {
        CHECK(n < FAKE_EVENTS);
        take_events();
        poll_it(1);
    }
}

static void start(void)
{
    static const struct t_kv_shape shape = {LAYERS,        IDS * 3,       4, 2, 16,
                                            KVW_DTYPE_F16, T_KV_NHD_SPLIT};
    struct kvw_session_config cfg = {.size = sizeof(cfg),
                                     .role = b.receiver ? KVW_ROLE_RECEIVER : KVW_ROLE_SENDER,
                                     .transport = &b.fake.transport,
                                     .codecs = kvc_codecs,
                                     .chunk_raw_bytes = 4096,
                                     .slots = 3,
                                     .xfers_max = 4};

    fake_init(&b.fake);
    b.pool = t_kv_pool(&shape);
    cfg.pool = b.pool;
    b.now = 77 * MS;
    b.epoch = 1;
    b.peer = (struct kvw_hello){.role = b.receiver ? KVW_ROLE_SENDER : KVW_ROLE_RECEIVER,
                                .shape = {LAYERS, 2, 16, 4, KVW_DTYPE_F16},
                                .codecs = 2,
                                .digests = 2,
                                .slots = 3,
                                .slot_bytes = KVW_CHUNK_HDR_BYTES + 4096,
                                .xfers_max = 4};
    CHECK(kvw_session_open(&b.s, &cfg, b.now, NULL) == KVW_OK);
}

/* Time passes, nothing more comes: everything ends. */
static void finish(void)
{
    b.fake.send_full = b.fake.put_full = false;
    for (uint32_t i = 0; i < 40; ++i) {
        take_events();
        b.now += 300 * MS;
        poll_it(2);
        for (uint32_t id = 0; id < IDS && i == 20; ++id)
            if (b.open[id]) /* a sender's stream whose "offer" was good lives until it is told */
                CHECK(kvw_abort(b.s, (kvw_xfer_id){id}, NULL) == KVW_OK || !b.open[id]);
    }
    take_events();
    for (uint32_t id = 0; id < IDS; ++id)
        CHECK(b.open[id] == 0);
    for (uint32_t i = 0; b.receiver && i < b.pool.blocks; ++i)
        CHECK(t_kv_block_is_zero(&b.pool, i));
    kvw_session_close(b.s, b.now);
    CHECK(b.fake.put_count == 0 && b.fake.regions == 0);
    fake_free(&b.fake);
    t_kv_free(&b.pool);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    memset(&b, 0, sizeof(b));
    b.in = (struct input){bytes, bytes + n};
    b.receiver = next() % 2 == 0;
    start();
    for (uint32_t i = 0; i < ACTIONS && b.in.at < b.in.end; ++i)
        act();
    finish();
    return 0;
}
