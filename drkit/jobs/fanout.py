"""One call on every target at once, with an end to waiting: a target that hangs delays nobody for ever."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from drkit.core.clock import Clock
from drkit.core.errors import DrkitError, Unreachable
from drkit.repository.repository import Problem
from drkit.repository.target import Target
from storage_backends.errors import StorageError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """deadline_s: the longest wait in all · grace_s: how long the slower ones are awaited once there is enough."""

    deadline_s: float = 120.0
    grace_s: float = 3.0


@dataclass(frozen=True, slots=True)
class Answers(Generic[T]):
    """By target name. Each target is in exactly one of the two; who did not answer in time is Unreachable."""

    good: dict[str, T]
    failed: dict[str, Problem]


def ask_all(
    targets: Sequence[Target],
    call: Callable[[Target], T],
    enough: Callable[[Mapping[str, T]], bool],
    patience: Patience,
    clock: Clock,
) -> Answers[T]:
    """Run `call` for each target in a thread of its own.

    Returns when all have ended, `grace_s` after `enough(answers)` first holds, or at the deadline. A thread
    left behind goes on; what it still does must be harmless. An error that is neither a storage error nor one of
    drkit's is raised here.
    """
    ended: queue.SimpleQueue[tuple[str, T | None, BaseException | None]] = queue.SimpleQueue()

    def root(target: Target) -> None:
        try:
            ended.put((target.name, call(target), None))
        except BaseException as error:  # noqa: BLE001  a thread root: the caller raises it
            ended.put((target.name, None, error))

    for target in targets:
        threading.Thread(target=root, args=(target,), name=f"target/{target.name}", daemon=True).start()
    answers: Answers[T] = Answers({}, {})
    until = clock.monotonic() + patience.deadline_s
    satisfied = False
    while len(answers.good) + len(answers.failed) < len(targets):
        if not satisfied and enough(answers.good):
            satisfied, until = True, min(until, clock.monotonic() + patience.grace_s)
        try:
            name, value, error = ended.get(timeout=max(0.0, until - clock.monotonic()))
        except queue.Empty:
            break
        if error is None:
            answers.good[name] = value  # type: ignore[assignment]  # None only where T allows it
        elif isinstance(error, StorageError | DrkitError):
            answers.failed[name] = error
        else:
            raise error
    for target in targets:
        if target.name not in answers.good and target.name not in answers.failed:
            answers.failed[target.name] = Unreachable("the target did not answer in time", where=target.where)
    return answers
