"""drkit.recovery.json: what a restore leaves in the data folder for every `wal get` of the recovery that follows."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from drkit.core.errors import Damage, DrkitError
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.timeline import Ancestor, Timeline
from drkit.engines.postgres.wal import is_segment_size, parse_name
from storage_backends import durable

RECOVERY_FILE = "drkit.recovery.json"
SCHEMA = "drkit.recovery/1"


@dataclass(frozen=True, slots=True)
class RecoveryFile:
    """The plan that recovery follows.

    config:   absolute path of the configuration, or None: the usual places
    path:     (timeline, switch LSN) oldest first; the last one has None
    horizon:  the last segment on the path that any witness proves; "" where none is proven
    histories: names of history files that exist
    targets:  names, in the order they are asked · without: names given up for this recovery
    standby:  recovery does not end: what is past the horizon is looked up, and doubt may be answered as absent
    """

    config: str | None
    cluster: str
    system_identifier: int
    segment_bytes: int
    path: tuple[tuple[int, str | None], ...]
    horizon: str
    histories: tuple[str, ...]
    targets: tuple[str, ...]
    without: tuple[str, ...] = ()
    standby: bool = False

    @property
    def timeline(self) -> Timeline:
        """The path as the engine knows it."""
        ancestors = tuple(Ancestor(one, Lsn.parse(switch)) for one, switch in self.path[:-1] if switch is not None)
        return Timeline(self.path[-1][0], ancestors)

    @property
    def horizon_number(self) -> int:
        """The segment number of the horizon, -1 where none is proven."""
        return parse_name(self.horizon).number(self.segment_bytes) if self.horizon else -1


def write_recovery_file(data_dir: Path, recovery: RecoveryFile) -> None:
    """Durable on return; readable by the owner only, so hand it over with the rest of the data folder."""
    value = {"schema": SCHEMA, **asdict(recovery), "system_identifier": str(recovery.system_identifier)}
    durable.replace(data_dir / RECOVERY_FILE, json.dumps(value, indent=1).encode() + b"\n")


def read_recovery_file(data_dir: Path) -> RecoveryFile | None:
    """None where the folder has none. Raises Damage for one that cannot be read or is not whole."""
    path = data_dir / RECOVERY_FILE
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Damage("the recovery file cannot be read", where=str(path), why=str(error)) from error
    try:
        found = _parse(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError, DrkitError) as error:
        cure = "restore again, or remove it to fetch WAL without a plan"
        raise Damage("the recovery file is damaged", where=str(path), why=str(error), cure=cure) from error
    return found


def _parse(value: dict[str, object]) -> RecoveryFile:
    if value["schema"] != SCHEMA:
        raise ValueError(f"its schema is {value['schema']!r}")
    config, segment_bytes, standby = value["config"], value["segment_bytes"], value["standby"]
    if not isinstance(segment_bytes, int) or not is_segment_size(segment_bytes):
        raise ValueError(f"segment_bytes is {segment_bytes!r}")
    if not isinstance(standby, bool):
        raise ValueError(f"standby is {standby!r}")
    path = tuple(_step(one) for one in _list(value, "path"))
    if not path or path[-1][1] is not None or any(switch is None for _, switch in path[:-1]):
        raise ValueError("every timeline of the path but the last has a switch point")
    found = RecoveryFile(
        config=None if config is None else str(config),
        cluster=str(value["cluster"]),
        system_identifier=int(str(value["system_identifier"])),
        segment_bytes=segment_bytes,
        path=path,
        horizon=str(value["horizon"]),
        histories=tuple(str(one) for one in _list(value, "histories")),
        targets=tuple(str(one) for one in _list(value, "targets")),
        without=tuple(str(one) for one in _list(value, "without")),
        standby=standby,
    )
    _ = found.timeline, found.horizon_number  # raises where they are not well-formed
    return found


def _step(value: object) -> tuple[int, str | None]:
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[0], int):
        raise TypeError(f"{value!r} is no step of a path")
    return value[0], None if value[1] is None else str(value[1])


def _list(value: dict[str, object], name: str) -> list[object]:
    items = value[name]
    if not isinstance(items, list):
        raise TypeError(f"{name} is no list")
    return items
