/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pool is VRAM that the CPU can't touch and a NIC can; where the device can't do the best, the
 * pool takes a lower rung and says why; whatever fails, everything is given back.
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fake_ask.h"

#define BYTES 3000000u

static void open_pool(struct kvg_pool *pool, const struct t_gpu *g)
{
    char text[256] = "";

    cr_assert_eq(kvg_pool_open(pool, &g->dev, BYTES, text, sizeof(text)), KVW_OK, "%s", text);
}

static unsigned char *pattern(unsigned seed)
{
    unsigned char *p = malloc(BYTES);

    for (unsigned i = 0; i < BYTES; ++i)
        p[i] = (unsigned char)((i * 2654435761u + seed) >> 13);
    return p;
}

Test(gpu_pool, holds_what_was_copied_in)
{
    unsigned char *in = pattern(1), *out = calloc(1, BYTES);
    struct kvg_pool pool;
    struct t_gpu g;

    t_gpu_open(&g);
    open_pool(&pool, &g);
    cr_expect_eq(pool.mem.bytes, BYTES);
    cr_expect_eq(pool.mem.kind, KVW_MEM_CUDA);
    cr_expect_eq((uintptr_t)pool.mem.base % (2 << 20), 0);

    const struct kvw_mem_device *help = pool.mem.device;

    cr_expect_eq(help->copy_in(help->arg, pool.mem.base, in, BYTES), KVW_OK);
    cr_expect_eq(help->copy_out(help->arg, out, pool.mem.base, BYTES), KVW_OK);
    cr_expect_eq(memcmp(in, out, BYTES), 0);
    cr_expect_eq(help->copy_out(help->arg, out, (const char *)pool.mem.base + BYTES - 10, 10),
                 KVW_OK);
    cr_expect_eq(memcmp(in + BYTES - 10, out, 10), 0);
    kvg_pool_close(&pool);
    kvg_pool_close(&pool); /* of one that is closed: nothing */
    t_gpu_close(&g);
    free(in);
    free(out);
}

/* The control of all tests here: a CPU that touches VRAM dies. */
Test(gpu_pool, cpu_cannot_touch_it)
{
    struct kvg_pool pool;
    struct t_gpu g;
    int status = 0;

    t_gpu_open(&g);
    open_pool(&pool, &g);

    const pid_t child = fork();

    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        _exit(*(volatile unsigned char *)pool.mem.base);
    }
    waitpid(child, &status, 0);
    cr_expect(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    kvg_pool_close(&pool);
    t_gpu_close(&g);
}

static void *copy_in_thread(void *arg)
{
    const struct kvg_pool *pool = arg;
    const struct kvw_mem_device *help = pool->mem.device;
    static const char text[] = "from a thread";

    return (void *)(intptr_t)help->copy_in(help->arg, pool->mem.base, text, sizeof(text));
}

/* A transport's thread has no context of its own. */
Test(gpu_pool, copies_from_any_thread)
{
    struct kvg_pool pool;
    pthread_t thread;
    struct t_gpu g;
    char out[32];
    void *err;

    t_gpu_open(&g);
    open_pool(&pool, &g);
    pthread_create(&thread, NULL, copy_in_thread, &pool);
    pthread_join(thread, &err);
    cr_expect_eq((kvw_err)(intptr_t)err, KVW_OK);
    cr_expect_eq(pool.mem.device->copy_out(pool.mem.device->arg, out, pool.mem.base, 14), KVW_OK);
    cr_expect_str_eq(out, "from a thread");
    kvg_pool_close(&pool);
    t_gpu_close(&g);
}

struct rung {
    const char *set[3]; /* environment */
    enum kvg_rung rung;
    bool flushes;
    const char *says;
};

