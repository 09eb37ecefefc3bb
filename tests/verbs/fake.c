/* SPDX-License-Identifier: Apache-2.0 */
/* The pretended fabric; fake.h says what it does. */
#include "fake.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#undef ibv_reg_mr
#undef ibv_query_port
#undef ibv_get_device_list

#define QPS     64
#define MRS     512
#define SRQ_MAX 8192
#define CQ_MAX  32768
#define SQ_MAX  192

struct fake_ctx {
    struct ibv_context base;
    uint32_t device;
    int async_in;
};

struct fake_channel {
    struct ibv_comp_channel base;
    int in;
};

struct fake_cq {
    struct ibv_cq base;
    struct ibv_wc wc[CQ_MAX];
    uint32_t head, count;
    bool armed, solicited_only;
};

struct fake_srq {
    struct ibv_srq base;
    uint64_t wr_id[SRQ_MAX];
    struct ibv_sge sge[SRQ_MAX];
    uint32_t head, count;
};

struct fake_mr {
    struct ibv_mr base;
    uint8_t *host;
    uint64_t iova;
    int access;
};

struct fake_wr {
    struct ibv_send_wr wr;
    struct ibv_sge sge[4];
    uint8_t inlined[64];
};

struct fake_qp {
    struct ibv_qp base;
    uint32_t device;
    uint32_t dest;
    struct fake_wr sq[SQ_MAX];
    uint32_t head, count;
};

struct vf vf;
static struct ibv_device devices[VF_DEVICES];
static struct fake_qp *qps[QPS];
static struct fake_mr *mrs[MRS];
static uint32_t next_qpn = 17, next_key = 0x100;

uint32_t vf_random(void)
{
    vf.random = vf.random * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(vf.random >> 33);
}

void vf_reset(uint64_t seed)
{
    const struct vf was = vf;

    vf = (struct vf){.live = was.live, .qps = was.qps, .mrs = was.mrs, .mws = was.mws};
    vf.dmabufs = was.dmabufs;
    vf.devices = VF_DEVICES;
    vf.random = seed * 2654435761u + 1;
    vf.mtu[0] = vf.mtu[1] = IBV_MTU_4096;
    vf.inline_max = 64;
}

uint32_t vf_device_of(const struct ibv_context *c)
{
    return ((const struct fake_ctx *)(const void *)c)->device;
}

/* Whether this call is the one to fail. */
bool vf_fails(uint32_t device, int error)
{
    errno = error;
    if (++vf.steps == vf.fail_at)
        return true;
    errno = EIO;
    return vf.gone[device];
}

void *vf_made(size_t bytes)
{
    ++vf.live;
    return calloc(1, bytes);
}

void vf_unmade(void *p)
{
    --vf.live;
    free(p);
}

struct ibv_device *vf_device(uint32_t n)
{
    return &devices[n];
}

/* --- completions ---------------------------------------------------------------------------- */

static void complete(struct ibv_cq *cq, const struct ibv_wc *wc, bool solicited)
{
    struct fake_cq *q = (struct fake_cq *)(void *)cq;

    if (q->count == CQ_MAX)
        abort(); /* the transport sized it too small */
    q->wc[(q->head + q->count++) % CQ_MAX] = *wc;
    if (q->armed && (!q->solicited_only || solicited || wc->status != IBV_WC_SUCCESS)) {
        struct fake_channel *ch = (struct fake_channel *)(void *)cq->channel;

        q->armed = false;
        ++vf.events;
        if (write(ch->in, &cq, sizeof(cq)) != (ssize_t)sizeof(cq))
            abort();
    }
}

static void complete_send(struct fake_qp *q, const struct fake_wr *w, enum ibv_wc_status status)
{
    const struct ibv_wc wc = {.wr_id = w->wr.wr_id,
                              .status = status,
                              .opcode =
                                  w->wr.opcode == IBV_WR_SEND ? IBV_WC_SEND : IBV_WC_RDMA_WRITE,
                              .qp_num = q->base.qp_num};

    if (status != IBV_WC_SUCCESS || (w->wr.send_flags & IBV_SEND_SIGNALED) != 0)
        complete(q->base.send_cq, &wc, false);
}

