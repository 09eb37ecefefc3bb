/* SPDX-License-Identifier: Apache-2.0 */
/* gguf_meta.c - looking things up in a GGUF file that gguf.c has checked. */
#include "gguf_impl.h"

uint32_t kve_meta_bytes(uint32_t type)
{
    static const uint8_t bytes[KVE_META_TYPES] = {
        [KVE_META_U8] = 1,  [KVE_META_I8] = 1,  [KVE_META_U16] = 2, [KVE_META_I16] = 2,
        [KVE_META_U32] = 4, [KVE_META_I32] = 4, [KVE_META_F32] = 4, [KVE_META_BOOL] = 1,
        [KVE_META_U64] = 8, [KVE_META_I64] = 8, [KVE_META_F64] = 8,
    };

    return type < KVE_META_TYPES ? bytes[type] : 0;
}

int kve_str_compare(struct kve_str a, struct kve_str b)
{
    const uint64_t n = a.bytes < b.bytes ? a.bytes : b.bytes;
    const int order = n == 0 ? 0 : memcmp(a.at, b.at, n);

    return order != 0 ? order : (a.bytes > b.bytes) - (a.bytes < b.bytes);
}

const struct kve_key *kve_gguf_key(const struct kve_gguf *g, struct kve_str name)
{
    uint64_t low = 0, high = g->key_count;

    while (low < high) {
        const uint64_t middle = low + (high - low) / 2;
        const int order = kve_str_compare(name, g->keys[middle].name);

        if (order == 0)
            return &g->keys[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

static const struct kve_key *find(const struct kve_gguf *g, const char *key)
{
    return kve_gguf_key(g, (struct kve_str){key, strlen(key)});
}

/* The integer at p as its two's complement and its sign. */
static bool load_integer(uint32_t type, const uint8_t *p, uint64_t *bits, bool *negative)
{
    int64_t v;

    switch (type) {
    case KVE_META_U8:
        v = p[0];
        break;
    case KVE_META_I8:
        v = (int8_t)p[0];
        break;
    case KVE_META_U16:
        v = (uint16_t)(p[0] | p[1] << 8);
        break;
    case KVE_META_I16:
        v = (int16_t)(uint16_t)(p[0] | p[1] << 8);
        break;
    case KVE_META_U32:
        v = kve_load32(p);
        break;
    case KVE_META_I32:
        v = (int32_t)kve_load32(p);
        break;
    case KVE_META_U64:
        *bits = kve_load64(p);
        *negative = false;
        return true;
    case KVE_META_I64:
        v = (int64_t)kve_load64(p);
        break;
    default:
        return false;
    }
    *bits = (uint64_t)v;
    *negative = v < 0;
    return true;
}

bool kve_meta_u64(uint32_t type, const uint8_t *p, uint64_t *v)
{
    uint64_t bits;
    bool negative;

    if (!load_integer(type, p, &bits, &negative) || negative)
        return false;
    *v = bits;
    return true;
}

static bool meta_i64(uint32_t type, const uint8_t *p, int64_t *v)
{
    uint64_t bits;
    bool negative;

    if (!load_integer(type, p, &bits, &negative) || (!negative && bits > INT64_MAX))
        return false;
    *v = (int64_t)bits;
    return true;
}

static bool meta_f32(uint32_t type, const uint8_t *p, float *v)
{
    if (type == KVE_META_F32) {
        const uint32_t bits = kve_load32(p);
        memcpy(v, &bits, sizeof(*v));
        return true;
    }
    if (type == KVE_META_F64) {
        const uint64_t bits = kve_load64(p);
        double wide;
        memcpy(&wide, &bits, sizeof(wide));
        *v = (float)wide;
        return true;
    }
    return false;
}

static struct kve_str load_str(const uint8_t *p)
{
    return (struct kve_str){(const char *)p + 8, kve_load64(p)};
}

kvw_err kve_gguf_u64(const struct kve_gguf *g, const char *key, uint64_t *v)
{
    const struct kve_key *k = find(g, key);

    if (k == NULL)
        return KVW_E_NOTFOUND;
    return !k->array && kve_meta_u64(k->type, k->at, v) ? KVW_OK : KVW_E_FORMAT;
}

kvw_err kve_gguf_f32(const struct kve_gguf *g, const char *key, float *v)
{
    const struct kve_key *k = find(g, key);

    if (k == NULL)
        return KVW_E_NOTFOUND;
    return !k->array && meta_f32(k->type, k->at, v) ? KVW_OK : KVW_E_FORMAT;
}

kvw_err kve_gguf_bool(const struct kve_gguf *g, const char *key, bool *v)
{
    const struct kve_key *k = find(g, key);

    if (k == NULL)
        return KVW_E_NOTFOUND;
    if (k->array || k->type != KVE_META_BOOL)
        return KVW_E_FORMAT;
    *v = k->at[0] != 0;
    return KVW_OK;
}

kvw_err kve_gguf_str(const struct kve_gguf *g, const char *key, struct kve_str *v)
{
    const struct kve_key *k = find(g, key);

    if (k == NULL)
        return KVW_E_NOTFOUND;
    if (k->array || k->type != KVE_META_STRING)
        return KVW_E_FORMAT;
    *v = load_str(k->at);
    return KVW_OK;
}

kvw_err kve_gguf_array_count(const struct kve_gguf *g, const char *key, uint64_t *count)
{
    const struct kve_key *k = find(g, key);

    if (k == NULL)
        return KVW_E_NOTFOUND;
    if (!k->array)
        return KVW_E_FORMAT;
    *count = k->count;
    return KVW_OK;
}

/* Element i of an array; *k is the key. */
static kvw_err element(const struct kve_gguf *g, const char *key, uint64_t i,
                       const struct kve_key **k, const uint8_t **at)
{
    *k = find(g, key);
    if (*k == NULL)
        return KVW_E_NOTFOUND;
    if (!(*k)->array)
        return KVW_E_FORMAT;
    if (i >= (*k)->count)
        return KVW_E_INVALID;
    *at = (*k)->at +
          ((*k)->type == KVE_META_STRING ? (*k)->string_at[i] : i * kve_meta_bytes((*k)->type));
    return KVW_OK;
}

kvw_err kve_gguf_array_str(const struct kve_gguf *g, const char *key, uint64_t i, struct kve_str *v)
{
    const struct kve_key *k;
    const uint8_t *at;
    const kvw_err err = element(g, key, i, &k, &at);

    if (err != KVW_OK)
        return err;
    if (k->type != KVE_META_STRING)
        return KVW_E_FORMAT;
    *v = load_str(at);
    return KVW_OK;
}

kvw_err kve_gguf_array_i64(const struct kve_gguf *g, const char *key, uint64_t i, int64_t *v)
{
    const struct kve_key *k;
    const uint8_t *at;
    const kvw_err err = element(g, key, i, &k, &at);

    if (err != KVW_OK)
        return err;
    return meta_i64(k->type, at, v) ? KVW_OK : KVW_E_FORMAT;
}

kvw_err kve_gguf_array_f32(const struct kve_gguf *g, const char *key, uint64_t i, float *v)
{
    const struct kve_key *k;
    const uint8_t *at;
    const kvw_err err = element(g, key, i, &k, &at);

    if (err != KVW_OK)
        return err;
    return meta_f32(k->type, at, v) ? KVW_OK : KVW_E_FORMAT;
}

uint64_t kve_gguf_key_count(const struct kve_gguf *g)
{
    return g->key_count;
}

struct kve_str kve_gguf_key_name(const struct kve_gguf *g, uint64_t i)
{
    return g->keys[i].name;
}

void kve_why_clean(char why[KVE_WHY_BYTES])
{
    for (char *c = why; *c != '\0'; ++c)
        if (*c < 0x20 || *c > 0x7e)
            *c = '?';
}

uint64_t kve_gguf_files(const struct kve_gguf *g)
{
    return 1 + g->other_count;
}

const void *kve_gguf_bytes(const struct kve_gguf *g, uint64_t i, uint64_t *bytes)
{
    if (i > 0)
        g = g->others[i - 1];
    *bytes = g->bytes_count;
    return g->bytes;
}

uint64_t kve_gguf_tensor_count(const struct kve_gguf *g)
{
    return g->tensor_count;
}

const struct kve_tensor *kve_gguf_tensor(const struct kve_gguf *g, uint64_t i)
{
    return i < g->tensor_count ? &g->tensors[i] : NULL;
}

const struct kve_tensor *kve_gguf_tensor_by_name(const struct kve_gguf *g, const char *name)
{
    const struct kve_str wanted = {name, strlen(name)};
    uint64_t low = 0, high = g->tensor_count;

    while (low < high) {
        const uint64_t middle = low + (high - low) / 2;
        const int order = kve_str_compare(wanted, g->by_name[middle]->name);

        if (order == 0)
            return g->by_name[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}
