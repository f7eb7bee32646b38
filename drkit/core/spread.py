"""Calls that mostly wait for answers, several at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

AT_ONCE = 8
"""So many answers of a store are waited for at once: half of the connections that a store keeps open by default."""


def spread(call: Callable[[T], R], items: Iterable[T], at_once: int = AT_ONCE) -> list[R]:
    """What `call` returns for each item, in their order; `call` runs in up to `at_once` threads.

    Memory: the results. All that was begun has ended on return. After an error nothing more is begun, and of the errors
    that of the first item is raised. One at a time runs in the thread of the caller.
    """
    todo = list(items)
    if min(len(todo), at_once) <= 1:
        return [call(item) for item in todo]
    found: dict[int, R] = {}
    errors: dict[int, BaseException] = {}
    numbers = iter(range(len(todo)))
    lock = threading.Lock()

    def root() -> None:
        while True:
            with lock:
                number = next(numbers, None) if not errors else None
            if number is None:
                return
            try:
                found[number] = call(todo[number])
            except BaseException as error:  # noqa: BLE001  a thread root: the caller raises it
                errors[number] = error

    threads = [threading.Thread(target=root, name="spread", daemon=True) for _ in range(min(len(todo), at_once))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[min(errors)]
    return [found[number] for number in range(len(todo))]
