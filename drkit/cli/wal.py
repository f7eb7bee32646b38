"""`drkit wal push | get | status`: what drkit-wal falls back to, and how far archiving is."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drkit.cli.context import Context, of
from drkit.cli.exits import ABSENCE_UNPROVEN, DONE
from drkit.cli.render import answer_json, table
from drkit.cli.wire import Wiring, open_wiring
from drkit.core.errors import Failed, Missing, Unreachable, UsageError
from drkit.core.units import format_size

if TYPE_CHECKING:
    from drkit.config.model import Cluster
    from drkit.jobs.recovery_file import RecoveryFile
    from drkit.jobs.wal_get import Found, Wanted
    from drkit.jobs.wal_status import WalStatus
    from drkit.repository.repository import Repository
    from drkit.repository.spool import Spool

_ABSENT_CODES = range(3, 126)

ClusterOption = Annotated[str | None, typer.Option("--cluster", metavar="NAME", help="which of several clusters")]


# --- push ---------------------------------------------------------------------------------------------------------


def push(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="the file, %p in archive_command")],
    cluster: ClusterOption = None,
) -> int:
    """Archive one WAL file to all targets; 0 means durable by the policy's rule."""
    from drkit.jobs.wal_push import PushSettings
    from drkit.jobs.wal_push import push as archive
    from drkit.jobs.wal_rule import ack_rule
    from drkit.jobs.wal_source import data_folder

    with open_wiring(of(ctx)) as wiring:
        name, found = wiring.cluster(cluster)
        data_dir = data_folder(path, Path.cwd(), found.data_dir)
        spool = _spool(wiring)
        resting = spool.resting(wiring.clock.now())
        repository = _repository(wiring, resting)
        copies, names = wiring.config.copies, tuple(wiring.config.target)
        rule = ack_rule(copies.wal_ack, names, repository, spool, name, data_dir)
        if resting and not rule.reachable({target.name for target in repository.targets}):
            repository = _repository(wiring, {})
        settings = PushSettings(name, data_dir, rule, wiring.config.wal.compression.level)
        done = archive(path, repository, spool, settings, wiring.clock, wiring.log)
        if wiring.context.json:
            answer_json("drkit.wal.push/1", asdict(done) | {"system_identifier": str(done.system_identifier)})
    return DONE


def _spool(wiring: Wiring) -> Spool:
    from drkit.repository.spool import Spool

    return Spool(wiring.config.daemon.spool)


def _repository(
    wiring: Wiring, resting: Mapping[str, str], left_out: Collection[str] = (), *, reading: bool = False
) -> Repository:
    """Opened without asking the targets in `resting`, unless those are all there are, and those in `left_out`."""
    from drkit.repository.repository import open_repository

    targets, failed = wiring.targets(left_out=left_out)
    asked = [target for target in targets if target.name not in resting] or targets
    for target in targets:
        if target not in asked:
            failed[target.name] = Unreachable("it failed just now", where=target.where, why=resting[target.name])
    return open_repository(
        asked,
        failed,
        wiring.secret(),
        wiring.pins(),
        entropy=os.urandom,
        unsaved=wiring.pins_not_saved,
        reading=reading,
    )


# --- get ----------------------------------------------------------------------------------------------------------


def get(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="the file's name, %f in restore_command")],
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="where to put it, %p in restore_command")],
    absent_exit: Annotated[
        int | None, typer.Option("--absent-exit", metavar="N", help="the exit status for 'proven absent', 3 to 125")
    ] = None,
    cluster: ClusterOption = None,
    ahead: Annotated[bool, typer.Option("--prefetch", hidden=True)] = False,
) -> int:
    """Fetch one WAL file. 0: it is there; N: proven absent; 126: in doubt, or anything else."""
    from drkit.engines.postgres.wal import parse_name
    from drkit.jobs.recovery_file import read_recovery_file
    from drkit.jobs.wal_get import Answer, Claim, claim

    if absent_exit is not None and absent_exit not in _ABSENT_CODES:
        raise UsageError(
            f"--absent-exit {absent_exit} is no proof of absence",
            why="1, 2 and codes above 125 are also what a program exits with that could not start or was killed",
            cure="use 44, as the restore_command that drkit writes does",
        )
    context, parsed = of(ctx), parse_name(name)
    folder = dest if ahead else Path.cwd()
    recovery = read_recovery_file(folder)
    if ahead:
        return _prefetch(_planned(context, recovery), parsed.text, folder, recovery, cluster)
    known, why = claim(parsed, recovery)
    if known is Claim.ABSENT:  # by the plan alone: needs no target, no key and no configuration
        return _absent(context, absent_exit, name, why)
    found = _fetch(_planned(context, recovery), name, dest, recovery, cluster)
    if found.answer is Answer.GOT:
        _tell_got(context, name, found.source, found.size_bytes)
        return DONE
    if found.answer is Answer.ABSENT:
        return _absent(context, absent_exit, name, found.why)
    raise _doubt(name, found)


