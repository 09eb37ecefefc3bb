/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_pass.cpp - a small model of each family, run by gpu/pass.c with the kernels on the harness,
 * says what the CPU's engine says, within what bf16 activations make of it; tells of a layer's K
 * and V once they lie in their pages, and reads those of another process after it has waited for
 * them. Weights come out of their blocks to the bit. Prints TAP.
 *
 *   test_pass FOLDER      FOLDER: of the models (tests/engine/model/families.py)
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <string>
#include <vector>

#include "attention.h"
#include "e4m3.h"
#include "gpu/dev.h"
#include "kernels.h"
#include "launch.h"
#include "multiply.h"
#include "toy.h"

extern "C" {
#include "engine/gguf/gguf.h"
}

#ifndef T_PROMPT
#define T_PROMPT 45 /* longer than each window */
#endif
#ifndef T_STEPS
#define T_STEPS 6
#endif

/* How far logits may be apart: half as much again as bf16 activations make it. whole: of a prompt
 * in two calls and steps after it; step: of one step after a prompt of the CPU's. */
static const struct {
    const char *name;
    double whole, step;
    bool fp8; /* a whole one with fp8, too; the others are like one that is */
} families[] = {
    {"llama", 0.032, 0.032, true},        {"qwen2", 0.021, 0.014, false},
    {"qwen3", 0.018, 0.014, false},       {"gemma3", 0.030, 0.014, true},
    {"gemma3-long", 0.021, 0.014, false},
};
/* The same with fp8, where what was rounded either way is an eighth apart. */
#define WHOLE_FP8 0.18
#define STEP_FP8  0.028
#define CONTROL   0.2 /* and controls are at least so far apart */

/* ---- the runner ------------------------------------------------------------------------------ */

struct side {
    struct toy *t;
    bool hand_over;                              /* wait() brings the CPU's pages */
    uint32_t waits, told;                        /* layers, in order */
    std::vector<std::vector<unsigned char>> was; /* a layer's pages when it was told of */
    bool in_order;
};

template <typename P>
static void start(void (*kernel)(const P), uint32_t grid, uint32_t shared, const void *params)
{
    const P p = *static_cast<const P *>(params);

    simt_launch(grid, KVG_STEP_THREADS, shared, t_options(), [=] { kernel(p); });
}

static kvw_err launch(void *, enum kvg_step step, uint32_t grid, const void *params)
{
    const uint32_t shared = kvg_step_kernels[step].shared_bytes;

    switch (step) {
    case KVG_STEP_EMBED:
        start(kvg_embed, grid, shared, params);
        break;
    case KVG_STEP_NORM:
        start(kvg_norm, grid, shared, params);
        break;
    case KVG_STEP_TURN:
        start(kvg_turn, grid, shared, params);
        break;
    case KVG_STEP_ATTEND:
        start(kvg_attend, grid, shared, params);
        break;
    case KVG_STEP_ATTEND_64:
        start(kvg_attend_64, grid, shared, params);
        break;
    case KVG_STEP_ATTEND_128:
        start(kvg_attend_128, grid, shared, params);
        break;
    case KVG_STEP_ATTEND_PART:
        start(kvg_attend_part, grid, shared, params);
        break;
    case KVG_STEP_ATTEND_JOIN:
        start(kvg_attend_join, grid, shared, params);
        break;
    case KVG_STEP_TURN_E4M3:
        start(kvg_turn_e4m3, grid, shared, params);
        break;
    case KVG_STEP_ATTEND_E4M3:
        start(kvg_attend_e4m3, grid, shared, params);
        break;
    case KVG_STEP_ATTEND_64_E4M3:
        start(kvg_attend_64_e4m3, grid, shared, params);
        break;
    case KVG_STEP_ATTEND_128_E4M3:
        start(kvg_attend_128_e4m3, grid, shared, params);
        break;
    case KVG_STEP_ATTEND_PART_E4M3:
        start(kvg_attend_part_e4m3, grid, shared, params);
        break;
    case KVG_STEP_GATE:
        start(kvg_gate, grid, shared, params);
        break;
    case KVG_STEP_PICK:
        start(kvg_pick, grid, shared, params);
        break;
    default:
        return KVW_E_INVALID;
    }
    return KVW_OK;
}

