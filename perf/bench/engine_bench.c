/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine_bench - prefill and decode tokens per second of one model file, in this process alone.
 *
 *   engine_bench MODEL THREADS PROMPT_TOKENS DECODE_TOKENS
 *
 * prints one line of JSON. perf/rows/llama_speed.py runs it in turns with llama.cpp.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#include "../../engine/kernels/kernels.h"
#include "../../engine/model/model.h"

#define BLOCK_TOKENS 16u
#define CHUNK_TOKENS 0u /* the engine's default */

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int fail(const char *what, kvw_err err)
{
    fprintf(stderr, "engine_bench: %s: %s\n", what, kvw_strerror(err));
    return 1;
}

struct bench {
    struct kve_run *run;
    struct kve_kvcache kv;
    struct kve_seq seq;
    uint32_t *tokens;
    uint32_t prompt, decode, vocab;
    float *logits;
    double prefill_s, decode_s;
};

static kvw_err measure(struct bench *b)
{
    const struct kve_seq empty = b->seq;
    double start;
    kvw_err err = kve_prefill(b->run, &b->kv, &b->seq, b->tokens, 1, NULL, b->logits);

    b->seq = empty; /* that was to touch the weights once */
    start = seconds();
    if (err == KVW_OK)
        err = kve_prefill(b->run, &b->kv, &b->seq, b->tokens, b->prompt, NULL, b->logits);
    b->prefill_s = seconds() - start;
    start = seconds();
    for (uint32_t i = 0; err == KVW_OK && i < b->decode; ++i)
        err = kve_decode(b->run, &b->kv, &b->seq, (1000 + i) % b->vocab, NULL, b->logits);
    b->decode_s = seconds() - start;
    return err;
}

static kvw_err open_all(struct bench *b, const struct kve_model *m, uint32_t threads)
{
    const struct kve_model_config *c = kve_model_config(m);
    const uint32_t all = b->prompt + b->decode, blocks = (all + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
    kvw_err err;

    b->vocab = c->vocab;
    if ((err = kve_run_open(&b->run, m, threads, CHUNK_TOKENS, all)) != KVW_OK ||
        (err = kve_kvcache_open(&b->kv, c->layers, c->kv_heads, c->head_dim, BLOCK_TOKENS,
                                blocks)) != KVW_OK)
        return err;
    b->seq.blocks = calloc(blocks, sizeof(*b->seq.blocks));
    b->seq.block_count = blocks;
    b->tokens = calloc(b->prompt, sizeof(*b->tokens));
    b->logits = calloc(c->vocab, sizeof(*b->logits));
    if (b->seq.blocks == NULL || b->tokens == NULL || b->logits == NULL)
        return KVW_E_NOMEM;
    for (uint32_t i = 0; i < b->prompt; ++i)
        b->tokens[i] = (uint32_t)((i * 2654435761u >> 8) % c->vocab);
    return kve_kvcache_alloc(&b->kv, blocks, b->seq.blocks);
}

static void close_all(struct bench *b)
{
    free(b->logits);
    free(b->tokens);
    free(b->seq.blocks);
    if (b->kv.taken != NULL)
        kve_kvcache_close(&b->kv);
    kve_run_close(b->run);
}

int main(int argc, char **argv)
{
    struct bench b = {0};
    struct kve_gguf *g = NULL;
    struct kve_model *m = NULL;
    struct rusage usage;
    char why[KVE_WHY_BYTES];

    if (argc != 5) {
        fprintf(stderr, "usage: engine_bench MODEL THREADS PROMPT_TOKENS DECODE_TOKENS\n");
        return 2;
    }
    if (kve_gguf_open(&g, argv[1], why) != KVW_OK || kve_model_open(&m, g, why) != KVW_OK) {
        fprintf(stderr, "engine_bench: %s\n", why);
        kve_gguf_close(g);
        return 1;
    }
    b.prompt = (uint32_t)strtoul(argv[3], NULL, 10);
    b.decode = (uint32_t)strtoul(argv[4], NULL, 10);

    kvw_err err = open_all(&b, m, (uint32_t)strtoul(argv[2], NULL, 10));

    if (err == KVW_OK)
        err = measure(&b);
    getrusage(RUSAGE_SELF, &usage);
    if (err == KVW_OK)
        printf("{\"cpu\":\"%s\",\"prefill_tok_s\":%.1f,\"decode_tok_s\":%.1f,\"rss_kib\":%ld}\n",
               kve_kernels()->name, b.prompt / b.prefill_s, b.decode / b.decode_s, usage.ru_maxrss);
    close_all(&b);
    kve_model_close(m);
    kve_gguf_close(g);
    return err == KVW_OK ? 0 : fail("a pass failed", err);
}
