/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake.h - what a test may ask of the stand-in for libcuda.so.1 beside the driver's own functions.
 * Found by dlsym in the library that KVW_LIBCUDA names; C and C++.
 *
 * The environment, read by cuInit:
 *   FAKECUDA_NONE=1          no device
 *   FAKECUDA_VERSION=12040   of the driver; default 13000
 *   FAKECUDA_ARCH=90         of the device; default 90
 *   FAKECUDA_BYTES=n         of VRAM; default 1 GiB
 *   FAKECUDA_DMABUF=0        no dma-buf
 *   FAKECUDA_PLAIN=0         no dma-buf but one through PCIe
 *   FAKECUDA_PCIE=1          a dma-buf through PCIe, too
 *   FAKECUDA_MANAGED=1       says that all VRAM is managed memory
 *   FAKECUDA_ELSEWHERE=1     says that all VRAM is of GPU 1
 *   FAKECUDA_RDMA=0          gpuDirectRDMACapable is not granted
 *   FAKECUDA_ORDERING=0      of RDMA writes: 0, 100 (default), 200
 *   FAKECUDA_FLUSH=0         no cuFlushGPUDirectRDMAWrites
 *   FAKECUDA_C2C=1           GPU and CPU share page tables
 *   FAKECUDA_SEED=n          of the order in which streams go on; default 1
 *   FAKECUDA_ORDER=oldest    no drawing: always the stream made first that can go on, or newest
 *   FAKECUDA_LATE=ms         work begins so long after it was queued, that of the stream that is
 *                            always first at once; a thread of its own does it. Default 0
 */
#ifndef FAKE_H
#define FAKE_H

#include "gpu/driver.h"

#ifdef __cplusplus
extern "C" {
#endif

struct fakecuda_live { /* what the process holds now */
    unsigned contexts, handles, reservations, mappings, hosts, streams, events, libraries;
};

/* The nth call from now on (1: the next) fails with code, once. 0: none does. */
void fakecuda_fail(unsigned nth, kvg_result code);
/* Calls made so far, cuGetErrorName apart. */
unsigned fakecuda_calls(void);
void fakecuda_count(struct fakecuda_live *live);
/* While it is held no stream goes on, whoever asks. */
void fakecuda_hold(int held);

/* What cuLibraryLoadData takes for a fatbin. */
#define FAKECUDA_IMAGE "kvwire: a fatbin for the stand-in"

#ifdef __cplusplus
}

#include <functional>
#include <tuple>
#include <utility>

/* The kernels of the stand-in, by name; the library that is built defines fake_kernels. */
struct fake_kernel {
    const char *name;                             /* NULL: the end */
    std::function<void()> (*bind)(void **params); /* copies the arguments, as a launch does */
};
extern const fake_kernel fake_kernels[];

template <typename F> struct fake_binder;
template <typename... A> struct fake_binder<void (*)(A...)> {
    template <void (*f)(A...), size_t... I>
    static std::function<void()> with(void **p, std::index_sequence<I...>)
    {
        std::tuple<std::decay_t<A>...> a(*static_cast<std::decay_t<A> *>(p[I])...);

        return [a] { std::apply(f, a); };
    }
    template <void (*f)(A...)> static std::function<void()> bind(void **p)
    {
        return with<f>(p, std::index_sequence_for<A...>());
    }
};
#define FAKE_KERNEL(f)                                                                             \
    {                                                                                              \
#f, fake_binder < decltype(&f)> ::bind < f>                                                \
    }
#endif
#endif
