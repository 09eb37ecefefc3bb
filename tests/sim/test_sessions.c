/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two sessions over the packet transport, whatever the network between them does: every transfer
 * ends exactly once on each side, what ends well holds the sender's bytes, no block changes once it
 * was given back, nothing ends well at the sender that didn't at the receiver, and when the faults
 * stop the two find each other again and move KV.
 *
 * Random lives on a virtual clock; KVN_SIM_SEED=n lives one, KVN_SIM_SEEDS=n the first n.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../compress/compress.h"
#include "../../kvwire/kvwire.h"
#include "../../net/packet/endpoint.h"
#include "../../net/port/sim.h"
#include "../kvwire/kv.h"

#define SEEDS      300u
#define STEPS      400u
#define JOBS       6u
#define IDS        20u /* reused: a late message of an earlier use must not hit a later one */
#define TOKENS_MAX 150u
#define BLOCKS_MAX 300u
#define SPINS_MAX  20000u
#define MS         1000000ull
#define S          1000000000ull

/* One side's part in a transfer. */
struct part {
    bool open, committed;
    uint64_t id;
    uint32_t tokens, block_count;
    uint32_t blocks[TOKENS_MAX];
    uint32_t pushed[8];
};

struct side {
    uint32_t node;
    struct kvw_transport *net; /* NULL: down */
    struct kvw_session *session;
    struct kvw_pool pool;
    bool taken[BLOCKS_MAX];
    struct part parts[JOBS];
    uint64_t up_again_ns, stalled_until_ns;
    uint32_t spins, opened;
    uint32_t ok[IDS + 8]; /* by id */
    uint64_t failed, lost;
};

/* "The GPU": fills the tokens when it says that they are ready. */
struct kernel {
    struct world *w;
    struct part *part;
    uint32_t layer, from, to, asks;
    bool busy;
};

struct world {
    uint64_t seed, random;
    uint64_t last_id; /* of the transfer that ended last: what is under way of it is late now */
    struct kvn_sim *sim;
    struct side r, s; /* receiver on node 0, sender on node 1 */
    struct kernel kernels[16];
    uint64_t lease_ns;
    uint32_t slots[2], xfers[2], chunk[2], slice_bytes;
    bool lossy, late, narrow, cuts, holes, restarts, stalls, full; /* what this life may see */
    uint64_t cut_until_ns[2], hole_until_ns, full_until_ns;
    struct kvn_sim_link link[2];
    bool calm; /* no new work, no faults: let it end */
};

static bool chance(struct world *w, uint32_t percent)
{
    return t_below(&w->random, 100) < percent;
}

static uint64_t what_of(uint64_t id)
{
    return id * 1000003 + 17;
}

static uint32_t tokens_of(uint64_t id)
{
    uint64_t state = id;

    return 1 + t_below(&state, TOKENS_MAX);
}

static bool is_receiver(const struct side *side)
{
    return side->node == 0;
}

/* --- sides --- */

static void open_side(struct world *w, struct side *side)
{
    const bool receiver = is_receiver(side);
    const struct kvn_packet_config net = {.seed =
                                              w->seed * 1024 + side->node * 512 + ++side->opened,
                                          .slice_bytes = w->slice_bytes,
                                          .conns_max = 4};
    struct kvw_session_config cfg = {.size = sizeof(cfg),
                                     .role = receiver ? KVW_ROLE_RECEIVER : KVW_ROLE_SENDER,
                                     .model_name = "lives",
                                     .pool = side->pool,
                                     .codecs = kvc_codecs,
                                     .chunk_raw_bytes = w->chunk[side->node],
                                     .slots = w->slots[side->node],
                                     .xfers_max = w->xfers[side->node]};
    char why[KVN_WHY_BYTES] = "";
    const char *field = "";
    struct kvn_port *port;

    cr_assert_eq(kvn_sim_port_open(&port, w->sim, side->node), KVW_OK);
    cr_assert_eq(kvn_packet_open(&side->net, port, &net, why), KVW_OK, "seed %lu: %s", w->seed,
                 why);
    cfg.transport = side->net;
    cr_assert_eq(kvw_session_open(&side->session, &cfg, kvn_sim_now(w->sim), &field), KVW_OK,
                 "seed %lu: %s", w->seed, field);
}

