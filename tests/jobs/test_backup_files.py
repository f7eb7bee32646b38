"""The rows of a backup's files: in order whoever ends first, merged with what earlier runs knew."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from drkit.core.cancel import CancelToken
from drkit.core.errors import Cancelled
from drkit.jobs.backup_copy import _WINDOW_FILES, FileCopy, _Window
from drkit.jobs.backup_files import ADOPTED, LATE, SETTLED, UNREAD, Files, Row
from drkit.jobs.backup_journal import Journal, read_journal
from drkit.jobs.backup_parent import Known, KnownFile, Parent
from drkit.pipeline.stager import Placed
from drkit.repository.layout import RunId
from drkit.repository.manifest import FILE, FOLDER, Source
from storage_backends.memory import MemoryBackend
from tests.crypto.rings import ring
from tests.repository.samples import LAYOUT, target

RUN = RunId(1_772_368_259, b"\x00\x01\xab\xff")
SOURCE = Source("machine", "/data", 5)
MAP = RUN.binary + bytes(4)


def row(path: bytes, state: int = 0) -> Row:
    return Row(FILE, path, state, 0o600, 8192, 1, 2, 3, 4, 0)


def placed(index: int, length: int = 8192) -> Placed:
    return Placed(MAP, index, bytes([index]) * 32, 7, length, length, 100)


def flight(path: bytes) -> FileCopy:
    return FileCopy(row(path, UNREAD), path.decode(), "", {}, 1)


def test_files_come_in_the_order_in_which_they_began(tmp_path: Path) -> None:
    out = Files(tmp_path)
    window = _Window(out, CancelToken())
    first, second, third = (flight(path) for path in (b"a", b"c", b"e"))
    for one in (first, row(b"b"), second, row(b"d"), third):
        window.add(one)
    window.ended(third, third.row)
    window.ended(second, None)
    assert list(out) == []
    window.ended(first, first.row)
    assert [one.path for one in out] == [b"a", b"b", b"d", b"e"], "c vanished"


def test_whoever_runs_far_ahead_waits_for_the_first(tmp_path: Path) -> None:
    window = _Window(Files(tmp_path), CancelToken())
    first = flight(b"a")
    window.add(first)
    for number in range(_WINDOW_FILES):
        window.add(row(b"b%06d" % number))
    assert window.is_full
    waiter = threading.Thread(target=window.wait)
    waiter.start()
    window.ended(first, None)
    waiter.join()
    assert not window.is_full


def test_a_cancelled_run_waits_no_longer(tmp_path: Path) -> None:
    token = CancelToken()
    window = _Window(Files(tmp_path), token)
    for number in range(_WINDOW_FILES):
        window.add(flight(b"%06d" % number))
    token.cancel("enough")
    with pytest.raises(Cancelled):
        window.wait()


def test_sums_and_the_file_that_comes_late(tmp_path: Path) -> None:
    files = Files(tmp_path)
    late = row(b"global/pg_control", UNREAD | LATE)
    files.append(Row(FOLDER, b"base", 0, 0o700, 0, 1, 2, 3, 4, -1))
    files.append(row(b"base/1", ADOPTED | SETTLED).done([placed(0), placed(1, 100)]))
    files.append(late)
    assert (files.files, files.size_bytes, files.adopted_files, files.adopted_extents) == (1, 8292, 1, 2)
    files.settle(late.done([placed(2)]))
    assert (files.files, files.size_bytes, files.again_bytes) == (2, 16484, 300)
    assert list(files.placements()) == [(MAP, 0), (MAP, 1), (MAP, 2)]
    assert [one.state for one in files] == [0, ADOPTED | SETTLED, 0]


def test_what_earlier_runs_knew_is_found_in_one_pass() -> None:
    files = [(path, KnownFile((8192, 1, 2, 3, 4), True, ((MAP, at),))) for at, path in enumerate([b"a", b"c", b"c"])]
    parent = Parent(Known(RUN, SOURCE, files, {}), target("t", MemoryBackend()), LAYOUT, ring(), ())
    found = [parent.find(path) for path in (b"a", b"b", b"c", b"d")]
    assert [one.extents if one else None for one in found] == [((MAP, 0),), None, ((MAP, 2),), None], "the last counts"


def test_a_journal_of_very_many_files_comes_back_sorted(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", RUN, SOURCE)
    paths = [b"base/5/%d" % number for number in range(70_000)]
    for path in reversed(paths):
        journal.file(row(path, SETTLED).done([placed(1)]))
    journal.file(row(paths[0], SETTLED).done([placed(2)]))
    left = read_journal(tmp_path / "j")
    assert left is not None
    found = list(left.known.files)
    assert [path for path, _ in found] == sorted([*paths, paths[0]])
    assert [file.extents[0][1] for _, file in found[:2]] == [1, 2], "what came later is later"
