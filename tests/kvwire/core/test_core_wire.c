/* SPDX-License-Identifier: Apache-2.0 */
/* One core on the fake transport, and a peer that the test plays: what is said, and what is done
 * about a peer that breaks the rules of SPEC.md. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../../compress/compress.h"
#include "../../../kvwire/core.h"
#include "../../../kvwire/digest.h"
#include "../../../kvwire/peer/core_state.h"
#include "../../../kvwire/wire/chunks.h"
#include "../../../kvwire/wire/credit.h"
#include "../../../kvwire/wire/layout.h"
#include "../../../kvwire/wire/le.h"
#include "../fake.h"
#include "state.h"

#define MS   1000000ull
#define SLOT 4096u

static struct fake f;
static struct kvw_core *core;
static struct t_state state;
static struct kvw_layout *layout;
static kvw_pool_id pool;
static kvw_conn_id conn;
static kvw_peer_id peer;
static uint64_t now;
static uint8_t msg[KVW_MSG_BYTES_MAX];
static struct kvw_core_event last; /* the last PEER_LOST or XFER_DONE */
static uint32_t ups, losts, dones;

static void take_events(void)
{
    struct kvw_core_event ev = {.size = sizeof(ev)};

    while (kvw_core_next_event(core, &ev)) {
        ups += ev.kind == KVW_CEV_PEER_UP;
        losts += ev.kind == KVW_CEV_PEER_LOST;
        dones += ev.kind == KVW_CEV_XFER_DONE;
        if (ev.kind == KVW_CEV_PEER_UP)
            peer = ev.peer;
        if (ev.kind == KVW_CEV_PEER_LOST || ev.kind == KVW_CEV_XFER_DONE)
            last = ev;
    }
}

/* As a loop would that polls when the deadline says so, or a transport event has come. */
static void settle(void)
{
    for (uint32_t i = 0; f.event_count > 0 || kvw_core_deadline_ns(core) <= now; ++i) {
        cr_assert_lt(i, 1000, "it spins");
        (void)kvw_core_poll(core, now);
        take_events();
    }
}

static kvw_dtype dtype = KVW_DTYPE_BF16; /* of the pools */

static void begin(void)
{
    struct kvw_core_path path = {.name = "fake", .transport = &f.transport, .listen = 1};
    const struct kvw_core_config cfg = {.size = sizeof(cfg),
                                        .path_count = 1,
                                        .paths = &path,
                                        .instance = 50,
                                        .codecs = kvc_codecs,
                                        .codec = KVW_CODEC_RAW,
                                        .chunk_raw_bytes = 4096,
                                        .slots = 8,
                                        .stages = 4};
    char why[200] = "";

    fake_init(&f);
    now = 1000 * MS;
    ups = losts = dones = 0;
    t_state_dense(&state, 2, 2, 128, dtype, 8, 32); /* 8 tokens are a chunk: 2 KiB */
    t_state_make(&state);
    cr_assert_eq(kvw_layout_of(&layout, &state.desc, why, sizeof(why)), KVW_OK);
    cr_assert_eq(kvw_core_open(&core, &cfg, now, NULL), KVW_OK);
    cr_assert_eq(kvw_core_pool_add(core, &state.desc, &pool, why, sizeof(why)), KVW_OK);
}

static void end(void)
{
    kvw_core_close(core, now);
    cr_expect_eq(f.regions + f.put_count, 0);
    kvw_layout_free(layout);
    t_state_free(&state);
    fake_free(&f);
}

static struct kvw_wire_hello good_hello(void)
{
    return (struct kvw_wire_hello){.versions = 4,
                                   .instance = 60,
                                   .codecs = 2,
                                   .digests = 2,
                                   .slot_bytes = SLOT,
                                   .offers = 8,
                                   .dead_ms = 1000,
                                   .name = "peer"};
}

static void say(uint32_t bytes)
{
    fake_message(&f, conn, msg, bytes);
    settle();
}

