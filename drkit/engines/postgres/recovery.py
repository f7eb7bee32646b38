"""Recovery settings: what goes into postgresql.auto.conf, and which signal file.

Facts: the documentation's chapters 'Archive Recovery' and 'Recovery Target'; check_recovery_target_* in
`src/backend/access/transam/xlogrecovery.c` (at most one target); `src/backend/utils/misc/guc-file.l` (name, then '=' or
space, value; quotes are doubled or escaped by a backslash; the last line of a name wins; auto.conf is read after
postgresql.conf). Since 12 a recovery.conf is fatal and recovery is asked for by recovery.signal or standby.signal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import PurePath

from drkit.core.errors import UsageError
from drkit.engines.postgres.control import ControlFile
from drkit.engines.postgres.lsn import Lsn

AUTO_CONF = "postgresql.auto.conf"
RECOVERY_SIGNAL = "recovery.signal"
STANDBY_SIGNAL = "standby.signal"
_SETTING = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_$.]*)\s*(?:=|\s)", re.ASCII)
_OWNED = re.compile(
    r"recovery_target(_.*)?|restore_command|archive_cleanup_command|recovery_end_command|promote_trigger_file",
    re.IGNORECASE,
)


class TargetKind(Enum):
    LATEST = "latest"
    END = "end"
    TIME = "time"
    LSN = "lsn"
    XID = "xid"
    NAME = "name"


class TargetAction(Enum):
    """What the server does at the target. SHUTDOWN leaves the signal file in place."""

    PROMOTE = "promote"
    PAUSE = "pause"
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True)
class RecoveryTarget:
    """Where recovery stops.

    LATEST is the end of all WAL on the path, END the end of the backup (no value for both). TIME takes an aware
    datetime, LSN an Lsn, XID a transaction id (the low 32 bits count), NAME a restore point's name (at most 63 bytes).
    `inclusive`: whether what carries the target is replayed too (not for END and NAME). `timeline` None is right for
    END only: elsewhere resolve it first, since 'latest' may follow another restore's branch.
    Raises UsageError when kind and value do not fit.
    """

    kind: TargetKind
    value: datetime | Lsn | int | str | None = None
    inclusive: bool = True
    timeline: int | None = None
    action: TargetAction = TargetAction.PROMOTE

    def __post_init__(self) -> None:
        wanted: dict[TargetKind, type | None] = {
            TargetKind.TIME: datetime,
            TargetKind.LSN: Lsn,
            TargetKind.XID: int,
            TargetKind.NAME: str,
        }
        kind = wanted.get(self.kind)
        if (kind is None and self.value is not None) or (kind is not None and not isinstance(self.value, kind)):
            raise UsageError(f"a target of kind {self.kind.value} cannot be {self.value!r}")
        if isinstance(self.value, datetime) and self.value.tzinfo is None:
            raise UsageError("a target time needs a zone", why=f"{self.value} has none", cure="add an offset, or Z")
        if isinstance(self.value, str) and not 1 <= len(self.value.encode()) <= 63:
            raise UsageError("a restore point's name has 1 to 63 bytes", why=repr(self.value))
        if self.kind is TargetKind.XID and isinstance(self.value, int) and self.value < 3:
            raise UsageError("a transaction id is 3 or more", why=str(self.value))


def recovery_settings(target: RecoveryTarget, restore_command: str) -> dict[str, str]:
    """The settings for a target, unquoted. `restore_command` is taken as it is (%f, %p)."""
    settings = {"restore_command": restore_command}
    match target.kind:
        case TargetKind.END:
            settings["recovery_target"] = "immediate"
        case TargetKind.TIME:
            assert isinstance(target.value, datetime)
            settings["recovery_target_time"] = target.value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f+00")
        case TargetKind.LSN | TargetKind.XID | TargetKind.NAME:
            settings[f"recovery_target_{target.kind.value}"] = str(target.value)
        case TargetKind.LATEST:
            pass
    if target.kind in (TargetKind.TIME, TargetKind.LSN, TargetKind.XID):
        settings["recovery_target_inclusive"] = "on" if target.inclusive else "off"
    if target.timeline is not None:
        settings["recovery_target_timeline"] = str(target.timeline)
    else:
        settings["recovery_target_timeline"] = "current" if target.kind is TargetKind.END else "latest"
    if target.kind is not TargetKind.LATEST:
        settings["recovery_target_action"] = target.action.value
    return settings


def standby_settings(restore_command: str, timeline: int | None = None) -> dict[str, str]:
    """The settings of a standby that follows WAL without end (goes with STANDBY_SIGNAL)."""
    chosen = "latest" if timeline is None else str(timeline)
    return {"restore_command": restore_command, "recovery_target_timeline": chosen}


def required_minimums(control: ControlFile) -> dict[str, str]:
    """The settings that a copy must not set lower than the source had (CheckRequiredParameterValues, xlog.c)."""
    return {
        "max_connections": str(control.max_connections),
        "max_worker_processes": str(control.max_worker_processes),
        "max_wal_senders": str(control.max_wal_senders),
        "max_prepared_transactions": str(control.max_prepared_transactions),
        "max_locks_per_transaction": str(control.max_locks_per_transaction),
    }


def fence_settings(
    major: int,
    port: int,
    socket_folder: PurePath,
    *,
    shared_buffers_mib: int = 128,
    preload_libraries: Iterable[str] = (),
) -> dict[str, str]:
    """Settings that keep a staging copy from acting on the world: they go behind all others.

    Nothing is archived, streamed from, subscribed to or scheduled; it listens on loopback and its own socket folder;
    no path or memory size of the source server counts. `preload_libraries` is the allow-list already applied.
    Foreign servers and functions that open connections are *not* fenced by settings: that takes a network namespace.
    """
    settings = {
        "archive_mode": "off",
        "archive_command": "",
        "primary_conninfo": "",
        "primary_slot_name": "",
        "synchronous_standby_names": "",
        "max_logical_replication_workers": "0",
        "shared_preload_libraries": ", ".join(preload_libraries),
        "session_preload_libraries": "",
        "local_preload_libraries": "",
        "cron.launch_active_jobs": "off",
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": str(socket_folder),
        "unix_socket_group": "",
        "bonjour": "off",
        "ssl": "off",
        "external_pid_file": "",
        "logging_collector": "off",
        "log_destination": "stderr",
        "shared_buffers": f"{shared_buffers_mib}MB",
        "huge_pages": "off",
    }
    if major >= 15:
        settings["archive_library"] = ""
    else:
        settings["stats_temp_directory"] = "pg_stat_tmp"
    if major >= 17:
        settings["synchronized_standby_slots"] = ""
        settings["sync_replication_slots"] = "off"
        settings["summarize_wal"] = "off"
    return settings


def quote(value: str) -> str:
    """A value as the configuration file's grammar wants it. Raises UsageError for a line break or a NUL."""
    if any(char in value for char in "\n\r\0"):
        raise UsageError("a setting's value cannot hold a line break", why=repr(value))
    escaped = value.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"


