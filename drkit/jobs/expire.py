"""Expiry: what may go from each target, and its deletion behind tombstones, by docs/format.md, section 8.

    own lease -> holds -> survey -> judge -> verdicts, tombstones of backups -> leases and manifests again
              -> tombstones of data -> (the grace, in a later run) -> leases and manifests again -> delete -> leftovers

It may die anywhere, and two may run at once: every step is decided from what the target holds by then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from drkit.core.errors import DrkitError, Missing, Refused, Unreachable
from drkit.jobs.expire_act import Done, Expirer
from drkit.jobs.expire_judge import Judgement, Terms, ask_others, judge
from drkit.jobs.expire_leftovers import sweep
from drkit.jobs.expire_reach import counted, reached, unreached_wal
from drkit.jobs.expire_survey import Survey, host_time, probe, survey
from drkit.jobs.means import Means
from drkit.repository.catalogue import systems
from drkit.repository.fences import EXPIRE
from drkit.repository.holds import Hold
from drkit.repository.layout import ClusterLayout
from drkit.repository.leases import Lease, LeaseTerms
from drkit.repository.repository import Problem
from drkit.repository.target import Target
from policies.retention import Item
from storage_backends.errors import StorageError

LEASE_S = 3600  # a survey of ten million objects is one step of it


@dataclass(frozen=True, slots=True)
class ExpireOrder:
    """cluster: only of that name, None: all · only: one target · removes: the number that the plan must have, typed

    terms: by target.
    """

    cluster: str | None
    terms: Mapping[str, Terms]
    host: str
    only: str | None = None
    apply: bool = False
    removes: int | None = None


@dataclass(frozen=True, slots=True)
class TargetPlan:
    """What is due on one target for one system. dead: runs that never got good -> why · reference: what counts as now

    data, wal: how many objects nothing would reach · held_wal: spans on hold · waits: why nothing but deletion behind
    old tombstones can be done now, "" where all can
    """

    target: str
    system_identifier: int
    cluster: str
    items: tuple[Item, ...]
    dead: Mapping[str, str]
    reference: datetime | None
    data: int
    wal: int
    held_wal: tuple[Hold, ...]
    massive: bool
    waits: str = ""

    @property
    def going(self) -> tuple[Item, ...]:
        return tuple(item for item in self.items if item.goes)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one target. plan None: not even that could be made, `problem` says why · done None: not applied."""

    target: str
    system_identifier: int
    plan: TargetPlan | None = None
    done: Done | None = None
    problem: Problem | None = None


def expire(order: ExpireOrder, means: Means) -> list[Outcome]:
    """Plan every target and, with `apply`, carry it out where nothing stands against it; one by one.

    A target's own failure is in its outcome. Raises Refused where the plan removes much and its number was not given,
    or another one; Missing for a cluster that no target knows; StorageError where no target can be listed.
    """
    targets = [t for t in means.repository.targets if order.only in (None, t.name)]
    outcomes = [_plan(order, means, target, system) for system in _systems(order, means) for target in targets]
    absent = {n: p for n, p in means.repository.absent.items() if order.only in (None, n)}
    outcomes += [Outcome(name, 0, problem=problem) for name, problem in absent.items()]
    outcomes = [one for one in outcomes if _concerns(order, one)]
    if order.cluster is not None and not any(one.plan for one in outcomes) and not any(o.problem for o in outcomes):
        raise Missing(f"no target holds a backup of {order.cluster}", cure="`drkit list` shows the backups")
    if not order.apply:
        return outcomes
    _check_number(order, outcomes)
    applied = [_apply(order, means, one) if one.plan is not None else one for one in outcomes]
    for name in sorted({one.target for one in applied if one.done is not None}):
        _sweep(means, means.repository.target(name), order.terms[name])
    return applied


def _sweep(means: Means, target: Target, terms: Terms) -> None:
    """Best effort: what stays is in nobody's way, and the next run removes it."""
    try:
        count = sweep(target, probe(target, means.clock, means.entropy, terms.skew))
    except (StorageError, DrkitError) as error:
        means.log.warn("leftovers of killed processes stay", target=target.name, why=str(error))
        return
    if count:
        means.log.info("leftovers of killed processes removed", target=target.name, count=count)


def _systems(order: ExpireOrder, means: Means) -> list[int]:
    return sorted(systems(means.repository))


def _concerns(order: ExpireOrder, one: Outcome) -> bool:
    return order.cluster is None or one.plan is None or one.plan.cluster == order.cluster


