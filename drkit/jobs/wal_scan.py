"""Looks into archived WAL for the records at which recovery can stop, along a path, on whichever target opens."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from drkit.core.cancel import CancelToken
from drkit.core.errors import DrkitError
from drkit.core.progress import Tally
from drkit.crypto.keys import Ring
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.records import Record, RecordKind, RestorePoint, Transaction, find
from drkit.engines.postgres.stream import Batch, WalStream
from drkit.engines.postgres.timeline import Timeline
from drkit.engines.postgres.wal import WalName
from drkit.repository.layout import ClusterLayout, Kind
from drkit.repository.sources import Sources
from drkit.repository.target import Target
from drkit.repository.wal import open_wal
from storage_backends.errors import StorageError

_TRANSACTIONS = frozenset({RecordKind.TRANSACTION})
_RESTORE_POINTS = frozenset({RecordKind.RESTORE_POINT})


class WalScan:
    """Reads segments [first, last] of a path, each once per question. Memory: two segments. Not thread-safe.

    Records end where the archived bytes stop making sense; what lies behind is never guessed.
    Raises as `Sources.attempt` where no target has a segment sound.
    """

    def __init__(
        self, ring: Ring, layout: ClusterLayout, sources: Sources, segment_bytes: int, token: CancelToken, tally: Tally
    ) -> None:
        self._ring, self._layout, self._sources = ring, layout, sources
        self._segment_bytes, self._token, self._tally = segment_bytes, token, tally

    def last_transaction(self, path: Timeline, first: int, last: int) -> Transaction | None:
        """The commit or abort with the latest time in the last segments that hold any; None where none does.

        Read from the end backwards: times rise with the log but for the microseconds between stamp and insertion.
        """
        for low in range(last, first - 1, -1):
            found = [one for one in self._transactions(path, max(first, low - 1), low) if self._number(one.end) >= low]
            if found:
                return max(found, key=lambda one: one.time)
        return None

    def record_at_or_after(self, path: Timeline, lsn: Lsn, last: int) -> Lsn | None:
        """The start of the first record that begins at or after `lsn`, not past segment `last`."""
        for batch in self._batches(path, lsn.segment(self._segment_bytes), last):
            later = batch.lsns[batch.lsns >= lsn.value]
            if len(later):
                return Lsn(int(later[0]))
        return None

    def ends_of(self, path: Timeline, first: int, last: int, xid: int) -> Iterator[Transaction]:
        """Commits and aborts of a transaction (low 32 bits), or of one that it was a subtransaction of."""
        wanted = xid & 0xFFFFFFFF
        for one in self._transactions(path, first, last):
            if one.xid == wanted or wanted in one.subxacts:
                yield one

    def restore_points(self, path: Timeline, first: int, last: int) -> Iterator[RestorePoint]:
        for batch in self._batches(path, first, last):
            for one in find(batch, _RESTORE_POINTS):
                if isinstance(one, RestorePoint):
                    yield one

    def stored_at(self, path: Timeline, number: int) -> datetime | None:
        """When the store got a segment, by its clock: all of it was written before."""
        name = path.segment(number, self._segment_bytes)
        key = self._layout.wal(name.text)
        try:
            return self._sources.attempt(key, lambda target: target.backend.stat(key).modified_at)
        except (DrkitError, StorageError):
            return None

    def _number(self, end: Lsn) -> int:
        return end.segment_before(self._segment_bytes)

    def _transactions(self, path: Timeline, first: int, last: int) -> Iterator[Transaction]:
        for batch in self._batches(path, first, last):
            records: Iterator[Record] = find(batch, _TRANSACTIONS)
            yield from (one for one in records if isinstance(one, Transaction))

    def _batches(self, path: Timeline, first: int, last: int) -> Iterator[Batch]:
        stream = WalStream()
        for number in range(first, last + 1):
            self._token.check()
            name = path.segment(number, self._segment_bytes)
            batch = stream.feed(name, self._segment(name))
            if batch is not None:
                yield batch
            if stream.end is not None:
                return

    def _segment(self, name: WalName) -> bytes:
        key = self._layout.wal(name.text)

        def read(target: Target) -> bytes:
            with open_wal(self._ring, target, key, Kind.WAL) as found:
                data = b"".join(found.pieces())
            self._sources.count(target, found.size_bytes)
            return data

        data = self._sources.attempt(key, read)
        self._tally.add(len(data))
        return data
