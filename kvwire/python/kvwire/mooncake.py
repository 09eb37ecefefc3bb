# SPDX-License-Identifier: Apache-2.0
"""mooncake.engine's TransferEngine over a kvwire node: the same calls, the same return codes.

    from kvwire.mooncake import TransferEngine          # or, before anybody imports mooncake:
    kvwire.mooncake.install()                           # then `from mooncake.engine import TransferEngine` is this one

KVWIRE_AS_MOONCAKE=1 makes `import kvwire` do the latter. Sessions are "host:port" as returned to peers; addresses are raw
ones; 0 is returned only when the bytes are in the other side's memory. Calls return a negative number instead of raising;
last_error() says why. Every call may come from any thread.

What differs from mooncake-transfer-engine 0.3.13: a batch may have 100,000 entries; a local address that isn't registered
is refused (-1) where theirs reads it all the same; the metadata server is P2PHANDSHAKE alone; the protocol's name is taken
and $KVWIRE_TRANSPORT ("udp") decides."""

from __future__ import annotations

import collections
import ctypes
import enum
import itertools
import json
import os
import socket
import sys
import threading
import time
import types
from typing import Any, Sequence

from .batch import Batch, Region
from .errors import AgainError, Error, InvalidError, NotFoundError, PeerLostError
from .memory import Memory
from .node import EventKind, Node, Peer

__all__ = ["TransferEngine", "TransferNotify", "TransferOpcode", "install"]

FAILED, DEAD = -1, -102
UP_SECONDS = 5.0  # for a session to answer
POST_SECONDS = 60.0  # for a batch
TOLD_SECONDS = 0.05  # for a region that the peer added a moment ago to become known here
NOTIFIES_MAX = 65536


class TransferOpcode(enum.IntEnum):
    READ = 0
    WRITE = 1
    Read = 0
    Write = 1


class TransferNotify:
    """A name and a message, at most some 500 bytes together, that arrive after a transfer's data."""

    def __init__(self, name: str = "", msg: str = "") -> None:
        self.name, self.msg = name, msg

    def __repr__(self) -> str:
        return "TransferNotify(%r, %r)" % (self.name, self.msg)


