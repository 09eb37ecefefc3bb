/* SPDX-License-Identifier: Apache-2.0 */
/* Two ends on the pretended fabric; duo.h says what for. */
#include "duo.h"

#include <stdio.h>
#include <string.h>

#include "../../kvwire/wire.h"

struct duo_end duo_a, duo_b;
uint64_t duo_now = 1000000000;

static uint32_t message_bytes(uint32_t n)
{
    return n % 9 == 8 ? 5000 + n : 1 + n * 37 % 900;
}

static void on_event(struct duo_end *e, const struct kvw_transport_event *ev)
{
    if (e->downs > 0 && ev->kind != KVW_TEV_CONN_UP)
        ++e->after_down;
    switch (ev->kind) {
    case KVW_TEV_CONN_UP:
        ++e->ups;
        e->conn = ev->conn;
        if (e->t->ops->region_open(e->t, e->conn, &e->key) != KVW_OK)
            ++e->not_opened;
        break;
    case KVW_TEV_CONN_DOWN:
        ++e->downs;
        e->down_err = ev->err;
        snprintf(e->down_text, sizeof(e->down_text), "%s", ev->text);
        break;
    case KVW_TEV_MESSAGE:
        if (ev->bytes != message_bytes(e->msgs) ||
            ((const uint8_t *)ev->msg)[ev->bytes - 1] != (uint8_t)(e->msgs + ev->bytes - 1))
            ++e->messages_wrong;
        ++e->msgs;
        break;
    case KVW_TEV_PUT_DONE:
        ++e->done[ev->cookie % DUO_PUTS];
        e->err[ev->cookie % DUO_PUTS] = ev->err;
        if (ev->err == KVW_OK)
            ++e->ok;
        else
            ++e->failed;
        break;
    case KVW_TEV_PUT_LANDED:
        ++e->landed[ev->imm % DUO_PUTS];
        break;
    }
}

static bool poll_end(struct duo_end *e)
{
    struct kvw_transport_event ev[8];
    uint32_t n;

    if (e->t == NULL)
        return false;
    n = e->t->ops->poll(e->t, duo_now, ev, 8);
    for (uint32_t i = 0; i < n; ++i)
        on_event(e, &ev[i]);
    return n > 0;
}

void duo_step(void)
{
    const uint64_t sends = vf.sends, writes = vf.writes;
    bool busy = poll_end(&duo_a);
    uint64_t until = UINT64_MAX;

    busy |= poll_end(&duo_b);
    duo_now += 100000;
    if (busy || sends != vf.sends || writes != vf.writes)
        return;
    if (duo_a.t != NULL)
        until = duo_a.t->ops->deadline_ns(duo_a.t);
    if (duo_b.t != NULL && duo_b.t->ops->deadline_ns(duo_b.t) < until)
        until = duo_b.t->ops->deadline_ns(duo_b.t);
    if (until > duo_now && until < duo_now + 10000000)
        duo_now = until;
    else if (until > duo_now)
        duo_now += 1000000;
}

void duo_poll(struct duo_end *e)
{
    (void)poll_end(e);
}

void duo_step_one(struct duo_end *e)
{
    (void)poll_end(e);
    duo_now += 10000000;
}

void duo_run(uint32_t steps)
{
    while (steps-- > 0)
        duo_step();
}

static bool add_region(struct duo_end *e)
{
    const struct kvw_mem mem = {
        .base = e->region, .bytes = DUO_REGION, .kind = KVW_MEM_HOST, .dmabuf_fd = -1};

    return e->t->ops->region_add(e->t, &mem, NULL, NULL, &e->key) == KVW_OK;
}

bool duo_open(const char *local_a, const char *local_b, char why[KVN_WHY_BYTES])
{
    const struct kvn_config a = {.local = local_a != NULL ? local_a : "fake0+fake1"};
    const struct kvn_config b = {.local = local_b != NULL ? local_b : "127.0.0.1:0+fake1",
                                 .listener = true};

    memset(&duo_a, 0, sizeof(duo_a));
    memset(&duo_b, 0, sizeof(duo_b));
    for (uint32_t i = 0; i < DUO_REGION; i += 64)
        duo_a.source[i] = (uint8_t)(i >> 6), duo_b.source[i] = (uint8_t)(i >> 7);
    why[0] = '\0';
    if (kvn_open(&duo_b.t, "verbs", &b, why) != KVW_OK) {
        duo_b.t = NULL;
        return false;
    }
    if (kvn_open(&duo_a.t, "verbs", &a, why) != KVW_OK) {
        duo_a.t = NULL;
        return false;
    }
    return add_region(&duo_a) && add_region(&duo_b) && duo_b.t->ops->listen(duo_b.t) == KVW_OK;
}

bool duo_dial(void)
{
    char peer[32];

    snprintf(peer, sizeof(peer), "127.0.0.1:%u", kvn_verbs_port(duo_b.t));
    return duo_a.t->ops->connect(duo_a.t, peer, duo_now, &duo_a.conn) == KVW_OK;
}

bool duo_join(void)
{
    const uint32_t ups = duo_a.ups, downs = duo_a.downs;

    if (!duo_dial())
        return false;
    for (uint32_t i = 0; i < 20000 && duo_a.ups == ups && duo_a.downs == downs; ++i)
        duo_step();
    for (uint32_t i = 0; i < 200 && duo_a.ups > ups && duo_b.ups == 0 && duo_b.downs == 0; ++i)
        duo_step();
    duo_run(20); /* and each end has the other's keys */
    return duo_a.ups > ups && duo_b.ups > 0;
}

void duo_close(void)
{
    if (duo_a.t != NULL)
        duo_a.t->ops->close(duo_a.t);
    if (duo_b.t != NULL)
        duo_b.t->ops->close(duo_b.t);
    duo_a.t = duo_b.t = NULL;
}

kvw_err duo_put(struct duo_end *from, uint32_t n, uint32_t offset, uint32_t bytes)
{
    struct duo_end *const to = from == &duo_a ? &duo_b : &duo_a;
    const struct kvw_put p = {.key = to->key,
                              .offset = offset,
                              .iov = {{from->source + offset, bytes}},
                              .iov_count = 1,
                              .imm = n,
                              .cookie = n};
    const kvw_err err = from->t->ops->put(from->t, from->conn, &p);

    from->accepted += err == KVW_OK;
    return err;
}

kvw_err duo_send(struct duo_end *from, uint32_t n)
{
    static uint8_t m[KVW_MSG_BYTES_MAX];
    const uint32_t bytes = message_bytes(n);

    for (uint32_t i = 0; i < bytes; ++i)
        m[i] = (uint8_t)(n + i);
    return from->t->ops->send(from->t, from->conn, m, bytes);
}
