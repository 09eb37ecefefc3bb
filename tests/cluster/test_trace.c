/* SPDX-License-Identifier: Apache-2.0 */
/* Made traces have the published one's statistics; what a file says is read, spread and bent, or
 * refused with its line. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../engine/route/prompts.h"
#include "../../perf/cluster/trace.h"

enum {
    COUNT = 12000,
};

/* Of all blocks, those that a cache of so many would have had. */
static double hit(const struct kcl_trace *t, uint32_t blocks)
{
    struct kve_prompts_held p = {0};
    uint64_t had = 0;

    kve_prompts_held_limit(&p, blocks);
    for (uint32_t i = 0; i < t->count; ++i) {
        const struct kcl_arrival *a = &t->each[i];

        had += kve_prompts_held_match(&p, t->hash + a->hash, a->hashes);
        kve_prompts_held_add(&p, t->hash + a->hash, a->hashes);
    }
    kve_prompts_held_free(&p);
    return (double)had / t->hash_count;
}

static int compare(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

/* Published: 12,031 requests in 3,537 s, mean 12,035 and 343 tokens, p50 6,909, p90 27,367; hits of
 * an LRU of 1,000, 10,000 and all blocks 0.045, 0.212, 0.366. Each within a seventh of it, the last
 * a fifth. */
Test(trace, what_is_made_is_like_what_was_published)
{
    static uint32_t tokens[COUNT];
    struct kcl_trace t;
    double in = 0, out = 0;

    cr_assert(kcl_trace_make(&t, COUNT, 1));
    for (uint32_t i = 0; i < COUNT; ++i) {
        tokens[i] = t.each[i].tokens;
        in += t.each[i].tokens;
        out += t.each[i].answer;
    }
    qsort(tokens, COUNT, sizeof(*tokens), compare);
    cr_expect_float_eq(t.each[COUNT - 1].at_ns / 1e9, 3529, 150);
    cr_expect_float_eq(in / COUNT, 12035, 1000);
    cr_expect_float_eq(out / COUNT, 343, 15);
    cr_expect_float_eq((double)tokens[COUNT / 2], 6909, 700);
    cr_expect_float_eq((double)tokens[COUNT / 10 * 9], 27367, 3000);
    cr_expect_float_eq(hit(&t, 1000), 0.045, 0.007);
    cr_expect_float_eq(hit(&t, 10000), 0.212, 0.03);
    cr_expect_float_eq(hit(&t, UINT32_MAX), 0.366, 0.07);
    kcl_trace_free(&t);
}

Test(trace, a_seed_makes_the_same_again_and_another_does_not)
{
    struct kcl_trace a, b, c;

    cr_assert(kcl_trace_make(&a, 500, 7) && kcl_trace_make(&b, 500, 7) &&
              kcl_trace_make(&c, 500, 8));
    cr_expect_eq(a.hash_count, b.hash_count);
    cr_expect_eq(memcmp(a.each, b.each, 500 * sizeof(*a.each)), 0);
    cr_expect_neq(memcmp(a.each, c.each, 500 * sizeof(*a.each)), 0);
    kcl_trace_free(&a);
    kcl_trace_free(&b);
    kcl_trace_free(&c);
}

/* A file of these lines, read. */
static bool load(struct kcl_trace *t, const char *lines, char why[KCL_WHY])
{
    char path[] = "/tmp/kcl-trace-XXXXXX";
    const int fd = mkstemp(path);
    bool ok;

    cr_assert(fd >= 0 && write(fd, lines, strlen(lines)) == (ssize_t)strlen(lines));
    close(fd);
    ok = kcl_trace_load(t, path, why);
    unlink(path);
    return ok;
}

#define LINE(at, ids)                                                                              \
    "{\"timestamp\": " #at ", \"input_length\": 1000, \"output_length\": 5, \"hash_ids\": [" ids   \
    "]}\n"

Test(trace, those_of_one_time_are_spread_until_the_next)
{
    struct kcl_trace t;
    char why[KCL_WHY];

    cr_assert(load(&t, LINE(0, "0, 1") LINE(0, "0, 2") "\n" LINE(3000, "5"), why), "%s", why);
    cr_assert_eq(t.count, 3);
    cr_expect_eq(t.each[1].at_ns, 1500000000u);
    cr_expect_eq(t.each[2].at_ns, 3000000000u);
    cr_expect_eq(t.hash[t.each[1].hash + 1], 2);
    cr_expect_eq(t.each[2].hashes, 1);

    const struct kcl_bend b = {.speed = 2, .input = 2, .answer = 0.2, .copies = 2};
    struct kcl_trace bent = kcl_trace_bend(&t, &b);

    cr_assert_eq(bent.count, 6);
    cr_expect_eq(bent.each[1].at_ns, 375000000u, "half way to the next, at twice the speed");
    cr_expect_eq(bent.each[0].tokens, 2000);
    cr_expect_eq(bent.each[0].hashes, 4);
    cr_expect_eq(bent.each[0].answer, 1);
    cr_expect_eq(bent.hash[bent.each[0].hash], bent.hash[bent.each[2].hash],
                 "the same first block");
    cr_expect_neq(bent.hash[bent.each[0].hash + 2], bent.hash[bent.each[2].hash + 2]);
    cr_expect_neq(bent.hash[bent.each[0].hash], bent.hash[bent.each[1].hash],
                  "a copy's are its own");
    kcl_trace_free(&bent);
    kcl_trace_free(&t);
}

Test(trace, a_bad_line_is_refused_by_its_number)
{
    static const char *const bad[] = {
        LINE(5, "1") LINE(4, "1"),
        LINE(0, "1") "{\"timestamp\": 1, \"input_length\": 0, \"output_length\": 5, \"hash_ids\": "
                     "[]}\n",
        LINE(0, "1") "{\"timestamp\": 1, \"input_length\": 9, \"output_length\": 5}\n",
        LINE(0, "1") "[1]\n",
        LINE(0, "1") "no JSON\n",
    };
    struct kcl_trace t;
    char why[KCL_WHY];

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); ++i) {
        cr_expect_not(load(&t, bad[i], why), "%zu", i);
        cr_expect_not_null(strstr(why, "line 2"), "%zu: %s", i, why);
    }
    cr_expect_not(load(&t, "\n", why));
    cr_expect_not(kcl_trace_load(&t, "/nowhere/trace", why));
}