def _check_number(order: ExpireOrder, outcomes: Sequence[Outcome]) -> None:
    plans = [one.plan for one in outcomes if one.plan is not None and not one.plan.waits]
    count = sum(len(plan.going) for plan in plans)
    if order.removes is not None and order.removes != count:
        raise Refused(
            f"the plan removes {count} backups, not {order.removes}",
            why="it was made anew just now; a backup counts once for each target it leaves",
            cure="read the plan again: `drkit expire`",
        )
    massive = [plan.target for plan in plans if plan.massive]
    if massive and order.removes is None:
        raise Refused(
            f"the plan removes {count} backups, more than a tenth of what is kept",
            where=", ".join(massive),
            why="so much goes at once when windows were shortened, or when a clock is wrong",
            cure=f"read the plan; if it is what you want: --removes {count}",
        )


def _plan(order: ExpireOrder, means: Means, target: Target, system: int) -> Outcome:
    """Reads only, but with `apply` for a probe of the target's clock."""
    terms, layout = order.terms[target.name], ClusterLayout(system)
    try:
        time = host_time(means.clock)
        if order.apply:
            time = probe(target, means.clock, means.entropy, terms.skew)
        found = survey(target, layout, means.repository.ring, time)
        others = ask_others(means, layout, target.name)
        judgement = judge(found, others, terms, means)
        return Outcome(target.name, system, _told(found, judgement, terms, others.holds.holds, means))
    except (StorageError, DrkitError) as error:
        return Outcome(target.name, system, problem=error)


def _told(found: Survey, judgement: Judgement, terms: Terms, holds: Sequence[Hold], means: Means) -> TargetPlan:
    """The plan with what it would let go, reckoned as if all its tombstones stood."""
    goes = {item.copy.id for item in judgement.plan.going}
    prefix = found.layout.folder("manifests")
    tombs = found.buried | {f"{prefix}{run}" for run in (*goes, *judgement.dead)}
    judged = judgement.settled | frozenset(judgement.dead) | {t.removeprefix(prefix) for t in tombs}
    fences = [*counted(found.fences, judged, found.now), *judgement.abroad]
    waits = judgement.unknown or judgement.blocked
    data: list[str] = []
    wal: list[str] = []
    if not waits:
        kept = reached(found, judgement, _with_unopened(judgement, found), found.manifests, fences, tombs, judged)
        data = [key for key in found.data - kept if key not in tombs]
        wal = [k for k in unreached_wal(found, judgement, terms, holds, kept, fences) if k not in tombs]
    named = judgement.plan.references.get(str(found.layout.system_identifier))
    return TargetPlan(
        target=found.target.name,
        system_identifier=found.layout.system_identifier,
        cluster=judgement.cluster,
        items=judgement.plan.items,
        dead=judgement.dead,
        reference=named.now if named else None,
        data=len(data),
        wal=len(wal),
        held_wal=tuple(hold for hold in holds if hold.wal),
        massive=judgement.plan.massive,
        waits=waits,
    )


def _with_unopened(judgement: Judgement, found: Survey) -> Mapping[str, frozenset[str]]:
    """For a plan: a manifest that does not open reaches what nobody knows; when it is carried out that is an error."""
    return {**dict.fromkeys(found.manifests, frozenset[str]()), **judgement.references}


def _apply(order: ExpireOrder, means: Means, one: Outcome) -> Outcome:
    """Carry out the plan on one target, judged anew: never more than what was planned."""
    assert one.plan is not None
    target = means.repository.target(one.target)
    terms, layout = order.terms[target.name], ClusterLayout(one.system_identifier)
    allowed = frozenset(item.copy.id for item in one.plan.going)
    try:
        time = probe(target, means.clock, means.entropy, terms.skew)
        data_key = means.repository.data_key
        rounds = layout.rounds(means.clock.now(), means.entropy(3))
        lease_terms = LeaseTerms(EXPIRE, None, [], order.host, LEASE_S, rounds)
        lease = Lease(target, layout, lease_terms, data_key, means.clock, means.entropy)
        try:
            found = survey(target, layout, means.repository.ring, time)
            lease.renew_if_due()
            others = ask_others(means, layout, target.name)
            lease.renew_if_due()
            judgement = judge(found, others, terms, means)
            expirer = Expirer(means, target, layout, terms, time, lease, rounds, found, judgement, others.holds.holds)
            done = expirer.run(allowed)
        finally:
            lease.release()
    except (StorageError, DrkitError) as error:
        return replace(one, problem=error)
    return replace(one, done=done, problem=_left(one.target, done))


def _left(target: str, done: Done) -> Problem | None:
    if done.stopped:
        return Unreachable(
            "only what had tombstones already was deleted",
            where=f"target {target}",
            why=done.stopped,
            cure="bring it back, or take it out of the configuration for good",
        )
    return None
