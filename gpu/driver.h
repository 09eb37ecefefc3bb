/* SPDX-License-Identifier: Apache-2.0 */
/*
 * driver.h - the CUDA driver as one table of functions, found by dlopen. The types, numbers and
 * symbols are those of the driver's published ABI, declared here so that this builds without the
 * toolkit; tests/gpu/driver_abi.cpp holds them against cuda.h where there is one.
 *
 * threads  a table is read by any thread; the driver's functions are thread-safe, and those that
 *          need a context want ctx_set_current() in the calling thread first
 * memory   kvg_driver_open() loads the library, kvg_driver_close() unloads it
 * time     none here; what a driver call waits for is said where it is made
 */
#ifndef KVG_DRIVER_H
#define KVG_DRIVER_H

#include <stddef.h>
#include <stdint.h>

#include "../kvwire/err.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef int kvg_result; /* CUresult */
typedef int kvg_device_id;
typedef unsigned long long kvg_devptr;
typedef unsigned long long kvg_mem_handle;
typedef struct kvg_cu_context *kvg_context;
typedef struct kvg_cu_stream *kvg_stream;
typedef struct kvg_cu_event *kvg_event;
typedef struct kvg_cu_library *kvg_library;
typedef struct kvg_cu_kernel *kvg_kernel; /* CUkernel; the launch takes it as a CUfunction, too */

enum { /* CUresult */
       KVG_CU_SUCCESS = 0,
       KVG_CU_INVALID_VALUE = 1,
       KVG_CU_OUT_OF_MEMORY = 2,
       KVG_CU_NOT_INITIALIZED = 3,
       KVG_CU_NO_DEVICE = 100,
       KVG_CU_INVALID_DEVICE = 101,
       KVG_CU_INVALID_IMAGE = 200,
       KVG_CU_INVALID_CONTEXT = 201,
       KVG_CU_NO_BINARY_FOR_GPU = 209,
       KVG_CU_UNSUPPORTED_PTX = 222,
       KVG_CU_OPERATING_SYSTEM = 304,
       KVG_CU_INVALID_HANDLE = 400,
       KVG_CU_NOT_FOUND = 500,
       KVG_CU_NOT_READY = 600,
       KVG_CU_LAUNCH_FAILED = 719,
       KVG_CU_NOT_PERMITTED = 800,
       KVG_CU_NOT_SUPPORTED = 801,
       KVG_CU_SYSTEM_NOT_READY = 802,
       KVG_CU_DRIVER_MISMATCH = 803,
       KVG_CU_UNKNOWN = 999,
};

enum { /* CUdevice_attribute */
       KVG_CU_MULTIPROCESSORS = 16,
       KVG_CU_ARCH_MAJOR = 75,
       KVG_CU_ARCH_MINOR = 76,
       KVG_CU_SHARED_BYTES_OPTIN = 97,
       KVG_CU_USES_HOST_PAGE_TABLES =
           100, /* GPU and CPU share memory coherently, as by NVLink-C2C */
       KVG_CU_HAS_VMM = 102,
       KVG_CU_HAS_POSIX_FD = 103,
       KVG_CU_HAS_RDMA_WITH_VMM = 110,
       KVG_CU_FLUSH_OPTIONS = 117, /* bit 0: kvg_driver.flush_rdma_writes */
       KVG_CU_WRITES_ORDERING = 118,
       KVG_CU_HAS_DMABUF = 124,
};

