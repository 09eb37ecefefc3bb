/* SPDX-License-Identifier: Apache-2.0 */
/*
 * one_core TRANSPORT [ROUNDS] - KV from one end to the other, both on one CPU, over memcpy there.
 *
 * What moves is KV in the shape of Llama-3-8B: 8 of its layers, 1,024 tokens, pages of 16 tokens in
 * random order, raw. A round begins with offer and stream there and nothing pushed, and ends with
 * the receiver's end of the transfer; in turns with it the same bytes are copied by memcpy. The
 * bytes are compared after the last round. Over loop the ends are threads, over udp and dpdk
 * processes. Prints medians (least .. most) and RESULT, the ratio.
 *
 * perf/rows/version1.py builds this file with the tree of wire version 1, too: VERSION_1 is set
 * then, and the part "an end" is that tree's.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "compress/compress.h"
#include "net/net.h"
#ifdef VERSION_1
#include "kvwire/kvwire.h"
#else
#include "kvwire/core.h"
#endif

#define LAYERS     8u
#define HEADS      8u
#define HEAD_BYTES 256u
#define PAGE       16u
#define TOKENS     1024u
#define BLOCKS     (TOKENS / PAGE)
#define PAGE_BYTES ((uint64_t)PAGE * HEADS * HEAD_BYTES)
#define PLANE      ((uint64_t)TOKENS * HEADS * HEAD_BYTES)
#define BYTES      (2 * LAYERS * PLANE)
#define ROUNDS_MAX 101u
#define S          1000000000ull

/* In memory that both ends' processes share. */
struct end {
    bool sends;
    int wake_fd;
    uint8_t *memory;
    uint32_t blocks[BLOCKS];
    char local[96], peer[96];
    _Atomic uint32_t asked;       /* rounds that main() has asked for */
    _Atomic uint32_t ready, done; /* rounds that are open, that have ended */
    _Atomic uint64_t done_ns;
    _Atomic bool up, go, stop;
};

static const char *net;

static uint64_t now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * S + (uint64_t)t.tv_nsec;
}

static _Noreturn void die(const char *what, const char *why)
{
    fprintf(stderr, "one_core: %s: %s\n", what, why);
    exit(1);
}

static void must(kvw_err err, const char *what)
{
    if (err != KVW_OK)
        die(what, kvw_strerror(err));
}

static void on_done(struct end *e, kvw_err err, const char *text)
{
    if (err != KVW_OK)
        die("transfer", text);
    e->done_ns = now();
    ++e->done;
}

/* --- an end ----------------------------------------------------------------------------------- */

#ifdef VERSION_1

struct side {
    struct kvw_session *s;
};

static void open_side(struct side *s, const struct end *e, struct kvw_transport *t)
{
    const struct kvw_session_config cfg = {
        .size = sizeof(cfg),
        .role = e->sends ? KVW_ROLE_SENDER : KVW_ROLE_RECEIVER,
        .transport = t,
        .peer = e->sends && e->peer[0] != '\0' ? e->peer : NULL,
        .model_name = "8 layers of Llama",
        .pool = {.mem = {.base = e->memory, .bytes = BYTES, .kind = KVW_MEM_HOST, .dmabuf_fd = -1},
                 .layers = LAYERS,
                 .blocks = BLOCKS,
                 .block_tokens = PAGE,
                 .kv_heads = HEADS,
                 .head_dim = HEAD_BYTES / 2,
                 .dtype = KVW_DTYPE_BF16,
                 .layer_stride = 2 * PLANE,
                 .kv_stride = PLANE,
                 .block_stride = PAGE_BYTES,
                 .token_stride = HEADS * HEAD_BYTES,
                 .head_stride = HEAD_BYTES},
        .codecs = kvc_codecs,
        .codec = KVW_CODEC_RAW};
    const char *field = "";

    if (kvw_session_open(&s->s, &cfg, now(), &field) != KVW_OK)
        die("session", field);
}

static void begin(struct side *s, const struct end *e)
{
    const struct kvw_blocks b = {.ids = e->blocks, .count = BLOCKS, .tokens = TOKENS};
    const kvw_xfer_id id = {e->asked};
    const uint64_t t = now();

    must(e->sends ? kvw_stream_open(s->s, id, &b, t + 10 * S, t + 60 * S, t)
                  : kvw_offer(s->s, id, &b, NULL, t),
         "round");
}

