/* SPDX-License-Identifier: Apache-2.0 */
/* foreign.c - what the driver says of somebody else's memory, and a pool of it. */
#include "foreign.h"

#include <stdio.h>
#include <string.h>

static kvg_devptr address(const void *p)
{
    return (kvg_devptr)(uintptr_t)p;
}

/* What kind of memory it is: none but this device's own will do. */
static kvw_err check_kind(const struct kvg_device *dev, kvg_devptr at, char *text,
                          size_t text_bytes)
{
    const struct kvg_driver *d = dev->driver;
    unsigned type = 0;
    bool managed = false; /* the driver writes as few bytes as this is */
    int ordinal = -1;

    if (d->pointer_attribute(&type, KVG_CU_POINTER_MEMORY_TYPE, at) != KVG_CU_SUCCESS) {
        snprintf(text, text_bytes, "CUDA: %#llx is no memory of CUDA's", at);
        return KVW_E_INVALID;
    }
    if (type != KVG_CU_MEMORY_DEVICE) {
        snprintf(text, text_bytes, "CUDA: %#llx is host memory, not a GPU's", at);
        return KVW_E_UNSUPPORTED;
    }
    if (d->pointer_attribute(&managed, KVG_CU_POINTER_IS_MANAGED, at) == KVG_CU_SUCCESS &&
        managed) {
        snprintf(text, text_bytes, "CUDA: %#llx is managed memory, which moves", at);
        return KVW_E_UNSUPPORTED;
    }
    if (d->pointer_attribute(&ordinal, KVG_CU_POINTER_DEVICE_ORDINAL, at) != KVG_CU_SUCCESS ||
        ordinal != dev->ordinal) {
        snprintf(text, text_bytes, "CUDA: %#llx is memory of GPU %d, not of GPU %d", at, ordinal,
                 dev->ordinal);
        return KVW_E_UNSUPPORTED;
    }
    return KVW_OK;
}

/* The allocation that it lies in, which must have all of it. */
static kvw_err check_range(const struct kvg_device *dev, kvg_devptr at, uint64_t bytes, char *text,
                           size_t text_bytes)
{
    const struct kvg_driver *d = dev->driver;
    kvg_devptr start = 0;
    size_t size = 0;
    kvg_result r = d->pointer_attribute(&start, KVG_CU_POINTER_RANGE_START, at);

    if (r == KVG_CU_SUCCESS)
        r = d->pointer_attribute(&size, KVG_CU_POINTER_RANGE_SIZE, at);
    if (r != KVG_CU_SUCCESS) {
        snprintf(text, text_bytes, "CUDA: the allocation of %#llx isn't known: %s", at,
                 kvg_driver_error(d, r));
        return kvg_driver_code(r);
    }
    if (at < start || at - start > size || bytes > size - (at - start)) {
        snprintf(text, text_bytes,
                 "CUDA: %llu bytes at %#llx aren't in one allocation, which has %llu from %#llx on",
                 (unsigned long long)bytes, at, (unsigned long long)size, start);
        return KVW_E_INVALID;
    }
    return KVW_OK;
}

kvw_err kvg_pool_adopt(struct kvg_pool *pool, const struct kvg_device *dev, void *base,
                       uint64_t bytes, char *text, size_t text_bytes)
{
    kvw_err err;

    memset(pool, 0, sizeof(*pool));
    if (base == NULL || bytes == 0) {
        snprintf(text, text_bytes, "CUDA: GPU %d: a pool of 0 bytes", dev->ordinal);
        return KVW_E_INVALID;
    }
    if ((err = kvg_device_enter(dev)) != KVW_OK) {
        snprintf(text, text_bytes, "CUDA: GPU %d: its context can't be entered", dev->ordinal);
        return err;
    }
    if ((err = check_kind(dev, address(base), text, text_bytes)) == KVW_OK &&
        (err = check_range(dev, address(base), bytes, text, text_bytes)) == KVW_OK)
        err = kvg_pool_begin(pool, dev, base, bytes, text, text_bytes);
    if (err != KVW_OK)
        memset(pool, 0, sizeof(*pool));
    return err;
}

kvw_err kvg_pool_ipc(const struct kvg_pool *pool, struct kvg_ipc *ipc, char *text,
                     size_t text_bytes)
{
    const struct kvg_driver *d = pool->dev->driver;
    const kvg_devptr at = address(pool->mem.base);
    kvw_err err = kvg_device_enter(pool->dev);
    kvg_devptr start = 0;
    bool capable = false;
    kvg_result r;

    if (err != KVW_OK)
        return err;
    r = d->pointer_attribute(&capable, KVG_CU_POINTER_IS_IPC_CAPABLE, at);
    if (r != KVG_CU_SUCCESS || !capable) {
        snprintf(text, text_bytes, "CUDA: %#llx isn't cudaMalloc's, so it has no IPC handle", at);
        return KVW_E_UNSUPPORTED;
    }
    r = d->pointer_attribute(&start, KVG_CU_POINTER_RANGE_START, at);
    if (r == KVG_CU_SUCCESS)
        r = d->ipc_get(&ipc->handle, at);
    if (r != KVG_CU_SUCCESS) {
        snprintf(text, text_bytes, "CUDA: an IPC handle: %s", kvg_driver_error(d, r));
        return kvg_driver_code(r);
    }
    ipc->offset = at - start;
    return KVW_OK;
}

kvw_err kvg_pool_ipc_open(struct kvg_pool *pool, const struct kvg_device *dev,
                          const struct kvg_ipc *ipc, uint64_t bytes, char *text, size_t text_bytes)
{
    const struct kvg_driver *d = dev->driver;
    kvg_devptr at = 0;
    kvg_result r;
    kvw_err err;

    memset(pool, 0, sizeof(*pool));
    if ((err = kvg_device_enter(dev)) != KVW_OK) {
        snprintf(text, text_bytes, "CUDA: GPU %d: its context can't be entered", dev->ordinal);
        return err;
    }
    r = d->ipc_open(&at, ipc->handle, KVG_CU_IPC_LAZY_PEER);
    if (r != KVG_CU_SUCCESS) {
        snprintf(text, text_bytes, "CUDA: opening an IPC handle: %s", kvg_driver_error(d, r));
        return kvg_driver_code(r);
    }
    err = kvg_pool_adopt(pool, dev, (void *)(uintptr_t)(at + ipc->offset), bytes, text, text_bytes);
    if (err == KVW_OK)
        pool->ipc = at;
    else
        (void)d->ipc_close(at);
    return err;
}
