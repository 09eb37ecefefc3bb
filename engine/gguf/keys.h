/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keys.h - which keys of a GGUF file change what a model says, and what is done about each.
 *
 * threads  pure functions over a gguf that is open    memory  none    time  none
 */
#ifndef KVE_KEYS_H
#define KVE_KEYS_H

#include "gguf.h"

enum kve_key_use {
    KVE_KEY_READ,      /* model.c, gguf.c or tok.c honours it or says what is wrong with it */
    KVE_KEY_ONLY,      /* one value changes nothing; any other is refused */
    KVE_KEY_EMPTY,     /* an array that must be empty */
    KVE_KEY_NO_EFFECT, /* no value of it can change logits or ids: note says why */
};

struct kve_key_rule {
    const char *key;
    enum kve_key_use use;
    double only; /* of KVE_KEY_ONLY; a bool counts as 0 or 1 */
    const char *note;
};

/* The tables are named for what their keys begin with; the tokenizer's two by its model. */
#define KVE_KEYS_BPE "tokenizer.gpt2"
#define KVE_KEYS_SPM "tokenizer.llama"

/* All keys that llama.cpp's loader reads for an architecture ("llama.", "qwen2.", "qwen3.",
 * "gemma3."), for "general.", or for a tokenizer model, and a few that other architectures'
 * arithmetic has; *count of them. NULL: there is no such table. */
const struct kve_key_rule *kve_key_rules(const char *of, size_t *count);

/*
 * Look at each key of the file that the table `of` is about. A key of an architecture that has no
 * rule is refused: nobody knows what it would change. Unknown keys of a tokenizer are left alone,
 * as llama.cpp leaves them.
 *   KVW_E_UNSUPPORTED  a value that isn't run, or no such table
 *   KVW_E_FORMAT       no number where one was expected
 * On an error why holds a sentence.
 */
KVW_NODISCARD kvw_err kve_keys_check(const struct kve_gguf *g, const char *of,
                                     char why[KVE_WHY_BYTES]);

#endif
