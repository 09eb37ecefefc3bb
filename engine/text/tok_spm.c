/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tok_spm.c - GGUF's "llama" tokenizer (SentencePiece's): the text's characters, spaces shown as
 * U+2581, are merged two by two, those first whose sum is the token of the best score and of these
 * the leftmost; what is no token in the end becomes tokens of its bytes.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <xxhash.h>

#include "tok_impl.h"

#define NONE KVE_TOKEN_NONE

struct kve_spm {
    const struct kve_str *texts;
    const uint8_t *flags;
    uint8_t never; /* tokens with such a flag come from no merge */
    uint32_t count;
    float *score;     /* [count] */
    uint32_t *places; /* a hash table of ids by their texts */
    uint64_t places_mask;
    uint32_t byte_token[256];
};

/* A merge that was possible when it was put into the heap. */
struct wish {
    float score;
    uint32_t left, right; /* positions */
    uint32_t bytes;       /* of both together */
};

/* A text's symbols: symbol i starts at byte i, and is `bytes[i]` long; 0: merged into another. */
struct line {
    const char *text;
    uint32_t *bytes, *before, *after;
    struct wish *heap;
    size_t heap_count;
};

/* Where a text's token is, or the empty place where it belongs. */
static uint32_t *find_place(const struct kve_spm *spm, const char *text, size_t bytes)
{
    for (uint64_t i = XXH3_64bits(text, bytes);; ++i) {
        uint32_t *place = &spm->places[i & spm->places_mask];

        if (*place == NONE ||
            (spm->texts[*place].bytes == bytes && memcmp(spm->texts[*place].at, text, bytes) == 0))
            return place;
    }
}

uint32_t kve_spm_token(const struct kve_spm *spm, struct kve_str text)
{
    return *find_place(spm, text.at, text.bytes);
}

static kvw_err read_scores(struct kve_spm *spm, const struct kve_gguf *g, char why[KVE_WHY_BYTES])
{
    static const char key[] = "tokenizer.ggml.scores";
    uint64_t count;

    if (kve_gguf_array_count(g, key, &count) != KVW_OK || count < spm->count) {
        snprintf(why, KVE_WHY_BYTES, "%s is not an array of at least %u entries", key, spm->count);
        return KVW_E_FORMAT;
    }
    for (uint32_t i = 0; i < spm->count; ++i) {
        if (kve_gguf_array_f32(g, key, i, &spm->score[i]) != KVW_OK || isnan(spm->score[i])) {
            snprintf(why, KVE_WHY_BYTES, "%s: entry %u is not a real number", key, i);
            return KVW_E_FORMAT;
        }
    }
    return KVW_OK;
}

static kvw_err add_tokens(struct kve_spm *spm, char why[KVE_WHY_BYTES])
{
    for (uint32_t i = 0; i < spm->count; ++i) {
        const struct kve_str s = spm->texts[i];
        uint32_t *place = find_place(spm, s.at, s.bytes);

        if (*place != NONE) {
            snprintf(why, KVE_WHY_BYTES,
                     "tokenizer.ggml.tokens: tokens %u and %u are both \"%.*s\" (duplicate)",
                     *place, i, (int)(s.bytes < 60 ? s.bytes : 60), s.at);
            return KVW_E_FORMAT;
        }
        *place = i;
    }
    return KVW_OK;
}

/* Each byte has a token: "<0x0A>", or itself. */
static kvw_err find_bytes(struct kve_spm *spm, char why[KVE_WHY_BYTES])
{
    for (unsigned b = 0; b < 256; ++b) {
        const char byte = (char)b;
        char spelled[8];
        const size_t n = (size_t)snprintf(spelled, sizeof(spelled), "<0x%02X>", b);

        spm->byte_token[b] = *find_place(spm, spelled, n);
        if (spm->byte_token[b] == NONE)
            spm->byte_token[b] = *find_place(spm, &byte, 1);
        if (spm->byte_token[b] == NONE) {
            snprintf(why, KVE_WHY_BYTES,
                     "tokenizer.ggml.tokens has no token for a byte: \"%s\" is missing", spelled);
            return KVW_E_FORMAT;
        }
    }
    return KVW_OK;
}

kvw_err kve_spm_open(struct kve_spm **out, const struct kve_spm_vocabulary *v,
                     const struct kve_gguf *g, char why[KVE_WHY_BYTES])
{
    uint64_t places = 1024;
    kvw_err err;

    while (places < (uint64_t)v->count * 2)
        places *= 2;

    struct kve_spm *spm = calloc(1, sizeof(*spm));

    if (spm == NULL)
        goto no_memory;
    spm->texts = v->texts;
    spm->flags = v->flags;
    spm->never = v->never;
    spm->count = v->count;
    spm->score = malloc(v->count * sizeof(*spm->score));
    spm->places = malloc(places * sizeof(*spm->places));
    if (spm->score == NULL || spm->places == NULL)
        goto no_memory;
    spm->places_mask = places - 1;
    memset(spm->places, 0xff, places * sizeof(*spm->places));
    if ((err = read_scores(spm, g, why)) != KVW_OK || (err = add_tokens(spm, why)) != KVW_OK ||
        (err = find_bytes(spm, why)) != KVW_OK) {
        kve_spm_close(spm);
        return err;
    }
    *out = spm;
    return KVW_OK;

no_memory:
    kve_spm_close(spm);
    snprintf(why, KVE_WHY_BYTES, "no memory for the tokenizer's scores");
    return KVW_E_NOMEM;
}

