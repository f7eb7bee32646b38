"""On a server that was restored as it should be every check passes, and every negative control is caught."""

from __future__ import annotations

from dataclasses import replace

import pytest

from drills.checks.api import Check
from drills.checks.assertion import Assertion
from drills.checks.registry import CHECKS, chosen, run_checks
from drills.report.model import Control, State
from drkit.core.cancel import CancelToken
from drkit.core.errors import UsageError
from tests.drills.checks.world import Copied, World

pytestmark = pytest.mark.real

OWN = Assertion("orders", "select count(*) = 2000 from orders")


def test_all_pass_with_their_controls_caught_and_leave_the_server_as_it_was(copied: Copied) -> None:
    server, scene = copied
    begun: list[str] = []

    def note(check: Check) -> None:
        begun.append(check.name)

    for names in (CHECKS, CHECKS.keys() - {"V3"}):  # V4's control has left its damage in the log
        results = run_checks(chosen(names, [OWN]), scene, {"V1", "orders"}, note)
        assert [(one.check, one.state, one.actual) for one in results if one.state is not State.PASSED] == []
        assert [(one.check, one.control_text) for one in results if one.control is not Control.CAUGHT] == []
        assert [one.check for one in results if one.required] == ["V1", "orders"]
    assert begun[:7] == ["V3", "V1", "V2", "V5", "V6", "orders", "V4"]
    assert server.value("select count(*) from pg_extension where extname = 'amcheck'") == 0


def test_what_runs_after_a_cancellation_is_not_begun(world: World) -> None:
    token = CancelToken()
    token.cancel("the drill was stopped")
    results = run_checks(chosen({"V1", "V4"}), replace(world.scene, token=token), {"V1"})
    assert [(one.check, one.state, one.actual) for one in results] == [
        ("V1", State.SKIPPED, "not begun: the drill was stopped"),
        ("V4", State.SKIPPED, "not begun: the drill was stopped"),
    ]


def test_a_check_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="'V10' is no check"):
        chosen({"V1", "V10"})
