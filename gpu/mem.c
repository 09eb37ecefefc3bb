/* SPDX-License-Identifier: Apache-2.0 */
/* mem.c - pools in VRAM, their rung on the ladder, and the pinned arena. */
#include "mem.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static kvg_devptr address(const void *p)
{
    return (kvg_devptr)(uintptr_t)p;
}

static kvw_err fail(const struct kvg_device *dev, const char *what, uint64_t bytes, kvg_result r,
                    char *text, size_t text_bytes)
{
    snprintf(text, text_bytes, "CUDA: GPU %d: %s (%llu bytes): %s", dev->ordinal, what,
             (unsigned long long)bytes, kvg_driver_error(dev->driver, r));
    return kvg_driver_code(r);
}

/* ---- what a transport may ask ---------------------------------------------------------------- */

static kvw_err copy(const struct kvg_pool *pool, kvg_devptr to, kvg_devptr from, uint64_t bytes)
{
    const struct kvg_driver *d = pool->dev->driver;
    kvw_err err = kvg_device_enter(pool->dev);
    kvg_result r;

    if (err != KVW_OK)
        return err;
    if ((r = d->copy(to, from, bytes, pool->stream)) != KVG_CU_SUCCESS ||
        (r = d->stream_synchronize(pool->stream)) != KVG_CU_SUCCESS)
        return kvg_driver_code(r);
    return KVW_OK;
}

static kvw_err copy_in(void *arg, void *device, const void *host, uint64_t bytes)
{
    return copy(arg, address(device), address(host), bytes);
}

static kvw_err copy_out(void *arg, void *host, const void *device, uint64_t bytes)
{
    return copy(arg, address(host), address(device), bytes);
}

static kvw_err flush(void *arg)
{
    const struct kvg_pool *pool = arg;
    const kvw_err err = kvg_device_enter(pool->dev);
    kvg_result r;

    if (err != KVW_OK)
        return err;
    r = pool->dev->driver->flush_rdma_writes(KVG_CU_FLUSH_TARGET_CURRENT, KVG_CU_FLUSH_TO_OWNER);
    return r == KVG_CU_SUCCESS ? KVW_OK : kvg_driver_code(r);
}

/* ---- the ladder ------------------------------------------------------------------------------ */

/* The driver wants whole pages of the host, which can be larger than 4 KiB. */
static kvg_result dmabuf(const struct kvg_device *dev, const void *base, uint64_t bytes,
                         unsigned flags, struct kvw_dmabuf *to)
{
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), in_page = address(base) % page;

    to->offset = in_page;
    return dev->driver->mem_range_handle(&to->fd, address(base) - in_page,
                                         (in_page + bytes + page - 1) / page * page,
                                         KVG_CU_RANGE_DMABUF_FD, flags);
}

kvw_err kvg_dmabuf_export(const struct kvg_device *dev, const void *base, uint64_t bytes, int *fd,
                          uint64_t *offset)
{
    struct kvw_dmabuf exported = {.fd = -1};
    kvw_err err;
    kvg_result r;

    if (bytes == 0)
        return KVW_E_INVALID;
    if (!dev->has_dmabuf)
        return KVW_E_UNSUPPORTED;
    if ((err = kvg_device_enter(dev)) != KVW_OK)
        return err;
    if ((r = dmabuf(dev, base, bytes, 0, &exported)) != KVG_CU_SUCCESS)
        return kvg_driver_code(r);
    *fd = exported.fd;
    *offset = exported.offset;
    return KVW_OK;
}

