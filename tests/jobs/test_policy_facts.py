"""What the policy's judgement rests on: less where something is not known, never more."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import pytest

from drkit.core.cancel import CancelToken
from drkit.core.log import StreamLog
from drkit.core.progress import Silent
from drkit.crypto.container import DataKey
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.timeline import Timeline
from drkit.jobs.means import Means
from drkit.jobs.policy_facts import (
    Declared,
    PolicyOrder,
    Stored,
    acknowledged,
    exposure,
    forecast,
    gather,
    last_passed,
    nothing_answers,
    scan_of,
    spans,
)
from drkit.jobs.policy_judge import judge
from drkit.jobs.policy_server import Server, ask_server, oldest_unarchived
from drkit.jobs.rates import Rates
from drkit.jobs.windows import Gap, Window
from drkit.repository.catalogue import Backup, Catalogue, Standing, State
from drkit.repository.layout import RunId
from drkit.repository.reports import Note, keep
from drkit.repository.repository import Repository
from policies import decision
from policies.facts import Evidence, Grade, Terms
from policies.objectives import Promises
from policies.rule import Rule
from storage_backends.faulty import Faulty
from storage_backends.memory import MemoryBackend
from tests.core.clocks import HandClock
from tests.crypto.rings import ring, seeded
from tests.repository.samples import LAYOUT, sample_head, sample_summary, target

NOW = datetime(2026, 7, 1, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
SEEN = Evidence(Grade.LISTED, NOW)
SEGMENT_BYTES = 16 << 20


def backup(number: int, *, ago: timedelta, errors: int = 0, parent: str | None = None, on: str = "a") -> Backup:
    run = RunId(number, bytes(4))
    stopped = (NOW - ago).isoformat()
    summary = replace(sample_summary(run), stopped_at=stopped, page_errors=errors, parent=parent, size_bytes=1000)
    return Backup(summary, sample_head(), (), {on: Standing(State.GOOD)})


def window(target: str, *, end: int = 10, at: timedelta | None = MINUTE, backups: tuple[str, ...] = ()) -> Window:
    """From an hour ago; `end` in segments, the last commit `at` before now."""
    start_at = NOW - HOUR
    end_at = None if at is None else NOW - at
    begin, stop = Lsn(SEGMENT_BYTES), Lsn(end * SEGMENT_BYTES)
    return Window(target, 1, Timeline(1), begin, stop, start_at, end_at, (), backups, "", None)


def order(*names: str, rule: str = "2-1-0", promises: Promises | None = None) -> PolicyOrder:
    targets = tuple(Declared(name, f"site-{name}", "disk", f"user of {name}") for name in names)
    given = promises or Promises()
    return PolicyOrder("orders", "here", "", None, targets, Rule.parse(rule), None, given, Terms(), Rates())


def stored(backups: list[Backup], *windows: Window, devices: dict[str, str] | None = None) -> Stored:
    return Stored(Catalogue(LAYOUT, backups, {}, {}), windows, {}, devices or {"a": "1", "b": "2"}, {})


WELL = Server(True, devices=frozenset({"0"}))


def test_a_gap_splits_a_window_and_what_lies_in_it_is_not_claimed() -> None:
    stops = {"one": NOW - 9 * HOUR, "two": NOW - 8 * HOUR, "three": NOW - 2 * HOUR}
    gap = Gap(Lsn(1), Lsn(2), "", "", 1, "three")
    found = spans(replace(window("a", backups=("one", "two", "three")), gaps=(gap,)), stops, SEEN)
    assert [(span.start, span.end) for span in found] == [
        (NOW - 9 * HOUR, NOW - 8 * HOUR),
        (NOW - 2 * HOUR, NOW - MINUTE),
    ]


def test_an_end_that_nobody_found_is_that_of_the_last_backup() -> None:
    (span,) = spans(window("a", at=None, backups=("one",)), {"one": NOW - HOUR}, SEEN)
    assert (span.start, span.end) == (NOW - HOUR, NOW - HOUR)


def test_what_a_wrong_clock_dated_in_the_future_proves_no_age_and_no_instant() -> None:
    """Ten years ahead it would keep every promise of an age for ten years."""
    true, wrong = backup(1, ago=5 * HOUR), backup(2, ago=-timedelta(days=3650))
    names = (true.summary.backup, wrong.summary.backup)
    held = stored([true, wrong], window("a", backups=names, at=2 * HOUR))
    facts = gather(order("a", promises=Promises(max_backup_age=4 * HOUR)), WELL, held, NOW)
    assert facts.objectives.backup_at == NOW - 5 * HOUR
    (span,) = facts.situation.targets[0].windows or ()
    assert (span.start, span.end) == (NOW - 5 * HOUR, NOW - 2 * HOUR)
    assert [b.promise for b in judge(facts, Promises(max_backup_age=4 * HOUR)).breaches] == ["max_backup_age"]
    alone = gather(order("a"), WELL, stored([wrong], window("a", backups=names[1:], at=-HOUR)), NOW)
    assert alone.objectives.backup_at is None and alone.situation.targets[0].windows == ()


def test_two_hosts_clocks_may_be_a_little_apart() -> None:
    held = stored([backup(1, ago=-timedelta(seconds=20))], window("a"))
    assert gather(order("a"), WELL, held, NOW).objectives.backup_at == NOW + timedelta(seconds=20)


def test_a_page_scan() -> None:
    sound = backup(1, ago=2 * HOUR)
    assert scan_of([]) == (None, "no backup has read its pages yet")
    assert scan_of([sound])[0] is True
    assert scan_of([sound, backup(2, ago=HOUR, errors=3)])[0] is False
    unchecked = replace(sound, head=replace(sound.head, checksums=False))
    assert scan_of([unchecked])[0] is None


def test_damage_that_an_unchanged_file_may_still_have_is_not_forgotten() -> None:
    first = backup(1, ago=3 * HOUR, errors=1)
    second = backup(2, ago=2 * HOUR, parent=first.summary.backup)
    clean, why = scan_of([first, second])
    assert clean is None
    assert "--rehash" in why
    assert scan_of([first, second, backup(3, ago=HOUR)])[0] is True, "a backup without a parent has read everything"


def test_exposure_is_what_enough_targets_lack() -> None:
    held = stored([backup(1, ago=HOUR)], window("a", at=MINUTE, end=12), window("b", at=5 * MINUTE, end=10))
    two = replace(order("a", "b"), wal_ack="all")
    assert exposure(order("a", "b"), WELL, held, NOW) == MINUTE
    assert exposure(two, WELL, held, NOW) == 5 * MINUTE


def test_a_target_beside_the_server_does_not_make_wal_durable() -> None:
    held = stored([], window("a", at=MINUTE), window("b", at=5 * MINUTE), devices={"a": "0", "b": "2"})
    found = acknowledged(order("a", "b"), WELL, held)
    assert found is not None
    assert found.target == "b"
    assert exposure(order("a", "b"), WELL, stored([], window("a"), devices={"a": "0", "b": "2"}), NOW) is None


def test_a_server_that_wrote_nothing_since_loses_nothing() -> None:
    held = stored([], window("a", at=5 * HOUR))
    idle = replace(WELL, timeline=1, position=Lsn(10 * SEGMENT_BYTES))
    assert exposure(order("a"), idle, held, NOW) == timedelta(0)
    assert exposure(order("a"), replace(idle, position=Lsn(11 * SEGMENT_BYTES)), held, NOW) == 5 * HOUR
    assert exposure(order("a"), replace(idle, timeline=2), held, NOW) == 5 * HOUR, "another branch says nothing"


def test_wal_that_is_gone_is_no_proof_that_nothing_was_written(tmp_path: Path) -> None:
    (tmp_path / "pg_wal").mkdir()
    with pytest.raises(FileNotFoundError):
        oldest_unarchived(tmp_path, window("a"), SEGMENT_BYTES)
    held = stored([backup(1, ago=HOUR)], window("a", at=5 * HOUR))
    assert exposure(order("a"), replace(WELL, folder=tmp_path), held, NOW) == 5 * HOUR


def test_a_segment_made_ahead_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "pg_wal").mkdir()
    name = Timeline(1).segment(10, SEGMENT_BYTES).text
    (tmp_path / "pg_wal" / name).write_bytes(bytes(SEGMENT_BYTES))
    assert oldest_unarchived(tmp_path, window("a"), SEGMENT_BYTES) is None


def test_a_forecast_needs_both_rates() -> None:
    one = replace(backup(1, ago=HOUR), summary=replace(backup(1, ago=HOUR).summary, start_lsn="0/1000000"))
    held = window("a", end=3, backups=(one.summary.backup,))
    assert forecast(one, [held], Rates(fetch=100.0)) is None
    assert forecast(None, [held], Rates(100.0, 100.0)) is None
    assert forecast(one, [held], Rates(100.0, float(SEGMENT_BYTES))) == timedelta(seconds=10 + 2)


def test_a_connection_to_nowhere_is_an_answer(tmp_path: Path) -> None:
    """Neither a dead server nor a folder that is none is an error."""
    asked = replace(order("a"), connection=f"host={tmp_path} connect_timeout=2", data_dir=tmp_path)
    found = ask_server(asked.connection, asked.data_dir, lambda seconds: None)
    assert found.reachable is False
    assert "cannot connect" in found.why
    assert found.folder is None


def test_nothing_known_is_never_kept() -> None:
    promised = Promises(rpo=MINUTE, rto=MINUTE, max_backup_age=HOUR, max_verify_age=HOUR, max_drill_age=HOUR)
    wanted = order("a", "b", rule="1-1-0", promises=promised)
    found = judge(gather(wanted, Server(None, "nobody asked"), nothing_answers(wanted, "all away"), NOW), promised)
    assert found.state is decision.State.UNKNOWN
    assert [copy.counts for copy in found.copies] == [None, None, None]
    assert {breach.promise for breach in found.breaches} == set(Promises.__slots__)
    assert all(breach.actual is None for breach in found.breaches)
    assert found.losses == (frozenset(),)


def test_empty_targets_are_known_to_hold_nothing() -> None:
    found = judge(gather(order("a"), WELL, stored([]), NOW), Promises())
    assert found.state is decision.State.BROKEN
    assert [copy.counts for copy in found.copies] == [None, False]


def test_what_is_not_measured_is_unknown_beside_a_rule_that_is_kept() -> None:
    one = backup(1, ago=HOUR)
    held = [window(name, backups=(one.summary.backup,)) for name in ("a", "b")]
    facts = gather(order("a", "b", rule="3-2-1-1-0"), WELL, stored([one], *held), NOW)
    found = judge(facts, Promises())
    states = {one.name: one.state.value for one in found.decisions}
    assert states == {"copies": "kept", "media": "kept", "offsite": "kept", "immutable": "unknown", "errors": "unknown"}
    assert found.state is decision.State.UNKNOWN
    assert found.report.newest == NOW - MINUTE


def reported(number: int, verdict: str, *, at: datetime, cluster: str = "orders") -> tuple[Note, dict[str, str]]:
    ident = str(RunId(number, bytes(4)))
    return Note(ident, LAYOUT.system_identifier, at, "region-loss", "D09", cluster, verdict), {"report.json": ident}


def test_only_a_drill_that_passed_counts() -> None:
    """Not one that failed later, not another cluster's, not one from the future; and none where nothing answers."""
    where = Faulty(MemoryBackend("a"))
    repository = Repository(ring(), [target("a", where)], {}, DataKey(ring(), seeded(1)))
    clock = HandClock()
    stub = StreamLog(StringIO(), run_id="", clock=clock)
    means = Means(repository, clock, seeded(2), CancelToken(clock=clock), Silent(), stub)
    system = LAYOUT.system_identifier
    assert last_passed("orders", system, means) is None
    past = (
        ("pass", 9, "orders"),
        ("pass", 5, "orders"),
        ("fail", 4, "orders"),
        ("pass", 3, "others"),
        ("pass", -9, "orders"),
    )
    for number, (verdict, hours, cluster) in enumerate(past):
        note, files = reported(number, verdict, at=clock.now() - hours * HOUR, cluster=cluster)
        assert keep(repository, note, files, entropy=seeded(number)).targets == ("a",)
    assert last_passed("orders", system, means) == clock.now() - 5 * HOUR
    assert last_passed("orders", system + 1, means) is None
    where.add("list:503*")
    assert last_passed("orders", system, means) is None


def test_the_age_of_the_last_drill_is_judged() -> None:
    promised = Promises(max_drill_age=24 * HOUR)
    for ago, kept in ((23 * HOUR, True), (25 * HOUR, False)):
        held = replace(stored([]), drilled_at=NOW - ago)
        found = judge(gather(order("a"), WELL, held, NOW), promised)
        assert ("max_drill_age" not in [breach.promise for breach in found.breaches]) is kept
