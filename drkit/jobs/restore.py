"""Runs a restore plan: what would start is removed first, pg_control comes last, and between them nothing starts.

    disarm: pg_control removed, its folder synced -> recovery file -> clear (delta) -> folders, links
    -> files by extents, in parallel -> settings, labels, signal, manifest -> all synced -> pg_control by rename, synced

Whoever kills it at any point leaves a folder that the server refuses ('could not open global/pg_control'); running it
again with --delta goes on from what is there.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from drkit.core.errors import Conflict, Damage, DrkitError
from drkit.core.progress import Event, Tally
from drkit.engines.postgres.control import CONTROL_PATH, parse_control
from drkit.engines.postgres.recovery import AUTO_CONF, RECOVERY_SIGNAL
from drkit.engines.postgres.version import facts_of_server
from drkit.jobs.means import Means
from drkit.jobs.recovery_file import RECOVERY_FILE, write_recovery_file
from drkit.jobs.restore_clear import Clearing, disarm
from drkit.jobs.restore_entries import Files, Keys, Wanted, survey
from drkit.jobs.restore_files import FileWriter, small_file
from drkit.jobs.restore_folder import LOST_FOUND, space_of
from drkit.jobs.restore_plan import Plan
from drkit.jobs.restore_settings import auto_conf, pg_manifest, recovery_file, tablespace_map
from drkit.jobs.restore_sync import Disks, sync_file
from drkit.repository.content import ContentReader
from drkit.repository.manifest import Entry
from drkit.repository.repository import Problem
from drkit.repository.sources import Sources
from drkit.repository.target import Target
from storage_backends import durable
from storage_backends.errors import StorageError
from storage_backends.oserrors import os_errors

_BLOCK_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """seconds: until pg_control was in place · fetched_bytes: by target · kept_bytes: right already (delta)
    failures: (target, object, why) for each read that another target had to serve · removed: entries cleared away
    spared: mount points that hold other things · phases: (name, seconds), in order.
    """

    written_bytes: int
    kept_bytes: int
    files: int
    seconds: float
    fetched_bytes: Mapping[str, int]
    failures: tuple[tuple[str, str, str], ...]
    removed: int
    spared: tuple[str, ...]
    phases: tuple[tuple[str, float], ...]


def restore(plan: Plan, means: Means) -> RestoreResult:
    """Execute the plan; on return the folder is whole, durable and ready to recover.

    Raises Damage, Missing or Unreachable where no target could serve an object, a StorageError of the destination
    (no space), Cancelled. After any error the server refuses the folder.
    """
    run = _Restore(plan, means)
    try:
        with alone(plan.order.destination):
            return run.run()
    except (DrkitError, StorageError) as error:
        if run.touched:
            where = plan.order.destination
            error.add_note(f"{where} cannot be started as it is; the same restore with --delta goes on from there")
        raise


@contextmanager
def alone(destination: Path) -> Iterator[None]:
    """Only one restore writes into a folder; raises Conflict. The kernel ends the claim with the process."""
    name = hashlib.sha256(os.fsencode(os.path.realpath(destination))).hexdigest()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as claim:
        try:
            claim.bind(f"\0drkit-restore-{name}")
        except OSError:
            cure = "wait for it to end, or restore into another folder"
            raise Conflict("another restore writes into this folder", where=str(destination), cure=cure) from None
        yield


class _Restore:
    def __init__(self, plan: Plan, means: Means) -> None:
        self._plan, self._means = plan, means
        self._root = os.fsencode(plan.order.destination)
        self._links = {link.oid: os.fsencode(link.location) for link in plan.links}
        self._owner = (plan.owner.uid, plan.owner.gid) if plan.order.euid == 0 else None
        self._failures: list[tuple[str, str, str]] = []
        targets = [means.repository.target(name) for name in plan.course.sources]
        self._sources = Sources(targets, plan.layout, means.repository.ring, self._report)
        self._reader = ContentReader(
            means.repository.ring, plan.layout, self._sources, chunk_bytes=plan.manifest.head.chunk_bytes
        )
        self._wanted = Wanted(plan.manifest)
        self._clearing = Clearing((), {})
        self._begun: list[tuple[str, float]] = []
        self.touched = False

    def run(self) -> RestoreResult:
        plan, clock = self._plan, self._means.clock
        began = clock.monotonic()
        there = survey(self._wanted)
        tally = Tally(self._means.progress, "files", clock=clock, total_bytes=there.size_bytes)
        control_data = small_file(self._reader, plan.manifest.maps, there.control)
        parse_control(control_data)
        self._prepare(there.folders)
        with Disks([plan.order.destination, *(Path(os.fsdecode(one)) for one in self._links.values())]) as disks:
            writer = self._writer(tally, disks)
            self._begun.append(("files", clock.monotonic()))
            writer.run(Files(self._wanted), self._means.token)
            tally.finish()
            self._settings()
            self._phase("sync")
            disks.sync(self._means.token.check)
        self._means.token.check()
        self._phase("pg_control")
        self._arm(control_data, there.control.mode)
        ended = clock.monotonic()
        return RestoreResult(
            written_bytes=writer.written_bytes + len(control_data),
            kept_bytes=writer.kept_bytes,
            files=there.files + 1,
            seconds=ended - began,
            fetched_bytes=self._sources.fetched_bytes,
            failures=tuple(self._failures),
            removed=self._clearing.removed,
            spared=tuple(self._clearing.spared),
            phases=self._phases(ended),
        )

    def _writer(self, tally: Tally, disks: Disks) -> FileWriter:
        plan = self._plan
        return FileWriter(
            reader=self._reader,
            maps=plan.manifest.maps,
            resolve=self._resolve,
            owner=self._owner,
            workers=plan.order.workers,
            delta=plan.order.delta,
            tally=tally,
            written=disks.begin,
        )

    def _report(self, target: Target, key: str, problem: Problem) -> None:
        self._failures.append((target.name, key, str(problem)))
        event = "object is damaged, next target" if isinstance(problem, Damage) else "read failed, next target"
        self._means.log.warn(event, target=target.name, key=key, why=str(problem))

    def _phase(self, name: str) -> None:
        self._begun.append((name, self._means.clock.monotonic()))
        self._means.progress.emit(Event(name))

    def _phases(self, end: float) -> tuple[tuple[str, float], ...]:
        ends = [at for _, at in self._begun[1:]] + [end]
        return tuple((name, until - at) for (name, at), until in zip(self._begun, ends, strict=True))

    # --- paths ---

    def _resolve(self, path: bytes) -> bytes:
        """Where a path of the backup goes: below the data folder, or into a tablespace's own folder."""
        location = self._links.get(space_of(path))
        if location is None:
            return self._root + b"/" + path
        return b"/".join([location, *path.split(b"/", 2)[2:]])

    # --- steps ---

    def _prepare(self, folders: Sequence[Entry]) -> None:
        plan, destination = self._plan, self._plan.order.destination
        self._phase("prepare")
        mode = next((e.mode for e in folders if e.path == b"global"), 0o700)
        self.touched = True
        durable.make_dirs(destination.parent, mode=0o755)
        durable.make_dirs(destination, mode=mode)
        with os_errors("prepare the destination", str(destination)):
            disarm(destination)
            if self._owner is not None:
                os.chown(destination, *self._owner)
            destination.chmod(mode)
        write_recovery_file(destination, recovery_file(plan))
        self._own(destination / RECOVERY_FILE)
        if plan.folder.names - {LOST_FOUND}:
            self._clear(folders)
        self._phase("folders")
        for entry in folders:
            self._folder(entry)

    def _clear(self, folders: Sequence[Entry]) -> None:
        self._phase("clear")
        links = {b"pg_tblspc/%d" % oid: location for oid, location in self._links.items()}
        self._clearing = Clearing(Keys(self._wanted), links)
        self._clearing.folder(self._plan.order.destination)
        for path in (entry.path for entry in folders if entry.path.count(b"/") == 2):
            inner = Path(os.fsdecode(self._resolve(path)))
            if space_of(path) in self._links and inner.is_dir():
                self._clearing.folder(inner, path)

    def _folder(self, entry: Entry) -> None:
        """A folder with mode and owner; for a tablespace also the link that leads to it."""
        place = Path(os.fsdecode(self._resolve(entry.path)))
        link = self._plan.order.destination / os.fsdecode(entry.path)
        with os_errors(f"make {os.fsdecode(entry.path)}", str(place)):
            place.mkdir(mode=entry.mode, parents=True, exist_ok=True)
            place.chmod(entry.mode)
            if self._owner is not None:
                os.chown(place, *self._owner)
            if place != link and entry.path.count(b"/") == 1:
                if not link.is_symlink():
                    link.symlink_to(place)
                if self._owner is not None:
                    os.chown(link, *self._owner, follow_symlinks=False)

    def _settings(self) -> None:
        """Everything that the server reads before pg_control, which is not there yet."""
        self._phase("settings")
        plan, manifest = self._plan, self._plan.manifest
        destination = plan.order.destination
        for name in facts_of_server(manifest.summary.engine_version).wal_folders:
            self._own_folder(destination / "pg_wal" / name)
        extra = {RECOVERY_FILE: (destination / RECOVERY_FILE).read_bytes(), "backup_label": manifest.head.backup_label}
        moved = tablespace_map(manifest.head.tablespace_map, plan.links)
        if moved:
            extra["tablespace_map"] = moved
        for name, content in extra.items():
            if name != RECOVERY_FILE:
                self._put(name, content, 0o600)
        existing, conf = self._text(AUTO_CONF), self._text("postgresql.conf")
        self._put(AUTO_CONF, auto_conf(plan, existing, conf).encode("utf-8", "surrogateescape"), 0o600)
        self._put(RECOVERY_SIGNAL, b"", 0o600)
        self._stream("backup_manifest", pg_manifest(manifest.summary, self._wanted, extra))

    def _text(self, name: str) -> str:
        try:
            return (self._plan.order.destination / name).read_text("utf-8", "surrogateescape")
        except FileNotFoundError:
            return ""

    def _put(self, name: str, content: bytes, mode: int) -> None:
        path = self._plan.order.destination / name
        durable.replace(path, content, mode=mode)
        self._own(path, mode)
        durable.sync_dir(path.parent)

    def _arm(self, control: bytes, mode: int) -> None:
        """pg_control appears by one rename, with the mode and owner that it shall have, and is durable on return."""
        path = self._plan.order.destination / CONTROL_PATH
        unnamed = path.with_name(f"{path.name}.drkit")
        durable.replace(unnamed, control, mode=mode)
        self._own(unnamed, mode)
        with os_errors("put pg_control in place", str(path)):
            sync_file(unnamed)
            unnamed.replace(path)
            durable.sync_dir(path.parent)

    def _stream(self, name: str, pieces: Iterable[bytes]) -> None:
        path = self._plan.order.destination / name
        durable.write_new(path, _blocks(pieces))
        self._own(path)

    def _own(self, path: Path, mode: int = 0o600) -> None:
        with os_errors(f"give {path.name} to the server", str(path)):
            path.chmod(mode)
            if self._owner is not None:
                os.chown(path, *self._owner)

    def _own_folder(self, path: Path) -> None:
        durable.make_dirs(path, mode=0o700)
        with os_errors(f"give {path.name} to the server", str(path)):
            if self._owner is not None:
                os.chown(path, *self._owner)


def _blocks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Lines joined to what is worth a write."""
    block = bytearray()
    for piece in pieces:
        block += piece
        if len(block) >= _BLOCK_BYTES:
            yield bytes(block)
            block.clear()
    yield bytes(block)
