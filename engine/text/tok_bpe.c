/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tok_bpe.c - byte-pair encoding of one piece.
 *
 * A vocabulary is spelled in printable characters, one for each of the 256 bytes. Every spelling
 * that a token, a merge's half or a merge's result has gets a number here, a symbol; so a piece is
 * a row of symbols, a merge turns two neighbours into a third, and no strings are touched while
 * encoding. A symbol need not be a token: at the end such a one falls apart into single bytes.
 *
 * The merge of lowest rank goes first, the leftmost of equals. Short pieces, nearly all, look for
 * it by going through the row; long ones keep a heap, so that 100 KB of letters isn't quadratic.
 */
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

#include "tok_impl.h"

#define NONE          UINT32_MAX
#define SHORT_SYMBOLS 48 /* up to here a row is faster than a heap */
#define SPELLED_MAX   (UINT64_C(1) << 30)

struct pair {
    uint32_t left, right; /* NONE: an empty place */
    uint32_t rank, merged;
};

struct kve_bpe {
    uint32_t symbols;
    struct kve_str *spelled; /* [symbols] */
    uint32_t *token;         /* [symbols] KVE_TOKEN_NONE: not a token */
    uint32_t *places;        /* hash table of symbols by spelling */
    uint64_t places_mask;
    struct pair *pairs; /* hash table of merges */
    uint64_t pairs_mask;
    char *pool; /* spellings that aren't the vocabulary's */
    uint32_t byte_symbol[256];
    uint32_t spelled_byte_token[256]; /* the token spelled as this one byte */
};

kvw_err kve_ids_add(struct kve_ids *ids, uint32_t id)
{
    if (ids->count == ids->room) {
        const size_t room = ids->room < 64 ? 64 : ids->room * 2;
        uint32_t *at = realloc(ids->at, room * sizeof(*at));

        if (at == NULL)
            return KVW_E_NOMEM;
        ids->at = at;
        ids->room = room;
    }
    ids->at[ids->count++] = id;
    return KVW_OK;
}

/* The character that stands for a byte: itself if printable Latin-1, else U+0100 up. */
static uint32_t byte_char(unsigned byte)
{
    const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);

    if (printable)
        return byte;
    /* The 68 others in order: 0x00-0x20, 0x7f-0xa0, 0xad. */
    return 0x100 + (byte <= 0x20 ? byte : byte <= 0xa0 ? byte - 0x7f + 0x21 : 0x43);
}

int kve_bpe_byte(uint32_t cp)
{
    if (cp >= 0x100 && cp <= 0x143) {
        const int n = (int)cp - 0x100;
        return n <= 0x20 ? n : n < 0x43 ? n - 0x21 + 0x7f : 0xad;
    }
    return cp < 0x100 && byte_char(cp) == cp ? (int)cp : -1;
}

static uint64_t pair_hash(uint32_t left, uint32_t right)
{
    uint64_t h = ((uint64_t)left << 32 | right) * UINT64_C(0x9e3779b97f4a7c15);

    return h ^ h >> 32;
}

static const struct pair *find_pair(const struct kve_bpe *bpe, uint32_t left, uint32_t right)
{
    for (uint64_t i = pair_hash(left, right);; ++i) {
        const struct pair *p = &bpe->pairs[i & bpe->pairs_mask];

        if (p->left == left && p->right == right)
            return p;
        if (p->left == NONE)
            return NULL;
    }
}

/* Where a spelling's symbol is, or the empty place where it belongs. */
static uint32_t *find_place(const struct kve_bpe *bpe, struct kve_str text)
{
    for (uint64_t i = XXH3_64bits(text.at, text.bytes);; ++i) {
        uint32_t *place = &bpe->places[i & bpe->places_mask];

        if (*place == NONE)
            return place;
        const struct kve_str s = bpe->spelled[*place];
        if (s.bytes == text.bytes && memcmp(s.at, text.at, text.bytes) == 0)
            return place;
    }
}

uint32_t kve_bpe_token(const struct kve_bpe *bpe, struct kve_str text)
{
    const uint32_t *place = find_place(bpe, text);

    return *place == NONE ? KVE_TOKEN_NONE : bpe->token[*place];
}

/* The symbol of a spelling, a new one if need be; text stays where it is. */
static uint32_t intern(struct kve_bpe *bpe, struct kve_str text)
{
    uint32_t *place = find_place(bpe, text);

    if (*place == NONE) {
        *place = bpe->symbols++;
        bpe->spelled[*place] = text;
        bpe->token[*place] = KVE_TOKEN_NONE;
    }
    return *place;
}

/* A power of two with at least half of it empty. */
static uint64_t table_size(uint64_t entries)
{
    uint64_t n = 1024;

    while (n < entries * 2)
        n *= 2;
    return n;
}

