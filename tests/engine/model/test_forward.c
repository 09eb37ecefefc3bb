/* SPDX-License-Identifier: Apache-2.0 */
/* The forward pass of a small F32 model gives a double-precision reference's logits within 1e-5,
 * however the prompt is cut and the cache is paged, the same bits for any number of threads, and
 * calls its hooks in the order that model.h promises. */
#include <criterion/criterion.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "../../../engine/model/model.h"
#include "tiny.h"

enum {
    BLOCK = 4,
    BLOCKS = TINY_CONTEXT / BLOCK,
    LONG = 301, /* crosses tiles of queries and keys, segments, and the default chunk's panels */
};

/* A model, its cache with a shuffled block table, and a run over them. */
struct rig {
    struct gb file;
    struct kve_gguf *g;
    struct kve_model *m;
    struct kve_run *run;
    struct kve_kvcache kv;
    struct kve_seq seq;
    uint32_t table[BLOCKS], tokens[TINY_CONTEXT];
    float *logits;
    uint32_t vocab;
};

static void rig_open(struct rig *r, const struct tiny_shape *s, uint32_t threads, uint32_t chunk,
                     bool f32)
{
    char why[KVE_WHY_BYTES] = "";

    memset(r, 0, sizeof(*r));
    tiny_build(&r->file, s);
    cr_assert_eq(kve_gguf_open_bytes(&r->g, r->file.file.at, r->file.file.bytes, why), KVW_OK, "%s",
                 why);
    cr_assert_eq(kve_model_open(&r->m, r->g, why), KVW_OK, "%s", why);
    cr_assert_eq(kve_run_open(&r->run, r->m, threads, chunk, TINY_CONTEXT), KVW_OK);
    /* Strides are bytes: a cache for twice the bf16 values is one for as many floats. */
    cr_assert_eq(kve_kvcache_open(&r->kv, s->layers, s->kv_heads, s->head_dim * (f32 ? 2 : 1),
                                  BLOCK, BLOCKS),
                 KVW_OK);
    r->kv.pool.head_dim = s->head_dim;
    r->kv.pool.dtype = f32 ? KVW_DTYPE_F32 : KVW_DTYPE_BF16;
    for (uint32_t i = 0; i < BLOCKS; ++i)
        r->table[i] = (i * 67 + 5) % BLOCKS; /* 67 and BLOCKS have no common factor */
    r->seq = (struct kve_seq){.blocks = r->table, .block_count = BLOCKS};
    for (uint32_t i = 0; i < TINY_CONTEXT; ++i)
        r->tokens[i] = tiny_token(s, i);
    r->logits = calloc(s->vocab, sizeof(*r->logits));
    r->vocab = s->vocab;
}

static void rig_close(struct rig *r)
{
    free(r->logits);
    kve_kvcache_close(&r->kv);
    kve_run_close(r->run);
    kve_model_close(r->m);
    kve_gguf_close(r->g);
    gb_free(&r->file);
}

/* The first `prompt` tokens by prefill (in calls of `call`), the rest by decode. */
static void feed(struct rig *r, uint32_t prompt, uint32_t call, uint32_t count)
{
    while (r->seq.tokens < count) {
        const uint32_t at = r->seq.tokens, left = prompt > at ? prompt - at : 0;
        const uint32_t n = left < call ? left : call;

        if (n > 0)
            cr_assert_eq(kve_prefill(r->run, &r->kv, &r->seq, r->tokens + at, n, NULL, r->logits),
                         KVW_OK);
        else
            cr_assert_eq(kve_decode(r->run, &r->kv, &r->seq, r->tokens[at], NULL, r->logits),
                         KVW_OK);
    }
}

static double distance(const struct rig *r, const double *want)
{
    double most = 0, size = 0;

    for (uint32_t i = 0; i < r->vocab; ++i) {
        most = fmax(most, fabs((double)r->logits[i] - want[i]));
        size = fmax(size, fabs(want[i]));
    }
    return most / size;
}

struct cut {
    uint32_t prompt, call, chunk, count;
};

