/* SPDX-License-Identifier: Apache-2.0 */
/* rdma_cm on the pretended fabric: what takes the kernel time is an event at once, unless vf.cm
 * says otherwise. The address is the device's: 127.0.0.1 and fe80::1 are fake0's. */
#include <errno.h>
#include <netinet/in.h>
#include <rdma/rdma_cma.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "fake.h"

#define EVENTS 256
#define IDS    128

struct fake_id {
    struct rdma_cm_id base;
    struct ibv_context on; /* whose device the transport looks at */
    struct fake_id *peer;
    struct sockaddr_in6 dst;
    bool listening, connected;
    uint16_t port;
    uint32_t qpn;
    int unacked;
};

struct queued {
    struct rdma_cm_event ev;
    uint8_t data[56];
    bool used;
};

static struct fake_id *ids[IDS];
static struct queued queue[EVENTS];
static uint32_t queue_head, queue_tail; /* by count */
static uint16_t next_port = 4000;

static struct fake_id *of(struct rdma_cm_id *id)
{
    return (struct fake_id *)(void *)id;
}

static struct fake_id *make_id(struct rdma_event_channel *ch, void *context)
{
    for (uint32_t i = 0; i < IDS; ++i) {
        if (ids[i] != NULL)
            continue;
        ids[i] = vf_made(sizeof(struct fake_id));
        ids[i]->base.channel = ch;
        ids[i]->base.context = context;
        ++vf.cm_ids;
        return ids[i];
    }
    abort();
}

static void unmake_id(struct fake_id *f)
{
    for (uint32_t i = 0; i < IDS; ++i) {
        if (ids[i] == f)
            ids[i] = NULL;
        else if (ids[i] != NULL && ids[i]->peer == f)
            ids[i]->peer = NULL;
    }
    vf_unmade(f);
    --vf.cm_ids;
}

static void sit_on(struct fake_id *f, uint32_t device)
{
    f->on.device = vf_device(device);
    f->base.verbs = &f->on;
    f->base.port_num = 1;
}

