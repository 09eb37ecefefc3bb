/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tx.c - what goes out: puts and messages are queued by put() and send(), and posted by the next
 * poll(), a chain of work requests per doorbell. A put is one RDMA WRITE WITH IMMEDIATE whose
 * immediate says where it landed and what it is (SPEC.md 4); only an address that is new to its
 * queue pair is told by a small SEND before it.
 */
#include <arpa/inet.h>
#include <string.h>

#include "../../kvwire/wire/le.h"
#include "../put.h"
#include "impl.h"

#define PIECE_BYTES (VERBS_RECV_BYTES - VERBS_SEND_HDR)
#define IMM_MASK    ((1u << VERBS_IMM_BITS) - 1)

/* --- one queue pair --------------------------------------------------------------------------- */

/* Room for n more: receives that the peer granted, less the last one, which only a CREDIT may take
 * (so that two ends that wait for each other's credit always have one to say it with). */
static bool room(const struct path *p, uint32_t n)
{
    return p->state == PATH_LIVE && p->limit - p->posted >= n + 1 &&
           VERBS_SQ - (p->posted - p->completed) >= n;
}

static void signal_this(struct end *e, struct path *p, struct ibv_send_wr *wr)
{
    p->since_signal = p->bytes_since_signal = 0;
    if ((wr->send_flags & IBV_SEND_SIGNALED) != 0)
        return;
    wr->send_flags |= IBV_SEND_SIGNALED;
    ++e->counters.signalled;
}

static void flush(struct end *e, struct path *p)
{
    struct ibv_send_wr *bad = NULL;
    struct ibv_send_wr *last;

    if (p->state != PATH_LIVE) /* what its peer has not counted goes to another */
        p->chain = 0;
    if (p->chain == 0)
        return;
    last = &p->wr[p->chain - 1];
    for (uint32_t i = 0; i + 1 < p->chain; ++i)
        p->wr[i].next = &p->wr[i + 1];
    last->next = NULL;
    /* The last one: when all is quiet, every put has its completion. */
    signal_this(e, p, last);
    /* And the peer, if it sleeps, wakes for this one: all before it have landed then. */
    last->send_flags |= IBV_SEND_SOLICITED;
    p->chain = 0;
    ++e->counters.doorbells;
    if (ibv_post_send(p->qp, p->wr, &bad) != 0)
        kvn_verbs_path_lost(e, p, "the device refused a work request");
}

/* The next work request, with its place in the ring. */
static struct ibv_send_wr *next_wr(struct end *e, struct path *p, enum work_kind kind, uint16_t put)
{
    struct ibv_send_wr *wr;

    if (p->chain == VERBS_CHAIN)
        flush(e, p);
    wr = &p->wr[p->chain];
    *wr = (struct ibv_send_wr){.wr_id = kvn_verbs_path_wr_id(p, p->posted),
                               .sg_list = p->sge[p->chain]};
    p->ring[p->posted % VERBS_SQ] = (struct work){.kind = (uint8_t)kind, .put = put};
    ++p->posted;
    ++p->chain;
    if (++p->since_signal >= VERBS_SIGNAL)
        signal_this(e, p, wr);
    return wr;
}

static void post_send(struct end *e, struct path *p, enum work_kind kind, uint8_t *cell,
                      enum verbs_send_type type, uint8_t flags, uint32_t sequence, uint32_t bytes)
{
    const struct rail *r = &e->rails[p->rail];
    struct ibv_send_wr *wr = next_wr(e, p, kind, 0);

    p->granted = VERBS_CREDIT + p->recycled;
    cell[0] = (uint8_t)type;
    cell[1] = flags;
    kvw_store_le16(cell + 2, 0);
    kvw_store_le32(cell + 4, p->granted);
    kvw_store_le32(cell + 8, sequence);
    kvw_store_le32(cell + 12, 0);
    wr->opcode = IBV_WR_SEND;
    wr->num_sge = 1;
    wr->sg_list[0] =
        (struct ibv_sge){.addr = (uintptr_t)cell, .length = bytes, .lkey = r->mr->lkey};
    if (bytes <= r->inline_max)
        wr->send_flags |= IBV_SEND_INLINE;
    ++e->counters.sends;
}