static kvw_err add_tokens(struct kve_bpe *bpe, const struct kve_str *texts, uint32_t count,
                          char why[KVE_WHY_BYTES])
{
    for (uint32_t i = 0; i < count; ++i) {
        const uint32_t symbol = intern(bpe, texts[i]);

        if (bpe->token[symbol] != KVE_TOKEN_NONE) {
            snprintf(why, KVE_WHY_BYTES,
                     "tokenizer.ggml.tokens: tokens %u and %u are both \"%.*s\" (duplicate)",
                     bpe->token[symbol], i, (int)(texts[i].bytes < 60 ? texts[i].bytes : 60),
                     texts[i].at);
            return KVW_E_FORMAT;
        }
        bpe->token[symbol] = i;
    }
    return KVW_OK;
}

static void add_merge(struct kve_bpe *bpe, struct kve_str left, struct kve_str right,
                      struct kve_str merged, uint32_t rank)
{
    const uint32_t l = intern(bpe, left), r = intern(bpe, right), m = intern(bpe, merged);
    uint64_t i = pair_hash(l, r);

    while (bpe->pairs[i & bpe->pairs_mask].left != NONE) {
        const struct pair *p = &bpe->pairs[i & bpe->pairs_mask];
        if (p->left == l && p->right == r)
            return; /* the first of two equal merges counts */
        ++i;
    }
    bpe->pairs[i & bpe->pairs_mask] = (struct pair){l, r, rank, m};
}

/* "left right" is cut at the first space after its first byte; the pool has room for all. */
static void add_merges(struct kve_bpe *bpe, const struct kve_gguf *g, uint64_t count, char *pool)
{
    for (uint64_t i = 0; i < count; ++i) {
        struct kve_str s;

        (void)kve_gguf_array_str(g, "tokenizer.ggml.merges", i, &s);
        const char *space = s.bytes < 2 ? NULL : memchr(s.at + 1, ' ', s.bytes - 1);
        if (space == NULL)
            continue; /* nothing to merge, as llama.cpp has it too */
        const size_t left = (size_t)(space - s.at), right = s.bytes - left - 1;
        memcpy(pool, s.at, left);
        memcpy(pool + left, space + 1, right);
        if (right > 0)
            add_merge(bpe, (struct kve_str){pool, left}, (struct kve_str){pool + left, right},
                      (struct kve_str){pool, left + right}, (uint32_t)i);
        pool += left + right;
    }
}

/* How many merges, and the bytes of all their spellings. */
static kvw_err measure_merges(const struct kve_gguf *g, uint64_t *count, uint64_t *bytes,
                              char why[KVE_WHY_BYTES])
{
    kvw_err err = kve_gguf_array_count(g, "tokenizer.ggml.merges", count);
    struct kve_str s;

    if (err != KVW_OK) {
        snprintf(why, KVE_WHY_BYTES, "tokenizer.ggml.merges is %s",
                 err == KVW_E_NOTFOUND ? "missing" : "not an array of strings");
        return KVW_E_FORMAT;
    }
    *bytes = 0;
    for (uint64_t i = 0; i < *count; ++i) {
        if ((err = kve_gguf_array_str(g, "tokenizer.ggml.merges", i, &s)) != KVW_OK) {
            snprintf(why, KVE_WHY_BYTES, "tokenizer.ggml.merges is not an array of strings");
            return KVW_E_FORMAT;
        }
        *bytes += s.bytes;
    }
    if (*count > UINT32_MAX / 8 || *bytes > SPELLED_MAX) {
        snprintf(why, KVE_WHY_BYTES, "tokenizer.ggml.merges has %llu merges of %llu bytes: too big",
                 (unsigned long long)*count, (unsigned long long)*bytes);
        return KVW_E_FORMAT;
    }
    return KVW_OK;
}

