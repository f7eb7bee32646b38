"""The recovery file: what the restore wrote is what `wal get` reads, and nothing half-written is believed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from drkit.core.errors import Damage
from drkit.engines.postgres.lsn import Lsn
from drkit.jobs.recovery_file import RECOVERY_FILE, RecoveryFile, read_recovery_file, write_recovery_file

RECOVERY = RecoveryFile(
    config="/etc/drkit/drkit.toml",
    cluster="orders",
    system_identifier=2**63 + 5,
    segment_bytes=1 << 20,
    path=((1, "0/5000A0"), (3, None)),
    horizon="000000030000000000000009",
    histories=("00000003.history",),
    targets=("a", "b"),
    without=("c",),
)


def test_it_comes_back_as_written(tmp_path: Path) -> None:
    assert read_recovery_file(tmp_path) is None
    for one in (RECOVERY, replace(RECOVERY, config=None, standby=True, horizon="", path=((1, None),))):
        write_recovery_file(tmp_path, one)
        assert read_recovery_file(tmp_path) == one
    assert (tmp_path / RECOVERY_FILE).stat().st_mode & 0o077 == 0


def test_the_path_is_the_engines_timeline() -> None:
    assert RECOVERY.timeline.path == (1, 3)
    assert RECOVERY.timeline.begin_of(3) == Lsn(0x5000A0)
    assert RECOVERY.horizon_number == 9
    assert replace(RECOVERY, horizon="").horizon_number == -1


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "drkit.recovery/2"},
        {"path": []},
        {"path": [[1, "0/0"]]},
        {"path": [[1, None], [2, None]]},
        {"path": [["one", None]]},
        {"path": [[1, "nowhere"], [2, None]]},
        {"segment_bytes": 1000},
        {"standby": "no"},
        {"horizon": "rubbish"},
        {"targets": "a"},
        {"system_identifier": "x"},
    ],
)
def test_a_wrong_one_is_damage_never_none(tmp_path: Path, change: dict[str, object]) -> None:
    write_recovery_file(tmp_path, RECOVERY)
    path = tmp_path / RECOVERY_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(Damage, match="recovery file"):
        read_recovery_file(tmp_path)


def test_a_cut_one_is_damage_at_every_length(tmp_path: Path) -> None:
    write_recovery_file(tmp_path, RECOVERY)
    path = tmp_path / RECOVERY_FILE
    whole = path.read_bytes().rstrip()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(Damage):
            read_recovery_file(tmp_path)
