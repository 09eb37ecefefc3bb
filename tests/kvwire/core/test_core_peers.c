/* SPDX-License-Identifier: Apache-2.0 */
/* Peers come, go, come again, and are known by several ids. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "dense.h"

static struct t_cores c;

static void goes_across(uint32_t to, uint32_t from, const char *key, uint32_t at)
{
    const kvw_xfer_ref r = t_dense_offer(&c, to, from, key, 60, at, NULL);
    const kvw_xfer_ref s = t_dense_stream(&c, from, key, 60, at, 1, 0);

    t_dense_push(&c, from, s, key, 60, at);
    t_cores_run(&c, 3 * T_MS);
    t_core_expect_done(&c.node[to], r, KVW_OK);
    t_core_expect_done(&c.node[from], s, KVW_OK);
    cr_expect(t_dense_is(&c, to, key, 60, at));
}

static struct kvw_peer_info info_of(uint32_t at, kvw_peer_id id)
{
    struct kvw_peer_info info = {.size = sizeof(info)};

    cr_assert_eq(kvw_core_peer_info(c.node[at].core, id, &info), KVW_OK);
    return info;
}

Test(core_peers, both_dial_at_once)
{
    kvw_peer_id a, b;
    struct kvw_core_stats stats = {.size = sizeof(stats)};

    t_dense_begin(&c, 2, NULL);
    a = t_core_dial(&c, 0, 1);
    b = t_core_dial(&c, 1, 0);
    t_cores_run(&c, 300 * T_MS);
    for (uint32_t i = 0; i < 2; ++i) {
        kvw_core_stats(c.node[i].core, &stats);
        cr_expect_eq(stats.peers_up, 1);
        cr_expect_eq(c.node[i].lost, 0, "%s", c.node[i].lost_text);
        cr_expect_eq(info_of(i, i == 0 ? a : b).state, KVW_PEER_UP, "the id that was given");
    }
    goes_across(0, 1, "x", 0);
    goes_across(1, 0, "y", 1);
    t_cores_end(&c);
}

/*
 * The same over a wire that loses much: whichever of the two connections each side comes to know
 * first, neither hears of a loss, and what it offered at once is not the loser's.
 */
Test(core_peers, both_dial_at_once_and_offer_at_once)
{
    const struct kvn_sim_link lossy = {.delay_ns = 20000, .loss = 0.3};
    uint32_t late = 0;

    for (uint64_t seed = 1; seed <= 20; ++seed) {
        kvw_xfer_ref r[2], s[2];

        t_cores_init(&c, 2, seed);
        for (uint32_t i = 0; i < 2; ++i) {
            t_state_dense(&c.node[i].state, T_DENSE_LAYERS, 2, 64, KVW_DTYPE_BF16, 16, 80);
            t_state_make(&c.node[i].state);
            t_core_open(&c, i, NULL);
            t_core_add_pool(&c, i);
        }
        kvn_sim_links(c.sim, &lossy);
        (void)t_core_dial(&c, 0, 1);
        (void)t_core_dial(&c, 1, 0);
        while (t_cores_now(&c) < 3 * T_S &&
               (t_core_peer(&c, 0, 1).value == 0 || t_core_peer(&c, 1, 0).value == 0))
            t_cores_run(&c, T_MS / 10);
        for (uint32_t i = 0; i < 2; ++i)
            r[i] = t_dense_offer(&c, i, 1 - i, i == 0 ? "x" : "y", 60, i, NULL);
        for (uint32_t i = 0; i < 2; ++i) {
            s[i] = t_dense_stream(&c, 1 - i, i == 0 ? "x" : "y", 60, i, 1, 0);
            t_dense_push(&c, 1 - i, s[i], i == 0 ? "x" : "y", 60, i);
        }
        t_cores_run(&c, 1 * T_S);
        for (uint32_t i = 0; i < 2; ++i) {
            cr_assert_eq(c.node[i].lost, 0, "seed %llu: %s", (unsigned long long)seed,
                         c.node[i].lost_text);
            t_core_expect_done(&c.node[i], r[i], KVW_OK);
            t_core_expect_done(&c.node[1 - i], s[i], KVW_OK);
            cr_assert(t_dense_is(&c, i, i == 0 ? "x" : "y", 60, i));
            late += c.node[i].up > 1;
        }
        t_cores_end(&c);
    }
    cr_expect_gt(late, 0, "no connection took another's place, so this says nothing");
}

