"""The file that PostgreSQL hands to archive_command, checked before a byte of it is stored."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from drkit.core.errors import Conflict, Damage, Missing, Unreachable, UsageError
from drkit.engines.postgres.control import CONTROL_PATH, read_control
from drkit.engines.postgres.timeline import parse_history
from drkit.engines.postgres.wal import LONG_HEADER_BYTES, WalKind, WalName, WrongSize, check_segment, parse_name

_MAX_TEXT_BYTES = 16 << 20  # a history or backup file; real ones have some hundred bytes


class Recycled(Damage):
    """The server needs the file no more, and made another segment of it."""


@dataclass(frozen=True, slots=True)
class WalSource:
    """A checked file, open at its begin. system_identifier, segment_bytes: of the cluster that it belongs to.

    head: its first bytes when it was checked, b"" for a text file.
    """

    name: WalName
    file: BinaryIO
    size_bytes: int
    system_identifier: int
    segment_bytes: int
    head: bytes = b""

    def check_unchanged(self) -> None:
        """Call it after reading. Raises Recycled where the server recycled the file meanwhile.

        A recycled segment keeps its inode and is written anew from its first page on (InstallXLogFileSegment,
        xlog.c): while that page is the old one, so was all that was read.
        """
        if os.pread(self.file.fileno(), len(self.head), 0) != self.head:
            raise Recycled("the segment was recycled while it was read", where=self.name.text)


def data_folder(path: Path, cwd: Path, configured: Path | None) -> Path:
    """The data folder that a %p belongs to: PostgreSQL runs the command there and gives a relative path.

    An absolute path is a person's: then the configured folder, else the one that the path lies in.
    """
    if not path.is_absolute() and (cwd / CONTROL_PATH).exists():
        return cwd
    if configured is not None:
        return configured
    for folder in (cwd / path).parents:
        if (folder / CONTROL_PATH).exists():
            return folder
    raise UsageError(
        "whose WAL is this?",
        where=str(path),
        why="no data folder is configured, and the path lies in none",
        cure="set data_dir in [cluster.NAME]",
    )


@contextmanager
def open_source(
    path: Path, data_dir: Path, expect_system: int | None, sleep: Callable[[float], None]
) -> Iterator[WalSource]:
    """Open `path` and check name, size, first page, cluster and timeline against the control file and the name.

    expect_system: the system identifier that the caller knows the cluster by, or None. Raises WalNameError,
    SegmentError, Conflict, Damage, Missing or Unreachable; nothing is written.
    """
    _, control = read_control(data_dir, sleep)
    if expect_system is not None and control.system_identifier != expect_system:
        raise Conflict(
            "the data folder belongs to another cluster",
            where=str(data_dir),
            why=f"its system identifier is {control.system_identifier}, expected {expect_system}",
            cure="does this server's archive_command name the right configuration?",
        )
    name = parse_name(path.name, control.wal_segment_size)
    with _open(path) as file:
        yield check_source(name, file, control.system_identifier, control.wal_segment_size)


def check_source(name: WalName, file: BinaryIO, system_identifier: int, segment_bytes: int) -> WalSource:
    """Check an open file, wherever it came from, against its name and its cluster. Raises as `open_source`."""
    name = parse_name(name.text, segment_bytes)
    size_bytes, head = os.fstat(file.fileno()).st_size, b""
    file.seek(0)
    if name.kind in (WalKind.SEGMENT, WalKind.PARTIAL):
        head = _check_segment(file, name, size_bytes, system_identifier, segment_bytes)
    else:
        _check_text(file, name, size_bytes)
    file.seek(0)
    return WalSource(name, file, size_bytes, system_identifier, segment_bytes, head)


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise Missing("there is no such WAL file", where=str(path), cure="is %p given as the path?") from error
    except OSError as error:
        raise Unreachable("the WAL file cannot be read", where=str(path), why=str(error)) from error
    with file:
        yield file


def _check_segment(file: BinaryIO, name: WalName, size_bytes: int, system: int, segment_bytes: int) -> bytes:
    if size_bytes != segment_bytes:
        why = f"{size_bytes} bytes, the cluster's segments have {segment_bytes}"
        raise WrongSize("the WAL segment has the wrong length", where=name.text, why=why)
    head = file.read(LONG_HEADER_BYTES)
    check_segment(head, name, size_bytes, system)
    return head


def _check_text(file: BinaryIO, name: WalName, size_bytes: int) -> None:
    """An empty history or backup file is what a crash leaves: archived, it could never be replaced."""
    if not 0 < size_bytes <= _MAX_TEXT_BYTES:
        raise Damage("the file has an impossible size", where=name.text, why=f"{size_bytes} bytes")
    if name.kind is WalKind.HISTORY:
        parse_history(name.timeline, file.read())
