/* SPDX-License-Identifier: Apache-2.0 */
/* The two sides of a transfer between GPUs; see side.h. */
#include "side.h"

#include <dirent.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "compress/compress.h"
#include "fake/fake.h"
#include "gpu/mem.h"
#include "kvwire/gpu.h"
#include "kvwire/node.h"
#include "kvwire/wire.h"

enum {
    LAYERS = 3,
    BLOCKS = 5, /* of the pool; the sequence has four of them */
    BLOCK_TOKENS = 16,
    TOKENS = 60,
    HEADS = 2,
    HEAD_BYTES = 128,
    PLANE = BLOCKS * BLOCK_TOKENS * HEADS * HEAD_BYTES, /* K or V of a layer */
    POOL = 2 * LAYERS * PLANE,
    PIECES = 8,
};
#define WAIT_NS  60000000000ull /* only a fault waits so long */
#define LEASE_NS 20000000000ull /* nor is a busy machine a dead one */

static const uint32_t table[4] = {4, 0, 3, 1};

struct side {
    const struct side_args *a;
    struct kvg_driver driver;
    struct kvg_device dev;
    kvg_stream compute;
    const struct kvw_gpu_plugin *plugin;
    struct kvw_gpu *gpu;
    const struct kvw_mem *vram, *pinned; /* POOL bytes each */
    int live, fds;                       /* before there was a node */
    struct kvw_node *node;
    kvw_pool_id pool;
    kvw_peer_id peer;
    kvw_xfer_ref xfer;
    struct kvw_core_event ev; /* the latest */
};

static int failed(int step, const char *why)
{
    fprintf(stderr, "step %d: %s\n", step, why);
    return step;
}

static int fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int n = 0;

    while (dir != NULL && readdir(dir) != NULL)
        ++n;
    if (dir != NULL)
        closedir(dir);
    return n;
}

static void find(const struct side *s, const char *name, void *function)
{
    void *symbol = dlsym(s->driver.library, name);

    memcpy(function, &symbol, sizeof(symbol));
}

static void hold(const struct side *s, int held)
{
    void (*function)(int) = NULL;

    find(s, "fakecuda_hold", &function);
    function(held);
}

static int live(const struct side *s)
{
    void (*count)(struct fakecuda_live *) = NULL;
    struct fakecuda_live l;

    find(s, "fakecuda_count", &count);
    count(&l);
    return (int)(l.contexts + l.handles + l.reservations + l.mappings + l.hosts + l.streams +
                 l.events + l.libraries);
}

/* ---- the GPU --------------------------------------------------------------------------------- */

/* DPDK keeps descriptors for the life of a process, from its first port on. So one is opened before
 * they are counted, to which nobody says a word. */
static int warm_dpdk(const struct side_args *a, bool listens)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    char why[257];
    const struct kvw_node_config cfg = {.size = sizeof(cfg),
                                        .listen = listens,
                                        .name = "warm",
                                        .transport = a->transport,
                                        .local = at.sun_path,
                                        .open_by_ns = kvw_now_ns() + 200000000};
    struct kvw_node *node = NULL;
    int mute = -1;
    kvw_err err;

    if (strcmp(a->transport, "dpdk") != 0)
        return 0;
    snprintf(at.sun_path, sizeof(at.sun_path), "%s.%c", a->local, listens ? 'd' : 'p');
    if (!listens && ((mute = socket(AF_UNIX, SOCK_STREAM, 0)) < 0 ||
                     bind(mute, (struct sockaddr *)&at, sizeof(at)) != 0 || listen(mute, 1) != 0))
        return failed(7, "a socket");
    err = kvw_node_open(&node, &cfg, why, sizeof(why));
    if (mute >= 0) {
        close(mute);
        unlink(at.sun_path);
    }
    return err == KVW_E_DEADLINE ? 0 : failed(6, why);
}

