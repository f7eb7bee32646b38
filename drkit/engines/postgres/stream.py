"""Finds the records in WAL segments: a walk along the chain of lengths, checked by numpy.

Facts: `src/include/access/xlogrecord.h`, xlog_internal.h and `src/backend/access/transam/xlogreader.c`, 13 to 18.

    A segment is a row of WAL pages (8 KiB). A page starts with a header of 24 bytes, the first of a segment of 40
    (see `wal`); what is left of all pages, joined, is the stream of records. Each record starts at a multiple of 8:

    offset  size  field
         0     4  total length, this header included, up to 1020 MiB
         4     4  transaction id
         8     8  position of the record before
        16     1  info
        17     1  resource manager
        18     2  zero
        20     4  CRC-32C of bytes 24 to the end, then of bytes 0 to 19
        24        block headers, main data header, block data, main data

    A length of 0 ends the WAL; behind a segment switch (XLOG_SWITCH) it ends the segment. A page that starts with
    flag 0x0008 replaces a record that was never finished: what was begun before it is dropped.

Headers are multiples of 8 bytes, so the joined stream keeps the alignment of records and a header never needs to be put
together from two pages. The chain is checked twice: by lengths, and by each record's pointer to the one before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from drkit.engines.postgres.lsn import NO_LSN, Lsn
from drkit.engines.postgres.version import facts_of
from drkit.engines.postgres.wal import LONG_HEADER_BYTES, SegmentFacts, WalName, read_header

HEADER_BYTES = 24
MAX_RECORD_BYTES = 1020 << 20
_SHORT_HEADER_BYTES = 24
_FLAG_CONTINUED = 0x0001
_FLAG_OVERWRITE = 0x0008
_RM_XLOG = 0
_INFO_SWITCH = 0x40
U64 = npt.NDArray[np.uint64]


class EndOfWal(Enum):
    """Why the records stop."""

    ZEROS = "nothing was written behind the last record"
    PAGE = "the next page is not part of this log: old, torn or zeros"
    LINK = "the next record does not point back to the one before"
    CHECKSUM = "the last record's checksum is wrong"
    LENGTH = "the next record's length is impossible"
    GAP = "a segment is missing"


@dataclass(frozen=True, slots=True)
class Batch:
    """Records found by one `feed`, in order. `starts` are byte offsets in `data`, `lsns` and `ends` positions.

    All arrays have one element a record. `infos` holds all 8 bits, `managers` the resource manager ids, `xids` the
    low 32 bits of the transaction id (0: none).
    """

    major: int
    data: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    lsns: U64
    ends: U64
    xids: npt.NDArray[np.uint32]
    infos: npt.NDArray[np.uint8]
    managers: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.starts)

    def record(self, index: int) -> bytes:
        """The bytes of one record, header included."""
        start = int(self.starts[index])
        return self.data[start : start + int(self.lengths[index])].tobytes()


class WalStream:
    """Takes segments in the order of the path and gives their records. Not thread-safe.

    Keeps at most one unfinished record (a record may span segments) and the segment at hand. `end` is None while
    the stream goes on; once set, further segments are refused.
    """

    def __init__(self, *, check_all: bool = False) -> None:
        """`check_all` verifies the CRC of every record (slow); else that of the last before the end only."""
        self.end: EndOfWal | None = None
        self.end_lsn: Lsn = NO_LSN
        """The end of the last whole record seen."""
        self._check_all = check_all
        self._carry: list[npt.NDArray[np.uint8]] = []
        self._carry_bytes = 0
        self._carry_needs = 0
        self._carry_lsn = 0
        self._skip_bytes = 0
        self._previous: int | None = None
        self._expected: int | None = None

    def feed(self, name: WalName, segment: bytes | memoryview) -> Batch | None:
        """The records that end in this segment; the first segment may start inside a record, which is skipped.

        A short (sliced) segment is taken as far as its whole pages go. Raises what `wal.read_header` raises for
        the segment's first page; returns None when no record ends here.
        """
        if self.end is not None:
            return None
        facts = read_header(segment, name.text)
        number = name.number(facts.segment_size)
        if self._expected is not None and number != self._expected:
            self.end = EndOfWal.GAP
            return None
        self._expected = number + 1
        if len(segment) < facts.block_size:
            self.end = EndOfWal.PAGE
            return None
        pages = _Pages(facts, name, segment)
        found = self._records(pages)
        is_whole = pages.is_whole and len(segment) == facts.segment_size
        if self.end is None and not is_whole and self.end_lsn.value != pages.end:
            self.end = EndOfWal.PAGE
            return self._last_checked(found) if found is not None else None
        return found

    def _records(self, pages: _Pages) -> Batch | None:
        """Walk each part of the segment's stream; parts end where an overwritten record is dropped."""
        batches: list[Batch] = []
        cuts = [*pages.overwrites, pages.size]
        begin = self._first_start(pages)
        for index, cut in enumerate(cuts):
            if index or cut == 0:
                self._drop_carry()
            if cut <= begin:
                continue
            batch, goes_on = self._part(pages, begin, cut)
            if batch is not None:
                batches.append(batch)
            if not goes_on:
                break
            begin = cut
        return _join(batches)

    def _first_start(self, pages: _Pages) -> int:
        """Where in the stream to begin: behind the rest of a record whose beginning was not seen."""
        if self._previous is not None or self._carry_bytes:
            return 0
        if not self._skip_bytes and pages.continued:
            self._skip_bytes = -(-pages.remaining // 8) * 8
        begin = min(self._skip_bytes, pages.size)
        self._skip_bytes -= begin
        return begin

    def _drop_carry(self) -> None:
        self._carry, self._carry_bytes = [], 0

    def _part(self, pages: _Pages, begin: int, cut: int) -> tuple[Batch | None, bool]:
        """Records in stream[begin:cut], with what is carried before it; and whether the segment goes on."""
        part = pages.stream[begin:cut]
        carried = self._carry_bytes
        if carried and carried + len(part) < self._carry_needs:  # a record longer than a segment
            self._carry.append(part)
            self._carry_bytes += len(part)
            return None, True
        data = np.concatenate([*self._carry, part]) if carried else part
        starts, used, stopped = _chain(data)
        at = np.array(starts, np.int64)
        lsns = self._lsns(pages, at, carried, begin)
        batch = _batch(pages, data, at, lsns, carried - begin) if len(at) else None
        if batch is not None:
            batch = self._linked(batch)
        if self.end is not None:
            return self._last_checked(batch), False
        if batch is not None:
            self._previous = int(batch.lsns[-1])
            self.end_lsn = Lsn(int(batch.ends[-1]))
            if _is_switch(batch):
                self._drop_carry()
                self.end_lsn = Lsn(pages.end)
                return batch, False
        if stopped is not None:
            self.end = stopped
            return self._last_checked(batch), False
        self._keep(pages, data, used, carried, begin)
        return batch, True

    def _lsns(self, pages: _Pages, at: npt.NDArray[np.int64], carried: int, begin: int) -> U64:
        lsns = pages.lsn(at - carried + begin)
        if carried and len(at):
            lsns[0] = self._carry_lsn
        return lsns

    def _keep(self, pages: _Pages, data: npt.NDArray[np.uint8], used: int, carried: int, begin: int) -> None:
        """Remember the unfinished record at the end; its length is in its first 8 bytes, which are always there."""
        if used >= len(data):
            self._drop_carry()
            return
        self._carry_lsn = int(pages.lsn(np.array([used - carried + begin], np.int64))[0])
        self._carry = [data[used:].copy()]
        self._carry_bytes = len(data) - used
        self._carry_needs = int.from_bytes(self._carry[0][:4].tobytes(), "little") + 7 & ~7

    def _linked(self, batch: Batch) -> Batch | None:
        """Cut the batch at the first record that does not point to the one before it."""
        previous = _column(batch.data, batch.starts + 8, np.uint64)
        expected = np.empty_like(batch.lsns)
        expected[1:] = batch.lsns[:-1]
        expected[0] = previous[0] if self._previous is None else self._previous
        wrong = np.flatnonzero(previous != expected)
        if not len(wrong) and self._check_all:
            wrong = np.array([i for i in range(len(batch)) if not is_intact(batch.record(i))], np.int64)
            if len(wrong):
                self.end = EndOfWal.CHECKSUM
        if not len(wrong):
            return batch
        self.end = self.end or EndOfWal.LINK
        return _slice(batch, int(wrong[0]))

    def _last_checked(self, batch: Batch | None) -> Batch | None:
        """At the end of WAL the last records may be torn: drop those whose CRC is wrong."""
        while batch is not None and not is_intact(batch.record(len(batch) - 1)):
            self.end = EndOfWal.CHECKSUM
            batch = _slice(batch, len(batch) - 1)
        if batch is not None:
            self._previous = int(batch.lsns[-1])
            self.end_lsn = Lsn(int(batch.ends[-1]))
        return batch


class _Pages:
    """A segment without its page headers: `stream` of `size` bytes, as far as its pages are valid."""

    def __init__(self, facts: SegmentFacts, name: WalName, segment: bytes | memoryview) -> None:
        major, block_size = facts.major, facts.block_size
        start = name.start(facts.segment_size).value
        count = len(segment) // block_size
        words = np.frombuffer(segment, np.dtype("<u8"), count * block_size // 8).reshape(count, -1)
        self.major = major
        self.end = start + facts.segment_size
        self._start = start
        self._block = block_size
        self._first = block_size - LONG_HEADER_BYTES
        self._payload = block_size - _SHORT_HEADER_BYTES
        magic = (words[:, 0] & np.uint64(0xFFFF)) == facts_of(major).wal_magic
        address = words[:, 1] == np.arange(count, dtype=np.uint64) * np.uint64(block_size) + np.uint64(start)
        line = (words[:, 0] >> np.uint64(32)) <= name.timeline
        bad = np.flatnonzero(~(magic & address & line))
        valid = int(bad[0]) if len(bad) else count
        self.is_whole = valid == count
        first = words[:valid, LONG_HEADER_BYTES // 8 :][:1].ravel()
        rest = words[1:valid, _SHORT_HEADER_BYTES // 8 :].ravel()
        self.stream: npt.NDArray[np.uint8] = np.concatenate([first, rest]).view(np.uint8)
        self.size = len(self.stream)
        flags = (words[: max(valid, 1), 0] >> np.uint64(16)) & np.uint64(0xFFFF)
        self.continued = bool(int(flags[0]) & _FLAG_CONTINUED)
        self.remaining = int(words[0, 2] & np.uint64(0xFFFFFFFF))
        marked = np.flatnonzero(flags & np.uint64(_FLAG_OVERWRITE))
        self.overwrites = [0 if page == 0 else self._first + (int(page) - 1) * self._payload for page in marked]

    def lsn(self, at: npt.NDArray[np.int64]) -> U64:
        """Positions in the log of bytes of the stream."""
        behind = at - self._first
        page, offset = np.divmod(behind, self._payload)
        later = (page + 1) * self._block + _SHORT_HEADER_BYTES + offset
        found = np.where(behind < 0, at + LONG_HEADER_BYTES, later) + np.int64(self._start)
        return found.astype(np.uint64)


def _chain(data: npt.NDArray[np.uint8]) -> tuple[list[int], int, EndOfWal | None]:
    """Follow the lengths: (starts of whole records, bytes used, why it stopped before the end of data).

    This loop is what the reader's speed hangs on: one list element and one addition a record.
    """
    lengths = data.data.cast("I")
    starts: list[int] = []
    keep = starts.append
    at, end = 0, len(lengths)
    while at < end:
        length = lengths[at]
        if length < HEADER_BYTES or length > MAX_RECORD_BYTES:
            return starts, at * 4, EndOfWal.ZEROS if length == 0 else EndOfWal.LENGTH
        after = at + ((length + 7) >> 3 << 1)
        if after > end:
            break
        keep(at * 4)
        at = after
    return starts, at * 4, None


def _batch(pages: _Pages, data: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], lsns: U64, shift: int) -> Batch:
    """Gather the header fields of all records; `shift` turns offsets in data into offsets in the stream."""
    lengths = _column(data, starts, np.uint32).astype(np.int64)
    last = starts + (lengths + 7 & ~7) - 1
    return Batch(
        major=pages.major,
        data=data,
        starts=starts,
        lengths=lengths,
        lsns=lsns,
        ends=pages.lsn(last - shift) + np.uint64(1),
        xids=_column(data, starts + 4, np.uint32),
        infos=data[starts + 16],
        managers=data[starts + 17],
    )


def _column(data: npt.NDArray[np.uint8], at: npt.NDArray[np.int64], kind: type[Any]) -> npt.NDArray[Any]:
    """Little-endian numbers at aligned byte offsets."""
    return data.view(np.dtype(kind).newbyteorder("<"))[at // np.dtype(kind).itemsize]


def _is_switch(batch: Batch) -> bool:
    return bool(batch.managers[-1] == _RM_XLOG and batch.infos[-1] & 0xF0 == _INFO_SWITCH)


def _slice(batch: Batch, count: int) -> Batch | None:
    """The first `count` records."""
    if count == 0:
        return None
    return Batch(
        batch.major,
        batch.data,
        batch.starts[:count],
        batch.lengths[:count],
        batch.lsns[:count],
        batch.ends[:count],
        batch.xids[:count],
        batch.infos[:count],
        batch.managers[:count],
    )


def _join(batches: list[Batch]) -> Batch | None:
    """One batch of several; more than one only around an overwritten record."""
    if len(batches) < 2:
        return batches[0] if batches else None
    offsets = np.cumsum([0, *(len(one.data) for one in batches[:-1])])
    return Batch(
        batches[0].major,
        np.concatenate([one.data for one in batches]),
        np.concatenate([one.starts + offset for one, offset in zip(batches, offsets, strict=True)]),
        np.concatenate([one.lengths for one in batches]),
        np.concatenate([one.lsns for one in batches]),
        np.concatenate([one.ends for one in batches]),
        np.concatenate([one.xids for one in batches]),
        np.concatenate([one.infos for one in batches]),
        np.concatenate([one.managers for one in batches]),
    )


def is_intact(record: bytes) -> bool:
    """Whether a record's CRC-32C matches."""
    stored = int.from_bytes(record[20:24], "little")
    found: int = google_crc32c.extend(google_crc32c.value(record[HEADER_BYTES:]), record[:20])
    return bool(found == stored)


def iterate(segments: Iterator[tuple[WalName, bytes]], stream: WalStream) -> Iterator[tuple[WalName, Batch]]:
    """Feed segments until the WAL or the iterator ends; `stream.end` then tells which."""
    for name, data in segments:
        batch = stream.feed(name, data)
        if batch is not None:
            yield name, batch
        if stream.end is not None:
            return
