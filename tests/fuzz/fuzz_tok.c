/* SPDX-License-Identifier: Apache-2.0 */
/* Any text, under every kind of splitting: its ids' pieces put together are the text again, or what
 * the text is once it is UTF-8. The first byte says which kind and whether to parse specials. */
#include <stdlib.h>
#include <string.h>

#include "../../engine/text/tok_impl.h"
#include "../engine/text/tok_build.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

enum {
    KINDS = 5,
};

/* Made once, for as long as the process lives. */
static struct kve_tok *tok[KINDS];

static struct kve_tok *open_tok(const char *pre)
{
    char why[KVE_WHY_BYTES];
    struct gb b = {0};
    struct kve_gguf *g;
    struct kve_tok *t;

    tb_vocabulary(&b, pre);
    gb_finish(&b);
    if (kve_gguf_open_bytes(&g, b.file.at, b.file.bytes, why) != KVW_OK ||
        kve_tok_open(&t, g, why) != KVW_OK)
        abort();
    kve_gguf_close(g);
    gb_free(&b);
    return t;
}

static void round_trip(const struct kve_tok *t, const char *text, size_t n, bool special)
{
    char *expected = malloc(3 * n + 1), *safe = malloc(3 * n + 1);
    const size_t expected_n = kve_utf8_repair(text, n, expected, safe);
    uint32_t *ids;
    size_t count, at = 0;

    if (kve_utf8_sound(text, n) && (expected_n != n || memcmp(expected, text, n) != 0))
        abort(); /* sound text needs no repair */
    if (kve_tok_encode(t, text, n, special, false, &ids, &count) != KVW_OK)
        abort();
    for (size_t i = 0; i < count; ++i) {
        const struct kve_str s = kve_tok_piece(t, ids[i]);

        if (s.bytes > expected_n - at || memcmp(expected + at, s.at, s.bytes) != 0)
            abort();
        at += s.bytes;
    }
    if (at != expected_n)
        abort();
    free(ids);
    free(expected);
    free(safe);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static const char *const kinds[KINDS] = {"smollm", "gpt-2", "qwen2", "llama-bpe", "default"};

    if (n == 0)
        return 0;
    const unsigned kind = bytes[0] / 2 % KINDS;
    if (tok[kind] == NULL)
        tok[kind] = open_tok(kinds[kind]);
    round_trip(tok[kind], (const char *)bytes + 1, n - 1, bytes[0] % 2 == 1);
    return 0;
}
