"""WAL file names and the header of a segment's first page.

Names (`src/include/access/xlog_internal.h`, the same in 13 to 18; hexadecimal digits are upper case only):

    TTTTTTTTXXXXXXXXYYYYYYYY                  a segment: timeline, log id, segment within the log id
    TTTTTTTTXXXXXXXXYYYYYYYY.partial          the last segment of an ended timeline, not filled
    TTTTTTTTXXXXXXXXYYYYYYYY.OOOOOOOO.backup  the history of a backup that started at that offset of that segment
    TTTTTTTT.history                          the ancestry of a timeline

A log id covers 2^32 bytes, so Y runs below 2^32 / segment size, and segment number = X * (2^32 / size) + Y.

Long page header, on the first page of each segment, little-endian:

    offset  size  field
         0     2  magic            names the major
         2     2  info             flag 0x0002: long header
         4     4  timeline         of the first record on the page
         8     8  address          position of this page's first byte
        16     4  remaining        bytes of a record continued from the page before
        20     4  (padding)
        24     8  system identifier
        32     4  segment size
        36     4  WAL block size
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from drkit.core.errors import Conflict, Damage, DrkitError, UsageError
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.version import facts_of_wal, is_wal_magic

LONG_HEADER_BYTES = 40
MIN_SEGMENT_BYTES = 1 << 20
MAX_SEGMENT_BYTES = 1 << 30
_LONG_HEADER = struct.Struct("<HHIQI4xQII")
_FLAG_LONG = 0x0002
_ALL_FLAGS = 0x000F
_LOG_BYTES = 1 << 32
_NAME = re.compile(
    r"([0-9A-F]{8})(?:\.history|([0-9A-F]{8})([0-9A-F]{8})(\.partial|\.([0-9A-F]{8})\.backup)?)", re.ASCII
)


# --- errors -----------------------------------------------------------------------------------------------------


class WalNameError(UsageError):
    """Not the name of a WAL file, or not one under this segment size."""


class SegmentError(DrkitError):
    """A segment's first page contradicts its name or its cluster. Subclasses say how."""


class WrongMagic(SegmentError, Damage):
    """No long page header of a supported major: zeros, a torn file, or not WAL at all."""


class WrongSize(SegmentError, Damage):
    """The file's length, or the segment or block size in its header, is not what it must be."""


class WrongAddress(SegmentError, Damage):
    """The page belongs to another place in the log: a recycled or a renamed file."""


class WrongTimeline(SegmentError, Damage):
    """The page was written on a later timeline than the file's name says."""


class WrongSystem(SegmentError, Conflict):
    """The segment was written by another cluster."""


# --- names ------------------------------------------------------------------------------------------------------


class WalKind(Enum):
    SEGMENT = "segment"
    PARTIAL = "partial"
    BACKUP_LABEL = "backup"
    HISTORY = "history"


@dataclass(frozen=True, slots=True)
class WalName:
    """A parsed name. `log` and `seg` are 0 for HISTORY; `offset` (bytes) is 0 except for BACKUP_LABEL."""

    text: str
    kind: WalKind
    timeline: int
    log: int = 0
    seg: int = 0
    offset: int = 0

    def number(self, segment_size: int) -> int:
        """The segment number, counted from position 0. Raises WalNameError when seg lies outside its log id."""
        per_log = segments_per_log(segment_size)
        if self.kind is WalKind.HISTORY or self.seg >= per_log:
            raise WalNameError(
                f"{self.text} names no segment",
                why=f"with segments of {segment_size} bytes the last 8 digits run below {per_log:08X}",
            )
        return self.log * per_log + self.seg

    def start(self, segment_size: int) -> Lsn:
        """Position of the segment's first byte."""
        return Lsn(self.number(segment_size) * segment_size)

    @property
    def segment_text(self) -> str:
        """The name of the segment that a SEGMENT, PARTIAL or BACKUP_LABEL file is about."""
        return self.text[:24]


def is_segment_size(size_bytes: int) -> bool:
    """A power of two from 1 MiB to 1 GiB (IsValidWalSegSize)."""
    return MIN_SEGMENT_BYTES <= size_bytes <= MAX_SEGMENT_BYTES and size_bytes & (size_bytes - 1) == 0


def segments_per_log(segment_size: int) -> int:
    if not is_segment_size(segment_size):
        raise WrongSize("not a WAL segment size", why=f"{segment_size} is no power of two from 1 MiB to 1 GiB")
    return _LOG_BYTES // segment_size


