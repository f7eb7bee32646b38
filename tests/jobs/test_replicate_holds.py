"""Holds travel with replication: before any backup, releases first, and none that was released comes back in force."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from drkit.repository.holds import Hold, Holds, add_hold, hold_key, read_holds, release_hold
from drkit.repository.repository import Repository
from storage_backends.memory import MemoryBackend
from storage_backends.trace import Event, Traced
from tests.crypto.rings import seeded
from tests.jobs.replicate_world import Copies
from tests.repository.samples import LAYOUT, Sample

KEPT, GONE = "20260301T000000Z-00000001", "20260301T000000Z-00000002"
AT = datetime(2026, 3, 1, tzinfo=UTC)


class Died(BaseException):
    """The process is gone."""


def world(root: Path) -> tuple[Copies, Sample]:
    """A backup on `a` with two holds, one of them released; `b` is new."""
    copies = Copies(root, {"a": MemoryBackend("a"), "b": MemoryBackend("b")})
    one = copies.sample(1)
    copies.store(one, "a")
    for number, ident in enumerate((KEPT, GONE)):
        hold = Hold(ident, str(one.run), None, "audit", AT)
        add_hold(on(copies, "a"), LAYOUT, hold, entropy=seeded(200 + number))
    release_hold(on(copies, "a"), LAYOUT, GONE, now=AT, entropy=seeded(202))
    return copies, one


def on(copies: Copies, *names: str) -> Repository:
    repository = copies.repository()
    return replace(repository, targets=tuple(copies.target(name) for name in names))


def in_force(copies: Copies, *names: str) -> list[str]:
    found: Holds = read_holds(on(copies, *names), LAYOUT)
    return [hold.id for hold in found.holds]


def test_a_new_target_has_the_holds_when_the_others_are_lost(tmp_path: Path) -> None:
    copies, _ = world(tmp_path)
    assert sum(gap.objects.get("b", 0) for gap in copies.plan().systems[0].gaps if "holds" in gap.prefix) == 3
    done = copies.replicate()
    assert done.outcomes["b"].account.objects["hold"] == 3
    assert copies.content("a") == copies.content("b")
    assert in_force(copies, "b") == [KEPT]
    assert not copies.replicate().outcomes["b"].account.objects


def test_killed_at_any_effect_no_backup_is_without_its_hold_and_no_hold_without_its_release(tmp_path: Path) -> None:
    at, completed = 0, False
    while not completed:
        at += 1
        copies, one = world(tmp_path / str(at))
        inner, effects = copies.backends["b"], [0]

        def die(event: Event, effects: list[int] = effects, at: int = at) -> None:
            if event.verb in ("commit", "delete"):
                effects[0] += 1
            if effects[0] >= at:
                raise Died

        copies.backends["b"] = Traced(inner, die, clock=lambda: 0.0)
        try:
            copies.replicate(workers=1)
            completed = True
        except (Died, BaseExceptionGroup):
            pass
        copies.backends["b"] = inner
        assert GONE not in in_force(copies, "b")
        assert KEPT in in_force(copies, "b") or str(one.key) not in copies.keys("b")
        copies.replicate()
        assert in_force(copies, "b") == [KEPT] and copies.content("a") == copies.content("b")
    assert at > 10


def test_released_on_one_target_it_is_released_on_all(tmp_path: Path) -> None:
    """The release was made while the others were away."""
    copies, _ = world(tmp_path)
    copies.replicate()
    release_hold(on(copies, "b"), LAYOUT, KEPT, now=AT, entropy=seeded(203))
    assert in_force(copies, "a") == [KEPT]
    copies.replicate()
    assert in_force(copies, "a") == in_force(copies, "b") == []


@pytest.mark.parametrize("first", ["a", "b"])
def test_two_releases_in_different_bytes_are_no_conflict(tmp_path: Path, first: str) -> None:
    copies, _ = world(tmp_path)
    copies.replicate()
    for number, name in enumerate((first, "b" if first == "a" else "a")):
        release_hold(on(copies, name), LAYOUT, KEPT, now=AT, entropy=seeded(300 + number))
    key = hold_key(LAYOUT, KEPT, "release")
    assert copies.target("a").read(key) != copies.target("b").read(key)
    done = copies.replicate()
    assert not done.outcomes["b"].account.refused and not done.plan.differences.conflicts


def test_a_hold_whose_release_is_damaged_everywhere_is_not_copied_alone(tmp_path: Path) -> None:
    copies, one = world(tmp_path)
    key = hold_key(LAYOUT, GONE, "release")
    data = copies.target("a").read(key)
    copies.backends["a"].delete(key)
    copies.target("a").write(key, [data[:-40], bytes(40)], len(data))
    done = copies.replicate()
    assert key in done.outcomes["b"].account.lost
    assert in_force(copies, "b") == [KEPT] and str(one.key) in copies.keys("b")
