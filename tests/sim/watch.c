/* SPDX-License-Identifier: Apache-2.0 */
#include "../../net/packet/versions.h"
#include "watch.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

KVW_PRINTF(2, 3) static void fail(struct t_watch *w, const char *format, ...)
{
    va_list args;

    if (w->failed[0] != '\0')
        return;
    va_start(args, format);
    vsnprintf(w->failed, sizeof(w->failed), format, args);
    va_end(args);
}

/* Puts of this connection keep their memory for the next run. */
static struct t_watch_conn *fresh(struct t_watch *w, uint32_t id)
{
    struct t_watch_conn *c = &w->conn[w->conns];
    struct t_watch_put *put[KVN_PUTS_MAX];

    if (w->conns == T_WATCH_CONNS)
        return NULL;
    ++w->conns;
    memcpy(put, c->put, sizeof(put));
    *c = (struct t_watch_conn){.id = id};
    memcpy(c->put, put, sizeof(put));
    for (uint32_t i = 0; i < KVN_PUTS_MAX; ++i)
        if (put[i] != NULL)
            put[i]->said.bytes = 0;
    return c;
}

void t_watch_begin(struct t_watch *w, uint64_t region_bytes)
{
    w->region_bytes = region_bytes;
    w->conns = 0;
    w->packets = 0;
    w->failed[0] = '\0';
}

static struct t_watch_conn *by_id(struct t_watch *w, uint32_t id)
{
    for (uint32_t i = w->conns; i-- > 0;)
        if (w->conn[i].id == id)
            return &w->conn[i];
    return NULL;
}

/* The sender of a HELLO or HELLO_ACK tells what it takes. */
static void on_hello(struct t_watch *w, const struct kvn_frame *f)
{
    struct t_watch_conn *own = by_id(w, f->hello.source), *peer;

    if (own == NULL)
        own = fresh(w, f->hello.source);
    if (own == NULL)
        return;
    if (f->hello.credit > own->credit)
        own->credit = f->hello.credit;
    if (f->hello.stream > own->stream)
        own->stream = f->hello.stream;
    own->takes = f->hello.payload;
    if (f->type == KVN_PACKET_HELLO)
        return;
    peer = by_id(w, f->conn);
    if (peer == NULL) {
        fail(w, "HELLO_ACK to %08x, which nobody said hello from", f->conn);
        return;
    }
    own->payload = peer->payload = own->takes < peer->takes ? own->takes : peer->takes;
    own->peer_id = peer->id;
    peer->peer_id = own->id;
}

static bool same(const struct kvn_data *a, const struct kvn_data *b)
{
    return a->put == b->put && a->region == b->region && a->offset == b->offset &&
           a->bytes == b->bytes && a->imm == b->imm;
}

static void on_data(struct t_watch *w, struct t_watch_conn *to, const struct kvn_frame *f)
{
    const struct kvn_data *d = &f->data;
    struct t_watch_put **at = &to->put[d->put % KVN_PUTS_MAX], *p;

    if (*at == NULL)
        *at = calloc(1, sizeof(**at));
    p = *at;
    if (d->imm == UINT32_MAX)
        return; /* one that means to trespass */
    if (d->offset > w->region_bytes || d->bytes > w->region_bytes - d->offset)
        fail(w, "DATA of put %u beyond its region", d->put);
    if (p->said.bytes == 0 || p->said.put != d->put) {
        memset(p, 0, sizeof(*p));
        p->said = *d;
    }
    if (!same(&p->said, d) || d->slice > p->said.slice)
        fail(w, "two slices of put %u say different things of it", d->put);
    if (d->slice < p->said.slice) {
        to->bytes -= p->counted;
        p->counted = 0;
        memset(p->sent, 0, sizeof(p->sent));
        p->said = *d;
    }
    if (p->sent[f->slice])
        return;
    p->sent[f->slice] = true;
    p->counted += f->payload_bytes;
    to->bytes += f->payload_bytes;
    if (to->bytes > to->credit)
        fail(w, "%llu bytes of slices were sent, the peer's credit is %llu",
             (unsigned long long)to->bytes, (unsigned long long)to->credit);
}

static void on_ack(struct t_watch *w, const struct t_watch_conn *to, const struct kvn_ack *a)
{
    struct t_watch_conn *own = by_id(w, to->peer_id);

    if (own == NULL)
        return;
    if (a->credit < own->credit || a->stream_ends < own->stream)
        fail(w, "an ACK takes back credit or stream limit");
    own->credit = a->credit;
    own->stream = a->stream_ends;
    if (a->largest > own->largest[a->path])
        fail(w, "ACK of %llu on path %u, where %llu was the last", (unsigned long long)a->largest,
             a->path, (unsigned long long)own->largest[a->path]);
}

static void on_numbered(struct t_watch *w, struct kvn_frame *f, uint8_t ecn, uint32_t bytes)
{
    const bool ect = f->type == KVN_PACKET_DATA || f->type == KVN_PACKET_MSG;
    struct t_watch_conn *to = by_id(w, f->conn);

    if (to == NULL) {
        fail(w, "type %u to %08x, which never was anybody's id", f->type, f->conn);
        return;
    }
    f->pn = kvn_seen_number(to->largest[f->path], (uint32_t)f->pn);
    if (f->pn <= to->largest[f->path])
        fail(w, "number %llu on path %u after %llu", (unsigned long long)f->pn, f->path,
             (unsigned long long)to->largest[f->path]);
    to->largest[f->path] = f->pn;
    if (ect != (ecn == KVN_ECN_ECT0))
        fail(w, "type %u with ECN bits %u", f->type, ecn);
    if (to->payload != 0 && bytes > to->payload && f->type != KVN_PACKET_PING)
        fail(w, "type %u of %u bytes, %u were agreed", f->type, bytes, to->payload);
    if (f->type == KVN_PACKET_DATA)
        on_data(w, to, f);
    else if (f->type == KVN_PACKET_ACK)
        on_ack(w, to, &f->ack);
    else if (f->type == KVN_PACKET_MSG && f->stream_at + f->payload_bytes > to->stream)
        fail(w, "control stream up to %llu, the peer's limit is %llu",
             (unsigned long long)(f->stream_at + f->payload_bytes), (unsigned long long)to->stream);
}

bool t_watch_packet(void *watch, const struct kvn_sim_sight *sight)
{
    static uint8_t bytes[KVN_PAYLOAD_MAX];
    const struct kvn_tx_packet *p = sight->packet;
    struct t_watch *w = watch;
    uint32_t len = p->head_bytes;
    struct kvn_frame f;

    ++w->packets;
    memcpy(bytes, p->head, p->head_bytes);
    for (uint32_t i = 0; i < p->body_count; ++i) {
        memcpy(bytes + len, p->body[i].base, p->body[i].bytes);
        len += p->body[i].bytes;
    }
    if (kvn_frame_decode(&f, KVN_VERSIONS_ALL, bytes, len) != KVW_OK) {
        fail(w, "a packet of %u bytes, type %02x, that can't be read", len, bytes[0]);
        return true;
    }
    if (f.type == KVN_PACKET_HELLO || f.type == KVN_PACKET_HELLO_ACK)
        on_hello(w, &f);
    else if (f.type != KVN_PACKET_RESET)
        on_numbered(w, &f, p->ecn, len);
    return true;
}
