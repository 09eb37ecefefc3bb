/* SPDX-License-Identifier: Apache-2.0 */
/* Whichever step of opening a core or a node fails, and whichever allocation of what is done with
 * it, everything taken before is given back, and what was there goes on. */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "../../compress/compress.h"
#include "../../kvwire/node.h"
#include "../kvwire/core/dense.h"
#include "../kvwire/fake.h"

static int64_t live;       /* allocations that haven't been freed */
static uint32_t countdown; /* the how manieth from now fails; 0: none */
static bool fail_thread, fail_eventfd;

void *__real_malloc(size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__real_calloc(size_t n, size_t bytes);
void *__wrap_calloc(size_t n, size_t bytes);
void *__real_aligned_alloc(size_t align, size_t bytes);
void *__wrap_aligned_alloc(size_t align, size_t bytes);
void __real_free(void *p);
void __wrap_free(void *p);
int __real_eventfd(unsigned count, int flags);
int __wrap_eventfd(unsigned count, int flags);
int __real_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*run)(void *), void *arg);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*run)(void *), void *arg);

static bool fails(void)
{
    return countdown > 0 && --countdown == 0;
}

static void *counted(void *p)
{
    __atomic_add_fetch(&live, p != NULL, __ATOMIC_RELAXED);
    return p;
}

void *__wrap_malloc(size_t bytes)
{
    return fails() ? NULL : counted(__real_malloc(bytes));
}

void *__wrap_calloc(size_t n, size_t bytes)
{
    return fails() ? NULL : counted(__real_calloc(n, bytes));
}

void *__wrap_aligned_alloc(size_t align, size_t bytes)
{
    return fails() ? NULL : counted(__real_aligned_alloc(align, bytes));
}

void __wrap_free(void *p)
{
    __atomic_sub_fetch(&live, p != NULL, __ATOMIC_RELAXED);
    __real_free(p);
}

int __wrap_eventfd(unsigned count, int flags)
{
    static uint32_t calls;

    if (fail_eventfd && ++calls % 2 == 0) { /* the second of the two */
        errno = EMFILE;
        return -1;
    }
    return __real_eventfd(count, flags);
}

int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*run)(void *), void *arg)
{
    return fail_thread ? EAGAIN : __real_pthread_create(t, a, run, arg);
}

Test(core_unwind, every_step_of_open)
{
    static struct fake f;
    struct kvw_core_path path = {.name = "fake", .transport = &f.transport, .listen = 1};
    const struct kvw_core_config cfg = {.size = sizeof(cfg),
                                        .path_count = 1,
                                        .paths = &path,
                                        .instance = 9,
                                        .codecs = kvc_codecs,
                                        .encoders = 1,
                                        .slots = 4,
                                        .stages = 4,
                                        .peers_max = 4,
                                        .xfers_max = 4};
    struct kvw_core *const untouched = (struct kvw_core *)(void *)&f;
    struct kvw_core *core = untouched;
    const int64_t before = live;
    uint32_t step = 1;

    fake_init(&f);
    for (;; ++step) {
        countdown = step;
        if (kvw_core_open(&core, &cfg, 1, NULL) == KVW_OK)
            break;
        cr_assert_eq(core, untouched);
        cr_expect_eq(live, before, "step %u leaks", step);
        cr_expect_eq(f.regions + f.sources, 0, "step %u leaves memory registered", step);
    }
    countdown = 0;
    cr_expect_geq(step, 4);
    kvw_core_close(core, 2);
    f.fail_region_add = KVW_E_NOMEM;
    cr_expect_eq(kvw_core_open(&core, &cfg, 1, NULL), KVW_E_NOMEM);
    f.fail_region_add = KVW_OK;
    f.fail_listen = KVW_E_ADDRESS;
    cr_expect_eq(kvw_core_open(&core, &cfg, 1, NULL), KVW_E_ADDRESS);
    f.fail_listen = KVW_OK;
    fail_thread = true;
    cr_expect_eq(kvw_core_open(&core, &cfg, 1, NULL), KVW_E_NOMEM);
    fail_thread = false;
    cr_expect_eq(live, before);
    cr_expect_eq(f.regions + f.sources, 0);
    fake_free(&f);
}

static struct t_cores c;

