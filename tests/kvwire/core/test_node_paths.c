/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A node with several transports, and one that an application's own loop drives: one descriptor
 * stands for input of all transports, for timers and for what calls have left to do.
 */
#include <criterion/criterion.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "../../../kvwire/node.h"
#include "state.h"

#define MS     1000000ull
#define S      1000000000ull
#define LAYERS 3u
#define TOKENS 64u
#define SIDES  3u /* decode, and a prefill by each transport */

struct side {
    struct kvw_node *n;
    struct t_state state;
    kvw_pool_id pool;
    kvw_peer_id peer[2]; /* decode: by transport */
    uint32_t dones, oks, notes;
};

static struct side side[SIDES];
static int ep;

static void open_side(uint32_t at, const struct kvw_node_config *cfg)
{
    struct epoll_event ev = {.events = EPOLLIN, .data = {.u32 = at}};
    struct side *e = &side[at];
    char why[257] = "";

    cr_assert_eq(kvw_node_open(&e->n, cfg, why, sizeof(why)), KVW_OK, "%s", why);
    t_state_dense(&e->state, LAYERS, 2, 128, KVW_DTYPE_BF16, 16, 8);
    t_state_make(&e->state);
    cr_assert_eq(kvw_node_pool_add(e->n, &e->state.desc, &e->pool, why, sizeof(why)), KVW_OK, "%s",
                 why);
    cr_assert_eq(epoll_ctl(ep, EPOLL_CTL_ADD, kvw_node_fd(e->n), &ev), 0);
}

/* Decode has udp and loop; one prefill has udp, the other both, loop first. */
static void open_all(const char *name, uint32_t app_driven)
{
    const struct kvw_node_path by_loop = {.transport = "loop", .local = name, .listen = 1};
    const struct kvw_node_path by_udp = {.transport = "udp", .local = "127.0.0.1:0"};
    struct kvw_node_config cfg = {.size = sizeof(cfg),
                                  .name = "decode",
                                  .transport = "udp",
                                  .local = "127.0.0.1:0",
                                  .listen = 1,
                                  .more = &by_loop,
                                  .more_count = 1,
                                  .more_bytes = sizeof(by_loop),
                                  .app_driven = app_driven};
    uint8_t blob[256];
    uint32_t bytes = sizeof(blob);
    kvw_peer_id peer;

    ep = epoll_create1(EPOLL_CLOEXEC);
    open_side(0, &cfg);
    cfg.listen = cfg.more_count = 0;
    cfg.name = "udp";
    open_side(1, &cfg);
    cfg.name = cfg.transport = "loop";
    cfg.local = name;
    cfg.more = &by_udp;
    cfg.more_count = 1;
    open_side(2, &cfg);
    cr_assert_eq(kvw_node_blob(side[0].n, blob, &bytes), KVW_OK);
    cr_assert_eq(kvw_node_peer_blob(side[1].n, blob, bytes, &peer), KVW_OK);
    cr_assert_eq(kvw_node_peer_blob(side[2].n, blob, bytes, &peer), KVW_OK);
}

static void close_all(void)
{
    for (uint32_t i = 0; i < SIDES; ++i) {
        kvw_node_close(side[i].n);
        t_state_free(&side[i].state);
    }
    close(ep);
}

static void take(uint32_t at)
{
    struct kvw_core_event ev = {.size = sizeof(ev)};
    struct side *e = &side[at];

    (void)kvw_node_poll(e->n);
    while (kvw_node_next_event(e->n, &ev)) {
        struct kvw_peer_info info = {.size = sizeof(info)};

        if (ev.kind == KVW_CEV_PEER_UP) {
            cr_assert_eq(kvw_node_peer_info(e->n, ev.peer, &info), KVW_OK);
            e->peer[strcmp(info.path, "loop") == 0] = ev.peer;
        }
        cr_assert_neq(ev.kind, KVW_CEV_PEER_LOST, "%s", ev.text);
        e->dones += ev.kind == KVW_CEV_XFER_DONE;
        e->oks += ev.kind == KVW_CEV_XFER_DONE && ev.err == KVW_OK;
        e->notes += ev.kind == KVW_CEV_NOTIFY;
    }
}

