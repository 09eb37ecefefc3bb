/* SPDX-License-Identifier: Apache-2.0 */
/* compute.c - reads --device and --kv-dtype: only a GPU keeps K and V in fp8. */
#include "compute.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    kvw_dtype dtype;
} types[] = {{"bf16", KVW_DTYPE_BF16}, {"fp8", KVW_DTYPE_F8_E4M3}};

#define TYPES (sizeof(types) / sizeof(types[0]))

bool kve_compute_device(struct kve_worker_config *w, const char *text)
{
    w->device = text;
    if (strcmp(text, "cpu") == 0 || strcmp(text, "cuda") == 0 ||
        (strncmp(text, "cuda:", 5) == 0 && strspn(text + 5, "0123456789") == strlen(text + 5) &&
         strlen(text) > 5 && strlen(text) < 8))
        return true;
    fprintf(stderr, "kvserve: --device %s: it is cpu, cuda or cuda:N\n", text);
    return false;
}

bool kve_compute_kv_dtype(struct kve_worker_config *w, const char *text)
{
    for (size_t i = 0; i < TYPES; ++i) {
        if (strcmp(text, types[i].name) != 0)
            continue;
        w->kv_dtype = types[i].dtype;
        return true;
    }
    fprintf(stderr, "kvserve: --kv-dtype %s: it is bf16 or fp8\n", text);
    return false;
}

const char *kve_compute_kv_name(kvw_dtype dtype)
{
    for (size_t i = 0; i < TYPES; ++i)
        if (types[i].dtype == dtype)
            return types[i].name;
    return NULL;
}

bool kve_compute_on_gpu(const struct kve_worker_config *w)
{
    return w->device != NULL && strcmp(w->device, "cpu") != 0;
}

bool kve_compute_fits(const struct kve_worker_config *w, const char *what)
{
    if (w->kv_dtype != KVW_DTYPE_F8_E4M3 || kve_compute_on_gpu(w))
        return true;
    fprintf(stderr,
            "kvserve %s: --kv-dtype fp8 needs --device cuda: the CPU keeps K and V in bf16\n",
            what);
    return false;
}
