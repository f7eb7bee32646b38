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
from pathlib import Path

from drkit.core.cancel import CancelToken
from drkit.core.errors import DrkitError, Failed, Refused
from drkit.core.flow import Group
from drkit.core.progress import Tally
from drkit.engines.postgres.control import CONTROL_PATH, ControlFile, read_control
from drkit.engines.postgres.session import BackupSession, BackupStart, BackupStop, ServerFacts
from drkit.engines.postgres.timeline import Timeline, parse_history
from drkit.engines.postgres.wal import history_name, names_between
from drkit.engines.postgres.walk import Entry as Found
from drkit.engines.postgres.walk import EntryKind, walk
from drkit.jobs import backup_record
from drkit.jobs.backup_commit import Commit, Stored, Usage, await_files, used_extents, wal_reference
from drkit.jobs.backup_copy import Copier, FileCopy, Pace, PageRules
from drkit.jobs.backup_journal import Journal, journal_path, read_journal, still_there
from drkit.jobs.backup_parent import Earlier, Parent, known_of
from drkit.jobs.backup_preflight import check_source, choose_parent, data_folder
from drkit.jobs.backup_record import Taken
from drkit.jobs.backup_sample import sample, spoiled
from drkit.jobs.backup_targets import Participants
from drkit.jobs.means import Means
from drkit.pipeline.fanout import FanOut, Parcel
from drkit.pipeline.mapping import Map
from drkit.pipeline.stager import Numbers, Product, Sizes, Stager
from drkit.repository.catalogue import Catalogue, Standing, State, load_manifest, read_catalogue
from drkit.repository.layout import ClusterLayout, Kind, RunId
from drkit.repository.leases import Verdict, decide
from drkit.repository.manifest import Manifest, Reference, Source, Summary, seal_manifest
from drkit.repository.target import Target
from storage_backends.errors import StorageError

