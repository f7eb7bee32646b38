"""What a killed backup left is reused only where all of it is still there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from drkit.engines.postgres.walk import Entry as Found
from drkit.engines.postgres.walk import EntryKind
from drkit.jobs.backup_files import SETTLED, row_of
from drkit.jobs.backup_journal import Journal, read_journal, still_there
from drkit.jobs.backup_usage import Stored
from drkit.pipeline.stager import Placed
from drkit.repository.inventory import Inventory
from drkit.repository.layout import Kind, RunId
from drkit.repository.manifest import Source
from storage_backends.memory import MemoryBackend
from tests.crypto.rings import ring
from tests.repository.samples import LAYOUT, target
from tests.storage_backends.mounts import tmpfs

RUN = RunId(1_772_368_259, b"\x00\x01\xab\xff")
PARENT = RunId(1_772_000_000, b"\xff" * 4)
SOURCE = Source("machine", "/data", 5)
OWN = RUN.binary + bytes(4)  # of the first pack and of the first map: kinds are counted apart
FOREIGN = PARENT.binary + bytes(4)
FILE = row_of(Found(EntryKind.FILE, "base/1/2", "/data/base/1/2", 0o600, 8192, 1, 2, 3, 4), SETTLED)
FACTS = Stored(100, bytes(32))


def written(path: Path, kinds: Iterable[Kind] = (Kind.MAP, Kind.PACK)) -> None:
    journal = Journal(path, RUN, SOURCE)
    journal.file(FILE.done([Placed(OWN, 0, bytes(32), 0, 8192, 8192)]))
    for kind in kinds:
        journal.stored(kind, OWN, FACTS, [OWN, FOREIGN] if kind is Kind.MAP else [])


def left_files(path: Path, *keys: str, parent: Mapping[tuple[int, bytes], Stored] | None = None) -> set[bytes]:
    """The files that may be adopted while a target holds these objects; the parent has the foreign pack."""
    known = {(int(Kind.PACK), FOREIGN): FACTS} if parent is None else parent
    where = target("t", MemoryBackend())
    for key in keys:
        where.write(
            LAYOUT.data(Kind[key.split()[0].upper()], {"own": OWN, "foreign": FOREIGN}[key.split()[1]]),
            [bytes(100)],
            100,
        )
    left = read_journal(path)
    assert left is not None and left.known.run == RUN and left.known.source == SOURCE
    return {file for file, _ in still_there(left, [Inventory(where, LAYOUT, ring())], LAYOUT, known).files}


def test_what_is_all_there_may_be_adopted(tmp_path: Path) -> None:
    written(tmp_path / "j")
    assert left_files(tmp_path / "j", "map own", "pack own", "pack foreign") == {b"base/1/2"}


@pytest.mark.parametrize("lost", ["map own", "pack own", "pack foreign"])
def test_nothing_that_needs_a_missing_object_is_adopted(lost: str, tmp_path: Path) -> None:
    """Also where a pack of an earlier backup, into which a map points, has gone since."""
    written(tmp_path / "j")
    keys = {"map own", "pack own", "pack foreign"} - {lost}
    assert left_files(tmp_path / "j", *keys) == set()


def test_a_map_whose_pack_was_not_even_begun_is_not_adopted(tmp_path: Path) -> None:
    """A map is handed on before the last pack that it points into."""
    written(tmp_path / "j", [Kind.MAP])
    assert left_files(tmp_path / "j", "map own", "pack foreign") == set()


def test_a_torn_or_damaged_line_ends_the_journal(tmp_path: Path) -> None:
    written(tmp_path / "j")
    whole = (tmp_path / "j").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "j").write_bytes(whole[:length])
        left = read_journal(tmp_path / "j")
        assert left is None or left.known.run == RUN
        broken = bytearray(whole)
        broken[length] ^= 4
        (tmp_path / "j").write_bytes(broken)
        left = read_journal(tmp_path / "j")
        assert left is None or (left.known.run == RUN and {file for file, _ in left.known.files} <= {b"base/1/2"})


def test_a_finished_backup_leaves_no_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "deep" / "j", RUN, SOURCE)
    assert read_journal(tmp_path / "deep" / "j") is not None
    journal.done()
    assert read_journal(tmp_path / "deep" / "j") is None


def test_a_full_disk_costs_the_journal_and_nothing_else(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk") as folder:
        journal = Journal(folder / "journal", RUN, SOURCE)
        with suppress(OSError):
            (folder / "filled").write_bytes(bytes(2 << 20))
        for _ in range(200):
            journal.stored(Kind.PACK, OWN, FACTS, [])
        assert read_journal(folder / "journal") is not None
        journal.done()
        assert not (folder / "journal").exists()


def test_a_pack_that_the_parent_does_not_have_is_not_adopted(tmp_path: Path) -> None:
    """Only what the lease names is protected: the killed run and the backup that is built on."""
    written(tmp_path / "j")
    assert left_files(tmp_path / "j", "map own", "pack own", "pack foreign", parent={}) == set()
