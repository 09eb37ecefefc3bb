/* SPDX-License-Identifier: Apache-2.0 */
/*
 * node_cost WHAT [TRANSPORT] [ROUNDS] - what a node adds to a core. one_core.c: a core to a copy.
 *
 *     goodput [udp]            a node's goodput over that of a bare core with its loop; in turns
 *     wake                     from a call until its message has left a node that slept, over what
 *                              an eventfd takes to wake a thread that sleeps in poll()
 *
 * What moves is KV in the shape of Llama-3-8B: 8 of its layers, 1,024 tokens, pages of 16 tokens in
 * random order, raw. A round begins with offer and stream there and nothing pushed, and ends with
 * the receiver's XFER_DONE; its bytes are compared after the last. Prints medians (least .. most)
 * and RESULT, the ratio.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "../../compress/compress.h"
#include "../../kvwire/node.h"
#include "../../net/net.h"

#define LAYERS     8u
#define HEADS      8u
#define HEAD_BYTES 256u
#define PAGE       16u
#define TOKENS     1024u
#define BLOCKS     (TOKENS / PAGE)
#define PLANE      ((uint64_t)TOKENS * HEADS * HEAD_BYTES)
#define BYTES      (2 * LAYERS * PLANE)
#define ROUNDS_MAX 101u
#define S          1000000000ull

/* --- a transport that tells when a message has left ------------------------------------------- */

struct watched {
    struct kvw_transport base; /* first */
    struct kvw_transport *inner;
    bool sent;
};

static _Atomic uint64_t
    left_ns; /* when the latest message had left; 0: none since it was cleared */

static struct kvw_transport *in(const struct kvw_transport *t)
{
    return ((const struct watched *)(const void *)t)->inner;
}

static kvw_err w_listen(struct kvw_transport *t)
{
    return in(t)->ops->listen(in(t));
}

static kvw_err w_connect(struct kvw_transport *t, const char *peer, uint64_t now, kvw_conn_id *conn)
{
    return in(t)->ops->connect(in(t), peer, now, conn);
}

static void w_disconnect(struct kvw_transport *t, kvw_conn_id conn, uint64_t now)
{
    in(t)->ops->disconnect(in(t), conn, now);
}

static kvw_err w_region_add(struct kvw_transport *t, const struct kvw_mem *mem, kvw_put_gate gate,
                            void *arg, struct kvw_region_key *key)
{
    return in(t)->ops->region_add(in(t), mem, gate, arg, key);
}

static kvw_err w_region_remove(struct kvw_transport *t, const struct kvw_region_key *key)
{
    return in(t)->ops->region_remove(in(t), key);
}

static kvw_err w_send(struct kvw_transport *t, kvw_conn_id conn, const void *msg, uint32_t bytes)
{
    const kvw_err err = in(t)->ops->send(in(t), conn, msg, bytes);

    ((struct watched *)(void *)t)->sent |= err == KVW_OK;
    return err;
}

static kvw_err w_put(struct kvw_transport *t, kvw_conn_id conn, const struct kvw_put *put)
{
    return in(t)->ops->put(in(t), conn, put);
}

static uint32_t w_poll(struct kvw_transport *t, uint64_t now, struct kvw_transport_event *events,
                       uint32_t max)
{
    struct watched *w = (struct watched *)(void *)t;
    const bool sent = w->sent;
    const uint32_t n = w->inner->ops->poll(w->inner, now, events, max);

    w->sent = false;
    if (sent)
        left_ns = kvw_now_ns();
    return n;
}

static uint64_t w_deadline_ns(const struct kvw_transport *t)
{
    return in(t)->ops->deadline_ns(in(t));
}

static void w_wait(struct kvw_transport *t, uint64_t until, int wake_fd)
{
    in(t)->ops->wait(in(t), until, wake_fd);
}

static void w_stats(const struct kvw_transport *t, struct kvw_transport_stats *stats)
{
    in(t)->ops->stats(in(t), stats);
}

