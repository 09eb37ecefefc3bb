# SPDX-License-Identifier: Apache-2.0
"""vLLM's KV tensors as a kvwire pool.

On the CPU backend a layer's tensor is [block][KV head][token of the block][2 * head size], but inside one (block, head)
page lie K transposed and then V: pages.py describes it. What other instruction sets pack otherwise has other names, and is
refused here until somebody has looked at it; and the packing is tried once, on a page of its own, before it is believed."""

from __future__ import annotations

import hashlib
import json
import mmap
from typing import Any

import kvwire

from .pages import Heads, Tensor, groups_of

DTYPES = {"torch.float32": "f32", "torch.float16": "f16", "torch.bfloat16": "bf16"}
PACKINGS = ("vec", "vec16")  # the same page; vec16 where a block has no multiple of 32 tokens, or a head of 32 values


def packing(dtype: Any, block_size: int, head_size: int) -> str:
    """The name of the CPU backend's packing. RuntimeError for one that isn't described."""
    from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

    name = str(_get_attn_isa(dtype, block_size, head_size))
    if name not in PACKINGS:
        raise RuntimeError("kvwire: the CPU attention packs its cache for %r; this version knows %s alone" % (name, ", ".join(PACKINGS)))
    return name


def try_packing(dtype: Any, block_size: int, head_size: int) -> None:
    """Let vLLM's kernel write two pages and look where K and V are. RuntimeError where it isn't as described."""
    import torch
    from vllm import _custom_ops as ops

    name, count = packing(dtype, block_size, head_size), block_size + 1
    cache = torch.zeros(2, 1, 2 * block_size, head_size, dtype=dtype)
    key = (torch.arange(count * head_size) % 251).reshape(count, 1, head_size).to(dtype)
    k, v = cache.chunk(2, dim=2)
    ops.cpu_attn_reshape_and_cache(key, -key - 1, k, v, torch.arange(count), name, k_scale=1.0, v_scale=1.0, kv_cache_dtype="auto")
    half = block_size * head_size
    flat = cache.reshape(2, -1)
    seen_k = flat[:, :half].reshape(2, head_size, block_size).transpose(1, 2).reshape(-1, head_size)[:count]
    seen_v = flat[:, half:].reshape(-1, head_size)[:count]
    if not torch.equal(seen_k, key[:, 0]) or not torch.equal(seen_v, (-key - 1)[:, 0]):
        raise RuntimeError("kvwire: the CPU attention's packing %r of %s, %d tokens a block, %d values a head, isn't as described" % (
            name, dtype, block_size, head_size))


def fingerprint(vllm_config: Any) -> bytes:
    """Equal where the model and the type of the cache are. (Weights themselves aren't looked at.)"""
    config = {k: v for k, v in vllm_config.model_config.hf_config.to_dict().items()
              if k not in ("_name_or_path", "transformers_version", "name_or_path")}
    return kvwire.fingerprint_of(json.dumps(config, sort_keys=True, default=str), vllm_config.model_config.dtype,
                                 vllm_config.cache_config.cache_dtype)


def windows_of(kv_cache_config: Any) -> list[int]:
    """Of each KV cache group: tokens of its sliding window, 0: all are kept. ValueError for what isn't described here."""
    windows = []
    for group in getattr(kv_cache_config, "kv_cache_groups", None) or ():
        kind = type(group.kv_cache_spec).__name__
        if kind == "SlidingWindowSpec" and not getattr(group.kv_cache_spec, "extra_retained_tokens", 0):
            windows.append(int(group.kv_cache_spec.sliding_window))
        elif kind == "FullAttentionSpec":
            windows.append(0)  # a window that it names is only read: vLLM keeps every block
        else:
            raise ValueError("kvwire: a KV cache group of %s (%s ...) isn't described in this version; there are "
                             "FullAttentionSpec and SlidingWindowSpec" % (kind, ", ".join(group.layer_names[:2])))
    return windows or [0]


def _tensor(layer: int, t: Any, moved: int) -> Tensor:
    if t.dim() != 4 or t.device.type != "cpu" or str(t.dtype) not in DTYPES:
        raise RuntimeError("kvwire: a KV tensor %r of %s on %s isn't described in this version" % (tuple(t.shape), t.dtype, t.device))
    blocks, heads, tokens, width = t.shape
    if t.stride(2) != width or t.stride(3) != 1 or width % 2:
        raise RuntimeError("kvwire: layer %d is %r %r" % (layer, tuple(t.shape), t.stride()))
    item = t.element_size()
    return Tensor(layer, t.data_ptr() + moved, blocks, heads, tokens, width // 2, t.stride(0) * item, t.stride(1) * item,
                  DTYPES[str(t.dtype)], item)


