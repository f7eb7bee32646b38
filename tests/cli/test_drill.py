"""`drkit drill list | history | show` on a repository without a server: reports outlive it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from drills.report.json_form import from_json
from drills.report.model import DrillReport, Verdict
from drills.shelf import Shelved, shelve
from drkit.cli.app import main
from drkit.cli.context import Context
from drkit.cli.wire import open_wiring
from tests.docs.json_page import Member, differences, read_page
from tests.drills.report.samples import failed, hostile, passed

DRILL = '[drill.friday]\nscenario = "region-loss"\ntitle = "Fridays"\nowner = "ops"\n'


@dataclass
class World:
    """Two targets in folders, and the command line in this process."""

    root: Path
    capsys: pytest.CaptureFixture[str]

    @property
    def config(self) -> Path:
        return self.root / "drkit.toml"

    def drkit(self, *words: str | Path) -> tuple[int, str, str]:
        code = main(["--config", str(self.config), "-q", *map(str, words)])
        said = self.capsys.readouterr()
        return code, said.out, said.err

    def answer(self, *words: str | Path, code: int = 0) -> dict[str, Any]:
        found, out, err = self.drkit(*words, "--json")
        assert found == code, err
        value: dict[str, Any] = json.loads(out)
        return value

    def shelve(self, report: DrillReport, number: int) -> Shelved:
        ident = f"202607{number:02d}T090000Z-{number:08x}"
        ended = f"2026-07-{number:02d}T09:20:00.000000Z"
        with open_wiring(Context(self.config, verbosity=-1)) as wiring:
            return shelve(wiring.repository(), replace(report, id=ident, ended_at=ended), entropy=os.urandom)


@pytest.fixture
def world(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> World:
    made = World(tmp_path, capsys)
    targets = "".join(f'[target.{n}]\nurl = "file://{tmp_path}/{n}"\nsite = "{n}"\n' for n in ("near", "far"))
    rest = f'[keys]\nfile = "{tmp_path}/key"\n[daemon]\nspool = "{tmp_path}/spool"\n'
    made.config.write_text(f"[cluster.orders]\n{targets}{rest}{DRILL}")
    assert made.drkit("init", "--yes")[0] == 0
    return made


@pytest.fixture(scope="module")
def page() -> dict[str, Member]:
    found = read_page()
    head = found["drkit.drill.history/1"].parts["drills"].parts["[]"]
    found["drkit.drill.list/1"].parts["drills"].parts["[]"].parts["last"].parts |= head.parts
    for member in found.values():
        member.parts["schema"] = Member(("text",))
    return found


def test_what_can_be_run_is_listed_before_anything_was(world: World, page: dict[str, Member]) -> None:
    answer = world.answer("drill", "list")
    rows = {row["name"]: row for row in answer["drills"]}
    assert set(rows) == {"friday", "dropped-table", "disk-lost", "region-loss", "wal-gap"}
    assert (rows["friday"]["scenario"], rows["friday"]["owner"], rows["friday"]["last"]) == ("D09", "ops", None)
    assert rows["wal-gap"]["scenario"] == "D10"
    assert list(differences(answer, page["drkit.drill.list/1"])) == []
    text = world.drkit("drill", "list")[1]
    assert "never run" in text and "Fridays" in text


def test_the_newest_report_of_each_drill_stands_beside_it(world: World, page: dict[str, Member]) -> None:
    world.shelve(passed(), 1)
    world.shelve(replace(passed(), verdict=Verdict.INCONCLUSIVE), 2)
    world.shelve(failed(), 3)
    answer = world.answer("drill", "list")
    last = {row["name"]: row["last"] and row["last"]["verdict"] for row in answer["drills"]}
    assert (last["region-loss"], last["dropped-table"], last["friday"]) == ("inconclusive", "fail", None)
    assert list(differences(answer, page["drkit.drill.list/1"])) == []
    assert "FAILED" in world.drkit("drill", "list")[1]


def test_without_a_repository_the_drills_are_listed_all_the_same(world: World) -> None:
    (world.root / "near").rename(world.root / "near-away")
    (world.root / "far").rename(world.root / "far-away")
    answer = world.answer("drill", "list", code=7)
    assert len(answer["drills"]) == 5
    assert set(answer["unreadable"]) == {"near", "far"}


def test_past_drills_come_newest_first_and_can_be_chosen(world: World, page: dict[str, Member]) -> None:
    for number, report in enumerate((passed(), failed(), passed(), replace(failed(), cluster="others")), start=1):
        world.shelve(report, number)
    answer = world.answer("drill", "history")
    assert [row["id"][:8] for row in answer["drills"]] == ["20260703", "20260702", "20260701"]
    assert (answer["complete"], answer["broken_links"]) == (True, [])
    assert answer["drills"][0]["targets"] == ["near", "far"]
    assert list(differences(answer, page["drkit.drill.history/1"])) == []
    chosen = world.answer("drill", "history", "orders", "--scenario", "region-loss", "--limit", "1")
    assert [row["id"][:8] for row in chosen["drills"]] == ["20260703"]
    assert chosen["complete"] is False and chosen["broken_links"] == []
    assert [r["scenario"] for r in world.answer("drill", "history", "--scenario", "d01")["drills"]] == ["D01"]
    text = world.drkit("drill", "history")[1]
    assert "FAILED" in text and "passed" in text and "near, far" in text


def test_a_history_of_nothing_says_what_to_do(world: World) -> None:
    code, text, _ = world.drkit("drill", "history")
    assert code == 0 and "drkit drill list" in text


def test_a_report_that_was_taken_away_is_missed(world: World) -> None:
    for number in (1, 2, 3):
        world.shelve(passed(), number)
    for path in world.root.glob("*/reports/*/20260702*"):
        path.unlink()
    assert [ident[:8] for ident in world.answer("drill", "history")["broken_links"]] == ["20260703"]
    assert "the report before 20260703" in world.drkit("drill", "history")[1]


def test_every_form_is_shown_as_it_was_stored(world: World, page: dict[str, Member]) -> None:
    stored = world.shelve(passed(), 1)
    assert stored.kept.targets == ("near", "far")
    for form, name in (
        ("text", "report.txt"),
        ("json", "report.json"),
        ("junit", "junit.xml"),
        ("html", "report.html"),
    ):
        code, out, _ = world.drkit("drill", "show", "latest", "--format", form)
        assert (code, out) == (0, stored.files[name])
    answer = world.answer("drill", "show", "0000001")
    assert from_json(answer) == stored.report
    assert list(differences(answer, page["drkit.drill.report/1"])) == []
    ElementTree.fromstring(stored.files["junit.xml"])


def test_a_report_goes_into_a_file(world: World) -> None:
    stored = world.shelve(passed(), 1)
    file = world.root / "page.html"
    file.write_text("an older one")
    code, out, _ = world.drkit("drill", "show", "latest", "--format", "html", "-o", file)
    assert (code, out) == (0, "")
    assert file.read_text() == stored.files["report.html"]
    assert world.drkit("drill", "show", "latest", "--output", "/dev/null")[0] == 0
    assert not Path("/dev/null").is_file()


def test_a_damaged_copy_is_told_and_the_next_one_shown(world: World) -> None:
    stored = world.shelve(passed(), 1)
    (copy,) = world.root.glob("near/reports/*/*")
    data = bytearray(copy.read_bytes())
    data[len(data) // 2] ^= 1
    copy.write_bytes(data)
    code, out, err = world.drkit("drill", "show", "latest")
    assert (code, out) == (0, stored.files["report.txt"])
    assert "near" in err and "copy of a report" in err
    for other in world.root.glob("far/reports/*/*"):
        other.write_bytes(other.read_bytes()[:-500])
    assert world.drkit("drill", "show", "latest")[0] == 9
    (world.root / "near").rename(world.root / "gone")
    code, out, err = world.drkit("drill", "history")
    assert code == 9 and "cannot be opened" in out


def test_a_target_that_lacks_a_report_is_named(world: World) -> None:
    world.shelve(passed(), 1)
    (copy,) = world.root.glob("far/reports/*/*")
    copy.unlink()
    code, _, err = world.drkit("drill", "show", "latest")
    assert code == 0 and "target=far" in err
    assert world.answer("drill", "history")["drills"][0]["targets"] == ["near"]


def test_latest_of_a_cluster(world: World) -> None:
    world.shelve(passed(), 1)
    world.shelve(replace(failed(), cluster="others"), 2)
    assert world.answer("drill", "show", "latest")["cluster"] == "others"
    assert world.answer("drill", "show", "latest", "--cluster", "orders")["cluster"] == "orders"


@pytest.mark.parametrize(
    ("words", "code"),
    [(("nothing",), 5), (("2026",), 2), (("latest", "--format", "pdf"), 2), (("latest", "--cluster", "x"), 2)],
)
def test_what_cannot_be_shown(world: World, words: tuple[str, ...], code: int) -> None:
    world.shelve(passed(), 1)
    world.shelve(passed(), 2)
    assert world.drkit("drill", "show", *words)[0] == code


def test_names_in_a_report_do_not_move_the_cursor(world: World) -> None:
    world.shelve(replace(hostile(), cluster="orders"), 1)
    for words in (("history",), ("show", "latest"), ("list",)):
        out = world.drkit("drill", *words)[1]
        assert "\x1b" not in out and "\u202e" not in out
