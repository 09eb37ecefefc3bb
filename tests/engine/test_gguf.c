/* SPDX-License-Identifier: Apache-2.0 */
/* A sound GGUF file reads as written; an unsound one is refused with the reason, and never read
 * out of bounds. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

#include "gguf_build.h"

/* A file with a key of each kind and two tensors. */
static void build_sound(struct gb *b)
{
    const float weights[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    struct gb_buf *k;

    gb_key_str(b, "general.architecture", "llama");
    gb_key_u32(b, "u32", 4000000000u);
    gb_key_u64(b, "u64", UINT64_C(1) << 60);
    gb_key_f32(b, "f32", 1.5f);
    gb_key_bool(b, "yes", 1);
    gb_raw(gb_key(b, "u8", 0), "\xfe", 1);
    gb_raw(gb_key(b, "i8", 1), "\xfe", 1);
    gb_raw(gb_key(b, "i16", 3), "\x01\x02", 2);
    gb_u32(gb_key(b, "i32", 5), (uint32_t)-7);
    gb_u64(gb_key(b, "f64", 12), UINT64_C(0x3fe0000000000000)); /* 0.5 */
    k = gb_key_array(b, "words", 8, 3);
    gb_string(k, "one", 3);
    gb_string(k, "", 0);
    gb_string(k, "three", 5);
    k = gb_key_array(b, "numbers", 5, 2);
    gb_u32(k, (uint32_t)-1);
    gb_u32(k, 9);
    k = gb_key_array(b, "floats", 6, 2);
    gb_f32(k, 0.25f);
    gb_f32(k, -2);
    gb_key_array(b, "nothing", 8, 0);
    gb_tensor(b, "norm.weight", KVE_TYPE_F32, 1, (uint64_t[]){8}, weights, sizeof(weights));
    gb_tensor(b, "w.weight", KVE_TYPE_Q4_1, 2, (uint64_t[]){64, 3}, NULL, 2 * 20 * 3);
    gb_finish(b);
}

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
    cr_expect(kve_gguf_bytes(g, &bytes) == b.file.at && bytes == b.file.bytes);
    kve_gguf_close(g);
    gb_free(&b);
}

/* ---- files that are refused, and a word that the sentence must have ---- */

static void no_magic(struct gb *b)
{
    gb_finish(b);
    b->file.at[0] = 'g';
}

static void version_1(struct gb *b)
{
    b->version = 1;
    gb_finish(b);
}

static void version_4(struct gb *b)
{
    b->version = 4;
    gb_finish(b);
}

static void version_0(struct gb *b)
{
    gb_finish(b);
    memset(b->file.at + 4, 0, 4);
}

static void big_endian(struct gb *b)
{
    b->version = 3u << 24;
    gb_finish(b);
}

static void tensor_count_huge(struct gb *b)
{
    b->tensor_count_extra = UINT64_MAX / 2;
    gb_finish(b);
}

static void key_count_huge(struct gb *b)
{
    b->key_count_extra = UINT64_C(1) << 62;
    gb_finish(b);
}

static void key_count_one_more(struct gb *b)
{
    gb_key_u32(b, "a", 1);
    b->key_count_extra = 1;
    gb_finish(b);
    gb_raw(&b->file, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 15);
}

static void key_twice(struct gb *b)
{
    gb_key_u32(b, "first", 1);
    gb_key_u32(b, "same", 1);
    gb_key_u32(b, "other", 1);
    gb_key_u32(b, "same", 2);
    gb_finish(b);
}

static void key_type_unknown(struct gb *b)
{
    gb_u64(gb_key(b, "odd.key", 13), 0);
    gb_finish(b);
}

