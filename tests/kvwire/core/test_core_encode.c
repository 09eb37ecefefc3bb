/* SPDX-License-Identifier: Apache-2.0 */
/* Encoders on threads of their own change nothing but who waits: the same bytes arrive, in the same
 * order; a transfer that ends takes its jobs back first, so that its blocks are free at once; with
 * encoders that are behind, raw goes out; a poll is never held up by a codec. The same threads
 * decode what has landed. And what a budget,
 * exact tokens, a wire that stays on one host and marks that aren't ready yet do. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../../../kvwire/peer/core_state.h"
#include "../../../net/net.h"
#include "../toy.h"
#include "state.h"

#define MS      1000000ull
#define WAIT_NS 30000000000ull /* for what other threads do; only a fault waits so long */
#define TOKENS  100u
#define LAYERS  3u

struct side {
    struct kvw_transport *t;
    struct kvw_core *core;
    struct t_state state;
    kvw_pool_id pool;
    kvw_peer_id peer; /* the other one; 0: not up */
    kvw_xfer_ref xfer;
    struct kvw_core_event done;
    uint32_t dones;
};

static struct side d, p;
static uint32_t decoders; /* threads of d's */
static uint64_t now;
static _Atomic uint32_t wakes;
static const uint32_t blocks[8] = {0, 1, 2, 3, 4, 5, 6, 7};

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void wake(void *arg)
{
    (void)arg;
    ++wakes;
}

static void open_side(struct side *s, bool listen, uint32_t encoders, uint32_t codec, bool one_host)
{
    const struct kvn_config net = {.local = "encode", .listener = listen};
    struct kvw_core_path path = {.name = "loop", .listen = listen};
    const struct kvw_core_config cfg = {.size = sizeof(cfg),
                                        .path_count = 1,
                                        .paths = &path,
                                        .instance = listen ? 77 : 78,
                                        .codecs = toy_codecs,
                                        .codec = codec,
                                        .encoders = encoders,
                                        .clock = toy_clock,
                                        .wake = wake,
                                        .chunk_raw_bytes = 4096};
    char why[KVN_WHY_BYTES] = "";

    memset(s, 0, sizeof(*s));
    cr_assert_eq(kvn_open(&s->t, "loop", &net, why), KVW_OK, "%s", why);
    s->t->one_host = one_host;
    path.transport = s->t;
    cr_assert_eq(kvw_core_open(&s->core, &cfg, now, NULL), KVW_OK);
    t_state_dense(&s->state, LAYERS, 2, 128, KVW_DTYPE_BF16, 16, 8);
    t_state_make(&s->state);
    cr_assert_eq(kvw_core_pool_add(s->core, &s->state.desc, &s->pool, why, sizeof(why)), KVW_OK,
                 "%s", why);
}

static void poll_side(struct side *s)
{
    struct kvw_core_event ev = {.size = sizeof(ev)};

    (void)kvw_core_poll(s->core, now);
    while (kvw_core_next_event(s->core, &ev)) {
        if (ev.kind == KVW_CEV_PEER_UP)
            s->peer = ev.peer;
        if (ev.kind == KVW_CEV_XFER_DONE) {
            s->done = ev;
            ++s->dones;
        }
    }
}

static void turns(uint32_t n)
{
    while (n-- > 0) {
        poll_side(&p);
        poll_side(&d);
        now += 10000;
    }
}

static void up(uint32_t encoders, uint32_t codec, bool one_host)
{
    kvw_peer_id id;

    now = 1000 * MS;
    wakes = 0;
    open_side(&d, true, decoders, 0, one_host);
    open_side(&p, false, encoders, codec, one_host);
    cr_assert_eq(kvw_core_peer_add(p.core, 0, NULL, now, &id), KVW_OK);
    turns(100);
    cr_assert(d.peer.value != 0 && p.peer.value == id.value);
}

static void down(void)
{
    kvw_core_close(p.core, now);
    kvw_core_close(d.core, now);
    p.t->ops->close(p.t);
    d.t->ops->close(d.t);
    t_state_free(&p.state);
    t_state_free(&d.state);
}

static uint32_t stream_codec; /* of the streams that follow; 0: the node's */

