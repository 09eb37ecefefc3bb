/* SPDX-License-Identifier: Apache-2.0 */
/* head.c - a file's head: written, and read back with every field checked before it is used. */
#include "head.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "../../kvwire/codec.h"
#include "../../kvwire/wire.h"
#include "../../kvwire/wire/le.h"

static const char magic[8] = "kvwireKV";

/* Where the fields of the fixed part lie; README.md. */
enum {
    AT_VERSION = 8,
    AT_HEAD_BYTES = 12,
    AT_FINGERPRINT = 16,
    AT_LAYERS = 32,
    AT_KV_HEADS = 36,
    AT_HEAD_DIM = 40,
    AT_DTYPE = 44,
    AT_TOKENS = 48,
    AT_FIRST = 52,
    AT_CHUNK_TOKENS = 56,
    AT_CHUNKS = 60,
    AT_BUDGET = 64,
    AT_KERNELS = 68,
    AT_MODEL = 76,
    AT_CUT = 116,
    AT_DIGEST = 120,
};

uint32_t kve_head_layer_chunks(const struct kve_head *h)
{
    return (h->tokens - h->first + h->chunk_tokens - 1) / h->chunk_tokens;
}

uint64_t kve_head_bytes(const struct kve_head *h)
{
    return kve_head_padded(KVE_HEAD_BYTES + 4ull * h->tokens +
                           (uint64_t)KVE_HEAD_CHUNK_BYTES * h->chunks);
}

struct kve_head_place kve_head_place(const struct kve_head *h, uint32_t i)
{
    const uint32_t each = kve_head_layer_chunks(h), at = i % each;
    const uint32_t first = h->first + at * h->chunk_tokens, left = h->tokens - first;

    return (struct kve_head_place){
        .layer = i / each / 2,
        .kv = i / each % 2,
        .first = first,
        .tokens = left < h->chunk_tokens ? left : h->chunk_tokens,
    };
}

static uint64_t entries_at(const struct kve_head *h)
{
    return KVE_HEAD_BYTES + 4ull * h->tokens;
}

/* Of all but the digest itself. */
static uint64_t digest_of(const struct kve_head *h, const uint8_t *all)
{
    struct kvw_digest d;

    if (kvw_digest_begin(&d, KVW_DIGEST_XXH3_64) != KVW_OK)
        return 0;
    kvw_digest_update(&d, all, AT_DIGEST);
    kvw_digest_update(&d, all + KVE_HEAD_BYTES, kve_head_bytes(h) - KVE_HEAD_BYTES);
    return kvw_digest_value(&d);
}

void kve_head_put(const struct kve_head *h, const uint32_t *tokens,
                  const struct kve_head_chunk *chunks, uint8_t *to)
{
    uint8_t *entry = to + entries_at(h);

    memset(to, 0, kve_head_bytes(h));
    memcpy(to, magic, sizeof(magic));
    kvw_store_le32(to + AT_VERSION, KVE_HEAD_VERSION);
    kvw_store_le32(to + AT_HEAD_BYTES, KVE_HEAD_BYTES);
    memcpy(to + AT_FINGERPRINT, h->owner.fingerprint, sizeof(h->owner.fingerprint));
    kvw_store_le32(to + AT_LAYERS, h->layers);
    kvw_store_le32(to + AT_KV_HEADS, h->kv_heads);
    kvw_store_le32(to + AT_HEAD_DIM, h->head_dim);
    kvw_store_le32(to + AT_DTYPE, h->dtype);
    kvw_store_le32(to + AT_TOKENS, h->tokens);
    kvw_store_le32(to + AT_FIRST, h->first);
    kvw_store_le32(to + AT_CHUNK_TOKENS, h->chunk_tokens);
    kvw_store_le32(to + AT_CHUNKS, h->chunks);
    kvw_store_le32(to + AT_BUDGET, h->budget);
    memcpy(to + AT_KERNELS, h->owner.kernels, sizeof(h->owner.kernels));
    memcpy(to + AT_MODEL, h->owner.model, sizeof(h->owner.model));
    kvw_store_le32(to + AT_CUT, h->owner.cut);
    for (uint32_t i = 0; i < h->tokens; ++i)
        kvw_store_le32(to + KVE_HEAD_BYTES + 4ull * i, tokens[i]);
    for (uint32_t i = 0; i < h->chunks; ++i, entry += KVE_HEAD_CHUNK_BYTES) {
        kvw_store_le64(entry, chunks[i].digest);
        kvw_store_le32(entry + 8, chunks[i].bytes);
        entry[12] = chunks[i].codec;
    }
    kvw_store_le64(to + AT_DIGEST, digest_of(h, to));
}

