"""Folders that only look like two places, and such that only look like one."""

from __future__ import annotations

from pathlib import Path

import pytest

from drkit.jobs.check_places import overlaps, server_folders, twins
from drkit.repository.target import Target
from storage_backends.memory import MemoryBackend
from storage_backends.posix import PosixBackend


def folder(root: Path, name: str, path: str) -> Target:
    (root / path).mkdir(parents=True, exist_ok=True)
    return Target(name, PosixBackend(root / path), "here", "disk")


def texts(*targets: Target, folders: tuple[Path, ...] = ()) -> list[str]:
    return [one.text for one in overlaps(targets, folders)]


def test_places_of_their_own_are_fine(tmp_path: Path) -> None:
    memory = Target("m", MemoryBackend(), "here", "disk")
    assert texts(folder(tmp_path, "a", "t"), folder(tmp_path, "b", "t2"), memory, folders=(tmp_path / "data",)) == []


@pytest.mark.parametrize(("link", "told"), [("t", "are the same place"), ("t/in", "target b lies inside target a")])
def test_links_are_followed(tmp_path: Path, link: str, told: str) -> None:
    first = folder(tmp_path, "a", "t")
    (tmp_path / link).mkdir(exist_ok=True)
    (tmp_path / "link").symlink_to(link)
    (found,) = texts(first, folder(tmp_path, "b", "link"))
    assert told in found and str(tmp_path / link) in found


def test_a_tablespace_is_a_folder_of_the_server_as_well(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "pg_wal").mkdir(parents=True)
    (data / "pg_tblspc").mkdir()
    (tmp_path / "fast" / "space").mkdir(parents=True)
    (data / "pg_tblspc" / "16384").symlink_to(tmp_path / "fast" / "space")
    (data / "pg_tblspc" / "16385").symlink_to(tmp_path / "gone")
    folders = tuple(server_folders(data))
    (inside,) = texts(folder(tmp_path, "a", "fast/space/backup"), folders=folders)
    assert "target a lies inside a folder of the server" in inside
    (around,) = texts(folder(tmp_path, "a", "fast"), folders=folders)
    assert "a folder of the server lies inside target a" in around
    (wal,) = texts(folder(tmp_path, "a", "data/pg_wal/x"), folders=folders)
    assert wal.startswith("target a lies inside"), "told once, though it is in the data folder as well"


def test_two_that_answer_alike_are_one() -> None:
    (found,) = twins({"a": "12" * 16, "b": "34" * 16, "c": "12" * 16})
    assert found.target == "c" and found.text == "targets a and c are the same place: both answer as 12121212"
