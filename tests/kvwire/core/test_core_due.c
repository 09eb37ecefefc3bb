/* SPDX-License-Identifier: Apache-2.0 */
/* What happens when its time has come, to the nanosecond: strangers that say nothing are shown out,
 * dials come with back-off, a lease ends, and with grace if nobody had looked. */
#include <criterion/criterion.h>
#include <string.h>

#include "../../../compress/compress.h"
#include "../../../kvwire/peer/core_state.h"
#include "../../../kvwire/wire/le.h"
#include "../fake.h"
#include "state.h"

#define MS    1000000ull
#define LEASE (400 * MS)
#define HELLO (2000 * MS) /* SPEC.md: how long a newcomer may be silent */

static struct fake f;
static struct kvw_core *core;
static struct t_state state;
static struct kvw_layout *layout;
static kvw_pool_id pool;
static kvw_peer_id peer;
static kvw_conn_id conn;
static uint64_t now;
static uint8_t msg[KVW_MSG_BYTES_MAX];
static struct kvw_core_event last; /* the last PEER_LOST or XFER_DONE */
static uint32_t losts, dones;

static void settle(void)
{
    struct kvw_core_event ev = {.size = sizeof(ev)};

    for (uint32_t i = 0; f.event_count > 0 || kvw_core_deadline_ns(core) <= now; ++i) {
        cr_assert_lt(i, 1000, "it spins");
        (void)kvw_core_poll(core, now);
        while (kvw_core_next_event(core, &ev)) {
            losts += ev.kind == KVW_CEV_PEER_LOST;
            dones += ev.kind == KVW_CEV_XFER_DONE;
            if (ev.kind == KVW_CEV_PEER_UP)
                peer = ev.peer;
            if (ev.kind == KVW_CEV_PEER_LOST || ev.kind == KVW_CEV_XFER_DONE)
                last = ev;
        }
    }
}

static void begin(void)
{
    struct kvw_core_path path = {.name = "fake", .transport = &f.transport, .listen = 1};
    const struct kvw_core_config cfg = {
        .size = sizeof(cfg), .path_count = 1, .paths = &path, .instance = 50, .codecs = kvc_codecs};
    char why[200] = "";

    fake_init(&f);
    now = 1000 * MS;
    losts = dones = 0;
    t_state_dense(&state, 2, 2, 128, KVW_DTYPE_BF16, 8, 32);
    t_state_make(&state);
    cr_assert_eq(kvw_layout_of(&layout, &state.desc, why, sizeof(why)), KVW_OK);
    cr_assert_eq(kvw_core_open(&core, &cfg, now, NULL), KVW_OK);
    cr_assert_eq(kvw_core_pool_add(core, &state.desc, &pool, why, sizeof(why)), KVW_OK);
    settle();
}

static void end(void)
{
    kvw_core_close(core, now);
    kvw_layout_free(layout);
    t_state_free(&state);
    fake_free(&f);
}

Test(core_due, a_stranger_that_says_nothing_is_shown_out)
{
    begin();
    (void)fake_incoming(&f);
    settle();
    now += HELLO - 1;
    settle();
    cr_expect_eq(f.disconnects, 0, "too early");
    ++now;
    settle();
    cr_expect_eq(f.disconnects, 1, "strangers are shown out in the end");
    cr_expect_eq(losts, 0, "it was nobody");
    end();
}

Test(core_due, who_was_dialled_and_says_nothing_is_given_up)
{
    kvw_peer_id id;

    begin();
    cr_assert_eq(kvw_core_peer_add(core, 0, "there", now, &id), KVW_OK);
    settle();
    fake_dialled_up(&f);
    settle();
    now += HELLO - 1;
    settle();
    cr_expect_eq(losts, 0, "too early");
    ++now;
    settle();
    cr_expect_eq(losts, 1);
    cr_expect(last.peer.value == id.value && last.err == KVW_E_PEER_LOST);
    cr_expect_str_eq(last.text, "the peer sent no HELLO in time");
    cr_expect_eq(f.connects, 2, "and is dialled again");
    end();
}

/* At once, and then after 10, 20, 40 ... 250 ms. */
Test(core_due, dials_with_back_off)
{
    static const uint64_t after_ms[] = {0, 10, 20, 40, 80, 160, 250, 250, 250};
    kvw_peer_id id;

    begin();
    cr_assert_eq(kvw_core_peer_add(core, 0, "there", now, &id), KVW_OK);
    settle();
    cr_expect_eq(f.connects, 1);
    for (uint32_t i = 0; i < sizeof(after_ms) / sizeof(after_ms[0]); ++i) {
        fake_down(&f, f.dialled, KVW_E_PEER_LOST);
        settle();
        if (after_ms[i] > 0) {
            now += after_ms[i] * MS - 1;
            settle();
            cr_expect_eq(f.connects, i + 1, "%u: too early", i);
            ++now;
            settle();
        }
        cr_expect_eq(f.connects, i + 2, "%u", i);
    }
    end();
}

