"""Writes the files of a backup: extents in parallel, digests checked before the write, holes left as holes.

A file is complete when its last extent is there; until the restore's own last step nothing here can be started.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import blake3
import numpy as np

from drkit.core.cancel import CancelToken
from drkit.core.errors import Damage
from drkit.core.flow import Channel, Group
from drkit.core.progress import Tally
from drkit.pipeline.digests import file_digest
from drkit.pipeline.mapping import Extent
from drkit.repository.content import Content, ContentReader
from drkit.repository.manifest import Entry
from storage_backends.oserrors import os_errors

_BATCH_BYTES = 16 << 20
_BATCH_FILES = 256
_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class _File:
    """A file being written. left: extents that are not there yet."""

    entry: Entry
    path: bytes
    extents: Sequence[Extent]
    left: int
    lock: threading.Lock = field(default_factory=threading.Lock)

    def done(self) -> bool:
        """Count one extent; whether it was the last."""
        with self.lock:
            self.left -= 1
            return self.left <= 0


@dataclass(frozen=True, slots=True)
class _Piece:
    file: _File
    index: int
    offset: int


class FileWriter:
    """Restores files with `workers` threads.

    resolve: path of the backup -> absolute path · owner: (uid, gid), or None to leave it · delta: files may exist;
    extents whose bytes are right already are kept · written: hears (descriptor, offset, bytes) of each extent that was
    written. Memory: the reader's, and a batch of 16 MiB for each worker.
    """

    def __init__(
        self,
        *,
        reader: ContentReader,
        maps: Sequence[bytes],
        resolve: Callable[[bytes], bytes],
        owner: tuple[int, int] | None,
        workers: int,
        delta: bool,
        tally: Tally,
        written: Callable[[int, int, int], None],
    ) -> None:
        self._reader, self._maps, self._resolve = reader, maps, resolve
        self._owner, self._workers, self._delta, self._tally = owner, workers, delta, tally
        self._written = written
        self._lock = threading.Lock()
        self.written_bytes = 0
        self.kept_bytes = 0

    def run(self, entries: Iterable[Entry], token: CancelToken) -> None:
        """Write all files; their folders exist. entries: read twice.

        Raises Damage, a StorageError (space), or as `Sources.attempt`.
        """
        self._reader.expect(((self._maps[m], index) for entry in entries for m, index in entry.extents), token)
        group = Group(token, name="restore")
        with group:
            work: Channel[list[_Piece]] = Channel(self._workers, group.token, name="files")
            for number in range(self._workers):
                group.start(str(number), self._work, work)
            for batch in self._batches(entries):
                if not self._delta:  # what is there already is not fetched
                    self._reader.ahead(self._wanted(piece for piece in batch if piece.index >= 0))
                work.put(batch)
            work.close()

    def _file(self, entry: Entry) -> _File:
        extents = _extents(self._reader, self._maps, entry)
        return _File(entry, self._resolve(entry.path), extents, len(extents))

    def _batches(self, entries: Iterable[Entry]) -> Iterator[list[_Piece]]:
        """An extent of a large file, or some small files together, in the order of paths: as they were stored."""
        batch: list[_Piece] = []
        size = 0
        for entry in entries:
            file = self._file(entry)
            if not file.extents:
                batch.append(_Piece(file, -1, 0))
            offset = 0
            for index, extent in enumerate(file.extents):
                if batch and (size + extent.length > _BATCH_BYTES or len(batch) >= _BATCH_FILES):
                    yield batch
                    batch, size = [], 0
                batch.append(_Piece(file, index, offset))
                size += extent.length
                offset += extent.length
            if len(batch) >= _BATCH_FILES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _work(self, work: Channel[list[_Piece]]) -> None:
        slab = np.empty(_BATCH_BYTES, dtype=np.uint8).data
        for batch in work:
            todo = [piece for piece in batch if piece.index >= 0 and not self._is_there(piece, slab)]
            contents = self._reader.read(self._wanted(todo), slab)
            found = {id(piece): content for piece, content in zip(todo, contents, strict=True)}
            for piece in batch:
                self._put(piece, found.pop(id(piece), None))

    def _wanted(self, pieces: Iterable[_Piece]) -> list[tuple[bytes, int]]:
        places = (piece.file.entry.extents[piece.index] for piece in pieces)
        return [(self._maps[m], index) for m, index in places]

    def _is_there(self, piece: _Piece, slab: memoryview) -> bool:
        """Whether the local bytes are those of the backup: by content, never by time."""
        if not self._delta:
            return False
        extent = piece.file.extents[piece.index]
        try:
            descriptor = os.open(piece.file.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            room = slab if extent.length <= len(slab) else np.empty(extent.length, dtype=np.uint8).data
            got = os.preadv(descriptor, [room[: extent.length]], piece.offset)
        except OSError:
            return False  # a bad sector is rewritten
        finally:
            os.close(descriptor)
        return got == extent.length and blake3.blake3(room[:got]).digest() == extent.digest

    def _put(self, piece: _Piece, content: Content | None) -> None:
        """Write one extent (None: it is there, or the file is empty) and finish the file after its last."""
        entry, path = piece.file.entry, piece.file.path
        length = piece.file.extents[piece.index].length if piece.index >= 0 else 0
        folder = os.fsdecode(path.rpartition(b"/")[0])
        with os_errors(f"write {os.fsdecode(entry.path)}", folder, entry.size, folder):
            descriptor = os.open(path, _OPEN, 0o600)
            try:
                if content is not None:
                    self._write(descriptor, piece, content)
                if piece.file.done():
                    self._finish(descriptor, entry)
            finally:
                os.close(descriptor)
        with self._lock:
            if content is not None:
                self.written_bytes += length
            else:
                self.kept_bytes += length
        self._tally.add(length)

    def _write(self, descriptor: int, piece: _Piece, content: Content) -> None:
        """Bytes at the extent's place. A file that may hold old bytes gets its zeros written.

        The file grows as it is written: on ext4 writes into one that has its whole size already, and no blocks, took
        2.3 s of kernel time for 1 GiB instead of 0.3 s (Linux 6, 16 MiB a write).
        """
        holes = () if self._delta else content.holes
        view, at = content.data, 0
        for start, stop in (*holes, (len(view), len(view))):
            while at < start:
                at += os.pwrite(descriptor, view[at:start], piece.offset + at)
            at = stop
        self._written(descriptor, piece.offset, len(view))

    def _finish(self, descriptor: int, entry: Entry) -> None:
        os.ftruncate(descriptor, entry.size)
        os.fchmod(descriptor, entry.mode)
        if self._owner is not None:
            os.fchown(descriptor, *self._owner)
        os.utime(descriptor, ns=(entry.mtime, entry.mtime))


def small_file(reader: ContentReader, maps: Sequence[bytes], entry: Entry) -> bytes:
    """A file's bytes, checked; all of them in memory."""
    _extents(reader, maps, entry)
    return b"".join(bytes(one.data) for one in reader.read([(maps[m], index) for m, index in entry.extents]))


def _extents(reader: ContentReader, maps: Sequence[bytes], entry: Entry) -> list[Extent]:
    """Of a file, looked up; raises Damage unless they make up its digest and size."""
    extents = [reader.extent(maps[m], index) for m, index in entry.extents]
    digest, crc = file_digest((one.digest, one.crc, one.length) for one in extents)
    if sum(one.length for one in extents) != entry.size:
        raise _wrong_size(entry)
    if (digest, crc) != (entry.digest, entry.crc):
        why = "its extents do not make up the file's digest"
        raise Damage("a file of the backup is damaged", where=os.fsdecode(entry.path), why=why)
    return extents


def _wrong_size(entry: Entry) -> Damage:
    return Damage("a file of the backup has another size than its parts", where=os.fsdecode(entry.path))
