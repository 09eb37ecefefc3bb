/* SPDX-License-Identifier: Apache-2.0 */
/* Whatever fails under a verbs transport, every operation has one outcome, the reason is a sentence
 * and nothing of the device is left behind. On the pretended fabric. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "duo.h"

static char why[KVN_WHY_BYTES];

TestSuite(verbs_faults, .timeout = 120);

static void expect_nothing_left(const char *when, int n)
{
    duo_close();
    cr_assert_eq(vf.live, 0, "%s %d: %d objects are left", when, n, vf.live);
}

/* Every call of the device that opening and joining make fails in turn. */
Test(verbs_faults, each_step_fails)
{
    int steps;

    vf_reset(1);
    cr_assert(duo_open(NULL, NULL, why) && duo_join(), "%s", why);
    steps = vf.steps;
    expect_nothing_left("no step", 0);
    cr_assert_geq(steps, 40, "only %d calls were seen", steps);
    for (int n = 1; n <= steps; ++n) {
        bool opened;

        vf_reset(1);
        vf.fail_at = n;
        opened = duo_open(NULL, NULL, why);
        cr_assert(opened || why[0] != '\0' || duo_a.t != NULL, "step %d: no reason", n);
        if (opened && !duo_join())
            cr_assert_gt(strlen(duo_a.down_text) + strlen(duo_b.down_text), 0, "step %d", n);
        expect_nothing_left("step", n);
    }
}

/* A work request ends with each status there is, with one queue pair and with four. */
Test(verbs_faults, each_status)
{
    for (int s = IBV_WC_LOC_LEN_ERR; s <= IBV_WC_GENERAL_ERR; ++s) {
        for (int many = 0; many < 2; ++many) {
            uint32_t n = 0;

            vf_reset((uint64_t)s);
            cr_assert(duo_open(many ? NULL : "fake0,qps=1", NULL, why) && duo_join(), "%s", why);
            vf.status = (enum ibv_wc_status)s;
            vf.fail_65536 = 65536 / 8;
            for (; n < 64; ++n)
                cr_assert_eq(duo_put(&duo_a, n, n * 4096, 1000), KVW_OK);
            duo_run(60);
            vf.fail_65536 = 0;
            duo_run(3000);
            for (uint32_t i = 0; i < n; ++i)
                cr_assert_eq(duo_a.done[i], 1, "status %d: put %u is done %d times", s, i,
                             duo_a.done[i]);
            for (uint32_t i = 0; i < n; ++i)
                cr_assert(duo_b.landed[i] <= 1 && (duo_a.err[i] != KVW_OK || duo_b.landed[i] == 1),
                          "status %d: put %u landed %d times", s, i, duo_b.landed[i]);
            cr_assert_leq(duo_a.downs, 1);
            expect_nothing_left("status", s);
        }
    }
}

static void load(uint32_t from, uint32_t to)
{
    for (uint32_t n = from; n < to; ++n)
        while (duo_put(&duo_a, n, n * 2048, 2000) == KVW_E_AGAIN && duo_a.downs == 0)
            duo_step();
}

/* A receiver's device that answers "invalid request" has lost count of the packets, as rxe's does
 * when it is too busy to answer in time. Keys and ranges have another status: so it is the queue
 * pair's failure, and all its work is done over another. */
Test(verbs_faults, an_invalid_request_costs_a_queue_pair)
{
    struct kvn_verbs_counters c;

    vf_reset(12);
    vf.burst = 3;
    cr_assert(duo_open(NULL, NULL, why) && duo_join(), "%s", why);
    load(0, 50);
    vf.status = IBV_WC_REM_INV_REQ_ERR;
    vf.fail_65536 = 65536 / 32;
    for (uint32_t i = 0; i < 100 && vf.faults == 0; ++i)
        duo_step();
    vf.fail_65536 = 0;
    load(50, 200);
    duo_run(3000);
    cr_expect_eq(duo_a.downs + duo_b.downs, 0, "%s / %s", duo_a.down_text, duo_b.down_text);
    for (uint32_t i = 0; i < 200; ++i)
        cr_assert(duo_a.done[i] == 1 && duo_a.err[i] == KVW_OK && duo_b.landed[i] == 1,
                  "put %u: done %d, landed %d", i, duo_a.done[i], duo_b.landed[i]);
    kvn_verbs_counters(duo_a.t, &c);
    cr_expect_gt(c.resent, 0, "nothing was on its way");
    expect_nothing_left("invalid request", 0);
}