static void connect_peer(void)
{
    const struct kvw_wire_hello h = good_hello();

    conn = fake_incoming(&f);
    settle();
    say(kvw_wire_hello_encode(msg, &h));
    cr_assert_eq(ups, 1, "%s", last.text);
    say(kvw_layout_encode(msg, 3, layout));
    fake_drop_sent(&f);
}

static struct kvw_wire_about about(const char *key, uint32_t epoch)
{
    struct kvw_wire_about a = {.epoch = epoch};
    const kvw_key k = kvw_key_of(key);

    memcpy(a.key.bytes, k.bytes, sizeof(k.bytes));
    return a;
}

static uint32_t offer_msg(const char *key, uint32_t epoch)
{
    static const struct kvw_wire_span spans[2] = {{0, 0, 0, 2, 0, 16, 0, 2},
                                                  {0, 1, 0, 2, 0, 16, 0, 2}};
    const struct kvw_wire_offer o = {.about = about(key, epoch),
                                     .lease_ns = 100 * MS,
                                     .take_by_ns = 1000 * MS,
                                     .tokens = 16,
                                     .pool = 3,
                                     .span_count = 2};

    return kvw_wire_offer_encode(msg, &o, spans);
}

static uint32_t grant_msg(uint64_t from, uint32_t count)
{
    const struct kvw_wire_grant g = {.from = from, .count = count};

    for (uint32_t i = 0; i < count; ++i)
        kvw_store_le16(msg + KVW_WIRE_GRANT_LEN + 2 * i, (uint16_t)i);
    return kvw_wire_grant_encode(msg, &g);
}

static uint32_t end_msg(uint8_t type, const char *key, uint32_t epoch)
{
    const struct kvw_wire_abort a = {
        .about = about(key, epoch), .err = KVW_E_NOBLOCKS, .text = "the peer's reason"};

    return kvw_wire_abort_encode(msg, type, &a);
}

static kvw_xfer_ref stream(const char *key)
{
    static const uint32_t ids[] = {4, 5};
    const struct kvw_group_blocks b = {0, 2, ids, 0, 0, 0};
    const struct kvw_stream_args args = {.size = sizeof(args),
                                         .pool = pool,
                                         .key = kvw_key_of(key),
                                         .tokens = 16,
                                         .group_count = 1,
                                         .groups = &b};
    char why[200] = "";
    kvw_xfer_ref x;

    cr_assert_eq(kvw_core_stream(core, &args, now, &x, why, sizeof(why)), KVW_OK, "%s", why);
    for (uint32_t l = 0; l < 2; ++l)
        cr_assert_eq(kvw_core_push(core, x, l, 16, NULL), KVW_OK);
    cr_assert_eq(kvw_core_commit(core, x, NULL, 0), KVW_OK);
    settle();
    return x;
}

static kvw_xfer_ref offer(const char *key, uint32_t tokens)
{
    static const uint32_t ids[] = {1, 2, 3, 6, 7, 8, 9, 10};
    const struct kvw_group_blocks b = {0, 8, ids, 0, 0, tokens};
    const struct kvw_offer_args args = {.size = sizeof(args),
                                        .pool = pool,
                                        .key = kvw_key_of(key),
                                        .tokens = tokens,
                                        .group_count = 1,
                                        .groups = &b,
                                        .sources = &peer,
                                        .source_count = 1};
    char why[200] = "";
    kvw_xfer_ref x;

    cr_assert_eq(kvw_core_offer(core, &args, now, &x, why, sizeof(why)), KVW_OK, "%s", why);
    settle();
    return x;
}

static bool sent(uint8_t type)
{
    struct fake_msg m;

    if (!fake_take(&f, type, &m))
        return false;
    free(m.msg);
    return true;
}

/* --- handshake -------------------------------------------------------------------------------- */

