/* SPDX-License-Identifier: Apache-2.0 */
/* key_rules - print the tables of engine/keys.c for keys.py that a llama with a byte-level
 * vocabulary falls under: key, what is done about it, the one value that changes nothing. */
#include <stdio.h>

#include "../../engine/gguf/keys.h"

int main(void)
{
    static const char *const uses[] = {"read", "only", "empty", "no_effect"};
    static const char *const tables[] = {"general.", "llama.", KVE_KEYS_BPE};

    for (size_t t = 0; t < sizeof(tables) / sizeof(tables[0]); ++t) {
        size_t count;
        const struct kve_key_rule *rules = kve_key_rules(tables[t], &count);

        for (size_t i = 0; i < count; ++i)
            printf("%s %s %g\n", rules[i].key, uses[rules[i].use], rules[i].only);
    }
    return 0;
}
