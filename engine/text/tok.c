/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tok.c - the vocabulary: reading it, cutting special tokens out of a text, ids back to bytes.
 *
 * Encoding a text: special tokens are cut out of it, the longest first, wherever they stand; what
 * lies between them is made UTF-8 (tok_utf8.c), split (tok_pre.c) and merged (tok_bpe.c), or goes
 * as it is to tok_spm.c.
 */
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "../gguf/keys.h"
#include "tok_impl.h"

enum flags {
    NORMAL = 1,
    UNKNOWN = 2,
    CONTROL = 4,
    USER_DEFINED = 8,
    BYTE = 16,
    END = 32, /* of generation */
};

enum limits {
    VOCAB_MAX = 1 << 24,
    EMPTY_BYTES = 24, /* "[EMPTY_16777215]" */
};
#define SPELLED_MAX (UINT64_C(1) << 30)

/* A token that goes before or behind a text. */
struct edge {
    bool add;
    uint32_t id; /* KVE_TOKEN_NONE: the file has none */
};

struct kve_tok {
    uint32_t vocab;
    struct kve_str *spelled; /* [vocab] as the file has it */
    struct kve_str *piece;   /* [vocab] the bytes it stands for */
    uint8_t *flags;          /* [vocab] */
    char *pool;              /* the bytes of both */
    uint32_t *special;       /* ids cut out of a text, the longest spelling first */
    uint32_t special_count;
    struct edge bos, eos;
    struct kve_pre *pre;
    struct kve_bpe *bpe; /* NULL: spm is there */
    struct kve_spm *spm;
    bool space_prefix; /* of spm: a space goes before each stretch of text */
    struct kve_chat chat;
};

/* A stretch of the text, or a special token found in it. */
struct fragment {
    size_t at, bytes;
    uint32_t token; /* KVE_TOKEN_NONE: text */
};

struct fragments {
    struct fragment *at;
    size_t count, room;
};

/* One stretch of text being encoded. */
struct encoding {
    const struct kve_tok *tok;
    const char *text;
    struct kve_bpe_scratch scratch;
    struct kve_ids *ids;
};

/* ---- the vocabulary ---- */

static kvw_err no_memory(char why[KVE_WHY_BYTES])
{
    snprintf(why, KVE_WHY_BYTES, "no memory for the vocabulary");
    return KVW_E_NOMEM;
}

/* tokenizer.ggml.tokens: how many, and the bytes of all together. */
static kvw_err measure_tokens(const struct kve_gguf *g, uint64_t *count, uint64_t *bytes,
                              char why[KVE_WHY_BYTES])
{
    const kvw_err err = kve_gguf_array_count(g, "tokenizer.ggml.tokens", count);
    struct kve_str s;

    if (err == KVW_E_NOTFOUND) {
        snprintf(why, KVE_WHY_BYTES, "tokenizer.ggml.tokens is missing");
        return KVW_E_FORMAT;
    }
    *bytes = 0;
    for (uint64_t i = 0; err == KVW_OK && i < *count; ++i) {
        if (kve_gguf_array_str(g, "tokenizer.ggml.tokens", i, &s) != KVW_OK)
            goto not_strings;
        *bytes += s.bytes + EMPTY_BYTES;
    }
    if (err != KVW_OK)
        goto not_strings;
    if (*count == 0 || *count > VOCAB_MAX || *bytes > SPELLED_MAX) {
        snprintf(why, KVE_WHY_BYTES, "tokenizer.ggml.tokens has %llu tokens of %llu bytes",
                 (unsigned long long)*count, (unsigned long long)*bytes);
        return KVW_E_FORMAT;
    }
    return KVW_OK;

not_strings:
    snprintf(why, KVE_WHY_BYTES, "tokenizer.ggml.tokens is not an array of strings");
    return KVW_E_FORMAT;
}