_SETTLED_NS = 2_000_000_000
_RECHECKS = 5
_RENEW_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class BackupOrder:
    """What to back up and how. required: targets that must hold it; rate: bytes read a second, None: no limit.

    data_dir None: the server is asked. spool: this host's state folder. wal_timeout_s: how long the last WAL may take.
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
    spool: Path
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


class _Collector:
    """Takes finished objects from the stagers: hands them to the fan-out and keeps what the manifest needs."""

    def __init__(self, layout: ClusterLayout, run: RunId, fan: FanOut, journal: Journal) -> None:
        self._layout, self._run, self._fan, self._journal = layout, run, fan, journal
        self.stored: dict[tuple[int, bytes], Stored] = {}
        self.maps: dict[bytes, Map] = {}
        self.new_bytes = 0

    def take(self, product: Product) -> None:
        object_id = self._run.binary + product.number.to_bytes(4, "big")
        sealed = product.sealed
        facts = Stored(sealed.size_bytes, sealed.digest)
        uses = () if product.map is None else tuple(p.tobytes() for p in product.map.packs["id"])
        if product.map is not None:
            self.maps[object_id] = product.map
        if product.kind != Kind.FINGERPRINTS:
            self.stored[(product.kind, object_id)] = facts
            self.new_bytes += sealed.size_bytes
            self._journal.stored(product.kind, object_id, facts, uses)
        self._fan.send(Parcel(self._layout.data(Kind(product.kind), object_id), sealed.parts, sealed.size_bytes))


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
        self._participants = Participants(means, self._layout, self._id, order.host, order.required)
        self._source = Source(order.machine, str(folder), folder.stat().st_dev)

    def execute(self, began: float) -> BackupResult:
        timeline = self._timeline(self._facts.timeline)
        catalogue = read_catalogue(self._means.repository, self._facts.system_identifier)
        names = [t.name for t in self._means.repository.targets]
        chosen = None if self._order.rehash else choose_parent(catalogue, names, timeline)
        path = journal_path(self._order.spool, self._facts.system_identifier)
        left = None if self._order.rehash else read_journal(path)
        via = [chosen.summary.run] if chosen else []
        self._participants.lease(via + ([left.known.run] if left else []))
        try:
            avoid = self._participants.tombstones()
            parents: list[Parent] = []
            manifest = self._load_parent(catalogue, chosen.summary.backup, avoid) if chosen else None
            ring = self._means.repository.ring
            if left is not None and self._layout.manifest(left.known.run) not in avoid:
                known = still_there(left, self._participants.inventories(), self._layout)
                parents.append(Parent(known, self._participants.targets[0], self._layout, ring, avoid))
            if manifest is not None:
                parents.append(Parent(known_of(manifest[0]), manifest[1], self._layout, ring, avoid))
            parent = manifest[0].summary.backup if manifest else None
            journal = Journal(path, self._id, self._source)
            taken, parts = self._take(Earlier(parents), parent, timeline, journal)
            result = self._commit(taken, parts, Earlier(parents), timeline, began)
            journal.done()
            return result
        finally:
            self._participants.release()

    def _timeline(self, number: int) -> Timeline:
        if number == 1:
            return Timeline(1)
        path = self._folder / "pg_wal" / history_name(number).text
        try:
            return parse_history(number, path.read_bytes())
        except OSError as error:
            what = f"the history of timeline {number} cannot be read"
            raise Refused(what, where=str(path), why=error.strerror or str(error)) from error

    def _load_parent(
        self, catalogue: Catalogue, ident: str, avoid: frozenset[str]
    ) -> tuple[Manifest, Target] | None:
        """Step 2 of the protocol: after the lease no tombstone may stand on the parent itself."""
        backup = catalogue.backup(ident)
        if self._layout.manifest(backup.summary.run) in avoid:
            return None
        sizes = self._order.sizes
        for target in self._participants.targets:
            if target.name not in backup.good_on:
                continue
            try:
                manifest = load_manifest(self._means.repository.ring, target, self._layout, backup.summary.run)
            except (StorageError, DrkitError) as error:
                self._means.log.warn("parent cannot be read", backup=ident, target=target.name, why=str(error))
                continue
            same = (manifest.head.chunk_bytes, manifest.head.extent_bytes) == (sizes.chunk, sizes.extent)
            return (manifest, target) if same else None
        return None

    def _take(
        self, earlier: Earlier, parent: str | None, timeline: Timeline, journal: Journal
    ) -> tuple[Taken, _Parts]:
        """From the server's backup start to its stop: everything but the manifest is durable on return."""
        order, means = self._order, self._means
        started = self._session.start(f"drkit {self._id}", fast=order.fast)
        if started.timeline != timeline.id:
            raise Refused(f"the server is on timeline {started.timeline} now, it was on {timeline.id} a moment ago")
        listed_at = int(means.clock.now().timestamp() * 1e9)
        found = list(walk(self._folder, self._facts.major, self._control.tablespace_folder))
        for special in (f for f in found if f.kind is EntryKind.SPECIAL):
            means.log.warn("left out: a link or special file of the data folder", path=special.path)
        copies = [FileCopy(f) for f in found if f.kind is EntryKind.FILE]
        todo = self._plan(copies, earlier, listed_at)
        total = sum(copy.found.size for copy in todo)
        tally = Tally(means.progress, "backup", clock=means.clock, total_bytes=total)
        with Group(means.token, name="backup") as group:
            backends = {t.name: t.backend for t in self._participants.targets}
            fan = FanOut(backends, required=order.required, group=group)
            collector = _Collector(self._layout, self._id, fan, journal)
            copier = self._copier(collector, earlier, started, tally, journal)
            with self._kept_alive(group):
                stop = self._copy(group, copier, todo, copies, earlier, collector)
            fan.finish()
        for name, error in fan.failures.items():
            self._participants.drop(name, error)
        tally.finish()
        taken = Taken(
            run=self._id,
            cluster=order.cluster,
            label=order.label,
            writer=order.writer,
            facts=self._facts,
            control=self._control,
            source=self._source,
            sizes=order.sizes,
            started_at=self._started,
            start=started,
            stop=stop,
            found=found,
            copies=copies,
            damaged=copier.damaged(stop.lsn),
            parent=parent,
            new_bytes=collector.new_bytes,
        )
        return taken, _Parts(collector.stored, collector.maps, fan.sent_bytes, copier.read_bytes)

    def _plan(self, copies: Sequence[FileCopy], earlier: Earlier, listed_at: int) -> list[FileCopy]:
        """Adopt what is unchanged; returns what must be read. pg_control is in neither: it comes last."""
        todo = []
        for copy in copies:
            found: Found = copy.found
            copy.settled = max(found.mtime_ns, found.ctime_ns) + _SETTLED_NS <= listed_at
            if found.path == CONTROL_PATH:
                continue
            placed = earlier.unchanged(found, self._source)
            if placed is None:
                todo.append(copy)
            else:
                copy.placed, copy.adopted = dict(enumerate(placed)), True
        return todo

    def _copier(
        self, collector: _Collector, earlier: Earlier, started: BackupStart, tally: Tally, journal: Journal
    ) -> Copier:
        order, control, repository = self._order, self._control, self._means.repository
        numbers = Numbers()

        def stager() -> Stager:
            return Stager(
                run=self._id.binary,
                numbers=numbers,
                seal=repository.data_key.writer,
                header=repository.data_key.header(Kind.PACK, bytes(16)),
                emit=collector.take,
                level=order.level,
                fingerprint_key=repository.ring.fingerprint_key,
                sizes=order.sizes,
            )

        return Copier(
            workers=order.workers,
            stager=stager,
            earlier=earlier,
            extent_bytes=order.sizes.extent,
            pages=PageRules(
                self._facts.data_checksums, control.block_size, control.relation_segment_blocks, started.lsn
            ),
            tally=tally,
            pace=Pace(order.rate, self._means.clock, self._means.token),
            journal=journal,
        )

    def _copy(
        self,
        group: Group,
        copier: Copier,
        todo: Sequence[FileCopy],
        copies: Sequence[FileCopy],
        earlier: Earlier,
        collector: _Collector,
    ) -> BackupStop:
        """Read all files, re-check tombstones, read pg_control last, stop the backup on the server."""
        copier.run(group, todo)
        self._recheck(group, copier, copies, earlier, collector)
        self._sample(group, copier, copies)
        control = next(copy for copy in copies if copy.found.path == CONTROL_PATH)
        data, _ = read_control(self._folder, self._means.clock.sleep)
        copier.one(control, data)
        return self._session.stop()

    @contextmanager
    def _kept_alive(self, group: Group) -> Iterator[None]:
        """Renew leases while the copy runs; the thread ends with the block."""
        done = CancelToken(parent=group.token)

        def renew() -> None:
            while not done.wait(_RENEW_EVERY_S):
                self._participants.renew()

        group.start("leases", renew)
        try:
            yield
        finally:
            done.cancel("copied")

    def _recheck(
        self,
        group: Group,
        copier: Copier,
        copies: Sequence[FileCopy],
        earlier: Earlier,
        collector: _Collector,
    ) -> None:
        """Step 4: what was adopted from something that got a tombstone meanwhile is read and stored anew."""
        if not earlier.parents:
            return
        for _ in range(_RECHECKS):
            hit = self._participants.tombstones()
            stale = [c for c in copies if hit and self._stale(c, earlier, collector, hit)]
            if not stale:
                return
            self._means.log.warn("expiry met this backup; reading files again", files=len(stale))
            for copy in stale:
                copy.placed, copy.adopted = {}, False
            copier.forget_earlier()
            copier.run(group, stale)
        raise Failed("expiry on a target removes what this backup needs again and again", cure="is a clock wrong?")

    def _sample(self, group: Group, copier: Copier, copies: Sequence[FileCopy]) -> None:
        """Rebuild some of what was adopted; where it does not hold, trust nothing of the past and store all anew."""
        drawn = sample(copies, self._means)
        wrong = spoiled(drawn, self._participants.targets, self._layout, self._order.sizes.chunk, self._means)
        if not wrong:
            return
        for name, why in wrong.items():
            self._means.log.error("adopted data is damaged; storing everything anew", target=name, why=why)
        todo = [copy for copy in copies if copy.found.path != CONTROL_PATH]
        for copy in todo:
            copy.placed, copy.adopted = {}, False
        copier.forget_earlier()
        copier.run(group, todo)

    def _stale(self, copy: FileCopy, earlier: Earlier, collector: _Collector, hit: frozenset[str]) -> bool:
        via_hit = any(key in hit for key in earlier.keys)
        for placed in copy.placed.values():
            own = placed.map_id in collector.maps
            if not own and (via_hit or self._layout.data(Kind.MAP, placed.map_id) in hit):
                return True
            table = collector.maps[placed.map_id] if own else earlier.load(placed.map_id)
            for pack in {p.tobytes() for p in table.packs["id"]}:
                foreign = RunId.of_object(pack) != self._id
                if foreign and (via_hit or self._layout.data(Kind.PACK, pack) in hit):
                    return True
        return False

    def _commit(
        self, taken: Taken, parts: _Parts, earlier: Earlier, timeline: Timeline, began: float
    ) -> BackupResult:
        """Wait for the WAL, then create the manifest on every target whose closure is whole."""
        data_key = self._means.repository.data_key
        usage, references = self._usage(taken, parts, earlier)
        for file in self._await_wal(timeline, taken):
            reference, epoch = self._wal_reference(file)
            references.append(reference)
            usage.epochs.add(epoch)
        entries, maps = backup_record.entries(taken)
        epochs = usage.epochs | {data_key.epoch}
        summary = backup_record.summary(taken, entries, references, epochs, self._means.clock.now())
        sealed = seal_manifest(
            data_key, self._layout, summary, backup_record.head(taken), references, maps, entries
        )
        commit = Commit(self._layout, summary, references, sealed, earlier.keys)
        standings = self._commit_everywhere(commit)
        result = BackupResult(
            summary=summary,
            standings=standings,
            sent_bytes=parts.sent_bytes,
            read_bytes=parts.read_bytes,
            adopted_files=sum(copy.adopted for copy in taken.copies),
            damaged=taken.damaged,
            seconds=self._means.clock.monotonic() - began,
        )
        if len(result.good_on) < self._order.required:
            raise Failed(
                f"the backup is good on {len(result.good_on)} targets, {self._order.required} must have it",
                where=summary.backup,
                why="; ".join(f"{n}: {s.state} ({s.why})" for n, s in standings.items()),
                cure="`drkit check` tries each target",
            )
        return result

    def _usage(self, taken: Taken, parts: _Parts, earlier: Earlier) -> tuple[Usage, list[Reference]]:
        placed = (p for copy in taken.copies for p in copy.extents(self._order.sizes.extent))
        usage = Usage()
        for map_id, extents in used_extents((p.map_id, p.index) for p in placed).items():
            table = parts.maps.get(map_id)
            usage.use(map_id, earlier.load(map_id) if table is None else table, extents)
        return usage, usage.references(earlier.stored | dict(parts.stored))

    def _await_wal(self, timeline: Timeline, taken: Taken) -> list[str]:
        """The files that the closure needs: segments from start to stop, and the histories of the ancestry."""
        start, stop = taken.start, taken.stop
        names = [n.text for n in names_between(start.timeline, start.lsn, stop.lsn, self._facts.wal_segment_size)]
        names += [history_name(n).text for n in timeline.path if n > 1]
        await_files(
            self._participants.targets,
            self._layout,
            names,
            required=self._order.required,
            timeout_s=self._order.wal_timeout_s,
            token=self._means.token,
            monotonic=self._means.clock.monotonic,
            stuck=self._session.session.archiver,
        )
        return names

    def _wal_reference(self, file: str) -> tuple[Reference, int]:
        problems: list[str] = []
        for target in self._participants.targets:
            try:
                return wal_reference(self._means.repository.ring, target, self._layout, file)
            except (StorageError, DrkitError) as error:
                problems.append(f"{target.name}: {error}")
        raise Failed(f"the archived file {file} cannot be read back", why="; ".join(problems))

    def _commit_everywhere(self, commit: Commit) -> dict[str, Standing]:
        means = self._means
        standings: dict[str, Standing] = {}
        for target in self._participants.targets:
            if commit.via and not self._participants.leases[target.name].live:
                standings[target.name] = Standing(State.PENDING, "the lease ran out before the commit")
                continue

            def settle(verdict: Verdict, reason: str, target: Target = target) -> Verdict:
                return decide(
                    target,
                    self._layout,
                    self._id,
                    verdict,
                    reason,
                    ring=means.repository.ring,
                    data_key=means.repository.data_key,
                    clock=means.clock,
                    entropy=means.entropy,
                )

            try:
                standings[target.name] = commit.on(target, means.repository.ring, settle)
            except (StorageError, DrkitError) as error:
                standings[target.name] = Standing(State.PENDING, str(error))
        out = {name: Standing(State.PENDING, why) for name, why in self._participants.out.items()}
        return out | standings


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the copy left behind, beside the record: objects stored, maps in memory, bytes sent and read."""

    stored: Mapping[tuple[int, bytes], Stored]
    maps: Mapping[bytes, Map]
    sent_bytes: Mapping[str, int]
    read_bytes: int


def machine_id() -> str:
    """What tells this machine from another: files adopted unread must come from the same one."""
    try:
        return Path("/etc/machine-id").read_text().strip() or os.uname().nodename
    except OSError:
        return os.uname().nodename
