/* SPDX-License-Identifier: Apache-2.0 */
/* Every transport keeps the nine rules at the top of kvwire/transport.h; tests name the rule. */
#include "transport_suite.h"

#include <criterion/criterion.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MS       1000000ull
#define PATIENCE (20000 * MS)
#define PUTS_MAX 20000u
#define REGION   (8u << 20)
#define GUARD    0x5a

/* One end, and all that has happened to it. */
struct end {
    struct kvw_transport *t;
    kvw_conn_id conn;
    uint32_t ups, downs;
    bool incoming;
    kvw_err down_err;
    uint32_t msgs;
    uint64_t msg_bytes;
    uint32_t puts_done, puts_failed, puts_landed;
    uint8_t done[PUTS_MAX], landed[PUTS_MAX]; /* how often, by cookie and imm */
    bool done_after_down;
    uint8_t *memory; /* its region, REGION bytes; then REGION bytes to put from */
    struct kvw_region_key key;
    uint32_t expect_msg; /* check messages against message_byte() from this number on */
    bool check_msgs;
    bool check_done; /* at PUT_DONE the peer's memory must hold the put */
    struct end *peer;
    uint64_t put_offset[PUTS_MAX];
    uint32_t put_bytes[PUTS_MAX];
};

static struct t_world world;
static struct end a, b;
static _Atomic uint32_t gate_calls; /* queues ask from their threads */
static _Atomic bool gate_answer = true;

