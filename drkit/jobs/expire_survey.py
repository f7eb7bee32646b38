"""What one target holds, listed in the order that expiry rests on (docs/format.md, section 8, step 0)."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from drkit.core.clock import Clock
from drkit.core.errors import DrkitError, Refused
from drkit.core.units import format_duration
from drkit.crypto.keys import Entropy, Ring
from drkit.engines.postgres.wal import WalNameError, parse_name, segments_per_log
from drkit.repository.fences import Fence, read_fences
from drkit.repository.graves import Round, buried, read_rounds
from drkit.repository.layout import ClusterLayout, RunId
from drkit.repository.leases import Verdict, read_verdict
from drkit.repository.target import Target
from storage_backends.api import Key, key
from storage_backends.errors import AlreadyExists, NotFound, Unsupported


@dataclass(frozen=True, slots=True)
class TargetTime:
    """A target's clock, set once by an object just stored and carried on by the host's monotonic one."""

    base: datetime
    since: float
    clock: Clock

    def now(self) -> datetime:
        return self.base + timedelta(seconds=self.clock.monotonic() - self.since)


def host_time(clock: Clock) -> TargetTime:
    """The host's clock in the target's place: good enough for a plan that nobody carries out."""
    return TargetTime(clock.now(), clock.monotonic(), clock)


def probe(target: Target, clock: Clock, entropy: Entropy, skew: timedelta) -> TargetTime:
    """The target's clock, from a canary that is deleted again.

    Raises Unsupported where the store ignores conditions, Refused where the clocks are too far apart.
    """
    name = key(f"canaries/expire-{entropy(8).hex()}")
    since = clock.monotonic()
    info = target.write(name, [b"drkit"], 5)
    try:
        ours = clock.now()
        if not target.backend.traits.conditional_create:  # a store that was not asked before knows it by now
            raise _unconditional(target)
        try:
            target.write(name, [b"other"], 5)
        except AlreadyExists:
            pass
        else:
            raise _unconditional(target)
    finally:
        target.backend.delete(name)
    apart = abs(info.modified_at - ours)
    if apart > skew + timedelta(seconds=clock.monotonic() - since):
        raise Refused(
            f"the clocks of this host and of the target are {format_duration(apart)} apart",
            where=target.where,
            why=f"expiry trusts no clock that is more than {format_duration(skew)} off",
            cure="does time synchronisation run, here and there: timedatectl",
        )
    return TargetTime(info.modified_at, since, clock)


def _unconditional(target: Target) -> Unsupported:
    return Unsupported(
        "the store ignores conditional writes: nothing may expire there",
        where=target.where,
        why="a writer and an expirer that meet are told apart by one conditional create",
        cure="use a store that heeds If-None-Match, or delete nothing there",
    )


@dataclass(slots=True)
class WalHeld:
    """Archived files of one timeline. segments: log << 32 | seg of each; others: name -> the same, of `.partial` and
    `.backup` files; newest: when the latest of them was stored.
    """

    segments: array[int] = field(default_factory=lambda: array("Q"))
    others: dict[str, int] = field(default_factory=dict)
    newest: datetime | None = None

    def numbers(self, segment_bytes: int) -> Iterator[tuple[str, int]]:
        """(what follows the timeline in the name, segment number), segments first."""
        per_log = segments_per_log(segment_bytes)
        for packed in self.segments:
            log, seg = packed >> 32, packed & 0xFFFFFFFF
            yield f"{log:08X}{seg:08X}", log * per_log + seg
        for name, packed in self.others.items():
            yield name[8:], (packed >> 32) * per_log + (packed & 0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class Survey:
    """One target, one system. data: keys of packs and maps · marks: of fingerprints · manifests: id -> when stored

    verdicts: of runs without a tombstone; None for one that does not open.
    """

    target: Target
    layout: ClusterLayout
    now: datetime
    rounds: Sequence[Round]
    data: frozenset[str]
    marks: frozenset[str]
    wal: Mapping[int, WalHeld]
    fences: Sequence[Fence]
    manifests: Mapping[str, datetime]
    verdicts: Mapping[str, Verdict | None]

    @property
    def buried(self) -> frozenset[str]:
        return buried(self.rounds)

    def is_buried(self, run: str, keys: frozenset[str]) -> bool:
        return f"{self.layout.folder('manifests')}{run}" in keys

    def run_of(self, data: str) -> str:
        """The run that wrote a pack, map or fingerprints object."""
        return data.removeprefix(self.layout.root).split("/")[1]


def survey(target: Target, layout: ClusterLayout, ring: Ring, time: TargetTime) -> Survey:
    """List one target: tombstones, data, leases, manifests, verdicts. Raises StorageError, Damage, KeyMissing."""
    rounds = read_rounds(target, layout, ring)
    marks = _keys(target, layout.folder("fingerprints"))
    data = _keys(target, layout.folder("packs")) | _keys(target, layout.folder("maps"))
    wal = _wal(target, layout)
    fences = read_fences(target, layout, ring)
    manifests = stored_manifests(target, layout)
    verdicts = _verdicts(target, layout, ring, buried(rounds))
    return Survey(target, layout, time.now(), rounds, data, marks, wal, fences, manifests, verdicts)


def stored_manifests(target: Target, layout: ClusterLayout) -> dict[str, datetime]:
    """Backup id -> when its manifest was stored, by the target's clock."""
    prefix = layout.folder("manifests")
    return {info.key.removeprefix(prefix): info.modified_at for info in target.backend.list(prefix)}


def _keys(target: Target, prefix: str) -> frozenset[str]:
    return frozenset(info.key for info in target.backend.list(prefix))


def _wal(target: Target, layout: ClusterLayout) -> dict[int, WalHeld]:
    """Names that are none of PostgreSQL's are left out, and so never touched."""
    found: dict[int, WalHeld] = {}
    for info in target.backend.list(layout.folder("wal")):
        try:
            name = parse_name(info.key.rpartition("/")[2])
        except WalNameError:
            continue
        held = found.setdefault(name.timeline, WalHeld())
        if len(name.text) == 24:
            held.segments.append(name.log << 32 | name.seg)
        else:
            held.others[name.text] = name.log << 32 | name.seg
        held.newest = info.modified_at if held.newest is None else max(held.newest, info.modified_at)
    return found


def _verdicts(target: Target, layout: ClusterLayout, ring: Ring, tombs: frozenset[str]) -> dict[str, Verdict | None]:
    """A tombstone says all that can be said of a run: its verdict, which outlives it, is not read again and again."""
    prefix, manifests = layout.folder("verdicts"), layout.folder("manifests")
    found: dict[str, Verdict | None] = {}
    for info in target.backend.list(prefix):
        run = info.key.removeprefix(prefix)
        if f"{manifests}{run}" in tombs:
            continue
        try:
            found[run] = read_verdict(target, layout, RunId.parse(run), ring)
        except NotFound:
            continue
        except (DrkitError, ValueError):
            found[run] = None  # decided, but nobody knows how: nothing may rest on it
    return found


def wal_key(layout: ClusterLayout, timeline: int, rest: str) -> Key:
    return layout.wal(f"{timeline:08X}{rest}")
