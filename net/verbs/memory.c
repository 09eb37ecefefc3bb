/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory.c - registered memory: regions that peers write, and announced sources of puts.
 *
 * A region's keys live as long as the region: each has memory regions of its own (never shared, so
 * that removing one takes its rkeys away and nobody else's), and addresses of its own, serial << 40
 * plus the low bits of the true address. So an rkey tells no pointer, no address means two regions,
 * and what an old key names never comes back.
 *
 * Memory that no CPU may touch climbs down a ladder: a dma-buf the device imports; else the plain
 * registration that nvidia-peermem and its like make work; else a copy in host memory that its
 * owner's functions carry over when something has landed.
 */
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../kvwire/wire/le.h"
#include "impl.h"

#define SERIAL_SHIFT 40
#define LOW_MASK     ((1ull << 30) - 1)
#define PIECE_BYTES  (64ull << 20)
#define THREADS_MAX  8u
#define REGION_ACCESS                                                                              \
    (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_RELAXED_ORDERING)

static void say(struct end *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(struct end *e, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vsnprintf(e->about + e->about_fixed, sizeof(e->about) - e->about_fixed, fmt, args);
    va_end(args);
}

/* --- pages ------------------------------------------------------------------------------------ */

struct populate {
    uint8_t *base;
    size_t bytes;
};

static void *populate_piece(void *arg)
{
    const struct populate *p = arg;

    (void)madvise(p->base, p->bytes, MADV_POPULATE_WRITE); /* only saves time */
    return NULL;
}

/* Registration pins page after page in one thread of the kernel; most of that time is making the
 * pages. So several threads make them first, each a piece. */
static void populate(const struct kvw_mem *mem)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uint8_t *const base = (uint8_t *)(((uintptr_t)mem->base + page - 1) & ~(page - 1));
    const uintptr_t end = ((uintptr_t)mem->base + mem->bytes) & ~(page - 1);
    const long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t n = cpus > 0 && cpus < (long)THREADS_MAX ? (uint32_t)cpus : THREADS_MAX;
    struct populate piece[THREADS_MAX];
    pthread_t thread[THREADS_MAX];
    bool started[THREADS_MAX];
    size_t each, bytes;

    if (mem->kind != KVW_MEM_HOST || mem->bytes < 2 * PIECE_BYTES || end <= (uintptr_t)base)
        return;
    bytes = end - (uintptr_t)base;
    if (n > bytes / PIECE_BYTES)
        n = (uint32_t)(bytes / PIECE_BYTES);
    each = (bytes / n + page - 1) & ~(page - 1);
    for (uint32_t i = 0; i < n; ++i) {
        const size_t at = i * each;

        piece[i] = (struct populate){base + at, at + each < bytes ? each : bytes - at};
        started[i] = pthread_create(&thread[i], NULL, populate_piece, &piece[i]) == 0;
    }
    for (uint32_t i = 0; i < n; ++i)
        if (started[i])
            (void)pthread_join(thread[i], NULL);
}

/* --- one range on every rail ------------------------------------------------------------------ */

static void deregister(struct verbs_mem *m)
{
    for (uint32_t i = 0; i < VERBS_RAILS; ++i)
        if (m->mr[i] != NULL)
            (void)ibv_dereg_mr(m->mr[i]);
    memset(m->mr, 0, sizeof(m->mr));
    if (m->shadow != NULL)
        munmap(m->shadow, m->mem.bytes);
    m->shadow = NULL;
}

uint64_t kvn_verbs_mem_address(const struct verbs_mem *m)
{
    return (uint64_t)m->serial << SERIAL_SHIFT | ((uintptr_t)m->mem.base & LOW_MASK);
}

enum rung { RUNG_PLAIN, RUNG_DMABUF, RUNG_SHADOW };

static int access_of(const struct verbs_mem *m)
{
    if (m->windowed)
        return IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_MW_BIND | IBV_ACCESS_RELAXED_ORDERING;
    return m->region ? REGION_ACCESS : IBV_ACCESS_LOCAL_WRITE;
}

/* 0, or errno with nothing registered. */
static int register_on_rails(struct end *e, struct verbs_mem *m, enum rung rung)
{
    const int access = access_of(m);
    const uint64_t iova = m->region ? kvn_verbs_mem_address(m) : (uintptr_t)m->mem.base;
    void *const base = rung == RUNG_SHADOW ? m->shadow : m->mem.base;

    for (uint32_t i = 0; i < e->rail_count; ++i) {
        struct rail *r = &e->rails[i];

        if (!r->alive)
            continue;
        if (rung == RUNG_DMABUF)
            m->mr[i] = ibv_reg_dmabuf_mr(r->pd, m->mem.dmabuf_offset, m->mem.bytes, iova,
                                         m->mem.dmabuf_fd, access);
        else
            m->mr[i] = ibv_reg_mr_iova2(r->pd, base, m->mem.bytes,
                                        rung == RUNG_SHADOW && !m->region ? (uintptr_t)base : iova,
                                        (unsigned)access);
        if (m->mr[i] == NULL) {
            const int error = errno != 0 ? errno : EIO;

            for (uint32_t k = 0; k < i; ++k)
                if (m->mr[k] != NULL)
                    (void)ibv_dereg_mr(m->mr[k]);
            memset(m->mr, 0, sizeof(m->mr));
            return error;
        }
        ++e->counters.registrations;
    }
    return 0;
}

