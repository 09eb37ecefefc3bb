# SPDX-License-Identifier: Apache-2.0
"""vLLM's KV tensors as a kvwire pool.

On the CPU backend a layer's tensor is [block][KV head][token of the block][2 * head size], but inside one (block, head)
page lie K transposed, [head size][tokens], and then V, [tokens][head size]. So an entry is a page of block_size tokens,
with two parts, "k.vec" and "v.vec", a row for each KV head. What other instruction sets pack otherwise has other names,
and is refused here until somebody has looked at it."""

from __future__ import annotations

import hashlib
import json
import mmap
from typing import Any

import kvwire

DTYPES = {"torch.float32": "f32", "torch.float16": "f16", "torch.bfloat16": "bf16"}


def packing(vllm_config: Any, dtype: Any, block_size: int, head_size: int) -> str:
    """The name of the CPU backend's packing. RuntimeError for one that isn't described."""
    from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

    name = str(_get_attn_isa(dtype, block_size, head_size))
    if name != "vec":
        raise RuntimeError("kvwire: the CPU attention packs its cache for %r; this version knows 'vec' alone" % name)
    return name


def fingerprint(vllm_config: Any) -> bytes:
    """Equal where the model and the type of the cache are. (Weights themselves aren't looked at.)"""
    config = {k: v for k, v in vllm_config.model_config.hf_config.to_dict().items()
              if k not in ("_name_or_path", "transformers_version", "name_or_path")}
    return kvwire.fingerprint_of(json.dumps(config, sort_keys=True, default=str), vllm_config.model_config.dtype,
                                 vllm_config.cache_config.cache_dtype)


class Pages:
    """The pool's description, and where the bytes of a block are."""

    def __init__(self, vllm_config: Any, tensors: dict[str, Any], scratch: bool) -> None:
        from vllm.model_executor.models.utils import extract_layer_index

        self.layers = {name: int(extract_layer_index(name)) for name in tensors}
        if len(set(self.layers.values())) != len(tensors):
            raise RuntimeError("kvwire: two KV tensors of one layer: %s" % sorted(tensors))
        first = next(iter(tensors.values()))
        if first.dim() != 4 or first.device.type != "cpu" or str(first.dtype) not in DTYPES:
            raise RuntimeError("kvwire: a KV tensor %r of %s on %s isn't described in this version" % (
                tuple(first.shape), first.dtype, first.device))
        blocks, heads, tokens, width = first.shape
        item = first.element_size()
        self.block_tokens, self.half = tokens, tokens * width // 2 * item
        isa = packing(vllm_config, first.dtype, tokens, width // 2)
        moved, self.memory, self.kept = {}, [], []
        for t in tensors.values():
            storage = t.untyped_storage()
            base, size = storage.data_ptr(), storage.nbytes()
            if base in moved:
                continue
            moved[base] = 0
            if scratch:
                self.kept.append(mmap.mmap(-1, size))
                moved[base] = kvwire.memory_of(self.kept[-1]).address - base
            self.memory.append(kvwire.Memory(base + moved[base], size, owner=t))
        self.tensors = dict(sorted(((self.layers[n], t) for n, t in tensors.items()), key=lambda pair: pair[0]))
        planes: list[list[kvwire.Plane]] = [[], []]
        for layer, t in self.tensors.items():
            if t.shape != first.shape or t.dtype != first.dtype or t.stride(2) != width or t.stride(3) != 1:
                raise RuntimeError("kvwire: layer %d is %r %r, layer %d %r" % (
                    layer, tuple(t.shape), t.stride(), next(iter(self.tensors)), tuple(first.shape)))
            at = t.data_ptr() + moved[t.untyped_storage().data_ptr()]
            for kv in range(2):
                planes[kv].append(kvwire.Plane(at + kv * self.half, t.stride(0) * item, self.half, t.stride(1) * item))
        parts = [kvwire.Part("%s.%s" % ("kv"[kv], isa), DTYPES[str(first.dtype)], self.half, heads, planes[kv])
                 for kv in range(2)]
        group = kvwire.Group(list(self.tensors), blocks, 1, parts, entry_tokens=tokens)
        self.desc = kvwire.PoolDesc(self.memory, [group], vllm_config.model_config.model[-60:], fingerprint(vllm_config))

    def digest(self, ids: list[int]) -> str:
        """Of all layers of these blocks as vLLM sees them."""
        h = hashlib.blake2b(digest_size=16)
        for t in self.tensors.values():
            for block in ids:
                h.update(bytes(t[block].contiguous().view(dtype=_bytes()).numpy().data))
        return h.hexdigest()


def _bytes() -> Any:
    import torch

    return torch.uint8
