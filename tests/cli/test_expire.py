"""`drkit expire` and `drkit hold` as a process, on folders without a server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drkit.cli.app import main
from drkit.cli.expire import terms_of
from drkit.config.load import load
from drkit.daemon.duties import duties

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def drkit(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """A repository on two folders; the function runs one command line: (status, stdout, stderr)."""
    config = tmp_path / "drkit.toml"
    config.write_text(
        f"""
        [cluster.orders]
        [target.local]
        url = "file://{tmp_path}/local"
        site = "fra"
        [target.local.retention]
        daily = "30d"
        grace = "1d"
        [target.vault]
        url = "file://{tmp_path}/vault"
        site = "dub"
        [retention]
        timezone = "Europe/Berlin"
        pitr_window = "14d"
        daily = "7d"
        yearly = "7y"
        min_full = 2
        [keys]
        file = "{tmp_path}/master.key"
        [daemon]
        spool = "{tmp_path}/spool"
        """
    )
    monkeypatch.setenv("DRKIT_CONFIG", str(config))

    def run(*words: str) -> tuple[int, str, str]:
        status = main(["-q", *words])
        told = capsys.readouterr()
        return status, told.out, told.err

    assert run("init", "--yes")[0] == 0
    return run


def answer(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    return found


def test_an_empty_repository_has_nothing_that_could_go(drkit: Run) -> None:
    for flags in ((), ("--apply",), ("--target", "vault")):
        status, out, err = drkit("expire", *flags)
        assert (status, out, err) == (0, "there is nothing that could expire\n", "")
    assert answer(drkit("expire", "--json")[1]) == {"schema": "drkit.expire/1", "applied": False, "targets": []}
    assert drkit("hold", "list")[:2] == (0, "nothing is on hold\n")


def test_a_target_that_is_away_is_told(drkit: Run, tmp_path: Path) -> None:
    (tmp_path / "vault").rename(tmp_path / "away")
    status, out, err = drkit("expire", "--json")
    assert status == 7
    (row,) = answer(out)["targets"]
    assert row["target"] == "vault" and row["problem"]
    assert answer(err.splitlines()[-1])["error"]["code"] == "not-this-target"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("expire", "--target", "moon"), 2, "local, vault"),
        (("expire", "nobody"), 2, "orders"),
        (("expire", "--removes", "-1", "--apply"), 2, "--removes"),
        (("hold", "add"), 2, "--wal"),
        (("hold", "add", "x", "--wal", "a..b"), 2, "--wal"),
        (("hold", "add", "--wal", "a..b"), 2, "24 hexadecimal digits"),
        (("hold", "add", "--wal", "000000010000000000000001"), 2, "FROM..TO"),
        (("hold", "add", "--wal", f"{'0' * 7}1{'0' * 15}2..{'0' * 7}1{'0' * 15}1"), 2, "before it begins"),
        (("hold", "add", "x", "--reason", "a\nb"), 2, "printable"),
        (("hold", "add", "20260101T000000Z-00000000"), 5, "drkit list"),
        (("hold", "release", "x"), 5, "drkit hold list"),
    ],
)
def test_what_is_wrong_is_said(drkit: Run, words: tuple[str, ...], status: int, said: str) -> None:
    found, _, err = drkit(*words)
    assert found == status and said in err


def test_a_targets_own_windows_stand_for_the_common_ones(drkit: Run, tmp_path: Path) -> None:
    config = load(tmp_path / "drkit.toml", {}, tmp_path).config
    own, plain = terms_of(config, "local"), terms_of(config, "vault")
    assert own.windows.yearly is None and own.windows.pitr is None and own.windows.daily is not None
    assert (own.grace.days, plain.grace.days, own.windows.min_full, own.windows.zone) == (1, 7, 2, "Europe/Berlin")
    assert plain.windows.yearly is not None and plain.windows.pitr is not None


def test_the_credentials_of_expiry_are_its_own(tmp_path: Path) -> None:
    path = tmp_path / "drkit.toml"
    path.write_text(
        """
        [target.vault]
        url = "s3://bucket"
        site = "dub"
        access_key_file = "/a"
        secret_key_file = "/b"
        expire_profile = "expiry"
        """
    )
    target = load(path, {}, tmp_path).config.target["vault"]
    assert target.profile is None
    mine = target.for_expiry()
    assert (mine.profile, mine.access_key_file, mine.credentials_command) == ("expiry", None, None)


def test_on_a_schedule_it_applies_and_never_says_a_number(tmp_path: Path) -> None:
    path = tmp_path / "drkit.toml"
    path.write_text(
        """
        [cluster.orders]
        [target.vault]
        url = "file:///backup"
        site = "dub"
        [[schedule]]
        job = "expire"
        cron = "0 5 * * *"
        """
    )
    (duty,) = duties(load(path, {}, tmp_path).config)
    assert duty.words == ("expire", "orders", "--apply")
