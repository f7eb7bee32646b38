"""The journal on disk: what is read back after a clean end, after a crash at any byte, and after damage."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drills.journal import Journal, digest_of, read_journal, read_ledger
from drills.ledger import Entry
from drkit.core.errors import Damage

AT = datetime(2026, 7, 1, tzinfo=UTC)


def journal(path: Path, writer: str = "w") -> Journal:
    return Journal(path, writer, AT, 10.0)


def written(path: Path, rows: int = 3) -> bytes:
    with journal(path) as book:
        for number in range(1, rows + 1):
            book.sent(number, digest_of(str(number)), number + 0.25)
            book.acknowledged(number, number + 0.5)
    return path.read_bytes()


def test_reads_back_what_was_written(tmp_path: Path) -> None:
    with journal(tmp_path / "w") as book:
        book.sent(1, "d1", 1.25)
        book.acknowledged(1, 1.5)
        book.sent(2, "d2", 2.25)
    assert read_journal(tmp_path / "w").entries == (Entry("w", 1, "d1", 1.25, 1.5), Entry("w", 2, "d2", 2.25, None))


def test_never_writes_over_another_journal(tmp_path: Path) -> None:
    journal(tmp_path / "w").close()
    with pytest.raises(FileExistsError):
        journal(tmp_path / "w")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 400))
def test_a_crash_at_any_byte_leaves_a_prefix_and_no_false_acknowledgement(tmp_path: Path, cut: int) -> None:
    path, torn = tmp_path / "w", tmp_path / "torn"
    data = path.read_bytes() if path.exists() else written(path)
    whole = read_journal(path).entries
    torn.write_bytes(data[:cut])
    if b"\n" not in data[:cut]:
        with pytest.raises(Damage):
            read_journal(torn)
        return
    found = read_journal(torn).entries
    assert [e.key for e in found] == [e.key for e in whole[: len(found)]]
    assert all(e.acknowledged_s in (None, w.acknowledged_s) for e, w in zip(found, whole, strict=False))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda lines: [*lines[:2], b"garbage", *lines[2:]],
        lambda lines: [lines[0], *lines[2:]],
        lambda lines: [*lines, lines[-1]],
        lambda lines: [lines[0].replace(b"journal/1", b"journal/9"), *lines[1:]],
        lambda lines: [*lines, b'["sent",9,9.0,"d"]'],
    ],
    ids=["garbage", "line gone", "acknowledged twice", "other schema", "out of turn"],
)
def test_damage_is_told_with_its_line(tmp_path: Path, spoil: object) -> None:
    assert callable(spoil)
    lines = written(tmp_path / "w").splitlines()
    (tmp_path / "x").write_bytes(b"\n".join(spoil(lines)) + b"\n")
    with pytest.raises(Damage) as raised:
        read_journal(tmp_path / "x")
    assert "line" in raised.value.where


def test_a_ledger_is_all_writers_and_each_once(tmp_path: Path) -> None:
    for writer in ("a", "b"):
        with journal(tmp_path / writer, writer) as book:
            book.sent(1, "d", 1.0)
    assert [e.key for e in read_ledger([tmp_path / "a", tmp_path / "b"])] == [("a", 1), ("b", 1)]
    with pytest.raises(Damage, match="one writer"):
        read_ledger([tmp_path / "a", tmp_path / "a"])
