/* SPDX-License-Identifier: Apache-2.0 */
/*
 * day_model.c - the step `model` of gpu_day: forward passes of Llama-3-8B's shape with random
 * weights. Prefill beside what cuBLASLt reaches with one large product in the same run, decode
 * beside what a copy reaches, and prefill once more while each layer's K and V are encoded behind
 * it by codec l0 on a stream of their own: how much later both end.
 */
#include "day.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compress/compress.h"
#include "gpu/jobs.h"
#include "gpu/run.h"

enum { BLOCK = 16, BATCH_MAX = 32, TIMES = 3, CHUNK = 1 << 19, ROOM = CHUNK + 64 };

/* What is measured. prefill: tokens of prompts; context: of a sequence that decode goes on with. */
struct sizes {
    uint32_t layers, hidden, heads, kv_heads, dim, ffn, vocab;
    uint32_t prefill[2], context, square; /* square: of the one large product */
    uint32_t chunk_tokens;                /* that are encoded as one */
    uint32_t batch;                       /* sequences of a decode's step, or one */
};
static const struct sizes large = {32,     4096,         32,   8,    128, 14336,
                                   128256, {2048, 8192}, 2048, 8192, 256, BATCH_MAX};
static const struct sizes tiny = {2, 64, 4, 2, 16, 96, 256, {24, 40}, 16, 64, 8, 3};

struct rig {
    struct day *y;
    struct sizes s;
    struct kvg_pool vram;
    uint64_t used;
    struct kvg_pinned pinned; /* tables, then streams of chunks */
    struct kvg_model m;
    struct kvg_layer layers[32];
    struct kvg_scratch scratch;
    struct kvw_pool kv;
    uint32_t *ids, *blocks, *tokens, *token; /* ids: the host's; the rest VRAM */
    float *logits;
    uint16_t *square[2];
    struct kvg_blas *blas;
    struct kvg_run run;
    struct kvw_jobs *q;
    struct kvw_job *jobs;
    uint32_t chunks; /* of a layer's K, or V, of the prompt at hand */
};

/* The next bytes of VRAM; NULL in the first walk, that measures. */
static void *take(struct rig *r, uint64_t bytes)
{
    void *at = r->vram.mem.base != NULL ? (char *)r->vram.mem.base + r->used : NULL;

    r->used += (bytes + 255) / 256 * 256;
    return at;
}

static uint32_t kv_blocks(const struct sizes *s)
{
    const uint32_t decode = s->batch * (s->context / BLOCK + 1),
                   prefill = s->prefill[1] / BLOCK + 1;

    return decode > prefill ? decode : prefill;
}

static void lay_out_kv(struct rig *r)
{
    const struct sizes *s = &r->s;
    struct kvw_pool *p = &r->kv;

    *p = (struct kvw_pool){.layers = s->layers,
                           .blocks = kv_blocks(s),
                           .block_tokens = BLOCK,
                           .kv_heads = s->kv_heads,
                           .head_dim = s->dim,
                           .dtype = KVW_DTYPE_BF16,
                           .mem = r->vram.mem};
    p->head_stride = 2ull * s->dim;
    p->token_stride = p->head_stride * s->kv_heads;
    p->kv_stride = p->token_stride * BLOCK;
    p->block_stride = 2 * p->kv_stride;
    p->layer_stride = p->block_stride * p->blocks;
    p->mem.base = take(r, p->layer_stride * s->layers);
    r->blocks = take(r, sizeof(*r->blocks) * p->blocks);
    r->tokens = take(r, sizeof(*r->tokens) * s->prefill[1]);
    r->token = take(r, sizeof(*r->token) * BATCH_MAX);
    r->logits = take(r, (uint64_t)sizeof(*r->logits) * BATCH_MAX * s->vocab);
}

