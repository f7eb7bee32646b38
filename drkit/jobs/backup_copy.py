"""Reading the data folder: each file once, pages checked, extents placed by several workers."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from drkit.core.cancel import CancelToken
from drkit.core.clock import Clock
from drkit.core.errors import Failed
from drkit.core.flow import Channel, Group
from drkit.core.progress import Tally
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.page import PageChecker, page_lsn
from drkit.jobs.backup_files import LATE, UNREAD, Files, Row
from drkit.jobs.backup_journal import Journal
from drkit.jobs.backup_parent import Earlier
from drkit.pipeline.stager import Placed, Stager

_BATCH_BYTES = 16 << 20
_BATCH_FILES = 256
_WINDOW_FILES = 8192  # some 4 MiB of rows; a worker that holds one up for long holds up the others
_REREADS = 3


@dataclass(slots=True)
class FileCopy:
    """A file in flight. placed: by extent number, filled by the workers; left: extents still to be read.

    result: its row where it `ended`; None of a file that vanished.
    """

    row: Row
    path: str
    source: str
    placed: dict[int, Placed]
    left: int
    vanished: bool = False
    ended: bool = False
    result: Row | None = None

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


def lengths(size: int, extent_bytes: int) -> Iterator[tuple[int, int]]:
    """Number and length in bytes of the extents of a file."""
    for number in range(-(-size // extent_bytes)):
        yield number, min(extent_bytes, size - number * extent_bytes)


class _Window:
    """Brings files that end in any order into the order in which they came. Thread-safe.

    Memory: the files behind the first one that has not ended; whoever adds files waits for `room` first.
    """

    def __init__(self, out: Files, token: CancelToken) -> None:
        self._out, self._token = out, token
        self._waiting: deque[FileCopy | Row] = deque()
        self._changed = threading.Condition()
        self._leave_token = token.on_cancel(self._wake)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    @property
    def is_full(self) -> bool:
        return len(self._waiting) >= _WINDOW_FILES

    def add(self, one: FileCopy | Row) -> None:
        """A file in flight, or a row that is done."""
        with self._changed:
            self._waiting.append(one)
            self._flush()

    def ended(self, copy: FileCopy, result: Row | None) -> None:
        with self._changed:
            copy.ended, copy.result = True, result
            self._flush()
            self._changed.notify_all()

    def _flush(self) -> None:
        while self._waiting:
            first = self._waiting[0]
            if isinstance(first, FileCopy) and not first.ended:
                return
            row = first.result if isinstance(first, FileCopy) else first
            if row is not None:
                self._out.append(row)
            self._waiting.popleft()

    def wait(self) -> None:
        """Until there is room. All that was added must be on its way. Raises Cancelled."""
        with self._changed:
            while self.is_full:
                self._token.check()
                self._changed.wait(self._token.remaining_s())

    def close(self) -> None:
        self._leave_token()


@dataclass(frozen=True, slots=True)
class PageRules:
    """How pages of this cluster are checked; `start_lsn`: pages at or past it are repaired by WAL replay."""

    enabled: bool
    page_bytes: int
    segment_pages: int
    start_lsn: Lsn


class Copier:
    """Places files with `workers` threads, one stager each; `suspects` collects pages whose checksum is wrong.

    root: the data folder · room: of the rows that `run` makes · vanished: files that were gone when they were read
    """

    def __init__(
        self,
        *,
        root: Path,
        room: Path,
        workers: int,
        stager: Callable[[], Stager],
        earlier: Earlier,
        extent_bytes: int,
        pages: PageRules,
        tally: Tally,
        pace: Callable[[int], None],
        journal: Journal,
    ) -> None:
        self._root, self._room = os.fspath(root), room
        self._workers, self._stager, self._earlier = workers, stager, earlier
        self._journal = journal
        self._extent_bytes, self._pages, self._tally, self._pace = extent_bytes, pages, tally, pace
        self.suspects: list[tuple[str, int, Lsn]] = []
        self._unsound: set[str] = set()
        self.read_bytes = 0
        self.vanished = 0
        self._lock = threading.Lock()

    def run(self, group: Group, rows: Iterable[Row]) -> Files:
        """The same rows with all that was UNREAD read and placed; all packs and maps were handed on."""
        out = Files(self._room)
        work: Channel[list[Piece]] = Channel(self._workers, group.token, name="files")
        inner = Group(group.token, name="read")
        window = _Window(out, inner.token)
        with inner:
            for number in range(self._workers):
                inner.start(str(number), self._work, work, window)
            for batch in self._batches(rows, window):
                work.put(batch)
            work.close()
        window.close()
        return out

    def _batches(self, rows: Iterable[Row], window: _Window) -> Iterator[list[Piece]]:
        """For the workers: an extent of a large file, or some small files together, in path order."""
        batch: list[Piece] = []
        size = 0
        for row in rows:
            if window.is_full:
                if batch:
                    yield batch
                    batch, size = [], 0
                window.wait()
            if not row.state & UNREAD or row.state & LATE:
                window.add(row)
                continue
            copy = self._begin(row)
            unread = [one for one in lengths(row.size, self._extent_bytes) if one[0] not in copy.placed]
            if not unread:
                window.add(row.done(copy.extents(self._extent_bytes)))
                continue
            copy.left = len(unread)
            window.add(copy)
            for number, length in unread:
                if batch and (size + length > _BATCH_BYTES or len(batch) >= _BATCH_FILES):
                    yield batch
                    batch, size = [], 0
                batch.append(Piece(copy, number, length))
                size += length
        if batch:
            yield batch

    def _begin(self, row: Row) -> FileCopy:
        placed = self._earlier.adopted(row)
        path = os.fsdecode(row.path)
        return FileCopy(row, path, f"{self._root}/{path}", placed, 0)

    def one(self, row: Row, data: bytes) -> Row:
        """Place a file that the caller has read, whole and anew, and hand it on."""
        stager = self._stager()
        placed = stager.place(data, None)
        stager.finish()
        return row.done([placed])

    def forget_earlier(self) -> None:
        """From now on store everything anew."""
        self._earlier = Earlier([])

    def _place(self, stager: Stager, piece: Piece, data: memoryview) -> None:
        placed = stager.place(data, self._earlier.before(piece.copy.row.known, piece.number))
        with self._lock:
            piece.copy.placed[piece.number] = placed
            self.read_bytes += len(data)

    def _work(self, work: Channel[list[Piece]], window: _Window) -> None:
        stager = self._stager()
        checker = PageChecker(self._pages.page_bytes) if self._pages.enabled else None
        slab = np.empty(self._extent_bytes, dtype=np.uint8).data
        for batch in work:
            for piece in batch:
                self._one(stager, checker, piece, slab)
                self._ended(piece.copy, window)
        stager.finish()

    def _ended(self, copy: FileCopy, window: _Window) -> None:
        """Count one extent; after the last one the file is done."""
        with self._lock:
            copy.left -= 1
            if copy.left:
                return
            sound = copy.path not in self._unsound
            self.vanished += copy.vanished
        if copy.vanished:
            window.ended(copy, None)
            return
        row = copy.row.done(copy.extents(self._extent_bytes))
        if sound and row.kept == row.size:
            self._journal.file(row)
        window.ended(copy, row)

    def _one(self, stager: Stager, checker: PageChecker | None, piece: Piece, slab: memoryview) -> None:
        """Read one extent into the slab, which no one uses any more when it was placed."""
        copy = piece.copy
        self._pace(piece.length)
        offset = piece.number * self._extent_bytes
        try:
            descriptor = os.open(copy.source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            copy.vanished = True
            return
        except OSError as error:
            raise _unreadable(copy, error) from error
        try:
            data = _read(descriptor, slab[: piece.length], offset, copy)
            if checker is not None and copy.row.segment >= 0 and data:
                self._check(checker, descriptor, copy, data, offset)
        finally:
            os.close(descriptor)
        if data:
            self._place(stager, piece, data)
        self._tally.add(piece.length)

    def _check(self, checker: PageChecker, descriptor: int, copy: FileCopy, data: memoryview, offset: int) -> None:
        size = self._pages.page_bytes
        whole = len(data) - len(data) % size
        first = copy.row.segment * self._pages.segment_pages + offset // size
        bad = checker.bad_blocks(data[:whole], first)
        for block in bad:
            at = (block - copy.row.segment * self._pages.segment_pages) * size
            self._judge(checker, descriptor, copy, at, block, bytes(data[at - offset : at - offset + size]))

    def _judge(self, checker: PageChecker, descriptor: int, copy: FileCopy, at: int, block: int, page: bytes) -> None:
        """A torn read or a page being written is no damage: read it again before its LSN is believed."""
        for _ in range(_REREADS):
            again = os.pread(descriptor, len(page), at)
            if len(again) < len(page) or not checker.bad_blocks(again, block):
                return
            if again == page:
                break
            page = again
        with self._lock:
            self.suspects.append((copy.path, block, page_lsn(page)))
            self._unsound.add(copy.path)

    def damaged(self, stop_lsn: Lsn) -> list[tuple[str, int]]:
        """(path, block) of damaged pages, sorted; WAL from start to stop rewrites those whose LSN lies in between."""
        rules = self._pages
        return sorted((path, block) for path, block, lsn in self.suspects if not rules.start_lsn <= lsn <= stop_lsn)


def _read(descriptor: int, slab: memoryview, offset: int, copy: FileCopy) -> memoryview:
    """Fill the slab; what was read is less where the file has shrunk since it was listed."""
    filled = 0
    try:
        while filled < len(slab):
            got = os.preadv(descriptor, [slab[filled:]], offset + filled)
            if not got:
                break
            filled += got
    except OSError as error:
        raise _unreadable(copy, error) from error
    return slab[:filled]


UNREADABLE = "run drkit as the owner of the data folder; on an I/O error look at the disk first"


def _unreadable(copy: FileCopy, error: OSError) -> Failed:
    return Failed(
        "a file of the database cannot be read",
        where=copy.source,
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
