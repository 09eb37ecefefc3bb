/* SPDX-License-Identifier: Apache-2.0 */
/* node.h over udp on the loopback: threads, one descriptor, blobs, fork, metrics. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../../kvwire/node.h"
#include "state.h"

#define MS      1000000ull
#define S       1000000000ull
#define LAYERS  3u
#define THREADS 10u
#define EACH    6u

struct end {
    struct kvw_node *n;
    struct t_state state;
    kvw_pool_id pool;
    kvw_peer_id peer;
    kvw_err done[4096]; /* by reference; 1: not yet */
    char last_text[8][257];
    uint32_t dones;
};

static struct end d, p;

static void open_end(struct end *e, uint32_t port)
{
    char local[32], why[257] = "";
    const struct kvw_node_config cfg = {.size = sizeof(cfg),
                                        .name = e == &p ? "prefill" : "decode",
                                        .transport = "udp",
                                        .local = local,
                                        .listen = e == &d,
                                        .xfers_max = 128};

    snprintf(local, sizeof(local), "127.0.0.1:%u", port);
    cr_assert_eq(kvw_node_open(&e->n, &cfg, why, sizeof(why)), KVW_OK, "%s", why);
    t_state_dense(&e->state, LAYERS, 2, 128, KVW_DTYPE_BF16, 16, THREADS * EACH * 4);
    t_state_make(&e->state);
    cr_assert_eq(kvw_node_pool_add(e->n, &e->state.desc, &e->pool, why, sizeof(why)), KVW_OK, "%s",
                 why);
    for (uint32_t i = 0; i < 4096; ++i)
        e->done[i] = (kvw_err)1;
}

static void take(struct end *e)
{
    struct kvw_core_event ev = {.size = sizeof(ev)};

    while (kvw_node_next_event(e->n, &ev)) {
        if (ev.kind == KVW_CEV_PEER_UP)
            e->peer = ev.peer;
        if (ev.kind == KVW_CEV_XFER_DONE) {
            cr_assert_eq(e->done[ev.xfer.value], 1);
            e->done[ev.xfer.value] = (kvw_err)ev.err;
            if (ev.xfer.value < 8)
                memcpy(e->last_text[ev.xfer.value], ev.text, sizeof(ev.text));
            for (uint32_t i = 0; i < 64; ++i)
                ev.chunks -= ev.codec_chunks[i];
            cr_expect_eq(ev.chunks, 0, "all chunks are of some codec");
            ++e->dones;
        }
    }
}

static bool done_by(struct end *e, uint32_t dones, uint64_t until)
{
    while (e->dones < dones && kvw_now_ns() < until) {
        if (kvw_node_wait(e->n, kvw_now_ns() + 20 * MS))
            take(e);
    }
    return e->dones >= dones;
}

/* Open both and join them by the decode node's blob. */
static void pair(uint32_t port)
{
    const uint64_t until = kvw_now_ns() + 10 * S;
    uint8_t blob[256];
    uint32_t bytes = 4;

    open_end(&d, port);
    open_end(&p, 0);
    cr_assert_eq(kvw_node_blob(d.n, blob, &bytes), KVW_E_TRUNCATED);
    cr_assert_leq(bytes, sizeof(blob));
    cr_assert_eq(kvw_node_blob(d.n, blob, &bytes), KVW_OK);
    cr_expect_eq(kvw_node_peer_blob(p.n, blob, bytes - 1, &p.peer), KVW_E_FORMAT);
    ++blob[16];
    cr_expect_eq(kvw_node_peer_blob(p.n, blob, bytes, &p.peer), KVW_E_UNSUPPORTED);
    --blob[16];
    cr_assert_eq(kvw_node_peer_blob(p.n, blob, bytes, &p.peer), KVW_OK);
    p.peer.value = 0;
    while ((p.peer.value == 0 || d.peer.value == 0) && kvw_now_ns() < until) {
        (void)kvw_node_wait(p.n, kvw_now_ns() + 5 * MS);
        take(&p);
        take(&d);
    }
    cr_assert(p.peer.value != 0 && d.peer.value != 0, "they didn't meet");
}

static void end_pair(void)
{
    kvw_node_close(p.n);
    kvw_node_close(d.n);
    t_state_free(&p.state);
    t_state_free(&d.state);
}

