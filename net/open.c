/* SPDX-License-Identifier: Apache-2.0 */
#include "open.h"

#include <stdio.h>
#include <string.h>

/* "loop, udp, dpdk"; cut where it doesn't fit. */
static void list_names(char *text, size_t bytes)
{
    size_t at = 0;

    text[0] = '\0';
    for (const struct kvn_transport_entry *e = kvn_transports; e->name != NULL; ++e) {
        const int n = snprintf(text + at, bytes - at, "%s%s", at > 0 ? ", " : "", e->name);

        if (n < 0 || (size_t)n >= bytes - at)
            return;
        at += (size_t)n;
    }
}

kvw_err kvn_open(struct kvw_transport **t, const char *net, const struct kvn_config *cfg,
                 char why[KVN_WHY_BYTES])
{
    char names[KVN_WHY_BYTES / 2];

    why[0] = '\0';
    for (const struct kvn_transport_entry *e = kvn_transports; e->name != NULL; ++e)
        if (strcmp(e->name, net) == 0)
            return e->open(t, cfg, why);
    list_names(names, sizeof(names));
    snprintf(why, KVN_WHY_BYTES, "no transport '%.40s' in this build; there are: %s", net, names);
    return KVW_E_UNSUPPORTED;
}
