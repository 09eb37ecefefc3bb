/* SPDX-License-Identifier: Apache-2.0 */
/*
 * day.c - what gpu/day.sh runs on a machine with a GPU, a step at a time; each prints CSV and
 * nothing else. Through the driver's table and the queue of jobs, as any program does it.
 *
 *   gpu_day IMAGE facts | ceilings | parity | speed | model | pair
 *
 * IMAGE: the fatbin of all kernels (build/kernels.fatbin). DAY_SMALL=1: sizes and counts for the
 * stand-in, whose figures say nothing.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "compress/compress.h"
#include "day.h"
#include "gpu/jobs.h"

enum {
    HEADS = 8,
    HEAD_BYTES = 256,
    TOKEN_BYTES = HEADS * HEAD_BYTES,
    BLOCK_TOKENS = 16,
    CHUNK = 1 << 19, /* raw bytes, at most */
    ROOM = CHUNK + 64,
};

void day_give_up(const char *what, const char *why)
{
    fprintf(stderr, "gpu_day: %s: %s\n", what, why);
    exit(1);
}

void day_must(struct day *y, kvw_err err, const char *what)
{
    if (err != KVW_OK)
        day_give_up(what, y->text[0] != '\0' ? y->text : kvw_strerror(err));
}

void day_must_cuda(struct day *y, kvg_result r, const char *what)
{
    if (r != KVG_CU_SUCCESS)
        day_give_up(what, kvg_driver_error(&y->d, r));
}

double day_now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- facts and ceilings ---------------------------------------------------------------------- */

static int facts(struct day *y)
{
    struct kvg_pool pool;

    day_must(y, kvg_pool_open(&pool, &y->dev, 1, y->text, sizeof(y->text)), "a pool");
    printf("fact,value\nname,%s\ndriver,%d\narch,%d\nmultiprocessors,%d\ndma-buf,%d\nrdma,%d\n"
           "needs flush,%d\ncan flush,%d\nladder,\"%s\"\n",
           y->dev.name, y->d.version, y->dev.arch, y->dev.multiprocessors, y->dev.has_dmabuf,
           y->dev.has_rdma, y->dev.needs_flush, y->dev.can_flush, pool.ladder);
    kvg_pool_close(&pool);
    return 0;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, z = *(const double *)b;

    return (x > z) - (x < z);
}

/* The median; least and most to the ends of t, which is sorted. */
double day_median(double *t, int n)
{
    qsort(t, (size_t)n, sizeof(*t), compare);
    return t[n / 2];
}

double day_copy(struct day *y, void *to, void *from, uint64_t bytes, double t[DAY_REPEATS])
{
    kvg_stream stream;

    day_must_cuda(y, y->d.stream_create(&stream, KVG_CU_STREAM_NON_BLOCKING, 0), "a stream");
    for (int i = 0; i < DAY_REPEATS; ++i) {
        const double begin = day_now_s();

        day_must_cuda(
            y, y->d.copy((kvg_devptr)(uintptr_t)to, (kvg_devptr)(uintptr_t)from, bytes, stream),
            "a copy");
        day_must_cuda(y, y->d.stream_synchronize(stream), "a copy");
        t[i] = day_now_s() - begin;
    }
    day_must_cuda(y, y->d.stream_destroy(stream), "a stream");
    return day_median(t, DAY_REPEATS);
}

static void copy_row(struct day *y, const char *name, void *to, void *from, uint64_t bytes)
{
    double t[DAY_REPEATS];
    const double m = day_copy(y, to, from, bytes, t);

    printf("%s,%llu,%.3f,%.3f,%.3f\n", name, (unsigned long long)bytes, (double)bytes / m / 1e9,
           (double)bytes / t[DAY_REPEATS - 1] / 1e9, (double)bytes / t[0] / 1e9);
}

