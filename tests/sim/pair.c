/* SPDX-License-Identifier: Apache-2.0 */
#include "pair.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SOURCE_BYTES (2u * 1024 * 1024)

KVW_PRINTF(2, 3) static void fail(struct t_pair *p, const char *format, ...)
{
    va_list args;

    if (p->failed[0] != '\0')
        return;
    va_start(args, format);
    vsnprintf(p->failed, sizeof(p->failed), format, args);
    va_end(args);
}

uint64_t t_pair_random(struct t_pair *p, uint64_t below)
{
    uint64_t x = p->random += 0x9e3779b97f4a7c15ull;

    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return (x ^ x >> 31) % below;
}

/* Everything about put n of a side follows from n, so that the receiver can check it. */
static uint64_t hash(uint64_t n)
{
    n = (n ^ n >> 33) * 0xff51afd7ed558ccdull;
    n = (n ^ n >> 33) * 0xc4ceb9fe1a85ec53ull;
    return n ^ n >> 33;
}

static const uint8_t *put_bytes(const struct t_pair *p, uint32_t from, uint32_t n)
{
    return p->side[from].source + hash(n * 2 + from + p->seed) % (SOURCE_BYTES - T_SLOT_BYTES);
}

static uint8_t msg_byte(uint32_t from, uint32_t n, uint32_t i)
{
    return (uint8_t)(hash(n * 2 + from) + i * 7 + i / 251);
}

static struct kvn_trace *traces[2];
static uint16_t versions[2];
static bool one_host[2];

void t_pair_trace(uint32_t side, struct kvn_trace *trace)
{
    traces[side] = trace;
}

void t_pair_versions(uint32_t side, uint16_t set)
{
    versions[side] = set;
}

void t_pair_one_host(uint32_t side, bool is)
{
    one_host[side] = is;
}

/* What a side's puts land in, and what they are taken from: kept from pair to pair, as a process
 * may open a thousand. put_bytes() takes another part of the source with another seed. */
static void take_memory(struct t_side *s, uint32_t side)
{
    static uint8_t *memory[2], *source[2];

    if (memory[side] == NULL) {
        memory[side] = malloc(T_SLOTS * T_SLOT_BYTES);
        source[side] = malloc(SOURCE_BYTES);
        for (uint32_t b = 0; b < SOURCE_BYTES; b += 8) {
            const uint64_t word = hash(b + side);

            memcpy(source[side] + b, &word, 8);
        }
    }
    memset(memory[side], T_FILL, T_SLOTS * T_SLOT_BYTES);
    s->memory = memory[side];
    s->source = source[side];
}

void t_pair_open(struct t_pair *p, uint64_t seed, uint32_t payload_max,
                 const struct kvn_packet_config *cfg)
{
    t_pair_open_paths(p, seed, payload_max, cfg, 1);
}

void t_pair_open_paths(struct t_pair *p, uint64_t seed, uint32_t payload_max,
                       const struct kvn_packet_config *cfg, uint32_t paths)
{
    char why[KVN_WHY_BYTES] = "";

    memset(p, 0, sizeof(*p));
    p->seed = seed;
    p->random = seed ^ 0x5eed;
    p->sim = kvn_sim_open(seed, payload_max);
    kvn_sim_sources(p->sim, paths);
    for (uint32_t i = 0; i < 2; ++i) {
        struct t_side *s = &p->side[i];
        struct kvn_packet_config c = *cfg;
        struct kvn_port *port;
        struct kvw_mem mem = {.bytes = T_SLOTS * T_SLOT_BYTES, .kind = KVW_MEM_HOST};

        c.seed = seed * 2 + i + 1;
        c.trace = traces[i];
        c.versions = versions[i];
        take_memory(s, i);
        mem.base = s->memory;
        if (kvn_sim_port_open(&port, p->sim, i) != KVW_OK) {
            fail(p, "no port");
            return;
        }
        port->one_host = one_host[i];
        if (kvn_packet_open(&s->t, port, &c, why) != KVW_OK ||
            s->t->ops->region_add(s->t, &mem, NULL, NULL, &s->key) != KVW_OK)
            fail(p, "open: %s", why);
    }
    if (p->side[1].t->ops->listen(p->side[1].t) != KVW_OK ||
        p->side[0].t->ops->connect(p->side[0].t, NULL, kvn_sim_now(p->sim), &p->side[0].conn) !=
            KVW_OK)
        fail(p, "listen or connect");
}

