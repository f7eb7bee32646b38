"""The spool: debts outlive processes, sealed bytes outlive nothing else, memos only save time."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drkit.core.errors import Conflict, Damage
from drkit.repository.spool import Spool
from tests.repository.stopped import ACTS, make

NOW = datetime(2026, 3, 1, tzinfo=UTC)


PROJECT = Path(__file__).parents[2]


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


def files(spool: Spool) -> set[str]:
    return {str(p.relative_to(spool.folder)) for p in spool.folder.rglob("*") if p.is_file() and p.name != "lock"}


_STOPS = """
import os, signal, sys
from pathlib import Path
from drkit.repository.spool import Spool
from tests.repository.test_spool import make

spool, count, (debt, blob) = Spool(Path(sys.argv[1])), int(sys.argv[2]), make("b")
seen = 0
def wrap(real):
    def call(*args, **named):
        global seen
        seen += 1
        if seen == count + 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        return real(*args, **named)
    return call
for name in ("open", "link", "replace", "rename", "unlink", "fsync", "close"):
    setattr(os, name, wrap(getattr(os, name)))
try:
    exec(sys.argv[3])
except Exception as error:
    if "FileNotFound" not in repr(error.__cause__):  # its unfinished file was swept: then nothing was owed
        raise
"""


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
    with spool.paying(NOW) as ours, Spool(spool.folder).paying(NOW + timedelta(seconds=59)) as theirs:
        assert ours and not theirs
    with spool.paying(NOW) as again:
        assert again


def test_a_payer_that_is_stopped_does_not_keep_debts_from_being_paid(spool: Spool) -> None:
    other = Spool(spool.folder)
    with spool.paying(NOW) as ours:
        spool.pays(NOW + timedelta(seconds=30))
        with other.paying(NOW + timedelta(seconds=89)) as too_early:
            assert ours and not too_early
        with other.paying(NOW + timedelta(seconds=91)) as silent:
            assert silent
        with other.paying(NOW - timedelta(hours=1)) as set_back:
            assert set_back


@pytest.mark.parametrize("act", sorted(ACTS))
@pytest.mark.parametrize("owed", ["owed", "unowed"])
def test_a_process_that_is_stopped_at_any_point_holds_nobody_up(tmp_path: Path, act: str, owed: str) -> None:
    command = [sys.executable, "-m", "tests.repository.stopped", str(tmp_path), act, owed]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 2, "it was stopped at every effect"


def test_bytes_that_were_put_aside_by_who_died_are_found_and_put_back(spool: Spool) -> None:
    debt, blob = make("b")
    spool.owe([debt], blob)
    place = spool.folder / "wal" / "sealed" / debt.ident
    place.rename(place.with_name(f".{debt.ident}.00ff.aside"))
    assert spool.sealed(debt).digest == blob.digest
    spool.sweep()
    assert place.exists()
    place.rename(place.with_name(f".{debt.ident}.00ff.aside"))
    spool.settle(debt)
    spool.sweep()
    assert files(spool) == set()


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