static int open_gpu(struct side *s, const struct side_args *a, bool listens)
{
    char why[KVW_GPU_TEXT] = "", seed[16];

    memset(s, 0, sizeof(*s));
    s->a = a;
    s->ev.size = sizeof(s->ev);
    snprintf(seed, sizeof(seed), "%u", a->seed);
    if (a->seed != 0)
        setenv("FAKECUDA_SEED", seed, 1);
    if (kvg_driver_open(&s->driver, why, sizeof(why)) != KVW_OK ||
        kvg_device_open(&s->dev, &s->driver, 0, why, sizeof(why)) != KVW_OK ||
        kvw_gpu_load(&s->plugin, why) != KVW_OK || s->plugin->open(&s->gpu, 0, why) != KVW_OK ||
        s->plugin->pool_open(s->gpu, POOL, &s->vram, why) != KVW_OK ||
        s->plugin->pinned_open(s->gpu, POOL, &s->pinned, why) != KVW_OK)
        return failed(1, why);
    if (s->driver.stream_create(&s->compute, KVG_CU_STREAM_NON_BLOCKING, 0) != KVG_CU_SUCCESS)
        return failed(2, "a stream");
    if (warm_dpdk(a, listens) != 0)
        return 6;
    s->live = live(s);
    s->fds = fds();
    return 0;
}

/* With the node gone all that it took of the GPU must be back, and then the rest. */
static int close_gpu(struct side *s)
{
    kvw_node_close(s->node);
    if (!s->a->shared && (live(s) != s->live || fds() != s->fds))
        return failed(3, "device memory, events or descriptors of the node are left");
    if (s->driver.stream_synchronize(s->compute) != KVG_CU_SUCCESS ||
        s->driver.stream_destroy(s->compute) != KVG_CU_SUCCESS)
        return failed(4, "the stream has failed");
    s->plugin->mem_close(s->gpu, s->pinned);
    s->plugin->mem_close(s->gpu, s->vram);
    s->plugin->close(s->gpu);
    kvg_device_close(&s->dev);
    if (!s->a->shared && live(s) != 0)
        return failed(5, "device memory or events are left");
    kvg_driver_close(&s->driver);
    return 0;
}

/* What a sequence's KV is: exponents that compress, another for each value's place. */
static void make_kv(void *to)
{
    uint16_t *values = to;

    for (uint32_t i = 0; i < POOL / 2; ++i) {
        const uint32_t r = (i + 1) * 2654435761u;
        const uint32_t exponent = 127 - (uint32_t)__builtin_ctz(r | 1u << 20) - i % 64 % 3;

        values[i] = (uint16_t)((r >> 24 & 0x7f) | exponent << 7 | (r >> 13 & 1) << 15);
    }
}

/* Whether `got` has the sequence's tokens as make_kv() has them. */
static bool is_kv(const unsigned char *got)
{
    static unsigned char want[POOL];
    bool same = true;

    make_kv(want);
    for (uint32_t plane = 0; plane < 2 * LAYERS; ++plane)
        for (uint32_t t = 0; t < TOKENS; ++t) {
            const size_t at = (size_t)plane * PLANE +
                              (table[t / BLOCK_TOKENS] * BLOCK_TOKENS + t % BLOCK_TOKENS) *
                                  (size_t)HEADS * HEAD_BYTES;

            same = same && memcmp(got + at, want + at, HEADS * HEAD_BYTES) == 0;
        }
    return same;
}

/* Both planes of a layer, as a model's kernels would write or read them, on its stream: in pieces,
 * so that what isn't ordered behind them or before has many places to come in between. */
static bool copy_layer(struct side *s, uint32_t layer, bool to_vram)
{
    bool fine = true;

    for (uint32_t i = 0; i < PIECES; ++i) {
        const size_t at = 2 * (size_t)layer * PLANE + i * (size_t)(2 * PLANE / PIECES);
        const kvg_devptr vram = (kvg_devptr)(uintptr_t)s->vram->base + at;
        const kvg_devptr host = (kvg_devptr)(uintptr_t)s->pinned->base + at;

        fine = fine && s->driver.copy(to_vram ? vram : host, to_vram ? host : vram,
                                      2 * PLANE / PIECES, s->compute) == KVG_CU_SUCCESS;
    }
    return fine;
}

