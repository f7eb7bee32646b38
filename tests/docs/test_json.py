"""docs/json.md says what the commands answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from drills.demo.report import BackupFigures, Decision, DrillFigures, Report
from drkit.cli.app import main
from drkit.cli.progress import Plain
from drkit.core.cancel import CancelToken
from drkit.core.clock import SystemClock
from drkit.core.log import NoLog
from drkit.core.progress import Event
from drkit.daemon.channels import Command
from drkit.daemon.notify import Notifier, NotifyTerms
from drkit.daemon.outbox import Outbox
from tests.cli.promises import Promise, kept_promise
from tests.docs.json_page import Member, differences, read_page
from tests.drills.report.samples import passed

CODE = Path(__file__).parents[2]
NOT_ANSWERS = {"drkit.recovery/1", "drkit.journal/1", "drkit.sandbox/1"}  # files of drkit's own


@pytest.fixture(scope="module")
def page() -> dict[str, Member]:
    found = read_page()
    for also in ("drkit.backup/1", "drkit.show/1"):  # 'all that an element of backups has, and'
        found[also].parts["backup"].parts |= found["drkit.list/1"].parts["backups"].parts["[]"].parts
    found["drkit.restore/1"].parts["plan"] = found["drkit.restore.plan/1"].parts["plan"]
    for member in found.values():
        member.parts["schema"] = Member(("text",))
    return found


@pytest.fixture(scope="module")
def world() -> Iterator[Promise]:
    with kept_promise() as promise:
        yield promise


def test_every_schema_in_the_code_is_on_the_page(page: dict[str, Member]) -> None:
    sources = [path for folder in ("drkit", "drills") for path in (CODE / folder).rglob("*.py")]
    named = {name for path in sources for name in re.findall(r'"(drkit\.[a-z.-]+/\d+)"', path.read_text())}
    assert set(page) == named - NOT_ANSWERS


def agree(page: dict[str, Member], answer: dict[str, Any], schema: str) -> None:
    assert answer["schema"] == schema
    assert list(differences(answer, page[schema])) == []


@pytest.mark.real
@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ("drkit.init/1", ["init"]),
        ("drkit.check/1", ["check"]),
        ("drkit.check.liveness/1", ["check", "--liveness"]),
        ("drkit.status/1", ["status"]),
        ("drkit.key.list/1", ["key", "list"]),
        ("drkit.key.new/1", ["key", "new", "{root}/another.key"]),
        ("drkit.backup/1", ["backup", "--label", "again"]),
        ("drkit.expire/1", ["expire"]),
        ("drkit.expire/1", ["expire", "--apply"]),
        ("drkit.hold.add/1", ["hold", "add", "{backup}"]),
        ("drkit.hold.list/1", ["hold", "list"]),
        ("drkit.list/1", ["list"]),
        ("drkit.show/1", ["show", "{backup}"]),
        ("drkit.windows/1", ["windows"]),
        ("drkit.wal.status/1", ["wal", "status"]),
        ("drkit.restore.plan/1", ["restore", "--into", "{root}/new", "--plan"]),
        ("drkit.restore/1", ["restore", "--into", "{root}/new", "--start"]),
        ("drkit.policy.check/1", ["policy", "check"]),
        ("drkit.policy.explain/1", ["policy", "explain"]),
        ("drkit.error/1", ["show", "nothing"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_answers(world: Promise, page: dict[str, Member], schema: str, words: list[str]) -> None:
    newest = json.loads(world.drkit("list", "--json")[1])["backups"][-1]["id"]
    _, text = world.drkit(*(word.format(root=world.server.root, backup=newest) for word in words), "--json")
    answer = json.loads(text)
    server = answer.get("server")
    if isinstance(server, dict):
        world.stop(world.server.root / "new")
    agree(page, answer, schema)


@pytest.mark.real
def test_a_push(world: Promise, page: dict[str, Member]) -> None:
    path = world.server.data / "pg_wal" / world.wal_is_archived()
    _, text = world.drkit("wal", "push", path, "--json")
    agree(page, json.loads(text), "drkit.wal.push/1")


@pytest.mark.real
def test_a_segment_that_is_there_and_one_that_is_not(world: Promise, page: dict[str, Member]) -> None:
    name, dest = world.wal_is_archived(), world.server.root / "fetched"
    code, text = world.drkit("wal", "get", name, dest, "--json")
    agree(page, json.loads(text), "drkit.wal.get/1")
    found = json.loads(text)
    assert (code, found["found"], found["size_bytes"]) == (0, True, dest.stat().st_size)
    assert found["source"] in ("local", "vault")
    none = f"{name[:-2]}EE"
    code, text = world.drkit("wal", "get", none, dest, "--json", "--absent-exit", "44")
    agree(page, json.loads(text), "drkit.wal.get/1")
    assert (code, json.loads(text)["found"], json.loads(text)["file"]) == (44, False, none)
    assert world.drkit("wal", "get", none, dest, "--json")[0] == 126


def test_the_version(page: dict[str, Member], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version", "--json"]) == 0
    agree(page, json.loads(capsys.readouterr().out), "drkit.version/1")


def test_progress(page: dict[str, Member]) -> None:
    stream = StringIO()
    Plain(stream, SystemClock(), as_json=True).emit(Event("copying", 1, 2))
    agree(page, json.loads(stream.getvalue()), "drkit.progress/1")


def test_an_event(page: dict[str, Member], tmp_path: Path) -> None:
    token = CancelToken()
    terms = NotifyTerms("warn", timedelta(hours=1), "db1", "/etc/drkit/drkit.toml")
    part = Notifier([Command(["/bin/false"], 5, {})], tmp_path, terms, SystemClock(), NoLog(), lambda: "1")
    part.tell("backup.failed", "error", "orders", "no space", bell="backup.orders.1", exit=1)
    token.cancel()
    part.run(token)
    waiting = Outbox(tmp_path, "command").first()
    assert waiting is not None
    agree(page, dict(waiting.value), "drkit.event/1")


def test_the_demo(page: dict[str, Member]) -> None:
    report = Report("/tmp/demo", "postgres", ("disk-lost",))
    report.backup = BackupFigures("20260701T010002Z-77aa01ff", 3, 2, 1, 0.5, {"near": "good"})
    report.drills = {"disk-lost": DrillFigures(passed(), 12.5)}
    report.decisions = [Decision("copies", "kept", 3, 3)]
    agree(page, {"schema": "drkit.demo/2", **report.as_json()}, "drkit.demo/2")