/* A peer comes, and blocks are offered to it; it has taken them up. */
static kvw_xfer_ref offered(void)
{
    static const uint32_t ids[4] = {0, 1, 2, 3};
    const struct kvw_wire_hello h = {.versions = 4,
                                     .instance = 60,
                                     .codecs = 2,
                                     .digests = 2,
                                     .slot_bytes = 64 * 1024,
                                     .offers = 8,
                                     .dead_ms = 1000,
                                     .name = "peer"};
    const struct kvw_group_blocks b = {0, 4, ids, 0, 0, 32};
    const struct kvw_offer_terms terms = {
        .size = sizeof(terms), .take_by_ns = 1000 * MS, .lease_ns = LEASE};
    const struct kvw_offer_args args = {.size = sizeof(args),
                                        .pool = pool,
                                        .key = kvw_key_of("x"),
                                        .tokens = 32,
                                        .group_count = 1,
                                        .groups = &b,
                                        .sources = &peer,
                                        .source_count = 1,
                                        .terms = &terms};
    kvw_xfer_ref x;
    char why[257] = "";

    conn = fake_incoming(&f);
    settle();
    fake_message(&f, conn, msg, kvw_wire_hello_encode(msg, &h));
    settle();
    fake_message(&f, conn, msg, kvw_layout_encode(msg, 3, layout));
    settle();
    cr_assert_eq(kvw_core_offer(core, &args, now, &x, why, sizeof(why)), KVW_OK, "%s", why);
    settle();
    return x;
}

/* The sender says that it is at work. */
static void alive(void)
{
    struct kvw_wire_offer o;
    uint32_t epoch = 0;

    for (uint32_t i = 0; i < f.sent_count; ++i)
        if (kvw_wire_offer_decode(&o, f.sent[i].msg, f.sent[i].bytes) == KVW_OK)
            epoch = o.about.epoch;
    cr_assert_neq(epoch, 0, "no offer was sent");
    kvw_store_le32(msg + KVW_WIRE_ALIVE_LEN, epoch);
    fake_message(&f, conn, msg, kvw_wire_alive_encode(msg, 1));
    settle();
}

/* As a loop does that sleeps until the deadline. */
static void until(uint64_t ns)
{
    for (uint64_t at; (at = kvw_core_deadline_ns(core)) <= ns;) {
        now = at > now ? at : now;
        settle();
    }
    now = ns;
    settle();
}

Test(core_due, an_offer_waits_until_take_by_and_a_lease)
{
    begin();
    (void)offered();
    until(now + 1000 * MS + LEASE - 1);
    cr_expect_eq(dones, 0, "too early");
    ++now;
    settle();
    cr_expect_eq(dones, 1);
    cr_expect_eq(last.err, KVW_E_DEADLINE, "%s", last.text);
    end();
}

Test(core_due, a_lease_ends_on_time)
{
    begin();
    (void)offered();
    alive();
    until(now + LEASE - 1);
    cr_expect_eq(dones, 0, "too early");
    ++now;
    settle();
    cr_expect_eq(dones, 1);
    cr_expect_eq(last.err, KVW_E_LEASE, "%s", last.text);
    end();
}

/* Nobody polled for more than a quarter of it: what the sender has said may lie there unread. It is
 * given a quarter more, once; and again when it has been heard. */
Test(core_due, grace_for_who_could_not_be_heard)
{
    for (uint32_t heard = 0; heard < 2; ++heard) {
        begin();
        (void)offered();
        alive();
        now += LEASE + 5;
        settle();
        cr_expect_eq(dones, 0, "it is given a quarter");
        if (heard != 0) {
            alive();
            now += LEASE + 5;
            settle();
            cr_expect_eq(dones, 0, "the grace came back");
        }
        now += LEASE / 4 + 5; /* again nobody looked meanwhile */
        settle();
        cr_expect_eq(dones, 1, "%u", heard);
        cr_expect_eq(last.err, KVW_E_LEASE, "%s", last.text);
        end();
    }
}

/* The last look was a quarter of a lease ago, and not more: no grace. */
Test(core_due, no_grace_for_a_quarter)
{
    begin();
    (void)offered();
    alive();
    now += LEASE - LEASE / 4;
    (void)kvw_core_poll(core, now);
    now += LEASE / 4;
    settle();
    cr_expect_eq(dones, 1);
    end();
}