kvw_err kve_bpe_open(struct kve_bpe **out, const struct kve_str *texts, uint32_t count,
                     const struct kve_gguf *g, char why[KVE_WHY_BYTES])
{
    uint64_t merges, bytes;
    kvw_err err = measure_merges(g, &merges, &bytes, why);

    if (err != KVW_OK)
        return err;
    const uint64_t symbols = count + 3 * merges + 256;
    const uint64_t places = table_size(symbols), pairs = table_size(merges);
    struct kve_bpe *bpe = calloc(1, sizeof(*bpe));
    if (bpe == NULL)
        goto no_memory;
    bpe->spelled = malloc(symbols * sizeof(*bpe->spelled));
    bpe->token = malloc(symbols * sizeof(*bpe->token));
    bpe->places = malloc(places * sizeof(*bpe->places));
    bpe->pairs = malloc(pairs * sizeof(*bpe->pairs));
    bpe->pool = malloc(bytes + 256 * 2);
    if (bpe->spelled == NULL || bpe->token == NULL || bpe->places == NULL || bpe->pairs == NULL ||
        bpe->pool == NULL)
        goto no_memory;
    bpe->places_mask = places - 1;
    bpe->pairs_mask = pairs - 1;
    memset(bpe->places, 0xff, places * sizeof(*bpe->places));
    memset(bpe->pairs, 0xff, pairs * sizeof(*bpe->pairs));
    if ((err = add_tokens(bpe, texts, count, why)) != KVW_OK) {
        kve_bpe_close(bpe);
        return err;
    }
    for (unsigned b = 0; b < 256; ++b) {
        char *spelled = bpe->pool + b * 2, byte = (char)b;
        const size_t n = kve_utf8_put(byte_char(b), spelled);

        bpe->byte_symbol[b] = intern(bpe, (struct kve_str){spelled, n});
        bpe->spelled_byte_token[b] = kve_bpe_token(bpe, (struct kve_str){&byte, 1});
    }
    add_merges(bpe, g, merges, bpe->pool + 256 * 2);
    *out = bpe;
    return KVW_OK;

no_memory:
    kve_bpe_close(bpe);
    snprintf(why, KVE_WHY_BYTES, "no memory for the tokenizer's merges");
    return KVW_E_NOMEM;
}

void kve_bpe_close(struct kve_bpe *bpe)
{
    if (bpe == NULL)
        return;
    free(bpe->spelled);
    free(bpe->token);
    free(bpe->places);
    free(bpe->pairs);
    free(bpe->pool);
    free(bpe);
}

void kve_bpe_scratch_free(struct kve_bpe_scratch *s)
{
    free(s->memory);
    *s = (struct kve_bpe_scratch){NULL, 0};
}

static void *scratch(struct kve_bpe_scratch *s, size_t bytes)
{
    if (bytes > s->bytes) {
        free(s->memory);
        s->memory = malloc(bytes);
        s->bytes = s->memory == NULL ? 0 : bytes;
    }
    return s->memory;
}

/* A symbol that is the last to be merged: its token, or those of its spelling's bytes. */
static kvw_err put_symbol(const struct kve_bpe *bpe, uint32_t symbol, struct kve_ids *ids)
{
    const struct kve_str s = bpe->spelled[symbol];
    kvw_err err = KVW_OK;

    if (bpe->token[symbol] != KVE_TOKEN_NONE)
        return kve_ids_add(ids, bpe->token[symbol]);
    for (uint64_t i = 0; i < s.bytes && err == KVW_OK; ++i) {
        const uint32_t id = bpe->spelled_byte_token[(unsigned char)s.at[i]];

        if (id != KVE_TOKEN_NONE) /* a byte that has no token vanishes */
            err = kve_ids_add(ids, id);
    }
    return err;
}

/* Pieces of up to SHORT_SYMBOLS bytes: next[i] is what symbols i and i+1 merge into. */
static kvw_err encode_short(const struct kve_bpe *bpe, const char *piece, size_t bytes,
                            struct kve_ids *ids)
{
    static const struct pair never = {NONE, NONE, NONE, NONE};
    uint32_t symbol[SHORT_SYMBOLS];
    const struct pair *next[SHORT_SYMBOLS];
    size_t n = bytes;
    kvw_err err = KVW_OK;

    for (size_t i = 0; i < n; ++i)
        symbol[i] = bpe->byte_symbol[(unsigned char)piece[i]];
    for (size_t i = 0; i + 1 < n; ++i) {
        const struct pair *p = find_pair(bpe, symbol[i], symbol[i + 1]);
        next[i] = p == NULL ? &never : p;
    }
    while (n > 1) {
        size_t best = 0;

        for (size_t i = 1; i + 1 < n; ++i)
            if (next[i]->rank < next[best]->rank)
                best = i;
        if (next[best]->rank == NONE)
            break;
        symbol[best] = next[best]->merged;
        memmove(symbol + best + 1, symbol + best + 2, (n - best - 2) * sizeof(*symbol));
        if (best + 2 < n)
            memmove(next + best, next + best + 1, (n - best - 2) * sizeof(struct pair *));
        --n;
        for (size_t i = best == 0 ? 0 : best - 1; i <= best && i + 1 < n; ++i) {
            const struct pair *p = find_pair(bpe, symbol[i], symbol[i + 1]);
            next[i] = p == NULL ? &never : p;
        }
    }
    for (size_t i = 0; i < n && err == KVW_OK; ++i)
        err = put_symbol(bpe, symbol[i], ids);
    return err;
}

/* A merge that was possible when it was put into the heap. */
struct wish {
    uint32_t rank, left, right;         /* positions */
    uint32_t left_symbol, right_symbol; /* what stood there */
};

/* A long piece's symbols, as a list over positions; GONE: merged into the one before. */
struct row {
    uint32_t *symbol, *before, *after;
    struct wish *heap;
    size_t heap_count;
};

