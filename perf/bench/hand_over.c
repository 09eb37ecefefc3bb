/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hand_over - how long the hand-over of a prompt's KV shows, codec by codec, without the prefill:
 *
 *   hand_over NET ROUNDS KV_FILE CODEC[,CODEC...] [TOKENS [BUDGET]]
 *
 * Two processes a codec ("auto": the choice), sender and receiver on a core each, each with a
 * node as in kvserve, over NET on this host. The cache holds real K and V,
 * repeated up to TOKENS (2000), and before each round the sender's caches are filled with other
 * things, as a prefill does. Rounds go through the codecs in turn; a round lasts from the push of
 * all layers, with the offer long there, to the receiver's XFER_DONE. The first round isn't
 * counted. One line a codec: name, median, least and most in ms, the median over rounds of its time
 * over the first codec's in the same round, chunks of the last round by codec. RESULT: the last
 * codec's median over the first's, which swings less than the median of ratios.
 */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "../../compress/compress.h"
#include "../../engine/serve/clock.h"
#include "../../engine/model/kvcache.h"
#include "../../engine/serve/link.h"
#include "../../kvwire/choice/choose.h"
#include "../../kvwire/kv/dense.h"
#include "kv_file.h"

#define BLOCK_TOKENS 16u
#define TOKENS_MAX   8192u
#define CODECS_MAX   8u
#define ROUNDS_MAX   2000u
#define SWEEP_BYTES  (128u << 20)
#define UP_NS        (30ull * 1000 * 1000 * 1000)
#define XFER_NS      (60ull * 1000 * 1000 * 1000)

/* One process and its two pipes. */
struct end {
    pid_t pid;
    int ask, answer;
};

struct answer {
    uint64_t ns;
    uint32_t chunks[KVW_CODEC_IDS];
};

struct pair {
    const char *name;
    struct end sender, receiver;
    double ms[ROUNDS_MAX];
    struct answer last;
};

static struct pair pairs[CODECS_MAX];
static uint32_t pair_count;

static void die(const char *what, const char *detail)
{
    fprintf(stderr, "hand_over: %s%s%s\n", what, detail[0] != '\0' ? ": " : "", detail);
    exit(1);
}

static void must(kvw_err err, const char *what)
{
    if (err != KVW_OK)
        die(what, kvw_strerror(err));
}

/* What both ends know. */
struct setup {
    const char *net, *folder;
    struct kvp_kv file;
    uint32_t tokens;
    kvw_budget budget;
};

static void fill(const struct kve_kvcache *kv, const uint32_t *table, const struct setup *u)
{
    for (uint32_t l = 0; l < kv->pool.layers; ++l)
        for (uint32_t which = 0; which < 2; ++which) {
            const struct kvw_view v = kvw_pool_view(&kv->pool, table, l, which, 0, u->tokens);
            const uint16_t *from = kvp_kv_at(&u->file, l, which);

            for (uint32_t t = 0; t < u->tokens; ++t)
                for (uint32_t h = 0; h < v.heads; ++h)
                    memcpy(kvw_view_at(&v, t, h),
                           from + (size_t)(t % u->file.head.tokens) * u->file.channels +
                               (size_t)h * u->file.head.head_dim,
                           v.head_bytes);
        }
}

/* What a prefill leaves behind: caches that hold other things. */
static void sweep(void)
{
    static unsigned char other[SWEEP_BYTES];

    for (size_t i = 0; i < sizeof(other); i += 64)
        ++other[i];
}

static void transfer(struct kve_link *link, bool sends, const struct setup *u,
                     const uint32_t *table, uint64_t id, int ask, int answer)
{
    static struct kve_xfer x;
    struct answer a = {0};
    const struct kve_blocks blocks = {
        .ids = table, .count = (u->tokens + BLOCK_TOKENS - 1) / BLOCK_TOKENS, .tokens = u->tokens};
    const struct kvw_offer_terms terms = {
        .size = sizeof(terms), .budget = u->budget, .exact_first = 4, .exact_last = 128};
    char go;

    memset(&x, 0, sizeof(x));
    x.id = id;
    if (sends) {
        sweep();
        a.ns = kve_now_ns();
        must(kve_link_stream(link, &x, &blocks, a.ns + XFER_NS, a.ns + XFER_NS), "stream");
        for (uint32_t l = 0; l < u->file.head.layers; ++l)
            kve_link_push(link, &x, l, u->tokens);
        kve_link_commit(link, &x, "done", 4);
    } else {
        must(kve_link_offer(link, &x, &blocks, &terms), "offer");
        if (write(answer, "o", 1) != 1 || read(ask, &go, 1) != 1)
            _exit(0);
    }
    if (!kve_link_wait(link, &x, kve_now_ns() + XFER_NS) || x.err != KVW_OK)
        die("the transfer", x.text);
    if (!sends)
        a.ns = x.done_ns;
    memcpy(a.chunks, x.codec_chunks, sizeof(a.chunks));
    if (write(answer, &a, sizeof(a)) != (ssize_t)sizeof(a))
        _exit(0);
}

/* Each end has a core of its own where there are two: where the scheduler happened to put them is
 * half of a round's time otherwise. */
static void settle(bool sends)
{
    cpu_set_t all, one;
    int core = -1;

    if (sched_getaffinity(0, sizeof(all), &all) != 0 || CPU_COUNT(&all) < 2)
        return;
    for (int skip = sends ? 0 : 1; skip >= 0; --skip)
        do
            ++core;
        while (!CPU_ISSET(core, &all));
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    if (sched_setaffinity(0, sizeof(one), &one) != 0)
        die("can't take a core for an end", "");
}

