/* SPDX-License-Identifier: Apache-2.0 */
/* A sound GGUF file reads as written; an unsound one is refused with the reason, and never read
 * out of bounds. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

#include "gguf_bad.h"

static bool is(struct kve_str s, const char *text)
{
    return s.bytes == strlen(text) && memcmp(s.at, text, s.bytes) == 0;
}

Test(gguf, keys_read_as_written)
{
    struct gb b = {0};
    struct kve_gguf *g;
    char why[KVE_WHY_BYTES];
    uint64_t v = 0;
    bool yes = false;
    float f = 0;
    struct kve_str s = {0};

    build_sound(&b);
    cr_assert_eq(kve_gguf_open_bytes(&g, b.file.at, b.file.bytes, why), KVW_OK, "%s", why);
    cr_expect(kve_gguf_str(g, "general.architecture", &s) == KVW_OK && is(s, "llama"));
    cr_expect(kve_gguf_u64(g, "u32", &v) == KVW_OK && v == 4000000000u);
    cr_expect(kve_gguf_u64(g, "u64", &v) == KVW_OK && v == UINT64_C(1) << 60);
    cr_expect(kve_gguf_u64(g, "u8", &v) == KVW_OK && v == 254);
    cr_expect(kve_gguf_u64(g, "i16", &v) == KVW_OK && v == 0x201);
    cr_expect(kve_gguf_f32(g, "f32", &f) == KVW_OK && f == 1.5f);
    cr_expect(kve_gguf_f32(g, "f64", &f) == KVW_OK && f == 0.5f);
    cr_expect(kve_gguf_bool(g, "yes", &yes) == KVW_OK && yes);

    /* What can't be read as asked leaves the value. */
    v = 5;
    cr_expect_eq(kve_gguf_u64(g, "i8", &v), KVW_E_FORMAT, "-2 is no u64");
    cr_expect_eq(kve_gguf_u64(g, "i32", &v), KVW_E_FORMAT, "-7 is no u64");
    cr_expect_eq(kve_gguf_u64(g, "f32", &v), KVW_E_FORMAT);
    cr_expect_eq(kve_gguf_u64(g, "yes", &v), KVW_E_FORMAT);
    cr_expect_eq(kve_gguf_u64(g, "numbers", &v), KVW_E_FORMAT);
    cr_expect_eq(kve_gguf_u64(g, "none", &v), KVW_E_NOTFOUND);
    cr_expect_eq(v, 5);
    cr_expect_eq(kve_gguf_f32(g, "u32", &f), KVW_E_FORMAT);
    cr_expect_eq(kve_gguf_bool(g, "u8", &yes), KVW_E_FORMAT);
    cr_expect_eq(kve_gguf_str(g, "words", &s), KVW_E_FORMAT);
    kve_gguf_close(g);
    gb_free(&b);
}

Test(gguf, arrays_read_as_written)
{
    struct gb b = {0};
    struct kve_gguf *g;
    char why[KVE_WHY_BYTES];
    uint64_t n = 9;
    int64_t i = 0;
    float f = 0;
    struct kve_str s = {0};

    build_sound(&b);
    cr_assert_eq(kve_gguf_open_bytes(&g, b.file.at, b.file.bytes, why), KVW_OK, "%s", why);
    cr_expect(kve_gguf_array_count(g, "words", &n) == KVW_OK && n == 3);
    cr_expect(kve_gguf_array_str(g, "words", 0, &s) == KVW_OK && is(s, "one"));
    cr_expect(kve_gguf_array_str(g, "words", 1, &s) == KVW_OK && is(s, ""));
    cr_expect(kve_gguf_array_str(g, "words", 2, &s) == KVW_OK && is(s, "three"));
    cr_expect_eq(kve_gguf_array_str(g, "words", 3, &s), KVW_E_INVALID);
    cr_expect_eq(kve_gguf_array_str(g, "numbers", 0, &s), KVW_E_FORMAT);
    cr_expect(kve_gguf_array_i64(g, "numbers", 0, &i) == KVW_OK && i == -1);
    cr_expect(kve_gguf_array_i64(g, "numbers", 1, &i) == KVW_OK && i == 9);
    cr_expect_eq(kve_gguf_array_i64(g, "words", 0, &i), KVW_E_FORMAT);
    cr_expect(kve_gguf_array_f32(g, "floats", 1, &f) == KVW_OK && f == -2);
    cr_expect(kve_gguf_array_count(g, "nothing", &n) == KVW_OK && n == 0);
    cr_expect_eq(kve_gguf_array_str(g, "nothing", 0, &s), KVW_E_INVALID);
    cr_expect_eq(kve_gguf_array_count(g, "u32", &n), KVW_E_FORMAT);
    cr_expect_eq(kve_gguf_array_count(g, "none", &n), KVW_E_NOTFOUND);
    kve_gguf_close(g);
    gb_free(&b);
}

