"""Positions: text form and arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drkit.engines.postgres.lsn import NO_LSN, Lsn, LsnError

positions = st.integers(0, (1 << 64) - 1)
sizes = st.integers(20, 30).map(lambda power: 1 << power)


@given(positions)
def test_text_survives_a_round_trip(value: int) -> None:
    assert Lsn.parse(str(Lsn(value))) == Lsn(value)
    assert Lsn.parse(str(Lsn(value)).lower()) == Lsn(value)


def test_text_is_the_servers() -> None:
    assert str(Lsn(0x16B374D848)) == "16/B374D848"
    assert str(Lsn(0x100000000)) == "1/0"
    assert Lsn.parse("0/0") == NO_LSN
    assert not NO_LSN


@pytest.mark.parametrize(
    "text", ["", "/", "1", "0/123456789", "123456789/0", "-1/0", "1/ 0", "0x1/0", "G/0", "1/0\n", "١/0"]
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(LsnError):
        Lsn.parse(text)


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_64_bits_hold_every_position(value: int) -> None:
    with pytest.raises(LsnError):
        Lsn(value)


@given(positions, sizes)
def test_segment_and_offset_make_the_position(value: int, size: int) -> None:
    lsn = Lsn(value)
    assert lsn.segment(size) * size + lsn.offset(size) == value
    assert lsn.segment_start(size) + lsn.offset(size) == lsn
    assert lsn - lsn.segment_start(size) == lsn.offset(size)


@given(st.integers(1, (1 << 40)), sizes)
def test_an_end_belongs_to_the_segment_of_its_last_byte(value: int, size: int) -> None:
    assert Lsn(value).segment_before(size) == Lsn(value - 1).segment(size)
    assert Lsn(value) - 1 == Lsn(value - 1)


@given(positions, positions)
def test_order_is_that_of_the_numbers(a: int, b: int) -> None:
    assert (Lsn(a) < Lsn(b)) == (a < b)
