/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dense.h - transfers of a small dense model between cores (cores.h), for tests of behaviour: node
 * n's pool has 40 blocks of 16 tokens, 3 layers. Block ids are chosen by `at`, so that transfers
 * don't share any.
 */
#ifndef T_CORE_DENSE_H
#define T_CORE_DENSE_H

#include "cores.h"

#define T_DENSE_LAYERS 3u
#define T_DENSE_BLOCKS 4u /* of a transfer */

/* count nodes, each with its pool; opened with cfg (NULL: as t_core_open() has it). */
void t_dense_begin(struct t_cores *c, uint32_t count, const struct kvw_core_config *cfg);
/* Node `to` offers blocks at*4 .. at*4+3 to `from`; terms may be NULL. */
kvw_xfer_ref t_dense_offer(struct t_cores *c, uint32_t to, uint32_t from, const char *key,
                           uint32_t tokens, uint32_t at, const struct kvw_offer_terms *terms);
kvw_xfer_ref t_dense_stream(struct t_cores *c, uint32_t from, const char *key, uint32_t tokens,
                            uint32_t at, uint32_t receivers, uint64_t offer_by_ns);
/* Fill the blocks from what the key says, push all layers, commit. */
void t_dense_push(struct t_cores *c, uint32_t from, kvw_xfer_ref x, const char *key,
                  uint32_t tokens, uint32_t at);
/* Node `from` stages (args: tokens, ref and what is special), or node `to` pulls T_DENSE_STAGED
 * tokens of *ref from node `from`; an error is returned, its sentence in t_dense_why. */
#define T_DENSE_STAGED 60u
extern char t_dense_why[257];
kvw_err t_dense_stage(struct t_cores *c, uint32_t from, const char *key, uint32_t at,
                      struct kvw_stage_args args, kvw_xfer_ref *x);
kvw_err t_dense_pull(struct t_cores *c, uint32_t to, uint32_t from, const struct kvw_stage_ref *ref,
                     uint32_t at, kvw_xfer_ref *x);
bool t_dense_is(struct t_cores *c, uint32_t to, const char *key, uint32_t tokens, uint32_t at);

#endif
