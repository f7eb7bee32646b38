"""A base backup of PostgreSQL to all targets in one pass: read once, compress once, seal once.

    session -> lease -> tombstones -> parent -> start -> walk -> copy -> tombstones again -> pg_control -> stop
            -> last WAL durable -> manifest, where the closure is whole -> tombstones once more

The order is the writer's protocol of docs/format.md, section 8; `tests/model` shows why no step may move.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from drkit.core.cancel import CancelToken
from drkit.core.clock import Clock
from drkit.core.errors import DrkitError, Failed, Refused
from drkit.core.flow import Group
from drkit.core.progress import Tally
from drkit.engines.postgres.control import CONTROL_PATH, ControlFile, parse_control, read_control
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.session import BackupSession, BackupStart, BackupStop, ServerFacts
from drkit.engines.postgres.timeline import Timeline, parse_history
from drkit.engines.postgres.wal import history_name, name_at, names_between
from drkit.engines.postgres.walk import Entry as Found
from drkit.engines.postgres.walk import EntryKind, walk
from drkit.jobs.backup_commit import Commit, Stored, Usage, await_files, used_extents, wal_reference
from drkit.jobs.backup_copy import Copier, FileCopy, PageRules
from drkit.jobs.backup_parent import Parent
from drkit.jobs.backup_preflight import check_source, choose_parent, data_folder
from drkit.jobs.means import Means
from drkit.pipeline.digests import file_digest
from drkit.pipeline.fanout import FanOut, Parcel
from drkit.pipeline.mapping import Map
from drkit.pipeline.stager import Numbers, Product, Sizes, Stager
from drkit.repository.catalogue import Catalogue, Standing, State, load_manifest, read_catalogue
from drkit.repository.layout import ClusterLayout, Kind, RunId
from drkit.repository.leases import Lease, LeaseTerms, tombstones, withdraw
from drkit.repository.manifest import (
    FILE,
    FOLDER,
    NOTHING,
    SETTLED,
    Entry,
    Head,
    Reference,
    Source,
    Summary,
    Tablespace,
    seal_manifest,
)
from drkit.repository.target import Target
from storage_backends.errors import StorageError

_LEASE_S = 900
_SETTLED_NS = 2_000_000_000
_RECHECKS = 5


@dataclass(frozen=True, slots=True)
class BackupOrder:
    """What to back up and how. required: targets that must hold it; rate: bytes read a second, None: no limit.

    data_dir None: the server is asked. wal_timeout_s: how long the last WAL may take to arrive.
    """

    cluster: str
    connection: str
    data_dir: Path | None
    label: str
    rehash: bool
    workers: int
    level: int
    rate: int | None
    required: int
    machine: str
    host: str
    writer: str
    wal_timeout_s: float = 600.0
    fast: bool = True
    sizes: Sizes = field(default_factory=Sizes)


@dataclass(frozen=True, slots=True)
class BackupResult:
    """What was made. standings: by configured target; sent_bytes: durable on each; seconds: whole run."""

    summary: Summary
    standings: Mapping[str, Standing]
    sent_bytes: Mapping[str, int]
    read_bytes: int
    adopted_files: int
    damaged: Sequence[tuple[str, int]]
    seconds: float

    @property
    def good_on(self) -> list[str]:
        return [name for name, s in self.standings.items() if s.state is State.GOOD]


class _Targets:
    """The targets that take part: those where a lease stands. A target that fails later is in `out`."""

    def __init__(self, order: BackupOrder, means: Means, layout: ClusterLayout, run: RunId) -> None:
        self._order, self._means, self._layout, self._run = order, means, layout, run
        self.leases: dict[str, Lease] = {}
        self.out: dict[str, str] = {name: str(error) for name, error in means.repository.absent.items()}

    @property
    def taking_part(self) -> list[Target]:
        return [t for t in self._means.repository.targets if t.name in self.leases and t.name not in self.out]

    def lease(self, via: Sequence[RunId]) -> None:
        terms = LeaseTerms("backup", self._run, via, self._order.host, _LEASE_S)
        means = self._means
        for target in means.repository.targets:
            try:
                self.leases[target.name] = Lease(
                    target, self._layout, terms, means.repository.data_key, means.clock, means.entropy
                )
            except StorageError as error:
                self.drop(target.name, error)
        self.enough()

    def drop(self, name: str, error: Exception | str) -> None:
        self.out[name] = str(error)
        self._means.log.warn("target left the backup", target=name, why=str(error))

    def enough(self) -> None:
        if len(self.taking_part) < self._order.required:
            raise Failed(
                f"{len(self.taking_part)} targets can take the backup, {self._order.required} must",
                why="; ".join(f"{n}: {why}" for n, why in self.out.items()),
                cure="`drkit check` tries each target",
            )

    def tombstones(self) -> frozenset[str]:
        """Union over the targets that take part; one that cannot be asked leaves the run."""
        found: frozenset[str] = frozenset()
        for target in self.taking_part:
            try:
                found |= tombstones(target, self._layout)
            except StorageError as error:
                self.drop(target.name, error)
        self.enough()
        return found

    def renew(self) -> None:
        for target in self.taking_part:
            try:
                self.leases[target.name].renew_if_due()
            except (StorageError, DrkitError) as error:
                self.drop(target.name, error)

    def release(self) -> None:
        """Best effort: a lease that stays runs out by itself."""
        for target in self._means.repository.targets:
            lease = self.leases.get(target.name)
            if lease is None:
                continue
            try:
                lease.release()
            except StorageError as error:
                self._means.log.warn("lease stays until it runs out", target=target.name, why=str(error))


class _Collector:
    """Takes finished objects from the stagers: hands them to the fan-out and keeps what the manifest needs."""

    def __init__(self, layout: ClusterLayout, run: RunId) -> None:
        self._layout, self._run = layout, run
        self.fan: FanOut | None = None
        self.stored: dict[tuple[int, bytes], Stored] = {}
        self.maps: dict[bytes, Map] = {}
        self.new_bytes = 0

    def take(self, product: Product) -> None:
        object_id = self._run.binary + product.number.to_bytes(4, "big")
        sealed = product.sealed
        self.stored[(product.kind, object_id)] = Stored(sealed.size_bytes, sealed.digest)
        if product.map is not None:
            self.maps[object_id] = product.map
        if product.kind != Kind.FINGERPRINTS:
            self.new_bytes += sealed.size_bytes
        assert self.fan is not None
        self.fan.send(Parcel(self._layout.data(Kind(product.kind), object_id), sealed.parts, sealed.size_bytes))


def backup(order: BackupOrder, means: Means) -> BackupResult:
    """Take a backup; on return it is good on at least `order.required` targets.

    Raises Refused (nothing was touched), Failed, Unreachable or a StorageError; what a failed backup wrote has no
    manifest, is never listed, and the next one or expiry takes care of it.
    """
    began = means.clock.monotonic()
    with BackupSession.open(order.connection) as session:
        facts = session.facts()
        folder = data_folder(order.data_dir, facts)
        _, control = read_control(folder, means.clock.sleep)
        check_source(folder, facts, control)
        return _Run(order, means, session, facts, folder, control).execute(began)


class _Run:
    def __init__(
        self,
        order: BackupOrder,
        means: Means,
        session: BackupSession,
        facts: ServerFacts,
        folder: Path,
        control: ControlFile,
    ) -> None:
        self._order, self._means, self._session, self._facts = order, means, session, facts
        self._folder, self._control = folder, control
        self._layout = ClusterLayout(facts.system_identifier)
        self._started = means.clock.now()
        self._id = RunId.new(self._started, means.entropy(4))
        self._targets = _Targets(order, means, self._layout, self._id)
        self._collector = _Collector(self._layout, self._id)
        device = folder.stat().st_dev
        self._source = Source(order.machine, str(folder), device)

    def execute(self, began: float) -> BackupResult:
        timeline = self._timeline(self._facts.timeline)
        catalogue = read_catalogue(self._means.repository, self._facts.system_identifier)
        names = [t.name for t in self._means.repository.targets]
        chosen = None if self._order.rehash else choose_parent(catalogue, names, timeline)
        via = [chosen.summary.run] if chosen else []
        self._targets.lease(via)
        try:
            parent = self._open_parent(catalogue, chosen.summary.backup) if chosen else None
            return self._copy_and_commit(parent, timeline, began)
        finally:
            self._targets.release()

    def _timeline(self, number: int) -> Timeline:
        if number == 1:
            return Timeline(1)
        path = self._folder / "pg_wal" / str(history_name(number).text)
        try:
            return parse_history(number, path.read_bytes())
        except OSError as error:
            raise Refused(
                f"the history of timeline {number} cannot be read", where=str(path), why=error.strerror or str(error)
            ) from error

    def _open_parent(self, catalogue: Catalogue, ident: str) -> Parent | None:
        """Step 2 of the protocol: after the lease, look for tombstones; none may stand on the parent itself."""
        backup = catalogue.backup(ident)
        avoid = self._targets.tombstones()
        if self._layout.manifest(backup.summary.run) in avoid:
            return None
        for target in self._targets.taking_part:
            if target.name not in backup.good_on:
                continue
            try:
                manifest = load_manifest(self._means.repository.ring, target, self._layout, backup.summary.run)
                sizes = self._order.sizes
                if (manifest.head.chunk_bytes, manifest.head.extent_bytes) != (sizes.chunk, sizes.extent):
                    return None
                return Parent(manifest, target, self._layout, self._means.repository.ring, avoid)
            except (StorageError, DrkitError) as error:
                self._means.log.warn("parent cannot be read", backup=ident, target=target.name, why=str(error))
        return None

    def _copy_and_commit(self, parent: Parent | None, timeline: Timeline, began: float) -> BackupResult:
        started = self._session.start(f"drkit {self._id}", fast=self._order.fast)
        if started.timeline != timeline.id:
            raise Refused(f"the server is on timeline {started.timeline} now, it was on {timeline.id} a moment ago")
        listed_at = int(self._means.clock.now().timestamp() * 1e9)
        found = list(walk(self._folder, self._facts.major, self._control.tablespace_folder))
        copies = [FileCopy(f) for f in found if f.kind is EntryKind.FILE]
        todo = self._plan(copies, parent, listed_at)
        total = sum(c.found.size for c in todo)
        tally = Tally(self._means.progress, "backup", clock=self._means.clock, total_bytes=total)
        group = Group(self._means.token, name="backup")
        with group:
            backends = {t.name: t.backend for t in self._targets.taking_part}
            fan = self._collector.fan = FanOut(backends, required=self._order.required, group=group)
            copier, stop = self._copy(group, todo, copies, parent, started, tally)
            fan.finish()
        for name, error in fan.failures.items():
            self._targets.drop(name, error)
        tally.finish()
        damaged = copier.damaged(stop.lsn)
        return self._commit(parent, timeline, started, stop, found, copies, damaged, fan, began, copier)

    def _plan(self, copies: Sequence[FileCopy], parent: Parent | None, listed_at: int) -> list[FileCopy]:
        todo = []
        for copy in copies:
            copy.settled = max(copy.found.mtime_ns, copy.found.ctime_ns) + _SETTLED_NS <= listed_at
            before = parent.unchanged(copy.found, self._source) if parent is not None else None
            if copy.found.path == CONTROL_PATH:
                continue
            if before is not None and parent is not None:
                copy.placed = dict(enumerate(parent.adopt(before)))
                copy.adopted = True
            else:
                todo.append(copy)
        return todo

    def _copy(
        self,
        group: Group,
        todo: Sequence[FileCopy],
        copies: Sequence[FileCopy],
        parent: Parent | None,
        started: BackupStart,
        tally: Tally,
    ) -> tuple[Copier, BackupStop]:
        """Read all files, re-check tombstones, read pg_control last, stop the backup on the server."""
        numbers, order, control = Numbers(), self._order, self._control
        repository = self._means.repository

        def stager() -> Stager:
            return Stager(
                run=self._id.binary,
                numbers=numbers,
                seal=repository.data_key.writer,
                header=repository.data_key.header(Kind.PACK, bytes(16)),
                emit=self._collector.take,
                level=order.level,
                fingerprint_key=repository.ring.fingerprint_key,
                sizes=order.sizes,
            )

        copier = Copier(
            workers=order.workers,
            stager=stager,
            parent=parent,
            extent_bytes=order.sizes.extent,
            pages=PageRules(
                self._facts.data_checksums, control.block_size, control.relation_segment_blocks, started.lsn
            ),
            tally=tally,
            pace=self._pace(),
        )
        with self._kept_alive(group):
            copier.run(group, todo)
            self._recheck(group, copier, copies, parent)
            last = stager()
            for copy in copies:
                if copy.found.path == CONTROL_PATH:
                    data, _ = read_control(self._folder, self._means.clock.sleep)
                    parse_control(data)
                    copy.placed = {}
                    copier.place(last, copy, 0, data, adopt=False)
            last.finish()
            stop = self._session.stop()
        return copier, stop

    def _pace(self) -> Pace:
        return Pace(self._order.rate, self._means.clock, self._means.token)

    @contextmanager
    def _kept_alive(self, group: Group) -> Iterator[None]:
        """Renew leases while the copy runs; the thread ends with the block."""
        done = CancelToken(parent=group.token)

        def renew() -> None:
            while not done.wait(5.0):
                self._targets.renew()

        group.start("leases", renew)
        try:
            yield
        finally:
            done.cancel("copied")

    def _recheck(
        self, group: Group, copier: Copier, copies: Sequence[FileCopy], parent: Parent | None
    ) -> None:
        """Step 4: what was adopted from something that got a tombstone meanwhile is read and stored anew."""
        if parent is None:
            return
        for _ in range(_RECHECKS):
            hit = self._targets.tombstones()
            stale = [c for c in copies if c.found.path != CONTROL_PATH and self._stale(c, parent, hit)]
            if not stale:
                return
            self._means.log.warn("expiry met this backup; reading files again", files=len(stale))
            for copy in stale:
                copy.placed, copy.adopted = {}, False
            copier.forget_parent()
            copier.run(group, stale)
        raise Failed("expiry on a target removes what this backup needs again and again", cure="is a clock wrong?")

    def _stale(self, copy: FileCopy, parent: Parent, hit: frozenset[str]) -> bool:
        if not hit:
            return False
        via_hit = self._layout.manifest(parent.manifest.summary.run) in hit
        for placed in copy.placed.values():
            own = RunId.of_object(placed.map_id) == self._id
            if not own and (via_hit or self._layout.data(Kind.MAP, placed.map_id) in hit):
                return True
            table = self._collector.maps.get(placed.map_id) or parent.load(placed.map_id)[0]
            for pack in {p.tobytes() for p in table.packs["id"]}:
                foreign = RunId.of_object(pack) != self._id
                if foreign and (via_hit or self._layout.data(Kind.PACK, pack) in hit):
                    return True
        return False

    def _commit(
        self,
        parent: Parent | None,
        timeline: Timeline,
        started: BackupStart,
        stop: BackupStop,
        found: Sequence[Found],
        copies: Sequence[FileCopy],
        damaged: Sequence[tuple[str, int]],
        fan: FanOut,
        began: float,
        copier: Copier,
    ) -> BackupResult:
        usage, references = self._usage(parent, copies)
        files = self._await_wal(timeline, started, stop)
        for file in files:
            reference, epoch = self._wal_reference(file)
            references.append(reference)
            usage.epochs.add(epoch)
        entries, maps = self._entries(found, copies)
        stored = sum(r.size for r in references if r.kind in (Kind.PACK, Kind.MAP))
        segment = self._facts.wal_segment_size
        now = self._means.clock.now()
        summary = Summary(
            backup=str(self._id),
            cluster=self._order.cluster,
            system_identifier=str(self._facts.system_identifier),
            timeline=started.timeline,
            start_lsn=str(started.lsn),
            stop_lsn=str(stop.lsn),
            start_wal=name_at(started.timeline, started.lsn, segment).text,
            stop_wal=name_at(started.timeline, Lsn(stop.lsn.value - 1), segment).text,
            segment_bytes=segment,
            started_at=_iso(self._started),
            stopped_at=_iso(now),
            parent=parent.manifest.summary.backup if parent else None,
            engine="postgres",
            engine_version=self._facts.version_num,
            size_bytes=sum(e.size for e in entries),
            stored_bytes=stored,
            new_bytes=self._collector.new_bytes,
            files=sum(e.type == FILE for e in entries),
            page_errors=len(damaged),
            epochs=sorted(usage.epochs | {self._means.repository.data_key.epoch}),
        )
        head = self._head(stop, found, damaged, sum(c.vanished for c in copies))
        sealed = seal_manifest(
            self._means.repository.data_key, self._layout, summary, head, references, maps, entries
        )
        via = [str(self._layout.manifest(parent.manifest.summary.run))] if parent else []
        commit = Commit(self._layout, summary, references, sealed, via)
        standings = self._commit_everywhere(commit, parent is not None)
        result = BackupResult(
            summary, standings, fan.sent_bytes, copier.read_bytes, sum(c.adopted for c in copies), damaged,
            self._means.clock.monotonic() - began,
        )  # fmt: skip
        if len(result.good_on) < self._order.required:
            raise Failed(
                f"the backup is good on {len(result.good_on)} targets, {self._order.required} must have it",
                where=summary.backup,
                why="; ".join(f"{n}: {s.state} ({s.why})" for n, s in standings.items()),
                cure="`drkit check` tries each target",
            )
        return result

    def _usage(self, parent: Parent | None, copies: Sequence[FileCopy]) -> tuple[Usage, list[Reference]]:
        pairs = [(p.map_id, p.index) for c in copies for p in c.extents(self._order.sizes.extent)]
        usage, stored = Usage(), dict(self._collector.stored)
        if parent is not None:
            for r in parent.manifest.references:
                if r.kind in (Kind.PACK, Kind.MAP):
                    stored.setdefault((r.kind, r.name), Stored(r.size, r.digest))
        for map_id, extents in used_extents(pairs).items():
            table = self._collector.maps.get(map_id)
            if table is None:
                assert parent is not None
                table = parent.load(map_id)[0]
            usage.use(map_id, table, extents)
        return usage, usage.references(stored)

    def _await_wal(self, timeline: Timeline, started: BackupStart, stop: BackupStop) -> list[str]:
        """The files that the closure needs: segments from start to stop, and the histories of the ancestry."""
        segment = self._facts.wal_segment_size
        names = [n.text for n in names_between(started.timeline, started.lsn, stop.lsn, segment)]
        names += [history_name(n).text for n in timeline.path if n > 1]
        await_files(
            self._targets.taking_part,
            self._layout,
            names,
            required=self._order.required,
            timeout_s=self._order.wal_timeout_s,
            token=self._means.token,
            monotonic=self._means.clock.monotonic,
            stuck=self._archiver,
        )
        return names

    def _archiver(self) -> str:
        rows = self._session.session.rows(
            "select coalesce(last_failed_wal, ''), failed_count, coalesce(last_archived_wal, '') from pg_stat_archiver"
        )
        failed, count, archived = rows[0]
        text = f"the server archived {archived or 'nothing'} last and failed {count} times"
        return text + (f", last with {failed}" if failed else "")

    def _wal_reference(self, file: str) -> tuple[Reference, int]:
        problems: list[str] = []
        for target in self._targets.taking_part:
            try:
                return wal_reference(self._means.repository.ring, target, self._layout, file)
            except (StorageError, DrkitError) as error:
                problems.append(f"{target.name}: {error}")
        raise Failed(f"the archived file {file} cannot be read back", why="; ".join(problems))

    def _entries(self, found: Sequence[Found], copies: Sequence[FileCopy]) -> tuple[list[Entry], list[bytes]]:
        by_path = {c.found.path: c for c in copies if not c.vanished}
        index: dict[bytes, int] = {}
        entries = []
        for item in found:
            path = item.path.encode()
            if item.kind in (EntryKind.FOLDER, EntryKind.TABLESPACE):
                entries.append(Entry(FOLDER, 0, item.mode, 0, item.mtime_ns, 0, 0, 0, NOTHING, 0, path, ()))
                continue
            copy = by_path.get(item.path)
            if item.kind is not EntryKind.FILE or copy is None:
                continue
            placed = copy.extents(self._order.sizes.extent)
            digest, crc = file_digest((p.digest, p.crc, p.length) for p in placed)
            extents = tuple((index.setdefault(p.map_id, len(index)), p.index) for p in placed)
            size = sum(p.length for p in placed)
            settled = SETTLED if copy.settled and size == item.size else 0
            entries.append(
                Entry(FILE, settled, item.mode, size, item.mtime_ns, item.ctime_ns, item.inode, item.device, digest,
                      crc, path, extents)
            )  # fmt: skip
        entries.sort(key=lambda e: e.path + b"/" if e.type == FOLDER else e.path)
        return entries, list(index)

    def _head(
        self, stop: BackupStop, found: Sequence[Found], damaged: Sequence[tuple[str, int]], vanished: int
    ) -> Head:
        control = self._control
        spaces = tuple(
            Tablespace(f.oid, f.location or "", f.location is None) for f in found if f.kind is EntryKind.TABLESPACE
        )
        wal_link = next((f.location for f in found if f.kind is EntryKind.FOLDER and f.path == "pg_wal"), None)
        return Head(
            label=self._order.label,
            backup_label=stop.label,
            tablespace_map=stop.tablespace_map,
            chunk_bytes=self._order.sizes.chunk,
            extent_bytes=self._order.sizes.extent,
            page_bytes=control.block_size,
            relation_segment_pages=control.relation_segment_blocks,
            catalog_version=control.catalog_version,
            control_version=control.control_version,
            checksums=self._facts.data_checksums,
            control={
                "max_connections": control.max_connections,
                "max_worker_processes": control.max_worker_processes,
                "max_wal_senders": control.max_wal_senders,
                "max_prepared_transactions": control.max_prepared_transactions,
                "max_locks_per_transaction": control.max_locks_per_transaction,
            },
            tablespaces=spaces,
            wal_link=wal_link,
            source=self._source,
            damaged=tuple(damaged),
            vanished=vanished,
            writer=self._order.writer,
        )

    def _commit_everywhere(self, commit: Commit, adopts: bool) -> dict[str, Standing]:
        means = self._means
        standings = {name: Standing(State.PENDING, why) for name, why in self._targets.out.items()}
        for target in self._targets.taking_part:
            lease = self._targets.leases[target.name]
            if adopts and not lease.live:
                standings[target.name] = Standing(State.PENDING, "the lease ran out before the commit")
                continue

            def revoke(reason: str, target: Target = target) -> None:
                withdraw(
                    target, self._layout, self._id, reason, means.repository.data_key, means.clock, means.entropy
                )

            try:
                standings[target.name] = commit.on(target, revoke)
            except StorageError as error:
                standings[target.name] = Standing(State.PENDING, str(error))
        return standings


class Pace:
    """Holds readers to `rate` bytes a second together. Thread-safe."""

    def __init__(self, rate: int | None, clock: Clock, token: CancelToken) -> None:
        self._rate, self._clock, self._token = rate, clock, token
        self._free_at = clock.monotonic()

    def __call__(self, size_bytes: int) -> None:
        if self._rate is None:
            return
        now = self._clock.monotonic()
        self._free_at = max(self._free_at, now) + size_bytes / self._rate
        if self._free_at > now:
            self._token.wait(self._free_at - now)


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def machine_id() -> str:
    """What tells this machine from another: files adopted unread must come from the same one."""
    try:
        return Path("/etc/machine-id").read_text().strip() or os.uname().nodename
    except OSError:
        return os.uname().nodename
