"""Two hosts back up, replicate, repair and expire at once, and are killed, or stopped for longer than a lease lasts.

Nothing needed is lost, nothing deleted comes back, holds survive, every good backup restores from its target alone, and
when all is quiet no rubbish is left. DRKIT_TEST_SEED repeats a run's choices (not its timing), DRKIT_TEST_ROUNDS says
how long; DRKIT_TEST_KEEP=1 leaves the server's folder behind.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

import pytest

from drkit.repository.catalogue import Catalogue
from tests.faults.two_hosts import GRACE_S, HOSTS, LEASE_S, Ended, Fate, Lane, Scene
from tests.faults.two_hosts_laws import Laws, stop_of
from tests.real.postgres import new_server, require
from tests.real.rgw import RgwServer

pytestmark = pytest.mark.real

ROUNDS = int(os.environ.get("DRKIT_TEST_ROUNDS", "20"))
LANES = 2
JOBS = 1
_WEIGHTS = {"backup": 4, "replicate": 3, "expire": 4, "repair": 2, "hold": 1}
_USUAL_S = {"backup": 5.0, "replicate": 4.0, "expire": 3.0, "repair": 4.0, "hold": 2.0}
_FATES = ((signal.SIGKILL, 0.3), (signal.SIGSTOP, 0.15))
_ENDS = {
    "backup": {0, 1, 10},  # 1: its leases ran out
    "replicate": {0, 9, 10},  # 9: it met what the test damaged
    "expire": {0, 1, 4},  # 4: somebody else was faster, so the number is another one
    "repair": {0, 9},
    "hold": {0, 5, 10},  # 5, 10: it came too late
}
"""How a job that nobody killed may end among others that do the same: never with an error of its own making."""


@dataclass
class Tally:
    """What happened."""

    jobs: dict[str, int] = field(default_factory=dict)
    kills: int = 0
    stops: int = 0
    damaged: int = 0
    restored: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, lane: str, verb: str, ended: Ended, fate: Fate) -> None:
        with self.lock:
            self.jobs[verb] = self.jobs.get(verb, 0) + 1
            self.kills += ended.met and fate.signal is signal.SIGKILL
            self.stops += ended.met and fate.signal is signal.SIGSTOP
            _USUAL_S[verb] += 0.0 if ended.met else (ended.seconds - _USUAL_S[verb]) / 4
            what = f"{fate.signal.name} after {fate.after_s:.1f} s" if fate.signal and ended.met else "undisturbed"
            lines = ended.err.strip().splitlines()[-6:]
            self.tell(f"{lane} {' '.join(ended.args)}: {ended.status}, {ended.seconds:.1f} s, {what}", *lines)

    def tell(self, line: str, *more: str) -> None:
        """pytest shows it where the test fails, and with -s while it runs."""
        print("\n    ".join([f"{time.strftime('%H:%M:%S')} {line}", *more]), flush=True)


class Torture:
    """Rounds of jobs on both hosts."""

    def __init__(self, scene: Scene, seed: str, lanes: int) -> None:
        self.scene, self.rng = scene, random.Random(seed)
        self.laws, self.tally = Laws(scene), Tally()
        self.lanes = {f"{host}-{n}": scene.lane(host, f"lane-{n}") for host in HOSTS for n in range(lanes)}
        self.readers = {name: scene.lane(f"only-{name}", "reader") for name in scene.names}
        self.quiet = self.lanes[f"{HOSTS[0]}-0"]

    def close(self) -> None:
        for lane in (*self.lanes.values(), *self.readers.values()):
            lane.close()

    # --- jobs ---

    def fate(self, rng: random.Random, verb: str) -> Fate:
        draw, after_s = rng.random(), rng.random() * 1.1
        for number, share in _FATES:
            if draw < share:
                return Fate(number, after_s * _USUAL_S[verb])
            draw -= share
        return Fate()

    def job(self, name: str, lane: Lane, verb: str, fate: Fate, rng: random.Random) -> None:
        do: Callable[[str, Lane, Fate, random.Random], None] = getattr(self, f"_{verb}")
        do(name, lane, fate, rng)

    def _ran(self, name: str, lane: Lane, verb: str, fate: Fate, *args: str) -> Ended:
        ended = lane.run("-q", "--json", *args, fate=fate)
        self.tally.note(name, verb, ended, fate)
        died = ended.met and ended.status == -signal.SIGKILL
        assert died or ended.status in _ENDS[verb], f"{args} on {name}: {ended}"
        return ended

    def _backup(self, name: str, lane: Lane, fate: Fate, rng: random.Random) -> None:
        self._ran(name, lane, "backup", fate, "backup", "--wal-timeout", "60s")

    def _replicate(self, name: str, lane: Lane, fate: Fate, rng: random.Random) -> None:
        self._ran(name, lane, "replicate", fate, "replicate")

    def _repair(self, name: str, lane: Lane, fate: Fate, rng: random.Random) -> None:
        self._ran(name, lane, "repair", fate, "verify", "--repair")

    def _expire(self, name: str, lane: Lane, fate: Fate, rng: random.Random) -> None:
        """The plan, then what it says, as an operator types it."""
        plan = self._ran(name, lane, "expire", Fate(), "expire")
        if not plan.out:
            return
        plans = [one for one in plan.answer()["targets"] if "backups" in one and not one["waits_for"]]
        count = sum(backup["goes"] for one in plans for backup in one["backups"])
        self._ran(name, lane, "expire", fate, "expire", "--apply", "--removes", str(count))

    def _hold(self, name: str, lane: Lane, fate: Fate, rng: random.Random) -> None:
        """One at a time: the older one is released before."""
        with self.tally.lock:
            held, good = list(self.laws.safe), sorted(set[str]().union(*self.laws.good.values()))
            for hold in held:
                self.laws.release(hold)
        for hold in held:
            self._ran(name, lane, "hold", Fate(), "hold", "release", hold)
        if not good:
            return
        ended = self._ran(name, lane, "hold", fate, "hold", "add", rng.choice(good), "--reason", "torture")
        if ended.status in (0, 10):
            answer = ended.answer()
            with self.tally.lock:
                self.laws.safe[answer["hold"]["id"]] = (answer["hold"]["backup"], tuple(answer["safe"]))

    # --- a round ---

    def round(self, number: int) -> None:
        self.tally.tell(f"round {number}")
        if self.rng.random() < 0.5:
            done = self.laws.damage(self.rng)
            self.tally.damaged += bool(done)
            self.tally.tell(done or "nothing to damage")
        with self.scene.ledger.load():
            self._all_lanes(number)
        self.look(number)

    def _all_lanes(self, number: int) -> None:
        ended: list[BaseException] = []

        def work(name: str, lane: Lane, seed: int) -> None:
            rng = random.Random(seed)
            try:
                for _ in range(JOBS):
                    verb = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
                    if number == 0:
                        verb = "backup"
                    self.job(name, lane, verb, self.fate(rng, verb), rng)
            except BaseException as error:  # noqa: BLE001  a thread root: raised below
                ended.append(error)

        threads = [
            threading.Thread(target=work, args=(name, lane, self.rng.randrange(1 << 30)))
            for name, lane in self.lanes.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if ended:
            raise ended[0]

    def look(self, number: int) -> None:
        catalogue = self.laws.look()
        self.tally.tell(f"good: {counts(self.laws.good)}, expired: {counts(self.laws.gone)}")
        if number % 3 == 2:
            catalogue = self.repair()
        self.restore_one(catalogue, self.rng.choice(self.scene.names))

    def restore_one(self, catalogue: Catalogue, name: str) -> None:
        whole = [b for b in catalogue.backups if name in b.good_on and not self.laws.touched(b, name)]
        if whole:
            one = self.rng.choice(whole)
            self.tally.tell(f"restore {one.summary.backup} from {name}")
            self.scene.restore(self.readers[name], one.summary.backup, stop_of(one))
            self.tally.restored += 1

    def repair(self) -> Catalogue:
        """While nobody works everything that can be mended is."""
        for verb in ("repair", "replicate"):
            self.job("quiet", self.quiet, verb, Fate(), self.rng)
        found = self._ran("quiet", self.quiet, "repair", Fate(), "verify", "--repair").answer()["findings"]
        catalogue = self.laws.look()
        self.laws.mended(catalogue, found)
        return catalogue

    # --- the end ---

    def finish(self) -> None:
        """All quiet: leases run out, holds are released, graces pass; then nothing is left that nothing reaches."""
        for hold in sorted(self.laws.in_force()):
            assert self.quiet.run("-q", "hold", "release", hold).status == 0
        self.laws.safe.clear()
        self.repair()
        end = time.monotonic() + 12 * (LEASE_S + GRACE_S)
        while True:
            self.job("quiet", self.quiet, "expire", Fate(), self.rng)
            catalogue = self.laws.look()
            left = {name: sorted(self.laws.rubbish(name, catalogue)) for name in self.scene.names}
            if not any(left.values()):
                break
            assert time.monotonic() < end, f"rubbish is left: {left}"
            time.sleep(1)  # graces and leases are times of the stores' clocks, and nothing tells when they are over
        for name in self.scene.names:
            assert not self.laws.gone[name] & self.scene.keys(name), "what was deleted came back, and stayed"
            assert self.laws.good[name], "some were good"
            self.restore_one(catalogue, name)
        done = self.quiet.run("-q", "verify")
        assert done.status == (9 if any(self.laws.hurt.values()) else 0), done.out + done.err


def torture(scene: Scene, rounds: int, lanes: int = LANES) -> None:
    """lanes: jobs at once on each host."""
    seed = os.environ.get("DRKIT_TEST_SEED") or str(random.randrange(1 << 30))
    print(f"DRKIT_TEST_SEED={seed} DRKIT_TEST_ROUNDS={rounds}")
    one = Torture(scene, seed, lanes)
    try:
        for number in range(rounds):
            one.round(number)
        one.finish()
    finally:
        one.close()
        told, laws = one.tally, one.laws
        print(f"{rounds} rounds, jobs {told.jobs}, {told.kills} killed, {told.stops} stopped past their lease,")
        print(f"{told.damaged} objects damaged, {told.restored} restores checked,")
        print(f"expired: {counts(laws.gone)}, and seen again meanwhile: {counts(laws.returned)}")
    assert told.restored and (rounds < 10 or all(laws.gone.values())), "what was not tried proves nothing"


def counts(table: Mapping[str, Collection[str]]) -> dict[str, int]:
    return {name: len(found) for name, found in table.items()}


def _scene(rgw: RgwServer | None) -> Iterator[Scene]:
    require(15)
    server = new_server(15, segment_mb=1)
    try:
        made = Scene(server, rgw)
        made.start()
        yield made
    finally:
        if os.environ.get("DRKIT_TEST_KEEP"):
            server.stop("immediate")
        else:
            server.close()


@pytest.fixture
def folders() -> Iterator[Scene]:
    yield from _scene(None)


@pytest.fixture
def bucket(rgw: RgwServer) -> Iterator[Scene]:
    yield from _scene(rgw)


def test_two_hosts_for_two_rounds(folders: Scene) -> None:
    torture(folders, 2, lanes=1)


@pytest.mark.torture
def test_two_hosts_on_folders(folders: Scene) -> None:
    torture(folders, ROUNDS)


@pytest.mark.torture
def test_two_hosts_on_a_folder_and_a_bucket(bucket: Scene) -> None:
    torture(bucket, ROUNDS)