static bool sooner(const struct wish *a, const struct wish *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->left < b->left;
}

static void heap_add(struct row *r, struct wish w)
{
    size_t i = r->heap_count++;

    while (i > 0 && sooner(&w, &r->heap[(i - 1) / 2])) {
        r->heap[i] = r->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    r->heap[i] = w;
}

static struct wish heap_take(struct row *r)
{
    const struct wish first = r->heap[0], last = r->heap[--r->heap_count];
    size_t i = 0;

    for (;;) {
        size_t child = 2 * i + 1;

        if (child >= r->heap_count)
            break;
        if (child + 1 < r->heap_count && sooner(&r->heap[child + 1], &r->heap[child]))
            ++child;
        if (!sooner(&r->heap[child], &last))
            break;
        r->heap[i] = r->heap[child];
        i = child;
    }
    r->heap[i] = last;
    return first;
}

static void wish_for(const struct kve_bpe *bpe, struct row *r, uint32_t left, uint32_t right)
{
    if (left == NONE || right == NONE)
        return;
    const uint32_t l = r->symbol[left], s = r->symbol[right];
    const struct pair *p = find_pair(bpe, l, s);
    if (p != NULL)
        heap_add(r, (struct wish){p->rank, left, right, l, s});
}

static void merge_all(const struct kve_bpe *bpe, struct row *r)
{
    while (r->heap_count > 0) {
        const struct wish w = heap_take(r);

        /* If one of the two has been merged since, it is another symbol, or none. */
        if (r->symbol[w.left] != w.left_symbol || r->symbol[w.right] != w.right_symbol)
            continue;
        r->symbol[w.left] = find_pair(bpe, w.left_symbol, w.right_symbol)->merged;
        r->symbol[w.right] = NONE;
        r->after[w.left] = r->after[w.right];
        if (r->after[w.right] != NONE)
            r->before[r->after[w.right]] = w.left;
        wish_for(bpe, r, r->before[w.left], w.left);
        wish_for(bpe, r, w.left, r->after[w.left]);
    }
}

static kvw_err encode_long(const struct kve_bpe *bpe, const char *piece, size_t bytes,
                           struct kve_bpe_scratch *s, struct kve_ids *ids)
{
    /* Each symbol starts at most one wish, each of fewer than `bytes` merges two more. */
    const size_t wishes = 3 * bytes;
    struct row r = {0};
    kvw_err err = KVW_OK;

    r.heap = scratch(s, wishes * sizeof(*r.heap) + 3 * bytes * sizeof(uint32_t));
    if (r.heap == NULL)
        return KVW_E_NOMEM;
    r.symbol = (uint32_t *)(r.heap + wishes);
    r.before = r.symbol + bytes;
    r.after = r.before + bytes;
    for (size_t i = 0; i < bytes; ++i) {
        r.symbol[i] = bpe->byte_symbol[(unsigned char)piece[i]];
        r.before[i] = i == 0 ? NONE : (uint32_t)i - 1;
        r.after[i] = i + 1 == bytes ? NONE : (uint32_t)i + 1;
    }
    for (size_t i = 0; i + 1 < bytes; ++i)
        wish_for(bpe, &r, (uint32_t)i, (uint32_t)i + 1);
    merge_all(bpe, &r);
    for (uint32_t i = 0; i != NONE && err == KVW_OK; i = r.after[i])
        err = put_symbol(bpe, r.symbol[i], ids);
    return err;
}

/* The token that the piece as a whole is, if it is one. */
static kvw_err whole_token(const struct kve_bpe *bpe, const char *piece, size_t bytes,
                           struct kve_bpe_scratch *s, uint32_t *id)
{
    char *spelled = scratch(s, bytes * 2 + 4);
    size_t n = 0;

    if (spelled == NULL)
        return KVW_E_NOMEM;
    for (size_t i = 0; i < bytes; ++i)
        n += kve_utf8_put(byte_char((unsigned char)piece[i]), spelled + n);
    *id = kve_bpe_token(bpe, (struct kve_str){spelled, n});
    return KVW_OK;
}

kvw_err kve_bpe_encode(const struct kve_bpe *bpe, const char *piece, size_t bytes, bool whole,
                       struct kve_bpe_scratch *s, struct kve_ids *ids)
{
    if (whole) {
        uint32_t id = KVE_TOKEN_NONE;
        const kvw_err err = whole_token(bpe, piece, bytes, s, &id);

        if (err != KVW_OK)
            return err;
        if (id != KVE_TOKEN_NONE)
            return kve_ids_add(ids, id);
    }
    return bytes <= SHORT_SYMBOLS ? encode_short(bpe, piece, bytes, ids)
                                  : encode_long(bpe, piece, bytes, s, ids);
}
