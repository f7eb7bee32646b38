"""A store whose clock the test turns: a folder stamps its files by the machine's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from storage_backends.api import Key, ObjectInfo, StorageBackend, Upload
from storage_backends.passthrough import Passthrough, PassthroughUpload
from tests.jobs.expire_world import WorldClock


class Clocked(Passthrough):
    """Objects are as old as the clock says that they are, from their commit on."""

    def __init__(self, inner: StorageBackend, clock: WorldClock) -> None:
        super().__init__(inner)
        self._clock = clock
        self._times: dict[str, datetime] = {}

    def create(self, key: Key, size_bytes: int | None = None, *, replacing: ObjectInfo | None = None) -> Upload:
        return _ClockedUpload(self, super().create(key, size_bytes, replacing=replacing))

    def born(self, info: ObjectInfo) -> ObjectInfo:
        self._times[info.key] = self._clock.now()
        return self._stamp(info)

    def _stamp(self, info: ObjectInfo) -> ObjectInfo:
        return replace(info, modified_at=self._times[info.key])

    def stat(self, key: Key) -> ObjectInfo:
        return self._stamp(super().stat(key))

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        return map(self._stamp, super().list(prefix, after))


class _ClockedUpload(PassthroughUpload):
    def __init__(self, clocked: Clocked, inner: Upload) -> None:
        super().__init__(inner)
        self._clocked = clocked

    def commit(self) -> ObjectInfo:
        return self._clocked.born(super().commit())
