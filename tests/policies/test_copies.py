"""3-2-1 and 3-2-1-1-0: counted from facts, never from hopes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.copies import Situation, Verdict, judge_all, judge_instant
from policies.decision import Decision, State
from policies.facts import ClusterFacts, Evidence, Grade, LockProbe, TargetFacts, Terms, Window
from policies.losses import Loss, smallest_losses
from policies.rule import Rule

NOW = datetime(2026, 7, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
SEEN = Evidence(Grade.HASHED, NOW - HOUR)
SPAN = Window(NOW - 10 * DAY, NOW - HOUR, SEEN)
AT = NOW - DAY

LOCAL = TargetFacts("local", "fra", "disk", "dev:1", (SPAN,), findings=0, drilled_at=NOW - DAY)
VAULT = TargetFacts(
    "vault",
    "dub",
    "object",
    "https://s3.dub account",
    (SPAN,),
    locked_until=NOW + 30 * DAY,
    lock_probe=LockProbe(NOW - HOUR, refused=True),
    findings=0,
    drilled_at=NOW - DAY,
)
PRIMARY = ClusterFacts("orders", "fra", reachable=True, scan_clean=True, devices=frozenset({"dev:0"}))
FULL = Rule.parse("3-2-1-1-0")


def situation(
    *targets: TargetFacts, rule: Rule = FULL, cluster: ClusterFacts = PRIMARY, terms: Terms | None = None
) -> Situation:
    return Situation(rule, terms or Terms(), cluster, targets, NOW)


def decision(verdict: Verdict, name: str) -> Decision:
    return next(decision for decision in verdict.decisions if decision.name == name)


def test_kept() -> None:
    verdict = judge_instant(situation(LOCAL, VAULT), AT)
    assert verdict.state is State.KEPT
    assert verdict.backups_alone == 2
    assert [(d.name, d.found) for d in verdict.decisions] == [
        ("copies", 3),
        ("media", 3),
        ("offsite", 1),
        ("immutable", 1),
        ("errors", 0),
    ]


@pytest.mark.parametrize(
    ("targets", "cluster", "name", "state"),
    [
        ((LOCAL, VAULT), replace(PRIMARY, reachable=False), "copies", State.BROKEN),
        ((LOCAL, VAULT), replace(PRIMARY, scan_clean=False), "copies", State.BROKEN),
        ((LOCAL, VAULT), replace(PRIMARY, scan_clean=None), "copies", State.UNKNOWN),
        ((LOCAL, replace(VAULT, windows=None)), PRIMARY, "copies", State.UNKNOWN),
        ((LOCAL, replace(VAULT, windows=())), PRIMARY, "copies", State.BROKEN),
        ((LOCAL, replace(VAULT, site="fra")), PRIMARY, "offsite", State.BROKEN),
        ((LOCAL, replace(VAULT, device="dev:0")), PRIMARY, "offsite", State.BROKEN),
        ((LOCAL, replace(VAULT, locked_until=None)), PRIMARY, "immutable", State.BROKEN),
        ((LOCAL, replace(VAULT, locked_until=AT + 13 * DAY)), PRIMARY, "immutable", State.BROKEN),
        ((LOCAL, replace(VAULT, lock_probe=None)), PRIMARY, "immutable", State.UNKNOWN),
        ((LOCAL, replace(VAULT, lock_probe=LockProbe(NOW - 8 * DAY, True))), PRIMARY, "immutable", State.UNKNOWN),
        ((LOCAL, replace(VAULT, lock_probe=LockProbe(NOW, False))), PRIMARY, "immutable", State.BROKEN),
        ((replace(LOCAL, findings=1), VAULT), PRIMARY, "errors", State.BROKEN),
        ((replace(LOCAL, findings=None), VAULT), PRIMARY, "errors", State.UNKNOWN),
        ((replace(LOCAL, drilled_at=None), VAULT), PRIMARY, "errors", State.BROKEN),
        ((replace(LOCAL, drilled_at=NOW - 32 * DAY), VAULT), PRIMARY, "errors", State.BROKEN),
    ],
)
def test_each_figure_is_broken_by_its_own_fact(
    targets: tuple[TargetFacts, ...], cluster: ClusterFacts, name: str, state: State
) -> None:
    verdict = judge_instant(situation(*targets, cluster=cluster), AT)
    found = decision(verdict, name)
    assert found.state is state
    assert found.reasons
    assert verdict.state is not State.KEPT


def test_one_device_is_one_medium_whatever_is_declared() -> None:
    twin = replace(LOCAL, name="twin", medium="tape")
    rule = Rule.parse("2-2-0")
    gone = replace(PRIMARY, reachable=False)
    assert decision(judge_instant(situation(LOCAL, twin, rule=rule, cluster=gone), AT), "media").found == 1
    beside = replace(LOCAL, device="dev:0")
    assert decision(judge_instant(situation(beside, rule=rule), AT), "media").state is State.BROKEN
    unseen = replace(LOCAL, device=None)
    assert decision(judge_instant(situation(unseen, rule=rule), AT), "media").state is State.UNKNOWN
    no_devices = replace(PRIMARY, devices=frozenset())
    assert decision(judge_instant(situation(LOCAL, rule=rule, cluster=no_devices), AT), "media").state is State.UNKNOWN


@pytest.mark.parametrize(
    "evidence",
    [None, Evidence(Grade.DECLARED, NOW), Evidence(Grade.HASHED, NOW - 8 * DAY), Evidence(Grade.HASHED, NOW + DAY)],
)
def test_weak_old_or_future_evidence_is_unknown(evidence: Evidence | None) -> None:
    weak = replace(VAULT, windows=(replace(SPAN, evidence=evidence),))
    verdict = judge_instant(situation(LOCAL, weak), AT)
    assert verdict.state is State.UNKNOWN
    assert verdict.backups_alone == 1


def test_the_lag_is_the_age_of_the_newest_instant_that_is_kept() -> None:
    behind = replace(VAULT, windows=(replace(SPAN, end=NOW - 5 * HOUR),))
    report = judge_all(situation(LOCAL, behind))
    assert report.newest == NOW - 5 * HOUR
    assert report.lag == 5 * HOUR
    assert report.state is State.BROKEN, "the newest restorable instant is on one target only"
    assert report.short[-1].end == NOW - HOUR


def test_a_lock_that_ends_too_soon_for_new_instants_is_lag() -> None:
    soon = replace(VAULT, locked_until=NOW - 2 * DAY + Terms().needed_for)
    assert judge_all(situation(LOCAL, soon)).newest == NOW - 2 * DAY


def test_a_gap_in_the_middle_is_an_interval() -> None:
    gap = (Window(SPAN.start, NOW - 6 * DAY, SEEN), Window(NOW - 4 * DAY, SPAN.end, SEEN))
    report = judge_all(situation(LOCAL, replace(VAULT, windows=gap)))
    assert [(short.start, short.end) for short in report.short] == [(NOW - 6 * DAY, NOW - 4 * DAY)]
    assert report.state is State.KEPT


def test_one_good_instant_between_two_short_intervals_is_not_swallowed() -> None:
    middle = NOW - 5 * DAY
    first, second = Window(SPAN.start, middle, SEEN), Window(middle, SPAN.end, SEEN)
    facts = situation(replace(LOCAL, windows=(first,)), replace(VAULT, windows=(second,)), rule=Rule.parse("3-1-0"))
    report = judge_all(facts)
    assert report.newest == middle
    assert [(short.start, short.end) for short in report.short] == [(SPAN.start, middle), (middle, SPAN.end)]


def test_nothing_restorable_is_broken() -> None:
    report = judge_all(situation(replace(LOCAL, windows=()), replace(VAULT, windows=None)))
    assert report.state is State.BROKEN
    assert report.newest is None


def test_smallest_losses() -> None:
    local = replace(LOCAL, keys=frozenset({"k1"}))
    vault = replace(VAULT, keys=frozenset({"k1", "escrow"}), credential="backup-writer")
    found = smallest_losses(situation(local, vault), AT)
    pairs = {frozenset({(loss.kind, loss.name) for loss in losses}) for losses in found}
    assert frozenset({("site", "dub"), ("site", "fra")}) in pairs
    assert frozenset({("target", "local"), ("site", "dub")}) in pairs
    assert frozenset({("key", "k1"), ("key", "escrow")}) in pairs
    assert not any(("credential", "backup-writer") in losses for losses in pairs), "the lock holds"
    unlocked = replace(vault, locked_until=None)
    assert frozenset({Loss("site", "fra"), Loss("credential", "backup-writer")}) in smallest_losses(
        situation(local, unlocked), AT
    )
    assert smallest_losses(situation(replace(LOCAL, windows=())), AT) == (frozenset(),)


evidences = st.one_of(
    st.none(), st.builds(Evidence, st.sampled_from(Grade), st.sampled_from([NOW, NOW - DAY, NOW - 9 * DAY]))
)
windows = st.builds(
    lambda start, length, evidence: Window(NOW - start * DAY, NOW - start * DAY + length * DAY, evidence),
    st.integers(0, 9),
    st.integers(0, 9),
    evidences,
)
targets_ = st.builds(
    TargetFacts,
    name=st.sampled_from(["a", "b", "c", "d"]),
    site=st.sampled_from(["fra", "dub"]),
    medium=st.just("disk"),
    device=st.sampled_from([None, "dev:0", "dev:1", "s3"]),
    windows=st.one_of(st.none(), st.lists(windows, max_size=2).map(tuple)),
    findings=st.sampled_from([None, 0, 1]),
    drilled_at=st.sampled_from([None, NOW - DAY]),
)
clusters = st.builds(
    ClusterFacts,
    st.just("orders"),
    st.just("fra"),
    st.sampled_from([None, True, False]),
    st.sampled_from([None, True, False]),
    st.sampled_from([frozenset[str](), frozenset({"dev:0"})]),
)
situations = st.builds(
    Situation,
    st.sampled_from([Rule.parse(text) for text in ("1-1-0", "2-1-0", "2-2-1", "3-2-1", "2-1-0-0-0")]),
    st.just(Terms()),
    clusters,
    st.lists(targets_, max_size=4, unique_by=lambda target: target.name).map(tuple),
    st.just(NOW),
)
instants = st.integers(0, 9).map(lambda days: NOW - days * DAY)


@given(situations, instants)
def test_forgetting_what_was_seen_never_makes_it_green(given_: Situation, instant: datetime) -> None:
    before = judge_instant(given_, instant)
    forgotten = replace(given_, targets=tuple(replace(target, windows=None) for target in given_.targets))
    after = judge_instant(forgotten, instant)
    if before.state is not State.KEPT:
        assert after.state is not State.KEPT
    assert after.backups_alone == 0


@given(situations, instants)
def test_kept_means_that_the_copies_are_there(given_: Situation, instant: datetime) -> None:
    verdict = judge_instant(given_, instant)
    if verdict.state is State.KEPT:
        primary = given_.cluster.reachable is True and given_.cluster.scan_clean is True
        assert verdict.backups_alone + primary >= given_.rule.copies
        away = {target.name for target in given_.targets if target.site != given_.cluster.site}
        assert len(away) >= given_.rule.offsite


@given(situations, targets_, instants)
def test_one_more_target_never_harms_the_three_figures(given_: Situation, more: TargetFacts, instant: datetime) -> None:
    if given_.rule.zero_errors:
        return
    wider = replace(given_, targets=(*given_.targets, replace(more, name="more")))
    order = [State.BROKEN, State.UNKNOWN, State.KEPT]
    assert order.index(judge_instant(wider, instant).state) >= order.index(judge_instant(given_, instant).state)


@given(situations)
def test_the_newest_kept_instant_is_kept_and_no_short_interval_holds_it(given_: Situation) -> None:
    report = judge_all(given_)
    if report.newest is not None:
        assert judge_instant(given_, report.newest).state is State.KEPT
        assert not any(short.start < report.newest < short.end for short in report.short)
    for short in report.short:
        middle = short.start + (short.end - short.start) / 2
        if short.start == short.end:
            assert judge_instant(given_, middle).state is not State.KEPT


@given(situations, instants)
def test_after_a_smallest_loss_nothing_restores_and_less_is_survived(given_: Situation, instant: datetime) -> None:
    for losses in smallest_losses(given_, instant):
        left = [
            target
            for target in given_.targets
            if Loss("target", target.name) not in losses and Loss("site", target.site) not in losses
        ]
        assert judge_instant(replace(given_, targets=tuple(left)), instant).backups_alone == 0