/* --- the fabric ----------------------------------------------------------------------------- */

static struct fake_qp *qp_numbered(uint32_t qpn)
{
    for (uint32_t i = 0; i < QPS; ++i)
        if (qps[i] != NULL && qps[i]->base.qp_num == qpn)
            return qps[i];
    return NULL;
}

/* Where [address, address + bytes) of m lies; NULL: not in it. */
static uint8_t *inside(const struct fake_mr *m, uint64_t address, uint64_t bytes)
{
    return address >= m->iova && address - m->iova <= m->base.length &&
                   bytes <= m->base.length - (address - m->iova)
               ? m->host + (address - m->iova)
               : NULL;
}

static uint8_t *local(struct ibv_pd *pd, const struct ibv_sge *s)
{
    for (uint32_t i = 0; i < MRS; ++i)
        if (mrs[i] != NULL && mrs[i]->base.lkey == s->lkey && mrs[i]->base.pd == pd)
            return inside(mrs[i], s->addr, s->length);
    return NULL;
}

static uint8_t *remote(struct ibv_pd *pd, uint64_t address, uint32_t rkey, uint64_t bytes)
{
    for (uint32_t i = 0; i < MRS; ++i)
        if (mrs[i] != NULL && mrs[i]->base.rkey == rkey && mrs[i]->base.pd == pd &&
            (mrs[i]->access & IBV_ACCESS_REMOTE_WRITE) != 0)
            return inside(mrs[i], address, bytes);
    return vf_window(pd, address, rkey, bytes);
}

uint8_t *vf_bindable(const struct ibv_mr *mr, uint64_t address, uint64_t length)
{
    const struct fake_mr *m = (const struct fake_mr *)(const void *)mr;
    const int access = IBV_ACCESS_MW_BIND | IBV_ACCESS_LOCAL_WRITE;
    /* And what windows are for has no key of its own to be written by. */
    return (m->access & (access | IBV_ACCESS_REMOTE_WRITE)) == access ? inside(m, address, length)
                                                                      : NULL;
}

uint32_t vf_key(void)
{
    return next_key += 0x101;
}

static uint32_t bytes_of(const struct fake_wr *w)
{
    uint32_t n = 0;

    for (int i = 0; i < w->wr.num_sge; ++i)
        n += w->sge[i].length;
    return n;
}

/* The bytes of w, one piece after the other. False: memory that isn't registered. */
static bool gather(struct fake_qp *q, const struct fake_wr *w, uint8_t *to)
{
    if ((w->wr.send_flags & IBV_SEND_INLINE) != 0) {
        memcpy(to, w->inlined, bytes_of(w));
        return true;
    }
    for (int i = 0; i < w->wr.num_sge; ++i) {
        const uint8_t *from = local(q->base.pd, &w->sge[i]);

        if (from == NULL)
            return false;
        memcpy(to, from, w->sge[i].length);
        to += w->sge[i].length;
    }
    return true;
}

static void to_error(struct fake_qp *q)
{
    q->base.state = IBV_QPS_ERR;
}

static void access_error(struct fake_qp *d)
{
    struct fake_ctx *c = (struct fake_ctx *)(void *)d->base.context;
    const struct ibv_async_event ev = {.element = {.qp = &d->base},
                                       .event_type = IBV_EVENT_QP_ACCESS_ERR};

    to_error(d);
    if (write(c->async_in, &ev, sizeof(ev)) != (ssize_t)sizeof(ev))
        abort();
}

/* Into the peer's memory. What the sender learns. */
static enum ibv_wc_status carry(struct fake_qp *q, struct fake_qp *d, const struct fake_wr *w)
{
    struct fake_srq *s = (struct fake_srq *)(void *)d->base.srq;
    const uint32_t bytes = bytes_of(w);
    struct ibv_wc wc = {.status = IBV_WC_SUCCESS, .qp_num = d->base.qp_num, .byte_len = bytes};
    struct ibv_sge *into;
    uint8_t *to;

