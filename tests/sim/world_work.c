/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "world.h"

/* What a put or message carries follows from who sends it and its number. */
static uint64_t mix(uint64_t n)
{
    n = (n ^ n >> 33) * 0xff51afd7ed558ccdull;
    n = (n ^ n >> 33) * 0xc4ceb9fe1a85ec53ull;
    return n ^ n >> 33;
}

static void fill(uint8_t *to, uint32_t bytes, uint64_t key)
{
    uint32_t i = 0;

    for (; i + 8 <= bytes; i += 8) {
        const uint64_t word = (key + i) * 0x9e3779b97f4a7c15ull;
        memcpy(to + i, &word, 8);
    }
    for (; i < bytes; ++i)
        to[i] = (uint8_t)(key + i);
}

static uint32_t conn_number(const struct t_world *w, const struct t_conn *c)
{
    return (uint32_t)(c - w->conn);
}

static uint64_t put_key(const struct t_world *w, const struct t_conn *c, uint32_t side, uint32_t n)
{
    return mix(w->seed ^ (uint64_t)conn_number(w, c) << 40 ^ (uint64_t)side << 32 ^ n) | 1;
}

/* imm: connection 15, side 1, number 16 bits. */
static uint32_t imm_of(const struct t_world *w, const struct t_conn *c, uint32_t side, uint32_t n)
{
    return conn_number(w, c) << 17 | side << 16 | n;
}

static struct t_put *by_imm(struct t_world *w, uint32_t imm, struct t_conn **c, uint32_t *side)
{
    const uint32_t conn = imm >> 17, n = imm & 0xffff;

    *side = imm >> 16 & 1;
    if (conn >= w->conns || n >= w->conn[conn].puts_sent[*side])
        return NULL;
    *c = &w->conn[conn];
    return &(*c)->put[*side][n];
}

/* --- slots --- */

static bool only_right_or_fill(const uint8_t *at, uint32_t bytes, uint64_t key)
{
    static uint8_t right[T_SLOT_BYTES];

    fill(right, bytes, key);
    for (uint32_t i = 0; i < bytes; ++i)
        if (at[i] != right[i] && at[i] != T_FILL)
            return false;
    return true;
}

static bool right_bytes(const uint8_t *at, uint32_t bytes, uint64_t key)
{
    static uint8_t right[T_SLOT_BYTES];

    fill(right, bytes, key);
    return memcmp(at, right, bytes) == 0;
}

/* A put's slot may be used again once its sender is done with it and its receiver has either told
 * that it landed, or can't write there any more. */
static void settle(struct t_world *w, struct t_conn *c, uint32_t side, uint32_t n)
{
    struct t_put *p = &c->put[side][n];
    struct t_node *to = &w->node[c->node[1 - side]];

    if (p->settled || !p->done || !(p->landed || c->end[1 - side] == T_OVER))
        return;
    p->settled = true;
    to->slot_busy[p->slot] = false;
    if (p->landed)
        return;
    if (!only_right_or_fill(to->memory + p->offset, p->bytes, put_key(w, c, side, n)))
        t_fail(w, "connection %u: put %u of side %u left other bytes than its own",
               conn_number(w, c), n, side);
    memset(to->memory + p->offset, T_FILL, p->bytes);
}

static void settle_all(struct t_world *w, struct t_conn *c)
{
    for (uint32_t side = 0; side < 2; ++side)
        for (uint32_t n = 0; n < c->puts_sent[side]; ++n)
            settle(w, c, side, n);
}

static void put_done(struct t_world *w, struct t_conn *c, uint32_t side, uint32_t n, bool ok)
{
    struct t_put *p = &c->put[side][n];

    p->done = true;
    p->ok = ok;
    free(p->lent); /* so that a sanitizer sees who still reads it */
    p->lent = NULL;
    settle(w, c, side, n);
}

bool t_work_gate(void *arg, kvw_conn_id conn, uint64_t offset, uint32_t bytes, uint32_t imm)
{
    struct t_world *w = arg;
    struct t_conn *c;
    uint32_t side;
    const struct t_put *p = by_imm(w, imm, &c, &side);

    (void)conn;
    if (imm == UINT32_MAX)
        return false; /* the trespasser */
    if (p == NULL || p->offset != offset || p->bytes != bytes || p->settled) {
        t_fail(w, "the gate was asked for %u bytes at %llu, imm %x: no put of that kind is out",
               bytes, (unsigned long long)offset, imm);
        return false;
    }
    return true;
}