/* The control SEND that will be work request number posted has memory of its own until then. */
static uint8_t *ctl_cell(const struct end *e, const struct path *p)
{
    const size_t path = p->conn->index * VERBS_PATHS + p->index;

    return e->ctl + (path * VERBS_SQ + p->posted % VERBS_SQ) * VERBS_CTL_BYTES;
}

void kvn_verbs_tx_probe(struct end *e, struct path *p)
{
    post_send(e, p, WORK_CTL, ctl_cell(e, p), VERBS_S_PROBE, 0, 0, VERBS_SEND_HDR);
    flush(e, p);
}

static bool credit_due(const struct path *p)
{
    return p->state == PATH_LIVE && VERBS_CREDIT + p->recycled - p->granted >= VERBS_CREDIT / 2;
}

static void send_credit(struct end *e, struct path *p)
{
    if (credit_due(p) && p->limit != p->posted && p->posted - p->completed < VERBS_SQ)
        post_send(e, p, WORK_CTL, ctl_cell(e, p), VERBS_S_CREDIT, 0, 0, VERBS_SEND_HDR);
}

/* --- puts ------------------------------------------------------------------------------------- */

static uint32_t hash_set(uint64_t address)
{
    return (uint32_t)(address * 0x9e3779b97f4a7c15ull >> 32) % (VERBS_OFFSETS / 4);
}

/* The queue pair's index of address; false: it is new, and *index is the place for it. */
static bool find_index(const struct path *p, uint64_t address, uint32_t *index)
{
    const uint32_t set = hash_set(address);

    for (uint32_t way = 0; way < 4; ++way) {
        *index = set * 4 + way;
        if (p->tx_offset[*index] == address)
            return true;
    }
    *index = set * 4 + p->tx_turn[set] % 4;
    return false;
}

static void post_place(struct end *e, struct path *p, uint64_t address, uint32_t imm,
                       uint32_t index)
{
    uint8_t *cell = ctl_cell(e, p);

    kvw_store_le64(cell + 16, address);
    kvw_store_le32(cell + 24, imm);
    kvw_store_le32(cell + 28, index);
    post_send(e, p, WORK_CTL, cell, VERBS_S_PLACE, 0, 0, VERBS_PLACE_BYTES);
    p->tx_offset[index] = address;
    ++p->tx_turn[index / 4];
    p->tx_imm = imm;
    ++e->counters.places;
}

/* The put's key on this path; 0: none, or none yet (a plain one may be anything). */
static uint32_t rkey_of(const struct path *p, const struct put *put)
{
    return put->region == VERBS_PLAIN ? put->rkey[p->peer_rail]
                                      : p->conn->keys[put->region].rkey[p->peer_rail];
}

static void post_put(struct end *e, struct path *p, uint16_t at)
{
    struct put *put = &p->conn->puts[at];
    const int32_t step = (int32_t)(put->imm - p->tx_imm);
    const bool near = step >= -(int32_t)(IMM_MASK / 2) && step <= (int32_t)(IMM_MASK / 2);
    struct ibv_send_wr *wr;
    uint32_t index;

    if (!find_index(p, put->address, &index) || !near)
        post_place(e, p, put->address, put->imm, index);
    p->tx_imm = put->imm;
    wr = next_wr(e, p, WORK_PUT, at);
    wr->opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
    wr->imm_data = htonl(index << VERBS_IMM_BITS | (put->imm & IMM_MASK));
    wr->wr.rdma.remote_addr = put->address;
    wr->wr.rdma.rkey = rkey_of(p, put);
    wr->num_sge = put->iov_count;
    for (uint32_t i = 0; i < put->iov_count; ++i) {
        const struct verbs_mem *m = put->mem[i];

        wr->sg_list[i] =
            (struct ibv_sge){.addr = (uintptr_t)put->iov[i].base,
                             .length = put->iov[i].bytes,
                             .lkey = m != NULL ? m->mr[p->rail]->lkey : e->rails[p->rail].mr->lkey};
    }
    put->state = PUT_POSTED;
    if (put->region != VERBS_PLAIN)
        ++p->conn->keys[put->region].posted;
    p->bytes_in_flight += put->bytes;
    p->draining = p->bytes_in_flight >= VERBS_FLIGHT;
    p->bytes_since_signal += put->bytes;
    if (p->bytes_since_signal >= VERBS_FLIGHT / 2)
        signal_this(e, p, wr);
    ++e->counters.writes;
}

