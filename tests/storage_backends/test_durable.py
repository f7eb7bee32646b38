"""Files that appear whole and durable, or not at all."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage_backends import durable
from storage_backends.errors import AlreadyExists, NotFound, OutOfSpace, Unavailable, Unsupported
from tests.storage_backends.mounts import tmpfs


def _fail(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.fixture
def effects(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls that matter for durability, in their order."""
    seen: list[str] = []
    fsync, link, rename, unlink, mkdir = os.fsync, os.link, os.replace, os.unlink, os.mkdir

    def is_folder(descriptor: int) -> bool:
        return stat.S_ISDIR(os.fstat(descriptor).st_mode)

    def spy_fsync(fd: int) -> None:
        seen.append("fsync folder" if is_folder(fd) else "fsync file")
        fsync(fd)

    def spy_link(*args: object, **named: object) -> None:
        seen.append("link")
        link(*args, **named)  # type: ignore[arg-type]

    def spy_replace(*args: object, **named: object) -> None:
        seen.append("rename")
        rename(*args, **named)  # type: ignore[arg-type]

    def spy_unlink(*args: object, **named: object) -> None:
        seen.append("unlink")
        unlink(*args, **named)  # type: ignore[arg-type]

    def spy_mkdir(path: Path, *args: object, **named: object) -> None:
        mkdir(path, *args, **named)  # type: ignore[arg-type]
        seen.append(f"mkdir {Path(path).name}")

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "link", spy_link)
    monkeypatch.setattr(os, "replace", spy_replace)
    monkeypatch.setattr(os, "unlink", spy_unlink)
    monkeypatch.setattr(os, "mkdir", spy_mkdir)
    return seen


def test_write_new_syncs_before_and_after_the_name(tmp_path: Path, effects: list[str]) -> None:
    durable.write_new(tmp_path / "a", [b"one ", b"two"])
    assert effects == ["fsync file", "link", "unlink", "fsync folder"]
    assert (tmp_path / "a").read_bytes() == b"one two"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_replace_syncs_before_and_after_the_name(tmp_path: Path, effects: list[str]) -> None:
    durable.replace(tmp_path / "a", b"old")
    effects.clear()
    durable.replace(tmp_path / "a", b"new", mode=0o640)
    assert effects == ["fsync file", "rename", "fsync folder"]
    assert (tmp_path / "a").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_new_files_are_private(tmp_path: Path) -> None:
    durable.write_new(tmp_path / "a", [])
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


def test_write_new_never_overwrites(tmp_path: Path, effects: list[str]) -> None:
    durable.write_new(tmp_path / "a", [b"first"])
    effects.clear()
    with pytest.raises(AlreadyExists):
        durable.write_new(tmp_path / "a", [b"second"])
    assert (tmp_path / "a").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert effects[-2:] == ["fsync folder", "unlink"], "who is told of a name may rely on it"


def test_a_folder_of_that_name_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(Unsupported):
        durable.write_new(tmp_path / "a", [b"one"])


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="missing"):
        durable.write_new(tmp_path / "missing" / "a", [b"one"])


def test_a_source_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"one"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        durable.write_new(tmp_path / "a", chunks())
    assert list(tmp_path.iterdir()) == []


def test_long_names_leave_room_for_the_token(tmp_path: Path) -> None:
    durable.write_new(tmp_path / ("n" * 255), [b"one"])
    with pytest.raises(Unsupported, match="ENAMETOOLONG"):
        durable.write_new(tmp_path / ("n" * 256), [b"one"])


def test_a_failing_fsync_leaves_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(fd: int) -> None:
        raise _fail(errno.EIO)

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(Unavailable, match=r"EIO.*wanted 5 bytes; \d+ of \d+ bytes free"):
        durable.write_new(tmp_path / "a", [b"first"])
    assert list(tmp_path.iterdir()) == []


