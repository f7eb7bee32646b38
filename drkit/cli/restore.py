"""`drkit restore`: bring a cluster back to a point in time, or say why that cannot be."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drkit.cli.context import of
from drkit.cli.options import NetworkRate, Workers
from drkit.cli.render import answer_json
from drkit.cli.wire import Wiring, open_wiring, paced
from drkit.core.errors import Refused, UsageError
from drkit.core.units import format_duration, format_rate, format_size, format_time, parse_time

if TYPE_CHECKING:
    from drkit.config.model import Cluster
    from drkit.engines.postgres.recovery import RecoveryTarget
    from drkit.jobs.means import Means
    from drkit.jobs.restore import RestoreResult
    from drkit.jobs.restore_plan import Plan, RestoreOrder
    from drkit.jobs.restore_start import Started


def run(
    ctx: typer.Context,
    cluster: Annotated[str | None, typer.Argument(metavar="[CLUSTER]")] = None,
    into: Annotated[
        str | None, typer.Option("--into", metavar="DIR", help="the data folder to make; needed", show_default=False)
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", "--target-time", metavar="POINT", help="latest (the default), end, or a time with zone"),
    ] = None,
    to_lsn: Annotated[str | None, typer.Option("--to-lsn", "--target-lsn", metavar="X/Y", help="a position")] = None,
    to_xid: Annotated[str | None, typer.Option("--to-xid", "--target-xid", metavar="N", help="a transaction")] = None,
    to_name: Annotated[
        str | None, typer.Option("--to-name", "--target-name", metavar="NAME", help="a restore point")
    ] = None,
    exclusive: Annotated[
        bool, typer.Option("--exclusive", "--target-exclusive", help="stop before the point, not behind it")
    ] = False,
    backup: Annotated[
        str | None, typer.Option("--backup", "--set", metavar="ID", help="this backup, not the best one")
    ] = None,
    timeline: Annotated[
        str | None,
        typer.Option("--timeline", "--target-timeline", metavar="N|latest|current", help="the branch to follow"),
    ] = None,
    source: Annotated[str | None, typer.Option("--from", metavar="TARGET", help="read from this target only")] = None,
    tablespace: Annotated[
        list[str] | None, typer.Option("--tablespace", metavar="OLD=NEW", help="a tablespace's new folder")
    ] = None,
    delta: Annotated[bool, typer.Option("--delta", help="keep what is right in DIR already, by content")] = False,
    action: Annotated[
        str, typer.Option("--action", "--target-action", metavar="pause|promote|shutdown", help="at the point")
    ] = "promote",
    without: Annotated[
        list[str] | None, typer.Option("--without", metavar="TARGET", help="give up a target that cannot be asked")
    ] = None,
    resume_archiving: Annotated[bool, typer.Option("--resume-archiving", help="keep archive_mode as it was")] = False,
    start: Annotated[bool, typer.Option("--start", help="boot the server and follow recovery to the point")] = False,
    plan_only: Annotated[bool, typer.Option("--plan", help="say what would happen, change nothing")] = False,
    no_scan: Annotated[bool, typer.Option("--no-scan", help="do not read WAL to find the point")] = False,
    owner: Annotated[str | None, typer.Option("--owner", metavar="USER", help="as root: who gets the files")] = None,
    port: Annotated[int | None, typer.Option("--port", min=1, max=65535, help="for --start")] = None,
    workers: Workers = 0,
    network_rate: NetworkRate = None,
    no_repair: Annotated[
        bool, typer.Option("--no-repair", help="leave what was met damaged on a target to `drkit verify --repair`")
    ] = False,
) -> None:
    """Restore a backup and its WAL into a folder, to a point in time; all is checked before a byte is written."""
    from drkit.jobs.archive import read_catalogues
    from drkit.jobs.rates import read_rates
    from drkit.jobs.restore_plan import plan_json, plan_restore
    from drkit.jobs.restore_points import Wish

    context = of(ctx)
    _not_empty("--backup", backup)
    _not_empty("--timeline", timeline)
    _not_empty("--from", source)
    _not_empty("--without", *(without or ()))
    _not_empty("--owner", owner)
    if not into:
        why = "" if into is None else "it is empty: was a variable not set?"
        cure = "name the data folder to make: drkit restore --into /restore/db"
        raise UsageError("--into DIR is needed", why=why, cure=cure)
    target = point(to, to_lsn, to_xid, to_name, exclusive=exclusive, action=action)
    typed = next((text for text in (to, to_lsn, to_xid, to_name) if text is not None), "latest")
    given_up = frozenset(without or ())
    wish = Wish(target, backup or "", timeline or "", source or "", given_up, not no_scan, typed)
    mapping = tuple(_pair(text) for text in tablespace or ())
    with open_wiring(context, network=paced(network_rate)) as wiring:
        name, found = wiring.cluster(cluster)
        order = _order(wiring, name, found, Path(into), wish, mapping, delta=delta, resume=resume_archiving)
        order = _with(order, owner=owner or "", workers=workers)
        _keep_apart(wiring, [order.destination, *(Path(new) for _, new in mapping)])
        means = wiring.means(reading=True)
        catalogues = read_catalogues(means.repository, name)
        plan = plan_restore(order, means, catalogues, read_rates(wiring.config.daemon.spool))
        if plan_only and context.json:
            answer_json("drkit.restore.plan/1", {"plan": plan_json(plan)})
        elif plan_only:
            sys.stdout.write(plan_text(plan))
        else:
            _perform(wiring, plan, means, found, start=start, port=port, repair=not no_repair)


def _perform(
    wiring: Wiring, plan: Plan, means: Means, cluster: Cluster, *, start: bool, port: int | None, repair: bool
) -> None:
    """Show the plan, run it, boot the server where asked, answer, and mend what was met damaged; keeps the rates that
    were measured."""
    from drkit.cli.restore_repair import mend_what_was_met, note_what_was_met, repairs_json, repairs_text
    from drkit.jobs.rates import Rates, fetch_rate, write_rates
    from drkit.jobs.restore import restore
    from drkit.jobs.restore_start import StartOrder, check_start, own_files
    from drkit.jobs.restore_start import start as boot
    from storage_backends.errors import StorageError

    context, order = wiring.context, plan.order
    fenced, settings = order.destination != order.home, dict[str, str]()
    if start:  # the path as it was configured: Debian's names say which cluster it is, what they are links to does not
        settings = check_start(plan.manifest, cluster.pg_bin, None if fenced else cluster.data_dir)
    if not context.json and context.verbosity >= 0:
        sys.stderr.write(plan_text(plan))
    result = restore(plan, means)
    note_what_was_met(wiring, plan, result)  # a server that does not start ends it here
    started: Started | None = None
    if start:
        chosen = port or (cluster.staging_port if fenced else None)
        settings = own_files(plan.manifest, order.destination) if fenced else settings
        segment_bytes = plan.manifest.summary.segment_bytes
        booting = StartOrder(order.destination, cluster.pg_bin, chosen, fenced, segment_bytes, settings=settings)
        started = boot(booting, wiring.clock, wiring.token, wiring.progress)
    rate = fetch_rate(result.written_bytes, result.kept_bytes, result.seconds)
    try:
        write_rates(wiring.config.daemon.spool, Rates(rate, started.replay_rate if started else None))
    except StorageError as error:  # only the next estimate is the poorer for it
        wiring.log.warn("rates were not kept", why=str(error))
    if not context.json:
        sys.stdout.write(result_text(plan, result, started))
        sys.stdout.flush()  # who waits for the data does not wait for repairs
    repairs = mend_what_was_met(wiring, plan, result, started, means, repair=repair)
    if context.json:
        answer = {**result_json(plan, result, started), "repairs": repairs_json(repairs), "requests": wiring.requests()}
        answer_json("drkit.restore/1", answer)
    else:
        sys.stdout.write(repairs_text(repairs))


def point(
    to: str | None, lsn: str | None, xid: str | None, name: str | None, *, exclusive: bool, action: str
) -> RecoveryTarget:
    """The point asked for. Raises UsageError for two of them, or one that is none."""
    from drkit.engines.postgres.lsn import Lsn
    from drkit.engines.postgres.recovery import RecoveryTarget, TargetAction, TargetKind

    given = [text for text in (to, lsn, xid, name) if text is not None]
    if len(given) > 1:
        raise UsageError("one point, not several", why=", ".join(given), cure="--to, --to-lsn, --to-xid or --to-name")
    try:
        then = TargetAction(action)
    except ValueError:
        raise UsageError(f"{action!r} is no action", cure="pause, promote or shutdown") from None
    if lsn is not None:
        return RecoveryTarget(TargetKind.LSN, Lsn.parse(lsn), not exclusive, action=then)
    if xid is not None:
        if not xid.isdecimal() or int(xid) >= 1 << 64:
            raise UsageError(f"{xid!r} is no transaction id", cure="a number, as pg_current_xact_id() gives it")
        return RecoveryTarget(TargetKind.XID, int(xid), not exclusive, action=then)
    if name is not None:
        return RecoveryTarget(TargetKind.NAME, name, not exclusive, action=then)
    if to is None or to in ("latest", "end"):
        kind = TargetKind.END if to == "end" else TargetKind.LATEST
        if exclusive:
            raise UsageError(
                "--exclusive goes with a time, a position or a transaction",
                cure="leave it out, or name one: --to TIME, --to-lsn X/Y, --to-xid N",
            )
        return RecoveryTarget(kind, action=then)
    return RecoveryTarget(TargetKind.TIME, parse_time(to), not exclusive, action=then)


def _not_empty(flag: str, *words: str | None) -> None:
    """Raises UsageError: an empty word is a variable that was not set, and must not mean 'choose for me'."""
    if "" in words:
        raise UsageError(f"{flag} is empty", why="was a variable not set?", cure=f"leave {flag} out, or name one")


def _pair(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not equals or not old or not new:
        raise UsageError(f"{text!r} is not OLD=NEW", cure="--tablespace /old/folder=/new/folder")
    return old, new


def _order(
    wiring: Wiring,
    name: str,
    found: Cluster,
    into: Path,
    wish: object,
    mapping: tuple[tuple[str, str], ...],
    *,
    delta: bool,
    resume: bool,
) -> RestoreOrder:
    from drkit.core.machine import machine_id
    from drkit.jobs.restore_plan import RestoreOrder
    from drkit.jobs.restore_points import Wish

    assert isinstance(wish, Wish)
    home = Path(os.path.realpath(found.data_dir)) if found.data_dir else None
    return RestoreOrder(
        cluster=name,
        destination=Path(os.path.realpath(into)),
        wish=wish,
        config=wiring.loaded.path.absolute(),
        wal_program=wal_program(),
        machine=machine_id(),
        workers=wiring.config.backup.workers or os.cpu_count() or 1,
        euid=os.geteuid(),
        home=home,
        delta=delta,
        tablespaces=mapping,
        resume_archiving=resume,
        secrets=tuple(path for path in (wiring.config.keys.file, wiring.config.keys.passphrase_file) if path),
    )


def _keep_apart(wiring: Wiring, places: list[Path]) -> None:
    """Raises Refused where files would be restored into a target or the spool, or around one, which --delta clears."""
    from urllib.parse import unquote, urlsplit

    targets = {name: urlsplit(one.url) for name, one in wiring.config.target.items() if one.scheme == "file"}
    taken = {f"target {name}": Path(unquote(url.path)) for name, url in targets.items()}
    taken["the spool"] = wiring.config.daemon.spool
    for place in (Path(os.path.realpath(place)) for place in places):
        for label, folder in taken.items():
            real = Path(os.path.realpath(folder))
            if place == real or real in place.parents or place in real.parents:
                raise Refused(
                    f"the restore would mix with {label}",
                    where=str(place),
                    why=f"{label} is in {folder}",
                    cure="name a folder apart from the targets and the spool",
                )


def _with(order: RestoreOrder, *, owner: str, workers: int) -> RestoreOrder:
    from dataclasses import replace

    return replace(order, owner=owner, workers=workers or order.workers)


def wal_program() -> Path:
    """The drkit-wal that belongs to this installation. Raises Refused: without it recovery could fetch no WAL."""
    beside = [Path(sys.argv[0]).absolute().parent, Path(sys.executable).absolute().parent]
    for folder in beside:
        if os.access(folder / "drkit-wal", os.X_OK):
            return folder / "drkit-wal"
    found = shutil.which("drkit-wal")
    if found is None:
        raise Refused("drkit-wal was not found", why="recovery fetches WAL with it", cure="is drkit installed whole?")
    return Path(found).absolute()


# --- answers ------------------------------------------------------------------------------------------------------


def plan_text(plan: Plan) -> str:
    """The plan as people read it."""
    course, summary, wish = plan.course, plan.manifest.summary, plan.order.wish
    path = course.path
    branches = [f"{one} until {end}" if (end := path.end_of(one)) is not None else str(one) for one in path.path]
    latest = str(course.reach.end)
    if course.last_commit is not None:
        latest += f", last commit {format_time(course.last_commit)}"
    size, fetch = format_size(summary.size_bytes), format_size(plan.fetch_bytes)
    rows = [
        ("backup", f"{summary.backup}, stopped {summary.stopped_at} at {summary.stop_lsn}"),
        ("point", _point_text(plan)),
        ("timeline", " > ".join(branches)),
        ("WAL", f"{plan.first_wal} to {plan.last_wal}, at most {format_size(plan.wal_bytes)} of it"),
        ("latest", f"{latest} is the latest reachable point"),
        ("into", f"{plan.order.destination}, owned by {plan.owner.name} ({plan.owner.rule})"),
        ("from", ", ".join(course.sources) + (f"; WAL from {', '.join(course.wal_sources)}" if wish.source else "")),
        ("size", f"{size} in {summary.files} files, {fetch} to fetch"),
        *(("space", f"{r.path}: {format_size(r.needed_bytes)} of {format_size(r.free_bytes)}") for r in plan.rooms),
        *(("tablespace", f"{link.oid}: {link.original} to {link.location}") for link in plan.links),
        ("estimate", _estimate_text(plan)),
        ("archiving", "as it was configured" if plan.archiving else "archive_mode = off"),
        *(("note", note) for note in plan.notes),
    ]
    width = max(len(label) for label, _ in rows)
    return "".join(f"{label:<{width}}  {text}\n" for label, text in rows)


def _point_text(plan: Plan) -> str:
    from datetime import datetime

    asked, target = plan.order.wish.target, plan.course.target
    value = asked.value
    text = asked.kind.value
    if value is not None:
        text += f" {plan.order.wish.text} = {format_time(value)}" if isinstance(value, datetime) else f" {value}"
        text += "" if asked.inclusive else ", exclusive"
    if target.kind is not asked.kind:
        text += f", which is {target.kind.value}"
    return text + ("" if target.kind.value == "latest" else f", then {target.action.value}")


def _estimate_text(plan: Plan) -> str:
    if plan.fetch_s is None:
        return "none: no restore was measured on this host yet"
    text = f"about {format_duration(timedelta(seconds=plan.fetch_s))} for the files"
    if plan.replay_s is None:
        return text + "; the replay of WAL was not measured yet"
    replay = format_duration(timedelta(seconds=plan.replay_s))
    return text + f", at most {replay} for the replay, at the rates of earlier restores"


def result_json(plan: Plan, result: RestoreResult, started: Started | None) -> dict[str, object]:
    from drkit.jobs.restore_plan import plan_json

    phases: list[dict[str, object]] = [{"name": n, "seconds": round(s, 3)} for n, s in result.phases]
    answer: dict[str, object] = {
        "backup": plan.manifest.summary.backup,
        "into": str(plan.order.destination),
        "target_reached": None if started is None else started.outcome.value != "read only",
        "reached": started.reached if started else "",
        "phases": phases,
        "bytes": dict(result.fetched_bytes),
        "written_bytes": result.written_bytes,
        "kept_bytes": result.kept_bytes,
        "seconds": round(result.seconds, 3),
        "failures": [{"target": t, "object": o, "why": w} for t, o, w in result.failures],
        "spared": list(result.spared),
        "wal_events": [asdict(one) for one in started.wal_damages] if started else [],
        "wal_bytes": dict(started.wal_bytes) if started else {},
        "plan": plan_json(plan),
    }
    if started is not None:
        phases += [{"name": n, "seconds": round(s, 3), "detail": d, "since": "start"} for n, s, d in started.phases]
        answer["server"] = {
            "outcome": started.outcome.value,
            "port": started.port,
            "socket": str(started.socket_folder),
            "log": str(started.log),
            "pid": started.pid,
            "configuration": dict(started.configuration),
        }
    return answer


def result_text(plan: Plan, result: RestoreResult, started: Started | None) -> str:
    rate = format_rate(result.written_bytes / result.seconds) if result.seconds else ""
    lines = [
        f"restored {plan.manifest.summary.backup} into {plan.order.destination}",
        f"  {result.files} files, {format_size(result.written_bytes)} written, {format_size(result.kept_bytes)} kept, "
        f"in {result.seconds:.1f} s ({rate}); all synced before pg_control",
    ]
    lines += [f"  {name}: {format_size(size)} fetched" for name, size in result.fetched_bytes.items()]
    lines += [f"  {target}: {why}; another target served it" for target, _, why in result.failures[:10]]
    lines += [f"  {place} is a mount point and was left alone" for place in result.spared]
    if not plan.archiving:
        lines.append("  archive_mode = off was written; once this is the primary: alter system reset archive_mode")
    if started is None:
        folder = shlex.quote(str(plan.order.destination))
        if not any(entry.path == b"postgresql.conf" for entry in plan.manifest.entries):
            lines.append("  postgresql.conf lay outside of the data folder: put it and pg_hba.conf in place first")
            lines.append("  (where /etc/postgresql has them for this folder they are, and pg_ctlcluster starts it)")
        lines.append(f"start it as {plan.owner.name}: pg_ctl -D {folder} start; it recovers by itself")
    else:
        lines += [f"  {seconds:8.2f} s  {name} {detail}".rstrip() for name, seconds, detail in started.phases]
        lines += [f"  {name}: {format_size(size)} of WAL" for name, size in started.wal_bytes.items()]
        for one in started.wal_damages:
            served = f"{one.served_by} served it" if one.served_by else "recovery did without it"
            lines.append(f"  WAL {one.file} is damaged on {one.target}, {served}: {one.why}")
        socket = shlex.quote(str(started.socket_folder))
        lines.append(f"server {started.outcome.value}; psql -h {socket} -p {started.port}")
        files = ", ".join(started.configuration.values())
        if plan.order.destination != plan.order.home:
            lines.append("  started fenced: loopback only, no archiving, no subscriptions, no preloaded libraries")
            if files:
                lines.append("  the server's own configuration lay outside of its data folder: it is not in the backup")
                lines.append(f"  made instead, which let in by that private socket alone, without a password: {files}")
        elif files:
            lines.append(f"  configured by {files}, outside of the data folder")
    return "\n".join(lines) + "\n"