static kvw_err wrong(char *why, const char *field, uint64_t value, uint64_t min, uint64_t max)
{
    snprintf(why, KVE_WHY_BYTES, "%s: %" PRIu64 " is not in %" PRIu64 " .. %" PRIu64, field, value,
             min, max);
    return KVW_E_FORMAT;
}

/* Text that is NUL-padded and printable: it goes into sentences. */
static bool is_text(const char *text, size_t bytes)
{
    size_t n = 0;

    while (n < bytes && text[n] >= ' ' && text[n] <= '~')
        ++n;
    for (size_t i = n; i < bytes; ++i)
        if (text[i] != '\0')
            return false;
    return n < bytes;
}

static void load(struct kve_head *h, const uint8_t *from)
{
    memcpy(h->owner.fingerprint, from + AT_FINGERPRINT, sizeof(h->owner.fingerprint));
    memcpy(h->owner.kernels, from + AT_KERNELS, sizeof(h->owner.kernels));
    memcpy(h->owner.model, from + AT_MODEL, sizeof(h->owner.model));
    h->owner.cut = kvw_load_le32(from + AT_CUT);
    h->layers = kvw_load_le32(from + AT_LAYERS);
    h->kv_heads = kvw_load_le32(from + AT_KV_HEADS);
    h->head_dim = kvw_load_le32(from + AT_HEAD_DIM);
    h->dtype = kvw_load_le32(from + AT_DTYPE);
    h->tokens = kvw_load_le32(from + AT_TOKENS);
    h->first = kvw_load_le32(from + AT_FIRST);
    h->chunk_tokens = kvw_load_le32(from + AT_CHUNK_TOKENS);
    h->chunks = kvw_load_le32(from + AT_CHUNKS);
    h->budget = kvw_load_le32(from + AT_BUDGET);
}

/* Fields one by one, then what they say together. */
static kvw_err check_fields(const struct kve_head *h, char *why)
{
    const struct {
        const char *name;
        uint64_t value, min, max;
    } fields[] = {
        {"layers", h->layers, 1, KVW_LAYERS_MAX},
        {"kv_heads", h->kv_heads, 1, KVW_HEADS_MAX},
        {"head_dim", h->head_dim, 1, KVW_HEAD_DIM_MAX},
        {"dtype", h->dtype, KVW_DTYPE_F32, KVW_DTYPE_F8_E5M2},
        {"tokens", h->tokens, 1, KVE_HEAD_TOKENS_MAX},
        {"first", h->first, 0, (uint64_t)h->tokens - 1},
        {"chunk_tokens", h->chunk_tokens, 1, KVE_HEAD_TOKENS_MAX},
        {"budget", h->budget, KVW_BUDGET_EXACT, KVW_BUDGET_E4},
        {"cut", h->owner.cut, 1, KVE_HEAD_TOKENS_MAX},
    };

    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); ++i)
        if (fields[i].value < fields[i].min || fields[i].value > fields[i].max)
            return wrong(why, fields[i].name, fields[i].value, fields[i].min, fields[i].max);
    const uint64_t chunks = 2ull * h->layers * kve_head_layer_chunks(h);
    if (h->chunks != chunks)
        return wrong(why, "chunks", h->chunks, chunks, chunks);
    if (!is_text(h->owner.kernels, sizeof(h->owner.kernels)) ||
        !is_text(h->owner.model, sizeof(h->owner.model))) {
        snprintf(why, KVE_WHY_BYTES, "model or kernels: no printable text that ends in NUL");
        return KVW_E_FORMAT;
    }
    return KVW_OK;
}

