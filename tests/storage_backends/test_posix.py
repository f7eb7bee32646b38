"""Folders as targets: the disk that goes away, leftovers, what is no object."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from storage_backends.api import StorageBackend, key
from storage_backends.conformance import get, put
from storage_backends.errors import (
    Denied,
    NotFound,
    NotThisTarget,
    OutOfSpace,
    StorageError,
    Unavailable,
    Unsupported,
)
from storage_backends.posix import PosixBackend
from storage_backends.retry import Retrying, RetryPolicy
from tests.storage_backends.mounts import mount, need_root, tmpfs, unmount


def _verbs(backend: StorageBackend) -> list[Callable[[], object]]:
    return [
        lambda: backend.stat(key("t/one")),
        lambda: backend.open(key("t/one")),
        lambda: list(backend.list()),
        lambda: list(backend.list("no/such/folder/")),
        lambda: backend.create(key("t/two")),
        lambda: backend.delete(key("t/one")),
    ]


def _all_say(kind: type[StorageError], backend: StorageBackend) -> None:
    for verb in _verbs(backend):
        with pytest.raises(kind):
            verb()


def test_only_init_makes_the_root(tmp_path: Path) -> None:
    root = tmp_path / "new" / "target"
    with pytest.raises(NotThisTarget, match="missing"):
        PosixBackend(root)
    assert not root.parent.exists()
    PosixBackend(root, create_root=True)
    put(PosixBackend(root), "a", b"one")
    (tmp_path / "file").touch()
    with pytest.raises(NotThisTarget):
        PosixBackend(tmp_path / "file")
    with pytest.raises(Unsupported):
        PosixBackend(Path("relative"))


def test_an_unmounted_disk_is_noticed_between_two_calls(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk") as folder:
        backend = PosixBackend(folder)
        put(backend, "t/one", b"one")
        unmount(folder)
        _all_say(NotThisTarget, backend)
        assert list(folder.iterdir()) == [], "nothing may land on the disk below"
        mount(folder, "size=1m")
        _all_say(NotThisTarget, backend)
        unmount(folder)
        folder.rmdir()
        _all_say(NotThisTarget, backend)
        assert not folder.exists()


def test_a_disk_unmounted_during_an_upload_is_noticed(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk") as folder:
        upload = PosixBackend(folder).create(key("t/one"))
        upload.write(b"one")
        unmount(folder, "--lazy")
        with pytest.raises(NotThisTarget):
            upload.commit()
        assert list(folder.iterdir()) == []


def test_another_folder_in_its_place_is_noticed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    backend = PosixBackend(root, create_root=True)
    root.rename(tmp_path / "old")
    root.mkdir()
    _all_say(NotThisTarget, backend)


def test_a_listing_under_way_keeps_to_its_disk(tmp_path: Path) -> None:
    backend = PosixBackend(tmp_path)
    for name in ("a/1", "b/1", "b/2"):
        put(backend, name, b"")
    listing = backend.list()
    assert next(listing).key == "a/1"
    backend.delete(key("b/1"))
    assert [info.key for info in listing] == ["b/2"]


def test_the_device_tells_disks_apart(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk") as folder:
        here, there = PosixBackend(tmp_path), PosixBackend(folder)
        assert here.traits.device == str(tmp_path.stat().st_dev) != there.traits.device


def test_what_is_no_object_is_not_listed(tmp_path: Path) -> None:
    backend = PosixBackend(tmp_path)
    put(backend, "a/b", b"one")
    for name in (".hidden", "a/.b.123.tmp", "a/c.tmp", "with space", "ä"):
        (tmp_path / name).touch()
    for name in (".snapshots", "lost+found", "@eaDir"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "inside").touch()
    os.mkfifo(tmp_path / "fifo")
    assert [info.key for info in backend.list()] == ["a/b"]
    with pytest.raises(NotFound):
        backend.open(key("fifo"))


def test_links_are_refused(tmp_path: Path) -> None:
    """A dangling link to another disk would look like an empty folder."""
    backend = PosixBackend(tmp_path)
    (tmp_path / "packs").symlink_to(tmp_path / "unmounted")
    with pytest.raises(Unsupported, match="symbolic links"):
        list(backend.list())
    (tmp_path / "secret").symlink_to("/etc/passwd")
    with pytest.raises(Unsupported):
        backend.open(key("secret"))


def test_a_key_is_not_the_folder_of_another(tmp_path: Path) -> None:
    backend = PosixBackend(tmp_path)
    put(backend, "a/b", b"one")
    with pytest.raises(Unsupported):
        backend.create(key("a"))
    with pytest.raises(Unsupported):
        backend.create(key("a/b/c"))
    backend.delete(key("a"))
    assert get(backend, "a/b") == b"one"


def test_leftovers_are_swept_when_a_day_old(tmp_path: Path) -> None:
    backend = PosixBackend(tmp_path)
    now = datetime.now(UTC)
    dead, alive = backend.create(key("a/dead")), backend.create(key("a/alive"))
    dead.write(b"dead")
    alive.write(b"alive")
    old_s = (now - timedelta(hours=25)).timestamp()
    (leftover,) = (tmp_path / "a").glob(".dead.*.tmp")
    os.utime(leftover, (old_s, old_s))
    (tmp_path / ".snapshots").mkdir()
    foreign = tmp_path / ".snapshots" / ".x.tmp"
    foreign.touch()
    os.utime(foreign, (old_s, old_s))
    assert backend.sweep_leftovers(now) == 1
    assert not leftover.exists() and foreign.exists()
    alive.commit()
    assert [info.key for info in backend.list()] == ["a/alive"]
    with pytest.raises(NotFound):
        dead.commit()


def test_a_full_disk_is_told_with_numbers(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small", "size=1m") as folder:
        backend = PosixBackend(folder)
        put(backend, "t/one", bytes(500_000))
        with pytest.raises(OutOfSpace) as caught, backend.create(key("t/two"), 2_000_000) as upload:
            for _ in range(20):
                upload.write(bytes(100_000))
        text = str(caught.value)
        assert "wanted 2000000 bytes" in text and "of 1048576 bytes free" in text
        assert backend.url in text and not caught.value.retryable
        assert [info.key for info in backend.list()] == ["t/one"]
        put(backend, "t/small", bytes(100_000))


def test_the_free_space_is_the_filesystems_and_no_other_disks(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small", "size=1m") as folder:
        backend = PosixBackend(folder)
        ask = Retrying(backend, RetryPolicy(), sleep=lambda _: None, random=lambda: 0.5).traits.free_bytes
        assert ask is not None and 900_000 < ask() <= 1 << 20
        put(backend, "t/one", bytes(500_000))
        assert 400_000 < ask() < 600_000
        unmount(folder)
        with pytest.raises(NotThisTarget):
            ask()


def test_a_read_only_disk_is_told(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk") as folder:
        backend = PosixBackend(folder)
        put(backend, "t/one", b"one")
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        for verb in (lambda: put(backend, "t/two", b""), lambda: backend.delete(key("t/one"))):
            with pytest.raises(Denied, match="EROFS") as caught:
                verb()
            assert "read-only" in caught.value.cure
        assert get(backend, "t/one") == b"one"


def test_missing_rights_are_not_absence(tmp_path: Path) -> None:
    need_root()
    backend = PosixBackend(tmp_path)
    put(backend, "t/one", b"one")
    (tmp_path / "t").chmod(0o700)
    os.chmod(tmp_path, 0o755)  # noqa: PTH101
    parents = [(parent, parent.stat().st_mode) for parent in tmp_path.parents if parent.stat().st_mode & 7 < 5]
    for parent, mode in parents:
        parent.chmod(mode | 0o005)
    try:
        os.seteuid(65534)
        try:
            _all_say(Denied, backend)
        finally:
            os.seteuid(0)
    finally:
        for parent, mode in parents:
            parent.chmod(mode)


def test_too_many_open_files_is_unavailable(tmp_path: Path) -> None:
    backend = PosixBackend(tmp_path)
    put(backend, "t/one", b"one")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(Unavailable) as caught:
            backend.stat(key("t/one"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.retryable and "ulimit" in caught.value.cure
    assert get(backend, "t/one") == b"one"


def test_a_file_that_shrinks_is_never_read_short(tmp_path: Path) -> None:
    backend = PosixBackend(tmp_path)
    put(backend, "t/one", bytes(1000))
    with backend.open(key("t/one")) as reader:
        assert len(reader.read(10)) == 10
        os.truncate(tmp_path / "t/one", 500)
        with pytest.raises(Unavailable, match="ends at byte 500"):
            reader.read()


def test_modes_and_times(tmp_path: Path) -> None:
    backend = PosixBackend(tmp_path, file_mode=0o600, folder_mode=0o700)
    info = put(backend, "t/one", b"one")
    assert (tmp_path / "t/one").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "t").stat().st_mode & 0o777 == 0o700
    os.utime(tmp_path / "t/one", ns=(0, 1_700_000_000_123_456_789))
    assert backend.stat(info.key).modified_at == datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC)


def test_found_folders_are_synced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may have made them and died before its sync."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    synced: list[int] = []
    fsync = os.fsync

    def spy(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        fsync(fd)

    backend = PosixBackend(tmp_path)
    monkeypatch.setattr(os, "fsync", spy)
    put(backend, "a/b/one", b"one")
    assert synced[:2] == [tmp_path.stat().st_ino, (tmp_path / "a").stat().st_ino]
    synced.clear()
    put(backend, "a/b/two", b"two")
    assert synced == [(tmp_path / "a/b/two").stat().st_ino, (tmp_path / "a/b").stat().st_ino]


def test_who_meets_an_object_may_rely_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = PosixBackend(tmp_path)
    put(backend, "a/one", b"one")
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    with pytest.raises(StorageError):
        backend.create(key("a/one"))
    assert synced == [(tmp_path / "a").stat().st_ino]


# Replaces t/one, and dies at the n-th of the calls that matter, in a process of its own.
_DYING = """
import os, sys
from pathlib import Path
from storage_backends.api import key
from storage_backends.posix import PosixBackend
backend, left = PosixBackend(Path(sys.argv[1])), int(sys.argv[2])
info = backend.stat(key("t/one"))

