/* SPDX-License-Identifier: Apache-2.0 */
/* A connection's table entry, its timers, and how it ends. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "impl.h"

#define PING_NS (KVW_PEER_DEAD_NS / 4)

/* A peer that joins makes queue pairs, on a busy machine for more than a second, and sends nothing
 * meanwhile; TCP sends a lost SYN again after one. So silence says nothing yet. */
#define JOIN_NS (3 * KVW_PEER_DEAD_NS)

struct conn *kvn_verbs_conn_find(struct end *e, kvw_conn_id id)
{
    for (uint32_t i = 0; i < VERBS_CONNS; ++i) {
        struct conn *c = &e->conns[i];

        if (c->state != CONN_FREE && c->state < CONN_ENDING && c->id.value == id.value)
            return c;
    }
    return NULL;
}

void kvn_verbs_list_push(struct conn *c, struct put_list *l, uint16_t put)
{
    c->puts[put].next = VERBS_NIL;
    if (l->count++ == 0)
        l->head = put;
    else
        c->puts[l->tail].next = put;
    l->tail = put;
}

uint16_t kvn_verbs_list_pop(struct conn *c, struct put_list *l)
{
    const uint16_t put = l->head;

    if (l->count == 0)
        return VERBS_NIL;
    l->head = c->puts[put].next;
    --l->count;
    return put;
}

struct conn *kvn_verbs_conn_take(struct end *e)
{
    for (uint32_t i = 0; i < VERBS_CONNS; ++i) {
        struct conn *c = &e->conns[i];
        uint8_t *assembly;

        if (c->state != CONN_FREE)
            continue;
        assembly = c->assembly;
        memset(c, 0, sizeof(*c));
        c->assembly = assembly;
        c->index = i;
        c->fd = -1;
        if (++e->next_id == 0)
            ++e->next_id;
        c->id.value = e->next_id;
        c->begun_ns = c->heard_ns = c->ping_ns = e->now_ns;
        for (uint16_t p = 0; p < VERBS_PUTS; ++p)
            kvn_verbs_list_push(c, &c->free, p);
        for (uint8_t p = 0; p < VERBS_PATHS; ++p) {
            c->paths[p].conn = c;
            c->paths[p].index = p;
        }
        return c;
    }
    return NULL;
}

void kvn_verbs_put_copy_release(struct end *e, struct put *p)
{
    memset(e->copy_used + p->copy_at, 0, p->copy_blocks);
    p->copy_blocks = 0;
}

void kvn_verbs_put_done(struct end *e, struct conn *c, uint16_t put, kvw_err err)
{
    struct put *p = &c->puts[put];

    kvn_verbs_put_copy_release(e, p);
    if (p->region != VERBS_PLAIN)
        --c->keys[p->region].users;
    p->state = PUT_DONE;
    p->err = err;
    kvn_verbs_list_push(c, &c->done, put);
}

/* No device reads for this connection any more: all that is unfinished has failed. */
static void fail_puts(struct end *e, struct conn *c)
{
    c->waiting.count = c->parked.count = 0;
    for (uint16_t i = 0; i < VERBS_PUTS; ++i)
        if (c->puts[i].state == PUT_WAITING || c->puts[i].state == PUT_POSTED)
            kvn_verbs_put_done(e, c, i, KVW_E_PEER_LOST);
}

static void tear_down(struct end *e, struct conn *c)
{
    for (uint32_t i = 0; i < c->path_count; ++i)
        kvn_verbs_path_destroy(e, &c->paths[i]);
    kvn_verbs_window_end(c);
    kvn_verbs_side_close(e, c);
    fail_puts(e, c);
}