/* tokenizer.ggml.token_type to flags; without it, all are normal. */
static kvw_err read_types(struct kve_tok *t, const struct kve_gguf *g, char why[KVE_WHY_BYTES])
{
    static const uint8_t flags[] = {0, NORMAL, UNKNOWN, CONTROL, USER_DEFINED, 0, BYTE};
    uint64_t count;
    const kvw_err err = kve_gguf_array_count(g, "tokenizer.ggml.token_type", &count);

    memset(t->flags, NORMAL, t->vocab);
    if (err == KVW_E_NOTFOUND)
        return KVW_OK;
    if (err != KVW_OK || count < t->vocab) {
        snprintf(why, KVE_WHY_BYTES,
                 "tokenizer.ggml.token_type is not an array of at least %u entries", t->vocab);
        return KVW_E_FORMAT;
    }
    for (uint32_t i = 0; i < t->vocab; ++i) {
        int64_t type;

        if (kve_gguf_array_i64(g, "tokenizer.ggml.token_type", i, &type) != KVW_OK) {
            snprintf(why, KVE_WHY_BYTES, "tokenizer.ggml.token_type is not an array of integers");
            return KVW_E_FORMAT;
        }
        t->flags[i] = type >= 0 && type < (int64_t)sizeof(flags) ? flags[type] : 0;
    }
    return KVW_OK;
}

/* Own copies of the spellings, an invented one for an empty token. */
static kvw_err read_tokens(struct kve_tok *t, const struct kve_gguf *g, char why[KVE_WHY_BYTES])
{
    uint64_t count, bytes;
    const kvw_err err = measure_tokens(g, &count, &bytes, why);

    if (err != KVW_OK)
        return err;
    t->vocab = (uint32_t)count;
    t->spelled = malloc(count * sizeof(*t->spelled));
    t->piece = calloc(count, sizeof(*t->piece));
    t->flags = malloc(count);
    t->special = malloc(count * sizeof(*t->special));
    t->pool = malloc(2 * bytes); /* a piece is never longer than its spelling */
    if (t->spelled == NULL || t->piece == NULL || t->flags == NULL || t->special == NULL ||
        t->pool == NULL)
        return no_memory(why);
    char *at = t->pool;
    for (uint32_t i = 0; i < t->vocab; ++i) {
        struct kve_str s;

        (void)kve_gguf_array_str(g, "tokenizer.ggml.tokens", i, &s);
        memcpy(at, s.at, s.bytes);
        if (s.bytes == 0)
            s.bytes = (uint64_t)snprintf(at, EMPTY_BYTES, "[EMPTY_%u]", i);
        t->spelled[i] = (struct kve_str){at, s.bytes};
        at += s.bytes;
    }
    return read_types(t, g, why);
}

/* "<0x0A>" */
static bool byte_spelling(struct kve_str s, char *byte)
{
    char digits[3] = {0};
    char *end;

    if (s.bytes != 6 || memcmp(s.at, "<0x", 3) != 0 || s.at[5] != '>')
        return false;
    memcpy(digits, s.at + 3, 2);
    *byte = (char)strtoul(digits, &end, 16);
    return end == digits + 2;
}

/* The bytes that a normal token's spelling stands for; what stands for none is kept as it is. */
static size_t unspell(struct kve_str s, char *out)
{
    size_t n = 0;

    for (uint64_t at = 0; at < s.bytes;) {
        uint32_t cp = 0;
        size_t len = kve_utf8_get(s.at + at, s.bytes - at, &cp);
        const int byte = len == 0 ? -1 : kve_bpe_byte(cp);

        len = len == 0 ? 1 : len;
        if (byte >= 0) {
            out[n++] = (char)byte;
        } else {
            memcpy(out + n, s.at + at, len);
            n += len;
        }
        at += len;
    }
    return n;
}

