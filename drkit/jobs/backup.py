"""A base backup of PostgreSQL to all targets in one pass: read once, compress once, seal once.

    session -> lease -> tombstones -> parent -> start -> walk -> copy -> tombstones again -> pg_control -> stop
            -> last WAL durable -> manifest, where the closure is whole -> tombstones once more

The order is the writer's protocol of docs/format.md, section 8; `tests/model` shows why no step may move.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from drkit.core.errors import Damage, DrkitError, Failed, Refused
from drkit.core.spread import AT_ONCE, spread
from drkit.core.units import format_time
from drkit.engines.postgres.control import read_control
from drkit.engines.postgres.session import STANDBY_WAITS, BackupSession
from drkit.engines.postgres.timeline import Timeline, parse_history
from drkit.engines.postgres.wal import history_name, names_between
from drkit.jobs import backup_record
from drkit.jobs.backup_archiver import ArchiverWatch, ask_archiver
from drkit.jobs.backup_commit import Commit, await_files, wal_reference
from drkit.jobs.backup_compact import NOTHING, Again, plan_again
from drkit.jobs.backup_journal import Journal, journal_path, read_journal, still_there
from drkit.jobs.backup_parent import Earlier, Parent, known_of
from drkit.jobs.backup_preflight import check_source, choose_parent, data_folder, refuse_overlap
from drkit.jobs.backup_record import Taken
from drkit.jobs.backup_take import BackupOrder, Origin, Parts, Taking
from drkit.jobs.backup_targets import Participants
from drkit.jobs.backup_usage import Usage
from drkit.jobs.means import Means
from drkit.jobs.wal_rule import ack_rule
from drkit.pipeline.usage import used_extents
from drkit.repository.catalogue import Backup, Catalogue, Standing, State, load_manifest, read_catalogue
from drkit.repository.layout import ClusterLayout, RunId
from drkit.repository.leases import Verdict, decide
from drkit.repository.manifest import Manifest, Reference, Source, Summary, seal_manifest
from drkit.repository.maps import load_map
from drkit.repository.spool import Spool
from drkit.repository.target import Target
from storage_backends.errors import Damaged, NotFound, StorageError

_SETTLED_NS = 2_000_000_000
_RECHECKS = 5
_RENEW_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class BackupResult:
    """What was made. standings: by configured target; sent_bytes: durable on each; seconds: whole run.

    again_bytes: content that had not changed, stored again because what holds it takes too much to fetch or to keep.
    """

    summary: Summary
    standings: Mapping[str, Standing]
    sent_bytes: Mapping[str, int]
    read_bytes: int
    again_bytes: int
    adopted_files: int
    damaged: Sequence[tuple[str, int]]
    seconds: float

    @property
    def good_on(self) -> list[str]:
        return [name for name, s in self.standings.items() if s.state is State.GOOD]


def backup(order: BackupOrder, means: Means) -> BackupResult:
    """Take a backup; on return it is good on at least `order.required` targets.

    Raises Refused, or Conflict where another server is known under this name (nothing was touched then), Failed,
    Unreachable or a StorageError; what a failed backup wrote has no manifest, is never listed, and the next one or
    expiry takes care of it.
    """
    began = means.clock.monotonic()
    with BackupSession.open(order.connection) as session:
        facts = session.facts()
        folder = data_folder(order.data_dir, facts)
        _, control = read_control(folder, means.clock.sleep)
        check_source(folder, facts, control)
        refuse_overlap(folder, means.repository.targets)
        Spool(order.spool).pin_system(order.cluster, facts.system_identifier)
        source = Source(order.machine, str(folder), folder.stat().st_dev)
        return _Run(order, means, Origin(session, facts, folder, control, source)).execute(began)


class _Run:
    def __init__(self, order: BackupOrder, means: Means, origin: Origin) -> None:
        self._order, self._means, self._origin = order, means, origin
        self._layout = ClusterLayout(origin.facts.system_identifier)
        self._started = means.clock.now()
        self._id = RunId.new(self._started, means.entropy(4))
        self._participants = Participants(means, self._layout, self._id, order.host, order.required)

    def execute(self, began: float) -> BackupResult:
        timeline = self._timeline(self._origin.facts.timeline)
        catalogue = read_catalogue(self._means.repository, self._origin.facts.system_identifier)
        self._warn_of_clocks(catalogue)
        names = [t.name for t in self._means.repository.targets]
        chosen = None if self._order.rehash else choose_parent(catalogue, names, timeline)
        path = journal_path(self._order.spool, self._origin.facts.system_identifier)
        left = None if self._order.rehash else read_journal(path)
        via = [chosen.summary.run] if chosen else []
        self._participants.lease(via + ([left.known.run] if left else []))
        try:
            avoid = self._participants.tombstones()
            parents: list[Parent] = []
            manifest = self._load_parent(catalogue, chosen.summary.backup, avoid) if chosen else None
            ring = self._means.repository.ring
            again = self._again(*manifest) if manifest is not None else NOTHING
            if manifest is not None and chosen is not None:
                avoid |= self._lacking(manifest[0], catalogue, chosen)
                parents.append(Parent(known_of(manifest[0]), manifest[1], self._layout, ring, avoid, again))
            if left is not None and self._layout.manifest(left.known.run) not in avoid:
                stored = parents[0].known.stored if parents else {}
                known = still_there(left, self._participants.inventories(), self._layout, stored)
                parents.insert(0, Parent(known, self._participants.targets[0], self._layout, ring, avoid, again))
            parent = manifest[0].summary.backup if manifest else None
            journal = Journal(path, self._id, self._origin.source)
            taking = Taking(self._order, self._means, self._origin, self._participants, self._id, self._started)
            taken, parts = taking.take(Earlier(parents), parent, timeline, journal)
            event = "what this backup builds on is damaged or not there; stored anew"
            for key, why in Earlier(parents).lost.items():
                self._means.log.error(event, key=key, why=why)
            result = self._commit(taken, parts, Earlier(parents), timeline, began)
            journal.done()
            return result
        finally:
            self._participants.release()

    def _warn_of_clocks(self, catalogue: Catalogue) -> None:
        """A point in time is restored from the last backup that stopped before it, by the clocks of their hosts."""
        last = max(catalogue.backups, key=lambda b: b.summary.stopped, default=None)
        if last is not None and last.summary.stopped > self._started:
            self._means.log.warn(
                "an earlier backup stopped in the future: this host's clock is wrong, or was when that one was taken",
                backup=last.summary.backup,
                stopped=last.summary.stopped_at,
                now=format_time(self._started),
            )

    def _timeline(self, number: int) -> Timeline:
        if number == 1:
            return Timeline(1)
        path = self._origin.folder / "pg_wal" / history_name(number).text
        try:
            return parse_history(number, path.read_bytes())
        except OSError as error:
            what = f"the history of timeline {number} cannot be read"
            raise Refused(what, where=str(path), why=error.strerror or str(error)) from error

    def _load_parent(self, catalogue: Catalogue, ident: str, avoid: frozenset[str]) -> tuple[Manifest, Target] | None:
        """Step 2 of the protocol: after the lease no tombstone may stand on the parent itself."""
        backup = catalogue.backup(ident)
        if self._layout.manifest(backup.summary.run) in avoid:
            return None
        ring, sizes = self._means.repository.ring, self._order.sizes
        for target in self._participants.targets:
            if target.name not in backup.good_on:
                continue
            try:
                manifest = load_manifest(ring, target, self._layout, backup.summary.run, self._order.spool)
            except (StorageError, DrkitError) as error:
                self._means.log.warn("parent cannot be read", backup=ident, target=target.name, why=str(error))
                continue
            same = (manifest.head.chunk_bytes, manifest.head.extent_bytes) == (sizes.chunk, sizes.extent)
            return (manifest, target) if same else None
        return None

    def _lacking(self, parent: Manifest, catalogue: Catalogue, standing: Backup) -> frozenset[str]:
        """Keys of what a target of this run has lost of the parent: stored anew, or this backup is not whole there."""
        found: set[str] = set()
        for target in self._participants.targets:
            inventory = catalogue.inventories.get(target.name)
            if inventory is None or target.name in standing.good_on:
                continue
            lost = inventory.lacking(parent.references, parent.summary)
            if lost:
                event = "a target lacks what this backup builds on; it is stored anew"
                self._means.log.warn(event, target=target.name, objects=len(lost), first=str(lost[0]))
            found |= {lack.key for lack in lost}
        return frozenset(found)

    def _again(self, parent: Manifest, target: Target) -> Again:
        """What of the parent is stored again because too little of it is in use."""
        means = self._means
        ring = means.repository.ring
        try:
            again = plan_again(
                parent, lambda map_id: load_map(ring, target, self._layout, map_id), self._order.limits, means.token
            )
        except (Damage, Damaged, NotFound) as error:  # what it holds is stored anew, and told, when it is wanted
            means.log.warn("compaction is left to the next backup", why=str(error))
            return NOTHING
        if again:
            frames = sum(map(len, again.frames.values()))
            means.log.info("compaction", frames=frames, bytes=again.sealed_bytes, maps=len(again.maps))
        return again

    def _commit(self, taken: Taken, parts: Parts, earlier: Earlier, timeline: Timeline, began: float) -> BackupResult:
        """Wait for the WAL, then create the manifest on every target whose closure is whole."""
        data_key = self._means.repository.data_key
        maps, epochs, references, useful = self._usage(taken, parts, earlier)
        files = self._await_wal(timeline, taken)
        at_once = AT_ONCE if any(target.far for target in self._participants.targets) else 1
        for reference, epoch in spread(self._wal_reference, files, at_once):
            references.append(reference)
            epochs.add(epoch)
        epochs.add(data_key.epoch)
        summary = backup_record.summary(taken, references, useful, epochs, self._means.clock.now())
        head, entries = backup_record.head(taken), backup_record.entries(taken, maps)
        sealed = seal_manifest(data_key, self._layout, summary, head, references, maps, entries, self._order.spool)
        commit = Commit(self._layout, summary, references, sealed, earlier.keys)
        standings = self._commit_everywhere(commit)
        result = BackupResult(
            summary=summary,
            standings=standings,
            sent_bytes=parts.sent_bytes,
            read_bytes=parts.read_bytes,
            again_bytes=parts.again_bytes,
            adopted_files=taken.files.adopted_files,
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

    def _usage(
        self, taken: Taken, parts: Parts, earlier: Earlier
    ) -> tuple[list[bytes], set[int], list[Reference], int]:
        """The maps used, in the order of their use; key epochs, references to packs and maps, and the bytes of these
        that are useful."""
        usage = Usage(self._order.sizes.chunk)
        for map_id, extents in used_extents(taken.files.placements()).items():
            usage.use(map_id, parts.maps[map_id] if map_id in parts.maps else earlier.load(map_id), extents)
        return list(usage.maps), usage.epochs, *usage.references(earlier.stored | dict(parts.stored))

    def _await_wal(self, timeline: Timeline, taken: Taken) -> list[str]:
        """The files that the closure needs: segments from start to stop, and the histories of the ancestry."""
        start, stop, session = taken.start, taken.stop, self._origin.session.session
        lasting, log = self._participants.lasting, self._means.log
        archiver = ArchiverWatch(lambda: ask_archiver(session), lasting, self._stranded, log)
        if self._origin.facts.in_recovery:
            self._means.log.warn("waiting for WAL that only the primary can archive", why=STANDBY_WAITS)

        def watch() -> None:
            self._participants.renew()  # WAL may take longer than a lease lasts
            archiver.look()

        names = [
            n.text for n in names_between(start.timeline, start.lsn, stop.lsn, self._origin.facts.wal_segment_size)
        ]
        names += [history_name(n).text for n in timeline.path if n > 1]
        await_files(
            self._participants.targets,
            self._layout,
            names,
            required=self._order.required,
            timeout_s=self._order.wal_timeout_s,
            token=self._means.token,
            monotonic=self._means.clock.monotonic,
            stuck=session.archiver,
            watch=watch,
        )
        return names

    def _stranded(self) -> dict[str, str]:
        """The targets apart from the server and why each does not answer, where none of them does."""
        repository, spool = self._means.repository, Spool(self._order.spool)
        names = [*(target.name for target in repository.targets), *repository.absent]
        rule = ack_rule(None, names, repository, spool, self._order.cluster, self._origin.folder)
        silent = self._participants.silent()
        return {name: silent[name] for name in sorted(rule.apart)} if rule.apart <= silent.keys() else {}

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
            self._participants.renew()
            if target.name in self._participants.out:
                continue
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
