# SPDX-License-Identifier: Apache-2.0
"""KvwireConnector: vLLM's KVConnectorBase_V1 over a kvwire node. vLLM makes two of it, one in the scheduler's process, one
in the worker's; scheduler.py and worker.py are those halves, this file only knows vLLM's names for things."""

from __future__ import annotations

from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1 import base
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorRole
from vllm.logger import init_logger
from vllm.utils.network_utils import get_ip

from . import plan
from .memory import windows_of
from .plan import Plan
from .scheduler import Scheduler
from .settings import Settings
from .stats import PromMetrics, Stats
from .worker import Rank, Worker

logger = init_logger("vllm.kvwire")


HYBRID = getattr(base, "SupportsHMA", None)  # an older vLLM then has one KV cache group


def _rank(vllm_config: Any) -> Rank:
    ranks = vllm_config.parallel_config.tensor_parallel_size
    if ranks == 1:
        return Rank()
    from vllm.distributed.parallel_state import get_tensor_model_parallel_rank

    return Rank(get_tensor_model_parallel_rank(), ranks, vllm_config.model_config.get_total_num_kv_heads())


class KvwireConnector(KVConnectorBase_V1, *((HYBRID,) if HYBRID is not None else ())):  # type: ignore[misc]
    """Host memory; groups of full attention and of sliding windows; tensor parallelism. README.md of kvwire/python has the
    table of what works."""

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any = None) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        parallel, transfer = vllm_config.parallel_config, vllm_config.kv_transfer_config
        for name in ("pipeline_parallel_size", "decode_context_parallel_size", "prefill_context_parallel_size"):
            if getattr(parallel, name, 1) != 1:
                raise ValueError("kvwire: %s is %d; this version takes 1" % (name, getattr(parallel, name)))
        windows = windows_of(kv_cache_config)
        if (len(windows) > 1 or any(windows)) and not plan.FAILED:
            raise ValueError("kvwire: the model has KV cache groups %r, and this vLLM takes no failed requests" % windows)
        self._vllm_config, self._cache_config = vllm_config, kv_cache_config
        settings = Settings.of(transfer.kv_connector_extra_config or {})
        host = settings.host or get_ip()
        self._scheduler: Any = None
        self._worker: Any = None
        if role == KVConnectorRole.SCHEDULER:
            self._scheduler = Scheduler(settings, host, (transfer.is_kv_producer, transfer.is_kv_consumer),
                                        str(transfer.engine_id), windows, parallel.tensor_parallel_size)
        else:
            self._worker = Worker(settings, host, transfer.is_kv_producer, logger, _rank(vllm_config))

    # -- worker -----------------------------------------------------------------------------------------------------

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        self._worker.register(self._vllm_config, self._cache_config, kv_caches)

    def bind_connector_metadata(self, connector_metadata: Any) -> None:
        super().bind_connector_metadata(connector_metadata)
        if self._worker is not None and isinstance(connector_metadata, Plan):
            self._worker.begin(connector_metadata)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Offers were made when the metadata was bound, before the forward; nothing is left to do here."""

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Loads are asynchronous: a request runs when all its layers are in place."""

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        self._worker.layer(layer_name)

    def wait_for_save(self) -> None:
        self._worker.sweep()

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        r = self._worker.results(finished_req_ids)
        return r.sent, r.received

    if hasattr(base, "KVConnectorTransferResults"):

        def get_transfer_results(self, finished_req_ids: set[str]) -> Any:
            # With one block table failed requests are told by their blocks, so that what is whole isn't computed again.
            r = self._worker.results(finished_req_ids)
            more = {"failed_recving": r.failed} if plan.FAILED else {}
            return base.KVConnectorTransferResults(finished_sending=r.sent, finished_recving=r.received, **more)

    def get_block_ids_with_load_errors(self) -> set[int]:
        bad: set[int] = self._worker.take_bad()
        return bad

    if plan.CAN_STAGE:

        def build_connector_worker_meta(self) -> Any:
            references = self._worker.take_references()
            return plan.Staged(references) if references else None

    def get_kv_connector_stats(self) -> Stats | None:
        return self._worker.take_stats() if self._worker is not None else None

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> Stats | None:
        return Stats(data=data or {})

    @classmethod
    def build_prom_metrics(cls, vllm_config: Any, metric_types: Any, labelnames: list[str],
                           per_engine_labelvalues: dict[int, list[object]]) -> PromMetrics:
        return PromMetrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)

    def shutdown(self) -> None:
        if self._worker is not None:
            self._worker.close()

    # -- scheduler --------------------------------------------------------------------------------------------------

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        found: tuple[int, bool] = self._scheduler.matched_tokens(request, num_computed_tokens)
        return found

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        self._scheduler.allocated(request, blocks.get_block_ids(), num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> Any:
        return self._scheduler.step(scheduler_output)

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        from vllm.v1.request import RequestStatus

        complete = request.status in (RequestStatus.FINISHED_LENGTH_CAPPED, RequestStatus.FINISHED_STOPPED)
        held: tuple[bool, dict[str, Any] | None] = self._scheduler.finished(request, complete)
        return held

    def request_finished_all_groups(self, request: Any, block_ids: tuple[list[int], ...]) -> tuple[bool, dict[str, Any] | None]:
        return self.request_finished(request, [])

    def update_connector_output(self, connector_output: Any) -> None:
        told = getattr(connector_output, "kv_connector_worker_meta", None)
        self._scheduler.staged(told.references if told is not None else {})

    @classmethod
    def get_required_kvcache_layout(cls, vllm_config: Any) -> str | None:
        return None

    @classmethod
    def requires_piecewise_for_cudagraph(cls, extra_config: dict[str, Any]) -> bool:
        return True  # the layer hooks do the work