uint64_t t_clock_ns(struct t_world *w)
{
    struct timespec t;

    (void)w;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void t_idle_briefly(struct t_world *w, uint64_t until_ns)
{
    const uint64_t slice = t_clock_ns(w) + 100000;

    t_rest(w->a, until_ns < slice ? until_ns : slice, -1);
}

static uint8_t message_byte(uint32_t n, uint32_t i)
{
    return (uint8_t)(n * 31 + i * 7 + i / 256);
}

static uint32_t message_bytes(uint32_t n)
{
    return n % 50 == 49 ? KVW_MSG_BYTES_MAX - n % 7 : 1 + n * 37 % 900;
}

static bool gate(void *arg, kvw_conn_id conn, uint64_t offset, uint32_t bytes, uint32_t imm)
{
    (void)arg;
    (void)conn;
    (void)offset;
    (void)bytes;
    (void)imm;
    ++gate_calls;
    return gate_answer;
}

static uint64_t now(void)
{
    return world.now_ns(&world);
}

static void check_message(struct end *e, const struct kvw_transport_event *ev)
{
    const uint8_t *m = ev->msg;

    cr_assert_eq(ev->bytes, message_bytes(e->expect_msg), "message %u has %u bytes", e->expect_msg,
                 ev->bytes);
    for (uint32_t i = 0; i < ev->bytes; ++i)
        cr_assert(m[i] == message_byte(e->expect_msg, i), "message %u differs at %u", e->expect_msg,
                  i);
    ++e->expect_msg;
}

static void on_event(struct end *e, const struct kvw_transport_event *ev)
{
    cr_assert_neq(ev->conn.value, 0);
    if (e->downs > 0)
        e->done_after_down = true;
    switch (ev->kind) {
    case KVW_TEV_CONN_UP:
        ++e->ups;
        e->conn = ev->conn;
        e->incoming = ev->incoming;
        break;
    case KVW_TEV_CONN_DOWN:
        ++e->downs;
        e->down_err = ev->err;
        cr_assert_not_null(ev->text);
        cr_assert_neq(ev->err, KVW_OK);
        break;
    case KVW_TEV_MESSAGE:
        ++e->msgs;
        e->msg_bytes += ev->bytes;
        if (e->check_msgs)
            check_message(e, ev);
        break;
    case KVW_TEV_PUT_DONE:
        cr_assert_lt(ev->cookie, PUTS_MAX);
        ++e->done[ev->cookie];
        if (ev->err == KVW_OK)
            ++e->puts_done;
        else
            ++e->puts_failed;
        if (e->check_done && ev->err == KVW_OK)
            cr_assert_arr_eq(e->peer->memory + e->put_offset[ev->cookie],
                             e->memory + REGION + e->put_offset[ev->cookie],
                             e->put_bytes[ev->cookie], "PUT_DONE %u came before its bytes",
                             (unsigned)ev->cookie);
        break;
    case KVW_TEV_PUT_LANDED:
        cr_assert_lt(ev->imm, PUTS_MAX);
        ++e->landed[ev->imm];
        ++e->puts_landed;
        break;
    }
}

static void poll_end(struct end *e)
{
    struct kvw_transport_event ev[16];
    uint32_t n;

    if (e->t == NULL)
        return;
    do {
        n = e->t->ops->poll(e->t, now(), ev, 16);
        for (uint32_t i = 0; i < n; ++i)
            on_event(e, &ev[i]);
    } while (n == 16);
}

static void step(void)
{
    uint64_t until = UINT64_MAX;

    poll_end(&a);
    poll_end(&b);
    if (a.t != NULL)
        until = a.t->ops->deadline_ns(a.t);
    if (b.t != NULL && b.t->ops->deadline_ns(b.t) < until)
        until = b.t->ops->deadline_ns(b.t);
    if (until > now())
        world.idle(&world, until < now() + 10 * MS ? until : now() + 10 * MS);
}

/*
 * As an application that does only what the contract says: it polls an end when its deadline is
 * due, or when wait() has ended before the time that it was given. Whatever a call leaves for the
 * next poll() without saying so comes late then, with the next timer.
 */
static bool lazy_end(struct end *e)
{
    const uint64_t at = e->t->ops->deadline_ns(e->t), slice = now() + MS / 2;
    const uint64_t until = at < slice ? at : slice;

    if (at > now()) {
        if (!world.real_time)
            return false;
        t_rest(e->t, until, -1);
        if (at > now() && now() >= until)
            return false;
    }
    poll_end(e);
    return true;
}

static void lazy_step(void)
{
    uint64_t until = now() + 10 * MS;
    const bool polled = lazy_end(&a);

    if (lazy_end(&b) || polled || world.real_time)
        return;
    if (a.t->ops->deadline_ns(a.t) < until)
        until = a.t->ops->deadline_ns(a.t);
    if (b.t->ops->deadline_ns(b.t) < until)
        until = b.t->ops->deadline_ns(b.t);
    world.idle(&world, until);
    if (now() < until) { /* something has arrived */
        poll_end(&a);
        poll_end(&b);
    }
}

/* Step until condition, or fail. */
#define UNTIL(condition)                                                                           \
    do {                                                                                           \
        const uint64_t until_end = now() + PATIENCE;                                               \
        while (!(condition)) {                                                                     \
            cr_assert_lt(now(), until_end, "never came true: " #condition);                        \
            step();                                                                                \
        }                                                                                          \
    } while (0)

static void run_for(uint64_t ns)
{
    const uint64_t end = now() + ns;

    while (now() < end)
        step();
}

static void open_world(void)
{
    world.memory =
        mmap(NULL, T_MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(world.memory, MAP_FAILED);
    t_world_open(&world);
    a.t = world.a;
    b.t = world.b;
    a.memory = world.memory;
    b.memory = world.memory + 2 * REGION;
    a.peer = &b;
    b.peer = &a;
}

static void add_region(struct end *e)
{
    const struct kvw_mem mem = {.base = e->memory, .bytes = REGION, .kind = KVW_MEM_HOST};

    memset(e->memory, GUARD, REGION);
    for (uint32_t i = 0; i < REGION; ++i)
        e->memory[REGION + i] = (uint8_t)(i * 2654435761u >> 23);
    cr_assert_eq(e->t->ops->region_add(e->t, &mem, gate, NULL, &e->key), KVW_OK);
}

/* Where regions start shut. */
static void open_region(struct end *e)
{
    if (e->t->ops->region_open != NULL)
        cr_assert_eq(e->t->ops->region_open(e->t, e->conn, &e->key), KVW_OK);
}

/* Joined, each with a region of REGION bytes. */
static void setup(void)
{
    open_world();
    add_region(&a);
    add_region(&b);
    cr_assert_eq(b.t->ops->listen(b.t), KVW_OK);
    cr_assert_eq(a.t->ops->connect(a.t, world.peer, now(), &a.conn), KVW_OK);
    cr_assert_neq(a.conn.value, 0);
    UNTIL(a.ups == 1 && b.ups == 1);
    open_region(&a);
    open_region(&b);
}

static void teardown(void)
{
    if (a.t != NULL)
        a.t->ops->close(a.t);
    if (b.t != NULL)
        b.t->ops->close(b.t);
    if (world.over != NULL)
        world.over(&world);
    munmap(world.memory, T_MEMORY_BYTES);
}

/* Put bytes from e's source at the same offset of the peer's region. */
static kvw_err put(struct end *e, uint32_t n, uint64_t offset, uint32_t bytes)
{
    const struct kvw_put p = {.key = e->peer->key,
                              .offset = offset,
                              .iov = {{e->memory + REGION + offset, bytes}},
                              .iov_count = 1,
                              .imm = n,
                              .cookie = n};

    e->put_offset[n] = offset;
    e->put_bytes[n] = bytes;
    return e->t->ops->put(e->t, e->conn, &p);
}

static kvw_err message(struct end *e, uint32_t n)
{
    static uint8_t bytes[KVW_MSG_BYTES_MAX];
    kvw_err err;

    for (uint32_t i = 0; i < message_bytes(n); ++i)
        bytes[i] = message_byte(n, i);
    err = e->t->ops->send(e->t, e->conn, bytes, message_bytes(n));
    memset(bytes, 0, sizeof(bytes)); /* rule 3: it was copied */
    return err;
}

TestSuite(transport, .init = setup, .fini = teardown, .timeout = 120);

/* Both sides learn of a connection once, and who called. */
Test(transport, connects)
{
    cr_expect_not(a.incoming);
    cr_expect(b.incoming);
    cr_expect_neq(a.conn.value, 0);
    cr_expect_neq(b.conn.value, 0);
    cr_expect_eq(b.t->ops->listen(b.t), KVW_E_INVALID);
    if (world.bad_peer != NULL) {
        kvw_conn_id id = {77};
        cr_expect_eq(a.t->ops->connect(a.t, world.bad_peer, now(), &id), KVW_E_ADDRESS);
        cr_expect_eq(id.value, 77);
    }
    run_for(50 * MS);
    cr_expect_eq(a.ups + b.ups, 2);
    cr_expect_eq(a.downs + b.downs, 0);
}

/* Rule 1: messages arrive once, whole, in order, both ways at once. Rule 3: send() copies. */
Test(transport, messages_in_order)
{
    const uint32_t count = 1500;
    uint32_t from_a = 0, from_b = 0;

    a.check_msgs = b.check_msgs = true;
    while (from_a < count || from_b < count) {
        const uint32_t before = from_a + from_b;
        if (from_a < count && message(&a, from_a) == KVW_OK)
            ++from_a;
        if (from_b < count && message(&b, from_b) == KVW_OK)
            ++from_b;
        if (before == from_a + from_b)
            step();
    }
    UNTIL(a.msgs >= count && b.msgs >= count);
    run_for(20 * MS);
    cr_expect_eq(a.msgs, count);
    cr_expect_eq(b.msgs, count);
}

/* What is out of range is refused, and the connection doesn't mind. */
Test(transport, refuses_wrong_arguments)
{
    static uint8_t bytes[KVW_MSG_BYTES_MAX + 1];
    struct kvw_put p = {.key = b.key, .iov = {{bytes, 1}}, .iov_count = 1};

    cr_expect_eq(a.t->ops->send(a.t, a.conn, bytes, 0), KVW_E_INVALID);
    cr_expect_eq(a.t->ops->send(a.t, a.conn, bytes, KVW_MSG_BYTES_MAX + 1), KVW_E_INVALID);
    cr_expect_eq(a.t->ops->send(a.t, (kvw_conn_id){a.conn.value + 64000}, bytes, 1),
                 KVW_E_NOTFOUND);
    cr_expect_eq(a.t->ops->put(a.t, (kvw_conn_id){a.conn.value + 64000}, &p), KVW_E_NOTFOUND);
    p.iov_count = 0;
    cr_expect_eq(a.t->ops->put(a.t, a.conn, &p), KVW_E_INVALID);
    p.iov_count = KVW_PUT_IOV_MAX + 1;
    cr_expect_eq(a.t->ops->put(a.t, a.conn, &p), KVW_E_INVALID);
    p.iov_count = 1;
    p.iov[0].bytes = 0;
    cr_expect_eq(a.t->ops->put(a.t, a.conn, &p), KVW_E_INVALID);
    p.iov[0].bytes = KVW_PUT_BYTES_MAX + 1;
    cr_expect_eq(a.t->ops->put(a.t, a.conn, &p), KVW_E_INVALID);
    p.iov[0].bytes = KVW_PUT_BYTES_MAX; /* each in range, the sum not */
    p.iov[1] = (struct kvw_iov){bytes, 1};
    p.iov_count = 2;
    cr_expect_eq(a.t->ops->put(a.t, a.conn, &p), KVW_E_INVALID);
    cr_expect_eq(message(&a, 0), KVW_OK);
    UNTIL(b.msgs == 1);
    cr_expect_eq(a.downs + b.downs, 0);
}

/* Rules 1, 3, 4: many small puts, both ways; each is done and lands once, and is done only when the
 * bytes lie there. */
Test(transport, many_small_puts)
{
    const uint32_t count = 2000;
    uint32_t from_a = 0, from_b = 0;

    a.check_done = b.check_done = true;
    while (from_a < count || from_b < count) {
        const uint32_t before = from_a + from_b;
        if (from_a < count && put(&a, from_a, from_a * 4096u, 1 + from_a * 13 % 4096) == KVW_OK)
            ++from_a;
        if (from_b < count && put(&b, from_b, from_b * 4096u, 1 + from_b * 17 % 4096) == KVW_OK)
            ++from_b;
        if (before == from_a + from_b)
            step();
    }
    UNTIL(a.puts_done == count && b.puts_done == count && a.puts_landed == count &&
          b.puts_landed == count);
    run_for(20 * MS);
    for (uint32_t i = 0; i < count; ++i) {
        cr_assert(a.done[i] == 1 && b.done[i] == 1 && a.landed[i] == 1 && b.landed[i] == 1,
                  "put %u: done %d %d, landed %d %d", i, a.done[i], b.done[i], a.landed[i],
                  b.landed[i]);
        for (uint32_t j = 1 + i * 13 % 4096; j < 4096; ++j)
            cr_assert(b.memory[i * 4096u + j] == GUARD, "put %u wrote past its end", i);
    }
}

/* Rule 1: the longest put, gathered from four unequal pieces; and all of a region. */
Test(transport, longest_puts)
{
    const uint32_t sizes[KVW_PUT_IOV_MAX] = {1, 64, 300001, KVW_PUT_BYTES_MAX - 300066};
    struct kvw_put p = {.key = b.key, .iov_count = KVW_PUT_IOV_MAX};
    uint8_t *from = a.memory + REGION;

    for (uint32_t i = 0; i < KVW_PUT_IOV_MAX; from += sizes[i++])
        p.iov[i] = (struct kvw_iov){from, sizes[i]};
    cr_assert_eq(a.t->ops->put(a.t, a.conn, &p), KVW_OK);
    for (uint32_t i = 1; i < REGION / KVW_PUT_BYTES_MAX; ++i)
        cr_assert_eq(put(&a, i, (uint64_t)i * KVW_PUT_BYTES_MAX, KVW_PUT_BYTES_MAX), KVW_OK);
    UNTIL(a.puts_done == REGION / KVW_PUT_BYTES_MAX && b.puts_landed == a.puts_done);
    cr_assert(memcmp(b.memory, a.memory + REGION, REGION) == 0);
    if (world.gates)
        cr_expect_eq(gate_calls, REGION / KVW_PUT_BYTES_MAX, "the gate was asked %u times",
                     gate_calls);
}

/* Rule 2: a full queue says KVW_E_AGAIN and has taken nothing; what it took arrives. */
Test(transport, full_queues_say_again)
{
    uint32_t msgs = 0, puts = 0;

    b.check_msgs = true;
    while (msgs < 100000 && message(&a, msgs) == KVW_OK)
        ++msgs;
    cr_assert_gt(msgs, 0);
    cr_assert_lt(msgs, 100000, "send() never said KVW_E_AGAIN");
    cr_expect_eq(message(&a, msgs), KVW_E_AGAIN);
    while (puts < PUTS_MAX && put(&a, puts, puts % 256 * 4096u, 4096) == KVW_OK)
        ++puts;
    cr_assert_gt(puts, 0);
    cr_assert_lt(puts, PUTS_MAX, "put() never said KVW_E_AGAIN");
    cr_expect_eq(put(&a, puts, 0, 4096), KVW_E_AGAIN);
    UNTIL(b.msgs == msgs && a.puts_done == puts && b.puts_landed == puts);
    run_for(20 * MS);
    cr_expect_eq(b.msgs, msgs);
    cr_expect_eq(a.puts_done, puts);
    cr_expect_eq(message(&a, msgs), KVW_OK);
    cr_expect_eq(put(&a, puts, 0, 4096), KVW_OK);
    UNTIL(b.msgs == msgs + 1 && a.puts_done == puts + 1);
}

/* Rules 4, 5: the put fails, then the connection, on both sides, and no byte was written. */
static void expect_breach(void)
{
    UNTIL(a.downs == 1 && b.downs == 1);
    run_for(50 * MS);
    cr_expect_eq(a.down_err, KVW_E_PROTOCOL, "sender: %s", kvw_strerror(a.down_err));
    cr_expect_eq(b.down_err, KVW_E_PROTOCOL, "receiver: %s", kvw_strerror(b.down_err));
    cr_expect_eq(a.puts_failed, 1);
    cr_expect_eq(a.puts_done, 0);
    cr_expect_eq(b.puts_landed, 0);
    cr_expect_not(a.done_after_down);
    cr_expect_eq(a.downs + b.downs, 2);
    for (uint32_t i = 0; i < REGION; ++i)
        cr_assert(b.memory[i] == GUARD, "byte %u was written", i);
    cr_expect_eq(message(&a, 0), KVW_E_NOTFOUND);
}

Test(transport, rule_5_unknown_key)
{
    struct kvw_put p = {.key = b.key, .iov = {{a.memory, 100}}, .iov_count = 1};

    memset(p.key.bytes, 0xa5, sizeof(p.key.bytes));
    cr_assert_eq(a.t->ops->put(a.t, a.conn, &p), KVW_OK);
    expect_breach();
}

/* The key of a region that went, though another lies at the same place now. */
Test(transport, rule_5_old_key)
{
    const struct kvw_mem mem = {.base = b.memory, .bytes = REGION, .kind = KVW_MEM_HOST};
    struct kvw_region_key again;

    cr_assert_eq(b.t->ops->region_remove(b.t, &b.key), KVW_OK);
    cr_assert_eq(b.t->ops->region_add(b.t, &mem, NULL, NULL, &again), KVW_OK);
    cr_assert_eq(put(&a, 0, 4096, 100), KVW_OK);
    expect_breach();
}

Test(transport, rule_5_past_the_end)
{
    struct kvw_put p = {
        .key = b.key, .offset = REGION - 99999, .iov = {{a.memory, 100000}}, .iov_count = 1};

    cr_assert_eq(a.t->ops->put(a.t, a.conn, &p), KVW_OK);
    expect_breach();
}

Test(transport, rule_5_offset_that_wraps)
{
    struct kvw_put p = {
        .key = b.key, .offset = UINT64_MAX - 50, .iov = {{a.memory, 100}}, .iov_count = 1};

    cr_assert_eq(a.t->ops->put(a.t, a.conn, &p), KVW_OK);
    expect_breach();
}

Test(transport, rule_5_gate_refuses)
{
    if (!world.gates)
        cr_skip_test("this transport can't ask a gate");
    gate_answer = false;
    cr_assert_eq(put(&a, 0, 4096, 200000), KVW_OK);
    expect_breach();
}

/* Rule 6: after region_remove() the memory is quiet, whatever is on its way. */
Test(transport, rule_6_region_remove)
{
    uint8_t *const copy = malloc(REGION);

    for (uint32_t i = 0; i < REGION / KVW_PUT_BYTES_MAX; ++i)
        cr_assert_eq(put(&a, i, (uint64_t)i * KVW_PUT_BYTES_MAX, KVW_PUT_BYTES_MAX), KVW_OK);
    for (int i = 0; i < 20 && b.puts_landed == 0; ++i)
        step();
    cr_assert_eq(b.t->ops->region_remove(b.t, &b.key), KVW_OK);
    cr_expect_eq(b.t->ops->region_remove(b.t, &b.key), KVW_E_NOTFOUND);
    memcpy(copy, b.memory, REGION);
    run_for(200 * MS);
    cr_expect(memcmp(copy, b.memory, REGION) == 0, "written after region_remove()");
    free(copy);
}

/* Regions are bounded, and a removed one's key isn't the next one's. */
Test(transport, regions_are_bounded)
{
    const struct kvw_mem mem = {.base = b.memory, .bytes = 4096, .kind = KVW_MEM_HOST};
    struct kvw_region_key keys[KVW_REGIONS_MAX + 1], again;
    uint32_t n = 0;

    while (n <= KVW_REGIONS_MAX && b.t->ops->region_add(b.t, &mem, NULL, NULL, &keys[n]) == KVW_OK)
        ++n;
    cr_assert_eq(n, KVW_REGIONS_MAX - 1, "one is there already; %u more fit", n);
    cr_expect_eq(b.t->ops->region_add(b.t, &mem, NULL, NULL, &again), KVW_E_NOMEM);
    cr_assert_eq(b.t->ops->region_remove(b.t, &keys[5]), KVW_OK);
    cr_assert_eq(b.t->ops->region_add(b.t, &mem, NULL, NULL, &again), KVW_OK);
    cr_expect(memcmp(&again, &keys[5], sizeof(again)) != 0);
}

/* Rules 3, 4, 7: disconnect() gives every put back once, says no CONN_DOWN here and one there. */
Test(transport, rule_7_disconnect)
{
    const kvw_conn_id old = a.conn;
    const uint32_t puts = 8;

    for (uint32_t i = 0; i < puts; ++i)
        cr_assert_eq(put(&a, i, (uint64_t)i * KVW_PUT_BYTES_MAX, KVW_PUT_BYTES_MAX), KVW_OK);
    step();
    a.t->ops->disconnect(a.t, a.conn, now());
    cr_expect_eq(message(&a, 0), KVW_E_NOTFOUND);
    UNTIL(b.downs == 1 && a.puts_done + a.puts_failed == puts);
    run_for(50 * MS);
    cr_expect_eq(b.down_err, KVW_E_PEER_LOST, "%s", kvw_strerror(b.down_err));
    cr_expect_eq(a.downs, 0);
    cr_expect_eq(b.downs, 1);
    for (uint32_t i = 0; i < puts; ++i)
        cr_expect_eq(a.done[i], 1, "put %u is done %d times", i, a.done[i]);
    cr_assert_eq(a.t->ops->connect(a.t, world.peer, now(), &a.conn), KVW_OK);
    cr_expect_neq(a.conn.value, old.value, "ids aren't reused");
    b.downs = 0;
    UNTIL(a.ups == 2 && b.ups == 2);
    b.check_msgs = true;
    cr_assert_eq(message(&a, 0), KVW_OK);
    UNTIL(b.msgs == 1);
}

/* Rules 4, 7: the same when the listener hangs up while puts come in. */
Test(transport, rule_4_peer_disconnects)
{
    const uint32_t puts = 8;

    for (uint32_t i = 0; i < puts; ++i)
        cr_assert_eq(put(&a, i, (uint64_t)i * KVW_PUT_BYTES_MAX, KVW_PUT_BYTES_MAX), KVW_OK);
    step();
    b.t->ops->disconnect(b.t, b.conn, now());
    UNTIL(a.downs == 1);
    run_for(50 * MS);
    cr_expect_eq(a.puts_done + a.puts_failed, puts);
    for (uint32_t i = 0; i < puts; ++i)
        cr_expect_eq(a.done[i], 1);
    cr_expect_not(a.done_after_down);
    cr_expect_eq(b.downs, 0);
}

/* Rule 7: close() is a goodbye too. */
Test(transport, rule_7_close)
{
    cr_assert_eq(put(&a, 0, 0, KVW_PUT_BYTES_MAX), KVW_OK);
    step();
    b.t->ops->close(b.t);
    b.t = NULL;
    UNTIL(a.downs == 1);
    cr_expect_eq(a.down_err, KVW_E_PEER_LOST);
    cr_expect_eq(a.done[0], 1);
    cr_expect_not(a.done_after_down);
}

/* Rule 8: a peer that says nothing any more is lost within dead_ns, its puts with it. */
Test(transport, rule_8_peer_vanishes)
{
    uint64_t gone;

    if (world.vanish_b == NULL)
        cr_skip_test("a peer of this transport can't vanish");
    world.vanish_b(&world);
    b.t = NULL;
    gone = now();
    cr_assert_eq(put(&a, 0, 0, KVW_PUT_BYTES_MAX), KVW_OK);
    UNTIL(a.downs == 1);
    cr_expect_eq(a.down_err, KVW_E_PEER_LOST);
    cr_expect_eq(a.done[0], 1);
    cr_expect_eq(a.puts_failed, 1);
    cr_expect_not(a.done_after_down);
    cr_expect_leq(now() - gone, world.dead_ns + world.dead_ns / 2, "noticed after %llu ms",
                  (unsigned long long)((now() - gone) / MS));
}

/* A connection that nobody uses stays up. */
Test(transport, idle_connections_live)
{
    run_for(3 * world.dead_ns);
    cr_expect_eq(a.downs + b.downs, 0);
    b.check_msgs = true;
    cr_assert_eq(message(&a, 0), KVW_OK);
    UNTIL(b.msgs == 1);
}

static void skip_if_virtual(void)
{
    if (!world.real_time)
        cr_skip_test("this transport's clock is virtual");
}

static double cpu_ms(void)
{
    return (double)clock() * 1e3 / CLOCKS_PER_SEC;
}

/* Rule 9: half a second of waiting by the rules costs next to nothing. */
Test(transport, rule_9_waiting_is_free)
{
    uint64_t end;
    double cpu;

    skip_if_virtual();
    run_for(100 * MS);
    cpu = cpu_ms();
    end = now() + 500 * MS;
    while (now() < end) {
        uint64_t until;

        poll_end(&b);
        poll_end(&a);
        until = a.t->ops->deadline_ns(a.t);
        t_rest(a.t, until < end ? until : end, -1);
    }
    cr_expect_lt(cpu_ms() - cpu, 100.0, "waiting 500 ms took %.0f ms of CPU", cpu_ms() - cpu);
}

/* Rule 9: wait() ends at its deadline, not long before it when nothing happens, and not after. */
Test(transport, rule_9_wakes_in_time)
{
    uint64_t begin, end;

    skip_if_virtual();
    run_for(100 * MS);
    end = now() + 50 * MS;
    for (int i = 0; i < 1000 && now() < end; ++i) {
        t_rest(a.t, end, -1);
        poll_end(&a); /* what others say on the same link is input too, and not for ever */
    }
    cr_expect_geq(now(), end, "it returned early a thousand times");
    cr_expect_lt(now() - end, 100 * MS);
    begin = now();
    t_rest(a.t, begin - 1, -1);
    cr_expect_lt(now() - begin, 20 * MS, "a deadline in the past must not block");
}

/* Rule 9: wake_fd ends a wait, and is left as it was. */
Test(transport, rule_9_wake_fd)
{
    const int fd = eventfd(1, EFD_NONBLOCK);
    struct pollfd left = {.fd = fd, .events = POLLIN};
    uint64_t begin;

    skip_if_virtual();
    begin = now();
    for (int i = 0; i < 2; ++i) /* both ways to sleep */
        t_rest(a.t, begin + 5000 * MS, fd);
    cr_expect_lt(now() - begin, 1000 * MS);
    cr_expect_eq(poll(&left, 1, 0), 1, "wake_fd was read");
    close(fd);
}

/* Rule 9: input ends a wait. */
Test(transport, rule_9_input_wakes)
{
    uint64_t begin;

    skip_if_virtual();
    run_for(50 * MS);
    for (uint32_t n = 0; n < 4; ++n) {
        cr_assert_eq(message(&b, n), KVW_OK);
        poll_end(&b);
        begin = now();
        for (int i = 0; i < 100 && a.msgs == n; ++i) {
            t_rest(a.t, begin + 5000 * MS, -1);
            poll_end(&a);
        }
        cr_expect_eq(a.msgs, n + 1);
        cr_expect_lt(now() - begin, 1000 * MS);
    }
}

/* How long it takes, lazily, until condition is true. */
#define LAZILY(condition)                                                                          \
    do {                                                                                           \
        const uint64_t lazily_begin = now();                                                       \
        while (!(condition)) {                                                                     \
            cr_assert_lt(now(), lazily_begin + PATIENCE, "never came true: " #condition);          \
            lazy_step();                                                                           \
        }                                                                                          \
        late += now() - lazily_begin > bound;                                                      \
    } while (0)

static void lazily_quiet(uint64_t ns)
{
    const uint64_t end = now() + ns;

    while (now() < end)
        lazy_step();
}

/* What send() and put() leave to do is said by deadline_ns(), or done without being asked; timers
 * have nothing to do with it. Their shortest is 100 ms; where packets are lost some come late. */
Test(transport, no_call_waits_for_a_timer)
{
    const uint64_t bound = world.real_time ? 60 * MS : 8 * MS;
    const uint32_t rounds = 12;
    uint32_t late = 0;

    lazily_quiet(20 * MS);
    for (uint32_t n = 0; n < rounds; ++n) {
        cr_assert_eq(message(&a, n), KVW_OK);
        LAZILY(b.msgs == n + 1);
        lazily_quiet(5 * MS);
        cr_assert_eq(message(&b, n), KVW_OK);
        LAZILY(a.msgs == n + 1);
        lazily_quiet(5 * MS);
        cr_assert_eq(put(&a, n, n * 4096, 4000), KVW_OK);
        LAZILY(b.puts_landed == n + 1 && a.puts_done == n + 1);
        lazily_quiet(5 * MS);
        cr_assert_eq(put(&b, n, n * 4096, 4000), KVW_OK);
        LAZILY(a.puts_landed == n + 1 && b.puts_done == n + 1);
        lazily_quiet(5 * MS);
    }
    cr_expect_leq(late, rounds / 2, "%u of %u calls waited", late, 4 * rounds);
}

/* The same of connect() and disconnect(). */
Test(transport, no_connection_waits_for_a_timer)
{
    const uint64_t bound = world.real_time ? 100 * MS : 8 * MS;
    const uint32_t rounds = 4;
    uint32_t late = 0;

    for (uint32_t n = 1; n <= rounds; ++n) {
        lazily_quiet(20 * MS);
        a.t->ops->disconnect(a.t, a.conn, now());
        LAZILY(b.downs == n);
        lazily_quiet(20 * MS);
        cr_assert_eq(a.t->ops->connect(a.t, world.peer, now(), &a.conn), KVW_OK);
        LAZILY(a.ups == n + 1 && b.ups == n + 1);
    }
    cr_expect_leq(late, rounds / 2, "%u of %u calls waited", late, 2 * rounds);
}