void t_pair_close(struct t_pair *p)
{
    for (uint32_t i = 0; i < 2; ++i) {
        if (p->side[i].t != NULL)
            p->side[i].t->ops->close(p->side[i].t);
        for (uint32_t n = 0; n < T_PUTS_MAX; ++n)
            free(p->side[i].lent[n]);
    }
    kvn_sim_close(p->sim);
}

/* Put n of side `from`: free its slot once the sender and the receiver have both heard. */
static void put_over(struct t_pair *p, uint32_t from, uint32_t n)
{
    struct t_side *s = &p->side[from];

    if (s->done[n] && p->side[1 - from].landed[n])
        s->slot_busy[s->slot_of[n]] = false;
}

static void on_landed(struct t_pair *p, uint32_t side, const struct kvw_transport_event *ev)
{
    struct t_side *s = &p->side[side];
    const uint32_t n = ev->imm;

    if (n >= p->side[1 - side].puts_sent || s->landed[n]) {
        fail(p, "side %u: put %u landed %s", side, n, n < T_PUTS_MAX ? "twice" : "unsent");
        return;
    }
    s->landed[n] = true;
    ++s->puts_landed;
    if (ev->offset / T_SLOT_BYTES != p->side[1 - side].slot_of[n])
        fail(p, "side %u: put %u landed at %llu", side, n, (unsigned long long)ev->offset);
    else if (memcmp(s->memory + ev->offset, put_bytes(p, 1 - side, n), ev->bytes) != 0)
        fail(p, "side %u: put %u landed with wrong bytes", side, n);
    memset(s->memory + ev->offset, T_FILL, ev->bytes);
    put_over(p, 1 - side, n);
}

static void on_message(struct t_pair *p, uint32_t side, const struct kvw_transport_event *ev)
{
    struct t_side *s = &p->side[side];
    const uint8_t *m = ev->msg;

    for (uint32_t i = 0; i < ev->bytes; ++i)
        if (m[i] != msg_byte(1 - side, s->msgs_got, i)) {
            fail(p, "side %u: message %u differs at byte %u of %u", side, s->msgs_got, i,
                 ev->bytes);
            break;
        }
    ++s->msgs_got;
}

static void on_event(struct t_pair *p, uint32_t side, const struct kvw_transport_event *ev)
{
    struct t_side *s = &p->side[side];

    if (s->down)
        fail(p, "side %u: event %d after CONN_DOWN", side, ev->kind);
    switch (ev->kind) {
    case KVW_TEV_CONN_UP:
        ++s->ups;
        s->up = true;
        s->conn = ev->conn;
        break;
    case KVW_TEV_CONN_DOWN:
        ++s->downs;
        s->down = true;
        s->down_err = ev->err;
        if (ev->text == NULL || ev->text[0] == '\0')
            fail(p, "side %u: CONN_DOWN without a text", side);
        break;
    case KVW_TEV_MESSAGE:
        on_message(p, side, ev);
        break;
    case KVW_TEV_PUT_LANDED:
        on_landed(p, side, ev);
        break;
    case KVW_TEV_PUT_DONE:
        if (ev->cookie >= s->puts_sent || s->done[ev->cookie]) {
            fail(p, "side %u: PUT_DONE %llu again", side, (unsigned long long)ev->cookie);
            break;
        }
        s->done[ev->cookie] = true;
        free(s->lent[ev->cookie]); /* so that a sanitizer sees who still reads it */
        s->lent[ev->cookie] = NULL;
        ++s->puts_done;
        if (ev->err == KVW_OK)
            put_over(p, side, (uint32_t)ev->cookie);
        break;
    }
}

void t_pair_poll(struct t_pair *p, uint32_t side)
{
    struct kvw_transport *t = p->side[side].t;
    struct kvw_transport_event ev[8];
    uint32_t n;

    do {
        n = t->ops->poll(t, kvn_sim_now(p->sim), ev, 8);
        for (uint32_t i = 0; i < n; ++i)
            on_event(p, side, &ev[i]);
    } while (n == 8);
}

static uint64_t deadline(const struct t_pair *p, uint32_t side)
{
    const struct kvw_transport *t = p->side[side].t;

    return p->side[side].away ? UINT64_MAX : t->ops->deadline_ns(t);
}

