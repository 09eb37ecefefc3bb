/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plugin for GPUs on the stand-in for the driver: what is missing is one sentence that names
 * it, the rung of the memory ladder is said and why, and in every case a job is done: by the GPU
 * where there is one, else by threads, with the same bytes.
 */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "compress/compress.h"
#include "fake/fake.h"
#include "kvwire/gpu.h"
#include "kvwire/kv/encode.h"

enum { TOKENS = 64, HEAD_BYTES = 256, RAW = TOKENS * HEAD_BYTES };

static const uint32_t blocks[1] = {0};

/* The plugin's folder: KVWIRE_PLUGINS has one of its own with a link to `library`. */
static void use_plugin(const char *library)
{
    static char folder[64];
    char path[128];

    strcpy(folder, "/tmp/kvwire-plugin-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/libkvwire-cuda.so", folder);
    cr_assert_eq(symlink(library, path), 0);
    setenv("KVWIRE_PLUGINS", folder, 1);
}

static void drop_plugin(void)
{
    const char *folder = getenv("KVWIRE_PLUGINS");
    char path[128];

    snprintf(path, sizeof(path), "%s/libkvwire-cuda.so", folder);
    unlink(path);
    rmdir(folder);
}

static struct kvw_job job_of(unsigned char *from, unsigned char *to)
{
    return (struct kvw_job){.codec = &kvc_codec_l0,
                            .view = {.base = from,
                                     .blocks = blocks,
                                     .block_tokens = TOKENS,
                                     .tokens = TOKENS,
                                     .heads = 1,
                                     .head_bytes = HEAD_BYTES,
                                     .dtype = KVW_DTYPE_BF16,
                                     .token_stride = HEAD_BYTES,
                                     .head_stride = HEAD_BYTES},
                            .to = to,
                            .to_bytes = RAW + 64,
                            .digest = KVW_DIGEST_LANES};
}

static void fill(unsigned char *values)
{
    for (uint32_t i = 0; i < RAW; ++i)
        values[i] = (unsigned char)(i % 2 == 1 ? 0x3f : i * 2654435761u >> 24);
}

static void wait_for(struct kvw_jobs *q, struct kvw_job *j)
{
    const struct timespec pause = {.tv_nsec = 100000};

    for (unsigned n = 0; !q->ops->done(q, j); ++n) {
        cr_assert_lt(n, 300000, "a job isn't done");
        nanosleep(&pause, NULL);
    }
}

/* One job by threads; its stream in `to`. */
static uint64_t by_threads(unsigned char *to)
{
    static unsigned char from[RAW] __attribute__((aligned(64)));
    static const struct kvw_clock none;
    struct kvw_job j = job_of(from, to);
    struct kvw_encoders *e = NULL;

    fill(from);
    cr_assert_eq(kvw_encoders_open(&e, 1, 1, kvc_codec_l0.scratch_bytes(RAW), &none, NULL, NULL),
                 KVW_OK);
    struct kvw_jobs *q = kvw_encoders_jobs(e);

    cr_assert_eq(q->ops->submit(q, &j), KVW_OK);
    q->ops->flush(q);
    wait_for(q, &j);
    cr_expect_eq(j.err, KVW_OK);
    q->ops->close(q);
    return j.stream_bytes;
}

struct row {
    const char *what, *name, *value; /* an environment variable */
    const char *library;             /* the plugin */
    kvw_err err;
    const char *says;
};

static const struct row rows[] = {
    {"no plugin", "KVWIRE_PLUGINS", "/nowhere", NULL, KVW_E_UNSUPPORTED,
     "no plugin for GPUs: /nowhere/libkvwire-cuda.so"},
    {"another build", "FAKECUDA_NONE", "0", OLDPLUGIN, KVW_E_UNSUPPORTED, "is of another build"},
    {"no driver", "KVW_LIBCUDA", "/nowhere/libcuda.so.1", FAKEPLUGIN, KVW_E_NOTFOUND,
     "CUDA: no driver here: /nowhere/libcuda.so.1"},
    {"no GPU", "FAKECUDA_NONE", "1", FAKEPLUGIN, KVW_E_DEVICE, "CUDA: the driver finds no GPU"},
    {"an old driver", "FAKECUDA_VERSION", "11080", FAKEPLUGIN, KVW_E_UNSUPPORTED,
     "CUDA: the driver is for CUDA 11.8"},
    {"an old GPU", "FAKECUDA_ARCH", "75", FAKEPLUGIN, KVW_E_UNSUPPORTED,
     "is sm_75, and the kernels are for sm_80 on"},
    {"no VRAM", "FAKECUDA_BYTES", "4096", FAKEPLUGIN, KVW_E_NOMEM, "CUDA_ERROR_OUT_OF_MEMORY"},
};

