/* SPDX-License-Identifier: Apache-2.0 */
/* fake_plugin_old.c - a plugin for GPUs of another build. */
#include "kvwire/gpu.h"

KVW_API extern const struct kvw_gpu_plugin kvw_gpu_plugin;
const struct kvw_gpu_plugin kvw_gpu_plugin = {.abi = KVW_GPU_ABI, .version = "0.0.0"};