/* Of two pools of the same weights that is asked which has the layers. */
Test(core_peers, two_pools_of_one_fingerprint)
{
    static struct t_state few;
    kvw_pool_id pool;
    char why[257] = "";

    t_cores_init(&c, 2, 1);
    for (uint32_t i = 0; i < 2; ++i) {
        t_state_dense(&c.node[i].state, T_DENSE_LAYERS, 2, 64, KVW_DTYPE_BF16, 16, 80);
        t_state_make(&c.node[i].state);
        t_core_open(&c, i, NULL);
    }
    t_state_dense(&few, 1, 2, 64, KVW_DTYPE_BF16, 16, 8);
    few.model_layers = T_DENSE_LAYERS;
    t_state_make(&few);
    cr_assert_eq(kvw_core_pool_add(c.node[1].core, &few.desc, &pool, why, sizeof(why)), KVW_OK,
                 "%s", why);
    t_core_add_pool(&c, 0);
    t_core_add_pool(&c, 1);
    t_core_join(&c, 0, 1);
    t_cores_run(&c, 5 * T_MS);
    goes_across(0, 1, "x", 0);
    t_cores_end(&c);
    t_state_free(&few);
}

Test(core_peers, a_node_that_is_up_is_added)
{
    struct kvw_core_stats stats = {.size = sizeof(stats)};
    kvw_peer_id a;

    t_dense_begin(&c, 2, NULL);
    t_core_join(&c, 1, 0);
    c.node[0].up = 0;
    a = t_core_dial(&c, 0, 1);
    t_cores_run(&c, 10 * T_MS);
    cr_expect_eq(c.node[0].up, 1);
    cr_expect_eq(c.node[0].last_up.value, a.value, "PEER_UP names the id that was given");
    cr_expect_eq(info_of(0, a).state, KVW_PEER_UP);
    kvw_core_stats(c.node[0].core, &stats);
    cr_expect_eq(stats.peers_up, 1);
    cr_expect_eq(stats.peers_known, 1);
    cr_expect_eq(c.node[0].lost + c.node[1].lost, 0, "the first connection stays");
    goes_across(0, 1, "x", 0);
    /* Each id hears of its end. */
    t_core_close(&c, 1, false);
    t_cores_run(&c, 5 * T_MS);
    cr_expect_eq(c.node[0].lost, 2);
    t_cores_end(&c);
}

Test(core_peers, one_node_is_added_twice_at_once)
{
    kvw_peer_id a, b, sources[2];
    static const uint32_t ids[4] = {0, 1, 2, 3};
    const struct kvw_group_blocks blocks = {0, 4, ids, 0, 0, 60};
    kvw_xfer_ref r, s;
    char why[257] = "";

    t_dense_begin(&c, 2, NULL);
    a = t_core_dial(&c, 0, 1);
    b = t_core_dial(&c, 0, 1);
    sources[0] = a;
    sources[1] = b;
    const struct kvw_offer_args args = {.size = sizeof(args),
                                        .pool = c.node[0].pool,
                                        .key = kvw_key_of("x"),
                                        .tokens = 60,
                                        .group_count = 1,
                                        .groups = &blocks,
                                        .sources = sources,
                                        .source_count = 2};

    cr_assert_eq(kvw_core_offer(c.node[0].core, &args, t_cores_now(&c), &r, why, 257), KVW_OK);
    s = t_dense_stream(&c, 1, "x", 60, 0, 1, 0);
    t_dense_push(&c, 1, s, "x", 60, 0);
    t_cores_run(&c, 100 * T_MS);
    cr_expect_eq(c.node[0].up, 2, "one for each id: %u", c.node[0].up);
    cr_expect_eq(c.node[0].lost + c.node[1].lost, 0, "%s | %s", c.node[0].lost_text,
                 c.node[1].lost_text);
    cr_expect_eq(info_of(0, a).instance, 101);
    cr_expect_eq(info_of(0, b).instance, 101);
    t_core_expect_done(&c.node[0], r, KVW_OK);
    cr_assert_eq(kvw_core_peer_drop(c.node[0].core, b, t_cores_now(&c)), KVW_OK);
    cr_expect_eq(kvw_core_peer_drop(c.node[0].core, a, t_cores_now(&c)), KVW_E_NOTFOUND);
    t_cores_end(&c);
}

Test(core_peers, a_restart_under_the_same_address)
{
    const struct kvw_core_config again = {.instance = 777};
    kvw_xfer_ref r, s;
    kvw_peer_id id;

    for (uint32_t silent = 0; silent < 2; ++silent) {
        t_dense_begin(&c, 2, NULL);
        id = t_core_dial(&c, 0, 1);
        t_cores_run(&c, 10 * T_MS);
        cr_assert_eq(info_of(0, id).instance, 101);
        r = t_dense_offer(&c, 0, 1, "before", 60, 0, NULL);
        s = t_dense_stream(&c, 1, "before", 60, 0, 1, 0);
        t_cores_run(&c, T_MS);
        (void)s;
        t_core_close(&c, 1, silent != 0);
        t_core_open(&c, 1, &again);
        t_core_add_pool(&c, 1);
        t_cores_run(&c, 3 * T_S);
        t_core_expect_done(&c.node[0], r, KVW_E_PEER_LOST);
        cr_expect_eq(c.node[0].lost, 1, "%u", c.node[0].lost);
        cr_expect_eq(info_of(0, id).instance, 777);
        cr_expect_eq(info_of(0, id).state, KVW_PEER_UP);
        goes_across(0, 1, "after", 1);
        t_cores_end(&c);
    }
}

