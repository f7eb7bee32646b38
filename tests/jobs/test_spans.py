"""Spans against plain sets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from drkit.jobs.spans import Spans

numbers = st.sets(st.integers(0, 40))


def members(spans: Spans) -> set[int]:
    return {number for first, last in spans.spans for number in range(first, last + 1)}


@given(numbers, numbers, st.integers(0, 41), st.integers(0, 41))
def test_spans_are_sets(one: set[int], other: set[int], low: int, high: int) -> None:
    spans = Spans.of(one)
    assert members(spans) == one
    assert all(a[1] + 1 < b[0] for a, b in zip(spans.spans, spans.spans[1:], strict=False))
    assert members(spans.union(Spans.of(other))) == one | other
    assert members(spans.cut(low, high)) == {n for n in one if low <= n <= high}
    assert members(spans.cut(low)) == {n for n in one if n >= low}
    assert spans.last == max(one, default=None)
    assert (low in spans) == (low in one)
    assert spans.after(low) == min((n for n in one if n > low), default=None)


@given(numbers, st.integers(0, 41))
def test_a_run_ends_before_the_first_number_that_is_missing(one: set[int], at: int) -> None:
    end = Spans.of(one).run_end(at)
    if at not in one:
        assert end is None
    else:
        assert end is not None
        assert set(range(at, end + 1)) <= one and end + 1 not in one
