/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pools of memory that somebody else has allocated: what the driver says of a range decides whether
 * it can be one, each refusal is a sentence, and what is the owner's stays his. Another process
 * opens cudaMalloc's memory by its IPC handle. And the dma-bufs that a NIC may try, in their order.
 */
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fake_ask.h"
#include "gpu/foreign.h"

#define BYTES (1u << 20)

/* Another allocator: cudaMalloc's part. */
static kvg_devptr theirs(const struct kvg_driver *d, size_t bytes)
{
    kvg_result (*alloc)(kvg_devptr *, size_t);
    void *symbol = dlsym(d->library, "cuMemAlloc_v2");
    kvg_devptr at = 0;

    memcpy(&alloc, &symbol, sizeof(symbol));
    cr_assert_eq(alloc(&at, bytes), 0);
    return at;
}

static void take_back(const struct kvg_driver *d, kvg_devptr at)
{
    kvg_result (*give)(kvg_devptr);
    void *symbol = dlsym(d->library, "cuMemFree_v2");

    memcpy(&give, &symbol, sizeof(symbol));
    cr_expect_eq(give(at), 0);
}

static void *pointer(kvg_devptr at)
{
    return (void *)(uintptr_t)at;
}

Test(gpu_foreign, a_pool_of_theirs)
{
    static const char text_in[] = "in their memory";
    char text[256] = "", out[16] = "";
    struct kvg_pool pool;
    struct t_gpu g;

    t_gpu_open(&g);
    const kvg_devptr at = theirs(&g.driver, 2 * BYTES);
    const int live = t_live_total(&g.driver), fds = t_open_fds();

    cr_assert_eq(kvg_pool_adopt(&pool, &g.dev, pointer(at), BYTES, text, sizeof(text)), KVW_OK,
                 "%s", text);
    cr_expect_eq(pool.rung, KVG_RUNG_DMABUF, "%s", pool.ladder);
    cr_expect_eq(pool.mem.kind, KVW_MEM_CUDA);
    cr_expect_eq(pool.mem.device->copy_in(pool.mem.device->arg, pool.mem.base, text_in, 16), 0);
    cr_expect_eq(pool.mem.device->copy_out(pool.mem.device->arg, out, pool.mem.base, 16), 0);
    cr_expect_str_eq(out, text_in);
    kvg_pool_close(&pool);
    cr_expect_eq(t_live_total(&g.driver), live, "theirs stays theirs");
    cr_expect_eq(t_open_fds(), fds);
    /* A part that doesn't begin where the stand-in's dma-bufs can: the next rung, and why. */
    cr_assert_eq(kvg_pool_adopt(&pool, &g.dev, pointer(at + BYTES), BYTES, text, sizeof(text)), 0);
    cr_expect_eq(pool.rung, KVG_RUNG_PEERMEM);
    cr_expect_str_eq(pool.ladder, "GPU 0: nvidia-peermem (no dma-buf: CUDA_ERROR_INVALID_VALUE)");
    kvg_pool_close(&pool);
    take_back(&g.driver, at);
    t_gpu_close(&g);
}

static void refused(const struct t_gpu *g, void *base, uint64_t bytes, kvw_err err,
                    const char *says)
{
    const int live = t_live_total(&g->driver), fds = t_open_fds();
    struct kvg_pool pool;
    char text[256] = "";

    cr_expect_eq(kvg_pool_adopt(&pool, &g->dev, base, bytes, text, sizeof(text)), err, "%s", text);
    cr_expect_not_null(strstr(text, says), "\"%s\" has no \"%s\"", text, says);
    cr_expect_null(pool.dev);
    cr_expect_eq(t_live_total(&g->driver), live);
    cr_expect_eq(t_open_fds(), fds);
}

