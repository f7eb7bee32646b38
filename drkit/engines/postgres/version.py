"""What differs between PostgreSQL majors, as a table. An unknown major is refused.

Sources, per major (REL_13_STABLE to REL_18_STABLE):
    wal_magic          XLOG_PAGE_MAGIC in src/include/access/xlog_internal.h
    control_version    PG_CONTROL_VERSION in src/include/catalog/pg_control.h
    catalog_version    CATALOG_VERSION_NO in src/include/catalog/catversion.h, constant within a released major
    start_sql/stop_sql src/include/catalog/pg_proc.dat: pg_start_backup and pg_stop_backup lost their exclusive
                       mode and were renamed in 15
    wal_folders        subfolders of pg_wal that initdb makes (src/bin/initdb/initdb.c): `summaries` since 17
    in_place           src/backend/backup/basebackup.c: base backups follow in-place tablespaces since 16
    manifest_version   src/include/common/parse_manifest.h: version 2 carries the system identifier since 17
    checksums_default  initdb turns data checksums on by default since 18
"""

from __future__ import annotations

from dataclasses import dataclass

from drkit.core.errors import Refused

# convert_to gives the text's bytes in the database's own encoding: exactly what the server would write to a file
_STOP = "select lsn::text, convert_to(labelfile, getdatabaseencoding()), convert_to(spcmapfile, getdatabaseencoding())"
_START_OLD = "select pg_start_backup(%s, %s, false)::text"
_STOP_OLD = _STOP + " from pg_stop_backup(false, %s)"
_START_NEW = "select pg_backup_start(%s, %s)::text"
_STOP_NEW = _STOP + " from pg_backup_stop(%s)"


class UnknownVersion(Refused):
    """A server, file or WAL of a major that the tables do not know."""


@dataclass(frozen=True, slots=True)
class MajorFacts:
    """Everything that the engine looks up by major. SQL takes psycopg's %s parameters."""

    major: int
    wal_magic: int
    control_version: int
    catalog_version: int
    start_sql: str
    stop_sql: str
    start_function: str
    stop_function: str
    wal_folders: tuple[str, ...]
    in_place_tablespaces: bool
    manifest_version: int
    checksums_by_default: bool
    pauses_on_low_settings: bool

    @property
    def tablespace_folder(self) -> str:
        """The folder of a released server inside a tablespace (TABLESPACE_VERSION_DIRECTORY)."""
        return f"PG_{self.major}_{self.catalog_version}"


def _facts(major: int, magic: int, control: int, catalog: int) -> MajorFacts:
    new = major >= 15
    return MajorFacts(
        major=major,
        wal_magic=magic,
        control_version=control,
        catalog_version=catalog,
        start_sql=_START_NEW if new else _START_OLD,
        stop_sql=_STOP_NEW if new else _STOP_OLD,
        start_function="pg_backup_start(text, boolean)" if new else "pg_start_backup(text, boolean, boolean)",
        stop_function="pg_backup_stop(boolean)" if new else "pg_stop_backup(boolean, boolean)",
        wal_folders=("archive_status", "summaries") if major >= 17 else ("archive_status",),
        in_place_tablespaces=major >= 16,
        manifest_version=2 if major >= 17 else 1,
        checksums_by_default=major >= 18,
        pauses_on_low_settings=major >= 14,
    )


MAJORS: dict[int, MajorFacts] = {
    facts.major: facts
    for facts in (
        _facts(13, 0xD106, 1300, 202007201),
        _facts(14, 0xD10D, 1300, 202107181),
        _facts(15, 0xD110, 1300, 202209061),
        _facts(16, 0xD113, 1300, 202307071),
        _facts(17, 0xD116, 1700, 202406281),
        _facts(18, 0xD118, 1800, 202506291),
    )
}
CONTROL_VERSIONS: frozenset[int] = frozenset(facts.control_version for facts in MAJORS.values())
_BY_MAGIC = {facts.wal_magic: facts for facts in MAJORS.values()}
_BY_CATALOG = {facts.catalog_version: facts for facts in MAJORS.values()}
_CURE = f"PostgreSQL {min(MAJORS)} to {max(MAJORS)} are supported: is there a newer drkit?"


def facts_of(major: int) -> MajorFacts:
    """The facts of a major. Raises UnknownVersion."""
    try:
        return MAJORS[major]
    except KeyError:
        raise UnknownVersion(f"PostgreSQL {major} is not supported", cure=_CURE) from None


def facts_of_server(server_version_num: int) -> MajorFacts:
    """From `server_version_num` (150004 is 15.4). Raises UnknownVersion."""
    return facts_of(server_version_num // 10000)


def facts_of_wal(magic: int) -> MajorFacts:
    """From the magic number of a WAL page. Raises UnknownVersion."""
    try:
        return _BY_MAGIC[magic]
    except KeyError:
        raise UnknownVersion(f"WAL page magic {magic:04X} is not known", cure=_CURE) from None


def facts_of_catalog(catalog_version: int) -> MajorFacts:
    """From the catalog version in pg_control. Raises UnknownVersion (also for betas)."""
    try:
        return _BY_CATALOG[catalog_version]
    except KeyError:
        raise UnknownVersion(f"catalog version {catalog_version} is not known", cure=_CURE) from None


def is_wal_magic(magic: int) -> bool:
    """Whether a WAL page of a supported major starts with this number."""
    return magic in _BY_MAGIC
