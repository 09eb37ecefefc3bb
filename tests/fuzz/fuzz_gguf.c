/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes taken for a GGUF file: what opens can be read to the end, key by key and tensor by
 * tensor, and its vocabulary, if it has one, tokenizes. */
#include <stdlib.h>
#include <string.h>

#include "../../engine/gguf/gguf_impl.h"
#include "../../engine/text/tok.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

/* Ends in a sanitizer's report if a byte of it isn't there. */
static unsigned touch(const void *at, uint64_t bytes)
{
    const uint8_t *p = at;
    unsigned sum = 0;

    for (uint64_t i = 0; i < bytes; ++i)
        sum += p[i];
    return sum;
}

static void read_key(const struct kve_gguf *g, const char *key)
{
    uint64_t v = 0, count = 0;
    int64_t i;
    float f;
    bool yes;
    struct kve_str s;

    (void)kve_gguf_u64(g, key, &v);
    (void)kve_gguf_f32(g, key, &f);
    (void)kve_gguf_bool(g, key, &yes);
    if (kve_gguf_str(g, key, &s) == KVW_OK)
        touch(s.at, s.bytes);
    (void)kve_gguf_array_count(g, key, &count);
    for (uint64_t k = 0; k <= count; ++k) { /* one too many, too */
        (void)kve_gguf_array_i64(g, key, k, &i);
        (void)kve_gguf_array_f32(g, key, k, &f);
        if (kve_gguf_array_str(g, key, k, &s) == KVW_OK)
            touch(s.at, s.bytes);
    }
}

static void read_all(const struct kve_gguf *g)
{
    for (uint64_t i = 0; i < g->key_count; ++i) {
        char *key = strndup(g->keys[i].name.at, g->keys[i].name.bytes);

        read_key(g, key);
        free(key);
    }
    for (uint64_t i = 0; i < kve_gguf_tensor_count(g); ++i) {
        const struct kve_tensor *t = kve_gguf_tensor(g, i);

        touch(t->name.at, t->name.bytes);
        touch(t->at, t->bytes);
    }
}

static void tokenize(const struct kve_gguf *g)
{
    static const char text[] =
        "hello <|im_start|> 12\xff\xe4\xbd\xa0  \n aaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa's";
    const struct kve_chat_message message = {"user", "Hi"};
    char why[KVE_WHY_BYTES], *prompt;
    struct kve_tok *t;
    uint32_t *ids;
    size_t count;

    if (kve_tok_open(&t, g, why) != KVW_OK)
        return;
    for (int special = 0; special < 2; ++special) {
        if (kve_tok_encode(t, text, sizeof(text), special == 1, true, &ids, &count) != KVW_OK)
            abort();
        for (size_t i = 0; i < count; ++i)
            if (ids[i] >= kve_tok_vocab(t))
                abort();
        free(ids);
    }
    for (uint32_t i = 0; i <= kve_tok_vocab(t); ++i) {
        const struct kve_str s = kve_tok_piece(t, i);
        touch(s.at, s.bytes);
    }
    if (kve_tok_chat(t, &message, 1, &prompt, why) == KVW_OK)
        free(prompt);
    kve_tok_close(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    uint8_t *copy = malloc(n == 0 ? 1 : n); /* aligned, and no byte longer than n */
    char why[KVE_WHY_BYTES] = "";
    struct kve_gguf *g;

    if (copy == NULL)
        return 0;
    memcpy(copy, bytes, n);
    if (kve_gguf_open_bytes(&g, copy, n, why) == KVW_OK) {
        read_all(g);
        tokenize(g);
        kve_gguf_close(g);
    } else if (memchr(why, '\0', sizeof(why)) == NULL || why[0] == '\0') {
        abort(); /* refused without a sentence */
    }
    free(copy);
    return 0;
}
