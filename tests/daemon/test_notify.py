"""People are told what is news, what lasts and what is over; who tells it never waits; nothing is lost."""

from __future__ import annotations

import io
import itertools
import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from drkit.config.secrets import Hook
from drkit.core.cancel import CancelToken
from drkit.core.errors import DrkitError, Failed
from drkit.core.log import StreamLog
from drkit.daemon import notify, outbox
from drkit.daemon.channels import Channel, Command, Webhook
from drkit.daemon.notify import Notifier, NotifyTerms
from drkit.daemon.outbox import Outbox
from policies.protection import Finding, Level
from tests.core.clocks import HandClock
from tests.daemon.receiver import DRIP, Receiver, receiver

GAP = Finding("wal.gap", Level.BAD, "WAL 0A missing", "orders", "a", "0A", "drkit wal push")


@dataclass
class Ear:
    """A channel in memory. failing: so many sends fail first."""

    name: str = "ear"
    failing: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)
    heard: threading.Condition = field(default_factory=threading.Condition)

    def send(self, text: str, token: CancelToken) -> None:
        with self.heard:
            self.heard.notify_all()
            if self.failing:
                self.failing -= 1
                raise Failed("deaf")
            self.events.append(json.loads(text))

    def wait(self, count: int) -> list[dict[str, Any]]:
        with self.heard:
            assert self.heard.wait_for(lambda: len(self.events) >= count, 60), self.events
            return list(self.events)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def made(spool: Path, clock: HandClock, *channels: Channel, log: io.StringIO | None = None, **terms: Any) -> Notifier:
    settings = {"min_level": "warn", "repeat": timedelta(hours=4), "host": "db1", "config": "/etc/drkit.toml", **terms}
    told = StreamLog(log or io.StringIO(), run_id="r", clock=clock)
    numbers = itertools.count(1)
    return Notifier(channels, spool, NotifyTerms(**settings), clock, told, lambda: f"e{next(numbers)}")


@contextmanager
def running(part: Notifier) -> Iterator[Notifier]:
    token, failures = CancelToken(), list[BaseException]()

    def work() -> None:
        try:
            part.run(token)
        except BaseException as error:  # noqa: BLE001  a thread root
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield part
    finally:
        token.cancel()
        thread.join(60)
    assert not thread.is_alive() and not failures


def told(events: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(one["kind"], one["state"]) for one in events]


# --- what is news -------------------------------------------------------------------------------------------------


def test_a_problem_is_told_once_and_its_end_once(tmp_path: Path, clock: HandClock) -> None:
    ear = Ear()
    with running(made(tmp_path, clock, ear)) as part:
        for found in ([GAP], [GAP], [], [], [GAP]):
            part.report("stored", found)
            clock.advance(60)
        events = ear.wait(3)
    assert told(events) == [("wal.gap", "problem"), ("wal.gap", "over"), ("wal.gap", "problem")]
    assert events[0]["text"] == "WAL 0A missing" and events[0]["cure"] == "drkit wal push"
    assert (events[0]["cluster"], events[0]["target"], events[0]["about"]) == ("orders", "a", "0A")
    assert events[1]["text"] == "over: WAL 0A missing"


def test_what_lasts_is_repeated_in_its_interval(tmp_path: Path, clock: HandClock) -> None:
    ear = Ear()
    with running(made(tmp_path, clock, ear, repeat=timedelta(hours=1))) as part:
        for _ in range(121):
            part.report("live", [GAP])
            clock.advance(60)
        events = ear.wait(3)
    assert told(events) == [("wal.gap", "problem"), ("wal.gap", "repeated"), ("wal.gap", "repeated")]


def test_what_gets_worse_is_told_again(tmp_path: Path, clock: HandClock) -> None:
    ear = Ear()
    young = Finding("wal.owed", Level.WARNING, "1 file", "orders", "a")
    with running(made(tmp_path, clock, ear)) as part:
        part.report("live", [young])
        part.report("live", [Finding("wal.owed", Level.BAD, "9 files", "orders", "a")])
        events = ear.wait(2)
    assert [one["level"] for one in events] == ["warn", "error"]