/* The device of an address; VF_DEVICES: none has it. */
static uint32_t device_of(const struct sockaddr *a)
{
    const uint8_t *six = ((const struct sockaddr_in6 *)(const void *)a)->sin6_addr.s6_addr;
    uint32_t last = VF_DEVICES;

    if (a->sa_family == AF_INET)
        last = ntohl(((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr) - 0x7f000001u;
    else if (six[0] == 0xfe && six[15] > 0)
        last = six[15] - 1u;
    return last < VF_DEVICES ? last : VF_DEVICES;
}

static uint16_t port_of(const struct sockaddr *a)
{
    return ntohs(a->sa_family == AF_INET
                     ? ((const struct sockaddr_in *)(const void *)a)->sin_port
                     : ((const struct sockaddr_in6 *)(const void *)a)->sin6_port);
}

static void tell(struct fake_id *f, enum rdma_cm_event_type type, int status, struct fake_id *from,
                 const void *data, uint8_t bytes)
{
    struct queued *q = &queue[queue_tail++ % EVENTS];
    const uint64_t one = 1;

    if (queue_tail - queue_head > EVENTS || bytes > sizeof(q->data))
        abort();
    memset(q, 0, sizeof(*q));
    q->used = true;
    q->ev.id = &f->base;
    q->ev.listen_id = from != NULL ? &from->base : NULL;
    q->ev.event = type;
    q->ev.status = status;
    if (bytes > 0)
        memcpy(q->data, data, bytes);
    q->ev.param.conn.private_data = bytes > 0 ? q->data : NULL;
    q->ev.param.conn.private_data_len =
        bytes > 0 ? sizeof(q->data) : 0; /* padded, as on the wire */
    if (write(f->base.channel->fd, &one, sizeof(one)) != (ssize_t)sizeof(one))
        abort();
}

/* --- the library's functions ------------------------------------------------------------------ */

struct rdma_event_channel *rdma_create_event_channel(void)
{
    struct rdma_event_channel *ch;

    if (vf_fails(0, ENODEV))
        return NULL;
    ch = vf_made(sizeof(*ch));
    ch->fd = eventfd(0, EFD_SEMAPHORE | EFD_CLOEXEC);
    return ch;
}

void rdma_destroy_event_channel(struct rdma_event_channel *ch)
{
    close(ch->fd);
    vf_unmade(ch);
}

int rdma_create_id(struct rdma_event_channel *ch, struct rdma_cm_id **id, void *context,
                   enum rdma_port_space ps)
{
    if (ps != RDMA_PS_TCP)
        abort();
    if (vf_fails(0, ENOMEM))
        return -1;
    *id = &make_id(ch, context)->base;
    return 0;
}

int rdma_destroy_id(struct rdma_cm_id *id)
{
    struct fake_id *f = of(id);
    uint64_t one;

    if (f->unacked != 0)
        abort(); /* the true one would wait for ever */
    for (uint32_t i = queue_head; i != queue_tail; ++i) {
        struct queued *q = &queue[i % EVENTS];

        if (!q->used || (q->ev.id != id && q->ev.listen_id != id))
            continue;
        q->used = false;
        if (read(id->channel->fd, &one, sizeof(one)) != (ssize_t)sizeof(one))
            abort();
        if (q->ev.listen_id == id)
            unmake_id(of(q->ev.id));
    }
    if (f->qpn != 0 && vf.no_way[f->on.device == vf_device(1)])
        ++vf.cm_nowhere;
    else if (f->peer != NULL && f->connected)
        tell(f->peer, RDMA_CM_EVENT_DISCONNECTED, 0, NULL, NULL, 0);
    unmake_id(f);
    return 0;
}

int rdma_bind_addr(struct rdma_cm_id *id, struct sockaddr *addr)
{
    const uint32_t device = device_of(addr);

    if (vf_fails(0, ENODEV))
        return -1;
    if (device == VF_DEVICES || vf.cm == VF_CM_NO_DEVICE) {
        errno = ENODEV;
        return -1;
    }
    sit_on(of(id), device);
    of(id)->port = port_of(addr) != 0 ? port_of(addr) : ++next_port;
    return 0;
}

int rdma_listen(struct rdma_cm_id *id, int backlog)
{
    (void)backlog;
    if (vf_fails(0, EADDRINUSE))
        return -1;
    of(id)->listening = true;
    return 0;
}

uint16_t rdma_get_src_port(struct rdma_cm_id *id)
{
    return htons(of(id)->port);
}

int rdma_resolve_addr(struct rdma_cm_id *id, struct sockaddr *src, struct sockaddr *dst,
                      int timeout_ms)
{
    struct fake_id *f = of(id);

    if (timeout_ms <= 0)
        abort();
    if (vf_fails(0, ENETUNREACH))
        return -1;
    memcpy(&f->dst, dst, dst->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(f->dst));
    if (vf.cm == VF_CM_NO_ROUTE || vf.cm == VF_CM_NO_NEIGHBOUR)
        tell(f, RDMA_CM_EVENT_ADDR_ERROR, vf.cm == VF_CM_NO_ROUTE ? -ENETUNREACH : -ETIMEDOUT, NULL,
             NULL, 0);
    else if (vf.cm != VF_CM_SILENT_ADDRESS)
        tell(f, RDMA_CM_EVENT_ADDR_RESOLVED, 0, NULL, NULL, 0);
    sit_on(f, vf.cm == VF_CM_OTHER_DEVICE ? 1 - device_of(src) : device_of(src));
    return 0;
}

int rdma_resolve_route(struct rdma_cm_id *id, int timeout_ms)
{
    if (timeout_ms <= 0)
        abort();
    if (vf_fails(0, EINVAL))
        return -1;
    if (vf.cm == VF_CM_NO_PATH)
        tell(of(id), RDMA_CM_EVENT_ROUTE_ERROR, -ETIMEDOUT, NULL, NULL, 0);
    else if (vf.cm != VF_CM_SILENT_ROUTE)
        tell(of(id), RDMA_CM_EVENT_ROUTE_RESOLVED, 0, NULL, NULL, 0);
    return 0;
}

static struct fake_id *listener_of(const struct fake_id *f)
{
    const struct sockaddr *dst = (const struct sockaddr *)(const void *)&f->dst;

    for (uint32_t i = 0; i < IDS; ++i)
        if (ids[i] != NULL && ids[i]->listening && ids[i]->port == port_of(dst) &&
            ids[i]->base.verbs->device == vf_device(device_of(dst)))
            return ids[i];
    return NULL;
}

int rdma_connect(struct rdma_cm_id *id, struct rdma_conn_param *param)
{
    struct fake_id *f = of(id), *l = listener_of(f), *got;

    if (vf_fails(0, EINVAL))
        return -1;
    if (param->private_data_len > 56 || param->srq != 1 || param->qp_num == 0)
        abort(); /* RC has no more */
    f->qpn = param->qp_num;
    if (vf.cm == VF_CM_UNREACHABLE) {
        tell(f, RDMA_CM_EVENT_UNREACHABLE, -ETIMEDOUT, NULL, NULL, 0);
    } else if (l == NULL || vf.cm == VF_CM_NOBODY) {
        tell(f, RDMA_CM_EVENT_REJECTED, 8, NULL, NULL, 0);
    } else if (vf.cm != VF_CM_SILENT_CONNECT && vf.cm_nowhere == 0) {
        uint8_t data[56] = {0};

        memcpy(data, param->private_data, param->private_data_len);
        data[0] ^= vf.cm == VF_CM_WRONG_MAGIC;
        data[4] ^= vf.cm == VF_CM_WRONG_VERSION;
        data[6] = vf.cm == VF_CM_WRONG_PATH ? 200 : data[6];
        data[8] ^= vf.cm == VF_CM_WRONG_TICKET;
        got = make_id(l->base.channel, l->base.context);
        sit_on(got, vf.cm == VF_CM_ARRIVES_ELSEWHERE ? 1 - device_of((void *)&f->dst)
                                                     : device_of((void *)&f->dst));
        got->peer = f;
        f->peer = got;
        tell(got, RDMA_CM_EVENT_CONNECT_REQUEST, 0, l, data, sizeof(data));
    }
    return 0;
}

int rdma_accept(struct rdma_cm_id *id, struct rdma_conn_param *param)
{
    struct fake_id *f = of(id);

    if (vf_fails(0, EINVAL))
        return -1;
    f->qpn = param->qp_num;
    f->connected = true;
    ++vf.cm_joins;
    if (f->peer != NULL)
        tell(f->peer, RDMA_CM_EVENT_CONNECT_RESPONSE, 0, NULL, NULL, 0);
    return 0;
}

int rdma_reject(struct rdma_cm_id *id, const void *data, uint8_t bytes)
{
    struct fake_id *f = of(id);

    if (f->peer != NULL)
        tell(f->peer, RDMA_CM_EVENT_REJECTED, 28, NULL, data, bytes);
    return 0;
}

int rdma_establish(struct rdma_cm_id *id)
{
    struct fake_id *f = of(id);

    if (vf_fails(0, EINVAL))
        return -1;
    f->connected = true;
    ++vf.cm_establishes;
    if (f->peer != NULL)
        tell(f->peer, RDMA_CM_EVENT_ESTABLISHED, 0, NULL, NULL, 0);
    return 0;
}

int rdma_init_qp_attr(struct rdma_cm_id *id, struct ibv_qp_attr *attr, int *mask)
{
    const struct fake_id *f = of(id);

    if (vf_fails(0, EINVAL))
        return -1;
    *mask = IBV_QP_STATE;
    if (attr->qp_state == IBV_QPS_INIT)
        *mask |= IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS;
    if (attr->qp_state == IBV_QPS_RTR) {
        *mask |= IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN;
        attr->path_mtu = IBV_MTU_4096;
        attr->dest_qp_num = f->peer != NULL ? f->peer->qpn : 0;
    }
    if (attr->qp_state == IBV_QPS_RTS) {
        *mask |= IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN;
        attr->timeout = 19; /* 2 s */
        attr->retry_cnt = 7;
    }
    return 0;
}

int rdma_get_cm_event(struct rdma_event_channel *ch, struct rdma_cm_event **ev)
{
    uint64_t one;

    while (queue_head != queue_tail && !queue[queue_head % EVENTS].used)
        ++queue_head;
    for (uint32_t i = queue_head; i != queue_tail; ++i) {
        struct queued *q = &queue[i % EVENTS];
        struct queued *out;

        if (!q->used || q->ev.id->channel != ch)
            continue;
        if (read(ch->fd, &one, sizeof(one)) != (ssize_t)sizeof(one))
            abort();
        out = vf_made(sizeof(*out));
        *out = *q;
        q->used = false;
        if (out->ev.param.conn.private_data != NULL)
            out->ev.param.conn.private_data = out->data;
        ++of(out->ev.id)->unacked;
        *ev = &out->ev;
        return 0;
    }
    errno = EAGAIN;
    return -1;
}

int rdma_ack_cm_event(struct rdma_cm_event *ev)
{
    --of(ev->id)->unacked;
    vf_unmade(ev);
    return 0;
}

/* --- faults ----------------------------------------------------------------------------------- */

/* rdma_cm's word that a device goes, to every identifier on it. */
void vf_cm_remove(uint32_t device)
{
    for (uint32_t i = 0; i < IDS; ++i)
        if (ids[i] != NULL && ids[i]->base.verbs != NULL && ids[i]->on.device == vf_device(device))
            tell(ids[i], RDMA_CM_EVENT_DEVICE_REMOVAL, 0, NULL, NULL, 0);
}
