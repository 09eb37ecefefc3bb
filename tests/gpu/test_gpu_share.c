/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two processes of one host share a pool by a file descriptor: each sees the other's bytes, the
 * memory outlives the process that made it, and a killed one takes nothing with it. And KV by that
 * way: one's kernels encode into shared VRAM, the other's decode from there.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "compress/compress.h"
#include "fake_ask.h"
#include "gpu/jobs.h"
#include "gpu/share.h"

#define BYTES 2500000u

static void send_fd(int socket, int fd)
{
    char byte = 1, control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec iov = {&byte, 1};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control,
                         .msg_controllen = sizeof(control)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &fd, sizeof(fd));
    if (sendmsg(socket, &msg, 0) != 1)
        abort();
}

static int receive_fd(int socket)
{
    char byte, control[CMSG_SPACE(sizeof(int))];
    struct iovec iov = {&byte, 1};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control,
                         .msg_controllen = sizeof(control)};
    int fd = -1;

    if (recvmsg(socket, &msg, MSG_CMSG_CLOEXEC) == 1 && CMSG_FIRSTHDR(&msg) != NULL)
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
    return fd;
}

static void tell(int socket)
{
    if (write(socket, "x", 1) != 1)
        _exit(99);
}

static void hear(int socket)
{
    char byte;

    if (read(socket, &byte, 1) != 1)
        _exit(98);
}

/* The importer: 0, or the number of the step that failed. */
static int importer(int socket)
{
    static unsigned char out[BYTES];
    struct kvg_driver driver;
    struct kvg_device dev;
    struct kvg_pool pool;
    char text[256];

    alarm(60);
    setenv("KVW_LIBCUDA", FAKECUDA, 1);
    if (kvg_driver_open(&driver, text, sizeof(text)) != KVW_OK ||
        kvg_device_open(&dev, &driver, 0, text, sizeof(text)) != KVW_OK)
        return 1;

    const int fd = receive_fd(socket);

    if (kvg_pool_import(&pool, &dev, fd, BYTES, text, sizeof(text)) != KVW_OK)
        return 2;
    close(fd);

    const struct kvw_mem_device *help = pool.mem.device;

    if (help->copy_out(help->arg, out, pool.mem.base, BYTES) != KVW_OK)
        return 3;
    for (unsigned i = 0; i < BYTES; ++i)
        if (out[i] != (unsigned char)(i * 7))
            return 4;
    memset(out, 0x55, 1000);
    if (help->copy_in(help->arg, (char *)pool.mem.base + 500, out, 1000) != KVW_OK)
        return 5;
    tell(socket);
    hear(socket); /* the exporter has closed the pool */
    if (help->copy_out(help->arg, out, (char *)pool.mem.base + 400, 200) != KVW_OK)
        return 6;
    if (out[0] != (unsigned char)(400 * 7) || out[199] != 0x55)
        return 7;
    kvg_pool_close(&pool);
    kvg_device_close(&dev);
    return 0;
}

static void fill(const struct kvg_pool *pool)
{
    unsigned char *in = malloc(BYTES);

    for (unsigned i = 0; i < BYTES; ++i)
        in[i] = (unsigned char)(i * 7);
    cr_assert_eq(pool->mem.device->copy_in(pool->mem.device->arg, pool->mem.base, in, BYTES), 0);
    free(in);
}

/* fork() first: a child can't use its parent's context. */
static pid_t start(int sockets[2])
{
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), 0);

    const pid_t child = fork();

    if (child == 0) {
        close(sockets[0]);
        _exit(importer(sockets[1]));
    }
    close(sockets[1]);
    return child;
}

static void export_to(const struct t_gpu *g, struct kvg_pool *pool, int socket)
{
    char text[256] = "";
    int fd = -1;

    cr_assert_eq(kvg_pool_open(pool, &g->dev, BYTES, text, sizeof(text)), KVW_OK, "%s", text);
    fill(pool);
    cr_assert_eq(kvg_pool_export(pool, &fd), KVW_OK);
    cr_expect_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
    send_fd(socket, fd);
    close(fd);
}