static kvw_err multiply(void *, const struct kvg_product *product)
{
    const struct kvg_product p = *product;
    const uint64_t values = (uint64_t)p.tokens * p.rows;

    simt_launch(kvg_threads_grid(values), KVG_STEP_THREADS, 0, t_options(), [=] { t_multiply(p); });
    return KVW_OK;
}

static unsigned char *pages(const struct kvw_pool *pool, uint32_t layer)
{
    return (unsigned char *)pool->mem.base + layer * pool->layer_stride;
}

static kvw_err written(void *arg, uint32_t layer)
{
    struct side *s = (struct side *)arg;
    const unsigned char *at = pages(s->t->gpu_pool, layer);

    s->in_order = s->in_order && layer == s->told++;
    s->was.emplace_back(at, at + s->t->gpu_pool->layer_stride);
    return KVW_OK;
}

static bool is_fp8(const struct kvw_pool *pool)
{
    return pool->dtype == KVW_DTYPE_F8_E4M3;
}

/* Value i of a layer of the CPU's, as it lies in the GPU's pages. */
static uint8_t narrowed(const struct side *s, uint32_t layer, uint64_t i)
{
    const struct kvw_pool *pool = s->t->cpu_pool;
    const bool v = i * sizeof(float) / pool->kv_stride % 2 != 0;

    return t_e4m3_nearest(((const float *)pages(pool, layer))[i] / toy_scale(s->t, layer, v));
}

/* Bring what another process made, but leave what this pass has just written. */
static kvw_err wait(void *arg, uint32_t layer)
{
    struct side *s = (struct side *)arg;
    const struct kvw_pool *pool = s->t->gpu_pool;
    uint8_t *to8 = pages(pool, layer);
    uint16_t *to = (uint16_t *)to8;
    const uint16_t *from = (const uint16_t *)pages(s->t->cpu_pool, layer);

    s->in_order = s->in_order && layer == s->waits++;
    for (uint64_t i = 0; s->hand_over && is_fp8(pool) && i < pool->layer_stride; ++i)
        to8[i] = to8[i] == 0xff ? narrowed(s, layer, i) : to8[i];
    for (uint64_t i = 0; s->hand_over && !is_fp8(pool) && i < pool->layer_stride / 2; ++i)
        to[i] = to[i] == 0xffff ? from[i] : to[i];
    return KVW_OK;
}

/* ---- what is compared ------------------------------------------------------------------------ */

struct result {
    std::vector<float> logits;
    uint32_t token;
};

/* Tokens of one sequence, or, with rows, of count sequences. */
struct ask {
    const uint32_t *tokens;
    uint32_t count, first;
    const uint32_t *blocks;
    const struct kvg_row *rows;
};

static struct result run_ask(struct side *s, const struct kvg_model *m, const struct ask &a)
{
    const uint32_t count = a.count, outputs = a.rows != NULL ? count : 1;
    const struct kvg_runner runner = {s, launch, multiply, written, wait};
    const uint32_t parts = kvg_pass_parts(m, TOY_TOKENS);
    std::vector<float> x(count * m->hidden), wide(count * kvg_pass_wide(m)), max(parts), sum(parts),
        out(parts * m->dim);
    std::vector<uint16_t> q(count * m->heads * m->dim), half(count * kvg_pass_half(m));
    struct result r = {std::vector<float>(outputs * m->vocab), 0};
    std::vector<uint32_t> picked(outputs);
    struct kvg_pass p = {};

    p.m = m;
    p.runner = &runner;
    p.scratch = {x.data(),   wide.data(), q.data(), half.data(), max.data(),
                 sum.data(), out.data(),  count,    TOY_TOKENS};
    p.pool = s->t->gpu_pool;
    p.blocks = a.blocks;
    p.tokens = a.tokens;
    p.count = count;
    p.first = a.first;
    p.rows = a.rows;
    p.logits = r.logits.data();
    p.token = picked.data();
    s->waits = s->told = 0;
    s->was.clear();
    s->in_order = true;
    if (kvg_pass_run(&p) != KVW_OK)
        r.logits.assign(r.logits.size(), NAN);
    r.token = picked.back();
    return r;
}