/* ---- the node -------------------------------------------------------------------------------- */

static kvw_err add_pool(struct side *s, char *why, size_t size)
{
    struct kvw_mem mem = s->a->into_host ? *s->pinned : *s->vram;
    struct kvw_plane planes[2][LAYERS];
    uint32_t layers[LAYERS];
    struct kvw_part_desc parts[2];
    const struct kvw_group_desc group = {.kind = KVW_GROUP_PAGED,
                                         .blocks = BLOCKS,
                                         .block_entries = BLOCK_TOKENS,
                                         .entry_tokens = 1,
                                         .layer_count = LAYERS,
                                         .layers = layers,
                                         .part_count = 2,
                                         .part_bytes = sizeof(parts[0]),
                                         .parts = parts};
    const struct kvw_pool_desc desc = {.size = sizeof(desc),
                                       .model_layers = LAYERS,
                                       .fingerprint = {7},
                                       .name = "toy",
                                       .mem_count = 1,
                                       .mem_bytes = sizeof(mem),
                                       .mems = &mem,
                                       .group_count = 1,
                                       .group_bytes = sizeof(group),
                                       .groups = &group};

    if (s->a->stop == SIDE_HOST_POOL)
        mem.kind = KVW_MEM_HOST;
    for (uint32_t p = 0; p < 2; ++p) {
        parts[p] = (struct kvw_part_desc){.name = p == 0 ? "k" : "v",
                                          .dtype = KVW_DTYPE_BF16,
                                          .row_bytes = HEAD_BYTES,
                                          .rows = HEADS,
                                          .rows_model = HEADS,
                                          .plane_bytes = sizeof(planes[0][0]),
                                          .planes = planes[p]};
        for (uint32_t l = 0; l < LAYERS; ++l) {
            layers[l] = l;
            planes[p][l] =
                (struct kvw_plane){.base = (unsigned char *)mem.base + (2 * (size_t)l + p) * PLANE,
                                   .block_stride = BLOCK_TOKENS * HEADS * HEAD_BYTES,
                                   .entry_stride = HEADS * HEAD_BYTES,
                                   .row_stride = HEAD_BYTES};
        }
    }
    return kvw_node_pool_add(s->node, &desc, &s->pool, why, size);
}

static int open_node(struct side *s, bool listen)
{
    const struct kvw_node_config cfg = {.size = sizeof(cfg),
                                        .listen = listen,
                                        .name = listen ? "decode" : "prefill",
                                        .transport = s->a->transport,
                                        .local = s->a->local,
                                        .open_by_ns = kvw_now_ns() + WAIT_NS,
                                        .codec = s->a->chosen ? 0 : KVW_CODEC_L0,
                                        .chunk_raw_bytes = 4096,
                                        .slots = 32, /* all chunks can have landed */
                                        .stages = 16,
                                        .stage_bytes = listen ? 0 : POOL,
                                        .dead_ms = s->a->stop == SIDE_RUNS ? 20000 : 5000,
                                        .gpu_plugin = s->plugin,
                                        .gpu = s->gpu,
                                        .no_twins = !s->a->twins};
    char why[257] = "";

    if (kvw_node_open(&s->node, &cfg, why, sizeof(why)) != KVW_OK ||
        add_pool(s, why, sizeof(why)) != KVW_OK)
        return failed(10, why);
    if (!listen && kvw_node_peer_add(s->node, s->a->peer, &s->peer) != KVW_OK)
        return failed(11, "the peer's address");
    return 0;
}

/* Take events until one is of that kind; false: XFER_DONE came, or none did. */
static bool next(struct side *s, uint32_t kind)
{
    const uint64_t until = kvw_now_ns() + WAIT_NS;

    while (kvw_now_ns() < until) {
        if (!kvw_node_next_event(s->node, &s->ev)) {
            (void)kvw_node_wait(s->node, until);
            continue;
        }
        if (s->ev.kind == kind)
            return true;
        if (s->ev.kind == KVW_CEV_XFER_DONE)
            return false;
    }
    snprintf(s->ev.text, sizeof(s->ev.text), "nothing came");
    return false;
}

