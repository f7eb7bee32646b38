"""A rate of the network holds jobs back, each target for itself, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from drkit.cli.context import Context
from drkit.cli.wire import Network, open_wiring, paced
from drkit.core.errors import UsageError
from storage_backends.limit import Limited
from storage_backends.retry import Retrying


def _limits(folder: Path, network: Network | None) -> dict[str, float | None]:
    """By target the bytes a second that it lets through."""
    config = folder / "drkit.toml"
    lines = ['[cluster.sales]\nconnection = ""\nsite = "here"', f'[keys]\nfile = "{folder}/key"']
    for name, rate in (("a", 'rate = "3MB"'), ("b", "")):
        (folder / name).mkdir(exist_ok=True)
        lines.append(f'[target.{name}]\nurl = "file://{folder}/{name}"\nsite = "here"\n{rate}')
    config.write_text("\n".join(lines))
    with open_wiring(Context(config_path=config), network=network) as wiring:
        targets, failed = wiring.targets()
        assert not failed
        found: dict[str, float | None] = {}
        for target in targets:
            assert isinstance(target.backend, Retrying)
            inner = target.backend._inner
            if isinstance(inner, Limited):
                assert inner._upload is inner._download and inner._upload is not None
            found[target.name] = inner._upload._rate if isinstance(inner, Limited) and inner._upload else None
        return found


def test_a_job_keeps_to_the_targets_rate_and_to_the_one_that_is_asked_for(tmp_path: Path) -> None:
    assert _limits(tmp_path, None) == {"a": None, "b": None}, "WAL is not held back"
    assert _limits(tmp_path, paced(None)) == {"a": 3_000_000, "b": None}
    assert _limits(tmp_path, paced("500kB")) == {"a": 500_000, "b": 500_000}


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="not a rate"):
        paced("0MB")