void kvn_verbs_conn_end(struct end *e, struct conn *c, bool tell, kvw_err err, const char *fmt, ...)
{
    uint8_t body[4 + VERBS_TEXT];
    va_list args;
    size_t n;

    if (c->state == CONN_FREE || c->state >= CONN_ENDING)
        return;
    va_start(args, fmt);
    vsnprintf(c->text, sizeof(c->text), fmt, args);
    va_end(args);
    c->down_err = err;
    /* Before anything else: completions taken below must find it ending. */
    c->state = CONN_ENDING;
    if (tell) {
        const uint32_t code = (uint32_t)err;

        n = strlen(c->text);
        body[0] = (uint8_t)code;
        body[1] = (uint8_t)(code >> 8);
        body[2] = (uint8_t)(code >> 16);
        body[3] = (uint8_t)(code >> 24);
        memcpy(body + 4, c->text, n);
        kvn_verbs_side_send(e, c, VERBS_F_END, body, 4 + (uint32_t)n);
        kvn_verbs_side_write(e, c);
    }
    tear_down(e, c);
}

void kvn_verbs_conn_leave(struct end *e, struct conn *c)
{
    const enum conn_state was = c->state;

    if (was == CONN_FREE || was == CONN_LEFT || was == CONN_SPENT)
        return;
    c->state = CONN_LEFT;
    if (was == CONN_ENDING)
        return;
    kvn_verbs_side_send(e, c, VERBS_F_BYE, NULL, 0);
    kvn_verbs_side_write(e, c);
    tear_down(e, c);
    /* Nothing of it comes out but the outcomes of its puts. */
    for (; c->arrival_count > 0; --c->arrival_count) {
        kvn_verbs_rx_release(e, &c->arrivals[c->arrival_head].held);
        c->arrival_head = (c->arrival_head + 1) % VERBS_ARRIVALS;
    }
}

static const char *unjoined(const struct conn *c)
{
    if (c->connecting)
        return "nobody answered at the peer's TCP port";
    return c->state < CONN_PROBING ? "the peer didn't finish the handshake"
                                   : "the queue pairs didn't come up";
}

void kvn_verbs_conn_tick(struct end *e, struct conn *c)
{
    if (c->state == CONN_FREE || c->state >= CONN_ENDING)
        return;
    if (c->state < CONN_LIVE && e->now_ns > c->begun_ns && e->now_ns - c->begun_ns >= JOIN_NS) {
        kvn_verbs_conn_end(e, c, true, KVW_E_PEER_LOST, "%s within %u ms", unjoined(c),
                           (unsigned)(JOIN_NS / 1000000));
        return;
    }
    if (c->state == CONN_LIVE && e->now_ns > c->heard_ns &&
        e->now_ns - c->heard_ns >= KVW_PEER_DEAD_NS) {
        kvn_verbs_conn_end(e, c, true, KVW_E_PEER_LOST, "the peer was silent for %u ms",
                           (unsigned)((e->now_ns - c->heard_ns) / 1000000));
        return;
    }
    if (c->state >= CONN_GO && e->now_ns >= c->ping_ns) {
        if (c->out_bytes == 0) /* else it isn't reading, and more would not help */
            kvn_verbs_side_send(e, c, VERBS_F_PING, NULL, 0);
        c->ping_ns = e->now_ns + PING_NS;
    }
    kvn_verbs_cm_tick(e, c);
    for (uint32_t i = 0; i < c->path_count && c->state < CONN_ENDING; ++i)
        kvn_verbs_path_tick(e, &c->paths[i]);
    kvn_verbs_window_tick(e, c);
}

uint64_t kvn_verbs_conn_deadline(const struct end *e, const struct conn *c)
{
    uint64_t at;

    (void)e;
    if (c->state == CONN_FREE)
        return UINT64_MAX;
    if (c->state >= CONN_ENDING || c->up_due || c->done.count > 0 || c->arrival_count > 0 ||
        kvn_verbs_tx_due(c))
        return 0;
    at = c->state < CONN_LIVE ? c->begun_ns + JOIN_NS : c->heard_ns + KVW_PEER_DEAD_NS;
    if (c->state >= CONN_GO && c->ping_ns < at)
        at = c->ping_ns;
    if (kvn_verbs_cm_deadline(c) < at)
        at = kvn_verbs_cm_deadline(c);
    if (kvn_verbs_window_deadline(c) < at)
        at = kvn_verbs_window_deadline(c);
    for (uint32_t i = 0; i < c->path_count; ++i)
        if ((c->paths[i].state == PATH_FAILED) && c->paths[i].settle_ns < at)
            at = c->paths[i].settle_ns;
    return at;
}
