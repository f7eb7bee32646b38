"""3-2-1 and 3-2-1-1-0, judged per recoverable instant from facts. Pure: no clock, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from policies.decision import Decision, State, judge, worst
from policies.facts import ClusterFacts, TargetFacts, Terms
from policies.rule import Rule


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a judgement rests on."""

    rule: Rule
    terms: Terms
    cluster: ClusterFacts
    targets: tuple[TargetFacts, ...]
    now: datetime


@dataclass(frozen=True, slots=True)
class Verdict:
    """The rule at one instant. backups_alone: copies known without the primary."""

    instant: datetime
    state: State
    decisions: tuple[Decision, ...]
    backups_alone: int


@dataclass(frozen=True, slots=True)
class Interval:
    """Instants from `start` to `end` that are restorable, or should be, but short of the rule."""

    start: datetime
    end: datetime
    state: State


@dataclass(frozen=True, slots=True)
class Report:
    """now: the verdict on the newest restorable instant; None where nothing can be restored.

    newest: the newest instant that meets the rule · lag: its age at `Situation.now`; None: there is none
    """

    now: Verdict | None
    newest: datetime | None
    lag: timedelta | None
    short: tuple[Interval, ...]

    @property
    def state(self) -> State:
        return State.BROKEN if self.now is None else self.now.state


@dataclass(frozen=True, slots=True)
class _Count:
    """What is surely so, what may be so, and why the rest is not."""

    sure: tuple[TargetFacts, ...]
    maybe: tuple[TargetFacts, ...]
    reasons: tuple[str, ...]


def judge_instant(situation: Situation, instant: datetime) -> Verdict:
    """The rule at `instant`, one decision per figure of the rule."""
    rule, cluster = situation.rule, situation.cluster
    held = _holders(situation, instant)
    primary = _primary(cluster)
    decisions = [
        _copies(rule, held, primary, cluster),
        _media(rule, held, primary, cluster),
        _offsite(rule, held, cluster),
    ]
    if rule.immutable:
        decisions.append(_immutable(situation, held, instant))
    if rule.zero_errors:
        decisions.append(_zero_errors(situation, held))
    state = worst(tuple(decision.state for decision in decisions))
    return Verdict(instant, state, tuple(decisions), backups_alone=len(held.sure))


def judge_all(situation: Situation) -> Report:
    """Every restorable instant: the newest good one, and the intervals that are short of the rule."""
    points = _boundaries(situation)
    if not points:
        return Report(None, None, None, ())
    ends = [window.end for target in situation.targets for window in target.windows or ()]
    latest = judge_instant(situation, max(ends))
    good = [at for at in points if judge_instant(situation, at).state is State.KEPT]
    newest = max(good, default=None)
    lag = None if newest is None else situation.now - newest
    return Report(latest, newest, lag, _short(situation, points))


def _primary(cluster: ClusterFacts) -> bool | None:
    """Whether the primary is a copy: reachable, and its last page scan clean; None: not known."""
    if cluster.reachable is False or cluster.scan_clean is False:
        return False
    return True if cluster.reachable and cluster.scan_clean else None


def _holders(situation: Situation, instant: datetime) -> _Count:
    sure, maybe, reasons = [], [], []
    for target in situation.targets:
        held, reason = holds(target, instant, situation.terms, situation.now)
        if held:
            sure.append(target)
            continue
        reasons.append(f"{target.name}: {reason}")
        if held is None:
            maybe.append(target)
    return _Count(tuple(sure), tuple(maybe), tuple(reasons))


def holds(target: TargetFacts, instant: datetime, terms: Terms, now: datetime) -> tuple[bool | None, str]:
    """Whether a target alone can restore `instant` (None: not known), and why not."""
    if target.windows is None:
        return None, "it could not be asked"
    around = [window for window in target.windows if window.start <= instant <= window.end]
    if not around:
        return False, "no complete backup and WAL for this instant"
    reason = "nobody has looked"
    for window in around:
        if window.evidence is None:
            continue
        if window.evidence.grade < terms.copy_grade:
            reason = f"the evidence is only {window.evidence.grade.name.lower()}"
        elif not timedelta(0) <= now - window.evidence.at <= terms.max_verify_age:
            reason = f"last verified {window.evidence.at.isoformat()}, older than {terms.max_verify_age}"
        else:
            return True, ""
    return None, reason


def _copies(rule: Rule, held: _Count, primary: bool | None, cluster: ClusterFacts) -> Decision:
    sure = len(held.sure) + (primary is True)
    possible = sure + len(held.maybe) + (primary is None)
    reasons = held.reasons
    if primary is not True:
        word = "not reachable or its last page scan found damage" if primary is False else "not known to be well"
        reasons += (f"the primary {cluster.name} is {word}",)
    return Decision("copies", judge(rule.copies, sure, possible), rule.copies, sure, reasons)


