"""Log sequence numbers: byte positions in the write-ahead log.

Facts from PostgreSQL 13 to 18: `src/include/access/xlogdefs.h` (XLogRecPtr is a uint64, 0 is invalid),
`src/backend/utils/adt/pg_lsn.c` (text form: 1 to 8 hexadecimal digits, a slash, 1 to 8 hexadecimal digits).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import overload

from drkit.core.errors import UsageError

_TEXT = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})", re.ASCII)
_END = 1 << 64


class LsnError(UsageError):
    """A text or number that is no log position."""


@dataclass(frozen=True, slots=True, order=True)
class Lsn:
    """`value` is a byte position, 0 to 2^64 - 1; 0 means 'none' (InvalidXLogRecPtr)."""

    value: int

    def __post_init__(self) -> None:
        if not 0 <= self.value < _END:
            raise LsnError("a log position must fit in 64 bits", why=f"got {self.value}")

    @classmethod
    def parse(cls, text: str) -> Lsn:
        """From the server's text form ('16/B374D848'). Raises LsnError for anything else."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise LsnError(
                f"{text!r} is no log position",
                why="expected two hexadecimal numbers of at most 8 digits, as in 16/B374D848",
                cure="select pg_current_wal_lsn()",
            )
        return cls((int(match[1], 16) << 32) | int(match[2], 16))

    def __str__(self) -> str:
        return f"{self.value >> 32:X}/{self.value & 0xFFFFFFFF:X}"

    def __bool__(self) -> bool:
        return self.value != 0

    def __add__(self, count_bytes: int) -> Lsn:
        return Lsn(self.value + count_bytes)

    @overload
    def __sub__(self, other: Lsn) -> int: ...
    @overload
    def __sub__(self, other: int) -> Lsn: ...
    def __sub__(self, other: Lsn | int) -> int | Lsn:
        """Distance in bytes from another position, or the position so many bytes before."""
        if isinstance(other, Lsn):
            return self.value - other.value
        return Lsn(self.value - other)

    def segment(self, segment_size: int) -> int:
        """Number of the segment that holds the byte at this position (XLByteToSeg)."""
        return self.value // segment_size

    def segment_before(self, segment_size: int) -> int:
        """Number of the segment that holds the byte before this position (XLByteToPrevSeg): for end positions."""
        return (self.value - 1) // segment_size

    def offset(self, segment_size: int) -> int:
        """Byte offset within its segment."""
        return self.value % segment_size

    def segment_start(self, segment_size: int) -> Lsn:
        return Lsn(self.value - self.value % segment_size)


NO_LSN = Lsn(0)
