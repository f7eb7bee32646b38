"""The laws. Each takes a world and says what is broken, or None; they are judged in every reachable state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.model.copier import Replicator
from tests.model.expirer import Expirer
from tests.model.explorer import Law, alone
from tests.model.world import Rules, Target, Thing, World, good, holds_in_force, names, run_of, seems_good, things


@dataclass(frozen=True)
class Laws:
    """The laws under one set of rules; `holes` are data that the history itself damaged or lost."""

    rules: Rules
    holes: frozenset[str] = frozenset()
    completes: str = ""  # a backup that is good on target 0 and must stay completable on target 1
    cleaned: dict[tuple[Target, ...], str | None] = field(default_factory=dict, compare=False)

    def all(self) -> Sequence[Law]:
        """Every law, the cheap ones first."""
        return [self.whole, self.kept, self.buried, self.unreported, self.untorn, self.on_hold, self.over, self.clean]

    def whole(self, world: World) -> str | None:
        """What manifests, verdicts and tombstones call good has its whole closure there."""
        for at, held in enumerate(world.targets):
            for manifest in things(held, "manifest"):
                missing = manifest.refs - names(held, "data") - self.holes
                if missing and seems_good(held, manifest.name, self.rules):
                    return f"(a) {manifest.name} seems good on {at} and lacks {sorted(missing)}"
        return None

    def kept(self, world: World) -> str | None:
        """A backup reported good, or counted on by a decision, stays good until retention chooses it to go."""
        for ghost in world.ghosts:
            kind, _, what = ghost.partition(" ")
            if kind != "promised" or f"decided {what}" in world.ghosts:
                continue
            name, _, at = what.partition(" @ ")
            if not good(world.targets[int(at)], name, self.rules):
                return f"(b) {name} was promised good on {at}, nobody chose it to go, and it is not good"
        return None

    def adopted(self, world: World) -> str | None:
        """The part of the law above about data that another run wrote."""
        for at, held in enumerate(world.targets):
            dead = names(held, "tombstone")
            for manifest in things(held, "manifest"):
                hit = {name for name in manifest.refs & dead if run_of(name) != manifest.name}
                decided = f"decided {manifest.name} @ {at}" in world.ghosts
                if hit and f"promised {manifest.name} @ {at}" in world.ghosts and not decided:
                    return f"(b, adopted) {manifest.name} was promised good on {at} and {sorted(hit)} is tombstoned"
        return None

    def buried(self, world: World) -> str | None:
        """What was deleted behind a tombstone has it still: a late create leaves rubbish that nothing may use."""
        for ghost in world.ghosts:
            kind, _, what = ghost.partition(" ")
            name, _, at = what.partition(" @ ")
            if kind == "gone" and Thing("tombstone", name) not in world.targets[int(at)]:
                return f"(c) {name} was deleted on {at} and has no tombstone"
        return None

    def never_again(self, world: World) -> str | None:
        """The strict form of the law above: what was deleted never exists again. No store gives it: see the test."""
        for ghost in world.ghosts:
            kind, _, what = ghost.partition(" ")
            name, _, at = what.partition(" @ ")
            if kind == "gone" and any(thing == Thing("data", name) for thing in world.targets[int(at)]):
                return f"(c, strict) {name} was deleted on {at} and exists again"
        return None

    def unreported(self, world: World) -> str | None:
        """A killed backup is never good: what is good has a verdict, and a verdict is made after the last look."""
        for at, held in enumerate(world.targets):
            for name in names(held, "manifest"):
                told = {f"promised {name} @ {at}", f"old {name} @ {at}"}
                looked = Thing("confirmed", name) in held
                if good(held, name, self.rules) and not looked and not told & world.ghosts:
                    return f"(f) {name} counts as good on {at} and its writer may yet withdraw it"
        return None

    def untorn(self, world: World) -> str | None:
        """A restore that began with a good backup ends."""
        return "(d) a restore lost data that it was promised" if "torn" in world.ghosts else None

    def on_hold(self, world: World) -> str | None:
        """What somebody was told is on hold gets no tombstone where it is good, also when only a copy of it is left."""
        for at, held in enumerate(world.targets):
            for name in names(held, "tombstone"):
                if f"held {name}" in world.ghosts and Thing("confirmed", name) in held:
                    return f"(i) {name} is on hold and has a tombstone on {at}"
        return None

    def over(self, world: World) -> str | None:
        """A hold that was released is in force nowhere, whatever target is left."""
        for at, held in enumerate(world.targets):
            for name in holds_in_force([held]):
                if f"released {name}" in world.ghosts:
                    return f"(j) {name} was released and is on hold by what {at} has"
        return None

    def clean(self, world: World) -> str | None:
        """If everybody dies here, two rounds of expiry leave nothing that no good backup reaches, and harm none."""
        if world.targets not in self.cleaned:
            self.cleaned[world.targets] = self._clean(world) or self._complete(world)
        return self.cleaned[world.targets]

    def _clean(self, world: World) -> str | None:
        after = World(tuple(frozenset(map(_lapse, held)) for held in world.targets))
        for _ in range(2):
            for at in range(len(after.targets)):
                after = alone(after, Expirer("cleaner", self.rules, at=at))
        elsewhere = {n for held in after.targets for n in names(held, "manifest") if good(held, n, self.rules)}
        elsewhere |= holds_in_force(after.targets)  # one that came too late keeps the bytes, nothing else
        for at, (before, held) in enumerate(zip(world.targets, after.targets, strict=True)):
            for name in names(before, "manifest"):
                if good(before, name, self.rules) and not good(held, name, self.rules) and self.rules.verdicts:
                    return f"(e) cleaning broke {name} on {at}"
            kept = [m for one in after.targets for m in things(one, "manifest") if m.name in elsewhere]
            reached = {ref for manifest in kept for ref in manifest.refs}
            unreached = names(held, "data") - reached
            left = {name for name in unreached if run_of(name) not in elsewhere | {"wal"}}
            if left or names(held, "lease") | names(held, "lapsed"):
                return f"(e) two rounds of expiry leave rubbish on {at}: {sorted(left)} {sorted(held)}"
        return None

    def _complete(self, world: World) -> str | None:
        """If everybody dies here, expiry runs and a replicator comes, the pending backup gets good."""
        if not self.completes or not good(world.targets[0], self.completes, self.rules):
            return None
        after = World(tuple(frozenset(map(_lapse, held)) for held in world.targets))
        after = alone(after, Expirer("cleaner", self.rules, at=1))
        after = alone(after, Replicator("copier", self.completes, self.rules))
        if good(after.targets[1], self.completes, self.rules):
            return None
        return f"(h) {self.completes} is good on 0 and can never be completed on 1"


def _lapse(thing: Thing) -> Thing:
    return thing._replace(kind="lapsed") if thing.kind == "lease" else thing
