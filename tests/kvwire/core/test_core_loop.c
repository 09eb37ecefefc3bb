/* SPDX-License-Identifier: Apache-2.0 */
/* Two cores over the loop transport move any state that the two pools share, in either direction,
 * driven by nothing but their deadlines. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../../compress/compress.h"
#include "../../../kvwire/core.h"
#include "../../../kvwire/peer/core_state.h"
#include "../../../net/net.h"
#include "state.h"

#define MS 1000000ull

struct side {
    struct kvw_transport *t;
    struct kvw_core *core;
    struct t_state state;
    kvw_pool_id pool;
    kvw_peer_id peer; /* the other one; 0: not up */
    struct kvw_core_event done;
    uint32_t dones, sent, ready, lost;
    char text[257];
};

static uint64_t now = 1000 * MS;
static bool at_once; /* small chunks, all pushed before anybody looks; and a poll takes time */

static void open_side(struct side *s, bool listen, const char *name, uint32_t codec)
{
    const struct kvn_config net = {.local = name, .listener = listen};
    char why[KVN_WHY_BYTES] = "";
    struct kvw_core_path path = {.name = "loop", .listen = listen};
    struct kvw_core_config cfg = {.size = sizeof(cfg),
                                  .path_count = 1,
                                  .paths = &path,
                                  .instance = listen ? 77 : 78,
                                  .name = listen ? "decode" : "prefill",
                                  .codecs = kvc_codecs,
                                  .codec = codec,
                                  .chunk_raw_bytes = at_once ? 16384 : 0};
    const char *field = "";

    cr_assert_eq(kvn_open(&s->t, "loop", &net, why), KVW_OK, "%s", why);
    path.transport = s->t;
    cr_assert_eq(kvw_core_open(&s->core, &cfg, now, &field), KVW_OK, "%s", field);
}

static void add_pool(struct side *s)
{
    char why[200] = "";

    cr_assert_eq(kvw_core_pool_add(s->core, &s->state.desc, &s->pool, why, sizeof(why)), KVW_OK,
                 "%s", why);
}

static void take_events(struct side *s)
{
    struct kvw_core_event ev = {.size = sizeof(ev)};

    while (kvw_core_next_event(s->core, &ev)) {
        if (ev.kind == KVW_CEV_PEER_UP)
            s->peer = ev.peer;
        s->lost += ev.kind == KVW_CEV_PEER_LOST;
        s->sent += ev.kind == KVW_CEV_LAYER_SENT;
        s->ready += ev.kind == KVW_CEV_LAYER_READY;
        if (ev.kind == KVW_CEV_XFER_DONE) {
            s->done = ev;
            ++s->dones;
        }
        if (ev.text[0] != '\0')
            snprintf(s->text, sizeof(s->text), "%s", ev.text);
    }
}

/* at_once: 10 us a chunk, at either end. */
static void pass_time(const struct side *a, const struct side *b)
{
    static uint64_t passed;
    struct kvw_core_stats s = {.size = sizeof(s)}, t = {.size = sizeof(t)};

    kvw_core_stats(a->core, &s);
    kvw_core_stats(b->core, &t);
    if (at_once)
        now += (s.chunks_landed + t.chunks_sent - passed) * 10000;
    passed = s.chunks_landed + t.chunks_sent;
}

/* Poll each side when its deadline says so, and no more, until nothing is due within 50 ms
 * (at_once: 1). */
static void run(struct side *a, struct side *b)
{
    struct side *const sides[] = {a, b};

    for (uint32_t calm = 0; calm < 50; ++calm, now += at_once ? 20000 : MS)
        for (uint32_t i = 0; i < 2; ++i)
            while (kvw_core_deadline_ns(sides[i]->core) <= now) {
                while (kvw_core_poll(sides[i]->core, now))
                    pass_time(a, b);
                take_events(sides[i]);
                calm = 0;
            }
}

static void close_side(struct side *s)
{
    kvw_core_close(s->core, now);
    s->t->ops->close(s->t);
    t_state_free(&s->state);
}

