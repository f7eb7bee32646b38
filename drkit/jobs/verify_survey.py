"""What each target must hold: read off its verdicts and manifests before its objects are looked at, without a key."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from drkit.core.errors import Damage, DrkitError, UsageError
from drkit.jobs.verify_facts import Ground
from drkit.jobs.verify_open import Opening
from drkit.repository.graves import read_without_key
from drkit.repository.layout import CLUSTERS, ClusterLayout, Kind, RunId
from drkit.repository.leases import Verdict, tombstones
from drkit.repository.manifest import REFERENCE_BYTES, Reference, Summary, unpack_references
from drkit.repository.names import place_of
from drkit.repository.scrub import Sound, examine
from drkit.repository.target import Target
from storage_backends.api import Key
from storage_backends.errors import StorageError

_OF_WAL = (Kind.WAL, Kind.HISTORY)


@dataclass(frozen=True, slots=True)
class Manifested:
    """A backup as one sound copy of its manifest tells. references: the raw rows."""

    summary: Summary
    references: bytes
    digest: bytes

    def needs(self, name: bytes) -> bool:
        """Whether the closure names an object: the 24 bytes of its name in a row."""
        padded = name.ljust(24, b"\0")
        return any(
            self.references[at + 8 : at + 32] == padded for at in range(0, len(self.references), REFERENCE_BYTES)
        )


@dataclass(slots=True)
class Held:
    """What one target says of one system. verdicts: run -> verdict, "" for one that is not whole; manifests: as listed.

    leased: runs that a lease names · buried: keys with a tombstone; None: not known, for a round is damaged.
    """

    verdicts: dict[str, str] = field(default_factory=dict)
    manifests: set[str] = field(default_factory=set)
    leased: set[str] = field(default_factory=set)
    buried: frozenset[str] | None = None

    def is_good(self, layout: ClusterLayout, run: str) -> bool:
        """Whether a backup must be whole there: it was complete, and nobody decided that it goes.

        Where tombstones are there and cannot be read, a manifest that is gone may have been expired.
        """
        if self.buried is None and run not in self.manifests:
            return False
        return self.verdicts.get(run) == Verdict.GOOD and not self.is_buried(f"{layout.folder('manifests')}{run}")

    def is_buried(self, key: str) -> bool:
        return self.buried is not None and key in self.buried


@dataclass(slots=True)
class Need:
    """What references say of an object. needed, reached: bits of targets where a good backup, or any, names it."""

    size_bytes: int
    digest: bytes
    needed: int = 0
    reached: int = 0


class Survey:
    """One system on every target that can be looked at. Memory: some 300 bytes for each pack, map and segment named."""

    def __init__(self, system: int, ground: Ground, opening: Opening | None = None) -> None:
        self.layout = ClusterLayout(system)
        self.ground, self._opening = ground, opening
        self.held: dict[str, Held] = {}
        self.failed: dict[str, str] = {}
        self.backups: dict[str, Manifested] = {}
        self._needs: dict[tuple[int, bytes], Need] = {}
        for target in ground.targets:
            try:
                self.held[target.name] = self._read(target)
            except StorageError as error:
                self.failed[target.name] = str(error)
        for target in ground.targets:
            self._read_manifests(target)
        for bit, target in enumerate(ground.targets):
            self._count(bit, target.name)

    def refresh(self, names: Collection[str]) -> None:
        """Read anew what these targets say: expiry and backups go on while objects are looked at."""
        for target in self.ground.targets:
            if target.name in names and target.name in self.held:
                try:
                    self.held[target.name] = self._read(target)
                except StorageError as error:
                    self.failed[target.name] = str(error)

    @property
    def clusters(self) -> set[str]:
        """Names under which its backups were taken."""
        return {one.summary.cluster for one in self.backups.values()}

    def need(self, kind: int, name: bytes) -> Need | None:
        return self._needs.get((kind, name))

    def good_on(self, target: str) -> list[Manifested]:
        held = self.held.get(target)
        if held is None:
            return []
        return [one for run, one in self.backups.items() if held.is_good(self.layout, run)]

    def needed_by(self, kind: int, name: bytes) -> tuple[str, ...]:
        """Backups, good on any target, whose closure names an object."""
        if (kind, name) not in self._needs:
            return ()
        good = {run for held in self.held.values() for run in held.verdicts if held.is_good(self.layout, run)}
        return tuple(sorted(run for run, one in self.backups.items() if run in good and one.needs(name)))

    def expected(self) -> Iterator[str]:
        """Keys that some target must hold, in key order: history, manifests, maps, packs, WAL."""
        needed = [key for key, need in self._needs.items() if need.needed]
        runs = {run for held in self.held.values() for run in held.verdicts if held.is_good(self.layout, run)}
        yield from (self.layout.history(n.decode()) for k, n in sorted(needed) if k == Kind.HISTORY)
        yield from (f"{self.layout.folder('manifests')}{run}" for run in sorted(runs))
        for kind in (Kind.MAP, Kind.PACK):
            yield from (self.layout.data(kind, n) for n in sorted(n for k, n in needed if k == kind))
        yield from (self.layout.wal(n.decode()) for k, n in sorted(needed) if k == Kind.WAL)

    def undecided(self) -> Iterator[tuple[str, str]]:
        """(target, run) of manifests without a verdict that nobody is just about to decide."""
        for name, held in self.held.items():
            for run in sorted(held.manifests - set(held.verdicts) - held.leased):
                if not held.is_buried(f"{self.layout.folder('manifests')}{run}"):
                    yield name, run

    # --- reading ---

    def _read(self, target: Target) -> Held:
        held, layout = Held(), self.layout
        held.manifests = set(_names(target, layout.folder("manifests")))
        for run in _names(target, layout.folder("verdicts")):
            found = self._open(target, Key(f"{layout.folder('verdicts')}{run}"))
            held.verdicts[run] = str(found.json.get("verdict", "")) if found else ""
        for name in _names(target, layout.folder("leases")):
            found = self._open(target, Key(f"{layout.folder('leases')}{name}"))
            via = found.json.get("via") if found else None
            runs = [found.json.get("run") if found else None, *(via if isinstance(via, list) else [])]
            held.leased.update(str(run) for run in runs if run)
        try:
            keyed = self.ground.keyed
            if keyed is not None:
                held.buried = tombstones(target, layout, keyed.ring)
            else:
                held.buried = read_without_key(target, layout, self.ground.repository)
        except DrkitError:
            held.buried = None  # the round itself will be a finding
        return held

    def _open(self, target: Target, key: Key) -> Sound | None:
        """None for what is damaged or gone: the look at all objects tells of it."""
        place = place_of(key)
        if place is None:
            return None
        try:
            if self._opening is None:
                return examine(target, key, place, self.ground.repository)
            return self._opening.look(target, key, place, self.ground.repository)
        except (StorageError, Damage):
            return None

    def _read_manifests(self, target: Target) -> None:
        """Of each backup the first sound copy; the digests of the others are compared when they are looked at."""
        held = self.held.get(target.name)
        for run in sorted(held.manifests - set(self.backups)) if held else ():
            key = Key(f"{self.layout.folder('manifests')}{run}")
            found = self._open(target, key)
            if found is None:
                continue
            try:
                summary = Summary.of(found.json, key)
                unpack_references(found.references, key)
                RunId.parse(run)
            except (DrkitError, UsageError):
                continue
            self.backups[run] = Manifested(summary, found.references, found.digest)

    def _count(self, bit: int, target: str) -> None:
        held = self.held.get(target)
        if held is None:
            return
        for run, one in self.backups.items():
            good, there = held.is_good(self.layout, run), run in held.manifests or run in held.leased
            if not good and not there:
                continue
            for reference in unpack_references(one.references, run):
                need = self._note(reference)
                need.needed |= good << bit
                need.reached |= 1 << bit

    def _note(self, reference: Reference) -> Need:
        key = (reference.kind, reference.name)
        need = self._needs.get(key)
        if need is None:
            need = self._needs[key] = Need(reference.size, reference.digest)
        return need


def _names(target: Target, folder: str) -> list[str]:
    return [info.key.removeprefix(folder) for info in target.backend.list(folder)]


def systems_on(targets: Sequence[Target], failed: dict[str, str]) -> list[int]:
    """System identifiers below `clusters/` on any target; `failed` takes those that could not be listed."""
    found: set[int] = set()
    for target in targets:
        after = ""
        try:
            while info := next(iter(target.backend.list(CLUSTERS, after)), None):
                ident = info.key.split("/")[1]
                found.update([int(ident)] if ident.isdigit() else [])
                after = f"{CLUSTERS}{ident}0"  # '0' follows '/'
        except StorageError as error:
            failed[target.name] = str(error)
    return sorted(found)


def choose(surveys: Sequence[Survey], cluster: str) -> list[Survey]:
    """Those with backups of the named cluster; all, where the name has none."""
    named = [one for one in surveys if cluster in one.clusters]
    return named if cluster and named else list(surveys)


def by_system(surveys: Sequence[Survey]) -> Mapping[int, Survey]:
    return {one.layout.system_identifier: one for one in surveys}