def parse_name(text: str, segment_size: int | None = None) -> WalName:
    """Parse any WAL file name; with `segment_size` also check that the segment lies within its log id.

    Raises WalNameError. Timeline 0 does not exist and is refused.
    """
    match = _NAME.fullmatch(text)
    if match is None or match[1] == "00000000":
        raise WalNameError(f"{text!r} is no WAL file name", cure="is %f given as the name, and %p as the path?")
    timeline = int(match[1], 16)
    if match[2] is None:
        return WalName(text, WalKind.HISTORY, timeline)
    kind = WalKind.SEGMENT
    if match[5] is not None:
        kind = WalKind.BACKUP_LABEL
    elif match[4] is not None:
        kind = WalKind.PARTIAL
    name = WalName(text, kind, timeline, int(match[2], 16), int(match[3], 16), int(match[5] or "0", 16))
    if segment_size is not None:
        name.number(segment_size)
        if name.offset >= segment_size:
            raise WalNameError(f"{text} names no place in a segment", why=f"segments have {segment_size} bytes")
    return name


def segment_name(timeline: int, number: int, segment_size: int) -> WalName:
    """The name of segment `number` on a timeline."""
    log, seg = divmod(number, segments_per_log(segment_size))
    return WalName(f"{timeline:08X}{log:08X}{seg:08X}", WalKind.SEGMENT, timeline, log, seg)


def name_at(timeline: int, lsn: Lsn, segment_size: int) -> WalName:
    """The segment that holds the byte at `lsn`."""
    return segment_name(timeline, lsn.segment(segment_size), segment_size)


def name_before(timeline: int, end: Lsn, segment_size: int) -> WalName:
    """The segment that holds the last byte before `end`: what a backup that stopped there needs last."""
    return segment_name(timeline, end.segment_before(segment_size), segment_size)


def history_name(timeline: int) -> WalName:
    return WalName(f"{timeline:08X}.history", WalKind.HISTORY, timeline)


def next_name(name: WalName, segment_size: int) -> WalName:
    """The segment that follows on the same timeline."""
    return segment_name(name.timeline, name.number(segment_size) + 1, segment_size)


def names_between(timeline: int, start: Lsn, end: Lsn, segment_size: int) -> Iterator[WalName]:
    """Segments that hold the bytes [start, end), in order; at least the one of `start`."""
    last = max(end.segment_before(segment_size) if end else 0, start.segment(segment_size))
    for number in range(start.segment(segment_size), last + 1):
        yield segment_name(timeline, number, segment_size)


# --- the first page ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SegmentFacts:
    """What the long header says. `timeline` is the page's; it may be older than the name's (see check_segment)."""

    major: int
    timeline: int
    address: Lsn
    system_identifier: int
    segment_size: int
    block_size: int


def read_header(first_page: bytes | memoryview, where: str = "") -> SegmentFacts:
    """Read a long page header from at least LONG_HEADER_BYTES bytes.

    Raises WrongMagic (no long header of a supported major) or WrongSize (impossible segment or block size).
    """
    if len(first_page) < LONG_HEADER_BYTES:
        raise WrongSize("the WAL segment is too short", where=where, why=f"{len(first_page)} bytes")
    magic, info, timeline, address, _, sysid, seg_size, block_size = _LONG_HEADER.unpack_from(first_page)
    if not is_wal_magic(magic) or not info & _FLAG_LONG or info & ~_ALL_FLAGS:
        why = f"magic {magic:04X}, flags {info:04X}"
        raise WrongMagic("the file does not start with a WAL page header", where=where, why=why)
    if not is_segment_size(seg_size) or block_size & (block_size - 1) or not 1024 <= block_size <= 65536:
        why = f"segment size {seg_size}, WAL block size {block_size}"
        raise WrongSize("the WAL page header holds impossible sizes", where=where, why=why)
    return SegmentFacts(facts_of_wal(magic).major, timeline, Lsn(address), sysid, seg_size, block_size)


def check_segment(first_page: bytes | memoryview, name: WalName, size: int, expect_sysid: int | None) -> SegmentFacts:
    """Check a SEGMENT or PARTIAL file against its name, its length in bytes and its cluster.

    The timeline rule: the page may be older than the name, never newer. When a timeline begins in mid-segment the
    server copies the old segment's first part under the new name, header included (XLogFileCopy, xlog.c).
    `expect_sysid` None skips the check of the cluster. Raises a subclass of SegmentError, or WalNameError.
    """
    facts = read_header(first_page, name.text)
    if expect_sysid is not None and facts.system_identifier != expect_sysid:
        raise WrongSystem(
            "the WAL segment belongs to another cluster",
            where=name.text,
            why=f"its system identifier is {facts.system_identifier}, expected {expect_sysid}",
            cure="does this server's archive_command name the right cluster?",
        )
    if size != facts.segment_size:
        why = f"{size} bytes, its header says {facts.segment_size}"
        raise WrongSize("the WAL segment has the wrong length", where=name.text, why=why)
    start = name.start(facts.segment_size)
    if facts.address != start:
        why = f"its first page is that of {facts.address}, the name means {start}"
        raise WrongAddress("the WAL segment's content is not what its name says", where=name.text, why=why)
    if not 1 <= facts.timeline <= name.timeline:
        why = f"its first page was written on timeline {facts.timeline}"
        raise WrongTimeline("the WAL segment is from a later timeline than its name", where=name.text, why=why)
    return facts