def test_one_scope_does_not_end_what_another_found(tmp_path: Path, clock: HandClock) -> None:
    ear = Ear()
    with running(made(tmp_path, clock, ear)) as part:
        part.report("stored", [GAP])
        part.report("live", [])
        part.report("stored", [])
        assert told(ear.wait(2)) == [("wal.gap", "problem"), ("wal.gap", "over")]


def test_the_least_that_is_told(tmp_path: Path, clock: HandClock) -> None:
    ear, log = Ear(), io.StringIO()
    with running(made(tmp_path, clock, ear, log=log, min_level="error")) as part:
        part.report("live", [Finding("wal.owed", Level.WARNING, "1 file", "orders", "a")])
        part.report("live", [])
        part.tell("backup.done", "info", "orders", "a backup")
        part.tell("backup.failed", "error", "orders", "no space", bell="backup.orders.1")
        events = ear.wait(1)
    assert told(events) == [("backup.failed", "event")]
    assert [line.split("event=")[1].split()[0] for line in log.getvalue().splitlines()] == [
        "wal.owed", "wal.owed", "backup.done", "backup.failed",
    ]  # fmt: skip


def test_events_are_told_once_in_an_interval_and_ended_by_their_counterpart(tmp_path: Path, clock: HandClock) -> None:
    ear = Ear()
    with running(made(tmp_path, clock, ear)) as part:
        for _ in range(3):
            part.tell("backup.failed", "error", "orders", "no space", bell="backup.orders.1", exit=1)
        part.report("live", [Finding("backup.failed", Level.WARNING, "it failed", "orders", about="backup.orders.1")])
        part.tell("backup.done", "info", "orders", "a backup", bell="backup.orders.1")
        part.report("live", [])
        part.tell("target.away", "warn", "", "away", target="a")
        part.tell("target.back", "info", "", "back", target="a")
        events = ear.wait(4)
    assert told(events) == [
        ("backup.failed", "event"),
        ("backup.failed", "over"),
        ("target.away", "event"),
        ("target.away", "over"),
    ]
    assert events[0]["fields"] == {"bell": "backup.orders.1", "exit": 1}


def test_no_secret_leaves_the_house(tmp_path: Path, clock: HandClock) -> None:
    ear = Ear()
    with running(made(tmp_path, clock, ear)) as part:
        part.tell("backup.failed", "error", "orders", "cannot connect: password=hunter2", where="s3://k:sec@host")
        (event,) = ear.wait(1)
    assert "hunter2" not in json.dumps(event) and "sec@" not in json.dumps(event)


# --- over restarts ------------------------------------------------------------------------------------------------


def test_a_restart_neither_repeats_nor_forgets(tmp_path: Path, clock: HandClock) -> None:
    ear = Ear()
    with running(made(tmp_path, clock, ear)) as part:
        part.report("stored", [GAP])
        ear.wait(1)
    with running(made(tmp_path, clock, ear)) as part:
        part.report("stored", [GAP])
        part.report("stored", [])
        assert told(ear.wait(2)) == [("wal.gap", "problem"), ("wal.gap", "over")]


def test_what_nobody_heard_is_kept_and_delivered_after_a_restart(tmp_path: Path, clock: HandClock) -> None:
    deaf = Ear(failing=1)
    with running(made(tmp_path, clock, deaf)) as part, deaf.heard:
        part.report("stored", [GAP])
        assert deaf.heard.wait(60)
    assert Outbox(tmp_path, "ear").count() == 1
    ear = Ear()
    with running(made(tmp_path, clock, ear)):
        assert told(ear.wait(1)) == [("wal.gap", "problem")]
    assert Outbox(tmp_path, "ear").count() == 0