static void w_close(struct kvw_transport *t)
{
    if (t == NULL)
        return;
    in(t)->ops->close(in(t));
    free(t);
}

static bool w_local(const struct kvw_transport *t, char *text, size_t bytes)
{
    return in(t)->ops->local != NULL && in(t)->ops->local(in(t), text, bytes);
}

static const struct kvw_transport_ops watched_ops = {
    .name = "watched",
    .listen = w_listen,
    .connect = w_connect,
    .disconnect = w_disconnect,
    .region_add = w_region_add,
    .region_remove = w_region_remove,
    .send = w_send,
    .put = w_put,
    .poll = w_poll,
    .deadline_ns = w_deadline_ns,
    .wait = w_wait,
    .stats = w_stats,
    .close = w_close,
    .local = w_local,
};

static bool watching;

static kvw_err open_by_name(struct kvw_transport **t, const struct kvw_open_args *args, char *why)
{
    const struct kvn_config cfg = {
        .local = args->local, .listener = args->listen, .open_by_ns = args->open_by_ns};
    struct watched *w;
    kvw_err err;

    if (!watching)
        return kvn_open(t, args->transport, &cfg, why);
    if ((w = calloc(1, sizeof(*w))) == NULL)
        return KVW_E_NOMEM;
    w->base.ops = &watched_ops;
    if ((err = kvn_open(&w->inner, args->transport, &cfg, why)) != KVW_OK) {
        free(w);
        return err;
    }
    w->base.one_host = w->inner->one_host;
    *t = &w->base;
    return KVW_OK;
}

const struct kvw_parts kvw_parts = {
    .open = open_by_name, .codecs = kvc_codecs, .features = "what was built"};

/* --- memory ----------------------------------------------------------------------------------- */

static void die(const char *what, const char *why)
{
    fprintf(stderr, "node_cost: %s: %s\n", what, why);
    exit(1);
}

struct cache {
    uint8_t *memory;
    uint32_t blocks[BLOCKS];
    uint32_t layers[LAYERS];
    struct kvw_plane planes[2][LAYERS];
    struct kvw_part_desc parts[2];
    struct kvw_group_desc group;
    struct kvw_mem mem;
    struct kvw_pool_desc desc;
};

static void cache_make(struct cache *c, uint32_t seed)
{
    static const char *const names[2] = {"k", "v"};

    c->memory = aligned_alloc(4096, BYTES);
    if (c->memory == NULL)
        die("memory", "there isn't enough");
    for (uint64_t i = 0; i < BYTES; ++i)
        c->memory[i] = (uint8_t)(i * 2654435761u >> 13 ^ seed);
    for (uint32_t i = 0; i < BLOCKS; ++i)
        c->blocks[i] = i;
    for (uint32_t i = BLOCKS - 1; i > 0; --i) {
        const uint32_t k = (uint32_t)((i * 2654435761ull + seed) >> 7) % (i + 1);
        const uint32_t was = c->blocks[i];

        c->blocks[i] = c->blocks[k];
        c->blocks[k] = was;
    }
    for (uint32_t p = 0; p < 2; ++p) {
        for (uint32_t l = 0; l < LAYERS; ++l) {
            c->layers[l] = l;
            c->planes[p][l] = (struct kvw_plane){.base = c->memory + (2 * l + p) * PLANE,
                                                 .block_stride = PAGE * HEADS * HEAD_BYTES,
                                                 .entry_stride = HEADS * HEAD_BYTES,
                                                 .row_stride = HEAD_BYTES};
        }
        c->parts[p] = (struct kvw_part_desc){.name = names[p],
                                             .dtype = KVW_DTYPE_BF16,
                                             .row_bytes = HEAD_BYTES,
                                             .rows = HEADS,
                                             .rows_model = HEADS,
                                             .plane_bytes = sizeof(c->planes[0][0]),
                                             .planes = c->planes[p]};
    }
    c->group = (struct kvw_group_desc){.kind = KVW_GROUP_PAGED,
                                       .blocks = BLOCKS,
                                       .block_entries = PAGE,
                                       .entry_tokens = 1,
                                       .layer_count = LAYERS,
                                       .layers = c->layers,
                                       .part_count = 2,
                                       .part_bytes = sizeof(c->parts[0]),
                                       .parts = c->parts};
    c->mem =
        (struct kvw_mem){.base = c->memory, .bytes = BYTES, .kind = KVW_MEM_HOST, .dmabuf_fd = -1};
    c->desc = (struct kvw_pool_desc){.size = sizeof(c->desc),
                                     .model_layers = LAYERS,
                                     .fingerprint = "of node_cost",
                                     .name = "8 layers of Llama",
                                     .mem_count = 1,
                                     .mem_bytes = sizeof(c->mem),
                                     .mems = &c->mem,
                                     .group_count = 1,
                                     .group_bytes = sizeof(c->group),
                                     .groups = &c->group};
}