/* A receiver that sleeps is woken by the last write of a doorbell, not by those before it. */
Test(verbs_faults, a_doorbell_wakes_the_receiver_once)
{
    struct kvn_verbs_counters before, after;
    struct kvw_transport_event ev[8];

    vf_reset(15);
    cr_assert(duo_open("fake0,qps=1", NULL, why) && duo_join(), "%s", why);
    load(0, 8); /* the places are known after that */
    duo_run(50);
    for (uint32_t n = 8; n < 16; ++n)
        cr_assert_eq(duo_put(&duo_a, n, (n - 8) * 2048, 2000), KVW_OK);
    duo_b.t->ops->wait(duo_b.t, 0, -1); /* arms, and doesn't sleep */
    vf.burst = 1;
    vf.writes = vf.events = 0;
    kvn_verbs_counters(duo_a.t, &before);
    for (uint32_t i = 0; i < 1000 && vf.writes < 8; ++i) {
        cr_assert_eq(vf.events, 0, "awake after %u of 8 writes", (unsigned)vf.writes);
        (void)duo_a.t->ops->poll(duo_a.t, duo_now, ev, 8);
    }
    kvn_verbs_counters(duo_a.t, &after);
    cr_expect_eq(after.doorbells - before.doorbells, 1);
    cr_expect_eq(vf.events, 1, "%u events for a doorbell", (unsigned)vf.events);
    duo_run(50);
    for (uint32_t n = 8; n < 16; ++n)
        cr_expect_eq(duo_b.landed[n], 1);
    expect_nothing_left("doorbell", 0);
}

/* Writes that the device repeats without their bytes are nobody's puts, and don't count as
 * received: what a queue pair leaves behind is still told apart. */
Test(verbs_faults, an_empty_repetition_counts_for_nothing)
{
    vf_reset(14);
    vf.burst = 3;
    cr_assert(duo_open(NULL, NULL, why) && duo_join(), "%s", why);
    vf.echo_65536 = 65536 / 2;
    load(0, 100);
    vf_remove(1);
    load(100, 400);
    duo_run(3000);
    cr_expect_eq(duo_a.downs + duo_b.downs, 0, "%s / %s", duo_a.down_text, duo_b.down_text);
    for (uint32_t i = 0; i < 400; ++i)
        cr_assert(duo_a.done[i] == 1 && duo_a.err[i] == KVW_OK && duo_b.landed[i] == 1,
                  "put %u: done %d, landed %d", i, duo_a.done[i], duo_b.landed[i]);
    for (uint32_t i = 0; i < 400; ++i)
        cr_assert(memcmp(duo_b.region + i * 2048, duo_a.source + i * 2048, 2000) == 0, "put %u", i);
    expect_nothing_left("repetition", 0);
}

/* A device leaves under load: its puts go out again on the other, and all land once. */
Test(verbs_faults, a_device_leaves)
{
    struct kvn_verbs_counters c;

    vf_reset(5);
    vf.burst = 3;
    cr_assert(duo_open(NULL, NULL, why) && duo_join(), "%s", why);
    load(0, 100);
    duo_step();
    vf_remove(1);
    load(100, 400);
    duo_run(3000);
    cr_expect_eq(duo_a.downs + duo_b.downs, 0, "%s / %s", duo_a.down_text, duo_b.down_text);
    for (uint32_t i = 0; i < 400; ++i)
        cr_assert(duo_a.done[i] == 1 && duo_a.err[i] == KVW_OK && duo_b.landed[i] == 1,
                  "put %u: done %d, landed %d", i, duo_a.done[i], duo_b.landed[i]);
    for (uint32_t i = 0; i < 400; ++i)
        cr_assert(memcmp(duo_b.region + i * 2048, duo_a.source + i * 2048, 2000) == 0, "put %u", i);
    kvn_verbs_counters(duo_a.t, &c);
    cr_expect_gt(c.resent, 0, "nothing was on its way");
    cr_expect_gt(c.paths_lost, 0);
    /* Then the last one. */
    load(400, 420);
    vf_remove(0);
    duo_run(3000);
    cr_expect_eq(duo_a.downs, 1);
    cr_expect_eq(duo_a.down_err, KVW_E_PEER_LOST);
    for (uint32_t i = 400; i < 420; ++i)
        cr_assert_eq(duo_a.done[i], 1);
    expect_nothing_left("both devices", 2);
}

