"""The control file, global/pg_control, as read from disk (never through the server).

Layout: struct ControlFileData and the struct CheckPoint inside it, `src/include/catalog/pg_control.h`. The fields
are listed in the server's order and placed by C's natural alignment on 64-bit little-endian machines, as the
compiler does it; the CRC-32C is the last field and covers everything before it. The file is 8192 bytes, the rest
zeros. Differences: format 1700 (17) added `wal_level` to CheckPoint, 1800 (18) added `default_char_signedness`.
Some offsets, in bytes, for orientation: system_identifier 0, control_version 8, catalog_version 12, state 16,
checkpoint 32, redo 40 in all formats; the CRC is at 288 in 1300 and 1700, at 292 in 1800.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import google_crc32c

from drkit.core.errors import Damage, Missing, Refused, Unreachable
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.version import CONTROL_VERSIONS, MajorFacts, UnknownVersion, facts_of_catalog

CONTROL_PATH = "global/pg_control"
CONTROL_FILE_BYTES = 8192
_FLOAT_FORMAT = 1234567.0

_CHECKPOINT_HEAD = (("redo", "Q"), ("timeline", "I"), ("previous_timeline", "I"), ("full_page_writes", "?"))
_CHECKPOINT_WAL_LEVEL = (("checkpoint_wal_level", "i"),)
_CHECKPOINT_TAIL = (
    ("next_xid", "Q"), ("next_oid", "I"), ("next_multi", "I"), ("next_multi_offset", "I"),
    ("oldest_xid", "I"), ("oldest_xid_database", "I"), ("oldest_multi", "I"), ("oldest_multi_database", "I"),
    ("checkpoint_time", "q"), ("oldest_commit_ts_xid", "I"), ("newest_commit_ts_xid", "I"),
    ("oldest_active_xid", "I"),
)  # fmt: skip
_HEAD = (
    ("system_identifier", "Q"), ("control_version", "I"), ("catalog_version", "I"),
    ("state", "i"), ("time", "q"), ("checkpoint", "Q"),
)  # fmt: skip
_BODY = (
    ("unlogged_lsn", "Q"), ("min_recovery_point", "Q"), ("min_recovery_timeline", "I"),
    ("backup_start_point", "Q"), ("backup_end_point", "Q"), ("backup_end_required", "?"),
    ("wal_level", "i"), ("wal_log_hints", "?"), ("max_connections", "i"), ("max_worker_processes", "i"),
    ("max_wal_senders", "i"), ("max_prepared_transactions", "i"), ("max_locks_per_transaction", "i"),
    ("track_commit_timestamp", "?"), ("max_align", "I"), ("float_format", "d"), ("block_size", "I"),
    ("relation_segment_blocks", "I"), ("wal_block_size", "I"), ("wal_segment_size", "I"), ("name_data_len", "I"),
    ("index_max_keys", "I"), ("toast_max_chunk_size", "I"), ("large_object_block_size", "I"),
    ("float8_by_value", "?"), ("data_checksum_version", "I"),
)  # fmt: skip
_CHAR_SIGNEDNESS = (("default_char_signedness", "?"),)
_END = (("mock_nonce", "32s"), ("crc", "I"))

_FIELDS: dict[int, tuple[tuple[str, str], ...]] = {
    1300: _HEAD + _CHECKPOINT_HEAD + _CHECKPOINT_TAIL + _BODY + _END,
    1700: _HEAD + _CHECKPOINT_HEAD + _CHECKPOINT_WAL_LEVEL + _CHECKPOINT_TAIL + _BODY + _END,
    1800: _HEAD + _CHECKPOINT_HEAD + _CHECKPOINT_WAL_LEVEL + _CHECKPOINT_TAIL + _BODY + _CHAR_SIGNEDNESS + _END,
}


class ControlDamaged(Damage):
    """The control file's checksum or content is wrong: torn while read, or damaged on disk."""


class ClusterState(IntEnum):
    """DBState: how the cluster was last seen. Only the two SHUT_DOWN states are consistent without WAL replay."""

    STARTING_UP = 0
    SHUT_DOWN = 1
    SHUT_DOWN_IN_RECOVERY = 2
    SHUTTING_DOWN = 3
    IN_CRASH_RECOVERY = 4
    IN_ARCHIVE_RECOVERY = 5
    IN_PRODUCTION = 6


WAL_LEVELS = ("minimal", "replica", "logical")


@dataclass(frozen=True, slots=True)
class ControlFile:
    """What the engine needs of pg_control. Sizes in bytes, times in seconds since 1970 UTC.

    `relation_segment_blocks` is the number of blocks in one file of a relation (131072 for 1 GiB of 8 KiB blocks).
    `data_checksum_version` is 0 (off) or 1 (on).
    """

    system_identifier: int
    control_version: int
    catalog_version: int
    state: ClusterState
    time: int
    checkpoint: Lsn
    redo: Lsn
    timeline: int
    previous_timeline: int
    next_xid: int
    checkpoint_time: int
    min_recovery_point: Lsn
    min_recovery_timeline: int
    backup_start_point: Lsn
    backup_end_point: Lsn
    backup_end_required: bool
    wal_level: str
    wal_log_hints: bool
    max_connections: int
    max_worker_processes: int
    max_wal_senders: int
    max_prepared_transactions: int
    max_locks_per_transaction: int
    track_commit_timestamp: bool
    block_size: int
    relation_segment_blocks: int
    wal_block_size: int
    wal_segment_size: int
    data_checksum_version: int

    @property
    def facts(self) -> MajorFacts:
        """The facts of the major that this catalog version means. Raises UnknownVersion (betas too)."""
        return facts_of_catalog(self.catalog_version)

    @property
    def has_checksums(self) -> bool:
        return self.data_checksum_version != 0

    @property
    def tablespace_folder(self) -> str:
        """The name of this cluster's folder inside a tablespace."""
        return f"PG_{self.facts.major}_{self.catalog_version}"


