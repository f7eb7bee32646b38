"""`drkit windows`: which times can be restored, per target and timeline."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from drkit.cli.context import of
from drkit.cli.render import answer_json, table
from drkit.cli.wire import open_wiring
from drkit.core.units import format_time

if TYPE_CHECKING:
    from drkit.jobs.windows import Gap, Window


def run(ctx: typer.Context, cluster: Annotated[str | None, typer.Argument(metavar="[CLUSTER]")] = None) -> int:
    """The recoverable windows of a cluster, with every gap; 7 where a target could not be read and others were."""
    from drkit.cli.exits import DONE, UNREACHABLE
    from drkit.jobs.archive import read_catalogues
    from drkit.jobs.windows import read_windows

    context = of(ctx)
    with open_wiring(context) as wiring:
        means = wiring.means(reading=True)
        name = wiring.cluster(cluster)[0] if cluster is not None or len(wiring.config.cluster) == 1 else None
        catalogues = read_catalogues(means.repository, name)
        found = [(c.layout.system_identifier, read_windows(c, means)) for c in catalogues]
        unreadable = {name: str(problem) for name, problem in means.repository.absent.items()}
        unreadable |= {name: why for _, one in found for name, why in one.unreadable.items()}
        rows = [(system, window) for system, one in found for window in one.windows]
        if context.json:
            windows = [window_json(window, system) for system, window in rows]
            answer_json("drkit.windows/1", {"windows": windows, "unreadable": unreadable})
        else:
            _show([window for _, window in rows], unreadable, color=context.color)
    return UNREACHABLE if unreadable else DONE


def window_json(window: Window, system: int) -> dict[str, object]:
    return {
        "target": window.target,
        "system_identifier": str(system),
        "timeline": window.timeline,
        "from": window.start_at,
        "to": window.end_at,
        "from_lsn": str(window.start),
        "to_lsn": str(window.end),
        "gaps": [_gap_json(gap) for gap in window.gaps],
        "backups": list(window.backups),
        "last_wal": window.last_wal,
        "partial": window.partial,
    }


def _gap_json(gap: Gap) -> dict[str, object]:
    return {
        "from_lsn": str(gap.start),
        "to_lsn": str(gap.end),
        "from_segment": gap.first,
        "to_segment": gap.last,
        "missing": gap.missing,
        "bridged_by": gap.bridge,
    }


def _show(windows: list[Window], unreadable: dict[str, str], *, color: bool) -> None:
    if not windows and not unreadable:
        sys.stdout.write("nothing can be recovered yet; `drkit backup` makes a beginning\n")
        return
    table(
        ("target", "tl", "from (UTC)", "to (UTC)", "from LSN", "to LSN", "backups", "gaps"),
        [
            (
                w.target,
                str(w.timeline),
                format_time(w.start_at),
                format_time(w.end_at) if w.end_at else "no commit near",
                str(w.start),
                str(w.end),
                str(len(w.backups)),
                str(len(w.gaps)) if w.gaps else "none",
            )
            for w in windows
        ]
        + [(name, "", "unreadable", "unreadable", "", "", "", "not known") for name in unreadable],
        right=frozenset({"tl", "backups"}),
        color=color,
    )
    for window in windows:
        for gap in window.gaps:
            until = f"backup {gap.bridge} goes on at {gap.end}" if gap.bridge else "no later backup bridges it"
            which = gap.first if gap.missing == 1 else f"{gap.first} to {gap.last}, {gap.missing} segments"
            place = f"{window.target}, timeline {window.timeline}"
            sys.stdout.write(f"{place}: GAP from {gap.start}: WAL file {which} missing; {until}\n")
        if window.partial:
            sys.stdout.write(f"{window.target}, timeline {window.timeline}: {window.partial} lies beyond the end\n")
    for name, why in unreadable.items():
        sys.stdout.write(f"{name}: nothing is known of it: {why}\n")
