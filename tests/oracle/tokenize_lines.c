/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tokenize_lines.c - our tokenizer behind a pipe, for tokenizer.py to put questions to.
 *
 *   tokenize_lines MODEL.gguf < requests > answers
 *
 * A request is one byte that says what, a u32 of the length, and so many bytes; an answer is a u32
 * of the length and so many bytes. Numbers are little-endian.
 *   'e'  encode the bytes                                    -> u32 ids
 *   's'  the same, with parse_special                        -> u32 ids
 *   'a'  the same, with BOS and EOS where the file adds them  -> u32 ids
 *   't'  encode, and say how long it took                    -> u64 nanoseconds
 *   'p'  u32 id                                              -> u32 control | end << 1, its piece
 *   'c'  role NUL content NUL, as often as there are messages -> the prompt, or NUL and the reason
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../../engine/text/tok.h"

enum limits {
    REQUEST_MAX = 256 << 20,
    MESSAGES_MAX = 64,
};

static bool answer(const void *a, size_t a_bytes, const void *b, size_t b_bytes)
{
    const uint32_t n = (uint32_t)(a_bytes + b_bytes);

    return fwrite(&n, sizeof(n), 1, stdout) == 1 && fwrite(a, 1, a_bytes, stdout) == a_bytes &&
           fwrite(b, 1, b_bytes, stdout) == b_bytes && fflush(stdout) == 0;
}

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static bool encode(const struct kve_tok *tok, char what, const char *text, size_t bytes)
{
    const uint64_t start = now_ns();
    uint32_t *ids;
    size_t count;
    bool ok;

    if (kve_tok_encode(tok, text, bytes, what == 's' || what == 'a', what == 'a', &ids, &count) !=
        KVW_OK)
        return false;
    const uint64_t took = now_ns() - start;
    if (what == 't')
        ok = answer(&took, sizeof(took), "", 0);
    else
        ok = answer(ids, count * sizeof(*ids), "", 0);
    free(ids);
    return ok;
}

static bool piece(const struct kve_tok *tok, const char *request, size_t bytes)
{
    uint32_t id, flags;

    if (bytes != sizeof(id))
        return false;
    memcpy(&id, request, sizeof(id));
    const struct kve_str s = kve_tok_piece(tok, id);
    flags = (uint32_t)kve_tok_is_control(tok, id) | (uint32_t)kve_tok_is_end(tok, id) << 1;
    return answer(&flags, sizeof(flags), s.at, s.bytes);
}

static bool chat(const struct kve_tok *tok, const char *request, size_t bytes)
{
    struct kve_chat_message messages[MESSAGES_MAX];
    const char *at = request, *const end = request + bytes;
    char why[KVE_WHY_BYTES];
    size_t count = 0;
    char *text;

    /* The request has been given a NUL at its end. */
    for (; at < end && count < MESSAGES_MAX; ++count) {
        messages[count].role = at;
        at += strlen(at) + 1;
        messages[count].content = at < end ? at : "";
        at += at < end ? strlen(at) + 1 : 0;
    }
    if (kve_tok_chat(tok, messages, count, &text, why) != KVW_OK) {
        return answer("", 1, why, strlen(why));
    }
    const bool ok = answer(text, strlen(text), "", 0);
    free(text);
    return ok;
}

static bool serve(const struct kve_tok *tok, char what, const char *request, size_t bytes)
{
    switch (what) {
    case 'e':
    case 's':
    case 'a':
    case 't':
        return encode(tok, what, request, bytes);
    case 'p':
        return piece(tok, request, bytes);
    case 'c':
        return chat(tok, request, bytes);
    default:
        return false;
    }
}

/* One request; false at the end of the input, *bad if something was wrong with it. */
static bool one(const struct kve_tok *tok, bool *bad)
{
    uint32_t bytes;
    char what;

    if (fread(&what, 1, 1, stdin) != 1)
        return false;
    *bad = true;
    if (fread(&bytes, sizeof(bytes), 1, stdin) != 1 || bytes > REQUEST_MAX)
        return false;
    char *request = malloc(bytes + 1u);
    if (request == NULL)
        return false;
    request[bytes] = '\0';
    *bad = fread(request, 1, bytes, stdin) != bytes || !serve(tok, what, request, bytes);
    free(request);
    return !*bad;
}

int main(int argc, char **argv)
{
    char why[KVE_WHY_BYTES];
    struct kve_gguf *gguf;
    struct kve_tok *tok;
    bool bad = false;

    if (argc != 2) {
        fprintf(stderr, "usage: tokenize_lines MODEL.gguf\n");
        return 1;
    }
    if (kve_gguf_open(&gguf, argv[1], why) != KVW_OK) {
        fprintf(stderr, "%s\n", why);
        return 1;
    }
    if (kve_tok_open(&tok, gguf, why) != KVW_OK) {
        fprintf(stderr, "%s: %s\n", argv[1], why);
        kve_gguf_close(gguf);
        return 1;
    }
    kve_gguf_close(gguf);
    while (one(tok, &bad))
        ;
    kve_tok_close(tok);
    return bad ? 1 : 0;
}
