"""backup_label as servers write it."""

from __future__ import annotations

import pytest

from drkit.core.errors import Damage
from drkit.engines.postgres.backup_label import parse_backup_label
from drkit.engines.postgres.lsn import Lsn

LABEL = b"""START WAL LOCATION: 0/2000028 (file 000000030000000000000002)
CHECKPOINT LOCATION: 0/2000060
BACKUP METHOD: streamed
BACKUP FROM: standby
START TIME: 2026-11-21 12:06:32 UTC
LABEL: nightly: full
START TIMELINE: 3
"""


def test_every_line_is_read() -> None:
    label = parse_backup_label(LABEL)
    assert (label.start, label.checkpoint) == (Lsn(0x2000028), Lsn(0x2000060))
    assert (label.start_segment, label.timeline) == ("000000030000000000000002", 3)
    assert (label.method, label.start_time) == ("streamed", "2026-11-21 12:06:32 UTC")
    assert label.label == "nightly: full"
    assert label.from_standby
    assert label.incremental_from is None


def test_an_incremental_backups_parent_is_read() -> None:
    content = LABEL + b"INCREMENTAL FROM LSN: 0/1000028\nINCREMENTAL FROM TLI: 3\n"
    assert parse_backup_label(content).incremental_from == Lsn(0x1000028)


@pytest.mark.parametrize("line", range(2))
def test_a_missing_line_is_damage(line: int) -> None:
    lines = LABEL.splitlines(keepends=True)
    with pytest.raises(Damage):
        parse_backup_label(b"".join(lines[:line] + lines[line + 1 :]))


@pytest.mark.parametrize(
    ("old", "new"), [(b"START TIMELINE: 3\n", b""), (b"0/2000060", b"here"), (b"TIMELINE: 3", b"TIMELINE: x")]
)
def test_a_wrong_line_is_damage(old: bytes, new: bytes) -> None:
    with pytest.raises(Damage):
        parse_backup_label(LABEL.replace(old, new))
