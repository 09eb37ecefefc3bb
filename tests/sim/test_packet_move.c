/* SPDX-License-Identifier: Apache-2.0 */
/* A peer whose address changes is followed there, once it has proved to be there and not before;
 * who only says so moves nothing, and gets no more than it sends. */
#include <criterion/criterion.h>
#include <string.h>

#include "../../kvwire/wire/le.h"
#include "../../net/packet/frame.h"
#include "../../net/packet/path.h"
#include "pair.h"

#define US 1000ull
#define MS 1000000ull

static struct t_pair pair;
static const struct kvn_sim_link clean = {.delay_ns = 20 * US};
static const struct kvn_packet_config defaults = {.seed = 0};

/* What left for whom, by the packets themselves. */
static struct {
    uint32_t id[2];              /* by which each side is called */
    uint32_t largest[2];         /* number that each side used, on path 0 */
    struct kvn_addr from_now[2]; /* where a side is since it moved; family 0: it hasn't */
    uint32_t too_early[2];       /* packets but CHALLENGE that left for there before its RESPONSE */
    bool answered[2];
    uint32_t to_raw, to_raw_bytes, to_raw_others; /* others than CHALLENGE */
    uint64_t last_token;
} seen;

static bool tap(void *arg, const struct kvn_sim_sight *sight)
{
    const uint8_t *h = sight->packet->head;
    const uint8_t type = h[0] & 15;
    uint32_t bytes = sight->packet->head_bytes;

    (void)arg;
    for (uint32_t i = 0; i < sight->packet->body_count; ++i)
        bytes += sight->packet->body[i].bytes;
    if (sight->to == 2) {
        ++seen.to_raw;
        seen.to_raw_bytes += bytes;
        seen.to_raw_others += type != KVN_PACKET_CHALLENGE;
        seen.last_token = kvw_load_le64(h + 16);
    }
    if (sight->from > 1 || sight->to > 1 || type == KVN_PACKET_HELLO)
        return true;
    if (type == KVN_PACKET_HELLO_ACK) {
        seen.id[0] = kvw_load_le32(h + 4);
        seen.id[1] = kvw_load_le32(h + 24);
        return true;
    }
    if (h[1] >> KVN_FLAG_PATH_SHIFT == 0)
        seen.largest[sight->from] = kvw_load_le32(h + 8);
    if (type == KVN_PACKET_RESPONSE)
        seen.answered[sight->from] = true;
    if (type != KVN_PACKET_CHALLENGE && !seen.answered[sight->to] &&
        kvn_addr_equal(&sight->packet->to, &seen.from_now[sight->to]))
        ++seen.too_early[sight->to];
    return true;
}

static void up(uint64_t seed, uint32_t paths)
{
    memset(&seen, 0, sizeof(seen));
    t_pair_open_paths(&pair, seed, 8240, &defaults, paths);
    kvn_sim_tap(pair.sim, tap, NULL);
    kvn_sim_links(pair.sim, &clean);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 50 * MS);
    cr_assert(pair.side[0].up && pair.side[1].up);
}

static struct kvn_path_stats path_stats(uint32_t side, uint32_t path)
{
    struct kvn_conn_stats s;

    cr_assert_eq(kvn_packet_conn_stats(pair.side[side].t, pair.side[side].conn, &s), KVW_OK);
    return s.path[path];
}

/* Both sides talk for a while. */
static void talk(uint64_t for_ns)
{
    const uint64_t until = kvn_sim_now(pair.sim) + for_ns;

    while (kvn_sim_now(pair.sim) < until && pair.failed[0] == '\0') {
        for (uint32_t i = 0; i < 2; ++i) {
            (void)t_pair_put(&pair, i, 1 + (uint32_t)t_pair_random(&pair, 100000));
            (void)t_pair_message(&pair, i, 1 + (uint32_t)t_pair_random(&pair, 2000));
        }
        t_pair_run(&pair, kvn_sim_now(pair.sim) + 200 * US);
    }
}

static void all_arrives(void)
{
    const uint64_t until = kvn_sim_now(pair.sim) + 2000 * MS;

    while (!t_pair_settled(&pair) && kvn_sim_now(pair.sim) < until && pair.failed[0] == '\0')
        t_pair_step(&pair, until);
    cr_assert_str_empty(pair.failed, "%s", pair.failed);
    cr_expect(t_pair_settled(&pair));
    cr_expect_eq(pair.side[0].downs + pair.side[1].downs, 0);
    t_pair_check_memory(&pair);
    cr_assert_str_empty(pair.failed, "%s", pair.failed);
}

static void move(uint32_t side, bool far)
{
    if (far)
        kvn_sim_move(pair.sim, side);
    else
        kvn_sim_rebind(pair.sim, side, 0);
    seen.from_now[side] = kvn_sim_addr(pair.sim, side);
    seen.answered[side] = false;
}

