/* SPDX-License-Identifier: Apache-2.0 */
/* kvperf's caches: what is filled in one layout and order is found again in it, each byte of it
 * counts, and no entry is as another one is. */
#include <criterion/criterion.h>
#include <string.h>

#include "../../perf/kvperf/cache.h"

static struct kvp_geometry geometry_of(const char *name, const char *dtype)
{
    struct kvp_geometry g;
    char why[KVP_WHY] = "";

    cr_assert(kvp_geometry_preset(&g, name, why) && kvp_geometry_retype(&g, dtype, why), "%s", why);
    cr_assert(kvp_geometry_check(&g, why), "%s", why);
    return g;
}

static void make(struct kvp_cache *c, struct kvp_payload *p, const struct kvp_geometry *g,
                 enum kvp_layout layout)
{
    const struct kvp_cache_config cfg = {.geometry = g,
                                         .tokens = 200,
                                         .requests = 2,
                                         .block_tokens = 16,
                                         .layout = layout,
                                         .seed = 5};
    char why[KVP_WHY] = "";

    cr_assert(kvp_cache_make(c, &cfg, why), "%s", why);
    cr_assert(kvp_payload_make(p, g, KVP_PAYLOAD_RECORDED, 9, NULL, why), "%s", why);
}

/* Every preset's bytes per token are those that its shape says. */
Test(geometry, bytes_of_a_token)
{
    static const struct {
        const char *name, *dtype;
        uint64_t bytes; /* of one token */
    } known[] = {
        {"llama-3.1-8b", "bf16", 131072},   {"llama-3.1-8b", "fp8", 65536},
        {"llama-3.1-8b", "nvfp4", 36864},   {"llama-3.1-70b", "bf16", 327680},
        {"llama-3.1-405b", "bf16", 516096}, {"qwen3-235b", "bf16", 192512},
        {"deepseek-v3", "bf16", 70272},     {"smollm2-135m", "bf16", 23040},
        {"gpt-oss-120b", "bf16", 73728},
    };

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); ++i) {
        const struct kvp_geometry g = geometry_of(known[i].name, known[i].dtype);

        cr_expect_eq(kvp_geometry_bytes(&g, 1), known[i].bytes, "%s %s: %llu", known[i].name,
                     known[i].dtype, (unsigned long long)kvp_geometry_bytes(&g, 1));
    }
    /* Half of gpt-oss' layers hold 128 tokens at most. */
    const struct kvp_geometry g = geometry_of("gpt-oss-120b", "bf16");

    cr_expect_eq(kvp_geometry_bytes(&g, 1000), 18ull * 2048 * (1000 + 128));
}

Test(geometry, json_and_back_is_the_same)
{
    for (uint32_t i = 0; kvp_geometry_preset_name(i) != NULL; ++i) {
        const struct kvp_geometry g = geometry_of(kvp_geometry_preset_name(i), "nvfp4");
        cJSON *json = kvp_geometry_to_json(&g);
        struct kvp_geometry back;
        char why[KVP_WHY] = "";

        cr_expect(kvp_geometry_from_json(&back, json, why), "%s: %s", g.name, why);
        cr_expect_eq(kvp_geometry_bytes(&back, 777), kvp_geometry_bytes(&g, 777), "%s", g.name);
        cJSON_Delete(json);
    }
}

Test(cache, what_was_filled_is_found_and_a_flipped_bit_is_seen)
{
    static const char *const names[] = {"smollm2-135m", "gpt-oss-120b", "deepseek-v4-like"};

    for (uint32_t n = 0; n < 3; ++n)
        for (uint32_t layout = 0; layout < 3; ++layout)
            for (uint32_t shuffled = 0; shuffled < 2; ++shuffled) {
                const struct kvp_geometry g = geometry_of(names[n], "bf16");
                struct kvp_cache c;
                struct kvp_payload p;

                make(&c, &p, &g, (enum kvp_layout)layout);
                kvp_cache_spoil(&c, 0, 200, shuffled);
                kvp_cache_fill(&c, &p, 0, 200, shuffled);
                kvp_cache_fill(&c, &p, 1, 150, shuffled);
                cr_expect_eq(kvp_cache_check(&c, &p, 0, 200, shuffled).bytes,
                             kvp_geometry_bytes(&g, 200));
                cr_expect_eq(kvp_cache_check(&c, &p, 0, 200, shuffled).wrong, 0);
                cr_expect_eq(kvp_cache_check(&c, &p, 1, 150, shuffled).wrong, 0);
                kvp_cache_flip(&c, 0, 200, shuffled);
                cr_expect_eq(kvp_cache_check(&c, &p, 0, 200, shuffled).wrong, 1);
                cr_expect_eq(kvp_cache_check(&c, &p, 1, 150, shuffled).wrong, 0);
                cr_expect_gt(kvp_cache_check(&c, &p, 0, 200, !shuffled).wrong, 1000);
                kvp_cache_spoil(&c, 0, 200, shuffled);
                cr_expect_gt(kvp_cache_check(&c, &p, 0, 200, shuffled).wrong,
                             kvp_geometry_bytes(&g, 200) / 2);
                cr_expect_eq(kvp_cache_check(&c, &p, 1, 150, shuffled).wrong, 0);
                kvp_payload_free(&p);
                kvp_cache_free(&c);
            }
}

Test(payload, no_entry_is_as_another)
{
    const struct kvp_geometry g = geometry_of("smollm2-135m", "bf16");
    unsigned char one[384], other[384];
    struct kvp_payload p;
    char why[KVP_WHY] = "";

    cr_assert(kvp_payload_make(&p, &g, KVP_PAYLOAD_RECORDED, 3, NULL, why));
    kvp_payload_entry(&p, (struct kvp_entry_id){0, 0, 0, 7, 11}, one);
    const struct kvp_entry_id others[] = {
        {1, 0, 0, 7, 11}, {0, 0, 1, 7, 11}, {0, 0, 0, 8, 11}, {0, 0, 0, 7, 12}};

    for (uint32_t i = 0; i < 4; ++i) {
        uint32_t same = 0;

        kvp_payload_entry(&p, others[i], other);
        for (uint32_t k = 0; k < sizeof(one); k += 2)
            same += one[k] == other[k]; /* the byte with the mantissa: of 128, one by chance */
        cr_expect_lt(same, 20, "%u: %u of 192", i, same);
    }
    kvp_payload_entry(&p, (struct kvp_entry_id){0, 0, 0, 7, 11}, other);
    cr_expect_eq(memcmp(one, other, sizeof(one)), 0);
    kvp_payload_free(&p);
}
