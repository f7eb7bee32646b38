"""Who is at the other end of a Unix socket, as the kernel says."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass

from drkit.core.clock import Clock
from drkit.core.log import Log

_UCRED = struct.Struct("3i")  # struct ucred, unix(7): pid, uid, gid
_QUIET_S = 60.0


@dataclass(frozen=True, slots=True)
class Peer:
    """Of the process that connected, at that moment."""

    pid: int
    uid: int
    gid: int


def peer_of(connection: socket.socket) -> Peer:
    return Peer(*_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


class Gate:
    """Lets root, the daemon's own user and the owners of clusters in; tells of all others once a minute at most.

    owners: the users that own a cluster's data folder now. Thread-safe.
    """

    def __init__(self, own_uid: int, owners: Callable[[], frozenset[int]], clock: Clock, log: Log) -> None:
        self.own_uid, self._owners, self._clock, self._log = own_uid, owners, clock, log
        self._lock = threading.Lock()
        self._told_at: float | None = None
        self._untold = 0

    def admits(self, peer: Peer) -> bool:
        return self.trusts(peer) or peer.uid in self._owners()

    def trusts(self, peer: Peer) -> bool:
        """Whether it may do by itself whatever this process may: nothing can be gained by asking us."""
        return peer.uid in (0, self.own_uid)

    def refused(self, peer: Peer, what: str) -> None:
        with self._lock:
            now = self._clock.monotonic()
            if self._told_at is not None and now - self._told_at < _QUIET_S:
                self._untold += 1
                return
            more, self._told_at, self._untold = self._untold, now, 0
        self._log.warn("peer refused", uid=peer.uid, pid=peer.pid, what=what, refused_before=more)
