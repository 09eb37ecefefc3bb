/* SPDX-License-Identifier: Apache-2.0 */
/* A long way holds thousands of chunks: who can take that many landing slots gets them, and each
 * put goes to the slot that was granted for it. What the transport says of the way is known. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "../../../compress/compress.h"
#include "../../../kvwire/core.h"
#include "../../../kvwire/peer/core_state.h"
#include "../../../kvwire/wire/credit.h"
#include "../../../kvwire/wire/layout.h"
#include "../../../kvwire/wire/le.h"
#include "../../../kvwire/wire/xfers.h"
#include "../fake.h"
#include "state.h"

#define MS     1000000ull
#define SLOT   4096u
#define LAYERS 16u
#define BLOCKS 48u
#define TOKENS (8u * BLOCKS)

static struct fake f;
static struct kvw_core *core;
static struct t_state state;
static struct kvw_layout *layout;
static kvw_pool_id pool;
static kvw_conn_id conn;
static kvw_peer_id peer;
static uint64_t now;
static uint8_t msg[KVW_MSG_BYTES_MAX];
static uint32_t losts;
static char text[257];

static void settle(void)
{
    struct kvw_core_event ev = {.size = sizeof(ev)};

    for (uint32_t i = 0; f.event_count > 0 || kvw_core_deadline_ns(core) <= now; ++i) {
        cr_assert_lt(i, 1000, "it spins");
        (void)kvw_core_poll(core, now);
        while (kvw_core_next_event(core, &ev)) {
            if (ev.kind == KVW_CEV_PEER_UP)
                peer = ev.peer;
            if (ev.kind == KVW_CEV_PEER_LOST) {
                ++losts;
                memcpy(text, ev.text, sizeof(text));
            }
        }
    }
}

static void say(uint32_t bytes)
{
    fake_message(&f, conn, msg, bytes);
    settle();
}

static void begin(uint32_t slots, uint64_t features)
{
    struct kvw_core_path path = {.name = "fake", .transport = &f.transport, .listen = 1};
    const struct kvw_core_config cfg = {.size = sizeof(cfg),
                                        .path_count = 1,
                                        .paths = &path,
                                        .instance = 50,
                                        .codecs = kvc_codecs,
                                        .codec = KVW_CODEC_RAW,
                                        .chunk_raw_bytes = 4096,
                                        .slots = slots,
                                        .stages = 64};
    const struct kvw_wire_hello hello = {.versions = 4,
                                         .instance = 60,
                                         .codecs = 2,
                                         .digests = 2,
                                         .features = features,
                                         .slot_bytes = SLOT,
                                         .offers = 8,
                                         .dead_ms = 1000,
                                         .name = "peer"};
    char why[200] = "";

    fake_init(&f);
    now = 1000 * MS;
    losts = 0;
    t_state_dense(&state, LAYERS, 2, 128, KVW_DTYPE_BF16, 8, BLOCKS);
    t_state_make(&state);
    cr_assert_eq(kvw_layout_of(&layout, &state.desc, why, sizeof(why)), KVW_OK);
    cr_assert_eq(kvw_core_open(&core, &cfg, now, NULL), KVW_OK);
    cr_assert_eq(kvw_core_pool_add(core, &state.desc, &pool, why, sizeof(why)), KVW_OK);
    conn = fake_incoming(&f);
    settle();
    say(kvw_wire_hello_encode(msg, &hello));
    say(kvw_layout_encode(msg, 3, layout));
    fake_drop_sent(&f);
}

static void end(void)
{
    while (f.put_count > 0)
        fake_put_done(&f, 0, KVW_OK);
    settle();
    kvw_core_close(core, now);
    kvw_layout_free(layout);
    t_state_free(&state);
    fake_free(&f);
}

static const struct kvw_group_blocks *all_blocks(uint32_t want_end)
{
    static uint32_t ids[BLOCKS];
    static struct kvw_group_blocks b;

    for (uint32_t i = 0; i < BLOCKS; ++i)
        ids[i] = i;
    b = (struct kvw_group_blocks){0, BLOCKS, ids, 0, 0, want_end};
    return &b;
}

/* --- granting --------------------------------------------------------------------------------- */

/* Offers, and counts what is granted for it. */
static uint32_t granted(void)
{
    const struct kvw_offer_args args = {.size = sizeof(args),
                                        .pool = pool,
                                        .key = kvw_key_of("x"),
                                        .tokens = TOKENS,
                                        .group_count = 1,
                                        .groups = all_blocks(TOKENS),
                                        .sources = &peer,
                                        .source_count = 1};
    char why[200] = "";
    kvw_xfer_ref x;
    struct kvw_wire_grant g;
    struct fake_msg m;
    uint64_t n = 0;

    cr_assert_eq(kvw_core_offer(core, &args, now, &x, why, sizeof(why)), KVW_OK, "%s", why);
    settle();
    while (fake_take(&f, KVW_WIRE_GRANT, &m)) {
        cr_assert_eq(kvw_wire_grant_decode(&g, m.msg, m.bytes), KVW_OK);
        cr_expect_eq(g.from, n, "each follows the one before");
        n += g.count;
        free(m.msg);
    }
    return (uint32_t)n;
}

