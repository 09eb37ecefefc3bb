/* SPDX-License-Identifier: Apache-2.0 */
/* The plugin for GPUs: found, held against this build, asked for one line. */
#include "gpu.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PLUGIN "libkvwire-cuda.so"

/* kvwire/ beside the library or program that this code is in. */
static void own_folder(char *to, size_t size)
{
    const char *slash = NULL;
    Dl_info info;

    if (dladdr((const void *)(uintptr_t)&kvw_gpu_load, &info) != 0 && info.dli_fname != NULL)
        slash = strrchr(info.dli_fname, '/');
    if (slash == NULL || snprintf(to, size, "%.*s/kvwire", (int)(slash - info.dli_fname),
                                  info.dli_fname) >= (int)size)
        snprintf(to, size, "kvwire");
}

kvw_err kvw_gpu_load(const struct kvw_gpu_plugin **plugin, char *why)
{
    const char *named = getenv("KVWIRE_PLUGINS");
    const struct kvw_gpu_plugin *found;
    char folder[512], path[600];
    void *library;

    if (named != NULL && named[0] != '\0')
        snprintf(folder, sizeof(folder), "%s", named);
    else
        own_folder(folder, sizeof(folder));
    snprintf(path, sizeof(path), "%s/%s", folder, PLUGIN);
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        snprintf(why, KVW_GPU_TEXT, "no plugin for GPUs: %.220s", dlerror());
        return KVW_E_UNSUPPORTED;
    }
    found = dlsym(library, "kvw_gpu_plugin");
    if (found == NULL || found->abi != KVW_GPU_ABI || strcmp(found->version, KVW_VERSION) != 0) {
        snprintf(why, KVW_GPU_TEXT, "%.180s is of another build than this library, %s", path,
                 KVW_VERSION);
        return KVW_E_UNSUPPORTED; /* it stays loaded: nobody knows what it has started */
    }
    *plugin = found;
    return KVW_OK;
}

bool kvw_gpu_line(int ordinal, char *text, size_t text_bytes)
{
    const struct kvw_gpu_plugin *plugin = NULL;
    char why[KVW_GPU_TEXT] = "";
    struct kvw_gpu *g = NULL;

    if (kvw_gpu_load(&plugin, why) != KVW_OK || plugin->open(&g, ordinal, why) != KVW_OK) {
        snprintf(text, text_bytes, "gpu: none: %s", why);
        return false;
    }
    snprintf(text, text_bytes, "gpu: %s", plugin->ladder(g));
    plugin->close(g);
    return true;
}
