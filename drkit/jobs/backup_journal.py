"""What a killed backup had done: a local journal, so that the next one need not store the same bytes again.

It only saves work. Every line carries a CRC-32C; a torn or damaged line ends the journal. What it names is adopted only
where every target of the run still holds it, under a lease that names the killed run, and unless it got a tombstone.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import google_crc32c

from drkit.core.errors import UsageError
from drkit.engines.postgres.walk import Entry as Found
from drkit.jobs.backup_parent import Known, KnownFile
from drkit.jobs.backup_usage import Stored
from drkit.pipeline.stager import Placed
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

    def file(self, found: Found, settled: bool, placed: Iterable[Placed]) -> None:
        """A file all of whose extents are placed."""
        facts = (found.size, found.mtime_ns, found.ctime_ns, found.inode, found.device)
        extents = [[p.map_id.hex(), p.index] for p in placed]
        self._line({"path": found.path, "facts": facts, "settled": settled, "extents": extents})

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


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What a killed run left. uses: for each of its maps the packs that it points into."""

    known: Known
    uses: Mapping[bytes, tuple[bytes, ...]]


def read_journal(path: Path) -> Unfinished | None:
    """What the journal of a killed run says; None where there is none, or it does not even begin."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return None
    run: RunId | None = None
    source: Source | None = None
    files: dict[bytes, KnownFile] = {}
    stored: dict[tuple[int, bytes], Stored] = {}
    uses: dict[bytes, tuple[bytes, ...]] = {}
    for line in lines:
        check, _, text = line.partition(b" ")
        if check != b"%08x" % google_crc32c.value(text) or not text:
            break
        value = json.loads(text)
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
            files[os.fsencode(value["path"])] = KnownFile(tuple(value["facts"]), value["settled"], extents)
    if run is None or source is None:
        return None
    return Unfinished(Known(run, source, files, stored), uses)


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

    whole = {n for n, uses in left.uses.items() if held(Kind.MAP, n) and all(held(Kind.PACK, pack) for pack in uses)}
    files = {path: f for path, f in known.files.items() if all(map_id in whole for map_id, _ in f.extents)}
    return Known(known.run, known.source, files, known.stored)