/* Offer and stream number n. */
static void open_xfer(uint32_t n, const struct kvw_offer_terms *terms)
{
    const struct kvw_group_blocks want = {0, 7, blocks, 0, 0, TOKENS},
                                  have = {0, 7, blocks, 0, 0, 0};
    char key[16], why[257] = "";

    snprintf(key, sizeof(key), "%u", n);
    const struct kvw_offer_args offer = {.size = sizeof(offer),
                                         .pool = d.pool,
                                         .key = kvw_key_of(key),
                                         .tokens = TOKENS,
                                         .group_count = 1,
                                         .groups = &want,
                                         .sources = &d.peer,
                                         .source_count = 1,
                                         .terms = terms};
    const struct kvw_stream_args stream = {.size = sizeof(stream),
                                           .pool = p.pool,
                                           .key = kvw_key_of(key),
                                           .tokens = TOKENS,
                                           .group_count = 1,
                                           .groups = &have,
                                           .codec = stream_codec};

    t_state_fill(&p.state, 0, blocks, 0, 0, TOKENS, n);
    cr_assert_eq(kvw_core_offer(d.core, &offer, now, &d.xfer, why, sizeof(why)), KVW_OK, "%s", why);
    cr_assert_eq(kvw_core_stream(p.core, &stream, now, &p.xfer, why, sizeof(why)), KVW_OK, "%s",
                 why);
    turns(20);
}

static void push_all(void)
{
    for (uint32_t l = 0; l < LAYERS; ++l)
        cr_assert_eq(kvw_core_push(p.core, p.xfer, l, TOKENS, NULL), KVW_OK);
}

static void run_to_end(kvw_err err)
{
    const uint64_t end = now_ns() + WAIT_NS;
    const uint32_t ds = d.dones, ps = p.dones;

    while ((d.dones == ds || p.dones == ps) && now_ns() < end) {
        turns(1);
        usleep(100);
    }
    cr_assert(d.dones == ds + 1 && p.dones == ps + 1, "it never ended");
    cr_expect(d.done.err == err && p.done.err == err, "%s | %s", d.done.text, p.done.text);
}

static void whole_transfer(uint32_t n, const struct kvw_offer_terms *terms)
{
    open_xfer(n, terms);
    push_all();
    cr_assert_eq(kvw_core_commit(p.core, p.xfer, NULL, 0), KVW_OK);
    run_to_end(KVW_OK);
}

Test(core_encode, threads_deliver_the_same_bytes)
{
    up(3, TOY_WHOLE_ID, false);
    for (uint32_t n = 1; n <= 50; ++n) {
        whole_transfer(n, NULL);
        cr_expect(t_state_is(&d.state, 0, blocks, 0, 0, TOKENS, n));
        cr_expect_eq(p.done.codec_chunks[TOY_WHOLE_ID], p.done.chunks);
        cr_expect_eq(d.done.codec_chunks[TOY_WHOLE_ID], p.done.chunks);
    }
    cr_expect_gt(wakes, 0);
    down();
}

Test(core_encode, a_stream_may_name_its_codec)
{
    static const uint32_t names[] = {0, TOY_WHOLE_ID, KVW_CODEC_RAW, TOY_WHOLE_ID, 0};
    struct kvw_peer_info info = {.size = sizeof(info)};

    up(0, KVW_CODEC_RAW, false);
    for (uint32_t n = 0; n < 5; ++n) {
        const uint32_t used = names[n] != 0 ? names[n] : KVW_CODEC_RAW;

        stream_codec = names[n];
        whole_transfer(n + 1, NULL);
        cr_expect(t_state_is(&d.state, 0, blocks, 0, 0, TOKENS, n + 1));
        cr_expect_eq(p.done.codec_chunks[used], p.done.chunks, "stream %u", n);
    }
    down();
    up(0, 0, false); /* a node that chooses: not for a stream that names one */
    stream_codec = TOY_WHOLE_ID;
    whole_transfer(9, NULL);
    cr_expect_eq(p.done.codec_chunks[TOY_WHOLE_ID], p.done.chunks);
    cr_assert_eq(kvw_core_peer_info(p.core, p.peer, &info), KVW_OK);
    cr_expect(strstr(info.why, "named by the caller") != NULL, "%s", info.why);
    down();
}

static _Atomic pid_t aborting; /* the thread that is about to call kvw_core_abort() */

/* 'S' while that thread waits in the kernel. */
static char state_of(pid_t thread)
{
    char path[64], line[512];
    FILE *f;

    snprintf(path, sizeof(path), "/proc/self/task/%d/stat", (int)thread);
    f = fopen(path, "r");
    if (f == NULL)
        return '?';
    const size_t n = fread(line, 1, sizeof(line) - 1, f);
    fclose(f);
    line[n] = '\0';
    const char *end = strrchr(line, ')'); /* of the thread's name */
    return end != NULL && end[1] == ' ' ? end[2] : '?';
}