/* Blocks go back: the receiver's are zeroed and must stay so, the sender's are scribbled on, so
 * that reading one late shows as wrong bytes. */
static void give_back(struct world *w, struct side *side, struct part *p)
{
    for (uint32_t i = 0; i < p->block_count; ++i) {
        cr_assert(side->taken[p->blocks[i]]);
        side->taken[p->blocks[i]] = false;
        if (is_receiver(side))
            t_kv_block_zero(&side->pool, p->blocks[i]);
    }
    p->open = false;
    w->last_id = p->id <= IDS ? p->id : 1;
    if (is_receiver(side))
        return;
    t_kv_fill(&side->pool, p->blocks, p->tokens, t_random(&w->random));
    for (uint32_t i = 0; i < 16; ++i)
        if (w->kernels[i].part == p)
            w->kernels[i].busy = false;
}

static struct part *part_of(struct side *side, uint64_t id)
{
    for (uint32_t i = 0; i < JOBS; ++i)
        if (side->parts[i].open && side->parts[i].id == id)
            return &side->parts[i];
    return NULL;
}

static void ended(struct world *w, struct side *side, const struct kvw_event *ev)
{
    struct part *p = part_of(side, ev->xfer.value);

    cr_assert_not_null(p, "seed %lu: node %u: a second outcome of transfer %lu (%s)", w->seed,
                       side->node, ev->xfer.value, ev->text);
    if (ev->err != KVW_OK) {
        ++side->failed;
        cr_assert_neq(ev->err, KVW_E_PROTOCOL, "seed %lu: %s", w->seed, ev->text);
        cr_assert_neq(ev->err, KVW_E_CHECKSUM, "seed %lu: %s", w->seed, ev->text);
        cr_assert_neq(ev->err, KVW_E_CODEC, "seed %lu: %s", w->seed, ev->text);
    } else if (is_receiver(side)) {
        ++side->ok[p->id];
        cr_assert(t_kv_is(&side->pool, p->blocks, p->tokens, what_of(p->id)),
                  "seed %lu: wrong bytes in transfer %lu", w->seed, p->id);
        cr_assert_eq(ev->note_bytes, sizeof(p->id));
        cr_assert_eq(memcmp(ev->note, &p->id, sizeof(p->id)), 0);
    } else {
        ++side->ok[p->id];
        cr_assert_leq(side->ok[p->id], w->r.ok[p->id],
                      "seed %lu: transfer %lu ended well at the sender alone", w->seed, p->id);
    }
    give_back(w, side, p);
}

static void take_events(struct world *w, struct side *side)
{
    struct kvw_event ev;

    while (kvw_session_next_event(side->session, &ev)) {
        const struct part *p = part_of(side, ev.xfer.value);

        cr_assert_not_null(ev.text);
        if (ev.kind == KVW_EV_XFER_DONE) {
            ended(w, side, &ev);
        } else if (ev.kind == KVW_EV_PEER_LOST) {
            ++side->lost;
            cr_assert_neq(ev.err, KVW_E_PROTOCOL, "seed %lu: %s", w->seed, ev.text);
        } else if (ev.kind == KVW_EV_LAYER_READY && p != NULL) {
            cr_assert(t_kv_layer_is(&side->pool, p->blocks, p->tokens, ev.layer, what_of(p->id)),
                      "seed %lu: wrong bytes in layer %u of transfer %lu", w->seed, ev.layer,
                      p->id);
        }
    }
}

/* crash: not one packet leaves any more. */
static void close_side(struct world *w, struct side *side, bool crash)
{
    take_events(w, side);
    kvn_sim_tx_limit_of(w->sim, side->node, crash ? 0 : UINT32_MAX);
    kvw_session_close(side->session, kvn_sim_now(w->sim));
    side->net->ops->close(side->net);
    kvn_sim_tx_limit_of(w->sim, side->node, UINT32_MAX);
    side->net = NULL;
    for (uint32_t i = 0; i < JOBS; ++i) /* no events come out any more */
        if (side->parts[i].open)
            give_back(w, side, &side->parts[i]);
}

/* --- work --- */