static void expect_reject(const struct kvw_wire_hello *h, kvw_err err, const char *words)
{
    struct kvw_wire_reject r;
    struct fake_msg m;

    begin();
    conn = fake_incoming(&f);
    settle();
    cr_assert(sent(KVW_WIRE_HELLO), "the dialled side speaks first");
    say(kvw_wire_hello_encode(msg, h));
    cr_assert(fake_take(&f, KVW_WIRE_REJECT, &m), "no REJECT: %s", words);
    cr_assert_eq(kvw_wire_reject_decode(&r, m.msg, m.bytes), KVW_OK);
    free(m.msg);
    cr_expect_eq(r.err, err);
    cr_expect(strstr(r.text, words) != NULL, "%s", r.text);
    cr_expect_eq(f.disconnects, 0, "its reader hangs up");
    now += 1001 * MS;
    settle();
    cr_expect_eq(f.disconnects, 1, "or the writer, after a second");
    cr_expect_eq(ups + losts, 0);
    end();
}

Test(core_wire, hellos_that_do_not_fit)
{
    struct kvw_wire_hello h = good_hello();

    h.versions = 8;
    expect_reject(&h, KVW_E_VERSION, "no common protocol version: here 4, peer 8");
    h = good_hello();
    h.digests = 1ull << 40;
    expect_reject(&h, KVW_E_MISMATCH, "no common digest");
    h = good_hello();
    h.instance = 50;
    expect_reject(&h, KVW_E_MISMATCH, "reached itself");
}

Test(core_wire, first_messages_that_are_no_hello)
{
    struct kvw_wire_hello h = good_hello();
    struct kvw_wire_reject r;
    struct fake_msg m;

    begin();
    conn = fake_incoming(&f);
    settle();
    (void)kvw_wire_hello_encode(msg, &h);
    kvw_store_le32(msg + 8, 1); /* version 1's */
    say(104);
    cr_assert(fake_take(&f, KVW_WIRE_REJECT, &m));
    cr_assert_eq(kvw_wire_reject_decode(&r, m.msg, m.bytes), KVW_OK);
    free(m.msg);
    cr_expect_eq(r.err, KVW_E_VERSION);
    cr_expect_str_eq(r.text, "protocol version differs: here 2, peer 1");
    conn = fake_incoming(&f);
    settle();
    say(kvw_wire_recall_encode(msg));
    cr_expect(sent(KVW_WIRE_REJECT));
    /* Nothing at all is said for two seconds. */
    conn = fake_incoming(&f);
    settle();
    now += 2001 * MS;
    settle();
    cr_expect_eq(f.disconnects, 3);
    /* More newcomers than there is room for: the oldest goes. */
    for (uint32_t i = 0; i < KVW_NEWCOMERS(1024) + 3; ++i) {
        (void)fake_incoming(&f);
        settle();
        fake_drop_sent(&f);
    }
    cr_expect_eq(f.disconnects, 6);
    connect_peer();
    end();
}

Test(core_wire, a_reject_on_a_connection_that_is_up)
{
    const struct kvw_wire_reject r = {.err = KVW_E_NOMEM, .layout = 2, .text = "full"};

    begin();
    connect_peer();
    say(kvw_wire_reject_encode(msg, &r));
    cr_expect_eq(losts, 1);
    cr_expect_eq(last.err, KVW_E_NOMEM);
    cr_expect_str_eq(last.text, "refused by the peer: full");
    cr_expect_eq(f.disconnects, 1, "its reader hangs up");
    end();
}

/* --- breaches --------------------------------------------------------------------------------- */