/* Let the encoders go once kvw_core_abort() waits for them, however long that takes. */
static void *let_go(void *arg)
{
    const uint64_t end = now_ns() + WAIT_NS;

    while ((aborting == 0 || state_of(aborting) != 'S') && now_ns() < end)
        usleep(200);
    toy_hold = false;
    return arg;
}

Test(core_encode, a_transfer_that_ends_takes_its_jobs_back)
{
    pthread_t later;

    up(2, TOY_WHOLE_ID, false);
    open_xfer(1, NULL);
    toy_hold = true;
    push_all();
    poll_side(&p);
    while (toy_inside < 2)
        usleep(200);
    /* Two encoders hold two jobs, others are queued. abort waits for the two alone. */
    cr_assert_eq(pthread_create(&later, NULL, let_go, NULL), 0);
    aborting = gettid();
    cr_assert_eq(kvw_core_abort(p.core, p.xfer, NULL), KVW_OK);
    cr_expect_eq(toy_inside, 0, "a block is still being read");
    cr_expect_leq(toy_encodes, 2, "a job that had not begun was not taken back");
    pthread_join(later, NULL);
    run_to_end(KVW_E_CANCELED);
    whole_transfer(2, NULL); /* and the core lives */
    cr_expect(t_state_is(&d.state, 0, blocks, 0, 0, TOKENS, 2));
    down();
}

static struct kvw_peer *peer_of(struct side *s)
{
    return kvw_core_peer(s->core, s->peer);
}

Test(core_encode, poll_does_not_wait_for_a_codec)
{
    const struct kvw_offer_terms lossy = {.size = sizeof(lossy), .budget = KVW_BUDGET_E8};
    struct kvw_core_stats stats = {.size = sizeof(stats)}, before = {.size = sizeof(before)};

    up(1, 0, false);
    whole_transfer(1, &lossy);             /* raw goes first, until wire and codecs are known */
    peer_of(&p)->rate.bytes_per_ns = 1e-6; /* so slow that no codec costs anything beside it */
    open_xfer(2, &lossy);
    kvw_core_stats(p.core, &before);
    toy_hold = true;
    push_all();
    for (int i = 0; i < 10; ++i)
        poll_side(&p); /* returns, or this test runs into its time limit */
    kvw_core_stats(p.core, &stats);
    cr_expect_eq(stats.chunks_sent, before.chunks_sent);
    cr_expect_gt(stats.encoder_stalls, 0, "raw goes out when encoders are behind");
    toy_hold = false;
    cr_assert_eq(kvw_core_commit(p.core, p.xfer, NULL, 0), KVW_OK);
    run_to_end(KVW_OK);
    down();
}

Test(core_encode, close_with_jobs_under_way)
{
    up(2, TOY_WHOLE_ID, false);
    open_xfer(1, NULL);
    push_all();
    poll_side(&p);
    down();
}

Test(core_encode, threads_decode_the_same_bytes)
{
    decoders = 3;
    up(0, TOY_WHOLE_ID, false);
    for (uint32_t n = 1; n <= 20; ++n) {
        whole_transfer(n, NULL);
        cr_expect(t_state_is(&d.state, 0, blocks, 0, 0, TOKENS, n));
        cr_expect_eq(d.done.codec_chunks[TOY_WHOLE_ID], p.done.chunks);
    }
    cr_expect_gt(wakes, 0, "who decodes wakes the core");
    down();
}

/* Chunks of a transfer have landed at d, whose threads hold still. */
static void land_and_hold(void)
{
    open_xfer(1, NULL);
    push_all();
    for (int i = 0; i < 5; ++i)
        poll_side(&p);
    toy_hold = true;
    for (int i = 0; i < 10; ++i)
        poll_side(&d); /* returns, or this test runs into its time limit */
    while (toy_inside < decoders)
        usleep(200);
}

Test(core_encode, poll_does_not_wait_for_a_decode)
{
    struct kvw_core_stats stats = {.size = sizeof(stats)};

    decoders = 2;
    up(0, TOY_WHOLE_ID, false);
    land_and_hold();
    kvw_core_stats(d.core, &stats);
    cr_expect_eq(stats.chunks_landed, 0);
    cr_expect_not(kvw_core_layer_ready(d.core, d.xfer, 0));
    toy_hold = false;
    cr_assert_eq(kvw_core_commit(p.core, p.xfer, NULL, 0), KVW_OK);
    run_to_end(KVW_OK);
    cr_expect(t_state_is(&d.state, 0, blocks, 0, 0, TOKENS, 1));
    down();
}

