"""A restore that is killed before or after any of its effects never starts by half, harms nothing, and can go on.

The laws, after each death: without global/pg_control no server starts, and where it is there, the folder is wholly what
it was or wholly what it shall be; nothing outside of the destination has changed, neither the targets nor the
cluster that the backup is of; the same restore with --delta succeeds and its result is, to the byte, to the mode
and the owner, that of a restore that nobody disturbed, whose server starts.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest

from drkit.jobs.restore_folder import KEPT_CONTROL
from tests.faults.deaths import DIED
from tests.faults.restore_scene import CONTROL, Facts, Scene, State
from tests.real.postgres import new_server, require

pytestmark = pytest.mark.real
OF_EACH_FILE = {"pwrite", "ftruncate", "fchmod", "fchown", "utime"}
STRIDE = int(os.environ.get("DRKIT_TEST_STRIDE", "25"))  # every how many of those some thousand the sweep kills
MEETS = [None, "stale", "half"]
STARTS_EVERY = 100


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    require(15)
    server = new_server(15, segment_mb=1)
    made = None
    try:
        server.set(autovacuum="off")
        made = Scene(server)
        yield made
    finally:
        if made:
            made.close()
        server.close()


def check_laws(scene: Scene, point: int, root: bool, unharmed: Facts, before: State) -> None:
    state = scene.state()
    if CONTROL in state:
        found = {path: facts for path, facts in state.items() if KEPT_CONTROL not in path}  # or its unnamed beginning
        assert found in (scene.reference, before), f"pg_control is there too early, at {point}"
    assert scene.outside() == unharmed, f"at {point}"
    status, _ = scene.restore(delta=True, root=root)
    assert status == 0, f"--delta after a death at {point}"
    assert scene.state() == scene.reference, f"--delta after a death at {point}"
    assert scene.outside() == unharmed, f"at {point}"


def kill_at(scene: Scene, meets: str | None, root: bool, points: Sequence[int]) -> int:
    """Deaths that happened; each was followed by the laws."""
    deaths = 0
    for number, point in enumerate(points):
        scene.reset(meets)
        before, unharmed = scene.state(), scene.outside()
        status, _ = scene.restore(delta=meets is not None, die_at=point, root=root)
        assert status in (0, DIED), f"at {point}"
        deaths += status == DIED
        check_laws(scene, point, root, unharmed, before)
        if number % STARTS_EVERY == STARTS_EVERY - 1:
            scene.check_start()
    return deaths


def effects_of(scene: Scene, meets: str | None, root: bool) -> list[str]:
    """Of a restore that nobody kills."""
    scene.reset(meets)
    status, effects = scene.restore(delta=meets is not None, root=root)
    assert status == 0
    assert scene.state() == scene.reference
    return effects


def points_of(effects: Sequence[str], stride: int) -> list[int]:
    """Before and after every effect; of those that each file has, or its line in a manifest, one in `stride`."""
    chosen, passed = [], 0
    for number, name in enumerate(effects):
        alike = name in OF_EACH_FILE or name == effects[number - 1] == "write"
        passed += alike
        if not alike or passed % stride == 0:
            chosen += [2 * number, 2 * number + 1]
    return chosen


def check_order(effects: Sequence[str]) -> None:
    """What a power cut would tell and a death does not: names come after synced content, pg_control after all."""
    last = len(effects) - effects[::-1].index("syncfs")
    assert not OF_EACH_FILE & set(effects[last:])
    named = [number for number, name in enumerate(effects) if name == "replace"]
    assert named[-1] > last
    assert all(effects[number - 1] == effects[number + 1] == "fsync" for number in named)


@pytest.mark.parametrize("meets", MEETS, ids=lambda name: name or "fresh")
def test_a_restore_killed_at_some_of_its_effects(scene: Scene, meets: str | None) -> None:
    root = meets is None  # where chown is an effect, if we are root
    effects = effects_of(scene, meets, root)
    check_order(effects)
    first = [2 * effects.index(name) + 1 for name in ("unlink", "write")]  # where nothing yet tells whose folder it is
    rng = random.Random(os.environ.get("DRKIT_TEST_SEED", "1"))
    early, late = effects.index("ftruncate"), len(effects) - 60
    ranges = [(0, early), (early, late), (late, len(effects))]
    points = [*first, *(rng.randrange(2 * low, 2 * high) for low, high in ranges)]
    assert kill_at(scene, meets, root, points) >= 4
    if meets == "stale":
        scene.check_start()


@pytest.mark.torture
@pytest.mark.parametrize("meets", MEETS, ids=lambda name: name or "fresh")
def test_a_restore_killed_at_every_effect(scene: Scene, meets: str | None) -> None:
    effects = effects_of(scene, meets, root=True)
    points = points_of(effects, STRIDE)
    deaths = kill_at(scene, meets, True, points)
    print(f"{meets or 'fresh'}: {len(effects)} effects {dict(Counter(effects))}, {deaths} deaths of {len(points)}")
    assert deaths >= 0.95 * len(points)
