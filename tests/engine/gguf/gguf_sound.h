/* SPDX-License-Identifier: Apache-2.0 */
/* gguf_sound.h - a GGUF file with something of everything, and nothing wrong with it. */
#ifndef TESTS_GGUF_SOUND_H
#define TESTS_GGUF_SOUND_H

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

#endif
