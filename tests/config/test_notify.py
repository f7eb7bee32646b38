"""[notify], and where metrics may be asked for."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from drkit.config.notify import Notify
from drkit.config.secrets import Hook, hook
from drkit.core.errors import ConfigError
from tests.config.example import TEXT
from tests.config.test_load import loaded, refused


def test_what_is_set_is_there(tmp_path: Path) -> None:
    more = """
[notify]
webhook = "https://chat.example/hook"
header_file = "/etc/drkit/header"
command = ["/bin/page", "me"]
min_level = "error"
repeat = "1h"
[daemon]
metrics = "[::1]:9187"
look_every = "10m"
"""
    config = loaded(tmp_path, TEXT + more).config
    assert config.notify.command == ("/bin/page", "me")
    assert (config.notify.repeat, config.notify.timeout) == (timedelta(hours=1), timedelta(seconds=10))
    assert (config.daemon.metrics, config.daemon.look_every) == ("[::1]:9187", timedelta(minutes=10))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[daemon]\nmetrics = "0.0.0.0:9187"', "proxy"),
        ('[daemon]\nmetrics = "db1.example:9187"', "loopback"),
        ('[daemon]\nmetrics = "127.0.0.1"', "127.0.0.1:9187"),
        ('[daemon]\nmetrics = "127.0.0.1:99999"', "127.0.0.1:9187"),
        ('[daemon]\nlook_every = "1s"', "at least 1m"),
        ('[notify]\nwebhook = "ftp://chat.example/hook"', "https://HOST/PATH"),
        ('[notify]\nwebhook = "https://me:s3cret@chat.example/hook"', "header_file"),
        ('[notify]\nwebhook = "https://a.example"\nwebhook_file = "/x"', "one of"),
        ('[notify]\nheader_file = "/x"', "goes with a webhook"),
        ('[notify]\ncommand = "/bin/page me"', "notify.command"),
        ('[notify]\ntimeout = "0s"', "longer than 0s"),
        ('[notify]\nrepeat = "1s"', "at least 1m"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, text: str, told: str) -> None:
    assert told in refused(tmp_path, f"{TEXT}\n{text}\n")


def secret(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "secret"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_url_and_header_from_files(tmp_path: Path) -> None:
    header = secret(tmp_path, "Authorization: Bearer s3cret\n")
    found = hook(Notify(webhook="https://a.example/x", header_file=header))
    assert found == Hook("https://a.example/x", ("Authorization", "Bearer s3cret"))
    assert "s3cret" not in repr(found)
    assert hook(Notify(webhook_file=secret(tmp_path, "https://a.example/s3cret\n"))) == Hook("https://a.example/s3cret")


@pytest.mark.parametrize("text", ["Bearer s3cret", "A B: x", "A: x\r\nB: y", ": x"])
def test_a_file_that_is_no_header_is_refused_unseen(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        hook(Notify(webhook="https://a.example/x", header_file=secret(tmp_path, text)))
    assert "s3cret" not in str(error.value)


def test_a_secret_that_everyone_may_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not safe"):
        hook(Notify(webhook_file=secret(tmp_path, "https://a.example", 0o644)))
    with pytest.raises(ConfigError, match="no URL"):
        hook(Notify(webhook_file=secret(tmp_path, "s3cret")))
