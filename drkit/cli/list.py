"""`drkit list`: the backups, and what each target has of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from drkit.cli.context import of
from drkit.cli.render import answer_json, table
from drkit.cli.wire import Wiring, open_wiring
from drkit.core.errors import Missing
from drkit.core.units import format_size

if TYPE_CHECKING:
    from drkit.repository.catalogue import Backup, Catalogue, Standing
    from drkit.repository.manifest import Summary


def backup_json(summary: Summary, label: str, standings: Mapping[str, Standing]) -> dict[str, object]:
    """One backup as every answer shows it."""
    states = _states(standings)
    first = states[0]["state"] if states else "unknown"
    return {
        "id": summary.backup,
        "cluster": summary.cluster,
        "system_identifier": summary.system_identifier,
        "timeline": summary.timeline,
        "status": "good" if any(s["state"] == "good" for s in states) else first,
        "parent": summary.parent,
        "started_at": summary.started_at,
        "stopped_at": summary.stopped_at,
        "start_lsn": summary.start_lsn,
        "stop_lsn": summary.stop_lsn,
        "size_bytes": summary.size_bytes,
        "stored_bytes": summary.stored_bytes,
        "new_bytes": summary.new_bytes,
        "targets": states,
        "page_errors": summary.page_errors,
        "label": label,
    }


def catalogues(wiring: Wiring, cluster: str | None) -> list[Catalogue]:
    """A catalogue for each system identifier that has backups of the named (or any) cluster.

    The server is not asked: it may be gone. Identity is the system identifier, the name only narrows the choice.
    """
    from drkit.repository.catalogue import read_catalogue, systems

    if cluster is not None or len(wiring.config.cluster) == 1:
        cluster, _ = wiring.cluster(cluster)
    repository = wiring.repository(reading=True)
    found = [read_catalogue(repository, s) for s in sorted(systems(repository))]
    if cluster is None:
        return found
    return [c for c in found if not c.backups or any(b.summary.cluster == cluster for b in c.backups)]


def run(
    ctx: typer.Context, cluster: Annotated[str | None, typer.Argument(metavar="[CLUSTER]")] = None
) -> int:
    """The backups of a cluster: size, what is stored, and their state on each target; 9 where one is unreadable."""
    from drkit.cli.exits import DAMAGE, DONE

    context = of(ctx)
    with open_wiring(context) as wiring:
        found = catalogues(wiring, cluster)
        backups = [b for c in found for b in c.backups]
        unopened = {name: standings for c in found for name, standings in c.unopened.items()}
        if context.json:
            rows = [backup_json(b.summary, b.head.label, b.standings) for b in backups]
            lost = [{"id": name, "targets": _states(standings)} for name, standings in unopened.items()]
            answer_json("drkit.list/1", {"backups": rows, "unopened": lost})
        else:
            _show(backups, unopened, context.color)
    broken = any(s.state == "broken" for standings in unopened.values() for s in standings.values())
    return DAMAGE if broken else DONE


def _states(standings: Mapping[str, Standing]) -> list[dict[str, str]]:
    return [{"name": n, "state": s.state.value, "why": s.why} for n, s in sorted(standings.items())]


def _show(backups: Sequence[Backup], unopened: Mapping[str, Mapping[str, Standing]], color: bool) -> None:
    for name, standings in unopened.items():
        told = "; ".join(f"{n}: {s.state} - {s.why}" for n, s in sorted(standings.items()))
        sys.stdout.write(f"backup {name} cannot be opened: {told}\n")
    if not backups and not unopened:
        sys.stdout.write("no backups yet; `drkit backup` takes one\n")
    if not backups:
        return
    table(
        ("backup", "cluster", "tl", "stopped (UTC)", "size", "new", "stored", "targets", "label"),
        [
            (
                b.summary.backup,
                b.summary.cluster,
                str(b.summary.timeline),
                b.summary.stopped_at[:19].replace("T", " "),
                format_size(b.summary.size_bytes),
                format_size(b.summary.new_bytes),
                format_size(b.summary.stored_bytes),
                ", ".join(f"{n}: {s.state}" for n, s in sorted(b.standings.items())),
                b.head.label,
            )
            for b in backups
        ],
        right=frozenset({"size", "new", "stored", "tl"}),
        color=color,
    )


def find(wiring: Wiring, cluster: str | None, ident: str) -> tuple[Catalogue, str]:
    """The catalogue that holds a backup, and the backup's whole id. Raises Missing."""
    for catalogue in catalogues(wiring, cluster):
        try:
            return catalogue, catalogue.backup(ident).summary.backup
        except Missing:
            continue
    raise Missing(f"no backup {ident!r}", cure="`drkit list` shows the backups")
