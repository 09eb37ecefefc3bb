#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""embed.py IMAGE TO.c: write a file as the array kvg_image of a C file (image.h), aligned as the driver wants a fatbin."""
import sys

with open(sys.argv[1], "rb") as f:
    image = f.read()
with open(sys.argv[2], "w") as f:
    f.write('/* SPDX-License-Identifier: Apache-2.0 */\n#include "gpu/image.h"\n')
    f.write("const unsigned char kvg_image[] __attribute__((aligned(16))) = {\n")
    for at in range(0, len(image), 32):
        f.write(",".join(str(b) for b in image[at:at + 32]) + ",\n")
    f.write("};\n")