Test(gpu_share, both_see_the_bytes, .timeout = 60)
{
    int sockets[2], status = -1;
    const pid_t child = start(sockets);
    unsigned char out[2000];
    struct kvg_pool pool;
    struct t_gpu g;

    t_gpu_open(&g);
    export_to(&g, &pool, sockets[0]);
    hear(sockets[0]);

    const struct kvw_mem_device *help = pool.mem.device;

    cr_expect_eq(help->copy_out(help->arg, out, pool.mem.base, sizeof(out)), KVW_OK);
    cr_expect_eq(out[499], (unsigned char)(499 * 7));
    cr_expect_eq(out[500], 0x55);
    cr_expect_eq(out[1499], 0x55);
    cr_expect_eq(out[1500], (unsigned char)(1500 * 7));
    kvg_pool_close(&pool);
    tell(sockets[0]);
    waitpid(child, &status, 0);
    cr_expect_eq(status, 0, "the importer failed in step %d", status >> 8);
    t_gpu_close(&g);
}

Test(gpu_share, importer_killed, .timeout = 60)
{
    int sockets[2], status = -1;
    const pid_t child = start(sockets);
    struct kvg_pool pool;
    struct t_gpu g;

    t_gpu_open(&g);
    const int fds = t_open_fds();

    export_to(&g, &pool, sockets[0]);
    hear(sockets[0]); /* it has the pool mapped */
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    fill(&pool);
    kvg_pool_close(&pool);
    cr_expect_eq(t_open_fds(), fds);
    t_gpu_close(&g);
}

/* Descriptors and sizes come from another process: each is checked. */
Test(gpu_share, what_is_no_pool_is_refused, .timeout = 60)
{
    const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    struct kvg_pool pool, other;
    char text[256] = "";
    struct t_gpu g;
    int fd = -1;

    t_gpu_open(&g);
    cr_assert_eq(kvg_pool_open(&pool, &g.dev, BYTES, text, sizeof(text)), KVW_OK);
    cr_assert_eq(kvg_pool_export(&pool, &fd), KVW_OK);
    const int live = t_live_total(&g.driver), fds = t_open_fds();

    cr_expect_eq(kvg_pool_import(&other, &g.dev, null, BYTES, text, sizeof(text)), KVW_E_DEVICE);
    cr_expect_not_null(strstr(text, "importing device memory"), "%s", text);
    cr_expect_eq(kvg_pool_import(&other, &g.dev, -1, BYTES, text, sizeof(text)), KVW_E_DEVICE);
    cr_expect_eq(kvg_pool_import(&other, &g.dev, fd, 0, text, sizeof(text)), KVW_E_INVALID);
    cr_expect_eq(kvg_pool_import(&other, &g.dev, fd, 2 * BYTES, text, sizeof(text)), KVW_E_DEVICE);
    cr_expect_null(other.dev);
    for (unsigned nth = 1; nth <= 7; ++nth) {
        t_fail(&g.driver, nth, KVG_CU_OUT_OF_MEMORY);
        cr_expect_eq(kvg_pool_import(&other, &g.dev, fd, BYTES, text, sizeof(text)), KVW_E_NOMEM);
        cr_expect_eq(t_live_total(&g.driver), live, "call %u", nth);
        cr_expect_eq(t_open_fds(), fds, "call %u", nth);
    }
    t_fail(&g.driver, 2, KVG_CU_OUT_OF_MEMORY);
    cr_expect_eq(kvg_pool_export(&pool, &fd), KVW_E_NOMEM);
    close(fd);
    close(null);
    kvg_pool_close(&pool);
    t_gpu_close(&g);
}

/* ---- KV -------------------------------------------------------------------------------------- */

enum {
    CHUNKS = 4,
    TOKENS = 32,
    ROW = 256, /* bytes of a token: two heads of 64 values */
    RAW = TOKENS * ROW,
    ROOM = RAW + 64, /* of a chunk's stream */
};

static const uint32_t table[2] = {1, 0};

/* What one tells the other of a chunk whose stream is there. */
struct note {
    uint64_t bytes, digest;
};

/* A side: its own pool and queue, the streams in memory that both have, and a model's stream. */
struct kv_side {
    struct kvg_driver driver;
    struct kvg_device dev;
    struct kvg_pool kv, streams;
    struct kvg_pinned host; /* CHUNKS * RAW, as the pool */
    struct kvw_jobs *q;
    kvg_stream compute;
    struct kvw_job jobs[CHUNKS];
};