void t_work_check_memory(struct t_world *w)
{
    for (uint32_t i = 0; i < w->nodes; ++i) {
        const uint8_t *m = w->node[i].memory;
        const uint32_t bytes = T_SLOTS * T_SLOT_BYTES;

        for (uint32_t s = 0; s < T_SLOTS; ++s)
            if (w->node[i].slot_busy[s])
                memset(w->node[i].memory + (size_t)s * T_SLOT_BYTES, T_FILL, T_SLOT_BYTES);
        if (m[0] != T_FILL || memcmp(m, m + 1, bytes - 1) != 0) {
            t_fail(w, "node %u: its memory holds bytes that nobody put there", i);
            memset(w->node[i].memory, T_FILL, bytes);
        }
    }
}

/* --- endings --- */

static void over(struct t_world *w, struct t_conn *c, uint32_t side)
{
    c->end[side] = T_OVER;
    c->may_fall = true; /* the other side hears of it, or of nothing */
    settle_all(w, c);
}

/* The user forgets a connection of its own node; its puts complete in the next poll. */
void t_work_disconnect(struct t_world *w, struct t_conn *c, uint32_t side)
{
    struct kvw_transport *t = w->node[c->node[side]].t;

    w->inside = true;
    t->ops->disconnect(t, c->id[side], t_clock(w, c->node[side]));
    w->inside = false;
    for (uint32_t n = 0; n < c->puts_sent[side]; ++n)
        if (!c->put[side][n].done) {
            free(c->put[side][n].lent); /* nothing is read any more, the contract says */
            c->put[side][n].lent = NULL;
        }
    over(w, c, side);
}

/* The node's transport was closed: nothing more comes from it. */
void t_work_node_gone(struct t_world *w, uint32_t node)
{
    for (uint32_t i = 0; i < w->conns; ++i)
        for (uint32_t side = 0; side < 2; ++side) {
            struct t_conn *c = &w->conn[i];

            if (c->node[side] != node)
                continue;
            for (uint32_t n = 0; n < c->puts_sent[side]; ++n)
                if (!c->put[side][n].done)
                    put_done(w, c, side, n, false);
            if (c->end[side] == T_NONE)
                c->may_fall = true; /* perhaps it knew of it, and nobody asked */
            else if (c->end[side] != T_OVER)
                over(w, c, side);
        }
    w->node[node].unbound = 0;
}

/* --- what a user does --- */

static void connect_flow(struct t_world *w, uint32_t flow)
{
    struct t_conn *c = &w->conn[w->conns];
    struct kvw_transport *t = w->node[w->flow_node[flow][0]].t;
    const struct kvn_addr to = kvn_sim_addr(w->sim, w->flow_node[flow][1]);
    char text[KVN_ADDR_TEXT_BYTES];
    kvw_err err;

    if (w->conns == T_CONNS)
        return;
    *c = (struct t_conn){.flow = flow,
                         .node = {w->flow_node[flow][0], w->flow_node[flow][1]},
                         .end = {T_WAITING, T_NONE},
                         .since_ns = kvn_sim_now(w->sim)};
    w->inside = true;
    err = t->ops->connect(t, kvn_addr_format(&to, text), t_clock(w, c->node[0]), &c->id[0]);
    w->inside = false;
    if (err == KVW_OK)
        w->flow_conn[flow] = w->conns++;
    else if (err != KVW_E_AGAIN)
        t_fail(w, "connect to %s: %s", text, kvw_strerror(err));
}

#define MSG_HEAD 12u /* connection, side, number */

static bool send_message(struct t_world *w, struct t_conn *c, uint32_t side, uint32_t bytes)
{
    static uint8_t msg[KVW_MSG_BYTES_MAX];
    const uint32_t head[3] = {conn_number(w, c), side, c->msgs_sent[side]};
    struct kvw_transport *t = w->node[c->node[side]].t;
    kvw_err err;

    if (bytes < MSG_HEAD)
        bytes = MSG_HEAD;
    memcpy(msg, head, sizeof(head));
    fill(msg + MSG_HEAD, bytes - MSG_HEAD, mix(w->seed ^ head[2]) ^ bytes);
    w->inside = true;
    err = t->ops->send(t, c->id[side], msg, bytes);
    w->inside = false;
    if (err == KVW_OK)
        ++c->msgs_sent[side];
    else if (err != KVW_E_AGAIN)
        t_fail(w, "connection %u side %u: send: %s", head[0], side, kvw_strerror(err));
    return err == KVW_OK;
}

