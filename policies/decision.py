"""What a policy says of the world: kept, broken, or not known, and why."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum


class State(Enum):
    """UNKNOWN is never green: what was not seen is not kept."""

    KEPT = "kept"
    BROKEN = "broken"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Decision:
    """One question and its answer: `found` of `needed`, and the facts that led there, one sentence each."""

    name: str
    state: State
    needed: int
    found: int
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Breach:
    """A promise that is not kept. actual None: nobody knows, which is no better."""

    promise: str
    promised: timedelta | str
    actual: timedelta | str | None
    why: str
    cure: str = ""


def judge(needed: int, sure: int, possible: int) -> State:
    """KEPT by what is known, BROKEN even if all that is unknown were good, else UNKNOWN."""
    if sure >= needed:
        return State.KEPT
    return State.UNKNOWN if possible >= needed else State.BROKEN


def worst(states: tuple[State, ...]) -> State:
    """BROKEN before UNKNOWN before KEPT; nothing judged is KEPT."""
    for state in (State.BROKEN, State.UNKNOWN):
        if state in states:
            return state
    return State.KEPT
