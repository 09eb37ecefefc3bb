# SPDX-License-Identifier: Apache-2.0
"""Pools: memory with a shape, as kvwire/pool.h has it. `paged_kv` makes one of K and V tensors; Group, Part and Plane
describe anything else."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Iterable, Sequence

from ._abi import ffi
from .errors import InvalidError
from .memory import Memory, dtype_of, memory_of, shown, uint

__all__ = ["Plane", "Part", "Group", "PoolDesc", "paged_kv", "fingerprint_of"]

KINDS = {"paged": 1, "window": 2, "row": 3}


@dataclass
class Plane:
    """Where one part of one layer lies. Value j of row r of entry e of block b is at
    base + b*block_stride + e*entry_stride + r*row_stride + j values; all in bytes, base an address."""

    base: int
    block_stride: int
    entry_stride: int
    row_stride: int
    value_stride: int = 0


@dataclass
class Part:
    """What one entry of one layer holds under one name.

    name        1 to 63 printable ASCII bytes, unique in its group: "k", "v" ...
    dtype       a name of kvwire.DTYPES; "bytes" for what only its owner can read
    row_bytes   bytes of a row (a head's values of one token)
    rows        rows here; row_first, rows_model: which of the model's (tensor parallelism). rows_model None: all
    planes      one for each layer of the group, in the same order
    """

    name: str
    dtype: str
    row_bytes: int
    rows: int
    planes: Sequence[Plane]
    row_first: int = 0
    rows_model: int | None = None


@dataclass
class Group:
    """Layers that share a block table.

    layers         ascending numbers in the whole model
    blocks         block ids are 0 to blocks-1
    block_entries  entries in a block
    entry_tokens   tokens that an entry stands for (1: an entry a token)
    kind           "paged", "window" (the last window_tokens only), "row" (one row a request, entry_tokens 0)
    """

    layers: Sequence[int]
    blocks: int
    block_entries: int
    parts: Sequence[Part]
    entry_tokens: int = 1
    kind: str = "paged"
    window_tokens: int = 0


@dataclass
class PoolDesc:
    """A pool for Node.add_pool().

    memory        Memory objects, or anything memory_of() takes; every plane lies inside one of them
    groups        at most 16
    model_layers  layers of the whole model; None: one more than the greatest layer of a group
    name          of the model, for messages
    fingerprint   16 bytes, equal where the weights and the meaning of the parts are equal
    """

    memory: Sequence[Any]
    groups: Sequence[Group]
    name: str = "model"
    fingerprint: bytes = b""
    model_layers: int | None = None


def fingerprint_of(*what: object) -> bytes:
    """16 bytes for Pool.fingerprint: of the str() of each argument. Take what must be equal on both sides."""
    return hashlib.blake2b("\0".join(str(w) for w in what).encode("utf8", "backslashreplace"), digest_size=16).digest()


def paged_kv(memory: Any, axes: str = "KLBTHD", *, shape: Sequence[int] | None = None, dtype: str | None = None,
             layers: Iterable[int] | None = None, name: str = "model", fingerprint: bytes | None = None,
             heads_model: int | None = None, head_first: int = 0, model_layers: int | None = None) -> PoolDesc:
    """A pool of K and V from one array, or from a list of arrays, one for each layer.

    axes    what each axis is, a letter each: K (K and V, 2 long), L layers (not with a list), B blocks, T tokens of a
            block, H heads, D values of a head. D may be 2*head_dim long: K then V, axes without K.
    memory  arrays with shape and strides (DLPack, buffers); for flat memory give shape, C order
    shape   elements, one number for each letter of axes
    dtype   a name of kvwire.DTYPES; needed where the memory doesn't say (or says only "bytes")
    layers  their numbers in the model; None: 0, 1, 2 ...

    Raises InvalidError that names what doesn't fit.

    >>> kv = bytearray(2 * 4 * 32 * 16 * 2 * 64 * 2)            # K and V, layers, blocks, tokens, heads, values, bf16
    >>> desc = paged_kv(kv, "KLBTHD", shape=(2, 4, 32, 16, 2, 64), dtype="bf16")
    """
    whole = not isinstance(memory, list)
    if not isinstance(axes, str) or sorted(axes) not in ([sorted("KLBTHD"), sorted("LBTHD")] if whole else
                                                         [sorted("KBTHD"), sorted("BTHD")]):
        raise InvalidError(-2, "axes is %s: the letters of KLBTHD once each, K left out where D holds K and V, L left "
                               "out for a list of layers" % shown(axes))
    arrays = [_shaped(m, axes, shape, dtype) for m in ([memory] if whole else memory)]
    if not arrays:
        raise InvalidError(-2, "memory is an empty list of layers")
    first = arrays[0]
    for i, a in enumerate(arrays):
        if a.shape != first.shape or a.dtype != first.dtype:
            raise InvalidError(-2, "memory[%d] is %r %s, memory[0] is %r %s" % (i, a.shape, a.dtype, first.shape,
                                                                                first.dtype))
    size = dict(zip(axes, first.shape))
    number, item = dtype_of(first.dtype)
    head_dim = size["D"] if "K" in axes else size["D"] // 2
    if size.get("K", 2) != 2 or ("K" not in axes and size["D"] % 2):
        raise InvalidError(-2, "K is %d long, D %d: there are two, K and V" % (size.get("K", 2), size["D"]))
    numbers = list(range(size["L"] if whole else len(arrays))) if layers is None else [
        uint(n, 32, "layers[%d]" % i) for i, n in enumerate(sequence(layers, "layers", 1, 512))]
    if len(numbers) != (size["L"] if whole else len(arrays)):
        raise InvalidError(-2, "layers names %d layers, the memory has %d" % (
            len(numbers), size["L"] if whole else len(arrays)))
    parts = []
    for kv, part in enumerate("kv"):
        planes = []
        for i in range(len(numbers)):
            a = arrays[0 if whole else i]
            step = dict(zip(axes, a.strides))
            if step["D"] != item:
                raise InvalidError(-2, "the values of a head lie %d bytes apart, not side by side" % step["D"])
            base = a.address + kv * (step["K"] if "K" in axes else head_dim * item) + (i * step["L"] if whole else 0)
            planes.append(Plane(base, step["B"], step["T"], step["H"]))
        parts.append(Part(part, str(first.dtype), head_dim * item, size["H"], planes, head_first,
                          heads_model if heads_model is not None else size["H"]))
    group = Group(numbers, size["B"], size["T"], parts)
    if fingerprint is None:
        fingerprint = fingerprint_of(name, len(numbers) if model_layers is None else model_layers,
                                     heads_model or size["H"], head_dim, number)
    return PoolDesc(arrays, [group], name, fingerprint, model_layers)


def _shaped(obj: Any, axes: str, shape: Sequence[int] | None, dtype: str | None) -> Memory:
    m = memory_of(obj)
    dims, strides, name = m.shape, m.strides, m.dtype if dtype is None else str(dtype)
    if name is None:
        raise InvalidError(-2, "dtype: the memory doesn't say what its elements are")
    item = dtype_of(name)[1]
    if shape is not None:
        dims = tuple(uint(n, 40, "shape[%d]" % i) for i, n in enumerate(sequence(shape, "shape", 1, 8)))
        steps: list[int] = []
        step = item
        for n in reversed(dims):
            steps.insert(0, step)
            step *= n
        strides = tuple(steps)
        if step > m.nbytes or step == 0:
            raise InvalidError(-2, "shape %r of %s takes %d bytes, the memory has %d" % (dims, name, step, m.nbytes))
    elif m.itemsize != item:
        raise InvalidError(-2, "dtype %s has %d bytes an element, the memory %d" % (name, item, m.itemsize))
    if len(dims) != len(axes) or 0 in dims:
        raise InvalidError(-2, "the memory has the shape %r, axes are %s" % (dims, axes))
    return Memory(m.address, m.nbytes, owner=m.owner, shape=dims, strides=strides, itemsize=item, dtype=name)


class _Keeper:
    """C structs and what they point to, alive as long as this is."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def new(self, kind: str, init: Any = None) -> Any:
        made = ffi.new(kind) if init is None else ffi.new(kind, init)
        self.kept.append(made)
        return made

    def text(self, value: Any, name: str, most: int) -> Any:
        try:
            raw = value.encode() if isinstance(value, str) else bytes(value) if isinstance(value, (bytes, bytearray)) \
                else None
        except UnicodeEncodeError:
            raw = None
        if raw is None or len(raw) > most or b"\0" in raw:
            raise InvalidError(-2, "%s is %s, not a text of at most %d bytes without zeros" % (name, shown(value), most))
        return self.new("char[]", raw)


def sequence(value: Any, name: str, least: int, most: int) -> list[Any]:
    """value as a list of least to most things."""
    try:
        if isinstance(value, (str, bytes, bytearray, dict)):
            raise TypeError
        items = list(value)
    except TypeError:
        raise InvalidError(-2, "%s is %s, not a sequence" % (name, shown(value))) from None
    if not least <= len(items) <= most:
        raise InvalidError(-2, "%s has %d elements, not %d to %d" % (name, len(items), least, most))
    return items


def _plane(to: Any, p: Any, where: str) -> None:
    if not isinstance(p, Plane):
        raise InvalidError(-2, "%s is %s, not a Plane" % (where, shown(p)))
    to.base = ffi.cast("void *", uint(p.base, 64, where + ".base"))
    for name in ("block_stride", "entry_stride", "row_stride", "value_stride"):
        setattr(to, name, uint(getattr(p, name), 64, "%s.%s" % (where, name)))


def _part(k: _Keeper, to: Any, p: Any, where: str, layers: int) -> None:
    if not isinstance(p, Part):
        raise InvalidError(-2, "%s is %s, not a Part" % (where, shown(p)))
    planes = sequence(p.planes, where + ".planes", layers, layers)
    to.name = k.text(p.name, where + ".name", 63)
    to.dtype = dtype_of(p.dtype)[0]
    to.rows_model = uint(p.rows if p.rows_model is None else p.rows_model, 32, where + ".rows_model")
    for name in ("row_bytes", "rows", "row_first"):
        setattr(to, name, uint(getattr(p, name), 32, "%s.%s" % (where, name)))
    to.plane_bytes = ffi.sizeof("struct kvw_plane")
    array = k.new("struct kvw_plane[]", len(planes))
    for i, plane in enumerate(planes):
        _plane(array[i], plane, "%s.planes[%d]" % (where, i))
    to.planes = array


def _group(k: _Keeper, to: Any, g: Any, where: str) -> int:
    if not isinstance(g, Group):
        raise InvalidError(-2, "%s is %s, not a Group" % (where, shown(g)))
    if not isinstance(g.kind, str) or g.kind not in KINDS:
        raise InvalidError(-2, "%s.kind is %s; there are %s" % (where, shown(g.kind), " ".join(KINDS)))
    to.kind = KINDS[g.kind]
    for name in ("blocks", "block_entries", "entry_tokens", "window_tokens"):
        setattr(to, name, uint(getattr(g, name), 32, "%s.%s" % (where, name)))
    layers = [uint(n, 32, where + ".layers") for n in sequence(g.layers, where + ".layers", 1, 512)]
    parts = sequence(g.parts, where + ".parts", 1, 16)
    to.layer_count, to.layers = len(layers), k.new("uint32_t[]", layers)
    to.part_count, to.part_bytes = len(parts), ffi.sizeof("struct kvw_part_desc")
    array = k.new("struct kvw_part_desc[]", len(parts))
    for i, part in enumerate(parts):
        _part(k, array[i], part, "%s.parts[%d]" % (where, i), len(layers))
    to.parts = array
    return max(layers)


def c_desc(desc: Any) -> tuple[Any, list[Memory], list[Any]]:
    """(struct kvw_pool_desc *, the memory, what keeps the struct alive) of a PoolDesc."""
    if not isinstance(desc, PoolDesc):
        raise InvalidError(-2, "desc is %s, not a PoolDesc" % shown(desc))
    k = _Keeper()
    d = k.new("struct kvw_pool_desc *")
    memory = [memory_of(m) for m in sequence(desc.memory, "memory", 1, 4096)]
    groups = sequence(desc.groups, "groups", 1, 16)
    d.size = ffi.sizeof("struct kvw_pool_desc")
    d.name = k.text(desc.name, "name", 63)
    if not isinstance(desc.fingerprint, (bytes, bytearray)) or len(desc.fingerprint) != 16:
        raise InvalidError(-2, "fingerprint is %s, not 16 bytes" % shown(desc.fingerprint))
    d.fingerprint = list(desc.fingerprint)
    mems = k.new("struct kvw_mem[]", len(memory))
    for to, m in zip(mems, memory):
        to.base, to.bytes, to.kind, to.dmabuf_fd = ffi.cast("void *", m.address), m.nbytes, 1, -1
    d.mem_count, d.mem_bytes, d.mems = len(memory), ffi.sizeof("struct kvw_mem"), mems
    array = k.new("struct kvw_group_desc[]", len(groups))
    highest = max(_group(k, array[i], g, "groups[%d]" % i) for i, g in enumerate(groups))
    d.group_count, d.group_bytes, d.groups = len(groups), ffi.sizeof("struct kvw_group_desc"), array
    d.model_layers = highest + 1 if desc.model_layers is None else uint(desc.model_layers, 32, "model_layers")
    return d, memory, k.kept