static void compare(const struct cache *a, const struct cache *b)
{
    const uint64_t page = (uint64_t)PAGE * HEADS * HEAD_BYTES;

    for (uint32_t plane = 0; plane < 2 * LAYERS; ++plane)
        for (uint32_t i = 0; i < BLOCKS; ++i)
            if (memcmp(a->memory + plane * PLANE + a->blocks[i] * page,
                       b->memory + plane * PLANE + b->blocks[i] * page, page) != 0)
                die("bytes", "they differ");
}

/* --- two ends, as nodes or as bare cores ------------------------------------------------------ */

struct end {
    struct cache cache;
    struct kvw_node *node; /* NULL: a bare core, with the thread below */
    struct kvw_core *core;
    struct kvw_transport *t;
    pthread_t thread;
    kvw_pool_id pool;
    kvw_peer_id peer;
    bool sends, stop;
    int wake_fd;
    _Atomic uint32_t asked;       /* rounds that the main thread has asked for */
    _Atomic uint32_t ready, done; /* rounds that are open, that have ended */
    _Atomic uint64_t done_ns;
    _Atomic bool up, go;
};

static kvw_key key_of(const char *who, uint32_t round)
{
    char text[48];

    snprintf(text, sizeof(text), "%s %u", who, round);
    return kvw_key_of(text);
}

/* Open one side of a round; returns the error. */
static kvw_err open_round(struct end *e, kvw_key key, kvw_xfer_ref *x, char *why, size_t size)
{
    const struct kvw_group_blocks blocks = {
        .block_count = BLOCKS, .blocks = e->cache.blocks, .want_end = e->sends ? 0 : TOKENS};
    const struct kvw_offer_args offer = {.size = sizeof(offer),
                                         .pool = e->pool,
                                         .key = key,
                                         .tokens = TOKENS,
                                         .group_count = 1,
                                         .groups = &blocks,
                                         .sources = &e->peer,
                                         .source_count = 1};
    const struct kvw_stream_args stream = {.size = sizeof(stream),
                                           .pool = e->pool,
                                           .key = key,
                                           .tokens = TOKENS,
                                           .group_count = 1,
                                           .groups = &blocks};
    const uint64_t now = kvw_now_ns();

    if (e->node != NULL)
        return e->sends ? kvw_node_stream(e->node, &stream, x, why, size)
                        : kvw_node_offer(e->node, &offer, x, why, size);
    return e->sends ? kvw_core_stream(e->core, &stream, now, x, why, size)
                    : kvw_core_offer(e->core, &offer, now, x, why, size);
}

