/* SPDX-License-Identifier: Apache-2.0 */
/* chunk.c - what the host works out of a chunk for the kernels. */
#include "chunk.h"

#include <string.h>

#include "../kvwire/digest.h"
#include "e.h"
#include "l0.h"

static struct kvg_div div_of(uint32_t by)
{
    uint32_t shift = 0;

    while ((uint64_t)1 << shift < by)
        ++shift;
    return (struct kvg_div){by, (uint32_t)((((uint64_t)1 << (31 + shift)) + by - 1) / by), shift};
}

/* The largest power of two up to 16 by which the addresses of all heads and their bytes divide. */
static uint32_t grain_of(const struct kvw_view *v)
{
    const uint64_t bits = v->head_bytes | v->head_stride | v->token_stride | v->block_stride |
                          (uint64_t)(uintptr_t)v->base | 16;

    return (uint32_t)(bits & -bits);
}

kvw_err kvg_chunk_shape(struct kvg_chunk *c, const struct kvw_view *v)
{
    const uint32_t value_bytes = kvw_dtype_bytes(v->dtype);
    const uint64_t bytes = kvw_view_bytes(v);

    memset(c, 0, sizeof(*c));
    if (value_bytes == 0 || bytes == 0 || bytes > KVG_BYTES_MAX ||
        v->head_bytes % value_bytes != 0 || v->block_tokens == 0 ||
        (uint64_t)v->first_token + v->tokens > INT32_MAX)
        return KVW_E_INVALID;
    c->view = *v;
    c->value_bytes = value_bytes;
    c->columns = v->heads * (v->head_bytes / value_bytes);
    c->values = (uint32_t)(bytes / value_bytes);
    c->unit = kvw_unit_values(c->columns);
    c->blocks = (c->values + c->unit - 1) / c->unit;
    c->grain = grain_of(v);
    c->period = c->columns <= KVG_UNIT_MAX ? c->columns : 1;
    c->by_token = div_of(value_bytes * c->columns);
    c->by_head = div_of(v->head_bytes);
    c->by_block = div_of(v->block_tokens);
    c->by_period = div_of(c->period);
    return KVW_OK;
}

kvw_err kvg_l0_shape(struct kvg_chunk *c, const struct kvw_view *v)
{
    const kvw_err err = kvg_chunk_shape(c, v);

    return err == KVW_OK && (v->dtype == KVW_DTYPE_F32 || c->grain < c->value_bytes) ? KVW_E_INVALID
                                                                                     : err;
}

bool kvg_l0_book_is_sound(const uint8_t *book, uint32_t columns)
{
    uint8_t places = 0;
    bool sound = columns > 0 && columns <= KVG_UNIT_MAX;

    for (uint32_t i = 1; sound && i <= columns; ++i) {
        const uint8_t place = book[i] & 0x3f;

        places |= place;
        sound = book[i] < 0x80 && (place != 0 || book[i] == 0);
    }
    return sound && (places != 0 || book[0] == 0);
}

kvw_err kvg_e_shape(struct kvg_chunk *c, const struct kvw_view *v, kvw_codec_id codec,
                    const struct kvw_codec_args *args)
{
    const kvw_err err = kvg_chunk_shape(c, v);

    if (err != KVW_OK)
        return err;
    if ((v->dtype != KVW_DTYPE_BF16 && v->dtype != KVW_DTYPE_F16) || c->grain < c->value_bytes ||
        (codec != KVW_CODEC_E8 && codec != KVW_CODEC_E4))
        return KVW_E_INVALID;
    c->by_unit = div_of(c->columns <= KVG_UNIT_MAX ? c->unit / c->columns : 1);
    c->exact_first = args != NULL ? args->exact_first : 0;
    c->exact_last = args != NULL ? args->exact_last : 0;
    c->foretells = args == NULL || args->kv == 0;
    c->noise = codec == KVW_CODEC_E8 ? KVG_E_NOISE_E8 : KVG_E_NOISE_E4;
    return KVW_OK;
}