static uint32_t b_type(void)
{
    memset(msg, 0, 40);
    msg[0] = 99;
    return 40;
}
static uint32_t b_hello(void)
{
    const struct kvw_wire_hello h = good_hello();

    return kvw_wire_hello_encode(msg, &h);
}
static uint32_t b_cut(void)
{
    return offer_msg("x", 1) - 1;
}
static uint32_t b_grant_gap(void)
{
    return grant_msg(1, 2);
}
static uint32_t b_return(void)
{
    return kvw_wire_return_encode(msg, 0);
}
static uint32_t b_pool_twice(void)
{
    return kvw_layout_encode(msg, 3, layout);
}
static uint32_t b_pool_gone(void)
{
    return kvw_pool_gone_encode(msg, 4);
}
static uint32_t b_part(void)
{
    const uint32_t n = offer_msg("x", 1);

    msg[KVW_WIRE_OFFER_LEN + 1] = 2; /* the pool has two */
    return n;
}
static uint32_t b_rows(void)
{
    const uint32_t n = offer_msg("x", 1);

    kvw_store_le32(msg + KVW_WIRE_OFFER_LEN + 16, 1); /* rows 1 and 2 of 2 */
    return n;
}

Test(core_wire, breaches)
{
    static uint32_t (*const breaches[])(void) = {
        b_type, b_hello, b_cut, b_grant_gap, b_return, b_pool_twice, b_pool_gone, b_part, b_rows};

    for (size_t i = 0; i < sizeof(breaches) / sizeof(breaches[0]); ++i) {
        begin();
        connect_peer();
        say(breaches[i]());
        cr_expect_eq(losts, 1, "breach %zu", i);
        cr_expect_eq(last.err, KVW_E_PROTOCOL, "breach %zu: %d %s", i, last.err, last.text);
        cr_expect_eq(f.disconnects, 1, "breach %zu", i);
        end();
    }
}

Test(core_wire, an_offer_twice)
{
    for (uint32_t how = 0; how < 2; ++how) { /* of the same key, of the same epoch */
        begin();
        connect_peer();
        say(offer_msg("x", 1));
        cr_expect_eq(losts, 0);
        say(how == 0 ? offer_msg("x", 2) : offer_msg("y", 1));
        cr_expect_eq(losts, 1);
        cr_expect_eq(last.err, KVW_E_PROTOCOL);
        end();
    }
    begin();
    connect_peer();
    say(offer_msg("x", 1));
    say(end_msg(KVW_WIRE_ABORT, "x", 1));
    say(offer_msg("x", 2)); /* the first has ended */
    cr_expect_eq(losts, 0);
    end();
}

Test(core_wire, an_abort_of_another_key)
{
    kvw_xfer_ref x;

    begin();
    connect_peer();
    say(offer_msg("x", 1));
    x = stream("x");
    (void)x;
    say(end_msg(KVW_WIRE_ABORT, "y", 1)); /* an epoch of ours, of a transfer that is over */
    say(end_msg(KVW_WIRE_REFUSE, "y", 1));
    cr_expect_eq(dones, 0);
    say(end_msg(KVW_WIRE_ABORT, "x", 1));
    cr_expect_eq(dones, 1);
    cr_expect_eq(last.err, KVW_E_NOBLOCKS);
    cr_expect_str_eq(last.text, "the peer's reason");
    end();
}

/* --- slots ------------------------------------------------------------------------------------ */

Test(core_wire, recalled_slots_are_returned)
{
    struct fake_msg m;
    uint64_t next;

    begin();
    connect_peer();
    say(offer_msg("x", 1));
    say(grant_msg(0, 1));
    (void)stream("x");
    cr_expect_eq(f.put_count, 1);
    say(grant_msg(1, 2));
    cr_expect_eq(f.put_count, 3);
    say(kvw_wire_recall_encode(msg));
    cr_assert(fake_take(&f, KVW_WIRE_RETURN, &m));
    cr_assert_eq(kvw_wire_return_decode(&next, m.msg, m.bytes), KVW_OK);
    free(m.msg);
    cr_expect_eq(next, 3);
    say(grant_msg(3, 4));
    cr_expect_eq(f.put_count, 4, "four staging slots: %u", f.put_count);
    fake_put_done(&f, 0, KVW_OK);
    settle();
    cr_expect_eq(f.put_count, 4);
    cr_expect_eq(losts, 0);
    for (uint64_t from = 7; f.put_count > 0; from += f.put_count > 0) {
        fake_put_done(&f, 0, KVW_OK);
        settle();
        if (from == 7)
            say(grant_msg(from, 8));
    }
    cr_expect(sent(KVW_WIRE_COMMIT));
    end();
}