static void push_all(struct end *e, kvw_xfer_ref x)
{
    kvw_err err = KVW_OK;

    for (uint32_t l = 0; l < LAYERS && err == KVW_OK; ++l)
        err = e->node != NULL ? kvw_node_push(e->node, x, l, TOKENS, NULL)
                              : kvw_core_push(e->core, x, l, TOKENS, NULL);
    if (err == KVW_OK)
        err = e->node != NULL ? kvw_node_commit(e->node, x, NULL, 0)
                              : kvw_core_commit(e->core, x, NULL, 0);
    if (err != KVW_OK)
        die("push", kvw_strerror(err));
}

static _Atomic bool closing;

static void on_event(struct end *e, const struct kvw_core_event *ev)
{
    if (ev->kind == KVW_CEV_PEER_UP) {
        e->peer = ev->peer;
        e->up = true;
    }
    if (ev->kind == KVW_CEV_PEER_LOST && !closing)
        die("peer", ev->text);
    if (ev->kind != KVW_CEV_XFER_DONE)
        return;
    if (ev->err != KVW_OK)
        die("transfer", ev->text);
    e->done_ns = kvw_now_ns();
    ++e->done;
}

/* A bare core's loop. The main thread asks by asked and go, and writes to wake_fd. */
static void *run_bare(void *arg)
{
    struct kvw_core_event ev = {.size = sizeof(ev)};
    struct end *e = arg;
    kvw_xfer_ref x = {0};
    char why[257] = "";
    uint64_t woken;

    while (!e->stop) {
        if (e->ready < e->asked) {
            if (open_round(e, key_of("bare", e->asked), &x, why, sizeof(why)) != KVW_OK)
                die("round", why);
            ++e->ready;
        }
        if (e->go && e->sends) {
            e->go = false;
            push_all(e, x);
        }
        while (kvw_core_poll(e->core, kvw_now_ns()))
            ;
        while (kvw_core_next_event(e->core, &ev))
            on_event(e, &ev);
        if (kvw_core_deadline_ns(e->core) > kvw_now_ns())
            e->t->ops->wait(e->t, kvw_core_deadline_ns(e->core), e->wake_fd);
        if (read(e->wake_fd, &woken, sizeof(woken)) < 0 && errno != EAGAIN)
            die("eventfd", strerror(errno));
    }
    return NULL;
}

static void ring(const struct end *e)
{
    const uint64_t one = 1;

    if (write(e->wake_fd, &one, sizeof(one)) != (ssize_t)sizeof(one))
        die("eventfd", strerror(errno));
}

static void open_bare(struct end *e, const char *transport, const char *local, const char *peer)
{
    const struct kvw_open_args args = {.transport = transport,
                                       .local = local,
                                       .listen = !e->sends,
                                       .open_by_ns = kvw_now_ns() + 30 * S};
    struct kvw_core_path path = {.name = transport, .listen = !e->sends};
    struct kvw_core_config cfg = {.size = sizeof(cfg),
                                  .path_count = 1,
                                  .paths = &path,
                                  .instance = kvw_now_ns() | 1,
                                  .codecs = kvc_codecs,
                                  .codec = KVW_CODEC_RAW};
    const char *field = "core";
    char why[256] = "";

    if (kvw_parts.open(&e->t, &args, why) != KVW_OK)
        die(transport, why);
    path.transport = e->t;
    if (kvw_core_open(&e->core, &cfg, kvw_now_ns(), &field) != KVW_OK ||
        kvw_core_pool_add(e->core, &e->cache.desc, &e->pool, why, sizeof(why)) != KVW_OK)
        die(field, why);
    if (e->sends && kvw_core_peer_add(e->core, 0, peer, kvw_now_ns(), &e->peer) != KVW_OK)
        die("peer", "can't be added");
    e->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (pthread_create(&e->thread, NULL, run_bare, e) != 0)
        die("thread", "can't be started");
}

static void close_bare(struct end *e)
{
    closing = true;
    e->stop = true;
    ring(e);
    pthread_join(e->thread, NULL);
    kvw_core_close(e->core, kvw_now_ns());
    e->t->ops->close(e->t);
    close(e->wake_fd);
}

