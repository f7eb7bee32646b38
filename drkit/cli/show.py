"""`drkit show`: one backup in full."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from drkit.cli.context import of
from drkit.cli.list import backup_json, find
from drkit.cli.render import answer_json
from drkit.cli.wire import open_wiring
from drkit.core.units import format_size


def run(
    ctx: typer.Context,
    first: Annotated[
        str, typer.Argument(metavar="[CLUSTER] BACKUP", help="its id, or a beginning or end that only it has")
    ],
    second: Annotated[str | None, typer.Argument(metavar="", hidden=True)] = None,
) -> None:
    """One backup: where it is whole, what it is made of, its tablespaces, and damaged pages found."""
    context = of(ctx)
    cluster, ident = (first, second) if second is not None else (None, first)
    with open_wiring(context) as wiring:
        catalogue, name = find(wiring, cluster, ident)
        backup = catalogue.backup(name)
        summary, head = backup.summary, backup.head
        kinds = {"packs": 3, "maps": 4, "wal": 7, "history": 8}
        parts = {k: [r for r in backup.references if r.kind == code] for k, code in kinds.items()}
        if context.json:
            payload = backup_json(summary, head.label, backup.standings)
            payload |= {
                "engine_version": summary.engine_version,
                "start_wal": summary.start_wal,
                "stop_wal": summary.stop_wal,
                "files": summary.files,
                "checksums": head.checksums,
                "writer": head.writer,
                "tablespaces": [asdict(t) for t in head.tablespaces],
                "damaged": [{"path": p, "block": b} for p, b in head.damaged],
                "objects": {k: {"count": len(r), "bytes": sum(x.size for x in r)} for k, r in parts.items()},
                "data_dir": head.source.data_dir,
            }
            answer_json("drkit.show/1", {"backup": payload})
            return
        packs, maps = len(parts["packs"]), len(parts["maps"])
        pages = f"{summary.page_errors} damaged" if head.checksums else "not checked: the server has no checksums"
        live = sum(r.live for r in parts["packs"])
        rows = [
            ("backup", summary.backup + (f"  ({head.label})" if head.label else "")),
            ("cluster", f"{summary.cluster}, system identifier {summary.system_identifier}"),
            ("server", f"PostgreSQL {summary.engine_version / 10000:.4g}, {head.source.data_dir}"),
            ("taken", f"{summary.started_at} to {summary.stopped_at}"),
            ("WAL", f"{summary.start_lsn} to {summary.stop_lsn} on timeline {summary.timeline}"),
            ("parent", summary.parent or "none: everything was stored"),
            ("size", f"{format_size(summary.size_bytes)} in {summary.files} files"),
            ("stored", f"{format_size(summary.stored_bytes)} in {packs} packs, {maps} maps"),
            ("in use", f"{format_size(live)} of it; {format_size(summary.new_bytes)} were new"),
            ("pages", pages),
            *((f"tablespace {t.oid}", t.location or "in place") for t in head.tablespaces),
            *((f"on {n}", f"{s.state}{': ' if s.why else ''}{s.why}") for n, s in sorted(backup.standings.items())),
            *(("damaged", f"{p}, block {b}") for p, b in head.damaged[:50]),
        ]
        width = max(len(name) for name, _ in rows)
        sys.stdout.write("".join(f"{name:<{width}}  {text}\n" for name, text in rows))
