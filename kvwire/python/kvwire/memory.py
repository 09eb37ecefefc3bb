# SPDX-License-Identifier: Apache-2.0
"""Memory as Python has it: objects with the buffer protocol (bytearray, memoryview, mmap, NumPy arrays), objects with
DLPack (PyTorch, NumPy, CuPy ...), raw addresses. Neither NumPy nor PyTorch is imported."""

from __future__ import annotations

import ctypes
import operator
from typing import Any, Sequence

from .errors import InvalidError, UnsupportedError

__all__ = ["Memory", "memory_of", "DTYPES"]

#: Names of element types: (number in mem.h and pool.h, bytes of an element).
DTYPES = {
    "f32": (1, 4), "f16": (2, 2), "bf16": (3, 2), "f8_e4m3": (4, 1), "f8_e5m2": (5, 1), "bytes": (6, 1),
    "u4x2": (7, 1),
}
ALIASES = {
    "float32": "f32", "float16": "f16", "bfloat16": "bf16", "float8_e4m3fn": "f8_e4m3", "float8_e5m2": "f8_e5m2",
    "uint8": "bytes",
}


def uint(value: Any, bits: int, name: str) -> int:
    """value as an int of 0 .. 2**bits-1; anything with __index__ will do, NumPy's integers too."""
    try:
        number = operator.index(value)
    except TypeError:
        raise InvalidError(-2, "%s is %s, not an integer" % (name, shown(value))) from None
    if not 0 <= number < 1 << bits:
        raise InvalidError(-2, "%s is %s, not 0 to %d" % (name, shown(value), (1 << bits) - 1))
    return number


def shown(value: Any) -> str:
    """value for an error's sentence, never long, never failing."""
    try:
        text = repr(value)
    except Exception:  # a caller's own repr
        text = "a %s" % type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def dtype_of(name: Any) -> tuple[int, int]:
    """(number, bytes) of an element type's name: DTYPES' own, NumPy's, or str() of a torch.dtype."""
    text = str(name).rsplit(".", 1)[-1]
    text = ALIASES.get(text, text)
    if text not in DTYPES:
        raise InvalidError(-2, "dtype is %s; there are %s" % (shown(name), " ".join(DTYPES)))
    return DTYPES[text]


class Memory:
    """A range of this process's memory.

    address   where it begins
    nbytes    how long it is
    shape     of its elements, () when it has none
    strides   in bytes, one for each of shape
    itemsize  bytes of an element, 1 when it has none
    dtype     a name of DTYPES, or None
    owner     whatever keeps it alive; held as long as this object is

    Raw addresses are believed: Memory(address, nbytes) of memory that isn't there ends the process when it is read.
    Raises InvalidError for a number that can't be an address or a length.
    """

    __slots__ = ("address", "nbytes", "shape", "strides", "itemsize", "dtype", "owner")

    def __init__(self, address: int, nbytes: int, *, owner: Any = None, shape: Sequence[int] = (),
                 strides: Sequence[int] = (), itemsize: int = 1, dtype: str | None = None) -> None:
        self.address = uint(address, 64, "address")
        self.nbytes = uint(nbytes, 63, "nbytes")
        if self.address == 0 or self.nbytes == 0 or self.address + self.nbytes > 1 << 64:
            raise InvalidError(-2, "address %#x and nbytes %d are no memory" % (self.address, self.nbytes))
        self.shape, self.strides = tuple(shape), tuple(strides)
        self.itemsize, self.dtype, self.owner = itemsize, dtype, owner

    def __repr__(self) -> str:
        return "Memory(%#x, %d, shape=%r, dtype=%r)" % (self.address, self.nbytes, self.shape, self.dtype)


class _DLTensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
                ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
                ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
                ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64)]


_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_DLPACK = {(2, 32): "f32", (2, 16): "f16", (4, 16): "bf16", (1, 8): "bytes", (0, 8): "bytes", (6, 8): "bytes"}


def _extent(shape: Sequence[int], strides: Sequence[int], itemsize: int) -> int:
    if any(s < 0 for s in strides):
        raise UnsupportedError(-62, "strides are %r: memory that runs backwards isn't taken" % (tuple(strides),))
    if any(n == 0 for n in shape):
        return 0
    return itemsize + sum((n - 1) * s for n, s in zip(shape, strides))


def _of_dlpack(obj: Any) -> Memory:
    device = obj.__dlpack_device__()
    if int(device[0]) not in (1, 3):  # CPU, and CUDA's pinned host memory
        raise UnsupportedError(-62, "memory of DLPack device %r: this version takes host memory only" % (tuple(device),))
    capsule = obj.__dlpack__()
    t = _DLTensor.from_address(_capsule_pointer(capsule, b"dltensor"))
    shape = [int(t.shape[i]) for i in range(t.ndim)]
    itemsize = t.bits * t.lanes // 8
    if t.strides:
        strides = [int(t.strides[i]) * itemsize for i in range(t.ndim)]
    else:
        strides, step = [], itemsize
        for n in reversed(shape):
            strides.insert(0, step)
            step *= n
    return Memory((t.data or 0) + t.byte_offset, _extent(shape, strides, itemsize), owner=(capsule, obj), shape=shape,
                  strides=strides, itemsize=itemsize, dtype=_DLPACK.get((t.code, t.bits)) if t.lanes == 1 else None)


def _of_buffer(obj: Any) -> Memory:
    view = memoryview(obj)
    if view.readonly:
        raise InvalidError(-2, "memory is read-only (%s): transfers write into it" % type(obj).__name__)
    if not view.c_contiguous:
        raise InvalidError(-2, "memory of a buffer must be contiguous; give strided memory by DLPack")
    if view.nbytes == 0:
        raise InvalidError(-2, "memory is empty")
    # ctypes holds the buffer; a memoryview of a memoryview would be in the way of the cycle collector.
    held = (ctypes.c_char * view.nbytes).from_buffer(obj)
    name = {("f", 4): "f32", ("e", 2): "f16", ("B", 1): "bytes"}.get((view.format.lstrip("<@="), view.itemsize))
    return Memory(ctypes.addressof(held), view.nbytes, owner=held, shape=tuple(view.shape or ()),
                  strides=tuple(view.strides or ()), itemsize=view.itemsize, dtype=name)


def memory_of(obj: Any) -> Memory:
    """The Memory of obj: a Memory, an object with DLPack or with a writable, contiguous buffer, or (address, nbytes).

    Raises InvalidError for anything else, UnsupportedError for a device's memory."""
    if isinstance(obj, Memory):
        return obj
    if isinstance(obj, tuple) and len(obj) == 2:
        return Memory(obj[0], obj[1])
    try:
        if hasattr(obj, "__dlpack__") and hasattr(obj, "__dlpack_device__"):
            return _of_dlpack(obj)
        return _of_buffer(obj)
    except (TypeError, BufferError, RuntimeError, ValueError) as e:
        if isinstance(e, InvalidError):
            raise
        raise InvalidError(-2, "memory is %s: neither a Memory, nor (address, nbytes), nor a writable buffer, "
                               "nor DLPack: %s" % (shown(obj), e)) from None