def _doubt(name: str, found: Found) -> Failed:
    from drkit.jobs.wal_fetch import cure_of

    why = "; ".join(part for part in (found.why, found.told) if part)
    return Failed(f"{name} is in doubt", where=", ".join(found.problems), why=why, cure=cure_of(found))


def _planned(context: Context, recovery: RecoveryFile | None) -> Context:
    """The configuration that the recovery file names, unless another was given."""
    if context.config_path is not None or recovery is None or not recovery.config or os.environ.get("DRKIT_CONFIG"):
        return context
    return Context(Path(recovery.config), context.json, context.verbosity, context.color)


def _absent(context: Context, code: int | None, name: str, why: str) -> int:
    if context.json:
        answer = {"file": name, "found": False, "source": None, "size_bytes": None, "why": why}
        answer_json("drkit.wal.get/1", answer)
    else:
        sys.stderr.write(f"drkit: {name} is absent: {why}\n")
    return ABSENCE_UNPROVEN if code is None else code


def _tell_got(context: Context, name: str, source: str, size_bytes: int) -> None:
    """A person's `wal get` is silent where all is well, as the server's is."""
    if context.json:
        answer = {"file": name, "found": True, "source": source, "size_bytes": size_bytes, "why": ""}
        answer_json("drkit.wal.get/1", answer)


def _fetch(context: Context, name: str, dest: Path, recovery: RecoveryFile | None, cluster: str | None) -> Found:
    from drkit.jobs.wal_fetch import Opening
    from drkit.jobs.wal_fetch import fetch as ask
    from drkit.jobs.wal_get import into

    with open_wiring(context) as wiring:
        wanted = _wanted(wiring, name, recovery, cluster)
        left_out = _left_out(wiring, recovery)
        resting = _spool(wiring).resting(wiring.clock.now())
        opening = Opening(
            (lambda: _repository(wiring, resting, left_out, reading=True)) if resting else None,
            lambda: _repository(wiring, {}, left_out, reading=True),
        )
        folder, spool = Path.cwd(), _spool(wiring)
        return ask(wanted, into(dest), recovery, opening, wiring.clock, wiring.log, folder=folder, spool=spool)


def _left_out(wiring: Wiring, recovery: RecoveryFile | None) -> frozenset[str]:
    """Targets that the plan does without: they are not even opened."""
    if recovery is None:
        return frozenset()
    return frozenset(n for n in wiring.config.target if n not in recovery.targets or n in recovery.without)


def _wanted(wiring: Wiring, name: str, recovery: RecoveryFile | None, cluster: str | None) -> Wanted:
    """Whose file it is: the recovery file's, this folder's, the configured data folder's, else the only one stored."""
    from drkit.engines.postgres.control import CONTROL_PATH, read_control
    from drkit.engines.postgres.wal import parse_name
    from drkit.jobs.wal_get import Wanted
    from drkit.repository.catalogue import systems

    parsed = parse_name(name)
    if recovery is not None:
        return Wanted(parsed, recovery.system_identifier, recovery.segment_bytes)
    _, configured = wiring.cluster(cluster)
    for folder in (Path.cwd(), configured.data_dir):
        if folder is not None and (folder / CONTROL_PATH).exists():
            _, control = read_control(folder, wiring.clock.sleep)
            return Wanted(parsed, control.system_identifier, control.wal_segment_size)
    return Wanted(parsed, _only(systems(_repository(wiring, {}, reading=True))), None)


def _only(known: frozenset[int]) -> int:
    if len(known) == 1:
        return next(iter(known))
    raise Missing(
        "whose WAL is wanted?",
        why=f"the repository holds {len(known)} systems, and there is no data folder here",
        cure="run it in the data folder of the server",
    )