/* 0, or the step that failed. fd -1: the streams are this side's own. */
static int kv_open(struct kv_side *s, int fd)
{
    const struct kvg_jobs_config cfg = {.image = FAKECUDA_IMAGE,
                                        .jobs_max = CHUNKS,
                                        .chunk_bytes = RAW,
                                        .columns = ROW / 2,
                                        .table_blocks = 2};
    char text[256];

    setenv("KVW_LIBCUDA", FAKECUDA, 1);
    if (kvg_driver_open(&s->driver, text, sizeof(text)) != KVW_OK ||
        kvg_device_open(&s->dev, &s->driver, 0, text, sizeof(text)) != KVW_OK ||
        kvg_pool_open(&s->kv, &s->dev, CHUNKS * RAW, text, sizeof(text)) != KVW_OK ||
        kvg_pinned_open(&s->host, &s->dev, CHUNKS * RAW, text, sizeof(text)) != KVW_OK)
        return 1;
    if ((fd < 0 ? kvg_pool_open(&s->streams, &s->dev, CHUNKS * ROOM, text, sizeof(text))
                : kvg_pool_import(&s->streams, &s->dev, fd, CHUNKS * ROOM, text, sizeof(text))) !=
        KVW_OK)
        return 2;
    if (kvg_jobs_open(&s->q, &s->dev, &cfg, text, sizeof(text)) != KVW_OK ||
        s->driver.stream_create(&s->compute, KVG_CU_STREAM_NON_BLOCKING, 0) != KVG_CU_SUCCESS)
        return 3;
    return 0;
}

static void kv_close(struct kv_side *s)
{
    s->q->ops->close(s->q);
    (void)s->driver.stream_destroy(s->compute);
    kvg_pinned_close(&s->host);
    kvg_pool_close(&s->streams);
    kvg_pool_close(&s->kv);
    kvg_device_close(&s->dev);
    kvg_driver_close(&s->driver);
}

/* Submit and begin the job of one chunk. */
static kvw_err kv_code(struct kv_side *s, uint32_t i, enum kvw_job_kind kind, uint64_t bytes)
{
    unsigned char *stream = (unsigned char *)s->streams.mem.base + (size_t)i * ROOM;
    kvw_err err;

    s->jobs[i] = (struct kvw_job){
        .codec = &kvc_codec_l0,
        .kind = kind,
        .digest = KVW_DIGEST_LANES,
        .to = stream,
        .to_bytes = ROOM,
        .from = stream,
        .stream_bytes = bytes,
        .view = {.base = (unsigned char *)s->kv.mem.base + (size_t)i * RAW,
                 .blocks = table,
                 .block_tokens = 16,
                 .tokens = TOKENS,
                 .heads = 2,
                 .head_bytes = ROW / 2,
                 .dtype = KVW_DTYPE_BF16,
                 .block_stride = 16 * ROW,
                 .token_stride = ROW,
                 .head_stride = ROW / 2},
    };
    err = s->q->ops->submit(s->q, &s->jobs[i]);
    s->q->ops->flush(s->q);
    return err;
}

static bool kv_done(struct kv_side *s, uint32_t i)
{
    unsigned n = 0;

    while (!s->q->ops->done(s->q, &s->jobs[i]) && n < 100000)
        ++n;
    return n < 100000 && s->jobs[i].err == KVW_OK;
}

/* The same chunk in the pool and in host memory, by the model's stream. */
static kvg_result kv_copy(struct kv_side *s, uint32_t i, bool to_pool)
{
    const kvg_devptr pool = (kvg_devptr)(uintptr_t)s->kv.mem.base + i * RAW;
    const kvg_devptr host = (kvg_devptr)(uintptr_t)s->host.mem.base + i * RAW;

    return s->driver.copy(to_pool ? pool : host, to_pool ? host : pool, RAW, s->compute);
}

static void kv_make(unsigned char *to)
{
    for (uint32_t i = 0; i < CHUNKS * RAW; ++i)
        to[i] = (unsigned char)(i % 2 == 1 ? 0x3f : i * 2654435761u >> 24);
}

/* Decode's process: 0, the step that failed, or 50: bytes differ. */
static int kv_importer(int socket, bool ordered)
{
    static unsigned char want[CHUNKS * RAW];
    static struct kv_side s;
    struct note note[CHUNKS];
    const int fd = receive_fd(socket), step = kv_open(&s, fd);

    alarm(60);
    if (step != 0)
        return step;
    close(fd);
    for (uint32_t i = 0; i < CHUNKS; ++i) {
        if (read(socket, &note[i], sizeof(note[i])) != (ssize_t)sizeof(note[i]) ||
            kv_code(&s, i, KVW_JOB_DECODE, note[i].bytes) != KVW_OK)
            return 4;
        if (ordered && s.q->ops->before(s.q, s.compute) != KVW_OK)
            return 5;
        if (kv_copy(&s, i, false) != KVG_CU_SUCCESS)
            return 6;
    }
    if (s.driver.stream_synchronize(s.compute) != KVG_CU_SUCCESS)
        return 7;
    kv_make(want);
    const bool same = memcmp(s.host.mem.base, want, sizeof(want)) == 0;

    for (uint32_t i = 0; i < CHUNKS; ++i)
        if (!kv_done(&s, i) || s.jobs[i].digest_value != note[i].digest)
            return 8;
    kv_close(&s);
    return same ? 0 : 50;
}