void kve_spm_close(struct kve_spm *spm)
{
    if (spm == NULL)
        return;
    free(spm->score);
    free(spm->places);
    free(spm);
}

static bool sooner(const struct wish *a, const struct wish *b)
{
    return a->score != b->score ? a->score > b->score : a->left < b->left;
}

static void heap_add(struct line *l, struct wish w)
{
    size_t i = l->heap_count++;

    for (; i > 0 && sooner(&w, &l->heap[(i - 1) / 2]); i = (i - 1) / 2)
        l->heap[i] = l->heap[(i - 1) / 2];
    l->heap[i] = w;
}

static struct wish heap_take(struct line *l)
{
    const struct wish first = l->heap[0], last = l->heap[--l->heap_count];
    size_t i = 0;

    for (size_t child = 1; child < l->heap_count; child = 2 * i + 1) {
        if (child + 1 < l->heap_count && sooner(&l->heap[child + 1], &l->heap[child]))
            ++child;
        if (!sooner(&l->heap[child], &last))
            break;
        l->heap[i] = l->heap[child];
        i = child;
    }
    l->heap[i] = last;
    return first;
}

static void wish_for(const struct kve_spm *spm, struct line *l, uint32_t left, uint32_t right)
{
    if (left == NONE || right == NONE)
        return;

    const uint32_t bytes = l->bytes[left] + l->bytes[right];
    const uint32_t id = *find_place(spm, l->text + left, bytes);

    if (id != NONE && (spm->flags[id] & spm->never) == 0)
        heap_add(l, (struct wish){spm->score[id], left, right, bytes});
}

static void merge_all(const struct kve_spm *spm, struct line *l)
{
    while (l->heap_count > 0) {
        const struct wish w = heap_take(l);

        /* One of the two may have been merged since, and then has another length. */
        if (l->bytes[w.left] == 0 || l->bytes[w.right] == 0 ||
            l->bytes[w.left] + l->bytes[w.right] != w.bytes)
            continue;
        l->bytes[w.left] = w.bytes;
        l->bytes[w.right] = 0;
        l->after[w.left] = l->after[w.right];
        if (l->after[w.right] != NONE)
            l->before[l->after[w.right]] = w.left;
        wish_for(spm, l, l->before[w.left], w.left);
        wish_for(spm, l, w.left, l->after[w.left]);
    }
}

/* The length that a character's first byte says, whatever follows. */
static uint32_t length_of(unsigned char lead)
{
    return lead < 0xc0 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

static kvw_err put_symbol(const struct kve_spm *spm, const char *text, uint32_t bytes,
                          struct kve_ids *ids)
{
    const uint32_t id = *find_place(spm, text, bytes);
    kvw_err err = KVW_OK;

    if (id != NONE && (spm->flags[id] & spm->never) == 0)
        return kve_ids_add(ids, id);
    for (uint32_t i = 0; i < bytes && err == KVW_OK; ++i)
        err = kve_ids_add(ids, spm->byte_token[(unsigned char)text[i]]);
    return err;
}

/* text as it is spelled, spaces replaced, to room for 3 * (bytes + 1); returns its length. */
static size_t spell(const char *text, size_t bytes, bool space_before, char *out)
{
    static const char space[] = "\xe2\x96\x81";
    size_t n = 0;

    if (space_before) {
        memcpy(out, space, 3);
        n = 3;
    }
    for (size_t i = 0; i < bytes; ++i) {
        if (text[i] == ' ') {
            memcpy(out + n, space, 3);
            n += 3;
        } else {
            out[n++] = text[i];
        }
    }
    return n;
}

size_t kve_spm_unspell(struct kve_str s, char *out)
{
    size_t n = 0;

    for (uint64_t at = 0; at < s.bytes;) {
        if (s.bytes - at >= 3 && memcmp(s.at + at, "\xe2\x96\x81", 3) == 0) {
            out[n++] = ' ';
            at += 3;
        } else {
            out[n++] = s.at[at++];
        }
    }
    return n;
}

kvw_err kve_spm_encode(const struct kve_spm *spm, struct kve_str text, bool space_before,
                       struct kve_ids *ids)
{
    const size_t room = 3 * (text.bytes + 1);
    /* Each character starts at most one wish, and each merge, one less than those, two more. */
    const size_t wishes = 3 * (text.bytes + 1);
    char *spelled = malloc(room);
    uint32_t *tables = malloc(3 * room * sizeof(*tables));
    struct line l = {.text = spelled, .heap = malloc(wishes * sizeof(*l.heap))};
    kvw_err err = KVW_E_NOMEM;

    if (spelled == NULL || tables == NULL || l.heap == NULL)
        goto out;
    l.bytes = tables;
    l.before = tables + room;
    l.after = tables + 2 * room;

    const uint32_t n = (uint32_t)spell(text.at, text.bytes, space_before, spelled);
    uint32_t last = NONE;

    for (uint32_t at = 0; at < n; at += l.bytes[at]) {
        const uint32_t says = length_of((unsigned char)spelled[at]);

        l.bytes[at] = says < n - at ? says : n - at;
        l.before[at] = last;
        l.after[at] = at + l.bytes[at] < n ? at + l.bytes[at] : NONE;
        wish_for(spm, &l, last, at);
        last = at;
    }
    merge_all(spm, &l);
    err = KVW_OK;
    for (uint32_t at = 0; at < n && err == KVW_OK; at += l.bytes[at])
        err = put_symbol(spm, spelled + at, l.bytes[at], ids);
out:
    free(spelled);
    free(tables);
    free(l.heap);
    return err;
}