class TransferEngine:
    def __init__(self) -> None:
        self._node: Node | None = None
        self._lock = threading.Lock()
        self._peers: dict[str, Peer] = {}
        self._regions: dict[int, Region] = {}
        self._batches: dict[int, Batch] = {}
        self._numbers = itertools.count(1)
        self._notifies: collections.deque[TransferNotify] = collections.deque(maxlen=NOTIFIES_MAX)
        self._managed: dict[int, Any] = {}
        self._port = 0
        self._why = ""

    def last_error(self) -> str:
        """A sentence about the latest call of any thread that failed."""
        return self._why

    def _failed(self, why: object, code: int = FAILED) -> int:
        self._why = str(why)
        return code

    # -- life -----------------------------------------------------------------------------------------------------

    def initialize(self, arg0: str, arg1: str, arg2: str, arg3: str) -> int:
        """host, "P2PHANDSHAKE", protocol, device. host may be "host:port"; else a free port is taken."""
        if arg1 != "P2PHANDSHAKE":
            return self._failed("metadata server %r: this engine knows P2PHANDSHAKE alone" % (arg1,))
        if self._node is not None:
            return self._failed("initialize() was called before")
        host, _, port = str(arg0).rpartition(":") if ":" in str(arg0) else (str(arg0), "", "")
        for _ in range(16):
            number = int(port) if port.isdigit() else _free_port(host)
            if number == 0:
                return self._failed("%r isn't an address of this machine" % (arg0,))
            try:
                self._node = Node("mooncake %s:%d" % (host, number), local="%s:%d" % (host, number), listen=True,
                                  transport=os.environ.get("KVWIRE_TRANSPORT", "udp"))
                self._port = number
                return 0
            except Error as e:
                self._failed(e)
                if e.name != "E_ADDRESS" or port.isdigit():
                    break
        return FAILED

    def initialize_ext(self, arg0: str, arg1: str, arg2: str, arg3: str, arg4: str) -> int:
        return self.initialize(arg0, arg1, arg2, arg3)

    def get_rpc_port(self) -> int:
        return self._port

    def close(self) -> None:
        """Not in theirs: end the node. Without it that happens when the object goes."""
        if self._node is not None:
            self._node.close()

    # -- memory ---------------------------------------------------------------------------------------------------

    def register_memory(self, buffer_addr: int, capacity: int, location: str = "*") -> int:
        try:
            if self._node is None:
                return self._failed("initialize() comes first")
            region = self._node.add_region(Memory(buffer_addr, capacity))
        except Error as e:
            return self._failed(e)
        with self._lock:
            old = self._regions.pop(int(buffer_addr), None)
            self._regions[int(buffer_addr)] = region
        if old is not None:
            self._remove(old)
        return 0

    def unregister_memory(self, arg0: int) -> int:
        with self._lock:
            region = self._regions.pop(int(arg0), None)
        return self._failed("%#x isn't registered" % int(arg0)) if region is None else self._remove(region)

    def _remove(self, region: Region) -> int:
        try:
            region.remove()
            return 0
        except Error as e:
            return self._failed(e)

    def batch_register_memory(self, buffer_addresses: Sequence[int], capacities: Sequence[int],
                              location: str = "*") -> int:
        if len(buffer_addresses) != len(capacities):
            return self._failed("%d addresses, %d capacities" % (len(buffer_addresses), len(capacities)))
        return min([self.register_memory(a, n) for a, n in zip(buffer_addresses, capacities)], default=0)

    def batch_unregister_memory(self, arg0: Sequence[int]) -> int:
        return min([self.unregister_memory(a) for a in arg0], default=0)

    def allocate_managed_buffer(self, arg0: int) -> int:
        """An address of that many bytes, registered; 0: no."""
        try:
            held = (ctypes.c_char * int(arg0))()
        except (ValueError, OverflowError, MemoryError) as e:
            self._failed(e)
            return 0
        address = ctypes.addressof(held)
        if self.register_memory(address, int(arg0)) != 0:
            return 0
        with self._lock:
            self._managed[address] = held
        return address

    def free_managed_buffer(self, arg0: int, arg1: int) -> int:
        if int(arg0) not in self._managed:
            return self._failed("%#x isn't a managed buffer" % int(arg0))
        done = self.unregister_memory(arg0)
        with self._lock:
            self._managed.pop(int(arg0), None)
        return done

    def _inside(self, address: int, length: int) -> bool:
        return any(a <= address and address + length <= a + len(held) for a, held in list(self._managed.items()))

    def write_bytes_to_buffer(self, arg0: int, arg1: bytes, arg2: int) -> int:
        if arg2 > len(arg1) or not self._inside(int(arg0), int(arg2)):
            return self._failed("%#x, %d bytes: not in a managed buffer, or more than was given" % (int(arg0), int(arg2)))
        ctypes.memmove(int(arg0), bytes(arg1), int(arg2))
        return 0

    def read_bytes_from_buffer(self, arg0: int, arg1: int) -> bytes:
        if not self._inside(int(arg0), int(arg1)):
            raise InvalidError(-2, "%#x, %d bytes: not in a managed buffer" % (int(arg0), int(arg1)))
        return ctypes.string_at(int(arg0), int(arg1))

    # -- peers ----------------------------------------------------------------------------------------------------

    def _peer(self, session: str, seconds: float = UP_SECONDS) -> Peer:
        if self._node is None:
            raise InvalidError(-2, "initialize() comes first")
        self._drain()
        with self._lock:
            peer = self._peers.get(session)
            if peer is None:
                peer = self._peers[session] = self._node.add_peer(str(session))
        try:
            if peer.info().state != "up":
                peer.wait_up(seconds)
        except NotFoundError:
            with self._lock:
                self._peers.pop(session, None)
            raise PeerLostError(-42, "%s is gone" % session) from None
        return peer

    def send_probe(self, peer_server_name: str) -> int:
        """0: it answers; -102: it doesn't."""
        try:
            self._peer(peer_server_name, 1.0)
            return 0
        except Error as e:
            return self._failed(e, DEAD)

    def get_first_buffer_address(self, arg0: str) -> int:
        """Of a session's first registered memory; 0: there is none."""
        try:
            regions = self._told(self._peer(arg0))
            return regions[0][0] if regions else 0
        except Error as e:
            return self._failed(e, 0)

    @staticmethod
    def _told(peer: Peer) -> list[tuple[int, int, bool, bool]]:
        until = time.monotonic() + 1
        while True:
            try:
                return peer.regions()
            except AgainError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.001)

    # -- transfers ------------------------------------------------------------------------------------------------

    def _post(self, session: str, op: int, locals_: Sequence[int], remotes: Sequence[int], lengths: Sequence[int],
              notify: TransferNotify | None = None) -> Batch:
        peer = self._peer(session)
        assert self._node is not None
        until = time.monotonic() + TOLD_SECONDS
        while True:
            try:
                batch = self._node.batch("write" if int(op) == TransferOpcode.WRITE else "read", peer,
                                         (locals_, remotes, lengths))
                break
            except (AgainError, NotFoundError):
                if time.monotonic() > until:
                    raise
                time.sleep(0.002)
        note = None if notify is None else json.dumps([notify.name, notify.msg]).encode()
        try:
            batch.post(note, deadline=POST_SECONDS)
        except Error:
            batch.release()
            raise
        return batch

    def _sync(self, *args: Any) -> int:
        until = time.monotonic() + TOLD_SECONDS
        while True:
            try:
                with self._post(*args) as batch:
                    batch.wait(POST_SECONDS + 5)
                return 0
            except NotFoundError as e:  # memory that the peer has just registered again: its new region is told in a moment
                if time.monotonic() > until:
                    return self._failed(e)
            except Error as e:
                return self._failed(e)

    def _async(self, *args: Any) -> int:
        try:
            batch = self._post(*args)
        except Error as e:
            return self._failed(e)
        number = next(self._numbers)
        with self._lock:
            self._batches[number] = batch
        return number

    def transfer_sync_write(self, target_hostname: str, buffer: int, peer_buffer_address: int, length: int,
                            transport_hint: str = "") -> int:
        return self._sync(target_hostname, 1, [buffer], [peer_buffer_address], [length])

    def transfer_sync_read(self, target_hostname: str, buffer: int, peer_buffer_address: int, length: int,
                           transport_hint: str = "") -> int:
        return self._sync(target_hostname, 0, [buffer], [peer_buffer_address], [length])

    def batch_transfer_sync_write(self, target_hostname: str, buffers: Sequence[int], peer_buffer_addresses: Sequence[int],
                                  lengths: Sequence[int], transport_hint: str = "") -> int:
        return self._sync(target_hostname, 1, buffers, peer_buffer_addresses, lengths)

    def batch_transfer_sync_read(self, target_hostname: str, buffers: Sequence[int], peer_buffer_addresses: Sequence[int],
                                 lengths: Sequence[int], transport_hint: str = "") -> int:
        return self._sync(target_hostname, 0, buffers, peer_buffer_addresses, lengths)

    def batch_transfer_async_write(self, target_hostname: str, buffers: Sequence[int], peer_buffer_addresses: Sequence[int],
                                   lengths: Sequence[int], transport_hint: str = "") -> int:
        return self._async(target_hostname, 1, buffers, peer_buffer_addresses, lengths)

    def batch_transfer_async_read(self, target_hostname: str, buffers: Sequence[int], peer_buffer_addresses: Sequence[int],
                                  lengths: Sequence[int], transport_hint: str = "") -> int:
        return self._async(target_hostname, 0, buffers, peer_buffer_addresses, lengths)

    def transfer_sync(self, target_hostname: str, buffer: int, peer_buffer_address: int, length: int, opcode: int,
                      notify: TransferNotify | None = None, transport_hint: str = "") -> int:
        return self._sync(target_hostname, opcode, [buffer], [peer_buffer_address], [length], notify)

    def batch_transfer_sync(self, target_hostname: str, buffers: Sequence[int], peer_buffer_addresses: Sequence[int],
                            lengths: Sequence[int], opcode: int, notify: TransferNotify | None = None,
                            transport_hint: str = "") -> int:
        return self._sync(target_hostname, opcode, buffers, peer_buffer_addresses, lengths, notify)

    def batch_transfer_async(self, target_hostname: str, buffers: Sequence[int], peer_buffer_addresses: Sequence[int],
                             lengths: Sequence[int], opcode: int, transport_hint: str = "") -> int:
        return self._async(target_hostname, opcode, buffers, peer_buffer_addresses, lengths)

    def transfer_submit_write(self, target_hostname: str, buffer: int, peer_buffer_address: int, length: int,
                              transport_hint: str = "") -> int:
        return self._async(target_hostname, 1, [buffer], [peer_buffer_address], [length])

    def get_batch_transfer_status(self, arg0: Sequence[int]) -> int:
        """Wait for all of them and forget them: 0 if each went well."""
        outcome = 0
        for number in arg0:
            with self._lock:
                batch = self._batches.pop(int(number), None)
            if batch is None:
                outcome = self._failed("there is no batch %s" % number)
                continue
            try:
                with batch:
                    batch.wait(POST_SECONDS + 5)
            except Error as e:
                outcome = self._failed(e)
        return outcome

    def transfer_check_status(self, arg0: int) -> int:
        """1: done, and forgotten; 0: under way; -1: failed, and forgotten."""
        with self._lock:
            batch = self._batches.get(int(arg0))
        if batch is None:
            return self._failed("there is no batch %s" % arg0)
        try:
            status = batch.status()
        except Error as e:
            return self._failed(e)
        if status.state != "done":
            return 0
        with self._lock:
            self._batches.pop(int(arg0), None)
        batch.release()
        return 1 if status.error is None else self._failed(status.error)

    # -- notifications and the rest -------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Events: notifications are kept, the others tell nothing that calls don't ask for."""
        assert self._node is not None
        while (event := self._node.next_event()) is not None:
            if event.kind == EventKind.NOTIFY:
                try:
                    name, msg = json.loads(event.note)
                    self._notifies.append(TransferNotify(str(name), str(msg)))
                except (ValueError, TypeError):
                    self._notifies.append(TransferNotify("", event.note.decode("utf8", "replace")))

    def get_notifies(self) -> list[TransferNotify]:
        """Those that came since the last call, in their order."""
        if self._node is None:
            return []
        self._drain()
        came = []
        while self._notifies:
            came.append(self._notifies.popleft())
        return came

    def get_local_topology(self, device_name: str | None = None) -> str:
        return "{}"

    def warmup_efa_segment(self, segment_name: str) -> int:
        return self.send_probe(segment_name)

    def get_engine(self) -> "TransferEngine":
        return self

    def get_engine_ptr(self) -> int:
        """0: there is no C++ object."""
        return 0


def _free_port(host: str) -> int:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.bind((host, 0))
            return int(s.getsockname()[1])
    except OSError:
        return 0


def install() -> None:
    """Put this module in mooncake.engine's place; the package mooncake needn't be installed. Raises RuntimeError when the
    real one was imported before."""
    here = sys.modules[__name__]
    real = sys.modules.get("mooncake.engine")
    if real is not None and real is not here:
        raise RuntimeError("mooncake.engine was imported before kvwire.mooncake.install()")
    if "mooncake" not in sys.modules:
        try:
            __import__("mooncake")
        except ImportError:
            package = types.ModuleType("mooncake")
            package.__path__ = []
            sys.modules["mooncake"] = package
    sys.modules["mooncake.engine"] = here
    sys.modules["mooncake"].engine = here  # type: ignore[attr-defined]
