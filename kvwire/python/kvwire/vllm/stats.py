# SPDX-License-Identifier: Apache-2.0
"""Figures of the connector for vLLM's log and its /metrics: what the worker counted since the last step.

    vllm:kvwire_transfer_seconds    of transfers that ended well, first to last chunk; way: "sent", "staged", "received"
    vllm:kvwire_transfer_bytes      of KV, before codecs; likewise
    vllm:kvwire_wire_bytes_total    that they took on the wire; likewise
    vllm:kvwire_failed_total        transfers that failed, or were never begun; likewise
    vllm:kvwire_expired_total       staged prompts that nobody pulled"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats

WAYS = ("sent", "staged", "received")
SECONDS = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30]
BYTES = [float(1 << n) for n in range(16, 37, 2)]


@dataclass
class Stats(KVConnectorStats):
    """data: {"sent": [(seconds, bytes, bytes on the wire)], ..., "failed sent": count, ..., "expired": count}"""

    def __post_init__(self) -> None:
        if not self.data:
            self.reset()

    def reset(self) -> None:
        data: dict[str, Any] = {"expired": 0}
        for way in WAYS:
            data[way], data["failed " + way] = [], 0
        self.data = data

    def well(self, way: str, seconds: float, raw: int, wire: int) -> None:
        self.data[way].append((seconds, raw, wire))

    def failed(self, way: str) -> None:
        self.data["failed " + way] += 1

    def expired(self) -> None:
        self.data["expired"] += 1

    def is_empty(self) -> bool:
        return not any(self.data.values())

    def aggregate(self, other: KVConnectorStats) -> "Stats":
        for key, value in other.data.items():
            self.data[key] = self.data[key] + value
        return self

    def reduce(self) -> dict[str, int | float]:
        figures: dict[str, int | float] = {}
        for way in WAYS:
            seconds, raw, wire = (sum(t[i] for t in self.data[way]) for i in range(3))
            figures["kvwire " + way] = len(self.data[way])
            figures[way + " MB"], figures[way + " MB on the wire"] = round(raw / 1e6, 1), round(wire / 1e6, 1)
            figures[way + " seconds"], figures[way + " failed"] = round(seconds, 3), self.data["failed " + way]
        return dict(figures, expired=self.data["expired"])


class PromMetrics(KVConnectorPromMetrics):
    def __init__(self, vllm_config: Any, metric_types: Any, labelnames: list[str],
                 per_engine_labelvalues: dict[int, list[object]]) -> None:
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        names = list(labelnames) + ["way"]
        made = {
            "seconds": self._histogram_cls(name="vllm:kvwire_transfer_seconds", buckets=SECONDS, labelnames=names,
                                           documentation="KV transfers that ended well, first to last chunk."),
            "bytes": self._histogram_cls(name="vllm:kvwire_transfer_bytes", buckets=BYTES, labelnames=names,
                                         documentation="KV of transfers that ended well, before codecs."),
            "wire": self._counter_cls(name="vllm:kvwire_wire_bytes", labelnames=names,
                                      documentation="Bytes that KV took on the wire."),
            "failed": self._counter_cls(name="vllm:kvwire_failed", labelnames=names,
                                        documentation="KV transfers that failed."),
        }
        expired = self._counter_cls(name="vllm:kvwire_expired", labelnames=labelnames,
                                    documentation="Staged prompts that nobody pulled.")
        self.figures = {engine: {(kind, way): metric.labels(*values, way) for kind, metric in made.items() for way in WAYS}
                        for engine, values in per_engine_labelvalues.items()}
        self.expired = {engine: expired.labels(*values) for engine, values in per_engine_labelvalues.items()}

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        to = self.figures[engine_idx]
        for way in WAYS:
            for seconds, raw, wire in transfer_stats_data[way]:
                to["seconds", way].observe(seconds)
                to["bytes", way].observe(raw)
                to["wire", way].inc(wire)
            to["failed", way].inc(transfer_stats_data["failed " + way])
        self.expired[engine_idx].inc(transfer_stats_data["expired"])