static void push_all(struct side *s, const struct end *e)
{
    const kvw_xfer_id id = {e->asked};

    for (uint32_t l = 0; l < LAYERS; ++l)
        must(kvw_push_layer(s->s, id, l, TOKENS, NULL), "push");
    must(kvw_commit(s->s, id, NULL, 0), "commit");
}

/* Returns when it wants to be called again at the latest. */
static uint64_t turn(struct side *s, struct end *e)
{
    struct kvw_event ev;

    while (kvw_session_poll(s->s, now()))
        ;
    while (kvw_session_next_event(s->s, &ev)) {
        if (ev.kind == KVW_EV_PEER_UP)
            e->up = true;
        if (ev.kind == KVW_EV_XFER_DONE)
            on_done(e, ev.err, ev.text);
    }
    return kvw_session_deadline_ns(s->s);
}

static void close_side(struct side *s)
{
    kvw_session_close(s->s, now());
}

#else

struct side {
    struct kvw_core *core;
    kvw_pool_id pool;
    kvw_peer_id peer;
    kvw_xfer_ref x;
};

static void add_pool(struct side *s, const struct end *e)
{
    static const char *const names[2] = {"k", "v"};
    struct kvw_plane planes[2][LAYERS];
    struct kvw_part_desc parts[2];
    uint32_t layers[LAYERS];
    const struct kvw_mem mem = {
        .base = e->memory, .bytes = BYTES, .kind = KVW_MEM_HOST, .dmabuf_fd = -1};
    const struct kvw_group_desc group = {.kind = KVW_GROUP_PAGED,
                                         .blocks = BLOCKS,
                                         .block_entries = PAGE,
                                         .entry_tokens = 1,
                                         .layer_count = LAYERS,
                                         .layers = layers,
                                         .part_count = 2,
                                         .part_bytes = sizeof(parts[0]),
                                         .parts = parts};
    const struct kvw_pool_desc desc = {.size = sizeof(desc),
                                       .model_layers = LAYERS,
                                       .fingerprint = "of one_core",
                                       .name = "8 layers of Llama",
                                       .mem_count = 1,
                                       .mem_bytes = sizeof(mem),
                                       .mems = &mem,
                                       .group_count = 1,
                                       .group_bytes = sizeof(group),
                                       .groups = &group};
    char why[257] = "";

    for (uint32_t p = 0; p < 2; ++p) {
        for (uint32_t l = 0; l < LAYERS; ++l) {
            layers[l] = l;
            planes[p][l] = (struct kvw_plane){.base = e->memory + (2 * l + p) * PLANE,
                                              .block_stride = PAGE_BYTES,
                                              .entry_stride = HEADS * HEAD_BYTES,
                                              .row_stride = HEAD_BYTES};
        }
        parts[p] = (struct kvw_part_desc){.name = names[p],
                                          .dtype = KVW_DTYPE_BF16,
                                          .row_bytes = HEAD_BYTES,
                                          .rows = HEADS,
                                          .rows_model = HEADS,
                                          .plane_bytes = sizeof(planes[0][0]),
                                          .planes = planes[p]};
    }
    if (kvw_core_pool_add(s->core, &desc, &s->pool, why, sizeof(why)) != KVW_OK)
        die("pool", why);
}

static void open_side(struct side *s, const struct end *e, struct kvw_transport *t)
{
    struct kvw_core_path path = {.name = net, .listen = !e->sends, .transport = t};
    struct kvw_core_config cfg = {.size = sizeof(cfg),
                                  .path_count = 1,
                                  .paths = &path,
                                  .instance = now() | 1,
                                  .codecs = kvc_codecs,
                                  .codec = KVW_CODEC_RAW};
    const char *field = "";

    if (kvw_core_open(&s->core, &cfg, now(), &field) != KVW_OK)
        die("core", field);
    add_pool(s, e);
    if (e->sends)
        must(kvw_core_peer_add(s->core, 0, e->peer[0] != '\0' ? e->peer : NULL, now(), &s->peer),
             "peer");
}