/* Node 0 offers to two sources; the nth allocation fails. */
static kvw_err offer(uint32_t nth, kvw_xfer_ref *x)
{
    static const uint32_t ids[T_DENSE_BLOCKS] = {0, 1, 2, 3};
    const struct kvw_group_blocks b = {0, T_DENSE_BLOCKS, ids, 0, 0, 60};
    const kvw_peer_id sources[2] = {t_core_peer(&c, 0, 1), t_core_peer(&c, 0, 2)};
    const struct kvw_offer_args args = {.size = sizeof(args),
                                        .pool = c.node[0].pool,
                                        .key = kvw_key_of("x"),
                                        .tokens = 60,
                                        .group_count = 1,
                                        .groups = &b,
                                        .sources = sources,
                                        .source_count = 2};
    char why[257] = "";
    kvw_err err;

    countdown = nth;
    err = kvw_core_offer(c.node[0].core, &args, t_cores_now(&c), x, why, sizeof(why));
    countdown = 0;
    cr_expect(err == KVW_OK || why[0] != '\0');
    return err;
}

Test(core_unwind, pools_peers_offers_and_streams)
{
    struct kvw_peer_info info = {.size = sizeof(info)};
    int64_t before;
    uint32_t step = 1;
    kvw_peer_id peer;
    kvw_pool_id pool;
    kvw_xfer_ref x, s[2];
    char why[200];

    t_dense_begin(&c, 3, NULL);
    t_core_join(&c, 1, 0);
    t_core_join(&c, 2, 0);
    before = live;
    for (countdown = 1; kvw_core_pool_add(c.node[0].core, &c.node[0].state.desc, &pool, why,
                                          sizeof(why)) != KVW_OK;
         countdown = ++step)
        cr_expect_eq(live, before, "pool, step %u", step);
    countdown = 0;
    cr_expect_eq(step, 4, "layout, place, message: %u", step);
    cr_assert_eq(kvw_core_pool_remove(c.node[0].core, pool, t_cores_now(&c)), KVW_OK);
    cr_expect_eq(live, before);
    countdown = 1;
    cr_expect_eq(kvw_core_peer_add(c.node[0].core, 0, "10.0.0.9:9000", t_cores_now(&c), &peer),
                 KVW_E_NOMEM);
    countdown = 0;
    cr_expect_eq(live, before);
    for (step = 1; offer(step, &x) != KVW_OK; ++step) {
        cr_expect_eq(live, before, "offer, step %u", step);
        t_cores_run(&c, T_MS);
        for (uint32_t i = 1; i < 3; ++i) {
            cr_assert_eq(kvw_core_peer_info(c.node[0].core, t_core_peer(&c, 0, i), &info), KVW_OK);
            cr_expect_eq(info.xfers, 0, "offer, step %u: node %u has a flow", step, i);
        }
    }
    cr_expect_eq(step, 5, "transfer, spans, two flows: %u", step);
    for (uint32_t i = 0; i < 2; ++i) {
        s[i] = t_dense_stream(&c, 1 + i, "x", 60, 0, 1, 0);
        t_dense_push(&c, 1 + i, s[i], "x", 60, 0);
    }
    t_cores_run(&c, 5 * T_MS);
    t_core_expect_done(&c.node[0], x, KVW_OK);
    cr_expect(t_dense_is(&c, 0, "x", 60, 0));
    /* An OFFER that finds no memory is refused, its peer stays. */
    x = t_dense_offer(&c, 0, 1, "y", 60, 0, NULL);
    countdown = 1;
    t_cores_run(&c, 5 * T_MS);
    countdown = 0;
    t_core_expect_done(&c.node[0], x, KVW_E_NOMEM);
    cr_expect_eq(c.node[0].lost + c.node[1].lost, 0);
    t_cores_end(&c);
}

Test(core_unwind, every_step_of_a_nodes_open)
{
    const struct kvw_node_config cfg = {.size = sizeof(cfg),
                                        .name = "n",
                                        .transport = "udp",
                                        .local = "127.0.0.1:0",
                                        .peers_max = 4,
                                        .xfers_max = 4,
                                        .slots = 4,
                                        .stages = 4};
    struct kvw_node *n = NULL;
    char why[257] = "";
    int64_t before;
    uint32_t step = 1;

    cr_assert_eq(kvw_node_open(&n, &cfg, why, sizeof(why)), KVW_OK, "%s", why);
    kvw_node_close(n);
    n = NULL;
    before = live; /* what is taken once a process is there */
    for (;; ++step) {
        countdown = step;
        if (kvw_node_open(&n, &cfg, why, sizeof(why)) == KVW_OK)
            break;
        cr_assert_null(n);
        cr_expect_eq(live, before, "step %u leaks", step);
    }
    countdown = 0;
    kvw_node_close(n);
    n = NULL;
    cr_expect_geq(step, 6);
    fail_eventfd = true;
    cr_expect_eq(kvw_node_open(&n, &cfg, why, sizeof(why)), KVW_E_IO);
    fail_eventfd = false;
    fail_thread = true;
    cr_expect_eq(kvw_node_open(&n, &cfg, why, sizeof(why)), KVW_E_NOMEM);
    fail_thread = false;
    cr_expect_eq(live, before);
    cr_expect_null(n);
}
