/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small llama by the driver and cuBLASLt, both stand-ins, all of it in VRAM: one stream prefills,
 * a second one copies each layer's pages to another pool behind its event, and a third decodes from
 * there behind the copies' events. The logits are the CPU engine's, and not so where an event is
 * forgotten. Without a GPU's library there is a sentence.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake_ask.h"
#include "gpu/run.h"
#include "toy.h"

enum {
    PROMPT = 2 * TOY_BLOCK, /* what is copied are blocks, and the step's own token is in none */
    WORKSPACE = 1 << 20,
    SEEDS = 4,
    LAYERS_MAX = 8,
};
#define WITHIN 0.035 /* of the logits' root mean square, as test_pass.cpp has it for a llama */

struct rig {
    struct toy t;
    struct t_gpu g;
    struct kvg_pool vram;
    uint64_t used;
    struct kvg_model model; /* what points to weights points into VRAM */
    struct kvg_layer layers[LAYERS_MAX];
    struct kvw_pool pool[2];
    struct kvg_scratch scratch[2];
    uint32_t *blocks, *tokens, *token;
    float *logits;
    struct kvg_blas *blas;
    struct kvg_run run[2]; /* prefill, decode */
    kvg_stream stream[3];  /* and what copies */
    kvg_event ready[LAYERS_MAX], arrived[LAYERS_MAX];
};

static void *room(struct rig *r, uint64_t bytes)
{
    void *at = (char *)r->vram.mem.base + r->used;

    r->used += (bytes + 255) / 256 * 256;
    cr_assert_leq(r->used, r->vram.mem.bytes);
    return at;
}

/* A copy in VRAM of so many bytes; NULL of NULL. */
static void *upload(struct rig *r, const void *host, uint64_t bytes)
{
    const struct kvw_mem_device *d = r->vram.mem.device;
    void *at;

    if (host == NULL)
        return NULL;
    at = room(r, bytes);
    cr_assert_eq(d->copy_in(d->arg, at, host, bytes), KVW_OK);
    return at;
}

static void upload_layer(struct rig *r, struct kvg_layer *l)
{
    const struct kvg_model *m = &r->t.gpu;
    const uint64_t q = m->heads * m->dim, qkv = q + 2 * m->kv_heads * m->dim, h = m->hidden;

    l->qkv = upload(r, l->qkv, 2 * qkv * h);
    l->output = upload(r, l->output, 2 * h * q);
    l->gate_up = upload(r, l->gate_up, 2 * 2 * m->ffn * h);
    l->down = upload(r, l->down, 2 * h * m->ffn);
    l->attn_norm = upload(r, l->attn_norm, 4 * h);
    l->ffn_norm = upload(r, l->ffn_norm, 4 * h);
    l->turn = upload(r, l->turn, (uint64_t)4 * TOY_TOKENS * 2 * m->pairs);
}

static void upload_model(struct rig *r)
{
    const struct kvg_model *m = &r->t.gpu;

    r->model = *m;
    cr_assert_leq(m->layers, LAYERS_MAX);
    for (uint32_t i = 0; i < m->layers; ++i) {
        r->layers[i] = m->layer[i];
        upload_layer(r, &r->layers[i]);
    }
    r->model.layer = r->layers;
    r->model.embd = upload(r, m->embd, (uint64_t)2 * m->vocab * m->hidden);
    r->model.logits = upload(r, m->logits, (uint64_t)2 * m->vocab * m->hidden);
    r->model.output_norm = upload(r, m->output_norm, (uint64_t)4 * m->hidden);
}

static void take_room(struct rig *r, uint32_t i)
{
    const struct kvg_model *m = &r->model;
    const uint64_t parts = kvg_pass_parts(m, TOY_TOKENS), n = PROMPT;

    r->pool[i] = *r->t.gpu_pool;
    r->pool[i].mem.base = upload(r, r->t.gpu_pool->mem.base, r->t.gpu_pool->mem.bytes);
    r->scratch[i] = (struct kvg_scratch){
        .x = room(r, 4 * n * m->hidden),
        .wide = room(r, 4 * n * kvg_pass_wide(m)),
        .q = room(r, 2 * n * m->heads * m->dim),
        .half = room(r, 2 * n * kvg_pass_half(m)),
        .part_max = room(r, 4 * parts),
        .part_sum = room(r, 4 * parts),
        .part_out = room(r, 4 * parts * m->dim),
        .tokens_max = PROMPT,
        .seq_tokens_max = TOY_TOKENS,
    };
}

static void make_streams(struct rig *r)
{
    const struct kvg_driver *d = &r->g.driver;
    char text[256] = "";

    for (int i = 0; i < 3; ++i)
        cr_assert_eq(d->stream_create(&r->stream[i], KVG_CU_STREAM_NON_BLOCKING, 0), 0);
    for (uint32_t l = 0; l < r->model.layers; ++l) {
        cr_assert_eq(d->event_create(&r->ready[l], KVG_CU_EVENT_DISABLE_TIMING), 0);
        cr_assert_eq(d->event_create(&r->arrived[l], KVG_CU_EVENT_DISABLE_TIMING), 0);
    }
    for (int i = 0; i < 2; ++i) {
        cr_assert_eq(kvg_run_open(&r->run[i], &r->g.dev, FAKECUDA_IMAGE, text, sizeof(text)),
                     KVW_OK, "%s", text);
        r->run[i].stream = r->stream[i];
        r->run[i].blas = r->blas;
    }
}

