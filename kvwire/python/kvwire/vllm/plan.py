# SPDX-License-Identifier: Apache-2.0
"""What the scheduler's half of the connector tells the worker's half in each step. Plain data: it is pickled."""

from __future__ import annotations

from dataclasses import dataclass, field

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata


@dataclass
class Send:
    """One request that is prefilled in this step.

    key      of the transfer, the same on both sides
    tokens   of the whole prompt
    blocks   ids that are new in this step, of table entries first, first+1 ...
    computed tokens that are computed when this step's forward is over
    begins   this is its first step
    """

    request: str
    key: str
    tokens: int
    first: int
    blocks: list[int]
    computed: int
    begins: bool


@dataclass
class Receive:
    """One request whose blocks from token `want` on are asked of the node at `address`; without one, why."""

    request: str
    key: str
    tokens: int
    want: int
    blocks: list[int]
    address: str
    why: str = ""


@dataclass
class Plan(KVConnectorMetadata):
    sends: list[Send] = field(default_factory=list)
    receives: list[Receive] = field(default_factory=list)
    held: list[str] = field(default_factory=list)  # finished, blocks held until the transfer has ended
    dropped: dict[str, str] = field(default_factory=dict)  # {request: why its transfer is to end}