/* The application's loop: one epoll, and nothing is looked at that it doesn't name. */
static uint32_t loop_once(int ms)
{
    struct epoll_event ev[SIDES];
    const int n = epoll_wait(ep, ev, SIDES, ms);

    for (int i = 0; i < n; ++i)
        take(ev[i].data.u32);
    return n > 0 ? (uint32_t)n : 0;
}

#define LOOP_UNTIL(condition)                                                                      \
    do {                                                                                           \
        const uint64_t until = kvw_now_ns() + 20 * S;                                              \
        while (!(condition) && kvw_now_ns() < until)                                               \
            (void)loop_once(1000);                                                                 \
        cr_assert(condition, #condition);                                                          \
    } while (0)

static void meet(void)
{
    LOOP_UNTIL(side[0].peer[0].value != 0 && side[0].peer[1].value != 0 &&
               side[1].peer[0].value != 0 && side[2].peer[1].value != 0);
}

/* Blocks of one request: of decode number `from` - 1's four. */
static void transfer(uint32_t from)
{
    const uint32_t first = (from - 1) * 4, ids[4] = {first, first + 3, first + 1, first + 2};
    const struct kvw_group_blocks want = {0, 4, ids, 0, 0, TOKENS}, have = {0, 4, ids, 0, 0, 0};
    struct side *s = &side[from];
    char why[257] = "";
    kvw_xfer_ref r, x;
    const struct kvw_offer_args offer = {.size = sizeof(offer),
                                         .pool = side[0].pool,
                                         .key = kvw_key_of(from == 1 ? "one" : "two"),
                                         .tokens = TOKENS,
                                         .group_count = 1,
                                         .groups = &want,
                                         .sources = &side[0].peer[from - 1],
                                         .source_count = 1};
    const struct kvw_stream_args stream = {.size = sizeof(stream),
                                           .pool = s->pool,
                                           .key = offer.key,
                                           .tokens = TOKENS,
                                           .group_count = 1,
                                           .groups = &have};

    t_state_fill(&s->state, 0, ids, 0, 0, TOKENS, from);
    cr_assert_eq(kvw_node_offer(side[0].n, &offer, &r, why, sizeof(why)), KVW_OK, "%s", why);
    cr_assert_eq(kvw_node_stream(s->n, &stream, &x, why, sizeof(why)), KVW_OK, "%s", why);
    for (uint32_t l = 0; l < LAYERS; ++l)
        cr_assert_eq(kvw_node_push(s->n, x, l, TOKENS, NULL), KVW_OK);
    cr_assert_eq(kvw_node_commit(s->n, x, NULL, 0), KVW_OK);
}

static bool came(uint32_t from, uint32_t what)
{
    const uint32_t first = (from - 1) * 4, ids[4] = {first, first + 3, first + 1, first + 2};

    return t_state_is(&side[0].state, 0, ids, 0, 0, TOKENS, what);
}

static void both_move_kv(void)
{
    meet();
    transfer(1);
    transfer(2);
    LOOP_UNTIL(side[0].dones == 2 && side[1].dones == 1 && side[2].dones == 1);
    cr_expect_eq(side[0].oks, 2);
    cr_expect(came(1, 1) && came(2, 2));
    cr_expect_not(came(1, 2), "the control");
    cr_expect_eq(side[0].peer[0].value == side[0].peer[1].value, false);
}

Test(node_paths, one_loop_drives_three_nodes_of_two_transports, .timeout = 60)
{
    open_all("paths-app", 1);
    both_move_kv();
    close_all();
}

Test(node_paths, a_thread_sleeps_on_two_transports, .timeout = 60)
{
    open_all("paths-thread", 0);
    both_move_kv();
    close_all();
}

/* Nobody has anything to say but that he is alive, a few times a second each. */
Test(node_paths, who_has_nothing_to_do_is_not_woken, .timeout = 60)
{
    uint64_t until;
    uint32_t wakes = 0;

    open_all("paths-quiet", 1);
    meet();
    until = kvw_now_ns() + S;
    while (kvw_now_ns() < until)
        wakes += loop_once(100);
    cr_expect_lt(wakes, 300, "%u wake-ups in a second", wakes);
    cr_expect_gt(wakes, 0, "keepalives were not sent");
    close_all();
}

/* What a call leaves is done at once: timers are further apart than 60 ms. */
static void calls_leave_at_once(const char *name, uint32_t app_driven)
{
    struct epoll_event ev;
    uint32_t late = 0;

    open_all(name, app_driven);
    meet();
    for (uint32_t i = 0; i < 20; ++i) {
        const uint32_t notes = side[0].notes;
        uint64_t began;

        for (uint32_t k = 0; k < 50 && loop_once(5) != 0; ++k)
            ;
        began = kvw_now_ns();
        cr_assert_eq(kvw_node_notify(side[2].n, side[2].peer[1], "x", 1), KVW_OK);
        cr_assert_eq(side[0].notes, notes);
        if (app_driven)
            cr_assert_geq(epoll_wait(ep, &ev, 1, 2), 1, "the sender's descriptor says nothing");
        LOOP_UNTIL(side[0].notes == notes + 1);
        late += kvw_now_ns() - began > 60 * MS;
    }
    cr_expect_leq(late, 10, "%u of 20 notes waited for a timer", late);
    close_all();
}

/* Work is done in kvw_node_poll() alone; what a call leaves makes the descriptor readable. */
Test(node_paths, a_call_is_told_by_the_descriptor, .timeout = 60)
{
    calls_leave_at_once("paths-call", 1);
}

Test(node_paths, a_call_wakes_the_thread, .timeout = 60)
{
    calls_leave_at_once("paths-wake", 0);
}

/* An app-driven node's own waits poll for the caller. */
Test(node_paths, waits_poll_meanwhile, .timeout = 60)
{
    static unsigned char mine[4096], theirs[4096];
    const struct kvw_mem here = {
        .base = mine, .bytes = sizeof(mine), .kind = KVW_MEM_HOST, .dmabuf_fd = -1};
    const struct kvw_mem there = {
        .base = theirs, .bytes = sizeof(theirs), .kind = KVW_MEM_HOST, .dmabuf_fd = -1};
    struct kvw_region_args region = {
        .size = sizeof(region), .mem = &here, .mem_bytes = sizeof(here)};
    const struct kvw_batch_piece piece = {(uintptr_t)mine, (uintptr_t)theirs, sizeof(mine)};
    struct kvw_batch_args args = {.size = sizeof(args),
                                  .op = KVW_BATCH_WRITE,
                                  .piece_count = 1,
                                  .pieces = &piece,
                                  .piece_bytes = sizeof(piece)};
    const struct kvw_post_args quiet = {.size = sizeof(quiet), .quiet = 1};
    struct kvw_region_info info = {.size = sizeof(info)};
    struct kvw_node_config cfg = {.size = sizeof(cfg),
                                  .name = "owner",
                                  .transport = "udp",
                                  .local = "127.0.0.1:0",
                                  .listen = 1};
    uint8_t blob[256];
    uint32_t bytes = sizeof(blob);
    const uint64_t until = kvw_now_ns() + 20 * S;
    kvw_region_id id;
    kvw_batch_id batch;
    char why[257] = "";

    memset(mine, 7, sizeof(mine));
    ep = epoll_create1(EPOLL_CLOEXEC);
    open_side(0, &cfg);
    cfg.app_driven = 1;
    cfg.listen = 0;
    open_side(1, &cfg);
    cr_assert_eq(kvw_node_region_add(side[1].n, &region, &id, why, sizeof(why)), KVW_OK, "%s", why);
    region.mem = &there;
    region.rights = KVW_REGION_WRITE;
    cr_assert_eq(kvw_node_region_add(side[0].n, &region, &id, why, sizeof(why)), KVW_OK, "%s", why);
    cr_assert_eq(kvw_node_blob(side[0].n, blob, &bytes), KVW_OK);
    cr_assert_eq(kvw_node_peer_blob(side[1].n, blob, bytes, &args.peer), KVW_OK);
    while (kvw_node_peer_region(side[1].n, args.peer, 0, &info) != KVW_OK && kvw_now_ns() < until)
        if (kvw_node_wait(side[1].n, kvw_now_ns() + 10 * MS))
            take(1);
    cr_assert_eq(kvw_node_batch_make(side[1].n, &args, &batch, why, sizeof(why)), KVW_OK, "%s",
                 why);
    for (uint32_t i = 0; i < 3; ++i) {
        memset(theirs, 0, sizeof(theirs));
        cr_assert_eq(kvw_node_batch_post(side[1].n, batch, &quiet, why, sizeof(why)), KVW_OK);
        cr_expect_eq(kvw_node_batch_wait(side[1].n, batch, until, NULL), KVW_OK);
        cr_expect_arr_eq(theirs, mine, sizeof(mine));
    }
    kvw_node_close(side[1].n);
    kvw_node_close(side[0].n);
}

Test(node_paths, addresses_and_arguments)
{
    struct kvw_node_path path = {.transport = "loop", .local = "paths-arguments", .listen = 1};
    struct kvw_node_config cfg = {.size = sizeof(cfg),
                                  .transport = "udp",
                                  .local = "127.0.0.1:0",
                                  .more = &path,
                                  .more_count = 1,
                                  .more_bytes = sizeof(path)};
    struct kvw_node *n = NULL;
    char why[257] = "", text[64];
    struct kvw_peer_info info = {.size = sizeof(info)};
    uint32_t bytes = sizeof(text);
    uint8_t blob[256];
    kvw_peer_id peer;

#define REFUSED(field)                                                                             \
    cr_expect_eq(kvw_node_open(&n, &cfg, why, sizeof(why)), KVW_E_INVALID);                        \
    cr_expect_str_eq(why, field)

    cfg.more_count = KVW_CORE_PATHS_MAX;
    REFUSED("more_count");
    cfg.more_count = 1;
    cfg.more_bytes = 4;
    REFUSED("more_bytes");
    cfg.more_bytes = sizeof(path);
    cfg.app_driven = 2;
    REFUSED("app_driven");
    cfg.app_driven = cfg.busy_poll = 1;
    REFUSED("app_driven");
    cfg.busy_poll = 0;
    path.listen = 2;
    REFUSED("more[0].listen");
    path.listen = 1;
    path.transport = "carrier-pigeon";
    cr_expect_eq(kvw_node_open(&n, &cfg, why, sizeof(why)), KVW_E_UNSUPPORTED, "%s", why);
    cr_expect_not_null(strstr(why, "carrier-pigeon"), "%s", why);
    path.transport = "loop";
    cr_assert_null(n);
    struct {
        struct kvw_node_path path;
        uint64_t later; /* a field of one day */
    } longer = {path, 1};
    cfg.more = &longer.path;
    cfg.more_bytes = sizeof(longer);
    REFUSED("more[0].size");
    longer.later = 0;
    cr_assert_eq(kvw_node_open(&n, &cfg, why, sizeof(why)), KVW_OK, "%s", why);
    cr_expect_eq(kvw_node_path_address(n, 1, text, &bytes), KVW_OK);
    cr_expect_str_eq(text, "paths-arguments");
    bytes = sizeof(text);
    cr_expect_eq(kvw_node_path_address(n, 0, text, &bytes), KVW_OK);
    cr_expect_eq(strncmp(text, "127.0.0.1:", 10), 0, "%s", text);
    cr_expect_eq(kvw_node_path_address(n, 2, text, &bytes), KVW_E_INVALID);
    cr_expect_eq(kvw_node_peer_add_by(n, 2, "x", &peer), KVW_E_INVALID);
    bytes = sizeof(blob);
    cr_assert_eq(kvw_node_blob(n, blob, &bytes), KVW_OK);
    cr_assert_eq(kvw_node_peer_blob(n, blob, bytes, &peer), KVW_OK);
    cr_assert_eq(kvw_node_peer_info(n, peer, &info), KVW_OK);
    cr_expect_str_eq(info.path, "udp", "the first of this node's own");
    kvw_node_close(n);
}