/* A step that didn't come, since the transfer has ended or nothing has. */
static int missed(const struct side *s, int step)
{
    if (s->ev.kind == KVW_CEV_XFER_DONE && s->ev.err == KVW_E_PEER_LOST)
        return SIDE_LOST;
    return failed(step, s->ev.text[0] != '\0' ? s->ev.text : "it ended well");
}

/* By twins headers alone have crossed the transport; the peer's info says it, or why not. */
static int is_by_right_way(const struct side *s)
{
    struct kvw_peer_info info = {.size = sizeof(info)};
    const bool headers_only = s->ev.wire_bytes == s->ev.chunks * (uint64_t)KVW_CHUNK_HDR_BYTES;

    if (headers_only != s->a->twins)
        return failed(23, s->a->twins ? "streams have crossed the transport" : "no stream has");
    if (kvw_node_peer_info(s->node, s->peer, &info) != KVW_OK ||
        strcmp(info.twins, s->a->twins ? "twins: kernels write into the peer's GPU memory"
                                       : "no twins: the caller wants none") != 0)
        return failed(24, info.twins);
    return 0;
}

/* The transfer's end: as it should be, for this side. */
static int end(struct side *s)
{
    const bool lost = s->a->stop == SIDE_SURVIVES;

    if (s->ev.kind != KVW_CEV_XFER_DONE && !next(s, KVW_CEV_XFER_DONE))
        return failed(20, s->ev.text);
    if ((s->ev.err != KVW_OK) != lost)
        return missed(s, 21);
    if (lost)
        return 0;
    if (s->ev.codec != (s->a->chosen ? KVW_CODEC_RAW : KVW_CODEC_L0))
        return failed(22, "another codec was used");
    return is_by_right_way(s);
}

static void stop(const struct side *s)
{
    if (write(s->a->tell, "x", 1) == 1)
        for (;;)
            pause();
    _exit(99);
}

static const struct kvw_group_blocks sequence = {.block_count = 4, .blocks = table};

/* Staging copies by the CPU, which can't read VRAM: such a pool is refused, and the sentence says
 * so. Nothing is kept of the try. */
static bool is_not_staged(const struct side *s, char why[257])
{
    struct kvw_stage_ref ref;
    const struct kvw_stage_args args = {.size = sizeof(args),
                                        .pool = s->pool,
                                        .key = kvw_key_of("staged"),
                                        .tokens = TOKENS,
                                        .group_count = 1,
                                        .groups = &sequence,
                                        .ref = &ref};
    struct kvw_core_stats stats = {.size = sizeof(stats)};
    kvw_xfer_ref xfer;
    const kvw_err err = kvw_node_stage(s->node, &args, &xfer, why, 257);

    kvw_node_stats(s->node, &stats);
    if (s->a->stop == SIDE_HOST_POOL) /* the control */
        return err == KVW_OK;
    return err == KVW_E_UNSUPPORTED && strstr(why, "GPU's memory") != NULL && stats.staged == 0;
}