static void cut_up(struct t_world *w, struct kvw_put *put, const uint8_t *from, uint32_t bytes)
{
    uint32_t left = bytes;

    put->iov_count = 1 + (uint32_t)t_random(w, KVW_PUT_IOV_MAX);
    for (uint32_t i = 0; i < put->iov_count; ++i) {
        const uint32_t n = i + 1 == put->iov_count ? left : (uint32_t)t_random(w, left + 1);

        put->iov[i] = (struct kvw_iov){.base = from, .bytes = n};
        from += n;
        left -= n;
    }
}

static bool send_put(struct t_world *w, struct t_conn *c, uint32_t side, uint32_t bytes)
{
    struct kvw_transport *t = w->node[c->node[side]].t;
    struct t_node *to = &w->node[c->node[1 - side]];
    const uint32_t n = c->puts_sent[side];
    struct t_put *p = &c->put[side][n];
    struct kvw_put put = {.key = to->key, .imm = imm_of(w, c, side, n), .cookie = put.imm};
    uint32_t slot = 0;
    kvw_err err;

    while (slot < T_SLOTS && to->slot_busy[slot])
        ++slot;
    if (slot == T_SLOTS || n == T_PUTS)
        return false;
    *p = (struct t_put){.slot = slot, .bytes = bytes};
    p->offset = put.offset = (uint64_t)slot * T_SLOT_BYTES + t_random(w, T_SLOT_BYTES - bytes + 1);
    put.cookie = put.imm;
    p->lent = malloc(bytes);
    fill(p->lent, bytes, put_key(w, c, side, n));
    cut_up(w, &put, p->lent, bytes);
    ++c->puts_sent[side]; /* the gate must know it */
    to->slot_busy[slot] = true;
    w->inside = true;
    err = t->ops->put(t, c->id[side], &put);
    w->inside = false;
    if (err == KVW_OK)
        return true;
    --c->puts_sent[side];
    to->slot_busy[slot] = false;
    free(p->lent);
    p->lent = NULL;
    if (err != KVW_E_AGAIN)
        t_fail(w, "connection %u side %u: put: %s", conn_number(w, c), side, kvw_strerror(err));
    return false;
}

static void trespass(struct t_world *w, struct t_conn *c, uint32_t side)
{
    static const uint8_t bytes[100];
    struct kvw_transport *t = w->node[c->node[side]].t;
    struct kvw_put put = {.key = w->node[c->node[1 - side]].key,
                          .iov = {{bytes, sizeof(bytes)}},
                          .iov_count = 1,
                          .imm = UINT32_MAX,
                          .cookie = UINT32_MAX};

    if (t->ops->put(t, c->id[side], &put) == KVW_OK)
        c->trespass = c->may_fall = true;
}

static uint32_t random_bytes(struct t_world *w, uint32_t max)
{
    const uint64_t kind = t_random(w, 10);

    if (kind < 5)
        return 1 + (uint32_t)t_random(w, 200);
    if (kind < 9)
        return 1 + (uint32_t)t_random(w, max / 8);
    return 1 + (uint32_t)t_random(w, max);
}

void t_work(struct t_world *w, uint32_t flow)
{
    struct t_conn *c = w->flow_conn[flow] == T_CONNS ? NULL : &w->conn[w->flow_conn[flow]];

    if (c == NULL || c->end[0] == T_OVER) {
        if (w->node[w->flow_node[flow][0]].t != NULL)
            connect_flow(w, flow);
        return;
    }
    for (uint32_t side = 0; side < 2; ++side) {
        if (c->end[side] != T_UP || w->node[c->node[side]].t == NULL)
            continue;
        if (side == 0 && c->msgs_sent[0] == 0)
            send_message(w, c, 0, MSG_HEAD); /* says which connection this is */
        for (uint64_t n = t_random(w, 4); n > 0; --n)
            send_message(w, c, side, random_bytes(w, KVW_MSG_BYTES_MAX));
        for (uint64_t n = t_random(w, 4); n > 0; --n)
            if (w->node[c->node[1 - side]].t != NULL && c->end[1 - side] != T_OVER)
                send_put(w, c, side, random_bytes(w, T_SLOT_BYTES));
        if (w->calm)
            continue;
        if (w->may[T_TRESPASS] && t_chance(w, 200))
            trespass(w, c, side);
        if (w->may[T_DISCONNECT] && t_chance(w, 100))
            t_work_disconnect(w, c, side);
    }
}