static void begin(struct side *s, const struct end *e)
{
    const struct kvw_group_blocks blocks = {
        .block_count = BLOCKS, .blocks = e->blocks, .want_end = e->sends ? 0 : TOKENS};
    char name[32], why[257] = "";

    snprintf(name, sizeof(name), "round %u", e->asked);
    const struct kvw_offer_args offer = {.size = sizeof(offer),
                                         .pool = s->pool,
                                         .key = kvw_key_of(name),
                                         .tokens = TOKENS,
                                         .group_count = 1,
                                         .groups = &blocks,
                                         .sources = &s->peer,
                                         .source_count = 1};
    const struct kvw_stream_args stream = {.size = sizeof(stream),
                                           .pool = s->pool,
                                           .key = offer.key,
                                           .tokens = TOKENS,
                                           .group_count = 1,
                                           .groups = &blocks};

    if ((e->sends ? kvw_core_stream(s->core, &stream, now(), &s->x, why, sizeof(why))
                  : kvw_core_offer(s->core, &offer, now(), &s->x, why, sizeof(why))) != KVW_OK)
        die("round", why);
}

static void push_all(struct side *s, const struct end *e)
{
    (void)e;
    for (uint32_t l = 0; l < LAYERS; ++l)
        must(kvw_core_push(s->core, s->x, l, TOKENS, NULL), "push");
    must(kvw_core_commit(s->core, s->x, NULL, 0), "commit");
}

/* Returns when it wants to be called again at the latest. */
static uint64_t turn(struct side *s, struct end *e)
{
    struct kvw_core_event ev = {.size = sizeof(ev)};

    while (kvw_core_poll(s->core, now()))
        ;
    while (kvw_core_next_event(s->core, &ev)) {
        if (ev.kind == KVW_CEV_PEER_UP) {
            s->peer = ev.peer;
            e->up = true;
        }
        if (ev.kind == KVW_CEV_XFER_DONE)
            on_done(e, ev.err, ev.text);
    }
    return kvw_core_deadline_ns(s->core);
}

static void close_side(struct side *s)
{
    kvw_core_close(s->core, now());
}

#endif

/* --- its thread or process -------------------------------------------------------------------- */

static void *run(void *arg)
{
    struct end *e = arg;
    struct side s = {0};
    struct kvw_transport *t;
    char why[KVN_WHY_BYTES] = "";
    uint64_t woken;
    const struct kvn_config cfg = {
        .local = e->local, .listener = !e->sends, .open_by_ns = now() + 30 * S};

    if (kvn_open(&t, net, &cfg, why) != KVW_OK)
        die(net, why);
    open_side(&s, e, t);
    while (!e->stop) {
        if (e->ready < e->asked) {
            begin(&s, e);
            ++e->ready;
        }
        if (e->go && e->sends) {
            e->go = false;
            push_all(&s, e);
        }
        const uint64_t until = turn(&s, e);

        if (until > now())
            t->ops->wait(t, until, e->wake_fd);
        if (read(e->wake_fd, &woken, sizeof(woken)) < 0 && errno != EAGAIN)
            die("eventfd", strerror(errno));
    }
    close_side(&s);
    t->ops->close(t);
    return NULL;
}

