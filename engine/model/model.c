/* SPDX-License-Identifier: Apache-2.0 */
/* model.c - opens a model: what is the same for every architecture. */
#include "arch.h"

#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "../text/utf8.h"

/* It goes to terminals and into JSON: no control characters, and whole UTF-8 characters only. */
static kvw_err read_name(const struct kve_opening *o)
{
    struct kve_utf8_hold hold;
    struct kve_str s;
    size_t end = 0;
    const kvw_err err = kve_gguf_str(o->g, "general.name", &s);

    if (err == KVW_E_NOTFOUND)
        return KVW_OK;
    if (err != KVW_OK)
        return kve_opening_fail(o, err, "general.name isn't a string");
    kve_utf8_reset(&hold);
    for (size_t i = 0; i < s.bytes; ++i) {
        const bool control = (unsigned char)s.at[i] < 32 || s.at[i] == 127;
        char whole[KVE_UTF8_HOLD_BYTES];
        const size_t n = kve_utf8_push(&hold, control ? '?' : (unsigned char)s.at[i], whole);

        if (end + n > KVE_NAME_BYTES - 1)
            break;
        memcpy(o->m->name + end, whole, n);
        end += n;
    }
    return KVW_OK;
}

kvw_err kve_model_open(struct kve_model **out, const struct kve_gguf *g, char why[KVE_WHY_BYTES])
{
    struct kve_opening o = {.m = calloc(1, sizeof(struct kve_model)), .g = g, .why = why};
    kvw_err err;

    if (o.m == NULL)
        return kve_opening_fail(&o, KVW_E_NOMEM, "no memory for the model");
    o.m->gguf = g;
    if ((err = kve_arch_of(&o.m->arch, g, why)) == KVW_OK)
        o.arch = o.m->arch->name;
    if (err || (err = read_name(&o)) || (err = kve_config_read(&o)) ||
        (err = kve_weights_find(&o)) ||
        (err = o.m->arch->finish == NULL ? KVW_OK : o.m->arch->finish(&o))) {
        kve_why_clean(why);
        kve_model_close(o.m);
        return err;
    }
    *out = o.m;
    return KVW_OK;
}

void kve_model_close(struct kve_model *m)
{
    if (m == NULL)
        return;
    for (uint32_t i = 0; i < KVE_ROPES; ++i)
        free(m->speeds[i]);
    free(m->vectors);
    free(m->layers);
    free(m);
}

const struct kve_model_config *kve_model_config(const struct kve_model *m)
{
    return &m->config;
}

uint32_t kve_model_window(const struct kve_model *m, uint32_t l)
{
    return m->layers[l].window;
}

const char *kve_model_name(const struct kve_model *m)
{
    return m->name;
}

/* Of several files each one's hash is the seed of the next one's. */
void kve_model_fingerprint(const struct kve_model *m, uint8_t out[16])
{
    XXH128_hash_t hash = {0};
    XXH128_canonical_t canonical;

    for (uint64_t i = 0; i < kve_gguf_files(m->gguf); ++i) {
        uint64_t bytes;
        const void *file = kve_gguf_bytes(m->gguf, i, &bytes);

        hash = XXH3_128bits_withSeed(file, bytes, hash.low64);
    }
    XXH128_canonicalFromHash(&canonical, hash);
    memcpy(out, canonical.digest, 16);
}
