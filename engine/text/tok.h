/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tok.h - text to token ids and back, as llama.cpp does it: GGUF's "gpt2" (byte-level BPE) and
 * "llama" (SentencePiece), and the chat format of the model.
 *
 * threads  a struct kve_tok is read-only after open; encode and decode may be called by many
 *          threads
 * memory   tables are allocated in open and own copies of what they need: the gguf may be closed
 * time     none; encode is O(n log n) in the text
 */
#ifndef KVE_TOK_H
#define KVE_TOK_H

#include "../gguf/gguf.h"

struct kve_tok; /* opaque */

/* The longest text that is encoded at once. */
#define KVE_TEXT_BYTES_MAX (UINT64_C(1) << 30)

/* KVW_E_FORMAT, KVW_E_UNSUPPORTED (another tokenizer model or pre kind) or KVW_E_NOMEM, with a
 * sentence in why. *t is untouched on an error. */
KVW_NODISCARD kvw_err kve_tok_open(struct kve_tok **t, const struct kve_gguf *g,
                                   char why[KVE_WHY_BYTES]);
void kve_tok_close(struct kve_tok *t); /* takes NULL */

uint32_t kve_tok_vocab(const struct kve_tok *t);

/*
 * Encode text (any bytes, NULs too; valid UTF-8 or not). parse_special: texts of control tokens
 * such as <|im_start|> become those tokens; without it they are plain text. add_edges: BOS goes
 * before the text and EOS behind it where the model's metadata says so. *ids is malloc'ed (free()
 * it), *count its length.
 *   KVW_E_INVALID  bytes is more than KVE_TEXT_BYTES_MAX
 *   KVW_E_NOMEM
 * On an error the outputs are untouched.
 */
KVW_NODISCARD kvw_err kve_tok_encode(const struct kve_tok *t, const char *text, size_t bytes,
                                     bool parse_special, bool add_edges, uint32_t **ids,
                                     size_t *count);

/* The bytes of one token, raw (a piece of a UTF-8 character, perhaps); special tokens give their
 * text. Empty for an id out of range. Valid until close. */
struct kve_str kve_tok_piece(const struct kve_tok *t, uint32_t id);
/* A control token (not to be shown to users). */
bool kve_tok_is_control(const struct kve_tok *t, uint32_t id);
/* End of generation: eos, eot, eom and the texts that llama.cpp treats so. */
bool kve_tok_is_end(const struct kve_tok *t, uint32_t id);

struct kve_chat_message {
    const char *role; /* "system", "user", "assistant" */
    const char *content;
};
/*
 * The prompt text for these messages, as the model's chat template makes it, ending where the
 * assistant's answer begins; to be encoded with parse_special and add_edges (a template's own BOS
 * is in the text only where add_edges adds none): what a message's content says is encoded that way
 * too. *text is malloc'ed.
 *   KVW_E_UNSUPPORTED  the model's template isn't one we know; why says so and lists them
 *   KVW_E_INVALID      the template refuses such messages (an order of roles)
 *   KVW_E_NOMEM
 */
KVW_NODISCARD kvw_err kve_tok_chat(const struct kve_tok *t, const struct kve_chat_message *messages,
                                   size_t count, char **text, char why[KVE_WHY_BYTES]);

#endif
