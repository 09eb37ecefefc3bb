/* SPDX-License-Identifier: Apache-2.0 */
/* Opening, joining, stepping: bench_side.h. */
#include "bench_side.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "../../net/net.h"
#include "../../net/verbs/verbs.h"

struct side me;

uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void die(const char *what)
{
    fprintf(stderr, "verbs_bench: %s\n", what);
    _exit(1);
}

kvw_err put(uint64_t offset, const void *from, uint32_t bytes, uint32_t n)
{
    const struct kvw_put p = {.key = me.peer,
                              .offset = offset,
                              .iov = {{from, bytes}},
                              .iov_count = 1,
                              .imm = n,
                              .cookie = n};
    const kvw_err err = me.t->ops->put(me.t, me.conn, &p);

    if (err != KVW_OK && err != KVW_E_AGAIN)
        die(kvw_strerror(err));
    return err;
}

static void on_event(const struct kvw_transport_event *ev)
{
    if (ev->kind == KVW_TEV_CONN_UP) {
        me.up = true;
        me.conn = ev->conn;
        if (me.t->ops->region_open(me.t, me.conn, &me.mine) != KVW_OK)
            die("the region can't be opened");
    } else if (ev->kind == KVW_TEV_CONN_DOWN) {
        snprintf(me.why, sizeof(me.why), "%s", ev->text);
        if (ev->err != KVW_E_PEER_LOST)
            fprintf(stderr, "verbs_bench: %s\n", ev->text);
        me.down = true;
    } else if (ev->kind == KVW_TEV_MESSAGE && ev->bytes == sizeof(me.peer)) {
        memcpy(&me.peer, ev->msg, sizeof(me.peer));
        me.key_known = true;
    } else if (ev->kind == KVW_TEV_PUT_LANDED) {
        ++me.landed;
        if (me.echo)
            (void)put(ev->offset, me.source, ev->bytes, ev->imm);
    } else if (ev->kind == KVW_TEV_PUT_DONE) {
        ++me.done;
        if (me.times_done != NULL)
            ++me.times_done[ev->cookie];
        me.failed += ev->err != KVW_OK;
        me.free_stage[ev->cookie % STAGES] = 1;
    }
}

void step_until(uint64_t until_ns)
{
    struct kvw_transport_event ev[32];
    const uint32_t n = me.t->ops->poll(me.t, now_ns(), ev, 32);
    const uint64_t deadline = me.t->ops->deadline_ns(me.t);

    if (n == 0 && me.sleeps)
        me.t->ops->wait(me.t, deadline < until_ns ? deadline : until_ns, -1);
    for (uint32_t i = 0; i < n; ++i)
        on_event(&ev[i]);
}

void step(void)
{
    step_until(UINT64_MAX);
}

void open_side(const char *local, bool listener)
{
    const struct kvn_config cfg = {.local = local, .listener = listener};
    char why[KVN_WHY_BYTES];
    const uint32_t bytes = me.bytes != 0 ? me.bytes : REGION;
    struct kvw_mem mem = {.bytes = bytes, .kind = KVW_MEM_HOST, .dmabuf_fd = -1};

    if (kvn_open(&me.t, "verbs", &cfg, why) != KVW_OK)
        die(why);
    me.region = mmap(NULL, 2 * (size_t)bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (me.region == MAP_FAILED)
        die("no memory");
    me.source = me.region + bytes;
    for (uint32_t i = 0; i < bytes; i += 64)
        me.source[i] = (uint8_t)(i >> 6);
    mem.base = me.region;
    if (me.t->ops->region_add(me.t, &mem, NULL, NULL, &me.mine) != KVW_OK)
        die(kvn_verbs_about(me.t));
    mem.base = me.source;
    if (me.t->ops->source_add(me.t, &mem) != KVW_OK)
        die(kvn_verbs_about(me.t));
}

void join(const char *peer)
{
    const uint64_t end = now_ns() + GIVE_UP_NS;
    char address[128];

    snprintf(address, sizeof(address), "%.*s", (int)strcspn(peer, ","), peer);
    do { /* until the listener is there */
        me.up = me.down = me.key_known = false;
        if (me.t->ops->connect(me.t, address, now_ns(), &me.conn) != KVW_OK)
            die("LISTENER is ADDR:PORT[,...]");
        while (!me.up && !me.down)
            step();
        if (me.down)
            usleep(50000);
    } while (!me.up && now_ns() < end);
    swap_keys();
}

void swap_keys(void)
{
    const uint64_t end = now_ns() + GIVE_UP_NS;

    while (!me.up && !me.down && now_ns() < end)
        step();
    if (!me.up || me.t->ops->send(me.t, me.conn, &me.mine, sizeof(me.mine)) != KVW_OK)
        die("not joined");
    while (!me.key_known && !me.down && now_ns() < end)
        step();
}

/* KVW_BENCH_CPUS="S,L": the CPUs that the sender and the listener stay on. */
static void stay(bool listens)
{
    const char *cpus = getenv("KVW_BENCH_CPUS");
    const char *second = cpus != NULL ? strchr(cpus, ',') : NULL;
    cpu_set_t set;

    if (second == NULL)
        return;
    CPU_ZERO(&set);
    CPU_SET(atoi(listens ? second + 1 : cpus), &set);
    if (sched_setaffinity(0, sizeof(set), &set) != 0)
        die("KVW_BENCH_CPUS names a CPU that isn't there");
}

pid_t listener(const char *local, bool answers, int wait_fd)
{
    const pid_t pid = fork();
    char byte;

    stay(pid == 0);
    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (wait_fd >= 0 && read(wait_fd, &byte, 1) != 1)
        _exit(0);
    me.sleeps = !answers;
    open_side(local, true);
    if (me.t->ops->listen(me.t) != KVW_OK)
        die("listen");
    me.echo = answers; /* before: the first put may come in one poll with the peer's key */
    swap_keys();
    while (!me.down)
        step();
    me.t->ops->close(me.t);
    _exit(0);
}
