"""The verdict: what decides, in which order, and the one sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from drills.judge import Facts, judge_drill
from drills.report.model import CheckResult, Control, Loss, Objective, Probe, State, Verdict


def check(name: str = "V2", state: State = State.PASSED, **more: object) -> CheckResult:
    made = CheckResult(name, "title", state, True, "as it was", "2 rows differ", Control.CAUGHT, "emptied")
    return replace(made, **more)  # type: ignore[arg-type]


LOSS = Loss(expected=1000, kept=997, lost=3, in_doubt=0, loss_s=4.1, target_error_s=0.0, sound=True)
GOOD = Facts(
    opening="Lost site fra.",
    steady=(Probe("archiving works", True, ""),),
    proof=(Probe("the server is gone", True, ""),),
    checks=(check("V1"), check("V2")),
    objectives=(Objective("rpo", 60.0, 4.1, "3 rows"), Objective("rto", 1800.0, 1062.0, "17 m 42 s")),
    loss=LOSS,
    rto_s=1062.0,
    rows=1000,
    restored_bytes=1 << 30,
)


def test_the_sentence_says_it_all() -> None:
    found = judge_drill(GOOD)
    assert (found.verdict, found.reasons) == (Verdict.PASS, ())
    assert found.sentence == (
        "Lost site fra. Writes were accepted again after 17 m 42 s (objective 30 m). "
        "3 acknowledged rows lost, the last 4.1 s before the fault (objective 1 m)."
    )


@pytest.mark.parametrize(
    ("change", "verdict", "reason"),
    [
        ({"aborted": "SIGTERM was received"}, Verdict.ABORTED, "SIGTERM was received"),
        ({"unready": "cannot connect"}, Verdict.INCONCLUSIVE, "cannot connect"),
        ({"steady": (Probe("archiving works", False, "3 failed"),)}, Verdict.INCONCLUSIVE, "steady state: archiving"),
        ({"steady": (Probe("archiving works", None, "?"),)}, Verdict.INCONCLUSIVE, "steady state: archiving works: ?"),
        ({"proof": (Probe("gone", None, "nobody looked"),)}, Verdict.INCONCLUSIVE, "the fault is not proven: gone"),
        ({"broken": "recovery stopped"}, Verdict.FAIL, "recovery stopped"),
        ({"loss": replace(LOSS, sound=False, wrong=("1 rows invented",))}, Verdict.FAIL, "the ledger is wrong"),
        ({"objectives": (Objective("rpo", 4.0, 4.1, "late"),)}, Verdict.FAIL, "the objective rpo is broken: late"),
        ({"objectives": (Objective("rto", 4.0, None, ""),), "rto_s": None}, Verdict.FAIL, "no write was accepted"),
        ({"checks": (check(state=State.FAILED),)}, Verdict.FAIL, "check V2 failed: 2 rows differ"),
        ({"checks": (check(state=State.SKIPPED),)}, Verdict.INCONCLUSIVE, "check V2 was skipped"),
        ({"checks": (check(state=State.ERROR),)}, Verdict.INCONCLUSIVE, "check V2 could not be carried out"),
        ({"checks": (check(control=Control.MISSED),)}, Verdict.INCONCLUSIVE, "check V2 did not notice its negative"),
        ({"min_rows": 1001}, Verdict.INCONCLUSIVE, "1000 rows were acknowledged"),
        ({"min_bytes": 2 << 30}, Verdict.INCONCLUSIVE, "1.00 GiB were restored, at least 2.00 GiB"),
        ({"loss": replace(LOSS, kept=0, lost=1000)}, Verdict.INCONCLUSIVE, "not one row of the ledger came back"),
    ],
)
def test_one_thing_that_is_wrong_decides(change: dict[str, object], verdict: Verdict, reason: str) -> None:
    found = judge_drill(replace(GOOD, **change))  # type: ignore[arg-type]
    assert found.verdict is verdict
    assert found.reasons[0].startswith(reason)


def test_the_graver_kind_wins_and_nothing_is_left_out() -> None:
    failed, skipped = check("V2", State.FAILED), check("V4", State.SKIPPED)
    found = judge_drill(replace(GOOD, checks=(skipped, failed)))
    assert found.verdict is Verdict.FAIL
    assert [reason.split()[1] for reason in found.reasons] == ["V2", "V4"]
    unproven = judge_drill(replace(GOOD, checks=(failed,), proof=(Probe("gone", False, ""),)))
    assert unproven.verdict is Verdict.INCONCLUSIVE and len(unproven.reasons) == 2


def test_what_is_not_required_decides_nothing() -> None:
    extra = replace(check("V5", State.FAILED, control=Control.MISSED), required=False)
    assert judge_drill(replace(GOOD, checks=(extra,))).verdict is Verdict.PASS


def test_what_was_not_promised_cannot_be_broken() -> None:
    found = judge_drill(replace(GOOD, objectives=(Objective("rpo", None, 9e9, ""),), loss=None))
    assert found.verdict is Verdict.PASS and "The loss was not measured." in found.sentence


UNSEEN = replace(LOSS, expected=1500, kept=8, lost=1492, loss_s=10.2, at_least=True, wrote_s=10.1)


def test_a_ledger_that_lost_all_it_wrote_in_less_than_the_rpo_proves_nothing() -> None:
    facts = replace(GOOD, loss=UNSEEN, objectives=(Objective("rpo", 120.0, None, ""), *GOOD.objectives[1:]))
    found = judge_drill(facts)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.reasons == (
        "the ledger wrote for 10.1 s before the fault, and all of that is lost; the rpo is 2 m: that more would be "
        "lost cannot be seen; set load longer than the rpo",
    )
    assert "1,492 acknowledged rows lost, at least the last 10.2 s before the fault (objective 2 m)." in found.sentence


def test_a_lower_bound_beyond_the_rpo_is_a_failure_and_without_an_rpo_nothing() -> None:
    broken = replace(GOOD, loss=UNSEEN, objectives=(Objective("rpo", 5.0, 10.2, "late"),))
    assert judge_drill(broken).verdict is Verdict.FAIL
    unpromised = replace(GOOD, loss=UNSEEN, objectives=(Objective("rpo", None, None, ""),))
    assert judge_drill(unpromised).verdict is Verdict.PASS
    assert judge_drill(replace(GOOD, loss=UNSEEN, objectives=())).verdict is Verdict.PASS


def test_a_declared_allowance_is_named() -> None:
    assert ", 5 m of it declared" in judge_drill(replace(GOOD, allowance_s=300.0)).sentence


def test_a_failure_without_figures_tells_its_reason() -> None:
    found = judge_drill(Facts(opening="Lost site fra.", broken="there is no good backup on b"))
    assert found.sentence == "Lost site fra. Failed: there is no good backup on b."
