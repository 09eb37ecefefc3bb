/* SPDX-License-Identifier: Apache-2.0 */
/* device.c - find a GPU, ask what it can do, hold its primary context. */
#include "device.h"

#include <stdio.h>
#include <string.h>

/* 0 for an attribute that the driver doesn't know: it is younger than the driver. */
static int attribute(const struct kvg_device *dev, int which)
{
    int value = 0;

    return dev->driver->device_attribute(&value, which, dev->id) == KVG_CU_SUCCESS ? value : 0;
}

static void ask(struct kvg_device *dev)
{
    const bool is_coherent = attribute(dev, KVG_CU_USES_HOST_PAGE_TABLES) != 0;

    dev->arch = 10 * attribute(dev, KVG_CU_ARCH_MAJOR) + attribute(dev, KVG_CU_ARCH_MINOR);
    dev->multiprocessors = attribute(dev, KVG_CU_MULTIPROCESSORS);
    dev->has_dmabuf = attribute(dev, KVG_CU_HAS_DMABUF) != 0;
    dev->has_rdma = attribute(dev, KVG_CU_HAS_RDMA_WITH_VMM) != 0;
    /* Where GPU and CPU share memory coherently, the NIC may sit behind the CPU: its completion can
     * be seen there before the payload has reached the GPU's memory. */
    dev->needs_flush =
        is_coherent || attribute(dev, KVG_CU_WRITES_ORDERING) < KVG_CU_ORDERING_OWNER;
    dev->can_flush = (attribute(dev, KVG_CU_FLUSH_OPTIONS) & KVG_CU_FLUSH_HOST) != 0;
}

static kvw_err check(const struct kvg_device *dev, char *text, size_t text_bytes)
{
    if (dev->arch < KVG_ARCH_MIN) {
        snprintf(text, text_bytes, "CUDA: GPU %d (%s) is sm_%d, and the kernels are for sm_%d on",
                 dev->ordinal, dev->name, dev->arch, KVG_ARCH_MIN);
        return KVW_E_UNSUPPORTED;
    }
    if (attribute(dev, KVG_CU_HAS_VMM) == 0 || attribute(dev, KVG_CU_HAS_POSIX_FD) == 0) {
        snprintf(text, text_bytes, "CUDA: GPU %d (%s) can't export its memory (no cuMemCreate)",
                 dev->ordinal, dev->name);
        return KVW_E_UNSUPPORTED;
    }
    return KVW_OK;
}

kvw_err kvg_device_open(struct kvg_device *dev, const struct kvg_driver *driver, int ordinal,
                        char *text, size_t text_bytes)
{
    kvg_result r;
    kvw_err err;

    memset(dev, 0, sizeof(*dev));
    dev->driver = driver;
    dev->ordinal = ordinal;
    r = driver->device_get(&dev->id, ordinal);
    if (r == KVG_CU_INVALID_DEVICE) {
        snprintf(text, text_bytes, "CUDA: there is no GPU %d", ordinal);
        err = KVW_E_NOTFOUND;
        goto clear;
    }
    if (r == KVG_CU_SUCCESS)
        r = driver->device_name(dev->name, sizeof(dev->name), dev->id);
    if (r != KVG_CU_SUCCESS)
        goto failed;
    ask(dev);
    if ((err = check(dev, text, text_bytes)) != KVW_OK)
        goto clear;
    if ((r = driver->ctx_retain(&dev->context, dev->id)) != KVG_CU_SUCCESS)
        goto failed;
    if ((r = driver->ctx_set_current(dev->context)) == KVG_CU_SUCCESS)
        return KVW_OK;
    (void)driver->ctx_release(dev->id);

failed:
    snprintf(text, text_bytes, "CUDA: GPU %d doesn't open: %s", ordinal,
             kvg_driver_error(driver, r));
    err = kvg_driver_code(r);
clear:
    memset(dev, 0, sizeof(*dev));
    return err;
}

kvw_err kvg_device_enter(const struct kvg_device *dev)
{
    const kvg_result r = dev->driver->ctx_set_current(dev->context);

    return r == KVG_CU_SUCCESS ? KVW_OK : kvg_driver_code(r);
}

void kvg_device_close(struct kvg_device *dev)
{
    if (dev->driver != NULL)
        (void)dev->driver->ctx_release(dev->id);
    memset(dev, 0, sizeof(*dev));
}
