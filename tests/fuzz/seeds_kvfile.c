/* SPDX-License-Identifier: Apache-2.0 */
/* Writes sound files of K and V, of each budget: seeds_kvfile FOLDER. fuzz_kvfile begins there. */
#include <stdio.h>

#include "../../engine/kernels/half.h"
#include "../../engine/model/kvcache.h"
#include "../../engine/session/kvfile.h"

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        uint32_t count, first;
        kvw_budget budget;
    } seeds[] = {{"session", 9, 0, KVW_BUDGET_EXACT},
                 {"piece", 16, 8, KVW_BUDGET_EXACT},
                 {"e8", 40, 0, KVW_BUDGET_E8},
                 {"e4", 40, 0, KVW_BUDGET_E4}};
    const struct kve_owner owner = {.model = "Tiny", .kernels = "scalar", .cut = 8};
    uint32_t ids[10], tokens[40], state = 7;
    struct kve_kvcache kv;

    if (argc != 2 || kve_kvcache_open(&kv, 2, 1, 8, 4, 10) != KVW_OK)
        return 1;
    for (uint32_t i = 0; i < 10; ++i)
        ids[i] = i;
    for (uint32_t i = 0; i < 40; ++i)
        tokens[i] = 5 * i + 1;
    for (uint64_t i = 0; i < kv.pool.mem.bytes / 2; ++i) {
        state = state * 1664525u + 1013904223u;
        ((uint16_t *)kv.pool.mem.base)[i] = kve_f32_to_bf16((float)(int32_t)state / 2147483648.0f);
    }
    for (size_t i = 0; i < sizeof(seeds) / sizeof(seeds[0]); ++i) {
        const struct kve_kvpart part = {.owner = &owner,
                                        .pool = &kv.pool,
                                        .blocks = ids,
                                        .tokens = tokens,
                                        .count = seeds[i].count,
                                        .first = seeds[i].first,
                                        .budget = seeds[i].budget,
                                        .exact_first = 2,
                                        .exact_last = 2};
        char path[4096], why[KVE_WHY_BYTES];
        struct kve_kvsaved saved;

        snprintf(path, sizeof(path), "%s/%s", argv[1], seeds[i].name);
        if (kve_kvfile_save(path, &part, &saved, why) != KVW_OK) {
            fprintf(stderr, "%s\n", why);
            return 1;
        }
    }
    kve_kvcache_close(&kv);
    return 0;
}