static void open_node(struct end *e, const char *transport, const char *local, const char *peer)
{
    const struct kvw_node_config cfg = {.size = sizeof(cfg),
                                        .listen = !e->sends,
                                        .transport = transport,
                                        .local = local,
                                        .codec = KVW_CODEC_RAW};
    char why[257] = "";

    if (kvw_node_open(&e->node, &cfg, why, sizeof(why)) != KVW_OK ||
        kvw_node_pool_add(e->node, &e->cache.desc, &e->pool, why, sizeof(why)) != KVW_OK)
        die("node", why);
    if (e->sends && kvw_node_peer_add(e->node, peer, &e->peer) != KVW_OK)
        die("peer", "can't be added");
}

static void take(struct end *e)
{
    struct kvw_core_event ev = {.size = sizeof(ev)};

    while (e->node != NULL && kvw_node_next_event(e->node, &ev))
        on_event(e, &ev);
}

/* Until both have this in common; the main thread looks every so often, and takes nodes' events. */
static void until(struct end *a, struct end *b, bool (*is)(const struct end *, uint32_t),
                  uint32_t n, const char *what)
{
    const uint64_t give_up = kvw_now_ns() + 60 * S;

    while (!is(a, n) || !is(b, n)) {
        struct pollfd p[] = {{.fd = a->node != NULL ? kvw_node_fd(a->node) : -1, .events = POLLIN},
                             {.fd = b->node != NULL ? kvw_node_fd(b->node) : -1, .events = POLLIN}};

        poll(p, 2, 1);
        take(a);
        take(b);
        if (kvw_now_ns() > give_up)
            die(what, "it took longer than a minute");
    }
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

/* A round's GB/s. */
static double run_round(struct end *to, struct end *from, uint32_t round)
{
    kvw_xfer_ref x = {0};
    char why[257] = "";
    uint64_t began;

    to->asked = from->asked = round;
    if (to->node == NULL) {
        ring(to);
        ring(from);
        until(to, from, is_ready, round, "opening a round");
    } else if (open_round(to, key_of("node", round), &x, why, sizeof(why)) != KVW_OK ||
               open_round(from, key_of("node", round), &x, why, sizeof(why)) != KVW_OK) {
        die("round", why);
    }
    usleep(20000); /* the offer has come */
    began = kvw_now_ns();
    if (from->node != NULL) {
        push_all(from, x);
    } else {
        from->go = true;
        ring(from);
    }
    until(to, from, is_done, round, "a round");
    return (double)BYTES / (double)(to->done_ns - began);
}

static void pair(struct end *to, struct end *from, const char *transport, bool nodes)
{
    char local[96] = "127.0.0.1:0", address[96], *peer = address;
    uint32_t bytes = sizeof(address);

    from->sends = true;
    cache_make(&to->cache, 77);
    cache_make(&from->cache, 5);
    if (strcmp(transport, "udp") != 0) {
        snprintf(local, sizeof(local), "node_cost.%d.%d", (int)getpid(), nodes);
        peer = NULL;
    }
    if (nodes) {
        open_node(to, transport, local, NULL);
        if (peer != NULL && kvw_node_address(to->node, address, &bytes) != KVW_OK)
            die("address", "it isn't known");
        open_node(from, transport, local, peer);
    } else {
        open_bare(to, transport, local, NULL);
        if (peer != NULL && !to->t->ops->local(to->t, address, sizeof(address)))
            die("address", "it isn't known");
        open_bare(from, transport, local, peer);
    }
    until(to, from, is_up, 0, "the connection");
}

/* --- figures ---------------------------------------------------------------------------------- */

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *v, uint32_t n, const char *name, const char *unit)
{
    qsort(v, n, sizeof(v[0]), by_size);
    printf("%-22s %8.3f (%.3f .. %.3f) %s\n", name, v[n / 2], v[0], v[n - 1], unit);
    return v[n / 2];
}