/* Flags are final: the piece of each token, behind the spellings in the pool. */
static void make_pieces(struct kve_tok *t)
{
    const struct kve_str last = t->spelled[t->vocab - 1];
    char *at = t->pool + (last.at - t->pool) + last.bytes;

    for (uint32_t i = 0; i < t->vocab; ++i) {
        const struct kve_str s = t->spelled[i];
        size_t n = 0;

        if (t->flags[i] & (CONTROL | UNKNOWN | USER_DEFINED)) {
            t->piece[i] = s;
            continue;
        }
        if (t->flags[i] & NORMAL)
            n = t->spm != NULL ? kve_spm_unspell(s, at) : unspell(s, at);
        else if (t->flags[i] & BYTE)
            n = byte_spelling(s, at) ? 1 : 0;
        t->piece[i] = (struct kve_str){at, n};
        at += n;
    }
}

/* ---- special tokens ---- */

/* Tokens that llama.cpp finds by their text when no key names them. */
static const struct role {
    const char *key, *old_key;
    bool ends; /* generation */
    const char *texts[12];
} roles[] = {
    {"tokenizer.ggml.eos_token_id", NULL, true, {NULL}},
    {"tokenizer.ggml.eot_token_id",
     NULL,
     true,
     {"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>",
      "<EOT>", "_<EOT>", "[EOT]", "<｜end▁of▁sentence｜>", "<end_of_utterance>", NULL}},
    {"tokenizer.ggml.eom_token_id", NULL, true, {"<|eom_id|>", NULL}},
    {"tokenizer.ggml.fim_pre_token_id",
     "tokenizer.ggml.prefix_token_id",
     false,
     {"<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>",
      "<|code_prefix|>", "<|prefix|>", NULL}},
    {"tokenizer.ggml.fim_suf_token_id",
     "tokenizer.ggml.suffix_token_id",
     false,
     {"<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>",
      "<|code_suffix|>", "<|suffix|>", NULL}},
    {"tokenizer.ggml.fim_mid_token_id",
     "tokenizer.ggml.middle_token_id",
     false,
     {"<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>",
      "<|code_middle|>", "<|middle|>", NULL}},
    {"tokenizer.ggml.fim_pad_token_id",
     NULL,
     true,
     {"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]", NULL}},
    {"tokenizer.ggml.fim_rep_token_id",
     NULL,
     true,
     {"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", NULL}},
    {"tokenizer.ggml.fim_sep_token_id", NULL, true, {"<|file_sep|>", NULL}},
};

/* Texts that end generation whatever the keys say: files are often wrong about it. */
static const char *const end_texts[] = {
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|eom_id|>",
    "<|endoftext|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "</s>",
    "<｜end▁of▁sentence｜>",
};

static uint32_t token_of(const struct kve_tok *t, const char *text)
{
    const struct kve_str s = {text, strlen(text)};

    return t->spm != NULL ? kve_spm_token(t->spm, s) : kve_bpe_token(t->bpe, s);
}

/* An id that a key names. NOTFOUND: no such key. */
static kvw_err read_id(const struct kve_tok *t, const struct kve_gguf *g, const char *key,
                       uint32_t *id, char why[KVE_WHY_BYTES])
{
    uint64_t v = 0;
    const kvw_err err = kve_gguf_u64(g, key, &v);

    if (err == KVW_E_NOTFOUND)
        return err;
    if (err != KVW_OK || v >= t->vocab) {
        snprintf(why, KVE_WHY_BYTES, "%s is %llu, not an id below the vocabulary's %u", key,
                 (unsigned long long)v, t->vocab);
        return KVW_E_FORMAT;
    }
    *id = (uint32_t)v;
    return KVW_OK;
}

/* read_id() by a role's key, or by the name that the key had before. */
static kvw_err read_role(const struct kve_tok *t, const struct kve_gguf *g, const struct role *role,
                         uint32_t *id, char why[KVE_WHY_BYTES])
{
    const kvw_err err = read_id(t, g, role->key, id, why);

    return err == KVW_E_NOTFOUND && role->old_key != NULL ? read_id(t, g, role->old_key, id, why)
                                                          : err;
}