Test(core_wire, a_return_while_puts_wait)
{
    begin();
    connect_peer();
    say(offer_msg("x", 1));
    f.put_full = true;
    (void)stream("x");
    fake_message(&f, conn, msg, grant_msg(0, 8));
    (void)kvw_core_poll(core, now);
    fake_message(&f, conn, msg, kvw_wire_recall_encode(msg));
    (void)kvw_core_poll(core, now);
    f.put_full = false;
    for (uint32_t i = 0; i < 20; ++i) {
        now += MS / 20;
        settle();
    }
    cr_expect_gt(f.put_count, 0);
    cr_expect_eq(losts, 0);
    end();
}

/* The transport has no room, and nothing of this peer is in flight that could wake it. */
Test(core_wire, a_put_that_did_not_fit_is_tried_again)
{
    begin();
    connect_peer();
    say(offer_msg("x", 1));
    (void)stream("x");
    f.put_full = true;
    say(grant_msg(0, 4));
    cr_expect_eq(f.put_count, 0);
    f.put_full = false;
    cr_expect_lt(kvw_core_deadline_ns(core), now + MS, "it would be asleep");
    now += MS;
    settle();
    cr_expect_gt(f.put_count, 0);
    end();
}

struct line { /* what the core has granted */
    uint16_t slot[64];
    uint64_t limit, next;
    uint32_t epoch, slot_bytes;
};

static void learn(struct line *l)
{
    struct kvw_wire_grant g;
    struct kvw_wire_offer o;
    struct fake_msg m;

    while (fake_take(&f, KVW_WIRE_GRANT, &m)) {
        cr_assert_eq(kvw_wire_grant_decode(&g, m.msg, m.bytes), KVW_OK);
        for (uint32_t i = 0; i < g.count; ++i)
            l->slot[l->limit++ % 64] = (uint16_t)kvw_wire_grant_slot(&g, i);
        free(m.msg);
    }
    while (fake_take(&f, KVW_WIRE_OFFER, &m)) {
        cr_assert_eq(kvw_wire_offer_decode(&o, m.msg, m.bytes), KVW_OK);
        l->epoch = o.about.epoch;
        free(m.msg);
    }
    l->slot_bytes = core->slots.slot_bytes;
}

/* How the next chunk isn't as it should be. */
static enum { WELL, LOSSY, OF_HALVES, LONGER, ELSEWHERE, FLIPPED, OF_ANOTHER_KEY } bend;

static bool put_chunk(struct line *l, const char *key, uint32_t layer, uint32_t part,
                      uint32_t entry, uint32_t entries)
{
    static uint8_t put[KVW_WIRE_CHUNK_LEN + 4096];
    const uint32_t raw = entries * 2 * 128;
    const kvw_key k = kvw_key_of(key);
    struct kvw_wire_chunk h = {.key_front = kvw_load_le64(k.bytes),
                               .epoch = l->epoch,
                               .seq = (uint32_t)l->next,
                               .layer = layer,
                               .part = (uint8_t)part,
                               .codec = KVW_CODEC_RAW,
                               .digest = KVW_DIGEST_XXH3_64,
                               .rows = 2,
                               .entry_first = entry,
                               .entries = entries,
                               .raw_bytes = raw,
                               .stream_bytes = raw};
    struct kvw_digest d;
    bool landed;

    cr_assert_eq(kvw_digest_begin(&d, KVW_DIGEST_XXH3_64), KVW_OK);
    kvw_digest_update(&d, put + KVW_WIRE_CHUNK_LEN, raw);
    h.digest_value = kvw_digest_value(&d);
    h.digest_value ^= bend == FLIPPED;
    h.key_front ^= bend == OF_ANOTHER_KEY;
    h.raw_bytes += bend == LONGER ? 128 : 0;
    h.where = bend == ELSEWHERE ? KVW_CHUNK_SHARED : KVW_CHUNK_HERE;
    h.codec = bend == LOSSY ? KVW_CODEC_E8 : bend == OF_HALVES ? KVW_CODEC_L0 : KVW_CODEC_RAW;
    kvw_wire_chunk_encode(put, &h);
    landed =
        fake_land(&f, conn, (uint64_t)l->slot[l->next % 64] * l->slot_bytes, put,
                  KVW_WIRE_CHUNK_LEN + (h.where == KVW_CHUNK_HERE ? raw : 0), (uint32_t)l->next);
    l->next += landed;
    settle();
    learn(l);
    return landed;
}

