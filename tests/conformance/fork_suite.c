/* SPDX-License-Identifier: Apache-2.0 */
/*
 * After fork() a transport is the parent's. The child may close its copy, also disconnect and
 * remove regions first as a core does: that is silent and ends, whatever threads and devices the
 * parent has, and the parent's connection doesn't notice.
 */
#include <criterion/criterion.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "transport_suite.h"

#define MS 1000000ull

static struct t_world w;
static kvw_conn_id conn;
static struct kvw_region_key key;
static uint32_t ups, downs, msgs;

static void poll_end(struct kvw_transport *t)
{
    struct kvw_transport_event ev[16];
    uint32_t n;

    do {
        n = t->ops->poll(t, w.now_ns(&w), ev, 16);
        for (uint32_t i = 0; i < n; ++i) {
            ups += ev[i].kind == KVW_TEV_CONN_UP;
            downs += ev[i].kind == KVW_TEV_CONN_DOWN;
            msgs += ev[i].kind == KVW_TEV_MESSAGE;
        }
    } while (n == 16);
}

static void run(uint64_t ns, uint32_t until_ups, uint32_t until_msgs)
{
    const uint64_t end = w.now_ns(&w) + ns;

    while (w.now_ns(&w) < end && (ups < until_ups || msgs < until_msgs)) {
        poll_end(w.a);
        poll_end(w.b);
        w.idle(&w, w.now_ns(&w) + MS);
    }
}

static void open_joined(void)
{
    w.memory =
        mmap(NULL, T_MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(w.memory, MAP_FAILED);
    t_world_open(&w);
    const struct kvw_mem mem = {.base = w.memory, .bytes = 4096, .kind = KVW_MEM_HOST};

    cr_assert_eq(w.a->ops->region_add(w.a, &mem, NULL, NULL, &key), KVW_OK);
    cr_assert_eq(w.b->ops->listen(w.b), KVW_OK);
    cr_assert_eq(w.a->ops->connect(w.a, w.peer, w.now_ns(&w), &conn), KVW_OK);
    run(20000 * MS, 2, 0);
    cr_assert_eq(ups, 2);
}

static void closes(void)
{
    alarm(5); /* ends it if a call waits for a thread that isn't here */
    w.a->ops->disconnect(w.a, conn, w.now_ns(&w));
    if (w.a->ops->region_remove(w.a, &key) != KVW_OK)
        _exit(1);
    w.a->ops->close(w.a);
    w.b->ops->close(w.b);
    _exit(0);
}

Test(fork, a_child_closes_in_silence, .timeout = 60)
{
    int status = -1;
    pid_t child;

    open_joined();
    for (int i = 0; i < 3; ++i) {
        child = fork();
        cr_assert_geq(child, 0);
        if (child == 0)
            closes();
        cr_assert_eq(waitpid(child, &status, 0), child);
        cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 0,
                  "the child ended with status 0x%x (0xe: a call never returned)", status);
        run(100 * MS, 3, 0);
    }
    cr_expect_eq(downs, 0, "the parent lost its connection");
    if (downs == 0) {
        cr_assert_eq(w.a->ops->send(w.a, conn, "still here", 10), KVW_OK);
        run(5000 * MS, 0, 1);
        cr_expect_eq(msgs, 1);
    }
    w.a->ops->close(w.a);
    w.b->ops->close(w.b);
    if (w.over != NULL)
        w.over(&w);
}
