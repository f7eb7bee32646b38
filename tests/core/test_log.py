"""Logs are parseable, in UTC, with the run's id, and never hold a secret."""

import io
import json

import pytest

from drkit.core.log import StreamLog, redact
from tests.core.clocks import HandClock


def test_key_values() -> None:
    stream = io.StringIO()
    log = StreamLog(stream, run_id="r1", clock=HandClock())
    log.info("wal pushed", segment="00000001", size_bytes=12, path="/a b", note='say "x"\n', target=None)
    log.debug("not shown")
    assert stream.getvalue() == (
        'at=2026-07-01T00:00:00.000000Z level=info run=r1 event="wal pushed" segment=00000001 size_bytes=12 '
        'path="/a b" note="say \\"x\\"\\n" target=null\n'
    )


def test_json_lines() -> None:
    stream = io.StringIO()
    log = StreamLog(stream, run_id="r1", clock=HandClock(), as_json=True, level="debug")
    log.debug("one", n=1)
    log.error("two\nlines", ok=False)
    records = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(r["level"], r["event"], r["run"]) for r in records] == [
        ("debug", "one", "r1"),
        ("error", "two\nlines", "r1"),
    ]


@pytest.mark.parametrize("as_json", [True, False])
def test_secrets_are_hidden(as_json: bool) -> None:
    stream = io.StringIO()
    log = StreamLog(stream, run_id="r1", clock=HandClock(), as_json=as_json)
    log.info(
        "connected",
        passphrase="hunter2",
        secret_key="hunter2",
        url="s3://id:hunter2@host/b",
        connection="host=a password=hunter2 user=b",
        quoted="password='hunter2 hunter2'",
        passphrase_file="/etc/drkit/pass",
    )
    assert "hunter2" not in stream.getvalue()
    assert "/etc/drkit/pass" in stream.getvalue()
    assert redact("no secret here: a@b") == "no secret here: a@b"
