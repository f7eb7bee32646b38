"""Reading the data folder: each file once, pages checked, extents placed by several workers."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from drkit.core.cancel import CancelToken
from drkit.core.clock import Clock
from drkit.core.errors import Failed
from drkit.core.flow import Channel, Group
from drkit.core.progress import Tally
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.page import PageChecker, page_lsn
from drkit.engines.postgres.walk import Entry as Found
from drkit.jobs.backup_journal import Journal
from drkit.jobs.backup_parent import Earlier
from drkit.pipeline.stager import Placed, Stager

_BATCH_BYTES = 16 << 20
_BATCH_FILES = 256
_REREADS = 3


@dataclass(slots=True)
class FileCopy:
    """A file of the backup and where its extents went; `placed` by extent number, filled by the workers.

    What is placed before they begin is not read. unchanged: since the backup before · adopted: nothing of it is read
    """

    found: Found
    placed: dict[int, Placed] = field(default_factory=dict)
    unchanged: bool = False
    adopted: bool = False
    vanished: bool = False
    settled: bool = False

    def read_anew(self) -> None:
        """Trust nothing of the backup before."""
        self.placed, self.unchanged, self.adopted = {}, False, False

    def unread(self, extent_bytes: int) -> Iterator[tuple[int, int]]:
        """Number and length in bytes of the extents that are not placed."""
        for number in range(-(-self.found.size // extent_bytes)):
            if number not in self.placed:
                yield number, min(extent_bytes, self.found.size - number * extent_bytes)

    def extents(self, extent_bytes: int) -> list[Placed]:
        """In order; what lies behind a short one was cut off while we read, and WAL replays it."""
        result: list[Placed] = []
        for number in range(len(self.placed)):
            placed = self.placed.get(number)
            if placed is None:
                break
            result.append(placed)
            if placed.length < extent_bytes:
                break
        return result


@dataclass(frozen=True, slots=True)
class Piece:
    """One extent to be read: bytes [number * extent, + length) of a file."""

    copy: FileCopy
    number: int
    length: int


@dataclass(frozen=True, slots=True)
class PageRules:
    """How pages of this cluster are checked; `start_lsn`: pages at or past it are repaired by WAL replay."""

    enabled: bool
    page_bytes: int
    segment_pages: int
    start_lsn: Lsn


def pieces(copies: Sequence[FileCopy], extent_bytes: int) -> Iterator[list[Piece]]:
    """Batches for the workers: an extent of a large file, or some small files together, in path order."""
    batch: list[Piece] = []
    size = 0
    for copy in copies:
        for number, length in copy.unread(extent_bytes):
            if batch and (size + length > _BATCH_BYTES or len(batch) >= _BATCH_FILES):
                yield batch
                batch, size = [], 0
            batch.append(Piece(copy, number, length))
            size += length
    if batch:
        yield batch


class Copier:
    """Places pieces with `workers` threads, one stager each; `suspects` collects pages whose checksum is wrong."""

    def __init__(
        self,
        *,
        workers: int,
        stager: Callable[[], Stager],
        earlier: Earlier,
        extent_bytes: int,
        pages: PageRules,
        tally: Tally,
        pace: Callable[[int], None],
        journal: Journal,
    ) -> None:
        self._workers, self._stager, self._earlier = workers, stager, earlier
        self._journal = journal
        self._extent_bytes, self._pages, self._tally, self._pace = extent_bytes, pages, tally, pace
        self.suspects: list[tuple[str, int, Lsn]] = []
        self.read_bytes = 0
        self._lock = threading.Lock()

    def run(self, group: Group, copies: Sequence[FileCopy]) -> None:
        """Read and place all extents of `copies`; when it returns, all packs and maps were handed on."""
        work: Channel[list[Piece]] = Channel(self._workers, group.token, name="files")
        inner = Group(group.token, name="read")
        with inner:
            for number in range(self._workers):
                inner.start(str(number), self._work, work)
            for batch in pieces(copies, self._extent_bytes):
                work.put(batch)
            work.close()

    def one(self, copy: FileCopy, data: bytes) -> None:
        """Place a file that the caller has read, whole and anew, and hand it on."""
        stager = self._stager()
        copy.placed = {0: stager.place(data, None)}
        stager.finish()

    def forget_earlier(self) -> None:
        """From now on store everything anew."""
        self._earlier = Earlier([])

    def _place(self, stager: Stager, piece: Piece, data: memoryview) -> None:
        copy = piece.copy
        placed = stager.place(data, self._earlier.before(copy.found.path, piece.number))
        with self._lock:
            copy.placed[piece.number] = placed
            self.read_bytes += len(data)
            sound = all(path != copy.found.path for path, _, _ in self.suspects)
            whole = sound and sum(p.length for p in copy.placed.values()) == copy.found.size
        if whole:
            self._journal.file(copy.found, copy.settled, copy.extents(self._extent_bytes))

    def _work(self, work: Channel[list[Piece]]) -> None:
        stager = self._stager()
        checker = PageChecker(self._pages.page_bytes) if self._pages.enabled else None
        slab = np.empty(self._extent_bytes, dtype=np.uint8).data
        for batch in work:
            for piece in batch:
                self._one(stager, checker, piece, slab)
        stager.finish()

    def _one(self, stager: Stager, checker: PageChecker | None, piece: Piece, slab: memoryview) -> None:
        """Read one extent into the slab, which no one uses any more when it was placed."""
        copy, found = piece.copy, piece.copy.found
        self._pace(piece.length)
        offset = piece.number * self._extent_bytes
        try:
            descriptor = os.open(found.source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            copy.vanished = True
            return
        except OSError as error:
            raise _unreadable(found, error) from error
        try:
            data = _read(descriptor, slab[: piece.length], offset, found)
            if checker is not None and found.has_checksums and data:
                self._check(checker, descriptor, found, data, offset)
        finally:
            os.close(descriptor)
        if data:
            self._place(stager, piece, data)
        self._tally.add(piece.length)

    def _check(self, checker: PageChecker, descriptor: int, found: Found, data: memoryview, offset: int) -> None:
        size = self._pages.page_bytes
        whole = len(data) - len(data) % size
        first = found.segment * self._pages.segment_pages + offset // size
        bad = checker.bad_blocks(data[:whole], first)
        for block in bad:
            at = (block - found.segment * self._pages.segment_pages) * size
            self._judge(checker, descriptor, found, at, block, bytes(data[at - offset : at - offset + size]))

    def _judge(self, checker: PageChecker, descriptor: int, found: Found, at: int, block: int, page: bytes) -> None:
        """A torn read or a page being written is no damage: read it again before its LSN is believed."""
        for _ in range(_REREADS):
            again = os.pread(descriptor, len(page), at)
            if len(again) < len(page) or not checker.bad_blocks(again, block):
                return
            if again == page:
                break
            page = again
        with self._lock:
            self.suspects.append((found.path, block, page_lsn(page)))

    def damaged(self, stop_lsn: Lsn) -> list[tuple[str, int]]:
        """(path, block) of damaged pages, sorted; WAL from start to stop rewrites those whose LSN lies in between."""
        rules = self._pages
        return sorted((path, block) for path, block, lsn in self.suspects if not rules.start_lsn <= lsn <= stop_lsn)


def _read(descriptor: int, slab: memoryview, offset: int, found: Found) -> memoryview:
    """Fill the slab; what was read is less where the file has shrunk since it was listed."""
    filled = 0
    try:
        while filled < len(slab):
            got = os.preadv(descriptor, [slab[filled:]], offset + filled)
            if not got:
                break
            filled += got
    except OSError as error:
        raise _unreadable(found, error) from error
    return slab[:filled]


UNREADABLE = "run drkit as the owner of the data folder; on an I/O error look at the disk first"


def _unreadable(found: Found, error: OSError) -> Failed:
    return Failed(
        "a file of the database cannot be read",
        where=found.source,
        why=error.strerror or str(error),
        cure=UNREADABLE,
    )


class Pace:
    """Holds readers to `rate` bytes a second together; None: no limit. Thread-safe."""

    def __init__(self, rate: int | None, clock: Clock, token: CancelToken) -> None:
        self._rate, self._clock, self._token = rate, clock, token
        self._lock = threading.Lock()
        self._free_at = clock.monotonic()

    def __call__(self, size_bytes: int) -> None:
        if self._rate is None:
            return
        with self._lock:
            now = self._clock.monotonic()
            wait_s = max(0.0, self._free_at - now)
            self._free_at = max(self._free_at, now) + size_bytes / self._rate
        if wait_s:
            self._token.wait(wait_s)
