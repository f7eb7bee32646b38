"""Boots a restored server and follows its recovery to the target."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from drkit.core.cancel import CancelToken
from drkit.core.clock import Clock
from drkit.core.errors import Cancelled, Damage, Failed, Missing, Refused, Unreachable
from drkit.core.progress import Event, Progress
from drkit.engines.postgres.control import CONTROL_PATH, parse_control
from drkit.engines.postgres.instance import (
    Instance,
    InstanceSpec,
    Outcome,
    StartFailed,
    make_socket_folder,
    own_configuration,
)
from drkit.engines.postgres.lsn import Lsn, LsnError
from drkit.engines.postgres.phases import Phase, PhaseSeen
from drkit.engines.postgres.programs import find_programs
from drkit.engines.postgres.recovery import fence_settings, required_minimums
from drkit.engines.postgres.wal import WalKind, parse_name
from drkit.jobs.recovery_events import WalDamage, damages, read_events, served_elsewhere, unserved, wal_bytes
from drkit.jobs.recovery_file import RecoveryFile, read_recovery_file
from drkit.repository.manifest import Manifest

ETC = Path("/etc/postgresql")  # Debian: ETC/VERSION/CLUSTER configures /var/lib/postgresql/VERSION/CLUSTER
_FILES = {"config_file": b"postgresql.conf", "hba_file": b"pg_hba.conf", "ident_file": b"pg_ident.conf"}
_LONGEST_S = 30 * 86400.0
_LEAST_REPLAY_S, _LEAST_REPLAY_SEGMENTS = 3.0, 4  # less tells of start-up and of the first fetch, not of replay
_LONGEST_SOCKET_FOLDER = 85  # sun_path holds 107 bytes, the file's own name takes 22
_FROM_ENVIRONMENT = ("DRKIT_", "AWS_")  # what `drkit-wal get` may need of ours


@dataclass(frozen=True, slots=True)
class StartOrder:
    """fenced: it must not act on the world (anything but the configured data folder) · port None: a free one
    segment_bytes: of its WAL · environment: of the server; None: what `drkit-wal get` may need of ours
    settings: further ones, which win over all files and over the fence's.
    """

    data_dir: Path
    pg_bin: Path | None
    port: int | None
    fenced: bool
    segment_bytes: int
    environment: Mapping[str, str] | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Started:
    """phases: (name, seconds since the start, detail) · replay_rate: bytes of WAL a second, None where too little
    wal_damages: archived WAL that recovery found damaged · wal_elsewhere: files that one target had not, or not sound,
    and that another one gave · wal_bytes: of WAL, by the target that gave it
    configuration: setting -> file, where configuration files outside of the data folder were used.
    """

    outcome: Outcome
    port: int
    socket_folder: Path
    log: Path
    pid: int | None
    phases: tuple[tuple[str, float, str], ...]
    reached: str
    replay_rate: float | None
    wal_damages: tuple[WalDamage, ...] = ()
    wal_elsewhere: frozenset[str] = frozenset()
    wal_bytes: Mapping[str, int] = field(default_factory=dict)
    configuration: Mapping[str, str] = field(default_factory=dict)


def check_start(manifest: Manifest, pg_bin: Path | None, home: Path | None, *, etc: Path = ETC) -> dict[str, str]:
    """What would keep `start` from starting, asked before the restore; returns settings that it needs.

    home: the configured data folder of a server that is started in place, None of a fenced one: that gets what it
    lacks from `own_files`. Raises Missing (programs) or Refused.
    """
    major = manifest.summary.engine_version // 10000
    programs = find_programs(major, (pg_bin,) if pg_bin else ())
    if home is None or "config_file" not in lacking(manifest):
        return {}
    found = etc / str(major) / home.name / "postgresql.conf"
    if home.parent.name == str(major) and found.is_file() and _configures(programs, found, home):
        return {"config_file": str(found)}
    raise Refused(
        "--start would have no configuration to start with",
        where=str(home),
        why=f"postgresql.conf was outside of the data folder when the backup was taken, and no {found} is for it",
        cure="restore without --start, put postgresql.conf and pg_hba.conf in place, then pg_ctl start",
    )


def lacking(manifest: Manifest) -> set[str]:
    """The settings that name files which lay outside of the data folder (Debian: below /etc/postgresql)."""
    names = {entry.path for entry in manifest.entries if b"/" not in entry.path}
    return {setting for setting, name in _FILES.items() if name not in names}


def own_files(manifest: Manifest, data_dir: Path) -> dict[str, str]:
    """For a fenced server: in DIR.conf beside the data folder a file of its own for each that its backup lacks, which
    lets nobody in but by its private socket. The settings that name them; {} where nothing is lacking.
    """
    wanted = lacking(manifest) & {"config_file", "hba_file"}
    if not wanted:
        return {}
    folder = data_dir.with_name(data_dir.name + ".conf")
    make_socket_folder(folder, data_dir)
    settings = own_configuration(folder, data_dir)
    return settings if "config_file" in wanted else {key: settings[key] for key in ("hba_file", "ident_file")}


def _configures(programs: Path, file: Path, home: Path) -> bool:
    """Whether a postgresql.conf is that of this data folder, by what the server itself reads there."""
    try:
        said = _asker(programs, file.stat(), {"config_file": str(file)})("data_directory")
    except Failed:
        return False
    return bool(said) and os.path.realpath(said) == os.path.realpath(home)


def start(order: StartOrder, clock: Clock, token: CancelToken, progress: Progress) -> Started:
    """Start the server and return when it is ready, paused or shut down at its target; it goes on running.

    Raises Refused, Missing, NotReached, StartFailed; where WAL that no target gave ended recovery: Damage,
    Unreachable or Missing. Cancelled stops it again.
    """
    spec = _spec(order)
    instance = Instance(spec, clock.monotonic, clock.sleep)
    instance.start()
    try:
        outcome = instance.wait(
            _LONGEST_S,
            on_phase=lambda seen: progress.emit(Event("recovery", message=_line(seen))),
            cancelled=lambda: token.cancelled,
        )
    except StartFailed as error:
        instance.stop()
        raise _wal_in_doubt(order.data_dir, spec.log) or error from None
    except Cancelled:
        instance.stop()
        cure = f"nothing is lost: {_again(order.data_dir)}"
        why = f"{token.reason}; the server was shut down again"
        raise Cancelled("recovery was stopped", where=str(order.data_dir), why=why, cure=cure) from None
    except Failed:
        instance.stop()
        raise
    began = instance.started_at_s or 0.0
    phases = tuple((one.phase.value, one.at_s - began, one.detail) for one in instance.phases)
    reached = instance.seen(Phase.STOPPING) or instance.seen(Phase.LAST_TRANSACTION)
    events = read_events(order.data_dir)
    return Started(
        outcome=outcome,
        port=spec.port,
        socket_folder=spec.socket_folder,
        log=spec.log,
        pid=instance.pid if instance.is_running else None,
        phases=phases,
        reached=reached.detail if reached else "",
        replay_rate=replay_rate(instance.seen(Phase.REDO_STARTS), instance.seen(Phase.REDO_DONE), order.segment_bytes),
        wal_damages=damages(events),
        wal_elsewhere=served_elsewhere(events),
        wal_bytes=wal_bytes(events),
        configuration={key: value for key, value in order.settings.items() if key in _FILES},
    )


def _wal_in_doubt(data_dir: Path, log: Path) -> Damage | Unreachable | Missing | None:
    """What ended recovery, where that was a WAL file which no target gave; the server's own words mislead then
    ('command not executable').
    """
    event, plan = unserved(read_events(data_dir)), read_recovery_file(data_dir)
    if event is None or plan is None:
        return None
    answers = {**event.damaged, **event.failed, **event.missing}
    where, why = f"WAL file {event.file}", "; ".join(f"{name}: {text}" for name, text in answers.items())
    again = _again(data_dir)
    error: Damage | Unreachable | Missing
    if event.failed:
        what = "recovery stopped: a target with WAL that it needs cannot be asked"
        error = Unreachable(what, where=where, why=why, cure=f"when the target answers again, {again}")
    else:
        cure = f"`drkit wal push` a good copy of it from a server's pg_wal, then {again}"
        cure += f"; or restore to an earlier point{_before(event.file, plan)}"
        if event.damaged:
            error = Damage("recovery stopped: WAL that it needs is damaged", where=where, why=why, cure=cure)
        else:
            error = Missing("recovery stopped: WAL that it needs is gone", where=where, why=why, cure=cure)
    error.add_note(f"nothing was promoted; the server's log is {log}")
    return error


def _again(data_dir: Path) -> str:
    return f"pg_ctl -D {shlex.quote(str(data_dir))} start: recovery goes on where it stopped"


def _before(file: str, plan: RecoveryFile) -> str:
    name = parse_name(file)
    return f", before {name.start(plan.segment_bytes)}" if name.kind is WalKind.SEGMENT else ""


def _line(seen: PhaseSeen) -> str:
    return f"{seen.phase.value}: {seen.detail}" if seen.detail else seen.phase.value


def replay_rate(first: PhaseSeen | None, last: PhaseSeen | None, segment_bytes: int) -> float | None:
    """Bytes of WAL a second between two phases that tell their LSN; None where too little was replayed to say."""
    if first is None or last is None or last.at_s - first.at_s < _LEAST_REPLAY_S:
        return None
    try:
        replayed = Lsn.parse(last.detail) - Lsn.parse(first.detail)
    except LsnError:
        return None
    return replayed / (last.at_s - first.at_s) if replayed >= _LEAST_REPLAY_SEGMENTS * segment_bytes else None


def _spec(order: StartOrder) -> InstanceSpec:
    control = parse_control((order.data_dir / CONTROL_PATH).read_bytes())
    major = control.facts.major
    programs = find_programs(major, (order.pg_bin,) if order.pg_bin else ())
    log = order.data_dir.with_name(order.data_dir.name + ".log")
    environment = order.environment
    if environment is None:
        environment = {k: v for k, v in os.environ.items() if k.startswith(_FROM_ENVIRONMENT) or k == "HOME"}
    settings: Mapping[str, str]
    if order.fenced:
        port = order.port or _free_port()
        sockets = order.data_dir.with_name(order.data_dir.name + ".sockets")
        if len(os.fsencode(sockets)) > _LONGEST_SOCKET_FOLDER:
            sockets = Path(tempfile.gettempdir()) / f"drkit-{port}"
        make_socket_folder(sockets, order.data_dir)
        settings = {**fence_settings(major, port, sockets), **required_minimums(control), **order.settings}
    else:
        ask = _asker(programs, order.data_dir.stat(), order.settings, order.data_dir)
        port = order.port or int(ask("port"))
        sockets = Path(ask("unix_socket_directories").split(",")[0].strip() or "/tmp")
        settings = order.settings
    return InstanceSpec(order.data_dir, programs, port, sockets, log, settings, environment)


def _asker(
    programs: Path, owner: os.stat_result, settings: Mapping[str, str], data_dir: Path | None = None
) -> Callable[[str], str]:
    """What the server's own files say of a setting (`postgres -C`), asked as their owner; with `config_file` among the
    settings there need be no data folder yet."""

    def ask(name: str) -> str:
        who = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if os.geteuid() == 0 else {}
        command = [str(programs / "postgres"), "-C", name]
        command += ["-D", str(data_dir)] if data_dir else []
        for key, value in settings.items():
            command += ["-c", f"{key}={value}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", timeout=30, **who)  # type: ignore[call-overload]
        if done.returncode != 0:
            where = str(data_dir or settings.get("config_file", ""))
            raise Failed("the server cannot read its configuration", where=where, why=done.stderr.strip())
        return str(done.stdout.strip())

    return ask


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
