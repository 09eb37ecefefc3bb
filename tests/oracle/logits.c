/* SPDX-License-Identifier: Apache-2.0 */
/*
 * logits - our logits for given tokens, as raw floats, for logits.py to compare with llama.cpp's.
 *
 *   logits MODEL THREADS < requests > answers
 *
 * A request on stdin is 32-bit little-endian words: the prompt's length, how many tokens follow it
 * (forced, one decode step each), then those tokens. An answer is vocab floats after the prompt and
 * vocab floats after each forced token but the last, which nobody asks about. With LOGITS_KV=f32 in
 * the environment K and V stay floats, so that nothing but the order of additions is left to
 * differ.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../engine/model/model.h"

#define BLOCK_TOKENS 16u

struct oracle {
    struct kve_gguf *gguf;
    struct kve_model *model;
    struct kve_run *run;
    struct kve_kvcache kv;
    struct kve_seq seq;
    float *logits;
    uint32_t *tokens;
};

static int fail(const char *what)
{
    fprintf(stderr, "logits: %s\n", what);
    return 1;
}

static kvw_err open_all(struct oracle *o, const char *path, uint32_t threads)
{
    char why[KVE_WHY_BYTES];
    kvw_err err;

    if ((err = kve_gguf_open(&o->gguf, path, why)) != KVW_OK ||
        (err = kve_model_open(&o->model, o->gguf, why)) != KVW_OK) {
        fail(why);
        return err;
    }

    const struct kve_model_config *c = kve_model_config(o->model);
    const uint32_t blocks = (c->context + BLOCK_TOKENS - 1) / BLOCK_TOKENS;

    const char *type = getenv("LOGITS_KV");
    const bool f32 = type != NULL && strcmp(type, "f32") == 0;

    /* Strides are bytes: a cache for twice the bf16 values is one for as many floats. */
    if ((err = kve_run_open(&o->run, o->model, threads, 0, c->context)) != KVW_OK ||
        (err = kve_kvcache_open(&o->kv, c->layers, c->kv_heads, c->head_dim * (f32 ? 2 : 1),
                                BLOCK_TOKENS, blocks)) != KVW_OK)
        return err;
    o->kv.pool.head_dim = c->head_dim;
    o->kv.pool.dtype = f32 ? KVW_DTYPE_F32 : KVW_DTYPE_BF16;
    o->logits = calloc(c->vocab, sizeof(*o->logits));
    o->tokens = calloc(c->context, sizeof(*o->tokens));
    o->seq.blocks = calloc(blocks, sizeof(*o->seq.blocks));
    o->seq.block_count = blocks;
    if (o->logits == NULL || o->tokens == NULL || o->seq.blocks == NULL)
        return KVW_E_NOMEM;
    return kve_kvcache_alloc(&o->kv, blocks, o->seq.blocks);
}

static void close_all(struct oracle *o)
{
    free(o->seq.blocks);
    free(o->tokens);
    free(o->logits);
    if (o->kv.taken != NULL)
        kve_kvcache_close(&o->kv);
    kve_run_close(o->run);
    kve_model_close(o->model);
    kve_gguf_close(o->gguf);
}

static int answer(struct oracle *o, uint32_t prompt, uint32_t forced)
{
    const uint32_t vocab = kve_model_config(o->model)->vocab;
    kvw_err err;

    o->seq.tokens = 0;
    err = kve_prefill(o->run, &o->kv, &o->seq, o->tokens, prompt, NULL, o->logits);
    for (uint32_t i = 0; err == KVW_OK; ++i) {
        if (fwrite(o->logits, sizeof(*o->logits), vocab, stdout) != vocab)
            return fail("stdout was closed");
        if (i + 1 >= forced)
            break;
        err = kve_decode(o->run, &o->kv, &o->seq, o->tokens[prompt + i], NULL, o->logits);
    }
    fflush(stdout);
    return err == KVW_OK ? 0 : fail(kvw_strerror(err));
}

int main(int argc, char **argv)
{
    struct oracle o = {0};
    uint32_t head[2];
    int status = 0;

    if (argc != 3)
        return fail("usage: logits MODEL THREADS < requests > answers");
    if (open_all(&o, argv[1], (uint32_t)strtoul(argv[2], NULL, 10)) != KVW_OK)
        status = fail("can't start");
    while (status == 0 && fread(head, sizeof(*head), 2, stdin) == 2) {
        const uint32_t context = kve_model_config(o.model)->context;

        if (head[0] == 0 || head[0] > context || head[1] > context - head[0] ||
            fread(o.tokens, sizeof(*o.tokens), head[0] + head[1], stdin) != head[0] + head[1])
            status = fail("a request is too long or ends early");
        else
            status = answer(&o, head[0], head[1]);
    }
    close_all(&o);
    return status;
}