static const struct cut cuts[] = {
    {LONG, LONG, 0, LONG},     /* all at once */
    {LONG, LONG, 7, LONG},     /* small chunks inside one call */
    {LONG, 100, 64, LONG},     /* several calls of several chunks */
    {LONG - 70, 113, 0, LONG}, /* a prompt, then decode */
    {1, 1, 0, 130},            /* decode from the second token on */
    {1, 1, 0, 1},              /* one token */
    {129, 128, 0, 129},        /* the last call is one token */
    {BLOCK, BLOCK, 0, BLOCK},  /* exactly a block */
};
#define CUTS (sizeof(cuts) / sizeof(cuts[0]))

static void check_shape(const struct tiny_shape *s, bool f32, double within)
{
    struct tiny_ref ref;
    double *want[CUTS];

    tiny_ref_open(&ref, s, !f32);
    for (size_t i = 0; i < CUTS; ++i)
        want[i] = calloc(s->vocab, sizeof(*want[i]));
    for (uint32_t n = 1; n <= LONG; ++n) { /* one walk serves all cuts: see rig_open()'s tokens */
        tiny_ref_token(&ref, tiny_token(s, n - 1), ref.out);
        for (size_t i = 0; i < CUTS; ++i) {
            if (cuts[i].count == n)
                memcpy(want[i], ref.out, s->vocab * sizeof(*want[i]));
        }
    }
    for (size_t i = 0; i < CUTS; ++i) {
        struct rig r;
        double off;

        rig_open(&r, s, 2, cuts[i].chunk, f32);
        feed(&r, cuts[i].prompt, cuts[i].call, cuts[i].count);
        off = distance(&r, want[i]);
        cr_log_info("cut %zu: off by %g", i, off);
        cr_expect_lt(off, within, "cut %zu: off by %g", i, off);
        rig_close(&r);
        free(want[i]);
    }
    tiny_ref_close(&ref);
}

Test(forward, odd_sizes)
{
    check_shape(&tiny_odd, true, 1e-5);
}

Test(forward, real_head_dim)
{
    check_shape(&tiny_64, true, 1e-5);
}

/* The reference rounds K and V too; where a value lies within a float's error of a tie the two may
 * round apart, by 2^-8 of it. */
Test(forward, bf16_cache)
{
    check_shape(&tiny_odd, false, 1e-3);
    check_shape(&tiny_64, false, 1e-3);
}

/* Logits after every token of a text that follows a prompt. */
Test(forward, scores_every_token)
{
    const uint32_t prompt = 100, count = 150, chunks[] = {0, 64};

    for (size_t c = 0; c < 2; ++c) {
        struct tiny_ref ref;
        struct rig r;
        float *all, *one;

        tiny_ref_open(&ref, &tiny_odd, false);
        rig_open(&r, &tiny_odd, 2, chunks[c], true);
        feed(&r, prompt, prompt, prompt);
        all = calloc((size_t)count * r.vocab, sizeof(*all));
        cr_assert_eq(kve_score(r.run, &r.kv, &r.seq, r.tokens + prompt, count, all), KVW_OK);
        cr_expect_eq(r.seq.tokens, prompt + count);
        one = r.logits;
        for (uint32_t n = 1; n <= prompt + count; ++n) {
            tiny_ref_token(&ref, tiny_token(&tiny_odd, n - 1), ref.out);
            if (n <= prompt)
                continue;
            r.logits = all + (size_t)(n - prompt - 1) * r.vocab;
            cr_expect_lt(distance(&r, ref.out), 1e-5, "token %u", n);
        }
        r.logits = one;
        free(all);
        rig_close(&r);
        tiny_ref_close(&ref);
    }
}

Test(forward, any_number_of_threads_gives_the_same_bits)
{
    for (int shape = 0; shape < 2; ++shape) {
        const struct tiny_shape *s = shape == 0 ? &tiny_odd : &tiny_64;

        for (size_t i = 0; i < CUTS; ++i) {
            struct rig one, many;

            rig_open(&one, s, 1, cuts[i].chunk, false);
            feed(&one, cuts[i].prompt, cuts[i].call, cuts[i].count);
            for (uint32_t threads = 2; threads <= 5; ++threads) {
                rig_open(&many, s, threads, cuts[i].chunk, false);
                feed(&many, cuts[i].prompt, cuts[i].call, cuts[i].count);
                cr_assert_eq(memcmp(one.logits, many.logits, one.vocab * sizeof(float)), 0,
                             "cut %zu, %u threads", i, threads);
                cr_assert_eq(
                    memcmp(one.kv.pool.mem.base, many.kv.pool.mem.base, one.kv.pool.mem.bytes), 0,
                    "cut %zu, %u threads: K and V", i, threads);
                rig_close(&many);
            }
            rig_close(&one);
        }
    }
}