/* Whether a path's device knows all memory that the put comes from, and the peer's lets it in. */
static bool reaches(const struct path *p, const struct put *put)
{
    if (put->region != VERBS_PLAIN && rkey_of(p, put) == 0)
        return false;
    for (uint32_t i = 0; i < put->iov_count; ++i)
        if (put->mem[i] != NULL && put->mem[i]->mr[p->rail] == NULL)
            return false;
    return true;
}

/* The queue pair with the least on its way; NULL: none has room. */
static const struct path *best_path(const struct conn *c, const struct put *put)
{
    const struct path *best = NULL;

    for (uint32_t i = 0; i < c->path_count; ++i) {
        const struct path *p = &c->paths[(c->turn + i) % c->path_count];

        if (room(p, 2) && !p->draining && reaches(p, put) &&
            (best == NULL || p->bytes_in_flight < best->bytes_in_flight))
            best = p;
    }
    return best;
}

static struct path *choose_path(struct conn *c, const struct put *put)
{
    const struct path *best = best_path(c, put);

    if (best == NULL)
        return NULL;
    c->turn = (best->index + 1u) % c->path_count;
    return &c->paths[best->index];
}

/* --- a connection ----------------------------------------------------------------------------- */

static uint8_t *msg_cell(const struct end *e, const struct conn *c, uint32_t n)
{
    return e->cells + ((size_t)c->index * VERBS_MSG_CELLS + n % VERBS_MSG_CELLS) * VERBS_RECV_BYTES;
}

bool kvn_verbs_tx_due(const struct conn *c)
{
    if (c->state != CONN_LIVE)
        return false;
    if (c->breach != NULL || c->let_go_due)
        return true;
    if (c->cells_sent != c->cells_queued && room(&c->paths[c->msg_path], 1))
        return true;
    for (uint32_t i = 0; i < c->path_count; ++i)
        if (credit_due(&c->paths[i]) && c->paths[i].limit != c->paths[i].posted)
            return true;
    if (c->waiting.count == 0)
        return false;
    /* One without a key steps aside for those after it. */
    return best_path(c, &c->puts[c->waiting.head]) != NULL ||
           !kvn_verbs_key_has_way(c, &c->puts[c->waiting.head]);
}

void kvn_verbs_tx_pump(struct end *e, struct conn *c)
{
    struct path *p;

    if (c->state != CONN_LIVE)
        return;
    if (c->breach != NULL) { /* the list it waits in ends with the connection */
        kvn_verbs_put_done(e, c, c->breach_put, KVW_E_PROTOCOL);
        kvn_verbs_conn_end(e, c, true, KVW_E_PROTOCOL, "%s", c->breach);
        return;
    }
    if (c->let_go_due)
        kvn_verbs_key_let_go(e, c);
    while (c->state == CONN_LIVE && c->cells_sent != c->cells_queued &&
           room(&c->paths[c->msg_path], 1)) {
        const struct cell *cell = &c->cells[c->cells_sent % VERBS_MSG_CELLS];

        post_send(e, &c->paths[c->msg_path], WORK_MSG, msg_cell(e, c, c->cells_sent), VERBS_S_MSG,
                  cell->flags, c->cells_sent, cell->bytes);
        ++c->cells_sent;
    }
    while (c->state == CONN_LIVE && c->waiting.count > 0) {
        if ((p = choose_path(c, &c->puts[c->waiting.head])) != NULL)
            post_put(e, p, kvn_verbs_list_pop(c, &c->waiting));
        else if (!kvn_verbs_key_park(e, c))
            break;
    }
    for (uint32_t i = 0; i < c->path_count && c->state == CONN_LIVE; ++i) {
        send_credit(e, &c->paths[i]);
        flush(e, &c->paths[i]);
    }
}

