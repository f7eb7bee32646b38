"""The writer of section 8, the archiver of WAL, the reader and the clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from tests.model.explorer import Mind, Move
from tests.model.world import LOST, Rules, Thing, World, listed, manifest_of, names, seems_good, things

NOTHING: frozenset[str] = frozenset()


class WriterMind(NamedTuple):
    """What a writer knows: where it is, what it would adopt, what it writes."""

    at: str = "plan"
    adopts: frozenset[tuple[str, str]] = frozenset()  # (data, the backup or run it is adopted through)
    writes: frozenset[str] = NOTHING


@dataclass(frozen=True)
class Writer:
    """Backs up to one target, adopting what it finds through `via`; each piece adopted is stored anew when hit."""

    name: str
    rules: Rules
    via: frozenset[str] = NOTHING
    at: int = 0
    wal: frozenset[str] = NOTHING
    lost_acknowledgements: bool = True

    @property
    def start(self) -> Mind:
        return WriterMind(writes=frozenset({f"{self.name}/1"}))

    def moves(self, mind: Mind, world: World) -> Sequence[Move]:
        known = cast(WriterMind, mind)
        step = getattr(self, f"_{known.at}", None)
        return [] if step is None else cast(Sequence[Move], step(known, world))

    def _plan(self, mind: WriterMind, world: World) -> Sequence[Move]:
        held = world.targets[self.at]
        found: set[tuple[str, str]] = set()
        for through in sorted(self.via):
            manifest = manifest_of(held, through)
            if manifest is None:
                found.update((data, through) for data in names(held, "data") if data.startswith(f"{through}/"))
            elif seems_good(held, through, self.rules):
                found.update((data, through) for data in manifest.refs if not data.startswith("wal/"))
        label = "reads what it may adopt: " + (", ".join(f"{d} via {v}" for d, v in sorted(found)) or "nothing")
        then = "lease" if self.rules.lease_before_listing else "look"
        return [(label, world, mind._replace(at=then, adopts=frozenset(found)))]

    def _lease(self, mind: WriterMind, world: World) -> Sequence[Move]:
        via = self.via if self.rules.lease_names_via else NOTHING
        then = "look" if self.rules.lease_before_listing else self._begin()
        return [("creates its lease", world.put(self.at, Thing("lease", self.name, via=via)), mind._replace(at=then))]

    def _look(self, mind: WriterMind, world: World) -> Sequence[Move]:
        kept = self._spared(mind, world)
        then = self._begin() if self.rules.lease_before_listing else "lease"
        after = mind._replace(at=then, adopts=kept)
        return [(f"lists tombstones, adopts {listed(d for d, _ in kept)}", world, after)]

    def _write(self, mind: WriterMind, world: World) -> Sequence[Move]:
        return self._create(world, mind, mind._replace(at="again"), *_data(mind.writes))

    def _again(self, mind: WriterMind, world: World) -> Sequence[Move]:
        kept = self._spared(mind, world)
        if not self.rules.looks_before_stop:
            return self._check(mind, world)
        if kept == mind.adopts:
            return [("lists tombstones again: nothing adopted is hit", world, mind._replace(at="check"))]
        anew = frozenset({f"{self.name}/2"})
        after = mind._replace(at="anew", adopts=kept, writes=mind.writes | anew)
        return [("lists tombstones again: stores anew what was hit", world, after)]

    def _anew(self, mind: WriterMind, world: World) -> Sequence[Move]:
        return self._create(world, mind, mind._replace(at="check"), Thing("data", f"{self.name}/2"))

    def _check(self, mind: WriterMind, world: World) -> Sequence[Move]:
        missing = self._refs(mind) - names(world.targets[self.at], "data")
        if missing & self.wal:
            return []  # its WAL is not archived yet: it waits
        if missing:
            return [(f"misses {listed(missing)}: pending here", world, mind._replace(at="end"))]
        return [("checks its closure by a listing", world, mind._replace(at="alive"))]

    def _alive(self, mind: WriterMind, world: World) -> Sequence[Move]:
        live = self.name in names(world.targets[self.at], "lease")
        if not live and mind.adopts:
            return [("finds its lease run out: makes no manifest", world, mind._replace(at="end"))]
        return [("looks at its lease", world, mind._replace(at="manifest"))]

    def _manifest(self, mind: WriterMind, world: World) -> Sequence[Move]:
        via = frozenset(through for _, through in mind.adopts)
        then = "verdict" if self.rules.second_look else "confirm"
        after = mind._replace(at=then if self.rules.manifest_last else "late")
        return self._create(world, mind, after, Thing("manifest", self.name, self._refs(mind), via))

    def _late(self, mind: WriterMind, world: World) -> Sequence[Move]:
        return self._create(world, mind, mind._replace(at="verdict"), *_data(mind.writes))

    def _begin(self) -> str:
        return "write" if self.rules.manifest_last else "manifest"

    def _verdict(self, mind: WriterMind, world: World) -> Sequence[Move]:
        via = frozenset(through for _, through in mind.adopts) if self.rules.lease_names_via else NOTHING
        hit = names(world.targets[self.at], "tombstone") & (self._refs(mind) | via | {self.name})
        if hit:
            return [(f"lists tombstones, meets {listed(hit)}", world, mind._replace(at="withdraw"))]
        if self.rules.verdicts:
            return [("lists tombstones: nothing hit", world, mind._replace(at="confirm"))]
        after = world.note(f"promised {self.name} @ {self.at}")
        return [("lists tombstones: nothing hit; reports good", after, mind._replace(at="release"))]

    def _withdraw(self, mind: WriterMind, world: World) -> Sequence[Move]:
        after = world.put(self.at, Thing("withdrawn", self.name))
        return [("creates the verdict 'withdrawn'", after, mind._replace(at="release"))]

    def _confirm(self, mind: WriterMind, world: World) -> Sequence[Move]:
        after = world.put(self.at, Thing("confirmed", self.name)) if self.rules.verdicts else world
        if Thing("withdrawn", self.name) in after.targets[self.at]:
            return [("meets the verdict 'withdrawn': not good", world, mind._replace(at="release"))]
        promised = after.note(f"promised {self.name} @ {self.at}")
        done = ("creates the verdict 'good' and reports it", promised, mind._replace(at="release"))
        if self.lost_acknowledgements and after != world:
            return [done, ("creates the verdict 'good', acknowledgement lost", after, mind)]
        return [done]

    def _release(self, mind: WriterMind, world: World) -> Sequence[Move]:
        held = world.targets[self.at]
        own = [t for t in held if t.kind in ("lease", "lapsed") and t.name == self.name]
        return [("deletes its lease", world.drop(self.at, *own), mind._replace(at="end"))]

    def _refs(self, mind: WriterMind) -> frozenset[str]:
        return mind.writes | {data for data, _ in mind.adopts} | self.wal

    def _spared(self, mind: WriterMind, world: World) -> frozenset[tuple[str, str]]:
        dead = names(world.targets[self.at], "tombstone")
        return frozenset(pair for pair in mind.adopts if not dead & set(pair))

    def _create(self, world: World, mind: WriterMind, then: WriterMind, *new: Thing) -> list[Move]:
        label = "creates " + ", ".join(f"{t.kind} {t.name}" for t in new)
        after = world.put(self.at, *new)
        if self.lost_acknowledgements and after != world:
            return [(label, after, then), (f"{label}, acknowledgement lost", after, mind)]
        return [(label, after, then)]


@dataclass(frozen=True)
class Archiver:
    """Archives segments in order, without a lease; those after the start of `backup`, which comes after its lease."""

    name: str
    segments: tuple[str, ...]
    backup: str = ""
    at: int = 0
    start: Mind = 0

    def moves(self, mind: Mind, world: World) -> Sequence[Move]:
        done = cast(int, mind)
        begun = any(thing.name == self.backup for thing in world.targets[self.at])
        if done == len(self.segments) or (self.backup and not begun and not done):
            return []
        segment = self.segments[done]
        return [(f"archives {segment}", world.put(self.at, Thing("data", segment)), done + 1)]


@dataclass(frozen=True)
class Reader:
    """Restores one backup without a lease: it looks once whether the backup is good, then fetches its data."""

    name: str
    backup: str
    rules: Rules
    at: int = 0
    start: Mind = "look"

    def moves(self, mind: Mind, world: World) -> Sequence[Move]:
        held, ghost = world.targets[self.at], f"reading {self.name}"
        manifest = manifest_of(held, self.backup)
        if mind == "look":
            if manifest is None or not seems_good(held, self.backup, self.rules):
                return [(f"finds {self.backup} not good", world, "end")]
            return [(f"finds {self.backup} good and begins", world.note(ghost), manifest.refs)]
        if mind == "end":
            return []
        if cast(frozenset[str], mind) <= names(held, "data"):
            return [("fetches all", world.unnote(ghost), "end")]
        return [("misses data that it was promised", world.note("torn"), "end")]


@dataclass(frozen=True)
class Clock:
    """Lets a lease run out at any time (with `only`, that one); `revives`: a late renewal may bring it back."""

    name: str = "clock"
    revives: bool = False
    only: str = ""
    start: Mind = ""

    def moves(self, mind: Mind, world: World) -> Sequence[Move]:
        found: list[Move] = []
        for at, held in enumerate(world.targets):
            for lease in sorted(things(held, "lease")):
                if self.only and lease.name != self.only:
                    continue
                lapsed = world.drop(at, lease).put(at, lease._replace(kind="lapsed"))
                found.append((f"the lease of {lease.name} runs out", lapsed, mind))
            for lease in sorted(things(held, "lapsed")) if self.revives else ():
                renewed = world.drop(at, lease).put(at, lease._replace(kind="lease"))
                found.append((f"the lease of {lease.name} is renewed late", renewed, mind))
        return found


@dataclass(frozen=True)
class Holder:
    """Puts `backup` on hold: creates the hold, waits for expirers that were there before, looks for a tombstone.

    The lease of any of them may run out meanwhile, though it works on: then its next round of tombstones is taken.
    """

    name: str
    backup: str
    rules: Rules
    at: int = 0
    start: Mind = "hold"

    def moves(self, mind: Mind, world: World) -> Sequence[Move]:
        held = world.targets[self.at]
        if mind == "hold":
            hold = Thing("hold", self.name, frozenset({self.backup}))
            return [("creates the hold", world.put(self.at, hold), "list" if self.rules.hold_waits else "look")]
        if mind == "list":
            return [("lists expirers", world, names(held, "expirer"))]
        if isinstance(mind, frozenset):
            left = mind & names(held, "expirer")
            return [self._late(one, left, world) for one in sorted(left)] or [("finds them gone", world, "look")]
        if mind == "look":
            if self.backup in names(held, "tombstone"):
                return [("meets a tombstone: too late", world, "end")]
            return [("lists tombstones: in time, and says so", world.note(f"held {self.backup}"), "end")]
        return []

    def _late(self, one: str, left: frozenset[str], world: World) -> Move:
        if self.rules.hold_stops_the_late:
            world = world.put(self.at, Thing("stopped", one))
        return f"finds the lease of {one} run out", world, left - {one}


@dataclass(frozen=True)
class Loss:
    """The target `at` is gone for good at any time; whoever expires from then on is not told of it."""

    at: int = 0
    name: str = "fate"
    start: Mind = ""

    def moves(self, mind: Mind, world: World) -> Sequence[Move]:
        if mind == "lost":
            return []
        return [(f"target {self.at} is lost", world.put(self.at, LOST), "lost")]


def _data(written: frozenset[str]) -> list[Thing]:
    return [Thing("data", name) for name in sorted(written)]
