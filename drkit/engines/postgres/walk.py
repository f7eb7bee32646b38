"""Walks a data folder and yields what a base backup holds, in path order.

Rules: see `files`. Links are followed in two places only, as `src/backend/backup/basebackup.c` (sendDir) does:
pg_wal itself, and the tablespaces in pg_tblspc. Any other link, socket or device is reported and not followed.

Order: by the bytes of the path, a folder counting as its path with '/' behind it; so a folder comes before its content
and files come in the order of their paths. Names are sorted as `core.scratch` does it: memory does
not grow with a folder.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from drkit.core.errors import Missing, Unreachable
from drkit.core.scratch import in_order
from drkit.engines.postgres.files import (
    EXCLUDED_CONTENTS,
    TABLESPACE_FOLDER,
    WAL_FOLDER,
    exclusion,
    has_page_checksums,
    init_forks,
    relation_file,
)
from drkit.engines.postgres.version import facts_of


class EntryKind(Enum):
    FOLDER = "folder"
    FILE = "file"
    TABLESPACE = "tablespace"
    SPECIAL = "special"


@dataclass(frozen=True, slots=True)
class Entry:
    """One path of the backup; `path` is relative and '/' separated ('' never occurs), `source` is where to read it.

    mode holds permission bits; sizes in bytes, times in ns as stat gave them. For FILE: `segment` is the number of
    the relation's file (0 for others), `has_checksums` whether its pages carry them when the cluster has them on.
    For TABLESPACE: `oid`, and `location`, the link's text, or None for an in-place one; its content follows below
    `path`. For FOLDER: `location` is the link's text when pg_wal is a link. SPECIAL is not part of the backup:
    `location` is its link's text, or None.
    """

    kind: EntryKind
    path: str
    source: str
    mode: int
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    inode: int = 0
    device: int = 0
    segment: int = 0
    has_checksums: bool = False
    oid: int = 0
    location: str | None = None


def walk(data_dir: Path, major: int, tablespace_folder: str, room: Path | None = None) -> Iterator[Entry]:
    """Yield the entries of a backup of `data_dir`; pg_control is among the files, the caller copies it last.

    `tablespace_folder` is PG_<major>_<catalog>, from `ControlFile.tablespace_folder`; `room`: where the names of large
    folders are sorted, as `core.scratch.Scratch` has it. Files and folders that vanish
    while the walk goes on are left out without a word (dropped relations). Raises Missing when there is no such
    data folder, Unreachable when something in it cannot be read, UnknownVersion for an unknown major.
    """
    wal_folders = facts_of(major).wal_folders
    if not (data_dir / "PG_VERSION").is_file():
        raise Missing("no PostgreSQL data folder", where=str(data_dir), why="there is no PG_VERSION in it")
    yield from _Walk(tablespace_folder, wal_folders, room).folder(os.fspath(data_dir), "")


@dataclass(frozen=True, slots=True)
class _Item:
    """A name found in a folder. path: absolute; seems_folder: when listed, it was a folder or a link to one."""

    name: str
    path: str
    seems_folder: bool

    @property
    def is_link(self) -> bool:
        return Path(self.path).is_symlink()

    @property
    def leads_on(self) -> bool:
        """Whether it is a folder, or a link, also one that leads nowhere just now."""
        return self.seems_folder or self.is_link


class _Walk:
    def __init__(self, tablespace_folder: str, wal_folders: tuple[str, ...], room: Path | None) -> None:
        self._tablespace_folder = tablespace_folder
        self._wal_folders = wal_folders
        self._room = room

    def folder(self, source: str, path: str) -> Iterator[Entry]:
        """The content of one folder."""
        names, unlogged = _scan(source, self._room)
        for key in names:
            name = os.fsdecode(key.rstrip(b"/"))
            item = _Item(name, f"{source}/{name}", key.endswith(b"/"))
            child = f"{path}/{name}" if path else name
            if path == "" and name == WAL_FOLDER:
                yield from self._wal(item, child)
            elif path == "" and name in EXCLUDED_CONTENTS:
                yield from self._emptied(item, child)
            elif path == TABLESPACE_FOLDER and name.isdecimal() and item.leads_on:
                yield from self._tablespace(item, child)
            elif exclusion(path, name, unlogged) is None:
                yield from self._plain(item, child)

    def _plain(self, item: _Item, path: str) -> Iterator[Entry]:
        status = _stat(item.path, follow=False)
        if status is None:
            return
        if stat.S_ISDIR(status.st_mode):
            if item.seems_folder:  # else it became one just now, and would come at the wrong place
                yield _folder_entry(path, item.path, status)
                yield from self.folder(item.path, path)
        elif stat.S_ISREG(status.st_mode):
            if not item.seems_folder:
                yield _file_entry(path, item.path, status)
        else:
            target = _link(item.path) if stat.S_ISLNK(status.st_mode) else None
            yield Entry(EntryKind.SPECIAL, path, item.path, stat.S_IMODE(status.st_mode), location=target)

    def _emptied(self, item: _Item, path: str) -> Iterator[Entry]:
        """The folder without its content; a link to a folder (pg_stat_tmp on a RAM disk) becomes a folder."""
        status = _stat(item.path, follow=True)
        if status is not None and stat.S_ISDIR(status.st_mode):
            yield _folder_entry(path, item.path, status)

    def _wal(self, item: _Item, path: str) -> Iterator[Entry]:
        status = _stat(item.path, follow=True)
        if status is None:
            raise Unreachable("pg_wal cannot be read", where=item.path, why="its link leads nowhere")
        yield _folder_entry(path, item.path, status, _link(item.path) if item.is_link else None)
        for name in self._wal_folders:
            yield Entry(EntryKind.FOLDER, f"{path}/{name}", f"{item.path}/{name}", stat.S_IMODE(status.st_mode))

    def _tablespace(self, item: _Item, path: str) -> Iterator[Entry]:
        link = _link(item.path) if item.is_link else None
        status = _stat(item.path, follow=True)
        if status is None:
            if link is None:
                return
            why = f"its location {link} is not there"
            raise Unreachable("a tablespace cannot be read", where=item.path, why=why, cure="is it mounted?")
        mode = stat.S_IMODE(status.st_mode)
        yield Entry(EntryKind.TABLESPACE, path, item.path, mode, oid=int(item.name), location=link)
        inner = Path(item.path, self._tablespace_folder)
        inner_status = _stat(str(inner), follow=False)
        if inner_status is not None:
            inner_path = f"{path}/{self._tablespace_folder}"
            yield _folder_entry(inner_path, str(inner), inner_status)
            yield from self.folder(str(inner), inner_path)


def _folder_entry(path: str, source: str, status: os.stat_result, link: str | None = None) -> Entry:
    mode = stat.S_IMODE(status.st_mode)
    return Entry(EntryKind.FOLDER, path, source, mode, mtime_ns=status.st_mtime_ns, location=link)


def _file_entry(path: str, source: str, status: os.stat_result) -> Entry:
    checksums = has_page_checksums(path)
    relation = relation_file(path.rpartition("/")[2]) if checksums else None
    return Entry(
        EntryKind.FILE,
        path,
        source,
        stat.S_IMODE(status.st_mode),
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
        inode=status.st_ino,
        device=status.st_dev,
        segment=relation.segment if relation else 0,
        has_checksums=checksums,
    )


def _scan(source: str, room: Path | None) -> tuple[Iterator[bytes], frozenset[int]]:
    """A folder's names in path order, those of folders and of links to folders with '/' behind them; and the numbers of
    the unlogged relations among them. Empty when it vanished.
    """
    unlogged: set[int] = set()

    def names() -> Iterator[bytes]:
        with os.scandir(source) as items:
            for item in items:
                if item.name.endswith("_init"):
                    unlogged.update(init_forks([item.name]))
                yield os.fsencode(item.name) + b"/" * item.is_dir()

    try:
        return in_order(names(), room), frozenset(unlogged)
    except FileNotFoundError:
        return iter(()), frozenset()
    except OSError as error:
        raise Unreachable("cannot list a folder of the database", where=source, why=str(error)) from error


def _stat(source: str, *, follow: bool) -> os.stat_result | None:
    try:
        return Path(source).stat() if follow else os.lstat(source)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unreachable("cannot look at a file of the database", where=source, why=str(error)) from error


def _link(source: str) -> str:
    try:
        return str(Path(source).readlink())
    except OSError as error:
        raise Unreachable("cannot read a link of the database", where=source, why=str(error)) from error
