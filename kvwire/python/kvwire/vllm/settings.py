# SPDX-License-Identifier: Apache-2.0
"""kv_connector_extra_config, read once, with a reason for each value that can't be."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, fields
from typing import Any, Mapping


@dataclass
class Settings:
    """Keys are these names with "kvwire_" before them.

    transport  of Node: "udp", "dpdk", "verbs"
    host       how peers reach this node; None: vLLM's own address (VLLM_HOST_IP)
    port       producers listen on it, rank r of a tensor-parallel one on port + r; consumers need none
    decode_tp  producers: tensor-parallel ranks of the consumers, 0: as many as here. With a wrong number transfers fail
    codec      "choose", or a codec's name
    budget     what codecs may do to values: "exact", "e8", "e4"
    wait       seconds that one side waits for the other's part: a prompt may stand in prefill's queue for that long,
               and a producer holds blocks for that long for a consumer that doesn't come
    lease      seconds that a started transfer may be silent
    stage_mb   serial mode: MiB of staging memory of a producer, taken as it is used; 0: prefill's blocks are held instead
    keep       serial mode: seconds from a prompt's first chunk for which what is staged waits for decode
    idle       seconds that an engine may stand still while transfers are open and it computes nothing: more takes less CPU, but a
               request that comes meanwhile may wait as long
    log        a file for one line of JSON for each thing that happened, and digests of the blocks; for tests
    scratch    consumers: let what comes land in other memory than vLLM's. The control of a test, which must then fail
    """

    transport: str = "udp"
    host: str | None = None
    port: int = 0
    decode_tp: int = 0
    codec: str = "choose"
    budget: str = "exact"
    wait: float = 30.0
    lease: float = 5.0
    stage_mb: int = 1024
    keep: float = 60.0
    idle: float = 0.002
    log: str | None = None
    scratch: bool = False

    @classmethod
    def of(cls, extra: Mapping[str, Any]) -> "Settings":
        known = {f.name: f for f in fields(cls)}
        made = cls()
        for key, value in extra.items():
            if not key.startswith("kvwire_"):
                continue
            name = key[len("kvwire_"):]
            if name not in known:
                raise ValueError("kv_connector_extra_config has %r; there are kvwire_%s" % (key, ", kvwire_".join(known)))
            default = getattr(made, name)
            if isinstance(default, float) and isinstance(value, int):
                value = float(value)
            if default is not None and type(value) is not type(default):
                raise ValueError("kv_connector_extra_config: %s is %r, not like %r" % (key, value, default))
            setattr(made, name, value)
        if not 0 <= made.port < 65536:
            raise ValueError("kv_connector_extra_config: kvwire_port is %d" % made.port)
        for name in ("stage_mb", "decode_tp"):
            if getattr(made, name) < 0:
                raise ValueError("kv_connector_extra_config: kvwire_%s is %d" % (name, getattr(made, name)))
        if min(made.wait, made.lease, made.keep, made.idle) <= 0:
            raise ValueError("kv_connector_extra_config: kvwire_wait, kvwire_lease, kvwire_keep and kvwire_idle are more than 0 s")
        return made


class Journal:
    """A line of JSON for each thing that happened; both halves of the connector append to it."""

    def __init__(self, path: str | None) -> None:
        self.file = open(path, "a", buffering=1, encoding="utf8") if path else None

    def note(self, what: str, **more: Any) -> None:
        if self.file is not None:
            self.file.write(json.dumps(dict(more, what=what, at=time.monotonic_ns())) + "\n")

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None