/* All of VRAM in the one order, weights first. Returns their bytes. */
static uint64_t lay_out(struct rig *r)
{
    const struct sizes *s = &r->s;
    const uint64_t h = s->hidden, q = s->heads * s->dim, n = s->prefill[1];
    const uint64_t qkv = q + 2ull * s->kv_heads * s->dim, side = s->square;
    const struct kvg_model *m = &r->m;
    uint64_t weights;

    r->used = 0;
    for (uint32_t l = 0; l < s->layers; ++l) {
        struct kvg_layer *to = &r->layers[l];

        to->qkv = take(r, 2 * qkv * h);
        to->output = take(r, 2 * h * q);
        to->gate_up = take(r, 4 * s->ffn * h);
        to->down = take(r, 2 * h * s->ffn);
    }
    r->m.logits = take(r, 2 * s->vocab * h);
    weights = r->used;
    r->m.embd = take(r, 2 * s->vocab * h);
    r->square[0] = take(r, 2 * side * side);
    r->square[1] = take(r, 2 * side * side);
    r->m.output_norm = take(r, 4 * h);
    for (uint32_t l = 0; l < s->layers; ++l) {
        r->layers[l].attn_norm = r->layers[l].ffn_norm = r->m.output_norm;
        r->layers[l].turn = l == 0 ? take(r, 4 * n * s->dim) : r->layers[0].turn;
    }
    r->scratch = (struct kvg_scratch){
        .x = take(r, 4 * n * h),
        .wide = take(r, 4 * n * kvg_pass_wide(m)),
        .q = take(r, 2 * n * q),
        .half = take(r, 2 * n * kvg_pass_half(m)),
        .part_max = take(r, 4ull * kvg_pass_parts(m, (uint32_t)n)),
        .part_sum = take(r, 4ull * kvg_pass_parts(m, (uint32_t)n)),
        .part_out = take(r, 4ull * kvg_pass_parts(m, (uint32_t)n) * s->dim),
        .tokens_max = (uint32_t)n,
        .seq_tokens_max = (uint32_t)n,
    };
    lay_out_kv(r);
    return weights;
}

static void copy(struct rig *r, const void *to, const void *from, uint64_t bytes)
{
    day_must_cuda(
        r->y,
        r->y->d.copy((kvg_devptr)(uintptr_t)to, (kvg_devptr)(uintptr_t)from, bytes, r->run.stream),
        "a copy");
}

static void finish(struct rig *r)
{
    day_must_cuda(r->y, r->y->d.stream_synchronize(r->run.stream), "the stream");
}

/* Random weights of +-2^-6 at most to `bytes` of VRAM: one piece, again and again. */
static void fill_weights(struct rig *r, uint64_t bytes)
{
    const uint64_t piece = r->pinned.mem.bytes < bytes ? r->pinned.mem.bytes / 2 * 2 : bytes;
    uint16_t *values = r->pinned.mem.base;
    uint32_t random = 1;

    for (uint64_t i = 0; i < piece / 2; ++i) {
        random = random * 1664525 + 1013904223;
        values[i] =
            (uint16_t)((random >> 16 & 0x807fu) | (120u - __builtin_ctz(random | 256)) << 7);
    }
    for (uint64_t at = 0; at < bytes; at += piece)
        copy(r, (char *)r->vram.mem.base + at, values, bytes - at < piece ? bytes - at : piece);
    finish(r);
}

/* Norms of 1, turns, tokens, and which blocks are whose: each other one, the odd ones last. */
static void fill_rest(struct rig *r)
{
    const struct sizes *s = &r->s;
    float *f = r->pinned.mem.base;
    uint32_t *u = r->pinned.mem.base;

    for (uint32_t i = 0; i < s->hidden; ++i)
        f[i] = 1;
    copy(r, r->m.output_norm, f, 4ull * s->hidden);
    finish(r);
    for (uint32_t i = 0; i < s->prefill[1] * s->dim / 2; ++i) {
        const double at = i / (s->dim / 2) * pow(500000, -2.0 * (i % (s->dim / 2)) / s->dim);

        f[2 * i] = (float)cos(at);
        f[2 * i + 1] = (float)sin(at);
    }
    copy(r, r->layers[0].turn, f, 4ull * s->prefill[1] * s->dim);
    finish(r);
    for (uint32_t i = 0; i < s->prefill[1]; ++i)
        u[i] = i * 37 % s->vocab;
    copy(r, r->tokens, u, 4ull * s->prefill[1]);
    finish(r);
    for (uint32_t i = 0; i < r->kv.blocks; ++i)
        u[i] = r->ids[i] =
            i < (r->kv.blocks + 1) / 2 ? 2 * i : 2 * (i - (r->kv.blocks + 1) / 2) + 1;
    copy(r, r->blocks, u, 4ull * r->kv.blocks);
    finish(r);
}

