"""What WAL each target holds along a path, by listing; timelines from the history files on all targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from drkit.core.errors import Damage, DrkitError, UsageError
from drkit.crypto.keys import Ring
from drkit.engines.postgres.timeline import Timeline, Timelines, parse_history
from drkit.engines.postgres.wal import WalKind, WalNameError, parse_name, segment_name
from drkit.jobs.spans import Spans
from drkit.repository.catalogue import Catalogue, read_catalogue, systems
from drkit.repository.inventory import Inventory
from drkit.repository.layout import ClusterLayout, Kind
from drkit.repository.repository import Repository
from drkit.repository.target import Target
from drkit.repository.wal import open_wal
from storage_backends.errors import StorageError


@dataclass(frozen=True, slots=True)
class Held:
    """Segments of a path on one target, by number, under the name that recovery asks for first; partials apart."""

    segments: Spans
    partials: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Archived:
    """The WAL of one path on the targets that could be listed; `failed`: why each other one could not."""

    held: Mapping[str, Held]
    failed: Mapping[str, str]

    @property
    def union(self) -> Spans:
        return Spans().union(*(one.segments for one in self.held.values()))

    def holders(self, number: int) -> list[str]:
        return [name for name, one in self.held.items() if number in one.segments]


@dataclass(frozen=True, slots=True)
class Histories:
    """timelines: of the history files that opened · names: of all that exist · unread: name -> why it did not open."""

    timelines: Sequence[Timeline]
    names: Sequence[str]
    unread: Mapping[str, str]


def read_histories(
    ring: Ring, inventories: Mapping[str, Inventory], report: Callable[[Target, str, DrkitError | StorageError], None]
) -> Histories:
    """Every history file that any target holds, from the first target where it opens."""
    holders: dict[str, list[Inventory]] = {}
    for inventory in inventories.values():
        for key in inventory.histories:
            if key not in inventory.tombstones:
                holders.setdefault(key.rsplit("/", 1)[1], []).append(inventory)
    timelines, unread = [], {}
    for name in sorted(holders):
        found = _read_history(ring, name, holders[name], report)
        if isinstance(found, Timeline):
            timelines.append(found)
        else:
            unread[name] = found
    return Histories(tuple(timelines), tuple(sorted(holders)), unread)


def _read_history(
    ring: Ring,
    name: str,
    holders: Sequence[Inventory],
    report: Callable[[Target, str, DrkitError | StorageError], None],
) -> Timeline | str:
    """The timeline, or why no target's copy of its history opens."""
    why = ""
    for inventory in holders:
        key = inventory.layout.history(name)
        try:
            with open_wal(ring, inventory.target, key, Kind.HISTORY) as found:
                return parse_history(parse_name(name).timeline, b"".join(found.pieces()))
        except (StorageError, Damage, UsageError) as error:
            report(inventory.target, key, error)
            why = f"{inventory.target.name}: {error}"
    return why


def read_catalogues(repository: Repository, cluster: str | None) -> list[Catalogue]:
    """A catalogue for each system identifier that has backups of the named cluster; of all, where the name has none.

    The server is not asked: it may be gone. Raises only where no target can be listed.
    """
    found = [read_catalogue(repository, system) for system in sorted(systems(repository))]
    named = [c for c in found if any(b.summary.cluster == cluster for b in c.backups)]
    return found if cluster is None or not named else named


def known_timelines(histories: Iterable[Timeline], also: Iterable[int]) -> Timelines:
    """The timelines that histories and backups tell of."""
    return Timelines(histories, also)


def list_archived(inventories: Mapping[str, Inventory], path: Timeline, first: int, segment_bytes: int) -> Archived:
    """List the WAL of a path from segment number `first` on, on every target."""
    held: dict[str, Held] = {}
    failed: dict[str, str] = {}
    for name, inventory in inventories.items():
        try:
            held[name] = _held(inventory, path, first, segment_bytes)
        except StorageError as error:
            failed[name] = str(error)
    return Archived(held, failed)


def _held(inventory: Inventory, path: Timeline, first: int, segment_bytes: int) -> Held:
    segments = Spans()
    partials: list[int] = []
    unusable = inventory.tombstones | inventory.unsound
    for timeline in path.path:
        begin, end = path.begin_of(timeline), path.end_of(timeline)
        low = max(first, begin.segment(segment_bytes))
        # the segment that holds a switch point goes by the new timeline's name
        high = None if end is None else end.segment(segment_bytes) - 1
        if high is not None and high < low:
            continue
        target, layout = inventory.target, inventory.layout
        full, part = list_timeline(target, layout, timeline, low, segment_bytes, unusable)
        segments = segments.union(full.cut(low, high))
        partials += [number for number in part if number >= low and (high is None or number <= high + 1)]
    return Held(segments, tuple(partials))


def list_timeline(
    target: Target, layout: ClusterLayout, timeline: int, first: int, segment_bytes: int, unusable: frozenset[str]
) -> tuple[Spans, list[int]]:
    """Numbers of the segments and of the `.partial` files of one timeline from `first` on; `unusable` keys left out.

    One listing from there to the end. Raises StorageError.
    """
    after = layout.wal(segment_name(timeline, first - 1, segment_bytes).text) if first else ""
    spans: list[tuple[int, int]] = []
    partials: list[int] = []
    for info in target.backend.list(layout.wal_folder(timeline), after):
        try:
            name = parse_name(info.key.rsplit("/", 1)[1], segment_bytes)
        except WalNameError:
            continue
        if info.key in unusable:
            continue
        if name.kind is WalKind.PARTIAL:
            partials.append(name.number(segment_bytes))
        elif name.kind is WalKind.SEGMENT:
            number = name.number(segment_bytes)
            if spans and spans[-1][1] == number - 1:
                spans[-1] = (spans[-1][0], number)
            else:
                spans.append((number, number))
    return Spans.joined(spans), partials