/* Messages keep their order and come once when their queue pair fails. */
Test(verbs_faults, messages_change_their_queue_pair)
{
    uint32_t n = 0;

    vf_reset(6);
    vf.burst = 2;
    cr_assert(duo_open(NULL, NULL, why) && duo_join(), "%s", why);
    for (uint32_t tries = 0; n < 300 && tries < 100000; ++tries) {
        if (n == 100)
            vf_remove(0);
        if (duo_send(&duo_a, n) == KVW_OK)
            ++n;
        else
            duo_step();
    }
    duo_run(3000);
    cr_expect_eq(duo_a.downs, 0, "%s", duo_a.down_text);
    cr_expect_eq(n, 300);
    cr_expect_eq(duo_b.msgs, n);
    cr_expect_eq(duo_b.messages_wrong, 0);
    expect_nothing_left("messages", 0);
}

/* What a peer that has seen a key can do with it later: nothing. */
Test(verbs_faults, an_old_key_opens_nothing)
{
    uint64_t address;
    uint32_t rkey;

    vf_reset(7);
    cr_assert(duo_open("fake0", "127.0.0.1:0", why) && duo_join(), "%s", why);
    cr_assert_eq(duo_put(&duo_a, 0, 0, 100), KVW_OK);
    duo_run(100);
    cr_assert_eq(duo_b.landed[0], 1);
    memcpy(&address, duo_b.key.bytes, 8);
    rkey = vf_window_key(0, address);
    cr_assert_eq(vf_write_raw(0, address + 8, rkey, 1), IBV_WC_SUCCESS);
    cr_assert_eq(vf_write_raw(0, address + DUO_REGION, rkey, 1), IBV_WC_REM_ACCESS_ERR);
    cr_assert_eq(duo_b.t->ops->region_remove(duo_b.t, &duo_b.key), KVW_OK);
    cr_assert_eq(vf_write_raw(0, address, rkey, 1), IBV_WC_REM_ACCESS_ERR);
    cr_assert_eq(duo_put(&duo_a, 1, 0, 100), KVW_OK);
    duo_run(500);
    cr_expect_eq(duo_a.err[1], KVW_E_PROTOCOL);
    cr_expect(strstr(duo_a.down_text, "get the peer's key again") != NULL ||
                  strstr(duo_a.down_text, "registered") != NULL,
              "%s", duo_a.down_text);
    expect_nothing_left("old key", 0);
}

/* --- memory windows --------------------------------------------------------------------------- */

static void open_a(void)
{
    cr_assert_eq(duo_a.t->ops->region_open(duo_a.t, duo_a.conn, &duo_a.key), KVW_OK);
}

static void open_b(void)
{
    cr_assert_eq(duo_b.t->ops->region_open(duo_b.t, duo_b.conn, &duo_b.key), KVW_OK);
}

static void shut_b(void)
{
    duo_b.t->ops->region_shut(duo_b.t, duo_b.conn, &duo_b.key);
}

static uint64_t address_b(void)
{
    uint64_t address;

    memcpy(&address, duo_b.key.bytes, 8);
    return address;
}

/* What HELLO carries has no rkey, whoever reads it; and what each opening tells is another. */
Test(verbs_faults, a_key_lives_with_the_offer)
{
    static const uint8_t none[16];
    uint32_t first, second;

    vf_reset(21);
    cr_assert(duo_open(NULL, NULL, why) && duo_join(), "%s", why);
    cr_expect(strstr(kvn_verbs_about(duo_b.t), "Keys live with the offer (memory windows)") != NULL,
              "%s", kvn_verbs_about(duo_b.t));
    cr_expect_eq(memcmp(duo_b.key.bytes + 16, none, 16), 0, "an rkey is in the region's key");
    load(0, 50);
    duo_run(100);
    cr_expect_eq(duo_a.ok, 50);
    first = vf_window_key(0, address_b());
    cr_assert_neq(first, 0);
    cr_expect_eq(vf_write_raw(0, address_b(), first, 100), IBV_WC_SUCCESS);
    shut_b();
    duo_run(100);
    cr_expect_eq(vf_write_raw(0, address_b(), first, 100), IBV_WC_REM_ACCESS_ERR,
                 "the key of an offer that is over");
    cr_expect_eq(vf_window_key(0, address_b()), 0);
    open_b();
    duo_run(100);
    second = vf_window_key(0, address_b());
    cr_expect(second != 0 && second != first);
    cr_expect_eq(vf_write_raw(0, address_b(), first, 100), IBV_WC_REM_ACCESS_ERR);
    load(50, 100);
    duo_run(100);
    cr_expect_eq(duo_a.ok, 100);
    cr_expect_eq(duo_a.downs + duo_b.downs, 0, "%s", duo_a.down_text);
    expect_nothing_left("windows", 0);
}