    if (s->count == 0)
        return IBV_WC_RNR_RETRY_EXC_ERR;
    wc.wr_id = s->wr_id[s->head];
    into = &s->sge[s->head];
    if (w->wr.opcode == IBV_WR_SEND) {
        to = local(d->base.pd, into);
        if (to == NULL || bytes > into->length)
            return IBV_WC_REM_INV_REQ_ERR;
        wc.opcode = IBV_WC_RECV;
        ++vf.sends;
    } else {
        to = remote(d->base.pd, w->wr.wr.rdma.remote_addr, w->wr.wr.rdma.rkey, bytes);
        if (to == NULL) {
            access_error(d);
            return IBV_WC_REM_ACCESS_ERR;
        }
        wc.opcode = IBV_WC_RECV_RDMA_WITH_IMM;
        wc.imm_data = w->wr.imm_data;
        wc.wc_flags = IBV_WC_WITH_IMM;
        ++vf.writes;
    }
    if (!gather(q, w, to))
        return IBV_WC_LOC_PROT_ERR;
    s->head = (s->head + 1) % SRQ_MAX;
    --s->count;
    complete(d->base.recv_cq, &wc, (w->wr.send_flags & IBV_SEND_SOLICITED) != 0);
    if (w->wr.opcode != IBV_WR_SEND && s->count > 0 && vf_random() % 65536 < vf.echo_65536) {
        wc.wr_id = s->wr_id[s->head];
        wc.byte_len = 0;
        s->head = (s->head + 1) % SRQ_MAX;
        --s->count;
        complete(d->base.recv_cq, &wc, (w->wr.send_flags & IBV_SEND_SOLICITED) != 0);
    }
    return IBV_WC_SUCCESS;
}

static enum ibv_wc_status any_status(void)
{
    static const enum ibv_wc_status all[] = {
        IBV_WC_RETRY_EXC_ERR, IBV_WC_RNR_RETRY_EXC_ERR, IBV_WC_REM_OP_ERR,
        IBV_WC_WR_FLUSH_ERR,  IBV_WC_FATAL_ERR,         IBV_WC_RESP_TIMEOUT_ERR,
        IBV_WC_REM_ABORT_ERR, IBV_WC_GENERAL_ERR,       IBV_WC_REM_INV_REQ_ERR};

    return vf.status != IBV_WC_SUCCESS ? vf.status
                                       : all[vf_random() % (sizeof(all) / sizeof(*all))];
}

static void move_one(struct fake_qp *q)
{
    struct fake_wr w = q->sq[q->head];
    struct fake_qp *d = qp_numbered(q->dest);
    enum ibv_wc_status status;

    if (q->base.state == IBV_QPS_ERR) {
        status = IBV_WC_WR_FLUSH_ERR;
    } else if (w.wr.opcode == IBV_WR_BIND_MW) {
        status = vf_bind(&w.wr);
    } else if (d == NULL || (d->base.state != IBV_QPS_RTR && d->base.state != IBV_QPS_RTS) ||
               vf.cut[q->device] || vf.cut[d->device] || vf.gone[d->device]) {
        status = IBV_WC_RETRY_EXC_ERR;
    } else if (vf_random() % 65536 < vf.fail_65536) {
        status = any_status();
        ++vf.faults;
    } else {
        status = carry(q, d, &w);
        if (status == IBV_WC_SUCCESS && vf_random() % 65536 < vf.ack_lost_65536) {
            status = any_status();
            ++vf.faults;
        }
    }
    q->head = (q->head + 1) % SQ_MAX;
    --q->count;
    if (status != IBV_WC_SUCCESS)
        to_error(q);
    complete_send(q, &w, status);
}

