/* SPDX-License-Identifier: Apache-2.0 */
/* Transports that are loaded when a program asks for them by name. */
#include "plugin.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WHY_BYTES 256u

/* A name becomes part of a path: letters, digits, '_' and '-' only. */
static bool name_is_plain(const char *name)
{
    return name[0] != '\0' &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-") == strlen(name) &&
           strlen(name) < 32;
}

/* kvwire/ beside the library that this code is in; false: its place can't be found. */
static bool own_folder(char *to, size_t size)
{
    const char *slash;
    Dl_info info;

    if (dladdr((const void *)&kvw_parts, &info) == 0 || info.dli_fname == NULL)
        return false;
    slash = strrchr(info.dli_fname, '/');
    return snprintf(to, size, "%.*s/kvwire", slash != NULL ? (int)(slash - info.dli_fname) : 1,
                    slash != NULL ? info.dli_fname : ".") < (int)size;
}

kvw_err kvw_plugin_open(struct kvw_transport **t, const struct kvw_open_args *args, char *why)
{
    const char *named = getenv("KVWIRE_PLUGINS");
    char folder[512] = ".", path[600];
    const struct kvw_plugin *plugin;
    void *library;

    if (!name_is_plain(args->transport)) {
        snprintf(why, WHY_BYTES, "'%.40s' is not a transport's name", args->transport);
        return KVW_E_UNSUPPORTED;
    }
    if (named != NULL && named[0] != '\0')
        snprintf(folder, sizeof(folder), "%s", named);
    else if (!own_folder(folder, sizeof(folder)))
        snprintf(folder, sizeof(folder), "kvwire");
    snprintf(path, sizeof(path), "%s/libkvwire-%s.so", folder, args->transport);
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        snprintf(why, WHY_BYTES, "no transport '%s' is built in, and no plugin: %.180s",
                 args->transport, dlerror());
        return KVW_E_UNSUPPORTED;
    }
    plugin = dlsym(library, "kvw_plugin");
    if (plugin == NULL || plugin->abi != KVW_PLUGIN_ABI ||
        strcmp(plugin->version, KVW_VERSION) != 0 || strcmp(plugin->name, args->transport) != 0) {
        snprintf(why, WHY_BYTES, "%.180s is of another build than this library, %s", path,
                 KVW_VERSION);
        return KVW_E_UNSUPPORTED; /* it stays loaded: nobody knows what it has started */
    }
    return plugin->open(t, args, why);
}