static kvw_err read_roles(struct kve_tok *t, const struct kve_gguf *g, char why[KVE_WHY_BYTES])
{
    for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]); ++i) {
        uint32_t id = KVE_TOKEN_NONE;
        const kvw_err err = read_role(t, g, &roles[i], &id, why);

        if (err != KVW_OK && err != KVW_E_NOTFOUND)
            return err;
        if (err == KVW_E_NOTFOUND) {
            for (const char *const *text = roles[i].texts; *text != NULL; ++text) {
                const uint32_t found = token_of(t, *text);
                id = found < id ? found : id;
            }
            if (id != KVE_TOKEN_NONE)
                t->flags[id] |= CONTROL;
        }
        if (id != KVE_TOKEN_NONE && roles[i].ends)
            t->flags[id] |= END;
    }
    for (size_t i = 0; i < sizeof(end_texts) / sizeof(end_texts[0]); ++i) {
        const uint32_t id = token_of(t, end_texts[i]);
        if (id != KVE_TOKEN_NONE)
            t->flags[id] |= END | CONTROL;
    }
    return KVW_OK;
}

/* A token that goes around a text: which, and whether. what: "bos" or "eos". */
static kvw_err read_edge(const struct kve_tok *t, const struct kve_gguf *g, const char *what,
                         struct edge *e, char why[KVE_WHY_BYTES])
{
    char id_key[48], add_key[48];
    kvw_err err;

    snprintf(id_key, sizeof(id_key), "tokenizer.ggml.%s_token_id", what);
    snprintf(add_key, sizeof(add_key), "tokenizer.ggml.add_%s_token", what);
    e->id = KVE_TOKEN_NONE;
    err = read_id(t, g, id_key, &e->id, why);
    if (err != KVW_OK && err != KVW_E_NOTFOUND)
        return err;
    err = kve_gguf_bool(g, add_key, &e->add);
    if (err != KVW_OK && err != KVW_E_NOTFOUND) {
        snprintf(why, KVE_WHY_BYTES, "%s is not a bool", add_key);
        return KVW_E_FORMAT;
    }
    if (e->add && e->id == KVE_TOKEN_NONE) {
        snprintf(why, KVE_WHY_BYTES, "%s is true but %s is missing", add_key, id_key);
        return KVW_E_FORMAT;
    }
    return KVW_OK;
}

static kvw_err read_edges(struct kve_tok *t, const struct kve_gguf *g, char why[KVE_WHY_BYTES])
{
    t->bos.add = t->spm != NULL || kve_pre_adds_bos(t->pre);
    const kvw_err err = read_edge(t, g, "bos", &t->bos, why);

    return err != KVW_OK ? err : read_edge(t, g, "eos", &t->eos, why);
}

static int longest_first(const void *a, const void *b, void *tok)
{
    const struct kve_tok *t = tok;
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    if (t->spelled[x].bytes != t->spelled[y].bytes)
        return t->spelled[x].bytes > t->spelled[y].bytes ? -1 : 1;
    return x < y ? -1 : 1;
}

static void list_special(struct kve_tok *t)
{
    for (uint32_t i = 0; i < t->vocab; ++i)
        if (t->flags[i] & (CONTROL | UNKNOWN | USER_DEFINED))
            t->special[t->special_count++] = i;
    qsort_r(t->special, t->special_count, sizeof(*t->special), longest_first, t);
}

/* ---- open ---- */

/* *bpe: "gpt2"; else it is "llama". */
static kvw_err read_model(const struct kve_gguf *g, bool *bpe, char why[KVE_WHY_BYTES])
{
    struct kve_str model;

    if (kve_gguf_str(g, "tokenizer.ggml.model", &model) != KVW_OK) {
        snprintf(why, KVE_WHY_BYTES, "tokenizer.ggml.model is missing or not a string");
        return KVW_E_FORMAT;
    }
    *bpe = model.bytes == 4 && memcmp(model.at, "gpt2", 4) == 0;
    if (!*bpe && (model.bytes != 5 || memcmp(model.at, "llama", 5) != 0)) {
        snprintf(why, KVE_WHY_BYTES,
                 "tokenizer.ggml.model is \"%.*s\", only \"gpt2\" and \"llama\" are known",
                 (int)(model.bytes < 60 ? model.bytes : 60), model.at);
        return KVW_E_UNSUPPORTED;
    }
    return KVW_OK;
}

