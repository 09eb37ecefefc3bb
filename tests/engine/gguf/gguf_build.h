/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gguf_build.h - build small GGUF files in memory, sound ones and, by writing raw bytes, broken
 * ones. For tests: out of memory aborts.
 *
 *   struct gb b = {0};
 *   gb_key_str(&b, "general.architecture", "llama");
 *   gb_tensor(&b, "output_norm.weight", KVE_TYPE_F32, 1, (uint64_t[]){8}, weights, 32);
 *   gb_finish(&b);             b.file.at, b.file.bytes: the file, aligned as malloc aligns
 *   gb_free(&b);
 *
 * Keys and tensors may be added in any order; gb_finish() lays them out. The counts in the header
 * are those added plus key_count_extra and tensor_count_extra.
 */
#ifndef TESTS_GGUF_BUILD_H
#define TESTS_GGUF_BUILD_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../../engine/gguf/gguf.h"

struct gb_buf {
    uint8_t *at;
    size_t bytes, room;
};

struct gb {
    struct gb_buf keys, infos, blob, file;
    uint64_t key_count, tensor_count;
    uint64_t key_count_extra, tensor_count_extra; /* lies, added to the header's counts */
    uint32_t version;                             /* 0: 3 */
    uint32_t alignment;                           /* 0: 32; gb_key_u32("general.alignment") too */
};

static inline void gb_raw(struct gb_buf *b, const void *p, size_t n)
{
    if (n > SIZE_MAX / 4)
        abort();
    if (b->bytes + n > b->room) {
        b->room = (b->bytes + n) * 2;
        b->at = realloc(b->at, b->room);
        if (b->at == NULL)
            abort();
    }
    if (n > 0)
        memcpy(b->at + b->bytes, p, n);
    b->bytes += n;
}

static inline void gb_u32(struct gb_buf *b, uint32_t v)
{
    const uint8_t le[4] = {(uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16), (uint8_t)(v >> 24)};

    gb_raw(b, le, sizeof(le));
}

static inline void gb_u64(struct gb_buf *b, uint64_t v)
{
    gb_u32(b, (uint32_t)v);
    gb_u32(b, (uint32_t)(v >> 32));
}

static inline void gb_f32(struct gb_buf *b, float v)
{
    uint32_t bits;

    memcpy(&bits, &v, sizeof(bits));
    gb_u32(b, bits);
}

static inline void gb_string(struct gb_buf *b, const void *p, size_t n)
{
    gb_u64(b, n);
    gb_raw(b, p, n);
}

/* A key and its value's type; the caller appends the value to b->keys. */
static inline struct gb_buf *gb_key(struct gb *b, const char *key, uint32_t type)
{
    gb_string(&b->keys, key, strlen(key));
    gb_u32(&b->keys, type);
    ++b->key_count;
    return &b->keys;
}

/* A key of an array; the caller appends count elements to b->keys. */
static inline struct gb_buf *gb_key_array(struct gb *b, const char *key, uint32_t type,
                                          uint64_t count)
{
    gb_key(b, key, 9);
    gb_u32(&b->keys, type);
    gb_u64(&b->keys, count);
    return &b->keys;
}

static inline void gb_key_u32(struct gb *b, const char *key, uint32_t v)
{
    gb_u32(gb_key(b, key, 4), v);
}

static inline void gb_key_u64(struct gb *b, const char *key, uint64_t v)
{
    gb_u64(gb_key(b, key, 10), v);
}

static inline void gb_key_f32(struct gb *b, const char *key, float v)
{
    gb_f32(gb_key(b, key, 6), v);
}

static inline void gb_key_bool(struct gb *b, const char *key, uint8_t v)
{
    gb_raw(gb_key(b, key, 7), &v, 1);
}

static inline void gb_key_str(struct gb *b, const char *key, const char *v)
{
    gb_string(gb_key(b, key, 8), v, strlen(v));
}

static inline uint64_t gb_read(const uint8_t *at, unsigned bytes)
{
    uint64_t v = 0;

    for (unsigned i = bytes; i-- > 0;)
        v = v << 8 | at[i];
    return v;
}

