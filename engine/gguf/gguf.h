/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gguf.h - reading a GGUF v3 file. It is untrusted input: every length, count, offset and type is
 * checked before use, and an error names the field and the value.
 *
 * threads  a struct kve_gguf is read-only after open; any number of threads may read it
 * memory   the file is mapped read-only; strings, arrays and tensor data point into the map and
 *          live until kve_gguf_close(). The index (keys, tensors) is allocated in open and is
 *          never larger than a small multiple of the file's own header
 * time     none
 * source   ggml's gguf.md; the checks are those that ggml makes, and bounds
 */
#ifndef KVE_GGUF_H
#define KVE_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../../kvwire/err.h"

#define KVE_WHY_BYTES 320

/* ggml's numbers. Only these are read; any other type of a tensor is an error that names it. */
typedef enum kve_type {
    KVE_TYPE_F32 = 0,
    KVE_TYPE_F16 = 1,
    KVE_TYPE_Q4_0 = 2,
    KVE_TYPE_Q4_1 = 3,
    KVE_TYPE_Q5_0 = 6,
    KVE_TYPE_Q5_1 = 7,
    KVE_TYPE_Q8_0 = 8,
    KVE_TYPE_Q4_K = 12,
    KVE_TYPE_Q5_K = 13,
    KVE_TYPE_Q6_K = 14,
    KVE_TYPE_BF16 = 30,
} kve_type;

struct kve_type_info {
    const char *name;      /* "Q4_1"; NULL: not a type we read */
    uint32_t block_values; /* values per block: 1, 32 or 256 */
    uint32_t block_bytes;
};

/* Never NULL; .name is NULL for a type we don't read. */
const struct kve_type_info *kve_type_info(uint32_t type);

/* ggml's name for any type number it has had, ours or not ("IQ4_NL"); NULL for an unknown one. */
const char *kve_type_name(uint32_t type);

/* A string inside the map; not NUL-terminated. */
struct kve_str {
    const char *at;
    uint64_t bytes;
};

#define KVE_DIMS_MAX 4

struct kve_tensor {
    struct kve_str name;
    uint32_t dims; /* 1 .. KVE_DIMS_MAX */
    /* Fastest first: ne[0] = row length (inputs), ne[1] = rows (outputs); 1 beyond dims. */
    uint64_t ne[KVE_DIMS_MAX];
    kve_type type;
    const void *at; /* the first block, 8-byte aligned at least */
    uint64_t bytes;
};

struct kve_gguf; /* opaque */

/*
 * Map and check a file; of a split model (NAME-00001-of-0000N.gguf) the first, which brings the
 * others, whose tensors join its own. Keys are the first file's.
 *   KVW_E_IO      it can't be opened or mapped
 *   KVW_E_FORMAT  it isn't a whole, sound GGUF v2/v3 file
 *   KVW_E_NOMEM
 * why gets one sentence that names the file, the field and the value. *g is untouched on an error.
 */
KVW_NODISCARD kvw_err kve_gguf_open(struct kve_gguf **g, const char *path, char why[KVE_WHY_BYTES]);

/*
 * The same over bytes in memory (tests, fuzzing), a whole model; they stay the caller's and must
 * outlive *g.
 * KVW_E_INVALID: bytes isn't a multiple of 8, as malloc's memory is.
 */
KVW_NODISCARD kvw_err kve_gguf_open_bytes(struct kve_gguf **g, const void *bytes, size_t n,
                                          char why[KVE_WHY_BYTES]);
void kve_gguf_close(struct kve_gguf *g); /* takes NULL */

/* How many files it is in: 1, or the parts of a split model. */
uint64_t kve_gguf_files(const struct kve_gguf *g);
/* File i as it is mapped, for fingerprints. */
const void *kve_gguf_bytes(const struct kve_gguf *g, uint64_t i, uint64_t *bytes);

/*
 * Metadata by key. Each returns KVW_E_NOTFOUND if there is no such key and KVW_E_FORMAT if its type
 * can't be read as asked (integers of any width and sign are taken if the value fits), leaving *v.
 */
kvw_err kve_gguf_u64(const struct kve_gguf *g, const char *key, uint64_t *v);
kvw_err kve_gguf_f32(const struct kve_gguf *g, const char *key, float *v);
kvw_err kve_gguf_bool(const struct kve_gguf *g, const char *key, bool *v);
kvw_err kve_gguf_str(const struct kve_gguf *g, const char *key, struct kve_str *v);

/* Arrays: count first, then one by one, each O(1). KVW_E_INVALID: i is not below the count. */
kvw_err kve_gguf_array_count(const struct kve_gguf *g, const char *key, uint64_t *count);
kvw_err kve_gguf_array_str(const struct kve_gguf *g, const char *key, uint64_t i,
                           struct kve_str *v);
kvw_err kve_gguf_array_i64(const struct kve_gguf *g, const char *key, uint64_t i, int64_t *v);
kvw_err kve_gguf_array_f32(const struct kve_gguf *g, const char *key, uint64_t i, float *v);

/* All keys, sorted by name. i is below the count. */
uint64_t kve_gguf_key_count(const struct kve_gguf *g);
struct kve_str kve_gguf_key_name(const struct kve_gguf *g, uint64_t i);

/* Make a sentence that quotes a file fit for any terminal and for JSON: what isn't printable ASCII
 * becomes '?'. */
void kve_why_clean(char why[KVE_WHY_BYTES]);

/* Tensors. by_name returns NULL if there is none. */
uint64_t kve_gguf_tensor_count(const struct kve_gguf *g);
const struct kve_tensor *kve_gguf_tensor(const struct kve_gguf *g, uint64_t i);
const struct kve_tensor *kve_gguf_tensor_by_name(const struct kve_gguf *g, const char *name);

#endif