Test(core_wire, puts_outside_what_was_granted)
{
    static const uint8_t byte[1] = {0};
    struct line l = {.limit = 0};

    begin();
    connect_peer();
    cr_expect_not(fake_land(&f, conn, 0, byte, 1, 0), "nothing is granted yet");
    (void)offer("x", 64);
    learn(&l);
    cr_assert_gt(l.limit, 1);
    cr_expect_not(fake_land(&f, conn, (uint64_t)l.slot[0] * l.slot_bytes + 1, byte, 1, 0));
    cr_expect_not(fake_land(&f, conn, (uint64_t)l.slot[0] * l.slot_bytes, byte, 1, 1));
    cr_expect_not(fake_land(&f, conn, (uint64_t)l.slot[1] * l.slot_bytes, byte, 1, 0));
    cr_expect(put_chunk(&l, "x", 0, 0, 0, 8));
    cr_expect_eq(core->stats.chunks_landed, 1);
    cr_expect_not(fake_land(&f, conn, (uint64_t)l.slot[0] * l.slot_bytes, byte, 1, 0), "used");
    /* A header that can't be believed. */
    cr_expect(fake_land(&f, conn, (uint64_t)l.slot[1] * l.slot_bytes, msg, 80, 1));
    settle();
    cr_expect_eq(losts, 1);
    cr_expect_eq(dones, 1);
    end();
}

Test(core_wire, chunks_that_were_not_asked_for)
{
    static const uint32_t bad[][4] = {{2, 0, 0, 8}, {0, 2, 0, 8}, {0, 0, 60, 8}, {0, 0, 0, 4}};

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); ++i) {
        struct line l = {.limit = 0};

        begin();
        connect_peer();
        (void)offer("x", 64);
        learn(&l);
        cr_expect(put_chunk(&l, "x", 0, 0, 0, 8));
        cr_expect_eq(dones, 0);
        cr_expect(put_chunk(&l, "x", bad[i][0], bad[i][1], bad[i][2], bad[i][3]));
        cr_expect_eq(dones, 1, "%zu", i); /* the last: entries that have come before */
        cr_expect_eq(last.err, KVW_E_PROTOCOL);
        cr_expect_eq(losts, 0);
        end();
    }
}

