# SPDX-License-Identifier: Apache-2.0
"""A KV cache of pages as groups of a kvwire pool, such that two engines may differ in tokens a block and in tensor-parallel
ranks. Nothing of vLLM is imported here.

A page is one block of one layer and head: K transposed, [head size][tokens of the block], then V, [tokens][head size]. An
entry of the pool is GRANULE tokens, whatever a block has: a row of V is one head's values of them, side by side; of K a row is
one channel's. As channels of a head lie evenly, but the next head's don't follow them, each head's K is a part of its
own, named by the head's number in the model. A rank has the parts of its heads, and who lacks a part asks the rank that has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import kvwire

GRANULE = 16  # tokens: every block size of the CPU backend is a multiple, and both sides must agree
PARTS_MAX, GROUPS_MAX = 16, 16  # of kvwire/pool.h


@dataclass
class Tensor:
    """The cache of one layer in one rank; strides and item in bytes."""

    layer: int
    address: int
    blocks: int
    heads: int
    tokens: int
    dims: int
    block_stride: int
    head_stride: int
    dtype: str
    item: int


@dataclass
class Heads:
    """Which KV heads of the model a rank has."""

    first: int
    end: int
    model: int


def heads_of(model: int, ranks: int, rank: int) -> Heads:
    """As vLLM shares KV heads out: evenly, or each to several ranks."""
    if model < 1 or not 0 <= rank < ranks or (model % ranks and ranks % model):
        raise ValueError("kvwire: %d KV heads aren't shared out evenly among %d ranks" % (model, ranks))
    first = rank * model // ranks
    return Heads(first, first + max(1, model // ranks), model)


def partners(model: int, ranks: int, rank: int, theirs: int) -> list[int]:
    """The ranks of the other side, which has `theirs`, that hold heads of this one. Both sides come to the same pairs."""
    here = heads_of(model, ranks, rank)
    return [r for r in range(theirs) for there in (heads_of(model, theirs, r),) if there.first < here.end and here.first < there.end]


def groups_of(tables: Sequence[tuple[int, Sequence[Tensor]]], heads: Heads | None) -> tuple[list[kvwire.Group], list[int]]:
    """Groups of a pool, and for each which table it is of, as a table's parts may need several groups.

    tables  for each block table of the engine: tokens of its sliding window (0: all tokens), and its layers
    heads   None: one rank, which has all that its tensors have
    """
    made: list[kvwire.Group] = []
    of: list[int] = []
    for number, (window, tensors) in enumerate(tables):
        parts = _parts(sorted(tensors, key=lambda t: t.layer), heads)
        first = tensors[0]
        for at in range(0, len(parts), PARTS_MAX):
            made.append(kvwire.Group(sorted(t.layer for t in tensors), first.blocks, first.tokens // GRANULE, parts[at:at + PARTS_MAX],
                                     entry_tokens=GRANULE, kind="window" if window else "paged", window_tokens=window))
            of.append(number)
    if len(made) > GROUPS_MAX:
        raise ValueError("kvwire: %d KV cache groups with up to %d KV heads a rank take %d groups of a pool, which has at most %d" % (
            len(tables), max(t[0].heads for _, t in tables), len(made), GROUPS_MAX))
    return made, of


def _parts(tensors: list[Tensor], heads: Heads | None) -> list[kvwire.Part]:
    t = tensors[0]
    for other in tensors:
        if (other.blocks, other.heads, other.tokens, other.dims, other.dtype) != (t.blocks, t.heads, t.tokens, t.dims, t.dtype):
            raise ValueError("kvwire: layer %d is %r, layer %d of the same group %r" % (other.layer, other, t.layer, t))
    if t.tokens % GRANULE:
        raise ValueError("kvwire: a block of %d tokens; block sizes are multiples of %d" % (t.tokens, GRANULE))
    heads = heads or Heads(0, t.heads, t.heads)
    if heads.end - heads.first != t.heads:
        raise ValueError("kvwire: layer %d has %d KV heads in this rank, not %d of %d" % (
            t.layer, t.heads, heads.end - heads.first, heads.model))
    half, row, channel = t.dims * t.tokens * t.item, GRANULE * t.dims * t.item, GRANULE * t.item
    parts = [kvwire.Part("v", t.dtype, row, t.heads, [kvwire.Plane(x.address + half, x.block_stride, row, x.head_stride)
                                                     for x in tensors], heads.first, heads.model)]
    for h in range(t.heads):
        parts.append(kvwire.Part("k%d" % (heads.first + h), t.dtype, channel, t.dims, [
            kvwire.Plane(x.address + h * x.head_stride, x.block_stride, channel, t.tokens * t.item) for x in tensors]))
    return parts
