"""Facts to a judgement: the rule of copies, the promises of time, and what would make recovery impossible. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from drkit.jobs.policy_facts import PolicyFacts
from policies.copies import Report, holds, judge_all
from policies.decision import Breach, Decision, State, worst
from policies.facts import TargetFacts
from policies.losses import Loss, smallest_losses
from policies.objectives import Promises, breaches
from policies.rule import Rule


@dataclass(frozen=True, slots=True)
class Copy:
    """One place where the data is. counts None: not known. newest: the newest instant that it can restore."""

    name: str
    kind: str
    site: str
    medium: str
    device: str | None
    counts: bool | None
    why: str
    newest: datetime | None
    backup: str | None


@dataclass(frozen=True, slots=True)
class Judgement:
    """decisions: one for each figure of the rule. report: of `measured`, the figures that can be measured."""

    state: State
    measured: Rule
    report: Report
    decisions: tuple[Decision, ...]
    copies: tuple[Copy, ...]
    breaches: tuple[Breach, ...]
    losses: tuple[frozenset[Loss], ...]


def judge(facts: PolicyFacts, promises: Promises) -> Judgement:
    """Pure. Immutability, and which targets a drill used, are not measured yet: UNKNOWN, never kept."""
    whole = facts.situation.rule
    measured = Rule(whole.copies, whole.media, whole.offsite)
    situation = replace(facts.situation, rule=measured)
    report = judge_all(situation)
    decisions = report.now.decisions if report.now else ()
    if whole.immutable:
        why = "whether anything is locked against deletion is not measured by this version"
        decisions += (Decision("immutable", State.UNKNOWN, whole.immutable, 0, (why,)),)
    if whole.zero_errors:
        decisions += (_errors(situation.targets),)
    broken = breaches(promises, facts.objectives, situation.now)
    promised = [State.UNKNOWN if breach.actual is None else State.BROKEN for breach in broken]
    state = worst((_of_copies(facts, report), *promised, *(decision.state for decision in decisions)))
    instant = report.now.instant if report.now else None
    losses = smallest_losses(situation, instant) if instant else (frozenset(),)
    return Judgement(state, measured, report, decisions, _copies(facts, instant), broken, losses)


def _errors(targets: Sequence[TargetFacts]) -> Decision:
    """Open findings of the newest verification, on any target."""
    broken = [f"{one.name}: {one.findings} open findings; `drkit verify` names them" for one in targets if one.findings]
    unseen = [f"{one.name}: no verification has left evidence" for one in targets if one.findings is None]
    unseen += ["which targets the last drill used is not measured by this version"]
    state = State.BROKEN if broken else State.UNKNOWN
    return Decision("errors", state, 0, len(broken), (*broken, *unseen))


def _of_copies(facts: PolicyFacts, report: Report) -> State:
    """Where no window is seen, a target that could not be asked may still have one."""
    if report.now is None and any(target.windows is None for target in facts.situation.targets):
        return State.UNKNOWN
    return report.state


def _copies(facts: PolicyFacts, instant: datetime | None) -> tuple[Copy, ...]:
    cluster, server = facts.situation.cluster, facts.server
    counts, why = cluster.reachable, server.why
    if cluster.reachable:
        counts, why = cluster.scan_clean, facts.scan_why
    devices = ", ".join(sorted(cluster.devices)) or None
    primary = Copy(cluster.name, "primary", cluster.site, "live", devices, counts, why, None, None)
    return (primary, *(_copy(facts, target, instant) for target in facts.situation.targets))


def _copy(facts: PolicyFacts, target: TargetFacts, instant: datetime | None) -> Copy:
    """instant None: no target is known to hold anything."""
    situation, stored = facts.situation, facts.stored
    held, reason = holds(target, instant or situation.now, situation.terms, situation.now)
    if instant is None and held is False:
        reason = "no good backup with its WAL is there"
    backup = stored.newest(target.name)
    return Copy(
        target.name,
        "target",
        target.site,
        target.medium,
        target.device,
        held,
        stored.unreadable.get(target.name, reason),
        max((window.end for window in target.windows or ()), default=None),
        backup.summary.backup if backup else None,
    )
