/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gemma3.c - the gemma3 architecture: most layers see a window of the last tokens and turn their
 * heads at a speed of their own; norms before and behind each block; a GELU gate; embeddings scaled
 * by the root of their width.
 */
#include <inttypes.h>
#include <math.h>

#include "arch.h"

#define PATTERN     6u       /* every 6th layer sees all */
#define LOCAL_BASE  10000.0f /* of the rotations of layers with a window */
#define LAYERS_27B  62u      /* whose scores are scaled by hidden/heads instead of head_dim */
#define PATTERN_MAX 512u

static kvw_err read_softcap(const struct kve_opening *o)
{
    char key[KVE_KEY_BYTES];
    float cap = 0;
    const kvw_err err =
        kve_gguf_f32(o->g, kve_opening_key(o, "final_logit_softcapping", key), &cap);

    if (err == KVW_E_FORMAT)
        return kve_opening_fail(o, err, "%s isn't one real number", key);
    if (!(cap >= 0) || !isfinite(cap))
        return kve_opening_fail(o, KVW_E_FORMAT, "%s is %g; 0 or more was expected", key,
                                (double)cap);
    o->m->config.softcap = cap;
    return KVW_OK;
}

static kvw_err read_windows(const struct kve_opening *o)
{
    struct kve_model_config *c = &o->m->config;
    uint32_t pattern;
    uint64_t window;
    float base;
    kvw_err err;

    if ((err = kve_opening_window(o, &window)) ||
        (err = kve_opening_number(o, "attention.sliding_window_pattern", PATTERN, PATTERN_MAX,
                                  &pattern)) ||
        (err = kve_opening_real(o, "rope.freq_base_swa", LOCAL_BASE, &base)))
        return err;
    if (window == 0)
        return KVW_OK;
    if (window > UINT32_MAX)
        return kve_opening_fail(
            o, KVW_E_FORMAT, "gemma3.attention.sliding_window is %" PRIu64 "; up to %u can be read",
            window, UINT32_MAX);
    c->window = (uint32_t)window;
    for (uint32_t l = 0; l < c->layers; ++l) {
        if (l % pattern == pattern - 1)
            continue;
        o->m->layers[l].window = c->window;
        o->m->layers[l].rope = 1;
        ++c->window_layers;
    }
    return kve_config_rope(o, 1, base, 1);
}

static kvw_err finish(const struct kve_opening *o)
{
    struct kve_model_config *c = &o->m->config;
    const kvw_err err = read_softcap(o);

    c->embd_scale = sqrtf((float)c->hidden);
    if (c->layers == LAYERS_27B)
        c->attn_scale = 1.0f / sqrtf((float)(c->hidden / c->heads));
    return err != KVW_OK ? err : read_windows(o);
}

const struct kve_arch kve_arch_gemma3 = {
    .name = "gemma3",
    .parts = KVE_PART_QK_NORM | KVE_PART_POST_NORM,
    .rope_halves = true,
    .gelu = true,
    .windows = true,
    .finish = finish,
};
