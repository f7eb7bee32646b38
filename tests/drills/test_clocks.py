"""The clocks T0 to T12: stamped once, told relative to the disaster, an allowance shown apart."""

from __future__ import annotations

from drills.clocks import Clocks
from drills.report.model import CLOCKS


def test_all_thirteen_are_told_and_the_first_stamp_counts() -> None:
    now = [100.0]
    clocks = Clocks(lambda: now[0])
    clocks.stamp("T0", 90.0)
    clocks.stamp("T3")
    now[0] = 160.0
    clocks.stamp("T3")
    clocks.stamp("T11")
    clocks.omit("T12", "not done here")
    found = {one.clock: one for one in clocks.instants()}
    assert list(found) == list(CLOCKS)
    assert (found["T0"].at_s, found["T3"].at_s, found["T11"].at_s) == (0.0, 10.0, 70.0)
    assert found["T12"].at_s is None and found["T12"].why == "not done here"
    assert found["T5"].why == "the drill did not get that far"
    assert found["T2"].at_s is None and not found["T2"].declared


def test_an_allowance_is_declared_and_counts_into_what_comes_after() -> None:
    clocks = Clocks(lambda: 0.0, allowance_s=300.0)
    clocks.stamp("T0", 10.0)
    clocks.stamp("T11", 40.0)
    found = {one.clock: one for one in clocks.instants()}
    assert found["T2"].declared and found["T2"].at_s == 300.0 and "not measured" in found["T2"].why
    assert clocks.since_t0("T11") == 330.0 and not found["T11"].declared


def test_nothing_is_relative_to_a_disaster_that_never_was() -> None:
    clocks = Clocks(lambda: 5.0, allowance_s=60.0)
    clocks.stamp("T3")
    assert all(one.at_s is None for one in clocks.instants())