/* The descriptors to try, best first. How the first one failed; SUCCESS: there is one at least. */
static kvg_result take_dmabufs(struct kvg_pool *pool)
{
    const struct kvg_device *dev = pool->dev;
    struct kvw_mem *mem = &pool->mem;
    struct kvw_dmabuf plain = {.fd = -1};
    const kvg_result r = dmabuf(dev, mem->base, mem->bytes, 0, &plain);

    pool->pcie = (struct kvw_dmabuf){.fd = -1};
    if (dev->driver->version >= KVG_DRIVER_VERSION_PCIE &&
        dmabuf(dev, mem->base, mem->bytes, KVG_CU_RANGE_PCIE, &pool->pcie) != KVG_CU_SUCCESS)
        pool->pcie.fd = -1;
    if (r != KVG_CU_SUCCESS && pool->pcie.fd >= 0) { /* the only one is the first */
        plain = pool->pcie;
        pool->pcie.fd = -1;
    } else if (r != KVG_CU_SUCCESS) {
        return r;
    }
    mem->dmabuf_fd = plain.fd;
    mem->dmabuf_offset = plain.offset;
    snprintf(pool->ladder, sizeof(pool->ladder), "GPU %d: dma-buf%s", dev->ordinal,
             r != KVG_CU_SUCCESS  ? " through PCIe"
             : pool->pcie.fd >= 0 ? ", or one through PCIe"
                                  : "");
    return KVG_CU_SUCCESS;
}

/* Choose the rung. No failure here is one of the pool: it goes a rung down, and says why. */
static void climb(struct kvg_pool *pool)
{
    const struct kvg_device *dev = pool->dev;
    const struct kvg_driver *d = dev->driver;
    const char *no_dmabuf = "the device has none";
    kvg_result r;
    int granted = 0;

    pool->rung = KVG_RUNG_PINNED;
    if (dev->needs_flush && !dev->can_flush) {
        snprintf(pool->ladder, sizeof(pool->ladder),
                 "GPU %d: pinned host memory (a NIC's writes aren't ordered, and the driver can't "
                 "flush them)",
                 dev->ordinal);
        return;
    }
    if (dev->has_dmabuf) {
        if ((r = take_dmabufs(pool)) == KVG_CU_SUCCESS) {
            pool->rung = KVG_RUNG_DMABUF;
            return;
        }
        no_dmabuf = kvg_driver_error(d, r);
    }
    r = d->pointer_attribute(&granted, KVG_CU_POINTER_IS_RDMA_CAPABLE, address(pool->mem.base));
    if (r == KVG_CU_SUCCESS && granted != 0) {
        pool->rung = KVG_RUNG_PEERMEM;
        snprintf(pool->ladder, sizeof(pool->ladder), "GPU %d: nvidia-peermem (no dma-buf: %s)",
                 dev->ordinal, no_dmabuf);
        return;
    }
    snprintf(pool->ladder, sizeof(pool->ladder),
             "GPU %d: pinned host memory (no dma-buf: %s; no nvidia-peermem: gpuDirectRDMACapable "
             "wasn't granted)",
             dev->ordinal, no_dmabuf);
}

/* ---- pools ----------------------------------------------------------------------------------- */

static struct kvg_mem_prop properties(const struct kvg_device *dev)
{
    return (struct kvg_mem_prop){
        .type = KVG_CU_ALLOCATION_PINNED,
        .handle_types = KVG_CU_HANDLE_POSIX_FD,
        .location = {KVG_CU_LOCATION_DEVICE, dev->id},
        .rdma_capable = dev->has_rdma,
    };
}

/* Map pool->handle, of mapped_bytes, for kernels of the device. */
static kvg_result map(struct kvg_pool *pool)
{
    const struct kvg_driver *d = pool->dev->driver;
    const struct kvg_mem_access access = {{KVG_CU_LOCATION_DEVICE, pool->dev->id},
                                          KVG_CU_ACCESS_READWRITE};
    kvg_devptr at = 0;
    kvg_result r;

    if ((r = d->mem_reserve(&at, pool->mapped_bytes, 0, 0, 0)) != KVG_CU_SUCCESS)
        return r;
    if ((r = d->mem_map(at, pool->mapped_bytes, 0, pool->handle, 0)) != KVG_CU_SUCCESS)
        goto unreserve;
    if ((r = d->mem_set_access(at, pool->mapped_bytes, &access, 1)) != KVG_CU_SUCCESS)
        goto unmap;
    pool->mem.base = (void *)(uintptr_t)at;
    return KVG_CU_SUCCESS;

unmap:
    (void)d->mem_unmap(at, pool->mapped_bytes);
unreserve:
    (void)d->mem_unreserve(at, pool->mapped_bytes);
    return r;
}