/* Blocks for a new part; NULL: none free, or no free part. */
static struct part *new_part(struct world *w, struct side *side, uint64_t id)
{
    struct part *p = NULL;

    for (uint32_t i = 0; i < JOBS; ++i)
        if (!side->parts[i].open)
            p = &side->parts[i];
    if (p == NULL || part_of(side, id) != NULL)
        return NULL;
    memset(p, 0, sizeof(*p));
    p->id = id;
    p->tokens = tokens_of(id);
    p->block_count = (p->tokens + side->pool.block_tokens - 1) / side->pool.block_tokens;
    for (uint32_t i = 0, tries = 0; i < p->block_count; ++tries) {
        const uint32_t b = t_below(&w->random, side->pool.blocks);

        if (tries > 4000) { /* crowded: give up */
            while (i-- > 0)
                side->taken[p->blocks[i]] = false;
            return NULL;
        }
        if (side->taken[b])
            continue;
        cr_assert(!is_receiver(side) || t_kv_block_is_zero(&side->pool, b),
                  "seed %lu: block %u was written after it was given back", w->seed, b);
        side->taken[b] = true;
        p->blocks[i++] = b;
    }
    return p;
}

static void settle(struct world *w, struct side *side, struct part *p, kvw_err err)
{
    cr_assert(err == KVW_OK || err == KVW_E_AGAIN, "seed %lu: %d", w->seed, err);
    p->open = err == KVW_OK;
    for (uint32_t i = 0; !p->open && i < p->block_count; ++i)
        side->taken[p->blocks[i]] = false;
}

static void offer(struct world *w, uint64_t id, uint64_t lease_ns, uint64_t deadline_ns)
{
    struct part *p = new_part(w, &w->r, id);
    const struct kvw_terms terms = {.lease_ns = lease_ns, .deadline_ns = deadline_ns};

    if (p != NULL) {
        const struct kvw_blocks b = {p->blocks, p->block_count, p->tokens};

        settle(w, &w->r, p,
               kvw_offer(w->r.session, (kvw_xfer_id){id}, &b, &terms, kvn_sim_now(w->sim)));
    }
}

static void stream(struct world *w, uint64_t id, uint64_t offer_by_ns, uint64_t deadline_ns)
{
    struct part *p = new_part(w, &w->s, id);

    if (p != NULL) {
        const struct kvw_blocks b = {p->blocks, p->block_count, p->tokens};

        settle(w, &w->s, p,
               kvw_stream_open(w->s.session, (kvw_xfer_id){id}, &b, offer_by_ns, deadline_ns,
                               kvn_sim_now(w->sim)));
    }
}

static kvw_err kernel_query(void *arg)
{
    struct kernel *k = arg;

    cr_assert(k->busy);
    if (k->asks-- > 0)
        return KVW_E_AGAIN;
    t_kv_fill_part(&k->w->s.pool, k->part->blocks, k->layer, k->from, k->to, what_of(k->part->id));
    k->busy = false;
    return KVW_OK;
}

static void push(struct world *w, struct part *p, uint32_t layer)
{
    const uint32_t from = p->pushed[layer];
    const uint32_t to =
        w->calm || chance(w, 40) ? p->tokens : from + t_below(&w->random, p->tokens - from + 1);
    struct kernel *k = &w->kernels[t_below(&w->random, 16)];
    const struct kvw_ready ready = {kernel_query, k};
    kvw_err err;

    for (uint32_t i = 0; i < 16; ++i)
        if (w->kernels[i].busy && w->kernels[i].part == p && w->kernels[i].layer == layer)
            return; /* one after the other */
    if (chance(w, 30) && !k->busy && to > from) {
        *k = (struct kernel){w, p, layer, from, to, t_below(&w->random, 5), true};
        err = kvw_push_layer(w->s.session, (kvw_xfer_id){p->id}, layer, to, &ready);
        k->busy = err == KVW_OK;
    } else {
        t_kv_fill_part(&w->s.pool, p->blocks, layer, from, to, what_of(p->id));
        err = kvw_push_layer(w->s.session, (kvw_xfer_id){p->id}, layer, to, NULL);
    }
    cr_assert(err == KVW_OK || err == KVW_E_NOTFOUND, "seed %lu: push %d", w->seed, err);
    if (err == KVW_OK)
        p->pushed[layer] = to;
}

