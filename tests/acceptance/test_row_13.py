"""Limits of scale: a backup of very many empty files, in memory that a host of a database has to spare."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.scene import DRKIT, Scene, newest_major, scene
from tests.real.postgres import give_tree, run

pytestmark = pytest.mark.real

BASE_MIB = 120
"""Of a command, whatever it works on: programs, caches, extents. Measured with ten files: 87 MiB, of a backup."""
PER_FILE_BYTES = {"backup": 2560, "verify": 512, "restore": 1024, "list": 16}
"""Measured with 100,000 files, at the highest of the process, beyond what it takes with ten: 1.3 KiB for a first and
1.9 KiB for a later backup, 0.2 KiB to verify, 0.6 KiB to plan a restore, nothing to list."""
_PEAK = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""


@dataclass(frozen=True, slots=True)
class Many:
    scene: Scene
    files: int

    def peak_mib(self, *words: str | Path, code: int = 0) -> float:
        """The most memory that a command had, as the kernel counts it (ru_maxrss, KiB)."""
        done = run(
            [sys.executable, "-c", _PEAK, DRKIT, "--config", self.scene.config, "-q", *words],
            check=False,
            timeout_s=3600,
        )
        assert done.returncode == code, done.stderr
        return int(done.stdout) / 1024

    def cap_mib(self, verb: str) -> float:
        return BASE_MIB + self.files * PER_FILE_BYTES[verb] / (1 << 20)

    def stored(self) -> list[Path]:
        return [path for path in (self.scene.place("a") / "clusters").rglob("*") if path.is_file()]


@pytest.fixture(params=[50_000, pytest.param(1_000_000, marks=pytest.mark.torture)])
def many(request: pytest.FixtureRequest) -> Iterator[Many]:
    with scene(newest_major(), segment_mb=1, names=("a",)) as one:
        folder = one.server.data / "base" / "many"
        folder.mkdir()
        for number in range(request.param):
            os.close(os.open(folder / f"{number:08d}", os.O_CREAT | os.O_WRONLY, 0o600))
        give_tree(folder)
        yield Many(one, request.param)


def test_row_13_very_many_empty_files_under_a_memory_cap(many: Many) -> None:
    """And a store that takes few objects: what is stored does not grow with the number of files."""
    one, new = many.scene, many.scene.fresh("restored")
    for verb, words in [
        ("backup", ["backup"]),
        ("backup", ["backup"]),
        ("list", ["list"]),
        ("verify", ["verify"]),
        ("restore", ["restore", "--plan", "--into", str(new)]),
    ]:
        assert many.peak_mib(*words) < many.cap_mib(verb), words
    assert len(many.stored()) < 60, "of bounded number"
    assert max(path.stat().st_size for path in many.stored()) < 128 << 20
    one.drkit("restore", "--into", new)
    found = sum(1 for _ in os.scandir(new / "base" / "many"))
    subprocess.run(["rm", "-rf", new], check=True)
    assert found == many.files
