/* SPDX-License-Identifier: Apache-2.0 */
/* config.c - a model's numbers, out of the keys that all architectures share. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "../../kvwire/wire.h"
#include "../gguf/keys.h"
#include "arch.h"

#define HIDDEN_MAX  65536u
#define FFN_MAX     (1u << 20)
#define CONTEXT_MAX KVW_XFER_TOKENS_MAX

/* Things that would change the arithmetic and that a layer doesn't do. */
static kvw_err check_keys(const struct kve_opening *o)
{
    char prefix[KVE_KEY_BYTES], key[KVE_KEY_BYTES];
    struct kve_str s;
    kvw_err err;

    if ((err = kve_keys_check(o->g, kve_opening_key(o, "", prefix), o->why)))
        return err;
    err = kve_gguf_str(o->g, kve_opening_key(o, "rope.scaling.type", key), &s);
    if (err == KVW_E_NOTFOUND)
        return KVW_OK;
    if (err != KVW_OK)
        return kve_opening_fail(o, err, "%s isn't a string", key);
    if (!kve_str_is(s, "none") && !kve_str_is(s, "linear"))
        return kve_opening_fail(o, KVW_E_UNSUPPORTED,
                                "%s is \"%.*s\"; \"none\" and \"linear\" are run", key,
                                s.bytes > 64 ? 64 : (int)s.bytes, s.at);
    return KVW_OK;
}

/* A window as long as the context never cuts anything off. */
static kvw_err check_window(const struct kve_opening *o)
{
    const struct kve_arch *arch = o->m->arch;
    uint64_t window = 0;
    const kvw_err err = kve_opening_window(o, &window);

    if (err == KVW_OK && !arch->windows && window != 0 && window < o->m->config.context)
        return kve_opening_fail(o, KVW_E_UNSUPPORTED,
                                "%s.attention.sliding_window is %" PRIu64
                                ", less than %s.context_length, %u; sliding windows aren't run",
                                arch->name, window, arch->name, o->m->config.context);
    return err;
}

static kvw_err read_heads(const struct kve_opening *o)
{
    struct kve_model_config *c = &o->m->config;
    const uint32_t usual = c->hidden / c->heads;
    uint32_t value_dim;
    kvw_err err;

    if (c->heads % c->kv_heads != 0 || c->heads / c->kv_heads > KVE_GROUP_MAX)
        return kve_opening_fail(o, KVW_E_FORMAT,
                                "%s.attention.head_count is %u, which %u K/V heads can't share in "
                                "groups of 1 to %u",
                                o->arch, c->heads, c->kv_heads, KVE_GROUP_MAX);
    if ((err = kve_opening_number(o, "attention.key_length", usual, KVW_HEAD_DIM_MAX,
                                  &c->head_dim)) ||
        (err = kve_opening_number(o, "attention.value_length", usual, KVW_HEAD_DIM_MAX,
                                  &value_dim)) ||
        (err = kve_opening_number(o, "rope.dimension_count", c->head_dim, KVW_HEAD_DIM_MAX,
                                  &c->rope_dims)))
        return err;
    if (value_dim != c->head_dim)
        return kve_opening_fail(
            o, KVW_E_UNSUPPORTED,
            "%s.attention.value_length is %u and key_length %u; they must be equal", o->arch,
            value_dim, c->head_dim);
    if (c->rope_dims % 2 != 0 || c->rope_dims > c->head_dim)
        return kve_opening_fail(
            o, KVW_E_FORMAT, "%s.rope.dimension_count is %u; an even number up to %u was expected",
            o->arch, c->rope_dims, c->head_dim);
    return KVW_OK;
}

/* What rotations are slowed down by. scale_linear is the key's old name: read where the new one
 * isn't there. */
static kvw_err read_scale(const struct kve_opening *o, float *scale)
{
    char key[KVE_KEY_BYTES];
    struct kve_str type;
    kvw_err err;

    *scale = 1;
    if (kve_gguf_str(o->g, kve_opening_key(o, "rope.scaling.type", key), &type) == KVW_OK &&
        !kve_str_is(type, "linear"))
        return KVW_OK;
    if ((err = kve_opening_real(o, "rope.scale_linear", 1, scale)))
        return err;
    return kve_opening_real(o, "rope.scaling.factor", *scale, scale);
}

kvw_err kve_config_rope(const struct kve_opening *o, uint32_t rope, float base, float scale)
{
    const struct kve_model_config *c = &o->m->config;
    const uint32_t n = c->rope_dims / 2;
    float divisors[KVW_HEAD_DIM_MAX / 2];
    kvw_err err;

    for (uint32_t i = 0; i < n; ++i)
        divisors[i] = 1;
    if (o->m->arch->rope_freqs && kve_gguf_tensor_by_name(o->g, "rope_freqs.weight") != NULL &&
        (err = kve_opening_vector(o, "rope_freqs.weight", n, divisors)))
        return err;
    o->m->speeds[rope] = calloc(n, sizeof(*o->m->speeds[rope]));
    if (o->m->speeds[rope] == NULL)
        return kve_opening_fail(o, KVW_E_NOMEM, "no memory for %u rotations", n);
    for (uint32_t i = 0; i < n; ++i) {
        if (!(divisors[i] > 0) || !isfinite(divisors[i]))
            return kve_opening_fail(o, KVW_E_FORMAT,
                                    "rope_freqs.weight[%u] is %g; it must be positive", i,
                                    (double)divisors[i]);
        o->m->speeds[rope][i] =
            pow((double)base, -2.0 * i / c->rope_dims) / (double)divisors[i] / (double)scale;
    }
    o->m->ropes = rope + 1;
    return KVW_OK;
}

kvw_err kve_config_read(const struct kve_opening *o)
{
    struct kve_model_config *c = &o->m->config;
    float scale;
    kvw_err err;

    if ((err = check_keys(o)) ||
        (err = kve_opening_number(o, "block_count", UINT64_MAX, KVW_LAYERS_MAX, &c->layers)) ||
        (err = kve_opening_number(o, "embedding_length", UINT64_MAX, HIDDEN_MAX, &c->hidden)) ||
        (err = kve_opening_number(o, "feed_forward_length", UINT64_MAX, FFN_MAX, &c->ffn)) ||
        (err = kve_opening_number(o, "context_length", UINT64_MAX, CONTEXT_MAX, &c->context)) ||
        (err =
             kve_opening_number(o, "attention.head_count", UINT64_MAX, KVW_HEADS_MAX, &c->heads)) ||
        (err = kve_opening_number(o, "attention.head_count_kv", c->heads, KVW_HEADS_MAX,
                                  &c->kv_heads)) ||
        (err = read_heads(o)) || (err = check_window(o)) ||
        (err = kve_opening_real(o, "attention.layer_norm_rms_epsilon", 0, &c->rms_eps)) ||
        (err = kve_opening_real(o, "rope.freq_base", 10000.0f, &c->rope_base)) ||
        (err = read_scale(o, &scale)))
        return err;
    c->rope_halves = o->m->arch->rope_halves;
    c->gelu = o->m->arch->gelu;
    c->embd_scale = 1;
    c->attn_scale = 1.0f / sqrtf((float)c->head_dim);
    return kve_config_rope(o, 0, c->rope_base, scale);
}