static void push_or_commit(struct world *w, struct part *p)
{
    const uint32_t layer = t_below(&w->random, w->s.pool.layers);
    kvw_err err;

    if (!p->open || p->committed)
        return;
    for (uint32_t l = 0; l < w->s.pool.layers; ++l) {
        const uint32_t at = (layer + l) % w->s.pool.layers;

        if (p->pushed[at] < p->tokens) {
            push(w, p, at);
            return;
        }
    }
    err = kvw_commit(w->s.session, (kvw_xfer_id){p->id}, &p->id, sizeof(p->id));
    cr_assert(err == KVW_OK || err == KVW_E_NOTFOUND, "seed %lu: commit %d", w->seed, err);
    p->committed = true;
}

static void act(struct world *w)
{
    const uint64_t now = kvn_sim_now(w->sim);
    const struct part *twin = &w->r.parts[t_below(&w->random, JOBS)];
    const uint64_t id = w->last_id > 0 && chance(w, 40) ? w->last_id : 1 + t_below(&w->random, IDS);
    struct side *const any = chance(w, 50) ? &w->r : &w->s;

    if (w->r.net != NULL && !w->calm && chance(w, 40))
        offer(w, id, w->lease_ns, chance(w, 10) ? now + t_below(&w->random, 40) * MS : 0);
    if (w->s.net != NULL && !w->calm && chance(w, 40))
        stream(w, twin->open && chance(w, 90) ? twin->id : id,
               now + (50 + t_below(&w->random, 400)) * MS,
               chance(w, 10) ? now + t_below(&w->random, 60) * MS : 0);
    if (any->net != NULL && !w->calm && chance(w, 6)) {
        const struct part *p = &any->parts[t_below(&w->random, JOBS)]; /* or of no stream */
        const kvw_err err = kvw_abort(any->session, (kvw_xfer_id){p->open ? p->id : id}, "a whim");

        cr_assert(err == KVW_OK || err == KVW_E_NOTFOUND);
    }
    for (uint32_t i = 0; w->s.net != NULL && i < JOBS; ++i)
        if (chance(w, 70))
            push_or_commit(w, &w->s.parts[i]);
}

/* --- weather --- */

static struct kvn_sim_link any_link(struct world *w)
{
    struct kvn_sim_link l = {.delay_ns = 1000 + t_below(&w->random, 100000)};

    if (w->lossy && chance(w, 60)) {
        l.loss = t_below(&w->random, 80) / 1000.0;
        l.burst_begin = t_below(&w->random, 10) / 1000.0;
        l.burst_end = 0.2;
        l.burst_loss = 0.7;
        l.corrupt = t_below(&w->random, 20) / 1000.0;
        l.truncate = t_below(&w->random, 10) / 1000.0;
        l.dup = t_below(&w->random, 100) / 1000.0;
    }
    if (w->late && chance(w, 60)) {
        l.jitter_ns = t_below(&w->random, 200000);
        l.reorder = t_below(&w->random, 200) / 1000.0;
        l.reorder_ns = t_below(&w->random, 1000000);
    }
    if (w->narrow && chance(w, 60)) {
        l.bytes_per_s = 20000000 + t_below(&w->random, 2000000000);
        l.queue_bytes = 100000 + t_below(&w->random, 300000);
        l.ecn_bytes = chance(w, 50) ? 50000 : 0;
    }
    return l;
}

/* One direction or both, for a while. */
static void weather(struct world *w)
{
    const uint64_t now = kvn_sim_now(w->sim);
    struct side *const side = chance(w, 50) ? &w->r : &w->s;

    for (uint32_t i = 0; i < 2; ++i) {
        if (chance(w, 5))
            w->link[i] = any_link(w);
        if (w->cuts && chance(w, 1))
            w->cut_until_ns[i] = now + t_below(&w->random, 2000) * MS;
    }
    if (w->holes && chance(w, 1))
        w->hole_until_ns = now + t_below(&w->random, 1500) * MS;
    if (w->full && chance(w, 3)) {
        kvn_sim_tx_limit_of(w->sim, side->node, t_below(&w->random, 3));
        w->full_until_ns = now + t_below(&w->random, 50) * MS;
    } else if (now >= w->full_until_ns) {
        kvn_sim_tx_limit(w->sim, UINT32_MAX);
    }
    if (w->stalls && chance(w, 2))
        side->stalled_until_ns = now + t_below(&w->random, 700) * MS;
    if (w->restarts && side->net != NULL && chance(w, 1)) {
        close_side(w, side, chance(w, 50));
        side->up_again_ns = now + t_below(&w->random, 100) * MS;
    }
}

