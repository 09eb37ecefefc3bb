/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernels_table.h - the table of one level, out of its own loaders of 32-value blocks. Include
 * last, with KVE_LEVEL the level's name as a word; blocks32(), matvec32(), matvecs32(), load_q*()
 * and attend_body.h's functions are there by then. Types without a loader go through the plain
 * bodies.
 */
#ifndef KVE_KERNELS_TABLE_H
#define KVE_KERNELS_TABLE_H

static void dequantise(kve_type type, const void *blocks, float *values, size_t count)
{
    switch (type) {
    case KVE_TYPE_Q4_0:
        blocks32(blocks, count, 18, load_q4_0, values);
        break;
    case KVE_TYPE_Q4_1:
        blocks32(blocks, count, 20, load_q4_1, values);
        break;
    case KVE_TYPE_Q5_0:
        blocks32(blocks, count, 22, load_q5_0, values);
        break;
    case KVE_TYPE_Q5_1:
        blocks32(blocks, count, 24, load_q5_1, values);
        break;
    case KVE_TYPE_Q8_0:
        blocks32(blocks, count, 34, load_q8_0, values);
        break;
    default:
        body_dequantise(type, blocks, values, count);
        break;
    }
}

static void matvec(const struct kve_matrix *w, uint32_t first, uint32_t rows, const float *x,
                   float *y)
{
    switch (w->type) {
    case KVE_TYPE_Q4_0:
        matvec32(w, first, rows, 18, load_q4_0, x, y);
        break;
    case KVE_TYPE_Q4_1:
        matvec32(w, first, rows, 20, load_q4_1, x, y);
        break;
    case KVE_TYPE_Q5_0:
        matvec32(w, first, rows, 22, load_q5_0, x, y);
        break;
    case KVE_TYPE_Q5_1:
        matvec32(w, first, rows, 24, load_q5_1, x, y);
        break;
    case KVE_TYPE_Q8_0:
        matvec32(w, first, rows, 34, load_q8_0, x, y);
        break;
    default:
        body_matvec(w, first, rows, x, y);
        break;
    }
}

static void matvecs(const struct kve_product *p)
{
    switch (p->w->type) {
    case KVE_TYPE_Q4_0:
        matvecs32(p, 18, load_q4_0);
        break;
    case KVE_TYPE_Q4_1:
        matvecs32(p, 20, load_q4_1);
        break;
    case KVE_TYPE_Q5_0:
        matvecs32(p, 22, load_q5_0);
        break;
    case KVE_TYPE_Q5_1:
        matvecs32(p, 24, load_q5_1);
        break;
    case KVE_TYPE_Q8_0:
        matvecs32(p, 34, load_q8_0);
        break;
    default:
        body_matvecs(p);
        break;
    }
}

#define KVE_TABLE_OF(level)    KVE_TABLE_NAMED(level)
#define KVE_TABLE_NAMED(level) kve_kernels_##level
#define KVE_TEXT_OF(level)     KVE_TEXT(level)
#define KVE_TEXT(level)        #level

const struct kve_kernels KVE_TABLE_OF(KVE_LEVEL) = {
    .name = KVE_TEXT_OF(KVE_LEVEL),
    .dequantise = dequantise,
    .matvec = matvec,
    .matvecs = matvecs,
    .rmsnorm = body_rmsnorm,
    .silu_mul = body_silu_mul,
    .gelu_mul = body_gelu_mul,
    .to_bf16 = body_to_bf16,
    .from_bf16 = body_from_bf16,
    .softmax_part = body_softmax_part,
    .attend = body_attend,
};

#endif
