"""The daemon judges by the rules of `drkit status`, and keeps its head where a target hangs."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from drkit.cli.status_json import finding_json
from drkit.core.cancel import CancelToken
from drkit.core.units import format_time
from drkit.daemon.api import Outcome
from drkit.daemon.children import Ended, Order
from drkit.daemon.watch import LiveWatch, TargetWatch, finding_of
from policies.objectives import Promises
from policies.protection import Finding, Level
from tests.core.clocks import HandClock
from tests.daemon.facts import HOUR, NOW, archive, facts, record

GAP = Finding("wal.gap", Level.BAD, "WAL 0A missing", "orders", "a", "0A", "drkit wal push", NOW)
AWAY = Finding("target.unreadable", Level.UNKNOWN, "it cannot be read", "orders", "b")
DOWN = Finding("daemon.down", Level.BAD, "no sign of life")


@dataclass
class Heard:
    """What was reported, scope by scope."""

    reports: list[tuple[str, list[Finding]]] = field(default_factory=list)

    def __call__(self, scope: str, findings: Sequence[Finding]) -> None:
        self.reports.append((scope, list(findings)))


@dataclass
class Status:
    """Stands for `drkit status` as a child."""

    ended: Ended
    orders: list[Order] = field(default_factory=list)
    asked: threading.Event = field(default_factory=threading.Event)

    def run(self, order: Order, token: CancelToken) -> Ended:
        self.orders.append(order)
        self.asked.set()
        return self.ended


def rows_of(*findings: Finding) -> list[dict[str, object]]:
    return [{**finding_json(one), "since": one.since and format_time(one.since)} for one in findings]


def answer(*findings: Finding) -> Mapping[str, object]:
    return {"schema": "drkit.status/1", "findings": rows_of(*findings)}


def test_a_finding_is_read_back() -> None:
    assert finding_of(rows_of(GAP)[0]) == GAP


def test_what_the_targets_show_is_reported_and_what_the_daemon_knows_better_is_not() -> None:
    heard, status = Heard(), Status(Ended(10, answer=answer(GAP, DOWN)))
    watch = TargetWatch(status, heard, HandClock(), every_s=300)
    watch.look(CancelToken())
    assert heard.reports == [("look", []), ("stored", [GAP])]
    assert status.orders[0].words == ("status",)
    assert watch.looked.answer["schema"] == "drkit.status/1" and watch.looked.why == ""


def test_what_a_moment_may_show_is_reported_the_second_time() -> None:
    heard, status = Heard(), Status(Ended(7, answer=answer(AWAY)))
    watch = TargetWatch(status, heard, HandClock(), every_s=300)
    for _ in range(3):
        watch.look(CancelToken())
    assert [found for scope, found in heard.reports if scope == "stored"] == [[], [AWAY], [AWAY]]


def test_a_look_that_fails_is_unknown_and_ends_nothing_that_was_found() -> None:
    heard, status = Heard(), Status(Ended(10, answer=answer(GAP)))
    watch = TargetWatch(status, heard, HandClock(), every_s=300)
    watch.look(CancelToken())
    for ended in (
        Ended(-9, killed="its deadline passed"),
        Ended(3, why="the configuration is wrong"),
        Ended(0, answer={"schema": "drkit.list/1"}),
        Ended(0, answer={"schema": "drkit.status/1", "findings": [{"kind": "x"}]}),
    ):
        status.ended = ended
        heard.reports.clear()
        watch.look(CancelToken())
        ((scope, (found,)),) = heard.reports
        assert (scope, found.kind, found.level) == ("look", "status.unknown", Level.UNKNOWN)
        assert (ended.killed or ended.why) in found.text
        assert watch.looked.why and watch.looked.answer["findings"]


def test_the_targets_are_looked_at_again_when_nudged() -> None:
    status, token = Status(Ended(0, answer=answer())), CancelToken()
    watch = TargetWatch(status, Heard(), HandClock(), every_s=3600)
    thread = threading.Thread(target=watch.run, args=(token,))
    thread.start()
    assert status.asked.wait(60)
    status.asked.clear()
    watch.nudge()
    assert status.asked.wait(60)
    token.cancel()
    thread.join(60)
    assert not thread.is_alive() and len(status.orders) == 2


def test_what_the_daemon_knows_of_itself() -> None:
    heard = Heard()
    stuck = facts(recent=[record(Outcome.FAILED)], archives=[archive(ready=3, oldest=NOW - HOUR)])
    promises = {"orders": Promises(max_backup_age=timedelta(days=1))}
    watch = LiveWatch(lambda: stuck, promises, heard, HandClock())
    watch.judge()
    watch.judge()
    assert [sorted(one.kind for one in found) for _, found in heard.reports] == [
        ["backup.failed"],
        ["archive.waiting", "backup.failed"],
    ]


def test_a_schedule_that_asks_for_what_it_cannot_have_is_told_as_long_as_it_does() -> None:
    heard, broken = Heard(), [Finding("schedule.drill", Level.BAD, "the drill's file is missing")]
    watch = LiveWatch(facts, {}, heard, HandClock(), broken=lambda: broken)
    watch.judge()
    broken.clear()
    watch.judge()
    assert [[one.kind for one in found] for _, found in heard.reports] == [["schedule.drill"], []]
