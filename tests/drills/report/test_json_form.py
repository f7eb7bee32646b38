"""A report as JSON comes back the same, and what is none is refused by name."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drills.report.json_form import from_json, from_text, to_json, to_text
from drills.report.model import SCHEMA, DrillReport
from drkit.core.errors import Damage
from tests.docs.json_page import Member, differences, read_page
from tests.drills.report.samples import aborted, failed, hostile, passed

ALL = [passed(), failed(), aborted(), hostile()]


@pytest.mark.parametrize("report", ALL, ids=("passed", "failed", "aborted", "hostile"))
def test_it_comes_back(report: DrillReport) -> None:
    text = to_text(report)
    assert from_text(text) == report
    assert from_json(json.loads(text)) == report
    assert to_text(from_text(text)) == text, "equal reports give equal bytes"
    assert text.isascii()


@given(st.text(), st.integers(1, 2**64 - 1), st.none() | st.floats(0, 1e9), st.dictionaries(st.text(), st.text()))
def test_any_text_and_figure_comes_back(
    text: str, system: int, loss_s: float | None, environment: dict[str, str]
) -> None:
    loss = failed().loss
    assert loss is not None
    report = replace(
        aborted(), title=text, system_identifier=system, environment=environment, loss=replace(loss, loss_s=loss_s)
    )
    assert from_text(to_text(report)) == report


def test_its_members_are_those_of_the_model_in_order() -> None:
    found = to_json(passed())
    assert list(found) == ["schema", *(one.name for one in fields(DrillReport))]
    assert (found["schema"], found["system_identifier"]) == (SCHEMA, "7300000000000000001")


@pytest.mark.parametrize("report", ALL, ids=("passed", "failed", "aborted", "hostile"))
def test_the_page_tells_all_of_it(report: DrillReport) -> None:
    page = read_page()[SCHEMA]
    page.parts["schema"] = Member(("text",))
    assert list(differences(to_json(report), page)) == []


def test_objectives_say_whether_they_were_kept() -> None:
    rows = json.loads(to_text(failed()))["objectives"]
    assert [row["kept"] for row in rows] == [False, False]


def test_members_of_a_later_version_are_passed_over() -> None:
    value = to_json(passed())
    assert from_json({**value, "colour": "green"}) == passed()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"schema": "drkit.drill.report/2"}, "report/2"),
        ({"timeline": "2"}, "timeline"),
        ({"timeline": True}, "timeline"),
        ({"verdict": "good"}, "good"),
        ({"checks": [{"check": "V1"}]}, "title"),
        ({"reasons": "slow"}, "reasons"),
        ({"bytes_from": {"a": "many"}}, "bytes_from.a"),
        ({"system_identifier": None}, "None"),
        ({"loss": []}, "loss"),
    ],
)
def test_what_is_no_report_is_damage_and_named(change: dict[str, object], named: str) -> None:
    value = {**to_json(passed()), **change}
    with pytest.raises(Damage) as found:
        from_json(value)
    assert named in str(found.value)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, '{"schema": "drkit.drill.report/1"}'])
def test_rubbish_is_damage(text: str) -> None:
    with pytest.raises(Damage):
        from_text(text)
