"""Events that were not delivered yet, on disk: a daemon that ends, or a receiver that is away, loses none.

    <spool>/notify/<channel>/<number>.json    an event, numbered in the order in which it was told
    <spool>/notify/<channel>/lost             how many were given up, JSON

At most `KEPT` wait for one channel; then the oldest are given up, and counted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from storage_backends import durable
from storage_backends.oserrors import os_errors

KEPT = 1000
_FOLDER = "notify"


@dataclass(frozen=True, slots=True)
class Waiting:
    """number: its place in the queue · value: the event as it is sent."""

    number: int
    value: Mapping[str, object]


class Outbox:
    """Used by one thread, but for what only counts. Making one touches nothing. What writes raises StorageError."""

    def __init__(self, spool: Path, channel: str) -> None:
        self._folder = spool / _FOLDER / channel

    def put(self, value: Mapping[str, object]) -> None:
        """Durable on return."""
        durable.make_dirs(self._folder)
        numbers = self._numbers()
        durable.replace(self._folder / f"{(numbers[-1] if numbers else 0) + 1:012}.json", json.dumps(value).encode())
        if len(numbers) >= KEPT:
            self._give_up(numbers[: len(numbers) - KEPT + 1])

    def first(self) -> Waiting | None:
        """The oldest that waits; one that cannot be read is given up."""
        for number in self._numbers():
            try:
                value = json.loads((self._folder / f"{number:012}.json").read_bytes())
            except (OSError, ValueError):
                value = None
            if isinstance(value, dict):
                return Waiting(number, value)
            self._give_up([number])
        return None

    def delivered(self, waiting: Waiting) -> None:
        self._remove(waiting.number)

    def give_up(self, waiting: Waiting) -> None:
        """It will never be delivered."""
        self._give_up([waiting.number])

    def count(self) -> int:
        return len(self._numbers())

    def since(self) -> datetime | None:
        """When the oldest that waits was put here; None: none waits."""
        for number in self._numbers():
            try:
                return datetime.fromtimestamp((self._folder / f"{number:012}.json").stat().st_mtime, UTC)
            except OSError:
                continue  # it was delivered just now
        return None

    def lost(self) -> int:
        """How many were given up, ever."""
        try:
            return int(json.loads((self._folder / "lost").read_bytes())["count"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def _give_up(self, numbers: list[int]) -> None:
        durable.replace(self._folder / "lost", json.dumps({"count": self.lost() + len(numbers)}).encode())
        for number in numbers:
            self._remove(number)

    def _remove(self, number: int) -> None:
        with os_errors("remove an event", str(self._folder)):
            (self._folder / f"{number:012}.json").unlink(missing_ok=True)

    def _numbers(self) -> list[int]:
        try:
            names = [path.name for path in self._folder.iterdir()]
        except OSError:
            return []
        return sorted(int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdecimal())
