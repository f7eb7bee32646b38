"""One backup to one target: the writer's protocol under a lease of its own (docs/format.md, section 8).

    lease -> tombstones -> listings -> what is lacking -> closure checked -> manifest -> tombstones -> verdict

The lease names every run whose objects the backup needs, not only those that are there already: what is copied for a
run that has no manifest here is reached by nothing else until this backup's manifest stands. Only what lay there before
is *relied on*; a tombstone on a run that is relied on ends the attempt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from drkit.core.errors import Damage, Failed
from drkit.crypto.container import Opener, Sealed, check_digest, frames_of, parse_open_section
from drkit.jobs.backup_commit import Commit
from drkit.jobs.backup_targets import LEASE_S
from drkit.jobs.means import Means
from drkit.jobs.replicate_lane import Lane, Task
from drkit.repository.catalogue import Backup, Standing, State
from drkit.repository.copying import Item
from drkit.repository.inventory import Inventory
from drkit.repository.layout import ClusterLayout, Kind, RunId
from drkit.repository.leases import Lease, LeaseTerms, Verdict, decide, read_verdict
from drkit.repository.manifest import Reference, pack_references
from drkit.repository.sources import Sources
from drkit.repository.target import Target
from storage_backends.api import Key
from storage_backends.errors import AlreadyExists, StorageError


@dataclass(frozen=True, slots=True)
class Relied:
    """runs: backups and runs whose objects lay there before the lease · trusted: keys that a good one of them reaches,
    which need no second look."""

    runs: frozenset[RunId]
    trusted: frozenset[str]


def needed_runs(backup: Backup) -> frozenset[RunId]:
    """Every run that wrote a pack or map of the closure, but the backup's own."""
    runs = (RunId.of_object(r.name) for r in backup.references if r.kind in (Kind.PACK, Kind.MAP))
    return frozenset(runs) - {backup.summary.run}


def relied_on(backup: Backup, inventory: Inventory, good: Sequence[Backup]) -> Relied:
    """Through what the objects that are there are held: few good backups where these reach them, else their runs.

    good: other backups that are good there and have no tombstone. Pure but for the inventory's listing.
    """
    layout = inventory.layout
    open_keys = {
        r.key(layout): RunId.of_object(r.name)
        for r in backup.references
        if r.kind in (Kind.PACK, Kind.MAP) and r.key(layout) in inventory.data
    }
    runs: set[RunId] = set()
    trusted: set[str] = set()
    for other in sorted(good, key=lambda one: one.summary.stopped, reverse=True):
        reached = {r.key(layout) for r in other.references} & open_keys.keys()
        if reached:
            runs.add(other.summary.run)
            trusted |= reached
            for key in reached:
                del open_keys[key]
    return Relied(frozenset(runs | set(open_keys.values())) - {backup.summary.run}, frozenset(trusted))