static void move(void)
{
    uint32_t n = vf.burst != 0 ? vf.burst : 64;

    for (uint32_t tries = 0; tries < 4 * QPS && n > 0 && !vf.stuck; ++tries) {
        struct fake_qp *q = qps[vf_random() % QPS];

        if (q == NULL || q->count == 0 || vf.gone[q->device] || q->base.state < IBV_QPS_RTS)
            continue;
        move_one(q);
        --n;
    }
}

static int fake_poll_cq(struct ibv_cq *cq, int n, struct ibv_wc *wc)
{
    struct fake_cq *q = (struct fake_cq *)(void *)cq;
    int i;

    move();
    for (i = 0; i < n && q->count > 0; ++i) {
        wc[i] = q->wc[q->head];
        q->head = (q->head + 1) % CQ_MAX;
        --q->count;
    }
    return i;
}

static int fake_req_notify(struct ibv_cq *cq, int solicited)
{
    ((struct fake_cq *)(void *)cq)->armed = true;
    ((struct fake_cq *)(void *)cq)->solicited_only = solicited != 0;
    return 0;
}

static int fake_post_srq(struct ibv_srq *srq, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad)
{
    struct fake_srq *s = (struct fake_srq *)(void *)srq;

    for (; wr != NULL; wr = wr->next) {
        if (s->count == SRQ_MAX) {
            *bad = wr;
            return errno = ENOMEM;
        }
        s->wr_id[(s->head + s->count) % SRQ_MAX] = wr->wr_id;
        s->sge[(s->head + s->count++) % SRQ_MAX] = wr->sg_list[0];
    }
    return 0;
}

static int fake_post_send(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad)
{
    struct fake_qp *q = (struct fake_qp *)(void *)qp;

    for (; wr != NULL; wr = wr->next) {
        struct fake_wr *w = &q->sq[(q->head + q->count) % SQ_MAX];
        uint8_t *to = w->inlined;

        if (q->count == SQ_MAX || wr->num_sge > 4 || vf.gone[q->device]) {
            *bad = wr;
            return errno = ENOMEM;
        }
        w->wr = *wr;
        memset(w->sge, 0, sizeof(w->sge));
        for (int i = 0; i < wr->num_sge; ++i) {
            w->sge[i] = wr->sg_list[i];
            if ((wr->send_flags & IBV_SEND_INLINE) == 0)
                continue;
            if (to + w->sge[i].length > w->inlined + vf.inline_max) {
                *bad = wr;
                return errno = EINVAL;
            }
            memcpy(to, (void *)(uintptr_t)w->sge[i].addr, w->sge[i].length);
            to += w->sge[i].length;
        }
        ++q->count;
    }
    return 0;
}

enum ibv_wc_status vf_write_raw(uint32_t device, uint64_t address, uint32_t rkey, uint32_t bytes)
{
    enum ibv_wc_status status = IBV_WC_GENERAL_ERR;

    for (uint32_t i = 0; i < QPS; ++i) {
        if (qps[i] == NULL || qps[i]->device != device || qps[i]->base.state != IBV_QPS_RTS)
            continue;
        if (remote(qps[i]->base.pd, address, rkey, bytes) != NULL)
            return IBV_WC_SUCCESS;
        status = IBV_WC_REM_ACCESS_ERR;
    }
    return status;
}

/* --- devices -------------------------------------------------------------------------------- */

struct ibv_device **ibv_get_device_list(int *count)
{
    struct ibv_device **list;

    if (vf_fails(0, ENOSYS) && !vf.gone[0])
        return NULL;
    list = vf_made((VF_DEVICES + 1) * sizeof(*list));
    *count = 0;
    for (uint32_t i = 0; i < vf.devices; ++i) {
        memcpy(devices[i].name, i == 0 ? "fake0" : "fake1", 6);
        devices[i].node_type = IBV_NODE_CA;
        devices[i].transport_type = IBV_TRANSPORT_IB;
        if (!vf.gone[i])
            list[(*count)++] = &devices[i];
    }
    return list;
}

void ibv_free_device_list(struct ibv_device **list)
{
    vf_unmade(list);
}