/* --- what it sees --- */

static struct t_conn *by_id(struct t_world *w, uint32_t node, kvw_conn_id id, uint32_t *side)
{
    for (uint32_t i = w->conns; i-- > 0;)
        for (*side = 0; *side < 2; ++*side) {
            struct t_conn *c = &w->conn[i];

            if (c->node[*side] == node && c->end[*side] != T_NONE && c->end[*side] != T_OVER &&
                c->id[*side].value == id.value)
                return c;
        }
    return NULL;
}

/* Side 1 learns which connection this is from the first thing that arrives on it. */
static struct t_conn *bind(struct t_world *w, uint32_t node, kvw_conn_id id, uint32_t number,
                           uint32_t side)
{
    struct t_conn *c = number < w->conns ? &w->conn[number] : NULL;

    if (c == NULL || c->node[side] != node || (side == 0 && c->id[0].value != id.value)) {
        t_fail(w, "node %u: something arrived for connection %u, side %u, which isn't here", node,
               number, side);
        return NULL;
    }
    if (side == 1 && c->end[1] == T_NONE) {
        c->end[1] = T_UP;
        c->id[1] = id;
        --w->node[node].unbound;
    }
    if (c->end[side] != T_UP || c->id[side].value != id.value) {
        t_fail(w, "node %u: connection %u, side %u has two ids, or is over", node, number, side);
        return NULL;
    }
    return c;
}

static void on_message(struct t_world *w, uint32_t node, const struct kvw_transport_event *ev)
{
    static uint8_t right[KVW_MSG_BYTES_MAX];
    struct t_conn *c;
    uint32_t head[3], from;

    if (ev->bytes < MSG_HEAD) {
        t_fail(w, "node %u: a message of %u bytes", node, ev->bytes);
        return;
    }
    memcpy(head, ev->msg, sizeof(head));
    from = head[1] & 1;
    c = bind(w, node, ev->conn, head[0], 1 - from);
    if (c == NULL)
        return;
    if (head[2] != c->msgs_got[from]) {
        t_fail(w, "connection %u: message %u came when %u was due", head[0], head[2],
               c->msgs_got[from]);
        return;
    }
    fill(right, ev->bytes - MSG_HEAD, mix(w->seed ^ head[2]) ^ ev->bytes);
    if (memcmp((const uint8_t *)ev->msg + MSG_HEAD, right, ev->bytes - MSG_HEAD) != 0)
        t_fail(w, "connection %u: message %u of %u bytes differs", head[0], head[2], ev->bytes);
    ++c->msgs_got[from];
    ++w->msgs;
}

static void on_landed(struct t_world *w, uint32_t node, const struct kvw_transport_event *ev)
{
    struct t_conn *c;
    uint32_t from;
    struct t_put *p = by_imm(w, ev->imm, &c, &from);
    const uint32_t n = ev->imm & 0xffff;

    if (p == NULL || p->landed || p->settled) {
        t_fail(w, "node %u: put %x landed %s", node, ev->imm,
               p == NULL ? "that was never sent" : "twice, or too late");
        return;
    }
    if (bind(w, node, ev->conn, ev->imm >> 17, 1 - from) == NULL)
        return;
    if (ev->offset != p->offset || ev->bytes != p->bytes)
        t_fail(w, "put %x landed at %llu, %u bytes", ev->imm, (unsigned long long)ev->offset,
               ev->bytes);
    else if (!right_bytes(w->node[node].memory + p->offset, p->bytes, put_key(w, c, from, n)))
        t_fail(w, "put %x landed with other bytes than were sent", ev->imm);
    memset(w->node[node].memory + p->offset, T_FILL, p->bytes);
    p->landed = true;
    ++w->puts;
    settle(w, c, from, n);
}