static void goodput(const char *transport, uint32_t rounds)
{
    static struct end node[2], bare[2];
    double a[ROUNDS_MAX], b[ROUNDS_MAX];

    pair(&bare[0], &bare[1], transport, false);
    pair(&node[0], &node[1], transport, true);
    for (uint32_t i = 0; i <= rounds; ++i) { /* the first isn't counted */
        const double by_core = run_round(&bare[0], &bare[1], i + 1);
        const double by_node = run_round(&node[0], &node[1], i + 1);

        if (i > 0) {
            a[i - 1] = by_node;
            b[i - 1] = by_core;
        }
    }
    compare(&node[0].cache, &node[1].cache);
    compare(&bare[0].cache, &bare[1].cache);
    const double by_node = median(a, rounds, "node", "GB/s"),
                 by_core = median(b, rounds, "core", "GB/s");

    printf("RESULT %.4f\n", by_node / by_core);
    kvw_node_close(node[1].node);
    kvw_node_close(node[0].node);
    close_bare(&bare[1]);
    close_bare(&bare[0]);
}

static int sleeper_fd;
static _Atomic uint64_t woke_ns;

static void *sleeper(void *arg)
{
    struct pollfd p = {.fd = sleeper_fd, .events = POLLIN};
    uint64_t n;

    (void)arg;
    for (;;) {
        poll(&p, 1, -1);
        woke_ns = kvw_now_ns();
        if (read(sleeper_fd, &n, sizeof(n)) < 0 || n > 1)
            return NULL;
    }
}

static double until_set(_Atomic uint64_t *at, uint64_t began)
{
    while (*at == 0 && kvw_now_ns() - began < S)
        usleep(200);
    if (*at == 0)
        die("wake", "nothing happened for a second");
    return (double)(*at - began) * 1e-3;
}

static void wake(uint32_t rounds)
{
    static struct end node[2];
    double a[ROUNDS_MAX], b[ROUNDS_MAX];
    const uint64_t one = 1, two = 2;
    pthread_t thread;

    watching = true;
    pair(&node[0], &node[1], "udp", true);
    sleeper_fd = eventfd(0, EFD_CLOEXEC);
    if (pthread_create(&thread, NULL, sleeper, NULL) != 0)
        die("thread", "can't be started");
    for (uint32_t i = 0; i < rounds; ++i) {
        uint64_t began;

        usleep(20000); /* it sleeps */
        left_ns = 0;
        began = kvw_now_ns();
        if (kvw_node_notify(node[1].node, node[1].peer, "x", 1) != KVW_OK)
            die("notify", "refused");
        a[i] = until_set(&left_ns, began);
        usleep(20000);
        woke_ns = 0;
        began = kvw_now_ns();
        if (write(sleeper_fd, &one, sizeof(one)) < 0)
            die("eventfd", strerror(errno));
        b[i] = until_set(&woke_ns, began);
        take(&node[0]);
        take(&node[1]);
    }
    const double call = median(a, rounds, "a call until it left", "us");
    const double fd = median(b, rounds, "an eventfd's wake-up", "us");

    printf("RESULT %.4f\n", call / fd);
    if (write(sleeper_fd, &two, sizeof(two)) < 0)
        die("eventfd", strerror(errno));
    pthread_join(thread, NULL);
    kvw_node_close(node[1].node);
    kvw_node_close(node[0].node);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "", *transport = argc > 2 ? argv[2] : "udp";
    const int rounds = argc > 3 ? atoi(argv[3]) : 15;

    if (rounds < 1 || rounds > (int)ROUNDS_MAX)
        die("usage", "ROUNDS is 1 .. 101");
    if (strcmp(what, "goodput") == 0)
        goodput(transport, (uint32_t)rounds);
    else if (strcmp(what, "wake") == 0)
        wake((uint32_t)rounds);
    else
        die("usage", "node_cost goodput|wake [TRANSPORT] [ROUNDS]");
    return 0;
}
