"""The spool: debts outlive processes, sealed bytes outlive nothing else, memos only save time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import blake3
import pytest

from drkit.core.errors import Conflict, Damage
from drkit.repository.spool import Debt, Spool
from drkit.repository.wal import Blob

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def make(target: str, file: str = "000000010000000000000001", content: bytes = b"x" * 300) -> tuple[Debt, Blob]:
    digest = blake3.blake3(content).digest()
    blob = Blob((content, digest), len(content) + 32, digest)
    return Debt(target, 7, file, "00" * 32, digest.hex(), blob.size_bytes, "2026-03-01T00:00:00Z", "away"), blob


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


def files(spool: Spool) -> set[str]:
    return {str(p.relative_to(spool.folder)) for p in spool.folder.rglob("*") if p.is_file() and p.name != "lock"}


def test_a_debt_is_read_back_by_another_process_with_its_bytes(spool: Spool) -> None:
    debt, blob = make("b")
    spool.owe([debt], blob)
    other = Spool(spool.folder)
    assert list(other.debts("b")) == [debt]
    assert b"".join(other.sealed(debt).parts) == b"".join(blob.parts)
    assert other.targets() == ["b"] and other.count("b") == 1 and other.count("a") == 0


def test_the_bytes_stay_until_the_last_target_has_them(spool: Spool) -> None:
    (first, blob), (second, _) = make("a"), make("b")
    spool.owe([first, second], blob)
    spool.settle(first)
    assert spool.sealed(second).digest == blob.digest
    spool.settle(second)
    assert files(spool) == set()
    spool.settle(second)  # again: nothing happens


def test_debts_come_oldest_wal_first(spool: Spool) -> None:
    for number in (3, 1, 2):
        spool.owe([make("b", f"00000001000000000000000{number}")[0]], make("b")[1])
    assert [debt.file[-1] for debt in spool.debts("b")] == ["1", "2", "3"]


def test_bytes_of_an_owe_that_died_are_replaced_or_swept(spool: Spool) -> None:
    debt, blob = make("b")
    spool.owe([debt], blob)
    sealed = spool.folder / "wal" / "sealed" / debt.ident
    sealed.write_bytes(b"".join(blob.parts)[:-7])
    with pytest.raises(Damage):
        spool.sealed(debt)
    spool.owe([debt], blob)
    assert spool.sealed(debt).digest == blob.digest
    (sealed.parent / "rubbish").write_bytes(b"x")
    spool.sweep()
    assert files(spool) == {f"wal/debts/b/{debt.ident}", f"wal/sealed/{debt.ident}"}


def test_only_one_process_pays(spool: Spool) -> None:
    with spool.paying() as ours, Spool(spool.folder).paying() as theirs:
        assert ours and not theirs
    with spool.paying() as again:
        assert again


def test_a_target_rests_longer_each_time_and_never_for_ever(spool: Spool) -> None:
    spool.failed("b", NOW, "no route")
    assert spool.resting(NOW + timedelta(seconds=9)) == {"b": "no route"}
    assert spool.resting(NOW + timedelta(seconds=10)) == {}
    spool.failed("b", NOW, "no route")
    assert "b" in spool.resting(NOW + timedelta(seconds=19))
    for _ in range(20):
        spool.failed("b", NOW, "no route")
    assert "b" in spool.resting(NOW + timedelta(seconds=119))
    assert spool.resting(NOW + timedelta(seconds=120)) == {}
    assert spool.resting(NOW - timedelta(hours=1)) == {}, "the clock was set back"
    spool.answered("b")
    assert spool.resting(NOW) == {}


def test_a_broken_memo_counts_as_none(spool: Spool) -> None:
    (spool.folder / "resting").mkdir(parents=True)
    (spool.folder / "resting" / "b").write_text("{")
    assert spool.resting(NOW) == {}
    spool.failed("b", NOW, "no route")
    assert "b" in spool.resting(NOW)


def test_another_system_under_a_known_name_is_refused_with_the_way_out(spool: Spool) -> None:
    spool.pin_system("orders", 7)
    spool.pin_system("orders", 7)
    spool.pin_system("billing", 8)
    with pytest.raises(Conflict, match="orders") as refused:
        spool.pin_system("orders", 8)
    assert "systems/orders" in refused.value.cure
