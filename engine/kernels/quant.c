/* SPDX-License-Identifier: Apache-2.0 */
/* quant.c - plain C for every weight format: quant_body.h without vectors. */
#include "quant.h"

#include "quant_body.h"

void kve_dequantise(kve_type type, const void *blocks, float *values, size_t count)
{
    quant_values(type, blocks, values, count);
}