/* A process's life: open, say so, then a transfer for each byte on ask. */
static void live(const struct setup *u, const char *name, bool sends, int ask, int answer)
{
    const struct kvw_codec_ops *codec = kvc_codec_by_name(name);
    const uint32_t blocks = (u->tokens + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
    const uint64_t until = kve_now_ns() + UP_NS;
    static uint32_t table[TOKENS_MAX / BLOCK_TOKENS];
    struct kve_kvcache kv;
    struct kve_link *link;
    char path[256], go;

    settle(sends);
    must(kve_kvcache_open(&kv, u->file.head.layers, u->file.head.kv_heads, u->file.head.head_dim,
                          BLOCK_TOKENS, blocks),
         "cache");
    must(kve_kvcache_alloc(&kv, blocks, table), "blocks");
    if (sends)
        fill(&kv, table, u);
    else
        memset(kv.pool.mem.base, 1, kv.pool.mem.bytes);
    snprintf(path, sizeof(path), "%s/%s.sock", u->folder, name);

    const struct kve_link_config lc = {
        .net = u->net,
        .local = path,
        .open_timeout_ns = UP_NS,
        .sender = sends,
        .model_name = "real K and V",
        .pool = kv.pool,
        .codec = codec != NULL ? codec->id : 0,
    };

    must(kve_link_open(&link, &lc), "link");
    while (kve_link_state_now(link, NULL) != KVE_LINK_UP) {
        if (kve_now_ns() > until || kve_link_state_now(link, NULL) == KVE_LINK_FAILED)
            die("the link does not come up", name);
        usleep(10000);
    }
    if (write(answer, "u", 1) != 1)
        _exit(0);
    for (uint64_t id = 1; read(ask, &go, 1) == 1; ++id)
        transfer(link, sends, u, table, id, ask, answer);
    exit(kve_link_close(link) ? 0 : 1);
}

static void start(struct end *e, const struct setup *u, const char *name, bool sends)
{
    int to[2], from[2];

    if (pipe(to) != 0 || pipe(from) != 0 || (e->pid = fork()) < 0)
        die("no process", "");
    if (e->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(to[1]);
        close(from[0]);
        for (uint32_t i = 0; i <= pair_count; ++i) { /* the others' ends */
            if (pairs[i].receiver.ask > 0)
                close(pairs[i].receiver.ask);
            if (pairs[i].sender.ask > 0)
                close(pairs[i].sender.ask);
        }
        live(u, name, sends, to[0], from[1]);
    }
    close(to[0]);
    close(from[1]);
    e->ask = to[1];
    e->answer = from[0];
}

static void take(const struct end *e, void *into, size_t bytes, const char *what)
{
    if (read(e->answer, into, bytes) != (ssize_t)bytes)
        die("an end has died", what);
}

static double round_of(struct pair *p)
{
    struct answer sent;
    char c;

    if (write(p->receiver.ask, "g", 1) != 1)
        die("an end has died", p->name);
    take(&p->receiver, &c, 1, p->name);
    usleep(5000); /* the offer is on its way */
    if (write(p->sender.ask, "g", 1) != 1 || write(p->receiver.ask, "g", 1) != 1)
        die("an end has died", p->name);
    take(&p->receiver, &p->last, sizeof(p->last), p->name);
    take(&p->sender, &sent, sizeof(sent), p->name);
    return (double)(p->last.ns - sent.ns) / 1e6;
}

static int by_double(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double report(const struct pair *p, uint32_t rounds)
{
    static double ms[ROUNDS_MAX], over[ROUNDS_MAX];

    for (uint32_t n = 0; n < rounds; ++n) {
        ms[n] = p->ms[n];
        over[n] = p->ms[n] / pairs[0].ms[n];
    }
    qsort(ms, rounds, sizeof(ms[0]), by_double);
    qsort(over, rounds, sizeof(over[0]), by_double);
    printf("%-8s %8.2f %8.2f %8.2f %8.4f ", p->name, ms[rounds / 2], ms[0], ms[rounds - 1],
           over[rounds / 2]);
    for (uint32_t i = 0; kvc_codecs[i] != NULL; ++i)
        if (p->last.chunks[kvc_codecs[i]->id] > 0)
            printf(" %s=%u", kvc_codecs[i]->name, p->last.chunks[kvc_codecs[i]->id]);
    printf("\n");
    return ms[rounds / 2];
}

int main(int argc, char **argv)
{
    static struct setup u = {.tokens = 2000};
    double first = 1, last = 1;
    static char folder[] = "/tmp/hand-over-XXXXXX";
    const uint32_t rounds = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 0;

    if (argc < 5 || rounds == 0 || rounds > ROUNDS_MAX || !kvp_kv_open(&u.file, argv[3]))
        die("usage: hand_over NET ROUNDS KV_FILE CODEC[,CODEC...] [TOKENS [BUDGET]]", "");
    if (mkdtemp(folder) == NULL)
        die("can't make a folder for sockets", "");
    u.net = argv[1];
    u.folder = folder;
    if (argc > 5)
        u.tokens = (uint32_t)strtoul(argv[5], NULL, 10);
    if (argc > 6)
        u.budget = (kvw_budget)strtoul(argv[6], NULL, 10);
    if (u.tokens == 0 || u.tokens > TOKENS_MAX || u.budget >= KVW_BUDGETS)
        die("tokens or budget out of range", "");
    for (char *name = strtok(argv[4], ","); name != NULL && pair_count < CODECS_MAX;
         name = strtok(NULL, ",")) {
        struct pair *p = &pairs[pair_count];
        char c;

        p->name = name;
        start(&p->receiver, &u, name, false);
        start(&p->sender, &u, name, true);
        take(&p->receiver, &c, 1, name);
        take(&p->sender, &c, 1, name);
        ++pair_count;
    }
    for (uint32_t n = 0; n <= rounds; ++n)
        for (uint32_t i = 0; i < pair_count; ++i) {
            struct pair *p = &pairs[(n + i) % pair_count];
            const double ms = round_of(p);

            p->ms[n > 0 ? n - 1 : 0] = ms;
        }
    for (uint32_t i = 0; i < pair_count; ++i) {
        last = report(&pairs[i], rounds);
        first = i == 0 ? last : first;
    }
    printf("RESULT %.4f\n", last / first);
    for (uint32_t i = 0; i < pair_count; ++i) {
        close(pairs[i].sender.ask);
        close(pairs[i].receiver.ask);
    }
    while (wait(NULL) > 0)
        ;
    rmdir(folder);
    return 0;
}