/* A put after the end of an offer waits, costs nobody the connection, and goes on with the next. */
Test(verbs_faults, a_late_put_waits)
{
    struct kvn_verbs_counters c;

    vf_reset(22);
    cr_assert(duo_open(NULL, NULL, why) && duo_join(), "%s", why);
    shut_b();
    duo_run(100);
    load(0, 100);
    duo_run(3000); /* seconds */
    for (uint32_t i = 0; i < 100; ++i)
        cr_assert(duo_a.done[i] == 0 && duo_b.landed[i] == 0, "put %u", i);
    cr_expect_eq(duo_a.downs + duo_b.downs, 0, "%s", duo_a.down_text);
    cr_assert_eq(duo_put(&duo_b, 0, 0, 100), KVW_OK); /* the other way it is open */
    duo_run(100);
    cr_expect_eq(duo_a.landed[0], 1);
    open_b();
    duo_run(300);
    for (uint32_t i = 0; i < 100; ++i)
        cr_assert(duo_a.done[i] == 1 && duo_a.err[i] == KVW_OK && duo_b.landed[i] == 1,
                  "put %u: done %d, landed %d", i, duo_a.done[i], duo_b.landed[i]);
    kvn_verbs_counters(duo_a.t, &c);
    cr_expect_geq(c.parked, 100);
    expect_nothing_left("late", 0);
}

/* A region that is shut under load loses nothing of what is on its way, however often. */
Test(verbs_faults, shut_and_opened_under_load)
{
    struct kvn_verbs_counters c;

    vf_reset(23);
    vf.burst = 2;
    cr_assert(duo_open(NULL, NULL, why) && duo_join(), "%s", why);
    for (uint32_t n = 0; n < 400; n += 10) {
        load(n, n + 10);
        shut_b();
        if (n % 30 == 0)
            duo_run(1 + n % 7);
        open_b();
        if (n % 40 == 0)
            open_b(); /* again is nothing */
    }
    duo_run(3000);
    for (uint32_t i = 0; i < 400; ++i)
        cr_assert(duo_a.done[i] == 1 && duo_a.err[i] == KVW_OK && duo_b.landed[i] == 1,
                  "put %u: done %d, landed %d", i, duo_a.done[i], duo_b.landed[i]);
    cr_expect_eq(duo_a.downs + duo_b.downs, 0, "%s / %s", duo_a.down_text, duo_b.down_text);
    kvn_verbs_counters(duo_b.t, &c);
    cr_expect_gt(c.binds, 10);
    cr_expect_eq(c.keys_taken, 0);
    expect_nothing_left("under load", 0);
}

/* A peer that doesn't let go loses the key all the same, in time; what it still writes is its own
 * fault. */
Test(verbs_faults, a_key_is_taken_in_time)
{
    struct kvn_verbs_counters c;
    uint64_t begun;
    uint32_t rkey;

    vf_reset(24);
    cr_assert(duo_open("fake0", "127.0.0.1:0", why) && duo_join(), "%s", why);
    rkey = vf_window_key(0, address_b());
    vf.stuck = true;
    load(0, 10);
    duo_run(3); /* they are posted, and don't move */
    shut_b();
    begun = duo_now;
    while (duo_now - begun < 1900000000)
        duo_run(1);
    cr_expect_eq(vf_write_raw(0, address_b(), rkey, 1), IBV_WC_SUCCESS, "taken too early");
    while (duo_now - begun < 2200000000)
        duo_run(1);
    cr_expect_eq(vf_write_raw(0, address_b(), rkey, 1), IBV_WC_REM_ACCESS_ERR, "still good");
    kvn_verbs_counters(duo_b.t, &c);
    cr_expect_eq(c.keys_taken, 1);
    vf.stuck = false;
    duo_run(1000);
    cr_expect_eq(duo_a.down_err, KVW_E_PROTOCOL);
    cr_expect_eq(duo_a.failed, 10);
    for (uint32_t i = 0; i < 10; ++i)
        cr_expect(duo_a.done[i] == 1 && duo_b.landed[i] == 0);
    expect_nothing_left("taken", 0);
}

