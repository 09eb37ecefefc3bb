/* SPDX-License-Identifier: Apache-2.0 */
/*
 * presets.c - the models that --model knows. Shapes as published; those called "-like" have the
 * kinds and sizes of state of such a model, not its exact numbers. Prefill rates: one H100 (989
 * TFLOP/s bf16) at 50 % of its peak, two operations a parameter and token, attention not counted.
 */
#include <stdio.h>
#include <string.h>

#include "geometry.h"

#define H100 "H100 at 50 % MFU"
#define BF16 KVW_DTYPE_BF16
#define KV(h, d)                                                                                   \
    2,                                                                                             \
    {                                                                                              \
        {"k", BF16, 2 * (d), (h)},                                                                 \
        {                                                                                          \
            "v", BF16, 2 * (d), (h)                                                                \
        }                                                                                          \
    }
#define PAGED KVW_GROUP_PAGED, "1", 1, 0
#define DENSE(h, d)                                                                                \
    1,                                                                                             \
    {                                                                                              \
        {                                                                                          \
            PAGED, KV(h, d)                                                                        \
        }                                                                                          \
    }

static const struct kvp_geometry presets[] = {
    {"llama-3.1-8b", H100, 30800, 32, DENSE(8, 128)},
    {"llama-3.1-70b", H100, 3500, 80, DENSE(8, 128)},
    {"llama-3.1-405b", H100, 610, 126, DENSE(8, 128)},
    {"qwen3-8b", H100, 30200, 36, DENSE(8, 128)},
    {"qwen3-235b", H100, 11200, 94, DENSE(4, 128)},
    {"minimax-m2.5", H100, 24700, 62, DENSE(8, 128)},
    {"smollm2-135m", "two CPU cores", 590, 30, DENSE(3, 64)},
    /* Multi-head latent attention: one row of 512 + 64 values that every rank holds whole. */
    {"deepseek-v3", H100, 6700, 61, 1, {{PAGED, 1, {{"latent", BF16, 1152, 1}}}}},
    /* A compressed entry for each 4 tokens with an index beside it, or for each 128; a window. */
    {"deepseek-v4-like",
     H100,
     6700,
     61,
     3,
     {{KVW_GROUP_PAGED,
       "01",
       4,
       0,
       2,
       {{"latent4", KVW_DTYPE_BYTES, 576, 1}, {"index4", KVW_DTYPE_BYTES, 132, 1}}},
      {KVW_GROUP_PAGED, "10", 128, 0, 1, {{"latent128", KVW_DTYPE_BYTES, 576, 1}}},
      {KVW_GROUP_WINDOW, "1", 1, 128, 1, {{"window", KVW_DTYPE_BYTES, 576, 1}}}}},
    /* Three layers of four are linear attention: a state of constant size. */
    {"qwen3.5-like",
     H100,
     14500,
     60,
     2,
     {{KVW_GROUP_PAGED, "0001", 1, 0, KV(2, 256)},
      {KVW_GROUP_ROW, "1110", 0, 0, 2, {{"recurrent", BF16, 32768, 32}, {"conv", BF16, 6144, 4}}}}},
    {"gpt-oss-120b",
     H100,
     48000,
     36,
     2,
     {{KVW_GROUP_WINDOW, "10", 1, 128, KV(8, 64)}, {KVW_GROUP_PAGED, "01", 1, 0, KV(8, 64)}}},
    {"gemma-3-27b",
     H100,
     9200,
     62,
     2,
     {{KVW_GROUP_WINDOW, "111110", 1, 1024, KV(16, 128)},
      {KVW_GROUP_PAGED, "000001", 1, 0, KV(16, 128)}}},
};

#define PRESETS (sizeof(presets) / sizeof(presets[0]))

const char *kvp_geometry_preset_name(uint32_t i)
{
    return i < PRESETS ? presets[i].name : NULL;
}

bool kvp_geometry_preset(struct kvp_geometry *g, const char *name, char why[KVP_WHY])
{
    size_t at = 0;

    for (uint32_t i = 0; i < PRESETS; ++i)
        if (strcmp(presets[i].name, name) == 0) {
            *g = presets[i];
            return true;
        }
    at += (size_t)snprintf(why, KVP_WHY, "--model %.40s: it is one of", name);
    for (uint32_t i = 0; i < PRESETS && at < KVP_WHY; ++i)
        at += (size_t)snprintf(why + at, KVP_WHY - at, " %s", presets[i].name);
    return false;
}
