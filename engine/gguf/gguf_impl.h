/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gguf_impl.h - what gguf.c (reading and checking) and gguf_meta.c (looking up) share.
 *
 * threads  read-only after open      memory  see gguf.h      time  none
 */
#ifndef KVE_GGUF_IMPL_H
#define KVE_GGUF_IMPL_H

#include <endian.h>
#include <string.h>

#include "gguf.h"

/* Types of metadata values, gguf.md's numbers. */
enum kve_meta {
    KVE_META_U8 = 0,
    KVE_META_I8 = 1,
    KVE_META_U16 = 2,
    KVE_META_I16 = 3,
    KVE_META_U32 = 4,
    KVE_META_I32 = 5,
    KVE_META_F32 = 6,
    KVE_META_BOOL = 7,
    KVE_META_STRING = 8,
    KVE_META_ARRAY = 9,
    KVE_META_U64 = 10,
    KVE_META_I64 = 11,
    KVE_META_F64 = 12,
    KVE_META_TYPES = 13,
};

/* A key and where its value lies. Everything has been checked to be inside the file. */
struct kve_key {
    struct kve_str name;
    uint32_t type;       /* enum kve_meta; of an array: its elements' */
    bool array;          /* count elements instead of one */
    uint64_t count;      /* 1 for a scalar */
    const uint8_t *at;   /* the first element; unaligned */
    uint64_t *string_at; /* arrays of strings: each element's offset from at; else NULL */
};

struct kve_gguf {
    const uint8_t *bytes;
    uint64_t bytes_count;
    bool mapped;          /* bytes are ours to unmap */
    struct kve_key *keys; /* sorted by name */
    uint64_t key_count;
    struct kve_tensor *tensors; /* in the file's order */
    const struct kve_tensor **by_name;
    uint64_t tensor_count;
    struct kve_gguf **others; /* of a split model: parts 2 and later, in order */
    uint64_t other_count;
};

/* One file, which may be a part of a split model. As kve_gguf_open(). */
KVW_NODISCARD kvw_err kve_gguf_open_part(struct kve_gguf **g, const char *path,
                                         char why[KVE_WHY_BYTES]);
/* Fill by_name. 0, or the place in it of a name that is there twice. */
uint64_t kve_gguf_sort_tensors(struct kve_gguf *g);

/* Bytes of a value of this type; 0 for strings and arrays, which carry their own lengths. */
uint32_t kve_meta_bytes(uint32_t type);

/* Order by bytes, then by length. */
int kve_str_compare(struct kve_str a, struct kve_str b);

/* NULL if there is no such key. */
const struct kve_key *kve_gguf_key(const struct kve_gguf *g, struct kve_str name);

/* The integer at p, if type is an integer and it fits; bools are not integers. */
bool kve_meta_u64(uint32_t type, const uint8_t *p, uint64_t *v);

static inline uint32_t kve_load32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return le32toh(v);
}

static inline uint64_t kve_load64(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return le64toh(v);
}

#endif
