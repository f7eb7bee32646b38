"""`drkit replicate`: bring every target up to date from the others."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from drkit.cli.context import of
from drkit.cli.options import NetworkRate
from drkit.cli.render import answer_json, table
from drkit.cli.wire import Wiring, open_wiring, paced
from drkit.core.flow import MOST_WORKERS
from drkit.core.units import format_duration, format_size

if TYPE_CHECKING:
    from drkit.jobs.replicate import Outcome, Plan, Replicated
    from drkit.jobs.replicate_plan import Left

_SHOWN = 20


def run(
    ctx: typer.Context,
    cluster: Annotated[str | None, typer.Argument(metavar="[CLUSTER]")] = None,
    sources: Annotated[
        list[str] | None, typer.Option("--from", metavar="TARGET", help="read from this target only; repeatable")
    ] = None,
    targets: Annotated[
        list[str] | None, typer.Option("--to", metavar="TARGET", help="bring only this target up to date; repeatable")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="say what would be copied, change nothing")] = False,
    workers: Annotated[
        int, typer.Option("--workers", min=0, max=MOST_WORKERS, help="objects at once, for each target; 0: 4")
    ] = 0,
    network_rate: NetworkRate = None,
) -> int:
    """Bring every target up to date from the others: backups, WAL, history, reports, keys. The server is not asked.

    0: all targets have the same. 7: a target could not be reached, what could be done was done. 9: something is damaged
    on every target that has it, or in the place where it is to be. 6: two contents under one name. 10: a backup is not
    there yet.
    """
    from drkit.jobs.replicate import WORKERS, ReplicateOrder, replicate, survey

    context = of(ctx)
    with open_wiring(context, network=paced(network_rate)) as wiring:
        if cluster is not None:
            cluster, _ = wiring.cluster(cluster)
        order = ReplicateOrder(
            cluster=cluster,
            sources=tuple(sources or ()),
            targets=tuple(targets or ()),
            host=os.uname().nodename,
            spool=wiring.config.daemon.spool,
            workers=workers or WORKERS,
        )
        means = wiring.means(reading=plan)
        absent = {name: str(problem) for name, problem in means.repository.absent.items()}
        if plan:
            found = survey(order, means)
            if context.json:
                lines = {
                    "sentence": "a plan; nothing was changed",
                    "unreachable": absent,
                    "requests": wiring.requests(),
                }
                answer_json("drkit.replicate/1", {"plan": True, **_planned(found), **lines})
            else:
                _show_plan(found, absent, context.color)
            return _judge(found, {}, absent)
        done = replicate(order, means)
        if context.json:
            lines = {"sentence": _sentence(done, absent), "unreachable": absent, "requests": wiring.requests()}
            answer_json("drkit.replicate/1", {"plan": False, **_answer(done), **lines})
        else:
            _show(wiring, done, absent, context.color)
        return _judge(done.plan, dict(done.outcomes), absent)


def _judge(plan: Plan, outcomes: dict[str, Outcome], absent: dict[str, str]) -> int:
    """The worst of what was met: damage, other content, a failure, what could not be reached, what is left."""
    from drkit.cli.exits import DAMAGE, DONE, PROMISE, UNREACHABLE, problem

    accounts = [outcome.account for outcome in outcomes.values()]
    conflicts = {key for account in accounts for key in account.conflicts}
    damaged = any(account.lost or account.missing or set(account.refused) - conflicts for account in accounts)
    unopened = any(system.catalogue.unopened for system in plan.systems)
    failures = {problem(outcome.failed).exit for outcome in outcomes.values() if outcome.failed is not None}
    unread = any(account.unread for account in accounts) or any(system.failed for system in plan.systems)
    lists = [left for outcome in outcomes.values() for left in outcome.left]
    for wrong, status in (
        (damaged or unopened or plan.differences.damaged, DAMAGE),
        (conflicts or plan.differences.conflicts, 6),
        (failures - {UNREACHABLE}, max(failures, default=0)),
        (failures or unread or absent, UNREACHABLE),
        (any(not left.final for left in lists), PROMISE),
    ):
        if wrong:
            return status
    return DONE


# --- JSON ---------------------------------------------------------------------------------------------------------


def _sentence(done: Replicated, absent: dict[str, str]) -> str:
    """How it went, in a line, what is wrong first: for logs and notifications."""
    parts = [f"{key} has several contents" for key in done.plan.differences.conflicts]
    for name, outcome in done.outcomes.items():
        account = outcome.account
        if outcome.failed is not None:
            parts.append(f"{name} was given up: {outcome.failed}")
        lost = len(account.lost) + len(account.missing)
        parts += [f"{lost} objects that {name} lacks are whole nowhere"] if lost else []
        parts += [f"{len(account.refused)} objects on {name} are not what they should be"] if account.refused else []
        parts += [f"{len(account.unread)} objects for {name} could not be read"] if account.unread else []
    parts += [f"{name} could not be reached" for name in absent]
    copied = sum(outcome.account.size_bytes for outcome in done.outcomes.values())
    parts.append(f"{sum(len(o.completed) for o in done.outcomes.values())} backups completed")
    return "; ".join([*parts, f"{format_size(copied)} copied"])


def _planned(plan: Plan) -> dict[str, object]:
    rows = []
    for name in plan.destinations:
        todo = [one for system in plan.systems for one in system.todo.get(name, ())]
        rows.append(
            {
                "name": name,
                "state": "planned",
                "why": "",
                "backups": [one.backup.summary.backup for one in todo],
                "objects": plan.objects(name),
                "kinds": {},
                "bytes": plan.size_bytes(name),
                "left": [_left(one) for system in plan.systems for one in system.left.get(name, ())],
                "lost": {},
                "refused": {},
                "unread": {},
            }
        )
    return {"targets": rows, **_differences(plan, {})}


def _answer(done: Replicated) -> dict[str, object]:
    rows = []
    for name, outcome in done.outcomes.items():
        account = outcome.account
        rows.append(
            {
                "name": name,
                "state": "done" if outcome.failed is None else "failed",
                "why": "" if outcome.failed is None else str(outcome.failed),
                "backups": outcome.completed,
                "objects": sum(account.objects.values()),
                "kinds": dict(sorted(account.objects.items())),
                "bytes": account.size_bytes,
                "left": [_left(one) for one in outcome.left],
                "lost": account.lost | account.missing,
                "refused": account.refused,
                "unread": account.unread,
            }
        )
    debts = {
        "paid": done.debts.paid,
        "left": [{"file": file, "target": target, "why": why} for (file, target), why in done.debts.left.items()],
    }
    seconds = round(done.seconds, 3)
    return {"targets": rows, **_differences(done.plan, dict(done.damaged)), "debts": debts, "seconds": seconds}


def _left(one: Left) -> dict[str, object]:
    return {"backup": one.backup, "state": one.state, "why": one.why, "final": one.final}


def _differences(plan: Plan, passed_over: dict[tuple[str, str], str]) -> dict[str, object]:
    found = plan.differences
    damaged = found.damaged | passed_over
    return {
        "twins": [{"key": key, "targets": list(names)} for key, names in sorted(found.twins.items())],
        "conflicts": [{"key": key, "identities": dict(ids)} for key, ids in sorted(found.conflicts.items())],
        "damaged": [{"target": name, "key": key, "why": why} for (name, key), why in sorted(damaged.items())],
    }


# --- for people ---------------------------------------------------------------------------------------------------


def _show_plan(plan: Plan, absent: dict[str, str], color: bool) -> None:
    rows = []
    for name in plan.destinations:
        backups = sum(len(system.todo.get(name, ())) for system in plan.systems)
        rows.append((name, str(backups), str(plan.objects(name)), format_size(plan.size_bytes(name))))
    columns = ("target", "backups", "objects", "bytes")
    table(columns, rows, right=frozenset(columns[1:]), color=color)
    lefts = [(name, one) for system in plan.systems for name in plan.destinations for one in system.left.get(name, ())]
    _write([*_left_lines(lefts), *_notes(plan, {}, absent), "nothing was changed"])


def _show(wiring: Wiring, done: Replicated, absent: dict[str, str], color: bool) -> None:
    from datetime import timedelta

    rows = []
    for name, outcome in done.outcomes.items():
        account = outcome.account
        state = "up to date" if outcome.failed is None and not account.troubles else "incomplete"
        if outcome.failed is not None:
            state = "given up"
        objects = str(sum(account.objects.values()))
        rows.append((name, state, str(len(outcome.completed)), objects, format_size(account.size_bytes)))
    columns = ("target", "state", "backups", "objects", "copied")
    table(columns, rows, right=frozenset({"backups", "objects", "copied"}), color=color)
    lines = [f"{name}: {outcome.failed}" for name, outcome in done.outcomes.items() if outcome.failed is not None]
    lines += _left_lines([(name, one) for name, outcome in done.outcomes.items() for one in outcome.left])
    for name, outcome in done.outcomes.items():
        account = outcome.account
        for word, found in (
            ("no target has it whole", account.lost | account.missing),
            (f"something else stands there on {name}", account.refused),
            ("could not be read", account.unread),
        ):
            lines += _some([f"{word}: {key}: {why}" for key, why in sorted(found.items())])
    lines += _notes(done.plan, dict(done.damaged), absent)
    if done.debts.paid or done.debts.left:
        lines.append(f"WAL debts: {done.debts.paid} paid, {len(done.debts.left)} left")
    _write([*lines, f"took {format_duration(timedelta(seconds=round(done.seconds, 1)))}"])


def _left_lines(lefts: list[tuple[str, Left]]) -> list[str]:
    return _some([f"backup {one.backup} on {name} stays {one.state}: {one.why}" for name, one in lefts])


def _notes(plan: Plan, passed_over: dict[tuple[str, str], str], absent: dict[str, str]) -> list[str]:
    found = plan.differences
    lines = [f"{name} could not be reached: {why}" for name, why in sorted(absent.items())]
    if found.twins:
        keys = (f"  {key} on {', '.join(names)}" for key, names in sorted(found.twins.items()))
        lines += [f"{len(found.twins)} files are sealed in several ways, of the same content; that is as good:"]
        lines += _some(keys)
    lines += _some(
        f"CONFLICT: {key} has several contents: {', '.join(f'{n} {i[:8]}' for n, i in sorted(ids.items()))}"
        for key, ids in sorted(found.conflicts.items())
    )
    damaged = sorted((found.damaged | passed_over).items())
    lines += _some(f"DAMAGED on {name}: {key}: {why}" for (name, key), why in damaged)
    if damaged:
        lines.append("`drkit verify --repair` replaces what is damaged from a target that has it whole")
    return lines


def _some(lines: Iterator[str] | list[str]) -> list[str]:
    found = list(lines)
    return found if len(found) <= _SHOWN else [*found[:_SHOWN], f"  and {len(found) - _SHOWN} more"]


def _write(lines: list[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
