/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kv_file.h - a file of real K and V, written by kv_dump and read by everything that measures a
 * codec: a header of eight 32-bit little-endian words, then bf16 [layer][K|V][token][head][dim].
 *
 * threads  plain functions; a struct kvp_kv belongs to one thread
 * memory   kvp_kv_open maps the file; kvp_kv_close unmaps it
 * time     none
 */
#ifndef KVP_KV_FILE_H
#define KVP_KV_FILE_H

#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define KVP_KV_MAGIC 0x3146564bu /* "KVF1" */

struct kvp_kv_head {
    uint32_t magic, layers, tokens, kv_heads, head_dim, reserved[3];
};

struct kvp_kv {
    struct kvp_kv_head head;
    uint32_t channels;      /* kv_heads * head_dim */
    const uint16_t *values; /* all of it, mapped read-only */
    void *map;
    size_t map_bytes;
};

/* Token-major values [token][channel] of one layer's K (0) or V (1). */
static inline const uint16_t *kvp_kv_at(const struct kvp_kv *kv, uint32_t layer, uint32_t which)
{
    return kv->values + ((size_t)layer * 2 + which) * kv->head.tokens * kv->channels;
}

/* false: no such file, or not one of ours. */
static inline bool kvp_kv_open(struct kvp_kv *kv, const char *path)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    void *map;

    if (fd < 0)
        return false;
    if (fstat(fd, &st) != 0 || (size_t)st.st_size < sizeof(kv->head)) {
        close(fd);
        return false;
    }
    map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    close(fd);
    if (map == MAP_FAILED)
        return false;
    kv->map = map;
    kv->map_bytes = (size_t)st.st_size;
    kv->head = *(const struct kvp_kv_head *)map;
    kv->channels = kv->head.kv_heads * kv->head.head_dim;
    kv->values = (const uint16_t *)((const char *)map + sizeof(kv->head));
    if (kv->head.magic == KVP_KV_MAGIC &&
        (uint64_t)kv->head.layers * 2 * kv->head.tokens * kv->channels * 2 + sizeof(kv->head) ==
            (uint64_t)st.st_size)
        return true;
    munmap(map, kv->map_bytes);
    return false;
}

static inline void kvp_kv_close(struct kvp_kv *kv)
{
    munmap(kv->map, kv->map_bytes);
}

#endif