static void set_links(struct world *w)
{
    static const struct kvn_sim_link clean = {.delay_ns = 20000};
    const uint64_t now = kvn_sim_now(w->sim);

    for (uint32_t i = 0; i < 2; ++i) {
        struct kvn_sim_link l = w->calm ? clean : w->link[i];

        l.cut = now < w->cut_until_ns[i];
        l.payload_limit = now < w->hole_until_ns ? 1300 : 0;
        kvn_sim_link(w->sim, i, 1 - i, &l);
    }
}

/* --- time --- */

static void poll_side(struct world *w, struct side *side)
{
    uint32_t n = 0;

    if (side->net == NULL && kvn_sim_now(w->sim) >= side->up_again_ns)
        open_side(w, side);
    if (side->net == NULL || side->stalled_until_ns > kvn_sim_now(w->sim))
        return;
    while (kvw_session_poll(side->session, kvn_sim_now(w->sim))) {
        take_events(w, side);
        cr_assert_lt(++n, SPINS_MAX, "seed %lu: node %u always has more to do", w->seed,
                     side->node);
    }
    take_events(w, side);
}

static void run_for(struct world *w, uint64_t ns)
{
    const uint64_t until = kvn_sim_now(w->sim) + ns;

    set_links(w);
    while (kvn_sim_now(w->sim) < until) {
        const uint64_t now = kvn_sim_now(w->sim);
        uint64_t next = until;

        poll_side(w, &w->r);
        poll_side(w, &w->s);
        for (uint32_t i = 0; i < 2; ++i) {
            struct side *side = i == 0 ? &w->r : &w->s;
            uint64_t at =
                side->net == NULL ? side->up_again_ns : kvw_session_deadline_ns(side->session);

            if (side->net != NULL && at < side->stalled_until_ns)
                at = side->stalled_until_ns;
            side->spins = at <= now ? side->spins + 1 : 0;
            cr_assert_lt(side->spins, SPINS_MAX, "seed %lu: node %u's deadline doesn't move",
                         w->seed, side->node);
            next = at < next ? at : next;
        }
        kvn_sim_advance(w->sim, next);
    }
}

/* --- a life --- */

static void begin(struct world *w, uint64_t seed)
{
    static const kvw_dtype dtypes[] = {KVW_DTYPE_F32, KVW_DTYPE_F16, KVW_DTYPE_BF16,
                                       KVW_DTYPE_F8_E4M3};
    static const uint32_t payloads[] = {1452, 4096, 8240, 32816};
    struct t_kv_shape shape;

    memset(w, 0, sizeof(*w));
    w->seed = w->random = seed;
    w->s.node = 1;
    w->sim = kvn_sim_open(seed, payloads[t_below(&w->random, 4)]);
    kvn_sim_sources(w->sim, chance(w, 30) ? 4 : 1);
    shape = (struct t_kv_shape){.layers = 1 + t_below(&w->random, 6),
                                .blocks = BLOCKS_MAX,
                                .block_tokens = 1 + t_below(&w->random, 20),
                                .heads = 1 + t_below(&w->random, 4),
                                .head_dim = 1 + t_below(&w->random, 80),
                                .dtype = dtypes[t_below(&w->random, 4)],
                                .layout = (enum t_kv_layout)t_below(&w->random, T_KV_LAYOUTS)};
    w->r.pool = t_kv_pool(&shape);
    shape.block_tokens = 1 + t_below(&w->random, 20);
    shape.layout = (enum t_kv_layout)t_below(&w->random, T_KV_LAYOUTS);
    w->s.pool = t_kv_pool(&shape);
    for (uint32_t i = 0; i < 2; ++i) {
        w->slots[i] = 1 + t_below(&w->random, 9);
        w->xfers[i] = 1 + t_below(&w->random, 5);
        w->chunk[i] = 4096 + t_below(&w->random, 12000);
        w->link[i] = any_link(w);
    }
    w->lease_ns = (20 + t_below(&w->random, 400)) * MS;
    w->lossy = chance(w, 60);
    w->late = chance(w, 50);
    w->narrow = chance(w, 50);
    w->cuts = chance(w, 40);
    w->holes = chance(w, 30);
    w->restarts = chance(w, 50);
    w->stalls = chance(w, 40);
    w->full = chance(w, 30);
    open_side(w, &w->r);
    open_side(w, &w->s);
}