static struct result run_gpu(struct side *s, const struct kvg_model *m, const uint32_t *tokens,
                             uint32_t count, uint32_t first)
{
    return run_ask(s, m, {tokens, count, first, s->t->blocks, NULL});
}

/* The root mean square of the differences, in parts of that of b; infinite if one isn't a number. */
static double apart(const std::vector<float> &a, const std::vector<float> &b)
{
    double squares = 0, differences = 0;

    for (size_t i = 0; i < a.size(); ++i) {
        const double d = (double)a[i] - b[i];

        squares += (double)b[i] * b[i];
        differences += d * d;
    }
    return isfinite(differences) ? sqrt(differences / squares) : INFINITY;
}

/* Every layer was told of when its K and V were there, and they have stayed so. */
static bool told_in_time(const struct side *s, bool waited)
{
    const uint32_t layers = s->t->gpu.layers;
    bool ok = s->in_order && s->told == layers && s->waits == (waited ? layers : 0);

    for (uint32_t l = 0; l < s->told && !s->hand_over; ++l)
        ok = ok && memcmp(s->was[l].data(), pages(s->t->gpu_pool, l), s->was[l].size()) == 0;
    return ok;
}

static uint32_t largest(const std::vector<float> &v)
{
    uint32_t at = 0;

    for (uint32_t i = 1; i < v.size(); ++i)
        at = v[i] > v[at] ? i : at;
    return at;
}

struct report {
    double worst;
    bool picks, told;
};

/* The CPU's logits of the same tokens; brings the report along. */
static void compare(struct report *r, const struct result &gpu, struct toy *t,
                    const uint32_t *tokens, uint32_t count)
{
    std::vector<float> cpu(t->gpu.vocab);

    toy_run(t, tokens, count, cpu.data());
    r->worst = fmax(r->worst, apart(gpu.logits, cpu));
    r->picks = r->picks && gpu.token == largest(gpu.logits);
}

static void draw_prompt(uint32_t *tokens, uint32_t count, uint32_t vocab)
{
    for (uint32_t i = 0; i < count; ++i)
        tokens[i] = (i * 37 + i * i) % (vocab - 8) + 4;
}

static void open_toy(struct toy *t, const std::string &path, bool fp8)
{
    if (fp8)
        toy_open_fp8(t, path.c_str());
    else
        toy_open(t, path.c_str());
}

/* Prefill in two calls and decode, all on the harness. */
static struct report whole(const std::string &path, bool fp8)
{
    struct report r = {0, true, true};
    uint32_t tokens[T_PROMPT + T_STEPS];
    struct toy t;

    open_toy(&t, path, fp8);

    struct side s = {&t, false, 0, 0, {}, true};

    draw_prompt(tokens, T_PROMPT + T_STEPS, t.gpu.vocab);
    for (uint32_t at = 0; at < T_PROMPT + T_STEPS;) {
        const uint32_t count = at == 0 ? T_PROMPT * 2 / 3 : at < T_PROMPT ? T_PROMPT - at : 1;

        compare(&r, run_gpu(&s, &t.gpu, tokens + at, count, at), &t, tokens + at, count);
        r.told = r.told && told_in_time(&s, at > 0);
        at += count;
    }
    toy_close(&t);
    return r;
}

/* Prefill by the CPU, decode on the harness: each layer's pages come when they are waited for. */
static struct report handed_over(const std::string &path, bool fp8)
{
    struct report r = {0, true, true};
    uint32_t tokens[T_PROMPT + 1];
    struct toy t;

    open_toy(&t, path, fp8);

    struct side s = {&t, true, 0, 0, {}, true};

    draw_prompt(tokens, T_PROMPT + 1, t.gpu.vocab);
    toy_run(&t, tokens, T_PROMPT, NULL);

    const struct result gpu = run_gpu(&s, &t.gpu, tokens + T_PROMPT, 1, T_PROMPT);