static int ceilings(struct day *y)
{
    const uint64_t bytes = y->small ? 1 << 16 : 1u << 29;
    struct kvg_pinned pinned;
    struct kvg_pool a, b;

    day_must(y, kvg_pool_open(&a, &y->dev, bytes, y->text, sizeof(y->text)), "a pool");
    day_must(y, kvg_pool_open(&b, &y->dev, bytes, y->text, sizeof(y->text)), "a pool");
    day_must(y, kvg_pinned_open(&pinned, &y->dev, bytes, y->text, sizeof(y->text)),
             "pinned memory");
    printf("copy,bytes,GB/s,least,most\n");
    copy_row(y, "VRAM to VRAM", b.mem.base, a.mem.base, bytes);
    copy_row(y, "pinned to VRAM", a.mem.base, pinned.mem.base, bytes);
    copy_row(y, "VRAM to pinned", pinned.mem.base, a.mem.base, bytes);
    copy_row(y, "one page to pinned", pinned.mem.base, a.mem.base, 4096);
    kvg_pinned_close(&pinned);
    kvg_pool_close(&b);
    kvg_pool_close(&a);
    return 0;
}

/* ---- chunks ---------------------------------------------------------------------------------- */

/* KV in two pools and room for streams, for up to `bytes` raw ones. */
struct bench {
    struct day *y;
    uint64_t bytes, chunk;
    uint32_t count;
    struct kvg_pool from, to, streams;
    struct kvg_pinned host; /* values, then streams */
    uint32_t *table;        /* blocks of the pool, in a drawn order */
    struct kvw_jobs *q;
    struct kvw_job *jobs;
    uint64_t *lengths;
};

static uint64_t drawn = 88172645463325252ull;

static uint32_t draw(void)
{
    drawn ^= drawn << 13;
    drawn ^= drawn >> 7;
    drawn ^= drawn << 17;
    return (uint32_t)(drawn >> 16);
}

/* Values as KV has them: near 2^0, each column with a scale of its own. fp16 and bf16 differ in
 * where the exponent is. */
static void fill(uint16_t *values, uint64_t n, kvw_dtype dtype)
{
    const int mantissa = dtype == KVW_DTYPE_BF16 ? 7 : 10,
              bias = dtype == KVW_DTYPE_BF16 ? 127 : 15;

    for (uint64_t i = 0; i < n; ++i) {
        const uint32_t r = draw(), column = (uint32_t)(i % (TOKEN_BYTES / 2));
        const int exponent = bias - __builtin_ctz(r | 1u << 12) - (int)(column * 7 % 5);

        values[i] =
            (uint16_t)((r >> 13 & ((1u << mantissa) - 1)) |
                       (uint32_t)(exponent > 0 ? exponent : 0) << mantissa | (r >> 31) << 15);
    }
}

static void open_bench(struct bench *b, struct day *y, uint64_t bytes)
{
    const uint32_t blocks =
        (uint32_t)((bytes + BLOCK_TOKENS * TOKEN_BYTES - 1) / (BLOCK_TOKENS * TOKEN_BYTES));
    const uint64_t pool = (uint64_t)blocks * BLOCK_TOKENS * TOKEN_BYTES;
    struct kvg_jobs_config cfg = {.image = y->image,
                                  .chunk_bytes = CHUNK,
                                  .columns = TOKEN_BYTES / 2,
                                  .table_blocks = CHUNK / TOKEN_BYTES / BLOCK_TOKENS + 1};

    memset(b, 0, sizeof(*b));
    b->y = y;
    b->bytes = bytes;
    b->chunk = y->small ? bytes / 4 : bytes < CHUNK ? bytes : CHUNK;
    b->count = (uint32_t)(bytes / b->chunk);
    cfg.jobs_max = b->count;
    day_must(y, kvg_pool_open(&b->from, &y->dev, pool, y->text, sizeof(y->text)), "a pool");
    day_must(y, kvg_pool_open(&b->to, &y->dev, pool, y->text, sizeof(y->text)), "a pool");
    day_must(
        y, kvg_pool_open(&b->streams, &y->dev, (uint64_t)b->count * ROOM, y->text, sizeof(y->text)),
        "streams");
    day_must(y,
             kvg_pinned_open(&b->host, &y->dev, pool + (uint64_t)b->count * ROOM, y->text,
                             sizeof(y->text)),
             "pinned memory");
    day_must(y, kvg_jobs_open(&b->q, &y->dev, &cfg, y->text, sizeof(y->text)), "a queue");
    b->table = calloc(blocks, sizeof(*b->table));
    b->jobs = calloc(b->count, sizeof(*b->jobs));
    b->lengths = calloc(b->count, sizeof(*b->lengths));
    if (b->table == NULL || b->jobs == NULL || b->lengths == NULL)
        day_give_up("a bench", "no memory");
    for (uint32_t i = 0; i < blocks; ++i) {
        const uint32_t k = draw() % (i + 1);

        b->table[i] = b->table[k];
        b->table[k] = i;
    }
}

