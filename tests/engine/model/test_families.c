/* SPDX-License-Identifier: Apache-2.0 */
/* A small model of each family (families.py) continues a prompt with the tokens that llama.cpp gave
 * (tests/golden/families.txt, written by tests/oracle/families.py), whatever the cut of the prompt;
 * and a layer with a window reads nothing that lies before it. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../../../engine/model/model.h"

enum {
    PROMPT = 90, /* longer than each window */
    STEPS = 32,
    SHOWN = 8, /* logits of a step in the golden file */
    BLOCK = 16,
    BLOCKS = (PROMPT + STEPS + BLOCK - 1) / BLOCK,
};

struct golden {
    char name[32];
    double within; /* of a logit */
    uint32_t steps;
    uint32_t token[STEPS];
    uint32_t id[STEPS][SHOWN];
    double logit[STEPS][SHOWN];
};

struct rig {
    struct kve_gguf *g;
    struct kve_model *m;
    struct kve_run *run;
    struct kve_kvcache kv;
    struct kve_seq seq;
    uint32_t blocks[BLOCKS], prompt[PROMPT];
    float *logits;
};

static const char *const names[] = {"llama", "qwen2", "qwen3", "gemma3", "gemma3-long"};

/* The rows of this name. A row: name, step, limit, token, then pairs of an id and its logit. */
static void read_golden(struct golden *g, const char *name)
{
    FILE *f = fopen(GOLDEN_FAMILIES, "r");
    char line[1024];

    cr_assert_not_null(f, "%s", GOLDEN_FAMILIES);
    memset(g, 0, sizeof(*g));
    while (fgets(line, sizeof(line), f) != NULL) {
        uint32_t step, token;
        double within;
        int at;

        if (sscanf(line, "%31s %u %lf %u%n", g->name, &step, &within, &token, &at) != 4 ||
            strcmp(g->name, name) != 0)
            continue;
        cr_assert_lt(step, STEPS);
        g->within = within;
        g->token[step] = token;
        for (int i = 0, n = 0; i < SHOWN; ++i, at += n)
            cr_assert_eq(sscanf(line + at, " %u:%lf%n", &g->id[step][i], &g->logit[step][i], &n), 2,
                         "%s", line);
        g->steps = step + 1;
    }
    fclose(f);
    cr_assert_geq(g->steps, 4, "%s: a golden file of so few steps says nothing", name);
}

static void rig_open(struct rig *r, const char *name, uint32_t chunk)
{
    char path[512], why[KVE_WHY_BYTES] = "";

    memset(r, 0, sizeof(*r));
    snprintf(path, sizeof(path), "%s/%s.gguf", FAMILIES, name);
    cr_assert_eq(kve_gguf_open(&r->g, path, why), KVW_OK, "%s", why);
    cr_assert_eq(kve_model_open(&r->m, r->g, why), KVW_OK, "%s", why);

    const struct kve_model_config *c = kve_model_config(r->m);

    cr_assert_eq(kve_run_open(&r->run, r->m, 1, chunk, PROMPT + STEPS), KVW_OK);
    /* Strides are bytes: a cache for twice the bf16 values is one for as many floats. */
    cr_assert_eq(kve_kvcache_open(&r->kv, c->layers, c->kv_heads, c->head_dim * 2, BLOCK, BLOCKS),
                 KVW_OK);
    r->kv.pool.head_dim = c->head_dim;
    r->kv.pool.dtype = KVW_DTYPE_F32;
    for (uint32_t i = 0; i < BLOCKS; ++i)
        r->blocks[i] = (i * 3 + 1) % BLOCKS; /* 3 and BLOCKS have no common factor */
    r->seq = (struct kve_seq){.blocks = r->blocks, .block_count = BLOCKS};
    for (uint32_t i = 0; i < PROMPT; ++i) /* as tests/oracle/families.py has it */
        r->prompt[i] = (i * 37 + i * i) % (c->vocab - 8) + 4;
    r->logits = calloc(c->vocab, sizeof(*r->logits));
}

static void rig_close(struct rig *r)
{
    free(r->logits);
    kve_kvcache_close(&r->kv);
    kve_run_close(r->run);
    kve_model_close(r->m);
    kve_gguf_close(r->g);
}

/* The prompt in calls of `call` tokens. */
static void prefill(struct rig *r, uint32_t call)
{
    for (uint32_t at = 0; at < PROMPT; at += call)
        cr_assert_eq(kve_prefill(r->run, &r->kv, &r->seq, r->prompt + at,
                                 PROMPT - at < call ? PROMPT - at : call, NULL, r->logits),
                     KVW_OK);
}

static uint32_t best(const struct rig *r)
{
    uint32_t at = 0;

    for (uint32_t i = 1; i < kve_model_config(r->m)->vocab; ++i)
        at = r->logits[i] > r->logits[at] ? i : at;
    return at;
}

