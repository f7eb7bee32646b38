"""The promise of verification is judged by evidence: the target that was verified longest ago counts."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from drkit.jobs.policy_facts import gather, verified_at
from drkit.jobs.policy_judge import judge
from drkit.jobs.policy_server import Server
from drkit.repository.evidence import Known
from policies.decision import State
from policies.objectives import Promises
from tests.jobs.test_policy_facts import NOW, backup, order, stored

DAY = timedelta(days=1)
PROMISED = Promises(max_verify_age=7 * DAY)


def known(findings: int = 0, **at: datetime) -> Known:
    return Known({}, dict.fromkeys(at, findings), at, 0.0)


@pytest.mark.parametrize(
    ("evidence", "age"),
    [
        (known(), None),
        (known(a=NOW - DAY), None),
        (known(a=NOW - DAY, b=NOW - 3 * DAY), 3 * DAY),
        (known(a=NOW - DAY, b=NOW - 9 * DAY), 9 * DAY),
    ],
)
def test_every_target_must_have_been_verified(evidence: Known, age: timedelta | None) -> None:
    asked = order("a", "b", promises=PROMISED)
    seen = replace(stored([backup(1, ago=timedelta(hours=1))]), verified=evidence)
    found = verified_at(asked, seen)
    assert (None if found is None else NOW - found) == age
    judgement = judge(gather(asked, Server(True), seen, NOW), PROMISED)
    missed = [breach for breach in judgement.breaches if breach.promise == "max_verify_age"]
    assert bool(missed) == (age is None or age > 7 * DAY)


@pytest.mark.parametrize(("findings", "state"), [(0, State.UNKNOWN), (2, State.BROKEN)])
def test_open_findings_break_the_zero_of_the_rule(findings: int, state: State) -> None:
    asked = order("a", "b", rule="2-1-0-0-0")
    seen = replace(stored([backup(1, ago=timedelta(hours=1))]), verified=known(findings, a=NOW, b=NOW))
    judgement = judge(gather(asked, Server(True), seen, NOW), Promises())
    (errors,) = [one for one in judgement.decisions if one.name == "errors"]
    assert errors.state is state
    assert any("open findings" in why for why in errors.reasons) == bool(findings)
