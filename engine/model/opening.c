/* SPDX-License-Identifier: Apache-2.0 */
/* opening.c - keys and tensors of a model file, checked against what a model needs. */
#include "opening.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

kvw_err kve_opening_fail(const struct kve_opening *o, kvw_err err, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(o->why, KVE_WHY_BYTES, format, args);
    va_end(args);
    return err;
}

const char *kve_opening_key(const struct kve_opening *o, const char *name, char key[KVE_KEY_BYTES])
{
    snprintf(key, KVE_KEY_BYTES, "%s.%s", o->arch, name);
    return key;
}

kvw_err kve_opening_number(const struct kve_opening *o, const char *name, uint64_t absent,
                           uint32_t max, uint32_t *v)
{
    char key[KVE_KEY_BYTES];
    uint64_t value = absent;
    const kvw_err err = kve_gguf_u64(o->g, kve_opening_key(o, name, key), &value);

    if (err == KVW_E_NOTFOUND && absent == UINT64_MAX)
        return kve_opening_fail(o, KVW_E_FORMAT, "%s is missing", key);
    if (err != KVW_OK && err != KVW_E_NOTFOUND)
        return kve_opening_fail(o, KVW_E_FORMAT, "%s isn't one whole number", key);
    if (value < 1 || value > max)
        return kve_opening_fail(o, KVW_E_FORMAT, "%s is %" PRIu64 "; 1 to %u can be read", key,
                                value, max);
    *v = (uint32_t)value;
    return KVW_OK;
}

kvw_err kve_opening_real(const struct kve_opening *o, const char *name, float absent, float *v)
{
    char key[KVE_KEY_BYTES];
    float value = absent;
    const kvw_err err = kve_gguf_f32(o->g, kve_opening_key(o, name, key), &value);

    if (err == KVW_E_NOTFOUND && absent == 0)
        return kve_opening_fail(o, KVW_E_FORMAT, "%s is missing", key);
    if (err != KVW_OK && err != KVW_E_NOTFOUND)
        return kve_opening_fail(o, KVW_E_FORMAT, "%s isn't one real number", key);
    if (!(value > 0) || !isfinite(value))
        return kve_opening_fail(o, KVW_E_FORMAT, "%s is %g; a positive number was expected", key,
                                (double)value);
    *v = value;
    return KVW_OK;
}

kvw_err kve_opening_window(const struct kve_opening *o, uint64_t *window)
{
    char key[KVE_KEY_BYTES];

    *window = 0;
    if (kve_gguf_u64(o->g, kve_opening_key(o, "attention.sliding_window", key), window) ==
        KVW_E_FORMAT)
        return kve_opening_fail(o, KVW_E_FORMAT, "%s isn't one whole number", key);
    return KVW_OK;
}

bool kve_str_is(struct kve_str s, const char *text)
{
    return s.bytes == strlen(text) && memcmp(s.at, text, s.bytes) == 0;
}

kvw_err kve_opening_matrix(const struct kve_opening *o, const char *name, uint32_t rows,
                           uint32_t cols, struct kve_matrix *w)
{
    const struct kve_tensor *t = kve_gguf_tensor_by_name(o->g, name);

    if (t == NULL)
        return kve_opening_fail(o, KVW_E_FORMAT, "tensor %s is missing", name);
    if (t->dims != 2 || t->ne[0] != cols || t->ne[1] != rows)
        return kve_opening_fail(o, KVW_E_FORMAT,
                                "tensor %s is %" PRIu64 " x %" PRIu64
                                " (%u dimensions); %u x %u was expected",
                                name, t->ne[0], t->dims > 1 ? t->ne[1] : 1, t->dims, cols, rows);
    *w = (struct kve_matrix){
        .at = t->at, .row_bytes = t->bytes / rows, .rows = rows, .cols = cols, .type = t->type};
    return KVW_OK;
}

kvw_err kve_opening_vector(const struct kve_opening *o, const char *name, uint32_t n, float *values)
{
    const struct kve_tensor *t = kve_gguf_tensor_by_name(o->g, name);

    if (t == NULL)
        return kve_opening_fail(o, KVW_E_FORMAT, "tensor %s is missing", name);
    if (t->dims != 1 || t->ne[0] != n)
        return kve_opening_fail(o, KVW_E_FORMAT,
                                "tensor %s has %u dimensions, the first of %" PRIu64
                                "; one of %u was expected",
                                name, t->dims, t->ne[0], n);
    kve_dequantise(t->type, t->at, values, n);
    return KVW_OK;
}
