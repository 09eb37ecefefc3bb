/* SPDX-License-Identifier: Apache-2.0 */
/* rx.c - completions, and the events made of them. */
#include <arpa/inet.h>
#include <string.h>

#include "../../kvwire/wire/le.h"
#include "impl.h"

#define IMM_MASK ((1u << VERBS_IMM_BITS) - 1)

/* --- receive buffers -------------------------------------------------------------------------- */

/* The buffer can be posted again, and, if its path is still there, the peer may be told so. */
static void release(struct end *e, const struct held *h)
{
    struct rail *r = &e->rails[h->rail];
    struct path *p = &e->conns[h->conn].paths[h->path];

    r->give[r->give_count++] = h->buffer;
    if (h->generation != 0 && p->generation == h->generation)
        ++p->recycled;
}

void kvn_verbs_rx_release(struct end *e, const struct held *h)
{
    release(e, h);
}

void kvn_verbs_rx_forget(struct end *e)
{
    for (uint32_t i = 0; i < e->held_count; ++i)
        release(e, &e->held[i]);
    e->held_count = 0;
}

/* --- completions ------------------------------------------------------------------------------ */

static struct path *path_of(struct end *e, const struct rail *r, uint32_t qpn)
{
    for (uint32_t i = 0; i < VERBS_CONNS; ++i) {
        struct conn *c = &e->conns[i];

        if (c->state == CONN_FREE)
            continue;
        for (uint32_t k = 0; k < c->path_count; ++k) {
            struct path *p = &c->paths[k];

            if (p->qp != NULL && p->qp->qp_num == qpn && &e->rails[p->rail] == r)
                return p;
        }
    }
    return NULL;
}

static void breach(struct end *e, struct conn *c, const char *what)
{
    ++e->stats.packets_rejected;
    kvn_verbs_conn_end(e, c, true, KVW_E_PROTOCOL, "the peer broke the protocol: %s", what);
}

static void push_arrival(struct conn *c, const struct arrival *a)
{
    c->arrivals[(c->arrival_head + c->arrival_count++) % VERBS_ARRIVALS] = *a;
}

static void on_put(struct end *e, struct path *p, const struct ibv_wc *wc, const struct held *h)
{
    const uint32_t word = ntohl(wc->imm_data);
    const uint32_t gap = ((word & IMM_MASK) - p->rx_imm) & IMM_MASK;
    struct arrival a = {.held = *h, .put = true, .bytes = wc->byte_len};

    /* The step from the last one, with its sign. */
    p->rx_imm += gap > IMM_MASK / 2 ? gap - (IMM_MASK + 1) : gap;
    a.imm = p->rx_imm;
    if (!kvn_verbs_mem_landed(e, p->rx_offset[word >> VERBS_IMM_BITS], a.bytes, &a.offset)) {
        release(e, h); /* its region was removed after it landed: nobody is to know */
        return;
    }
    e->stats.put_bytes_received += a.bytes;
    push_arrival(p->conn, &a);
}

static void on_send(struct end *e, struct path *p, uint32_t bytes, const struct held *h)
{
    const uint8_t *m = e->rails[h->rail].recv + (size_t)h->buffer * VERBS_RECV_BYTES;
    struct arrival a = {.held = *h, .bytes = bytes};
    struct conn *c = p->conn;
    uint32_t granted;

    if (bytes < VERBS_SEND_HDR || bytes > VERBS_RECV_BYTES) {
        release(e, h);
        breach(e, c, "a SEND's length");
        return;
    }
    granted = kvw_load_le32(m + 4);
    if (granted - p->posted > 2 * VERBS_SQ || granted - p->limit > 2 * VERBS_SQ) {
        release(e, h);
        breach(e, c, "a credit that is out of range");
        return;
    }
    p->limit = granted;
    if (m[0] == VERBS_S_MSG && bytes > VERBS_SEND_HDR &&
        kvw_load_le32(m + 8) == c->piece_expected) {
        ++c->piece_expected;
        push_arrival(c, &a);
        return;
    }
    if (m[0] == VERBS_S_PLACE && bytes == VERBS_PLACE_BYTES) {
        p->rx_offset[kvw_load_le32(m + 28) % VERBS_OFFSETS] = kvw_load_le64(m + 16);
        p->rx_imm = kvw_load_le32(m + 24);
    } else if (m[0] != VERBS_S_PROBE && m[0] != VERBS_S_CREDIT) {
        breach(e, c, "a SEND's type or order");
    }
    release(e, h);
}