static void close_bench(struct bench *b)
{
    b->q->ops->close(b->q);
    kvg_pinned_close(&b->host);
    kvg_pool_close(&b->streams);
    kvg_pool_close(&b->to);
    kvg_pool_close(&b->from);
    free(b->table);
    free(b->jobs);
    free(b->lengths);
}

/* Chunk i of a pool. */
static struct kvw_view view_of(const struct bench *b, void *base, uint32_t i, kvw_dtype dtype)
{
    const uint32_t tokens = (uint32_t)(b->chunk / TOKEN_BYTES);

    return (struct kvw_view){.base = base,
                             .blocks = b->table,
                             .block_tokens = BLOCK_TOKENS,
                             .first_token = i * tokens,
                             .tokens = tokens,
                             .heads = HEADS,
                             .head_bytes = HEAD_BYTES,
                             .dtype = dtype,
                             .block_stride = (uint64_t)BLOCK_TOKENS * TOKEN_BYTES,
                             .token_stride = TOKEN_BYTES,
                             .head_stride = HEAD_BYTES};
}

static unsigned char *stream_of(const struct bench *b, bool pinned, uint32_t i)
{
    unsigned char *base =
        pinned ? (unsigned char *)b->host.mem.base + b->host.mem.bytes - (uint64_t)b->count * ROOM
               : b->streams.mem.base;

    return base + (uint64_t)i * ROOM;
}

struct way {
    const struct kvw_codec_ops *codec;
    kvw_dtype dtype;
    bool pinned, decode;
};

/* All chunks one way; the seconds from the first submit to the last result. */
static double run(struct bench *b, const struct way *w)
{
    const double begin = day_now_s();

    for (uint32_t i = 0; i < b->count; ++i) {
        struct kvw_job *j = &b->jobs[i];

        *j = (struct kvw_job){
            .codec = w->codec,
            .args = {.kv = i % 2},
            .view = view_of(b, w->decode ? b->to.mem.base : b->from.mem.base, i, w->dtype),
            .digest = KVW_DIGEST_LANES,
            .kind = w->decode ? KVW_JOB_DECODE : KVW_JOB_ENCODE,
            .to = stream_of(b, w->pinned, i),
            .to_bytes = ROOM,
            .from = stream_of(b, w->pinned, i),
            .stream_bytes = b->lengths[i]};
        day_must(b->y, b->q->ops->submit(b->q, j), "submit");
    }
    b->q->ops->flush(b->q);
    for (uint32_t i = 0; i < b->count; ++i)
        while (!b->q->ops->done(b->q, &b->jobs[i]))
            if (day_now_s() - begin > 60)
                day_give_up("a job", "not done after 60 s");
    return day_now_s() - begin;
}

/* ---- parity ---------------------------------------------------------------------------------- */

static void *scratch_for(const struct kvw_codec_ops *codec)
{
    static void *scratch;
    static uint64_t bytes;
    const uint64_t need = (codec->scratch_bytes(CHUNK) + 127) / 64 * 64;

    if (need > bytes) {
        free(scratch);
        scratch = aligned_alloc(64, need);
        bytes = need;
    }
    if (scratch == NULL)
        day_give_up("scratch", "no memory");
    return scratch;
}

