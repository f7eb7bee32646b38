"""`drkit drill ledger`: rows with a journal, written by hand and judged by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drkit.cli.app import main
from drkit.core.clock import SystemClock
from drkit.core.units import format_time
from tests.acceptance.scene import newest_major
from tests.docs.json_page import differences, read_page
from tests.real.postgres import Server

pytestmark = pytest.mark.real


def answer(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    status = main(["--json", "drill", "ledger", *words])
    said = capsys.readouterr()
    assert status == code, said.err
    value: dict[str, Any] = json.loads(said.out or said.err.splitlines()[-1])
    return value


def test_an_exercise_by_hand(
    pg_any: Callable[[int], Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server, book = pg_any(newest_major()), tmp_path / "book"
    conninfo, page = server.conninfo(), read_page()
    words = ["--connection", conninfo, "--for", "1s", "--writers", "2", "--pace", "5ms"]
    ran = answer(capsys, "run", "--into", str(book), *words)
    assert ran["acknowledged"] == server.value("select count(*) from drkit_drill.ledger") > 10
    refused = answer(capsys, "run", "--into", str(book), *words, code=4)
    assert "holds journals already" in refused["error"]["what"]

    whole = answer(capsys, "judge", str(book), "--connection", conninfo)
    assert (whole["sound"], whole["expected"], whole["lost"]) == (True, ran["acknowledged"], [])
    later = answer(capsys, "judge", str(book), "--connection", conninfo, "--until", format_time(SystemClock().now()))
    assert later["expected"] == ran["acknowledged"] and later["loss_s"] < 60
    for found, schema in ((ran, "drkit.drill.ledger.run/1"), (whole, "drkit.drill.ledger.judge/1")):
        found.pop("schema")
        assert list(differences(found, page[schema])) == []

    server.query("delete from drkit_drill.ledger where writer = 'writer-1' and number = 2")
    server.query("update drkit_drill.ledger set payload = 'x' where writer = 'writer-2' and number = 1")
    wrong = answer(capsys, "judge", str(book), "--connection", conninfo, code=10)
    assert wrong["holes"] == [{"writer": "writer-1", "number": 2}]
    assert wrong["changed"] == [{"writer": "writer-2", "number": 1}]
    missing = answer(capsys, "judge", str(tmp_path), "--connection", conninfo, code=5)
    assert "no journal" in missing["error"]["what"]
    server.query("drop schema drkit_drill cascade")
