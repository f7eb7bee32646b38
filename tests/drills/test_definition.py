"""Definitions: where they come from, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from drills.definition import ALIASES, Definition, built_in, find_definition, with_load, writes_too_little
from drills.order import sides
from drills.scenarios.registry import SCENARIOS
from drkit.config.drill import Drill
from drkit.config.load import check
from drkit.config.model import Config
from drkit.core.errors import ConfigError, Missing, UsageError
from drkit.core.units import parse_duration

SITES = {"local": "fra", "second": "fra", "vault": "dub"}


def drill(**keys: object) -> Drill:
    return Drill.model_validate({"scenario": "disk-lost"} | keys)


def configured(**sections: object) -> Config:
    """A configuration with these sections [drill.NAME]."""
    target = {"url": "file:///backup", "site": "x"}
    return check({"cluster": {"orders": {}}, "target": {"a": target}, "drill": sections}, Path("/etc/drkit/drkit.toml"))


NONE = configured()


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_what_comes_with_drkit_is_found_by_name_and_number(alias: str, name: str) -> None:
    found = find_definition(alias.lower(), NONE)
    assert (found.name, found.scenario_id, found.drill.scenario) == (name, alias, name)
    assert found == find_definition(name, NONE) == built_in(name)
    assert SCENARIOS[name]().ident == alias
    assert json.loads(json.dumps(found.as_json()))["deadlines"]["restore"] == "4h"


def test_the_configuration_comes_first_and_may_replace_what_is_built_in() -> None:
    mine = configured(**{name: {"scenario": "disk-lost", "title": name} for name in ("disk-lost", "monthly")})
    assert find_definition("D03", mine).drill.title == "disk-lost"
    assert find_definition("monthly", mine).source == "the configuration"
    with pytest.raises(Missing, match="no drill 'yearly'") as error:
        find_definition("yearly", mine)
    assert "monthly" in error.value.why and "wal-gap" in error.value.why


def test_a_section_that_is_wrong_is_refused_and_no_built_in_one_stands_in_for_it() -> None:
    mine = configured(monthly={"scenario": "flood"}, **{"disk-lost": {"scenario": "disk-lost", "lodger": True}})
    for wanted, told in (("monthly", "drill.monthly.scenario = 'flood'"), ("D03", "drill.disk-lost.lodger")):
        with pytest.raises(ConfigError, match="is defined wrongly") as error:
            find_definition(wanted, mine)
        assert told in error.value.why
    assert find_definition("region-loss", mine) == built_in("region-loss")


def test_a_file_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('scenario = "region-loss"\nrto = "20m"\n[[assertion]]\nname = "a"\nsql = "select true"\n')
    found = find_definition(str(path), NONE)
    assert (found.name, found.source, found.drill.assertion[0].name) == ("mine", str(path), "a")
    for text, what in (
        ('scenario = "flood"', "scenario: "),
        ('scenario = "disk-lost"\nhurry = true', "hurry: "),
        ("scenario =", "not TOML"),
        ('scenario = "dropped-table"', "ledger = true"),
        ('scenario = "wal-gap"\npoint = "oldest"', "finds its own"),
        ('scenario = "disk-lost"\ndeny_sites = ["x"]\nallow_sites = ["x"]', "allow_sites and in deny_sites"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError) as error:
            find_definition(str(path), NONE)
        assert what in f"{error.value}"
    with pytest.raises(Missing):
        find_definition(str(tmp_path / "nowhere.toml"), NONE)


def test_what_a_drill_may_read() -> None:
    assert sides(drill(), "fra", SITES).allowed == ("local", "second", "vault")
    lost = sides(drill(scenario="region-loss"), "fra", SITES)
    assert (lost.allowed, lost.denied, lost.sites) == (("vault",), ("local", "second"), ("fra",))
    assert sides(drill(deny_targets=["local"], allow_sites=["fra"]), "fra", SITES).allowed == ("second",)
    with pytest.raises(UsageError, match="there is no site 'rome'"):
        sides(drill(deny_sites=["rome"]), "fra", SITES)
    with pytest.raises(UsageError, match="there is no target 'x'"):
        sides(drill(allow_targets=["x"]), "fra", SITES)
    with pytest.raises(UsageError, match="no target is left"):
        sides(drill(scenario="region-loss"), "fra", {"local": "fra"})


def test_the_command_line_changes_one_key_and_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'scenario = "region-loss"\nmin_size = "100MB"\nrpo = "2m"\nledger = true\n[deadlines]\nrestore = "1h"'
    )
    found = find_definition(str(path), NONE).drill
    assert found.changed({}) == found
    changed = found.changed({"point": "oldest", "allow_sites": ("dub",)})
    assert (changed.point, changed.allow_sites, changed.min_size, changed.rpo) == ("oldest", ("dub",), 10**8, found.rpo)
    with pytest.raises(ValueError, match="rpo is measured by the ledger"):
        found.changed({"ledger": False})
    with pytest.raises(ValueError, match="finds its own"):
        drill(scenario="wal-gap").changed({"point": "oldest"})


@pytest.mark.parametrize(
    ("keys", "promised", "load", "enough"),
    [
        ({}, None, "10s", True),
        ({}, "60s", "75s", True),
        ({}, "2s", "10s", True),
        ({"rpo": "2m"}, "60s", "150s", True),
        ({"load": "30s"}, "60s", "30s", False),
        ({"load": "60s"}, "60s", "60s", False),
        ({"load": "61s"}, "60s", "61s", True),
        ({}, "1h", "10s", False),
        ({"deadlines": {"fault": "3h"}}, "1h", "75m", True),
        ({"ledger": False}, "60s", "10s", True),
        ({"point": "oldest"}, "60s", "10s", True),
        ({"scenario": "wal-gap"}, "60s", "10s", True),
        ({"tests": ["rto"]}, "60s", "10s", True),
    ],
)
def test_rows_are_written_for_longer_than_may_be_lost(
    keys: dict[str, object], promised: str | None, load: str, enough: bool
) -> None:
    drill = Drill.model_validate({"scenario": "disk-lost", "ledger": True} | keys)
    rpo = None if promised is None else parse_duration(promised)
    found = Definition("mine", drill, "a test")
    assert with_load(found, rpo).drill.load == parse_duration(load)
    assert with_load(with_load(found, rpo), None).drill.load == parse_duration(load)
    why = writes_too_little(found, rpo)
    assert (why == "") == enough
    if why:
        assert why.startswith("it writes rows for ")
