/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mem.h - memory that a GPU reaches, behind kvwire/mem.h: pools in VRAM, and a pinned host arena.
 *
 * A pool is one cuMemCreate handle, mapped once: ranges of several handles can't be registered
 * whole. It can be exported to another process of the host by a file descriptor, and to a NIC by a
 * dma-buf. How a NIC may reach it is its rung on the ladder, the best that the device allows:
 *
 *   dma-buf  pool.mem.dmabuf_fd, at dmabuf_offset: registered with the fd. Where the driver has a
 *            mapping through PCIe, too (CUDA 12.8), its fd is the next to try: some NICs take
 *            only that one, others only the first
 *   peermem  the driver granted gpuDirectRDMACapable: the address itself can be registered where
 *            the kernel module nvidia-peermem is; where it isn't, registration fails
 *   pinned   by way of pinned host memory: copy_in and copy_out, or kernels that write there
 *
 * threads  a pool is opened and closed by one thread; mem.device's functions may be called by any
 * memory   a pool doesn't move while it is open (mem.device points into it); close ends all views
 * time     copy_in, copy_out and flush return when the GPU is done
 */
#ifndef KVG_MEM_H
#define KVG_MEM_H

#include "../kvwire/mem.h"
#include "device.h"

enum kvg_rung {
    KVG_RUNG_DMABUF = 1,
    KVG_RUNG_PEERMEM = 2,
    KVG_RUNG_PINNED = 3,
};

struct kvg_pool {
    struct kvw_mem mem; /* of the bytes asked for; mem.dmabuf_fd is closed by kvg_pool_close() */
    enum kvg_rung rung;
    char ladder[192]; /* "GPU 0: dma-buf", or a lower rung and why not the ones above */
    /* private */
    const struct kvg_device *dev;
    struct kvw_mem_device help;
    struct kvw_dmabuf pcie;
    kvg_mem_handle handle; /* 0: a foreign pool */
    kvg_devptr ipc;        /* of another process; 0: isn't */
    uint64_t mapped_bytes; /* a multiple of the device's granularity */
    kvg_stream stream;     /* of copy_in and copy_out */
};

/*
 * VRAM of at least `bytes`. On an error nothing is held, *pool is zero, and text has the reason.
 *
 *   KVW_E_INVALID  bytes is 0
 *   KVW_E_NOMEM    the GPU hasn't got so much
 *   KVW_E_DEVICE   the driver failed otherwise
 */
KVW_NODISCARD kvw_err kvg_pool_open(struct kvg_pool *pool, const struct kvg_device *dev,
                                    uint64_t bytes, char *text, size_t text_bytes);

/*
 * A file descriptor by which another process of this host maps the same VRAM: send it by
 * SCM_RIGHTS, then close it. Close-on-exec. The memory lives as long as one process maps it.
 */
KVW_NODISCARD kvw_err kvg_pool_export(const struct kvg_pool *pool, int *fd);

/*
 * Map what another process has exported. fd stays the caller's, who may close it afterwards.
 * `bytes` are those of the exporter's mem.bytes; more than it has is an error.
 */
KVW_NODISCARD kvw_err kvg_pool_import(struct kvg_pool *pool, const struct kvg_device *dev, int fd,
                                      uint64_t bytes, char *text, size_t text_bytes);

/* For foreign.h: a pool of memory that is mapped already, with its stream, help and rung. */
KVW_NODISCARD kvw_err kvg_pool_begin(struct kvg_pool *pool, const struct kvg_device *dev,
                                     void *base, uint64_t bytes, char *text, size_t text_bytes);

/* No work of the GPU may touch the pool any more, and no transport may have it registered. */
void kvg_pool_close(struct kvg_pool *pool);

/*
 * A dma-buf of [base, base + bytes), which may be anybody's VRAM in this context: *fd covers the
 * host's pages that it lies in, *offset is where base is inside. The caller closes *fd.
 */
KVW_NODISCARD kvw_err kvg_dmabuf_export(const struct kvg_device *dev, const void *base,
                                        uint64_t bytes, int *fd, uint64_t *offset);

/* Host memory that doesn't move, which kernels and NICs reach by the same address. */
struct kvg_pinned {
    struct kvw_mem mem; /* KVW_MEM_HOST */
    const struct kvg_device *dev;
};
KVW_NODISCARD kvw_err kvg_pinned_open(struct kvg_pinned *p, const struct kvg_device *dev,
                                      uint64_t bytes, char *text, size_t text_bytes);
void kvg_pinned_close(struct kvg_pinned *p);
#endif
