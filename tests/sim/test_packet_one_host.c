/* SPDX-License-Identifier: Apache-2.0 */
/* Where both ends say that their packets stay on one host, DATA's digest is of its head alone.
 * Where one of them does not, it is of all, and nobody takes DATA without. */
#include <criterion/criterion.h>
#include <string.h>

#include "../../net/packet/frame.h"
#include "pair.h"

#define MS      1000000ull
#define PAYLOAD (8192u + KVN_DATA_BYTES)
#define PUT     100000u

static struct t_pair pair;
static const struct kvn_packet_config defaults = {.seed = 0};
static const struct kvn_sim_link clean = {.delay_ns = 20000};
static const struct kvn_sim_link dirty = {.delay_ns = 20000, .corrupt = 0.1};

static struct {
    uint32_t data, head_only;
    bool leave_out; /* somebody on the way leaves slices out of the digests, and seals anew */
} tapped;

static bool tap(void *arg, const struct kvn_sim_sight *sight)
{
    uint8_t *head = (uint8_t *)(uintptr_t)sight->packet->head;

    (void)arg;
    if ((head[0] & 15) != KVN_PACKET_DATA)
        return true;
    if (tapped.leave_out) {
        head[1] |= KVN_FLAG_HEAD_ONLY;
        memset(head + KVN_CRC_AT, 0, 4);
        kvn_frame_seal(head, KVN_DATA_BYTES, NULL, 0, &(struct kvw_iov){0});
    }
    ++tapped.data;
    tapped.head_only += (head[1] & KVN_FLAG_HEAD_ONLY) != 0;
    return true;
}

static void open_pair(bool first, bool second, const struct kvn_sim_link *l)
{
    memset(&tapped, 0, sizeof(tapped));
    t_pair_one_host(0, first);
    t_pair_one_host(1, second);
    t_pair_open(&pair, 7, PAYLOAD, &defaults);
    kvn_sim_links(pair.sim, l);
    kvn_sim_tap(pair.sim, tap, NULL);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 400 * MS);
    cr_assert(pair.side[0].up && pair.side[1].up);
}

/* Puts each way. Returns how many have landed. */
static uint32_t put_some(uint64_t for_ns)
{
    for (uint32_t i = 0; i < 10; ++i)
        for (uint32_t side = 0; side < 2; ++side)
            cr_assert(t_pair_put(&pair, side, PUT));
    t_pair_run(&pair, kvn_sim_now(pair.sim) + for_ns);
    return pair.side[0].puts_landed + pair.side[1].puts_landed;
}

Test(one_host, slices_are_left_out_where_both_ends_agree)
{
    open_pair(true, true, &clean);
    cr_expect_eq(put_some(200 * MS), 20);
    cr_expect(tapped.data >= 20 * 13 && tapped.head_only == tapped.data, "%u of %u",
              tapped.head_only, tapped.data);
    t_pair_check_memory(&pair);
    cr_expect_str_empty(pair.failed);
    t_pair_close(&pair);
}

Test(one_host, and_nowhere_else)
{
    for (uint32_t i = 0; i < 3; ++i) {
        open_pair(i == 1, i == 2, &clean);
        cr_expect_eq(put_some(200 * MS), 20);
        cr_expect(tapped.data > 0 && tapped.head_only == 0, "%u", tapped.head_only);
        t_pair_close(&pair);
    }
}

/* The same damage: found by packets' digests, or by nobody below whoever put. */
Test(one_host, damage_is_found_by_the_digest)
{
    open_pair(true, false, &dirty);
    cr_expect_eq(put_some(3000 * MS), 20);
    t_pair_check_memory(&pair);
    cr_expect_str_empty(pair.failed, "%s", pair.failed);
    t_pair_close(&pair);

    open_pair(true, true, &dirty); /* a control: the pair looks at what lands */
    cr_expect_lt(put_some(3000 * MS), 20);
    cr_expect_str_not_empty(pair.failed, "no put was damaged");
    t_pair_close(&pair);
}

Test(one_host, who_has_not_agreed_takes_none)
{
    struct kvw_transport_stats before, after;

    open_pair(false, true, &clean);
    pair.side[1].t->ops->stats(pair.side[1].t, &before);
    tapped.leave_out = true;
    cr_expect_eq(put_some(100 * MS), 0);
    pair.side[1].t->ops->stats(pair.side[1].t, &after);
    cr_expect_gt(after.packets_rejected, before.packets_rejected);
    cr_expect_eq(after.put_bytes_received, 0);
    tapped.leave_out = false;
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 900 * MS);
    cr_expect_eq(pair.side[0].puts_landed + pair.side[1].puts_landed, 20);
    t_pair_close(&pair);
}