static void begin(struct rig *r, unsigned seed, const uint32_t *tokens)
{
    char text[256] = "";

    memset(r, 0, sizeof(*r));
    snprintf(text, sizeof(text), "%u", seed);
    setenv("FAKECUDA_SEED", text, 1);
    setenv("KVW_LIBCUBLASLT", FAKECUDA, 1);
    toy_open(&r->t, FAMILIES "/llama.gguf");
    t_gpu_open(&r->g);
    cr_assert_eq(kvg_pool_open(&r->vram, &r->g.dev, 8 << 20, text, sizeof(text)), KVW_OK);
    cr_assert_eq(kvg_blas_open(&r->blas, room(r, WORKSPACE), WORKSPACE, text, sizeof(text)), KVW_OK,
                 "%s", text);
    upload_model(r);
    take_room(r, 0);
    take_room(r, 1);
    r->blocks = upload(r, r->t.blocks, sizeof(r->t.blocks));
    r->tokens = upload(r, tokens, (PROMPT + 1) * sizeof(*tokens));
    r->token = room(r, sizeof(*r->token));
    r->logits = room(r, 4 * r->model.vocab);
    make_streams(r);
}

static void end(struct rig *r)
{
    const struct kvg_driver *d = &r->g.driver;

    for (int i = 0; i < 2; ++i)
        kvg_run_close(&r->run[i]);
    for (uint32_t l = 0; l < r->model.layers; ++l) {
        cr_expect_eq(d->event_destroy(r->ready[l]), 0);
        cr_expect_eq(d->event_destroy(r->arrived[l]), 0);
    }
    for (int i = 0; i < 3; ++i)
        cr_expect_eq(d->stream_destroy(r->stream[i]), 0);
    kvg_blas_close(r->blas);
    kvg_pool_close(&r->vram);
    t_gpu_close(&r->g);
    toy_close(&r->t);
}

static void enqueue(struct rig *r, int which, uint32_t first, uint32_t count)
{
    const struct kvg_pass p = {
        .m = &r->model,
        .runner = &r->run[which].runner,
        .scratch = r->scratch[which],
        .pool = &r->pool[which],
        .blocks = r->blocks,
        .tokens = r->tokens + first,
        .count = count,
        .first = first,
        .logits = which == 1 ? r->logits : NULL,
        .token = which == 1 ? r->token : NULL,
    };

    cr_assert_eq(kvg_pass_run(&p), KVW_OK);
}

static kvg_devptr block_at(const struct rig *r, int which, uint32_t layer, uint32_t i)
{
    const struct kvw_pool *p = &r->pool[which];

    return (kvg_devptr)(uintptr_t)p->mem.base + layer * p->layer_stride +
           r->t.blocks[i] * p->block_stride;
}

/* Layer by layer to the other pool, each behind the event that says it is there. */
static void enqueue_copies(struct rig *r, bool wait)
{
    const struct kvg_driver *d = &r->g.driver;

    for (uint32_t l = 0; l < r->model.layers; ++l) {
        if (wait)
            cr_assert_eq(d->stream_wait_event(r->stream[2], r->ready[l], 0), 0);
        for (uint32_t i = 0; i < PROMPT / TOY_BLOCK; ++i)
            cr_assert_eq(d->copy(block_at(r, 1, l, i), block_at(r, 0, l, i),
                                 r->pool[0].block_stride, r->stream[2]),
                         0);
        cr_assert_eq(d->event_record(r->arrived[l], r->stream[2], 0), 0);
    }
}

enum forgotten { NOTHING, READY, ARRIVED };

/* How far the step's logits are from the CPU's, in parts of their root mean square. */
static double hand_over(unsigned seed, enum forgotten forgotten)
{
    uint32_t tokens[PROMPT + 1], token, best = 0;
    double squares = 0, differences = 0;
    static float got[4096], want[4096];
    const struct kvw_mem_device *d;
    struct rig r;

    for (uint32_t i = 0; i <= PROMPT; ++i)
        tokens[i] = 4 + (i * 37 + i * i) % 500;
    begin(&r, seed, tokens);
    cr_assert_leq(r.model.vocab, 4096);
    d = r.vram.mem.device;
    r.run[0].ready = r.ready;
    r.run[1].arrived = forgotten == ARRIVED ? NULL : r.arrived;
    enqueue(&r, 0, 0, PROMPT);
    enqueue_copies(&r, forgotten != READY);
    enqueue(&r, 1, PROMPT, 1);
    for (int i = 2; i >= 0; --i)
        cr_assert_eq(r.g.driver.stream_synchronize(r.stream[i]), 0);
    cr_assert_eq(d->copy_out(d->arg, got, r.logits, 4 * r.model.vocab), KVW_OK);
    cr_assert_eq(d->copy_out(d->arg, &token, r.token, sizeof(token)), KVW_OK);
    toy_run(&r.t, tokens, PROMPT, NULL);
    toy_run(&r.t, tokens + PROMPT, 1, want);
    for (uint32_t i = 0; i < r.model.vocab; ++i) {
        best = got[i] > got[best] ? i : best;
        squares += (double)want[i] * want[i];
        differences += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
    }
    cr_expect(forgotten != NOTHING || token == best);
    end(&r);
    return isfinite(differences) ? sqrt(differences / squares) : INFINITY;
}

