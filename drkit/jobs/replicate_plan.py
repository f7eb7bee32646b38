"""What replication would do: which backups each target lacks, which folders differ, what cannot be done and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from drkit.core.errors import Damage, DrkitError
from drkit.crypto.keys import Ring
from drkit.jobs.replicate_listing import Listing, lacking
from drkit.repository.catalogue import Backup, Catalogue, State
from drkit.repository.copying import Item, authenticated
from drkit.repository.evidence import folder as evidence_folder
from drkit.repository.inventory import Inventory
from drkit.repository.layout import ClusterLayout, Kind, report_folder
from drkit.repository.repository import Repository
from drkit.repository.target import Target
from storage_backends.api import Key
from storage_backends.errors import Damaged, NotFound, StorageError

_SOURCES = (State.GOOD, State.BROKEN)
_FINAL = (State.EXPIRED, State.WITHDRAWN)


@dataclass(frozen=True, slots=True)
class Todo:
    """A backup that one target is to get. objects: at most so many of it are to be copied, fingerprints included, each
    counted once · size_bytes: of its packs and maps among them. Its WAL is in a `Gap`."""

    backup: Backup
    objects: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Left:
    """A backup that stays as it is on one target. final: so it was decided there; nothing is wrong."""

    backup: str
    state: str
    why: str
    final: bool


@dataclass(slots=True)
class Gap:
    """A folder (or one key) with objects that targets lack: count and stored bytes by target."""

    prefix: str
    kind: Kind
    objects: dict[str, int] = field(default_factory=dict)
    size_bytes: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, size_bytes: int) -> None:
        self.objects[name] = self.objects.get(name, 0) + 1
        self.size_bytes[name] = self.size_bytes.get(name, 0) + size_bytes


@dataclass(slots=True)
class Differences:
    """Files that targets hold in different bytes. twins: of one content · conflicts: of several · damaged: (target,
    key) -> why its copy is not sound."""

    twins: dict[str, tuple[str, ...]] = field(default_factory=dict)
    conflicts: dict[str, Mapping[str, str]] = field(default_factory=dict)
    damaged: dict[tuple[str, str], str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SystemPlan:
    """One system identifier. todo, left: by destination; todo with the newest backup first."""

    catalogue: Catalogue
    todo: Mapping[str, Sequence[Todo]]
    left: Mapping[str, Sequence[Left]]
    gaps: Sequence[Gap]
    failed: Mapping[str, str]


def decide(backup: Backup, to: str, sources: Sequence[str]) -> Left | None:
    """Whether a backup is to be completed on a target: None, or why it is left. Pure.

    Copied is only what a source calls good (or called, before something of it was lost), and what is undecided at the
    destination, or broken there.
    """
    here = backup.standings[to]
    ident = backup.summary.backup
    if here.state in _FINAL:
        return Left(ident, here.state.value, here.why, final=True)
    if here.state is State.UNKNOWN:
        return Left(ident, here.state.value, here.why, final=False)
    if not any(backup.standings[name].state in _SOURCES for name in sources if name != to):
        return Left(ident, here.state.value, "it is good on no target that it could come from", final=False)
    return None


def plan_backups(catalogue: Catalogue, to: str, sources: Sequence[str]) -> tuple[list[Todo], list[Left]]:
    """Pure but for listings that the inventory has not made yet."""
    todo: list[Todo] = []
    left: list[Left] = []
    inventory, counted = catalogue.inventories[to], set[str]()
    for ident in catalogue.unopened:
        left.append(Left(ident, State.BROKEN.value, "its manifest opens on no target, or is lost", final=False))
    for backup in reversed(catalogue.backups):
        if to in backup.good_on:
            continue
        found = decide(backup, to, sources) or _for_repair(backup, inventory)
        if found is None:
            todo.append(_todo(backup, inventory, counted))
        elif not _unmade(backup, to, sources):
            left.append(found)
    return todo, left


def _for_repair(backup: Backup, inventory: Inventory) -> Left | None:
    """What is known to be damaged there is not mended by copying what is missing."""
    keys = [inventory.layout.manifest(backup.summary.run), *(r.key(inventory.layout) for r in backup.references)]
    damaged = [key for key in keys if key in inventory.unsound]
    if not damaged:
        return None
    why = f"{damaged[0]} was found damaged by the last `drkit verify`; with --repair it mends what it can"
    return Left(backup.summary.backup, State.BROKEN.value, why, final=False)


def _unmade(backup: Backup, to: str, sources: Sequence[str]) -> bool:
    """Nothing was left behind: it is decided everywhere that it is not to be, or expired before it came here."""
    states = {backup.standings[name].state for name in {*sources, to}}
    return states <= {State.EXPIRED, State.WITHDRAWN, State.PENDING}


def _todo(backup: Backup, inventory: Inventory, counted: set[str]) -> Todo:
    objects, size_bytes = int(str(backup.summary.run) not in inventory.manifests), 0
    for reference in backup.references:
        if reference.kind in (Kind.PACK, Kind.MAP):
            key = reference.key(inventory.layout)
            if key not in counted and key not in inventory.data:
                counted.add(key)
                objects += 2 if reference.kind == Kind.MAP else 1  # a map may have fingerprints
                size_bytes += reference.size
    return Todo(backup, objects, size_bytes)


def folders(layout: ClusterLayout) -> Iterator[tuple[str, Kind]]:
    """What is copied beyond backups: prefixes and the kind of what is below."""
    yield layout.folder("holds"), Kind.HOLD
    yield layout.folder("history"), Kind.HISTORY
    yield layout.folder("wal"), Kind.WAL
    yield layout.folder("summaries"), Kind.SUMMARY
    yield f"{layout.root}binding", Kind.BINDING
    yield report_folder(layout.system_identifier), Kind.REPORT
    yield evidence_folder(layout.system_identifier), Kind.EVIDENCE


def plan_system(
    repository: Repository,
    catalogue: Catalogue,
    sources: Sequence[str],
    destinations: Sequence[str],
    differences: Differences,
) -> SystemPlan:
    """List all of one system side by side. Memory: a row for each backup and for each folder that differs.

    differences: gets what is met.
    """
    todo: dict[str, Sequence[Todo]] = {}
    left: dict[str, Sequence[Left]] = {}
    failed = dict(catalogue.unreadable)
    for name in destinations:
        if name in catalogue.inventories:
            todo[name], left[name] = plan_backups(catalogue, name, sources)
    targets = [target for target in repository.targets if target.name in catalogue.inventories]
    entombed = {name: one.tombstones for name, one in catalogue.inventories.items()}
    gaps: list[Gap] = []
    listing = Listing(targets)
    for prefix, kind in folders(catalogue.layout):
        found: dict[str, Gap] = {}
        for key, held in listing.keys(prefix):
            _compare(repository.ring, targets, Item(Key(key), kind), held, differences)
            gap = None if key in differences.conflicts else lacking(key, held, listing, sources, destinations, entombed)
            if gap is not None:
                folder = _folder(key, prefix)
                row = found.setdefault(folder, Gap(folder, kind))
                for name in gap.by:
                    row.add(name, gap.size_bytes)
        gaps += found.values()
    failed |= {name: str(error) for name, error in listing.failed.items()}
    return SystemPlan(catalogue, todo, left, gaps, failed)


def _folder(key: str, prefix: str) -> str:
    folder = key.rpartition("/")[0] + "/"
    return folder if folder.startswith(prefix) else key


def _compare(
    ring: Ring, targets: Sequence[Target], item: Item, held: Mapping[str, int], differences: Differences
) -> None:
    """Look into what differs in size, and into every history that several targets have: few, and small.

    Files of equal size are taken for equal here: their content is for `drkit verify`.
    """
    if item.kind not in (Kind.WAL, Kind.HISTORY) or len(held) < 2:
        return
    if item.kind is Kind.WAL and len(set(held.values())) == 1:
        return
    identities: dict[str, str] = {}
    for target in targets:
        if target.name not in held:
            continue
        try:
            identities[target.name] = authenticated(ring, item, target, held[target.name]).hex()
        except NotFound:
            continue  # expired since it was listed
        except (Damage, Damaged) as error:
            differences.damaged[target.name, item.key] = str(error)
        except (DrkitError, StorageError):
            continue  # whoever cannot be asked says nothing of its copy
    if len(set(identities.values())) > 1:
        differences.conflicts[item.key] = identities
    elif len(identities) > 1 and len({held[name] for name in identities}) > 1:
        differences.twins[item.key] = tuple(sorted(identities))