Test(gguf, tensors_lie_where_the_file_says)
{
    struct gb b = {0};
    struct kve_gguf *g;
    char why[KVE_WHY_BYTES];
    uint64_t bytes;

    build_sound(&b);
    cr_assert_eq(kve_gguf_open_bytes(&g, b.file.at, b.file.bytes, why), KVW_OK, "%s", why);
    cr_assert_eq(kve_gguf_tensor_count(g), 2);
    const struct kve_tensor *norm = kve_gguf_tensor_by_name(g, "norm.weight");
    const struct kve_tensor *w = kve_gguf_tensor_by_name(g, "w.weight");
    cr_assert(norm == kve_gguf_tensor(g, 0) && w == kve_gguf_tensor(g, 1));
    cr_expect(norm->type == KVE_TYPE_F32 && norm->dims == 1 && norm->ne[0] == 8 &&
              norm->ne[1] == 1 && norm->bytes == 32);
    cr_expect_eq(((const float *)norm->at)[7], 8.0f);
    cr_expect(w->type == KVE_TYPE_Q4_1 && w->dims == 2 && w->ne[1] == 3 && w->bytes == 120);
    cr_expect_eq((const uint8_t *)w->at, (const uint8_t *)norm->at + 32);
    cr_expect_eq((const uint8_t *)w->at + w->bytes, b.file.at + b.file.bytes);
    cr_expect_null(kve_gguf_tensor_by_name(g, "w"));
    cr_expect_null(kve_gguf_tensor(g, 2));
    cr_expect(kve_gguf_bytes(g, 0, &bytes) == b.file.at && bytes == b.file.bytes);
    kve_gguf_close(g);
    gb_free(&b);
}

Test(gguf, an_unsound_file_is_refused_with_the_reason)
{
    for (size_t i = 0; i < sizeof(unsound) / sizeof(unsound[0]); ++i) {
        struct kve_gguf *const untouched = (struct kve_gguf *)&unsound, *g = untouched;
        char why[KVE_WHY_BYTES] = "";
        struct gb b = {0};

        unsound[i].build(&b);
        const kvw_err err = kve_gguf_open_bytes(&g, b.file.at, b.file.bytes, why);
        cr_expect_eq(err, KVW_E_FORMAT, "%s: %d", unsound[i].name, err);
        cr_expect(strstr(why, unsound[i].word) != NULL, "%s: \"%s\" has no \"%s\"", unsound[i].name,
                  why, unsound[i].word);
        cr_expect(strstr(why, "byte") != NULL, "%s: \"%s\" says not where", unsound[i].name, why);
        cr_expect_eq(g, untouched, "%s", unsound[i].name);
        gb_free(&b);
    }
}

