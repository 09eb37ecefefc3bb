/* SPDX-License-Identifier: Apache-2.0 */
/* codec_name.c - the names of codecs, and which of them this library was built with. */
#include <string.h>

#include "options.h"

static const struct kvp_codec codecs[] = {
    {"auto", 0, KVW_BUDGET_EXACT},
    {"raw", KVW_CODEC_RAW, KVW_BUDGET_EXACT},
    {"lz4", KVW_CODEC_LZ4, KVW_BUDGET_EXACT},
    {"zstd", KVW_CODEC_ZSTD, KVW_BUDGET_EXACT},
    {"l0", KVW_CODEC_L0, KVW_BUDGET_EXACT},
    {"l8", KVW_CODEC_L8, KVW_BUDGET_EXACT},
    {"e8", KVW_CODEC_E8, KVW_BUDGET_E8},
    {"e4", KVW_CODEC_E4, KVW_BUDGET_E4},
    {"lz4_x", KVW_CODEC_LZ4_X, KVW_BUDGET_EXACT},
    {"zstd_x", KVW_CODEC_ZSTD_X, KVW_BUDGET_EXACT},
};

/* kvw_features() lists what was built: "...; codecs: l0 raw". */
static bool is_built(const char *name)
{
    const char *at = strstr(kvw_features(), "codecs:");
    const size_t n = strlen(name);

    while (at != NULL && (at = strstr(at + 1, name)) != NULL)
        if (at[-1] == ' ' && (at[n] == ' ' || at[n] == '\0' || at[n] == ';'))
            return true;
    return strcmp(name, "auto") == 0;
}

bool kvp_codec_by_name(struct kvp_codec *c, const char *name)
{
    for (size_t i = 0; i < sizeof(codecs) / sizeof(codecs[0]); ++i)
        if (strcmp(codecs[i].name, name) == 0 && is_built(name)) {
            *c = codecs[i];
            return true;
        }
    return false;
}

const char *kvp_codec_name(uint32_t id)
{
    for (size_t i = 1; i < sizeof(codecs) / sizeof(codecs[0]); ++i)
        if (codecs[i].id == id)
            return codecs[i].name;
    return "none";
}