/* Prefill is this process: encode each chunk behind the stream that computes it. */
static int kv_run(unsigned seed, bool ordered)
{
    static struct kv_side s;
    int sockets[2], status = -1, fd = -1;
    char text[16];

    snprintf(text, sizeof(text), "%u", seed);
    setenv("FAKECUDA_SEED", text, 1);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), 0);
    const pid_t child = fork();

    if (child == 0)
        _exit(kv_importer(sockets[1], ordered));
    close(sockets[1]);
    cr_assert_eq(kv_open(&s, -1), 0);
    cr_assert_eq(kvg_pool_export(&s.streams, &fd), KVW_OK);
    send_fd(sockets[0], fd);
    close(fd);
    kv_make(s.host.mem.base);
    for (uint32_t i = 0; i < CHUNKS; ++i) {
        cr_assert_eq(kv_copy(&s, i, true), KVG_CU_SUCCESS);
        cr_assert_eq(s.q->ops->after(s.q, s.compute), KVW_OK);
        cr_assert_eq(kv_code(&s, i, KVW_JOB_ENCODE, 0), KVW_OK);
    }
    for (uint32_t i = 0; i < CHUNKS; ++i) {
        cr_assert(kv_done(&s, i));
        const struct note note = {s.jobs[i].stream_bytes, s.jobs[i].digest_value};

        cr_expect_lt(note.bytes, RAW);
        cr_assert_eq(write(sockets[0], &note, sizeof(note)), (ssize_t)sizeof(note));
    }
    waitpid(child, &status, 0);
    close(sockets[0]);
    kv_close(&s);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

Test(gpu_share, kv_by_shared_vram, .timeout = 100)
{
    int early = 0;

    for (unsigned seed = 1; seed <= 3; ++seed)
        cr_expect_eq(kv_run(seed, true), 0, "seed %u", seed);
    for (unsigned seed = 1; seed <= 8 && early == 0; ++seed)
        early = kv_run(seed, false);
    cr_expect_eq(early, 50, "without before() some copy comes too early");
}

/* ---- by token -------------------------------------------------------------------------------- */

/* The exporter's process: shares a pool, tells its token, and waits. */
static int sharer(int socket)
{
    struct kvg_driver driver;
    struct kvg_device dev;
    struct kvg_share share;
    struct kvg_pool pool;
    char text[256];

    alarm(60);
    setenv("KVW_LIBCUDA", FAKECUDA, 1);
    if (kvg_driver_open(&driver, text, sizeof(text)) != KVW_OK ||
        kvg_device_open(&dev, &driver, 0, text, sizeof(text)) != KVW_OK ||
        kvg_pool_open(&pool, &dev, BYTES, text, sizeof(text)) != KVW_OK ||
        pool.mem.device->copy_in(pool.mem.device->arg, pool.mem.base, "by token", 9) != KVW_OK ||
        kvg_share_open(&share, &pool, text, sizeof(text)) != KVW_OK)
        return 1;
    if (write(socket, share.token, KVG_TOKEN_BYTES) != KVG_TOKEN_BYTES)
        return 2;
    hear(socket);
    kvg_share_close(&share);
    kvg_share_close(&share); /* of one that is closed: nothing */
    kvg_pool_close(&pool);
    kvg_device_close(&dev);
    return 0;
}

struct shared {
    int socket;
    pid_t child;
    uint8_t token[KVG_TOKEN_BYTES];
};

/* user: whose its process is; 0: this one's. */
static void start_sharer(struct shared *s, uid_t user)
{
    int sockets[2];

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), 0);
    if ((s->child = fork()) == 0) {
        close(sockets[0]);
        _exit(user != 0 && setuid(user) != 0 ? 97 : sharer(sockets[1]));
    }
    close(sockets[1]);
    s->socket = sockets[0];
    cr_assert_eq(read(s->socket, s->token, KVG_TOKEN_BYTES), KVG_TOKEN_BYTES);
}

static void end_sharer(struct shared *s)
{
    int status = -1;

    tell(s->socket);
    waitpid(s->child, &status, 0);
    cr_expect_eq(status, 0, "the sharer failed in step %d", status >> 8);
    close(s->socket);
}

