"""What a job knows for a while and memory should not hold: bytes, rows and sorted rows in a file without a name.

The file is made when more than `HELD_BYTES` came, has no name from the start (open(2), O_TMPFILE; where a filesystem
lacks that, it is unlinked at once) and goes with its process, however that ends.
"""

from __future__ import annotations

import heapq
import marshal
import os
import struct
import tempfile
import threading
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, Generic, TypeVar, overload

from storage_backends.oserrors import os_errors

HELD_BYTES = 4 << 20
_BLOCK_ROWS = 512
_RUN_ROWS = 1 << 16
_LENGTH = struct.Struct("<I")

Row = TypeVar("Row")


class Scratch:
    """Bytes that are appended, and read at any place. Thread-safe.

    folder: on the filesystem that takes them; None: TMPDIR, else /var/tmp, which unlike /tmp is no RAM disk.
    Raises OutOfSpace where it is full, or another StorageError.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or Path(os.environ.get("TMPDIR") or "/var/tmp")
        self._held = bytearray()
        self._file: IO[bytes] | None = None
        self._lock = threading.Lock()
        self.size_bytes = 0

    def append(self, data: bytes) -> int:
        """Returns where it begins."""
        with self._lock:
            start = self.size_bytes
            if self._file is None and start + len(data) <= HELD_BYTES:
                self._held += data
            else:
                self._store(data)
            self.size_bytes += len(data)
            return start

    def _store(self, data: bytes) -> None:
        where = str(self._folder)
        with os_errors("keep a job's working data", where, self.size_bytes + len(data), where):
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0, dir=self._folder)  # noqa: SIM115  see `close`
                self._write(self._file.fileno(), memoryview(self._held), 0)
                self._held = bytearray()
            self._write(self._file.fileno(), memoryview(data), self.size_bytes)

    @staticmethod
    def _write(descriptor: int, rest: memoryview, at: int) -> None:
        while rest:
            count = os.pwrite(descriptor, rest, at)
            rest, at = rest[count:], at + count

    def read(self, start: int, length: int) -> bytes:
        """Fewer bytes at the end."""
        with self._lock:
            length = max(0, min(length, self.size_bytes - start))
            if self._file is None:
                return bytes(self._held[start : start + length])
            with os_errors("read a job's working data", str(self._folder)):
                return os.pread(self._file.fileno(), length, start)

    def close(self) -> None:
        """It is not needed any more; its room is free on return."""
        with self._lock:
            self._held = bytearray()
            if self._file is not None:
                self._file.close()


class Pieces(Sequence[bytes]):
    """Buffers in the order in which they were appended. Memory: 16 bytes for each, and those that are in use."""

    def __init__(self, folder: Path | None = None) -> None:
        self._bytes = Scratch(folder)
        self._ends = array("Q", [0])

    def append(self, piece: bytes) -> None:
        self._bytes.append(piece)
        self._ends.append(self._bytes.size_bytes)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[bytes]: ...
    def __getitem__(self, at: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        place = range(len(self))[at]
        return self._bytes.read(self._ends[place], self._ends[place + 1] - self._ends[place])


class Rows(Generic[Row]):
    """Rows of plain values (what marshal takes), read in the order in which they came, as often as wanted.

    They come out as plain tuples and values. Memory: a block of rows for the one who appends and for each reader.
    Not thread-safe while rows are appended.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._bytes = Scratch(folder)
        self._last: list[Row] = []
        self._count = 0

    def append(self, row: Row) -> None:
        self._last.append(row)
        self._count += 1
        if len(self._last) >= _BLOCK_ROWS:
            self.seal()

    def seal(self) -> int:
        """End the block at hand; returns the place of the next one, for `between`."""
        if self._last:
            block = marshal.dumps(self._last)
            self._bytes.append(_LENGTH.pack(len(block)) + block)
            self._last = []
        return self._bytes.size_bytes

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Row]:
        return self.between(0, self.seal())

    def between(self, start: int, end: int) -> Iterator[Row]:
        """The rows of the blocks that begin in [start, end)."""
        while start < end:
            (length,) = _LENGTH.unpack(self._bytes.read(start, _LENGTH.size))
            block: list[Any] = marshal.loads(self._bytes.read(start + _LENGTH.size, length))
            yield from block
            start += _LENGTH.size + length

    def close(self) -> None:
        self._bytes.close()


def in_order(rows: Iterable[Any], folder: Path | None = None) -> Iterator[Any]:
    """Sort rows that compare with one another. All are taken before it returns; memory: 65,536 rows, however many."""
    source = iter(rows)
    run = _run(source)
    if len(run) < _RUN_ROWS:
        return iter(run)
    kept: Rows[Any] = Rows(folder)
    runs: list[tuple[int, int]] = []
    while run:
        start = kept.seal()
        for row in run:
            kept.append(row)
        runs.append((start, kept.seal()))
        run = _run(source)
    return heapq.merge(*(kept.between(start, end) for start, end in runs))


def _run(source: Iterator[Any]) -> list[Any]:
    """The next rows, sorted."""
    return sorted(islice(source, _RUN_ROWS))
