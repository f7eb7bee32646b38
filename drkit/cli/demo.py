"""`drkit demo`: a server, its backups, a drill and a disaster, in one folder."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from drkit.cli.context import Context, of
from drkit.cli.render import answer_json, use_color
from drkit.core.errors import Missing

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH = 110
_INDENT = " " * 3


def run(
    ctx: typer.Context,
    keep: Annotated[Path | None, typer.Option("--keep", metavar="DIR", help="use this folder and leave it")] = None,
    major: Annotated[int, typer.Option("--major", metavar="N", help="the PostgreSQL to use")] = 18,
    rows: Annotated[int, typer.Option("--rows", metavar="N", min=1000, help="how many orders")] = 300_000,
) -> int:
    """See it work: a throw-away PostgreSQL, a daemon that backs it up, a drill, a disaster, every row accounted for.

    Needs no server and no configuration. Writes drkit-demo-report.html into the current folder, and leaves nothing
    else behind. A third copy goes to S3 where DRKIT_DEMO_S3_URL (s3://bucket/prefix),
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
    order = Order(_programs(), os.environ, keep, _here(), major, rows)
    teller = _Screen(context)
    with signals_cancel(token), _first_signal_only():
        report = demo(order, teller, clock, token)
    if context.json:
        answer_json(SCHEMA, report.as_json())
    else:
        teller.end(report.faults, report.page)
    return FAILED if report.faults else DONE


def _programs() -> Path:
    """The folder with this installation's drkit and drkit-wal. Raises Missing."""
    beside = Path(sys.executable).parent
    found = shutil.which("drkit-wal")
    for folder in (beside, Path(sys.argv[0]).absolute().parent, *([Path(found).parent] if found else [])):
        if (folder / "drkit").is_file() and (folder / "drkit-wal").is_file():
            return folder
    raise Missing("the programs drkit and drkit-wal", where=str(beside), cure="pip install drkit, or: make demo")


def _here() -> Path | None:
    """The current folder; None where it is gone."""
    try:
        return Path.cwd()
    except OSError:
        return None


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

    def typed(self, line: str) -> None:
        self._line(f"   {self._paint('2', '$')} {self._paint('36', line)}")

    def said(self, line: str) -> None:
        self._line(_filled(line, _INDENT, _INDENT))

    def shown(self, lines: Sequence[str]) -> None:
        for line in lines:
            self._line(f"   {self._paint('2', '|')} {line}".rstrip())

    def judged(self, word: str, line: str, *, passed: bool) -> None:
        text = _filled(f"{word}  {line}", _INDENT, _INDENT + " " * (len(word) + 2))
        self._line(text.replace(word, self._paint("1;32" if passed else "1;31", word), 1))

    def rows(self, rows: Sequence[tuple[str, str]]) -> None:
        width = max((len(name) for name, _ in rows), default=0)
        for name, text in rows:
            head = f"{_INDENT}{name:<{width}}  "
            filled = _filled(text, head, " " * len(head))
            self._line(filled if not name else filled.replace(name, self._paint("1", name), 1))

    @contextmanager
    def busy(self, doing: str) -> Iterator[Callable[[str], None]]:
        if not self._live:
            yield lambda text: None
            return
        from rich.console import Console
        from rich.text import Text

        self._console = self._console or Console(stderr=True)
        with self._console.status(Text(f"{doing} ...")) as status:
            yield lambda text: status.update(Text(f"{text} ..."))

    def end(self, faults: list[str], page: Path | None) -> None:
        """The last lines: whether it proved what it set out to prove, and where to read on."""
        if faults:
            self._line("\n" + self._paint("1;31", "Not as promised:"))
            for fault in faults:
                self._line(f"   {fault}")
        else:
            text = "Every acknowledged row is accounted for, and both promises were kept."
            self._line("\n" + self._paint("1;32", text))
        if page is not None:
            self._line(f"The report of the disaster; any browser opens it: {self._paint('36', str(page))}")

    def _line(self, text: str) -> None:
        if not self._json and not self._quiet:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._color else text


def _filled(text: str, first: str, rest: str) -> str:
    return textwrap.fill(
        text, _WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )
