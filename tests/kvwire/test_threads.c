/* SPDX-License-Identifier: Apache-2.0 */
/* Two sessions, each in a thread of its own that sleeps when it has nothing to do, move transfers
 * to and fro over loop; nobody is forgotten asleep. Real clock. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "../../compress/compress.h"
#include "../../kvwire/kvwire.h"
#include "../../net/net.h"
#include "kv.h"

#define XFERS  60u
#define TOKENS 100u

static const uint32_t blocks[] = {6, 1, 4, 0, 2, 5, 3};

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

struct end {
    kvw_role role;
    uint32_t ok;
    uint64_t polls;
    kvw_err err;
};

static void work(struct end *e, struct kvw_session *s, struct kvw_transport *net,
                 struct kvw_pool *pool)
{
    const struct kvw_blocks b = {blocks, 7, TOKENS};
    const uint64_t until = now_ns() + 20000000000ull;
    uint64_t begun = 0;
    struct kvw_event ev;

    while (e->ok < XFERS && now_ns() < until && e->err == KVW_OK) {
        if (begun == e->ok && e->role == KVW_ROLE_RECEIVER) {
            e->err = kvw_offer(s, (kvw_xfer_id){++begun}, &b, NULL, now_ns());
        } else if (begun == e->ok) {
            t_kv_fill(pool, blocks, TOKENS, ++begun);
            e->err = kvw_stream_open(s, (kvw_xfer_id){begun}, &b, 0, 0, now_ns());
            for (uint32_t l = 0; l < pool->layers && e->err == KVW_OK; ++l)
                e->err = kvw_push_layer(s, (kvw_xfer_id){begun}, l, TOKENS, NULL);
            if (e->err == KVW_OK)
                e->err = kvw_commit(s, (kvw_xfer_id){begun}, NULL, 0);
        }
        while (kvw_session_poll(s, now_ns()))
            ++e->polls;
        ++e->polls;
        while (kvw_session_next_event(s, &ev)) {
            if (ev.kind != KVW_EV_XFER_DONE)
                continue;
            e->err = ev.err;
            if (e->role == KVW_ROLE_RECEIVER && !t_kv_is(pool, blocks, TOKENS, ev.xfer.value))
                e->err = KVW_E_CHECKSUM;
            ++e->ok;
        }
        if (e->ok == begun)
            continue;
        net->ops->wait(net, kvw_session_deadline_ns(s) < until ? kvw_session_deadline_ns(s) : until,
                       -1);
    }
    /* The other side must get our last message: stay until it hangs up, or a while. */
    while (kvw_session_peer_up(s) && e->role == KVW_ROLE_RECEIVER && now_ns() < until) {
        kvw_session_poll(s, now_ns());
        net->ops->wait(net, now_ns() + 1000000, -1);
    }
}

static void *run(void *arg)
{
    struct end *e = arg;
    const struct t_kv_shape shape = {4,
                                     7,
                                     16,
                                     2,
                                     64,
                                     KVW_DTYPE_F16,
                                     e->role == KVW_ROLE_SENDER ? T_KV_NHD_SPLIT : T_KV_HND_PACKED};
    const struct kvn_config cfg = {.local = "threads", .listener = e->role == KVW_ROLE_RECEIVER};
    struct kvw_pool pool = t_kv_pool(&shape);
    struct kvw_session_config sc = {.size = sizeof(sc),
                                    .role = e->role,
                                    .pool = pool,
                                    .codecs = kvc_codecs,
                                    .chunk_raw_bytes = 8192};
    struct kvw_session *s;
    char why[KVN_WHY_BYTES];

    if ((e->err = kvn_open(&sc.transport, "loop", &cfg, why)) != KVW_OK)
        return NULL;
    if ((e->err = kvw_session_open(&s, &sc, now_ns(), NULL)) == KVW_OK) {
        work(e, s, sc.transport, &pool);
        kvw_session_close(s, now_ns());
    }
    sc.transport->ops->close(sc.transport);
    t_kv_free(&pool);
    return NULL;
}

Test(threads, each_side_sleeps_and_wakes, .timeout = 60)
{
    struct end r = {.role = KVW_ROLE_RECEIVER}, s = {.role = KVW_ROLE_SENDER};
    pthread_t rt, st;

    cr_assert_eq(pthread_create(&rt, NULL, run, &r), 0);
    cr_assert_eq(pthread_create(&st, NULL, run, &s), 0);
    pthread_join(st, NULL);
    pthread_join(rt, NULL);
    cr_expect_eq(r.err, KVW_OK, "%s", kvw_strerror(r.err));
    cr_expect_eq(s.err, KVW_OK, "%s", kvw_strerror(s.err));
    cr_expect_eq(r.ok, XFERS);
    cr_expect_eq(s.ok, XFERS);
    cr_expect_lt(r.polls, 200 * XFERS, "busy: %lu polls", r.polls);
    cr_expect_lt(s.polls, 200 * XFERS, "busy: %lu polls", s.polls);
}