def test_the_lost_answer_to_a_link_is_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As NFS does it: the repetition of a link that went through says EEXIST."""
    link = os.link

    def twice(*args: object, **named: object) -> None:
        link(*args, **named)  # type: ignore[arg-type]
        raise _fail(errno.EEXIST)

    monkeypatch.setattr(os, "link", twice)
    durable.write_new(tmp_path / "a", [b"first"])
    assert (tmp_path / "a").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.fixture(params=["no links", "no links, no renameat2"])
def poor_filesystem(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    def no_link(*args: object, **named: object) -> None:
        raise _fail(errno.EPERM)

    def no_rename(*args: object) -> None:
        raise _fail(errno.EINVAL)

    monkeypatch.setattr(os, "link", no_link)
    if request.param != "no links":
        monkeypatch.setattr(durable, "_rename_noreplace", no_rename)
    return str(request.param)


def test_never_overwrites_without_links(tmp_path: Path, poor_filesystem: str) -> None:
    durable.write_new(tmp_path / "a", [b"first"])
    with pytest.raises(AlreadyExists):
        durable.write_new(tmp_path / "a", [b"second"])
    assert (tmp_path / "a").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_one_of_many_wins_without_links(tmp_path: Path, poor_filesystem: str) -> None:
    def attempt(number: int) -> bool:
        try:
            durable.write_new(tmp_path / "a", [f"writer {number}".encode()])
        except (AlreadyExists, Unavailable):
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(attempt, range(32)))
    assert sum(won) == 1
    assert (tmp_path / "a").read_text() == f"writer {won.index(True)}"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_marker_of_a_dead_writer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".a.creating.tmp").touch()

    def unsupported(*args: object, **named: object) -> None:
        raise _fail(errno.ENOSYS)

    monkeypatch.setattr(os, "link", unsupported)
    monkeypatch.setattr(durable, "_rename_noreplace", unsupported)
    with pytest.raises(Unavailable, match=r"\.a\.creating\.tmp"):
        durable.write_new(tmp_path / "a", [b"one"])
    assert not (tmp_path / "a").exists()


def test_make_dirs_syncs_each_new_entry(tmp_path: Path, effects: list[str]) -> None:
    durable.make_dirs(tmp_path / "a" / "b")
    assert effects == ["mkdir a", "fsync folder", "mkdir b", "fsync folder"]
    effects.clear()
    durable.make_dirs(tmp_path / "a" / "b")
    assert effects == []
    folder = os.open(tmp_path, os.O_RDONLY)
    durable.make_dirs("a/c", dir_fd=folder, sync_existing=True)
    os.close(folder)
    assert effects == ["fsync folder", "mkdir c", "fsync folder"]


def test_make_dirs_through_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(Unsupported, match="not a folder"):
        durable.make_dirs(tmp_path / "a" / "b")


def test_a_full_disk_is_told_with_numbers(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small", "size=1m") as folder:
        durable.write_new(folder / "a", [bytes(700_000)])
        with pytest.raises(OutOfSpace) as caught:
            durable.write_new(folder / "b", [bytes(100_000)] * 5)
        text = str(caught.value)
        assert "ENOSPC" in text and "wanted 400000 bytes" in text and "of 1048576 bytes free" in text
        assert str(folder) in text and caught.value.cure
        assert [path.name for path in folder.iterdir()] == ["a"]
        with pytest.raises(OutOfSpace):
            durable.replace(folder / "a", bytes(600_000))
        assert (folder / "a").stat().st_size == 700_000


def test_a_filesystem_without_entries_is_told(tmp_path: Path) -> None:
    small = tmp_path / "small"
    with tmpfs(small, "nr_inodes=3"), pytest.raises(OutOfSpace, match="no file entries"):
        for number in range(5):
            durable.write_new(small / str(number), [b"one"])


# Dies at the n-th of the calls that matter, in a process of its own.
_DYING = """
import os, sys
from storage_backends import durable
path, verb, left = sys.argv[1], sys.argv[2], int(sys.argv[3])

def dying(call):
    def instead(*args, **named):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return call(*args, **named)
    return instead

for name in ("open", "write", "fsync", "close", "link", "replace", "unlink"):
    setattr(os, name, dying(getattr(os, name)))
if verb == "write_new":
    durable.write_new(path, [b"new ", b"bytes"])
else:
    durable.replace(path, b"new bytes")
os._exit(0)
"""


@pytest.mark.parametrize("verb", ["write_new", "replace"])
def test_killed_at_each_effect_it_is_whole_or_absent(tmp_path: Path, verb: str) -> None:
    path = tmp_path / "a"
    states = set()
    for step in range(20):
        path.unlink(missing_ok=True)
        if verb == "replace":
            path.write_bytes(b"old")
        command = [sys.executable, "-c", _DYING, str(path), verb, str(step)]
        code = subprocess.run(command, check=False).returncode
        state = path.read_bytes() if path.exists() else None
        assert state in (b"new bytes", b"old" if verb == "replace" else None), step
        states.add(state)
        others = [other.name for other in tmp_path.iterdir() if other != path]
        assert all(name.startswith(".a.") and name.endswith(".tmp") for name in others)
        if code == 0:
            assert state == b"new bytes"
            break
    else:
        raise AssertionError("it never came to its end")
    assert len(states) == 2
