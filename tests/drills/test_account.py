"""The ledger's verdict as the report tells it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from drills.account import loss_of, objectives_of
from drills.ledger import Entry, Moment, Row
from drills.report.model import Fate, Loss, Run
from drkit.config.drill import Drill

FAULT = Moment(100.0, 100.2)


def entry(number: int, sent_s: float, acknowledged_s: float | None) -> Entry:
    return Entry("w", number, f"digest {number}", sent_s, acknowledged_s)


def row(number: int) -> Row:
    return Row("w", number, f"digest {number}")


def test_every_row_around_the_fault_has_its_fate() -> None:
    entries = [entry(1, 95.0, 95.1), entry(2, 97.0, 97.1), entry(3, 98.0, None), entry(4, 101.0, 101.1)]
    loss = loss_of(entries, [row(1), row(3)], FAULT, t0_s=100.0)
    assert {one.number: one.fate for one in loss.strip} == {
        1: Fate.KEPT,
        2: Fate.LOST,
        3: Fate.IN_DOUBT,
        4: Fate.BEYOND,
    }
    assert (loss.expected, loss.kept, loss.lost, loss.in_doubt) == (2, 1, 1, 1)
    assert loss.strip[0].at_s == 95.1 - 100.0
    assert not loss.sound and "missing below later rows" in loss.wrong[0]


def test_a_row_that_nobody_was_told_of_is_not_on_the_strip() -> None:
    loss = loss_of([entry(1, 95.0, 95.1), entry(2, 99.0, None)], [row(1)], FAULT, t0_s=100.0)
    assert [one.number for one in loss.strip] == [1] and loss.sound


def test_a_row_under_way_at_the_target_is_legal_either_way() -> None:
    entries = [entry(1, 95.0, 95.1), entry(2, 100.1, 100.3)]
    there, gone = (loss_of(entries, rows, FAULT, 100.0) for rows in ([row(1), row(2)], [row(1)]))
    assert there.sound and gone.sound and gone.lost == 0
    assert there.strip[1].fate is Fate.KEPT and gone.strip[1].fate is Fate.BEYOND


def test_a_long_strip_keeps_what_is_nearest_and_all_that_is_lost() -> None:
    entries = [entry(number, number / 100, number / 100 + 0.001) for number in range(1, 5001)]
    loss = loss_of(entries, [row(number) for number in range(2, 5001)], Moment(50.0, 50.0), 50.0)
    assert len(loss.strip) == 600
    assert loss.strip[0].number == 1 and loss.strip[0].fate is Fate.LOST and loss.strip[-1].number == 5000


def under_load(kept: int) -> Loss:
    """Ten seconds of rows, ten each; the segment of the first five was ended on purpose; `kept` came back."""
    entries = [entry(number, 90 + number / 10, 90.05 + number / 10) for number in range(100)]
    return loss_of(entries, [row(number) for number in range(kept)], FAULT, 100.0, anchored_s=90.45)


def test_a_loss_of_all_that_was_not_put_in_safety_on_purpose_is_a_lower_bound() -> None:
    drill = Drill.model_validate({"scenario": "region-loss", "rpo": "2m", "ledger": True})
    for kept, at_least in ((0, True), (3, True), (5, True), (6, False), (97, False), (100, False)):
        loss = under_load(kept)
        assert (loss.at_least, loss.lost, loss.sound) == (at_least, 100 - kept, True), kept
        rpo, _ = objectives_of(drill, (None, None), loss, 1.0, 0.0)
        assert rpo.kept is (None if at_least else True)
    assert under_load(5).wrote_s == pytest.approx(9.55)
    assert under_load(6).loss_s == pytest.approx(9.45)


def test_a_lower_bound_beyond_the_objective_breaks_it() -> None:
    drill = Drill.model_validate({"scenario": "region-loss", "rpo": "5s", "ledger": True})
    rpo, _ = objectives_of(drill, (None, None), under_load(5), 1.0, 0.0)
    assert rpo.kept is False and rpo.measured_s == pytest.approx(9.55) and "at least 9.6s" in rpo.text


def test_every_lost_row_is_in_a_run() -> None:
    assert under_load(40).lost_runs == (Run("w", 40, 99),)
    assert under_load(100).lost_runs == ()


def test_objectives_are_the_drills_own_or_the_clusters() -> None:
    drill = Drill.model_validate({"scenario": "disk-lost", "rpo": "5s", "ledger": True})
    rpo, rto = objectives_of(drill, (timedelta(minutes=1), timedelta(minutes=2)), None, 150.0, 60.0)
    assert (rpo.promised_s, rpo.measured_s, rpo.kept) == (5.0, None, None)
    assert (rto.promised_s, rto.kept) == (120.0, False)
    assert "1m 30s measured, 1m declared" in rto.text
    unmeasured = Drill.model_validate({"scenario": "disk-lost"})
    assert [one.name for one in objectives_of(unmeasured, (None, None), None, None, 0.0)] == ["rto"]
    only = Drill.model_validate({"scenario": "disk-lost", "tests": ["rto"], "ledger": True})
    assert [one.name for one in objectives_of(only, (None, None), None, None, 0.0)] == ["rto"]