static void unmap(struct kvg_pool *pool)
{
    const struct kvg_driver *d = pool->dev->driver;

    (void)d->mem_unmap(address(pool->mem.base), pool->mapped_bytes);
    (void)d->mem_unreserve(address(pool->mem.base), pool->mapped_bytes);
}

/* Before there is a handle: the fields that say how much, and of what. */
static kvw_err prepare(struct kvg_pool *pool, const struct kvg_device *dev, uint64_t bytes,
                       char *text, size_t text_bytes)
{
    const struct kvg_mem_prop prop = properties(dev);
    size_t granule = 0;
    kvw_err err;
    kvg_result r;

    memset(pool, 0, sizeof(*pool));
    pool->dev = dev;
    if (bytes == 0) {
        snprintf(text, text_bytes, "CUDA: GPU %d: a pool of 0 bytes", dev->ordinal);
        return KVW_E_INVALID;
    }
    if ((err = kvg_device_enter(dev)) != KVW_OK) {
        snprintf(text, text_bytes, "CUDA: GPU %d: its context can't be entered", dev->ordinal);
        return err;
    }
    r = dev->driver->mem_granularity(&granule, &prop, KVG_CU_GRANULARITY_MINIMUM);
    if (r != KVG_CU_SUCCESS || granule == 0)
        return fail(dev, "the granularity of device memory", bytes, r, text, text_bytes);
    if (bytes > UINT64_MAX - granule) {
        snprintf(text, text_bytes, "CUDA: GPU %d: a pool of %llu bytes", dev->ordinal,
                 (unsigned long long)bytes);
        return KVW_E_NOMEM;
    }
    pool->mapped_bytes = (bytes + granule - 1) / granule * granule;
    pool->mem = (struct kvw_mem){
        .bytes = bytes, .kind = KVW_MEM_CUDA, .device_id = dev->ordinal, .dmabuf_fd = -1};
    return KVW_OK;
}

/* Mapped: what it is asked for, and the rung. */
static kvw_err equip(struct kvg_pool *pool, char *text, size_t text_bytes)
{
    const kvg_result r =
        pool->dev->driver->stream_create(&pool->stream, KVG_CU_STREAM_NON_BLOCKING, 0);

    if (r != KVG_CU_SUCCESS)
        return fail(pool->dev, "a stream for copies", 0, r, text, text_bytes);
    pool->pcie.fd = -1;
    climb(pool);
    pool->help = (struct kvw_mem_device){
        .copy_in = copy_in,
        .copy_out = copy_out,
        .flush = pool->dev->needs_flush && pool->dev->can_flush ? flush : NULL,
        .arg = pool,
        .dmabufs = &pool->pcie,
        .dmabuf_count = pool->pcie.fd >= 0 ? 1 : 0,
    };
    pool->mem.device = &pool->help;
    return KVW_OK;
}

kvw_err kvg_pool_begin(struct kvg_pool *pool, const struct kvg_device *dev, void *base,
                       uint64_t bytes, char *text, size_t text_bytes)
{
    pool->dev = dev;
    pool->mem = (struct kvw_mem){.base = base,
                                 .bytes = bytes,
                                 .kind = KVW_MEM_CUDA,
                                 .device_id = dev->ordinal,
                                 .dmabuf_fd = -1};
    return equip(pool, text, text_bytes);
}

/* With a handle: map it, and choose the rung. The handle is released on failure. */
static kvw_err finish(struct kvg_pool *pool, char *text, size_t text_bytes)
{
    const kvg_result r = map(pool);
    kvw_err err;

    if (r != KVG_CU_SUCCESS)
        err = fail(pool->dev, "mapping device memory", pool->mapped_bytes, r, text, text_bytes);
    else if ((err = equip(pool, text, text_bytes)) == KVW_OK)
        return KVW_OK;
    else
        unmap(pool);
    (void)pool->dev->driver->mem_release(pool->handle);
    return err;
}