enum {
    KVG_CU_ORDERING_NONE = 0, /* CUGPUDirectRDMAWritesOrdering */
    KVG_CU_ORDERING_OWNER = 100,
    KVG_CU_FLUSH_HOST = 1,           /* CUflushGPUDirectRDMAWritesOptions */
    KVG_CU_FLUSH_TARGET_CURRENT = 0, /* CUflushGPUDirectRDMAWritesTarget */
    KVG_CU_FLUSH_TO_OWNER = 100,     /* CUflushGPUDirectRDMAWritesScope */
    KVG_CU_POINTER_MEMORY_TYPE = 2,  /* CUpointer_attribute */
    KVG_CU_POINTER_IS_MANAGED = 8,
    KVG_CU_POINTER_DEVICE_ORDINAL = 9,
    KVG_CU_POINTER_IS_IPC_CAPABLE = 10,
    KVG_CU_POINTER_RANGE_START = 11,
    KVG_CU_POINTER_RANGE_SIZE = 12,
    KVG_CU_POINTER_IS_RDMA_CAPABLE = 15,
    KVG_CU_MEMORY_DEVICE = 2,             /* CUmemorytype */
    KVG_CU_IPC_LAZY_PEER = 1,             /* CUipcMem_flags */
    KVG_CU_RANGE_PCIE = 1,                /* CUmemRangeFlags: since 12.8 */
    KVG_CU_ALLOCATION_PINNED = 1,         /* CUmemAllocationType */
    KVG_CU_LOCATION_DEVICE = 1,           /* CUmemLocationType */
    KVG_CU_HANDLE_POSIX_FD = 1,           /* CUmemAllocationHandleType */
    KVG_CU_ACCESS_READWRITE = 3,          /* CUmemAccess_flags */
    KVG_CU_GRANULARITY_MINIMUM = 0,       /* CUmemAllocationGranularity_flags */
    KVG_CU_RANGE_DMABUF_FD = 1,           /* CUmemRangeHandleType */
    KVG_CU_STREAM_NON_BLOCKING = 1,       /* CUstream_flags */
    KVG_CU_EVENT_DISABLE_TIMING = 2,      /* CUevent_flags */
    KVG_CU_HOST_PORTABLE = 1,             /* CU_MEMHOSTALLOC_PORTABLE */
    KVG_CU_HOST_MAPPED = 2,               /* CU_MEMHOSTALLOC_DEVICEMAP */
    KVG_CU_KERNEL_MAX_DYNAMIC_SHARED = 8, /* CUfunction_attribute */
};

struct kvg_mem_location { /* CUmemLocation */
    int type;
    int id;
};

struct kvg_mem_prop { /* CUmemAllocationProp */
    int type;
    int handle_types;
    struct kvg_mem_location location;
    void *win32;
    unsigned char compression;
    unsigned char rdma_capable; /* a request: read KVG_CU_POINTER_IS_RDMA_CAPABLE back */
    unsigned short usage;
    unsigned char reserved[4];
};

struct kvg_mem_access { /* CUmemAccessDesc */
    struct kvg_mem_location location;
    int flags;
};

struct kvg_ipc_handle { /* CUipcMemHandle */
    char reserved[64];
};

struct kvg_launch { /* CUlaunchConfig */
    unsigned grid_x, grid_y, grid_z;
    unsigned block_x, block_y, block_z;
    unsigned shared_bytes;
    kvg_stream stream;
    void *attributes;
    unsigned attribute_count;
};