Test(gpu_foreign, what_cannot_be_a_pool)
{
    static char here[64];
    struct kvg_pinned pinned;
    struct t_gpu g;
    char text[256];

    t_gpu_open(&g);
    const kvg_devptr at = theirs(&g.driver, BYTES);

    cr_assert_eq(kvg_pinned_open(&pinned, &g.dev, 4096, text, sizeof(text)), KVW_OK);
    refused(&g, here, 64, KVW_E_INVALID, "is no memory of CUDA's");
    refused(&g, pinned.mem.base, 64, KVW_E_UNSUPPORTED, "is host memory, not a GPU's");
    refused(&g, pointer(at), BYTES + 1, KVW_E_INVALID,
            "aren't in one allocation, which has 1048576");
    refused(&g, pointer(at + 16), BYTES, KVW_E_INVALID, "aren't in one allocation");
    refused(&g, pointer(at), UINT64_MAX, KVW_E_INVALID, "aren't in one allocation");
    refused(&g, pointer(at), 0, KVW_E_INVALID, "a pool of 0 bytes");
    for (unsigned nth = 1; nth <= 7; ++nth) { /* context, four attributes, stream, dma-buf ... */
        struct kvg_pool pool;

        t_fail(&g.driver, nth, KVG_CU_OUT_OF_MEMORY);
        if (kvg_pool_adopt(&pool, &g.dev, pointer(at), BYTES, text, sizeof(text)) == KVW_OK)
            kvg_pool_close(&pool);
        else
            cr_expect_null(pool.dev, "call %u", nth);
    }
    t_fail(&g.driver, 0, 0);
    kvg_pinned_close(&pinned);
    take_back(&g.driver, at);
    t_gpu_close(&g);
}

static void refused_where(const char *set, const char *says)
{
    struct t_gpu g;

    putenv(strdup(set));
    t_gpu_open(&g);
    const kvg_devptr at = theirs(&g.driver, BYTES);

    refused(&g, pointer(at), BYTES, KVW_E_UNSUPPORTED, says);
    take_back(&g.driver, at);
    t_gpu_close(&g);
    unsetenv(strndup(set, strcspn(set, "=")));
}

Test(gpu_foreign, of_another_kind_or_gpu)
{
    refused_where("FAKECUDA_MANAGED=1", "is managed memory, which moves");
    refused_where("FAKECUDA_ELSEWHERE=1", "is memory of GPU 1, not of GPU 0");
}

/* Decode's process: opens the handle, reads, writes; the number of the step that failed. */
static int opener(int socket)
{
    struct kvg_driver driver;
    struct kvg_device dev;
    struct kvg_pool pool;
    struct kvg_ipc ipc;
    char text[256], out[8] = "";

    alarm(60);
    setenv("KVW_LIBCUDA", FAKECUDA, 1);
    if (kvg_driver_open(&driver, text, sizeof(text)) != KVW_OK ||
        kvg_device_open(&dev, &driver, 0, text, sizeof(text)) != KVW_OK)
        return 1;
    if (read(socket, &ipc, sizeof(ipc)) != (ssize_t)sizeof(ipc))
        return 2;
    const int live = t_live_total(&driver);

    if (kvg_pool_ipc_open(&pool, &dev, &ipc, BYTES + 4097, text, sizeof(text)) != KVW_E_INVALID ||
        t_live_total(&driver) != live) /* the allocation has 4096 more, before it */
        return 3;
    if (kvg_pool_ipc_open(&pool, &dev, &ipc, BYTES, text, sizeof(text)) != KVW_OK)
        return 4;
    if (pool.mem.device->copy_out(pool.mem.device->arg, out, pool.mem.base, 6) != KVW_OK ||
        strcmp(out, "hello") != 0)
        return 5;
    if (pool.mem.device->copy_in(pool.mem.device->arg, pool.mem.base, "there", 6) != KVW_OK)
        return 6;
    kvg_pool_close(&pool);
    if (t_live_total(&driver) != live)
        return 7;
    memset(&ipc, 'x', sizeof(ipc));
    if (kvg_pool_ipc_open(&pool, &dev, &ipc, BYTES, text, sizeof(text)) != KVW_E_DEVICE ||
        strstr(text, "opening an IPC handle: ") == NULL)
        return 8;
    return 0;
}

