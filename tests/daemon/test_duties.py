"""From the configuration to command lines, and what this version cannot do."""

from __future__ import annotations

import tomllib
from datetime import timedelta
from pathlib import Path

import pytest

from drkit.cli.exits import problem
from drkit.cli.verbs import VERBS, jobs
from drkit.config.load import check
from drkit.config.model import Config
from drkit.core.errors import ConfigError
from drkit.daemon.duties import broken_drills, duties, impossible, refuse_impossible, short_drills
from policies.protection import Level

_BASE = """
[cluster.orders]
[cluster.pay]
[target.a]
url = "file:///backup"
site = "x"
"""
FILE = Path("/etc/drkit/drkit.toml")


def config(schedule: str) -> Config:
    return check(tomllib.loads(_BASE + schedule), FILE)


def test_one_duty_for_each_cluster_and_entry() -> None:
    found = duties(
        config(
            """
            [[schedule]]
            job = "backup"
            cron = "0 1 * * *"
            jitter = "30m"
            [[schedule]]
            job = "backup"
            cron = "0 13 * * *"
            cluster = "pay"
            timezone = "Europe/Berlin"
            deadline = "2h"
            [[schedule]]
            job = "drill"
            cron = "0 9 1 * *"
            cluster = "orders"
            scenario = "region-loss"
            point = "random-instant:14d"
            deny_sites = ["fra"]
            allow_sites = ["dub", "ams"]
            """
        )
    )
    assert [one.bell.id for one in found] == ["backup.orders.1", "backup.pay.1", "backup.pay.2", "drill.orders.1"]
    assert found[0].words == ("backup", "orders")
    assert (found[0].bell.jitter, found[0].deadline_s) == (timedelta(minutes=30), 86400)
    assert (found[2].bell.zone, found[2].deadline_s) == ("Europe/Berlin", 7200)
    words = "drill run region-loss orders --point random-instant:14d --allow-site dub --allow-site ams --deny-site fra"
    assert " ".join(found[3].words) == words
    assert found[3].scenario == "region-loss"
    assert len({one.terms for one in found}) == 4


def test_what_this_version_cannot_do_is_refused_by_name() -> None:
    wanted = config(
        """
        [[schedule]]
        job = "backup"
        cron = "0 1 * * *"
        [[schedule]]
        job = "verify"
        cron = "0 2 * * *"
        [[schedule]]
        job = "expire"
        cron = "0 3 * * *"
        """
    )
    with pytest.raises(ConfigError) as caught:
        refuse_impossible(wanted, {"backup", "check"}, FILE)
    text = str(caught.value)
    assert "schedule[2].job = 'verify': `drkit verify` is not part of this version" in text
    assert "schedule[3].job = 'expire'" in text
    assert caught.value.cure == "remove it, or schedule one of backup, check"
    assert problem(caught.value).exit == 3
    refuse_impossible(wanted, {"backup", "verify", "expire"}, FILE)


def test_a_job_is_known_as_soon_as_its_verb_is() -> None:
    assert {"backup", "check"} <= jobs()
    assert not {"key", "wal"} & jobs()
    for job in ("verify", "expire", "replicate"):
        assert (job in jobs()) == (job in VERBS)
    (drill,) = impossible(of_drill("D09"), ())
    assert drill.text == "schedule[1].job = 'drill': `drkit drill run` is not part of this version"


def of_drill(scenario: str) -> Config:
    own = '[drill.fridays]\nscenario = "disk-lost"\n'
    return config(f'{own}[[schedule]]\njob = "drill"\ncron = "0 1 * * *"\nscenario = "{scenario}"')


def told_of(wanted: Config) -> str:
    """What is told of the one drill that cannot be run. The daemon starts all the same: archiving does not hang on
    it."""
    refuse_impossible(wanted, {"drill"}, FILE)
    (found,) = broken_drills(wanted)
    assert (found.kind, found.level) == ("schedule.drill", Level.BAD) and found.cure
    return found.text


def test_a_drill_that_there_is_not_is_told_with_those_that_there_are() -> None:
    for known in ("region-loss", "D10", "d01", "fridays"):
        assert broken_drills(of_drill(known)) == []
    for unknown in ("nonsense", "D99", "orders"):
        text = told_of(of_drill(unknown))
        assert f"schedule[1].scenario = '{unknown}': no such drill" in text
        for name in ("fridays", "dropped-table (D01)", "wal-gap (D10)"):
            assert name in text


def test_a_section_that_is_wrong_is_told_once_scheduled_or_not() -> None:
    wrong = '[drill.fridays]\nscenario = "flood"\n'
    bell = '[[schedule]]\njob = "drill"\ncron = "0 1 * * *"\nscenario = "fridays"'
    for text in (wrong, wrong + bell):
        assert "drill.fridays.scenario = 'flood': allowed" in told_of(config(text))


def test_a_drill_in_a_file_is_named_by_its_whole_path_and_read(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    for content, told in ((None, "file is missing"), ('scenario = "flood"', "no definition"), ("{", "not TOML")):
        if content is not None:
            file.write_text(content)
        text = told_of(of_drill(str(file)))
        assert told in text and f"schedule[1].scenario = '{file}'" in text
    file.write_text('scenario = "disk-lost"\n')
    assert broken_drills(of_drill(str(file))) == []
    assert "whole path" in told_of(of_drill("mine.toml"))


def test_a_scheduled_drill_that_could_not_break_the_rpo_is_named() -> None:
    wanted = config(
        """
        [cluster.orders.objectives]
        rpo = "60s"
        [drill.short]
        scenario = "disk-lost"
        ledger = true
        load = "10s"
        [[schedule]]
        job = "drill"
        cron = "0 1 * * *"
        scenario = "D03"
        [[schedule]]
        job = "drill"
        cron = "0 2 * * *"
        scenario = "short"
        [[schedule]]
        job = "drill"
        cron = "0 3 * * *"
        scenario = "short"
        point = "oldest"
        """
    )
    (found,) = short_drills(wanted, "orders")
    assert found.startswith("schedule[2].scenario = 'short': it writes rows for 10s, the rpo is")
    assert list(short_drills(wanted, "pay")) == []


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('cron = "0 25 * * *"', "'25' is no hour"),
        ('cron = "0 0 30 2 *"', "no day that there is"),
        ('cron = "0 1 * * *"\njitter = "2d"', "jitter is at most 1d"),
        ('cron = "0 1 * * *"\ndeadline = "0s"', "deadline is longer than 0s"),
    ],
)
def test_impossible_times_are_refused_when_loaded(line: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        config(f'[[schedule]]\njob = "backup"\n{line}')


def test_a_verification_may_be_given_its_part() -> None:
    (duty,) = duties(
        config(
            """
            [[schedule]]
            job = "verify"
            cron = "0 2 * * *"
            cluster = "orders"
            sample = "5%"
            deep = true
            """
        )
    )
    assert " ".join(duty.words) == "verify orders --sample 5% --deep"
    for wrong in ('job = "verify"\nsample = "5"', 'job = "backup"\nsample = "5%"', 'job = "check"\ndeep = true'):
        with pytest.raises(ConfigError):
            config(f'[[schedule]]\ncron = "0 2 * * *"\n{wrong}')
