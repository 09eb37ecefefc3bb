/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tok_impl.h - the parts of the tokenizer, one file each, and what passes between them:
 *
 *   tok.c       the vocabulary, special tokens, encode and decode
 *   tok_utf8.c  bytes that aren't UTF-8, made UTF-8 the way llama.cpp does
 *   tok_pre.c   text into pieces, by the regular expressions of the model's .pre kind
 *   tok_bpe.c   a piece into tokens, by merging pairs
 *   tok_spm.c   a text into tokens, by merging what gives tokens of good scores
 *   tok_chat.c  which chat template it is
 *   tok_render.c  messages into a prompt
 *
 * threads  everything but a struct kve_ids and a struct kve_bpe_scratch is read-only after open
 * memory   who opens closes; nothing points into the gguf after open
 * time     none
 */
#ifndef KVE_TOK_IMPL_H
#define KVE_TOK_IMPL_H

#include <string.h>

#include "tok.h"

#define KVE_TOKEN_NONE UINT32_MAX

/* A growing list of token ids: what tok.c gives out, and tok_bpe.c appends to. */
struct kve_ids {
    uint32_t *at;
    size_t count, room;
};

/* ---- tok_utf8.c ---- */

/* Whether all of it is UTF-8 by the book: shortest forms, no surrogates, none past U+10FFFF. */
bool kve_utf8_sound(const char *text, size_t bytes);
/*
 * text as llama.cpp understands it: a byte that starts no character becomes U+FFFD, overlong forms
 * become the character they mean, surrogates stay. out (room for 3 * bytes) gets that, and safe the
 * same with U+E000 in place of each surrogate, for a regex library that refuses them; both are as
 * long as the result says.
 */
size_t kve_utf8_repair(const char *text, size_t bytes, char *out, char *safe);
/* Put a code point up to U+10FFFF down; returns its length, 1 .. 4. */
size_t kve_utf8_put(uint32_t cp, char out[4]);
/* The code point at text[0 .. bytes-1], leniently as above; 0 if there is none. Sets *cp. */
size_t kve_utf8_get(const char *text, size_t bytes, uint32_t *cp);

/* ---- tok_pre.c ---- */

struct kve_pre; /* opaque */

/* kind: tokenizer.ggml.pre. KVW_E_UNSUPPORTED: not one we know; KVW_E_NOMEM. */
KVW_NODISCARD kvw_err kve_pre_open(struct kve_pre **pre, struct kve_str kind,
                                   char why[KVE_WHY_BYTES]);
void kve_pre_close(struct kve_pre *pre); /* takes NULL */
/* What the kind says when the file doesn't. */
bool kve_pre_adds_bos(const struct kve_pre *pre);
/* A piece that is itself a token is taken whole. */
bool kve_pre_ignores_merges(const struct kve_pre *pre);
/*
 * Call each() for every piece of text (sound UTF-8), in order and without gaps; any result but
 * KVW_OK ends it. KVW_E_NOMEM, or what each() returned.
 */
KVW_NODISCARD kvw_err kve_pre_split(const struct kve_pre *pre, const char *text, size_t bytes,
                                    kvw_err (*each)(void *arg, size_t at, size_t bytes), void *arg);

/* ---- tok_bpe.c ---- */

/* Append one id. KVW_E_NOMEM leaves the list as it was. */
KVW_NODISCARD kvw_err kve_ids_add(struct kve_ids *ids, uint32_t id);

struct kve_bpe; /* opaque */

/*
 * texts[count]: the vocabulary as the file spells it, no two alike; borrowed, must outlive *bpe.
 * Reads tokenizer.ggml.merges from g. KVW_E_FORMAT, KVW_E_NOMEM.
 */
KVW_NODISCARD kvw_err kve_bpe_open(struct kve_bpe **bpe, const struct kve_str *texts,
                                   uint32_t count, const struct kve_gguf *g,
                                   char why[KVE_WHY_BYTES]);
void kve_bpe_close(struct kve_bpe *bpe); /* takes NULL */
/* The token spelled so, or KVE_TOKEN_NONE. */
uint32_t kve_bpe_token(const struct kve_bpe *bpe, struct kve_str text);

/* Grown as pieces need it; zero it first, free it at the end. */
struct kve_bpe_scratch {
    void *memory;
    size_t bytes;
};
void kve_bpe_scratch_free(struct kve_bpe_scratch *s);
/* Append the tokens of one piece. whole: take it whole if it is a token. KVW_E_NOMEM. */
KVW_NODISCARD kvw_err kve_bpe_encode(const struct kve_bpe *bpe, const char *piece, size_t bytes,
                                     bool whole, struct kve_bpe_scratch *s, struct kve_ids *ids);

/* The byte that a printable character stands for in a vocabulary's spelling; -1: none. */
int kve_bpe_byte(uint32_t cp);

/* ---- tok_spm.c ---- */

struct kve_spm; /* opaque */

/* The vocabulary as the file spells it, no two alike, and flags of each token, of which those in
 * `never` keep a token out of merges. All borrowed: they must outlive the kve_spm. */
struct kve_spm_vocabulary {
    const struct kve_str *texts;
    const uint8_t *flags;
    uint32_t count;
    uint8_t never;
};

/* Reads tokenizer.ggml.scores from g. KVW_E_FORMAT, KVW_E_NOMEM. */
KVW_NODISCARD kvw_err kve_spm_open(struct kve_spm **spm, const struct kve_spm_vocabulary *v,
                                   const struct kve_gguf *g, char why[KVE_WHY_BYTES]);
void kve_spm_close(struct kve_spm *spm); /* takes NULL */
/* The token spelled so, or KVE_TOKEN_NONE. */
uint32_t kve_spm_token(const struct kve_spm *spm, struct kve_str text);
/* Append the tokens of a text of up to KVE_TEXT_BYTES_MAX bytes, UTF-8 or not; space_before: a
 * space goes before it. KVW_E_NOMEM. */
KVW_NODISCARD kvw_err kve_spm_encode(const struct kve_spm *spm, struct kve_str text,
                                     bool space_before, struct kve_ids *ids);
/* The bytes that a spelling stands for, at most as many; returns how many. */
size_t kve_spm_unspell(struct kve_str s, char *out);

/* ---- tok_chat.c ---- */

struct kve_chat {
    uint64_t high, low; /* hash of the template, see tok_chat.c */
    uint64_t bytes;     /* of the template; 0: there is none */
    char *system;       /* the system turn a template adds by itself, malloc'ed; NULL: none */
};
struct kve_chat_messages {
    const struct kve_chat_message *at;
    size_t count;
};
/* KVW_E_NOMEM. A template that isn't known is no error. */
KVW_NODISCARD kvw_err kve_chat_open(struct kve_chat *chat, struct kve_str template_text);
void kve_chat_close(struct kve_chat *chat);
/* The known template's name; NULL: it is none. */
const char *kve_chat_name(const struct kve_chat *chat);
/* The work of kve_tok_chat(), with its contract. bos: what a template that begins with BOS begins
 * with; empty where encoding adds it. */
KVW_NODISCARD kvw_err kve_chat_prompt(const struct kve_chat *chat, struct kve_str bos,
                                      const struct kve_chat_messages *m, char **text,
                                      char why[KVE_WHY_BYTES]);

#endif