Test(gpu_pass, decode_goes_on_where_another_stream_prefilled)
{
    for (unsigned seed = 1; seed <= SEEDS; ++seed) {
        const double apart = hand_over(seed, NOTHING);

        cr_expect_leq(apart, WITHIN, "seed %u: %.4f", seed, apart);
    }
}

Test(gpu_pass, copies_that_wait_for_no_layer_are_seen)
{
    for (unsigned seed = 1; seed <= SEEDS; ++seed)
        cr_expect_gt(hand_over(seed, READY), 10 * WITHIN, "seed %u", seed);
}

Test(gpu_pass, a_step_that_waits_for_no_layer_is_seen)
{
    for (unsigned seed = 1; seed <= SEEDS; ++seed)
        cr_expect_gt(hand_over(seed, ARRIVED), 10 * WITHIN, "seed %u", seed);
}

/* A product of n tokens, in VRAM that is all zeros; how many plans there are then. */
static uint64_t multiply(struct rig *r, uint32_t n, uint32_t rows, kvw_err want)
{
    const struct kvg_product p = {.w = r->model.embd,
                                  .x = r->scratch[0].half,
                                  .y = r->scratch[0].wide,
                                  .tokens = n,
                                  .rows = rows,
                                  .cols = 8};

    cr_expect_eq(kvg_blas_multiply(r->blas, &p, r->stream[0]), want);
    return kvg_blas_plans(r->blas);
}

Test(gpu_pass, a_plan_for_a_bucket_of_tokens)
{
    const uint32_t tokens[PROMPT + 1] = {0};
    struct rig r;

    begin(&r, 1, tokens);
    cr_expect_eq(multiply(&r, 5, 8, KVW_OK), 1);
    cr_expect_eq(multiply(&r, 8, 8, KVW_OK), 1);
    cr_expect_eq(multiply(&r, 9, 8, KVW_OK), 2);
    cr_expect_eq(multiply(&r, 9, 16, KVW_OK), 3);
    cr_expect_eq(multiply(&r, 0, 16, KVW_E_INVALID), 3);
    for (uint32_t i = 0; i < KVG_BLAS_PLANS; ++i) /* the oldest ones go */
        (void)multiply(&r, 1, 1 + i, KVW_OK);
    cr_expect_eq(multiply(&r, 5, 8, KVW_OK), 3 + KVG_BLAS_PLANS + 1);
    cr_expect_eq(r.g.driver.stream_synchronize(r.stream[0]), 0);
    setenv("FAKECUBLAS_NOTHING", "1", 1);
    cr_expect_eq(multiply(&r, 17, 8, KVW_E_UNSUPPORTED), 3 + KVG_BLAS_PLANS + 1);
    end(&r);
}

static void expect_sentence(const char *library, kvw_err want, const char *part)
{
    struct kvg_blas *blas = (struct kvg_blas *)&want; /* not NULL */
    char text[256] = "";

    setenv("KVW_LIBCUBLASLT", library, 1);
    cr_expect_eq(kvg_blas_open(&blas, NULL, 0, text, sizeof(text)), want, "%s", text);
    cr_expect_null(blas);
    cr_expect_not_null(strstr(text, part), "%s", text);
}

Test(gpu_pass, without_cublas_there_is_a_sentence)
{
    struct t_gpu g;

    t_gpu_open(&g);
    expect_sentence("/nonexistent/libcublasLt.so", KVW_E_NOTFOUND, "cuBLAS: no cuBLASLt here: ");
    expect_sentence(HALFCUDA, KVW_E_UNSUPPORTED, "cuBLAS: the library has no cublasLtCreate");
    setenv("FAKECUBLAS_STATUS", "1", 1);
    expect_sentence(FAKECUDA, KVW_E_DEVICE, "cuBLAS: cuBLASLt doesn't start: status 1");
    setenv("FAKECUBLAS_STATUS", "3", 1);
    expect_sentence(FAKECUDA, KVW_E_NOMEM, "status 3");
    t_gpu_close(&g);
}

Test(gpu_pass, an_image_of_another_build_is_a_sentence)
{
    char text[256] = "";
    struct kvg_run run;
    struct t_gpu g;

    t_gpu_open(&g);
    cr_expect_eq(kvg_run_open(&run, &g.dev, "another", text, sizeof(text)), KVW_E_UNSUPPORTED);
    cr_expect_not_null(strstr(text, "takes no kernels"), "%s", text);
    t_gpu_close(&g);
}