/* How many steps agree with the golden rows: tokens, and the logits that they show. */
static uint32_t agreeing(struct rig *r, const struct golden *g)
{
    uint32_t step = 0;

    for (; step < g->steps; ++step) {
        for (int i = 0; i < SHOWN; ++i)
            if (!(fabs((double)r->logits[g->id[step][i]] - g->logit[step][i]) <= g->within))
                return step;
        if (best(r) != g->token[step])
            return step;
        cr_assert_eq(kve_decode(r->run, &r->kv, &r->seq, g->token[step], NULL, r->logits), KVW_OK);
    }
    return step;
}

Test(families, continue_as_llama_cpp_does)
{
    static const uint32_t cuts[][2] = {{PROMPT, 0}, {PROMPT, 7}, {31, 0}, {1, 0}}; /* call, chunk */

    for (size_t n = 0; n < sizeof(names) / sizeof(names[0]); ++n) {
        struct golden g;

        read_golden(&g, names[n]);
        for (size_t c = 0; c < sizeof(cuts) / sizeof(cuts[0]); ++c) {
            struct rig r;

            rig_open(&r, names[n], cuts[c][1]);
            prefill(&r, cuts[c][0]);
            cr_expect_eq(agreeing(&r, &g), g.steps, "%s, cut %zu", names[n], c);
            rig_close(&r);
        }
    }
}

/* ---- several sequences at once ---- */

enum {
    TOGETHER = 5,
};

/* How long each sequence's prompt is: at and beside the ends of blocks, segments and windows. */
static const uint32_t lengths[TOGETHER] = {PROMPT, 1, BLOCK, BLOCK + 1, 30};

struct together {
    struct kve_kvcache kv;
    struct kve_seq seqs[TOGETHER];
    uint32_t blocks[TOGETHER][BLOCKS], token[TOGETHER];
    float *logits; /* [TOGETHER][vocab] */
};

static void together_open(struct together *t, const struct rig *r)
{
    const struct kve_model_config *c = kve_model_config(r->m);

    memset(t, 0, sizeof(*t));
    cr_assert_eq(
        kve_kvcache_open(&t->kv, c->layers, c->kv_heads, c->head_dim, BLOCK, TOGETHER * BLOCKS),
        KVW_OK);
    t->logits = calloc((size_t)TOGETHER * c->vocab, sizeof(*t->logits));
    for (uint32_t i = 0; i < TOGETHER; ++i) {
        cr_assert_eq(kve_kvcache_alloc(&t->kv, BLOCKS, t->blocks[i]), KVW_OK);
        t->seqs[i] = (struct kve_seq){.blocks = t->blocks[i], .block_count = BLOCKS};
        cr_assert_eq(kve_prefill(r->run, &t->kv, &t->seqs[i], r->prompt + i, lengths[i], NULL,
                                 t->logits + (size_t)i * c->vocab),
                     KVW_OK);
        t->token[i] = r->prompt[i] + 1;
    }
}

static void together_close(struct together *t)
{
    free(t->logits);
    kve_kvcache_close(&t->kv);
}

/* Every sequence a token further, each alone or the first `count` at once. */
static void together_step(struct together *t, const struct rig *r, bool at_once, uint32_t count)
{
    const uint32_t vocab = kve_model_config(r->m)->vocab;
    struct kve_seq *seqs[TOGETHER];

    for (uint32_t i = 0; i < count; ++i) {
        seqs[i] = &t->seqs[i];
        if (!at_once)
            cr_assert_eq(kve_decode(r->run, &t->kv, seqs[i], t->token[i], NULL,
                                    t->logits + (size_t)i * vocab),
                         KVW_OK);
    }
    if (at_once)
        cr_assert_eq(kve_decode_batch(r->run, &t->kv,
                                      &(struct kve_batch){seqs, t->token, count, t->logits}, NULL),
                     KVW_OK);
    for (uint32_t i = 0; i < count; ++i)
        t->token[i] = (t->token[i] * 7 + i + 1) % vocab;
}