/* One transfer, number `at`, opened on both sides: blocks at*4 .. */
static void open_transfer(uint32_t at, kvw_xfer_ref *r, kvw_xfer_ref *s)
{
    const uint32_t ids[4] = {at * 4, at * 4 + 1, at * 4 + 2, at * 4 + 3};
    const struct kvw_group_blocks want = {0, 4, ids, 0, 0, 64}, have = {0, 4, ids, 0, 0, 0};
    char key[16], why[257] = "";

    snprintf(key, sizeof(key), "request %u", at);
    const struct kvw_offer_args offer = {.size = sizeof(offer),
                                         .pool = d.pool,
                                         .key = kvw_key_of(key),
                                         .tokens = 64,
                                         .group_count = 1,
                                         .groups = &want,
                                         .sources = &d.peer,
                                         .source_count = 1};
    const struct kvw_stream_args stream = {.size = sizeof(stream),
                                           .pool = p.pool,
                                           .key = kvw_key_of(key),
                                           .tokens = 64,
                                           .group_count = 1,
                                           .groups = &have};

    t_state_fill(&p.state, 0, ids, 0, 0, 64, at);
    cr_assert_eq(kvw_node_offer(d.n, &offer, r, why, sizeof(why)), KVW_OK, "%s", why);
    cr_assert_eq(kvw_node_stream(p.n, &stream, s, why, sizeof(why)), KVW_OK, "%s", why);
}

static void transfer(uint32_t at, bool commit, kvw_xfer_ref *r, kvw_xfer_ref *s)
{
    open_transfer(at, r, s);
    for (uint32_t l = 0; l < LAYERS; ++l)
        cr_assert_eq(kvw_node_push(p.n, *s, l, 64, NULL), KVW_OK);
    if (commit)
        cr_assert_eq(kvw_node_commit(p.n, *s, NULL, 0), KVW_OK);
}

static bool arrived(uint32_t at)
{
    const uint32_t ids[4] = {at * 4, at * 4 + 1, at * 4 + 2, at * 4 + 3};

    return t_state_is(&d.state, 0, ids, 0, 0, 64, at);
}

Test(node, one_descriptor_in_an_epoll)
{
    struct epoll_event ev = {.events = EPOLLIN};
    const int ep = epoll_create1(EPOLL_CLOEXEC);
    const uint64_t until = kvw_now_ns() + 10 * S;
    kvw_xfer_ref r, s;

    pair(27411);
    cr_assert_eq(epoll_ctl(ep, EPOLL_CTL_ADD, kvw_node_fd(d.n), &ev), 0);
    take(&d);
    cr_expect_eq(epoll_wait(ep, &ev, 1, 0), 0, "readable without an event");
    cr_expect_not(kvw_node_wait(d.n, 0));
    transfer(1, true, &r, &s);
    while (d.dones == 0 && kvw_now_ns() < until)
        if (epoll_wait(ep, &ev, 1, 1000) == 1)
            take(&d);
    cr_expect_eq(d.done[r.value], KVW_OK);
    cr_expect(kvw_node_layer_ready(d.n, r, 0) ||
              true); /* its event may have been taken: no crash */
    cr_expect(arrived(1));
    cr_expect_not(kvw_node_try_event(d.n, &(struct kvw_core_event){.size = 1024}));
    cr_expect_eq(epoll_wait(ep, &ev, 1, 0), 0, "readable though all events were taken");
    cr_assert(done_by(&p, 1, until));
    cr_expect_eq(p.done[s.value], KVW_OK);
    close(ep);
    end_pair();
}

static sem_t asked, go_on;

/* In the node's thread, which has the lock. */
static kvw_err hold(void *arg)
{
    (void)arg;
    sem_post(&asked);
    while (sem_wait(&go_on) != 0)
        ;
    return KVW_OK;
}