static uint32_t jobs_of(const struct sizes *s, uint32_t tokens)
{
    return 2 * s->layers * ((tokens + s->chunk_tokens - 1) / s->chunk_tokens);
}

static void open_rig(struct rig *r, struct day *y)
{
    const struct sizes *s = y->small ? &tiny : &large;
    struct kvg_jobs_config cfg = {.image = y->image, .chunk_bytes = CHUNK};
    void *workspace;
    uint64_t weights;

    memset(r, 0, sizeof(*r));
    r->y = y;
    r->s = *s;
    r->m = (struct kvg_model){.layers = s->layers,
                              .hidden = s->hidden,
                              .heads = s->heads,
                              .kv_heads = s->kv_heads,
                              .dim = s->dim,
                              .ffn = s->ffn,
                              .vocab = s->vocab,
                              .pairs = s->dim / 2,
                              .halves = true,
                              .eps = 1e-5f,
                              .embd_scale = 1,
                              .attn_scale = (float)(1 / sqrt(s->dim)),
                              .layer = r->layers};
    (void)lay_out(r);
    (void)take(r, KVG_BLAS_WORKSPACE);
    day_must(y, kvg_pool_open(&r->vram, &y->dev, r->used, y->text, sizeof(y->text)), "VRAM");
    weights = lay_out(r);
    workspace = take(r, KVG_BLAS_WORKSPACE);
    day_must(y,
             kvg_pinned_open(&r->pinned, &y->dev, (uint64_t)jobs_of(s, s->prefill[1]) * ROOM,
                             y->text, sizeof(y->text)),
             "pinned memory");
    day_must(y, kvg_run_open(&r->run, &y->dev, y->image, y->text, sizeof(y->text)), "kernels");
    day_must(y, kvg_blas_open(&r->blas, workspace, KVG_BLAS_WORKSPACE, y->text, sizeof(y->text)),
             "cuBLASLt");
    day_must_cuda(y, y->d.stream_create(&r->run.stream, KVG_CU_STREAM_NON_BLOCKING, 0), "a stream");
    r->run.blas = r->blas;
    cfg.jobs_max = jobs_of(s, s->prefill[1]);
    cfg.columns = s->kv_heads * s->dim;
    cfg.table_blocks = s->chunk_tokens / BLOCK + 2;
    day_must(y, kvg_jobs_open(&r->q, &y->dev, &cfg, y->text, sizeof(y->text)), "a queue");
    r->jobs = calloc(cfg.jobs_max, sizeof(*r->jobs));
    r->ids = calloc(r->kv.blocks, sizeof(*r->ids));
    if (r->jobs == NULL || r->ids == NULL)
        day_give_up("model", "no memory");
    fill_weights(r, weights + 2ull * s->vocab * s->hidden + 4ull * s->square * s->square);
    fill_rest(r);
}

static void close_rig(struct rig *r)
{
    r->q->ops->close(r->q);
    (void)r->y->d.stream_destroy(r->run.stream);
    kvg_blas_close(r->blas);
    kvg_run_close(&r->run);
    kvg_pinned_close(&r->pinned);
    kvg_pool_close(&r->vram);
    free(r->jobs);
    free(r->ids);
}

/* ---- rows ------------------------------------------------------------------------------------ */

static void row(const char *what, uint32_t tokens, double seconds, double figure, double of)
{
    printf("%s,%u,%.6f,%.6g,%.6g,%.4g\n", what, tokens, seconds, figure, of,
           of > 0 ? figure / of : 0);
    fflush(stdout);
}

/* TFLOP/s of one large product. */
static double peak(struct rig *r)
{
    const uint32_t side = r->s.square;
    const struct kvg_product p = {.w = r->square[0],
                                  .x = r->square[1],
                                  .y = r->scratch.wide,
                                  .tokens = side,
                                  .rows = side,
                                  .cols = side};
    double t[TIMES], m;

    for (int i = -1; i < TIMES; ++i) { /* the first one is planned */
        const double begin = day_now_s();

        for (int k = 0; k < 4; ++k)
            day_must(r->y, kvg_blas_multiply(r->blas, &p, r->run.stream), "a product");
        finish(r);
        if (i >= 0)
            t[i] = (day_now_s() - begin) / 4;
    }
    m = day_median(t, TIMES);
    return 2.0 * side * side * side / m / 1e12;
}