/* Either side, by port or by address, again and again, while both talk and while neither does. */
Test(move, is_followed)
{
    for (uint32_t run = 0; run < 8; ++run) {
        const uint32_t side = run & 1;
        const bool far = run & 2, idle = run & 4;

        up(run + 1, 1);
        for (uint32_t times = 1; times <= 3; ++times) {
            if (!idle)
                talk(20 * MS);
            move(side, far);
            if (idle)
                t_pair_run(&pair, kvn_sim_now(pair.sim) + 600 * MS);
            else
                talk(30 * MS);
            cr_expect(seen.answered[side]);
            cr_expect_eq(path_stats(1 - side, 0).moves, times, "run %u: %lu moves", run,
                         path_stats(1 - side, 0).moves);
            cr_expect_eq(path_stats(side, 0).moves, 0);
        }
        all_arrives();
        cr_expect_eq(seen.too_early[side], 0, "run %u: %u packets", run, seen.too_early[side]);
        t_pair_close(&pair);
    }
}

/* As soon as it has moved, the path has the window and the packets of a new one, whatever the old
 * way was like; then it finds out what the new way is like. */
Test(move, begins_afresh)
{
    const struct kvn_sim_link slow = {.delay_ns = 3 * MS, .bytes_per_s = 50000000};
    const uint32_t limits[] = {0, 4000, 1300}, finds[] = {8240, 3952, 1200};

    for (uint32_t run = 0; run < 3; ++run) {
        struct kvn_sim_link l = slow;
        struct kvn_path_stats before, after;

        up(run + 1, 1);
        talk(50 * MS);
        before = path_stats(1, 0);
        cr_expect_gt(before.cwnd_bytes, 100000);
        l.payload_limit = limits[run];
        kvn_sim_link(pair.sim, 0, 1, &l);
        kvn_sim_link(pair.sim, 1, 0, &l);
        move(0, true);
        while (path_stats(1, 0).moves == 0 && pair.failed[0] == '\0')
            t_pair_step(&pair, UINT64_MAX);
        after = path_stats(1, 0);
        cr_expect_eq(after.state, KVN_PATH_LIVE);
        cr_expect_leq(after.cwnd_bytes, KVN_WINDOW_START_SLICES * 8240);
        cr_expect_eq(after.payload, KVN_PAYLOAD_MIN);
        cr_expect_eq(after.rtt_min_ns, 0);
        talk(200 * MS);
        after = path_stats(1, 0);
        cr_expect_gt(after.srtt_ns, 6 * MS);
        cr_expect_eq(after.payload, finds[run], "%u of %u", after.payload, finds[run]);
        all_arrives();
        t_pair_close(&pair);
    }
}

static bool all_live(uint32_t paths)
{
    for (uint32_t i = 0; i < paths; ++i)
        if (path_stats(0, i).state != KVN_PATH_LIVE || path_stats(1, i).state != KVN_PATH_LIVE)
            return false;
    return true;
}

/* A path by itself; and all of them when it is the host that has moved. */
Test(move, of_one_path_of_several)
{
    static const uint32_t sources[] = {0, 2, 4};

    for (uint32_t run = 0; run < 6; ++run) {
        const uint32_t side = run & 1, source = sources[run / 2];
        uint64_t until;

        up(run + 1, 4);
        talk(10 * MS);
        if (source == 4)
            kvn_sim_move(pair.sim, side);
        else
            kvn_sim_rebind(pair.sim, side, source);
        talk(200 * MS);
        all_arrives();
        until = kvn_sim_now(pair.sim) + 3000 * MS;
        while (!all_live(4) && kvn_sim_now(pair.sim) < until)
            t_pair_run(&pair, kvn_sim_now(pair.sim) + 50 * MS);
        cr_expect(all_live(4), "run %u: %u %u %u %u, %u %u %u %u", run, path_stats(0, 0).state,
                  path_stats(0, 1).state, path_stats(0, 2).state, path_stats(0, 3).state,
                  path_stats(1, 0).state, path_stats(1, 1).state, path_stats(1, 2).state,
                  path_stats(1, 3).state);
        t_pair_close(&pair);
    }
}

/* Nobody is left to tell either where the other is. */
Test(move, of_both_at_once_is_the_end)
{
    up(1, 1);
    talk(10 * MS);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 20 * MS);
    move(0, false);
    move(1, false);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 1500 * MS);
    cr_expect_eq(pair.side[0].down_err, KVW_E_PEER_LOST);
    cr_expect_eq(pair.side[1].down_err, KVW_E_PEER_LOST);
    t_pair_close(&pair);
}

static struct kvn_port *raw(void)
{
    struct kvn_port *port;

    cr_assert_eq(kvn_sim_port_open(&port, pair.sim, 2), KVW_OK);
    return port;
}