def test_what_is_in_the_queue_at_the_end_is_kept(tmp_path: Path, clock: HandClock) -> None:
    part, token = made(tmp_path, clock, Ear()), CancelToken()
    part.report("stored", [GAP])
    token.cancel()
    part.run(token)
    assert Outbox(tmp_path, "ear").count() == 1


def test_a_damaged_memory_tells_once_more(tmp_path: Path, clock: HandClock) -> None:
    (tmp_path / "notify").mkdir()
    (tmp_path / "notify" / "told.json").write_text('{"told": [{"identity": "x"}]}')
    ear = Ear()
    with running(made(tmp_path, clock, ear)) as part:
        part.report("stored", [GAP])
        assert told(ear.wait(1)) == [("wal.gap", "problem")]


def test_a_spool_that_cannot_be_written_to_still_lets_people_hear(tmp_path: Path, clock: HandClock) -> None:
    (tmp_path / "notify").write_text("a file where a folder should be")
    ear, log = Ear(), io.StringIO()
    with running(made(tmp_path, clock, ear, log=log)) as part:
        part.report("stored", [GAP])
        assert told(ear.wait(1)) == [("wal.gap", "problem")]
    assert "not kept" in log.getvalue()


# --- bounds -------------------------------------------------------------------------------------------------------


def test_telling_is_bounded(tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "QUEUE", 10)
    ear, log = Ear(), io.StringIO()
    part = made(tmp_path, clock, ear, log=log)
    for number in range(25):
        part.tell("x.failed", "error", "orders", "text", about=number)
    with running(part):
        assert [one["about"] for one in ear.wait(10)] == [str(number) for number in range(15, 25)]
    assert "count=15" in log.getvalue()


def test_the_outbox_is_bounded_and_counts_what_it_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "KEPT", 3)
    box = Outbox(tmp_path, "ear")
    for number in range(5):
        box.put({"n": number})
    assert (box.count(), box.lost()) == (3, 2)
    first = box.first()
    assert first is not None and first.value == {"n": 2}
    (tmp_path / "notify" / "ear" / f"{first.number:012}.json").write_text("{")
    second = box.first()
    assert second is not None and second.value == {"n": 3}
    assert (box.count(), box.lost()) == (2, 3)


def test_what_is_never_accepted_is_given_up_and_logged(
    tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "FIRST_REST_S", 0.0)
    ear, log = Ear(failing=1), io.StringIO()
    Outbox(tmp_path, "ear").put({"at": "2026-06-01T00:00:00Z", "kind": "wal.gap", "cluster": "orders", "text": "old"})
    with running(made(tmp_path, clock, ear, log=log)) as part:
        part.report("stored", [GAP])
        ear.wait(1)
    assert Outbox(tmp_path, "ear").lost() == 1
    assert 'event="notification given up"' in log.getvalue()


# --- webhook ------------------------------------------------------------------------------------------------------


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as one:
        yield one


def webhook(one: Receiver, timeout_s: float = 30.0) -> Webhook:
    return Webhook(lambda: Hook(one.url, ("Authorization", "Bearer s3cret")), timeout_s, "0")


def test_an_event_arrives_whole_and_with_its_header(tmp_path: Path, clock: HandClock, hook: Receiver) -> None:
    with running(made(tmp_path, clock, webhook(hook))) as part:
        part.report("stored", [GAP])
        (event,) = hook.wait(1)
    assert event["schema"] == "drkit.event/1" and event["host"] == "db1"
    assert hook.headers[0]["Authorization"] == "Bearer s3cret"
    assert hook.headers[0]["Content-Type"] == "application/json"


@pytest.mark.parametrize("status", [302, 400, 500])
def test_what_is_refused_is_tried_again(
    tmp_path: Path, clock: HandClock, hook: Receiver, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "FIRST_REST_S", 0.0)
    hook.statuses = [status, status]
    log = io.StringIO()
    with running(made(tmp_path, clock, webhook(hook), log=log)) as part:
        part.report("stored", [GAP])
        hook.wait(1)
    assert hook.asked == 3
    assert str(status) in log.getvalue() and "s3cret" not in log.getvalue()