static void expect_unreached(const struct t_gpu *g, const uint8_t *token, kvw_err err,
                             const char *says)
{
    const int live = t_live_total(&g->driver), fds = t_open_fds();
    char text[256] = "";
    struct kvg_pool pool;

    cr_expect_eq(kvg_share_reach(&pool, &g->dev, token, BYTES, text, sizeof(text)), err, "%s",
                 text);
    cr_expect_not_null(strstr(text, says), "%s", text);
    cr_expect_null(pool.dev);
    cr_expect_eq(t_live_total(&g->driver), live);
    cr_expect_eq(t_open_fds(), fds);
}

/* Who knows the token maps the bytes, as often as he likes; what can be wrong is a sentence each,
 * and nothing is kept. */
Test(gpu_share, by_token, .timeout = 60)
{
    uint8_t none[KVG_TOKEN_BYTES] = {1};
    char out[9] = "", text[256] = "";
    struct kvg_pool pool;
    struct shared s;
    struct t_gpu g;

    start_sharer(&s, 0);
    t_gpu_open(&g);
    for (int i = 0; i < 3; ++i) {
        cr_assert_eq(kvg_share_reach(&pool, &g.dev, s.token, BYTES, text, sizeof(text)), KVW_OK,
                     "%s", text);
        cr_expect_eq(pool.mem.device->copy_out(pool.mem.device->arg, out, pool.mem.base, 9), 0);
        cr_expect_str_eq(out, "by token");
        kvg_pool_close(&pool);
    }
    expect_unreached(&g, none, KVW_E_NOTFOUND, "the peer's GPU memory isn't on this host");
    for (unsigned nth = 1; nth <= 7; ++nth) {
        t_fail(&g.driver, nth, KVG_CU_OUT_OF_MEMORY);
        expect_unreached(&g, s.token, KVW_E_NOMEM, "");
    }
    t_fail(&g.driver, 0, 0);
    kill(s.child, SIGSTOP); /* it answers nobody */
    waitpid(s.child, NULL, WUNTRACED);
    expect_unreached(&g, s.token, KVW_E_DEADLINE, "handed out no GPU memory within 200 ms");
    kill(s.child, SIGCONT);
    end_sharer(&s);
    expect_unreached(&g, s.token, KVW_E_NOTFOUND, "isn't on this host");
    t_gpu_close(&g);
}

/* Nor after a kill: the socket went with the process, and left no file. */
Test(gpu_share, a_sharer_that_is_killed, .timeout = 60)
{
    char text[256] = "", out[9] = "";
    struct kvg_pool pool;
    struct shared s;
    struct t_gpu g;

    start_sharer(&s, 0);
    t_gpu_open(&g);
    cr_assert_eq(kvg_share_reach(&pool, &g.dev, s.token, BYTES, text, sizeof(text)), KVW_OK);
    kill(s.child, SIGKILL);
    waitpid(s.child, NULL, 0);
    cr_expect_eq(pool.mem.device->copy_out(pool.mem.device->arg, out, pool.mem.base, 9), 0);
    cr_expect_str_eq(out, "by token", "what is mapped stays");
    expect_unreached(&g, s.token, KVW_E_NOTFOUND, "isn't on this host");
    kvg_pool_close(&pool);
    close(s.socket);
    t_gpu_close(&g);
}

Test(gpu_share, another_users_memory, .timeout = 60)
{
    struct shared s;
    struct t_gpu g;

    if (geteuid() != 0)
        cr_skip_test("only root can be two users");
    start_sharer(&s, 65534);
    t_gpu_open(&g);
    expect_unreached(&g, s.token, KVW_E_UNSUPPORTED, "is another user's");
    end_sharer(&s);
    t_gpu_close(&g);
}

Test(gpu_share, what_cannot_be_shared)
{
    struct kvg_share share;
    struct kvg_pool pool;
    char text[256] = "";
    struct t_gpu g;

    t_gpu_open(&g);
    cr_assert_eq(kvg_pool_open(&pool, &g.dev, BYTES, text, sizeof(text)), KVW_OK);
    const int fds = t_open_fds();

    t_fail(&g.driver, 2, KVG_CU_NOT_SUPPORTED);
    cr_expect_eq(kvg_share_open(&share, &pool, text, sizeof(text)), KVW_E_UNSUPPORTED);
    cr_expect_str_eq(text, "CUDA: GPU 0: its memory can't be exported");
    cr_expect_eq(t_open_fds(), fds);
    kvg_pool_close(&pool);
    t_gpu_close(&g);
}
