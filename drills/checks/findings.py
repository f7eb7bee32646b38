"""From what a check saw to its result: states, negative controls, errors, seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from drills.checks.api import Scene
from drills.report.model import CheckResult, Control, State
from drkit.core.errors import Cancelled, DrkitError

LIMIT_S = 3600.0
NOT_DONE = "not done: "
_MOST_FACTS = 40


@dataclass(frozen=True, slots=True)
class Findings:
    """One look. problems: what is wrong with the server · errors: what could not be looked at, though it should have
    been · not_done: parts that cannot be looked at on this machine, with the reason; `nothing`: not one part could.
    """

    expected: str
    actual: str
    problems: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    not_done: tuple[str, ...] = ()
    nothing: bool = False

    @property
    def state(self) -> State:
        if self.problems:
            return State.FAILED
        if self.errors:
            return State.ERROR
        return State.SKIPPED if self.nothing else State.PASSED


@dataclass(frozen=True, slots=True)
class Caught:
    """What a negative control came to."""

    control: Control
    text: str


def caught(what: str, before: Iterable[str], after: Iterable[str]) -> Caught:
    """Whether a look at the sabotaged state (`what`) found a problem that the look before had not."""
    known = set(before)
    fresh = [problem for problem in after if problem not in known]
    if fresh:
        return Caught(Control.CAUGHT, f"{what}: {fresh[0]}")
    return Caught(Control.MISSED, f"{what}: not noticed")


def all_caught(tries: Iterable[Caught]) -> Caught:
    """One missed control is a missed control."""
    made = list(tries)
    if not made:
        return Caught(Control.NONE, "")
    missed = any(one.control is Control.MISSED for one in made)
    return Caught(Control.MISSED if missed else Control.CAUGHT, " · ".join(one.text for one in made))


def conduct(
    name: str,
    title: str,
    scene: Scene,
    *,
    required: bool,
    limit_s: float,
    look: Callable[[Scene], Findings],
    sabotage: Callable[[Scene, Findings], Caught],
) -> CheckResult:
    """Look, then sabotage and look again, within `limit_s`. A control that cannot be carried out is MISSED.

    There is no control where the look itself was not possible.
    """
    begun_s = scene.monotonic()
    token = scene.token.child(deadline_s=limit_s)
    try:
        bounded = replace(scene, token=token)
        seen = _look(bounded, look)
        control = Caught(Control.NONE, "")
        if seen.state in (State.PASSED, State.FAILED):
            control = _sabotage(bounded, seen, sabotage)
    finally:
        token.close()
    return CheckResult(
        check=name,
        title=title,
        state=seen.state,
        required=required,
        expected=seen.expected,
        actual=_actual(seen),
        control=control.control,
        control_text=control.text,
        facts=_facts(seen),
        seconds=scene.monotonic() - begun_s,
    )


def not_carried_out(name: str, title: str, *, required: bool, why: str, state: State = State.SKIPPED) -> CheckResult:
    """The result of a check that was never begun."""
    return CheckResult(name, title, state, required, expected="", actual=why)


def _look(scene: Scene, look: Callable[[Scene], Findings]) -> Findings:
    try:
        scene.token.check()
        return look(scene)
    except (DrkitError, OSError) as error:
        return Findings("", "", errors=(_reason(error),))


def _sabotage(scene: Scene, seen: Findings, sabotage: Callable[[Scene, Findings], Caught]) -> Caught:
    try:
        scene.token.check()
        return sabotage(scene, seen)
    except (DrkitError, OSError) as error:
        return Caught(Control.MISSED, f"the control could not be carried out: {_reason(error)}")


def _reason(error: DrkitError | OSError) -> str:
    if isinstance(error, Cancelled):
        return f"cancelled: {error.why}" if error.why else str(error)
    return str(error)


def _actual(seen: Findings) -> str:
    told = seen.problems or seen.errors
    if not told:
        return seen.actual
    more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
    return f"{told[0]}{more}"


def _facts(seen: Findings) -> tuple[str, ...]:
    """Evidence, the gravest first; what was not done comes before the rest, for it must not be cut off."""
    told = [*seen.problems, *seen.errors][1:]
    lines = [*(NOT_DONE + one for one in seen.not_done), *told, *seen.facts]
    if seen.state is not State.PASSED and seen.actual:
        lines.append(seen.actual)
    if len(lines) > _MOST_FACTS:
        lines = [*lines[: _MOST_FACTS - 1], f"and {len(lines) - _MOST_FACTS + 1} more"]
    return tuple(lines)
