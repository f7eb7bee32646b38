"""The plainest base backup there can be, for tests: walk, copy, label; and a restore of it that can be started."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from drkit.engines.postgres.control import ControlFile, read_control
from drkit.engines.postgres.recovery import AUTO_CONF, RECOVERY_SIGNAL, merge_auto_conf
from drkit.engines.postgres.session import BackupSession, BackupStart, BackupStop
from drkit.engines.postgres.walk import EntryKind, walk
from tests.real.postgres import Server, give_tree


@dataclass(frozen=True, slots=True)
class Copy:
    """A copied data folder with backup_label in it, not yet ready to recover."""

    data: Path
    start: BackupStart
    stop: BackupStop
    control: ControlFile


def copy_of(server: Server, name: str = "copy") -> Copy:
    """A base backup of a running server into a folder beside its data; tablespaces are copied in place."""
    target = server.root / name
    target.mkdir(mode=0o700)
    with BackupSession.open(server.conninfo()) as backup:
        start = backup.start("test")
        _, control = read_control(server.data, time.sleep)
        for entry in walk(server.data, server.major, control.tablespace_folder):
            path = target / entry.path
            if entry.kind is EntryKind.FILE:
                shutil.copyfile(entry.source, path)
                path.chmod(entry.mode)
                os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns))
            elif entry.kind in (EntryKind.FOLDER, EntryKind.TABLESPACE):
                path.mkdir(mode=entry.mode)
        raw, control = read_control(server.data, time.sleep)
        (target / "global/pg_control").write_bytes(raw)
        stop = backup.stop()
    (target / "backup_label").write_bytes(stop.label)
    give_tree(target)
    return Copy(target, start, stop, control)


def prepare(copy: Copy, settings: dict[str, str]) -> None:
    """Write the recovery settings and the signal file into a copy."""
    conf = copy.data / AUTO_CONF
    conf.write_text(merge_auto_conf(conf.read_text(), settings))
    (copy.data / RECOVERY_SIGNAL).touch()
    give_tree(copy.data)
