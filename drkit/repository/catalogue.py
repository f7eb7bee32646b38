"""The catalogue: manifests of one cluster read back from every target, each with its state there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from drkit.core.errors import Damage, DrkitError, Missing
from drkit.core.scratch import Scratch
from drkit.core.spread import AT_ONCE, spread
from drkit.crypto.container import END_BYTES, FRAME_BYTES, Opener, parse_header, parse_open_section
from drkit.crypto.keys import Ring
from drkit.repository.evidence import unsound
from drkit.repository.inventory import Inventory
from drkit.repository.layout import CLUSTERS, ClusterLayout, Kind, RunId
from drkit.repository.leases import Verdict, read_verdict
from drkit.repository.manifest import (
    FRAME_HEAD,
    Head,
    Manifest,
    Reference,
    Summary,
    parse_head,
    unpack_references,
)
from drkit.repository.manifest_open import open_manifest
from drkit.repository.repository import Problem, Repository
from drkit.repository.target import Target
from storage_backends.errors import Damaged, NotFound, StorageError

_FIRST_READ, _READ = 64 << 10, 1 << 20


class State(StrEnum):
    """A backup on one target (docs/format.md, end of section 6)."""

    GOOD = "good"
    PENDING = "pending"
    WITHDRAWN = "withdrawn"
    EXPIRED = "expired"
    BROKEN = "broken"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Standing:
    """State on one target, and why it is not good."""

    state: State
    why: str = ""


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup as its manifest's beginning tells (authenticated), with its standing on every configured target."""

    summary: Summary
    head: Head
    references: Sequence[Reference]
    standings: Mapping[str, Standing]

    def after(self, problems: Mapping[str, Problem]) -> Backup:
        """The backup as it stands after reads of its manifest that failed, by target."""
        return replace(self, standings={**self.standings, **{n: _failed(error) for n, error in problems.items()}})

    @property
    def good_on(self) -> list[str]:
        return [name for name, s in self.standings.items() if s.state is State.GOOD]

    @property
    def status(self) -> str:
        """`good` where at least one target has it, else the best of the states."""
        states = {s.state for s in self.standings.values()}
        order = (State.GOOD, State.UNKNOWN, State.PENDING, State.BROKEN, State.WITHDRAWN, State.EXPIRED)
        return next((s.value for s in order if s in states), State.UNKNOWN.value)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """backups: in the order in which they ended; inventories: by target; unreadable: target -> why.

    unopened: backup id -> target -> standing, for backups whose manifest no target can open: it is damaged, or it was
    good on a target, did not expire there, and its manifest is nowhere.
    """

    layout: ClusterLayout
    backups: Sequence[Backup]
    inventories: Mapping[str, Inventory]
    unreadable: Mapping[str, str]
    unopened: Mapping[str, Mapping[str, Standing]] = field(default_factory=dict)

    def backup(self, ident: str) -> Backup:
        """By id or a unique beginning or end of it; raises Missing naming what there is."""
        found = [b for b in self.backups if b.summary.backup == ident]
        if not found and ident:
            names = ((b, b.summary.backup) for b in self.backups)
            found = [b for b, name in names if name.startswith(ident) or name.endswith(ident)]
        if len(found) == 1:
            return found[0]
        what = f"no backup {ident!r}" if not found else f"{len(found)} backups match {ident!r}"
        raise Missing(what, cure="`drkit list` shows the backups")


def systems(repository: Repository) -> frozenset[int]:
    """System identifiers that any target holds; raises only where no target can be listed."""
    found: set[int] = set()
    failures: list[StorageError] = []
    for target in repository.targets:
        try:
            found |= set(_systems_of(target))
        except StorageError as error:
            failures.append(error)
    if failures and len(failures) == len(repository.targets):
        raise failures[0]
    return frozenset(found)


def _systems_of(target: Target) -> Iterator[int]:
    """Skip from one system identifier to the next: a listing of each is one request."""
    after = ""
    while True:
        info = next(iter(target.backend.list(CLUSTERS, after)), None)
        if info is None:
            return
        ident = info.key.split("/")[1]
        if ident.isdigit():
            yield int(ident)
        after = f"{CLUSTERS}{ident}0"  # '0' follows '/': past everything below this identifier


