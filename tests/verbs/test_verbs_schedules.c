/* SPDX-License-Identifier: Apache-2.0 */
/* In 10,000 random lives with random faults every operation of a verbs transport has exactly one
 * outcome, what is done lies in the peer's memory, nothing lands twice, messages keep their order,
 * and no object of a device is left. KVN_SIM_SEED=<n> runs one. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "duo.h"

#define LIVES 10000
#define PARTS 4

static uint32_t joined, lost, failovers, resent, opened, parked, taken;

static uint32_t below(uint32_t n)
{
    return vf_random() % n;
}

static void fault(uint64_t seed, bool *removed)
{
    switch (below(9)) {
    case 0:
        if (!*removed && seed % 3 == 0) {
            vf_remove(below(2));
            *removed = true;
        }
        break;
    case 1:
        vf.fail_65536 = below(1500);
        break;
    case 2:
        vf.ack_lost_65536 = below(1500);
        break;
    case 3:
        vf.fail_65536 = vf.ack_lost_65536 = 0;
        break;
    case 4:
        vf.cut[below(2)] ^= true;
        break;
    case 5:
        vf_async(below(2), below(2) ? IBV_EVENT_PORT_ERR : IBV_EVENT_PORT_ACTIVE);
        break;
    case 6:
        vf.stuck ^= below(4) == 0;
        break;
    case 7:
        vf.burst = 1 + below(8);
        break;
    case 8:
        vf.bind_65536 = below(2) * below(20000);
        break;
    }
}

static void open_or_shut(struct duo_end *e, bool open)
{
    if (!open)
        e->t->ops->region_shut(e->t, e->conn, &e->key);
    else if (e->t->ops->region_open(e->t, e->conn, &e->key) == KVW_OK)
        ++opened;
}

static void check(uint64_t seed, const struct duo_end *e, const struct duo_end *peer, uint32_t puts,
                  bool left)
{
    for (uint32_t i = 0; i < puts; ++i) {
        cr_assert_eq(e->done[i], 1, "seed %llu: put %u is done %d times", (unsigned long long)seed,
                     i, e->done[i]);
        cr_assert_leq(peer->landed[i], 1, "seed %llu: put %u landed %d times",
                      (unsigned long long)seed, i, peer->landed[i]);
        if (e->err[i] == KVW_OK && !left)
            cr_assert(memcmp(peer->region + i * 2048, e->source + i * 2048, 2000) == 0,
                      "seed %llu: put %u is done and not there", (unsigned long long)seed, i);
    }
    cr_assert_eq(e->messages_wrong, 0, "seed %llu: messages", (unsigned long long)seed);
    cr_assert_eq(e->after_down, 0, "seed %llu: events after CONN_DOWN", (unsigned long long)seed);
    cr_assert_leq(e->downs, 1, "seed %llu", (unsigned long long)seed);
    /* What fails here are devices and cables, and neither end is to blame the other. */
    cr_assert_neq(e->down_err, KVW_E_PROTOCOL, "seed %llu: %s", (unsigned long long)seed,
                  e->down_text);
    cr_assert_leq(e->ups, 1, "seed %llu", (unsigned long long)seed);
}

static void life(uint64_t seed)
{
    uint32_t puts[2] = {0, 0}, msgs[2] = {0, 0};
    struct duo_end *const end[2] = {&duo_a, &duo_b};
    struct kvn_verbs_counters c;
    bool removed = false, left = false;
    char why[KVN_WHY_BYTES];

    vf_reset(seed);
    cr_assert(duo_open(seed % 5 == 0 ? "fake0,qps=1" : NULL, NULL, why), "seed %llu: %s",
              (unsigned long long)seed, why);
    if (seed % 7 == 0)
        fault(seed, &removed);
    if (duo_join()) {
        ++joined;
        for (uint32_t n = 20 + below(60); n > 0; --n) {
            const uint32_t who = below(2), what = below(16);
            struct duo_end *e = end[who];

            if (what < 6 && puts[who] < 200 && e->downs == 0)
                puts[who] += duo_put(e, puts[who], puts[who] * 2048, 2000) == KVW_OK;
            else if (what < 10 && e->downs == 0 && !(left && who == 0))
                msgs[who] += duo_send(e, msgs[who]) == KVW_OK;
            else if (what < 12)
                fault(seed, &removed);
            else if (what == 12 && e->downs == 0 && !(left && who == 0))
                open_or_shut(e, below(2) == 0);
            else
                duo_run(1 + below(8));
            if (n == 5 && seed % 11 == 0 && !left && duo_a.downs == 0) {
                left = true;
                duo_a.t->ops->disconnect(duo_a.t, duo_a.conn, duo_now);
            }
        }
        vf.fail_65536 = vf.ack_lost_65536 = vf.bind_65536 = 0;
        vf.stuck = false;
        for (uint32_t i = 0; i < 2; ++i) /* else puts wait */
            if (end[i]->downs == 0 && !(left && i == 0))
                open_or_shut(end[i], true);
        for (uint32_t i = 0; i < 4000 && (duo_a.ok + duo_a.failed < puts[0] ||
                                          duo_b.ok + duo_b.failed < puts[1] || i < 20);
             ++i)
            duo_step();
        check(seed, &duo_a, &duo_b, puts[0], left);
        check(seed, &duo_b, &duo_a, puts[1], left);
        lost += duo_a.downs;
        kvn_verbs_counters(duo_a.t, &c);
        failovers += c.paths_lost > 0 && duo_a.downs == 0;
        resent += c.resent > 0;
        parked += c.parked > 0;
        taken += c.keys_taken > 0;
    }
    duo_close();
    cr_assert_eq(vf.live, 0, "seed %llu: %d objects are left", (unsigned long long)seed, vf.live);
}

ParameterizedTestParameters(verbs_schedules, lives)
{
    static int parts[PARTS] = {0, 1, 2, 3};

    return cr_make_param_array(int, parts, PARTS);
}

ParameterizedTest(int *part, verbs_schedules, lives, .timeout = 280)
{
    const char *one = getenv("KVN_SIM_SEED");

    if (one != NULL) {
        life(strtoull(one, NULL, 0));
        return;
    }
    for (uint64_t seed = 1 + (uint64_t)*part; seed <= LIVES; seed += PARTS)
        life(seed);
    fprintf(
        stderr,
        "verbs lives: seeds %d, %d ... %d: %u joined, %u lost, %u went on over another "
        "queue pair, %u sent again; %u openings, puts of %u waited for a key, %u took one back\n",
        1 + *part, 1 + *part + PARTS, LIVES, joined, lost, failovers, resent, opened, parked,
        taken);
    cr_expect_gt(joined, LIVES / PARTS / 2);
    cr_expect_gt(lost, 100);
    cr_expect_gt(failovers, 100);
    cr_expect_gt(resent, 100);
    cr_expect_gt(parked, 100);
}