def _place(fields: tuple[tuple[str, str], ...]) -> dict[str, tuple[int, struct.Struct]]:
    """Offsets by natural alignment: each member at a multiple of its size (char arrays at any offset)."""
    placed: dict[str, tuple[int, struct.Struct]] = {}
    offset = 0
    for name, code in fields:
        if name == "unlogged_lsn":  # ends the nested CheckPoint, whose size is a multiple of 8
            offset = -(-offset // 8) * 8
        member = struct.Struct("<" + code)
        align = 1 if code.endswith("s") else member.size
        offset = -(-offset // align) * align
        placed[name] = (offset, member)
        offset += member.size
    return placed


_LAYOUTS = {version: _place(fields) for version, fields in _FIELDS.items()}


def crc_offset(control_version: int) -> int:
    """Byte offset of the CRC, which covers all bytes before it."""
    return _LAYOUTS[control_version]["crc"][0]


def parse_control(data: bytes, where: str = CONTROL_PATH) -> ControlFile:
    """Parse and check the content of pg_control.

    Raises UnknownVersion, or ControlDamaged when it is too short, its CRC-32C does not match, or it was written by
    a machine of another floating-point format or byte order.
    """
    if len(data) < 512:
        raise ControlDamaged("the control file is too short", where=where, why=f"{len(data)} bytes")
    (version,) = struct.unpack_from("<I", data, 8)
    if version not in CONTROL_VERSIONS:
        why = f"control format {version}"
        if version % 65536 == 0 and version // 65536 < 65536 and version:
            why += " (written by a machine of the other byte order?)"
        raise UnknownVersion("the control file's format is not known", where=where, why=why)
    layout = _LAYOUTS[version]
    values = {name: member.unpack_from(data, offset)[0] for name, (offset, member) in layout.items()}
    if google_crc32c.value(data[: layout["crc"][0]]) != values["crc"]:
        raise ControlDamaged(
            "the control file's checksum does not match",
            where=where,
            why="read while being written, or damaged",
            cure="pg_controldata DATADIR",
        )
    if values["float_format"] != _FLOAT_FORMAT:
        raise Refused("the control file is from a machine of another kind", where=where, why="float format")
    return _build(values)


def _build(values: dict[str, int]) -> ControlFile:
    level = values["wal_level"]
    return ControlFile(
        system_identifier=values["system_identifier"],
        control_version=values["control_version"],
        catalog_version=values["catalog_version"],
        state=ClusterState(values["state"]),
        time=values["time"],
        checkpoint=Lsn(values["checkpoint"]),
        redo=Lsn(values["redo"]),
        timeline=values["timeline"],
        previous_timeline=values["previous_timeline"],
        next_xid=values["next_xid"],
        checkpoint_time=values["checkpoint_time"],
        min_recovery_point=Lsn(values["min_recovery_point"]),
        min_recovery_timeline=values["min_recovery_timeline"],
        backup_start_point=Lsn(values["backup_start_point"]),
        backup_end_point=Lsn(values["backup_end_point"]),
        backup_end_required=bool(values["backup_end_required"]),
        wal_level=WAL_LEVELS[level] if 0 <= level < len(WAL_LEVELS) else str(level),
        wal_log_hints=bool(values["wal_log_hints"]),
        max_connections=values["max_connections"],
        max_worker_processes=values["max_worker_processes"],
        max_wal_senders=values["max_wal_senders"],
        max_prepared_transactions=values["max_prepared_transactions"],
        max_locks_per_transaction=values["max_locks_per_transaction"],
        track_commit_timestamp=bool(values["track_commit_timestamp"]),
        block_size=values["block_size"],
        relation_segment_blocks=values["relation_segment_blocks"],
        wal_block_size=values["wal_block_size"],
        wal_segment_size=values["wal_segment_size"],
        data_checksum_version=values["data_checksum_version"],
    )


def read_control(
    data_dir: Path, sleep: Callable[[float], None], attempts: int = 10, wait_s: float = 0.05
) -> tuple[bytes, ControlFile]:
    """Read global/pg_control of a data folder, running or not: (its exact bytes, parsed).

    The server rewrites the file in place, so a read may be torn: a bad CRC is read again, `attempts` times with
    `wait_s` between. Raises ControlDamaged when it stays bad, Missing or Unreachable when it cannot be read.
    """
    path = data_dir / CONTROL_PATH
    for attempt in range(attempts):
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            why = "there is no such file"
            raise Missing("no PostgreSQL data folder", where=str(path), why=why, cure="is data_dir right?") from error
        except OSError as error:
            raise Unreachable("cannot read the control file", where=str(path), why=str(error)) from error
        try:
            return data, parse_control(data, str(path))
        except ControlDamaged:
            if attempt + 1 == attempts:
                raise
            sleep(wait_s)
    raise ControlDamaged("the control file was never read", where=str(path))