/* How many bytes the value at at takes: one of that type, or an array without arrays in it. */
static inline size_t gb_value_bytes(const uint8_t *at, uint32_t type)
{
    static const uint8_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    size_t n = 12;

    if (type == 8)
        return 8 + gb_read(at, 8);
    if (type != 9)
        return bytes[type];
    for (uint64_t i = gb_read(at + 4, 8); i > 0; --i)
        n += gb_value_bytes(at + n, (uint32_t)gb_read(at, 4));
    return n;
}

/* Take a key out again; false if there is none. */
static inline bool gb_drop_key(struct gb *b, const char *key)
{
    for (size_t at = 0; at < b->keys.bytes;) {
        const uint8_t *p = b->keys.at + at;
        const size_t name = gb_read(p, 8);
        const size_t bytes =
            12 + name + gb_value_bytes(p + 12 + name, gb_read(p + 8 + name, 4) & 15);

        if (name == strlen(key) && memcmp(p + 8, key, name) == 0) {
            memmove(b->keys.at + at, p + bytes, b->keys.bytes - at - bytes);
            b->keys.bytes -= bytes;
            --b->key_count;
            return true;
        }
        at += bytes;
    }
    return false;
}

/* A tensor's entry exactly as given, with nothing in the blob. */
static inline void gb_info(struct gb *b, const char *name, uint32_t type, uint32_t dims,
                           const uint64_t *ne, uint64_t offset)
{
    gb_string(&b->infos, name, strlen(name));
    gb_u32(&b->infos, dims);
    for (uint32_t i = 0; i < dims; ++i)
        gb_u64(&b->infos, ne[i]);
    gb_u32(&b->infos, type);
    gb_u64(&b->infos, offset);
    ++b->tensor_count;
}

/* A tensor and its n bytes (zeros if p is NULL), at the next aligned offset. */
static inline void gb_tensor(struct gb *b, const char *name, uint32_t type, uint32_t dims,
                             const uint64_t *ne, const void *p, size_t n)
{
    const uint32_t alignment = b->alignment == 0 ? 32 : b->alignment;
    const uint8_t zero = 0;

    while (b->blob.bytes % alignment != 0)
        gb_raw(&b->blob, &zero, 1);
    gb_info(b, name, type, dims, ne, b->blob.bytes);
    for (size_t i = 0; p == NULL && i < n; ++i)
        gb_raw(&b->blob, &zero, 1);
    if (p != NULL)
        gb_raw(&b->blob, p, n);
}

/* Put the file together; may be called again after more was added. */
static inline void gb_finish(struct gb *b)
{
    const uint32_t alignment = b->alignment == 0 ? 32 : b->alignment;
    const uint8_t zero = 0;

    b->file.bytes = 0;
    gb_raw(&b->file, "GGUF", 4);
    gb_u32(&b->file, b->version == 0 ? 3 : b->version);
    gb_u64(&b->file, b->tensor_count + b->tensor_count_extra);
    gb_u64(&b->file, b->key_count + b->key_count_extra);
    gb_raw(&b->file, b->keys.at, b->keys.bytes);
    gb_raw(&b->file, b->infos.at, b->infos.bytes);
    while (b->tensor_count > 0 && b->file.bytes % alignment != 0)
        gb_raw(&b->file, &zero, 1);
    gb_raw(&b->file, b->blob.at, b->blob.bytes);
}

static inline void gb_free(struct gb *b)
{
    free(b->keys.at);
    free(b->infos.at);
    free(b->blob.at);
    free(b->file.at);
    *b = (struct gb){0};
}

/* Write the file where path says (for programs and helpers that open by name); aborts if
 * it can't. */
static inline void gb_save(const struct gb *b, const char *path)
{
    FILE *f = fopen(path, "wb");

    if (f == NULL || fwrite(b->file.at, 1, b->file.bytes, f) != b->file.bytes || fclose(f) != 0)
        abort();
}

#endif
