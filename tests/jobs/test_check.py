"""The room on targets: told before it is used up."""

from __future__ import annotations

from pathlib import Path

import pytest

from drkit.jobs.check import Level, check_space
from drkit.repository.target import Target
from storage_backends.conformance import put
from storage_backends.memory import MemoryBackend
from storage_backends.posix import PosixBackend
from tests.storage_backends.mounts import tmpfs, unmount

MIB = 1 << 20


def target(backend: PosixBackend | MemoryBackend) -> Target:
    return Target("a", backend, "here", "disk")


@pytest.mark.parametrize(
    ("size", "database_bytes", "level"),
    [
        ("8m", 0, Level.FAIL),
        ("64m", 0, Level.WARN),
        ("1100m", 0, Level.OK),
        ("1100m", 20 << 30, Level.WARN),
    ],
)
def test_less_than_a_segment_fails_and_little_is_a_warning(
    tmp_path: Path, size: str, database_bytes: int, level: Level
) -> None:
    with tmpfs(tmp_path / "disk", f"size={size}") as folder:
        (found,) = check_space([target(PosixBackend(folder))], 16 * MIB, database_bytes)
        assert found.level is level and "free" in found.text
        assert bool(found.cure) == (level is not Level.OK)


def test_a_disk_that_filled_up_fails_though_it_still_takes_small_objects(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "size=20m") as folder:
        backend = PosixBackend(folder)
        put(backend, "t/one", bytes(19 * MIB))
        (found,) = check_space([target(backend)], MIB * 16, 0)
        assert found.level is Level.FAIL and "archiving" in found.text


def test_a_store_without_an_end_is_not_judged_and_one_that_is_gone_fails(tmp_path: Path) -> None:
    assert list(check_space([target(MemoryBackend())], MIB, 0)) == []
    with tmpfs(tmp_path / "disk", "size=1m") as folder:
        backend = PosixBackend(folder)
        unmount(folder)
        (found,) = check_space([target(backend)], MIB, 0)
        assert found.level is Level.FAIL and "mount" in found.cure