static void start(struct end *e, bool process)
{
    pthread_t thread;
    pid_t pid;

    if (!process) {
        if (pthread_create(&thread, NULL, run, e) != 0)
            die("thread", "it can't be started");
        return;
    }
    if ((pid = fork()) < 0)
        die("process", strerror(errno));
    if (pid > 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    run(e);
    _exit(0);
}

static void *shared(uint64_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        die("memory", strerror(errno));
    return p;
}

static void make(struct end *e, bool sends)
{
    const uint32_t seed = sends ? 5 : 77;
    const unsigned port = 20000u + (unsigned)getpid() % 20000u;

    e->sends = sends;
    e->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    e->memory = shared(BYTES);
    for (uint64_t i = 0; i < BYTES; ++i)
        e->memory[i] = (uint8_t)(i * 2654435761u >> 13 ^ seed);
    for (uint32_t i = 0; i < BLOCKS; ++i)
        e->blocks[i] = i;
    for (uint32_t i = BLOCKS - 1; i > 0; --i) {
        const uint32_t k = (uint32_t)((i * 2654435761ull + seed) >> 7) % (i + 1);
        const uint32_t was = e->blocks[i];

        e->blocks[i] = e->blocks[k];
        e->blocks[k] = was;
    }
    if (strcmp(net, "udp") == 0) {
        snprintf(e->local, sizeof(e->local), "127.0.0.1:%u", sends ? 0 : port);
        snprintf(e->peer, sizeof(e->peer), "127.0.0.1:%u", port);
    } else {
        snprintf(e->local, sizeof(e->local), "/tmp/one_core.%d.sock", (int)getpid());
    }
}

/* --- rounds ----------------------------------------------------------------------------------- */

static void ring(struct end *e)
{
    const uint64_t one = 1;

    if (write(e->wake_fd, &one, sizeof(one)) != (ssize_t)sizeof(one))
        die("eventfd", strerror(errno));
}

static bool is_up(const struct end *e, uint32_t n)
{
    (void)n;
    return e->up;
}

static bool is_ready(const struct end *e, uint32_t n)
{
    return e->ready >= n;
}

static bool is_done(const struct end *e, uint32_t n)
{
    return e->done >= n;
}

static void until(struct end *const e[2], bool (*is)(const struct end *, uint32_t), uint32_t n,
                  const char *what)
{
    const uint64_t give_up = now() + 60 * S;

    while (!is(e[0], n) || !is(e[1], n)) {
        poll(NULL, 0, 1);
        if (now() > give_up)
            die(what, "it took longer than a minute");
    }
}

/* Returns GB/s. */
static double move(struct end *const e[2], uint32_t round)
{
    uint64_t began;

    e[0]->asked = e[1]->asked = round;
    ring(e[0]);
    ring(e[1]);
    until(e, is_ready, round, "opening a round");
    usleep(20000); /* the offer has come */
    began = now();
    e[1]->go = true;
    ring(e[1]);
    until(e, is_done, round, "a round");
    return (double)BYTES / (double)(e[0]->done_ns - began);
}

static double copy(struct end *const e[2])
{
    const uint64_t began = now();

    memcpy(e[0]->memory, e[1]->memory, BYTES);
    return (double)BYTES / (double)(now() - began);
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *v, uint32_t n, const char *name)
{
    qsort(v, n, sizeof(v[0]), by_size);
    printf("%-8s %8.3f (%.3f .. %.3f) GB/s\n", name, v[n / 2], v[0], v[n - 1]);
    return v[n / 2];
}

static void compare(struct end *const e[2])
{
    for (uint32_t plane = 0; plane < 2 * LAYERS; ++plane)
        for (uint32_t i = 0; i < BLOCKS; ++i)
            if (memcmp(e[0]->memory + plane * PLANE + e[0]->blocks[i] * PAGE_BYTES,
                       e[1]->memory + plane * PLANE + e[1]->blocks[i] * PAGE_BYTES,
                       PAGE_BYTES) != 0)
                die("bytes", "they differ");
}

int main(int argc, char **argv)
{
    const uint32_t rounds = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 31;
    double moved[ROUNDS_MAX], copied[ROUNDS_MAX];
    struct end *e[2];
    cpu_set_t set;

    if (argc < 2 || rounds == 0 || rounds > ROUNDS_MAX)
        die("usage", "one_core loop|udp|dpdk [1 .. 101]");
    net = argv[1];
    CPU_ZERO(&set);
    CPU_SET(sched_getcpu(), &set);
    if (sched_setaffinity(0, sizeof(set), &set) != 0)
        die("sched_setaffinity", strerror(errno));
    for (uint32_t i = 0; i < 2; ++i) {
        e[i] = shared(sizeof(*e[i]));
        make(e[i], i == 1);
    }
    for (uint32_t i = 0; i < 2; ++i) {
        start(e[i], strcmp(net, "loop") != 0);
        usleep(300000); /* the listener is there first */
    }
    until(e, is_up, 0, "the connection");
    for (uint32_t i = 0; i <= rounds; ++i) { /* the first isn't counted */
        const double c = copy(e), m = move(e, i + 1);

        if (i > 0) {
            copied[i - 1] = c;
            moved[i - 1] = m;
        }
    }
    compare(e);
    const double m = median(moved, rounds, net), c = median(copied, rounds, "memcpy");

    printf("RESULT %.4f\n", m / c);
    fflush(stdout);
    e[0]->stop = e[1]->stop = true;
    ring(e[1]);
    ring(e[0]);
    usleep(200000);
    _exit(0); /* the ends' threads and processes go with it */
}
