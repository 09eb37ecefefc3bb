/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool.h - a pool: memory with a shape. It says which state of a model lies where, so that two
 * nodes which lay the same state out differently can exchange it.
 *
 *     pool    one model's state in one process: groups
 *     group   layers that share one block table, and what an entry of that table stands for
 *     part    what one entry of one layer holds under one name: "k", "v", "latent", "k_scale" ...
 *     plane   where one part of one layer lies
 *
 * Example: Llama-3-8B in vLLM on two tensor-parallel ranks is one PAGED group of 32 layers with two
 * parts, "k" and "v", each of 4 rows (heads) of 256 bytes, rows 0..3 of 8 on rank 0 and 4..7 on
 * rank 1, and 64 planes.
 *
 * threads  plain data
 * memory   whoever keeps a description copies it
 * time     none
 */
#ifndef KVW_POOL_H
#define KVW_POOL_H

#include "mem.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KVW_GROUPS_MAX    16u   /* of a pool */
#define KVW_PARTS_MAX     16u   /* of a group */
#define KVW_MEMS_MAX      4096u /* of a pool: vLLM has a tensor a layer */
#define KVW_NAME_MAX      63u   /* bytes of a pool's or part's name */
#define KVW_ROWS_MAX      (1u << 20)
#define KVW_ROW_BYTES_MAX (1u << 20)

/* Element types beside those of mem.h, for parts that no codec but lz4, zstd and raw looks into. */
#define KVW_DTYPE_BYTES 6u /* bytes that only their owner can read */
#define KVW_DTYPE_U4X2  7u /* two values of 4 bits in a byte, as NVFP4 has them */

/* What an entry of a group's block table stands for. In uint32_t fields, so that structs don't
 * depend on an enum's size. */
enum kvw_group_kind {
    KVW_GROUP_PAGED = 1,  /* entry_tokens tokens each, from token 0 to the last */
    KVW_GROUP_WINDOW = 2, /* the same, but only of the last window_tokens tokens */
    KVW_GROUP_ROW = 3,    /* the one row of a request, of constant size: recurrent state */
};

/*
 * Where one part of one layer lies. Value j of row r of entry e (0 .. block_entries-1) of block b
 * is at
 *
 *     base + b*block_stride + e*entry_stride + r*row_stride + j*value_stride           in bytes
 *
 * value_stride 0 stands for values side by side. Every such address lies inside one of the pool's
 * mems. Rows of different parts may interleave, they may not overlap.
 */
struct kvw_plane {
    void *base;
    uint64_t block_stride;
    uint64_t entry_stride;
    uint64_t row_stride;
    uint64_t value_stride;
};

/*
 * One part of a group's entries. Its bytes in canonical order are [entry][row][value]; two nodes
 * agree on a part when name, dtype, row_bytes and rows_model are equal.
 *
 * Shards: this process holds rows row_first .. row_first + rows - 1 of the model's rows_model. A
 * row is a KV head for "k" and "v"; a latent has one row that every rank holds whole. Several ranks
 * may hold the same row (more ranks than heads).
 */
struct kvw_part_desc {
    const char *name;     /* 1 .. KVW_NAME_MAX printable ASCII; unique in its group */
    uint32_t dtype;       /* kvw_dtype; KVW_DTYPE_BYTES for what only its owner can read */
    uint32_t row_bytes;   /* 1 .. KVW_ROW_BYTES_MAX; a multiple of the dtype's bytes */
    uint32_t rows;        /* here, 1 .. KVW_ROWS_MAX */
    uint32_t row_first;   /* of the model's */
    uint32_t rows_model;  /* row_first + rows <= rows_model */
    uint32_t plane_bytes; /* sizeof(struct kvw_plane) as the caller knows it */
    const struct kvw_plane *planes; /* one for each of the group's layers, in the same order */
};

struct kvw_group_desc {
    uint32_t kind;          /* enum kvw_group_kind */
    uint32_t blocks;        /* block ids are 0 .. blocks-1; ROW: rows of requests */
    uint32_t block_entries; /* entries in a block, 1 .. KVW_BLOCK_TOKENS_MAX; ROW: 1 */
    uint32_t entry_tokens;  /* tokens an entry stands for: 1, 4, 128 ...; ROW: 0 */
    uint32_t window_tokens; /* WINDOW: >= 1; else 0 */
    uint32_t layer_count;   /* 1 .. KVW_LAYERS_MAX */
    const uint32_t
        *layers;         /* ascending numbers in the whole model, each < model_layers; a layer may
                               be in several groups, with parts of different names */
    uint32_t part_count; /* 1 .. KVW_PARTS_MAX */
    uint32_t part_bytes; /* sizeof(struct kvw_part_desc) as the caller knows it */
    const struct kvw_part_desc *parts;
};

struct kvw_pool_desc {
    uint32_t size;              /* sizeof(struct kvw_pool_desc) */
    uint32_t model_layers;      /* of the whole model, 1 .. KVW_LAYERS_MAX */
    uint8_t fingerprint[16];    /* of the weights; both sides must agree */
    const char *name;           /* of the model, for messages; <= KVW_NAME_MAX bytes kept */
    uint32_t mem_count;         /* 1 .. KVW_MEMS_MAX */
    uint32_t mem_bytes;         /* sizeof(struct kvw_mem) as the caller knows it */
    const struct kvw_mem *mems; /* all planes lie in these */
    uint32_t group_count;       /* 1 .. KVW_GROUPS_MAX */
    uint32_t group_bytes;       /* sizeof(struct kvw_group_desc) as the caller knows it */
    const struct kvw_group_desc *groups;
};

#ifdef __cplusplus
}
#endif
#endif
