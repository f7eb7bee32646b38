"""`drkit expire`: what retention lets go, with a reason for each item; with --apply it goes, behind tombstones."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from drkit.cli.context import of
from drkit.cli.render import answer_json, show_error, table
from drkit.cli.wire import open_wiring
from drkit.core.errors import UsageError
from drkit.core.units import format_time

if TYPE_CHECKING:
    from drkit.config.model import Config
    from drkit.jobs.expire import Outcome, TargetPlan
    from drkit.jobs.expire_act import Done
    from drkit.jobs.expire_judge import Terms


def run(
    ctx: typer.Context,
    cluster: Annotated[str | None, typer.Argument(metavar="[CLUSTER]")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="carry the plan out; without it nothing is deleted")] = False,
    target: Annotated[str | None, typer.Option("--target", metavar="T", help="only this target")] = None,
    removes: Annotated[
        int | None,
        typer.Option(
            "--removes", metavar="N", min=0, help="the number of backups that go, where it is more than a tenth"
        ),
    ] = None,
) -> int:
    """What may go by retention, with a reason for each backup. Only --apply deletes.

    Exit 4 where a target or the plan was refused, 7 where one could not be asked, 9 where damage stands in the way.
    """
    from drkit.cli.exits import DONE, problem
    from drkit.jobs.expire import ExpireOrder, expire

    context = of(ctx)
    with open_wiring(context) as wiring:
        config = wiring.config
        if cluster is not None:
            cluster, _ = wiring.cluster(cluster)
        if target is not None and target not in config.target:
            known = ", ".join(sorted(config.target))
            raise UsageError(f"there is no target {target!r}", why=f"the configuration names {known}")
        means = wiring.means(reading=not apply, expiry=True)
        order = ExpireOrder(
            cluster=cluster,
            terms={name: terms_of(config, name) for name in config.target},
            host=os.uname().nodename,
            only=target,
            apply=apply,
            removes=removes,
        )
        outcomes = expire(order, means)
        if context.json:
            answer_json("drkit.expire/1", {"applied": apply, "targets": [outcome_json(one) for one in outcomes]})
        else:
            _show(outcomes, apply, context.color)
    problems = [problem(one.problem) for one in outcomes if one.problem is not None]
    for found in problems:
        show_error(found, as_json=context.json)
    return max((found.exit for found in problems), default=DONE)


def terms_of(config: Config, target: str) -> Terms:
    """What is kept on one target: its own section, else the one for all."""
    from drkit.jobs.expire_judge import Terms
    from policies.retention import Windows

    plain, own = config.retention, config.target[target].retention
    which = plain if own is None else own
    windows = Windows(
        zone=plain.timezone,
        pitr=which.pitr_window,
        daily=which.daily,
        weekly=which.weekly,
        monthly=which.monthly,
        yearly=which.yearly,
        min_full=which.min_full or plain.min_full,
        last=plain.pick == "last",
    )
    grace = plain.grace if own is None or own.grace is None else own.grace
    return Terms(windows, grace, plain.max_skew, plain.max_removed)


def outcome_json(one: Outcome) -> dict[str, object]:
    plan, done = one.plan, one.done
    answer: dict[str, object] = {"target": one.target, "system_identifier": str(one.system_identifier or "")}
    answer["problem"] = str(one.problem) if one.problem is not None else None
    if plan is not None:
        answer |= {
            "cluster": plan.cluster,
            "reference": format_time(plan.reference) if plan.reference else None,
            "waits_for": plan.waits,
            "massive": plan.massive,
            "backups": [
                {
                    "id": item.copy.id,
                    "timeline": item.copy.timeline,
                    "stopped_at": format_time(item.copy.stopped),
                    "goes": item.goes,
                    "reasons": list(item.reasons),
                }
                for item in plan.items
            ],
            "dead_runs": [{"run": run, "reason": why} for run, why in plan.dead.items()],
            "objects": plan.data,
            "wal_files": plan.wal,
        }
    if done is not None:
        answer["done"] = {
            "withdrawn": list(done.withdrawn),
            "backups": list(done.backups),
            "tombstones": done.buried,
            "deleted_manifests": done.manifests,
            "deleted_objects": done.objects,
            "waiting": done.waiting,
        }
    return answer


def _show(outcomes: Sequence[Outcome], apply: bool, color: bool) -> None:
    going = 0
    for one in outcomes:
        if one.plan is None:
            continue
        _show_plan(one.plan, color)
        going += len(one.plan.going)
        if one.done is not None:
            _show_done(one.done)
    if not any(one.plan for one in outcomes):
        sys.stdout.write("there is nothing that could expire\n")
    elif not apply:
        number = f" --removes {going}" if any(one.plan and one.plan.massive for one in outcomes) else ""
        sys.stdout.write(f"nothing was deleted; to carry this out: drkit expire --apply{number}\n")


def _show_done(done: Done) -> None:
    sys.stdout.write(
        f"  done: {len(done.backups)} backups and {done.buried} objects got tombstones, "
        f"{len(done.withdrawn)} dead runs were withdrawn;\n"
        f"  {done.manifests} manifests and {done.objects} objects were deleted, {done.waiting} wait for their grace\n"
    )


def _show_plan(plan: TargetPlan, color: bool) -> None:
    name = plan.cluster or f"system {plan.system_identifier}"
    counts = f"{len(plan.items) - len(plan.going)} backups stay, {len(plan.going)} go"
    now = f"; now is {_second(plan.reference)}" if plan.reference else ""
    sys.stdout.write(f"{name} on {plan.target}: {counts}{now}\n")
    if plan.waits:
        sys.stdout.write(f"  nothing new can go before this is mended: {plan.waits}\n")
    if plan.items:
        rows = [
            (
                "goes" if i.goes else "stays",
                i.copy.id,
                str(i.copy.timeline),
                _second(i.copy.stopped),
                "; ".join(i.reasons),
            )
            for i in plan.items
        ]
        table(("", "backup", "tl", "stopped (UTC)", "why"), rows, right=frozenset({"tl"}), color=color)
    for run, why in plan.dead.items():
        sys.stdout.write(f"  dead run {run}: {why}\n")
    for hold in plan.held_wal:
        assert hold.wal is not None
        sys.stdout.write(f"  WAL {hold.wal[0]} to {hold.wal[1]} stays: on hold ({hold.id})\n")
    if plan.data or plan.wal:
        sys.stdout.write(f"  {plan.data} packs and maps and {plan.wal} WAL files are needed by nothing that stays\n")


def _second(moment: datetime) -> str:
    return format_time(moment)[:19].replace("T", " ")
