"""A restore is durable when it says so: on any filesystem, with tablespaces, and it hears of lost writes."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from drkit.jobs import restore_sync
from drkit.jobs.restore_sync import Disks


def _nothing() -> None:
    return None


@pytest.mark.parametrize("tells", [True, False])
def test_every_folder_is_synced_whether_the_kernel_tells_of_lost_writes_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tells: bool
) -> None:
    roots = [tmp_path / "data", tmp_path / "space"]
    for root in roots:
        (root / "base" / "5").mkdir(parents=True)
    synced: list[str] = []
    monkeypatch.setattr(restore_sync, "_syncfs_tells", lambda: tells)
    monkeypatch.setattr(restore_sync, "_syncfs", lambda descriptor, root: synced.append(f"all of {root.name}"))
    monkeypatch.setattr(restore_sync, "sync_file", lambda path: synced.append(path.name))
    monkeypatch.setattr("storage_backends.durable.sync_dir", lambda path: synced.append(path.name))
    with Disks(roots) as disks:
        for root in roots:
            place = root / "base" / "5" / f"{root.name}-file"
            place.write_bytes(b"x" * (2 << 20))
            descriptor = os.open(place, os.O_RDONLY)
            disks.begin(descriptor, 0, 2 << 20)
            os.close(descriptor)
        disks.sync(_nothing)
    if tells:
        assert synced == ["all of data", "all of space"]
    else:
        assert {"data", "space", "base", "5", "data-file", "space-file"} == set(synced)


def test_the_descriptor_that_tells_is_there_before_the_first_file(tmp_path: Path) -> None:
    """syncfs tells of what was lost since its descriptor was opened."""
    assert tmp_path not in _held()
    with Disks([tmp_path]):
        assert tmp_path in _held()
    assert tmp_path not in _held()


def _held() -> set[Path]:
    """What this process has open."""
    found = set()
    for one in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(one.readlink())
    return found
