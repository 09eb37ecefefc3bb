# SPDX-License-Identifier: Apache-2.0
"""What the scheduler's half of the connector tells the worker's half in each step, and what
that one answers. Plain data: it is pickled."""

from __future__ import annotations

from dataclasses import dataclass, field

from vllm.distributed.kv_transfer.kv_connector.v1 import base
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata


@dataclass
class Send:
    """One request that is prefilled in this step.

    key      of the transfer, the same on both sides
    tokens   of the whole prompt
    blocks   ids that are new in this step, of table entries first, first+1 ...
    computed tokens that are computed when this step's forward is over
    begins   this is its first step
    staged   serial mode: decode is told later, so it is staged
    """

    request: str
    key: str
    tokens: int
    first: int
    blocks: list[int]
    computed: int
    begins: bool
    staged: bool


@dataclass
class Receive:
    """One request whose blocks from token `want` on are asked of the node at `address`; without one, why. reference: of what
    is staged there, empty: a stream brings it."""

    request: str
    key: str
    tokens: int
    want: int
    blocks: list[int]
    address: str
    why: str = ""
    reference: bytes = b""


@dataclass
class Plan(KVConnectorMetadata):
    sends: list[Send] = field(default_factory=list)
    receives: list[Receive] = field(default_factory=list)
    held: list[str] = field(default_factory=list)  # finished, blocks held until the transfer has ended
    dropped: dict[str, str] = field(default_factory=dict)  # {request: why its transfer is to end}


CAN_STAGE = hasattr(base, "KVConnectorWorkerMetadata")  # an older vLLM has no way from worker to scheduler

if CAN_STAGE:

    @dataclass
    class Staged(base.KVConnectorWorkerMetadata):
        """{request: reference of what is staged of it}: made in the worker, for kv_transfer_params."""

        references: dict[str, bytes] = field(default_factory=dict)

        def aggregate(self, other: base.KVConnectorWorkerMetadata) -> base.KVConnectorWorkerMetadata:
            assert isinstance(other, Staged)
            return Staged({**self.references, **other.references})