/* What a prompt costs: pass.c leaves out of the last layer what only its last token needs. */
static double flops(const struct sizes *s, double n)
{
    const double q = (double)s->heads * s->dim, kv = (double)s->kv_heads * s->dim, h = s->hidden;
    const double after = h * q + 3.0 * h * s->ffn, rows = n * (s->layers - 1) + 1;

    return 2 * (n * s->layers * h * (q + 2 * kv) + rows * after + h * s->vocab) +
           4 * q * ((s->layers - 1) * n * (n + 1) / 2 + n);
}

static double prefill_once(struct rig *r, const struct kvg_runner *runner, uint32_t tokens)
{
    const struct kvg_pass p = {.m = &r->m,
                               .runner = runner,
                               .scratch = r->scratch,
                               .pool = &r->kv,
                               .blocks = r->blocks,
                               .tokens = r->tokens,
                               .count = tokens,
                               .logits = r->logits,
                               .token = r->token};
    const double begin = day_now_s();

    day_must(r->y, kvg_pass_run(&p), "a prompt");
    finish(r);
    return day_now_s() - begin;
}

/* One step of so many sequences; the seconds of TIMES steps after one that is planned. */
static double decode_step(struct rig *r, uint32_t batch)
{
    struct kvg_row rows[BATCH_MAX];
    const struct kvg_pass p = {.m = &r->m,
                               .runner = &r->run.runner,
                               .scratch = r->scratch,
                               .pool = &r->kv,
                               .blocks = r->blocks,
                               .tokens = r->tokens,
                               .count = batch,
                               .first = r->s.context,
                               .rows = batch > 1 ? rows : NULL,
                               .logits = r->logits,
                               .token = r->token};
    double t[TIMES];

    for (uint32_t i = 0; i < batch; ++i)
        rows[i] = (struct kvg_row){.blocks = r->blocks + (size_t)i * (r->s.context / BLOCK + 1),
                                   .first = r->s.context};
    for (int i = -1; i < TIMES; ++i) {
        const double begin = day_now_s();

        day_must(r->y, kvg_pass_run(&p), "a step");
        finish(r);
        if (i >= 0)
            t[i] = day_now_s() - begin;
    }
    return day_median(t, TIMES);
}

/* GB that a step reads: weights, and each sequence's K and V. */
static double step_gb(const struct rig *r, double weights, uint32_t batch)
{
    const double token = 2.0 * r->kv.token_stride * r->s.layers;

    return (weights + batch * token * (r->s.context + 1)) / 1e9;
}

/* ---- beside the encoders --------------------------------------------------------------------- */

/* Chunk i of a layer's K or V, and where its stream goes. */
static void submit(struct rig *r, uint32_t layer, uint32_t kv, uint32_t i)
{
    const struct kvw_pool *p = &r->kv;
    const uint32_t at = (2 * layer + kv) * r->chunks + i;
    struct kvw_job *j = &r->jobs[at];

    *j = (struct kvw_job){
        .codec = &kvc_codec_l0,
        .args = {.kv = kv},
        .view = {.base = (unsigned char *)p->mem.base + layer * p->layer_stride + kv * p->kv_stride,
                 .blocks = r->ids,
                 .block_tokens = BLOCK,
                 .first_token = i * r->s.chunk_tokens,
                 .tokens = r->s.chunk_tokens,
                 .heads = p->kv_heads,
                 .head_bytes = 2 * p->head_dim,
                 .dtype = p->dtype,
                 .block_stride = p->block_stride,
                 .token_stride = p->token_stride,
                 .head_stride = p->head_stride},
        .digest = KVW_DIGEST_LANES,
        .kind = KVW_JOB_ENCODE,
        .to = (unsigned char *)r->pinned.mem.base + (size_t)at * ROOM,
        .to_bytes = ROOM};
    day_must(r->y, r->q->ops->submit(r->q, j), "submit");
}