/* Copies of exactly the size, so that the sanitizer sees the first byte read past the end. */
Test(gguf, every_prefix_is_refused)
{
    struct gb b = {0};

    build_sound(&b);
    for (size_t n = 0; n < b.file.bytes; ++n) {
        uint8_t *part = malloc(n + 1);
        char why[KVE_WHY_BYTES] = "";
        struct kve_gguf *g;

        memcpy(part, b.file.at, n);
        part = realloc(part, n == 0 ? 1 : n);
        cr_expect_eq(kve_gguf_open_bytes(&g, part, n, why), KVW_E_FORMAT, "%zu bytes", n);
        free(part);
    }
    gb_free(&b);
}

/* The same without tensors: the file ends with a key's value, and nothing after it is looked at. */
Test(gguf, a_value_cut_off_at_the_end_of_the_file)
{
    struct gb b = {0};
    char why[KVE_WHY_BYTES];
    struct kve_gguf *g;

    gb_key_str(&b, "text", "the end");
    gb_finish(&b);
    cr_assert_eq(kve_gguf_open_bytes(&g, b.file.at, b.file.bytes, why), KVW_OK, "%s", why);
    kve_gguf_close(g);
    for (size_t n = 0; n < b.file.bytes; ++n)
        cr_expect_eq(kve_gguf_open_bytes(&g, b.file.at, n, why), KVW_E_FORMAT, "%zu bytes", n);
    gb_free(&b);
}

/* The last value inside of each range opens, the first one outside of it doesn't. */
Test(gguf, ranges_end_where_they_say)
{
    static const struct {
        uint32_t alignment;
        kvw_err err;
    } rows[] = {{4, KVW_E_FORMAT}, {8, KVW_OK}, {1 << 20, KVW_OK}, {1 << 21, KVW_E_FORMAT}};
    static char name[65538];
    char why[KVE_WHY_BYTES];
    struct kve_gguf *g;

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i) {
        struct gb b = {0};

        gb_key_u32(&b, "general.alignment", rows[i].alignment);
        gb_finish(&b);
        cr_expect_eq(kve_gguf_open_bytes(&g, b.file.at, b.file.bytes, why), rows[i].err, "%u: %s",
                     rows[i].alignment, why);
        if (rows[i].err == KVW_OK)
            kve_gguf_close(g);
        gb_free(&b);
    }
    memset(name, 'k', sizeof(name) - 1);
    for (size_t n = 65535; n <= 65536; ++n) {
        struct gb b = {0};

        gb_key_u32(&b, name + (sizeof(name) - 1 - n), 1);
        gb_finish(&b);
        cr_expect_eq(kve_gguf_open_bytes(&g, b.file.at, b.file.bytes, why),
                     n == 65535 ? KVW_OK : KVW_E_FORMAT, "%zu", n);
        if (n == 65535)
            kve_gguf_close(g);
        gb_free(&b);
    }
}

/* Whatever a damaged file says, all that opens can be read to its last byte. */
Test(gguf, damage_never_leads_out_of_the_file)
{
    uint64_t random = 88172645463325252u, opened = 0, sum = 0;
    struct gb b = {0};

    build_sound(&b);
    for (int round = 0; round < 20000; ++round) {
        uint8_t *copy = malloc(b.file.bytes);
        char why[KVE_WHY_BYTES];
        struct kve_gguf *g;

        memcpy(copy, b.file.at, b.file.bytes);
        for (int i = 0; i < 1 + round % 3; ++i) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            copy[random % b.file.bytes] = (uint8_t)(random >> 32);
        }
        if (kve_gguf_open_bytes(&g, copy, b.file.bytes, why) == KVW_OK) {
            ++opened;
            for (uint64_t i = 0; i < kve_gguf_tensor_count(g); ++i) {
                const struct kve_tensor *t = kve_gguf_tensor(g, i);
                for (uint64_t j = 0; j < t->bytes; ++j)
                    sum += ((const uint8_t *)t->at)[j];
            }
            kve_gguf_close(g);
        }
        free(copy);
    }
    cr_log_info("%" PRIu64 " of 20000 opened, sum %" PRIu64 "\n", opened, sum);
    cr_expect_gt(opened, 100, "the test reads too little: %" PRIu64, opened);
    gb_free(&b);
}