    compare(&r, gpu, &t, tokens + T_PROMPT, 1);
    r.told = told_in_time(&s, true);
    toy_close(&t);
    return r;
}

/* Two sequences' next tokens in one pass, bit for bit as one after the other; and not so where the
 * pass takes one's pages for the other's. */
static bool side_by_side(const std::string &path, bool fp8)
{
    const uint32_t half = TOY_BLOCKS / 2, count[2] = {T_PROMPT, T_PROMPT / 2};
    uint32_t tokens[2][TOY_TOKENS / 2];
    struct toy t;

    open_toy(&t, path, fp8);

    struct side s = {&t, false, 0, 0, {}, true};
    const struct kvg_row rows[2] = {{t.blocks, count[0]}, {t.blocks + half, count[1]}};
    const struct kvg_row wrong[2] = {{t.blocks, count[0]}, {t.blocks, count[1]}};
    std::vector<float> alone;
    uint32_t next[2], picked = 0;

    for (uint32_t i = 0; i < 2; ++i) {
        draw_prompt(tokens[i], count[i] + 1, t.gpu.vocab - 13 * i);
        next[i] = tokens[i][count[i]];
        run_ask(&s, &t.gpu, {tokens[i], count[i], 0, rows[i].blocks, NULL});

        const struct result r = run_ask(&s, &t.gpu, {next + i, 1, count[i], rows[i].blocks, NULL});

        alone.insert(alone.end(), r.logits.begin(), r.logits.end());
        picked = r.token;
    }

    const struct result both = run_ask(&s, &t.gpu, {next, 2, 0, NULL, rows});
    const bool told = s.told == t.gpu.layers && s.waits == t.gpu.layers;
    const struct result other = run_ask(&s, &t.gpu, {next, 2, 0, NULL, wrong});

    toy_close(&t);
    return told && both.logits == alone && both.token == picked && other.logits != alone;
}

/* What must be far apart: the other rotation; nobody brings the pages. */
static double control(const std::string &path, bool turned)
{
    uint32_t tokens[T_PROMPT + 1];
    struct toy t;

    toy_open(&t, path.c_str());

    struct side s = {&t, false, 0, 0, {}, true};
    struct kvg_model m = t.gpu;
    std::vector<float> cpu(m.vocab);

    draw_prompt(tokens, T_PROMPT + 1, m.vocab);
    toy_run(&t, tokens, T_PROMPT, cpu.data());
    m.halves = turned ? !m.halves : m.halves;

    const double d = turned ? apart(run_gpu(&s, &m, tokens, T_PROMPT, 0).logits, cpu)
                            : apart(run_gpu(&s, &m, tokens + T_PROMPT, 1, T_PROMPT).logits, cpu);

    toy_close(&t);
    return d;
}

/* What must be far apart with fp8: a step that takes K to be half of what it is; one that reads the
 * pages as if they were bf16; and the least that pages of another type make of it, which is what
 * rounding is. */
enum other { HALF_K, AS_BF16, UNROUNDED };
static double control_fp8(const std::string &path, enum other other)
{
    uint32_t tokens[T_PROMPT + 1];
    struct toy t, exact;

    toy_open_fp8(&t, path.c_str());
    toy_open(&exact, path.c_str());

    struct toy *of = other == UNROUNDED ? &exact : &t;
    struct side s = {&t, false, 0, 0, {}, true};
    struct kvw_pool as = *t.gpu_pool;
    std::vector<float> cpu(t.gpu.vocab);

    draw_prompt(tokens, T_PROMPT + 1, t.gpu.vocab);
    run_gpu(&s, &t.gpu, tokens, T_PROMPT, 0);
    toy_run(of, tokens, T_PROMPT, NULL);
    toy_run(of, tokens + T_PROMPT, 1, cpu.data());
    for (uint32_t l = 0; l < t.gpu.layers && other == HALF_K; ++l)
        t.layers[l].k_scale /= 2;
    if (other == AS_BF16) {
        as = *exact.gpu_pool;
        memcpy(as.mem.base, t.gpu_pool->mem.base, t.gpu_pool->mem.bytes);
    }
    t.gpu_pool = &as;

    const double d = apart(run_gpu(&s, &t.gpu, tokens + T_PROMPT, 1, T_PROMPT).logits, cpu);

    toy_close(&t);
    toy_close(&exact);
    return d;
}

