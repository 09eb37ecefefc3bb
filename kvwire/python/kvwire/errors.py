# SPDX-License-Identifier: Apache-2.0
"""What can go wrong, as exceptions. Every one carries `code` (the number of kvwire/err.h), `name` ("E_LEASE") and
`sentence`, which names the field and the value where an argument is wrong."""

from __future__ import annotations

__all__ = [
    "Error", "InvalidError", "AgainError", "NotFoundError", "CanceledError", "LeaseError", "DeadlineError",
    "ChecksumError", "PeerLostError", "MismatchError", "UnsupportedError", "ClosedError", "error_of",
]


class Error(Exception):
    """Any error of the library.

    code      an int, negative, of kvwire/err.h
    name      "E_INVALID" and so on; "E_?" for a number that this package doesn't know
    sentence  why, in words
    """

    def __init__(self, code: int, sentence: str) -> None:
        self.code = int(code)
        self.name = NAMES.get(self.code, "E_?")
        self.sentence = sentence
        super().__init__(code, sentence)

    def __str__(self) -> str:
        return "%s (%s)" % (self.sentence, self.name)


class InvalidError(Error, ValueError):
    """E_INVALID: an argument out of its documented range; the sentence names it."""


class AgainError(Error):
    """E_AGAIN: no room now; take events, then try again."""


class NotFoundError(Error, LookupError):
    """E_NOTFOUND: no such transfer, peer, pool or codec."""


class CanceledError(Error):
    """E_CANCELED: one of the two sides aborted."""


class LeaseError(Error):
    """E_LEASE: the other side was silent for longer than the lease."""


class DeadlineError(Error, TimeoutError):
    """E_DEADLINE: the caller's own deadline passed."""


class ChecksumError(Error):
    """E_CHECKSUM or E_CODEC: what came was damaged."""


class PeerLostError(Error, ConnectionError):
    """E_PEER_LOST: the peer went away."""


class MismatchError(Error):
    """E_MISMATCH or E_VERSION: the two sides differ; the sentence names the field."""


class UnsupportedError(Error):
    """E_UNSUPPORTED: not built in, or this machine can't."""


class ClosedError(Error):
    """The node has been closed (E_CANCELED)."""


NAMES = {
    -1: "E_AGAIN", -2: "E_INVALID", -3: "E_NOMEM", -4: "E_NOTFOUND", -5: "E_IO", -6: "E_FORMAT",
    -20: "E_CHECKSUM", -21: "E_CANCELED", -22: "E_LEASE", -23: "E_DEADLINE", -24: "E_NOBLOCKS", -25: "E_CODEC",
    -40: "E_TRUNCATED", -41: "E_PROTOCOL", -42: "E_PEER_LOST", -43: "E_VERSION", -44: "E_MISMATCH",
    -60: "E_DEVICE", -61: "E_ADDRESS", -62: "E_UNSUPPORTED",
}
PHRASES = {
    -1: "no room now", -2: "an argument is out of its range", -3: "no memory", -4: "there is no such thing",
    -5: "a file or a descriptor failed", -6: "not what it claims to be", -21: "aborted", -22: "the lease ran out",
    -23: "the deadline passed", -42: "the peer went away", -44: "the two sides differ", -62: "not possible here",
}
CLASSES: dict[int, type[Error]] = {
    -1: AgainError, -2: InvalidError, -4: NotFoundError, -20: ChecksumError, -21: CanceledError, -22: LeaseError,
    -23: DeadlineError, -25: ChecksumError, -42: PeerLostError, -43: MismatchError, -44: MismatchError,
    -62: UnsupportedError,
}


def error_of(code: int, sentence: str) -> Error:
    """The exception of a code, of the class that fits."""
    return CLASSES.get(int(code), Error)(code, sentence or PHRASES.get(int(code), "error %d" % code))
