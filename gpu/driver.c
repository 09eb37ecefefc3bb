/* SPDX-License-Identifier: Apache-2.0 */
/* driver.c - find libcuda, fill the table, and say what is missing. */
#include "driver.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *library_name(void)
{
    const char *name = getenv("KVW_LIBCUDA");

    return name != NULL && name[0] != '\0' ? name : "libcuda.so.1";
}

const char *kvg_driver_error(const struct kvg_driver *d, kvg_result r)
{
    const char *name = NULL;

    if (d->error_name == NULL || d->error_name(r, &name) != KVG_CU_SUCCESS || name == NULL)
        return "an unknown CUDA error";
    return name;
}

kvw_err kvg_driver_code(kvg_result r)
{
    if (r == KVG_CU_OUT_OF_MEMORY)
        return KVW_E_NOMEM;
    return r == KVG_CU_NOT_SUPPORTED ? KVW_E_UNSUPPORTED : KVW_E_DEVICE;
}

struct entry {
    const char *symbol;
    size_t at; /* in struct kvg_driver */
};

/* The name of the first symbol that the library lacks, or NULL. */
static const char *fill(struct kvg_driver *d)
{
    static const struct entry entries[] = {
#define KVG_ENTRY(name, symbol, params) {#symbol, offsetof(struct kvg_driver, name)},
        KVG_DRIVER_CALLS(KVG_ENTRY)
#undef KVG_ENTRY
    };

    for (size_t i = 0; i < sizeof(entries) / sizeof(entries[0]); ++i) {
        void *symbol = dlsym(d->library, entries[i].symbol);

        if (symbol == NULL)
            return entries[i].symbol;
        memcpy((char *)d + entries[i].at, &symbol, sizeof(symbol));
    }
    return NULL;
}

/* The version is asked before init(): an old driver is told by it, whatever else it lacks. */
static kvw_err check_version(struct kvg_driver *d, char *text, size_t text_bytes)
{
    kvg_result (*get_version)(int *) = NULL;
    void *symbol = dlsym(d->library, "cuDriverGetVersion");

    if (symbol == NULL) {
        snprintf(text, text_bytes, "CUDA: %s is no CUDA driver: it has no cuDriverGetVersion",
                 library_name());
        return KVW_E_UNSUPPORTED;
    }
    memcpy(&get_version, &symbol, sizeof(symbol));
    if (get_version(&d->version) != KVG_CU_SUCCESS || d->version < KVG_DRIVER_VERSION_MIN) {
        snprintf(text, text_bytes, "CUDA: the driver is for CUDA %d.%d, but %d.%d is needed",
                 d->version / 1000, d->version % 1000 / 10, KVG_DRIVER_VERSION_MIN / 1000,
                 KVG_DRIVER_VERSION_MIN % 1000 / 10);
        return KVW_E_UNSUPPORTED;
    }
    return KVW_OK;
}

static kvw_err start(struct kvg_driver *d, char *text, size_t text_bytes)
{
    const kvw_err err = check_version(d, text, text_bytes);
    const char *missing;
    int count = 0;

    if (err != KVW_OK)
        return err;
    if ((missing = fill(d)) != NULL) {
        snprintf(text, text_bytes, "CUDA: the driver (CUDA %d.%d) has no %s", d->version / 1000,
                 d->version % 1000 / 10, missing);
        return KVW_E_UNSUPPORTED;
    }

    kvg_result r = d->init(0);

    if (r == KVG_CU_SUCCESS)
        r = d->device_count(&count);
    if (r == KVG_CU_NO_DEVICE || (r == KVG_CU_SUCCESS && count == 0)) {
        snprintf(text, text_bytes, "CUDA: the driver finds no GPU");
        return KVW_E_DEVICE;
    }
    if (r != KVG_CU_SUCCESS) {
        snprintf(text, text_bytes, "CUDA: the driver doesn't start: %s", kvg_driver_error(d, r));
        return kvg_driver_code(r);
    }
    return KVW_OK;
}

kvw_err kvg_driver_open(struct kvg_driver *d, char *text, size_t text_bytes)
{
    kvw_err err;

    memset(d, 0, sizeof(*d));
    d->library = dlopen(library_name(), RTLD_NOW | RTLD_LOCAL);
    if (d->library == NULL) {
        snprintf(text, text_bytes, "CUDA: no driver here: %s", dlerror());
        return KVW_E_NOTFOUND;
    }
    err = start(d, text, text_bytes);
    if (err != KVW_OK)
        kvg_driver_close(d);
    return err;
}

void kvg_driver_close(struct kvg_driver *d)
{
    if (d->library != NULL)
        dlclose(d->library);
    memset(d, 0, sizeof(*d));
}