struct ibv_context *ibv_open_device(struct ibv_device *device)
{
    const uint32_t n = (uint32_t)(device - devices);
    struct fake_ctx *c;
    int fd[2];

    if (vf_fails(n, EACCES))
        return NULL;
    c = vf_made(sizeof(*c));
    c->base.device = device;
    c->device = n;
    if (pipe2(fd, O_CLOEXEC) != 0)
        abort();
    c->base.async_fd = fd[0];
    c->async_in = fd[1];
    c->base.ops.poll_cq = fake_poll_cq;
    c->base.ops.req_notify_cq = fake_req_notify;
    c->base.ops.post_srq_recv = fake_post_srq;
    c->base.ops.post_send = fake_post_send;
    vf_window_ops(&c->base);
    return &c->base;
}

int ibv_close_device(struct ibv_context *context)
{
    struct fake_ctx *c = (struct fake_ctx *)(void *)context;

    close(c->base.async_fd);
    close(c->async_in);
    vf_unmade(c);
    return 0;
}

/* fe80::1 as RoCE v1 and v2, then 127.0.0.x as v1 and v2: the usual table of a RoCE card. */
ssize_t _ibv_query_gid_table(struct ibv_context *context, struct ibv_gid_entry *entries, size_t max,
                             uint32_t flags, size_t entry_size)
{
    const uint32_t n = vf_device_of(context);

    (void)flags;
    if (vf_fails(n, EIO) || entry_size != sizeof(*entries))
        return -errno;
    for (uint32_t i = 0; i < 4 && i < max; ++i) {
        entries[i] = (struct ibv_gid_entry){.gid_index = i,
                                            .port_num = 1,
                                            .gid_type = i % 2 == 0 ? IBV_GID_TYPE_ROCE_V1
                                                                   : IBV_GID_TYPE_ROCE_V2};
        if (i < 2) {
            entries[i].gid.raw[0] = 0xfe;
            entries[i].gid.raw[1] = 0x80;
            entries[i].gid.raw[15] = (uint8_t)(n + 1);
        } else {
            entries[i].gid.raw[10] = entries[i].gid.raw[11] = 0xff;
            entries[i].gid.raw[12] = 127;
            entries[i].gid.raw[15] = (uint8_t)(n + 1);
        }
    }
    return max < 4 ? (ssize_t)max : 4;
}

int ibv_query_device(struct ibv_context *context, struct ibv_device_attr *attr)
{
    if (vf_fails(vf_device_of(context), EIO))
        return errno;
    *attr = (struct ibv_device_attr){.max_qp = QPS,
                                     .max_qp_wr = SQ_MAX,
                                     .max_sge = 4,
                                     .device_cap_flags = vf.no_windows ? 0 : IBV_DEVICE_MEM_WINDOW};
    return 0;
}

int ibv_query_port(struct ibv_context *context, uint8_t port, struct _compat_ibv_port_attr *compat)
{
    struct ibv_port_attr *attr = (struct ibv_port_attr *)(void *)compat;
    const uint32_t n = vf_device_of(context);

    (void)port;
    if (vf_fails(n, EIO))
        return errno;
    attr->state = vf.port_down[n] ? IBV_PORT_DOWN : IBV_PORT_ACTIVE;
    attr->active_mtu = vf.mtu[n];
    attr->link_layer = IBV_LINK_LAYER_ETHERNET;
    return 0;
}

/* --- objects -------------------------------------------------------------------------------- */

struct ibv_pd *ibv_alloc_pd(struct ibv_context *context)
{
    struct ibv_pd *pd;

    if (vf_fails(vf_device_of(context), ENOMEM))
        return NULL;
    pd = vf_made(sizeof(*pd));
    pd->context = context;
    return pd;
}

int ibv_dealloc_pd(struct ibv_pd *pd)
{
    vf_unmade(pd);
    return 0;
}

struct ibv_comp_channel *ibv_create_comp_channel(struct ibv_context *context)
{
    struct fake_channel *c;
    int fd[2];