/* Puts to a region that goes while they wait, or went before: rule 5, with a sentence. */
Test(verbs_faults, a_region_that_goes_while_it_is_shut)
{
    for (int later = 0; later < 2; ++later) {
        vf_reset(25);
        cr_assert(duo_open(NULL, NULL, why) && duo_join(), "%s", why);
        shut_b();
        duo_run(100);
        if (later == 0) {
            load(0, 3);
            duo_run(100);
        }
        cr_assert_eq(duo_b.t->ops->region_remove(duo_b.t, &duo_b.key), KVW_OK);
        if (later == 1)
            load(0, 3);
        duo_run(100);
        duo_run(300);
        cr_expect_eq(duo_a.down_err, KVW_E_PROTOCOL);
        cr_expect(strstr(duo_a.down_text, "not registered") != NULL, "%s", duo_a.down_text);
        cr_expect_eq(duo_a.failed, 3);
        expect_nothing_left("gone", later);
    }
}

/* A bind that fails costs a queue pair and is done again on another; each call that it makes may
 * fail, and devices without windows have the region's own keys. */
Test(verbs_faults, binds_that_fail)
{
    vf_reset(26);
    cr_assert(duo_open(NULL, NULL, why) && duo_join(), "%s", why);
    shut_b();
    duo_run(100);
    vf.bind_65536 = 65536 / 3;
    open_b();
    duo_run(50);
    vf.bind_65536 = 0;
    load(0, 100);
    duo_run(1000);
    cr_expect_eq(duo_a.ok, 100, "%u: %s / %s", duo_a.ok, duo_a.down_text, duo_b.down_text);
    expect_nothing_left("binds", 0);

    for (int n = 1; n <= 4; ++n) { /* two rails: alloc, bind; alloc, bind */
        vf_reset(27);
        cr_assert(duo_open(NULL, NULL, why) && duo_join(), "%s", why);
        shut_b();
        duo_run(100);
        vf.fail_at = vf.steps + n;
        open_b();
        load(0, 100);
        duo_run(1000);
        cr_expect_eq(duo_a.ok, 100, "step %d: %s / %s", n, duo_a.down_text, duo_b.down_text);
        expect_nothing_left("step of a bind", n);
    }
    vf_reset(28);
    cr_assert(duo_open("fake0", "127.0.0.1:0", why) && duo_join(), "%s", why);
    shut_b();
    duo_run(100);
    vf.fail_at = vf.steps + 1;
    open_b();
    duo_run(100);
    cr_expect_eq(duo_b.down_err, KVW_E_DEVICE);
    cr_expect(strstr(duo_b.down_text, "mw=0") != NULL, "%s", duo_b.down_text);
    expect_nothing_left("no window", 0);
}

/* The only rail's bind fails, and takes one of its two queue pairs along: the other carries the
 * next one. */
Test(verbs_faults, a_failed_bind_is_done_again)
{
    struct kvn_verbs_counters c = {0};

    vf_reset(31);
    cr_assert(duo_open("fake0", "127.0.0.1:0", why) && duo_join(), "%s", why);
    shut_b();
    duo_run(100);
    vf.bind_65536 = 65536;
    open_b();
    for (uint32_t i = 0; i < 100 && c.paths_lost == 0; ++i) {
        duo_step();
        kvn_verbs_counters(duo_b.t, &c);
    }
    vf.bind_65536 = 0;
    load(0, 100);
    duo_run(1000);
    cr_expect_eq(c.paths_lost, 1);
    cr_expect_eq(duo_a.ok, 100, "%u: %s / %s", duo_a.ok, duo_a.down_text, duo_b.down_text);
    expect_nothing_left("bind", 0);
}