Test(core_encode, an_offer_that_ends_takes_its_decodes_back)
{
    pthread_t later;

    decoders = 2;
    up(0, TOY_WHOLE_ID, false);
    land_and_hold();
    cr_assert_eq(pthread_create(&later, NULL, let_go, NULL), 0);
    aborting = gettid();
    cr_assert_eq(kvw_core_abort(d.core, d.xfer, NULL), KVW_OK);
    cr_expect_eq(toy_inside, 0, "a block is still being written");
    pthread_join(later, NULL);
    run_to_end(KVW_E_CANCELED);
    whole_transfer(2, NULL); /* and the core lives */
    cr_expect(t_state_is(&d.state, 0, blocks, 0, 0, TOKENS, 2));
    down();
}

/* Whether an entry of both sides is the same, in all layers, K and V. */
static bool token_is(uint32_t t)
{
    return t_state_is(&d.state, 0, blocks, 0, t, t + 1, 2);
}

/* What a budget allows, and that the newest tokens and the sinks come back whole. */
Test(core_encode, budget_and_exact_tokens)
{
    const struct kvw_offer_terms lossy = {
        .size = sizeof(lossy), .budget = KVW_BUDGET_E8, .exact_first = 2, .exact_last = 5};

    up(0, TOY_HALF_ID, false);
    whole_transfer(1, NULL);
    cr_expect_eq(p.done.codec_chunks[TOY_HALF_ID], 0, "an exact offer got a lossy codec");
    cr_expect_eq(p.done.codec_chunks[KVW_CODEC_RAW], p.done.chunks);
    cr_expect(t_state_is(&d.state, 0, blocks, 0, 0, TOKENS, 1));
    whole_transfer(2, &lossy);
    cr_expect_gt(p.done.codec_chunks[TOY_HALF_ID], 0);
    for (uint32_t t = 0; t < TOKENS; ++t)
        cr_expect_eq(token_is(t), t < 2 || t >= TOKENS - 5, "token %u", t);
    down();
}

/* Counts the chunks that weren't raw in ten transfers; the other codecs cost next to nothing. */
static uint32_t chunks_encoded(bool one_host)
{
    uint32_t encoded = 0;

    toy_encode_ps = toy_decode_ps = 1;
    up(0, 0, one_host);
    for (uint32_t n = 1; n <= 10; ++n) {
        now += MS;
        whole_transfer(n, NULL);
        encoded += p.done.chunks - p.done.codec_chunks[KVW_CODEC_RAW];
    }
    down();
    return encoded;
}

Test(core_encode, a_wire_that_stays_on_one_host_carries_raw)
{
    cr_expect_gt(chunks_encoded(false), 0);
    cr_expect_eq(chunks_encoded(true), 0);
}

static kvw_err answer;

static kvw_err ask(void *arg)
{
    ++*(uint32_t *)arg;
    return answer;
}

Test(core_encode, marks_that_become_ready)
{
    uint32_t asked = 0;
    const struct kvw_ready ready = {.query = ask, .arg = &asked};
    struct kvw_core_stats stats = {.size = sizeof(stats)};

    up(0, KVW_CODEC_RAW, false);
    open_xfer(1, NULL);
    answer = KVW_E_AGAIN;
    for (uint32_t l = 0; l < LAYERS; ++l)
        for (uint32_t tokens = 25; tokens <= TOKENS; tokens += 25)
            cr_assert_eq(kvw_core_push(p.core, p.xfer, l, tokens, &ready), KVW_OK);
    cr_assert_eq(kvw_core_commit(p.core, p.xfer, NULL, 0), KVW_OK, "all is promised");
    turns(50);
    kvw_core_stats(p.core, &stats);
    cr_expect_eq(stats.chunks_sent, 0, "before it was ready");
    cr_expect_gt(asked, LAYERS, "it is asked again");
    cr_expect_leq(kvw_core_deadline_ns(p.core), now + MS / 5, "who sleeps until then asks, too");
    answer = KVW_OK;
    run_to_end(KVW_OK);
    cr_expect(t_state_is(&d.state, 0, blocks, 0, 0, TOKENS, 1));

    open_xfer(2, NULL);
    answer = KVW_E_AGAIN;
    for (uint32_t tokens = 1; tokens <= 4; ++tokens)
        cr_assert_eq(kvw_core_push(p.core, p.xfer, 1, tokens, &ready), KVW_OK);
    cr_expect_eq(kvw_core_push(p.core, p.xfer, 1, 5, &ready), KVW_E_AGAIN, "four are pending");
    answer = KVW_E_DEVICE;
    run_to_end(KVW_E_DEVICE);
    cr_expect(strstr(p.done.text, "layer 1 will never be ready") != NULL, "%s", p.done.text);
    down();
}