def read_catalogue(repository: Repository, system_identifier: int) -> Catalogue:
    """Read all manifests; a target that fails is in `unreadable`, and its standings are UNKNOWN.

    What the newest evidence calls damaged counts as missing. Cost: for each target the listings of manifests,
    tombstones, verdicts, packs, maps and evidence; for each backup one or two reads, from the first target that has it.
    """
    layout = ClusterLayout(system_identifier)
    inventories: dict[str, Inventory] = {}
    unreadable = {name: str(error) for name, error in repository.absent.items()}
    suspects = unsound(repository, system_identifier)
    at_once = AT_ONCE if any(target.far for target in repository.targets) else 1
    listed = [Inventory(target, layout, repository.ring, suspects.get(target.name)) for target in repository.targets]
    for inventory, problem in zip(listed, spread(_survey, listed, at_once), strict=True):
        if problem is None:
            inventories[inventory.target.name] = inventory
        else:
            unreadable[inventory.target.name] = str(problem)
    names = sorted({run for inv in inventories.values() for run in inv.manifests})
    backups: list[Backup] = []
    unopened: dict[str, Mapping[str, Standing]] = {}
    opened = spread(lambda name: _read(repository.ring, layout, name, inventories, unreadable), names, at_once)
    for name, found in zip(names, opened, strict=True):
        if isinstance(found, Backup):
            backups.append(found)
        else:
            unopened[name] = found
    decided = {run for inv in inventories.values() for run in inv.verdicts}
    for name in sorted(decided.difference(names)):
        standings = _without_manifest(repository.ring, layout, name, inventories)
        if any(one.state is State.BROKEN for one in standings.values()):
            unopened[name] = {target: Standing(State.UNKNOWN, why) for target, why in unreadable.items()} | standings
    backups.sort(key=lambda b: (b.summary.stopped, b.summary.backup))
    return Catalogue(layout, tuple(backups), inventories, unreadable, unopened)


def _survey(inventory: Inventory) -> Problem | None:
    """Make the listings that a catalogue needs, or say why they cannot be made."""
    try:
        # Verdicts first, tombstones last: a manifest is made before its verdict, and goes after its tombstone.
        inventory.look("verdicts", "epochs")
        inventory.look("manifests")
        inventory.look("tombstones", "data", "unsound", "histories")
    except (StorageError, DrkitError) as error:
        return error
    return None


def _read(
    ring: Ring, layout: ClusterLayout, name: str, inventories: Mapping[str, Inventory], unreadable: Mapping[str, str]
) -> Backup | dict[str, Standing]:
    """The backup; or, where its manifest opens nowhere, the standings alone."""
    standings = {target: Standing(State.UNKNOWN, why) for target, why in unreadable.items()}
    opening: tuple[Summary, Head, list[Reference]] | None = None
    try:
        run = RunId.parse(name)
    except DrkitError as error:
        return standings | {
            n: Standing(State.BROKEN, str(error)) for n, i in inventories.items() if name in i.manifests
        }
    for target_name, inventory in inventories.items():
        if name not in inventory.manifests:
            continue
        try:
            found = read_opening(ring, inventory.target, layout, run, inventory.manifests[name])
        except (DrkitError, StorageError) as error:
            standings[target_name] = _failed(error)
            continue
        opening = opening or found
    if opening is None:
        return standings
    for target_name, inventory in inventories.items():
        if target_name not in standings:
            standings[target_name] = judge(ring, inventory, opening[0], opening[2])
    return Backup(*opening, standings)


def _without_manifest(
    ring: Ring, layout: ClusterLayout, name: str, inventories: Mapping[str, Inventory]
) -> dict[str, Standing]:
    """What became of a run that was decided about, and of which no target has a manifest; where it never was one, or
    where its verdict does not open, nothing is said."""
    found: dict[str, Standing] = {}
    for target, inventory in inventories.items():
        if name not in inventory.verdicts:
            continue
        try:
            run = RunId.parse(name)
            if layout.manifest(run) in inventory.tombstones:
                found[target] = Standing(State.EXPIRED, f"tombstone of {layout.manifest(run)}")
            elif read_verdict(inventory.target, layout, run, ring) is Verdict.GOOD:
                found[target] = Standing(State.BROKEN, "its manifest is missing, it was good here once")
        except (DrkitError, StorageError):
            continue
    return found


