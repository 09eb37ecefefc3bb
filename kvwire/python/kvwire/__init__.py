# SPDX-License-Identifier: Apache-2.0
"""kvwire: the KV cache of language models from prefill to decode, layer by layer.

    import kvwire
    node = kvwire.Node("decode", local="0.0.0.0:7400", listen=True)
    pool = node.add_pool(kvwire.paged_kv(kv, "KLBTHD", shape=(2, 32, 1024, 16, 8, 128), dtype="bf16"))

Names are those of kvwire/README.md and kvwire/node.h. `python -m kvwire` says what works on this machine."""

from __future__ import annotations

import os as _os

from ._abi import ffi as _ffi
from ._abi import lib as _lib
from ._abi import library_path
from .batch import Batch, BatchStatus, Region
from .errors import (AgainError, CanceledError, ChecksumError, ClosedError, DeadlineError, Error, InvalidError,
                     LeaseError, MismatchError, NotFoundError, PeerLostError, UnsupportedError)
from .memory import DTYPES, Memory, memory_of
from .node import (Blocks, Event, EventKind, Node, Offer, Peer, PeerInfo, Pool, Stage, Stream, Transfer, key_of)
from .pool import Group, Part, Plane, PoolDesc, fingerprint_of, paged_kv

#: of the library: "0.1.0"
__version__: str = _ffi.string(_lib.kvw_version()).decode()


def features() -> str:
    """What is built into the library: "transports: loop udp; codecs: l0 ..."; other transports are plugins."""
    return str(_ffi.string(_lib.kvw_features()).decode())


__all__ = [
    "AgainError", "Batch", "BatchStatus", "Blocks", "CanceledError", "ChecksumError", "ClosedError", "DTYPES", "DeadlineError", "Error",
    "Event", "EventKind", "Group", "InvalidError", "LeaseError", "Memory", "MismatchError", "Node", "NotFoundError",
    "Offer", "Part", "Peer", "PeerInfo", "PeerLostError", "Plane", "Pool", "PoolDesc", "Region", "Stage", "Stream", "Transfer",
    "UnsupportedError", "features", "fingerprint_of", "key_of", "library_path", "memory_of", "paged_kv", "__version__",
]

if _os.environ.get("KVWIRE_AS_MOONCAKE") == "1":
    from . import mooncake as _mooncake

    _mooncake.install()