/* Whether chunk i's stream, digest and values are the plain C code's. */
static bool is_plain(struct bench *b, const struct way *w, uint32_t i, const unsigned char *back)
{
    static unsigned char want[ROOM], values[CHUNK];
    const struct kvw_view from = view_of(b, b->host.mem.base, i, w->dtype);
    struct kvw_view to = view_of(b, values, 0, w->dtype), got = view_of(b, NULL, i, w->dtype);
    const struct kvw_codec_args args = {.kv = i % 2};
    static const uint32_t one[1] = {0};
    struct kvw_digest digest;
    uint64_t bytes = 0;
    bool same;

    to.blocks = one; /* side by side */
    to.block_tokens = to.tokens;
    got.base = (unsigned char *)(uintptr_t)back;
    if (kvw_digest_begin_chunk(&digest, KVW_DIGEST_LANES, &from) != KVW_OK ||
        w->codec->encode(&from, &args, want, sizeof(want), &bytes, &digest,
                         scratch_for(w->codec)) != KVW_OK)
        day_give_up("plain C", "encode failed");
    same = bytes == b->lengths[i] && memcmp(want, stream_of(b, true, i), bytes) == 0 &&
           b->jobs[i].err == KVW_OK && b->jobs[i].digest_value == kvw_digest_value(&digest);
    if (kvw_digest_begin_chunk(&digest, KVW_DIGEST_LANES, &from) != KVW_OK ||
        w->codec->decode(want, bytes, NULL, &to, &digest, scratch_for(w->codec)) != KVW_OK)
        day_give_up("plain C", "decode failed");
    for (uint32_t t = 0; t < to.tokens && same; ++t)
        same = memcmp(kvw_view_at(&got, t, 0), values + (size_t)t * TOKEN_BYTES, TOKEN_BYTES) == 0;
    return same;
}

static uint32_t parity_of(struct bench *b, struct way *w, unsigned char *back)
{
    uint32_t same = 0;

    fill(b->host.mem.base, b->bytes / 2, w->dtype);
    day_must(b->y,
             b->from.mem.device->copy_in(b->from.mem.device->arg, b->from.mem.base,
                                         b->host.mem.base, b->bytes),
             "copy");
    w->decode = false;
    (void)run(b, w);
    for (uint32_t i = 0; i < b->count; ++i)
        b->lengths[i] = b->jobs[i].err == KVW_OK ? b->jobs[i].stream_bytes : 0;
    w->decode = true;
    (void)run(b, w);
    day_must(b->y,
             b->to.mem.device->copy_out(b->to.mem.device->arg, back, b->to.mem.base, b->bytes),
             "copy");
    for (uint32_t i = 0; i < b->count; ++i)
        same += is_plain(b, w, i, back);
    return same;
}

static const struct {
    const struct kvw_codec_ops *codec;
    kvw_dtype dtype;
    const char *name;
} kinds[] = {
    {&kvc_codec_raw, KVW_DTYPE_BF16, "raw"},  {&kvc_codec_l0, KVW_DTYPE_BF16, "l0 bf16"},
    {&kvc_codec_l0, KVW_DTYPE_F16, "l0 f16"}, {&kvc_codec_e8, KVW_DTYPE_BF16, "e8 bf16"},
    {&kvc_codec_e8, KVW_DTYPE_F16, "e8 f16"}, {&kvc_codec_e4, KVW_DTYPE_BF16, "e4 bf16"},
    {&kvc_codec_e4, KVW_DTYPE_F16, "e4 f16"},
};
#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

static int parity(struct day *y)
{
    const uint64_t bytes = y->small ? 1 << 15 : 64ull << 20;
    unsigned char *back = malloc(bytes + BLOCK_TOKENS * TOKEN_BYTES);
    struct bench b;
    int bad = 0;

    if (back == NULL)
        day_give_up("parity", "no memory");
    open_bench(&b, y, bytes);
    printf("codec,chunks,equal\n");
    for (size_t k = 0; k < KINDS; ++k) {
        struct way w = {kinds[k].codec, kinds[k].dtype, true, false};
        const uint32_t same = parity_of(&b, &w, back);

        printf("%s,%u,%u\n", kinds[k].name, b.count, same);
        bad += same != b.count;
    }
    close_bench(&b);
    free(back);
    return bad > 0;
}

