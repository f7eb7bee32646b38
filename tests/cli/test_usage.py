"""The usage line: what may be left out stands in brackets, once."""

from __future__ import annotations

import pytest

from drkit.cli.app import main


@pytest.mark.parametrize(
    ("verb", "usage"),
    [
        ("show", "[OPTIONS] [CLUSTER] BACKUP"),
        ("list", "[OPTIONS] [CLUSTER]"),
        ("windows", "[OPTIONS] [CLUSTER]"),
        ("restore", "[OPTIONS] [CLUSTER]"),
    ],
)
def test_usage(verb: str, usage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith(f" {verb} {usage}")
