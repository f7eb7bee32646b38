"""Which paths of a data folder belong to a base backup, and what they are.

Sources: `src/backend/backup/basebackup.c` (13, 14: src/backend/replication/basebackup.c): excludeDirContents,
excludeFiles, noChecksumFiles, sendDir; `src/common/relpath.c` and `src/backend/storage/file/reinit.c` (names of
relation files); `src/backend/storage/file/fd.c` (looks_like_temp_rel_name).

    relation file     <number>[_fsm|_vm|_init][.<segment>]           all forks and segments carry page checksums
    temporary         t<backend>_<number>[_fsm|_vm][.<segment>]      left out, in database folders only
    unlogged          a relation with an _init fork: only that fork is kept, recovery makes the others from it
    tablespace        pg_tblspc/<oid> -> location, or a folder (in-place); inside it only PG_<major>_<catalog>
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

EXCLUDED_CONTENTS = frozenset(
    {
        "pg_dynshmem",
        "pg_notify",
        "pg_replslot",
        "pg_serial",
        "pg_snapshots",
        "pg_stat_tmp",
        "pg_subtrans",
    }
)
"""Folders of the data folder's root that are made empty: their content is rebuilt at start, or must not be copied."""

EXCLUDED_NAMES = frozenset(
    {
        "backup_label",
        "backup_manifest",
        "current_logfiles.tmp",
        "postgresql.auto.conf.tmp",
        "postmaster.opts",
        "postmaster.pid",
        "tablespace_map",
    }
)
"""Left out in every folder, as the server does."""

EXCLUDED_ROOT_NAMES = frozenset(
    {
        "backup_label.old",
        "drkit.pg_control",
        "drkit.recovery-events",
        "drkit.recovery.json",
        "recovery.signal",
        "standby.signal",
        "tablespace_map.old",
    }
)
"""Left out in the root: a copy must not inherit another recovery's orders, nor what it met."""

EXCLUDED_PREFIXES = ("pgsql_tmp", "pg_internal.init")
"""Left out in every folder: sort files, and the relation cache that every database rebuilds."""

WAL_FOLDER = "pg_wal"
TABLESPACE_FOLDER = "pg_tblspc"

_RELATION = re.compile(r"([1-9][0-9]{0,9})(?:_(fsm|vm|init))?(?:\.([1-9][0-9]{0,9}))?", re.ASCII)
_TEMPORARY = re.compile(r"t[0-9]+_[0-9]+(?:_(?:fsm|vm|init))?(?:\.[0-9]+)?", re.ASCII)
_TABLESPACE_CONTENT = re.compile(r"pg_tblspc/[0-9]+/PG_[0-9]+_[0-9]+/([0-9]+)", re.ASCII)
_DATABASE = re.compile(r"base/[0-9]+", re.ASCII)
_MAX_OID = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class RelationFile:
    """`fork` is main, fsm, vm or init; `segment` counts files of the relation from 0."""

    number: int
    fork: str
    segment: int

    def first_block(self, relation_segment_blocks: int) -> int:
        """The relation-wide number of this file's first block: the salt of its page checksums."""
        return self.segment * relation_segment_blocks


def relation_file(name: str) -> RelationFile | None:
    """Parse a file name without folder; None when it is no (permanent) relation file."""
    match = _RELATION.fullmatch(name)
    if match is None:
        return None
    number, segment = int(match[1]), int(match[3] or "0")
    if number > _MAX_OID or segment > _MAX_OID:
        return None
    return RelationFile(number, match[2] or "main", segment)


def is_temporary_relation(name: str) -> bool:
    return _TEMPORARY.fullmatch(name) is not None


def is_database_folder(path: str) -> bool:
    """Whether a relative folder holds a database's relations: the only place for temporary and unlogged ones."""
    return _DATABASE.fullmatch(path) is not None or _TABLESPACE_CONTENT.fullmatch(path) is not None


def has_page_checksums(path: str) -> bool:
    """Whether a file at this relative path consists of checksummed pages (when the cluster has checksums on)."""
    folder, _, name = path.rpartition("/")
    return (folder == "global" or is_database_folder(folder)) and relation_file(name) is not None


def init_forks(names: Collection[str]) -> frozenset[int]:
    """Numbers of the unlogged relations among the names of one folder."""
    if not any(name.endswith("_init") for name in names):
        return frozenset()
    parsed = (relation_file(name) for name in names)
    return frozenset(file.number for file in parsed if file is not None and file.fork == "init")


def exclusion(folder: str, name: str, unlogged: frozenset[int]) -> str | None:
    """Why a file is left out, or None when it belongs to the backup.

    `folder` is relative to the data folder ('' for its root), '/' separated; `unlogged` is `init_forks` of it.
    """
    if name in EXCLUDED_NAMES or name.startswith(EXCLUDED_PREFIXES):
        return "rebuilt by the server"
    if folder == "" and name in EXCLUDED_ROOT_NAMES:
        return "belongs to another recovery"
    if not is_database_folder(folder):
        return None
    if is_temporary_relation(name):
        return "temporary relation"
    if unlogged:
        file = relation_file(name)
        if file is not None and file.fork != "init" and file.number in unlogged:
            return "unlogged relation"
    return None
