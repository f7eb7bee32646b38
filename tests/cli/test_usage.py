"""The usage line: what may be left out stands in brackets, once."""

from __future__ import annotations

import pytest

from drkit.cli.app import main
from drkit.cli.exits import USAGE


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


@pytest.mark.parametrize("verb", ["backup", "restore", "replicate", "verify"])
@pytest.mark.parametrize("count", ["-1", "257", "100000", "many"])
def test_a_number_of_workers_that_cannot_be(verb: str, count: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the configuration is looked for, and never by running out of threads."""
    assert main([verb, "--workers", count]) == USAGE
    told = capsys.readouterr().err
    assert "'--workers'" in told and ("256" in told) == (count in ("257", "100000"))