def dying(call):
    def instead(*args, **named):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return call(*args, **named)
    return instead

for name in ("open", "write", "fsync", "close", "stat", "replace", "unlink"):
    setattr(os, name, dying(getattr(os, name)))
with backend.create(key("t/one"), 5, replacing=info) as upload:
    upload.write(b"sound")
    upload.commit()
os._exit(0)
"""


def test_a_replacement_killed_at_each_effect_leaves_the_old_or_the_new_one(tmp_path: Path) -> None:
    states = []
    for step in range(60):
        (tmp_path / "t").mkdir(exist_ok=True)
        (tmp_path / "t/one").write_bytes(b"damaged")
        code = subprocess.run([sys.executable, "-c", _DYING, str(tmp_path), str(step)], check=False).returncode
        backend = PosixBackend(tmp_path)
        states.append(get(backend, "t/one"))
        assert states[-1] in (b"damaged", b"sound"), step
        assert [info.key for info in backend.list()] == ["t/one"]
        if code == 0:
            break
    assert code == 0 and states == sorted(states) and set(states) == {b"damaged", b"sound"}


def test_the_new_bytes_are_durable_before_they_take_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = PosixBackend(tmp_path)
    info = put(backend, "t/one", b"damaged")
    seen: list[str] = []
    fsync, rename = os.fsync, os.replace

    def spy_fsync(fd: int) -> None:
        seen.append("fsync folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "fsync file")
        fsync(fd)

    def spy_rename(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        seen.append("rename")
        rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    with backend.create(key("t/one"), 5, replacing=info) as upload:
        monkeypatch.setattr(os, "fsync", spy_fsync)
        monkeypatch.setattr(os, "replace", spy_rename)
        upload.write(b"sound")
        upload.commit()
    assert seen == ["fsync file", "rename", "fsync folder"]


def test_what_is_no_file_any_more_is_not_replaced(tmp_path: Path) -> None:
    backend = PosixBackend(tmp_path)
    info = put(backend, "t/one", b"damaged")
    (tmp_path / "t/one").unlink()
    (tmp_path / "t/one").symlink_to("/etc/hostname")
    with pytest.raises(StorageError):
        backend.create(key("t/one"), 5, replacing=info)
    assert (tmp_path / "t/one").is_symlink()
