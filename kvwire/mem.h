/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mem.h - memory as kvwire sees it: a region that a transport may register, and the strided view of
 * one chunk of KV inside a paged pool. gpu/ makes regions in VRAM, engine/ in host memory; net/
 * registers them; compress/ reads and writes through views.
 *
 * threads  plain data, no functions that keep state
 * memory   a view borrows its block table and its pool; who made it says until when
 * time     none
 */
#ifndef KVW_MEM_H
#define KVW_MEM_H

#include <stddef.h>
#include <stdint.h>

#include "err.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum kvw_mem_kind {
    KVW_MEM_HOST = 1, /* the CPU may load and store it */
    KVW_MEM_CUDA = 2, /* VRAM of device_id; the CPU must not touch it */
} kvw_mem_kind;

/* A dma-buf of device memory. */
struct kvw_dmabuf {
    int32_t fd; /* the owner of the memory closes it */
    uint32_t reserved;
    uint64_t offset; /* of base inside */
};

/*
 * What the owner of memory that no CPU may touch does for a transport that can't reach it, or must
 * make a device's writes visible. Called from the transport's thread; each returns when it is done.
 */
struct kvw_mem_device {
    kvw_err (*copy_in)(void *arg, void *device, const void *host, uint64_t bytes);
    kvw_err (*copy_out)(void *arg, void *host, const void *device, uint64_t bytes);
    kvw_err (*flush)(
        void *arg); /* NULL: a completed write is visible by itself (queried by gpu/) */
    void *arg;
    /* Further dma-bufs of the same memory, to be tried in this order where a device doesn't take
     * mem.dmabuf_fd; borrowed as the struct is. */
    const struct kvw_dmabuf *dmabufs;
    uint32_t dmabuf_count;
    uint32_t reserved;
};

/* A contiguous range. base stays valid and fixed until the region made of it has been removed. */
struct kvw_mem {
    void *base;
    uint64_t bytes;
    kvw_mem_kind kind;
    int32_t device_id;      /* CUDA ordinal; 0 for host */
    int32_t dmabuf_fd;      /* -1: none exported; else the owner of the memory closes it */
    uint64_t dmabuf_offset; /* of base inside the dma-buf */
    const struct kvw_mem_device *device; /* borrowed as base is; NULL: host memory, or no help */
};

/* Element types of a KV pool; the numbers travel in HELLO. */
typedef enum kvw_dtype {
    KVW_DTYPE_F32 = 1,
    KVW_DTYPE_F16 = 2,
    KVW_DTYPE_BF16 = 3,
    KVW_DTYPE_F8_E4M3 = 4,
    KVW_DTYPE_F8_E5M2 = 5,
} kvw_dtype;

/* Bytes of one element, 0 for an unknown type. */
KVW_API uint32_t kvw_dtype_bytes(kvw_dtype dtype);

/*
 * A paged KV pool. The element (layer l, kv k, block b, token t inside the block, head h, dim d)
 * lies at
 *
 *   mem.base + l*layer_stride + k*kv_stride + b*block_stride + t*token_stride + h*head_stride
 *            + d*kvw_dtype_bytes(dtype)                                   k: 0 = K, 1 = V
 *
 * so that NHD and HND, K and V apart or packed, layer-major and block-major are all just strides
 * (in bytes). One head's head_dim values are always contiguous.
 */
struct kvw_pool {
    struct kvw_mem mem;
    uint32_t layers;       /* 1 .. KVW_LAYERS_MAX */
    uint32_t blocks;       /* blocks in the pool, ids 0 .. blocks-1 */
    uint32_t block_tokens; /* tokens per block, 1 .. KVW_BLOCK_TOKENS_MAX */
    uint32_t kv_heads;     /* 1 .. KVW_HEADS_MAX */
    uint32_t head_dim;     /* values, 1 .. KVW_HEAD_DIM_MAX */
    kvw_dtype dtype;
    uint64_t layer_stride;
    uint64_t kv_stride;
    uint64_t block_stride;
    uint64_t token_stride;
    uint64_t head_stride;
};

/*
 * One chunk's values where they lie: (one layer, K or V, a head range, a token range) of one
 * sequence. Canonical order of its raw bytes, the order that codecs and digests see:
 * [token][head][dim].
 *
 * Token i of the view (0 <= i < tokens) is token (first_token + i) of the block table:
 *   p = first_token + i;  block = blocks[p / block_tokens];  slot = p % block_tokens
 *   address = base + block*block_stride + slot*token_stride + h*head_stride
 */
struct kvw_view {
    unsigned char *base;    /* pool base plus this layer's, kv's and first head's offset */
    const uint32_t *blocks; /* borrowed; covers at least first_token + tokens tokens */
    uint32_t block_tokens;
    uint32_t first_token;
    uint32_t tokens;
    uint32_t heads;
    uint32_t head_bytes; /* head_dim * element bytes */
    kvw_dtype dtype;
    uint64_t block_stride;
    uint64_t token_stride;
    uint64_t head_stride;
};

/* tokens * heads * head_bytes. */
static inline uint64_t kvw_view_bytes(const struct kvw_view *v)
{
    return (uint64_t)v->tokens * v->heads * v->head_bytes;
}

/* Where (view token i, head h) lies. */
static inline unsigned char *kvw_view_at(const struct kvw_view *v, uint32_t i, uint32_t h)
{
    const uint32_t p = v->first_token + i;

    return v->base + v->blocks[p / v->block_tokens] * v->block_stride +
           (p % v->block_tokens) * v->token_stride + h * v->head_stride;
}

/*
 * Whether producer-side work (a CUDA stream, usually) that writes a range has finished. query
 * returns KVW_OK when it has, KVW_E_AGAIN while it hasn't, anything else when it never will. query
 * is called from the thread that polls the core, never blocks, and arg outlives the KVW_OK.
 */
struct kvw_ready {
    kvw_err (*query)(void *arg); /* NULL: ready now */
    void *arg;
};

#ifdef __cplusplus
}
#endif
#endif
