/* SPDX-License-Identifier: Apache-2.0 */
/*
 * layout.h - the layout of a pool as peers are told it (SPEC.md 3.6): groups and parts without
 * addresses. Made from a description (pool.h) or from a POOL message; both pass the same checks.
 *
 * threads  plain data
 * memory   one allocation a layout, taken by kvw_layout_of() and kvw_layout_decode(), given back by
 *          kvw_layout_free(). Not on the data path: pools come when a node starts or a peer joins
 * time     none
 */
#ifndef KVW_WIRE_LAYOUT_H
#define KVW_WIRE_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>

#include "../pool.h"
#include "types.h"

struct kvw_layout_part {
    char name[KVW_NAME_MAX + 1];
    uint32_t dtype;
    uint32_t row_bytes;
    uint32_t rows, row_first, rows_model;
};

struct kvw_layout_group {
    uint32_t kind; /* enum kvw_group_kind */
    uint32_t blocks;
    uint32_t block_entries;
    uint32_t entry_tokens;
    uint32_t window_tokens;
    uint32_t layer_count, part_count;
    uint16_t *layers; /* ascending */
    struct kvw_layout_part *parts;
};

struct kvw_layout {
    uint32_t model_layers;
    uint32_t group_count;
    uint8_t fingerprint[16];
    char name[KVW_NAME_MAX + 1];
    struct kvw_layout_group *groups;
};

/*
 * The layout of a description. why (why_bytes >= 1): a sentence that names the field.
 *   KVW_E_INVALID  a field is out of its range     KVW_E_NOMEM
 */
KVW_NODISCARD kvw_err kvw_layout_of(struct kvw_layout **out, const struct kvw_pool_desc *desc,
                                    char *why, size_t why_bytes);

/*
 * A POOL message that doesn't say "gone". *number is the writer's number of it.
 *   KVW_E_TRUNCATED, KVW_E_PROTOCOL (why names the field), KVW_E_NOMEM
 */
KVW_NODISCARD kvw_err kvw_layout_decode(struct kvw_layout **out, uint16_t *number,
                                        const uint8_t *msg, uint32_t bytes, char *why,
                                        size_t why_bytes);

/* Length of the message, <= KVW_MSG_BYTES_MAX; 0: it would be longer, nothing is written. */
uint32_t kvw_layout_encode(uint8_t to[KVW_MSG_BYTES_MAX], uint16_t number,
                           const struct kvw_layout *l);

/* POOL with "gone": the pool is no more. */
#define KVW_WIRE_POOL_GONE_LEN 4u
KVW_NODISCARD kvw_err kvw_pool_gone_decode(uint16_t *number, const uint8_t *msg, uint32_t bytes);
uint32_t kvw_pool_gone_encode(uint8_t *to, uint16_t number);
static inline bool kvw_pool_msg_gone(const uint8_t *msg, uint32_t bytes)
{
    return bytes >= 2 && msg[1] != 0;
}

/* Takes NULL. */
void kvw_layout_free(struct kvw_layout *l);

/* Index of the model's layer in the group, or KVW_LAYERS_MAX. */
uint32_t kvw_layout_layer(const struct kvw_layout_group *g, uint32_t layer);

/* Entries [*first, *end) of a group that tokens [token_first, token_end) of a sequence of `tokens`
 * lie in. A window is cut to its last tokens; a ROW group has one entry. Empty: *first == *end. */
void kvw_layout_entries(const struct kvw_layout_group *g, uint32_t tokens, uint32_t token_first,
                        uint32_t token_end, uint32_t *first, uint32_t *end);

#endif