/* What kvserve lives on: K and V carried to another cache, with another block table, in another
 * run, leave decode as if nothing had happened. */
Test(forward, a_hand_over_changes_no_bit)
{
    struct rig here, there;

    rig_open(&here, &tiny_64, 1, 0, false);
    rig_open(&there, &tiny_64, 2, 16, false);
    feed(&here, 150, 150, 150);
    for (uint32_t i = 0; i < BLOCKS; ++i)
        there.table[i] = BLOCKS - 1 - i;
    for (uint32_t l = 0; l < tiny_64.layers; ++l) {
        for (uint32_t b = 0; b * BLOCK < 150; ++b) {
            const struct kvw_pool *p = &here.kv.pool;

            memcpy((char *)there.kv.pool.mem.base + l * p->layer_stride +
                       there.table[b] * p->block_stride,
                   (char *)p->mem.base + l * p->layer_stride + here.table[b] * p->block_stride,
                   p->block_stride);
        }
    }
    there.seq.tokens = 150;
    for (uint32_t i = 150; i < 200; ++i) {
        feed(&here, 0, 1, i + 1);
        feed(&there, 0, 1, i + 1);
        cr_assert_eq(memcmp(here.logits, there.logits, here.vocab * sizeof(float)), 0, "token %u",
                     i);
    }
    rig_close(&there);
    rig_close(&here);
}

struct trace {
    char text[512];
    int cancel_at; /* the ask that says yes; 0: none */
    int asks;
    uint32_t fail_layer; /* layer_wait fails here; UINT32_MAX: nowhere */
    const struct rig *rig;
    uint32_t written_tokens; /* checked: so many tokens' K isn't zero */
};

static void add(struct trace *t, const char *format, ...)
{
    const size_t used = strlen(t->text);
    va_list args;

    va_start(args, format);
    vsnprintf(t->text + used, sizeof(t->text) - used, format, args);
    va_end(args);
}

static bool row_is_zero(const struct rig *r, uint32_t layer, uint32_t kv, uint32_t p)
{
    const struct kvw_pool *pool = &r->kv.pool;
    const unsigned char *at = (const unsigned char *)pool->mem.base + layer * pool->layer_stride +
                              kv * pool->kv_stride + r->table[p / BLOCK] * pool->block_stride +
                              p % BLOCK * pool->token_stride;

    for (uint64_t i = 0; i < pool->token_stride; ++i) {
        if (at[i] != 0)
            return false;
    }
    return true;
}

static void on_written(void *arg, uint32_t layer, uint32_t tokens)
{
    struct trace *t = arg;

    add(t, "w%u:%u ", layer, tokens);
    for (uint32_t kv = 0; kv < 2; ++kv) {
        for (uint32_t p = 0; p < tokens; ++p)
            cr_assert_not(row_is_zero(t->rig, layer, kv, p), "layer %u, position %u", layer, p);
        if (layer + 1 < t->rig->kv.pool.layers) /* so early that the next layer hasn't begun */
            cr_assert(row_is_zero(t->rig, layer + 1, kv, tokens - 1));
    }
}

static kvw_err on_wait(void *arg, uint32_t layer)
{
    struct trace *t = arg;

    add(t, "r%u ", layer);
    return layer == t->fail_layer ? KVW_E_PEER_LOST : KVW_OK;
}

static bool on_cancel(void *arg)
{
    struct trace *t = arg;

    add(t, "c ");
    return ++t->asks == t->cancel_at;
}

static kvw_err traced(struct rig *r, struct trace *t, uint32_t count, float *logits)
{
    const struct kve_hooks hooks = {t, on_written, on_wait, on_cancel};

    t->rig = r;
    return kve_prefill(r->run, &r->kv, &r->seq, r->tokens + r->seq.tokens, count, &hooks, logits);
}

/* A prompt behind K and V that an earlier one left, with which it has its beginning in common, gets
 * the bits of the whole in one call; where kve_run_cut() says so. */
