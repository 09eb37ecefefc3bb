/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tok_pre.c - cutting text into the pieces that merging never crosses.
 *
 * A kind is a list of regular expressions. The first is applied to the text, the next to each piece
 * that the one before left, and so on; what an expression doesn't match stays as a piece of its own
 * (gpt-2's has no branch for trailing spaces, so the gaps matter).
 *
 * A piece is a subject of its own: its end is the end of the text for look-ahead.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>

#include "tok_impl.h"

/*
 * The classes by hand: PCRE2's \s has U+180E too, which hasn't been white space since Unicode 6.3;
 * and Debian 12's PCRE2 knows Unicode 14, llama.cpp 15, so what 15 added stands here as ranges (for
 * a newer PCRE2 they are nothing new).
 */
#define SPACES                                                                                     \
    "\\x{09}-\\x{0d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"  \
    "\\x{205f}\\x{3000}"
#define LETTERS                                                                                    \
    "\\p{L}\\x{1123f}\\x{11240}\\x{11f02}\\x{11f04}-\\x{11f10}\\x{11f12}-\\x{11f33}\\x{1342f}"     \
    "\\x{13441}-\\x{13446}\\x{1b132}\\x{1b155}\\x{1df25}-\\x{1df2a}\\x{1e030}-\\x{1e06d}"          \
    "\\x{1e4d0}-\\x{1e4eb}\\x{2b739}\\x{31350}-\\x{323af}"
#define DIGITS "\\p{N}\\x{11f50}-\\x{11f59}\\x{1d2c0}-\\x{1d2d3}\\x{1e4f0}-\\x{1e4f9}"

#define SPACE     "[" SPACES "]"
#define NOT_SPACE "[^" SPACES "]"
#define LETTER    "[" LETTERS "]"
#define DIGIT     "[" DIGITS "]"
#define OTHER     "[^" SPACES LETTERS DIGITS "]"

#define GPT2                                                                                       \
    "'s|'t|'re|'ve|'m|'ll|'d| ?" LETTER "+| ?" DIGIT "+| ?" OTHER "+|" SPACE "+(?!" NOT_SPACE ")"
#define LLAMA3(digits)                                                                             \
    "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|"                                   \
    "[^\\r\\n" LETTERS DIGITS "]?" LETTER "+|" digits "| ?" OTHER "+[\\r\\n]*|" SPACE              \
    "*[\\r\\n]+|" SPACE "+(?!" NOT_SPACE ")|" SPACE "+"

#define STEPS_MAX 4

struct kind {
    const char *names; /* each between spaces */
    bool adds_bos, ignores_merges;
    const char *steps[STEPS_MAX + 1]; /* NULL-terminated */
};

/* The names are those whose expressions llama.cpp has as the same ones. */
static const struct kind kinds[] = {
    {" smollm starcoder refact command-r codeshell exaone minerva-7b mellum2 ",
     false,
     false,
     {DIGIT, GPT2}},
    {" gpt-2 phi-2 mpt olmo jais exaone4 trillion gigachat mellum ", false, false, {GPT2}},
    {" qwen2 deepseek-r1-qwen megrez stablelm2 kormo hunyuan ", false, false, {LLAMA3(DIGIT)}},
    {" llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral lfm2 ",
     true,
     true,
     {LLAMA3(DIGIT "{1,3}")}},
    {" dbrx smaug-bpe ", false, false, {LLAMA3(DIGIT "{1,3}")}},
    {" default ", false, false, {"[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, DIGIT "+", "[0-9][0-9][0-9]"}},
};

struct kve_pre {
    const struct kind *kind;
    unsigned steps;
    pcre2_code *step[STEPS_MAX];
};

/* One split in progress. */
struct split {
    const struct kve_pre *pre;
    const char *text;
    pcre2_match_data *match;
    kvw_err (*each)(void *arg, size_t at, size_t bytes);
    void *arg;
};

static const struct kind *find_kind(struct kve_str name)
{
    char wanted[40];

    if (name.bytes == 0 || name.bytes + 3 > sizeof(wanted) ||
        memchr(name.at, ' ', name.bytes) != NULL || memchr(name.at, '\0', name.bytes) != NULL)
        return NULL;
    snprintf(wanted, sizeof(wanted), " %.*s ", (int)name.bytes, name.at);
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); ++i)
        if (strstr(kinds[i].names, wanted) != NULL)
            return &kinds[i];
    return NULL;
}

kvw_err kve_pre_open(struct kve_pre **out, struct kve_str name, char why[KVE_WHY_BYTES])
{
    const struct kind *kind = find_kind(name);

    if (kind == NULL) {
        snprintf(why, KVE_WHY_BYTES, "tokenizer.ggml.pre is \"%.*s\", which isn't a kind we know",
                 (int)(name.bytes < 60 ? name.bytes : 60), name.at);
        return KVW_E_UNSUPPORTED;
    }
    struct kve_pre *pre = calloc(1, sizeof(*pre));
    if (pre == NULL)
        goto no_memory;
    pre->kind = kind;
    for (; kind->steps[pre->steps] != NULL; ++pre->steps) {
        PCRE2_SIZE where;
        int number;
        pcre2_code *step = pcre2_compile((PCRE2_SPTR)kind->steps[pre->steps], PCRE2_ZERO_TERMINATED,
                                         PCRE2_UTF | PCRE2_UCP, &number, &where, NULL);

        /* They are constants and tested, so what can go wrong is memory. */
        if (step == NULL)
            goto no_memory;
        pre->step[pre->steps] = step;
        (void)pcre2_jit_compile(step, PCRE2_JIT_COMPLETE); /* without it, slower */
    }
    *out = pre;
    return KVW_OK;

no_memory:
    kve_pre_close(pre);
    snprintf(why, KVE_WHY_BYTES, "no memory for the tokenizer's expressions");
    return KVW_E_NOMEM;
}

void kve_pre_close(struct kve_pre *pre)
{
    if (pre == NULL)
        return;
    for (unsigned i = 0; i < pre->steps; ++i)
        pcre2_code_free(pre->step[i]);
    free(pre);
}

bool kve_pre_adds_bos(const struct kve_pre *pre)
{
    return pre->kind->adds_bos;
}

bool kve_pre_ignores_merges(const struct kve_pre *pre)
{
    return pre->kind->ignores_merges;
}

/* The next match of a step in text[from .. end-1], where a piece starts at start. */
static kvw_err next_match(const struct split *s, unsigned step, size_t start, size_t end,
                          size_t from, size_t *match_at, size_t *match_end)
{
    const PCRE2_SPTR subject = (PCRE2_SPTR)s->text + start;
    const pcre2_code *code = s->pre->step[step];
    int n =
        pcre2_match(code, subject, end - start, from - start, PCRE2_NO_UTF_CHECK, s->match, NULL);

    /* JIT code has a small stack; the interpreter uses the heap. */
    if (n == PCRE2_ERROR_JIT_STACKLIMIT)
        n = pcre2_match(code, subject, end - start, from - start, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                        s->match, NULL);
    if (n == PCRE2_ERROR_NOMATCH) {
        *match_at = *match_end = end;
        return KVW_OK;
    }
    if (n < 0)
        return KVW_E_NOMEM;
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(s->match);
    *match_at = start + range[0];
    *match_end = start + range[1];
    return KVW_OK;
}

/* Cut text[start .. end-1] by this step and the steps after it. */
static kvw_err split_from(const struct split *s, unsigned step, size_t start, size_t end)
{
    if (step >= STEPS_MAX || step >= s->pre->steps)
        return s->each(s->arg, start, end - start);
    for (size_t at = start; at < end;) {
        size_t match_at, match_end;
        kvw_err err = next_match(s, step, start, end, at, &match_at, &match_end);

        if (err == KVW_OK && match_at > at)
            err = split_from(s, step + 1, at, match_at);
        if (err == KVW_OK && match_end > match_at)
            err = split_from(s, step + 1, match_at, match_end);
        if (err != KVW_OK)
            return err;
        at = match_end; /* no expression matches nothing, so this moves */
    }
    return KVW_OK;
}

kvw_err kve_pre_split(const struct kve_pre *pre, const char *text, size_t bytes,
                      kvw_err (*each)(void *arg, size_t at, size_t bytes), void *arg)
{
    const struct split s = {pre, text, pcre2_match_data_create(1, NULL), each, arg};

    if (s.match == NULL)
        return KVW_E_NOMEM;
    const kvw_err err = split_from(&s, 0, 0, bytes);
    pcre2_match_data_free(s.match);
    return err;
}
