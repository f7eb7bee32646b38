"""The deep look at backups: extents are rebuilt through maps and frames, files by their digests, pages by checksums."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from drkit.core.cancel import CancelToken
from drkit.core.errors import Damage, DrkitError, Missing, Unreachable
from drkit.core.flow import Channel, Group
from drkit.core.progress import Tally
from drkit.crypto.keys import Ring
from drkit.engines.postgres.files import has_page_checksums, relation_file
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.page import PageChecker, page_lsn
from drkit.jobs.verify_facts import BadPages, HurtFile
from drkit.jobs.verify_sight import Turn, in_turn
from drkit.pipeline.digests import file_digest
from drkit.repository.catalogue import load_manifest
from drkit.repository.content import ContentReader
from drkit.repository.layout import ClusterLayout
from drkit.repository.manifest import FILE, Entry, Head, Manifest, Summary
from drkit.repository.sources import Sources
from drkit.repository.target import Target
from storage_backends.errors import StorageError

_FRAME_CACHE_BYTES = 64 << 20
_MAP_CACHE_BYTES = 64 << 20
_MOST = 1000
_LARGE_BYTES = 16 << 20


@dataclass(slots=True)
class DeepLook:
    """One target's backups of one system. Each extent is rebuilt once, however many backups share it.

    Memory: the caches, an extent of 16 MiB for each worker, a byte for each extent of a backup, and 16 for each of the
    one that is looked at.
    """

    ring: Ring
    target: Target
    layout: ClusterLayout
    turn: Turn | None
    tally: Tally
    pages: list[BadPages] = field(default_factory=list)
    files: list[HurtFile] = field(default_factory=list)
    _seen: dict[bytes, bytearray] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, backups: Sequence[Summary], workers: int, token: CancelToken) -> None:
        """The newest first; what is wrong is in `pages` and `files`. Raises Cancelled."""
        for summary in sorted(backups, key=lambda one: one.stopped, reverse=True):
            try:
                manifest = load_manifest(self.ring, self.target, self.layout, summary.run)
            except (StorageError, DrkitError) as error:
                self._hurt(summary.backup, b"", error)
                continue
            self._backup(manifest, workers, token)

    def _backup(self, manifest: Manifest, workers: int, token: CancelToken) -> None:
        sources = Sources([self.target], self.layout, self.ring)
        reader = ContentReader(
            self.ring,
            self.layout,
            sources,
            chunk_bytes=manifest.head.chunk_bytes,
            frame_cache_bytes=_FRAME_CACHE_BYTES,
            map_cache_bytes=_MAP_CACHE_BYTES,
        )
        self._expect(reader, manifest, token)
        group = Group(token, name="deep")
        with group:
            work: Channel[Entry] = Channel(2 * workers, group.token, name="files")
            for number in range(workers):
                group.start(str(number), self._work, work, manifest, reader)
            # Large files first, so that no worker is left alone with one; small ones in order: they share frames.
            for large in (True, False):
                for entry in self._files(manifest):
                    if (entry.size >= _LARGE_BYTES) is large:
                        work.put(entry)
            work.close()

    def _files(self, manifest: Manifest) -> Iterator[Entry]:
        """Those whose turn it is, as a stream."""
        for entry in manifest.entries:
            if entry.type == FILE and in_turn(f"{manifest.summary.backup}/{entry.path.hex()}", self.turn):
                yield entry

    def _expect(self, reader: ContentReader, manifest: Manifest, token: CancelToken) -> None:
        """Tell the reader what is to come; where a map is lost, the files that need it say so, each for itself."""
        parts = ((manifest.maps[m], index) for entry in self._files(manifest) for m, index in entry.extents)
        with suppress(StorageError, Damage, Missing, Unreachable):
            reader.expect((part for part in parts if not self._is_seen(*part)), token)

    def _work(self, work: Channel[Entry], manifest: Manifest, reader: ContentReader) -> None:
        checker = PageChecker(manifest.head.page_bytes) if manifest.head.checksums else None
        slab = np.empty(manifest.head.extent_bytes, dtype=np.uint8).data
        for entry in work:
            try:
                self._file(entry, manifest, reader, checker, slab)
            except (StorageError, DrkitError) as error:
                self._hurt(manifest.summary.backup, entry.path, error)

    def _file(
        self, entry: Entry, manifest: Manifest, reader: ContentReader, checker: PageChecker | None, slab: memoryview
    ) -> None:
        extents = [reader.extent(manifest.maps[m], index) for m, index in entry.extents]
        digest, crc = file_digest((one.digest, one.crc, one.length) for one in extents)
        size = sum(one.length for one in extents)
        if (digest, crc, size) != (entry.digest, entry.crc, entry.size):
            raise Damage("a file of the backup is damaged", why="its extents do not make up the file's digest")
        bad: list[int] = []
        offset = 0
        for (map_index, index), extent in zip(entry.extents, extents, strict=True):
            map_id = manifest.maps[map_index]
            if self._is_new(map_id, index):
                (content,) = reader.read([(map_id, index)], slab)
                self.tally.add(extent.length)
                if checker is not None:
                    bad += self._bad_pages(entry, content.data, offset, manifest.head, manifest.summary, checker)
            offset += extent.length
        known = set(manifest.head.damaged) if bad else set()
        for recorded, blocks in _split(bad, entry, known):
            with self._lock:
                self.pages.append(BadPages(self.target.name, manifest.summary.backup, entry.path, blocks, recorded))

    def _bad_pages(
        self, entry: Entry, data: memoryview, offset: int, head: Head, summary: Summary, checker: PageChecker
    ) -> Iterator[int]:
        """Blocks whose checksum is wrong and that WAL from the backup's start to its stop does not rewrite."""
        path = entry.path.decode("utf-8", "replace")
        relation = relation_file(path.rpartition("/")[2])
        if relation is None or not has_page_checksums(path):
            return
        size = head.page_bytes
        whole = data[: len(data) - len(data) % size]
        first = relation.first_block(head.relation_segment_pages) + offset // size
        start, stop = Lsn.parse(summary.start_lsn), Lsn.parse(summary.stop_lsn)
        for block in checker.bad_blocks(whole, first):
            at = (block - first) * size
            if not start <= page_lsn(bytes(whole[at : at + size])) <= stop:
                yield block

    def _is_new(self, map_id: bytes, index: int) -> bool:
        with self._lock:
            if self._is_seen(map_id, index):
                return False
            mine = self._seen.setdefault(map_id, bytearray())
            mine.extend(bytes(max(0, index + 1 - len(mine))))
            mine[index] = 1
            return True

    def _is_seen(self, map_id: bytes, index: int) -> bool:
        mine = self._seen.get(map_id, b"")
        return index < len(mine) and bool(mine[index])

    def _hurt(self, backup: str, path: bytes, error: DrkitError | StorageError) -> None:
        with self._lock:
            if len(self.files) < _MOST:
                self.files.append(HurtFile(self.target.name, backup, path, str(error)))


def _split(bad: Sequence[int], entry: Entry, known: set[tuple[str, int]]) -> Iterator[tuple[bool, tuple[int, ...]]]:
    """Bad blocks that the backup recorded, and those that it did not."""
    path = entry.path.decode("utf-8", "surrogateescape")
    for recorded in (True, False):
        blocks = tuple(block for block in bad if ((path, block) in known) is recorded)
        if blocks:
            yield recorded, blocks