Test(gguf, a_file_is_opened_by_name)
{
    char path[] = "gguf_test_XXXXXX", why[KVE_WHY_BYTES] = "";
    struct gb b = {0};
    struct kve_gguf *g;

    close(mkstemp(path));
    cr_expect_eq(kve_gguf_open(&g, path, why), KVW_E_FORMAT);
    cr_expect(strstr(why, path) != NULL && strstr(why, "empty") != NULL, "%s", why);
    build_sound(&b);
    gb_save(&b, path);
    cr_expect_eq(kve_gguf_open(&g, path, why), KVW_OK, "%s", why);
    cr_expect_eq(kve_gguf_tensor_count(g), 2);
    kve_gguf_close(g);
    unlink(path);
    cr_expect_eq(kve_gguf_open(&g, path, why), KVW_E_IO);
    cr_expect(strstr(why, "No such file") != NULL, "%s", why);
    cr_expect_eq(kve_gguf_open(&g, ".", why), KVW_E_IO);
    gb_free(&b);
}

Test(gguf, other_alignments)
{
    char why[KVE_WHY_BYTES] = "";
    struct gb b = {.alignment = 64};
    struct kve_gguf *g;

    gb_key_u32(&b, "general.alignment", 64);
    gb_tensor(&b, "a", 0, 1, (uint64_t[]){1}, NULL, 4);
    gb_tensor(&b, "b", 0, 1, (uint64_t[]){1}, NULL, 4);
    gb_finish(&b);
    cr_assert_eq(kve_gguf_open_bytes(&g, b.file.at, b.file.bytes, why), KVW_OK, "%s", why);
    cr_expect_eq((const uint8_t *)kve_gguf_tensor(g, 1)->at,
                 (const uint8_t *)kve_gguf_tensor(g, 0)->at + 64);
    kve_gguf_close(g);
    cr_expect_eq(kve_gguf_open_bytes(&g, b.file.at + 1, b.file.bytes - 1, why), KVW_E_INVALID);
    gb_free(&b);
}

/* 50,000 keys and strings: finding duplicates and elements must not go through them all. */
Test(gguf, many_keys_and_strings, .timeout = 10)
{
    char why[KVE_WHY_BYTES] = "", name[32];
    struct gb b = {0};
    struct kve_gguf *g;
    struct kve_str s;

    for (int i = 0; i < 50000; ++i) {
        snprintf(name, sizeof(name), "key.%d", i * 7919 % 50000);
        gb_key_u32(&b, name, (uint32_t)i);
    }
    struct gb_buf *k = gb_key_array(&b, "strings", 8, 50000);
    for (int i = 0; i < 50000; ++i) {
        snprintf(name, sizeof(name), "%d", i);
        gb_string(k, name, strlen(name));
    }
    gb_finish(&b);
    cr_assert_eq(kve_gguf_open_bytes(&g, b.file.at, b.file.bytes, why), KVW_OK, "%s", why);
    for (uint64_t i = 50000; i-- > 0;) {
        snprintf(name, sizeof(name), "%" PRIu64, i);
        cr_assert(kve_gguf_array_str(g, "strings", i, &s) == KVW_OK && is(s, name));
    }
    kve_gguf_close(g);
    gb_free(&b);
}

Test(type, sizes_and_names)
{
    cr_expect_eq(kve_type_info(KVE_TYPE_Q6_K)->block_bytes, 210);
    cr_expect_eq(kve_type_info(KVE_TYPE_Q5_1)->block_bytes, 24);
    cr_expect_str_eq(kve_type_info(KVE_TYPE_BF16)->name, "BF16");
    cr_expect_null(kve_type_info(4)->name);
    cr_expect_null(kve_type_info(20)->name);
    cr_expect_null(kve_type_info(UINT32_MAX)->name);
    cr_expect_str_eq(kve_type_name(39), "MXFP4");
    cr_expect_null(kve_type_name(43));
}
