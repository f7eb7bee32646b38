"""Logs as events: one line each, key=value or JSON, UTC, with the run's id. Never a secret."""

from __future__ import annotations

import json
import re
import threading
from typing import Literal, Protocol, TextIO

from drkit.core.clock import Clock
from drkit.core.units import format_time

Level = Literal["debug", "info", "warn", "error"]
Field = str | int | float | bool | None
LEVELS: tuple[Level, ...] = ("debug", "info", "warn", "error")

HIDDEN = "***"
_SECRET_NAME = re.compile(r"pass(word|phrase|wd)|secret|token|credential|private|master_key", re.IGNORECASE)
_SECRET_TEXT = (
    (re.compile(r"(://)[^/\s@]+@"), r"\1" + HIDDEN + "@"),
    (re.compile(r"(?i)\b(password|passwd|secret|passphrase)(\s*[=:]\s*)('[^']*'|\S+)"), r"\1\2" + HIDDEN),
)
_PLAIN = re.compile(r"[^\s\"=]+\Z")


class Log(Protocol):
    """Thread-safe. A name of one to three words, facts as fields: `log.info("wal pushed", segment=...)`."""

    def event(self, level: Level, name: str, /, **fields: Field) -> None: ...
    def debug(self, name: str, /, **fields: Field) -> None: ...
    def info(self, name: str, /, **fields: Field) -> None: ...
    def warn(self, name: str, /, **fields: Field) -> None: ...
    def error(self, name: str, /, **fields: Field) -> None: ...


def redact(text: str) -> str:
    """`text` without credentials in URLs and without the values of password= and the like."""
    for pattern, replacement in _SECRET_TEXT:
        text = pattern.sub(replacement, text)
    return text


class StreamLog:
    """Writes events of at least `level` to a text stream, a line at a time."""

    def __init__(
        self, stream: TextIO, *, run_id: str, clock: Clock, as_json: bool = False, level: Level = "info"
    ) -> None:
        self._stream = stream
        self._run_id = run_id
        self._clock = clock
        self._as_json = as_json
        self._least = LEVELS.index(level)
        self._lock = threading.Lock()

    def event(self, level: Level, name: str, /, **fields: Field) -> None:
        if LEVELS.index(level) < self._least:
            return
        head: dict[str, Field] = {
            "at": format_time(self._clock.now()),
            "level": level,
            "run": self._run_id,
            "event": name,
        }
        record = head | {key: _safe(key, value) for key, value in fields.items() if key not in head}
        line = json.dumps(record, ensure_ascii=False) if self._as_json else key_values(record)
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()

    def debug(self, name: str, /, **fields: Field) -> None:
        self.event("debug", name, **fields)

    def info(self, name: str, /, **fields: Field) -> None:
        self.event("info", name, **fields)

    def warn(self, name: str, /, **fields: Field) -> None:
        self.event("warn", name, **fields)

    def error(self, name: str, /, **fields: Field) -> None:
        self.event("error", name, **fields)


class NoLog:
    """Keeps nothing."""

    def event(self, level: Level, name: str, /, **fields: Field) -> None:
        return None

    def debug(self, name: str, /, **fields: Field) -> None:
        return None

    def info(self, name: str, /, **fields: Field) -> None:
        return None

    def warn(self, name: str, /, **fields: Field) -> None:
        return None

    def error(self, name: str, /, **fields: Field) -> None:
        return None


def _safe(key: str, value: Field) -> Field:
    if _SECRET_NAME.search(key) and value not in (None, "") and not key.endswith(("_file", "_command")):
        return HIDDEN
    return redact(value) if isinstance(value, str) else value


def key_values(record: dict[str, Field]) -> str:
    """'a=1 b="two words"': values with spaces, quotes, '=' or control characters are JSON strings."""
    return " ".join(f"{key}={_value(value)}" for key, value in record.items())


def _value(value: Field) -> str:
    if isinstance(value, str):
        return value if _PLAIN.match(value) and value.isprintable() else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)