/* Its thread is in the middle of something: pushes don't wait for it, and none is lost. */
Test(node, pushes_while_it_works, .timeout = 60)
{
    const struct kvw_ready ready = {.query = hold};
    const uint64_t until = kvw_now_ns() + 20 * S;
    struct kvw_core_event ev = {.size = sizeof(ev)};
    kvw_xfer_ref r[3], s[3];

    sem_init(&asked, 0, 0);
    sem_init(&go_on, 0, 0);
    pair(27417);
    for (uint32_t i = 0; i < 3; ++i)
        open_transfer(i, &r[i], &s[i]);
    cr_assert_eq(kvw_node_push(p.n, s[0], 0, 64, &ready), KVW_OK);
    while (sem_wait(&asked) != 0)
        ;
    for (uint32_t tokens = 1; tokens <= 64; ++tokens) /* as many as there are places for */
        for (uint32_t l = 0; l < LAYERS; ++l)
            cr_assert_eq(kvw_node_push(p.n, s[1], l, tokens, NULL), KVW_OK);
    cr_expect_eq(kvw_node_push(p.n, s[2], LAYERS, 64, NULL), KVW_OK, "nobody has looked at it");
    cr_expect_not(kvw_node_try_event(p.n, &ev));
    sem_post(&go_on);
    cr_assert_eq(kvw_node_commit(p.n, s[1], NULL, 0), KVW_OK, "it comes after all pushes");
    for (uint32_t l = 1; l < LAYERS; ++l)
        cr_assert_eq(kvw_node_push(p.n, s[0], l, 64, NULL), KVW_OK);
    cr_assert_eq(kvw_node_commit(p.n, s[0], NULL, 0), KVW_OK);
    cr_assert(done_by(&p, 3, until) && done_by(&d, 3, until));
    cr_expect(p.done[s[0].value] == KVW_OK && p.done[s[1].value] == KVW_OK);
    cr_expect(arrived(0) && arrived(1));
    cr_expect_eq(p.done[s[2].value], KVW_E_CANCELED);
    cr_expect_str_eq(p.last_text[s[2].value], "a push of layer 3 up to token 64: invalid argument");
    cr_expect_eq(d.done[r[2].value], KVW_E_CANCELED);
    cr_expect_eq(kvw_node_push(p.n, s[2], 0, 64, NULL), KVW_E_NOTFOUND);
    end_pair();
}

static void *worker(void *arg)
{
    const uint32_t first = *(const uint32_t *)arg * EACH;
    struct kvw_core_stats stats = {.size = sizeof(stats)};
    struct kvw_peer_info info = {.size = sizeof(info)};
    char text[256];
    kvw_xfer_ref r, s;

    for (uint32_t i = first; i < first + EACH; ++i) {
        transfer(i, i % 3 != 2, &r, &s);
        kvw_node_stats(d.n, &stats);
        (void)kvw_node_metrics(p.n, text, sizeof(text));
        (void)kvw_node_layer_ready(d.n, r, 1);
        cr_assert_eq(kvw_node_peer_info(p.n, p.peer, &info), KVW_OK);
        if (i % 3 == 2)
            cr_assert_eq(kvw_node_abort(p.n, s, "enough"), KVW_OK);
    }
    return NULL;
}

Test(node, ten_threads_call_at_once, .timeout = 60)
{
    const uint64_t until = kvw_now_ns() + 40 * S;
    pthread_t threads[THREADS];
    uint32_t ids[THREADS], ok = 0;

    pair(27412);
    for (uint32_t i = 0; i < THREADS; ++i) {
        ids[i] = i;
        cr_assert_eq(pthread_create(&threads[i], NULL, worker, &ids[i]), 0);
    }
    cr_assert(done_by(&d, THREADS * EACH, until), "%u ended", d.dones);
    cr_assert(done_by(&p, THREADS * EACH, until), "%u ended", p.dones);
    for (uint32_t i = 0; i < THREADS; ++i)
        pthread_join(threads[i], NULL);
    for (uint32_t i = 0; i < THREADS * EACH; ++i) {
        if (i % 3 != 2)
            cr_expect(arrived(i), "%u", i);
        ok += i % 3 != 2;
    }
    for (uint32_t i = 1; i <= THREADS * EACH; ++i)
        ok -= d.done[i] == KVW_OK;
    cr_expect_eq(ok, 0);
    end_pair();
}

static uint64_t asked_ns;

/* A device that takes its time to say that it has failed. */
static kvw_err never_ready(void *arg)
{
    (void)arg;
    usleep(20000);
    asked_ns = kvw_now_ns();
    return KVW_E_DEVICE;
}

/* An event's time is when the poll that saw it was over, not when it began. */
Test(node, an_event_is_not_older_than_its_cause)
{
    const struct kvw_ready ready = {.query = never_ready};
    struct kvw_core_event ev = {.size = sizeof(ev)};
    uint64_t done_ns = 0;
    const uint64_t until = kvw_now_ns() + 10 * S;
    kvw_xfer_ref r, s;

    pair(27418);
    open_transfer(0, &r, &s);
    cr_assert_eq(kvw_node_push(p.n, s, 0, 1, &ready), KVW_OK);
    while (done_ns == 0 && kvw_now_ns() < until && kvw_node_wait(p.n, until))
        while (kvw_node_next_event(p.n, &ev))
            done_ns = ev.kind == KVW_CEV_XFER_DONE && ev.xfer.value == s.value ? ev.at_ns : done_ns;
    cr_assert_neq(done_ns, 0, "it never ended");
    cr_expect_geq(done_ns, asked_ns);
    end_pair();
}

