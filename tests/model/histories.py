"""The histories explored: a world, and who acts on it.

`P` and `Q` are backups that existed before; `W` and `X` back up; `R` is a run that was killed; `E` and `F` expire.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.model.copier import Repairer, Replicator
from tests.model.expirer import Expirer
from tests.model.explorer import Actor, Law, Outcome, explore
from tests.model.laws import Laws
from tests.model.world import Rules, Thing, World
from tests.model.writer import Archiver, Clock, Holder, Loss, Reader, Writer


@dataclass(frozen=True, slots=True)
class History:
    """A start and its actors; `holes` are data that the history damaged, `completes` must stay completable on 1."""

    world: World
    actors: Callable[[Rules], Sequence[Actor]]
    holes: frozenset[str] = frozenset()
    completes: str = ""

    def run(self, rules: Rules, bound: int = 400_000) -> Outcome:
        """Explores under all laws."""
        return explore(self.world, self.actors(rules), self.laws(rules).all(), bound)

    def judged(self, rules: Rules, law: Callable[[Laws], Law], bound: int = 400_000) -> Outcome:
        """Explores under one law."""
        return explore(self.world, self.actors(rules), [law(self.laws(rules))], bound)

    def laws(self, rules: Rules) -> Laws:
        """The laws for this history."""
        return Laws(rules, self.holes, self.completes)


def backup(name: str, *refs: str, sound: bool = True) -> list[Thing]:
    """A good backup with its data."""
    kind = "data" if sound else "damaged"
    manifest = Thing("manifest", name, frozenset(refs))
    return [*(Thing(kind, ref) for ref in refs), manifest, Thing("confirmed", name)]


def tombs(*what: str) -> list[Thing]:
    """Tombstones."""
    return [Thing("tombstone", name) for name in what]


def world(*targets: Sequence[Thing], ghosts: str = "") -> World:
    """A start; ghosts as `old P @ 0; ...`: good before the history began."""
    known = frozenset(ghost.strip() for ghost in ghosts.split(";") if ghost)
    return World(tuple(frozenset(target) for target in targets), known)


def hold(of: str, name: str = "H") -> Thing:
    """A hold of a backup."""
    return Thing("hold", name, frozenset({of}))


def writer(rules: Rules, name: str, *via: str, calm: bool = True, wal: str = "") -> Writer:
    """A writer; a calm one loses no acknowledgement."""
    needs = frozenset({wal} if wal else ())
    return Writer(name, rules, frozenset(via), wal=needs, lost_acknowledgements=not calm)


def expirer(rules: Rules, name: str, *removes: str, at: int = 0, rounds: int = 1, leased: bool = False) -> Expirer:
    """An expirer whose retention drops `removes`."""
    return Expirer(name, rules, frozenset(removes), at=at, rounds=rounds, leased=leased)


def _expiring(start: World, *removes: str, rounds: int = 1) -> History:
    """W expires at the source while it is copied, and expiry runs at the destination."""

    def actors(rules: Rules) -> Sequence[Actor]:
        there = expirer(rules, "F", at=1, rounds=rounds)
        return [Replicator("C", "W", rules), expirer(rules, "E", *removes), there, Clock()]

    return History(start, actors)


P = world(backup("P", "P/1"), ghosts="old P @ 0")
PQ = world([*backup("P", "P/1"), *backup("Q", "P/1", "Q/1")], ghosts="old P @ 0; old Q @ 0")
HEIR = world(backup("Q", "P/1"), ghosts="old Q @ 0")
DEAD = world([Thing("data", "R/1"), Thing("lapsed", "R")])
BOTH = world(backup("P", "P/1"), backup("P", "P/1"), ghosts="old P @ 0; old P @ 1")
AHEAD = world(backup("W", "P/1", "W/1"), backup("P", "P/1"), ghosts="promised W @ 0; old P @ 1")
PARTLY = world(
    backup("W", "P/1", "W/1"),
    [Thing("data", "W/1"), Thing("lapsed", "W"), *backup("P", "P/1")],
    ghosts="promised W @ 0; old P @ 1",
)
DROPPED = world(
    [*backup("P", "P/1"), Thing("lease", "W", via=frozenset({"P"}))],
    [Thing("data", "W/1"), Thing("lapsed", "W"), *backup("P", "P/1")],
    ghosts="old P @ 0; old P @ 1",
)
APART = world(
    [*backup("Q", "Q/1"), Thing("data", "P/1"), Thing("data", "W/1"), *tombs("P", "P/1", "W", "W/1")],
    [*backup("W", "P/1", "W/1"), *backup("P", "P/1")],
    ghosts="old Q @ 0; decided P @ 0; old P @ 1; promised W @ 1",
)
WITHDRAWN = world(
    [*backup("Q", "Q/1"), Thing("manifest", "W", frozenset({"W/1"})), Thing("withdrawn", "W")],
    backup("W", "W/1"),
    ghosts="old Q @ 0; promised W @ 1",
)
GONE = world(
    backup("W", "P/1", "W/1"),
    [*backup("P", "P/1"), *tombs("P", "P/1")],
    ghosts="promised W @ 0; decided P @ 1",
)
HURT = world(backup("P", "P/1"), backup("P", "P/1", sound=False), ghosts="old P @ 0; old P @ 1")

ALONE = world(backup("W", "P/1", "W/1"), [], ghosts="promised W @ 0")
WITH_PARENT = world([*backup("W", "P/1", "W/1"), *backup("P", "P/1")], [], ghosts="promised W @ 0; old P @ 0")
PIECES = world(
    backup("W", "P/1", "W/1"),
    [Thing("data", "P/1"), Thing("data", "W/1"), Thing("lapsed", "P")],
    ghosts="promised W @ 0",
)
ON_HOLD = world([*backup("P", "P/1"), hold("P")], [], ghosts="old P @ 0; held P")
RELEASED = world([*backup("P", "P/1"), hold("P"), Thing("release", "H")], [], ghosts="old P @ 0; released P")

HISTORIES = {
    "a backup adopts from one that expires": History(
        P, lambda r: [writer(r, "W", "P", calm=False), expirer(r, "E", "P"), Clock()]
    ),
    "a lease is renewed late": History(P, lambda r: [writer(r, "W", "P"), expirer(r, "E", "P"), Clock(revives=True)]),
    "two rounds of expiry": History(HEIR, lambda r: [writer(r, "W", "Q"), expirer(r, "E", "Q", rounds=2), Clock()]),
    "two expirers of one backup": History(
        P, lambda r: [writer(r, "W", "P"), expirer(r, "E", "P"), expirer(r, "F", "P")]
    ),
    "retention rests on a new backup": History(
        P, lambda r: [writer(r, "W", "P", calm=False), Expirer("E", r, keeps_one=True), Clock()]
    ),
    "a first backup": History(world([]), lambda r: [writer(r, "W", calm=False), expirer(r, "E", rounds=2), Clock()]),
    "a dead run is adopted": History(DEAD, lambda r: [writer(r, "W", "R", calm=False), expirer(r, "E"), Clock()]),
    "a backup adopts from one just made": History(
        P, lambda r: [writer(r, "W", "P"), writer(r, "X", "W"), expirer(r, "E", "P"), Clock(only="W")]
    ),
    "WAL is archived meanwhile": History(
        world([]),
        lambda r: [
            writer(r, "W", wal="wal/1"),
            Archiver("A", ("wal/1", "wal/2"), backup="W"),
            expirer(r, "E"),
            Clock(),
        ],
    ),
    "a restore reads what expires": History(
        P, lambda r: [Reader("S", "P", r), expirer(r, "E", "P"), Reader("T", "P", r)]
    ),
    "a pending target is completed": History(
        AHEAD, lambda r: [Replicator("C", "W", r), expirer(r, "E", "P", at=1), Clock()], completes="W"
    ),
    "a target dropped out of a backup": History(
        PARTLY, lambda r: [Replicator("C", "W", r), expirer(r, "E", at=1), Clock()], completes="W"
    ),
    "a target dropped out of a backup that goes on": History(
        DROPPED, lambda r: [writer(r, "W", "P"), expirer(r, "E", "P", at=1)], completes="W"
    ),
    "a backup, its copy and expiry there": History(
        BOTH, lambda r: [writer(r, "W", "P"), Replicator("C", "W", r), expirer(r, "E", "P", at=1), Clock()]
    ),
    "two targets decided differently": History(APART, lambda r: [Replicator("C", "Q", r), expirer(r, "E", at=1)]),
    "a withdrawal on one target": History(WITHDRAWN, lambda r: [Replicator("C", "Q", r), expirer(r, "E", at=1)]),
    "a copy meets tombstones": History(GONE, lambda r: [Replicator("C", "W", r), expirer(r, "E", "P", at=1)]),
    "two repairers and expiry": History(
        HURT,
        lambda r: [
            Repairer("R", "P", "P/1", r),
            Repairer("S", "P", "P/1", r),
            expirer(r, "E", "P", at=1),
        ],
        holes=frozenset({"P/1"}),
    ),
    "a copy into nothing of what expires": _expiring(ALONE, "W"),
    "a copy of parent and child that expire": _expiring(WITH_PARENT, "W", "P"),
    "a copy beside what a killed backup left": _expiring(PIECES, "W"),
    "a backup is put on hold while it expires": History(
        P, lambda r: [Holder("H", "P", r), expirer(r, "E", "P", leased=True), expirer(r, "F", "P", leased=True)]
    ),
    "a copy of what is on hold, and its source is lost": History(
        ON_HOLD,
        lambda r: [Replicator("C", "P", r), Loss(), Expirer("E", r, frozenset({"P"}), at=1, bereft=True)],
    ),
    "a copy of what was on hold, and its source is lost": History(
        RELEASED, lambda r: [Replicator("C", "P", r), Loss()]
    ),
}

LONG = {
    "a copy into nothing of what expires, two rounds there": _expiring(ALONE, "W", rounds=2),
    "two expirers": History(
        PQ, lambda r: [writer(r, "W", "P", "Q"), expirer(r, "E", "P"), expirer(r, "F", "Q"), Clock()]
    ),
    "a running backup is adopted": History(
        world([]), lambda r: [writer(r, "W"), writer(r, "X", "W"), expirer(r, "E"), Clock()]
    ),
    "a backup adopts from one just made, any lease runs out": History(
        P, lambda r: [writer(r, "W", "P"), writer(r, "X", "W"), expirer(r, "E", "P"), Clock()]
    ),
    "a backup and its copy, expiry on both": History(
        BOTH,
        lambda r: [
            writer(r, "W", "P"),
            Replicator("C", "W", r),
            expirer(r, "E", "P"),
            expirer(r, "F", "P", at=1),
        ],
    ),
}