class Completion:
    """Completes one backup on one target. good: other backups that are good there."""

    def __init__(self, backup: Backup, lane: Lane, sources: Sources, means: Means, layout: ClusterLayout) -> None:
        self._backup, self._lane, self._sources, self._means, self._layout = backup, lane, sources, means, layout
        self._to = lane.to
        self._run = backup.summary.run

    def complete(self, good: Sequence[Backup], marks: frozenset[str], host: str) -> Standing:
        """The standing afterwards; durable where it is GOOD. marks: fingerprints that any source has, by key.

        Raises StorageError where the target failed, DestinationFailed, Cancelled, and Damage where its tombstones
        cannot be read.
        """
        terms = LeaseTerms("replicate", self._run, self._via(good), host, LEASE_S)
        means = self._means
        lease = Lease(self._to, self._layout, terms, means.repository.data_key, means.clock, means.entropy)
        try:
            return self._under(lease, good, marks)
        except _Lapsed:
            return Standing(State.PENDING, "the lease ran out while it was copied: was this stopped for long?")
        finally:
            self._release(lease)

    def _via(self, good: Sequence[Backup]) -> list[RunId]:
        needed = {r.name for r in self._backup.references if r.kind in (Kind.PACK, Kind.MAP)}
        sharing = {other.summary.run for other in good if any(r.name in needed for r in other.references)}
        return sorted((sharing | needed_runs(self._backup)) - {self._run}, key=str)

    def _release(self, lease: Lease) -> None:
        try:
            lease.release()
        except StorageError as error:
            self._means.log.warn("lease stays until it runs out", target=self._to.name, why=str(error))

    def _under(self, lease: Lease, good: Sequence[Backup], marks: frozenset[str]) -> Standing:
        inventory = self._inventory()
        entombed = inventory.entombed(self._backup.references, self._run)
        if entombed:
            return Standing(State.EXPIRED, f"tombstone of {entombed[0]}")
        if self._is_withdrawn(inventory):
            return Standing(State.WITHDRAWN, "it was withdrawn there")
        unburied = [o for o in good if self._layout.manifest(o.summary.run) not in inventory.tombstones]
        relied = relied_on(self._backup, inventory, unburied)
        via = [str(self._layout.manifest(run)) for run in sorted(relied.runs, key=str)]
        for key in via:
            if key in inventory.tombstones:
                return Standing(State.PENDING, f"what it could rely on there is to go: tombstone of {key}")

        def keep() -> None:
            lease.renew_if_due()
            if not lease.live:
                raise _Lapsed("the lease ran out")

        if not self._lane.copy(self._tasks(inventory, relied), keep):
            return Standing(State.PENDING, self._obstacle())
        self._lane.copy(self._marks(inventory, marks), keep)  # in no closure: what is damaged of them holds nothing up
        manifest = self._sources.attempt(self._layout.manifest(self._run), self._read_manifest)
        keep()
        commit = Commit(self._layout, self._backup.summary, self._backup.references, manifest, via)
        return self._commit(commit, is_new=str(self._run) not in inventory.manifests)

    def _inventory(self) -> Inventory:
        return Inventory(self._to, self._layout, self._means.repository.ring)

    def _is_withdrawn(self, inventory: Inventory) -> bool:
        if str(self._run) not in inventory.verdicts:
            return False
        return read_verdict(self._to, self._layout, self._run, self._means.repository.ring) is Verdict.WITHDRAWN

    def _tasks(self, inventory: Inventory, relied: Relied) -> Iterator[Task]:
        """In closure order; what is there and not trusted is looked at, not copied."""
        for reference in sorted(self._backup.references, key=lambda r: r.kind in (Kind.WAL, Kind.HISTORY)):
            key = reference.key(self._layout)
            if reference.kind in (Kind.PACK, Kind.MAP):
                if key not in relied.trusted or inventory.data[key] != reference.size:
                    yield Task(self._item(reference), check=key in inventory.data)
            else:
                yield Task(self._item(reference), check=True)

    def _marks(self, inventory: Inventory, marks: frozenset[str]) -> Iterator[Task]:
        """Fingerprints of maps that are there by now."""
        there = {info.key for info in self._to.backend.list(self._layout.folder("fingerprints"))} if marks else set()
        for reference in self._backup.references:
            if reference.kind == Kind.MAP:
                key = self._layout.data(Kind.FINGERPRINTS, reference.name)
                if key in marks and key not in there and key not in inventory.tombstones:
                    yield Task(Item(key, Kind.FINGERPRINTS, reference.name), optional=True)

    def _item(self, reference: Reference) -> Item:
        key, kind = Key(reference.key(self._layout)), Kind(reference.kind)
        if kind in (Kind.PACK, Kind.MAP):
            return Item(key, kind, reference.name, reference.size, reference.digest)
        return Item(key, kind, identity=reference.digest)

    def _obstacle(self) -> str:
        for reference in self._backup.references:
            key = reference.key(self._layout)
            why = self._lane.account.why(key)
            if why:
                return f"{key}: {why}"
        return "not everything could be copied"

    def _read_manifest(self, source: Target) -> Sealed:
        """The bytes from one source, every frame authenticated, its references those of the catalogue."""
        key = self._layout.manifest(self._run)
        where = f"{source.where}: {key}"
        data = source.read(key)
        digest = check_digest(data, where)
        header, value, references = parse_open_section(data, where)
        wanted = (Kind.MANIFEST, key, self._run.binary + bytes(4), pack_references(self._backup.references))
        if (header.kind, value.get("name"), header.object_id, references) != wanted:
            raise Damage("the manifest is not the one that others have", where=where)
        view = memoryview(data)
        opener = Opener(self._means.repository.ring, header, view[: header.open_bytes], where)
        for _ in frames_of(opener, view, header.open_bytes, where):
            self._means.token.check()
        return Sealed(header, (data,), len(data), digest)

    def _commit(self, commit: Commit, *, is_new: bool) -> Standing:
        means = self._means

        def settle(verdict: Verdict, reason: str) -> Verdict:
            return decide(
                self._to,
                self._layout,
                self._run,
                verdict,
                reason,
                ring=means.repository.ring,
                data_key=means.repository.data_key,
                clock=means.clock,
                entropy=means.entropy,
            )

        try:
            found = commit.on(self._to, means.repository.ring, settle)
        except AlreadyExists:
            why = "something else stands in the manifest's place; `drkit verify --repair` mends what is damaged"
            return Standing(State.BROKEN, why)
        if found.state is State.GOOD and is_new:
            self._lane.account.copied(Kind.MANIFEST, commit.manifest.size_bytes)
        return found


class _Lapsed(Failed):
    """Our lease is no longer believed."""
