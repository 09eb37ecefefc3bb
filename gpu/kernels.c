/* SPDX-License-Identifier: Apache-2.0 */
/* kernels.c - the table of kernels, and how they are found in an image. */
#include "kernels.h"

#include <stdio.h>
#include <string.h>

#include "e.h"
#include "l0.h"
#include "raw.h"

#define RAW(dtype_bits, bytes)                                                                     \
    {                                                                                              \
        .codecs = 1ull << KVW_CODEC_RAW, .dtypes = dtype_bits, .pair = {                           \
            {NULL, "kvg_raw_encode", 0, KVG_RAW_SHARED(bytes)},                                    \
            {NULL, "kvg_raw_decode", 0, KVG_RAW_SHARED(bytes)},                                    \
        }                                                                                          \
    }
#define EXACT(codec, dtype, name)                                                                  \
    {                                                                                              \
        .codecs = 1ull << (codec), .dtypes = 1u << (dtype), .pair = {                              \
            {"kvg_l0_plan_" name, "kvg_l0_encode_" name, KVG_L0_PLAN_SHARED,                       \
             KVG_L0_ENCODE_SHARED},                                                                \
            {"kvg_l0_open", "kvg_l0_decode_" name, KVG_L0_OPEN_SHARED, KVG_L0_DECODE_SHARED},      \
        }                                                                                          \
    }
#define BOUNDED(dtype, name)                                                                       \
    {                                                                                              \
        .codecs = 1ull << KVW_CODEC_E8 | 1ull << KVW_CODEC_E4, .dtypes = 1u << (dtype), .pair = {  \
            {"kvg_e_plan_" name, "kvg_e_encode_" name, KVG_E_PLAN_SHARED, KVG_E_ENCODE_SHARED},    \
            {"kvg_e_open", "kvg_e_decode_" name, KVG_E_OPEN_SHARED, KVG_E_DECODE_SHARED},          \
        }                                                                                          \
    }

const struct kvg_coder kvg_coders[KVG_CODERS] = {
    RAW(1u << KVW_DTYPE_F32, 4),
    RAW(1u << KVW_DTYPE_BF16 | 1u << KVW_DTYPE_F16, 2),
    RAW(1u << KVW_DTYPE_F8_E4M3 | 1u << KVW_DTYPE_F8_E5M2, 1),
    EXACT(KVW_CODEC_L0, KVW_DTYPE_BF16, "bf16"),
    EXACT(KVW_CODEC_L0, KVW_DTYPE_F16, "f16"),
    EXACT(KVW_CODEC_L8, KVW_DTYPE_F8_E4M3, "e4m3"),
    EXACT(KVW_CODEC_L8, KVW_DTYPE_F8_E5M2, "e5m2"),
    BOUNDED(KVW_DTYPE_BF16, "bf16"),
    BOUNDED(KVW_DTYPE_F16, "f16"),
};

uint32_t kvg_coder_find(uint8_t codec, kvw_dtype dtype)
{
    uint32_t i = 0;

    while (i < KVG_CODERS &&
           ((kvg_coders[i].codecs >> codec & 1) == 0 || (kvg_coders[i].dtypes >> dtype & 1) == 0))
        ++i;
    return i;
}

/* One kernel by its name; the driver's word on it. */
static kvg_result find(const struct kvg_kernels *k, const struct kvg_device *dev, const char *name,
                       kvg_kernel *kernel, const char **missing)
{
    kvg_result r = KVG_CU_SUCCESS;

    *kernel = NULL;
    if (name != NULL)
        r = dev->driver->library_kernel(kernel, k->library, name);
    if (r != KVG_CU_SUCCESS)
        *missing = name;
    return r;
}

static kvg_result find_all(struct kvg_kernels *k, const struct kvg_device *dev,
                           const char **missing)
{
    kvg_result r = KVG_CU_SUCCESS;

    for (uint32_t i = 0; i < 2 * KVG_CODERS && r == KVG_CU_SUCCESS; ++i) {
        const struct kvg_kernel_pair *p = &kvg_coders[i / 2].pair[i % 2];

        r = find(k, dev, p->by_chunk, &k->by_chunk[i / 2][i % 2], missing);
        if (r == KVG_CU_SUCCESS)
            r = find(k, dev, p->by_block, &k->by_block[i / 2][i % 2], missing);
    }
    return r;
}

static bool is_of_image(kvg_result r)
{
    return r == KVG_CU_NO_BINARY_FOR_GPU || r == KVG_CU_INVALID_IMAGE || r == KVG_CU_NOT_FOUND;
}

kvw_err kvg_kernels_load(struct kvg_kernels *k, const struct kvg_device *dev, const void *image,
                         char *text, size_t text_bytes)
{
    const struct kvg_driver *d = dev->driver;
    const char *missing = NULL;
    kvg_result r;

    memset(k, 0, sizeof(*k));
    r = d->library_load(&k->library, image, NULL, NULL, 0, NULL, NULL, 0);
    if (r != KVG_CU_SUCCESS) {
        snprintf(text, text_bytes, "CUDA: GPU %d (%s, sm_%d) takes no kernels of this build: %s",
                 dev->ordinal, dev->name, dev->arch, kvg_driver_error(d, r));
        k->library = NULL;
        return is_of_image(r) ? KVW_E_UNSUPPORTED : kvg_driver_code(r);
    }
    r = find_all(k, dev, &missing);
    if (r == KVG_CU_SUCCESS)
        return KVW_OK;
    snprintf(text, text_bytes, "CUDA: GPU %d (%s, sm_%d) gets no kernel %s of this build: %s",
             dev->ordinal, dev->name, dev->arch, missing, kvg_driver_error(d, r));
    kvg_kernels_unload(k, dev);
    return is_of_image(r) ? KVW_E_UNSUPPORTED : kvg_driver_code(r);
}

void kvg_kernels_unload(struct kvg_kernels *k, const struct kvg_device *dev)
{
    if (k->library != NULL)
        (void)dev->driver->library_unload(k->library);
    memset(k, 0, sizeof(*k));
}
