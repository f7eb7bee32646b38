"""All checks by name, and the order in which they run: what leaves the server unharmed comes first.

V3 reads the log before the others' controls write errors into it. V1, V2 and V5 look and roll their sabotage back, V6
writes and cleans up, V4 stops the server.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType

from drills.checks.api import Check, Scene
from drills.checks.application import ApplicationCheck
from drills.checks.assertion import Assertion
from drills.checks.cluster import ClusterCheck
from drills.checks.findings import not_carried_out
from drills.checks.ledger import LedgerCheck
from drills.checks.log import LogCheck
from drills.checks.physical import PhysicalCheck
from drills.checks.tables import TablesCheck
from drills.report.model import CheckResult
from drkit.core.errors import UsageError

_ORDER: tuple[Check, ...] = (
    LogCheck(), LedgerCheck(), TablesCheck(), ClusterCheck(), ApplicationCheck(), PhysicalCheck(),
)  # fmt: skip
CHECKS: Mapping[str, Check] = MappingProxyType({check.name: check for check in _ORDER})
_AT_REST = frozenset({"V4"})


def chosen(names: Collection[str], assertions: Sequence[Assertion] = ()) -> list[Check]:
    """The checks of these names and the user's own, in the order to run them. Raises UsageError: no such check."""
    unknown = sorted(set(names) - CHECKS.keys())
    if unknown:
        raise UsageError(f"{unknown[0]!r} is no check", cure=f"choose from {', '.join(sorted(CHECKS))}")
    wanted = [check for name, check in CHECKS.items() if name in names]
    before = [check for check in wanted if check.name not in _AT_REST]
    return [*before, *assertions, *(check for check in wanted if check.name in _AT_REST)]


def run_checks(
    checks: Sequence[Check],
    scene: Scene,
    required: Collection[str],
    begun: Callable[[Check], None] = lambda check: None,
) -> tuple[CheckResult, ...]:
    """One after the other; `begun` is told of each. Once the scene's token is cancelled, the rest is SKIPPED."""
    results = []
    for check in checks:
        if scene.token.cancelled:
            why = f"not begun: {scene.token.reason}"
            results.append(not_carried_out(check.name, check.title, required=check.name in required, why=why))
            continue
        begun(check)
        results.append(check.run(scene, required=check.name in required))
    return tuple(results)