int side_prefill(const struct side_args *a)
{
    const struct kvw_key key = kvw_key_of("a request");
    char why[257] = "";
    struct side s;
    int step = open_gpu(&s, a, false);

    if (step != 0 || (step = open_node(&s, false)) != 0)
        return step;
    if (!is_not_staged(&s, why))
        return failed(12, why);
    make_kv(s.pinned->base);
    const struct kvw_stream_args args = {.size = sizeof(args),
                                         .pool = s.pool,
                                         .key = key,
                                         .tokens = TOKENS,
                                         .group_count = 1,
                                         .groups = &sequence};

    if (kvw_node_stream(s.node, &args, &s.xfer, why, sizeof(why)) != KVW_OK)
        return failed(30, why);
    for (uint32_t l = 0; l < LAYERS; ++l) {
        if (l > 0 && a->stop == SIDE_STOPS) {
            if (!next(&s, KVW_CEV_LAYER_SENT))
                return missed(&s, 34);
            stop(&s);
        }
        if (l > 0 && a->stop == SIDE_SURVIVES)
            break; /* the other one will not see a second */
        if (!copy_layer(&s, l, true))
            return failed(31, "a copy to VRAM");
        if ((a->unordered || a->stop == SIDE_HOST_POOL
                 ? kvw_node_push(s.node, s.xfer, l, TOKENS, NULL)
                 : kvw_node_push_after(s.node, s.xfer, l, TOKENS, s.compute)) != KVW_OK)
            return failed(32, "push");
    }
    if (a->stop == SIDE_RUNS && kvw_node_commit(s.node, s.xfer, NULL, 0) != KVW_OK)
        return failed(33, "commit");
    step = end(&s);
    return step != 0 ? step : close_gpu(&s);
}

/* Layers as they come: "attention" reads each on the stream. No kernel runs before all of that is
 * queued, so that the order is the events' alone. 0, or the step that failed. */
static int read_layers(struct side *s)
{
    const struct side_args *a = s->a;

    if (a->into_host)
        return 0;
    if (a->stop == SIDE_RUNS && !a->shared)
        hold(s, 1);
    for (uint32_t l = 0; l < LAYERS; ++l) {
        if (!next(s, KVW_CEV_LAYER_CAME))
            return a->stop == SIDE_SURVIVES ? 0 : missed(s, 42);
        if (!a->unordered &&
            kvw_node_layer_wait(s->node, s->xfer, s->ev.layer, s->compute) != KVW_OK)
            return failed(43, "layer_wait");
        if (!copy_layer(s, s->ev.layer, false))
            return failed(44, "a copy from VRAM");
        if (a->stop == SIDE_STOPS)
            stop(s);
    }
    hold(s, 0);
    return 0;
}

int side_decode(const struct side_args *a)
{
    char why[257] = "";
    struct side s;
    int step = open_gpu(&s, a, true);
    bool right;

    if (step != 0 || (step = open_node(&s, true)) != 0)
        return step;
    if (a->stop == SIDE_RUNS && !a->shared && !a->into_host &&
        kvw_node_layer_wait(s.node, s.xfer, 0, s.compute) != KVW_E_NOTFOUND)
        return failed(39, "layer_wait for nothing");
    if (!next(&s, KVW_CEV_PEER_UP))
        return failed(40, s.ev.text);
    s.peer = s.ev.peer;
    struct kvw_group_blocks want = sequence;
    const struct kvw_offer_terms terms = {.size = sizeof(terms), .lease_ns = LEASE_NS};
    const struct kvw_offer_args args = {.size = sizeof(args),
                                        .pool = s.pool,
                                        .key = kvw_key_of("a request"),
                                        .tokens = TOKENS,
                                        .group_count = 1,
                                        .groups = &want,
                                        .sources = &s.peer,
                                        .source_count = 1,
                                        .terms = &terms};

    want.want_end = TOKENS;
    if (kvw_node_offer(s.node, &args, &s.xfer, why, sizeof(why)) != KVW_OK)
        return failed(41, why);
    memset(s.pinned->base, 0, POOL);
    if ((step = read_layers(&s)) != 0 || (step = end(&s)) != 0)
        return step;
    if (s.driver.stream_synchronize(s.compute) != KVG_CU_SUCCESS)
        return failed(45, "the stream has failed");
    right = a->stop == SIDE_SURVIVES || is_kv(s.pinned->base);
    step = close_gpu(&s);
    return step != 0 || right ? step : SIDE_BYTES_DIFFER;
}

int side_touch(void)
{
    static const struct side_args none = {.transport = "udp", .tell = -1};
    struct side s;
    const int step = open_gpu(&s, &none, false);

    return step != 0 ? step : *(const volatile unsigned char *)s.vram->base + 100;
}
