"""Secrets, read when they are wanted and from where the configuration says; never printed."""

from __future__ import annotations

import json
import re
import shlex
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from drkit.config.model import Keys, Target
from drkit.config.notify import Notify
from drkit.config.values import webhook
from drkit.core.errors import ConfigError, KeyMissing
from drkit.crypto.keys import parse_key_file

_HEADER = re.compile(r"[A-Za-z0-9-]+\Z")
COMMAND_TIMEOUT_S = 60
MAX_SECRET_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Secret:
    """A text that shows itself to `reveal` only."""

    _text: str = field(repr=False)

    def reveal(self) -> str:
        return self._text

    def __str__(self) -> str:
        return "***"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What an S3 request is signed with."""

    access_key: str
    secret_key: Secret
    session_token: Secret | None = None


def read_file(path: Path, purpose: str) -> Secret:
    """The text of a file less one line end. Raises ConfigError: missing, empty, no text, readable by everyone."""
    return _secret(_read(path, purpose), purpose, str(path))


def read_key_file(path: Path, purpose: str) -> bytes:
    """The key in a key file.

    Raises ConfigError where the file cannot be read, is empty, or everyone may read it; KeyMissing where it is missing
    or, whatever its content, is no key file.
    """
    if not path.exists():
        cure = "is its filesystem mounted? a copy of the key kept elsewhere opens the repository as well"
        raise KeyMissing(f"{purpose} is missing", where=str(path), cure=cure)
    data = _read(path, purpose)
    if not data:
        raise ConfigError(f"{purpose} is empty", where=str(path), cure="is it the right file?")
    return parse_key_file(data.decode(errors="replace"), str(path))


def _read(path: Path, purpose: str) -> bytes:
    """At most one byte more than `MAX_SECRET_BYTES`."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(path.stat().st_mode)
            data = file.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        cure = "is the path right, and may this user read the file?"
        raise ConfigError(f"{purpose} cannot be read", where=str(path), why=error.strerror or "", cure=cure) from error
    if mode & stat.S_IROTH:
        why = f"everyone may read it (mode {mode:04o})"
        raise ConfigError(f"{purpose} is not safe", where=str(path), why=why, cure=f"chmod 600 {path}")
    return data


def run_command(command: str, purpose: str) -> Secret:
    """What a command prints, less one line end; run without a shell. Raises ConfigError."""
    words = shlex.split(command)
    name = words[0] if words else ""
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
    except (OSError, ValueError, IndexError) as error:
        cure = "is the program installed? it is run without a shell: name it by its whole path"
        raise ConfigError(f"{purpose}: the command does not start", where=name, why=str(error), cure=cure) from error
    except subprocess.TimeoutExpired:
        why = f"no answer in {COMMAND_TIMEOUT_S} s"
        cure = "does it wait for input? it gets none"
        raise ConfigError(f"{purpose}: the command hangs", where=name, why=why, cure=cure) from None
    if done.returncode != 0:
        words_of_it = done.stderr.decode(errors="replace").strip().splitlines()
        why = f"exit {done.returncode}" + (f": {words_of_it[-1]}" if words_of_it else "")
        raise ConfigError(f"{purpose}: the command failed", where=name, why=why, cure="run it as this user to see why")
    return _secret(done.stdout, f"{purpose}: the command's answer", name)


def _secret(data: bytes, purpose: str, where: str) -> Secret:
    if len(data) > MAX_SECRET_BYTES:
        why, cure = f"more than {MAX_SECRET_BYTES} bytes", "is it the right file or command?"
        raise ConfigError(f"{purpose} is too long", where=where, why=why, cure=cure)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{purpose} is not text", where=where, cure="is it the right file or command?") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise ConfigError(f"{purpose} is empty", where=where, cure="is it the right file or command?")
    return Secret(text)


def passphrase(keys: Keys, env: Mapping[str, str]) -> Secret | None:
    """The passphrase of the master key, None where the key is in a file. Raises KeyMissing, ConfigError."""
    given = env.get("DRKIT_KEYS__PASSPHRASE")
    if given:
        return Secret(given)
    if keys.passphrase_file is not None:
        return read_file(keys.passphrase_file, "the passphrase")
    if keys.passphrase_command is not None:
        return run_command(keys.passphrase_command, "the passphrase")
    if keys.file is not None:
        return None
    raise KeyMissing(
        "no key is configured",
        where="[keys]",
        cure="set file, passphrase_file or passphrase_command, or DRKIT_KEYS__PASSPHRASE",
    )


@dataclass(frozen=True, slots=True)
class Hook:
    """Where events are sent, and the header that goes with each, name and value; ("", "") without one."""

    url: str = field(repr=False)
    header: tuple[str, str] = field(default=("", ""), repr=False)


def hook(notify: Notify) -> Hook:
    """Read anew for each event: a secret may be exchanged while the daemon runs. Raises ConfigError."""
    if notify.webhook_file is not None:
        try:
            url = webhook(read_file(notify.webhook_file, "the webhook").reveal().strip())
        except ValueError as error:
            where = str(notify.webhook_file)
            raise ConfigError("the webhook's file holds no URL", where=where, why=str(error)) from None
    else:
        url = notify.webhook or ""
    if notify.header_file is None:
        return Hook(url)
    name, colon, value = read_file(notify.header_file, "the webhook's header").reveal().partition(":")
    if not colon or not _HEADER.match(name) or not value.strip().isprintable():
        cure = "write one line: Authorization: Bearer ..."
        raise ConfigError("the webhook's header is none", where=str(notify.header_file), cure=cure)
    return Hook(url, (name, value.strip()))


def credentials(name: str, target: Target, env: Mapping[str, str]) -> Credentials | None:
    """What target `name` signs requests with; None: the store's own chain (profile, AWS_*). ConfigError."""
    prefix = f"DRKIT_TARGET__{name.upper().replace('-', '_')}__"
    access, secret = env.get(f"{prefix}ACCESS_KEY"), env.get(f"{prefix}SECRET_KEY")
    if access and secret:
        token = env.get(f"{prefix}SESSION_TOKEN")
        return Credentials(access, Secret(secret), Secret(token) if token else None)
    if access or secret:
        missing = f"{prefix}{'SECRET_KEY' if access else 'ACCESS_KEY'}"
        raise ConfigError(f"{prefix}ACCESS_KEY and {prefix}SECRET_KEY come together", cure=f"set {missing} as well")
    purpose = f"the credentials of target {name}"
    if target.access_key_file is not None and target.secret_key_file is not None:
        access_key = read_file(target.access_key_file, f"the access key of target {name}").reveal()
        return Credentials(access_key, read_file(target.secret_key_file, f"the secret key of target {name}"))
    if target.credentials_command is not None:
        return _from_command(run_command(target.credentials_command, purpose), purpose)
    return None


def _from_command(output: Secret, purpose: str) -> Credentials:
    """The JSON of an AWS credential_process, or two lines: access key, secret key."""
    text = output.reveal()
    lines = text.splitlines()
    if len(lines) == 2 and not text.startswith("{"):
        return Credentials(lines[0], Secret(lines[1]))
    try:
        answer = json.loads(text)
        token = answer.get("SessionToken")
        return Credentials(
            str(answer["AccessKeyId"]),
            Secret(str(answer["SecretAccessKey"])),
            Secret(token) if token else None,
        )
    except (ValueError, KeyError, AttributeError):
        why = "wanted two lines, or JSON with AccessKeyId and SecretAccessKey"
        cure = "run it to see what it prints"
        raise ConfigError(f"{purpose}: the command's answer is not understood", why=why, cure=cure) from None