/* ---- speed ----------------------------------------------------------------------------------- */

static void speed_row(struct bench *b, struct way *w, const char *name)
{
    const int repeats = b->y->small ? 1 : DAY_REPEATS;
    double t[DAY_REPEATS];
    uint64_t wire = 0;

    (void)run(b, w); /* warm */
    for (uint32_t i = 0; i < b->count; ++i) {
        if (b->jobs[i].err != KVW_OK)
            day_give_up(name, kvw_strerror(b->jobs[i].err));
        b->lengths[i] = b->jobs[i].stream_bytes;
        wire += b->lengths[i];
    }
    for (int i = 0; i < repeats; ++i)
        t[i] = run(b, w);

    const double m = day_median(t, repeats);

    printf("%s,%s,%s,%llu,%.3f,%.3f,%.3f,%.4f\n", name, w->decode ? "decode" : "encode",
           w->pinned ? "pinned" : "VRAM", (unsigned long long)b->bytes, (double)b->bytes / m / 1e9,
           (double)b->bytes / t[repeats - 1] / 1e9, (double)b->bytes / t[0] / 1e9,
           (double)b->bytes / (double)wire);
    fflush(stdout);
}

static int speed(struct day *y)
{
    static const uint64_t large[] = {1 << 16, 1 << 19, 2u << 20, 32u << 20, 512u << 20};
    static const uint64_t few[] = {1 << 13, 1 << 14};
    const uint64_t *sizes = y->small ? few : large;
    const size_t count = y->small ? sizeof(few) / sizeof(few[0]) : sizeof(large) / sizeof(large[0]);

    printf("codec,direction,streams,raw bytes,GB/s,least,most,ratio\n");
    for (size_t s = 0; s < count; ++s) {
        struct bench b;

        open_bench(&b, y, sizes[s]);
        fill(b.host.mem.base, b.bytes / 2, KVW_DTYPE_BF16);
        day_must(y,
                 b.from.mem.device->copy_in(b.from.mem.device->arg, b.from.mem.base,
                                            b.host.mem.base, b.bytes),
                 "copy");
        for (size_t k = 0; k < KINDS; ++k)
            for (int i = 0; i < 4 && kinds[k].dtype == KVW_DTYPE_BF16; ++i) {
                struct way w = {kinds[k].codec, kinds[k].dtype, i / 2 == 1, i % 2 == 1};

                speed_row(&b, &w, kinds[k].name);
            }
        close_bench(&b);
    }
    return 0;
}

/* ---- two processes --------------------------------------------------------------------------- */

static int send_fd(int socket, int fd)
{
    char control[CMSG_SPACE(sizeof(int))] = {0}, byte = 0;
    struct iovec iov = {&byte, 1};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control,
                       .msg_controllen = sizeof(control)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &fd, sizeof(fd));
    return sendmsg(socket, &m, 0) == 1 ? 0 : -1;
}

static int receive_fd(int socket)
{
    char control[CMSG_SPACE(sizeof(int))] = {0}, byte;
    struct iovec iov = {&byte, 1};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control,
                       .msg_controllen = sizeof(control)};
    int fd = -1;

    if (recvmsg(socket, &m, MSG_CMSG_CLOEXEC) == 1 && CMSG_FIRSTHDR(&m) != NULL)
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(fd));
    return fd;
}

static void open_gpu(struct day *y)
{
    day_must(y, kvg_driver_open(&y->d, y->text, sizeof(y->text)), "the driver");
    day_must(y, kvg_device_open(&y->dev, &y->d, 0, y->text, sizeof(y->text)), "the GPU");
}

