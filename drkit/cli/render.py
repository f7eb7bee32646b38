"""Answers on stdout, errors on stderr; for people or as JSON, one object each."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TextIO

from drkit.cli.exits import Problem
from drkit.core.log import redact
from drkit.core.units import format_time

if TYPE_CHECKING:
    from collections.abc import Iterable

ERROR_SCHEMA = "drkit.error/1"


def answer_json(schema: str, payload: Mapping[str, object], stream: TextIO | None = None) -> None:
    """One object: `schema` first. Times become ISO UTC, durations seconds, all else that JSON lacks its str()."""
    text = json.dumps({"schema": schema, **payload}, default=_plain, ensure_ascii=False)
    (stream or sys.stdout).write(text + "\n")


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return format_time(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, set | frozenset):
        return sorted(str(item) for item in value)
    return str(value)


def error_text(problem: Problem, *, color: bool = False) -> str:
    """What, where, why and cure, one per line, as people read it."""
    bold, plain = ("\x1b[1;31m", "\x1b[0m") if color else ("", "")
    lines = [f"{bold}drkit: {redact(problem.what)}{plain}"]
    for label, text in (("where", problem.where), ("why", problem.why), ("cure", problem.cure)):
        if text:
            lines.append(f"  {label + ':':<6} {redact(text)}")
    lines += [f"  also:  {redact(note)}" for note in problem.also]
    return "\n".join(lines) + "\n"


def error_json(problem: Problem) -> dict[str, object]:
    parts = {part: redact(getattr(problem, part)) for part in ("code", "what", "where", "why", "cure")}
    return {**parts, "also": [redact(note) for note in problem.also]}


def show_error(problem: Problem, *, as_json: bool, color: bool = False, stream: TextIO | None = None) -> None:
    """On stderr: text, or one line of JSON of schema drkit.error/1."""
    to = stream or sys.stderr
    if as_json:
        answer_json(ERROR_SCHEMA, {"error": error_json(problem)}, to)
    else:
        to.write(error_text(problem, color=color))


def use_color(stream: TextIO, wanted: bool, env: Mapping[str, str] | None = None) -> bool:
    """Colour only on a terminal that can, unless --no-color or NO_COLOR (any value but none)."""
    env = os.environ if env is None else env
    return wanted and not env.get("NO_COLOR") and env.get("TERM") != "dumb" and stream.isatty()


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: frozenset[str] = frozenset(),
    color: bool = True,
    stream: TextIO | None = None,
) -> None:
    """Rows under headings; `right` names the columns of figures.

    On a terminal drawn by rich; elsewhere plain columns, one row a line however long, for grep and awk.
    """
    to = stream or sys.stdout
    filled = [list(row) for row in rows]
    if use_color(to, color):
        _rich_table(columns, filled, right, to)
        return
    widths = [max(len(row[at]) for row in [list(columns), *filled]) for at in range(len(columns))]
    for row in [list(columns), *filled]:
        cells = [
            cell.rjust(width) if name in right else cell.ljust(width)
            for cell, width, name in zip(row, widths, columns, strict=True)
        ]
        to.write("  ".join(cells).rstrip() + "\n")


def _rich_table(columns: Sequence[str], rows: list[list[str]], right: frozenset[str], stream: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        drawn.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    Console(file=stream, highlight=False).print(drawn)