static void on_done(struct t_world *w, uint32_t node, const struct kvw_transport_event *ev)
{
    struct t_conn *c;
    uint32_t side;
    struct t_put *p = by_imm(w, (uint32_t)ev->cookie, &c, &side);
    const uint32_t n = ev->cookie & 0xffff;

    if (ev->cookie == UINT32_MAX)
        return; /* the trespasser */
    if (p == NULL || p->done || c->node[side] != node) {
        t_fail(w, "node %u: PUT_DONE of %x, which is %s", node, (uint32_t)ev->cookie,
               p == NULL ? "unknown" : "done, or another node's");
        return;
    }
    if (ev->err == KVW_OK && !p->landed && c->end[1 - side] == T_UP &&
        !right_bytes(w->node[c->node[1 - side]].memory + p->offset, p->bytes,
                     put_key(w, c, side, n)))
        t_fail(w, "put %x is done, but the peer's memory doesn't hold it", (uint32_t)ev->cookie);
    if (ev->err != KVW_OK && !c->may_fall)
        t_fail(w, "put %x failed (%s), and nothing had happened", (uint32_t)ev->cookie,
               kvw_strerror(ev->err));
    put_done(w, c, side, n, ev->err == KVW_OK);
}

static void on_down(struct t_world *w, uint32_t node, const struct kvw_transport_event *ev)
{
    uint32_t side;
    struct t_conn *c = by_id(w, node, ev->conn, &side);

    if (ev->text == NULL || ev->text[0] == '\0')
        t_fail(w, "node %u: CONN_DOWN without a text", node);
    ++w->downs;
    if (c == NULL && w->node[node].unbound > 0) {
        --w->node[node].unbound;
        return;
    }
    if (c == NULL) {
        t_fail(w, "node %u: CONN_DOWN of a connection that isn't here, or is over", node);
        return;
    }
    if (!c->may_fall || ev->err == KVW_E_VERSION || (ev->err == KVW_E_PROTOCOL && !c->trespass))
        t_fail(w, "connection %u side %u (node %u to %u) fell: %s: %s", conn_number(w, c), side,
               c->node[side], c->node[1 - side], kvw_strerror(ev->err), ev->text);
    for (uint32_t n = 0; n < c->puts_sent[side]; ++n)
        if (!c->put[side][n].done) {
            t_fail(w, "connection %u side %u: CONN_DOWN before PUT_DONE of %u", conn_number(w, c),
                   side, n);
            put_done(w, c, side, n, false);
        }
    over(w, c, side);
}

void t_work_event(struct t_world *w, uint32_t node, const struct kvw_transport_event *ev)
{
    uint32_t side;
    struct t_conn *c;

    w->hash = mix(w->hash ^ (uint64_t)ev->kind << 56 ^ (uint64_t)node << 48 ^ kvn_sim_now(w->sim) ^
                  (uint64_t)ev->bytes << 20 ^ ev->imm ^ ev->cookie << 7);
    switch (ev->kind) {
    case KVW_TEV_CONN_UP:
        if (ev->incoming) {
            ++w->node[node].unbound;
            return;
        }
        c = by_id(w, node, ev->conn, &side);
        if (c == NULL || c->end[0] != T_WAITING)
            t_fail(w, "node %u: CONN_UP of a connection that nobody began, or twice", node);
        else
            c->end[0] = T_UP;
        return;
    case KVW_TEV_CONN_DOWN:
        on_down(w, node, ev);
        return;
    case KVW_TEV_MESSAGE:
        on_message(w, node, ev);
        return;
    case KVW_TEV_PUT_LANDED:
        on_landed(w, node, ev);
        return;
    case KVW_TEV_PUT_DONE:
        on_done(w, node, ev);
        return;
    }
}

bool t_work_settled(struct t_world *w, struct t_conn *c)
{
    (void)w;
    if (c->end[0] == T_OVER && c->end[1] == T_NONE)
        return true;
    if (c->end[0] == T_OVER || c->end[1] == T_OVER)
        return c->end[0] == c->end[1];
    if (c->end[0] == T_UP && c->end[1] == T_NONE && c->msgs_sent[0] + c->puts_sent[0] == 0)
        return true; /* nobody has said anything yet */
    if (c->end[0] != T_UP || c->end[1] != T_UP)
        return false;
    for (uint32_t side = 0; side < 2; ++side) {
        if (c->msgs_got[side] != c->msgs_sent[side])
            return false;
        for (uint32_t n = 0; n < c->puts_sent[side]; ++n)
            if (!c->put[side][n].done || !c->put[side][n].landed)
                return false;
    }
    return true;
}