static void check_reuse(const struct tiny_shape *s, uint32_t chunk, uint32_t count)
{
    struct rig whole, cut;

    rig_open(&whole, s, 2, chunk, false);
    const uint32_t unit = kve_run_cut(whole.run);
    feed(&whole, count, count, count);
    for (uint32_t at = unit; at + KVE_REST_MIN <= count; at += unit) {
        rig_open(&cut, s, 1, chunk, false);
        const uint32_t other = at + 1 + at / 3; /* the earlier one is as long as that */
        for (uint32_t i = at; i < other; ++i)
            cut.tokens[i] = (cut.tokens[i] + 1) % s->vocab;
        feed(&cut, other, other, other);
        cut.seq.tokens = at;
        for (uint32_t i = at; i < other; ++i)
            cut.tokens[i] = tiny_token(s, i);
        feed(&cut, count, count, count);
        cr_assert_eq(memcmp(whole.logits, cut.logits, whole.vocab * sizeof(float)), 0,
                     "%u tokens in chunks of %u, cut at %u", count, chunk, at);
        cut.seq.tokens = at - 1; /* control: one position later is another text */
        feed(&cut, count - 1, count, count - 1);
        cr_assert_neq(memcmp(whole.logits, cut.logits, whole.vocab * sizeof(float)), 0,
                      "%u tokens in chunks of %u, cut at %u: all the same", count, chunk, at);
        rig_close(&cut);
    }
    rig_close(&whole);
}

Test(forward, a_prompt_behind_anothers_beginning_has_the_bits_of_the_whole)
{
    static const uint32_t chunks[] = {0, 96, 192, 50}, counts[] = {LONG, 400, 193, 208};

    for (size_t c = 0; c < sizeof(chunks) / sizeof(chunks[0]); ++c) {
        for (size_t n = 0; n < sizeof(counts) / sizeof(counts[0]); ++n) {
            check_reuse(&tiny_64, chunks[c], counts[n]);
            check_reuse(&tiny_odd, chunks[c], counts[n]);
        }
    }
}

Test(forward, hooks_come_in_order)
{
    struct trace t = {.fail_layer = UINT32_MAX};
    const struct kve_hooks hooks = {&t, on_written, on_wait, on_cancel};
    struct rig r;

    rig_open(&r, &tiny_odd, 2, 8, false);
    t.rig = &r;
    /* Two chunks; nothing is read back in the first, and the last layer reads only for logits. */
    cr_assert_eq(traced(&r, &t, 13, NULL), KVW_OK);
    cr_expect_str_eq(t.text, "c w0:8 c w1:8 c w2:8 c w0:13 r0 c w1:13 r1 c w2:13 ");
    t.text[0] = '\0';
    cr_assert_eq(traced(&r, &t, 3, r.logits), KVW_OK);
    cr_expect_str_eq(t.text, "c w0:16 r0 c w1:16 r1 c w2:16 r2 ");
    t.text[0] = '\0';
    cr_assert_eq(kve_decode(r.run, &r.kv, &r.seq, 1, &hooks, r.logits), KVW_OK);
    cr_expect_str_eq(t.text, "c w0:17 r0 c w1:17 r1 c w2:17 r2 ");
    cr_assert_eq(r.seq.tokens, 17);
    rig_close(&r);
}

Test(forward, one_earlier_position_is_waited_for)
{
    struct trace t = {.fail_layer = UINT32_MAX};
    struct rig r;

    rig_open(&r, &tiny_odd, 1, 0, false);
    cr_assert_eq(traced(&r, &t, 1, NULL), KVW_OK);
    cr_expect_str_eq(t.text, "c w0:1 c w1:1 c w2:1 ");
    t.text[0] = '\0';
    cr_assert_eq(traced(&r, &t, 1, r.logits), KVW_OK);
    cr_expect_str_eq(t.text, "c w0:2 r0 c w1:2 r1 c w2:2 r2 ");
    rig_close(&r);
}