def render(settings: Mapping[str, str], comment: str = "") -> str:
    """Lines for a configuration file, with an optional comment line before them."""
    lines = [f"# {comment}\n"] if comment else []
    lines += [f"{name} = {quote(value)}\n" for name, value in settings.items()]
    return "".join(lines)


def setting_names(content: str) -> list[str]:
    """The names set in a configuration file's text, lower case, in order, comments and includes left out."""
    found = (_SETTING.match(line + " ") for line in content.splitlines())
    names = (match[1].lower() for match in found if match is not None)
    return [name for name in names if not name.startswith("include")]


def recovery_names(content: str) -> list[str]:
    """Recovery settings in a configuration file: in postgresql.conf they would be in the way of ours."""
    return [name for name in setting_names(content) if _OWNED.fullmatch(name)]


def merge_auto_conf(existing: str, settings: Mapping[str, str], comment: str = "written by drkit restore") -> str:
    """The new postgresql.auto.conf: `existing` without older recovery settings and ours, then `settings`.

    Older lines of the names in `settings` go too, so that ALTER SYSTEM finds one line each.
    """
    ours = {name.lower() for name in settings}
    kept = []
    for line in existing.splitlines(keepends=True):
        match = _SETTING.match(line.rstrip("\n") + " ")
        name = match[1].lower() if match else ""
        if name and (name in ours or _OWNED.fullmatch(name)):
            continue
        if line.strip() == f"# {comment}":
            continue
        kept.append(line if line.endswith("\n") else line + "\n")
    return "".join(kept) + render(settings, comment)
