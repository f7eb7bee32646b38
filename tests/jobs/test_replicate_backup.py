"""One backup to one target: the lease, what is relied on, and what tombstones do to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from drkit.crypto.container import open_object
from drkit.repository.catalogue import State
from drkit.repository.layout import Kind
from storage_backends.api import Key, StorageBackend
from storage_backends.faulty import Faulty
from storage_backends.memory import MemoryBackend
from tests.jobs.replicate_world import Copies
from tests.repository.samples import bury


@pytest.fixture
def copies(tmp_path: Path) -> Copies:
    return Copies(tmp_path, {"a": MemoryBackend("a"), "b": MemoryBackend("b")})


def is_clean(copies: Copies, *names: str) -> bool:
    return not any(copies.leases(name) for name in names)


def test_a_replicator_that_was_stopped_past_its_lease_makes_no_manifest(copies: Copies) -> None:
    one = copies.sample(1)
    copies.store(one, "a")
    real = copies.clock
    inner = copies.backends["b"]

    class Stops(Faulty):
        """An hour passes while a map is written."""

        def before(self, verb: str, key: str) -> str:
            if verb == "commit" and "/maps/" in key:
                real.advance(3600)
            return super().before(verb, key)

    copies.backends["b"] = Stops(inner)
    done = copies.replicate()
    copies.backends["b"] = inner
    assert str(one.key) not in copies.keys("b")
    assert "lease ran out" in done.outcomes["b"].left[0].why
    copies.replicate()
    assert copies.state(one, "b") is State.GOOD


class Watched(Faulty):
    """Calls `look` before each commit below `part`."""

    def __init__(self, inner: StorageBackend, part: str, look: Callable[[], None]) -> None:
        super().__init__(inner)
        self._part, self._look = part, look

    def before(self, verb: str, key: str) -> str:
        if verb == "commit" and self._part in key:
            self._look()
        return super().before(verb, key)


def test_the_lease_names_every_run_whose_data_is_copied(copies: Copies) -> None:
    """Until the manifest stands, nothing else tells expiry there that the parent's data is needed."""
    parent = copies.sample(1)
    heir = copies.heir(parent, 2)
    copies.store(heir, "a")
    seen: list[tuple[object, object, object]] = []
    inner = copies.backends["b"]

    def look() -> None:
        for key in copies.leases("b"):
            value = open_object(copies.ring, copies.target("b").read(Key(key)), kind=Kind.LEASE, name=key).json
            seen.append((value["job"], value["run"], value["via"]))

    copies.backends["b"] = Watched(inner, "/manifests/", look)
    copies.replicate()
    assert seen == [("replicate", str(heir.run), [str(parent.run)])]
    assert copies.state(heir, "b") is State.GOOD and is_clean(copies, "b")


def test_what_is_relied_on_must_have_no_tombstone(copies: Copies) -> None:
    """Whoever tombstoned the run may have looked at leases before ours was there, and delete its data at any time."""
    parent = copies.sample(1)
    heir = copies.heir(parent, 2)
    copies.store(heir, "a")
    copies.store(parent, "b", manifest=False, good=False)
    bury(copies.target("b"), parent.key, ring_=copies.ring)
    done = copies.replicate()
    assert copies.state(heir, "b") is State.PENDING and str(heir.key) not in copies.keys("b")
    assert "is to go" in done.outcomes["b"].left[0].why and is_clean(copies, "b")


def test_what_a_good_backup_reaches_may_be_relied_on_whatever_became_of_its_writer(copies: Copies) -> None:
    parent = copies.sample(1)
    heir, sibling = copies.heir(parent, 2), copies.heir(parent, 3)
    copies.store(heir, "a")
    copies.store(sibling, "b")
    bury(copies.target("b"), parent.key, ring_=copies.ring)
    done = copies.replicate(to=["b"])
    assert copies.state(heir, "b") is State.GOOD
    assert done.outcomes["b"].account.objects == {"packs": 1, "maps": 1, "fingerprints": 1, "manifests": 1}


def test_a_tombstone_that_comes_while_it_copies_withdraws_it(copies: Copies) -> None:
    parent = copies.sample(1)
    heir = copies.heir(parent, 2)
    copies.store(heir, "a")
    copies.store(parent, "b")
    inner = copies.backends["b"]

    def entomb() -> None:
        bury(copies.target("b"), parent.key, ring_=copies.ring)

    copies.backends["b"] = Watched(inner, "/manifests/", entomb)
    copies.replicate(to=["b"])
    assert copies.state(heir, "b") is State.WITHDRAWN and is_clean(copies, "b")