/* llama.cpp strips blanks beside special tokens in models of these names; we don't. */
static kvw_err check_name(const struct kve_gguf *g, char why[KVE_WHY_BYTES])
{
    static const char *const names[] = {"phi-3", "phi3", "modern-bert"};
    struct kve_str name = {"", 0};
    const kvw_err err = kve_gguf_str(g, "general.name", &name);

    if (err == KVW_E_FORMAT) {
        snprintf(why, KVE_WHY_BYTES, "general.name is not a string");
        return err;
    }
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); ++i) {
        const size_t n = strlen(names[i]);

        for (uint64_t at = 0; at + n <= name.bytes; ++at) {
            if (strncasecmp(name.at + at, names[i], n) != 0)
                continue;
            snprintf(why, KVE_WHY_BYTES,
                     "general.name has \"%s\" in it: such a model's special tokens strip blanks, "
                     "which isn't done here",
                     names[i]);
            return KVW_E_UNSUPPORTED;
        }
    }
    return KVW_OK;
}

static kvw_err open_chat(struct kve_tok *t, const struct kve_gguf *g, char why[KVE_WHY_BYTES])
{
    struct kve_str text = {"", 0}; /* none: no chat */

    if (kve_gguf_str(g, "tokenizer.chat_template", &text) == KVW_E_FORMAT) {
        snprintf(why, KVE_WHY_BYTES, "tokenizer.chat_template is not a string");
        return KVW_E_FORMAT;
    }
    return kve_chat_open(&t->chat, text) == KVW_OK ? KVW_OK : no_memory(why);
}

static kvw_err open_pre(struct kve_tok *t, const struct kve_gguf *g, char why[KVE_WHY_BYTES])
{
    struct kve_str kind = {"default", 7};
    const kvw_err err = kve_gguf_str(g, "tokenizer.ggml.pre", &kind);

    if (err == KVW_E_FORMAT) {
        snprintf(why, KVE_WHY_BYTES, "tokenizer.ggml.pre is not a string");
        return err;
    }
    return kve_pre_open(&t->pre, kind, why);
}

static kvw_err open_bpe(struct kve_tok *t, const struct kve_gguf *g, char why[KVE_WHY_BYTES])
{
    kvw_err err;

    if ((err = kve_keys_check(g, KVE_KEYS_BPE, why)) != KVW_OK ||
        (err = open_pre(t, g, why)) != KVW_OK || (err = read_tokens(t, g, why)) != KVW_OK)
        return err;
    return kve_bpe_open(&t->bpe, t->spelled, t->vocab, g, why);
}

static kvw_err open_spm(struct kve_tok *t, const struct kve_gguf *g, char why[KVE_WHY_BYTES])
{
    static const char key[] = "tokenizer.ggml.add_space_prefix";
    kvw_err err;

    t->space_prefix = true;
    if (kve_gguf_bool(g, key, &t->space_prefix) == KVW_E_FORMAT) {
        snprintf(why, KVE_WHY_BYTES, "%s is not a bool", key);
        return KVW_E_FORMAT;
    }
    if ((err = kve_keys_check(g, KVE_KEYS_SPM, why)) != KVW_OK ||
        (err = read_tokens(t, g, why)) != KVW_OK)
        return err;
    return kve_spm_open(
        &t->spm,
        &(struct kve_spm_vocabulary){
            .texts = t->spelled, .flags = t->flags, .count = t->vocab, .never = CONTROL | UNKNOWN},
        g, why);
}

static kvw_err open_all(struct kve_tok *t, const struct kve_gguf *g, char why[KVE_WHY_BYTES])
{
    bool bpe;
    kvw_err err;

    if ((err = read_model(g, &bpe, why)) != KVW_OK || (err = check_name(g, why)) != KVW_OK ||
        (err = bpe ? open_bpe(t, g, why) : open_spm(t, g, why)) != KVW_OK ||
        (err = read_roles(t, g, why)) != KVW_OK || (err = read_edges(t, g, why)) != KVW_OK)
        return err;
    list_special(t);
    make_pieces(t);
    return open_chat(t, g, why);
}