static void key_too_long(struct gb *b)
{
    char name[70001];

    memset(name, 'k', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    gb_key_u32(b, name, 1);
    gb_finish(b);
}

static void key_length_huge(struct gb *b)
{
    gb_key_u32(b, "a", 1);
    gb_finish(b);
    memset(b->file.at + 24, 0xff, 8);
}

static void string_too_long(struct gb *b)
{
    gb_u64(gb_key(b, "text", 8), UINT64_C(1) << 40);
    gb_finish(b);
}

static void bool_is_two(struct gb *b)
{
    gb_key_bool(b, "flag", 2);
    gb_finish(b);
}

static void array_nested(struct gb *b)
{
    gb_key_array(b, "deep", 9, 1);
    gb_finish(b);
}

static void array_type_unknown(struct gb *b)
{
    gb_key_array(b, "list", 77, 1);
    gb_finish(b);
}

static void array_count_huge(struct gb *b)
{
    gb_u64(gb_key_array(b, "list", 10, UINT64_MAX / 8 + 2), 0);
    gb_finish(b);
}

static void array_strings_huge(struct gb *b)
{
    gb_u64(gb_key_array(b, "list", 8, UINT64_C(1) << 61), 0);
    gb_finish(b);
}

static void array_strings_cut(struct gb *b)
{
    gb_string(gb_key_array(b, "list", 8, 2), "12345678", 8);
    gb_finish(b);
}

static void alignment_not_u32(struct gb *b)
{
    gb_key_u64(b, "general.alignment", 32);
    gb_finish(b);
}

static void alignment_odd(struct gb *b)
{
    gb_key_u32(b, "general.alignment", 48);
    gb_finish(b);
}

static void alignment_zero(struct gb *b)
{
    gb_key_u32(b, "general.alignment", 0);
    gb_finish(b);
}

static void split_file(struct gb *b)
{
    gb_raw(gb_key(b, "split.count", 2), "\x03\x00", 2);
    gb_finish(b);
}

static void one_tensor(struct gb *b, uint32_t type, uint32_t dims, const uint64_t *ne, size_t n)
{
    gb_tensor(b, "the.tensor", type, dims, ne, NULL, n);
    gb_finish(b);
}

static void dims_0(struct gb *b)
{
    one_tensor(b, 0, 0, NULL, 4);
}

static void dims_5(struct gb *b)
{
    one_tensor(b, 0, 5, (uint64_t[]){1, 1, 1, 1, 1}, 4);
}

static void dim_zero(struct gb *b)
{
    one_tensor(b, 0, 2, (uint64_t[]){8, 0}, 32);
}

static void elements_overflow(struct gb *b)
{
    one_tensor(b, 0, 3, (uint64_t[]){UINT64_C(1) << 32, UINT64_C(1) << 32, 2}, 32);
}

static void element_negative(struct gb *b)
{
    one_tensor(b, 0, 1, (uint64_t[]){UINT64_MAX}, 32);
}

static void type_unknown(struct gb *b)
{
    one_tensor(b, 1000, 1, (uint64_t[]){32}, 32);
}

static void type_not_ours(struct gb *b)
{
    one_tensor(b, 20, 1, (uint64_t[]){32}, 18);
}

static void row_not_blocks(struct gb *b)
{
    one_tensor(b, KVE_TYPE_Q4_K, 2, (uint64_t[]){576, 4}, 144 * 9);
}

static void offset_not_sum(struct gb *b)
{
    gb_tensor(b, "first", 0, 1, (uint64_t[]){8}, NULL, 32);
    gb_info(b, "second", 0, 1, (uint64_t[]){8}, 64);
    gb_finish(b);
    gb_raw(&b->file, b->file.at, 64);
}

static void offsets_swapped(struct gb *b)
{
    gb_info(b, "first", 0, 1, (uint64_t[]){8}, 32);
    gb_info(b, "second", 0, 1, (uint64_t[]){8}, 0);
    gb_finish(b);
    gb_raw(&b->file, b->file.at, 64);
}

static void tensor_twice(struct gb *b)
{
    gb_tensor(b, "same", 0, 1, (uint64_t[]){8}, NULL, 32);
    gb_tensor(b, "other", 0, 1, (uint64_t[]){8}, NULL, 32);
    gb_tensor(b, "same", 0, 1, (uint64_t[]){8}, NULL, 32);
    gb_finish(b);
}

static void tensor_name_64(struct gb *b)
{
    gb_tensor(b, "0123456789012345678901234567890123456789012345678901234567890123", 0, 1,
              (uint64_t[]){8}, NULL, 32);
    gb_finish(b);
}

static void tensor_cut(struct gb *b)
{
    one_tensor(b, 0, 1, (uint64_t[]){64}, 255);
}

static void tensor_missing(struct gb *b)
{
    one_tensor(b, 0, 1, (uint64_t[]){64}, 0);
}

static void header_only(struct gb *b)
{
    gb_raw(&b->file, "GGUF\3\0\0\0\0\0\0", 11);
}

static const struct {
    const char *name;
    void (*build)(struct gb *b);
    const char *word; /* in the sentence */
} unsound[] = {
    {"no magic", no_magic, "magic"},
    {"version 0", version_0, "version is 0"},
    {"version 1", version_1, "version is 1"},
    {"version 4", version_4, "version is 4"},
    {"big endian", big_endian, "big-endian"},
    {"tensor count", tensor_count_huge, "tensor_count"},
    {"key count", key_count_huge, "metadata_kv_count"},
    {"one key too many", key_count_one_more, "empty"},
    {"a key twice", key_twice, "\"same\" is there twice"},
    {"a key's type", key_type_unknown, "\"odd.key\": value type 13"},
    {"a long key", key_too_long, "70000"},
    {"a key's length", key_length_huge, "18446744073709551615"},
    {"a string's length", string_too_long, "text takes 1099511627776"},
    {"a bool of 2", bool_is_two, "bool is 2"},
    {"nested arrays", array_nested, "nested"},
    {"an array's type", array_type_unknown, "element type 77"},
    {"an array's count", array_count_huge, "\"list\": 2305843009213693953"},
    {"strings' count", array_strings_huge, "\"list\": 2305843009213693952 strings"},
    {"strings cut off", array_strings_cut, "list takes"},
    {"alignment u64", alignment_not_u32, "general.alignment is not a u32"},
    {"alignment 48", alignment_odd, "general.alignment is 48"},
    {"alignment 0", alignment_zero, "general.alignment is 0"},
    {"split", split_file, "split.count is 3"},
    {"no dims", dims_0, "n_dims is 0"},
    {"5 dims", dims_5, "n_dims is 5"},
    {"a zero dim", dim_zero, "dimension 1 is zero"},
    {"too many elements", elements_overflow, "overflows"},
    {"negative elements", element_negative, "overflows"},
    {"type 1000", type_unknown, "type 1000 (unknown)"},
    {"type IQ4_NL", type_not_ours, "type 20 (IQ4_NL)"},
    {"576 in Q4_K", row_not_blocks, "row of 576"},
    {"a hole", offset_not_sum, "\"second\": offset is 64, not 32"},
    {"swapped", offsets_swapped, "\"first\": offset is 32, not 0"},
    {"a tensor twice", tensor_twice, "\"same\" is there twice"},
    {"a long name", tensor_name_64, "64 bytes"},
    {"a tensor cut", tensor_cut, "\"the.tensor\" of 256 bytes goes past"},
    {"no blob", tensor_missing, "\"the.tensor\""},
    {"half a header", header_only, "tensor_count takes 8 bytes but the file has 3 left"},
};

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
