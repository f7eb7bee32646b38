"""Which backups a restore may begin with, and which timeline it follows. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from drkit.core.errors import Damage, Missing, Refused, UsageError
from drkit.engines.postgres.recovery import TargetKind
from drkit.engines.postgres.timeline import Timeline
from drkit.jobs.restore_points import Facts, Wish, stop_of
from drkit.jobs.restore_skipped import is_lost, told
from drkit.repository.catalogue import Backup


def candidates_of(facts: Facts, wish: Wish, sources: Sequence[str]) -> list[Backup]:
    """Good backups on the targets to read from, rising by stop; the one that was named, where one was.

    Raises Damage, Missing or Refused where there is none.
    """
    where = ", ".join(sources)
    good = [b for b in facts.backups if set(b.good_on) & set(sources)]
    if wish.backup:
        named = [b for b in facts.backups if b.summary.backup == wish.backup]
        if not named:
            raise Missing(f"no backup {wish.backup!r}", cure="`drkit list` shows the backups")
        if not set(named[0].good_on) & set(sources):
            what, why = f"backup {wish.backup} is not good on {where}", told(named[0].standings)
            cure = "leave --backup out to use the best one that is whole; `drkit list` shows which are"
            raise (Damage if is_lost(named[0], sources) else Refused)(what, why=why, cure=cure)
        return named
    if not good:
        raise _none_good(facts, wish, sources, where or "any target")
    return good


def _none_good(facts: Facts, wish: Wish, sources: Sequence[str], where: str) -> Damage | Missing:
    what, cure = f"there is no good backup on {where}", "`drkit list` shows all, and what each target lacks"
    if not facts.backups:
        return Missing(what, why="none was ever made, or all have expired", cure="`drkit list`")
    newest = facts.backups[-1]
    states = [(name, s) for name, s in newest.standings.items() if name in sources]
    why = told(dict(states)) or "no target is left"
    kind = Damage if any(is_lost(b, sources) for b in facts.backups) else Missing
    if kind is Damage and wish.source:
        cure = "leave --from out to read from all targets; " + cure
    return kind(what, why=f"{len(facts.backups)} known; of {newest.summary.backup}: {why}", cure=cure)


def path_of(facts: Facts, wish: Wish, candidates: Sequence[Backup]) -> Timeline:
    """The timeline to follow, of those that the candidates lead to. Raises Refused, UsageError."""
    timelines = facts.timelines
    wanted = wish.timeline or ("current" if wish.target.kind is TargetKind.END else "latest")
    if wanted == "current":
        return timelines.get(candidates[-1].summary.timeline)
    reachable = {line.id for b in candidates for line in timelines.through(b.summary.timeline, stop_of(b))}
    if wanted == "latest" and facts.unread:
        raise Refused(
            "which timeline is the latest cannot be known",
            why="; ".join(f"{name} does not open: {why}" for name, why in facts.unread.items()),
            cure=f"`drkit verify --repair` mends what a target has whole; or choose: --timeline {max(reachable)}",
        )
    if wanted == "latest":
        return timelines.get(max(reachable))
    if not wanted.isdecimal():
        raise UsageError(f"{wanted!r} is no timeline", cure="a number, latest or current")
    known = ", ".join(map(str, sorted(reachable)))
    if int(wanted) not in timelines:
        cure = "name one of these, or latest; `drkit windows` shows what can be restored on each"
        raise Refused(f"timeline {wanted} is not known", why=f"the backups lead to {known}", cure=cure)
    if int(wanted) not in reachable:
        raise Refused(
            f"no good backup leads to timeline {wanted}",
            why=f"it left its parent before the first of them stopped; they lead to {known}",
            cure="`drkit windows` shows what can be restored on each timeline",
        )
    return timelines.get(int(wanted))
