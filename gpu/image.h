/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image.h - the kernels as the driver takes them: a fatbin that the build makes of all.cu and
 * writes as C (embed.py).
 *
 * threads  const data      memory  the plugin's      time  none
 */
#ifndef KVG_IMAGE_H
#define KVG_IMAGE_H

extern const unsigned char kvg_image[];

#endif
