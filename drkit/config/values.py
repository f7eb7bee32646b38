"""The kinds of values a configuration holds: each checks the text as written and says what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import parse_qsl, urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field

from drkit.core import units
from drkit.core.errors import UsageError
from drkit.core.flow import MOST_WORKERS
from policies.cron import Cron as CronLine
from policies.rule import Rule

A_NAME = "a name has a-z, 0-9, '-' and '_', 40 at most"
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]|_(?!_))*\Z")
SCHEMES = ("file", "s3")
_SECRET_WORD = re.compile(r"(?:^|[\s;])\s*(password|sslpassword|oauth_client_secret)\s*=", re.IGNORECASE)
_SECRET_QUERY = ("password", "sslpassword", "oauth_client_secret")
NEVER_HERE = "secrets come by file or environment, never here"


def is_name(text: str) -> bool:
    """Whether a cluster, a target or a drill may be called so; `A_NAME` says what may."""
    return _NAME.match(text) is not None and len(text) <= 40


def _text(parse: Callable[[str], object], example: str) -> Callable[[object], object]:
    """A validator that takes the text as written; a bare number lacks its unit and is refused."""

    def validate(value: object) -> object:
        if isinstance(value, bool | int | float):
            raise ValueError(f"{value!r} has no unit; write a text such as {example!r}")
        if not isinstance(value, str):
            return value
        try:
            return parse(value)
        except UsageError as error:
            raise ValueError(". ".join(part for part in (str(error), error.cure) if part)) from error

    return validate


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f"{str(path)!r} is not an absolute path")
    return path


def _connection(text: str) -> str:
    words = _SECRET_WORD.search(text)
    parts = urlsplit(text) if text.startswith(("postgresql://", "postgres://")) else None
    query = parts and any(key.lower() in _SECRET_QUERY for key, _ in parse_qsl(parts.query))
    if words or query or (parts and parts.password is not None):
        raise ValueError(f"holds a password; {NEVER_HERE}: a passfile, a service file or PGPASSWORD")
    return text


def _target_url(text: str) -> str:
    parts = urlsplit(text)
    if "@" in parts.netloc:
        raise ValueError(f"holds credentials; {NEVER_HERE}: access_key_file, credentials_command")
    if parts.scheme not in SCHEMES:
        raise ValueError(f"the scheme {parts.scheme!r} is not known; allowed: file:///FOLDER, s3://BUCKET/PREFIX")
    if parts.scheme == "file" and (parts.netloc or not parts.path.startswith("/")):
        raise ValueError("a folder is written file:///ABSOLUTE/PATH")
    if parts.scheme == "s3" and not parts.netloc:
        raise ValueError("a bucket is written s3://BUCKET or s3://BUCKET/PREFIX")
    if parts.query or parts.fragment:
        raise ValueError("takes no '?' or '#'; options are keys of their own")
    return text


def _endpoint(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError("an endpoint is written https://HOST or http://HOST:PORT")
    if "@" in parts.netloc:
        raise ValueError(f"holds credentials; {NEVER_HERE}: access_key_file, credentials_command")
    return text


def webhook(text: str) -> str:
    """Raises ValueError where it is no URL that events can be sent to."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a webhook is written https://HOST/PATH")
    if "@" in parts.netloc:
        raise ValueError(f"holds credentials; {NEVER_HERE}: header_file, or webhook_file for a URL that is secret")
    return text


def split_address(text: str) -> tuple[str, int]:
    """Host and port of '127.0.0.1:9187' or '[::1]:9187'. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    number = int(port) if port.isascii() and port.isdecimal() and len(port) <= 5 else 0
    if not colon or not 0 < number < 65536:
        raise ValueError(f"{text!r} is no address; write 127.0.0.1:9187")
    return host.removeprefix("[").removesuffix("]"), number


def _loopback(text: str) -> str:
    host, _ = split_address(text)
    try:
        local = ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise ValueError(
            f"{host!r} is not a loopback address; allowed: 127.0.0.1:PORT, [::1]:PORT. The figures are for this host: "
            "for others put a proxy with TLS and a login in front of it"
        )
    return text


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{name!r} is not a time zone; write a name such as 'Europe/Berlin'") from error
    return name


def _cron(text: str) -> str:
    return CronLine.parse(text).text


def _share(text: str) -> str:
    try:
        units.parse_share(text)
    except UsageError as error:
        raise ValueError(f"{error}. {error.cure}") from error
    return text


def _site(text: str) -> str:
    if not text.strip():
        raise ValueError("a site has a name")
    return text


@dataclass(frozen=True, slots=True)
class Compression:
    """algorithm 'zstd' with level 1 to 19, or 'none' (level 0)."""

    algorithm: Literal["zstd", "none"]
    level: int

    def __str__(self) -> str:
        return "none" if self.algorithm == "none" else f"zstd:{self.level}"


def _compression(value: object) -> object:
    if isinstance(value, Compression):
        return value
    if value == "none":
        return Compression("none", 0)
    match = re.fullmatch(r"zstd(?::([0-9]{1,2}))?", str(value))
    level = int(match[1] or 3) if match else 0
    if not 1 <= level <= 19:
        raise ValueError(f"{value!r} is not a compression; allowed: 'none', 'zstd:1' to 'zstd:19'")
    return Compression("zstd", level)


def _rule(value: object) -> object:
    return value if isinstance(value, Rule) else Rule.parse(str(value))


Duration = Annotated[timedelta, BeforeValidator(_text(units.parse_duration, "30m"))]
CalendarSpan = Annotated[units.Span, BeforeValidator(_text(units.parse_span, "12mo"))]
Share = Annotated[str, AfterValidator(_share)]
Rate = Annotated[int, BeforeValidator(_text(units.parse_rate, "100MB"))]
Size = Annotated[int, BeforeValidator(_text(units.parse_size, "10GB"))]
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Connection = Annotated[str, AfterValidator(_connection)]
TargetUrl = Annotated[str, AfterValidator(_target_url)]
Endpoint = Annotated[str, AfterValidator(_endpoint)]
Workers = Annotated[int, Field(ge=0, le=MOST_WORKERS)]
ZoneName = Annotated[str, AfterValidator(_zone)]
Cron = Annotated[str, AfterValidator(_cron)]
Site = Annotated[str, AfterValidator(_site)]
CopyRule = Annotated[Rule, BeforeValidator(_rule)]
LoopbackAddress = Annotated[str, AfterValidator(_loopback)]
Webhook = Annotated[str, AfterValidator(webhook)]
CompressionLevel = Annotated[Compression, BeforeValidator(_compression)]
