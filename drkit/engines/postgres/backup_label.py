"""Reads backup_label; never writes or changes one.

Format: `src/backend/access/transam/xlogbackup.c` (build_backup_content; 13 and 14: xlog.c) and read_backup_label in
xlogrecovery.c. Lines 'NAME: value'; 17 adds INCREMENTAL FROM LSN and TLI to the label of an incremental backup.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from drkit.core.errors import Damage
from drkit.engines.postgres.lsn import Lsn, LsnError

_START = re.compile(rb"START WAL LOCATION: (\S+) \(file ([0-9A-F]{24})\)")


@dataclass(frozen=True, slots=True)
class BackupLabel:
    """`start` is where replay begins, in segment `start_segment` of `timeline`; `start_time` is the server's text."""

    start: Lsn
    start_segment: str
    checkpoint: Lsn
    method: str
    taken_from: str
    start_time: str
    label: str
    timeline: int
    incremental_from: Lsn | None = None

    @property
    def from_standby(self) -> bool:
        return self.taken_from == "standby"


def parse_backup_label(content: bytes) -> BackupLabel:
    """Parse the exact bytes that the server gave. Raises Damage when a line that recovery needs is missing."""
    fields: dict[str, bytes] = {}
    for line in content.split(b"\n"):
        name, colon, value = line.partition(b": ")
        if colon:
            fields.setdefault(name.decode("ascii", "replace"), value)
    start = _START.match(content)
    try:
        if start is None:
            raise KeyError("START WAL LOCATION")
        incremental = fields.get("INCREMENTAL FROM LSN")
        return BackupLabel(
            start=Lsn.parse(start[1].decode("ascii", "replace")),
            start_segment=start[2].decode("ascii"),
            checkpoint=Lsn.parse(fields["CHECKPOINT LOCATION"].decode("ascii", "replace")),
            method=_text(fields, "BACKUP METHOD"),
            taken_from=_text(fields, "BACKUP FROM"),
            start_time=_text(fields, "START TIME"),
            label=_text(fields, "LABEL"),
            timeline=int(fields["START TIMELINE"]),
            incremental_from=Lsn.parse(incremental.decode("ascii", "replace")) if incremental else None,
        )
    except (KeyError, ValueError, LsnError) as error:
        raise Damage("backup_label is not what a server writes", why=f"{error}") from error


def _text(fields: dict[str, bytes], name: str) -> str:
    return fields.get(name, b"").decode("utf-8", "replace")