    if (vf_fails(vf_device_of(context), EMFILE))
        return NULL;
    c = vf_made(sizeof(*c));
    if (pipe2(fd, O_CLOEXEC) != 0)
        abort();
    c->base.context = context;
    c->base.fd = fd[0];
    c->in = fd[1];
    return &c->base;
}

int ibv_destroy_comp_channel(struct ibv_comp_channel *channel)
{
    close(channel->fd);
    close(((struct fake_channel *)(void *)channel)->in);
    vf_unmade(channel);
    return 0;
}

struct ibv_cq *ibv_create_cq(struct ibv_context *context, int cqe, void *arg,
                             struct ibv_comp_channel *channel, int vector)
{
    struct fake_cq *q;

    (void)vector;
    if (vf_fails(vf_device_of(context), ENOMEM) || cqe > CQ_MAX)
        return NULL;
    q = vf_made(sizeof(*q));
    q->base = (struct ibv_cq){.context = context, .channel = channel, .cq_context = arg};
    return &q->base;
}

int ibv_destroy_cq(struct ibv_cq *cq)
{
    vf_unmade(cq);
    return 0;
}

int ibv_get_cq_event(struct ibv_comp_channel *channel, struct ibv_cq **cq, void **arg)
{
    if (read(channel->fd, cq, sizeof(*cq)) != (ssize_t)sizeof(*cq))
        return -1;
    *arg = (*cq)->cq_context;
    return 0;
}

void ibv_ack_cq_events(struct ibv_cq *cq, unsigned int n)
{
    (void)cq;
    (void)n;
}

int ibv_get_async_event(struct ibv_context *context, struct ibv_async_event *event)
{
    return read(context->async_fd, event, sizeof(*event)) == (ssize_t)sizeof(*event) ? 0 : -1;
}

void ibv_ack_async_event(struct ibv_async_event *event)
{
    (void)event;
}

struct ibv_srq *ibv_create_srq(struct ibv_pd *pd, struct ibv_srq_init_attr *attr)
{
    struct fake_srq *s;

    if (vf_fails(vf_device_of(pd->context), ENOMEM) || attr->attr.max_wr > SRQ_MAX)
        return NULL;
    s = vf_made(sizeof(*s));
    s->base = (struct ibv_srq){.context = pd->context, .pd = pd};
    return &s->base;
}

int ibv_destroy_srq(struct ibv_srq *srq)
{
    vf_unmade(srq);
    return 0;
}

static struct ibv_mr *make_mr(struct ibv_pd *pd, void *host, size_t length, uint64_t iova,
                              int access)
{
    for (uint32_t i = 0; i < MRS; ++i) {
        struct fake_mr *m;

        if (mrs[i] != NULL)
            continue;
        m = mrs[i] = vf_made(sizeof(*m));
        ++vf.mrs;
        m->base = (struct ibv_mr){.context = pd->context, .pd = pd, .addr = host, .length = length};
        m->base.lkey = vf_key();
        m->base.rkey = (access & IBV_ACCESS_REMOTE_WRITE) != 0 ? m->base.lkey : 0;
        m->host = host;
        m->iova = iova;
        m->access = access;
        return &m->base;
    }
    errno = ENOMEM;
    return NULL;
}

static bool is_vram(const void *p)
{
    return vf.vram != NULL && (const uint8_t *)p >= vf.vram &&
           (const uint8_t *)p < vf.vram + vf.vram_bytes;
}

struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova,
                                unsigned int access)
{
    if (vf_fails(vf_device_of(pd->context), ENOMEM))
        return NULL;
    errno = is_vram(addr) ? vf.peermem_error : vf.register_error;
    return errno != 0 ? NULL : make_mr(pd, addr, length, iova, (int)access);
}

struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *addr, size_t length, int access)
{
    return ibv_reg_mr_iova2(pd, addr, length, (uintptr_t)addr, (unsigned)access);
}

