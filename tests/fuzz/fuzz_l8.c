/* SPDX-License-Identifier: Apache-2.0 */
/* L8's decoder and encoder on any bytes: exact.h. */
#include "exact.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static const kvw_dtype dtypes[2] = {KVW_DTYPE_F8_E4M3, KVW_DTYPE_F8_E5M2};

    exact_input(&kvc_codec_l8, dtypes, bytes, n);
    return 0;
}
