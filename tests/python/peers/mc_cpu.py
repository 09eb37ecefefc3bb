# SPDX-License-Identifier: Apache-2.0
"""vLLM's own MooncakeConnector on the CPU backend, over kvwire's class instead of Mooncake's: for kv_connector_module_path. The
connector asks torch.accelerator for a device index, which a machine without one refuses. MC_NO_COPY=1: a control, whose writes
say 0 and move nothing. MC_REAL=1: over Mooncake's class."""
import os

import torch

import kvwire.mooncake

if os.environ.get("MC_REAL") != "1":
    kvwire.mooncake.install()
if os.environ.get("MC_NO_COPY") == "1":
    kvwire.mooncake.TransferEngine.batch_transfer_sync_write = lambda self, *args: 0
torch.accelerator.current_device_index = lambda: 0
from vllm.platforms import current_platform  # noqa: E402

type(current_platform).set_device = classmethod(lambda cls, device: None)
from vllm.distributed.kv_transfer.kv_connector.v1.mooncake.mooncake_connector import MooncakeConnector  # noqa: E402, F401
