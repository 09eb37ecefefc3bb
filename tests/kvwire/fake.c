/* SPDX-License-Identifier: Apache-2.0 */
#include "fake.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../kvwire/wire/types.h"

#define FAKE_ASSERT(cond)                                                                          \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "fake transport: %s broken\n", #cond);                                 \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static struct fake *fake_of(struct kvw_transport *t)
{
    return (struct fake *)(void *)t;
}

static struct kvw_transport_event *push(struct fake *f, kvw_transport_event_kind kind,
                                        kvw_conn_id conn)
{
    const uint32_t i = (f->event_head + f->event_count) % FAKE_EVENTS;

    FAKE_ASSERT(f->event_count + f->event_dead < FAKE_EVENTS);
    ++f->event_count;
    f->event_msg[i] = NULL;
    f->events[i] = (struct kvw_transport_event){.kind = kind, .conn = conn, .text = ""};
    return &f->events[i];
}

static bool is_live(const struct fake *f, kvw_conn_id conn)
{
    return conn.value < FAKE_CONNS && f->live[conn.value];
}

static kvw_err fake_listen(struct kvw_transport *t)
{
    struct fake *f = fake_of(t);

    ++f->listens;
    return f->fail_listen;
}

static kvw_err fake_connect(struct kvw_transport *t, const char *peer, uint64_t now_ns,
                            kvw_conn_id *conn)
{
    struct fake *f = fake_of(t);

    (void)peer;
    (void)now_ns;
    if (f->fail_connect != KVW_OK)
        return f->fail_connect;
    if (f->conns + 1 >= FAKE_CONNS)
        return KVW_E_AGAIN;
    ++f->connects;
    conn->value = ++f->conns;
    f->live[conn->value] = true;
    f->dialled = *conn;
    return KVW_OK;
}

static void fail_puts(struct fake *f, kvw_conn_id conn)
{
    for (uint32_t i = 0; i < f->put_count;) {
        if (f->puts[i].conn.value == conn.value && f->puts[i].open)
            fake_put_done(f, i, KVW_E_PEER_LOST);
        else
            ++i;
    }
}

static void fake_disconnect(struct kvw_transport *t, kvw_conn_id conn, uint64_t now_ns)
{
    struct fake *f = fake_of(t);

    (void)now_ns;
    if (!is_live(f, conn))
        return;
    ++f->disconnects;
    f->live[conn.value] = f->opened[conn.value] = false;
    fail_puts(f, conn);
}

static kvw_err fake_region_add(struct kvw_transport *t, const struct kvw_mem *mem,
                               kvw_put_gate gate, void *gate_arg, struct kvw_region_key *key)
{
    struct fake *f = fake_of(t);

    if (f->fail_region_add != KVW_OK)
        return f->fail_region_add;
    FAKE_ASSERT(f->regions == 0);
    f->regions = 1;
    f->region = *mem;
    f->gate = gate;
    f->gate_arg = gate_arg;
    memset(key, 0x5a, sizeof(*key));
    return KVW_OK;
}

static kvw_err fake_source_add(struct kvw_transport *t, const struct kvw_mem *mem)
{
    struct fake *f = (struct fake *)t;

    FAKE_ASSERT(mem->bytes > 0);
    ++f->sources;
    return KVW_OK;
}

static void fake_source_remove(struct kvw_transport *t, const struct kvw_mem *mem)
{
    struct fake *f = (struct fake *)t;

    (void)mem;
    FAKE_ASSERT(f->sources > 0);
    --f->sources;
}

static kvw_err fake_region_remove(struct kvw_transport *t, const struct kvw_region_key *key)
{
    struct fake *f = fake_of(t);

    (void)key;
    FAKE_ASSERT(f->regions == 1);
    f->regions = 0;
    return KVW_OK;
}

/* As the contract has it: for one connection, of one that lives, and not twice. */
static kvw_err fake_region_open(struct kvw_transport *t, kvw_conn_id conn,
                                const struct kvw_region_key *key)
{
    struct fake *f = fake_of(t);

    (void)key;
    if (!is_live(f, conn))
        return KVW_E_NOTFOUND;
    FAKE_ASSERT(!f->opened[conn.value]);
    if (f->open_full)
        return KVW_E_AGAIN; /* nothing will tell when this changes */
    f->open_to = conn;
    f->opened[conn.value] = true;
    ++f->opens;
    return KVW_OK;
}

