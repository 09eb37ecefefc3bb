/* SPDX-License-Identifier: Apache-2.0 */
/* Queue pairs that rdma_cm joins carry what others do; whatever fails on the way has a sentence, an
 * end in time, and leaves nothing behind. On the pretended fabric. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "duo.h"

#define A "fake0,cm=1+fake1"
#define B "127.0.0.1:0,cm=1+fake1"

static char why[KVN_WHY_BYTES];

TestSuite(verbs_cm, .timeout = 120);

static void expect_nothing_left(const char *when, int n)
{
    duo_close();
    cr_assert_eq(vf.live, 0, "%s %d: %d objects are left", when, n, vf.live);
}

static void load(uint32_t from, uint32_t to)
{
    for (uint32_t n = from; n < to; ++n)
        while (duo_put(&duo_a, n, n * 2048, 2000) == KVW_E_AGAIN && duo_a.downs == 0)
            duo_step();
    duo_run(3000);
    cr_assert_eq(duo_a.downs + duo_b.downs, 0, "%s / %s", duo_a.down_text, duo_b.down_text);
    for (uint32_t n = from; n < to; ++n) {
        cr_assert(duo_a.done[n] == 1 && duo_a.err[n] == KVW_OK && duo_b.landed[n] == 1,
                  "put %u: done %d, landed %d", n, duo_a.done[n], duo_b.landed[n]);
        cr_assert(memcmp(duo_b.region + n * 2048, duo_a.source + n * 2048, 2000) == 0, "put %u", n);
    }
}

/* IPv4, IPv6, addresses of their own; a peer without rdma_cm still joins a listener with it. */
Test(verbs_cm, joins)
{
    static const struct {
        const char *a, *b;
        bool by_cm;
    } pairs[] = {
        {A, B, true},
        {"fake0,gid=1,cm=1", "fake0,gid=1,cm=1,tcp=127.0.0.1:0", true},
        {"fake0,cm=127.0.0.1", "fake1,cm=127.0.0.2:4321,tcp=127.0.0.1:0", true},
        {"fake0+fake1", B, false},
    };

    for (size_t i = 0; i < sizeof(pairs) / sizeof(*pairs); ++i) {
        vf_reset(21);
        cr_assert(duo_open(pairs[i].a, pairs[i].b, why), "%s", why);
        cr_assert(duo_join(), "pair %zu: %s / %s", i, duo_a.down_text, duo_b.down_text);
        cr_expect_eq(vf.cm_joins > 0, pairs[i].by_cm, "pair %zu: %d", i, vf.cm_joins);
        cr_expect_eq(vf.cm_establishes, vf.cm_joins, "pair %zu: %d", i, vf.cm_establishes);
        cr_assert_eq(duo_send(&duo_a, 0), KVW_OK);
        load(0, 50);
        cr_expect_eq(duo_b.msgs, 1);
        expect_nothing_left("pair", (int)i);
    }
}

/* What the kernel guesses of timeouts is replaced by ours; and the smaller MTU counts, whosever. */
Test(verbs_cm, timers_and_mtu)
{
    static const char *const mtus[][2] = {{"fake0,cm=1", "127.0.0.1:0,cm=1,mtu=1024"},
                                          {"fake0,cm=1,mtu=1024", "127.0.0.1:0,cm=1"}};
    uint8_t timeout, retry_cnt;

    vf_reset(26);
    cr_assert(duo_open("fake0", "127.0.0.1:0", why) && duo_join(), "%s", why);
    timeout = vf.timeout;
    retry_cnt = vf.retry_cnt;
    cr_assert(timeout > 0 && retry_cnt > 0, "%u, %u", timeout, retry_cnt);
    cr_expect_gt(vf.path_mtu, IBV_MTU_1024);
    expect_nothing_left("without rdma_cm", 0);
    for (int i = 0; i < 2; ++i) {
        vf_reset(26);
        cr_assert(duo_open(mtus[i][0], mtus[i][1], why) && duo_join(), "%s", why);
        cr_expect_gt(vf.cm_joins, 0);
        cr_expect_eq(vf.path_mtu, IBV_MTU_1024, "pair %d: %d", i, vf.path_mtu);
        cr_expect_eq(vf.timeout, timeout, "pair %d: %u", i, vf.timeout);
        cr_expect_eq(vf.retry_cnt, retry_cnt, "pair %d: %u", i, vf.retry_cnt);
        expect_nothing_left("mtu", i);
    }
}

