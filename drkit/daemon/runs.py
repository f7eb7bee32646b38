"""What became of every bell, kept over restarts.

    <spool>/runs/<bell>.json    {"version", "terms", "since", "records": [...]}, replaced as a whole

Of each bell the newest `KEPT` records stay, and the next `KEPT` of those that a clock ahead of time has left.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from drkit.core.errors import UsageError
from drkit.core.units import format_time, parse_time
from drkit.daemon.api import RunRecord
from drkit.daemon.facts_json import run_json, run_of
from storage_backends import durable
from storage_backends.errors import NotFound
from storage_backends.oserrors import os_errors

KEPT = 200


@dataclass(slots=True)
class _History:
    terms: str
    since: datetime
    records: list[RunRecord] = field(default_factory=list)


class Runs:
    """Thread-safe. What is kept in memory is right even where it cannot be written: every method that writes raises
    StorageError after it has taken note."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._histories: dict[str, _History] = {}
        self._lock = threading.Lock()

    def open(self, bell: str, terms: str, now: datetime) -> bool:
        """Read what is known of a bell; with other terms it is known from now on. Returns False where the file was
        damaged: it is set aside, and the bell starts anew. Raises StorageError."""
        with self._lock:
            path = self._folder / f"{bell}.json"
            known, whole = None, True
            try:
                with os_errors("read the runs", str(path)):
                    text = path.read_text()
                known = _parsed(text)
            except NotFound:
                pass
            except (ValueError, KeyError, TypeError, AttributeError, UsageError):
                whole = False
                with os_errors("set a damaged file aside", str(path)):
                    path.rename(path.with_suffix(".damaged"))
            if known is not None and known.terms == terms:
                self._histories[bell] = known
                return True
            self._histories[bell] = _History(terms, now, known.records if known else [])
            self._save(bell)
            return whole

    def since(self, bell: str, now: datetime) -> datetime:
        """Since when the bell is known; one that is known from the future is known from now on. Raises StorageError."""
        with self._lock:
            history = self._histories[bell]
            if history.since > now:
                history.since = now
                self._save(bell)
            return history.since

    def of(self, bell: str) -> tuple[RunRecord, ...]:
        """By due time, then by start."""
        with self._lock:
            return tuple(self._histories[bell].records)

    def put(self, *records: RunRecord, now: datetime) -> None:
        """Keep records of one bell; one with the same due time and start is replaced. Durable on return. Raises
        StorageError."""
        if not records:
            return
        with self._lock:
            history = self._histories[records[0].bell]
            named = {(r.due, r.started): r for r in history.records} | {(r.due, r.started): r for r in records}
            ordered = sorted(named.values(), key=lambda r: (r.due, r.started or r.due))
            past = [r for r in ordered if r.due <= now]
            history.records = past[-KEPT:] + [r for r in ordered if r.due > now][:KEPT]
            self._save(records[0].bell)

    def all(self) -> list[RunRecord]:
        """Of all bells, unordered."""
        with self._lock:
            return [record for history in self._histories.values() for record in history.records]

    def _save(self, bell: str) -> None:
        history = self._histories[bell]
        value = {
            "version": 1,
            "terms": history.terms,
            "since": format_time(history.since),
            "records": [run_json(record) for record in history.records],
        }
        durable.make_dirs(self._folder)
        durable.replace(self._folder / f"{bell}.json", json.dumps(value, ensure_ascii=False).encode())


def _parsed(text: str) -> _History:
    value = json.loads(text)
    if value["version"] != 1:
        raise ValueError(f"version {value['version']}")
    return _History(str(value["terms"]), parse_time(value["since"]), [run_of(row) for row in value["records"]])
