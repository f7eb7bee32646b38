"""A replication that is killed before or after any of its effects on disk leaves nothing that lies, and blocks nobody.

The laws, after each death: every backup that is good on a target has its whole closure there, sound to the byte;
nothing else that is visible is damaged; the next replication completes and makes the targets equal.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from drkit.cli.app import main
from drkit.crypto.container import check_digest, parse_open_section
from drkit.crypto.keys import parse_key_file
from drkit.crypto.slots import Secret
from drkit.repository.layout import Kind
from drkit.repository.leases import Verdict, read_verdict
from drkit.repository.manifest import unpack_references
from drkit.repository.pins import Pins
from drkit.repository.repository import Repository, open_repository
from drkit.repository.target import Target
from storage_backends.api import Key
from storage_backends.posix import PosixBackend
from tests.faults.deaths import DIED, Mortal
from tests.repository.samples import LAYOUT, Sample, judged, posix_target, sample

PARTS = 4
BACKUPS = 2


class Scene:
    """Targets a and b in folders; `a` has all, `b` is what `init` made of it, again before each history."""

    def __init__(self, root: Path) -> None:
        self.root, self.config = root, root / "drkit.toml"
        text = f'[keys]\nfile = "{root}/key"\n[daemon]\nspool = "{root}/spool"\n[cluster.orders]\n'
        text += 'connection = "host=/nowhere"\ndata_dir = "/nowhere"\n'
        for name in "ab":
            text += f'[target.{name}]\nurl = "file://{root}/{name}"\nsite = "{name}"\n'
        self.config.write_text(text)
        self.config.chmod(0o600)
        assert main(["--config", str(self.config), "-q", "init", "--yes"]) == 0
        self.samples = [self._backup(seed) for seed in range(1, BACKUPS + 1)]
        shutil.copytree(root / "b", root / "b.new")
        self._mortal = Mortal(None)

    def _backup(self, seed: int) -> Sample:
        ring = self.repository().ring
        one = sample(ring, seed)
        one.store(self.target("a"), good=False)
        assert judged(self.target("a"), one.run, Verdict.GOOD, ring) is Verdict.GOOD
        return one

    def target(self, name: str) -> Target:
        return posix_target(self.root, name)

    def repository(self) -> Repository:
        secret = Secret("keyfile", parse_key_file((self.root / "key").read_text(), "key"), "key")
        targets = [self.target(name) for name in "ab"]
        return open_repository(targets, {}, secret, Pins(self.root / "nowhere"), entropy=os.urandom)

    def reset(self) -> None:
        shutil.rmtree(self.root / "b")
        shutil.copytree(self.root / "b.new", self.root / "b")

    def replicate(self, die_at: int = -1) -> tuple[int, int]:
        """(exit status, points at which it could have died)."""
        status, effects = self._mortal.run("--config", self.config, "-q", "replicate", die_at=die_at)
        return status, 2 * len(effects)

    def close(self) -> None:
        self._mortal.close()

    # --- the laws ---

    def good(self, name: str) -> set[str]:
        """Backups that a target calls good; each has a whole closure."""
        target, ring = self.target(name), self.repository().ring
        found = set()
        for one in self.samples:
            try:
                if read_verdict(target, LAYOUT, one.run, ring) is not Verdict.GOOD:
                    continue
            except Exception as error:  # noqa: BLE001  no verdict yet
                assert type(error).__name__ == "NotFound"
                continue
            data = target.read(one.key)
            for reference in unpack_references(parse_open_section(data, one.key)[2], one.key):
                key = Key(reference.key(LAYOUT))
                stored = target.read(key)
                digest = check_digest(stored, key)
                assert reference.kind == Kind.WAL or (len(stored), digest) == (reference.size, reference.digest)
            found.add(str(one.run))
        return found

    def check_all(self, name: str) -> dict[str, bytes]:
        """Every object of a target, sound; those that are equal on all targets."""
        content = {}
        for info in PosixBackend(self.root / name).list():
            data = self.target(name).read(info.key)
            if not info.key.startswith("canaries/"):
                check_digest(data, info.key)
            if not info.key.startswith(("repository", f"{LAYOUT.root}leases/", f"{LAYOUT.root}verdicts/")):
                content[str(info.key)] = data
        return content

    def laws(self) -> None:
        self.good("b")
        self.check_all("b")
        status, _ = self.replicate()
        assert status == 0
        assert self.good("b") == {str(one.run) for one in self.samples}
        assert self.check_all("a") == self.check_all("b")


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.close()


def kill_at(scene: Scene, points: list[int]) -> int:
    """Deaths that happened."""
    deaths = 0
    for point in points:
        scene.reset()
        status, _ = scene.replicate(point)
        assert status in (0, DIED), f"at effect {point}"
        deaths += status == DIED
        scene.laws()
    return deaths


def test_a_replication_killed_at_some_of_its_effects(scene: Scene) -> None:
    status, effects = scene.replicate()
    assert status == 0 and effects > 50
    rng = random.Random(os.environ.get("DRKIT_TEST_SEED", "1"))
    assert kill_at(scene, sorted(rng.sample(range(effects), 8))) >= 4


@pytest.mark.torture
@pytest.mark.parametrize("part", range(PARTS))
def test_a_replication_killed_at_every_effect(scene: Scene, part: int) -> None:
    _, effects = scene.replicate()
    points = list(range(effects))[part::PARTS]
    assert kill_at(scene, points) > len(points) // 2


def test_a_replication_killed_again_and_again_gets_there(scene: Scene) -> None:
    """Nothing is put back between the deaths: leases, half-made objects and manifests without a verdict add up."""
    _, effects = scene.replicate()
    scene.reset()
    ends = [scene.replicate(point)[0] for point in range(effects // 10, effects, effects // 10)]
    assert ends.count(DIED) >= 5
    scene.laws()
