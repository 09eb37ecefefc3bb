/* SPDX-License-Identifier: Apache-2.0 */
/* fake_image.c - the kernels' image, for the stand-in for the driver. */
#include "fake/fake.h"
#include "gpu/image.h"

const unsigned char kvg_image[] = FAKECUDA_IMAGE;
