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
    first    of each block table: how many of its entries were told before
    blocks   of each block table: ids that are new in this step, of entries first, first+1 ...
    computed tokens that are computed when this step's forward is over
    begins   this is its first step
    staged   serial mode: decode is told later, so it is staged
    """

    request: str
    key: str
    tokens: int
    first: list[int]
    blocks: list[list[int]]
    computed: int
    begins: bool
    staged: bool


@dataclass
class Receive:
    """One request whose tokens want to end-1 are asked of the ranks of the engine at source; without one, why."""

    request: str
    key: str
    tokens: int
    want: int
    end: int
    blocks: list[list[int]]  # of each block table
    source: "Source"


@dataclass
class Source:
    """A prefill engine's nodes: rank r listens at port + r. reference: of what each rank has staged, one after the other;
    empty: streams bring it."""

    host: str = ""
    port: int = 0
    ranks: int = 1
    reference: bytes = b""
    why: str = ""  # nobody can be asked


@dataclass
class Plan(KVConnectorMetadata):
    sends: list[Send] = field(default_factory=list)
    receives: list[Receive] = field(default_factory=list)
    held: list[str] = field(default_factory=list)  # finished, blocks held until the transfer has ended
    dropped: dict[str, str] = field(default_factory=dict)  # {request: why its transfer is to end}


REFERENCE_BYTES = 32
FAILED = "failed_recving" in getattr(getattr(base, "KVConnectorTransferResults", None), "__dataclass_fields__", ())
CAN_STAGE = hasattr(base, "KVConnectorWorkerMetadata")  # an older vLLM has no way from worker to scheduler

if CAN_STAGE:

    @dataclass
    class Staged(base.KVConnectorWorkerMetadata):
        """{request: {rank: reference of what is staged of it there}}: made in the workers, for kv_transfer_params."""

        references: dict[str, dict[int, bytes]] = field(default_factory=dict)

        def aggregate(self, other: base.KVConnectorWorkerMetadata) -> base.KVConnectorWorkerMetadata:
            assert isinstance(other, Staged)
            both = {name: dict(of) for name, of in self.references.items()}
            for name, of in other.references.items():
                both.setdefault(name, {}).update(of)
            return Staged(both)
