"""The replicator and the repairer of section 8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from tests.model.explorer import Mind, Move
from tests.model.world import (
    LOST,
    Rules,
    Target,
    Thing,
    World,
    good,
    listed,
    manifest_of,
    names,
    run_of,
    seems_good,
    things,
)

NOTHING: frozenset[str] = frozenset()


class ReplicatorMind(NamedTuple):
    """What a replicator knows: the manifest to complete, what it relies on there, and what it must copy."""

    at: str = "read"
    manifest: Thing | None = None
    holds: tuple[Thing, ...] = ()
    via: frozenset[str] = NOTHING  # backups and runs through which it relies on what lay there before its lease
    copies: tuple[str, ...] = ()
    failed: bool = False


@dataclass(frozen=True)
class Replicator:
    """Completes `backup` on the target `to`, where it is pending, from the target `source`; holds come before it."""

    name: str
    backup: str
    rules: Rules
    source: int = 0
    to: int = 1

    @property
    def start(self) -> Mind:
        return ReplicatorMind()

    @property
    def _own(self) -> str:
        """The lease of this attempt: one that died left another."""
        return f"{self.backup}+{self.name}"

    def moves(self, mind: Mind, world: World) -> Sequence[Move]:
        known = cast(ReplicatorMind, mind)
        if known.at == "end":
            return []
        return cast(Sequence[Move], getattr(self, f"_{known.at}")(known, world))

    def _read(self, mind: ReplicatorMind, world: World) -> Sequence[Move]:
        held = world.targets[self.source]
        manifest = manifest_of(held, self.backup)
        if manifest is None or LOST in held or not seems_good(held, self.backup, self.rules):
            return []  # it waits until there is something to copy
        first = "decisions" if self.rules.copies_every_tombstone or self.rules.copies_withdrawals else "lease"
        there = world.targets[self.to]
        if good(there, self.backup, self.rules) or manifest.refs & names(there, "damaged"):
            first = "end"  # nothing is to be done, or a repair is to come first
        if self._decided(manifest, there):
            first = "end"
        label = f"reads the manifest of {self.backup}: {listed(manifest.refs)}"
        holds = held_there(held, self.rules) if first == "lease" else ()
        if holds and self.rules.copies_holds_first:
            first = "hold"
        return [(label, world, mind._replace(at=first, manifest=manifest, holds=holds))]

    def _decided(self, manifest: Thing, there: Target) -> bool:
        """Whether it was expired or withdrawn at the destination by the time of the plan."""
        published = self.rules.copies_withdrawals or not self.rules.copy_heeds_tombstones
        hit = names(there, "tombstone") & (manifest.refs | {self.backup})
        return not published and (bool(hit) or Thing("withdrawn", self.backup) in there)

    def _hold(self, mind: ReplicatorMind, world: World) -> Sequence[Move]:
        thing, *rest = mind.holds
        if LOST in world.targets[self.source]:
            return [("cannot read the holds at the source", world, mind._replace(at="end"))]
        done = "lease" if self.rules.copies_holds_first else "end"
        after = mind._replace(at="hold" if rest else done, holds=tuple(rest))
        return [(f"copies the {thing.kind} of {listed(thing.refs)}", world.put(self.to, thing), after)]

    def _decisions(self, mind: ReplicatorMind, world: World) -> Sequence[Move]:
        """What the text published copies first: tombstones and withdrawals."""
        held, new = world.targets[self.source], set[Thing]()
        if self.rules.copies_every_tombstone:
            new |= things(held, "tombstone")
        if self.rules.copies_withdrawals:
            new |= things(held, "withdrawn")
        after = world
        for thing in sorted(new):
            if thing.kind == "withdrawn":  # as published, a withdrawal is no verdict: nothing stands in its way
                after = after.drop(self.to, Thing("confirmed", thing.name))
            after = after.put(self.to, Thing(thing.kind, thing.name))
            if f"decided {thing.name} @ {self.source}" in world.ghosts:
                after = after.note(f"decided {thing.name} @ {self.to}")
        label = "copies " + listed(f"{thing.kind} {thing.name}" for thing in new)
        return [(label, after, mind._replace(at="lease"))]

    def _lease(self, mind: ReplicatorMind, world: World) -> Sequence[Move]:
        """Names every run of the closure, also those whose data is still to be copied: nothing else reaches that."""
        refs, held = _refs(mind), world.targets[self.to]
        named = {run_of(name) for name in (refs if self.rules.copy_names_runs else refs & names(held, "data"))}
        others = (m.name for m in things(held, "manifest") if m.refs & refs)
        named.update(other for other in others if seems_good(held, other, self.rules))
        lease = Thing("lease", self._own, via=frozenset(named - {self.backup, "wal"}))
        return [("creates its lease there", world.put(self.to, lease), mind._replace(at="look"))]

    def _look(self, mind: ReplicatorMind, world: World) -> Sequence[Move]:
        if hit := self._hit(mind, world):
            return [(f"lists tombstones, meets {listed(hit)}: expired there", world, mind._replace(at="release"))]
        if Thing("withdrawn", self.backup) in world.targets[self.to]:
            return [("meets the verdict 'withdrawn' there", world, mind._replace(at="release"))]
        first = "list" if self.rules.copy_data_first else "manifest"
        return [("lists tombstones there: nothing hit", world, mind._replace(at=first))]

    def _list(self, mind: ReplicatorMind, world: World) -> Sequence[Move]:
        """What lies there already it relies on: through good backups that reach it, else through its runs."""
        held = world.targets[self.to]
        missing = tuple(sorted(_refs(mind) - names(held, "data")))
        via, open_names = set[str](), set(_refs(mind) & names(held, "data"))
        for other in sorted(things(held, "manifest"), reverse=True):
            if other.name != self.backup and seems_good(held, other.name, self.rules) and other.refs & open_names:
                via.add(other.name)
                open_names -= other.refs
        via |= {run_of(name) for name in open_names}
        done = "alive" if self.rules.copy_data_first else "end"
        after = mind._replace(at="copy" if missing else done, copies=missing, via=frozenset(via - {self.backup, "wal"}))
        return [(f"lists data there: lacks {listed(missing)}, relies on {listed(after.via)}", world, after)]

    def _copy(self, mind: ReplicatorMind, world: World) -> Sequence[Move]:
        name, *rest = mind.copies
        readable = Thing("data", name) in world.targets[self.source] and LOST not in world.targets[self.source]
        failed = mind.failed or not readable
        done = "release" if failed else "alive" if self.rules.copy_data_first else "end"
        after = mind._replace(at="copy" if rest else done, copies=tuple(rest), failed=failed)
        if not readable:
            return [(f"cannot read {name} at the source: pending", world, after)]
        return [(f"copies {name}", world.put(self.to, Thing("data", name)), after)]

    def _alive(self, mind: ReplicatorMind, world: World) -> Sequence[Move]:
        live = self._own in names(world.targets[self.to], "lease")
        if not live and self.rules.copy_looks_at_lease:
            return [("finds its lease run out: makes no manifest", world, mind._replace(at="release"))]
        return [("looks at its lease", world, mind._replace(at="check"))]

    def _check(self, mind: ReplicatorMind, world: World) -> Sequence[Move]:
        whole = _refs(mind) <= names(world.targets[self.to], "data")
        after = mind._replace(at="again" if whole else "release")
        return [(f"checks the closure there: {'whole' if whole else 'pending'}", world, after)]

    def _again(self, mind: ReplicatorMind, world: World) -> Sequence[Move]:
        if hit := self._hit(mind, world):
            return [(f"lists tombstones, meets {listed(hit)}: pending", world, mind._replace(at="release"))]
        return [("lists tombstones there again: nothing hit", world, mind._replace(at="manifest"))]

    def _manifest(self, mind: ReplicatorMind, world: World) -> Sequence[Move]:
        then = "last" if self.rules.copy_looks_again else "confirm"
        if not self.rules.copy_data_first:
            then = "list"
        manifest = cast(Thing, mind.manifest)
        return [("creates the manifest there", world.put(self.to, manifest), mind._replace(at=then))]

    def _last(self, mind: ReplicatorMind, world: World) -> Sequence[Move]:
        if hit := self._hit(mind, world):
            return [(f"lists tombstones, meets {listed(hit)}", world, mind._replace(at="withdraw"))]
        return [("lists tombstones there: nothing hit", world, mind._replace(at="confirm"))]

    def _withdraw(self, mind: ReplicatorMind, world: World) -> Sequence[Move]:
        after = world.put(self.to, Thing("withdrawn", self.backup))
        return [("creates the verdict 'withdrawn'", after, mind._replace(at="release"))]

    def _confirm(self, mind: ReplicatorMind, world: World) -> Sequence[Move]:
        after = world.put(self.to, Thing("confirmed", self.backup)) if self.rules.verdicts else world
        if Thing("withdrawn", self.backup) in after.targets[self.to]:
            return [("meets the verdict 'withdrawn'", world, mind._replace(at="release"))]
        noted = after.note(f"promised {self.backup} @ {self.to}")
        return [("creates the verdict 'good' there and reports it", noted, mind._replace(at="release"))]

    def _release(self, mind: ReplicatorMind, world: World) -> Sequence[Move]:
        own = [t for t in world.targets[self.to] if t.name == self._own]
        late = mind.holds and not self.rules.copies_holds_first
        return [("deletes its lease", world.drop(self.to, *own), mind._replace(at="hold" if late else "end"))]

    def _hit(self, mind: ReplicatorMind, world: World) -> frozenset[str]:
        if not self.rules.copy_heeds_tombstones:
            return NOTHING
        return names(world.targets[self.to], "tombstone") & (_refs(mind) | mind.via | {self.backup})


def held_there(held: Target, rules: Rules) -> tuple[Thing, ...]:
    """Releases and holds of a target, in the order in which they are copied."""
    releases, holds = sorted(things(held, "release")), sorted(things(held, "hold"))
    return tuple([*releases, *holds] if rules.copies_releases_first else [*holds, *releases])


def _refs(mind: ReplicatorMind) -> frozenset[str]:
    return cast(Thing, mind.manifest).refs


@dataclass(frozen=True)
class Repairer:
    """Heals one damaged object of `backup` on the target `to` with the bytes of `source`, or creates a missing one."""

    name: str
    backup: str
    data: str
    rules: Rules
    source: int = 0
    to: int = 1
    start: Mind = "scrub"

    def moves(self, mind: Mind, world: World) -> Sequence[Move]:
        held, sound = world.targets[self.to], Thing("data", self.data)
        bad = Thing("damaged", self.data)
        if mind == "scrub":
            missing = sound not in held and seems_good(held, self.backup, self.rules)
            return [(f"finds {self.data} damaged or missing", world, "look")] if bad in held or missing else []
        if mind == "look":
            hit = names(held, "tombstone") & {self.data, self.backup}
            return [(f"lists tombstones: {listed(hit)}", world, "end" if hit else "fetch")]
        if mind == "fetch":
            then = "replace" if self.rules.repair_replaces else "delete"
            fetched = sound in world.targets[self.source]
            return [("fetches the sound bytes", world, then)] if fetched else []
        if mind == "replace":
            return [self._healed(f"replaces {self.data} at once", world.drop(self.to, bad).put(self.to, sound))]
        if mind == "delete":
            return [(f"deletes {self.data}", world.drop(self.to, bad, sound), "create")]
        if mind == "create":
            return [self._healed(f"creates {self.data}", world.put(self.to, sound))]
        return []

    def _healed(self, label: str, after: World) -> Move:
        if seems_good(after.targets[self.to], self.backup, self.rules):
            after = after.note(f"promised {self.backup} @ {self.to}")
        return label, after, "end"