static void on_receive(struct end *e, struct rail *r, const struct ibv_wc *wc)
{
    struct path *p = path_of(e, r, wc->qp_num);
    struct held h = {.rail = (uint8_t)(r - e->rails), .buffer = (uint32_t)wc->wr_id};

    if (h.buffer >= r->recv_count)
        return;
    if (p == NULL || p->conn->state >= CONN_OVER || wc->status != IBV_WC_SUCCESS) {
        release(e, &h);
        return;
    }
    /* No put is empty, and it counts for nothing: rxe can repeat a write like this when it sends
     * again one that is acknowledged meanwhile. Its true bytes have landed before. */
    if (wc->opcode == IBV_WC_RECV_RDMA_WITH_IMM && wc->byte_len == 0) {
        release(e, &h);
        return;
    }
    h.conn = (uint8_t)p->conn->index;
    h.path = p->index;
    h.generation = p->generation;
    ++p->received;
    p->conn->heard_ns = e->now_ns;
    if (p->received - p->recycled > VERBS_CREDIT) {
        release(e, &h);
        breach(e, p->conn, "more than it was granted");
    } else if (wc->opcode == IBV_WC_RECV_RDMA_WITH_IMM) {
        on_put(e, p, wc, &h);
    } else {
        on_send(e, p, wc->byte_len, &h);
    }
}

/* The first failed work request of a queue pair: all before it were carried out. Those after it are
 * flushed, and failover.c asks the peer what became of them. */
static void on_failure(struct end *e, struct path *p, const struct ibv_wc *wc)
{
    const uint32_t n = (uint32_t)wc->wr_id;
    struct conn *c = p->conn;
    const struct work *w = &p->ring[n % VERBS_SQ];

    if (p->errored || n - p->completed >= p->posted - p->completed)
        return;
    p->errored = true;
    if (n != p->completed)
        kvn_verbs_tx_complete(e, p, n - 1);
    switch (wc->status) {
    case IBV_WC_REM_ACCESS_ERR: /* alone is about a key or a range */
        if (w->kind == WORK_PUT && c->puts[w->put].state == PUT_POSTED)
            kvn_verbs_put_done(e, c, w->put, KVW_E_PROTOCOL);
        kvn_verbs_conn_end(e, c, true, KVW_E_PROTOCOL,
                           "a put lay outside of what the receiver registered, or its key is of an "
                           "earlier life or a region that is gone: get the peer's key again");
        break;
    case IBV_WC_LOC_PROT_ERR:
    case IBV_WC_LOC_LEN_ERR:
    case IBV_WC_LOC_ACCESS_ERR:
        kvn_verbs_conn_end(e, c, true, KVW_E_DEVICE, "the device refused a put of ours: %s",
                           ibv_wc_status_str(wc->status));
        break;
    default:
        /* LOC_QP_OP_ERR too: what rxe says when its interface has gone down. And REM_INV_REQ_ERR:
         * the peer's device got a packet that doesn't follow the one before, as when rxe sends
         * again what was only late. Nothing is wrong with the put. */
        kvn_verbs_path_lost(e, p, ibv_wc_status_str(wc->status));
        break;
    }
}

static void on_completion(struct end *e, struct rail *r, const struct ibv_wc *wc)
{
    struct path *p;

    if (wc->wr_id >> 32 == 0) {
        on_receive(e, r, wc);
        return;
    }
    p = &e->conns[wc->wr_id >> 60].paths[wc->wr_id >> 56 & 15];
    if (p->qp == NULL || p->generation != (wc->wr_id >> 32 & 0xffffff))
        return; /* of a queue pair that is gone */
    if ((uint32_t)wc->wr_id == VERBS_MARKER && p->marked)
        p->marker_seen = true;
    else if ((uint32_t)wc->wr_id == VERBS_BIND && p->binding)
        kvn_verbs_window_bound(e, p, wc->status == IBV_WC_SUCCESS);
    else if (wc->status == IBV_WC_SUCCESS)
        kvn_verbs_tx_complete(e, p, (uint32_t)wc->wr_id);
    else
        on_failure(e, p, wc);
}