/* ---- weights --------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    void (*kernel)(const struct kvg_dequantise p);
    uint32_t type, block_bytes, block_values;
    uint32_t scales; /* where its scales are, of which there are at most two */
} types[] = {
    {"f32", kvg_dequantise_f32, KVE_TYPE_F32, 4, 1, 0},
    {"f16", kvg_dequantise_f16, KVE_TYPE_F16, 2, 1, 0},
    {"q8_0", kvg_dequantise_q8_0, KVE_TYPE_Q8_0, 34, 32, 0},
    {"q4_0", kvg_dequantise_q4_0, KVE_TYPE_Q4_0, 18, 32, 0},
    {"q4_1", kvg_dequantise_q4_1, KVE_TYPE_Q4_1, 20, 32, 0},
    {"q5_0", kvg_dequantise_q5_0, KVE_TYPE_Q5_0, 22, 32, 0},
    {"q5_1", kvg_dequantise_q5_1, KVE_TYPE_Q5_1, 24, 32, 0},
    {"q4_k", kvg_dequantise_q4_k, KVE_TYPE_Q4_K, 144, 256, 0},
    {"q5_k", kvg_dequantise_q5_k, KVE_TYPE_Q5_K, 176, 256, 0},
    {"q6_k", kvg_dequantise_q6_k, KVE_TYPE_Q6_K, 210, 256, 208},
};

/* Random blocks at an odd address; scales are finite, as dev.h's twin of the widening wants. */
static bool dequantises(size_t i)
{
    const uint32_t blocks = 96, count = blocks * types[i].block_values;
    std::vector<unsigned char> from(1 + blocks * types[i].block_bytes);
    std::vector<uint16_t> got(count), want(count);
    uint64_t random = 88172645463325252ull + i;

    for (size_t b = 0; b < from.size(); ++b) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        from[b] = (unsigned char)(random >> 24);
        const size_t at = (b - 1) % types[i].block_bytes - types[i].scales;

        if (types[i].type != KVE_TYPE_F32 && b > 0 && at % 2 == 1 && at < 4)
            from[b] &= 0xbb; /* no exponent of ones */
        if (types[i].type == KVE_TYPE_F32 && b > 0 && b % 4 == 0)
            from[b] &= 0xbf;
    }

    const struct kvg_dequantise p = {from.data() + 1, got.data(), count};

    simt_launch(kvg_threads_grid(count), KVG_STEP_THREADS, 0, t_options(),
                [=] { types[i].kernel(p); });
    toy_dequantise(types[i].type, from.data() + 1, want.data(), count);
    return got == want;
}

/* ---- norms ----------------------------------------------------------------------------------- */

/* Zeros stay zeros when they are normed: epsilon is there for them. */
static bool norms_zeros(void)
{
    const uint32_t width = 200;
    std::vector<float> x(width), ones(width, 1.0f);
    std::vector<uint16_t> y(width, 0xffff);
    struct kvg_norm p = {};

    p.x = x.data();
    p.norm = ones.data();
    p.y = y.data();
    p.width = width;
    p.eps = 1e-6f;
    simt_launch(1, KVG_STEP_THREADS, KVG_NORM_SHARED, t_options(), [=] { kvg_norm(p); });
    return y == std::vector<uint16_t>(width);
}

/* ---- picking --------------------------------------------------------------------------------- */

/* Rows whose largest comes twice, in any two places; capped they are what tanh makes of them. */
static bool picks_first(float cap)
{
    const uint32_t rows = 8, count = 777;
    std::vector<float> logits(rows * count), want;
    std::vector<uint32_t> got(rows), first(rows);

    for (uint32_t r = 0; r < rows; ++r) {
        for (uint32_t i = 0; i < count; ++i)
            logits[r * count + i] = (float)((i * 7919 + r) % 1000) / -100.0f;
        first[r] = r * 89;
        logits[r * count + first[r]] = logits[r * count + count - 1 - r] = 3.0f;
    }
    for (float v : logits)
        want.push_back(cap != 0 ? cap * tanhf(v / cap) : v);

    const struct kvg_pick p = {logits.data(), got.data(), count, cap};

    simt_launch(rows, KVG_STEP_THREADS, KVG_PICK_SHARED, t_options(), [=] { kvg_pick(p); });
    return got == first && logits == want;
}

