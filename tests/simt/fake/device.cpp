/* SPDX-License-Identifier: Apache-2.0 */
/* device.cpp - one GPU of the stand-in: what it is, contexts, errors on demand. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "inside.h"

fake_config fake_cfg;
std::recursive_mutex fake_lock;

static struct {
    bool initialised;
    unsigned calls, fail_in, contexts;
    kvg_result code;
} s;
static thread_local bool has_context;
static kvg_context const the_context = (kvg_context)0x10;

kvg_result fake_enter(fake_needs needs)
{
    ++s.calls;
    if (s.fail_in > 0 && --s.fail_in == 0)
        return s.code;
    if (needs >= FAKE_INIT && !s.initialised)
        return KVG_CU_NOT_INITIALIZED;
    if (needs >= FAKE_CONTEXT && (!has_context || s.contexts == 0))
        return KVG_CU_INVALID_CONTEXT;
    return KVG_CU_SUCCESS;
}

void fakecuda_fail(unsigned nth, kvg_result code)
{
    s.fail_in = nth;
    s.code = code;
}

unsigned fakecuda_calls(void)
{
    return s.calls;
}

void fakecuda_count(fakecuda_live *live)
{
    const std::lock_guard<std::recursive_mutex> guard(fake_lock);

    *live = fakecuda_live();
    live->contexts = s.contexts;
    fake_count_memory(live);
    fake_count_streams(live);
}

static uint64_t option(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);

    return text != NULL ? strtoull(text, NULL, 0) : otherwise;
}

static int order(void)
{
    const char *text = getenv("FAKECUDA_ORDER");

    if (text == NULL)
        return 0;
    return strcmp(text, "oldest") == 0 ? 1 : strcmp(text, "newest") == 0 ? -1 : 0;
}

static void configure(void)
{
    fake_cfg.none = option("FAKECUDA_NONE", 0) != 0;
    fake_cfg.dmabuf = option("FAKECUDA_DMABUF", 1) != 0;
    fake_cfg.plain = option("FAKECUDA_PLAIN", 1) != 0;
    fake_cfg.pcie = option("FAKECUDA_PCIE", 0) != 0;
    fake_cfg.managed = option("FAKECUDA_MANAGED", 0) != 0;
    fake_cfg.elsewhere = option("FAKECUDA_ELSEWHERE", 0) != 0;
    fake_cfg.rdma = option("FAKECUDA_RDMA", 1) != 0;
    fake_cfg.flush = option("FAKECUDA_FLUSH", 1) != 0;
    fake_cfg.c2c = option("FAKECUDA_C2C", 0) != 0;
    fake_cfg.version = (int)option("FAKECUDA_VERSION", 13000);
    fake_cfg.arch = (int)option("FAKECUDA_ARCH", 90);
    fake_cfg.ordering = (int)option("FAKECUDA_ORDERING", KVG_CU_ORDERING_OWNER);
    fake_cfg.bytes = option("FAKECUDA_BYTES", 1ull << 30);
    fake_cfg.late_ns = option("FAKECUDA_LATE", 0) * 1000000;
    fake_cfg.first = order();
    fake_cfg.seed = option("FAKECUDA_SEED", 1) * 0x9e3779b97f4a7c15ull + 1;
}

extern "C" {

kvg_result cuInit(unsigned flags)
{
    FAKE_ENTER(FAKE_NOTHING);
    if (flags != 0)
        return KVG_CU_INVALID_VALUE;
    configure();
    if (fake_cfg.none)
        return KVG_CU_NO_DEVICE;
    s.initialised = true;
    return KVG_CU_SUCCESS;
}

kvg_result cuDriverGetVersion(int *version)
{
    FAKE_ENTER(FAKE_NOTHING);
    *version = (int)option("FAKECUDA_VERSION", 13000);
    return KVG_CU_SUCCESS;
}

kvg_result cuGetErrorName(kvg_result error, const char **name)
{
    static const struct {
        kvg_result error;
        const char *name;
    } names[] = {
        {KVG_CU_SUCCESS, "CUDA_SUCCESS"},
        {KVG_CU_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},
        {KVG_CU_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
        {KVG_CU_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED"},
        {KVG_CU_NO_DEVICE, "CUDA_ERROR_NO_DEVICE"},
        {KVG_CU_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE"},
        {KVG_CU_INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE"},
        {KVG_CU_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
        {KVG_CU_NO_BINARY_FOR_GPU, "CUDA_ERROR_NO_BINARY_FOR_GPU"},
        {KVG_CU_OPERATING_SYSTEM, "CUDA_ERROR_OPERATING_SYSTEM"},
        {KVG_CU_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE"},
        {KVG_CU_NOT_FOUND, "CUDA_ERROR_NOT_FOUND"},
        {KVG_CU_NOT_READY, "CUDA_ERROR_NOT_READY"},
        {KVG_CU_LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED"},
        {KVG_CU_NOT_PERMITTED, "CUDA_ERROR_NOT_PERMITTED"},
        {KVG_CU_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED"},
        {KVG_CU_DRIVER_MISMATCH, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"},
    };

    for (const auto &n : names)
        if (n.error == error) {
            *name = n.name;
            return KVG_CU_SUCCESS;
        }
    *name = NULL;
    return KVG_CU_INVALID_VALUE;
}

kvg_result cuDeviceGetCount(int *count)
{
    FAKE_ENTER(FAKE_INIT);
    *count = 1;
    return KVG_CU_SUCCESS;
}

kvg_result cuDeviceGet(kvg_device_id *device, int ordinal)
{
    FAKE_ENTER(FAKE_INIT);
    if (ordinal != 0)
        return KVG_CU_INVALID_DEVICE;
    *device = ordinal;
    return KVG_CU_SUCCESS;
}

kvg_result cuDeviceGetName(char *name, int bytes, kvg_device_id device)
{
    FAKE_ENTER(FAKE_INIT);
    if (device != 0)
        return KVG_CU_INVALID_DEVICE;
    snprintf(name, (size_t)bytes, "Stand-in %d", fake_cfg.arch);
    return KVG_CU_SUCCESS;
}

kvg_result cuDeviceGetAttribute(int *value, int attribute, kvg_device_id device)
{
    FAKE_ENTER(FAKE_INIT);
    if (device != 0)
        return KVG_CU_INVALID_DEVICE;
    switch (attribute) {
    case KVG_CU_MULTIPROCESSORS:
        *value = 4;
        break;
    case KVG_CU_ARCH_MAJOR:
        *value = fake_cfg.arch / 10;
        break;
    case KVG_CU_ARCH_MINOR:
        *value = fake_cfg.arch % 10;
        break;
    case KVG_CU_SHARED_BYTES_OPTIN:
        *value = 227 << 10;
        break;
    case KVG_CU_USES_HOST_PAGE_TABLES:
        *value = fake_cfg.c2c;
        break;
    case KVG_CU_HAS_VMM:
    case KVG_CU_HAS_POSIX_FD:
        *value = 1;
        break;
    case KVG_CU_HAS_RDMA_WITH_VMM:
        *value = fake_cfg.rdma;
        break;
    case KVG_CU_FLUSH_OPTIONS:
        *value = fake_cfg.flush ? KVG_CU_FLUSH_HOST : 0;
        break;
    case KVG_CU_WRITES_ORDERING:
        *value = fake_cfg.ordering;
        break;
    case KVG_CU_HAS_DMABUF:
        *value = fake_cfg.dmabuf;
        break;
    default:
        return KVG_CU_INVALID_VALUE;
    }
    return KVG_CU_SUCCESS;
}

kvg_result cuDevicePrimaryCtxRetain(kvg_context *context, kvg_device_id device)
{
    FAKE_ENTER(FAKE_INIT);
    if (device != 0)
        return KVG_CU_INVALID_DEVICE;
    ++s.contexts;
    fake_start_work();
    *context = the_context;
    return KVG_CU_SUCCESS;
}

kvg_result cuDevicePrimaryCtxRelease_v2(kvg_device_id device)
{
    FAKE_ENTER(FAKE_INIT);
    if (device != 0 || s.contexts == 0)
        return KVG_CU_INVALID_CONTEXT;
    if (--s.contexts == 0)
        fake_stop_work();
    return KVG_CU_SUCCESS;
}

kvg_result cuCtxSetCurrent(kvg_context context)
{
    FAKE_ENTER(FAKE_INIT);
    if (context != NULL && context != the_context)
        return KVG_CU_INVALID_CONTEXT;
    has_context = context != NULL;
    return KVG_CU_SUCCESS;
}

kvg_result cuFlushGPUDirectRDMAWrites(int target, int scope)
{
    FAKE_ENTER(FAKE_CONTEXT);
    if (target != KVG_CU_FLUSH_TARGET_CURRENT || scope != KVG_CU_FLUSH_TO_OWNER)
        return KVG_CU_INVALID_VALUE;
    return fake_cfg.flush ? KVG_CU_SUCCESS : KVG_CU_NOT_SUPPORTED;
}
}
