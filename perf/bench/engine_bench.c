/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine_bench - prefill and decode tokens per second of one model file, in this process alone.
 *
 *   engine_bench MODEL THREADS PROMPT_TOKENS DECODE_TOKENS [SEQUENCES]
 *
 * SEQUENCES (1) go on together, each after the same prompt: decode_tok_s is of all of them. Prints
 * one line of JSON. perf/rows/llama_speed.py runs it in turns with llama.cpp.
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
    struct kve_seq seqs[KVE_BATCH_MAX];
    uint32_t sequences;
    uint32_t *tokens;
    uint32_t prompt, decode, vocab;
    float *logits;
    double prefill_s, decode_s;
};

/* A token more of each sequence. */
static kvw_err step(struct bench *b, uint32_t number)
{
    const uint32_t token = (1000 + number) % b->vocab;
    struct kve_seq *seqs[KVE_BATCH_MAX];
    uint32_t tokens[KVE_BATCH_MAX];

    if (b->sequences == 1)
        return kve_decode(b->run, &b->kv, &b->seqs[0], token, NULL, b->logits);
    for (uint32_t i = 0; i < b->sequences; ++i) {
        seqs[i] = &b->seqs[i];
        tokens[i] = (token + i) % b->vocab;
    }
    return kve_decode_batch(
        b->run, &b->kv,
        &(struct kve_batch){
            .seqs = seqs, .tokens = tokens, .count = b->sequences, .logits = b->logits},
        NULL);
}

static kvw_err measure(struct bench *b)
{
    double start;
    kvw_err err = kve_prefill(b->run, &b->kv, &b->seqs[0], b->tokens, 1, NULL, b->logits);

    b->seqs[0].tokens = 0; /* that was to touch the weights once */
    start = seconds();
    for (uint32_t i = 0; err == KVW_OK && i < b->sequences; ++i)
        err = kve_prefill(b->run, &b->kv, &b->seqs[i], b->tokens, b->prompt, NULL, b->logits);
    b->prefill_s = (seconds() - start) / b->sequences;
    start = seconds();
    for (uint32_t i = 0; err == KVW_OK && i < b->decode; ++i)
        err = step(b, i);
    b->decode_s = (seconds() - start) / b->sequences;
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
                                blocks * b->sequences)) != KVW_OK)
        return err;
    b->tokens = calloc(b->prompt, sizeof(*b->tokens));
    b->logits = calloc((size_t)c->vocab * b->sequences, sizeof(*b->logits));
    if (b->tokens == NULL || b->logits == NULL)
        return KVW_E_NOMEM;
    for (uint32_t i = 0; i < b->prompt; ++i)
        b->tokens[i] = (uint32_t)((i * 2654435761u >> 8) % c->vocab);
    for (uint32_t i = 0; err == KVW_OK && i < b->sequences; ++i) {
        struct kve_seq *s = &b->seqs[i];

        *s = (struct kve_seq){.blocks = calloc(blocks, sizeof(*s->blocks)), .block_count = blocks};
        err = s->blocks != NULL ? kve_kvcache_alloc(&b->kv, blocks, s->blocks) : KVW_E_NOMEM;
    }
    return err;
}

static void close_all(struct bench *b)
{
    free(b->logits);
    free(b->tokens);
    for (uint32_t i = 0; i < b->sequences; ++i)
        free(b->seqs[i].blocks);
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

    b.sequences = argc == 6 ? (uint32_t)strtoul(argv[5], NULL, 10) : 1;
    if (argc < 5 || argc > 6 || b.sequences == 0 || b.sequences > KVE_BATCH_MAX) {
        fprintf(stderr,
                "usage: engine_bench MODEL THREADS PROMPT_TOKENS DECODE_TOKENS "
                "[SEQUENCES <= %u]\n",
                KVE_BATCH_MAX);
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
