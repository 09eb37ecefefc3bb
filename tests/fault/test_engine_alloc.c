/* SPDX-License-Identifier: Apache-2.0 */
/* Whichever allocation fails, opening a model file, its tokenizer or a sampler and encoding a text
 * say so, and give back what they took. malloc and its kin are --wrap'ed. */
#include <criterion/criterion.h>

#include "../../engine/model/sample.h"
#include "../../engine/text/tok.h"
#include "../engine/gguf/gguf_bad.h"
#include "../engine/text/tok_build.h"

void *__real_malloc(size_t n);
void *__real_calloc(size_t count, size_t n);
void *__real_realloc(void *p, size_t n);
void __real_free(void *p);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t count, size_t n);
void *__wrap_realloc(void *p, size_t n);
void __wrap_free(void *p);

static int step, fail_at; /* fail_at 0: count only */
static long live;

static bool fails(void)
{
    return ++step == fail_at;
}

void *__wrap_malloc(size_t n)
{
    void *p = fails() ? NULL : __real_malloc(n);

    live += p != NULL;
    return p;
}

void *__wrap_calloc(size_t count, size_t n)
{
    void *p = fails() ? NULL : __real_calloc(count, n);

    live += p != NULL;
    return p;
}

void *__wrap_realloc(void *p, size_t n)
{
    void *moved = fails() ? NULL : __real_realloc(p, n);

    live += p == NULL && moved != NULL;
    return moved;
}

void __wrap_free(void *p)
{
    live -= p != NULL;
    __real_free(p);
}

static struct gb file;

/* One run through everything; the first error, which all must come from a failed allocation. */
static kvw_err run(void)
{
    /* Special tokens, a long piece and bytes that aren't UTF-8, so that each kind of scratch is
     * taken. */
    static const char text[] = "<|im_start|>hello aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                               "aaaaaaaaaaaaaaaa\xff<tool>he<tool>he<tool>he<tool>he<tool>he<tool>"
                               "he<tool>he<tool>he<tool>he<tool>he<tool>";
    const struct kve_sample_config config = {.temperature = 1, .top_p = 0.9f};
    const struct kve_chat_message message = {"user", "Hi"};
    char why[KVE_WHY_BYTES] = "", *prompt = NULL;
    struct kve_sampler *s = NULL;
    struct kve_gguf *g = NULL;
    struct kve_tok *t = NULL;
    uint32_t *ids = NULL;
    size_t count;
    kvw_err err;

    if ((err = kve_gguf_open_bytes(&g, file.file.at, file.file.bytes, why)) != KVW_OK ||
        (err = kve_tok_open(&t, g, why)) != KVW_OK) {
        cr_expect(strstr(why, "memory") != NULL, "step %d: \"%s\"", step, why);
        goto close;
    }
    if ((err = kve_tok_encode(t, text, sizeof(text), true, false, &ids, &count)) != KVW_OK ||
        (err = kve_tok_chat(t, &message, 1, &prompt, why)) != KVW_OK)
        goto close;
    err = kve_sampler_open(&s, &config, 100);
close:
    kve_sampler_close(s);
    free(prompt);
    free(ids);
    kve_tok_close(t);
    kve_gguf_close(g);
    return err;
}

Test(engine_alloc, every_failure_is_reported_and_nothing_leaks)
{
    int steps;

    build_sound(&file);
    tb_vocabulary(&file, "llama-bpe");
    gb_finish(&file);
    live = step = 0;
    cr_assert_eq(run(), KVW_OK);
    steps = step;
    cr_assert_eq(live, 0, "a leak without any failure");
    cr_assert_gt(steps, 20, "only %d allocations seen", steps);
    for (fail_at = 1; fail_at <= steps; ++fail_at) {
        step = 0;
        const kvw_err err = run();
        const long leaked = live;
        live = 0;
        cr_expect_eq(err, KVW_E_NOMEM, "allocation %d of %d: %d", fail_at, steps, err);
        cr_expect_eq(leaked, 0, "allocation %d of %d: %ld leaked", fail_at, steps, leaked);
    }
    gb_free(&file);
}