/* ---------------------------------------------------------------------------------------------- */

static unsigned tests;
static bool all_ok = true;

static void say(bool ok, const char *name, const char *what, double figure)
{
    ok = ok && simt_races() == 0;
    all_ok = all_ok && ok;
    printf("%sok %u - %s: %s (%.4f)\n", ok ? "" : "not ", ++tests, name, what, figure);
}

int main(int argc, char **argv)
{
    const std::string folder = argc > 1 ? argv[1] : ".";

    for (const auto &f : families) {
        const std::string path = folder + "/" + f.name + ".gguf";
        struct report r = whole(path, false);

        say(r.worst <= f.whole, f.name, "prefill and decode are the CPU's", r.worst);
        say(r.picks && r.told, f.name, "the largest is picked, layers are told of in time", 0);
        r = handed_over(path, false);
        say(r.worst <= f.step && r.told, f.name, "decode goes on from pages it waited for",
            r.worst);
        if (strncmp(f.name, "qwen", 4) != 0) /* both kinds of rotation, and windows, are there */
            say(side_by_side(path, false), f.name, "two sequences in one pass, to the bit as alone",
                0);
    }

    for (const auto &f : families) {
        const std::string path = folder + "/" + f.name + ".gguf";
        struct report r;

        if (f.fp8) {
            r = whole(path, true);
            say(r.worst <= WHOLE_FP8 && r.picks && r.told, f.name,
                "with fp8, prefill and decode are the CPU's with K and V rounded alike", r.worst);
        }
        r = handed_over(path, true);
        say(r.worst <= STEP_FP8 && r.told, f.name,
            "with fp8, decode goes on from pages it waited for", r.worst);
    }

    const std::string path = folder + "/llama.gguf";

    say(side_by_side(path, true), "llama", "with fp8, two sequences in one pass as alone", 0);
    for (enum other other : {HALF_K, AS_BF16, UNROUNDED}) {
        static const char *const names[] = {"half of K's scale is seen",
                                            "pages read as bf16 are seen", "rounding is seen"};
        const double far = control_fp8(path, other);

        say(far > (other == UNROUNDED ? 3 * STEP_FP8 : CONTROL), "control", names[other], far);
    }

    double d = control(path, true);

    say(d > CONTROL, "control", "the other rotation is seen", d);
    d = control(path, false);
    say(d > CONTROL, "control", "pages that nobody brought are seen", d);
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); ++i)
        say(dequantises(i), types[i].name, "weights to bf16, to the bit", 0);
    for (bool fp8 : {false, true}) {
        const char *name = fp8 ? "attention, fp8" : "attention";
        const double within = fp8 ? 0.017 : 0.012; /* V is 1.375 times as large */

        say(t_attends(fp8, 0) && t_attends(fp8, 33) && t_attends(fp8, 97), name,
            "as defined, whole and in parts", 0);
        d = fmax(t_attends_many(fp8, {40, 0, 0, 1}),
                 fmax(t_attends_many(fp8, {64, 33, 33, 1}), t_attends_many(fp8, {120, 9, 9, 1})));
        say(d < within, name, "of a prompt by tensor cores, as defined", d);
        d = t_attends_many(fp8, {40, 33, 34, 1});
        say(d > 0.05, "control", "a window of one more is seen", d);
        d = t_attends_many(fp8, {40, 33, 33, 1.1f});
        say(d > 0.05, "control", "another scale of V is seen", d);
    }
    say(t_narrows(), "fp8", "each value is the nearest that there is", 0);
    say(norms_zeros(), "norm", "zeros stay zeros", 0);
    say(picks_first(0) && picks_first(2.5f), "pick", "the first of equals, capped or not", 0);
    printf("1..%u\n", tests);
    return !all_ok;
}
