"""The code beside the model: the same random histories on both, and the same things left after each step.

Backups and their deaths, leases that run out, adoption, targets that were dropped, and whole runs of expiry with no
grace, on targets in folders whose clock the test turns. WAL is left out: the model knows one log and no time.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from drkit.jobs.expire import expire
from drkit.repository.fences import EXPIRE, read_fences
from drkit.repository.layout import RunId
from drkit.repository.leases import Verdict, read_verdict
from policies.retention import Windows
from storage_backends.api import Key, ObjectInfo, Upload
from storage_backends.passthrough import Passthrough, PassthroughUpload
from storage_backends.posix import PosixBackend
from tests.jobs.expire_world import DAY, KEYS, Days, ExpireWorld, Made, WorldClock
from tests.model.expirer import Expirer
from tests.model.explorer import alone
from tests.model.world import PROPOSED, Thing, World, lease_run, names, seems_good
from tests.repository.samples import add_slot

HISTORIES, STEPS = 40, 14


class Clocked(Passthrough):
    """A folder whose clock is the test's."""

    def __init__(self, inner: PosixBackend, clock: WorldClock) -> None:
        super().__init__(inner)
        self._clock = clock
        self._times: dict[str, datetime] = {}

    def create(self, key: Key, size_bytes: int | None = None, *, replacing: ObjectInfo | None = None) -> Upload:
        return _ClockedUpload(self, key, super().create(key, size_bytes, replacing=replacing))

    def stamp(self, info: ObjectInfo) -> ObjectInfo:
        return replace(info, modified_at=self._times.setdefault(info.key, self._clock.now()))

    def stat(self, key: Key) -> ObjectInfo:
        return self.stamp(super().stat(key))

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        return map(self.stamp, super().list(prefix, after))


class _ClockedUpload(PassthroughUpload):
    def __init__(self, clocked: Clocked, key: Key, inner: Upload) -> None:
        super().__init__(inner)
        self._clocked = clocked

    def commit(self) -> ObjectInfo:
        return self._clocked.stamp(super().commit())


class InStep:
    """One history. `made`: by id, which is also the name in the model; a backup's data is one thing there."""

    def __init__(self, root: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.real = ExpireWorld(names=("a", "b"), backends={})
        self.real.grace = timedelta(0)
        self.real.windows = Windows(daily=Days(2), min_full=1)
        for name in self.real.names:
            folder = PosixBackend(root / name, create_root=True)
            self.real.backends[name] = Clocked(folder, self.real.clock)
            add_slot(self.real.target(name), KEYS)
        self.model = World((frozenset(), frozenset()))
        self.made: dict[str, Made] = {}
        self.refs: dict[str, frozenset[str]] = {}
        self.log: list[str] = []

    # --- steps ---

    def backup(self) -> None:
        """One that adopts or does not, reaches some of the targets, dies somewhere or does not."""
        parents = [m for m in self.made.values() if all(seems_good(t, m.id, PROPOSED) for t in self.model.targets)]
        parent = self.rng.choice(parents) if parents and self.rng.random() < 0.6 else None
        self.real.clock.pass_by(self.rng.choice([DAY, DAY, timedelta(hours=5)]))
        self._lapse()
        made = self.real.backup(on=[], adopts=parent)
        self.made[made.id] = made
        own = f"{made.id}/1"
        self.refs[made.id] = frozenset({own}) | (self.refs[parent.id] if parent else frozenset())
        via = frozenset({parent.id} if parent else ())
        for at, name in enumerate(self.real.names):
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
                self.model = self.model.put(at, Thing("confirmed", made.id))

    def _lapse(self) -> None:
        """Every lease is shorter than any pause."""
        for at, held in enumerate(self.model.targets):
            for thing in held:
                if thing.kind == "lease":
                    self.model = self.model.drop(at, thing).put(at, thing._replace(kind="lapsed"))

    def wait(self) -> None:
        self.log.append("an hour goes by")
        self.real.clock.pass_by(timedelta(hours=1))
        self._lapse()

    def expire(self) -> None:
        """Which backups retention is done with is the policy's; what spares them beside others at work, the rules'."""
        if not self.made:
            return
        at = self.rng.randrange(2)
        name = self.real.names[at]
        plans = [one.plan for one in expire(self.real.order(apply=False, only=name), self.real.means())]
        if not plans:
            return  # nothing was ever stored
        plan = plans[0]
        assert plan is not None and not plan.waits, plan
        spared = {i.copy.id for i in plan.items if not i.goes and all("use" in r or "shares" in r for r in i.reasons)}
        removes = frozenset({item.copy.id for item in plan.going} | spared)
        self.log.append(f"expiry on {name}; retention is done with {sorted(removes)}")
        count = len(plan.going)
        for one in expire(self.real.order(removes=count, only=name), self.real.means()):
            assert one.problem is None, one.problem
        self.model = alone(self.model, Expirer("E", PROPOSED, removes, at=at))

    # --- the comparison ---

    def left(self, at: int) -> set[tuple[str, str]]:
        """What the folder holds, in the words of the model."""
        name, layout = self.real.names[at], self.real.layout
        packs = {key.split("/")[3] for key in self.real.keys(name, "packs")}
        assert packs == {key.split("/")[3] for key in self.real.keys(name, "maps")}
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
        fences = read_fences(self.real.target(name), layout, KEYS)
        return found | {("lease", fence.run) for fence in fences if fence.job != EXPIRE}

    def expected(self, at: int) -> set[tuple[str, str]]:
        held = self.model.targets[at]
        kinds = ("data", "manifest", "tombstone", "confirmed", "withdrawn")
        leases = {("lease", lease_run(thing)) for thing in held if thing.kind in ("lease", "lapsed")}
        return {(kind, name) for kind in kinds for name in names(held, kind)} | leases

    def check(self) -> None:
        for at in range(2):
            assert self.left(at) == self.expected(at), "\n".join([*self.log, f"target {at}"])


@pytest.mark.parametrize("seed", range(int(os.environ.get("DRKIT_TEST_HISTORIES", HISTORIES))))
def test_the_code_does_what_the_model_does(tmp_path: Path, seed: int) -> None:
    history = InStep(tmp_path, seed)
    for _ in range(STEPS):
        step = history.rng.choice([history.backup, history.backup, history.wait, history.expire, history.expire])
        step()
        history.check()
