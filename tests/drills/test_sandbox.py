"""The sandbox: made with a marker, removed whole; only what a dead drill marked is ever tidied away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from drills.sandbox import MARKER, PREFIX, Sandbox, check_room, read_marker, tidy
from drkit.core.clock import SystemClock
from drkit.core.errors import Refused
from drkit.jobs.restore_folder import Owner

CLOCK = SystemClock()
OWNER = Owner(os.geteuid(), os.getegid(), "a test")


def make(staging: Path, drill: str = "0a0b0c0d") -> Sandbox:
    return Sandbox.make(staging, drill, "orders", OWNER, CLOCK, ledger=True)


def test_it_is_made_with_its_marker_and_removed_without_a_trace(tmp_path: Path) -> None:
    box = make(tmp_path / "staging")
    assert box.marker.is_alive and read_marker(box.root) == box.marker
    (box.data / "base").mkdir(parents=True)
    (box.data / "base" / "1").write_bytes(bytes(100))
    (box.data / "pg_wal").mkdir()
    (box.data / "pg_wal" / "segment").write_bytes(bytes(1000))
    assert box.size_bytes() == 100
    box.remove()
    box.remove()
    assert not list((tmp_path / "staging").iterdir())


def test_the_same_name_twice_is_refused(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(Refused, match="the sandbox cannot be made"):
        make(tmp_path)


def test_it_can_be_kept_elsewhere(tmp_path: Path) -> None:
    box = make(tmp_path / "staging")
    (box.root / "data").mkdir()
    box.remove(keep=tmp_path / "kept")
    assert (tmp_path / "kept" / "data").is_dir() and not (tmp_path / "kept" / MARKER).exists()
    assert not list((tmp_path / "staging").iterdir())


def test_only_what_a_dead_drill_marked_is_tidied_away(tmp_path: Path) -> None:
    living, dead = make(tmp_path, "living"), make(tmp_path, "dead")
    rewrite(dead, started=dead.marker.started - 1)  # the pid is another's now
    before_boot = make(tmp_path, "before")
    rewrite(before_boot, boot="another boot")
    unmarked, torn = tmp_path / f"{PREFIX}unmarked", tmp_path / f"{PREFIX}torn"
    for folder in (unmarked, torn):
        folder.mkdir()
    (torn / MARKER).write_text('{"schema": ')
    found = list(tidy(tmp_path, CLOCK))
    assert {one.marker.drill for one in found} == {"dead", "before"} and all(one.marker.ledger for one in found)
    assert set(tmp_path.iterdir()) == {living.root, unmarked, torn}
    assert not list(tidy(tmp_path / "nowhere", CLOCK))


def rewrite(box: Sandbox, **members: object) -> None:
    path = box.root / MARKER
    path.write_text(json.dumps(json.loads(path.read_text()) | members))


def test_processes_of_the_sandbox_are_ended_and_no_others(tmp_path: Path) -> None:
    box = make(tmp_path)
    box.data.mkdir()
    wait = "import sys; sys.stdout.write('ready'); sys.stdout.flush(); sys.stdin.read()"
    inside, named, shell, reader = (
        subprocess.Popen([sys.executable, "-c", wait, *words], cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for cwd, words in (
            (box.data, ["drkit-wal"]),
            ("/", ["drkit-wal", "--config", f"{box.root}/drkit.toml"]),
            (box.data, ["somebody who looks around"]),
            ("/", [f"{box.root}/data/log"]),  # the folder's own name makes nobody one of ours
        )
    )
    everyone = (inside, named, shell, reader)
    try:
        for process in everyone:
            assert process.stdout is not None and process.stdout.read(5) == b"ready"
        assert box.remove() == 2
        assert inside.wait(10) != 0 and named.wait(10) != 0
        assert shell.poll() is None and reader.poll() is None
    finally:
        for process in everyone:
            process.kill()
            process.communicate()


def test_too_little_room_is_told_in_numbers(tmp_path: Path) -> None:
    check_room(tmp_path / "not" / "made" / "yet", 1)
    with pytest.raises(Refused, match="not enough space") as error:
        check_room(tmp_path, 1 << 60)
    assert str((1 << 60) + (256 << 20)) in error.value.why and "missing" in error.value.why


def test_a_file_that_a_dying_server_removes_at_the_same_moment_is_no_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = make(tmp_path)
    sandbox.data.mkdir()
    (sandbox.data / "postmaster.pid").write_text("1")
    real = os.unlink

    def unlink(path: str, **named: int) -> None:
        real(path, **named)
        if Path(path).name == "postmaster.pid":
            raise FileNotFoundError(path)

    monkeypatch.setattr(os, "unlink", unlink)
    sandbox.remove()
    assert not sandbox.root.exists()