static void fake_region_shut(struct kvw_transport *t, kvw_conn_id conn,
                             const struct kvw_region_key *key)
{
    struct fake *f = fake_of(t);

    (void)key;
    FAKE_ASSERT(f->opened[conn.value]);
    f->opened[conn.value] = false;
    f->open_to.value = f->open_to.value == conn.value ? 0 : f->open_to.value;
    ++f->shuts;
}

static bool send_is_full(const struct fake *f)
{
    return f->send_full || f->sent_count == FAKE_SENT;
}

static bool put_is_full(const struct fake *f)
{
    return f->put_full || f->put_count == FAKE_PUTS;
}

static kvw_err fake_send(struct kvw_transport *t, kvw_conn_id conn, const void *msg, uint32_t bytes)
{
    struct fake *f = fake_of(t);
    struct fake_msg *m;

    FAKE_ASSERT(bytes > 0 && bytes <= KVW_MSG_BYTES_MAX);
    /* Whoever hears of an offer may put. */
    FAKE_ASSERT(*(const uint8_t *)msg != KVW_WIRE_OFFER || f->opened[conn.value]);
    if (!is_live(f, conn))
        return KVW_E_NOTFOUND;
    if (send_is_full(f)) {
        f->send_refused = true;
        return KVW_E_AGAIN;
    }
    m = &f->sent[f->sent_count++];
    m->conn = conn;
    m->bytes = bytes;
    m->msg = malloc(bytes);
    memcpy(m->msg, msg, bytes);
    return KVW_OK;
}

static kvw_err fake_put(struct kvw_transport *t, kvw_conn_id conn, const struct kvw_put *put)
{
    struct fake *f = fake_of(t);

    FAKE_ASSERT(put->iov_count == 1 && put->iov[0].bytes <= KVW_PUT_BYTES_MAX);
    if (!is_live(f, conn))
        return KVW_E_NOTFOUND;
    if (put_is_full(f)) {
        f->put_refused = true;
        return KVW_E_AGAIN;
    }
    f->puts[f->put_count++] = (struct fake_put){*put, conn, true};
    return KVW_OK;
}

static uint32_t fake_poll(struct kvw_transport *t, uint64_t now_ns,
                          struct kvw_transport_event *events, uint32_t max)
{
    struct fake *f = fake_of(t);
    uint32_t n = 0;

    (void)now_ns;
    ++f->polls;
    f->send_refused = f->send_refused && send_is_full(f);
    f->put_refused = f->put_refused && put_is_full(f);
    for (; f->event_dead > 0; --f->event_dead) {
        const uint32_t i = (f->event_head + FAKE_EVENTS - f->event_dead) % FAKE_EVENTS;

        free(f->event_msg[i]);
        f->event_msg[i] = NULL;
    }
    while (n < max && f->event_count > 0) {
        const struct kvw_transport_event *ev = &f->events[f->event_head];

        f->event_head = (f->event_head + 1) % FAKE_EVENTS;
        --f->event_count;
        ++f->event_dead;
        /* After disconnect() only the outcomes of puts come out; CONN_DOWN marks itself dead. */
        if (is_live(f, ev->conn) || ev->kind == KVW_TEV_PUT_DONE || ev->kind == KVW_TEV_CONN_DOWN)
            events[n++] = *ev;
    }
    return n;
}

static uint64_t fake_deadline_ns(const struct kvw_transport *t)
{
    (void)t;
    return UINT64_MAX;
}

static void fake_wait(struct kvw_transport *t, uint64_t until_ns, int wake_fd)
{
    (void)t;
    (void)until_ns;
    (void)wake_fd;
}

static void fake_stats(const struct kvw_transport *t, struct kvw_transport_stats *stats)
{
    ++((struct fake *)(uintptr_t)t)->stats_asked;
    *stats = ((const struct fake *)t)->stats;
}

static void fake_close(struct kvw_transport *t)
{
    (void)t;
}