def _prefetch(context: Context, name: str, folder: Path, recovery: RecoveryFile | None, cluster: str | None) -> int:
    """Fetch what follows `name` into the data folder `folder`; at most one process for each folder."""
    from drkit.engines.postgres.control import read_control
    from drkit.engines.postgres.wal import parse_name
    from drkit.jobs.wal_get import Wanted
    from drkit.jobs.wal_prefetch import IDLE_S, prefetch

    with open_wiring(context) as wiring:
        if recovery is not None:
            wanted = Wanted(parse_name(name), recovery.system_identifier, recovery.segment_bytes)
        else:
            _, control = read_control(folder, wiring.clock.sleep)
            wanted = Wanted(parse_name(name), control.system_identifier, control.wal_segment_size)
        spool, left_out = _spool(wiring), _left_out(wiring, recovery)
        resting = spool.resting(wiring.clock.now())
        opened = cache(lambda: _repository(wiring, resting, left_out, reading=True))
        prefetch(folder, wanted, recovery, opened, spool, wiring.clock, wiring.log, idle_s=IDLE_S)
    return DONE


# --- status -------------------------------------------------------------------------------------------------------


def status(
    ctx: typer.Context,
    cluster: Annotated[str | None, typer.Argument(metavar="[CLUSTER]")] = None,
    pay: Annotated[bool, typer.Option("--pay", help="bring what is owed to the targets that answer")] = False,
) -> int:
    """How far archiving is on each target and timeline, what is missing in between, owed, or not handed over yet."""
    from drkit.cli.exits import PROMISE
    from drkit.jobs.wal_debts import pay_debts
    from drkit.jobs.wal_status import wal_status

    with open_wiring(of(ctx)) as wiring:
        _, found = wiring.cluster(cluster)
        repository, spool = wiring.repository(reading=not pay), _spool(wiring)
        if pay:
            pay_debts(repository, repository.targets, spool, wiring.clock, wiring.log)
        system, size, data_dir = _system(wiring, repository, found)
        facts = wal_status(
            repository,
            system,
            spool,
            segment_bytes=size,
            data_dir=data_dir,
            resting=spool.resting(wiring.clock.now()),
        )
        if wiring.context.json:
            answer_json("drkit.wal.status/1", asdict(facts) | {"system_identifier": str(facts.system_identifier)})
        else:
            _show(facts, wiring.context.color)
    return DONE if facts.whole else PROMISE


def _system(wiring: Wiring, repository: Repository, found: Cluster) -> tuple[int, int | None, Path | None]:
    from drkit.engines.postgres.control import CONTROL_PATH, read_control
    from drkit.repository.catalogue import systems

    folder = found.data_dir
    if folder is not None and (folder / CONTROL_PATH).exists():
        _, control = read_control(folder, wiring.clock.sleep)
        return control.system_identifier, control.wal_segment_size, folder
    return _only(systems(repository)), None, None


def _show(facts: WalStatus, color: bool) -> None:
    from drkit.jobs.wal_status import lines_of

    rows: list[Sequence[str]] = []
    for target, line in lines_of(facts):
        missing = sum(gap.count for gap in line.gaps) if line else 0
        rows.append(
            (
                target.name,
                str(line.timeline) if line else "-",
                line.first if line else "-",
                line.last if line else "-",
                str(line.segments) if line else "-",
                str(missing) if line else "-",
                str(target.owed),
                "cannot be listed" if target.error else format_size(target.stored_bytes),
            )
        )
    columns = ("target", "tl", "first", "last", "segments", "missing", "owed", "stored")
    table(columns, rows, right=frozenset({"tl", "segments", "missing", "owed", "stored"}), color=color)
    for target, line in lines_of(facts):
        for gap in line.gaps if line else ():
            sys.stdout.write(f"GAP on {target.name}: {gap.first} to {gap.last}, {gap.count} segments\n")
    for target in facts.targets:
        if target.error:
            sys.stdout.write(f"{target.name}: {target.error}\n")
        if target.owed:
            since = target.owed_since[:19].replace("T", " ")
            sys.stdout.write(f"{target.name} lacks {target.owed} files, {target.owed_first} since {since} UTC; ")
            sys.stdout.write("they are in the spool; `drkit wal status --pay` brings them\n")
    if facts.waiting:
        sys.stdout.write(f"PostgreSQL has {len(facts.waiting)} files to hand over, the oldest {facts.waiting[0]}\n")