def test_a_hanging_webhook_delays_nobody(tmp_path: Path, clock: HandClock, hook: Receiver) -> None:
    hook.statuses = [0]
    ear = Ear()
    with running(made(tmp_path, clock, webhook(hook), ear)) as part:
        part.report("stored", [GAP])
        hook.wait_asked(1)
        part.tell("backup.failed", "error", "orders", "no space")
        assert told(ear.wait(2)) == [("wal.gap", "problem"), ("backup.failed", "event")]
    assert hook.events == []
    assert Outbox(tmp_path, "webhook").count() == 2


def test_a_request_that_hangs_is_left_behind_and_no_second_is_begun(hook: Receiver) -> None:
    hook.statuses = [DRIP]
    channel, token = webhook(hook, timeout_s=1.0), CancelToken()
    for why in ("no answer", "still hangs"):
        with pytest.raises(DrkitError, match="does not answer") as error:
            channel.send("{}", token)
        assert why in error.value.why
    assert hook.asked == 1


def test_a_webhook_that_is_not_there(hook: Receiver) -> None:
    gone = Webhook(lambda: Hook("http://127.0.0.1:1/s3cret"), 30.0, "0")
    with pytest.raises(DrkitError) as error:
        gone.send("{}", CancelToken())
    assert "cannot be reached" in str(error.value) and "s3cret" not in str(error.value)


# --- command ------------------------------------------------------------------------------------------------------


def command(tmp_path: Path, code: str, timeout_s: float = 30.0, **env: str) -> Callable[[], None]:
    script = tmp_path / "command.py"
    script.write_text(code)
    channel = Command([sys.executable, str(script), str(tmp_path)], timeout_s, {"PATH": "/usr/bin", **env})
    return lambda: channel.send('{"kind": "x"}', CancelToken())


def test_a_command_reads_the_event_and_no_secret(tmp_path: Path) -> None:
    code = """
import json, os, pathlib, sys
pathlib.Path(sys.argv[1], "got").write_text(json.dumps([json.load(sys.stdin), dict(os.environ)]))
"""
    command(tmp_path, code, DRKIT_KEYS__PASSPHRASE="hunter2", PGPASSWORD="hunter2")()
    event, environment = json.loads((tmp_path / "got").read_text())
    assert event == {"kind": "x"}
    assert "hunter2" not in str(environment)


@pytest.mark.parametrize(
    ("code", "words"),
    [("import sys; sys.exit(3)", "exit 3"), ("import signal; signal.pause()", "ended after")],
)
def test_a_command_that_fails_or_hangs(tmp_path: Path, code: str, words: str) -> None:
    with pytest.raises(DrkitError) as error:
        command(tmp_path, code, timeout_s=1.0 if "pause" in code else 30.0)()
    assert words in error.value.why


def test_a_command_that_is_not_there() -> None:
    with pytest.raises(DrkitError, match="does not start"):
        Command(["/no/such/program"], 5.0, {}).send("{}", CancelToken())


def test_a_cancelled_command_ends_at_once(tmp_path: Path) -> None:
    token = CancelToken()
    script = tmp_path / "hang.py"
    script.write_text("import signal, sys, pathlib; pathlib.Path(sys.argv[1]).touch(); signal.pause()")
    channel = Command([sys.executable, str(script), str(tmp_path / "begun")], 600.0, {})
    ended: list[BaseException] = []

    def work() -> None:
        try:
            channel.send("{}", token)
        except DrkitError as error:
            ended.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    waiting = threading.Event()
    while not (tmp_path / "begun").exists():
        waiting.wait(0.01)
    token.cancel("the end")
    thread.join(60)
    assert [type(one).__name__ for one in ended] == ["Cancelled"]