kvw_err kve_head_get(struct kve_head *h, const uint8_t from[KVE_HEAD_BYTES], uint64_t file_bytes,
                     char why[KVE_WHY_BYTES])
{
    struct kve_head got = {.file_bytes = file_bytes};

    if (file_bytes < KVE_HEAD_BYTES)
        return wrong(why, "bytes of the file", file_bytes, KVE_HEAD_BYTES, UINT64_MAX);
    if (memcmp(from, magic, sizeof(magic)) != 0) {
        snprintf(why, KVE_WHY_BYTES, "magic: these are no K and V of kvwire's");
        return KVW_E_FORMAT;
    }
    const uint32_t version = kvw_load_le32(from + AT_VERSION);
    if (version != KVE_HEAD_VERSION) {
        snprintf(why, KVE_WHY_BYTES, "version: the file's is %" PRIu32 ", this program's %u",
                 version, KVE_HEAD_VERSION);
        return KVW_E_VERSION;
    }
    const uint32_t head = kvw_load_le32(from + AT_HEAD_BYTES);
    if (head != KVE_HEAD_BYTES)
        return wrong(why, "head_bytes", head, KVE_HEAD_BYTES, KVE_HEAD_BYTES);
    load(&got, from);
    const kvw_err err = check_fields(&got, why);
    if (err != KVW_OK)
        return err;
    if (kve_head_bytes(&got) > file_bytes)
        return wrong(why, "bytes of the head", kve_head_bytes(&got), KVE_HEAD_BYTES, file_bytes);
    *h = got;
    return KVW_OK;
}

kvw_err kve_head_check(const struct kve_head *h, const uint8_t *all, char why[KVE_WHY_BYTES])
{
    const uint64_t is = digest_of(h, all), said = kvw_load_le64(all + AT_DIGEST);
    uint64_t at = kve_head_bytes(h);

    if (is != said) {
        snprintf(why, KVE_WHY_BYTES,
                 "digest of the head: %016" PRIx64 ", and its bytes make %016" PRIx64, said, is);
        return KVW_E_FORMAT;
    }
    for (uint32_t i = 0; i < h->chunks; ++i)
        at += kve_head_padded(kve_head_chunk(h, all, i).bytes);
    return at == h->file_bytes ? KVW_OK : wrong(why, "bytes of the file", h->file_bytes, at, at);
}

uint32_t kve_head_token(const uint8_t *all, uint32_t i)
{
    return kvw_load_le32(all + KVE_HEAD_BYTES + 4ull * i);
}

struct kve_head_chunk kve_head_chunk(const struct kve_head *h, const uint8_t *all, uint32_t i)
{
    const uint8_t *entry = all + entries_at(h) + (uint64_t)KVE_HEAD_CHUNK_BYTES * i;

    return (struct kve_head_chunk){
        .digest = kvw_load_le64(entry),
        .bytes = kvw_load_le32(entry + 8),
        .codec = entry[12],
    };
}

static kvw_err other(char *why, const char *field, uint32_t file, uint32_t here)
{
    snprintf(why, KVE_WHY_BYTES, "%s: the file's is %" PRIu32 ", it is %" PRIu32 " here", field,
             file, here);
    return KVW_E_MISMATCH;
}

kvw_err kve_head_fits(const struct kve_head *h, const struct kve_owner *owner,
                      const struct kvw_pool *pool, char why[KVE_WHY_BYTES])
{
    if (memcmp(h->owner.fingerprint, owner->fingerprint, sizeof(owner->fingerprint)) != 0) {
        snprintf(why, KVE_WHY_BYTES, "model: the file is of %s, this is another file's (%s)",
                 h->owner.model, owner->model);
        return KVW_E_MISMATCH;
    }
    if (strncmp(h->owner.kernels, owner->kernels, sizeof(owner->kernels)) != 0) {
        snprintf(why, KVE_WHY_BYTES,
                 "kernels: the file was computed by %s, this process takes %s; KVE_CPU=%s makes "
                 "them the same where the CPU can",
                 h->owner.kernels, owner->kernels, h->owner.kernels);
        return KVW_E_MISMATCH;
    }
    if (h->owner.cut != owner->cut)
        return other(why, "cut", h->owner.cut, owner->cut);
    if (h->layers != pool->layers)
        return other(why, "layers", h->layers, pool->layers);
    if (h->kv_heads != pool->kv_heads)
        return other(why, "kv_heads", h->kv_heads, pool->kv_heads);
    if (h->head_dim != pool->head_dim)
        return other(why, "head_dim", h->head_dim, pool->head_dim);
    if (h->dtype != (uint32_t)pool->dtype)
        return other(why, "dtype", h->dtype, (uint32_t)pool->dtype);
    return KVW_OK;
}
