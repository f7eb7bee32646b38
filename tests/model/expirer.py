"""The expirer of section 8.

It surveys, judges runs and backups, tombstones backups, lists again, tombstones data, waits the grace, lists once more
and deletes. Retention is `removes` (backups that are to go whatever else there is) or `keeps_one` (a backup goes when
another good one is there). Where holds are made meanwhile it has a lease of its own before it reads them (`leased`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    holds_in_force,
    lease_run,
    listed,
    names,
    run_of,
    seems_good,
    things,
    wal_number,
)

NOTHING: frozenset[str] = frozenset()
NONE: frozenset[Thing] = frozenset()


class ExpirerMind(NamedTuple):
    """What an expirer has listed, what it knows to be tombstoned, and what it has still to do in this phase."""

    at: str = "begin"
    round: int = 1
    phase: int = 0  # 0 surveys, 1 tombstones data, 2 deletes
    todo: tuple[str, ...] = ()  # listings or names
    data: frozenset[str] = NOTHING
    leases: frozenset[Thing] = NONE
    manifests: frozenset[Thing] = NONE
    dead: frozenset[str] = NOTHING  # runs that it withdrew
    settled: frozenset[str] = NOTHING  # runs with the verdict 'good', here or on another target
    elsewhere: frozenset[Thing] = NONE  # manifests of backups that are good on other targets
    abroad: frozenset[Thing] = NONE  # live leases on other targets
    held: frozenset[str] = NOTHING  # backups on hold
    pinned: frozenset[str] = NOTHING  # what they reference, as any manifest tells
    goes: tuple[str, ...] = ()  # backups to tombstone
    tombs: frozenset[str] = NOTHING


@dataclass(frozen=True)
class Expirer:
    """Rounds of expiry on one target. due: the tombstones that have waited their grace, None: every one

    blind: another target cannot be asked · bereft: it knows its own target only, once the other one is lost.
    """

    name: str
    rules: Rules
    removes: frozenset[str] = NOTHING
    keeps_one: bool = False
    at: int = 0
    rounds: int = 1
    due: frozenset[str] | None = None
    leased: bool = False
    blind: bool = False
    bereft: bool = False

    @property
    def start(self) -> Mind:
        return ExpirerMind(todo=("data", *self._order()))

    def moves(self, mind: Mind, world: World) -> Sequence[Move]:
        known = cast(ExpirerMind, mind)
        if known.at == "end" and known.round < self.rounds:
            known = cast(ExpirerMind, self.start)._replace(round=known.round + 1)
        if known.at == "end":
            return []
        if known.at == "begin":
            return self._begin(known, world)
        return cast(Sequence[Move], getattr(self, f"_{known.at}")(known, world))

    def _begin(self, mind: ExpirerMind, world: World) -> Sequence[Move]:
        if self.bereft and LOST not in world.targets[1 - self.at]:
            return []
        dead, own = names(world.targets[self.at], "tombstone"), Thing("expirer", self.name)
        begun = mind._replace(at="list", tombs=dead)
        if not self.leased or own in world.targets[self.at]:
            return [("lists tombstones", world, begun)]
        if self.rules.expirer_has_lease:
            return [("creates its own lease", world.put(self.at, own), mind)]
        return [("lists tombstones", world, begun)]

    def _holds(self, mind: ExpirerMind, world: World) -> Sequence[Move]:
        held = holds_in_force(world.targets)
        return [(f"reads the holds: {listed(held)}", world, mind._replace(at="judge", held=held))]

    def _release(self, mind: ExpirerMind, world: World) -> Sequence[Move]:
        own = Thing("expirer", self.name)
        return [("deletes its own lease", world.drop(self.at, own), mind._replace(at="end"))]

    def _order(self) -> tuple[str, str]:
        return ("leases", "manifests") if self.rules.leases_before_manifests else ("manifests", "leases")

    def _list(self, mind: ExpirerMind, world: World) -> Sequence[Move]:
        held, (what, *rest) = world.targets[self.at], mind.todo
        if what == "data":
            mind = mind._replace(data=names(held, "data") | names(held, "damaged"))
        elif what == "leases":
            mind = mind._replace(leases=things(held, "lease") | things(held, "lapsed"))
        else:
            mind = mind._replace(manifests=things(held, "manifest"))
        label = f"lists {what}"
        if rest:
            return [(label, world, mind._replace(todo=tuple(rest)))]
        mind = mind._replace(todo=())
        if mind.phase == 0:
            return [(label, world, mind._replace(at="holds" if self.leased else "judge"))]
        after = self._mark(mind) if mind.phase == 1 else self._doom(mind)
        return [(f"{label}; {'unreached' if mind.phase == 1 else 'to delete'}: {listed(after.todo)}", world, after)]

    def _judge(self, mind: ExpirerMind, world: World) -> Sequence[Move]:
        """Lists verdicts, here and elsewhere, and decides."""
        asked = [world.targets[self.at], *self._others(world)]
        held = mind.held if self.leased else holds_in_force(asked)
        told = (m for one in asked for m in things(one, "manifest") if m.name in held)
        mind = mind._replace(held=held, pinned=NOTHING.union(*(m.refs for m in told)))
        if self.blind:
            after = mind._replace(settled=names(world.targets[self.at], "confirmed"))
            return [("cannot ask the other target: judges nothing", world, after._replace(at="grace"))]
        dead = tuple(sorted(self._dead(mind, world)))
        goes, kept = self._retention(mind, world)
        noted = world.note(*(f"promised {one} @ {self.at}" for one in kept))
        label = f"lists verdicts; dead: {listed(dead)}; to go: {listed(goes)}"
        elsewhere = self._elsewhere(world)
        settled = names(world.targets[self.at], "confirmed").union(manifest.name for manifest in elsewhere)
        good_there = frozenset(elsewhere)
        after = mind._replace(todo=dead, goes=tuple(sorted(goes)), settled=settled, elsewhere=good_there)
        after = after._replace(abroad=self._abroad(world))
        if not self.rules.verdicts:
            after = after._replace(todo=(), goes=tuple(sorted({*goes, *dead})))
        after = after._replace(at="withdraw") if after.todo else self._turn(after)
        return [(label, noted, after)]

    def _dead(self, mind: ExpirerMind, world: World) -> set[str]:
        held = world.targets[self.at]
        runs = {run_of(data) for data in mind.data} | {lease_run(lease) for lease in mind.leases}
        live = [*(lease for lease in mind.leases if lease.kind == "lease"), *self._abroad(world)]
        spared = {"wal", *(lease_run(lease) for lease in live)}
        if self.rules.spares_via:
            spared.update(*(lease.via for lease in live))
        manifests = {manifest.name for manifest in mind.manifests}
        if self.rules.verdicts:
            runs |= manifests
            spared |= names(held, "confirmed")
        else:
            spared |= manifests - names(held, "withdrawn")
            runs |= manifests & names(held, "withdrawn")
        spared.update(manifest.name for manifest in self._elsewhere(world))
        return {run for run in runs if run not in spared and run not in mind.tombs}

    def _retention(self, mind: ExpirerMind, world: World) -> tuple[set[str], set[str]]:
        """Backups that go, and backups on which that decision rests."""
        good_here = _good(world.targets[self.at], self.rules)
        named = set(mind.held)
        if self.rules.spares_via:
            live = [*(lease for lease in mind.leases if lease.kind == "lease"), *self._abroad(world)]
            named |= _named(live)
        if self.keeps_one:
            newest = max(good_here, default="")
            return (good_here - {newest}) - named, ({newest} if len(good_here) > 1 else set())
        there = {manifest.name for manifest in mind.manifests}
        coming = [m for m in self._elsewhere(world) if m.name not in good_here]
        if self.rules.expired_here_is_over:
            coming = [m for m in coming if m.name not in mind.tombs]
        pending, awaited = {ref for manifest in coming for ref in manifest.refs}, {m.name for m in coming}
        named.update(m.name for m in mind.manifests if m.refs & pending and m.name not in awaited)
        named.update(m.name for m in self._elsewhere(world) if self._is_hurt(m, world))
        return {one for one in self.removes & there if one not in mind.tombs and one not in named}, set()

    def _others(self, world: World) -> list[Target]:
        if self.blind:
            return []
        return [held for at, held in enumerate(world.targets) if at != self.at and LOST not in held]

    def _elsewhere(self, world: World) -> list[Thing]:
        """Manifests of the backups that are good on other targets, or would be but for damage."""
        if not self.rules.pending_is_not_dead:
            return []
        found = [(held, m) for held in self._others(world) for m in things(held, "manifest")]
        return [m for held, m in found if seems_good(held, m.name, self.rules)]

    def _is_hurt(self, manifest: Thing, world: World) -> bool:
        """Whether a copy elsewhere is damaged, so that this one may be needed to mend it."""
        return any(
            seems_good(held, manifest.name, self.rules) and not manifest.refs <= names(held, "data")
            for held in self._others(world)
        )

    def _abroad(self, world: World) -> frozenset[Thing]:
        """Live leases on other targets: what was dropped here may get good there."""
        if not self.rules.looks_abroad:
            return NONE
        return NONE.union(*(things(held, "lease") for held in self._others(world)))

    def _withdraw(self, mind: ExpirerMind, world: World) -> Sequence[Move]:
        run, *rest = mind.todo
        after = world.put(self.at, Thing("withdrawn", run))
        lost = Thing("confirmed", run) in after.targets[self.at]
        label = f"meets the verdict 'good' of {run}" if lost else f"withdraws {run}"
        if not lost:
            mind = mind._replace(dead=mind.dead | {run}, goes=tuple(sorted({*mind.goes, run})))
        mind = mind._replace(todo=tuple(rest))
        return [(label, after, mind if rest else self._turn(mind))]

    def _turn(self, mind: ExpirerMind) -> ExpirerMind:
        """What follows the judgement, the tombstones of backups and those of data; no step by itself."""
        if mind.phase == 0 and (not mind.goes or not self.rules.backups_first):
            todo = self._order() if self.rules.data_before_leases else (*self._order(), "data")
            return mind._replace(at="list", phase=1, todo=todo, tombs=mind.tombs | frozenset(mind.goes))
        return mind._replace(at="bury" if mind.goes else "grace")

    def _is_stopped(self, world: World) -> bool:
        """Whether somebody took the name of its next round, its lease having run out."""
        return Thing("stopped", self.name) in world.targets[self.at]

    def _bury(self, mind: ExpirerMind, world: World) -> Sequence[Move]:
        if self._is_stopped(world):
            return [("meets its next round: stops", world, self._done(mind))]
        run, *rest = mind.goes
        decided = world.note(f"decided {run} @ {self.at}") if self._chosen(run, mind) else world
        after = self._turn(mind._replace(goes=tuple(rest), tombs=mind.tombs | {run}))
        return [(f"tombstones backup {run}", decided.put(self.at, Thing("tombstone", run)), after)]

    def _chosen(self, run: str, mind: ExpirerMind) -> bool:
        return run in self.removes or (self.keeps_one and run not in mind.dead)

    def _mark(self, mind: ExpirerMind) -> ExpirerMind:
        todo = tuple(sorted(mind.data - self._reached(mind) - mind.tombs))
        return mind._replace(at="entomb", todo=todo) if todo else self._turn(mind)

    def _entomb(self, mind: ExpirerMind, world: World) -> Sequence[Move]:
        if self._is_stopped(world):
            return [("meets its next round: stops", world, self._done(mind))]
        name, *rest = mind.todo
        after = mind._replace(todo=tuple(rest), tombs=mind.tombs | {name})
        done = world.put(self.at, Thing("tombstone", name))
        return [(f"tombstones {name}", done, after if rest else self._turn(after))]

    def _grace(self, mind: ExpirerMind, world: World) -> Sequence[Move]:
        if self.rules.grace and any(ghost.startswith("reading") for ghost in world.ghosts):
            return []
        return [("has waited the grace", world, mind._replace(at="list", phase=2, todo=self._order()))]

    def _doom(self, mind: ExpirerMind) -> ExpirerMind:
        counted, reached = self._counted(mind), self._reached(mind)
        named = _named(counted) if self.rules.via_keeps_manifest else NOTHING
        ripe = mind.tombs if self.due is None else mind.tombs & self.due
        manifests = sorted(m.name for m in mind.manifests if m.name in ripe - named - mind.held)
        data = sorted(name for name in ripe if "/" in name and name not in reached)
        adopted = {name for lease in mind.leases if lease.kind == "lease" for name in lease.via}
        saved = sorted(mind.tombs & (reached | adopted)) if not self.rules.tombstones_final else []
        past = sorted(lease.name for lease in mind.leases - counted if lease.kind == "lapsed")
        todo = [("untomb", name) for name in saved] + [("manifest", name) for name in manifests]
        todo += [("data", name) for name in data] + [("lapsed", name) for name in past]
        if not todo:
            return self._done(mind)
        return mind._replace(at="delete", todo=tuple(" ".join(item) for item in todo))

    def _delete(self, mind: ExpirerMind, world: World) -> Sequence[Move]:
        item, *rest = mind.todo
        kind, _, name = item.partition(" ")
        after = mind._replace(todo=tuple(rest)) if rest else self._done(mind)
        if kind == "untomb":
            return [(f"deletes the tombstone of {name}", world.drop(self.at, Thing("tombstone", name)), after)]
        doomed = [t for t in world.targets[self.at] if t.name == name and t.kind in (kind, "damaged")]
        gone = world.drop(self.at, *doomed)
        if kind != "lapsed" and doomed:
            gone = gone.note(f"gone {name} @ {self.at}")
        return [(f"deletes {item}", gone, after)]

    def _done(self, mind: ExpirerMind) -> ExpirerMind:
        leased = self.leased and self.rules.expirer_has_lease
        return ExpirerMind(at="release" if leased else "end", round=mind.round)

    def _counted(self, mind: ExpirerMind) -> frozenset[Thing]:
        """The leases that protect: live ones, and, fenced, those of writers whose run is not judged."""
        if not self.rules.fences:
            return frozenset(lease for lease in mind.leases if lease.kind == "lease")
        judged = mind.dead | mind.tombs | mind.settled
        return frozenset(le for le in mind.leases if le.kind == "lease" or lease_run(le) not in judged)

    def _reached(self, mind: ExpirerMind) -> frozenset[str]:
        kept = [manifest for manifest in mind.manifests if manifest.name not in mind.tombs]
        reached = {name for manifest in kept for name in manifest.refs}
        counted = self._counted(mind) | mind.abroad
        through = _named(counted)
        reached |= {name for name in mind.data if run_of(name) in through}
        reached |= mind.pinned
        reached |= {name for manifest in mind.manifests if manifest.name in through for name in manifest.refs}
        for manifest in mind.elsewhere:
            if manifest.name not in mind.tombs or not self.rules.expired_here_is_over:
                reached |= manifest.refs
        if self.rules.wal_floor:
            reached |= _wal_kept(mind.data, reached, bool(counted))
        return frozenset(reached)


def _wal_kept(data: frozenset[str], reached: set[str], backup_runs: bool) -> set[str]:
    """WAL from the first segment that anything kept needs; all of it while a backup without a manifest may run."""
    wal = {name for name in data if run_of(name) == "wal"}
    needed = [wal_number(name) for name in wal & reached]
    if backup_runs:
        return wal
    return {name for name in wal if needed and wal_number(name) >= min(needed)}


def _named(leases: Iterable[Thing]) -> frozenset[str]:
    """What leases are for and what they adopt through."""
    leases = list(leases)
    return NOTHING.union(*(lease.via for lease in leases)) | {lease_run(lease) for lease in leases}


def _good(held: Target, rules: Rules) -> set[str]:
    return {name for name in names(held, "manifest") if good(held, name, rules)}
