/* SPDX-License-Identifier: Apache-2.0 */
/* driver_abi.cpp - gpu/driver.h declares what cuda.h does: it compiles only then. */
#include <cuda.h>

#include <tuple>
#include <type_traits>

#include "gpu/driver.h"

/* Two functions that a caller can't tell apart: as many parameters, each as large, one result. */
template <typename F> struct shape;
template <typename R, typename... A> struct shape<R (*)(A...)> {
    static constexpr size_t count = sizeof...(A);
    template <typename T> static constexpr size_t kind = sizeof(T) + 100 * std::is_pointer_v<T>;
    static constexpr size_t result = sizeof(R), sizes[count + 1] = {kind<A>...};
};
template <typename F, typename G> constexpr bool same(void)
{
    if (shape<F>::count != shape<G>::count || shape<F>::result != shape<G>::result)
        return false;
    for (size_t i = 0; i < shape<F>::count; ++i)
        if (shape<F>::sizes[i] != shape<G>::sizes[i])
            return false;
    return true;
}
#define CHECK(name, symbol, params)                                                                \
    static_assert(same<decltype(kvg_driver::name), decltype(&symbol)>(), #symbol);
KVG_DRIVER_CALLS(CHECK)
static_assert(!same<decltype(kvg_driver::init), decltype(&cuStreamSynchronize)>(), "a control");

#define SAME(ours, theirs) static_assert((int)(ours) == (int)(theirs), #theirs)
SAME(KVG_CU_SUCCESS, CUDA_SUCCESS);
SAME(KVG_CU_INVALID_VALUE, CUDA_ERROR_INVALID_VALUE);
SAME(KVG_CU_OUT_OF_MEMORY, CUDA_ERROR_OUT_OF_MEMORY);
SAME(KVG_CU_NOT_INITIALIZED, CUDA_ERROR_NOT_INITIALIZED);
SAME(KVG_CU_NO_DEVICE, CUDA_ERROR_NO_DEVICE);
SAME(KVG_CU_INVALID_DEVICE, CUDA_ERROR_INVALID_DEVICE);
SAME(KVG_CU_INVALID_IMAGE, CUDA_ERROR_INVALID_IMAGE);
SAME(KVG_CU_INVALID_CONTEXT, CUDA_ERROR_INVALID_CONTEXT);
SAME(KVG_CU_NO_BINARY_FOR_GPU, CUDA_ERROR_NO_BINARY_FOR_GPU);
SAME(KVG_CU_UNSUPPORTED_PTX, CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
SAME(KVG_CU_OPERATING_SYSTEM, CUDA_ERROR_OPERATING_SYSTEM);
SAME(KVG_CU_INVALID_HANDLE, CUDA_ERROR_INVALID_HANDLE);
SAME(KVG_CU_NOT_FOUND, CUDA_ERROR_NOT_FOUND);
SAME(KVG_CU_NOT_READY, CUDA_ERROR_NOT_READY);
SAME(KVG_CU_LAUNCH_FAILED, CUDA_ERROR_LAUNCH_FAILED);
SAME(KVG_CU_NOT_PERMITTED, CUDA_ERROR_NOT_PERMITTED);
SAME(KVG_CU_NOT_SUPPORTED, CUDA_ERROR_NOT_SUPPORTED);
SAME(KVG_CU_SYSTEM_NOT_READY, CUDA_ERROR_SYSTEM_NOT_READY);
SAME(KVG_CU_DRIVER_MISMATCH, CUDA_ERROR_SYSTEM_DRIVER_MISMATCH);
SAME(KVG_CU_UNKNOWN, CUDA_ERROR_UNKNOWN);
SAME(KVG_CU_MULTIPROCESSORS, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
SAME(KVG_CU_ARCH_MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
SAME(KVG_CU_ARCH_MINOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
SAME(KVG_CU_SHARED_BYTES_OPTIN, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
SAME(KVG_CU_USES_HOST_PAGE_TABLES,
     CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES);
SAME(KVG_CU_HAS_VMM, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED);
SAME(KVG_CU_HAS_POSIX_FD, CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED);
SAME(KVG_CU_HAS_RDMA_WITH_VMM, CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED);
SAME(KVG_CU_FLUSH_OPTIONS, CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_FLUSH_WRITES_OPTIONS);
SAME(KVG_CU_WRITES_ORDERING, CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WRITES_ORDERING);
SAME(KVG_CU_HAS_DMABUF, CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED);
SAME(KVG_CU_ORDERING_NONE, CU_GPU_DIRECT_RDMA_WRITES_ORDERING_NONE);
SAME(KVG_CU_ORDERING_OWNER, CU_GPU_DIRECT_RDMA_WRITES_ORDERING_OWNER);
SAME(KVG_CU_FLUSH_HOST, CU_FLUSH_GPU_DIRECT_RDMA_WRITES_OPTION_HOST);
SAME(KVG_CU_FLUSH_TARGET_CURRENT, CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TARGET_CURRENT_CTX);
SAME(KVG_CU_FLUSH_TO_OWNER, CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TO_OWNER);
SAME(KVG_CU_POINTER_IS_RDMA_CAPABLE, CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE);
SAME(KVG_CU_POINTER_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_MEMORY_TYPE);
SAME(KVG_CU_POINTER_IS_MANAGED, CU_POINTER_ATTRIBUTE_IS_MANAGED);
SAME(KVG_CU_POINTER_DEVICE_ORDINAL, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL);
SAME(KVG_CU_POINTER_IS_IPC_CAPABLE, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE);
SAME(KVG_CU_POINTER_RANGE_START, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR);
SAME(KVG_CU_POINTER_RANGE_SIZE, CU_POINTER_ATTRIBUTE_RANGE_SIZE);
SAME(KVG_CU_MEMORY_DEVICE, CU_MEMORYTYPE_DEVICE);
SAME(KVG_CU_IPC_LAZY_PEER, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
#if CUDA_VERSION >= 12080
SAME(KVG_CU_RANGE_PCIE, CU_MEM_RANGE_FLAG_DMA_BUF_MAPPING_TYPE_PCIE);
#endif
SAME(KVG_CU_ALLOCATION_PINNED, CU_MEM_ALLOCATION_TYPE_PINNED);
SAME(KVG_CU_LOCATION_DEVICE, CU_MEM_LOCATION_TYPE_DEVICE);
SAME(KVG_CU_HANDLE_POSIX_FD, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
SAME(KVG_CU_ACCESS_READWRITE, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
SAME(KVG_CU_GRANULARITY_MINIMUM, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
SAME(KVG_CU_RANGE_DMABUF_FD, CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD);
SAME(KVG_CU_STREAM_NON_BLOCKING, CU_STREAM_NON_BLOCKING);
SAME(KVG_CU_EVENT_DISABLE_TIMING, CU_EVENT_DISABLE_TIMING);
SAME(KVG_CU_HOST_PORTABLE, CU_MEMHOSTALLOC_PORTABLE);
SAME(KVG_CU_HOST_MAPPED, CU_MEMHOSTALLOC_DEVICEMAP);
SAME(KVG_CU_KERNEL_MAX_DYNAMIC_SHARED, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);

#define AT(ours, a, theirs, b) static_assert(offsetof(ours, a) == offsetof(theirs, b), #theirs)
static_assert(sizeof(kvg_mem_prop) == sizeof(CUmemAllocationProp));
AT(kvg_mem_prop, type, CUmemAllocationProp, type);
AT(kvg_mem_prop, handle_types, CUmemAllocationProp, requestedHandleTypes);
AT(kvg_mem_prop, location.id, CUmemAllocationProp, location.id);
AT(kvg_mem_prop, win32, CUmemAllocationProp, win32HandleMetaData);
AT(kvg_mem_prop, compression, CUmemAllocationProp, allocFlags.compressionType);
AT(kvg_mem_prop, rdma_capable, CUmemAllocationProp, allocFlags.gpuDirectRDMACapable);
AT(kvg_mem_prop, usage, CUmemAllocationProp, allocFlags.usage);
static_assert(sizeof(kvg_ipc_handle) == sizeof(CUipcMemHandle));
static_assert(sizeof(kvg_mem_access) == sizeof(CUmemAccessDesc));
AT(kvg_mem_access, flags, CUmemAccessDesc, flags);
static_assert(sizeof(kvg_launch) == sizeof(CUlaunchConfig));
AT(kvg_launch, grid_z, CUlaunchConfig, gridDimZ);
AT(kvg_launch, block_x, CUlaunchConfig, blockDimX);
AT(kvg_launch, shared_bytes, CUlaunchConfig, sharedMemBytes);
AT(kvg_launch, stream, CUlaunchConfig, hStream);
AT(kvg_launch, attributes, CUlaunchConfig, attrs);
AT(kvg_launch, attribute_count, CUlaunchConfig, numAttrs);