static void join(struct side *d, struct side *p)
{
    kvw_peer_id id;

    cr_assert_eq(kvw_core_peer_add(p->core, 0, NULL, now, &id), KVW_OK);
    run(d, p);
    cr_assert(d->peer.value != 0 && p->peer.value == id.value, "%s | %s", d->text, p->text);
}

/* Move `tokens` tokens of group 0 from p to d; d lacks those from want_first on. */
static void move(struct side *d, struct side *p, uint32_t tokens, uint32_t want_first,
                 const char *key)
{
    uint32_t d_blocks[64], p_blocks[64], d_n, p_n;
    const struct t_group *dg = &d->state.groups[0], *pg = &p->state.groups[0];
    char why[257] = "";
    kvw_xfer_ref dx, px;

    d_n = (tokens + dg->block_entries - 1) / dg->block_entries;
    p_n = (tokens + pg->block_entries - 1) / pg->block_entries;
    for (uint32_t i = 0; i < d_n; ++i)
        d_blocks[i] = (i * 7 + 3) % dg->blocks;
    for (uint32_t i = 0; i < p_n; ++i)
        p_blocks[i] = (i * 5 + 1) % pg->blocks;
    t_state_fill(&p->state, 0, p_blocks, 0, 0, tokens, 42);
    const struct kvw_group_blocks dgb = {0, d_n, d_blocks, 0, want_first, tokens};
    const struct kvw_group_blocks pgb = {0, p_n, p_blocks, 0, 0, 0};
    const struct kvw_offer_args offer = {.size = sizeof(offer),
                                         .pool = d->pool,
                                         .key = kvw_key_of(key),
                                         .tokens = tokens,
                                         .group_count = 1,
                                         .groups = &dgb,
                                         .sources = &d->peer,
                                         .source_count = 1};
    const struct kvw_stream_args stream = {.size = sizeof(stream),
                                           .pool = p->pool,
                                           .key = kvw_key_of(key),
                                           .tokens = tokens,
                                           .group_count = 1,
                                           .groups = &pgb};

    cr_assert_eq(kvw_core_offer(d->core, &offer, now, &dx, why, sizeof(why)), KVW_OK, "%s", why);
    cr_assert_eq(kvw_core_stream(p->core, &stream, now, &px, why, sizeof(why)), KVW_OK, "%s", why);
    for (uint32_t l = 0; l < p->state.model_layers; ++l) {
        cr_assert_eq(kvw_core_push(p->core, px, l, tokens, NULL), KVW_OK);
        if (!at_once)
            run(d, p);
    }
    cr_assert_eq(kvw_core_commit(p->core, px, "note", 4), KVW_OK);
    run(d, p);
    cr_assert_eq(d->dones, 1, "%s", d->text);
    cr_assert_eq(p->dones, 1, "%s", p->text);
    d->dones = p->dones = 0;
    cr_expect_eq(d->done.err, KVW_OK, "%s", d->done.text);
    cr_expect_eq(p->done.err, KVW_OK, "%s", p->done.text);
    cr_expect(d->done.note_bytes == 4 && memcmp(d->done.note, "note", 4) == 0);
    cr_expect(t_state_is(&d->state, 0, d_blocks, 0, want_first, tokens, 42));
    cr_expect_not(want_first > 0 && t_state_is(&d->state, 0, d_blocks, 0, 0, want_first, 42),
                  "what wasn't asked for came too");
}

Test(core_loop, dense_kv_goes_across)
{
    static struct side d, p;

    open_side(&d, true, "a", 0);
    open_side(&p, false, "a", 0);
    t_state_dense(&d.state, 4, 2, 128, KVW_DTYPE_BF16, 32, 40);
    d.state.groups[0].rows_first = true;
    t_state_dense(&p.state, 4, 2, 128, KVW_DTYPE_BF16, 16, 40);
    p.state.groups[0].own_tensors = true;
    t_state_make(&d.state);
    t_state_make(&p.state);
    add_pool(&d);
    add_pool(&p);
    join(&d, &p);
    move(&d, &p, 100, 0, "request 1");
    cr_expect_eq(d.ready, 4);
    cr_expect_eq(p.sent, 4);
    close_side(&p);
    close_side(&d);
}