struct ibv_mr *ibv_reg_dmabuf_mr(struct ibv_pd *pd, uint64_t offset, size_t length, uint64_t iova,
                                 int fd, int access)
{
    uint8_t *const host =
        vf_fails(vf_device_of(pd->context), EOPNOTSUPP) ? NULL : vf_dmabuf(fd, offset, length);

    return host == NULL ? NULL : make_mr(pd, host, length, iova, access);
}

int ibv_dereg_mr(struct ibv_mr *mr)
{
    if (vf_windows_of(mr) > 0)
        return EINVAL;
    for (uint32_t i = 0; i < MRS; ++i)
        if (mrs[i] != NULL && &mrs[i]->base == mr)
            mrs[i] = NULL;
    --vf.mrs;
    vf_dmabuf_gone(mr->addr);
    vf_unmade(mr);
    return 0;
}

struct ibv_qp *ibv_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *init)
{
    const uint32_t n = vf_device_of(pd->context);

    if (vf_fails(n, ENOMEM))
        return NULL;
    if (init->cap.max_inline_data > vf.inline_max || init->cap.max_send_wr > SQ_MAX) {
        errno = EINVAL;
        return NULL;
    }
    init->cap.max_inline_data = vf.inline_max;
    for (uint32_t i = 0; i < QPS; ++i) {
        struct fake_qp *q;

        if (qps[i] != NULL)
            continue;
        q = qps[i] = vf_made(sizeof(*q));
        ++vf.qps;
        q->device = n;
        q->base.context = pd->context;
        q->base.pd = pd;
        q->base.send_cq = init->send_cq;
        q->base.recv_cq = init->recv_cq;
        q->base.srq = init->srq;
        q->base.qp_num = next_qpn++;
        q->base.state = IBV_QPS_RESET;
        return &q->base;
    }
    errno = ENOMEM;
    return NULL;
}

int ibv_modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask)
{
    struct fake_qp *q = (struct fake_qp *)(void *)qp;

    if (attr->qp_state == IBV_QPS_ERR) {
        to_error(q);
        return vf.gone[q->device] ? EIO : 0;
    }
    if (vf_fails(q->device, ENETUNREACH))
        return errno;
    if ((mask & IBV_QP_DEST_QPN) != 0)
        q->dest = attr->dest_qp_num;
    if ((mask & IBV_QP_PATH_MTU) != 0 && attr->path_mtu > vf.path_mtu)
        vf.path_mtu = attr->path_mtu;
    vf.timeout = (mask & IBV_QP_TIMEOUT) != 0 ? attr->timeout : vf.timeout;
    vf.retry_cnt = (mask & IBV_QP_RETRY_CNT) != 0 ? attr->retry_cnt : vf.retry_cnt;
    q->base.state = attr->qp_state;
    return 0;
}

int ibv_destroy_qp(struct ibv_qp *qp)
{
    for (uint32_t i = 0; i < QPS; ++i)
        if (qps[i] != NULL && &qps[i]->base == qp)
            qps[i] = NULL;
    --vf.qps;
    vf_unmade(qp); /* its completions stay in the queue, as rxe's do */
    return 0;
}

/* --- faults --------------------------------------------------------------------------------- */

/* To every context of the device: they are found by their queue pairs. */
void vf_async(uint32_t device, enum ibv_event_type type)
{
    struct ibv_context *told[QPS];
    uint32_t count = 0;

    for (uint32_t i = 0; i < QPS; ++i) {
        const struct ibv_async_event ev = {.event_type = type};
        bool again = false;

        if (qps[i] == NULL || qps[i]->device != device)
            continue;
        for (uint32_t k = 0; k < count; ++k)
            again |= told[k] == qps[i]->base.context;
        if (again)
            continue;
        told[count++] = qps[i]->base.context;
        if (write(((struct fake_ctx *)(void *)qps[i]->base.context)->async_in, &ev, sizeof(ev)) !=
            (ssize_t)sizeof(ev))
            abort();
    }
}

void vf_remove(uint32_t device)
{
    vf_async(device, IBV_EVENT_DEVICE_FATAL);
    vf.gone[device] = true;
}