/* Every call of the device and of rdma_cm that opening and joining make fails in turn. */
Test(verbs_cm, each_step_fails)
{
    int steps, plain, came_up = 0;

    vf_reset(1);
    cr_assert(duo_open(NULL, NULL, why) && duo_join(), "%s", why);
    plain = vf.steps;
    expect_nothing_left("no step", 0);
    vf_reset(1);
    cr_assert(duo_open(A, B, why) && duo_join(), "%s", why);
    steps = vf.steps;
    expect_nothing_left("no step", 0);
    cr_assert_geq(steps, plain + 30, "only %d calls more were seen", steps - plain);
    for (int n = 1; n <= steps; ++n) {
        bool opened;

        vf_reset(1);
        vf.fail_at = n;
        opened = duo_open(A, B, why);
        cr_assert(opened || why[0] != '\0' || duo_a.t != NULL, "step %d: no reason", n);
        if (opened && duo_join())
            ++came_up;
        else if (opened)
            cr_assert_gt(strlen(duo_a.down_text) + strlen(duo_b.down_text), 0, "step %d", n);
        expect_nothing_left("step", n);
    }
    cr_expect_geq(came_up, 10, "one queue pair's failure isn't the connection's: %d", came_up);
}

/* Each way in which rdma_cm doesn't join has its sentence, in time. */
Test(verbs_cm, each_failure_has_its_sentence)
{
    static const struct {
        enum vf_cm cm;
        const char *words;
    } cases[] = {
        {VF_CM_NO_ROUTE, "rdma_cm: no route from 127.0.0.1:0 to 127.0.0.1:"},
        {VF_CM_NO_NEIGHBOUR, "nobody answers for the address 127.0.0.1:"},
        {VF_CM_OTHER_DEVICE, "is over another device than fake"},
        {VF_CM_NO_PATH, "rdma_cm: no path to 127.0.0.1:"},
        {VF_CM_NOBODY, "rejected the request: nobody listens there"},
        {VF_CM_UNREACHABLE, "doesn't answer: is its device up, and UDP port 4791 open?"},
        {VF_CM_WRONG_TICKET, "rejected the request: it knows no such connection"},
        {VF_CM_WRONG_MAGIC, "rejected the request: it knows no such connection"},
        {VF_CM_WRONG_VERSION, "rejected the request: it knows no such connection"},
        {VF_CM_WRONG_PATH, "rejected the request: it has no queue pair for this request"},
        {VF_CM_ARRIVES_ELSEWHERE, "the request came to another device than the one it offered"},
        {VF_CM_SILENT_ADDRESS, "within 2000 ms: the address was not resolved"},
        {VF_CM_SILENT_ROUTE, "within 2000 ms: no path was found"},
        {VF_CM_SILENT_CONNECT, "within 2000 ms: no answer to the request"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); ++i) {
        uint64_t begun;

        vf_reset(22);
        cr_assert(duo_open("fake0,cm=1", "127.0.0.1:0,cm=1", why), "%s", why);
        vf.cm = cases[i].cm;
        begun = duo_now;
        cr_expect_not(duo_join(), "case %zu", i);
        cr_expect_leq(duo_now - begun, 2500000000u, "case %zu", i);
        cr_expect_eq(duo_a.down_err, KVW_E_PEER_LOST, "case %zu", i);
        cr_expect(strstr(duo_a.down_text, cases[i].words) != NULL, "case %zu: %s", i,
                  duo_a.down_text);
        vf.cm = VF_CM_GOOD;
        cr_expect(duo_join(), "case %zu: afterwards: %s", i, duo_a.down_text);
        expect_nothing_left("case", (int)i);
    }
}

static void expect_why(const char *local, const char *words)
{
    cr_expect_not(duo_open(local, "127.0.0.1:0", why));
    cr_expect(strstr(why, words) != NULL, "%s: %s", local, why);
    expect_nothing_left(local, 0);
}