Test(node, close_while_busy)
{
    kvw_xfer_ref r, s;

    pair(27413);
    for (uint32_t i = 0; i < 20; ++i)
        transfer(i, true, &r, &s);
    kvw_node_close(d.n);
    for (uint32_t m = 0; m < d.state.mem_count; ++m) /* it is ours again */
        memset(d.state.mems[m].base, 0x77, d.state.mems[m].bytes);
    cr_assert(done_by(&p, 20, kvw_now_ns() + 10 * S), "a stream that never ended");
    for (uint32_t m = 0; m < d.state.mem_count; ++m)
        for (uint64_t i = 0; i < d.state.mems[m].bytes; ++i)
            cr_assert_eq(((unsigned char *)d.state.mems[m].base)[i], 0x77);
    kvw_node_close(p.n);
    kvw_node_close(NULL);
    t_state_free(&p.state);
    t_state_free(&d.state);
}

Test(node, a_child_closes_its_copies)
{
    const uint64_t until = kvw_now_ns() + 10 * S;
    kvw_xfer_ref r, s;
    int status = -1;
    pid_t child;

    pair(27414);
    transfer(0, false, &r, &s);
    if ((child = fork()) == 0) {
        kvw_node_close(p.n);
        kvw_node_close(d.n);
        _exit(7);
    }
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 7);
    cr_assert_eq(kvw_node_commit(p.n, s, NULL, 0), KVW_OK);
    cr_assert(done_by(&d, 1, until) && done_by(&p, 1, until));
    cr_expect_eq(d.done[r.value], KVW_OK);
    cr_expect(arrived(0));
    end_pair();
}

/* Each metric has HELP and TYPE, then NAME VALUE; a text that is cut says how long it would be. */
Test(node, metrics_parse)
{
    static char text[16384], cut[64];
    size_t bytes;
    uint32_t metrics = 0, landed = 0;
    kvw_xfer_ref r, s;

    pair(27415);
    transfer(0, true, &r, &s);
    cr_assert(done_by(&d, 1, kvw_now_ns() + 10 * S));
    bytes = kvw_node_metrics(d.n, text, sizeof(text));
    cr_assert(bytes < sizeof(text) && bytes == strlen(text));
    cr_expect_eq(kvw_node_metrics(d.n, cut, sizeof(cut)), bytes);
    cr_expect_eq(strlen(cut), sizeof(cut) - 1);
    cr_expect_eq(kvw_node_metrics(d.n, NULL, 0), bytes);
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n"), ++metrics) {
        char name[64], type[64], kind[16], value[64];
        unsigned long long v;

        cr_assert_eq(sscanf(line, "# HELP %63s", name), 1, "%s", line);
        cr_assert_not_null(line = strtok(NULL, "\n"));
        cr_assert_eq(sscanf(line, "# TYPE %63s %15s", type, kind), 2, "%s", line);
        cr_assert_not_null(line = strtok(NULL, "\n"));
        cr_assert_eq(sscanf(line, "%63s %llu", value, &v), 2, "%s", line);
        cr_expect(strcmp(name, type) == 0 && strcmp(name, value) == 0, "%s", line);
        cr_expect_eq(strcmp(kind, "counter") == 0, strstr(name, "_total") != NULL, "%s", name);
        landed += strcmp(name, "kvwire_transfers_ok_total") == 0 ? (uint32_t)v : 0;
    }
    cr_expect_eq(metrics, 30);
    cr_expect_eq(landed, 1);
    cr_expect(strstr(kvw_features(), "udp") != NULL);
    end_pair();
}

/* The node's thread runs where it is told to, and this one where it did. */
Test(node, cpus)
{
    struct kvw_node_config cfg = {.size = sizeof(cfg), .transport = "udp", .local = "127.0.0.1:0"};
    const long self = getpid();
    struct kvw_node *n = NULL;
    cpu_set_t all, one, got;
    char why[257] = "";
    uint32_t bound = 0, cpu = 0;
    DIR *tasks;

    cr_assert_eq(sched_getaffinity(0, sizeof(all), &all), 0);
    while (!CPU_ISSET(cpu, &all))
        ++cpu;
    CPU_ZERO(&one);
    CPU_SET(CPU_SETSIZE - 1, &one);
    cfg.cpus = &one;
    cfg.cpus_bytes = sizeof(one);
    cr_expect_eq(kvw_node_open(&n, &cfg, why, sizeof(why)), KVW_E_INVALID);
    cr_expect_str_eq(why, "cpus: none that this process may use");
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    cr_assert_eq(kvw_node_open(&n, &cfg, why, sizeof(why)), KVW_OK, "%s", why);
    cr_assert_not_null(tasks = opendir("/proc/self/task"));
    for (struct dirent *d1; (d1 = readdir(tasks)) != NULL;) {
        const long id = strtol(d1->d_name, NULL, 10);

        if (id > 0 && id != self && sched_getaffinity((pid_t)id, sizeof(got), &got) == 0)
            bound += CPU_EQUAL(&got, &one) != 0;
    }
    closedir(tasks);
    cr_expect_eq(bound, 1);
    cr_assert_eq(sched_getaffinity(0, sizeof(got), &got), 0);
    cr_expect(CPU_EQUAL(&got, &all));
    kvw_node_close(n);
}

