/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state.h - pools for tests of the core, made from what a model's state is: any layout, block size
 * and shard of it, filled with bytes that say where they belong, and compared by meaning.
 */
#ifndef T_CORE_STATE_H
#define T_CORE_STATE_H

#include "../../../kvwire/pool.h"

#include <stdbool.h>

#define T_STATE_LAYERS_MAX 16u
#define T_STATE_GROUPS_MAX 4u
#define T_STATE_PARTS_MAX  4u

struct t_part {
    const char *name;
    uint32_t dtype, row_bytes;
    uint32_t rows;      /* of the model */
    uint32_t row_first; /* here */
    uint32_t rows_here; /* 0: all */
};

struct t_group {
    uint32_t kind, block_entries, entry_tokens, window_tokens, blocks;
    uint32_t layer_count;
    uint32_t layers[T_STATE_LAYERS_MAX];
    uint32_t part_count;
    struct t_part parts[T_STATE_PARTS_MAX];
    bool rows_first;  /* [block][row][entry] instead of [block][entry][row] */
    bool packed;      /* the parts of a block side by side, instead of a plane each */
    bool own_tensors; /* a mem of its own for each layer */
};

/* A description with its memory; all of it lives as long as the struct. */
struct t_state {
    uint32_t model_layers;
    uint32_t group_count;
    struct t_group groups[T_STATE_GROUPS_MAX];

    struct kvw_pool_desc desc;
    struct kvw_group_desc group_descs[T_STATE_GROUPS_MAX];
    struct kvw_part_desc part_descs[T_STATE_GROUPS_MAX][T_STATE_PARTS_MAX];
    struct kvw_plane planes[T_STATE_GROUPS_MAX][T_STATE_PARTS_MAX][T_STATE_LAYERS_MAX];
    struct kvw_mem mems[T_STATE_GROUPS_MAX * T_STATE_LAYERS_MAX];
    uint32_t mem_count;
};

/* Take the memory and write the description from model_layers and groups. */
void t_state_make(struct t_state *s);
void t_state_free(struct t_state *s);

/* A dense model: `layers` layers of "k" and "v", heads of head_bytes. */
void t_state_dense(struct t_state *s, uint32_t layers, uint32_t heads, uint32_t head_bytes,
                   uint32_t dtype, uint32_t block_entries, uint32_t blocks);

/* Entries [first, end) of a group of a sequence whose bytes derive from `what`; entry `first` of
 * the sequence lies in blocks[0]'s first if base is a block's first entry. */
void t_state_fill(struct t_state *s, uint32_t group, const uint32_t *blocks, uint32_t base,
                  uint32_t first, uint32_t end, uint64_t what);
/* Whether they are those of `what`. */
bool t_state_is(const struct t_state *s, uint32_t group, const uint32_t *blocks, uint32_t base,
                uint32_t first, uint32_t end, uint64_t what);
/* Whether every byte of all memory is zero. */
bool t_state_is_zero(const struct t_state *s);

#endif