/* Logits and cache have the bits of each alone, whoever is beside it and however many there are. */
Test(families, a_batch_has_the_bits_of_each_alone)
{
    for (size_t n = 0; n < sizeof(names) / sizeof(names[0]); ++n) {
        struct together alone, at_once;
        struct rig r;

        rig_open(&r, names[n], 7);
        const uint32_t vocab = kve_model_config(r.m)->vocab;
        together_open(&alone, &r);
        together_open(&at_once, &r);
        for (uint32_t step = 0; step < 6; ++step) {
            const uint32_t count = step < 4 ? TOGETHER : step - 3; /* 1, 2 at the end */

            together_step(&alone, &r, false, count);
            together_step(&at_once, &r, true, count);
            for (uint32_t i = 0; i < count; ++i) {
                const size_t row = (size_t)i * vocab;

                cr_assert_eq(memcmp(alone.logits + row, at_once.logits + row, vocab * 4), 0,
                             "%s: step %u, sequence %u", names[n], step, i);
                cr_assert_eq(alone.seqs[i].tokens, at_once.seqs[i].tokens);
                if (i > 0) /* control */
                    cr_assert_neq(memcmp(alone.logits + row, at_once.logits, vocab * 4), 0,
                                  "%s: sequence %u is the first one", names[n], i);
            }
        }
        cr_assert_eq(
            memcmp(alone.kv.pool.mem.base, at_once.kv.pool.mem.base, alone.kv.pool.mem.bytes), 0,
            "%s: what is in the cache", names[n]);
        at_once.token[1] = (at_once.token[1] + 1) %
                           vocab; /* control: another token has other logits, and only that one */
        together_step(&alone, &r, false, 3);
        together_step(&at_once, &r, true, 3);
        for (uint32_t i = 0; i < 3; ++i)
            cr_assert_eq(memcmp(alone.logits + (size_t)i * vocab,
                                at_once.logits + (size_t)i * vocab, vocab * 4) != 0,
                         i == 1, "%s: sequence %u", names[n], i);
        together_close(&alone);
        together_close(&at_once);
        rig_close(&r);
    }
}

static bool after_two_layers(void *arg)
{
    uint32_t *asked = arg;

    return ++*asked == 3;
}

Test(families, a_batch_that_cannot_be_run_leaves_all_as_it_was)
{
    struct together t;
    struct kve_seq *seqs[TOGETHER];
    uint32_t asked = 0;
    struct rig r;

    rig_open(&r, names[0], 0);
    together_open(&t, &r);
    for (uint32_t i = 0; i < TOGETHER; ++i)
        seqs[i] = &t.seqs[i];
    struct kve_batch b = {seqs, t.token, TOGETHER, t.logits};
    const struct kve_hooks hooks = {.arg = &asked, .cancel = after_two_layers};

    cr_expect_eq(kve_decode_batch(r.run, &t.kv, &b, &hooks), KVW_E_CANCELED);
    cr_expect_eq(asked, 3);
    b.count = 0;
    cr_expect_eq(kve_decode_batch(r.run, &t.kv, &b, NULL), KVW_E_INVALID);
    b.count = KVE_BATCH_MAX + 1;
    cr_expect_eq(kve_decode_batch(r.run, &t.kv, &b, NULL), KVW_E_INVALID);
    b.count = TOGETHER;
    t.token[TOGETHER - 1] = kve_model_config(r.m)->vocab;
    cr_expect_eq(kve_decode_batch(r.run, &t.kv, &b, NULL), KVW_E_INVALID);
    for (uint32_t i = 0; i < TOGETHER; ++i)
        cr_expect_eq(t.seqs[i].tokens, lengths[i]);
    together_close(&t);
    rig_close(&r);
}

/* The control: another window, pattern and rotation, the same prompt. */
Test(families, do_not_continue_as_another_does)
{
    struct golden g;
    struct rig r;

    read_golden(&g, "gemma3");
    rig_open(&r, "gemma3-long", 0);
    prefill(&r, PROMPT);
    cr_expect_lt(agreeing(&r, &g), g.steps);
    rig_close(&r);
}

/* NaN in K and V of a layer, positions first .. end-1. */
static void poison(struct rig *r, uint32_t layer, uint32_t first, uint32_t end)
{
    const struct kvw_pool *p = &r->kv.pool;

    for (uint32_t at = first; at < end; ++at)
        for (uint32_t kv = 0; kv < 2; ++kv)
            memset((char *)p->mem.base + layer * p->layer_stride + kv * p->kv_stride +
                       r->blocks[at / BLOCK] * p->block_stride + at % BLOCK * p->token_stride,
                   0xff, p->token_stride);
}

Test(families, a_window_hides_what_lies_before_it)
{
    struct golden g;

    read_golden(&g, "gemma3");
    for (uint32_t early = 0; early < 2; ++early) {
        struct rig r;

        rig_open(&r, "gemma3", 0);
        prefill(&r, PROMPT);

        const struct kve_model_config *c = kve_model_config(r.m);
        uint32_t windowed = 0;

        cr_assert_eq(c->window, 20);
        for (uint32_t l = 0; l < c->layers; ++l) {
            if (kve_model_window(r.m, l) == 0)
                continue;
            ++windowed;
            /* The next query is that of position PROMPT, which sees PROMPT - 19 and later. */
            poison(&r, l, 0, PROMPT + 1 - c->window + early);
        }
        cr_expect_eq(windowed, c->window_layers);
        cr_expect_eq(windowed, 5);
        if (early == 0)
            cr_expect_eq(agreeing(&r, &g), g.steps);
        else /* the control: one position more is one that is seen */
            cr_expect_eq(agreeing(&r, &g), 1);
        rig_close(&r);
    }
}