static void encode_layer(struct rig *r, uint32_t layer)
{
    for (uint32_t kv = 0; kv < 2; ++kv)
        for (uint32_t i = 0; i < r->chunks; ++i)
            submit(r, layer, kv, i);
    r->q->ops->flush(r->q);
}

static double wait_jobs(struct rig *r, double begin)
{
    for (uint32_t i = 0; i < 2 * r->s.layers * r->chunks; ++i) {
        while (!r->q->ops->done(r->q, &r->jobs[i]))
            if (day_now_s() - begin > 60)
                day_give_up("a chunk", "not encoded after 60 s");
        day_must(r->y, r->jobs[i].err, "a chunk");
    }
    return day_now_s() - begin;
}

static kvw_err launch(void *arg, enum kvg_step step, uint32_t grid, const void *params)
{
    struct rig *r = arg;

    return r->run.runner.launch(&r->run, step, grid, params);
}

static kvw_err multiply(void *arg, const struct kvg_product *p)
{
    struct rig *r = arg;

    return r->run.runner.multiply(&r->run, p);
}

/* Chunks of this layer begin when the stream has come here. */
static kvw_err encode_behind(void *arg, uint32_t layer)
{
    struct rig *r = arg;
    const kvw_err err = r->q->ops->after(r->q, r->run.stream);

    if (err == KVW_OK)
        encode_layer(r, layer);
    return err;
}

/* The prompt is there: all of it encoded alone, then behind each layer of another such prefill. */
static void beside_encoders(struct rig *r, uint32_t tokens, double prefill_s)
{
    const struct kvg_runner streaming = {
        .arg = r, .launch = launch, .multiply = multiply, .written = encode_behind};
    const double gb = 2.0 * r->kv.token_stride * r->s.layers * tokens / 1e9;
    double begin, alone = 0, with, all;

    r->chunks = tokens / r->s.chunk_tokens;
    for (int i = 0; i < 2; ++i) { /* the second counts */
        begin = day_now_s();
        for (uint32_t l = 0; l < r->s.layers; ++l)
            encode_layer(r, l);
        alone = wait_jobs(r, begin);
    }
    begin = day_now_s();
    with = prefill_once(r, &streaming, tokens);
    all = wait_jobs(r, begin);
    row("encoders alone GB/s", tokens, alone, gb / alone, 0);
    row("prefill beside encoders s", tokens, with, with, prefill_s);
    row("encoders' end after it s", tokens, all - with, all - with, alone);
}

int day_model(struct day *y)
{
    static struct rig r;
    double t[DAY_REPEATS], most, copied, weights;
    uint64_t bytes;

    open_rig(&r, y);
    bytes = r.kv.layer_stride * r.s.layers / 2;
    bytes = bytes < 1u << 30 ? bytes : 1u << 30;
    printf("what,tokens,seconds,figure,of,share\n");
    copied = day_copy(y, (char *)r.kv.mem.base + bytes, r.kv.mem.base, bytes, t);
    row("copy GB/s", 0, copied, 2e-9 * (double)bytes / copied, 0); /* read and written */
    copied = 2e-9 * (double)bytes / copied;
    most = peak(&r);
    row("product TFLOP/s", r.s.square, 0, most, 0);
    for (int i = 0; i < 2; ++i) {
        const uint32_t n = r.s.prefill[i];

        for (int k = -1; k < TIMES; ++k) {
            const double s = prefill_once(&r, &r.run.runner, n);

            if (k >= 0)
                t[k] = s;
        }
        const double s = day_median(t, TIMES);

        row("prefill TFLOP/s", n, s, flops(&r.s, n) / s / 1e12, most);
        beside_encoders(&r, n, s);
    }
    weights = 2.0 * ((double)(r.m.logits - r.layers[0].qkv) + (double)r.s.vocab * r.s.hidden);
    for (uint32_t batch = 1; batch <= r.s.batch; batch = batch == 1 ? r.s.batch : r.s.batch + 1) {
        const double s = decode_step(&r, batch);

        row("decode GB/s", batch, s, step_gb(&r, weights, batch) / s, copied);
    }
    close_rig(&r);
    return 0;
}