/* As the kernel has it; glibc's header declares it from 2.41 on. */
struct slices {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime_ns, deadline_ns, period_ns;
};

static uint64_t slice_of(long thread)
{
    struct slices a = {.size = sizeof(a)};

    return syscall(SYS_sched_getattr, thread, &a, sizeof(a), 0) == 0 ? a.runtime_ns : 0;
}

/* The node's thread has asked for short slices; this one hasn't, and has none. */
Test(node, wakes_soon)
{
    const struct kvw_node_config cfg = {
        .size = sizeof(cfg), .transport = "udp", .local = "127.0.0.1:0"};
    const uint64_t own = slice_of(0);
    struct kvw_node *n = NULL;
    uint32_t brief = 0;

    if (own == 0 || sched_getscheduler(0) != SCHED_OTHER)
        cr_skip_test("an idle process, or the kernel has no slices of a thread's own (Linux 6.12)");
    cr_assert_eq(kvw_node_open(&n, &cfg, NULL, 0), KVW_OK);
    for (uint32_t tries = 0; tries < 1000 && brief == 0; ++tries) { /* its thread has begun */
        DIR *tasks = opendir("/proc/self/task");

        cr_assert_not_null(tasks);
        for (struct dirent *d1; (d1 = readdir(tasks)) != NULL;)
            brief += d1->d_name[0] != '.' && slice_of(strtol(d1->d_name, NULL, 10)) == 100000;
        closedir(tasks);
        usleep(1000);
    }
    cr_expect_eq(brief, 1);
    cr_expect_eq(slice_of(0), own);
    kvw_node_close(n);
}

Test(node, arguments)
{
    struct kvw_node_config cfg = {
        .size = sizeof(cfg), .transport = "carrier-pigeon", .local = "127.0.0.1:0"};
    struct kvw_node *n = NULL;
    char why[257] = "";

    cr_expect_eq(kvw_node_open(&n, &cfg, why, sizeof(why)), KVW_E_UNSUPPORTED);
    cr_expect_neq(why[0], '\0');
    cfg.transport = NULL;
    cr_expect_eq(kvw_node_open(&n, &cfg, why, sizeof(why)), KVW_E_INVALID);
    cr_expect_str_eq(why, "transport");
    cfg.transport = "udp";
    cfg.listen = 2;
    cr_expect_eq(kvw_node_open(&n, &cfg, why, sizeof(why)), KVW_E_INVALID);
    cr_expect_str_eq(why, "listen");
    cfg.listen = 0;
    cfg.cpus_bytes = 8;
    cr_expect_eq(kvw_node_open(&n, &cfg, why, sizeof(why)), KVW_E_INVALID);
    cr_expect_str_eq(why, "cpus_bytes");
    cfg.cpus_bytes = 0;
    cfg.local = "nowhere";
    cr_expect_neq(kvw_node_open(&n, &cfg, why, sizeof(why)), KVW_OK);
    cfg.local = "127.0.0.1:0";
    cfg.size = 7;
    cr_expect_eq(kvw_node_open(&n, &cfg, why, sizeof(why)), KVW_E_INVALID);
    cr_expect_null(n);
}

/* Port 0 is some port, and the node says which: its blob leads there. */
Test(node, port_0_can_be_asked)
{
    char address[64];
    uint32_t bytes = 4;

    pair(0);
    cr_expect_eq(kvw_node_address(d.n, address, &bytes), KVW_E_TRUNCATED);
    cr_assert_leq(bytes, sizeof(address));
    cr_assert_eq(kvw_node_address(d.n, address, &bytes), KVW_OK);
    cr_expect_eq(bytes, strlen(address) + 1);
    cr_expect_eq(strncmp(address, "127.0.0.1:", 10), 0, "%s", address);
    cr_expect_neq(atoi(address + 10), 0, "%s", address);
    end_pair();
}
