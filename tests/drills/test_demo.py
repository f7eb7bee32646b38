"""The demo, end to end: it proves its point, it notices when it does not, and it leaves nothing behind."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from drills.demo.account import Account, check_reach
from drills.demo.report import Report
from drills.demo.setup import bucket_of
from drills.demo.story import Order, demo
from drkit.core.cancel import CancelToken
from drkit.core.clock import SystemClock
from drkit.core.errors import Failed, Refused
from tests.real.postgres import make_folder, require

PROGRAMS = Path(sys.executable).parent
VERBS = frozenset({"check"})
ROWS = 20_000


class Heard:
    """A teller that keeps what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def heading(self, number: int, title: str) -> None:
        self.lines.append(f"{number} {title}")

    def typed(self, line: str, *, prompt: str = "$") -> None:
        self.lines.append(line)

    def said(self, line: str) -> None:
        self.lines.append(line)

    def rows(self, rows: list[tuple[str, str]]) -> None:
        self.lines += [f"{name} {text}" for name, text in rows]

    def busy(self, doing: str) -> AbstractContextManager[object]:
        return nullcontext()


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that the demo makes its own in: whatever it leaves behind is found there."""
    require(18)
    folder = make_folder("dd-")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    for name in [name for name in os.environ if name.startswith("DRKIT_")]:
        monkeypatch.delenv(name)
    yield folder
    shutil.rmtree(folder)


def running_in(folder: Path) -> list[str]:
    """Command lines of processes whose current folder is in `folder`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str((entry / "cwd").readlink()).startswith(str(folder)):
                found.append((entry / "cmdline").read_text())
        except OSError:
            continue
    return found


def told(folder: Path, replaced: str) -> Order:
    """An order whose `drkit` is a shell script: `replaced` comes before the real one is run with "$@"."""
    programs = folder / "bin"
    programs.mkdir(mode=0o755)
    (programs / "drkit-wal").symlink_to(PROGRAMS / "drkit-wal")
    script = programs / "drkit"
    script.write_text(f'#!/bin/bash\n{replaced}\nexec {shlex.quote(str(PROGRAMS / "drkit"))} "$@"\n')
    script.chmod(0o755)
    return Order(programs, VERBS, os.environ, rows=ROWS)


@pytest.mark.real
def test_every_row_is_accounted_for_and_nothing_is_left_behind(temporary: Path) -> None:
    command = [str(PROGRAMS / "drkit"), "demo", "--json", "--rows", str(ROWS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd="/")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["schema"], answer["verdict"], answer["faults"]) == ("drkit.demo/1", "pass", [])
    before, newest = (answer["restores"][name] for name in ("before_the_drop", "newest"))
    assert before["ledger"]["complete"]
    assert before["ledger"]["expected"] > 0
    assert before["ledger"]["lost"] == before["ledger"]["beyond"] == 0
    assert before["orders"] == answer["disaster"]["orders"]
    assert before["orders"]["rows"] == ROWS
    assert list(before["answer"]["bytes"]) == ["far"]
    assert newest["ledger"]["sound"]
    assert newest["orders"] is None
    assert newest["ledger"]["expected"] > before["ledger"]["expected"]
    assert answer["rto_s"] > 0
    first, second = answer["backups"]
    assert second["new_bytes"] < first["new_bytes"]
    assert first["targets"] == second["targets"] == {"near": "good", "far": "good"}
    found = {one["name"]: one["found"] for one in answer["copies"]["decisions"]}
    assert found == {"copies": 3, "media": 1, "offsite": 0}
    assert list(temporary.iterdir()) == []


@pytest.mark.real
def test_a_restore_that_goes_too_far_is_noticed(temporary: Path) -> None:
    """The negative control: without --exclusive the drop itself is replayed."""
    order = told(temporary, 'for word; do shift; [ "$word" = --exclusive ] || set -- "$@" "$word"; done')
    clock, heard = SystemClock(), Heard()
    report = demo(order, heard, clock, CancelToken())
    assert report.before is not None
    assert report.before.orders is None
    assert any("orders came back as None" in fault for fault in report.faults)
    assert report.as_json()["verdict"] == "fail"
    assert [path.name for path in temporary.iterdir()] == ["bin"]


@pytest.mark.real
def test_a_step_that_fails_is_named_and_its_logs_stay(temporary: Path) -> None:
    order = told(temporary, '[ "$1" = init ] && { echo "no room on the moon" >&2; exit 9; }')
    with pytest.raises(Failed, match="step 1") as raised:
        demo(order, Heard(), SystemClock(), CancelToken())
    assert "no room on the moon" in raised.value.why
    (left,) = (path for path in temporary.iterdir() if path.name != "bin")
    assert [path.name for path in left.iterdir()] == ["logs"]
    assert str(left / "logs") in raised.value.where
    assert any("no room on the moon" in log.read_text() for log in (left / "logs").iterdir())
    assert running_in(temporary) == []


@pytest.mark.real
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_everything_it_started(temporary: Path, number: signal.Signals) -> None:
    command = [str(PROGRAMS / "drkit"), "demo", "--rows", str(ROWS)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("3 "):
            process.send_signal(number)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "was received" in complaint
    assert list(temporary.iterdir()) == []
    assert running_in(temporary) == []


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    require(18)
    (tmp_path / "mine").touch()
    with pytest.raises(Refused):
        demo(Order(PROGRAMS, VERBS, {}, keep=tmp_path), Heard(), SystemClock(), CancelToken())
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_closed_folder_on_the_way_is_named() -> None:
    folder = make_folder("dd-")
    try:
        program = folder / "closed" / "bin" / "drkit"
        program.parent.mkdir(parents=True)
        program.touch()
        other = Account("other", 4_000_000, 4_000_000, switch=True)
        (folder / "closed").chmod(0o755)
        program.chmod(0o755)
        check_reach([program], other)
        (folder / "closed").chmod(0o700)
        with pytest.raises(Refused) as raised:
            check_reach([program], other)
        assert raised.value.where == str(folder / "closed")
    finally:
        shutil.rmtree(folder)


def test_a_bucket_offered_by_half_is_refused_before_anything_is_made(temporary: Path) -> None:
    with pytest.raises(Refused, match="credentials"):
        demo(Order(PROGRAMS, VERBS, {"DRKIT_DEMO_S3_URL": "s3://b"}), Heard(), SystemClock(), CancelToken())
    assert list(temporary.iterdir()) == []


def test_a_bucket_without_keys_is_refused_and_none_is_none() -> None:
    assert bucket_of({}, "run") is None
    with pytest.raises(Refused):
        bucket_of({"DRKIT_DEMO_S3_URL": "s3://b"}, "run")
    keys = {"DRKIT_DEMO_S3_ACCESS_KEY": "a", "DRKIT_DEMO_S3_SECRET_KEY": "hidden"}
    found = bucket_of({"DRKIT_DEMO_S3_URL": "s3://b/", **keys}, "run")
    assert found is not None
    assert found.url == "s3://b/drkit-demo-run"
    assert "hidden" not in repr(found)


def test_a_report_without_an_end_is_no_pass() -> None:
    assert Report("/nowhere", "nobody").faults == ["the demo did not come to its end"]