/* X(name in the table, symbol, parameters): all that gpu/ asks of the driver. */
#define KVG_DRIVER_CALLS(X)                                                                        \
    X(init, cuInit, (unsigned flags))                                                              \
    X(driver_version, cuDriverGetVersion, (int *version))                                          \
    X(error_name, cuGetErrorName, (kvg_result error, const char **name))                           \
    X(device_count, cuDeviceGetCount, (int *count))                                                \
    X(device_get, cuDeviceGet, (kvg_device_id * device, int ordinal))                              \
    X(device_name, cuDeviceGetName, (char *name, int bytes, kvg_device_id device))                 \
    X(device_attribute, cuDeviceGetAttribute, (int *value, int attribute, kvg_device_id device))   \
    X(ctx_retain, cuDevicePrimaryCtxRetain, (kvg_context * context, kvg_device_id device))         \
    X(ctx_release, cuDevicePrimaryCtxRelease_v2, (kvg_device_id device))                           \
    X(ctx_set_current, cuCtxSetCurrent, (kvg_context context))                                     \
    X(mem_granularity, cuMemGetAllocationGranularity,                                              \
      (size_t * bytes, const struct kvg_mem_prop *prop, int option))                               \
    X(mem_reserve, cuMemAddressReserve,                                                            \
      (kvg_devptr * at, size_t bytes, size_t alignment, kvg_devptr wish,                           \
       unsigned long long flags))                                                                  \
    X(mem_unreserve, cuMemAddressFree, (kvg_devptr at, size_t bytes))                              \
    X(mem_create, cuMemCreate,                                                                     \
      (kvg_mem_handle * handle, size_t bytes, const struct kvg_mem_prop *prop,                     \
       unsigned long long flags))                                                                  \
    X(mem_release, cuMemRelease, (kvg_mem_handle handle))                                          \
    X(mem_map, cuMemMap,                                                                           \
      (kvg_devptr at, size_t bytes, size_t offset, kvg_mem_handle handle,                          \
       unsigned long long flags))                                                                  \
    X(mem_unmap, cuMemUnmap, (kvg_devptr at, size_t bytes))                                        \
    X(mem_set_access, cuMemSetAccess,                                                              \
      (kvg_devptr at, size_t bytes, const struct kvg_mem_access *access, size_t count))            \
    X(mem_export, cuMemExportToShareableHandle,                                                    \
      (void *fd, kvg_mem_handle handle, int type, unsigned long long flags))                       \
    X(mem_import, cuMemImportFromShareableHandle, (kvg_mem_handle * handle, void *fd, int type))   \
    X(mem_range_handle, cuMemGetHandleForAddressRange,                                             \
      (void *fd, kvg_devptr at, size_t bytes, int type, unsigned long long flags))                 \
    X(pointer_attribute, cuPointerGetAttribute, (void *value, int attribute, kvg_devptr at))       \
    X(ipc_get, cuIpcGetMemHandle, (struct kvg_ipc_handle * handle, kvg_devptr at))                 \
    X(ipc_open, cuIpcOpenMemHandle_v2,                                                             \
      (kvg_devptr * at, struct kvg_ipc_handle handle, unsigned flags))                             \
    X(ipc_close, cuIpcCloseMemHandle, (kvg_devptr at))                                             \
    X(host_alloc, cuMemHostAlloc, (void **at, size_t bytes, unsigned flags))                       \
    X(host_free, cuMemFreeHost, (void *at))                                                        \
    X(copy, cuMemcpyAsync, (kvg_devptr to, kvg_devptr from, size_t bytes, kvg_stream stream))      \
    X(fill, cuMemsetD8Async, (kvg_devptr to, unsigned char v, size_t bytes, kvg_stream stream))    \
    X(stream_create, cuStreamCreateWithPriority,                                                   \
      (kvg_stream * stream, unsigned flags, int priority))                                         \
    X(stream_destroy, cuStreamDestroy_v2, (kvg_stream stream))                                     \
    X(stream_synchronize, cuStreamSynchronize, (kvg_stream stream))                                \
    X(stream_wait_event, cuStreamWaitEvent, (kvg_stream stream, kvg_event event, unsigned flags))  \
    X(event_create, cuEventCreate, (kvg_event * event, unsigned flags))                            \
    X(event_destroy, cuEventDestroy_v2, (kvg_event event))                                         \
    X(event_record, cuEventRecordWithFlags, (kvg_event event, kvg_stream stream, unsigned flags))  \
    X(event_query, cuEventQuery, (kvg_event event))                                                \
    X(library_load, cuLibraryLoadData,                                                             \
      (kvg_library * library, const void *image, int *jit, void **jit_values, unsigned jit_count,  \
       int *options, void **option_values, unsigned option_count))                                 \
    X(library_unload, cuLibraryUnload, (kvg_library library))                                      \
    X(library_kernel, cuLibraryGetKernel,                                                          \
      (kvg_kernel * kernel, kvg_library library, const char *name))                                \
    X(kernel_set_attribute, cuKernelSetAttribute,                                                  \
      (int attribute, int value, kvg_kernel kernel, kvg_device_id device))                         \
    X(launch, cuLaunchKernelEx,                                                                    \
      (const struct kvg_launch *config, kvg_kernel kernel, void **params, void **extra))           \
    X(flush_rdma_writes, cuFlushGPUDirectRDMAWrites, (int target, int scope))

struct kvg_driver {
#define KVG_MEMBER(name, symbol, params) kvg_result(*name) params;
    KVG_DRIVER_CALLS(KVG_MEMBER)
#undef KVG_MEMBER
    void *library;
    int version; /* 12040: CUDA 12.4 */
};

#define KVG_DRIVER_VERSION_PCIE 12080 /* KVG_CU_RANGE_PCIE */
#define KVG_DRIVER_VERSION_MIN  12000 /* cuLibraryLoadData, cuLaunchKernelEx */

/*
 * Load libcuda.so.1, or what the environment's KVW_LIBCUDA names, and initialise it. On KVW_OK *d
 * is filled; otherwise it is zero, nothing stays loaded, and text has the reason in one sentence.
 *
 *   KVW_E_NOTFOUND     there is no such library
 *   KVW_E_UNSUPPORTED  it is older than KVG_DRIVER_VERSION_MIN, or no CUDA driver at all
 *   KVW_E_DEVICE       the driver finds no GPU, or doesn't start
 */
KVW_NODISCARD kvw_err kvg_driver_open(struct kvg_driver *d, char *text, size_t text_bytes);
void kvg_driver_close(struct kvg_driver *d);

/* The driver's name of a result, as "CUDA_ERROR_NO_DEVICE"; never NULL. */
const char *kvg_driver_error(const struct kvg_driver *d, kvg_result r);

/* Which of our codes a failed call means: NOMEM for lack of memory, else DEVICE. */
kvw_err kvg_driver_code(kvg_result r);

#ifdef __cplusplus
}
#endif
#endif
