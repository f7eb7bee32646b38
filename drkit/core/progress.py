"""Progress as events. What works emits; what shows it (`drkit.cli.progress`) decides how and how often."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

from drkit.core.clock import Clock

TICK_S = 0.25  # four times a second looks fluent on a terminal and costs nothing measurable


@dataclass(frozen=True, slots=True)
class Event:
    """The state of one phase: `done_bytes` of `total_bytes` (None where nobody knows), and a line to say."""

    phase: str
    done_bytes: int = 0
    total_bytes: int | None = None
    message: str = ""
    finished: bool = False


class Progress(Protocol):
    """Thread-safe; never raises, never waits: a lost event is better than a slow backup."""

    def emit(self, event: Event) -> None: ...


class Silent:
    """Shows nothing."""

    def emit(self, event: Event) -> None:
        return None


class Tally:
    """Counts the bytes of one phase from any thread and emits at most one event per `TICK_S`."""

    def __init__(self, progress: Progress, phase: str, *, clock: Clock, total_bytes: int | None = None) -> None:
        self._progress = progress
        self._phase = phase
        self._clock = clock
        self._total_bytes = total_bytes
        self._done_bytes = 0
        self._lock = threading.Lock()
        self._next_at = clock.monotonic() + TICK_S
        progress.emit(Event(phase, 0, total_bytes))

    @property
    def done_bytes(self) -> int:
        return self._done_bytes

    def add(self, size_bytes: int) -> None:
        with self._lock:
            self._done_bytes += size_bytes
            now = self._clock.monotonic()
            if now < self._next_at:
                return
            self._next_at = now + TICK_S
            event = Event(self._phase, self._done_bytes, self._total_bytes)
        self._progress.emit(event)

    def finish(self, message: str = "") -> None:
        self._progress.emit(Event(self._phase, self._done_bytes, self._total_bytes, message, finished=True))
