"""`drkit demo`: a server, a backup, a disaster and a restore, in one folder."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from drkit.cli.context import Context, of
from drkit.cli.render import answer_json, use_color
from drkit.cli.verbs import VERBS, Verb
from drkit.core.errors import Missing

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH = 118


def run(
    ctx: typer.Context,
    keep: Annotated[Path | None, typer.Option("--keep", metavar="DIR", help="use this folder and leave it")] = None,
    major: Annotated[int, typer.Option("--major", metavar="N", help="the PostgreSQL to use")] = 18,
    rows: Annotated[int, typer.Option("--rows", metavar="N", min=1000, help="how many orders")] = 1_000_000,
) -> int:
    """See it work: a throw-away PostgreSQL, backups under load, a DROP TABLE, a crash, and every row accounted for.

    Needs no server and no configuration. A third copy goes to S3 where DRKIT_DEMO_S3_URL (s3://bucket/prefix),
    _ENDPOINT, _ACCESS_KEY and _SECRET_KEY are set.
    """
    from drills.demo.report import SCHEMA
    from drills.demo.story import Order, demo
    from drkit.cli.exits import DONE, FAILED
    from drkit.core.cancel import CancelToken, signals_cancel
    from drkit.core.clock import SystemClock

    context = of(ctx)
    clock = SystemClock()
    token = CancelToken(clock=clock)
    order = Order(_programs(), _verbs(), os.environ, keep, major, rows)
    teller = _Screen(context)
    with signals_cancel(token), _first_signal_only():
        report = demo(order, teller, clock, token)
    if context.json:
        answer_json(SCHEMA, report.as_json())
    else:
        teller.end(report.faults)
    return FAILED if report.faults else DONE


def _programs() -> Path:
    """The folder with this installation's drkit and drkit-wal. Raises Missing."""
    beside = Path(sys.executable).parent
    found = shutil.which("drkit-wal")
    for folder in (beside, Path(sys.argv[0]).absolute().parent, *([Path(found).parent] if found else [])):
        if (folder / "drkit").is_file() and (folder / "drkit-wal").is_file():
            return folder
    raise Missing("the programs drkit and drkit-wal", where=str(beside), cure="pip install drkit, or: make demo")


def _verbs() -> frozenset[str]:
    """The plain verbs that this installation has."""
    plain = ((name, verb) for name, verb in VERBS.items() if isinstance(verb, Verb))
    return frozenset(name for name, verb in plain if find_spec(f"drkit.cli.{verb.module}") is not None)


@contextmanager
def _first_signal_only() -> Iterator[None]:
    """Cleaning up is short, and a second Ctrl-C would leave servers behind: only the first one counts."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    inner = {number: signal.getsignal(number) for number in numbers}
    seen = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        handler = inner[signal.Signals(number)]
        if not seen and callable(handler):
            seen = True
            handler(number, frame)

    for number in numbers:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number, handler in inner.items():
            signal.signal(number, handler)


class _Screen:
    """The story on stdout; what goes on meanwhile on stderr, where that is a terminal. With --json only the latter."""

    def __init__(self, context: Context) -> None:
        self._json, self._quiet = context.json, context.verbosity < 0
        self._color = use_color(sys.stdout, context.color)
        self._live = sys.stderr.isatty() and not self._quiet
        self._console: Console | None = None

    def heading(self, number: int, title: str) -> None:
        self._line(("\n" if number > 1 else "") + self._paint("1", f"{number}  {title}"))

    def typed(self, line: str, *, prompt: str = "$") -> None:
        self._line(f"   {self._paint('2', prompt)} {self._paint('36', line)}")

    def said(self, line: str) -> None:
        self._line(textwrap.fill(line, _WIDTH, initial_indent="   ", subsequent_indent="   ", break_long_words=False))

    def rows(self, rows: list[tuple[str, str]]) -> None:
        width = max(len(name) for name, _ in rows)
        for name, text in rows:
            self._line(f"   {self._paint('1', f'{name:<{width}}')}  {text}")

    @contextmanager
    def busy(self, doing: str) -> Iterator[None]:
        if not self._live:
            yield
            return
        from rich.console import Console

        self._console = self._console or Console(stderr=True)
        with self._console.status(f"{doing} ..."):
            yield

    def end(self, faults: list[str]) -> None:
        """The last line: whether it proved what it set out to prove."""
        if faults:
            self._line("\n" + self._paint("1;31", "Not as promised:"))
            for fault in faults:
                self._line(f"   {fault}")
        else:
            text = "Every acknowledged row is accounted for, and both promises were kept."
            self._line("\n" + self._paint("1;32", text))

    def _line(self, text: str) -> None:
        if not self._json and not self._quiet:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._color else text