/* Each ends its transfer with its reason; the last says that the peer is confused. */
Test(core_wire, chunks_that_are_not_what_was_offered)
{
    static const struct {
        kvw_dtype dtype;
        kvw_err err;
        const char *text;
    } bad[] = {
        [LOSSY] = {KVW_DTYPE_BF16, KVW_E_PROTOCOL, "its codec loses more than the offer allows"},
        [OF_HALVES] = {KVW_DTYPE_F32, KVW_E_PROTOCOL, "its codec doesn't take this element type"},
        [LONGER] = {KVW_DTYPE_BF16, KVW_E_PROTOCOL, "its raw bytes don't fit its entries"},
        [ELSEWHERE] = {KVW_DTYPE_BF16, KVW_E_PROTOCOL, "memory that this side doesn't share"},
        [FLIPPED] = {KVW_DTYPE_BF16, KVW_E_CHECKSUM, "digest here "},
        [OF_ANOTHER_KEY] = {KVW_DTYPE_BF16, KVW_E_PEER_LOST, "names another key"},
    };

    for (size_t i = WELL + 1; i < sizeof(bad) / sizeof(bad[0]); ++i) {
        struct line l = {.limit = 0};

        dtype = bad[i].dtype;
        begin();
        connect_peer();
        (void)offer("x", 64);
        learn(&l);
        bend = i;
        cr_expect(put_chunk(&l, "x", 0, 0, 0, 8));
        bend = WELL;
        cr_expect_eq(dones, 1, "%zu", i);
        cr_expect_eq(losts, bad[i].err == KVW_E_PEER_LOST, "%zu", i);
        cr_expect(bad[i].err == KVW_E_PEER_LOST || last.err == bad[i].err, "%zu: %d", i, last.err);
        cr_expect_not_null(strstr(last.text, bad[i].text), "%zu: %s", i, last.text);
        end();
    }
}

/* A sender that cuts backwards leaves a gap with each chunk. */
Test(core_wire, gaps_that_an_ascending_sender_cannot_leave)
{
    struct line l = {.limit = 0};
    uint32_t n = 0;

    begin();
    connect_peer();
    (void)offer("x", 64);
    learn(&l);
    for (; losts == 0 && n < 31; ++n)
        if (!put_chunk(&l, "x", 0, 0, 62 - 2 * n, 1))
            break;
    cr_expect_eq(losts, 1, "it went on for %u", n);
    cr_expect_leq(n, 9);
    cr_expect_eq(core->span_pool.free_count, core->span_pool.count);
    end();
}

/* --- structs of other versions ---------------------------------------------------------------- */

Test(core_wire, shorter_and_longer_structs)
{
    struct {
        struct kvw_core_event ev;
        uint8_t more[16];
    } longer;
    struct {
        uint32_t size, kind;
        int32_t err;
        uint8_t guard[8];
    } shorter;
    struct {
        struct kvw_stream_args a;
        uint64_t more;
    } args;
    static const uint32_t ids[] = {4, 5};
    const struct kvw_group_blocks b = {0, 2, ids, 0, 0, 0};
    char why[200] = "";
    kvw_xfer_ref x;

    begin();
    memset(&args, 0, sizeof(args));
    args.a = (struct kvw_stream_args){.size = sizeof(args),
                                      .pool = pool,
                                      .key = kvw_key_of("x"),
                                      .tokens = 16,
                                      .group_count = 1,
                                      .groups = &b};
    args.more = 1;
    cr_expect_eq(kvw_core_stream(core, &args.a, now, &x, why, 200), KVW_E_INVALID);
    cr_expect(strstr(why, "unknown fields") != NULL, "%s", why);
    args.more = 0;
    cr_expect_eq(kvw_core_stream(core, &args.a, now, &x, why, 200), KVW_OK, "%s", why);
    cr_assert_eq(kvw_core_abort(core, x, ""), KVW_OK);
    args.a.size = offsetof(struct kvw_stream_args, receivers); /* one of an older caller */
    cr_expect_eq(kvw_core_stream(core, &args.a, now, &x, why, 200), KVW_OK, "%s", why);
    args.a.size = 4;
    cr_expect_eq(kvw_core_stream(core, &args.a, now, &x, why, 200), KVW_E_INVALID);
    cr_assert_eq(kvw_core_abort(core, x, ""), KVW_OK);

    longer.ev.size = 0;
    cr_expect_not(kvw_core_next_event(core, &longer.ev), "without a size nothing is taken");
    memset(&longer, 0xee, sizeof(longer));
    longer.ev.size = sizeof(longer);
    cr_assert(kvw_core_next_event(core, &longer.ev));
    cr_expect_eq(longer.ev.kind, KVW_CEV_XFER_DONE);
    for (uint32_t i = 0; i < 16; ++i)
        cr_expect_eq(longer.more[i], 0);
    memset(&shorter, 0xee, sizeof(shorter));
    shorter.size = 12;
    cr_assert(kvw_core_next_event(core, (struct kvw_core_event *)(void *)&shorter));
    cr_expect(shorter.kind == KVW_CEV_XFER_DONE && shorter.err == KVW_E_CANCELED);
    for (uint32_t i = 0; i < 8; ++i)
        cr_expect_eq(shorter.guard[i], 0xee, "written beyond its size");
    end();
}

