/* SPDX-License-Identifier: Apache-2.0 */
/* L0's decoder and encoder on any bytes: exact.h. */
#include "exact.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static const kvw_dtype dtypes[2] = {KVW_DTYPE_BF16, KVW_DTYPE_F16};

    exact_input(&kvc_codec_l0, dtypes, bytes, n);
    return 0;
}