def _failed(error: Problem) -> Standing:
    """What a manifest that could not be read says of its backup there."""
    state = State.BROKEN if isinstance(error, Damage | Damaged | NotFound) else State.UNKNOWN
    return Standing(state, str(error))


def judge(ring: Ring, inventory: Inventory, summary: Summary, references: Sequence[Reference]) -> Standing:
    """State of a backup on a target whose manifest, if there, opens."""
    run = summary.run
    entombed = inventory.entombed(references, run)
    if entombed:
        return Standing(State.EXPIRED, f"tombstone of {entombed[0]}")
    try:
        lacking = inventory.lacking(references, summary)
        decided = summary.backup in inventory.verdicts
        verdict = read_verdict(inventory.target, inventory.layout, run, ring) if decided else None
    except (StorageError, DrkitError, ValueError) as error:
        return Standing(State.BROKEN if isinstance(error, Damage | ValueError) else State.UNKNOWN, str(error))
    if verdict is Verdict.WITHDRAWN:
        return Standing(State.WITHDRAWN, "it was withdrawn before it was complete")
    why = str(lacking[0]) if lacking else ""
    if len(lacking) > 1:
        why += f"; {len(lacking) - 1} more of its objects are missing or not whole"
    if verdict is None:
        return Standing(State.PENDING, why or "it was not completed here; `drkit replicate` completes it")
    if summary.backup not in inventory.manifests:  # it was complete here: expiry elsewhere must know that it is not
        return Standing(State.BROKEN, "; ".join(filter(None, ("its manifest is missing", why))))
    return Standing(State.BROKEN, why) if lacking else Standing(State.GOOD)


def read_opening(
    ring: Ring, target: Target, layout: ClusterLayout, run: RunId, size_bytes: int | None = None
) -> tuple[Summary, Head, list[Reference]]:
    """Summary, head and references of a manifest, authenticated, without reading its entries.

    size_bytes: of the object, where a listing told it; its end is then authenticated too: it is not cut short.
    """
    key = layout.manifest(run)
    data = target.read(key, 0, _FIRST_READ)
    header = parse_header(data, key)
    if len(data) < header.open_bytes:
        data += target.read(key, len(data), header.open_bytes + _FIRST_READ - len(data))
    header, value, references = parse_open_section(data, key)
    if header.kind != Kind.MANIFEST or value.get("name") != key or header.object_id != run.binary + bytes(4):
        raise Damage("the manifest belongs under another name", where=target.where, why=str(value.get("name")))
    view = memoryview(data)
    opener = Opener(ring, header, view[: header.open_bytes], target.where)
    frames, number, position = [], 0, header.open_bytes
    while True:
        if len(data) - position < FRAME_BYTES or len(data) - position < FRAME_BYTES + int.from_bytes(
            data[position : position + 4], "little"
        ):
            more = target.read(key, len(data), 1 << 20)
            if not more:
                raise Damage("the manifest is truncated", where=target.where, why=key)
            data += more
            view = memoryview(data)
            continue
        raw, type_, _, used = opener.frame(view[position:], number)
        if type_ != FRAME_HEAD:
            break
        frames.append(raw)
        number, position = number + 1, position + used
    if size_bytes is not None:
        start = max(0, size_bytes - END_BYTES)
        opener.authenticate_end(data[start:size_bytes] if len(data) >= size_bytes else target.read(key, start))
    head = parse_head(b"".join(frames), target.where)
    return Summary.of(value, key), head, unpack_references(references, key)


def load_manifest(ring: Ring, target: Target, layout: ClusterLayout, run: RunId, room: Path | None = None) -> Manifest:
    """The whole manifest from one target; raises Damage, KeyMissing or a StorageError.

    room: where its sealed bytes are kept, as `Scratch` has it; the target is not asked again.
    """
    sealed = Scratch(room)
    with target.backend.open(layout.manifest(run)) as reader:
        while piece := reader.read(_READ):
            sealed.append(piece)
    try:
        return open_manifest(ring, sealed, layout, run)
    except Damage as error:
        error.add_note(f"read from {target.where}")
        raise
