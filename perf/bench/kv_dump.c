/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kv_dump - the K and V that a model really makes of a text, for everything that measures a codec.
 *
 *   kv_dump MODEL TOKENS TEXT OUT
 *
 * runs a prefill over the first TOKENS tokens of the file TEXT (special tokens in it count as such)
 * and writes the whole cache to OUT; the format is in kv_file.h. perf/bench/kv_dump.sh does it for
 * all the kinds of text that the tables name.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../engine/model/model.h"
#include "../../engine/text/tok.h"
#include "../../kvwire/kv/dense.h"
#include "kv_file.h"

#define BLOCK_TOKENS   16u
#define TEXT_BYTES_MAX (1u << 20)
#define TOKENS_MAX     8192u

struct dump {
    struct kve_gguf *gguf;
    struct kve_model *model;
    struct kve_tok *tok;
    struct kve_run *run;
    struct kve_kvcache kv;
    struct kve_seq seq;
    uint32_t *ids;
    size_t id_count;
};

static int fail(const char *what)
{
    fprintf(stderr, "kv_dump: %s\n", what);
    return 1;
}

static bool read_text(struct dump *d, const char *path)
{
    FILE *f = fopen(path, "rb");
    char *text = malloc(TEXT_BYTES_MAX);
    bool ok = false;

    if (f != NULL && text != NULL) {
        const size_t n = fread(text, 1, TEXT_BYTES_MAX, f);

        ok = kve_tok_encode(d->tok, text, n, true, true, &d->ids, &d->id_count) == KVW_OK;
    }
    if (f != NULL)
        fclose(f);
    free(text);
    return ok;
}

static kvw_err open_all(struct dump *d, const char *path, uint32_t tokens)
{
    char why[KVE_WHY_BYTES];
    kvw_err err;

    if ((err = kve_gguf_open(&d->gguf, path, why)) != KVW_OK ||
        (err = kve_model_open(&d->model, d->gguf, why)) != KVW_OK ||
        (err = kve_tok_open(&d->tok, d->gguf, why)) != KVW_OK) {
        fail(why);
        return err;
    }

    const struct kve_model_config *c = kve_model_config(d->model);
    const uint32_t blocks = (tokens + BLOCK_TOKENS - 1) / BLOCK_TOKENS;

    if ((err = kve_run_open(&d->run, d->model, 2, 0, tokens)) != KVW_OK ||
        (err = kve_kvcache_open(&d->kv, c->layers, c->kv_heads, c->head_dim, BLOCK_TOKENS,
                                blocks)) != KVW_OK)
        return err;
    d->seq.blocks = calloc(blocks, sizeof(*d->seq.blocks));
    d->seq.block_count = blocks;
    if (d->seq.blocks == NULL)
        return KVW_E_NOMEM;
    return kve_kvcache_alloc(&d->kv, blocks, d->seq.blocks);
}

static void close_all(struct dump *d)
{
    free(d->ids);
    free(d->seq.blocks);
    if (d->kv.taken != NULL)
        kve_kvcache_close(&d->kv);
    kve_run_close(d->run);
    kve_tok_close(d->tok);
    kve_model_close(d->model);
    kve_gguf_close(d->gguf);
}

static bool write_cache(const struct dump *d, const char *path)
{
    const struct kvw_pool *p = &d->kv.pool;
    const struct kvp_kv_head head = {.magic = KVP_KV_MAGIC,
                                     .layers = p->layers,
                                     .tokens = d->seq.tokens,
                                     .kv_heads = p->kv_heads,
                                     .head_dim = p->head_dim};
    FILE *f = fopen(path, "wb");
    bool ok = f != NULL && fwrite(&head, sizeof(head), 1, f) == 1;

    for (uint32_t lk = 0; ok && lk < p->layers * 2; ++lk) {
        const struct kvw_view v = kvw_pool_view(p, d->seq.blocks, lk / 2, lk % 2, 0, d->seq.tokens);

        for (uint32_t i = 0; ok && i < v.tokens * v.heads; ++i)
            ok = fwrite(kvw_view_at(&v, i / v.heads, i % v.heads), v.head_bytes, 1, f) == 1;
    }
    return f != NULL && fclose(f) == 0 && ok;
}

int main(int argc, char **argv)
{
    struct dump d = {0};
    int status = 1;

    if (argc != 5)
        return fail("usage: kv_dump MODEL TOKENS TEXT OUT");

    const uint32_t tokens = (uint32_t)strtoul(argv[2], NULL, 10);

    if (tokens == 0 || tokens > TOKENS_MAX)
        return fail("TOKENS is 1 .. 8192");
    if (open_all(&d, argv[1], tokens) != KVW_OK)
        fail("can't start");
    else if (!read_text(&d, argv[3]))
        fail("the text can't be read");
    else if (d.id_count < tokens)
        fprintf(stderr, "kv_dump: %s is only %zu tokens long\n", argv[3], d.id_count);
    else if (kve_prefill(d.run, &d.kv, &d.seq, d.ids, tokens, NULL, NULL) != KVW_OK)
        fail("the prefill failed");
    else if (!write_cache(&d, argv[4]))
        fail("the output can't be written");
    else
        status = 0;
    close_all(&d);
    return status;
}
