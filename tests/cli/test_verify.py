"""What `drkit verify` answers: docs/json.md tells all of it; and what it says to people."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from drkit.cli.render import answer_json
from drkit.cli.verbs import jobs
from drkit.cli.verify import _show, result_json
from drkit.core.errors import UsageError
from drkit.core.units import parse_share
from drkit.jobs.verify_facts import BadPages, Hole, HurtFile, VerifyResult
from storage_backends.trace import Traffic
from tests.docs.json_page import Member, differences, read_page
from tests.jobs.verify_world import NAMES, VerifyWorld


def answer(result: VerifyResult) -> dict[str, Any]:
    text = StringIO()
    answer_json("drkit.verify/1", result_json(result, {"a": Traffic().facts}), text)
    value: dict[str, Any] = json.loads(text.getvalue())
    return value


def agrees(value: dict[str, Any]) -> list[str]:
    page = read_page()["drkit.verify/1"]
    page.parts["schema"] = Member(("text",))
    return list(differences(value, page))


def test_the_page_tells_what_is_answered(tmp_path: Path) -> None:
    world = VerifyWorld(tmp_path)
    assert agrees(answer(world.verify(part=0.5))) == []
    world.flip("b", world.one("/packs/"))
    world.path("b", "notes.txt").write_text("mine")
    for name in NAMES:
        world.flip(name, world.one("/maps/"))
    result = world.verify(repair=True)
    result = VerifyResult(
        result.ground,
        result.systems,
        result.tallies,
        result.findings,
        [Hole("a", 1, 1, "00", "01", 2)],
        [BadPages("a", "x", b"base/1/\xff", (3,), False)],
        [HurtFile("a", "x", b"base/1/2", "why")],
        None,
        True,
        1.0,
    )
    found = answer(result)
    assert agrees(found) == [] and found["whole"] is False
    assert {one["outcome"] for one in found["findings"]} == {"repaired", "lost"}
    world.lose("c", "repository")
    assert "c" in answer(world.verify(keyed=False))["unread"]


def test_people_are_told_what_is_wrong_and_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = VerifyWorld(tmp_path)
    key = world.one("/packs/")
    world.flip("b", key)
    _show(world.verify(keyed=False), repair=False, color=False)
    text = capsys.readouterr().out
    assert f"b: NOT SOUND {key} (flipped)" in text and "sound on a, c" in text and "drkit verify --repair" in text
    _show(world.verify(repair=True), repair=True, color=False)
    text = capsys.readouterr().out
    assert f"b: REPAIRED {key}" in text and "whole: all of it was read" in text
    for name in NAMES:
        world.flip(name, key)
    _show(world.verify(keyed=False), repair=False, color=False)
    text = capsys.readouterr().out
    assert f"a: LOST {key}" in text and f"needed by {world.made[0].run}" in text and "--repair" not in text


@pytest.mark.parametrize(("text", "part"), [("5%", 0.05), ("0.05", 0.05), ("100%", 1.0), ("1", 1.0)])
def test_parts(text: str, part: float) -> None:
    assert parse_share(text) == pytest.approx(part)


@pytest.mark.parametrize("text", ["0", "0%", "5", "101%", "-1%", "x", "nan", ""])
def test_what_is_no_part(text: str) -> None:
    with pytest.raises(UsageError):
        parse_share(text)


def test_it_can_be_scheduled() -> None:
    assert "verify" in jobs()