/* What the device can't do, the rung, and the words. */
Test(gpu_pool, says_its_rung_and_why)
{
    static const struct rung rungs[] = {
        {{NULL}, KVG_RUNG_DMABUF, false, "GPU 0: dma-buf"},
        {{"FAKECUDA_ORDERING=0"}, KVG_RUNG_DMABUF, true, "GPU 0: dma-buf"},
        {{"FAKECUDA_C2C=1"}, KVG_RUNG_DMABUF, true, "GPU 0: dma-buf"},
        {{"FAKECUDA_DMABUF=0"},
         KVG_RUNG_PEERMEM,
         false,
         "GPU 0: nvidia-peermem (no dma-buf: the device has none)"},
        {{"FAKECUDA_DMABUF=0", "FAKECUDA_RDMA=0"},
         KVG_RUNG_PINNED,
         false,
         "GPU 0: pinned host memory (no dma-buf: the device has none; no nvidia-peermem: "
         "gpuDirectRDMACapable wasn't granted)"},
        {{"FAKECUDA_ORDERING=0", "FAKECUDA_FLUSH=0"},
         KVG_RUNG_PINNED,
         false,
         "GPU 0: pinned host memory (a NIC's writes aren't ordered, and the driver can't flush "
         "them)"},
    };

    for (size_t i = 0; i < sizeof(rungs) / sizeof(rungs[0]); ++i) {
        const struct rung *r = &rungs[i];
        struct kvg_pool pool;
        struct t_gpu g;

        for (int k = 0; k < 3 && r->set[k] != NULL; ++k)
            putenv(strdup(r->set[k]));
        t_gpu_open(&g);
        open_pool(&pool, &g);
        cr_expect_eq(pool.rung, r->rung, "row %zu", i);
        cr_expect_str_eq(pool.ladder, r->says, "row %zu", i);
        cr_expect_eq(pool.mem.dmabuf_fd >= 0, r->rung == KVG_RUNG_DMABUF, "row %zu", i);
        cr_expect_eq(pool.mem.device->flush != NULL, r->flushes, "row %zu", i);
        if (pool.mem.device->flush != NULL)
            cr_expect_eq(pool.mem.device->flush(pool.mem.device->arg), KVW_OK);
        kvg_pool_close(&pool);
        t_gpu_close(&g);
        for (int k = 0; k < 3 && r->set[k] != NULL; ++k)
            unsetenv(strndup(r->set[k], strcspn(r->set[k], "=")));
    }
}

/* What lies behind the descriptor is the pool: the stand-in's dma-buf can be mapped and read. */
Test(gpu_pool, dmabuf_is_of_the_pool)
{
    static const char text[] = "behind the dma-buf";
    struct kvg_pool pool;
    struct t_gpu g;
    uint64_t offset = 0;
    int fd = -1;

    t_gpu_open(&g);
    open_pool(&pool, &g);
    char *at = (char *)pool.mem.base + 100; /* not at a page */

    cr_expect_eq(pool.mem.device->copy_in(pool.mem.device->arg, at, text, sizeof(text)), KVW_OK);
    cr_expect_eq(kvg_dmabuf_export(&g.dev, at, sizeof(text), &fd, &offset), KVW_OK);
    cr_expect_eq(offset, 100);

    const char *mapped = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);

    cr_assert_neq(mapped, MAP_FAILED);
    cr_expect_str_eq(mapped + offset, text);
    munmap((void *)(uintptr_t)mapped, 4096);
    close(fd);
    cr_expect_eq(kvg_dmabuf_export(&g.dev, at, 0, &fd, &offset), KVW_E_INVALID);
    cr_expect_eq(kvg_dmabuf_export(&g.dev, at, BYTES + (4u << 20), &fd, &offset), KVW_E_DEVICE);
    kvg_pool_close(&pool);
    t_gpu_close(&g);
}

