/* SPDX-License-Identifier: Apache-2.0 */
/* A device in use: its protection domain, completion queues, shared receive queue and events. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "impl.h"

static void no_block(int fd)
{
    const int flags = fcntl(fd, F_GETFL);

    if (flags >= 0)
        (void)fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

/* Pinning what this transport needs was refused. */
static void why_no_memory(const struct rail *r, size_t bytes, int error, char why[KVN_WHY_BYTES])
{
    struct rlimit limit = {0, 0};

    (void)getrlimit(RLIMIT_MEMLOCK, &limit);
    if ((error == ENOMEM || error == EPERM || error == EAGAIN) && limit.rlim_cur < bytes)
        snprintf(why, KVN_WHY_BYTES,
                 "verbs: %.40s can't pin %zu MiB: the limit of locked memory is %llu KiB; raise it "
                 "(ulimit -l unlimited, LimitMEMLOCK=infinity, docker --ulimit memlock=-1)",
                 r->ctx->device->name, bytes >> 20, (unsigned long long)limit.rlim_cur >> 10);
    else
        snprintf(why, KVN_WHY_BYTES, "verbs: %.40s can't register %zu MiB: %s",
                 r->ctx->device->name, bytes >> 20, strerror(error));
}

static bool post_all(struct rail *r)
{
    for (uint32_t i = 0; i < r->recv_count; ++i)
        r->give[i] = i;
    r->give_count = r->recv_count;
    kvn_verbs_rail_give(r);
    return r->give_count == 0;
}

static kvw_err make(struct end *e, struct rail *r, char why[KVN_WHY_BYTES])
{
    struct ibv_srq_init_attr srq = {.attr = {.max_wr = r->recv_count, .max_sge = 1}};
    const uint32_t sends = VERBS_CONNS * e->cfg.qps * (VERBS_SQ + VERBS_SQ_EXTRA);
    const char *what;

    what = "a protection domain";
    if ((r->pd = ibv_alloc_pd(r->ctx)) == NULL)
        goto failed;
    what = "a completion channel";
    if ((r->channel = ibv_create_comp_channel(r->ctx)) == NULL)
        goto failed;
    what = "a completion queue";
    if ((r->sent.cq = ibv_create_cq(r->ctx, (int)sends, &r->sent, r->channel, 0)) == NULL)
        goto failed;
    what = "a second completion queue";
    r->received.cq = ibv_create_cq(r->ctx, (int)r->recv_count, &r->received, r->channel, 0);
    if (r->received.cq == NULL)
        goto failed;
    what = "a shared receive queue";
    if ((r->srq = ibv_create_srq(r->pd, &srq)) == NULL)
        goto failed;
    r->mr = ibv_reg_mr(r->pd, e->map, e->map_bytes, IBV_ACCESS_LOCAL_WRITE);
    if (r->mr == NULL) {
        why_no_memory(r, e->map_bytes, errno, why);
        return KVW_E_NOMEM;
    }
    no_block(r->channel->fd);
    no_block(r->ctx->async_fd);
    what = "its receive buffers";
    if (!post_all(r))
        goto failed;
    return KVW_OK;

failed:
    snprintf(why, KVN_WHY_BYTES,
             "verbs: %.40s gives no %s: %s ('rdma resource' shows who holds how many)",
             r->ctx->device->name, what, strerror(errno));
    return KVW_E_DEVICE;
}

kvw_err kvn_verbs_rail_open(struct end *e, struct rail *r, char why[KVN_WHY_BYTES])
{
    kvw_err err = KVW_E_NOMEM;

    r->give = calloc(r->recv_count, sizeof(r->give[0]));
    r->give_wr = calloc(r->recv_count, sizeof(r->give_wr[0]));
    r->give_sge = calloc(r->recv_count, sizeof(r->give_sge[0]));
    if (r->give == NULL || r->give_wr == NULL || r->give_sge == NULL)
        snprintf(why, KVN_WHY_BYTES, "verbs: out of memory");
    else
        err = make(e, r, why);
    if (err != KVW_OK)
        kvn_verbs_rail_close(r);
    return err;
}

static void destroy_cq(struct rail_cq *q)
{
    if (q->cq == NULL)
        return;
    if (q->events_unacked > 0)
        ibv_ack_cq_events(q->cq, q->events_unacked);
    (void)ibv_destroy_cq(q->cq);
}

void kvn_verbs_rail_close(struct rail *r)
{
    if (r->srq != NULL)
        (void)ibv_destroy_srq(r->srq);
    destroy_cq(&r->sent);
    destroy_cq(&r->received);
    if (r->channel != NULL)
        (void)ibv_destroy_comp_channel(r->channel);
    if (r->mr != NULL)
        (void)ibv_dereg_mr(r->mr);
    if (r->pd != NULL)
        (void)ibv_dealloc_pd(r->pd);
    if (r->ctx != NULL)
        (void)ibv_close_device(r->ctx);
    free(r->give);
    free(r->give_wr);
    free(r->give_sge);
    memset(r, 0, sizeof(*r));
}

