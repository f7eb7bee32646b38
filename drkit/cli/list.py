"""`drkit list`: the backups, and what each target has of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from drkit.cli.context import of
from drkit.cli.render import answer_json, table
from drkit.cli.wire import Wiring, open_wiring
from drkit.core.errors import Missing
from drkit.core.units import format_size, format_time

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


def catalogues(wiring: Wiring, cluster: str | None) -> tuple[list[Catalogue], dict[str, str]]:
    """A catalogue for each system identifier that has backups of the named (or any) cluster; and by target, why it
    could not be read.

    The server is not asked: it may be gone. Identity is the system identifier, the name only narrows the choice.
    """
    from drkit.repository.catalogue import read_catalogue, systems

    if cluster is not None or len(wiring.config.cluster) == 1:
        cluster, _ = wiring.cluster(cluster)
    repository = wiring.repository(reading=True)
    found = [read_catalogue(repository, s) for s in sorted(systems(repository))]
    unreadable = {name: str(problem) for name, problem in repository.absent.items()}
    unreadable |= {name: why for one in found for name, why in one.unreadable.items()}
    if cluster is not None:
        found = [c for c in found if not c.backups or any(b.summary.cluster == cluster for b in c.backups)]
    return found, unreadable


def run(
    ctx: typer.Context,
    cluster: Annotated[str | None, typer.Argument(metavar="[CLUSTER]")] = None,
    newest: Annotated[
        int | None, typer.Option("--newest", metavar="N", min=1, help="of each cluster only so many good ones")
    ] = None,
) -> int:
    """The backups of a cluster: size, what is stored, and their state on each target.

    Exit 9 where a backup cannot be opened on any target, 7 where a target could not be read and others were.
    """
    from drkit.cli.exits import DAMAGE, DONE, UNREACHABLE

    context = of(ctx)
    with open_wiring(context) as wiring:
        found, unreadable = catalogues(wiring, cluster)
        backups = [b for c in found for b in (c.backups if newest is None else _newest(c.backups, newest))]
        unopened = {name: standings for c in found for name, standings in c.unopened.items()}
        if context.json:
            rows = [backup_json(b.summary, b.head.label, b.standings) for b in backups]
            lost = [{"id": name, "targets": _states(standings)} for name, standings in unopened.items()]
            leases = [row for c in found for row in _leases(wiring, c)]
            answer = {"backups": rows, "unopened": lost, "unreadable": unreadable, "leases": leases}
            answer_json("drkit.list/1", answer)
        else:
            _show(backups, unopened, unreadable, context.color)
    if any(s.state == "broken" for standings in unopened.values() for s in standings.values()):
        return DAMAGE
    unknown = any(s.state == "unknown" for b in backups for s in b.standings.values())
    return UNREACHABLE if unreadable or unknown else DONE


def _newest(backups: Sequence[Backup], count: int) -> list[Backup]:
    """Of the good ones under each cluster's name the newest."""
    good: dict[str, list[Backup]] = {}
    for one in backups:
        if one.status == "good":
            good.setdefault(one.summary.cluster, []).append(one)
    return [one for row in good.values() for one in row[-count:]]


def _leases(wiring: Wiring, catalogue: Catalogue) -> Iterator[dict[str, object]]:
    """Who works on it, as far as that can be read."""
    from drkit.core.errors import DrkitError
    from storage_backends.errors import StorageError

    cluster = catalogue.backups[-1].summary.cluster if catalogue.backups else ""
    for target, inventory in sorted(catalogue.inventories.items()):
        try:
            leases = inventory.leases
        except (DrkitError, StorageError) as error:
            wiring.log.warn("leases cannot be read", target=target, why=str(error))
            continue
        for lease in leases:
            yield {
                "target": target,
                "cluster": cluster,
                "system_identifier": str(catalogue.layout.system_identifier),
                "job": lease.job,
                "host": lease.host,
                "started_at": format_time(lease.started_at),
                "lasts_s": lease.lasts_s,
            }


def _states(standings: Mapping[str, Standing]) -> list[dict[str, str]]:
    return [{"name": n, "state": s.state.value, "why": s.why} for n, s in sorted(standings.items())]


def _show(
    backups: Sequence[Backup],
    unopened: Mapping[str, Mapping[str, Standing]],
    unreadable: Mapping[str, str],
    color: bool,
) -> None:
    _table(backups, color)
    for name, standings in unopened.items():
        told = "; ".join(f"{n}: {s.state} - {s.why}" for n, s in sorted(standings.items()))
        sys.stdout.write(f"backup {name} cannot be opened: {told}\n")
    for name, why in unreadable.items():
        sys.stdout.write(f"{name}: nothing is known of it: {why}\n")
    if not backups and not unopened and not unreadable:
        sys.stdout.write("no backups yet; `drkit backup` takes one\n")


def _table(backups: Sequence[Backup], color: bool) -> None:
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
    for catalogue in catalogues(wiring, cluster)[0]:
        try:
            return catalogue, catalogue.backup(ident).summary.backup
        except Missing:
            continue
    raise Missing(f"no backup {ident!r}", cure="`drkit list` shows the backups")
