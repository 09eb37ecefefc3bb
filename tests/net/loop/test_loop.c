/* SPDX-License-Identifier: Apache-2.0 */
/* An end of loop that polls at its deadline alone hears of everything: what arrives, and room after
 * a full ring. With nothing to do it sleeps, and whatever makes its deadline due wakes it. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "../../../kvwire/wire.h"
#include "../../../net/net.h"

static struct kvw_transport *a, *b; /* b listens */
static kvw_conn_id on_a;

/* Poll t if it asks for it; returns the events taken of that kind. */
static uint32_t take(struct kvw_transport *t, kvw_transport_event_kind kind, uint32_t max)
{
    struct kvw_transport_event ev[64];
    uint32_t n = 0;

    if (t->ops->deadline_ns(t) != 0)
        return 0;
    const uint32_t got = t->ops->poll(t, 1, ev, max);
    for (uint32_t i = 0; i < got; ++i)
        n += ev[i].kind == kind;
    return n;
}

static void up(void)
{
    const struct kvn_config listener = {.local = "due", .listener = true}, other = {.local = "due"};
    char why[KVN_WHY_BYTES] = "";

    cr_assert_eq(kvn_open(&b, "loop", &listener, why), KVW_OK, "%s", why);
    cr_assert_eq(kvn_open(&a, "loop", &other, why), KVW_OK, "%s", why);
    cr_assert_eq(b->ops->listen(b), KVW_OK);
    cr_assert_eq(a->ops->connect(a, NULL, 1, &on_a), KVW_OK);
    cr_assert_eq(take(a, KVW_TEV_CONN_UP, 64), 1);
    cr_assert_eq(take(b, KVW_TEV_CONN_UP, 64), 1);
}

static void down(void)
{
    a->ops->close(a);
    if (b != NULL)
        b->ops->close(b);
}

TestSuite(loop, .init = up, .fini = down);

static bool idle(void)
{
    return a->ops->deadline_ns(a) == UINT64_MAX && b->ops->deadline_ns(b) == UINT64_MAX;
}

Test(loop, room_after_a_full_ring)
{
    static const uint8_t msg[KVW_MSG_BYTES_MAX];
    uint32_t sent = 0, got = 0;

    cr_assert(idle());
    for (uint32_t round = 0; round < 20; ++round) {
        while (a->ops->send(a, on_a, msg, sizeof(msg)) == KVW_OK)
            ++sent;
        cr_assert_eq(a->ops->deadline_ns(a), UINT64_MAX, "there is no room yet");
        while (got < sent) {
            const uint32_t n = take(b, KVW_TEV_MESSAGE, 64);

            cr_assert_gt(n, 0, "round %u: %u of %u messages", round, got, sent);
            got += n;
        }
        take(b, KVW_TEV_MESSAGE, 64); /* gives back what it has reported */
        cr_assert_eq(a->ops->deadline_ns(a), 0, "round %u: there is room", round);
        take(a, KVW_TEV_MESSAGE, 64);
        cr_assert(idle(), "round %u", round);
    }
    cr_expect_gt(sent, 40);
}

/* --- wait() ----------------------------------------------------------------------------------- */

static _Atomic int sleeper; /* the thread that is in wait(), or is about to be; 0: none */

static void *sleep_in(void *arg)
{
    struct kvw_transport *t = arg;

    atomic_store(&sleeper, (int)syscall(SYS_gettid));
    t->ops->wait(t, UINT64_MAX, -1);
    return NULL;
}

/* The kernel says that the thread sleeps: in wait(), as nobody holds the lock it takes there. */
static bool sleeps(void)
{
    char path[64], text[256] = "";
    const char *behind;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/self/task/%d/stat", atomic_load(&sleeper));
    if (atomic_load(&sleeper) == 0 || (f = fopen(path, "r")) == NULL)
        return false;
    (void)!fread(text, 1, sizeof(text) - 1, f);
    fclose(f);
    behind = strrchr(text, ')');
    return behind != NULL && behind[2] == 'S';
}

/* t sleeps until act() has been called; then its deadline is due. */
static void woken_by(struct kvw_transport *t, void (*act)(void), const char *what)
{
    struct timespec late;
    pthread_t thread;

    while (t->ops->deadline_ns(t) == 0)
        take(t, KVW_TEV_CONN_UP, 64);
    atomic_store(&sleeper, 0);
    cr_assert_eq(pthread_create(&thread, NULL, sleep_in, t), 0);
    while (!sleeps())
        sched_yield();
    act();
    clock_gettime(CLOCK_REALTIME, &late);
    late.tv_sec += 20;
    cr_assert_eq(pthread_timedjoin_np(thread, NULL, &late), 0, "%s woke nobody", what);
    cr_assert_eq(t->ops->deadline_ns(t), 0, "%s", what);
}

static uint8_t memory[64];
static struct kvw_region_key key;

static void send_one(void)
{
    cr_assert_eq(a->ops->send(a, on_a, "x", 1), KVW_OK);
}

static void put_one(void)
{
    const struct kvw_put put = {
        .key = key, .iov_count = 1, .iov = {{memory + 32, 8}}, .imm = 1, .cookie = 1};

    cr_assert_eq(a->ops->put(a, on_a, &put), KVW_OK);
}

static bool allowed; /* by the gate */

static bool allows(void *arg, kvw_conn_id conn, uint64_t offset, uint32_t bytes, uint32_t imm)
{
    (void)arg, (void)conn, (void)offset, (void)bytes, (void)imm;
    return allowed;
}

/* What its receiver doesn't allow yet waits for its poll. */
static void take_put(void)
{
    allowed = true;
    cr_assert_eq(take(b, KVW_TEV_PUT_LANDED, 64), 1);
}

