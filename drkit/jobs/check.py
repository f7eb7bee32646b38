"""Everything that would stop a backup, the archiving of WAL or a restore, found before the night it matters."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from drkit.config.find import open_to_others
from drkit.core.errors import ConfigError, Damage, DrkitError
from drkit.core.units import format_duration, format_size
from drkit.engines.postgres.control import read_control
from drkit.engines.postgres.session import STANDBY_WAITS, ServerFacts, Session
from drkit.engines.postgres.wal import name_before
from drkit.jobs.check_places import devices_of, overlaps, server_folders, twins
from drkit.jobs.means import Means
from drkit.repository.layout import ClusterLayout
from drkit.repository.spool import Spool
from drkit.repository.target import Target
from storage_backends.api import key
from storage_backends.errors import AlreadyExists, NotFound, StorageError

_ROUND_TRIP_S = 30.0
_SEGMENT_BYTES = 16 << 20  # initdb's default, where no server can be asked
_SPACE_BYTES = 1 << 30
_RESTART, _RELOAD = "restart", "reload"
_SKEW = timedelta(minutes=1)
OWN_PLACE = "give each target a place of its own in the configuration, then: drkit init"


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. cure: a statement or command; cost: `reload` or `restart` where the cure needs one."""

    about: str
    level: Level
    text: str
    cure: str = ""
    cost: str = ""


@dataclass(frozen=True, slots=True)
class CheckOrder:
    """connection, data_dir: as configured. program: path of drkit-wal; rpo_s: the objective, None without one.

    cluster: its name; spool: this host's state folder, which remembers the server of that name
    """

    cluster: str
    spool: Path
    connection: str
    data_dir: Path | None
    program: Path
    config: Path
    rpo_s: float | None


def check_configuration(path: Path) -> Iterator[Finding]:
    """A file that others may write to is taken where it was named: it names programs that drkit runs."""
    why = open_to_others(path)
    if why:
        yield Finding("configuration", Level.WARN, f"{path}: {why}", f"chown it to you or root, chmod go-w {path}")


def check_targets(means: Means, identities: Mapping[str, str]) -> Iterator[Finding]:
    """Identity, rights and behaviour of every target. identities: what each answered with when it was opened."""
    for name, problem in means.repository.absent.items():
        yield Finding(f"target {name}", Level.FAIL, str(problem), problem.cure)
    targets = means.repository.targets
    for target in targets:
        yield from _target(target, means)
    alike = overlaps(targets)
    known, names = {one.target for one in alike}, [target.name for target in targets]
    alike += [one for one in twins({n: identities[n] for n in names if n in identities}) if one.target not in known]
    for one in alike:
        yield Finding(f"target {one.target}", Level.FAIL, one.text, OWN_PLACE)


def _target(target: Target, means: Means) -> Iterator[Finding]:
    """Write, read back, fail to overwrite, delete."""
    about, probe = f"target {target.name}", key(f"canaries/check-{means.entropy(8).hex()}")
    content = means.entropy(1024)
    try:
        written, now = target.write(probe, [content], len(content)), means.clock.now()
        try:
            if target.read(probe) != content:
                raise Damage("what was read is not what was written", where=target.where)
            try:
                target.write(probe, [b"other"], 5)
            except AlreadyExists:
                pass
            else:
                yield Finding(about, Level.FAIL, "the store let an object be overwritten", "use another store")
                return
        finally:
            target.backend.delete(probe)
        try:
            target.backend.stat(probe)
        except NotFound:
            pass
    except (StorageError, DrkitError) as error:
        yield Finding(about, Level.FAIL, str(error), error.cure)
        return
    yield Finding(about, Level.OK, f"{target.backend.url}: writes, reads, keeps what is there, deletes")
    yield from clocks(about, written.modified_at, now)


def clocks(about: str, theirs: datetime, ours: datetime) -> Iterator[Finding]:
    """Points in time are chosen by clocks: a backup's end by this host's, a commit by the server's."""
    apart = theirs - ours
    if abs(apart) > _SKEW:
        side = "ahead of" if apart > timedelta(0) else "behind"
        text = f"its clock is {format_duration(abs(apart))} {side} this host's"
        yield Finding(about, Level.WARN, text, "which one is wrong? does time synchronisation run: timedatectl")