kvw_err kvg_pool_open(struct kvg_pool *pool, const struct kvg_device *dev, uint64_t bytes,
                      char *text, size_t text_bytes)
{
    kvw_err err = prepare(pool, dev, bytes, text, text_bytes);

    if (err == KVW_OK) {
        const struct kvg_mem_prop prop = properties(dev);
        const kvg_result r = dev->driver->mem_create(&pool->handle, pool->mapped_bytes, &prop, 0);

        err = r == KVG_CU_SUCCESS ? finish(pool, text, text_bytes)
                                  : fail(dev, "device memory", bytes, r, text, text_bytes);
    }
    if (err != KVW_OK)
        memset(pool, 0, sizeof(*pool));
    return err;
}

kvw_err kvg_pool_export(const struct kvg_pool *pool, int *fd)
{
    int exported = -1;
    kvw_err err = kvg_device_enter(pool->dev);
    kvg_result r;

    if (err != KVW_OK)
        return err;
    r = pool->dev->driver->mem_export(&exported, pool->handle, KVG_CU_HANDLE_POSIX_FD, 0);
    if (r != KVG_CU_SUCCESS)
        return kvg_driver_code(r);
    *fd = exported;
    return KVW_OK;
}

kvw_err kvg_pool_import(struct kvg_pool *pool, const struct kvg_device *dev, int fd, uint64_t bytes,
                        char *text, size_t text_bytes)
{
    kvw_err err = prepare(pool, dev, bytes, text, text_bytes);

    if (err == KVW_OK) {
        const kvg_result r =
            dev->driver->mem_import(&pool->handle, (void *)(intptr_t)fd, KVG_CU_HANDLE_POSIX_FD);

        err = r == KVG_CU_SUCCESS
                  ? finish(pool, text, text_bytes)
                  : fail(dev, "importing device memory", bytes, r, text, text_bytes);
    }
    if (err != KVW_OK)
        memset(pool, 0, sizeof(*pool));
    return err;
}

void kvg_pool_close(struct kvg_pool *pool)
{
    if (pool->dev == NULL)
        return;
    if (pool->mem.dmabuf_fd >= 0)
        close(pool->mem.dmabuf_fd);
    if (pool->pcie.fd >= 0)
        close(pool->pcie.fd);
    if (kvg_device_enter(pool->dev) == KVW_OK) {
        (void)pool->dev->driver->stream_destroy(pool->stream);
        if (pool->ipc != 0)
            (void)pool->dev->driver->ipc_close(pool->ipc);
        if (pool->handle != 0) {
            unmap(pool);
            (void)pool->dev->driver->mem_release(pool->handle);
        }
    }
    memset(pool, 0, sizeof(*pool));
}

/* ---- the pinned arena ------------------------------------------------------------------------ */

kvw_err kvg_pinned_open(struct kvg_pinned *p, const struct kvg_device *dev, uint64_t bytes,
                        char *text, size_t text_bytes)
{
    void *base = NULL;
    kvw_err err;
    kvg_result r;

    memset(p, 0, sizeof(*p));
    if (bytes == 0) {
        snprintf(text, text_bytes, "CUDA: a pinned arena of 0 bytes");
        return KVW_E_INVALID;
    }
    if ((err = kvg_device_enter(dev)) != KVW_OK) {
        snprintf(text, text_bytes, "CUDA: GPU %d: its context can't be entered", dev->ordinal);
        return err;
    }
    r = dev->driver->host_alloc(&base, bytes, KVG_CU_HOST_PORTABLE | KVG_CU_HOST_MAPPED);
    if (r != KVG_CU_SUCCESS)
        return fail(dev, "pinned host memory", bytes, r, text, text_bytes);
    p->dev = dev;
    p->mem = (struct kvw_mem){.base = base, .bytes = bytes, .kind = KVW_MEM_HOST, .dmabuf_fd = -1};
    return KVW_OK;
}

void kvg_pinned_close(struct kvg_pinned *p)
{
    if (p->dev != NULL && kvg_device_enter(p->dev) == KVW_OK)
        (void)p->dev->driver->host_free(p->mem.base);
    memset(p, 0, sizeof(*p));
}