static uint32_t open_parts(const struct world *w)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < JOBS; ++i)
        n += w->r.parts[i].open + w->s.parts[i].open;
    return n;
}

/* The faults are over: what is open ends, both sides see each other, and KV moves. */
static void expect_progress(struct world *w)
{
    w->calm = true;
    w->cut_until_ns[0] = w->cut_until_ns[1] = w->hole_until_ns = 0;
    w->r.stalled_until_ns = w->s.stalled_until_ns = 0;
    kvn_sim_tx_limit(w->sim, UINT32_MAX);
    for (uint32_t i = 0; i < 2500 && open_parts(w) > 0; ++i) {
        act(w);
        run_for(w, 2 * MS);
    }
    cr_assert_eq(open_parts(w), 0, "seed %lu: a transfer never ended", w->seed);
    run_for(w, 3 * S);
    cr_assert(kvw_session_peer_up(w->r.session) && kvw_session_peer_up(w->s.session),
              "seed %lu: the peers don't find each other", w->seed);
    for (uint64_t id = IDS + 1; id <= IDS + 3; ++id) {
        offer(w, id, 0, 0);
        stream(w, id, 0, 0);
        for (uint32_t i = 0; i < 500 && open_parts(w) > 0; ++i) {
            act(w);
            run_for(w, 2 * MS);
        }
        cr_assert(w->r.ok[id] == 1 && w->s.ok[id] == 1,
                  "seed %lu: the faults have stopped, but transfer %lu ended well %u, %u times",
                  w->seed, id, w->r.ok[id], w->s.ok[id]);
    }
}

static void live(uint64_t seed, uint64_t *ok, uint64_t *failed, uint64_t *lost)
{
    static struct world w;

    begin(&w, seed);
    for (uint32_t i = 0; i < STEPS; ++i) {
        weather(&w);
        act(&w);
        run_for(&w, t_below(&w.random, 8000) * 1000ull);
    }
    expect_progress(&w);
    for (uint32_t b = 0; b < w.r.pool.blocks; ++b)
        cr_assert(t_kv_block_is_zero(&w.r.pool, b),
                  "seed %lu: block %u was written after it was given back", seed, b);
    close_side(&w, &w.r, false);
    close_side(&w, &w.s, false);
    kvn_sim_close(w.sim);
    t_kv_free(&w.r.pool);
    t_kv_free(&w.s.pool);
    for (uint32_t id = 1; id <= IDS; ++id)
        *ok += w.r.ok[id];
    *failed += w.r.failed;
    *lost += w.r.lost + w.s.lost;
}

static void lives(uint64_t first)
{
    const char *one = getenv("KVN_SIM_SEED"), *many = getenv("KVN_SIM_SEEDS");
    const uint64_t last = many != NULL ? strtoull(many, NULL, 0) : SEEDS;
    uint64_t ok = 0, failed = 0, lost = 0, n = 0;

    if (one != NULL) {
        live(strtoull(one, NULL, 0), &ok, &failed, &lost);
        return;
    }
    for (uint64_t seed = first; seed <= last; seed += 2, ++n)
        live(seed, &ok, &failed, &lost);
    printf("# %lu lives: %lu transfers ended well, %lu otherwise; peers lost %lu times\n", n, ok,
           failed, lost);
    /* All of it happens, or the test tests nothing. */
    cr_expect(ok > n && failed > n && 4 * lost > n);
}

Test(sessions, odd_lives, .timeout = 3600)
{
    lives(1);
}

Test(sessions, even_lives, .timeout = 3600)
{
    lives(2);
}