/* The old way: the rkeys are in the key, opening is nothing, and about() says so. */
Test(verbs_faults, without_windows)
{
    static const char *const local[] = {"127.0.0.1:0", "127.0.0.1:0,mw=0"};

    for (int off = 0; off < 2; ++off) {
        uint32_t rkey;

        vf_reset(29);
        vf.no_windows = off == 0;
        cr_assert(duo_open("fake0", local[off], why) && duo_join(), "%s", why);
        cr_expect(strstr(kvn_verbs_about(duo_b.t),
                         off == 0 ? "Keys live with the region: fake0 has no memory windows"
                                  : "Keys live with the region: mw=0") != NULL,
                  "%s", kvn_verbs_about(duo_b.t));
        memcpy(&rkey, duo_b.key.bytes + 16, 4);
        cr_expect_neq(rkey, 0);
        cr_expect_eq(vf_window_key(0, address_b()), 0);
        shut_b();
        load(0, 100);
        duo_run(300);
        cr_expect_eq(duo_a.ok, 100, "%s", duo_a.down_text);
        expect_nothing_left("no windows", off);
    }
}

/* A device leaves while a region is opened, or shut: the other rail's key does. */
Test(verbs_faults, a_rail_goes_with_its_key)
{
    for (uint32_t when = 0; when < 6; ++when) {
        vf_reset(30);
        vf.burst = 2;
        cr_assert(duo_open(NULL, NULL, why) && duo_join(), "%s", why);
        shut_b();
        duo_run(100);
        open_b();
        load(0, 50);
        duo_run(when);
        vf_remove(when & 1);
        load(50, 60);
        shut_b();
        open_b();
        open_a();
        duo_run(3000);
        cr_expect_eq(duo_a.ok, 60, "when %u: %s / %s", when, duo_a.down_text, duo_b.down_text);
        expect_nothing_left("rail", (int)when);
    }
}

/* --- memory of a GPU -------------------------------------------------------------------------- */

static uint8_t vram[DUO_REGION];
static uint32_t copies, flushes;

static kvw_err copy(void *arg, void *to, const void *from, uint64_t bytes)
{
    (void)arg;
    ++copies;
    memcpy(to, from, bytes);
    return KVW_OK;
}

static kvw_err flush(void *arg)
{
    (void)arg;
    ++flushes;
    return KVW_OK;
}

static void expect_rung(int dmabuf_error, int peermem_error, const char *words, bool copied)
{
    static const struct kvw_mem_device device = {.copy_in = copy, .copy_out = copy, .flush = flush};
    const struct kvw_mem mem = {.base = vram,
                                .bytes = sizeof(vram),
                                .kind = KVW_MEM_CUDA,
                                .dmabuf_fd = 99,
                                .device = &device};

    vf_reset(8);
    copies = flushes = 0;
    memset(vram, 0, sizeof(vram));
    cr_assert(duo_open(NULL, NULL, why) && duo_join(), "%s", why);
    vf.vram = vram;
    vf.vram_bytes = sizeof(vram);
    vf.dmabuf_error = dmabuf_error;
    vf.peermem_error = peermem_error;
    cr_assert_eq(duo_b.t->ops->region_add(duo_b.t, &mem, NULL, NULL, &duo_b.key), KVW_OK);
    cr_assert_eq(duo_b.t->ops->region_open(duo_b.t, duo_b.conn, &duo_b.key), KVW_OK);
    cr_expect(strstr(kvn_verbs_about(duo_b.t), words) != NULL, "%s", kvn_verbs_about(duo_b.t));
    cr_assert_eq(duo_put(&duo_a, 0, 4096, 9000), KVW_OK);
    duo_run(300);
    cr_expect_eq(duo_b.landed[0], 1);
    cr_expect(memcmp(vram + 4096, duo_a.source + 4096, 9000) == 0);
    cr_expect_eq(copies, copied ? 1 : 0);
    cr_expect_eq(flushes, copied ? 0 : 1);
    expect_nothing_left("rung", dmabuf_error);
}

/* dma-buf, else peer memory, else a copy; and the reason is given. */
Test(verbs_faults, the_ladder_of_gpu_memory)
{
    expect_rung(0, 0, "CUDA memory by dma-buf", false);
    expect_rung(EOPNOTSUPP, 0, "by peer memory (dma-buf: Operation not supported)", false);
    expect_rung(EOPNOTSUPP, EFAULT,
                "through a host copy (dma-buf: Operation not supported; peer "
                "memory: Bad address",
                true);
}

/* --- bad configuration ------------------------------------------------------------------------ */

static void expect_why(const char *local, bool listener, kvw_err err, const char *words)
{
    const struct kvn_config cfg = {.local = local, .listener = listener};
    struct kvw_transport *t = NULL;

    cr_expect_eq(kvn_open(&t, "verbs", &cfg, why), err, "'%s': %s", local, why);
    cr_expect(strstr(why, words) != NULL, "'%s' gives: %s", local, why);
    cr_expect_eq(vf.live, 0);
}

