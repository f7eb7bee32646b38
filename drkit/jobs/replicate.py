"""Replication: what other targets have, each target gets, as the same sealed bytes; nothing is ever replaced.

    debts -> retirements, keys -> for each system: holds -> the newest backup -> WAL, history, reports -> the others

The server is not asked. Packs, maps and fingerprints are not opened; docs/replicate.md tells what needs the key. It may
die anywhere, and run on several hosts at once: the next run completes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from drkit.core.errors import Cancelled, DrkitError, KeyMissing, UsageError
from drkit.core.flow import Group
from drkit.core.progress import Tally
from drkit.crypto.container import parse_open_section
from drkit.jobs.archive import read_catalogues
from drkit.jobs.means import Means
from drkit.jobs.replicate_backup import Completion
from drkit.jobs.replicate_lane import Account, Lane, Task
from drkit.jobs.replicate_listing import Listing, Tombstones, lacking
from drkit.jobs.replicate_plan import Differences, Gap, Left, SystemPlan, Todo, plan_system
from drkit.jobs.wal_debts import Paid, pay_debts
from drkit.repository.catalogue import Backup, State
from drkit.repository.copying import DestinationFailed, Item
from drkit.repository.holds import is_release
from drkit.repository.layout import KEYS, ClusterLayout, Kind
from drkit.repository.names import place_of
from drkit.repository.repository import Problem
from drkit.repository.retirement import RETIRED
from drkit.repository.sources import Sources
from drkit.repository.spool import Spool
from drkit.repository.target import Target
from storage_backends.api import Key
from storage_backends.errors import Damaged, NotFound, StorageError

WORKERS = 4


@dataclass(frozen=True, slots=True)
class ReplicateOrder:
    """cluster: name of one, None for all that the repository holds · sources, targets: names, empty for all ·
    workers: objects at once, for each target · host: for leases."""

    cluster: str | None
    sources: Collection[str]
    targets: Collection[str]
    host: str
    spool: Path
    workers: int = WORKERS


@dataclass(frozen=True, slots=True)
class Plan:
    """settings: retirements and key objects · by destination name: how much of each system it is to get."""

    settings: Sequence[Gap]
    systems: Sequence[SystemPlan]
    differences: Differences
    sources: Sequence[str]
    destinations: Sequence[str]

    def size_bytes(self, to: str) -> int:
        """At most so much is to be written to a target; what is stored of it there meanwhile is not."""
        return sum(gap.size_bytes.get(to, 0) for gap in self._gaps) + sum(one.size_bytes for one in self._todo(to))

    def objects(self, to: str) -> int:
        """At most so many are to be written to a target."""
        return sum(gap.objects.get(to, 0) for gap in self._gaps) + sum(one.objects for one in self._todo(to))

    @property
    def _gaps(self) -> list[Gap]:
        return [*self.settings, *(gap for system in self.systems for gap in system.gaps)]

    def _todo(self, to: str) -> list[Todo]:
        return [one for system in self.systems for one in system.todo.get(to, ())]


@dataclass(slots=True)
class Outcome:
    """One destination. completed: ids of backups that are good there now · failed: why it was given up, or None."""

    account: Account = field(default_factory=Account)
    completed: list[str] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    failed: Problem | None = None


@dataclass(frozen=True, slots=True)
class Replicated:
    """outcomes: by destination · damaged: (target, key) -> why its copy was passed over, beside those of the plan."""

    plan: Plan
    outcomes: Mapping[str, Outcome]
    damaged: Mapping[tuple[str, str], str]
    debts: Paid
    seconds: float


def survey(order: ReplicateOrder, means: Means) -> Plan:
    """What there is to do; only lists and reads. Raises UsageError for a target that is not configured; a StorageError
    where no target can be listed."""
    repository = means.repository
    there = [target.name for target in repository.targets]
    for name in (*order.sources, *order.targets):
        if name not in there and name not in repository.absent:
            raise UsageError(f"there is no target {name!r}", cure="the configuration names them")
    sources = [name for name in there if not order.sources or name in order.sources]
    destinations = [name for name in there if not order.targets or name in order.targets]
    differences = Differences()
    settings: dict[str, Gap] = {}
    listing = Listing(repository.targets)
    nothing: Mapping[str, frozenset[str]] = {name: frozenset() for name in there}
    for prefix, kind in ((RETIRED, Kind.RETIREMENT), (KEYS, Kind.SLOT)):
        for key, held in listing.keys(prefix):
            found = lacking(key, held, listing, sources, destinations, nothing)
            for name in found.by if found else ():
                settings.setdefault(prefix, Gap(prefix, kind)).add(name, found.size_bytes if found else 0)
    systems = []
    for catalogue in read_catalogues(repository, order.cluster):
        means.token.check()
        systems.append(plan_system(repository, catalogue, sources, destinations, differences))
    return Plan(tuple(settings.values()), systems, differences, sources, destinations)


def replicate(order: ReplicateOrder, means: Means) -> Replicated:
    """Bring every destination up to date; each at its own pace, one that fails is given up and named.

    Durable is what the accounts count. Raises as `survey`, and Cancelled.
    """
    began = means.clock.monotonic()
    spool = Spool(order.spool)
    to = [target for target in means.repository.targets if not order.targets or target.name in order.targets]
    debts = pay_debts(means.repository, to, spool, means.clock, means.log) if spool.targets() else Paid()
    plan = survey(order, means)
    damaged: dict[tuple[str, str], str] = {}
    outcomes: dict[str, Outcome] = {}
    with Group(means.token, name="replicate") as group:
        for target in to:
            outcomes[target.name] = Outcome()
            run = _Filling(order, means, plan, target, outcomes[target.name], damaged)
            group.start(target.name, run.run)
    return Replicated(plan, outcomes, damaged, debts, means.clock.monotonic() - began)


class _Filling:
    """One destination, in a thread of its own."""

    def __init__(
        self,
        order: ReplicateOrder,
        means: Means,
        plan: Plan,
        to: Target,
        outcome: Outcome,
        damaged: dict[tuple[str, str], str],
    ) -> None:
        self._order, self._means, self._plan, self._to = order, means, plan, to
        self._outcome, self._damaged = outcome, damaged
        size_bytes = plan.size_bytes(to.name)
        self._tally = Tally(means.progress, f"copying to {to.name}", clock=means.clock, total_bytes=size_bytes)

    @property
    def _from(self) -> list[Target]:
        names = [name for name in self._plan.sources if name != self._to.name]
        return [target for target in self._means.repository.targets if target.name in names]

    def run(self) -> None:
        try:
            if not self._from:
                return
            self._settings()
            for system in self._plan.systems:
                if self._to.name in system.failed:
                    raise StorageError("it cannot be listed", where=self._to.where, why=system.failed[self._to.name])
                self._system(system)
        except Cancelled:
            raise
        except DestinationFailed as error:
            self._give_up(error.error)
        except (StorageError, DrkitError) as error:
            self._give_up(error)
        self._tally.finish()

    def _give_up(self, error: Problem) -> None:
        self._outcome.failed = error
        self._means.log.warn("target given up", target=self._to.name, why=str(error))

    def _lane(self, layout: ClusterLayout) -> tuple[Lane, Sources]:
        sources = Sources(self._from, layout, self._means.repository.ring, self._report)
        lane = Lane(
            self._to, sources, self._means, self._outcome.account, self._tally, workers=max(1, self._order.workers)
        )
        return lane, sources

    def _report(self, target: Target, key: str, problem: Problem) -> None:
        if isinstance(problem, NotFound):
            return
        if isinstance(problem, StorageError) and not isinstance(problem, Damaged):
            self._means.log.warn("source failed", target=target.name, key=key, why=str(problem))
            return
        self._damaged[target.name, key] = str(problem)
        self._means.log.warn("copy passed over", target=target.name, key=key, why=str(problem))

    # --- what belongs to no system ---

    def _settings(self) -> None:
        lane, _ = self._lane(ClusterLayout(0))
        for gap in self._plan.settings:
            if self._to.name in gap.objects:
                tasks = list(self._small(gap.prefix))
                # An epoch's record says which of its slots are right: it comes before them.
                lane.copy(task for task in tasks if task.item.kind is not Kind.SLOT)
                lane.copy(task for task in tasks if task.item.kind is Kind.SLOT)

    def _small(self, prefix: str) -> Iterator[Task]:
        listing = Listing([*self._from, self._to])
        for key, held in listing.keys(prefix):
            if self._to.name in held:
                continue
            if self._to.name in listing.failed:
                raise listing.failed[self._to.name]
            kind = _small_kind(prefix, key)
            if kind is Kind.RETIREMENT or (kind is Kind.HOLD and place_of(key)) or self._is_ours(Key(key), held):
                yield Task(Item(Key(key), kind), optional=True)

    def _is_ours(self, key: Key, held: Mapping[str, int]) -> bool:
        """A slot that a lost race of `init` or of a rotation left is of another key, and stays where it is."""
        ring = self._means.repository.ring
        for source in self._from:
            if source.name not in held:
                continue
            try:
                header, value, _ = parse_open_section(source.read(key), key)
                return header.repository == ring.repository and value.get("key_id") == ring.key_id(header.epoch)
            except KeyMissing:
                return False
            except (StorageError, DrkitError):
                continue
        return False

    # --- one system ---

    def _system(self, system: SystemPlan) -> None:
        catalogue = system.catalogue
        name = self._to.name
        lane, sources = self._lane(catalogue.layout)
        self._outcome.left += system.left.get(name, ())
        self._holds(catalogue.layout, lane)
        todo = system.todo.get(name, ())
        marks = self._marks(catalogue.layout) if todo else frozenset[str]()
        good = [backup for backup in catalogue.backups if name in backup.good_on]
        for one in todo[:1]:
            self._complete(one, Completion(one.backup, lane, sources, self._means, catalogue.layout), good, marks)
        self._gaps(system, lane)
        for one in todo[1:]:
            self._complete(one, Completion(one.backup, lane, sources, self._means, catalogue.layout), good, marks)

    def _holds(self, layout: ClusterLayout, lane: Lane) -> None:
        """Before any manifest, and listed anew whatever the plan says: no expirer may ever know only a target that
        has a backup without its hold. Releases come before holds: what was released must not be in force there.
        """
        tasks = list(self._small(layout.folder("holds")))
        releases = [task for task in tasks if is_release(task.item.key)]
        lane.copy(releases)
        failed = {t.item.key.removesuffix("release") for t in releases if self._outcome.account.why(t.item.key)}
        holds = (task for task in tasks if not is_release(task.item.key))
        lane.copy(task for task in holds if task.item.key.removesuffix("hold") not in failed)

    def _complete(self, one: Todo, completion: Completion, good: list[Backup], marks: frozenset[str]) -> None:
        ident = one.backup.summary.backup
        try:
            found = completion.complete(good, marks, self._order.host)
        except (Cancelled, StorageError):
            raise
        except DrkitError as error:
            self._outcome.left.append(Left(ident, State.PENDING.value, str(error), final=False))
            return
        if found.state is State.GOOD:
            good.append(one.backup)
            self._outcome.completed.append(ident)
            self._means.log.info("backup completed", backup=ident, target=self._to.name)
        else:
            final = found.state in (State.EXPIRED, State.WITHDRAWN)
            self._outcome.left.append(Left(ident, found.state.value, found.why, final))

    def _marks(self, layout: ClusterLayout) -> frozenset[str]:
        """Fingerprints that a source has: without them a backup is as good, the next one only slower."""
        found: set[str] = set()
        for source in self._from:
            try:
                found |= {info.key for info in source.backend.list(layout.folder("fingerprints"))}
            except StorageError as error:
                self._report(source, layout.folder("fingerprints"), error)
        return frozenset(found)

    def _gaps(self, system: SystemPlan, lane: Lane) -> None:
        """Folder by folder: listed anew, then the tombstones, then copied: what was deleted is not brought back."""
        ring, layout, name = self._means.repository.ring, system.catalogue.layout, self._to.name
        tombstones = Tombstones(self._to, layout, ring)
        known = {n: inventory.tombstones for n, inventory in system.catalogue.inventories.items()}
        for gap in system.gaps:
            if name not in gap.objects or gap.kind is Kind.HOLD:
                continue
            listing = Listing([*self._from, self._to])
            rows = [row for row in listing.keys(gap.prefix) if row[0] not in self._plan.differences.conflicts]
            if name in listing.failed:
                raise listing.failed[name]
            entombed = {**known, name: tombstones.look()}
            found = (lacking(key, held, listing, self._plan.sources, [name], entombed) for key, held in rows)
            lane.copy(Task(Item(Key(one.key), gap.kind), optional=True) for one in found if one is not None)


def _small_kind(prefix: str, key: str) -> Kind:
    if prefix == RETIRED:
        return Kind.RETIREMENT
    if prefix == KEYS:
        return Kind.EPOCH if key.endswith("/epoch") else Kind.SLOT
    return Kind.HOLD
