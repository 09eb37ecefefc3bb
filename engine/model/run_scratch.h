/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run_scratch.h - the scratch of one forward pass and its steps; for run_scratch.c, forward.c and
 * attention.c.
 *
 * threads  one pass at a time; workers touch their own scratch and their own items' outputs
 * memory   one arena, taken in kve_run_open()
 * time     none
 */
#ifndef KVE_RUN_SCRATCH_H
#define KVE_RUN_SCRATCH_H

#include <stdatomic.h>

#include "matmul.h"
#include "model_impl.h"
#include "ops.h"
#include "threads.h"

/* Prefill attention: a tile of queries (times the heads that share K and V) against a tile of keys.
 * Decode attention: one query against segments of keys. All fixed, so that results don't depend on
 * the number of threads. */
#define KVE_QUERY_ROWS  192u /* queries x heads of a group in a tile, about */
#define KVE_KEY_TILE    256u
#define KVE_KEY_SEGMENT 64u

/* One worker's own memory. */
struct kve_scratch {
    float *panel;       /* [KVE_PANEL_ROWS][widest input, at least KVE_BATCH_MAX] */
    float *up;          /* [token_rows][KVE_PANEL_ROWS] */
    float *query, *out; /* [query_rows][head_dim] */
    float *scores;      /* [query_rows][KVE_KEY_TILE]; decode: [heads][KVE_KEY_SEGMENT] */
    float *k, *v;       /* [KVE_KEY_TILE][head_dim] */
    float *max, *sum;   /* [query_rows] */
};

struct kve_pass;

/* Who computes a chunk in the CPU's place. */
struct kve_steps {
    /* As forward.c's run_chunk(): logits[outputs][vocab] of the chunk's last tokens */
    kvw_err (*run_chunk)(struct kve_pass *p, const struct kve_hooks *hooks, uint32_t outputs,
                         float *logits);
    void (*close)(struct kve_run *r);
    void *(*stream)(const struct kve_run *r);
};

struct kve_run {
    const struct kve_steps *steps; /* NULL: the CPU does, and all below is there */
    void *device;                  /* the steps' own */
    const struct kve_model *m;
    const struct kve_kernels *kernels;
    struct kve_pool *pool;
    uint32_t prefill_tokens, seq_tokens_max;
    uint32_t token_rows;   /* tokens of a pass: prefill_tokens, at least KVE_BATCH_MAX */
    uint32_t query_tokens; /* queries in a tile */
    uint32_t cut_tokens;   /* tokens in a product: whole tiles of queries, see kve_run_cut() */
    float *arena;
    /* [token_rows][...], a token a row */
    float *x;               /* [hidden], the residual stream */
    float *norm;            /* [hidden] */
    float *q;               /* [heads * head_dim]; attention leaves its output here */
    float *k;               /* [kv_heads * head_dim] */
    float *v;               /* [kv_heads * head_dim] */
    float *ffn;             /* [ffn] */
    float *turn[KVE_ROPES]; /* [rope_dims], cos and sin; of each rotation that the model has */
    /* decode: each segment's part of the attention, [segments][heads] and [..][head_dim] */
    float *part_max, *part_sum, *part_out;
    struct kve_scratch *scratch; /* [threads] */
    atomic_bool failed;          /* a step's item ran out of memory */
    bool apart; /* a batch: products of each token as if it were alone, bit for bit */
};

/* One chunk of a prefill, one token of decode, or the next token of each of several sequences, on
 * its way through the layers. */
struct kve_pass {
    struct kve_run *r;
    const struct kvw_pool *kv;
    struct kve_seq *const *seqs; /* [count], of a batch; NULL: the tokens are one sequence's */
    const uint32_t *blocks;      /* of the one sequence */
    const uint32_t *tokens;
    uint32_t count; /* tokens in this chunk */
    uint32_t base;  /* position of the first */
    uint32_t layer;
};

/* A run with its numbers alone: no workers, no arena. KVW_E_INVALID, KVW_E_NOMEM. */
KVW_NODISCARD kvw_err kve_run_make(struct kve_run **r, const struct kve_model *m,
                                   uint32_t prefill_tokens, uint32_t seq_tokens_max);

static inline uint32_t kve_pass_position(const struct kve_pass *p, uint32_t token)
{
    return p->seqs != NULL ? p->seqs[token]->tokens : p->base + token;
}

static inline const uint32_t *kve_pass_blocks(const struct kve_pass *p, uint32_t token)
{
    return p->seqs != NULL ? p->seqs[token]->blocks : p->blocks;
}

/* Attention of all of the chunk's queries, from r->q into r->q. K and V of positions up to the
 * chunk's end are in the cache. */
void kve_attend_chunk(struct kve_pass *p);
/* The same for one query at position, q[heads * head_dim] in place. */
void kve_attend_one(struct kve_pass *p, float *q, uint32_t position);

#endif