class Pages:
    """The pool's description, and where the bytes of a block are.

    windows  of each block table, as windows_of() has them
    tables   for each of the pool's groups the block table that it is of
    tokens   in a block, of each block table
    """

    def __init__(self, vllm_config: Any, kv_cache_config: Any, tensors: dict[str, Any], scratch: bool, heads: Heads | None) -> None:
        from vllm.model_executor.models.utils import extract_layer_index

        self.layers = {name: int(extract_layer_index(name)) for name in tensors}
        if len(set(self.layers.values())) != len(tensors):
            raise RuntimeError("kvwire: two KV tensors of one layer: %s" % sorted(tensors))
        self.tensors = dict(sorted(((self.layers[n], t) for n, t in tensors.items()), key=lambda pair: pair[0]))
        self.windows = windows_of(kv_cache_config)
        self.kept: list[mmap.mmap] = []
        moved, memory = self._memory(scratch)
        described = {n: _tensor(n, t, moved[t.untyped_storage().data_ptr()]) for n, t in self.tensors.items()}
        for shape in {(t.tokens, t.dims) for t in described.values()}:
            try_packing(next(iter(tensors.values())).dtype, *shape)
        if len({t.dtype for t in described.values()}) != 1:
            raise RuntimeError("kvwire: layers of several types: %s" % sorted({t.dtype for t in described.values()}))
        groups = getattr(kv_cache_config, "kv_cache_groups", None)
        named = [[n for n in g.layer_names if n in tensors] for g in groups] if groups else [list(tensors)]
        self.of_table = [sorted(self.layers[n] for n in names) for names in named]
        if sorted(n for table in self.of_table for n in table) != list(self.tensors):
            raise RuntimeError("kvwire: the KV cache groups and the KV tensors don't name the same layers")
        self.heads = heads
        self.tokens = [described[table[0]].tokens for table in self.of_table]
        made, self.tables = groups_of([(w, [described[n] for n in table]) for w, table in zip(self.windows, self.of_table)], heads)
        self.desc = kvwire.PoolDesc(memory, made, vllm_config.model_config.model[-60:], fingerprint(vllm_config))

    def _memory(self, scratch: bool) -> tuple[dict[int, int], list[kvwire.Memory]]:
        moved: dict[int, int] = {}  # a storage's address: how far from it its stand-in is
        memory = []
        for t in self.tensors.values():
            base, size = t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()
            if base in moved:
                continue
            moved[base] = 0
            if scratch:
                self.kept.append(mmap.mmap(-1, size))
                moved[base] = kvwire.memory_of(self.kept[-1]).address - base
            memory.append(kvwire.Memory(base + moved[base], size, owner=t))
        return moved, memory

    def digest(self, blocks: list[list[int]], tokens: int) -> dict[str, str]:
        """Of each head: K and V of all layers as vLLM sees them, of tokens 0 to tokens-1, or of a window's last."""
        import torch

        first = self.heads.first if self.heads else 0
        made: dict[str, Any] = {}
        for table, layers in enumerate(self.of_table):
            size, window = self.tokens[table], self.windows[table]
            begin = max(0, tokens + 1 - window) if window else 0  # decode computes one token more: needs no more than these
            ids = blocks[table][begin // size:-(-tokens // size)]
            for layer in layers:
                pages = self.tensors[layer][ids].contiguous()  # [block][head][token][2 * values]
                n, heads, _, width = pages.shape
                k, v = pages.view(n, heads, 2, -1).unbind(2)
                k = k.reshape(n, heads, width // 2, size).transpose(2, 3)
                v = v.reshape(n, heads, size, width // 2)
                for h in range(heads):
                    digest = made.setdefault(str(first + h), hashlib.blake2b(digest_size=16))
                    for x in (k, v):
                        rows = x[:, h].reshape(n * size, -1)[begin % size:][:tokens - begin].contiguous()
                        digest.update(rows.view(dtype=torch.uint8).numpy().data)
        return {name: d.hexdigest() for name, d in made.items()}
