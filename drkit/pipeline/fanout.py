"""One pass to several targets: every finished object goes to each target's own bounded queue.

A target that fails, or that keeps a full queue for too long while enough others go on, leaves the run; it is
healed later by replication. The run is cancelled when fewer targets are left than it needs.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from drkit.core.errors import Cancelled, Failed
from drkit.core.flow import Channel, Closed, Group
from storage_backends.api import Key, StorageBackend
from storage_backends.errors import StorageError, Unavailable

QUEUE_OBJECTS = 1
WRITERS = 2
STALL_S = 60.0


@dataclass(frozen=True, slots=True)
class Parcel:
    """One object to be created: its parts are shared by all lanes and never changed."""

    key: Key
    parts: Sequence[bytes]
    size_bytes: int


@dataclass(slots=True)
class _Lane:
    name: str
    backend: StorageBackend
    queue: Channel[Parcel]
    failure: StorageError | None = None
    sent_bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class FanOut:
    """Thread-safe `send`. Writers are threads of `group`; memory is bounded by queue, writers and what senders hold."""

    def __init__(
        self, backends: Mapping[str, StorageBackend], *, required: int, group: Group, stall_s: float = STALL_S
    ) -> None:
        self._required, self._token, self._stall_s = required, group.token, stall_s
        self._lanes = [_Lane(n, b, Channel(QUEUE_OBJECTS, group.token, name=n)) for n, b in backends.items()]
        for lane in self._lanes:
            for number in range(WRITERS):
                group.start(f"{lane.name}-{number}", self._write, lane)

    @property
    def failures(self) -> dict[str, StorageError]:
        """Targets that left the run, and why."""
        return {lane.name: lane.failure for lane in self._lanes if lane.failure is not None}

    @property
    def sent_bytes(self) -> dict[str, int]:
        """Bytes durable on each target."""
        return {lane.name: lane.sent_bytes for lane in self._lanes}

    def send(self, parcel: Parcel) -> None:
        """Queue for every target of the run; waits for room. Raises Failed when too few targets are left."""
        for lane in self._lanes:
            if lane.failure is None:
                self._offer(lane, parcel)
        self._enough()

    def finish(self) -> None:
        """No more parcels. Durability is certain when the group has been joined."""
        for lane in self._lanes:
            lane.queue.close()

    def _alive(self) -> int:
        return sum(lane.failure is None for lane in self._lanes)

    def _offer(self, lane: _Lane, parcel: Parcel) -> None:
        try:
            if lane.queue.offer(parcel, self._stall_s):
                return
            while self._alive() <= self._required:
                if lane.queue.offer(parcel, self._stall_s):
                    return
        except Closed:
            return
        except Cancelled:
            if lane.failure is not None:
                return
            raise
        why = f"it took nothing for {self._stall_s:.0f} s while others went on"
        self._fail(lane, Unavailable("the target fell behind", where=lane.backend.url, why=why))

    def _write(self, lane: _Lane) -> None:
        try:
            for parcel in lane.queue:
                self._put(lane, parcel)
        except StorageError as error:
            self._fail(lane, error)
        except Cancelled:
            if lane.failure is None:
                raise

    def _put(self, lane: _Lane, parcel: Parcel) -> None:
        with lane.backend.create(parcel.key, parcel.size_bytes) as upload:
            for part in parcel.parts:
                self._token.check()
                upload.write(part)
            upload.commit()
        with lane.lock:
            lane.sent_bytes += parcel.size_bytes

    def _fail(self, lane: _Lane, error: StorageError) -> None:
        with lane.lock:
            lane.failure = lane.failure or error
        lane.queue.cancel(str(error))
        self._enough()

    def _enough(self) -> None:
        if self._alive() < self._required:
            causes = "; ".join(f"{name}: {error}" for name, error in self.failures.items())
            raise Failed(
                f"only {self._alive()} of {self._required} required targets are left",
                why=causes,
                cure="`drkit check` tries each target; nothing of this backup counts as good",
            )
