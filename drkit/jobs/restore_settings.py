"""What a restore writes beside the backup's files: recovery settings, restore_command, tablespace_map, manifest."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import google_crc32c

from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.pg_manifest import ManifestFile, WalRange, manifest_lines
from drkit.engines.postgres.recovery import merge_auto_conf, recovery_names, recovery_settings
from drkit.jobs.recovery_file import RecoveryFile
from drkit.jobs.restore_folder import Link
from drkit.jobs.restore_plan import Plan
from drkit.repository.manifest import FILE, Entry, Summary

ABSENT_EXIT = 44


def restore_command(program: Path, config: Path) -> str:
    """The command as PostgreSQL gets it. 1, which ends recovery, comes out of one proof only: exit ABSENT_EXIT."""
    words = [shlex.quote(str(program)), "--config", shlex.quote(str(config)), "get", f"--absent-exit {ABSENT_EXIT}"]
    command = " ".join(words).replace("%", "%%")
    return f"{command} %f %p; r=$?; [ $r = 0 ] && exit 0; [ $r = {ABSENT_EXIT} ] && exit 1; exit 126"


def auto_conf(plan: Plan, existing: str, postgresql_conf: str) -> str:
    """The new postgresql.auto.conf. Recovery settings that postgresql.conf has are blanked: two targets are fatal."""
    settings = recovery_settings(plan.course.target, restore_command(plan.order.wal_program, plan.order.config))
    for name in recovery_names(postgresql_conf):
        if name not in settings and name.startswith("recovery_target") and name not in _DEFAULTED:
            settings[name] = ""
    if not plan.archiving:
        settings["archive_mode"] = "off"
    return merge_auto_conf(existing, settings)


_DEFAULTED = {"recovery_target_inclusive", "recovery_target_action", "recovery_target_timeline"}


def recovery_file(plan: Plan) -> RecoveryFile:
    """What `drkit-wal get` goes by during the recovery."""
    path = plan.course.path
    ends = [(one, path.end_of(one)) for one in path.path]
    return RecoveryFile(
        config=str(plan.order.config),
        cluster=plan.order.cluster,
        system_identifier=plan.layout.system_identifier,
        segment_bytes=plan.manifest.summary.segment_bytes,
        path=tuple((one, None if end is None else str(end)) for one, end in ends),
        horizon=plan.last_wal,
        histories=tuple(plan.histories),
        targets=tuple(plan.course.wal_sources),
        without=tuple(sorted(plan.order.wish.without)),
    )


def tablespace_map(original: bytes, links: Sequence[Link]) -> bytes:
    """The backup's map with the locations of moved tablespaces; byte-exact where none moved.

    A line is `<oid> <location>`; line breaks and backslashes in a location are escaped by a backslash
    (do_pg_backup_start, xlog.c; read_tablespace_map, xlogrecovery.c).
    """
    moved = {link.oid: link.location for link in links if link.location != link.original}
    if not moved:
        return original
    lines = []
    for line in _map_lines(original):
        oid = line.partition(b" ")[0]
        if oid.isdigit() and int(oid) in moved:
            line = oid + b" " + _escaped(os.fsencode(moved[int(oid)]))
        lines.append(line + b"\n")
    return b"".join(lines)


def _map_lines(content: bytes) -> Iterator[bytes]:
    """Lines, a line break behind a backslash not counted as one."""
    line = b""
    for part in content.split(b"\n"):
        line = line + b"\n" + part if line else part
        if len(line) - len(line.rstrip(b"\\")) & 1:
            continue
        if line:
            yield line
        line = b""


def _escaped(location: bytes) -> bytes:
    for char in (b"\\", b"\n", b"\r"):
        location = location.replace(char, b"\\" + char)
    return location


def pg_manifest(summary: Summary, entries: Iterable[Entry], extra: Mapping[str, bytes]) -> Iterator[bytes]:
    """PostgreSQL's backup_manifest of the restored folder. extra: files that the restore wrote, by path."""

    def files() -> Iterator[ManifestFile]:
        for entry in entries:
            if entry.type == FILE and os.fsdecode(entry.path) not in extra:
                yield ManifestFile(os.fsdecode(entry.path), entry.size, entry.mtime / 1e9, entry.crc)
        for path, content in extra.items():
            yield ManifestFile(path, len(content), summary.stopped.timestamp(), google_crc32c.value(content))

    wal = WalRange(summary.timeline, Lsn.parse(summary.start_lsn), Lsn.parse(summary.stop_lsn))
    return manifest_lines(summary.engine_version // 10000, int(summary.system_identifier), files(), [wal])
