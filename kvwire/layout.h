/* SPDX-License-Identifier: Apache-2.0 */
/*
 * layout.h - the shape of a KV pool: whether it lies inside its memory, whether two peers' shapes
 * can be mapped onto each other, and the view of one chunk.
 *
 * What must match: layers, kv_heads, head_dim, dtype. What is mapped by the receiver, because a
 * chunk travels in the canonical order [token][head][dim]: block size, and every stride (NHD or
 * HND, K and V apart or packed, layer-major or block-major).
 *
 * threads  any      memory  none kept      time  none
 */
#ifndef KVW_LAYOUT_H
#define KVW_LAYOUT_H

#include "msg.h"

/* A pool whose counts are in range and whose every element lies inside pool->mem. On KVW_E_INVALID
 * *field names what doesn't ("pool.head_dim"). */
KVW_NODISCARD kvw_err kvw_pool_check(const struct kvw_pool *pool, const char **field);

struct kvw_shape kvw_pool_shape(const struct kvw_pool *pool);

/* Bytes of one token's K (or V) of one layer, all heads. */
uint32_t kvw_shape_token_bytes(const struct kvw_shape *shape);

/* The chunk (layer, kv, all heads, tokens [first, first + tokens)) of the sequence in blocks. */
struct kvw_view kvw_pool_view(const struct kvw_pool *pool, const uint32_t *blocks, uint32_t layer,
                              uint32_t kv, uint32_t first, uint32_t tokens);

/*
 * Whether these two can work together, in the order of SPEC.md 3.1. KVW_E_MISMATCH or
 * KVW_E_PROTOCOL: *text is a sentence that names the field and both values.
 */
KVW_NODISCARD kvw_err kvw_hello_match(const struct kvw_hello *here, const struct kvw_hello *peer,
                                      char text[KVW_TEXT_BYTES_MAX + 1]);

#endif