def check_server(order: CheckOrder, means: Means, usable: Sequence[Target]) -> Iterator[Finding]:
    """The server's version, rights and settings, its data folder, the room on the targets, and the round trip of a
    WAL segment to those that are `usable`. Raises ConfigError for a connection string that is none.
    """
    try:
        session = Session.open(order.connection, "drkit check")
    except ConfigError:
        raise
    except DrkitError as error:
        yield Finding("server", Level.FAIL, str(error), error.cure)
        yield from check_space(means.repository.targets, _SEGMENT_BYTES, 0)
        return
    with session:
        facts = session.facts()
        role = "standby" if facts.in_recovery else "primary"
        yield Finding("server", Level.OK, f"PostgreSQL {facts.version}, a {role} on timeline {facts.timeline}")
        foreign = list(_known(order, facts))
        yield from foreign
        yield from clocks("server", session.rows("select clock_timestamp()")[0][0], means.clock.now())
        yield from _rights(facts)
        if facts.in_recovery:
            text = f"a backup ends when the primary has archived the WAL up to its end; {STANDBY_WAITS}"
            yield Finding("standby", Level.WARN, text, "set archive_timeout on the primary")
        folder = order.data_dir or facts.data_directory
        yield from _folder(folder, facts, means)
        yield from _settings(session, facts, order)
        folders = server_folders(folder) if folder else []
        yield from _places(folders, means.repository.targets)
        yield from _devices(devices_of(folders), means.repository.targets)
        yield from check_space(means.repository.targets, facts.wal_segment_size, _database_bytes(session))
        if not facts.in_recovery and facts.archive_mode != "off" and usable and not foreign:
            yield _round_trip(session, facts, means, usable)


def _known(order: CheckOrder, facts: ServerFacts) -> Iterator[Finding]:
    """Whether it is the server that backups and WAL of this name came from; one not seen before is not pinned here."""
    if not (order.spool / "systems" / order.cluster).exists():
        return
    try:
        Spool(order.spool).pin_system(order.cluster, facts.system_identifier)
    except DrkitError as error:
        yield Finding("server", Level.FAIL, str(error), error.cure)


def _rights(facts: ServerFacts) -> Iterator[Finding]:
    if facts.may_backup and facts.may_switch_wal:
        yield Finding("rights", Level.OK, f"role {facts.user} may take backups and switch WAL")
        return
    functions = [facts.facts.start_function, facts.facts.stop_function, "pg_switch_wal()"]
    cure = f"grant execute on function {', '.join(functions)} to {facts.user}"
    yield Finding("rights", Level.FAIL, f"role {facts.user} may not take backups", cure)


def _folder(folder: Path | None, facts: ServerFacts, means: Means) -> Iterator[Finding]:
    if folder is None:
        cure = "set data_dir in the configuration, or: grant pg_read_all_settings to the role"
        yield Finding("data folder", Level.FAIL, "nobody says where it is", cure)
        return
    try:
        _, control = read_control(folder, means.clock.sleep)
    except DrkitError as error:
        yield Finding("data folder", Level.FAIL, str(error), "run drkit as the owner of the data folder")
        return
    if control.system_identifier != facts.system_identifier:
        text = f"{folder} has system identifier {control.system_identifier}, the server {facts.system_identifier}"
        yield Finding("data folder", Level.FAIL, text, "do data_dir and connection name the same cluster?")
    elif folder.stat().st_uid != os.geteuid() and os.geteuid() != 0:
        yield Finding("data folder", Level.FAIL, f"{folder} belongs to another user", "run drkit as its owner")
    else:
        yield Finding("data folder", Level.OK, f"{folder}, system identifier {control.system_identifier}")
    wal = folder / "pg_wal"
    free = shutil.disk_usage(wal).free
    count = free // facts.wal_segment_size
    size = facts.wal_segment_size >> 20
    text = f"{count} more segments of {size} MiB fit on the disk of pg_wal while no target answers"
    yield Finding("pg_wal", Level.OK if count >= 64 else Level.WARN, text)


def _settings(session: Session, facts: ServerFacts, order: CheckOrder) -> Iterator[Finding]:
    """Each setting that archiving needs, with the statement that sets it and what that costs."""
    names = ("wal_level", "archive_mode", "archive_command", "archive_timeout", "full_page_writes", "fsync")
    rows = session.rows("select name, setting from pg_settings where name = any(%s)", list(names))
    values: dict[str, str] = dict(rows)
    command = f"{order.program} push --config {order.config} %p"
    rules: list[tuple[str, bool, str, str]] = [
        ("wal_level", values["wal_level"] != "minimal", "replica", _RESTART),
        ("archive_mode", facts.in_recovery or values["archive_mode"] != "off", "on", _RESTART),
        ("archive_command", facts.in_recovery or "drkit" in values["archive_command"], command, _RELOAD),
        ("full_page_writes", values["full_page_writes"] == "on", "on", _RELOAD),
        ("fsync", values["fsync"] == "on", "on", _RELOAD),
    ]
    wrong = [(name, value, cost) for name, good, value, cost in rules if not good]
    for name, value, cost in wrong:
        text = f"{name} is {values.get(name) or 'not set'}"
        yield Finding("setting", Level.FAIL, text, f"alter system set {name} = '{value}'", cost)
    if facts.archive_library:
        text = f"archive_library is {facts.archive_library}: archive_command is not used"
        yield Finding("setting", Level.FAIL, text, "alter system set archive_library = ''", _RELOAD)
    if not wrong and not facts.archive_library:
        yield Finding("settings", Level.OK, "wal_level, archive_mode, archive_command, full_page_writes, fsync")
    yield from _rpo(int(values["archive_timeout"]), order.rpo_s)