kvw_err kve_tok_open(struct kve_tok **out, const struct kve_gguf *g, char why[KVE_WHY_BYTES])
{
    struct kve_tok *t = calloc(1, sizeof(*t));

    if (t == NULL)
        return no_memory(why);
    const kvw_err err = open_all(t, g, why);
    if (err != KVW_OK) {
        kve_why_clean(why);
        kve_tok_close(t);
        return err;
    }
    *out = t;
    return KVW_OK;
}

void kve_tok_close(struct kve_tok *t)
{
    if (t == NULL)
        return;
    kve_chat_close(&t->chat);
    kve_bpe_close(t->bpe);
    kve_spm_close(t->spm);
    kve_pre_close(t->pre);
    free(t->spelled);
    free(t->piece);
    free(t->flags);
    free(t->special);
    free(t->pool);
    free(t);
}

/* ---- encode ---- */

static kvw_err add_fragment(struct fragments *f, struct fragment one)
{
    if (f->count == f->room) {
        const size_t room = f->room < 16 ? 16 : f->room * 2;
        struct fragment *at = realloc(f->at, room * sizeof(*at));

        if (at == NULL)
            return KVW_E_NOMEM;
        f->at = at;
        f->room = room;
    }
    f->at[f->count++] = one;
    return KVW_OK;
}

/* Cut one token out of every stretch of text; *out is what *in becomes. */
static kvw_err cut(const char *text, uint32_t token, struct kve_str spelled,
                   const struct fragments *in, struct fragments *out)
{
    kvw_err err = KVW_OK;

    out->count = 0;
    for (size_t i = 0; i < in->count && err == KVW_OK; ++i) {
        struct fragment f = in->at[i];

        while (f.token == KVE_TOKEN_NONE && err == KVW_OK) {
            const char *found = memmem(text + f.at, f.bytes, spelled.at, spelled.bytes);
            if (found == NULL)
                break;
            const size_t before = (size_t)(found - text) - f.at;
            if (before > 0)
                err = add_fragment(out, (struct fragment){f.at, before, KVE_TOKEN_NONE});
            if (err == KVW_OK)
                err = add_fragment(out, (struct fragment){0, 0, token});
            f.at += before + spelled.bytes;
            f.bytes -= before + spelled.bytes;
        }
        if (err == KVW_OK && (f.token != KVE_TOKEN_NONE || f.bytes > 0))
            err = add_fragment(out, f);
    }
    return err;
}

/* Which two bytes stand side by side anywhere in a text: most special tokens begin with two that
 * don't, and needn't be searched for. */
struct neighbours {
    uint64_t bits[65536 / 64];
};

static void note_neighbours(struct neighbours *n, const char *text, size_t bytes)
{
    memset(n, 0, sizeof(*n));
    for (size_t i = 0; i + 1 < bytes; ++i) {
        const unsigned two = (unsigned)(unsigned char)text[i] << 8 | (unsigned char)text[i + 1];
        n->bits[two / 64] |= UINT64_C(1) << two % 64;
    }
}

static bool may_have(const struct neighbours *n, struct kve_str s)
{
    if (s.bytes < 2)
        return true;
    const unsigned two = (unsigned)(unsigned char)s.at[0] << 8 | (unsigned char)s.at[1];
    return n->bits[two / 64] >> two % 64 & 1;
}

/* Cut the special tokens out. Without parse_special, only the user-defined ones. */
static kvw_err partition(const struct kve_tok *t, const char *text, size_t bytes,
                         bool parse_special, struct fragments *f)
{
    struct neighbours n;
    struct fragments spare = {0};
    kvw_err err = add_fragment(f, (struct fragment){0, bytes, KVE_TOKEN_NONE});

    note_neighbours(&n, text, bytes);
    for (uint32_t i = 0; i < t->special_count && err == KVW_OK; ++i) {
        const uint32_t id = t->special[i];

        if (!parse_special && t->flags[id] & (CONTROL | UNKNOWN))
            continue;
        if (!may_have(&n, t->spelled[id]))
            continue;
        err = cut(text, id, t->spelled[id], f, &spare);
        const struct fragments swap = *f;
        *f = spare;
        spare = swap;
    }
    free(spare.at);
    return err;
}