void kvn_verbs_tx_complete(struct end *e, struct path *p, uint32_t n)
{
    struct conn *c = p->conn;

    if (n - p->completed >= p->posted - p->completed)
        return; /* not one that is on its way */
    for (; p->completed != n + 1; ++p->completed) {
        const struct work *w = &p->ring[p->completed % VERBS_SQ];

        if (w->kind == WORK_MSG) {
            ++c->cells_acked;
        } else if (w->kind == WORK_PUT) {
            p->bytes_in_flight -= c->puts[w->put].bytes;
            e->stats.put_bytes_sent += c->puts[w->put].bytes;
            kvn_verbs_key_unposted(c, &c->puts[w->put]);
            kvn_verbs_put_done(e, c, w->put, KVW_OK);
        }
    }
    /* Half a flight at a time: a doorbell, a completion and a wake-up on each side for several
     * puts, while the other half keeps the device busy. */
    if (p->bytes_in_flight <= VERBS_FLIGHT / 2)
        p->draining = false;
    if (!p->probed) {
        e->reported = p->probed = true;
    }
}

kvw_err kvn_verbs_send(struct kvw_transport *t, kvw_conn_id id, const void *msg, uint32_t bytes)
{
    struct end *e = kvn_verbs_end(t);
    struct conn *c;
    const uint8_t *from = msg;
    uint32_t pieces;

    if (bytes == 0 || bytes > KVW_MSG_BYTES_MAX)
        return KVW_E_INVALID;
    if ((c = kvn_verbs_conn_find(e, id)) == NULL)
        return KVW_E_NOTFOUND;
    pieces = (bytes + PIECE_BYTES - 1) / PIECE_BYTES;
    if (c->state != CONN_LIVE || VERBS_MSG_CELLS - (c->cells_queued - c->cells_acked) < pieces)
        return KVW_E_AGAIN;
    while (bytes > 0) {
        const uint32_t n = bytes < PIECE_BYTES ? bytes : PIECE_BYTES;

        memcpy(msg_cell(e, c, c->cells_queued) + VERBS_SEND_HDR, from, n);
        from += n;
        bytes -= n;
        c->cells[c->cells_queued % VERBS_MSG_CELLS] = (struct cell){
            .bytes = (uint16_t)(VERBS_SEND_HDR + n), .flags = bytes > 0 ? VERBS_MORE : 0};
        ++c->cells_queued;
    }
    return KVW_OK;
}

/* Blocks of e->copy in a row for a put, or false. */
static bool copy_take(struct end *e, struct put *p, uint32_t bytes)
{
    const uint32_t need = (bytes + VERBS_COPY_BLOCK - 1) / VERBS_COPY_BLOCK;
    uint32_t run = 0, at = e->copy_turn;

    for (uint32_t seen = 0; seen < VERBS_COPY_COUNT + need; ++seen) {
        if (at == VERBS_COPY_COUNT)
            at = run = 0;
        run = e->copy_used[at] ? 0 : run + 1;
        ++at;
        if (run == need) {
            p->copy_at = (uint16_t)(at - need);
            p->copy_blocks = (uint16_t)need;
            memset(e->copy_used + p->copy_at, 1, need);
            e->copy_turn = at;
            return true;
        }
    }
    return false;
}

