/* SPDX-License-Identifier: Apache-2.0 */
/* Offers and streams of a dense model, for the tests of how transfers live and end. */
#include "dense.h"

#include <criterion/criterion.h>
#include <string.h>

static uint64_t what_of(const char *key)
{
    const kvw_key k = kvw_key_of(key);
    uint64_t what;

    memcpy(&what, k.bytes, sizeof(what));
    return what;
}

static void ids_of(uint32_t at, uint32_t ids[T_DENSE_BLOCKS])
{
    for (uint32_t i = 0; i < T_DENSE_BLOCKS; ++i)
        ids[i] = at * T_DENSE_BLOCKS + i;
}

void t_dense_begin(struct t_cores *c, uint32_t count, const struct kvw_core_config *cfg)
{
    t_cores_init(c, count, 1);
    for (uint32_t i = 0; i < count; ++i) {
        t_state_dense(&c->node[i].state, T_DENSE_LAYERS, 2, 64, KVW_DTYPE_BF16, 16, 80);
        t_state_make(&c->node[i].state);
        t_core_open(c, i, cfg);
        t_core_add_pool(c, i);
    }
}

kvw_xfer_ref t_dense_offer(struct t_cores *c, uint32_t to, uint32_t from, const char *key,
                           uint32_t tokens, uint32_t at, const struct kvw_offer_terms *terms)
{
    const kvw_peer_id source = t_core_peer(c, to, from);
    uint32_t ids[T_DENSE_BLOCKS];
    const struct kvw_group_blocks b = {0, T_DENSE_BLOCKS, ids, 0, 0, tokens};
    const struct kvw_offer_args args = {.size = sizeof(args),
                                        .pool = c->node[to].pool,
                                        .key = kvw_key_of(key),
                                        .tokens = tokens,
                                        .group_count = 1,
                                        .groups = &b,
                                        .sources = &source,
                                        .source_count = 1,
                                        .terms = terms};
    char why[257] = "";
    kvw_xfer_ref x = {0};

    ids_of(at, ids);
    cr_assert_eq(kvw_core_offer(c->node[to].core, &args, t_cores_now(c), &x, why, sizeof(why)),
                 KVW_OK, "%s", why);
    return x;
}

kvw_xfer_ref t_dense_stream(struct t_cores *c, uint32_t from, const char *key, uint32_t tokens,
                            uint32_t at, uint32_t receivers, uint64_t offer_by_ns)
{
    uint32_t ids[T_DENSE_BLOCKS];
    const struct kvw_group_blocks b = {0, T_DENSE_BLOCKS, ids, 0, 0, 0};
    const struct kvw_stream_args args = {.size = sizeof(args),
                                         .pool = c->node[from].pool,
                                         .key = kvw_key_of(key),
                                         .tokens = tokens,
                                         .group_count = 1,
                                         .groups = &b,
                                         .receivers = receivers,
                                         .offer_by_ns = offer_by_ns};
    char why[257] = "";
    kvw_xfer_ref x = {0};

    ids_of(at, ids);
    cr_assert_eq(kvw_core_stream(c->node[from].core, &args, t_cores_now(c), &x, why, sizeof(why)),
                 KVW_OK, "%s", why);
    return x;
}

char t_dense_why[257];

kvw_err t_dense_stage(struct t_cores *c, uint32_t from, const char *key, uint32_t at,
                      struct kvw_stage_args args, kvw_xfer_ref *x)
{
    uint32_t ids[T_DENSE_BLOCKS];
    const struct kvw_group_blocks b = {0, T_DENSE_BLOCKS, ids, 0, 0, 0};

    ids_of(at, ids);
    args.size = sizeof(args);
    args.pool = c->node[from].pool;
    args.key = kvw_key_of(key);
    args.group_count = 1;
    args.groups = &b;
    t_dense_why[0] = '\0';
    return kvw_core_stage(c->node[from].core, &args, t_cores_now(c), x, t_dense_why,
                          sizeof(t_dense_why));
}

kvw_err t_dense_pull(struct t_cores *c, uint32_t to, uint32_t from, const struct kvw_stage_ref *ref,
                     uint32_t at, kvw_xfer_ref *x)
{
    const kvw_peer_id source = t_core_peer(c, to, from);
    uint32_t ids[T_DENSE_BLOCKS];
    const struct kvw_group_blocks b = {0, T_DENSE_BLOCKS, ids, 0, 0, T_DENSE_STAGED};
    const struct kvw_offer_args args = {.size = sizeof(args),
                                        .pool = c->node[to].pool,
                                        .tokens = T_DENSE_STAGED,
                                        .group_count = 1,
                                        .groups = &b,
                                        .sources = &source,
                                        .source_count = 1,
                                        .staged = ref};

    ids_of(at, ids);
    t_dense_why[0] = '\0';
    return kvw_core_offer(c->node[to].core, &args, t_cores_now(c), x, t_dense_why,
                          sizeof(t_dense_why));
}

void t_dense_push(struct t_cores *c, uint32_t from, kvw_xfer_ref x, const char *key,
                  uint32_t tokens, uint32_t at)
{
    uint32_t ids[T_DENSE_BLOCKS];

    ids_of(at, ids);
    t_state_fill(&c->node[from].state, 0, ids, 0, 0, tokens, what_of(key));
    for (uint32_t l = 0; l < T_DENSE_LAYERS; ++l)
        cr_assert_eq(kvw_core_push(c->node[from].core, x, l, tokens, NULL), KVW_OK);
    cr_assert_eq(kvw_core_commit(c->node[from].core, x, key, (uint32_t)strlen(key)), KVW_OK);
}

bool t_dense_is(struct t_cores *c, uint32_t to, const char *key, uint32_t tokens, uint32_t at)
{
    uint32_t ids[T_DENSE_BLOCKS];

    ids_of(at, ids);
    return t_state_is(&c->node[to].state, 0, ids, 0, 0, tokens, what_of(key));
}