static void expect_no_pool(const struct t_gpu *g, uint64_t bytes, kvw_err err, const char *words)
{
    struct kvg_pool pool;
    char text[256] = "";

    cr_expect_eq(kvg_pool_open(&pool, &g->dev, bytes, text, sizeof(text)), err, "%s", text);
    cr_expect_not_null(strstr(text, words), "\"%s\" has no \"%s\"", text, words);
    cr_expect_null(pool.dev);
}

Test(gpu_pool, out_of_vram)
{
    struct kvg_pool pool;
    struct t_gpu g;

    setenv("FAKECUDA_BYTES", "8388608", 1);
    t_gpu_open(&g);
    expect_no_pool(&g, 9000000, KVW_E_NOMEM,
                   "GPU 0: device memory (9000000 bytes): CUDA_ERROR_OUT_OF_MEMORY");
    expect_no_pool(&g, UINT64_MAX, KVW_E_NOMEM, "a pool of 18446744073709551615 bytes");
    expect_no_pool(&g, 0, KVW_E_INVALID, "a pool of 0 bytes");
    open_pool(&pool, &g); /* 4 of 8 MiB */
    expect_no_pool(&g, 5000000, KVW_E_NOMEM, "OUT_OF_MEMORY");
    kvg_pool_close(&pool);
    open_pool(&pool, &g);
    kvg_pool_close(&pool);
    t_gpu_close(&g);
}

/* Each driver call in turn runs out of memory: all is given back, or the pool is a rung lower. */
Test(gpu_pool, unwinds_from_every_call)
{
    unsigned failed = 0, lower = 0;
    struct t_gpu g;

    t_gpu_open(&g);
    const int before = t_live_total(&g.driver), fds = t_open_fds();

    for (unsigned nth = 1; nth <= 12; ++nth) {
        struct kvg_pool pool;
        char text[256] = "";

        t_fail(&g.driver, nth, KVG_CU_OUT_OF_MEMORY);
        const kvw_err err = kvg_pool_open(&pool, &g.dev, BYTES, text, sizeof(text));

        t_fail(&g.driver, 0, 0);
        cr_expect(err == KVW_OK || err == KVW_E_NOMEM, "call %u: %d", nth, err);
        if (err == KVW_OK) {
            lower += pool.rung != KVG_RUNG_DMABUF;
            kvg_pool_close(&pool);
        } else {
            ++failed;
            cr_expect_gt(strlen(text), 10, "call %u", nth);
            cr_expect_null(pool.dev);
        }
        cr_expect_eq(t_live_total(&g.driver), before, "call %u", nth);
        cr_expect_eq(t_open_fds(), fds, "call %u", nth);
    }
    cr_expect_eq(failed, 7); /* context, granularity, create, reserve, map, access, stream */
    cr_expect_eq(lower, 1);  /* the dma-buf */
    t_gpu_close(&g);
}

/* Bytes that the host reads and kernels write; another size of 0, and no memory, are errors. */
Test(gpu_pinned, opens_and_unwinds)
{
    struct kvg_pinned p;
    char text[256] = "";
    struct t_gpu g;

    t_gpu_open(&g);
    cr_expect_eq(kvg_pinned_open(&p, &g.dev, 100000, text, sizeof(text)), KVW_OK);
    cr_expect_eq(p.mem.kind, KVW_MEM_HOST);
    memset(p.mem.base, 7, 100000);
    kvg_pinned_close(&p);
    kvg_pinned_close(&p);
    cr_expect_eq(kvg_pinned_open(&p, &g.dev, 0, text, sizeof(text)), KVW_E_INVALID);
    for (unsigned nth = 1; nth <= 2; ++nth) {
        t_fail(&g.driver, nth, KVG_CU_OUT_OF_MEMORY);
        cr_expect_eq(kvg_pinned_open(&p, &g.dev, 100, text, sizeof(text)), KVW_E_NOMEM);
        cr_expect_null(p.dev);
    }
    cr_expect_not_null(strstr(text, "pinned host memory (100 bytes)"), "%s", text);
    t_gpu_close(&g);
}