static uint32_t raw_send(struct kvn_port *port, const struct kvn_frame *f, const void *body,
                         uint32_t bytes)
{
    uint8_t head[KVN_HEAD_BYTES_MAX];
    struct kvn_tx_packet p = {.to = kvn_sim_addr(pair.sim, 1),
                              .head = head,
                              .body = {{body, bytes}},
                              .body_count = bytes > 0};

    p.head_bytes = kvn_frame_encode(head, f);
    kvn_frame_seal(head, p.head_bytes, p.body, p.body_count, &(struct kvw_iov){0});
    cr_assert_eq(port->ops->tx(port, kvn_sim_now(pair.sim), &p, 1), 1);
    return p.head_bytes + bytes;
}

/* Somebody else knows the connection's id and the numbers to come, and sends from an address of its
 * own, as fast as it likes, and answers whatever it gets: but it never sees what it is asked. */
Test(move, is_not_made_by_a_forged_source)
{
    static uint8_t evil[1152];
    uint32_t sent = 0, sent_bytes = 0;
    struct kvn_port *port;
    uint64_t began;

    memset(evil, 0x66, sizeof(evil));
    up(1, 1);
    port = raw();
    began = kvn_sim_now(pair.sim);
    for (uint32_t i = 0; i < 1000; ++i) {
        struct kvn_frame f = {.version = KVN_WIRE_VERSION,
                              .type = i % 3 == 0   ? KVN_PACKET_PING
                                      : i % 3 == 1 ? KVN_PACKET_DATA
                                                   : KVN_PACKET_RESPONSE,
                              .conn = seen.id[1],
                              .pn = seen.largest[0] + 1 + t_pair_random(&pair, 1000)};

        if (f.type == KVN_PACKET_DATA) {
            f.data = (struct kvn_data){.put = 500, .region = 1, .bytes = 1152, .slice = 1152};
        } else if (f.type == KVN_PACKET_RESPONSE) {
            f.token = t_pair_random(&pair, UINT64_MAX);
        }
        sent_bytes += raw_send(port, &f, evil, f.type == KVN_PACKET_DATA ? sizeof(evil) : 0);
        ++sent;
        talk(500 * US);
    }
    all_arrives();
    cr_expect_eq(path_stats(1, 0).moves, 0);
    cr_expect_gt(seen.to_raw, 10, "it was never asked");
    cr_expect_eq(seen.to_raw_others, 0, "%u packets left for it", seen.to_raw_others);
    cr_expect_lt(seen.to_raw, 2 + (kvn_sim_now(pair.sim) - began) / KVN_CHALLENGE_FIRST_NS);
    cr_expect_lt(2 * seen.to_raw_bytes, 3 * sent_bytes);
    port->ops->close(port);
    t_pair_close(&pair);
}

/* A copy of what the peer sent before is no reason to ask anybody; nor is an unknown path. */
Test(move, is_not_suspected_because_of_an_old_number)
{
    struct kvn_frame f = {.version = KVN_WIRE_VERSION, .type = KVN_PACKET_PING};
    struct kvn_port *port;

    up(1, 1);
    talk(20 * MS);
    port = raw();
    f.conn = seen.id[1];
    for (uint32_t i = 1; i <= seen.largest[0]; i += 3) {
        f.pn = i;
        f.path = i % 2 * 5;
        raw_send(port, &f, NULL, 0);
        talk(50 * US);
    }
    all_arrives();
    cr_expect_eq(seen.to_raw, 0);
    f.path = 0;
    f.pn = seen.largest[0] + 100;
    raw_send(port, &f, NULL, 0);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + MS);
    cr_expect_eq(seen.to_raw, 1, "a new one is");
    port->ops->close(port);
    t_pair_close(&pair);
}

/* What is asked is asked of one address: the right token from a third one proves nothing; from
 * the one that was asked it does, and the peer that never moved takes its connection back. */
Test(move, is_proved_by_the_address_that_was_asked)
{
    struct kvn_frame f = {.version = KVN_WIRE_VERSION, .type = KVN_PACKET_PING};
    struct kvn_port *port;

    up(1, 1);
    port = raw();
    f.conn = seen.id[1];
    f.pn = seen.largest[0] + 1;
    raw_send(port, &f, NULL, 0);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + MS);
    cr_assert_eq(seen.to_raw, 1);
    f.type = KVN_PACKET_RESPONSE;
    f.token = seen.last_token;
    --f.pn; /* so that none is used up that the peer comes to use */
    kvn_sim_rebind(pair.sim, 2, 0);
    raw_send(port, &f, NULL, 0);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + MS);
    cr_expect_eq(path_stats(1, 0).moves, 0);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + 20 * MS); /* the next question may be asked */
    f.type = KVN_PACKET_PING;
    ++f.pn;
    raw_send(port, &f, NULL, 0);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + MS);
    f.type = KVN_PACKET_RESPONSE;
    f.token = seen.last_token;
    --f.pn;
    raw_send(port, &f, NULL, 0);
    t_pair_run(&pair, kvn_sim_now(pair.sim) + MS);
    cr_expect_eq(path_stats(1, 0).moves, 1);
    talk(500 * MS);
    all_arrives();
    cr_expect_eq(path_stats(1, 0).moves, 2);
    port->ops->close(port);
    t_pair_close(&pair);
}