Test(core_loop, only_what_is_lacking_goes_across)
{
    static struct side d, p;

    open_side(&d, true, "b", 0);
    open_side(&p, false, "b", 0);
    t_state_dense(&d.state, 3, 2, 128, KVW_DTYPE_BF16, 16, 40);
    t_state_dense(&p.state, 3, 2, 128, KVW_DTYPE_BF16, 128, 8);
    t_state_make(&d.state);
    t_state_make(&p.state);
    add_pool(&d);
    add_pool(&p);
    join(&d, &p);
    move(&d, &p, 320, 256, "request 2");
    cr_expect_eq(d.done.raw_bytes, 64ull * 3 * 2 * 2 * 128);
    close_side(&p);
    close_side(&d);
}

static uint32_t slots_of(const struct side *d)
{
    const struct kvw_lent *lent = &kvw_core_peer(d->core, d->peer)->lent;

    return lent->granted + lent->landed;
}

/* All 64 slots are its share; a peer that uses each at once is granted few of them, so that they
 * stay in the cache. */
Test(core_loop, a_peer_that_is_near_holds_few_slots)
{
    static struct side d, p;
    char key[16];

    at_once = true;
    open_side(&d, true, "near", KVW_CODEC_RAW);
    open_side(&p, false, "near", KVW_CODEC_RAW);
    t_state_dense(&d.state, T_STATE_LAYERS_MAX, 2, 128, KVW_DTYPE_BF16, 16, 40);
    t_state_dense(&p.state, T_STATE_LAYERS_MAX, 2, 128, KVW_DTYPE_BF16, 16, 40);
    t_state_make(&d.state);
    t_state_make(&p.state);
    add_pool(&d);
    add_pool(&p);
    join(&d, &p);
    move(&d, &p, 16, 0, "request 1");
    cr_expect_gt(slots_of(&d), 16, "nothing was known of it");
    for (uint32_t i = 2; i < 30; ++i) {
        snprintf(key, sizeof(key), "request %u", i);
        move(&d, &p, 128, 0, key);
    }
    cr_expect(slots_of(&d) >= 1 && slots_of(&d) <= 16, "%u", slots_of(&d));
    close_side(&p);
    close_side(&d);
}

/*
 * Two nodes that dial and listen are up without a moment's passing: no step of it waits for a timer
 * or for an event that nobody reports. Who is polled next is drawn; nobody is who isn't due.
 */
Test(core_loop, peers_come_up_in_no_time)
{
    for (uint32_t seed = 1; seed <= 200; ++seed) {
        struct side d = {.t = NULL}, p = {.t = NULL};
        struct side *const sides[] = {&d, &p};
        uint32_t random = seed, polls = 0;
        kvw_peer_id id;
        bool due = true;

        open_side(&d, true, "in no time", 0);
        open_side(&p, false, "in no time", 0);
        cr_assert_eq(kvw_core_peer_add(p.core, 0, NULL, now, &id), KVW_OK);
        while (due) {
            struct side *s;

            random = random * 1664525 + 1013904223;
            s = sides[random >> 31];
            if (kvw_core_deadline_ns(s->core) <= now) {
                (void)kvw_core_poll(s->core, now);
                take_events(s);
            }
            due = kvw_core_deadline_ns(d.core) <= now || kvw_core_deadline_ns(p.core) <= now;
            cr_assert_lt(++polls, 1000, "seed %u: it spins", seed);
        }
        cr_expect(d.peer.value != 0 && p.peer.value == id.value, "seed %u: %s | %s", seed, d.text,
                  p.text);
        cr_expect_eq(d.lost + p.lost, 0, "seed %u: %s | %s", seed, d.text, p.text);
        kvw_core_close(p.core, now);
        kvw_core_close(d.core, now);
        p.t->ops->close(p.t);
        d.t->ops->close(d.t);
    }
}