/* The node that dialled restarts while the other side still believes in its connection. */
Test(core_peers, the_same_instance_comes_anew)
{
    kvw_xfer_ref r;

    t_dense_begin(&c, 2, NULL);
    t_core_join(&c, 1, 0);
    r = t_dense_offer(&c, 0, 1, "before", 60, 0, NULL);
    t_core_close(&c, 1, true);
    t_core_open(&c, 1, NULL); /* with the same number: as a node that only lost its connection */
    t_core_add_pool(&c, 1);
    t_core_dial(&c, 1, 0);
    t_cores_run(&c, 10 * T_MS);
    t_core_expect_done(&c.node[0], r, KVW_E_PEER_LOST);
    cr_expect_eq(c.node[0].lost, 1);
    cr_expect_eq(c.node[0].up, 2);
    goes_across(0, 1, "after", 1);
    t_cores_end(&c);
}

Test(core_peers, a_peer_is_dropped_in_flight)
{
    kvw_xfer_ref r, s;

    t_dense_begin(&c, 2, NULL);
    for (uint32_t side = 0; side < 2; ++side) {
        t_core_join(&c, side, 1 - side);
        r = t_dense_offer(&c, 0, 1, "x", 60, 0, NULL);
        s = t_dense_stream(&c, 1, "x", 60, 0, 1, 0);
        cr_assert_eq(kvw_core_push(c.node[1].core, s, 0, 60, NULL), KVW_OK);
        t_cores_run(&c, 60000);
        cr_assert_eq(
            kvw_core_peer_drop(c.node[side].core, t_core_peer(&c, side, 1 - side), t_cores_now(&c)),
            KVW_OK);
        t_cores_run(&c, 5 * T_MS);
        t_core_expect_done(&c.node[side], side == 0 ? r : s, KVW_E_CANCELED);
        t_core_expect_done(&c.node[1 - side], side == 0 ? s : r, KVW_E_PEER_LOST);
    }
    t_cores_end(&c);
}

/* All slots are lent to one, who is asked for them when another needs some, and dies. */
Test(core_peers, what_was_lent_to_the_dead_goes_to_who_waits)
{
    kvw_xfer_ref dead, r, s;

    t_dense_begin(&c, 3, NULL);
    t_core_join(&c, 1, 0);
    t_core_join(&c, 2, 0);
    dead = t_dense_offer(&c, 0, 1, "dead", 60, 0, NULL);
    t_cores_run(&c, 5 * T_MS);
    t_cores_cut(&c, 0, 1, true);
    cr_assert_eq(kvw_core_abort(c.node[0].core, dead, "nobody wants it"), KVW_OK);
    r = t_dense_offer(&c, 0, 2, "alive", 60, 1, NULL);
    s = t_dense_stream(&c, 2, "alive", 60, 1, 1, 0);
    t_dense_push(&c, 2, s, "alive", 60, 1);
    t_cores_run(&c, 5 * T_MS);
    cr_assert_null(t_core_done(&c.node[0], r), "it has slots: this says nothing");
    t_core_close(&c, 1, true);
    t_cores_run(&c, 4 * T_S);
    t_core_expect_done(&c.node[0], dead, KVW_E_CANCELED);
    t_core_expect_done(&c.node[0], r, KVW_OK);
    t_core_expect_done(&c.node[2], s, KVW_OK);
    cr_expect(t_dense_is(&c, 0, "alive", 60, 1));
    t_cores_end(&c);
}

Test(core_peers, no_more_than_peers_max)
{
    const struct kvw_core_config few = {.peers_max = 2};
    kvw_peer_id id;

    t_cores_init(&c, 4, 1);
    for (uint32_t i = 0; i < 4; ++i)
        t_core_open(&c, i, i == 0 ? &few : NULL);
    t_core_join(&c, 1, 0);
    t_core_join(&c, 2, 0);
    t_core_dial(&c, 3, 0);
    t_cores_run(&c, 100 * T_MS);
    cr_expect_eq(c.node[3].lost_err, KVW_E_NOMEM, "%s", c.node[3].lost_text);
    cr_expect(strstr(c.node[3].lost_text, "as many peers as it can") != NULL, "%s",
              c.node[3].lost_text);
    cr_expect_eq(kvw_core_peer_add(c.node[0].core, 0, "10.0.0.4:9000", t_cores_now(&c), &id),
                 KVW_E_AGAIN);
    t_core_close(&c, 1, false); /* who has come by itself and gone makes room */
    t_cores_run(&c, 3 * T_S);
    cr_expect_neq(t_core_peer(&c, 0, 3).value, 0);
    t_cores_end(&c);
}

Test(core_peers, itself)
{
    t_dense_begin(&c, 1, NULL);
    t_core_dial(&c, 0, 0);
    t_cores_run(&c, 100 * T_MS);
    cr_expect_eq(c.node[0].up, 0);
    t_cores_end(&c);
}
