"""How progress looks: bars on a terminal, a line every few seconds elsewhere, nothing with -q."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, TextIO

from drkit.cli.context import Context
from drkit.cli.render import use_color
from drkit.core.clock import Clock
from drkit.core.log import Field, key_values
from drkit.core.progress import Event, Progress, Silent
from drkit.core.units import format_duration, format_rate, format_time

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

SCHEMA = "drkit.progress/1"
EVERY_S = 5.0
MEASURED_S = 1.0
FORECAST_BYTES = 1 << 20


@contextmanager
def shown(context: Context, stream: TextIO, clock: Clock) -> Iterator[Progress]:
    """The Progress that fits the flags and the stream (stderr), for the length of a block."""
    if context.verbosity < 0:
        yield Silent()
    elif context.json or not stream.isatty():
        yield Plain(stream, clock, as_json=context.json)
    else:
        with _bars(stream, color=use_color(stream, context.color)) as bars:
            yield Bars(bars)


def pace(event: Event, elapsed_s: float) -> tuple[float | None, float | None]:
    """Bytes a second since the phase began, and the seconds left; None where they would rest on next to nothing.

    A rate rests on a second and some bytes; a forecast on a hundredth of the whole or `FORECAST_BYTES` as well.
    """
    if elapsed_s < MEASURED_S or not event.done_bytes:
        return None, None
    rate = event.done_bytes / elapsed_s
    total = event.total_bytes
    if total is None or event.finished or event.done_bytes < min(total / 100, FORECAST_BYTES):
        return rate, None
    return rate, max(0, total - event.done_bytes) / rate


class Plain:
    """A line when a phase begins, every `EVERY_S` seconds, and when it ends; key=value or JSON."""

    def __init__(self, stream: TextIO, clock: Clock, *, as_json: bool = False, every_s: float = EVERY_S) -> None:
        self._stream = stream
        self._clock = clock
        self._as_json = as_json
        self._every_s = every_s
        self._lock = threading.Lock()
        self._begun_at: dict[str, float] = {}
        self._said_at: dict[str, float] = {}

    def emit(self, event: Event) -> None:
        now = self._clock.monotonic()
        with self._lock:
            begun_at = self._begun_at.setdefault(event.phase, now)
            last = self._said_at.get(event.phase)
            if not (event.finished or event.message or last is None or now - last >= self._every_s):
                return
            self._said_at[event.phase] = now
            try:
                self._stream.write(self._line(event, now - begun_at) + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                return  # whoever read the progress left; the work goes on

    def _line(self, event: Event, elapsed_s: float) -> str:
        rate, eta_s = pace(event, elapsed_s)
        record: dict[str, Field] = {"at": format_time(self._clock.now()), "phase": event.phase}
        record["done_bytes"] = event.done_bytes
        if event.total_bytes is not None:
            record["total_bytes"] = event.total_bytes
        if self._as_json:
            record["bytes_per_s"] = None if rate is None else round(rate)
            record["eta_s"] = None if eta_s is None else round(eta_s, 1)
            record |= {"message": event.message, "finished": event.finished}
            return json.dumps({"schema": SCHEMA, **record}, ensure_ascii=False)
        if rate is not None:
            record["rate"] = format_rate(rate).replace(" ", "")
        if eta_s is not None:
            record["eta"] = format_duration(timedelta(seconds=eta_s)).replace(" ", "")
        if event.message:
            record["message"] = event.message
        if event.finished:
            record["finished"] = True
        return key_values(record)


class Bars:
    """One bar per phase: bytes, rate, time left."""

    def __init__(self, drawn: RichProgress) -> None:
        self._drawn = drawn
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def emit(self, event: Event) -> None:
        with self._lock:
            task = self._tasks.get(event.phase)
            if task is None:
                task = self._drawn.add_task(event.phase, total=event.total_bytes)
                self._tasks[event.phase] = task
        total = event.total_bytes
        if event.finished and total is None:
            total = event.done_bytes
        self._drawn.update(task, completed=event.done_bytes, total=total)
        if event.message:
            self._drawn.console.print(event.message, markup=False, highlight=False)


def _bars(stream: TextIO, *, color: bool) -> RichProgress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
    )
    from rich.text import Text

    def paced(task: Task) -> tuple[float | None, float | None]:
        total = None if task.total is None else int(task.total)
        event = Event(task.description, int(task.completed), total, finished=task.finished)
        return pace(event, (task.finished_time if task.finished else task.elapsed) or 0.0)

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            rate = paced(task)[0]
            return Text("" if rate is None else format_rate(rate))

    class Left(ProgressColumn):
        max_refresh = 0.5  # a figure that changes faster is not read

        def render(self, task: Task) -> Text:
            eta_s = paced(task)[1]
            return Text("" if eta_s is None else format_duration(timedelta(seconds=eta_s)))

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        Speed(),
        Left(),
        console=Console(file=stream, no_color=not color),
    )