def _media(rule: Rule, held: _Count, primary: bool | None, cluster: ClusterFacts) -> Decision:
    """Different devices (or accounts) as observed: a declared class alone proves nothing.

    A primary over several devices is still one copy on one medium; a target on any of them is the same one.
    """
    known = {target.device for target in held.sure if target.device is not None}
    beyond = known - cluster.devices
    at_primary = primary is True or bool(known & cluster.devices)
    placed = bool(cluster.devices) or not at_primary  # else a target may share the primary's unseen device
    sure = len(beyond) + at_primary if placed else max(1, len(beyond))
    unseen = [target for target in held.sure if target.device is None]
    reasons = [f"{target.name}: its device is not known" for target in unseen]
    by_device: dict[str, list[str]] = {}
    for target in held.sure:
        if target.device is not None:
            by_device.setdefault(target.device, []).append(target.name)
    for names in by_device.values():
        if len(names) > 1:
            reasons.append(f"{', '.join(names)} are on one device: one medium")
    reasons += [
        f"{target.name} is on a device of the primary" for target in held.sure if target.device in cluster.devices
    ]
    if not placed:
        reasons.append("the devices of the primary are not known")
    possible = sure + len(unseen) + len(held.maybe) + (primary is None or not placed)
    return Decision("media", judge(rule.media, sure, possible), rule.media, sure, tuple(reasons))


def _offsite(rule: Rule, held: _Count, cluster: ClusterFacts) -> Decision:
    def away(target: TargetFacts) -> bool:
        return target.site != cluster.site and target.device not in cluster.devices

    sure = sum(away(target) for target in held.sure)
    possible = sure + sum(away(target) for target in held.maybe)
    reasons = tuple(
        f"{target.name} says it is at {target.site}, but is on a device of the primary"
        for target in held.sure
        if target.site != cluster.site and target.device in cluster.devices
    )
    if sure < rule.offsite and not reasons:
        reasons = (f"copies are at the primary's site {cluster.site} only",)
    return Decision("offsite", judge(rule.offsite, sure, possible), rule.offsite, sure, reasons)


def _immutable(situation: Situation, held: _Count, instant: datetime) -> Decision:
    needed_until = instant + situation.terms.needed_for
    sure, possible, reasons = 0, 0, []
    for target in (*held.sure, *held.maybe):
        probe = target.lock_probe
        if target.locked_until is None or target.locked_until < needed_until:
            until = "not locked" if target.locked_until is None else f"locked to {target.locked_until.isoformat()}"
            reasons.append(f"{target.name}: {until}, needed to {needed_until.isoformat()}")
        elif probe is not None and not probe.refused:
            reasons.append(f"{target.name}: a trial deletion was not refused")
        elif probe is None or not timedelta(0) <= situation.now - probe.at <= situation.terms.max_verify_age:
            possible += 1
            reasons.append(f"{target.name}: no recent trial deletion shows that its lock holds")
        else:
            possible += 1
            sure += target in held.sure
    needed = situation.rule.immutable
    return Decision("immutable", judge(needed, sure, possible), needed, sure, tuple(reasons))


def _zero_errors(situation: Situation, held: _Count) -> Decision:
    """Every target that holds the instant: no open finding, and a recent drill that passed. Counts errors."""
    broken, unknown = [], []
    for target in held.sure:
        if target.findings:
            broken.append(f"{target.name}: {target.findings} open findings")
        elif target.findings is None:
            unknown.append(f"{target.name}: whether it has open findings is not known")
        age = None if target.drilled_at is None else situation.now - target.drilled_at
        if age is None:
            broken.append(f"{target.name}: no drill that used it has passed")
        elif not timedelta(0) <= age <= situation.terms.max_drill_age:
            broken.append(f"{target.name}: the last passed drill is older than {situation.terms.max_drill_age}")
    if not held.sure:
        unknown.append("no copy is known: nothing was found and nothing was looked at")
    state = State.BROKEN if broken else State.UNKNOWN if unknown else State.KEPT
    return Decision("errors", state, 0, len(broken), (*broken, *unknown))


def _boundaries(situation: Situation) -> list[datetime]:
    """Instants between which the verdict cannot change, ascending; only such that some window holds."""
    windows = [window for target in situation.targets for window in target.windows or ()]
    points = {at for window in windows for at in (window.start, window.end)}
    for target in situation.targets:
        if target.locked_until is not None:
            at = target.locked_until - situation.terms.needed_for
            if any(window.start <= at <= window.end for window in windows):
                points.add(at)
    return sorted(points)


def _short(situation: Situation, points: Sequence[datetime]) -> tuple[Interval, ...]:
    """Between the first and the last boundary: what does not meet the rule, neighbours of one state joined."""
    found: list[Interval] = []
    open_state = State.KEPT  # of the interval that ends where the next piece starts

    def add(start: datetime, end: datetime, state: State) -> None:
        nonlocal open_state
        if state is not State.KEPT:
            if state is open_state:
                start = found.pop().start
            found.append(Interval(start, end, state))
        open_state = state

    for at, following in zip(points, [*points[1:], None], strict=True):
        add(at, at, judge_instant(situation, at).state)
        if following is not None:
            between = at + (following - at) / 2
            if at < between < following:
                add(at, following, judge_instant(situation, between).state)
    return tuple(found)