void fake_init(struct fake *f)
{
    static const struct kvw_transport_ops ops = {
        .name = "fake",
        .listen = fake_listen,
        .connect = fake_connect,
        .disconnect = fake_disconnect,
        .region_add = fake_region_add,
        .region_remove = fake_region_remove,
        .region_open = fake_region_open,
        .region_shut = fake_region_shut,
        .source_add = fake_source_add,
        .source_remove = fake_source_remove,
        .send = fake_send,
        .put = fake_put,
        .poll = fake_poll,
        .deadline_ns = fake_deadline_ns,
        .wait = fake_wait,
        .stats = fake_stats,
        .close = fake_close,
    };

    memset(f, 0, sizeof(*f));
    f->transport.ops = &ops;
}

void fake_free(struct fake *f)
{
    fake_drop_sent(f);
    for (uint32_t i = 0; i < FAKE_EVENTS; ++i)
        free(f->event_msg[i]);
}

kvw_conn_id fake_incoming(struct fake *f)
{
    kvw_conn_id conn = {++f->conns};

    FAKE_ASSERT(f->conns < FAKE_CONNS);
    f->live[conn.value] = true;
    push(f, KVW_TEV_CONN_UP, conn)->incoming = true;
    return conn;
}

void fake_dialled_up(struct fake *f)
{
    push(f, KVW_TEV_CONN_UP, f->dialled);
}

void fake_down(struct fake *f, kvw_conn_id conn, kvw_err err)
{
    struct kvw_transport_event *ev;

    if (!is_live(f, conn))
        return;
    fail_puts(f, conn);
    f->live[conn.value] = f->opened[conn.value] = false;
    ev = push(f, KVW_TEV_CONN_DOWN, conn);
    ev->err = err;
    ev->text = "the test cut the line";
}

void fake_message(struct fake *f, kvw_conn_id conn, const void *msg, uint32_t bytes)
{
    struct kvw_transport_event *ev;

    if (!is_live(f, conn) || bytes == 0)
        return;
    ev = push(f, KVW_TEV_MESSAGE, conn);
    f->event_msg[ev - f->events] = malloc(bytes);
    memcpy(f->event_msg[ev - f->events], msg, bytes);
    ev->msg = f->event_msg[ev - f->events];
    ev->bytes = bytes;
}

bool fake_land(struct fake *f, kvw_conn_id conn, uint64_t offset, const void *bytes, uint32_t n,
               uint32_t imm)
{
    struct kvw_transport_event *ev;

    if (!is_live(f, conn) || f->regions == 0 || offset > f->region.bytes ||
        n > f->region.bytes - offset || !f->gate(f->gate_arg, conn, offset, n, imm))
        return false;
    memcpy((unsigned char *)f->region.base + offset, bytes, n);
    ev = push(f, KVW_TEV_PUT_LANDED, conn);
    ev->offset = offset;
    ev->bytes = n;
    ev->imm = imm;
    return true;
}

void fake_put_done(struct fake *f, uint32_t i, kvw_err err)
{
    struct kvw_transport_event *ev;

    FAKE_ASSERT(i < f->put_count && f->puts[i].open);
    ev = push(f, KVW_TEV_PUT_DONE, f->puts[i].conn);
    ev->err = err;
    ev->cookie = f->puts[i].put.cookie;
    --f->put_count;
    memmove(&f->puts[i], &f->puts[i + 1], (f->put_count - i) * sizeof(f->puts[0]));
}

bool fake_arrivals(const struct fake *f)
{
    return f->event_count > 0 || (f->send_refused && !send_is_full(f)) ||
           (f->put_refused && !put_is_full(f));
}

bool fake_take(struct fake *f, uint8_t type, struct fake_msg *m)
{
    for (uint32_t i = 0; i < f->sent_count; ++i) {
        if (f->sent[i].msg[0] != type)
            continue;
        *m = f->sent[i];
        --f->sent_count;
        memmove(&f->sent[i], &f->sent[i + 1], (f->sent_count - i) * sizeof(f->sent[0]));
        return true;
    }
    return false;
}

void fake_drop_sent(struct fake *f)
{
    for (uint32_t i = 0; i < f->sent_count; ++i)
        free(f->sent[i].msg);
    f->sent_count = 0;
}
