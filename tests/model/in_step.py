"""One history on the model and on real targets at once: each step is done to both, by the built code and by the actors.

A backup's data is one thing in the model, a pack and a map on a target. WAL is left out of the comparison: the model
knows one log and no time. Which backups retention is done with is the policy's to say, and is taken from its plan; what
spares them beside others at work, what gets a tombstone and when it goes, is asked of both.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from drkit.core.cancel import CancelToken
from drkit.core.errors import Missing
from drkit.core.log import NoLog
from drkit.core.progress import Silent
from drkit.jobs.expire import expire
from drkit.jobs.hold import put_on_hold
from drkit.jobs.replicate import ReplicateOrder, replicate
from drkit.jobs.verify import Surroundings, verify
from drkit.jobs.verify_facts import Ground, VerifyOrder
from drkit.repository.fences import EXPIRE, read_fences
from drkit.repository.holds import release_hold
from drkit.repository.layout import Kind, RunId
from drkit.repository.leases import Verdict, read_verdict
from policies.retention import Windows
from storage_backends.api import Key, StorageBackend
from storage_backends.errors import Unavailable
from storage_backends.memory import MemoryBackend
from storage_backends.posix import PosixBackend
from tests.jobs.expire_world import DAY, KEYS, Days, ExpireWorld, Hooked, Made, plain
from tests.jobs.wal_world import flip as damage
from tests.model.clocked import Clocked
from tests.model.copier import Repairer, Replicator, ReplicatorMind, held_there
from tests.model.expirer import Expirer, ExpirerMind
from tests.model.explorer import Mind, alone
from tests.model.laws import Laws
from tests.model.world import (
    PROPOSED,
    Target,
    Thing,
    World,
    good,
    holds_in_force,
    lease_run,
    manifest_of,
    names,
    run_of,
    things,
)
from tests.repository.samples import add_slot

SPARED = ("in use", "shares its data", "on hold", "is damaged: a repair")
"""How the reasons begin, or what they hold, for which a backup stays though no window wants it."""


class Died(BaseException):
    """The process is gone."""


class InStep:
    """One history. `made`: by id, which is also the name in the model; `away`: the target that cannot be reached."""

    def __init__(self, root: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.root = root
        self.real = ExpireWorld(names=("a", "b"), backends={})
        self.real.grace = self.rng.choice([timedelta(0), timedelta(hours=30)])
        self.real.windows = Windows(daily=Days(2), min_full=1)
        for name in self.real.names:
            self.real.backends[name] = self._backend(name)
            add_slot(self.real.target(name), KEYS)
        self.model = World((frozenset(), frozenset()))
        self.made: dict[str, Made] = {}
        self.refs: dict[str, frozenset[str]] = {}
        self.since: dict[tuple[int, str], datetime] = {}  # when a tombstone came
        self.holes: frozenset[str] = frozenset()
        self.away = ""
        self.log: list[str] = [f"grace {self.real.grace}"]

    def _backend(self, name: str) -> StorageBackend:
        if self.rng.random() < 0.5:
            return MemoryBackend(name, clock=self.real.clock.now)
        return Clocked(PosixBackend(self.root / name, create_root=True), self.real.clock)

    def _reached(self) -> list[tuple[int, str]]:
        """Targets that can be asked, with their places in the model."""
        return [(at, name) for at, name in enumerate(self.real.names) if name != self.away]

    # --- backups, time, absence ---

    def backup(self) -> None:
        """One that adopts or does not, reaches some of the targets, dies somewhere or does not."""
        there = [self.model.targets[at] for at, _ in self._reached()]
        parents = [m for m in self.made.values() if all(good(held, m.id, PROPOSED) for held in there)]
        parent = self.rng.choice(parents) if parents and self.rng.random() < 0.6 else None
        self.real.clock.pass_by(self.rng.choice([DAY, DAY, timedelta(hours=5)]))
        self._lapse()
        made = self.real.backup(on=[], adopts=parent)
        self.made[made.id] = made
        own = f"{made.id}/1"
        self.refs[made.id] = frozenset({own}) | (self.refs[parent.id] if parent else frozenset())
        via = frozenset({parent.id} if parent else ())
        for at, name in self._reached():
            until = self.rng.choice(["verdict", "verdict", "verdict", "manifest", "data", "nothing"])
            kept = until != "verdict" and self.rng.random() < 0.6
            self.log.append(f"{made.id} through {sorted(via)} until {until} on {name}{', lease stays' if kept else ''}")
            if kept:
                self.real.lease(name, made.run, *([parent] if parent else []))
                self.model = self.model.put(at, Thing("lease", made.id, via=via))
            if until == "nothing":
                continue
            for file in made.wal:
                self.real.archive_again(file, name)
            self.real.store(made, name, until)
            self.model = self.model.put(at, Thing("data", own))
            if until != "data":
                self.model = self.model.put(at, Thing("manifest", made.id, self.refs[made.id], via))
            if until == "verdict":
                self.model = self.model.put(at, Thing("confirmed", made.id)).note(f"promised {made.id} @ {at}")

    def wait(self) -> None:
        self.log.append("an hour goes by")
        self.real.clock.pass_by(timedelta(hours=1))
        self._lapse()

    def _lapse(self) -> None:
        """Every lease is shorter than any pause."""
        for at, held in enumerate(self.model.targets):
            for thing in things(held, "lease"):
                self.model = self.model.drop(at, thing).put(at, thing._replace(kind="lapsed"))

    def leave(self) -> None:
        """A target goes away, or comes back."""
        self.away = "" if self.away else self.rng.choice(self.real.names)
        self.log.append(f"away: {self.away or 'none'}")
        self.real.left_out = {self.away: Unavailable("it is away", where=self.away)} if self.away else {}

    # --- deaths: what both are to do before they end ---

    def _dying(self, verb: str, parts: tuple[str, ...]) -> None:
        """From now on every effect fails from the first one on that is `verb` of a key with one of these parts."""
        dead = False

        def before(done: str, key: str) -> None:
            nonlocal dead
            if done == "list" and not dead:
                return
            dead = dead or (done == verb and key.startswith(self.real.layout.root) and any(p in key for p in parts))
            if dead:
                raise Died

        self.real.wrap = lambda name, backend: Hooked(backend, before)

    def _until_death(self, job: Callable[[], object]) -> None:
        try:
            job()
        except (Died, BaseExceptionGroup) as error:
            assert isinstance(error, Died) or error.split(Died)[1] is None, error
        finally:
            self.real.wrap = plain

    # --- expiry ---

    def expire(self) -> None:
        """A run on one target, perhaps killed before its first tombstones, or before it deletes."""
        if not self.made:
            return
        at, name = self.rng.choice(self._reached())
        plans = [one.plan for one in expire(self.real.order(apply=False, only=name), self.real.means())]
        plan = next((one for one in plans if one is not None), None)
        if plan is None:
            return  # nothing was ever stored
        assert bool(plan.waits) == bool(self.away), plan.waits
        spared = {i.copy.id for i in plan.items if not i.goes and all(any(s in r for s in SPARED) for r in i.reasons)}
        removes = frozenset({item.copy.id for item in plan.going} | spared)
        count = 0 if plan.waits else len(plan.going)
        end = self.rng.choice(["", "", "", "bury", "delete"])
        self.log.append(f"expiry on {name}; retention is done with {sorted(removes)}{end and ', dies before ' + end}")
        by = self.real.clock.now() - self.real.grace
        ripe = frozenset(tomb for (where, tomb), since in self.since.items() if where == at and since <= by)
        actor = Expirer("E", PROPOSED, removes, at=at, due=ripe if self.real.grace else None, blind=bool(self.away))
        died: list[bool] = []

        def dies(mind: Mind) -> bool:
            died.append(_step(mind) in {"bury": ("bury", "entomb"), "delete": ("delete",)}.get(end, ()))
            return died[-1]

        self.model = alone(self.model, actor, dies=dies)
        if any(died):  # where the model has nothing to bury the code may have WAL, of which the model knows nothing
            self._dying("create" if end == "bury" else "delete", ("/tombstones/",) if end == "bury" else ("/",))

        def job() -> None:
            for one in expire(self.real.order(removes=count, only=name), self.real.means()):
                assert one.problem is None or self.away, one.problem

        self._until_death(job)
        for tomb in names(self.model.targets[at], "tombstone"):
            self.since.setdefault((at, tomb), self.real.clock.now())

    # --- replication ---

    def replicate(self) -> None:
        """To one target, perhaps killed before the first manifest, verdict, or end of a lease."""
        at, name = self.rng.choice(self._reached())
        end = self.rng.choice(["", "", "", "manifest", "confirm", "release"])
        self.log.append(f"replication to {name}{end and ', dies before ' + end}")
        parts = {"manifest": "/manifests/", "confirm": "/verdicts/", "release": "/leases/"}
        if end:
            self._dying("delete" if end == "release" else "create", (parts[end],))
        order = ReplicateOrder(None, (), (name,), "here", self.root / "spool", 1)

        def job() -> None:
            assert replicate(order, self.real.means()).outcomes[name].failed is None

        self._until_death(job)
        if self.away:
            return  # there is no source
        for thing in held_there(self.model.targets[1 - at], PROPOSED):
            self.model = self.model.put(at, thing)
        stops = {"confirm": ("confirm", "withdraw")}.get(end, (end,) if end else ())
        for ident in reversed(list(self.made)):
            ended: list[bool] = []

            def dies(mind: Mind, ended: list[bool] = ended) -> bool:
                ended.append(_step(mind) in stops)
                return ended[-1]

            self.model = alone(self.model, Replicator(f"C{len(self.log)}", ident, PROPOSED, 1 - at, at), dies=dies)
            if any(ended):
                return

    # --- damage and repair ---

    def hurt(self) -> None:
        """Data of one backup on one target is flipped or lost, or a hold is; then, mostly, a repair comes."""
        at, name = self.rng.choice(self._reached())
        held = self.model.targets[at]
        if things(held, "hold") and self.rng.random() < 0.3:
            thing = self.rng.choice(sorted(things(held, "hold") | things(held, "release")))
            self.log.append(f"the {thing.kind} {thing.name} is lost on {name}")
            self.real.backends[name].delete(Key(f"{self.real.layout.folder('holds')}{thing.name}.{thing.kind}"))
            self.model = self.model.drop(at, thing)
            self._unhold()
        elif names(held, "data"):
            data = self.rng.choice(sorted(names(held, "data")))
            flip = self.rng.random() < 0.5
            self.log.append(f"{data} is {'damaged' if flip else 'lost'} on {name}")
            ident = RunId.parse(run_of(data)).binary + bytes(4)
            # A loss takes the fingerprints too: by them alone the code would know of the run.
            for kind in (Kind.PACK, Kind.MAP) if flip else (Kind.PACK, Kind.MAP, Kind.FINGERPRINTS):
                key = self.real.layout.data(kind, ident)
                damage(self.real.backends[name], key) if flip else self.real.backends[name].delete(key)
            self.model = self.model.drop(at, Thing("data", data))
            self.model = self.model.put(at, Thing("damaged", data)) if flip else self.model
            self.holes |= {data}
            self._unpromise()
            if flip or self.rng.random() < 0.5:
                self.repair()  # of a flip nobody knows before somebody looked

    def _unpromise(self) -> None:
        """What is damaged was promised in vain, until it is mended."""
        for ghost in sorted(self.model.ghosts):
            kind, _, what = ghost.partition(" ")
            backup, _, at = what.partition(" @ ")
            if kind == "promised" and not good(self.model.targets[int(at)], backup, PROPOSED):
                self.model = self.model.unnote(ghost)

    def repair(self) -> None:
        """`drkit verify --repair` of all that can be reached."""
        self.log.append("repair")
        self.real.clock.pass_by(timedelta(seconds=1))  # evidence is told apart by its time
        means = self.real.means()
        ground = Ground(
            KEYS.repository, KEYS.key_id(1), means.repository.targets, means.repository.absent, {}, means.repository, ""
        )
        order = VerifyOrder("", frozenset(), False, 1.0, True, 1, "here", self.root / "spool" / "damaged")
        verify(order, ground, Surroundings(means.clock, os.urandom, CancelToken(), Silent(), NoLog()))
        self._repair_model()

    def _repair_model(self) -> None:
        targets = [self.model.targets[at] for at, _ in self._reached()]
        shared = frozenset[Thing]().union(*(things(held, kind) for held in targets for kind in ("hold", "release")))
        for at, _ in self._reached():
            self.model = self.model.put(at, *shared)
            if self.away:
                continue
            held = self.model.targets[at]
            for data in sorted(frozenset[str]().union(*self.refs.values()) - names(held, "data")):
                for backup in self._needing(targets, data):
                    self.model = alone(self.model, Repairer("R", backup, data, PROPOSED, 1 - at, at))

    def _needing(self, targets: list[Target], data: str) -> list[str]:
        """Backups that are to be whole on some target and need it; one of no name where there is none."""
        found = {
            manifest.name
            for held in targets
            for manifest in things(held, "manifest")
            if data in manifest.refs
            and Thing("confirmed", manifest.name) in held
            and manifest.name not in names(held, "tombstone")
        }
        return sorted(found) or [""]

    # --- holds ---

    def hold(self) -> None:
        """Of a backup that some target has, tombstone or not."""
        known = [one for one in self.made if any(manifest_of(held, one) for held in self.model.targets)]
        if not known:
            return
        backup = self.rng.choice(known)
        before = {key for name in self.real.names for key in self.real.keys(name, "holds")}
        with suppress(Missing):  # it came too late; its object is there all the same
            put_on_hold(self.real.means(), self.real.layout, backup, None, "", 0)
        new = {key for name in self.real.names for key in self.real.keys(name, "holds")} - before
        (ident,) = {key.rpartition("/")[2].removesuffix(".hold") for key in new}
        self.log.append(f"hold {ident} of {backup}")
        for at, _ in self._reached():
            self.model = self.model.put(at, Thing("hold", ident, frozenset({backup})))
        if not any(backup in names(held, "tombstone") for held in self.model.targets):
            self.model = self.model.note(f"held {backup}")

    def release(self) -> None:
        known = sorted({thing for at, _ in self._reached() for thing in things(self.model.targets[at], "hold")})
        if not known:
            return
        thing = self.rng.choice(known)
        self.log.append(f"release of {thing.name}")
        means = self.real.means()
        release_hold(means.repository, self.real.layout, thing.name, now=means.clock.now(), entropy=os.urandom)
        for at, _ in self._reached():
            self.model = self.model.put(at, Thing("release", thing.name))
        self._unhold()

    def _unhold(self) -> None:
        """What was released, or lost on every target, holds no more."""
        for ghost in [ghost for ghost in self.model.ghosts if ghost.startswith("held ")]:
            if ghost.removeprefix("held ") not in holds_in_force(self.model.targets):
                self.model = self.model.unnote(ghost)

    # --- the comparison ---

    def left(self, at: int) -> set[tuple[str, str]]:
        """What a target holds, in the words of the model."""
        name, layout = self.real.names[at], self.real.layout
        packs = {key.split("/")[3] for key in self.real.keys(name, "packs")}
        assert packs == {key.split("/")[3] for key in self.real.keys(name, "maps")}, self.log
        found = {("data", f"{run}/1") for run in packs}
        found |= {("manifest", key.rpartition("/")[2]) for key in self.real.keys(name, "manifests")}
        for key in self.real.buried(name):
            parts = key.split("/")
            if parts[2] == "manifests":
                found.add(("tombstone", parts[3]))
            elif parts[2] in ("packs", "maps"):
                found.add(("tombstone", f"{parts[3]}/1"))
        for key in self.real.keys(name, "verdicts"):
            run = key.rpartition("/")[2]
            verdict = read_verdict(self.real.target(name), layout, RunId.parse(run), KEYS)
            found.add(("confirmed" if verdict is Verdict.GOOD else "withdrawn", run))
        for key in self.real.keys(name, "holds"):
            ident, _, what = key.rpartition("/")[2].partition(".")
            found.add((what, ident))
        fences = read_fences(self.real.target(name), layout, KEYS)
        return found | {("lease", fence.run) for fence in fences if fence.job != EXPIRE}

    def expected(self, at: int) -> set[tuple[str, str]]:
        held = self.model.targets[at]
        kinds = ("data", "manifest", "tombstone", "confirmed", "withdrawn", "hold", "release")
        leases = {("lease", lease_run(thing)) for thing in held if thing.kind in ("lease", "lapsed")}
        damaged = {("data", name) for name in names(held, "damaged")}
        return {(kind, name) for kind in kinds for name in names(held, kind)} | leases | damaged

    def check(self) -> None:
        """The same things are there, the same backups are good, and the model keeps its laws."""
        for at, name in enumerate(self.real.names):
            real, model = self.left(at), self.expected(at)
            told = [*self.log, f"target {name}: only real {sorted(real - model)}, only model {sorted(model - real)}"]
            assert real == model, "\n".join(told)
        for at, name in self._reached():
            fine = {backup for backup in self.made if good(self.model.targets[at], backup, PROPOSED)}
            seen = self.real.good(name)
            assert seen == fine, "\n".join([*self.log, f"good on {name}: {sorted(seen)}, model {sorted(fine)}"])
        laws = Laws(PROPOSED, self.holes)
        for law in (laws.whole, laws.kept, laws.buried, laws.unreported, laws.on_hold):
            broken = law(self.model)
            assert broken is None, "\n".join([*self.log, broken])


def _step(mind: Mind) -> str:
    assert isinstance(mind, ExpirerMind | ReplicatorMind)
    return mind.at
