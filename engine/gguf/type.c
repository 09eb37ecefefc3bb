/* SPDX-License-Identifier: Apache-2.0 */
/* type.c - the tensor types that we read, and the names of those that we don't. */
#include "gguf.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const struct kve_type_info types[] = {
    [KVE_TYPE_F32] = {"F32", 1, 4},       [KVE_TYPE_F16] = {"F16", 1, 2},
    [KVE_TYPE_Q4_0] = {"Q4_0", 32, 18},   [KVE_TYPE_Q4_1] = {"Q4_1", 32, 20},
    [KVE_TYPE_Q5_0] = {"Q5_0", 32, 22},   [KVE_TYPE_Q5_1] = {"Q5_1", 32, 24},
    [KVE_TYPE_Q8_0] = {"Q8_0", 32, 34},   [KVE_TYPE_Q4_K] = {"Q4_K", 256, 144},
    [KVE_TYPE_Q5_K] = {"Q5_K", 256, 176}, [KVE_TYPE_Q6_K] = {"Q6_K", 256, 210},
    [KVE_TYPE_BF16] = {"BF16", 1, 2},
};

/* ggml.h's enum; the numbers that it has given up keep the name they had. */
static const char *const names[] = {
    [0] = "F32",     [1] = "F16",         [2] = "Q4_0",        [3] = "Q4_1",        [4] = "Q4_2",
    [5] = "Q4_3",    [6] = "Q5_0",        [7] = "Q5_1",        [8] = "Q8_0",        [9] = "Q8_1",
    [10] = "Q2_K",   [11] = "Q3_K",       [12] = "Q4_K",       [13] = "Q5_K",       [14] = "Q6_K",
    [15] = "Q8_K",   [16] = "IQ2_XXS",    [17] = "IQ2_XS",     [18] = "IQ3_XXS",    [19] = "IQ1_S",
    [20] = "IQ4_NL", [21] = "IQ3_S",      [22] = "IQ2_S",      [23] = "IQ4_XS",     [24] = "I8",
    [25] = "I16",    [26] = "I32",        [27] = "I64",        [28] = "F64",        [29] = "IQ1_M",
    [30] = "BF16",   [31] = "Q4_0_4_4",   [32] = "Q4_0_4_8",   [33] = "Q4_0_8_8",   [34] = "TQ1_0",
    [35] = "TQ2_0",  [36] = "IQ4_NL_4_4", [37] = "IQ4_NL_4_8", [38] = "IQ4_NL_8_8", [39] = "MXFP4",
    [40] = "NVFP4",  [41] = "Q1_0",       [42] = "Q2_0",
};

const struct kve_type_info *kve_type_info(uint32_t type)
{
    static const struct kve_type_info none = {NULL, 1, 0};

    return type < COUNT(types) && types[type].name != NULL ? &types[type] : &none;
}

const char *kve_type_name(uint32_t type)
{
    return type < COUNT(names) ? names[type] : NULL;
}
