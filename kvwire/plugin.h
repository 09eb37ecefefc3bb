/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plugin.h - transports in libraries of their own, so that a program which needs none of them
 * carries none of what they link. A plugin `libkvwire-NAME.so` exports one symbol, kvw_plugin.
 *
 * threads  kvw_plugin_open() from any one at a time for each name
 * memory   a plugin stays loaded for the life of the process
 * time     loading a library: milliseconds
 */
#ifndef KVW_PLUGIN_H
#define KVW_PLUGIN_H

#include "node.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Goes up when struct kvw_plugin, kvw_open_args or the transport interface changes. */
#define KVW_PLUGIN_ABI 1u

struct kvw_plugin {
    uint32_t abi;        /* KVW_PLUGIN_ABI */
    uint32_t reserved;   /* 0 */
    const char *name;    /* of the transport */
    const char *version; /* KVW_VERSION: library and plugins are of one build */
    kvw_err (*open)(struct kvw_transport **t, const struct kvw_open_args *args, char *why);
};

/*
 * Load libkvwire-NAME.so, unless that was done before, and open its transport. It is looked for in
 * $KVWIRE_PLUGINS, or else in kvwire/ beside libkvwire.so.
 *   KVW_E_UNSUPPORTED  there is none, it can't be loaded, or it is of another build; why (256
 *                      bytes) says which, and where it was looked for
 *   others as the transport's
 */
KVW_NODISCARD kvw_err kvw_plugin_open(struct kvw_transport **t, const struct kvw_open_args *args,
                                      char *why);

#ifdef __cplusplus
}
#endif
#endif
