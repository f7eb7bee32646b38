"""The daemon's sign of life: a file in the spool that somebody outside the daemon can judge.

    <spool>/heartbeat    JSON, replaced every 10 s; after an orderly end it says `stopped`

It is written from facts that every part of the daemon has a say in: a daemon that hangs writes none.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from drkit.core.cancel import CancelToken
from drkit.core.clock import Clock
from drkit.core.errors import UsageError
from drkit.core.log import Log
from drkit.core.units import format_time, parse_time
from drkit.daemon.api import DaemonFacts
from policies.alive import BellSeen
from storage_backends import durable
from storage_backends.errors import StorageError

NAME = "heartbeat"
_VERSION = 1
_STUCK_BEATS = 4


@dataclass(frozen=True, slots=True)
class Beat:
    """bells: what is due next, and when · busy: clusters for which a job ran."""

    pid: int
    started: datetime
    at: datetime
    config: str
    stopped: bool
    bells: tuple[BellSeen, ...]
    busy: frozenset[str]


class Heartbeat:
    """A Part. facts: what the daemon would answer now; called in this part's thread."""

    name = "heartbeat"

    def __init__(
        self, spool: Path, facts: Callable[[], DaemonFacts], clock: Clock, log: Log, *, every_s: float = 10.0
    ) -> None:
        self._path, self._facts, self._clock, self._log, self._every_s = spool / NAME, facts, clock, log, every_s
        self._failed = False
        self._last: datetime | None = None
        self._turned_s = clock.monotonic()

    @property
    def last(self) -> datetime | None:
        """When the last one was written; None before the first. From any thread."""
        return self._last

    def stuck(self) -> str:
        """Why the daemon must be taken for stuck, "" while facts can be had. From any thread."""
        silent_s = self._clock.monotonic() - self._turned_s
        return f"no facts could be had for {silent_s:.0f} s" if silent_s > _STUCK_BEATS * self._every_s else ""

    def run(self, token: CancelToken) -> None:
        """The last thing that it writes is that the daemon was stopped."""
        while not token.cancelled:
            self._write(stopped=False)
            self._turned_s = self._clock.monotonic()
            token.wait(self._every_s)
        self._write(stopped=True)

    def _write(self, *, stopped: bool) -> None:
        """A spool that cannot be written to must not end archiving: the file gets old, which is the alarm."""
        now = self._clock.now()
        try:
            durable.replace(self._path, _text(self._facts(), now, stopped), mode=0o644)
            self._failed, self._last = False, now
        except StorageError as error:
            if not self._failed:
                self._log.error("heartbeat not written", where=error.where, why=error.why, cure=error.cure)
            self._failed = True


def _text(facts: DaemonFacts, now: datetime, stopped: bool) -> bytes:
    value = {
        "version": _VERSION,
        "pid": facts.pid,
        "started": format_time(facts.started),
        "at": format_time(now),
        "config": facts.config,
        "stopped": stopped,
        "bells": [{"bell": n.bell, "cluster": n.cluster, "at": format_time(n.at)} for n in facts.next_runs],
        "busy": sorted({run.cluster for run in facts.running}),
    }
    return json.dumps(value).encode()


def read_beat(spool: Path) -> tuple[Beat | None, str]:
    """The last one; without one, why it cannot be read, "" where there is none."""
    path = spool / NAME
    try:
        value = json.loads(path.read_bytes())
        beat = Beat(
            int(value["pid"]),
            parse_time(value["started"]),
            parse_time(value["at"]),
            str(value["config"]),
            bool(value["stopped"]),
            tuple(BellSeen(str(b["bell"]), str(b["cluster"]), parse_time(b["at"])) for b in value["bells"]),
            frozenset(map(str, value["busy"])),
        )
    except (FileNotFoundError, NotADirectoryError):
        return None, ""
    except OSError as error:
        return None, f"{path}: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        return None, f"{path} is not as the daemon writes it: {error}"
    return beat, ""