Test(verbs_cm, bad_configuration)
{
    vf_reset(23);
    expect_why("fake0,cm=yes", "can't read 'cm=yes'");
    expect_why("fake0,cm=10.9.9.9", "rdma_cm doesn't find fake0 by the address 10.9.9.9");
    expect_why("fake0,cm=127.0.0.2", "rdma_cm doesn't find fake0 by the address 127.0.0.2");
    vf.cm = VF_CM_NO_DEVICE;
    expect_why("fake0,cm=1", "rdma_cm doesn't find fake0 by the address 127.0.0.1");
    vf_reset(23);
    cr_assert(duo_open("fake0,cm=1", "127.0.0.1:0", why), "%s", why);
    cr_expect_not(duo_join());
    cr_expect(strstr(duo_a.down_text, "the peer doesn't join by rdma_cm: give its address cm=1") !=
                  NULL,
              "%s", duo_a.down_text);
    expect_nothing_left("cm on one side", 0);
    vf_reset(23);
    cr_assert(duo_open("fake0,gid=1,cm=1", "127.0.0.1:0,cm=1", why), "%s", why);
    cr_expect_not(duo_join());
    cr_expect(strstr(duo_a.down_text, "one side's address is IPv4 and the other's IPv6") != NULL,
              "%s", duo_a.down_text);
    expect_nothing_left("families", 0);
}

/* What can't be joined on one device doesn't keep the other from coming up. */
Test(verbs_cm, one_device_of_two)
{
    vf_reset(24);
    cr_assert(duo_open("fake0,cm=1+fake1,gid=1", B, why), "%s", why);
    cr_assert(duo_join(), "%s", duo_a.down_text);
    cr_expect_eq(vf.cm_joins, 2);
    load(0, 100);
    expect_nothing_left("one of two", 0);
}

/* rdma_cm says first that a device goes: what was on it goes over the other. */
Test(verbs_cm, a_device_leaves)
{
    struct kvn_verbs_counters c;

    vf_reset(25);
    vf.burst = 3;
    cr_assert(duo_open(A, B, why) && duo_join(), "%s", why);
    load(0, 50);
    for (uint32_t n = 50; n < 80; ++n)
        cr_assert_eq(duo_put(&duo_a, n, n * 2048, 2000), KVW_OK);
    duo_step();
    vf_cm_remove(1);
    load(80, 200);
    for (uint32_t n = 50; n < 80; ++n)
        cr_assert(duo_a.done[n] == 1 && duo_a.err[n] == KVW_OK && duo_b.landed[n] == 1,
                  "put %u: done %d, landed %d", n, duo_a.done[n], duo_b.landed[n]);
    kvn_verbs_counters(duo_a.t, &c);
    cr_expect_eq(c.paths_lost, 2);
    expect_nothing_left("removal", 0);
}

/* The end of an identifier is a message, and rxe of Linux 6.1 joins nothing any more after one that
 * had no way out: so none is due once a connection is up, whoever ends and whenever. */
Test(verbs_cm, an_interface_goes_down_and_comes_up)
{
    vf_reset(27);
    for (int round = 0; round < 3; ++round) {
        int idle;

        cr_assert(duo_open("fake0,cm=1", "127.0.0.1:0,cm=1", why), "%s", why);
        idle = vf.cm_ids;
        cr_assert(duo_join(), "round %d: %s", round, duo_a.down_text);
        cr_expect_eq(vf.cm_ids, idle, "round %d: %d identifiers more", round, vf.cm_ids - idle);
        load(0, 50);
        vf.cut[0] = vf.no_way[0] = true;
        if (round == 0) { /* else the ends close first */
            (void)duo_put(&duo_a, 50, 0, 2000);
            for (uint32_t i = 0; i < 20000 && (duo_a.downs == 0 || duo_b.downs == 0); ++i)
                duo_step();
            cr_expect_gt(duo_a.downs, 0, "it outlived its queue pairs");
        }
        expect_nothing_left("down", round);
        vf.cut[0] = vf.no_way[0] = false;
        cr_expect_eq(vf.cm_nowhere, 0, "round %d: %d messages without a way", round, vf.cm_nowhere);
    }
}