void kvn_verbs_rail_give(struct rail *r)
{
    struct ibv_recv_wr *bad = NULL;
    uint32_t posted = r->give_count;

    if (r->give_count == 0 || !r->alive)
        return;
    for (uint32_t i = 0; i < r->give_count; ++i) {
        r->give_sge[i] =
            (struct ibv_sge){.addr = (uintptr_t)(r->recv + (size_t)r->give[i] * VERBS_RECV_BYTES),
                             .length = VERBS_RECV_BYTES,
                             .lkey = r->mr->lkey};
        r->give_wr[i] =
            (struct ibv_recv_wr){.wr_id = r->give[i],
                                 .next = i + 1 < r->give_count ? &r->give_wr[i + 1] : NULL,
                                 .sg_list = &r->give_sge[i],
                                 .num_sge = 1};
    }
    if (ibv_post_srq_recv(r->srq, r->give_wr, &bad) != 0 && bad != NULL)
        posted = (uint32_t)(bad - r->give_wr); /* the rest is tried again */
    memmove(r->give, r->give + posted, (r->give_count - posted) * sizeof(r->give[0]));
    r->give_count -= posted;
}

bool kvn_verbs_rail_arm(struct rail *r)
{
    bool sent, received;

    if (!r->alive)
        return false;
    if (!r->sent.armed && ibv_req_notify_cq(r->sent.cq, 0) == 0)
        r->sent.armed = true;
    if (!r->received.armed && ibv_req_notify_cq(r->received.cq, 1) == 0)
        r->received.armed = true;
    /* What came before the request gives no event: look once more. */
    sent = kvn_verbs_rail_take(&r->sent);
    received = kvn_verbs_rail_take(&r->received);
    return sent || received;
}

bool kvn_verbs_rail_take(struct rail_cq *q)
{
    if (q->at == q->count) {
        const int n = ibv_poll_cq(q->cq, VERBS_WC, q->wc);

        q->at = 0;
        q->count = n > 0 ? (uint32_t)n : 0;
    }
    return q->at != q->count;
}

void kvn_verbs_rail_dead(struct end *e, struct rail *r, const char *text)
{
    const uint8_t index = (uint8_t)(r - e->rails);

    if (!r->alive)
        return;
    r->alive = false;
    for (uint32_t i = 0; i < VERBS_CONNS; ++i)
        for (uint32_t p = 0; p < e->conns[i].path_count; ++p)
            if (e->conns[i].paths[p].rail == index)
                kvn_verbs_path_lost(e, &e->conns[i].paths[p], text);
}

static struct path *path_of(struct end *e, const struct ibv_qp *qp)
{
    for (uint32_t i = 0; i < VERBS_CONNS; ++i)
        for (uint32_t p = 0; p < e->conns[i].path_count; ++p)
            if (e->conns[i].paths[p].qp == qp)
                return &e->conns[i].paths[p];
    return NULL;
}

static void on_async(struct end *e, struct rail *r, const struct ibv_async_event *ev)
{
    struct path *p;

    switch (ev->event_type) {
    case IBV_EVENT_DEVICE_FATAL:
    case IBV_EVENT_CQ_ERR:
    case IBV_EVENT_SRQ_ERR:
        kvn_verbs_rail_dead(e, r, "the device failed or was removed");
        break;
    case IBV_EVENT_QP_ACCESS_ERR:
        if ((p = path_of(e, ev->element.qp)) != NULL)
            kvn_verbs_conn_end(e, p->conn, true, KVW_E_PROTOCOL,
                               "a put lay outside of what the receiver registered");
        break;
    case IBV_EVENT_QP_FATAL:
    case IBV_EVENT_QP_REQ_ERR:
        if ((p = path_of(e, ev->element.qp)) != NULL)
            kvn_verbs_path_lost(e, p, "the device reported a queue pair's failure");
        break;
    case IBV_EVENT_PORT_ERR: /* it may come back before the retries run out */
        r->port_up = false;
        break;
    case IBV_EVENT_PORT_ACTIVE:
        r->port_up = true;
        break;
    default:
        break;
    }
}

void kvn_verbs_rail_events(struct end *e, struct rail *r)
{
    struct ibv_async_event async;
    struct ibv_cq *cq;
    void *arg;

    if (r->ctx == NULL)
        return;
    while ((r->sent.armed || r->received.armed) && ibv_get_cq_event(r->channel, &cq, &arg) == 0) {
        struct rail_cq *q = arg;

        q->armed = false;
        if (++q->events_unacked == 64) {
            ibv_ack_cq_events(q->cq, q->events_unacked);
            q->events_unacked = 0;
        }
    }
    for (uint32_t i = 0; i < 64 && ibv_get_async_event(r->ctx, &async) == 0; ++i) {
        struct ibv_async_event copy = async;

        ibv_ack_async_event(&async); /* first: what follows may destroy the object it names */
        on_async(e, r, &copy);
    }
}