Test(forward, a_pass_ends_where_a_hook_says)
{
    struct trace stop = {.fail_layer = UINT32_MAX, .cancel_at = 2};
    struct trace lost = {.fail_layer = 1};
    const struct kve_hooks lost_hooks = {&lost, NULL, on_wait, NULL};
    struct tiny_ref ref;
    struct rig r;

    rig_open(&r, &tiny_odd, 2, 0, false);
    cr_assert_eq(traced(&r, &stop, 5, r.logits), KVW_E_CANCELED);
    cr_expect_str_eq(stop.text, "c w0:5 c ");
    cr_assert_eq(r.seq.tokens, 0);
    feed(&r, 9, 9, 9);
    cr_assert_eq(kve_decode(r.run, &r.kv, &r.seq, 1, &lost_hooks, r.logits), KVW_E_PEER_LOST);
    cr_expect_str_eq(lost.text, "r0 r1 ");
    cr_assert_eq(r.seq.tokens, 9);
    /* The run is as good as new afterwards. */
    r.seq.tokens = 0;
    feed(&r, 9, 9, 9);
    tiny_ref_open(&ref, &tiny_odd, true);
    for (uint32_t i = 0; i < 9; ++i)
        tiny_ref_token(&ref, r.tokens[i], ref.out);
    cr_expect_lt(distance(&r, ref.out), 2e-3);
    tiny_ref_close(&ref);
    rig_close(&r);
}

Test(forward, arguments)
{
    struct kve_run *other = NULL;
    struct rig r;

    rig_open(&r, &tiny_odd, 1, 0, false);
    r.tokens[2] = tiny_odd.vocab;
    cr_expect_eq(kve_prefill(r.run, &r.kv, &r.seq, r.tokens, 3, NULL, r.logits), KVW_E_INVALID);
    cr_expect_eq(kve_prefill(r.run, &r.kv, &r.seq, r.tokens, 0, NULL, r.logits), KVW_E_INVALID);
    cr_expect_eq(kve_decode(r.run, &r.kv, &r.seq, tiny_odd.vocab, NULL, r.logits), KVW_E_INVALID);
    r.tokens[2] = 0;
    r.seq.block_count = 1;
    cr_expect_eq(kve_prefill(r.run, &r.kv, &r.seq, r.tokens, BLOCK + 1, NULL, r.logits),
                 KVW_E_INVALID);
    cr_expect_eq(kve_prefill(r.run, &r.kv, &r.seq, r.tokens, BLOCK, NULL, r.logits), KVW_OK);
    cr_expect_eq(kve_decode(r.run, &r.kv, &r.seq, 0, NULL, r.logits), KVW_E_INVALID);
    r.seq.block_count = BLOCKS;
    r.table[1] = BLOCKS;
    cr_expect_eq(kve_decode(r.run, &r.kv, &r.seq, 0, NULL, r.logits), KVW_E_INVALID);
    r.table[1] = 1;
    r.seq.tokens = TINY_CONTEXT;
    cr_expect_eq(kve_decode(r.run, &r.kv, &r.seq, 0, NULL, r.logits), KVW_E_INVALID);
    r.seq.tokens = 4;
    r.kv.pool.layers = 1;
    cr_expect_eq(kve_decode(r.run, &r.kv, &r.seq, 0, NULL, r.logits), KVW_E_INVALID);
    r.kv.pool.layers = tiny_odd.layers;
    cr_expect_eq(kve_decode(r.run, &r.kv, &r.seq, 0, NULL, r.logits), KVW_OK);
    cr_expect_eq(kve_run_open(&other, r.m, 0, 0, 10), KVW_E_INVALID);
    cr_expect_eq(kve_run_open(&other, r.m, 257, 0, 10), KVW_E_INVALID);
    cr_expect_eq(kve_run_open(&other, r.m, 1, 0, 0), KVW_E_INVALID);
    cr_expect_eq(kve_run_open(&other, r.m, 1, 0, TINY_CONTEXT + 1), KVW_E_INVALID);
    cr_expect_null(other);
    cr_assert_eq(kve_run_open(&other, r.m, 1, 0, 10), KVW_OK);
    r.seq.tokens = 0;
    cr_expect_eq(kve_prefill(other, &r.kv, &r.seq, r.tokens, 11, NULL, r.logits), KVW_E_INVALID);
    cr_expect_eq(kve_prefill(other, &r.kv, &r.seq, r.tokens, 10, NULL, r.logits), KVW_OK);
    cr_expect_eq(kve_decode(other, &r.kv, &r.seq, 0, NULL, r.logits), KVW_E_INVALID);
    kve_run_close(other);
    rig_close(&r);
    kve_run_close(NULL);
}