static void connect_again(void)
{
    cr_assert_eq(a->ops->connect(a, NULL, 1, &on_a), KVW_OK);
}

static void leave(void)
{
    a->ops->disconnect(a, on_a, 1);
}

static void close_b(void)
{
    b->ops->close(b);
    b = NULL;
}

Test(loop, a_sleeper_is_woken_by_whatever_is_due, .timeout = 60)
{
    const struct kvw_mem mem = {.base = memory, .bytes = 32, .kind = KVW_MEM_HOST, .dmabuf_fd = -1};
    const struct kvn_config listener = {.local = "due", .listener = true};
    char why[KVN_WHY_BYTES] = "";

    cr_assert_eq(b->ops->region_add(b, &mem, allows, NULL, &key), KVW_OK);
    woken_by(b, send_one, "a message");
    cr_assert_eq(take(b, KVW_TEV_MESSAGE, 64), 1);
    woken_by(b, put_one, "a put");
    woken_by(a, take_put, "a put's outcome");
    cr_assert_eq(take(a, KVW_TEV_PUT_DONE, 64), 1);
    woken_by(a, put_one, "the outcome of a put that was placed at once");
    cr_assert_eq(take(a, KVW_TEV_PUT_DONE, 64), 1);
    woken_by(b, leave, "a disconnect");
    cr_assert_eq(take(b, KVW_TEV_CONN_DOWN, 64), 1);
    woken_by(b, connect_again, "a connection");
    woken_by(a, close_b, "a close");
    cr_assert_eq(kvn_open(&b, "loop", &listener, why), KVW_OK, "%s", why);
}

/* --- puts ------------------------------------------------------------------------------------ */

#define SPAN 64u /* bytes of one put */

static unsigned char landing[1024 * SPAN], source[1024 * SPAN];

static void land_here(void)
{
    const struct kvw_mem mem = {
        .base = landing, .bytes = sizeof(landing), .kind = KVW_MEM_HOST, .dmabuf_fd = -1};

    for (uint32_t i = 0; i < sizeof(source); ++i)
        source[i] = (unsigned char)(i * 2654435761u >> 11);
    memset(landing, 0, sizeof(landing));
    cr_assert_eq(b->ops->region_add(b, &mem, NULL, NULL, &key), KVW_OK);
}

static kvw_err put(uint32_t n)
{
    const struct kvw_put p = {.key = key,
                              .offset = (uint64_t)n * SPAN,
                              .iov[0] = {source + (size_t)n * SPAN, SPAN},
                              .iov_count = 1,
                              .imm = n,
                              .cookie = n};

    return a->ops->put(a, on_a, &p);
}

/* It is copied while its sender's caches hold it, and both sides hear of it once. */
Test(loop, a_put_is_there_before_its_receiver_looks)
{
    land_here();
    cr_assert_eq(put(3), KVW_OK);
    cr_expect_arr_eq(landing + 3 * SPAN, source + 3 * SPAN, SPAN);
    cr_expect_eq(landing[4 * SPAN], 0, "the control: what wasn't put isn't there");
    cr_expect_neq(source[4 * SPAN], 0);
    cr_expect_eq(take(a, KVW_TEV_PUT_DONE, 64), 1);
    memset(source + 3 * SPAN, 0, SPAN); /* it is its owner's again */
    cr_expect_eq(take(b, KVW_TEV_PUT_LANDED, 64), 1);
    cr_expect_neq(landing[3 * SPAN], 0);
    cr_expect(idle());
}

/* What was told as done isn't told again when the connection ends before its receiver looked. */
Test(loop, an_end_tells_no_outcome_twice)
{
    land_here();
    cr_assert_eq(put(0), KVW_OK);
    cr_expect_eq(take(a, KVW_TEV_PUT_DONE, 64), 1);
    cr_assert_eq(put(1), KVW_OK);
    b->ops->close(b);
    b = NULL;
    cr_expect_eq(take(a, KVW_TEV_PUT_DONE, 64), 1);
    cr_expect_eq(take(a, KVW_TEV_PUT_DONE, 64), 0);
}

/* A receiver that doesn't look bounds what waits for it; a PUT_DONE comes when there is room, and
 * each put lands once, in order. */
Test(loop, puts_wait_in_a_bounded_line)
{
    uint32_t sent = 0, done = 0, landed = 0;
    struct kvw_transport_event ev[64];

    land_here();
    for (uint32_t rounds = 0; rounds < 10; ++rounds) {
        while (sent < 1024 && put(sent) == KVW_OK)
            ++sent;
        done += take(a, KVW_TEV_PUT_DONE, 64);
    }
    cr_expect(sent >= 256 && sent < 1024, "%u puts wait", sent);
    while (landed < 1024) {
        const uint32_t n = b->ops->poll(b, 1, ev, 64), told = done;

        for (uint32_t i = 0; i < n; ++i)
            cr_assert(ev[i].kind == KVW_TEV_PUT_LANDED && ev[i].imm == landed++);
        while (a->ops->deadline_ns(a) == 0)
            done += take(a, KVW_TEV_PUT_DONE, 64);
        while (done > told && sent < 1024 && put(sent) == KVW_OK) /* not unless it is told to */
            ++sent;
        cr_assert(n > 0 || sent > landed, "%u of %u have landed", landed, sent);
    }
    done += take(a, KVW_TEV_PUT_DONE, 64);
    while (a->ops->deadline_ns(a) == 0)
        done += take(a, KVW_TEV_PUT_DONE, 64);
    cr_expect_eq(done, 1024);
    cr_expect_arr_eq(landing, source, sizeof(source));
    cr_expect(idle());
}