/* Where the put's bytes are read from: announced memory as it lies, else a copy. */
static kvw_err find_source(struct end *e, struct put *p)
{
    const struct kvw_mem_device *d;
    uint8_t *to;
    bool copy = false;

    for (uint32_t i = 0; i < p->iov_count; ++i) {
        const struct verbs_mem *m = kvn_verbs_mem_find(e, p->iov[i].base, p->iov[i].bytes);

        p->mem[i] = (struct verbs_mem *)(uintptr_t)m;
        copy |= m == NULL || m->copied;
    }
    if (!copy)
        return KVW_OK;
    if (!copy_take(e, p, p->bytes))
        return KVW_E_AGAIN;
    to = e->copy + (size_t)p->copy_at * VERBS_COPY_BLOCK;
    e->counters.copied_bytes += p->bytes;
    for (uint32_t i = 0; i < p->iov_count; to += p->iov[i++].bytes) {
        d = p->mem[i] != NULL ? p->mem[i]->mem.device : NULL;
        if (d == NULL || d->copy_out == NULL)
            memcpy(to, p->iov[i].base, p->iov[i].bytes);
        else if (d->copy_out(d->arg, to, p->iov[i].base, p->iov[i].bytes) != KVW_OK)
            return KVW_E_DEVICE;
        p->mem[i] = NULL;
    }
    p->iov[0] = (struct kvw_iov){e->copy + (size_t)p->copy_at * VERBS_COPY_BLOCK, p->bytes};
    p->iov_count = 1;
    return KVW_OK;
}

/* What the put may be written with: what the key says, or what it says by and by. */
static bool find_key(struct conn *c, struct put *p, const struct kvw_put *put)
{
    const uint64_t address = kvw_load_le64(put->key.bytes);
    uint32_t any = 0;

    p->address = address + put->offset;
    p->region = VERBS_PLAIN;
    for (uint32_t i = 0; i < VERBS_RAILS; ++i)
        any |= p->rkey[i] = kvw_load_le32(put->key.bytes + 16 + 4 * i);
    if (any != 0)
        return true;
    if (!kvn_verbs_key_find(c, address, &p->region))
        return false;
    ++c->keys[p->region].users;
    return true;
}

kvw_err kvn_verbs_put(struct kvw_transport *t, kvw_conn_id id, const struct kvw_put *put)
{
    struct end *e = kvn_verbs_end(t);
    const uint64_t region_bytes = kvw_load_le64(put->key.bytes + 8);
    const uint32_t bytes = kvn_put_bytes(put);
    struct conn *c;
    struct put *p;
    uint16_t at;
    kvw_err err;

    if (bytes == 0)
        return KVW_E_INVALID;
    if ((c = kvn_verbs_conn_find(e, id)) == NULL)
        return KVW_E_NOTFOUND;
    if (c->state != CONN_LIVE || c->free.count == 0)
        return KVW_E_AGAIN;
    p = &c->puts[c->free.head];
    p->bytes = bytes;
    p->iov_count = (uint8_t)put->iov_count;
    memcpy(p->iov, put->iov, sizeof(p->iov));
    p->copy_blocks = 0;
    if ((err = find_source(e, p)) != KVW_OK) {
        kvn_verbs_put_copy_release(e, p);
        return err;
    }
    if (!find_key(c, p, put)) {
        kvn_verbs_put_copy_release(e, p);
        return KVW_E_AGAIN;
    }
    at = kvn_verbs_list_pop(c, &c->free);
    p->imm = put->imm;
    p->cookie = put->cookie;
    p->state = PUT_WAITING;
    kvn_verbs_list_push(c, &c->waiting, at);
    /* The device checks this as well; here it costs nothing, and the sentence is better. */
    if (c->breach == NULL && (put->offset > region_bytes || bytes > region_bytes - put->offset)) {
        c->breach = "a put lies outside of the peer's region";
        c->breach_put = at;
    }
    return KVW_OK;
}
