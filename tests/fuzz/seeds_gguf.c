/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seeds_gguf.c - write the files that corpus/gguf begins with: one for each reason to refuse a
 * file, a sound one, and small vocabularies.
 *
 *   seeds_gguf DIRECTORY
 */
#include "../engine/gguf/gguf_bad.h"
#include "../engine/text/tok_build.h"

enum {
    SEED_BYTES_MAX = 12 << 10,
};

static void save(struct gb *b, const char *directory, const char *name)
{
    char path[512];

    snprintf(path, sizeof(path), "%s/%s", directory, name);
    for (char *c = path + strlen(directory) + 1; *c != '\0'; ++c)
        *c = *c == ' ' || *c == '\'' ? '_' : *c;
    if (b->file.bytes <= SEED_BYTES_MAX)
        gb_save(b, path);
    gb_free(b);
}

/* Few tokens, so that a fuzzer's changes hit something that matters. */
static void tiny_vocabulary(struct gb *b, const char *pre)
{
    static const char *const texts[] = {"<|im_end|>", "a", "b", "ab", "aba", "\xc4\xa0", "<0x41>"};
    static const uint32_t types[] = {3, 1, 1, 1, 4, 1, 6};
    struct gb_buf *k;

    gb_key_str(b, "tokenizer.ggml.model", "gpt2");
    gb_key_str(b, "tokenizer.ggml.pre", pre);
    k = gb_key_array(b, "tokenizer.ggml.tokens", 8, 7);
    for (int i = 0; i < 7; ++i)
        gb_string(k, texts[i], strlen(texts[i]));
    k = gb_key_array(b, "tokenizer.ggml.token_type", 5, 7);
    for (int i = 0; i < 7; ++i)
        gb_u32(k, types[i]);
    k = gb_key_array(b, "tokenizer.ggml.merges", 8, 3);
    gb_string(k, "a b", 3);
    gb_string(k, "ab a", 4);
    gb_string(k, "x y", 3);
    gb_key_u32(b, "tokenizer.ggml.bos_token_id", 1);
    gb_key_bool(b, "tokenizer.ggml.add_bos_token", 1);
    gb_key_str(b, "tokenizer.chat_template", "<|im_start|>system\nx<|im_end|>");
    gb_finish(b);
}

int main(int argc, char **argv)
{
    static const char *const kinds[] = {"smollm", "gpt-2", "qwen2", "llama-bpe", "default"};
    struct gb b = {0};

    if (argc != 2) {
        fprintf(stderr, "usage: seeds_gguf DIRECTORY\n");
        return 1;
    }
    for (size_t i = 0; i < sizeof(unsound) / sizeof(unsound[0]); ++i) {
        unsound[i].build(&b);
        save(&b, argv[1], unsound[i].name);
    }
    build_sound(&b);
    save(&b, argv[1], "sound");
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); ++i) {
        char name[40];

        tiny_vocabulary(&b, kinds[i]);
        snprintf(name, sizeof(name), "tokens %s", kinds[i]);
        save(&b, argv[1], name);
    }
    tb_vocabulary(&b, "smollm");
    gb_finish(&b);
    save(&b, argv[1], "bytes and merges");
    return 0;
}
