/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stand-in keeps CUDA's order and no other: within a stream, and behind events that a stream
 * waits for. Work is late; a wait that was forgotten shows.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake_ask.h"

#define WORDS 200u

struct bench {
    struct t_gpu g;
    struct kvg_pool pool;
    struct kvg_pinned pinned;
    kvg_stream compute, side;
    kvg_event ready, done;
    kvg_library library;
    kvg_kernel step;
};

static void begin(struct bench *b, unsigned seed)
{
    const struct kvg_driver *d = &b->g.driver;
    char text[256] = "";

    snprintf(text, sizeof(text), "%u", seed);
    setenv("FAKECUDA_SEED", text, 1);
    t_gpu_open(&b->g);
    cr_assert_eq(kvg_pool_open(&b->pool, &b->g.dev, WORDS * 4, text, sizeof(text)), KVW_OK);
    cr_assert_eq(kvg_pinned_open(&b->pinned, &b->g.dev, WORDS * 4, text, sizeof(text)), KVW_OK);
    cr_assert_eq(d->stream_create(&b->compute, KVG_CU_STREAM_NON_BLOCKING, 0), 0);
    cr_assert_eq(d->stream_create(&b->side, KVG_CU_STREAM_NON_BLOCKING, 0), 0);
    cr_assert_eq(d->event_create(&b->ready, KVG_CU_EVENT_DISABLE_TIMING), 0);
    cr_assert_eq(d->event_create(&b->done, KVG_CU_EVENT_DISABLE_TIMING), 0);
    cr_assert_eq(d->library_load(&b->library, FAKECUDA_IMAGE, NULL, NULL, 0, NULL, NULL, 0), 0);
    cr_assert_eq(d->library_kernel(&b->step, b->library, "kvt_step"), 0);
}

static void end(struct bench *b)
{
    const struct kvg_driver *d = &b->g.driver;

    cr_expect_eq(d->event_destroy(b->ready), 0);
    cr_expect_eq(d->event_destroy(b->done), 0);
    cr_expect_eq(d->stream_destroy(b->compute), 0);
    cr_expect_eq(d->stream_destroy(b->side), 0);
    cr_expect_eq(d->library_unload(b->library), 0);
    kvg_pinned_close(&b->pinned);
    kvg_pool_close(&b->pool);
    t_gpu_close(&b->g);
}

static void launch(struct bench *b, kvg_stream stream, uint32_t by)
{
    const struct kvg_launch config = {.grid_x = 2,
                                      .grid_y = 1,
                                      .grid_z = 1,
                                      .block_x = 128,
                                      .block_y = 1,
                                      .block_z = 1,
                                      .stream = stream};
    uint32_t *words = b->pool.mem.base, count = WORDS;
    void *params[] = {&words, &count, &by};

    cr_assert_eq(b->g.driver.launch(&config, b->step, params, NULL), 0);
    by = 0; /* the arguments were copied */
}

/* Kernels on one stream, the copy on the other behind an event. Whether the words were right. */
static bool run(unsigned seed, bool waits, unsigned *polls)
{
    const struct kvg_driver *d;
    kvg_result r;
    bool right = true;
    struct bench b;

    begin(&b, seed);
    d = &b.g.driver;

    const kvg_devptr at = (kvg_devptr)(uintptr_t)b.pool.mem.base;
    const uint32_t *words = b.pinned.mem.base;

    cr_assert_eq(d->fill(at, 0, WORDS * 4, b.compute), 0);
    launch(&b, b.compute, 1);
    launch(&b, b.compute, 3);
    cr_assert_eq(d->event_record(b.ready, b.compute, 0), 0);
    if (waits)
        cr_assert_eq(d->stream_wait_event(b.side, b.ready, 0), 0);
    cr_assert_eq(d->copy((kvg_devptr)(uintptr_t)words, at, WORDS * 4, b.side), 0);
    cr_assert_eq(d->event_record(b.done, b.side, 0), 0);
    while ((r = d->event_query(b.done)) == KVG_CU_NOT_READY)
        ++*polls;
    cr_assert_eq(r, 0);
    for (uint32_t i = 0; i < WORDS; ++i)
        right = right && words[i] == 4 * i;
    cr_assert_eq(d->stream_synchronize(b.compute), 0);
    end(&b);
    return right;
}

Test(gpu_stream, order_by_events_alone)
{
    unsigned polls = 0, wrong = 0;

    for (unsigned seed = 1; seed <= 12; ++seed)
        cr_expect(run(seed, true, &polls), "seed %u", seed);
    cr_expect_gt(polls, 12);
    for (unsigned seed = 1; seed <= 12; ++seed)
        wrong += !run(seed, false, &polls);
    cr_expect_gt(wrong, 6, "a forgotten wait showed under %u of 12 seeds", wrong);
}

Test(gpu_stream, refuses_what_cuda_refuses)
{
    struct kvg_launch config = {1, 1, 1, 1025, 1, 1, 0, NULL, NULL, 0};
    const struct kvg_driver *d;
    kvg_library none;
    kvg_kernel kernel;
    struct bench b;

    begin(&b, 1);
    d = &b.g.driver;
    config.stream = b.side;
    cr_expect_eq(d->launch(&config, b.step, NULL, NULL), KVG_CU_INVALID_VALUE);
    config.block_x = 32;
    config.shared_bytes = 49153; /* more than 48 KiB needs the kernel's attribute */
    cr_expect_eq(d->launch(&config, b.step, NULL, NULL), KVG_CU_INVALID_VALUE);
    cr_expect_eq(d->kernel_set_attribute(KVG_CU_KERNEL_MAX_DYNAMIC_SHARED, 49153, b.step, 0), 0);
    cr_expect_eq(d->library_load(&none, "rubbish", NULL, NULL, 0, NULL, NULL, 0),
                 KVG_CU_INVALID_IMAGE);
    cr_expect_eq(d->library_kernel(&kernel, b.library, "no_such"), KVG_CU_NOT_FOUND);
    /* behind the end of VRAM: the work fails, and from then on all that asks hears of it */
    cr_expect_eq(d->fill((kvg_devptr)(uintptr_t)b.pool.mem.base + (2 << 20) - 8, 0, 9, b.side), 0);
    cr_expect_eq(d->stream_synchronize(b.side), 700);
    cr_expect_eq(d->event_query(b.done), 700);
    end(&b);
}

/* A thread that hasn't entered the context, and a driver that hasn't begun. */
Test(gpu_stream, wants_a_context)
{
    struct kvg_driver d;
    kvg_stream stream;

    t_driver_open(&d);
    cr_expect_eq(d.stream_create(&stream, KVG_CU_STREAM_NON_BLOCKING, 0), KVG_CU_INVALID_CONTEXT);
    kvg_driver_close(&d);
}
