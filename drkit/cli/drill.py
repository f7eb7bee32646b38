"""`drkit drill list | history | show`: the drills that can be run, and what past ones found."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drkit.cli.context import of
from drkit.cli.exits import CONFIG, DAMAGE, DONE, UNREACHABLE
from drkit.cli.render import answer_json, table
from drkit.cli.wire import Wiring, open_wiring
from drkit.core.errors import ConfigError, Damage, KeyMissing, Missing, Unreachable, UsageError
from drkit.core.units import format_duration, format_time
from storage_backends.errors import StorageError

if TYPE_CHECKING:
    from drills.definition import Definition
    from drkit.repository.reports import ReportHead, Shelf
    from drkit.repository.repository import Problem, Repository

    Wanted = Callable[[ReportHead], bool]

FORMS = ("text", "json", "junit", "html")
_WORDS = {"pass": "passed", "fail": "FAILED", "inconclusive": "inconclusive", "aborted": "aborted"}
_Cluster = Annotated[str | None, typer.Argument(metavar="[CLUSTER]")]


# --- list ---------------------------------------------------------------------------------------------------------


def list_drills(ctx: typer.Context, cluster: _Cluster = None) -> int:
    """The drills that can be run, configured and built in, with the newest report of each. Starts nothing.

    Exit 3 where one is defined wrongly, 7 where a target could not be asked for reports.
    """
    context = of(ctx)
    with open_wiring(context) as wiring:
        name = _named(wiring, cluster)
        known = [one for one in definitions(wiring) if name is None or one.drill.cluster in (None, name)]
        shelf, unreadable = _shelf_or_why(wiring)
        wrong = dict(wiring.config.wrong_drills)
        rows = [(one, _newest(shelf, one, name)) for one in known]
        if context.json:
            drills = [_definition_json(one, head) for one, head in rows]
            answer_json("drkit.drill.list/1", {"drills": drills, "wrong": wrong, "unreadable": unreadable})
        else:
            _show_definitions(rows, wiring.clock.now(), color=context.color)
            for why in wrong.values():
                sys.stderr.write(f"defined wrongly: {why}\n")
            _show_unreadable(unreadable)
    return CONFIG if wrong else UNREACHABLE if unreadable else DONE


def definitions(wiring: Wiring) -> Iterator[Definition]:
    """Those of the configuration that can be used, then the built-in ones that none of it replaces."""
    from drills.definition import find_definition
    from drkit.config.drill import SCENARIOS

    config = wiring.config
    for name in (*config.drill, *(one for one in SCENARIOS if one not in {*config.drill, *config.wrong_drills})):
        yield find_definition(name, config)


def _shelf_or_why(wiring: Wiring) -> tuple[Shelf, dict[str, str]]:
    """That no target answers, or that there is no repository yet, is no reason not to list what could be run."""
    from drkit.repository.reports import Shelf

    try:
        shelf = _heads(wiring, wiring.repository(reading=True))
    except (StorageError, Unreachable, Damage, KeyMissing, ConfigError) as error:
        return Shelf(()), dict.fromkeys(wiring.config.target, str(error))
    return shelf, dict(shelf.unreadable)


def _newest(shelf: Shelf, one: Definition, cluster: str | None) -> ReportHead | None:
    mine = (head for head in shelf.heads if head.drill == one.name and cluster in (None, head.cluster))
    return next(mine, None)


def _definition_json(one: Definition, head: ReportHead | None) -> dict[str, object]:
    return {
        "name": one.name,
        "scenario": one.scenario_id,
        "title": one.drill.title,
        "version": one.drill.version,
        "owner": one.drill.owner,
        "cluster": one.drill.cluster,
        "point": one.drill.point,
        "ledger": one.drill.ledger,
        "source": one.source,
        "last": None if head is None else head_json(head),
    }


def _show_definitions(rows: Sequence[tuple[Definition, ReportHead | None]], now: datetime, *, color: bool) -> None:
    table(
        ("drill", "", "cluster", "last", "ended", "from", "what it shows"),
        [
            (
                one.name,
                one.scenario_id,
                one.drill.cluster or (head.cluster if head else "any"),
                _word(head.verdict) if head else "never run",
                _ago(now, head.at) if head else "",
                one.source if one.source != "the configuration" else "configured",
                _plain(one.drill.title),
            )
            for one, head in rows
        ],
        color=color,
    )


# --- history ------------------------------------------------------------------------------------------------------


def history(
    ctx: typer.Context,
    cluster: _Cluster = None,
    scenario: Annotated[
        str | None, typer.Option("--scenario", metavar="NAME", help="a scenario (D09) or a drill (region-loss)")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="the newest so many")] = 100,
) -> int:
    """The reports of past drills, the newest first, and who has them; works when the server is gone.

    Exit 7 where a target could not be asked, 9 where a report opens on no target.
    """
    context = of(ctx)
    with open_wiring(context) as wiring:
        wanted = _wanted(_named(wiring, cluster), scenario)
        shelf = _heads(wiring, wiring.repository(reading=True), limit, wanted)
        mine = [head for head in shelf.heads if wanted(head)]
        if context.json:
            answer = {
                "drills": [head_json(head) for head in mine],
                "complete": shelf.complete,
                "broken_links": [head.id for head in shelf.broken_links],
                "unopened": shelf.unopened,
                "unreadable": shelf.unreadable,
            }
            answer_json("drkit.drill.history/1", answer)
        else:
            _show_history(mine, shelf, color=context.color)
    return DAMAGE if shelf.unopened else UNREACHABLE if shelf.unreadable else DONE


def _wanted(cluster: str | None, scenario: str | None) -> Wanted:
    name = scenario.lower() if scenario is not None else None
    return lambda head: (
        cluster in (None, head.cluster) and (name is None or name in (head.scenario.lower(), head.drill.lower()))
    )


def head_json(head: ReportHead) -> dict[str, object]:
    """A report as lists show it. at: when the drill ended."""
    return {
        "id": head.id,
        "at": format_time(head.at),
        "drill": head.drill,
        "scenario": head.scenario,
        "cluster": head.cluster,
        "system_identifier": str(head.system_identifier),
        "verdict": head.verdict,
        "targets": list(head.targets),
        "digest": head.digest,
        "before": head.before,
    }


def _show_history(heads: Sequence[ReportHead], shelf: Shelf, *, color: bool) -> None:
    if not heads and not shelf.unreadable:
        sys.stdout.write("no drill has been run yet; `drkit drill list` shows which could be\n")
    if heads:
        table(
            ("report", "ended (UTC)", "drill", "", "cluster", "verdict", "on"),
            [
                (
                    head.id,
                    format_time(head.at)[:19].replace("T", " "),
                    _plain(head.drill),
                    _plain(head.scenario),
                    _plain(head.cluster),
                    _word(head.verdict),
                    ", ".join(head.targets),
                )
                for head in heads
            ],
            color=color,
        )
    if not shelf.complete:
        sys.stdout.write("there are older ones: --limit\n")
    for head in shelf.broken_links:
        sys.stdout.write(f"the report before {head.id} is missing: it was removed, or cannot be read\n")
    for key, why in shelf.unopened.items():
        sys.stdout.write(f"{key} cannot be opened: {why}\n")
    _show_unreadable(shelf.unreadable)


# --- show ---------------------------------------------------------------------------------------------------------


def show(
    ctx: typer.Context,
    ident: Annotated[str, typer.Argument(metavar="ID", help="a report's id, a part that is unique, or latest")],
    form: Annotated[
        str | None, typer.Option("--format", metavar="FORM", help="text, json, junit or html (default: text)")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="write it there instead of stdout")
    ] = None,
    cluster: Annotated[str | None, typer.Option("--cluster", metavar="NAME", help="whose, for latest")] = None,
) -> int:
    """A report as it was stored, verified; from the first target that has it whole."""
    from drills.report.forms import FILES
    from drkit.repository.reports import read

    context = of(ctx)
    if form is not None and form not in FORMS:
        raise UsageError(f"{form!r} is no form of a report", cure=f"one of {', '.join(FORMS)}")
    with open_wiring(context) as wiring:
        repository = wiring.repository(reading=True)
        wanted = _wanted(_named(wiring, cluster) if cluster is not None else None, None)
        shelf = _heads(wiring, repository, 1 if ident == "latest" else None, wanted)
        head = replace(shelf, heads=tuple(filter(wanted, shelf.heads))).find(ident)
        files = read(repository, head, told=_teller(wiring))
        for lacking in sorted(set(wiring.config.target) - set(head.targets) - set(shelf.unreadable)):
            wiring.log.warn("a target lacks this report", target=lacking, report=head.id)
        name = FILES[form or ("json" if context.json else "text")]
        if name not in files:
            raise Missing(f"the report has no {name}", where=head.id, why=f"it has {', '.join(files)}")
        _write(files[name], output)
    return DONE


def _write(text: str, output: Path | None) -> None:
    """A file is replaced whole or not at all; what is there and is no file (a pipe, a device) is written to."""
    from storage_backends import durable

    if output is None or str(output) == "-":
        sys.stdout.write(text)
    elif output.exists() and not output.is_file():
        output.write_text(text, "utf-8")
    else:
        durable.replace(output, text.encode(), mode=0o644)


# --- what the three share -----------------------------------------------------------------------------------------


def _named(wiring: Wiring, cluster: str | None) -> str | None:
    """The cluster that is meant; None: any of several. Raises UsageError."""
    if cluster is None and len(wiring.config.cluster) != 1:
        return None
    return wiring.cluster(cluster)[0]


def _heads(wiring: Wiring, repository: Repository, limit: int | None = None, wanted: Wanted | None = None) -> Shelf:
    from drkit.repository.reports import heads

    return heads(repository, limit=limit, wanted=wanted or _wanted(None, None), told=_teller(wiring))


def _teller(wiring: Wiring) -> Callable[[str, str, Problem], None]:
    """Says which copy could not be used; another target serves it."""

    def told(target: str, key: str, problem: Problem) -> None:
        wiring.log.warn("a copy of a report cannot be used", target=target, object=key, why=str(problem))

    return told


def _show_unreadable(unreadable: Mapping[str, str]) -> None:
    for name, why in unreadable.items():
        sys.stdout.write(f"{name}: not asked for reports: {why}\n")


def _word(verdict: str) -> str:
    return _WORDS.get(verdict, _plain(verdict))


def _ago(now: datetime, at: datetime) -> str:
    return f"{format_duration(now - at)} ago" if at <= now else "in the future: is a clock wrong?"


def _plain(text: str) -> str:
    """Names come from reports, which another host may have written."""
    from drills.report.view import visible

    return visible(text, keep="")
