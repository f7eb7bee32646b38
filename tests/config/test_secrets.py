"""Secrets come from where the configuration says, are refused where unsafe, and never show themselves."""

import sys
from pathlib import Path

import pytest

from drkit.config.model import Keys, Target
from drkit.config.secrets import Secret, credentials, passphrase, read_file
from drkit.core.errors import ConfigError, KeyMissing


def private(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_secret_does_not_show_itself() -> None:
    secret = Secret("hunter2")
    assert "hunter2" not in f"{secret} {secret!r}"
    assert secret.reveal() == "hunter2"


def test_a_file_less_one_line_end(tmp_path: Path) -> None:
    assert read_file(private(tmp_path / "p", " two words \n\n"), "it").reveal() == " two words \n"


@pytest.mark.parametrize(("text", "mode", "told"), [("x", 0o644, "everyone may read"), ("\n", 0o600, "empty")])
def test_unsafe_or_empty(tmp_path: Path, text: str, mode: int, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_file(private(tmp_path / "p", text, mode), "the passphrase")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gone"):
        read_file(tmp_path / "gone", "the passphrase")


def test_the_ways_to_a_passphrase(tmp_path: Path) -> None:
    file = private(tmp_path / "p", "from file\n")
    command = f"{sys.executable} -c \"print('from command')\""
    ways = [
        (Keys(), {"DRKIT_KEYS__PASSPHRASE": "from env"}, "from env"),
        (Keys(passphrase_file=file), {}, "from file"),
        (Keys(passphrase_command=command), {}, "from command"),
    ]
    for keys, env, expected in ways:
        found = passphrase(keys, env)
        assert found is not None
        assert found.reveal() == expected
    assert passphrase(Keys(file=tmp_path / "key"), {}) is None
    with pytest.raises(KeyMissing):
        passphrase(Keys(), {})


@pytest.mark.parametrize(
    ("command", "told"),
    [("false", "exit 1"), ("/does/not/exist", "does not start"), ("", "does not start"), ("true", "empty")],
)
def test_a_command_that_fails(command: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        passphrase(Keys(passphrase_command=command), {})


def test_which_of_two_keys_is_not_safe_is_told_in_a_sentence(tmp_path: Path) -> None:
    access, secret = private(tmp_path / "a", "id\n"), private(tmp_path / "s", "secret\n", 0o644)
    target = Target(url="s3://bucket", site="x", access_key_file=access, secret_key_file=secret)
    with pytest.raises(ConfigError, match=r"^the secret key of target vault is not safe"):
        credentials("vault", target, {})
    target = Target(url="s3://bucket", site="x", credentials_command="true")
    with pytest.raises(ConfigError, match=r"^the credentials of target vault: the command's answer is empty"):
        credentials("vault", target, {})


def test_the_ways_to_credentials(tmp_path: Path) -> None:
    url, access = "s3://bucket", private(tmp_path / "a", "id\n")
    secret = private(tmp_path / "s", "secret\n")
    script = private(tmp_path / "c.py", 'print(\'{"AccessKeyId": "id", "SecretAccessKey": "secret"}\')')
    lines = private(tmp_path / "l.py", "print('id'); print('secret')")
    bare = Target(url=url, site="x")
    ways: list[tuple[Target, dict[str, str]]] = [
        (Target(url=url, site="x", access_key_file=access, secret_key_file=secret), {}),
        (Target(url=url, site="x", credentials_command=f"{sys.executable} {script}"), {}),
        (Target(url=url, site="x", credentials_command=f"{sys.executable} {lines}"), {}),
        (bare, {"DRKIT_TARGET__MY_VAULT__ACCESS_KEY": "id", "DRKIT_TARGET__MY_VAULT__SECRET_KEY": "secret"}),
    ]
    for target, env in ways:
        found = credentials("my-vault", target, env)
        assert found is not None
        assert (found.access_key, found.secret_key.reveal()) == ("id", "secret")
    assert credentials("my-vault", bare, {}) is None
    with pytest.raises(ConfigError, match="come together"):
        credentials("my-vault", bare, {"DRKIT_TARGET__MY_VAULT__ACCESS_KEY": "id"})
    with pytest.raises(ConfigError, match="not understood"):
        credentials("my-vault", Target(url=url, site="x", credentials_command="echo hello"), {})
