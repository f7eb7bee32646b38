"""`drkit hold`: backups and spans of WAL that must not expire."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from drkit.cli.context import of
from drkit.cli.render import answer_json, table
from drkit.cli.wire import Wiring, open_wiring
from drkit.core.errors import Missing, UsageError
from drkit.core.units import format_time, parse_duration

if TYPE_CHECKING:
    from drkit.repository.holds import Hold, Holds
    from drkit.repository.layout import ClusterLayout

Cluster = Annotated[str | None, typer.Option("--cluster", metavar="NAME", help="whose, where there are several")]


def add(
    ctx: typer.Context,
    backup: Annotated[str | None, typer.Argument(metavar="[BACKUP]")] = None,
    wal: Annotated[str | None, typer.Option("--wal", metavar="FROM..TO", help="two names of WAL segments")] = None,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="why, for who finds it later")] = "",
    cluster: Cluster = None,
    wait: Annotated[
        str, typer.Option("--wait", metavar="TIME", help="how long to wait for expiry that runs just now")
    ] = "10m",
) -> int:
    """Hold a backup, or a span of WAL, on every target until it is released.

    Exit 10 where some target does not have the hold or was about to expire the backup; 5 where that is all of them.
    """
    from drkit.cli.exits import DONE, PROMISE
    from drkit.jobs.hold import put_on_hold
    from drkit.repository.holds import MAX_REASON

    if (backup is None) == (wal is None):
        raise UsageError("hold a backup or a span of WAL", cure="drkit hold add BACKUP, or --wal FROM..TO")
    if len(reason) > MAX_REASON or not reason.isprintable():
        raise UsageError("this is no reason", cure=f"at most {MAX_REASON} printable characters")
    span = _span(wal) if wal is not None else None
    context = of(ctx)
    with open_wiring(context) as wiring:
        layout, ident = _where(wiring, cluster, backup)
        wait_s = parse_duration(wait).total_seconds()
        held = put_on_hold(wiring.means(), layout, ident, span, reason, wait_s)
        if context.json:
            answer_json("drkit.hold.add/1", {"hold": hold_json(held.hold), "safe": held.safe, "lacking": held.lacking})
        else:
            what = ident or f"WAL {wal}"
            sys.stdout.write(f"hold {held.hold.id}: {what} is held on {', '.join(held.safe) or 'no target'}\n")
            for name, why in held.lacking.items():
                sys.stdout.write(f"  {name}: not held: {why}\n")
    return PROMISE if held.lacking else DONE


def list_holds(ctx: typer.Context, cluster: Cluster = None) -> int:
    """What is on hold, and why. Exit 7 where a target could not be asked, 9 where a hold opens nowhere."""
    from drkit.cli.exits import DAMAGE, DONE, UNREACHABLE

    context = of(ctx)
    with open_wiring(context) as wiring:
        found = [holds for _, holds in _all(wiring, cluster, reading=True)]
        holds = [hold for one in found for hold in one.holds]
        unopened = {ident: why for one in found for ident, why in one.unopened.items()}
        unreadable = {name: why for one in found for name, why in one.unreadable.items()}
        if context.json:
            rows = [hold_json(hold) for hold in holds]
            answer_json("drkit.hold.list/1", {"holds": rows, "unopened": unopened, "unreadable": unreadable})
        else:
            _show(holds, unopened, context.color)
    return DAMAGE if unopened else UNREACHABLE if unreadable else DONE


def release(ctx: typer.Context, ident: Annotated[str, typer.Argument(metavar="ID")], cluster: Cluster = None) -> int:
    """Let what a hold keeps expire again. It cannot be taken back: add another hold.

    Exit 10 where some target does not know of it: the release counts all the same as long as one that does is asked.
    """
    from drkit.cli.exits import DONE, PROMISE
    from drkit.repository.holds import release_hold

    context = of(ctx)
    with open_wiring(context) as wiring:
        for layout, holds in _all(wiring, cluster, reading=False):
            try:
                whole = holds.find(ident)
            except Missing:
                continue
            repository = wiring.repository()
            spread = release_hold(repository, layout, whole, now=wiring.clock.now(), entropy=os.urandom)
            if context.json:
                answer_json(
                    "drkit.hold.release/1", {"hold": whole, "targets": spread.targets, "lacking": spread.lacking}
                )
            else:
                sys.stdout.write(f"hold {whole} is released on {', '.join(spread.targets) or 'no target'}\n")
                for name, why in spread.lacking.items():
                    sys.stdout.write(f"  {name}: not yet: {why}; release it again\n")
            return PROMISE if spread.lacking else DONE
    raise Missing(f"no hold {ident!r}", cure="`drkit hold list` shows them")


def hold_json(hold: Hold) -> dict[str, object]:
    return {
        "id": hold.id,
        "backup": hold.backup or None,
        "wal_from": hold.wal[0] if hold.wal else None,
        "wal_to": hold.wal[1] if hold.wal else None,
        "reason": hold.reason,
        "at": format_time(hold.at),
        "targets": list(hold.targets),
    }


def _span(text: str) -> tuple[str, str]:
    from drkit.repository.holds import check_segment_name

    first, dots, last = text.partition("..")
    if not dots:
        raise UsageError(f"{text!r} is no span of WAL", cure="two names with two dots between: FROM..TO")
    span = check_segment_name(first), check_segment_name(last)
    if span[0][8:] > span[1][8:] or span[0][:8] > span[1][:8]:
        raise UsageError("the span ends before it begins", cure="the older segment first")
    return span


def _where(wiring: Wiring, cluster: str | None, backup: str | None) -> tuple[ClusterLayout, str]:
    """The system that a hold is for, and the backup's whole id."""
    from drkit.cli.list import catalogues, find

    if backup is not None:
        catalogue, ident = find(wiring, cluster, backup)
        return catalogue.layout, ident
    found = [one for one in catalogues(wiring, cluster)[0] if one.backups]
    if len(found) != 1:
        what = "no backup tells which system this WAL is of" if not found else "which system is this WAL of?"
        raise UsageError(what, cure="name the cluster: --cluster NAME")
    return found[0].layout, ""


def _all(wiring: Wiring, cluster: str | None, *, reading: bool) -> list[tuple[ClusterLayout, Holds]]:
    from drkit.cli.list import catalogues
    from drkit.repository.holds import read_holds

    repository = wiring.repository(reading=reading)
    return [(one.layout, read_holds(repository, one.layout)) for one in catalogues(wiring, cluster)[0]]


def _show(holds: list[Hold], unopened: dict[str, str], color: bool) -> None:
    for ident, why in unopened.items():
        sys.stdout.write(f"hold {ident} cannot be opened, so nothing expires: {why}\n")
    if not holds and not unopened:
        sys.stdout.write("nothing is on hold\n")
    if holds:
        rows = [(h.id, h.backup or "..".join(h.wal or ()), h.reason, ", ".join(h.targets)) for h in holds]
        table(("hold", "keeps", "reason", "targets"), rows, color=color)