static kvw_err encode_piece(void *arg, size_t at, size_t bytes)
{
    struct encoding *e = arg;

    return kve_bpe_encode(e->tok->bpe, e->text + at, bytes, kve_pre_ignores_merges(e->tok->pre),
                          &e->scratch, e->ids);
}

/* A stretch of text without special tokens, which the beginning or a special token is before. */
static kvw_err encode_text(struct encoding *e, const char *text, size_t bytes)
{
    if (e->tok->spm != NULL)
        return kve_spm_encode(e->tok->spm, (struct kve_str){text, bytes}, e->tok->space_prefix,
                              e->ids);
    if (kve_utf8_sound(text, bytes)) {
        e->text = text;
        return kve_pre_split(e->tok->pre, text, bytes, encode_piece, e);
    }
    char *repaired = malloc(2 * 3 * bytes);
    if (repaired == NULL)
        return KVW_E_NOMEM;
    char *safe = repaired + 3 * bytes;
    const size_t n = kve_utf8_repair(text, bytes, repaired, safe);
    e->text = repaired;
    const kvw_err err = kve_pre_split(e->tok->pre, safe, n, encode_piece, e);
    free(repaired);
    return err;
}

kvw_err kve_tok_encode(const struct kve_tok *t, const char *text, size_t bytes, bool parse_special,
                       bool add_edges, uint32_t **ids, size_t *count)
{
    struct kve_ids list = {0};
    struct encoding e = {.tok = t, .ids = &list};
    struct fragments f = {0};
    kvw_err err;

    if (bytes > KVE_TEXT_BYTES_MAX)
        return KVW_E_INVALID;
    list.room = bytes / 3 + 16;
    list.at = malloc(list.room * sizeof(*list.at));
    if (list.at == NULL)
        return KVW_E_NOMEM;
    err = add_edges && t->bos.add ? kve_ids_add(&list, t->bos.id) : KVW_OK;
    if (err == KVW_OK && bytes > 0)
        err = partition(t, text, bytes, parse_special, &f);
    for (size_t i = 0; i < f.count && err == KVW_OK; ++i)
        err = f.at[i].token != KVE_TOKEN_NONE ? kve_ids_add(&list, f.at[i].token)
                                              : encode_text(&e, text + f.at[i].at, f.at[i].bytes);
    if (err == KVW_OK && add_edges && t->eos.add)
        err = kve_ids_add(&list, t->eos.id);
    free(f.at);
    kve_bpe_scratch_free(&e.scratch);
    if (err != KVW_OK) {
        free(list.at);
        return err;
    }
    *ids = list.at;
    *count = list.count;
    return KVW_OK;
}

/* ---- decode ---- */

uint32_t kve_tok_vocab(const struct kve_tok *t)
{
    return t->vocab;
}

struct kve_str kve_tok_piece(const struct kve_tok *t, uint32_t id)
{
    return id < t->vocab ? t->piece[id] : (struct kve_str){"", 0};
}

bool kve_tok_is_control(const struct kve_tok *t, uint32_t id)
{
    return id < t->vocab && (t->flags[id] & CONTROL) != 0;
}

bool kve_tok_is_end(const struct kve_tok *t, uint32_t id)
{
    return id < t->vocab && (t->flags[id] & END) != 0;
}

kvw_err kve_tok_chat(const struct kve_tok *t, const struct kve_chat_message *messages, size_t count,
                     char **text, char why[KVE_WHY_BYTES])
{
    const bool spell = !t->bos.add && t->bos.id != KVE_TOKEN_NONE;
    const struct kve_chat_messages m = {messages, count};

    return kve_chat_prompt(&t->chat, spell ? t->spelled[t->bos.id] : (struct kve_str){"", 0}, &m,
                           text, why);
}