def _rpo(timeout_s: int, rpo_s: float | None) -> Iterator[Finding]:
    if rpo_s is None:
        return
    if timeout_s and timeout_s <= rpo_s:
        yield Finding("rpo", Level.OK, f"archive_timeout is {timeout_s} s, the objective {rpo_s:.0f} s")
        return
    text = f"archive_timeout is {timeout_s or 'off'}: a quiet server's newest commits stay unarchived without bound"
    yield Finding("rpo", Level.FAIL, text, f"alter system set archive_timeout = '{int(rpo_s)}s'", _RELOAD)


def _database_bytes(session: Session) -> int:
    """The size of all databases, 0 where the role may not ask for it."""
    try:
        return int(session.rows("select coalesce(sum(pg_database_size(oid)), 0)::int8 from pg_database")[0][0])
    except DrkitError:
        return 0


def check_space(targets: Sequence[Target], segment_bytes: int, database_bytes: int) -> Iterator[Finding]:
    """The room on each target that knows it: less than a WAL segment fails, less than a tenth of the databases or
    1 GiB is a warning.
    """
    for target in targets:
        ask = target.backend.traits.free_bytes
        if ask is None:
            continue
        about, cure = f"space on {target.name}", "make room, or give the target a larger disk, before it is full"
        try:
            free = ask()
        except StorageError as error:
            yield Finding(about, Level.FAIL, str(error), error.cure)
            continue
        text = f"{format_size(free)} are free"
        if free < segment_bytes:
            text += f": a WAL segment of {format_size(segment_bytes)} may not fit, archiving stops there"
            yield Finding(about, Level.FAIL, text, cure)
        elif free < max(database_bytes // 10, _SPACE_BYTES):
            wanted = format_size(max(database_bytes // 10, _SPACE_BYTES))
            yield Finding(about, Level.WARN, f"{text}, less than {wanted}: WAL and backups soon fill that", cure)
        else:
            yield Finding(about, Level.OK, text)


def _places(folders: Sequence[Path], targets: Sequence[Target]) -> Iterator[Finding]:
    between = overlaps(targets)
    for one in overlaps(targets, folders):
        if one not in between:
            yield Finding(f"target {one.target}", Level.FAIL, one.text, OWN_PLACE)


def _devices(own: Collection[str], targets: Sequence[Target]) -> Iterator[Finding]:
    """What dies together, in the words of `policies.copies`."""
    cure = "put it on a disk or a machine of its own"
    together: dict[str, list[str]] = {}
    for target in targets:
        device = target.backend.traits.device
        together.setdefault(device, []).append(target.name)
        if device in own:
            text = f"{target.name} is on a device of the primary: it dies with it, and is no medium of its own"
            yield Finding(f"target {target.name}", Level.WARN, text, cure)
    for names in together.values():
        if len(names) > 1:
            text = f"{', '.join(names)} are on one device: one medium"
            yield Finding(f"target {names[-1]}", Level.WARN, text, cure)


def _round_trip(session: Session, facts: ServerFacts, means: Means, targets: Sequence[Target]) -> Finding:
    """Force a segment out and wait until all `targets` have it: the archiver's own environment is what is tried."""
    about = "archiving"
    try:
        session.rows("select pg_logical_emit_message(false, 'drkit', 'check')")
        end = session.switch_wal()
    except DrkitError as error:
        return Finding(about, Level.FAIL, str(error), error.cure)
    file = name_before(facts.timeline, end, facts.wal_segment_size).text
    archived = ClusterLayout(facts.system_identifier).archived(file)
    began = means.clock.monotonic()
    while means.clock.monotonic() - began < _ROUND_TRIP_S:
        has = [t.name for t in targets if _holds(t, archived)]
        if len(has) == len(targets):
            took = means.clock.monotonic() - began
            where = "every target" if len(targets) == len(means.repository.targets) else ", ".join(has)
            return Finding(about, Level.OK, f"segment {file} was on {where} after {took:.1f} s")
        means.token.wait(0.2)
        means.token.check()
    text = f"segment {file} is on {', '.join(has) or 'no target'} after {_ROUND_TRIP_S:.0f} s; {session.archiver()}"
    return Finding(about, Level.WARN if has else Level.FAIL, text, "the server's log shows what archive_command said")


def _holds(target: Target, name: str) -> bool:
    try:
        target.backend.stat(key(name))
    except (NotFound, StorageError):
        return False
    return True