/* Each mistake gets a sentence that says what to do. */
Test(verbs_faults, bad_configuration)
{
    vf_reset(9);
    expect_why("", false, KVW_E_ADDRESS, "say which device");
    expect_why("fake0/0", false, KVW_E_ADDRESS, "can't read 'fake0/0'");
    expect_why("fake0,gids=1", false, KVW_E_ADDRESS, "can't read 'gids=1'");
    expect_why("mlx5_9", false, KVW_E_DEVICE, "there is no RDMA device mlx5_9; 'rdma link'");
    expect_why("10.1.2.3", false, KVW_E_DEVICE,
               "none of the 2 RDMA devices has the address 10.1.2.3");
    expect_why("fake0,gid=9", false, KVW_E_DEVICE, "fake0 has no GID 9; 'rdma link'");
    vf.mtu[0] = IBV_MTU_1024;
    expect_why("fake0,mtu=4096", false, KVW_E_DEVICE,
               "mtu=4096 is more than fake0 has now (1024); raise");
    vf.register_error = ENOMEM;
    expect_why("fake0", false, KVW_E_NOMEM, "can't ");
    vf.register_error = 0;
    vf.port_down[0] = true;
    expect_why("fake0", false, KVW_E_DEVICE, "fake0 port 1 is down; bring its interface up");
    vf.devices = 0;
    expect_why("fake0", false, KVW_E_DEVICE, "this machine has no RDMA device; load its driver");
}

/* TCP gets through and RDMA doesn't: another subnet, a filter. */
Test(verbs_faults, a_wrong_subnet_is_named)
{
    vf_reset(10);
    cr_assert(duo_open("fake0", "127.0.0.1:0", why), "%s", why);
    vf.cut[0] = true;
    cr_expect_not(duo_join());
    cr_expect_eq(duo_a.down_err, KVW_E_PEER_LOST);
    cr_expect(strstr(duo_a.down_text, "wrong subnet or GID, or UDP port 4791 is blocked") != NULL,
              "%s", duo_a.down_text);
    expect_nothing_left("subnet", 0);
}

/* A peer that is too busy to answer for more than a second while they join isn't a dead one; one
 * that never answers is, in time and with a sentence. */
Test(verbs_faults, a_slow_peer_joins)
{
    struct duo_end *const both[2] = {&duo_a, &duo_b};

    for (int slow = 0; slow < 3; ++slow) { /* the connector, the listener, a dead listener */
        uint64_t begun;

        vf_reset(13);
        cr_assert(duo_open("fake0", "127.0.0.1:0", why), "%s", why);
        cr_assert(duo_dial());
        begun = duo_now;
        duo_run(2); /* into the midst of it */
        while (duo_now - begun < (slow < 2 ? 1800000000u : 4000000000u))
            duo_step_one(both[slow == 0 ? 1 : 0]);
        duo_run(200);
        cr_expect_eq(duo_a.ups, slow < 2, "slow %d: %s", slow, duo_a.down_text);
        if (slow == 2)
            cr_expect(strstr(duo_a.down_text, "didn't finish the handshake within 3000 ms") != NULL,
                      "%s", duo_a.down_text);
        expect_nothing_left("slow", slow);
    }
}

/* The rule for GIDs, and the sentence about it; the smaller MTU is what both use. */
Test(verbs_faults, the_choice_is_explained)
{
    vf_reset(11);
    vf.mtu[0] = IBV_MTU_1024;
    cr_assert(duo_open("fake0", "127.0.0.1:0", why), "%s", why);
    cr_expect(
        strstr(kvn_verbs_about(duo_a.t),
               "fake0 port 1, GID 3 (127.0.0.1): the best of its GIDs, RoCE v2 over IPv4; MTU "
               "1024") != NULL,
        "%s", kvn_verbs_about(duo_a.t));
    duo_close();
    cr_assert(duo_open("fake0,gid=1", "127.0.0.1:0", why), "%s", why);
    cr_expect(strstr(kvn_verbs_about(duo_a.t), "GID 1 (fe80::1): told to take this GID") != NULL,
              "%s", kvn_verbs_about(duo_a.t));
    expect_nothing_left("about", 0);
}