/* With windows, if it is a region and the device takes them for such memory. */
static int try_rung(struct end *e, struct verbs_mem *m, enum rung rung)
{
    m->windowed = m->region && e->windows;
    if (m->windowed && register_on_rails(e, m, rung) == 0)
        return 0;
    m->windowed = false;
    return register_on_rails(e, m, rung);
}

/* The last rung. Puts from such memory are copied where they stand (tx.c); only regions need it. */
static kvw_err shadow(struct end *e, struct verbs_mem *m, const char *dmabuf, int peermem)
{
    const struct kvw_mem_device *d = m->mem.device;
    void *p;

    if (d == NULL || d->copy_in == NULL) {
        say(e,
            ". CUDA memory can't be registered (dma-buf: %s; peer memory: %s) and its owner "
            "gives no copy functions",
            dmabuf, strerror(peermem));
        return KVW_E_UNSUPPORTED;
    }
    p = mmap(NULL, m->mem.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return KVW_E_NOMEM;
    m->shadow = p;
    if (try_rung(e, m, RUNG_SHADOW) != 0) {
        munmap(m->shadow, m->mem.bytes);
        m->shadow = NULL;
        return KVW_E_NOMEM;
    }
    say(e,
        ". CUDA memory through a host copy (dma-buf: %s; peer memory: %s, is nvidia-peermem "
        "loaded?)",
        dmabuf, strerror(peermem));
    return KVW_OK;
}

/* By one of its dma-bufs, which is then m->mem's; 0: by the first. -1, and what the first said: by
 * none. */
static int try_dmabufs(struct end *e, struct verbs_mem *m, char *why, size_t size)
{
    const uint32_t more = m->mem.device != NULL ? m->mem.device->dmabuf_count : 0;
    int error;

    if (m->mem.dmabuf_fd < 0) {
        snprintf(why, size, "none was exported");
        return -1;
    }
    if ((error = try_rung(e, m, RUNG_DMABUF)) == 0)
        return 0;
    snprintf(why, size, "%s", strerror(error));
    for (uint32_t i = 0; i < more; ++i) {
        m->mem.dmabuf_fd = m->mem.device->dmabufs[i].fd;
        m->mem.dmabuf_offset = m->mem.device->dmabufs[i].offset;
        if (try_rung(e, m, RUNG_DMABUF) == 0)
            return (int)i + 1;
    }
    return -1;
}

static kvw_err register_cuda(struct end *e, struct verbs_mem *m)
{
    char dmabuf[64] = "";
    const int which = try_dmabufs(e, m, dmabuf, sizeof(dmabuf));
    int error;

    if (which == 0) {
        say(e, ". CUDA memory by dma-buf");
        return KVW_OK;
    }
    if (which > 0) {
        say(e, ". CUDA memory by dma-buf %d (the first: %s)", which + 1, dmabuf);
        return KVW_OK;
    }
    if ((error = try_rung(e, m, RUNG_PLAIN)) == 0) {
        say(e, ". CUDA memory by peer memory (dma-buf: %s)", dmabuf);
        return KVW_OK;
    }
    return m->region ? shadow(e, m, dmabuf, error) : KVW_E_UNSUPPORTED;
}

static kvw_err register_mem(struct end *e, struct verbs_mem *m)
{
    int error;

    if (m->mem.kind == KVW_MEM_CUDA)
        return register_cuda(e, m);
    if (m->mem.kind != KVW_MEM_HOST)
        return KVW_E_UNSUPPORTED;
    populate(&m->mem);
    if ((error = try_rung(e, m, RUNG_PLAIN)) == 0)
        return KVW_OK;
    say(e, ". %llu MiB of host memory can't be registered: %s%s",
        (unsigned long long)m->mem.bytes >> 20, strerror(error),
        error == ENOMEM ? " (is the limit of locked memory, ulimit -l, large enough?)" : "");
    return error == ENOMEM ? KVW_E_NOMEM : KVW_E_UNSUPPORTED;
}

static struct verbs_mem *mem_take(struct end *e, const struct kvw_mem *mem, bool region)
{
    const uint32_t from = region ? 0 : KVW_REGIONS_MAX;
    const uint32_t to = region ? KVW_REGIONS_MAX : KVW_REGIONS_MAX + VERBS_SOURCES;

    for (uint32_t i = from; i < to; ++i) {
        struct verbs_mem *m = &e->mems[i];

        if (m->used)
            continue;
        *m = (struct verbs_mem){.region = region, .users = 1, .mem = *mem};
        m->serial = ++e->next_serial;
        return m;
    }
    return NULL;
}

/* --- the operations --------------------------------------------------------------------------- */

kvw_err kvn_verbs_region_add(struct kvw_transport *t, const struct kvw_mem *mem, kvw_put_gate gate,
                             void *gate_arg, struct kvw_region_key *key)
{
    struct end *e = kvn_verbs_end(t);
    struct verbs_mem *m = mem_take(e, mem, true);
    kvw_err err;

    (void)gate; /* a device asks nobody; the rkey is the gate */
    (void)gate_arg;
    if (m == NULL)
        return KVW_E_NOMEM;
    if (mem->bytes == 0 || mem->bytes > 1ull << 39)
        return KVW_E_UNSUPPORTED;
    if ((err = register_mem(e, m)) != KVW_OK)
        return err;
    m->used = true;
    memset(key, 0, sizeof(*key));
    kvw_store_le64(key->bytes, kvn_verbs_mem_address(m));
    kvw_store_le64(key->bytes + 8, m->mem.bytes);
    for (uint32_t i = 0; i < VERBS_RAILS; ++i)
        kvw_store_le32(key->bytes + 16 + 4 * i,
                       m->mr[i] != NULL && !m->windowed ? m->mr[i]->rkey : 0);
    return KVW_OK;
}

struct verbs_mem *kvn_verbs_mem_region(struct end *e, uint64_t address)
{
    for (uint32_t i = 0; i < KVW_REGIONS_MAX; ++i)
        if (e->mems[i].used && e->mems[i].serial == address >> SERIAL_SHIFT)
            return &e->mems[i];
    return NULL;
}

void kvn_verbs_mem_remove(struct verbs_mem *m)
{
    deregister(m); /* returns when the device has forgotten the rkey: rule 6 */
    m->used = false;
}

kvw_err kvn_verbs_source_add(struct kvw_transport *t, const struct kvw_mem *mem)
{
    struct end *e = kvn_verbs_end(t);
    struct verbs_mem *m;
    kvw_err err;

    for (uint32_t i = KVW_REGIONS_MAX; i < KVW_REGIONS_MAX + VERBS_SOURCES; ++i) {
        m = &e->mems[i];
        if (m->used && m->mem.base == mem->base && m->mem.bytes == mem->bytes) {
            ++m->users;
            return KVW_OK;
        }
    }
    if ((m = mem_take(e, mem, false)) == NULL)
        return KVW_E_NOMEM;
    if ((err = register_mem(e, m)) != KVW_OK) {
        if (mem->device == NULL || mem->device->copy_out == NULL)
            return err;
        m->copied = true;
    }
    m->used = true;
    return KVW_OK;
}

void kvn_verbs_source_remove(struct kvw_transport *t, const struct kvw_mem *mem)
{
    struct end *e = kvn_verbs_end(t);

    if (e->pid != getpid())
        return;
    for (uint32_t i = KVW_REGIONS_MAX; i < KVW_REGIONS_MAX + VERBS_SOURCES; ++i) {
        struct verbs_mem *m = &e->mems[i];

        if (!m->used || m->mem.base != mem->base || m->mem.bytes != mem->bytes)
            continue;
        if (--m->users == 0) {
            deregister(m);
            m->used = false;
            e->last_source = NULL;
        }
        return;
    }
}

static bool holds(const struct verbs_mem *m, uintptr_t base, uint64_t bytes)
{
    const uintptr_t from = (uintptr_t)m->mem.base;

    return m->used && base >= from && base - from <= m->mem.bytes &&
           bytes <= m->mem.bytes - (base - from);
}

struct verbs_mem *kvn_verbs_mem_find(struct end *e, const void *base, uint64_t bytes)
{
    if (e->last_source != NULL && holds(e->last_source, (uintptr_t)base, bytes))
        return e->last_source;
    for (uint32_t i = KVW_REGIONS_MAX; i < KVW_REGIONS_MAX + VERBS_SOURCES; ++i)
        if (holds(&e->mems[i], (uintptr_t)base, bytes))
            return e->last_source = &e->mems[i];
    return NULL;
}

bool kvn_verbs_mem_landed(struct end *e, uint64_t address, uint32_t bytes, uint64_t *offset)
{
    struct verbs_mem *m = kvn_verbs_mem_region(e, address);
    const struct kvw_mem_device *d;

    if (m == NULL)
        return false;
    *offset = address - kvn_verbs_mem_address(m);
    if (*offset > m->mem.bytes || bytes > m->mem.bytes - *offset)
        return false;
    d = m->mem.device;
    if (m->shadow != NULL)
        return d->copy_in(d->arg, (uint8_t *)m->mem.base + *offset, m->shadow + *offset, bytes) ==
               KVW_OK;
    return d == NULL || d->flush == NULL || d->flush(d->arg) == KVW_OK;
}

void kvn_verbs_mem_close(struct end *e)
{
    for (uint32_t i = 0; i < KVW_REGIONS_MAX + VERBS_SOURCES; ++i) {
        if (e->mems[i].used)
            deregister(&e->mems[i]);
        e->mems[i].used = false;
    }
}
