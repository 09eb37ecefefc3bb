/* SPDX-License-Identifier: Apache-2.0 */
/* arch.c - the architectures that are run, a line each. */
#include "arch.h"

#include <stdio.h>
#include <string.h>

extern const struct kve_arch kve_arch_llama, kve_arch_qwen2, kve_arch_qwen3, kve_arch_gemma3;

const struct kve_arch *const kve_archs[] = {
    &kve_arch_llama, &kve_arch_qwen2, &kve_arch_qwen3, &kve_arch_gemma3, NULL,
};

kvw_err kve_arch_of(const struct kve_arch **arch, const struct kve_gguf *g, char why[KVE_WHY_BYTES])
{
    struct kve_str s;
    size_t at;

    if (kve_gguf_str(g, "general.architecture", &s) != KVW_OK) {
        snprintf(why, KVE_WHY_BYTES, "general.architecture is missing or isn't a string");
        return KVW_E_FORMAT;
    }
    for (uint32_t i = 0; kve_archs[i] != NULL; ++i)
        if (kve_str_is(s, kve_archs[i]->name)) {
            *arch = kve_archs[i];
            return KVW_OK;
        }
    snprintf(why, KVE_WHY_BYTES,
             "general.architecture is \"%.*s\"; these are run:", s.bytes > 64 ? 64 : (int)s.bytes,
             s.at);
    for (uint32_t i = 0; kve_archs[i] != NULL; ++i) {
        at = strlen(why);
        snprintf(why + at, KVE_WHY_BYTES - at, "%s \"%s\"", i == 0 ? "" : ",", kve_archs[i]->name);
    }
    kve_why_clean(why);
    return KVW_E_UNSUPPORTED;
}
