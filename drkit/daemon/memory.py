"""What people were told and has not ended, kept over restarts: so that nothing is told twice, and its end is told.

<spool>/notify/told.json    {"version", "told": [...]}, replaced as a whole
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from drkit.core.errors import UsageError
from drkit.core.units import format_time, parse_time
from storage_backends import durable

Identity = tuple[str, str, str, str]
"""kind, cluster, target, about."""

LEVELS = ("info", "warn", "error")
KEPT = 5000
FORGOTTEN = timedelta(days=7)
"""An event that nobody reports as lasting is not known any more after this; if it comes again it is news."""


@dataclass(frozen=True, slots=True)
class Known:
    """at: when it was last told · scope: who reports it as lasting, "" where it was a single event · sent: whether
    anybody but the log heard of it."""

    identity: Identity
    level: str
    text: str
    at: datetime
    scope: str = ""
    sent: bool = False


class Memory:
    """Used by one thread. What cannot be read is forgotten: then something is told once more."""

    def __init__(self, spool: Path, repeat: timedelta) -> None:
        self._path, self._repeat = spool / "notify" / "told.json", repeat
        self._known = {one.identity: one for one in _read(self._path)}

    def known(self, identity: Identity) -> Known | None:
        return self._known.get(identity)

    def due(self, identity: Identity, level: str, now: datetime) -> bool:
        """Whether it is to be told: news, worse than when it was told, or told long ago (or in the future)."""
        known = self._known.get(identity)
        if known is None or LEVELS.index(level) > LEVELS.index(known.level):
            return True
        return not timedelta(0) <= now - known.at < self._repeat

    def told(self, one: Known) -> None:
        before = self._known.get(one.identity)
        if before is not None:
            one = replace(one, scope=one.scope or before.scope, sent=one.sent or before.sent)
        self._known[one.identity] = one

    def lasts(self, identity: Identity, scope: str) -> None:
        """It was not due, and is reported as lasting."""
        self._known[identity] = replace(self._known[identity], scope=scope)

    def end(self, identity: Identity) -> Known | None:
        """Forget it; what was known of it."""
        return self._known.pop(identity, None)

    def lasting(self, scope: str) -> list[Known]:
        return [one for one in self._known.values() if one.scope == scope]

    def save(self, now: datetime) -> None:
        """Durable on return. Raises StorageError."""
        fresh = (one for one in self._known.values() if one.scope or now - one.at < FORGOTTEN)
        newest = sorted(fresh, key=lambda one: one.at)[-KEPT:]
        self._known = {one.identity: one for one in newest}
        rows = [
            {
                "identity": list(one.identity),
                "level": one.level,
                "text": one.text,
                "at": format_time(one.at),
                "scope": one.scope,
                "sent": one.sent,
            }
            for one in newest
        ]
        durable.make_dirs(self._path.parent)
        durable.replace(self._path, json.dumps({"version": 1, "told": rows}).encode())


def _read(path: Path) -> Iterable[Known]:
    try:
        rows = json.loads(path.read_bytes())["told"]
        return [
            Known(_identity(row["identity"]), _level(row["level"]), str(row["text"]), parse_time(row["at"]),
                  str(row["scope"]), bool(row["sent"]))
            for row in rows
        ]  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UsageError):
        return []


def _identity(words: list[str]) -> Identity:
    kind, cluster, target, about = map(str, words)
    return kind, cluster, target, about


def _level(word: str) -> str:
    if word not in LEVELS:
        raise ValueError(word)
    return word