/* Rows go by number: each runs in a process of its own, where strings lie elsewhere. */
static size_t numbers[] = {0, 1, 2, 3, 4, 5, 6};

ParameterizedTestParameters(gpu_plugin, one_sentence)
{
    cr_assert_eq(sizeof(numbers) / sizeof(numbers[0]), sizeof(rows) / sizeof(rows[0]));
    return cr_make_param_array(size_t, numbers, sizeof(rows) / sizeof(rows[0]));
}

/* The error and the sentence; the line is the same, and threads do the work. */
ParameterizedTest(size_t *number, gpu_plugin, one_sentence, .timeout = 60)
{
    const struct row *row = &rows[*number];
    static unsigned char stream[RAW + 64] __attribute__((aligned(64)));
    const struct kvw_gpu_plugin *plugin = NULL;
    char why[KVW_GPU_TEXT] = "", line[KVW_GPU_TEXT + 16] = "";
    struct kvw_gpu *g = NULL;
    kvw_err err;

    setenv("KVW_LIBCUDA", FAKECUDA, 1);
    if (row->library != NULL)
        use_plugin(row->library);
    setenv(row->name, row->value, 1);
    err = kvw_gpu_load(&plugin, why);
    if (err == KVW_OK)
        err = plugin->open(&g, 0, why);
    cr_expect_eq(err, row->err, "%s: %d", row->what, err);
    cr_expect_not_null(strstr(why, row->says), "%s: %s", row->what, why);
    cr_expect_null(strchr(why, '\n'));
    cr_expect_not(kvw_gpu_line(0, line, sizeof(line)));
    cr_expect_eq(strncmp(line, "gpu: none: ", 11), 0, "%s", line);
    cr_expect_not_null(strstr(line, row->says), "%s", line);
    cr_expect_lt(by_threads(stream), RAW);
    if (row->library != NULL)
        drop_plugin();
}

struct rung {
    const char *name, *value, *name2, *value2;
    const char *says;
};

static const struct rung rungs[] = {
    {"FAKECUDA_ARCH", "90", "FAKECUDA_DMABUF", "1", "sm_90): dma-buf"},
    {"FAKECUDA_ARCH", "100", "FAKECUDA_DMABUF", "0",
     "sm_100): nvidia-peermem (no dma-buf: the device has none)"},
    {"FAKECUDA_DMABUF", "0", "FAKECUDA_RDMA", "0",
     ": pinned host memory (no dma-buf: the device has none; no nvidia-peermem"},
    {"FAKECUDA_ORDERING", "0", "FAKECUDA_FLUSH", "0",
     ": pinned host memory (a NIC's writes aren't ordered"},
};

ParameterizedTestParameters(gpu_plugin, rung_and_why)
{
    return cr_make_param_array(size_t, numbers, sizeof(rungs) / sizeof(rungs[0]));
}

ParameterizedTest(size_t *number, gpu_plugin, rung_and_why, .timeout = 60)
{
    const struct rung *r = &rungs[*number];
    char line[KVW_GPU_TEXT + 16] = "";

    setenv("KVW_LIBCUDA", FAKECUDA, 1);
    use_plugin(FAKEPLUGIN);
    setenv(r->name, r->value, 1);
    setenv(r->name2, r->value2, 1);
    cr_expect(kvw_gpu_line(0, line, sizeof(line)), "%s", line);
    cr_expect_eq(strncmp(line, "gpu: GPU 0 (", 12), 0, "%s", line);
    cr_expect_not_null(strstr(line, r->says), "%s", line);
    cr_expect_not(kvw_gpu_line(7, line, sizeof(line)));
    cr_expect_not_null(strstr(line, "CUDA: there is no GPU 7"), "%s", line);
    drop_plugin();
}