Test(core_credit, who_can_take_them_is_granted_all_slots)
{
    begin(4096, KVW_FEATURE_CREDIT);
    cr_expect_eq(granted(), 4096);
    end();
}

Test(core_credit, others_are_granted_what_one_message_holds)
{
    begin(4096, KVW_FEATURE_BATCH | KVW_FEATURE_STAGE);
    cr_expect_eq(granted(), 1024);
    end();
}

static uint32_t granted_of_64(uint64_t srtt_ns)
{
    uint32_t n;

    begin(64, KVW_FEATURE_CREDIT);
    f.stats.srtt_ns = srtt_ns;
    kvw_list_of(core->peers.next, struct kvw_peer, all)->lent.window.slots = 8;
    n = granted();
    end();
    return n;
}

Test(core_credit, a_peer_far_away_has_all_of_its_share)
{
    cr_expect_eq(granted_of_64(9 * MS), 8, "near: as many as it needs");
    cr_expect_eq(granted_of_64(10 * MS), 64);
}

/* --- using ------------------------------------------------------------------------------------ */

static uint32_t offer_msg(void)
{
    static const struct kvw_wire_span spans[2] = {{0, 0, 0, LAYERS, 0, TOKENS, 0, 2},
                                                  {0, 1, 0, LAYERS, 0, TOKENS, 0, 2}};
    const kvw_key k = kvw_key_of("x");
    struct kvw_wire_offer o = {.about = {.epoch = 1},
                               .lease_ns = 100 * MS,
                               .take_by_ns = 1000 * MS,
                               .tokens = TOKENS,
                               .pool = 3,
                               .span_count = 2};

    memcpy(o.about.key.bytes, k.bytes, sizeof(k.bytes));
    return kvw_wire_offer_encode(msg, &o, spans);
}

static void stream(void)
{
    const struct kvw_stream_args args = {.size = sizeof(args),
                                         .pool = pool,
                                         .key = kvw_key_of("x"),
                                         .tokens = TOKENS,
                                         .group_count = 1,
                                         .groups = all_blocks(0)};
    char why[200] = "";
    kvw_xfer_ref x;

    cr_assert_eq(kvw_core_stream(core, &args, now, &x, why, sizeof(why)), KVW_OK, "%s", why);
    for (uint32_t l = 0; l < LAYERS; ++l)
        cr_assert_eq(kvw_core_push(core, x, l, TOKENS, NULL), KVW_OK);
}

/* The slot of put seq: every number once, and far from its own. */
static uint32_t slot_of(uint64_t seq)
{
    return (uint32_t)(seq * 2731 + 5) % 4096;
}

static void grant(uint64_t from, uint32_t count)
{
    for (; count > 0; from += 1024, count -= count < 1024 ? count : 1024) {
        const struct kvw_wire_grant g = {.from = from, .count = count < 1024 ? count : 1024};

        for (uint32_t i = 0; i < g.count; ++i)
            kvw_store_le16(msg + KVW_WIRE_GRANT_LEN + 2 * i, (uint16_t)slot_of(from + i));
        say(kvw_wire_grant_encode(msg, &g));
    }
}

/* Ends puts until so many have been made; each must have gone to its slot. */
static uint64_t use(uint64_t seq, uint64_t until)
{
    while (f.put_count > 0 && seq < until) {
        cr_assert_eq(f.puts[0].put.imm, seq);
        cr_assert_eq(f.puts[0].put.offset, (uint64_t)slot_of(seq) * SLOT, "put %lu",
                     (unsigned long)seq);
        fake_put_done(&f, 0, KVW_OK);
        settle();
        ++seq;
    }
    return seq;
}

Test(core_credit, each_put_goes_to_its_slot_when_the_ring_has_grown)
{
    uint64_t seq;

    begin(8, 0);
    say(offer_msg());
    stream();
    grant(0, 900);
    seq = use(0, 500);
    cr_assert_eq(seq, 500, "%lu", (unsigned long)seq);
    grant(900, 3000); /* 3,400 and those that were put are out */
    seq = use(seq, 800);
    grant(3900, 600);
    cr_expect_gt(use(seq, UINT64_MAX), 1024);
    cr_expect_eq(losts, 0, "%s", text);
    end();
}

Test(core_credit, more_than_there_can_be_is_a_breach)
{
    begin(8, 0);
    grant(0, 4096);
    cr_expect_eq(losts, 0, "%s", text);
    grant(4096, 1);
    cr_expect_eq(losts, 1);
    cr_expect(strstr(text, "too many slots") != NULL, "%s", text);
    end();
}

/* --- what the transport says ------------------------------------------------------------------ */

Test(core_credit, packets_and_those_sent_again_are_told)
{
    struct kvw_core_stats s = {.size = sizeof(s)};

    begin(8, 0);
    kvw_core_stats(core, &s);
    cr_expect_eq(s.packets_sent + s.packets_retransmitted, 0);
    f.stats = (struct kvw_transport_stats){.packets_sent = 9, .packets_retransmitted = 2};
    grant(0, 1);
    kvw_core_stats(core, &s);
    cr_expect_eq(s.packets_sent, 9);
    cr_expect_eq(s.packets_retransmitted, 2);
    end();
}
