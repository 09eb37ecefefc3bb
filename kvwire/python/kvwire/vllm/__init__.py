# SPDX-License-Identifier: Apache-2.0
"""kvwire inside vLLM, without a patch:

    --kv-transfer-config '{"kv_connector": "KvwireConnector", "kv_connector_module_path": "kvwire.vllm",
                           "kv_role": "kv_producer", "kv_connector_extra_config": {"kvwire_port": 7400}}'

The table in kvwire/python/README.md says with which versions it was run, and what it refuses."""

from .connector import KvwireConnector

__all__ = ["KvwireConnector"]
