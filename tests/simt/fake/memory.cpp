/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory.cpp - VRAM of the stand-in. An allocation is a memfd, so that two processes can share it;
 * a mapping is PROT_NONE but while device work runs, so that a CPU which touches VRAM dies of
 * SIGSEGV. (While it runs, other host threads aren't held off.)
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <map>

#include "inside.h"

struct allocation {
    int fd;
    size_t bytes;
    bool rdma, released;
    unsigned mappings;
    bool legacy, imported; /* cudaMalloc's; opened by an IPC handle */
};
struct mapping {
    size_t bytes;
    kvg_mem_handle handle;
    bool accessible;
};
static std::map<kvg_mem_handle, allocation> allocations;
static std::map<kvg_devptr, size_t> reservations, hosts;
static std::map<kvg_devptr, mapping> mappings;
static kvg_mem_handle last_handle = 0x1000;
static unsigned opened;

void fake_count_memory(fakecuda_live *live)
{
    for (const auto &a : allocations)
        live->handles += !a.second.released;
    live->reservations = (unsigned)reservations.size();
    live->mappings = (unsigned)mappings.size();
    live->hosts = (unsigned)hosts.size();
}

void fake_open_vram(bool open)
{
    if (open ? opened++ > 0 : --opened > 0)
        return;
    for (const auto &m : mappings)
        if (m.second.accessible)
            mprotect((void *)m.first, m.second.bytes, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

/* The entry that `at` lies in, or the end. */
template <typename M> static typename M::iterator holding(M &map, kvg_devptr at)
{
    auto i = map.upper_bound(at);

    return i == map.begin() ? map.end() : std::prev(i);
}

bool fake_may_touch(kvg_devptr at, size_t bytes)
{
    const auto r = holding(reservations, at);

    if (r == reservations.end() || at - r->first >= r->second)
        return true; /* not VRAM */

    const auto m = holding(mappings, at);

    return m != mappings.end() && m->second.accessible && at - m->first < m->second.bytes &&
           bytes <= m->second.bytes - (at - m->first);
}

static void forget_if_unused(kvg_mem_handle handle)
{
    const allocation &a = allocations.at(handle);

    if (!a.released || a.mappings > 0)
        return;
    close(a.fd);
    allocations.erase(handle);
}

static kvg_result keep(int fd, size_t bytes, bool rdma, kvg_mem_handle *handle)
{
    *handle = ++last_handle;
    allocations[*handle] = {fd, bytes, rdma, false, 0, false, false};
    return KVG_CU_SUCCESS;
}

static bool is_ours(const kvg_mem_prop *prop)
{
    return prop->type == KVG_CU_ALLOCATION_PINNED &&
           prop->location.type == KVG_CU_LOCATION_DEVICE && prop->location.id == 0;
}

static bool in_granules(uint64_t v)
{
    return v % FAKE_GRANULE == 0;
}

/* Mapped at once, and accessible; its address is reserved as long as it is. */
static kvg_result map_legacy(int fd, size_t bytes, bool imported, kvg_devptr *at)
{
    void *p = mmap(NULL, bytes, PROT_NONE, MAP_SHARED, fd, 0);
    kvg_mem_handle handle;

    if (p == MAP_FAILED) {
        close(fd);
        return KVG_CU_OUT_OF_MEMORY;
    }
    (void)keep(fd, bytes, fake_cfg.rdma, &handle);
    allocations[handle].legacy = !imported;
    allocations[handle].imported = imported;
    allocations[handle].mappings = 1;
    *at = (kvg_devptr)(uintptr_t)p;
    reservations[*at] = bytes;
    mappings[*at] = {bytes, handle, true};
    return KVG_CU_SUCCESS;
}

static kvg_result unmap_legacy(kvg_devptr at, bool imported)
{
    const auto m = mappings.find(at);

    if (m == mappings.end())
        return KVG_CU_INVALID_VALUE;

    const kvg_mem_handle handle = m->second.handle;
    allocation &a = allocations.at(handle);

    if (imported ? !a.imported : !a.legacy)
        return KVG_CU_INVALID_VALUE;
    munmap((void *)at, m->second.bytes);
    mappings.erase(m);
    reservations.erase(at);
    a.mappings = 0;
    a.released = true;
    forget_if_unused(handle);
    return KVG_CU_SUCCESS;
}

extern "C" {

kvg_result cuMemGetAllocationGranularity(size_t *bytes, const kvg_mem_prop *prop, int option)
{
    FAKE_ENTER(FAKE_INIT);
    if (!is_ours(prop) || option != KVG_CU_GRANULARITY_MINIMUM)
        return KVG_CU_INVALID_VALUE;
    *bytes = FAKE_GRANULE;
    return KVG_CU_SUCCESS;
}

kvg_result cuMemAddressReserve(kvg_devptr *at, size_t bytes, size_t alignment, kvg_devptr wish,
                               unsigned long long flags)
{
    FAKE_ENTER(FAKE_CONTEXT);
    if (bytes == 0 || !in_granules(bytes) || alignment > FAKE_GRANULE || wish != 0 || flags != 0)
        return KVG_CU_INVALID_VALUE;

    const size_t room = bytes + FAKE_GRANULE;
    char *p =
        (char *)mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED)
        return KVG_CU_OUT_OF_MEMORY;

    const size_t before = (size_t)(-(uintptr_t)p % FAKE_GRANULE);

    if (before > 0)
        munmap(p, before);
    if (room - before > bytes)
        munmap(p + before + bytes, room - before - bytes);
    *at = (kvg_devptr)(uintptr_t)(p + before);
    reservations[*at] = bytes;
    return KVG_CU_SUCCESS;
}

kvg_result cuMemAddressFree(kvg_devptr at, size_t bytes)
{
    FAKE_ENTER(FAKE_INIT);
    const auto r = reservations.find(at);
    const auto m = holding(mappings, at + bytes - 1);

    if (r == reservations.end() || r->second != bytes)
        return KVG_CU_INVALID_VALUE;
    if (m != mappings.end() && m->first >= at) /* still mapped */
        return KVG_CU_INVALID_VALUE;
    munmap((void *)at, bytes);
    reservations.erase(r);
    return KVG_CU_SUCCESS;
}

kvg_result cuMemCreate(kvg_mem_handle *handle, size_t bytes, const kvg_mem_prop *prop,
                       unsigned long long flags)
{
    FAKE_ENTER(FAKE_CONTEXT);
    size_t taken = 0;

    if (bytes == 0 || !in_granules(bytes) || !is_ours(prop) || flags != 0)
        return KVG_CU_INVALID_VALUE;
    if ((prop->handle_types & ~KVG_CU_HANDLE_POSIX_FD) != 0)
        return KVG_CU_NOT_SUPPORTED;
    for (const auto &a : allocations)
        taken += a.second.bytes;
    if (bytes > fake_cfg.bytes - taken)
        return KVG_CU_OUT_OF_MEMORY;

    const int fd = memfd_create("vram", MFD_CLOEXEC);

    if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0)
        return KVG_CU_OUT_OF_MEMORY;
    return keep(fd, bytes, prop->rdma_capable != 0 && fake_cfg.rdma, handle);
}

kvg_result cuMemRelease(kvg_mem_handle handle)
{
    FAKE_ENTER(FAKE_INIT);
    const auto a = allocations.find(handle);

    if (a == allocations.end() || a->second.released)
        return KVG_CU_INVALID_VALUE;
    a->second.released = true;
    forget_if_unused(handle);
    return KVG_CU_SUCCESS;
}

kvg_result cuMemMap(kvg_devptr at, size_t bytes, size_t offset, kvg_mem_handle handle,
                    unsigned long long flags)
{
    FAKE_ENTER(FAKE_CONTEXT);
    const auto r = holding(reservations, at);
    const auto a = allocations.find(handle);

    if (r == reservations.end() || a == allocations.end() || a->second.released || offset != 0 ||
        flags != 0 || !in_granules(bytes) || bytes > a->second.bytes || at - r->first > r->second ||
        bytes > r->second - (at - r->first))
        return KVG_CU_INVALID_VALUE;
    if (mmap((void *)at, bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, a->second.fd, 0) == MAP_FAILED)
        return KVG_CU_OUT_OF_MEMORY;
    mappings[at] = {bytes, handle, false};
    ++a->second.mappings;
    return KVG_CU_SUCCESS;
}

kvg_result cuMemUnmap(kvg_devptr at, size_t bytes)
{
    FAKE_ENTER(FAKE_CONTEXT);
    const auto m = mappings.find(at);

    if (m == mappings.end() || m->second.bytes != bytes)
        return KVG_CU_INVALID_VALUE;

    const kvg_mem_handle handle = m->second.handle;

    mmap((void *)at, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1,
         0);
    mappings.erase(m);
    --allocations.at(handle).mappings;
    forget_if_unused(handle);
    return KVG_CU_SUCCESS;
}

kvg_result cuMemSetAccess(kvg_devptr at, size_t bytes, const kvg_mem_access *access, size_t count)
{
    FAKE_ENTER(FAKE_CONTEXT);
    const auto m = mappings.find(at);

    if (m == mappings.end() || m->second.bytes != bytes || count != 1 ||
        access->location.type != KVG_CU_LOCATION_DEVICE || access->location.id != 0 ||
        access->flags != KVG_CU_ACCESS_READWRITE)
        return KVG_CU_INVALID_VALUE;
    m->second.accessible = true;
    return KVG_CU_SUCCESS;
}

kvg_result cuMemExportToShareableHandle(void *fd, kvg_mem_handle handle, int type,
                                        unsigned long long flags)
{
    FAKE_ENTER(FAKE_INIT);
    const auto a = allocations.find(handle);

    if (a == allocations.end() || a->second.released || type != KVG_CU_HANDLE_POSIX_FD ||
        flags != 0)
        return KVG_CU_INVALID_VALUE;
    *(int *)fd = fcntl(a->second.fd, F_DUPFD_CLOEXEC, 0);
    return *(int *)fd < 0 ? KVG_CU_OPERATING_SYSTEM : KVG_CU_SUCCESS;
}

kvg_result cuMemImportFromShareableHandle(kvg_mem_handle *handle, void *fd, int type)
{
    FAKE_ENTER(FAKE_CONTEXT);
    struct stat st;
    const int mine = fcntl((int)(intptr_t)fd, F_DUPFD_CLOEXEC, 0);

    if (type != KVG_CU_HANDLE_POSIX_FD || mine < 0)
        return KVG_CU_INVALID_VALUE;
    if (fstat(mine, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size == 0 ||
        !in_granules((uint64_t)st.st_size)) {
        close(mine);
        return KVG_CU_INVALID_VALUE;
    }
    return keep(mine, (size_t)st.st_size, fake_cfg.rdma, handle);
}

/* The stand-in's fd is that of the whole allocation, so a range must begin where that does. */
kvg_result cuMemGetHandleForAddressRange(void *fd, kvg_devptr at, size_t bytes, int type,
                                         unsigned long long flags)
{
    FAKE_ENTER(FAKE_CONTEXT);
    const auto m = mappings.find(at);
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

    if (flags == KVG_CU_RANGE_PCIE && !fake_cfg.pcie)
        return KVG_CU_NOT_SUPPORTED;
    if (type != KVG_CU_RANGE_DMABUF_FD || flags > KVG_CU_RANGE_PCIE || at % page != 0 ||
        bytes % page != 0 || bytes == 0 || m == mappings.end() || bytes > m->second.bytes)
        return KVG_CU_INVALID_VALUE;
    if (!fake_cfg.dmabuf || (flags == 0 && !fake_cfg.plain))
        return KVG_CU_NOT_SUPPORTED;
    *(int *)fd = fcntl(allocations.at(m->second.handle).fd, F_DUPFD_CLOEXEC, 0);
    return *(int *)fd < 0 ? KVG_CU_OPERATING_SYSTEM : KVG_CU_SUCCESS;
}

kvg_result cuPointerGetAttribute(void *value, int attribute, kvg_devptr at)
{
    FAKE_ENTER(FAKE_CONTEXT);
    const auto h = holding(hosts, at);
    const auto m = holding(mappings, at);

    if (h != hosts.end() && at - h->first < h->second && attribute == KVG_CU_POINTER_MEMORY_TYPE) {
        *(unsigned *)value = 1;
        return KVG_CU_SUCCESS;
    }
    if (m == mappings.end() || at - m->first >= m->second.bytes)
        return KVG_CU_INVALID_VALUE;

    const allocation &a = allocations.at(m->second.handle);

    switch (attribute) {
    case KVG_CU_POINTER_MEMORY_TYPE:
        *(unsigned *)value = KVG_CU_MEMORY_DEVICE;
        break;
    case KVG_CU_POINTER_IS_MANAGED:
        *(bool *)value = fake_cfg.managed;
        break;
    case KVG_CU_POINTER_DEVICE_ORDINAL:
        *(int *)value = fake_cfg.elsewhere ? 1 : 0;
        break;
    case KVG_CU_POINTER_IS_IPC_CAPABLE:
        *(bool *)value = a.legacy;
        break;
    case KVG_CU_POINTER_RANGE_START:
        *(kvg_devptr *)value = m->first;
        break;
    case KVG_CU_POINTER_RANGE_SIZE:
        *(size_t *)value = m->second.bytes;
        break;
    case KVG_CU_POINTER_IS_RDMA_CAPABLE:
        *(int *)value = a.rdma;
        break;
    default:
        return KVG_CU_INVALID_VALUE;
    }
    return KVG_CU_SUCCESS;
}

/* cudaMalloc's memory: nobody here asks for it but tests, who take the part of another allocator. */
__attribute__((visibility("default"))) kvg_result cuMemAlloc_v2(kvg_devptr *at, size_t bytes)
{
    FAKE_ENTER(FAKE_CONTEXT);
    const int fd = bytes > 0 ? memfd_create("vram", MFD_CLOEXEC) : -1;

    if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0)
        return KVG_CU_OUT_OF_MEMORY;
    return map_legacy(fd, bytes, false, at);
}

__attribute__((visibility("default"))) kvg_result cuMemFree_v2(kvg_devptr at)
{
    FAKE_ENTER(FAKE_CONTEXT);
    return unmap_legacy(at, false);
}

kvg_result cuIpcGetMemHandle(kvg_ipc_handle *handle, kvg_devptr at)
{
    FAKE_ENTER(FAKE_CONTEXT);
    const auto m = holding(mappings, at);

    if (m == mappings.end() || at - m->first >= m->second.bytes ||
        !allocations.at(m->second.handle).legacy)
        return KVG_CU_INVALID_VALUE;
    memset(handle, 0, sizeof(*handle));
    snprintf(handle->reserved, sizeof(handle->reserved), "/proc/%d/fd/%d", (int)getpid(),
             allocations.at(m->second.handle).fd);
    return KVG_CU_SUCCESS;
}

kvg_result cuIpcOpenMemHandle_v2(kvg_devptr *at, kvg_ipc_handle handle, unsigned flags)
{
    FAKE_ENTER(FAKE_CONTEXT);
    struct stat st;

    handle.reserved[sizeof(handle.reserved) - 1] = '\0';
    if (flags != KVG_CU_IPC_LAZY_PEER || strncmp(handle.reserved, "/proc/", 6) != 0)
        return KVG_CU_INVALID_VALUE;

    const int fd = open(handle.reserved, O_RDWR | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &st) != 0 || st.st_size == 0) {
        if (fd >= 0)
            close(fd);
        return KVG_CU_INVALID_HANDLE;
    }
    return map_legacy(fd, (size_t)st.st_size, true, at);
}

kvg_result cuIpcCloseMemHandle(kvg_devptr at)
{
    FAKE_ENTER(FAKE_CONTEXT);
    return unmap_legacy(at, true);
}

kvg_result cuMemHostAlloc(void **at, size_t bytes, unsigned flags)
{
    FAKE_ENTER(FAKE_CONTEXT);
    if (bytes == 0 || (flags & ~(unsigned)(KVG_CU_HOST_PORTABLE | KVG_CU_HOST_MAPPED)) != 0)
        return KVG_CU_INVALID_VALUE;
    *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (*at == MAP_FAILED)
        return KVG_CU_OUT_OF_MEMORY;
    hosts[(kvg_devptr)(uintptr_t)*at] = bytes;
    return KVG_CU_SUCCESS;
}

kvg_result cuMemFreeHost(void *at)
{
    FAKE_ENTER(FAKE_CONTEXT);
    const auto h = hosts.find((kvg_devptr)(uintptr_t)at);

    if (h == hosts.end())
        return KVG_CU_INVALID_VALUE;
    munmap(at, h->second);
    hosts.erase(h);
    return KVG_CU_SUCCESS;
}
}