static bool poll_one(struct end *e, struct rail *r, struct rail_cq *q)
{
    if (!kvn_verbs_rail_take(q))
        return false;
    while (q->at < q->count) {
        const struct ibv_wc wc = q->wc[q->at++];

        on_completion(e, r, &wc);
    }
    return true;
}

/* Receives first: what came before a queue pair failed is then seen before the failure. */
bool kvn_verbs_rx_poll(struct end *e, struct rail *r)
{
    const bool received = poll_one(e, r, &r->received);
    const bool sent = poll_one(e, r, &r->sent);

    return received || sent;
}

/* --- events ----------------------------------------------------------------------------------- */

/* A message that came in pieces, or in one. False: a piece, and no event yet. */
static bool message(struct end *e, struct conn *c, const struct arrival *a,
                    struct kvw_transport_event *ev)
{
    const uint8_t *m = e->rails[a->held.rail].recv + (size_t)a->held.buffer * VERBS_RECV_BYTES;
    const uint32_t bytes = a->bytes - VERBS_SEND_HDR;
    const bool more = (m[1] & VERBS_MORE) != 0;

    ev->kind = KVW_TEV_MESSAGE;
    if (c->assembled == 0 && !more) {
        ev->msg = m + VERBS_SEND_HDR;
        ev->bytes = bytes;
        e->held[e->held_count++] = a->held;
        return true;
    }
    if (bytes > KVW_MSG_BYTES_MAX - c->assembled) {
        release(e, &a->held);
        breach(e, c, "a message that is too long");
        return false;
    }
    memcpy(c->assembly + c->assembled, m + VERBS_SEND_HDR, bytes);
    c->assembled += bytes;
    release(e, &a->held);
    if (more)
        return false;
    ev->msg = c->assembly;
    ev->bytes = c->assembled;
    c->assembled = 0;
    c->assembly_out = true;
    return true;
}

static bool arrival_event(struct end *e, struct conn *c, struct kvw_transport_event *ev)
{
    while (c->arrival_count > 0) {
        const struct arrival a = c->arrivals[c->arrival_head];

        if (!a.put && c->assembly_out)
            return false; /* the caller still reads the last long one */
        c->arrival_head = (c->arrival_head + 1) % VERBS_ARRIVALS;
        --c->arrival_count;
        if (a.put) {
            release(e, &a.held);
            ev->kind = KVW_TEV_PUT_LANDED;
            ev->offset = a.offset;
            ev->bytes = a.bytes;
            ev->imm = a.imm;
            return true;
        }
        if (message(e, c, &a, ev))
            return true;
    }
    return false;
}

bool kvn_verbs_rx_event(struct end *e, struct conn *c, struct kvw_transport_event *ev)
{
    *ev = (struct kvw_transport_event){.conn = c->id, .incoming = c->incoming, .text = ""};
    if (c->state == CONN_FREE || c->state == CONN_SPENT)
        return false;
    if (c->up_due && c->state != CONN_LEFT) {
        c->up_due = false;
        c->announced = true;
        ev->kind = KVW_TEV_CONN_UP;
        return true;
    }
    if (c->done.count > 0) {
        const uint16_t at = kvn_verbs_list_pop(c, &c->done);
        struct put *p = &c->puts[at];

        ev->kind = KVW_TEV_PUT_DONE;
        ev->cookie = p->cookie;
        ev->err = p->err;
        p->state = PUT_FREE;
        kvn_verbs_list_push(c, &c->free, at);
        return true;
    }
    if (c->state != CONN_LEFT && c->announced && arrival_event(e, c, ev))
        return true;
    if (c->state == CONN_LEFT) {
        c->state = CONN_SPENT;
        return false;
    }
    if (c->state != CONN_ENDING || (c->announced && c->arrival_count > 0))
        return false;
    c->state = CONN_SPENT;
    for (; c->arrival_count > 0; --c->arrival_count) { /* it never came up */
        release(e, &c->arrivals[c->arrival_head].held);
        c->arrival_head = (c->arrival_head + 1) % VERBS_ARRIVALS;
    }
    if (c->incoming && !c->announced) /* nobody heard of it */
        return false;
    ev->kind = KVW_TEV_CONN_DOWN;
    ev->err = c->down_err;
    ev->text = c->text;
    return true;
}