Test(gpu_foreign, another_process_by_ipc_handle, .timeout = 60)
{
    int sockets[2], status = -1;
    char text[256] = "", out[8] = "";
    struct kvg_pool pool, own;
    struct kvg_ipc ipc;
    struct t_gpu g;

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), 0);
    const pid_t child = fork();

    if (child == 0)
        _exit(opener(sockets[1]));
    t_gpu_open(&g);
    const kvg_devptr at = theirs(&g.driver, BYTES + 4096);

    cr_assert_eq(kvg_pool_adopt(&pool, &g.dev, pointer(at + 4096), BYTES, text, sizeof(text)), 0);
    cr_expect_eq(pool.mem.device->copy_in(pool.mem.device->arg, pool.mem.base, "hello", 6), 0);
    cr_assert_eq(kvg_pool_ipc(&pool, &ipc, text, sizeof(text)), KVW_OK, "%s", text);
    cr_expect_eq(ipc.offset, 4096);
    cr_assert_eq(write(sockets[0], &ipc, sizeof(ipc)), (ssize_t)sizeof(ipc));
    waitpid(child, &status, 0);
    cr_expect_eq(status, 0, "the opener failed in step %d", status >> 8);
    cr_expect_eq(pool.mem.device->copy_out(pool.mem.device->arg, out, pool.mem.base, 6), 0);
    cr_expect_str_eq(out, "there");
    kvg_pool_close(&pool);
    cr_assert_eq(kvg_pool_open(&own, &g.dev, BYTES, text, sizeof(text)), KVW_OK);
    cr_expect_eq(kvg_pool_ipc(&own, &ipc, text, sizeof(text)), KVW_E_UNSUPPORTED);
    cr_expect_not_null(strstr(text, "isn't cudaMalloc's, so it has no IPC handle"), "%s", text);
    kvg_pool_close(&own);
    take_back(&g.driver, at);
    t_gpu_close(&g);
}

/* What a NIC may try, in order: the driver's plain dma-buf, then the one through PCIe. */
Test(gpu_foreign, list_of_dmabufs)
{
    static const struct {
        const char *plain, *pcie, *version;
        uint32_t more;
        const char *says;
    } rows[] = {
        {"1", "0", "13000", 0, "GPU 0: dma-buf"},
        {"1", "1", "13000", 1, "GPU 0: dma-buf, or one through PCIe"},
        {"0", "1", "13000", 0, "GPU 0: dma-buf through PCIe"},
        {"1", "1", "12070", 0, "GPU 0: dma-buf"}, /* the driver doesn't know the flag */
        {"0", "0", "13000", 0, "GPU 0: nvidia-peermem (no dma-buf: CUDA_ERROR_NOT_SUPPORTED)"},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i) {
        struct kvg_pool pool;
        char text[256] = "";
        struct t_gpu g;

        setenv("FAKECUDA_PLAIN", rows[i].plain, 1);
        setenv("FAKECUDA_PCIE", rows[i].pcie, 1);
        setenv("FAKECUDA_VERSION", rows[i].version, 1);
        t_gpu_open(&g);
        const int fds = t_open_fds();

        cr_assert_eq(kvg_pool_open(&pool, &g.dev, BYTES, text, sizeof(text)), KVW_OK, "%s", text);
        cr_expect_str_eq(pool.ladder, rows[i].says, "row %zu", i);
        cr_expect_eq(pool.mem.device->dmabuf_count, rows[i].more, "row %zu", i);
        kvg_pool_close(&pool);
        cr_expect_eq(t_open_fds(), fds, "row %zu", i);
        t_gpu_close(&g);
    }
}
