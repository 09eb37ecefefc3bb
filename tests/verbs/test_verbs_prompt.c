/* SPDX-License-Identifier: Apache-2.0 */
/* No call's work waits for a timer: what is left for the next poll() is said by deadline_ns(), and
 * traffic in one direction alone needs nothing of the other's. On the pretended fabric. */
#include <criterion/criterion.h>

#include "duo.h"

static char why[KVN_WHY_BYTES];

static void open_pair(const char *local)
{
    vf_reset(3);
    cr_assert(duo_open(local, NULL, why) && duo_join(), "%s", why);
    duo_run(100);
}

static void end_pair(void)
{
    duo_close();
    cr_expect_eq(vf.live, 0, "%d objects are left", vf.live);
}

TestSuite(verbs_prompt, .timeout = 60, .fini = end_pair);

static uint64_t deadline(const struct duo_end *e)
{
    return e->t->ops->deadline_ns(e->t);
}

/* Each end's poll() when it is due, and not before; a ms goes by when neither is. */
static void lazy_step(void)
{
    struct duo_end *const ends[] = {&duo_a, &duo_b};
    bool due = false;

    for (uint32_t i = 0; i < 2; ++i) {
        /* What the devices have moved wakes whoever has armed them, as wait() does. */
        const uint64_t events = vf.events;

        ends[i]->t->ops->wait(ends[i]->t, 0, -1);
        if (deadline(ends[i]) > duo_now && vf.events == events)
            continue;
        due = true;
        duo_poll(ends[i]);
    }
    duo_now += due ? 10000 : 1000000;
}

Test(verbs_prompt, calls_make_poll_due)
{
    open_pair(NULL);
    cr_assert_gt(deadline(&duo_a), duo_now, "it is quiet");
    cr_assert_eq(duo_send(&duo_a, 0), KVW_OK);
    cr_expect_leq(deadline(&duo_a), duo_now, "send()");
    duo_run(100);
    cr_assert_gt(deadline(&duo_a), duo_now);
    cr_assert_eq(duo_put(&duo_a, 0, 0, 1000), KVW_OK);
    cr_expect_leq(deadline(&duo_a), duo_now, "put()");
    duo_run(100);
    cr_assert_gt(deadline(&duo_a), duo_now);
    cr_assert_eq(duo_put(&duo_a, 1, 0, 1000), KVW_OK);
    duo_a.t->ops->disconnect(duo_a.t, duo_a.conn, duo_now);
    cr_expect_leq(deadline(&duo_a), duo_now, "disconnect(): a PUT_DONE is due");
    duo_run(100);
    cr_expect_eq(duo_a.failed, 1);
}

/* A put into a region that is shut waits; what was posted after it, to another, doesn't. */
Test(verbs_prompt, a_put_that_waits_holds_nobody_up)
{
    static uint8_t other[4096];
    const struct kvw_mem mem = {
        .base = other, .bytes = sizeof(other), .kind = KVW_MEM_HOST, .dmabuf_fd = -1};
    struct kvw_region_key shut;
    struct kvw_put p = {.iov = {{duo_a.source, 100}}, .iov_count = 1, .imm = 7, .cookie = 7};

    open_pair(NULL);
    cr_assert_eq(duo_b.t->ops->region_add(duo_b.t, &mem, NULL, NULL, &shut), KVW_OK);
    duo_run(100);
    p.key = shut;
    cr_assert_eq(duo_a.t->ops->put(duo_a.t, duo_a.conn, &p), KVW_OK);
    cr_assert_eq(duo_put(&duo_a, 0, 0, 1000), KVW_OK);
    cr_expect_leq(deadline(&duo_a), duo_now, "the second can go");
    duo_run(100);
    cr_expect_eq(duo_a.done[0], 1);
    cr_expect_eq(duo_a.done[7], 0);
    cr_assert_gt(deadline(&duo_a), duo_now, "the first waits for its key, not for a poll");
    cr_assert_eq(duo_b.t->ops->region_open(duo_b.t, duo_b.conn, &shut), KVW_OK);
    duo_run(100);
    cr_expect_eq(duo_a.done[7], 1);
}

/* One end sends many times what it has credit for, and the other says nothing but the credit. */
Test(verbs_prompt, one_way)
{
    const uint32_t messages = 1000;
    uint64_t begin;

    open_pair("fake0,qps=1");
    begin = duo_now;
    for (uint32_t n = 0; n < messages;) {
        if (duo_send(&duo_a, n) == KVW_OK)
            ++n;
        else
            lazy_step();
        cr_assert_lt(duo_now, begin + 200000000, "%u of %u messages in 200 ms", n, messages);
    }
    for (uint32_t n = 0; n < DUO_PUTS;) {
        if (duo_put(&duo_a, n, n * 2048, 2000) == KVW_OK)
            ++n;
        else
            lazy_step();
        cr_assert_lt(duo_now, begin + 200000000, "%u of %u puts in 200 ms", n, DUO_PUTS);
    }
    while (duo_b.msgs < messages || duo_a.ok < DUO_PUTS) {
        lazy_step();
        cr_assert_lt(duo_now, begin + 200000000, "%u messages, %u puts arrived", duo_b.msgs,
                     duo_a.ok);
    }
    cr_expect_eq(duo_b.messages_wrong, 0);
}

/* Whatever was posted has left when all is quiet: above all a CREDIT that nothing else follows. */
Test(verbs_prompt, nothing_is_kept_back)
{
    struct kvn_verbs_counters a, b;

    open_pair("fake0,qps=1");
    for (uint32_t n = 0; n < 200; ++n) {
        cr_assert_eq(duo_send(&duo_a, n), KVW_OK);
        for (uint32_t i = 0; i < 12; ++i)
            lazy_step();
        cr_assert_eq(duo_b.msgs, n + 1);
        kvn_verbs_counters(duo_a.t, &a);
        kvn_verbs_counters(duo_b.t, &b);
        cr_assert_eq(a.sends + b.sends, vf.sends, "after message %u %lu SENDs haven't left", n,
                     (unsigned long)(a.sends + b.sends - vf.sends));
    }
    cr_expect_geq(b.sends, 3, "%lu CREDITs", (unsigned long)b.sends);
}
