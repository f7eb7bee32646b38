"""`drkit target`: the targets with what they are, and how one is retired."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from drkit.cli.context import of
from drkit.cli.render import answer_json, table
from drkit.cli.wire import Wiring, open_wiring
from drkit.core.errors import Refused, UsageError
from drkit.core.units import format_time

if TYPE_CHECKING:
    from drkit.repository.repository import Repository
    from drkit.repository.retirement import Retirement
    from drkit.repository.spool import Spool
    from drkit.repository.target import Target

_IDENT = re.compile(r"[0-9a-f]{32}\Z")


def list_targets(ctx: typer.Context) -> int:
    """The configured targets with their state, and those that were retired. Exit 7 where one cannot be used."""
    from drkit.cli.exits import DONE, UNREACHABLE
    from drkit.repository.retirement import retirements

    context = of(ctx)
    with open_wiring(context) as wiring:
        repository = wiring.repository(reading=True)
        records, holders = retirements(repository.ring, repository.targets)
        rows = [_row(wiring, repository, name) for name in wiring.config.target]
        gone = [
            {"target": one.target, "name": one.name, "reason": one.reason, "at": one.at, "on": holders[one.target]}
            for one in sorted(records.values(), key=lambda one: one.at)
        ]
        if context.json:
            answer_json("drkit.target.list/1", {"targets": rows, "retired": gone})
        else:
            columns = ("name", "state", "url", "medium", "site", "target", "why")
            heads = ("name", "state", "url", "medium", "site", "id", "why")
            cells = [[row[c][:8] if c == "target" else row[c] for c in columns] for row in rows]
            table(heads, cells, color=context.color)
            for one in records.values():
                why = f": {one.reason}" if one.reason else ""
                told = f"retired {one.name or 'target'} ({one.target[:8]}) at {one.at}{why}"
                sys.stdout.write(f"{told}; recorded on {', '.join(holders[one.target])}\n")
    return UNREACHABLE if repository.absent else DONE


def _row(wiring: Wiring, repository: Repository, name: str) -> dict[str, str]:
    from drkit.repository.retirement import Retired

    configured = wiring.config.target[name]
    problem = repository.absent.get(name)
    state = "open" if problem is None else "retired" if isinstance(problem, Retired) else "unreachable"
    pin = wiring.pins().targets.get(name)
    return {
        "name": name,
        "state": state,
        "url": configured.url,
        "medium": configured.medium,
        "site": configured.site,
        "target": pin.target if pin else "",
        "why": "" if problem is None else str(problem),
    }


def retire(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="as configured, or the target's id")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="kept with the record")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="do it; without, only say what it would mean")] = False,
) -> int:
    """Record on all other targets that this one must not be used again. It is not touched, and nothing undoes it.

    Exit 7 where another target could not be told: `drkit replicate` tells it.
    """
    from drkit.cli.exits import DONE, UNREACHABLE
    from drkit.repository.retirement import Retirement
    from drkit.repository.retirement import retire as record
    from drkit.repository.spool import Spool

    context = of(ctx)
    with open_wiring(context) as wiring:
        repository = wiring.repository()
        ident = _ident(wiring, repository, name)
        others = [target for target in repository.targets if target.name != name and _id_of(target) != ident]
        if not others:
            raise Refused(
                "no other target can be reached, so nobody would know",
                where=name,
                why="; ".join(f"{n}: {problem}" for n, problem in repository.absent.items() if n != name),
                cure="a target is retired by a record on the others: add one, `drkit replicate`, then retire this one",
            )
        only_there = _only_there(repository, name)
        if not yes:
            return _explain(name, ident, [t.name for t in others], only_there, as_json=context.json)
        found = Retirement(ident, name if name != ident else "", reason, format_time(wiring.clock.now()))
        found = record(found, others, data_key=repository.data_key, ring=repository.ring, entropy=os.urandom)
        pins = wiring.pins()
        pins.retired.add(ident)
        pins.save()
        forgotten = _forget_debts(Spool(wiring.config.daemon.spool), name)
        untold = sorted(set(repository.absent) - {name})
        _answer(found, [target.name for target in others], untold, forgotten, only_there, as_json=context.json)
        return UNREACHABLE if untold else DONE


def _ident(wiring: Wiring, repository: Repository, name: str) -> str:
    """The target's id: its own word where it can be asked, else what this host pinned."""
    for target in repository.targets:
        if target.name == name:
            return _id_of(target)
    pin = wiring.pins().targets.get(name)
    if pin is not None:
        return pin.target
    if _IDENT.match(name):
        return name
    known = ", ".join(sorted({*wiring.config.target, *wiring.pins().targets}))
    raise UsageError(f"there is no target {name!r}", why=f"known are {known}", cure="name one, or give its id")


def _id_of(target: Target) -> str:
    from drkit.repository.identity import read_descriptor

    return read_descriptor(target).target.hex()


def _only_there(repository: Repository, name: str) -> list[str]:
    """Backups that no other target that answers has whole."""
    from drkit.repository.catalogue import read_catalogue, systems

    found = []
    for system in sorted(systems(repository)):
        for backup in read_catalogue(repository, system).backups:
            if backup.good_on == [name]:
                found.append(backup.summary.backup)
    return found


def _forget_debts(spool: Spool, name: str) -> int:
    """What is owed to a retired target will never be paid, and its bytes would stay in the spool for ever."""
    count = 0
    for debt in spool.debts(name):
        spool.settle(debt)
        count += 1
    return count


def _explain(name: str, ident: str, others: list[str], only_there: list[str], *, as_json: bool) -> int:
    if as_json:
        payload = {
            "retired": False,
            "name": name,
            "target": ident,
            "on": others,
            "untold": [],
            "only_there": only_there,
        }
        answer_json("drkit.target.retire/1", {**payload, "reason": "", "at": None, "forgotten_debts": 0})
        return 0
    lines = [f"{name} ({ident[:8]}) would be retired for ever, by a record on {', '.join(others)}"]
    if only_there:
        lines.append(f"{len(only_there)} backups are good there and on no other target that answers:")
        lines += [f"  {backup}" for backup in only_there[:20]]
        lines.append("`drkit replicate` copies them first")
    lines.append("nothing was done; --yes does it")
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


def _answer(
    found: Retirement, told: list[str], untold: list[str], forgotten: int, only_there: list[str], *, as_json: bool
) -> None:
    if as_json:
        payload = {"retired": True, "name": found.name, "target": found.target, "on": told, "untold": untold}
        payload |= {"only_there": only_there, "reason": found.reason, "at": found.at, "forgotten_debts": forgotten}
        answer_json("drkit.target.retire/1", payload)
        return
    label = f"{found.name} ({found.target[:8]})" if found.name else found.target
    lines = [f"{label} is retired; recorded on {', '.join(told)}"]
    if untold:
        lines.append(f"not told yet: {', '.join(untold)}; `drkit replicate` tells them")
    if found.name:
        lines.append(f"remove [target.{found.name}] from every configuration now")
    sys.stdout.write("".join(f"{line}\n" for line in lines))
