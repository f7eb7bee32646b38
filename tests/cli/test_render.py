"""Answers for people and for programs."""

import io
import json
import os
import pty
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drkit.cli.context import Context
from drkit.cli.progress import Bars, Plain, pace, shown
from drkit.cli.render import answer_json, table, use_color
from drkit.core.progress import Event, Silent
from tests.core.clocks import HandClock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_an_answer_is_one_object_with_its_schema_first() -> None:
    stream = io.StringIO()
    at = datetime(2026, 7, 1, 12, tzinfo=UTC)
    payload = {"at": at, "age": timedelta(seconds=1.5), "path": Path("/a"), "name": "ü", "sites": {"b", "a"}}
    answer_json("drkit.list/1", payload, stream)
    assert stream.getvalue().startswith('{"schema": "drkit.list/1"')
    assert json.loads(stream.getvalue()) == {
        "schema": "drkit.list/1",
        "at": "2026-07-01T12:00:00.000000Z",
        "age": 1.5,
        "path": "/a",
        "name": "ü",
        "sites": ["a", "b"],
    }


def test_a_table_in_a_pipe_is_plain_columns() -> None:
    stream = io.StringIO()
    table(["backup", "size"], [["20260701", "5 B"], ["x", "12.0 MiB"]], right=frozenset({"size"}), stream=stream)
    assert stream.getvalue() == "backup        size\n20260701       5 B\nx         12.0 MiB\n"


def test_a_table_on_a_terminal_takes_text_as_it_is() -> None:
    stream = Terminal()
    table(["name"], [["[red]not markup[/red]"]], stream=stream)
    assert "[red]not markup[/red]" in stream.getvalue()


@pytest.mark.parametrize(
    ("env", "wanted", "expected"),
    [({}, True, True), ({}, False, False), ({"NO_COLOR": "1"}, True, False), ({"TERM": "dumb"}, True, False)],
)
def test_colour_only_where_wanted(env: dict[str, str], wanted: bool, expected: bool) -> None:
    assert use_color(Terminal(), wanted, env) is expected
    assert use_color(io.StringIO(), wanted, env) is False


def test_progress_in_a_pipe_is_a_line_every_few_seconds() -> None:
    stream, clock = io.StringIO(), HandClock()
    plain = Plain(stream, clock, every_s=5)
    for done in range(0, 1000, 100):
        plain.emit(Event("copy", done, 1000))
        clock.advance(1)
    plain.emit(Event("copy", 1000, 1000, "all there", finished=True))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert "phase=copy done_bytes=500 total_bytes=1000 rate=100B/s eta=5s" in lines[1]
    assert lines[2].endswith('message="all there" finished=true')


@pytest.mark.parametrize(
    ("event", "elapsed_s", "rate", "eta_s"),
    [
        (Event("copy", 24 << 20, 24 << 20, finished=True), 0.05, None, None),
        (Event("copy", 3000, 9000), 0.9, None, None),
        (Event("copy", 3000, 9000), 1.0, 3000, 2),
        (Event("copy", 0, 9000), 60, None, None),
        (Event("copy", 8, 100 << 20), 5, 1.6, None),
        (Event("copy", 1 << 20, 11 << 30), 2, 1 << 19, 22526),
        (Event("copy", 9000, 9000, finished=True), 3, 3000, None),
        (Event("copy", 9000), 3, 3000, None),
        (Event("copy", 12000, 9000), 3, 4000, 0),
    ],
)
def test_a_rate_rests_on_a_second_and_a_forecast_on_some_bytes(
    event: Event, elapsed_s: float, rate: float | None, eta_s: float | None
) -> None:
    assert pace(event, elapsed_s) == (rate, eta_s)


def test_a_phase_of_milliseconds_has_no_rate_in_its_lines() -> None:
    for as_json in (False, True):
        stream, clock = io.StringIO(), HandClock()
        plain = Plain(stream, clock, as_json=as_json)
        plain.emit(Event("copy", 0, 1 << 30))
        clock.advance(0.004)
        plain.emit(Event("copy", 1 << 30, 1 << 30, finished=True))
        last = stream.getvalue().splitlines()[-1]
        assert json.loads(last)["bytes_per_s"] is None if as_json else "rate" not in last


def test_progress_as_json_lines() -> None:
    stream, clock = io.StringIO(), HandClock()
    with shown(Context(json=True), stream, clock) as progress:
        progress.emit(Event("copy", 0, None))
        clock.advance(10)
        progress.emit(Event("copy", 50, 100))
    records = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [record["done_bytes"] for record in records] == [0, 50]
    assert records[1] | {"at": ""} == {
        "schema": "drkit.progress/1",
        "at": "",
        "phase": "copy",
        "done_bytes": 50,
        "total_bytes": 100,
        "bytes_per_s": 5,
        "eta_s": 10.0,
        "message": "",
        "finished": False,
    }


def test_quiet_shows_nothing_and_a_closed_stream_harms_nobody() -> None:
    with shown(Context(verbosity=-1), io.StringIO(), HandClock()) as progress:
        assert isinstance(progress, Silent)
    closed = io.StringIO()
    closed.close()
    Plain(closed, HandClock()).emit(Event("copy"))


def test_bars_on_a_terminal() -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream, shown(Context(), stream, HandClock()) as progress:
        assert isinstance(progress, Bars)
        progress.emit(Event("copy", 10, 100))
        progress.emit(Event("copy", 100, 100, "[b]as it is", finished=True))
    drawn = b"".join(iter(lambda: _rest(ours), b"")).decode()
    os.close(ours)
    assert "copy" in drawn
    assert "[b]as it is" in drawn


def _rest(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how a terminal says that its other end is closed and all is read
        return b""
