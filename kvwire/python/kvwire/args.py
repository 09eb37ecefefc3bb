# SPDX-License-Identifier: Apache-2.0
"""Arguments, looked at before C sees them: each that can't be raises InvalidError with its name and value."""

from __future__ import annotations

import time
from typing import Any, Mapping

from ._abi import ffi
from .errors import InvalidError
from .memory import shown


def note_of(note: Any) -> bytes:
    """bytes of a note; at most 512."""
    if not isinstance(note, (bytes, bytearray)) or len(note) > 512:
        raise InvalidError(-2, "note is %s, not at most 512 bytes" % shown(note))
    return bytes(note)


def seconds_of(value: Any, name: str) -> float | None:
    """A time in seconds; None: for ever."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        raise InvalidError(-2, "%s is %s, not seconds" % (name, shown(value))) from None
    if not 0 <= seconds < 1e9:
        raise InvalidError(-2, "%s is %s, not 0 to 1e9 seconds" % (name, shown(value)))
    return seconds


def until_ns_of(timeout: Any, name: str = "timeout") -> int:
    seconds = seconds_of(timeout, name)
    return (1 << 64) - 1 if seconds is None else time.monotonic_ns() + int(seconds * 1e9)


def name_of(table: Mapping[str, int], value: Any, name: str) -> int:
    if not isinstance(value, str) or value not in table:
        raise InvalidError(-2, "%s is %s; there are %s" % (name, shown(value), " ".join(table)))
    return table[value]


def sentence_of(why: Any) -> str:
    """A char[] that C wrote, as a str."""
    return bytes(ffi.string(why)).decode("utf8", "replace")
