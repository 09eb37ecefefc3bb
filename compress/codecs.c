/* SPDX-License-Identifier: Apache-2.0 */
#include "compress.h"

#include <string.h>

const struct kvw_codec_ops *kvc_codec_by_name(const char *name)
{
    for (uint32_t i = 0; kvc_codecs[i] != NULL; ++i)
        if (strcmp(kvc_codecs[i]->name, name) == 0)
            return kvc_codecs[i];
    return NULL;
}
