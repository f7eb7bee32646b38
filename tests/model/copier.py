"""The replicator and the repairer of section 8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from tests.model.explorer import Mind, Move
from tests.model.world import Rules, Thing, World, listed, manifest_of, names, run_of, seems_good, things

NOTHING: frozenset[str] = frozenset()


class ReplicatorMind(NamedTuple):
    """What a replicator knows: the manifest to complete, what it relies on there, and what it must copy."""

    at: str = "read"
    manifest: Thing | None = None
    via: frozenset[str] = NOTHING
    copies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Replicator:
    """Completes `backup` on the target `to`, where it is pending, from the target `source`."""

    name: str
    backup: str
    rules: Rules
    source: int = 0
    to: int = 1

    @property
    def start(self) -> Mind:
        return ReplicatorMind()

    def moves(self, mind: Mind, world: World) -> Sequence[Move]:
        known = cast(ReplicatorMind, mind)
        if known.at == "end":
            return []
        return cast(Sequence[Move], getattr(self, f"_{known.at}")(known, world))

    def _read(self, mind: ReplicatorMind, world: World) -> Sequence[Move]:
        held = world.targets[self.source]
        manifest = manifest_of(held, self.backup)
        if manifest is None or not seems_good(held, self.backup, self.rules):
            return []  # it waits until there is something to copy
        after = mind._replace(at="decisions", manifest=manifest)
        return [(f"reads the manifest of {self.backup}: {listed(manifest.refs)}", world, after)]

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
        return [(label, after, mind._replace(at="survey"))]

    def _survey(self, mind: ReplicatorMind, world: World) -> Sequence[Move]:
        """Finds through which manifests or runs the destination holds what need not be copied."""
        held, refs = world.targets[self.to], _refs(mind)
        if seems_good(held, self.backup, self.rules):
            return [("finds it complete", world, mind._replace(at="end"))]
        through = {manifest.name for manifest in things(held, "manifest") if manifest.refs & refs} - {self.backup}
        via = frozenset(through or {run_of(name) for name in refs & names(held, "data")})
        return [(f"will rely on {listed(via)} there", world, mind._replace(at="lease", via=via))]

    def _lease(self, mind: ReplicatorMind, world: World) -> Sequence[Move]:
        lease = Thing("lease", f"{self.backup}+copy", via=mind.via)
        return [("creates its lease there", world.put(self.to, lease), mind._replace(at="look"))]

    def _look(self, mind: ReplicatorMind, world: World) -> Sequence[Move]:
        if hit := self._hit(mind, world):
            return [(f"lists tombstones, meets {listed(hit)}: pending", world, mind._replace(at="end"))]
        first = "list" if self.rules.copy_data_first else "manifest"
        return [("lists tombstones there: nothing hit", world, mind._replace(at=first))]

    def _list(self, mind: ReplicatorMind, world: World) -> Sequence[Move]:
        missing = tuple(sorted(_refs(mind) - names(world.targets[self.to], "data")))
        done = "check" if self.rules.copy_data_first else "end"
        after = mind._replace(at="copy" if missing else done, copies=missing)
        return [(f"lists data there: lacks {listed(missing)}", world, after)]

    def _copy(self, mind: ReplicatorMind, world: World) -> Sequence[Move]:
        name, *rest = mind.copies
        if Thing("data", name) not in world.targets[self.source]:
            return [(f"cannot read {name} at the source: pending", world, mind._replace(at="end"))]
        done = "check" if self.rules.copy_data_first else "end"
        after = mind._replace(at="copy" if rest else done, copies=tuple(rest))
        return [(f"copies {name}", world.put(self.to, Thing("data", name)), after)]

    def _check(self, mind: ReplicatorMind, world: World) -> Sequence[Move]:
        whole = _refs(mind) <= names(world.targets[self.to], "data")
        after = mind._replace(at="manifest" if whole else "end")
        return [(f"checks the closure there: {'whole' if whole else 'pending'}", world, after)]

    def _manifest(self, mind: ReplicatorMind, world: World) -> Sequence[Move]:
        manifest = cast(Thing, mind.manifest)
        then = "last" if self.rules.copy_looks_again else "confirm"
        if not self.rules.copy_data_first:
            then = "list"
        if Thing("withdrawn", self.backup) in world.targets[self.to]:
            return [("meets a withdrawal there", world, mind._replace(at="end"))]
        return [("creates the manifest there", world.put(self.to, manifest), mind._replace(at=then))]

    def _last(self, mind: ReplicatorMind, world: World) -> Sequence[Move]:
        if hit := self._hit(mind, world):
            return [(f"lists tombstones, meets {listed(hit)}", world, mind._replace(at="withdraw"))]
        return [("lists tombstones there: nothing hit", world, mind._replace(at="confirm"))]

    def _withdraw(self, mind: ReplicatorMind, world: World) -> Sequence[Move]:
        after = world.put(self.to, Thing("withdrawn", self.backup))
        return [("creates the verdict 'withdrawn'", after, mind._replace(at="end"))]

    def _confirm(self, mind: ReplicatorMind, world: World) -> Sequence[Move]:
        after = world.put(self.to, Thing("confirmed", self.backup)) if self.rules.verdicts else world
        if Thing("withdrawn", self.backup) in after.targets[self.to]:
            return [("meets the verdict 'withdrawn'", world, mind._replace(at="release"))]
        noted = after.note(f"promised {self.backup} @ {self.to}")
        return [("creates the verdict 'good' there and reports it", noted, mind._replace(at="release"))]

    def _release(self, mind: ReplicatorMind, world: World) -> Sequence[Move]:
        own = [t for t in world.targets[self.to] if t.name == f"{self.backup}+copy"]
        return [("deletes its lease", world.drop(self.to, *own), mind._replace(at="end"))]

    def _hit(self, mind: ReplicatorMind, world: World) -> frozenset[str]:
        if not self.rules.copy_heeds_tombstones:
            return NOTHING
        return names(world.targets[self.to], "tombstone") & (_refs(mind) | mind.via | {self.backup})


def _refs(mind: ReplicatorMind) -> frozenset[str]:
    return cast(Thing, mind.manifest).refs


@dataclass(frozen=True)
class Repairer:
    """Heals one damaged object of `backup` on the target `to` with the bytes of `source`."""

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
            return [(f"finds {self.data} damaged", world, "look")] if bad in held else []
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
