"""Tells people what is wrong, what goes on, and what is over; nobody who tells it ever waits for them.

Events go through a bounded queue to one thread, which decides what is news, and from there through an outbox on disk
to one thread for each way to a person. Each event is one object of schema drkit.event/1 (docs/json.md).
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from drkit.core.cancel import CancelToken
from drkit.core.clock import Clock
from drkit.core.errors import Cancelled, DrkitError
from drkit.core.flow import Group
from drkit.core.log import Level as LogLevel
from drkit.core.log import Log, redact
from drkit.core.units import format_time, parse_time
from drkit.daemon.channels import Channel
from drkit.daemon.memory import LEVELS, Identity, Known, Memory
from drkit.daemon.outbox import Outbox
from policies.protection import Finding, Level
from storage_backends.errors import StorageError

SCHEMA = "drkit.event/1"
QUEUE = 1000
FIRST_REST_S, LONGEST_REST_S = 10.0, 600.0
GIVE_UP = timedelta(days=1)
_LEVEL_OF: Mapping[Level, LogLevel] = {
    Level.NOTE: "info",
    Level.WARNING: "warn",
    Level.UNKNOWN: "error",
    Level.BAD: "error",
}
_ENDS = {
    "archive.works": "archive.failing",
    "cluster.back": "cluster.away",
    "metrics.back": "metrics.away",
    "target.back": "target.away",
}


@dataclass(frozen=True, slots=True)
class Event:
    """state: event, problem, repeated or over. fields: further facts of an event."""

    identity: Identity
    level: LogLevel
    text: str
    state: str
    at: datetime
    cure: str = ""
    since: datetime | None = None
    fields: Mapping[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Report:
    scope: str
    findings: tuple[Finding, ...]
    at: datetime


@dataclass(frozen=True, slots=True)
class NotifyTerms:
    """min_level: the least that is sent · repeat: what lasts is told again after this · who: host and configuration."""

    min_level: LogLevel
    repeat: timedelta
    host: str
    config: str


class Notifier:
    """Telling, and a Part. `tell` and `report` never wait and never raise."""

    name = "notify"

    def __init__(
        self,
        channels: Sequence[Channel],
        spool: Path,
        terms: NotifyTerms,
        clock: Clock,
        log: Log,
        ident: Callable[[], str],
    ) -> None:
        self._terms, self._clock, self._log, self._ident = terms, clock, log, ident
        self._lines = [_Line(channel, Outbox(spool, channel.name), clock, log) for channel in channels]
        self._memory = Memory(spool, terms.repeat)
        self._queue: deque[Event | _Report] = deque()
        self._changed = threading.Condition()
        self._dropped = 0
        self._unsaved = False

    # --- from any thread ---

    def tell(self, kind: str, level: str, cluster: str, text: str, **fields: str | int | float) -> None:
        """fields: `target`, and `about` or `bell`, say what it is about; the same is told once in `repeat`."""
        about = str(fields.get("about", fields.get("bell", "")))
        identity = (kind, cluster, str(fields.get("target", "")), about)
        known: LogLevel = "error" if level == "error" else "warn" if level == "warn" else "info"
        self._put(Event(identity, known, text, "event", self._clock.now(), fields=fields))

    def report(self, scope: str, findings: Sequence[Finding]) -> None:
        """All that `scope` finds wrong now: what it found before and does not find any more is over."""
        self._put(_Report(scope, tuple(findings), self._clock.now()))

    def waiting(self) -> dict[str, int]:
        """Events that are not delivered yet, by channel."""
        return {line.name: line.count() for line in self._lines}

    def _put(self, item: Event | _Report) -> None:
        with self._changed:
            if len(self._queue) >= QUEUE:
                self._queue.popleft()
                self._dropped += 1
            self._queue.append(item)
            self._changed.notify()

    # --- the thread that decides ---

    def run(self, token: CancelToken) -> None:
        """What is in the queue when `token` is cancelled is in the outboxes on return."""
        try:
            with Group(token, name="notify") as group:
                for line in self._lines:
                    group.start(line.name, line.run, group.token)
                leave = group.token.on_cancel(self._wake)
                while not group.token.cancelled:
                    self._work(self._take(group.token))
                leave()
        except Cancelled:
            pass
        finally:
            self._work(self._take(None))

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _take(self, token: CancelToken | None) -> list[Event | _Report]:
        """All that is in the queue; waits for something until `token` is cancelled, without one not at all."""
        with self._changed:
            while not self._queue and token is not None and not token.cancelled:
                self._changed.wait()
            items, dropped = list(self._queue), self._dropped
            self._queue.clear()
            self._dropped = 0
        if dropped:
            self._log.error("notifications dropped", count=dropped, why="more were told than could be decided upon")
        return items

    def _work(self, items: Sequence[Event | _Report]) -> None:
        for item in items:
            if isinstance(item, Event):
                self._event(item)
            else:
                self._reported(item)
        if items:
            self._save()

    def _save(self) -> None:
        try:
            self._memory.save(self._clock.now())
            self._unsaved = False
        except StorageError as error:
            if not self._unsaved:
                self._log.error("what was told is not kept", where=error.where, why=error.why, cure=error.cure)
            self._unsaved = True

    def _event(self, event: Event) -> None:
        for kind in _ended_by(event.identity[0]):
            self._over((kind, *event.identity[1:]), event.text, event.at)
        if self._memory.due(event.identity, event.level, event.at):
            again = self._memory.known(event.identity) is not None
            sent = self._send(event, f"told again, {event.state}" if again else event.state)
            if event.level != "info":  # what goes well is never the same news twice
                self._memory.told(Known(event.identity, event.level, event.text, event.at, "", sent))

    def _reported(self, report: _Report) -> None:
        found = {one.identity: one for one in reversed(report.findings)}
        for known in self._memory.lasting(report.scope):
            if known.identity not in found:
                self._over(known.identity, known.text, report.at)
        for identity, one in found.items():
            level = _LEVEL_OF[one.level]
            if self._memory.due(identity, level, report.at):
                state = "repeated" if self._memory.known(identity) is not None else "problem"
                sent = self._send(Event(identity, level, one.text, state, report.at, one.cure, one.since), state)
                self._memory.told(Known(identity, level, one.text, report.at, report.scope, sent))
            else:
                self._memory.lasts(identity, report.scope)

    def _over(self, identity: Identity, text: str, at: datetime) -> None:
        """Told to whoever heard of it, whatever the level."""
        known = self._memory.end(identity)
        if known is not None:
            event = Event(identity, "info", f"over: {known.text or text}", "over", at)
            self._send(event, "over", even_so=known.sent)

    def _send(self, event: Event, word: str, *, even_so: bool = False) -> bool:
        """Into the log, and to people where the level says so. Returns the latter."""
        kind, cluster, target, about = event.identity
        names = {"cluster": cluster, "target": target, "about": about}
        shown = {name: value for name, value in names.items() if value}
        self._log.event(event.level, kind, state=word, text=event.text, **shown)
        wanted = even_so or LEVELS.index(event.level) >= LEVELS.index(self._terms.min_level)
        if wanted:
            value = self._value(event)
            for line in self._lines:
                line.take(value)
        return wanted

    def _value(self, event: Event) -> dict[str, object]:
        kind, cluster, target, about = event.identity
        return {
            "schema": SCHEMA,
            "id": self._ident(),
            "at": format_time(event.at),
            "host": self._terms.host,
            "config": self._terms.config,
            "kind": kind,
            "level": event.level,
            "state": event.state,
            "cluster": cluster,
            "target": target,
            "about": about,
            "text": redact(event.text),
            "cure": event.cure,
            "since": None if event.since is None else format_time(event.since),
            "fields": {key: redact(one) if isinstance(one, str) else one for key, one in event.fields.items()},
        }


def _ended_by(kind: str) -> tuple[str, ...]:
    """Kinds of problems that an event of this kind ends."""
    job, _, word = kind.rpartition(".")
    if word in ("done", "short"):
        return tuple(f"{job}.{other}" for other in ("failed", "missed", "short") if other != word)
    return (_ENDS[kind],) if kind in _ENDS else ()


class _Line:
    """One way to a person: an outbox, and the thread that empties it in order."""

    def __init__(self, channel: Channel, outbox: Outbox, clock: Clock, log: Log) -> None:
        self.name = channel.name
        self._channel, self._outbox, self._clock, self._log = channel, outbox, clock, log
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._unkept: deque[Mapping[str, object]] = deque(maxlen=100)  # for a spool that cannot be written to
        self._failures = 0

    def take(self, value: Mapping[str, object]) -> None:
        """Durable on return, where the spool can be written to."""
        try:
            with self._lock:
                self._outbox.put(value)
        except StorageError as error:
            self._log.error("notification not kept", channel=self.name, where=error.where, why=error.why)
            self._unkept.append(value)
        self._news.set()

    def count(self) -> int:
        return self._outbox.count() + len(self._unkept)

    def run(self, token: CancelToken) -> None:
        leave = token.on_cancel(self._news.set)
        try:
            while not token.cancelled:
                self._news.clear()
                try:
                    more = self._next(token)
                except StorageError as error:
                    self._log.error("outbox not read", channel=self.name, where=error.where, why=error.why)
                    token.wait(LONGEST_REST_S)
                    continue
                if not more and not token.cancelled:
                    self._news.wait()
        except Cancelled:
            pass
        finally:
            leave()

    def _next(self, token: CancelToken) -> bool:
        """Deliver one event, or rest after a failure; False: there is none."""
        if self._unkept:
            if self._deliver(self._unkept[0], token):
                self._unkept.popleft()
            return True
        with self._lock:
            waiting = self._outbox.first()
        if waiting is None:
            return False
        if self._deliver(waiting.value, token):
            with self._lock:
                self._outbox.delivered(waiting)
        elif self._clock.now() - _told_at(waiting.value, self._clock.now()) > GIVE_UP:
            facts = {key: str(waiting.value.get(key, "")) for key in ("kind", "cluster", "text")}
            self._log.error("notification given up", channel=self.name, **facts)
            with self._lock:
                self._outbox.give_up(waiting)
        return True

    def _deliver(self, value: Mapping[str, object], token: CancelToken) -> bool:
        try:
            self._channel.send(json.dumps(value, ensure_ascii=False), token)
        except Cancelled:
            raise
        except DrkitError as error:
            self._failures += 1
            rest_s = min(LONGEST_REST_S, FIRST_REST_S * 2 ** min(self._failures - 1, 10))
            self._log.warn("notification not delivered", channel=self.name, why=str(error), again_in_s=rest_s)
            token.wait(rest_s)
            return False
        self._failures = 0
        return True


def _told_at(value: Mapping[str, object], now: datetime) -> datetime:
    try:
        return min(now, parse_time(str(value.get("at"))))
    except DrkitError:
        return now
