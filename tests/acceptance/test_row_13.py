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

CAP_MIB = 160
"""Of any command, however many files there are. Measured with ten: 80 to 91 MiB, for programs, caches and extents."""
GROWTH_MIB = 28
"""What a command may take more for very many files than for ten, however many: sorted names, rows and sealed frames are
held up to some MiB each, and go to a file from there on. Held in memory, 50,000 files took 30 MiB (a restore's plan) to
95 MiB (a second backup)."""
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

    def stored(self) -> list[Path]:
        return [path for path in (self.scene.place("a") / "clusters").rglob("*") if path.is_file()]

    def fill(self) -> None:
        folder = self.scene.server.data / "base" / "many"
        folder.mkdir()
        for number in range(self.files):
            os.close(os.open(folder / f"{number:08d}", os.O_CREAT | os.O_WRONLY, 0o600))
        give_tree(folder)


@pytest.fixture(params=[50_000, pytest.param(1_000_000, marks=pytest.mark.torture)])
def many(request: pytest.FixtureRequest) -> Iterator[Many]:
    with scene(newest_major(), segment_mb=1, names=("a",)) as one:
        yield Many(one, request.param)


def test_row_13_very_many_empty_files_under_a_memory_cap(many: Many) -> None:
    """And a store that takes few objects: what is stored does not grow with the number of files."""
    one, new = many.scene, many.scene.fresh("restored")
    commands: dict[str, list[str | Path]] = {
        "first": ["backup"],
        "next": ["backup"],
        "list": ["list"],
        "verify": ["verify"],
        "deep": ["verify", "--deep"],
        "plan": ["restore", "--plan", "--into", new],
        "restore": ["restore", "--into", new],
        "delta": ["restore", "--delta", "--into", new],
    }
    few = {name: many.peak_mib(*words) for name, words in commands.items()}
    subprocess.run(["rm", "-rf", new], check=True)
    many.fill()
    for name, words in commands.items():
        peak = many.peak_mib(*words)
        assert peak < min(CAP_MIB, few[name] + GROWTH_MIB), (name, peak, few[name])
    assert len(many.stored()) < 60, "of bounded number"
    assert max(path.stat().st_size for path in many.stored()) < 128 << 20
    assert sum(1 for _ in os.scandir(new / "base" / "many")) == many.files
    stray = new / "base" / "many" / "00000010.stray"
    stray.touch()
    one.drkit("restore", "--delta", "--into", new)
    found = sum(1 for _ in os.scandir(new / "base" / "many"))
    assert found == many.files and not stray.exists()
    subprocess.run(["rm", "-rf", new], check=True)