void t_pair_step(struct t_pair *p, uint64_t until_ns)
{
    const uint64_t now = kvn_sim_now(p->sim);
    uint64_t next = until_ns;

    for (uint32_t i = 0; i < 2; ++i) {
        if (!p->side[i].away && (p->eager || deadline(p, i) <= now))
            t_pair_poll(p, i);
        /* A deadline that never leaves the present would keep a core busy. */
        p->side[i].spins = deadline(p, i) <= now ? p->side[i].spins + 1 : 0;
        if (p->side[i].spins > 20000)
            fail(p, "side %u: its deadline doesn't move", i);
    }
    /* What one of them has just sent arrives at the other, whose deadline was asked before. */
    for (uint32_t i = 0; i < 2; ++i)
        next = deadline(p, i) < next ? deadline(p, i) : next;
    kvn_sim_advance(p->sim, next);
}

void t_pair_run(struct t_pair *p, uint64_t until_ns)
{
    while (kvn_sim_now(p->sim) < until_ns && p->failed[0] == '\0')
        t_pair_step(p, until_ns);
}

bool t_pair_message(struct t_pair *p, uint32_t side, uint32_t bytes)
{
    static uint8_t msg[KVW_MSG_BYTES_MAX];
    struct t_side *s = &p->side[side];
    kvw_err err;

    for (uint32_t i = 0; i < bytes; ++i)
        msg[i] = msg_byte(side, s->msgs_sent, i);
    err = s->t->ops->send(s->t, s->conn, msg, bytes);
    if (err == KVW_OK)
        ++s->msgs_sent;
    else if (err != KVW_E_AGAIN && !s->down)
        fail(p, "side %u: send of %u: %s", side, bytes, kvw_strerror(err));
    return err == KVW_OK;
}

bool t_pair_put(struct t_pair *p, uint32_t side, uint32_t bytes)
{
    struct t_side *s = &p->side[side];
    struct kvw_put put = {.key = p->side[1 - side].key, .imm = s->puts_sent};
    uint8_t *from;
    uint32_t slot = 0, left = bytes;
    kvw_err err;

    while (slot < T_SLOTS && s->slot_busy[slot])
        ++slot;
    if (slot == T_SLOTS || s->puts_sent == T_PUTS_MAX)
        return false;
    put.offset = (uint64_t)slot * T_SLOT_BYTES + t_pair_random(p, T_SLOT_BYTES - bytes + 1);
    put.cookie = s->puts_sent;
    from = malloc(bytes);
    memcpy(from, put_bytes(p, side, s->puts_sent), bytes);
    s->lent[s->puts_sent] = from;
    put.iov_count = 1 + (uint32_t)t_pair_random(p, KVW_PUT_IOV_MAX);
    for (uint32_t i = 0; i < put.iov_count; ++i) {
        const uint32_t n = i + 1 == put.iov_count ? left : (uint32_t)t_pair_random(p, left + 1);
        put.iov[i] = (struct kvw_iov){.base = from, .bytes = n};
        from += n;
        left -= n;
    }
    err = s->t->ops->put(s->t, s->conn, &put);
    if (err == KVW_OK) {
        s->slot_of[s->puts_sent++] = slot;
        s->slot_busy[slot] = true;
        return true;
    }
    free(s->lent[s->puts_sent]);
    s->lent[s->puts_sent] = NULL;
    if (err != KVW_E_AGAIN && !s->down)
        fail(p, "side %u: put of %u: %s", side, bytes, kvw_strerror(err));
    return false;
}

bool t_pair_settled(const struct t_pair *p)
{
    for (uint32_t i = 0; i < 2; ++i) {
        const struct t_side *s = &p->side[i], *peer = &p->side[1 - i];

        if (!s->up || s->msgs_got != peer->msgs_sent || s->puts_landed != peer->puts_sent ||
            s->puts_done != s->puts_sent)
            return false;
    }
    return true;
}

void t_pair_check_memory(struct t_pair *p)
{
    for (uint32_t i = 0; i < 2; ++i)
        for (uint32_t b = 0; b < T_SLOTS * T_SLOT_BYTES; ++b)
            if (p->side[i].memory[b] != T_FILL) {
                fail(p, "side %u: a byte at %u that no put put there", i, b);
                return;
            }
}