/* The other process: it maps the pool and copies from there, as a decode node of the host does. */
static int pair_child(struct day *y, int socket, uint64_t bytes)
{
    unsigned char *back = malloc(bytes);
    struct kvg_pool theirs, own;
    uint64_t wrong = 0;
    int fd;

    open_gpu(y);
    fd = receive_fd(socket);
    day_must(y, kvg_pool_import(&theirs, &y->dev, fd, bytes, y->text, sizeof(y->text)), "import");
    close(fd);
    day_must(y, kvg_pool_open(&own, &y->dev, bytes, y->text, sizeof(y->text)), "a pool");
    printf("copy,bytes,GB/s,least,most\n");
    copy_row(y, "other process's VRAM to VRAM", own.mem.base, theirs.mem.base, bytes);
    if (back == NULL ||
        own.mem.device->copy_out(own.mem.device->arg, back, own.mem.base, bytes) != KVW_OK)
        day_give_up("pair", "copy out failed");
    for (uint64_t i = 0; i < bytes; ++i)
        wrong += back[i] != (unsigned char)(i * 131 >> 3);
    printf("wrong bytes,%llu,,,\n", (unsigned long long)wrong);
    fflush(stdout);
    free(back);
    kvg_pool_close(&own);
    kvg_pool_close(&theirs);
    return wrong != 0;
}

/* Forked before either has opened the driver. */
static int pair(struct day *y)
{
    const uint64_t bytes = y->small ? 1 << 16 : 256u << 20;
    struct kvg_pinned pinned;
    struct kvg_pool pool;
    int ends[2], fd = -1, status = 1;
    pid_t child;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) != 0 || (child = fork()) < 0)
        day_give_up("pair", "no second process");
    if (child == 0)
        _exit(pair_child(y, ends[1], bytes));
    open_gpu(y);
    day_must(y, kvg_pool_open(&pool, &y->dev, bytes, y->text, sizeof(y->text)), "a pool");
    day_must(y, kvg_pinned_open(&pinned, &y->dev, bytes, y->text, sizeof(y->text)),
             "pinned memory");
    for (uint64_t i = 0; i < bytes; ++i)
        ((unsigned char *)pinned.mem.base)[i] = (unsigned char)(i * 131 >> 3);
    day_must(y,
             pool.mem.device->copy_in(pool.mem.device->arg, pool.mem.base, pinned.mem.base, bytes),
             "copy");
    day_must(y, kvg_pool_export(&pool, &fd), "export");
    if (send_fd(ends[0], fd) != 0)
        day_give_up("pair", "the descriptor can't be sent");
    close(fd);
    if (waitpid(child, &status, 0) != child)
        status = 1;
    kvg_pinned_close(&pinned);
    kvg_pool_close(&pool);
    return status != 0;
}

/* ---- steps ----------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    int (*run)(struct day *y);
    bool opens; /* the GPU itself */
} steps[] = {{"facts", facts, false}, {"ceilings", ceilings, false}, {"parity", parity, false},
             {"speed", speed, false}, {"model", day_model, false},   {"pair", pair, true}};

static void *read_image(const char *path)
{
    FILE *f = fopen(path, "rb");
    char *image = calloc(1, 64u << 20);

    if (f == NULL || image == NULL || fread(image, 1, (64u << 20) - 1, f) == 0)
        day_give_up(path, "can't be read");
    fclose(f);
    return image;
}

int main(int argc, char **argv)
{
    static struct day y;
    const char *small = getenv("DAY_SMALL");

    if (argc != 3) {
        fprintf(stderr, "usage: gpu_day IMAGE facts|ceilings|parity|speed|model|pair\n");
        return 2;
    }
    y.image = read_image(argv[1]);
    y.small = small != NULL && strcmp(small, "1") == 0;
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); ++i) {
        int bad;

        if (strcmp(argv[2], steps[i].name) != 0)
            continue;
        if (!steps[i].opens)
            open_gpu(&y);
        bad = steps[i].run(&y);
        kvg_device_close(&y.dev);
        kvg_driver_close(&y.d);
        free(y.image);
        return bad;
    }
    fprintf(stderr, "gpu_day: no step '%s'\n", argv[2]);
    return 2;
}
