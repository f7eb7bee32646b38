"""`drkit drill ledger run | judge`: the ledger as a tool of its own, for exercises that people do by hand."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drkit.cli.context import of
from drkit.cli.exits import DONE, PROMISE
from drkit.cli.render import answer_json
from drkit.core.cancel import CancelToken, signals_cancel
from drkit.core.clock import SystemClock
from drkit.core.errors import Missing, Refused, UsageError
from drkit.core.units import format_time, parse_duration, parse_time

if TYPE_CHECKING:
    from drills.journal import Book
    from drills.ledger import Moment, Verdict

_PAYLOAD_BYTES = 18


def run(
    ctx: typer.Context,
    into: Annotated[Path, typer.Option("--into", metavar="DIR", help="where the journals go: not on the server")],
    connection: Annotated[
        str | None, typer.Option("--connection", metavar="CONNINFO", help="default: that of the only cluster")
    ] = None,
    writers: Annotated[
        int, typer.Option("--writers", metavar="N", min=1, max=64, help="how many connections write at once")
    ] = 4,
    pace: Annotated[str, typer.Option("--pace", metavar="TIME", help="the rest between two rows")] = "20ms",
    length: Annotated[str | None, typer.Option("--for", metavar="TIME", help="default: until Ctrl-C")] = None,
) -> int:
    """Write rows into drkit_drill.ledger, each noted on disk before it is sent and after it is acknowledged.

    The table is made where it is missing, and stays. A server that goes away is tried again until the end.
    """
    from drills.ledger_table import LedgerClient, make_table
    from drills.writer import Load
    from drkit.engines.postgres.session import Session

    context = of(ctx)
    conninfo = connection if connection is not None else context.load().config.cluster_named(None)[1].connection
    clock = SystemClock()
    pace_s = parse_duration(pace).total_seconds()
    token = CancelToken(clock=clock)
    limit = token.child(deadline_s=parse_duration(length).total_seconds() if length else None)
    into.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(into.glob("*.journal")):
        raise Refused("the folder holds journals already", where=str(into), cure="name a new folder: rows go on from 1")
    with Session.open(conninfo, "drkit drill") as session:
        make_table(session)
    with signals_cancel(token):
        load = Load(into, writers, lambda: LedgerClient(conninfo), clock, _payload, pace_s, token)
        with load:
            while not limit.wait(0.2):
                load.check()
    answer = {"folder": str(into), "writers": writers, "acknowledged": load.acknowledged}
    if context.json:
        answer_json("drkit.drill.ledger.run/1", answer)
    else:
        sys.stdout.write(f"{load.acknowledged} rows acknowledged, journals in {into}\n")
        sys.stdout.write(f"after the restore: drkit drill ledger judge {into} --connection CONNINFO\n")
    return DONE


def _payload() -> str:
    return os.urandom(_PAYLOAD_BYTES).hex()


def judge(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="with the journals")],
    connection: Annotated[str, typer.Option("--connection", metavar="CONNINFO", help="of the restored server")],
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="the fault or the target; default: the last row")
    ] = None,
) -> int:
    """Compare a restored server with the journals: rows kept and lost, holes, order, inventions. Exit 10 where the
    ledger is not sound: rows may be lost, but only the newest.
    """
    from drills.journal import read_journal
    from drills.ledger import judge as judged
    from drills.ledger_table import read_rows
    from drkit.engines.postgres.session import Session

    paths = sorted(folder.glob("*.journal"))
    if not paths:
        raise Missing("there is no journal", where=str(folder), cure="`drkit drill ledger run --into DIR` writes them")
    books = [read_journal(path) for path in paths]
    entries = tuple(entry for book in books for entry in book.entries)
    moment = _moment(books, until)
    with Session.open(connection, "drkit drill") as session:
        rows = read_rows(session)
    verdict = judged(entries, rows, moment)
    context = of(ctx)
    if context.json:
        answer_json("drkit.drill.ledger.judge/1", _json(verdict))
    else:
        sys.stdout.write(_text(verdict))
    return DONE if verdict.sound else PROMISE


def _moment(books: list[Book], until: str | None) -> Moment:
    """The instant on the journals' clock: a time of day by what each journal says of when it was opened."""
    from drills.ledger import Moment

    if until is None:
        last_s = max((max(e.sent_s, e.acknowledged_s or e.sent_s) for b in books for e in b.entries), default=0.0)
        return Moment(last_s, last_s)
    at, book = parse_time(until), books[0]
    if at > datetime.now(UTC):
        raise UsageError(f"{format_time(at)} lies in the future")
    at_s = book.opened_s + (at - book.opened_at).total_seconds()
    return Moment(at_s, at_s)


def _json(verdict: Verdict) -> dict[str, object]:
    def keys(found: tuple[tuple[str, int], ...]) -> list[dict[str, object]]:
        return [{"writer": writer, "number": number} for writer, number in found]

    return {
        "sound": verdict.sound,
        "expected": verdict.expected,
        "recovered": verdict.recovered,
        "kept": verdict.kept,
        "lost": keys(verdict.lost),
        "in_doubt": keys(verdict.in_doubt),
        "invented": keys(verdict.invented),
        "changed": keys(verdict.changed),
        "holes": keys(verdict.holes),
        "out_of_order": keys(tuple(first for first, _ in verdict.out_of_order)),
        "beyond": keys(verdict.beyond),
        "loss_s": verdict.loss_s,
        "target_error_s": verdict.target_error_s,
    }


def _text(verdict: Verdict) -> str:
    lines = [f"{verdict.expected} rows were acknowledged: {verdict.kept} kept, {len(verdict.lost)} lost"]
    if verdict.loss_s is not None:
        lines.append(f"the newest that is safe, with all before it, was {verdict.loss_s:.1f} s old")
    kinds = {
        "in doubt (never acknowledged, and there: legal)": verdict.in_doubt,
        "INVENTED": verdict.invented,
        "CHANGED": verdict.changed,
        "HOLES": verdict.holes,
        "OUT OF ORDER": tuple(first for first, _ in verdict.out_of_order),
        "BEYOND the target": verdict.beyond,
    }
    for what, found in kinds.items():
        if found:
            lines.append(f"{what}: {len(found)}, the first is row {found[0][1]} of {found[0][0]}")
    lines.append("sound" if verdict.sound else "NOT SOUND: this is no prefix of what was committed")
    return "\n".join(lines) + "\n"
