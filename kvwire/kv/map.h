/* SPDX-License-Identifier: Apache-2.0 */
/*
 * map.h - one pool onto another: which part of which group of the sender's layout a part of the
 * receiver's is, and which rows and layers each of several senders is asked for.
 *
 * Two layouts can be mapped part by part. What must be equal: the model's fingerprint and, for each
 * part that is wanted, its name, the group's kind, entry_tokens and window_tokens, dtype, row_bytes
 * and rows_model. What may differ: block sizes, strides, planes, the split into groups, which rows
 * and layers either side holds, and how many sides hold them.
 *
 * threads  any      memory  none kept      time  none
 */
#ifndef KVW_KV_MAP_H
#define KVW_KV_MAP_H

#include "../wire/layout.h"
#include "../wire/xfers.h"

#define KVW_SOURCES_MAX 64u /* senders of one offer */

/* Where a part of a layer is in a layout. */
struct kvw_place_at {
    uint32_t group, part, layer_at; /* indexes */
};

/*
 * Find in `peer` what `here` calls (group, part) of the model's layer.
 *   KVW_E_NOTFOUND  the peer has no such part of that layer; why says so
 *   KVW_E_MISMATCH  it has one that is another thing; why names the field and both values
 */
KVW_NODISCARD kvw_err kvw_map_find(struct kvw_place_at *at, const struct kvw_layout *here,
                                   uint32_t group, uint32_t part, uint32_t layer,
                                   const struct kvw_layout *peer, char *why, size_t why_bytes);

/* What is wanted of one group of the receiver's layout. */
struct kvw_map_want {
    uint32_t group;
    uint32_t token_first, token_end; /* first < end */
};

/* What one source is asked for: a list that grows up to max. */
struct kvw_map_asked {
    struct kvw_wire_span *spans;
    uint32_t count, max;
};

/*
 * Share what is wanted among sources: every row of every layer and part is asked of exactly one
 * source that holds it. Rows that several hold are shared out by layers. asked[i] belongs to
 * sources[i]; its count is set.
 *
 *   KVW_E_MISMATCH  a source holds another thing under the same name, or nobody holds a row; why
 *                   names the part, the layer and the rows or the field
 *   KVW_E_NOMEM     more spans than asked[i].max, or than the scratch for row bounds holds
 */
KVW_NODISCARD kvw_err kvw_map_share(const struct kvw_layout *here, const struct kvw_map_want *wants,
                                    uint32_t want_count, const struct kvw_layout *const *sources,
                                    uint32_t source_count, struct kvw_map_asked *asked, char *why,
                                    size_t why_bytes);

/*
 * The sender's look at an offer's span: does it hold all of it?
 *   KVW_OK          yes
 *   KVW_E_MISMATCH  why names the field, or the rows or the layer that isn't here
 *   KVW_E_PROTOCOL  the span names a group or part that the receiver's layout doesn't have
 */
KVW_NODISCARD kvw_err kvw_map_check(const struct kvw_layout *here, const struct kvw_layout *peer,
                                    const struct kvw_wire_span *span, char *why, size_t why_bytes);

#endif
