"""What a killed backup had done: a local journal, so that the next one need not store the same bytes again.

It only saves work. Every line carries a CRC-32C; a torn or damaged line ends the journal. What it names is adopted only
where every target of the run still holds it, under a lease that names the killed run, and unless it got a tombstone.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import google_crc32c

from drkit.core.errors import UsageError
from drkit.core.scratch import Rows, in_order
from drkit.jobs.backup_files import SETTLED, Extents, Row
from drkit.jobs.backup_parent import Known, KnownFile
from drkit.jobs.backup_usage import Stored
from drkit.repository.inventory import Inventory
from drkit.repository.layout import ClusterLayout, Kind, RunId
from drkit.repository.manifest import Source
from storage_backends.durable import make_dirs


def journal_path(spool: Path, system_identifier: int) -> Path:
    return spool / str(system_identifier) / "unfinished-backup"


class Journal:
    """Written while a backup runs; `done` removes it. Thread-safe. Never fsynced: losing it costs work, not data."""

    def __init__(self, path: Path, run: RunId, source: Source) -> None:
        make_dirs(path.parent)
        self._path, self._lock = path, threading.Lock()
        path.unlink(missing_ok=True)
        self._file = path.open("xb", buffering=0)  # what did not fit must not come up again when it is closed
        self._full = False
        self._line({"run": str(run), "source": asdict(source)})

    def stored(self, kind: int, object_id: bytes, facts: Stored, uses: Iterable[bytes]) -> None:
        """A pack or map that is on its way to the targets; uses: ids of the packs that a map points into."""
        value = {"kind": kind, "id": object_id.hex(), "size": facts.size_bytes, "digest": facts.digest.hex()}
        self._line(value | {"uses": [pack.hex() for pack in uses]})

    def file(self, row: Row) -> None:
        """A file all of whose extents are placed."""
        facts = (row.size, row.mtime, row.ctime, row.inode, row.device)
        extents = [[map_id.hex(), index] for map_id, index in row.extents]
        settled = bool(row.state & SETTLED)
        self._line({"path": os.fsdecode(row.path), "facts": facts, "settled": settled, "extents": extents})

    def done(self) -> None:
        """The backup is committed, or nothing of it may be reused."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def _line(self, value: Mapping[str, object]) -> None:
        text = json.dumps(value, separators=(",", ":")).encode()
        with self._lock:
            if self._full:
                return
            try:
                self._file.write(b"%08x %s\n" % (google_crc32c.value(text), text))
            except OSError:
                self._full = True  # the state folder is full: the backup goes on without a journal


_Line = tuple[bytes, int, tuple[int, int, int, int, int], bool, Extents]  # path, number, facts, settled, extents


@dataclass(frozen=True, slots=True)
class _Files:
    """The files of a journal, as `Known` has them; those all of whose maps are in `whole`, where it is given."""

    lines: Rows[_Line]
    room: Path
    whole: frozenset[bytes] | None = None

    def __iter__(self) -> Iterator[tuple[bytes, KnownFile]]:
        for path, _, facts, settled, extents in in_order(self.lines, self.room):
            if self.whole is None or all(map_id in self.whole for map_id, _ in extents):
                yield path, KnownFile(facts, settled, extents)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What a killed run left. uses: for each of its maps the packs that it points into."""

    known: Known
    files: _Files
    uses: Mapping[bytes, tuple[bytes, ...]]


def read_journal(path: Path) -> Unfinished | None:
    """What the journal of a killed run says; None where there is none, or it does not even begin."""
    run: RunId | None = None
    source: Source | None = None
    lines: Rows[_Line] = Rows(path.parent)
    stored: dict[tuple[int, bytes], Stored] = {}
    uses: dict[bytes, tuple[bytes, ...]] = {}
    for value in _values(path):
        if "run" in value:
            try:
                run, source = RunId.parse(value["run"]), Source(**value["source"])
            except (UsageError, TypeError):
                return None
        elif "kind" in value:
            name = bytes.fromhex(value["id"])
            stored[(value["kind"], name)] = Stored(value["size"], bytes.fromhex(value["digest"]))
            if value["kind"] == Kind.MAP:
                uses[name] = tuple(bytes.fromhex(pack) for pack in value["uses"])
        else:
            extents = tuple((bytes.fromhex(map_id), index) for map_id, index in value["extents"])
            lines.append((os.fsencode(value["path"]), len(lines), tuple(value["facts"]), value["settled"], extents))
    if run is None or source is None:
        return None
    files = _Files(lines, path.parent)
    return Unfinished(Known(run, source, files, stored), files, uses)


def _values(path: Path) -> Iterator[dict[str, Any]]:
    """What the lines say, to the first one that is not whole."""
    try:
        with path.open("rb") as file:
            for line in file:
                check, _, text = line.rstrip(b"\n").partition(b" ")
                if check != b"%08x" % google_crc32c.value(text) or not text:
                    return
                yield json.loads(text)
    except OSError:
        return


def still_there(
    left: Unfinished,
    inventories: Iterable[Inventory],
    layout: ClusterLayout,
    parent: Mapping[tuple[int, bytes], Stored],
) -> Known:
    """Keep only files whose maps, and the packs that these point into, every target holds. Raises StorageError.

    parent: the objects of the backup that is built on: packs of no other run but the killed one may be adopted.
    """
    known = left.known
    listed = [inventory.data for inventory in inventories]

    def held(kind: Kind, name: bytes) -> bool:
        key = (int(kind), name)
        facts = known.stored.get(key) if RunId.of_object(name) == known.run else parent.get(key)
        sizes = {sizes.get(layout.data(kind, name)) for sizes in listed}
        return facts is not None and sizes == {facts.size_bytes}

    whole = frozenset(
        n for n, uses in left.uses.items() if held(Kind.MAP, n) and all(held(Kind.PACK, pack) for pack in uses)
    )
    return Known(known.run, known.source, replace(left.files, whole=whole), known.stored)
