"""`drkit backup`: a base backup to all targets in one pass."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from typing import Annotated, Literal

import typer

from drkit.cli.context import of
from drkit.cli.options import NetworkRate, Workers
from drkit.cli.render import answer_json
from drkit.cli.wire import open_wiring, paced
from drkit.core.errors import UsageError
from drkit.core.units import format_rate, format_size, parse_duration, parse_rate
from drkit.daemon.launch import stand_back

MAX_LABEL = 200


def run(
    ctx: typer.Context,
    cluster: Annotated[str | None, typer.Argument(metavar="[CLUSTER]")] = None,
    rehash: Annotated[bool, typer.Option("--rehash", help="read and store every file anew")] = False,
    label: Annotated[str, typer.Option("--label", metavar="TEXT", help="a note, sealed with the backup")] = "",
    rate: Annotated[str | None, typer.Option("--rate", metavar="100MB", help="read at most so much a second")] = None,
    workers: Workers = 0,
    network_rate: NetworkRate = None,
    nice: Annotated[int, typer.Option("--nice", metavar="N", min=0, max=19, help="stand back for the processors")] = 0,
    io: Annotated[
        Literal["normal", "idle"],
        typer.Option("--io", metavar="CLASS", help="normal, or idle: stand back for the disk"),
    ] = "normal",
    wal_timeout: Annotated[str, typer.Option("--wal-timeout", help="how long the last WAL may take")] = "10m",
) -> int:
    """Take a base backup: the first stores everything, later ones what changed."""
    from drkit.cli.exits import DAMAGE, DONE, PROMISE
    from drkit.core.machine import machine_id
    from drkit.jobs.backup import backup
    from drkit.jobs.backup_take import BackupOrder

    if len(label) > MAX_LABEL or not label.isprintable():
        why = f"it has {len(label)} characters" if label.isprintable() else "it holds characters that cannot be printed"
        raise UsageError("this is no label", why=why, cure=f"at most {MAX_LABEL} printable characters")
    context = of(ctx)
    stand_back(nice, io)
    with open_wiring(context, network=paced(network_rate)) as wiring:
        config = wiring.config
        name, found = wiring.cluster(cluster)
        order = BackupOrder(
            cluster=name,
            connection=found.connection,
            data_dir=found.data_dir,
            label=label,
            rehash=rehash,
            workers=workers or config.backup.workers or os.cpu_count() or 1,
            level=config.backup.compression.level,
            rate=parse_rate(rate) if rate else config.backup.rate,
            required=config.copies.backup_ack,
            machine=machine_id(),
            host=os.uname().nodename,
            writer=f"drkit {version('drkit')}",
            spool=config.daemon.spool,
            wal_timeout_s=parse_duration(wal_timeout).total_seconds(),
        )
        result = backup(order, wiring.means())
        summary = result.summary
        short = [n for n, s in result.standings.items() if s.state != "good"]
        if context.json:
            from drkit.cli.list import backup_json

            payload = backup_json(summary, label, result.standings)
            payload |= {
                "read_bytes": result.read_bytes,
                "again_bytes": result.again_bytes,
                "sent_bytes": dict(result.sent_bytes),
                "adopted_files": result.adopted_files,
                "seconds": round(result.seconds, 3),
                "damaged": [{"path": p, "block": b} for p, b in result.damaged],
            }
            answer_json("drkit.backup/1", {"backup": payload, "requests": wiring.requests()})
        else:
            measured = result.seconds >= 1 and result.read_bytes >= 1 << 20  # less says nothing about the disk
            again = f", {format_size(result.again_bytes)} unchanged stored again" if result.again_bytes else ""
            speed = f" ({format_rate(result.read_bytes / result.seconds)})" if measured else ""
            sys.stdout.write(
                f"backup {summary.backup} is good on {', '.join(result.good_on)}\n"
                f"  {format_size(summary.size_bytes)} in {summary.files} files, {format_size(result.read_bytes)} read, "
                f"{format_size(summary.new_bytes)} stored anew{again}, in {result.seconds:.1f} s{speed}\n"
                f"  timeline {summary.timeline}, WAL {summary.start_lsn} to {summary.stop_lsn}"
                + (f", built on {summary.parent}\n" if summary.parent else "\n")
            )
            for target in short:
                standing = result.standings[target]
                sys.stdout.write(f"  {target}: {standing.state} - {standing.why}\n")
            for path, block in result.damaged[:20]:
                sys.stdout.write(f"  DAMAGED PAGE in {path}, block {block}: the server's own data is corrupt\n")
        if result.damaged:
            return DAMAGE
        return PROMISE if short else DONE
