/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tok_build.h - a small "gpt2" vocabulary for gguf_build.h: the 256 bytes, a few merges and a few
 * special tokens. Its ids:
 *
 *   0 <|endoftext|>  1 <|im_start|>  2 <|im_end|>          control
 *   3 <tool>                                               user-defined
 *   4 .. 259                                               byte b is token 4 + b
 *   260 "he"  261 "ll"  262 "hell"  263 "hello"  264 " w"  merges, in this order of rank
 *   265 "aa"  266 "aaaa"
 */
#ifndef TESTS_TOK_BUILD_H
#define TESTS_TOK_BUILD_H

#include "../gguf/gguf_build.h"

enum {
    TB_BYTE = 4,
    TB_HE = 260,
    TB_LL,
    TB_HELL,
    TB_HELLO,
    TB_SPACE_W,
    TB_AA,
    TB_AAAA,
    TB_VOCAB,
};

static const char *const tb_special[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool>"};
static const char *const tb_merged[] = {"he", "ll", "hell", "hello", "\xc4\xa0w", "aa", "aaaa"};
static const char *const tb_merges[] = {"h e",        "l l", "he ll", "hell o",
                                        "\xc4\xa0 w", "a a", "aa aa"};

#define TB_TEMPLATE                                                                                \
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"         \
    "{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + "              \
    "message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"              \
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"

/* The 256 bytes' spellings, by the table in the GPT-2 paper's code: printable Latin-1 as itself,
 * the others from U+0100 up in order. */
static inline void tb_byte_tokens(struct gb_buf *b)
{
    unsigned other = 0x100;

    for (unsigned byte = 0; byte < 256; ++byte) {
        const int printable =
            (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae);
        const unsigned cp = printable ? byte : other++;
        const char two[2] = {(char)(0xc0 | cp >> 6), (char)(0x80 | (cp & 0x3f))};
        const char one = (char)cp;

        gb_string(b, cp < 0x80 ? &one : two, cp < 0x80 ? 1 : 2);
    }
}

/* Append all of tokenizer.ggml.*, with this .pre, and a chat template. */
static inline void tb_vocabulary(struct gb *b, const char *pre)
{
    struct gb_buf *keys;

    gb_key_str(b, "tokenizer.ggml.model", "gpt2");
    gb_key_str(b, "tokenizer.ggml.pre", pre);
    keys = gb_key_array(b, "tokenizer.ggml.tokens", 8, TB_VOCAB);
    for (int i = 0; i < 4; ++i)
        gb_string(keys, tb_special[i], strlen(tb_special[i]));
    tb_byte_tokens(keys);
    for (int i = 0; i < 7; ++i)
        gb_string(keys, tb_merged[i], strlen(tb_merged[i]));
    keys = gb_key_array(b, "tokenizer.ggml.token_type", 5, TB_VOCAB);
    for (unsigned i = 0; i < TB_VOCAB; ++i)
        gb_u32(keys, i < 3 ? 3 : i == 3 ? 4 : 1);
    keys = gb_key_array(b, "tokenizer.ggml.merges", 8, 7);
    for (int i = 0; i < 7; ++i)
        gb_string(keys, tb_merges[i], strlen(tb_merges[i]));
    gb_key_u32(b, "tokenizer.ggml.bos_token_id", 1);
    gb_key_u32(b, "tokenizer.ggml.eos_token_id", 2);
    gb_key_str(b, "tokenizer.chat_template", TB_TEMPLATE);
}

#endif