/* --- dialling --------------------------------------------------------------------------------- */

/* Dial `count` times; what was dialled comes up, and says this. */
static void dial_all(uint32_t count, const struct kvw_wire_hello *h, kvw_peer_id *ids)
{
    for (uint32_t i = 0; i < count; ++i)
        cr_assert_eq(kvw_core_peer_add(core, 0, NULL, now, &ids[i]), KVW_OK);
    settle();
    cr_assert_eq(f.connects, count);
    for (uint32_t i = 0; i < count; ++i) {
        f.dialled = (kvw_conn_id){i + 1};
        fake_dialled_up(&f);
        fake_message(&f, f.dialled, msg, kvw_wire_hello_encode(msg, h));
    }
    settle();
}

/* The end of a rejected connection and the next dial are due at the same moment. */
Test(core_wire, rejected_and_dialled_again, .timeout = 20)
{
    struct kvw_wire_hello h = good_hello();
    kvw_peer_id ids[6];

    begin();
    h.versions = 8;
    dial_all(6, &h, ids);
    cr_expect_eq(losts, 6);
    cr_expect_eq(last.err, KVW_E_VERSION);
    now += 1000 * MS;
    settle();
    cr_expect_eq(f.disconnects, 6);
    now += 1001 * MS;
    settle();
    cr_expect_geq(f.connects, 12);
    cr_expect_eq(losts, 6, "told once");
    end();
}

/* Two addresses that turn out to be one node, in the same moment: one connection stays, and each id
 * hears that it is up. */
Test(core_wire, two_dials_that_meet_the_same_node)
{
    const struct kvw_wire_hello h = good_hello();
    struct kvw_peer_info info = {.size = sizeof(info)};
    kvw_peer_id ids[2];

    begin();
    dial_all(2, &h, ids);
    cr_expect_eq(losts, 0, "%s", last.text);
    cr_expect_eq(ups, 2);
    cr_expect_eq(f.disconnects, 1);
    for (uint32_t i = 0; i < 2; ++i) {
        cr_assert_eq(kvw_core_peer_info(core, ids[i], &info), KVW_OK);
        cr_expect_eq(info.state, KVW_PEER_UP);
    }
    end();
}

/* A peer that can't be reached is told of once, and again when it is for another reason. */
Test(core_wire, why_nobody_answers)
{
    static const kvw_err errs[] = {KVW_E_PEER_LOST, KVW_E_PEER_LOST, KVW_E_IO, KVW_E_IO,
                                   KVW_E_PEER_LOST};
    static const uint32_t told[] = {1, 1, 2, 2, 3};
    kvw_peer_id id;

    begin();
    cr_assert_eq(kvw_core_peer_add(core, 0, "there", now, &id), KVW_OK);
    for (uint32_t i = 0; i < 5; ++i) {
        f.fail_connect = errs[i];
        now += 1100 * MS; /* the next dial is due */
        settle();
        cr_expect_eq(losts, told[i], "%u", i);
        cr_expect_eq(last.err, errs[i]);
        cr_expect_not_null(strstr(last.text, kvw_strerror(errs[i])), "%s", last.text);
    }
    end();
}
