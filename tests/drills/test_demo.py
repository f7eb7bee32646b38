"""The demo, end to end: it proves its point, it notices when it does not, and it leaves nothing behind."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from drills.demo.account import Account, check_reach
from drills.demo.page import NAME, publish
from drills.demo.report import Report
from drills.demo.setup import bucket_of
from drills.demo.story import Order, demo
from drkit.core.cancel import CancelToken
from drkit.core.clock import SystemClock
from drkit.core.errors import Failed, Refused
from tests.docs.json_page import differences, read_page
from tests.real.postgres import make_folder, require

PROGRAMS = Path(sys.executable).parent
ROWS = 20_000


class Heard:
    """A teller that keeps what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def heading(self, number: int, title: str) -> None:
        self.lines.append(f"{number} {title}")

    def typed(self, line: str) -> None:
        self.lines.append(line)

    def said(self, line: str) -> None:
        self.lines.append(line)

    def shown(self, lines: Sequence[str]) -> None:
        self.lines += lines

    def judged(self, word: str, line: str, *, passed: bool) -> None:
        self.lines.append(f"{word} {line}")

    def rows(self, rows: Sequence[tuple[str, str]]) -> None:
        self.lines += [f"{name} {text}" for name, text in rows]

    def busy(self, doing: str) -> AbstractContextManager[Callable[[str], None]]:
        return nullcontext(lambda text: None)


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
    return Order(programs, os.environ, page_folder=folder / "bin", rows=ROWS)


@pytest.mark.real
def test_every_row_is_accounted_for_and_nothing_is_left_behind(temporary: Path) -> None:
    here = temporary / "here"
    here.mkdir()
    command = [str(PROGRAMS / "drkit"), "demo", "--json", "--rows", str(ROWS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd=here)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer.pop("schema"), answer["verdict"], answer["faults"]) == ("drkit.demo/2", "pass", [])
    assert list(differences(answer, read_page()["drkit.demo/2"])) == []
    assert answer["backup"]["targets"] == {"near": "good", "far": "good"}
    dropped, lost = (answer["drills"][name] for name in ("dropped-table", "disk-lost"))
    assert dropped["rows"]["kept"] == dropped["rows"]["expected"] > 0
    assert lost["rows"]["kept"] + lost["rows"]["lost"] == lost["rows"]["expected"]
    assert lost["rows"]["kept"] > 0
    assert lost["checks"]["orders"] == "passed"
    assert lost["bytes"]["near"] == 0 < lost["bytes"]["far"]
    for drill in (dropped, lost):
        assert drill["passed"] == len(drill["checks"])
        assert drill["caught"] == drill["controls"] == len(drill["checks"])
        assert 0 < drill["rto_s"] <= answer["promised"]["rto_s"]
    found = {one["name"]: one["found"] for one in answer["copies"]}
    assert found == {"copies": 3, "media": 1, "offsite": 0}
    assert answer["page"] == str(here / NAME)
    assert lost["id"] in (here / NAME).read_text()
    assert [path.name for path in here.iterdir()] == [NAME]
    assert list(temporary.iterdir()) == [here]
    assert running_in(temporary) == []


@pytest.mark.real
def test_a_promise_that_is_broken_and_an_order_that_is_missing_are_noticed(temporary: Path) -> None:
    """The negative control: nobody recovers within a millisecond, and there never was that one order more."""
    broken = f's/^rto .*/rto = "1ms"/; s/^expected = "{ROWS} /expected = "{ROWS + 1} /'
    order = told(temporary, f'[ "$3" = disk-lost ] && sed -i {shlex.quote(broken)} drkit.toml')
    heard = Heard()
    report = demo(order, heard, SystemClock(), CancelToken())
    (fault,) = report.faults
    assert fault.startswith("disk-lost: fail: ")
    assert "the objective rto is broken" in fault
    assert "check orders failed" in fault
    assert report.as_json()["verdict"] == "fail"
    assert any(line.startswith("FAILED Lost the disk of shop.") for line in heard.lines)
    assert any(line.startswith("PASSED Table drkit_drill.victim was dropped.") for line in heard.lines)
    assert report.page == temporary / "bin" / NAME
    assert [path.name for path in temporary.iterdir()] == ["bin"]


@pytest.mark.real
@pytest.mark.parametrize(("verb", "step"), [("init", 1), ("daemon", 2)])
def test_a_step_that_fails_is_named_and_its_logs_stay(temporary: Path, verb: str, step: int) -> None:
    order = told(temporary, f'[ "$1" = {verb} ] && {{ echo "no room on the moon" >&2; exit 9; }}')
    with pytest.raises(Failed, match=f"step {step}") as raised:
        demo(order, Heard(), SystemClock(), CancelToken())
    assert "no room on the moon" in raised.value.why
    (left,) = (path for path in temporary.iterdir() if path.name != "bin")
    assert [path.name for path in left.iterdir()] == ["logs"]
    assert str(left / "logs") in raised.value.where
    assert any("no room on the moon" in log.read_text() for log in (left / "logs").iterdir())
    assert running_in(temporary) == []


@pytest.mark.real
@pytest.mark.parametrize(
    ("number", "seen"), [(signal.SIGTERM, "spool/daemon*"), (signal.SIGINT, "drkit-drill-*/ledger/*")]
)
def test_a_signal_ends_it_and_everything_it_started(temporary: Path, number: signal.Signals, seen: str) -> None:
    """Once while the daemon takes the first backup, once in the middle of a drill."""
    command = [str(PROGRAMS / "drkit"), "demo", "--rows", str(ROWS)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=temporary)
    while process.poll() is None and not any(temporary.glob(f"drkit-demo-*/{seen}")):
        time.sleep(0.05)
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
        demo(Order(PROGRAMS, {}, keep=tmp_path), Heard(), SystemClock(), CancelToken())
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
        demo(Order(PROGRAMS, {"DRKIT_DEMO_S3_URL": "s3://b"}), Heard(), SystemClock(), CancelToken())
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
    assert Report("/nowhere", "nobody", ("disk-lost",)).faults == ["disk-lost: the drill was not run"]


def test_the_page_replaces_an_earlier_one(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("new")
    (tmp_path / NAME).write_text("old")
    assert publish(page, tmp_path) == tmp_path / NAME
    assert (tmp_path / NAME).read_text() == "new"


@pytest.mark.parametrize("folder", [Path("/proc/1"), Path("/nowhere"), None])
def test_the_page_goes_to_the_temporary_folder_where_there_is_no_other_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path | None
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    page = tmp_path / "report.html"
    page.write_text("new")
    first, second = publish(page, folder), publish(page, folder)
    assert first != second
    assert {first.parent, second.parent} == {tmp_path}
    assert {first.suffix, first.read_text(), second.read_text()} == {".html", "new"}
