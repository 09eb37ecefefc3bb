/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gguf_bad.h - a GGUF file for each reason to refuse one: the reader's tests go through them, and
 * the fuzzer starts from them.
 */
#ifndef TESTS_GGUF_BAD_H
#define TESTS_GGUF_BAD_H

#include "gguf_sound.h"

static const uint8_t zeros[64];

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
    gb_raw(&b->file, zeros, sizeof(zeros));
}

static void offsets_swapped(struct gb *b)
{
    gb_info(b, "first", 0, 1, (uint64_t[]){8}, 32);
    gb_info(b, "second", 0, 1, (uint64_t[]){8}, 0);
    gb_finish(b);
    gb_raw(&b->file, zeros, sizeof(zeros));
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

#endif
