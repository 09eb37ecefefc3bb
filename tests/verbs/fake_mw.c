/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory windows of type 1 on the pretended fabric, and dma-bufs. A key is good from the moment
 * that its bind is carried out until the window is deallocated, and for what it was bound to.
 */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fake.h"

#define MWS     256
#define DMABUFS 16

/* base.rkey is what the caller was told, rkey what the device knows. */
struct fake_mw {
    struct ibv_mw base;
    const struct ibv_mr *mr; /* NULL: not bound */
    uint8_t *host;
    uint32_t rkey;
    uint64_t address, length;
};

static struct fake_mw *mws[MWS];

uint8_t *vf_window(struct ibv_pd *pd, uint64_t address, uint32_t rkey, uint64_t bytes)
{
    for (uint32_t i = 0; i < MWS; ++i) {
        const struct fake_mw *w = mws[i];

        if (w != NULL && w->mr != NULL && w->rkey == rkey && w->base.pd == pd &&
            address >= w->address && address - w->address <= w->length &&
            bytes <= w->length - (address - w->address))
            return w->host + (address - w->address);
    }
    return NULL;
}

uint32_t vf_window_key(uint32_t device, uint64_t address)
{
    for (uint32_t i = 0; i < MWS; ++i)
        if (mws[i] != NULL && mws[i]->mr != NULL && mws[i]->address == address &&
            vf_device_of(mws[i]->base.context) == device)
            return mws[i]->rkey;
    return 0;
}

int vf_windows_of(const struct ibv_mr *mr)
{
    int n = 0;

    for (uint32_t i = 0; i < MWS; ++i)
        n += mws[i] != NULL && mws[i]->mr == mr;
    return n;
}

enum ibv_wc_status vf_bind(const struct ibv_send_wr *wr)
{
    const struct ibv_mw_bind_info *info = &wr->bind_mw.bind_info;
    struct fake_mw *w = NULL;

    for (uint32_t i = 0; i < MWS; ++i)
        if (mws[i] != NULL && &mws[i]->base == wr->bind_mw.mw)
            w = mws[i];
    if (w == NULL || vf_random() % 65536 < vf.bind_65536)
        return IBV_WC_MW_BIND_ERR;
    w->host = vf_bindable(info->mr, info->addr, info->length);
    if (w->host == NULL)
        return IBV_WC_MW_BIND_ERR;
    w->mr = info->mr;
    w->address = info->addr;
    w->length = info->length;
    w->rkey = wr->bind_mw.rkey;
    ++vf.binds;
    return IBV_WC_SUCCESS;
}

static struct ibv_mw *alloc_mw(struct ibv_pd *pd, enum ibv_mw_type type)
{
    if (vf_fails(vf_device_of(pd->context), ENOMEM))
        return NULL;
    for (uint32_t i = 0; i < MWS; ++i) {
        if (mws[i] != NULL)
            continue;
        mws[i] = vf_made(sizeof(*mws[i]));
        ++vf.mws;
        mws[i]->base.context = pd->context;
        mws[i]->base.pd = pd;
        mws[i]->base.type = type;
        mws[i]->base.rkey = mws[i]->rkey = vf_key() | 0x80000000u;
        return &mws[i]->base;
    }
    errno = ENOMEM;
    return NULL;
}

static int dealloc_mw(struct ibv_mw *mw)
{
    for (uint32_t i = 0; i < MWS; ++i)
        if (mws[i] != NULL && &mws[i]->base == mw)
            mws[i] = NULL;
    --vf.mws;
    vf_unmade(mw);
    return 0;
}

static int bind_mw(struct ibv_qp *qp, struct ibv_mw *mw, struct ibv_mw_bind *bind)
{
    struct ibv_send_wr *bad,
        wr = {.wr_id = bind->wr_id,
              .opcode = IBV_WR_BIND_MW,
              .send_flags = bind->send_flags,
              .bind_mw = {.mw = mw, .rkey = ibv_inc_rkey(mw->rkey), .bind_info = bind->bind_info}};
    int error;

    if (vf_fails(vf_device_of(qp->context), ENOMEM))
        return ENOMEM;
    if ((error = ibv_post_send(qp, &wr, &bad)) != 0)
        return error;
    mw->rkey = wr.bind_mw.rkey;
    return 0;
}

void vf_window_ops(struct ibv_context *c)
{
    c->ops.alloc_mw = alloc_mw;
    c->ops.dealloc_mw = dealloc_mw;
    c->ops.bind_mw = bind_mw;
}

/* ---- dma-bufs -------------------------------------------------------------------------------- */

static struct {
    uint8_t *base, *host;
    size_t bytes;
} dmabufs[DMABUFS];

uint8_t *vf_dmabuf(int fd, uint64_t offset, size_t length)
{
    const uint64_t first = offset & ~((uint64_t)sysconf(_SC_PAGESIZE) - 1);

    errno = vf.dmabuf_refused != 0 && fd == vf.dmabuf_refused ? ENOTSUP : vf.dmabuf_error;
    if (errno != 0)
        return NULL;
    if (vf.vram != NULL)
        return vf.vram + offset;
    for (uint32_t i = 0; i < DMABUFS; ++i) {
        void *base;

        if (dmabufs[i].base != NULL)
            continue;
        base = mmap(NULL, length + (offset - first), PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                    (off_t)first);
        if (base == MAP_FAILED)
            return NULL;
        dmabufs[i].base = base;
        dmabufs[i].host = dmabufs[i].base + (offset - first);
        dmabufs[i].bytes = length + (offset - first);
        ++vf.dmabufs;
        return dmabufs[i].host;
    }
    errno = ENOMEM;
    return NULL;
}

void vf_dmabuf_gone(const void *host)
{
    for (uint32_t i = 0; i < DMABUFS; ++i)
        if (dmabufs[i].base != NULL && dmabufs[i].host == host) {
            munmap(dmabufs[i].base, dmabufs[i].bytes);
            dmabufs[i].base = NULL;
            --vf.dmabufs;
            return;
        }
}