/* By the GPU what threads make: from a plugin, knowing nothing of gpu/. */
Test(gpu_plugin, same_bytes, .timeout = 60)
{
    static unsigned char want[RAW + 64] __attribute__((aligned(64)));
    const struct kvw_gpu_jobs cfg = {
        .jobs_max = 2, .chunk_bytes = RAW, .columns = HEAD_BYTES / 2, .table_blocks = 2};
    const struct kvw_mem *vram = NULL, *pinned = NULL, *more = NULL;
    const struct kvw_gpu_plugin *plugin = NULL;
    const uint64_t bytes = by_threads(want);
    char why[KVW_GPU_TEXT] = "";
    struct kvw_gpu *g = NULL;
    struct kvw_jobs *q = NULL;
    unsigned char *stream;
    struct kvw_job j;

    setenv("KVW_LIBCUDA", FAKECUDA, 1);
    setenv("FAKECUDA_BYTES", "33554432", 1);
    use_plugin(FAKEPLUGIN);
    cr_assert_eq(kvw_gpu_load(&plugin, why), KVW_OK, "%s", why);
    cr_assert_eq(plugin->open(&g, 0, why), KVW_OK, "%s", why);
    cr_assert_eq(plugin->pool_open(g, RAW, &vram, why), KVW_OK, "%s", why);
    cr_expect_eq(plugin->pool_open(g, 1u << 30, &more, why), KVW_E_NOMEM);
    cr_expect_not_null(strstr(why, "CUDA_ERROR_OUT_OF_MEMORY"), "%s", why);
    cr_assert_eq(plugin->pinned_open(g, 2 * RAW + 64, &pinned, why), KVW_OK, "%s", why);
    cr_assert_eq(plugin->jobs_open(g, &cfg, &q, why), KVW_OK, "%s", why);
    cr_expect_eq(vram->kind, KVW_MEM_CUDA);
    stream = pinned->base;
    fill(stream + RAW + 64);
    cr_assert_eq(vram->device->copy_in(vram->device->arg, vram->base, stream + RAW + 64, RAW),
                 KVW_OK);
    j = job_of(vram->base, stream);
    cr_assert_eq(q->ops->submit(q, &j), KVW_OK);
    q->ops->flush(q);
    wait_for(q, &j);
    cr_expect_eq(j.err, KVW_OK);
    cr_expect_eq(j.stream_bytes, bytes);
    cr_expect_eq(memcmp(stream, want, bytes), 0);
    q->ops->close(q);
    plugin->mem_close(g, pinned);
    plugin->mem_close(g, vram);
    plugin->close(g);
    drop_plugin();
}

/* Memory of another allocator, whose part is played by a pool of the plugin's own: adopted, not
 * shared by a token, without an IPC handle; and a pool is reached by its token. */
Test(gpu_plugin, other_memory, .timeout = 60)
{
    const struct kvw_mem *vram = NULL, *adopted = NULL, *reached = NULL;
    const struct kvw_gpu_plugin *plugin = NULL;
    uint8_t token[KVW_GPU_TOKEN], ipc[KVW_GPU_IPC] = {0};
    char why[KVW_GPU_TEXT] = "", out[8] = "";
    struct kvw_gpu *g = NULL;

    setenv("KVW_LIBCUDA", FAKECUDA, 1);
    use_plugin(FAKEPLUGIN);
    cr_assert_eq(kvw_gpu_load(&plugin, why), KVW_OK, "%s", why);
    cr_assert_eq(plugin->open(&g, 0, why), KVW_OK, "%s", why);
    cr_assert_eq(plugin->pool_open(g, RAW, &vram, why), KVW_OK, "%s", why);
    cr_assert_eq(plugin->pool_adopt(g, vram->base, RAW, &adopted, why), KVW_OK, "%s", why);
    cr_expect_eq(adopted->device->copy_in(adopted->device->arg, adopted->base, "by two", 7), 0);
    cr_expect_eq(plugin->share(g, adopted, token, why), KVW_E_UNSUPPORTED);
    cr_expect_str_eq(why, "CUDA: memory of another allocator has no descriptor");
    cr_expect_eq(plugin->pool_ipc(g, adopted, ipc, why), KVW_E_UNSUPPORTED);
    cr_expect_not_null(strstr(why, "isn't cudaMalloc's"), "%s", why);
    cr_expect_eq(plugin->pool_ipc_open(g, ipc, RAW, &reached, why), KVW_E_DEVICE);
    cr_expect_eq(plugin->pool_adopt(g, why, 16, &reached, why), KVW_E_INVALID);
    plugin->mem_close(g, adopted);
    cr_assert_eq(plugin->share(g, vram, token, why), KVW_OK, "%s", why);
    cr_assert_eq(plugin->reach(g, token, RAW, &reached, why), KVW_OK, "%s", why);
    cr_expect_eq(reached->device->copy_out(reached->device->arg, out, reached->base, 7), 0);
    cr_expect_str_eq(out, "by two");
    plugin->mem_close(g, reached);
    plugin->mem_close(g, vram);
    plugin->close(g);
    drop_plugin();
}
